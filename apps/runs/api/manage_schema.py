"""What the API's description says of a project's runs and their events."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.openapi import IDEMPOTENCY_KEY, operation, paged, query

from ..models import Run
from .schema import AnyJson, JsonSchema

TAG = "Runs"
OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": {}}


class RunLogError(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()
    category = serializers.CharField(required=False)
    retirable = serializers.BooleanField(required=False)
    details = AnyJson(required=False)
    correlation_id = serializers.CharField(required=False)


class RunRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    sessionId = serializers.CharField()
    module = serializers.CharField(help_text="The module's name.")
    moduleId = serializers.CharField(help_text="The published module's id.")
    version = serializers.IntegerField(allow_null=True, help_text="Null: the draft, as it was tried.")
    status = serializers.ChoiceField(Run.Status.choices)
    surface = serializers.ChoiceField(Run.Surface.choices, help_text="What started it.")
    startedBy = serializers.CharField(allow_blank=True)
    userId = serializers.CharField(allow_null=True)
    parentId = serializers.CharField(allow_null=True, help_text="The run whose step started this one.")
    attempt = serializers.IntegerField()
    maximumAttempts = serializers.IntegerField()
    error = RunLogError(allow_null=True)
    requestId = serializers.CharField(allow_blank=True)
    createdAt = serializers.DateTimeField()
    startedAt = serializers.DateTimeField(allow_null=True)
    endedAt = serializers.DateTimeField(allow_null=True)


class RunList(serializers.Serializer[Any]):
    runs = RunRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


class RunLinks(serializers.Serializer[Any]):
    self = serializers.CharField()
    session = serializers.CharField(help_text="Path at the sessions API.")
    browser = serializers.URLField()


class RunWhole(RunRow):
    parameters = JsonSchema(help_text="Secrets removed.")
    result = AnyJson(help_text="Secrets removed; null until there is one.")
    links = RunLinks()


class EventSent(serializers.Serializer[Any]):
    runId = serializers.CharField()
    name = serializers.CharField()


RUN = {
    "id": "V1StGXR8_Z5jdHi6B-myT",
    "sessionId": "C0jz_2J6RmOLoB8DyXPs9Q",
    "module": "onboard",
    "moduleId": "oITwNKIrRdS0A0TFVPP54g",
    "version": 3,
    "status": "completed",
    "surface": "runs",
    "startedBy": "key:a8Xk2 backend",
    "userId": None,
    "parentId": None,
    "attempt": 1,
    "maximumAttempts": 3,
    "error": None,
    "requestId": "req_6vnc8",
    "createdAt": "2026-01-31T12:00:00+00:00",
    "startedAt": "2026-01-31T12:00:00+00:00",
    "endedAt": "2026-01-31T12:00:02+00:00",
}
LINKS = {
    "self": "/v1/proj_x/runs/V1StGXR8_Z5jdHi6B-myT",
    "session": "/api/execution/oITwNKIrRdS0A0TFVPP54g/sessions/C0jz_2J6RmOLoB8DyXPs9Q",
    "browser": "https://jackfield.example/s/oITwNKIrRdS0A0TFVPP54g/sessions/C0jz_2J6RmOLoB8DyXPs9Q",
}

runs = extend_schema_view(
    get=operation(
        "listRuns",
        "List the project's runs, newest first",
        description="Needs the scope `admin`.",
        tag=TAG,
        answer=RunList,
        example={"runs": [RUN], "nextCursor": None},
        parameters=[
            query("status", "Only of this status.", choices=list(Run.Status.values)),
            query("module", "Only of the module of this name."),
            query("userId", "Only of this end user."),
            query("since", "Made at this time or later: 2026-01-31T12:00:00Z."),
            query("until", "Made before this time."),
            *paged(),
        ],
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
run = extend_schema_view(
    get=operation(
        "getRun",
        "One run, by its id or its session's",
        description="Needs the scope `admin`.",
        tag=TAG,
        answer=RunWhole,
        example={**RUN, "parameters": {"employee_name": "John Doe"}, "result": {"issue": 7}, "links": LINKS},
        fails=[errors.NotPermitted],
    )
)
event = extend_schema_view(
    post=operation(
        "sendRunEvent",
        "Send an event to a run",
        description="Needs the scope `runs`. Ends the waiting of a step `wait: {event: name}`, whose output the body "
        "becomes; kept where no step waits for it yet. 409 where the run has ended.",
        tag=TAG,
        body={"application/json": OBJECT},
        sent={"paid": True},
        answer=EventSent,
        example={"runId": RUN["id"], "name": "payment"},
        status=202,
        parameters=[IDEMPOTENCY_KEY],
        fails=[errors.NotPermitted, errors.Conflict],
    )
)
