"""What the API's description says of webhooks."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.openapi import operation, paged, query

from ..models import WebhookDelivery
from ..webhooks import EVENT_TYPES, MAX_URL


class WebhookChanges(serializers.Serializer[Any]):
    url = serializers.CharField(required=False, max_length=MAX_URL, help_text="https, at a public address.")
    events = serializers.ListField(
        child=serializers.ChoiceField(EVENT_TYPES),
        required=False,
        help_text="Types of events; empty: all, later ones too.",
    )
    description = serializers.CharField(required=False, allow_blank=True, max_length=200)
    enabled = serializers.BooleanField(required=False, help_text="Off: no new events, and what waits is not sent.")


class NewWebhook(WebhookChanges):
    url = serializers.CharField(max_length=MAX_URL, help_text="https, at a public address.")


class WebhookRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    url = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    events = serializers.ListField(child=serializers.CharField(), help_text="Empty: all.")
    enabled = serializers.BooleanField()
    previousSecretUntil = serializers.DateTimeField(
        allow_null=True, help_text="Until then the secret before the rotation signs, too."
    )
    createdAt = serializers.DateTimeField()
    updatedAt = serializers.DateTimeField()


class WebhookWithSecret(WebhookRow):
    secret = serializers.CharField(help_text="`whsec_…`, shown this once.")


class Webhooks(serializers.Serializer[Any]):
    webhooks = WebhookRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


class DeliveryTry(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    status = serializers.IntegerField(allow_null=True, help_text="The receiver's; null where it gave none.")
    ms = serializers.IntegerField()
    error = serializers.CharField(allow_null=True)
    answer = serializers.CharField(allow_null=True, help_text="The receiver's first 500 characters, secrets removed.")


class DeliveryRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    webhookId = serializers.CharField(help_text="Id of the webhook it goes to.")
    messageId = serializers.CharField(help_text="The webhook-id header: the same for every try.")
    type = serializers.CharField()
    status = serializers.ChoiceField(WebhookDelivery.Status.choices)
    body = serializers.CharField(help_text="JSON as it is sent and signed.")
    tries = DeliveryTry(many=True, help_text="The last 20, oldest first.")
    tryCount = serializers.IntegerField(help_text="Since it was made, or delivered again.")
    nextTryAt = serializers.DateTimeField(allow_null=True)
    endsAt = serializers.DateTimeField(help_text="From then on it is dead.")
    deliveredAt = serializers.DateTimeField(allow_null=True)
    createdAt = serializers.DateTimeField()


class Deliveries(serializers.Serializer[Any]):
    deliveries = DeliveryRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


WEBHOOK = {
    "id": "Zq3v7TnR9cXkLw2mB8sYdF",
    "url": "https://yourapp.com/webhooks/jackfield",
    "description": "Production",
    "events": ["connection.created", "connection.refreshed_failed"],
    "enabled": True,
    "previousSecretUntil": None,
    "createdAt": "2026-01-31T12:00:00+00:00",
    "updatedAt": "2026-01-31T12:00:00+00:00",
}
DELIVERY = {
    "id": "Hk5p1QzW8uJtVb4nC6xGaM",
    "webhookId": "Zq3v7TnR9cXkLw2mB8sYdF",
    "messageId": "msg_dR7yL2kTf9HsXw3mQ8vBnC",
    "type": "connection.created",
    "status": "pending",
    "body": '{"type":"connection.created","timestamp":"2026-01-31T12:00:00+00:00","data":{"id":"ca_9x2mzk"}}',
    "tries": [{"at": "2026-01-31T12:00:00+00:00", "status": 503, "ms": 38, "error": None, "answer": "try later"}],
    "tryCount": 1,
    "nextTryAt": "2026-01-31T12:00:05+00:00",
    "endsAt": "2026-02-03T12:00:00+00:00",
    "deliveredAt": None,
    "createdAt": "2026-01-31T12:00:00+00:00",
}
SECRET = {"secret": "whsec_…"}

webhooks = extend_schema_view(
    get=operation(
        "listWebhooks",
        "List the project's webhooks, newest first",
        description="Needs the scope `admin`.",
        tag="Webhooks",
        answer=Webhooks,
        example={"webhooks": [WEBHOOK], "nextCursor": None},
        parameters=paged(),
        fails=[errors.InvalidInput, errors.NotPermitted],
    ),
    post=operation(
        "createWebhook",
        "Have events sent to an address",
        description="Needs the scope `admin`. Events are signed by the [Standard Webhooks](https://www.standardwebhooks.com) "
        "scheme; the answer's `secret` is shown this once. At most 20 webhooks a project.",
        tag="Webhooks",
        body=NewWebhook,
        sent={"url": WEBHOOK["url"], "events": WEBHOOK["events"], "description": "Production"},
        answer=WebhookWithSecret,
        example=WEBHOOK | SECRET,
        status=201,
        fails=[errors.InvalidInput, errors.NotPermitted],
    ),
)
webhook = extend_schema_view(
    get=operation(
        "getWebhook",
        "Read one webhook",
        description="Needs the scope `admin`. Its secret is never shown again; rotate it where it is lost.",
        tag="Webhooks",
        answer=WebhookRow,
        example=WEBHOOK,
        fails=[errors.NotPermitted],
    ),
    patch=operation(
        "changeWebhook",
        "Change a webhook",
        description="Needs the scope `admin`. What is absent stays as it is.",
        tag="Webhooks",
        body=WebhookChanges,
        sent={"enabled": False},
        answer=WebhookRow,
        example=WEBHOOK | {"enabled": False},
        fails=[errors.InvalidInput, errors.NotPermitted],
    ),
    delete=operation(
        "deleteWebhook",
        "Delete a webhook with its deliveries",
        description="Needs the scope `admin`. What still waits is not sent.",
        tag="Webhooks",
        status=204,
        fails=[errors.NotPermitted],
    ),
)
rotate = extend_schema_view(
    post=operation(
        "rotateWebhookSecret",
        "Give a webhook a new secret",
        description="Needs the scope `admin`. For 24 hours events are signed with both, so that your receiver can change over.",
        tag="Webhooks",
        answer=WebhookWithSecret,
        example=WEBHOOK | SECRET | {"previousSecretUntil": "2026-02-01T12:00:00+00:00"},
        fails=[errors.NotPermitted, errors.Conflict],
    )
)
deliveries = extend_schema_view(
    get=operation(
        "listDeliveries",
        "List a webhook's deliveries, newest first",
        description="Needs the scope `admin`. Delivered ones are kept for 30 days, dead ones for 90.",
        tag="Webhooks",
        answer=Deliveries,
        example={"deliveries": [DELIVERY], "nextCursor": None},
        parameters=[query("status", "Only of this status.", choices=list(WebhookDelivery.Status.values)), *paged()],
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)


def _redelivering(name: str, summary: str) -> Any:
    return extend_schema_view(
        post=operation(
            name,
            summary,
            description="Needs the scope `admin`. At once, with the same webhook-id; one that waits is tried now. Of several who "
            "ask at the same time one makes it be sent.",
            tag="Webhooks",
            answer=DeliveryRow,
            example=DELIVERY,
            status=202,
            fails=[errors.NotPermitted, errors.Conflict],
        )
    )


redeliver = _redelivering("redeliver", "Deliver an event again")
redeliver_of_webhook = _redelivering("redeliverOfWebhook", "Deliver an event again, by webhook and delivery")
