"""Workers that die by SIGKILL, come together, or lose the database: a run ends once, and nothing unsafe is done twice."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from django.db import Error, OperationalError, connection
from django.utils import timezone

from apps.runs import carrier, starting
from apps.runs.models import Run
from tests.cast import Cast
from tests.peers.ledger import Ledger
from tests.peers.upstream import Upstream
from tests.product import NOT_PASSED_ON, ROOT
from tests.runs import lab

Program = Callable[[str], Any]


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with Ledger() as running:
        yield running


@pytest.fixture
def program(ledger: Ledger, upstream: Upstream, tmp_path: Path) -> Iterator[Program]:
    """Runs `tests.runs.dying` on a database of its own, of the kind that these tests run on."""
    database = f"dying_{uuid.uuid4().hex[:12]}"
    server = os.environ.get("DATABASE_URL", "")
    own = {
        "JACKFIELD_HOME": str(tmp_path),
        "JACKFIELD_ENV": "test",
        "JACKFIELD_EGRESS_ALLOW": "127.0.0.0/8",
    }
    if connection.vendor == "postgresql":
        _on(server, f"CREATE DATABASE {database}")
        own["DATABASE_URL"] = urlsplit(server)._replace(path=f"/{database}").geturl()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}

    def run(mode: str) -> Any:
        command = [sys.executable, "-m", "tests.runs.dying", mode, ledger.url, upstream.url, str(tmp_path)]
        done = subprocess.run(
            command, cwd=ROOT, env=kept | own, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr[-5000:]
        return json.loads(done.stdout)

    yield run
    if connection.vendor == "postgresql":
        _on(server, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")


def _on(server: str, statement: str) -> None:
    with psycopg.connect(server, autocommit=True) as connected:
        connected.execute(statement.encode())


def test_a_worker_killed_at_any_point_ends_no_run_twice_and_repeats_nothing_unsafe(
    program: Program, ledger: Ledger, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.reset()
    found = program("kills")
    requests, coded = ledger.books()["requests"], Counter((tmp_path / "code").read_text().split())
    sent = Counter(json.loads(request["body"])["title"] for request in upstream.requests("/echo/items"))
    places = Counter(row["place"] for row in found["every"])
    assert {"claimed", "before persisting", "persisted", "performed", "before giving back", "given back"} <= set(places)
    assert len(found["every"]) > 40
    assert all(row["killed"] for row in found["every"][:-1])
    for row in found["every"]:
        run = row["run"]
        assert (row["status"], row["result"], row["ends"], row["lease"]) == ("completed", "done", 1, ""), row
        assert row["numbers_are_whole"], row
        names = ["post", "inner", "side 0", "side 1", "side 2"]
        done = {name: requests.get(f"{run} {name}", 0) for name in names} | {"tool": sent[run], "code": coded[run]}
        assert set(done.values()) <= {0, 1}, (row, done)
        assert sum(done.values()) >= len(done) - 2, (row, done)  # the two that were under way side by side
        assert 1 <= requests[f"{run} get"] <= 2
        assert 1 <= requests[f"{run} again"] <= 2
        (child,) = row["children"]
        assert (child["status"], child["ends"], child["numbers_are_whole"]) == ("completed", 1, True)
        assert requests.get(f"{child['run']} child", 0) <= 1
    assert len(found["failing"]) > 3
    for row in found["failing"]:
        assert (row["status"], row["error"], row["ends"]) == ("fatal_errored", "script-execution-exception", 1), row
        assert (row["numbers_are_whole"], row["lease"]) == (True, "")
    for row in found["strict"]:
        assert (row["ends"], row["numbers_are_whole"], row["lease"]) == (1, True, "")
        done = requests.get(f"{row['run']} child", 0)
        ending = (row["status"], row["error"])
        assert ending in {("completed", None), ("fatal_errored", "script-process-crashed")}
        assert done <= 1
        assert done == 1 or ending[0] == "fatal_errored"
    assert {row["status"] for row in found["strict"]} == {"completed", "fatal_errored"}


def test_workers_that_come_together_lose_no_run_and_do_none_twice(program: Program, ledger: Ledger) -> None:
    """Eight processes carry one run; then two are told of 500 runs, twice of each."""
    found = program("many")
    requests = ledger.books()["requests"]
    assert len(found["flood"]) == 500
    for row in [found["race"], *found["flood"]]:
        assert (row["status"], row["ends"], row["numbers_are_whole"], requests[row["run"]]) == ("completed", 1, True, 1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("place", ["claimed", "before persisting", "performed", "persisted", "before giving back"])
def test_a_database_connection_that_is_dropped_loses_no_run(
    cast: Cast, upstream: Upstream, settings: Any, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Each time that the carrier comes by this place, up to three times."""
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no connection that could be dropped")
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    upstream.reset()
    request = {"method": "POST", "url": f"{upstream.url}/echo"}
    steps: list[dict[str, Any]] = [
        {"id": "a", "request": request},
        {"id": "pause", "wait": "2s"},
        {"id": "b", "request": request},
    ]
    run = lab.start(lab.publish(cast.project, steps))
    dropped: list[str] = []

    def drop(name: str) -> None:
        if name == place and len(dropped) < 3:
            dropped.append(name)
            connection.ensure_connection()
            pid = connection.connection.info.backend_pid
            _on(os.environ["DATABASE_URL"], f"SELECT pg_terminate_backend({pid})")

    monkeypatch.setattr(carrier, "checkpoint", drop)
    deadline = time.monotonic() + 30
    while not lab.fresh(run).has_ended and time.monotonic() < deadline:
        with contextlib.suppress(Error):  # Celery logs it, and gives the thread another connection
            carrier.carry(run.pk)
        connection.close()
        past = timezone.now() - timedelta(seconds=1)
        Run.objects.living().exclude(lease_until=None).update(lease_until=past)
        time.sleep(0.1)
    run = lab.fresh(run)
    assert dropped
    assert (run.status, run.error) == ("completed", None)
    assert lab.told(run).count("completed") == 1
    assert upstream.count("/echo") == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("what", ["look", "was_poked", "_give_back"])
def test_a_database_that_is_away_while_it_is_read_costs_no_lease(
    cast: Cast, upstream: Upstream, settings: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Steps that are being performed would count as lost with their worker, and fail."""
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    upstream.reset()
    url = f"{upstream.url}/echo"
    inner = [
        {"id": "which", "condition": "{{ i == 1 }}", "then": [{"id": "ask", "wait": {"event": "go"}}],
         "else": [{"id": "send", "request": {"method": "POST", "url": url}}]},
    ]  # fmt: skip
    each = {"id": "each", "for_each": [1, 2], "as": "i", "parallel": 2, "do": inner}
    run = lab.start(lab.publish(cast.project, [each]))
    real = getattr(carrier._Carrier, what)
    failed: list[str] = []

    def fail_once(self: Any, *args: Any) -> Any:
        if not failed:
            failed.append(what)
            raise OperationalError("the connection is lost")
        return real(self, *args)

    monkeypatch.setattr(carrier._Carrier, what, fail_once)
    carrier.carry(run.pk)
    assert failed
    row = lab.fresh(run)
    assert (row.lease_token, row.status) == ("", "running")
    assert starting.signal(run, "go", {}, lab.ACTOR)
    carrier.carry(run.pk)
    assert lab.fresh(run).status == "completed"
    assert upstream.count("/echo") == 1
