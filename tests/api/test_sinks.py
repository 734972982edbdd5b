"""Sinks over the API: with a run, as a project's setting, their deliveries, and the secret that signs them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from intuned_client.client import IntunedClient
from intuned_client.exceptions import ValidationError

from apps.lib.redact import MASK
from apps.runs import deliveries, sinks
from apps.runs.models import Delivery, Run
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, Project
from apps.workspaces.tokens import mint_user_token
from tests.api.automations import carried, publish
from tests.api.shop import error_of
from tests.api.test_wire import script
from tests.cast import PASSWORD, Api, Cast
from tests.peers.moto import Moto
from tests.product import Product
from tests.workspaces.receiver import Receiver, receiving

HOOK = {"type": "webhook", "url": "https://app.example/results", "headers": {"Authorization": "Bearer hush"}}
BUCKET: dict[str, Any] = {
    "type": "s3", "bucket": "results", "accessKeyId": "AKIA1", "secretAccessKey": "hush-hush", "region": "eu-central-1",
}  # fmt: skip


def run_path(cast: Cast, rest: str) -> str:
    return f"/{cast.workspace.pk}/projects/{cast.project.name}/{rest}"


def start(cast: Cast, sink: Any, **more: Any) -> Any:
    body = {"api": "onboard", "parameters": {}, "sink": sink, **more}
    return cast.api.post(run_path(cast, "run/start"), body)


def delivered(cast: Cast, sink: Any = HOOK, **changes: Any) -> Delivery:
    """The delivery of a run that has ended."""
    run = carried(start(cast, sink).json()["runId"])
    Delivery.objects.filter(run_id=run.pk).update(**changes)
    return Delivery.objects.get(run_id=run.pk)


@pytest.fixture(autouse=True)
def _module(cast: Cast) -> None:
    publish(cast.project)


# -- With a run ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sink", [HOOK, BUCKET], ids=["webhook", "s3"])
def test_a_run_s_own_sink_gets_its_result(cast: Cast, sink: dict[str, Any]) -> None:
    row = delivered(cast, sink)
    assert (row.kind, row.api) == (sink["type"], "onboard")
    assert row.unseal("sink") == sink


@pytest.mark.parametrize(
    ("sink", "members"),
    [
        ("x", ["sink"]), ([], ["sink"]), ({}, ["sink.type"]), ({"type": "webhook"}, ["sink.url"]),
        ({**HOOK, "url": "http://10.0.0.1/"}, ["sink.url"]), ({**HOOK, "headers": {"X": MASK}}, ["sink.headers"]),
        ({"type": "s3", "bucket": "abc"}, ["sink.accessKeyId", "sink.region", "sink.secretAccessKey"]),
        ({**BUCKET, "secretAccessKey": MASK}, ["sink.secretAccessKey"]),
        ({**BUCKET, "prefix": "../"}, ["sink.prefix"]), ({**BUCKET, "bucket": "a\x00"}, ["sink.bucket"]),
    ],
    ids=lambda value: json.dumps(value)[:60],
)  # fmt: skip
def test_a_sink_that_cannot_be_starts_no_run(cast: Cast, sink: Any, members: list[str]) -> None:
    answer = start(cast, sink)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")
    assert sorted(answer.json()["details"]) == members
    assert not Run.objects.exists()


def test_null_is_as_good_as_none(cast: Cast) -> None:
    run = carried(start(cast, None).json()["runId"])
    assert (run.status, Delivery.objects.count()) == ("completed", 0)


def test_nothing_of_a_sink_is_shown_with_its_run(cast: Cast) -> None:
    row = delivered(cast)
    for path in (run_path(cast, f"run/{row.run_id}/result"), run_path(cast, f"run/{row.run_id}/trace"),
                 f"runs/{row.run_id}", f"deliveries/{row.pk}", "deliveries"):  # fmt: skip
        answer = cast.api.get(path)
        assert answer.status_code == 200
        assert "hush" not in answer.content.decode()


# -- The project's setting -------------------------------------------------------------------------------------------
def test_a_default_sink_is_set_read_back_masked_kept_and_taken_away(cast: Cast) -> None:
    assert cast.api.get("settings").json()["sink"] is None
    for sink, masked in (
        (HOOK, {**HOOK, "headers": {"Authorization": MASK}}), (BUCKET, {**BUCKET, "secretAccessKey": MASK}),
    ):  # fmt: skip
        assert cast.api.patch("settings", {"sink": sink}).json()["sink"] == masked
        assert cast.api.get("settings").json()["sink"] == masked
        again = cast.api.patch("settings", {"sink": {**masked, "skipOnFail": True}})
        assert (again.status_code, again.json()["sink"]["skipOnFail"]) == (200, True)
        assert sinks.default_of(Project.objects.get(pk=cast.project.pk)) == {**sink, "skipOnFail": True}
    assert delivered(cast, None).kind == "s3"
    assert cast.api.patch("settings", {"colour": "#112233"}).json()["sink"]["type"] == "s3"
    assert cast.api.patch("settings", {"sink": None}).json()["sink"] is None
    start(cast, None)
    assert Delivery.objects.count() == 1


@pytest.mark.parametrize(
    ("sink", "member"),
    [("x", "sink"), ({"type": "ftp"}, "sink.type"), ({**HOOK, "url": "https://127.0.0.1"}, "sink.url"),
     ({**HOOK, "headers": {"X": MASK}}, "sink.headers")],
    ids=["text", "kind", "private", "mask"],
)  # fmt: skip
def test_a_default_that_cannot_be_changes_nothing(cast: Cast, sink: Any, member: str) -> None:
    answer = cast.api.patch("settings", {"sink": sink, "colour": "#112233"})
    assert (answer.status_code, list(error_of(answer)["details"])) == (400, [member])
    fresh = Project.objects.get(pk=cast.project.pk)
    assert (fresh.colour, sinks.default_of(fresh)) == ("#4f46e5", None)


def test_only_admins_change_the_default(cast: Cast) -> None:
    assert cast.with_key("runs", "execute").patch("settings", {"sink": HOOK}).status_code == 403


# -- Deliveries ------------------------------------------------------------------------------------------------------
def test_deliveries_are_listed_newest_first_filtered_and_paged(cast: Cast) -> None:
    rows = [delivered(cast), delivered(cast, status="dead", next_try_at=None), delivered(cast, job_run_id="jr1")]

    def listed(query: str) -> list[str]:
        return [one["id"] for one in cast.api.get(f"deliveries?{query}").json()["deliveries"]]

    first, second, third = (row.pk for row in rows)
    assert listed("") == [third, second, first]
    assert listed("status=dead") == [second]
    assert listed(f"runId={rows[0].run_id}") == [first]
    assert listed("jobRunId=jr1") == [third]
    assert listed("jobRunId=none") == []
    page = cast.api.get("deliveries?limit=2").json()
    assert [one["id"] for one in page["deliveries"]] == [third, second]
    assert listed(f"limit=2&cursor={page['nextCursor']}") == [first]
    for query in ("status=lost", "limit=0", "cursor=x", "runId=%00"):
        assert cast.api.get(f"deliveries?{query}").status_code == 400
    assert "body" not in page["deliveries"][0]


def test_a_delivery_is_read_with_its_tries_and_its_body(cast: Cast) -> None:
    publish(cast.project, "secretive", result={"password": "hush", "text": "Hello"})
    run = carried(
        cast.api.post(run_path(cast, "run/start"), {"api": "secretive", "parameters": {}, "sink": HOOK}).json()["runId"]
    )
    row = Delivery.objects.get(run_id=run.pk)
    found = cast.api.get(f"deliveries/{row.pk}").json()
    assert found["body"]["apiInfo"]["result"]["result"] == {"password": MASK, "text": "Hello"}
    assert (found["messageId"], found["runId"], found["jobRunId"]) == (f"msg_{row.pk}", run.pk, None)
    assert (found["target"], found["kind"], found["status"]) == (HOOK["url"], "webhook", "pending")
    assert (found["tries"], found["tryCount"], found["deliveredAt"]) == ([], 0, None)
    assert error_of(cast.api.get("deliveries/nothing"))["code"] == "RESOURCE_NOT_FOUND"


def test_one_is_delivered_again(cast: Cast) -> None:
    row = delivered(cast, status="dead", next_try_at=None, try_count=30)
    answer = cast.api.post(f"deliveries/{row.pk}/redeliver")
    assert (answer.status_code, answer.json()["status"], answer.json()["tryCount"]) == (202, "pending", 0)
    assert AuditEvent.objects.get(action="delivery.redelivered").target == row.pk
    assert cast.api.post("deliveries/nothing/redeliver").status_code == 404


@pytest.mark.parametrize(
    ("body", "count"),
    [({}, 2), ({"status": "dead"}, 2), ({"status": "delivered"}, 1), ({"jobRunId": "jr1"}, 1), ({"runId": "none"}, 0),
     ({"status": None, "ids": None}, 2), ({"ids": []}, 0), ({"ids": ["nothing"]}, 0)],
    ids=json.dumps,
)  # fmt: skip
def test_many_are_delivered_again(cast: Cast, body: dict[str, Any], count: int) -> None:
    delivered(cast)
    delivered(cast, status="dead", next_try_at=None, job_run_id="jr1")
    delivered(cast, status="dead", next_try_at=None)
    delivered(cast, status="delivered", next_try_at=None)
    answer = cast.api.post("deliveries/redeliver", body)
    assert (answer.status_code, answer.json()) == (202, {"redelivered": count})
    assert Delivery.objects.filter(status="pending").count() == 1 + count


@pytest.mark.parametrize(
    "body",
    [{"status": "pending"}, {"ids": "x"}, {"ids": [1]}, {"ids": ["a"] * 1001}, {"runId": 1}, {"run": "x"}, {"ids": ["\x00"]}, []],
    ids=lambda body: json.dumps(body)[:40],
)  # fmt: skip
def test_a_filter_that_is_none_sends_nothing_again(cast: Cast, body: Any) -> None:
    delivered(cast, status="dead", next_try_at=None)
    assert cast.api.post("deliveries/redeliver", body).status_code == 400
    assert Delivery.objects.get().status == "dead"


def test_deliveries_are_for_admins_of_the_project_alone(cast: Cast) -> None:
    row = delivered(cast)
    user = Api(cast.project, mint_user_token(cast.project, "u1", 600)[0])
    for api, status in ((cast.foreign, 404), (cast.with_key("runs"), 403), (user, 403)):
        assert api.get("deliveries").status_code == status
        assert api.get(f"deliveries/{row.pk}").status_code == status
        assert api.post(f"deliveries/{row.pk}/redeliver").status_code == status
        assert api.post("deliveries/redeliver").status_code == status


# -- The secret ------------------------------------------------------------------------------------------------------
def test_the_secret_is_made_at_the_first_reading_and_rotated_with_an_overlap(cast: Cast) -> None:
    first = cast.api.get("webhook-secret").json()
    assert first["secret"].startswith("whsec_")
    assert first["previousUntil"] is None
    assert cast.api.get("webhook-secret").json() == first
    rotated = cast.api.post("webhook-secret/rotate").json()
    assert rotated["secret"] != first["secret"]
    assert rotated["previousUntil"] is not None
    assert cast.api.get("webhook-secret").json() == rotated
    told = list(AuditEvent.objects.filter(action__startswith="webhook_secret.").values())
    assert len(told) == 4
    assert not [secret for secret in (first["secret"], rotated["secret"]) if secret in str(told)]


def test_a_viewer_who_may_read_settings_may_not_read_the_secret(cast: Cast) -> None:
    token = cast.api.post("/api/auth/login", {"email": cast.bob.email, "password": PASSWORD}).json()["token"]
    viewer = Api(cast.project, token)
    assert viewer.get("settings").status_code == 200
    assert viewer.get("deliveries").status_code == 200
    assert viewer.get("webhook-secret").status_code == 403
    assert viewer.post("webhook-secret/rotate").status_code == 403
    assert viewer.post("deliveries/redeliver").status_code == 403
    for api, status in ((cast.foreign, 404), (cast.with_key("runs"), 403)):
        assert api.get("webhook-secret").status_code == status
        assert api.post("webhook-secret/rotate").status_code == status


# -- At the running product, with the published client ---------------------------------------------------------------
PUBLISH = """
from apps.workspaces.models import Project
from tests.api.automations import FAIL, GREET, publish
project = Project.objects.select_related("workspace").get(pk=sys.argv[1])
publish(project, "sinks/greet", **GREET)
publish(project, "sinks/stop", **FAIL)
print(project.workspace_id, project.name)
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def place(product: Product) -> list[str]:
    return script(product, PUBLISH, product.facts["project_id"]).strip().split(maxsplit=1)


@pytest.fixture
def client(product: Product, place: list[str]) -> Iterator[IntunedClient]:
    url = f"{product.url}/api/v1/workspace"
    with IntunedClient(api_key=product.facts["api_key"], workspace_id=place[0], base_url=url, timeout=30) as found:
        yield found


def wait_for(what: Any, patience: float = 40) -> Any:
    deadline = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.mark.acceptance
def test_a_result_reaches_the_webhook_of_the_client_s_body_signed(
    product: Product, client: IntunedClient, place: list[str], receiver: Receiver
) -> None:
    receiver.secrets = [product.call("GET", "webhook-secret").json()["secret"]]
    receiver.answers = [500]  # and then it is taken
    body: Any = {
        "api": "sinks/greet",
        "parameters": {},
        "sink": {"type": "webhook", "url": receiver.url, "headers": {"X-Team": "a"}, "skip_on_fail": True},
    }
    run = client.projects.runs.start(project_name=place[1], body=body)
    got = wait_for(lambda: receiver.received)[0]
    assert got.event is not None, "the signature does not verify"
    assert got.event["apiInfo"]["runId"] == run.run_id
    assert got.event["apiInfo"]["result"] == {"status": "completed", "result": {"text": "Hello"}, "statusCode": 200}
    assert got.headers["x-team"] == "a"
    wait_for(lambda: len(receiver.received) == 2)
    assert len(set(receiver.ids)) == 1
    other: Any = {**body, "api": "sinks/stop"}
    failing = client.projects.runs.start(project_name=place[1], body=other)
    wait_for(lambda: client.projects.runs.result(project_name=place[1], run_id=failing.run_id).status == "failed")
    assert product.call("GET", f"deliveries?runId={failing.run_id}").json()["deliveries"] == []


@pytest.mark.acceptance
def test_a_result_reaches_the_bucket_of_the_client_s_body(
    product: Product, client: IntunedClient, place: list[str], moto: Moto
) -> None:
    bucket = f"results-{uuid4().hex[:8]}"
    moto.s3.create_bucket(Bucket=bucket)
    sink = moto.sink(bucket, prefix="daily/")
    given: Any = {"api": "sinks/greet", "parameters": {}, "sink": sink}
    run = client.projects.runs.start(project_name=place[1], body=given)
    (key, body) = wait_for(lambda: moto.objects(bucket)).popitem()
    assert key == f"daily/{place[1]}/sinks/greet/{run.run_id}.json"
    assert json.loads(body)["apiInfo"]["name"] == "sinks/greet"


@pytest.mark.acceptance
def test_the_client_reads_what_is_wrong_with_a_sink(client: IntunedClient, place: list[str]) -> None:
    body: Any = {"api": "sinks/greet", "parameters": {}, "sink": {"type": "webhook", "url": "https://10.0.0.1/"}}
    with pytest.raises(ValidationError):
        client.projects.runs.start(project_name=place[1], body=body)


def test_who_administers_may_use_what_the_service_gives(cast: Cast) -> None:
    secret, until = deliveries.rotate_secret(cast.project, SYSTEM)
    assert cast.api.get("webhook-secret").json() == {"secret": secret, "previousUntil": until.isoformat()}
