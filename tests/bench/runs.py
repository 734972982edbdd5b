"""How fast are runs? A module of three HTTP steps beside a bare Celery task that makes the same three calls.

    python -m tests.bench.runs [--runs 1000] [--starts 300] [--idle 50] [--queued 0]

PostgreSQL, Redis (Valkey) and two worker processes for each side; all of it, the service that is called too, shares this
machine's cores, so only the ratios travel. Prints starts answered (p50, p99), start to end at idle, and runs a second: both
sides find the same number queued and are let go. ``--queued 10000`` queues that many runs instead, and counts them
afterwards: none lost, none twice. The exit status is 1 where a run is missing or did something twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import redis
import requests

from tests.bench.execute import ROOT, Granian, cpu_seconds
from tests.peers.postgres import Postgres
from tests.peers.valkey import Valkey

WORKERS = 2
THREADS = 8
CALLERS = 8
MODULE = """
name: three
access: api_key
steps:
  - {{id: a, request: {{url: "{base}/0"}}}}
  - {{id: b, request: {{url: "{base}/1"}}}}
  - {{id: c, request: {{url: "{base}/2"}}}}
result: {{id: "{{{{ steps.c.output.body.id }}}}"}}
"""
PREPARE = """
import json
from apps.modules import services
from apps.workspaces.audit import SYSTEM
from tests.cast import make_cast
cast = make_cast()
module, _ = services.put_draft(cast.project, "three", {source!r}, SYSTEM)
published = services.publish(module, SYSTEM)
print(json.dumps(dict(project=cast.project.pk, workspace=str(cast.workspace.pk), name=cast.project.name, key=cast.key)))
"""


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Side:
    """Two worker processes that can be held and let go."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.output = log.open("ab")
        self.processes = [
            subprocess.Popen(
                [*command, "--hostname", f"{log.stem}{number}@bench"],
                cwd=ROOT, env=environment, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True,
            )
            for number in range(WORKERS)
        ]  # fmt: skip

    def tell(self, number: signal.Signals) -> None:
        for process in self.processes:
            os.killpg(process.pid, number)

    def cpu(self) -> float:
        return sum(cpu_seconds(process.pid) for process in self.processes)

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.output.close()


def worker(app: str, queues: str) -> list[str]:
    return [
        *(sys.executable, "-W", "ignore", "-m", "celery", "--quiet", "-A", app, "worker", "--pool", "threads"),
        *("--concurrency", str(THREADS), "--queues", queues, "--loglevel", "warning"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


class Bench:
    """The product's web server, database and broker, and what is asked of them; ``web`` is set once it serves."""

    web: Granian

    def __init__(self, folder: Path, postgres: Postgres, valkey: Valkey, upstream: Granian) -> None:
        self.postgres, self.valkey, self.upstream = postgres, valkey, upstream
        broker = f"{valkey.url[:-1]}1"
        self.environment = os.environ | {
            "DATABASE_URL": postgres.url,
            "CACHE_URL": valkey.url,
            "CELERY_BROKER_URL": broker,
            "JACKFIELD_HOME": str(folder),
            "JACKFIELD_ENV": "development",
            "JACKFIELD_EGRESS_ALLOW": "127.0.0.0/8",
            "BENCH_BROKER": broker,
            "BENCH_UPSTREAM": upstream.url,
            "PYTHONPATH": str(ROOT),
        }
        self.folder = folder
        self.store = redis.Redis.from_url(broker)

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        return done.stdout

    def prepare(self) -> None:
        self.manage("migrate", "--noinput", "-v", "0")
        code = PREPARE.format(source=MODULE.format(base=self.upstream.url))
        self.facts = json.loads(self.manage("shell", "--no-imports", "-c", code).strip().splitlines()[-1])

    # -- Starting ----------------------------------------------------------------------------------------------------
    def session(self) -> requests.Session:
        session = requests.Session()
        session.headers["x-api-key"] = self.facts["key"]
        return session

    def start(self, session: requests.Session) -> str:
        url = f"{self.web.url}/api/v1/workspace/{self.facts['workspace']}/projects/{self.facts['name']}/run/start"
        answer = session.post(url, json={"api": "three", "parameters": {}}, timeout=60)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["runId"])

    def start_many(self, count: int) -> tuple[list[str], list[float]]:
        """By a few callers at once; gives the ids and how long each start took to be answered, in ms."""
        ids: list[str] = []
        took: list[float] = []

        def call(share: int) -> None:
            session = self.session()
            for _ in range(share):
                began = time.perf_counter()
                ids.append(self.start(session))
                took.append((time.perf_counter() - began) * 1000)

        shares = [count // CALLERS + (number < count % CALLERS) for number in range(CALLERS)]
        threads = [threading.Thread(target=call, args=(share,)) for share in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return ids, took

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            return connection.execute(sql.encode(), values).fetchall()

    def ended(self, ids: list[str], patience: float = 600) -> dict[str, float]:
        """When each run ended, in seconds since the epoch; waits for all of them."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            found = self.rows(
                "SELECT id, extract(epoch FROM ended_at)::float8 FROM runs_run WHERE id = ANY(%s) AND ended_at IS NOT NULL",
                ids,
            )
            if len(found) == len(ids):
                return dict(found)
            time.sleep(0.05 if len(ids) < 10 else 0.5)
        raise SystemExit(f"only {len(found)} of {len(ids)} runs ended")

    # -- The bare side -----------------------------------------------------------------------------------------------
    def send_bare(self, ids: list[str]) -> None:
        from celery import Celery

        app = Celery("bare", broker=self.environment["BENCH_BROKER"])
        app.conf.update(task_default_queue="bare", task_ignore_result=True)
        for one in ids:
            app.send_task("bare.three", (one,))
        app.close()

    def ended_bare(self, ids: list[str], patience: float = 600) -> dict[str, float]:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            pairs = [line.decode().split() for line in self.store.lrange("bench:done", 0, -1)]  # type: ignore[union-attr]
            found = {one: float(at) for one, at in pairs}
            if found.keys() >= set(ids):
                return {one: found[one] for one in ids}
            time.sleep(0.05 if len(ids) < 10 else 0.5)
        raise SystemExit("the bare tasks did not end")

    # -- Measuring ---------------------------------------------------------------------------------------------------
    def idle(self, count: int) -> tuple[list[float], list[float]]:
        """Start to end, one after another, in ms: of runs, and of bare tasks."""
        from celery import Celery

        ours, bare = [], []
        session = self.session()
        app = Celery("bare", broker=self.environment["BENCH_BROKER"])
        app.conf.update(task_default_queue="bare", task_ignore_result=True)
        for number in range(count):
            began = time.time()
            run = self.start(session)
            ours.append((self.ended([run])[run] - began) * 1000)
            began, one = time.time(), f"idle{number}"
            app.send_task("bare.three", (one,))
            bare.append((self.ended_bare([one])[one] - began) * 1000)
        app.close()
        return ours, bare

    def drained(self, side: Side, ids: list[str], wait: Any) -> tuple[float, float]:
        """Runs a second and CPU ms a run of the workers, from letting the side go until the last one ended."""
        before, began = side.cpu(), time.time()
        side.tell(signal.SIGCONT)
        last = max(wait(ids).values())
        return len(ids) / (last - began), (side.cpu() - before) * 1000 / len(ids)


@contextlib.contextmanager
def running() -> Iterator[tuple[Bench, Side, Side]]:
    with (
        tempfile.TemporaryDirectory() as name,
        Postgres() as postgres,
        Valkey() as valkey,
        Granian("tests.bench.answering_wsgi:application", 1, 4) as upstream,
    ):
        folder = Path(name)
        bench = Bench(folder, postgres, valkey, upstream)
        bench.prepare()
        with Granian("config.wsgi:application", 1, 32, **bench.environment) as bench.web:
            ours = Side(
                worker("config", "maintenance,runs,steps,deliveries,refresh"), bench.environment, folder / "ours"
            )
            bare = Side(worker("tests.bench.bare_celery:app", "bare"), bench.environment, folder / "bare")
            try:
                yield bench, ours, bare
            finally:
                ours.close()
                bare.close()


def once_each(bench: Bench, ids: list[str]) -> list[str]:
    """What does not hold of runs that must each have ended once, with each step done once."""
    states = dict(bench.rows("SELECT status, count(*) FROM runs_run WHERE id = ANY(%s) GROUP BY status", ids))
    faults = [] if states == {"completed": len(ids)} else [f"states: {states}, of {len(ids)} runs"]
    sql = "SELECT count(*) FROM runs_runevent WHERE run_id = ANY(%s) AND kind = %s"
    for kind, each in (("started", 3), ("ended", 3), ("completed", 1)):
        found = bench.rows(sql, ids, kind)[0][0]
        if found != each * len(ids):
            faults.append(f"{found} events {kind} of {len(ids)} runs, not {each} each")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="queued on both sides, for runs a second")
    parser.add_argument("--starts", type=int, default=300, help="at idle workers, for the time of a start")
    parser.add_argument("--idle", type=int, default=50)
    parser.add_argument("--queued", type=int, default=0, help="queue so many, count them afterwards, and nothing else")
    options = parser.parse_args()
    with running() as (bench, ours, bare):
        warm, _ = bench.start_many(20)
        bench.ended(warm)
        bench.send_bare(["warm"])
        bench.ended_bare(["warm"])
        if options.queued:
            ours.tell(signal.SIGSTOP)
            began = time.time()
            ids, took = bench.start_many(options.queued)
            print(f"{len(ids)} started in {time.time() - began:.1f} s, answered p50 {percentile(took, 0.5):.1f} ms")
            rate, cpu = bench.drained(ours, ids, bench.ended)
            print(f"{rate:.0f} runs a second, {cpu:.1f} ms CPU a run in the workers")
            faults = once_each(bench, ids)
            print(faults or "none lost, none twice")
            raise SystemExit(1 if faults else 0)
        latency, bare_latency = (statistics.median(found) for found in bench.idle(options.idle))
        print(
            f"start to end at idle, p50: run {latency:.1f} ms, bare {bare_latency:.1f} ms: {latency / bare_latency:.2f}×"
        )
        rates: dict[str, list[float]] = {"ours": [], "bare": []}
        everything: list[str] = []
        for turn in range(2):
            ours.tell(signal.SIGSTOP)
            ids, took = bench.start_many(options.runs)
            everything += ids
            rate, cpu = bench.drained(ours, ids, bench.ended)
            rates["ours"].append(rate)
            print(f"runs: {rate:.0f} a second, {cpu:.1f} ms CPU a run in the workers")
            print(
                f"starts at {CALLERS} callers: p50 {percentile(took, 0.5):.1f} ms, p99 {percentile(took, 0.99):.1f} ms"
            )
            bare.tell(signal.SIGSTOP)
            named = [f"t{turn}-{number}" for number in range(options.runs)]
            bench.send_bare(named)
            rate, cpu = bench.drained(bare, named, bench.ended_bare)
            rates["bare"].append(rate)
            print(f"bare: {rate:.0f} a second, {cpu:.1f} ms CPU a task in the workers")
        ratio = statistics.mean(rates["ours"]) / statistics.mean(rates["bare"])
        print(f"ratio of runs a second: {ratio:.2f} (aim 0.6)")
        faults = once_each(bench, everything)
        print(faults or "every run ended once, every step was done once")
        raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
