"""What the API's description says of hooks."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.openapi import Error, header, operation

from ..models import Run
from .schema import AnyJson

TAG = "Hooks"


class HookAccepted(serializers.Serializer[Any]):
    runId = serializers.CharField(required=False)
    sessionId = serializers.CharField(required=False)
    status = serializers.ChoiceField(
        [*Run.Status.values, "ignored"], help_text="ignored: the hook's `when` is not true, and nothing was started."
    )


class HookAnswer(serializers.Serializer[Any]):
    runId = serializers.CharField(required=False)
    sessionId = serializers.CharField(required=False)
    status = serializers.CharField(required=False)
    result = AnyJson(required=False, help_text="What the module gives.")
    challenge = serializers.CharField(required=False, help_text="To Slack's url_verification alone.")


ACCEPTED = {"runId": "V1StGXR8_Z5jdHi6B-myT", "sessionId": "C0jz_2J6RmOLoB8DyXPs9Q", "status": "created"}
FAILED = {
    "error": {
        "code": "INTEGRATIONS_EXECUTION_FAILED",
        "message": "The run failed: Not today",
        "remediation": "See the run's trace.",
        "documentation_url": "https://jackfield.example/docs/errors#INTEGRATIONS_EXECUTION_FAILED",
        "details": {
            **ACCEPTED,
            "status": "fatal_errored",
            "error": {
                "message": "Not today",
                "code": "script-execution-exception",
                "category": "execution",
                "retirable": False,
            },
        },
    }
}
ANY_BODY: Any = {
    "application/json": {"description": "Whatever the sender says: JSON, a form, or anything else."},
}

hook = extend_schema_view(
    post=operation(
        "callHook",
        "Start the module that a hook belongs to",
        description="No key: whoever has the address may call, where the module names no way to verify the sender. How the "
        "request becomes start parameters stands in the module's `hook`. Answers 202 at once; a module whose hook answers with "
        "the result is waited for. A delivery that is sent again within 24 hours gets the first answer.",
        tag=TAG,
        body=ANY_BODY,
        sent={"action": "opened", "number": 7},
        answer=HookAccepted,
        example=ACCEPTED,
        status=202,
        answers={
            200: OpenApiResponse(HookAnswer, description="The run has completed; or the answer to Slack's challenge."),
            500: OpenApiResponse(Error, description="The run failed: see details."),
        },
        further={200: {**ACCEPTED, "status": "completed", "result": {"issue": 7}}, 500: FAILED},
        parameters=[
            header("Idempotency-Key", "What the sender calls this delivery; like X-GitHub-Delivery, webhook-id.")
        ],
        fails=[errors.Unauthenticated, errors.NotFound, errors.Conflict, errors.RateLimited, errors.QuotaExceeded],
        public=True,
    )
)
