"""A session's page: what it waits for, how far it is, how it ended. Looking changes nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from apps.connections.flows import check_redirect_url
from apps.lib import expressions
from apps.lib.errors import InvalidInput
from apps.lib.language import localized
from apps.modules.models import Module

from ..assignees import Person, refusal
from ..definitions import definition_of
from ..history import replay
from ..models import HumanTask, Run
from .common import Shown, gone, is_member, knows, person_of, quiet, take, to, to_login, with_files
from .progress import lines_of

MOST = 50  # open questions that one page looks at
LONGEST = 2000  # characters of the end page's text


@dataclass
class Standing:
    """What a session waits for, for one person."""

    run: Run
    person: Person
    mine: list[HumanTask]  # open, and this person may answer
    others: list[HumanTask]  # open, for somebody else
    late: bool = False  # a deadline has passed that nobody has looked at yet

    @property
    def view(self) -> str:
        """Changes whenever the page has something else to show."""
        parts = [self.run.status, *(task.pk for task in self.mine), "|", *(task.pk for task in self.others)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def tasks_of(run: Run) -> QuerySet[HumanTask]:
    """The questions of a run and of those that it started; of a started one's own session its own alone."""
    rows = HumanTask.objects.select_related("project", "run")
    return rows.filter(run=run) if run.root_id else rows.filter(root=run)


def standing_of(run: Run, person: Person) -> Standing:
    now = timezone.now()
    living = list(tasks_of(run).filter(status=HumanTask.Status.OPEN).order_by("created_at", "pk")[:MOST])
    open_ = [task for task in living if task.deadline is None or task.deadline > now]
    mine = [task for task in open_ if not refusal(task, person) and not _has_voted(task, person)]
    others = [task for task in open_ if task not in mine]
    return Standing(run, person, mine, others, late=len(open_) < len(living))


def _has_voted(task: HumanTask, person: Person) -> bool:
    return Shown(task, person).my_vote is not None


def find(public_id: str, session_id: str) -> Run | None:
    if not (public_id + session_id).isascii() or "\x00" in public_id + session_id:
        return None
    rows = Run.objects.select_related("project__workspace", "module")
    return rows.filter(session_id=session_id, module__public_id=public_id).first()


# -- Views -------------------------------------------------------------------------------------------------------------
def _refused(request: HttpRequest, run: Run | None) -> HttpResponse | None:
    """The session of a module for signed-in users is theirs alone; every other's link is its permission."""
    if run is None:
        return gone(request)
    if run.module.access != Module.Access.SIGNED_IN or is_member(request, run.project):
        return None
    return gone(request) if request.user.is_authenticated else to_login(request)


@never_cache
@localized
@require_http_methods(["GET", "HEAD", "POST"])
@with_files
def page(request: HttpRequest, public_id: str, session_id: str) -> HttpResponse:
    """A question to this person, else how far the run is, else how it ended. A POST answers one question."""
    run = find(public_id, session_id)
    refused = _refused(request, run)
    if refused is not None or run is None:
        return refused or gone(request)
    if request.method == "POST":
        return _answer(request, run)
    return _show(request, run)


def _answer(request: HttpRequest, run: Run) -> HttpResponse:
    task = _named(run, request.POST.get("task", ""))
    if task is None:
        return gone(request, run.project)
    shown = take(request, task, person_of(request))
    if shown is not None:
        return _page(request, run, standing_of(run, shown.person), shown)
    done = "saved" if request.POST.get("action") == "save" else "done"
    return to(f"{request.path}?{done}={task.pk}")


def _named(run: Run, task_id: str) -> HumanTask | None:
    return tasks_of(run).filter(pk=task_id[:40].replace("\x00", "")).first() if task_id else None


def _show(request: HttpRequest, run: Run) -> HttpResponse:
    standing = standing_of(run, person_of(request))
    task = _named(run, request.GET.get("task", "") or request.GET.get("saved", ""))
    if task is None and standing.mine:
        task = standing.mine[0]
    if task is None and run.has_ended:
        return _end(request, run)
    shown = Shown(task, standing.person, saved="saved" in request.GET) if task else None
    return _page(request, run, standing, shown)


def _page(request: HttpRequest, run: Run, standing: Standing, shown: Shown | None) -> HttpResponse:
    if shown is not None:
        shown.named = knows(request, shown.task)
    asked = shown is not None and shown.is_open and not shown.refusal and shown.my_vote is None
    context: dict[str, Any] = {
        "project": run.project,
        "run": run,
        "title": title_of(run),
        "here": request.path,
        "shown": shown,
        "asked": asked,
        "standing": standing,
        "others": [Shown(task, standing.person, named=knows(request, task)) for task in standing.others],
        "further": [task for task in standing.mine if shown is None or task.pk != shown.task.pk],
        "lines": [] if asked else lines_of(run),
        "done": _named(run, request.GET.get("done", "")),
    }
    return quiet(render(request, "sessions/session.html", context, status=shown.status if shown else 200))


def title_of(run: Run) -> str:
    return definition_of(run.version_id).title or run.module.title or run.module.name


@never_cache
@require_safe
def state(request: HttpRequest, public_id: str, session_id: str) -> HttpResponse:
    """For the page's script: whether there is something else to show, and how far the steps are."""
    run = find(public_id, session_id)
    refused = _refused(request, run)
    if refused is not None or run is None:
        return quiet(JsonResponse({"view": ""}, status=404))
    standing = standing_of(run, person_of(request))
    lines = [{"key": line.key, "title": line.title, "state": line.state} for line in lines_of(run)]
    open_ = [task.pk for task in standing.mine]
    return JsonResponse({"view": standing.view, "open": open_, "over": run.has_ended, "lines": lines})


# -- The end -----------------------------------------------------------------------------------------------------------
def _end(request: HttpRequest, run: Run) -> HttpResponse:
    end = _end_texts(run) if run.status == Run.Status.COMPLETED else {}
    redirect = _allowed(run, end.get("redirect", ""))
    if redirect and not end.get("title") and not end.get("text"):
        response = to(redirect)
        response["Referrer-Policy"] = "no-referrer"  # this address is a permission
        return response
    context = {
        "project": run.project,
        "run": run,
        "title": title_of(run),
        "end": end,
        "redirect": redirect,
        "lines": lines_of(run),
        "why": _told_reason(run),
    }
    return render(request, "sessions/end.html", context)


def _end_texts(run: Run) -> dict[str, str]:
    """What the definition says at the end, its expressions filled in; nothing of what cannot be filled in."""
    end = definition_of(run.version_id).end
    if end is None:
        return {}
    given = {name: str(getattr(end, name) or "") for name in ("title", "text", "redirect")}
    if not any(expressions.has_expression(text) for text in given.values()):
        return given
    names = replay(run).names(run.ended_at or timezone.now()) | {"result": run.result}
    found = {}
    for name, text in given.items():
        try:
            found[name] = expressions.render(text, names)[:LONGEST]
        except expressions.ExpressionError:
            found[name] = ""
    return found


def _allowed(run: Run, url: str) -> str:
    """The address where it is on an origin that the project allows; whoever wrote the module may have taken it from outside."""
    try:
        check_redirect_url(run.project, url)
    except InvalidInput:
        return ""
    return url


def _told_reason(run: Run) -> str:
    """Why it failed, where the module's author says it in a step for people to read; our own reasons are for developers."""
    error = run.error or {}
    step = definition_of(run.version_id).by_id.get(str(error.get("step", "")).rpartition("/")[2])
    return str(error.get("message", ""))[:LONGEST] if step is not None and step.fail is not None else ""
