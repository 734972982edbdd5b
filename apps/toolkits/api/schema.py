"""What the API's description says of a project's own toolkits."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.openapi import operation, paged


@extend_schema_field({"type": "object", "additionalProperties": {}})
class Document(serializers.JSONField):
    """A toolkit, as a file of the catalog describes one."""


class OwnToolkitRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    slug = serializers.CharField()
    toolkit = Document(help_text="What was put.")
    createdAt = serializers.DateTimeField()
    updatedAt = serializers.DateTimeField()


class OwnToolkits(serializers.Serializer[Any]):
    toolkits = OwnToolkitRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


DOCUMENT = {
    "name": "Warehouse",
    "base_url": "https://warehouse.example/api",
    "auth": [{"type": "api_key", "placement": {"in": "header", "name": "X-Key"}}],
    "test": {"path": "/me"},
    "tools": [
        {
            "slug": "get_item",
            "name": "Get an item",
            "description": "Reads one item.",
            "method": "GET",
            "path": "/items/{id}",
            "parameters": {"id": {"in": "path", "type": "string", "required": True}},
        }
    ],
}
ROW = {
    "id": "0198c2f4",
    "slug": "warehouse",
    "toolkit": DOCUMENT,
    "createdAt": "2026-01-31T12:00:00+00:00",
    "updatedAt": "2026-01-31T12:00:00+00:00",
}

toolkits = extend_schema_view(
    get=operation(
        "listOwnToolkits",
        "List the toolkits of the project's own",
        description="Needs the scope `admin`.",
        tag="Integrations",
        answer=OwnToolkits,
        example={"toolkits": [ROW], "nextCursor": None},
        parameters=paged(),
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
toolkit = extend_schema_view(
    put=operation(
        "putOwnToolkit",
        "Describe a toolkit of the project's own",
        description="Needs the scope `admin`. The body has the schema of the catalog's files "
        "(`manage.py toolkit_schema` prints it); `slug` is the path's. Every fault is named by its place. "
        "Switch the toolkit on with `configure` afterwards. Hooks are for the installation's own files only.",
        tag="Integrations",
        body={"application/json": {"type": "object", "additionalProperties": {}}},
        sent=DOCUMENT,
        answer=OwnToolkitRow,
        example=ROW,
        fails=[errors.InvalidInput, errors.NotPermitted, errors.Conflict, errors.BodyTooLarge],
    ),
    get=operation(
        "getOwnToolkit",
        "Read a toolkit of the project's own",
        description="Needs the scope `admin`.",
        tag="Integrations",
        answer=OwnToolkitRow,
        example=ROW,
        fails=[errors.NotPermitted],
    ),
    delete=operation(
        "deleteOwnToolkit",
        "Take a toolkit of the project's own away",
        description="Needs the scope `admin`. It is switched off; accounts connected at it can no longer be used.",
        tag="Integrations",
        status=204,
        fails=[errors.NotPermitted],
    ),
)
