"""POST connect-sessions: the link to a hosted connect page."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.api import StrictText, json_answer
from apps.lib.openapi import END_USER, IDEMPOTENCY_KEY, operation
from apps.workspaces.api.base import ProjectView
from apps.workspaces.idempotency import idempotent

from .. import hosted
from .serializers import checked_body


class SessionBody(serializers.Serializer[Any]):
    userId = StrictText(max_length=255, required=False, trim_whitespace=False)
    toolkits = serializers.ListField(
        child=StrictText(max_length=100), required=False, allow_empty=False, max_length=500
    )
    redirectUrl = StrictText(max_length=2000, required=False, allow_blank=True)
    allowedOrigins = serializers.ListField(child=StrictText(max_length=500), required=False, max_length=50)


class Session(serializers.Serializer[Any]):
    id = serializers.CharField()
    url = serializers.CharField(help_text="The page's address. It opens in one browser.")
    expiresAt = serializers.DateTimeField()


described = extend_schema_view(
    post=operation(
        "createConnectSession",
        "Make a link to the hosted connect page",
        description="Needs the scope `connect`. The page shows the person's accounts at the project's enabled toolkits, or "
        "at `toolkits`, and lets the person connect, reconnect and disconnect them. It ends after 30 minutes and opens in "
        "one browser. `redirectUrl` is where its *Done* leads. `allowedOrigins` may open it with the embedding script; each "
        "must be an allowed origin of the project, absent: all of them. `userId` is needed with a key that is bound to "
        "nobody; with a user's JWT it is ignored.",
        tag="Connections",
        status=201,
        body=SessionBody,
        sent={"userId": "user-42", "toolkits": ["gmail", "slack"], "redirectUrl": "https://yourapp.com/settings"},
        answer=Session,
        example={
            "id": "Jq3v0c9QpX2mzkT81yWb5e",
            "url": "https://jackfield.example/connect/open/…",
            "expiresAt": "2026-01-31T12:30:00+00:00",
        },
        parameters=[IDEMPOTENCY_KEY, END_USER],
        fails=[errors.InvalidInput, errors.NotPermitted, errors.Conflict],
    )
)


@described
class ConnectSessionsView(ProjectView):
    """POST connect-sessions."""

    scopes = {"POST": ("connect",)}

    @idempotent
    def post(self, request: Any, app_id: str) -> HttpResponse:
        data = request.data
        if self.caller.user_id is not None:  # a userId in the body is ignored
            data = {name: value for name, value in data.items() if name != "userId"}
        body = checked_body(SessionBody, data, self.caller, request)
        for slug in body.get("toolkits") or ():
            self.caller.require_toolkit(slug)
        page, url = hosted.make_page(
            self.project,
            body["userId"],
            toolkits=body.get("toolkits"),
            permitted=self.caller.toolkits,
            redirect_url=body.get("redirectUrl", ""),
            allowed_origins=body.get("allowedOrigins"),
        )
        return json_answer({"id": page.pk, "url": url, "expiresAt": page.expires_at.isoformat()}, status=201)
