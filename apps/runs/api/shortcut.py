"""The Shortcut API: execute by two slugs, what can be executed, connecting."""

from __future__ import annotations

import functools
import json
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone

from apps.connections import flows
from apps.connections.models import Connection, ConnectSession
from apps.lib import errors
from apps.lib.api import json_answer
from apps.lib.errors import InvalidInput
from apps.toolkits.spec import RESERVED_SLUGS
from apps.workspaces.api.base import ShortcutView
from apps.workspaces.idempotency import answered_by_provider, idempotent

from .. import shortcut, skills
from ..services import Outcome
from . import shortcut_schema as schema

READERS = ("execute", "connect")


@schema.execute
class EndpointView(ShortcutView):
    """POST {integration}/{endpoint}: calls the service."""

    scopes = {"POST": ("execute",)}

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request.method == "POST":  # before the body is looked at: what the key may, and what there is
            self.toolkit, self.tool = shortcut.find(self.caller, kwargs["integration"], kwargs["endpoint"])

    @idempotent
    def post(self, request: Any, integration: str, endpoint: str) -> HttpResponse:
        params = request.data.get("params", {})
        if not isinstance(params, dict):
            raise InvalidInput({"params": ["Must be a JSON object."]})
        return _passed_on(shortcut.execute(self.caller, self.toolkit, self.tool, params, self.user_id()))


def _passed_on(outcome: Outcome) -> HttpResponse:
    """The service's answer as it came: its JSON byte for byte, so that no number loses a digit on the way."""
    status = outcome.provider_status
    is_success = 200 <= status < 300
    body = outcome.raw_json
    if body is None:
        body = json.dumps(outcome.data, ensure_ascii=False).encode("utf-8", errors="replace")
    text = b'{"status":%d,"%s":%b}' % (status, b"data" if is_success else b"error", body)
    # What is beyond HTTP's own classes (RFC 9110 section 15) cannot be passed on, and a 304 has no body.
    shown = 200 if is_success else status if 300 <= status < 600 else 502
    response = HttpResponse(b"" if shown == 304 else text, status=shown, content_type="application/json")
    if outcome.retry_after is not None or shown == 429:
        response["Retry-After"] = str(max(1, outcome.retry_after or 1))
    return answered_by_provider(response, shown)


@schema.skills
class SkillsView(ShortcutView):
    """GET skills: what the key may use."""

    scopes = {"GET": READERS}

    def get(self, request: Any) -> HttpResponse:
        return json_answer({"integrations": skills.listed(self.caller, self.user_id())})


@schema.skill
class SkillView(ShortcutView):
    """GET skills/{integration}: its endpoints."""

    scopes = {"GET": READERS}

    def get(self, request: Any, integration: str) -> HttpResponse:
        return json_answer(skills.described(shortcut.find_toolkit(self.caller, integration)))


@schema.skill_endpoint
class SkillEndpointView(ShortcutView):
    """GET skills/{integration}/{endpoint}: its documentation."""

    scopes = {"GET": READERS}

    def get(self, request: Any, integration: str, endpoint: str) -> HttpResponse:
        toolkit = shortcut.find_toolkit(self.caller, integration)
        return json_answer(skills.documented(toolkit, shortcut.find_tool(toolkit, endpoint)))


@schema.download
class DownloadView(ShortcutView):
    """GET {integration}/download: files for coding agents."""

    scopes = {"GET": READERS}

    def get(self, request: Any, integration: str) -> HttpResponse:
        toolkit = shortcut.find_toolkit(self.caller, integration)
        return json_answer({"slug": toolkit.slug, "files": skills.files(toolkit)})


_execute = EndpointView.as_view()
_download = DownloadView.as_view()


@functools.wraps(_download)
def download(request: HttpRequest, integration: str) -> HttpResponseBase:
    """A toolkit may have a tool named download: that one is called by POST."""
    if request.method == "POST":
        return _execute(request, integration=integration, endpoint="download")
    return _download(request, integration=integration)


def unknown(request: HttpRequest, integration: str, endpoint: str) -> HttpResponseBase:
    """A call of what cannot be a toolkit's slug is told so as any other unknown toolkit; no path but a call's is meant.

    Raises `NotFound`.
    """
    if request.method != "POST" or integration.startswith("proj_") or integration in RESERVED_SLUGS:
        raise errors.NotFound("There is no such path.")
    return _execute(request, integration=integration, endpoint=endpoint)


unknown.view_class = EndpointView  # type: ignore[attr-defined] # who walks the URL map finds its method there


@schema.connect
class ConnectView(ShortcutView):
    """POST connect: begins a flow."""

    scopes = {"POST": ("connect",)}

    @idempotent
    def post(self, request: Any) -> HttpResponse:
        body = self.body(schema.ShortcutConnectBody)
        slug = body["integration"]
        toolkit = shortcut.find_toolkit(self.caller, slug)
        user_id = shortcut.require_user(self.user_id())
        try:
            started = flows.start_connect(
                self.project, user_id, toolkit.slug, redirect_url=body.get("redirect_url", "")
            )
        except (errors.ToolkitNotEnabled, errors.NotConfigured) as error:
            raise shortcut.mendable(error, self.caller, slug, user_id) from None
        except InvalidInput as error:
            raise _in_our_words(error) from None
        return json_answer({"oauth_url": started.url, "connection_id": started.connection_id})


def _in_our_words(error: InvalidInput) -> InvalidInput:
    faults = {name.replace("redirectUrl", "redirect_url"): said for name, said in (error.details or {}).items()}
    return InvalidInput(faults, remediation=error.advice)


@schema.connecting
class ConnectingView(ShortcutView):
    """GET connect/{connectionId}: how a flow stands."""

    scopes = {"GET": ("connect",)}

    def get(self, request: Any, connection_id: str) -> HttpResponse:
        user_id = shortcut.require_user(self.user_id())
        connection = Connection.objects.of_user(self.project.pk, user_id).filter(pk=connection_id).first()
        rows = ConnectSession.objects.filter(project=self.project, connection_id=connection_id)
        rows = rows.filter(end_user__external_id=user_id).select_related("integration")
        session = rows.order_by("-created_at").first()
        slug = connection.toolkit if connection else session.integration.toolkit if session else ""
        if not slug or not self.caller.may_use(slug):
            raise errors.NotFound
        return json_answer({"status": _state(connection, session), "integration": slug})


def _state(connection: Connection | None, session: ConnectSession | None) -> str:
    """Raises `NotFound` for a connection that was made and has been deleted."""
    if connection is not None and connection.status == Connection.Status.ACTIVE:
        return "connected"
    if connection is not None and connection.status == Connection.Status.INACTIVE:
        return "pending"  # it waits for the integrator's word
    if connection is None and session is not None and session.outcome == "connected":
        raise errors.NotFound
    # Used and not ended: the callback is at work just now.
    is_open = session is not None and not session.outcome and session.expires_at > timezone.now()
    return "pending" if is_open else "error"
