"""The admin's first page: what to do next, how the connections are, and the calls of the last day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Q
from django.db.models.functions import TruncHour
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from apps.connections.models import Connection, Integration
from apps.workspaces import quota
from apps.workspaces.admin_base import EDITORS, MANAGERS, may, projects_of
from apps.workspaces.models import ApiKey, Workspace

from .models import Execution, HumanTask, Run

HOURS = 24
HEIGHT = 120  # of the chart, in its own units
WIDTH = 20  # of one hour
PLANS = 3


@dataclass(frozen=True)
class Step:
    """One thing to do on the way to the first call."""

    title: str
    text: str
    done: bool
    url: str
    action: str


def overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Context of the index page (unfold's DASHBOARD_CALLBACK)."""
    projects = list(projects_of(request).values_list("pk", flat=True))
    hours = calls_by_hour(projects, timezone.now())
    return context | {
        "steps": steps(request, projects),
        "states": states(projects),
        "bars": bars(hours),
        "ticks": [hour for hour, _, _ in hours[::6]] + [hours[-1][0]],
        "calls": sum(good + bad for _, good, bad in hours),
        "failures": sum(bad for _, _, bad in hours),
        "chart_width": HOURS * WIDTH,
        "chart_height": HEIGHT,
        "latest": Execution.objects.filter(project__in=projects)
        .select_related("project")
        .defer("request", "response")
        .order_by("-created_at")[:8],
        "may_edit": may(request, EDITORS),
        "plans": plans(request),
        "run_states": run_states(projects),
    }


def plans(request: HttpRequest) -> list[tuple[Workspace, list[quota.Use]]]:
    """What the person's workspaces use of plans that have limits; the first three of them."""
    unlimited = Q(**dict.fromkeys((f"plan__{name}" for name in quota.LIMITS), None))
    rows = Workspace.objects.of(request.user).exclude(unlimited).select_related("plan").order_by("name").distinct()
    return [(row, quota.usage(row)) for row in rows[:PLANS]]


def steps(request: HttpRequest, projects: list[str]) -> list[Step]:
    """The way to the first call, for who may go it."""
    if not may(request, EDITORS):
        return []
    found = [
        Step("Enable a toolkit", "Choose a service from the catalog, and give it an OAuth client if it needs one.",
             Integration.objects.enabled().filter(project__in=projects).exists(),
             reverse("admin:connections_integration_catalog"), "Open the catalog"),
        Step("Connect an account", "Open an integration and connect a test account, as an end user would.",
             Connection.objects.filter(project__in=projects).exists(),
             reverse("admin:connections_integration_changelist"), "Open the integrations"),
        Step("Call a tool", "Fill in a form, or send one request with an API key.",
             Execution.objects.filter(project__in=projects, successful=True).exists(),
             reverse("admin:runs_execution_try"), "Try a tool"),
        Step("Issue an API key", "Your product calls with it.",
             ApiKey.objects.filter(workspace__in=Workspace.objects.of(request.user)).usable().exists(),
             reverse("admin:workspaces_apikey_add"), "Issue a key"),
    ]  # fmt: skip
    if not projects and may(request, MANAGERS):
        first = reverse("admin:workspaces_project_add")
        if not Workspace.objects.of(request.user).exists():
            first = reverse("admin:workspaces_workspace_add")
        found.insert(
            0, Step("Make a project", "One product of yours, with its own end users.", False, first, "Make one")
        )
    return found


def states(projects: list[str]) -> list[dict[str, Any]]:
    """How many connections are in which state, each with the list of them."""
    rows = Connection.objects.filter(project__in=projects).values_list("status").annotate(Count("pk"))
    counts: dict[str, int] = dict(rows)
    base = reverse("admin:connections_connection_changelist")
    kinds = {"active": "good", "inactive": "waiting", "expired": "bad"}
    return [
        {"label": label, "count": counts.get(value, 0), "url": f"{base}?status__exact={value}", "kind": kinds[value]}
        for value, label in Connection.Status.choices
    ]


def run_states(projects: list[str]) -> list[dict[str, Any]]:
    """Runs begun in the last 24 hours by how they ended, and those that wait for a person now; none where there is no run."""
    since = timezone.now() - timedelta(hours=HOURS)
    rows = Run.objects.filter(project__in=projects, created_at__gte=since).values_list("status").annotate(Count("pk"))
    counts: dict[str, int] = dict(rows.order_by())
    waiting = HumanTask.objects.filter(project__in=projects, status=HumanTask.Status.OPEN).count()
    if not counts and not waiting:
        return []
    base = reverse("admin:runs_run_changelist")
    status = Run.Status
    failed = counts.get(status.FATAL_ERRORED, 0)
    return [
        {"label": "Runs in the last 24 hours", "count": sum(counts.values()), "url": base, "kind": ""},
        {"label": "of them completed", "count": counts.get(status.COMPLETED, 0), "kind": "good",
         "url": f"{base}?status__exact={status.COMPLETED}"},
        {"label": "of them failed", "count": failed, "kind": "bad" if failed else "",
         "url": f"{base}?status__exact={status.FATAL_ERRORED}"},
        {"label": "Questions wait for an answer", "count": waiting, "kind": "",
         "url": f"{reverse('admin:runs_humantask_changelist')}?status__exact={HumanTask.Status.OPEN}"},
    ]  # fmt: skip


def calls_by_hour(projects: list[str], now: datetime) -> list[tuple[datetime, int, int]]:
    """(hour, successes, failures) of the last 24 hours, oldest first, hours without a call among them."""
    first = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)
    rows = (
        Execution.objects.filter(project__in=projects, created_at__gte=first)
        .annotate(hour=TruncHour("created_at"))
        .values("hour")
        .annotate(good=Count("pk", filter=Q(successful=True)), bad=Count("pk", filter=Q(successful=False)))
        .order_by("hour")
    )
    counts = {row["hour"]: (row["good"], row["bad"]) for row in rows}
    hours = [first + timedelta(hours=number) for number in range(HOURS)]
    return [(hour, *counts.get(hour, (0, 0))) for hour in hours]


def bars(hours: list[tuple[datetime, int, int]]) -> list[dict[str, Any]]:
    """Rectangles of a stacked chart: failures on top of successes."""
    most = max([good + bad for _, good, bad in hours] + [1])
    found = []
    for number, (hour, good, bad) in enumerate(hours):
        high_good, high_bad = (round(HEIGHT * count / most, 1) for count in (good, bad))
        found.append(
            {
                "x": number * WIDTH + 2,
                "width": WIDTH - 4,
                "hour": hour,
                "good": good,
                "bad": bad,
                "good_y": HEIGHT - high_good,
                "good_height": high_good,
                "bad_y": round(HEIGHT - high_good - high_bad, 1),
                "bad_height": high_bad,
            }
        )
    return found
