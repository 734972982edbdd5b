"""Definitions and machines in short, for tests of the engine."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from apps.modules.definition import Definition
from apps.runs.engine import Event, Facts, Machine

BEGINNING = datetime(2026, 1, 1, 8, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGINNING + timedelta(seconds=seconds)


def module(*steps: dict[str, Any], result: Any = None) -> Definition:
    return Definition.model_validate({"name": "m", "steps": list(steps), "result": result})


def request(step_id: str, url: str = "", method: str = "POST", **more: Any) -> dict[str, Any]:
    """A step that is performed outside; unsafe, as POST is."""
    asked = {"method": method, "url": url or f"https://x.example/{step_id}", **more.pop("request", {})}
    return {"id": step_id, "request": asked, **more}


def put(step_id: str, **more: Any) -> dict[str, Any]:
    return request(step_id, method="PUT", **more)


def value(step_id: str, given: Any = 1, **more: Any) -> dict[str, Any]:
    return {"id": step_id, "set": {"v": given}, **more}


def begun(*steps: dict[str, Any], start: dict[str, Any] | None = None, result: Any = None, **facts: Any) -> Machine:
    """A machine that has advanced once, at the beginning."""
    machine = Machine(module(*steps, result=result), Facts("run-1", start or {}, **facts), random.Random(1))
    machine.advance(BEGINNING)
    return machine


def again(machine: Machine, events: Iterable[Event]) -> Machine:
    """What another worker makes of the events."""
    return Machine.replay(machine.definition, machine.facts, events, random.Random(2))


def kinds(events: Iterable[Event], key: str | None = None) -> list[str]:
    return [event.kind for event in events if key is None or event.key == key]


def end_all(machine: Machine, output: Any = None, seconds: float = 1) -> None:
    """Ends what is being performed, and advances."""
    for key in list(machine.performing):
        machine.ended(key, output, at(seconds))
    machine.advance(at(seconds))
