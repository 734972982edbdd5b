"""The Runs API's job runs: what became of a job's firings. Served at both prefixes."""

from __future__ import annotations

import re
from typing import Any

from django.db.models import F
from django.http import HttpRequest, HttpResponse

from apps.lib import errors
from apps.lib.api import json_answer
from apps.lib.errors import InvalidInput

from .. import job_results, jobs
from ..masking import masked_notifications
from ..models import Job, JobRun
from ..sinks import masked
from . import jobs_schema as schema
from .jobs import configuration_of, find_job, proxy_of, time_text
from .runs import RunsView

PAGE_SIZE, LARGEST_PAGE = 50, 500
LAST_PAGE = 1_000_000
# By what may be sorted, as the answers spell it and as bodies do.
SORTED_BY = {
    "created_at": "created_at", "createdAt": "created_at", "start_time": "created_at", "startTime": "created_at",
    "updated_at": "updated_at", "updatedAt": "updated_at", "end_time": "ended_at", "endTime": "ended_at",
    "status": "status", "type": "type", "payloads": "payloads", "successful_runs": "successful_runs",
    "failed_runs": "failed_runs",
}  # fmt: skip
TERM = re.compile(
    r"(?P<sign>[+-]?)(?P<name>[A-Za-z_]+)( ?[,: ] ?(?P<direction>asc|desc)\b)? ?([/,;] ?|$)", re.ASCII | re.IGNORECASE
)
MOST_TERMS = 4
NEWEST_FIRST = ("-created_at", "-id")

# What the published clients' models know; they raise at anything else.
ERRORS = frozenset({"internal-server-error", "insufficient-resource-credits"})
ERROR_CATEGORIES = frozenset({"billing", "infrastructure"})
REASONS = frozenset({
    "terminated", "user-request", "auth-session-not-found", "auth-session-invalid-mid-job",
    "auth-session-validate-dependency-failed", "auth-session-locked", "another-job-run-active",
    "insufficient-resource-credits", "s3-sink-error",
})  # fmt: skip


# -- What is asked for ------------------------------------------------------------------------------------------------
def read_number(request: HttpRequest, name: str, absent: int, least: int, most: int) -> int:
    """Raises `InvalidInput`."""
    text = request.GET.get(name, str(absent))
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
        raise InvalidInput({name: [f"Must be a number from {least} to {most:,}."]})
    return int(text)


def read_order(text: str) -> list[Any]:
    """``start_time,desc/status,asc`` or ``-startTime`` as an order of rows, which ends with the newest first.

    No client says how it spells more than one, so what people use elsewhere does too. A job run that has not ended comes before
    those that have, whichever way. Raises `InvalidInput`.
    """
    order: list[Any] = []
    text, place = " ".join(text.split()), 0
    while place < len(text):
        term = TERM.match(text, place)
        field = SORTED_BY.get(term["name"]) if term else None
        if term is None or field is None or (term["sign"] and term["direction"]) or len(order) == MOST_TERMS:
            raise InvalidInput({"sortBy": [f"Must be like start_time,desc/status,asc; of {', '.join(SORTED_BY)}."]})
        falls = term["sign"] == "-" or (term["direction"] or "").lower() == "desc"
        order.append(F(field).desc(nulls_first=True) if falls else F(field).asc(nulls_first=True))
        place = term.end()
    return [*order, *NEWEST_FIRST]


def find_job_run(job: Job, job_run_id: str) -> JobRun:
    """Raises `NotFound`."""
    found = JobRun.objects.filter(job=job, pk=job_run_id).first()
    if found is None:
        raise errors.NotFound("There is no such run of this job.")
    found.job = job
    return found


# -- Answers ----------------------------------------------------------------------------------------------------------
def row_of(job_run: JobRun, job: Job) -> dict[str, Any]:
    return {
        "id": job_run.pk,
        "start_time": time_text(job_run.created_at),
        "end_time": time_text(job_run.ended_at),
        "workspace_id": str(job_run.workspace_id),
        "project_id": job_run.project_id,
        "job_id": job.name,
        "created_at": time_text(job_run.created_at),
        "updated_at": time_text(job_run.updated_at),
        "type": job_run.type,
        "status": job_run.status,
        "payloads": job_run.payloads,
        "successful_runs": job_run.successful_runs,
        "failed_runs": job_run.failed_runs,
        "error": error_of(job_run),
        "reason": reason_of(job_run),
        "job_configuration_snapshot": snapshot_of(job_run),
    }


def error_of(job_run: JobRun) -> dict[str, Any] | None:
    """In the words that the published clients know."""
    error = job_run.error
    if not error:
        return None
    code, category = error.get("code"), error.get("category")
    found = {
        "message": str(error.get("message") or "The job run failed."),
        "code": code if code in ERRORS else "internal-server-error",
        "category": category if category in ERROR_CATEGORIES else "infrastructure",
        "retirable": bool(error.get("retirable")),
    }
    return {**found, **({"details": error["details"]} if error.get("details") is not None else {})}


def reason_of(job_run: JobRun) -> dict[str, Any] | None:
    reason = job_run.reason
    if not reason:
        return None
    kind = reason.get("type")
    found = {"type": kind if kind in REASONS else "user-request", "message": str(reason.get("message") or "")}
    return {**found, **({"details": reason["details"]} if reason.get("details") is not None else {})}


def snapshot_of(job_run: JobRun) -> dict[str, Any]:
    """The job as it was when it fired."""
    proxy = job_run.unseal("proxy") or {}
    return {
        "configuration": configuration_of(job_run.snapshot.get("configuration") or {}, proxy.get("configuration")),
        "sink": masked(job_run.unseal("sink")),
        "auth_session": job_run.snapshot.get("auth_session"),
        "proxy": proxy_of(proxy.get("proxy")),
        "notifications": masked_notifications(job_run.unseal("notifications")),
    }


# -- Views ------------------------------------------------------------------------------------------------------------
@schema.job_runs
class JobRunsView(RunsView):
    """GET jobs/{id}/runs."""

    def get(self, request: Any, workspace_id: str, project_name: str, job_id: str) -> HttpResponse:
        size = read_number(request, "pageSize", PAGE_SIZE, 1, LARGEST_PAGE)
        # The clients' own example counts from 0, people from 1: both mean the first page.
        number = max(1, read_number(request, "pageNumber", 1, 0, LAST_PAGE))
        order = read_order(request.GET.get("sortBy", ""))
        job = find_job(self.caller, job_id)
        rows = JobRun.objects.filter(job=job)
        page = rows.order_by(*order)[(number - 1) * size : number * size]
        found = [row_of(job_run, job) for job_run in page]
        return json_answer({"jobRuns": found, "totalCount": rows.count()})


@schema.job_run
class JobRunView(RunsView):
    """GET jobs/{id}/runs/{jobRunId}."""

    def get(self, request: Any, workspace_id: str, project_name: str, job_id: str, job_run_id: str) -> HttpResponse:
        job = find_job(self.caller, job_id)
        job_run = find_job_run(job, job_run_id)
        found: dict[str, Any] = {"jobRun": row_of(job_run, job)}
        results = job_results.link_of(job_run)
        return json_answer({**found, "results": results} if results else found)


@schema.terminate
class TerminateView(RunsView):
    """POST jobs/{id}/runs/{jobRunId}/terminate: of a job run that has ended nothing changes."""

    def post(self, request: Any, workspace_id: str, project_name: str, job_id: str, job_run_id: str) -> HttpResponse:
        job_run = find_job_run(find_job(self.caller, job_id), job_run_id)
        won = jobs.terminate(job_run, self.caller.actor)
        return json_answer({"message": "Terminated" if won else "The job run had ended before."})


@schema.client_job_runs
class ClientJobRunsView(JobRunsView):
    pass


@schema.client_job_run
class ClientJobRunView(JobRunView):
    pass


@schema.client_terminate
class ClientTerminateView(TerminateView):
    pass
