"""Results on their way to webhooks and buckets: over real HTTP, signed, tried again for their time, and by no one twice."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, connections
from django.utils import timezone
from standardwebhooks.webhooks import Webhook

from apps.lib.errors import Conflict, NotFound
from apps.runs import deliveries, s3, sinks
from apps.runs.models import Delivery, Run, SinkSettings
from apps.workspaces.audit import SYSTEM
from apps.workspaces.delivering import Outcome
from apps.workspaces.models import AuditEvent, Project
from tests.cast import Cast
from tests.peers.moto import SECRET, Moto
from tests.runs.lab import publish, start
from tests.workspaces.receiver import Receiver, receiving

Later = Callable[[float], None]
Make = Callable[..., Delivery]


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    with receiving() as running:
        yield running


@pytest.fixture
def bucket(moto: Moto, settings: Any) -> str:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    name = f"results-{uuid4().hex[:8]}"
    moto.s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Moves the clock forward by so many seconds."""
    real, moved = timezone.now, timedelta()

    def move(seconds: float) -> None:
        nonlocal moved
        moved += timedelta(seconds=seconds)

    monkeypatch.setattr(timezone, "now", lambda: real() + moved)
    return move


@pytest.fixture
def make(cast: Cast) -> Make:
    """A delivery of a run that has just ended, to the sink that is given."""
    runs: dict[str, Run] = {}

    def make(sink: dict[str, Any], project: Project = cast.project, name: str = "onboard") -> Delivery:
        run = runs.get(name) or start(publish(project, [{"id": "greet", "set": {"text": "Hello"}}], name))
        runs[name] = run
        run.status, run.result = Run.Status.COMPLETED, {"issue": 7, "note": "Grüße"}
        run.seal("sink", sinks.accepted(sink))
        sinks.write_delivery(run, timezone.now())
        return Delivery.objects.order_by("created_at").reverse()[0]

    return make


def hook(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {"type": "webhook", "url": receiver.url, **more}


def tried(row: Delivery) -> Delivery:
    """One try, for which it must be time."""
    deliveries.deliver(row.pk)
    row.refresh_from_db()
    return row


def until_next(row: Delivery) -> float:
    assert row.next_try_at is not None
    return (row.next_try_at - timezone.now()).total_seconds()


# -- Webhooks --------------------------------------------------------------------------------------------------------
def test_a_result_arrives_signed_with_the_project_s_secret(cast: Cast, make: Make, receiver: Receiver) -> None:
    receiver.secrets = [deliveries.secret_of(cast.project, SYSTEM)[0]]
    row = tried(make(hook(receiver)))
    (got,) = receiver.received
    assert got.event is not None
    assert got.event == json.loads(row.body)
    assert got.event["apiInfo"]["result"] == {
        "status": "completed", "result": {"issue": 7, "note": "Grüße"}, "statusCode": 200,
    }  # fmt: skip
    assert got.id == f"msg_{row.pk}"
    assert got.headers["content-type"] == "application/json"
    assert (row.status, row.try_count, row.lease_until) == ("delivered", 1, None)
    assert row.delivered_at is not None
    assert row.tries[0] | {"at": "", "ms": 0} == {"at": "", "status": 200, "ms": 0, "error": None, "answer": "ok"}


def test_a_result_of_two_megabytes_is_sent_whole(cast: Cast, make: Make, receiver: Receiver, moto: Moto) -> None:
    receiver.secrets = [deliveries.secret_of(cast.project, SYSTEM)[0]]
    moto.s3.create_bucket(Bucket="large-results")
    large = json.dumps(json.loads(make(hook(receiver)).body) | {"result": "é" * 1_000_000})
    for sink in (hook(receiver), moto.sink("large-results")):
        row = make(sink)
        Delivery.objects.filter(pk=row.pk).update(body=large)
        assert tried(row).status == "delivered", row.tries
    assert receiver.received[0].event == json.loads(large)
    assert list(moto.objects("large-results").values()) == [large.encode()]


def test_a_project_that_never_read_its_secret_signs_with_one(cast: Cast, make: Make, receiver: Receiver) -> None:
    tried(make(hook(receiver)))
    secret, until = deliveries.secret_of(cast.project, SYSTEM)
    assert receiver.received[0].signed_by(secret)
    assert until is None
    assert deliveries.secret_of(cast.project, SYSTEM)[0] == secret
    assert secret not in str(SinkSettings.objects.values().get())


def test_after_a_rotation_both_secrets_sign_for_a_day(
    cast: Cast, make: Make, receiver: Receiver, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = deliveries.secret_of(cast.project, SYSTEM)
    new, until = deliveries.rotate_secret(cast.project, SYSTEM)
    assert abs((until - timezone.now()).total_seconds() - 86_400) < 5
    assert deliveries.secret_of(cast.project, SYSTEM) == (new, until)
    tried(make(hook(receiver)))
    assert [receiver.received[0].signed_by(secret) for secret in (new, old, f"whsec_{'A' * 40}")] == [True, True, False]

    SinkSettings.objects.update(previous_secret_until=timezone.now() - timedelta(seconds=1))
    tried(make(hook(receiver)))
    assert [receiver.received[1].signed_by(secret) for secret in (new, old)] == [True, False]
    assert deliveries.forget_secrets() == 1
    assert SinkSettings.objects.get().previous_secret == ""
    actions = AuditEvent.objects.filter(action__startswith="webhook_secret.").values_list("action", flat=True)
    assert sorted(actions) == ["webhook_secret.read"] * 2 + ["webhook_secret.rotated"]


def test_of_two_rotations_at_the_same_moment_one_wins(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries.secret_of(cast.project, SYSTEM)
    read = SinkSettings.objects.get()
    new, _ = deliveries.rotate_secret(cast.project, SYSTEM)
    monkeypatch.setattr(deliveries, "_settings_of", lambda project_id: read)
    with pytest.raises(Conflict):
        deliveries.rotate_secret(cast.project, SYSTEM)
    monkeypatch.undo()
    assert deliveries.secret_of(cast.project, SYSTEM)[0] == new


def test_the_callers_headers_are_sent_but_never_the_scheme_s_or_the_connection_s(
    cast: Cast, make: Make, receiver: Receiver
) -> None:
    receiver.secrets = [deliveries.secret_of(cast.project, SYSTEM)[0]]
    given = {
        "Authorization": "Bearer theirs", "X-Team": "Ü", "Webhook-Id": "mine", "WEBHOOK-SIGNATURE": "v1,x",
        "webhook-timestamp": "1", "webhook_signature": "v1,x", "Host": "elsewhere.example", "content-length": "1",
        "Transfer-Encoding": "chunked", "Connection": "close", "Content-Type": "application/vnd.acme+json", "User-Agent": "Acme",
    }  # fmt: skip
    row = tried(make(hook(receiver, headers=given)))
    (got,) = receiver.received
    assert row.status == "delivered"
    assert got.event is not None, "the signature does not verify"
    assert got.id == f"msg_{row.pk}"
    assert (got.headers["authorization"], got.headers["user-agent"]) == ("Bearer theirs", "Acme")
    assert got.headers["content-type"] == "application/vnd.acme+json"
    assert got.headers["host"] == receiver.url.split("/")[2]
    assert not {"transfer-encoding", "webhook_signature"} & set(got.headers)
    assert "connection" not in got.headers


def test_an_hour_of_errors_is_tried_ten_seconds_later_then_doubling_then_dead(
    make: Make, receiver: Receiver, later: Later
) -> None:
    receiver.answers = [500] * 100
    row = make(hook(receiver))
    later(7200)  # while it waited for a worker: its hour begins with the first try
    waits = []
    while tried(row).status == "pending":
        waits.append(round(until_next(row)))
        assert deliveries.deliver(row.pk) is None  # it is not time yet
        later(until_next(row) + 0.01)
    assert waits[:6] == [10, 20, 40, 80, 120, 120]
    assert set(waits[4:]) == {120}
    assert 3600 - 120 <= sum(waits) <= 3600
    assert (row.status, row.try_count, row.next_try_at) == ("dead", len(waits) + 1, None)
    assert len(receiver.received) == row.try_count
    assert len(set(receiver.ids)) == 1
    assert [one["status"] for one in row.tries] == [500] * 33


def test_retry_after_is_heeded_up_to_the_longest_wait(make: Make, receiver: Receiver, later: Later) -> None:
    receiver.answers = [(503, {"Retry-After": str(seconds)}, b"") for seconds in (60, 1, 86_400)]
    row = tried(make(hook(receiver)))
    assert 59 < until_next(row) <= 60
    later(61)
    assert 19 < until_next(tried(row)) <= 20
    later(21)
    assert 119 < until_next(tried(row)) <= 120
    later(121)
    assert tried(row).status == "delivered"


@pytest.mark.parametrize("status", [302, 307, 308])
def test_a_redirect_is_not_followed(make: Make, receiver: Receiver, status: int) -> None:
    receiver.answers = [(status, {"Location": receiver.url}, b"")]
    row = tried(make(hook(receiver)))
    assert (row.status, row.tries[-1]["status"]) == ("pending", status)
    assert "redirect" in row.tries[-1]["error"]
    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(make: Make, receiver: Receiver, status: int) -> None:
    receiver.answers = [(status, {}, b"")]
    assert tried(make(hook(receiver))).status == "delivered"


@pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 503])
def test_all_else_is_tried_again(make: Make, receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    row = tried(make(hook(receiver)))
    assert (row.status, 9 < until_next(row) <= 10) == ("pending", True)


def test_an_answer_that_breaks_off_counts_as_none(make: Make, receiver: Receiver) -> None:
    receiver.closes = True
    row = tried(make(hook(receiver)))
    assert (row.status, row.tries[0]["status"]) == ("pending", None)
    assert row.tries[0]["error"] == "The receiver could not be reached: its answer broke off."


def test_a_receiver_that_is_too_slow_is_tried_again(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "TIMEOUT", 0.3)
    receiver.slow = 1
    row = tried(make(hook(receiver)))
    assert (row.status, row.tries[0]["error"]) == ("pending", "The receiver did not answer in time.")


def test_an_answer_of_any_size_is_judged_by_its_status(make: Make, receiver: Receiver) -> None:
    receiver.answers = [(200, {"Connection": "close"}, b"x" * 2_000_000)]
    row = tried(make(hook(receiver)))
    assert row.status == "delivered"
    assert len(str(row.tries)) < 1000


def test_a_name_that_leads_to_a_private_address_is_recorded_tried_again_and_never_called(
    make: Make, receiver: Receiver, settings: Any, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = ""
    monkeypatch.setattr(sinks, "url_fault", lambda url: "")  # as if the name had led elsewhere then
    port = receiver.url.split(":")[2]
    row = tried(make({"type": "webhook", "url": f"http://localhost:{port}"}))
    assert (row.status, row.tries[0]["error"]) == ("pending", "This address may not be called from here.")
    later(11)
    assert tried(row).try_count == 2
    assert receiver.received == []


def test_what_the_receiver_says_is_kept_without_secrets(cast: Cast, make: Make, receiver: Receiver) -> None:
    secret = deliveries.secret_of(cast.project, SYSTEM)[0]
    said = (
        f'{{"seen": "{secret}", "who": "theirs?", "at": "x=in-query", "password": "hunter2"}}\x00{"é" * 1000}'.encode()
    )
    receiver.answers = [(500, {}, said)]
    given = {"type": "webhook", "url": f"{receiver.url}?a=in-query&b", "headers": {"Authorization": "Bearer theirs"}}
    kept = tried(make(given)).tries[0]["answer"]
    assert not [word for word in (secret, "theirs", "hunter2", "in-query", "\x00") if word in kept]
    assert len(kept) < 540


def test_secrets_that_do_not_open_are_recorded_and_nothing_is_sent(make: Make, receiver: Receiver) -> None:
    row = make(hook(receiver))
    Delivery.objects.filter(pk=row.pk).update(sink=make(hook(receiver)).sink)  # another row's
    assert "could not be read" in tried(row).tries[0]["error"]
    assert (row.status, receiver.received) == ("pending", [])


# -- Buckets ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("prefix", [None, "", "daily/", "a b/ü+(1)%20#?&=~/", "/root"], ids=repr)
def test_a_result_is_put_under_its_key(cast: Cast, make: Make, moto: Moto, bucket: str, prefix: str | None) -> None:
    Project.objects.filter(pk=cast.project.pk).update(name="Ünï +?#%&= shop's ..")
    row = tried(make(moto.sink(bucket, prefix=prefix), Project.objects.get(pk=cast.project.pk), "hr/on-board"))
    assert row.status == "delivered", row.tries
    key = f"{prefix or ''}Ünï +?#%&= shop's ../hr/on-board/{row.run_id}.json"
    assert moto.objects(bucket) == {key: row.body.encode()}
    assert moto.s3.head_object(Bucket=bucket, Key=key)["ContentType"] == "application/json"
    assert row.target == f"s3://{bucket}/{key}"


@pytest.mark.parametrize("force", [True, None], ids=["path", "as the endpoint has it"])
def test_an_endpoint_of_ones_own_has_the_bucket_in_the_path(
    make: Make, moto: Moto, bucket: str, force: bool | None
) -> None:
    row = tried(make(moto.sink(bucket, forcePathStyle=force)))
    assert (row.status, len(moto.objects(bucket))) == ("delivered", 1)


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({}, "https://results.s3.eu-central-1.amazonaws.com/a%20b"),
        ({"forcePathStyle": True}, "https://s3.eu-central-1.amazonaws.com/results/a%20b"),
        ({"bucket": "re.sults"}, "https://s3.eu-central-1.amazonaws.com/re.sults/a%20b"),
        ({"region": "cn-north-1"}, "https://results.s3.cn-north-1.amazonaws.com.cn/a%20b"),
        ({"endpoint": "https://r2.example", "region": "auto"}, "https://r2.example/results/a%20b"),
        ({"endpoint": "https://r2.example", "forcePathStyle": False}, "https://results.r2.example/a%20b"),
        ({"endpoint": "https://minio.example:9000/s3"}, "https://minio.example:9000/s3/results/a%20b"),
        ({"endpoint": "https://MinIO.example/S3"}, "https://minio.example/S3/results/a%20b"),  # as it is signed
    ],
    ids=["AWS", "AWS by path", "a dot", "China", "R2", "by host", "below a path", "large letters"],
)
def test_where_a_bucket_is_asked(changes: dict[str, Any], url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://operator.example")
    sink = {"bucket": "results", "accessKeyId": "AK", "secretAccessKey": "SK", "region": "eu-central-1", **changes}
    outgoing = s3.put_object(sink, "a b", b"{}", timeout=1, max_bytes=1)
    assert (outgoing.method, outgoing.url, outgoing.follow) == ("PUT", url, False)
    assert f"AK/{time.strftime('%Y%m%d', time.gmtime())}/{sink['region']}/s3" in outgoing.headers["Authorization"]


def test_a_bucket_that_is_not_there_is_tried_for_ten_minutes(make: Make, moto: Moto, bucket: str, later: Later) -> None:
    row = make(moto.sink(f"{bucket}-none"))
    waits = []
    while tried(row).status == "pending":
        waits.append(round(until_next(row)))
        later(until_next(row) + 0.01)
    assert waits == [10, 20, 40, 80, 120, 120, 120]
    assert (row.status, row.tries[0]["status"]) == ("dead", 404)
    assert "NoSuchBucket" in row.tries[0]["answer"]
    assert SECRET not in str(row.tries)


def test_a_dead_one_is_delivered_once_the_bucket_is_there(cast: Cast, make: Make, moto: Moto, bucket: str) -> None:
    row = make(moto.sink(f"{bucket}-late"))
    Delivery.objects.filter(pk=row.pk).update(try_count=1, ends_at=timezone.now() + timedelta(seconds=5))
    assert tried(row).status == "dead"
    moto.s3.create_bucket(Bucket=f"{bucket}-late")
    deliveries.redeliver(deliveries.find(cast.project, row.pk), SYSTEM)
    assert tried(row).status == "delivered"
    assert len(moto.objects(f"{bucket}-late")) == 1


def test_the_signature_is_one_that_the_service_checks(make: Make, receiver: Receiver) -> None:
    """What boto3 itself would sign of the same request at the same time."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    sink = {"bucket": "results", "accessKeyId": "AK", "secretAccessKey": "SK", "region": "eu-central-1"}
    outgoing = s3.put_object(sink, "ü/+ .json", b"{}", timeout=1, max_bytes=1)
    again = AWSRequest("PUT", outgoing.url, data=b"{}")
    for name in ("Content-Type", "Content-MD5", "X-Amz-Date", "X-Amz-Content-SHA256"):
        again.headers[name] = outgoing.headers[name]
    auth = S3SigV4Auth(Credentials("AK", "SK"), "s3", "eu-central-1")
    again.context["timestamp"] = outgoing.headers["X-Amz-Date"]
    text = auth.string_to_sign(again, auth.canonical_request(again))
    assert auth.signature(text, again) in outgoing.headers["Authorization"]


def test_an_endpoint_that_turned_private_is_never_called(make: Make, moto: Moto, bucket: str, settings: Any) -> None:
    row = make(moto.sink(bucket))
    settings.JACKFIELD_EGRESS_ALLOW = ""
    assert tried(row).tries[0]["error"] == "This address may not be called from here."
    assert moto.objects(bucket) == {}


def test_a_redirect_of_a_bucket_elsewhere_is_not_followed(make: Make, receiver: Receiver, moto: Moto) -> None:
    receiver.answers = [(301, {"Location": receiver.url}, b"<Error><Code>PermanentRedirect</Code></Error>")]
    row = tried(make(moto.sink("results", endpoint=receiver.url.rpartition("/")[0])))
    assert (row.status, row.tries[0]["status"]) == ("pending", 301)
    assert "PermanentRedirect" in row.tries[0]["answer"]


def test_signing_takes_no_client_of_its_own_each_time() -> None:
    sink = {"bucket": "results", "accessKeyId": "AK", "secretAccessKey": "SK", "region": "eu-central-1"}
    s3.put_object(sink, "first", b"{}", timeout=1, max_bytes=1)
    known = s3._client.cache_info().misses
    started = time.process_time()
    for number in range(200):
        s3.put_object({**sink, "bucket": f"b{number % 7}ucket", "secretAccessKey": f"S{number}"}, "k", b"{}",
                      timeout=1, max_bytes=1)  # fmt: skip
    assert s3._client.cache_info().misses == known
    assert (time.process_time() - started) / 200 < 0.005


# -- Who carries it --------------------------------------------------------------------------------------------------
def test_what_is_carried_is_left_alone_until_the_lease_is_over(make: Make, receiver: Receiver, later: Later) -> None:
    row = make(hook(receiver))
    assert deliveries._courier.claim(row.pk) is not None  # and then the worker is killed
    later(35)
    assert deliveries.deliver(row.pk) is None
    assert deliveries.sweep() == 0
    assert receiver.received == []
    later(6)
    assert deliveries.sweep() == 1
    assert tried(row).status == "delivered"


def test_a_receiver_has_four_under_way_and_a_project_eight_two_of_them_for_others(
    cast: Cast, make: Make, receiver: Receiver
) -> None:
    ports = [make({"type": "webhook", "url": f"http://127.0.0.1:{port}/"}) for port in (2, 3, 4) for _ in range(5)]
    claimed = [deliveries._courier.claim(row.pk) is not None for row in ports]
    assert claimed == [True] * 4 + [False] + [True] * 2 + [False] * 3 + [True] + [False] * 4
    foreign = start(publish(cast.foreign_project, [{"id": "greet", "set": {"text": "Hello"}}]))
    foreign.status = Run.Status.COMPLETED
    foreign.seal("sink", {"type": "webhook", "url": "http://127.0.0.1:2/"})
    sinks.write_delivery(foreign, timezone.now())
    assert deliveries._courier.claim(Delivery.objects.get(project=cast.foreign_project).pk) is not None


def test_a_slow_receiver_gets_two(make: Make, receiver: Receiver, later: Later) -> None:
    rows = [make(hook(receiver)) for _ in range(4)]
    assert deliveries._courier.claim(rows[0].pk) is not None
    later(3)
    assert [deliveries._courier.claim(row.pk) is not None for row in rows[1:]] == [True, False, False]


def test_one_that_was_slow_gets_two_the_next_time_too(make: Make, receiver: Receiver, later: Later) -> None:
    rows = [make(hook(receiver)) for _ in range(8)]
    carried = deliveries._courier.claim(rows[0].pk)
    assert carried is not None
    deliveries._courier.finish(carried, Outcome(timezone.now(), 5, status=200))
    claimed = [deliveries._courier.claim(row.pk) for row in rows[1:5]]
    assert [row is not None for row in claimed] == [True, True, False, False]
    for row in claimed[:2]:
        assert row is not None
        deliveries._courier.finish(row, Outcome(timezone.now(), 0.1, status=200))
    assert [deliveries._courier.claim(row.pk) is not None for row in rows[3:]] == [True] * 4 + [False]


def test_the_sweeper_hands_out_as_many_as_there_is_room_for(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    monkeypatch.setattr(deliveries, "enqueue", lambda ids, **options: named.extend(ids))
    for _ in range(30):
        make(hook(receiver))
    other = make({"type": "webhook", "url": "http://127.0.0.1:2/"})
    assert deliveries.sweep() == 5
    assert other.pk in named


def test_a_project_of_a_thousand_hosts_keeps_nobody_else_from_a_sweep(
    cast: Cast, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    monkeypatch.setattr(deliveries, "enqueue", lambda ids, **options: named.extend(ids))
    like = make({"type": "webhook", "url": "https://a.example"})
    fields = {one.attname: getattr(like, one.attname) for one in Delivery._meta.concrete_fields if one.attname != "id"}
    Delivery.objects.bulk_create([Delivery(**fields | {"host": f"h{number}.example"}) for number in range(300)])
    other = Delivery.objects.create(**fields | {"project_id": cast.foreign_project.pk, "next_try_at": timezone.now()})
    assert deliveries.sweep() == 9
    assert other.pk in named


def test_slow_hosts_leave_room_for_one_that_is_not(make: Make) -> None:
    slow = [make({"type": "webhook", "url": f"https://{host}.example"}) for host in "abcd" for _ in range(3)]
    for row in slow[::3]:
        carried = deliveries._courier.claim(row.pk)
        assert carried is not None
        deliveries._courier.finish(carried, Outcome(timezone.now(), 19, error="too slow"))
    claimed = [deliveries._courier.claim(row.pk) for row in slow]
    assert len([row for row in claimed if row]) == 6
    quick = make({"type": "webhook", "url": "https://quick.example"})
    assert deliveries._courier.claim(quick.pk) is not None


def test_what_nobody_could_try_in_three_days_is_dead(make: Make, receiver: Receiver, later: Later) -> None:
    row = make(hook(receiver))
    later(3 * 86_400 + 1)
    deliveries.sweep()
    row.refresh_from_db()
    assert (row.status, receiver.received) == ("dead", [])


def test_after_each_one_the_next_of_its_receiver_has_its_turn(make: Make, receiver: Receiver) -> None:
    first, second = make(hook(receiver)), make(hook(receiver))
    make({"type": "webhook", "url": "http://127.0.0.1:2/"})
    assert deliveries.deliver(first.pk) == second.pk
    assert deliveries.deliver(second.pk) is None


@pytest.mark.django_db(transaction=True)
def test_two_hundred_results_arrive_once_each_though_every_hint_comes_twice(make: Make, receiver: Receiver) -> None:
    if connection.vendor == "sqlite":
        pytest.skip(
            "SQLite's memory database locks its tables between threads; tests/acceptance does it with processes"
        )
    receiver.slow = 0.02
    rows = [make(hook(receiver)) for _ in range(200)]
    hints = deque([row.pk for row in rows] * 2)
    deadline = time.monotonic() + 60

    def work() -> None:
        try:
            while time.monotonic() < deadline and Delivery.objects.filter(status="pending").exists():
                try:
                    following = deliveries.deliver(hints.popleft())
                except IndexError:
                    deliveries.sweep()
                    hints.extend(Delivery.objects.filter(status="pending").values_list("pk", flat=True)[:4])
                    continue
                if following:
                    hints.append(following)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work) for _ in range(8)]:
            future.result()
    assert not Delivery.objects.exclude(status="delivered", try_count=1).exists()
    assert sorted(receiver.ids) == sorted(f"msg_{row.pk}" for row in rows)
    assert 1 < receiver.most_at_once <= 4


# -- Delivering again ------------------------------------------------------------------------------------------------
def test_what_is_delivered_again_has_the_same_id_and_its_whole_time(
    cast: Cast, make: Make, receiver: Receiver, later: Later
) -> None:
    receiver.answers = [410, 500]
    row = make(hook(receiver))
    Delivery.objects.filter(pk=row.pk).update(try_count=1, ends_at=timezone.now() + timedelta(seconds=5))
    assert tried(row).status == "dead"
    later(7200)
    again = deliveries.redeliver(deliveries.find(cast.project, row.pk), SYSTEM)
    assert (again.status, again.try_count, again.delivered_at) == ("pending", 0, None)
    assert tried(row).status == "pending"
    later(11)
    assert tried(row).status == "delivered"
    assert len(row.tries) == 3
    assert len(set(receiver.ids)) == 1
    assert AuditEvent.objects.filter(action="delivery.redelivered", target=row.pk).count() == 1


def test_two_who_ask_at_the_same_time_make_it_be_sent_once(cast: Cast, make: Make, receiver: Receiver) -> None:
    row = tried(make(hook(receiver)))
    seen = [deliveries.find(cast.project, row.pk) for _ in range(2)]
    deliveries.redeliver(seen[0], SYSTEM)
    tried(row)
    assert deliveries.redeliver(seen[1], SYSTEM).status == "delivered"
    assert len(receiver.received) == 2


def test_one_that_waits_is_tried_now_and_one_under_way_is_left_alone(
    cast: Cast, make: Make, receiver: Receiver
) -> None:
    receiver.answers = [500]
    row = tried(make(hook(receiver)))
    deliveries.redeliver(deliveries.find(cast.project, row.pk), SYSTEM)
    assert deliveries._courier.claim(row.pk) is not None
    assert deliveries.redeliver(deliveries.find(cast.project, row.pk), SYSTEM).lease_until is not None
    assert deliveries.deliver(row.pk) is None
    assert len(receiver.received) == 1


def test_many_are_delivered_again_by_what_they_have_in_common(cast: Cast, make: Make, receiver: Receiver) -> None:
    rows = [make(hook(receiver)) for _ in range(6)]
    ended = {"dead": rows[:3], "delivered": rows[3:5]}
    for status, some in ended.items():
        Delivery.objects.filter(pk__in=[row.pk for row in some]).update(status=status, next_try_at=None)
    Delivery.objects.filter(pk=rows[0].pk).update(job_run_id="jr1", run_id="r1")

    def again(**of: Any) -> int:
        count = deliveries.redeliver_all(cast.project, SYSTEM, **of)
        for status, some in ended.items():
            Delivery.objects.filter(pk__in=[row.pk for row in some]).update(status=status, next_try_at=None)
        return count

    assert again() == 3
    assert again(status="delivered") == 2
    assert again(run_id="r1") == again(job_run_id="jr1") == 1
    assert again(run_id="r1", status="delivered") == 0
    assert again(ids=[row.pk for row in rows]) == 5
    assert again(ids=[row.pk for row in rows], status="dead") == 3
    assert again(ids=[]) == 0
    assert deliveries.redeliver_all(cast.foreign_project, SYSTEM, ids=[row.pk for row in rows]) == 0
    assert AuditEvent.objects.filter(action="deliveries.redelivered").count() == 6
    assert deliveries.redeliver_all(cast.project, SYSTEM) == 3
    assert deliveries.redeliver_all(cast.project, SYSTEM) == 0


def test_thousands_are_delivered_again_without_flooding_the_broker(
    cast: Cast, make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    row = make(hook(receiver))
    Delivery.objects.bulk_create([
        Delivery(project=cast.project, run_id=str(number), api="a", kind="webhook", target="t", host="h", body="{}",
                 sink=row.sink, status="dead", ends_at=timezone.now())
        for number in range(1500)
    ])  # fmt: skip
    named: list[str] = []
    monkeypatch.setattr(deliveries, "enqueue", lambda ids, **options: named.extend(ids))
    with django_capture_on_commit_callbacks(execute=True):
        assert deliveries.redeliver_all(cast.project, SYSTEM) == 1500
    assert len(named) == 8


def test_another_project_s_delivery_is_not_found(cast: Cast, make: Make, receiver: Receiver) -> None:
    row = make(hook(receiver))
    with pytest.raises(NotFound):
        deliveries.find(cast.foreign_project, row.pk)
    seen = deliveries.find(cast.project, row.pk)
    Delivery.objects.all().delete()
    with pytest.raises(NotFound):
        deliveries.redeliver(seen, SYSTEM)


def test_the_library_of_the_scheme_verifies_the_example_of_the_docs(make: Make, receiver: Receiver, cast: Cast) -> None:
    tried(make(hook(receiver)))
    (got,) = receiver.received
    secret = deliveries.secret_of(cast.project, SYSTEM)[0]
    assert Webhook(secret).verify(got.body, got.headers)["project"]["name"] == "Shop"
