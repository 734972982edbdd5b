"""One question for one person: by the link of their e-mail, or out of their inbox; and the inbox itself."""

from __future__ import annotations

from typing import Any

from django.db.models import Q, TextField
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from apps.lib.language import localized
from apps.modules.models import Group

from .. import mail
from ..assignees import GROUP, NAMED, Person, is_assigned, names
from ..models import HumanTask
from .common import Shown, gone, knows, person_of, quiet, take, to, to_login, with_files

MOST = 200  # open questions that an inbox shows
RECENT = 20


# -- One question ------------------------------------------------------------------------------------------------------
@never_cache
@localized
@require_http_methods(["GET", "HEAD", "POST"])
@with_files
def by_link(request: HttpRequest, token: str) -> HttpResponse:
    """The link of an e-mail: it says who answers. Looking at it decides nothing."""
    link = mail.read_link(token)
    task = _find(link.task_id) if link else None
    if link is None or task is None:
        return gone(request)
    person = Person(link.email, email=link.email)
    if not is_assigned(task, person):
        return gone(request, task.project)
    return _question(request, task, person)


@never_cache
@localized
@require_http_methods(["GET", "HEAD", "POST"])
@with_files
def in_inbox(request: HttpRequest, task_id: str) -> HttpResponse:
    """A question that is assigned to the person signed in."""
    if not request.user.is_authenticated:
        return to_login(request)
    person, task = person_of(request), _find(task_id)
    if task is None or not task.assignees or not is_assigned(task, person):
        return gone(request)
    return _question(request, task, person)


def _find(task_id: str) -> HumanTask | None:
    rows = HumanTask.objects.select_related("project__workspace", "run")
    return rows.filter(pk=task_id[:40].replace("\x00", "")).first()


def _question(request: HttpRequest, task: HumanTask, person: Person) -> HttpResponse:
    if request.method == "POST":
        shown = take(request, task, person)
        if shown is None:
            saved = request.POST.get("action") == "save"
            return to(f"{request.path}?{'saved' if saved else 'done'}=1")
    else:
        shown = Shown(task, person, saved="saved" in request.GET)
    shown.named = knows(request, task)
    context = {
        "project": task.project,
        "shown": shown,
        "asked": shown.is_open and not shown.refusal and shown.my_vote is None,
        "done": "done" in request.GET,
        "here": request.path,
        "inbox": request.user.is_authenticated,
    }
    return quiet(render(request, "sessions/question.html", context, status=shown.status))


# -- Inbox -------------------------------------------------------------------------------------------------------------
@never_cache
@localized
@require_safe
def inbox(request: HttpRequest) -> HttpResponse:
    """What waits for the person signed in, oldest first, and what they have answered of late."""
    if not request.user.is_authenticated:
        return to_login(request)
    person = person_of(request)
    waiting = [Shown(task, person) for task in open_for(person)]
    context: dict[str, Any] = {
        "waiting": [shown for shown in waiting if shown.is_open and not shown.refusal and shown.my_vote is None],
        "recent": [Shown(task, person) for task in answered_by(person)],
        "person": person,
        "staff": request.user.is_staff,
    }
    return render(request, "sessions/inbox.html", context)


def open_for(person: Person) -> list[HumanTask]:
    """Open questions that are assigned to the person's address, or to a group that they are in, of any project."""
    wanted = names(person.email.lower())
    for project_id, name in _groups_of(person):
        wanted |= Q(project=project_id) & names(GROUP + name)
    rows = HumanTask.objects.filter(status=HumanTask.Status.OPEN).alias(**NAMED).filter(wanted)
    found = rows.select_related("project", "run").order_by("created_at", "pk")[:MOST]
    return [task for task in found if is_assigned(task, person)]


def _groups_of(person: Person) -> list[tuple[str, str]]:
    rows = Group.objects.alias(named=Cast("members", TextField())).filter(named__icontains=person.email)
    found = rows.values_list("project_id", "name", "members")
    mine = person.email.lower()
    return [
        (project, name) for project, name, members in found if mine in {str(one).strip().lower() for one in members}
    ]


def answered_by(person: Person) -> list[HumanTask]:
    """The last that the person has answered or voted on."""
    mine = Q(answered_by=person.name) | Q(votes__voter=person.email.lower())
    rows = HumanTask.objects.exclude(assignees=[]).filter(mine).select_related("project", "run").distinct()
    return [task for task in rows.order_by("-created_at")[:RECENT] if is_assigned(task, person)]
