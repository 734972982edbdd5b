"""Who may answer a question: its assignees, who started the run, and how a person is told from another."""

from __future__ import annotations

import json
from dataclasses import dataclass

from django.db.models import Q, TextField
from django.db.models.functions import Cast

from apps.modules.models import Group
from apps.workspaces.audit import Actor

from .models import HumanTask

GROUP, USER = "group:", "user:"
NAMED = {"named": Cast("assignees", TextField())}  # an alias for `names`
REFUSALS = {
    "not_assigned": "This question is for somebody else.",
    "unknown": "This question is answered only by somebody who is known: sign in, or use the link sent by e-mail.",
    "starter": "Whoever started this may not approve it.",
}


@dataclass(frozen=True)
class Person:
    """Who answers. ``name`` is kept with the answer; ``email`` empty where it is not known; ``user_id`` of an end user."""

    name: str
    email: str = ""
    user_id: str = ""

    @property
    def is_known(self) -> bool:
        return bool(self.email or self.user_id)

    @property
    def actor(self) -> Actor:
        if self.email:
            return Actor(f"user:{self.email}")
        return Actor(f"end-user:{self.user_id}" if self.user_id else self.name or "link")


def people_of(task: HumanTask) -> set[str]:
    """The assignees one by one, groups as their members of now: addresses in lower case, and ``user:<id>``."""
    groups = [name.removeprefix(GROUP) for name in task.assignees if name.startswith(GROUP)]
    found = {name for name in task.assignees if not name.startswith(GROUP)}
    if groups:
        for members in Group.objects.filter(project=task.project_id, name__in=groups).values_list("members", flat=True):
            found |= {str(member).strip().lower() for member in members}
    return found


def is_assigned(task: HumanTask, person: Person) -> bool:
    """Whether the person is one of the assignees; where there are none, everybody with the link is."""
    if not task.assignees:
        return True
    return bool(set(_spellings(person)) & people_of(task))


def _spellings(person: Person) -> list[str]:
    """How assignees may name the person."""
    found = [person.email.lower()] if person.email else []
    return found + ([USER + person.user_id] if person.user_id else [])


def voter_of(task: HumanTask, person: Person) -> str:
    """What makes a vote this person's: the assignee that they are, else address, id or name."""
    named = people_of(task)
    spellings = _spellings(person)
    return next((one for one in spellings if one in named), spellings[0] if spellings else person.name)


def refusal(task: HumanTask, person: Person) -> str:
    """Why this person may not answer (a key of `REFUSALS`), or an empty text."""
    if not is_assigned(task, person):
        return "not_assigned" if person.is_known else "unknown"
    if task.kind == HumanTask.Kind.FORM:
        return ""
    if task.spec.get("not_starter"):
        if not person.is_known:
            return "unknown"
        if is_starter(task, person):
            return "starter"
    return "unknown" if quorum_of(task) > 1 and not person.is_known else ""


def is_starter(task: HumanTask, person: Person) -> bool:
    """Whether the person started the run, or the one that it belongs to, or is its end user."""
    runs = [task.run] if task.root_id == task.run_id else [task.run, task.root]
    names = {text.lower() for run in runs for text in (run.started_by, run.user_id) if text}
    mine = {person.email.lower(), person.user_id.lower()} - {""}
    return any(names & {one, f"user:{one}", f"end-user:{one}"} for one in mine)


def quorum_of(task: HumanTask) -> int:
    return max(1, int(task.spec.get("quorum") or 1))


def person_named(assignee: str) -> Person:
    """The person that `people_of` names so."""
    if assignee.startswith(USER):
        return Person(assignee, user_id=assignee.removeprefix(USER))
    return Person(assignee, email=assignee)


def who_could_still(task: HumanTask) -> set[str]:
    """The assignees who have not voted and may."""
    left = people_of(task) - set(task.votes.values_list("voter", flat=True))
    if not task.spec.get("not_starter"):
        return left
    return {one for one in left if not is_starter(task, person_named(one))}


def names(assignee: str) -> Q:
    """Of questions with the alias `NAMED` those that name this assignee. SQLite looks past case: look again (`is_assigned`).

    A list is kept as JSON: with escapes on SQLite, without in PostgreSQL's jsonb.
    """
    spelled = {json.dumps(assignee), json.dumps(assignee, ensure_ascii=False)}
    return Q(*(("named__contains", text) for text in sorted(spelled)), _connector=Q.OR)
