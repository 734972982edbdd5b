"""Jobs: made, changed, deleted, paused, resumed, fired. Every change of a job; its job runs go on in `apps.runs.job_items`.

A firing writes its job run and all its items in one transaction, the payload as it was. Of two schedulers that see the same job
due, the UPDATE of its next time says who fires.
"""

from __future__ import annotations

import logging
from collections import deque
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from django.db import IntegrityError, OperationalError, connection, transaction
from django.utils import timezone

from apps.lib.errors import Conflict, NotFound
from apps.workspaces.audit import SYSTEM, Actor, record
from apps.workspaces.models import Project

from . import hints, job_items, schedules
from .job_items import advance
from .models import Job, JobItem, JobRun
from .schedules import Schedule

__all__ = [
    "advance", "change", "create", "delete", "fire_due", "next_time", "pause", "resume", "sweep", "terminate", "trigger",
]  # fmt: skip

log = logging.getLogger(__name__)

DUE_AT_ONCE = 500  # jobs that one look fires
POSTPONED = timedelta(minutes=1)  # a job that cannot be fired
AHEAD = timedelta(minutes=5)  # of now: more than two machines' clocks differ
CANCELLED_AT_ONCE = 50  # runs that are cancelled before whoever terminated them is answered


# -- Making and changing ---------------------------------------------------------------------------------------------
def create(project: Project, body: dict[str, Any], actor: Actor, user_id: str | None = None) -> Job:
    """A job by the Runs API's checked body (`apps.runs.api.jobs`), without masks. Raises `Conflict` for an id that is taken."""
    job = Job(project=project, name=body["id"], user_id=user_id or "")
    _fill(job, body)
    job.next_run_at = _next(job, timezone.now())
    try:
        with transaction.atomic():
            job.save(force_insert=True)
            record(
                actor, "job.created", job.name, project=project, items=len(job.payload), scheduled=bool(job.schedule)
            )
    except IntegrityError:
        if Job.objects.present().filter(project=project, name=job.name).exists():
            raise Conflict(
                f"There is a job {job.name} already.", remediation="Choose another id, or change that job."
            ) from None
        raise
    return job


def change(job: Job, body: dict[str, Any], actor: Actor) -> Job:
    """Replaces all but the id, the end user and the state, without masks. Raises `NotFound`.

    What is under way goes on as it was fired. The next time stays where the schedule does.
    """
    with transaction.atomic():
        row = _held(job)
        before = row.schedule
        _fill(row, body)
        row.version += 1
        if row.schedule != before and row.state == Job.State.ACTIVE:
            row.next_run_at = _next(row, timezone.now())
        row.save()
        record(actor, "job.changed", row.name, project=job.project, items=len(row.payload))
    return row


def _fill(job: Job, body: dict[str, Any]) -> None:
    configuration = dict(body.get("configuration") or {})
    proxies = {"proxy": body.get("proxy"), "configuration": configuration.pop("proxy", None)}
    job.payload = body["payload"]
    job.configuration = configuration
    job.schedule = body.get("schedule")
    job.auth_session = body.get("auth_session")
    known = {name: url for name, url in proxies.items() if url}
    for name, value in (("sink", body.get("sink")), ("proxy", known), ("notifications", body.get("notifications"))):
        if value:
            job.seal(name, value)
        else:
            setattr(job, name, "")


def _held(job: Job) -> Job:
    """The job as it is now, its row held until the transaction ends. Raises `NotFound` where it was deleted."""
    row = Job.objects.present().select_for_update(no_key=True, of=("self",)).filter(pk=job.pk).first()
    if row is None:
        raise _gone(job)
    row.project = job.project
    return row


def _gone(job: Job) -> NotFound:
    return NotFound(f"There is no job {job.name}.")


def delete(job: Job, actor: Actor) -> None:
    """Takes the job away and terminates what of it is under way; its job runs and runs stay. Raises `NotFound`."""
    now = timezone.now()
    with transaction.atomic():
        if not Job.objects.present().filter(pk=job.pk).update(deleted_at=now, next_run_at=None, updated_at=now):
            raise _gone(job)
        ended = job_items.terminate(JobRun.objects.filter(job=job), now, "The job was deleted.")
        record(actor, "job.deleted", job.name, project=job.project, terminated=len(ended))
    _clear_up(ended)


# -- Pausing ---------------------------------------------------------------------------------------------------------
def pause(job: Job, actor: Actor) -> None:
    """Fires no more; of a job run under way the running items finish and none is started. Raises `NotFound`."""
    now = timezone.now()
    reason = {"type": "user-request", "message": "The job was paused.", "timestamp": now.isoformat()}
    with transaction.atomic():
        active = Job.objects.present().filter(pk=job.pk, state=Job.State.ACTIVE)
        if not active.update(state=Job.State.PAUSED, reason=reason, next_run_at=None, updated_at=now):
            _held(job)
            return
        under_way = JobRun.objects.filter(job=job, status=JobRun.Status.PENDING)
        pausing = list(under_way.values_list("pk", flat=True))
        under_way.update(status=JobRun.Status.PAUSING, wake_at=now, updated_at=now)
        record(actor, "job.paused", job.name, project=job.project)
    for pk in pausing:
        advance(pk)  # of those that have no run under way this is the pause already


def resume(job: Job, actor: Actor) -> None:
    """The contrary; what would have fired meanwhile does not. Raises `NotFound`."""
    now = timezone.now()
    with transaction.atomic():
        row = _held(job)
        if row.state == Job.State.ACTIVE:
            return
        row.state, row.reason, row.next_run_at = Job.State.ACTIVE, None, _next(row, now)
        row.save(update_fields=["state", "reason", "next_run_at", "updated_at"])
        paused = JobRun.objects.filter(job=job, status__in=(JobRun.Status.PAUSING, JobRun.Status.PAUSED))
        going_on = list(paused.values_list("pk", flat=True))
        paused.update(status=JobRun.Status.PENDING, wake_at=now, updated_at=now)
        record(actor, "job.resumed", job.name, project=job.project)
        for pk in going_on:
            hints.hint_job(pk)


def terminate(job_run: JobRun, actor: Actor) -> bool:
    """Cancels its living runs, starts no more. False where it had ended."""
    now = timezone.now()
    with transaction.atomic():
        ended = job_items.terminate(JobRun.objects.filter(pk=job_run.pk), now, "It was terminated by request.")
        if not ended:
            return False
        record(actor, "job_run.terminated", job_run.pk, project=job_run.project, job=job_run.job.name)
    _clear_up(ended)
    return True


def _clear_up(job_run_ids: list[str]) -> None:
    for pk in job_run_ids:
        job_items.clear_up(pk, CANCELLED_AT_ONCE)


# -- Firing ----------------------------------------------------------------------------------------------------------
def trigger(job: Job, actor: Actor) -> JobRun:
    """Fires now, by hand, also beside a job run that is under way. Raises `NotFound`, `Conflict` where the job is paused."""
    now = timezone.now()
    with transaction.atomic():
        # First the write: who changes, pauses or deletes the job at this moment waits, and what is read then holds.
        active = Job.objects.present().filter(pk=job.pk, state=Job.State.ACTIVE)
        if not active.update(last_run_at=now):
            _held(job)
            raise Conflict("The job is paused.", remediation="Resume it, and trigger it again.")
        row = Job.objects.get(pk=job.pk)
        row.project = job.project
        job_run = _fire(row, JobRun.Type.MANUAL, now, actor)
        record(actor, "job.triggered", row.name, project=job.project, job_run=job_run.pk)
    return job_run


def fire_due(now: datetime) -> int:
    """Fires each active job whose time has come, once, however many times it missed. Gives how many."""
    due = Job.objects.present().filter(state=Job.State.ACTIVE, next_run_at__lte=now).order_by("next_run_at")
    return sum(_fire_if_due(pk, now) for pk in list(due.values_list("pk", flat=True)[:DUE_AT_ONCE]))


def _fire_if_due(job_id: str, now: datetime) -> bool:
    try:
        with transaction.atomic():
            job = _due(job_id, now)
            if job is None:
                return False
            _fire_scheduled(job, now)
            return True
    except OperationalError as error:
        log.warning("job %s could not be fired for now: %s", job_id, error)
    except Exception:  # a time that was fired for already, too: the clock has been put back
        log.exception("job %s cannot be fired", job_id)
        Job.objects.filter(pk=job_id, next_run_at__lte=now).update(next_run_at=now + POSTPONED)
    return False


def _due(job_id: str, now: datetime) -> Job | None:
    """The job, its row held; None where it is no longer due, or another scheduler is about to fire it."""
    skip = connection.features.has_select_for_update_skip_locked
    rows = Job.objects.present().select_for_update(no_key=True, skip_locked=skip, of=("self",))
    due = rows.filter(pk=job_id, state=Job.State.ACTIVE, next_run_at__lte=now)
    return due.select_related("project").first()


def _fire_scheduled(job: Job, now: datetime) -> None:
    """Fires for the latest time that has come; those before it are passed over."""
    assert job.next_run_at is not None
    schedule = schedules.clean(job.schedule)
    at = _latest(schedule, job.pk, job.next_run_at, now)
    job.next_run_at, job.last_run_at = next_time(schedule, job.pk, now), now
    job.save(update_fields=["next_run_at", "last_run_at"])
    if JobRun.objects.filter(job=job, status__in=JobRun.LIVING).exists():
        _pass_over(job, at, now)
    else:
        _fire(job, JobRun.Type.SCHEDULED, now, SYSTEM, at)


def _fire(job: Job, kind: str, now: datetime, actor: Actor, scheduled_for: datetime | None = None) -> JobRun:
    job_run = _job_run(job, kind, now, actor, scheduled_for)
    payload = job.payload[: job_items.most_items(job.configuration)]
    job_run.payloads = len(payload)
    if not payload:
        job_run.status, job_run.ended_at, job_run.wake_at = JobRun.Status.SUCCESS, now, None
    job_run.save(force_insert=True)
    job_items.checkpoint("firing")
    JobItem.objects.bulk_create(job_items.items_of(job_run, payload), batch_size=job_items.WRITTEN)
    job_items.checkpoint("items made")
    if payload:
        hints.hint_job(job_run.pk)
    return job_run


def _pass_over(job: Job, scheduled_for: datetime, now: datetime) -> None:
    """Another job run is under way: this one only says so."""
    job_run = _job_run(job, JobRun.Type.SCHEDULED, now, SYSTEM, scheduled_for)
    job_run.status, job_run.ended_at, job_run.wake_at = JobRun.Status.CANCELED, now, None
    job_run.reason = {"type": "another-job-run-active", "message": "The job run before was still under way."}
    job_run.save(force_insert=True)


def _job_run(job: Job, kind: str, now: datetime, actor: Actor, scheduled_for: datetime | None) -> JobRun:
    job_run = JobRun(
        job=job,
        project_id=job.project_id,
        workspace_id=job.project.workspace_id,
        type=kind,
        scheduled_for=scheduled_for,
        snapshot={"configuration": job.configuration, "auth_session": job.auth_session, "user": job.user_id},
        started_by=actor.name[:320] if kind == JobRun.Type.MANUAL else f"job:{job.name}"[:320],
        created_at=now,
        wake_at=now + job_items.LOOK_AGAIN,
    )
    for name in Job.SEALED:
        value = job.unseal(name)
        if value:
            job_run.seal(name, value)
    return job_run


def sweep(now: datetime) -> int:
    """Goes on with job runs that nobody goes on with, and puts jobs right. Gives how many job runs."""
    ahead = Job.objects.present().filter(state=Job.State.ACTIVE, next_run_at__gt=now, last_run_at__gt=now + AHEAD)
    for pk in list(ahead.values_list("pk", flat=True)[:DUE_AT_ONCE]):
        try:
            _put_right(pk, now)
        except Exception:
            log.exception("the next time of job %s cannot be put right", pk)
    return job_items.sweep(now)


def _put_right(job_id: str, now: datetime) -> None:
    """A job that was fired by a clock which ran ahead would else wait for as long."""
    with transaction.atomic():
        job = Job.objects.present().select_for_update(no_key=True, of=("self",)).filter(pk=job_id).first()
        if job is not None and job.state == Job.State.ACTIVE and job.last_run_at and job.last_run_at > now + AHEAD:
            job.next_run_at, job.last_run_at = _next(job, now), now
            job.save(update_fields=["next_run_at", "last_run_at"])


# -- Times -----------------------------------------------------------------------------------------------------------
def _next(job: Job, after: datetime) -> datetime | None:
    return next_time(schedules.clean(job.schedule), job.pk, after) if job.schedule else None


def next_time(schedule: Schedule, seed: str, after: datetime) -> datetime | None:
    """When a job (``seed``: its primary key) fires next after a moment, its jitter included; None: never again."""
    # A jitter leads past no other firing: so only the last one before may still be to come.
    before = _last(schedule, after - schedule.jitter, after) if schedule.jitter else None
    if before is not None and (at := schedule.jittered(before, seed)) > after:
        return at
    following = schedule.next_after(after)
    return None if following is None else schedule.jittered(following, seed)


def _latest(schedule: Schedule, seed: str, since: datetime, now: datetime) -> datetime:
    """The last time that has come, ``since`` being one; with its jitter."""
    last = _last(schedule, since - schedule.jitter, now)
    if last is not None and schedule.jittered(last, seed) > now:
        last = _last(schedule, since - schedule.jitter, last - timedelta(milliseconds=1))
    return since if last is None else max(since, schedule.jittered(last, seed))


def _last(schedule: Schedule, since: datetime, until: datetime) -> datetime | None:
    """The last firing after ``since`` that is not after ``until``, without jitter.

    Looked for backwards, in stretches that double: a schedule of every second is not counted up after a week's standstill.
    """
    back = timedelta(seconds=1)
    while True:
        begin = max(since, until - back)
        found = takewhile(lambda firing: firing <= until, schedule.firings(begin))
        last = next(iter(deque(found, maxlen=1)), None)
        if last is not None or begin == since:
            return last
        back *= 2
