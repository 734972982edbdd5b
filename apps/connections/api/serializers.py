"""Bodies of the connections' part of the Integrations API, and its rows."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from rest_framework import serializers

from apps.lib.api import StrictText, checked, flatten
from apps.lib.errors import InvalidInput
from apps.toolkits.spec import Toolkit
from apps.workspaces.api.base import named_by_header
from apps.workspaces.callers import Caller

from ..access import missing_scopes, platform_client
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
    shared = serializers.BooleanField(
        required=False, default=False, help_text="In place of userId: the account of calls for nobody; needs `admin`."
    )
    allowMultiple = serializers.BooleanField(required=False, default=False)
    authScheme = StrictText(max_length=30, required=False)
    scopes = serializers.ListField(
        child=StrictText(max_length=500), required=False, max_length=100, help_text="Asked for beyond the usual ones."
    )


MOST_METADATA = 16 * 1024  # bytes of its JSON


class Metadata(serializers.DictField):
    """The integrator's own JSON object, up to 16 KiB."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            raise serializers.ValidationError("Must be a JSON object.")
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        if len(text.encode()) > MOST_METADATA:
            raise serializers.ValidationError("Must have at most 16 KiB as JSON.")
        if "\\u0000" in text.replace("\\\\", ""):
            raise serializers.ValidationError("Must not have NUL characters.")
        return data


class TextDict(serializers.DictField):
    child = StrictText(max_length=500)


class ChangeBody(serializers.Serializer[Any]):
    label = StrictText(max_length=100, required=False, allow_blank=True)  # type: ignore[assignment] # a field
    metadata = Metadata(required=False)


class ImportBody(serializers.Serializer[Any]):
    toolkit = StrictText(max_length=100)
    userId = StrictText(max_length=255, required=False, trim_whitespace=False)
    shared = serializers.BooleanField(
        required=False, default=False, help_text="In place of userId: everybody's account."
    )
    credentials = serializers.DictField(help_text="apiKey; token; username, password; accessToken, refreshToken; …")
    authScheme = StrictText(max_length=30, required=False)
    expiresAt = serializers.DateTimeField(required=False, allow_null=True)
    scopes = serializers.ListField(child=StrictText(max_length=500), required=False, max_length=200)
    variables = TextDict(required=False)
    verify = serializers.BooleanField(required=False, default=True)
    allowMultiple = serializers.BooleanField(required=False, default=False)
    label = StrictText(max_length=100, required=False, allow_blank=True)  # type: ignore[assignment] # a field
    metadata = Metadata(required=False)


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
        "account_picture": connection.account_picture or None,
        "scopes": connection.scopes,
        "missing_scopes": missing_scopes(connection.asked_scopes, connection.scopes),
        "label": connection.label or None,
        "metadata": connection.metadata,
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
        "account_picture": None,
        "scopes": [],
        "missing_scopes": [],
        "label": None,
        "metadata": {},
        "connected_at": None,
        "last_used_at": None,
    }


def checked_body_or_shared(
    serializer_class: type[serializers.Serializer[Any]], data: dict[str, Any], caller: Caller, request: Any
) -> dict[str, Any]:
    """As `checked_body`; with ``shared`` the body is for nobody: ``userId`` is then empty. Raises `NotPermitted`."""
    if not isinstance(data.get("shared", False), bool):  # DRF would take "yes" for it, after the question was answered
        raise InvalidInput({"shared": ["Must be true or false."]})
    if data.get("shared") is not True:
        return checked_body(serializer_class, data, caller, request)
    caller.require("admin")
    if caller.user_id is not None or "userId" in data:
        raise InvalidInput({"userId": ["Must be absent for a shared account."]})
    return checked(serializer_class(data=data)) | {"userId": ""}


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
    if user_id is None and not {"userId", "X-End-User"} & faults.keys():
        faults["userId"] = ["This field is required with a key that is not bound to a user."]
    if faults:
        raise InvalidInput(faults)
    return dict(values) | {"userId": user_id}


@lru_cache(maxsize=32)
def _shared(serializer_class: type[serializers.Serializer[Any]]) -> serializers.Serializer[Any]:
    return serializer_class()
