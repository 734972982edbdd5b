"""Sinks of the running product: from the run's end to the receiver, whatever dies in between."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_webhooks import wait_until, workers
from tests.product import Product
from tests.workspaces.receiver import Receiver, receiving

pytestmark = pytest.mark.acceptance
PUBLISH = """
from apps.workspaces.models import Project
from tests.api.automations import publish
project = Project.objects.get(pk={project!r})
publish(project, "sinks/greet", access="public")
"""
START = """
from apps.modules.models import Module
from apps.runs import starting
from apps.workspaces.audit import SYSTEM
module = Module.objects.select_related("project").get(project={project!r}, name="sinks/greet")
for _ in range({count}):
    starting.start(module, {{}}, SYSTEM, "runs", options=starting.Options(sink={sink!r}))
"""
END_LEASES = """
from datetime import timedelta
from django.utils import timezone
from apps.runs.models import Delivery
past = timezone.now() - timedelta(seconds=1)
print(Delivery.objects.filter(lease_until__gt=past).update(lease_until=past, next_try_at=past))
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Product]:
    """A product whose worker a test may kill."""
    running = Product(tmp_path / "home", JACKFIELD_EGRESS_ALLOW="127.0.0.0/8")
    try:
        running.start()
        running.run(PUBLISH.format(project=running.facts["project_id"]))
        yield running
    finally:
        running.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def start(product: Product, url: str, count: int = 1) -> None:
    sink = {"type": "webhook", "url": url}
    product.run(START.format(project=product.facts["project_id"], count=count, sink=sink))


def rows(product: Product, status: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = product.call("GET", f"deliveries?limit=500{status and f'&status={status}'}").json()[
        "deliveries"
    ]
    return found


def test_a_worker_killed_while_it_sends_loses_nothing(own: Product, receiver: Receiver) -> None:
    receiver.slow = 8
    start(own, receiver.url)
    wait_until(lambda: len(receiver.received) == 1, "the first try")
    for pid in workers(own):
        os.kill(pid, signal.SIGKILL)
    receiver.slow = 0
    (row,) = rows(own)
    assert (row["status"], row["tries"]) == ("pending", [])
    assert own.run(END_LEASES) == "1"  # instead of 40 s of waiting
    wait_until(lambda: len(receiver.received) == 2, "the try of the next worker")
    wait_until(lambda: len(rows(own, "delivered")) == 1, "the outcome")
    assert receiver.ids == [row["messageId"]] * 2


def test_a_hundred_results_arrive_once_each_beside_a_receiver_that_is_slow(own: Product, receiver: Receiver) -> None:
    with receiving() as slow:
        slow.slow = 5
        start(own, slow.url, 20)
        start(own, receiver.url, 100)
        wait_until(lambda: len(receiver.received) == 100, "those of the other receiver", 90)
        assert len(slow.received) < 20
        assert slow.most_at_once <= 4
    assert len(set(receiver.ids)) == 100
    assert receiver.most_at_once <= 4


def test_receivers_that_hang_hold_up_neither_runs_nor_other_receivers(own: Product, receiver: Receiver) -> None:
    with receiving() as one, receiving() as other:
        one.slow = other.slow = 18
        start(own, one.url, 20)
        start(own, other.url, 20)
        wait_until(lambda: min(len(one.received), len(other.received)) > 0, "the first tries")
        start(own, receiver.url)
        wait_until(lambda: len(receiver.received) > 0, "a result of another receiver", 14)
    assert len(rows(own, "delivered")) == 1
