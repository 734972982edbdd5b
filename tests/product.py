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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.peers.process import free_port

ROOT = Path(__file__).resolve().parent.parent


class Product:
    """``manage.py quickstart`` on a free port with a data folder of its own.

    With ``DATABASE_URL`` in the environment the data lies in a PostgreSQL database, all else being the same.
    """

    def __init__(self, home: Path | None = None, **environment: str) -> None:
        self.home = home or Path(tempfile.mkdtemp(prefix="jackfield-"))
        self.port = free_port()
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        file = self.home / "output.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self, patience: float = 30) -> Product:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("JACKFIELD_", "DJANGO_", "DATABASE_"))}
        environment |= {"JACKFIELD_HOME": str(self.home), "JACKFIELD_ENV": "development"} | self.environment
        self.home.mkdir(parents=True, exist_ok=True)
        with open(self.home / "output.log", "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "quickstart", "--port", str(self.port)],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"quickstart ended:\n{self.log[-3000:]}")
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    self.facts = json.loads((self.home / "quickstart.json").read_text())
                    return self
            time.sleep(0.05)
        raise AssertionError(f"quickstart was not ready in {patience} s:\n{self.log[-3000:]}")

    def stop(self, number: int = signal.SIGINT, patience: float = 15) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(patience)

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Calls the demo project's API with its key: ``product.call("POST", "integrations/execute", json={…})``."""
        headers = {"Authorization": f"Bearer {self.facts['api_key']}"} | options.pop("headers", {})
        url = f"{self.url}{path}" if path.startswith("/") else f"{self.url}/v1/{self.facts['project_id']}/{path}"
        return requests.request(method, url, headers=headers, timeout=options.pop("timeout", 40), **options)


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """One running product a worker, free to call every server of the tests on loopback."""
    running = Product(tmp_path_factory.mktemp("home"), JACKFIELD_EGRESS_ALLOW="127.0.0.0/8")
    try:
        yield running.start()
    finally:
        running.close()
