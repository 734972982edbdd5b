"""Logs of runs are forgotten here: executions, runs with all that is theirs, deliveries, job runs (`apps.workspaces.retention`).

A run's events and files say the same day as the run, `Run.forget_on`. A run that lives on, or that ended on a later day than
it was made, is put off before that day comes, its events and files with it: they are moved to the partitions where the new
day lies. So is one that started a run that lives on, and one whose top stays for longer: they go together. Whoever writes
events takes the day from the row that it holds at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, timedelta
from typing import Any

from django.db import connection, models, transaction
from django.db.models import Exists, OuterRef, Q, Subquery
from django.db.models.functions import TruncDate
from django.utils import timezone

from apps.lib import partitions
from apps.lib.partitions import UNKNOWN
from apps.modules.models import Module, ModuleVersion
from apps.workspaces import retention
from apps.workspaces.models import Project
from apps.workspaces.retention import chunks, day_after, days_of, delete, kept_since, past, today

from .models import Delivery, Execution, HumanTask, Job, JobItem, JobRun, Run, RunEvent, RunFile, RunSignal, TaskVote

LOGS: tuple[type[models.Model], ...] = (Execution, RunEvent, RunFile, Delivery)
SOON = timedelta(days=1)  # how long before its day a run that is still needed is put off
RUNS = 500  # deleted at a time, or put off
ROWS = 20_000  # events of runs, or items of job runs, deleted in one transaction, as far as one run's are no more
READ = ("pk", "project_id", "status", "ended_at", "forget_on", "root", "root__forget_on")  # of a run that is put off
MODULES = 100  # or versions: each may be of 1 MB


def forget_old() -> int:
    """Everything past its time. Gives how many rows went one by one; what went with its partition was not counted."""
    of = retention.projects_by_days()
    total = retention.forget_old(of)
    _put_off()
    for model in LOGS:
        retention.prepare(model, of)
        total += retention.drop(model)
    for days, projects in chunks(of):
        total += delete(past(Execution.objects.filter(project__in=projects), days))
        ended = Delivery.objects.filter(project__in=projects).exclude(status=Delivery.Status.PENDING)
        total += delete(past(ended, days))
        total += _forget_runs(Run.objects.filter(project__in=projects), days)
        _forget_job_runs(projects, days)
    total += _forget_strays()
    _forget_jobs()
    _forget_modules()
    return total


def _forget_strays() -> int:
    """What was written when its project was being deleted. In partitions it goes on its day."""
    projects = Project.objects.values("pk")
    return sum(
        delete(model._default_manager.exclude(project__in=projects))
        for model in (Execution, Delivery)
        if not partitions.is_partitioned(model._meta.db_table)
    )


# -- Put off -----------------------------------------------------------------------------------------------------------
def _put_off() -> None:
    """Runs, and deliveries that are still tried, whose day would come too early."""
    soon = today() + SOON
    near = Run.objects.filter(forget_on__gt=UNKNOWN, forget_on__lte=soon)
    ended_later = Q(ended_at__isnull=False, ended_at__date__gt=TruncDate("created_at", tzinfo=UTC))
    below = Run.objects.living().filter(root=OuterRef("pk"))
    needed = near.annotate(above_living=Exists(below)).filter(
        Q(status__in=Run.LIVING) | ended_later | Q(above_living=True) | Q(root__forget_on__gt=soon)
    )
    for runs in (needed.filter(parent=None), needed.exclude(parent=None)):  # each top before those below it
        after = ""
        while found := list(runs.filter(pk__gt=after).select_related("root").order_by("pk").only(*READ)[:RUNS]):
            for run in found:
                put_off(run, is_needed=run.above_living)  # type: ignore[attr-defined] # annotated
            after = found[-1].pk
    later = Run.objects.filter(pk=OuterRef("run"), forget_on__gt=soon)
    stray = RunFile.objects.filter(Exists(later), forget_on__gt=UNKNOWN, forget_on__lte=soon)  # stored at that moment
    stray.update(forget_on=Subquery(later.values("forget_on")))
    retention.put_off_pending(Delivery)


def put_off(run: Run, *, is_needed: bool = False) -> None:
    """Gives the run, its events and its files the day that follows from its end, or from today where it lives or is needed.

    It stays for as long as the run at its top.
    """
    ended = None if is_needed or run.status in Run.LIVING else run.ended_at
    day = day_after(ended or timezone.now(), days_of(run.project_id))
    if run.root is not None:
        day = max(day, run.root.forget_on)
    if day <= run.forget_on:
        return
    with transaction.atomic():
        # Its row first, so that whoever writes its events meanwhile waits, and finds the new day there.
        if Run.objects.filter(pk=run.pk, forget_on=run.forget_on).update(forget_on=day):
            for model in (RunEvent, RunFile):
                model._default_manager.filter(run=run.pk).update(forget_on=day)


# -- Runs --------------------------------------------------------------------------------------------------------------
def _forget_runs(runs: models.QuerySet[Run], days: int) -> int:
    """Ended runs past their days, with all that is theirs and the runs that they started; not while one of those lives."""
    now = today()
    limit = kept_since(days, now)
    over = Q(forget_on__gt=UNKNOWN, forget_on__lte=now) | Q(created_at__lt=limit, ended_at__lt=limit)
    living = Run.objects.living().filter(root=OuterRef("pk"))
    runs = runs.filter(over, ~Exists(living), parent=None).exclude(status__in=Run.LIVING)
    total = 0
    while gone := _forget_some(runs):
        total += gone
    return total


def forget(runs: models.QuerySet[Run]) -> None:
    """Deletes the ended ones of these tops at once, with all that is theirs and their results on their way."""
    ended = runs.exclude(status__in=Run.LIVING)
    while _forget_some(ended, is_asked_for=True):
        pass


def _forget_some(runs: models.QuerySet[Run], *, is_asked_for: bool = False) -> int:
    with transaction.atomic():
        if connection.features.has_select_for_update_skip_locked:
            runs = runs.select_for_update(skip_locked=not is_asked_for, of=("self",))
        tops = _so_many(runs.order_by().values_list("pk", "events_count")[:RUNS])
        if not tops:
            return 0
        if is_asked_for:
            _delete(Delivery.objects.filter(run_id__in=tops))
        ids = [*tops, *Run.objects.filter(root__in=tops).values_list("pk", flat=True)]
        return sum(_delete_runs(ids[start : start + RUNS]) for start in range(0, len(ids), RUNS))


def _so_many(rows: Iterable[tuple[str, int]]) -> list[str]:
    """The first keys that together have no more than `ROWS`; one at least."""
    taken: list[str] = []
    total = 0
    for pk, size in rows:
        total += size
        if taken and total > ROWS:
            break
        taken.append(pk)
    return taken


def _delete_runs(ids: list[str]) -> int:
    """By one statement a table: nothing is read, and nothing is looked for that the rows might refer to."""
    tasks = HumanTask.objects.filter(Q(run__in=ids) | Q(root__in=ids))
    _delete(TaskVote.objects.filter(task__in=tasks))
    _delete(tasks)
    for model in (RunSignal, RunFile, RunEvent):
        _delete(model._default_manager.filter(run__in=ids))
    return _delete(Run.objects.filter(pk__in=ids))


def _delete(rows: models.QuerySet[Any]) -> int:
    return int(rows._raw_delete(rows.db))


# -- Jobs, modules -----------------------------------------------------------------------------------------------------
def _forget_job_runs(projects: list[str], days: int) -> None:
    limit = kept_since(days, today())
    over = JobRun.objects.filter(project__in=projects, created_at__lt=limit, ended_at__lt=limit)
    over = over.exclude(status__in=JobRun.LIVING)
    while gone := _so_many(over.order_by().values_list("pk", "payloads")[:RUNS]):
        with transaction.atomic():
            _delete(JobItem.objects.filter(job_run__in=gone))
            _delete(over.filter(pk__in=gone))


def _forget_jobs() -> None:
    """Deleted jobs whose last job run is gone."""
    gone = Job.objects.filter(~Exists(JobRun.objects.filter(job=OuterRef("pk"))), deleted_at__lt=_yesterday())
    gone.delete()


def _yesterday() -> Any:
    return timezone.now() - timedelta(days=1)


def _forget_modules() -> None:
    """Deleted modules without runs, and drafts as they were tried out without runs, but for a module's last one.

    Not those of the last day: a run may be about to start.
    """
    limit = _yesterday()
    modules = Module.objects.filter(~Exists(Run.objects.filter(module=OuterRef("pk"))), deleted_at__lt=limit)
    while gone := list(modules.values_list("pk", flat=True)[:MODULES]):
        Module.objects.filter(pk__in=gone).delete()
    later = ModuleVersion.objects.filter(module=OuterRef("module"), number=None, created_at__gt=OuterRef("created_at"))
    tried = ModuleVersion.objects.filter(Exists(later), number=None, created_at__lt=limit)
    tried = tried.filter(~Exists(Run.objects.filter(version=OuterRef("pk"))))
    while unread := list(tried.values_list("pk", flat=True)[:MODULES]):
        ModuleVersion.objects.filter(pk__in=unread).delete()
