"""Everything in one command: keys, database, a demo project, then web, worker and scheduler until Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

THREADS = "64"
QUEUES = "maintenance,runs,steps,refresh"
PORT_PATIENCE = 6.0  # seconds; a predecessor that was killed with -9 lets go of its port within three


class Command(BaseCommand):
    help = "Prepares and runs the whole product for trying out and for small installations: SQLite, no other server."
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--prepare-only", action="store_true", help="Prepare everything, start nothing.")

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.PRODUCTION:
            raise CommandError("quickstart is for SQLite and development keys; unset DATABASE_URL and JACKFIELD_ENV.")
        os.umask(0o077)  # what lies in the data folder is its owner's alone
        home = Path(settings.JACKFIELD_HOME)
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = self._lock(home)
        host, port = options["host"], options["port"]
        if not 0 < port < 65536:
            raise CommandError("--port must be a number from 1 to 65535.")
        self._set_address(host, port)
        self._prepare_folders(home)
        from apps.runs.quickstart import provide  # after the address stands in the settings

        call_command("migrate", verbosity=0, interactive=False)
        facts = provide(home / "quickstart.json", settings.JACKFIELD_URL)
        if not options["prepare_only"]:
            self._wait_for_port(host, port)
            self._serve(host, port, facts)
        lock.close()

    def _lock(self, home: Path) -> TextIO:
        lock = open(home / "lock", "w", encoding="utf-8")  # noqa: SIM115 - held until the end
        deadline = time.monotonic() + PORT_PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except OSError:
                if time.monotonic() > deadline:
                    raise CommandError(f"Another quickstart runs on {home}.") from None
                time.sleep(0.2)

    def _set_address(self, host: str, port: int) -> None:
        """The address that this run has, for this process and its children; and permission to call it."""
        reachable = "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host  # noqa: S104 - compared, not bound
        shown = f"[{reachable}]" if ":" in reachable else reachable
        if "JACKFIELD_URL" not in os.environ:
            settings.JACKFIELD_URL = os.environ["JACKFIELD_URL"] = f"http://{shown}:{port}"
        public = urlsplit(settings.JACKFIELD_URL)
        self.own = own = f"{shown}:{port}"
        known_as = f"{public.hostname}:{public.port or (443 if public.scheme == 'https' else 80)}"
        allowed = [part for part in (settings.JACKFIELD_EGRESS_ALLOW, own, known_as) if part]
        settings.JACKFIELD_EGRESS_ALLOW = os.environ["JACKFIELD_EGRESS_ALLOW"] = ",".join(allowed)
        os.environ["JACKFIELD_HOME"] = str(settings.JACKFIELD_HOME)
        os.environ.setdefault("JACKFIELD_ENV", "development")
        if host != reachable and "JACKFIELD_ALLOWED_HOSTS" not in os.environ:
            os.environ["JACKFIELD_ALLOWED_HOSTS"] = "*"

    def _prepare_folders(self, home: Path) -> None:
        for name in ("queue", "control"):
            (home / "broker" / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        (settings.BASE_DIR / "static").mkdir(exist_ok=True)

    def _wait_for_port(self, host: str, port: int) -> None:
        deadline = time.monotonic() + PORT_PATIENCE
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        while True:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                    return
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise CommandError(
                            f"Port {port} of {host} is not free ({error.strerror}): use --port."
                        ) from None
            time.sleep(0.2)

    def _serve(self, host: str, port: int, facts: dict[str, Any]) -> None:
        from config.supervisor import Child, Supervisor

        os.chdir(settings.BASE_DIR)
        python = sys.executable
        address = host if ":" in host else socket.gethostbyname(host)  # granian takes no names
        web = [
            *(python, "-m", "granian", "--interface", "wsgi", "--host", address, "--port", str(port), "--workers", "1"),
            *("--blocking-threads", THREADS, "--backlog", "1024", "--workers-kill-timeout", "2"),
            *("--respawn-failed-workers", "--no-ws", "--log-level", "error", "config.wsgi:application"),
        ]
        celery = [python, "-W", "ignore", "-m", "celery", "--quiet", "-A", "config", "worker", "--pool", "threads"]
        celery += ["--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        worker = [*celery, "--beat", "--concurrency", "4", "--queues", QUEUES]
        # Of its own: whoever receives may take twenty seconds to answer, and runs must not wait for that.
        deliveries = [*celery, "-n", "deliveries@%h", "--concurrency", "16", "--queues", "deliveries"]
        children = [Child("web", web), Child("worker", worker), Child("deliveries", deliveries)]
        supervisor = Supervisor(children, self._say)
        supervisor.run(lambda: self._announce(facts))

    def _announce(self, facts: dict[str, Any]) -> bool:
        try:
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to ourselves
            with direct.open(f"http://{self.own}/healthz", timeout=2) as answer:
                if answer.status != 200:
                    return False
        except OSError:
            return False
        self._say(WELCOME.format(**facts, file=settings.JACKFIELD_HOME / "quickstart.json"))
        return True

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


WELCOME = """
Jackfield is ready.

  Open       {url}/admin/
  Sign in    {admin_email}
  Password   {admin_password}

The project "{project_name}" has the sandbox toolkit switched on. As an integrator, with its API key:

1. Get a link on which the end user {end_user_id} connects an account; open the authUrl in a browser:

curl -s -X POST {url}/v1/{project_id}/integrations/connect -H "Authorization: Bearer {api_key}" \\
  -H "Content-Type: application/json" -d '{{"toolkit": "sandbox", "userId": "{end_user_id}"}}'

2. Run a tool with that account:

curl -s -X POST {url}/v1/{project_id}/integrations/execute -H "Authorization: Bearer {api_key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"toolName": "SANDBOX_CREATE_NOTE", "params": {{"text": "Hello from Jackfield"}}, "userId": "{end_user_id}"}}'

All of this stands in {file}. Ctrl-C stops everything.
"""
