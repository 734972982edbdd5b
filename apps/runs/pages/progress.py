"""How far a run is, in people's words: the titles that its steps were given, in the order in which they are written."""

from __future__ import annotations

from dataclasses import dataclass

from apps.lib import expressions
from apps.modules.definition import Definition, Step

from ..definitions import definition_of
from ..engine import events
from ..models import Run, RunEvent

DOING, DONE, FAILED, COMING, SKIPPED = "doing", "done", "failed", "coming", "skipped"
AFTER = {
    events.STARTED: DOING,
    events.WAITING: DOING,
    events.BRANCH: DOING,
    events.ITEMS: DOING,
    events.LOST: DOING,
    events.ENDED: DONE,
    events.FAILED: FAILED,
    events.SKIPPED: SKIPPED,
}


@dataclass(frozen=True)
class Line:
    """One line of the list."""

    key: str
    title: str
    state: str


def lines_of(run: Run) -> list[Line]:
    """The steps with a title; of those inside of others only what was reached, and nothing of what was skipped."""
    definition = definition_of(run.version_id)
    states = _states(run)
    found: list[Line] = []
    for step in definition.steps:
        _add(found, step, states, definition, inner=False)
    return [_ended(line, run) for line in found]


def _states(run: Run) -> dict[str, str]:
    """By key; what happens inside of a for_each has a place in its key, and is not shown."""
    rows = RunEvent.objects.filter(run=run, kind__in=list(AFTER)).exclude(key__contains="[").order_by("number")
    return {key: AFTER[kind] for key, kind in rows.values_list("key", "kind")}


def _add(found: list[Line], step: Step, states: dict[str, str], definition: Definition, *, inner: bool) -> None:
    state = states.get(step.id, COMING)
    title = title_of(step)
    if title and state != SKIPPED and not (inner and state == COMING):
        found.append(Line(step.id, title, state))
    if step.for_each is None:
        for _, block in step.blocks():
            for one in block:
                _add(found, one, states, definition, inner=True)


def title_of(step: Step) -> str:
    """What people may read of a step; empty for one that is nothing to them."""
    if step.title:
        return step.title
    asked = step.form or step.approve
    return asked.title if asked is not None and not expressions.has_expression(asked.title) else ""


def _ended(line: Line, run: Run) -> Line:
    """In a run that has ended nothing is being done any more."""
    if not run.has_ended or line.state != DOING:
        return line
    return Line(line.key, line.title, DONE if run.status == Run.Status.COMPLETED else FAILED)
