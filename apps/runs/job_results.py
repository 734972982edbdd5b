"""What came out of a job run, as one JSON Lines file behind a signed link that needs no key.

A line for each item in the payload's order, each what a sink's body calls ``apiInfo``. It is sent while it is read from the
database, so that ten thousand results are never in memory together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core import signing
from django.utils import timezone

from apps.lib.db import release
from apps.lib.errors import NotFound

from .models import JobItem, JobRun, Run
from .sinks import api_info

PATH = "/v1/job-results"
SALT = "jackfield.job-results"
LASTS = timedelta(hours=1)
LONGEST_TOKEN = 500
AT_ONCE = 20  # items in memory: a result may have 2 MB
FORMAT = "jsonl"
CONTENT_TYPE = "application/x-ndjson"
LINE_ENDS = {
    code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)
}  # to some readers of lines; JSON lets them stand
GONE = {"status": "failed", "error": "not-found", "message": "The run is no longer kept.", "statusCode": 500}
CANCELLED = {
    "status": "canceled", "error": "job-run-terminated", "message": "The job run was terminated before.", "statusCode": 500,
}  # fmt: skip


# -- The link --------------------------------------------------------------------------------------------------------
def link_of(job_run: JobRun) -> dict[str, Any] | None:
    """The ``results`` of a job run, by the Runs API's names; None before its end, and where it never began."""
    if job_run.status in (*JobRun.LIVING, JobRun.Status.CANCELED):
        return None
    return {
        "signed_url": f"{settings.JACKFIELD_URL}{PATH}/{token_of(job_run.pk)}",
        "signed_url_expiration": (timezone.now() + LASTS).isoformat(),
        "key": f"{job_run.pk}.{FORMAT}",
        "format": FORMAT,
    }


def token_of(job_run_id: str) -> str:
    """A permission to read this job run's results and nothing else, from now on for an hour."""
    return signing.dumps(job_run_id, salt=SALT)


def find(token: str) -> JobRun:
    """The job run of a token. Raises `NotFound`, whatever is wrong with it."""
    try:
        pk = signing.loads(token, salt=SALT, max_age=LASTS) if len(token) <= LONGEST_TOKEN else None
    except (signing.BadSignature, ValueError):
        pk = None
    found = JobRun.objects.filter(pk=pk).first() if isinstance(pk, str) else None
    if found is None:
        raise NotFound(
            "This link is not valid, or is no longer.", remediation="Read the job run again for a fresh link."
        )
    return found


# -- The file --------------------------------------------------------------------------------------------------------
def lines(job_run: JobRun) -> Iterator[bytes]:
    """Holds no connection of the database while the reader takes its time."""
    after = -1
    while items := list(_items(job_run, after)):
        found = Run.objects.in_bulk([item.run_id for item in items if item.run_id])
        release()
        for item in items:
            yield line_of(item, found.get(item.run_id))
        after = items[-1].number


def _items(job_run: JobRun, after: int) -> Any:
    rows = JobItem.objects.filter(job_run=job_run.pk, number__gt=after).order_by("number")
    return rows.only("number", "api", "parameters", "status", "run_id", "error")[:AT_ONCE]


def line_of(item: JobItem, run: Run | None) -> bytes:
    """One item's line, its end included; ``runId`` is null where the item was never started."""
    info = {"name": item.api, "parameters": item.parameters, "runId": item.run_id or None, "result": _result(item, run)}
    text = json.dumps(info, ensure_ascii=False, separators=(",", ":")).translate(LINE_ENDS)
    return text.encode("utf-8", errors="replace") + b"\n"


def _result(item: JobItem, run: Run | None) -> dict[str, Any]:
    if run is not None:
        result: dict[str, Any] = api_info(run)["result"]
        return result
    if item.error:
        return {"status": "failed", "error": item.error["code"], "message": item.error["message"], "statusCode": 400}
    return CANCELLED if item.status == JobItem.Status.CANCELLED and not item.run_id else GONE
