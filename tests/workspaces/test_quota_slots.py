"""Calls at the same time: never more than the plan permits, over processes, and none lost to a process that died."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone

from apps.lib import shared
from apps.lib.errors import RateLimited
from apps.workspaces import quota, slots
from apps.workspaces.audit import Actor
from apps.workspaces.callers import Caller
from apps.workspaces.models import CallSlots, Plan
from tests.api.shop import Shop, fails
from tests.cast import Cast
from tests.peers.valkey import Valkey

FLUSH = shared.Command("return redis.call('FLUSHDB')")


@dataclass
class Process:
    """The memory of one process."""

    holder: str
    held: dict[Any, Any] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Changes to another process's memory."""
    known: dict[str, Process] = {}

    def change(name: str) -> None:
        process = known.setdefault(name, Process(name))
        monkeypatch.setattr(slots, "_holder", process.holder)
        monkeypatch.setattr(slots, "_held", process.held)
        monkeypatch.setattr(slots, "_members", process.members)

    change("one")
    yield change
    slots._dropped.clear()


@pytest.fixture(params=["database", "valkey"])
def store(request: pytest.FixtureRequest, settings: Any) -> Iterator[str]:
    if request.param == "database":
        yield "database"
        return
    valkey: Valkey = request.getfixturevalue("valkey")
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": valkey.url}}
    FLUSH([], [])
    yield "valkey"
    FLUSH([], [])


@pytest.fixture
def caller(cast: Cast) -> Caller:
    cast.workspace.plan = Plan.objects.create(name="Narrow", concurrent_calls=3)
    cast.workspace.save(update_fields=["plan"])
    cast.project.workspace = cast.workspace
    return Caller("member", cast.project, frozenset(), Actor("user:x@example.com"))


def permit(caller: Caller, limit: int | None) -> None:
    caller.plan.concurrent_calls = limit


def refused(caller: Caller) -> None:
    with pytest.raises(RateLimited):
        quota.take_slot(caller)


def under_way(caller: Caller) -> int:
    return slots.under_way(caller.project.workspace_id)


def test_as_many_as_the_plan_says_and_no_more(caller: Caller, store: str) -> None:
    taken = [quota.take_slot(caller) for _ in range(3)]
    with pytest.raises(RateLimited, match="3 calls at the same time") as caught:
        quota.take_slot(caller)
    assert (caught.value.retry_after, caught.value.code, caught.value.status) == (1, "QUOTA_RATE_LIMIT", 429)
    assert under_way(caller) == 3
    taken[0].release()
    taken.append(quota.take_slot(caller))
    refused(caller)


def test_a_slot_given_back_twice_counts_once(caller: Caller, store: str) -> None:
    permit(caller, 2)
    first, _second = quota.take_slot(caller), quota.take_slot(caller)
    for _ in range(3):
        first.release()
    third = quota.take_slot(caller)
    refused(caller)
    third.release()
    assert under_way(caller) == 1


def test_a_block_gives_its_slot_back_whatever_happens(caller: Caller, store: str) -> None:
    permit(caller, 1)
    for _ in range(3):
        with pytest.raises(RateLimited), quota.concurrent(caller):
            quota.take_slot(caller)
    assert under_way(caller) == 0


def test_without_a_limit_nothing_is_asked(caller: Caller, store: str, django_assert_num_queries: Any) -> None:
    permit(caller, None)
    with django_assert_num_queries(0):
        first, second = quota.take_slot(caller), quota.take_slot(caller)
        first.release()
        second.release()
    assert first is second
    assert under_way(caller) == 0


def test_a_limit_of_none_at_all_refuses_every_call(caller: Caller, store: str) -> None:
    permit(caller, 0)
    refused(caller)


@pytest.mark.parametrize("limit", [3, 200])
def test_processes_share_the_limit(caller: Caller, store: str, limit: int, processes: Callable[[str], None]) -> None:
    permit(caller, limit)
    taken = []
    for number in range(limit):
        processes(str(number % 3))
        taken.append(quota.take_slot(caller))
    for number in range(3):
        processes(str(number))
        refused(caller)
    processes("1")
    taken[1].release()
    quota.take_slot(caller)


def test_other_workspaces_are_not_concerned(caller: Caller, cast: Cast, store: str) -> None:
    permit(caller, 1)
    cast.foreign_project.workspace = cast.foreign_workspace
    cast.foreign_workspace.plan = caller.plan
    other = Caller("member", cast.foreign_project, frozenset(), Actor("user:y@example.com"))
    kept = [quota.take_slot(caller), quota.take_slot(other)]
    refused(caller)
    refused(other)
    assert len(kept) == 2


def test_slots_of_a_killed_process_come_back_after_a_minute(
    caller: Caller, store: str, processes: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "LIFETIME", 60 if store == "database" else 1)
    kept = [quota.take_slot(caller) for _ in range(3)]
    processes("another")
    refused(caller)
    if store == "database":
        CallSlots.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    else:
        time.sleep(2.1)
    assert under_way(caller) == 0
    kept += [quota.take_slot(caller) for _ in range(3)]
    refused(caller)


def test_a_process_that_gives_signs_of_life_keeps_its_slots(
    caller: Caller, store: str, processes: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "LIFETIME", 60 if store == "database" else 2)
    kept = [quota.take_slot(caller) for _ in range(3)]
    if store == "database":
        CallSlots.objects.update(expires_at=timezone.now() + timedelta(seconds=1))
        slots.beat()
        assert CallSlots.objects.get().expires_at > timezone.now() + timedelta(seconds=50)
    else:
        for _ in range(4):
            time.sleep(0.7)
            slots.beat()
    processes("another")
    refused(caller)
    processes("one")
    for slot in kept:
        slot.release()
    assert under_way(caller) == 0


def test_signs_of_life_bring_no_slot_back_that_was_given_back(caller: Caller, store: str) -> None:
    kept = [quota.take_slot(caller), quota.take_slot(caller)]
    kept[0].release()
    slots.beat()
    assert under_way(caller) == 1


def test_a_slot_that_was_dropped_is_given_back_by_the_upkeep(caller: Caller, store: str) -> None:
    permit(caller, 1)
    slot = quota.take_slot(caller)
    del slot
    gc.collect()
    slots.keep()
    quota.take_slot(caller).release()
    assert under_way(caller) == 0


def test_at_a_clean_end_nothing_stays_behind(caller: Caller, store: str, processes: Callable[[str], None]) -> None:
    kept = [quota.take_slot(caller), quota.take_slot(caller)]
    processes("another")
    kept.append(quota.take_slot(caller))
    processes("one")
    slots.give_back_all()
    assert under_way(caller) == 1
    kept[0].release()
    assert under_way(caller) == 1


def test_a_limit_that_was_lowered_holds_for_the_next_call(caller: Caller, store: str) -> None:
    permit(caller, 200)
    taken = [quota.take_slot(caller) for _ in range(5)]
    permit(caller, 4)
    refused(caller)
    for slot in taken[:2]:
        slot.release()
    let_idle()  # what a process keeps of the time before goes
    kept = quota.take_slot(caller)
    refused(caller)
    kept.release()


def let_idle() -> None:
    """Five seconds pass without a call."""
    for held in slots._held.values():
        held.used_at -= slots.IDLE_SECONDS
    slots.give_back_idle()


def test_a_small_limit_is_held_exactly_as_used(caller: Caller) -> None:
    permit(caller, 63)
    slot = quota.take_slot(caller)
    assert CallSlots.objects.get().slots == 1
    slot.release()
    assert CallSlots.objects.get().slots == 0


def test_a_large_limit_mostly_costs_nothing(caller: Caller, django_assert_num_queries: Any) -> None:
    permit(caller, 1000)
    quota.take_slot(caller).release()
    with django_assert_num_queries(0):
        for _ in range(20):
            taken = [quota.take_slot(caller) for _ in range(8)]
            for slot in taken:
                slot.release()


def test_what_a_large_limit_keeps_for_later_is_given_back_when_idle(caller: Caller) -> None:
    permit(caller, 1000)
    kept = quota.take_slot(caller)
    quota.take_slot(caller).release()
    assert under_way(caller) == 8
    slots.give_back_idle()
    assert under_way(caller) == 8
    let_idle()
    assert under_way(caller) == 1
    kept.release()


def test_rows_of_processes_that_ended_long_ago_are_forgotten(caller: Caller) -> None:
    now = timezone.now()
    for holder, age in (("old", 2), ("new", 0)):
        workspace = caller.project.workspace_id
        CallSlots.objects.create(workspace_id=workspace, holder=holder, expires_at=now - timedelta(hours=age))
    quota.forget_expired()
    assert CallSlots.objects.get().holder == "new"


def test_when_redis_is_gone_the_table_counts(caller: Caller, settings: Any) -> None:
    gone = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/2"}
    settings.CACHES = {"default": gone}
    kept = [quota.take_slot(caller) for _ in range(3)]
    refused(caller)
    kept[0].release()
    assert (under_way(caller), CallSlots.objects.get().slots) == (2, 2)


def most_at_once(caller: Caller, threads: int, each: int) -> tuple[int, int]:
    """Calls from many threads at once; the most that were under way together, and how many were granted."""
    lock = threading.Lock()
    now = most = granted = 0

    def work() -> None:
        nonlocal now, most, granted
        try:
            for _ in range(each):
                try:
                    slot = quota.take_slot(caller)
                except RateLimited:
                    continue
                with lock:
                    now, granted = now + 1, granted + 1
                    most = max(most, now)
                time.sleep(0.002)
                with lock:
                    now -= 1
                slot.release()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()
    return most, granted


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("limit", [1, 5, 200])
def test_of_thirty_two_threads_never_more_are_under_way(caller: Caller, store: str, limit: int) -> None:
    if store == "database" and connection.vendor == "sqlite":
        pytest.skip(
            "SQLite's memory database locks its tables between threads; tests/acceptance/test_limits.py does it"
        )
    permit(caller, limit)
    most, granted = most_at_once(caller, 32, 15)
    assert most <= limit
    assert granted >= 1
    let_idle()
    assert under_way(caller) == 0


def test_the_api_answers_429_while_no_slot_is_free(shop: Shop, store: str) -> None:
    shop.cast.workspace.plan = Plan.objects.create(name="One", concurrent_calls=1, calls_per_day=10)
    shop.cast.workspace.save(update_fields=["plan"])
    shop.cast.project.workspace = shop.cast.workspace
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"}
    with quota.concurrent(Caller("member", shop.cast.project, frozenset(), Actor("user:x@example.com"))):
        answer = shop.api.post("integrations/execute", body)
        fails(answer, 429, "QUOTA_RATE_LIMIT")
        assert answer["Retry-After"] == "1"
        assert shop.upstream.count("/echo/items/1") == 0
        assert quota.used_today(shop.cast.workspace.pk) == 0
    assert [shop.api.post("integrations/execute", body).status_code for _ in range(3)] == [200] * 3
    assert quota.used_today(shop.cast.workspace.pk) == 3
