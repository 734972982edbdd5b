"""What webhooks are told of connections: written with the change, once, with the connection as the API gives it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.utils import timezone

from apps.connections import flows, oauth, refresh
from apps.connections.links import read_link
from apps.connections.models import Connection, ConnectSession
from apps.connections.services import disconnect, purge_end_user
from apps.connections.upstream import Account
from apps.lib.errors import ConnectionExpired
from apps.workspaces import webhooks
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import WebhookDelivery
from apps.workspaces.services import end_user
from tests.api.shop import Shop
from tests.cast import connect

TOKENS = {"access_token": "at-2-secret", "refresh_token": "rt-2-secret", "lifetime": 3600}


@pytest.fixture(autouse=True)
def _webhook(shop: Shop) -> None:
    webhooks.create_endpoint(shop.cast.project, "https://app.example/hook", SYSTEM)


def told() -> list[dict[str, Any]]:
    """Everything that was told so far, and forgets it."""
    rows = WebhookDelivery.objects.order_by("created_at", "pk")
    found = [json.loads(row.body) for row in rows]
    rows.delete()
    return found


def finish_flow(shop: Shop, user_id: str) -> Connection:
    session = ConnectSession.objects.create(
        state_digest=f"digest of {timezone.now().timestamp()}",
        project=shop.cast.project,
        integration=shop.integration,
        end_user=end_user(shop.cast.project, user_id),
        connection_id=f"ca_of_{user_id}",
        auth_type="oauth2",
        callback_url="https://jackfield.example/callback",
        expires_at=timezone.now(),
    )
    return flows.store_connection(
        session, TOKENS, account=Account(label="ada@example.com"), scopes=["read"], expires_at=None, own_variables={},
        actor=SYSTEM,
    )  # fmt: skip


def test_a_new_connection_is_told_of_as_the_api_gives_it(shop: Shop) -> None:
    connection = finish_flow(shop, "u9")
    (event,) = told()
    assert event["type"] == "connection.created"
    assert event["data"] == shop.api.get(f"integrations/connections/{connection.pk}").json()
    assert event["data"]["app_user_id"] == "u9"
    assert "secret" not in json.dumps(event)


def test_a_renewed_one_is_told_of_only_where_it_had_expired(shop: Shop) -> None:
    finish_flow(shop, "u1")
    assert told() == []
    Connection.objects.update(status=Connection.Status.EXPIRED)
    finish_flow(shop, "u1")
    (event,) = told()
    assert (event["type"], event["data"]["id"]) == ("connection.recovered", shop.connection.pk)
    assert event["data"]["status"] == "active"


def test_a_disconnected_one_is_told_of_once(shop: Shop) -> None:
    seen = Connection.objects.select_related("integration", "project").get(pk=shop.connection.pk)
    disconnect(shop.connection, SYSTEM)
    disconnect(seen, SYSTEM)
    (event,) = told()
    assert (event["type"], event["data"]["id"]) == ("connection.deleted", seen.pk)


def test_a_purged_end_user_takes_events_of_each_connection(shop: Shop) -> None:
    assert purge_end_user(shop.cast.project, "u1", SYSTEM)
    assert [event["data"]["app_user_id"] for event in told()] == ["u1"]


def test_a_connection_that_ends_is_told_of_once_with_the_link_to_mend_it(shop: Shop) -> None:
    dead = connect(shop.integration, "u5", seconds=-10, refresh_token="")
    first, second = (Connection.objects.get(pk=dead.pk) for _ in range(2))
    for seen in (first, second):
        with pytest.raises(ConnectionExpired):
            refresh.fresh_credentials(seen)
    (event,) = told()
    assert event["type"] == "connection.refreshed_failed"
    assert (event["data"]["id"], event["data"]["status"]) == (dead.pk, "expired")
    assert "no refresh token" in event["data"]["reason"]
    link = read_link(event["data"]["reconnectUrl"].rpartition("/")[2])
    assert (link.project_id, link.user_id, link.toolkit) == (shop.cast.project.pk, "u5", "lab")


def test_a_late_refresh_that_brings_an_ended_one_back_is_told_of(shop: Shop) -> None:
    late = Connection.objects.get(pk=shop.connection.pk)
    assert refresh._end(shop.connection, "refused")
    assert told()[0]["type"] == "connection.refreshed_failed"
    token = oauth.Token("at-3-secret", "rt-3-secret", 3600, None)
    refresh._store(late, late.unseal("credentials"), token)
    (event,) = told()
    assert (event["type"], event["data"]["status"]) == ("connection.recovered", "active")


def test_an_ordinary_refresh_is_told_to_nobody(shop: Shop) -> None:
    token = oauth.Token("at-3-secret", "rt-3-secret", 3600, None)
    refresh._store(shop.connection, shop.connection.unseal("credentials"), token)
    assert told() == []
