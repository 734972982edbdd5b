"""Expressions in definitions: Jinja in a sandbox of our own. Pure: no Django.

``{{ start.email }}`` alone keeps the type of its value; text around it makes text. A name that is not there is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ExpressionError(ValueError):
    """An expression that cannot be compiled, or that failed with the values it was given."""


def has_expression(value: Any) -> bool:
    """Whether a text, or any text inside of lists and objects, has an expression."""
    raise NotImplementedError


def fill(value: Any, names: dict[str, Any], *, load_file: Callable[[str], bytes] | None = None) -> Any:
    """A value with every expression inside of it evaluated, in lists and objects too. Raises `ExpressionError`."""
    raise NotImplementedError


def is_true(value: Any, names: dict[str, Any]) -> bool:
    """The truth of a condition: an expression, or a boolean. Raises `ExpressionError`."""
    raise NotImplementedError


def check(text: str) -> str | None:
    """What is wrong with the expressions in a text, without evaluating them; None where nothing is."""
    raise NotImplementedError


def names_in(text: str) -> set[tuple[str, ...]]:
    """Paths of names that a text's expressions use: ``{("steps", "issue", "output", "number"), ("start", "email")}``."""
    raise NotImplementedError
