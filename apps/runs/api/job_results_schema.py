"""What the API's description says of the file of a job run's results."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.openapi import operation

from ..job_results import CONTENT_TYPE
from .runs_schema import TAG
from .schema import AnyJson


class ItemResult(serializers.Serializer[Any]):
    status = serializers.ChoiceField(["completed", "failed", "canceled"])
    statusCode = serializers.IntegerField(
        help_text="200, 408 for one that ran out of time, else 500; 400: never started."
    )
    result = AnyJson(required=False, help_text="What the module gives.")
    error = serializers.CharField(required=False, help_text="Of one that did not complete: the error's code.")
    message = serializers.CharField(required=False)


class ItemLine(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="The module's name.")
    parameters = AnyJson()
    runId = serializers.CharField(allow_null=True, help_text="null: no run was started.")
    result = ItemResult()


LINE = {
    "name": "orders/read",
    "parameters": {"page": 1},
    "runId": "V1StGXR8_Z5jdHi6B-myT",
    "result": {"status": "completed", "result": {"orders": 12}, "statusCode": 200},
}

results = extend_schema_view(
    get=operation(
        "readJobResults",
        "Read all results of a job run",
        description="The address is the `signed_url` of a job run that has ended; it needs no key, and is good for an hour. "
        "JSON Lines: one such line for each item, in the payload's order.",
        tag=TAG,
        answer=ItemLine,
        example=LINE,
        media=CONTENT_TYPE,
        fails=[errors.NotFound],
        public=True,
    )
)
