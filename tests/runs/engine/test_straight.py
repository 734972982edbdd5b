"""Steps one after another, what fails, and what waits."""

from __future__ import annotations

from typing import Any

from apps.runs.engine import Event, Machine, Perform, StepError, run_in_memory

from .modules import module, request


def test_one_step_runs_after_another_and_the_result_is_made_of_their_outputs() -> None:
    done: list[str] = []

    def perform(command: Perform) -> Any:
        done.append(command.inputs["url"])
        return {"status": 200, "n": len(done)}

    machine = run_in_memory(
        module(
            request("a"),
            request("b", "https://x.example/{{ steps.a.output.n }}"),
            result={"n": "{{ steps.b.output.n }}"},
        ),
        perform=perform,
    )
    assert (machine.status, machine.result) == ("completed", {"n": 2})
    assert done == ["https://x.example/a", "https://x.example/1"]


def test_an_error_that_another_attempt_may_mend_is_tried_three_times() -> None:
    history: list[Event] = []
    machine = run_in_memory(module(request("a")), perform=lambda command: StepError("no", kind="503"), history=history)
    assert machine.status == "fatal_errored"
    assert machine.error is not None
    assert [attempt["number"] for attempt in machine.error.details["attempts"]] == [1, 2, 3]
    assert [event.kind for event in history].count("errored") == 1


def test_a_wait_lets_the_clock_jump() -> None:
    history: list[Event] = []
    machine = run_in_memory(module({"id": "w", "wait": "2h"}), history=history)
    assert isinstance(machine, Machine)
    assert (history[-1].at - history[0].at).total_seconds() == 7200
