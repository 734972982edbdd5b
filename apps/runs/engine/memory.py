"""A runner for tests of modules and of the engine itself: no database, no worker, a clock that jumps.

docs/modules-testing.md shows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from typing import Any

from apps.modules.definition import Definition

from .commands import Ask, Command, Facts, Perform, RunModule, Waiting
from .events import Event, StepError
from .machine import Machine

BEGINNING = datetime(2026, 1, 1, 8, tzinfo=UTC)


def run_in_memory(
    definition: Definition | dict[str, Any],
    start: dict[str, Any] | None = None,
    *,
    perform: Callable[[Perform], Any] | None = None,
    answer: Callable[[Ask], Any] | None = None,
    child: Callable[[RunModule], Any] | None = None,
    signals: Mapping[str, Any] | None = None,
    user: str | None = None,
    maximum_attempts: int = 3,
    safe_tools: Callable[[str], bool] | Container[str] = frozenset(),
    load_file: Callable[[str], bytes] | None = None,
    now: datetime = BEGINNING,
    history: list[Event] | None = None,
) -> Machine:
    """Runs a module to its end, or until it waits for what nobody gives, and returns its machine.

    ``perform`` gives the output of a tool, request or code, ``answer`` that of a form or approval (None: nobody answers, its
    deadline comes if it has one), ``child`` the result of another module; each of them may return a `StepError`, and the step
    fails with it. ``signals``: the data of events by name. Nothing is waited for: the clock jumps from ``now`` to the next time
    that matters. ``history`` takes the events. Raises what the functions raise; `LookupError` for a step without a function.
    """
    module = definition if isinstance(definition, Definition) else Definition.model_validate(definition)
    facts = Facts("run-in-memory", start or {}, user, maximum_attempts, load_file, safe_tools)
    outside = _Outside(Machine(module, facts), {Perform: perform, Ask: answer, RunModule: child}, signals or {}, now)
    while outside.goes_on():
        pass
    if history is not None:
        history.extend(outside.machine.take_events())
    return outside.machine


class _Outside:
    """All that a machine knows nothing of."""

    def __init__(
        self,
        machine: Machine,
        functions: dict[type, Callable[[Any], Any] | None],
        signals: Mapping[str, Any],
        now: datetime,
    ) -> None:
        self.machine, self.functions, self.signals, self.now = machine, functions, signals, now
        self.commands: deque[Command] = deque()
        self.open: dict[str, Ask] = {}  # questions that nobody answered

    def goes_on(self) -> bool:
        """One thing more happens; False where none is left to happen."""
        self.commands.extend(self.machine.advance(self.now))
        if self.machine.is_over:
            return False
        if self.commands:
            self._carry_out(self.commands.popleft())
            return True
        return self._signal() or self._jump()

    def _carry_out(self, command: Command) -> None:
        function = self.functions[type(command)]
        if function is None:
            raise LookupError(f"The step {command.key} needs a function for {type(command).__name__}.")
        outcome = function(command)
        if isinstance(command, Ask) and outcome is None:
            self.open[command.key] = command
        else:
            self._report(command.key, outcome)

    def _report(self, key: str, outcome: Any) -> None:
        if isinstance(outcome, StepError):
            self.machine.failed(key, outcome, self.now)
        else:
            self.machine.ended(key, outcome, self.now)

    def _signal(self) -> bool:
        for waiting in self.machine.waiting.values():
            if waiting.what == "event" and waiting.name in self.signals:
                return self.machine.ended(waiting.key, self.signals[waiting.name], self.now)
        return False

    def _jump(self) -> bool:
        wake_at = self.machine.wake_at
        if wake_at is None:
            return False
        self.now = max(self.now, wake_at)
        for waiting in list(self.machine.waiting.values()):
            if _is_due(waiting, self.now):
                self._report(waiting.key, default_outcome(self.open.pop(waiting.key)))
        return True


def _is_due(waiting: Waiting, now: datetime) -> bool:
    return waiting.what == "task" and waiting.until is not None and waiting.until <= now


def default_outcome(command: Ask) -> Any:
    """What becomes of a question at its deadline."""
    then = command.spec["on_deadline"]
    if then == "fail":
        return StepError("Nobody answered in time.", kind="timeout")
    if then == "continue":
        return {field["name"]: field["default"] for page in command.spec["pages"] for field in page["fields"]}
    return {"approved": then == "approve", "by": None, "reason": ""}
