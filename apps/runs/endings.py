"""What a run's end brings with it, whoever ends it: in the transaction that does, so that nothing of it is ever lost."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from apps.connections import auth_sessions

from . import hints, notices, sinks
from .models import Run, poke

# Every UPDATE that ends a run sets these with it.
EMPTIED: dict[str, Any] = {"wake_at": None, "lease_token": "", "lease_until": None, "runtime_auth": ""}


def ended(run: Run, now: datetime, *, tell_job: bool = True) -> None:
    """To be called in the transaction that ended the run; ``run`` shows how: status, result, error.

    ``tell_job`` is false where the caller itself goes on with the run's job run once that is committed.
    """
    if run.parent_id:
        poke(Run.objects.filter(pk=run.parent_id), now)
        hints.hint(run.parent_id)
    if run.auth_session:
        auth_sessions.release(run.project_id, run.auth_session, run.pk)
    if run.sink and run.status != Run.Status.CANCELLED:
        sinks.write_delivery(run, now)
    if run.status == Run.Status.FATAL_ERRORED and run.parent_id is None:
        notices.run_failed(run, now)
    if run.job_run_id and tell_job:
        hints.hint_job(run.job_run_id)
