"""Webhooks of a project, and their deliveries."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from rest_framework import serializers

from apps.lib.api import StrictText, json_answer, no_content, page
from apps.lib.errors import InvalidInput

from .. import webhooks
from ..models import WebhookDelivery, WebhookEndpoint
from . import webhooks_schema as schema
from .base import ProjectView


class ChangesBody(serializers.Serializer[Any]):
    url = StrictText(required=False, max_length=webhooks.MAX_URL)
    events = serializers.ListField(child=StrictText(max_length=60), required=False, max_length=100)
    description = StrictText(required=False, allow_blank=True, max_length=200)
    enabled = serializers.BooleanField(required=False)

    def validate_description(self, value: str) -> str:
        if not value.isprintable():
            raise serializers.ValidationError("Must have no control characters.")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(self.initial_data) - set(self.fields))
        if unknown:
            raise serializers.ValidationError({name: ["Unknown field."] for name in unknown})
        return attrs


class WebhookBody(ChangesBody):
    url = StrictText(max_length=webhooks.MAX_URL)


def webhook_row(endpoint: WebhookEndpoint) -> dict[str, Any]:
    until = endpoint.previous_secret_until
    return {
        "id": endpoint.pk,
        "url": endpoint.url,
        "description": endpoint.description,
        "events": endpoint.events,
        "enabled": endpoint.enabled,
        "previousSecretUntil": until.isoformat() if until else None,
        "createdAt": endpoint.created_at.isoformat(),
        "updatedAt": endpoint.updated_at.isoformat(),
    }


def delivery_row(delivery: WebhookDelivery) -> dict[str, Any]:
    pending = delivery.status == WebhookDelivery.Status.PENDING
    return {
        "id": delivery.pk,
        "webhookId": delivery.endpoint_id,
        "messageId": delivery.event_id,
        "type": delivery.event_type,
        "status": delivery.status,
        "body": delivery.body,
        "tries": delivery.tries,
        "tryCount": delivery.try_count,
        "nextTryAt": delivery.next_try_at.isoformat() if pending and delivery.next_try_at else None,
        "endsAt": delivery.ends_at.isoformat(),
        "deliveredAt": delivery.delivered_at.isoformat() if delivery.delivered_at else None,
        "createdAt": delivery.created_at.isoformat(),
    }


@schema.webhooks
class WebhooksView(ProjectView):
    """GET and POST webhooks."""

    scopes = {"GET": ("admin",), "POST": ("admin",)}

    def get(self, request: Any, app_id: str) -> HttpResponse:
        found, cursor = page(WebhookEndpoint.objects.filter(project=self.project), request._request)
        return json_answer({"webhooks": [webhook_row(row) for row in found], "nextCursor": cursor})

    def post(self, request: Any, app_id: str) -> HttpResponse:
        body = self.body(WebhookBody)
        endpoint, secret = webhooks.create_endpoint(self.project, body.pop("url"), self.caller.actor, **body)
        return json_answer(webhook_row(endpoint) | {"secret": secret}, 201)


@schema.webhook
class WebhookView(ProjectView):
    """GET, PATCH and DELETE webhooks/{id}."""

    scopes = {"GET": ("admin",), "PATCH": ("admin",), "DELETE": ("delete",)}

    def get(self, request: Any, app_id: str, webhook_id: str) -> HttpResponse:
        return json_answer(webhook_row(webhooks.find_endpoint(self.project, webhook_id)))

    def patch(self, request: Any, app_id: str, webhook_id: str) -> HttpResponse:
        endpoint = webhooks.find_endpoint(self.project, webhook_id)
        changes = self.body(ChangesBody)
        return json_answer(webhook_row(webhooks.change_endpoint(endpoint, changes, self.caller.actor)))

    def delete(self, request: Any, app_id: str, webhook_id: str) -> HttpResponse:
        webhooks.delete_endpoint(webhooks.find_endpoint(self.project, webhook_id), self.caller.actor)
        return no_content()


@schema.rotate
class RotateView(ProjectView):
    """POST webhooks/{id}/rotate."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, app_id: str, webhook_id: str) -> HttpResponse:
        endpoint = webhooks.find_endpoint(self.project, webhook_id)
        secret = webhooks.rotate_secret(endpoint, self.caller.actor)
        return json_answer(webhook_row(endpoint) | {"secret": secret})


@schema.deliveries
class DeliveriesView(ProjectView):
    """GET webhooks/{id}/deliveries: newest first."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str, webhook_id: str) -> HttpResponse:
        rows = WebhookDelivery.objects.filter(endpoint=webhooks.find_endpoint(self.project, webhook_id))
        if "status" in request.GET:
            if request.GET["status"] not in WebhookDelivery.Status.values:
                raise InvalidInput({"status": ["Must be pending, delivered or dead."]})
            rows = rows.filter(status=request.GET["status"])
        found, cursor = page(rows, request._request)
        return json_answer({"deliveries": [delivery_row(row) for row in found], "nextCursor": cursor})


class _Redelivering(ProjectView):
    scopes = {"POST": ("admin",)}

    def answer(self, delivery_id: str, webhook_id: str | None = None) -> HttpResponse:
        delivery = webhooks.find_delivery(self.project, delivery_id, webhook_id)
        return json_answer(delivery_row(webhooks.redeliver(delivery, self.caller.actor)), 202)


@schema.redeliver
class RedeliverView(_Redelivering):
    """POST webhooks/deliveries/{id}/redeliver."""

    def post(self, request: Any, app_id: str, delivery_id: str) -> HttpResponse:
        return self.answer(delivery_id)


@schema.redeliver_of_webhook
class RedeliverOfWebhookView(_Redelivering):
    """POST webhooks/{id}/deliveries/{id}/redeliver."""

    def post(self, request: Any, app_id: str, webhook_id: str, delivery_id: str) -> HttpResponse:
        return self.answer(delivery_id, webhook_id)
