"""Which step comes next."""

from __future__ import annotations

from typing import Any

import pytest

from apps.runs.engine import Event, Perform, StepError, run_in_memory

from .modules import BEGINNING, begun, end_all, kinds, module, request, value

BRANCH = {"id": "branch", "condition": "{{ start.yes }}", "then": [value("yes", "then")], "else": [value("no", "else")]}


def test_one_step_runs_after_another_and_the_result_is_made_of_their_outputs() -> None:
    done: list[str] = []

    def perform(command: Perform) -> Any:
        done.append(command.inputs["url"])
        return {"status": 200, "n": len(done)}

    second = request("b", "https://x.example/{{ steps.a.output.n }}")
    machine = run_in_memory(module(request("a"), second, result={"n": "{{ steps.b.output.n }}"}), perform=perform)
    assert (machine.status, machine.result) == ("completed", {"n": 2})
    assert done == ["https://x.example/a", "https://x.example/1"]


def test_a_module_without_a_result_gives_null() -> None:
    assert run_in_memory(module(value("a"))).result is None


def test_a_step_whose_when_is_not_true_is_skipped() -> None:
    history: list[Event] = []
    machine = run_in_memory(
        module(value("a", when="{{ start.n > 1 }}"), value("b"), result="{{ steps.a.output | default('none') }}"),
        {"n": 1},
        history=history,
    )
    assert machine.result == "none"
    assert kinds(history, "a") == ["skipped"]


def test_the_output_of_a_skipped_step_is_an_error_unless_it_is_asked_for_with_care() -> None:
    steps = [value("a", when=False), value("b", "{{ steps.a.output }}")]
    assert run_in_memory(module(*steps)).status == "fatal_errored"
    guarded = value("b", "{{ steps.a.output is defined }}")
    assert run_in_memory(module(steps[0], guarded, result="{{ steps.b.output.v }}")).result is False


@pytest.mark.parametrize(("yes", "chosen", "other"), [(True, "yes", "no"), (False, "no", "yes")])
def test_a_condition_takes_one_branch_and_the_other_counts_as_skipped(yes: bool, chosen: str, other: str) -> None:
    result = {"chosen": "{{ steps.branch.output.chosen }}", "other": f"{{{{ steps.{other}.output is defined }}}}"}
    machine = run_in_memory(
        module(BRANCH, value("z", f"{{{{ steps.{chosen}.output.v }}}}"), result=result), {"yes": yes}
    )
    assert machine.result == {"chosen": "then" if yes else "else", "other": False}


def test_a_false_condition_without_else_goes_on_behind_it() -> None:
    condition = {"id": "c", "condition": False, "then": [value("a")]}
    assert run_in_memory(module(condition, result="{{ steps.c.output.chosen }}")).result == "else"


@pytest.mark.parametrize(
    ("given", "chosen"),
    [("S", "case S"), (1, "case 1"), (1.0, "case 1"), (True, "case true"), ("other", "default"), (None, "default")],
    ids=str,
)
def test_a_switch_compares_the_text_of_its_value_with_the_cases(given: Any, chosen: str) -> None:
    switch = {
        "id": "kind",
        "switch": "{{ start.x }}",
        "cases": {"S": [value("s")], "1": [value("n")], "true": [value("t")]},
        "default": [value("d")],
    }
    machine = run_in_memory(module(switch, result="{{ steps.kind.output.chosen }}"), {"x": given})
    assert machine.result == chosen


def test_a_switch_without_a_matching_case_goes_on() -> None:
    switch = {"id": "kind", "switch": "x", "cases": {"y": [value("y")]}}
    assert run_in_memory(module(switch, result="{{ steps.kind.output.chosen }}")).result == ""


# -- for_each ----------------------------------------------------------------------------------------------------------
def test_a_for_each_gives_the_outputs_of_its_last_steps_in_order_however_they_end() -> None:
    machine = begun(
        {
            "id": "each",
            "for_each": "{{ start.list }}",
            "as": "x",
            "parallel": 3,
            "do": [value("v", "{{ x }}"), request("r")],
        },
        start={"list": [1, 2, 3, 4]},
        result="{{ steps.each.output }}",
    )
    assert list(machine.performing) == ["each[0]/r", "each[1]/r", "each[2]/r"]
    for key in ("each[2]/r", "each[1]/r", "each[0]/r"):
        machine.ended(key, key, BEGINNING)
    machine.advance(BEGINNING)
    assert list(machine.performing) == ["each[3]/r"]
    machine.ended("each[3]/r", "last", BEGINNING)
    machine.advance(BEGINNING)
    assert machine.result == ["each[0]/r", "each[1]/r", "each[2]/r", "last"]


def test_a_body_whose_last_step_is_skipped_gives_null() -> None:
    last = value("v", "{{ item }}", when="{{ item != 2 }}")
    machine = run_in_memory(module({"id": "e", "for_each": [1, 2], "do": [last]}, result="{{ steps.e.output }}"))
    assert machine.result == [{"v": 1}, None]


def test_a_body_sees_its_own_steps_and_nobody_outside_does() -> None:
    inner = [value("v", "{{ item }}-{{ steps.before.output.v }}"), value("w", "{{ steps.v.output.v }}")]
    steps = [value("before", "x"), {"id": "e", "for_each": [1, 2], "parallel": 2, "do": inner}]
    machine = run_in_memory(module(*steps, result="{{ steps.e.output }}"))
    assert machine.result == [{"v": "1-x"}, {"v": "2-x"}]
    outside = run_in_memory(module(*steps, result="{{ steps.v.output }}"))
    assert outside.status == "fatal_errored"


def test_keys_say_where_a_step_stands_in_nested_loops() -> None:
    deep = {
        "id": "b",
        "for_each": [1, 2, 3],
        "as": "y",
        "parallel": 9,
        "do": [request("c", "https://h/{{ x }}{{ y }}")],
    }
    machine = begun({"id": "a", "for_each": [1], "as": "x", "do": [{"id": "k", "condition": True, "then": [deep]}]})
    assert list(machine.performing) == ["a[0]/b[0]/c", "a[0]/b[1]/c", "a[0]/b[2]/c"]


@pytest.mark.parametrize("given", [{"a": 1}, "text", None, 3], ids=str)
def test_a_for_each_of_no_list_fails_for_good(given: Any) -> None:
    machine = run_in_memory(module({"id": "e", "for_each": "{{ start.x }}", "do": [value("v")]}), {"x": given})
    assert (machine.status, machine.attempt) == ("fatal_errored", 1)


def test_a_for_each_of_nothing_ends_at_once() -> None:
    machine = run_in_memory(module({"id": "e", "for_each": [], "do": [request("v")]}, result="{{ steps.e.output }}"))
    assert machine.result == []


def test_a_for_each_takes_ten_thousand_items_and_no_more() -> None:
    each = {"id": "e", "for_each": "{{ start.x }}", "do": [value("v", when=False)]}
    assert run_in_memory(module(each), {"x": [0] * 10_000}).status == "completed"
    assert run_in_memory(module(each), {"x": [0] * 10_001}).status == "fatal_errored"


def test_after_a_body_failed_no_other_begins_and_those_that_began_end_first() -> None:
    each = {"id": "e", "for_each": [1, 2, 3], "parallel": 2, "do": [request("r"), request("s")], "on_error": "continue"}
    machine = begun(each, result="{{ steps.e.error.message }}")
    now = BEGINNING
    machine.failed("e[0]/r", StepError("no", final=True), now)
    machine.advance(now)
    assert (machine.status, list(machine.performing)) == ("running", ["e[1]/r"])
    end_all(machine)
    assert list(machine.performing) == ["e[1]/s"]
    end_all(machine)
    assert (machine.status, machine.result) == ("completed", "no")


def test_loops_whose_keys_no_database_column_holds_are_refused() -> None:
    step = value("v")
    for depth in range(10):
        step = {"id": f"{'a' * 58}{depth}", "for_each": [1], "do": [step]}
    history: list[Event] = []
    machine = run_in_memory(module(step), history=history)
    assert (machine.status, machine.attempt) == ("fatal_errored", 1)
    assert 400 < max(len(event.key) for event in history) <= 500


# -- goto --------------------------------------------------------------------------------------------------------------
def goto(step_id: str, target: str, **more: Any) -> dict[str, Any]:
    return request(step_id, on_error={"goto": target}, **more)


def refuse(_: Perform) -> StepError:
    return StepError("no", final=True)


def ended(history: list[Event]) -> list[str]:
    return [event.key for event in history if event.kind == "ended"]


def test_a_goto_skips_what_stands_before_its_target() -> None:
    history: list[Event] = []
    machine = run_in_memory(
        module(goto("a", "d"), value("b"), BRANCH, value("d"), value("z"), result="{{ steps.a.error.message }}"),
        perform=refuse,
        history=history,
    )
    assert machine.result == "no"
    assert ended(history) == ["d", "z"]
    assert [event.key for event in history if event.kind == "skipped"] == ["b", "branch"]


def test_a_goto_leads_into_a_branch_and_behind_the_condition_afterwards() -> None:
    inner = {"id": "inner", "switch": "1", "cases": {"1": [value("c1")]}, "default": [value("skip"), value("stop")]}
    outer = {"id": "outer", "condition": True, "then": [value("t")], "else": [value("first"), inner, value("after")]}
    history: list[Event] = []
    machine = run_in_memory(
        module(goto("a", "stop"), outer, value("z"), result="{{ steps.outer.output.chosen }}"),
        perform=refuse,
        history=history,
    )
    assert (machine.status, machine.result) == ("completed", "else")
    assert ended(history) == ["stop", "inner", "after", "outer", "z"]


def test_a_goto_leads_out_of_branches() -> None:
    history: list[Event] = []
    inside = {"id": "c", "condition": True, "then": [goto("a", "z"), value("b")]}
    machine = run_in_memory(module(inside, value("y"), value("z")), perform=refuse, history=history)
    assert machine.status == "completed"
    assert ended(history) == ["c", "z"]


def test_a_goto_stays_in_its_body() -> None:
    each = {"id": "e", "for_each": [1, 2], "do": [goto("a", "c"), value("b"), value("c", "{{ item }}")]}
    machine = run_in_memory(module(each, result="{{ steps.e.output }}"), perform=refuse)
    assert machine.result == [{"v": 1}, {"v": 2}]


@pytest.mark.parametrize("target", ["first", "a", "else_step", "in_body", "nowhere"])
def test_a_goto_that_leads_nowhere_allowed_fails_the_step(target: str) -> None:
    condition = {"id": "c", "condition": True, "then": [goto("a", target)], "else": [value("else_step")]}
    each = {"id": "e", "for_each": [1], "do": [value("in_body")]}
    machine = run_in_memory(module(value("first"), condition, each), perform=refuse)
    assert (machine.status, machine.error and machine.error.message) == ("fatal_errored", "no")


def test_a_target_that_fails_and_continues_is_left_behind() -> None:
    history: list[Event] = []
    target = request("c", on_error="continue")
    machine = run_in_memory(module(goto("a", "c"), target, value("d")), perform=refuse, history=history)
    assert machine.status == "completed"
    assert ended(history) == ["d"]


# -- set and expressions -----------------------------------------------------------------------------------------------
def test_expressions_see_the_run_the_start_and_the_time() -> None:
    shown = {"id": "{{ run.id }}", "attempt": "{{ run.attempt }}", "user": "{{ run.user }}", "now": "{{ now }}"}
    machine = run_in_memory(module(value("a"), result=shown), user="u1")
    assert machine.result["attempt"] == 1
    assert machine.result["user"] == "u1"
    assert machine.result["now"].startswith("2026-01-01T08:00:00")


def test_an_expression_that_fails_is_final_and_may_be_handled() -> None:
    bad = value("a", "{{ start.nothing }}")
    machine = run_in_memory(module(bad))
    assert (machine.status, machine.attempt) == ("fatal_errored", 1)
    kept = run_in_memory(module({**bad, "on_error": "continue"}, result="{{ steps.a.error.message }}"))
    assert kept.status == "completed"
    assert kept.result


def test_a_result_that_fails_fails_the_run() -> None:
    machine = run_in_memory(module(value("a"), result="{{ nothing }}"))
    assert (machine.status, machine.attempt) == ("fatal_errored", 1)


def test_no_run_has_half_characters_or_nul_in_its_state() -> None:
    machine = run_in_memory(
        module(request("a"), result="{{ steps.a.output }}"), perform=lambda command: {"x\0": "a\ud800b\0"}
    )
    assert machine.result == {"x\ufffd": "a\ufffdb\ufffd"}


@pytest.mark.parametrize("output", [{1, 2}, object(), float("nan"), b"bytes"], ids=["set", "object", "nan", "bytes"])
def test_an_output_that_is_no_json_fails_the_step(output: Any) -> None:
    machine = run_in_memory(module(request("a")), perform=lambda command: output)
    assert (machine.status, machine.attempt) == ("fatal_errored", 1)
