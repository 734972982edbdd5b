"""``GET /v1/job-results/{token}``: the results of a job run, for whoever has its signed link."""

from __future__ import annotations

from typing import Any

from django.http import StreamingHttpResponse

from apps.lib.api import ApiView

from .. import job_results
from . import job_results_schema as schema


@schema.results
class ResultsView(ApiView):
    """GET job-results/{token}."""

    http_method_names = ["get"]

    def get(self, request: Any, token: str) -> StreamingHttpResponse:
        job_run = job_results.find(token)
        answer = StreamingHttpResponse(job_results.lines(job_run), content_type=job_results.CONTENT_TYPE)
        answer["Content-Disposition"] = f'attachment; filename="{job_run.pk}.{job_results.FORMAT}"'
        answer["Cache-Control"] = "private, no-store"
        return answer
