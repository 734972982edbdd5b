"""Carrying a run: under a lease, from event to event, until it waits or ends.

What is to be done outside is persisted before it is done, and how it ended together with what comes next, each time in one
transaction with the row of the run, whose UPDATE says whether the lease still holds. So a worker that dies loses at most the
steps that it was performing, and the next one knows which (`Machine.lost`).
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.db import Error, InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from apps.lib.api import request_id_var
from apps.lib.db import release
from apps.lib.errors import Failure
from apps.modules import services as modules
from apps.workspaces.audit import Actor

from . import endings, hints, history, human, job_items, leases, performing, run_auth, starting
from .engine import Ask, Event, Machine, Perform, RunModule, StepError, events
from .engine.machine import TIMED_OUT, Command
from .models import HumanTask, Run, RunSignal
from .threads import Threads

log = logging.getLogger(__name__)

AT_ONCE = timedelta(seconds=1.5)  # a shorter wait is waited for in place
LONGEST_TURN = 60.0  # seconds, after which a run lets others have the worker before its next step
LOOK_AGAIN = 1.0  # seconds between two looks at what came, while steps are performed
GRACE = 1.0  # seconds beyond its time for a step to say so itself
ORPHANS = 100  # whose children one sweep ends
MOST_IDLE = 5  # turns without an event
IDLE = timedelta(minutes=1)
RECONNECT = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before each new try of a write whose connection was lost
LOST = (OperationalError, InterfaceError)
T = TypeVar("T")
INTERNAL = StepError("Something went wrong on our side.", type="infrastructure", code="internal-server-error")


class LeaseLost(Exception):
    """The run was cancelled, or somebody else carries it."""


def checkpoint(name: str) -> None:
    """Does nothing: tests end the process here."""


def carry(run_id: str, seconds: float = 0.0) -> None:
    """Takes the lease of a run that is due, and works until it has nothing to do; else does nothing.

    Within ``seconds`` the next run of the same workspace is gone on with in place; then its turn comes by a hint, behind
    other workspaces'. A message for each run would cost as much as the rest of a short one.
    """
    until = time.monotonic() + seconds
    last: Run | None = None
    following: str | None = run_id
    while following is not None:
        last = _carry_one(following) or last  # one that somebody else has taken does not end the turn
        if last is None:
            return
        if time.monotonic() >= until or _stopping.is_set():
            hints.next_of(last)
            return
        following = hints.take_next(last)


def _carry_one(run_id: str) -> Run | None:
    """Gives the run as it was claimed, None where there was nothing to carry."""
    run = leases.claim(run_id)
    if run is None:
        return None
    checkpoint("claimed")
    known = request_id_var.set(run.request_id or run.pk)
    try:
        with leases.held(run) as lease:
            has_ended = _carry(run, lease)
    finally:
        request_id_var.reset(known)
    if run.job_run_id and has_ended:
        job_items.advance_in_place(run.job_run_id)
    return run


def _carry(run: Run, lease: leases.Lease) -> bool:
    """Whether the run has ended by it."""
    try:
        carrier = _Carrier(run, lease)
        try:
            carrier.work()
            return carrier.machine.is_over
        except LeaseLost:
            log.info("run %s is carried no further: it was cancelled or taken over", run.pk)
            carrier.note_cancelled()
    except Error:
        log.exception("the database failed while run %s was carried; it is taken up again", run.pk)
    except Exception:
        log.exception("run %s cannot be carried", run.pk)
        _give_up(run)
    return False


def _give_up(run: Run) -> None:
    """Ends a run that our own code stumbles over: it would again, each time."""
    now = timezone.now()
    with transaction.atomic():
        row = leases.mine(run).first()
        if row is None:
            return
        error = error_shown(INTERNAL)
        history.append(row, [Event(events.ERRORED, now, data={"error": INTERNAL.as_json()})])
        row.status, row.error = Run.Status.FATAL_ERRORED, error
        leases.mine(run).update(status=row.status, error=error, events_count=row.events_count + 1, **_ended(now))
        endings.ended(row, now)
    human.cancel_all([run.pk], now)
    starting.cancel_children([run.pk])


def sweep() -> int:
    """Hints at runs that are due and that nobody carries: fairly between workspaces. Gives how many.

    Ends those whose parent has ended: its worker died before it could.
    """
    orphans = Run.objects.living().exclude(parent=None).exclude(parent__status__in=Run.LIVING)
    parents = {parent for parent in orphans.values_list("parent", flat=True)[:ORPHANS] if parent}
    starting.cancel_children(list(parents))
    return hints.sweep()


_stopping = threading.Event()


def stop() -> None:
    """Runs that this process carries are given back before their next step; for the end of the process."""
    _stopping.set()


def error_shown(error: StepError) -> dict[str, Any]:
    """A run's error as its row keeps it, and the APIs show it."""
    return {
        "type": error.type,
        "code": error.code,
        "category": error.type,
        "message": error.message,
        "retirable": not error.final,
        "details": error.details,
        "step": error.step,
    }


def _ended(now: datetime) -> dict[str, Any]:
    return {"ended_at": now, **endings.EMPTIED}


def _again_if_lost(do: Callable[[], T]) -> T:
    """Does once more what may be done twice, where the database is away for a moment: its steps go on meanwhile."""
    for pause in RECONNECT:
        try:
            return do()
        except LOST as error:
            if connection.in_atomic_block:
                raise
            log.warning("the database failed while a run was carried; once more: %s", error)
            connection.close()
            time.sleep(pause)
    return do()


# -- Time ------------------------------------------------------------------------------------------------------------
class _Stopwatch:
    """How long an attempt has worked: waits in place do not count, what earlier holders of the lease worked does."""

    def __init__(self, worked_ms: int) -> None:
        self._before = worked_ms / 1000
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._since

    def restart(self) -> None:
        self._before, self._since = 0.0, time.monotonic()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self._before = self.seconds
        try:
            yield
        finally:
            self._since = time.monotonic()


# -- The work --------------------------------------------------------------------------------------------------------
class _Carrier:
    """One holding of a run's lease. Its thread alone touches the machine."""

    def __init__(self, run: Run, lease: leases.Lease) -> None:
        self.run = run
        self.lease = lease
        self.machine: Machine = history.replay(run)
        self.watch = _Stopwatch(run.worked_ms)
        self.attempt = self.machine.attempt
        self.threads = Threads(lambda command, seconds: performing.perform(run, command, seconds))
        self.pokes = run.pokes
        self.must_look = bool(self.machine.waiting)
        self.pending: list[Event] = []
        self.idle = 0
        self.used: dict[int, str] = {}  # signals, by id: the key of the step that used it
        self.began = time.monotonic()
        kinds = {step.kind for step in self.machine.definition.by_id.values()}
        self.asks, self.runs_others = bool(kinds & {"form", "approve"}), "run" in kinds

    def work(self) -> None:
        if run_auth.is_due(self.run):
            self.check_auth()
        if self.machine.performing:
            self.machine.lost(timezone.now())
        while not self.machine.is_over:
            if self.must_look:
                _again_if_lost(self.look)
            commands = self.machine.advance(timezone.now())
            self.persist(commands)
            performs = [command for command in commands if isinstance(command, Perform)]
            if performs or self.threads.busy:
                self.perform(performs)
                if self.threads.busy or not self.is_long():
                    continue
                self.persist([])
                if self.pass_on():
                    return
            elif not self.machine.is_over and self.rest():
                return
        self.persist([])
        self.clear_up()

    # -- Before the first attempt ------------------------------------------------------------------------------------
    def check_auth(self) -> None:
        """Whether the account works that the run is to act with. The time that this takes is worked, too."""
        error = run_auth.check(self.run, self.left, self.still_mine)
        if error is not None:
            self.machine.refused(TIMED_OUT if self.left <= 0 else error, timezone.now())

    def still_mine(self) -> None:
        """Raises `LeaseLost`."""
        self.must_look = self.was_poked() or self.must_look
        if self.lease.lost.is_set():
            raise LeaseLost

    # -- Performing --------------------------------------------------------------------------------------------------
    @property
    def left(self) -> float:
        """Seconds that the attempt may still work."""
        return self.run.request_timeout - self.watch.seconds

    def perform(self, commands: list[Perform]) -> None:
        """Begins what is to be done, and takes in what has ended since; waits until there is something of it."""
        if self.left <= 0:
            self.machine.timed_out(timezone.now())
            self.forget_threads()
            return
        if (
            len(commands) == 1
            and not self.threads.busy
            and not self.machine.waiting
            and commands[0].step.kind != "code"
        ):
            self.take_in(commands[0], *performing.perform(self.run, commands[0], self.seconds_for(commands[0])))
            return
        for command in commands:
            self.threads.start(command, self.seconds_for(command))
        self.await_threads()

    def seconds_for(self, command: Perform) -> float:
        return max(0.001, min(self.left, command.timeout or self.left))

    def await_threads(self) -> None:
        release()
        wait = min(self.threads.next_deadline() + GRACE, self.left + GRACE, LOOK_AGAIN)
        for command, outcome, trace in self.threads.take(wait):
            self.take_in(command, outcome, trace)
        if self.lease.lost.is_set():
            raise LeaseLost
        now = timezone.now()
        for command in self.threads.late(GRACE):
            self.fail(command.key, events.timed_out(command.timeout or self.run.request_timeout), now)
        if self.left <= 0 and self.threads.busy:
            self.machine.timed_out(now)
            self.forget_threads()
        if self.machine.waiting:
            was_poked = _again_if_lost(self.was_poked)
            self.must_look = self.must_look or was_poked or self.has_late_questions(now)

    def forget_threads(self) -> None:
        self.threads = Threads(self.threads.performing)

    def take_in(self, command: Perform, outcome: Any, trace: Any) -> None:
        checkpoint("performed")
        if self.machine.performing.get(command.key) != command.number:
            return
        now = timezone.now()
        if isinstance(outcome, StepError):
            self.fail(command.key, outcome, now, trace)
            if outcome.kind == "timeout" and self.left <= 0:
                self.machine.timed_out(now)
        else:
            self.machine.ended(command.key, outcome, now, trace)

    def fail(self, key: str, error: StepError, now: datetime, trace: Any = None) -> None:
        self.machine.failed(key, error, now, trace)

    # -- What came from outside --------------------------------------------------------------------------------------
    def was_poked(self) -> bool:
        """Whether something has come since the last look; notes that it was seen."""
        row = Run.objects.filter(pk=self.run.pk).values("pokes", "status", "lease_token").first()
        if row is None or row["lease_token"] != self.run.lease_token or row["status"] not in Run.LIVING:
            raise LeaseLost
        before, self.pokes = self.pokes, row["pokes"]
        return before != self.pokes

    def waiting_for(self, what: str) -> list[str]:
        """Keys of the steps that wait for it, those that have waited longest first."""
        found = [waiting for waiting in self.machine.waiting.values() if waiting.what == what]
        return [waiting.key for waiting in sorted(found, key=lambda waiting: waiting.since)]

    def has_late_questions(self, now: datetime) -> bool:
        return any(
            waiting.what == "task" and waiting.until is not None and waiting.until <= now
            for waiting in self.machine.waiting.values()
        )

    def look(self) -> None:
        """Takes in answers, events, and other runs' ends that steps wait for."""
        self.must_look = False
        now = timezone.now()
        if asked := self.waiting_for("task"):
            self.look_at_tasks(asked, now)
        if waiting := self.waiting_for("event"):
            self.look_at_signals(waiting, now)
        if started := self.waiting_for("run"):
            self.look_at_runs(started, now)

    def look_at_tasks(self, keys: list[str], now: datetime) -> None:
        if self.has_late_questions(now):
            for task in HumanTask.objects.filter(
                run=self.run, key__in=keys, status=HumanTask.Status.OPEN, deadline__lte=now
            ):
                human.expire(task, now)
        for key, task in human.ended_of(self.run, keys).items():
            result = human.result_of(task)
            if isinstance(result, StepError):
                self.machine.failed(key, result, now)
            else:
                self.machine.ended(key, result, now)

    def look_at_signals(self, keys: list[str], now: datetime) -> None:
        """The first sent goes to the step that has waited longest."""
        names = {key: self.machine.waiting[key].name for key in keys}
        rows = list(RunSignal.objects.filter(run=self.run, used_by="", name__in=set(names.values())).order_by("id"))
        rows = [row for row in rows if row.pk not in self.used]
        for key, name in names.items():
            found = next((row for row in rows if row.name == name), None)
            if found is not None and self.machine.ended(key, found.data, now):
                self.used[found.pk] = key
                rows.remove(found)

    def look_at_runs(self, keys: list[str], now: datetime) -> None:
        """Of a step that started runs in several attempts the last one counts."""
        rows = Run.objects.filter(parent=self.run, parent_key__in=keys).order_by("created_at")
        last = {row.parent_key: row for row in rows.only("id", "parent_id", "parent_key", "status", "result", "error")}
        for key, row in last.items():
            if row.status == Run.Status.COMPLETED:
                self.machine.ended(key, row.result, now)
            elif row.has_ended:
                self.machine.failed(key, _error_of(row), now)

    # -- Persisting --------------------------------------------------------------------------------------------------
    def persist(self, commands: list[Command]) -> None:
        """Writes what happened, with the questions and runs that it makes. Raises `LeaseLost`.

        Where the connection is lost it may have been written or not: the row tells.
        """
        if self.machine.attempt != self.attempt:
            self.attempt = self.machine.attempt
            self.watch.restart()
        self.pending += self.machine.take_events()
        begun: list[Command] = [command for command in commands if not isinstance(command, Perform)]
        if not self.pending and not self.used:
            return
        traces = {command.key: _trace_of(self.run, command) for command in commands} if self.run.save_trace else {}
        checkpoint("before persisting")
        self._write_again_if_lost(begun, traces)
        # What was sent before a step began to wait for it.
        self.must_look = any(
            event.kind == events.WAITING and event.data.get("for") == "event" for event in self.pending
        )
        self.pending, self.used, self.idle = [], {}, 0
        checkpoint("persisted")

    def _write_again_if_lost(self, begun: list[Command], traces: dict[str, Any]) -> None:
        for pause in (*RECONNECT, None):
            try:
                if pause is not RECONNECT[0] and self._was_written():
                    break
                self._write(begun, traces)
                break
            except LOST as error:
                if pause is None or connection.in_atomic_block:
                    raise
                log.warning("the database failed while run %s was written; once more: %s", self.run.pk, error)
                connection.close()
                time.sleep(pause)
        self.run.events_count += len(self.pending)

    def _was_written(self) -> bool:
        """Not by another, who has meanwhile come as far; of a run that ended here no lease is left."""
        row = Run.objects.filter(pk=self.run.pk).values("events_count", "lease_token", "status").first()
        if row is None:
            raise LeaseLost
        ended = row["lease_token"] == "" and row["status"] == self.machine.status
        mine = ended if self.machine.is_over else row["lease_token"] == self.run.lease_token
        return mine and row["events_count"] == self.run.events_count + len(self.pending)

    def _write(self, begun: list[Command], traces: dict[str, Any]) -> None:
        now = timezone.now()
        if not begun and not self.used and not self.machine.is_over:
            if not history.keep(self.run, self._changes(now), self.pending, traces):
                raise LeaseLost
            return
        with transaction.atomic():
            for command in list(begun):
                if not self._begin(command, now):
                    begun.remove(command)
            self.pending += self.machine.take_events()
            changes = self._changes(now)
            if not history.keep(self.run, changes, self.pending, traces):
                raise LeaseLost
            for pk, key in self.used.items():
                RunSignal.objects.filter(pk=pk, used_by="").update(used_by=key)
            if self.machine.is_over:
                endings.ended(self._as_ended(changes), now, tell_job=False)  # `_carry_one` does
                if self.asks:
                    human.cancel_all([self.run.pk], now)

    def _changes(self, now: datetime) -> dict[str, Any]:
        machine = self.machine
        changes: dict[str, Any] = {
            "status": machine.status,
            "attempt": max(1, machine.attempt),
            "events_count": self.run.events_count + len(self.pending),
            "worked_ms": int(self.watch.seconds * 1000),
            "lease_until": now + leases.length(),
        }
        if machine.is_over:
            failed = machine.status == Run.Status.FATAL_ERRORED
            changes |= _ended(now)
            changes |= {
                "result": machine.result,
                "error": error_shown(machine.error) if failed and machine.error else None,
            }
            if machine.extended:
                changes["extended_payloads"] = machine.extended
        return changes

    def _as_ended(self, changes: dict[str, Any]) -> Run:
        """The run as it is written; our own stays as it was claimed, which says whose turn is next (`hints.take_next`)."""
        run = copy.copy(self.run)
        for name in ("status", "result", "error"):
            setattr(run, name, changes[name])
        return run

    def _begin(self, command: Command, now: datetime) -> bool:
        """Asks a person, or starts a run. False, and the step has failed, where that cannot be done."""
        try:
            with transaction.atomic():
                if isinstance(command, Ask):
                    human.ask(self.run, command, now)
                elif isinstance(command, RunModule):
                    self._start(command)
        except Failure as error:
            self.machine.failed(command.key, performing.error_of(error, []), now)
            return False
        return True

    def _start(self, command: RunModule) -> None:
        run = self.run
        options = starting.Options(
            run.maximum_attempts,
            run.request_timeout,
            run.save_trace,
            run.unseal("proxy"),
            **run_auth.inherited(run),
        )
        starting.start(
            modules.find_published(run.project, command.module),
            command.parameters,
            Actor(run.started_by),
            Run.Surface.RUN,
            user_id=run.user_id or None,
            options=options,
            parent=run,
            parent_key=command.key,
        )

    # -- Resting, and the end ----------------------------------------------------------------------------------------
    def rest(self) -> bool:
        """Nothing is to be done: gives the run back, and says so; or waits a moment for what comes soon."""
        now = timezone.now()
        if self.must_look:
            return False
        wake = self.machine.wake_at
        if wake is not None and wake <= now:
            self.must_look, self.idle = self.has_late_questions(now), self.idle + 1
            if self.idle > MOST_IDLE:
                log.error("run %s is due and has nothing to do", self.run.pk)
            return self.idle > MOST_IDLE and self.give_back(now + IDLE)
        if wake is not None and wake - now <= AT_ONCE:
            release()
            with self.watch.stopped():
                time.sleep((wake - now).total_seconds())
            return False
        if not self.give_back(wake):
            return False
        hints.hint_at(self.run.pk, wake)
        return True

    def is_long(self) -> bool:
        has_had_its_turn = _stopping.is_set() or time.monotonic() - self.began > LONGEST_TURN
        return has_had_its_turn and not self.machine.is_over

    def pass_on(self) -> bool:
        """Lets others have the worker; the run goes on behind them."""
        if not self.give_back(timezone.now()):
            return False
        hints.hint(self.run.pk)
        return True

    def give_back(self, wake: datetime | None) -> bool:
        """Ends the lease, unless somebody has poked the run since the last look."""
        checkpoint("before giving back")
        return _again_if_lost(lambda: self._give_back(wake))

    def _give_back(self, wake: datetime | None) -> bool:
        given = leases.mine(self.run).filter(pokes=self.pokes)
        worked = int(self.watch.seconds * 1000)
        if given.update(lease_token="", lease_until=None, wake_at=wake, worked_ms=worked):
            checkpoint("given back")
            return True
        self.must_look = self.was_poked()
        return False

    def note_cancelled(self) -> None:
        """After the end: how steps ended that were being performed, which only the trace knows; then the end itself."""
        now = timezone.now()
        told = [
            event for event in self.pending if event.trace is not None or event.kind in {events.ENDED, events.FAILED}
        ]
        told.append(Event(events.CANCELLED, now))
        row = Run.objects.filter(pk=self.run.pk, status=Run.Status.CANCELLED, lease_token=self.run.lease_token)
        with transaction.atomic():
            count = self.run.events_count + len(told)
            if row.update(events_count=count, lease_token="", lease_until=None):
                history.append(self.run, told)

    def clear_up(self) -> None:
        """What a run leaves behind that ended with some of its steps still waiting."""
        if self.runs_others:
            starting.cancel_children([self.run.pk])


def _trace_of(run: Run, command: Command) -> Any:
    if isinstance(command, Perform):
        return {"inputs": performing.shown(command.inputs, run)}
    if isinstance(command, RunModule):
        return {"inputs": performing.shown(command.parameters, run)}
    return None


def _error_of(child: Run) -> StepError:
    """Why another run's step failed. That run has had its attempts: another one of ours would only repeat them."""
    if child.status == Run.Status.CANCELLED:
        return StepError(f"The run {child.pk} was cancelled.", final=True)
    error = child.error or {}
    message = str(error.get("message") or "It failed.")
    found = StepError.of(error)
    return StepError(
        message, found.type, found.code, final=True, details={"runId": child.pk, "details": error.get("details")}
    )
