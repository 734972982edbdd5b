"""The installation's own Python, as the step kind ``code`` calls it: found by entry points, never by a dotted path alone.

A package of the company's registers its callables in its ``pyproject.toml``::

    [project.entry-points."jackfield.actions"]
    "company.actions.total" = "company.actions:total"

A step ``{id: calc, code: company.actions.total, with: {items: […]}}`` then calls ``total(items=[…])`` and takes what it
gives, JSON, as its output. Only whoever installs packages decides what can be called: a definition names, it does not import.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "jackfield.actions"
Action = Callable[..., Any]


class FinalError(Exception):
    """Raised by an action for what no further attempt would mend; its text is the step's error. ``details`` is JSON."""

    def __init__(self, message: str, details: Any = None) -> None:
        super().__init__(message)
        self.details = details


def find(name: str) -> Action | None:
    """The action of that name; None where none is registered. Raises what the package raises when it is imported."""
    point = _points().get(name)
    return None if point is None else _loaded(name)


def names() -> list[str]:
    """The names of all registered actions. Imports none of them."""
    return sorted(_points())


@cache
def _points() -> dict[str, EntryPoint]:
    """Read once: packages are installed before a process starts."""
    return {point.name: point for point in entry_points(group=GROUP)}


@cache
def _loaded(name: str) -> Action:
    found = _points()[name].load()
    if not callable(found):
        raise TypeError(f"{name} of {GROUP} is not callable.")
    action: Action = found
    return action


def reload() -> None:
    _points.cache_clear()
    _loaded.cache_clear()
