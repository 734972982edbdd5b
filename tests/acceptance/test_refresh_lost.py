"""A refresh whose answer gets lost: the network, or ourselves, ended between the provider's work and our writing it down."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from tests.acceptance.journey import connect_wayward, enable_wayward, execute, new_user, status_of
from tests.acceptance.test_refresh import make_stale
from tests.peers.grace import GraceProvider
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = pytest.mark.acceptance


@pytest.fixture
def provider(product: Product, upstream: Upstream) -> Iterator[GraceProvider]:
    with GraceProvider() as running:
        enable_wayward(product, upstream, token_url=running.token_url)
        yield running


def call(product: Product, user: str, site: str = "") -> requests.Response:
    return execute(product, "WAYWARD_GET", user, site=site, path="echo")


def until(product: Product, user: str, done: Callable[[requests.Response], bool], patience: float = 10) -> float:
    """Calls until it is so; every answer before is 502 with a Retry-After. How many seconds it took."""
    started = time.monotonic()
    while not done(answer := call(product, user)):
        assert answer.status_code == 502, answer.text
        assert 1 <= int(answer.headers["Retry-After"]) <= 61
        assert time.monotonic() - started < patience
        time.sleep(0.2)
    return time.monotonic() - started


def expired(product: Product, connection_id: str) -> None:
    make_stale(product, connection_id, -1)


def test_where_the_provider_forgives_the_same_refresh_token_is_sent_again(
    product: Product, provider: GraceProvider
) -> None:
    connection_id = connect_wayward(product, user := new_user())
    expired(product, connection_id)
    provider.lose = 1
    assert call(product, user).status_code == 502
    assert status_of(product, connection_id) == "active"
    until(product, user, lambda answer: answer.status_code == 200)
    assert provider.asked == ["refresh-1", "refresh-1"]
    assert status_of(product, connection_id) == "active"


def test_the_old_token_serves_while_it_is_valid_and_the_answer_is_lost(
    product: Product, provider: GraceProvider
) -> None:
    connection_id = connect_wayward(product, user := new_user())
    make_stale(product, connection_id, 20)  # within the minute before the expiry
    provider.lose = 1
    deadline = time.monotonic() + 15
    while len(provider.asked) < 2:
        answer = call(product, user)
        assert answer.status_code == 200, answer.text
        assert time.monotonic() < deadline
        time.sleep(0.2)
    seen = call(product, user).json()["data"]["headers"]["authorization"]
    assert seen == "Bearer access-3"  # the second was lost
    assert provider.asked == ["refresh-1", "refresh-1"]


def test_where_the_provider_does_not_forgive_the_person_is_asked_once_and_the_provider_no_more(
    product: Product, provider: GraceProvider
) -> None:
    provider.lenient = False
    connection_id = connect_wayward(product, user := new_user())
    expired(product, connection_id)
    provider.lose = 1
    assert call(product, user).status_code == 502
    until(product, user, lambda answer: answer.status_code == 401)
    for _ in range(5):
        error = call(product, user).json()["error"]
        assert error["code"] == "INTEGRATIONS_CONNECTION_EXPIRED"
        assert error["details"]["reconnectUrl"] in error["remediation"]
    assert provider.asked == ["refresh-1", "refresh-1"]
    assert status_of(product, connection_id) == "expired"


def test_a_network_that_goes_on_losing_answers_ends_no_connection_and_makes_no_storm(
    product: Product, provider: GraceProvider
) -> None:
    connection_id = connect_wayward(product, user := new_user())
    expired(product, connection_id)
    provider.lose = 1000
    ends = time.monotonic() + 6
    while time.monotonic() < ends:
        assert call(product, user).status_code == 502
    assert 1 < len(provider.asked) <= 5  # pauses of one to two, two to four, four to eight seconds
    assert status_of(product, connection_id) == "active"
    provider.lose = 0
    until(product, user, lambda answer: answer.status_code == 200, patience=20)
    assert set(provider.asked) == {"refresh-1"}


def test_a_process_killed_before_it_could_write_the_answer_down_holds_nobody_up_for_long(
    product: Product, provider: GraceProvider
) -> None:
    """Its lease runs out after 20 s, and the next caller asks with the token that the row has."""
    connection_id = connect_wayward(product, user := new_user())
    site = product.more_web(1)[0]
    provider.hold = threading.Event()
    expired(product, connection_id)
    victim = threading.Thread(target=lambda: _swallow(lambda: call(product, user, site)))
    victim.start()
    assert provider.worked.wait(40)
    process = product.further[-1]
    children = [pid for pid, command in product.processes().items() if f"--port {site.rpartition(':')[2]} " in command]
    process.send_signal(signal.SIGKILL)
    _kill(children)
    provider.hold.set()
    provider.hold = None
    victim.join()
    product.further.remove(process)
    process.wait(5)
    started = time.monotonic()
    answer = call(product, user)
    assert answer.status_code == 200, answer.text
    assert time.monotonic() - started < 22
    assert provider.asked == ["refresh-1", "refresh-1"]
    assert status_of(product, connection_id) == "active"


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _swallow(work: Callable[[], object]) -> None:
    with contextlib.suppress(requests.RequestException):
        work()
