"""The trace of a run: what its events tell people."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.modules import services
from apps.modules.models import Module, ModuleVersion
from apps.runs import carrier, starting, trace
from apps.runs.models import HumanTask, Run, RunEvent
from apps.runs.trace import trace_of
from apps.workspaces.audit import SYSTEM
from tests.cast import Cast

pytestmark = pytest.mark.django_db
BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEFINITION = {
    "name": "order",
    "title": "Order devices",
    "steps": [
        {"id": "record", "title": "Keep the record", "request": {"method": "POST", "url": "https://hr.example/people"}},
        {"id": "ok", "approve": {"title": "Buy?"}},
        {"id": "branch", "condition": "{{ steps.ok.output.approved }}", "then": [{"id": "note", "set": {"n": 1}}]},
        {"id": "each", "for_each": "{{ [1, 2] }}", "as": "device",
         "do": [{"id": "place", "request": {"url": "https://shop.example/{{ device }}"}}]},
        {"id": "sub", "run": "other"},
    ],
}  # fmt: skip


def make_run(cast: Cast, **options: Any) -> Run:
    module = Module.objects.create(project=cast.project, name="order", title="Order devices", source="")
    version = ModuleVersion.objects.create(module=module, number=3, definition=DEFINITION, source="")
    return Run.objects.create(
        project=cast.project, workspace=cast.workspace, module=module, version=version, surface=Run.Surface.RUNS,
        created_at=BEGIN, started_at=BEGIN, **options,
    )  # fmt: skip


def happen(run: Run, *rows: tuple[Any, ...]) -> None:
    """Rows are (seconds, kind, key, data, trace)."""
    first = run.events.count()
    for number, (seconds, kind, key, data, *rest) in enumerate(rows):
        RunEvent.objects.create(
            run=run, number=first + number, kind=kind, key=key, data=data, trace=rest[0] if rest else None,
            at=BEGIN + timedelta(seconds=seconds),
        )  # fmt: skip


def call(url: str, **response: Any) -> dict[str, Any]:
    return {
        "method": "POST", "url": url, "request": {"headers": {"authorization": "Bearer shh"}, "body": '{"password": "pw"}'},
        "response": {"status": 200, "headers": {}, "body": "{}"} | response, "at": BEGIN.isoformat(), "ms": 40, "tries": 1,
    }  # fmt: skip


def steps_of(found: dict[str, Any], attempt: int = 0) -> dict[str, Any]:
    """Every step of an attempt by key."""
    by_key: dict[str, Any] = {}

    def add(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            by_key[row["key"]] = row
            add(row["children"])

    add(found["attempts"][attempt]["steps"])
    return by_key


def test_a_step_tells_its_time_its_tries_and_its_call_without_secrets(cast: Cast) -> None:
    run = make_run(cast)
    happen(
        run,
        (0, "attempt", "", {"number": 1}),
        (1, "started", "record", {"try": 1, "safe": False}, {"inputs": {"json": {"api_key": "shh", "name": "Ada"}}}),
        (1.5, "ended", "record", {"output": {"status": 201, "body": {"token": "shh"}}},
         {"calls": [call("https://hr.example/people", body='{"secret": "shh"}')]}),
    )  # fmt: skip
    found = trace_of(run)
    step = steps_of(found)["record"]
    assert (step["title"], step["kind"], step["status"], step["ms"], step["tries"]) == (
        "Keep the record", "request", "completed", 500, 1,
    )  # fmt: skip
    assert step["inputs"]["json"] == {"api_key": "********", "name": "Ada"}
    assert step["output"]["body"] == {"token": "********"}
    assert step["calls"][0]["request"] == {"headers": {"authorization": "********"}, "body": '{"password": "********"}'}
    assert "shh" not in json.dumps(found)
    assert (found["module"], found["version"], found["title"]) == ("order", 3, "Order devices")


def test_a_wait_tells_for_whom_until_when_and_who_answered(cast: Cast) -> None:
    run = make_run(cast)
    task = HumanTask.objects.create(
        project=cast.project, run=run, root=run, key="ok", kind="approve", title="Buy?", status="answered",
        answered_by="it@example.com",
    )  # fmt: skip
    until = (BEGIN + timedelta(days=2)).isoformat()
    happen(
        run,
        (0, "attempt", "", {"number": 1}),
        (1, "waiting", "ok", {"for": "task", "until": until}),
        (61, "ended", "ok", {"output": {"approved": True}}),
    )
    step = steps_of(trace_of(run))["ok"]
    assert step["ms"] == 60_000
    assert step["waitedFor"] == [
        {"what": "task", "since": (BEGIN + timedelta(seconds=1)).isoformat(), "until": until,
         "endedAt": (BEGIN + timedelta(seconds=61)).isoformat(), "taskId": task.pk, "taskStatus": "answered",
         "answeredBy": "it@example.com"}
    ]  # fmt: skip


def test_what_is_in_a_block_stands_below_it_iterations_in_order(cast: Cast) -> None:
    run = make_run(cast)
    happen(
        run,
        (0, "attempt", "", {"number": 1}),
        (1, "branch", "branch", {"chosen": "then"}),
        (1, "ended", "note", {"output": {"n": 1}}),
        (2, "items", "each", {"items": [1, 2]}),
        (2, "started", "each[1]/place", {"try": 1}),
        (2, "started", "each[0]/place", {"try": 1}),
        (3, "ended", "each[1]/place", {"output": 2}),
        (4, "ended", "each[0]/place", {"output": 1}),
    )
    found = trace_of(run)
    assert [step["key"] for step in found["attempts"][0]["steps"]] == ["branch", "each"]
    branch, each = found["attempts"][0]["steps"]
    assert (branch["chosen"], branch["children"][0]["branch"], branch["status"]) == ("then", "then", "completed")
    assert [(row["key"], row["iteration"]) for row in each["children"]] == [("each[0]/place", 0), ("each[1]/place", 1)]
    assert (each["items"], each["status"], each["ms"]) == (2, "completed", 2000)


def test_each_attempt_stands_alone_and_a_block_goes_on_in_the_next(cast: Cast) -> None:
    run = make_run(cast, status="completed", attempt=2, ended_at=BEGIN + timedelta(seconds=9))
    error = {"type": "execution", "code": "script-execution-exception", "message": "503", "details": {"token": "shh"}}
    happen(
        run,
        (0, "attempt", "", {"number": 1}),
        (1, "items", "each", {"items": [1]}),
        (1, "started", "each[0]/place", {"try": 1}),
        (2, "failed", "each[0]/place", {"error": error, "then": "fail"}, {"calls": [call("https://shop.example/1")]}),
        (2, "backoff", "", {"until": (BEGIN + timedelta(seconds=3)).isoformat(), "error": error}),
        (3, "attempt", "", {"number": 2}),
        (3, "started", "each[0]/place", {"try": 1}),
        (4, "ended", "each[0]/place", {"output": 1}),
        (5, "completed", "", {"result": 1}),
    )
    found = trace_of(run)
    first, second = found["attempts"]
    assert (first["number"], first["status"], first["ms"], first["error"]["message"]) == (1, "failed", 2000, "503")
    assert first["error"]["details"] == {"token": "********"}
    assert steps_of(found, 0)["each[0]/place"]["status"] == "failed"
    assert steps_of(found, 0)["each"]["status"] == "failed"
    assert (second["number"], second["status"]) == (2, "completed")
    assert second["steps"][0]["key"] == "each"
    assert steps_of(found, 1)["each[0]/place"]["status"] == "completed"


def test_a_step_that_was_open_when_its_run_was_cancelled_is_stopped(cast: Cast) -> None:
    run = make_run(cast, status="cancelled", ended_at=BEGIN + timedelta(seconds=5))
    happen(
        run,
        (0, "attempt", "", {"number": 1}),
        (1, "waiting", "ok", {"for": "task"}),
        (5, "cancelled", "", {}),
    )
    found = trace_of(run)
    assert found["attempts"][0]["status"] == "cancelled"
    assert (steps_of(found)["ok"]["status"], steps_of(found)["ok"]["ms"]) == ("stopped", 4000)


def test_what_waits_when_an_attempt_ends_goes_on_waiting_in_the_next(cast: Cast) -> None:
    run = make_run(cast, status="completed", attempt=2, ended_at=BEGIN + timedelta(seconds=9))
    error = {"message": "503", "code": "script-execution-exception"}
    happen(
        run,
        (0, "attempt", "", {"number": 1}),
        (1, "waiting", "ok", {"for": "task"}),
        (2, "backoff", "", {"until": None, "error": error}),
        (3, "attempt", "", {"number": 2}),
        (8, "ended", "ok", {"output": {"approved": True}}),
        (9, "completed", "", {"result": 1}),
    )
    found = trace_of(run)
    assert steps_of(found, 0)["ok"]["status"] == "stopped"
    step = steps_of(found, 1)["ok"]
    assert (step["status"], step["ms"], len(step["waitedFor"])) == ("completed", 7000, 1)


def test_the_late_end_of_a_step_that_was_given_up_stands_where_it_was_begun(cast: Cast) -> None:
    run = make_run(cast, status="running", attempt=2)
    error = {"message": "Too slow", "code": "script-timeout"}
    happen(
        run,
        (0, "attempt", "", {"number": 1}),
        (1, "started", "each[0]/place", {"try": 1}),
        (2, "backoff", "", {"until": None, "error": error}),
        (3, "attempt", "", {"number": 2}),
        (4, "ended", "each[0]/place", {"output": 1}, {"calls": [call("https://shop.example/1")]}),
        (5, "started", "record", {"try": 1}),
    )
    found = trace_of(run)
    assert [len(steps_of(found, 0)["each[0]/place"]["calls"]), list(steps_of(found, 1))] == [1, ["record"]]


def test_a_condition_without_the_branch_that_was_chosen_ends_at_once(cast: Cast) -> None:
    run = make_run(cast, status="running")
    happen(run, (0, "attempt", "", {"number": 1}), (1, "branch", "branch", {"chosen": ""}))
    assert steps_of(trace_of(run))["branch"]["status"] == "completed"


def test_where_a_failure_led_is_told(cast: Cast) -> None:
    run = make_run(cast, status="running")
    data = {"error": {"message": "503"}, "then": "goto", "goto": "note"}
    happen(run, (0, "attempt", "", {"number": 1}), (1, "failed", "record", data))
    step = steps_of(trace_of(run))["record"]
    assert (step["then"], step["goto"]) == ("goto", "note")


def test_a_living_run_shows_what_it_is_doing(cast: Cast) -> None:
    run = make_run(cast, status="running")
    happen(run, (0, "attempt", "", {"number": 1}), (1, "started", "record", {"try": 1}))
    step = steps_of(trace_of(run))["record"]
    assert (step["status"], step["endedAt"], step["ms"]) == ("running", None, None)


def test_a_lost_worker_and_a_second_try_are_told(cast: Cast) -> None:
    run = make_run(cast)
    happen(
        run,
        (0, "attempt", "", {"number": 1}),
        (1, "started", "record", {"try": 1}),
        (9, "lost", "record", {"then": "retry"}),
        (9, "started", "record", {"try": 2}),
        (10, "waiting", "record", {"for": "retry", "until": None}),
        (11, "started", "record", {"try": 3}),
        (12, "ended", "record", {"output": 1}),
    )
    step = steps_of(trace_of(run))["record"]
    assert (step["tries"], step["lost"], step["status"], step["ms"]) == (3, 1, "completed", 11_000)
    assert [wait["what"] for wait in step["waitedFor"]] == ["retry"]


def test_the_run_that_a_step_started_is_named(cast: Cast) -> None:
    run = make_run(cast)
    child = Run.objects.create(
        project=cast.project, workspace=cast.workspace, module=run.module, version=run.version, surface="run",
        parent=run, parent_key="sub", root=run,
    )  # fmt: skip
    happen(run, (0, "attempt", "", {"number": 1}), (1, "waiting", "sub", {"for": "run"}))
    assert steps_of(trace_of(run))["sub"]["runId"] == child.pk


def test_a_run_without_a_trace_tells_its_steps_and_no_values(cast: Cast) -> None:
    run = make_run(cast, save_trace=False)
    happen(
        run,
        (0, "attempt", "", {"number": 1}),
        (1, "started", "record", {"try": 1}),
        (2, "ended", "record", {"output": "kept for the engine"}),
    )
    found = trace_of(run)
    step = steps_of(found)["record"]
    assert step["status"] == "completed"
    assert step["calls"] == []
    assert "output" not in step
    assert "kept for the engine" not in json.dumps(found)
    assert "saveTrace" in found["notes"][0]


def test_a_run_that_has_not_begun_has_no_attempts(cast: Cast) -> None:
    run = make_run(cast)
    assert trace_of(run)["attempts"] == []
    Run.objects.filter(pk=run.pk).update(status="cancelled", ended_at=BEGIN)
    happen(run, (1, "cancelled", "", {}))
    run.refresh_from_db()
    assert (trace_of(run)["attempts"], trace_of(run)["status"]) == ([], "cancelled")


def test_a_long_value_is_cut(cast: Cast) -> None:
    run = make_run(cast)
    happen(
        run,
        (0, "attempt", "", {"number": 1}),
        (1, "ended", "record", {"output": {"text": "x" * 50_000}}),
    )
    step = steps_of(trace_of(run))["record"]
    assert step["outputCut"] is True
    assert len(step["output"]) < 20_100


def test_a_run_of_many_steps_is_told_within_bounds(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MAX_STEPS", 300)
    monkeypatch.setattr(trace, "MAX_VALUES", 20_000)
    run = make_run(cast)
    rows = [RunEvent(run=run, number=0, kind="attempt", data={"number": 1}, at=BEGIN)]
    rows += [RunEvent(run=run, number=1, kind="items", key="each", data={"items": [0] * 5000}, at=BEGIN)]
    for number in range(1000):
        key = f"each[{number}]/place"
        rows.append(RunEvent(run=run, number=2 * number + 2, kind="started", key=key, data={"try": 1}, at=BEGIN))
        output = {"output": "x" * 1000}
        rows.append(RunEvent(run=run, number=2 * number + 3, kind="ended", key=key, data=output, at=BEGIN))
    RunEvent.objects.bulk_create(rows)
    with CaptureQueriesContext(connection) as captured:
        found = trace_of(run)
    steps = steps_of(found)
    assert len(steps) == 300
    assert len(json.dumps(found)) < 200_000
    assert steps["each"]["items"] == 5000
    assert "output" not in steps["each[200]/place"]
    assert {step["status"] for step in steps.values()} == {"completed"}
    assert any("first 300 steps" in note for note in found["notes"])
    assert any("left out" in note for note in found["notes"])
    assert len(captured) < 12


REAL = """
name: real
steps:
  - {id: numbers, set: {list: [1, 2, 3]}}
  - id: each
    for_each: "{{ steps.numbers.output.list }}"
    as: n
    do:
      - {id: odd, condition: "{{ n % 2 == 1 }}", then: [{id: yes_it_is, set: {n: "{{ n }}"}}]}
  - {id: never, when: false, set: {n: 1}}
  - {id: broken, set: {n: "{{ steps.numbers.output.list[9] }}"}, on_error: continue}
  - {id: pick, switch: "{{ 2 }}", cases: {"1": [{id: one, set: {n: 1}}], "2": [{id: two, set: {n: 2}}]}}
result: "{{ steps.numbers.output.list }}"
"""


def test_a_real_run_s_trace_has_every_step_ended_in_its_place(cast: Cast) -> None:
    services.put_draft(cast.project, "real", REAL, SYSTEM)
    module = services.publish(services.find(cast.project, "real"), SYSTEM).module
    run = starting.start(module, {}, SYSTEM, Run.Surface.RUNS)
    carrier.carry(run.pk)
    found = trace_of(Run.objects.get(pk=run.pk))
    assert (found["status"], [attempt["status"] for attempt in found["attempts"]]) == ("completed", ["completed"])
    steps = steps_of(found)
    assert {key: step["status"] for key, step in steps.items()} == {
        "numbers": "completed", "each": "completed", "each[0]/odd": "completed", "each[0]/yes_it_is": "completed",
        "each[1]/odd": "completed", "each[2]/odd": "completed", "each[2]/yes_it_is": "completed", "never": "skipped",
        "broken": "failed", "pick": "completed", "two": "completed",
    }  # fmt: skip
    assert [step["key"] for step in found["attempts"][0]["steps"]] == ["numbers", "each", "never", "broken", "pick"]
    assert steps["broken"]["then"] == "continue"
    assert steps["pick"]["chosen"] == "case 2"
    assert steps["two"]["branch"] == "case 2"
    assert [child["iteration"] for child in steps["each"]["children"]] == [0, 1, 2]
