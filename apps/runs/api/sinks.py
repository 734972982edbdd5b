"""Sinks in bodies, and the project's setting ``sink``."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from apps.lib.errors import InvalidInput
from apps.workspaces.project_settings import Part

from .. import sinks
from .serializers import JsonObject

FILTERS: dict[str, Any] = {
    "skipOnFail": {"type": ["boolean", "null"], "description": "Results of failed runs are not sent."},
    "apisToSend": {
        "type": ["array", "null"],
        "items": {"type": "string"},
        "description": "Only results of these modules; empty: all.",
    },
}
WEBHOOK: dict[str, Any] = {
    "type": "object",
    "required": ["type", "url"],
    "properties": {
        "type": {"type": "string", "enum": ["webhook"]},
        "url": {"type": "string", "description": "https, at a public address."},
        "headers": {
            "type": ["object", "null"],
            "additionalProperties": {"type": "string"},
            "description": "Sent along; their values read back as `********`.",
        },
        **FILTERS,
    },
}
S3: dict[str, Any] = {
    "type": "object",
    "required": ["type", "bucket", "accessKeyId", "secretAccessKey", "region"],
    "properties": {
        "type": {"type": "string", "enum": ["s3"]},
        "bucket": {"type": "string"},
        "accessKeyId": {"type": "string"},
        "secretAccessKey": {"type": "string", "description": "Reads back as `********`."},
        "region": {"type": "string"},
        "prefix": {
            "type": ["string", "null"],
            "description": "Stands before `{project}/{api}/{runId}.json`, as it is.",
        },
        "endpoint": {"type": ["string", "null"], "description": "Of a service that speaks S3; absent: AWS."},
        "forcePathStyle": {
            "type": ["boolean", "null"],
            "description": "Whether the bucket stands in the path, not in the host.",
        },
        **FILTERS,
    },
}


@extend_schema_field({"oneOf": [WEBHOOK, S3]})
class SinkField(JsonObject):
    """A sink as it may be given where none is stored."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        try:
            return sinks.accepted(super().to_internal_value(data))
        except InvalidInput as error:
            raise serializers.ValidationError(error.details) from None


@extend_schema_field({"oneOf": [WEBHOOK, S3]})
class SinkSetting(JsonObject):
    """A sink that is checked where the stored one is known: what is masked in it stays as it was."""


SETTING = Part(
    name="sink",
    field=lambda: SinkSetting(required=False, allow_null=True),
    read=lambda project: sinks.masked(sinks.default_of(project)),
    change=sinks.change_default,
)
