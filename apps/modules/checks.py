"""What is checked of a definition when it is saved: its format, its names, its order, and what the project has.

All faults are told at once, each with its path and its line: every part looks at the data as it was read, and passes over what
another part has to complain of.

- `apps.modules.source` reads the text, `apps.modules.format` holds it to the models of `apps.modules.definition`;
- `apps.modules.contents` looks at single steps and parameters, `apps.modules.order` at the ways through the steps,
  `apps.modules.names` at what expressions name, `apps.modules.belongings` at what the project and the installation have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apps.workspaces.models import Project

from . import format as form
from .belongings import Belongings
from .contents import check_contents
from .definition import MAX_STEPS, Definition, with_mentions
from .names import Names
from .order import Order, check_order, collect
from .source import MOST_FAULTS, Document, SourceError, read_document

SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. ``path`` is like ``steps[2].with.repo``; ``line`` counts from 1, None where it is not known."""

    path: str
    message: str
    line: int | None = None

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"path": self.path, "message": self.message}
        return found if self.line is None else {**found, "line": self.line}


def read(source: str) -> tuple[Any, list[Fault]]:
    """YAML or JSON as data, with the line of every fault of its writing. At most 1 MB.

    YAML is read by the core schema of 1.2. The data is None where nothing could be read; it is JSON in any case.
    """
    try:
        document = read_document(source)
    except SourceError as error:
        return None, [Fault("", str(error), error.line)]
    return document.data, [Fault(form.written(path), message, line) for path, line, message in document.faults]


def check(
    source: str, project: Project | None, *, siblings: Mapping[str, Any] | None = None
) -> tuple[Definition | None, list[Fault]]:
    """The definition, or every fault at once. ``project`` says which toolkits are on and which modules there are.

    Without a project, what only it knows is not checked. ``siblings`` are definitions (as data) by name that are saved
    together with this one: a step may run them as if they were there.
    """
    try:
        document = read_document(source)
    except SourceError as error:
        return None, [Fault("", str(error), error.line)]
    faults = _Faults(document)
    for path, line, message in document.faults:
        faults.add(path, message, line)
    try:
        with form.bounded_hints():
            definition = _check_data(document.data, project, siblings or {}, faults)
    except _Enough:
        definition = None
    found = faults.sorted()
    return (None if found else definition), found


def _check_data(data: Any, project: Project | None, siblings: Mapping[str, Any], faults: _Faults) -> Definition | None:
    if not isinstance(data, dict):
        faults.add((), "A definition is an object: name, steps, and so on.")
        return None
    definition, found = form.find_faults(data)
    for path, message in found:
        faults.add(path, message)
    data = with_mentions(data)
    steps = collect(data, faults.add)
    check_contents(data, steps, faults.add)
    if len(steps) > MAX_STEPS:  # their order and names would take long, and are not what is wrong
        return definition
    order = Order.of(steps, data)
    check_order(order, faults.add)
    Names(data, order, faults.add).check()
    if project is not None:
        Belongings(project, siblings, faults.add).check(data, steps)
    return definition


class _Enough(Exception):
    """There are so many faults that no more are looked for."""


class _Faults:
    """Collects faults, each once, up to a number that somebody may read."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.found: dict[tuple[str, str], Fault] = {}

    def add(self, path: form.Path, message: str, line: int | None = None) -> None:
        if len(self.found) >= form.MOST_FOUND:
            raise _Enough
        key = (form.written(path), message)
        self.found.setdefault(key, Fault(*key, line or self.document.lines.at(path)))

    def sorted(self) -> list[Fault]:
        """In the order of their lines."""
        found = sorted(self.found.values(), key=lambda fault: fault.line or 0)
        if len(found) <= MOST_FAULTS:
            return found
        return [*found[:MOST_FAULTS], Fault("", "There are more faults: they are told once these are mended.")]


def json_schema() -> dict[str, Any]:
    """The published JSON Schema (draft 2020-12) of a definition, for editors and other programs."""
    schema = Definition.model_json_schema(by_alias=True)
    return {"$schema": SCHEMA_DIALECT, "title": "Jackfield module", **{k: v for k, v in schema.items() if k != "title"}}
