"""Disconnecting what is not connected yet: the flow ends, and its link connects nothing any more."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client

from apps.connections import flows, upstream
from apps.connections.links import Link, make_link
from apps.connections.models import Connection
from apps.workspaces.audit import SYSTEM
from apps.workspaces.services import issue_key
from tests.cast import Api, Cast, connect, enable


def test_a_pending_connection_is_cancelled(cast: Cast) -> None:
    enable(cast.project, "github")
    begun = cast.api.post("integrations/connect", {"toolkit": "github", "userId": "u1"}).json()
    path = f"integrations/connections/{begun['connectionRequestId']}"
    assert cast.foreign.delete(path).status_code == 404
    assert cast.api.get(path).json()["status"] == "pending"
    assert cast.api.delete(path).status_code == 204
    assert cast.api.get(path).json()["status"] == "inactive"
    assert cast.api.delete(path).status_code == 404
    state = parse_qs(urlsplit(begun["authUrl"]).query)["state"][0]
    with pytest.raises(flows.FlowError, match="invalid_state"):
        flows.take_session(state, "", cast.project.pk)


def test_a_key_sees_the_connections_of_the_user_it_names(cast: Cast) -> None:
    integration = enable(cast.project, "github")
    mine, _ = connect(integration, "u1"), connect(integration, "u2")
    rows = cast.api.get("integrations/connections", x_end_user="u1").json()["connections"]
    assert [row["id"] for row in rows] == [mine.pk]
    assert len(cast.api.get("integrations/connections").json()["connections"]) == 2


def test_a_second_account_is_added_even_where_it_is_the_same(cast: Cast) -> None:
    first = connect(enable(cast.project, "github"), "u1")
    Connection.objects.filter(pk=first.pk).update(account_id="7")
    started = flows.start_connect(cast.project, "u1", "github", allow_multiple=True)
    stored = flows.store_connection(
        started.session, {"access_token": "x"}, account=upstream.Account("7", "seven"), scopes=[], expires_at=None,
        own_variables={}, actor=SYSTEM,
    )  # fmt: skip
    assert stored.pk == started.connection_id != first.pk
    key = issue_key(cast.workspace, "k", SYSTEM, project=cast.project, scopes=["connect"])[1]
    assert len(Api(cast.project, key).get("integrations/connections?userId=u1").json()["connections"]) == 2


def test_a_refused_form_does_not_write_the_link_to_the_log(cast: Cast, caplog: pytest.LogCaptureFixture) -> None:
    enable(cast.project, "github")
    path = urlsplit(make_link(Link(cast.project.pk, "u1", "github"))).path
    assert Client(enforce_csrf_checks=True).post(path).status_code == 403
    assert "/connect/…" in caplog.text
    assert path not in caplog.text
