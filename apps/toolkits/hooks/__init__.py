"""Code for the few tools that data cannot describe: ``hooks/<slug>.py``, one plain function a hook.

A tool's ``hook`` takes the checked parameters and gives those that are placed into the request; it may raise
`apps.toolkits.request.BadParameters`. Its ``answer_hook`` takes the decoded answer and gives what the caller gets.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ..spec import Toolkit

Hook = Callable[[Any], Any]


@lru_cache(maxsize=512)
def find(slug: str, name: str) -> Hook:
    """The function. Raises LookupError where there is none."""
    try:
        module = importlib.import_module(f"{__name__}.{slug.replace('-', '_')}")
    except ModuleNotFoundError as error:
        raise LookupError(f"there is no hooks/{slug.replace('-', '_')}.py") from error
    found: Hook | None = getattr(module, name, None)
    if found is None or name.startswith("_"):
        raise LookupError(f"hooks/{slug.replace('-', '_')}.py has no function {name}")
    return found


def faults(toolkit: Toolkit) -> list[str]:
    found = []
    for tool in toolkit.tools:
        for key in ("hook", "answer_hook"):
            name = getattr(tool, key)
            try:
                if name:
                    find(toolkit.slug, name)
            except LookupError as error:
                found.append(f"tools.{tool.slug}.{key}: {error}")
    return found
