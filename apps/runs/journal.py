"""The execution log's writer: outside of the call's critical path, in batches, bounded in memory.

Rows wait in memory for at most half a second. A clean stop writes them all; a ``kill -9`` loses at most that half second.
Where more wait than fit, the caller writes them itself: the log slows the calls down before it loses a row.
"""

from __future__ import annotations

import atexit
import logging
import threading
from datetime import datetime
from multiprocessing.util import Finalize

from django.conf import settings
from django.db import DataError, Error, IntegrityError, close_old_connections, connection, transaction
from django.db.models import Q
from django.utils import timezone

from apps.connections.models import Connection
from apps.lib.db import insert_many
from apps.workspaces.models import ApiKey

from .models import Execution

log = logging.getLogger(__name__)

MOST_WAITING = 2000
BATCH = 200


class Journal:
    """Rows to be written, and the times at which connections and keys were last used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._rows: list[Execution] = []
        self._connections: dict[str, datetime] = {}
        self._keys: dict[str, datetime] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def add(self, row: Execution) -> None:
        with self._lock:
            self._rows.append(row)
            if row.connection_id:
                self._connections[row.connection_id] = row.created_at
            waiting = len(self._rows)
        if not settings.JACKFIELD_LOG_BACKGROUND:
            return
        self._start()
        if waiting >= MOST_WAITING:
            self.flush()
        elif waiting >= BATCH:
            self._wake.set()

    def note_key(self, key_id: str) -> None:
        """A key was used just now; to be written with the next batch."""
        with self._lock:
            self._keys[key_id] = timezone.now()
        if settings.JACKFIELD_LOG_BACKGROUND:
            self._start()

    def flush(self) -> None:
        """Writes what waits, in the caller's thread. Rows that the database does not take are kept for the next time."""
        with self._writing:
            with self._lock:
                rows, self._rows = self._rows, []
                connections, self._connections = self._connections, {}
                keys, self._keys = self._keys, {}
            try:
                with transaction.atomic():
                    for row in rows:
                        row.forget_on = row.day_to_go()
                    insert_many(Execution, rows)
            except (Error, ValueError) as error:
                log.warning("could not write %d executions at once: %s", len(rows), error)
                self._write_one_by_one(rows)
            try:
                self._write_uses(connections, keys)
            except Error as error:
                log.warning("could not write times of last use: %s", error)
                with self._lock:
                    self._connections = connections | self._connections
                    self._keys = keys | self._keys

    def _write_one_by_one(self, rows: list[Execution]) -> None:
        """After a failed batch: one bad row (a project deleted meanwhile) must not take the others with it."""
        for index, row in enumerate(rows):
            try:
                with transaction.atomic():
                    row.save(force_insert=True)
            except (IntegrityError, DataError, ValueError) as error:
                log.error("an execution could not be written: %s", error)
            except Error as error:
                log.warning("the database takes no executions for now: %s", error)
                with self._lock:
                    kept = rows[index:]
                    self._rows = kept[-(2 * MOST_WAITING) :] + self._rows
                return

    def _write_uses(self, connections: dict[str, datetime], keys: dict[str, datetime]) -> None:
        for model, used in ((Connection, connections), (ApiKey, keys)):
            for pk, at in used.items():
                older = Q(last_used_at=None) | Q(last_used_at__lt=at)
                model._default_manager.filter(older, pk=pk).update(last_used_at=at)

    def _start(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._stopping or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="execution-log", daemon=True)
            self._thread.start()
            # granian's workers are multiprocessing children, which end without atexit.
            Finalize(None, self.stop, exitpriority=1)
            atexit.register(self.stop)

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(settings.JACKFIELD_LOG_FLUSH_SECONDS)
            self._wake.clear()
            if self._rows or self._keys:
                try:
                    self.flush()
                except Exception:
                    log.exception("the execution log's writer stumbled")
                close_old_connections()

    def stop(self) -> None:
        """Writes the rest; for the end of the process."""
        self._stopping = True
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2)
        self.flush()
        connection.close()


journal = Journal()
