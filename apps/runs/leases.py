"""Leases: who carries a run. A fresh token in the WHERE of each write, so that a late holder writes nothing.

A lease lasts for some seconds and is renewed by a thread of the process every third of that, however long a step is performed.
A dead worker's lease runs out; then whoever is hinted at takes the run up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import Error, connection, transaction
from django.utils import timezone

from apps.lib import ids
from apps.lib.db import Prepared, execute, moment
from apps.workspaces.models import Workspace

from .models import LONGEST_LEASE, Run, RunQuerySet

log = logging.getLogger(__name__)


def length() -> timedelta:
    return timedelta(seconds=settings.JACKFIELD_RUN_LEASE_SECONDS)


def mine(run: Run) -> RunQuerySet:
    """The row, for as long as the run lives under the lease that it was claimed with."""
    return Run.objects.living().filter(pk=run.pk, lease_token=run.lease_token)


RUN = Prepared(lambda pk: Run.objects.filter(pk=pk).select_related("project", "workspace__plan"), 1)
# As it was read, living and free: who carried it in between has changed one of these.
TAKE = (
    f"UPDATE {Run._meta.db_table} SET hinted_at = NULL, lease_token = %s, lease_until = %s, wake_at = %s, started_at = %s "  # noqa: S608
    "WHERE id = %s AND lease_token = %s AND events_count = %s AND wake_at IS NOT NULL "
    "AND (lease_until IS NULL OR lease_until < %s OR lease_until > %s) "
    f"AND status IN ({', '.join(repr(status.value) for status in Run.LIVING)}) RETURNING id"
)


# -- Claiming --------------------------------------------------------------------------------------------------------
def claim(run_id: str) -> Run | None:
    """The run under a lease of the caller's, with its project, workspace and plan; ``lease_token`` is the new one.

    None where it has ended, waits for what has not come, is carried, or where its workspace carries all that its plan permits.
    """
    run = RUN.first(run_id)
    if run is None or run.has_ended or run.wake_at is None:
        return None
    run.project.workspace = run.workspace
    limit = run.workspace.plan.concurrent_runs
    taken = _take(run) if limit is None else _take_within(run, limit)
    return run if taken else None


def _take(run: Run) -> bool:
    now = timezone.now()
    changes: dict[str, Any] = {
        "lease_token": ids.token_22(),
        "lease_until": now + length(),
        "wake_at": now,  # due again when the lease runs out
        "hinted_at": None,
        "started_at": run.started_at or now,
    }
    times = [moment(changes[name]) for name in ("lease_until", "wake_at", "started_at")]
    free = [moment(now), moment(now + LONGEST_LEASE)]
    if not execute(TAKE, [changes["lease_token"], *times, run.pk, run.lease_token, run.events_count, *free]):
        return False
    for name, value in changes.items():
        setattr(run, name, value)
    return True


def _take_within(run: Run, limit: int) -> bool:
    """The same where the workspace has room. Else the run stays due, and whoever ends one of the workspace's hints at it."""
    for _ in range(2):
        with transaction.atomic():
            # Who counts does so alone.
            Workspace.objects.select_for_update(no_key=True).filter(pk=run.workspace_id).first()
            if _carried(run.workspace_id) < limit:
                return _take(run)
            Run.objects.living().free(timezone.now()).filter(pk=run.pk).update(hinted_at=None)
        # One that ended before the hint was taken back has found nobody to hint at.
        if _carried(run.workspace_id) >= limit:
            return False
    return False


def _carried(workspace_id: Any) -> int:
    now = timezone.now()
    living = Run.objects.living().filter(workspace=workspace_id)
    return living.filter(lease_until__gte=now, lease_until__lte=now + LONGEST_LEASE).count()


# -- Renewing --------------------------------------------------------------------------------------------------------
class Lease:
    """One that this process holds. ``lost`` is set when a renewal finds the run ended, or in other hands."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.lost = threading.Event()

    def renew(self, now: datetime) -> None:
        if not mine(self.run).update(lease_until=now + length()):
            self.lost.set()


_held: set[Lease] = set()
_lock = threading.Lock()
_thread: threading.Thread | None = None


@contextmanager
def held(run: Run) -> Iterator[Lease]:
    """Keeps the lease for the time of the block."""
    lease = Lease(run)
    if connection.in_atomic_block:  # the thread could not see the row: only tests do this
        yield lease
        return
    with _lock:
        _held.add(lease)
    _start()
    try:
        yield lease
    finally:
        with _lock:
            _held.discard(lease)


def _start() -> None:
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_run, name="leases", daemon=True)
            _thread.start()


def _run() -> None:
    global _thread
    pause = threading.Event()
    while True:
        pause.wait(length().total_seconds() / 3)
        with _lock:
            leases = [lease for lease in _held if not lease.lost.is_set()]
            if not _held:
                _thread = None
                return
        _renew(leases)


def _renew(leases: list[Lease]) -> None:
    for lease in leases:
        try:
            lease.renew(timezone.now())
        except Error as error:
            log.warning("could not renew the lease of run %s for now: %s", lease.run.pk, error)
            connection.close()
    connection.close()
