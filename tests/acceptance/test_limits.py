"""Limits and fairness over real processes: two web processes and one of ours, on each store that counts."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import yaml

from tests.api.shop import LAB
from tests.peers.postgres import Postgres
from tests.peers.process import free_port
from tests.peers.upstream import Upstream
from tests.peers.valkey import Valkey
from tests.product import ROOT, Product

pytestmark = pytest.mark.acceptance

CALLERS = 64

# A workspace of its own with a plan of these limits: prints project and key.
TENANT = """
import json
from apps.workspaces.models import *; from apps.workspaces.audit import SYSTEM
from apps.workspaces.services import create_project, issue_key
from tests.cast import connect, enable
name, url, limits = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
workspace = Workspace.objects.create(name=name, plan=Plan.objects.create(name=name, **limits))
project = create_project(workspace, name, SYSTEM)
connect(enable(project, "lab", url), seconds=None)
print(project.pk, issue_key(workspace, "k", SYSTEM, project=project, scopes=["execute"])[1])
"""
# What a worker does: takes calls of the same key and plan, from many threads of another process.
WORKER = """
from concurrent.futures import ThreadPoolExecutor
from django.db import connection
from apps.lib.errors import Failure
from apps.workspaces import quota
from apps.workspaces.audit import SYSTEM
from apps.workspaces.callers import Caller, find_key
key = find_key(sys.argv[1]); project = key.project; project.workspace = key.workspace
caller = Caller("key", project, frozenset(), SYSTEM, key=key)
def take(number):
    try:
        quota.take_call(caller)
    except Failure:
        return 0
    finally:
        connection.close()
    return 1
print("ready", flush=True); sys.stdin.readline()
with ThreadPoolExecutor(16) as pool:
    print(sum(pool.map(take, range(int(sys.argv[2])))), flush=True)
"""


class Cluster:
    """A product of two web processes."""

    def __init__(self, product: Product, store: str) -> None:
        self.product = product
        self.store = store  # sqlite | postgres | valkey
        self.sites = [product.url, *product.more_web(1)]

    def script(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        head = "import sys, django; django.setup()\n"
        environment = self.product.running_environment | {"DJANGO_SETTINGS_MODULE": "config.settings"}
        return subprocess.Popen(
            [sys.executable, "-c", head + code, *arguments],
            cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def tenant(self, url: str, limits: str = "{}") -> tuple[str, str]:
        """(project, key) of a new workspace whose lab is at the URL."""
        output, _ = self.script(TENANT, f"t-{uuid.uuid4().hex[:8]}", url, limits).communicate(timeout=60)
        project, key = output.split()
        return project, key

    def call(self, tenant: tuple[str, str], kind: str, site: int = 0) -> requests.Response:
        project, key = tenant
        body = {"toolName": "LAB_ANSWER", "params": {"kind": kind}, "userId": "u1"}
        url = f"{self.sites[site % 2]}/v1/{project}/integrations/execute"
        return requests.post(url, json=body, headers={"X-API-Key": key}, timeout=60)

    def storm(self, tenant: tuple[str, str], kind: str, count: int) -> list[requests.Response]:
        """So many calls from 64 callers, over both web processes in turn."""
        with ThreadPoolExecutor(CALLERS) as pool:
            return list(pool.map(lambda number: self.call(tenant, kind, number), range(count)))


@pytest.fixture(scope="module", params=["sqlite", "postgres", "valkey"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[Cluster]:
    environment = {"JACKFIELD_EGRESS_ALLOW": "127.0.0.0/8"}
    if request.param == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        name = f"limits_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        environment["DATABASE_URL"] = postgres.url_of(name)
    if request.param == "valkey":
        valkey: Valkey = request.getfixturevalue("valkey")
        environment["CACHE_URL"] = valkey.url
    toolkits: Path = tmp_path_factory.mktemp("toolkits")
    (toolkits / "lab.yaml").write_text(yaml.safe_dump(yaml.safe_load(LAB)))
    product = Product(tmp_path_factory.mktemp("home"), JACKFIELD_TOOLKITS_DIR=str(toolkits), **environment)
    try:
        yield Cluster(product.start(), str(request.param))
    finally:
        product.close()


def statuses(answers: list[requests.Response]) -> dict[int, int]:
    return dict(Counter(answer.status_code for answer in answers))


def within_one_minute() -> None:
    """Waits for the next minute, where this one is about to end."""
    if time.time() % 60 > 45:
        time.sleep(60 - time.time() % 60 + 0.1)


@pytest.mark.parametrize("limits", ['{"calls_per_minute": 100}', '{"calls_per_day": 100, "calls_per_minute": 5000}'],
                         ids=["minute", "day"])  # fmt: skip
def test_exactly_the_limit_succeeds_over_web_and_worker(cluster: Cluster, upstream: Upstream, limits: str) -> None:
    tenant = cluster.tenant(upstream.url, limits)
    path = f"echo/{tenant[0]}"
    worker = cluster.script(WORKER, tenant[1], "100")
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    within_one_minute()
    worker.stdin.write("go\n")
    worker.stdin.flush()
    answers = cluster.storm(tenant, path, 192)
    granted = int(worker.communicate(timeout=60)[0])
    found = statuses(answers)
    assert set(found) <= {200, 429}, found
    assert found.get(200, 0) + granted == 100
    assert upstream.count(f"/{path}") == found.get(200, 0)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


def test_never_more_calls_are_under_way_than_the_plan_says(cluster: Cluster, upstream: Upstream) -> None:
    tenant = cluster.tenant(upstream.url, '{"concurrent_calls": 5}')
    name = uuid.uuid4().hex
    answers = cluster.storm(tenant, f"busy/{name}/0.05", 256)
    found = statuses(answers)
    assert set(found) == {200, 429}, found
    assert upstream.peak(name) <= 5
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
    assert "5 calls at the same time" in refused[0].json()["error"]["message"]
    # None was lost: five go at once again, and only five.
    with ThreadPoolExecutor(5) as pool:
        again = list(pool.map(lambda number: cluster.call(tenant, f"busy/{name}/0.5", number), range(5)))
    assert statuses(again) == {200: 5}
    assert upstream.peak(name) == 5


def test_a_wall_of_the_providers_is_not_run_into(cluster: Cluster, upstream: Upstream) -> None:
    tenant = cluster.tenant(upstream.url)
    name = uuid.uuid4().hex
    kind = f"walled/{name}/200/6"
    assert cluster.call(tenant, kind).status_code == 200
    assert cluster.call(tenant, kind, 1).status_code == 200
    ends = time.monotonic() + 15
    sites = 2 if cluster.store == "valkey" else 1  # without Redis processes do not know of each other's calls
    found: Counter[int] = Counter()
    waits: set[int] = set()
    lock = threading.Lock()

    def caller(number: int) -> None:
        while time.monotonic() < ends:
            answer = cluster.call(tenant, kind, number % sites)
            with lock:
                found[answer.status_code] += 1
                if answer.status_code == 429:
                    assert answer.json()["error"]["code"] == "QUOTA_RATE_LIMIT"
                    waits.add(int(answer.headers["Retry-After"]))
            time.sleep(0.05 if answer.status_code == 200 else 0.3)

    with ThreadPoolExecutor(CALLERS) as pool:
        for future in [pool.submit(caller, number) for number in range(CALLERS)]:
            future.result()
    wall = upstream.wall(name)
    assert wall["refused"] == 0, (wall, found)
    assert set(found) == {200, 429}
    assert found[429] > 50
    assert min(waits) >= 1
    assert max(waits) <= 7
    assert wall["windows"] >= 2
    assert wall["served"] >= 0.7 * 200 * (wall["windows"] - 1)


USED = """
from apps.workspaces import quota
from apps.workspaces.models import Project
print(quota.used_today(Project.objects.get(pk=sys.argv[1]).workspace_id))
"""


def test_a_process_that_stops_gives_back_what_it_holds(cluster: Cluster, upstream: Upstream) -> None:
    if cluster.store == "valkey":
        pytest.skip("with Redis no process holds anything")
    tenant = cluster.tenant(upstream.url, '{"calls_per_day": 10000, "concurrent_calls": 320}')

    def used() -> int:
        return int(cluster.script(USED, tenant[0]).communicate(timeout=60)[0])

    third = cluster.product.more_web(1)[0]
    body = {"toolName": "LAB_ANSWER", "params": {"kind": "echo"}, "userId": "u1"}
    url = f"{third}/v1/{tenant[0]}/integrations/execute"
    assert requests.post(url, json=body, headers={"X-API-Key": tenant[1]}, timeout=30).status_code == 200
    process = cluster.product.further.pop()
    process.terminate()
    process.wait(15)
    assert used() == 1


class Up(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None: ...


def test_a_host_that_is_down_fails_fast_and_recovers(cluster: Cluster, upstream: Upstream) -> None:
    port = free_port()
    tenant = cluster.tenant(f"http://127.0.0.1:{port}")
    neighbour = cluster.tenant(f"http://127.0.0.1:{port}")
    texts = []
    for _ in range(9):
        answer = cluster.call(tenant, "x")
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "INTEGRATIONS_EXECUTION_FAILED"
        texts.append(answer.json()["error"]["message"])
    opened = time.monotonic()
    assert ["was not asked" in text for text in texts] == [False] * 8 + [True]
    assert 1 <= int(answer.headers["Retry-After"]) <= 6
    assert "was not asked" not in cluster.call(neighbour, "x").json()["error"]["message"]
    with ThreadingHTTPServer(("127.0.0.1", port), Up) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert cluster.call(neighbour, "x").status_code == 200
        assert cluster.call(tenant, "x").status_code == 502
        while cluster.call(tenant, "x").status_code != 200:
            assert time.monotonic() - opened < 10
            time.sleep(0.1)
        assert time.monotonic() - opened > 3
        assert statuses([cluster.call(tenant, "x") for _ in range(5)]) == {200: 5}
        server.shutdown()


def test_one_lost_call_in_twenty_shuts_no_host_off(cluster: Cluster, upstream: Upstream) -> None:
    tenant = cluster.tenant(upstream.url)
    with ThreadPoolExecutor(CALLERS) as pool:
        kinds = ["reset" if number % 20 == 7 else "echo" for number in range(400)]
        answers = list(pool.map(lambda job: cluster.call(tenant, job[1], job[0]), enumerate(kinds)))
    assert statuses(answers) == {200: 380, 502: 20}
    assert not [answer for answer in answers if answer.status_code == 502 and "not asked" in answer.text]
