"""The Integrations API: tools, execute, and the log of executions."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse

from apps.connections.api.serializers import checked_body
from apps.connections.integrations import find_toolkit
from apps.connections.models import Integration
from apps.lib import errors
from apps.lib.api import json_answer, offset_page, page, read_time
from apps.lib.errors import InvalidInput
from apps.toolkits.presentation import FORMATS
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Tool, Toolkit
from apps.workspaces.api.base import ProjectView
from apps.workspaces.idempotency import idempotent

from .. import services
from ..journal import journal
from ..models import Execution
from . import schema
from .serializers import ExecuteBody, execution_row

LISTED = 500


@schema.tools
class ToolsView(ProjectView):
    """GET tools: of the project's enabled toolkits; of any with ``toolkit=``."""

    scopes = {"GET": ("execute", "connect", "admin")}

    def get(self, request: Any, app_id: str) -> HttpResponse:
        form = request.GET.get("format", "")
        if form not in FORMATS:
            raise InvalidInput({"format": ["Must be openai, anthropic or mcp."]})
        found = [(toolkit, tool) for toolkit in self._toolkits(request) for tool in toolkit.tools]
        text = request.GET.get("search", "").strip().casefold()
        if text:
            found = [pair for pair in found if _matches(text, *pair)]
        rows, cursor = offset_page(found, request._request, LISTED)
        return json_answer({"tools": [FORMATS[form](toolkit, tool) for toolkit, tool in rows], "nextCursor": cursor})

    def _toolkits(self, request: Any) -> list[Toolkit]:
        slug = request.GET.get("toolkit", "")
        if slug:
            return [find_toolkit(slug, self.project)]
        enabled = Integration.objects.filter(project=self.project).primary().enabled().values_list("toolkit", flat=True)
        found = (catalog(self.project).get(slug) for slug in sorted(enabled) if self.caller.may_use(slug))
        return [toolkit for toolkit in found if toolkit is not None]


def _matches(text: str, toolkit: Toolkit, tool: Tool) -> bool:
    words = f"{toolkit.public_name(tool)} {toolkit.slug}.{tool.slug} {tool.name} {tool.description}".casefold()
    return all(word in words for word in text.split())


@schema.execute
class ExecuteView(ProjectView):
    """POST execute: runs a tool."""

    scopes = {"POST": ("execute",)}

    @idempotent
    def post(self, request: Any, app_id: str) -> HttpResponse:
        data = request.data
        if self.caller.user_id is not None:  # a userId in the body is ignored
            data = {name: value for name, value in data.items() if name != "userId"}
        body = checked_body(ExecuteBody, data, self.caller, request)
        outcome = services.execute(
            self.caller,
            body["toolName"],
            body["params"],
            user_id=body["userId"],
            connection_id=body.get("connectionId"),
        )
        if outcome.raw_json is None:
            return json_answer({"successful": True, "data": outcome.data})
        # The provider's own bytes: no number loses a digit on the way, and nothing is serialised twice.
        text = b'{"successful":true,"data":' + outcome.raw_json + b"}"
        return HttpResponse(text, content_type="application/json")


@schema.executions
class ExecutionsView(ProjectView):
    """GET executions: the log, newest first."""

    scopes = {"GET": ("admin",)}
    FILTERS = {"toolkit": "toolkit", "tool": "tool", "userId": "user_id", "connectionId": "connection_id",
               "requestId": "request_id", "surface": "surface"}  # fmt: skip

    def get(self, request: Any, app_id: str) -> HttpResponse:
        journal.flush()  # what this process has answered is listed at once
        rows = Execution.objects.filter(project=self.project)
        for name, column in self.FILTERS.items():
            if name in request.GET:
                rows = rows.filter(**{column: request.GET[name].replace("\x00", "")})
        if "successful" in request.GET:
            if request.GET["successful"] not in {"true", "false"}:
                raise InvalidInput({"successful": ["Must be true or false."]})
            rows = rows.filter(successful=request.GET["successful"] == "true")
        for name, lookup in (("since", "created_at__gte"), ("until", "created_at__lt")):
            if name in request.GET:
                rows = rows.filter(**{lookup: _time(name, request.GET[name])})
        found, cursor = page(rows, request._request)
        return json_answer({"executions": [execution_row(row) for row in found], "nextCursor": cursor})


@schema.execution
class ExecutionView(ProjectView):
    """GET executions/{id}."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str, execution_id: str) -> HttpResponse:
        journal.flush()
        row = Execution.objects.filter(project=self.project, pk=execution_id).first()
        if row is None:
            raise errors.NotFound
        return json_answer(execution_row(row))


def _time(name: str, text: str) -> Any:
    found = read_time(text)
    if found is None:
        raise InvalidInput({name: ["Must be a time with its zone, like 2026-01-31T12:00:00Z."]})
    return found
