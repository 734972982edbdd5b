"""Who is carried next: tenants beside one another, a plan's limit of runs at a time, and runs that nobody was told of."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from apps.lib import broker
from apps.runs import carrier, hints, leases
from apps.runs.models import Run
from apps.workspaces.models import Plan, Project
from tests.cast import Cast
from tests.runs.lab import carry, fresh, publish, start

SET = [{"id": "one", "set": {"n": 1}}]
Commits = Callable[..., Any]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, deque[str]]:
    """The workers' queues."""
    queues: dict[str, deque[str]] = {"runs": deque(), "steps": deque()}

    def hand(task: str, ids: Any, *, queue: str, **options: float | None) -> bool:
        queues[queue].extend(ids)
        return True

    monkeypatch.setattr(broker, "hand", hand)
    return queues


def flood(project: Project, count: int, committed: Commits) -> list[Run]:
    module = publish(project, SET)
    with committed(execute=True):
        return [start(module) for _ in range(count)]


def work(queue: deque[str], committed: Commits) -> list[str]:
    """One worker, until its queue is empty; the runs in the order in which they were done."""
    done = []
    while queue:
        done.append(queue.popleft())
        with committed(execute=True):
            carrier.carry(done[-1])
    return done


def test_three_hundred_runs_of_one_tenant_do_not_hold_up_another_s(
    cast: Cast, queue: dict[str, deque[str]], django_capture_on_commit_callbacks: Commits
) -> None:
    mine = flood(cast.project, 300, django_capture_on_commit_callbacks)
    assert len(queue["runs"]) == hints.MOST
    (other,) = flood(cast.foreign_project, 1, django_capture_on_commit_callbacks)
    done = work(queue["runs"], django_capture_on_commit_callbacks)
    assert done.index(other.pk) == hints.MOST
    # Each run that ended has told of the next one: none had to wait for a sweep, and none was told of twice.
    assert sorted(done) == sorted(run.pk for run in [*mine, other])
    assert not Run.objects.living().exists()


def test_runs_that_had_begun_have_a_queue_of_their_own(
    cast: Cast, queue: dict[str, deque[str]], django_capture_on_commit_callbacks: Commits
) -> None:
    waiting = carry(start(publish(cast.project, [{"id": "pause", "wait": "1h"}], name="waits")))
    flood(cast.project, hints.MOST + 10, django_capture_on_commit_callbacks)
    Run.objects.filter(pk=waiting.pk).update(wake_at=timezone.now())
    carrier.sweep()
    assert list(queue["steps"]) == [waiting.pk]


def test_a_run_that_another_one_waits_for_is_not_held_up_by_new_ones(
    cast: Cast, queue: dict[str, deque[str]], django_capture_on_commit_callbacks: Commits
) -> None:
    flood(cast.project, hints.MOST + 10, django_capture_on_commit_callbacks)
    publish(cast.project, SET, name="other")
    parent = start(publish(cast.project, [{"id": "sub", "run": "other"}], name="parent"))
    with django_capture_on_commit_callbacks(execute=True):
        carry(parent)
    child = Run.objects.get(parent=parent)
    assert list(queue["steps"])[:1] == [child.pk]
    with django_capture_on_commit_callbacks(execute=True):
        carry(child)
    assert parent.pk in queue["steps"]


def test_runs_that_go_on_bring_no_further_new_ones_into_the_queue(
    cast: Cast, queue: dict[str, deque[str]], django_capture_on_commit_callbacks: Commits
) -> None:
    waiting = carry(start(publish(cast.project, [{"id": "pause", "wait": "1h"}], name="waits")))
    flood(cast.project, hints.MOST + 10, django_capture_on_commit_callbacks)
    with django_capture_on_commit_callbacks(execute=True):
        carry(waiting)
    assert len(queue["runs"]) == hints.MOST


def test_the_end_of_a_short_wait_is_told_of_beforehand(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[list[str], dict[str, Any]]] = []

    def hand(task: str, ids: Any, **options: Any) -> bool:
        told.append((list(ids), options))
        return True

    monkeypatch.setattr(broker, "hand", hand)
    for wait in ("20s", "1h"):
        carry(start(publish(cast.project, [{"id": "pause", "wait": wait}])))
    late = [(ids, options) for ids, options in told if options.get("countdown")]
    ((ids, options),) = late
    assert ids == [Run.objects.order_by("created_at")[0].pk]
    assert (options["queue"], 19 < options["countdown"] <= 20) == ("steps", True)


# -- The sweeper -------------------------------------------------------------------------------------------------------
def test_the_sweeper_tells_of_each_workspace_s_oldest_and_does_not_repeat_itself(
    cast: Cast, queue: dict[str, deque[str]]
) -> None:
    module, foreign = publish(cast.project, SET), publish(cast.foreign_project, SET)
    mine = [start(module) for _ in range(hints.MOST + 5)]
    other = start(foreign)
    Run.objects.update(hinted_at=None)
    assert carrier.sweep() == hints.MOST + 1
    assert list(queue["runs"]) == [*(run.pk for run in mine[: hints.MOST]), other.pk]
    assert carrier.sweep() == 0


def test_a_hint_that_was_lost_is_given_again(cast: Cast, queue: dict[str, deque[str]]) -> None:
    run = start(publish(cast.project, SET))
    assert fresh(run).hinted_at is not None
    assert carrier.sweep() == 0
    Run.objects.update(hinted_at=timezone.now() - hints.AGAIN - timedelta(seconds=1))
    assert carrier.sweep() == 1


def test_a_run_whose_worker_died_is_told_of_once_its_lease_is_over(cast: Cast, queue: dict[str, deque[str]]) -> None:
    run = start(publish(cast.project, SET))
    assert leases.claim(run.pk) is not None
    assert carrier.sweep() == 0
    Run.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert carrier.sweep() == 1
    assert carry(run).status == "completed"


def test_runs_that_wait_or_have_ended_are_told_of_by_nobody(cast: Cast, queue: dict[str, deque[str]]) -> None:
    carry(start(publish(cast.project, [{"id": "pause", "wait": "1h"}])))
    carry(start(publish(cast.project, SET)))
    assert carrier.sweep() == 0


def test_a_run_of_a_clock_that_ran_ahead_is_found(cast: Cast, queue: dict[str, deque[str]]) -> None:
    run = start(publish(cast.project, SET))
    ahead = timezone.now() + timedelta(hours=1)
    Run.objects.update(wake_at=ahead, hinted_at=ahead)
    assert carrier.sweep() == 1
    assert carry(run).status == "completed"


def test_runs_whose_parent_has_ended_without_them_are_ended(cast: Cast, queue: dict[str, deque[str]]) -> None:
    publish(cast.project, [{"id": "pause", "wait": "1d"}], name="other")
    parent = carry(start(publish(cast.project, [{"id": "sub", "run": "other"}])))
    child = carry(Run.objects.get(parent=parent))
    carrier.sweep()
    assert fresh(child).status == "running"
    Run.objects.filter(pk=parent.pk).update(status="fatal_errored", wake_at=None)
    carrier.sweep()
    assert fresh(child).status == "cancelled"


# -- The plan's limit --------------------------------------------------------------------------------------------------
@pytest.fixture
def limited(cast: Cast) -> Project:
    """A project whose plan permits two runs at a time."""
    cast.workspace.plan = Plan.objects.create(name="Small", concurrent_runs=2)
    cast.workspace.save()
    return cast.project


def test_a_plan_s_limit_of_runs_holds_and_the_next_is_told_of_when_one_ends(
    limited: Project, queue: dict[str, deque[str]], django_capture_on_commit_callbacks: Commits
) -> None:
    runs = flood(limited, 4, django_capture_on_commit_callbacks)
    queue["runs"].clear()
    carried = [leases.claim(run.pk) for run in runs]
    assert [run is not None for run in carried] == [True, True, False, False]
    assert carry(runs[2]).status == "created"
    assert not queue["runs"]
    Run.objects.filter(pk=runs[0].pk).update(lease_token="", lease_until=None)
    with django_capture_on_commit_callbacks(execute=True):
        assert carry(runs[0]).status == "completed"
    assert list(queue["runs"]) == [runs[2].pk]


def test_a_run_that_waits_takes_no_place(limited: Project) -> None:
    module = publish(limited, [{"id": "pause", "wait": "1h"}])
    for _ in range(5):
        assert carry(start(module)).status == "running"
    assert carry(start(publish(limited, SET, name="next"))).status == "completed"


def test_a_dead_worker_s_place_is_free_when_its_lease_is_over(limited: Project) -> None:
    module = publish(limited, SET)
    for _ in range(2):
        assert leases.claim(start(module).pk) is not None
    waiting = start(module)
    assert leases.claim(waiting.pk) is None
    Run.objects.exclude(lease_until=None).update(lease_until=timezone.now() - timedelta(seconds=1))
    assert leases.claim(waiting.pk) is not None


@pytest.mark.django_db(transaction=True)
def test_two_who_claim_at_the_same_time_keep_to_the_limit(limited: Project) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite's memory database locks its tables between threads")
    from threading import Barrier, Thread

    module = publish(limited, SET)
    runs = [start(module) for _ in range(12)]
    barrier, claimed = Barrier(12), []

    def claim(run: Run) -> None:
        barrier.wait()
        try:
            if leases.claim(run.pk) is not None:
                claimed.append(run.pk)
        finally:
            connection.close()

    threads = [Thread(target=claim, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 2
