"""Does anything leak, and is every call accounted for? Many callers, all ways to call, a service that fails one time in twenty.

    python -m tests.bench.soak [--minutes 10] [--callers 64] [--postgres] [--redis]

The real product with two web processes and a worker; tokens that live five seconds. Afterwards the callers' books, the
execution log, the service's books and the quota must agree, call by call, and memory, threads, files and sockets must be
where they were. Prints figures; the exit status is 1 where something does not hold. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import http.client
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import django
import psycopg

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    os.environ.setdefault("JACKFIELD_ENV", "test")
    django.setup()

from tests.bench.watch import Held, Watch, now
from tests.peers.ledger import Ledger
from tests.peers.postgres import Postgres
from tests.peers.valkey import Valkey
from tests.product import Product

MEGABYTE = 1024 * 1024
FAILING = 0.05  # of the calls
USERS = 16  # fewer than callers, so that several want one token
FAULTS = ("500", "429", "reset", "once", "cut", "slow", "hang")
LEFT, BROKEN = 0, -1  # in place of a status: the caller left before, the connection broke
LONGEST_PAUSE = 2.0  # seconds of Retry-After that a caller heeds

TOOLKIT = """
slug: soak
name: Soak
base_url: {base}
timeout: 4
auth:
  - {{type: oauth2, authorization_url: "{base}/authorize", token_url: "{base}/token"}}
tools:
  - {{slug: read, name: Read, description: Safe to repeat., method: GET, path: /do, parameters: {named}}}
  - {{slug: read_soon, name: Read soon, description: In a second., method: GET, path: /do, timeout: 1, parameters: {named}}}
  - {{slug: write, name: Write, description: Not safe to repeat., method: POST, path: /do, parameters: {named}}}
"""
NAMED = "{id: {in: query, type: string}, fault: {in: query, type: string}}"
# A workspace whose plan counts everything and permits it all.
PREPARE = """
import json
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Plan, Workspace
from apps.workspaces.services import create_project, issue_key
from tests.cast import connect, enable
plan = Plan.objects.create(name="soak", calls_per_minute=10**6, calls_per_day=10**8, concurrent_calls=1000)
workspace = Workspace.objects.create(name="soak", plan=plan)
project = create_project(workspace, "soak", SYSTEM)
integration = enable(project, "soak")
for number in range({users}):
    tokens = dict(access_token=f"at.{{number}}.0", refresh_token=f"rt.{{number}}.0", lifetime={lifetime})
    connect(integration, f"u{{number}}", seconds={lifetime}, **tokens)
key = issue_key(workspace, "k", SYSTEM, project=project, scopes=["execute"])[1]
print(json.dumps(dict(workspace=str(workspace.pk), project=project.pk, integration=integration.pk, key=key)))
"""
# The log as a file, and what the quota counted since the soak began, over midnight if need be.
COLLECT = """
import csv, json
from datetime import datetime, UTC
from django.utils import timezone
from apps.connections.models import Connection
from apps.lib import shared
from apps.runs.models import Execution
from apps.workspaces import quota, slots
from apps.workspaces.models import UsageCounter
columns = ["request_id", "surface", "status", "error", "tries", "message"]
with open({file!r}, "w") as file:
    csv.writer(file).writerows(Execution.objects.values_list(*columns).iterator(5000))
def used(at):
    window = quota._day({workspace!r}, at)[0]
    try:
        return quota.USED([quota._key(window)], [])
    except shared.Unavailable:
        return UsageCounter.objects.filter(pk=window).values_list("used", flat=True).first() or 0
begun, now = datetime.fromtimestamp({begun}, UTC), timezone.now()
total = used(begun) + (used(now) if now.date() != begun.date() else 0)
active = Connection.objects.filter(status="active").count()
print(json.dumps(dict(used=int(total), under_way=slots.under_way({workspace!r}), active=active)))
"""

# What must come back, by how the call was made and how the service was told to answer it.
BY_TOOL = {"": 200, "slow": 200, "500": 422, "429": 422, "reset": 502, "once": 200, "cut": 502, "hang": 502}
PASSED_ON = BY_TOOL | {"500": 500, "429": 429}
STREAMED = PASSED_ON | {"cut": 200, "hang": 200}  # the head has gone when the body breaks; nothing flows for a while
EXPECTED: dict[str, dict[str, set[int]]] = {
    kind: {fault: {status} for fault, status in statuses.items()}
    for kind, statuses in {
        "execute": BY_TOOL,
        "write": BY_TOOL | {"once": 502},
        "keyed": BY_TOOL | {"once": 502},
        "shortcut": PASSED_ON | {"hang": 504},
        "raw": BY_TOOL | {"500": 200, "429": 200, "hang": 504},
        "proxy": STREAMED,
        "download": STREAMED,
        "upload": STREAMED | {"once": 502},
        "hang-up": {"": 200, "slow": LEFT},
    }.items()
}
for streamed in ("proxy", "download"):
    EXPECTED[streamed]["once"] = {200, 502}  # sent again where it was a connection that had been kept
    EXPECTED[streamed]["cut"] = {200, BROKEN}  # the caller's connection breaks too, maybe before the head has gone out
EXPECTED["upload"]["cut"] = {200, BROKEN}
WEIGHTS = {"execute": 34, "write": 10, "keyed": 8, "shortcut": 16, "raw": 15, "proxy": 9, "download": 3, "upload": 3,
           "hang-up": 2}  # fmt: skip
# What may come in place of it, by what the log says of the call: the service was not asked then.
NOT_ASKED = {
    "Soak's own limit for this account is used up for now.": ("held back", 429),
    "The access token could not be refreshed for now.": ("no refresh", 502),
    "The provider has not been reachable for a while, so it was not asked.": ("circuit open", 502),
}


@dataclass(slots=True)
class Done:
    """What a caller knows of one request. ``status`` may be `LEFT` or `BROKEN`."""

    id: str
    name: str  # of the effect: two requests with one Idempotency-Key have one
    kind: str
    fault: str
    status: int
    seconds: float
    replayed: bool = False
    wait: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where callers call."""

    sites: list[str]
    project: str
    integration: str
    key: str


class Caller(threading.Thread):
    """Calls without a pause, on connections that are kept, one to each site."""

    def __init__(self, place: Place, number: int, stopping: threading.Event, phase: str) -> None:
        super().__init__(name=f"caller {number}")
        self.place, self.number, self.stopping, self.phase = place, number, stopping, phase
        self.random = random.Random(f"{phase} {number}")
        self.turn = 0
        self.done: list[Done] = []
        self.wrong: list[str] = []
        self.lines = [http.client.HTTPConnection(urlsplit(site).netloc, timeout=60) for site in place.sites]

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self._call()
            except Exception as error:  # a thread that ends unseen would end the load
                self.wrong.append(f"caller {self.number}: {error!r}")
            if self.done and self.done[-1].wait:
                self.stopping.wait(self.done[-1].wait)
        for line in self.lines:
            line.close()

    def _call(self) -> None:
        self.turn += 1
        kind, fault = self.draw()
        name = f"{self.phase}-{self.number}-{self.turn}"
        if kind == "hang-up":
            self._hang_up(name, "slow" if fault else "")
        elif kind == "keyed":
            self._twice(name, fault)
        else:
            line = self.random.choice(self.lines)
            started = time.monotonic()
            self._send(line, name, name, kind, fault)
            self._read(line, Done(name, name, kind, fault, BROKEN, 0.0), started)

    def draw(self) -> tuple[str, str]:
        """How to call, and how the service is to answer."""
        kind = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        return kind, self.random.choice(FAULTS) if self.random.random() < FAILING else ""

    def _twice(self, name: str, fault: str) -> None:
        """One Idempotency-Key at both sites at the same time."""
        started = time.monotonic()
        for number, line in enumerate(self.lines):
            self._send(line, f"{name}-{number}", name, "keyed", fault)
        for number, line in enumerate(self.lines):
            self._read(line, Done(f"{name}-{number}", name, "keyed", fault, BROKEN, 0.0), started)

    def _hang_up(self, name: str, fault: str) -> None:
        """Leaves in the middle of a large answer, or before a slow one comes."""
        line = http.client.HTTPConnection(urlsplit(self.random.choice(self.place.sites)).netloc, timeout=60)
        done = Done(name, name, "hang-up", fault, LEFT, 0.0)
        with contextlib.closing(line):
            self._send(line, name, name, "hang-up", fault)
            if not fault:
                with contextlib.closing(line.getresponse()) as answer:
                    done.status = answer.status
                    answer.read(65536)
        self.done.append(done)

    def _send(self, line: http.client.HTTPConnection, request_id: str, name: str, kind: str, fault: str) -> None:
        method, path, body = self._request(name, kind, fault)
        headers = {
            "Authorization": f"Bearer {self.place.key}",
            "X-End-User": f"u{self.number % USERS}",
            "X-Request-Id": request_id,
            "Content-Type": "application/json",
        }
        if kind == "keyed":
            headers["Idempotency-Key"] = name
        with contextlib.suppress(OSError):  # `_read` notices
            line.request(method, path, body, headers)

    def _request(self, name: str, kind: str, fault: str) -> tuple[str, str, bytes | None]:
        params = {"id": name, "fault": fault}
        project = f"/v1/{self.place.project}/integrations"
        tool = "write" if kind in {"write", "keyed"} else "read_soon" if fault == "hang" else "read"
        if kind in {"execute", "write", "keyed"}:
            body: dict[str, Any] = {"toolName": f"SOAK_{tool.upper()}", "params": params}
            return "POST", f"{project}/execute", json.dumps(body).encode()
        if kind == "shortcut":
            return "POST", f"/v1/soak/{tool}", json.dumps({"params": params}).encode()
        if kind == "raw":
            body = {"endpoint": "/do", "method": "GET", "params": params}
            path = f"/api/integrations/projects/{self.place.project}/integrations/{self.place.integration}/execute"
            return "POST", path, json.dumps(body).encode()
        size = {"download": MEGABYTE, "hang-up": 16 * MEGABYTE}.get(kind)
        target = "take" if kind == "upload" else "blob" if size else "do"
        query = urlencode(params | ({"size": size} if size else {}))
        upload = bytes(MEGABYTE) if kind == "upload" else None
        return "POST" if upload else "GET", f"{project}/proxy/soak/{target}?{query}", upload

    def _read(self, line: http.client.HTTPConnection, done: Done, started: float) -> None:
        try:
            answer = line.getresponse()
            done.status = answer.status
            done.replayed = answer.getheader("Idempotency-Replayed") == "true"
            if answer.status in {429, 502}:
                done.wait = min(float(answer.getheader("Retry-After") or 0), LONGEST_PAUSE)
            self._check(done, answer.read())
        except http.client.IncompleteRead:
            line.close()
            if done.fault != "cut":
                self.wrong.append(f"{done.kind} {done.id}: the answer broke off")
        except (OSError, http.client.HTTPException) as error:
            line.close()
            if BROKEN not in EXPECTED[done.kind].get(done.fault, set()):
                self.wrong.append(f"{done.kind} {done.fault} {done.id}: {error!r}")
        done.seconds = time.monotonic() - started
        self.done.append(done)

    def _check(self, done: Done, body: bytes) -> None:
        if done.status != 200 or done.fault in {"500", "429"}:
            return
        mark = f'"id": "{done.name}"'.encode()
        right = len(body) == MEGABYTE if done.kind == "download" else mark in body
        if not right or (done.kind == "upload" and b'"size": 1048576' not in body):
            self.wrong.append(f"{done.kind} {done.fault} {done.id}: not its answer: {body[:200]!r}")


def load(place: Place, callers: int, seconds: float, phase: str) -> list[Caller]:
    stopping = threading.Event()
    threads = [Caller(place, number, stopping, phase) for number in range(callers)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stopping.set()
    for thread in threads:
        thread.join()
    return threads


@dataclass
class Bounds:
    """What may grow between the first and the last quarter of the load, and be left afterwards."""

    memory: float  # MB a process
    slope: float | None  # MB a minute and process, in the second half
    threads: int = 8  # more than before, over all processes
    files: int = 16
    patience: float = 45.0  # seconds for all to come back


@dataclass
class Report:
    """What was found: lines to print, and what does not hold."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    answers: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)

    def hold(self, right: bool, text: str) -> None:
        if not right:
            self.faults.append(text)

    def __str__(self) -> str:
        verdict = [f"DOES NOT HOLD: {fault}" for fault in self.faults[:40]] or ["everything holds"]
        return "\n".join([*self.lines, *verdict])


def judge(report: Report, one: Done, rows: list[list[str]]) -> str:
    """How a call ended. Each answer has one line in the log, and is the one that had to come."""
    if one.replayed:
        report.hold(not rows, f"{one.id} was replayed, and logged")
        return "replayed"
    if one.status == LEFT and not rows:  # the server noticed it first; `compare` sees to it that nothing was done
        return "left before it was begun"
    if len(rows) != 1:
        report.hold(False, f"{one.kind} {one.fault} {one.id}: {len(rows)} lines in the log, answer {one.status}")
        return "not logged"
    _, _, _, error, tries, message = rows[0]
    if message in NOT_ASKED:
        name, status = NOT_ASKED[message]
        report.hold(one.status in {status, LEFT}, f"{one.kind} {one.id}: {name}, answered with {one.status}")
        return name
    said = f"{one.kind} {one.fault} {one.id}: answer {one.status}, log {error} {tries} {message}"
    report.hold(one.status in EXPECTED[one.kind][one.fault], said)
    return "hung up" if one.kind == "hang-up" else one.fault or "ok"


def compare(report: Report, done: list[Done], rows: dict[str, list[list[str]]], books: dict[str, Any]) -> None:
    """The tries in the log are the requests that the service saw, nothing else is, and no key took effect twice."""
    tries: Counter[str] = Counter()
    for one in done:
        tries[one.name] += sum(int(row[4]) for row in rows.get(one.id, []))
    asked = Counter(books["requests"])
    for name in tries.keys() | asked.keys():
        report.hold(tries[name] == asked[name], f"{name}: {tries[name]} tries logged, {asked[name]} requests came")
    for name in {one.name for one in done if one.kind == "keyed"}:
        report.hold(books["effects"].get(name, 0) <= 1, f"the Idempotency-Key {name} took effect twice")
    strangers = sorted(rows.keys() - {one.id for one in done})
    report.hold(not strangers, f"logged, and nobody was answered: {strangers[:5]}")


class Soak:
    """One soak of a running product."""

    def __init__(self, product: Product, ledger: Ledger, *, callers: int, seconds: float, bounds: Bounds) -> None:
        self.product, self.ledger, self.callers, self.seconds, self.bounds = product, ledger, callers, seconds, bounds
        self.report = Report()

    def run(self) -> Report:
        sites = [self.product.url, *self.product.more_web(1)]
        facts = json.loads(self.product.run(PREPARE.format(users=USERS, lifetime=self.ledger.lifetime)))
        place = Place(sites, facts["project"], facts["integration"], facts["key"])
        self.roles = roles_of(self.product)
        pids = list(self.roles)
        self.begun = time.time()
        callers = load(place, self.callers, max(10.0, self.seconds / 10), "warm")
        time.sleep(3)
        before, sessions_before = now(pids), self._sessions()
        started = time.monotonic()
        with Watch(pids, max(0.5, self.seconds / 200), self._sessions) as watch:
            measured = load(place, self.callers, self.seconds, "load")
        took = time.monotonic() - started
        after = self._settled(pids, before)
        self._account(callers + measured, facts["workspace"])
        self._speed(measured, took)
        self._resources(watch, before, after, sessions_before)
        return self.report

    # -- Every call --------------------------------------------------------------------------------------------------
    def _account(self, callers: list[Caller], workspace: str) -> None:
        report, file = self.report, self.product.home / "executions.csv"
        code = COLLECT.format(file=str(file), workspace=workspace, begun=self.begun)
        found = json.loads(self.product.run(code))
        rows: dict[str, list[list[str]]] = defaultdict(list)
        with file.open() as lines:
            for row in csv.reader(lines):
                rows[row[0]].append(row)
        books = self.ledger.books()
        done = [one for caller in callers for one in caller.done]
        for caller in callers:
            report.faults += caller.wrong
        verdicts = report.verdicts = Counter(judge(report, one, rows.get(one.id, [])) for one in done)
        report.answers = len(done)
        compare(report, done, rows, books)
        written = sum(map(len, rows.values()))
        report.hold(written == found["used"], f"{written} calls were logged, the quota counted {found['used']}")
        report.hold(found["under_way"] == 0, f"{found['under_way']} slots were not given back")
        report.hold(found["active"] == USERS, f"{USERS - found['active']} connections were lost")
        tokens = books["tokens"]
        report.hold(not tokens.get("reused"), f"{tokens.get('reused')} refresh tokens were used twice")
        report.hold(not books["refused"], f"calls with a token that had expired: {books['refused']}")
        report.hold(tokens.get("granted", 0) >= USERS, f"only {tokens.get('granted')} refreshes went on")
        report.hold(not verdicts["circuit open"], f"{verdicts['circuit open']} calls met an open circuit")
        report.hold("Traceback" not in self.product.log, f"a process stumbled:\n{self.product.log[-3000:]}")
        report.lines += [
            f"{len(done):,} answers, {written:,} executions logged, {found['used']:,} counted by the quota; the service was "
            f"asked {sum(books['requests'].values()):,} times",
            "how they ended: " + ", ".join(f"{count:,} {name}" for name, count in sorted(verdicts.items())),
            f"{tokens.get('granted', 0):,} refreshes, {tokens.get('failed', 0)} failed by the service, "
            f"{tokens.get('refused', 0)} calls with a token too old",
        ]

    # -- Speed and resources -----------------------------------------------------------------------------------------
    def _speed(self, callers: list[Caller], took: float) -> None:
        by_kind: dict[str, list[float]] = defaultdict(list)
        for caller in callers:
            for one in caller.done:
                if not one.fault and one.kind != "hang-up":
                    by_kind[one.kind].append(one.seconds * 1000)
        total = sum(len(caller.done) for caller in callers)
        self.report.lines.append(f"{self.callers} callers for {took:.0f} s: {total / took:.0f} calls a second")
        for kind, found in sorted(by_kind.items()):
            found.sort()
            half, most, last = (found[int((len(found) - 1) * share)] for share in (0.5, 0.99, 1))
            line = f"  {kind:10}{len(found):9,} without a fault: p50 {half:5.0f} ms, p99 {most:5.0f} ms, slowest {last:5.0f} ms"
            self.report.lines.append(line)

    def _settled(self, pids: list[int], before: Held) -> Held:
        """What is held when the load has stopped, as soon as it is as little as before."""
        deadline = time.monotonic() + self.bounds.patience
        time.sleep(8)  # the log's last batch, and the leases' end
        while time.monotonic() < deadline and not self._is_back(before, now(pids)):
            time.sleep(1)
        return now(pids)

    def _is_back(self, before: Held, after: Held) -> bool:
        bounds = self.bounds
        return after.threads <= before.threads + bounds.threads and after.files <= before.files + bounds.files

    def _resources(self, watch: Watch, before: Held, after: Held, sessions_before: int) -> None:
        report, bounds = self.report, self.bounds
        report.hold(not watch.gone, f"processes ended: {[self.roles[pid] for pid in watch.gone]}")
        report.hold(self._is_back(before, after), f"not given back: {before} before, {after} after")
        report.hold(after.close_wait <= before.close_wait + 4, f"{after.close_wait} sockets left in CLOSE_WAIT")
        report.lines.append(
            f"{'':12}{'MB first':>10}{'last ¼':>8}{'MB/min':>8}{'threads':>9}{'files':>7}{'CLOSE_WAIT':>12}"
        )
        for pid, role in self.roles.items():
            series = watch.series[pid]
            first, last = series.quarters("memory")
            slope = series.slope("memory")
            report.lines.append(
                f"{role:12}{first:10.1f}{last:8.1f}{slope:8.2f}{series.peak('threads'):9.0f}{series.peak('files'):7.0f}"
                f"{series.peak('close_wait'):12.0f}"
            )
            report.hold(last - first <= bounds.memory, f"{role} grew from {first:.1f} to {last:.1f} MB")
            if bounds.slope is not None:
                report.hold(slope <= bounds.slope, f"{role} grows by {slope:.2f} MB a minute")
            if series.peak("threads") > 10:
                report.lines.append(f"{'':12}MB by tenths: " + " ".join(f"{mb:.0f}" for mb in series.tenths("memory")))
        report.lines.append(
            f"threads {before.threads} before, {after.threads} after; files {before.files}, {after.files}; established "
            f"{before.established}, {after.established}; database sessions {sessions_before} before, "
            f"at most {max(watch.others)}, {self._sessions()} after"
        )
        report.hold(self._sessions() <= sessions_before + 8, f"{self._sessions()} database sessions are left")

    def _sessions(self) -> int:
        """Of PostgreSQL, at the product's database."""
        if not self.product.database:
            return 0
        with psycopg.connect(self.product.server_url, autocommit=True) as connection:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
            row = connection.execute(query, [self.product.database]).fetchone()
            return int(row[0]) if row else 0


def roles_of(product: Product) -> dict[int, str]:
    """The product's processes by what they are, the supervisor's and granian's own parents included."""
    found: dict[int, str] = {}
    names: Counter[str] = Counter()
    for pid, command in sorted(product.processes().items()):
        role = "worker" if "celery" in command else "web" if "granian" in command else "other"
        names[role] += 1
        found[pid] = f"{role} {names[role]}"
    return found


@contextlib.contextmanager
def running(folder: Path, ledger: Ledger, **environment: str) -> Iterator[Product]:
    """The product with the toolkit of the soak; ``DATABASE_URL`` of this process's environment decides on the database."""
    toolkits = folder / "toolkits"
    toolkits.mkdir()
    (toolkits / "soak.yaml").write_text(TOOLKIT.format(base=ledger.url, named=NAMED))
    given = {"JACKFIELD_TOOLKITS_DIR": str(toolkits), "JACKFIELD_EGRESS_ALLOW": "127.0.0.0/8"}
    product = Product(folder / "home", **(given | environment))
    try:
        yield product.start(patience=90)
    finally:
        product.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL of its own, else SQLite")
    parser.add_argument("--redis", action="store_true", help="with a Valkey of its own as cache and broker")
    options = parser.parse_args()
    seconds = options.minutes * 60
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jackfield-soak-")))
        ledger = stack.enter_context(Ledger())
        os.environ.pop("DATABASE_URL", None)
        if options.postgres:
            os.environ["DATABASE_URL"] = stack.enter_context(Postgres()).url
        environment = {}
        if options.redis:
            url = stack.enter_context(Valkey()).url
            environment = {"CACHE_URL": url, "CELERY_BROKER_URL": url}
        product = stack.enter_context(running(folder, ledger, **environment))
        bounds = Bounds(memory=10, slope=1.0) if seconds >= 300 else Bounds(memory=25, slope=None)
        report = Soak(product, ledger, callers=options.callers, seconds=seconds, bounds=bounds).run()
    print(report)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
