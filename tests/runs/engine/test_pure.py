"""The engine alone: what it imports, and what it costs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from apps.runs.engine import Event, Facts, Machine, run_in_memory

from .modules import module, request, value

ROOT = Path(__file__).resolve().parents[3]
FORBIDDEN = ("django", "celery", "pycurl", "requests", "urllib3", "httpx", "apps.runs.models", "apps.modules.models")


def test_the_engine_imports_neither_django_nor_celery_nor_a_client() -> None:
    code = f"import sys, apps.runs.engine; print([name for name in {FORBIDDEN!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_engine_asks_no_clock() -> None:
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "apps/runs/engine").glob("*.py")]
    assert texts
    assert not [
        word
        for text in texts
        for word in (".now(", "utcnow", "time.time", "monotonic", "import time\n")
        if word in text
    ]


def test_ten_thousand_bodies_take_seconds_and_their_replay_less() -> None:
    each = {"id": "e", "for_each": "{{ start.items }}", "parallel": 50, "do": [request("r"), value("v", "{{ item }}")]}
    before = [value(f"v{number}") for number in range(100)]
    definition, history = module(*before, each), list[Event]()
    began = time.perf_counter()
    machine = run_in_memory(
        definition, {"items": list(range(10_000))}, perform=lambda command: {"status": 200}, history=history
    )
    assert machine.status == "completed"
    assert time.perf_counter() - began < 10  # takes about 0.6 on an idle core
    began = time.perf_counter()
    replayed = Machine.replay(definition, machine.facts, history)
    assert time.perf_counter() - began < 5
    assert replayed.as_json() == machine.as_json()


def test_five_hundred_steps_after_one_another_take_no_time() -> None:
    began = time.perf_counter()
    run = run_in_memory(module(*[request(f"s{number}") for number in range(500)]), perform=lambda command: None)
    assert run.status == "completed"
    assert time.perf_counter() - began < 3


def test_a_run_that_has_much_behind_it_keeps_little() -> None:
    each = {"id": "e", "for_each": list(range(1000)), "parallel": 5, "do": [request("r")]}
    machine = Machine(module(each), Facts("r", {}))
    run = run_in_memory(module(each), perform=lambda command: command.key)
    assert set(machine.as_json()) == set(run.as_json())
    assert run.as_json()["heads"] == set()
    assert run.as_json()["first"] == {}
