"""In which order the steps of a definition can run: what is never reached, and what has ended when a step begins.

Pure: no Django. It works on the data as it was read, so that a fault elsewhere hides nothing. Every way leads forward (an
``on_error.goto`` backwards is a fault), so one walk in the order of writing finds for each step which others may have begun
and ended before it, as sets of bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from apps.lib import expressions

from .definition import KINDS, MAX_NESTING
from .format import Place, Report, did_you_mean

OWNER_OF_BLOCK: dict[str | int, str] = {
    "then": "condition", "else": "condition", "cases": "switch", "default": "switch", "do": "for_each",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Written:
    """A step as it was written. ``index`` is its place in the order of writing; ``around`` the step that holds it."""

    raw: dict[str, Any]
    path: Place
    index: int
    depth: int
    around: Written | None

    @property
    def id(self) -> str:
        found = self.raw.get("id")
        return found if isinstance(found, str) else ""

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if self.raw.get(kind) is not None]

    @property
    def kind(self) -> str:
        return next(iter(self.kinds), "")

    @property
    def outer(self) -> list[Written]:
        """The steps that hold it, the innermost first."""
        found, step = [], self.around
        while step is not None:
            found.append(step)
            step = step.around
        return found

    @property
    def loops(self) -> list[Written]:
        """The for_each steps in whose body it stands, the innermost first."""
        return [step for step in self.outer if step.kind == "for_each"]


def blocks_of(raw: dict[str, Any]) -> Iterator[tuple[Place, list[Any]]]:
    """The inner blocks of a step, each with its place in the step."""
    for key in ("then", "else", "do", "default"):
        if isinstance(raw.get(key), list):
            yield (key,), raw[key]
    cases = raw.get("cases")
    if isinstance(cases, dict):
        for value, steps in cases.items():
            if isinstance(steps, list):
                yield ("cases", value), steps


def collect(data: Any, report: Report) -> list[Written]:
    """Every step in the order of writing; what is too deep is reported and left out."""
    found: list[Written] = []

    def enter(steps: Any, path: Place, around: Written | None) -> None:
        depth = around.depth + 1 if around else 1
        if depth > MAX_NESTING and steps:
            report(path, f"Steps stand in one another at most {MAX_NESTING} deep.")
            return
        for index, raw in enumerate(steps if isinstance(steps, list) else []):
            if isinstance(raw, dict):
                step = Written(raw, (*path, index), len(found), depth, around)
                found.append(step)
                for place, inner in blocks_of(raw):
                    enter(inner, (*step.path, *place), step)

    enter(data.get("steps") if isinstance(data, dict) else [], ("steps",), None)
    return found


@dataclass(frozen=True)
class State:
    """What may have happened before: a bit for the index of each step."""

    begun: int = 0
    ended: int = 0

    def __or__(self, other: State) -> State:
        return State(self.begun | other.begun, self.ended | other.ended)


Reached = State | None  # None: never reached


def either(one: Reached, other: Reached) -> Reached:
    return other if one is None else one if other is None else one | other


@dataclass
class Order:
    """``before[i]`` is the state in which step i begins; ``end`` that in which the run ends well."""

    steps: list[Written]
    before: list[Reached] = field(default_factory=list)
    end: Reached = None
    by_id: dict[str, Written] = field(default_factory=dict)
    _at_path: dict[Place, Written] = field(default_factory=dict)
    _jumps: dict[int, Reached] = field(default_factory=dict)  # to come, by the index of the target

    @classmethod
    def of(cls, steps: list[Written], data: Any) -> Order:
        order = cls(steps, [None] * len(steps))
        for step in steps:
            order.by_id.setdefault(step.id, step)
            order._at_path[step.path] = step
        order.end = order._block(data.get("steps") if isinstance(data, dict) else [], ("steps",), State())
        return order

    def _block(self, raws: Any, path: Place, state: Reached) -> Reached:
        for index in range(len(raws) if isinstance(raws, list) else 0):
            step = self._at_path.get((*path, index))
            if step is not None:
                state = self._step(step, state)
        return state

    def _step(self, step: Written, state: Reached) -> Reached:
        state = either(state, self._jumps.pop(step.index, None))
        self.before[step.index] = state
        bit = 1 << step.index
        begun = None if state is None else State(state.begun | bit, state.ended)
        after, within = self._inner(step, begun)
        on_error = step.raw.get("on_error")
        if on_error == "continue":
            after = either(after, either(begun, within))
        target = goto_of(step, self.by_id)
        if target is not None and target.index > step.index:
            self._jumps[target.index] = either(self._jumps.get(target.index), either(begun, within))
        if after is not None:
            after = State(after.begun, after.ended | bit)
        may_be_skipped = step.raw.get("when") not in (None, True)
        return either(after, state) if may_be_skipped else after

    def _inner(self, step: Written, begun: Reached) -> tuple[Reached, Reached]:
        """The state after a step, and one in which something inside of it may have failed."""
        kind, raw = step.kind, step.raw
        if kind == "fail":
            return None, begun
        if kind not in {"condition", "switch", "for_each"}:
            return begun, begun
        after: Reached = None
        chosen = certain(step)
        for place, inner in blocks_of(raw):
            is_taken = chosen is None or place == chosen
            after = either(after, self._block(inner, (*step.path, *place), begun if is_taken else None))
        if passes(step, chosen):
            after = either(after, begun)
        return after, either(begun, after)


def certain(step: Written) -> Place | None:
    """The block that a condition or switch without an expression always takes; ``()`` for none of them; None: who knows."""
    value, raw = step.raw.get(step.kind), step.raw
    if step.kind == "for_each" or not isinstance(value, bool | str | int) or expressions.has_expression(value):
        return None
    if step.kind == "condition":
        return ("then" if value else "else",) if isinstance(value, bool) else None
    case = str(value).lower() if isinstance(value, bool) else str(value)
    cases = raw.get("cases")
    if isinstance(cases, dict) and case in cases:
        return ("cases", case)
    return ("default",) if raw.get("default") else ()


def passes(step: Written, chosen: Place | None) -> bool:
    """Whether a run may go on past a step without entering one of its blocks."""
    raw = step.raw
    if step.kind == "for_each" or chosen == ():
        return True
    if step.kind == "condition":
        missing = [key for key in ("then", "else") if not raw.get(key)]
        return bool(missing) if chosen is None else chosen[0] in missing
    return chosen is None and not raw.get("default")


def goto_of(step: Written, by_id: dict[str, Written]) -> Written | None:
    """The step to which an error of this one leads."""
    on_error = step.raw.get("on_error")
    target = on_error.get("goto") if isinstance(on_error, dict) else None
    return by_id.get(target) if isinstance(target, str) else None


def check_order(order: Order, report: Report) -> None:
    """Reports what is never reached, and jumps that cannot be."""
    for step in order.steps:
        _check_goto(step, order, report)
        if order.before[step.index] is None and _is_first_of_its_kind(step, order):
            report(step.path, "This step is never reached: every way before it ends or leads past it.")


def _is_first_of_its_kind(step: Written, order: Order) -> bool:
    """Whether what comes right before an unreachable step, or around it, is reached: one report a block suffices."""
    position = step.path[-1]
    assert isinstance(position, int)
    around = step.around
    if around is not None and OWNER_OF_BLOCK[step.path[len(around.path)]] != around.kind:
        return False  # that the block does not belong there is told already
    before = order._at_path.get((*step.path[:-1], position - 1)) or around
    return before is None or order.before[before.index] is not None


def _check_goto(step: Written, order: Order, report: Report) -> None:
    on_error = step.raw.get("on_error")
    name = on_error.get("goto") if isinstance(on_error, dict) else None
    if not isinstance(name, str):
        return
    path = (*step.path, "on_error", "goto")
    target = order.by_id.get(name)
    if target is None:
        report(path, f"There is no step {name[:60]}.{did_you_mean(name, order.by_id)}")
    elif target is step:
        report(path, "A step cannot go to itself: use retry.")
    elif target.index < step.index:
        report(path, f"{name} comes earlier: that would be a cycle. Use retry, or for_each.")
    elif target.loops != step.loops:
        report(path, f"{name} is not in the same for_each: an error cannot lead into one, or out of one.")
    elif step in target.outer:
        report(path, f"{name} is inside of this step.")
    elif _in_other_branch(step, target):
        report(path, f"{name} is in a branch that is not taken when this step runs.")


def _in_other_branch(step: Written, target: Written) -> bool:
    """Whether both are inside of one condition or switch, in different branches of it."""
    common = next((outer for outer in step.outer if outer in target.outer), None)
    if common is None:
        return False
    length = len(common.path)
    size = 2 if step.path[length] == "cases" else 1  # cases.S, then
    return step.path[length : length + size] != target.path[length : length + size]
