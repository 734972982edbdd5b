"""Importing credentials, handing a token out, and the integrator's own words about a connection."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse

from apps.lib.api import json_answer
from apps.workspaces.api.base import ProjectView
from apps.workspaces.idempotency import idempotent

from .. import imports
from . import schema
from . import serializers as s
from .views import find_connection


@schema.import_connection
class ImportView(ProjectView):
    """POST connections/import."""

    scopes = {"POST": ("admin",)}

    @idempotent
    def post(self, request: Any, app_id: str) -> HttpResponse:
        body = s.checked_body_or_shared(s.ImportBody, request.data, self.caller, request)
        self.caller.require_toolkit(body["toolkit"])
        connection = imports.import_connection(
            self.project,
            imports.Import(
                toolkit=body["toolkit"],
                user_id=body["userId"] or None,
                credentials=body["credentials"],
                expires_at=body.get("expiresAt"),
                scopes=body.get("scopes"),
                variables=body.get("variables"),
                auth_scheme=body.get("authScheme"),
                verify=body["verify"],
                allow_multiple=body["allowMultiple"],
                label=body.get("label"),
                metadata=body.get("metadata"),
            ),
            self.caller.actor,
        )
        return json_answer(s.connection_row(connection), 201)


@schema.connection_token
class TokenView(ProjectView):
    """GET connections/{id}/token."""

    def get(self, request: Any, app_id: str, connection_id: str) -> HttpResponse:
        # Not by `scopes`: there a member who may only look would do, and this is no looking.
        self.caller.require("secrets")
        return json_answer(imports.hand_out(find_connection(self, connection_id), self.caller.actor))
