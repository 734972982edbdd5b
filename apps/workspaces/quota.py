"""The plan's limits of calls: a minute a key, a day a workspace (UTC), and how many at the same time (`slots`).

With Redis as cache a call is counted by one script, in one round trip. Without it calls are counted in the database, by
leases: a process takes N calls by one UPSERT and hands them out from memory, so that most calls write nothing. No more are
ever granted than the limit, over any number of processes. That no fewer are, is seen to by what a lease may be: one call
where the limit is small (below 1,000), a 64th of what is left near a large one, given back when nobody has used it for
five seconds and at a clean stop. Only a killed process takes its leases along: at most a 500th of the limit, until the
window ends.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import Error, connection
from django.db.models import Count, F
from django.utils import timezone

from apps.lib import shared, upkeep
from apps.lib.errors import QuotaExceeded, RateLimited

from . import slots
from .callers import Caller
from .models import Project, UsageCounter, Workspace
from .slots import Slot, concurrent, take_slot

__all__ = ["Slot", "Use", "concurrent", "forget_expired", "take_call", "take_slot", "usage", "used_today"]

log = logging.getLogger(__name__)

LEASE_SHARE = 500  # a lease is at most this fraction of the limit …
LEFT_SHARE = 64  # … and this fraction of what is left …
LARGEST_LEASE = 50  # … and never more calls than this
IDLE_SECONDS = 5.0  # after which what is left of a lease is given back
LIMITS = ("calls_per_day", "concurrent_calls", "connections", "keys")  # of a workspace; calls a minute are a key's
WARNED_AT = 80  # percent, from which the admin shows a limit in another colour
FULL_SECONDS = 0.2  # for which a limit that was found reached is not asked for again

# Counts in all windows or in none; a refused call counts nowhere. Gives 0, or the number of the window that is full.
TAKE = shared.Command(
    """
    for i = 1, #KEYS do
        if tonumber(redis.call('GET', KEYS[i]) or '0') >= tonumber(ARGV[2 * i - 1]) then return i end
    end
    for i = 1, #KEYS do
        if redis.call('INCR', KEYS[i]) == 1 then redis.call('EXPIRE', KEYS[i], ARGV[2 * i]) end
    end
    return 0
    """
)
USED = shared.Command("return tonumber(redis.call('GET', KEYS[1]) or '0')")


@dataclass(frozen=True)
class _Window:
    """A time in which at most ``limit`` calls are granted; ``name`` tells whose and when."""

    name: str
    limit: int
    end: datetime
    refusal: str


@dataclass
class _Lease:
    left: int
    ends_at: float
    used_at: float
    remaining: int  # of the window, when the database was last asked
    asking: bool = False


_leases: dict[str, _Lease] = {}
_full: dict[str, tuple[int, float]] = {}  # window: the limit found reached, until when that is believed
_lock = threading.Lock()


def take_call(caller: Caller) -> None:
    """Counts one call. Raises `RateLimited` (the minute's limit), `QuotaExceeded` (the day's)."""
    plan = caller.plan
    if plan.calls_per_minute is None and plan.calls_per_day is None:
        return
    now = timezone.now()
    windows = _windows(caller, now)
    full = _take(windows, now)
    if full is None:
        return
    wait = _seconds_to(full.end, now)
    if full.refusal == "minute":
        raise RateLimited(f"The plan's limit of {full.limit} calls a minute is reached.", retry_after=wait)
    raise QuotaExceeded(
        f"The plan's limit of {full.limit} calls a day is reached; the day ends at midnight UTC.",
        remediation="Wait until midnight UTC, or ask for a larger plan.",
        retry_after=wait,
    )


def _windows(caller: Caller, now: datetime) -> list[_Window]:
    plan, found = caller.plan, []
    if plan.calls_per_minute is not None:
        end = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
        found.append(_Window(f"m:{_digest(caller)}:{int(end.timestamp())}", plan.calls_per_minute, end, "minute"))
    if plan.calls_per_day is not None:
        name, end = _day(caller.project.workspace_id, now)
        found.append(_Window(name, plan.calls_per_day, end, "day"))
    return found


def _day(workspace_id: object, now: datetime) -> tuple[str, datetime]:
    end = (now.astimezone(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return f"d:{workspace_id}:{int(end.timestamp())}", end


def _digest(caller: Caller) -> str:
    """The caller in a name of fixed length: users of two projects may have one id, and ids may begin alike for long."""
    place = "" if caller.key else caller.project.pk
    return hashlib.sha256(f"{place}:{caller.quota_id}".encode()).hexdigest()


def _seconds_to(end: datetime, now: datetime) -> int:
    return int((end - now).total_seconds()) + 1


def _key(window: str) -> str:
    return shared.key(f"quota:{window}")


def _take(windows: list[_Window], now: datetime) -> _Window | None:
    """Counts the call in every window; the one that is full, where one is: then it is counted in none."""
    if shared.is_configured():
        keys = [_key(window.name) for window in windows]
        arguments = [value for window in windows for value in (window.limit, _seconds_to(window.end, now) + 60)]
        try:
            number = TAKE(keys, arguments)
            return windows[number - 1] if number else None
        except shared.Unavailable:  # no reason to refuse calls, or to stop counting them
            pass
    for number, window in enumerate(windows):
        if not _take_leased(window):
            for counted in windows[:number]:
                _put_back(counted.name)
            return window
    return None


# -- Leases ----------------------------------------------------------------------------------------------------------
def _take_leased(window: _Window) -> bool:
    now = time.monotonic()
    with _lock:
        lease = _leases.get(window.name)
        if lease is None:
            _forget_ended()
            lease = _leases[window.name] = _Lease(0, window.end.timestamp(), now, window.limit)
        lease.used_at = now
        if lease.left > 0:
            lease.left -= 1
            return True
        if _full.get(window.name, (0, 0.0)) > (window.limit, now):
            return False
        # While one thread fetches a lease, others fetch a call each: together they would fetch far too much.
        alone, lease.asking = not lease.asking, True
        wanted = _size(window.limit, lease.remaining) if alone else 1
    got = 0
    try:
        got = _fetch(window, wanted, lease) or (_fetch(window, 1, lease) if wanted > 1 else 0)
    finally:
        with _lock:
            if alone:
                lease.asking = False
            lease.left += max(0, got - 1)
            if not got:
                _full[window.name] = (window.limit, now + FULL_SECONDS)
    if got > 1:
        upkeep.start()
    return got > 0


def _size(limit: int, remaining: int) -> int:
    return max(1, min(LARGEST_LEASE, limit // LEASE_SHARE, remaining // LEFT_SHARE))


def _fetch(window: _Window, calls: int, lease: _Lease) -> int:
    """Adds ``calls`` to the counter where they fit below the limit; gives how many were added."""
    if calls > window.limit:
        return 0
    table = connection.ops.quote_name(UsageCounter._meta.db_table)
    sql = (
        f"INSERT INTO {table} (id, used, ends_at) VALUES (%s, %s, %s) "  # noqa: S608 - the name of a table
        f"ON CONFLICT (id) DO UPDATE SET used = {table}.used + excluded.used WHERE {table}.used <= %s RETURNING used"
    )
    ends_at: Any = connection.ops.adapt_datetimefield_value(window.end)
    with connection.cursor() as cursor:
        cursor.execute(sql, [window.name, calls, ends_at, window.limit - calls])
        row = cursor.fetchone()
    if row is None:
        return 0
    lease.remaining = window.limit - row[0]
    return calls


def _put_back(window: str) -> None:
    """A call that another limit refused is left to the next one."""
    with _lock:
        if window in _leases:
            _leases[window].left += 1
    upkeep.start()


def _forget_ended() -> None:
    if len(_leases) > 1000:
        now = time.time()
        for window in [window for window, lease in _leases.items() if lease.ends_at < now]:
            del _leases[window]
    if len(_full) > 1000:
        _full.clear()


def give_back_idle() -> None:
    """Gives back what is left of leases that nobody has used for a while, so that other processes may."""
    _give_back(time.monotonic() - IDLE_SECONDS)


def give_back_all() -> None:
    """For the end of the process."""
    _give_back(time.monotonic())


def _give_back(not_used_since: float) -> None:
    now = time.time()
    with _lock:
        chosen = [
            (window, lease, lease.left)
            for window, lease in _leases.items()
            if lease.left and lease.used_at <= not_used_since and lease.ends_at > now
        ]
        for _, lease, _ in chosen:
            lease.left = 0
    for window, lease, calls in chosen:
        try:
            UsageCounter.objects.filter(pk=window, used__gte=calls).update(used=F("used") - calls)
        except Error as error:
            log.warning("could not give back %d calls for now: %s", calls, error)
            with _lock:
                lease.left += calls


upkeep.register(give_back_idle, give_back_all)
os.register_at_fork(
    after_in_child=_leases.clear
)  # the parent's: a child that handed them out too would grant them twice


# -- For the admin and the cleaner -----------------------------------------------------------------------------------
def forget_expired() -> int:
    """Deletes counters of windows that ended and slots of processes that did; gives how many."""
    old = timezone.now() - timedelta(hours=1)
    return UsageCounter.objects.filter(ends_at__lt=old).delete()[0] + slots.forget_expired(old)


def used_today(workspace_id: object) -> int:
    """Calls counted for a workspace since midnight UTC (leases count whole), for the admin."""
    window, _ = _day(workspace_id, timezone.now())
    try:
        return int(USED([_key(window)], []))
    except shared.Unavailable:
        return UsageCounter.objects.filter(pk=window).values_list("used", flat=True).first() or 0


@dataclass(frozen=True)
class Use:
    """How much of one of the plan's limits is used; ``limit`` None: there is none."""

    name: str
    used: int
    limit: int | None

    @property
    def percent(self) -> int:
        """0 to 100; 100 only where nothing is left."""
        if self.limit is None:
            return 0
        return 100 if self.used >= self.limit else self.used * 100 // self.limit

    @property
    def level(self) -> str:
        return "bad" if self.percent == 100 else "warn" if self.percent >= WARNED_AT else "good"


def usage(workspace: Workspace) -> list[Use]:
    """What of its plan a workspace uses now. Calls of the day and slots include what processes hold for calls to come."""
    plan = workspace.plan
    connected = Project.objects.filter(workspace=workspace).aggregate(count=Count("connections"))["count"]
    return [
        Use("Calls today (UTC)", _shown(used_today(workspace.pk), plan.calls_per_day), plan.calls_per_day),
        Use("Calls at the same time", slots.under_way(workspace.pk), plan.concurrent_calls),
        Use("Connections", connected, plan.connections),
        Use("API keys", workspace.api_keys.usable().count(), plan.keys),
    ]


def _shown(used: int, limit: int | None) -> int:
    return used if limit is None else min(used, limit)
