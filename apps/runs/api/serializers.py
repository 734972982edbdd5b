"""Bodies of the executing part of the Integrations API, and its rows."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from apps.lib.api import StrictText

from ..models import Execution


class JsonObject(serializers.Field[Any, Any, Any, Any]):
    """A JSON object, taken as it is."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise serializers.ValidationError("Must be a JSON object.")
        return data

    def to_representation(self, value: Any) -> Any:
        return value


class ExecuteBody(serializers.Serializer[Any]):
    toolName = StrictText(max_length=200)
    params = JsonObject(required=False, default=dict)
    userId = StrictText(max_length=255, required=False, trim_whitespace=False)
    connectionId = StrictText(max_length=40, required=False)


def execution_row(row: Execution) -> dict[str, Any]:
    return {
        "id": row.pk,
        "surface": row.surface,
        "caller": row.caller,
        "userId": row.user_id or None,
        "connectionId": row.connection_id or None,
        "toolkit": row.toolkit,
        "tool": row.tool,
        "successful": row.successful,
        "status": row.status,
        "error": row.error or None,
        "message": row.message or None,
        "request": row.request,
        "response": row.response,
        "durationMs": row.duration_ms,
        "upstreamMs": row.upstream_ms,
        "tries": row.tries,
        "requestId": row.request_id,
        "createdAt": row.created_at.isoformat(),
    }
