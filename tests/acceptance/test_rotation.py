"""The encryption key is changed while people call and tokens are refreshed: no call fails, and the old key can go."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from apps.lib.vault import new_key, parse_keys
from tests.acceptance.journey import connect_strict, enable_strict, execute, new_user
from tests.peers.oidc import OidcProvider
from tests.product import ROOT, Product

pytestmark = pytest.mark.acceptance
CALLERS = 4


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Product]:
    """A product whose keys a test may change."""
    running = Product(tmp_path / "home", JACKFIELD_EGRESS_ALLOW="127.0.0.0/8")
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def strict(oidc_provider: OidcProvider) -> Iterator[OidcProvider]:
    """The strict provider, whose tokens live two seconds, so that somebody refreshes at any time."""
    oidc_provider.reset()
    oidc_provider.set_ttl(access=2)
    yield oidc_provider
    oidc_provider.reset()


class Load:
    """Calls without a pause for every user, at whichever sites serve just now."""

    def __init__(self, product: Product, users: list[str], sites: list[str], callers: int = CALLERS) -> None:
        self.product, self.users, self.sites = product, users, sites
        self.answers: Counter[int] = Counter()
        self.failed: list[str] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._call, args=(number,)) for number in range(callers)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def _call(self, number: int) -> None:
        turn = number
        while not self.stopping.wait(0.01):
            turn += 1
            user, site = self.users[turn % len(self.users)], self.sites[turn // 2 % len(self.sites)]
            try:
                answer = execute(self.product, "STRICT_GET_ME", user, site=site)
            except requests.RequestException as error:
                self.failed.append(repr(error))
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code != 200:
                self.failed.append(answer.text)

    def move_to(self, sites: list[str]) -> None:
        """New calls go to other processes; those under way there have ended when this returns."""
        self.sites = sites
        time.sleep(2)

    def goes_well(self, seconds: float) -> None:
        """Goes on for a while, with many calls and not one failure."""
        before = self.answers[200]
        time.sleep(seconds)
        deadline = time.monotonic() + 20
        while self.answers[200] <= before + 5 and time.monotonic() < deadline:
            time.sleep(0.1)  # a busy machine
        assert self.failed == []
        assert self.answers[200] > before + 5


def rotate(product: Product, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", "rotate_keys", *options]
    return subprocess.run(
        command, cwd=ROOT, env=product.running_environment, capture_output=True, text=True, timeout=120, check=False
    )


def users_of(product: Product, provider: OidcProvider) -> list[str]:
    enable_strict(product, provider)
    users = [new_user() for _ in range(3)]
    for user in users:
        connect_strict(product, provider, user)
    return users


def refreshes(provider: OidcProvider) -> int:
    return int(provider.counts()["success"].get("refresh_token", 0))


def with_keys(product: Product, keys: str, count: int = 1) -> list[str]:
    """Further web processes with another ring."""
    product.given["JACKFIELD_ENCRYPTION_KEYS"] = keys
    return product.more_web(count)


def refuses(product: Product, site: str, user: str) -> bool:
    """Whether a process with that ring alone cannot use the account, and says nothing of it."""
    answer = execute(product, "STRICT_GET_ME", user, site=site)
    return answer.status_code == 500 and "jf1" not in answer.text


def test_a_new_key_comes_into_use_without_a_restart(own: Product, strict: OidcProvider) -> None:
    own.start()
    users = users_of(own, strict)
    file = own.home / "encryption_keys"
    old = file.read_text().strip()
    with Load(own, users, [own.url, *own.more_web(1)]) as load:
        load.goes_well(1.5)
        done = rotate(own, "--new")
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(parse_keys(file.read_text())) == ["dev2", "dev1"]
        load.goes_well(1.5)
        assert rotate(own, "--check").returncode == 0
        assert rotate(own, "--remove-old").stdout == "Removed: dev1.\n"
        assert list(parse_keys(file.read_text())) == ["dev2"]
        load.goes_well(4.5)  # longer than a process goes by what it read before
    assert refreshes(strict) >= 6
    assert strict.counts()["error"] == {}
    assert rotate(own, "--check").returncode == 0
    assert refuses(own, with_keys(own, old)[0], users[0])


def test_keys_of_the_environment_are_changed_process_by_process(own: Product, strict: OidcProvider) -> None:
    """As docs/operations.md has it: both keys everywhere, then the new one first everywhere, then the old one goes."""
    old, new = new_key("k1"), new_key("k2")
    own.given["JACKFIELD_ENCRYPTION_KEYS"] = old
    own.start()
    users = users_of(own, strict)
    with Load(own, users, [own.url]) as load:
        load.goes_well(1)
        both = with_keys(own, f"{old},{new}")
        load.move_to([own.url, *both])
        load.move_to(both)
        assert own.process is not None
        own.process.send_signal(signal.SIGINT)
        own.process.wait(15)
        turned = with_keys(own, f"{new},{old}")
        load.move_to([*both, *turned])  # some encrypt under the one key, some under the other
        load.goes_well(1.5)
        rotate(own)
        load.goes_well(1)
        load.move_to(turned)
        done = rotate(own)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Needed by nothing any more: k1." in done.stdout
        assert rotate(own, "--check").returncode == 0
        load.move_to(with_keys(own, new))
        load.goes_well(2.5)
    assert refreshes(strict) >= 6
    assert strict.counts()["error"] == {}
    assert refuses(own, with_keys(own, old)[0], users[0])
    assert load.answers[200] > 50
    print(f"{load.answers[200]} calls and {refreshes(strict)} refreshes while the keys were changed")
