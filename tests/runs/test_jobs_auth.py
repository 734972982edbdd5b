"""Jobs that act with an auth session: for its owner, one run at a time where it is exclusive, and none once it is gone."""

from __future__ import annotations

from typing import Any

import pytest

from apps.lib import broker
from apps.runs import job_items, jobs, notices, starting
from apps.runs.models import JobRun, Run
from tests.connections.vaults import Vault, vault  # noqa: F401 - a fixture
from tests.runs import lab
from tests.runs.test_jobs import WAIT, World, body, counts, end_runs, fire, fresh, reason_of, states

ACTOR = lab.ACTOR


@pytest.fixture
def world(vault: Vault, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any) -> World:  # noqa: F811
    made = World(django_capture_on_commit_callbacks)
    monkeypatch.setattr(broker, "hand", made.hand)
    lab.publish(vault.cast.project, WAIT, name="wait")
    return made


def make(vault: Vault, count: int = 4, **more: Any) -> Any:  # noqa: F811
    payload = [{"apiName": "wait", "parameters": {}}] * count
    given = body(payload=payload, auth_session={"id": "u1"}, maxConcurrentRequests=2, **more)
    return jobs.create(vault.cast.project, given, ACTOR)


def test_the_runs_of_a_job_have_its_auth_session_and_are_for_its_owner(vault: Vault, world: World) -> None:  # noqa: F811
    vault.ready("u1")
    job_run = fire(world, make(vault))
    world.work()
    assert states(job_run) == ["started"] * 2 + ["pending"] * 2
    assert set(Run.objects.values_list("auth_session", "user_id")) == {("u1", "u1")}


def test_an_exclusive_session_has_one_run_at_a_time(vault: Vault, world: World) -> None:  # noqa: F811
    vault.put(sessions="exclusive")
    vault.ready("u1")
    job_run = fire(world, make(vault, 3))
    world.work()
    for done in range(3):
        assert states(job_run) == ["succeeded"] * done + ["started"] + ["pending"] * (2 - done)
        end_runs(world, job_run)
    assert counts(job_run) == ("SUCCESS", 3, 3, 0)


def test_items_wait_while_another_run_has_the_session_to_itself(vault: Vault, world: World) -> None:  # noqa: F811
    vault.put(sessions="exclusive")
    vault.ready("u1")
    with world.done():
        foreign = start_foreign(vault)
    job_run = fire(world, make(vault, 1))
    world.work()
    assert (counts(job_run), states(job_run)) == (("PENDING", 0, 0, 0), ["pending"])
    wake_at = fresh(job_run).wake_at
    with world.done():
        starting.cancel(lab.fresh(foreign), ACTOR)
    assert wake_at is not None
    with world.done():
        jobs.sweep(wake_at)
    assert states(job_run) == ["started"]


def test_items_that_wait_for_the_session_are_not_counted_as_calls(
    vault: Vault,  # noqa: F811
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vault.put(sessions="exclusive")
    vault.ready("u1")
    counted: list[Any] = []
    monkeypatch.setattr(job_items, "take_call", counted.append)
    job_run = fire(world, make(vault, 3))
    for _ in range(3):
        world.work()
        end_runs(world, job_run)
    assert counts(job_run) == ("SUCCESS", 3, 3, 0)
    assert len(counted) == 3


def start_foreign(vault: Vault) -> Run:  # noqa: F811
    from apps.modules.services import find_published
    from apps.runs import run_auth

    module = find_published(vault.cast.project, "wait")
    user_id, found = run_auth.options_for(vault.cast.project, None, {"id": "u1"})
    options = starting.Options(**found)
    return starting.start(module, {}, ACTOR, Run.Surface.RUNS, user_id=user_id, options=options)


def test_a_session_that_is_gone_fails_every_item_at_once_and_says_why(
    vault: Vault,  # noqa: F811
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[JobRun] = []
    monkeypatch.setattr(notices, "job_run_failed", lambda job_run, now: told.append(job_run))
    job_run = fire(world, make(vault, 500))
    world.work()
    row = fresh(job_run)
    assert (counts(job_run), reason_of(row)) == (("FAILURE", 0, 0, 500), "auth-session-not-found")
    assert set(job_run.items.values_list("error__code", flat=True)) == {"not-found"}
    assert len(told) == 1


def test_a_session_that_goes_away_meanwhile_fails_those_that_wait(vault: Vault, world: World) -> None:  # noqa: F811
    vault.ready("u1")
    job_run = fire(world, make(vault, 5))
    world.work()
    vault.switch(None)
    vault.cast.project.refresh_from_db()
    end_runs(world, job_run)
    assert counts(job_run) == ("FAILURE", 2, 2, 3)
    assert reason_of(fresh(job_run)) == "auth-session-invalid-mid-job"
