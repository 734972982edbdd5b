"""JSON Pointer (RFC 6901)."""

from __future__ import annotations

from typing import Any


def resolve(document: Any, pointer: str | None) -> Any:
    """The value at the pointer; None where there is none."""
    if pointer is None:
        return None
    value = document
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value
