"""Logs in partitions: on PostgreSQL what is past goes by dropping tables; what a partition does not tell goes in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, models, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from apps.lib import partitions
from apps.lib.db import insert_many
from apps.lib.partitions import UNKNOWN
from apps.lib.schema import AddIndexOnline
from apps.runs import retention
from apps.runs.models import Delivery, Execution, HumanTask, Run, RunEvent, RunFile, RunSignal, TaskVote
from apps.runs.tasks import forget_old
from apps.workspaces.models import AuditEvent, Project, WebhookDelivery
from apps.workspaces.retention import AHEAD, day_after, kept_since, prepare, today
from tests.cast import Cast, make_cast
from tests.runs.lab import carry, publish, start

TABLE = "runs_execution"
LOGS = (Execution, RunEvent, RunFile, Delivery, AuditEvent, WebhookDelivery)
MILLION = 1_000_000
DAY = timedelta(days=1)

pytestmark = pytest.mark.django_db
LONG = 5.0  # seconds: on an idle machine they are hundredths, among the other tests on two cores more than one


@pytest.fixture(autouse=True)
def _postgresql() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no partitions")


@pytest.fixture
def committed(transactional_db: None) -> Iterator[Cast]:
    """The cast for what several sessions see. Partitions that a test made are taken away again."""
    before = {model._meta.db_table: set(partitions.children(model._meta.db_table)) for model in LOGS}
    yield make_cast()
    for table, there in before.items():
        for name in set(partitions.children(table)) - there:
            ask(f'DROP TABLE "{name}"')


def ask(sql: str, *values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall()) if cursor.description else []


def old(project: Project, days: float, forget_on: date | None = None) -> Execution:
    row = Execution.objects.create(
        project=project, surface="integrations", toolkit="t", tool="T", successful=True,
        created_at=timezone.now() - timedelta(days=days),
    )  # fmt: skip
    if forget_on is not None:
        Execution.objects.filter(pk=row.pk).update(forget_on=forget_on)
    return row


def place(model: Any, pk: Any) -> str:
    """The partition in which a row lies."""
    found = ask(f"SELECT tableoid::regclass::text FROM {model._meta.db_table} WHERE id = %s", pk)
    return str(found[0][0]) if found else ""


def fill(project: Project, rows: int, day: date) -> None:
    ask(
        "INSERT INTO runs_execution (id, project_id, surface, caller, user_id, connection_id, toolkit, tool, successful, "
        "error, message, method, url, request, response, duration_ms, upstream_ms, tries, request_id, created_at, forget_on) "
        "SELECT 'm' || n, %s, 'proxy', '', '', '', 't', 'T', true, '', '', 'GET', '', '', repeat('x', 60), 0, 0, 1, '', "
        "%s::date + n * interval '80 milliseconds', %s FROM generate_series(1, %s) AS n",
        project.pk, day - timedelta(days=31), day, rows,
    )  # fmt: skip


def disk() -> int:
    return int(ask("SELECT pg_database_size(current_database())")[0][0])


class Others(threading.Thread):
    """Somebody who goes on writing and reading the log meanwhile, and measures how long that takes."""

    def __init__(self, project: Project) -> None:
        super().__init__(daemon=True)
        self.project, self.done, self.fault = project, threading.Event(), ""
        self.waits: list[float] = []

    def run(self) -> None:
        with closing(connection):
            try:
                while not self.done.is_set():
                    began = time.monotonic()
                    pk = old(self.project, 0).pk
                    assert list(Execution.objects.filter(project=self.project).order_by("-created_at", "-id")[:5])
                    assert Execution.objects.filter(pk=pk).exists()
                    self.waits.append(time.monotonic() - began)
            except Exception as error:
                self.fault = repr(error)

    def __enter__(self) -> Others:
        self.start()
        while not self.waits and not self.fault:
            time.sleep(0.01)
        return self

    def __exit__(self, *args: object) -> None:
        self.done.set()
        self.join(10)
        assert self.fault == ""


@contextmanager
def session() -> Iterator[Any]:
    """A connection beside Django's."""
    other = connection.copy()
    try:
        other.connect()
        yield other
    finally:
        other.close()


def in_threads(number: int, function: Callable[[], Any]) -> list[Any]:
    results: list[Any] = []

    def run() -> None:
        with closing(connection):
            results.append(function())

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == number
    return results


# -- A million rows ----------------------------------------------------------------------------------------------------
def test_a_million_old_rows_go_at_once_and_nobody_waits_and_the_disk_is_free(committed: Cast) -> None:
    day = today() - 2 * DAY
    partitions.cover(TABLE, [day], today())
    prepare(Execution, [30])
    fill(committed.project, MILLION, day)
    big = partitions.parts(TABLE)[0].name
    ask(f"ANALYZE {big}")
    newest = Execution.objects.filter(project=committed.project).order_by("-created_at", "-id")[:50]
    plan = newest.explain()
    assert f"on {big} " in plan
    assert f"Seq Scan on {big}" not in plan
    before = disk()
    with Others(committed.project) as others:
        began = time.monotonic()
        assert retention.forget_old() == 0
        took = time.monotonic() - began
        time.sleep(0.2)
    assert big not in partitions.children(TABLE)
    assert before - disk() > 200_000_000
    assert max(others.waits) < LONG
    assert Execution.objects.filter(project=committed.project).count() == len(others.waits)
    print(
        f"\n{MILLION:,} rows, {(before - disk()) / 1e6:.0f} MB: {took:.2f} s; others at most {max(others.waits):.3f} s"
    )


def test_who_reads_for_long_is_not_disturbed_and_disturbs_nobody(committed: Cast) -> None:
    day = today() - DAY
    partitions.cover(TABLE, [day], today())
    prepare(Execution, [30])
    row = old(committed.project, 3, forget_on=day)
    with session() as other, other.cursor() as reader:
        other.set_autocommit(False)
        reader.execute("SELECT count(*) FROM runs_execution")
        with Others(committed.project) as others:
            assert partitions.drop_past(TABLE, today()) == 0
        assert max(others.waits) < LONG
        other.rollback()
    assert Execution.objects.filter(pk=row.pk).exists()
    assert partitions.drop_past(TABLE, today()) == 1
    assert not Execution.objects.filter(pk=row.pk).exists()


def test_two_at_once_do_it_once(committed: Cast) -> None:
    for back in (1, 2, 3):
        partitions.cover(TABLE, [today() - back * DAY], today())
        old(committed.project, 40, forget_on=today() - back * DAY)
    for _ in range(50):
        old(committed.project, 40, forget_on=UNKNOWN)
    in_threads(2, retention.forget_old)
    retention.forget_old()
    assert not Execution.objects.exists()
    assert [part.name for part in partitions.parts(TABLE) if part.end <= today()] == []


def test_one_who_is_killed_leaves_it_whole(committed: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    day = today() - DAY
    partitions.cover(TABLE, [day], today())
    row = old(committed.project, 3, forget_on=day)

    def die(part: partitions.Part) -> None:
        drop(part)
        ask("SELECT pg_terminate_backend(pg_backend_pid())")

    drop = partitions._drop
    with monkeypatch.context() as patched:
        patched.setattr(partitions, "_drop", die)
        patched.setattr(partitions, "TRIES", 1)
        partitions.drop_past(TABLE, today())
    connection.close()
    assert place(Execution, row.pk).startswith(f"{TABLE}_p")
    assert partitions.drop_past(TABLE, today()) == 1


# -- Where rows lie ----------------------------------------------------------------------------------------------------
def test_rows_lie_by_the_day_on_which_they_may_go(cast: Cast) -> None:
    cast.api.patch("settings", {"retention": 7})
    prepare(Execution, [7, 30])
    mine, foreign = old(cast.project, 0), old(cast.foreign_project, 0)
    assert mine.forget_on == today() + 8 * DAY
    assert foreign.forget_on == today() + 31 * DAY
    parts = {part.name: part for part in partitions.parts(TABLE)}
    for row in (mine, foreign):
        part = parts[place(Execution, row.pk)]
        assert part.first <= row.forget_on < part.end
    assert parts[place(Execution, mine.pk)].end <= today() + 9 * DAY


def test_what_a_batch_writes_twice_is_there_once(cast: Cast) -> None:
    prepare(Execution, [30])
    row = Execution(
        project=cast.project, surface="proxy", toolkit="t", tool="T", successful=True, integration_id="",
        forget_on=today() + 31 * DAY,
    )  # fmt: skip
    insert_many(Execution, [row])
    insert_many(Execution, [row])
    assert Execution.objects.count() == 1


def test_a_day_without_a_partition_waits_in_the_rest_and_moves_when_it_has_one(cast: Cast) -> None:
    row = old(cast.project, 0, forget_on=today() + 300 * DAY)
    assert place(Execution, row.pk) == "runs_execution_rest"
    assert partitions.cover(TABLE, [today() + 300 * DAY], today()) == 1
    assert place(Execution, row.pk).startswith("runs_execution_p")
    assert partitions.cover(TABLE, [today() + 300 * DAY], today()) == 0


def test_a_day_that_is_being_written_gets_its_partition_and_no_writer_fails(committed: Cast) -> None:
    """As where a plan's days were changed, or nobody made partitions for weeks."""
    with Others(committed.project) as others, Others(committed.project):
        for back in range(4):
            time.sleep(0.1)
            assert partitions.cover(TABLE, [today() + (31 + back) * DAY], today()) >= 0
            if back == 1:
                ask("DELETE FROM runs_execution_rest")
    assert ask("SELECT count(*) FROM runs_execution_rest WHERE forget_on = %s", today() + 31 * DAY) == [(0,)]
    assert max(others.waits) < LONG


def test_a_rest_that_takes_long_to_look_through_gets_more_time_and_then_the_next_day_its_turn(
    committed: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [today() + ahead * DAY for ahead in (50, 60, 70)]
    rows = [old(committed.project, 0, forget_on=day) for day in days]
    times = []
    with monkeypatch.context() as patched:
        patched.setattr(partitions, "PAUSE", 0)
        make = partitions._make

        def slowly(table: str, part: partitions.Part) -> None:
            times.append(int(ask("SELECT setting FROM pg_settings WHERE name = 'statement_timeout'")[0][0]))
            if part.first <= days[0] < part.end or times[-1] < 1000:
                ask("SELECT pg_sleep(30)")
            make(table, part)

        patched.setattr(partitions, "WORK_MS", 40)
        patched.setattr(partitions, "LONGEST_MS", 1100)
        patched.setattr(partitions, "_make", slowly)
        assert partitions.cover(TABLE, days, today()) == 2
    assert times == [40, 160, 640, 1100, 1100, 40, 160, 640, 1100, 40, 160, 640, 1100]
    assert [place(Execution, row.pk) == "runs_execution_rest" for row in rows] == [True, False, False]


def test_what_lies_in_the_rest_goes_on_its_day(cast: Cast) -> None:
    gone, stays = (old(cast.project, 0, forget_on=today() + ahead * DAY) for ahead in (0, 1))
    assert {place(Execution, row.pk) for row in (gone, stays)} == {"runs_execution_rest"}
    assert retention.forget_old() == 1
    assert list(Execution.objects.all()) == [stays]


def test_rows_of_an_earlier_version_go_by_their_age(cast: Cast) -> None:
    cast.api.patch("settings", {"retention": 10})
    rows = {(project.pk, days): old(project, days, forget_on=UNKNOWN)
            for project in (cast.project, cast.foreign_project) for days in (5, 20, 40)}  # fmt: skip
    assert {place(Execution, row.pk) for row in rows.values()} == {"runs_execution_past"}
    assert forget_old() == 3
    assert set(Execution.objects.values_list("pk", flat=True)) == {
        rows[cast.project.pk, 5].pk, rows[cast.foreign_project.pk, 5].pk, rows[cast.foreign_project.pk, 20].pk,
    }  # fmt: skip


def test_in_a_wide_partition_nothing_stays_for_more_than_a_week(cast: Cast) -> None:
    partitions.cover(TABLE, [today() + 500 * DAY], today())
    part = partitions.parts(TABLE)[-1]
    assert (part.end - part.first).days == 28
    ask(f'ALTER TABLE {TABLE} DETACH PARTITION "{part.name}"')
    first = today() - 10 * DAY
    bounds = f"FROM ('{first}') TO ('{first + 28 * DAY}')"
    ask(f'ALTER TABLE {TABLE} ATTACH PARTITION "{part.name}" FOR VALUES {bounds}')
    rows = [old(cast.project, 1, forget_on=today() - days * DAY) for days in (8, 7, 6, 0)]
    retention.forget_old()
    assert set(Execution.objects.values_list("pk", flat=True)) == {row.pk for row in rows[2:]}


@pytest.mark.parametrize("days", [1, 7, 30, 90, 365, 3650])
def test_partitions_are_few_and_cover_what_is_written_for_weeks(cast: Cast, days: int) -> None:
    prepare(Execution, [days])
    parts = partitions.parts(TABLE)
    for ahead in range(AHEAD + 1):
        day = today() + (days + 1 + ahead) * DAY
        assert sum(part.first <= day < part.end for part in parts) == 1
    assert all(one.end <= two.first for one, two in pairwise(parts))
    steady = [partitions.width(ahead) for ahead in range(1, days + 8)]
    assert sum(1 / width for width in steady) < 210


# -- Runs --------------------------------------------------------------------------------------------------------------
def test_an_events_day_is_its_runs(cast: Cast) -> None:
    module = publish(cast.project, [{"id": "one", "set": {"n": 1}}])
    run = carry(start(module))
    assert run.forget_on == today() + 31 * DAY
    assert set(run.events.values_list("forget_on", flat=True)) == {run.forget_on}


def test_a_run_that_lives_on_takes_its_events_and_files_along(cast: Cast) -> None:
    module = publish(cast.project, [{"id": "ask", "form": {"title": "Q", "fields": [{"name": "a", "label": "A"}]}}])
    run = carry(start(module))
    RunFile.objects.create(project=cast.project, run=run, name="a", content_type="b", size=1, content=b"c")
    for model, where in ((Run, {"pk": run.pk}), (RunEvent, {"run": run}), (RunFile, {"run": run})):
        model._default_manager.filter(**where).update(forget_on=today())
    retention.forget_old()
    run.refresh_from_db()
    assert run.forget_on == today() + 31 * DAY
    assert set(run.events.values_list("forget_on", flat=True)) == {run.forget_on}
    assert RunFile.objects.get().forget_on == run.forget_on


def test_a_run_is_kept_from_its_end_on(cast: Cast) -> None:
    run = carry(start(publish(cast.project, [{"id": "one", "set": {"n": 1}}])))
    ended = timezone.now() - timedelta(days=10)
    Run.objects.filter(pk=run.pk).update(
        created_at=timezone.now() - timedelta(days=31), ended_at=ended, forget_on=today() + DAY
    )
    retention.forget_old()
    run.refresh_from_db()
    assert run.forget_on == day_after(ended, 30)


def test_the_space_of_old_runs_is_used_again_and_no_statement_is_long(committed: Cast) -> None:
    """Runs are one table: what its old rows leave goes to the next rows, not to the disk."""
    number = 20_000
    module = publish(committed.project, [{"id": "one", "set": {"n": 1}}])
    fill_runs(carry(start(module)), "a", number)
    ask("VACUUM (ANALYZE) runs_run")
    full, waits = size_of_runs(), []

    def timed(execute: Any, *arguments: Any) -> Any:
        began = time.monotonic()
        try:
            return execute(*arguments)
        finally:
            waits.append(time.monotonic() - began)

    with Others(committed.project) as others, connection.execute_wrapper(timed):
        assert retention.forget_old() == number
    assert max(waits) < LONG
    assert max(others.waits) < LONG
    ask("VACUUM (ANALYZE) runs_run")
    fill_runs(Run.objects.get(), "b", number)
    assert size_of_runs() < full * 1.25
    print(f"\n{number:,} runs, {full / 1e6:.0f} MB: no statement longer than {max(waits):.3f} s")


def fill_runs(like: Run, mark: str, number: int) -> None:
    """Ended runs of forty days ago, with results of 5 KB that cannot be compressed."""
    new = {"id": "%s || n", "session_id": "%s || n", "created_at": "now() - interval '40 days'",
           "ended_at": "now() - interval '40 days'", "forget_on": "CURRENT_DATE - 9",
           "result": "(SELECT to_jsonb(string_agg(md5(n::text || i), '')) FROM generate_series(1, 160) AS i)"}  # fmt: skip
    columns = [str(field.column) for field in Run._meta.concrete_fields]
    values = ", ".join(new.get(column) or f"run.{column}" for column in columns)
    ask(
        f"INSERT INTO runs_run ({', '.join(columns)}) SELECT {values} FROM runs_run AS run, generate_series(1, %s) AS n "
        "WHERE run.id = %s",
        mark, mark, number, like.pk,
    )  # fmt: skip


def size_of_runs() -> int:
    return int(ask("SELECT pg_total_relation_size('runs_run')")[0][0])


def test_a_late_writer_finds_the_day_that_its_run_was_put_off_to(committed: Cast) -> None:
    """Also where its copy of the run is from before."""
    from apps.runs import history, leases
    from apps.runs.engine.events import Event

    run = start(publish(committed.project, [{"id": "one", "set": {"n": 1}}]))
    mine = leases.claim(run.pk)
    assert mine is not None
    later = today() + 60 * DAY
    Run.objects.filter(pk=run.pk).update(forget_on=later)
    assert history.keep(mine, {"events_count": 1}, [Event("started", timezone.now(), "", {})], {})
    assert RunEvent.objects.get(run=run).forget_on == later


def test_all_that_refers_to_a_run_goes_with_it() -> None:
    """A new table that refers to runs must be named in `apps.runs.retention`."""
    known = {RunEvent, RunFile, RunSignal, HumanTask, Run}
    assert {relation.related_model for relation in Run._meta.related_objects} == known
    assert {relation.related_model for relation in HumanTask._meta.related_objects} == {TaskVote}


def test_no_foreign_key_leads_into_a_table_with_partitions() -> None:
    """PostgreSQL would want a key of the id alone, and a scan of what refers to a partition that is dropped."""
    for model in LOGS:
        table = model._meta.db_table
        assert partitions.is_partitioned(table)
        keys = ask("SELECT 1 FROM pg_constraint WHERE contype = 'f' AND %s::regclass IN (confrelid, conrelid)", table)
        assert keys == [], table


# -- Deliveries, audit -------------------------------------------------------------------------------------------------
def test_the_audit_log_is_kept_by_the_plans_days(cast: Cast) -> None:
    plan = cast.workspace.plan
    plan.audit_days = 10
    plan.save()
    foreign = cast.foreign_project.workspace
    AuditEvent.objects.all().delete()
    for workspace in (cast.workspace, foreign, None):
        for days in (5, 20, 400):
            event = AuditEvent.objects.create(workspace=workspace, actor="a", action="b.c", target=str(days))
            AuditEvent.objects.filter(pk=event.pk).update(
                created_at=timezone.now() - timedelta(days=days), forget_on=UNKNOWN
            )
    mine = 10 if foreign.plan_id == plan.pk else 365
    retention.forget_old()
    left = {(row.workspace_id, row.target) for row in AuditEvent.objects.all()}
    assert left == {(cast.workspace.pk, "5"), (foreign.pk, "5"), (None, "5"), (None, "20")} | (
        {(foreign.pk, "20")} if mine == 365 else set()
    )


# -- Migrations --------------------------------------------------------------------------------------------------------
def migrate(*targets: tuple[str, str]) -> None:
    executor = MigrationExecutor(connection)
    executor.migrate(list(targets) or [node for node in executor.loader.graph.leaf_nodes() if node[0] in APPS])


APPS = ("runs", "workspaces")


def test_tables_turn_and_turn_back_with_what_they_hold(committed: Cast) -> None:
    run = carry(start(publish(committed.project, [{"id": "one", "set": {"n": 1}}])))
    rows = {old(committed.project, days).pk for days in (0, 1, 2)}
    events, last = run.events.count(), run.events.order_by("-pk")[0].pk
    try:
        migrate(("runs", "0006_index_of_job_runs"))
        migrate(("workspaces", "0005_notice_mails"))
        assert {pk for (pk,) in ask("SELECT id FROM runs_execution")} == rows
        assert not partitions.is_partitioned(TABLE)
        # An earlier version writes on.
        ask(
            "INSERT INTO runs_runevent (run_id, number, kind, key, data, at) VALUES (%s, 90, 'x', '', '{}', now())",
            run.pk,
        )
        ((new,),) = ask("SELECT id FROM runs_runevent WHERE number = 90")
        assert new == last + 1
        with pytest.raises(IntegrityError, match="foreign key"):
            ask("UPDATE runs_execution SET project_id = 'nobody'")
    finally:
        migrate()
    assert set(Execution.objects.values_list("pk", flat=True)) == rows
    assert {place(Execution, pk) for pk in rows} == {"runs_execution_past"}
    added = RunEvent.objects.create(run=run, number=91, kind="x", at=timezone.now())
    assert added.pk == new + 1
    assert RunEvent.objects.filter(run=run).count() == events + 2
    assert AuditEvent.objects.exists()


def test_an_index_is_added_to_each_partition_while_others_write(committed: Cast) -> None:
    prepare(Execution, [30])
    operation = AddIndexOnline("execution", models.Index(fields=["user_id"], name="execution_of_user"))
    state = MigrationExecutor(connection).loader.project_state()
    after = state.clone()
    operation.state_forwards("runs", after)
    try:
        with Others(committed.project) as others, connection.schema_editor(atomic=False) as editor:
            operation.database_forwards("runs", editor, state, after)
        assert max(others.waits) < LONG
        ((valid,),) = ask("SELECT indisvalid FROM pg_index WHERE indexrelid = 'execution_of_user'::regclass")
        assert valid
        fresh = today() + 200 * DAY
        partitions.cover(TABLE, [fresh], today())
    finally:
        with connection.schema_editor(atomic=False) as editor:
            operation.database_backwards("runs", editor, after, state)
    assert ask("SELECT to_regclass('execution_of_user')") == [(None,)]


def test_who_is_kept_waiting_gives_up_and_leaves_settings_as_they_were(committed: Cast) -> None:
    with session() as other, other.cursor() as holder:
        other.set_autocommit(False)
        holder.execute("LOCK TABLE runs_execution IN ACCESS SHARE MODE")
        with pytest.raises(OperationalError), transaction.atomic(), partitions.bounded(50, 900):
            ask("LOCK TABLE runs_execution IN ACCESS EXCLUSIVE MODE")
        other.rollback()
    with transaction.atomic():
        with partitions.bounded(50, 900):
            assert ask("SHOW lock_timeout") == [("50ms",)]
        assert ask("SHOW lock_timeout") == [("0",)]


def test_a_days_rows_are_kept_to_its_end() -> None:
    now = timezone.now()
    for days in (1, 30):
        assert day_after(now, days) == today() + (days + 1) * DAY
        assert kept_since(days, day_after(now, days)) > now >= kept_since(days, day_after(now, days) - DAY)
