"""A run's events in the database: read into a machine, and added to by whoever may (`apps.runs.carrier`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from django.db import connection, transaction

from apps.lib.db import execute
from apps.toolkits.registry import catalog

from . import leases
from .definitions import definition_of
from .engine import Event, Facts, Machine
from .models import Run, RunEvent, RunFile

FIELDS = {field.name: field for field in Run._meta.concrete_fields}


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
    RunEvent.objects.bulk_create(_rows(run, events, traces or {}))


def _rows(run: Run, events: Iterable[Event], traces: dict[str, Any]) -> list[RunEvent]:
    return [
        RunEvent(
            run_id=run.pk,
            number=run.events_count + index,
            kind=event.kind,
            key=event.key,
            data=event.data,
            trace=(event.trace if event.trace is not None else traces.get(event.key)) if run.save_trace else None,
            at=event.at,
            forget_on=run.forget_on,
        )
        for index, event in enumerate(events)
    ]


def keep(run: Run, changes: dict[str, Any], events: list[Event], traces: dict[str, Any]) -> bool:
    """Changes the row under its lease and writes the events, both or neither. False where the lease no longer holds.

    By one statement on PostgreSQL: a run does this at each step, and four round trips would be most of what it costs.
    """
    if connection.vendor != "postgresql" or not events:
        with transaction.atomic():
            if not leases.mine(run).update(**changes):
                return False
            append(run, events, traces)
        return True
    rows = _rows(run, events, traces)
    values = [_saved(name, value) for name, value in changes.items()] + [run.pk, run.lease_token]
    values += [
        [row.number for row in rows],
        [row.kind for row in rows],
        [row.key for row in rows],
        [json.dumps(row.data) for row in rows],
        [None if row.trace is None else json.dumps(row.trace) for row in rows],
        [row.at for row in rows],
    ]
    return bool(execute(_keep_sql(tuple(changes)), values))


def _saved(name: str, value: Any) -> Any:
    return FIELDS[name].get_db_prep_save(value, connection)


@lru_cache(maxsize=16)
def _keep_sql(names: tuple[str, ...]) -> str:
    """The statement that changes these columns; it gives a row for each event that it wrote."""
    columns = ", ".join(f"{FIELDS[name].column} = %s" for name in names)
    living = ", ".join(f"'{status.value}'" for status in Run.LIVING)
    return (
        f"WITH mine AS (UPDATE {Run._meta.db_table} SET {columns} "  # noqa: S608 - names of columns and states
        f"WHERE id = %s AND lease_token = %s AND status IN ({living}) RETURNING id, forget_on) "
        f"INSERT INTO {RunEvent._meta.db_table} (run_id, number, kind, key, data, trace, at, forget_on) "
        "SELECT mine.id, e.number, e.kind, e.key, e.data::jsonb, e.trace::jsonb, e.at, mine.forget_on FROM mine, "
        "unnest(%s::int[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[]) "
        "AS e(number, kind, key, data, trace, at) RETURNING number"
    )


def file_loader(project_id: str) -> Callable[[str], bytes]:
    """Gives the bytes of an uploaded file of the project. Raises LookupError."""

    def load(file_id: str) -> bytes:
        content = RunFile.objects.filter(project=project_id, pk=file_id).values_list("content", flat=True).first()
        if content is None:
            raise LookupError(f"there is no file {file_id}")
        return bytes(content)

    return load
