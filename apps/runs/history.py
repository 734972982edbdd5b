"""A run's events in the database: read into a machine, and added to by whoever may (`apps.runs.carrier`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from apps.toolkits.registry import catalog

from .definitions import definition_of
from .engine import Event, Facts, Machine
from .models import Run, RunEvent, RunFile


def replay(run: Run) -> Machine:
    """The state of a run after all its events."""
    facts = Facts(
        run_id=run.pk,
        start=run.parameters,
        user=run.user_id or None,
        maximum_attempts=run.maximum_attempts,
        load_file=file_loader(run.project_id),
        safe_tools=lambda name: is_safe(run, name),
    )
    return Machine.replay(definition_of(run.version_id), facts, events_of(run) if run.events_count else ())


def is_safe(run: Run, tool: str) -> bool:
    """Whether a tool may be done again where nobody knows whether it was done."""
    found = catalog(run.project).find_tool(tool)
    return found is not None and found[1].is_idempotent


def events_of(run: Run) -> Iterable[Event]:
    rows = RunEvent.objects.filter(run=run).order_by("number").values_list("kind", "at", "key", "data")
    return [Event(*row) for row in rows]


def append(run: Run, events: Iterable[Event], traces: dict[str, Any] | None = None) -> None:
    """Writes events with the numbers after the run's last; the caller holds the row, and has counted them in it.

    ``traces`` by key stand in where the event of a step's beginning has none.
    """
    traces = traces or {}
    rows = [
        RunEvent(
            run_id=run.pk,
            number=run.events_count + index,
            kind=event.kind,
            key=event.key,
            data=event.data,
            trace=(event.trace if event.trace is not None else traces.get(event.key)) if run.save_trace else None,
            at=event.at,
        )
        for index, event in enumerate(events)
    ]
    RunEvent.objects.bulk_create(rows)


def file_loader(project_id: str) -> Callable[[str], bytes]:
    """Gives the bytes of an uploaded file of the project. Raises LookupError."""

    def load(file_id: str) -> bytes:
        content = RunFile.objects.filter(project=project_id, pk=file_id).values_list("content", flat=True).first()
        if content is None:
            raise LookupError(f"there is no file {file_id}")
        return bytes(content)

    return load
