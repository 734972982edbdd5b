"""The module sessions API: a published module started and followed by a third party, with the module's own key."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from apps.lib import errors
from apps.lib.api import json_answer
from apps.lib.envelopes import SESSIONS
from apps.lib.errors import InvalidInput
from apps.modules.models import Module
from apps.workspaces.api.base import ProjectView
from apps.workspaces.callers import Caller
from apps.workspaces.idempotency import idempotent
from apps.workspaces.services import clean_user_id

from ..callers import identify_for_module
from ..models import Run
from ..outcome import error_of, reason_of
from . import sessions_schema as schema
from .starts import start, visible

OBJECT = "Must be a JSON object."


def links(module: Module, session_id: str) -> dict[str, str]:
    path = f"{module.public_id}/sessions/{session_id}"
    return {"self": f"/api/execution/{path}", "browser": f"{settings.JACKFIELD_URL}/s/{path}"}


def state_of(run: Run) -> str:
    return Run.Status.FATAL_ERRORED if run.status == Run.Status.CANCELLED else run.status


def result_of(run: Run) -> dict[str, Any]:
    """What ``include=result`` adds: the result, null until there is one, and why a session failed."""
    found: dict[str, Any] = {"result": run.result if run.status == Run.Status.COMPLETED else None}
    if run.status == Run.Status.CANCELLED:
        found["error"] = {"code": "cancelled", "message": reason_of(run)["message"]}
    elif run.status == Run.Status.FATAL_ERRORED:
        error = error_of(run)
        found["error"] = {"code": error["code"], "message": error["message"]}
    return found


class SessionsView(ProjectView):
    """A route below ``/api/execution/{publishedModuleId}``."""

    envelope = SESSIONS
    scopes = {"GET": ("runs",), "POST": ("runs",)}
    module: Module

    def find_caller(self, request: HttpRequest) -> Caller:
        caller, self.module = identify_for_module(request, self.kwargs["published_module_id"])
        return caller


@schema.sessions
class StartSessionView(SessionsView):
    """POST sessions."""

    @idempotent
    def post(self, request: Any, published_module_id: str) -> HttpResponse:
        parameters, named = _given(request.data)
        if self.module.published_id is None:
            raise errors.NotFound("This module is not published.")
        if self.module.access != Module.Access.API_KEY:
            raise errors.NotPermitted(
                "This module is not set to be only accessible via an API key.",
                remediation="Set its access so in its publishing settings, and publish it.",
            )
        run = start(self.caller, self.module, parameters, Run.Surface.SESSIONS,
                    place=_place, user_id=self.user_id(named))  # fmt: skip
        data = {"sessionId": run.session_id}
        return json_answer({"data": data, "links": links(self.module, run.session_id)}, 201)


def _given(body: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Start parameters and the end user. Raises `InvalidInput`; null is as good as absent."""
    data = body.get("data")
    if data is None:
        return {}, None
    if not isinstance(data, dict):
        raise InvalidInput({"/data": [OBJECT]})
    parameters, named = data.get("startParameters"), data.get("endUser")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidInput({"/data/startParameters": [OBJECT]})
    return parameters or {}, None if named is None else clean_user_id(named, "/data/endUser")


def _place(name: str) -> str:
    """A member's name in a JSON pointer (RFC 6901 section 3)."""
    return f"/data/startParameters/{name.replace('~', '~0').replace('/', '~1')}".rstrip("/")


@schema.session
class SessionView(SessionsView):
    """GET sessions/{id}. What was started goes on, and can be followed, after its module is unpublished."""

    def get(self, request: Any, published_module_id: str, session_id: str) -> HttpResponse:
        wanted = {name.strip() for name in request.GET.get("include", "").split(",")} - {""}
        if wanted - {"result"}:
            raise InvalidInput({"include": ["Only result can be included."]})
        rows = visible(self.caller).filter(module=self.module, session_id=session_id)
        run = (rows.defer("parameters") if wanted else rows.only("status", "session_id")).first()
        if run is None:
            raise errors.NotFound("There is no such session.")
        data: dict[str, Any] = {"state": state_of(run)}
        if wanted:
            data |= result_of(run)
        return json_answer({"data": data, "links": links(self.module, run.session_id)})
