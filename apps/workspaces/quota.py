"""The plan's limits of calls: a minute a key, a day a workspace (UTC).

With Redis as cache a call costs one INCR. Without it calls are counted in the database, by leases: a process takes N calls
by one UPSERT and hands them out from memory, so that most calls write nothing. A lease is one call where the limit is
small, so that small limits are exact over any number of processes.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.db.models import F
from django.utils import timezone
from redis.exceptions import RedisError

from apps.lib.errors import QuotaExceeded, RateLimited

from .callers import Caller
from .models import UsageCounter

log = logging.getLogger(__name__)

LEASE_SHARE = 500  # a lease is at most this fraction of the limit …
LARGEST_LEASE = 50  # … and never more calls than this


@dataclass
class _Lease:
    left: int
    ends_at: float


_leases: dict[str, _Lease] = {}
_lock = threading.Lock()


def take_call(caller: Caller) -> None:
    """Counts one call. Raises `RateLimited` (the minute's limit), `QuotaExceeded` (the day's)."""
    plan = caller.plan
    now = timezone.now()
    if plan.calls_per_minute is not None:
        end = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
        if not _take(f"m:{_digest(caller)}", plan.calls_per_minute, end, now):
            raise RateLimited(
                f"The plan's limit of {plan.calls_per_minute} calls a minute is reached.",
                retry_after=_seconds_to(end, now),
            )
    if plan.calls_per_day is not None:
        end = (now.astimezone(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        if not _take(f"d:{caller.project.workspace_id}", plan.calls_per_day, end, now):
            raise QuotaExceeded(
                f"The plan's limit of {plan.calls_per_day} calls a day is reached; the day ends at midnight UTC.",
                remediation="Wait until midnight UTC, or ask for a larger plan.",
                retry_after=_seconds_to(end, now),
            )


def _digest(caller: Caller) -> str:
    """The caller in a name of fixed length: users of two projects may have one id, and ids may begin alike for long."""
    place = "" if caller.key else caller.project.pk
    return hashlib.sha256(f"{place}:{caller.quota_id}".encode()).hexdigest()


def _seconds_to(end: datetime, now: datetime) -> int:
    return int((end - now).total_seconds()) + 1


def _take(name: str, limit: int, end: datetime, now: datetime) -> bool:
    window = f"{name}:{int(end.timestamp())}"
    if _counts_in_cache():
        try:
            return _take_redis(window, limit, end, now)
        except RedisError as error:  # gone or restarting: no reason to refuse calls, or to stop counting them
            log.warning("counting in the database, the cache does not answer: %s", error)
    return _take_leased(window, limit, end)


def _counts_in_cache() -> bool:
    return "redis" in settings.CACHES["default"]["BACKEND"].lower()


def _take_redis(window: str, limit: int, end: datetime, now: datetime) -> bool:
    key = f"jf:quota:{window}"
    cache.add(key, 0, timeout=_seconds_to(end, now) + 60)
    try:
        return bool(cache.incr(key) <= limit)
    except ValueError:  # evicted between the two
        return True


def _take_leased(window: str, limit: int, end: datetime) -> bool:
    with _lock:
        lease = _leases.get(window)
        if lease is not None and lease.left > 0:
            lease.left -= 1
            return True
    wanted = max(1, min(LARGEST_LEASE, limit // LEASE_SHARE))
    got = _lease(window, wanted, limit, end) or (wanted > 1 and _lease(window, 1, limit, end))
    if not got:
        return False
    with _lock:
        _forget_ended()
        held = _leases.setdefault(window, _Lease(0, end.timestamp()))
        held.left += int(got) - 1
    return True


def _lease(window: str, calls: int, limit: int, end: datetime) -> int:
    """Adds ``calls`` to the counter where they fit below the limit; gives how many were taken."""
    if calls > limit:
        return 0
    rows = UsageCounter.objects.filter(pk=window, used__lte=limit - calls)
    if rows.update(used=F("used") + calls):
        return calls
    if UsageCounter.objects.filter(pk=window, used__gt=limit - calls).exists():
        return 0
    with transaction.atomic():
        UsageCounter.objects.bulk_create([UsageCounter(id=window, used=0, ends_at=end)], ignore_conflicts=True)
    return calls if rows.update(used=F("used") + calls) else 0


def _forget_ended() -> None:
    if len(_leases) > 1000:
        now = time.time()
        for window in [window for window, lease in _leases.items() if lease.ends_at < now]:
            del _leases[window]


def forget_expired() -> int:
    """Deletes counters of windows that ended; gives how many."""
    return UsageCounter.objects.filter(ends_at__lt=timezone.now() - timedelta(hours=1)).delete()[0]


def used_today(workspace_id: object) -> int:
    """Calls counted for a workspace since midnight UTC (leases count whole), for the admin."""
    end = (timezone.now().astimezone(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    window = f"d:{workspace_id}:{int(end.timestamp())}"
    if _counts_in_cache():
        return int(cache.get(f"jf:quota:{window}") or 0)
    return UsageCounter.objects.filter(pk=window).values_list("used", flat=True).first() or 0


class Slot:
    """One call under way."""

    def release(self) -> None:
        """Gives the slot back."""


def take_slot(caller: Caller) -> Slot:
    return Slot()
