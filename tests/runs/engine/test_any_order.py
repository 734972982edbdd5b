"""Whatever happens in whatever order, a run ends once, and its events tell the same to everybody."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.modules.definition import Definition
from apps.runs.engine import Event, Facts, Machine
from apps.runs.engine.state import _OF_RUN, _OF_STEP

from .made_up import World, keys_of, modules
from .modules import BEGINNING

QUIET = settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)  # fmt: skip
SEEDS = st.integers(0, 2**64)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "then", "fail", "goto", "retry", "s1", "2026-01-01"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["message", "final", "step", "x"]), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
DATA = st.dictionaries(
    st.sampled_from([
        "number", "until", "error", "result", "try", "safe", "for", "name", "chosen", "items", "output", "then", "goto",
    ]),
    JUNK,
)  # fmt: skip


@given(definition=modules(), seed=SEEDS)
@QUIET
def test_every_run_ends_once_and_every_beginning_of_its_events_gives_the_same_state(
    definition: Definition, seed: int
) -> None:
    world = World(definition, seed)
    world.go_wild(150)  # each persisted event is compared with what another machine makes of it
    world.go_on_to_the_end()
    world.check_end()
    world.check_order()
    world.check_unsafe()
    world.check_attempts()
    world.check_replay()


@given(definition=modules(), seed=SEEDS, part=st.floats(0, 1))
@QUIET
def test_a_run_ends_from_whatever_was_persisted_of_it(definition: Definition, seed: int, part: float) -> None:
    before = World(definition, seed)
    before.go_wild(150)
    world = World(definition, seed + 1)
    world.facts = world.shadow.facts = before.facts
    world.log = before.log[: int(part * len(before.log))]
    for event in world.log:
        world.shadow.apply(event)
    world.go_on_to_the_end()
    world.check_end()
    world.check_replay()


@given(definition=modules(), seed=SEEDS)
@QUIET
def test_a_run_that_failed_can_be_retried_by_hand_until_it_ends_well_or_badly(
    definition: Definition, seed: int
) -> None:
    world = World(definition, seed)
    world.go_wild(150)
    world.go_on_to_the_end()
    for times in range(1, 4):
        failed = world.machine.status == "fatal_errored"
        assert world.machine.retry(world.now) == failed
        world.persist()
        if not failed:
            break
        world.commands.clear()
        world.go_on_to_the_end()
        assert len([event for event in world.log if event.kind in ("completed", "errored")]) == times + 1
    world.check_replay()


@given(definition=modules(), data=st.data())
@QUIET
def test_no_event_in_any_state_is_too_odd_to_be_taken_in(definition: Definition, data: st.DataObject) -> None:
    kinds = st.sampled_from([*_OF_RUN, *_OF_STEP, *_OF_STEP, *_OF_STEP, "unheard of"])
    likely = st.sampled_from(keys_of(definition))
    machine = Machine(definition, Facts("r", {}))
    for _ in range(data.draw(st.integers(1, 25))):
        heads = sorted(machine.as_json()["heads"])
        key = data.draw(likely | st.sampled_from(heads) if heads else likely)
        machine.apply(Event(data.draw(kinds), BEGINNING, key, _data(data)))
        machine.as_json()
        _ = machine.status, machine.wake_at


def _data(data: st.DataObject) -> dict[str, Any]:
    return data.draw(DATA)


@given(definition=modules(), seed=SEEDS)
@QUIET
def test_an_event_that_comes_twice_or_late_never_ends_a_run_twice(definition: Definition, seed: int) -> None:
    world = World(definition, seed)
    world.go_wild(150)
    machine = Machine.replay(definition, world.facts, [event for event in world.log for _ in range(2)])
    for _ in range(500):
        machine.advance(world.now)
        for key in [*machine.performing, *machine.waiting]:
            machine.ended(key, None, world.now)
        world.now += timedelta(minutes=2)
    assert machine.is_over
    assert len([event for event in machine.take_events() if event.kind in ("completed", "errored", "cancelled")]) <= 1
