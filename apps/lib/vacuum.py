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
    """Gives how many pages the file became shorter by. None, where this is no SQLite, or one that cannot."""
    if connection.vendor != "sqlite" or _ask("auto_vacuum") != INCREMENTAL:
        return 0
    before = free = _ask("freelist_count")
    while free:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA incremental_vacuum({PAGES})").fetchall()  # each row that is read frees a page
        left = _ask("freelist_count")
        if left >= free:
            break
        free = left
        time.sleep(PAUSE)
    if before > free and not connection.in_atomic_block:
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
        return int((cursor.execute(f"PRAGMA {pragma}").fetchone() or [0])[0])
