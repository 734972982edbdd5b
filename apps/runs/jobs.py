"""Jobs: made, changed, fired; and job runs carried from item to item. Every change of a job, a job run, an item.

A firing writes its job run and all its items in one transaction. `advance` takes in how items' runs have ended and starts as
many more as there is room for, under a lock of the job run's row; it may be called at any time, by anybody, any number of
times. Whoever ends a run calls it; the sweeper calls it for those whose worker died before it could.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from apps.workspaces.audit import Actor
from apps.workspaces.models import Project

from .models import Job, JobRun


def create(project: Project, body: dict[str, Any], actor: Actor, user_id: str | None = None) -> Job:
    """A job by the Runs API's checked body (`apps.runs.api.jobs`). Raises `Conflict` for an id that is taken. Owner J."""
    raise NotImplementedError


def change(job: Job, body: dict[str, Any], actor: Actor) -> Job:
    """Replaces all but the id and the state; what is masked in the body is kept as it is. Raises `NotFound`. Owner J."""
    raise NotImplementedError


def delete(job: Job, actor: Actor) -> None:
    """Takes the job away and terminates what of it is under way; its job runs and runs stay. Raises `NotFound`. Owner J."""
    raise NotImplementedError


def pause(job: Job, actor: Actor) -> None:
    """Fires no more; of a job run under way the running items finish and none is started. Owner J."""
    raise NotImplementedError


def resume(job: Job, actor: Actor) -> None:
    """The contrary; what would have fired meanwhile does not. Owner J."""
    raise NotImplementedError


def trigger(job: Job, actor: Actor) -> JobRun:
    """Fires now, by hand; also a job that is paused? No: raises `Conflict`. Owner J."""
    raise NotImplementedError


def terminate(job_run: JobRun, actor: Actor) -> bool:
    """Cancels its living runs, starts no more. False where it had ended. Owner J."""
    raise NotImplementedError


def fire_due(now: datetime) -> int:
    """Fires each active job whose time has come, once, however many times it missed. Gives how many. Owner J."""
    raise NotImplementedError


def advance(job_run_id: str) -> None:
    """Takes in the ends of items' runs, starts as many more as there is room for, ends the job run after the last. Owner J."""


def sweep(now: datetime) -> int:
    """Advances job runs that nobody told of a run's end. Gives how many. Owner J."""
    raise NotImplementedError
