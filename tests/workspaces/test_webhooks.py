"""Events on their way to webhooks: signed, tried again, never lost, and by no one twice at the same time."""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.lib import broker as client
from apps.lib.errors import Conflict, InvalidInput, NotFound
from apps.workspaces import retention, webhooks
from apps.workspaces.audit import SYSTEM
from apps.workspaces.delivering import Outcome
from apps.workspaces.models import AuditEvent, Project, WebhookDelivery, WebhookEndpoint
from tests.cast import Cast
from tests.workspaces.receiver import Receiver, receiving

CREATED = "connection.created"
DATA = {"id": "ca_1", "account": "ada@example.com"}


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    with receiving() as running:
        yield running


@pytest.fixture
def endpoint(cast: Cast, receiver: Receiver) -> WebhookEndpoint:
    endpoint, secret = webhooks.create_endpoint(cast.project, receiver.url, SYSTEM)
    receiver.secrets.append(secret)
    return endpoint


def emitted(project: Project, event_type: str = CREATED, data: dict[str, Any] = DATA) -> WebhookDelivery:
    webhooks.emit(project, event_type, data)
    return WebhookDelivery.objects.latest("created_at")


def make_due(row: WebhookDelivery) -> None:
    """As if the time until the next try, or until the end of a lease, had passed."""
    past = timezone.now() - timedelta(seconds=1)
    changes: dict[str, Any] = {"next_try_at": past}
    if row.lease_until is not None:
        changes["lease_until"] = past
    WebhookDelivery.objects.filter(pk=row.pk).update(**changes)


def tried(row: WebhookDelivery) -> WebhookDelivery:
    """One try of what was emitted, whether or not it is time for it."""
    make_due(row)
    webhooks.deliver(row.pk)
    row.refresh_from_db()
    return row


# -- What is sent ----------------------------------------------------------------------------------------------------
def test_an_event_arrives_signed_with_type_time_and_data(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    row = tried(emitted(endpoint.project))
    (got,) = receiver.received
    assert got.event is not None
    assert (got.event["type"], got.event["data"]) == (CREATED, DATA)
    assert datetime.fromisoformat(got.event["timestamp"]).tzinfo is not None
    assert got.headers["content-type"] == "application/json"
    assert got.id == row.event_id
    assert got.id.startswith("msg_")
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 5
    assert (row.status, row.try_count, row.lease_until) == ("delivered", 1, None)
    assert row.tries[0] | {"at": "", "ms": 0} == {"at": "", "status": 200, "ms": 0, "error": None, "answer": "ok"}


def test_a_secret_is_32_random_bytes_and_never_kept_in_plain(cast: Cast) -> None:
    made = [webhooks.create_endpoint(cast.project, f"https://app.example/{n}", SYSTEM) for n in range(2)]
    secrets = [secret for _, secret in made]
    assert len(set(secrets)) == 2
    for endpoint, secret in made:
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
        stored = WebhookEndpoint.objects.filter(pk=endpoint.pk).values().get()
        assert secret not in str(stored)
    assert all(secret not in str(event.details) for event in AuditEvent.objects.all() for secret in secrets)


def test_after_a_rotation_both_secrets_sign_for_a_day(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    (old,) = receiver.secrets
    new = webhooks.rotate_secret(endpoint, SYSTEM)
    tried(emitted(endpoint.project))
    assert receiver.received[0].headers["webhook-signature"].count("v1,") == 2
    assert [receiver.received[0].signed_by(secret) for secret in (new, old, f"whsec_{'A' * 40}")] == [True, True, False]

    over = timezone.now() - timedelta(seconds=1)
    WebhookEndpoint.objects.filter(pk=endpoint.pk).update(previous_secret_until=over)
    tried(emitted(endpoint.project))
    assert [receiver.received[1].signed_by(secret) for secret in (new, old)] == [True, False]
    webhooks.forget_old()
    endpoint.refresh_from_db()
    assert (endpoint.previous_secret, endpoint.previous_secret_until) == ("", None)


def test_of_two_rotations_at_the_same_moment_one_wins(endpoint: WebhookEndpoint) -> None:
    other = WebhookEndpoint.objects.get(pk=endpoint.pk)
    new = webhooks.rotate_secret(endpoint, SYSTEM)
    with pytest.raises(Conflict):
        webhooks.rotate_secret(other, SYSTEM)
    endpoint.refresh_from_db()
    assert endpoint.unseal("secret") == new


@pytest.mark.parametrize(
    ("events", "wants"), [([], True), ([CREATED], True), (["connection.deleted"], False)], ids=["all", "it", "another"]
)
def test_an_endpoint_gets_only_the_types_it_wants(endpoint: WebhookEndpoint, events: list[str], wants: bool) -> None:
    webhooks.change_endpoint(endpoint, {"events": events}, SYSTEM)
    webhooks.emit(endpoint.project, CREATED, DATA)
    assert WebhookDelivery.objects.exists() == wants


def test_other_projects_and_endpoints_that_are_off_get_nothing(cast: Cast, endpoint: WebhookEndpoint) -> None:
    webhooks.emit(cast.foreign_project, CREATED, DATA)
    webhooks.change_endpoint(endpoint, {"enabled": False}, SYSTEM)
    webhooks.emit(cast.project, CREATED, DATA)
    assert not WebhookDelivery.objects.exists()


def test_several_endpoints_get_the_same_message_id(cast: Cast, endpoint: WebhookEndpoint) -> None:
    webhooks.create_endpoint(cast.project, "https://app.example/second", SYSTEM)
    webhooks.emit(cast.project, CREATED, DATA)
    rows = list(WebhookDelivery.objects.all())
    assert len(rows) == 2
    assert len({row.event_id for row in rows}) == 1


def test_a_type_that_is_none_is_a_fault_of_ours(cast: Cast) -> None:
    with pytest.raises(ValueError, match=r"connection\.creatd"):
        webhooks.emit(cast.project, "connection.creatd", DATA)


def test_a_project_without_webhooks_costs_one_select(cast: Cast) -> None:
    with transaction.atomic(), CaptureQueriesContext(connection) as captured:
        webhooks.emit(cast.project, CREATED, DATA)
    assert [query["sql"].split()[0] for query in captured] == ["SELECT"]


@pytest.mark.django_db(transaction=True)
def test_a_change_that_is_undone_tells_nobody(endpoint: WebhookEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []
    monkeypatch.setattr(webhooks, "enqueue", lambda ids, **options: named.extend(ids))
    with transaction.atomic():
        webhooks.emit(endpoint.project, CREATED, DATA)
        transaction.set_rollback(True)
    assert (WebhookDelivery.objects.count(), named) == (0, [])
    with transaction.atomic():
        webhooks.emit(endpoint.project, CREATED, DATA)
        assert named == []
    assert named == [WebhookDelivery.objects.get().pk]


def test_a_test_event_goes_to_its_endpoint_whatever_that_wants(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    webhooks.change_endpoint(endpoint, {"events": ["connection.deleted"]}, SYSTEM)
    tried(webhooks.send_test(endpoint, SYSTEM))
    assert receiver.received[0].event is not None
    assert receiver.received[0].event["type"] == "webhook.test"


# -- Trying again ----------------------------------------------------------------------------------------------------
def test_after_errors_the_same_message_is_sent_until_it_is_taken(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    receiver.answers = [500, 503, 404]
    row = emitted(endpoint.project)
    for count in (1, 2, 3):
        tried(row)
        assert (row.status, row.try_count) == ("pending", count)
        assert row.next_try_at is not None
        assert row.next_try_at > timezone.now()
        assert webhooks.deliver(row.pk) is None  # it is not time yet
    tried(row)
    assert row.status == "delivered"
    assert [one["status"] for one in row.tries] == [500, 503, 404, 200]
    assert receiver.ids == [row.event_id] * 4
    assert all(one.event is not None for one in receiver.received)


def test_waits_grow_and_vary_and_heed_retry_after_up_to_six_hours() -> None:
    for tries, seconds in enumerate([5, 30, 120, 600, 1800, 7200, 21_600, 43_200, 86_400, 86_400]):
        found = {webhooks.wait_after(tries) for _ in range(50)}
        assert len(found) > 1
        assert all(0.8 * seconds <= wait <= 1.2 * seconds for wait in found)
    assert webhooks.wait_after(0, 100) == 100
    assert webhooks.wait_after(0, 10**9) == 21_600
    assert webhooks.wait_after(3, 1) > 400


def test_retry_after_puts_the_next_try_off(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    receiver.answers = [(503, {"Retry-After": "3600"}, b"")]
    row = tried(emitted(endpoint.project))
    assert row.next_try_at is not None
    assert timedelta(minutes=59) < row.next_try_at - timezone.now() <= timedelta(minutes=60)


def test_after_three_days_it_is_dead(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    receiver.answers = [500]
    row = emitted(endpoint.project)
    assert timedelta(days=2.99) < row.ends_at - timezone.now() <= timedelta(days=3)
    WebhookDelivery.objects.filter(pk=row.pk).update(ends_at=timezone.now() + timedelta(seconds=3))
    assert tried(row).status == "dead"
    assert webhooks.deliver(row.pk) is None
    assert len(receiver.received) == 1


def test_what_nobody_could_try_in_its_time_is_buried(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    row = emitted(endpoint.project)
    webhooks.change_endpoint(endpoint, {"enabled": False}, SYSTEM)
    make_due(row)
    webhooks.sweep()
    row.refresh_from_db()
    assert row.status == "pending"
    WebhookDelivery.objects.filter(pk=row.pk).update(ends_at=timezone.now())
    webhooks.sweep()
    row.refresh_from_db()
    assert (row.status, receiver.received) == ("dead", [])


def test_only_the_last_twenty_tries_are_kept(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    receiver.answers = [500] * 23
    row = emitted(endpoint.project)
    for _ in range(23):
        tried(row)
    assert (row.try_count, len(row.tries)) == (23, 20)


def test_a_redirect_is_not_followed(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    receiver.answers = [(307, {"Location": receiver.url}, b""), (302, {"Location": receiver.url}, b"")]
    row = emitted(endpoint.project)
    for status in (307, 302):
        tried(row)
        assert (row.status, row.tries[-1]["status"]) == ("pending", status)
        assert "redirect" in row.tries[-1]["error"]
    assert len(receiver.received) == 2


def test_an_answer_that_breaks_off_counts_as_none(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    receiver.closes = True
    row = tried(emitted(endpoint.project))
    assert (row.status, row.tries[0]["status"]) == ("pending", None)
    assert row.tries[0]["error"] == "The receiver could not be reached: its answer broke off."
    receiver.closes = False
    assert tried(row).status == "delivered"


def test_a_receiver_that_is_too_slow_is_tried_again(
    endpoint: WebhookEndpoint, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "TIMEOUT", 0.3)
    receiver.slow = 1
    row = tried(emitted(endpoint.project))
    assert (row.status, row.tries[0]["error"]) == ("pending", "The receiver did not answer in time.")
    assert 250 < row.tries[0]["ms"] < 900


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}], ids=["with a length", "without a length"])
def test_an_answer_of_any_size_is_judged_by_its_status(
    endpoint: WebhookEndpoint, receiver: Receiver, headers: dict[str, str]
) -> None:
    receiver.answers = [(500, headers, b"x" * 200_000), (200, headers, b"x" * 200_000)]
    row = emitted(endpoint.project)
    assert tried(row).status == "pending"
    assert tried(row).status == "delivered"
    assert [one["status"] for one in row.tries] == [500, 200]
    assert len(str(row.tries)) < 1000


def test_410_switches_the_webhook_off_and_is_audited(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    receiver.answers = [410]
    waiting = emitted(endpoint.project)
    row = tried(emitted(endpoint.project))
    assert (row.status, row.try_count) == ("dead", 1)
    endpoint.refresh_from_db()
    assert not endpoint.enabled
    assert AuditEvent.objects.get(action="webhook.gone").target == endpoint.pk
    assert tried(waiting).try_count == 0


def test_an_address_that_turned_private_is_not_called(
    endpoint: WebhookEndpoint, receiver: Receiver, settings: Any
) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = ""
    row = tried(emitted(endpoint.project))
    assert row.tries[0]["error"] == "This address may not be called from here."
    assert (row.status, receiver.received) == ("pending", [])


def test_a_name_of_a_private_address_is_refused_when_it_is_sent(
    cast: Cast, receiver: Receiver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = ""
    monkeypatch.setattr(webhooks, "_check_url", lambda url: None)  # as if the name had pointed elsewhere then
    port = receiver.url.rpartition(":")[2]
    webhooks.create_endpoint(cast.project, f"http://localhost:{port}", SYSTEM)
    row = tried(emitted(cast.project))
    assert row.tries[0]["error"] == "This address may not be called from here."
    assert receiver.received == []


def test_what_the_receiver_says_is_kept_without_secrets(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    (secret,) = receiver.secrets
    said = f'{{"seen": "{secret}", "password": "hunter2"}}\x00{"é" * 1000}'.encode()
    receiver.answers = [(500, {}, said)]
    kept = tried(emitted(endpoint.project)).tries[0]["answer"]
    assert secret not in kept
    assert "hunter2" not in kept
    assert "\x00" not in kept
    assert len(kept) < 540


# -- Who carries it --------------------------------------------------------------------------------------------------
def test_what_is_carried_is_left_alone_until_the_lease_is_over(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    row = emitted(endpoint.project)
    assert webhooks._courier.claim(row.pk) is not None  # and then the worker is killed
    row.refresh_from_db()
    assert row.lease_until is not None
    assert timedelta(seconds=15) < row.lease_until - timezone.now() <= timedelta(seconds=20)
    assert webhooks.deliver(row.pk) is None
    assert webhooks.sweep() == 0
    assert receiver.received == []
    assert tried(row).status == "delivered"


def test_who_comes_back_after_its_lease_writes_nothing(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    row = emitted(endpoint.project)
    late = webhooks._courier.claim(row.pk)
    assert late is not None
    row.refresh_from_db()
    make_due(row)
    second = webhooks._courier.claim(row.pk)
    assert second is not None
    webhooks._courier.finish(late, Outcome(timezone.now(), 0, status=500))
    row.refresh_from_db()
    assert (row.try_count, row.lease_until) == (0, second.lease_until)
    webhooks._courier.finish(second, Outcome(timezone.now(), 0, status=200))
    row.refresh_from_db()
    assert (row.try_count, row.status) == (1, "delivered")


def test_an_endpoint_has_at_most_four_deliveries_under_way(endpoint: WebhookEndpoint) -> None:
    rows = [emitted(endpoint.project) for _ in range(6)]
    assert [webhooks._courier.claim(row.pk) is not None for row in rows] == [True] * 4 + [False] * 2


def test_a_slow_endpoint_gets_fewer_and_takes_nothing_from_others(
    cast: Cast, endpoint: WebhookEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "enqueue", lambda ids, **options: None)
    slow = [emitted(cast.project) for _ in range(5)]
    assert webhooks._courier.claim(slow[0].pk) is not None
    assert webhooks._courier.claim(slow[1].pk) is not None
    lease = timezone.now() + webhooks.LEASE - webhooks._courier.slow - timedelta(seconds=1)
    WebhookDelivery.objects.filter(pk=slow[0].pk).update(lease_until=lease, next_try_at=lease)
    assert webhooks._courier.claim(slow[2].pk) is None
    webhooks.create_endpoint(cast.project, "https://other.example", SYSTEM)
    emitted(cast.project)
    other = WebhookDelivery.objects.exclude(endpoint=endpoint).get()
    assert webhooks._courier.claim(other.pk) is not None
    assert webhooks._courier.claim(slow[3].pk) is None


def test_the_sweeper_hands_out_as_many_as_there_is_room_for(
    cast: Cast, endpoint: WebhookEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    monkeypatch.setattr(webhooks, "enqueue", lambda ids, **options: named.extend(ids))
    rows = [emitted(cast.project) for _ in range(10)]
    webhooks.create_endpoint(cast.project, "https://other.example", SYSTEM)
    emitted(cast.project)
    named.clear()
    webhooks._courier.claim(rows[0].pk)
    assert webhooks.sweep() == 4
    assert len(set(named)) == 4
    to = list(WebhookDelivery.objects.filter(pk__in=named).values_list("endpoint", flat=True))
    assert to.count(endpoint.pk) == 3  # beside the one that is under way; the fourth goes to the other one


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"], ids=["Redis", "RabbitMQ"])
def test_a_broker_that_is_down_holds_nobody_up(
    endpoint: WebhookEndpoint, broker: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = Celery("without a broker", broker=broker, set_as_current=False)
    monkeypatch.setattr(client, "current_app", app)
    monkeypatch.setattr(client, "_none_until", 0.0)
    row = emitted(endpoint.project)
    started = time.monotonic()
    for _ in range(100):
        webhooks.enqueue([row.pk])
    assert time.monotonic() - started < 2
    assert [record.message.partition(";")[0] for record in caplog.records] == ["the broker takes nothing"]
    assert WebhookDelivery.objects.due(timezone.now()).filter(pk=row.pk).exists()


@pytest.mark.django_db(transaction=True)
def test_two_hundred_events_arrive_once_each_though_every_hint_comes_twice(
    endpoint: WebhookEndpoint, receiver: Receiver
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip(
            "SQLite's memory database locks its tables between threads; tests/acceptance does it with processes"
        )
    receiver.slow = 0.03  # so that more than four would be seen
    for number in range(200):
        webhooks.emit(endpoint.project, CREATED, {"number": number})
    hints = deque(list(WebhookDelivery.objects.values_list("pk", flat=True)) * 2)
    deadline = time.monotonic() + 60

    def work() -> None:
        """A worker: takes a hint, and puts back what a finished try names."""
        try:
            while time.monotonic() < deadline:
                try:
                    following = webhooks.deliver(hints.popleft())
                except IndexError:
                    return
                if following:
                    hints.append(following)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work) for _ in range(8)]:
            future.result()
    left = WebhookDelivery.objects.exclude(status="delivered", try_count=1)
    assert [(row.status, row.tries, row.lease_until) for row in left] == []
    assert sorted(receiver.ids) == sorted(WebhookDelivery.objects.values_list("event_id", flat=True))
    assert all(one.event is not None for one in receiver.received)
    assert 1 < receiver.most_at_once <= 4


@pytest.mark.django_db(transaction=True)
def test_events_tries_redeliveries_and_deletions_lock_each_other_out_of_nothing(
    cast: Cast, endpoint: WebhookEndpoint, receiver: Receiver
) -> None:
    """No deadlock, and no change that fails because a webhook is deleted at the same moment."""
    if connection.vendor == "sqlite":
        pytest.skip("SQLite's memory database locks its tables between threads")
    stop = time.monotonic() + 3

    def every(what: Callable[[], object]) -> None:
        try:
            while time.monotonic() < stop:
                with suppress(InvalidInput, NotFound, Conflict):
                    what()
        finally:
            connections.close_all()

    def emit() -> None:
        with transaction.atomic():
            Project.objects.filter(pk=cast.project.pk).update(colour="#000000")
            webhooks.emit(cast.project, CREATED, DATA)

    def deliver() -> None:
        for pk in WebhookDelivery.objects.filter(status="pending").values_list("pk", flat=True)[:5]:
            webhooks.deliver(pk)

    def redeliver() -> None:
        row = WebhookDelivery.objects.filter(status="delivered").first()
        if row is not None:
            webhooks.redeliver(webhooks.find_delivery(cast.project, row.pk), SYSTEM)

    def replace() -> None:
        made, secret = webhooks.create_endpoint(cast.project, receiver.url, SYSTEM)
        receiver.secrets.append(secret)
        time.sleep(0.05)
        webhooks.rotate_secret(made, SYSTEM)
        webhooks.delete_endpoint(made, SYSTEM)

    with ThreadPoolExecutor(8) as pool:
        work = [emit, emit, deliver, deliver, redeliver, replace, replace, webhooks.sweep]
        for future in [pool.submit(every, one) for one in work]:
            future.result()
    assert receiver.received


# -- Delivering again ------------------------------------------------------------------------------------------------
def test_what_is_delivered_again_has_the_same_id(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    row = tried(emitted(endpoint.project))
    again = webhooks.redeliver(webhooks.find_delivery(endpoint.project, row.pk), SYSTEM)
    assert (again.status, again.try_count, again.delivered_at) == ("pending", 0, None)
    webhooks.deliver(row.pk)
    row.refresh_from_db()
    assert (row.status, len(row.tries)) == ("delivered", 2)
    assert receiver.ids == [row.event_id] * 2


def test_a_dead_one_gets_three_days_more(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    receiver.answers = [410]
    row = tried(emitted(endpoint.project))
    assert row.status == "dead"
    with pytest.raises(Conflict):
        webhooks.redeliver(webhooks.find_delivery(endpoint.project, row.pk), SYSTEM)
    webhooks.change_endpoint(endpoint, {"enabled": True}, SYSTEM)
    again = webhooks.redeliver(webhooks.find_delivery(endpoint.project, row.pk), SYSTEM)
    assert again.ends_at - timezone.now() > timedelta(days=2.99)
    webhooks.deliver(row.pk)
    row.refresh_from_db()
    assert row.status == "delivered"


def test_two_who_ask_at_the_same_time_make_it_be_sent_once(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    row = tried(emitted(endpoint.project))
    seen = [webhooks.find_delivery(endpoint.project, row.pk) for _ in range(2)]
    webhooks.redeliver(seen[0], SYSTEM)
    webhooks.deliver(row.pk)
    assert webhooks.redeliver(seen[1], SYSTEM).status == "delivered"
    assert len(receiver.received) == 2
    assert AuditEvent.objects.filter(action="webhook.redelivered").count() == 1


def test_one_that_waits_is_tried_now_and_one_under_way_is_left_alone(
    endpoint: WebhookEndpoint, receiver: Receiver
) -> None:
    receiver.answers = [500]
    row = tried(emitted(endpoint.project))
    assert webhooks.deliver(row.pk) is None
    webhooks.redeliver(webhooks.find_delivery(endpoint.project, row.pk), SYSTEM)
    assert webhooks._courier.claim(row.pk) is not None
    carried = webhooks.redeliver(webhooks.find_delivery(endpoint.project, row.pk), SYSTEM)
    assert carried.lease_until is not None
    assert webhooks.deliver(row.pk) is None
    assert len(receiver.received) == 1


def test_one_that_is_deleted_meanwhile_is_not_found(endpoint: WebhookEndpoint) -> None:
    row = emitted(endpoint.project)
    seen = webhooks.find_delivery(endpoint.project, row.pk)
    carried = webhooks._courier.claim(row.pk)
    assert carried is not None
    webhooks.delete_endpoint(endpoint, SYSTEM)
    assert not WebhookDelivery.objects.exists()
    webhooks._courier.finish(carried, Outcome(timezone.now(), 0, status=200))
    with pytest.raises(NotFound):
        webhooks.redeliver(seen, SYSTEM)


# -- Endpoints -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "url",
    [
        "http://app.example/hook", "ftp://app.example", "app.example", "https://", "https://user:pass@app.example",
        "https://127.0.0.1/", "https://10.1.2.3/", "https://169.254.169.254/latest", "https://[::1]/", "https://0x7f.1/",
        "https://2130706433/", "https://[::ffff:127.0.0.1]/", "https://localhost/", "https://a.localhost/", "https://0/",
        "https://app.example/\n", "https://b\u00fccher.example/", "https://app.example/ x", "https://app.example/" + "x" * 2000,
    ],
)  # fmt: skip
def test_an_address_that_must_not_be_called_is_refused_at_once(cast: Cast, url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        webhooks.create_endpoint(cast.project, url, SYSTEM)
    assert set(caught.value.details) == {"url"}
    endpoint, _ = webhooks.create_endpoint(cast.project, "https://app.example", SYSTEM)
    with pytest.raises(InvalidInput):
        webhooks.change_endpoint(endpoint, {"url": url}, SYSTEM)
    endpoint.refresh_from_db()
    assert endpoint.url == "https://app.example"


def test_what_the_operator_named_may_be_called_without_tls(cast: Cast, settings: Any) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "hr.internal,10.0.0.0/8"
    for url in ("http://hr.internal/x", "http://10.2.3.4:8080/"):
        assert webhooks.create_endpoint(cast.project, url, SYSTEM)[0].url == url


def test_a_project_has_at_most_twenty(cast: Cast) -> None:
    for number in range(20):
        webhooks.create_endpoint(cast.project, f"https://app.example/{number}", SYSTEM)
    with pytest.raises(InvalidInput) as caught:
        webhooks.create_endpoint(cast.project, "https://app.example/more", SYSTEM)
    assert "20" in caught.value.details["url"][0]
    webhooks.create_endpoint(cast.foreign_project, "https://app.example/more", SYSTEM)


def test_what_is_old_is_forgotten_and_what_waits_is_not(endpoint: WebhookEndpoint, receiver: Receiver) -> None:
    receiver.answers = [200, 410]
    tried(emitted(endpoint.project))
    tried(emitted(endpoint.project))
    WebhookEndpoint.objects.update(enabled=True)
    waiting = emitted(endpoint.project)
    assert retention.forget_old(retention.projects_by_days()) == 0
    WebhookDelivery.objects.update(created_at=timezone.now() - timedelta(days=40))
    assert retention.forget_old(retention.projects_by_days()) == 2
    assert WebhookDelivery.objects.get().pk == waiting.pk


def test_every_change_is_audited(endpoint: WebhookEndpoint) -> None:
    webhooks.change_endpoint(endpoint, {"description": "Ours"}, SYSTEM)
    webhooks.rotate_secret(endpoint, SYSTEM)
    webhooks.send_test(endpoint, SYSTEM)
    webhooks.delete_endpoint(endpoint, SYSTEM)
    actions = AuditEvent.objects.filter(action__startswith="webhook.").order_by("created_at")
    assert [event.action.partition(".")[2] for event in actions] == [
        "created",
        "changed",
        "rotated",
        "tested",
        "deleted",
    ]
