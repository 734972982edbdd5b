"""How many calls of a workspace are under way at the same time, over all processes.

With Redis a call under way is a member of the workspace's sorted set, whose score is when it expires. Without it a process
holds slots in a row of its own, and the rows of a workspace never add up to more than its plan permits. Where the limit is
small (below 64) a process holds exactly what it uses; where it is larger, it keeps a few for the next call and gives them
back when they lie idle.

Whoever holds slots says so again every fifteen seconds; what nobody speaks for is free again after a minute.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import Error, connection, transaction
from django.db.models import Model, Sum
from django.utils import timezone

from apps.lib import ids, shared, upkeep
from apps.lib.errors import RateLimited

from .callers import Caller
from .models import CallSlots, Workspace

log = logging.getLogger(__name__)

LIFETIME = 60  # seconds after which slots of a process of which nothing was heard are free
BEAT = 15.0  # seconds between two signs of life
BLOCK_SHARE = 32  # a process fetches at most this fraction of the limit at once …
LARGEST_BLOCK = 8  # … and never more slots than this
IDLE_SECONDS = 5.0

# Times are the server's, in seconds: clocks of our machines may differ.
TAKE = shared.Command(
    """
    local now = tonumber(redis.call('TIME')[1])
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
    if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
    redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[3])
    redis.call('EXPIRE', KEYS[1], ARGV[2])
    return 1
    """
)
GIVE = shared.Command("return redis.call('ZREM', KEYS[1], ARGV[1])")
KEEP = shared.Command(
    """
    local till = tonumber(redis.call('TIME')[1]) + ARGV[1]
    for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', till, ARGV[i]) end
    redis.call('EXPIRE', KEYS[1], ARGV[1])
    """
)
COUNT = shared.Command("return redis.call('ZCOUNT', KEYS[1], '(' .. redis.call('TIME')[1], '+inf')")


class Slot:
    """A call under way. `release` may be called more than once, and from another thread."""

    __slots__ = ()

    def release(self) -> None:
        """Gives the slot back."""


UNLIMITED = Slot()


class _Taken(Slot):
    """A slot that counts. One that is dropped without being released is given back by the next upkeep."""

    __slots__ = ("_open", "block", "key", "member", "workspace_id")

    def __init__(self, workspace_id: Any, *, key: str = "", member: str = "", block: int = 0) -> None:
        self._open = [None]  # whoever pops it gives the slot back: list.pop is atomic
        self.workspace_id = workspace_id
        self.key, self.member, self.block = key, member, block

    def release(self) -> None:
        try:
            self._open.pop()
        except IndexError:
            return
        _give(self.workspace_id, self.key, self.member, self.block)

    def __del__(self) -> None:
        if self._open:  # no place to ask a database from
            _dropped.append((self.workspace_id, self.key, self.member, self.block))


@dataclass
class _Held:
    """Slots of one workspace: in this process's row, and of these under way."""

    slots: int = 0
    busy: int = 0
    used_at: float = 0.0


_holder = uuid.uuid4().hex
_numbers = itertools.count()
_held: dict[Any, _Held] = {}
_members: dict[str, set[str]] = {}  # by key in Redis
_dropped: deque[tuple[Any, str, str, int]] = deque()
_lock = threading.Lock()
_last_beat = 0.0


def take_slot(caller: Caller) -> Slot:
    """A slot for a call, to be released at its end. Raises `RateLimited` where the plan permits no further one."""
    limit = caller.plan.concurrent_calls
    if limit is None:
        return UNLIMITED
    slot = _take(caller.project.workspace_id, limit)
    if slot is None:
        raise RateLimited(
            f"The plan's limit of {limit} calls at the same time is reached.",
            remediation="Wait until one of the calls under way has ended, or ask for a larger plan.",
            retry_after=1,
        )
    upkeep.start()
    return slot


@contextmanager
def concurrent(caller: Caller) -> Iterator[None]:
    """For the time of the block a call is under way. Raises as `take_slot`."""
    slot = take_slot(caller)
    try:
        yield
    finally:
        slot.release()


def under_way(workspace_id: Any) -> int:
    """Slots that are taken now, over all processes."""
    try:
        return int(COUNT([_key(workspace_id)], []))
    except shared.Unavailable:
        rows = CallSlots.objects.filter(workspace=workspace_id, expires_at__gt=timezone.now())
        return rows.aggregate(total=Sum("slots"))["total"] or 0


def _key(workspace_id: Any) -> str:
    return shared.key(f"slots:{workspace_id}")


def _take(workspace_id: Any, limit: int) -> Slot | None:
    if shared.is_configured():
        try:
            return _take_in_redis(workspace_id, limit)
        except shared.Unavailable:
            pass
    return _take_in_table(workspace_id, limit)


def _give(workspace_id: Any, key: str, member: str, block: int) -> None:
    if not key:
        _give_to_table(workspace_id, block)
        return
    with _lock:  # first, so that no sign of life is given for it any more
        members = _members.get(key, set())
        members.discard(member)
        if not members:
            _members.pop(key, None)
    try:
        GIVE([key], [member])
    except shared.Unavailable:
        log.info("a slot is given back late, by its expiry: Redis does not answer")


def _take_in_redis(workspace_id: Any, limit: int) -> Slot | None:
    key, member = _key(workspace_id), f"{_holder}:{next(_numbers)}"
    if not TAKE([key], [limit, LIFETIME, member]):
        return None
    with _lock:
        _members.setdefault(key, set()).add(member)
    return _Taken(workspace_id, key=key, member=member)


# -- The table -------------------------------------------------------------------------------------------------------
def _take_in_table(workspace_id: Any, limit: int) -> Slot | None:
    block = max(1, min(LARGEST_BLOCK, limit // BLOCK_SHARE))
    with _lock:
        held = _held.setdefault(workspace_id, _Held())
        held.used_at = time.monotonic()
        if held.busy < min(held.slots, limit):
            held.busy += 1
            return _Taken(workspace_id, block=block)
        if held.slots >= limit:
            return None
    got = _fetch(workspace_id, block, limit) or (_fetch(workspace_id, 1, limit) if block > 1 else 0)
    if not got:
        return None
    with _lock:
        held.slots += got
        held.busy += 1
    return _Taken(workspace_id, block=block)


def _fetch(workspace_id: Any, wanted: int, limit: int) -> int:
    """Adds slots to this process's row, where the rows of the workspace stay below the limit; gives how many.

    On SQLite the one statement holds the lock of the whole database while it reads and writes. On PostgreSQL two of them
    would not see each other's rows: one asks at a time, and nobody who only refers to the workspace has to wait.
    """
    if connection.vendor == "sqlite":
        return wanted if _add(workspace_id, wanted, limit) else 0
    with transaction.atomic():
        locked = f"SELECT 1 FROM {_quoted(Workspace)} WHERE id = %s FOR NO KEY UPDATE"  # noqa: S608 - the name of a table
        with connection.cursor() as cursor:
            cursor.execute(locked, [_as_stored(workspace_id)])
        return wanted if _add(workspace_id, wanted, limit) else 0


def _add(workspace_id: Any, wanted: int, limit: int) -> bool:
    table = _quoted(CallSlots)
    now = timezone.now()
    workspace = _as_stored(workspace_id)
    adapt = connection.ops.adapt_datetimefield_value
    until: Any = adapt(now + timedelta(seconds=LIFETIME))
    sql = (
        f"INSERT INTO {table} (id, workspace_id, holder, slots, expires_at) SELECT %s, %s, %s, %s, %s "  # noqa: S608 - the name of a table
        f"WHERE (SELECT COALESCE(SUM(slots), 0) FROM {table} WHERE workspace_id = %s AND (expires_at > %s OR holder = %s)) <= %s "
        f"ON CONFLICT (workspace_id, holder) DO UPDATE SET slots = {table}.slots + excluded.slots, "
        "expires_at = excluded.expires_at RETURNING slots"
    )
    values = [ids.row_id(), workspace, _holder, wanted, until, workspace, adapt(now), _holder, limit - wanted]
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone() is not None


def _quoted(model: type[Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)


def _as_stored(workspace_id: Any) -> Any:
    return Workspace._meta.pk.get_db_prep_value(workspace_id, connection)


def _give_to_table(workspace_id: Any, block: int) -> None:
    with _lock:
        held = _held.get(workspace_id)
        if held is None:
            return
        held.busy -= 1
        spare = held.slots - held.busy
        surplus = spare if block == 1 else spare - block if spare > 2 * block else 0
        held.slots -= surplus
    _return(workspace_id, held, surplus)


def _return(workspace_id: Any, held: _Held, surplus: int) -> None:
    if not surplus:
        return
    sql = f"UPDATE {_quoted(CallSlots)} SET slots = slots - %s WHERE workspace_id = %s AND holder = %s AND slots >= %s"  # noqa: S608 - the name of a table
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, [surplus, _as_stored(workspace_id), _holder, surplus])
    except Error as error:
        log.warning("could not give back %d slots for now: %s", surplus, error)
        with _lock:
            held.slots += surplus


# -- Upkeep ----------------------------------------------------------------------------------------------------------
def keep() -> None:
    """Gives back what lies idle or was dropped, and says that the rest is still held."""
    global _last_beat
    while _dropped:
        _give(*_dropped.popleft())
    give_back_idle()
    if time.monotonic() - _last_beat >= BEAT:
        _last_beat = time.monotonic()
        beat()


def give_back_idle() -> None:
    idle = []
    now = time.monotonic()
    with _lock:
        for workspace_id, held in list(_held.items()):
            spare = held.slots - held.busy
            if now - held.used_at >= IDLE_SECONDS:
                if spare:
                    held.slots -= spare
                    idle.append((workspace_id, held, spare))
                elif not held.busy and now - held.used_at >= 60 * IDLE_SECONDS:
                    del _held[workspace_id]
    for workspace_id, held, spare in idle:
        _return(workspace_id, held, spare)


def beat() -> None:
    """Says that what this process holds is still held."""
    with _lock:
        in_redis = {key: sorted(members) for key, members in _members.items()}
        in_table = any(held.slots for held in _held.values())
    for key, members in in_redis.items():
        try:
            KEEP([key], [LIFETIME, *members])
        except shared.Unavailable:
            break
    if in_table:
        until = timezone.now() + timedelta(seconds=LIFETIME)
        CallSlots.objects.filter(holder=_holder, slots__gt=0).update(expires_at=until)


def give_back_all() -> None:
    """For the end of the process."""
    with _lock:
        had_rows = bool(_held)
        in_redis = [(key, member) for key, members in _members.items() for member in members]
        _held.clear()
        _members.clear()
    for key, member in in_redis:
        try:
            GIVE([key], [member])
        except shared.Unavailable:
            break
    if had_rows:
        CallSlots.objects.filter(holder=_holder).delete()


def forget_expired(before: datetime) -> int:
    return CallSlots.objects.filter(expires_at__lt=before).delete()[0]


def _begin_anew() -> None:
    """In a forked child: what the parent holds is the parent's."""
    global _holder
    _holder = uuid.uuid4().hex
    _held.clear()
    _members.clear()
    _dropped.clear()


upkeep.register(keep, give_back_all)
os.register_at_fork(after_in_child=_begin_anew)
