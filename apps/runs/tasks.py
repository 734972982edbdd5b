"""Background work of runs and of the execution log."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down
from django.utils import timezone

from apps.lib import vacuum

from . import carrier, deliveries, firing, human, jobs, retention, run_auth
from . import mail as mails

TURN = 0.25  # seconds after which another workspace's runs come before the next of the same


@shared_task(name="runs.forget_old")  # type: ignore[untyped-decorator] # celery has no types
def forget_old() -> int:
    """Deletes what is past its time, and gives the disk back. Gives how many rows went one by one."""
    total = retention.forget_old()
    vacuum.give_back()
    return total


@worker_ready.connect  # type: ignore[untyped-decorator]
def fire_jobs(**kwargs: Any) -> None:
    firing.begin()


@worker_shutting_down.connect  # type: ignore[untyped-decorator]
def give_runs_back(**kwargs: Any) -> None:
    firing.stop()
    carrier.stop()


@shared_task(name="runs.carry")  # type: ignore[untyped-decorator]
def carry(run_id: str) -> None:
    """Works on a run until it has nothing to do; then on others of its workspace, for a moment."""
    carrier.carry(run_id, TURN)


@shared_task(name="runs.sweep")  # type: ignore[untyped-decorator]
def sweep() -> int:
    """Finds runs that are due and that nobody carries, job runs that nobody goes on with, and reminders that are due."""
    now = timezone.now()
    human.remind_due(now)
    run_auth.sweep()
    return carrier.sweep() + jobs.sweep(now)


@shared_task(name="runs.advance_job")  # type: ignore[untyped-decorator]
def advance_job(job_run_id: str) -> None:
    """Starts a job run's next items."""
    jobs.advance(job_run_id)


@shared_task(name="runs.mail")  # type: ignore[untyped-decorator]
def mail(task_id: str) -> int:
    """The e-mails about a human task that are due."""
    return mails.send(task_id)


@shared_task(name="runs.deliver")  # type: ignore[untyped-decorator]
def deliver(delivery_id: str) -> None:
    """One try; then another delivery to the same receiver gets its turn, behind those to others."""
    following = deliveries.deliver(delivery_id)
    if following is not None:
        deliveries.enqueue([following])


@shared_task(name="runs.sweep_deliveries")  # type: ignore[untyped-decorator]
def sweep_deliveries() -> int:
    """Finds deliveries that are due and that nobody carries."""
    deliveries.forget_secrets()
    return deliveries.sweep()
