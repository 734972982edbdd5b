"""What the API's description says of the Raw execute API."""

from __future__ import annotations

from functools import partial
from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.envelopes import RAW
from apps.lib.openapi import IDEMPOTENCY_KEY, header, operation, paged, query

from ..raw import METHODS, PERIODS
from .schema import AnyJson, JsonSchema

TAG = "Raw execute"
USER = header("X-End-User", "The end user of the call; absent: nobody, which uses the integration's shared account.")


# What a view checks cannot be described by itself: any case of a method, any JSON as a body.
class RawCreate(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=100, help_text="Need not be unique.")
    provider = serializers.CharField(max_length=100, help_text="A toolkit's slug, or `custom`.")
    config = JsonSchema(
        help_text="`baseUrl` (custom: required), `auth` {type: bearer, header, query or basic; name; prefix}, `headers`; for a "
        "toolkit its `variables` and other addresses; whatever else you like to keep there."
    )
    credentials = JsonSchema(
        required=False,
        allow_null=True,
        help_text="Make the integration's shared account: apiKey or token; username and password; accessToken, refreshToken "
        "and expiresIn; the fields of the toolkit. clientId and clientSecret become its OAuth client. Never given back.",
    )


class RawFromTemplate(serializers.Serializer[Any]):
    templateId = serializers.CharField(max_length=100, help_text="The `_id` of a template.")
    credentials = JsonSchema()
    name = serializers.CharField(max_length=100, required=False, allow_null=True, help_text="Absent: the toolkit's.")


class RawImport(serializers.Serializer[Any]):
    integrationData = JsonSchema(
        help_text="What export gave, whole or its `integration`; with credentials, if you like."
    )


class RawUpdate(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=100, required=False, allow_null=True)
    config = JsonSchema(required=False, allow_null=True, help_text="Replaces the whole.")
    credentials = JsonSchema(required=False, allow_null=True, help_text="Replace the shared account's; empty: kept.")


class RawExecute(serializers.Serializer[Any]):
    endpoint = serializers.CharField(
        max_length=8000,
        help_text="A path below the base URL, with or without a slash at its front, and with a query if you like; a whole URL "
        "below the base URL; or a tool's slug.",
    )
    method = serializers.CharField(help_text=f"{', '.join(METHODS)}, in any case. A tool has its own.")
    params = JsonSchema(required=False, allow_null=True, help_text="The query string. A list repeats its name.")
    body = AnyJson(required=False, help_text="Any JSON.")


class RawTest(serializers.Serializer[Any]):
    endpoint = serializers.CharField(
        max_length=8000, required=False, allow_null=True, allow_blank=True, help_text="Absent: the toolkit's test call."
    )
    method = serializers.CharField(required=False, allow_null=True, help_text="Absent: GET.")
    params = JsonSchema(required=False, allow_null=True)


@extend_schema_field({"type": "object", "additionalProperties": {}})
class Config(serializers.JSONField):
    """As it was given."""


class TemplateRow(serializers.Serializer[Any]):
    _id = serializers.CharField(help_text="The toolkit's slug.")
    name = serializers.CharField()
    provider = serializers.CharField()
    description = serializers.CharField(allow_blank=True)


class Templates(serializers.Serializer[Any]):
    templates = TemplateRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


class ListRow(serializers.Serializer[Any]):
    _id = serializers.CharField()
    name = serializers.CharField()
    provider = serializers.CharField()
    status = serializers.CharField(help_text="active; inactive while it is switched off.")


class Listed(serializers.Serializer[Any]):
    integrations = ListRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


class RawIntegration(ListRow):
    project = serializers.CharField()
    config = Config()
    createdAt = serializers.DateTimeField()


class RawExported(RawIntegration):
    credentials = Config(help_text="Always empty.")


class Integrated(serializers.Serializer[Any]):
    integration = RawIntegration()


class Exported(serializers.Serializer[Any]):
    integration = RawExported()


class RawAnswer(serializers.Serializer[Any]):
    status = serializers.IntegerField(help_text="The service's own.")
    response = AnyJson(
        allow_null=True,
        help_text="The service's JSON as it came; a text for texts; {contentType, size, filename, base64} for binary answers.",
    )


class RawExecuted(serializers.Serializer[Any]):
    success = serializers.BooleanField(help_text="Whether the service's answer is no error.")
    data = RawAnswer()  # type: ignore[assignment] # a field; the metaclass takes it out of the class


class Stats(serializers.Serializer[Any]):
    totalCalls = serializers.IntegerField()
    successCalls = serializers.IntegerField()
    failedCalls = serializers.IntegerField()


class Usage(serializers.Serializer[Any]):
    stats = Stats()


class Deleted(serializers.Serializer[Any]):
    message = serializers.CharField()


LIST_ROW = {"_id": "XP0taaYzGztzAwAQ", "name": "Billing", "provider": "custom", "status": "active"}
ROW = {
    **LIST_ROW,
    "project": "proj_sVi2zSZW38w4",
    "config": {"baseUrl": "https://api.example.com/v2", "auth": {"type": "header", "name": "X-Key"}},
    "createdAt": "2026-01-31T12:00:00+00:00",
}
CHANGE = (errors.InvalidInput, errors.NotPermitted, errors.Conflict, errors.BodyTooLarge, errors.PlanLimitReached)
CALL = (
    errors.InvalidInput,
    errors.NotConnected,
    errors.NotConfigured,
    errors.ConnectionExpired,
    errors.NotPermitted,
    errors.Conflict,
    errors.BodyTooLarge,
    errors.RateLimited,
    errors.ProviderLimited,
    errors.QuotaExceeded,
    errors.Unreachable,
    errors.TimedOut,
    errors.AnswerTooLarge,
    errors.AddressRefused,
    errors.RefreshUnavailable,
    errors.CircuitOpen,
)
described = partial(operation, tag=TAG, envelope=RAW)

templates = extend_schema_view(
    get=described(
        "rawTemplates",
        "List the catalog",
        description="Needs the scope `execute`, `connect` or `admin`.",
        answer=Templates,
        example={
            "templates": [
                {"_id": "github", "name": "GitHub", "provider": "github", "description": "Repositories and issues."}
            ],
            "nextCursor": None,
        },
        parameters=[query("search", "Part of a name or slug."), *paged()],
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
integrations = extend_schema_view(
    get=described(
        "rawIntegrations",
        "List the project's integrations",
        description="Needs the scope `execute`, `connect` or `admin`. Those that are switched on, wherever they were made.",
        answer=Listed,
        example={"integrations": [LIST_ROW], "nextCursor": None},
        parameters=paged(),
        fails=[errors.InvalidInput, errors.NotPermitted],
    ),
    post=described(
        "rawCreateIntegration",
        "Make an integration, with credentials of its own if you like",
        description="Needs the scope `admin`. The first of a toolkit becomes the one that connect and tools use. The service is "
        "not asked: see test.",
        body=RawCreate,
        sent={
            "name": "Billing",
            "provider": "custom",
            "config": ROW["config"],
            "credentials": {"apiKey": "k-12345"},
        },
        answer=Integrated,
        example={"integration": ROW},
        status=201,
        fails=CHANGE,
    ),
)
from_template = extend_schema_view(
    post=described(
        "rawCreateFromTemplate",
        "Make an integration of a toolkit",
        description="Needs the scope `admin`.",
        body=RawFromTemplate,
        sent={"templateId": "github", "credentials": {"token": "ghp_12345"}},
        answer=Integrated,
        example={"integration": {**ROW, "name": "GitHub", "provider": "github", "config": {}}},
        status=201,
        fails=CHANGE,
    )
)
import_ = extend_schema_view(
    post=described(
        "rawImportIntegration",
        "Make an integration of what export gave",
        description="Needs the scope `admin`. It has no credentials unless you add them.",
        body=RawImport,
        sent={"integrationData": {"integration": {**ROW, "credentials": {}}}},
        answer=Integrated,
        example={"integration": ROW},
        status=201,
        fails=CHANGE,
    )
)
integration = extend_schema_view(
    get=described(
        "rawGetIntegration",
        "Read an integration",
        description="Needs the scope `execute`, `connect` or `admin`.",
        answer=Integrated,
        example={"integration": ROW},
        fails=[errors.NotPermitted],
    ),
    patch=described(
        "rawUpdateIntegration",
        "Change an integration",
        description="Needs the scope `admin`.",
        body=RawUpdate,
        sent={"name": "Billing EU", "credentials": {"apiKey": "k-67890"}},
        answer=Integrated,
        example={"integration": {**ROW, "name": "Billing EU"}},
        fails=CHANGE,
    ),
    delete=described(
        "rawDeleteIntegration",
        "Delete an integration and disconnect its accounts",
        description="Needs the scope `admin`, of a key or of a member who may delete.",
        answer=Deleted,
        example={"message": "The integration Billing is deleted, and its accounts are disconnected."},
        fails=[errors.NotPermitted],
    ),
)
execute = extend_schema_view(
    post=described(
        "rawExecuteIntegration",
        "Call any endpoint of an integration's service",
        description="Needs the scope `execute`. The credential is the user's own, else the integration's shared one. Whatever "
        "the service answers is a 200 here, with its own status in data.status.",
        body=RawExecute,
        sent={"endpoint": "/items", "method": "POST", "params": {"notify": True}, "body": {"title": "Hello"}},
        answer=RawExecuted,
        example={"success": True, "data": {"status": 201, "response": {"id": 7, "title": "Hello"}}},
        parameters=[IDEMPOTENCY_KEY, USER],
        fails=CALL,
    )
)
test = extend_schema_view(
    post=described(
        "rawTestIntegration",
        "Try an integration's credentials",
        description="Needs the scope `execute`. Without an endpoint the toolkit's own test call; of a custom service GET of "
        "its base URL.",
        body=RawTest,
        sent={"endpoint": "/me", "method": "GET"},
        answer=RawExecuted,
        example={"success": False, "data": {"status": 401, "response": {"message": "Bad credentials"}}},
        parameters=[USER],
        fails=CALL,
    )
)
export = extend_schema_view(
    get=described(
        "rawExportIntegration",
        "Export an integration, without its credentials",
        description="Needs the scope `admin`.",
        answer=Exported,
        example={"integration": {**ROW, "credentials": {}}},
        fails=[errors.NotPermitted],
    )
)
usage = extend_schema_view(
    get=described(
        "rawUsage",
        "Count an integration's calls",
        description="Needs the scope `execute` or `admin`. Calls on every surface within the last 24 hours, 7 days or 30 days, "
        "as far as executions are kept; an end user's token counts their own.",
        answer=Usage,
        example={"stats": {"totalCalls": 12, "successCalls": 11, "failedCalls": 1}},
        parameters=[query("period", "Absent: month.", choices=list(PERIODS))],
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
