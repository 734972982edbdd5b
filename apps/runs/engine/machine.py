"""The state of one run, and what it does next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from apps.modules.definition import Definition, Step

from .events import Event, StepError

MAX_OUTPUT = 10 * 1024 * 1024  # bytes of one step's output as JSON
MAX_RESULT = 2 * 1024 * 1024
MAX_LOSSES = 10  # workers that one step may take along before its run fails
MAX_ITEMS = 10_000  # of one for_each


@dataclass(frozen=True)
class Facts:
    """What a run knows of itself from its start on. ``load_file`` gives the bytes of a file by its id."""

    run_id: str
    start: dict[str, Any]
    user: str | None = None
    maximum_attempts: int = 3
    load_file: Callable[[str], bytes] | None = None


@dataclass(frozen=True)
class Perform:
    """To be done outside, now: a tool, a request, code. ``inputs`` has every expression filled in.

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
    """A person is to be asked: a form or an approval, with every expression filled in and assignees as a list of texts."""

    key: str
    step: Step
    spec: dict[str, Any]
    assignees: list[str]
    deadline: datetime | None
    remind_seconds: float | None


@dataclass(frozen=True)
class RunModule:
    """Another module is to be run."""

    key: str
    step: Step
    module: str
    parameters: dict[str, Any]


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


@dataclass
class Machine:
    """The state of one run. Every method that changes it makes events, which `take_events` hands over once."""

    definition: Definition
    facts: Facts
    status: str = "created"  # created | running | waiting_for_input | completed | fatal_errored | cancelled
    attempt: int = 0
    result: Any = None
    error: StepError | None = None
    waiting: dict[str, Waiting] = field(default_factory=dict)  # by key, steps that wait
    performing: dict[str, int] = field(default_factory=dict)  # by key, the try that is being performed outside

    @classmethod
    def replay(cls, definition: Definition, facts: Facts, events: Iterable[Event]) -> Machine:
        """The state after these events."""
        machine = cls(definition, facts)
        for event in events:
            machine.apply(event)
        return machine

    def apply(self, event: Event) -> None:
        """Takes in one event: total (any event in any state), deterministic, without looking at a clock or an expression."""
        raise NotImplementedError

    # -- Deciding ----------------------------------------------------------------------------------------------------
    def advance(self, now: datetime) -> list[Command]:
        """Decides everything that needs nobody (when, condition, switch, set, fail, timers that ran out, the next attempt, the
        end) and gives what is to be done outside from now on: each command once, its STARTED or WAITING event made.
        """
        raise NotImplementedError

    # -- What came from outside --------------------------------------------------------------------------------------
    def ended(self, key: str, output: Any, now: datetime, trace: Any = None) -> bool:
        """A performed step, an answered question, an event, another run gave its output. False where nobody waits for it."""
        raise NotImplementedError

    def failed(self, key: str, error: StepError, now: datetime, trace: Any = None) -> bool:
        """The same with an error: tried again by the step's ``retry``, else by its ``on_error``, else by another attempt."""
        raise NotImplementedError

    def lost(self, now: datetime) -> None:
        """Whoever performed steps is gone: each of them follows its on_lost, or is done again where that is safe."""
        raise NotImplementedError

    def timed_out(self, now: datetime) -> None:
        """The attempt has worked for as long as it may: it fails (execution / script-timeout), and another may follow."""
        raise NotImplementedError

    def cancel(self, now: datetime) -> bool:
        """False where the run had ended."""
        raise NotImplementedError

    def retry(self, now: datetime) -> bool:
        """By hand, after the end: one more attempt, from the step that failed. False where there is nothing to retry."""
        raise NotImplementedError

    # -- Looking -----------------------------------------------------------------------------------------------------
    @property
    def is_over(self) -> bool:
        return self.status in {"completed", "fatal_errored", "cancelled"}

    @property
    def wake_at(self) -> datetime | None:
        """When there is something to decide next without anything coming from outside: the earliest timer or deadline."""
        raise NotImplementedError

    def take_events(self) -> list[Event]:
        """Events made since the last call, to be persisted in this order."""
        raise NotImplementedError
