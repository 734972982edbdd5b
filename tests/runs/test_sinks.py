"""Sinks: what is accepted, how it is read back, and what is written when a run ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.lib import broker
from apps.lib.errors import InvalidInput
from apps.lib.redact import MASK
from apps.runs import sinks, starting
from apps.runs.models import Delivery, Job, JobRun, Run, SinkSettings
from apps.workspaces.audit import SYSTEM
from apps.workspaces.delivering import Trickle
from apps.workspaces.models import AuditEvent, Project
from tests.cast import Cast
from tests.runs.lab import ACTOR, carry, publish, start

HOOK = {"type": "webhook", "url": "https://app.example/results"}
BUCKET: dict[str, Any] = {
    "type": "s3", "bucket": "results", "accessKeyId": "AKIA1", "secretAccessKey": "hush-hush", "region": "eu-central-1",
}  # fmt: skip
GREET = [{"id": "greet", "set": {"text": "Hello"}}]
STOP = [{"id": "stop", "fail": {"message": "Not today"}}]


def run_with(project: Project, sink: dict[str, Any] | None, steps: list[dict[str, Any]] = GREET, **more: Any) -> Run:
    module = publish(project, steps, more.pop("name", "onboard"), result={"text": "Hello"})
    return start(module, options=starting.Options(maximum_attempts=1, sink=sink, **more))


# -- What is accepted ------------------------------------------------------------------------------------------------
def test_what_is_null_or_not_known_is_left_out() -> None:
    given = {**HOOK, "headers": None, "skipOnFail": None, "colour": "red", "bucket": "x"}
    assert sinks.clean(given) == HOOK
    assert sinks.clean({**BUCKET, "prefix": "", "endpoint": None, "url": 3}) == {**BUCKET, "prefix": ""}


@pytest.mark.parametrize(
    ("given", "member"),
    [
        ("text", "sink"), ([], "sink"), ({}, "type"), ({"type": "ftp"}, "type"), ({"type": ["webhook"]}, "type"),
        ({"type": "webhook"}, "url"),
        ({"url": 3}, "url"), ({"url": "app.example"}, "url"), ({"url": "http://app.example"}, "url"),
        ({"url": "https://127.0.0.1/"}, "url"), ({"url": "https://169.254.169.254/"}, "url"),
        ({"url": "https://me:pass@app.example"}, "url"), ({"url": "https://app.example/\x00"}, "url"),
        ({"url": "https://app.example/" + "x" * 2000}, "url"),
        ({"headers": []}, "headers"), ({"headers": {"X": 1}}, "headers"), ({"headers": {"X Y": "1"}}, "headers"),
        ({"headers": {"": "1"}}, "headers"), ({"headers": {"X": "a\r\nY: b"}}, "headers"),
        ({"headers": {"X": "\x00"}}, "headers"), ({"headers": {"X": "\ud800"}}, "headers"),
        ({"headers": {f"X{n}": "1" for n in range(51)}}, "headers"), ({"headers": {"X": "a" * 20_000}}, "headers"),
        ({"skipOnFail": "yes"}, "skipOnFail"), ({"apisToSend": "onboard"}, "apisToSend"),
        ({"apisToSend": [1]}, "apisToSend"), ({"apisToSend": ["\x00"]}, "apisToSend"),
        ({"apisToSend": ["a"] * 1001}, "apisToSend"),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_a_webhook_that_cannot_be_is_refused_by_its_member(given: Any, member: str) -> None:
    whole = {**HOOK, **given} if isinstance(given, dict) and given and "type" not in given else given
    with pytest.raises(InvalidInput) as caught:
        sinks.clean(whole)
    assert list(caught.value.details) == [member]


@pytest.mark.parametrize(
    ("given", "member"),
    [
        ({"bucket": "a/b"}, "bucket"), ({"bucket": ".."}, "bucket"), ({"bucket": None}, "bucket"),
        ({"accessKeyId": ""}, "accessKeyId"), ({"secretAccessKey": "a b"}, "secretAccessKey"),
        ({"region": "eu.example/"}, "region"), ({"region": ""}, "region"),
        ({"prefix": "a\n"}, "prefix"), ({"prefix": "../"}, "prefix"), ({"prefix": "é" * 201}, "prefix"),
        ({"prefix": "\ud800"}, "prefix"), ({"prefix": 1}, "prefix"),
        ({"endpoint": "s3.example"}, "endpoint"), ({"endpoint": "https://10.0.0.1"}, "endpoint"),
        ({"endpoint": "https://s3.example/?x=1"}, "endpoint"), ({"forcePathStyle": 1}, "forcePathStyle"),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_a_bucket_that_cannot_be_is_refused_by_its_member(given: dict[str, Any], member: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        sinks.clean({**BUCKET, **given})
    assert list(caught.value.details) == [member]


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        sinks.clean({"type": "s3", "region": "", "prefix": "../"})
    assert set(caught.value.details) == {"bucket", "accessKeyId", "secretAccessKey", "region", "prefix"}


# -- How it is read back ---------------------------------------------------------------------------------------------
def test_secrets_read_back_masked_and_come_back_as_they_were() -> None:
    hook = sinks.clean({**HOOK, "headers": {"Authorization": "Bearer hush", "X-Team": "a"}})
    assert sinks.masked(hook) == {**hook, "headers": {"Authorization": MASK, "X-Team": MASK}}
    assert sinks.masked(sinks.clean(BUCKET)) == {**BUCKET, "secretAccessKey": MASK}
    assert sinks.masked(None) is None
    for sink in (hook, BUCKET):
        assert sinks.accepted(sinks.masked(sink), sink) == sink


def test_a_header_s_value_goes_to_no_other_origin_than_it_was_given_for() -> None:
    stored = sinks.clean({**HOOK, "headers": {"Authorization": "Bearer hush"}})
    read = {**HOOK, "headers": {"Authorization": MASK}}
    moved = sinks.accepted({**read, "url": "https://app.example:443/elsewhere"}, stored)
    assert moved["headers"] == {"Authorization": "Bearer hush"}
    for url in ("https://evil.example/results", "https://app.example:8443/results"):
        with pytest.raises(InvalidInput) as caught:
            sinks.accepted({**read, "url": url}, stored)
        assert list(caught.value.details) == ["headers"]


@pytest.mark.parametrize("stored", [None, HOOK, {**HOOK, "headers": {"Y": "1"}}, BUCKET], ids=["none", "a", "b", "c"])
def test_a_mask_that_stands_for_nothing_is_refused(stored: dict[str, Any] | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        sinks.accepted({**HOOK, "headers": {"X": MASK}}, stored)
    assert list(caught.value.details) == ["headers"]
    if stored is not BUCKET:
        with pytest.raises(InvalidInput) as caught:
            sinks.accepted({**BUCKET, "secretAccessKey": MASK}, stored)
        assert list(caught.value.details) == ["secretAccessKey"]


# -- A project's default ---------------------------------------------------------------------------------------------
def test_a_project_without_a_default_pays_nothing_for_the_question(cast: Cast) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert sinks.default_of(cast.project) is None
    assert len(queries) == 0


def test_a_default_is_sealed_audited_and_taken_away_again(cast: Cast) -> None:
    sinks.change_default(cast.project, {**BUCKET, "prefix": "daily/"}, SYSTEM)
    fresh = Project.objects.get(pk=cast.project.pk)
    assert sinks.default_of(fresh) == {**BUCKET, "prefix": "daily/"}
    assert "hush-hush" not in str(SinkSettings.objects.values().get())
    event = AuditEvent.objects.get(action="sink.changed")
    assert event.details["sink"] == "s3://results/daily/"
    sinks.change_default(fresh, None, SYSTEM)
    assert sinks.default_of(Project.objects.get(pk=cast.project.pk)) is None
    assert "hush-hush" not in str(list(AuditEvent.objects.values()))


def test_a_default_that_cannot_be_changes_nothing(cast: Cast) -> None:
    sinks.change_default(cast.project, HOOK, SYSTEM)
    with pytest.raises(InvalidInput) as caught, transaction.atomic():
        sinks.change_default(cast.project, {**HOOK, "url": "https://127.0.0.1"}, SYSTEM)
    assert list(caught.value.details) == ["sink.url"]
    assert sinks.default_of(Project.objects.get(pk=cast.project.pk)) == HOOK


# -- What is written -------------------------------------------------------------------------------------------------
def test_a_completed_run_is_told_in_the_body_of_the_contract(cast: Cast) -> None:
    run = carry(run_with(cast.project, HOOK, name="hr/onboard"))
    row = Delivery.objects.get()
    assert json.loads(row.body) == {
        "apiInfo": {
            "name": "hr/onboard",
            "parameters": {},
            "runId": run.pk,
            "result": {"status": "completed", "result": {"text": "Hello"}, "statusCode": 200},
        },
        "workspaceId": str(cast.workspace.pk),
        "project": {"id": cast.project.pk, "name": "Shop"},
    }
    assert (row.kind, row.target, row.host, row.status) == ("webhook", HOOK["url"], "app.example", "pending")
    assert (row.run_id, row.job_run_id, row.api) == (run.pk, "", "hr/onboard")
    assert (row.created_at, row.next_try_at) == (run.ended_at, run.ended_at)


def test_a_failed_run_is_told_by_its_code(cast: Cast) -> None:
    carry(run_with(cast.project, HOOK, STOP))
    result = json.loads(Delivery.objects.get().body)["apiInfo"]["result"]
    assert (result["status"], result["error"], result["statusCode"]) == ("failed", "script-execution-exception", 500)
    assert "Not today" in result["message"]


@pytest.mark.parametrize(
    ("status", "error", "shown"),
    [
        ("fatal_errored", {"code": "script-timeout", "message": "Late."}, ("failed", "script-timeout", 408)),
        ("fatal_errored", {"code": "internal-server-error"}, ("failed", "internal-server-error", 500)),
        ("fatal_errored", {"code": "NOT_FOUND"}, ("failed", "script-execution-exception", 500)),
        ("fatal_errored", None, ("failed", "script-execution-exception", 500)),
        ("cancelled", {"type": "job-run-terminated"}, ("canceled", "job-run-terminated", 500)),
        ("cancelled", None, ("canceled", "cancelled-user-action", 500)),
    ],
    ids=["time", "ours", "the module's own", "none", "with its job run", "by somebody"],
)
def test_how_a_run_ended_is_told_in_the_clients_words(
    cast: Cast, status: str, error: dict[str, Any] | None, shown: tuple[str, str, int]
) -> None:
    run = run_with(cast.project, None)
    run.status, run.error = status, error
    result = sinks.api_info(run)["result"]
    assert (result["status"], result["error"], result["statusCode"]) == shown
    assert result["message"]


def test_the_job_and_the_auth_session_are_named(cast: Cast) -> None:
    job = Job.objects.create(project=cast.project, name="nightly")
    job_run = JobRun.objects.create(job=job, project=cast.project, workspace=cast.workspace, type="MANUAL")
    run = run_with(cast.project, HOOK, job_run=job_run.pk)
    run.status, run.auth_session = Run.Status.COMPLETED, "ann"
    sinks.write_delivery(run, timezone.now())
    row = Delivery.objects.get()
    body = json.loads(row.body)
    assert row.job_run_id == job_run.pk
    assert (body["authSession"], body["projectJob"], body["projectJobRun"]) == (
        {"id": "ann"}, {"id": "nightly"}, {"id": job_run.pk},
    )  # fmt: skip


def test_a_run_that_outlives_its_job_run_is_delivered_all_the_same(cast: Cast) -> None:
    run = run_with(cast.project, HOOK, job_run="forgotten")
    run.status = Run.Status.COMPLETED
    sinks.write_delivery(run, timezone.now())
    body = json.loads(Delivery.objects.get().body)
    assert (body["projectJobRun"], "projectJob" in body) == ({"id": "forgotten"}, False)


@pytest.mark.parametrize(
    ("filters", "steps", "sent"),
    [
        ({}, STOP, 1), ({"skipOnFail": True}, STOP, 0), ({"skipOnFail": False}, STOP, 1), ({"skipOnFail": True}, GREET, 1),
        ({"apisToSend": ["other"]}, GREET, 0), ({"apisToSend": ["other", "onboard"]}, GREET, 1),
        ({"apisToSend": []}, GREET, 1), ({"apisToSend": ["onboard"], "skipOnFail": True}, STOP, 0),
    ],
    ids=["a failure", "skipped", "not skipped", "no failure", "of others", "of it", "of all", "both"],
)  # fmt: skip
def test_what_the_sink_does_not_want_is_not_written(
    cast: Cast, filters: dict[str, Any], steps: list[dict[str, Any]], sent: int
) -> None:
    carry(run_with(cast.project, {**HOOK, **filters}, steps))
    assert Delivery.objects.count() == sent


def test_a_cancelled_run_and_one_that_a_step_started_deliver_nothing(cast: Cast) -> None:
    starting.cancel(run_with(cast.project, HOOK), ACTOR)
    sinks.change_default(cast.project, HOOK, SYSTEM)
    publish(cast.project, GREET, "child")
    parent = start(publish(cast.project, [{"id": "call", "run": "child"}], "parent"))
    carry(parent)
    child = carry(Run.objects.get(parent=parent))
    assert carry(parent).status == child.status == "completed"
    assert [row.run_id for row in Delivery.objects.all()] == [parent.pk]


def test_the_default_is_that_of_when_the_run_started_and_its_own_goes_before(cast: Cast) -> None:
    sinks.change_default(cast.project, HOOK, SYSTEM)
    module = publish(cast.project, GREET)
    module.project = Project.objects.get(pk=cast.project.pk)
    first = start(module)
    own = start(module, options=starting.Options(sink=BUCKET))
    sinks.change_default(cast.project, None, SYSTEM)
    for run in (first, own):
        carry(run)
    assert {row.run_id: row.kind for row in Delivery.objects.all()} == {first.pk: "webhook", own.pk: "s3"}


def test_a_run_retried_after_its_failure_delivers_each_end(cast: Cast) -> None:
    run = carry(run_with(cast.project, HOOK, STOP))
    starting.retry(run, ACTOR)
    carry(run)
    assert Delivery.objects.filter(run_id=run.pk).count() == 2


def test_the_key_of_an_object_names_project_module_and_run(cast: Cast) -> None:
    Project.objects.filter(pk=cast.project.pk).update(name="Ünï +?#% shop")
    cast.project.refresh_from_db()
    sink = {**BUCKET, "prefix": "a b/"}
    run = carry(run_with(cast.project, sink, name="hr/on-board"))
    row = Delivery.objects.get()
    assert row.target == f"s3://results/a b/Ünï +?#% shop/hr/on-board/{run.pk}.json"
    assert row.host == "s3.eu-central-1.amazonaws.com"
    assert sinks.target_of(BUCKET, "..", "a/./b", "r") == "s3://results/__/a/_/b/r.json"


def test_nothing_secret_stands_in_plain_in_a_delivery(cast: Cast) -> None:
    hook = {**HOOK, "url": "https://app.example/results?token=hush-1", "headers": {"Authorization": "hush-2"}}
    carry(run_with(cast.project, hook))
    carry(run_with(cast.project, BUCKET))
    text = str(list(Delivery.objects.values()))
    assert not [secret for secret in ("hush-1", "hush-2", "hush-hush") if secret in text]
    assert Delivery.objects.get(kind="webhook").target == "https://app.example/results?…"


# -- What it costs ---------------------------------------------------------------------------------------------------
def test_a_run_with_a_sink_pays_one_insert_and_one_hint(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    def cost(sink: dict[str, Any] | None) -> list[str]:
        run = run_with(cast.project, sink)
        with CaptureQueriesContext(connection) as queries:
            carry(run)
        return [query["sql"] for query in queries]

    handed: list[tuple[str, int]] = []
    monkeypatch.setattr(broker, "hand", lambda task, ids, **options: handed.append((task, len(list(ids)))))
    monkeypatch.setattr(sinks, "_hints", Trickle(20, 5))
    cost(HOOK)  # names are known from here on
    without = cost(None)
    handed.clear()
    with django_capture_on_commit_callbacks(execute=True):
        with_one = cost(HOOK)
    added = [sql for sql in with_one if "runs_delivery" in sql]
    assert (len(with_one) - len(without), len(added)) == (1, 1)
    assert added[0].startswith("INSERT")
    assert [count for task, count in handed if task == "runs.deliver"] == [1]


def test_ten_thousand_deliveries_hint_at_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[str] = []
    monkeypatch.setattr(broker, "hand", lambda task, ids, **options: handed.extend(ids))
    monkeypatch.setattr(sinks, "_hints", Trickle(20, 60))
    for number in range(10_000):
        sinks.hint(str(number), ("proj_a", "app.example"))
    sinks.hint("of another", ("proj_b", "app.example"))
    assert len(handed) == 21
    assert handed[-1] == "of another"
