"""Runs of the running product, whatever dies in between: the worker, the broker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.peers.fixtures import serve
from tests.peers.ledger import Ledger
from tests.peers.valkey import Valkey
from tests.product import Product

pytestmark = pytest.mark.acceptance
END_LEASES = """
from datetime import timedelta
from django.utils import timezone
from apps.runs.models import Run
past = timezone.now() - timedelta(seconds=1)
print(Run.objects.living().exclude(lease_until=None).update(lease_until=past))
"""
START = """
from apps.modules.services import find_published
from apps.runs.models import Run
from apps.runs.starting import start
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Project
module = find_published(Project.objects.get(pk={project!r}), {name!r})
print(start(module, {{}}, SYSTEM, Run.Surface.ADMIN).pk)
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
def ledger() -> Iterator[Ledger]:
    with Ledger(lifetime=600) as running:
        yield running


@pytest.fixture
def broker() -> Iterator[Valkey]:
    """One that a test may stop."""
    yield from serve(Valkey())


def wait_until(condition: Callable[[], bool], what: str, patience: float = 40) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {patience} s"
        time.sleep(0.05)


def post(ledger: Ledger, name: str, fault: str = "", **more: Any) -> dict[str, Any]:
    """A step that the ledger counts under the run's id and this name."""
    query = {"id": f"{{{{ run.id }}}} {name}", "fault": fault}
    token = {"Authorization": "Bearer at.{{ run.id }}.0"}
    request = {"method": "POST", "url": f"{ledger.url}/do", "query": query, "headers": token}
    return {"id": name, "request": request, "timeout": 20, **more}


def publish(product: Product, name: str, steps: list[dict[str, Any]]) -> None:
    saved = product.call("PUT", f"modules/{name}", json={"name": name, "steps": steps, "result": "done"})
    assert saved.status_code == 201, saved.text
    assert product.call("POST", f"modules/{name}/publish", json={}).status_code == 200


class Runs:
    """The Runs API of the demo project."""

    def __init__(self, product: Product) -> None:
        facts = product.facts
        self.root = f"{product.url}/{facts['workspace_id']}/projects/{facts['project_name']}/run"
        self.headers = {"Authorization": f"Bearer {facts['api_key']}"}

    def start(self, name: str) -> str:
        body = {"api": name, "parameters": {}}
        answer = requests.post(f"{self.root}/start", json=body, headers=self.headers, timeout=10)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["runId"])

    def result(self, run_id: str) -> dict[str, Any]:
        answer = requests.get(f"{self.root}/{run_id}/result", headers=self.headers, timeout=10)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def await_end(self, run_id: str) -> dict[str, Any]:
        ended = {"completed", "failed", "canceled"}
        wait_until(lambda: self.result(run_id)["status"] in ended, f"the end of {run_id}", 90)
        return self.result(run_id)


def kill_workers(product: Product) -> None:
    for pid, command in product.processes().items():
        if " celery " in command:
            os.kill(pid, signal.SIGKILL)


def test_a_worker_killed_in_a_long_step_loses_no_run_and_repeats_only_what_may_be(own: Product, ledger: Ledger) -> None:
    strict = [post(ledger, "before"), post(ledger, "long", "hang"), post(ledger, "after")]
    publish(own, "strict", strict)
    publish(own, "again", [strict[0], {**strict[1], "on_lost": "retry"}, strict[2]])
    publish(own, "patient", [{"id": "pause", "wait": "2s"}, post(ledger, "late")])
    api = Runs(own)
    names = {name: api.start(name) for name in ("strict", "again", "patient")}
    begun = [f"{names[name]} long" for name in ("strict", "again")]
    wait_until(lambda: set(begun) <= set(ledger.books()["requests"]), "the long steps")
    kill_workers(own)
    own.run(END_LEASES)  # instead of thirty seconds of waiting
    ends = {name: api.await_end(pk) for name, pk in names.items()}
    assert {name: end["status"] for name, end in ends.items()} == {
        "strict": "failed", "again": "completed", "patient": "completed",
    }  # fmt: skip
    assert ends["strict"]["error"]["code"] == "script-process-crashed"
    done = ledger.books()["requests"]
    times = {name: [done.get(f"{pk} {step}", 0) for step in ("before", "long", "after")] for name, pk in names.items()}
    assert (times["strict"], times["again"]) == ([1, 1, 0], [1, 2, 1])
    assert done[f"{names['patient']} late"] == 1


def test_what_starts_while_the_broker_is_down_runs_later(own: Product, ledger: Ledger) -> None:
    publish(own, "plain", [post(ledger, "once")])
    project = own.facts["project_id"]
    own.given["CELERY_BROKER_URL"] = "redis://127.0.0.1:1/0"  # for the next process alone: nobody listens there
    run_id = own.run(START.format(project=project, name="plain")).splitlines()[-1]
    del own.given["CELERY_BROKER_URL"]
    assert Runs(own).await_end(run_id)["status"] == "completed"
    assert ledger.books()["requests"][f"{run_id} once"] == 1


@pytest.mark.parametrize("fault", ["gone", "still"])
def test_a_broker_that_is_gone_or_stands_still_for_a_while_loses_no_run(
    tmp_path: Path, broker: Valkey, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """What starts meanwhile is taken all the same, and soon; it runs once the broker is back, and once."""
    own = Product(tmp_path / "home", JACKFIELD_EGRESS_ALLOW="127.0.0.0/8", CELERY_BROKER_URL=broker.url)
    try:
        own.start()
        publish(own, "plain", [post(ledger, "once")])
        publish(own, "patient", [{"id": "pause", "wait": "4s"}, post(ledger, "once")])
        api = Runs(own)
        runs = [api.start("plain"), api.start("patient")]
        wait_until(lambda: api.result(runs[1])["status"] == "started", "the wait")
        assert api.await_end(runs[0])["status"] == "completed"
        if fault == "gone":
            monkeypatch.setattr(broker, "prepare", lambda: None)  # it comes back at the same port, empty
            broker.stop()
        else:
            os.kill(broker.pid, signal.SIGSTOP)
        begun = time.monotonic()
        runs += [api.start("plain") for _ in range(3)]
        assert time.monotonic() - begun < 20
        time.sleep(6)
        if fault == "gone":
            broker.start()
        else:
            os.kill(broker.pid, signal.SIGCONT)
        assert {api.await_end(run)["status"] for run in runs} == {"completed"}
        done = ledger.books()["requests"]
        assert [done[f"{run} once"] for run in runs] == [1] * 5
    finally:
        own.close()


def test_runs_that_were_under_way_go_on_after_a_restart(own: Product, ledger: Ledger) -> None:
    publish(own, "slow", [post(ledger, "one", "slow"), post(ledger, "two")])
    publish(
        own, "form", [{"id": "ask", "form": {"title": "A", "fields": [{"name": "a", "label": "A", "type": "text"}]}}]
    )
    api = Runs(own)
    slow, form = api.start("slow"), api.start("form")
    wait_until(lambda: f"{slow} one" in ledger.books()["requests"], "the slow step")
    wait_until(lambda: own.call("GET", "tasks").json()["tasks"] != [], "the question")
    own.stop(signal.SIGTERM)
    own.start()
    own.run(END_LEASES)
    end = api.await_end(slow)
    done = ledger.books()["requests"]
    assert done[f"{slow} one"] == 1
    assert end["status"] in {"completed", "failed"}  # whether the worker was given the time to end its step
    assert done.get(f"{slow} two", 0) == (end["status"] == "completed")
    (task,) = own.call("GET", "tasks").json()["tasks"]
    assert own.call("POST", f"tasks/{task['id']}/answer", json={"answers": {"a": "b"}}).status_code == 200
    assert api.await_end(form)["status"] == "completed"
