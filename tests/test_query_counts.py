"""How many queries a call costs. The hot path: 2 SELECTs and no write before the answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.connections.models import Connection
from apps.lib.db import insert_many
from apps.runs.journal import journal
from apps.runs.models import Execution
from apps.workspaces import quota
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Plan
from apps.workspaces.services import issue_key, set_issuer
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import Shop
from tests.cast import Api

CALL = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"}


@pytest.fixture(autouse=True)
def _no_minute_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new minute's first call makes a new counter; here none begins."""
    now = timezone.now()
    monkeypatch.setattr(quota, "timezone", SimpleNamespace(now=lambda: now))


def verbs(shop: Shop, api: Api | None = None, body: dict[str, Any] = CALL, **headers: str) -> list[str]:
    """The first word of each statement of one call, savepoints apart; the second call, so that nothing is made anew."""
    api = api or shop.api
    sent = headers.pop("key", "")
    for number in range(2):
        extra = {"Idempotency-Key": f"{sent}{number}"} if sent else {}
        with CaptureQueriesContext(connection) as captured:
            answer = api.post("integrations/execute", body, **headers, **extra)
        assert answer.status_code == 200, answer.content
    found = [query["sql"].split()[0] for query in captured]
    return [verb for verb in found if verb not in {"SAVEPOINT", "RELEASE", "BEGIN", "COMMIT"}]


def test_a_projects_key_and_a_fresh_token_cost_two_selects(shop: Shop) -> None:
    assert verbs(shop) == ["SELECT", "SELECT"]


def test_naming_the_connection_costs_no_more(shop: Shop) -> None:
    assert verbs(shop, body=CALL | {"connectionId": shop.connection.pk}) == ["SELECT", "SELECT"]


def test_a_workspaces_key_costs_one_select_more_for_the_project(shop: Shop) -> None:
    secret = issue_key(shop.cast.workspace, "ws", SYSTEM, scopes=["execute"])[1]
    assert verbs(shop, Api(shop.cast.project, secret)) == ["SELECT"] * 3


def test_a_minted_user_token_costs_two_selects(shop: Shop) -> None:
    token = mint_user_token(shop.cast.project, "u1", 600)[0]
    assert verbs(shop, Api(shop.cast.project, token)) == ["SELECT", "SELECT"]


def test_a_token_of_the_projects_issuer_costs_one_select_more_for_the_issuer(shop: Shop) -> None:
    secret = "s" * 40
    set_issuer(shop.cast.project, SYSTEM, issuer="https://idp.example", method="HS256", secret=secret)
    token = jwt.encode({"iss": "https://idp.example", "sub": "u1", "exp": 2**33}, secret, algorithm="HS256")
    assert verbs(shop, Api(shop.cast.project, token)) == ["SELECT"] * 3


def test_a_members_token_costs_four_selects(shop: Shop) -> None:
    from tests.cast import PASSWORD

    body = {"email": "alice@example.com", "password": PASSWORD}
    token = Client().post("/api/auth/login", body, content_type="application/json").json()["token"]
    assert verbs(shop, Api(shop.cast.project, token)) == ["SELECT"] * 4  # session, project, role, connection


@pytest.mark.parametrize(("limits", "upserts"), [({"calls_per_minute": 400}, 1), ({"calls_per_day": 400}, 1),
                                                 ({"calls_per_minute": 400, "calls_per_day": 400}, 2)])  # fmt: skip
def test_a_small_limit_costs_one_upsert_each(shop: Shop, limits: dict[str, int], upserts: int) -> None:
    shop.cast.workspace.plan = Plan.objects.create(name="Small", **limits)
    shop.cast.workspace.save()
    assert verbs(shop) == ["SELECT", "SELECT"] + ["INSERT"] * upserts


def test_a_large_limit_mostly_costs_nothing(shop: Shop) -> None:
    shop.cast.workspace.plan = Plan.objects.create(name="Large", calls_per_minute=100_000, calls_per_day=100_000)
    shop.cast.workspace.save()
    assert verbs(shop) == ["SELECT", "SELECT"]


def test_an_idempotency_key_costs_one_insert_before_and_one_update_after(shop: Shop) -> None:
    assert verbs(shop, key="k") == ["SELECT", "INSERT", "SELECT", "UPDATE"]


def test_faults_cost_no_more(shop: Shop) -> None:
    def count(body: dict[str, Any]) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert shop.api.post("integrations/execute", body).status_code != 200
        return len(captured)

    assert count({}) == 1
    assert count(CALL | {"toolName": "NONE"}) == 1
    assert count(CALL | {"params": {}}) == 2
    assert count(CALL | {"userId": "u9"}) == 3


def test_the_log_of_many_calls_is_written_at_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def watched(model: Any, rows: list[Any]) -> None:
        written.append(len(rows))
        insert_many(model, rows)

    monkeypatch.setattr("apps.runs.journal.insert_many", watched)
    for _ in range(20):
        shop.api.post("integrations/execute", CALL)
    with CaptureQueriesContext(connection) as captured:
        journal.flush()
    updates = [query["sql"] for query in captured if query["sql"].startswith("UPDATE")]
    assert (written, len(updates)) == ([20], 2)  # last use of the connection and of the key
    assert Execution.objects.count() == 20


@pytest.mark.parametrize("path", ["integrations/connections", "integrations/config", "end-users", "executions"])
def test_a_lists_length_does_not_count(shop: Shop, path: str) -> None:
    from tests.cast import connect

    shop.api.post("integrations/execute", CALL)
    journal.flush()

    def count() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert shop.api.get(path).status_code == 200
        return len([query for query in captured if query["sql"].startswith("SELECT")])

    before = count()
    for number in range(10):
        connect(shop.integration, f"more-{number}")
        shop.api.post("integrations/execute", CALL)
    journal.flush()
    assert Connection.objects.count() == 11
    assert count() == before == 2
