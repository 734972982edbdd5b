"""The questions that runs ask people. Only the people asked answer them; here one sees which are open, and for whom."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from unfold.paginator import InfinitePaginator

from apps.lib.redact import redact
from apps.workspaces.admin_base import (
    PeriodFilter,
    ProjectFilter,
    ReadOnly,
    ScopedAdmin,
    display,
    preformatted,
    projects_of,
)

from .admin_runs import browser_url
from .models import HumanTask

STATES = {"Open": "warning", "Answered": "success", "Past its deadline": "danger", "Cancelled": "default"}


@admin.register(HumanTask)
class TaskAdmin(ReadOnly, ScopedAdmin):
    intro = (
        "Forms and approvals that runs wait on. Who is asked answers on the run's page; a cancelled run asks no more."
    )
    paginator = InfinitePaginator
    show_full_result_count = False
    has_history = False
    list_display = ("created_at", "title", "state", "kind", "people", "deadline", "answered_by", "module", "project")
    list_display_links = ("created_at", "title")
    list_filter = (ProjectFilter, "status", "kind", ("created_at", PeriodFilter))
    search_fields = ("title", "answered_by", "=id", "=run__id")
    ordering = ("-created_at", "-id")
    fieldsets = (
        (None, {"fields": ("title", "state", "kind", "people", "created_at", "deadline", "ended_at", "answered_by")}),
        ("Of", {"fields": ("run_link", "step", "project")}),
        ("Question and answer", {"fields": ("asked", "answers", "vote_list")}),
    )
    readonly_fields = (
        "title", "state", "kind", "people", "created_at", "deadline", "ended_at", "answered_by", "run_link", "step",
        "project", "asked", "answers", "vote_list",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[HumanTask]:
        rows: QuerySet[HumanTask] = super(ScopedAdmin, self).get_queryset(request)
        if not request.user.is_superuser:
            rows = rows.filter(project__in=list(projects_of(request).values_list("pk", flat=True)))
        rows = rows.select_related("project__workspace", "run__module", "root__module").only(
            *(field.name for field in HumanTask._meta.concrete_fields), "project__name", "project__workspace",
            "run__module__name", "run__module__title", "run__root", "root__session_id", "root__module__public_id",
            "project__workspace__name", "root__root",
        )  # fmt: skip
        match = request.resolver_match
        if match is not None and match.url_name == f"{self.stem}_changelist":
            rows = rows.defer("spec", "draft", "outcome")
        return rows

    @display(description="Status", ordering="status", label=STATES)
    def state(self, row: HumanTask) -> str:
        return HumanTask.Status(row.status).label

    @display(description="Asked")
    def people(self, row: HumanTask) -> str:
        return ", ".join(map(str, row.assignees)) or "whoever has the link"

    @display(description="Module")
    def module(self, row: HumanTask) -> str:
        return str(row.run.module)

    @display(description="Step")
    def step(self, row: HumanTask) -> str:
        return row.key

    @display(description="Run")
    def run_link(self, row: HumanTask) -> str:
        address = reverse("admin:runs_run_change", args=[quote(row.run_id)])
        return format_html('<a class="jf-link" href="{}">{}</a>', address, row.run_id)

    @display(description="Question")
    def asked(self, row: HumanTask) -> str:
        return pretty(row.spec)

    @display(description="Answer")
    def answers(self, row: HumanTask) -> str:
        return pretty(row.outcome) if row.outcome is not None else "–"

    @display(description="Votes")
    def vote_list(self, row: HumanTask) -> str:
        votes = row.votes.order_by("created_at")[:50]
        return "; ".join(
            f"{vote.voter}: {'yes' if vote.approved else 'no'}{f' ({vote.reason})' if vote.reason else ''}" for vote in votes
        ) or "–"  # fmt: skip

    def facts(self, request: HttpRequest, obj: HumanTask) -> dict[str, Any]:
        return {"links": [("The page where it is answered", browser_url(obj.root), "open_in_new")]}


def pretty(value: Any) -> str:
    return preformatted(json.dumps(redact(value), indent=2, ensure_ascii=False, default=str))
