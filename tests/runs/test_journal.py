"""The execution log's writer: batches, a bounded memory, no row lost to a busy database, no secret kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connection
from django.utils import timezone

from apps.connections.models import Connection
from apps.lib import http
from apps.lib.redact import MASK
from apps.runs import journal as module
from apps.runs.calls import logged_answer as _logged_answer
from apps.runs.journal import Journal, journal
from apps.runs.models import Execution
from apps.runs.services import decode
from apps.workspaces.models import ApiKey, Project
from tests.api.shop import Shop
from tests.cast import Cast


def row(project: Project, number: int = 0, **fields: Any) -> Execution:
    values = {"toolkit": "lab", "tool": f"T{number}", "successful": True, "surface": "integrations"} | fields
    return Execution(project=project, created_at=timezone.now(), **values)


@pytest.fixture
def fresh(cast: Cast) -> Journal:
    return Journal()


def names() -> list[str]:
    return sorted(Execution.objects.values_list("tool", flat=True))


def test_rows_wait_until_they_are_flushed(cast: Cast, fresh: Journal) -> None:
    fresh.add(row(cast.project))
    assert names() == []
    fresh.flush()
    assert names() == ["T0"]
    fresh.flush()
    assert names() == ["T0"]


def test_stopping_writes_the_rest(cast: Cast, fresh: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "close", lambda: None)  # the test's own transaction must stay
    fresh.add(row(cast.project))
    fresh.stop()
    assert names() == ["T0"]


def test_last_uses_are_written_and_never_turned_back(shop: Shop, fresh: Journal) -> None:
    key = ApiKey.objects.get(digest=ApiKey.digest_of(shop.cast.key))
    fresh.add(row(shop.cast.project, connection_id=shop.connection.pk))
    fresh.note_key(key.pk)
    fresh.flush()
    used = Connection.objects.get(pk=shop.connection.pk).last_used_at
    assert used is not None
    assert ApiKey.objects.get(pk=key.pk).last_used_at is not None
    late = row(shop.cast.project, connection_id=shop.connection.pk)
    late.created_at = used - timezone.timedelta(minutes=1)  # type: ignore[attr-defined]
    fresh.add(late)
    fresh.flush()
    assert Connection.objects.get(pk=shop.connection.pk).last_used_at == used


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("apps.runs.journal.insert_many", refuse)
    monkeypatch.setattr(Execution, "save", refuse)
    monkeypatch.setattr(Journal, "_write_uses", refuse)


@pytest.mark.parametrize("error", [OperationalError("database is locked"), DatabaseError("gone")])
def test_a_database_that_takes_nothing_for_now_costs_no_row(
    cast: Cast, fresh: Journal, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    key = ApiKey.objects.get(digest=ApiKey.digest_of(cast.key))
    with monkeypatch.context() as patched:
        fail_with(patched, error)
        for number in range(3):
            fresh.add(row(cast.project, number))
        fresh.note_key(key.pk)
        fresh.flush()
        fresh.add(row(cast.project, 3))
        fresh.flush()
    assert names() == []
    fresh.flush()
    assert names() == ["T0", "T1", "T2", "T3"]
    key.refresh_from_db()
    assert key.last_used_at is not None


def test_memory_is_bounded_while_the_database_is_gone(
    cast: Cast, fresh: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    fail_with(monkeypatch, OperationalError("gone"))
    for number in range(100):
        fresh.add(row(cast.project, number))
        if number % 7 == 0:
            fresh.flush()
    fresh.flush()
    assert len(fresh._rows) <= 20
    assert fresh._rows[-1].tool == "T99"


def test_when_too_many_wait_the_caller_writes(
    cast: Cast, fresh: Journal, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 5)
    monkeypatch.setattr(Journal, "_start", lambda self: None)
    settings.JACKFIELD_LOG_BACKGROUND = True
    for number in range(5):
        fresh.add(row(cast.project, number))
    assert len(names()) == 5
    assert fresh._rows == []


@pytest.mark.django_db(transaction=True)
def test_a_project_deleted_meanwhile_takes_only_its_own_rows_along(cast: Cast) -> None:
    fresh = Journal()
    for number in range(5):
        fresh.add(row(cast.foreign_project if number == 2 else cast.project, number))
    cast.foreign_project.delete()
    fresh.flush()
    assert names() == ["T0", "T1", "T3", "T4"]
    assert fresh._rows == []


@pytest.mark.parametrize("bad", [{"message": "half \ud800"}, {"request": "half \udfff"}])
def test_a_row_that_no_database_takes_does_not_take_others_along(
    cast: Cast, fresh: Journal, bad: dict[str, str]
) -> None:
    fresh.add(row(cast.project, 0))
    fresh.add(row(cast.project, 1, **bad))
    fresh.add(row(cast.project, 2))
    fresh.flush()
    assert names() == ["T0", "T2"]
    assert fresh._rows == []


# -- secrets ---------------------------------------------------------------------------------------------------------
def run(shop: Shop, **body: Any) -> Execution:
    shop.api.post("integrations/execute", {"userId": "u1"} | body)
    return shop.executions()[-1]


def test_credentials_are_masked_by_value_wherever_they_turn_up(shop: Shop) -> None:
    params = {"title": "at-1-secret", "data": {"text": "see rt-1-secret!"}}
    logged = run(shop, toolName="LAB_CREATE_ITEM", params=params)
    everything = json.dumps({field.name: str(getattr(logged, field.name)) for field in Execution._meta.fields})
    assert "at-1-secret" not in everything  # the echo answered with the Authorization header, too
    assert "rt-1-secret" not in everything
    assert MASK in logged.request
    assert MASK in logged.response
    assert run(shop, toolName="LAB_GET_ITEM", params={"id": "at-1-secret"}).url.endswith(f"/echo/items/{MASK}")


@pytest.mark.parametrize("name", ["password", "apiKey", "client_secret", "Authorization", "access_token", "set-cookie"])
def test_members_with_a_secrets_name_are_masked(shop: Shop, name: str) -> None:
    logged = run(shop, toolName="LAB_CREATE_ITEM", params={"title": "x", "data": {name: "hunter2-and-more", "page": 1}})
    assert "hunter2" not in logged.request
    assert '"page": 1' in logged.request


@pytest.mark.parametrize("filler", ["x" * 15_000, ["x" * 900] * 100, [[[]]] * 30_000])
def test_an_answer_too_large_to_be_read_again_is_masked_all_the_same(filler: Any) -> None:
    data = {
        "password": 'hunter2 " first',
        "page": 1,
        "inner": {"api_key": "hunter2"},
        "value": "at-1-secret",
        "rest": filler,
    }
    answer = http.Answer(200, [("Content-Type", "application/json")], json.dumps(data).encode(), "http://x.example")
    logged = _logged_answer(answer, ["at-1-secret"])
    assert "hunter2" not in logged
    assert "first" not in logged
    assert "at-1-secret" not in logged
    assert '"page": 1' in logged
    assert len(logged) < 25_000


def test_an_answer_nested_beyond_measure_is_logged(shop: Shop) -> None:
    body = b'{"a":' * 900 + b'{"token":"hunter2"}' + b"}" * 900
    answer = http.Answer(200, [("Content-Type", "application/json")], body, "http://x.example")
    assert "hunter2" not in _logged_answer(answer, [])
    assert decode(answer) == (body.decode(), body)


def test_a_fault_is_logged_with_its_code(shop: Shop) -> None:
    logged = run(shop, toolName="LAB_ANSWER", params={"kind": "status/500"})
    assert (logged.successful, logged.error, logged.status) == (False, "INTEGRATIONS_EXECUTION_FAILED", 500)
    logged = run(shop, toolName="LAB_CREATE_ITEM", params={})
    assert (logged.successful, logged.error, logged.status) == (False, "VALIDATION_INVALID_SCHEMA", None)


def test_what_was_done_is_told_apart(shop: Shop) -> None:
    logged = run(shop, toolName="LAB_CREATE_ITEM", params={"title": "x"})
    assert (logged.method, logged.user_id, logged.connection_id, logged.tries) == ("POST", "u1", shop.connection.pk, 1)
    assert logged.url.endswith("/echo/items")
    assert logged.caller.startswith("key:")
    assert logged.duration_ms >= logged.upstream_ms >= 0


def test_the_journal_of_this_process_is_the_one_that_is_flushed(shop: Shop) -> None:
    shop.api.post("integrations/execute", {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"})
    assert len(journal._rows) == 1
    assert len(shop.api.get("executions").json()["executions"]) == 1
    assert journal._rows == []


def test_a_purge_waits_for_the_log_without_holding_what_the_log_waits_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else both wait: for a minute on SQLite, for ever on PostgreSQL."""
    shop.api.post("integrations/execute", {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"})
    depth = len(connection.savepoint_ids)
    depths: list[int] = []
    flush = journal.flush

    def watched() -> None:
        depths.append(len(connection.savepoint_ids))
        flush()

    monkeypatch.setattr(journal, "flush", watched)
    assert shop.api.delete("end-users/u1").status_code == 204
    assert depths == [depth]
    assert not Execution.objects.filter(user_id="u1").exists()
