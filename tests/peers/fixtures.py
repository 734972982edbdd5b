"""The peers as pytest fixtures: one of each per worker, started on first use.

Use by `pytest_plugins = ["tests.peers.fixtures"]` in the root conftest. A peer this machine cannot have skips its tests
by name; where the environment says CI, it fails them.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
from playwright.sync_api import Browser, Error, sync_playwright

from tests.peers.chromium import FLAGS, find_chromium
from tests.peers.emulate import Emulate
from tests.peers.moto import Moto
from tests.peers.oauth1 import OAuth1Provider
from tests.peers.oidc import OidcProvider
from tests.peers.postgres import Postgres
from tests.peers.process import Peer, PeerUnavailable
from tests.peers.upstream import Upstream
from tests.peers.valkey import Valkey

P = TypeVar("P", bound=Peer)


def drivers() -> list[int]:
    """The playwright drivers that this process started and that still run."""
    found = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    return [int(pid) for pid in found if b"playwright/driver" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def end(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cannot_have(what: str, why: str) -> NoReturn:
    message = f"NO {what.upper()} ON THIS MACHINE, so this was NOT tested: {why}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def serve(peer: P) -> Iterator[P]:
    """Runs a peer for as long as a fixture lasts; skips where this machine cannot have it."""
    try:
        peer.start()
    except PeerUnavailable as error:
        cannot_have(peer.name, str(error))
    try:
        yield peer
    finally:
        peer.stop()


@pytest.fixture(scope="session")
def emulate() -> Iterator[Emulate]:
    """GitHub, Google, Slack, Microsoft. `allow(redirect_uri)` before a flow that comes back to a port of its own."""
    yield from serve(Emulate())


@pytest.fixture(scope="session")
def oidc_provider() -> Iterator[OidcProvider]:
    """Strict OAuth; `reset()` it first, other tests count and break it too."""
    yield from serve(OidcProvider())


@pytest.fixture(scope="session")
def oauth1_provider() -> Iterator[OAuth1Provider]:
    """OAuth 1.0a; `reset()` it first, other tests count and break it too."""
    yield from serve(OAuth1Provider())


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """S3. Each test makes a bucket of its own."""
    yield from serve(Moto())


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """An empty PostgreSQL, beside whatever database the suite runs on."""
    yield from serve(Postgres())


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """Broker and cache."""
    yield from serve(Valkey())


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    """The API that misbehaves; `reset()` it before counting."""
    yield from serve(Upstream())


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser; make a `new_context()` per test, since contexts share nothing.

    Playwright's synchronous API keeps an event loop running in this thread, which Django takes for asynchronous code
    and refuses the ORM in; the variable says that we know better. It must stay set until the browser is gone.
    """
    binary = find_chromium()
    if binary is None:
        cannot_have("Chromium", "not on the PATH, and JACKFIELD_CHROMIUM names none")
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with contextlib.suppress(Error), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=FLAGS)
        yield browser
        # Once its browser has ended, the driver has been seen to wait for ever: the tests are over by then.
        guard = threading.Timer(20, end, [drivers()])
        guard.daemon = True
        guard.start()
        browser.close()
    if before is None:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]
