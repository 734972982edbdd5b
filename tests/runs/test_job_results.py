"""The file of a job run's results: signed, streamed, one line for each item."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core import signing
from django.test import Client
from django.utils import timezone

from apps.lib import broker
from apps.runs import job_results, jobs
from apps.runs.models import JobRun, Run
from tests.api.shop import fails
from tests.cast import Cast
from tests.runs import lab
from tests.runs.test_jobs import WAIT, World, body, fire, fresh, publish, waiting

ACTOR = lab.ACTOR


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any) -> World:
    made = World(django_capture_on_commit_callbacks)
    monkeypatch.setattr(broker, "hand", made.hand)
    return made


def ended(cast: Cast, world: World, **more: Any) -> JobRun:
    publish(cast.project, result={"n": "{{ start.n }}"})
    job_run = fire(world, jobs.create(cast.project, body(**more), ACTOR))
    world.work()
    return fresh(job_run)


def path_of(job_run: JobRun) -> str:
    link = job_results.link_of(job_run)
    assert link is not None
    return str(urlsplit(link["signed_url"]).path)


def read(job_run: JobRun) -> list[dict[str, Any]]:
    answer = Client().get(path_of(job_run))
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/x-ndjson"
    assert "no-store" in answer["Cache-Control"]
    text = b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_every_item_has_its_line_in_the_payloads_order(cast: Cast, world: World) -> None:
    job_run = ended(cast, world, count=45)
    found = read(job_run)
    assert [line["parameters"]["n"] for line in found] == list(range(45))
    items = job_run.items.order_by("number")
    assert [line["runId"] for line in found] == [item.run_id for item in items]
    assert found[3] == {
        "name": "count", "parameters": {"n": 3}, "runId": found[3]["runId"],
        "result": {"status": "completed", "result": {"n": 3}, "statusCode": 200},
    }  # fmt: skip


def test_items_that_failed_or_were_never_started_have_lines_too(cast: Cast, world: World) -> None:
    publish(cast.project, "fail", [{"id": "stop", "fail": {"message": "Not today"}}])
    payload = [
        {"apiName": "fail", "parameters": {}},
        {"apiName": "gone", "parameters": {}},
        {"apiName": "count", "parameters": {"n": 1}},
    ]
    job_run = ended(cast, world, payload=payload)
    Run.objects.filter(pk=job_run.items.get(number=2).run_id).delete()
    failed, never, forgotten = read(job_run)
    assert failed["result"] == {
        "status": "failed", "error": "script-execution-exception", "message": "Not today", "statusCode": 500
    }  # fmt: skip
    assert (never["runId"], never["result"]["error"], never["result"]["statusCode"]) == (None, "not-found", 400)
    assert forgotten["result"]["error"] == "not-found"


def test_a_terminated_job_run_tells_what_became_of_its_items(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job_run = fire(world, jobs.create(cast.project, waiting(2, maxConcurrentRequests=1), ACTOR))
    world.work()
    jobs.terminate(job_run, ACTOR)
    found = [line["result"] for line in read(fresh(job_run))]
    assert [(one["status"], one["error"]) for one in found] == [("canceled", "job-run-terminated")] * 2


def test_a_line_is_json_whatever_stands_in_it(cast: Cast, world: World) -> None:
    odd = "line\nfeed \u2028 ü 😀"
    job_run = ended(cast, world, payload=[{"apiName": "count", "parameters": {"n": 1, "text": "x"}}])
    job_run.items.update(parameters={"n": odd})
    (line,) = read(job_run)
    assert line["parameters"]["n"] == odd


def test_a_job_run_that_goes_on_or_never_began_has_no_results(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job_run = fire(world, jobs.create(cast.project, waiting(1), ACTOR))
    for status in ("PENDING", "PAUSING", "PAUSED", "CANCELED"):
        assert job_results.link_of(JobRun(pk=job_run.pk, status=status)) is None


def test_a_link_lasts_an_hour_and_says_so(cast: Cast, world: World, monkeypatch: Any) -> None:
    job_run = ended(cast, world)
    link = job_results.link_of(job_run)
    assert link is not None
    left = timezone.datetime.fromisoformat(link["signed_url_expiration"]) - timezone.now()  # type: ignore[attr-defined]
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert (link["format"], link["key"]) == ("jsonl", f"{job_run.pk}.jsonl")
    path = path_of(job_run)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3599)
    assert Client().get(path).status_code == 200
    monkeypatch.setattr(time, "time", lambda: now + 3602)
    fails(Client().get(path), 404, "RESOURCE_NOT_FOUND")


BAD = {
    "nonsense": "x",
    "long": "x" * 5000,
    "another signature's": signing.dumps("x", salt="other"),
    "no text": signing.dumps({"a": 1}, salt=job_results.SALT),
    "nobody's": signing.dumps("nobody", salt=job_results.SALT),
    "odd": "%F0%9F%98%80:a:b",
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_token_that_is_not_ours_opens_nothing(cast: Cast, name: str) -> None:
    fails(Client().get(f"/v1/job-results/{BAD[name]}"), 404, "RESOURCE_NOT_FOUND")


def test_a_token_that_was_changed_opens_nothing(cast: Cast, world: World) -> None:
    path = path_of(ended(cast, world))
    for at in (-1, -20, 20):
        changed = path[:at] + ("a" if path[at] != "a" else "b") + path[at:][1:]
        fails(Client().get(changed), 404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_a_link_only_reads(cast: Cast, world: World, method: str) -> None:
    answer = getattr(Client(), method)(path_of(ended(cast, world)))
    fails(answer, 405, "METHOD_NOT_ALLOWED")
