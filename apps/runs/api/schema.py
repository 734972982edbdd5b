"""What the API's description says of tools, execute and the log of executions."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.openapi import END_USER, IDEMPOTENCY_KEY, operation, paged, query

from ..models import Execution
from .serializers import ExecuteBody, JsonObject

extend_schema_field({"type": "object", "additionalProperties": {}})(JsonObject)


@extend_schema_field({})
class AnyJson(serializers.JSONField):
    """Whatever JSON the service answered."""


@extend_schema_field({"type": "object", "additionalProperties": {}})
class JsonSchema(serializers.JSONField):
    """A JSON Schema (draft 2020-12)."""


class ToolRow(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="What execute takes as toolName.")
    description = serializers.CharField()
    parameters = JsonSchema(help_text="JSON Schema of params.")


class Tools(serializers.Serializer[Any]):
    tools = serializers.ListField(
        child=JsonSchema(), help_text="Rows of name, description and parameters; or what `format` names."
    )
    nextCursor = serializers.CharField(allow_null=True)


class Executed(serializers.Serializer[Any]):
    successful = serializers.BooleanField(help_text="Always true; a failure is an error answer.")
    data = AnyJson(  # type: ignore[assignment] # a field; the metaclass takes it out of the class
        help_text="The service's JSON as it came; a text for texts; {contentType, size, filename, base64} for binary answers; "
        "null for an empty one."
    )


class ExecutionRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    surface = serializers.ChoiceField(Execution.Surface.choices)
    caller = serializers.CharField(help_text="Who called.")
    userId = serializers.CharField(allow_null=True)
    connectionId = serializers.CharField(allow_null=True)
    toolkit = serializers.CharField(allow_blank=True)
    tool = serializers.CharField()
    successful = serializers.BooleanField()
    status = serializers.IntegerField(
        allow_null=True, help_text="The service's own status; null where it was not called."
    )
    error = serializers.CharField(allow_null=True)
    message = serializers.CharField(allow_null=True)
    request = serializers.CharField(
        allow_blank=True, help_text="The parameters as JSON, secrets removed, cut at 20,000."
    )
    response = serializers.CharField(
        allow_blank=True, help_text="The answer, secrets removed, cut at 20,000 characters."
    )
    durationMs = serializers.IntegerField()
    upstreamMs = serializers.IntegerField(help_text="Of which the service took.")
    tries = serializers.IntegerField()
    requestId = serializers.CharField(allow_blank=True)
    createdAt = serializers.DateTimeField()


class Executions(serializers.Serializer[Any]):
    executions = ExecutionRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


TOOL = {
    "name": "GMAIL_SEND_EMAIL",
    "description": "Sends an e-mail from the connected account.",
    "parameters": {
        "type": "object",
        "properties": {"to": {"type": "string"}, "subject": {"type": "string"}, "body": {"type": "string"}},
        "required": ["to"],
        "additionalProperties": False,
    },
}
EXECUTION = {
    "id": "0198c2f4",
    "surface": "integrations",
    "caller": "key:k1 production",
    "userId": "user-42",
    "connectionId": "ca_9x2mzk",
    "toolkit": "gmail",
    "tool": "GMAIL_SEND_EMAIL",
    "successful": True,
    "status": 200,
    "error": None,
    "message": None,
    "request": '{"to": "x@y.com", "subject": "Hi", "body": "Hello"}',
    "response": '{"id": "18d5c2", "threadId": "18d5c2"}',
    "durationMs": 412,
    "upstreamMs": 405,
    "tries": 1,
    "requestId": "req_6vnc8",
    "createdAt": "2026-01-31T12:00:00+00:00",
}

tools = extend_schema_view(
    get=operation(
        "listTools",
        "List tools with their parameters",
        description="Needs the scope `execute`, `connect` or `admin`. Tools of the project's enabled toolkits; with "
        "`toolkit` those of any toolkit of the catalog. 500 a page unless `limit` says otherwise.",
        tag="Tools",
        answer=Tools,
        example={"tools": [TOOL], "nextCursor": None},
        parameters=[
            query("toolkit", "Only of this toolkit, enabled or not."),
            query("search", "Words that name or description must have."),
            query("format", "For function calling or MCP; absent: plain.", choices=["openai", "anthropic", "mcp"]),
            *paged(),
        ],
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
execute = extend_schema_view(
    post=operation(
        "execute",
        "Run a tool with an end user's connected account",
        description="Needs the scope `execute`. `userId` is needed with a key that is bound to nobody; with a user's JWT it "
        "is ignored. `connectionId` chooses among several accounts. Checked in this order: body, tool, enabled, parameters, "
        "connection, quota.",
        tag="Tools",
        body=ExecuteBody,
        sent={
            "toolName": "GMAIL_SEND_EMAIL",
            "params": {"to": "x@y.com", "subject": "Hi", "body": "Hello"},
            "userId": "user-42",
        },
        answer=Executed,
        example={"successful": True, "data": {"id": "18d5c2", "threadId": "18d5c2", "labelIds": ["SENT"]}},
        parameters=[IDEMPOTENCY_KEY, END_USER],
        fails=[
            errors.InvalidInput,
            errors.ToolkitNotEnabled,
            errors.NotConnected,
            errors.ConnectionExpired,
            errors.NotPermitted,
            errors.Conflict,
            errors.BodyTooLarge,
            errors.UnknownTool,
            errors.ProviderRefused,
            errors.RateLimited,
            errors.QuotaExceeded,
            errors.Unreachable,
            errors.TimedOut,
            errors.AnswerTooLarge,
            errors.AddressRefused,
            errors.RefreshUnavailable,
        ],
    )
)
executions = extend_schema_view(
    get=operation(
        "listExecutions",
        "List executions, newest first",
        description="Needs the scope `admin`. Secrets are removed from what is logged.",
        tag="Executions",
        answer=Executions,
        example={"executions": [EXECUTION], "nextCursor": None},
        parameters=[
            query("toolkit", "Only of this toolkit."),
            query("tool", "Only of this tool, by its public name."),
            query("userId", "Only for this end user."),
            query("connectionId", "Only with this connection."),
            query("requestId", "Only of this X-Request-Id."),
            query("surface", "Only of this API surface.", choices=list(Execution.Surface.values)),
            query("successful", "Only successful ones, or only failures.", choices=["true", "false"]),
            query("since", "Not before this time, like 2026-01-31T12:00:00Z."),
            query("until", "Before this time."),
            *paged(),
        ],
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
execution = extend_schema_view(
    get=operation(
        "getExecution",
        "Read one execution",
        description="Needs the scope `admin`.",
        tag="Executions",
        answer=ExecutionRow,
        example=EXECUTION,
        fails=[errors.NotPermitted],
    )
)
