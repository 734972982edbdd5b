"""What people are told of runs and job runs that fail; which rules say whom is `apps.workspaces.notifications`' matter."""

from __future__ import annotations

from datetime import datetime

from .models import JobRun, Run


def run_failed(run: Run, now: datetime) -> None:
    """In the transaction that ended the run: webhooks (`run.failed`) and the project's rules. Owner N."""


def job_run_failed(job_run: JobRun, now: datetime) -> None:
    """In the transaction that ended the job run as FAILURE: webhooks (`job_run.failed`), rules, the job's own. Owner N."""
