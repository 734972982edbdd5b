"""The Runs API's jobs and job runs at both of its prefixes: the contract's letter, faults, strangers, floods."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, get_args
from urllib.parse import quote

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from intuned_client import models
from intuned_client.transport import parse_payload
from pydantic import BaseModel

from apps.runs import jobs
from apps.runs.api import job_runs as api_of_job_runs
from apps.runs.api import jobs as api_of_jobs
from apps.runs.api.jobs_serializers import MAX_BODY, MAX_ITEMS
from apps.runs.models import Job, JobItem, JobRun, Run
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, Role, User
from apps.workspaces.services import add_member, create_project, end_user, issue_key
from apps.workspaces.tokens import mint_user_token
from tests.api.automations import EMPLOYEES, EVENT, carried, publish
from tests.api.test_runs import each_prefix, refused, root
from tests.cast import EVERY_SCOPE, PASSWORD, Api, Cast, connect, enable

MASK = "********"
BODY: dict[str, Any] = {
    "id": "nightly-sync",
    "payload": [{"apiName": "onboard", "parameters": {}}],
    "configuration": {},
}
WEBHOOK = {"type": "webhook", "url": "https://yourapp.example/results", "headers": {"X-Token": "sink-secret"}}
S3 = {
    "type": "s3",
    "bucket": "results",
    "accessKeyId": "AKIA1",
    "secretAccessKey": "s3-secret",
    "region": "eu-central-1",
}
PROXY = "http://user:proxy-secret@proxy.example:8080"
WHOLE: dict[str, Any] = {
    "id": "nightly-sync",
    "payload": [
        {"apiName": "onboard", "parameters": {"param1": "value1", "param2": 42, "param3": [True, None, 1.5]},
         "requestTimeout": 30, "retry": {"maximumAttempts": 7}},
        {"apiName": "hr/onboard", "parameters": {}},
    ],
    "configuration": {"retry": {"maximumAttempts": 2}, "maxConcurrentRequests": 5, "requestTimeout": 900, "maxRuns": 50,
                      "proxy": "http://configured:other-secret@127.0.0.1:3128"},
    "schedule": {
        "intervals": [{"every": "1d"}, {"every": 3_600_000}],
        "calendars": [{"second": 0, "minute": [0, {"start": 30, "end": 45, "step": 5}], "hour": {"start": 9, "end": 17},
                       "dayOfWeek": "MONDAY", "month": "*", "comment": "Office hours"}],
        "jitter": "30s", "timezone": "Europe/Berlin",
    },
    "sink": WEBHOOK | {"skipOnFail": True, "apisToSend": ["onboard"]},
    "proxy": PROXY,
    "notifications": [{"type": "webhook", "url": "https://yourapp.example/alarm", "headers": {"X-Alarm": "alarm-secret"}}],
    "endUser": "u9",
}  # fmt: skip
SECRETS = ("sink-secret", "s3-secret", "proxy-secret", "other-secret", "alarm-secret")


@pytest.fixture(autouse=True)
def modules(cast: Cast, settings: Any) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    publish(cast.project)
    publish(cast.project, "hr/onboard")


def create(cast: Cast, api: Api | None = None, prefix: str = "plain", **body: Any) -> Any:
    return (api or cast.api).post(f"{root(cast, prefix)}/jobs", BODY | body)


def created(cast: Cast, **body: Any) -> Job:
    answer = create(cast, **body)
    assert answer.status_code == 201, answer.content
    return Job.objects.get(name=answer.json()["id"], project=cast.project, deleted_at=None)


def url_of(cast: Cast, *parts: str, prefix: str = "plain", name: str = "nightly-sync") -> str:
    return "/".join([f"{root(cast, prefix)}/jobs/{quote(name, safe='')}", *parts])


def read(cast: Cast, name: str = "nightly-sync") -> Any:
    answer = cast.api.get(url_of(cast, name=name))
    assert answer.status_code == 200, answer.content
    parse_payload(models.JobsGetResponse, answer.json())
    return answer.json()


def listed(cast: Cast, api: Api | None = None) -> Any:
    answer = (api or cast.api).get(f"{root(cast)}/jobs")
    assert answer.status_code == 200, answer.content
    parse_payload(models.JobsListResponse, answer.json())
    return answer.json()


def triggered(cast: Cast, name: str = "nightly-sync") -> JobRun:
    answer = cast.api.post(url_of(cast, "trigger", name=name))
    assert answer.status_code == 200, answer.content
    return JobRun.objects.get(pk=answer.json()["jobRunId"])


def run_read(cast: Cast, job_run: JobRun) -> Any:
    answer = cast.api.get(url_of(cast, "runs", job_run.pk))
    assert answer.status_code == 200, answer.content
    parse_payload(models.JobsRunsGetResponse, answer.json())
    return answer.json()


# -- One job, from its making to its end -------------------------------------------------------------------------------
@each_prefix
def test_a_job_lives_through_every_route(cast: Cast, prefix: str) -> None:
    api, jobs_url, own = cast.api, f"{root(cast, prefix)}/jobs", url_of(cast, prefix=prefix)
    made = api.post(jobs_url, BODY)
    assert (made.status_code, made.json()) == (201, {"id": "nightly-sync", "message": "created"})
    assert [row["id"] for row in api.get(jobs_url).json()] == ["nightly-sync"]
    assert api.get(own).json()["state"] == "ACTIVE"
    changed = api.call("PUT", own, {name: BODY[name] for name in ("payload", "configuration")})
    assert (changed.status_code, changed.json()) == (200, {"id": "nightly-sync", "message": "updated job successfully"})
    paused = api.post(f"{own}/pause")
    assert (paused.status_code, paused.json(), read(cast)["state"]) == (200, {"message": "Paused"}, "PAUSED")
    resumed = api.post(f"{own}/resume")
    assert (resumed.status_code, resumed.json(), read(cast)["state"]) == (200, {"message": "Resumed"}, "ACTIVE")
    fired = api.post(f"{own}/trigger")
    assert (fired.status_code, set(fired.json())) == (200, {"jobRunId", "message"})
    run_id = fired.json()["jobRunId"]
    assert len(run_id) == 21
    page = api.get(f"{own}/runs").json()
    assert (page["totalCount"], [row["id"] for row in page["jobRuns"]]) == (1, [run_id])
    assert api.get(f"{own}/runs/{run_id}").json()["jobRun"]["status"] == "PENDING"
    ended = api.post(f"{own}/runs/{run_id}/terminate")
    assert (ended.status_code, set(ended.json())) == (200, {"message"})
    assert api.get(f"{own}/runs/{run_id}").json()["jobRun"]["status"] == "TERMINATED"
    gone = api.delete(own)
    assert (gone.status_code, gone.content) == (204, b"")
    refused(api.get(own), 404, "not-found")
    refused(api.delete(own), 404, "not-found")
    assert api.get(jobs_url).json() == []


def test_everything_that_a_body_may_say_is_read_back_without_its_secrets(cast: Cast) -> None:
    assert create(cast, **WHOLE, notKnown={"a": 1}).status_code == 201
    job = Job.objects.get()
    alone, [row] = read(cast), listed(cast)
    assert alone["payload"] == WHOLE["payload"] == row["payload"]
    kept = WHOLE["configuration"] | {"proxy": f"http://configured:{MASK}@127.0.0.1:3128"}
    assert alone["configuration"] == kept == row["configuration"]
    assert alone["schedule"] == WHOLE["schedule"] == row["schedule"]
    assert alone["sink"] == WHOLE["sink"] | {"headers": {"X-Token": MASK}} == row["sink"]
    assert (
        alone["notifications"] == [WHOLE["notifications"][0] | {"headers": {"X-Alarm": MASK}}] == row["notifications"]
    )
    assert alone["proxy"] == f"http://user:{MASK}@proxy.example:8080"
    assert row["proxy"] == {"version": "v1", "url": alone["proxy"]}
    assert (alone["projectId"], row["project_id"], row["workspace_id"]) == (
        cast.project.pk, cast.project.pk, str(cast.workspace.pk),
    )  # fmt: skip
    assert (alone["endUser"], job.user_id, row["source"]) == ("u9", "u9", "API")
    assert alone["next_run_time"] is not None
    assert alone["next_run_time"].endswith("+00:00")
    assert (alone["last_run_time"], alone["auth_session"], alone["reason"]) == (None, None, None)
    assert "notKnown" not in alone
    stored = json.dumps(list(Job.objects.values()), default=str)
    assert not [secret for secret in SECRETS if secret in stored + json.dumps([alone, row])]
    assert job.unseal("sink")["headers"] == {"X-Token": "sink-secret"}
    assert job.unseal("proxy") == {"proxy": PROXY, "configuration": WHOLE["configuration"]["proxy"]}


def test_null_is_as_good_as_absent(cast: Cast) -> None:
    nothing = dict.fromkeys(("schedule", "sink", "proxy", "auth_session", "notifications", "endUser"))
    configuration = dict.fromkeys(("retry", "maxConcurrentRequests", "requestTimeout", "maxRuns", "proxy"))
    item: dict[str, Any] = {"apiName": "onboard", "parameters": {}, "requestTimeout": None, "retry": None}
    created(cast, **nothing, configuration=configuration, payload=[item])
    found = read(cast)
    assert found["configuration"] == {}
    assert found["payload"] == [{"apiName": "onboard", "parameters": {}}]
    assert "schedule" not in found
    assert [found[name] for name in ("sink", "proxy", "auth_session", "next_run_time")] == [None] * 4


def test_a_float_that_is_whole_is_a_number_of_runs(cast: Cast) -> None:
    created(cast, configuration={"maxConcurrentRequests": 5.0, "maxRuns": 7})
    assert json.dumps(read(cast)["configuration"], sort_keys=True) == '{"maxConcurrentRequests": 5, "maxRuns": 7}'


NAMES = {
    "spaces": "a b",
    "slug": "my-job_1",
    "percent": "50%",
    "beyond ascii": "Nächtlich ☾",
    "query": "a?b#c&d=e",
    "long": "x" * 200,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_whatever_name_a_job_has_its_routes_find_it(cast: Cast, name: str) -> None:
    created(cast, id=name)
    assert read(cast, name)["id"] == name
    assert cast.api.get(url_of(cast, "runs", name=name)).json() == {"jobRuns": [], "totalCount": 0}
    assert cast.api.delete(url_of(cast, name=name)).status_code == 204


# -- What does not fit -------------------------------------------------------------------------------------------------
ITEM = BODY["payload"][0]
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no id": ({"id": None}, "id"),
    "an empty id": ({"id": ""}, "id"),
    "an id that is a number": ({"id": 5}, "id"),
    "an id with a slash": ({"id": "a/b"}, "id"),
    "an id that a path cannot name": ({"id": ".."}, "id"),
    "an id with a NUL": ({"id": "a\x00b"}, "id"),
    "an id with a line's end": ({"id": "a\n"}, "id"),
    "a long id": ({"id": "x" * 201}, "id"),
    "no payload": ({"payload": None}, "payload"),
    "a payload that is an object": ({"payload": {"0": ITEM}}, "payload"),
    "an item that is a text": ({"payload": [ITEM, "onboard"]}, "payload.1"),
    "an item without a name": ({"payload": [ITEM, ITEM, ITEM, {"parameters": {}}]}, "payload.3.apiName"),
    "an item whose name is long": ({"payload": [ITEM | {"apiName": "x" * 151}]}, "payload.0.apiName"),
    "an item of an unknown module": ({"payload": [ITEM, ITEM | {"apiName": "none"}]}, "payload.1.apiName"),
    "an item without parameters": ({"payload": [{"apiName": "onboard"}]}, "payload.0.parameters"),
    "parameters that are a list": ({"payload": [ITEM | {"parameters": []}]}, "payload.0.parameters"),
    "parameters with a NUL": ({"payload": [ITEM | {"parameters": {"a": ["\x00"]}}]}, "payload.0.parameters"),
    "parameters of two megabytes": ({"payload": [ITEM | {"parameters": {"a": "x" * 2**21}}]}, "payload.0.parameters"),
    "no time for an item": ({"payload": [ITEM | {"requestTimeout": 0}]}, "payload.0.requestTimeout"),
    "an item's time as a truth": ({"payload": [ITEM | {"requestTimeout": True}]}, "payload.0.requestTimeout"),
    "an item's time as a float": ({"payload": [ITEM | {"requestTimeout": 1.5}]}, "payload.0.requestTimeout"),
    "an item's retry as a number": ({"payload": [ITEM | {"retry": 3}]}, "payload.0.retry"),
    "an item's many attempts": ({"payload": [ITEM | {"retry": {"maximumAttempts": 101}}]}, "payload.0.retry.maximumAttempts"),
    "no configuration": ({"configuration": None}, "configuration"),
    "a configuration that is a list": ({"configuration": []}, "configuration.body"),
    "attempts as a text": ({"configuration": {"retry": {"maximumAttempts": "3"}}}, "configuration.retry.maximumAttempts"),
    "no run at a time": ({"configuration": {"maxConcurrentRequests": 0}}, "configuration.maxConcurrentRequests"),
    "half a run at a time": ({"configuration": {"maxConcurrentRequests": 2.5}}, "configuration.maxConcurrentRequests"),
    "too many at a time": ({"configuration": {"maxConcurrentRequests": 1001}}, "configuration.maxConcurrentRequests"),
    "so many as a float can be": ({"configuration": {"maxConcurrentRequests": 1e308}}, "configuration.maxConcurrentRequests"),
    "a time of two days": ({"configuration": {"requestTimeout": 172_800}}, "configuration.requestTimeout"),
    "no runs at all": ({"configuration": {"maxRuns": 0}}, "configuration.maxRuns"),
    "a configured proxy that is none": ({"configuration": {"proxy": "proxy:80"}}, "configuration.proxy"),
    "a proxy that is none": ({"proxy": "ftp://proxy"}, "proxy"),
    "a private proxy": ({"proxy": "http://10.0.0.1:80"}, "proxy"),
    "a schedule that is a text": ({"schedule": "daily"}, "schedule"),
    "an interval of nothing": ({"schedule": {"intervals": [{"every": "1h"}, {"every": 0}]}}, "schedule.intervals.1.every"),
    "an hour too many": ({"schedule": {"calendars": [{"hour": 24}]}}, "schedule.calendars.0.hour"),
    "no such zone": ({"schedule": {"intervals": [{"every": "1h"}], "timezone": "Mars/Olympus"}}, "schedule.timezone"),
    "a zone with a NUL": ({"schedule": {"intervals": [{"every": "1h"}], "timezone": "UTC\x00"}}, "schedule"),
    "a sink that is a list": ({"sink": []}, "sink"),
    "a sink of no kind": ({"sink": {"type": "ftp"}}, "sink.type"),
    "a sink without a URL": ({"sink": {"type": "webhook"}}, "sink.url"),
    "a sink without a bucket": ({"sink": {name: S3[name] for name in S3 if name != "bucket"}}, "sink.bucket"),
    "a sink's headers with a NUL": ({"sink": WEBHOOK | {"headers": {"X": "\x00"}}}, "sink"),
    "a sink with a mask of nothing": ({"sink": S3 | {"secretAccessKey": MASK}}, "sink.secretAccessKey"),
    "headers with a mask of nothing": ({"sink": WEBHOOK | {"headers": {"X": MASK}}}, "sink.headers"),
    "a proxy with a mask of nothing": ({"proxy": f"http://user:{MASK}@proxy.example"}, "proxy"),
    "a configured mask of nothing": ({"configuration": {"proxy": f"http://u:{MASK}@p.example"}}, "configuration.proxy"),
    "notifications that are an object": ({"notifications": {}}, "notifications"),
    "a notification that is a text": ({"notifications": ["https://x.example"]}, "notifications.0"),
    "a notification by mail": ({"notifications": [{"type": "email", "url": "https://x.example"}]}, "notifications.0.type"),
    "a notification to nowhere": ({"notifications": [{"type": "webhook", "url": "x"}]}, "notifications.0.url"),
    "a notification's mask": (
        {"notifications": [{"type": "webhook", "url": "https://x.example", "headers": {"X": MASK}}]}, "notifications.0.headers",
    ),
    "many notifications": ({"notifications": [{"type": "webhook", "url": "https://x.example"}] * 21}, "notifications"),
    "an auth session without an id": ({"auth_session": {}}, "auth_session.id"),
    "an auth session's many checks": ({"auth_session": {"id": "a", "checkAttempts": 0}}, "auth_session.checkAttempts"),
    "an auth session that is a text": ({"auth_session": "a"}, "auth_session.body"),
    "an auth session that is not there": ({"auth_session": {"id": "ca_none"}}, "auth_session.id"),
    "an end user with a line's end": ({"endUser": "a\nb"}, "endUser"),
    "an end user that is empty": ({"endUser": ""}, "endUser"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "place"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_named_and_nothing_is_made(cast: Cast, body: dict[str, Any], place: str) -> None:
    details = refused(create(cast, **body), 400, "bad-request")
    assert list(details) == [place], details
    assert all(isinstance(text, str) and text for text in details[place])
    assert not Job.objects.exists()


@pytest.mark.parametrize(("body", "place"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_changes_nothing(cast: Cast, body: dict[str, Any], place: str) -> None:
    if place in {"id", "endUser"}:  # of which a change says nothing
        return
    created(cast)
    before = list(Job.objects.values())
    details = refused(cast.api.call("PUT", url_of(cast), BODY | body), 400, "bad-request")
    assert list(details) == [place], details
    assert list(Job.objects.values()) == before


def test_every_fault_is_told_at_once_and_of_a_flood_the_first_fifty(cast: Cast) -> None:
    details = refused(
        create(cast, id="", payload=[{}], configuration={"maxRuns": 0}, sink={"type": "x"}), 400, "bad-request"
    )
    assert set(details) == {"id", "payload.0.apiName", "payload.0.parameters", "configuration.maxRuns", "sink.type"}
    assert len(refused(create(cast, payload=["x"] * MAX_ITEMS), 400, "bad-request")) == 50
    many = [{"apiName": f"none-{number}", "parameters": {}} for number in range(MAX_ITEMS)]
    assert len(refused(create(cast, payload=many), 400, "bad-request")) == 50


KINDS: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**400,
    "",
    "x",
    "\x00",
    [],
    [None],
    [[]],
    {},
    {"": None},
    {"id": {}},
    [{"type": {}}],
]


def places(body: Any, path: tuple[Any, ...] = ()) -> Any:
    """Every place of a JSON value."""
    yield path
    if isinstance(body, (dict, list)):
        for name, inner in body.items() if isinstance(body, dict) else enumerate(body):
            yield from places(inner, (*path, name))


def put_in(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copied = body.copy()
    copied[path[0]] = put_in(body[path[0]], path[1:], value)
    return copied


def test_whatever_stands_in_any_place_is_never_a_fault_of_ours(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def kept(project: Any, body: dict[str, Any], *_: Any) -> Job:
        made.append(body)
        return Job(name=body["id"])

    monkeypatch.setattr(jobs, "create", kept)
    whole = WHOLE | {"auth_session": {"id": "x", "checkAttempts": 1, "saveTrace": True}}
    statuses = {
        cast.api.post(f"{root(cast)}/jobs", put_in(body, path, value)).status_code
        for body in (whole, BODY | {"sink": S3 | {"endpoint": "https://s3.example", "forcePathStyle": True}})
        for path in places(body)
        for value in KINDS
    }
    assert statuses == {201, 400}
    assert made


BODIES = {
    "nothing": b"", "no json": b"{", "a list": b"[]", "latin-1": '{"id": "é"}'.encode("latin-1"),
    "NaN": b'{"id": NaN}', "half a pair": b'{"id": "\\ud800"}', "an infinite number": b'{"id": 1e999}',
    "deep": b'{"payload": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "deep parameters": json.dumps(BODY)[:-1].encode() + b', "x": ' + b'{"a":' * 101 + b"1" + b"}" * 102,
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_job_is_refused(cast: Cast, body: bytes) -> None:
    refused(cast.api.post(f"{root(cast)}/jobs", body), 400, "bad-request")
    assert not Job.objects.exists()


# -- Sizes -------------------------------------------------------------------------------------------------------------
def test_ten_thousand_items_are_a_payload_and_one_more_is_none(cast: Cast) -> None:
    items = [{"apiName": "onboard", "parameters": {"number": number}} for number in range(MAX_ITEMS)]
    began = time.monotonic()
    created(cast, payload=items)
    assert time.monotonic() - began < 5
    assert read(cast)["payload"] == items
    details = refused(create(cast, id="more", payload=[*items, items[0]]), 400, "bad-request")
    assert "10,001" in details["payload"][0]
    details = refused(create(cast, id="flood", payload=[{}] * 100_000), 400, "bad-request")
    assert list(details) == ["payload"]


def test_a_body_of_sixteen_megabytes_is_taken_and_a_larger_one_is_not(cast: Cast) -> None:
    items = [{"apiName": "onboard", "parameters": {"text": "x" * 1_000_000}} for _ in range(16)]
    assert 15_900_000 < len(json.dumps(items)) < MAX_BODY
    created(cast, payload=items)
    [row] = json.loads(cast.api.get(f"{root(cast)}/jobs").getvalue())
    assert row["payload"] == items
    refused(create(cast, id="more", payload=[*items, items[0]]), 413, "payload-too-large")
    refused(cast.api.call("PUT", url_of(cast), b" " * (MAX_BODY + 1)), 413, "payload-too-large")


def test_large_bodies_come_in_turn_and_small_ones_pass_them(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_of_jobs, "PATIENCE", 0.01)
    large = [{"apiName": "onboard", "parameters": {"text": "x" * 1_000_000}}] * 2
    with api_of_jobs.turn(b" " * 2**21):
        answer = create(cast, payload=large)
        refused(answer, 429, "too-many-requests")
        assert answer["Retry-After"] == "5"
        created(cast)
    assert create(cast, id="large", payload=large).status_code == 201
    refused(create(cast, id="none", payload=[*large, {}]), 400, "bad-request")
    assert create(cast, id="again", payload=large).status_code == 201


def test_other_routes_take_a_megabyte_as_ever(cast: Cast) -> None:
    body = {"api": "onboard", "parameters": {}, "x": "x" * 2**20}
    refused(cast.api.post(f"{root(cast)}/run/start", body), 413, "payload-too-large")


def test_a_long_list_is_sent_while_it_is_made(cast: Cast) -> None:
    text = "x" * 700_000
    for number in range(3):
        created(cast, id=f"job-{number}", payload=[{"apiName": "onboard", "parameters": {"text": text}}])
    answer = cast.api.get(f"{root(cast)}/jobs")
    assert answer.streaming
    assert [row["id"] for row in json.loads(answer.getvalue())] == ["job-2", "job-1", "job-0"]


def test_a_list_costs_no_query_for_each_job(cast: Cast) -> None:
    counts = []
    for number in range(3):
        created(cast, **WHOLE | {"id": f"job-{number}"})
        with CaptureQueriesContext(connection) as captured:
            listed(cast)
        counts.append(len(captured))
    assert len(set(counts)) == 1


# -- Masks -------------------------------------------------------------------------------------------------------------
def test_what_is_sent_back_as_it_was_read_keeps_its_secrets(cast: Cast) -> None:
    create(cast, **WHOLE)
    seen = read(cast)
    assert cast.api.call("PUT", url_of(cast), seen).status_code == 200
    job = Job.objects.get()
    assert job.unseal("sink") == WHOLE["sink"]
    assert job.unseal("proxy") == {"proxy": PROXY, "configuration": WHOLE["configuration"]["proxy"]}
    assert job.unseal("notifications") == WHOLE["notifications"]
    assert {**read(cast), "next_run_time": None} == {**seen, "next_run_time": None}
    created(cast, id="s3", sink=S3)
    again = read(cast, "s3")
    assert again["sink"]["secretAccessKey"] == MASK
    assert cast.api.call("PUT", url_of(cast, name="s3"), again).status_code == 200
    assert Job.objects.get(name="s3").unseal("sink") == S3


def test_a_row_of_the_list_is_sent_back_as_it_was_read(cast: Cast) -> None:
    create(cast, **WHOLE)
    assert cast.api.call("PUT", url_of(cast), listed(cast)[0]).status_code == 200
    assert Job.objects.get().unseal("proxy")["proxy"] == PROXY
    for wrong in ({"version": "v1"}, {"url": 5}, {"url": "ftp://x.example"}):
        refused(cast.api.call("PUT", url_of(cast), BODY | {"proxy": wrong}), 400, "bad-request")


def test_of_several_notifications_to_one_address_each_keeps_its_own_headers(cast: Cast) -> None:
    alarm = WHOLE["notifications"][0]
    both = [alarm, alarm | {"headers": {"X-Alarm": "another-secret"}}]
    created(cast, notifications=both)
    assert (
        cast.api.call("PUT", url_of(cast), BODY | {"notifications": listed(cast)[0]["notifications"]}).status_code
        == 200
    )
    assert Job.objects.get().unseal("notifications") == both
    one = BODY | {"notifications": listed(cast)[0]["notifications"][1:]}  # of which of them is not to be told
    assert list(refused(cast.api.call("PUT", url_of(cast), one), 400, "bad-request")) == ["notifications.0.headers"]


ELSEWHERE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "the proxy's host": (lambda body: {"proxy": body["proxy"].replace("proxy.example", "evil.example")}, "proxy"),
    "the proxy's user": (lambda body: {"proxy": body["proxy"].replace("user", "other")}, "proxy"),
    "the configured proxy's port": (
        lambda body: {"configuration": {"proxy": body["configuration"]["proxy"].replace("3128", "3129")}},
        "configuration.proxy",
    ),
    "the sink's host": (lambda body: {"sink": body["sink"] | {"url": "https://evil.example/"}}, "sink.headers"),
    "the notification's host": (
        lambda body: {"notifications": [body["notifications"][0] | {"url": "https://evil.example/"}]},
        "notifications.0.headers",
    ),
}


@pytest.mark.parametrize(("change", "place"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_mask_sends_no_secret_elsewhere(cast: Cast, change: Callable[[Any], Any], place: str) -> None:
    create(cast, **WHOLE)
    seen = read(cast)
    answer = cast.api.call("PUT", url_of(cast), seen | change(seen))
    assert list(refused(answer, 400, "bad-request")) == [place]


def test_a_change_replaces_everything_but_id_state_and_person(cast: Cast) -> None:
    create(cast, **WHOLE)
    cast.api.post(url_of(cast, "pause"))
    assert cast.api.call("PUT", url_of(cast), BODY | {"id": "other", "endUser": "u1"}).status_code == 200
    found = read(cast)
    assert (found["id"], found["state"], found["endUser"]) == ("nightly-sync", "PAUSED", "u9")
    assert found["reason"]["type"] == "paused"
    assert (found["configuration"], found["payload"]) == ({}, BODY["payload"])
    assert [found[name] for name in ("sink", "proxy", "notifications", "next_run_time")] == [None] * 4
    assert "schedule" not in found
    listed(cast)


# -- Ids ---------------------------------------------------------------------------------------------------------------
def test_an_id_is_taken_once_in_a_project_until_its_job_is_deleted(cast: Cast) -> None:
    created(cast)
    refused(create(cast), 409, "conflict")
    other = create_project(cast.workspace, "Other", SYSTEM)
    publish(other)
    api = Api(other, issue_key(cast.workspace, "o", SYSTEM, project=other, scopes=["runs"])[1])
    assert api.post(f"{root(cast, project='Other')}/jobs", BODY).status_code == 201
    assert cast.api.delete(url_of(cast)).status_code == 204
    created(cast)
    assert Job.objects.filter(project=cast.project).count() == 2
    assert len(listed(cast)) == 1


# -- Strangers ---------------------------------------------------------------------------------------------------------
def every_route(cast: Cast, job_run_id: str, prefix: str = "plain") -> list[tuple[str, str]]:
    own = url_of(cast, prefix=prefix)
    return [
        ("GET", own), ("PUT", own), ("DELETE", own), ("POST", f"{own}/pause"), ("POST", f"{own}/resume"),
        ("POST", f"{own}/trigger"), ("GET", f"{own}/runs"), ("GET", f"{own}/runs/{job_run_id}"),
        ("POST", f"{own}/runs/{job_run_id}/terminate"),
    ]  # fmt: skip


@each_prefix
def test_another_tenants_key_finds_neither_job_nor_hint(cast: Cast, prefix: str) -> None:
    created(cast)
    job_run = triggered(cast)
    before = list(Job.objects.values()), list(JobRun.objects.values())
    theirs = Api(cast.project, cast.foreign_key)
    for method, url in [*every_route(cast, job_run.pk, prefix), ("GET", root(cast, prefix) + "/jobs")]:
        refused(theirs.call(method, url, BODY if method == "PUT" else None), 404, "not-found")
    # And in a project of their own a foreign id is none.
    home = Api(cast.foreign_project, cast.foreign_key)
    for method, url in every_route(cast, job_run.pk, prefix):
        there = url.replace(str(cast.workspace.pk), str(cast.foreign_workspace.pk)).replace("/Shop/", "/Rival/")
        refused(home.call(method, there, BODY if method == "PUT" else None), 404, "not-found")
    assert (list(Job.objects.values()), list(JobRun.objects.values())) == before


def test_a_job_run_is_found_below_its_own_job_alone(cast: Cast) -> None:
    created(cast)
    created(cast, id="other")
    job_run = triggered(cast)
    refused(cast.api.get(url_of(cast, "runs", job_run.pk, name="other")), 404, "not-found")
    refused(cast.api.post(url_of(cast, "runs", job_run.pk, "terminate", name="other")), 404, "not-found")
    assert JobRun.objects.get().status == "PENDING"


def test_an_end_users_token_sees_their_own_jobs_alone(cast: Cast) -> None:
    job = created(cast)
    job_run = triggered(cast)
    u1 = Api(cast.project, mint_user_token(cast.project, "u1", 600)[0])
    person = end_user(cast.project, "u2")
    secret = issue_key(cast.workspace, "u2", SYSTEM, project=cast.project, end_user=person, scopes=["runs"])[1]
    u2 = Api(cast.project, secret)
    for api in (u1, u2):
        for method, url in every_route(cast, job_run.pk):
            refused(api.call(method, url, BODY if method == "PUT" else None), 404, "not-found")
        assert listed(cast, api) == []
    assert create(cast, u2, id="theirs", endUser="u1").status_code == 201
    assert Job.objects.get(name="theirs").user_id == "u2"
    assert [row["id"] for row in listed(cast, u2)] == ["theirs"]
    assert [row["id"] for row in listed(cast, u1)] == []
    assert {row["id"] for row in listed(cast)} == {job.name, "theirs"}


def test_a_jobs_auth_session_is_nobody_elses(cast: Cast) -> None:
    account = connect(enable(cast.project, "sandbox"), "u1")
    person = end_user(cast.project, "u2")
    secret = issue_key(cast.workspace, "u2", SYSTEM, project=cast.project, end_user=person, scopes=["runs"])[1]
    answer = create(cast, Api(cast.project, secret), auth_session={"id": account.pk})
    assert list(refused(answer, 400, "bad-request")) == ["auth_session.id"]
    job = created(cast, auth_session={"id": account.pk, "checkAttempts": 2, "createAttempts": None})
    assert job.user_id == "u1"
    assert read(cast)["auth_session"] == {"id": account.pk, "checkAttempts": 2}


def test_a_key_without_the_scope_may_nothing_and_a_viewer_may_read(cast: Cast) -> None:
    created(cast)
    job_run = triggered(cast)
    scopes = [scope for scope in EVERY_SCOPE if scope not in {"runs", "admin"}]
    without = cast.with_key(*scopes)
    viewer = Api(cast.project, Client().post(
        "/api/auth/login", {"email": cast.bob.email, "password": PASSWORD}, content_type="application/json"
    ).json()["token"])  # fmt: skip
    for method, url in [*every_route(cast, job_run.pk), ("GET", root(cast) + "/jobs"), ("POST", root(cast) + "/jobs")]:
        refused(without.call(method, url, {}), 403, "forbidden")
        if method == "GET":
            assert viewer.get(url).status_code == 200
        else:
            refused(viewer.call(method, url, {}), 403, "forbidden")


def test_a_developer_does_all_but_delete(cast: Cast) -> None:
    dora = User.objects.create_user("dora@example.com", PASSWORD)
    add_member(cast.workspace, dora, Role.DEVELOPER, SYSTEM)
    signed_in = {"email": dora.email, "password": PASSWORD}
    answer = Client().post("/api/auth/login", signed_in, content_type="application/json")
    developer = Api(cast.project, answer.json()["token"])
    assert create(cast, developer).status_code == 201
    assert developer.call("PUT", url_of(cast), BODY).status_code == 200
    assert developer.post(url_of(cast, "trigger")).status_code == 200
    refused(developer.delete(url_of(cast)), 403, "forbidden")
    assert cast.with_key("runs").delete(url_of(cast)).status_code == 204


def test_who_did_what_to_a_job_stands_in_the_audit_log(cast: Cast) -> None:
    created(cast, **WHOLE)
    cast.api.call("PUT", url_of(cast), WHOLE)
    for verb in ("pause", "resume", "trigger"):
        cast.api.post(url_of(cast, verb))
    cast.api.delete(url_of(cast))
    events = AuditEvent.objects.filter(project=cast.project, action__startswith="job").order_by("created_at")
    verbs = [event.action.partition(".")[2] for event in events if event.action.startswith("job.")]
    assert verbs == ["created", "changed", "paused", "resumed", "triggered", "deleted"]
    assert {event.actor for event in events} == {events[0].actor}
    stored = json.dumps(list(events.values()), default=str)
    assert not [secret for secret in SECRETS if secret in stored]


# -- Firing ------------------------------------------------------------------------------------------------------------
def test_a_paused_job_is_not_triggered(cast: Cast) -> None:
    created(cast)
    cast.api.post(url_of(cast, "pause"))
    refused(cast.api.post(url_of(cast, "trigger")), 409, "conflict")
    assert not JobRun.objects.exists()


def test_a_repeated_trigger_with_its_key_fires_once(cast: Cast) -> None:
    created(cast)
    answers = [cast.api.post(url_of(cast, "trigger"), **{"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert JobRun.objects.count() == 1


def test_a_job_run_shows_the_job_as_it_was(cast: Cast) -> None:
    create(cast, **WHOLE)
    job_run = triggered(cast)
    cast.api.call("PUT", url_of(cast), BODY)
    row = run_read(cast, job_run)["jobRun"]
    assert (row["type"], row["status"], row["payloads"]) == ("MANUAL", "PENDING", 2)
    assert (row["job_id"], row["project_id"], row["workspace_id"]) == (
        "nightly-sync", cast.project.pk, str(cast.workspace.pk),
    )  # fmt: skip
    assert row["start_time"] == row["created_at"]
    assert (row["end_time"], row["error"], row["reason"]) == (None, None, None)
    shown = row["job_configuration_snapshot"]
    kept = WHOLE["configuration"] | {"proxy": f"http://configured:{MASK}@127.0.0.1:3128"}
    assert shown["configuration"] == kept
    assert shown["sink"]["headers"] == {"X-Token": MASK}
    assert shown["proxy"] == {"version": "v1", "url": f"http://user:{MASK}@proxy.example:8080"}
    assert shown["notifications"][0]["headers"] == {"X-Alarm": MASK}
    stored = json.dumps([row, *JobRun.objects.values()], default=str)
    assert not [secret for secret in SECRETS if secret in stored]


def test_a_job_without_items_succeeds_at_once(cast: Cast) -> None:
    created(cast, payload=[])
    job_run = triggered(cast)
    found = run_read(cast, job_run)
    row = found["jobRun"]
    assert (row["status"], row["payloads"], row["end_time"]) == ("SUCCESS", 0, row["start_time"])
    assert b"".join(Client().get(found["results"]["signed_url"])) == b""
    assert (read(cast)["payload"], listed(cast)[0]["payload"]) == ([], [])


def test_a_job_run_counts_how_its_items_ended(cast: Cast) -> None:
    publish(cast.project, "strict", start_parameters=EMPLOYEES)
    created(cast, payload=[{"apiName": name, "parameters": {}} for name in ("onboard", "strict", "onboard")])
    job_run = triggered(cast)
    for _ in range(3):
        for run_id in Run.objects.living().filter(job_run=job_run).values_list("pk", flat=True):
            carried(run_id)
        jobs.advance(job_run.pk)
    row = run_read(cast, job_run)["jobRun"]
    assert (row["status"], row["payloads"], row["successful_runs"], row["failed_runs"]) == ("FAILURE", 3, 2, 1)
    assert row["end_time"] >= row["start_time"]
    assert Run.objects.filter(job_run=job_run, surface=Run.Surface.JOB).count() == 2


def test_terminating_ends_what_is_under_way_and_is_done_once(cast: Cast) -> None:
    publish(cast.project, "wait", **EVENT)
    created(cast, payload=[{"apiName": "wait", "parameters": {}}] * 3, configuration={"maxConcurrentRequests": 2})
    job_run = triggered(cast)
    jobs.advance(job_run.pk)
    assert Run.objects.living().count() == 2
    assert cast.api.post(url_of(cast, "runs", job_run.pk, "terminate")).json() == {"message": "Terminated"}
    row = run_read(cast, job_run)["jobRun"]
    assert (row["status"], row["reason"]["type"]) == ("TERMINATED", "terminated")
    assert not Run.objects.living().exists()
    again = cast.api.post(url_of(cast, "runs", job_run.pk, "terminate"))
    assert (again.status_code, again.json()) == (200, {"message": "The job run had ended before."})


def test_a_deleted_jobs_runs_are_gone_from_the_api_and_its_items_stay(cast: Cast) -> None:
    created(cast)
    job_run = triggered(cast)
    cast.api.delete(url_of(cast))
    refused(cast.api.get(url_of(cast, "runs", job_run.pk)), 404, "not-found")
    assert JobItem.objects.filter(job_run=job_run).exists()
    assert JobRun.objects.get().status == "TERMINATED"


# -- Lists of job runs ---------------------------------------------------------------------------------------------------
@pytest.fixture
def many(cast: Cast) -> list[JobRun]:
    """Five job runs, the oldest first, the third under way."""
    job = created(cast)
    now = timezone.now()
    rows = []
    for number, status in enumerate(("SUCCESS", "FAILURE", "PENDING", "CANCELED", "SUCCESS")):
        begun = now - timedelta(hours=5 - number)
        ended = None if status == "PENDING" else now - timedelta(minutes=number)
        rows.append(JobRun(job=job, project=job.project, workspace=cast.workspace, type="SCHEDULED" if number % 2 else "MANUAL",
                           status=status, created_at=begun, ended_at=ended, wake_at=None))  # fmt: skip
    return JobRun.objects.bulk_create(rows)


ORDERS = {
    "": "43210", "created_at": "01234", "-createdAt": "43210", "startTime": "01234", "start_time,desc": "43210",
    "status": "31240", "status,asc/created_at,asc": "31204", "start_time,desc/status,asc": "43210", "-status": "40213",
    "endTime": "24310", "end_time,desc": "20134", "type,asc/createdAt": "02413", "created_at:asc": "01234",
    "startTime DESC": "43210", "+start_time": "01234", "status,-created_at": "31240", "status asc, created_at asc": "31204",
    "type,desc;created_at,asc": "13024", "failed_runs,created_at": "43210"[::-1], "payloads:desc": "43210",
}  # fmt: skip


@pytest.mark.parametrize(("sort", "order"), ORDERS.items(), ids=ORDERS)
def test_job_runs_are_sorted_as_asked(cast: Cast, many: list[JobRun], sort: str, order: str) -> None:
    answer = cast.api.get(url_of(cast, f"runs?sortBy={quote(sort)}")).json()
    parse_payload(models.JobsRunsListResponse, answer)
    assert [row["id"] for row in answer["jobRuns"]] == [many[int(number)].pk for number in order]


def test_job_runs_come_in_pages(cast: Cast, many: list[JobRun]) -> None:
    pages = [cast.api.get(url_of(cast, f"runs?pageSize=2&pageNumber={number}")).json() for number in (1, 2, 3, 4)]
    assert [len(page["jobRuns"]) for page in pages] == [2, 2, 1, 0]
    assert {page["totalCount"] for page in pages} == {5}
    assert [row["id"] for page in pages for row in page["jobRuns"]] == [row.pk for row in reversed(many)]
    first = cast.api.get(url_of(cast, "runs?pageSize=10&pageNumber=0&sortBy=start_time,desc/status,asc")).json()
    assert len(first["jobRuns"]) == 5


WRONG_QUERIES = {
    "pageSize=0": "pageSize", "pageSize=501": "pageSize", "pageSize=ten": "pageSize", "pageSize=": "pageSize",
    "pageSize=%C2%B2": "pageSize", "pageNumber=-1": "pageNumber", "pageNumber=1.5": "pageNumber",
    "pageNumber=99999999999999999999": "pageNumber", "sortBy=error": "sortBy", "sortBy=status,up": "sortBy",
    "sortBy=-status,asc": "sortBy", "sortBy=desc": "sortBy", "sortBy=status,asc,desc": "sortBy", "sortBy=--status": "sortBy",
    "sortBy=job__project__settings": "sortBy",
    "sortBy=status/status/status/status/status": "sortBy", "sortBy=%00": "query",
}  # fmt: skip


@pytest.mark.parametrize(("query", "place"), WRONG_QUERIES.items(), ids=WRONG_QUERIES)
def test_a_wrong_page_or_order_is_refused(cast: Cast, query: str, place: str) -> None:
    created(cast)
    assert list(refused(cast.api.get(url_of(cast, f"runs?{query}")), 400, "bad-request")) == [place]


def test_a_list_of_job_runs_costs_no_query_for_each(cast: Cast, many: list[JobRun]) -> None:
    counts = []
    for size in (1, 5):
        with CaptureQueriesContext(connection) as captured:
            cast.api.get(url_of(cast, f"runs?pageSize={size}"))
        counts.append(len(captured))
    assert counts[0] == counts[1]


def test_words_that_the_clients_do_not_know_become_such_as_they_do(cast: Cast) -> None:
    job = created(cast)
    row = JobRun.objects.create(
        job=job, project=job.project, workspace=cast.workspace, type="MANUAL", status="FAILURE", wake_at=None,
        error={"code": "of-our-own", "category": "weather", "message": "No", "details": {"a": 1}},
        reason={"type": "of-our-own", "message": "Why"},
    )  # fmt: skip
    found = run_read(cast, row)["jobRun"]
    assert (found["error"]["code"], found["error"]["category"]) == ("internal-server-error", "infrastructure")
    assert found["error"]["details"] == {"a": 1}
    assert found["reason"] == {"type": "user-request", "message": "Why"}
    assert literals(models.generated.JobsRunsGetResponseJobRunError, "code") == api_of_job_runs.ERRORS
    assert literals(models.generated.JobsRunsGetResponseJobRunError, "category") == api_of_job_runs.ERROR_CATEGORIES
    assert literals(models.generated.JobsRunsGetResponseJobRunReason, "type") == api_of_job_runs.REASONS
    assert literals(models.generated.JobsListResponseValueItemReason, "type") == api_of_jobs.REASONS
    assert literals(models.generated.JobsRunsGetResponseJobRun, "status") >= set(JobRun.Status.values)
    assert literals(models.generated.JobsListResponseValueItem, "state") == set(Job.State.values)


def literals(model: type[BaseModel], name: str) -> set[str]:
    """What a member of a client's model may be."""
    return set(get_args(model.model_fields[name].annotation))


# -- Web tasks -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("prefix", ["", "/api/v1/workspace"])
def test_there_are_no_web_tasks(cast: Cast, prefix: str) -> None:
    url = f"{prefix}/{cast.workspace.pk}/web-tasks"
    person = Api(cast.project, mint_user_token(cast.project, "u1", 600)[0])
    for api in (cast.api, cast.foreign, person):
        refused(api.post(f"{url}/start", {"task": "x"}), 404, "not-found")
        refused(api.get(f"{url}/some/result"), 404, "not-found")
        refused(api.get(url), 404, "not-found")
        refused(api.delete(f"{url}/some"), 405, "method-not-allowed")
    for key in ("", "jf_sk_none", "a.b.c"):
        refused(Api(cast.project, key).post(f"{url}/start", {}), 401, "unauthorized")
        refused(Api(cast.project, key).get(f"{url}/some/result"), 401, "unauthorized")
