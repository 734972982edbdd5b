"""A run, a job run and a connection that fail tell the project's rules and webhooks, in the transaction of the failure."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail as outbox
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.connections import events as connection_events
from apps.runs import deliveries, endings, notices, starting
from apps.runs.models import Delivery, Job, JobRun, Run
from apps.workspaces import notifications, webhooks
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Notice, NotificationRule, WebhookDelivery
from tests.cast import Cast, connect, enable
from tests.runs.lab import ACTOR, carry, publish, start
from tests.workspaces.receiver import receiving

FAILS = [{"id": "stop", "fail": {"message": "There is no laptop left."}}]
WORKS = [{"id": "done", "set": {"value": "1"}}]


@pytest.fixture
def rule(cast: Cast) -> NotificationRule:
    return notifications.create_rule(cast.project, SYSTEM, emails=["ada@example.com"])


def selects(run: Run) -> list[str]:
    """What the run's end costs, by kind of query."""
    with transaction.atomic(), CaptureQueriesContext(connection) as captured:
        endings.ended(run, timezone.now())
    return [query["sql"].split()[0] for query in captured]


def test_a_failed_run_is_told_with_its_module_its_words_and_its_page(cast: Cast, rule: NotificationRule) -> None:
    outbox.outbox = []
    run = carry(start(publish(cast.project, FAILS), user_id="u1"))
    assert run.status == "fatal_errored"
    notice = Notice.objects.get()
    assert (notice.event, notice.subject) == ("run.failed", run.pk)
    assert notice.data["title"] == "A run of onboard for u1 failed"
    assert "There is no laptop left." in notice.data["message"]
    assert notice.data["url"].endswith(f"/runs/run/{run.pk.replace('_', '_5F')}/change/")
    for pk in notifications.bundle(rule.pk):
        notifications.send(pk)
    assert outbox.outbox[0].subject == "Shop: 1 failure · A run of onboard for u1 failed"


def test_webhooks_that_want_it_are_told_of_a_failed_run(cast: Cast) -> None:
    webhooks.create_endpoint(cast.project, "https://app.example/a", SYSTEM, events=["run.failed"])
    webhooks.create_endpoint(cast.project, "https://app.example/b", SYSTEM, events=["connection.created"])
    run = carry(start(publish(cast.project, FAILS), user_id="u1"))
    event = json.loads(WebhookDelivery.objects.get().body)
    assert event["type"] == "run.failed"
    told = event["data"]
    assert (told["runId"], told["api"], told["endUser"], told["jobRunId"]) == (run.pk, "onboard", "u1", None)
    assert run.error is not None
    assert (told["error"], told["message"]) == (run.error["code"], run.error["message"])


@pytest.mark.usefixtures("rule")
def test_a_run_that_completes_or_is_cancelled_tells_nobody(cast: Cast) -> None:
    assert carry(start(publish(cast.project, WORKS))).status == "completed"
    waiting = start(publish(cast.project, WORKS, name="other"))
    starting.cancel(waiting, ACTOR)
    assert not Notice.objects.exists()


@pytest.mark.usefixtures("rule")
def test_a_run_that_another_one_started_is_told_of_by_that_one_alone(cast: Cast) -> None:
    child = publish(cast.project, FAILS, name="child")
    run = start(publish(cast.project, [{"id": "sub", "run": "child"}]))
    for _ in range(3):
        for one in Run.objects.living():
            carry(one)
    run.refresh_from_db()
    assert run.status == "fatal_errored"
    assert Run.objects.get(module=child).status == "fatal_errored"
    assert [notice.subject for notice in Notice.objects.all()] == [run.pk]


def test_where_nobody_listens_a_failed_run_costs_one_select_and_a_completed_one_none(cast: Cast) -> None:
    failed = carry(start(publish(cast.project, FAILS)))
    assert selects(failed) == ["SELECT"]
    completed = carry(start(publish(cast.project, WORKS, name="other")))
    assert selects(completed) == []


@pytest.mark.usefixtures("rule")
def test_a_service_s_words_are_told_without_what_has_a_secret_s_name(cast: Cast) -> None:
    run = start(publish(cast.project, FAILS))
    run.error = {"code": "x", "message": 'The service said {"access_token": "ya29.very-secret"}\x00'}
    notices.run_failed(run, timezone.now())
    message = Notice.objects.get().data["message"]
    assert "very-secret" not in message
    assert "access_token" in message


def test_a_failed_job_run_is_told_with_its_counts(cast: Cast, rule: NotificationRule) -> None:
    webhooks.create_endpoint(cast.project, "https://app.example/a", SYSTEM, events=["job_run.failed"])
    job = Job.objects.create(project=cast.project, name="nightly", payload=[])
    job_run = JobRun.objects.create(
        job=job, project=cast.project, workspace=cast.workspace, type="MANUAL", status="FAILURE", payloads=5,
        started_runs=5, successful_runs=3, failed_runs=2, created_at=timezone.now() - timedelta(minutes=1),
    )  # fmt: skip
    notices.job_run_failed(job_run, timezone.now())
    notice = Notice.objects.get()
    assert (notice.event, notice.subject) == ("job_run.failed", job_run.pk)
    assert notice.data["title"] == "A run of the job nightly failed"
    assert notice.data["message"] == "2 of its 5 items failed, 3 succeeded."
    told = json.loads(WebhookDelivery.objects.get().body)["data"]
    assert (told["jobRunId"], told["jobId"], told["failedRuns"]) == (job_run.pk, "nightly", 2)


@pytest.mark.usefixtures("rule")
def test_a_connection_that_needs_its_person_is_told_by_whose_it_is(cast: Cast) -> None:
    broken = connect(enable(cast.project, "github"), "u1")
    with transaction.atomic():
        connection_events.tell_refreshed_failed(broken, "the provider refused the refresh: invalid_grant")
    notice = Notice.objects.get()
    assert (notice.event, notice.subject) == ("connection.failed", broken.pk)
    assert notice.data["title"] == "github: the account of u1 needs to be connected again"
    assert "invalid_grant" in notice.data["message"]


def test_a_run_ends_also_where_a_rule_is_deleted_at_that_moment(cast: Cast, rule: NotificationRule) -> None:
    """The rule is gone between the look whether anybody listens and the look which rules do."""
    looked = notifications.listeners

    def then_deleted(project_id: Any) -> notifications.Listeners:
        found = looked(project_id)
        notifications.delete_rule(rule, SYSTEM)
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(notifications, "listeners", then_deleted)
        assert carry(start(publish(cast.project, FAILS))).status == "fatal_errored"
    assert not Notice.objects.exists()


def test_the_webhooks_that_a_job_names_get_a_signed_delivery_each(cast: Cast, settings: Any) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    job = Job.objects.create(project=cast.project, name="nightly", payload=[])
    job_run = JobRun(
        job=job,
        project=cast.project,
        workspace=cast.workspace,
        type="MANUAL",
        status="FAILURE",
        payloads=1,
        failed_runs=1,
    )
    with receiving() as receiver:
        named = [
            {"type": "webhook", "url": receiver.url, "headers": {"X-Team": "ops"}},
            {"type": "webhook", "url": receiver.url},
        ]
        job_run.seal("notifications", named)
        job_run.save()
        receiver.secrets.append(deliveries.secret_of(cast.project, SYSTEM)[0])
        notices.job_run_failed(job_run, timezone.now())
        for row in Delivery.objects.order_by("created_at", "pk"):
            assert (row.job_run_id, row.run_id, row.target) == (job_run.pk, "", receiver.url)
            deliveries.deliver(row.pk)
        assert set(Delivery.objects.values_list("status", flat=True)) == {"delivered"}
        assert sorted(got.headers.get("x-team", "") for got in receiver.received) == ["", "ops"]
        for got in receiver.received:
            assert got.event is not None
            assert got.event["type"] == "job_run.failed"
            assert (got.event["data"]["jobRunId"], got.event["data"]["jobId"]) == (job_run.pk, "nightly")
