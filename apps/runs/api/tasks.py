"""The questions that runs ask people, for programs that ask them elsewhere: list them, answer them."""

from __future__ import annotations

import base64
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet
from django.http import HttpResponse

from apps.lib import errors
from apps.lib.api import json_answer, page
from apps.lib.errors import InvalidInput
from apps.workspaces.api.base import ProjectView
from apps.workspaces.callers import Caller
from apps.workspaces.idempotency import idempotent

from .. import human
from ..assignees import NAMED, USER, Person, is_assigned, names, quorum_of, refusal
from ..models import HumanTask, RunFile
from . import tasks_schema as schema

MAX_BODY = 16 * 1024 * 1024  # a file of 10 MiB as base64, and what stands around it
SHOWN = ("title", "text", "pages", "submit", "reason_on_reject", "not_starter", "on_deadline")


class TaskView(ProjectView):
    """A route of questions; an end user's token sees what is that user's to answer."""

    scopes = {"GET": ("runs",), "POST": ("runs",)}

    def find(self, task_id: str, user_id: str | None) -> HumanTask:
        """Raises `NotFound`, also for a question that is not the user's."""
        task = visible(self.caller, user_id).filter(pk=task_id).first()
        if task is None or not _is_theirs(task, user_id):
            raise errors.NotFound("There is no such task.")
        return task


def visible(caller: Caller, user_id: str | None) -> QuerySet[HumanTask]:
    """The project's questions; for an end user those assigned to them, and of their own runs those that are for anybody."""
    rows = HumanTask.objects.filter(project=caller.project).select_related("project", "run", "root__module")
    if user_id is None:
        return rows
    own = Q(assignees=[]) & (Q(run__user_id=user_id) | Q(root__user_id=user_id))
    return rows.alias(**NAMED).filter(own | names(USER + user_id))


def _is_theirs(task: HumanTask, user_id: str | None) -> bool:
    return user_id is None or is_assigned(task, Person(user_id, user_id=user_id))


def _may_answer(task: HumanTask, user_id: str | None) -> bool:
    """Of an end user's open questions those that are not for somebody else to decide; of ended ones all that were theirs."""
    if user_id is None or task.status != HumanTask.Status.OPEN:
        return _is_theirs(task, user_id)
    return not refusal(task, Person(user_id, user_id=user_id))


def person_of(caller: Caller, user_id: str | None) -> Person:
    """Who answers: the end user, the member whose token it is, else the key in its own name."""
    if user_id is not None:
        return Person(user_id, user_id=user_id)
    name = caller.actor.name
    if caller.kind == "member":
        email = name.removeprefix("user:")
        return Person(email, email=email)
    return Person(name)


# -- Rows --------------------------------------------------------------------------------------------------------------
def row_of(task: HumanTask, user_id: str | None, *, files: bool = False) -> dict[str, Any]:
    """A question as the API shows it; to an end user without the other people whom it was sent to."""
    root = task.root
    mine = user_id is None or root.user_id == user_id
    people = task.assignees if user_id is None else [one for one in task.assignees if one == USER + user_id]
    row = {
        "id": task.pk,
        "kind": task.kind,
        "status": task.status,
        "runId": task.run_id,
        "step": task.key,
        **{_camel(name): task.spec[name] for name in SHOWN if name in task.spec},
        "title": task.title,
        "assignees": people,
        "deadline": _time(task.deadline),
        "createdAt": _time(task.created_at),
        "endedAt": _time(task.ended_at),
        "answeredBy": task.answered_by or None,
        "outcome": _with_content(task) if files else task.outcome,
        "links": {"browser": _link(task) if mine else None},
    }
    return row | (_votes(task) if task.kind == HumanTask.Kind.APPROVE else {})


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def _time(value: Any) -> str | None:
    return value.isoformat() if value else None


def _link(task: HumanTask) -> str:
    root = task.root
    return f"{settings.JACKFIELD_URL}/s/{root.module.public_id}/sessions/{root.session_id}?task={task.pk}"


def _votes(task: HumanTask) -> dict[str, Any]:
    said = list(task.votes.all())
    return {"quorum": quorum_of(task), "approvals": sum(vote.approved for vote in said), "votes": len(said)}


def _with_content(task: HumanTask) -> Any:
    """The outcome with the content of its files."""
    if task.kind != HumanTask.Kind.FORM or not isinstance(task.outcome, dict):
        return task.outcome
    wanted = [value["id"] for value in task.outcome.values() if isinstance(value, dict) and "id" in value]
    found = {row.pk: row for row in RunFile.objects.filter(run=task.run_id, pk__in=wanted)}

    def filled(value: Any) -> Any:
        row = found.get(str(value.get("id"))) if isinstance(value, dict) else None
        return value if row is None else {**value, "base64": base64.b64encode(row.content).decode()}

    return {name: filled(value) for name, value in task.outcome.items()}


# -- Views -------------------------------------------------------------------------------------------------------------
@schema.tasks
class TasksView(TaskView):
    """GET tasks: newest first; the open ones unless ``status`` says otherwise."""

    def get(self, request: Any, app_id: str) -> HttpResponse:
        user_id = self.user_id()
        status = request.GET.get("status", HumanTask.Status.OPEN)
        if status not in {*HumanTask.Status.values, "all"}:
            raise InvalidInput({"status": [f"Must be one of {', '.join(HumanTask.Status.values)}, all."]})
        rows = visible(self.caller, user_id).prefetch_related("votes")
        if status != "all":
            rows = rows.filter(status=status)
        if "runId" in request.GET:
            run_id = request.GET["runId"]
            rows = rows.filter(Q(run=run_id) | Q(root=run_id) | Q(run__session_id=run_id) | Q(root__session_id=run_id))
        found, cursor = page(rows, request._request)
        theirs = [row_of(task, user_id) for task in found if _may_answer(task, user_id)]
        return json_answer({"tasks": theirs, "nextCursor": cursor})


@schema.task
class OneTaskView(TaskView):
    """GET tasks/{id}."""

    def get(self, request: Any, app_id: str, task_id: str) -> HttpResponse:
        user_id = self.user_id()
        task = self.find(task_id, user_id)
        return json_answer(row_of(task, user_id, files=request.GET.get("include") == "files"))


@schema.answer
class AnswerView(TaskView):
    """POST tasks/{id}/answer: {answers} to a form, {approved, reason} to an approval."""

    max_body = MAX_BODY

    @idempotent
    def post(self, request: Any, app_id: str, task_id: str) -> HttpResponse:
        body = self.body(schema.AnswerBody)
        user_id = self.user_id(body.get("userId"))
        task = self.find(task_id, user_id)
        person = person_of(self.caller, user_id)
        if task.kind == HumanTask.Kind.FORM:
            done = human.answer(task, _needed(body, "answers"), person)
        else:
            done = human.decide(task, _needed(body, "approved"), body.get("reason") or "", person)
        return json_answer(row_of(self.find(done.pk, user_id), user_id))


def _needed(body: dict[str, Any], name: str) -> Any:
    if body.get(name) is None:
        raise InvalidInput({name: ["This field is required."]})
    return body[name]
