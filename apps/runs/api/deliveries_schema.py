"""What the API's description says of deliveries to sinks."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.openapi import operation, paged, query

from ..models import Delivery
from .schema import JsonSchema

TAG = "Deliveries"


class SinkDeliveryTry(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    status = serializers.IntegerField(allow_null=True, help_text="The receiver's; null where it gave none.")
    ms = serializers.IntegerField()
    error = serializers.CharField(allow_null=True)
    answer = serializers.CharField(allow_null=True, help_text="The receiver's first 500 characters, secrets removed.")


class SinkDeliveryRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    messageId = serializers.CharField(help_text="The webhook-id header: the same for every try.")
    runId = serializers.CharField()
    jobRunId = serializers.CharField(allow_null=True)
    api = serializers.CharField(help_text="Name of the run's module.")
    kind = serializers.ChoiceField(Delivery.Kind.choices)
    target = serializers.CharField(help_text="The URL without its query, or `s3://bucket/key`.")
    status = serializers.ChoiceField(Delivery.Status.choices)
    tries = SinkDeliveryTry(many=True, help_text="The last 100, oldest first.")
    tryCount = serializers.IntegerField(help_text="Since it was made, or delivered again.")
    nextTryAt = serializers.DateTimeField(allow_null=True)
    endsAt = serializers.DateTimeField(
        help_text="From then on it is dead: an hour (S3: 10 minutes) after the first try."
    )
    deliveredAt = serializers.DateTimeField(allow_null=True)
    createdAt = serializers.DateTimeField()


class SinkDelivery(SinkDeliveryRow):
    body = JsonSchema(help_text="What is sent; members with a secret's name are masked here.")


class SinkDeliveries(serializers.Serializer[Any]):
    deliveries = SinkDeliveryRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


class RedeliverMany(serializers.Serializer[Any]):
    status = serializers.ChoiceField(
        ["dead", "delivered"], required=False, allow_null=True, help_text="Absent: dead; with `ids` both."
    )
    runId = serializers.CharField(required=False, allow_null=True, max_length=40)
    jobRunId = serializers.CharField(required=False, allow_null=True, max_length=40)
    ids = serializers.ListField(
        child=serializers.CharField(max_length=40), required=False, allow_null=True, max_length=1000
    )


class Redelivered(serializers.Serializer[Any]):
    redelivered = serializers.IntegerField()


class WebhookSecret(serializers.Serializer[Any]):
    secret = serializers.CharField(help_text="`whsec_…`")
    previousUntil = serializers.DateTimeField(
        allow_null=True, help_text="Until then the secret before the rotation signs, too."
    )


ROW: dict[str, Any] = {
    "id": "Hk5p1QzW8uJtVb4nC6xGaM",
    "messageId": "msg_Hk5p1QzW8uJtVb4nC6xGaM",
    "runId": "V1StGXR8_Z5jdHi6B-myT",
    "jobRunId": None,
    "api": "onboard",
    "kind": "webhook",
    "target": "https://yourapp.com/results",
    "status": "pending",
    "tries": [{"at": "2026-01-31T12:00:00+00:00", "status": 503, "ms": 38, "error": None, "answer": "try later"}],
    "tryCount": 1,
    "nextTryAt": "2026-01-31T12:00:10+00:00",
    "endsAt": "2026-01-31T13:00:00+00:00",
    "deliveredAt": None,
    "createdAt": "2026-01-31T12:00:00+00:00",
}
BODY: dict[str, Any] = {
    "apiInfo": {
        "name": "onboard",
        "parameters": {"employee_name": "John Doe"},
        "runId": ROW["runId"],
        "result": {"status": "completed", "result": {"issue": 7}, "statusCode": 200},
    },
    "workspaceId": "0b7f7e6e-53a1-4c7f-9e0a-3f6b1d2c4a55",
    "project": {"id": "proj_4t8yq2", "name": "Shop"},
}
SECRET = {"secret": "whsec_…", "previousUntil": None}

deliveries = extend_schema_view(
    get=operation(
        "listSinkDeliveries",
        "List deliveries to sinks, newest first",
        description="Needs the scope `admin`. Of runs' results; events have deliveries of their own, below their webhook.",
        tag=TAG,
        answer=SinkDeliveries,
        example={"deliveries": [ROW], "nextCursor": None},
        parameters=[
            query("status", "Only of this status.", choices=list(Delivery.Status.values)),
            query("runId", "Only of this run."),
            query("jobRunId", "Only of this job run."),
            *paged(),
        ],
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
delivery = extend_schema_view(
    get=operation(
        "getSinkDelivery",
        "Read one delivery",
        description="Needs the scope `admin`.",
        tag=TAG,
        answer=SinkDelivery,
        example={**ROW, "body": BODY},
        fails=[errors.NotPermitted],
    )
)
redeliver = extend_schema_view(
    post=operation(
        "redeliverToSink",
        "Deliver a result again",
        description="Needs the scope `admin`. At once, with the same webhook-id; one that waits is tried now. Of several who ask "
        "at the same time one makes it be sent.",
        tag=TAG,
        answer=SinkDeliveryRow,
        example=ROW,
        status=202,
        fails=[errors.NotPermitted],
    )
)
redeliver_all = extend_schema_view(
    post=operation(
        "redeliverToSinks",
        "Deliver many results again",
        description="Needs the scope `admin`. All that fits and has ended, the oldest 10,000 at most.",
        tag=TAG,
        body=RedeliverMany,
        sent={"jobRunId": "V1StGXR8_Z5jdHi6B-myT"},
        answer=Redelivered,
        example={"redelivered": 3},
        status=202,
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
secret = extend_schema_view(
    get=operation(
        "getWebhookSecret",
        "Read the secret that signs what webhook sinks are sent",
        description="Needs the scope `admin`. Made at the first reading; each reading is in the audit log.",
        tag=TAG,
        answer=WebhookSecret,
        example=SECRET,
        fails=[errors.NotPermitted],
    )
)
rotate = extend_schema_view(
    post=operation(
        "rotateWebhookSecretOfSinks",
        "Make a new secret for webhook sinks",
        description="Needs the scope `admin`. For 24 hours results are signed with both, so that your receiver can change over.",
        tag=TAG,
        answer=WebhookSecret,
        example=SECRET | {"previousUntil": "2026-02-01T12:00:00+00:00"},
        fails=[errors.NotPermitted, errors.Conflict],
    )
)
