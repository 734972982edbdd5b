"""The refresh in the background, at a provider that ends the grant of whoever shows a used refresh token."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.acceptance.journey import connect_strict, enable_strict, execute, new_user, status_of
from tests.peers.oidc import OidcProvider
from tests.product import ROOT, Product

pytestmark = pytest.mark.acceptance
ROUNDS, CALLERS, REFRESHERS = 4, 24, 2

REFRESHER = """
import sys
from apps.connections import keepalive
for line in sys.stdin:
    print(dict(keepalive.refresh_some([line.strip()])), flush=True)
"""


@pytest.fixture(scope="module")
def sites(product: Product) -> list[str]:
    return [product.url, *product.more_web(2)]


@pytest.fixture
def strict(product: Product, oidc_provider: OidcProvider) -> Iterator[OidcProvider]:
    enable_strict(product, oidc_provider)
    oidc_provider.reset()
    oidc_provider.set_ttl(access=600)
    yield oidc_provider
    oidc_provider.reset()


@pytest.fixture
def refreshers(product: Product) -> Iterator[list[subprocess.Popen[str]]]:
    """Workers of the background refresh, each a process, that refresh the connection of every line they are given."""
    command = [sys.executable, "manage.py", "shell", "--no-imports", "-c", REFRESHER]
    started = [
        subprocess.Popen(
            command, cwd=ROOT, env=product.running_environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(REFRESHERS)
    ]
    yield started
    for process in started:
        process.communicate(timeout=10)


def expire(product: Product, connection_id: str, seconds: float) -> None:
    product.run(f"""
from datetime import timedelta
from django.utils import timezone
from apps.connections.models import Connection
now = timezone.now()
Connection.objects.filter(pk="{connection_id}").update(expires_at=now + timedelta(seconds={seconds}), refresh_due_at=now)
""")


def ask(process: subprocess.Popen[str], connection_id: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(connection_id + "\n")
    process.stdin.flush()
    return process.stdout.readline()


@pytest.mark.parametrize("seconds", [20, -1], ids=["while it is still good", "when it has expired"])
def test_callers_and_refreshers_of_many_processes_make_one_refresh(
    product: Product, strict: OidcProvider, sites: list[str], refreshers: list[subprocess.Popen[str]], seconds: int
) -> None:
    user = new_user()
    connection_id = connect_strict(product, strict, user)
    for number in range(1, ROUNDS + 1):
        expire(product, connection_id, seconds)
        with ThreadPoolExecutor(CALLERS + REFRESHERS) as pool:
            ahead = [pool.submit(ask, process, connection_id) for process in refreshers]
            calls: list[requests.Response] = list(
                pool.map(
                    lambda caller: execute(product, "STRICT_GET_ME", user, site=sites[caller % len(sites)]),
                    range(CALLERS),
                )
            )
            assert all(future.result() for future in ahead)
        assert Counter(answer.status_code for answer in calls) == {200: CALLERS}, calls[0].text
        counts = strict.counts()
        assert (counts["success"]["refresh_token"], counts["error"]) == (number, {})
    assert status_of(product, connection_id) == "active"


def test_the_worker_refreshes_what_is_due_though_nobody_calls(product: Product, strict: OidcProvider) -> None:
    connection_id = connect_strict(product, strict, new_user())
    expire(product, connection_id, 200)
    product.run("from apps.connections.tasks import keep_alive; keep_alive.delay()")
    deadline = time.monotonic() + 20
    while strict.counts()["success"].get("refresh_token", 0) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    version = product.run(f"""
from apps.connections.models import Connection
row = Connection.objects.get(pk="{connection_id}")
print(row.version, row.refresh_due_at > row.refreshed_at, row.lease_owner == "")
""")
    assert version == "2 True True"
    assert strict.counts()["error"] == {}
