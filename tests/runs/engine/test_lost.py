"""Workers that die, time that runs out, runs that are cancelled or retried by hand."""

from __future__ import annotations

from typing import Any

import pytest

from apps.runs.engine import Machine, Perform, StepError
from apps.runs.engine.machine import MAX_LOSSES

from .modules import again, at, begun, end_all, kinds, put, request, value

# One body performs, the other one asks.
QUESTIONS = {
    "id": "e",
    "for_each": [1, 2],
    "parallel": 2,
    "do": [put("r", when="{{ item == 1 }}"), {"id": "f", "approve": {"title": "?"}}],
}


def taken_over(machine: Machine, seconds: float = 10) -> tuple[Machine, list[Any]]:
    """Another worker's machine after the first one died, and what it is to do."""
    other = again(machine, machine.take_events())
    other.lost(at(seconds))
    return other, list(other.advance(at(seconds)))


@pytest.mark.parametrize(
    "step",
    [
        put("a"),
        request("a", method="get"),
        request("a", request={"headers": {"idempotency-key": "{{ run.id }}"}}),
        {"id": "a", "tool": "SAFE_TOOL"},
        request("a", on_lost="retry"),
        {"id": "a", "code": "x", "on_lost": "retry"},
    ],
    ids=["put", "get", "idempotency-key", "safe-tool", "on_lost", "code-on_lost"],
)
def test_what_may_be_done_twice_is_done_again_when_its_worker_is_lost(step: dict[str, Any]) -> None:
    machine, commands = taken_over(begun(step, safe_tools={"SAFE_TOOL"}))
    assert [(command.key, command.number) for command in commands] == [("a", 2)]
    assert machine.attempt == 1


@pytest.mark.parametrize(
    "step",
    [
        request("a"),
        {"id": "a", "tool": "OTHER_TOOL"},
        {"id": "a", "code": "x"},
        put("a", on_lost="fail"),
        request("a", request={"headers": {"idempotency-key": "{{ '' }}"}}),
    ],
    ids=["post", "tool", "code", "on_lost", "empty-idempotency-key"],
)
def test_what_may_not_be_done_twice_fails_when_its_worker_is_lost(step: dict[str, Any]) -> None:
    machine, commands = taken_over(begun(step, safe_tools=lambda tool: tool == "SAFE_TOOL"))
    assert commands == []
    assert (machine.status, machine.attempt) == ("fatal_errored", 1)
    assert machine.error is not None
    assert (machine.error.type, machine.error.code) == ("infrastructure", "script-process-crashed")


def test_a_lost_step_may_be_left_behind() -> None:
    machine, _ = taken_over(begun(request("a", on_lost="continue"), result="{{ steps.a.error.code }}"))
    assert machine.result == "script-process-crashed"


def test_the_error_of_a_lost_step_is_one_that_on_error_handles() -> None:
    machine, _ = taken_over(begun(request("a", on_error="continue"), result="{{ steps.a.output }}"))
    assert (machine.status, machine.result) == ("completed", None)


def test_a_step_that_takes_every_worker_along_fails_in_the_end() -> None:
    machine = begun(put("a"), result=1)
    log = machine.take_events()
    for loss in range(MAX_LOSSES):
        assert (machine.status, machine.attempt) == ("running", 1), loss
        machine = again(machine, log)
        machine.lost(at(loss))
        machine.advance(at(loss))
        log += machine.take_events()
    assert machine.status == "fatal_errored"
    assert machine.error is not None
    assert str(MAX_LOSSES) in machine.error.message


def test_a_loss_leaves_alone_what_waits() -> None:
    each = {
        "id": "e",
        "for_each": [1, 2],
        "parallel": 2,
        "do": [put("r", when="{{ item == 1 }}"), {"id": "w", "wait": "1h"}],
    }
    machine, _ = taken_over(begun(each))
    assert (machine.waiting["e[1]/w"].until, list(machine.performing)) == (at(3600), ["e[0]/r"])


def test_an_unsafe_try_after_a_loss_is_the_next_attempts_alone() -> None:
    machine = begun(request("a"), request("b"))
    log = machine.take_events()
    other = again(machine, log)
    other.lost(at(1))
    other.advance(at(1))
    assert kinds(other.take_events(), "a") == ["lost", "failed"]
    assert other.retry(at(2))
    assert [command.key for command in other.advance(at(2))] == ["a"]


# -- time --------------------------------------------------------------------------------------------------------------
def test_an_attempt_that_has_worked_too_long_fails_whatever_on_error_says() -> None:
    step = {"id": "c", "condition": True, "then": [request("a", on_error="continue")], "on_error": "continue"}
    machine = begun(value("v"), step, maximum_attempts=2)
    machine.timed_out(at(600))
    assert (machine.performing, machine.status) == ({}, "running")
    assert machine.error is not None
    assert machine.error.code == "script-timeout"
    assert not machine.ended("a", "late", at(600.5))
    (command,) = machine.advance(at(700))
    assert (command.key, machine.attempt) == ("a", 2)
    machine.timed_out(at(1400))
    assert (machine.status, machine.error and machine.error.code) == ("fatal_errored", "script-timeout")


def test_a_timeout_half_persisted_is_a_timeout_still() -> None:
    step = {"id": "c", "condition": True, "then": [request("a")], "on_error": "continue"}
    machine = begun(step, maximum_attempts=1)
    log = machine.take_events()
    machine.timed_out(at(600))
    failed, errored = machine.take_events()
    other = again(machine, [*log, failed])
    assert (other.status, errored.kind) == ("running", "errored")
    other.advance(at(700))
    assert (other.status, other.error and other.error.code) == ("fatal_errored", "script-timeout")


def test_a_timeout_lets_go_on_what_waits() -> None:
    machine = begun(QUESTIONS)
    machine.timed_out(at(600))
    assert list(machine.waiting) == ["e[1]/f"]
    assert machine.ended("e[1]/f", {"approved": True}, at(600))
    machine.advance(at(700))
    assert list(machine.performing) == ["e[0]/r"]
    assert machine.attempt == 2


# -- the end -----------------------------------------------------------------------------------------------------------
def test_a_cancelled_run_stays_so_and_what_was_under_way_is_known() -> None:
    machine = begun(request("a"), request("b"))
    assert machine.cancel(at(1))
    assert (machine.status, machine.performing, machine.wake_at) == ("cancelled", {}, None)
    machine.take_events()
    assert not machine.ended("a", 5, at(2), trace={"calls": []})
    assert not machine.ended("a", 5, at(2))
    (late,) = machine.take_events()
    assert (late.kind, late.key, late.trace) == ("ended", "a", {"calls": []})
    assert machine.advance(at(3)) == []
    assert not machine.cancel(at(3))
    assert not machine.retry(at(3))
    machine.lost(at(4))
    machine.timed_out(at(4))
    assert (machine.status, machine.take_events()) == ("cancelled", [])


def test_a_run_is_cancelled_before_it_began() -> None:
    machine = again(begun(value("a")), [])
    assert (machine.status, machine.wake_at is not None) == ("created", True)
    assert machine.cancel(at(0))
    assert machine.advance(at(1)) == []


def test_waiting_ends_with_the_run() -> None:
    machine = begun({"id": "f", "approve": {"title": "?"}})
    machine.cancel(at(1))
    assert machine.waiting == {}
    assert not machine.ended("f", {"approved": True}, at(2))
    assert machine.asked("f") is None


def test_a_failed_run_is_retried_by_hand_from_the_step_that_failed() -> None:
    machine = begun(request("a"), request("b"), maximum_attempts=1, result="{{ steps.b.output }}")
    end_all(machine)
    machine.failed("b", StepError("no", final=True), at(2))
    machine.advance(at(2))
    assert machine.status == "fatal_errored"
    assert machine.retry(at(3))
    assert (machine.status, machine.attempt, machine.error) == ("running", 2, None)
    assert not machine.retry(at(3))
    (command,) = machine.advance(at(3))
    assert isinstance(command, Perform)
    assert (command.key, command.number) == ("b", 1)
    end_all(machine, "done")
    assert (machine.status, machine.result) == ("completed", "done")
    assert not machine.retry(at(9))


def test_a_retry_by_hand_asks_again_what_was_open_at_the_end() -> None:
    machine = begun(QUESTIONS, maximum_attempts=1)
    machine.timed_out(at(600))
    assert machine.status == "fatal_errored"
    assert machine.waiting == {}
    machine.retry(at(700))
    assert {command.key for command in machine.advance(at(700))} == {"e[0]/r", "e[1]/f"}
