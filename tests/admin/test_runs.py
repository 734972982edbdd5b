"""Runs in the admin: the list, the page of one with its waterfall, and runs made by hand; and the questions they ask."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone, translation

from apps.modules import services
from apps.modules.models import Module
from apps.runs import starting
from apps.runs.admin_waterfall import Axis, picture_of, words
from apps.runs.models import HumanTask, Run, RunEvent
from apps.runs.trace import trace_of
from apps.workspaces.audit import SYSTEM
from tests.admin.conftest import Staff, signed_in, text_of

CHANGELIST = "admin:runs_run_changelist"
PARAMETERS = """\
name: many
start_parameters:
  - {name: Text, api_name: text, type: text, required: true}
  - {name: Number, api_name: number, type: number}
  - {name: Day, api_name: day, type: date}
  - {name: Sure, api_name: sure, type: boolean}
  - {name: Size, api_name: size, type: choice, options: [1, 2, big]}
  - {name: Colours, api_name: colours, type: choices, options: [red, green]}
  - {name: Things, api_name: things, type: list}
  - {name: Data, api_name: data, type: object}
  - {name: Paper, api_name: paper, type: file}
  - {name: Word, api_name: word, type: text, default: hello}
steps:
  - {id: one, set: {n: 1}}
"""


def address(name: str, run: Run) -> str:
    from django.contrib.admin.utils import quote

    return reverse(f"admin:runs_run_{name}", args=[quote(run.pk)])


def act(client: Client, run: Run, name: str) -> Any:
    from django.contrib.admin.utils import quote

    return client.post(reverse("admin:runs_run_do", args=[quote(run.pk), name]), follow=True)


def happen(run: Run, *rows: tuple[Any, ...]) -> None:
    """Rows are (seconds, kind, key, data, trace), after those that are there."""
    first = run.events.count()
    for number, (seconds, kind, key, data, *rest) in enumerate(rows, first):
        at = run.created_at + timedelta(seconds=seconds)
        RunEvent.objects.create(
            run=run, number=number, kind=kind, key=key, data=data, trace=rest[0] if rest else None, at=at
        )


def status_of(run: Run) -> str:
    return str(Run.objects.values_list("status", flat=True).get(pk=run.pk))


# -- The list --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status__exact=waiting_for_input", True), ("status__exact=completed", False), ("module=MODULE", True),
        ("module=another", False), ("user_id__icontains=nobody", False), ("surface__exact=admin", True),
        ("created_at_to_0=2020-01-01", False), ("created_at_from_0=2020-01-01", True), ("q=RUN", True), ("q=other", False),
    ],
)  # fmt: skip
def test_runs_are_filtered_and_searched(staff: Staff, query: str, found: bool) -> None:
    query = query.replace("MODULE", staff.module.pk).replace("RUN", staff.run.pk)
    assert (address("change", staff.run) in text_of(staff.bob.get(f"{reverse(CHANGELIST)}?{query}"))) is found


@pytest.mark.parametrize("model", ["runs_run", "runs_humantask"])
def test_the_lists_are_never_counted_and_cost_the_same_however_long(staff: Staff, model: str) -> None:
    def queries() -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            assert staff.bob.get(reverse(f"admin:{model}_changelist")).status_code == 200
        return [query["sql"] for query in captured]

    before = queries()
    assert not [sql for sql in before if "COUNT(" in sql and model in sql]
    for number in range(5):
        run = starting.start(staff.module, {"employee_name": f"e{number}"}, SYSTEM, Run.Surface.ADMIN)
        HumanTask.objects.create(project=run.project, run=run, root=run, key="details", kind="form", title=f"q{number}")
    assert len(queries()) == len(before)


def test_a_list_brings_no_long_texts_along(staff: Staff) -> None:
    with CaptureQueriesContext(connection) as captured:
        staff.bob.get(reverse(CHANGELIST))
    runs = next(query["sql"] for query in captured if "run_newest" in query["sql"] or 'FROM "runs_run"' in query["sql"])
    for column in ('"parameters"', '"result"', '"definition"', '"source"'):
        assert column not in runs.split(" FROM ")[0]


# -- The page of one -------------------------------------------------------------------------------------------------
def test_the_page_tells_what_the_run_is_waiting_for(staff: Staff) -> None:
    shown = text_of(staff.bob.get(address("change", staff.run)))
    assert "Waits for an answer" in shown
    assert "What is needed at Acme?" in shown
    assert "it@acme.example" in shown
    assert f"/s/{staff.module.public_id}/sessions/{staff.run.session_id}" in shown
    assert "alices-user" in shown
    assert "jf-bar-wait" in shown


def test_the_page_shows_calls_with_their_requests_and_answers_and_no_secret(staff: Staff) -> None:
    call = {
        "method": "POST", "url": "https://hr.example/people", "at": staff.run.created_at.isoformat(), "ms": 40, "tries": 2,
        "request": {"headers": {"authorization": "Bearer sh-secret"}, "body": '{"password": "sh-secret", "name": "Ada"}'},
        "response": {"status": 503, "headers": {}, "body": "<b>down</b>"},
    }  # fmt: skip
    happen(staff.run, (1, "started", "call", {"try": 1}, {"inputs": {"token": "sh-secret"}}),
           (2, "failed", "call", {"error": {"message": "<i>down</i>", "details": {"token": "sh-secret"}}, "then": "fail"},
            {"calls": [call]}))  # fmt: skip
    shown = text_of(staff.bob.get(address("change", staff.run)))
    assert "POST https://hr.example/people" in shown
    assert "2 tries" in shown
    assert "&quot;name&quot;: &quot;Ada&quot;" in shown
    assert "&lt;b&gt;down&lt;/b&gt;" in shown
    assert "<i>down" not in shown
    assert "sh-secret" not in shown
    trace = staff.bob.get(address("trace", staff.run))
    assert trace["Content-Type"] == "application/json"
    assert "sh-secret" not in text_of(trace)


def test_a_result_and_an_error_are_shown_without_what_has_a_secret_s_name(staff: Staff) -> None:
    Run.objects.filter(pk=staff.run.pk).update(
        status="completed", result={"number": 7, "api_key": "sh-secret"}, parameters={"password": "sh-secret"}
    )
    shown = text_of(staff.bob.get(address("change", staff.run)))
    assert "&quot;number&quot;: 7" in shown
    assert "sh-secret" not in shown
    error = {"type": "execution", "code": "script-timeout", "message": "Too slow", "details": {"token": "sh-secret"}}
    Run.objects.filter(pk=staff.run.pk).update(status="fatal_errored", result=None, error=error)
    shown = text_of(staff.bob.get(address("change", staff.run)))
    assert "execution / script-timeout" in shown
    assert "sh-secret" not in shown


def test_a_living_run_is_looked_at_again_and_one_that_stands_still_is_not_sent_again(staff: Staff) -> None:
    live = address("live", staff.run)
    part = text_of(staff.bob.get(live))
    assert "<html" not in part
    stamp = re.search(r'data-stamp="([^"]+)" data-living="waiting_for_input"', part)
    assert stamp is not None
    assert staff.bob.get(live, {"seen": stamp[1]}).status_code == 204
    Run.objects.filter(pk=staff.run.pk).update(status="running")
    assert staff.bob.get(live, {"seen": stamp[1]}).status_code == 200
    Run.objects.filter(pk=staff.run.pk).update(status="completed", events_count=9)
    assert 'data-living="no"' in text_of(staff.bob.get(live, {"seen": stamp[1]}))


def test_the_page_costs_the_same_however_much_happened(staff: Staff) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert staff.bob.get(address("change", staff.run)).status_code == 200
        return len(captured)

    before = count()
    happen(staff.run, *((1, "ended", f"each[{number}]/one", {"output": number}) for number in range(60)))
    assert count() == before


@pytest.mark.parametrize("name", ["change", "live", "trace"])
def test_another_workspace_s_run_is_not_there(staff: Staff, name: str) -> None:
    assert staff.charlie.get(address(name, staff.run)).status_code == 404
    assert staff.charlie.post(address(name, staff.run)).status_code == 404
    assert act(staff.charlie, staff.run, "cancel").status_code == 404
    assert status_of(staff.run) == "waiting_for_input"


def test_an_id_with_any_characters_of_a_nanoid_has_a_page(staff: Staff) -> None:
    Run.objects.filter(pk=staff.run.pk).update(status="cancelled")
    run = Run.objects.get(pk=staff.run.pk)
    run.pk = run.id = "-_5F_3A_2F-abcdefghij"
    run.session_id = "another-session-of-22-"
    run.save(force_insert=True)
    shown = text_of(staff.bob.get(address("change", run)))
    assert run.pk in shown
    assert address("change", run) in text_of(staff.bob.get(reverse(CHANGELIST)))
    assert staff.bob.get(address("trace", run)).json()["id"] == run.pk


# -- Cancelling and retrying -----------------------------------------------------------------------------------------
def test_a_run_is_cancelled_with_its_questions(staff: Staff) -> None:
    assert act(staff.bob, staff.run, "cancel").status_code == 403
    assert status_of(staff.run) == "waiting_for_input"
    assert "The run is cancelled." in text_of(act(staff.dana, staff.run, "cancel"))
    assert status_of(staff.run) == "cancelled"
    assert HumanTask.objects.get(pk=staff.task.pk).status == "cancelled"
    assert "had ended already" in text_of(act(staff.dana, staff.run, "cancel"))


def fail(run: Run) -> None:
    error = {"type": "execution", "code": "script-execution-exception", "message": "503", "step": "details"}
    happen(run, (2, "failed", "details", {"error": error, "then": "fail"}), (2, "errored", "", {"error": error}))
    Run.objects.filter(pk=run.pk).update(status="fatal_errored", error=error, events_count=4, ended_at=timezone.now())


def test_a_failed_run_goes_on_at_the_step_that_failed(staff: Staff) -> None:
    assert "nothing to retry" in text_of(act(staff.dana, staff.run, "retry"))
    fail(staff.run)
    assert "Retry from the failed step" in text_of(staff.dana.get(address("change", staff.run)))
    assert "Retry from the failed step" not in text_of(staff.bob.get(address("change", staff.run)))
    assert act(staff.bob, staff.run, "retry").status_code == 403
    assert "goes on at the step" in text_of(act(staff.dana, staff.run, "retry"))
    run = Run.objects.get(pk=staff.run.pk)
    assert (run.status, run.attempt, run.error) == ("running", 2, None)


def test_many_are_cancelled_and_retried_at_once_by_who_may(staff: Staff) -> None:
    second = starting.start(staff.module, {"employee_name": "x"}, SYSTEM, Run.Surface.ADMIN)
    third = starting.start(staff.module, {"employee_name": "y"}, SYSTEM, Run.Surface.ADMIN)
    chosen = {"_selected_action": [second.pk, third.pk], "action": "cancel_chosen"}
    staff.bob.post(reverse(CHANGELIST), chosen)
    staff.charlie.post(reverse(CHANGELIST), chosen)
    assert {status_of(third), status_of(second)} == {"created"}
    assert "2 runs are cancelled." in text_of(staff.dana.post(reverse(CHANGELIST), chosen, follow=True))
    assert {status_of(third), status_of(second)} == {"cancelled"}
    fail(staff.run)
    chosen = {"_selected_action": [staff.run.pk, second.pk], "action": "retry_chosen"}
    said = text_of(staff.dana.post(reverse(CHANGELIST), chosen, follow=True))
    assert "1 runs go on." in said
    assert "1 have not failed." in said


# -- A run by hand ---------------------------------------------------------------------------------------------------
def trying(module: Module, query: str = "") -> str:
    return f"{reverse('admin:runs_run_test')}?module={module.pk}{query}"


@pytest.fixture
def many(staff: Staff) -> Module:
    return services.put_draft(staff.cast.project, "many", PARAMETERS, SYSTEM)[0]


def test_a_draft_is_tested_with_a_form_of_its_start_parameters(staff: Staff, many: Module) -> None:
    form = text_of(staff.dana.get(trying(many)))
    for name in ("Text", "Number", "Colours", "Paper"):
        assert name in form
    data = {
        "p:text": " a ", "p:number": "3.5", "p:day": "2026-03-01", "p:sure": "false", "p:size": "2",
        "p:colours": ["red", "green"], "p:things": "one\ntwo", "p:data": '{"a": 1}',
        "p:paper": SimpleUploadedFile("a.txt", b"hello", "text/plain"), "user_id": "u-7", "maximum_attempts": "2",
        "save_trace": "on",
    }  # fmt: skip
    started = staff.dana.post(trying(many), data)
    run = Run.objects.get(module=many)
    assert started["Location"] == address("change", run)
    given = run.parameters
    assert given.pop("paper")["filename"] == "a.txt"
    assert given == {
        "text": " a ", "number": 3.5, "day": "2026-03-01", "sure": False, "size": 2, "colours": ["red", "green"],
        "things": ["one", "two"], "data": {"a": 1}, "word": "hello",
    }  # fmt: skip
    assert (run.surface, run.user_id, run.maximum_attempts, run.save_trace) == ("admin", "u-7", 2, True)
    assert (run.version.number, run.started_by) == (None, "user:dana@example.com")
    again = text_of(staff.dana.get(trying(many, f"&like={run.pk}")))
    assert 'value="3.5"' in again
    assert 'value="u-7"' in again


def test_a_parameter_that_does_not_fit_is_told_at_its_field_and_nothing_starts(staff: Staff, many: Module) -> None:
    data = {"p:text": "x", "p:number": "three", "p:day": "tomorrow", "p:data": "{", "maximum_attempts": "1"}
    shown = text_of(staff.dana.post(trying(many), data))
    assert "Not JSON" in shown
    shown = text_of(staff.dana.post(trying(many), data | {"p:data": "{}"}))
    assert shown.count("errorlist") + shown.count("text-red-") >= 2
    assert "This field is required" in text_of(staff.dana.post(trying(many), {"maximum_attempts": "1"}))
    assert not Run.objects.filter(module=many).exists()


def test_a_test_run_needs_the_role_and_the_workspace(staff: Staff, many: Module) -> None:
    data = {"p:text": "x", "maximum_attempts": "1"}
    assert staff.bob.get(trying(many)).status_code == 403
    assert staff.bob.post(trying(many), data).status_code == 403
    assert staff.charlie.get(trying(many)).status_code == 404
    assert staff.charlie.post(trying(many), data).status_code == 404
    assert not Run.objects.filter(module=many).exists()
    # Nor is another module's run told through its parameters.
    shown = text_of(staff.dana.get(trying(many, f"&like={staff.run.pk}")))
    assert "alices-user" not in shown


def test_a_draft_of_a_past_format_is_not_tested(staff: Staff, many: Module) -> None:
    Module.objects.filter(pk=many.pk).update(draft={"name": "many", "stages": []})
    shown = text_of(staff.dana.post(trying(many), {"maximum_attempts": "1"}))
    assert "a format of the past" in shown
    assert not Run.objects.filter(module=many).exists()


@pytest.mark.parametrize("value", ["%00", "%F0%9F%98%80", "x" * 3000], ids=["nul", "emoji", "long"])
def test_an_id_that_is_none_is_no_module(staff: Staff, many: Module, value: str) -> None:
    assert staff.dana.get(f"{reverse('admin:runs_run_test')}?module={value}").status_code == 404
    assert staff.dana.get(trying(many, f"&like={value}")).status_code == 200


# -- Tasks -----------------------------------------------------------------------------------------------------------
def test_a_question_is_shown_with_who_is_asked_and_what_was_answered(staff: Staff) -> None:
    page = reverse("admin:runs_humantask_change", args=[staff.task.pk])
    shown = text_of(staff.bob.get(page))
    assert "What is needed at Acme?" in shown
    assert "it@acme.example" in shown
    assert f"/s/{staff.module.public_id}/sessions/{staff.run.session_id}" in shown
    HumanTask.objects.filter(pk=staff.task.pk).update(
        status="answered", answered_by="it@acme.example", outcome={"laptop": "13 inch", "password": "sh-secret"}
    )
    shown = text_of(staff.bob.get(page))
    assert "13 inch" in shown
    assert "sh-secret" not in shown


def test_questions_are_only_read(staff: Staff) -> None:
    page = reverse("admin:runs_humantask_change", args=[staff.task.pk])
    for client in (staff.dana, staff.alice, staff.ruth):
        assert client.post(page, {"status": "answered", "title": "Mine"}).status_code == 403
    assert HumanTask.objects.get(pk=staff.task.pk).title == "What is needed at Acme?"


# -- The overview ----------------------------------------------------------------------------------------------------
def test_the_overview_tells_of_the_day_s_runs(staff: Staff) -> None:
    Run.objects.filter(pk=staff.run.pk).update(status="fatal_errored")
    tiles = staff.bob.get(reverse("admin:index")).context["run_states"]
    assert [(tile["label"], tile["count"]) for tile in tiles] == [
        ("Runs in the last 24 hours", 1), ("of them completed", 0), ("of them failed", 1), ("Questions wait for an answer", 1),
    ]  # fmt: skip
    assert staff.charlie.get(reverse("admin:index")).context["run_states"] == []


# -- The picture -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0 ms"), (320, "320 ms"), (4200, "4.2 s"), (59_990, "60.0 s"), (185_000, "3 min 5 s"), (7_800_000, "2 h 10 min"),
     (273_600_000, "3 d 4 h"), (86_400_000, "1 d"), (None, "")],
)  # fmt: skip
def test_a_duration_is_told_in_words(ms: float | None, text: str) -> None:
    assert words(ms) == text


def test_a_wait_of_days_is_drawn_short_so_that_the_rest_is_seen(staff: Staff) -> None:
    RunEvent.objects.filter(run=staff.run).delete()
    day = 86_400
    happen(
        staff.run,
        (0, "attempt", "", {"number": 1}),
        (0, "started", "a", {"try": 1}), (2, "ended", "a", {}),
        (2, "waiting", "details", {"for": "task"}), (2 + 2 * day, "ended", "details", {}),
        (2 + 2 * day, "started", "b", {"try": 1}), (5 + 2 * day, "ended", "b", {}),
        (5 + 2 * day, "completed", "", {}),
    )  # fmt: skip
    ended = staff.run.created_at + timedelta(seconds=5 + 2 * day)
    Run.objects.filter(pk=staff.run.pk).update(status="completed", ended_at=ended)
    picture = picture_of(trace_of(Run.objects.get(pk=staff.run.pk)), timezone.now())
    a, details, b = picture.attempts[0][2]
    assert [gap.title for gap in picture.gaps] == ["2 d"]
    assert a.bars[0].width > 25
    assert b.bars[0].width > a.bars[0].width
    assert [bar.kind for bar in details.bars] == ["wait"]
    assert details.bars[0].width < 15
    assert 99 < b.bars[0].left + b.bars[0].width <= 100.1


def test_places_on_the_axis_only_grow_and_end_at_its_end() -> None:
    begin = datetime(2026, 3, 1, tzinfo=UTC)

    def step(key: str, start: float, end: float) -> dict[str, Any]:
        at = [(begin + timedelta(seconds=seconds)).isoformat() for seconds in (start, end)]
        return {"key": key, "startedAt": at[0], "endedAt": at[1], "children": [], "calls": []}

    end = (begin + timedelta(seconds=5000)).isoformat()
    steps = [step("a", 0, 1), step("b", 1.2, 1.3), step("c", 900, 901), step("d", 4000, 4000)]
    trace = {"attempts": [{"startedAt": begin.isoformat(), "steps": steps}], "endedAt": end, "createdAt": end}
    axis = Axis(trace, begin)
    places = [
        axis.place(begin + timedelta(seconds=seconds))
        for seconds in (-5, 0, 0.5, 1, 1.2, 2, 900, 901, 4000, 5000, 6000)
    ]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0.0, 100.0)
    assert len(axis.gaps()) == 3


def test_numbers_of_the_picture_are_css_in_every_language(staff: Staff) -> None:
    happen(staff.run, (1, "started", "a", {"try": 1}), (3.21, "ended", "a", {}))
    with translation.override("de"):
        client = signed_in(staff.cast.bob)
        shown = text_of(client.get(address("change", staff.run), headers={"accept-language": "de"}))
    assert not re.findall(r"--(?:left|width|indent): \d+,", shown)
    assert not re.findall(r"--left: -", shown)  # though the events are of the future: a clock may jump
    assert re.findall(r"--left: \d+\.\d+", shown)


def test_a_run_of_many_steps_has_a_page_of_bounded_size(staff: Staff) -> None:
    output = {"output": {"text": "x" * 30_000}}
    now = timezone.now()
    RunEvent.objects.bulk_create(
        RunEvent(run=staff.run, number=2 + number, kind="ended", key=f"each[{number}]/one", data=output, at=now)
        for number in range(700)
    )
    shown = text_of(staff.bob.get(address("change", staff.run)))
    assert len(shown) < 3_500_000
    assert "The first 500 steps are drawn" in shown
    assert json.loads(text_of(staff.bob.get(address("trace", staff.run))))["notes"]
