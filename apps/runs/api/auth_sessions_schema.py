"""What the API's description says of auth sessions, once for each of the Runs API's two prefixes."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers

from apps.connections.auth_sessions import ATTEMPTS, MOST_ATTEMPTS
from apps.lib import errors
from apps.lib.envelopes import RUNS
from apps.lib.openapi import IDEMPOTENCY_KEY, operation

from .runs_schema import RunError, RunReason
from .schema import JsonSchema

TAG = "Auth sessions"
OPERATION = "aq2LZ6x7ySUhS3mYpwGbN"


def _attempts(what: str) -> serializers.IntegerField:
    return serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=MOST_ATTEMPTS,
        help_text=f"Tries of {what} where the fault may pass. Absent: {ATTEMPTS}.",
    )


class _Attempts(serializers.Serializer[Any]):
    createAttempts = _attempts("creating it")
    checkAttempts = _attempts("checking it")
    proxy = serializers.CharField(
        required=False, allow_null=True, max_length=2000, help_text="The service is asked through it: a URL."
    )


class AuthSessionUpdate(_Attempts):
    parameters = JsonSchema(help_text="The fields of the toolkit's form, by their names: `{api_key: …}`.")
    saveTrace = serializers.BooleanField(required=False, allow_null=True, help_text="Without meaning here.")


class AuthSessionCreate(AuthSessionUpdate):
    id = serializers.CharField(
        required=False,
        allow_null=True,
        max_length=255,
        help_text="The session's id, which is also that of the end user whose account it is. Absent: a new one.",
    )


class AuthSessionValidate(_Attempts):
    autoRecreate = serializers.BooleanField(
        required=False, allow_null=True, help_text="Renew it where the check fails. Absent: true."
    )
    requestTimeout = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=3600, help_text="Seconds. Absent: 600."
    )


class AuthSessionRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    type = serializers.ChoiceField(["CREDENTIALS", "RECORDER", "RUNTIME"])
    status = serializers.ChoiceField(["PENDING", "READY", "EXPIRED"])


class OperationStarted(serializers.Serializer[Any]):
    status = serializers.ChoiceField(["started"])
    operationId = serializers.CharField(min_length=21, max_length=21)


class ValidationStarted(serializers.Serializer[Any]):
    status = serializers.ChoiceField(["pending"])
    operationId = serializers.CharField(min_length=21, max_length=21)


class OperationResult(serializers.Serializer[Any]):
    status = serializers.ChoiceField(["pending", "in_progress", "done", "failed", "canceled"])
    runId = serializers.CharField(required=False, help_text="While it is in progress: the operation's own id.")
    authSessionId = serializers.CharField(required=False, help_text="Of an operation that is done.")
    message = serializers.CharField(required=False)
    error = RunError(required=False, help_text="Of a failed operation.")
    reason = RunReason(required=False, help_text="Of an operation that was cancelled: its session was deleted.")


ROW = {"id": "u1", "type": "CREDENTIALS", "status": "READY"}
STARTED = {"status": "started", "operationId": OPERATION}
PENDING = {"status": "pending", "operationId": OPERATION}
DONE = {"status": "done", "authSessionId": "u1"}
DENIED = [errors.NotPermitted]
COUNTED = [*DENIED, errors.RateLimited, errors.QuotaExceeded]


def _sessions(name: str) -> Any:
    return extend_schema_view(
        get=operation(
            name,
            "The project's auth sessions",
            description="Needs the scope `runs`. The newest first, at most 10,000; none where auth sessions are off.",
            tag=TAG,
            envelope=RUNS,
            answer=AuthSessionRow(many=True),
            example=ROW,
            fails=DENIED,
        )
    )


def _session(read: str, deleted: str) -> Any:
    return extend_schema_view(
        get=operation(
            read,
            "An auth session",
            description="Needs the scope `runs`.",
            tag=TAG,
            envelope=RUNS,
            answer=AuthSessionRow,
            example=ROW,
            fails=DENIED,
        ),
        delete=operation(
            deleted,
            "Delete an auth session",
            description="Needs the scope `runs`. Its account is disconnected, what is under way with it is cancelled. 409 while "
            "a run has it to itself.",
            tag=TAG,
            envelope=RUNS,
            status=204,
            fails=[*DENIED, errors.AuthSessionInUse],
        ),
    )


def _start(name: str, summary: str, description: str, body: Any, sent: Any, answer: Any, example: Any) -> Any:
    return extend_schema_view(
        post=operation(
            name,
            summary,
            description=f"Needs the scope `runs`. {description}",
            tag=TAG,
            envelope=RUNS,
            body=body,
            sent=sent,
            answer=answer,
            example=example,
            status=201,
            parameters=[IDEMPOTENCY_KEY],
            fails=[*COUNTED, errors.Conflict],
        )
    )


def _create(name: str) -> Any:
    return _start(
        name,
        "Create an auth session",
        "The fields are checked for form at once; what the service says of them is read from the operation's result.",
        AuthSessionCreate,
        {"id": "u1", "parameters": {"api_key": "…"}},
        OperationStarted,
        STARTED,
    )


def _update(name: str) -> Any:
    return _start(
        name,
        "Put new credentials into an auth session",
        "The session keeps its id, and what it was until the new ones are accepted.",
        AuthSessionUpdate,
        {"parameters": {"api_key": "…"}},
        OperationStarted,
        STARTED,
    )


def _validate(name: str) -> Any:
    return _start(
        name,
        "Check an auth session",
        "By the toolkit's test call; where that fails it is renewed and checked again, unless `autoRecreate` is false.",
        AuthSessionValidate,
        {"autoRecreate": True},
        ValidationStarted,
        PENDING,
    )


def _result(name: str, what: str) -> Any:
    return extend_schema_view(
        get=operation(
            name,
            f"What became of {what} an auth session",
            description="Needs the scope `runs`. Kept for a week.",
            tag=TAG,
            envelope=RUNS,
            answer=OperationResult,
            example=DONE,
            fails=DENIED,
        )
    )


sessions, client_sessions = _sessions("listAuthSessions"), _sessions("listAuthSessionsOfClient")
session = _session("getAuthSession", "deleteAuthSession")
client_session = _session("getAuthSessionOfClient", "deleteAuthSessionOfClient")
create, client_create = _create("createAuthSession"), _create("createAuthSessionOfClient")
update, client_update = _update("updateAuthSession"), _update("updateAuthSessionOfClient")
validate, client_validate = _validate("validateAuthSession"), _validate("validateAuthSessionOfClient")
create_result = _result("getAuthSessionCreation", "creating")
client_create_result = _result("getAuthSessionCreationOfClient", "creating")
update_result = _result("getAuthSessionUpdate", "updating")
client_update_result = _result("getAuthSessionUpdateOfClient", "updating")
validate_result = _result("getAuthSessionValidation", "checking")
client_validate_result = _result("getAuthSessionValidationOfClient", "checking")
update_by_operation = _result("getAuthSessionUpdateByOperation", "updating")
client_update_by_operation = _result("getAuthSessionUpdateByOperationOfClient", "updating")
validate_by_operation = _result("getAuthSessionValidationByOperation", "checking")
client_validate_by_operation = _result("getAuthSessionValidationByOperationOfClient", "checking")
