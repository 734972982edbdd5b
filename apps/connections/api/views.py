"""The Integrations API: toolkits of a project and the accounts connected there."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import HttpResponse
from django.utils import timezone

from apps.lib import errors
from apps.lib.api import json_answer, no_content, offset_page, page
from apps.lib.errors import InvalidInput
from apps.toolkits.registry import catalog
from apps.workspaces.api.base import ProjectView
from apps.workspaces.idempotency import idempotent
from apps.workspaces.models import EndUser

from .. import flows, imports, integrations, services
from ..models import Connection, ConnectSession, Integration
from . import schema
from . import serializers as s

SEARCH_PAGE = 20


@schema.available
class AvailableView(ProjectView):
    """GET available: the curated toolkits, or a search of the whole catalog."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str) -> HttpResponse:
        text = request.GET.get("search", "").strip()
        found = catalog(self.project).search(text) if text else catalog().curated()
        rows, cursor = offset_page(found, request._request, SEARCH_PAGE)
        return json_answer({"integrations": [s.available_row(toolkit) for toolkit in rows], "nextCursor": cursor})


@schema.config
class ConfigView(ProjectView):
    """GET config: what the project has switched on."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str) -> HttpResponse:
        rows = Integration.objects.filter(project=self.project).primary().enabled()
        if self.caller.toolkits:
            rows = rows.filter(toolkit__in=self.caller.toolkits)
        found, cursor = page(rows, request._request, newest_first=False)
        integrations = [s.integration_row(row) for row in found]
        return json_answer({"app_id": app_id, "integrations": integrations, "nextCursor": cursor})


@schema.configure
class ConfigureView(ProjectView):
    """POST configure: switches a toolkit on, or changes it."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, app_id: str) -> HttpResponse:
        body = self.body(s.ConfigureBody)
        self.caller.require_toolkit(body["toolkit"])
        client = body.get("oauthCredentials", {})
        integration = integrations.configure(
            self.project,
            body["toolkit"],
            self.caller.actor,
            display_name=body.get("displayName"),
            scopes=body.get("scopes"),
            client_id=client.get("clientId"),
            client_secret=client.get("clientSecret"),
            overrides=body.get("settings"),
        )
        return json_answer(s.integration_row(integration))


@schema.configured
class ConfiguredView(ProjectView):
    """DELETE configure/{toolkit}: switches it off."""

    scopes = {"DELETE": ("delete",)}

    def delete(self, request: Any, app_id: str, toolkit: str) -> HttpResponse:
        revoke = request.GET.get("connections", "")
        if revoke not in {"", "revoke"}:
            raise InvalidInput({"connections": ["Must be revoke, or absent."]})
        self.caller.require_toolkit(toolkit)
        integrations.disable(self.project, toolkit, self.caller.actor, revoke=bool(revoke))
        return no_content()


@schema.connect
class ConnectView(ProjectView):
    """POST connect: begins a flow."""

    scopes = {"POST": ("connect",)}

    @idempotent
    def post(self, request: Any, app_id: str) -> HttpResponse:
        data = request.data
        if self.caller.user_id is not None:  # a userId in the body is ignored
            data = {name: value for name, value in data.items() if name != "userId"}
        body = s.checked_body_or_shared(s.ConnectBody, data, self.caller, request)
        self.caller.require_toolkit(body["toolkit"])
        started = flows.start_connect(
            self.project,
            body["userId"],
            body["toolkit"],
            redirect_url=body.get("redirectUrl", ""),
            allow_multiple=body["allowMultiple"],
            scheme_type=body.get("authScheme"),
            scopes=body.get("scopes", ()),
        )
        return json_answer({"authUrl": started.url, "connectionRequestId": started.connection_id})


@schema.connections
class ConnectionsView(ProjectView):
    """GET connections: a user's own; all of the project for a key."""

    scopes = {"GET": ("connect", "admin")}

    def get(self, request: Any, app_id: str) -> HttpResponse:
        rows = visible(self).select_related("end_user")
        user_id, toolkit = request.GET.get("userId"), request.GET.get("toolkit")
        user_id = user_id or self.user_id()
        if user_id and self.caller.user_id is None:
            rows = rows.filter(end_user__external_id=user_id)
        if toolkit:
            rows = rows.filter(toolkit=toolkit)
        found, cursor = page(rows, request._request)
        return json_answer({"connections": [s.connection_row(row) for row in found], "nextCursor": cursor})


def visible(view: ProjectView) -> QuerySet[Connection]:
    """The connections that the caller may see: their own, or all of the project; of the key's toolkits."""
    rows = Connection.objects.filter(project=view.project)
    if view.caller.user_id is not None:
        rows = rows.filter(end_user__external_id=view.caller.user_id)
    if view.caller.toolkits:
        rows = rows.filter(toolkit__in=view.caller.toolkits)
    return rows


def find_connection(view: ProjectView, connection_id: str) -> Connection:
    """Raises `NotFound`."""
    rows = visible(view).select_related("end_user", "integration", "project")
    connection = rows.filter(pk=connection_id).first()
    if connection is None:
        raise errors.NotFound
    return connection


@schema.connection
class ConnectionView(ProjectView):
    """GET, PATCH and DELETE connections/{id}."""

    scopes = {"GET": ("connect", "admin"), "PATCH": ("connect", "admin"), "DELETE": ("disconnect",)}

    def get(self, request: Any, app_id: str, connection_id: str) -> HttpResponse:
        connection = visible(self).select_related("end_user").filter(pk=connection_id).first()
        session = self._newest_session(connection_id)
        is_open = session is not None and session.used_at is None and session.expires_at > timezone.now()
        if connection is not None:
            pending = is_open and connection.status == Connection.Status.EXPIRED
            return json_answer(s.connection_row(connection, pending=pending))
        if session is None:
            raise errors.NotFound
        # Used and not ended: the callback is at work just now.
        working = session.used_at is not None and not session.outcome and session.expires_at > timezone.now()
        if session.outcome == "connected":
            raise errors.NotFound  # it was there, and has been deleted
        return json_answer(s.pending_row(session, "pending" if is_open or working else "inactive"))

    def patch(self, request: Any, app_id: str, connection_id: str) -> HttpResponse:
        connection = find_connection(self, connection_id)
        body = self.body(s.ChangeBody)
        imports.change(connection, self.caller.actor, **body)
        return json_answer(s.connection_row(connection))

    def _newest_session(self, connection_id: str) -> ConnectSession | None:
        rows = self._sessions(connection_id)
        return rows.select_related("end_user", "integration").order_by("-created_at").first()

    def _sessions(self, connection_id: str) -> QuerySet[ConnectSession]:
        rows = ConnectSession.objects.filter(project=self.project, connection_id=connection_id)
        if self.caller.user_id is not None:
            rows = rows.filter(end_user__external_id=self.caller.user_id)
        if self.caller.toolkits:
            rows = rows.filter(integration__toolkit__in=self.caller.toolkits)
        return rows

    def delete(self, request: Any, app_id: str, connection_id: str) -> HttpResponse:
        connection = visible(self).select_related("end_user", "integration", "project").filter(pk=connection_id).first()
        if connection is not None:
            services.disconnect(connection, self.caller.actor)
        elif not flows.cancel_flows(self._sessions(connection_id)):
            raise errors.NotFound
        return no_content()


@schema.confirm
class ConfirmView(ProjectView):
    """POST connections/{id}/confirm."""

    scopes = {"POST": ("connect",)}

    def post(self, request: Any, app_id: str, connection_id: str) -> HttpResponse:
        connection = services.confirm(find_connection(self, connection_id), self.caller.actor)
        return json_answer(s.connection_row(connection))


@schema.end_users
class EndUsersView(ProjectView):
    """GET end-users."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str) -> HttpResponse:
        found, cursor = page(EndUser.objects.filter(project=self.project), request._request)
        rows = [{"id": user.external_id, "created_at": user.created_at.isoformat()} for user in found]
        return json_answer({"endUsers": rows, "nextCursor": cursor})


@schema.end_user
class EndUserView(ProjectView):
    """DELETE end-users/{userId}: revokes and purges all that is theirs."""

    scopes = {"DELETE": ("delete",)}

    def delete(self, request: Any, app_id: str, user_id: str) -> HttpResponse:
        services.purge_end_user(self.project, user_id, self.caller.actor)
        return no_content()
