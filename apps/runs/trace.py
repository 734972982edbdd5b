"""The trace of a run: what its events tell people, as one tree of attempts, steps and calls.

The same tree is the API's answer and what the admin draws. Secrets are taken out once more: by name, and by value those that
the run was given and that its steps gave. Long values are cut, and a run of any length gives a trace of bounded size, with a
note of what it leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from apps.lib.redact import clip, redact, redact_json_text
from apps.modules.definition import Definition, Step

from .engine import events
from .models import HumanTask, Run, RunEvent
from .performing import secrets_in

MAX_STEPS = 5000  # executions of steps that a trace tells of
MAX_VALUE = 20_000  # characters of one value, as JSON
MAX_VALUES = 8_000_000  # characters of all values together
MAX_SECRETS = 200  # values that are looked for in all others
MIN_SECRET = 8  # characters of one that a step gave: shorter ones would mask words
CHUNK = 250  # events read at a time: each may bring bodies along
CHUNK_WITHOUT_VALUES = 5000
BLOCKS = frozenset({"condition", "switch", "for_each"})
DONE = frozenset({"completed", "failed", "skipped", "stopped"})
# Their data is what the engine needs, large, and of no use where no values are shown.
LARGE = (events.ENDED, events.COMPLETED)


def trace_of(run: Run) -> dict[str, Any]:
    """JSON of a run: its head, and ``attempts``, each with its tree of ``steps``.

    A step is ``{key, id, title, kind, status, startedAt, endedAt, ms, calls, children}`` and, where there are such: ``tries``,
    ``inputs``, ``output``, ``error``, ``then`` (where a failure led: fail, continue, goto with ``goto``, or attempt where its
    time was up), ``waitedFor`` (``[{what, since, until, endedAt, name, answeredBy}]``, ``until`` being the deadline),
    ``chosen`` (the branch), ``items`` (how many), ``branch`` or ``iteration`` of a child, ``lost`` (how often its worker was),
    ``runId`` (of the run that it started). ``status`` is running, waiting, completed, failed, skipped, stopped (the attempt
    ended first), or continued (begun in an earlier attempt). Times are ISO 8601 in UTC, durations milliseconds. A run with
    ``saveTrace`` false has neither calls nor inputs nor outputs.
    """
    builder = _Builder(run)
    for event in _read(run, builder):
        builder.take(event)
    return builder.as_json()


def _read(run: Run, builder: _Builder) -> Iterator[RunEvent]:
    """The run's events in order, a chunk at a time; without their values once there were enough of them."""
    last = -1
    while True:
        whole = builder.takes_values and not builder.is_full
        rows = run.events.filter(number__gt=last).order_by("number")
        chunk = list(rows[:CHUNK] if whole else rows.defer("data", "trace")[:CHUNK_WITHOUT_VALUES])
        if not whole and chunk:
            _add_small_data(run, chunk)
        yield from chunk
        if len(chunk) < (CHUNK if whole else CHUNK_WITHOUT_VALUES):
            return
        last = chunk[-1].number


def _add_small_data(run: Run, chunk: list[RunEvent]) -> None:
    """Data of the events but for the large ones; two queries are cheaper than ten megabytes of outputs."""
    numbers = (chunk[0].number, chunk[-1].number)
    small = dict(
        run.events.filter(number__range=numbers).exclude(kind__in=LARGE).values_list("number", "data")
    )  # fmt: skip
    for event in chunk:
        event.data, event.trace = small.get(event.number, {}), None


# -- Steps -----------------------------------------------------------------------------------------------------------
@dataclass
class _Step:
    """One execution of a step in one attempt."""

    key: str
    id: str
    spec: Step | None
    branch: str = ""
    iteration: int | None = None
    status: str = "running"
    started: datetime | None = None
    ended: datetime | None = None
    tries: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    given_up: bool = False  # its attempt ended while it was being performed
    waits: list[dict[str, Any]] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    children: list[_Step] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return self.spec.kind if self.spec else ""

    def begin(self, at: datetime) -> None:
        self.status = "running"
        self.started = self.started or at
        self.ended = None

    def end(self, status: str, at: datetime) -> None:
        self.status, self.started, self.ended = status, self.started or at, at

    def end_wait(self, at: datetime) -> None:
        if self.waits and self.waits[-1]["endedAt"] is None:
            self.waits[-1]["endedAt"] = at.isoformat()

    def close(self, at: datetime | None) -> None:
        """Ends what its attempt, or the run, left open: a block ends with the last of what is in it."""
        for child in self.children:
            child.close(at)
        if self.status in DONE:
            return
        own = [child.ended for child in self.children if child.ended]
        if self.kind in BLOCKS and self.children and all(child.status in DONE for child in self.children):
            self.end(self._of_children(), max([*own, self.started] if self.started else own))
        elif at is not None:
            self.given_up = self.status == "running" and self.kind not in BLOCKS
            self.end_wait(at)
            self.end("stopped", at)

    def _of_children(self) -> str:
        found = {child.status for child in self.children}
        fatal = {"fail", "attempt"}
        failed = any(child.status == "failed" and child.facts.get("then") in fatal for child in self.children)
        return "failed" if failed else "stopped" if "stopped" in found else "completed"

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "key": self.key,
            "id": self.id,
            "title": (self.spec.title if self.spec else "") or self.id,
            "kind": self.kind,
            "status": self.status,
            "startedAt": iso(self.started),
            "endedAt": iso(self.ended),
            "ms": milliseconds(self.started, self.ended),
        }
        place = {"branch": self.branch or None, "iteration": self.iteration, "tries": self.tries or None}
        found |= {name: value for name, value in place.items() if value is not None}
        found |= self.facts
        found |= {"waitedFor": self.waits} if self.waits else {}
        found["calls"] = self.calls
        found["children"] = [child.as_json() for child in sorted(self.children, key=lambda one: one.iteration or 0)]
        return found


@dataclass
class _Attempt:
    number: int
    started: datetime
    status: str = "running"
    ended: datetime | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    by_key: dict[str, _Step] = field(default_factory=dict)
    steps: list[_Step] = field(default_factory=list)

    def end(self, status: str, at: datetime, **facts: Any) -> None:
        if self.ended is None:
            self.status, self.ended = status, at
            for step in self.steps:
                step.close(at)
        self.facts |= {name: value for name, value in facts.items() if value is not None}

    def as_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "status": self.status,
            "startedAt": iso(self.started),
            "endedAt": iso(self.ended),
            "ms": milliseconds(self.started, self.ended),
            **self.facts,
            "steps": [step.as_json() for step in self.steps],
        }


# -- Building --------------------------------------------------------------------------------------------------------
class _Builder:
    """Takes a run's events in, one after another."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.attempts: list[_Attempt] = []
        self.notes: list[str] = []
        self.step_count = 0
        self.left = MAX_VALUES if run.save_trace else 0
        self.specs, self.places = _shape(run)
        self.secrets = secrets_in(run.parameters) if run.save_trace else []
        self.tasks = _tasks(run)
        self.children = _children(run)

    @property
    def takes_values(self) -> bool:
        return self.left > 0

    @property
    def is_full(self) -> bool:
        return self.step_count >= MAX_STEPS

    def take(self, event: RunEvent) -> None:
        if event.kind == events.ATTEMPT:
            self._close_last("failed", event.at)
            self.attempts.append(_Attempt(int(event.data.get("number") or len(self.attempts) + 1), event.at))
        elif event.key:
            self._take_step(event)
        else:
            self._take_run(event)

    def _close_last(self, status: str, at: datetime) -> None:
        if self.attempts:
            self.attempts[-1].end(status, at)

    def _take_run(self, event: RunEvent) -> None:
        if not self.attempts:  # cancelled before it began
            return
        attempt, error = self.attempts[-1], self._error(event.data.get("error"))
        if event.kind == events.BACKOFF:
            attempt.end("failed", event.at, error=error, nextAttemptAt=event.data.get("until"))
        elif event.kind == events.COMPLETED:
            attempt.end("completed", event.at)
        elif event.kind == events.ERRORED:
            attempt.end("failed", event.at, error=error)
        elif event.kind == events.CANCELLED:
            attempt.end("cancelled", event.at)

    def _take_step(self, event: RunEvent) -> None:
        if not self.attempts:
            self.attempts.append(_Attempt(1, event.at))
        known = self.attempts[-1].by_key.get(event.key) or self._given_up(event)
        if known is None and self.is_full:
            return
        step = known or self._step(event.key)
        if step.status == "continued" and event.kind in {events.STARTED, events.WAITING}:
            step.started = None
        step.end_wait(event.at)
        self._learn(event.data.get("output"))
        self._values(step, event.trace)
        handler = getattr(self, f"_on_{event.kind}", None)
        if handler is not None:
            handler(step, event)

    def _given_up(self, event: RunEvent) -> _Step | None:
        """The step of an earlier attempt that this is the late end of: its worker told of it when it was over."""
        if event.kind not in {events.ENDED, events.FAILED}:
            return None
        earlier = (attempt.by_key.get(event.key) for attempt in reversed(self.attempts[:-1]))
        step = next((found for found in earlier if found is not None), None)
        return step if step is not None and step.given_up else None

    def _step(self, key: str) -> _Step:
        """The record of a step in the attempt of now, below the block that holds it, which may be of an earlier attempt."""
        attempt = self.attempts[-1]
        if key in attempt.by_key:
            return attempt.by_key[key]
        above, iteration = self._above(key)
        name = key.rpartition("/")[2]
        step = _Step(key, name, self.specs.get(name), self.places.get(name, ("", ""))[1], iteration)
        attempt.by_key[key] = step
        self._go_on_waiting(step)
        self.step_count += 1
        if above is None:
            attempt.steps.append(step)
            return step
        if above not in attempt.by_key:
            self._step(above).status = "continued"
        attempt.by_key[above].children.append(step)
        return step

    def _go_on_waiting(self, step: _Step) -> None:
        """What waited when the attempt before ended goes on waiting in this one: it began then, and so does its wait."""
        before = self.attempts[-2].by_key.get(step.key) if len(self.attempts) > 1 else None
        if before is not None and before.status == "stopped" and before.waits and not before.given_up:
            step.started, step.tries = before.started, before.tries
            step.waits = [*before.waits[:-1], {**before.waits[-1], "endedAt": None}]
            step.facts = {name: before.facts[name] for name in ("inputs", "runId") if name in before.facts}

    def _above(self, key: str) -> tuple[str | None, int | None]:
        """The key of the block around a step, and which of its iterations it stands in: ``each[3]/order`` → each, 3."""
        prefix, slash, name = key.rpartition("/")
        parent = self.places.get(name, ("", ""))[0]
        if slash and prefix.endswith("]"):
            block, _, number = prefix[:-1].rpartition("[")
            if not parent or block.rpartition("/")[2] == parent:
                return block, int(number) if number.isdecimal() else None
        return (f"{prefix}{slash}{parent}", None) if parent else (None, None)

    # One method for each kind of event.
    def _on_started(self, step: _Step, event: RunEvent) -> None:
        step.begin(event.at)
        step.tries = int(event.data.get("try") or step.tries + 1)

    def _on_waiting(self, step: _Step, event: RunEvent) -> None:
        step.begin(event.at)
        step.status = "waiting"
        what = str(event.data.get("for", ""))
        wait = {"what": what, "since": event.at.isoformat(), "until": event.data.get("until"), "endedAt": None}
        if event.data.get("name"):
            wait["name"] = event.data["name"]
        if event.data.get("error"):
            wait["error"] = self._error(event.data["error"])
        step.waits.append(wait)
        if what == "task":
            self._add_task(wait, step.key)
        elif what == "run" and self.children.get(step.key):
            child = self.children[step.key]
            step.facts["runId"] = child.pop(0) if len(child) > 1 else child[0]

    def _add_task(self, wait: dict[str, Any], key: str) -> None:
        found = self.tasks.get(key)
        if not found:
            return
        task = found.pop(0) if len(found) > 1 else found[0]
        wait["taskId"] = task.pk
        if task.answered_by:
            wait["answeredBy"] = task.answered_by
        wait["taskStatus"] = task.status

    def _on_branch(self, step: _Step, event: RunEvent) -> None:
        step.begin(event.at)
        step.facts["chosen"] = str(event.data.get("chosen", ""))
        if not step.facts["chosen"]:
            step.end("completed", event.at)

    def _on_items(self, step: _Step, event: RunEvent) -> None:
        step.begin(event.at)
        items = event.data.get("items")
        step.facts["items"] = len(items) if isinstance(items, list) else 0

    def _on_skipped(self, step: _Step, event: RunEvent) -> None:
        step.end("skipped", event.at)

    def _on_ended(self, step: _Step, event: RunEvent) -> None:
        step.end("completed", event.at)
        if "output" in event.data:
            self._value(step, "output", event.data["output"])

    def _on_failed(self, step: _Step, event: RunEvent) -> None:
        step.end("failed", event.at)
        step.facts |= {"error": self._error(event.data.get("error")), "then": event.data.get("then", "fail")}
        if event.data.get("goto"):
            step.facts["goto"] = event.data["goto"]

    def _on_lost(self, step: _Step, event: RunEvent) -> None:
        then = event.data.get("then", "retry")
        step.facts["lost"] = step.facts.get("lost", 0) + 1
        if then != "retry":
            step.end("failed", event.at)
            step.facts |= {"error": self._error(events.LOST_WORKER.as_json()), "then": then}

    # Values.
    def _learn(self, output: Any) -> None:
        """A step's output may give a secret, a token for instance, which others then show under any name."""
        if self.takes_values and len(self.secrets) < MAX_SECRETS:
            new = [text for text in secrets_in(output) if len(text) >= MIN_SECRET and text not in self.secrets]
            self.secrets += new[: MAX_SECRETS - len(self.secrets)]

    def _values(self, step: _Step, trace: Any) -> None:
        if not isinstance(trace, dict):
            return
        if "inputs" in trace:
            self._value(step, "inputs", trace["inputs"])
        for call in trace.get("calls") or ():
            shown = self._spend(without_secrets(call, self.secrets))
            if shown is not None:
                step.calls.append(shown)

    def _value(self, step: _Step, name: str, value: Any) -> None:
        if not self.takes_values:
            return
        shown, cut = shortened(without_secrets(value, self.secrets))
        shown = self._spend(shown)
        if self.takes_values:
            step.facts[name] = shown
            step.facts |= {f"{name}Cut": True} if cut else {}

    def _spend(self, value: Any) -> Any:
        """The value, while there is room for values; None when there is none."""
        if not self.takes_values:
            return None
        self.left -= len(value) if isinstance(value, str) else len(json.dumps(value, default=str))
        if self.left <= 0:
            self.notes.append(f"Requests, answers and outputs beyond {MAX_VALUES:,} characters are left out.")
            return None
        return value

    def _error(self, error: Any) -> Any:
        if not isinstance(error, dict):
            return None
        return {**error, "details": shortened(without_secrets(error.get("details"), self.secrets))[0]}

    def as_json(self) -> dict[str, Any]:
        run = self.run
        for attempt in self.attempts:
            for step in attempt.steps:
                step.close(None)
        if run.has_ended:
            self._close_last("failed", run.ended_at or self.attempts[-1].started if self.attempts else run.created_at)
        notes = list(self.notes)
        if self.is_full:
            notes.append(f"Only the first {MAX_STEPS:,} steps are told of; this run has {run.events_count:,} events.")
        if not run.save_trace:
            notes.append("This run keeps no requests, answers and outputs (saveTrace is false).")
        return {**head(run), "attempts": [attempt.as_json() for attempt in self.attempts], "notes": notes}


def head(run: Run) -> dict[str, Any]:
    """What there is to say of a run before its attempts."""
    return {
        "id": run.pk,
        "sessionId": run.session_id,
        "module": run.module.name,
        "title": str(run.module),
        "version": run.version.number,
        "status": run.status,
        "surface": run.surface,
        "startedBy": run.started_by,
        "endUser": run.user_id or None,
        "parentRunId": run.parent_id,
        "requestId": run.request_id or None,
        "saveTrace": run.save_trace,
        "attempt": run.attempt,
        "maximumAttempts": run.maximum_attempts,
        "createdAt": iso(run.created_at),
        "startedAt": iso(run.started_at),
        "endedAt": iso(run.ended_at),
        "ms": milliseconds(run.created_at, run.ended_at),
        "error": shortened(without_secrets(run.error))[0],
    }


def _shape(run: Run) -> tuple[dict[str, Step], dict[str, tuple[str, str]]]:
    """Steps by id, and by id the step around each with the name of its block."""
    try:
        definition = Definition.model_validate(run.version.definition)
    except ValidationError:  # of a format that is no longer read: the keys alone tell
        return {}, {}
    specs = dict(definition.by_id)
    places = {
        inner.id: (step.id, name) for step in specs.values() for name, block in step.blocks() for inner in block
    }  # fmt: skip
    return specs, places


def _tasks(run: Run) -> dict[str, list[HumanTask]]:
    found: dict[str, list[HumanTask]] = {}
    for task in run.tasks.only("id", "run_id", "key", "status", "answered_by").order_by("created_at")[:MAX_STEPS]:
        found.setdefault(task.key, []).append(task)
    return found


def _children(run: Run) -> dict[str, list[str]]:
    """Ids of the runs that it started, by step, in order."""
    found: dict[str, list[str]] = {}
    for key, pk in run.children.order_by("created_at").values_list("parent_key", "pk")[:MAX_STEPS]:
        found.setdefault(key, []).append(pk)
    return found


# -- Values ----------------------------------------------------------------------------------------------------------
def without_secrets(value: Any, secrets: Iterable[str] = ()) -> Any:
    """A copy without members that have a secret's name, those inside of a body's text too, and without these values."""
    return _bodies(redact(value, secrets))


def _bodies(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bodies(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_bodies(item) for item in value]
    return redact_json_text(value) if isinstance(value, str) and '"' in value else value


def shortened(value: Any) -> tuple[Any, bool]:
    """A value, or the beginning of its JSON as a text where it is long; and whether it was cut."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return (value, False) if len(text) <= MAX_VALUE else (clip(text, MAX_VALUE), True)


def iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def milliseconds(begin: datetime | None, end: datetime | None) -> int | None:
    return max(0, round((end - begin).total_seconds() * 1000)) if begin and end else None
