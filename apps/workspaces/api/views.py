"""The platform's own routes of a project: user tokens and settings."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse

from apps.lib import errors
from apps.lib.api import json_answer

from .. import services, tokens
from ..audit import record
from . import schema
from . import serializers as s
from .base import ProjectView


@schema.user_tokens
class UserTokensView(ProjectView):
    """POST user-tokens: mints a token with which one end user calls."""

    scopes = {"POST": ("connect",)}

    def post(self, request: Any, app_id: str) -> HttpResponse:
        if self.caller.kind == "end_user" or self.caller.user_id is not None:
            raise errors.NotPermitted("A user's own token or key mints no further tokens.")
        body = self.body(s.UserTokenBody)
        user_id = services.clean_user_id(request.data.get("userId"))
        token, expires_at = tokens.mint_user_token(
            self.project, user_id, body["ttl"], scopes=self.caller.scopes, toolkits=self.caller.toolkits
        )
        record(self.caller.actor, "user_token.minted", user_id, project=self.project, seconds=body["ttl"])
        return json_answer({"token": token, "expiresAt": expires_at.isoformat()}, 201)


@schema.settings
class SettingsView(ProjectView):
    """GET and PATCH settings."""

    scopes = {"GET": ("admin",), "PATCH": ("admin",)}

    def get(self, request: Any, app_id: str) -> HttpResponse:
        return json_answer(s.settings_row(self.project))

    def patch(self, request: Any, app_id: str) -> HttpResponse:
        changes = self.body(s.SettingsBody)
        project = services.change_settings(self.project, changes, self.caller.actor)
        return json_answer(s.settings_row(project))
