"""Jobs: fired by hand and by schedule, their items carried, paused, resumed, terminated, changed and deleted meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.lib import broker
from apps.lib.errors import Conflict, NotFound
from apps.modules import services as modules
from apps.modules.models import Module
from apps.runs import carrier, hints, job_items, jobs, notices, starting
from apps.runs.models import Job, JobRun, Run
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, Plan, Project
from tests.cast import Cast
from tests.runs import lab

ACTOR = lab.ACTOR
SET = [{"id": "one", "set": {"n": "{{ start.n }}"}}]
NUMBER = [{"name": "N", "api_name": "n", "type": "number", "required": True}]
WAIT = [{"id": "pause", "wait": {"event": "go"}}]
MORNING = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


class World:
    """One process's broker and worker: hints wait in queues until somebody works them off."""

    def __init__(self, committed: Any) -> None:
        self.queues: dict[str, deque[tuple[str, str]]] = {"runs": deque(), "steps": deque()}
        self.handed = 0
        self.committed = committed

    def hand(self, task: str, ids: Any, *, queue: str, **options: Any) -> bool:
        if queue in self.queues:
            self.handed += len(ids)
            self.queues[queue].extend((task, pk) for pk in ids)
        return True

    def work(self, most: int = 10_000, seconds: float = 0.0) -> None:
        """Until nothing is left to do, as one worker would."""
        for _ in range(most):
            queue = self.queues["steps"] or self.queues["runs"]
            if not queue:
                return
            task, pk = queue.popleft()
            with self.committed(execute=True):
                if task == hints.JOB_TASK:
                    jobs.advance(pk)
                elif task == hints.TASK:
                    carrier.carry(pk, seconds)

    @contextmanager
    def done(self) -> Iterator[None]:
        with self.committed(execute=True):
            yield


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any) -> World:
    made = World(django_capture_on_commit_callbacks)
    monkeypatch.setattr(broker, "hand", made.hand)
    return made


def publish(project: Project, name: str = "count", steps: Any = None, **more: Any) -> Module:
    more.setdefault("start_parameters", NUMBER if steps is None else [])
    return lab.publish(project, SET if steps is None else steps, name=name, **more)


def body(count: int = 3, name: str = "job", api: str = "count", **more: Any) -> dict[str, Any]:
    configuration = {
        key: more.pop(key) for key in ("maxConcurrentRequests", "maxRuns", "retry", "requestTimeout") if key in more
    }
    payload = more.pop("payload", [{"apiName": api, "parameters": {"n": number}} for number in range(count)])
    return {"id": name, "payload": payload, "configuration": configuration, **more}


def waiting(count: int, **more: Any) -> dict[str, Any]:
    return body(payload=[{"apiName": "wait", "parameters": {}}] * count, **more)


def fresh(job_run: JobRun) -> JobRun:
    return JobRun.objects.get(pk=job_run.pk)


def states(job_run: JobRun) -> list[str]:
    return list(job_run.items.order_by("number").values_list("status", flat=True))


def counts(job_run: JobRun) -> tuple[str, int, int, int]:
    row = fresh(job_run)
    return row.status, row.started_runs, row.successful_runs, row.failed_runs


def reason_of(row: Any) -> str:
    """Of a job, a job run, or a run that was cancelled."""
    reason: Any = row.error if isinstance(row, Run) else row.reason
    return str(reason["type"])


def fire(world: World, job: Job) -> JobRun:
    with world.done():
        return jobs.trigger(job, ACTOR)


def end_runs(world: World, job_run: JobRun, most: int = 1000) -> None:
    """Lets runs go on that wait."""
    for run in Run.objects.living().filter(job_run=job_run)[:most]:
        with world.done():
            starting.signal(run, "go", None, ACTOR)
    world.work()


# -- Firing by hand --------------------------------------------------------------------------------------------------
def test_every_item_of_a_triggered_job_runs_once_and_the_job_run_ends(cast: Cast, world: World) -> None:
    publish(cast.project)
    job = jobs.create(cast.project, body(25, maxConcurrentRequests=4), ACTOR, "u1")
    job_run = fire(world, job)
    assert (job_run.type, job_run.status, job_run.payloads, job_run.scheduled_for) == ("MANUAL", "PENDING", 25, None)
    world.work()
    assert counts(job_run) == ("SUCCESS", 25, 25, 0)
    row = fresh(job_run)
    assert row.ended_at is not None
    assert row.wake_at is None
    runs = Run.objects.filter(job_run=job_run)
    assert sorted(run.parameters["n"] for run in runs) == list(range(25))
    assert {(run.surface, run.user_id, run.started_by) for run in runs} == {("job", "u1", ACTOR.name)}
    assert {item.run_id for item in job_run.items.all()} == {run.pk for run in runs}
    job.refresh_from_db()
    assert job.last_run_at is not None


def test_never_more_runs_are_under_way_than_the_job_allows(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job_run = fire(world, jobs.create(cast.project, waiting(7, maxConcurrentRequests=3), ACTOR))
    world.work()
    assert states(job_run) == ["started"] * 3 + ["pending"] * 4
    jobs.advance(job_run.pk)
    assert Run.objects.living().count() == 3
    end_runs(world, job_run, 2)
    assert states(job_run) == ["succeeded"] * 2 + ["started"] * 3 + ["pending"] * 2
    end_runs(world, job_run)
    end_runs(world, job_run)
    assert counts(job_run) == ("SUCCESS", 7, 7, 0)


def test_ten_are_under_way_where_the_job_does_not_say(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job_run = fire(world, jobs.create(cast.project, waiting(15), ACTOR))
    world.work()
    assert states(job_run) == ["started"] * 10 + ["pending"] * 5


def test_a_worker_goes_on_with_the_next_item_without_a_message_for_each(cast: Cast, world: World) -> None:
    publish(cast.project)
    job_run = fire(world, jobs.create(cast.project, body(200, maxConcurrentRequests=5), ACTOR))
    world.work(seconds=60)
    assert counts(job_run) == ("SUCCESS", 200, 200, 0)
    assert world.handed <= 10  # the job run's, and one for each of the first runs


def test_a_job_without_items_ends_at_once(cast: Cast, world: World) -> None:
    job_run = fire(world, jobs.create(cast.project, body(0), ACTOR))
    assert counts(job_run) == ("SUCCESS", 0, 0, 0)
    assert fresh(job_run).ended_at is not None
    assert world.handed == 0


def test_one_failed_item_makes_the_job_run_a_failure(cast: Cast, world: World, monkeypatch: Any) -> None:
    told: list[str] = []
    monkeypatch.setattr(notices, "job_run_failed", lambda job_run, now: told.append(job_run.status))
    publish(cast.project)
    publish(cast.project, "fail", [{"id": "stop", "fail": {"message": "No"}}])
    payload = [{"apiName": "fail", "parameters": {}}, {"apiName": "count", "parameters": {"n": 1}}]
    job_run = fire(world, jobs.create(cast.project, body(payload=payload), ACTOR))
    world.work()
    assert counts(job_run) == ("FAILURE", 2, 1, 1)
    assert states(job_run) == ["failed", "succeeded"]
    assert told == ["FAILURE"]


def test_what_cannot_be_started_is_a_failed_item_and_the_others_run(cast: Cast, world: World) -> None:
    """A module that is gone, one that was unpublished, and parameters that do not fit."""
    publish(cast.project)
    gone = publish(cast.project, "gone")
    modules.unpublish(gone, SYSTEM)
    payload = [
        {"apiName": "never", "parameters": {}},
        {"apiName": "gone", "parameters": {"n": 1}},
        {"apiName": "count", "parameters": {"n": "many"}},
        {"apiName": "count", "parameters": {"n": 1}},
    ]
    job_run = fire(world, jobs.create(cast.project, body(payload=payload, maxConcurrentRequests=1), ACTOR))
    world.work()
    assert counts(job_run) == ("FAILURE", 1, 1, 3)
    errors: list[Any] = list(job_run.items.order_by("number").values_list("error", flat=True))
    assert [error and error["code"] for error in errors] == ["not-found", "not-found", "bad-request", None]
    assert "n" in errors[2]["details"]


def test_hundreds_of_items_that_cannot_be_started_end_the_job_run_all_the_same(cast: Cast, world: World) -> None:
    job_run = fire(world, jobs.create(cast.project, body(300, maxConcurrentRequests=2), ACTOR))
    world.work()
    assert counts(job_run) == ("FAILURE", 0, 0, 300)


def test_an_item_that_our_own_code_stumbles_over_fails_and_stops_no_other(
    cast: Cast, world: World, monkeypatch: Any
) -> None:
    publish(cast.project)
    start = starting.start

    def stumble(module: Any, parameters: Any, *args: Any, **more: Any) -> Any:
        if parameters["n"] == 1:
            raise RuntimeError("secret detail")
        return start(module, parameters, *args, **more)

    monkeypatch.setattr(starting, "start", stumble)
    job_run = fire(world, jobs.create(cast.project, body(3), ACTOR))
    world.work()
    assert states(job_run) == ["succeeded", "failed", "succeeded"]
    error: Any = job_run.items.get(number=1).error
    assert error["code"] == "internal-server-error"
    assert "secret" not in error["message"]


def test_more_items_than_max_runs_are_never_made(cast: Cast, world: World) -> None:
    publish(cast.project)
    job_run = fire(world, jobs.create(cast.project, body(10, maxRuns=4), ACTOR))
    world.work()
    assert (fresh(job_run).payloads, counts(job_run)) == (4, ("SUCCESS", 4, 4, 0))


def test_how_an_item_is_tried_is_said_by_itself_then_by_its_job(cast: Cast, world: World) -> None:
    publish(cast.project)
    item = {"apiName": "count", "parameters": {"n": 1}}
    payload = [item, item | {"retry": {"maximumAttempts": 7}, "requestTimeout": 70}, item | {"retry": {}}]
    given = body(
        payload=payload, retry={"maximumAttempts": 5}, requestTimeout=50, proxy="http://me:pw@proxy.example:8080"
    )
    job_run = fire(world, jobs.create(cast.project, given, ACTOR))
    world.work(1)
    runs = {item.number: Run.objects.get(pk=item.run_id) for item in job_run.items.all()}
    found = [(runs[number].maximum_attempts, runs[number].request_timeout) for number in range(3)]
    assert found == [(5, 50), (7, 70), (5, 50)]
    assert {run.unseal("proxy") for run in runs.values()} == {"http://me:pw@proxy.example:8080"}


def test_a_job_run_keeps_the_payload_and_settings_that_it_was_fired_with(cast: Cast, world: World) -> None:
    publish(cast.project)
    sink = {"type": "webhook", "url": "https://old.example/", "headers": {"X-Key": "secret"}}
    job = jobs.create(cast.project, body(4, maxConcurrentRequests=1, sink=sink), ACTOR)
    job_run = fire(world, job)
    jobs.change(job, body(9, maxConcurrentRequests=9, sink=None), ACTOR)
    world.work()
    assert counts(job_run) == ("SUCCESS", 4, 4, 0)
    assert fresh(job_run).snapshot["configuration"] == {"maxConcurrentRequests": 1}
    assert {run.unseal("sink")["url"] for run in Run.objects.filter(job_run=job_run)} == {"https://old.example/"}
    assert "secret" not in job_run.sink
    job.refresh_from_db()
    assert (len(job.payload), job.version, job.sink) == (9, 2, "")


def test_two_triggers_run_side_by_side(cast: Cast, world: World) -> None:
    publish(cast.project)
    job = jobs.create(cast.project, body(3), ACTOR)
    found = [fire(world, job), fire(world, job)]
    world.work()
    assert [counts(job_run) for job_run in found] == [("SUCCESS", 3, 3, 0)] * 2


def test_runs_within_the_plans_limit_still_all_run(cast: Cast, world: World) -> None:
    plan = Plan.objects.create(name="small", concurrent_runs=2)
    type(cast.workspace).objects.update(plan=plan)
    publish(cast.project)
    job_run = fire(world, jobs.create(cast.project, body(20, maxConcurrentRequests=8), ACTOR))
    world.work()
    assert counts(job_run) == ("SUCCESS", 20, 20, 0)


def test_an_item_waits_where_the_plans_calls_are_used_up_and_goes_on_later(cast: Cast, world: World) -> None:
    plan = Plan.objects.create(name="few", calls_per_day=3)
    type(cast.workspace).objects.update(plan=plan)
    publish(cast.project)
    job_run = fire(world, jobs.create(cast.project, body(5), ACTOR))
    world.work()
    assert counts(job_run) == ("PENDING", 3, 3, 0)
    row = fresh(job_run)
    assert row.wake_at is not None
    assert row.wake_at > timezone.now() + timedelta(seconds=30)
    Plan.objects.filter(pk=plan.pk).update(calls_per_day=None)
    with world.done():
        assert jobs.sweep(row.wake_at) == 1
    world.work()
    assert counts(job_run) == ("SUCCESS", 5, 5, 0)


def test_an_item_whose_run_somebody_cancels_counts_as_failed(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job_run = fire(world, jobs.create(cast.project, waiting(2), ACTOR))
    world.work()
    with world.done():
        assert starting.cancel(lab.fresh(Run.objects.all()[0]), ACTOR)
    end_runs(world, job_run)
    assert counts(job_run) == ("FAILURE", 2, 1, 1)
    assert sorted(states(job_run)) == ["cancelled", "succeeded"]


def test_an_item_whose_run_was_deleted_counts_as_failed(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job_run = fire(world, jobs.create(cast.project, waiting(1), ACTOR))
    world.work()
    Run.objects.all().delete()
    jobs.advance(job_run.pk)
    assert counts(job_run) == ("FAILURE", 1, 0, 1)


# -- What nobody was told of -----------------------------------------------------------------------------------------
def test_the_sweeper_begins_a_job_run_whose_message_was_lost(cast: Cast, world: World) -> None:
    publish(cast.project)
    job_run = fire(world, jobs.create(cast.project, body(3), ACTOR))
    world.queues["steps"].clear()
    now = timezone.now()
    assert jobs.sweep(now) == 0  # somebody may be about to
    with world.done():
        assert jobs.sweep(now + timedelta(minutes=1)) == 1
    world.work()
    assert counts(job_run) == ("SUCCESS", 3, 3, 0)


def test_the_sweeper_goes_on_with_a_job_run_whose_worker_died_after_a_runs_end(
    cast: Cast, world: World, monkeypatch: Any
) -> None:
    publish(cast.project)
    job_run = fire(world, jobs.create(cast.project, body(2, maxConcurrentRequests=1), ACTOR))
    monkeypatch.setattr(job_items, "advance_in_place", lambda pk: None)
    world.work()
    assert counts(job_run) == ("PENDING", 1, 0, 0)
    with world.done():
        jobs.sweep(timezone.now() + timedelta(minutes=1))
    assert counts(job_run) == ("PENDING", 2, 1, 0)


def test_a_job_run_that_cannot_be_gone_on_with_holds_up_no_other(cast: Cast, world: World, monkeypatch: Any) -> None:
    publish(cast.project)
    job = jobs.create(cast.project, body(1), ACTOR)
    broken, well = fire(world, job), fire(world, job)
    JobRun.objects.filter(pk=broken.pk).update(sink="not sealed by us", wake_at=timezone.now() - timedelta(hours=1))
    now = timezone.now() + timedelta(minutes=1)
    with world.done():
        jobs.sweep(now)
    world.queues["steps"].clear()
    world.work()
    assert counts(well)[0] == "SUCCESS"
    assert fresh(broken).wake_at == now + timedelta(seconds=job_items.LONGEST_PAUSE)


# -- Pausing ---------------------------------------------------------------------------------------------------------
def test_a_paused_job_lets_its_runs_finish_and_starts_none_until_it_is_resumed(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job = jobs.create(cast.project, waiting(5, maxConcurrentRequests=2), ACTOR)
    job_run = fire(world, job)
    world.work()
    jobs.pause(job, ACTOR)
    assert counts(job_run)[0] == "PAUSING"
    end_runs(world, job_run)
    assert counts(job_run) == ("PAUSED", 2, 2, 0)
    assert fresh(job_run).wake_at is None
    jobs.advance(job_run.pk)
    assert states(job_run) == ["succeeded"] * 2 + ["pending"] * 3
    with world.done():
        jobs.resume(job, ACTOR)
    assert counts(job_run)[0] == "PENDING"
    world.work()
    end_runs(world, job_run)
    end_runs(world, job_run)
    assert counts(job_run) == ("SUCCESS", 5, 5, 0)


def test_a_job_run_without_a_run_under_way_is_paused_at_once(cast: Cast, world: World) -> None:
    publish(cast.project)
    job = jobs.create(cast.project, body(3), ACTOR)
    job_run = fire(world, job)
    jobs.pause(job, ACTOR)
    assert counts(job_run) == ("PAUSED", 0, 0, 0)


def test_a_job_run_whose_last_items_end_while_it_pauses_has_ended(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job = jobs.create(cast.project, waiting(2), ACTOR)
    job_run = fire(world, job)
    world.work()
    jobs.pause(job, ACTOR)
    end_runs(world, job_run)
    assert counts(job_run) == ("SUCCESS", 2, 2, 0)


def test_a_paused_job_cannot_be_triggered_and_says_why(cast: Cast, world: World) -> None:
    job = jobs.create(cast.project, body(0), ACTOR)
    jobs.pause(job, ACTOR)
    with pytest.raises(Conflict):
        jobs.trigger(job, ACTOR)
    job.refresh_from_db()
    assert reason_of(job) == "user-request"
    assert not JobRun.objects.exists()
    jobs.resume(job, ACTOR)
    assert jobs.trigger(job, ACTOR).status == "SUCCESS"
    job.refresh_from_db()
    assert job.reason is None


def test_pausing_and_resuming_twice_changes_nothing_more(cast: Cast) -> None:
    job = jobs.create(cast.project, body(0), ACTOR)
    for _ in range(2):
        jobs.pause(job, ACTOR)
    for _ in range(2):
        jobs.resume(job, ACTOR)
    told = AuditEvent.objects.filter(target="job").values_list("action", flat=True)
    assert sorted(told) == ["job.created", "job.paused", "job.resumed"]


# -- Terminating -----------------------------------------------------------------------------------------------------
def test_a_terminated_job_run_cancels_its_runs_and_starts_no_more(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job_run = fire(world, jobs.create(cast.project, waiting(5, maxConcurrentRequests=2), ACTOR))
    world.work()
    before = world.handed
    with world.done():
        assert jobs.terminate(job_run, ACTOR)
    assert world.handed == before  # not a message for each cancelled run
    row = fresh(job_run)
    assert (row.status, reason_of(row), row.wake_at) == ("TERMINATED", "terminated", None)
    assert row.ended_at is not None
    assert states(job_run) == ["cancelled"] * 5
    runs = Run.objects.filter(job_run=job_run)
    assert {(run.status, reason_of(run)) for run in runs} == {("cancelled", "job-run-terminated")}
    assert not jobs.terminate(job_run, ACTOR)
    jobs.advance(job_run.pk)
    world.work()
    assert (Run.objects.count(), fresh(job_run).status) == (2, "TERMINATED")


def test_the_sweeper_cancels_what_a_process_that_died_left_of_a_terminated_job_run(
    cast: Cast, world: World, monkeypatch: Any
) -> None:
    publish(cast.project, "wait", WAIT)
    job_run = fire(world, jobs.create(cast.project, waiting(3), ACTOR))
    world.work()
    with monkeypatch.context() as patch:
        patch.setattr(job_items, "clear_up", lambda *args: None)
        jobs.terminate(job_run, ACTOR)
    assert (fresh(job_run).status, Run.objects.living().count()) == ("TERMINATED", 3)
    jobs.sweep(timezone.now())
    assert Run.objects.living().count() == 0
    assert (states(job_run), fresh(job_run).wake_at) == (["cancelled"] * 3, None)


def test_many_runs_of_a_terminated_job_run_are_left_to_the_workers(cast: Cast, world: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(jobs, "CANCELLED_AT_ONCE", 2)
    monkeypatch.setattr(job_items, "CANCELLED", 2)
    publish(cast.project, "wait", WAIT)
    job_run = fire(world, jobs.create(cast.project, waiting(5), ACTOR))
    world.work()
    with world.done():
        jobs.terminate(job_run, ACTOR)
    assert Run.objects.living().count() == 3
    world.work()
    assert (Run.objects.living().count(), states(job_run)) == (0, ["cancelled"] * 5)


def test_a_deleted_job_is_gone_and_what_of_it_was_under_way_is_terminated(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job = jobs.create(cast.project, waiting(3, schedule={"intervals": [{"every": "1m"}]}), ACTOR)
    job_run = fire(world, job)
    world.work()
    with world.done():
        jobs.delete(job, ACTOR)
    assert counts(job_run)[0] == "TERMINATED"
    assert set(Run.objects.values_list("status", flat=True)) == {"cancelled"}
    assert jobs.fire_due(timezone.now() + timedelta(days=1)) == 0
    for call in (jobs.delete, jobs.pause, jobs.resume, jobs.trigger):
        with pytest.raises(NotFound):
            call(job, ACTOR)
    with pytest.raises(NotFound):
        jobs.change(job, waiting(1), ACTOR)
    assert jobs.create(cast.project, waiting(1), ACTOR).pk != job.pk  # its id is free again


# -- By schedule -----------------------------------------------------------------------------------------------------
def scheduled(project: Project, count: int = 1, api: str = "count", **schedule: Any) -> Job:
    given = schedule or {"intervals": [{"every": "1m"}]}
    return jobs.create(project, body(count, api=api, schedule=given), ACTOR)


def at(job: Job, moment: datetime) -> Job:
    """As if the job had been due then."""
    Job.objects.filter(pk=job.pk).update(next_run_at=moment)
    job.refresh_from_db()
    return job


def test_a_scheduled_job_fires_at_its_time_and_not_before(cast: Cast, world: World) -> None:
    publish(cast.project)
    job = at(scheduled(cast.project), MORNING)
    assert jobs.fire_due(MORNING - timedelta(seconds=1)) == 0
    with world.done():
        assert jobs.fire_due(MORNING + timedelta(seconds=1)) == 1
    world.work()
    job_run = JobRun.objects.get()
    assert (job_run.type, job_run.status, job_run.scheduled_for) == ("SCHEDULED", "SUCCESS", MORNING)
    assert Run.objects.get().started_by == "job:job"
    job.refresh_from_db()
    assert job.next_run_at == MORNING + timedelta(minutes=1)
    assert jobs.fire_due(MORNING + timedelta(seconds=2)) == 0


def test_a_new_jobs_next_time_is_its_schedules(cast: Cast) -> None:
    job = scheduled(cast.project)
    assert job.next_run_at is not None
    assert timedelta(0) < job.next_run_at - timezone.now() <= timedelta(minutes=1)
    assert jobs.create(cast.project, body(name="none"), ACTOR).next_run_at is None


def test_what_was_missed_fires_once_for_its_latest_time(cast: Cast, world: World) -> None:
    job = at(scheduled(cast.project, 0), MORNING)
    now = MORNING + timedelta(days=9, seconds=30)
    assert jobs.fire_due(now) == 1
    assert JobRun.objects.get().scheduled_for == MORNING + timedelta(days=9)
    job.refresh_from_db()
    assert job.next_run_at == MORNING + timedelta(days=9, minutes=1)


def test_a_schedule_of_every_second_catches_up_at_once_after_a_month(cast: Cast) -> None:
    at(scheduled(cast.project, 0, intervals=[{"every": "1s"}]), MORNING)
    began = timezone.now()
    assert jobs.fire_due(MORNING + timedelta(days=31)) == 1
    assert timezone.now() - began < timedelta(seconds=2)
    assert JobRun.objects.get().scheduled_for == MORNING + timedelta(days=31)


def test_jitter_puts_a_firing_off_always_to_the_same_moment(cast: Cast) -> None:
    from apps.runs import schedules

    schedule = schedules.clean({"intervals": [{"every": "1h"}], "jitter": "10m"})
    first = jobs.next_time(schedule, "seed", MORNING - timedelta(minutes=30))
    assert first is not None
    assert MORNING <= first <= MORNING + timedelta(minutes=10)
    assert jobs.next_time(schedule, "seed", MORNING - timedelta(minutes=29)) == first
    assert jobs.next_time(schedule, "seed", first - timedelta(milliseconds=1)) == first
    following = jobs.next_time(schedule, "seed", first)
    assert following is not None
    assert following >= MORNING + timedelta(hours=1)
    assert jobs.next_time(schedule, "other", MORNING - timedelta(minutes=30)) != first


def test_missed_firings_with_jitter_fire_once_for_the_latest_that_has_come(cast: Cast) -> None:
    job = scheduled(cast.project, 0, intervals=[{"every": "1h"}], jitter="30m")
    from apps.runs import schedules

    schedule = schedules.clean(job.schedule)
    first = jobs.next_time(schedule, job.pk, MORNING)
    assert first is not None
    at(job, first)
    now = MORNING + timedelta(hours=50)
    assert jobs.fire_due(now) == 1
    firing = JobRun.objects.get().scheduled_for
    assert firing is not None
    assert now - timedelta(minutes=90) < firing <= now
    job.refresh_from_db()
    assert job.next_run_at == jobs.next_time(schedule, job.pk, now)
    assert jobs.fire_due(now) == 0


def test_a_firing_is_passed_over_while_another_job_run_is_under_way(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job = jobs.create(cast.project, waiting(1, schedule={"intervals": [{"every": "1m"}]}), ACTOR)
    living = fire(world, job)
    world.work()
    at(job, MORNING)
    assert jobs.fire_due(MORNING) == 1
    passed = JobRun.objects.get(type="SCHEDULED")
    assert (passed.status, reason_of(passed)) == ("CANCELED", "another-job-run-active")
    assert passed.ended_at is not None
    assert not passed.items.exists()
    end_runs(world, living)
    assert jobs.fire_due(MORNING + timedelta(minutes=1)) == 1
    assert JobRun.objects.filter(type="SCHEDULED", status="PENDING").count() == 1


def test_a_paused_job_does_not_fire_and_does_not_make_up_for_it(cast: Cast) -> None:
    job = at(scheduled(cast.project, 0), MORNING)
    jobs.pause(job, ACTOR)
    assert jobs.fire_due(MORNING + timedelta(days=1)) == 0
    jobs.resume(job, ACTOR)
    job.refresh_from_db()
    assert job.next_run_at is not None
    assert job.next_run_at > timezone.now()
    assert not JobRun.objects.exists()


def test_a_change_keeps_the_next_time_where_the_schedule_stays(cast: Cast) -> None:
    job = at(scheduled(cast.project), MORNING)
    same = jobs.change(job, body(2, schedule=job.schedule), ACTOR)
    assert same.next_run_at == MORNING
    other = jobs.change(job, body(2, schedule={"intervals": [{"every": "1d"}]}), ACTOR)
    assert other.next_run_at is not None
    assert other.next_run_at > timezone.now()
    assert jobs.change(job, body(2), ACTOR).next_run_at is None


def test_a_schedule_that_never_comes_again_fires_no_more(cast: Cast) -> None:
    job = scheduled(cast.project, calendars=[{"year": 2020}])
    assert job.next_run_at is None


def test_a_job_that_cannot_be_fired_is_put_off_and_holds_up_no_other(cast: Cast) -> None:
    broken, well = scheduled(cast.project, 0), jobs.create(cast.project, body(0, name="well"), ACTOR)
    at(broken, MORNING)
    at(well, MORNING)
    Job.objects.filter(pk=well.pk).update(schedule={"intervals": [{"every": "1m"}]})
    Job.objects.filter(pk=broken.pk).update(schedule={"intervals": "nonsense"})
    assert jobs.fire_due(MORNING) == 1
    assert JobRun.objects.get().job_id == well.pk
    broken.refresh_from_db()
    assert broken.next_run_at == MORNING + jobs.POSTPONED


# -- Ids -------------------------------------------------------------------------------------------------------------
def test_an_id_belongs_to_one_job_of_a_project(cast: Cast) -> None:
    jobs.create(cast.project, body(), ACTOR)
    with pytest.raises(Conflict):
        jobs.create(cast.project, body(), ACTOR)
    assert jobs.create(cast.foreign_project, body(), ACTOR).name == "job"


def test_what_is_secret_of_a_job_is_sealed(cast: Cast, world: World) -> None:
    sink = {"type": "webhook", "url": "https://x.example/", "headers": {"X-Key": "topsecret"}}
    notifications = [{"type": "webhook", "url": "https://x.example/", "headers": {"X-Key": "topsecret"}}]
    given = body(0, sink=sink, notifications=notifications, proxy="http://u:topsecret@p.example:1")
    given["configuration"]["proxy"] = "http://u:topsecret@q.example:1"
    job = jobs.create(cast.project, given, ACTOR)
    job_run = fire(world, job)
    for row in (Job.objects.get(pk=job.pk), fresh(job_run)):
        assert "topsecret" not in str(vars(row))
        assert row.unseal("sink") == sink
        assert row.unseal("notifications") == notifications
        assert row.unseal("proxy") == {
            "proxy": "http://u:topsecret@p.example:1", "configuration": "http://u:topsecret@q.example:1"
        }  # fmt: skip


# -- Clocks, and what it costs ---------------------------------------------------------------------------------------
def test_a_clock_that_is_put_back_fires_no_time_twice_and_goes_on(cast: Cast) -> None:
    job = at(scheduled(cast.project, 0), MORNING)
    assert jobs.fire_due(MORNING) == 1
    at(job, MORNING)
    assert jobs.fire_due(MORNING) == 0
    job.refresh_from_db()
    assert job.next_run_at == MORNING + jobs.POSTPONED
    assert JobRun.objects.count() == 1


def test_a_job_that_a_clock_has_fired_which_ran_ahead_waits_for_its_next_time_alone(cast: Cast) -> None:
    job, now = scheduled(cast.project, 0), timezone.now()
    assert jobs.fire_due(now + timedelta(days=30)) == 1
    jobs.sweep(now)
    job.refresh_from_db()
    assert job.next_run_at is not None
    assert now < job.next_run_at <= now + timedelta(minutes=1)
    again = job.next_run_at
    jobs.sweep(now + timedelta(seconds=1))
    job.refresh_from_db()
    assert job.next_run_at == again


def test_a_job_run_that_was_put_off_by_a_clock_which_ran_ahead_goes_on(cast: Cast, world: World) -> None:
    publish(cast.project)
    job_run = fire(world, jobs.create(cast.project, body(2), ACTOR))
    world.queues["steps"].clear()
    JobRun.objects.update(wake_at=timezone.now() + timedelta(days=30))
    with world.done():
        assert jobs.sweep(timezone.now()) == 1
    world.work()
    assert counts(job_run) == ("SUCCESS", 2, 2, 0)


@pytest.mark.parametrize("count", [20, 400])
def test_going_on_with_a_job_run_costs_the_same_few_statements_however_many_items_it_has(
    cast: Cast, world: World, count: int
) -> None:
    publish(cast.project, "wait", WAIT)
    job_run = fire(world, jobs.create(cast.project, waiting(count, maxConcurrentRequests=2), ACTOR))
    world.work()
    for run in Run.objects.living().filter(job_run=job_run):
        Run.objects.filter(pk=run.pk).update(status="completed", wake_at=None)
        with CaptureQueriesContext(connection) as captured:
            job_items.advance_in_place(job_run.pk)
        verbs = [query["sql"].split()[0] for query in captured]
        told = [verb for verb in verbs if verb not in {"SAVEPOINT", "RELEASE", "BEGIN", "COMMIT"}]
        # The job run, what is to do, those that ended, the next item, its module; the run, the item, the job run.
        assert told == ["SELECT", "SELECT", "UPDATE", "SELECT", "SELECT", "INSERT", "UPDATE", "UPDATE"], captured


def test_ten_thousand_items_are_fired_by_a_few_statements(cast: Cast, world: World) -> None:
    job = jobs.create(cast.project, body(10_000), ACTOR)
    with CaptureQueriesContext(connection) as captured:
        job_run = fire(world, job)
    assert job_run.items.count() == 10_000
    assert len(captured) < 150  # SQLite takes some hundred rows at a time


def test_hundreds_of_runs_under_way_together_are_started_in_several_turns(cast: Cast, world: World) -> None:
    publish(cast.project, "wait", WAIT)
    job_run = fire(world, jobs.create(cast.project, waiting(260, maxConcurrentRequests=250), ACTOR))
    with world.done():
        jobs.advance(job_run.pk)
    assert counts(job_run) == ("PENDING", 250, 0, 0)
    assert Run.objects.exclude(hinted_at=None).count() == hints.MOST
