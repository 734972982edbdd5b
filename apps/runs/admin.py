"""The log of executions, the page to try a tool, and the overview."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from unfold.contrib.filters.admin import FieldTextFilter
from unfold.paginator import InfinitePaginator

from apps.connections.admin import ToolkitFilter
from apps.connections.models import Connection
from apps.workspaces.admin_base import (
    EDITORS,
    PeriodFilter,
    ProjectFilter,
    ReadOnly,
    ScopedAdmin,
    display,
    may,
    preformatted,
    projects_of,
)

from . import admin_deliveries, admin_jobs, admin_runs, admin_sinks, admin_tasks, admin_try  # noqa: F401 # most register themselves
from .admin_tool_form import ToolForm
from .models import Execution


@admin.register(Execution)
class ExecutionAdmin(ReadOnly, ScopedAdmin):
    intro = "Every call of a tool, with what was sent and answered; secrets are taken out before anything is kept."
    paginator = InfinitePaginator
    show_full_result_count = False
    has_history = False
    list_display = ("created_at", "tool", "outcome", "status", "took", "user_id", "project", "surface")
    list_display_links = ("created_at", "tool")
    list_filter = (
        ProjectFilter,
        ToolkitFilter,
        "successful",
        ("tool", FieldTextFilter),
        ("user_id", FieldTextFilter),
        ("created_at", PeriodFilter),
    )
    search_fields = ("tool", "user_id", "message", "=id", "=request_id", "=connection_id")
    ordering = ("-created_at", "-id")
    fieldsets = (
        (None, {"fields": ("created_at", "tool", "outcome", "error_line", "duration_ms", "upstream_ms", "tries")}),
        ("Who", {"fields": ("project", "caller", "surface", "user_id", "connection_id", "request_id")}),
        ("Request", {"fields": ("line", "sent")}),
        ("Response", {"fields": ("status", "answered")}),
    )
    readonly_fields = (
        "created_at", "tool", "outcome", "error_line", "duration_ms", "upstream_ms", "tries", "project", "caller",
        "surface", "user_id", "connection_id", "request_id", "line", "sent", "status", "answered",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Execution]:
        """Bound to projects by their ids, which the index begins with; without the long texts in lists."""
        rows: QuerySet[Execution] = super(ScopedAdmin, self).get_queryset(request)
        if not request.user.is_superuser:
            rows = rows.filter(project__in=list(projects_of(request).values_list("pk", flat=True)))
        match = request.resolver_match
        if match is not None and match.url_name == f"{self.stem}_changelist":
            rows = rows.defer("request", "response")
        return rows.select_related("project")

    @display(description="Outcome", ordering="successful", label={"OK": "success", "Failed": "danger"})
    def outcome(self, row: Execution) -> str:
        return "OK" if row.successful else "Failed"

    @display(description="Took", ordering="duration_ms")
    def took(self, row: Execution) -> str:
        return f"{row.duration_ms} ms"

    @display(description="Error")
    def error_line(self, row: Execution) -> str:
        return f"{row.error}: {row.message}" if row.error else "–"

    @display(description="Call")
    def line(self, row: Execution) -> str:
        return f"{row.method} {row.url}".strip() or "not sent"

    @display(description="Parameters")
    def sent(self, row: Execution) -> str:
        return pretty_text(row.request)

    @display(description="Body")
    def answered(self, row: Execution) -> str:
        return pretty_text(row.response)

    def facts(self, request: HttpRequest, obj: Execution) -> dict[str, Any]:
        if (
            not obj.connection_id
            or not Connection.objects.filter(pk=obj.connection_id, project=obj.project_id).exists()
        ):
            return {}
        url = reverse("admin:connections_connection_change", args=[obj.connection_id])
        return {"links": [("The connection", url, "link")]}

    def own_urls(self) -> list[URLPattern]:
        return [path("try/", self.admin_site.admin_view(self.try_view), name=f"{self.stem}_try")]

    def try_view(self, request: HttpRequest) -> HttpResponse:
        """GET shows the form of the chosen tool; POST calls it."""
        if not may(request, EDITORS):
            raise PermissionDenied
        choice = admin_try.choose(request)
        form = answer = None
        if choice.tool is not None:
            form = ToolForm(choice.tool, request.POST if request.method == "POST" else None)
            if request.method == "POST":
                answer = admin_try.call(request, choice, form)
        context = {"choice": choice, "form": form, "answer": answer}
        return self.page_once(request, "try_tool", "Try a tool", **context)


def pretty_text(text: str) -> str:
    """A logged text in a box, JSON with line breaks."""
    if not text:
        return "–"
    with contextlib.suppress(ValueError):
        text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return preformatted(text)
