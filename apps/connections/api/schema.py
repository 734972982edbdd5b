"""What the API's description says of integrations, connections and end users."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.openapi import END_USER, IDEMPOTENCY_KEY, operation, paged, query

from ..models import Connection
from .serializers import AvailableRow, ChangeBody, ConfigureBody, ConnectBody, ImportBody


class Available(serializers.Serializer[Any]):
    integrations = AvailableRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


class IntegrationRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    app_id = serializers.CharField()
    toolkit_slug = serializers.CharField()
    display_name = serializers.CharField(allow_blank=True)
    enabled = serializers.BooleanField()
    scopes = serializers.ListField(child=serializers.CharField(), help_text="Empty: the toolkit's own.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class Config(serializers.Serializer[Any]):
    app_id = serializers.CharField()
    integrations = IntegrationRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


class Started(serializers.Serializer[Any]):
    authUrl = serializers.CharField(help_text="Send the person's browser there. Works once, for 30 minutes.")
    connectionRequestId = serializers.CharField(help_text="The id that the connection will have (when renewed: has).")


class ConnectionRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    app_user_id = serializers.CharField(allow_null=True, help_text="Null for a project's shared account.")
    toolkit_slug = serializers.CharField()
    status = serializers.ChoiceField(
        ["pending", *Connection.Status.values],
        help_text="pending: the person has not finished; inactive: waits for your confirmation, or was never finished; "
        "expired: must be connected again.",
    )
    account = serializers.CharField(allow_null=True, help_text="The account's name at the service.")
    account_picture = serializers.CharField(allow_null=True, help_text="Address of its picture there.")
    scopes = serializers.ListField(child=serializers.CharField(), help_text="Granted by the service.")
    missing_scopes = serializers.ListField(child=serializers.CharField(), help_text="Asked for, and not granted.")
    label = serializers.CharField(allow_null=True, help_text="Your own name for the connection.")  # type: ignore[assignment] # a field
    metadata = serializers.DictField(help_text="Your own JSON.")
    connected_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True)


class Connections(serializers.Serializer[Any]):
    connections = ConnectionRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


class ConnectionToken(serializers.Serializer[Any]):
    accessToken = serializers.CharField(allow_null=True)
    expiresAt = serializers.DateTimeField(allow_null=True)
    type = serializers.CharField(help_text="The kind of account: oauth2, api_key, …")
    tokenSecret = serializers.CharField(required=False, help_text="OAuth 1.0a.")
    credentials = serializers.DictField(required=False)


class EndUserRow(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="Your own id of the person.")
    created_at = serializers.DateTimeField()


class EndUsers(serializers.Serializer[Any]):
    endUsers = EndUserRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


AVAILABLE = {
    "integrations": [
        {
            "toolkit": "salesforce",
            "displayName": "Salesforce",
            "curated": False,
            "authSchemes": ["oauth2"],
            "requiresOwnCredentials": True,
        }
    ],
    "nextCursor": None,
}
INTEGRATION = {
    "id": "int_1v0c9",
    "app_id": "proj_4t8yq2",
    "toolkit_slug": "gmail",
    "display_name": "Gmail",
    "enabled": True,
    "scopes": [],
    "created_at": "2026-01-31T12:00:00+00:00",
    "updated_at": "2026-01-31T12:00:00+00:00",
}
CONNECTION: dict[str, Any] = {
    "id": "ca_9x2mzk",
    "app_user_id": "user-42",
    "toolkit_slug": "gmail",
    "status": "active",
    "account": "someone@gmail.com",
    "account_picture": None,
    "scopes": ["https://www.googleapis.com/auth/gmail.send"],
    "missing_scopes": [],
    "label": None,
    "metadata": {},
    "connected_at": "2026-01-31T12:00:00+00:00",
    "last_used_at": None,
}

available = extend_schema_view(
    get=operation(
        "listAvailable",
        "List the curated toolkits, or search the catalog",
        description="Needs the scope `admin`. With `search`, 20 a page unless `limit` says otherwise.",
        tag="Integrations",
        answer=Available,
        example=AVAILABLE,
        parameters=[query("search", "Part of a slug or name, in any case."), *paged()],
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
config = extend_schema_view(
    get=operation(
        "listIntegrations",
        "List the project's enabled toolkits",
        description="Needs the scope `admin`. Oldest first.",
        tag="Integrations",
        answer=Config,
        example={"app_id": "proj_4t8yq2", "integrations": [INTEGRATION], "nextCursor": None},
        parameters=paged(),
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
configure = extend_schema_view(
    post=operation(
        "configureIntegration",
        "Enable a toolkit, or change it",
        description="Needs the scope `admin`. Repeating it applies what is given and keeps the rest; `scopes: []` resets "
        "to the toolkit's own. `oauthCredentials` is your OAuth client at the service. `settings` may override `base_url`, "
        "`authorization_url`, `token_url`, `refresh_url`, `revocation_url`, and set the toolkit's `variables`.",
        tag="Integrations",
        body=ConfigureBody,
        sent={"toolkit": "gmail", "displayName": "Gmail", "scopes": []},
        answer=IntegrationRow,
        example=INTEGRATION,
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
configured = extend_schema_view(
    delete=operation(
        "disableIntegration",
        "Disable a toolkit",
        description="Needs the scope `admin`. New connections stop; existing ones keep working, unless "
        "`connections=revoke` ends them too. 204 also where it was not enabled.",
        tag="Integrations",
        status=204,
        parameters=[query("connections", "revoke: end the existing connections too.", choices=["revoke"])],
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
connect = extend_schema_view(
    post=operation(
        "connect",
        "Begin connecting an account",
        description="Needs the scope `connect`. `userId` is needed with a key that is bound to nobody; with a user's JWT "
        "it is ignored. `redirectUrl` must be on an allowed origin of the project. `allowMultiple` adds another account "
        "instead of renewing the one there is. `authScheme` chooses among the toolkit's schemes. "
        "`scopes` are asked for beyond the usual ones.",
        tag="Connections",
        body=ConnectBody,
        sent={"toolkit": "gmail", "redirectUrl": "https://yourapp.com/settings", "userId": "user-42"},
        answer=Started,
        example={
            "authUrl": "https://accounts.google.com/o/oauth2/v2/auth?client_id=…&state=…",
            "connectionRequestId": "ca_9x2mzk",
        },
        parameters=[IDEMPOTENCY_KEY, END_USER],
        fails=[
            errors.InvalidInput,
            errors.ToolkitNotEnabled,
            errors.NotConfigured,
            errors.NotPermitted,
            errors.Conflict,
            errors.QuotaExceeded,
            errors.Unreachable,
        ],
    )
)
connections = extend_schema_view(
    get=operation(
        "listConnections",
        "List connected accounts",
        description="Needs the scope `connect` or `admin`. A user's JWT or key sees that user's own; a key all of the "
        "project. Newest first.",
        tag="Connections",
        answer=Connections,
        example={"connections": [CONNECTION], "nextCursor": None},
        parameters=[
            query("userId", "Only this end user's; ignored with a user's own JWT."),
            query("toolkit", "Only at this toolkit."),
            *paged(),
        ],
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
connection = extend_schema_view(
    get=operation(
        "getConnection",
        "Read one connection",
        description="Needs the scope `connect` or `admin`. Answers also for a connectionRequestId whose flow has not "
        "ended: `pending`, so that you can wait for it.",
        tag="Connections",
        answer=ConnectionRow,
        example=CONNECTION,
        fails=[errors.NotPermitted],
    ),
    patch=operation(
        "changeConnection",
        "Set your own words about a connection",
        description="Needs the scope `connect`. What is absent is kept. `metadata` is an object of yours, up to 16 KiB of JSON.",
        tag="Connections",
        body=ChangeBody,
        sent={"label": "Work", "metadata": {"team": "sales"}},
        answer=ConnectionRow,
        example=CONNECTION,
        fails=[errors.InvalidInput, errors.NotPermitted, errors.BodyTooLarge],
    ),
    delete=operation(
        "deleteConnection",
        "Disconnect an account",
        description="Needs the scope `connect`. Revokes the credentials at the service too, where it can.",
        tag="Connections",
        status=204,
        fails=[errors.NotPermitted],
    ),
)
import_connection = extend_schema_view(
    post=operation(
        "importConnection",
        "Import credentials that were got elsewhere",
        description="Needs the scope `admin`. `credentials` are the account's own: `{accessToken, refreshToken}` (OAuth 2), "
        "`{oauthToken, oauthTokenSecret}` (OAuth 1.0a), `{clientId, clientSecret}` (client credentials), `{apiKey}`, "
        "`{token}`, `{username, password}`, or the toolkit's own fields. The toolkit's test call must accept them, unless "
        "`verify` is false; a stale access token is refreshed first. The user's account there is renewed and keeps its id. "
        "`shared: true` in place of `userId` imports the account that calls for nobody use.",
        tag="Connections",
        status=201,
        body=ImportBody,
        sent={
            "toolkit": "gmail",
            "userId": "user-42",
            "credentials": {"accessToken": "ya29.a0…", "refreshToken": "1//0e…"},
            "expiresAt": "2026-01-31T13:00:00Z",
            "scopes": ["https://www.googleapis.com/auth/gmail.send"],
        },
        answer=ConnectionRow,
        example=CONNECTION,
        parameters=[IDEMPOTENCY_KEY, END_USER],
        fails=[
            errors.InvalidInput,
            errors.ToolkitNotEnabled,
            errors.NotConfigured,
            errors.NotPermitted,
            errors.PlanLimitReached,
            errors.Conflict,
            errors.BodyTooLarge,
        ],
    )
)
connection_token = extend_schema_view(
    get=operation(
        "getConnectionToken",
        "Read a connection's access token",
        description="Needs the scope `secrets`. Refreshed if need be; audited. Of accounts without a single token (basic, "
        "custom) `accessToken` is null and `credentials` has the fields.",
        tag="Connections",
        answer=ConnectionToken,
        example={"accessToken": "ya29.a0…", "expiresAt": "2026-01-31T13:00:00+00:00", "type": "oauth2"},
        fails=[errors.NotPermitted, errors.NotConnected, errors.ConnectionExpired, errors.RefreshUnavailable],
    )
)
confirm = extend_schema_view(
    post=operation(
        "confirmConnection",
        "Confirm a new connection",
        description="Needs the scope `connect`. For projects with `confirmConnections`: makes an inactive connection active.",
        tag="Connections",
        answer=ConnectionRow,
        example=CONNECTION,
        fails=[errors.NotPermitted],
    )
)
end_users = extend_schema_view(
    get=operation(
        "listEndUsers",
        "List the project's end users",
        description="Needs the scope `admin`. Newest first.",
        tag="End users",
        answer=EndUsers,
        example={"endUsers": [{"id": "user-42", "created_at": "2026-01-31T12:00:00+00:00"}], "nextCursor": None},
        parameters=paged(),
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
end_user = extend_schema_view(
    delete=operation(
        "deleteEndUser",
        "Delete an end user with everything of theirs",
        description="Needs the scope `admin`. Revokes and deletes their connections. 204 also where there was no such user.",
        tag="End users",
        status=204,
        fails=[errors.NotPermitted],
    )
)
