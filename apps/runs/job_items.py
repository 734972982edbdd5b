"""Job runs on their way: their items started, as many at a time as they may be, and the ends of their runs taken in.

`advance` does all of it under a lock of the job run's row, and may be called at any time, by anybody, any number of times.
Whoever ends a run calls it; `sweep` calls it for those whose worker died before it could, and where nothing told of an end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import Error, connection, models, transaction
from django.utils import timezone

from apps.lib.db import execute
from apps.lib.envelopes import RUNS, spelled
from apps.lib.errors import AuthSessionInUse, Failure, Internal, NotFound, QuotaExceeded, RateLimited
from apps.modules.models import Module
from apps.workspaces.audit import Actor
from apps.workspaces.callers import Caller
from apps.workspaces.quota import take_call

from . import hints, notices, run_auth, starting
from .models import JobItem, JobRun, Run

log = logging.getLogger(__name__)

MOST_ITEMS = 10_000  # of one job run, those that its runs add included
MOST_AT_ONCE = 1000
AT_ONCE = 10  # where the job does not say
LOOK_AGAIN = timedelta(seconds=5)  # at a job run of which nothing was heard
LONGEST_PAUSE = 60  # seconds until a job run that may not start more tries again
STARTED = 100  # items in memory, and started in one transaction
ROUNDS = 20  # of one call, each a transaction: where more are to be started, or some cannot be and leave their room
SWEPT = 200  # job runs that one sweep looks after
WRITTEN = 1000  # items by one statement
CANCELLED = 100  # runs of a terminated job run looked for at a time

TERMINATED = {"type": "job-run-terminated", "message": "The job run was terminated."}

# The first items to do: items are started in their order, so that those under way come before those that wait; and no more
# are than may be under way together. Written with its states in it, for the index is of them.
TO_DO = (
    "SELECT i.id, i.number, i.status, r.id, r.status, r.extended_payloads IS NOT NULL FROM "  # noqa: S608 - names of tables
    f"(SELECT id, number, status, run_id FROM {JobItem._meta.db_table} WHERE job_run_id = %s "
    "AND status IN ('pending', 'started') ORDER BY number LIMIT %s) AS i "
    f"LEFT JOIN {Run._meta.db_table} AS r ON r.id = i.run_id AND i.status = 'started' ORDER BY i.number"
)


def checkpoint(name: str) -> None:
    """Does nothing: tests end the process here."""


# -- Making ----------------------------------------------------------------------------------------------------------
def items_of(job_run: JobRun, payload: Iterable[dict[str, Any]], first: int = 0, added_by: str = "") -> list[JobItem]:
    """Items by the Runs API's names, numbered from ``first``; not yet saved."""
    return [
        JobItem(
            job_run=job_run,
            number=number,
            api=item["apiName"],
            parameters=item.get("parameters") or {},
            request_timeout=item.get("requestTimeout"),
            maximum_attempts=(item.get("retry") or {}).get("maximumAttempts"),
            added_by=added_by,
        )
        for number, item in enumerate(payload, first)
    ]


def extended_of(run: Run) -> list[dict[str, Any]]:
    """What a run added to its job run, by the Runs API's names; ``runId`` of those that were started."""
    items = JobItem.objects.filter(job_run=run.job_run_id, added_by=run.pk).order_by("number")
    started = list(items.values_list("run_id", flat=True)) if run.job_run_id else []
    found = []
    for index, payload in enumerate(run.extended_payloads or []):
        run_id = started[index] if index < len(started) else ""
        found.append({**payload, **({"runId": run_id} if run_id else {})})
    return found


def most_items(configuration: dict[str, Any]) -> int:
    """How many items a job run of this configuration has at most."""
    given = configuration.get("maxRuns")
    return MOST_ITEMS if given is None else max(0, min(int(given), MOST_ITEMS))


def at_once(configuration: dict[str, Any]) -> int:
    """How many runs of a job run may be under way at a time."""
    given = configuration.get("maxConcurrentRequests")
    return AT_ONCE if given is None else max(1, min(int(given), MOST_AT_ONCE))


# -- Going on --------------------------------------------------------------------------------------------------------
def advance(job_run_id: str) -> None:
    """Takes in the ends of items' runs, starts as many more as there is room for, ends the job run after the last."""
    _advance(job_run_id, in_place=False)


def advance_in_place(job_run_id: str) -> None:
    """The same by the carrier of a run that has just ended, who goes on with a new one itself: that needs no message."""
    try:
        _advance(job_run_id, in_place=True)
    except Error as error:
        log.warning("job run %s could not be gone on with; the sweeper does: %s", job_run_id, error)
        if not connection.in_atomic_block:
            connection.close()
    except Exception:
        log.exception("job run %s cannot be gone on with", job_run_id)


def _advance(job_run_id: str, *, in_place: bool) -> None:
    for _ in range(ROUNDS):
        checkpoint("before advancing")
        with transaction.atomic():
            row = _locked(job_run_id)
            if row is None or row.wake_at is None:
                return
            if is_terminated := row.status not in JobRun.LIVING:
                break
            is_more = _Turn(row, in_place).take()
            checkpoint("advancing")
        checkpoint("advanced")
        if not is_more:
            return
    if is_terminated:
        clear_up(job_run_id)
    else:
        hints.hint_job(job_run_id)


def _locked(job_run_id: str) -> JobRun | None:
    return JobRun.objects.select_for_update(no_key=True, of=("self",)).filter(pk=job_run_id).first()


@dataclass
class _Ended:
    """How items under way have ended, by their ids."""

    succeeded: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    adding: list[str] = field(default_factory=list)  # runs with payloads of their own

    @property
    def count(self) -> int:
        return len(self.succeeded) + len(self.failed) + len(self.cancelled)

    @classmethod
    def of(cls, found: list[Any]) -> _Ended:
        """Of rows of `TO_DO`. A run that is gone was deleted: nobody knows how it ended."""
        ended = cls()
        into = {
            Run.Status.COMPLETED: ended.succeeded,
            Run.Status.FATAL_ERRORED: ended.failed,
            Run.Status.CANCELLED: ended.cancelled,
            None: ended.failed,
        }
        for pk, _, status, run_id, run_status, is_adding in found:
            if status == JobItem.Status.STARTED and run_status in into:
                into[run_status].append(pk)
                if run_status == Run.Status.COMPLETED and is_adding:
                    ended.adding.append(run_id)
        return ended


class _Turn:
    """One look at a job run, under its row's lock."""

    def __init__(self, row: JobRun, in_place: bool) -> None:
        self.row = row
        self.in_place = in_place
        self.now = timezone.now()
        self.configuration = row.snapshot.get("configuration") or {}
        self.wake_at: datetime | None = None
        self.changes: dict[str, Any] = {}

    def take(self) -> bool:
        """Whether there is more to do at once."""
        found = execute(TO_DO, [self.row.pk, at_once(self.configuration)])
        ended = _Ended.of(found)
        self.take_in(ended)
        added = self.add(ended.adding)
        under_way = sum(status == JobItem.Status.STARTED for _, _, status, *_ in found) - ended.count
        is_more = False
        if self.row.status == JobRun.Status.PENDING:
            first = found[0][1] if found else self.row.payloads - added
            started, is_more = self.start(at_once(self.configuration) - under_way, first, ended)
            under_way += started
        if not under_way and not is_more:
            self.rest()
        self.save()
        return is_more

    def change(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self.row, name, value)
        self.changes |= changes

    # -- Taking in ---------------------------------------------------------------------------------------------------
    def take_in(self, ended: _Ended) -> None:
        for ids, status in (
            (ended.succeeded, JobItem.Status.SUCCEEDED),
            (ended.failed, JobItem.Status.FAILED),
            (ended.cancelled, JobItem.Status.CANCELLED),
        ):
            if ids:
                JobItem.objects.filter(pk__in=ids).update(status=status)
        if ended.count:
            failed = len(ended.failed) + len(ended.cancelled)
            self.change(
                successful_runs=self.row.successful_runs + len(ended.succeeded),
                failed_runs=self.row.failed_runs + failed,
            )

    def add(self, run_ids: list[str]) -> int:
        """Makes items of the payloads that these runs add, as far as there is room for. Gives how many."""
        room = most_items(self.configuration) - self.row.payloads
        if not run_ids or room <= 0:
            return 0
        found = dict(Run.objects.filter(pk__in=run_ids).values_list("pk", "extended_payloads"))
        items: list[JobItem] = []
        for run_id in run_ids:
            payload = [
                {"apiName": item["api"], "parameters": item["parameters"]}
                for item in (found.get(run_id) or [])[: room - len(items)]
            ]
            items += items_of(self.row, payload, self.row.payloads + len(items), run_id)
        JobItem.objects.bulk_create(items, batch_size=WRITTEN)
        self.change(payloads=self.row.payloads + len(items))
        return len(items)

    # -- Starting ----------------------------------------------------------------------------------------------------
    def start(self, room: int, first: int, ended: _Ended) -> tuple[int, bool]:
        """Starts as many items as there is room for, from the number ``first`` on. Gives how many, and whether others may follow.

        Others may where some could not be started, and where there is room for more than are started in one turn.
        """
        waiting = JobItem.objects.filter(job_run=self.row.pk, number__gte=first, status=JobItem.Status.PENDING)
        items = list(waiting.order_by("number")[: min(room, STARTED)])
        if not items:
            return 0, False
        starter = _Starter(self.row, {item.api for item in items})
        try:
            starter.find_account()
        except Failure as error:
            self.fail_all(error)
            return 0, False
        # A run's end makes room for another, which the carrier of the one that ended goes on with.
        unhinted = len(ended.succeeded) + len(ended.failed) if self.in_place else 0
        hinted = hints.room(self.row.workspace_id, self.now) if len(items) > unhinted else 0
        started = failed = 0
        for item in items:
            try:
                run_id = starter.start(item, hint=unhinted <= started < unhinted + hinted)
            except (QuotaExceeded, RateLimited) as error:
                self.wake_at = self.now + timedelta(seconds=min(error.retry_after or LONGEST_PAUSE, LONGEST_PAUSE))
                break
            except AuthSessionInUse:
                self.wake_at = self.now + LOOK_AGAIN
                break
            except Error:
                raise
            except Exception as error:
                self.fail(item, error)
                failed += 1
                continue
            checkpoint("started an item")
            JobItem.objects.filter(pk=item.pk).update(status=JobItem.Status.STARTED, run_id=run_id)
            started += 1
        self.change(started_runs=self.row.started_runs + started, failed_runs=self.row.failed_runs + failed)
        return started, self.wake_at is None and (failed > 0 or len(items) == STARTED < room)

    def fail(self, item: JobItem, error: Exception) -> None:
        if not isinstance(error, Failure):
            log.exception("item %d of job run %s cannot be started", item.number, self.row.pk)
            error = Internal()
        JobItem.objects.filter(pk=item.pk).update(status=JobItem.Status.FAILED, error=_shown(error))

    def fail_all(self, error: Failure) -> None:
        """The account that the job is to act with is not there: of those that wait none can be started."""
        waiting = self.row.items.filter(status=JobItem.Status.PENDING)
        failed = waiting.update(status=JobItem.Status.FAILED, error=_shown(error))
        gone = "auth-session-invalid-mid-job" if self.row.started_runs else "auth-session-validate-dependency-failed"
        kind = "auth-session-not-found" if isinstance(error, NotFound) else gone
        reason = {"type": kind, "message": error.text, "details": error.details}
        self.change(failed_runs=self.row.failed_runs + failed, reason=reason)

    # -- Resting, and the end ----------------------------------------------------------------------------------------
    def rest(self) -> None:
        """Nothing is under way."""
        if self.row.items.filter(status=JobItem.Status.PENDING).exists():
            if self.row.status == JobRun.Status.PAUSING:
                self.change(status=JobRun.Status.PAUSED, wake_at=None)
            return
        has_failed = self.row.failed_runs > 0
        status = JobRun.Status.FAILURE if has_failed else JobRun.Status.SUCCESS
        self.change(status=status, ended_at=self.now, wake_at=None)
        if has_failed:
            notices.job_run_failed(self.row, self.now)

    def save(self) -> None:
        row = self.row
        if row.status in (JobRun.Status.PENDING, JobRun.Status.PAUSING):
            soon = row.wake_at is None or row.wake_at < self.now + LOOK_AGAIN / 2
            if self.wake_at is not None or soon:  # not each time: it is in an index
                self.change(wake_at=self.wake_at or self.now + LOOK_AGAIN)
        if self.changes:
            JobRun.objects.filter(pk=row.pk).update(**self.changes, updated_at=self.now)


def _shown(error: Failure) -> dict[str, Any]:
    return {"code": spelled(error, RUNS.TABLE)[1], "message": error.text, "details": error.details}


class _Starter:
    """Starts items of one job run, with what they have in common looked for once."""

    def __init__(self, row: JobRun, names: set[str]) -> None:
        self.row = row
        self.actor = Actor(row.started_by)
        self.configuration = row.snapshot.get("configuration") or {}
        published = Module.objects.published().exclude(access=Module.Access.OFF)
        found = published.filter(project=row.project_id, name__in=names).select_related("project__workspace__plan")
        self.modules = {module.name: module for module in found.defer("source", "draft")}
        proxies = row.unseal("proxy") or {}
        self.proxy = proxies.get("proxy") or proxies.get("configuration")
        self.sink = row.unseal("sink")
        self.user_id: str | None = row.snapshot.get("user") or None
        self.auth: dict[str, Any] = {}

    def find_account(self) -> None:
        """The auth session that the job names, and so whom its runs are for. Raises as `run_auth.options_for`."""
        project = next((module.project for module in self.modules.values()), None)
        if project is not None:
            given = self.row.snapshot.get("auth_session")
            self.user_id, self.auth = run_auth.options_for(project, self.user_id, given, place="auth_session")

    def start(self, item: JobItem, hint: bool) -> str:
        """The run's id. Raises `NotFound` and `InvalidInput` of what cannot be started, and what `take_call` does."""
        module = self.modules.get(item.api)
        if module is None:
            raise NotFound(f"There is no published module {item.api}.")
        run_auth.require_free(module.project, self.auth)
        take_call(Caller(kind="job", project=module.project, scopes=frozenset({"runs"}), actor=self.actor))
        options = self.options(item)
        run = starting.start(
            module, item.parameters, self.actor, Run.Surface.JOB, user_id=self.user_id, options=options, hint=hint
        )
        return run.pk

    def options(self, item: JobItem) -> starting.Options:
        retry = self.configuration.get("retry") or {}
        given = {
            "maximum_attempts": item.maximum_attempts or retry.get("maximumAttempts"),
            "request_timeout": item.request_timeout or self.configuration.get("requestTimeout"),
            "proxy": self.proxy,
            "sink": self.sink,
        }
        known = {name: value for name, value in given.items() if value is not None}
        return starting.Options(**known, **self.auth, job_run=self.row.pk)


# -- Ending before the last item --------------------------------------------------------------------------------------
def terminate(job_runs: models.QuerySet[JobRun], now: datetime, message: str) -> list[str]:
    """Ends those that live, and their items that wait, in the caller's transaction. Gives their ids, for `clear_up`."""
    found = list(job_runs.filter(status__in=JobRun.LIVING).values_list("pk", flat=True))
    ended = [pk for pk in found if _terminate(pk, now, message)]
    checkpoint("terminating")
    JobItem.objects.filter(job_run__in=ended, status=JobItem.Status.PENDING).update(status=JobItem.Status.CANCELLED)
    return ended


def _terminate(job_run_id: str, now: datetime, message: str) -> bool:
    living = JobRun.objects.filter(pk=job_run_id, status__in=JobRun.LIVING)
    reason = {"type": "terminated", "message": message}
    # To be looked after until its last run is cancelled.
    return bool(
        living.update(status=JobRun.Status.TERMINATED, ended_at=now, updated_at=now, wake_at=now, reason=reason)
    )


def clear_up(job_run_id: str, most: int | None = None) -> None:
    """Cancels the runs of one that was terminated, and takes in how they ended; of at most so many, the workers the others."""
    checkpoint("before clearing up")
    living = Run.objects.living().filter(job_run=job_run_id, parent=None)
    cancelled = 0
    while runs := list(living.values_list("pk", flat=True)[:CANCELLED]):
        for pk in runs:
            starting.cancel_of_job(pk, TERMINATED)
            checkpoint("cancelled a run")
        cancelled += len(runs)
        if most is not None and cancelled >= most:
            hints.hint_job(job_run_id)
            return
    with transaction.atomic():
        row = _locked(job_run_id)
        if row is None or row.status in JobRun.LIVING:
            return
        turn = _Turn(row, in_place=False)
        turn.take_in(_Ended.of(execute(TO_DO, [row.pk, MOST_AT_ONCE])))
        checkpoint("clearing up")
        turn.change(wake_at=None)
        turn.save()


def sweep(now: datetime) -> int:
    """Advances job runs that nobody told of a run's end. Gives how many."""
    # A clock that ran ahead would else hold them back for as long.
    JobRun.objects.filter(wake_at__gt=now + 2 * timedelta(seconds=LONGEST_PAUSE)).update(wake_at=now)
    due = JobRun.objects.filter(wake_at__lte=now).order_by("wake_at").values_list("pk", flat=True)
    found = list(due[:SWEPT])
    for pk in found:
        try:
            advance(pk)
        except Exception:
            log.exception("job run %s cannot be gone on with", pk)
            JobRun.objects.filter(pk=pk).update(wake_at=now + timedelta(seconds=LONGEST_PAUSE))
    return len(found)
