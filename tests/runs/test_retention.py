"""How long logs are kept: as the project says within its plan, else as the installation does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.utils import timezone
from pytest_django import DjangoDbBlocker, Settings

from apps.lib import vacuum
from apps.modules import apply, services
from apps.modules.models import Module, ModuleVersion
from apps.runs import retention as of_runs
from apps.runs import starting
from apps.runs.models import (
    Delivery,
    Execution,
    HumanTask,
    Job,
    JobItem,
    JobRun,
    Run,
    RunEvent,
    RunFile,
    RunSignal,
    TaskVote,
)
from apps.runs.tasks import forget_old
from apps.workspaces import retention
from apps.workspaces.models import EndUser, Plan, Project
from apps.workspaces.retention import day_after
from tests.cast import Cast
from tests.runs.lab import ACTOR, carry, publish, start


def old(project: Project, days: float) -> Execution:
    return Execution.objects.create(
        project=project, surface="integrations", toolkit="t", tool="T", successful=True,
        created_at=timezone.now() - timedelta(days=days),
    )  # fmt: skip


@pytest.mark.parametrize(("own", "kept"), [(None, {1, 5}), (3, {1}), (60, {1, 5, 40})])
def test_executions_go_after_their_days(cast: Cast, settings: Settings, own: int | None, kept: set[int]) -> None:
    settings.JACKFIELD_EXECUTION_DAYS = 30
    assert cast.api.patch("settings", {"retention": own}).json()["retention"] == own
    rows = {days: old(cast.project, days) for days in (1, 5, 40)}
    elsewhere = {days: old(cast.foreign_project, days) for days in (5, 40)}
    forget_old()
    assert {days for days, row in rows.items() if Execution.objects.filter(pk=row.pk).exists()} == kept
    assert Execution.objects.filter(pk=elsewhere[5].pk).exists()
    assert not Execution.objects.filter(pk=elsewhere[40].pk).exists()


@pytest.mark.parametrize("days", [0, -1, 4000, "soon", 1.5])
def test_an_odd_retention_is_refused(cast: Cast, days: object) -> None:
    answer = cast.api.patch("settings", {"retention": days})
    assert (answer.status_code, list(answer.json()["error"]["details"])) == (400, ["retention"])


def test_ended_runs_go_with_all_that_is_theirs_and_living_ones_stay(cast: Cast, settings: Settings) -> None:
    settings.JACKFIELD_EXECUTION_DAYS = 30
    module = publish(cast.project, [{"id": "one", "set": {"n": 1}}])
    runs = {name: start(module) for name in ("old", "child", "waits", "ended late", "new")}
    for name in ("old", "child", "ended late", "new"):
        carry(runs[name])
    assert RunEvent.objects.filter(run=runs["old"]).exists()
    long_ago = timezone.now() - timedelta(days=31)
    Run.objects.exclude(pk=runs["new"].pk).update(created_at=long_ago)
    Run.objects.exclude(pk__in=[runs["new"].pk, runs["ended late"].pk, runs["waits"].pk]).update(ended_at=long_ago)
    Run.objects.filter(pk=runs["child"].pk).update(parent=runs["old"].pk, root=runs["old"].pk)
    RunFile.objects.create(project=cast.project, run=runs["old"], name="a", content_type="b", size=1, content=b"c")
    assert forget_old() == 2
    left = set(Run.objects.values_list("pk", flat=True))
    assert left == {runs[name].pk for name in ("waits", "ended late", "new")}
    assert not RunEvent.objects.exclude(run__in=left).exists()
    assert not RunFile.objects.exists()


def test_drafts_tried_out_go_with_their_last_run_and_published_versions_stay(cast: Cast) -> None:
    module = publish(cast.project, [{"id": "one", "set": {"n": 1}}])
    tried = []
    for source in ("unread", "with a run", "last"):
        Module.objects.filter(pk=module.pk).update(source=source)
        module.refresh_from_db()
        tried.append(services.draft_version(module, ACTOR))
    start(module, version=tried[1])
    assert forget_old() == 0
    assert ModuleVersion.objects.filter(number=None).count() == 3  # of today
    for days, version in zip((5, 4, 3), tried, strict=True):
        ModuleVersion.objects.filter(pk=version.pk).update(created_at=timezone.now() - timedelta(days=days))
    forget_old()
    left = ModuleVersion.objects.filter(module=module)
    assert set(left.values_list("source", flat=True)) == {"with a run", "last", "{}"}


def test_a_deleted_module_goes_once_its_last_run_is_gone(cast: Cast) -> None:
    modules = {name: publish(cast.project, [{"id": "one", "set": {"n": 1}}], name) for name in "abcd"}
    start(modules["a"])
    for name in "abc":
        services.delete(modules[name], ACTOR)
    Module.objects.filter(name__in="ab").update(deleted_at=timezone.now() - timedelta(days=2))
    forget_old()
    assert set(Module.objects.values_list("name", flat=True)) == {"a", "c", "d"}
    Run.objects.all().delete()
    forget_old()
    assert set(Module.objects.values_list("name", flat=True)) == {"c", "d"}
    assert not ModuleVersion.objects.filter(module__name="a").exists()


@pytest.mark.parametrize(
    ("own", "planned", "days"),
    [
        (None, None, 30),
        (3, None, 3),
        (60, None, 60),
        (None, 7, 7),
        (None, 90, 90),
        (3, 7, 3),
        (60, 7, 7),
        (None, 0, 30),
    ],
)
def test_a_projects_days_count_within_its_plans(
    cast: Cast, settings: Settings, own: int | None, planned: int | None, days: int
) -> None:
    settings.JACKFIELD_EXECUTION_DAYS = 30
    old(cast.project, 0)  # with the days of before
    cast.workspace.plan.retention_days = planned
    cast.workspace.plan.save()
    cast.api.patch("settings", {"retention": own})
    row = old(cast.project, 0)
    assert row.forget_on == day_after(row.created_at, days)
    assert cast.project.pk in retention.projects_by_days()[days]


def test_fewer_days_count_for_what_is_there_already(cast: Cast) -> None:
    rows = {days: old(cast.project, days) for days in (1, 5, 20)}
    run = carry(start(publish(cast.project, [{"id": "one", "set": {"n": 1}}])))
    Run.objects.update(created_at=run.created_at - timedelta(days=6), ended_at=run.created_at - timedelta(days=5))
    forget_old()
    assert Execution.objects.count() == 3
    cast.api.patch("settings", {"retention": 4})
    assert forget_old() == 3
    assert list(Execution.objects.all()) == [rows[1]]
    assert not Run.objects.exists()
    assert not RunEvent.objects.exists()


def test_days_are_read_once_a_minute(cast: Cast, django_assert_num_queries: Any) -> None:
    retention.days_of(cast.project.pk)
    with django_assert_num_queries(0):
        retention.days_of(cast.project.pk)
    retention.forget_memory()
    with django_assert_num_queries(1):
        retention.days_of(cast.project.pk)


def test_a_run_stays_while_one_that_it_started_lives(cast: Cast) -> None:
    module = publish(cast.project, [{"id": "one", "set": {"n": 1}}])
    top, below = carry(start(module)), start(module)
    long_ago = timezone.now() - timedelta(days=31)
    Run.objects.filter(pk=below.pk).update(parent=top.pk, root=top.pk, created_at=long_ago)
    Run.objects.filter(pk=top.pk).update(created_at=long_ago, ended_at=long_ago)
    assert forget_old() == 0
    Run.objects.filter(pk=below.pk).update(status="cancelled", ended_at=long_ago)
    assert forget_old() == 2


def test_a_runs_trace_and_files_stay_for_as_long_as_its_row(cast: Cast) -> None:
    """Of one above a run that lives, and of one below a run that ended later."""
    module = publish(cast.project, [{"id": "one", "set": {"n": 1}}])
    top, living, late, child = (start(module) for _ in range(4))
    for run in (top, late, child):
        carry(run)
    Run.objects.filter(pk=living.pk).update(parent=top.pk, root=top.pk)
    Run.objects.filter(pk=child.pk).update(parent=late.pk, root=late.pk)
    for run in (top, late, child):
        RunFile.objects.create(project=cast.project, run=run, name="a", content_type="b", size=1, content=b"c")
    long_ago = timezone.now() - timedelta(days=35)
    Run.objects.update(created_at=long_ago, forget_on=retention.today())
    Run.objects.exclude(pk=living.pk).update(ended_at=long_ago)
    Run.objects.filter(pk=late.pk).update(ended_at=timezone.now() - timedelta(days=9))
    for model in (RunEvent, RunFile):
        model._default_manager.update(forget_on=retention.today())
    events = RunEvent.objects.count()
    assert forget_old() == 0
    assert (RunEvent.objects.count(), RunFile.objects.count()) == (events, 3)
    days = dict(Run.objects.values_list("pk", "forget_on"))
    assert days[child.pk] == days[late.pk] == day_after(timezone.now() - timedelta(days=9), 30)
    assert days[living.pk] == days[top.pk] == day_after(timezone.now(), 30)
    for model in (RunEvent, RunFile):
        assert {(row.run_id, row.forget_on) for row in model._default_manager.all()} <= set(days.items())


def test_a_file_stored_while_its_run_was_put_off_goes_with_it(cast: Cast) -> None:
    run = carry(start(publish(cast.project, [{"id": "one", "set": {"n": 1}}])))
    file = RunFile.objects.create(project=cast.project, run=run, name="a", content_type="b", size=1, content=b"c")
    RunFile.objects.filter(pk=file.pk).update(forget_on=retention.today())
    forget_old()
    assert RunFile.objects.get().forget_on == run.forget_on


def test_no_failed_run_goes_on_once_its_day_has_come(cast: Cast) -> None:
    run = carry(start(publish(cast.project, [{"id": "one", "set": {"n": "{{ 1 / 0 }}"}}])))
    assert run.status == Run.Status.FATAL_ERRORED
    Run.objects.filter(pk=run.pk).update(forget_on=retention.today())
    assert starting.retry(run, ACTOR) is False
    Run.objects.filter(pk=run.pk).update(forget_on=retention.today() + timedelta(days=1))
    assert starting.retry(run, ACTOR) is True


def test_no_transaction_deletes_more_than_some_events_or_items(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_runs, "ROWS", 10)
    long_ago = timezone.now() - timedelta(days=31)
    module = publish(cast.project, [{"id": "one", "set": {"n": 1}}])
    for size in (30, 4, 4, 4):
        Run.objects.filter(pk=carry(start(module)).pk).update(events_count=size)
    Run.objects.update(created_at=long_ago, ended_at=long_ago)
    job = Job.objects.create(project=cast.project, name="j")
    for size in (30, 4, 4, 4):
        JobRun.objects.create(
            job=job, project=cast.project, workspace=cast.workspace, type="MANUAL", status="SUCCESS", payloads=size,
            created_at=long_ago, ended_at=long_ago,
        )  # fmt: skip
    times: dict[Any, list[int]] = {}

    def counted(rows: Any) -> int:
        gone = delete(rows)
        times.setdefault(rows.model, []).append(gone)
        return gone

    delete = of_runs._delete
    monkeypatch.setattr(of_runs, "_delete", counted)
    assert forget_old() == 4
    assert sum(times[Run]) == sum(times[JobRun]) == 4
    assert max(times[Run]) == max(times[JobRun]) == 2


def test_what_was_written_while_its_project_was_deleted_goes(cast: Cast) -> None:
    if connection.vendor == "postgresql":
        pytest.skip("there it goes on its day, with its partition")
    row = old(cast.project, 0)
    Execution.objects.filter(pk=row.pk).update(project="gone")
    kept = old(cast.project, 0)
    assert forget_old() == 1
    assert list(Execution.objects.all()) == [kept]


def test_a_purged_end_users_runs_go_with_all_that_is_theirs(cast: Cast) -> None:
    EndUser.objects.create(project=cast.project, external_id="u1")
    ask: dict[str, Any] = {"id": "ask", "form": {"title": "Q", "fields": [{"name": "a", "label": "A"}]}}
    modules = publish(cast.project, [{"id": "one", "set": {"n": 1}}], "a"), publish(cast.project, [ask], "b")
    ended, living = (carry(start(module, user_id="u1")) for module in modules)
    Run.objects.filter(pk=start(modules[0], user_id="u1").pk).update(parent=living, root=living)
    kept = carry(start(modules[1], user_id="u2"))
    for run in (ended, kept):
        RunFile.objects.create(project=cast.project, run=run, name="a", content_type="b", size=1, content=b"c")
        Delivery.objects.create(
            project=cast.project, run_id=run.pk, api="a", kind="webhook", target="t", host="h", sink="", body="{}",
            ends_at=timezone.now(),
        )  # fmt: skip
    assert living.status == Run.Status.WAITING_FOR_INPUT
    assert cast.api.delete("end-users/u1").status_code == 204
    assert list(Run.objects.all()) == [kept]
    assert not Run.objects.get().has_ended
    for model in (RunEvent, RunFile, HumanTask):
        assert set(model._default_manager.values_list("run_id", flat=True)) == {kept.pk}
    assert Delivery.objects.get().run_id == kept.pk


def test_questions_votes_and_events_go_with_their_run(cast: Cast) -> None:
    run = carry(start(publish(cast.project, [{"id": "one", "set": {"n": 1}}])))
    task = HumanTask.objects.create(project=cast.project, run=run, root=run, key="a", kind="form", title="A")
    TaskVote.objects.create(task=task, voter="a", approved=True)
    RunSignal.objects.create(run=run, name="a")
    RunFile.objects.create(project=cast.project, run=run, name="a", content_type="b", size=1, content=b"c")
    long_ago = timezone.now() - timedelta(days=31)
    Run.objects.update(created_at=long_ago, ended_at=long_ago)
    assert forget_old() == 1
    for model in (HumanTask, TaskVote, RunSignal, RunFile, RunEvent):
        assert not model._default_manager.exists()


def test_who_is_killed_between_statements_has_deleted_nothing(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    run = carry(start(publish(cast.project, [{"id": "one", "set": {"n": 1}}])))
    long_ago = timezone.now() - timedelta(days=31)
    Run.objects.update(created_at=long_ago, ended_at=long_ago)
    events = run.events.count()

    def die(rows: Any) -> int:
        if rows.model is Run:
            raise KeyboardInterrupt
        return delete(rows)

    delete = of_runs._delete
    with monkeypatch.context() as patched:
        patched.setattr(of_runs, "_delete", die)
        with pytest.raises(KeyboardInterrupt):
            forget_old()
    assert run.events.count() == events
    assert forget_old() == 1


def test_ended_job_runs_and_deleted_jobs_go_and_others_stay(cast: Cast) -> None:
    long_ago = timezone.now() - timedelta(days=31)
    jobs = {name: Job.objects.create(project=cast.project, name=name, deleted_at=deleted)
            for name, deleted in (("deleted", long_ago), ("kept", None))}  # fmt: skip
    for job in jobs.values():
        for status, ended in (("SUCCESS", long_ago), ("PENDING", None)):
            if job.deleted_at is not None and ended is None:
                continue
            job_run = JobRun.objects.create(
                job=job, project=cast.project, workspace=cast.workspace, type="MANUAL", status=status,
                created_at=long_ago, ended_at=ended,
            )  # fmt: skip
            JobItem.objects.create(job_run=job_run, number=0, api="a")
    forget_old()
    assert list(Job.objects.all()) == [jobs["kept"]]
    assert list(JobRun.objects.values_list("status", flat=True)) == ["PENDING"]
    assert JobItem.objects.get().job_run.status == "PENDING"


@pytest.mark.parametrize(("status", "left"), [("pending", 1), ("delivered", 0), ("dead", 0)])
def test_a_delivery_stays_while_it_is_tried(cast: Cast, status: str, left: int) -> None:
    long_ago = timezone.now() - timedelta(days=40)
    Delivery.objects.create(
        project=cast.project, run_id="r", api="a", kind="webhook", target="t", host="h", sink="", body="{}",
        status=status, ends_at=long_ago, created_at=long_ago,
    )  # fmt: skip
    forget_old()
    assert Delivery.objects.count() == left


def test_a_projects_file_sets_its_plans_days(cast: Cast, tmp_path: Path) -> None:
    file = tmp_path / "project.yaml"
    head = f"workspace: {cast.workspace.name}\nproject: {cast.project.name}\n"
    file.write_text(f"{head}plan: {{name: Kept, retention_days: 90, audit_days: 730}}\n")
    apply.apply(apply.load(file))
    plan = Plan.objects.get(name="Kept")
    assert (plan.retention_days, plan.audit_days) == (90, 730)
    assert retention.days_of(cast.project.pk) == 90
    assert retention.audit_days_of(cast.workspace.pk) == 730
    file.write_text(f"{head}plan: {{name: Kept, retention_days: 0}}\n")
    with pytest.raises(apply.Faults, match="retention_days"):
        apply.apply(apply.load(file))


# -- SQLite's file -----------------------------------------------------------------------------------------------------
@pytest.fixture
def file(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    """A database of its own, as the settings make one, in place of the default connection's."""
    from config import settings as ours

    path = tmp_path / "jackfield.sqlite3"
    options = {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command": ours.SQLITE_START}
    own = DatabaseWrapper(
        {**connections["default"].settings_dict, "ENGINE": "django.db.backends.sqlite3", "NAME": str(path),
         "OPTIONS": options, "TEST": {}, "CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False}, "default",
    )  # fmt: skip
    before = connections["default"]
    connections["default"] = own
    own.inc_thread_sharing()
    try:
        with django_db_blocker.unblock():
            yield path
    finally:
        own.close()
        connections["default"] = before


def fill_and_empty(megabytes: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE log (id integer primary key, text text)")
        cursor.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %s) "
            "INSERT INTO log (text) SELECT hex(randomblob(5000)) FROM n",
            [megabytes * 100],
        )
        cursor.execute("DELETE FROM log")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def test_a_file_of_sqlites_becomes_shorter_when_rows_are_deleted(file: Path) -> None:
    fill_and_empty(30)
    before = file.stat().st_size
    assert before > 30_000_000
    assert vacuum.give_back() > 7000
    assert file.stat().st_size < before / 20
    assert vacuum.give_back() == 0


def test_a_file_of_before_is_converted_by_a_command(file: Path) -> None:
    connection.settings_dict["OPTIONS"]["init_command"] = "PRAGMA journal_mode=WAL"
    fill_and_empty(10)
    connection.close()
    connection.settings_dict["OPTIONS"]["init_command"] = "PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL"
    assert vacuum.give_back() == 0
    output = StringIO()
    call_command("shrink_database", stdout=output)
    assert file.stat().st_size < 1_000_000
    assert f"{file.stat().st_size:,}" in output.getvalue()
    fill = file.stat().st_size
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE log")
    fill_and_empty(10)
    assert vacuum.give_back() > 2000
    assert file.stat().st_size < fill + 1_000_000


def test_the_command_is_for_sqlite(db: None) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("it is")
    with pytest.raises(CommandError, match="SQLite"):
        call_command("shrink_database")
