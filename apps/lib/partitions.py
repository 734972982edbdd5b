"""Logs that are forgotten by whole partitions, on PostgreSQL.

A log's table is partitioned BY RANGE of ``forget_on``, the day on which a row may go: what is past goes by dropping a table,
which takes milliseconds however many rows it has, and gives its disk back at once. Rows of tenants who keep theirs for
different times lie apart that way, as they would not by the day on which they were written.

Beside its partitions of days, ``<table>_p<first day>``, a table has ``<table>_past``, for rows of which no day is known
(`UNKNOWN`; all that was there before the table was partitioned), and ``<table>_rest``, for days that have no partition yet.
Rows of both are deleted in batches.

https://www.postgresql.org/docs/current/ddl-partitioning.html (section 5.12.2.2 on locks)
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from django.db import Error, OperationalError, connection, transaction
from psycopg.errors import QueryCanceled

log = logging.getLogger(__name__)

COLUMN = "forget_on"
UNKNOWN = date(1970, 1, 1)
KNOWN = UNKNOWN + timedelta(days=1)  # the first day that says something
LOCK_MS = 250  # that a change of partitions waits for its lock; for so long others wait behind it
WORK_MS = 400  # that it may take under it, statement by statement
LONGEST_MS = 6_400  # the same, after tries in which that was too little
MOVE_MS = 60_000  # that moving rows may take before
TRIES = 5
MISSES = 2  # partitions that could not be made, after which the others wait for the next time
PAUSE = 0.5  # seconds
BOUNDS = re.compile(r"FROM \((MINVALUE|'[\d-]+')\) TO \('([\d-]+)'\)")
ADVISORY = 0x6A66  # the first half of the key of the lock under which partitions are changed


@dataclass(frozen=True)
class Part:
    """A partition of the days from ``first`` up to ``end``, which is not among them."""

    name: str
    first: date
    end: date


def is_partitioned(table: str) -> bool:
    """Whether the table has partitions; never on another database than PostgreSQL."""
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(%s)", [table])
        return bool((cursor.fetchone() or [False])[0])


def children(table: str) -> dict[str, str]:
    """All its partitions with their bounds, as PostgreSQL writes them."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT child.relname, pg_get_expr(child.relpartbound, child.oid) FROM pg_inherits "
            "JOIN pg_class AS child ON child.oid = inhrelid WHERE inhparent = to_regclass(%s)",
            [table],
        )
        return {name: bounds or "" for name, bounds in cursor.fetchall()}  # none where it is being dropped


def parts(table: str) -> list[Part]:
    """The partitions of days, the earliest first; not those of unknown days and of the rest."""
    found = [(name, BOUNDS.search(bounds)) for name, bounds in children(table).items()]
    days = [
        Part(name, date.fromisoformat(match[1].strip("'")), date.fromisoformat(match[2]))
        for name, match in found
        if match and match[1] != "MINVALUE"
    ]
    return sorted(days, key=lambda part: part.first)


# -- Making them -----------------------------------------------------------------------------------------------------
def width(distance: int) -> int:
    """For how many days a partition is made whose days are so far off: few partitions, and no row that stays for long."""
    return 1 if distance <= 14 else 3 if distance <= 100 else 7 if distance <= 400 else 28


def cover(table: str, days: Iterable[date], today: date) -> int:
    """Makes the partitions that these days lack. Gives how many it made; what is busy now is made the next time."""
    there = parts(table)
    missed: list[Part] = []
    made = 0
    for day in sorted(set(days)):
        if any(part.first <= day < part.end for part in [*there, *missed]):
            continue
        part = _fitting(table, day, today, there)
        if _changed(table, lambda part=part: _make(table, part)):
            there = parts(table)
            made += 1
        else:
            missed.append(part)
            if len(missed) == MISSES:
                break
    return made


def _fitting(table: str, day: date, today: date, there: list[Part]) -> Part:
    """The block of days on the grid of its width that holds the day, as far as its neighbours leave it free."""
    length = width((day - today).days)
    first = date.fromordinal(day.toordinal() // length * length)
    end = first + timedelta(days=length)
    first = max([first, KNOWN, *(part.end for part in there if part.end <= day)])
    end = min([end, *(part.first for part in there if part.first > day)])
    return Part(f"{table}_p{first:%Y%m%d}", first, end)


def _make(table: str, part: Part) -> None:
    """As a table of its own that is then attached, so that nobody waits who reads or writes partitions of days.

    What lies in the rest already moves, since the new partition is where it belongs: most of it before others have to wait.
    Then these days are being written, and all wait for a moment: a row on its way to the rest would be refused there.
    """
    if part.name in children(table):  # another was quicker
        return
    name, rest = quoted(part.name), quoted(f"{table}_rest")
    move = (
        f"WITH moved AS (DELETE FROM {rest} WHERE {COLUMN} >= '{part.first}' AND {COLUMN} < '{part.end}' RETURNING *) "  # noqa: S608
        f"INSERT INTO {name} SELECT * FROM moved"
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE {name} (LIKE {quoted(table)} INCLUDING DEFAULTS INCLUDING CONSTRAINTS "
            "INCLUDING INDEXES INCLUDING STORAGE)"
        )
        with bounded(LOCK_MS, MOVE_MS):
            cursor.execute(move)
            mode = "ACCESS EXCLUSIVE" if cursor.rowcount else "SHARE UPDATE EXCLUSIVE"
        cursor.execute(f"LOCK TABLE {quoted(table)} IN {mode} MODE")
        cursor.execute(f"LOCK TABLE {rest} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(move)
        cursor.execute(
            f"ALTER TABLE {quoted(table)} ATTACH PARTITION {name} FOR VALUES FROM ('{part.first}') TO ('{part.end}')"
        )


# -- Dropping them ---------------------------------------------------------------------------------------------------
def drop_past(table: str, today: date) -> int:
    """Drops the partitions all of whose days have come. Gives how many; what is busy now goes the next time."""
    dropped = 0
    for part in parts(table):
        if part.end > today + timedelta(days=1):
            break
        dropped += _changed(table, lambda part=part: _drop(part))
    return dropped


def _drop(part: Part) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {quoted(part.name)}")


def delete_rest(table: str, today: date, batch: int) -> int:
    """Deletes rows past their day that lay in no partition of days, in batches. Gives how many."""
    rest = quoted(f"{table}_rest")
    total = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {rest} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {rest} WHERE {COLUMN} <= %s "  # noqa: S608
                "LIMIT %s FOR UPDATE SKIP LOCKED))",
                [today, batch],
            )
            if not cursor.rowcount:
                return total
            total += cursor.rowcount


# -- Carefully -------------------------------------------------------------------------------------------------------
def _changed(table: str, change: Any) -> bool:
    """Makes one change in a transaction of its own. False where others held the table each time, or where another does it."""
    work_ms = WORK_MS
    for again in range(TRIES):
        if again:
            time.sleep(PAUSE)
        try:
            with transaction.atomic(), bounded(LOCK_MS, work_ms):
                if not _alone(table):
                    return False
                change()
        except OperationalError as error:  # the lock was not to be had, or the work took too long
            log.info("partitions of %s are busy: %s", table, error)
            if isinstance(error.__cause__, QueryCanceled):
                work_ms = min(work_ms * 4, LONGEST_MS)
        except Error as error:
            log.warning("a partition of %s could not be changed for now: %s", table, error)
            return False
        else:
            return True
    log.warning("partitions of %s were busy each time; they are changed later", table)
    return False


def _alone(table: str) -> bool:
    """Whether nobody else changes this table's partitions, until the end of the transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", [ADVISORY, table])
        return bool(cursor.fetchone()[0])


@contextmanager
def bounded(lock_ms: int, work_ms: int) -> Iterator[None]:
    """Within a transaction: no wait for a lock and no statement lasts longer; both as they were afterwards."""
    names = {"lock_timeout": lock_ms, "statement_timeout": work_ms}
    with connection.cursor() as cursor:
        before = {}
        for name, value in names.items():
            cursor.execute("SELECT current_setting(%s), set_config(%s, %s, true)", [name, name, str(value)])
            before[name] = cursor.fetchone()[0]
    yield
    with connection.cursor() as cursor:  # not after an error: it has undone them
        for name, value in before.items():
            cursor.execute("SELECT set_config(%s, %s, true)", [name, value])


def quoted(name: str) -> str:
    return connection.ops.quote_name(name)
