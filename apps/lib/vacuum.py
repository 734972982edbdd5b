"""SQLite gives the disk back step by step; PostgreSQL does so by itself, and where partitions are dropped.

A file that was made with ``auto_vacuum = INCREMENTAL`` (config/settings.py) can give free pages back whenever it is told to;
of one that was made before, `manage.py shrink_database` makes one. https://www.sqlite.org/pragma.html#pragma_auto_vacuum
"""

from __future__ import annotations

import time

from django.db import connection

PAGES = 1000  # given back by one statement: 4 MB, for which others wait some milliseconds
PAUSE = 0.02  # seconds in between, for those who wait
INCREMENTAL = 2


def give_back() -> int:
    """Gives how many pages the file became shorter by. None within a transaction, or where the database cannot."""
    if connection.vendor != "sqlite" or connection.in_atomic_block or _ask("auto_vacuum") != INCREMENTAL:
        return 0
    before = free = _ask("freelist_count")
    while free:
        connection.connection.executescript(f"PRAGMA incremental_vacuum({PAGES})")  # `execute` would free a single page
        left = _ask("freelist_count")
        if left >= free:
            break
        free = left
        time.sleep(PAUSE)
    if before > free:
        _ask("wal_checkpoint(PASSIVE)")  # until then the file is as long as it was
    return before - free


def convert() -> None:
    """Writes the whole file anew, without free pages, as one that can give them back. Nobody can write meanwhile.

    Needs as much disk again for that time. Raises `OperationalError` where others are writing.
    """
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
        cursor.execute("VACUUM")
    _ask("wal_checkpoint(TRUNCATE)")


def _ask(pragma: str) -> int:
    with connection.cursor() as cursor:
        rows = cursor.execute(f"PRAGMA {pragma}").fetchall()  # to its end: a statement under way holds the file
        return int(rows[0][0]) if rows else 0
