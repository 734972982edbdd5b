"""What the API's description says of the file of a job run's results."""

from __future__ import annotations

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_view

from apps.lib import errors
from apps.lib.openapi import operation

from .runs_schema import TAG

results = extend_schema_view(
    get=operation(
        "readJobResults",
        "Read all results of a job run",
        description="The address is the `signed_url` of a job run that has ended; it needs no key, and is good for an hour. "
        "JSON Lines: one line for each item in the payload's order, `{name, parameters, runId, result: {status, statusCode, …}}` as in "
        "a sink's `apiInfo`.",
        tag=TAG,
        answer=OpenApiTypes.BINARY,
        fails=[errors.NotFound],
        public=True,
    )
)
