"""Background work of runs and of the execution log."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery import shared_task
from celery.signals import worker_shutting_down
from django.conf import settings
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from apps.modules.models import Module, ModuleVersion
from apps.workspaces.models import Project

from . import carrier, human, jobs
from . import mail as mails
from .models import Execution, Run

BATCH = 5000
TURN = 0.25  # seconds after which another workspace's runs come before the next of the same
RUNS = 100  # deleted at a time: each may have many events
MODULES = 100  # or versions: each may be of 1 MB


@shared_task(name="runs.forget_old")  # type: ignore[untyped-decorator] # celery has no types
def forget_old() -> int:
    """Deletes executions and ended runs past their time: the days that a project has set, else the installation's.

    And of modules what nobody reads any more once its last run is gone. Gives how many executions and runs went.
    """
    own = Project.objects.filter(settings__has_key="retention")
    days_of = {project.pk: int(project.settings["retention"]) for project in own if project.settings["retention"]}
    others = ~Q(project__in=list(days_of))
    total = _delete(others, settings.JACKFIELD_EXECUTION_DAYS)
    total += sum(_delete(Q(project=pk), days) for pk, days in days_of.items())
    _forget_modules()
    return total


def _delete(of: Q, days: int) -> int:
    """In batches, so that no statement holds a table for long. A run goes with all that is its own, and the runs it started."""
    limit = timezone.now() - timedelta(days=days)
    total = 0
    rows = Execution.objects.filter(of, created_at__lt=limit)
    while old := list(rows.values_list("pk", flat=True)[:BATCH]):
        total += Execution.objects.filter(pk__in=old).delete()[0]
    runs = Run.objects.filter(of, created_at__lt=limit, ended_at__lt=limit, parent=None).exclude(status__in=Run.LIVING)
    while ended := list(runs.values_list("pk", flat=True)[:RUNS]):
        total += Run.objects.filter(pk__in=ended).delete()[1].get("runs.Run", 0)
    return total


def _forget_modules() -> None:
    """Deleted modules without runs, and drafts as they were tried out without runs, but for a module's last one.

    Not those of the last day: a run may be about to start.
    """
    limit = timezone.now() - timedelta(days=1)
    modules = Module.objects.filter(~Exists(Run.objects.filter(module=OuterRef("pk"))), deleted_at__lt=limit)
    while gone := list(modules.values_list("pk", flat=True)[:MODULES]):
        Module.objects.filter(pk__in=gone).delete()
    later = ModuleVersion.objects.filter(module=OuterRef("module"), number=None, created_at__gt=OuterRef("created_at"))
    tried = ModuleVersion.objects.filter(Exists(later), number=None, created_at__lt=limit)
    tried = tried.filter(~Exists(Run.objects.filter(version=OuterRef("pk"))))
    while unread := list(tried.values_list("pk", flat=True)[:MODULES]):
        ModuleVersion.objects.filter(pk__in=unread).delete()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def give_runs_back(**kwargs: Any) -> None:
    carrier.stop()


@shared_task(name="runs.carry")  # type: ignore[untyped-decorator]
def carry(run_id: str) -> None:
    """Works on a run until it has nothing to do; then on others of its workspace, for a moment."""
    carrier.carry(run_id, TURN)


@shared_task(name="runs.sweep")  # type: ignore[untyped-decorator]
def sweep() -> int:
    """Finds runs that are due and that nobody carries, and reminders that are due."""
    human.remind_due(timezone.now())
    return carrier.sweep()


@shared_task(name="runs.advance_job")  # type: ignore[untyped-decorator]
def advance_job(job_run_id: str) -> None:
    """Starts a job run's next items."""
    jobs.advance(job_run_id)


@shared_task(name="runs.mail")  # type: ignore[untyped-decorator]
def mail(task_id: str) -> int:
    """The e-mails about a human task that are due."""
    return mails.send(task_id)
