"""The Runs API: runs of modules started, followed, cancelled, their traces read.

Served at two prefixes (`runs_urls`), which differ in one thing: what a start answers with.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse
from rest_framework import serializers

from apps.lib.api import StrictText, json_answer
from apps.lib.envelopes import RUNS
from apps.lib.http import check_proxy
from apps.modules.services import find_published
from apps.workspaces.api.base import ProjectView
from apps.workspaces.callers import Caller
from apps.workspaces.idempotency import idempotent
from apps.workspaces.services import USER_ID_LENGTH, clean_user_id

from .. import run_auth, starting
from ..callers import identify_by_name
from ..job_items import extended_of
from ..models import Run
from ..outcome import error_of, reason_of
from ..starting import MAX_ATTEMPTS, MAX_SECONDS, Options
from ..trace import trace_of
from . import runs_schema as schema
from .serializers import JsonObject
from .sinks import SinkField
from .starts import find_run, start

LONGEST_URL = 2000

# What the published clients' models know; they raise at anything else.
STATES = {
    Run.Status.CREATED: "pending",
    Run.Status.RUNNING: "started",
    Run.Status.WAITING_FOR_INPUT: "started",
    Run.Status.COMPLETED: "completed",
    Run.Status.FATAL_ERRORED: "failed",
    Run.Status.CANCELLED: "canceled",
}


# -- Bodies ----------------------------------------------------------------------------------------------------------
class StrictInteger(serializers.IntegerField):
    """A number that must come as a JSON number without a fraction."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("invalid")
        return int(super().to_internal_value(data))


class StrictBoolean(serializers.Field[bool, Any, bool, Any]):
    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise serializers.ValidationError("Must be true or false.")
        return data


class ProxyUrl(StrictText):
    """``http://user:password@host:port``; what its name leads to is checked where it is used."""

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        fault = check_proxy(text)
        if fault:
            raise serializers.ValidationError(fault)
        return text


class RetryBody(serializers.Serializer[Any]):
    maximumAttempts = StrictInteger(min_value=1, max_value=MAX_ATTEMPTS, required=False, allow_null=True)


class StartBody(serializers.Serializer[Any]):
    """Members that are not known are passed over: published clients send on what they are given."""

    parameters = JsonObject()
    api = StrictText(max_length=150)
    proxy = ProxyUrl(max_length=LONGEST_URL, required=False, allow_null=True)
    saveTrace = StrictBoolean(required=False, allow_null=True)
    requestTimeout = StrictInteger(min_value=1, max_value=MAX_SECONDS, required=False, allow_null=True)
    retry = RetryBody(required=False, allow_null=True)
    authSession = JsonObject(required=False, allow_null=True)
    sink = SinkField(required=False, allow_null=True)
    endUser = StrictText(max_length=USER_ID_LENGTH, trim_whitespace=False, required=False, allow_null=True)


def options_of(body: dict[str, Any]) -> Options:
    """How the run is to be carried out; null is as good as absent."""
    given = {
        "maximum_attempts": (body.get("retry") or {}).get("maximumAttempts"),
        "request_timeout": body.get("requestTimeout"),
        "save_trace": body.get("saveTrace"),
        "proxy": body.get("proxy"),
        "sink": body.get("sink"),
    }
    return Options(**{name: value for name, value in given.items() if value is not None})


# -- Answers ---------------------------------------------------------------------------------------------------------
def result_of(run: Run) -> dict[str, Any]:
    """What became of a run, in the words that the published clients know."""
    status = STATES[Run.Status(run.status)]
    found: dict[str, Any] = {"runId": run.pk, "status": status}
    if status == "completed":
        found["result"] = run.result
        if run.extended_payloads:
            found["extendedPayloads"] = extended_of(run)
    elif status == "failed":
        found["error"] = error_of(run)
        found["message"] = found["error"]["message"]
    elif status == "canceled":
        found["reason"] = reason_of(run)
        found["message"] = found["reason"]["message"]
    return found


# -- Views -----------------------------------------------------------------------------------------------------------
class RunsView(ProjectView):
    """A route below ``{workspaceId}/projects/{projectName}``."""

    envelope = RUNS
    scopes = {"GET": ("runs",), "POST": ("runs",)}

    def find_caller(self, request: HttpRequest) -> Caller:
        return identify_by_name(request, self.kwargs["workspace_id"], self.kwargs["project_name"])


@schema.start
class StartView(RunsView):
    """POST run/start, as the Runs API's page prints it: it answers 200."""

    started: ClassVar[int] = 200

    @idempotent
    def post(self, request: Any, workspace_id: str, project_name: str) -> HttpResponse:
        body = self.body(StartBody)
        user_id = self.user_id(_named(body))
        session, bound = body.get("authSession"), self.caller.user_id
        user_id, auth = run_auth.options_for(self.project, user_id, session, bound=bound)
        module = find_published(self.project, body["api"])
        run = start(
            self.caller,
            module,
            body["parameters"],
            Run.Surface.RUNS,
            place=lambda name: f"parameters.{name}" if name else "parameters",
            user_id=user_id,
            options=replace(options_of(body), **auth),
        )
        return json_answer({"runId": run.pk, "status": "pending"}, self.started)


def _named(body: dict[str, Any]) -> str | None:
    named = body.get("endUser")
    return None if named is None else clean_user_id(named, "endUser")


@schema.client_start
class ClientStartView(StartView):
    """POST run/start at the published clients' prefix: 201, which is all that the current ones take."""

    started = 201


@schema.result
class ResultView(RunsView):
    """GET run/{runId}/result."""

    def get(self, request: Any, workspace_id: str, project_name: str, run_id: str) -> HttpResponse:
        return json_answer(result_of(find_run(self.caller, run_id)))


@schema.cancel
class CancelView(RunsView):
    """POST run/{runId}/cancel: of a run that has ended nothing changes, and it says how it ended."""

    def post(self, request: Any, workspace_id: str, project_name: str, run_id: str) -> HttpResponse:
        run = find_run(self.caller, run_id)
        starting.cancel(run, self.caller.actor)
        run.refresh_from_db()
        return json_answer(result_of(run))


@schema.trace
class TraceView(RunsView):
    """GET run/{runId}/trace."""

    def get(self, request: Any, workspace_id: str, project_name: str, run_id: str) -> HttpResponse:
        return json_answer(trace_of(find_run(self.caller, run_id)))


@schema.client_result
class ClientResultView(ResultView):
    pass


@schema.client_cancel
class ClientCancelView(CancelView):
    pass


@schema.client_trace
class ClientTraceView(TraceView):
    pass
