"""The API's description, OpenAPI 3.1: ``/openapi.json``, and the page ``/docs`` on which every route can be tried.

Each app describes its routes in ``api/schema.py`` by `operation`; here they become one document. What is no REST
framework view (the callback, the health routes) is described here.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.settings import patched_settings
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers

from . import errors
from .api import DEFAULT_LIMIT, INTEGRATIONS, MAX_LIMIT, Envelope
from .envelopes import RAW, RUNS, SESSIONS, SHORTCUT
from .errors import Failure

Row = dict[str, Any]

DESCRIPTION = """
Connect people's accounts at third-party services, and run those services' tools with their credentials.

A project's routes begin with `/v1/{appId}`, where `appId` is the project's id (`proj_…`). They take an API key
(`Authorization: Bearer jf_sk_…` or `X-API-Key: jf_sk_…`), an end user's JWT or a member's JWT (`Authorization: Bearer …`).

Every error has its surface's form: the schema `Error`; `ShortcutError` on the Shortcut API and of personal keys; `RawError` on
the Raw execute API, `RunsError` on the Runs API, `SessionErrors` on the sessions API. Each code is explained at
[/docs/errors](/docs/errors). 429 always carries `Retry-After`, in seconds.
Lists are paged: `limit`, `cursor`, and `nextCursor` in the answer, null at the end.
With an `Idempotency-Key`, where a route takes one, a repeated request gets the first answer.
`X-Request-Id` is taken over where it is sent, else made, and stands on every answer.
"""
TAGS = {
    "Integrations": "What a project has switched on.",
    "Connections": "Accounts that people connected.",
    "Tools": "What can be executed, and executing it.",
    "Executions": "The log of what was executed.",
    "Modules": "Automations: drafts, their faults, versions, keys.",
    "Shortcut API": "One route an endpoint: `POST /v1/{integration}/{endpoint}`, for personal keys, scripts and agents.",
    "Personal keys": "API keys that end users make for themselves.",
    "Raw execute": "Integrations with credentials of their own, and any endpoint of their services.",
    "Runs API": "Starting published modules and following their runs; a project is named by its workspace's UUID and its name.",
    "Auth sessions": "Accounts that runs act with, by ids of your own: made from fields, checked, renewed.",
    "Sessions API": "Starting one published module with its own key, and following what was started.",
    "Runs": "The log of runs, and the events that they wait for.",
    "Tasks": "What runs ask people: forms and approvals.",
    "Deliveries": "Results on their way to sinks, and the secret that signs them.",
    "Hooks": "Requests of other services that start a module.",
    "End users": "The people of your product, and tokens with which they call.",
    "Project": "A project's settings.",
    "Webhooks": "Where a project's events are sent, signed by the Standard Webhooks scheme.",
    "Members": "Signing in as a member of a workspace, for an access token of 15 minutes.",
    "Installation": "Health.",
}
SECURITY_SCHEMES: Row = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, an end user's JWT, or a member's JWT.",
    },
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
}
# What the routes below a path are called with.
WITH_KEYS = ("/v1/", "/api/integrations", "/api/v1/", "/api/execution", "/{workspaceId}/")
SECURED = (*((begin, ("bearer", "apiKey")) for begin in WITH_KEYS), ("/api-keys", ("bearer",)))
BY_LINK = "/v1/job-results/"  # whoever has the address may read
PARAMETER_NAMES = {
    "app_id": ("appId", "The project's id."),
    "project_id": ("projectId", "The project's id."),
    "integration_id": ("integrationId", "The integration's id."),
    "connection_id": ("connectionId", "The connection's id."),
    "execution_id": ("executionId", "The execution's id."),
    "webhook_id": ("webhookId", "The webhook's id."),
    "delivery_id": ("deliveryId", "The delivery's id."),
    "sink_delivery_id": ("sinkDeliveryId", "The delivery's id."),
    "auth_session_id": ("authSessionId", "The auth session's id, or its connection's."),
    "operation_id": ("operationId", "The id that the operation's start answered with."),
    "user_id": ("userId", "Your own id of the person."),
    "integration": ("integration", "The toolkit's slug."),
    "endpoint": ("endpoint", "The tool's slug."),
    "key_id": ("id", "The key's id."),
    "toolkit": ("toolkit", "The toolkit's slug."),
    "name": ("name", "The module's name; it may have slashes."),
    "n": ("n", "The version's number."),
    "workspace_id": ("workspaceId", "The workspace's id, a UUID."),
    "project_name": ("projectName", "The project's name."),
    "run_id": ("runId", "The run's id."),
    "job_id": ("jobId", "The job's id."),
    "job_run_id": ("jobRunId", "The job run's id."),
    "task_id": ("taskId", "The task's id."),
    "event_name": ("eventName", "The name of the event that a step waits for."),
    "published_module_id": ("publishedModuleId", "The published module's id."),
    "session_id": ("sessionId", "The session's id."),
    "hook_token": ("token", "The token of the module's hook."),
}
# By what stands first in a path the surfaces are told apart (`apps.lib.paths`).
PATH_FORMS: Row = {
    "appId": {"pattern": "^[^/_]*_[^/]*$"},
    "projectId": {"pattern": "^[^/_]*_[^/]*$"},
    "integration": {"pattern": "^[a-z0-9-]+$"},
    "workspaceId": {"pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"},
    "token": {"pattern": "^[A-Za-z0-9_-]{43}$"},
}
AUTH_ERRORS = (errors.AuthRequired, errors.InvalidApiKey, errors.InvalidUserToken, errors.UserTokenExpired,
               errors.InvalidMemberToken)  # fmt: skip


class ErrorBody(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="Stable; decide by it, not by the message.")
    message = serializers.CharField(help_text="What happened, in a sentence.")
    remediation = serializers.CharField(help_text="What helps.")
    documentation_url = serializers.URLField(help_text="The code's explanation.")
    details = serializers.JSONField(
        required=False,
        help_text="For VALIDATION_INVALID_SCHEMA the faults as {field: [messages]}; for an error of the provider its "
        "{status, body}.",
    )


class Error(serializers.Serializer[Any]):
    """How every route of the Integrations API, and of a project's management, says no."""

    error = ErrorBody()


class ShortcutError(serializers.Serializer[Any]):
    """How every route of the Shortcut API says no."""

    error = serializers.CharField(help_text="Stable; decide by it, not by the message.")
    message = serializers.CharField(help_text="What happened, in a sentence.")
    action_url = serializers.URLField(required=False, help_text="The page on which a person can mend it.")


class RawError(serializers.Serializer[Any]):
    """How every route of the Raw execute API says no."""

    error = serializers.CharField(help_text="What happened, in a sentence.")
    code = serializers.CharField(help_text="Stable; decide by it, not by the text.")
    details = serializers.JSONField(help_text="The faults as {field: [messages]}, or what helps, as a text.")
    timestamp = serializers.DateTimeField()
    path = serializers.CharField()
    requestId = serializers.CharField()


class RunsError(serializers.Serializer[Any]):
    """How every route of the Runs API says no."""

    code = serializers.CharField(help_text="Stable; decide by it, not by the message.")
    category = serializers.CharField(help_text="`user`: what was asked for; `infrastructure`: a fault of ours.")
    message = serializers.CharField(help_text="What happened, in a sentence.")
    retirable = serializers.BooleanField(help_text="Whether the same request may succeed later.")
    details = serializers.JSONField(required=False, help_text="The faults as {field: [messages]}.")
    correlationId = serializers.CharField(help_text="The X-Request-Id.")


class FaultSource(serializers.Serializer[Any]):
    pointer = serializers.CharField(required=False, allow_blank=True, help_text="JSON pointer into the body.")
    parameter = serializers.CharField(required=False, help_text="A parameter of the query.")
    header = serializers.CharField(required=False)


class SessionFault(serializers.Serializer[Any]):
    status = serializers.CharField(help_text="The HTTP status, as a text.")
    code = serializers.CharField(help_text="Stable; decide by it, not by the text.")
    title = serializers.CharField(help_text="What kind of fault.")
    detail = serializers.CharField(help_text="What happened, in a sentence.")
    source = FaultSource(required=False)  # type: ignore[assignment] # a field; the metaclass takes it out of the class


class SessionErrors(serializers.Serializer[Any]):
    """How every route of the sessions API says no."""

    errors = SessionFault(many=True)  # type: ignore[assignment] # a field; the metaclass takes it out of the class


ERROR_SCHEMAS: dict[Envelope, type[serializers.Serializer[Any]]] = {
    INTEGRATIONS: Error, SHORTCUT: ShortcutError, RAW: RawError, RUNS: RunsError, SESSIONS: SessionErrors,
}  # fmt: skip


def paged() -> list[OpenApiParameter]:
    return [
        query(
            "limit",
            f"At most this many; {DEFAULT_LIMIT} unless the route says otherwise.",
            kind={"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
        ),
        query("cursor", "The nextCursor of the page before."),
    ]


def query(name: str, description: str, *, kind: type | Row = str, choices: list[str] | None = None) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, description=description, enum=choices)


def header(name: str, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, str, OpenApiParameter.HEADER, description=description)


IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "Up to 255 characters. The same key and body within 24 hours get the first answer (with `Idempotency-Replayed: true`); "
    "another body gets 409.",
)
END_USER = header("X-End-User", "The end user of the call, in place of the body's userId.")


def operation(
    name: str,
    summary: str,
    *,
    tag: str,
    answer: Any = None,
    status: int = 200,
    body: Any = None,
    example: Any = None,
    sent: Any = None,
    fails: Iterable[type[Failure]] = (),
    parameters: Iterable[OpenApiParameter] = (),
    description: str = "",
    public: bool = False,
    envelope: Envelope = INTEGRATIONS,
    answers: Mapping[int | str, OpenApiResponse] | None = None,
    further: Mapping[int, Any] | None = None,
    refusal: Any = None,
    media: str = "application/json",
) -> Any:
    """Describes one method of a view: what it takes (``sent`` is an example), what it answers (as ``media``), how it fails.

    ``envelope`` is the surface's; ``answers`` are further answers by status, which no error of ours has, and ``further`` their
    examples; ``refusal`` is the schema of error answers where they may have another form than the envelope's.
    """
    parameters = list(parameters)
    failures = [*fails, *_implied(body, parameters), *(() if public else (*AUTH_ERRORS, errors.NotFound))]
    place = status if media == "application/json" else (status, media)
    described: dict[Any, OpenApiResponse] = {place: OpenApiResponse(answer, description="Done.")}
    described |= _error_answers(failures, envelope, refusal or ERROR_SCHEMAS[envelope])
    described |= answers or {}
    return extend_schema(
        operation_id=name,
        summary=summary,
        description=description or summary,
        tags=[tag],
        request=body,
        parameters=parameters,
        responses=described,
        examples=[
            *([OpenApiExample("Request", value=sent, request_only=True)] if sent is not None else []),
            *(
                [
                    OpenApiExample(
                        "Answer", value=example, response_only=True, status_codes=[str(status)], media_type=media
                    )
                ]
                if example is not None
                else []
            ),
            *(
                OpenApiExample(f"Answer {code}", value=value, response_only=True, status_codes=[str(code)])
                for code, value in (further or {}).items()
            ),
            *_error_examples(failures, envelope),
        ],
    )


def _implied(body: Any, parameters: list[OpenApiParameter]) -> list[type[Failure]]:
    """The errors that whatever takes a body, a query or a header may answer."""
    found: list[type[Failure]] = []
    if body is not None or IDEMPOTENCY_KEY in parameters:
        found += [errors.InvalidInput, errors.BodyTooLarge]
    if parameters:
        found.append(errors.InvalidInput)
    if IDEMPOTENCY_KEY in parameters:
        found.append(errors.Conflict)
    return found


def _by_status(failures: Iterable[type[Failure]], envelope: Envelope) -> dict[int, list[type[Failure]]]:
    found: dict[int, list[type[Failure]]] = defaultdict(list)
    for failure in failures:
        status = envelope.status(failure())
        if failure not in found[status]:
            found[status].append(failure)
    return dict(sorted(found.items()))


def _error_answers(failures: Iterable[type[Failure]], envelope: Envelope, schema: Any) -> dict[int, OpenApiResponse]:
    return {
        status: OpenApiResponse(
            schema,
            description="\n".join(f"- `{_code(cls, envelope)}`: {cls.message}" for cls in classes),
        )
        for status, classes in _by_status(failures, envelope).items()
    }


def _code(cls: type[Failure], envelope: Envelope) -> str:
    body = envelope.body(cls())
    if envelope is SESSIONS:
        return str(body["errors"][0]["code"])
    return str(cls.code if envelope is INTEGRATIONS else body["error"] if envelope is SHORTCUT else body["code"])


def _error_examples(failures: Iterable[type[Failure]], envelope: Envelope) -> list[OpenApiExample]:
    return [
        OpenApiExample(
            cls.__name__,
            value=_error_example(cls, envelope),
            summary=cls.message,
            response_only=True,
            status_codes=[str(status)],
        )
        for status, classes in _by_status(failures, envelope).items()
        for cls in classes
    ]


def _error_example(cls: type[Failure], envelope: Envelope) -> Row:
    details: dict[type[Failure], Any] = {
        errors.InvalidInput: {"toolkit": ["This field is required."]},
        errors.ProviderRefused: {"status": 404, "body": {"message": "Not Found"}},
    }
    failure = cls()
    failure.details = details.get(cls)
    if envelope in {RUNS, SESSIONS} and cls is errors.InvalidInput:
        place = "parameters." if envelope is RUNS else "/data/startParameters/"
        failure.details = {f"{place}employee_name": ["This field is required."]}
    value = envelope.body(failure)
    if envelope is INTEGRATIONS:
        value["error"]["documentation_url"] = f"https://jackfield.example/docs/errors#{cls.code}"
    if envelope is RUNS:
        value |= {"correlationId": "req_6vnc8"}
    if envelope is RAW:
        value |= {"timestamp": "2026-01-31T12:00:00.000Z", "path": "/api/integrations/…", "requestId": "req_6vnc8"}
    return value


# -- Headers of answers ----------------------------------------------------------------------------------------------
HEADERS: Row = {
    "X-Request-Id": {
        "description": "The request's own, or the one made for it; the same stands in the log.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:/+=@-]{1,128}$"},
        "example": "req_6vnc8",
    },
    "Retry-After": {
        "description": "Seconds to wait.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
        "example": 17,
    },
    "Idempotency-Replayed": {
        "description": "Present where this is the first answer to the Idempotency-Key, once more.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}


def _headers_of(status: str, described: Row) -> Row:
    names = ["X-Request-Id"]
    if status == "429":
        names.append("Retry-After")
    if any(parameter["name"] == "Idempotency-Key" for parameter in described.get("parameters", [])):
        names.append("Idempotency-Replayed")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


# -- The document ----------------------------------------------------------------------------------------------------
OURS = ("/v1/", "/api/", "/api-keys", "/hooks/", "/{workspace_id}/")


def only_ours(endpoints: list[tuple[str, str, str, Any]]) -> list[tuple[str, str, str, Any]]:
    """The API's own routes: not those of the sandbox's pretended service, nor of libraries."""
    return [endpoint for endpoint in endpoints if endpoint[0].startswith(OURS)]


def completed(result: Row, generator: Any, request: Any, public: bool) -> Row:
    """Names path parameters as the documentation does, adds credentials, headers, and the routes that are plain views."""
    paths = {_renamed(path): operations for path, operations in result["paths"].items()}
    for path, operations in paths.items():
        for described in operations.values():
            for parameter in described.get("parameters", []):
                if parameter["in"] == "path" and parameter["name"] in PARAMETER_NAMES:
                    parameter["name"], parameter["description"] = PARAMETER_NAMES[parameter["name"]]
                    parameter["schema"] |= PATH_FORMS.get(parameter["name"], {})
            secured = () if path.startswith(BY_LINK) else SECURED
            described["security"] = [{name: []} for begin, names in secured if path.startswith(begin) for name in names]
    result["paths"] = dict(sorted((paths | PLAIN_ROUTES).items()))
    for operations in result["paths"].values():
        for described in operations.values():
            for status, answer in described["responses"].items():
                answer["headers"] = _headers_of(status, described) | answer.get("headers", {})
    return result


def _renamed(path: str) -> str:
    for name, (shown, _) in PARAMETER_NAMES.items():
        path = path.replace(f"{{{name}}}", f"{{{shown}}}")
    return path


def _plain_route(operation_id: str, tag: str, summary: str, answers: Row, parameters: Iterable[Row] = ()) -> Row:
    return {"get": {"operationId": operation_id, "tags": [tag], "summary": summary, "description": summary,
                    "parameters": list(parameters), "responses": answers, "security": []}}  # fmt: skip


def _json_answer(description: str, schema: Row, **examples: Any) -> Row:
    shown = {name: {"value": value} for name, value in examples.items()}
    return {"description": description, "content": {"application/json": {"schema": schema, "examples": shown}}}


def _text_parameter(name: str, place: str, description: str) -> Row:
    return {"name": name, "in": place, "required": place == "path", "description": description,
            "schema": {"type": "string"}}  # fmt: skip


_STATE: Row = {"type": "string", "enum": ["ok", "failed"]}
_READY: Row = {
    "type": "object",
    "required": ["status", "checks"],
    "properties": {
        "status": _STATE,
        "checks": {
            "type": "object",
            "required": ["database", "migrations", "broker"],
            "properties": {"database": _STATE, "migrations": _STATE, "broker": _STATE},
        },
    },
}


def _ready(broker: str) -> Row:
    return {"status": broker, "checks": {"database": "ok", "migrations": "ok", "broker": broker}}


_CALLBACK_PARAMETERS = [
    _text_parameter("state", "query", "Names the connect session; works once."),
    _text_parameter("code", "query", "The provider's code."),
    _text_parameter("error", "query", "Why the provider gave no code."),
    _text_parameter("iss", "query", "The provider's issuer (RFC 9207)."),
    _text_parameter("oauth_token", "query", "OAuth 1.0a: the request token, in place of the state."),
    _text_parameter("oauth_verifier", "query", "OAuth 1.0a: the provider's code."),
]
_CALLBACK_ANSWERS: Row = {
    "302": {
        "description": "To the flow's redirectUrl with `status=connected&toolkit=…&connectionId=…`, or with "
        "`status=error&message=` and one of access_denied, connection_failed, app_mismatch; to a page of ours where there "
        "is no redirectUrl that can be trusted.",
        "headers": {"Location": {"schema": {"type": "string", "format": "uri-reference"}}},
    }
}


def _proxy_route(method: str) -> Row:
    """The proxy, which takes and gives whatever the service does."""
    headers = {
        "X-End-User": "The end user of the call; without one the integration's shared connection is used.",
        "X-Connection-Id": "Chooses among several accounts.",
        "X-Upstream-Path": "The path again, escaped as it is to be sent: only needed where %2F must not become a slash.",
    }
    failures = [errors.InvalidInput, errors.ToolkitNotEnabled, errors.NotConnected, *AUTH_ERRORS, errors.ConnectionExpired,
                errors.NotPermitted, errors.NotFound, errors.RateLimited, errors.ProviderLimited, errors.QuotaExceeded,
                errors.CircuitOpen, errors.Unreachable, errors.TimedOut, errors.AddressRefused,
                errors.RefreshUnavailable]  # fmt: skip
    # The service's own refusals come with the same statuses as ours.
    either: Row = {"anyOf": [{"$ref": "#/components/schemas/Error"}, {}]}
    answers: Row = {
        str(status): {
            "description": "\n".join(
                [*(f"- `{cls.code}`: {cls.message}" for cls in classes), "- or what the service says"]
            ),
            "content": {
                "*/*": {
                    "schema": either,
                    "examples": {
                        cls.__name__: {"summary": cls.message, "value": _error_example(cls, INTEGRATIONS)}
                        for cls in classes
                    },
                }
            },
        }
        for status, classes in _by_status(failures, INTEGRATIONS).items()
    }
    whatever: Row = {"description": "Whatever the service answers.", "content": {"*/*": {"schema": {}}}}
    described: Row = {
        "operationId": f"proxy{method.capitalize()}",
        "tags": ["Tools"],
        "summary": f"{method.upper()} any path of the toolkit's API with a connected account",
        "description": "Needs the scope `execute`. Bodies are streamed both ways without limit, server-sent events come as "
        "they are sent. The service's status and end-to-end headers are kept; redirects are not followed. Answers of ours "
        "are errors in the usual form.",
        "parameters": [
            _text_parameter("appId", "path", "The project's id."),
            _text_parameter("toolkit", "path", "The toolkit's slug."),
            _text_parameter("path", "path", "The path below the toolkit's base URL; it may have slashes."),
            *(_text_parameter(name, "header", text) for name, text in headers.items()),
        ],
        "responses": answers | {"default": whatever},
        "security": [{"bearer": []}, {"apiKey": []}],
    }
    if method in {"post", "put", "patch"}:
        described["requestBody"] = {"description": "Sent on as it is.", "content": {"*/*": {"schema": {}}}}
    return described


PLAIN_ROUTES: Row = {
    "/v1/{appId}/integrations/proxy/{toolkit}/{path}": {
        method: _proxy_route(method) for method in ("get", "head", "post", "put", "patch", "delete", "options")
    },
    "/healthz": _plain_route(
        "healthz", "Installation", "Whether this process is alive",
        {"200": _json_answer("Alive.", {"type": "object", "required": ["status"], "properties": {"status": _STATE}},
                             Answer={"status": "ok"})},
    ),
    "/readyz": _plain_route(
        "readyz", "Installation", "Whether database, migrations and broker are there",
        {"200": _json_answer("Ready.", _READY, Answer=_ready("ok")),
         "503": _json_answer("Not ready; checks says what failed.", _READY, Answer=_ready("failed"))},
    ),
    "/v1/integrations/callback": _plain_route(
        "callback", "Connections", "Where providers send people back to: the installation's own OAuth clients",
        _CALLBACK_ANSWERS, _CALLBACK_PARAMETERS,
    ),
    "/v1/{appId}/integrations/callback": _plain_route(
        "projectCallback", "Connections", "Where providers send people back to: a project's own OAuth clients",
        _CALLBACK_ANSWERS, [_text_parameter("appId", "path", "The project's id."), *_CALLBACK_PARAMETERS],
    ),
}  # fmt: skip
SETTINGS: Row = {
    "TITLE": "Jackfield",
    "DESCRIPTION": DESCRIPTION.strip(),
    "VERSION": "1",
    "OAS_VERSION": "3.1.1",
    "LICENSE": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    "SERVERS": [{"url": "/"}],
    "TAGS": [{"name": name, "description": text} for name, text in TAGS.items()],
    "APPEND_COMPONENTS": {"securitySchemes": SECURITY_SCHEMES, "headers": HEADERS},
    "PREPROCESSING_HOOKS": ["apps.lib.openapi.only_ours"],
    "POSTPROCESSING_HOOKS": ["apps.lib.openapi.completed"],
    "COMPONENT_NO_READ_ONLY_REQUIRED": False,
}


_making = threading.Lock()  # drf-spectacular keeps its settings in one place for all threads


def document() -> bytes:
    """The whole description as JSON; the same for everybody, so made once a process."""
    with _making:
        return _document()


@lru_cache(maxsize=1)
def _document() -> bytes:
    with patched_settings(SETTINGS):
        generated = SchemaGenerator().get_schema(request=None, public=True)
    text: bytes = OpenApiJsonRenderer().render(generated, renderer_context={"indent": None})
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")).encode()


@require_safe
def description(request: HttpRequest) -> HttpResponse:
    return HttpResponse(document(), content_type="application/json")


@require_safe
def try_it(request: HttpRequest) -> HttpResponse:
    """The page on which every route can be called from the browser."""
    return render(request, "docs/api.html")
