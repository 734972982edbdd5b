"""What the API's description says of the sessions API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.envelopes import SESSIONS
from apps.lib.openapi import END_USER, IDEMPOTENCY_KEY, operation, query

from .schema import AnyJson, JsonSchema

TAG = "Sessions API"
STATES = ["created", "running", "waiting_for_input", "completed", "fatal_errored", "unknown"]


class SessionStartData(serializers.Serializer[Any]):
    startParameters = JsonSchema(
        required=False,
        allow_null=True,
        help_text="By their API parameter names.",
    )
    endUser = serializers.CharField(
        required=False, allow_null=True, max_length=255, help_text="Your own id of the person that it runs for."
    )


class SessionStart(serializers.Serializer[Any]):
    data = SessionStartData(required=False, allow_null=True)  # type: ignore[assignment] # a field


class SessionId(serializers.Serializer[Any]):
    sessionId = serializers.CharField(min_length=22, max_length=22)


class SessionLinks(serializers.Serializer[Any]):
    self = serializers.CharField(help_text="A path: where to ask for the state.")
    browser = serializers.URLField(help_text="Where a person answers what the session waits for.")


class SessionStarted(serializers.Serializer[Any]):
    data = SessionId()  # type: ignore[assignment] # a field
    links = SessionLinks()


class SessionError(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()


class SessionData(serializers.Serializer[Any]):
    state = serializers.ChoiceField(STATES)
    result = AnyJson(required=False, help_text="With include=result; null until the session has completed.")
    error = SessionError(required=False, help_text="With include=result, of a session that failed or was cancelled.")


class SessionState(serializers.Serializer[Any]):
    data = SessionData()  # type: ignore[assignment] # a field
    links = SessionLinks()


LINKS = {
    "self": "/api/execution/oITwNKIrRdS0A0TFVPP54g/sessions/C0jz_2J6RmOLoB8DyXPs9Q",
    "browser": "https://jackfield.example/s/oITwNKIrRdS0A0TFVPP54g/sessions/C0jz_2J6RmOLoB8DyXPs9Q",
}
EMPLOYEE = {
    "employee_name": "John Doe",
    "employee_email": "john.doe@example.com",
    "employment_start_date": "2021-09-09",
    "employee_reference_number": 1234,
}
WHO = "Takes the module's own key, or a key with the scope `runs`."

sessions = extend_schema_view(
    post=operation(
        "startSession",
        "Start a published module",
        description=f"{WHO} The module must be set to *only accessible via an API key*. The body may be absent.",
        tag=TAG,
        envelope=SESSIONS,
        body=SessionStart,
        sent={"data": {"startParameters": EMPLOYEE}},
        answer=SessionStarted,
        example={"data": {"sessionId": "C0jz_2J6RmOLoB8DyXPs9Q"}, "links": LINKS},
        status=201,
        parameters=[IDEMPOTENCY_KEY, END_USER],
        fails=[errors.NotPermitted, errors.RateLimited, errors.QuotaExceeded],
    )
)
session = extend_schema_view(
    get=operation(
        "getSession",
        "The state of a session",
        description=WHO,
        tag=TAG,
        envelope=SESSIONS,
        answer=SessionState,
        example={"data": {"state": "created"}, "links": LINKS},
        parameters=[query("include", "`result`: the result too, or why it failed.", choices=["result"])],
        fails=[errors.NotPermitted],
    )
)
