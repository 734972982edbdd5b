"""The questions that runs ask people: made, answered, reminded of, ended. Every change of a human task."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .engine import Ask
from .models import HumanTask, Run


@dataclass(frozen=True)
class Person:
    """Who answers. ``name`` is kept with the answer; ``email`` empty where it is not known; ``user_id`` of an end user."""

    name: str
    email: str = ""
    user_id: str = ""


def ask(run: Run, command: Ask, now: datetime) -> HumanTask:
    """Makes the open task of a step, in the caller's transaction; its e-mails go out once that is committed.

    Called again for the same step (another attempt, a worker taken over) it gives the open task that is there.
    """
    raise NotImplementedError


def answer(
    task: HumanTask, answers: dict[str, Any], person: Person, *, files: dict[str, Any] | None = None
) -> HumanTask:
    """Answers a form; the first answer counts. Pokes the run.

    Raises `InvalidInput` by field, `Conflict` for a task that is no longer open, `NotPermitted` for one who may not answer.
    """
    raise NotImplementedError


def decide(task: HumanTask, approved: bool, reason: str, person: Person) -> HumanTask:
    """One person's yes or no to an approval; ends the task when the quorum is reached or can no longer be. Raises as `answer`."""
    raise NotImplementedError


def expire(task: HumanTask, now: datetime) -> bool:
    """Ends an open task past its deadline with its default outcome. False where somebody answered first."""
    raise NotImplementedError


def cancel_all(run_ids: list[str], now: datetime) -> int:
    """Ends the open tasks of runs that have ended."""
    raise NotImplementedError


def remind_due(now: datetime) -> int:
    """Sends the reminders that are due; gives how many."""
    raise NotImplementedError
