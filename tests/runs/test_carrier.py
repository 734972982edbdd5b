"""Carrying runs: from the start to the end, step by step, with everything persisted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.lib.errors import RateLimited
from apps.modules import actions
from apps.runs import carrier, human, leases, performing, starting
from apps.runs.calls import Call
from apps.runs.human import Person
from apps.runs.journal import journal
from apps.runs.models import Execution, HumanTask, Run, RunEvent, RunSignal
from apps.runs.trace import trace_of
from apps.workspaces.models import Project
from tests.api.shop import Shop
from tests.cast import Cast
from tests.peers.upstream import Upstream
from tests.runs.lab import ACTOR, calls, carry, event, fresh, publish, start, told

Later = Callable[[float], None]


@pytest.fixture
def project(cast: Cast, upstream: Upstream, settings: Any) -> Project:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    upstream.reset()
    return cast.project


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Moves every clock forward (or back) by so many seconds."""
    real = timezone.now
    moved = timedelta()

    def move(seconds: float) -> None:
        nonlocal moved
        moved += timedelta(seconds=seconds)

    monkeypatch.setattr(timezone, "now", lambda: real() + moved)
    return move


def step(id: str, **members: Any) -> dict[str, Any]:
    return {"id": id, **members}


# -- From the start to the end -----------------------------------------------------------------------------------------
def test_a_run_goes_from_its_start_to_its_result(project: Project, upstream: Upstream) -> None:
    module = publish(
        project,
        [
            step("first", request={"method": "POST", "url": f"{upstream.url}/echo", "json": {"n": "{{ start.n }}"}}),
            step("second", request={"url": f"{upstream.url}/echo/{{{{ steps.first.output.body.json.n }}}}"}),
        ],
        start_parameters=[{"name": "N", "api_name": "n", "type": "number"}],
        result={"path": "{{ steps.second.output.body.path }}"},
    )
    run = start(module, {"n": 7})
    assert (run.status, fresh(run).status) == ("created", "created")
    run = carry(run)
    assert (run.status, run.error, run.result) == ("completed", None, {"path": "/echo/7"})
    assert (run.lease_token, run.lease_until, run.wake_at) == ("", None, None)
    assert run.started_at is not None
    assert run.ended_at is not None
    assert told(run) == ["attempt", "started first", "ended first", "started second", "ended second", "completed"]
    assert run.events_count == 6


def test_a_step_s_end_and_the_next_one_s_start_are_written_together(
    project: Project, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[list[str]] = []
    url = f"{upstream.url}/echo"
    run = start(publish(project, [step("a", request={"url": url}), step("b", request={"url": url})]))

    def note(name: str) -> None:
        if name == "persisted":
            written.append(told(run))

    monkeypatch.setattr(carrier, "checkpoint", note)
    carry(run)
    assert [len(events) for events in written] == [2, 4, 6]


def test_carrying_a_run_that_has_ended_or_that_is_not_there_does_nothing(project: Project) -> None:
    run = carry(start(publish(project, [step("a", set={"n": 1})])))
    before = RunEvent.objects.count()
    assert carry(run).status == "completed"
    carrier.carry("nobody")
    assert RunEvent.objects.count() == before


# -- Requests ----------------------------------------------------------------------------------------------------------
def failed(project: Project, request: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The error of a run of this one request."""
    options = starting.Options(maximum_attempts=more.pop("attempts", 1))
    run = carry(start(publish(project, [step("ask", request=request, **more)]), options=options))
    assert run.status == "fatal_errored"
    assert run.error is not None
    return dict(run.error)


def output(project: Project, request: dict[str, Any], **more: Any) -> Any:
    """The output of a run's one request."""
    run = carry(start(publish(project, [step("ask", request=request, **more)])))
    assert run.error is None, run.error
    return event(run, "ended", "ask").data["output"]


def test_a_request_is_sent_as_it_is_described(project: Project, upstream: Upstream) -> None:
    query = {"a": ["x", 1], "b": True, "none": None}
    said = output(
        project,
        {
            "method": "PUT",
            "url": f"{upstream.url}/echo/p?kept=%2F",
            "headers": {"X-One": 1},
            "query": query,
            "json": {"ü": [1.5]},
        },
    )
    assert said["status"] == 200
    assert said["headers"]["content-type"] == "application/json"
    body = said["body"]
    assert (body["method"], body["path"], body["json"]) == ("PUT", "/echo/p", {"ü": [1.5]})
    assert body["headers"]["x-one"] == "1"
    sent = upstream.requests("/echo/p")[0]
    assert sent["headers"]["content-type"] == "application/json"
    assert sent["query"] == {"kept": ["/"], "a": ["x", "1"], "b": ["true"]}


def test_a_form_and_a_text_are_sent_as_such(project: Project, upstream: Upstream) -> None:
    form = output(project, {"method": "POST", "url": f"{upstream.url}/echo", "form": {"a": "1 2", "b": [3, 4]}})
    assert form["body"]["body"] == "a=1+2&b=3&b=4"
    assert form["body"]["headers"]["content-type"] == "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("path", "body"),
    [("html", "<"), ("empty", None), ("broken-json", "{"), ("text", "")],
    ids=["HTML", "nothing", "what only claims to be JSON", "text"],
)
def test_an_answer_that_is_no_json_is_text(project: Project, upstream: Upstream, path: str, body: Any) -> None:
    said = output(project, {"url": f"{upstream.url}/{path}"})["body"]
    assert said is None if body is None else (isinstance(said, str) and said.lstrip().startswith(body))


def test_a_binary_answer_is_a_file(project: Project, upstream: Upstream) -> None:
    said = output(project, {"url": f"{upstream.url}/binary"})["body"]
    assert set(said) == {"contentType", "size", "filename", "base64"}


def test_a_status_of_400_and_above_fails_for_good_unless_it_is_accepted(project: Project, upstream: Upstream) -> None:
    url = f"{upstream.url}/status/404"
    error = failed(project, {"url": url}, attempts=3)
    assert (error["type"], error["code"], error["retirable"]) == ("execution", "script-execution-exception", False)
    assert error["details"]["status"] == 404
    assert "404" in error["message"]
    assert upstream.count("/status/404") == 1
    assert output(project, {"url": url, "accept": [404]})["status"] == 404


def test_a_passing_error_is_tried_in_every_attempt(project: Project, upstream: Upstream, later: Later) -> None:
    run = start(publish(project, [step("ask", request={"url": f"{upstream.url}/500"})]))
    for expected in (1, 2, 3):
        run = carry(run)
        while not run.has_ended and run.attempt == expected:
            later(30)
            run = carry(run)
    assert (run.status, run.attempt, upstream.count("/500")) == ("fatal_errored", 3, 3)
    assert run.error is not None
    assert [one["number"] for one in run.error["details"]["attempts"]] == [1, 2, 3]


def test_a_retry_within_an_attempt_is_waited_for_in_place_where_it_is_short(
    project: Project, upstream: Upstream
) -> None:
    retry = {"maximum_attempts": 3, "delay": "50ms", "factor": 1}
    error = failed(project, {"method": "POST", "url": f"{upstream.url}/500"}, retry=retry)
    assert upstream.count("/500") == 3
    assert error["details"]["attempts"][0]["number"] == 1


def test_a_retry_waits_as_long_as_the_answer_asks_for(project: Project, upstream: Upstream) -> None:
    tries = {"maximum_attempts": 2, "delay": "1s", "on": [429]}
    url = f"{upstream.url}/status/429?retry-after=20"
    run = carry(start(publish(project, [step("a", request={"url": url}, retry=tries)])))
    waiting = event(run, "waiting", "a")
    assert datetime.fromisoformat(waiting.data["until"]) - waiting.at == timedelta(seconds=20)


def test_an_answer_that_is_too_large_fails_for_good(project: Project, upstream: Upstream) -> None:
    error = failed(project, {"url": f"{upstream.url}/big"}, attempts=3)
    assert "10 MiB" in error["message"]
    assert upstream.count("/big") == 1


@pytest.mark.parametrize(
    "request_",
    [
        {"url": "http://10.0.0.1/"},
        {"url": "ftp://example.com/"},
        {"url": "nonsense"},
        {"url": "http://[::1"},
        {"method": "TRACE", "url": "http://127.0.0.1/"},
        {"url": "http://127.0.0.1/", "headers": {"Host": "elsewhere"}},
        {"url": "http://127.0.0.1/", "headers": {"X-A": "a\r\nX-B: b"}},
        {"url": "http://127.0.0.1/", "headers": {"a b": "c"}},
        {"url": "http://127.0.0.1/", "query": {"a": {"b": 1}}},
    ],
    ids=["private", "ftp", "no URL", "half a URL", "method", "Host", "line break", "name of a header", "nested query"],
)
def test_what_is_no_request_of_ours_is_not_sent(project: Project, request_: dict[str, Any]) -> None:
    error = failed(project, request_, attempts=3)
    assert error["retirable"] is False
    assert error["step"] == "ask"


def test_no_secret_of_a_request_is_kept_in_its_trace_or_in_the_log(project: Project, upstream: Upstream) -> None:
    secret = "sk-live-0123456789"
    run = carry(
        start(
            publish(
                project,
                [
                    step(
                        "ask",
                        request={
                            "method": "POST",
                            "url": f"{upstream.url}/echo?api_key={secret}",
                            "headers": {"Authorization": f"Bearer {secret}"},
                            "json": {"password": secret, "note": f"it is {secret}"},
                        },
                    )
                ],
            )
        )
    )
    assert run.status == "completed"
    assert secret not in str(list(RunEvent.objects.filter(run=run).values_list("trace", flat=True)))
    journal.flush()
    row = Execution.objects.get()
    assert (row.surface, row.tool, row.toolkit, row.caller) == ("run", "request", "", f"run:{run.pk}")
    assert secret not in "".join([row.url, row.request, row.response, row.message])


def test_a_secret_is_masked_wherever_it_turns_up_in_a_trace_and_in_the_log(
    project: Project, upstream: Upstream
) -> None:
    """One of an address, one that the run was given, one that a step's answer gave; none of them under its own name alone."""
    parameters = [{"name": "P", "api_name": "password", "type": "text"}]
    url = upstream.url.replace("http://", "http://me:pw-of-address@")
    body = {"name": "{{ start.password }}", "access_token": "made-by-answer", "again": "made-by-{{ 'answer' }}"}
    steps = [
        step("query", request={"url": f"{upstream.url}/echo?api_key=key-of-query"}),
        step("login", request={"method": "POST", "url": f"{upstream.url}/echo", "json": body}),
        step("use", set={"header": "{{ steps.login.output.body.json.access_token }}", "p": "{{ start.password }}"}),
        step("named", request={"url": f"{url}/echo"}, on_error="continue"),
    ]
    run = carry(start(publish(project, steps, start_parameters=parameters), {"password": "given-to-the-run"}))
    assert (run.status, run.error) == ("completed", None)
    journal.flush()
    rows = [[row.url, row.request, row.response] for row in Execution.objects.all()]
    for secret in ("key-of-query", "given-to-the-run", "made-by-answer", "pw-of-address"):
        assert secret not in json.dumps(trace_of(run)), secret
        assert secret not in json.dumps(rows), secret


def test_the_trace_of_a_step_has_its_inputs_and_its_calls(project: Project, upstream: Upstream) -> None:
    run = carry(start(publish(project, [step("ask", request={"url": f"{upstream.url}/echo", "query": {"q": "x"}})])))
    begun = event(run, "started", "ask").trace
    assert begun is not None
    assert begun["inputs"]["query"] == {"q": "x"}
    (call,) = calls(run, "ask")
    assert (call["method"], call["url"], call["tries"]) == ("GET", f"{upstream.url}/echo?q=x", 1)
    assert call["response"]["status"] == 200
    assert call["ms"] >= 0


def test_a_run_without_a_trace_keeps_none(project: Project, upstream: Upstream) -> None:
    module = publish(project, [step("ask", request={"url": f"{upstream.url}/echo"})])
    run = carry(start(module, options=starting.Options(save_trace=False)))
    assert set(RunEvent.objects.filter(run=run).values_list("trace", flat=True)) == {None}


# -- Tools -------------------------------------------------------------------------------------------------------------
def tool_run(shop: Shop, name: str, params: dict[str, Any], user: str | None = "u1", **more: Any) -> Run:
    module = publish(shop.cast.project, [step("call", tool=name, **{"with": params}, **more)])
    return carry(start(module, user_id=user, options=starting.Options(maximum_attempts=1)))


def test_a_tool_is_called_with_the_end_user_s_account_and_logged(shop: Shop) -> None:
    run = tool_run(shop, "LAB_CREATE_ITEM", {"title": "a thing"})
    assert run.error is None
    assert event(run, "ended", "call").data["output"]["json"] == {"title": "a thing"}
    sent = shop.upstream.requests("/echo/items")[0]
    assert sent["headers"]["authorization"] == "Bearer at-1-secret"
    (row,) = shop.executions()
    assert (row.surface, row.tool, row.user_id, row.caller) == ("run", "LAB_CREATE_ITEM", "u1", f"run:{run.pk}")
    (call,) = calls(run, "call")
    assert (call["toolkit"], call["tool"], call["connection"]) == ("lab", "LAB_CREATE_ITEM", shop.connection.pk)
    assert "at-1-secret" not in str(call)


def test_a_tool_without_an_account_fails_for_good(shop: Shop) -> None:
    run = tool_run(shop, "LAB_CREATE_ITEM", {"title": "a thing"}, user="somebody else")
    assert run.error is not None
    assert (run.error["retirable"], run.error["details"]["code"]) == (False, "INTEGRATIONS_NOT_CONNECTED")


def test_a_named_account_is_used_whoever_the_run_is_for(shop: Shop) -> None:
    run = tool_run(shop, "LAB_CREATE_ITEM", {"title": "t"}, user="another", connection=shop.connection.pk)
    assert run.error is None
    run = tool_run(shop, "LAB_CREATE_ITEM", {"title": "t"}, connection="ca_unknown")
    assert run.error is not None


def test_the_shared_account_is_none_s_own(shop: Shop) -> None:
    run = tool_run(shop, "LAB_CREATE_ITEM", {"title": "t"}, connection="shared")
    assert run.error is not None
    shop.connection.end_user = None
    shop.connection.save()
    assert tool_run(shop, "LAB_CREATE_ITEM", {"title": "t"}, connection="shared").error is None
    assert tool_run(shop, "LAB_CREATE_ITEM", {"title": "t"}, user=None).error is None


def test_a_tool_s_refusal_is_the_step_s_error(shop: Shop) -> None:
    run = tool_run(shop, "LAB_ANSWER", {"kind": "status/409"})
    assert run.error is not None
    assert (run.error["details"]["status"], run.error["retirable"]) == (409, False)


def test_a_step_waits_a_moment_where_its_plan_has_no_room(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter([RateLimited(retry_after=1)])

    def admit(call: Call) -> None:
        for error in refusals:
            raise error

    monkeypatch.setattr(Call, "admit", admit)
    run = tool_run(shop, "LAB_CREATE_ITEM", {"title": "t"})
    assert run.error is None
    first, second = calls(run, "call")
    assert first["error"]["code"] == "QUOTA_RATE_LIMIT"
    assert second["response"]["status"] == 200
    assert shop.upstream.count("/echo/items") == 1


# -- Code --------------------------------------------------------------------------------------------------------------
def code_run(project: Project, monkeypatch: pytest.MonkeyPatch, action: Any, **more: Any) -> Run:
    monkeypatch.setattr(actions, "find", lambda name: action)
    module = publish(project, [step("calc", code="company.total", **{"with": {"items": [1, 2]}}, **more)])
    return carry(start(module, options=starting.Options(maximum_attempts=1)))


def test_code_is_called_with_its_parameters(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    run = code_run(project, monkeypatch, lambda items: sum(items))
    assert event(run, "ended", "calc").data["output"] == 3


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (None, "no action"),
        (lambda items: object(), "no JSON"),
        (lambda items: _raise(ValueError("no good")), "ValueError: no good"),
        (lambda items: _raise(actions.FinalError("never")), "never"),
        (lambda: 1, "TypeError"),
    ],
    ids=["unknown", "no JSON", "an exception", "a final one", "wrong parameters"],
)
def test_code_that_fails_is_an_error_of_its_step(
    project: Project, monkeypatch: pytest.MonkeyPatch, action: Any, message: str
) -> None:
    run = code_run(project, monkeypatch, action)
    assert run.error is not None
    assert message in run.error["message"]


def test_code_that_hangs_is_given_up_after_its_time(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "GRACE", 0.0)
    started = time.monotonic()
    run = code_run(project, monkeypatch, lambda items: time.sleep(5), timeout="200ms")
    assert time.monotonic() - started < 3
    assert run.error is not None
    assert run.error["code"] == "script-timeout"


# -- Time --------------------------------------------------------------------------------------------------------------
def test_a_request_that_takes_too_long_times_out(project: Project, upstream: Upstream) -> None:
    error = failed(project, {"url": f"{upstream.url}/hang"}, timeout="300ms")
    assert error["code"] == "script-timeout"


def test_an_attempt_works_no_longer_than_it_may(project: Project, upstream: Upstream) -> None:
    module = publish(project, [step("ask", request={"method": "POST", "url": f"{upstream.url}/hang"}, timeout=60)])
    started = time.monotonic()
    run = carry(start(module, options=starting.Options(maximum_attempts=1, request_timeout=1)))
    assert time.monotonic() - started < 4
    assert run.error is not None
    assert run.error["code"] == "script-timeout"


def test_waiting_does_not_count_as_work(project: Project, upstream: Upstream, later: Later) -> None:
    url = f"{upstream.url}/echo"
    module = publish(project, [step("pause", wait="1h"), step("ask", request={"url": url})])
    run = carry(start(module, options=starting.Options(maximum_attempts=1, request_timeout=30)))
    assert (run.status, run.lease_token) == ("running", "")
    assert run.wake_at is not None
    assert 3500 < (run.wake_at - timezone.now()).total_seconds() <= 3600
    later(3601)
    assert carry(run).status == "completed"


def test_the_work_of_earlier_holders_of_the_lease_counts(project: Project, upstream: Upstream, later: Later) -> None:
    module = publish(project, [step("pause", wait="1m"), step("ask", request={"url": f"{upstream.url}/echo"})])
    run = carry(start(module, options=starting.Options(maximum_attempts=1, request_timeout=30)))
    Run.objects.filter(pk=run.pk).update(worked_ms=30_001)
    later(61)
    run = carry(run)
    assert run.error is not None
    assert (run.error["code"], upstream.count("/echo")) == ("script-timeout", 0)


def test_a_run_that_has_worked_for_long_lets_others_have_the_worker(
    project: Project, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "LONGEST_TURN", 0.0)
    url = f"{upstream.url}/echo"
    run = start(publish(project, [step(name, request={"url": url}) for name in ("a", "b", "c")]))
    turns = 0
    while not fresh(run).has_ended:
        carry(run)
        turns += 1
    assert turns == 4
    assert upstream.count("/echo") == 3


def test_a_worker_that_is_to_stop_gives_its_run_back_before_the_next_step(
    project: Project, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrier, "_stopping", threading.Event())
    url = f"{upstream.url}/echo"
    run = start(publish(project, [step(name, request={"method": "POST", "url": url}) for name in ("a", "b")]))
    monkeypatch.setattr(carrier, "checkpoint", lambda name: carrier.stop() if name == "performed" else None)
    run = carry(run)
    assert (told(run), run.lease_token) == (["attempt", "started a", "ended a"], "")
    assert run in Run.objects.due(timezone.now())
    monkeypatch.setattr(carrier, "_stopping", threading.Event())
    monkeypatch.setattr(carrier, "checkpoint", lambda name: None)
    assert (carry(run).status, upstream.count("/echo")) == ("completed", 2)


# -- People, events, other runs ----------------------------------------------------------------------------------------
FORM = {"title": "Equipment", "fields": [{"name": "laptop", "label": "Which?", "type": "text", "required": True}]}


def test_a_run_waits_for_an_answer_as_a_row_and_goes_on_with_it(project: Project) -> None:
    run = carry(start(publish(project, [step("details", form=FORM)], result="{{ steps.details.output.laptop }}")))
    assert (run.status, run.lease_token, run.wake_at) == ("waiting_for_input", "", None)
    carrier.carry(run.pk)
    assert told(run) == ["attempt", "waiting details"]
    human.answer(HumanTask.objects.get(), {"laptop": "13 inch"}, Person("Ada"))
    assert fresh(run).wake_at is not None
    run = carry(run)
    assert (run.status, run.result) == ("completed", "13 inch")


def test_a_deadline_ends_the_question(project: Project, later: Later) -> None:
    form = {**FORM, "deadline": "1h"}
    run = carry(start(publish(project, [step("details", form=form, on_error="continue")])))
    later(3601)
    run = carry(run)
    assert (run.status, HumanTask.objects.get().status) == ("completed", "expired")


def test_an_answer_that_comes_while_the_run_is_given_back_is_not_lost(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(name: str) -> None:
        task = HumanTask.objects.filter(status="open").first()
        if name == "before giving back" and task is not None:
            human.answer(task, {"laptop": "15 inch"}, Person("Ada"))

    monkeypatch.setattr(carrier, "checkpoint", answer)
    assert carry(start(publish(project, [step("details", form=FORM)]))).status == "completed"


def test_events_are_used_in_the_order_in_which_they_were_sent(project: Project) -> None:
    steps = [step(name, wait={"event": "paid"}) for name in ("one", "two")]
    run = start(publish(project, steps, result=["{{ steps.one.output }}", "{{ steps.two.output }}"]))
    assert starting.signal(run, "paid", {"n": 1}, ACTOR)
    assert starting.signal(run, "other", None, ACTOR)
    run = carry(run)
    assert (run.status, run.wake_at) == ("running", None)
    assert starting.signal(run, "paid", 2, ACTOR)
    run = carry(run)
    assert run.result == [{"n": 1}, 2]
    assert list(RunSignal.objects.order_by("id").values_list("used_by", flat=True)) == ["one", "", "two"]
    assert not starting.signal(run, "paid", 3, ACTOR)


def test_an_event_that_does_not_come_in_time_fails_its_step(project: Project, later: Later) -> None:
    steps = [step("paid", wait={"event": "paid", "timeout": "5m"}, on_error="continue"), step("after", set={"n": 1})]
    run = carry(start(publish(project, steps)))
    later(301)
    assert carry(run).status == "completed"


def test_another_module_s_run_gives_its_result(project: Project) -> None:
    publish(
        project,
        [step("set", set={"n": "{{ start.n + 1 }}"})],
        name="other",
        start_parameters=[{"name": "N", "api_name": "n", "type": "number", "required": True}],
        result="{{ steps.set.output.n }}",
    )
    steps = [step("sub", run="other", **{"with": {"n": 1}})]
    options = starting.Options(maximum_attempts=2, request_timeout=77, save_trace=False)
    run = carry(start(publish(project, steps, result="{{ steps.sub.output }}"), user_id="u1", options=options))
    assert run.status == "running"
    child = Run.objects.get(parent=run)
    assert (child.parent_key, child.root_id, child.depth, child.user_id) == ("sub", run.pk, 1, "u1")
    assert (child.maximum_attempts, child.request_timeout, child.save_trace) == (2, 77, False)
    assert (child.surface, child.started_by) == ("run", "key:test")
    assert carry(child).status == "completed"
    run = carry(run)
    assert (run.status, run.result) == ("completed", 2)


def test_a_module_that_cannot_be_run_fails_its_step(project: Project) -> None:
    run = carry(start(publish(project, [step("sub", run="nobody")])))
    assert run.error is not None
    assert (run.status, run.error["details"]["code"]) == ("fatal_errored", "RESOURCE_NOT_FOUND")
    assert not Run.objects.filter(parent=run).exists()


def test_a_failed_run_fails_the_step_that_started_it_without_further_attempts(project: Project) -> None:
    publish(project, [step("stop", fail="Not today")], name="other")
    run = carry(start(publish(project, [step("sub", run="other")])))
    carry(Run.objects.get(parent=run))
    run = carry(run)
    assert run.error is not None
    assert (run.status, run.error["message"], run.attempt) == ("fatal_errored", "Not today", 1)


def test_runs_that_start_one_another_end_at_a_depth(project: Project) -> None:
    run = carry(start(publish(project, [step("sub", run="onboard")])))
    for depth in range(1, starting.MAX_DEPTH + 1):
        run = carry(Run.objects.get(parent=run))
        assert run.depth == depth
    assert run.status == "fatal_errored"
    assert run.error is not None
    assert "deep" in run.error["message"]


def test_what_runs_beside_a_failed_step_ends_with_the_run(project: Project) -> None:
    publish(project, [step("wait", wait="1d")], name="other")
    inner = [
        step(
            "which",
            condition="{{ item == 1 }}",
            then=[step("sub", run="other")],
            **{"else": [step("ask", form=FORM, on_error="fail"), step("no", fail="No")]},
        )
    ]
    run = carry(start(publish(project, [step("each", for_each=[1, 2], parallel=2, do=inner)])))
    child = carry(Run.objects.get(parent=run))
    starting.cancel(run, ACTOR)
    assert (fresh(run).status, fresh(child).status) == ("cancelled", "cancelled")
    assert HumanTask.objects.get().status == "cancelled"


# -- Side by side ------------------------------------------------------------------------------------------------------
def test_steps_of_a_for_each_are_performed_side_by_side(project: Project, upstream: Upstream) -> None:
    request = {"method": "POST", "url": f"{upstream.url}/busy/side/0.3", "json": {"n": "{{ n }}"}}
    each = step("each", for_each=list(range(8)), parallel=4, do=[step("ask", request=request)], **{"as": "n"})
    run = carry(start(publish(project, [each])))
    assert run.error is None
    assert upstream.peak("side") == 4
    assert upstream.count("/busy/side/0.3") == 8


def test_a_step_that_fails_beside_others_leaves_their_results(project: Project, upstream: Upstream) -> None:
    request = {"url": f"{upstream.url}/status/{{{{ n }}}}"}
    each = step("each", for_each=[200, 404, 201], parallel=3, do=[step("ask", request=request)], **{"as": "n"})
    run = carry(start(publish(project, [each])))
    assert run.status == "fatal_errored"
    assert {"ended each[0]/ask", "failed each[1]/ask", "ended each[2]/ask"} <= set(told(run))


# -- Leases ------------------------------------------------------------------------------------------------------------
def test_a_run_that_is_carried_is_left_alone_until_its_lease_runs_out(
    project: Project, upstream: Upstream, later: Later
) -> None:
    run = start(publish(project, [step("ask", request={"url": f"{upstream.url}/echo"})]))
    assert leases.claim(run.pk) is not None
    assert carry(run).status == "created"
    later(31)
    assert carry(run).status == "completed"


def test_a_task_that_is_delivered_while_its_run_is_carried_does_nothing(
    project: Project, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(publish(project, [step("ask", request={"method": "POST", "url": f"{upstream.url}/echo"})]))
    run_id = run.pk
    monkeypatch.setattr(carrier, "checkpoint", lambda name: carrier.carry(run_id))
    run = carry(run)
    assert (run.status, upstream.count("/echo")) == ("completed", 1)
    assert told(run) == ["attempt", "started ask", "ended ask", "completed"]


def test_a_late_holder_writes_nothing_over_the_next_one(
    project: Project, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, later: Later
) -> None:
    """The first one sleeps for longer than its lease while its step is performed; the second takes the run over."""
    run = start(publish(project, [step("ask", request={"url": f"{upstream.url}/echo"})], result="{{ run.attempt }}"))
    seen: list[Run] = []

    def oversleep(name: str) -> None:
        if name == "performed" and not seen:
            later(31)
            seen.append(run)
            seen.append(carry(run))

    monkeypatch.setattr(carrier, "checkpoint", oversleep)
    run = carry(run)
    assert (seen[1].status, run.status) == ("completed", "completed")
    assert told(run) == ["attempt", "started ask", "lost ask", "started ask", "ended ask", "completed"]


def test_what_another_holder_wrote_is_not_taken_for_one_s_own(project: Project) -> None:
    """The first one's connection is lost for longer than its lease; the second comes exactly as far in the meantime."""
    run = start(publish(project, [step("a", request={"method": "POST", "url": "http://127.0.0.1:9/"})]))
    claimed = leases.claim(run.pk)
    assert claimed is not None
    mine = carrier._Carrier(claimed, leases.Lease(claimed))
    mine.machine.advance(timezone.now())
    mine.pending = mine.machine.take_events()
    written = {"status": "running", "events_count": len(mine.pending)}
    Run.objects.filter(pk=run.pk).update(lease_token="another's", **written)
    assert not mine._was_written()
    Run.objects.filter(pk=run.pk).update(lease_token=claimed.lease_token)
    assert mine._was_written()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_holds_no_run_back(
    project: Project, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, later: Later, hours: int
) -> None:
    jumped: list[str] = []

    def jump(name: str) -> None:
        if name == "persisted" and not jumped:
            jumped.append(name)
            later(hours * 3600)

    monkeypatch.setattr(carrier, "checkpoint", jump)
    url = f"{upstream.url}/echo"
    run = start(publish(project, [step("a", request={"url": url}), step("b", request={"url": url})]))
    assert carry(run).status == "completed"


def test_a_lease_of_a_dead_worker_whose_clock_was_wrong_is_no_lease(project: Project, later: Later) -> None:
    run = start(publish(project, [step("a", set={"n": 1})]))
    later(3600)
    leases.claim(run.pk)
    later(-3600)
    assert carry(run).status == "completed"


def test_a_lease_is_renewed_while_a_step_is_performed(
    project: Project, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    run = start(publish(project, [step("a", set={"n": 1})]))
    claimed = leases.claim(run.pk)
    assert claimed is not None
    assert claimed.lease_until is not None
    lease = leases.Lease(claimed)
    lease.renew(timezone.now() + timedelta(seconds=10))
    until = fresh(run).lease_until
    assert until is not None
    assert until - claimed.lease_until >= timedelta(seconds=10)
    starting.cancel(run, ACTOR)
    lease.renew(timezone.now())
    assert lease.lost.is_set()


# -- Faults of ours ----------------------------------------------------------------------------------------------------
def test_a_run_that_our_own_code_stumbles_over_ends(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.runs.history.replay", lambda run: 1 / 0)
    run = carry(start(publish(project, [step("a", set={"n": 1})])))
    assert run.error is not None
    assert (run.status, run.error["code"]) == ("fatal_errored", "internal-server-error")


def test_a_step_that_our_own_code_stumbles_over_fails(
    project: Project, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(performing.KINDS, "request", lambda *given: 1 / 0)
    error = failed(project, {"url": f"{upstream.url}/echo"})
    assert (error["type"], error["code"]) == ("infrastructure", "internal-server-error")


def test_an_event_sent_before_its_step_is_used_though_others_are_performed_beside_it(
    project: Project, upstream: Upstream
) -> None:
    send = step("send", request={"url": f"{upstream.url}/echo"})
    which = step("which", condition="{{ i == 1 }}", then=[step("paid", wait={"event": "paid"})], **{"else": [send]})
    each = step("each", for_each=[1, 2], parallel=2, do=[which], **{"as": "i"})
    run = start(publish(project, [each]))
    assert starting.signal(run, "paid", {"n": 1}, ACTOR)
    assert carry(run).status == "completed"
