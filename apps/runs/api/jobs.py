"""The Runs API's jobs: made, listed, read, changed, deleted, paused, resumed, triggered. Served at both of its prefixes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import chain
from typing import Any

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase

from apps.lib import errors
from apps.lib.api import MAX_BODY as MAX_SMALL
from apps.lib.api import checked, json_answer, no_content, parse_json, read_body
from apps.lib.errors import InvalidInput
from apps.modules.models import Module
from apps.workspaces import tokens
from apps.workspaces.callers import Caller, credentials_of, find_key, identify_by_credential
from apps.workspaces.idempotency import idempotent
from apps.workspaces.models import Project
from apps.workspaces.quota import take_call
from apps.workspaces.services import clean_user_id

from .. import jobs, run_auth
from ..masking import masked_notifications, masked_proxy, unmasked
from ..models import Job
from ..sinks import masked
from . import jobs_schema as schema
from .jobs_serializers import MAX_BODY, MOST_FAULTS, ChangeBody, CreateBody, without_nulls
from .runs import RunsView

LONGEST_WHOLE = 1024 * 1024  # bytes of a list that is sent whole
PATIENCE = 30.0  # seconds that one waits for its turn
REASONS = frozenset({"paused", "terminated"})
_turn = threading.BoundedSemaphore(1)  # of large bodies: 16 MiB of JSON may be 400 MiB of objects


# -- Whose ------------------------------------------------------------------------------------------------------------
def visible(caller: Caller) -> Any:
    """Jobs that a caller may see: the project's; bound to an end user only theirs."""
    rows = Job.objects.present().filter(project=caller.project)
    return rows if caller.user_id is None else rows.filter(user_id=caller.user_id)


def find_job(caller: Caller, name: str, *, whole: bool = False) -> Job:
    """Raises `NotFound`, also for a job of another user. Its payload, which may be large, comes only with the ``whole``."""
    rows = visible(caller).filter(name=name)
    job = (rows if whole else rows.defer("payload")).first()
    if job is None:
        raise errors.NotFound("There is no such job.")
    job.project = caller.project
    return job  # type: ignore[no-any-return]


# -- Answers ----------------------------------------------------------------------------------------------------------
def time_text(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def configuration_of(configuration: dict[str, Any], proxy: str | None) -> dict[str, Any]:
    """Nothing in it is null: the clients of other languages take none."""
    return without_nulls({**configuration, "proxy": masked_proxy(proxy)})


def proxy_of(url: str | None) -> dict[str, str] | None:
    """As lists and job runs spell a proxy."""
    return {"version": "v1", "url": masked_proxy(url) or ""} if url else None


def reason_of(job: Job) -> dict[str, Any] | None:
    """Why a job is paused, in the words that the published clients know."""
    if not job.reason:
        return None
    kind = job.reason.get("type")
    return {**job.reason, "type": kind if kind in REASONS else "paused"}


def _head(job: Job, proxy: dict[str, Any]) -> dict[str, Any]:
    """What a job says of itself in a list and alone."""
    return {
        "id": job.name,
        "configuration": configuration_of(job.configuration, proxy.get("configuration")),
        "payload": job.payload,
        "sink": masked(job.unseal("sink")),
        "next_run_time": time_text(job.next_run_at),
        "last_run_time": time_text(job.last_run_at),
        "created_at": time_text(job.created_at),
        "auth_session": job.auth_session,
        "notifications": masked_notifications(job.unseal("notifications")),
        "state": job.state,
        "reason": reason_of(job),
        "endUser": job.user_id or None,
        **({"schedule": job.schedule} if job.schedule else {}),
    }


def job_alone(job: Job) -> dict[str, Any]:
    proxy = job.unseal("proxy") or {}
    return {**_head(job, proxy), "projectId": job.project_id, "proxy": masked_proxy(proxy.get("proxy"))}


def job_row(job: Job, workspace_id: str) -> dict[str, Any]:
    proxy = job.unseal("proxy") or {}
    return {
        **_head(job, proxy),
        "workspace_id": workspace_id,
        "project_id": job.project_id,
        "proxy": proxy_of(proxy.get("proxy")),
        "schedule_id": None,
        "source": "API",
    }


def list_answer(rows: Iterator[Any]) -> HttpResponseBase:
    """A JSON list, made a row at a time, for each may have a payload of 16 MiB; what is long is sent while it is made."""
    texts = _texts(rows)
    begin, size = [], 0
    for text in texts:
        begin.append(text)
        size += len(text)
        if size > LONGEST_WHOLE:
            return StreamingHttpResponse(chain(begin, texts), content_type="application/json")
    return HttpResponse(b"".join(begin), content_type="application/json")


def _texts(rows: Iterator[Any]) -> Iterator[bytes]:
    before = b"["
    for row in rows:
        yield before + json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", errors="replace")
        before = b","
    yield b"[]" if before == b"[" else b"]"


# -- Bodies -----------------------------------------------------------------------------------------------------------
@contextmanager
def turn(raw: bytes) -> Iterator[None]:
    """Room for a body's objects: of large ones a process has one at a time. Raises `RateLimited` where others keep it long."""
    if len(raw) <= MAX_SMALL:
        yield
        return
    if not _turn.acquire(timeout=PATIENCE):
        raise errors.RateLimited("Too many large jobs are being written at once.", retry_after=5)
    try:
        yield
    finally:
        _turn.release()


def require_published(project: Project, payload: list[dict[str, Any]]) -> None:
    """Raises `InvalidInput` that names the items whose module the project has not published."""
    named = {item["apiName"] for item in payload}
    rows = Module.objects.published().exclude(access=Module.Access.OFF).filter(project=project)
    missing = named - set(rows.filter(name__in=named).values_list("name", flat=True))
    faults = {
        f"payload.{number}.apiName": [f"There is no published module {item['apiName']}."]
        for number, item in enumerate(payload)
        if item["apiName"] in missing
    }
    if faults:
        raise InvalidInput(dict(list(faults.items())[:MOST_FAULTS]))


class JobsBodyView(RunsView):
    """A route that takes a job."""

    max_body = MAX_BODY

    def job_of(self, raw: bytes, serializer_class: type[ChangeBody]) -> dict[str, Any]:
        """The checked job. Raises `InvalidInput` with every fault."""
        data = parse_json(raw) if raw.strip() else {}
        if not isinstance(data, dict):
            raise InvalidInput({"body": ["The body must be a JSON object."]})
        body = checked(serializer_class(data=data))
        require_published(self.project, body["payload"])
        return body

    def user_of(self, body: dict[str, Any]) -> str | None:
        """Whom the job's runs are for. Raises `InvalidInput` for an auth session that is another's."""
        named, place = body.pop("endUser", None), "auth_session"
        user_id = self.user_id(None if named is None else clean_user_id(named, "endUser"))
        bound = self.caller.user_id
        return run_auth.options_for(self.project, user_id, body.get(place), bound=bound, place=place)[0]


# -- Views ------------------------------------------------------------------------------------------------------------
@schema.jobs
class JobsView(JobsBodyView):
    """GET, POST jobs."""

    def get(self, request: Any, workspace_id: str, project_name: str) -> HttpResponseBase:
        rows = visible(self.caller).order_by("-created_at", "-id").iterator(chunk_size=1)
        return list_answer(job_row(job, str(self.project.workspace_id)) for job in rows)

    def post(self, request: Any, workspace_id: str, project_name: str) -> HttpResponse:
        raw = read_body(request._request, self.max_body)  # before its turn: a slow sender holds up nobody
        with turn(raw):
            body = self.job_of(raw, CreateBody)
            user_id = self.user_of(body)
            job = jobs.create(self.project, unmasked(body, {}), self.caller.actor, user_id)
        return json_answer({"id": job.name, "message": "created"}, 201)


@schema.job
class JobView(JobsBodyView):
    """GET, PUT, DELETE jobs/{id}."""

    scopes = dict.fromkeys(("GET", "PUT", "DELETE"), ("runs",))

    def get(self, request: Any, workspace_id: str, project_name: str, job_id: str) -> HttpResponse:
        return json_answer(job_alone(find_job(self.caller, job_id, whole=True)))

    def put(self, request: Any, workspace_id: str, project_name: str, job_id: str) -> HttpResponse:
        job = find_job(self.caller, job_id)
        raw = read_body(request._request, self.max_body)
        with turn(raw):
            body = self.job_of(raw, ChangeBody)
            self.user_of(body)
            jobs.change(job, unmasked(body, stored(job)), self.caller.actor)
        return json_answer({"id": job.name, "message": "updated job successfully"})

    def delete(self, request: Any, workspace_id: str, project_name: str, job_id: str) -> HttpResponse:
        job = find_job(self.caller, job_id)
        self.caller.require_deleting()
        jobs.delete(job, self.caller.actor)
        return no_content()


def stored(job: Job) -> dict[str, Any]:
    """What masks of a body may stand for."""
    proxy = job.unseal("proxy") or {}
    return {
        "sink": job.unseal("sink"),
        "notifications": job.unseal("notifications"),
        "proxy": proxy.get("proxy"),
        "configuration_proxy": proxy.get("configuration"),
    }


@schema.pause
class PauseView(RunsView):
    """POST jobs/{id}/pause."""

    def post(self, request: Any, workspace_id: str, project_name: str, job_id: str) -> HttpResponse:
        jobs.pause(find_job(self.caller, job_id), self.caller.actor)
        return json_answer({"message": "Paused"})


@schema.resume
class ResumeView(RunsView):
    """POST jobs/{id}/resume."""

    def post(self, request: Any, workspace_id: str, project_name: str, job_id: str) -> HttpResponse:
        jobs.resume(find_job(self.caller, job_id), self.caller.actor)
        return json_answer({"message": "Resumed"})


@schema.trigger
class TriggerView(RunsView):
    """POST jobs/{id}/trigger."""

    @idempotent
    def post(self, request: Any, workspace_id: str, project_name: str, job_id: str) -> HttpResponse:
        job = find_job(self.caller, job_id)
        take_call(self.caller)
        job_run = jobs.trigger(job, self.caller.actor)
        return json_answer({"jobRunId": job_run.pk, "message": "Triggered"})


class NoWebTasksView(RunsView):
    """The clients' web tasks drive a browser by a language model: no part of this product, which says so to whom it knows."""

    schema = None  # not described: nothing is there

    def find_caller(self, request: HttpRequest) -> Caller:
        jwt, key = credentials_of(request)
        if jwt and tokens.is_member_token(jwt):
            tokens.verify_member_token(jwt)
        elif jwt:
            identify_by_credential(request)
        else:
            find_key(key)
        raise errors.NotFound("There are no web tasks here.")

    def get(self, request: Any, **path: str) -> HttpResponse:
        raise errors.NotFound

    post = get


@schema.client_jobs
class ClientJobsView(JobsView):
    pass


@schema.client_job
class ClientJobView(JobView):
    pass


@schema.client_pause
class ClientPauseView(PauseView):
    pass


@schema.client_resume
class ClientResumeView(ResumeView):
    pass


@schema.client_trigger
class ClientTriggerView(TriggerView):
    pass
