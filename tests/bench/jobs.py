"""How fast is a job, and what does it cost the others? 10,000 items, 50 at a time, on two workers; another job fires each second.

    python -m tests.bench.jobs [--items 10000] [--at-once 50]

PostgreSQL, Valkey, the scheduler and two worker processes of eight threads share this machine's cores. Prints how long the
firing took, items a second, the most runs under way together (by the runs' own times), what the workers held in memory,
and how late the other job's firings and their runs were. The exit status is 1 where an item is missing, was run twice, or more
ran together than may.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.bench.execute import ROOT
from tests.bench.runs import WORKERS, Side, percentile, worker
from tests.peers.postgres import Postgres
from tests.peers.valkey import Valkey

PREPARE = """
import json
from apps.modules import services
from apps.runs import jobs
from apps.workspaces.audit import SYSTEM
from tests.cast import make_cast
cast = make_cast()
for name in ("many", "tick"):
    source = "name: " + name + "\\nsteps: [{id: one, set: {n: 1}}, {id: two, set: {n: '{{ steps.one.output.n + 1 }}'}}]\\n"
    module, _ = services.put_draft(cast.project, name, source + "result: {n: '{{ steps.two.output.n }}'}\\n", SYSTEM)
    services.publish(module, SYSTEM)
items = [{"apiName": "many", "parameters": {}} for _ in range(%(items)d)]
jobs.create(cast.project, {"id": "many", "payload": items, "configuration": {"maxConcurrentRequests": %(at_once)d}}, SYSTEM)
tick = {"id": "tick", "configuration": {}, "schedule": {"intervals": [{"every": "1s"}]}}
tick["payload"] = [{"apiName": "tick", "parameters": {}}]
jobs.create(cast.project, tick, SYSTEM)
"""
FIRE = """
import time
from apps.runs import jobs
from apps.runs.models import Job
from apps.workspaces.audit import SYSTEM
job = Job.objects.select_related("project").get(name="many")
began = time.perf_counter()
job_run = jobs.trigger(job, SYSTEM)
print(job_run.pk, time.perf_counter() - began)
"""
SAMPLE = 0.5  # seconds


class Bench:
    """The product's database, broker, scheduler and workers."""

    def __init__(self, folder: Path, postgres: Postgres, valkey: Valkey) -> None:
        self.postgres = postgres
        self.environment = os.environ | {
            "DATABASE_URL": postgres.url,
            "CACHE_URL": valkey.url,
            "CELERY_BROKER_URL": f"{valkey.url[:-1]}1",
            "JACKFIELD_HOME": str(folder),
            "JACKFIELD_ENV": "development",
            "PYTHONPATH": str(ROOT),
        }
        self.connection = None

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        return done.stdout.strip()

    def shell(self, code: str) -> str:
        return self.manage("shell", "--no-imports", "-c", code).splitlines()[-1] if code else ""

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            return connection.execute(sql.encode(), values).fetchall()


def memory(side: Side) -> float:
    """MB of the workers, resident."""
    total = 0
    for process in side.processes:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE") / 1e6


def most_together(bench: Bench, job_run: str) -> int:
    """By the runs' own beginnings and ends; of those at the same instant an end comes first."""
    rows = bench.rows(
        "SELECT extract(epoch FROM created_at)::float8, extract(epoch FROM ended_at)::float8 FROM runs_run "
        "WHERE job_run_id = %s", job_run,
    )  # fmt: skip
    edges = sorted([(begin, 1) for begin, _ in rows] + [(end, -1) for _, end in rows])
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def wait(bench: Bench, job_run: str, side: Side, patience: float = 1800) -> tuple[list[float], list[tuple[float, int]]]:
    """Until the job run has ended: what the workers held meanwhile, and how many items were done when."""
    held, done = [], []
    deadline, began = time.monotonic() + patience, time.monotonic()
    while time.monotonic() < deadline:
        ((status, ended),) = bench.rows(
            "SELECT status, successful_runs + failed_runs FROM runs_jobrun WHERE id = %s", job_run
        )
        held.append(memory(side))
        done.append((time.monotonic() - began, ended))
        if status not in {"PENDING", "PAUSING", "PAUSED"}:
            return held, done
        time.sleep(SAMPLE)
    raise SystemExit("the job run does not end")


def lateness(bench: Bench, since: float, until: float) -> tuple[list[float], list[float]]:
    """Of the other job: seconds from a firing's time to its being fired, and to the end of its run."""
    rows = bench.rows(
        "SELECT extract(epoch FROM j.created_at - j.scheduled_for)::float8, "
        "extract(epoch FROM j.ended_at - j.scheduled_for)::float8 FROM runs_jobrun j JOIN runs_job b ON b.id = j.job_id "
        "WHERE b.name = 'tick' AND j.status = 'SUCCESS' AND j.created_at BETWEEN to_timestamp(%s) AND to_timestamp(%s)",
        since, until,
    )  # fmt: skip
    return [row[0] for row in rows], [row[1] for row in rows]


def faults_of(bench: Bench, job_run: str, items: int) -> list[str]:
    found = dict(bench.rows("SELECT status, count(*) FROM runs_jobitem WHERE job_run_id = %s GROUP BY 1", job_run))
    faults = [] if found == {"succeeded": items} else [f"items: {found}"]
    ((runs, completed),) = bench.rows(
        "SELECT count(*), count(*) FILTER (WHERE status = 'completed') FROM runs_run WHERE job_run_id = %s", job_run
    )
    if (runs, completed) != (items, items):
        faults.append(f"{runs} runs, {completed} completed")
    ((events,),) = bench.rows(
        "SELECT count(*) FROM runs_runevent e JOIN runs_run r ON r.id = e.run_id WHERE r.job_run_id = %s "
        "AND e.kind = 'completed'", job_run,
    )  # fmt: skip
    return faults if events == items else [*faults, f"{events} ends"]


def show(name: str, values: list[float], unit: str = "s") -> None:
    print(
        f"{name}: p50 {percentile(values, 0.5):.2f} {unit}, p99 {percentile(values, 0.99):.2f} {unit}, "
        f"most {max(values):.2f} {unit}, of {len(values)}"
    )


def measure(bench: Bench, side: Side, options: argparse.Namespace) -> list[str]:
    time.sleep(15)  # the other job alone
    began = time.time()
    job_run, took = bench.shell(FIRE).split()
    print(f"{options.items} items fired in {float(took):.2f} s")
    before, start = side.cpu(), time.monotonic()
    held, done = wait(bench, job_run, side)
    seconds = time.monotonic() - start
    print(
        f"{options.items / seconds:.0f} items a second, {(side.cpu() - before) * 1000 / options.items:.1f} ms CPU an item"
    )
    ended = time.time()
    most = most_together(bench, job_run)
    print(f"most under way together: {most} of {options.at_once}")
    quarter = max(1, len(held) // 4)
    first, last = statistics.mean(held[quarter : 2 * quarter]), statistics.mean(held[-quarter:])
    print(f"workers' memory: second quarter {first:.0f} MB, last {last:.0f} MB, most {max(held):.0f} MB")
    halves = [count for at, count in done if at <= seconds / 2]
    print(f"items done at half time: {halves[-1] if halves else 0}")
    for when, since, until in (("alone", began - 13, began), ("beside it", began, ended)):
        fired, over = lateness(bench, since, until)
        show(f"another job's firings {when}, late by", fired)
        show(f"their runs {when}, over after", over)
    faults = faults_of(bench, job_run, options.items)
    return faults if most <= options.at_once else [*faults, f"{most} together"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Postgres() as postgres, Valkey() as valkey:
        folder = Path(name)
        bench = Bench(folder, postgres, valkey)
        bench.manage("migrate", "--noinput", "-v", "0")
        bench.manage("shell", "--no-imports", "-c", PREPARE % vars(options))
        side = Side(
            worker("config", "maintenance,runs,steps,deliveries,refresh"), bench.environment, folder / "workers"
        )
        beat = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "celery",
            "--quiet",
            "-A",
            "config",
            "beat",
            "--loglevel",
            "warning",
        ]
        with (folder / "beat").open("ab") as log:
            scheduler = subprocess.Popen(beat, cwd=ROOT, env=bench.environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                faults = measure(bench, side, options)
            finally:
                scheduler.terminate()
                scheduler.wait()
                side.close()
        said = (folder / "workers").read_text()[-2000:]
    print(said.strip() or "the workers said nothing")
    print(faults or f"all {options.items} items ran, none twice, on {WORKERS} workers")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
