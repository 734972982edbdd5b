"""What the API's description says of the Shortcut API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, PolymorphicProxySerializer, extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.api import StrictText
from apps.lib.envelopes import SHORTCUT
from apps.lib.openapi import IDEMPOTENCY_KEY, ShortcutError, header, operation

from .schema import AnyJson, JsonSchema
from .serializers import JsonObject

TAG = "Shortcut API"
END_USER = header("X-End-User", "The end user of the call, with a key that is bound to nobody.")


class ShortcutExecuteBody(serializers.Serializer[Any]):
    params = JsonObject(required=False, help_text="The endpoint's parameters; absent: none.")


class Passed(serializers.Serializer[Any]):
    status = serializers.IntegerField(help_text="The service's own.")
    data = AnyJson(  # type: ignore[assignment] # a field; the metaclass takes it out of the class
        help_text="The service's JSON as it came; a text for texts; {contentType, size, filename, base64} for binary answers; "
        "null for an empty one."
    )


class Refused(serializers.Serializer[Any]):
    """The service's own refusal, with its HTTP status."""

    status = serializers.IntegerField()
    error = AnyJson(help_text="The service's body, as in data.")


OURS_OR_THEIRS = PolymorphicProxySerializer(
    component_name="ShortcutRefusal", serializers=[ShortcutError, Refused], resource_type_field_name=None
)


class SkillRow(serializers.Serializer[Any]):
    slug = serializers.CharField()
    name = serializers.CharField()
    connected = serializers.BooleanField(help_text="Whether the user has an account connected; false for nobody.")
    endpoints = serializers.ListField(child=serializers.CharField(), help_text="Their names.")


class Integrations(serializers.Serializer[Any]):
    integrations = SkillRow(many=True)


class EndpointRow(serializers.Serializer[Any]):
    name = serializers.CharField()
    method = serializers.CharField(help_text="The service's; an endpoint is always called by POST.")
    description = serializers.CharField()


class Skill(serializers.Serializer[Any]):
    slug = serializers.CharField()
    name = serializers.CharField()
    auth = serializers.CharField(help_text="How accounts are connected: oauth2, api_key, basic, …")
    endpoints = EndpointRow(many=True)


class ErrorRow(serializers.Serializer[Any]):
    status = serializers.IntegerField()
    error = serializers.CharField()
    description = serializers.CharField()


class ExampleRequest(serializers.Serializer[Any]):
    method = serializers.CharField()
    url = serializers.CharField()
    headers = serializers.DictField(child=serializers.CharField())
    body = ShortcutExecuteBody()


class Endpoint(serializers.Serializer[Any]):
    name = serializers.CharField()
    method = serializers.CharField()
    description = serializers.CharField()
    parameters = JsonSchema(help_text="JSON Schema of params.")
    example_request = ExampleRequest()
    scopes = serializers.ListField(child=serializers.CharField(), help_text="At the service, as far as known.")
    errors = ErrorRow(many=True)  # type: ignore[assignment] # a field; the metaclass takes it out of the class


class File(serializers.Serializer[Any]):
    file_path = serializers.CharField()
    content = serializers.CharField(help_text="Markdown.")


class Download(serializers.Serializer[Any]):
    slug = serializers.CharField()
    files = File(many=True)


class ShortcutConnectBody(serializers.Serializer[Any]):
    integration = StrictText(max_length=100)
    redirect_url = StrictText(
        max_length=2000, required=False, allow_blank=True, help_text="On an origin that the project allows."
    )


class Connecting(serializers.Serializer[Any]):
    oauth_url = serializers.CharField(help_text="Send the person's browser there. Works once, for 30 minutes.")
    connection_id = serializers.CharField()


class State(serializers.Serializer[Any]):
    status = serializers.ChoiceField(["pending", "connected", "error"])
    integration = serializers.CharField()


ENDPOINT = {"name": "create_issue", "method": "POST", "description": "Opens an issue in a repository."}
ISSUE = {
    "id": 42,
    "number": 7,
    "title": "Bug report",
    "state": "open",
    "html_url": "https://github.com/acme/webapp/issues/7",
}
SENT = {
    "params": {
        "repo": "acme/webapp",
        "title": "Bug report",
        "body": "Steps to reproduce...",
        "labels": ["bug", "priority"],
    }
}
DOCUMENTED = {
    **ENDPOINT,
    "parameters": {
        "type": "object",
        "properties": {"repo": {"type": "string"}, "title": {"type": "string"}},
        "required": ["repo", "title"],
        "additionalProperties": False,
    },
    "example_request": {
        "method": "POST",
        "url": "https://jackfield.example/v1/github/create_issue",
        "headers": {"Authorization": "Bearer jf_sk_…", "Content-Type": "application/json"},
        "body": {"params": {"repo": "acme/webapp", "title": "Bug report"}},
    },
    "scopes": ["repo"],
    "errors": [{"status": 404, "error": "not_found", "description": "There is no such integration or endpoint."}],
}
CALL_ERRORS = [
    errors.NotPermitted,
    errors.BadRequest,
    errors.InvalidInput,
    errors.NotConnected,
    errors.ToolkitNotEnabled,
    errors.ConnectionExpired,
    errors.QuotaExceeded,
    errors.RateLimited,
    errors.Conflict,
    errors.BodyTooLarge,
    errors.Unreachable,
    errors.TimedOut,
    errors.AnswerTooLarge,
    errors.AddressRefused,
    errors.RefreshUnavailable,
    errors.CircuitOpen,
]


def described(name: str, summary: str, **options: Any) -> Any:
    options.setdefault("fails", [errors.BadRequest, errors.InvalidInput, errors.NotPermitted])
    parameters = [END_USER, *options.pop("parameters", [])]
    return operation(name, summary, tag=TAG, envelope=SHORTCUT, parameters=parameters, **options)


execute = extend_schema_view(
    post=described(
        "shortcutExecute",
        "Call an endpoint of a service with the user's connected account",
        description="Needs the scope `execute`. Checked in this order: key, the key's toolkits, integration and endpoint, "
        "parameters, connection, limits. Where the service refuses, its own status is passed on, with "
        "`{status, error}` (default).",
        body=ShortcutExecuteBody,
        sent=SENT,
        answer=Passed,
        example={"status": 200, "data": ISSUE},
        parameters=[IDEMPOTENCY_KEY],
        fails=CALL_ERRORS,
        refusal=OURS_OR_THEIRS,
        answers={"default": OpenApiResponse(Refused, description="The service's own refusal, with its status.")},
    )
)
skills = extend_schema_view(
    get=described(
        "listSkills",
        "List the integrations that the key may use",
        description="Needs the scope `execute` or `connect`. The project's enabled toolkits, with their endpoints' names.",
        answer=Integrations,
        example={
            "integrations": [
                {"slug": "github", "name": "GitHub", "connected": True, "endpoints": ["create_issue", "list_issues"]}
            ]
        },
    )
)
skill = extend_schema_view(
    get=described(
        "getSkill",
        "Describe an integration",
        description="Needs the scope `execute` or `connect`. Any toolkit of the catalog, enabled or not.",
        answer=Skill,
        example={"slug": "github", "name": "GitHub", "auth": "oauth2", "endpoints": [ENDPOINT]},
    )
)
skill_endpoint = extend_schema_view(
    get=described(
        "getSkillEndpoint",
        "Document an endpoint",
        description="Needs the scope `execute` or `connect`.",
        answer=Endpoint,
        example=DOCUMENTED,
    )
)
download = extend_schema_view(
    get=described(
        "downloadSkill",
        "Download an integration's documentation for coding agents",
        description="Needs the scope `execute` or `connect`. SKILL.md, and one Markdown page an endpoint.",
        answer=Download,
        example={"slug": "github", "files": [{"file_path": "SKILL.md", "content": "---\nname: github\n…"}]},
    )
)
connect = extend_schema_view(
    post=described(
        "shortcutConnect",
        "Begin connecting an account",
        description="Needs the scope `connect`.",
        body=ShortcutConnectBody,
        sent={"integration": "github"},
        answer=Connecting,
        example={"oauth_url": "https://github.com/login/oauth/authorize?…", "connection_id": "ca_9x2mzk"},
        parameters=[IDEMPOTENCY_KEY],
        fails=[
            errors.BadRequest,
            errors.InvalidInput,
            errors.NotPermitted,
            errors.ToolkitNotEnabled,
            errors.NotConfigured,
            errors.PlanLimitReached,
            errors.Conflict,
            errors.BodyTooLarge,
        ],
    )
)
connecting = extend_schema_view(
    get=described(
        "getShortcutConnection",
        "Ask whether an account is connected",
        description="Needs the scope `connect`. Poll it until it is no longer `pending`.",
        answer=State,
        example={"status": "connected", "integration": "github"},
    )
)
