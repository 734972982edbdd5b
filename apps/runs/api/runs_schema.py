"""What the API's description says of the Runs API, once for each of its two prefixes."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_view
from rest_framework import serializers

from apps.connections.auth_sessions import MOST_ATTEMPTS
from apps.lib import errors
from apps.lib.envelopes import RUNS
from apps.lib.openapi import END_USER, IDEMPOTENCY_KEY, operation

from ..starting import MAX_ATTEMPTS, MAX_SECONDS
from .schema import AnyJson, JsonSchema
from .sinks import SinkField

TAG = "Runs API"
OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": {}}


class Retry(serializers.Serializer[Any]):
    maximumAttempts = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=MAX_ATTEMPTS,
        help_text="The first one counts; absent: 3.",
    )


@extend_schema_field(
    {
        "type": ["object", "null"],
        "properties": {
            "id": {
                "type": "string",
                "maxLength": 255,
                "description": "Id of an auth session, or of a connection: ca_…",
            },
            "runtimeInput": {
                "type": "object",
                "additionalProperties": {},
                "description": "Credentials for this run alone, by the names of the toolkit's form; in place of the id.",
            },
            "autoRecreate": {
                "type": ["boolean", "null"],
                "description": "Renew it where the check fails. Absent: true.",
            },
            "checkAttempts": {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_ATTEMPTS},
            "createAttempts": {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_ATTEMPTS},
            "requestTimeout": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_SECONDS},
            "proxy": {"type": ["string", "null"], "description": "The service is asked through it: a URL."},
            "saveTrace": {"type": ["boolean", "null"]},
        },
    }
)
class AuthSession(serializers.JSONField):
    """The account that the run acts with."""


class RunStart(serializers.Serializer[Any]):
    parameters = JsonSchema(help_text="Start parameters by their API names.")
    api = serializers.CharField(max_length=150, help_text="Name of a published module: `onboard`, `hr/onboard`.")
    proxy = serializers.CharField(
        required=False, allow_null=True, max_length=2000, help_text="Outbound calls go through it: a URL."
    )
    saveTrace = serializers.BooleanField(
        required=False, allow_null=True, help_text="Absent: true. Without it the trace has no requests and values."
    )
    requestTimeout = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=MAX_SECONDS,
        help_text="Seconds that an attempt may work; waiting does not count. Absent: 600.",
    )
    retry = Retry(required=False, allow_null=True)
    authSession = AuthSession(
        required=False,
        help_text="The account that it acts with; its owner is the run's end user where you name no other. Needed where the "
        "project has switched auth sessions on; else `id` alone, a connection's.",
    )
    sink = SinkField(
        required=False,
        allow_null=True,
        help_text="Where the result goes; absent: the project's default, if it has one.",
    )
    endUser = serializers.CharField(
        required=False, allow_null=True, max_length=255, help_text="Your own id of the person that it runs for."
    )


class RunStarted(serializers.Serializer[Any]):
    runId = serializers.CharField(min_length=21, max_length=21)
    status = serializers.ChoiceField(["pending"])


class RunError(serializers.Serializer[Any]):
    message = serializers.CharField()
    code = serializers.CharField(help_text="Like `script-execution-exception`, `script-timeout`.")
    category = serializers.ChoiceField(["infrastructure", "execution", "auth", "user", "billing"])
    retirable = serializers.BooleanField(help_text="Whether it may succeed if it is started again.")
    details = AnyJson(required=False)
    correlation_id = serializers.CharField(required=False, help_text="X-Request-Id of the start.")


class RunReason(serializers.Serializer[Any]):
    type = serializers.CharField(help_text="`cancelled-user-action`.")
    message = serializers.CharField()


class RunResult(serializers.Serializer[Any]):
    runId = serializers.CharField()
    status = serializers.ChoiceField(["pending", "started", "completed", "canceled", "failed"])
    result = AnyJson(required=False, help_text="Of a completed run.")
    error = RunError(required=False, help_text="Of a failed run.")
    reason = RunReason(required=False, help_text="Of a cancelled run.")
    message = serializers.CharField(required=False)


STARTED = {"runId": "V1StGXR8_Z5jdHi6B-myT", "status": "pending"}
COMPLETED = {"runId": STARTED["runId"], "status": "completed", "result": {"issue": 7}}
CANCELED = {
    "runId": STARTED["runId"],
    "status": "canceled",
    "reason": {"type": "cancelled-user-action", "message": "The run was cancelled."},
    "message": "The run was cancelled.",
}
TRACE: dict[str, Any] = {"runId": STARTED["runId"], "status": "completed", "attempts": []}
START = {
    "parameters": {"employee_name": "John Doe", "employee_reference_number": 1234},
    "retry": {"maximumAttempts": 3},
    "api": "onboard",
}


def _start(name: str, status: int) -> Any:
    return extend_schema_view(
        post=operation(
            name,
            "Start a run of a published module",
            description="Needs the scope `runs`. `api` is the module's name. Members that are not known are passed over.",
            tag=TAG,
            envelope=RUNS,
            body=RunStart,
            sent=START,
            answer=RunStarted,
            example=STARTED,
            status=status,
            parameters=[IDEMPOTENCY_KEY, END_USER],
            fails=[errors.NotPermitted, errors.RateLimited, errors.QuotaExceeded],
        )
    )


def _result(name: str) -> Any:
    return extend_schema_view(
        get=operation(
            name,
            "What became of a run",
            description="Needs the scope `runs`. An end user's token, and a key bound to one, see that user's runs.",
            tag=TAG,
            envelope=RUNS,
            answer=RunResult,
            example=COMPLETED,
            fails=[errors.NotPermitted],
        )
    )


def _cancel(name: str) -> Any:
    return extend_schema_view(
        post=operation(
            name,
            "Cancel a run",
            description="Needs the scope `runs`. At once, with the runs that it started. Of a run that has ended nothing "
            "changes: the answer says how it ended.",
            tag=TAG,
            envelope=RUNS,
            answer=RunResult,
            example=CANCELED,
            fails=[errors.NotPermitted],
        )
    )


def _trace(name: str) -> Any:
    return extend_schema_view(
        get=operation(
            name,
            "Everything that happened in a run",
            description="Needs the scope `runs`. Attempts, steps, calls with their requests, answers and timing, and what was "
            "waited for; secrets removed, long values cut.",
            tag=TAG,
            envelope=RUNS,
            answer=OBJECT,
            example=TRACE,
            fails=[errors.NotPermitted],
        )
    )


start, client_start = _start("startRun", 200), _start("startRunOfClient", 201)
result, client_result = _result("getRunResult"), _result("getRunResultOfClient")
cancel, client_cancel = _cancel("cancelRun"), _cancel("cancelRunOfClient")
trace, client_trace = _trace("getRunTrace"), _trace("getRunTraceOfClient")
