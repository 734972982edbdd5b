"""What a machine is told at its beginning, and what it wants to be done."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from apps.modules.definition import Step


@dataclass(frozen=True)
class Facts:
    """What a run knows of itself from its start on. ``load_file`` gives the bytes of a file by its id.

    ``safe_tools``: names of the tools that may be done twice, or a function that says so of a name.
    """

    run_id: str
    start: dict[str, Any]
    user: str | None = None
    maximum_attempts: int = 3
    load_file: Callable[[str], bytes] | None = None
    safe_tools: Callable[[str], bool] | Container[str] = frozenset()

    def is_safe(self, tool: str) -> bool:
        return self.safe_tools(tool) if callable(self.safe_tools) else tool in self.safe_tools


@dataclass(frozen=True)
class Perform:
    """To be done outside, now: a tool, a request, code. ``inputs`` has every expression filled in, and is JSON.

    For a tool ``{name, params, connection}``; for a request ``{method, url, headers, query, json|form|body, accept, follow}``;
    for code ``{name, params}``. ``safe``: may be done again if nobody knows whether it was done. ``timeout`` in seconds.
    """

    key: str
    step: Step
    inputs: dict[str, Any]
    safe: bool
    timeout: float | None
    number: int  # of the try


@dataclass(frozen=True)
class Ask:
    """A person is to be asked: a form or an approval, with every expression filled in and assignees as a list of texts.

    ``spec`` of a form has ``pages`` always, also where the definition has ``fields`` alone.
    """

    key: str
    step: Step
    spec: dict[str, Any]
    assignees: list[str]
    deadline: datetime | None
    remind_seconds: float | None
    number: int = 1  # of the try


@dataclass(frozen=True)
class RunModule:
    """Another module is to be run. ``attempt`` and ``number`` (of the try) tell a second run of the same step from the first."""

    key: str
    step: Step
    module: str
    parameters: dict[str, Any]
    attempt: int = 1
    number: int = 1


@dataclass
class Waiting:
    """What a step waits for: ``what`` is task, event (of this ``name``), timer, run, or retry. Times are aware, in UTC."""

    key: str
    what: str
    since: datetime
    until: datetime | None = None
    name: str = ""
    tries: int = 0


Command = Perform | Ask | RunModule
