"""The state of a run: the fold of its events.

A run is a tree of open *blocks*, each with the one step where it stands; the *node* of that step is there from the step's first
event until it ended. What has ended is forgotten but for what expressions may read, so that the state stays small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from apps.modules.definition import Definition, Step

from . import events
from .commands import Facts, Waiting
from .events import Event, StepError
from .plain import time_in

PERFORMED_KINDS = frozenset({"tool", "request", "code"})
FINAL = {events.COMPLETED: "completed", events.ERRORED: "fatal_errored", events.CANCELLED: "cancelled"}


@dataclass(eq=False, slots=True)
class Scope:
    """What expressions see: the steps that ended in the run, or in one body of a for_each, and the names given by ``as``.

    ``goto`` is the step that a goto is on its way to: all before it is skipped.
    """

    steps: dict[str, Any]
    names: dict[str, Any]
    goto: str = ""


@dataclass(eq=False, slots=True)
class Block:
    """Steps that run one after another: the module's, a branch's, or one body (``index``) of a for_each."""

    steps: list[Step]
    scope: Scope
    prefix: str = ""
    owner: Node | None = None
    index: int = 0
    at: int = 0
    node: Node | None = None
    last: Any = None  # the output of the step before

    @property
    def step(self) -> Step | None:
        return self.steps[self.at] if self.at < len(self.steps) else None

    @property
    def key(self) -> str:
        return self.prefix + self.steps[self.at].id


@dataclass(eq=False, slots=True)
class Node:
    """A step that has begun and not ended: performing, waiting, again (to be done again), lost (to fail), open, failed.

    One that holds others has inner ``blocks`` by number: a branch is one, a for_each has as many as it has items, at most
    ``parallel`` of them here at a time.
    """

    key: str
    step: Step
    block: Block
    state: str
    safe: bool = False
    tries: int = 0
    failures: int = 0  # tries of this attempt that a retry followed
    losses: int = 0
    error: StepError | None = None
    chosen: str = ""
    opened: bool = False
    items: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    blocks: dict[int, Block] = field(default_factory=dict)
    failed: list[int] = field(default_factory=list)  # numbers of the inner blocks that failed, the first to fail first
    next: int = 0
    ended: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether no inner block goes on or is still to come."""
        return len(self.blocks) == len(self.failed) if self.failed else self.ended == len(self.items)


class State:
    """What `apply` makes of events. Nothing else changes it, so that a replay gives the same."""

    def __init__(self, definition: Definition, facts: Facts) -> None:
        self.definition = definition
        self.facts = facts
        self.attempt = 0
        self.result: Any = None
        self.extended: list[dict[str, Any]] = []  # payloads that the run adds to its job run: {api, parameters}
        self.error: StepError | None = None  # of the run, or of the attempt that another follows
        self.waiting: dict[str, Waiting] = {}
        self.performing: dict[str, int] = {}
        self.count = 0  # of events
        self.backoff: datetime | None = None
        self.failing: StepError | None = None  # the attempt is to fail with it, whatever on_error says
        self.attempts: list[dict[str, Any]] = []  # those that failed
        self.given_up: set[str] = set()  # keys that were being performed when the run ended
        self._over = ""
        self._first: dict[str, datetime] = {}  # by key, when a step began first: kept over tries and attempts
        self._heads: dict[str, Block] = {}  # by key of the step where it stands, every open block
        self._failures: dict[str, Node] = {}  # nodes that failed, which the next attempt does again
        self._todo: dict[Block, None] = {}  # blocks where something can be decided without anybody, in order
        self._root = Block(definition.steps, Scope({}, {}))
        self._enter(self._root)

    # -- Looking -----------------------------------------------------------------------------------------------------
    @property
    def is_over(self) -> bool:
        return bool(self._over)

    @property
    def status(self) -> str:
        """created | running | waiting_for_input | completed | fatal_errored | cancelled"""
        if self._over or not self.count:
            return self._over or "created"
        if self.backoff or self.failing or self.performing or self._todo:
            return "running"
        asks = any(waiting.what == "task" for waiting in self.waiting.values())
        return "waiting_for_input" if asks else "running"

    def as_json(self) -> dict[str, Any]:
        """All of the state, for comparing."""
        return {
            "status": self.status, "attempt": self.attempt, "result": self.result, "error": self.error,
            "extended": self.extended,
            "waiting": dict(self.waiting), "performing": dict(self.performing), "count": self.count,
            "backoff": self.backoff, "failing": self.failing, "attempts": list(self.attempts),
            "given_up": set(self.given_up), "first": dict(self._first), "heads": set(self._heads),
            "failures": set(self._failures), "todo": [block.prefix + str(block.at) for block in self._todo],
            "root": _block_as_json(self._root),
        }  # fmt: skip

    # -- Taking in ---------------------------------------------------------------------------------------------------
    def apply(self, event: Event) -> None:
        """Takes in one event: total (any event in any state), deterministic, without looking at a clock or an expression."""
        self.count += 1
        if self._over:
            self._apply_late(event)
        elif event.kind in _OF_RUN:
            _OF_RUN[event.kind](self, event)
        elif event.kind in _OF_STEP and (block := self._heads.get(event.key)) is not None:
            self._apply_to_step(event, block)

    def _apply_late(self, event: Event) -> None:
        if event.kind == events.ATTEMPT and self._over == "fatal_errored":
            self._over = ""
            self.given_up.clear()
            self._on_attempt(event)
        elif event.kind in (events.ENDED, events.FAILED):
            self.given_up.discard(event.key)

    def _apply_to_step(self, event: Event, block: Block) -> None:
        step = block.step
        if step is None or (block.node is not None and block.node.state == "failed"):
            return
        if block.scope.goto == step.id:
            block.scope.goto = ""
        _OF_STEP[event.kind](self, event, block, step)

    # -- Of the run --------------------------------------------------------------------------------------------------
    def _on_attempt(self, event: Event) -> None:
        number = event.data.get("number")
        self.attempt = number if isinstance(number, int) else self.attempt + 1
        self.error = self.backoff = self.failing = None
        again = list(self._failures.values())
        self._failures.clear()
        for node in again:
            self._do_again(node)
        for node in again:
            for container in (node, node.block.owner):
                if container is not None:
                    self._open_more(container)

    def _do_again(self, node: Node) -> None:
        """One that failed stands again where it stood: a container with what ended in it, another one at its beginning."""
        if node.opened:
            node.state, node.error = "open", None
        else:
            node.block.node = None
        owner = node.block.owner
        if owner is not None and node.block.index in owner.failed:
            owner.failed.remove(node.block.index)
            self._mark(owner.block)
        self._mark(node.block)

    def _on_backoff(self, event: Event) -> None:
        self.error = StepError.of(event.data.get("error"))
        self.backoff = time_in(event.data.get("until")) or event.at
        self.failing = None
        self._note_attempt(self.error)

    def _on_final(self, event: Event) -> None:
        self._over = FINAL[event.kind]
        self.backoff = self.failing = None
        self.result = event.data.get("result")
        extended = event.data.get("extended")
        self.extended = extended if isinstance(extended, list) else []
        self.given_up = set(self.performing)
        if event.kind == events.ERRORED:
            self.error = StepError.of(event.data.get("error"))
            self._note_attempt(self.error)
        for key in [*self.waiting, *self.performing]:
            self._stop(self._heads[key])

    def _note_attempt(self, error: StepError) -> None:
        self.attempts.append({
            "number": self.attempt, "message": error.message, "code": error.code, "step": error.step,
        })  # fmt: skip

    def _stop(self, block: Block) -> None:
        """What waits or is performed at the end stands at its beginning again, should somebody retry the run."""
        self.waiting.pop(block.key, None)
        self.performing.pop(block.key, None)
        block.node = None
        self._mark(block)

    # -- Of a step ---------------------------------------------------------------------------------------------------
    def _on_skipped(self, event: Event, block: Block, step: Step) -> None:
        if block.node is None:
            _name_skipped(block.scope, [step])
            self._go_on(block, block.scope.steps[step.id], None)

    def _on_started(self, event: Event, block: Block, step: Step) -> None:
        if step.kind not in PERFORMED_KINDS:
            return
        node = self._node(block, step, "performing")
        number = event.data.get("try")
        node.tries = number if isinstance(number, int) else node.tries + 1
        node.safe = event.data.get("safe") is True
        self.waiting.pop(node.key, None)
        self.performing[node.key] = node.tries
        self._first.setdefault(node.key, event.at)
        self._mark(block)

    def _on_waiting(self, event: Event, block: Block, step: Step) -> None:
        if block.node is not None and block.node.opened:
            return
        node = self._node(block, step, "waiting")
        what, number = str(event.data.get("for", "")), event.data.get("try")
        node.tries = number if isinstance(number, int) else node.tries
        node.failures += what == "retry"
        self.performing.pop(node.key, None)
        self.waiting[node.key] = Waiting(
            node.key, what, event.at, time_in(event.data.get("until")), str(event.data.get("name", "")), node.tries
        )
        self._first.setdefault(node.key, event.at)
        self._mark(block)

    def _on_branch(self, event: Event, block: Block, step: Step) -> None:
        if block.node is not None or step.kind not in ("condition", "switch"):
            return
        node = self._node(block, step, "open")
        node.chosen = str(event.data.get("chosen", ""))
        chosen: list[Step] = []
        for name, steps in step.blocks():
            if name == node.chosen and name != "do":
                chosen = steps
            elif name != "do":
                _name_skipped(block.scope, steps)
        self._open(node, [None] if chosen else [], chosen)

    def _on_items(self, event: Event, block: Block, step: Step) -> None:
        items = event.data.get("items")
        if block.node is None and step.kind == "for_each" and isinstance(items, list):
            self._open(self._node(block, step, "open"), items, step.do)

    def _on_ended(self, event: Event, block: Block, step: Step) -> None:
        output = event.data.get("output")
        self._go_on(block, {"output": output, "error": None, "status": "ended"}, output)

    def _on_failed(self, event: Event, block: Block, step: Step) -> None:
        error, then = StepError.of(event.data.get("error")), event.data.get("then")
        if then not in ("continue", "goto"):
            self._fail(block, step, error)
            if then == "attempt":
                self.failing = error
            return
        if then == "goto":
            block.scope.goto = str(event.data.get("goto", ""))
        self._go_on(block, _failed(error), None)

    def _on_lost(self, event: Event, block: Block, step: Step) -> None:
        node = block.node
        if node is None or node.state != "performing":
            return
        then = event.data.get("then")
        node.losses += 1
        if then == "continue":
            self._go_on(block, _failed(events.LOST_WORKER), None)
            return
        node.state = "again" if then == "retry" else "lost"
        self.performing.pop(node.key, None)
        self._mark(block)

    # -- Moving ------------------------------------------------------------------------------------------------------
    def _node(self, block: Block, step: Step, state: str) -> Node:
        if block.node is None:
            block.node = Node(block.key, step, block, state)
        block.node.state = state
        return block.node

    def _fail(self, block: Block, step: Step, error: StepError) -> None:
        node = self._node(block, step, "failed")
        node.error = error
        self.waiting.pop(node.key, None)
        self.performing.pop(node.key, None)
        self._failures[node.key] = node
        if block.owner is not None:
            block.owner.failed.append(block.index)
            self._mark(block.owner.block)
        self._mark(block)

    def _go_on(self, block: Block, named: dict[str, Any], output: Any) -> None:
        """The block's step is over: the next one comes, or the block is at its end."""
        step_id = block.steps[block.at].id
        self._leave(block)
        block.scope.steps[step_id] = named
        block.last = output
        block.at += 1
        self._enter(block)

    def _enter(self, block: Block) -> None:
        if block.step is not None:
            self._heads[block.key] = block
        elif block.owner is not None:
            self._close(block, block.owner)
            return
        self._mark(block)

    def _leave(self, block: Block) -> None:
        """Forgets the step where the block stands, and all inside of it."""
        key = block.key
        for memory in (self._heads, self.waiting, self.performing, self._first, self._failures):
            memory.pop(key, None)
        node, block.node = block.node, None
        for inner in list(node.blocks.values()) if node is not None else []:
            self._leave(inner)
            self._todo.pop(inner, None)

    def _open(self, node: Node, items: list[Any], steps: list[Step]) -> None:
        node.opened, node.items, node.outputs = True, items, [None] * len(items)
        if steps:
            self._open_more(node)
        else:
            node.ended = len(items)
        self._mark(node.block)

    def _open_more(self, node: Node) -> None:
        """Lets inner blocks begin, as many as may at once; none after one that failed."""
        while node.opened and not node.failed and node.next < len(node.items) and len(node.blocks) < node.step.parallel:
            block = self._inner(node, node.next)
            node.blocks[node.next] = block
            node.next += 1
            self._enter(block)

    def _inner(self, node: Node, number: int) -> Block:
        around = node.block
        if node.step.kind != "for_each":
            return Block(dict(node.step.blocks())[node.chosen], around.scope, around.prefix, node)
        names = {**around.scope.names, node.step.as_ or "item": node.items[number]}
        # Nothing around it ends while a body runs, so that a copy shows the same.
        scope = Scope(dict(around.scope.steps), names)
        return Block(node.step.do, scope, f"{node.key}[{number}]/", node, number)

    def _close(self, block: Block, owner: Node) -> None:
        del owner.blocks[block.index]
        self._todo.pop(block, None)
        owner.outputs[block.index] = block.last
        owner.ended += 1
        self._open_more(owner)
        self._mark(owner.block)

    def _mark(self, block: Block) -> None:
        if self._has_work(block):
            self._todo[block] = None
        else:
            self._todo.pop(block, None)

    def _has_work(self, block: Block) -> bool:
        node = block.node
        if node is None or node.state in ("again", "lost"):
            return True
        if node.state == "open":
            return node.is_settled
        return node.state == "failed" and block.owner is None


def _failed(error: StepError) -> dict[str, Any]:
    return {"output": None, "error": error.as_json(), "status": "failed"}


def _name_skipped(scope: Scope, steps: list[Step]) -> None:
    """So that an expression may ask whether a step that was not taken is defined."""
    for step in steps:
        scope.steps[step.id] = {"status": "skipped"}
        for name, inner in step.blocks():
            if name != "do":
                _name_skipped(scope, inner)


def _block_as_json(block: Block) -> dict[str, Any]:
    return {
        "at": block.at, "last": block.last, "steps": block.scope.steps, "names": block.scope.names,
        "goto": block.scope.goto, "node": None if block.node is None else _node_as_json(block.node),
    }  # fmt: skip


def _node_as_json(node: Node) -> dict[str, Any]:
    shown = {name: getattr(node, name) for name in _SHOWN}
    return {**shown, "blocks": {number: _block_as_json(block) for number, block in node.blocks.items()}}


_SHOWN = (
    "key", "state", "safe", "tries", "failures", "losses", "error", "chosen", "opened", "items", "outputs", "failed", "next",
    "ended",
)  # fmt: skip
_OF_RUN: dict[str, Callable[[Any, Event], None]] = {
    events.ATTEMPT: State._on_attempt,
    events.BACKOFF: State._on_backoff,
    events.COMPLETED: State._on_final,
    events.ERRORED: State._on_final,
    events.CANCELLED: State._on_final,
}
_OF_STEP: dict[str, Callable[[Any, Event, Block, Step], None]] = {
    events.SKIPPED: State._on_skipped,
    events.STARTED: State._on_started,
    events.WAITING: State._on_waiting,
    events.BRANCH: State._on_branch,
    events.ITEMS: State._on_items,
    events.ENDED: State._on_ended,
    events.FAILED: State._on_failed,
    events.LOST: State._on_lost,
}
