"""The circuit breaker: when it opens, what it lets through, and that it forgets."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from apps.lib import breaker
from apps.lib.errors import CircuitOpen

KEY = "proj_a https://api.example"


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    found = Clock()
    monkeypatch.setattr(breaker, "clock", found)
    monkeypatch.setattr(breaker, "jitter", lambda low, high: 1.0)
    breaker._circuits.clear()
    yield found
    breaker._circuits.clear()


def fail(times: int, key: str = KEY) -> None:
    for _ in range(times):
        breaker.before(key)
        breaker.failed(key)


def refused(key: str = KEY) -> int:
    """Asserts that a call is refused; the seconds it is told to wait."""
    with pytest.raises(CircuitOpen) as caught:
        breaker.before(key)
    assert caught.value.retry_after is not None
    return caught.value.retry_after


def test_the_eighth_failure_in_a_row_opens() -> None:
    fail(7)
    breaker.before(KEY)
    breaker.failed(KEY)
    assert refused() == 5


def test_one_success_in_between_begins_the_count_anew() -> None:
    for _ in range(10):
        fail(7)
        breaker.succeeded(KEY)
    fail(7)
    breaker.before(KEY)


def test_failures_long_ago_are_not_in_a_row(clock: Clock) -> None:
    for _ in range(20):
        fail(1)
        clock.sleep(breaker.FORGOTTEN_AFTER + 1)


def test_the_error_says_502_with_the_code_of_a_host_that_cannot_be_reached() -> None:
    fail(8)
    with pytest.raises(CircuitOpen) as caught:
        breaker.before(KEY)
    assert (caught.value.status, caught.value.code) == (502, "INTEGRATIONS_EXECUTION_FAILED")


def test_another_tenant_and_another_host_are_not_concerned() -> None:
    fail(8)
    breaker.before("proj_b https://api.example")
    breaker.before("proj_a https://other.example")


def test_after_the_pause_one_call_probes_and_the_others_go_on_failing(clock: Clock) -> None:
    fail(8)
    clock.sleep(4.9)
    assert refused() == 1
    clock.sleep(0.2)
    breaker.before(KEY)
    assert [refused() for _ in range(3)] == [1, 1, 1]
    breaker.succeeded(KEY)
    fail(7)
    breaker.before(KEY)


def test_of_many_threads_exactly_one_probes(clock: Clock) -> None:
    fail(8)
    clock.sleep(6)
    gate = threading.Barrier(64)

    def call() -> bool:
        gate.wait()
        try:
            breaker.before(KEY)
        except CircuitOpen:
            return False
        return True

    with ThreadPoolExecutor(64) as pool:
        assert sum(future.result() for future in [pool.submit(call) for _ in range(64)]) == 1


def test_each_failed_probe_doubles_the_pause_up_to_a_minute(clock: Clock) -> None:
    fail(8)
    pauses = []
    for _ in range(6):
        pauses.append(refused())
        clock.sleep(pauses[-1])
        fail(1)
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_after_a_recovery_the_pause_is_short_again(clock: Clock) -> None:
    fail(8)
    for pause in (5, 10, 20):
        clock.sleep(pause)
        fail(1)
    clock.sleep(40)
    breaker.before(KEY)
    breaker.succeeded(KEY)
    fail(8)
    assert refused() == 5


def test_stragglers_do_not_prolong_the_pause(clock: Clock) -> None:
    fail(8)
    clock.sleep(3)
    for _ in range(56):
        breaker.failed(KEY)
    assert refused() == 2


def test_a_probe_that_was_not_sent_leaves_its_place_to_the_next_call(clock: Clock) -> None:
    fail(8)
    clock.sleep(5)
    breaker.before(KEY)
    assert refused() == 1
    breaker.abandoned(KEY)
    breaker.before(KEY)
    assert refused() == 1


def test_a_probe_of_which_nothing_is_heard_is_followed_by_another(clock: Clock) -> None:
    fail(8)
    clock.sleep(5)
    breaker.before(KEY)
    clock.sleep(breaker.PROBE_PATIENCE)
    breaker.before(KEY)


def test_a_provider_that_loses_one_call_in_twenty_is_never_shut_off() -> None:
    chance = random.Random(3)
    under_way: list[bool] = []
    for _ in range(50_000):
        breaker.before(KEY)
        under_way.append(chance.random() < 0.05)
        if len(under_way) >= 64:
            lost = under_way.pop(chance.randrange(64))
            (breaker.failed if lost else breaker.succeeded)(KEY)


def test_the_pause_varies_by_a_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "jitter", random.Random(1).uniform)
    pauses = []
    for number in range(200):
        fail(8, f"host {number}")
        pauses.append(breaker._circuits[f"host {number}"].open_until - 1000)
    assert 4 <= min(pauses) < 4.2
    assert 5.8 < max(pauses) <= 6


def test_memory_is_bounded() -> None:
    for number in range(breaker.MOST + 500):
        breaker.failed(f"host {number}")
    assert len(breaker._circuits) <= breaker.MOST
    assert f"host {breaker.MOST + 499}" in breaker._circuits


def test_a_healthy_host_leaves_nothing_behind() -> None:
    breaker.before(KEY)
    breaker.succeeded(KEY)
    assert breaker._circuits == {}
