"""What only real processes and real sockets show, on both databases: bodies, threads, a clean stop."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import yaml

from tests.api.shop import LAB
from tests.peers.postgres import Postgres
from tests.peers.upstream import Upstream
from tests.product import ROOT, Product

LIMIT = 60  # calls a minute of the small plan
CONNECT = """
from apps.workspaces.models import *; from apps.workspaces.audit import SYSTEM
from apps.workspaces.services import create_project, issue_key
from tests.cast import connect, enable
project = Project.objects.get(pk=sys.argv[1])
connect(enable(project, "lab", sys.argv[2]))
small = Workspace.objects.create(name="Small", plan=Plan.objects.create(name="Small", calls_per_minute=int(sys.argv[3])))
limited = create_project(small, "Limited", SYSTEM)
connect(enable(limited, "lab", sys.argv[2]))
print(limited.pk, issue_key(small, "k", SYSTEM, project=limited, scopes=["execute"])[1])
"""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def wired(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[Product]:
    """A product whose lab toolkit lives at the upstream, and in it a second workspace with a small plan."""
    environment = {"JACKFIELD_EGRESS_ALLOW": "127.0.0.0/8"}
    if request.param == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE wire")
        environment["DATABASE_URL"] = postgres.url_of("wire")
    toolkits = tmp_path_factory.mktemp("toolkits")
    (toolkits / "lab.yaml").write_text(yaml.safe_dump(yaml.safe_load(LAB)))
    environment["JACKFIELD_TOOLKITS_DIR"] = str(toolkits)
    product = Product(tmp_path_factory.mktemp("home"), **environment)
    try:
        product.start()
        limited, key = script(product, CONNECT, product.facts["project_id"], upstream.url, str(LIMIT)).split()
        product.facts |= {"limited_project": limited, "limited_key": key}
        yield product
    finally:
        product.close()


def script(product: Product, code: str, *arguments: str) -> str:
    """Runs a script in the product's own database; gives what it prints."""
    head = "import sys, django; django.setup()\n"
    environment = product.running_environment | {"DJANGO_SETTINGS_MODULE": "config.settings"}
    done = subprocess.run(
        [sys.executable, "-c", head + code, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def raw(product: Product, request: bytes, patience: float = 15) -> tuple[int, dict[str, str], bytes]:
    """Sends bytes as they are; gives status, headers and body of the first answer."""
    with socket.create_connection(("127.0.0.1", product.port), timeout=patience) as connection:
        connection.sendall(request)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return status, headers, file.read(int(headers["content-length"]))


def head(product: Product, path: str = "integrations/configure", **headers: str) -> bytes:
    lines = [f"POST /v1/{product.facts['project_id']}/{path} HTTP/1.1", f"Host: 127.0.0.1:{product.port}"]
    given = {"Authorization": f"Bearer {product.facts['api_key']}"} | {
        n.replace("_", "-"): v for n, v in headers.items()
    }
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in given.items()), "", ""]).encode()


def code_of(body: bytes) -> str:
    error = json.loads(body)["error"]
    assert {"code", "message", "remediation", "documentation_url"} <= set(error)
    return str(error["code"])


# -- bodies ----------------------------------------------------------------------------------------------------------
def chunked(data: bytes, size: int) -> bytes:
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_chunked_body_is_read(wired: Product, size: int) -> None:
    status, _, body = raw(wired, head(wired, Transfer_Encoding="chunked") + chunked(b'{"toolkit": "sandbox"}', size))
    assert (status, json.loads(body)["toolkit_slug"]) == (200, "sandbox")


def test_a_chunked_body_without_end_in_sight_is_413(wired: Product) -> None:
    status, _, body = raw(wired, head(wired, Transfer_Encoding="chunked") + chunked(b"x" * 3_000_000, 60_000))
    assert (status, code_of(body)) == (413, "PAYLOAD_TOO_LARGE")


def test_five_megabytes_are_413_and_the_connection_stays_or_ends_cleanly(wired: Product) -> None:
    large = b'{"toolkit": "' + b"x" * (5 * 1024 * 1024) + b'"}'
    for path in ("integrations/configure", "integrations/execute", "user-tokens"):
        with socket.create_connection(("127.0.0.1", wired.port), timeout=20) as connection:
            connection.sendall(head(wired, path, Content_Length=str(len(large))) + large)
            status, _, body = read_answer(connection)
            assert (status, code_of(body)) == (413, "PAYLOAD_TOO_LARGE")
            small = b'{"toolkit": "sandbox"}'
            connection.sendall(head(wired, Content_Length=str(len(small))) + small)
            assert read_answer(connection)[0] == 200


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer wrong"}, {"Authorization": ""}])
def test_a_large_body_of_somebody_unknown_is_401_not_a_reset(wired: Product, headers: dict[str, str]) -> None:
    large = b"x" * (5 * 1024 * 1024)
    answer = requests.post(f"{wired.url}/v1/proj_x/integrations/execute", data=large, headers=headers, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"].startswith("AUTH_")) == (401, True)


def test_a_body_shorter_than_it_says_is_400_or_unanswered(wired: Product) -> None:
    with socket.create_connection(("127.0.0.1", wired.port), timeout=15) as connection:
        connection.sendall(head(wired, Content_Length="100") + b'{"toolkit"')
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert wired.call("GET", "settings").status_code == 200


def test_curls_default_form_type_is_read_as_json(wired: Product) -> None:
    answer = wired.call("POST", "integrations/configure", data='{"toolkit": "sandbox"}',
                        headers={"Content-Type": "application/x-www-form-urlencoded"})  # fmt: skip
    assert answer.status_code == 200


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff", b"[]", b"5", b'{"toolkit": NaN}', b'{"toolkit": "\\ud800"}'])
def test_bad_bodies_are_400(wired: Product, body: bytes) -> None:
    answer = wired.call("POST", "integrations/configure", data=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_INVALID_SCHEMA")


@pytest.mark.parametrize(
    "path",
    ["integrations/connections/%00", "integrations/connections?userId=%00", "nonsense", "/v1", "/api/x",
     "integrations/connections/..%2f..%2fx", "executions?tool=%00"],
)  # fmt: skip
def test_odd_paths_are_json(wired: Product, path: str) -> None:
    answer = wired.call("GET", path)
    assert answer.status_code in {400, 404}
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["error"]["code"]


def test_a_host_that_is_not_ours_is_json(wired: Product) -> None:
    answer = wired.call("GET", "settings", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_INVALID_SCHEMA")


def test_the_documentation_of_an_error_can_be_read(wired: Product) -> None:
    url = wired.call("GET", "nonsense").json()["error"]["documentation_url"]
    page = requests.get(url, timeout=10)
    assert page.status_code == 200
    assert 'id="RESOURCE_NOT_FOUND"' in page.text


# -- threads ---------------------------------------------------------------------------------------------------------
def at_once(count: int, call: Any) -> list[requests.Response]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(call, number) for number in range(count)]]


def execute(product: Product, tool: str, params: dict[str, Any], **headers: str) -> requests.Response:
    body = {"toolName": tool, "params": params, "userId": "u1"}
    return product.call("POST", "integrations/execute", json=body, headers=headers)


def test_of_many_at_once_with_one_idempotency_key_one_is_done(wired: Product, upstream: Upstream) -> None:
    upstream.reset()
    headers = {"Idempotency-Key": "race-1"}
    answers = at_once(12, lambda number: execute(wired, "LAB_SLOW", {"seconds": 1}, **headers))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 11
    assert upstream.count("/slow") == 1


def test_of_many_flows_at_once_with_one_idempotency_key_one_begins(wired: Product) -> None:
    body = {"toolkit": "lab", "userId": "racer"}
    answers = at_once(
        8, lambda number: wired.call("POST", "integrations/connect", json=body, headers={"Idempotency-Key": "race-2"})
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


def test_thirty_two_callers_get_exactly_the_calls_of_a_minute(wired: Product) -> None:
    url = f"{wired.url}/v1/{wired.facts['limited_project']}/integrations/execute"
    headers = {"X-API-Key": wired.facts["limited_key"]}
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"}
    if time.time() % 60 > 45:
        time.sleep(61 - time.time() % 60)  # the whole test within one minute

    def four(number: int) -> list[int]:
        with requests.Session() as session:
            answers = [session.post(url, json=body, headers=headers, timeout=30) for _ in range(4)]
        assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 429)
        return [answer.status_code for answer in answers]

    with ThreadPoolExecutor(32) as pool:
        statuses = Counter(status for found in pool.map(four, range(32)) for status in found)
    assert statuses == {200: LIMIT, 429: 128 - LIMIT}


# -- the log ---------------------------------------------------------------------------------------------------------
def test_a_clean_stop_loses_no_row_of_the_log(wired: Product) -> None:
    for number in range(5):
        assert execute(wired, "LAB_GET_ITEM", {"id": "1"}, **{"X-Request-Id": f"last-{number}"}).status_code == 200
    wired.stop()
    wired.start()
    rows = wired.call("GET", "executions?limit=10").json()["executions"]
    assert {f"last-{number}" for number in range(5)} <= {row["requestId"] for row in rows}


def test_nothing_went_wrong_on_our_side(wired: Product) -> None:
    """Last: all of the above left no trace of an unforeseen error."""
    assert "Traceback" not in wired.log, wired.log[-3000:]
    assert Path(wired.home).exists()


# -- headers ---------------------------------------------------------------------------------------------------------
UNREADABLE = {"X-End-User": "Jürgen", "Idempotency-Key": "schlüssel", "X-Connection-Id": "ca_ü"}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
def test_a_header_that_the_server_cannot_read_is_refused_and_not_passed_over(
    wired: Product, name: str, charset: str
) -> None:
    """Else the shared account would be used, or the call made twice."""
    given = {name: UNREADABLE[name].encode(charset)}
    if name == "X-Connection-Id":
        answer = wired.call("GET", "integrations/proxy/lab/echo", headers=given)
    else:
        answer = wired.call("POST", "integrations/connect", headers=given, json={"toolkit": "lab", "userId": "u1"})
    assert (answer.status_code, list(answer.json()["error"]["details"])) == (400, [name])


def test_a_user_whose_id_is_not_ascii_is_named_by_a_header(wired: Product) -> None:
    given = {"X-End-User": "UTF-8''J%C3%BCrgen"}
    connection_id = wired.call("POST", "integrations/connect", headers=given, json={"toolkit": "lab"}).json()[
        "connectionRequestId"
    ]
    state = wired.call("GET", f"integrations/connections/{connection_id}").json()
    assert state["app_user_id"] == "Jürgen"
    broken = wired.call("POST", "integrations/connect", headers={"X-End-User": "UTF-8''%FF"}, json={"toolkit": "lab"})
    assert (broken.status_code, list(broken.json()["error"]["details"])) == (400, ["X-End-User"])
