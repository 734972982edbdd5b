"""Bodies of the connections' part of the Integrations API, and its rows."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rest_framework import serializers

from apps.lib.api import StrictText, flatten
from apps.lib.errors import InvalidInput
from apps.toolkits.spec import Toolkit
from apps.workspaces.api.base import named_by_header
from apps.workspaces.callers import Caller

from ..access import platform_client
from ..models import Connection, ConnectSession, Integration


class OAuthCredentials(serializers.Serializer[Any]):
    clientId = StrictText(max_length=500)
    clientSecret = StrictText(max_length=4000, required=False, allow_blank=True, trim_whitespace=False)


class ConfigureBody(serializers.Serializer[Any]):
    toolkit = StrictText(max_length=100)
    displayName = StrictText(max_length=100, required=False, allow_blank=True)
    scopes = serializers.ListField(child=StrictText(max_length=500), required=False, max_length=200)
    oauthCredentials = OAuthCredentials(required=False)
    settings = serializers.DictField(required=False, help_text="Overrides: base_url, authorization_url, …, variables.")


class ConnectBody(serializers.Serializer[Any]):
    toolkit = StrictText(max_length=100)
    redirectUrl = StrictText(max_length=2000, required=False, allow_blank=True)
    userId = StrictText(max_length=255, required=False, trim_whitespace=False)
    allowMultiple = serializers.BooleanField(required=False, default=False)
    authScheme = StrictText(max_length=30, required=False)


class AvailableRow(serializers.Serializer[Any]):
    toolkit = serializers.CharField()
    displayName = serializers.CharField()
    curated = serializers.BooleanField()
    authSchemes = serializers.ListField(child=serializers.CharField())
    requiresOwnCredentials = serializers.BooleanField()


def available_row(toolkit: Toolkit) -> dict[str, Any]:
    return {
        "toolkit": toolkit.slug,
        "displayName": toolkit.name,
        "curated": toolkit.curated is not None,
        "authSchemes": [scheme.type for scheme in toolkit.auth],
        "requiresOwnCredentials": toolkit.needs_client and platform_client(toolkit.slug) is None,
    }


def integration_row(integration: Integration) -> dict[str, Any]:
    return {
        "id": integration.pk,
        "app_id": integration.project_id,
        "toolkit_slug": integration.toolkit,
        "display_name": integration.display_name,
        "enabled": integration.enabled,
        "scopes": integration.scopes,
        "created_at": integration.created_at.isoformat(),
        "updated_at": integration.updated_at.isoformat(),
    }


def connection_row(connection: Connection, *, pending: bool = False) -> dict[str, Any]:
    used = connection.last_used_at
    return {
        "id": connection.pk,
        "app_user_id": connection.end_user.external_id if connection.end_user else None,
        "toolkit_slug": connection.toolkit,
        "status": "pending" if pending else connection.status,
        "account": connection.account_label or None,
        "connected_at": connection.connected_at.isoformat(),
        "last_used_at": used.isoformat() if used else None,
    }


def pending_row(session: ConnectSession, status: str) -> dict[str, Any]:
    """The row of a connection that does not exist (yet)."""
    return {
        "id": session.connection_id,
        "app_user_id": session.end_user.external_id if session.end_user else None,
        "toolkit_slug": session.integration.toolkit,
        "status": status,
        "account": None,
        "connected_at": None,
        "last_used_at": None,
    }


def checked_body(
    serializer_class: type[serializers.Serializer[Any]], data: dict[str, Any], caller: Caller, request: Any
) -> dict[str, Any]:
    """A checked body whose ``userId`` says for whom the call is; every fault at once, a missing userId among them."""
    faults: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    try:
        # One serializer serves every call: it keeps nothing of one, and making it costs more than checking does.
        values = _shared(serializer_class).run_validation(data)
    except serializers.ValidationError as error:
        faults = flatten(error.detail)
    user_id = None
    try:
        named = data.get("userId") if "userId" not in faults else None
        user_id = caller.for_user(named, named_by_header(request))
    except InvalidInput as error:
        faults |= error.details
    if user_id is None and "userId" not in faults:
        faults["userId"] = ["This field is required with a key that is not bound to a user."]
    if faults:
        raise InvalidInput(faults)
    return dict(values) | {"userId": user_id}


@lru_cache(maxsize=32)
def _shared(serializer_class: type[serializers.Serializer[Any]]) -> serializers.Serializer[Any]:
    return serializer_class()
