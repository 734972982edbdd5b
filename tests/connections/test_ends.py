"""Flows and connections whose user, key or provider is gone, or says what no database takes."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from apps.connections import flows, oauth, services, upstream
from apps.connections.models import Connection
from apps.connections.oauth import TokenError
from apps.connections.refresh import fresh_credentials
from apps.lib.errors import RefreshUnavailable
from apps.lib.http import Answer
from apps.toolkits.registry import catalog
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import EndUser
from tests.cast import Cast, connect, enable
from tests.peers.upstream import Upstream


@pytest.mark.django_db(transaction=True)
def test_a_user_purged_while_connecting_gets_no_connection(
    cast: Cast, upstream: Upstream, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.1"
    enable(cast.project, "github", upstream.url, overrides={"token_url": f"{upstream.url}/token/ok"})
    started = flows.start_connect(cast.project, "u1", "github")
    state = parse_qs(urlsplit(started.url).query)["state"][0]
    exchange = oauth.exchange

    def meanwhile(*args: Any, **kwargs: Any) -> oauth.Token:
        services.purge_end_user(cast.project, "u1", SYSTEM)
        return exchange(*args, **kwargs)

    monkeypatch.setattr(oauth, "exchange", meanwhile)
    answer = cast.api.client.get(f"/v1/{cast.project.pk}/integrations/callback?state={state}&code=c")
    assert answer.status_code == 302
    assert "message=connection_failed" in answer["Location"]
    assert not Connection.objects.exists()
    assert not EndUser.objects.filter(external_id="u1").exists()


def test_an_account_whose_key_is_lost_can_be_disconnected(cast: Cast) -> None:
    integration = enable(cast.project, "github")
    for user in ("u1", "u2"):
        connect(integration, user)
    Connection.objects.update(credentials="jf1:lost:AAAA")
    first = Connection.objects.get(end_user__external_id="u1")
    assert cast.api.delete(f"integrations/connections/{first.pk}").status_code == 204
    type(integration).objects.update(client_secret="jf1:lost:AAAA")
    assert cast.api.delete("end-users/u2").status_code == 204
    assert not Connection.objects.exists()


def test_a_name_with_half_a_character_is_stored(cast: Cast) -> None:
    answer = Answer(200, [], b'{"id": 7, "login": "a\\ud83d\\u0000b"}', "")
    account = upstream._account(catalog().toolkits["github"], answer)
    connection = connect(enable(cast.project, "github"))
    connection.account_label = account.label
    connection.save()
    connection.refresh_from_db()
    assert connection.account_label == "a?\ufffdb"


def test_what_a_provider_says_of_a_refresh_is_kept_without_the_token(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> oauth.Token:
        raise TokenError("server_error", "cannot use rt-1-secret\x00 \ud83d now")

    monkeypatch.setattr(oauth, "refresh", refuse)
    connection = connect(enable(cast.project, "github"), seconds=-1)
    with pytest.raises(RefreshUnavailable):
        fresh_credentials(connection)
    connection.refresh_from_db()
    assert connection.error == "refresh failed for now: server_error: cannot use ********\ufffd ? now"


@pytest.mark.parametrize("issuer", [5, None, {}, "a\x00"])
def test_an_issuer_is_a_text(cast: Cast, issuer: Any) -> None:
    body = {"toolkit": "github", "settings": {"issuer": issuer}}
    answer = cast.api.post("integrations/configure", body)
    assert answer.status_code == 400
    assert set(answer.json()["error"]["details"]) == {"settings.issuer"}
