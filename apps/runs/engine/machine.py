"""What a run does next: the decisions over its state."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from apps.lib import expressions
from apps.lib.expressions import ExpressionError
from apps.modules.definition import Definition, Goto, Retry, Step, WaitEvent, WaitUntil

from . import events, inputs
from .commands import Ask, Command, Facts, Perform, RunModule, Waiting
from .events import LOST_WORKER, Event, StepError
from .paths import Paths
from .plain import LONGEST_MESSAGE, NotPlain, clean_text, moment, plain, plain_or_text, seconds, shown, text_of
from .state import PERFORMED_KINDS, Block, Node, Scope, State

MAX_OUTPUT = 10 * 1024 * 1024  # bytes of one step's output as JSON
MAX_RESULT = 2 * 1024 * 1024
MAX_EXTENDED = 10_000  # payloads that one run adds; together of MAX_RESULT
LONGEST_API = 150  # characters of a module's name
MAX_LOSSES = 10  # workers that one step may take along before its run fails
MAX_ITEMS = 10_000  # of one for_each
MAX_KEY = 500  # characters
ROOM_IN_KEY = len("[9999]/") + 60  # for what a for_each adds: an item's number, and an id
MAX_EVENTS = 1_000_000  # of one run: more is a loop within loops that nobody meant
BATCH = 10_000  # events that one advance makes at most, about
LONGEST_BACKOFF = 60.0  # seconds between two attempts
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
TIMED_OUT = StepError("The attempt has worked for as long as it may.", code="script-timeout")
TOO_MUCH = StepError(f"The run has come to more than {MAX_EVENTS} events.", final=True)

__all__ = ["Ask", "Command", "Facts", "Machine", "Perform", "RunModule", "Waiting"]


class Machine(State):
    """The state of one run. Every method that changes it makes events, which `take_events` hands over once.

    ``chance`` spreads the times between attempts; what came of it stands in the events.
    """

    def __init__(self, definition: Definition, facts: Facts, chance: random.Random | None = None) -> None:
        super().__init__(definition, facts)
        self._chance = chance or random.Random()  # noqa: S311 # spreads load, guards nothing
        self._made: list[Event] = []
        self._paths: Paths | None = None

    @classmethod
    def replay(
        cls, definition: Definition, facts: Facts, events: Iterable[Event], chance: random.Random | None = None
    ) -> Machine:
        """The state after these events."""
        machine = cls(definition, facts, chance)
        for event in events:
            machine.apply(event)
        return machine

    # -- Deciding ----------------------------------------------------------------------------------------------------
    def advance(self, now: datetime) -> list[Command]:
        """Decides everything that needs nobody (when, condition, switch, set, fail, timers that ran out, the next attempt, the
        end) and gives what is to be done outside from now on: each command once, its STARTED or WAITING event made.

        After some thousand events it gives back in between, so that they can be persisted: `wake_at` is past then.
        """
        if not self.attempt and not self.is_over:
            self._make(events.ATTEMPT, now, data={"number": 1})
        commands: list[Command] = []
        self._wake(now, commands)
        end = self.count + BATCH
        while self._decides and self.count < end:
            command = self._work(next(iter(self._todo), self._root), now)
            if command is not None:
                commands.append(command)
        return commands if not self.is_over else []

    @property
    def _decides(self) -> bool:
        return not self.is_over and self.backoff is None and bool(self._todo or self.failing)

    def _wake(self, now: datetime, commands: list[Command]) -> None:
        if self.is_over or (self.backoff is not None and now < self.backoff):
            return
        if self.backoff is not None:
            self._make(events.ATTEMPT, now, data={"number": self.attempt + 1})
        due = [waiting for waiting in self.waiting.values() if waiting.until is not None and waiting.until <= now]
        for waiting in due:
            command = self._ring(waiting, self._heads[waiting.key], now)
            if command is not None:
                commands.append(command)

    def _ring(self, waiting: Waiting, block: Block, now: datetime) -> Command | None:
        """The time has come until which a step waits; the deadline of a question is its asker's."""
        if waiting.what == "timer":
            self._end(block, None, now)
        elif waiting.what == "retry":
            return self._begin(block, now)
        elif waiting.what == "event":
            message = f"The event {waiting.name} did not come in time."
            self._fail_step(block, StepError(message, kind="timeout"), now)
        return None

    def _work(self, block: Block, now: datetime) -> Command | None:
        """Decides one thing about a block that stands where something can be decided."""
        node = block.node
        if self.failing is not None:
            self._fail_attempt(self.failing, now)
        elif self.count >= MAX_EVENTS:
            self._make(events.ERRORED, now, data={"error": TOO_MUCH.as_json()})
        elif block.step is None:
            self._complete(now)
        elif node is None:
            return self._arrive(block, block.step, now)
        elif node.state == "again":
            return self._begin(block, now)
        elif node.state == "lost":
            self._fail_step(block, _lost(node), now)
        elif node.state == "open":
            self._settle(block, node, now)
        elif node.error is not None:
            self._fail_attempt(node.error, now)
        return None

    def _arrive(self, block: Block, step: Step, now: datetime) -> Command | None:
        """A step's turn has come."""
        goto = block.scope.goto
        if goto and goto != step.id:
            branch = self.paths.branch(step.id, goto)
            if branch is None:
                self._make(events.SKIPPED, now, block.key)
            else:
                self._make(events.BRANCH, now, block.key, {"chosen": branch})
            return None
        try:
            goes = step.when is None or expressions.is_true(step.when, self._names(block.scope, now))
        except (ExpressionError, RecursionError) as error:
            self._fail_step(block, _wrong(error, "when"), now)
            return None
        if not goes:
            self._make(events.SKIPPED, now, block.key)
            return None
        return self._begin(block, now)

    def _begin(self, block: Block, now: datetime) -> Command | None:
        step = block.steps[block.at]
        try:
            return _BEGINNINGS[step.kind](self, block, step, now)
        except (ExpressionError, NotPlain, RecursionError) as error:
            self._fail_step(block, _wrong(error), now)
        except KeyError:
            self._fail_step(block, StepError("The step says not what it does.", final=True), now)
        return None

    def _settle(self, block: Block, node: Node, now: datetime) -> None:
        """Everything inside has ended, or one failed and no other goes on."""
        if node.failed:
            inner = node.blocks[node.failed[0]].node
            error = inner.error if inner is not None else None
            self._fail_step(block, error or StepError("A step inside failed."), now)
        elif node.step.kind == "for_each":
            self._end(block, node.outputs, now)
        else:
            self._end(block, {"chosen": node.chosen}, now)

    def _complete(self, now: datetime) -> None:
        try:
            value = self._fill(self._root.scope, now)(self.definition.result)
            result, size = plain(value)
        except (ExpressionError, NotPlain, RecursionError) as error:
            self._error(_wrong(error, "result"), now)
            return
        if size > MAX_RESULT:
            message = f"The result has {size} bytes, more than {MAX_RESULT}."
            self._error(StepError(message, code="result-too-big-error", final=True), now)
            return
        try:
            extended = self._extended(result, now)
        except (ExpressionError, NotPlain, RecursionError) as error:
            self._error(_wrong(error, "extended_payloads"), now)
            return
        self._make(events.COMPLETED, now, data={"result": result, **({"extended": extended} if extended else {})})

    def _extended(self, result: Any, now: datetime) -> list[dict[str, Any]]:
        """What the run adds to its job run. Its expressions see the result, too. Raises `NotPlain`."""
        given: Any = self.definition.extended_payloads
        if given is None:
            return []
        if isinstance(given, list):
            given = [item.model_dump() for item in given]
        names = {**self._names(self._root.scope, now), "result": result}
        value, size = plain(expressions.fill(given, names, load_file=self.facts.load_file))
        if size > MAX_RESULT:
            raise NotPlain(f"They have {size} bytes, more than {MAX_RESULT}.")
        return _payloads(value)

    # -- Beginning a step --------------------------------------------------------------------------------------------
    def _begin_condition(self, block: Block, step: Step, now: datetime) -> None:
        true = expressions.is_true(step.condition, self._names(block.scope, now))
        self._make(events.BRANCH, now, block.key, {"chosen": "then" if true else "else"})

    def _begin_switch(self, block: Block, step: Step, now: datetime) -> None:
        value = text_of(self._fill(block.scope, now)(step.switch))
        chosen = f"case {value}" if value in step.cases else "default" if step.default else ""
        self._make(events.BRANCH, now, block.key, {"chosen": chosen})

    def _begin_for_each(self, block: Block, step: Step, now: datetime) -> None:
        items = self._fill(block.scope, now)(step.for_each)
        if not isinstance(items, list):
            raise NotPlain(f"for_each: a list was expected, not {str(items)[:100]!r}.")
        if len(items) > MAX_ITEMS:
            raise NotPlain(f"for_each: {len(items)} items are more than {MAX_ITEMS}.")
        if len(block.key) + ROOM_IN_KEY > MAX_KEY:
            raise NotPlain("for_each: too many loops with long ids stand in one another.")
        self._make(events.ITEMS, now, block.key, {"items": items})

    def _begin_set(self, block: Block, step: Step, now: datetime) -> None:
        self._end(block, self._fill(block.scope, now)(step.set), now)

    def _begin_fail(self, block: Block, step: Step, now: datetime) -> None:
        assert step.fail is not None
        fill = self._fill(block.scope, now)
        error = StepError(shown(fill(step.fail.message)), final=True, details=fill(step.fail.details))
        self._fail_step(block, replace(error, code=step.fail.code or error.code), now)

    def _begin_wait(self, block: Block, step: Step, now: datetime) -> None:
        fill, wait = self._fill(block.scope, now), step.wait
        if isinstance(wait, WaitEvent):
            until = now + timedelta(seconds=wait.timeout) if wait.timeout is not None else None
            self._wait(block, "event", now, until, text_of(fill(wait.event)))
            return
        end = moment(fill(wait.until)) if isinstance(wait, WaitUntil) else None
        until = end or now + timedelta(seconds=seconds(fill(wait)))
        if until <= now:
            self._end(block, None, now)
        else:
            self._wait(block, "timer", now, until)

    def _begin_question(self, block: Block, step: Step, now: datetime) -> Command:
        command = self._ask(block, step, now, self._number(block))
        self._wait(block, "task", now, command.deadline)
        return command

    def _begin_run(self, block: Block, step: Step, now: datetime) -> Command:
        command = self._run_module(block, step, now, self._number(block))
        self._wait(block, "run", now)
        return command

    def _begin_performed(self, block: Block, step: Step, now: datetime) -> Command:
        fill = self._fill(block.scope, self._first.get(block.key, now))
        filled, safe = inputs.of_step(step, fill, self.facts)
        command = Perform(block.key, step, filled, safe, step.timeout, self._number(block))
        self._make(events.STARTED, now, block.key, {"try": command.number, "safe": safe})
        return command

    def _number(self, block: Block) -> int:
        return block.node.tries + 1 if block.node is not None else 1

    def _ask(self, block: Block, step: Step, now: datetime, number: int) -> Ask:
        asked = step.form or step.approve
        assert asked is not None
        fill = self._fill(block.scope, now)
        spec = inputs.of_form(step.form, fill) if step.form else inputs.of_approval(step.approve, fill)  # type: ignore[arg-type]
        deadline = now + timedelta(seconds=asked.deadline) if asked.deadline is not None else None
        people = inputs.assignees(asked.assignees, fill)
        return Ask(block.key, step, spec, people, deadline, asked.remind, number)

    def _run_module(self, block: Block, step: Step, now: datetime, number: int) -> RunModule:
        parameters = inputs.members(step.with_, self._fill(block.scope, now))
        return RunModule(block.key, step, str(step.run), parameters, self.attempt, number)

    def _wait(self, block: Block, what: str, now: datetime, until: datetime | None = None, name: str = "") -> None:
        data: dict[str, Any] = {"for": what, "try": self._number(block)}
        if until is not None:
            data["until"] = until.isoformat()
        if name:
            data["name"] = name
        self._make(events.WAITING, now, block.key, data)

    # -- Ending a step -----------------------------------------------------------------------------------------------
    def _end(self, block: Block, output: Any, now: datetime, trace: Any = None) -> None:
        try:
            output, size = plain(output)
        except NotPlain as error:
            self._fail_step(block, _wrong(error, "output"), now, trace)
            return
        if size > MAX_OUTPUT:
            big = StepError(f"The output has {size} bytes, more than {MAX_OUTPUT}.", final=True)
            self._fail_step(block, big, now, trace)
        else:
            self._make(events.ENDED, now, block.key, {"output": output}, trace)

    def _fail_step(self, block: Block, error: StepError, now: datetime, trace: Any = None) -> None:
        """By its on_error. Unlike `failed` it knows no retry: what is decided in here would come out the same."""
        step = block.steps[block.at]
        error = _tidy(error, block.key)
        data: dict[str, Any] = {"error": error.as_json(), "then": "fail"}
        if step.on_error == "continue":
            data["then"] = "continue"
        elif isinstance(step.on_error, Goto) and self.paths.allow(step.id, step.on_error.goto):
            data.update(then="goto", goto=step.on_error.goto)
        self._make(events.FAILED, now, block.key, data, trace)

    def _retry_at(self, node: Node, error: StepError, now: datetime) -> datetime | None:
        retry = node.step.retry
        if retry is None or node.failures + 1 >= retry.maximum_attempts or not _matches(retry, error.kind):
            return None
        delay = min(max(retry.delay * retry.factor**node.failures, error.pause), retry.max_delay)
        return now + timedelta(seconds=delay)

    # -- Ending an attempt -------------------------------------------------------------------------------------------
    def _fail_attempt(self, error: StepError, now: datetime) -> None:
        if error.final or self.attempt >= self.facts.maximum_attempts:
            self._error(error, now)
            return
        delay = 2.0 ** min(self.attempt - 1, 10) * self._chance.uniform(0.75, 1.25)
        until = now + timedelta(seconds=min(delay, LONGEST_BACKOFF))
        self._make(events.BACKOFF, now, data={"until": until.isoformat(), "error": error.as_json()})

    def _error(self, error: StepError, now: datetime) -> None:
        error = _tidy(error, error.step)
        last = {"number": self.attempt, "message": error.message, "code": error.code, "step": error.step}
        if not error.final or (self.attempts and error.details is None):
            details = {"attempts": [*self.attempts, last]}
            error = replace(error, details=details if error.details is None else {**details, "last": error.details})
        if error.code not in events.CODES:
            error = replace(error, code=StepError.code, details=_with_code(error.details, error.code))
        self._make(events.ERRORED, now, data={"error": error.as_json()})

    # -- What came from outside --------------------------------------------------------------------------------------
    def refused(self, error: StepError, now: datetime) -> None:
        """The run fails before an attempt of it began: what it needs is not there."""
        if not self.is_over:
            self._make(events.ERRORED, now, data={"error": error.as_json()})

    def ended(self, key: str, output: Any, now: datetime, trace: Any = None) -> bool:
        """A performed step, an answered question, an event, another run gave its output. False where nobody waits for it."""
        block = self._expects(key)
        if block is None:
            self._record(events.ENDED, key, {"output": plain_or_text(output)}, now, trace)
            return False
        self._end(block, output, now, trace)
        return True

    def failed(self, key: str, error: StepError, now: datetime, trace: Any = None) -> bool:
        """The same with an error: tried again by the step's ``retry``, else by its ``on_error``, else by another attempt."""
        block = self._expects(key)
        error = _tidy(error, key)
        if block is None or block.node is None:
            self._record(events.FAILED, key, {"error": error.as_json(), "then": "fail"}, now, trace)
            return False
        until = self._retry_at(block.node, error, now)
        if until is None:
            self._fail_step(block, error, now, trace)
            return True
        data = {"for": "retry", "try": block.node.tries, "until": until.isoformat(), "error": error.as_json()}
        self._make(events.WAITING, now, key, data, trace)
        return True

    def _expects(self, key: str) -> Block | None:
        waiting = self.waiting.get(key)
        if key in self.performing or (waiting is not None and waiting.what in ("task", "event", "run")):
            return self._heads[key]
        return None

    def _record(self, kind: str, key: str, data: dict[str, Any], now: datetime, trace: Any) -> None:
        """What was under way when the run ended is known for its trace, and changes nothing."""
        if key in self.given_up:
            self._make(kind, now, key, data, trace)

    def lost(self, now: datetime) -> None:
        """Whoever performed steps is gone: each of them follows its on_lost, or is done again where that is safe."""
        for key in list(self.performing) if not self.is_over else []:
            node = self._heads[key].node
            assert node is not None
            then = node.step.on_lost or ("retry" if node.safe else "fail")
            if then == "retry" and node.losses + 1 >= MAX_LOSSES:
                then = "fail"
            self._make(events.LOST, now, key, {"then": then})

    def timed_out(self, now: datetime) -> None:
        """The attempt has worked for as long as it may: it fails (execution / script-timeout), and another may follow.

        What was being performed is given up; what waits goes on waiting.
        """
        if self.is_over or self.backoff is not None or not self.attempt:
            return
        for key in list(self.performing):
            error = replace(TIMED_OUT, step=key)
            self._make(events.FAILED, now, key, {"error": error.as_json(), "then": "attempt"})
        self._fail_attempt(self.failing or TIMED_OUT, now)

    def cancel(self, now: datetime) -> bool:
        """False where the run had ended."""
        if self.is_over:
            return False
        self._make(events.CANCELLED, now)
        return True

    def retry(self, now: datetime) -> bool:
        """By hand, after the end: one more attempt, from the step that failed. False where there is nothing to retry."""
        if self.status != "fatal_errored":
            return False
        self._make(events.ATTEMPT, now, data={"number": self.attempt + 1})
        return True

    # -- Looking -----------------------------------------------------------------------------------------------------
    @property
    def wake_at(self) -> datetime | None:
        """When there is something to decide next without anything coming from outside: the earliest timer or deadline.

        Long past where there is something to decide already.
        """
        if self.is_over:
            return None
        if self.backoff is not None:
            return self.backoff
        if not self.attempt or self._decides:
            return AT_ONCE
        return min((waiting.until for waiting in self.waiting.values() if waiting.until is not None), default=None)

    def take_events(self) -> list[Event]:
        """Events made since the last call, to be persisted in this order."""
        made, self._made = self._made, []
        return made

    def names(self, now: datetime) -> dict[str, Any]:
        """What expressions outside of every for_each see now: for texts of a run's end, for instance."""
        return self._names(self._root.scope, now)

    def asked(self, key: str) -> Ask | RunModule | None:
        """Once more the command of a step that waits for a person or another run: for whoever takes the run over.

        None where no step of this key waits for either. Its deadline is the first one.
        """
        waiting = self.waiting.get(key)
        if waiting is None or waiting.what not in ("task", "run"):
            return None
        block = self._heads[key]
        make: Callable[..., Ask | RunModule] = self._ask if waiting.what == "task" else self._run_module
        return make(block, block.steps[block.at], waiting.since, waiting.tries)

    @property
    def paths(self) -> Paths:
        if self._paths is None:
            self._paths = Paths(self.definition.steps)
        return self._paths

    # -- Small -------------------------------------------------------------------------------------------------------
    def _make(
        self, kind: str, now: datetime, key: str = "", data: dict[str, Any] | None = None, trace: Any = None
    ) -> None:
        event = Event(kind, now, key, data or {}, None if trace is None else plain_or_text(trace))
        self._made.append(event)
        self.apply(event)

    def _names(self, scope: Scope, now: datetime) -> dict[str, Any]:
        run = {"id": self.facts.run_id, "attempt": self.attempt, "user": self.facts.user}
        return {**scope.names, "start": self.facts.start, "steps": scope.steps, "run": run, "now": now}

    def _fill(self, scope: Scope, now: datetime) -> Callable[[Any], Any]:
        """Fills a value's expressions and gives it as JSON."""
        names = self._names(scope, now)

        def fill(value: Any) -> Any:
            return plain(expressions.fill(value, names, load_file=self.facts.load_file))[0]

        return fill


def _matches(retry: Retry, kind: str) -> bool:
    """Whether a step's retry is for errors of this kind."""
    listed = {str(item) for item in retry.on}
    return "any" in listed or (bool(kind) and (kind in listed or (len(kind) == 3 and f"{kind[0]}xx" in listed)))


def _payloads(value: Any) -> list[dict[str, Any]]:
    """``[{api, parameters?}]``, null standing for none. Raises `NotPlain`."""
    listed = [] if value is None else value
    if not isinstance(listed, list):
        raise NotPlain(f"a list was expected, not {str(value)[:100]!r}.")
    if len(listed) > MAX_EXTENDED:
        raise NotPlain(f"{len(listed)} payloads are more than {MAX_EXTENDED}.")
    return [_payload(item, index) for index, item in enumerate(listed)]


def _payload(item: Any, index: int) -> dict[str, Any]:
    api = item.get("api") if isinstance(item, dict) else None
    if not isinstance(api, str) or not 1 <= len(api) <= LONGEST_API:
        raise NotPlain(f"[{index}]: an object with api, a module's name, and parameters was expected.")
    parameters = item.get("parameters")
    if not isinstance(parameters, dict | None):
        raise NotPlain(f"[{index}].parameters: an object was expected.")
    return {"api": api, "parameters": parameters or {}}


def _lost(node: Node) -> StepError:
    if node.losses < MAX_LOSSES:
        return LOST_WORKER
    return replace(LOST_WORKER, message=f"The worker was lost in this step {node.losses} times.")


def _wrong(error: Exception, where: str = "") -> StepError:
    """Of what a definition says: it would come out the same in another attempt."""
    message = "An expression is nested too deeply." if isinstance(error, RecursionError) else str(error)
    return StepError(f"{where}: {message}" if where else message, final=True)


def _tidy(error: StepError, key: str) -> StepError:
    """An error as every database keeps it, with the step where it began."""
    message, details = clean_text(error.message)[:LONGEST_MESSAGE], plain_or_text(error.details)
    return replace(error, message=message, details=details, step=error.step or key)


def _with_code(details: Any, code: str) -> dict[str, Any]:
    if details is None or isinstance(details, dict):
        return {**(details or {}), "code": code}
    return {"details": details, "code": code}


_BEGINNINGS: dict[str, Callable[[Machine, Block, Step, datetime], Command | None]] = {
    "condition": Machine._begin_condition,
    "switch": Machine._begin_switch,
    "for_each": Machine._begin_for_each,
    "set": Machine._begin_set,
    "fail": Machine._begin_fail,
    "wait": Machine._begin_wait,
    "form": Machine._begin_question,
    "approve": Machine._begin_question,
    "run": Machine._begin_run,
    **dict.fromkeys(PERFORMED_KINDS, Machine._begin_performed),
}
