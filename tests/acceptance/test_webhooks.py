"""Webhooks of the running product: from what happens to a connection to the integrator's receiver, whatever dies in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.journey import connect_wayward, enable_wayward, new_user
from tests.peers.upstream import Upstream
from tests.product import ROOT, Product
from tests.workspaces.receiver import Receiver, receiving

pytestmark = pytest.mark.acceptance
EMIT = """
from django.db import transaction
from apps.workspaces.models import Project
from apps.workspaces.webhooks import emit
project = Project.objects.get(pk={project!r})
for number in range({count}):
    with transaction.atomic():
        emit(project, "connection.created", {{"number": number}})
"""
END_LEASES = """
from datetime import timedelta
from django.utils import timezone
from apps.workspaces.models import WebhookDelivery
past = timezone.now() - timedelta(seconds=1)
print(WebhookDelivery.objects.filter(lease_until__gt=past).update(lease_until=past, next_try_at=past))
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Product]:
    """A product whose worker a test may kill."""
    running = Product(tmp_path / "home", JACKFIELD_EGRESS_ALLOW="127.0.0.0/8")
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def listen(product: Product, receiver: Receiver, **body: Any) -> str:
    """A webhook that leads to the receiver; its id."""
    answer = product.call("POST", "webhooks", json={"url": receiver.url, **body})
    assert answer.status_code == 201, answer.text
    receiver.secrets.append(answer.json()["secret"])
    return str(answer.json()["id"])


def emit(product: Product, count: int) -> None:
    product.run(EMIT.format(project=product.facts["project_id"], count=count))


def wait_until(condition: Callable[[], bool], what: str, patience: float = 40) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {patience} s"
        time.sleep(0.05)


def deliveries(product: Product, webhook: str, status: str = "") -> list[dict[str, Any]]:
    tail = f"&status={status}" if status else ""
    rows: list[dict[str, Any]] = product.call("GET", f"webhooks/{webhook}/deliveries?limit=500{tail}").json()[
        "deliveries"
    ]
    return rows


def numbers(receiver: Receiver) -> list[int]:
    return sorted(one.event["data"]["number"] for one in receiver.received if one.event is not None)


def workers(product: Product) -> list[int]:
    return [pid for pid, command in product.processes().items() if " celery " in command]


def test_connecting_and_disconnecting_reach_the_receiver_signed(
    product: Product, upstream: Upstream, receiver: Receiver
) -> None:
    enable_wayward(product, upstream)
    webhook = listen(product, receiver, events=["connection.created", "connection.deleted"])
    user = new_user()
    connection = connect_wayward(product, user)
    wait_until(lambda: len(receiver.received) == 1, "connection.created")
    assert product.call("DELETE", f"integrations/connections/{connection}").status_code == 204
    wait_until(lambda: len(receiver.received) == 2, "connection.deleted")
    events = [one.event for one in receiver.received]
    assert all(event is not None for event in events), "a signature does not verify"
    told = [(event["type"], event["data"]["id"], event["data"]["app_user_id"]) for event in events if event]
    assert told == [("connection.created", connection, user), ("connection.deleted", connection, user)]
    wait_until(lambda: len(deliveries(product, webhook, "delivered")) == 2, "the outcome")
    assert product.call("DELETE", f"webhooks/{webhook}").status_code == 204


def test_a_receiver_that_fails_first_gets_it_later_and_again_on_request(product: Product, receiver: Receiver) -> None:
    webhook = listen(product, receiver)
    receiver.answers = [500]
    emit(product, 1)
    wait_until(lambda: len(receiver.received) == 2, "the second try")
    wait_until(lambda: len(deliveries(product, webhook, "delivered")) == 1, "the outcome")
    (row,) = deliveries(product, webhook)
    assert [one["status"] for one in row["tries"]] == [500, 200]
    assert product.call("POST", f"webhooks/deliveries/{row['id']}/redeliver").status_code == 202
    wait_until(lambda: len(receiver.received) == 3, "the redelivery", 10)
    assert set(receiver.ids) == {row["messageId"]}
    assert all(one.event is not None for one in receiver.received)
    product.call("DELETE", f"webhooks/{webhook}")


def test_a_worker_killed_while_it_sends_loses_nothing(own: Product, receiver: Receiver) -> None:
    webhook = listen(own, receiver)
    receiver.slow = 8
    emit(own, 1)
    wait_until(lambda: len(receiver.received) == 1, "the first try")
    for pid in workers(own):
        os.kill(pid, signal.SIGKILL)
    receiver.slow = 0
    (row,) = deliveries(own, webhook)
    assert (row["status"], row["tries"]) == ("pending", [])
    assert own.run(END_LEASES) == "1"  # instead of 20 s of waiting
    wait_until(lambda: len(receiver.received) == 2, "the try of the next worker")
    wait_until(lambda: len(deliveries(own, webhook, "delivered")) == 1, "the outcome")
    assert receiver.ids == [row["messageId"]] * 2


def test_what_happens_while_the_broker_is_down_is_sent_later(own: Product, receiver: Receiver) -> None:
    webhook = listen(own, receiver)
    own.given["CELERY_BROKER_URL"] = "redis://127.0.0.1:1/0"  # for the next process alone: nobody listens there
    emit(own, 3)
    del own.given["CELERY_BROKER_URL"]
    wait_until(lambda: len(receiver.received) == 3, "the sweep")
    assert numbers(receiver) == [0, 1, 2]
    wait_until(lambda: len(deliveries(own, webhook, "delivered")) == 3, "the outcome")


def test_two_workers_send_two_hundred_events_once_each(own: Product, receiver: Receiver) -> None:
    webhook = listen(own, receiver)
    command = [sys.executable, "-m", "celery", "--quiet", "-A", "config", "worker", "--pool", "threads"]
    command += ["--concurrency", "4", "--queues", "deliveries", "--loglevel", "WARNING", "--without-gossip"]
    with open(own.home / "output.log", "ab") as output:
        second = subprocess.Popen(
            command, cwd=ROOT, env=own.running_environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        emit(own, 200)
        wait_until(lambda: len(deliveries(own, webhook, "delivered")) == 200, "all of them", 90)
    finally:
        second.terminate()
        second.wait(15)
    assert numbers(receiver) == list(range(200))
    assert len(receiver.received) == 200
    assert receiver.most_at_once <= 4
