"""Payloads that a run adds to its job run: made by the engine, kept on the run, started as further items, shown."""

from __future__ import annotations

from typing import Any

import pytest

from apps.lib import broker
from apps.modules.checks import check, json_schema
from apps.runs import job_items, jobs
from apps.runs.engine import run_in_memory
from apps.runs.models import JobRun, Run
from tests.cast import Cast
from tests.runs import lab
from tests.runs.test_jobs import NUMBER, World, body, counts, fire, fresh, publish

ACTOR = lab.ACTOR
STEP = [{"id": "one", "set": {"n": "{{ start.n }}"}}]
NEXT = "{{ [{'api': 'pages', 'parameters': {'n': start.n + 1}}] if start.n < 4 else none }}"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any) -> World:
    made = World(django_capture_on_commit_callbacks)
    monkeypatch.setattr(broker, "hand", made.hand)
    return made


def run(extended: Any, result: Any = None, start: Any = None) -> Any:
    definition = {
        "name": "m",
        "start_parameters": NUMBER,
        "steps": STEP,
        "result": result,
        "extended_payloads": extended,
    }
    return run_in_memory(definition, start or {"n": 1})


# -- The engine ------------------------------------------------------------------------------------------------------
def test_an_expression_gives_the_payloads_and_sees_the_result() -> None:
    given = "{{ [{'api': 'next', 'parameters': {'n': steps.one.output.n + result.more}}] }}"
    machine = run(given, {"more": 10})
    assert (machine.status, machine.result) == ("completed", {"more": 10})
    assert machine.extended == [{"api": "next", "parameters": {"n": 11}}]


def test_a_list_that_is_written_out_has_its_expressions_filled_in() -> None:
    given = [
        {"api": "a"},
        {"api": "shop/{{ 'b' }}", "parameters": {"n": "{{ start.n }}"}},
        {"api": "c", "parameters": "{{ start }}"},
    ]
    assert run(given).extended == [
        {"api": "a", "parameters": {}}, {"api": "shop/b", "parameters": {"n": 1}}, {"api": "c", "parameters": {"n": 1}},
    ]  # fmt: skip


@pytest.mark.parametrize("given", [None, "{{ none }}", "{{ [] }}", []], ids=["absent", "null", "empty", "written"])
def test_none_is_none(given: Any) -> None:
    machine = run(given)
    assert (machine.status, machine.extended) == ("completed", [])
    assert "extended" not in machine.take_events()[-1].data


WRONG = {
    "no list": ("{{ 'x' }}", "extended_payloads: a list was expected"),
    "no object": ("{{ [1] }}", "extended_payloads: [0]: an object with api"),
    "no api": ("{{ [{'api': 'a'}, {'parameters': {}}] }}", "extended_payloads: [1]: an object with api"),
    "a long api": ("{{ [{'api': start.long}] }}", "extended_payloads: [0]: an object with api"),
    "parameters": ("{{ [{'api': 'a', 'parameters': [1]}] }}", "extended_payloads: [0].parameters: an object"),
    "too many": ("{{ start.many }}", "extended_payloads: 10001 payloads are more than 10000"),
    "too large": ("{{ [{'api': 'a', 'parameters': {'x': start.large}}] }}", "extended_payloads: "),
    "undefined": ("{{ steps.one.output.gone }}", "extended_payloads: "),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_what_is_no_list_of_payloads_fails_the_run_for_good(name: str) -> None:
    given, message = WRONG[name]
    machine = run(given, start={"n": 1, "long": "a" * 151, "many": [1] * 10_001, "large": "y" * 3_000_000})
    assert (machine.status, machine.attempt) == ("fatal_errored", 1)
    assert machine.error is not None
    assert machine.error.message.startswith(message)
    assert machine.extended == []


def test_members_that_are_not_known_are_left_out() -> None:
    assert run("{{ [{'api': 'a', 'parameters': {}, 'secret': 1}] }}").extended == [{"api": "a", "parameters": {}}]


# -- What is checked -------------------------------------------------------------------------------------------------
def faults(extended: str) -> list[str]:
    source = f"name: m\nsteps:\n  - {{id: one, set: {{n: 1}}}}\nextended_payloads: {extended}\n"
    return [f"{fault.path}: {fault.message}" for fault in check(source, None)[1]]


def test_a_definition_that_is_right_has_no_faults() -> None:
    assert faults('"{{ [] }}"') == []
    assert faults('[{api: shop/next, parameters: {n: "{{ steps.one.output.n }}"}}, {api: "{{ result }}"}]') == []


def test_faults_are_told_with_their_places() -> None:
    assert faults("every page") == ["extended_payloads: Must be one expression, {{ … }}, without text around it."]
    assert faults("[{api: Shop/Next}]") == ["extended_payloads[0].api: Must be the name of a module."]
    assert faults("[{api: a, parameters: x}]")[0].startswith("extended_payloads[0].parameters: Must be one expression")
    assert any("two" in fault for fault in faults('"{{ steps.two.output }}"'))
    assert faults("[{parameters: {}}]") != []
    assert faults("[{api: a, more: 1}]") != []


def test_the_published_schema_describes_them() -> None:
    assert "extended_payloads" in json_schema()["properties"]
    assert json_schema()["$defs"]["Payload"]["required"] == ["api"]


# -- In a job run ----------------------------------------------------------------------------------------------------
def follow(cast: Cast, world: World, count: int = 1, extended: Any = NEXT, **more: Any) -> JobRun:
    publish(cast.project, "pages", STEP, start_parameters=NUMBER, extended_payloads=extended)
    payload = [{"apiName": "pages", "parameters": {"n": 1}}] * count
    job_run = fire(world, jobs.create(cast.project, body(payload=payload, **more), ACTOR))
    world.work()
    return fresh(job_run)


def test_what_a_run_adds_is_run_too(cast: Cast, world: World) -> None:
    job_run = follow(cast, world, maxConcurrentRequests=1)
    assert (counts(job_run), job_run.payloads) == (("SUCCESS", 4, 4, 0), 4)
    items = list(job_run.items.order_by("number"))
    assert [item.parameters["n"] for item in items] == [1, 2, 3, 4]
    assert [item.added_by for item in items] == ["", *[item.run_id for item in items[:-1]]]


def test_several_runs_add_side_by_side_without_a_number_twice(cast: Cast, world: World) -> None:
    job_run = follow(cast, world, count=5, maxConcurrentRequests=5)
    assert (counts(job_run), job_run.payloads) == (("SUCCESS", 20, 20, 0), 20)
    assert list(job_run.items.order_by("number").values_list("number", flat=True)) == list(range(20))


def test_max_runs_counts_them(cast: Cast, world: World) -> None:
    job_run = follow(cast, world, maxRuns=3)
    assert (counts(job_run), job_run.payloads) == (("SUCCESS", 3, 3, 0), 3)


def test_a_job_run_has_no_more_items_than_may_be(cast: Cast, world: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(job_items, "MOST_ITEMS", 7)
    job_run = follow(cast, world, extended=[{"api": "pages", "parameters": {"n": 1}}] * 2)
    assert (counts(job_run), job_run.payloads) == (("SUCCESS", 7, 7, 0), 7)


def test_one_whose_module_is_not_there_is_a_failed_item(cast: Cast, world: World) -> None:
    job_run = follow(cast, world, extended=[{"api": "nowhere"}])
    assert counts(job_run) == ("FAILURE", 1, 1, 1)
    assert job_run.items.filter(number=1, error__code="not-found").exists()


def test_a_failed_run_adds_nothing(cast: Cast, world: World) -> None:
    job_run = follow(cast, world, extended="{{ [1] }}")
    assert (counts(job_run), job_run.payloads) == (("FAILURE", 1, 0, 1), 1)


def test_what_is_added_while_the_job_is_paused_runs_once_it_is_resumed(cast: Cast, world: World) -> None:
    publish(cast.project, "pages", STEP, start_parameters=NUMBER)
    wait = [{"id": "pause", "wait": {"event": "go"}}]
    extended = [{"api": "pages", "parameters": {"n": 1}}]
    publish(cast.project, "wait", wait, extended_payloads=extended)
    job = jobs.create(cast.project, body(payload=[{"apiName": "wait", "parameters": {}}]), ACTOR)
    job_run = fire(world, job)
    world.work()
    jobs.pause(job, ACTOR)
    from tests.runs.test_jobs import end_runs

    end_runs(world, job_run)
    assert (counts(job_run), fresh(job_run).payloads) == (("PAUSED", 1, 1, 0), 2)
    with world.done():
        jobs.resume(job, ACTOR)
    world.work()
    assert counts(job_run) == ("SUCCESS", 2, 2, 0)


# -- Shown -----------------------------------------------------------------------------------------------------------
def result(cast: Cast, one: Run) -> Any:
    path = f"/{cast.workspace.pk}/projects/{cast.project.name}/run/{one.pk}/result"
    return cast.api.get(path).json()


def test_a_runs_result_shows_them_with_the_runs_that_were_started(cast: Cast, world: World) -> None:
    job_run = follow(cast, world, maxRuns=2, extended=[{"api": "pages", "parameters": {"n": 5}}, {"api": "pages"}])
    first, second = (Run.objects.get(pk=item.run_id) for item in job_run.items.order_by("number"))
    assert result(cast, first)["extendedPayloads"] == [
        {"api": "pages", "parameters": {"n": 5}, "runId": second.pk}, {"api": "pages", "parameters": {}},
    ]  # fmt: skip


def test_a_run_outside_of_a_job_only_shows_them(cast: Cast, world: World) -> None:
    module = publish(cast.project, "pages", STEP, start_parameters=NUMBER, extended_payloads=NEXT)
    one = lab.carry(lab.start(module, {"n": 1}))
    assert result(cast, one)["extendedPayloads"] == [{"api": "pages", "parameters": {"n": 2}}]
    assert Run.objects.count() == 1
    last = lab.carry(lab.start(module, {"n": 4}))
    assert "extendedPayloads" not in result(cast, last)
