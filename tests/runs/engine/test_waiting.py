"""What a run waits for: time, events, people, other runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from apps.runs.engine import Ask, Event, RunModule, StepError, run_in_memory

from .modules import BEGINNING, again, at, begun, module, request, value

FORM = {
    "title": "For {{ start.name }}",
    "text": "{{ start.list }}",
    "assignees": ["a@x.example", "{{ start.people }}", "group:buyers, user:7", "a@x.example"],
    "deadline": "2d",
    "remind": "1d",
    "fields": [
        {"name": "size", "label": "Size of {{ start.name }}?", "type": "choice", "options": "{{ start.list }}"},
        {"name": "note", "label": "Note", "default": "{{ start.name }}", "required": True},
    ],
}
START = {"name": "Ann", "list": ["S", "M"], "people": ["b@x.example", "c@x.example"]}


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [("2h", 7200), (1.5, 1.5), ("{{ start.n }}", 90), ("{{ start.n }}s", 90), ({"until": "{{ start.t }}"}, 3600)],
    ids=str,
)
def test_a_wait_lasts_as_long_as_it_says(wait: Any, seconds: float) -> None:
    history: list[Event] = []
    start = {"n": 90, "t": "2026-01-01T10:00:00+01:00"}
    assert run_in_memory(module({"id": "w", "wait": wait}), start, history=history).status == "completed"
    assert history[-1].at - history[0].at == timedelta(seconds=seconds)


@pytest.mark.parametrize("until", ["2020-01-01", "2026-01-01T08:00:00Z", "2025-12-31T23:00:00+02:00"])
def test_a_time_that_has_passed_is_not_waited_for(until: str) -> None:
    machine = begun({"id": "w", "wait": {"until": until}})
    assert machine.status == "completed"


@pytest.mark.parametrize("wait", ["{{ start.x }}", {"until": "{{ start.x }}"}], ids=["duration", "until"])
def test_a_wait_for_no_time_fails(wait: Any) -> None:
    assert run_in_memory(module({"id": "w", "wait": wait}), {"x": "soon"}).status == "fatal_errored"


def test_a_timer_wakes_the_run_and_nothing_does_before() -> None:
    machine = begun({"id": "w", "wait": "5m"})
    assert (machine.wake_at, machine.status) == (at(300), "running")
    machine.advance(at(299))
    machine.advance(at(-5000))
    assert machine.status == "running"
    machine.advance(at(300))
    assert machine.status == "completed"


def test_an_event_brings_its_data() -> None:
    machine = begun(
        {"id": "w", "wait": {"event": "paid-{{ start.n }}"}}, start={"n": 1}, result="{{ steps.w.output.sum }}"
    )
    assert (machine.waiting["w"].what, machine.waiting["w"].name, machine.wake_at) == ("event", "paid-1", None)
    assert machine.ended("w", {"sum": 5}, at(1))
    machine.advance(at(1))
    assert machine.result == 5


def test_an_event_that_does_not_come_in_time_is_a_timeout() -> None:
    wait = {"id": "w", "wait": {"event": "paid", "timeout": "1d"}, "on_error": "continue"}
    machine = run_in_memory(module(wait, result="{{ steps.w.error.kind }}"))
    assert machine.result == "timeout"


# -- people ------------------------------------------------------------------------------------------------------------
def test_a_form_asks_with_everything_filled_in() -> None:
    asked: list[Ask] = []
    machine = run_in_memory(
        module({"id": "f", "form": FORM}, result="{{ steps.f.output.note }}"),
        START,
        answer=lambda command: asked.append(command) or {"note": "fine"},  # type: ignore[func-returns-value]
    )
    assert machine.result == "fine"
    (command,) = asked
    assert (command.spec["title"], command.spec["text"]) == ("For Ann", '["S", "M"]')
    size, note = command.spec["pages"][0]["fields"]
    assert (size["label"], size["options"], note["default"], note["required"]) == (
        "Size of Ann?",
        ["S", "M"],
        "Ann",
        True,
    )
    assert command.assignees == ["a@x.example", "b@x.example", "c@x.example", "group:buyers", "user:7"]
    assert (command.deadline, command.remind_seconds) == (BEGINNING + timedelta(days=2), 86400)


@pytest.mark.parametrize(
    ("given", "people"),
    [(None, []), ("", []), ("a@x, b@x", ["a@x", "b@x"]), ("{{ start.people }}", START["people"]), ([], [])],
    ids=str,
)
def test_assignees_become_a_list_of_texts(given: Any, people: list[str]) -> None:
    machine = begun({"id": "ok", "approve": {"title": "?", "assignees": given}}, start=START)
    command = machine.asked("ok")
    assert isinstance(command, Ask)
    assert command.assignees == people


@pytest.mark.parametrize(
    "given", ["{{ start.none }}", ["{{ start.none }}"], "{{ start.empty }}", ["{{ start.blank }}", " , "]], ids=str
)
@pytest.mark.parametrize("kind", ["approve", "form"])
def test_what_is_for_somebody_whom_no_expression_names_is_not_for_everybody(kind: str, given: Any) -> None:
    asked = {"title": "?", "assignees": given} | ({"fields": [{"name": "x", "label": "x"}]} if kind == "form" else {})
    start: dict[str, Any] = {"none": None, "empty": [], "blank": ""}
    run = run_in_memory(module({"id": "ok", kind: asked}), start)
    assert run.status == "fatal_errored"
    assert run.error is not None
    assert "assignees" in str(run.error)


def test_options_that_are_no_list_fail_the_form() -> None:
    form = {"title": "?", "fields": [{"name": "x", "label": "x", "type": "choice", "options": "{{ start.x }}"}]}
    assert run_in_memory(module({"id": "f", "form": form}), {"x": 3}).status == "fatal_errored"


def test_a_run_waits_for_input_only_while_nothing_else_goes_on() -> None:
    each = {"id": "e", "for_each": [1, 2], "parallel": 2, "do": [
        request("r", when="{{ item == 1 }}"), {"id": "ok", "approve": {"title": "?"}},
    ]}  # fmt: skip
    machine = begun(each)
    assert (set(machine.waiting), machine.status) == ({"e[1]/ok"}, "running")
    machine.ended("e[0]/r", None, at(1))
    assert machine.status == "running"
    machine.advance(at(1))
    assert (set(machine.waiting), machine.status) == ({"e[0]/ok", "e[1]/ok"}, "waiting_for_input")
    machine.ended("e[0]/ok", {"approved": True}, at(2))
    machine.ended("e[1]/ok", {"approved": True}, at(2))
    machine.advance(at(2))
    assert machine.status == "completed"


def test_a_deadline_wakes_the_run_and_is_its_askers_to_settle() -> None:
    machine = begun({"id": "ok", "approve": {"title": "?", "deadline": "1h"}}, result="{{ steps.ok.output.approved }}")
    assert machine.wake_at == at(3600)
    assert machine.advance(at(4000)) == []
    assert machine.status == "waiting_for_input"
    assert machine.ended("ok", {"approved": False, "by": None, "reason": ""}, at(4000))
    machine.advance(at(4000))
    assert machine.result is False


def test_whoever_takes_a_run_over_can_ask_again_what_was_asked() -> None:
    machine = begun({"id": "f", "form": FORM}, start=START)
    other = again(machine, machine.take_events())
    assert other.asked("f") == machine.asked("f")
    command = other.asked("f")
    assert isinstance(command, Ask)
    assert command.deadline == BEGINNING + timedelta(days=2)
    assert other.asked("nothing") is None


def test_nobody_answering_leaves_a_run_in_memory_waiting() -> None:
    machine = run_in_memory(module({"id": "ok", "approve": {"title": "?"}}), answer=lambda command: None)
    assert machine.status == "waiting_for_input"


@pytest.mark.parametrize(
    ("then", "status"), [("approve", "completed"), ("reject", "completed"), ("fail", "fatal_errored")]
)
def test_a_deadline_in_memory_has_its_default_outcome(then: str, status: str) -> None:
    step = {"id": "ok", "approve": {"title": "?", "deadline": "1h", "on_deadline": then}}
    machine = run_in_memory(
        module(step, result="{{ steps.ok.output.approved }}"), answer=lambda command: None, maximum_attempts=1
    )
    assert (machine.status, machine.result) == (status, then == "approve" if status == "completed" else None)


# -- other runs --------------------------------------------------------------------------------------------------------
def test_another_module_is_run_with_its_parameters_and_gives_its_result() -> None:
    seen: list[RunModule] = []
    step = {"id": "sub", "run": "other/module", "with": {"n": "{{ start.n }}"}}
    machine = run_in_memory(
        module(step, result="{{ steps.sub.output }}"),
        {"n": 4},
        child=lambda command: seen.append(command) or command.parameters["n"] * 2,  # type: ignore[func-returns-value]
    )
    assert (machine.result, seen[0].module, seen[0].attempt, seen[0].number) == (8, "other/module", 1, 1)


def test_another_attempt_runs_the_other_module_once_more_and_says_so() -> None:
    seen: list[RunModule] = []

    def child(command: RunModule) -> Any:
        seen.append(command)
        return StepError("no") if len(seen) == 1 else "yes"

    machine = run_in_memory(module({"id": "sub", "run": "other"}, result="{{ steps.sub.output }}"), child=child)
    assert (machine.result, [command.attempt for command in seen]) == ("yes", [1, 2])


def test_parameters_that_are_no_object_fail_the_step() -> None:
    step = {"id": "sub", "run": "other", "with": "{{ start.x }}"}
    assert run_in_memory(module(step), {"x": [1]}).status == "fatal_errored"
    assert run_in_memory(module(step), {"x": {"a": 1}}, child=lambda command: None).status == "completed"


def test_a_timer_beside_a_question_is_no_answer_to_it() -> None:
    each = {"id": "e", "for_each": [1, 2], "parallel": 2, "do": [
        {"id": "w", "wait": "1h", "when": "{{ item == 1 }}"}, {"id": "f", "form": FORM}, value("v"),
    ]}  # fmt: skip
    machine = begun(each, start=START)
    assert (machine.status, machine.wake_at) == ("waiting_for_input", at(3600))
    assert not machine.ended("e[0]/w", "early", at(1))
