"""Providers' own limits: what answers tell of them, and which calls are held back for it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest

from apps.connections import pace
from apps.lib import shared
from apps.lib.errors import ProviderLimited
from apps.toolkits.spec import Toolkit
from tests.peers.valkey import Valkey

EPOCH = 1_700_000_000
Headers = list[tuple[str, str]]


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    found = Clock()
    monkeypatch.setattr(pace, "clock", found)
    monkeypatch.setattr(pace, "wall_clock", lambda: EPOCH + found.now - 500)
    pace._accounts.clear()
    yield found
    pace._accounts.clear()


def toolkit(**names: Any) -> Toolkit:
    scheme = {"type": "bearer"}
    return Toolkit.model_validate({"slug": "lab", "name": "Lab", "auth": [scheme], "rate_limit": names})


LAB = toolkit()


def told(limit: int | None, remaining: int, reset: float | str | None) -> Headers:
    found = [("X-RateLimit-Remaining", str(remaining))]
    found += [("X-RateLimit-Limit", str(limit))] if limit is not None else []
    return found + ([("X-RateLimit-Reset", str(reset))] if reset is not None else [])


def call(headers: Headers = [], status: int = 200, kit: Toolkit = LAB, **more: str) -> None:  # noqa: B006 - not changed
    """One call that is answered so. Raises `ProviderLimited`."""
    pace.before("ca_1", kit, **more)
    pace.learn("ca_1", kit, status, headers, **more)


def refused(kit: Toolkit = LAB, connection: str = "ca_1", **more: str) -> int:
    """Asserts that a call is held back; the seconds it is told to wait."""
    with pytest.raises(ProviderLimited) as caught:
        pace.before(connection, kit, **more)
    assert caught.value.retry_after is not None
    return caught.value.retry_after


def passes(**more: str) -> None:
    pace.before("ca_1", LAB, **more)
    pace.ended("ca_1", **more)


# -- What headers say ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("names", "headers"),
    [
        pytest.param({}, told(60, 0, EPOCH + 30), id="epoch"),
        pytest.param({}, told(60, 0, (EPOCH + 30) * 1000), id="milliseconds"),
        pytest.param({}, told(60, 0, 30), id="seconds"),
        pytest.param({}, told(60, 0, "30.0"), id="fraction"),
        pytest.param({}, told(None, 0, 30), id="no limit"),
        pytest.param({}, [(name.lower(), value) for name, value in told(60, 0, 30)], id="small letters"),
        pytest.param({}, [("X-Rate-Limit-Remaining", "0"), ("X-Rate-Limit-Reset", str(EPOCH + 30))], id="x-rate-limit"),
        pytest.param(
            {},
            [("RateLimit-Limit", "60, 60;w=60"), ("RateLimit-Remaining", "0"), ("RateLimit-Reset", "30")],
            id="draft headers",
        ),
        pytest.param({}, [("RateLimit", "limit=60, remaining=0, reset=30")], id="draft in one"),
        pytest.param(
            {},
            [("RateLimit", '"day";r=900;t=80000, "burst";r=0;t=30'), ("RateLimit-Policy", '"burst";q=60;w=60')],
            id="draft with policies",
        ),
        pytest.param(
            {"limit": "X-Max", "remaining": "X-Left", "reset": "X-When", "reset_format": "seconds"},
            [("X-Max", "60"), ("X-Left", "0"), ("X-When", "30")],
            id="own names",
        ),
        pytest.param(
            {"remaining": "X-Left", "reset": "X-When", "reset_format": "iso"},
            [("X-Left", "0"), ("X-When", "2023-11-14T22:13:50Z")],
            id="iso",
        ),
        pytest.param(
            {}, [*told(60, 0, EPOCH + 5030), ("Date", formatdate(EPOCH + 5000, usegmt=True))], id="another clock"
        ),
    ],
)
def test_a_reset_is_understood(names: dict[str, str], headers: Headers, clock: Clock) -> None:
    kit = toolkit(**names)
    call(headers, kit=kit)
    assert refused(kit) == 30
    clock.sleep(29)
    assert refused(kit) == 1
    clock.sleep(1.1)
    call(kit=kit)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param(told(60, 0, EPOCH - 5), id="past"),
        pytest.param(told(60, 0, 0), id="now"),
        pytest.param(told(60, 0, EPOCH + 86_401), id="more than a day away"),
        pytest.param(told(60, 0, "soon"), id="words"),
        pytest.param(told(60, 0, "9" * 400), id="endless digits"),
        pytest.param(told(60, 0, "nan"), id="no number"),
        pytest.param([("X-RateLimit-Remaining", "none"), ("X-RateLimit-Reset", "30")], id="remaining no number"),
        pytest.param([("X-RateLimit-Reset", "30")], id="no remaining"),
        pytest.param([("RateLimit", ",;=,r=;t")], id="broken draft"),
        pytest.param(told(60, 59, 30), id="plenty"),
    ],
)
def test_what_makes_no_sense_or_no_difference_holds_nothing_back(headers: Headers) -> None:
    call(headers)
    for _ in range(20):
        passes()


def test_of_a_toolkits_own_names_the_usual_ones_are_not_believed() -> None:
    kit = toolkit(limit="X-Max", remaining="X-Left")
    call(told(60, 0, 30), kit=kit)
    call(kit=kit)


def test_a_count_without_a_reset_is_believed_for_a_second(clock: Clock) -> None:
    call(told(100, 0, None))
    assert refused() == 1
    clock.sleep(1.01)
    call(told(100, 99, None))
    passes()


def test_the_error_is_429_with_the_code_of_a_limit() -> None:
    call(told(60, 0, 30))
    with pytest.raises(ProviderLimited, match="Lab's own limit") as caught:
        pace.before("ca_1", LAB)
    assert (caught.value.status, caught.value.code) == (429, "QUOTA_RATE_LIMIT")


# -- Before the wall -------------------------------------------------------------------------------------------------
def test_other_connections_are_not_concerned() -> None:
    call(told(60, 0, 30))
    pace.before("ca_2", LAB)


def test_calls_under_way_are_taken_off_what_is_left() -> None:
    call(told(10, 3, 30))
    for _ in range(3):
        pace.before("ca_1", LAB)
    assert refused() == 1
    pace.ended("ca_1")
    pace.before("ca_1", LAB)
    assert refused() == 1


def test_the_last_tenth_is_spaced_evenly_up_to_the_reset(clock: Clock) -> None:
    call(told(100, 9, 90))
    times: list[float] = []
    waits: set[int | None] = set()
    for _ in range(900):
        try:
            call(told(100, 9 - len(times) - 1, round(590 - clock.now)))
            times.append(round(clock.now - 500, 1))
        except ProviderLimited as error:
            waits.add(error.retry_after)
        clock.sleep(0.1)
    assert len(times) == 9
    assert waits <= set(range(1, 12))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert all(9 <= gap <= 11.5 for gap in gaps), times


def test_above_the_last_tenth_nothing_is_spaced() -> None:
    call(told(100, 99, 90))
    for left in range(98, 9, -1):
        call(told(100, left, 90))
    assert pace._accounts["ca_1"].windows[""].least == 10


def test_a_burst_before_anything_is_known_is_counted_when_its_answers_come() -> None:
    for _ in range(64):
        pace.before("ca_1", LAB)
    pace.learn("ca_1", LAB, 200, told(100, 99, 90))
    granted = 0
    while True:
        try:
            pace.before("ca_1", LAB)
        except ProviderLimited:
            break
        granted += 1
    assert 20 <= granted <= 36


def test_after_the_reset_one_call_goes_ahead_and_the_others_follow_its_answer(clock: Clock) -> None:
    call(told(60, 0, 30))
    refused()
    clock.sleep(30.1)
    pace.before("ca_1", LAB)
    assert [refused() for _ in range(3)] == [1, 1, 1]
    pace.learn("ca_1", LAB, 200, told(60, 59, 60))
    for _ in range(20):
        pace.before("ca_1", LAB)


def test_a_reset_before_which_nobody_was_held_back_holds_nobody_back_after_it(clock: Clock) -> None:
    call(told(60, 40, 30))
    clock.sleep(30.1)
    for _ in range(64):
        pace.before("ca_1", LAB)


def test_a_probe_without_an_answer_is_followed_by_another(clock: Clock) -> None:
    call(told(60, 0, 30))
    refused()
    clock.sleep(30.1)
    pace.before("ca_1", LAB)
    refused()
    clock.sleep(pace.PROBE_PATIENCE)
    pace.before("ca_1", LAB)


def test_a_new_window_that_begins_early_is_believed(clock: Clock) -> None:
    call(told(60, 2, 30))
    clock.sleep(20)
    call(told(60, 59, 60))
    for _ in range(40):
        pace.before("ca_1", LAB)


def test_an_answer_that_was_overtaken_does_not_raise_the_count() -> None:
    pace.before("ca_1", LAB)
    pace.before("ca_1", LAB)
    pace.learn("ca_1", LAB, 200, told(10, 2, 30))
    pace.learn("ca_1", LAB, 200, told(10, 3, 30))
    pace.before("ca_1", LAB)
    pace.before("ca_1", LAB)
    refused()


# -- 429 -------------------------------------------------------------------------------------------------------------
def test_a_429_closes_for_its_retry_after(clock: Clock) -> None:
    call([("Retry-After", "20")], 429)
    assert refused() == 20
    clock.sleep(20.1)
    pace.before("ca_1", LAB)
    assert refused() == 1
    pace.learn("ca_1", LAB, 200, [])
    passes()
    assert pace._accounts["ca_1"].windows == {}


def test_a_retry_after_by_date_and_one_of_the_toolkits_own_name_count() -> None:
    call([("Retry-After", formatdate(time.time() + 20, usegmt=True))], 429)
    assert 19 <= refused() <= 21
    pace._accounts.clear()
    kit = toolkit(retry_after="X-Wait")
    call([("X-Wait", "33")], 429, kit=kit)
    assert refused(kit) == 33


def test_an_hour_is_the_longest() -> None:
    call([("Retry-After", "1000000")], 429)
    assert refused() == 3600


def test_a_403_closes_only_with_a_retry_after() -> None:
    call([], 403)
    passes()
    call([("Retry-After", "60")], 403)
    assert refused() == 60


def test_a_503_is_the_callers_to_read() -> None:
    call([("Retry-After", "60")], 503)
    passes()


def test_a_429_without_a_time_closes_for_a_second_doubled_up_to_a_minute(clock: Clock) -> None:
    pauses = []
    for _ in range(8):
        call([], 429)
        pauses.append(refused())
        clock.sleep(pauses[-1])
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    call([], 200)
    call([], 429)
    assert refused() == 1


def test_many_429_at_once_count_as_one() -> None:
    for _ in range(64):
        pace.before("ca_1", LAB)
    for _ in range(64):
        pace.learn("ca_1", LAB, 429, [])
    assert refused() == 1


def test_a_429_whose_window_is_spent_closes_until_the_reset() -> None:
    call(told(60, 0, 45), 429)
    assert refused() == 45


# -- Resources and routes --------------------------------------------------------------------------------------------
def github(resource: str, remaining: int, limit: int = 60) -> Headers:
    return [*told(limit, remaining, EPOCH + 50), ("X-RateLimit-Resource", resource)]


def test_one_resource_spent_does_not_stop_another() -> None:
    call(github("core", 4000, 5000), route="GITHUB_GET_REPO")
    call(github("search", 0), route="GITHUB_SEARCH")
    assert refused(route="GITHUB_SEARCH") == 50
    call(github("core", 3999, 5000), route="GITHUB_GET_REPO")
    passes(route="GITHUB_NEVER_CALLED")


def test_a_route_of_several_resources_is_stopped_when_all_are_spent() -> None:
    call(github("core", 0))
    call_again = github("graphql", 10)
    pace.learn("ca_1", LAB, 200, call_again)
    passes()
    pace.learn("ca_1", LAB, 200, github("graphql", 0))
    refused()


def test_a_limit_without_a_name_is_the_whole_accounts() -> None:
    call(told(60, 0, 30), route="A")
    assert refused(route="B") == 30


def test_a_429_of_one_route_leaves_the_others_until_a_second_one_gets_one() -> None:
    call([("Retry-After", "20")], 429, route="A")
    assert refused(route="A") == 20
    passes(route="B")
    call([("Retry-After", "30")], 429, route="B")
    assert refused(route="C") == 20


# -- Bounds ----------------------------------------------------------------------------------------------------------
def test_memory_is_bounded_and_keeps_what_was_used_last(clock: Clock) -> None:
    for number in range(pace.MOST_CONNECTIONS + 500):
        clock.sleep(0.001)
        pace.before(f"ca_{number}", LAB)
    assert len(pace._accounts) <= pace.MOST_CONNECTIONS
    assert f"ca_{pace.MOST_CONNECTIONS + 499}" in pace._accounts
    assert "ca_0" not in pace._accounts


def test_a_provider_that_invents_resources_and_a_caller_that_invents_routes_fill_no_memory() -> None:
    for number in range(500):
        for name in ("r" * 1000, f"r{number}"):
            call([*told(60, 50, 30), ("X-RateLimit-Resource", name)], route=f"route {number}")
    account = pace._accounts["ca_1"]
    assert len(account.windows) <= pace.MOST_RESOURCES
    assert len(account.routes) <= pace.MOST_ROUTES + 1
    assert max(len(name) for name in account.windows) <= pace.MOST_NAME


def test_calls_that_never_ended_are_forgotten(clock: Clock) -> None:
    for _ in range(64):
        pace.before("ca_1", LAB)
    pace.learn("ca_1", LAB, 200, told(60, 59, 30))
    refused()
    clock.sleep(pace.FORGOTTEN_AFTER + 1)
    call(told(60, 59, 30))
    pace.before("ca_1", LAB)


# -- The wall itself -------------------------------------------------------------------------------------------------
class Provider:
    """Permits so many calls a window, and counts those it refuses."""

    def __init__(self, clock: Clock, limit: int, seconds: float) -> None:
        self.clock, self.limit, self.seconds = clock, limit, seconds
        self.begun, self.used, self.served, self.refused = clock.now, 0, 0, 0

    def answer(self) -> tuple[int, Headers]:
        if self.clock.now >= self.begun + self.seconds:
            self.begun, self.used = self.clock.now, 0
        reset = max(1, round(self.begun + self.seconds - self.clock.now))
        if self.used >= self.limit:
            self.refused += 1
            return 429, [*told(self.limit, 0, reset), ("Retry-After", str(reset))]
        self.used += 1
        self.served += 1
        return 200, told(self.limit, self.limit - self.used, reset)


@pytest.mark.parametrize("limit", [100, 300, 1000])
def test_sixty_four_callers_never_meet_the_wall_and_use_most_of_what_there_is(limit: int, clock: Clock) -> None:
    provider = Provider(clock, limit, 60)
    chance = random.Random(7)
    under_way: list[tuple[int, Headers]] = []
    held_back = 0
    for _ in range(60_000):
        clock.sleep(0.005)
        if under_way and (len(under_way) >= 64 or chance.random() < 0.5):  # answers come in any order
            status, headers = under_way.pop(chance.randrange(len(under_way)))
            pace.learn("ca_1", LAB, status, headers)
        else:
            try:
                pace.before("ca_1", LAB)
            except ProviderLimited:
                held_back += 1
            else:
                under_way.append(provider.answer())
    assert provider.refused == 0
    assert held_back > 1000
    assert provider.served >= 0.85 * 5 * limit


# -- Over processes --------------------------------------------------------------------------------------------------
@pytest.fixture
def in_valkey(valkey: Valkey, settings: Any) -> Iterator[None]:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": valkey.url}}
    shared.Command("return redis.call('FLUSHDB')")([], [])
    yield
    shared.Command("return redis.call('FLUSHDB')")([], [])


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Changes to another process's memory."""
    memories: dict[int, dict[str, Any]] = {}

    def change(number: int) -> None:
        monkeypatch.setattr(pace, "_accounts", memories.setdefault(number, {}))

    return change


def test_processes_share_what_is_left_near_the_wall(in_valkey: None, processes: Callable[[int], None]) -> None:
    granted = 0
    for number in (1, 2, 3):
        processes(number)
        call(told(10, 6, 30))
    for turn in range(30):
        processes(1 + turn % 3)
        try:
            pace.before("ca_1", LAB)
            granted += 1
        except ProviderLimited:
            continue
    assert granted == 6


def test_without_redis_each_process_counts_for_itself(processes: Callable[[int], None]) -> None:
    for number in (1, 2):
        processes(number)
        call(told(10, 2, 30))
        pace.before("ca_1", LAB)
        pace.before("ca_1", LAB)
        refused()


def test_a_redis_that_is_gone_holds_nothing_back(settings: Any) -> None:
    gone = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}
    settings.CACHES = {"default": gone}
    call(told(10, 2, 30))
    pace.before("ca_1", LAB)
    pace.before("ca_1", LAB)
    refused()


def test_far_from_the_wall_nobody_is_asked(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*args: Any) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(pace, "TAKE", ask)
    call(told(5000, 4000, 30))
    for _ in range(100):
        passes()
