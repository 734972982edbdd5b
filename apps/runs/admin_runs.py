"""Runs: the list, the page of one with its waterfall, and a run made by hand to test a module."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.contrib.filters.admin import FieldTextFilter
from unfold.paginator import InfinitePaginator

from apps.lib.errors import Failure, InvalidInput
from apps.lib.redact import redact
from apps.modules import services as modules
from apps.modules.models import Module
from apps.workspaces.admin_base import (
    EDITORS,
    OwnFilter,
    PeriodFilter,
    ProjectFilter,
    ReadOnly,
    ScopedAdmin,
    display,
    may,
    projects_of,
    row_action,
)
from apps.workspaces.audit import actor_of

from . import starting
from .admin_run_form import StartForm
from .admin_waterfall import picture_of, words
from .models import HumanTask, Run
from .trace import milliseconds, trace_of

STATES = {
    "Created": "info", "Running": "info", "Waits for an answer": "warning", "Completed": "success", "Failed": "danger",
    "Cancelled": "default",
}  # fmt: skip
MOST_MODULES = 300  # offered in a filter or a choice
SHOWN_CHARACTERS = 20_000


class ModuleFilter(OwnFilter):
    title = "module"
    parameter_name = field = "module"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        rows = Module.objects.living().filter(project__in=projects_of(request)).order_by("name")
        return list(rows.values_list("pk", "name")[:MOST_MODULES])


@admin.register(Run)
class RunAdmin(ReadOnly, ScopedAdmin):
    intro = "Every run of a module: what it was given, what it did and when, what it waits for, how it ended."
    paginator = InfinitePaginator
    show_full_result_count = False
    has_history = False
    list_display = (
        "created_at",
        "module",
        "state",
        "took",
        "attempt",
        "user_id",
        "surface",
        "version_number",
        "project",
    )
    list_display_links = ("created_at", "module")
    list_filter = (
        ProjectFilter,
        ModuleFilter,
        "status",
        "surface",
        ("user_id", FieldTextFilter),
        ("created_at", PeriodFilter),
    )
    search_fields = ("=id", "=session_id", "=user_id", "=request_id")
    ordering = ("-created_at", "-id")
    row_actions = ("cancel", "retry")
    actions = ("cancel_chosen", "retry_chosen")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        """Bound to projects by their ids, which the index begins with; without what may be long in lists."""
        rows: QuerySet[Run] = super(ScopedAdmin, self).get_queryset(request)
        if not request.user.is_superuser:
            rows = rows.filter(project__in=list(projects_of(request).values_list("pk", flat=True)))
        rows = rows.select_related("project__workspace", "module", "version").defer(
            "module__source", "module__draft", "version__source", "version__definition"
        )
        match = request.resolver_match
        if match is not None and match.url_name == f"{self.stem}_changelist":
            rows = rows.defer(
                "parameters", "result", "error", "module__source", "module__draft", "version__source",
                "version__definition",
            )  # fmt: skip
        return rows

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, EDITORS, obj)

    @display(description="Status", ordering="status", label=STATES)
    def state(self, row: Run) -> str:
        return Run.Status(row.status).label

    @display(description="Took")
    def took(self, row: Run) -> str:
        return words(milliseconds(row.created_at, row.ended_at)) or "–"

    @display(description="Version")
    def version_number(self, row: Run) -> str:
        return str(row.version.number or "draft")

    def own_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("test/", view(self.test_view), name=f"{self.stem}_test"),
            path("<path:object_id>/live/", view(self.live_view), name=f"{self.stem}_live"),
            path("<path:object_id>/trace.json", view(self.trace_view), name=f"{self.stem}_trace"),
        ]

    # The page of one.
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        run: Run = self.own_object(request, object_id)
        if request.method not in {"GET", "HEAD"}:
            raise PermissionDenied
        return self.page(request, "run", f"{run.module}: run {run.pk}", **self._context(request, run))

    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The part of the page that changes while a run lives; 204 where it is as ``seen`` says."""
        run: Run = self.own_object(request, object_id)
        if request.method not in {"GET", "HEAD"}:
            raise PermissionDenied
        if request.GET.get("seen") == stamp(run) and run.status != Run.Status.RUNNING:
            return HttpResponse(status=204)
        return self.page(request, "_run_live", "", **self._context(request, run))

    def trace_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        run: Run = self.own_object(request, object_id)
        if request.method not in {"GET", "HEAD"}:
            raise PermissionDenied
        return JsonResponse(trace_of(run), json_dumps_params={"indent": 2, "ensure_ascii": False})

    def _context(self, request: HttpRequest, run: Run) -> dict[str, Any]:
        offered = self.offers(run) if self.has_operate_permission(request, run) else []
        tasks = run.tasks_of_all if run.root_id is None else run.tasks
        return {
            "run": run,
            "stamp": stamp(run),
            "state_label": Run.Status(run.status).label,
            "took": words(milliseconds(run.created_at, run.ended_at or timezone.now())),
            "version_label": f"version {run.version.number}" if run.version.number else "the draft",
            "started_by": run.started_by.removeprefix("user:"),
            "parameters": shown(run.parameters),
            "result": shown(run.result) if run.status == Run.Status.COMPLETED else "",
            "error": run.error if isinstance(run.error, dict) else None,
            "error_details": shown((run.error or {}).get("details")) if isinstance(run.error, dict) else "",
            "picture": picture_of(trace_of(run), timezone.now()),
            "tasks": tasks.filter(status=HumanTask.Status.OPEN).order_by("created_at")[:20],
            "children": run.children.select_related("module").only("id", "status", "module__name")[:50],
            "browser_url": browser_url(run),
            "trace_url": reverse(f"admin:{self.stem}_trace", args=[quote(run.pk)]),
            "live_url": reverse(f"admin:{self.stem}_live", args=[quote(run.pk)]),
            "module_url": None
            if run.module.deleted_at
            else reverse("admin:modules_module_change", args=[run.module_id]),
            "again_url": f"{reverse(f'admin:{self.stem}_test')}?{urlencode({'module': run.module_id, 'like': run.pk})}",
            "may_test": may(request, EDITORS, run.workspace_id) and run.module.deleted_at is None,
            "row_actions_of": run,
            "row_actions": [(name, getattr(self, name).deed) for name in offered],
        }

    # What can be done with it.
    def offers(self, obj: Run) -> list[str]:
        if not obj.has_ended:
            return ["cancel"]
        return ["retry"] if obj.status == Run.Status.FATAL_ERRORED and obj.parent_id is None else []

    @row_action("Cancel", permission="operate", icon="cancel", danger=True,
                confirm="Cancel this run? It ends at once, with the runs it started and its open questions.")  # fmt: skip
    def cancel(self, request: HttpRequest, obj: Run) -> None:
        if starting.cancel(obj, actor_of(request)):
            messages.success(request, "The run is cancelled.")
        else:
            messages.warning(request, "The run had ended already.")

    @row_action("Retry from the failed step", permission="operate", icon="replay")
    def retry(self, request: HttpRequest, obj: Run) -> None:
        if starting.retry(obj, actor_of(request)):
            messages.success(request, "The run goes on at the step that failed.")
        else:
            messages.warning(
                request,
                "There is nothing to retry: the run has not failed, somebody retried it, or another run started it.",
            )

    @admin.action(description="Cancel", permissions=["operate"])
    def cancel_chosen(self, request: HttpRequest, queryset: QuerySet[Run]) -> None:
        self._each(request, queryset, starting.cancel, "{} runs are cancelled.", "{} had ended already.")

    @admin.action(description="Retry from the failed step", permissions=["operate"])
    def retry_chosen(self, request: HttpRequest, queryset: QuerySet[Run]) -> None:
        self._each(request, queryset, starting.retry, "{} runs go on.", "{} have not failed.")

    def _each(self, request: HttpRequest, queryset: QuerySet[Run], act: Any, done: str, left: str) -> None:
        rows = self.each_permitted(request, queryset, "operate")
        count = 0
        for row in rows:
            try:
                count += bool(act(row, actor_of(request)))
            except Failure as failure:
                messages.error(request, f"{row}: {failure.text} {failure.advice}")
        messages.success(request, done.format(count))
        if count < len(rows):
            messages.warning(request, left.format(len(rows) - count))

    # A run by hand.
    def test_view(self, request: HttpRequest) -> HttpResponseBase:
        """GET shows the form of a draft's start parameters; POST starts a run of the draft."""
        if not may(request, EDITORS):
            raise PermissionDenied
        choosable = Module.objects.living().filter(project__in=projects_of(request, EDITORS))
        wanted = request.GET.get("module", "").replace("\x00", "-")  # PostgreSQL asks for no NUL
        module = choosable.select_related("project__workspace").filter(pk=wanted).first() if wanted else None
        if wanted and module is None:
            raise Http404
        form = None
        if module is not None:
            form = StartForm(module, request.POST or None, request.FILES or None, initial=self._like(request, module))
            if request.method == "POST" and form.is_valid():
                started = self._start(request, module, form)
                if started is not None:
                    return redirect(self.change_url(started.pk))
        context = {
            "module": module,
            "form": form,
            "choices": choosable.order_by("name").values_list("pk", "name", "project__name")[:MOST_MODULES],
            "editor_url": reverse("admin:modules_module_change", args=[module.pk]) if module else "",
        }
        return self.page(request, "run_test", f"Test {module}" if module else "Test a module", **context)

    def _like(self, request: HttpRequest, module: Module) -> dict[str, Any]:
        """What another run of the module was started with."""
        like = request.GET.get("like", "").replace("\x00", "-")
        run = Run.objects.filter(pk=like, module=module).first()
        return StartForm.initial_of(run.parameters, run.user_id) if run else {}

    def _start(self, request: HttpRequest, module: Module, form: StartForm) -> Run | None:
        actor = actor_of(request)
        try:
            version = modules.draft_version(module, actor)
            return starting.start(
                module, form.parameters(), actor, Run.Surface.ADMIN, version=version,
                user_id=form.cleaned_data["user_id"] or None, options=form.options(),
            )  # fmt: skip
        except InvalidInput as failure:
            form.refuse(failure)
        except Failure as failure:
            form.add_error(None, f"{failure.text} {failure.advice}")
        return None


def stamp(run: Run) -> str:
    """What tells one moment of a run from another."""
    return f"{run.status}-{run.attempt}-{run.events_count}"


def browser_url(run: Run) -> str:
    """The page on which people see the run and answer; of the run at the top, where others started this one."""
    top = run.root if run.root_id else run
    return f"{settings.JACKFIELD_URL}/s/{top.module.public_id}/sessions/{top.session_id}" if top else ""


def shown(value: Any) -> str:
    """A value without what has a secret's name, to be read; long ones cut."""
    if value is None:
        return ""
    text = json.dumps(redact(value), indent=2, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}\n… ({len(text):,} characters)"


def deadline_words(deadline: datetime | None) -> str:
    return f"{deadline:%Y-%m-%d %H:%M}" if deadline else "–"
