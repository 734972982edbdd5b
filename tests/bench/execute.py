"""How fast is execute? Prints calls a second, p50, p99, CPU a call and memory, and the ratios, all of one run.

    python -m tests.bench.execute [--seconds 5] [--callers 1 16 64] [--web-workers 2]

Needs nginx with its echo module and wrk (Debian: nginx-light libnginx-mod-http-echo wrk). Everything runs on this machine
and shares its cores: upstream, database, load and server. Only the ratios travel.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.peers.postgres import Postgres
from tests.peers.process import Peer, answers_http, free_port

ROOT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
BODY = json.dumps({"items": [{"id": number, "name": f"item {number}", "ok": True} for number in range(24)]})[:1024]
ECHO_MODULE = "/usr/lib/nginx/modules/ngx_http_echo_module.so"


class Nginx(Peer):
    """The upstream: 1 KB of JSON at ``/``, the same after 50 ms at ``/slow``; and a proxy_pass to itself."""

    def prepare(self) -> None:
        self.port, self.proxy_port = free_port(), free_port()
        payload = json.dumps({"data": "x" * 1000})
        (self.folder / "nginx.conf").write_text(
            f"""
            load_module {ECHO_MODULE};
            daemon off; worker_processes 1; pid {self.folder}/pid; error_log {self.folder}/error.log;
            events {{ worker_connections 4096; }}
            http {{
              access_log off; keepalive_requests 1000000; keepalive_timeout 600s; client_body_temp_path {self.folder}/b;
              proxy_temp_path {self.folder}/p; fastcgi_temp_path {self.folder}/f; uwsgi_temp_path {self.folder}/u;
              scgi_temp_path {self.folder}/s;
              upstream self {{ server 127.0.0.1:{self.port}; keepalive 128; }}
              server {{ listen 127.0.0.1:{self.port}; default_type application/json;
                location /slow {{ echo_sleep 0.05; echo '{payload}'; }}
                location / {{ return 200 '{payload}'; }} }}
              server {{ listen 127.0.0.1:{self.proxy_port};
                location / {{ proxy_pass http://self; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
            }}"""
        )

    def command(self) -> list[str]:
        return ["nginx", "-c", str(self.folder / "nginx.conf"), "-p", str(self.folder)]

    def ready(self) -> bool:
        return answers_http(f"http://127.0.0.1:{self.port}/")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Granian(Peer):
    """A WSGI application as it is served in production."""

    def __init__(self, application: str, workers: int, threads: int, **environment: str) -> None:
        super().__init__()
        self.application, self.workers, self.threads, self.extra = application, workers, threads, environment

    def prepare(self) -> None:
        self.port = free_port()

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", str(self.workers), "--blocking-threads", str(self.threads), "--backlog", "2048"),
            *("--working-dir", str(ROOT), "--no-ws", "--log-level", "warning", self.application),
        ]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            **self.extra,
        }

    def ready(self) -> bool:
        return answers_http(f"http://127.0.0.1:{self.port}/")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Figures:
    """One measurement: calls a second, latencies in ms, CPU in µs a call, memory in MB, answers that were no success."""

    rate: float
    p50: float
    p99: float
    cpu: float
    memory: float
    failed: int


def processes(pid: int) -> Iterator[int]:
    """The process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from processes(int(child))


def cpu_seconds(pid: int) -> float:
    total = 0
    for one in processes(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory_mb(pid: int) -> float:
    return sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in processes(pid)) * PAGE / 1e6


def load(url: str, callers: int, seconds: int, script: str = "", pid: int = 0) -> Figures:
    before = cpu_seconds(pid) if pid else 0.0
    extra = ["-s", script] if script else []
    command = ["wrk", "-t1", f"-c{callers}", f"-d{seconds}s", "--latency", "--timeout", "20s", *extra, url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    calls = int(re.search(r"(\d+) requests in", output).group(1))  # type: ignore[union-attr] # wrk always says it
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output).group(1))  # type: ignore[union-attr]
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    return Figures(
        rate=rate,
        p50=_ms(output, "50%"),
        p99=_ms(output, "99%"),
        cpu=(cpu_seconds(pid) - before) / max(calls, 1) * 1e6 if pid else 0.0,
        memory=memory_mb(pid) if pid else 0.0,
        failed=int(failed.group(1) if failed else 0) + sum(int(n) for n in (errors.groups() if errors else ())),
    )


def _ms(output: str, percentile: str) -> float:
    number, unit = re.search(rf"{percentile}\s+([\d.]+)(us|ms|s)", output).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


TOOLKIT = """
slug: bench
name: Bench
base_url: {base}
auth:
  - {{type: oauth2, authorization_url: "{base}/a", token_url: "{base}/t"}}
tools:
  - {{slug: get, name: Get, description: Gets, method: GET, path: /}}
  - {{slug: slow, name: Slow, description: Gets slowly, method: GET, path: /slow}}
"""

PREPARE = """
import json, sys
from tests.cast import connect, enable, make_cast
cast = make_cast()
connect(enable(cast.project, "bench"), "u1", seconds=360000)
print(json.dumps({"project": cast.project.pk, "key": cast.key}))
"""


def wrk_script(folder: Path, key: str, tool: str) -> str:
    file = folder / f"{tool}.lua"
    body = json.dumps({"toolName": tool, "userId": "u1"})
    file.write_text(
        f"""wrk.method = "POST"
        wrk.body = '{body}'
        wrk.headers["Content-Type"] = "application/json"
        wrk.headers["Authorization"] = "Bearer {key}"
        """
    )
    return str(file)


def manage(*arguments: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--web-workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=64)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jackfield-bench-")))
        run(options, stack, folder)


def run(options: Any, stack: contextlib.ExitStack, folder: Path) -> None:
    nginx = stack.enter_context(Nginx())
    postgres = stack.enter_context(Postgres())
    (folder / "bench.yaml").write_text(TOOLKIT.format(base=nginx.url))
    given = {
        "DATABASE_URL": postgres.url,
        "JACKFIELD_ENV": "development",
        "JACKFIELD_HOME": str(folder / "home"),
        "JACKFIELD_TOOLKITS_DIR": str(folder),
        "JACKFIELD_EGRESS_ALLOW": "127.0.0.0/8",
    }
    environment = {**os.environ, **given}
    manage("migrate", "-v0", environment=environment)
    facts = json.loads(manage("shell", "-v0", "-c", PREPARE, environment=environment).strip().splitlines()[-1])
    bare = Granian("tests.bench.bare_wsgi:application", options.web_workers, options.threads,
                   BENCH_UPSTREAM=nginx.url + "/")  # fmt: skip
    bare_slow = Granian("tests.bench.bare_wsgi:application", options.web_workers, options.threads,
                        BENCH_UPSTREAM=nginx.url + "/slow")  # fmt: skip
    product = Granian("config.wsgi:application", options.web_workers, options.threads, **given)
    for server in (bare, bare_slow, product):
        stack.enter_context(server)
    url = f"{product.url}/v1/{facts['project']}/integrations/execute"
    fast, slow = (wrk_script(folder, facts["key"], tool) for tool in ("BENCH_GET", "BENCH_SLOW"))
    proxy = f"http://127.0.0.1:{nginx.proxy_port}"
    print(f"{options.web_workers} granian workers of {options.threads} threads; {options.seconds} s each; "
          f"{os.cpu_count()} cores shared by all\n")  # fmt: skip
    print(
        f"{'upstream':9}{'callers':>8} {'what':20}{'calls/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>9}{'MB':>7}{'failed':>8}"
    )
    for path, bare_server, script in (("/", bare, fast), ("/slow", bare_slow, slow)):
        load(bare_server.url, 4, 1)
        load(url, 4, 1, script)
        for callers in options.callers:
            rows = {
                "direct": load(nginx.url + path, callers, options.seconds),
                "nginx proxy_pass": load(proxy + path, callers, options.seconds),
                "bare Django view": load(bare_server.url, callers, options.seconds, pid=bare_server.pid),
                "Jackfield execute": load(url, callers, options.seconds, script, product.pid),
            }
            show("1 KB" if path == "/" else "50 ms", callers, rows)
    time.sleep(1.5)
    count = "from apps.runs.models import Execution; print(Execution.objects.count())"
    print("\nexecutions logged:", manage("shell", "-v0", "-c", count, environment=environment).strip())


def show(upstream: str, callers: int, rows: dict[str, Figures]) -> None:
    for name, row in rows.items():
        print(f"{upstream:9}{callers:8} {name:20}{row.rate:9.0f}{row.p50:9.2f}{row.p99:9.2f}{row.cpu:9.0f}"
              f"{row.memory:7.0f}{row.failed:8}")  # fmt: skip
    product, bare, proxied = rows["Jackfield execute"], rows["bare Django view"], rows["nginx proxy_pass"]
    print(f"{'':18}execute / bare view: {product.rate / bare.rate:.2f}   execute / proxy_pass: "
          f"{product.rate / proxied.rate:.4f}\n", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
