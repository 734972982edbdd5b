"""Starting, cancelling, retrying runs, and sending them events."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.lib import broker
from apps.lib.errors import BadRequest, Conflict, InvalidInput, NotFound
from apps.modules.models import Module
from apps.runs import carrier, hints, starting
from apps.runs.models import HumanTask, Run, RunEvent
from apps.workspaces.models import AuditEvent, Project
from tests.cast import Cast
from tests.peers.upstream import Upstream
from tests.runs.lab import ACTOR, calls, carry, fresh, publish, start, told

SET = [{"id": "one", "set": {"n": 1}}]
FORM = {"id": "ask", "form": {"title": "A", "fields": [{"name": "a", "label": "A", "type": "text"}]}}


@pytest.fixture
def project(cast: Cast, settings: Any) -> Project:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    return cast.project


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the broker was given: run, queue."""
    given: list[tuple[str, str]] = []

    def hand(task: str, ids: Any, *, queue: str, **options: float | None) -> bool:
        given.extend((pk, queue) for pk in ids)
        return True

    monkeypatch.setattr(broker, "hand", hand)
    return given


# -- Starting --------------------------------------------------------------------------------------------------------
def test_a_run_is_one_row_and_a_hint_once_it_is_committed(
    project: Project, handed: list[tuple[str, str]], django_capture_on_commit_callbacks: Any
) -> None:
    module = publish(project, SET)
    with django_capture_on_commit_callbacks(execute=True):
        run = start(module, user_id="u1")
        assert handed == []
    assert handed == [(run.pk, "runs")]
    run = fresh(run)
    assert (len(run.pk), len(run.session_id)) == (21, 22)
    assert (run.status, run.user_id, run.started_by, run.surface) == ("created", "u1", "key:test", "runs")
    assert run.version == module.published
    assert run.workspace_id == project.workspace_id
    assert run.wake_at is not None


def test_starting_costs_one_insert_and_one_look_at_what_waits(project: Project) -> None:
    module = publish(project, SET)
    start(module)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        start(module)
    sql = [query["sql"].split()[0] for query in queries if "SAVEPOINT" not in query["sql"]]
    assert sorted(sql) == ["INSERT", "SELECT"]


@pytest.mark.parametrize(
    "changes",
    [{"published": None}, {"access": "off"}, {"deleted_at": "2026-01-01T00:00:00Z"}],
    ids=["unpublished", "off", "deleted"],
)
def test_a_module_that_cannot_be_started_is_not_found(project: Project, changes: dict[str, Any]) -> None:
    module = publish(project, SET)
    Module.objects.filter(pk=module.pk).update(**changes)
    module.refresh_from_db()
    with pytest.raises(NotFound):
        start(module)
    assert not Run.objects.exists()


def test_a_version_is_tried_out_whether_or_not_it_is_published(project: Project) -> None:
    module = publish(project, SET)
    version = module.published
    module.published = None
    module.save()
    assert carry(start(module, version=version)).status == "completed"


def test_every_fault_of_the_parameters_is_told_at_once(project: Project) -> None:
    names = [
        {"name": name, "api_name": name, "type": kind, "required": True}
        for name, kind in (("n", "number"), ("d", "date"))
    ]
    with pytest.raises(InvalidInput) as raised:
        start(publish(project, SET, start_parameters=names), {"n": "many", "other": 1})
    assert set(raised.value.details) == {"n", "d", "other"}
    assert not Run.objects.exists()


@pytest.mark.parametrize("value", ["x" * (1024 * 1024), "a\x00b"], ids=["too large", "NUL"])
def test_parameters_that_no_database_keeps_are_refused(project: Project, value: str) -> None:
    module = publish(project, SET, start_parameters=[{"name": "O", "api_name": "o", "type": "object"}])
    with pytest.raises(InvalidInput):
        start(module, {"o": {"a": [value]}})


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"maximum_attempts": 0}, "retry.maximumAttempts"),
        ({"maximum_attempts": 70_000}, "retry.maximumAttempts"),
        ({"request_timeout": 0}, "requestTimeout"),
        ({"request_timeout": 10**12}, "requestTimeout"),
        ({"proxy": "http://10.0.0.1:3128"}, "proxy"),
        ({"proxy": "socks5://proxy.example"}, "proxy"),
    ],
)
def test_options_out_of_bounds_are_refused(project: Project, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        start(publish(project, SET), options=starting.Options(**options))
    assert list(raised.value.details) == [field]


def test_a_proxy_is_stored_sealed_and_used_by_every_call(project: Project, upstream: Upstream) -> None:
    upstream.reset()
    url = upstream.url.replace("http://", "http://me:pass-word-1@")
    module = publish(project, [{"id": "ask", "request": {"url": "http://127.0.0.1:9/echo/through"}}])
    run = start(module, options=starting.Options(proxy=url, maximum_attempts=1))
    assert "pass-word-1" not in run.proxy
    assert fresh(run).unseal("proxy") == url
    run = carry(run)
    kept = str(list(RunEvent.objects.filter(run=run).values_list("data", "trace"))) + str(run.error)
    assert "pass-word-1" not in kept
    (sent,) = upstream.requests()  # the upstream is no proxy, but it sees the request that a proxy would
    assert "127.0.0.1:9" in sent["headers"]["host"]


def test_runs_are_nested_to_a_depth(project: Project) -> None:
    module = publish(project, SET)
    run = start(module)
    Run.objects.filter(pk=run.pk).update(depth=starting.MAX_DEPTH)
    with pytest.raises(BadRequest):
        start(module, parent=fresh(run), parent_key="a")


@pytest.mark.parametrize("address", ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"], ids=["Redis", "RabbitMQ"])
def test_a_run_is_started_though_the_broker_is_down_and_found_by_the_sweeper(
    project: Project, address: str, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    module = publish(project, SET)
    with monkeypatch.context() as patched:
        patched.setattr(broker, "current_app", Celery("without a broker", broker=address, set_as_current=False))
        patched.setattr(broker, "_none_until", 0.0)
        with django_capture_on_commit_callbacks(execute=True):
            run = start(module)
        assert fresh(run).hinted_at is None
        assert carrier.sweep() == 1  # marked, and unmarked as the broker takes nothing
        assert fresh(run).hinted_at is None
    monkeypatch.setattr(broker, "_none_until", 0.0)
    assert carrier.sweep() == 1
    assert fresh(run).hinted_at is not None


# -- Cancelling ------------------------------------------------------------------------------------------------------
def test_a_run_that_waits_is_cancelled_at_once_with_its_question(project: Project) -> None:
    run = carry(start(publish(project, [FORM])))
    assert starting.cancel(run, ACTOR)
    run = fresh(run)
    assert (run.status, run.wake_at, run.has_ended) == ("cancelled", None, True)
    assert run.ended_at is not None
    assert told(run)[-1] == "cancelled"
    assert HumanTask.objects.get().status == "cancelled"
    assert not starting.cancel(run, ACTOR)
    assert AuditEvent.objects.filter(action="run.cancelled").count() == 1
    assert carry(run).status == "cancelled"


def test_a_run_that_has_not_begun_is_cancelled(project: Project) -> None:
    run = start(publish(project, SET))
    assert starting.cancel(run, ACTOR)
    assert told(run) == ["cancelled"]


def test_runs_that_a_run_started_are_cancelled_with_it_and_their_parent_goes_on_without_them(project: Project) -> None:
    publish(project, [{"id": "sub", "run": "lowest"}], name="middle")
    publish(project, [FORM], name="lowest")
    top = carry(start(publish(project, [{"id": "sub", "run": "middle"}])))
    middle = carry(Run.objects.get(parent=top))
    lowest = carry(Run.objects.get(parent=middle))
    starting.cancel(middle, ACTOR)
    assert [fresh(run).status for run in (top, middle, lowest)] == ["running", "cancelled", "cancelled"]
    assert HumanTask.objects.get().status == "cancelled"
    top = carry(top)
    assert top.error is not None
    assert (top.status, top.error["message"]) == ("fatal_errored", f"The run {middle.pk} was cancelled.")


def test_cancelling_while_a_step_is_performed_ends_the_run_before_the_next_one(
    project: Project, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.reset()

    def cancel(name: str) -> None:
        if name == "performed":
            assert starting.cancel(run, ACTOR)
            assert fresh(run).status == "cancelled"

    monkeypatch.setattr(carrier, "checkpoint", cancel)
    requests = [{"id": name, "request": {"method": "POST", "url": f"{upstream.url}/echo/{name}"}} for name in "ab"]
    run = start(publish(project, requests))
    run = carry(run)
    assert (run.status, run.result, run.lease_token) == ("cancelled", None, "")
    assert told(run) == ["attempt", "started a", "ended a", "cancelled"]
    assert calls(run, "a")[0]["response"]["status"] == 200
    assert run.events_count == 4
    assert (upstream.count("/echo/a"), upstream.count("/echo/b")) == (1, 0)


# -- Trying again ------------------------------------------------------------------------------------------------------
def test_a_failed_run_goes_on_from_the_step_that_failed(
    project: Project, upstream: Upstream, handed: list[tuple[str, str]], django_capture_on_commit_callbacks: Any
) -> None:
    upstream.reset()
    steps = [
        {"id": "done", "request": {"method": "POST", "url": f"{upstream.url}/echo"}},
        {"id": "fails", "request": {"url": f"{upstream.url}/status/{{{{ 200 if run.attempt > 1 else 400 }}}}"}},
    ]
    run = carry(start(publish(project, steps)))
    assert run.status == "fatal_errored"
    with django_capture_on_commit_callbacks(execute=True):
        assert starting.retry(run, ACTOR)
    assert (run.pk, "steps") in handed
    assert not starting.retry(run, ACTOR)
    run = fresh(run)
    assert (run.status, run.attempt, run.error, run.ended_at) == ("running", 2, None, None)
    run = carry(run)
    assert (run.status, run.error, upstream.count("/echo")) == ("completed", None, 1)
    assert AuditEvent.objects.filter(action="run.retried").count() == 1


@pytest.mark.parametrize("ending", ["completed", "cancelled", "running"])
def test_only_a_failed_run_is_retried(project: Project, ending: str) -> None:
    run = start(publish(project, SET))
    if ending == "completed":
        carry(run)
    elif ending == "cancelled":
        starting.cancel(run, ACTOR)
    before = fresh(run).status
    assert not starting.retry(run, ACTOR)
    assert fresh(run).status == before


def test_a_run_that_another_one_started_is_not_retried_alone(project: Project) -> None:
    """That one has ended without it: the sweeper would cancel it."""
    publish(project, [{"id": "stop", "fail": {"message": "No"}}], name="inner")
    outer = carry(start(publish(project, [{"id": "sub", "run": "inner"}], name="outer")))
    inner = carry(Run.objects.get(parent=outer))
    assert (inner.status, carry(outer).status) == ("fatal_errored", "fatal_errored")
    assert not starting.retry(inner, ACTOR)
    carrier.sweep()
    assert fresh(inner).status == "fatal_errored"
    assert starting.retry(outer, ACTOR)


# -- Events ------------------------------------------------------------------------------------------------------------
def test_an_event_wakes_its_run(
    project: Project, handed: list[tuple[str, str]], django_capture_on_commit_callbacks: Any
) -> None:
    run = carry(start(publish(project, [{"id": "paid", "wait": {"event": "paid"}}])))
    assert run.wake_at is None
    with django_capture_on_commit_callbacks(execute=True):
        assert starting.signal(run, "paid", {"n": 1}, ACTOR)
    assert (run.pk, "steps") in handed
    assert fresh(run).wake_at is not None


@pytest.mark.parametrize("value", ["日" * 340_000, [1] * 500_000], ids=["not ASCII", "short items"])
def test_a_megabyte_is_counted_as_senders_write_it(project: Project, value: Any) -> None:
    parameters = [{"name": "A", "api_name": "a", "type": "text" if isinstance(value, str) else "list"}]
    run = start(publish(project, SET, start_parameters=parameters), {"a": value})
    assert fresh(run).parameters == {"a": value}
    assert starting.signal(run, "any", value, ACTOR)


@pytest.mark.parametrize(
    ("name", "data"), [("", 1), ("a" * 101, 1), ("a\x00", 1), ("a", "\x00"), ("a", "x" * (1024 * 1024))],
    ids=["no name", "long name", "NUL in the name", "NUL", "too large"],
)  # fmt: skip
def test_an_event_that_no_database_keeps_is_refused(project: Project, name: str, data: Any) -> None:
    run = start(publish(project, SET))
    with pytest.raises(InvalidInput):
        starting.signal(run, name, data, ACTOR)


def test_events_that_nobody_waits_for_do_not_pile_up_without_end(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "MAX_SIGNALS", 2)
    run = start(publish(project, SET))
    assert all(starting.signal(run, "a", None, ACTOR) for _ in range(2))
    with pytest.raises(Conflict):
        starting.signal(run, "a", None, ACTOR)


def test_a_hint_never_raises(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "_none_until", float("inf"))
    hints._send(["anybody"], True)
