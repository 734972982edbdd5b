"""Jobs whose schedulers and workers die by SIGKILL or come together: fired once, each item run once, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from django.db import connection

from tests.peers.ledger import Ledger
from tests.peers.upstream import Upstream
from tests.product import NOT_PASSED_ON, ROOT
from tests.runs.dying_jobs import AT_ONCE, ITEMS, MANY, MANY_AT_ONCE

Program = Callable[[str], Any]


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with Ledger() as running:
        yield running


@pytest.fixture
def program(ledger: Ledger, upstream: Upstream, tmp_path: Path) -> Iterator[Program]:
    """Runs `tests.runs.dying_jobs` on a database of its own, of the kind that these tests run on."""
    database = f"dying_{uuid.uuid4().hex[:12]}"
    server = os.environ.get("DATABASE_URL", "")
    own = {"JACKFIELD_HOME": str(tmp_path), "JACKFIELD_ENV": "test", "JACKFIELD_EGRESS_ALLOW": "127.0.0.0/8"}
    if connection.vendor == "postgresql":
        _on(server, f"CREATE DATABASE {database}")
        own["DATABASE_URL"] = urlsplit(server)._replace(path=f"/{database}").geturl()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}

    def run(mode: str) -> Any:
        command = [sys.executable, "-m", "tests.runs.dying_jobs", mode, ledger.url, upstream.url, str(tmp_path)]
        done = subprocess.run(
            command, cwd=ROOT, env=kept | own, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, done.stderr[-5000:]
        return json.loads(done.stdout)

    yield run
    if connection.vendor == "postgresql":
        _on(server, f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")


def _on(server: str, statement: str) -> None:
    with psycopg.connect(server, autocommit=True) as connected:
        connected.execute(statement.encode())


def posts(ledger: Ledger, runs: list[str]) -> Counter[str]:
    """How often each of these runs has sent its request."""
    wanted = set(runs)
    sent: Counter[str] = Counter()
    for name, count in ledger.books()["requests"].items():
        run = name.partition(" ")[0]
        if run in wanted:
            sent[run] += count
    return sent


def test_a_process_killed_at_any_point_fires_no_job_twice_and_runs_no_item_twice(
    program: Program, ledger: Ledger
) -> None:
    found = program("kills")
    assert len(found) > 40
    assert all(row["killed"] for row in found[:-1])
    places = {row["place"] for row in found}
    of_jobs = {"firing", "items made", "before advancing", "started an item", "advancing", "advanced"}
    assert of_jobs | {"claimed", "performed", "persisted"} <= places
    for row in found:
        count = ITEMS + 1  # and the one that the first adds
        assert row["job_runs"] == [["SUCCESS", count, count, count, 0, True]], row
        assert row["numbers"] == list(range(count))
        assert row["items"] == ["succeeded"] * count
        assert row["item_runs"] == row["runs"], row
        assert row["is_due_again"]
        sent = posts(ledger, row["runs"])
        assert max(sent.values()) == 1
        assert sum(sent.values()) >= count - 1  # the one under way is not sent again: on_lost says so


def test_a_process_killed_while_it_terminates_leaves_no_run_alive(program: Program) -> None:
    found = program("terminate")
    assert len(found) > 5
    places = {row["place"] for row in found}
    assert {"terminating", "before clearing up", "cancelled a run", "clearing up"} <= places
    for row in found:
        (job_run,) = row["job_runs"]
        assert job_run == ["TERMINATED", ITEMS, AT_ONCE, 0, AT_ONCE, True], row
        assert row["run_states"] == ["cancelled"] * AT_ONCE
        assert row["items"] == ["cancelled"] * ITEMS


def test_four_processes_that_see_a_job_due_fire_it_once_and_keep_to_its_limit(program: Program, ledger: Ledger) -> None:
    found = program("many")
    count = MANY + 1
    assert found["ended"] == [0] * 4
    assert found["job_runs"] == [["SUCCESS", count, count, count, 0, True]]
    assert found["item_runs"] == found["runs"]
    assert len(set(found["runs"])) == count
    assert 1 < found["most"] <= MANY_AT_ONCE
    assert set(posts(ledger, found["runs"]).values()) == {1}


def test_a_job_run_that_is_paused_resumed_and_terminated_while_others_carry_it_adds_up(
    program: Program, ledger: Ledger
) -> None:
    found = program("racing")
    assert found["ended"] == [0, 0, 0]
    ((status, payloads, started, succeeded, failed, is_done),) = found["job_runs"]
    assert (status, is_done) == ("TERMINATED", True)
    states = Counter(found["items"])
    assert set(states) <= {"succeeded", "cancelled"}
    assert len(found["items"]) == payloads
    assert started == len(found["runs"]) == succeeded + failed
    assert states["succeeded"] == succeeded == found["run_states"].count("completed")
    assert failed == found["run_states"].count("cancelled")
    assert max(posts(ledger, found["runs"]).values()) == 1
