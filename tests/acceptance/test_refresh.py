"""One refresh, however many callers and processes; and what callers get while the provider is down."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.acceptance.journey import (
    come_back,
    connect_strict,
    connect_wayward,
    enable_strict,
    enable_wayward,
    execute,
    new_user,
    query_of,
    status_of,
)
from tests.peers.forms import forms
from tests.peers.oidc import Fault, OidcProvider
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = pytest.mark.acceptance
CALLERS = 50


@pytest.fixture(scope="module")
def sites(product: Product) -> list[str]:
    """Four web processes on the same data."""
    return [product.url, *product.more_web(3)]


@pytest.fixture
def strict(product: Product, oidc_provider: OidcProvider) -> Iterator[OidcProvider]:
    """The strict provider, switched on; tokens live two seconds."""
    enable_strict(product, oidc_provider)
    oidc_provider.reset()
    oidc_provider.set_ttl(access=2)
    yield oidc_provider
    oidc_provider.reset()


def all_at_once(product: Product, sites: list[str], user: str) -> list[requests.Response]:
    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [
            pool.submit(execute, product, "STRICT_GET_ME", user, site=sites[number % len(sites)])
            for number in range(CALLERS)
        ]
        return [call.result() for call in calls]


def refreshes(provider: OidcProvider) -> int:
    return int(provider.counts()["token"].get("refresh_token", 0))


@pytest.mark.parametrize("delay", [0.0, 1.5], ids=["at once", "from a slow provider"])
def test_fifty_callers_of_four_processes_make_one_refresh(
    product: Product, strict: OidcProvider, sites: list[str], delay: float
) -> None:
    user = new_user()
    connect_strict(product, strict, user)
    strict.set_ttl(access=60)
    if delay:
        strict.fault("slow", seconds=delay)
    time.sleep(2.1)
    answers = all_at_once(product, sites, user)
    assert Counter(answer.status_code for answer in answers) == {200: CALLERS}, answers[0].text
    counts = strict.counts()
    assert counts["token"]["refresh_token"] == counts["success"]["refresh_token"] == 1
    assert (counts["error"], counts["denied"]) == ({}, 0)


@pytest.mark.parametrize("fault", ["500", "429", "html"])
def test_while_the_provider_is_down_callers_are_told_and_the_connection_is_kept(
    product: Product, strict: OidcProvider, sites: list[str], fault: Fault
) -> None:
    user = new_user()
    connection_id = connect_strict(product, strict, user)
    strict.fault(fault)
    time.sleep(2.1)
    answers = all_at_once(product, sites, user)
    codes = {(answer.status_code, answer.json()["error"]["code"]) for answer in answers}
    assert codes == {(502, "INTEGRATIONS_EXECUTION_FAILED")}
    assert all(1 <= int(answer.headers["Retry-After"]) <= 61 for answer in answers)
    assert refreshes(strict) <= 3  # backed off: not one try a caller
    assert status_of(product, connection_id) == "active"
    strict.fault(None)
    wait_until_served(product, user)


def wait_until_served(product: Product, user: str, patience: float = 10) -> None:
    deadline = time.monotonic() + patience
    while (answer := execute(product, "STRICT_GET_ME", user)).status_code != 200:
        assert answer.status_code == 502, answer.text
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.3)


def test_the_old_token_serves_on_while_it_is_valid_and_the_provider_is_down(
    product: Product, strict: OidcProvider
) -> None:
    strict.set_ttl(access=100)  # stale ten seconds before it expires
    user = new_user()
    connection_id = connect_strict(product, strict, user)
    strict.fault("500")
    make_stale(product, connection_id, seconds=8)
    started = time.monotonic()
    assert execute(product, "STRICT_GET_ME", user).status_code == 200
    assert refreshes(strict) == 1
    assert execute(product, "STRICT_GET_ME", user).status_code == 200
    assert refreshes(strict) == 1 or time.monotonic() - started > 1  # it is asked again after a second at the earliest


def test_nobody_waits_for_a_slow_refresh_while_the_old_token_is_valid(product: Product, strict: OidcProvider) -> None:
    strict.set_ttl(access=100)
    user = new_user()
    connection_id = connect_strict(product, strict, user)
    make_stale(product, connection_id, seconds=8)
    strict.fault("slow", seconds=2, times=1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(execute, product, "STRICT_GET_ME", user)
        deadline = time.monotonic() + 2
        while not refreshes(strict) and time.monotonic() < deadline:
            time.sleep(0.02)
        started = time.monotonic()
        assert execute(product, "STRICT_GET_ME", user).status_code == 200
        assert time.monotonic() - started < 1
        assert first.result().status_code == 200
    assert refreshes(strict) == 1


def make_stale(product: Product, connection_id: str, seconds: float) -> None:
    """Lets the access token expire in so many seconds, as far as we know."""
    product.run(f"""
from datetime import timedelta
from django.utils import timezone
from apps.connections.models import Connection
Connection.objects.filter(pk="{connection_id}").update(expires_at=timezone.now() + timedelta(seconds={seconds}))
""")


def test_a_lost_answer_is_no_answer_and_is_not_asked_for_twice(product: Product, strict: OidcProvider) -> None:
    """The provider rotated and the answer got lost: the first caller is told to come again.

    The next refresh shows the provider a used token; it kills the grant, and then only the person can mend it.
    """
    user = new_user()
    connection_id = connect_strict(product, strict, user)
    strict.fault("lost", times=1)
    time.sleep(2.1)
    assert execute(product, "STRICT_GET_ME", user).status_code == 502
    assert refreshes(strict) == 1
    assert status_of(product, connection_id) == "active"
    deadline = time.monotonic() + 6
    while (answer := execute(product, "STRICT_GET_ME", user)).status_code == 502:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "INTEGRATIONS_CONNECTION_EXPIRED")


def test_who_lost_the_grant_reconnects_through_the_link_and_keeps_the_id(
    product: Product, strict: OidcProvider, sites: list[str]
) -> None:
    user = new_user()
    connection_id = connect_strict(product, strict, user)
    kill_grant(product, strict, connection_id)
    time.sleep(2.1)
    answers = all_at_once(product, sites, user)
    assert {(a.status_code, a.json()["error"]["code"]) for a in answers} == {(401, "INTEGRATIONS_CONNECTION_EXPIRED")}
    assert refreshes(strict) == 1
    assert status_of(product, connection_id) == "expired"
    error = answers[0].json()["error"]
    link = next(word for word in error["remediation"].split() if word.startswith("http"))
    assert error["details"] == {"connectionId": connection_id, "reconnectUrl": link}

    with requests.Session() as browser:
        page = browser.get(link, timeout=10)
        assert page.status_code == 200
        assert status_of(product, connection_id) == "expired"  # looking at the page changes nothing
        form = forms(page.text)[0]
        away = browser.post(link, data=form.fields, headers={"Referer": link}, allow_redirects=False, timeout=10)
        assert away.status_code == 302
        callback = strict.approve(away.headers["Location"])
        result = query_of(come_back(callback, cookies=browser.cookies))
    assert (result["status"], result["connectionId"]) == ("connected", connection_id)
    assert status_of(product, connection_id) == "active"
    assert execute(product, "STRICT_GET_ME", user).status_code == 200


def kill_grant(product: Product, provider: OidcProvider, connection_id: str) -> None:
    """The person withdraws access at the provider."""
    token = product.run(f"""
from apps.connections.models import Connection
print(Connection.objects.get(pk="{connection_id}").unseal("credentials")["refresh_token"])
""")
    auth = ("basic-client", "basic-secret")
    assert requests.post(provider.revocation_url, data={"token": token}, auth=auth, timeout=10).status_code == 200


def tokens_seen(upstream: Upstream, path: str) -> list[str]:
    return [request["headers"]["authorization"] for request in upstream.requests(path)]


def asked(upstream: Upstream, path: str) -> list[Any]:
    return [request["body"] for request in upstream.requests(path) if "grant_type=refresh_token" in request["body"]]


def test_a_401_forces_one_refresh_and_one_retry(product: Product, upstream: Upstream) -> None:
    upstream.reset()
    enable_wayward(product, upstream)
    user = new_user()
    connect_wayward(product, user)  # with access-1
    answer = execute(product, "WAYWARD_GET", user, path="bearer/access-2")
    assert (answer.status_code, answer.json()["data"]) == (200, {"ok": True})
    assert tokens_seen(upstream, "/bearer/access-2") == ["Bearer access-1", "Bearer access-2"]
    assert len(asked(upstream, "/token/ok")) == 1


def test_a_401_that_stays_is_the_providers_answer(product: Product, upstream: Upstream) -> None:
    upstream.reset()
    enable_wayward(product, upstream)
    user = new_user()
    connection_id = connect_wayward(product, user)
    answer = execute(product, "WAYWARD_POST", user, path="status/401")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "INTEGRATIONS_EXECUTION_FAILED")
    assert error["details"] == {"status": 401, "body": {"status": 401}}
    assert upstream.count("/status/401") == 2
    assert len(asked(upstream, "/token/ok")) == 1
    assert status_of(product, connection_id) == "active"


def test_many_callers_refused_at_once_force_one_refresh(product: Product, upstream: Upstream, sites: list[str]) -> None:
    upstream.reset()
    enable_wayward(product, upstream)
    user = new_user()
    connect_wayward(product, user)
    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [
            pool.submit(execute, product, "WAYWARD_GET", user, site=sites[number % 4], path="bearer/access-2")
            for number in range(CALLERS)
        ]
        answers = [call.result() for call in calls]
    assert Counter(answer.status_code for answer in answers) == {200: CALLERS}
    assert len(asked(upstream, "/token/ok")) == 1
