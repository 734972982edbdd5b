"""Jobs of the running product, whatever else its worker has to do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = pytest.mark.acceptance
THREADS = 4  # of quickstart's worker
SECONDS = 6  # that each slow step takes
FIRINGS = """
import json
from apps.runs.models import JobRun
rows = JobRun.objects.filter(job__name="tick").order_by("created_at")
print(json.dumps([[row.created_at.timestamp(), (row.created_at - row.scheduled_for).total_seconds()] for row in rows]))
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Product]:
    """A product whose worker a test may keep busy."""
    running = Product(tmp_path / "home", JACKFIELD_EGRESS_ALLOW="127.0.0.0/8")
    try:
        yield running.start()
    finally:
        running.close()


def publish(product: Product, name: str, step: dict[str, Any]) -> None:
    saved = product.call("PUT", f"modules/{name}", json={"name": name, "steps": [{"id": "one", **step}]})
    assert saved.status_code == 201, saved.text
    assert product.call("POST", f"modules/{name}/publish", json={}).status_code == 200


def make(product: Product, name: str, payload: list[dict[str, Any]], **more: Any) -> str:
    """A job; the path of its routes."""
    facts = product.facts
    jobs = f"/{facts['workspace_id']}/projects/{facts['project_name']}/jobs"
    body = {"id": name, "payload": payload, "configuration": {}, **more}
    made = product.call("POST", jobs, json=body)
    assert made.status_code == 201, made.text
    return f"{jobs}/{name}"


def test_jobs_fire_on_time_while_long_steps_keep_every_thread_of_the_worker(own: Product, upstream: Upstream) -> None:
    publish(own, "quick", {"set": {"n": 1}})
    publish(own, "slow", {"request": {"url": f"{upstream.url}/busy/jobs/{SECONDS}"}})
    make(own, "tick", [{"apiName": "quick", "parameters": {}}], schedule={"intervals": [{"every": "1s"}]})
    slow = make(own, "slow", [{"apiName": "slow", "parameters": {}}] * THREADS)
    assert own.call("POST", f"{slow}/trigger").status_code == 200
    deadline = time.monotonic() + 20
    while upstream.peak("jobs") < THREADS:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    busy = time.time()
    time.sleep(SECONDS - 1)
    late = [seconds for at, seconds in json.loads(own.run(FIRINGS)) if busy < at < busy + SECONDS - 1]
    assert len(late) >= SECONDS // 2
    assert max(late) < 5
