"""The plan's limits: calls a minute a key, calls a day a workspace, connections, keys."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import close_old_connections, connection, connections
from django.utils import timezone

from apps.connections import flows
from apps.connections.flows import FlowError, store_connection
from apps.connections.models import Connection, ConnectSession
from apps.connections.upstream import Account
from apps.lib import shared
from apps.lib.errors import Failure, QuotaExceeded, RateLimited
from apps.workspaces import quota
from apps.workspaces.audit import SYSTEM, Actor
from apps.workspaces.callers import Caller
from apps.workspaces.models import Plan, Project, UsageCounter
from apps.workspaces.services import issue_key, revoke_key
from tests.api.shop import Shop, fails
from tests.cast import Cast, connect, enable
from tests.peers.valkey import Valkey

CALL = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"}


def limit(cast: Cast, **limits: int) -> Plan:
    plan = Plan.objects.create(name=f"Small {Plan.objects.count()}", **limits)
    cast.workspace.plan = plan
    cast.workspace.save(update_fields=["plan"])
    return plan


@pytest.fixture(autouse=True)
def _no_minute_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the limits stands, so that no test begins in one minute and ends in the next."""
    now = timezone.now()
    monkeypatch.setattr(quota, "timezone", SimpleNamespace(now=lambda: now))


@pytest.fixture
def in_valkey(valkey: Valkey, settings: Any) -> Iterator[None]:
    """The cache is a real Valkey, as in production."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": valkey.url}}
    from django.core.cache import cache

    cache.clear()
    yield
    cache.clear()
    cache.close()


@pytest.fixture(params=["database", "valkey"])
def counted(request: pytest.FixtureRequest) -> str:
    if request.param == "valkey":
        request.getfixturevalue("in_valkey")
    return str(request.param)


def test_calls_a_minute_are_exact_and_say_when_to_return(shop: Shop, counted: str) -> None:
    limit(shop.cast, calls_per_minute=3)
    assert [shop.api.post("integrations/execute", CALL).status_code for _ in range(3)] == [200, 200, 200]
    answer = shop.api.post("integrations/execute", CALL)
    fails(answer, 429, "QUOTA_RATE_LIMIT")
    assert 1 <= int(answer["Retry-After"]) <= 61
    assert shop.upstream.count("/echo/items/1") == 3


def test_each_key_and_user_has_a_minute_of_its_own(shop: Shop, counted: str) -> None:
    limit(shop.cast, calls_per_minute=1)
    other = shop.cast.with_key("execute")
    assert [api.post("integrations/execute", CALL).status_code for api in (shop.api, other, shop.api, other)] == [
        200,
        200,
        429,
        429,
    ]


def test_users_of_one_id_in_two_projects_share_no_minute(cast: Cast) -> None:
    limit(cast, calls_per_minute=1)
    cast.project.workspace = cast.workspace
    alice = replace(caller_of(cast), kind="end_user", user_id="x" * 200 + "1")
    quota.take_call(alice)
    quota.take_call(replace(alice, user_id="x" * 200 + "2"))
    quota.take_call(replace(alice, project=Project(pk="proj_other", workspace=cast.workspace)))
    with pytest.raises(RateLimited):
        quota.take_call(alice)


def test_calls_a_day_are_counted_for_the_whole_workspace(shop: Shop, counted: str) -> None:
    limit(shop.cast, calls_per_day=2)
    other = shop.cast.with_key("execute")
    assert shop.api.post("integrations/execute", CALL).status_code == 200
    assert other.post("integrations/execute", CALL).status_code == 200
    for api in (shop.api, other):
        answer = api.post("integrations/execute", CALL)
        error = fails(answer, 429, "INTEGRATIONS_QUOTA_EXCEEDED")
        assert "midnight UTC" in str(error["message"])
        assert 1 <= int(answer["Retry-After"]) <= 24 * 3600 + 1
    assert quota.used_today(shop.cast.workspace.pk) >= 2


def test_a_new_minute_and_a_new_day_begin_anew(shop: Shop, counted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(shop.cast, calls_per_minute=1, calls_per_day=2)
    now = timezone.now().replace(hour=12, minute=0, second=30)
    clock = [now]
    monkeypatch.setattr(quota, "timezone", SimpleNamespace(now=lambda: clock[0]))

    def status() -> int:
        return shop.api.post("integrations/execute", CALL).status_code

    assert [status(), status()] == [200, 429]
    clock[0] = now + timedelta(minutes=1)
    assert [status(), status()] == [200, 429]
    clock[0] = now + timedelta(minutes=2)
    assert shop.api.post("integrations/execute", CALL).json()["error"]["code"] == "INTEGRATIONS_QUOTA_EXCEEDED"
    clock[0] = now + timedelta(days=1)
    assert status() == 200


def test_what_is_refused_before_the_quota_costs_nothing(shop: Shop, counted: str) -> None:
    limit(shop.cast, calls_per_minute=1)
    for body in ({}, CALL | {"toolName": "NONE"}, CALL | {"params": {}}, CALL | {"userId": "u9"}):
        assert shop.api.post("integrations/execute", body).status_code in {400, 422}
    assert shop.api.post("integrations/execute", CALL).status_code == 200


def test_when_the_cache_is_gone_the_database_counts(shop: Shop, settings: Any) -> None:
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"}
    }
    limit(shop.cast, calls_per_minute=1)
    try:
        assert [shop.api.post("integrations/execute", CALL).status_code for _ in range(2)] == [200, 429]
    finally:
        settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}


def caller_of(cast: Cast) -> Caller:
    return Caller("member", cast.project, frozenset(), Actor("user:x@example.com"))


def hammer(cast: Cast, threads: int, each: int) -> tuple[int, int]:
    """Takes calls from many threads at once; gives how many were granted and refused."""
    caller = caller_of(cast)
    cast.project.workspace = cast.workspace
    gate = threading.Barrier(threads)

    def work() -> int:
        gate.wait()
        granted = 0
        try:
            for _ in range(each):
                try:
                    quota.take_call(caller)
                    granted += 1
                except (RateLimited, QuotaExceeded):
                    pass
        finally:
            connections.close_all()
        return granted

    with ThreadPoolExecutor(threads) as pool:
        granted = sum(future.result() for future in [pool.submit(work) for _ in range(threads)])
    close_old_connections()
    return granted, threads * each - granted


needs_postgres = "SQLite's memory database locks its tables between threads; tests/api/test_wire.py does it over HTTP"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("most", [1, 37, 150, 1100])
def test_thirty_two_threads_get_exactly_the_limit(cast: Cast, most: int) -> None:
    if connection.vendor == "sqlite":
        pytest.skip(needs_postgres)
    limit(cast, calls_per_minute=most)
    assert hammer(cast, 32, 40) == (min(most, 1280), 1280 - min(most, 1280))
    assert UsageCounter.objects.get().used == min(most, 1280)


@pytest.mark.parametrize("most", [1, 37, 1100])
def test_thirty_two_threads_get_exactly_the_limit_of_valkey(cast: Cast, most: int, in_valkey: None) -> None:
    limit(cast, calls_per_minute=most)
    assert hammer(cast, 32, 40) == (most, 1280 - most)


def test_a_large_limit_is_handed_out_in_leases(cast: Cast, django_assert_num_queries: Any) -> None:
    limit(cast, calls_per_minute=10_000)
    cast.project.workspace = cast.workspace
    caller = caller_of(cast)
    quota.take_call(caller)
    with django_assert_num_queries(0):
        for _ in range(19):
            quota.take_call(caller)
    with django_assert_num_queries(1):
        quota.take_call(caller)


def test_leases_end_exactly_at_the_limit(cast: Cast) -> None:
    limit(cast, calls_per_minute=1005)
    cast.project.workspace = cast.workspace
    caller = caller_of(cast)
    for _ in range(1005):
        quota.take_call(caller)
    with pytest.raises(RateLimited):
        quota.take_call(caller)


def test_near_the_limit_leases_are_single_calls(cast: Cast) -> None:
    limit(cast, calls_per_minute=25_000)
    cast.project.workspace = cast.workspace
    caller = caller_of(cast)
    quota.take_call(caller)
    UsageCounter.objects.update(used=24_990)
    for lease in quota._leases.values():
        lease.left = 0
    quota.take_call(caller)  # still believes that much is left; 50 do not fit
    quota.take_call(caller)
    assert UsageCounter.objects.get().used == 24_992
    assert [lease.left for lease in quota._leases.values()] == [0]


def leases_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Another process's memory from now on; gives it."""
    monkeypatch.setattr(quota, "_full", {})
    monkeypatch.setattr(quota, "_leases", {})
    return quota._leases


def test_what_lies_idle_in_one_process_is_for_the_others(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(cast, calls_per_minute=1000)
    cast.project.workspace = cast.workspace
    caller = caller_of(cast)
    first = leases_of(monkeypatch)
    quota.take_call(caller)
    leases_of(monkeypatch)
    for _ in range(998):
        quota.take_call(caller)
    with pytest.raises(RateLimited):
        quota.take_call(caller)
    second = quota._leases
    monkeypatch.setattr(quota, "_leases", first)
    quota.give_back_idle()
    assert UsageCounter.objects.get().used == 1000  # used a moment ago
    for lease in first.values():
        lease.used_at -= quota.IDLE_SECONDS
    quota.give_back_idle()
    monkeypatch.setattr(quota, "_leases", second)
    monkeypatch.setattr(quota, "_full", {})
    quota.take_call(caller)
    with pytest.raises(RateLimited):
        quota.take_call(caller)


def test_a_clean_stop_gives_leases_back(cast: Cast) -> None:
    limit(cast, calls_per_day=10_000)
    cast.project.workspace = cast.workspace
    quota.take_call(caller_of(cast))
    assert quota.used_today(cast.workspace.pk) == 20
    quota.give_back_all()
    assert quota.used_today(cast.workspace.pk) == 1


def test_a_forked_process_hands_out_no_lease_of_its_parent(cast: Cast) -> None:
    limit(cast, calls_per_day=10_000)
    cast.project.workspace = cast.workspace
    quota.take_call(caller_of(cast))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, bytes([len(quota._leases)]))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"\0"
    assert len(quota._leases) == 1


def test_refused_calls_are_counted_nowhere(cast: Cast, counted: str) -> None:
    limit(cast, calls_per_minute=5, calls_per_day=3)
    cast.project.workspace = cast.workspace
    caller = caller_of(cast)
    for _ in range(3):
        quota.take_call(caller)
    for _ in range(5):
        with pytest.raises(QuotaExceeded):
            quota.take_call(caller)
    assert quota.used_today(cast.workspace.pk) == 3
    limit(cast, calls_per_minute=5)
    for _ in range(2):
        quota.take_call(caller)
    with pytest.raises(RateLimited):
        quota.take_call(caller)


def test_redis_is_asked_once_for_both_limits(cast: Cast, in_valkey: None, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(cast, calls_per_minute=5, calls_per_day=3)
    cast.project.workspace = cast.workspace
    asked: list[Any] = []
    take = quota.TAKE

    def watched(*given: Any) -> Any:
        asked.append(given)
        return take(*given)

    monkeypatch.setattr(quota, "TAKE", watched)
    quota.take_call(caller_of(cast))
    assert len(asked) == 1


def test_counters_in_redis_expire(cast: Cast, in_valkey: None) -> None:
    limit(cast, calls_per_minute=5)
    cast.project.workspace = cast.workspace
    quota.take_call(caller_of(cast))
    pattern = shared.key("quota:m:*")
    lifetime = shared.Command("return redis.call('TTL', redis.call('KEYS', ARGV[1])[1])")
    assert 0 < lifetime([], [pattern]) <= 121


def test_a_plan_that_grows_is_heeded_at_once(cast: Cast, counted: str) -> None:
    limit(cast, calls_per_minute=1)
    cast.project.workspace = cast.workspace
    quota.take_call(caller_of(cast))
    with pytest.raises(RateLimited):
        quota.take_call(caller_of(cast))
    limit(cast, calls_per_minute=2)
    quota.take_call(caller_of(cast))


def test_usage_tells_what_is_used_of_each_limit(cast: Cast, counted: str) -> None:
    limit(cast, calls_per_day=2, connections=10, concurrent_calls=4)
    cast.project.workspace = cast.workspace
    caller = caller_of(cast)
    quota.take_call(caller)
    slot = quota.take_slot(caller)
    connect(enable(cast.project, "sandbox"))
    found = {use.name: (use.used, use.limit, use.percent) for use in quota.usage(cast.workspace)}
    assert found == {
        "Calls today (UTC)": (1, 2, 50),
        "Calls at the same time": (1, 4, 25),
        "Connections": (1, 10, 10),
        "API keys": (1, None, 0),
    }
    slot.release()


def test_counters_of_the_past_are_forgotten(cast: Cast) -> None:
    now = timezone.now()
    UsageCounter.objects.create(id="old", ends_at=now - timedelta(hours=2))
    UsageCounter.objects.create(id="new", ends_at=now)
    assert quota.forget_expired() == 1
    assert UsageCounter.objects.get().pk == "new"


# -- connections and keys --------------------------------------------------------------------------------------------
def test_flows_begun_below_the_limit_do_not_end_above_it(shop: Shop) -> None:
    limit(shop.cast, connections=2)
    for user in ("u2", "u3"):
        assert shop.api.post("integrations/connect", {"toolkit": "lab", "userId": user}).status_code == 200

    def finish(session: ConnectSession) -> None:
        session.project.workspace.plan = Plan.objects.latest("pk")
        store_connection(
            session,
            {"access_token": "x"},
            account=Account(),
            scopes=[],
            expires_at=None,
            own_variables={},
            actor=SYSTEM,
        )

    rows = ConnectSession.objects.select_related("project__workspace__plan", "integration", "end_user").order_by(
        "created_at"
    )
    first, second = rows
    finish(first)
    with pytest.raises((Failure, FlowError)):
        finish(second)
    assert Connection.objects.count() == 2
    with pytest.raises(QuotaExceeded):
        flows.check_connection_limit(first.project)


def test_keys_are_counted_while_they_work(cast: Cast) -> None:
    limit(cast, keys=2)
    second, _ = issue_key(cast.workspace, "second", SYSTEM)
    with pytest.raises(QuotaExceeded):
        issue_key(cast.workspace, "third", SYSTEM)
    revoke_key(second, SYSTEM)
    issue_key(cast.workspace, "third", SYSTEM)


@pytest.mark.django_db(transaction=True)
def test_many_at_once_issue_no_more_keys_than_the_plan_has(cast: Cast) -> None:
    if connection.vendor == "sqlite":
        pytest.skip(needs_postgres)
    limit(cast, keys=5)

    def issue() -> int:
        try:
            issue_key(cast.workspace, "many", SYSTEM)
        except QuotaExceeded:
            return 0
        finally:
            connections.close_all()
        return 1

    with ThreadPoolExecutor(16) as pool:
        assert sum(future.result() for future in [pool.submit(issue) for _ in range(16)]) == 4
