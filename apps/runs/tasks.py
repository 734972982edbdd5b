"""Background work of the execution log."""

from __future__ import annotations

from datetime import timedelta

from celery import shared_task
from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from apps.workspaces.models import Project

from . import carrier, human
from . import mail as mails
from .models import Execution

BATCH = 5000


@shared_task(name="runs.forget_old")  # type: ignore[untyped-decorator] # celery has no types
def forget_old() -> int:
    """Deletes executions past their time: the days that a project has set, else the installation's."""
    own = Project.objects.filter(settings__has_key="retention")
    days_of = {project.pk: int(project.settings["retention"]) for project in own if project.settings["retention"]}
    total = _delete(Execution.objects.exclude(project__in=list(days_of)), settings.JACKFIELD_EXECUTION_DAYS)
    return total + sum(_delete(Execution.objects.filter(project=pk), days) for pk, days in days_of.items())


def _delete(rows: QuerySet[Execution], days: int) -> int:
    """In batches, so that no statement holds the table for long."""
    limit = timezone.now() - timedelta(days=days)
    total = 0
    while old := list(rows.filter(created_at__lt=limit).values_list("pk", flat=True)[:BATCH]):
        total += Execution.objects.filter(pk__in=old).delete()[0]
    return total


@shared_task(name="runs.carry")  # type: ignore[untyped-decorator]
def carry(run_id: str) -> None:
    """Works on a run until it has nothing to do."""
    carrier.carry(run_id)


@shared_task(name="runs.sweep")  # type: ignore[untyped-decorator]
def sweep() -> int:
    """Finds runs that are due and that nobody carries, and reminders that are due."""
    human.remind_due(timezone.now())
    return carrier.sweep()


@shared_task(name="runs.mail")  # type: ignore[untyped-decorator]
def mail(task_id: str) -> int:
    """The e-mails about a human task that are due."""
    return mails.send(task_id)
