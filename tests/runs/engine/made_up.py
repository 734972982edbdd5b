"""Made-up modules, and a made-up world around a run: workers that die, answers in any order, a clock that jumps."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from apps.modules.definition import Definition, Step, walk
from apps.runs.engine import Command, Event, Facts, Machine, Perform, StepError

from .modules import BEGINNING

FINAL = {"completed", "errored", "cancelled"}
MOST_STEPS = 14
ERRORS = [
    StepError("busy", kind="503"),
    StepError("broken", kind="network"),
    StepError("slow", kind="timeout"),
    StepError("odd"),
    StepError("busy", kind="500"),
    StepError("gone", kind="404", final=True),
]
CONDITIONS = [
    True,
    False,
    "{{ start.yes }}",
    "{{ steps.s1.output is defined }}",
    "{{ steps.s2.error | default(true) }}",
]
LISTS = [[], [1], *[[1, 2, 3], [1, 2, 3, 4, 5], "{{ start.items }}"] * 4, "{{ start.yes }}"]
WAITS = ["10s", 0, {"until": "2026-01-01T08:01:00Z"}, {"event": "e"}, {"event": "e", "timeout": "1m"}]
RETRIES = [{"on": ["any"], "delay": 1}, {"maximum_attempts": 2, "on": ["5xx"], "delay": "10s"}]
PERFORMED = {"request", "tool", "code"}


# -- Modules -----------------------------------------------------------------------------------------------------------
def modules() -> st.SearchStrategy[Definition]:
    """By a seed alone: hypothesis itself would mostly make modules of two steps."""
    return st.integers(0, 2**64).map(made_up_module)


def made_up_module(seed: int) -> Definition:
    chance = random.Random(seed)
    maker = Maker(chance, chance.randint(1, MOST_STEPS))
    steps = [maker.step(3)]
    while maker.left:
        steps.append(maker.step(3))
    result, extended = (
        maker.one_of(None, "{{ run.id }}"),
        maker.one_of(None, None, [{"api": "{{ run.id }}"}], "{{ result }}"),
    )
    return Definition.model_validate({"name": "m", "steps": steps, "result": result, "extended_payloads": extended})


class Maker:
    def __init__(self, chance: random.Random, size: int) -> None:
        self.chance, self.size, self.made = chance, size, 0

    @property
    def left(self) -> int:
        return max(self.size - self.made, 0)

    def one_of(self, *choices: Any) -> Any:
        return self.chance.choice(choices)

    def block(self, depth: int) -> list[dict[str, Any]]:
        return [self.step(depth) for _ in range(self.chance.randint(1, 4)) if self.left]

    def step(self, depth: int) -> dict[str, Any]:
        self.made += 1
        number = self.made
        step: dict[str, Any] = {"id": f"s{number}", "when": self.one_of(*[None] * 8, *CONDITIONS)}
        kind = self._kind(depth)
        step.update(self._what(kind, depth))
        on_error = self.one_of("fail", "continue", "goto")
        # Mostly forward, which is allowed then, sometimes anywhere.
        target = (
            self.chance.randint(number + 1, self.size + 1) if self.chance.random() < 0.8 else self.chance.randint(1, 15)
        )
        step["on_error"] = {"goto": f"s{target}"} if on_error == "goto" else on_error
        if kind in ("post", "put", "tool", "code", "run"):
            step["on_lost"] = self.one_of(None, None, None, "retry", "fail", "continue")
            step["retry"] = self.one_of(None, None, *RETRIES)
        return step

    def _kind(self, depth: int) -> str:
        if depth and self.left and self.chance.random() < 0.4:
            return str(self.one_of("condition", "switch", "for_each", "for_each"))
        common = ["post", "put", "tool", "code", "set", "wait", "form", "approve", "run"]
        return str(self.one_of(*common * 6, "fail"))

    def _what(self, kind: str, depth: int) -> dict[str, Any]:
        if kind in ("post", "put"):
            return {"request": {"method": kind, "url": "https://x.example"}}
        if kind in ("tool", "code", "run"):
            return {kind: "some_thing"}
        if kind in ("condition", "switch", "for_each"):
            return self._container(kind, depth)
        asked = {"title": "?", "deadline": self.one_of(None, 60)}
        simple = {
            "set": {"v": self.one_of(*[1] * 9, "{{ run.attempt }}", "{{ nothing }}")},
            "wait": self.one_of(*WAITS),
            "form": {**asked, "fields": [{"name": "x", "label": "x"}]},
            "approve": asked,
            "fail": {"message": "enough"},
        }
        return {kind: simple[kind]}

    def _container(self, kind: str, depth: int) -> dict[str, Any]:
        one, other = self.block(depth - 1), self.block(depth - 1) if self.chance.random() < 0.7 else []
        if kind == "condition":
            return {"condition": self.one_of(*CONDITIONS), "then": one, "else": other}
        if kind == "switch":
            return {"switch": self.one_of(1, 2, 3), "cases": {"1": one}, "default": other}
        return {"for_each": self.one_of(*LISTS), "parallel": self.chance.randint(1, 3), "do": one + other}


# -- The world ---------------------------------------------------------------------------------------------------------
class Watched(Machine):
    """Remembers its state after each of its events."""

    def __init__(self, *args: Any) -> None:
        self.states: list[dict[str, Any]] = []
        super().__init__(*args)

    def apply(self, event: Event) -> None:
        super().apply(event)
        self.states.append(copy.deepcopy(self.as_json()))


class World:
    """Everything around one run. Its log is what a database would hold; each of its moves keeps the promises of the engine."""

    def __init__(self, definition: Definition, seed: int) -> None:
        self.definition = definition
        self.facts = Facts("run-1", {"yes": True, "items": [1, 2]}, None, 1 + seed % 3, safe_tools={"some_thing"})
        self.random = random.Random(seed)
        self.now = BEGINNING
        self.log: list[Event] = []
        self.shadow = Machine(definition, self.facts)
        self.machine = self._worker()
        self.commands: list[Command] = []  # persisted, and not reported yet
        self.reported: list[str] = []

    def _worker(self) -> Watched:
        machine = Watched(self.definition, self.facts, self.random)
        for event in self.log:
            machine.apply(event)
        machine.states.clear()
        return machine

    def persist(self) -> None:
        """What was made goes through JSON into the log; another machine that reads it comes to the same, event by event."""
        for event, state in zip(self.machine.take_events(), self.machine.states, strict=True):
            read = replace(event, data=json.loads(json.dumps(event.data)))
            self.log.append(read)
            self.check_event(read)
            self.shadow.apply(read)
            assert self.shadow.as_json() == state, event
        self.machine.states.clear()
        assert self.shadow.status == self.machine.status
        assert self.shadow.wake_at == self.machine.wake_at
        self.check_bodies()

    def advance(self) -> None:
        commands = self.machine.advance(self.now)
        self.persist()
        self.commands += commands

    def die(self) -> None:
        """The worker is gone with all that it had not persisted; another one takes over."""
        self.machine = self._worker()
        self.commands = [command for command in self.commands if not isinstance(command, Perform)]
        self.machine.lost(self.now)
        assert not self.machine.performing
        self.persist()

    def die_unpersisted(self) -> None:
        self.machine.advance(self.now)
        self.die()

    def report(self) -> None:
        if self.commands:
            self._outcome(self.commands.pop(self.random.randrange(len(self.commands))).key)

    def report_again(self) -> None:
        if self.reported:
            key = self.random.choice(self.reported)
            # A step that was begun again may be reported again; nobody else may.
            if key not in self.machine.performing and key not in self.machine.waiting:
                assert not self.machine.ended(key, "late", self.now)
                self.persist()

    def report_nonsense(self) -> None:
        assert not self.machine.ended("nowhere[3]/s1", 1, self.now)
        assert not self.machine.failed("", StepError("no"), self.now)
        self.persist()

    def answer(self) -> None:
        """Of what waits for somebody: also events, which no command asks for, and what was asked before a worker died."""
        keys = [key for key, waiting in self.machine.waiting.items() if waiting.what in ("task", "event", "run")]
        if keys:
            self._outcome(self.random.choice(keys))

    def _outcome(self, key: str) -> None:
        self.reported.append(key)
        if self.random.random() < 0.15:
            self.machine.failed(key, self.random.choice(ERRORS), self.now)
        else:
            self.machine.ended(key, {"of": key}, self.now)
        self.persist()

    def jump(self) -> None:
        self.now += timedelta(seconds=self.random.choice([-3600, -1, 0.001, 1, 30, 90]))

    def jump_to_alarm(self) -> None:
        if self.machine.wake_at is not None:
            self.now = max(self.now, self.machine.wake_at)

    def time_out(self) -> None:
        if self.random.random() < 0.2:
            self.machine.timed_out(self.now)
            self.persist()

    def cancel(self) -> None:
        if self.random.random() < 0.03:
            self.machine.cancel(self.now)
            self.persist()

    def go_wild(self, moves: int) -> None:
        """Anything in any order, up to so many times."""
        many = [self.advance, self.report, self.report, self.answer, self.jump, self.jump_to_alarm]
        few = [self.die, self.die_unpersisted, self.report_again, self.report_nonsense, self.time_out, self.cancel]
        for _ in range(self.random.randint(0, moves)):
            self.random.choice([*many, *many, *many, *few])()

    def go_on_to_the_end(self) -> None:
        """The world is kind from now on: workers live, everybody answers, time passes."""
        self.die()
        for _ in range(3000):
            self.advance()
            if self.machine.is_over:
                return
            if self.machine.performing or self.machine.waiting:
                self.report()
                self.answer()
            self.commands += [Perform(key, self.definition.steps[0], {}, False, None, 1) for key in self._unheard()]
            self.jump_to_alarm()
        raise AssertionError("it never ends")

    def _unheard(self) -> Iterable[str]:
        known = {command.key for command in self.commands}
        return [key for key in self.machine.performing if key not in known]

    # -- What must hold --------------------------------------------------------------------------------------------------
    def check_event(self, event: Event) -> None:
        """No attempt and no timer comes before its time, and no for_each fails while a body goes on."""
        if event.kind == "attempt" and self.shadow.backoff is not None:
            assert event.at >= self.shadow.backoff
        if event.kind == "ended" and event.key in self.shadow.waiting and self.step(event.key).kind == "wait":
            waiting = self.shadow.waiting[event.key]
            assert waiting.what == "event" or waiting.until is None or event.at >= waiting.until
        if event.kind == "failed" and self.step(event.key).kind == "for_each":
            under_way = [*self.shadow.performing, *self.shadow.waiting]
            assert not [key for key in under_way if key.startswith(f"{event.key}[")]

    def check_bodies(self) -> None:
        """No more bodies of a for_each are under way than it allows."""
        bodies: dict[str, set[str]] = {}
        for key in [*self.machine.performing, *self.machine.waiting]:
            parts = key.split("/")
            for depth in range(1, len(parts)):
                loop, number = "/".join(parts[:depth])[:-1].rsplit("[", 1)
                bodies.setdefault(loop, set()).add(number)
        for loop, numbers in bodies.items():
            assert len(numbers) <= self.step(loop).parallel, loop

    def step(self, key: str) -> Step:
        return self.definition.by_id[key.rsplit("/", 1)[-1]]

    def check_end(self) -> None:
        assert self.machine.is_over
        finals = [number for number, event in enumerate(self.log) if event.kind in FINAL]
        assert len(finals) == 1
        assert all(event.kind in ("ended", "failed") for event in self.log[finals[0] + 1 :])
        assert not self.machine.advance(self.now + timedelta(days=1000))
        assert not self.machine.take_events()
        assert not self.machine.waiting
        assert not self.machine.performing
        if self.machine.status == "completed":
            assert not self.machine.as_json()["heads"]
            assert not self.machine.as_json()["failures"]

    def check_order(self) -> None:
        """Outputs of a for_each stand where their items stood."""
        for event in self.log:
            if event.kind != "ended" or self.step(event.key).kind != "for_each":
                continue
            for number, output in enumerate(event.data["output"]):
                if isinstance(output, dict) and "of" in output:
                    assert output["of"].startswith(f"{event.key}[{number}]/")

    def check_unsafe(self) -> None:
        """What may not be done twice was not, within one attempt, unless its author or its own retry says so."""
        started: set[str] = set()
        for event in self.log:
            if event.kind == "attempt":
                started.clear()
            elif event.kind == "waiting" and event.data["for"] == "retry":
                started.discard(event.key)
            elif event.kind == "started" and not event.data["safe"] and self.step(event.key).on_lost != "retry":
                assert event.key not in started
                started.add(event.key)

    def check_attempts(self) -> None:
        numbers = [event.data["number"] for event in self.log if event.kind == "attempt"]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) <= self.facts.maximum_attempts

    def check_replay(self) -> None:
        at_once = Machine.replay(self.definition, self.facts, self.log)
        assert at_once.as_json() == self.machine.as_json()


def keys_of(definition: Definition) -> list[str]:
    """Keys that there may be, and some that there are not."""
    ids = [step.id for step in walk(definition.steps)]
    return ["", "x", *ids, *[f"{one}[0]/{other}" for one in ids for other in ids]]
