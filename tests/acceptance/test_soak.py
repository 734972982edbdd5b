"""Sixty-four callers and a service that fails one time in twenty: nothing leaks, and every call is accounted for.

Half a minute of what `tests/bench/soak.py` does for ten. On PostgreSQL with a Valkey as cache and broker, else on SQLite alone.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.bench import soak
from tests.bench.soak import Bounds, Caller, Done, Place, Soak
from tests.peers.ledger import Ledger
from tests.peers.valkey import Valkey

pytestmark = pytest.mark.acceptance


def test_nothing_leaks_and_every_call_is_accounted_for(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    environment = {}
    if os.environ.get("DATABASE_URL", "").startswith("postgres"):
        valkey: Valkey = request.getfixturevalue("valkey")
        environment = {"CACHE_URL": valkey.url, "CELERY_BROKER_URL": valkey.url}
    bounds = Bounds(memory=40, slope=None, threads=12, files=40, patience=30)
    with Ledger() as ledger, soak.running(tmp_path, ledger, **environment) as product:
        report = Soak(product, ledger, callers=64, seconds=20, bounds=bounds).run()
    print(report)
    assert report.faults == []
    assert report.answers > 1000
    assert {"ok", "replayed", "hung up", *soak.FAULTS} <= report.verdicts.keys()


# -- The books are strict --------------------------------------------------------------------------------------------
LOGGED = ["a-1", "integrations", "200", "", "1", ""]
REFUSED = ["a-1", "integrations", "", "RATE_LIMIT", "0", next(iter(soak.NOT_ASKED))]


@pytest.mark.parametrize(
    ("status", "replayed", "rows"),
    [
        (200, False, []),
        (200, False, [LOGGED, LOGGED]),
        (500, False, [LOGGED]),
        (-1, False, [LOGGED]),
        (200, True, [LOGGED]),
        (200, False, [REFUSED]),
    ],
    ids=["not logged", "logged twice", "an error of ours", "no answer", "a replay that is logged", "refused with 200"],
)  # fmt: skip
def test_an_answer_that_does_not_fit_its_log_is_found(status: int, replayed: bool, rows: list[list[str]]) -> None:
    found = soak.Report()
    soak.judge(found, Done("a-1", "a-1", "execute", "", status, 0.1, replayed), rows)
    assert found.faults


def test_an_answer_that_fits_its_log_is_fine() -> None:
    found = soak.Report()
    assert soak.judge(found, Done("a-1", "a-1", "execute", "", 200, 0.1), [LOGGED]) == "ok"
    assert found.faults == []


@pytest.mark.parametrize(
    ("requests", "effects", "fault"),
    [({"a-1": 2}, {"a-1": 2}, "tries logged"), ({}, {}, "tries logged"), ({"a-1": 1, "b": 1}, {}, "b: 0 tries"),
     ({"a-1": 1}, {"a-1": 2}, "took effect twice")],
    ids=["asked twice", "not asked", "asked by nobody", "a key that took effect twice"],
)  # fmt: skip
def test_a_request_that_nobody_logged_is_found(requests: dict[str, int], effects: dict[str, int], fault: str) -> None:
    found = soak.Report()
    done = [Done("a-1", "a-1", "keyed", "", 200, 0.1)]
    soak.compare(found, done, {"a-1": [LOGGED]}, {"requests": requests, "effects": effects})
    assert fault in found.faults[0]


def test_callers_fail_one_time_in_twenty_in_every_way() -> None:
    caller = Caller(Place([], "p", "i", "k"), 0, threading.Event(), "x")
    drawn = Counter(caller.draw() for _ in range(20_000))
    failing = sum(count for (_, fault), count in drawn.items() if fault)
    assert 0.04 < failing / 20_000 < 0.06
    assert {fault for _, fault in drawn} == {"", *soak.FAULTS}
    assert {kind for kind, _ in drawn} == set(soak.WEIGHTS) == set(soak.EXPECTED)
