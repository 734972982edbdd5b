"""Jobs whose schedulers and workers die: a program, so that it has a database and processes of its own (see `tests.runs.dying`).

``kills``      one job after another, due once; the first process ends itself by SIGKILL at the n-th checkpoint of firing,
               advancing and carrying, others go on; until a job has no further checkpoint
``terminate``  the same for job runs that are terminated with runs under way
``many``       one job of 300 items that four processes see due at once, and carry together, each told of everything
``racing``     a job run that two processes advance and carry while others pause, resume, and at last terminate it
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.runs.dying import cast_and_lab, in_child, posted, prepare

ITEMS = 4
AT_ONCE = 2
MANY, MANY_AT_ONCE = 300, 7
NUMBER = [{"name": "N", "api_name": "n", "type": "number", "required": True}]
EVERY_DAY = {"intervals": [{"every": "1d"}]}
ADDS = "{{ [{'api': 'item', 'parameters': {'n': 100}}] if start.n == 0 else none }}"


def publish(project: Any, ledger: str) -> None:
    from tests.runs import lab

    steps = [{"id": "post", "request": posted(ledger, " {{ start.n }}"), "on_lost": "continue"}]
    lab.publish(project, steps, name="item", start_parameters=NUMBER, extended_payloads=ADDS)
    lab.publish(project, [{"id": "pause", "wait": {"event": "go"}}], name="wait")


def due_job(project: Any, name: str, count: int, at_once: int, api: str = "item") -> Any:
    """A job that was due a moment ago and will be tomorrow."""
    from django.utils import timezone

    from apps.runs import jobs
    from apps.runs.models import Job
    from tests.runs.lab import ACTOR

    payload = [{"apiName": api, "parameters": {"n": number} if api == "item" else {}} for number in range(count)]
    configuration = {"maxConcurrentRequests": at_once}
    body = {"id": name, "payload": payload, "configuration": configuration, "schedule": EVERY_DAY}
    job = jobs.create(project, body, ACTOR)
    Job.objects.filter(pk=job.pk).update(next_run_at=timezone.now() - timedelta(seconds=1))
    return job


def work() -> None:
    """Whatever is due, as schedulers, sweepers and workers would."""
    from django.utils import timezone

    from apps.runs import carrier, jobs
    from apps.runs.models import JobRun, Run

    jobs.fire_due(timezone.now())
    JobRun.objects.exclude(wake_at=None).update(wake_at=timezone.now())
    jobs.sweep(timezone.now())
    while due := list(Run.objects.due(timezone.now()).values_list("pk", flat=True)):
        for pk in due:
            carrier.carry(pk, 0.05)


def end_leases() -> None:
    from django.utils import timezone

    from apps.runs.models import Run

    Run.objects.living().exclude(lease_until=None).update(lease_until=timezone.now() - timedelta(seconds=1))


def found(job: Any) -> dict[str, Any]:
    from apps.runs.models import JobItem, JobRun, Run

    job_runs = list(JobRun.objects.filter(job=job))
    runs = Run.objects.filter(job_run__in=[row.pk for row in job_runs])
    items = list(JobItem.objects.filter(job_run__in=job_runs).order_by("number"))
    job.refresh_from_db()
    return {
        "job_runs": [
            [row.status, row.payloads, row.started_runs, row.successful_runs, row.failed_runs, row.wake_at is None]
            for row in job_runs
        ],
        "numbers": [item.number for item in items],
        "items": [item.status for item in items],
        "item_runs": sorted(item.run_id for item in items),
        "runs": sorted(runs.values_list("pk", flat=True)),
        "run_states": sorted(runs.values_list("status", flat=True)),
        "is_due_again": job.next_run_at is not None,
    }


# -- Killed ------------------------------------------------------------------------------------------------------------
def until_it_lives(make: Callable[[int], Any], act: Callable[[Any], None], folder: Path) -> list[dict[str, Any]]:
    """Each time another job, the first process that does ``act`` with it being killed a checkpoint later."""
    rows: list[dict[str, Any]] = []
    while not rows or rows[-1]["killed"]:
        number = len(rows) + 1
        job, passed, place = make(number), multiprocessing.Value("i", 0), folder / "place"
        place.write_text("")
        for _ in range(20):
            in_child(lambda: killed_at(number, passed, place, lambda: act(job)))  # noqa: B023 - done at once
            end_leases()
            if is_over(job):
                break
        rows.append({"killed": passed.value >= number, "place": place.read_text(), **found(job)})
        assert len(rows) < 300
    return rows


def killed_at(number: int, passed: Any, place: Path, do: Callable[[], None]) -> None:
    from apps.runs import carrier, job_items

    def checkpoint(name: str) -> None:
        passed.value += 1
        if passed.value == number:
            place.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)

    carrier.checkpoint = job_items.checkpoint = checkpoint
    do()


def is_over(job: Any) -> bool:
    from apps.runs.models import JobRun, Run

    rows = list(JobRun.objects.filter(job=job))
    living = Run.objects.living().filter(job_run__in=[row.pk for row in rows])
    return bool(rows) and all(row.wake_at is None for row in rows) and not living.exists()


def kills(ledger: str, upstream: str, folder: Path) -> Any:
    cast = cast_and_lab(upstream)
    publish(cast.project, ledger)
    return until_it_lives(
        lambda number: due_job(cast.project, f"job {number}", ITEMS, AT_ONCE), lambda job: work(), folder
    )


def terminate(ledger: str, upstream: str, folder: Path) -> Any:
    cast = cast_and_lab(upstream)
    publish(cast.project, ledger)

    def make(number: int) -> Any:
        job = due_job(cast.project, f"job {number}", ITEMS, AT_ONCE, "wait")
        in_child(work)
        return job

    return until_it_lives(make, end, folder)


def end(job: Any) -> None:
    from apps.runs import jobs
    from apps.runs.models import JobRun
    from tests.runs.lab import ACTOR

    for row in JobRun.objects.filter(job=job).select_related("job", "project"):
        jobs.terminate(row, ACTOR)
    work()


# -- Together ----------------------------------------------------------------------------------------------------------
def together(count: int, do: Callable[[int], None]) -> list[int]:
    """Processes that do it at the same time; their exit statuses."""
    from django.db import connections

    connections.close_all()
    children = []
    for index in range(count):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                do(index)
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                connections.close_all()
                sys.stderr.flush()
                os._exit(status)
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def many(ledger: str, upstream: str, folder: Path) -> Any:
    cast = cast_and_lab(upstream)
    publish(cast.project, ledger)
    job = due_job(cast.project, "many", MANY, MANY_AT_ONCE)
    most = multiprocessing.Value("i", 0)

    def carry(index: int) -> None:
        from django.utils import timezone

        from apps.runs import carrier, jobs
        from apps.runs.models import JobRun, Run

        chance, deadline = random.Random(index), time.monotonic() + 150
        while time.monotonic() < deadline:
            jobs.fire_due(timezone.now())
            for pk in JobRun.objects.exclude(wake_at=None).values_list("pk", flat=True):
                jobs.advance(pk)
            due = list(Run.objects.living().values_list("pk", flat=True))
            with most.get_lock():
                most.value = max(most.value, len(due))
            chance.shuffle(due)
            for pk in due:
                carrier.carry(pk, 0.1)
            if not due and is_over(job):
                return
        raise SystemExit("it does not end")

    ended = together(4, carry)
    return {"ended": ended, "most": most.value, **found(job)}


def racing(ledger: str, upstream: str, folder: Path) -> Any:
    cast = cast_and_lab(upstream)
    publish(cast.project, ledger)
    job = due_job(cast.project, "racing", 4 * MANY, MANY_AT_ONCE)  # more than end while SQLite keeps a writer waiting
    in_child(work_a_little)
    over = multiprocessing.Value("i", 0)

    def act(index: int) -> None:
        if index < 2:
            while not over.value:
                work()
        else:
            try:
                disturb(job, random.Random(7))
            finally:
                over.value = 1

    ended = together(3, act)
    states = found(job)["items"]
    in_child(work)
    return {"ended": ended, "before": states, **found(job)}


def work_a_little() -> None:
    from django.utils import timezone

    from apps.runs import jobs

    jobs.fire_due(timezone.now())


def disturb(job: Any, chance: random.Random) -> None:
    from apps.runs import jobs
    from apps.runs.models import JobRun
    from tests.runs.lab import ACTOR

    for _ in range(12):
        jobs.pause(job, ACTOR)
        time.sleep(chance.random() / 20)
        jobs.resume(job, ACTOR)
        time.sleep(chance.random() / 10)
    (job_run,) = JobRun.objects.filter(job=job, type="SCHEDULED", status="PENDING").select_related("job", "project")
    jobs.terminate(job_run, ACTOR)


def main() -> None:
    mode, ledger, upstream, folder = sys.argv[1:]
    prepare()
    modes = {"kills": kills, "terminate": terminate, "many": many, "racing": racing}
    print(json.dumps(modes[mode](ledger, upstream, Path(folder))))


if __name__ == "__main__":
    main()
