"""What is checked of a definition when it is saved: its format, its names, its order, and what the project has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apps.workspaces.models import Project

from .definition import Definition


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
    """YAML or JSON as data, with the line of every fault of its writing. At most 1 MB."""
    raise NotImplementedError


def check(source: str, project: Project | None) -> tuple[Definition | None, list[Fault]]:
    """The definition, or every fault at once. ``project`` says which toolkits are on and which modules there are."""
    raise NotImplementedError
