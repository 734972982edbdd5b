"""Whether this installation is alive, and whether it can work."""

from __future__ import annotations

import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from apps.lib.api import json_answer

BROKER_PORTS = {"redis": 6379, "rediss": 6379, "valkey": 6379, "amqp": 5672, "amqps": 5671, "pyamqp": 5672}


@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Alive: this process answers."""
    return json_answer({"status": "ok"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Ready: database and broker answer, and no migration is missing. 503 says which does not hold."""
    checks = {"database": _is_well(_database), "migrations": _is_well(_migrations), "broker": _is_well(_broker)}
    ready = all(checks.values())
    states = {name: "ok" if well else "failed" for name, well in checks.items()}
    return json_answer({"status": "ok" if ready else "failed", "checks": states}, 200 if ready else 503)


def _is_well(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:  # whatever is wrong, the answer is that it is not ready
        return False


def _database() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return bool(cursor.fetchone() == (1,))


_migrated = False


def _migrations() -> bool:
    """Once all are applied they stay so for this process's code; only a missing one is looked for again."""
    global _migrated
    if not _migrated:
        executor = MigrationExecutor(connection)
        _migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
    return _migrated


def _broker() -> bool:
    """A socket to the broker opens, or its folder stands: cheaper than a channel, and enough to tell that it is gone."""
    url = urlsplit(settings.CELERY_BROKER_URL)
    if url.scheme in {"memory", "filesystem"}:
        return url.scheme == "memory" or (settings.JACKFIELD_HOME / "broker" / "queue").is_dir()
    if url.scheme.endswith("socket") or url.scheme == "unix":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.settimeout(2)
            opened.connect(url.path)
            return True
    port = url.port or BROKER_PORTS.get(url.scheme.partition("+")[0], 5672)
    with socket.create_connection((url.hostname or "127.0.0.1", port), timeout=2):
        return True
