"""The whole product as its users get it: real processes, driven over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import requests
from pytest_django import Settings

from apps.toolkits import registry
from apps.toolkits.registry import Catalog, catalog
from tests.peers.process import free_port

ROOT = Path(__file__).resolve().parent.parent
TOOLKITS = ROOT / "tests" / "acceptance" / "toolkits"
NOT_PASSED_ON = ("JACKFIELD_", "DJANGO_", "DATABASE_", "CELERY_", "CACHE_")


class Product:
    """``manage.py quickstart`` on a free port with a data folder of its own.

    With ``DATABASE_URL`` in the environment the data lies in a fresh database of that PostgreSQL server, all else being
    the same. ``more_web`` adds web processes on the same data.
    """

    def __init__(self, home: Path | None = None, **environment: str) -> None:
        self.home = home or Path(tempfile.mkdtemp(prefix="jackfield-"))
        self.port = free_port()
        self.given = environment
        self.server_url = os.environ.get("DATABASE_URL", "")
        self.database = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.further: list[subprocess.Popen[bytes]] = []
        self.facts: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        file = self.home / "output.log"
        return file.read_text(errors="replace") if file.exists() else ""

    @property
    def environment(self) -> dict[str, str]:
        """What `manage.py quickstart` runs with."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_PASSED_ON)}
        own = {
            "JACKFIELD_HOME": str(self.home),
            "JACKFIELD_ENV": "development",
            "JACKFIELD_TOOLKITS_DIR": str(TOOLKITS),
        }
        if self.server_url.startswith("postgres"):
            own["DATABASE_URL"] = urlsplit(self.server_url)._replace(path=f"/{self._database()}").geturl()
        return kept | own | self.given

    @property
    def running_environment(self) -> dict[str, str]:
        """What quickstart gives to its children."""
        allowed = ",".join(filter(None, [self.given.get("JACKFIELD_EGRESS_ALLOW", ""), f"127.0.0.1:{self.port}"]))
        return self.environment | {"JACKFIELD_URL": self.url, "JACKFIELD_EGRESS_ALLOW": allowed}

    def _database(self) -> str:
        if not self.database:
            name = f"jackfield_{uuid.uuid4().hex[:12]}"
            self._on_server(f"CREATE DATABASE {name}")
            self.database = name
        return self.database

    def _on_server(self, statement: str) -> None:
        with psycopg.connect(self.server_url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts without waiting."""
        self.home.mkdir(parents=True, exist_ok=True)
        with open(self.home / "output.log", "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "quickstart", "--port", str(self.port)],
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.process

    def start(self, patience: float = 30) -> Product:
        process = self.spawn()
        self._await_ready(self.url, process, patience)
        self.facts = json.loads((self.home / "quickstart.json").read_text())
        return self

    def more_web(self, count: int) -> list[str]:
        """Further web processes on the same data, each on a port of its own; their addresses."""
        addresses = []
        for _ in range(count):
            port = free_port()
            command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1"]
            command += ["--port", str(port), "--workers", "1", "--blocking-threads", "32", "--no-ws"]
            command += ["--workers-kill-timeout", "3", "--log-level", "warning", "config.wsgi:application"]
            with open(self.home / "output.log", "ab") as output:
                environment = self.running_environment
                process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
            self.further.append(process)
            addresses.append(f"http://127.0.0.1:{port}")
        for address, process in zip(addresses, self.further[-count:], strict=True):
            self._await_ready(address, process, 30)
        return addresses

    def run(self, code: str) -> str:
        """Runs Python with the product's settings and data, as an operator would in a shell; what it printed."""
        command = [sys.executable, "manage.py", "shell", "--no-imports", "-c", code]
        done = subprocess.run(
            command, cwd=ROOT, env=self.running_environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def processes(self) -> dict[int, str]:
        """Everything that quickstart started and that still runs: command lines by process id (Linux only)."""
        found: dict[int, str] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != getattr(self.process, "pid", 0):
                with contextlib.suppress(OSError):
                    if f"JACKFIELD_HOME={self.home}\0".encode() in (folder / "environ").read_bytes():
                        command = (folder / "cmdline").read_bytes()
                        if command:  # a zombie has none
                            found[int(folder.name)] = command.replace(b"\0", b" ").decode()
        return found

    def _await_ready(self, url: str, process: subprocess.Popen[bytes], patience: float) -> None:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise AssertionError(f"it ended while starting:\n{self.log[-3000:]}")
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{url}/readyz", timeout=2).status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"{url} was not ready in {patience} s:\n{self.log[-3000:]}")

    def stop(self, number: int = signal.SIGINT, patience: float = 15) -> None:
        """Ends quickstart and waits for it; further web processes go with SIGTERM."""
        for process in [*self.further, *([self.process] if self.process else [])]:
            if process.poll() is None:
                process.send_signal(number if process is self.process else signal.SIGTERM)
        for process in [*self.further, *([self.process] if self.process else [])]:
            process.wait(patience)
        self.further = []

    def close(self) -> None:
        """Ends all of it at once, and takes its data away."""
        started = [*self.further, *([self.process] if self.process else [])]
        for process in started:
            if process.poll() is None:
                process.kill()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in started:
            process.wait(5)
        if self.database:
            self._on_server(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")
            self.database = ""
        shutil.rmtree(self.home, ignore_errors=True)

    def call(self, method: str, path: str, *, site: str = "", **options: Any) -> requests.Response:
        """Calls the demo project's API with its key: ``product.call("POST", "integrations/execute", json={…})``.

        ``site`` is the address of another of its web processes.
        """
        headers = {"Authorization": f"Bearer {self.facts['api_key']}"} | options.pop("headers", {})
        tail = path if path.startswith("/") else f"/v1/{self.facts['project_id']}/{path}"
        return requests.request(
            method, (site or self.url) + tail, headers=headers, timeout=options.pop("timeout", 40), **options
        )


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """One running product a worker, free to call every server of the tests on loopback."""
    running = Product(tmp_path_factory.mktemp("home"), JACKFIELD_EGRESS_ALLOW="127.0.0.0/8")
    try:
        yield running.start()
    finally:
        running.close()


@cache
def _with_own_toolkits() -> Catalog:
    own = [registry.read_file(file) for file in sorted(TOOLKITS.glob("*.yaml"))]
    assert not [fault for _, faults in own for fault in faults]
    return Catalog(catalog().toolkits | {toolkit.slug: toolkit for toolkit, _ in own if toolkit is not None})


@pytest.fixture
def own_toolkits(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' toolkits in this very process, and loopback free to be called."""
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    found = _with_own_toolkits()
    monkeypatch.setattr(registry, "_load", cache(lambda: found))
