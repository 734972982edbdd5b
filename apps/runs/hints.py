"""Hints to the workers that a run has something to do. A hint may be lost, and may come twice: the row is the truth.

Fairness between workspaces: of one workspace's runs that have not begun at most `MOST` wait in the workers' queue at a time,
so that another's wait behind few. The others have no hint (``hinted_at`` is empty) until a run of the workspace has been
worked on (`next_of`) or the sweeper comes by (`sweep`). Runs that had begun have a queue of their own.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import connection, transaction
from django.db.models import Min, Q
from django.utils import timezone

from apps.lib import broker
from apps.lib.db import execute, moment

from .models import LONGEST_LEASE, Run, RunQuerySet

log = logging.getLogger(__name__)

TASK = "runs.carry"
JOB_TASK = "runs.advance_job"
MOST = 50  # hints of one workspace's new runs, or of its begun ones, under way at a time
AGAIN = timedelta(seconds=30)  # after which a hint counts as lost; by then no worker takes it up any more
SOON = 60.0  # seconds of a wait whose end the broker is told of beforehand
WORKSPACES = 500  # that one sweep looks after

LIVING = ", ".join(f"'{status.value}'" for status in Run.LIVING)
# As `_unhinted`, in one statement.
NEXT = (
    f"UPDATE {Run._meta.db_table} SET hinted_at = %s WHERE id IN (SELECT id FROM {Run._meta.db_table} "  # noqa: S608
    f"WHERE workspace_id = %s AND status IN ({LIVING}) AND wake_at <= %s "
    "AND (lease_until IS NULL OR lease_until < %s OR lease_until > %s) "
    "AND (hinted_at IS NULL OR hinted_at < %s OR hinted_at > %s) "
    f"AND (%s OR (status = '{Run.Status.CREATED.value}' AND parent_id IS NULL) = %s) ORDER BY wake_at LIMIT 1 "
    "{skip}) RETURNING id, status, parent_id"
)


def hint(run_id: str, begun: bool = True) -> None:
    """Tells the workers of a run once the transaction is committed; at once where there is none. Never raises, never waits."""
    transaction.on_commit(partial(_send, [run_id], begun))


def hint_job(job_run_id: str) -> None:
    """Tells the workers that a job run has something to do, once the transaction is committed."""
    transaction.on_commit(partial(broker.hand, JOB_TASK, [job_run_id], queue="steps"))


def hint_new(run: Run) -> None:
    """The same for a run that was just made, if it has a place among its workspace's hints."""
    if run.hinted_at is not None:
        hint(run.pk, begun=run.parent_id is not None)


def has_room(workspace_id: Any, now: datetime, begun: bool) -> bool:
    """Whether one more run of the workspace is to be hinted at now."""
    return room(workspace_id, now, begun=begun) > 0


def hint_at(run_id: str, wake: datetime | None) -> None:
    """The same for a run that has just been given back until a moment that the sweeper might be late for."""
    seconds = (wake - timezone.now()).total_seconds() if wake is not None else -1.0
    if 0 <= seconds <= SOON:
        broker.hand(TASK, [run_id], queue="steps", countdown=seconds, expires=seconds + AGAIN.total_seconds())


def next_of(run: Run) -> None:
    """Hints at the run of its workspace that has been due for the longest time without a hint, where there is one.

    Of its like: the end of one that had begun makes no room in the queue of new ones, unless the plan counts both.
    """
    for pk, status, parent in _next(run):
        _send([pk], status != Run.Status.CREATED or parent is not None)


def take_next(run: Run) -> str | None:
    """The same run's id, for a caller who goes on with it at once; None where there is none."""
    return next((pk for pk, _, _ in _next(run)), None)


def _next(run: Run) -> list[tuple[str, str, str | None]]:
    """Marked as hinted at. Of those who ask at the same time each gets another run.

    Else of two runs that end together only one would be followed by another, and in the end nobody by anybody.
    """
    now = timezone.now()
    times = [moment(at) for at in (now, now, now + LONGEST_LEASE, now - AGAIN, now + AGAIN)]
    workspace = Run._meta.get_field("workspace").get_db_prep_value(run.workspace_id, connection)
    is_new = run.status == Run.Status.CREATED and run.parent_id is None
    which = [run.workspace.plan.concurrent_runs is not None, is_new]
    skip = "FOR UPDATE SKIP LOCKED" if connection.features.has_select_for_update_skip_locked else ""
    return execute(NEXT.format(skip=skip), [moment(now), workspace, *times, *which])


def sweep() -> int:
    """Hints at runs that are due and that nobody carries, the longest due first, as many of each workspace as it has room for.

    Gives how many.
    """
    now = timezone.now()
    # A clock that ran ahead when the run was made would else hold it back for as long.
    Run.objects.filter(status=Run.Status.CREATED, wake_at__gt=now + AGAIN).update(wake_at=now)
    waiting = _unhinted(now).values("workspace").annotate(oldest=Min("wake_at")).order_by("oldest")[:WORKSPACES]
    workspaces = [row["workspace"] for row in waiting]
    return sum(_sweep(workspace_id, now, begun) for begun in (True, False) for workspace_id in workspaces)


def _sweep(workspace_id: Any, now: datetime, begun: bool) -> int:
    rows = _of_queue(_unhinted(now).filter(workspace=workspace_id), begun).order_by("wake_at")
    found = list(rows.values_list("pk", flat=True)[: room(workspace_id, now, begun=begun)])
    marked = _mark(found, now)
    _send(marked, begun)
    return len(marked)


def _of_queue(runs: RunQuerySet, begun: bool) -> RunQuerySet:
    """A run that another one waits for counts among those that have begun."""
    new = Q(status=Run.Status.CREATED, parent=None)
    return runs.exclude(new) if begun else runs.filter(new)


def _unhinted(now: datetime) -> RunQuerySet:
    """Due, carried by nobody, and without a hint that may still be under way."""
    return Run.objects.due(now).filter(Q(hinted_at=None) | Q(hinted_at__lt=now - AGAIN) | Q(hinted_at__gt=now + AGAIN))


def room(workspace_id: Any, now: datetime, *, begun: bool = False) -> int:
    """How many hints more the workspace may have under way. Looks at no more rows than it must."""
    hinted = Run.objects.due(now).filter(
        workspace=workspace_id, hinted_at__gte=now - AGAIN, hinted_at__lte=now + AGAIN
    )  # fmt: skip
    return MOST - _of_queue(hinted, begun).order_by("wake_at")[:MOST].count()


def _mark(run_ids: list[str], now: datetime) -> list[str]:
    """Those of the runs that nobody else has just hinted at."""
    return [pk for pk in run_ids if _unhinted(now).filter(pk=pk).update(hinted_at=now)]


def _send(run_ids: list[str], begun: bool) -> None:
    if not run_ids:
        return
    queue = "steps" if begun else "runs"
    if not broker.hand(TASK, run_ids, queue=queue, expires=AGAIN.total_seconds()):
        Run.objects.living().filter(pk__in=run_ids).exclude(hinted_at=None).update(hinted_at=None)
