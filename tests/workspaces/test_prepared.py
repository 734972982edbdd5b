"""Queries that are compiled once, and a database that goes away in between."""

from __future__ import annotations

import pytest
from django.db import OperationalError, connection

from apps.lib import db
from apps.workspaces.callers import KEY
from apps.workspaces.models import ApiKey
from tests.cast import Cast


def test_a_compiled_query_gives_what_the_orm_gives(cast: Cast) -> None:
    digest = ApiKey.digest_of(cast.key)
    found = KEY.first(digest)
    assert found is not None
    assert (found, found.workspace, found.project, found.end_user) == (
        ApiKey.objects.get(digest=digest), cast.workspace, cast.project, None,
    )  # fmt: skip
    assert found.workspace.plan == cast.workspace.plan
    assert KEY.first("no such digest") is None


def test_a_parameter_that_does_not_reach_the_query_is_noticed(cast: Cast) -> None:
    with pytest.raises(ValueError):
        db.Prepared(lambda digest: ApiKey.objects.filter(name="fixed"), 1).first("x")


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite's connections are not ended by others")
def test_a_connection_that_the_database_ended_costs_no_call() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    other.close()
    assert KEY.first("no such digest") is None


def test_inside_a_transaction_a_lost_connection_is_an_error(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(sql: str, values: list[object]) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr(db, "_fetch", lost)
    with pytest.raises(OperationalError):
        KEY.first("x")
