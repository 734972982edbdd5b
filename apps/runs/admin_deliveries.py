"""Deliveries: runs' results on their way to sinks, with every try."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.contrib.filters.admin import FieldTextFilter
from unfold.paginator import InfinitePaginator

from apps.workspaces.admin_base import (
    EDITORS,
    PeriodFilter,
    ProjectFilter,
    ReadOnly,
    ScopedAdmin,
    display,
    preformatted,
    projects_of,
    row_action,
)
from apps.workspaces.admin_webhooks import STATES, moment_of, said
from apps.workspaces.audit import actor_of

from . import deliveries
from .admin_calendar import how_far
from .admin_runs import shown
from .models import Delivery

SHORT = 40  # characters of a target in lists


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly, ScopedAdmin):
    intro = (
        "Results of runs on their way to webhooks and buckets. A webhook is tried for an hour, a bucket for ten minutes; then "
        "the delivery is dead, and can be made again here."
    )
    paginator = InfinitePaginator
    show_full_result_count = False
    has_history = False
    list_display = (
        "created_at", "state", "short_target", "module", "run_link", "last_answer", "try_count", "next_try_soon", "project",
    )  # fmt: skip
    list_display_links = ("created_at", "state")
    list_filter = (ProjectFilter, "status", "kind", ("api", FieldTextFilter), ("created_at", PeriodFilter))
    search_fields = ("=id", "=run_id", "=job_run_id")
    ordering = ("-created_at", "-id")
    fieldsets = (
        (None, {"fields": ("state", "kind", "target_shown", "module", "run_link", "job_run_link", "project")}),
        ("Tries", {"fields": ("created_at", "delivered_at", "next_try", "ends_at", "try_table")}),
        ("What is sent", {"fields": ("content",)}),
    )
    readonly_fields = (
        "state", "kind", "target_shown", "module", "run_link", "job_run_link", "project", "created_at", "delivered_at",
        "next_try", "ends_at", "try_table", "content",
    )  # fmt: skip
    row_actions = ("redeliver",)
    actions = ("redeliver_chosen",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Delivery]:
        """Bound to projects by their ids, which the index begins with; without what may be long in lists."""
        rows: QuerySet[Delivery] = super(ScopedAdmin, self).get_queryset(request)
        if not request.user.is_superuser:
            rows = rows.filter(project__in=list(projects_of(request).values_list("pk", flat=True)))
        rows = rows.select_related("project__workspace")
        match = request.resolver_match
        if match is not None and match.url_name == f"{self.stem}_changelist":
            rows = rows.defer("body", "sink")
        return rows

    def has_redeliver_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, EDITORS, obj)

    @display(description="State", ordering="status", label=STATES)
    def state(self, row: Delivery) -> str:
        waits = row.status == Delivery.Status.PENDING and row.try_count
        return "Waits for its next try" if waits else Delivery.Status(row.status).label

    @display(description="Target", ordering="target")
    def short_target(self, row: Delivery) -> str:
        """Of a URL the host, of an object in a bucket what tells it from another."""
        target, ends = row.target, "" if row.kind == Delivery.Kind.WEBHOOK else row.target[-SHORT // 2 :]
        short = target if len(target) <= SHORT else f"{target[: SHORT - len(ends)]}…{ends}"
        return format_html('<span title="{}">{}</span>', row.target, short)

    @display(description="Target")
    def target_shown(self, row: Delivery) -> str:
        return format_html('<span class="jf-break">{}</span>', row.target)

    @display(description="Run")
    def run_link(self, row: Delivery) -> str:
        return _link("runs_run", row.run_id) if row.run_id else "–"

    @display(description="Job run")
    def job_run_link(self, row: Delivery) -> str:
        return _link("runs_jobrun", row.job_run_id) if row.job_run_id else "–"

    @display(description="Module", ordering="api")
    def module(self, row: Delivery) -> str:
        return row.api or "failure of a job run"

    @display(description="Last answer")
    def last_answer(self, row: Delivery) -> str:
        """In a word, for a list's narrow column."""
        if not row.tries:
            return "–"
        return format_html('<span title="{}">{}</span>', said(row.tries[-1]), row.tries[-1].get("status") or "none")

    @display(description="Next try", ordering="next_try_at")
    def next_try_soon(self, row: Delivery) -> str:
        if row.status != Delivery.Status.PENDING or row.next_try_at is None:
            return "–"
        return how_far(row.next_try_at, timezone.now())

    @display(description="Next try", ordering="next_try_at")
    def next_try(self, row: Delivery) -> str:
        pending = row.status == Delivery.Status.PENDING and row.next_try_at is not None
        return f"{row.next_try_at:%Y-%m-%d %H:%M:%S}" if pending else "–"

    @display(description="Tries")
    def try_table(self, row: Delivery) -> Any:
        tries = [one | {"moment": moment_of(one["at"]), "said": said(one)} for one in row.tries]
        return render_to_string("admin/jackfield/webhook_tries.html", {"tries": tries})

    @display(description="Body")
    def content(self, row: Delivery) -> str:
        try:
            return preformatted(shown(json.loads(row.body)))
        except ValueError:
            return preformatted(row.body)

    def offers(self, obj: Delivery) -> list[str]:
        return [] if obj.status == Delivery.Status.PENDING and not obj.try_count else ["redeliver"]

    @row_action("Deliver again", permission="redeliver", icon="replay")
    def redeliver(self, request: HttpRequest, obj: Delivery) -> None:
        deliveries.redeliver(obj, actor_of(request))
        messages.success(request, "The result is sent again.")

    @admin.action(description="Deliver again", permissions=["redeliver"])
    def redeliver_chosen(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        rows = self.each_permitted(request, queryset.defer("body", "sink"), "redeliver")
        projects = {row.project_id: row.project for row in rows}
        count = 0
        for pk, project in projects.items():
            chosen = [row.pk for row in rows if row.project_id == pk]
            count += deliveries.redeliver_all(project, actor_of(request), ids=chosen)
        messages.success(request, f"{count} results are sent again.")
        if count < len(rows):
            messages.warning(request, f"{len(rows) - count} are on their way already.")


def _link(page: str, pk: str) -> str:
    return format_html('<a class="jf-link" href="{}">{}</a>', reverse(f"admin:{page}_change", args=[quote(pk)]), pk)
