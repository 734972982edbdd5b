"""What whoever runs quickstart lives through: starting, starting again, kill -9, Ctrl-C, two at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import requests

from tests.acceptance.journey import connect_wayward, enable_wayward, execute, new_user, status_of
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = pytest.mark.acceptance
FACTS = {"url", "admin_email", "admin_password", "workspace_id", "project_id", "project_name", "api_key", "end_user_id"}
SLACK = 2.0  # how much longer than promised it may take on a machine that runs other tests at the same time


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Product]:
    """A product that a test may kill."""
    running = Product(tmp_path / "home", JACKFIELD_EGRESS_ALLOW="127.0.0.0/8")
    try:
        yield running
    finally:
        running.close()


def wait_for(condition: Callable[[], bool], patience: float, what: str) -> float:
    """How many seconds it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < patience, f"{what} took more than {patience} s"
        time.sleep(0.02)
    return time.monotonic() - started


def is_ready(product: Product) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"{product.url}/readyz", timeout=2).status_code == 200
    return False


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def find(product: Product, *words: str) -> list[int]:
    """The process ids whose command line has all the words, the parents first."""
    return sorted(pid for pid, command in product.processes().items() if all(word in command for word in words))


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_it_starts_says_what_to_do_and_keeps_everything(own: Product, upstream: Upstream) -> None:
    own.spawn()
    opened = wait_for(lambda: is_open(own.port), 20, "the first start")
    written = json.loads((own.home / "quickstart.json").read_text())
    assert set(written) == FACTS
    assert stat.S_IMODE((own.home / "quickstart.json").stat().st_mode) == 0o600
    ready = opened + wait_for(lambda: is_ready(own), 20, "getting ready")
    own.facts = written
    for name in ("secret_key", "encryption_keys"):
        assert stat.S_IMODE((own.home / name).stat().st_mode) == 0o600
    wait_for(lambda: "Jackfield is ready" in own.log, 5, "the welcome")
    assert all(str(written[name]) in own.log for name in FACTS - {"workspace_id"})
    run_printed_commands(own.log)
    enable_wayward(own, upstream)
    user = new_user()
    connection_id = connect_wayward(own, user)

    stopped = time.monotonic()
    own.stop()
    stopping = time.monotonic() - stopped
    assert not own.processes()
    started = time.monotonic()
    own.start()
    again = time.monotonic() - started
    print(f"first start {ready:.1f} s, Ctrl-C {stopping:.1f} s, second start {again:.1f} s")
    assert ready < 10 * SLACK
    assert again < 5 * SLACK
    assert stopping < 5 * SLACK
    assert own.facts == written
    assert status_of(own, connection_id) == "active"
    assert execute(own, "WAYWARD_GET", user, path="echo").status_code == 200
    login = own.call(
        "POST", "/api/auth/login", json={"email": written["admin_email"], "password": written["admin_password"]}
    )
    assert login.status_code == 200


def run_printed_commands(log: str) -> None:
    """The curl lines, pasted as they are; the second one's user has not connected yet."""
    joined = log.replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines() if line.startswith("curl ")]
    connect, run = (
        json.loads(subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout) for line in lines
    )
    assert set(connect) == {"authUrl", "connectionRequestId"}
    assert run["error"]["code"] == "INTEGRATIONS_NOT_CONNECTED"


def test_a_killed_web_process_comes_back_and_nothing_answered_is_lost(own: Product, upstream: Upstream) -> None:
    own.start()
    enable_wayward(own, upstream)
    user = new_user()
    connect_wayward(own, user)
    with Load(own, user) as load:
        for victim in ("worker", "server"):
            load.start_anew()
            load.run_until(6)
            before = load.answered()
            time.sleep(1.2)  # the log may lose its last second
            granian = find(own, "granian")
            main, workers = granian[0], [pid for pid in granian if parent_of(pid) == granian[0]]
            os.kill(main if victim == "server" else workers[-1], signal.SIGKILL)
            killed = set(granian if victim == "server" else workers)
            seconds = wait_for(partial(is_renewed, own, killed), 15, f"the {victim}'s return")
            print(f"killed the web {victim}: served again after {seconds:.1f} s")
            load.start_anew()
            load.run_until(3)
            assert before <= {row["requestId"] for row in executions(own, user)}
    assert load.all_connections
    for connection_id in load.all_connections:
        assert status_of(own, connection_id) == "active"


def is_renewed(product: Product, gone: set[int]) -> bool:
    """Whether a new web server and its worker serve, and none of the old ones does."""
    running = set(find(product, "granian"))
    return len(running) == 2 and not running & gone and is_ready(product)


def executions(product: Product, user: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = product.call("GET", f"executions?userId={user}&limit=500").json()["executions"]
    return rows


class Load:
    """Calls and connects without a pause, from three threads, and remembers what was answered."""

    def __init__(self, product: Product, user: str) -> None:
        self.product, self.user = product, user
        self.ids: list[str] = []
        self.connections: list[str] = []
        self.all_connections: list[str] = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._call) for _ in range(2)] + [
            threading.Thread(target=self._connect)
        ]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    @property
    def count(self) -> int:
        return min(len(self.ids), len(self.connections))

    def start_anew(self) -> None:
        """Forgets what was answered so far, but for the connections."""
        self.ids, self.connections = [], []

    def answered(self) -> set[str]:
        return set(self.ids)

    def run_until(self, count: int) -> None:
        wait_for(lambda: self.count >= count, 30, f"{count} answers")

    def _call(self) -> None:
        while not self.stopping.wait(0.02):
            with contextlib.suppress(requests.RequestException):
                answer = execute(self.product, "WAYWARD_GET", self.user, path="slow", seconds=0.2)
                if answer.status_code == 200:
                    self.ids.append(answer.headers["X-Request-Id"])

    def _connect(self) -> None:
        while not self.stopping.wait(0.05):
            with contextlib.suppress(requests.RequestException, AssertionError):  # refused, or cut off halfway
                connection_id = connect_wayward(self.product, new_user())
                self.connections.append(connection_id)
                self.all_connections.append(connection_id)


@pytest.mark.parametrize(
    ("number", "whose"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "a service manager"), (signal.SIGKILL, "kill -9")]
)
def test_everything_ends_within_five_seconds_with_a_call_in_flight(
    own: Product, upstream: Upstream, number: signal.Signals, whose: str
) -> None:
    own.start()
    enable_wayward(own, upstream)
    user = new_user()
    connect_wayward(own, user)
    upstream.reset()
    hanging = threading.Thread(target=lambda: _swallow(lambda: execute(own, "WAYWARD_GET", user, path="hang")))
    hanging.start()
    wait_for(lambda: upstream.count("/hang") == 1, 5, "the call")
    assert len(own.processes()) >= 3  # web server, its worker, Celery
    assert own.process is not None
    own.process.send_signal(number)
    started = time.monotonic()
    own.process.wait(15)
    wait_for(lambda: not own.processes(), 15, "the end of the children")
    seconds = time.monotonic() - started
    print(f"{whose}: all gone after {seconds:.1f} s")
    assert seconds < 5 * SLACK
    hanging.join()
    restarted = time.monotonic()
    own.start()  # on the same port and data, without a hand being lent
    print(f"served again {time.monotonic() - restarted:.1f} s later")
    assert execute(own, "WAYWARD_GET", user, path="echo").status_code == 200


def _swallow(call: Callable[[], object]) -> None:
    with contextlib.suppress(requests.RequestException):
        call()


def test_the_second_quickstart_on_one_home_says_so(own: Product) -> None:
    own.start()
    second = Product(own.home)
    second.port = own.port
    process = second.spawn()
    assert process.wait(20) != 0
    assert f"Another quickstart runs on {own.home}" in own.log
    assert is_ready(own)


def test_a_port_in_use_is_named(own: Product) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own.port = taken.getsockname()[1]
        process = own.spawn()
        assert process.wait(30) != 0
    assert f"Port {own.port} of 127.0.0.1 is not free" in own.log
    assert "--port" in own.log
    assert not own.processes()
    assert "Traceback" not in own.log
