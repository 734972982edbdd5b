"""What fails: tries within an attempt, on_error, attempts, limits."""

from __future__ import annotations

from typing import Any

import pytest

from apps.runs.engine import Event, Machine, StepError, run_in_memory
from apps.runs.engine import machine as engine

from .modules import again, at, begun, end_all, kinds, module, put, request, value

BUSY = StepError("busy", kind="503")


def waits(machine: Machine, key: str = "a") -> float:
    """Seconds that a step waits for its next try."""
    waiting = machine.waiting[key]
    assert waiting.what == "retry"
    assert waiting.until is not None
    return (waiting.until - waiting.since).total_seconds()


# -- retry of a step ---------------------------------------------------------------------------------------------------
def test_a_step_is_tried_again_after_growing_delays() -> None:
    machine = begun(
        request("a", retry={"maximum_attempts": 5, "delay": "2s", "factor": 3, "max_delay": "20s"}, timeout="7s")
    )
    delays, now = [], 0.0
    for _ in range(4):
        machine.failed("a", BUSY, at(now))
        delays.append(waits(machine))
        assert machine.advance(at(now + delays[-1] - 0.1)) == []
        now += delays[-1]
        (command,) = machine.advance(at(now))
        assert (command.key, command.timeout) == ("a", 7)  # type: ignore[union-attr]
    assert (delays, command.number) == ([2, 6, 18, 20], 5)
    assert machine.failed("a", BUSY, at(now))
    machine.advance(at(now))
    assert machine.backoff is not None


@pytest.mark.parametrize(
    ("on", "kind", "tried"),
    [
        (["network"], "network", True),
        (["timeout"], "network", False),
        ([503], "503", True),
        (["5xx"], "503", True),
        (["5xx"], "404", False),
        (["404"], "404", True),
        (["any"], "", True),
        (["5xx", "network"], "", False),
    ],
    ids=str,
)
def test_a_retry_is_for_the_errors_that_it_lists(on: list[Any], kind: str, tried: bool) -> None:
    machine = begun(request("a", retry={"on": on}))
    machine.failed("a", StepError("no", kind=kind, final=True), at(0))
    assert ("a" in machine.waiting) == tried


def test_the_time_that_expressions_see_stays_that_of_the_first_try() -> None:
    step = request("a", request={"headers": {"Idempotency-Key": "{{ now }}"}}, retry={"delay": 5})
    machine = begun(step)
    machine.failed("a", BUSY, at(1))
    (second,) = machine.advance(at(6))
    assert second.inputs["headers"]["Idempotency-Key"].startswith("2026-01-01T08:00:00")  # type: ignore[union-attr]
    other = again(machine, machine.take_events())
    other.lost(at(100))
    (third,) = other.advance(at(100))
    assert third.inputs == second.inputs  # type: ignore[union-attr]


# -- on_error ----------------------------------------------------------------------------------------------------------
def test_a_step_that_continues_has_no_output_and_a_readable_error() -> None:
    step = request("a", on_error="continue")
    shown = {
        "output": "{{ steps.a.output }}",
        "said": "{{ steps.a.error.message }}",
        "kind": "{{ steps.a.error.kind }}",
    }
    machine = run_in_memory(module(step, result=shown), perform=lambda command: BUSY)
    assert machine.result == {"output": None, "said": "busy", "kind": "503"}


def test_an_error_leaves_the_blocks_around_it_until_one_of_them_continues() -> None:
    inner = {"id": "c", "condition": True, "then": [request("a"), value("never")]}
    outer = {"id": "o", "switch": "x", "cases": {"x": [inner]}, "on_error": "continue"}
    history: list[Event] = []
    machine = run_in_memory(
        module(outer, result="{{ steps.o.error.step }}"), perform=lambda command: BUSY, history=history
    )
    assert (machine.status, machine.result, machine.attempt) == ("completed", "a", 1)
    assert [event.data["then"] for event in history if event.kind == "failed"] == ["fail", "fail", "continue"]


# -- attempts ----------------------------------------------------------------------------------------------------------
def test_an_attempt_begins_where_the_one_before_failed() -> None:
    done: list[str] = []

    def perform(command: Any) -> Any:
        done.append(command.key)
        return BUSY if done.count("b") < 3 and command.key == "b" else done.count(command.key)

    machine = run_in_memory(
        module(request("a"), request("b"), result=["{{ steps.a.output }}", "{{ run.attempt }}"]), perform=perform
    )
    assert done == ["a", "b", "b", "b"]
    assert machine.result == [1, 3]


def test_the_last_attempt_ends_the_run_and_lists_them_all() -> None:
    history: list[Event] = []
    machine = run_in_memory(module(request("a")), perform=lambda command: BUSY, history=history)
    assert machine.status == "fatal_errored"
    assert machine.error is not None
    assert (machine.error.type, machine.error.code) == ("execution", "script-execution-exception")
    one = {"message": "busy", "code": "script-execution-exception", "step": "a"}
    assert machine.error.details == {"attempts": [{"number": number, **one} for number in (1, 2, 3)]}
    assert kinds(history) == [
        *["attempt", "started", "failed", "backoff"] * 2,
        "attempt",
        "started",
        "failed",
        "errored",
    ]


def test_the_time_between_attempts_doubles_up_to_a_minute() -> None:
    machine = begun(request("a"), maximum_attempts=12)
    pauses, now = [], 0.0
    for _ in range(11):
        machine.failed("a", BUSY, at(now))
        machine.advance(at(now))
        assert machine.wake_at is not None
        pauses.append((machine.wake_at - at(now)).total_seconds())
        now += pauses[-1]
        assert machine.advance(at(now - 0.01)) == []
        assert len(machine.advance(at(now))) == 1
    assert all(0.75 * 2**n <= pauses[n] <= 1.25 * 2**n for n in range(5))
    assert 45 <= min(pauses[6:]) <= max(pauses) <= 60


def test_a_final_error_ends_the_run_at_once() -> None:
    machine = run_in_memory(module(request("a")), perform=lambda command: StepError("no", final=True, details={"x": 1}))
    assert (machine.status, machine.attempt) == ("fatal_errored", 1)
    assert machine.error is not None
    assert (machine.error.details, machine.error.step) == ({"x": 1}, "a")


def test_a_fail_step_ends_the_run_with_its_words_and_a_code_that_clients_know() -> None:
    fail = {
        "id": "f",
        "fail": {"message": "Not {{ start.x }}", "code": "rejected", "details": {"who": "{{ start.x }}"}},
    }
    machine = run_in_memory(module(fail), {"x": "Ann"})
    assert machine.error is not None
    assert (machine.error.message, machine.error.code) == ("Not Ann", "script-execution-exception")
    assert machine.error.details == {"who": "Ann", "code": "rejected"}
    handled = run_in_memory(module({**fail, "on_error": "continue"}, result="{{ steps.f.error.code }}"), {"x": 1})
    assert handled.result == "rejected"


def test_another_attempt_does_again_only_the_bodies_that_failed_and_those_to_come() -> None:
    done: list[str] = []

    def perform(command: Any) -> Any:
        done.append(command.key)
        return BUSY if command.key == "e[1]/b" and done.count("e[1]/b") == 1 else command.key

    each = {"id": "e", "for_each": [0, 1, 2, 3], "parallel": 2, "do": [request("a"), request("b")]}
    machine = run_in_memory(module(each, result="{{ steps.e.output }}"), perform=perform)
    assert machine.result == [f"e[{number}]/b" for number in range(4)]
    assert sorted(done) == sorted([*[f"e[{n}]/{s}" for n in range(4) for s in "ab"], "e[1]/b"])


def test_answers_are_kept_over_attempts() -> None:
    asked: list[str] = []
    form = {"id": "f", "form": {"title": "?", "fields": [{"name": "x", "label": "x"}]}}
    failing = request("a")
    machine = run_in_memory(
        module(form, failing),
        answer=lambda command: asked.append(command.key) or {"x": 1},  # type: ignore[func-returns-value]
        perform=lambda command: BUSY,
    )
    assert (machine.attempt, asked) == (3, ["f"])


# -- limits ------------------------------------------------------------------------------------------------------------
def test_an_output_that_is_too_large_fails_its_step_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_OUTPUT", 100)
    machine = run_in_memory(module(put("a")), perform=lambda command: "ä" * 60)
    assert (machine.status, machine.attempt) == ("fatal_errored", 1)
    assert run_in_memory(module(put("a")), perform=lambda command: "ä" * 49).status == "completed"


def test_a_result_that_is_too_large_has_its_own_code() -> None:
    machine = run_in_memory(module(put("a"), result="{{ steps.a.output }}"), perform=lambda command: "x" * 2**21)
    assert machine.error is not None
    assert (machine.error.type, machine.error.code, machine.attempt) == ("execution", "result-too-big-error", 1)


def test_a_loop_in_a_loop_that_never_seems_to_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_EVENTS", 1000)
    inner = {"id": "i", "for_each": [0] * 100, "do": [value("v")]}
    machine = run_in_memory(module({"id": "o", "for_each": [0] * 100, "do": [inner]}))
    assert (machine.status, machine.attempt) == ("fatal_errored", 1)
    assert machine.count <= 1001


def test_much_work_without_waiting_is_given_back_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BATCH", 10)
    machine = begun(*[value(f"v{number}") for number in range(30)])
    assert not machine.is_over
    assert machine.wake_at is not None
    assert machine.wake_at < at(0)
    for _ in range(5):
        machine.advance(at(0))
    assert machine.status == "completed"


def test_what_a_step_reports_twice_counts_once() -> None:
    machine = begun(request("a"), request("b"))
    assert machine.ended("a", 1, at(1))
    assert not machine.ended("a", 2, at(1))
    assert not machine.failed("a", BUSY, at(1))
    assert not machine.ended("nowhere", 2, at(1))
    machine.advance(at(1))
    end_all(machine)
    assert machine.status == "completed"
