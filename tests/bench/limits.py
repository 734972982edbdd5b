"""What the limits cost a call, in microseconds: ``python tests/bench/limits.py [CACHE_URL]``.

Runs on a SQLite of its own in a temporary folder, or on ``DATABASE_URL``, whose tables it needs; with a Redis as argument
it counts there.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

HEADERS = [("Content-Type", "application/json")] + [(f"X-Other-{number}", "x") for number in range(12)]
ANSWERED = [*HEADERS, ("X-RateLimit-Limit", "5000"), ("X-RateLimit-Remaining", "4000"), ("X-RateLimit-Reset", "1800")]


def measure(name: str, work: Callable[[], object], times: int) -> None:
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(times):
            work()
        best = min(best, (time.perf_counter() - started) / times)
    print(f"{best * 1e6:9.2f} µs  {name}")


def main() -> None:
    os.environ.setdefault("JACKFIELD_HOME", tempfile.mkdtemp())
    os.environ.setdefault("JACKFIELD_ENV", "development")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    if len(sys.argv) > 1:
        os.environ["CACHE_URL"] = sys.argv[1]
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    limits_of_calls()
    gates()


def limits_of_calls() -> None:
    from apps.workspaces import quota
    from apps.workspaces.audit import SYSTEM
    from apps.workspaces.callers import Caller
    from apps.workspaces.models import Plan, Project, Workspace

    plan = Plan.objects.create(name=f"Bench {time.time()}")
    workspace = Workspace.objects.create(name="Bench", plan=plan)
    caller = Caller("member", Project.objects.create(workspace=workspace, name="Bench"), frozenset(), SYSTEM)

    def slot() -> None:
        quota.take_slot(caller).release()

    measure("take_call, no limit", lambda: quota.take_call(caller), 100_000)
    plan.calls_per_minute = plan.calls_per_day = 10**9
    measure("take_call, minute and day, large limits", lambda: quota.take_call(caller), 20_000)
    plan.calls_per_day = None
    quota._size = lambda limit, remaining: 1  # what a limit below 1,000 does, without end
    measure("take_call, minute, a small limit", lambda: quota.take_call(caller), 500)
    measure("take_slot and release, no limit", slot, 100_000)
    plan.concurrent_calls = 1000
    measure("take_slot and release, a large limit", slot, 5_000)
    plan.concurrent_calls = 10
    measure("take_slot and release, a small limit", slot, 200)
    workspace.delete()
    plan.delete()


def gates() -> None:
    from apps.connections import pace
    from apps.lib import breaker
    from apps.toolkits.spec import Toolkit

    lab = Toolkit.model_validate({"slug": "lab", "name": "Lab", "auth": [{"type": "bearer"}]})

    def paced(headers: list[tuple[str, str]]) -> Callable[[], None]:
        def call() -> None:
            pace.before("ca_1", lab, "LAB_GET")
            pace.learn("ca_1", lab, 200, headers, "LAB_GET")

        return call

    def watched() -> None:
        breaker.before("proj_1 https://lab.example")
        breaker.succeeded("proj_1 https://lab.example")

    measure("pace, a provider that tells nothing (15 headers)", paced(HEADERS), 50_000)
    measure("pace, far from the wall", paced(ANSWERED), 50_000)
    measure("breaker, a healthy host", watched, 200_000)


if __name__ == "__main__":
    main()
