"""What people are told of runs and job runs that fail; which rules say whom is `apps.workspaces.notifications`' matter."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.admin.utils import quote
from django.db import transaction
from django.urls import reverse

from apps.lib.redact import clip, redact_json_text
from apps.lib.vault import VaultError
from apps.modules.models import Module
from apps.workspaces import notifications, webhooks
from apps.workspaces.models import NotificationRule

from . import sinks
from .models import Delivery, Job, JobRun, Run

log = logging.getLogger(__name__)

MESSAGE = 500  # characters

Event = NotificationRule.Event


def run_failed(run: Run, now: datetime) -> None:
    """In the transaction that ended the run: webhooks (`run.failed`) and the project's rules.

    Where the project has neither, one SELECT. A run that another one started is that one's matter.
    """
    if run.parent_id is not None:
        return
    listeners = notifications.listeners(run.project_id)
    if listeners.webhooks:
        webhooks.emit(run.project, Event.RUN_FAILED, lambda: _run_row(run, now))
    if listeners.rules:
        notifications.notify(run.project, Event.RUN_FAILED, run.pk, lambda: _run_notice(run, now))


def job_run_failed(job_run: JobRun, now: datetime) -> None:
    """In the transaction that ended the job run as FAILURE: webhooks (`job_run.failed`), rules, the job's own."""
    if job_run.notifications:
        _tell_job_s_own(job_run, now)
    listeners = notifications.listeners(job_run.project_id)
    if listeners.webhooks:
        webhooks.emit(job_run.project, Event.JOB_RUN_FAILED, lambda: _job_run_row(job_run, now))
    if listeners.rules:
        notifications.notify(job_run.project, Event.JOB_RUN_FAILED, job_run.pk, lambda: _job_run_notice(job_run, now))


def _tell_job_s_own(job_run: JobRun, now: datetime) -> None:
    """A delivery to each webhook that the job names, signed and tried as a sink's; in the form of a webhook's event."""
    try:
        named = job_run.unseal("notifications") or []
    except VaultError as error:
        log.error("nobody whom its job names is told that job run %s failed: they do not open: %s", job_run.pk, error)
        return
    event = {"type": Event.JOB_RUN_FAILED, "timestamp": now.isoformat(), "data": _job_run_row(job_run, now)}
    body = json.dumps(event, separators=(",", ":"))
    for notification in named:
        sink = {"type": "webhook", "url": notification["url"], "headers": notification.get("headers") or {}}
        row = Delivery(
            project_id=job_run.project_id,
            job_run_id=job_run.pk,
            kind=Delivery.Kind.WEBHOOK,
            target=sinks.target_of(sink),
            host=sinks.host_of(sink),
            body=body,
            next_try_at=now,
            ends_at=now + sinks.UNTIL_TRIED,
            created_at=now,
        )
        row.seal("sink", sink)
        row.save(force_insert=True)
        transaction.on_commit(partial(sinks.hint, row.pk, (row.project_id, row.host)))


def _run_row(run: Run, now: datetime) -> dict[str, Any]:
    error = run.error or {}
    return {
        "runId": run.pk,
        "api": _module_of(run),
        "endUser": run.user_id or None,
        "jobRunId": run.job_run_id,
        "error": error.get("code"),
        "message": _words(error.get("message")),
        "startedAt": run.created_at.isoformat(),
        "endedAt": now.isoformat(),
        "url": _page("run", run.pk),
    }


def _run_notice(run: Run, now: datetime) -> dict[str, Any]:
    whose = f" for {run.user_id}" if run.user_id else ""
    return {
        "title": f"A run of {_module_of(run)}{whose} failed",
        "message": _words((run.error or {}).get("message")),
        "url": _page("run", run.pk),
        "at": now,
    }


def _job_run_row(job_run: JobRun, now: datetime) -> dict[str, Any]:
    return {
        "jobRunId": job_run.pk,
        "jobId": _job_of(job_run),
        "type": job_run.type,
        "payloads": job_run.payloads,
        "startedRuns": job_run.started_runs,
        "successfulRuns": job_run.successful_runs,
        "failedRuns": job_run.failed_runs,
        "startedAt": job_run.created_at.isoformat(),
        "endedAt": now.isoformat(),
        "url": _page("jobrun", job_run.pk),
    }


def _job_run_notice(job_run: JobRun, now: datetime) -> dict[str, Any]:
    return {
        "title": f"A run of the job {_job_of(job_run)} failed",
        "message": f"{job_run.failed_runs} of its {job_run.payloads} items failed, {job_run.successful_runs} succeeded.",
        "url": _page("jobrun", job_run.pk),
        "at": now,
    }


def _module_of(run: Run) -> str:
    """Its name, without the text of its definition."""
    return Module.objects.values_list("name", flat=True).get(pk=run.module_id)


def _job_of(job_run: JobRun) -> str:
    """Its name, without its payload."""
    return Job.objects.values_list("name", flat=True).get(pk=job_run.job_id)


def _page(model: str, pk: str) -> str:
    """The address of the admin's page of one."""
    return f"{settings.JACKFIELD_URL}{reverse(f'admin:runs_{model}_change', args=[quote(pk)])}"


def _words(message: Any) -> str:
    """What a service said may repeat what it was sent: without what has a secret's name."""
    return clip(redact_json_text(str(message or "")), MESSAGE)
