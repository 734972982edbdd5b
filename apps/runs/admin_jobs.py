"""Jobs with their schedules, and job runs with their progress and what failed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.text import Truncator
from unfold.paginator import InfinitePaginator

from apps.lib.errors import Failure, InvalidInput
from apps.workspaces.admin_base import (
    EDITORS,
    OwnFilter,
    PeriodFilter,
    ProjectFilter,
    ReadOnly,
    ScopedAdmin,
    display,
    projects_of,
    row_action,
)
from apps.workspaces.audit import actor_of
from apps.workspaces.services import clean_user_id

from . import job_results, jobs, run_auth, schedules
from .admin_calendar import how_far, in_words, month_of
from .admin_job_form import MORE, ChangeJobForm, JobForm, NewJobForm
from .admin_runs import shown
from .admin_waterfall import words
from .api.jobs import job_alone, require_published, stored
from .masking import unmasked
from .models import Job, JobItem, JobRun, Run
from .schedules import Schedule
from .trace import milliseconds

STATES = {"Active": "success", "Paused": "warning"}
STATUSES = {
    "Under way": "info", "Pausing": "warning", "Paused": "warning", "Succeeded": "success", "Failed": "danger",
    "Terminated": "default", "Not begun": "default",
}  # fmt: skip
FIRINGS = 10
MOST_JOBS = 300  # offered in a filter
SHOWN_NAME = 60  # characters, in lists
SHOWN_JOB_RUNS = 15
SHOWN_FAILED = 20
SHOWN_ITEMS = 100


def schedule_of(job: Job) -> Schedule | None:
    """None where it has none, or one that is none any more: a time zone that this machine no longer knows."""
    try:
        return schedules.clean(job.schedule) if job.schedule else None
    except InvalidInput:
        return None


class JobFilter(OwnFilter):
    title = "job"
    parameter_name = field = "job"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        rows = Job.objects.present().filter(project__in=projects_of(request)).order_by("name")
        return list(rows.values_list("pk", "name")[:MOST_JOBS])


@admin.register(Job)
class JobAdmin(ScopedAdmin):
    intro = "What starts runs by itself: a payload of items, and the times at which each of them becomes a run."
    has_history = False
    list_display = ("short_name", "standing", "schedule_words", "next_firing", "last_status", "project")
    list_filter = (ProjectFilter, "state")
    search_fields = ("name", "=user_id")
    ordering = ("name", "id")
    row_actions = ("trigger", "pause", "resume")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        last = JobRun.objects.filter(job=OuterRef("pk")).order_by("-created_at", "-id").values("status")[:1]
        rows: QuerySet[Job] = super().get_queryset(request).filter(deleted_at=None)
        return rows.select_related("project__workspace").defer("payload").annotate(last=Subquery(last))

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, EDITORS, obj)

    def remove(self, request: HttpRequest, obj: Job) -> None:
        jobs.delete(obj, actor_of(request))

    # The list.
    @display(description="Id", ordering="name")
    def short_name(self, row: Job) -> str:
        return Truncator(row.name).chars(SHOWN_NAME)

    @display(description="State", ordering="state", label=STATES)
    def standing(self, row: Job) -> str:
        return Job.State(row.state).label

    @display(description="Fires")
    def schedule_words(self, row: Job) -> str:
        found = _sentences(row)
        return found[0] if len(found) < 2 else f"{found[0]} And {len(found) - 1} more."

    @display(description="Next (UTC)", ordering="next_run_at")
    def next_firing(self, row: Job) -> str:
        at = row.next_run_at
        return f"{at:%Y-%m-%d %H:%M}, {how_far(at, timezone.now())}" if at else "–"

    @display(description="Last job run", label=STATUSES)
    def last_status(self, row: Any) -> str:
        return JobRun.Status(row.last).label if row.last else "None yet"

    # The page of one.
    def own_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [path("<path:object_id>/edit/", view(self.edit_view), name=f"{self.stem}_edit")]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        job: Job = self.own_object(request, object_id)
        if request.method not in {"GET", "HEAD"}:
            raise PermissionDenied
        return self.page(request, "job", f"Job {job}", **self._context(request, job))

    def _context(self, request: HttpRequest, job: Job) -> dict[str, Any]:
        now, schedule = timezone.now(), schedule_of(job)
        may_operate = self.has_operate_permission(request, job)
        whole = job_alone(job)
        return {
            "job": job,
            "sentences": _sentences(job),
            "month": month_of(schedule, request.GET.get("month", ""), now) if schedule else None,
            "firings": _firings(job, schedule, now) if schedule else [],
            "job_runs": JobRun.objects.filter(job=job).order_by("-created_at", "-id")[:SHOWN_JOB_RUNS],
            "job_runs_url": f"{reverse('admin:runs_jobrun_changelist')}?job={quote(job.pk)}",
            "payload": shown(job.payload),
            "items": len(job.payload),
            "configuration": shown(whole["configuration"]),
            "schedule": shown(job.schedule),
            "more": shown({name: whole[name] for name in MORE if whole.get(name) is not None} or None),
            "row_actions_of": job,
            "row_actions": [(name, getattr(self, name).deed) for name in self.offers(job)] if may_operate else [],
            "edit_url": reverse(f"admin:{self.stem}_edit", args=[quote(job.pk)]) if may_operate else "",
            "delete_url": reverse(f"admin:{self.stem}_delete", args=[quote(job.pk)])
            if self.has_delete_permission(request, job)
            else "",
        }

    # Making and changing one.
    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = NewJobForm(request.POST or None, request=request, initial={"project": request.GET.get("project", "")})
        if request.method == "POST" and form.is_valid() and (made := self._carried_out(request, form)):
            messages.success(request, "The job is made.")
            return redirect(self.change_url(made.pk))
        context = {"form": form, "submit": "Make the job"}
        return self.page(request, "job_form", "New job", **context)

    def edit_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        job: Job = self.own_object(request, object_id)
        if not self.has_change_permission(request, job):
            raise PermissionDenied
        form = ChangeJobForm(request.POST or None, job=job)
        if request.method == "POST" and form.is_valid() and self._carried_out(request, form):
            messages.success(request, "The job is saved. What is under way goes on as it was fired.")
            return redirect(self.change_url(job.pk))
        context = {"form": form, "submit": "Save", "job": job, "back_url": self.change_url(job.pk)}
        return self.page(request, "job_form", f"Change job {job}", **context)

    def _carried_out(self, request: HttpRequest, form: JobForm) -> Job | None:
        """The job, made or changed; None where the form now says why not."""
        try:
            return self._make(request, form) if isinstance(form, NewJobForm) else self._change(request, form)
        except Failure as failure:
            form.refuse(failure)
            return None

    def _make(self, request: HttpRequest, form: NewJobForm) -> Job:
        body, project = form.body(), form.place
        require_published(project, body["payload"])
        named = body.pop("endUser", None)
        named = None if named is None else clean_user_id(named, "endUser")
        user_id = run_auth.options_for(project, named, body.get("auth_session"), place="auth_session")[0]
        return jobs.create(project, unmasked(body, {}), actor_of(request), user_id)

    def _change(self, request: HttpRequest, form: Any) -> Job:
        body, job = form.body(), form.job
        require_published(job.project, body["payload"])
        run_auth.options_for(job.project, job.user_id or None, body.get("auth_session"), place="auth_session")
        return jobs.change(job, unmasked(body, stored(job)), actor_of(request))

    # What can be done with it.
    def offers(self, obj: Job) -> list[str]:
        return ["trigger", "pause"] if obj.state == Job.State.ACTIVE else ["resume"]

    @row_action("Fire now", permission="operate", icon="play_arrow")
    def trigger(self, request: HttpRequest, obj: Job) -> HttpResponseBase:
        job_run = jobs.trigger(obj, actor_of(request))
        messages.success(request, "The job is fired.")
        return redirect(reverse("admin:runs_jobrun_change", args=[quote(job_run.pk)]))

    @row_action("Pause", permission="operate", icon="pause")
    def pause(self, request: HttpRequest, obj: Job) -> None:
        jobs.pause(obj, actor_of(request))
        messages.success(request, "The job is paused: it does not fire, and of what is under way no item is started.")

    @row_action("Resume", permission="operate", icon="play_arrow")
    def resume(self, request: HttpRequest, obj: Job) -> None:
        jobs.resume(obj, actor_of(request))
        messages.success(request, "The job goes on. What it missed while it was paused is not made up for.")


def _sentences(job: Job) -> list[str]:
    if not job.schedule:
        return ["Only by hand, or over the API."]
    schedule = schedule_of(job)
    if schedule is None:
        return ["Never: its schedule is not understood here any more. Save the job again to see why."]
    return schedule.in_words() or ["Never by itself: its schedule is empty."]


def _firings(job: Job, schedule: Schedule, now: datetime) -> list[tuple[datetime, str]]:
    """The next ten with their words, the jitter included: as the scheduler takes them."""
    found: list[tuple[datetime, str]] = []
    at: datetime | None = now
    while len(found) < FIRINGS and at is not None:
        at = jobs.next_time(schedule, job.pk, at)
        if at is not None:
            found.append((at, in_words(at, schedule.zone, now)))
    return found


@admin.register(JobRun)
class JobRunAdmin(ReadOnly, ScopedAdmin):
    intro = "Every firing of a job, how far it is, and how it ended."
    paginator = InfinitePaginator
    show_full_result_count = False
    has_history = False
    list_display = ("created_at", "of_job", "standing", "progress", "failed", "type", "took", "project")
    list_display_links = ("created_at", "of_job")
    list_filter = (ProjectFilter, JobFilter, "status", "type", ("created_at", PeriodFilter))
    search_fields = ("=id",)
    ordering = ("-created_at", "-id")
    row_actions = ("terminate",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[JobRun]:
        """Bound to projects by their ids, which the index begins with."""
        rows: QuerySet[JobRun] = super(ScopedAdmin, self).get_queryset(request)
        if not request.user.is_superuser:
            rows = rows.filter(project__in=list(projects_of(request).values_list("pk", flat=True)))
        return rows.select_related("project__workspace", "job").defer("job__payload")

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, EDITORS, obj)

    # The list.
    @display(description="Job")
    def of_job(self, row: JobRun) -> str:
        return Truncator(row.job.name).chars(SHOWN_NAME)

    @display(description="Status", ordering="status", label=STATUSES)
    def standing(self, row: JobRun) -> str:
        return JobRun.Status(row.status).label

    @display(description="Ended")
    def progress(self, row: JobRun) -> str:
        return f"{row.successful_runs + row.failed_runs} of {row.payloads}"

    @display(description="Failed", ordering="failed_runs")
    def failed(self, row: JobRun) -> str:
        return str(row.failed_runs or "–")

    @display(description="Took")
    def took(self, row: JobRun) -> str:
        return words(milliseconds(row.created_at, row.ended_at)) or "–"

    # The page of one.
    def own_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("<path:object_id>/live/", view(self.live_view), name=f"{self.stem}_live"),
            path("<path:object_id>/items/", view(self.items_view), name=f"{self.stem}_items"),
            path("<path:object_id>/results/", view(self.results_view), name=f"{self.stem}_results"),
        ]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        row = self._read(request, object_id)
        return self.page(request, "job_run", f"Job run {row.pk} of {row.job}", **self._context(request, row))

    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The part of the page that changes while it is under way; 204 where it is as ``seen`` says."""
        row = self._read(request, object_id)
        if request.GET.get("seen") == stamp(row):
            return HttpResponse(status=204)
        return self.page(request, "_job_run_live", "", **self._context(request, row))

    def results_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """To the file of results, by a fresh link."""
        row = self._read(request, object_id)
        if job_results.link_of(row) is None:
            raise Http404
        return redirect(f"{job_results.PATH}/{job_results.token_of(row.pk)}")

    def items_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Its items in their order, a page at a time: ``?status=failed&after=99``."""
        row = self._read(request, object_id)
        status = request.GET.get("status", "")
        after = request.GET.get("after", "")
        items = row.items.all()
        if after.isascii() and after.isdigit() and len(after) < 9:
            items = items.filter(number__gt=int(after))
        if status in JobItem.Status.values:
            items = items.filter(status=status)
        found = list(items.order_by("number")[: SHOWN_ITEMS + 1])
        context = {
            "job_run": row,
            "items": _told(found[:SHOWN_ITEMS]),
            "next": found[SHOWN_ITEMS - 1].number if len(found) > SHOWN_ITEMS else None,
            "status": status,
            "statuses": JobItem.Status.choices,
            "back_url": self.change_url(row.pk),
        }
        return self.page(request, "job_items", f"Items of {row.pk} of {row.job}", **context)

    def _read(self, request: HttpRequest, object_id: str) -> JobRun:
        """Raises PermissionDenied for anything but reading."""
        row: JobRun = self.own_object(request, object_id)
        if request.method not in {"GET", "HEAD"}:
            raise PermissionDenied
        return row

    def _context(self, request: HttpRequest, row: JobRun) -> dict[str, Any]:
        may_operate = self.has_operate_permission(request, row)
        failed = row.items.filter(status=JobItem.Status.FAILED).order_by("number")[: SHOWN_FAILED + 1]
        items = _told(list(failed[:SHOWN_FAILED])) if row.failed_runs else []
        url = {
            name: reverse(f"admin:{self.stem}_{name}", args=[quote(row.pk)]) for name in ("live", "items", "results")
        }
        return {
            "job_run": row,
            "stamp": stamp(row),
            "is_living": row.status in JobRun.LIVING,
            "bar": bar_of(row),
            "took": words(milliseconds(row.created_at, row.ended_at or timezone.now())),
            "started_by": row.started_by.removeprefix("user:"),
            "job_url": "" if row.job.deleted_at else reverse("admin:runs_job_change", args=[quote(row.job_id)]),
            "failed": items,
            "has_more_failed": row.failed_runs > len(items),
            "configuration": shown((row.snapshot or {}).get("configuration")),
            "has_results": job_results.link_of(row) is not None,
            "urls": url,
            "row_actions_of": row,
            "row_actions": [(name, getattr(self, name).deed) for name in self.offers(row)] if may_operate else [],
        }

    # What can be done with it.
    def offers(self, obj: JobRun) -> list[str]:
        return ["terminate"] if obj.status in JobRun.LIVING else []

    @row_action("Terminate", permission="operate", icon="cancel", danger=True,
                confirm="Terminate this job run? Its runs under way are cancelled, and no other item is started.")  # fmt: skip
    def terminate(self, request: HttpRequest, obj: JobRun) -> None:
        if jobs.terminate(obj, actor_of(request)):
            messages.success(request, "The job run is terminated.")
        else:
            messages.warning(request, "The job run had ended already.")


def stamp(row: JobRun) -> str:
    """What tells one moment of a job run from another."""
    counts = (row.payloads, row.started_runs, row.successful_runs, row.failed_runs)
    return f"{row.status}-{'-'.join(map(str, counts))}"


def bar_of(row: JobRun) -> dict[str, Any]:
    """The progress bar: how many of each kind, and percentages of its width."""
    ended = row.successful_runs + row.failed_runs
    under_way = row.items.filter(status=JobItem.Status.STARTED).count() if row.status in JobRun.LIVING else 0
    whole = max(row.payloads, 1)
    good, bad, works = (100 * count / whole for count in (row.successful_runs, row.failed_runs, under_way))
    return {
        "ended": ended,
        "under_way": under_way,
        "waiting": max(0, row.payloads - ended - under_way),
        "percent": 100 * ended // whole if row.payloads else 100,
        "good": f"{good:.3f}", "bad": f"{bad:.3f}", "works": f"{works:.3f}",
        "bad_from": f"{good:.3f}", "works_from": f"{good + bad:.3f}",
    }  # fmt: skip


def _told(items: list[JobItem]) -> list[dict[str, Any]]:
    """Items for a template: with the error of each, its own or its run's."""
    runs = Run.objects.only("id", "status", "error").in_bulk([item.run_id for item in items if item.run_id])
    return [_item(item, runs.get(item.run_id)) for item in items]


def _item(item: JobItem, run: Run | None) -> dict[str, Any]:
    error = item.error or (run.error if run is not None else None) or {}
    if item.run_id and run is None:
        error = {"message": "The run is no longer kept."}
    return {
        "number": item.number + 1,
        "api": item.api,
        "status": item.status,
        "label": JobItem.Status(item.status).label,
        "parameters": shown(item.parameters),
        "code": error.get("code", ""),
        "message": error.get("message", ""),
        "details": shown(error.get("details")) if error.get("details") else "",
        "run_url": reverse("admin:runs_run_change", args=[quote(run.pk)]) if run is not None else "",
    }
