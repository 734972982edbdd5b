"""The project's deliveries to sinks, and the secret that signs those to webhooks."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpResponse
from rest_framework import serializers

from apps.lib.api import StrictText, json_answer, page
from apps.lib.errors import InvalidInput
from apps.lib.redact import redact
from apps.workspaces.api.base import ProjectView

from .. import deliveries
from ..models import Delivery
from . import deliveries_schema as schema

FILTERS = {"runId": "run_id", "jobRunId": "job_run_id"}
MOST_IDS = 1000


def delivery_row(row: Delivery) -> dict[str, Any]:
    """A delivery as the list has it: without its body."""
    pending = row.status == Delivery.Status.PENDING
    return {
        "id": row.pk,
        "messageId": f"msg_{row.pk}",
        "runId": row.run_id,
        "jobRunId": row.job_run_id or None,
        "api": row.api,
        "kind": row.kind,
        "target": row.target,
        "status": row.status,
        "tries": row.tries,
        "tryCount": row.try_count,
        "nextTryAt": row.next_try_at.isoformat() if pending and row.next_try_at else None,
        "endsAt": row.ends_at.isoformat(),
        "deliveredAt": row.delivered_at.isoformat() if row.delivered_at else None,
        "createdAt": row.created_at.isoformat(),
    }


class RedeliverBody(serializers.Serializer[Any]):
    status = serializers.ChoiceField([Delivery.Status.DEAD, Delivery.Status.DELIVERED], required=False, allow_null=True)
    runId = StrictText(max_length=40, required=False, allow_null=True)
    jobRunId = StrictText(max_length=40, required=False, allow_null=True)
    ids = serializers.ListField(child=StrictText(max_length=40), required=False, allow_null=True, max_length=MOST_IDS)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """A filter that is misspelt would else send everything again."""
        unknown = sorted(set(self.initial_data) - set(self.fields))
        if unknown:
            raise serializers.ValidationError({name: ["Unknown field."] for name in unknown})
        return attrs


@schema.deliveries
class DeliveriesView(ProjectView):
    """GET deliveries: newest first."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str) -> HttpResponse:
        rows = deliveries.of_project(self.project).defer("sink", "body")
        if "status" in request.GET:
            if request.GET["status"] not in Delivery.Status.values:
                raise InvalidInput({"status": ["Must be pending, delivered or dead."]})
            rows = rows.filter(status=request.GET["status"])
        for name, column in FILTERS.items():
            if name in request.GET:
                rows = rows.filter(**{column: request.GET[name]})
        found, cursor = page(rows, request._request)
        return json_answer({"deliveries": [delivery_row(row) for row in found], "nextCursor": cursor})


@schema.delivery
class DeliveryView(ProjectView):
    """GET deliveries/{id}."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str, sink_delivery_id: str) -> HttpResponse:
        row = deliveries.find(self.project, sink_delivery_id)
        return json_answer({**delivery_row(row), "body": redact(json.loads(row.body))})


@schema.redeliver
class RedeliverView(ProjectView):
    """POST deliveries/{id}/redeliver."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, app_id: str, sink_delivery_id: str) -> HttpResponse:
        row = deliveries.find(self.project, sink_delivery_id)
        return json_answer(delivery_row(deliveries.redeliver(row, self.caller.actor)), 202)


@schema.redeliver_all
class RedeliverAllView(ProjectView):
    """POST deliveries/redeliver."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, app_id: str) -> HttpResponse:
        body = self.body(RedeliverBody)
        count = deliveries.redeliver_all(
            self.project,
            self.caller.actor,
            status=body.get("status"),
            run_id=body.get("runId"),
            job_run_id=body.get("jobRunId"),
            ids=body.get("ids"),
        )
        return json_answer({"redelivered": count}, 202)


@schema.secret
class SecretView(ProjectView):
    """GET webhook-secret: a secret, so that it needs the scope where a member's role would do for reading."""

    def get(self, request: Any, app_id: str) -> HttpResponse:
        self.caller.require("admin")
        secret, until = deliveries.secret_of(self.project, self.caller.actor)
        return json_answer({"secret": secret, "previousUntil": until.isoformat() if until else None})


@schema.rotate
class RotateView(ProjectView):
    """POST webhook-secret/rotate."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, app_id: str) -> HttpResponse:
        secret, until = deliveries.rotate_secret(self.project, self.caller.actor)
        return json_answer({"secret": secret, "previousUntil": until.isoformat()})
