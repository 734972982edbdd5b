"""The project's runs for its own tooling: the log of them, and the events that they wait for."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models import Q
from django.http import HttpResponse

from apps.lib import errors
from apps.lib.api import json_answer, page, read_time
from apps.lib.errors import InvalidInput
from apps.lib.redact import redact
from apps.workspaces.api.base import ProjectView
from apps.workspaces.idempotency import idempotent

from .. import starting
from ..models import Run
from ..outcome import error_of, reason_of
from . import manage_schema as schema
from .starts import visible

FILTERS = {"module": "module__name", "userId": "user_id"}
LARGE = ("parameters", "result", "module__source", "module__draft", "version__source", "version__definition")


def row_of(run: Run) -> dict[str, Any]:
    """A run as the list has it."""
    return {
        "id": run.pk,
        "sessionId": run.session_id,
        "module": run.module.name,
        "moduleId": run.module.public_id,
        "version": run.version.number,
        "status": run.status,
        "surface": run.surface,
        "startedBy": run.started_by,
        "userId": run.user_id or None,
        "parentId": run.parent_id,
        "attempt": run.attempt,
        "maximumAttempts": run.maximum_attempts,
        "error": _error(run),
        "requestId": run.request_id,
        "createdAt": run.created_at.isoformat(),
        "startedAt": run.started_at.isoformat() if run.started_at else None,
        "endedAt": run.ended_at.isoformat() if run.ended_at else None,
    }


def _error(run: Run) -> dict[str, Any] | None:
    if run.status == Run.Status.CANCELLED:
        return {"code": "cancelled", "message": reason_of(run)["message"]}
    return error_of(run) if run.status == Run.Status.FATAL_ERRORED else None


def whole_of(run: Run) -> dict[str, Any]:
    """One run with what it was given and gave, secrets removed by name, and where to look further."""
    session = f"{run.module.public_id}/sessions/{run.session_id}"
    return {
        **row_of(run),
        "parameters": redact(run.parameters),
        "result": redact(run.result),
        "links": {
            "self": f"/v1/{run.project_id}/runs/{run.pk}",
            "session": f"/api/execution/{session}",
            "browser": f"{settings.JACKFIELD_URL}/s/{session}",
        },
    }


@schema.runs
class RunsView(ProjectView):
    """GET runs: newest first."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str) -> HttpResponse:
        rows = Run.objects.filter(project=self.project)
        for name, column in FILTERS.items():
            if name in request.GET:
                rows = rows.filter(**{column: request.GET[name]})
        if "status" in request.GET:
            if request.GET["status"] not in Run.Status.values:
                raise InvalidInput({"status": [f"Must be one of {', '.join(Run.Status.values)}."]})
            rows = rows.filter(status=request.GET["status"])
        for name, lookup in (("since", "created_at__gte"), ("until", "created_at__lt")):
            if name in request.GET:
                rows = rows.filter(**{lookup: _time(name, request.GET[name])})
        found, cursor = page(rows.select_related("module", "version").defer(*LARGE), request._request)
        return json_answer({"runs": [row_of(run) for run in found], "nextCursor": cursor})


def _time(name: str, text: str) -> Any:
    found = read_time(text)
    if found is None:
        raise InvalidInput({name: ["Must be a time with its zone, like 2026-01-31T12:00:00Z."]})
    return found


@schema.run
class RunView(ProjectView):
    """GET runs/{id}, by the run's id or its session's."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str, run_id: str) -> HttpResponse:
        rows = Run.objects.filter(Q(pk=run_id) | Q(session_id=run_id), project=self.project)
        run = rows.select_related("module", "version").defer(*LARGE[2:]).first()
        if run is None:
            raise errors.NotFound("There is no such run.")
        return json_answer(whole_of(run))


@schema.event
class EventView(ProjectView):
    """POST runs/{id}/events/{name}: what a step waits for. The body is the event's data."""

    scopes = {"POST": ("runs",)}

    @idempotent
    def post(self, request: Any, app_id: str, run_id: str, event_name: str) -> HttpResponse:
        run = visible(self.caller).filter(Q(pk=run_id) | Q(session_id=run_id)).first()
        if run is None:
            raise errors.NotFound("There is no such run.")
        if not starting.signal(run, event_name, request.data, self.caller.actor):
            raise errors.Conflict("The run has ended.", remediation="Nothing waits for events any more.")
        return json_answer({"runId": run.pk, "name": event_name}, 202)
