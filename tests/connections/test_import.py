"""Importing accounts, reading a token, and the integrator's own words: platform.md's routes of connections."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.connections import access
from apps.connections.models import Connection
from apps.toolkits.services import put
from apps.toolkits.spec import Custom
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, EndUser, Plan, Role
from apps.workspaces.services import add_member
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import Shop, fails
from tests.cast import Api, Cast
from tests.peers.upstream import Upstream

pytestmark = pytest.mark.django_db

TOOL = {"slug": "look", "name": "Look", "description": "Looks.", "method": "GET", "path": "/echo/look"}
KEY = {"type": "api_key", "placement": {"in": "header", "name": "X-Key"}}
OAUTH = {
    "type": "oauth2",
    "authorization_url": "https://vault.example/authorize",
    "token_url": "https://vault.example/token",
    "scopes": ["read", "write"],
}


def succeeds(response: Any, status: int = 200) -> Any:
    assert response.status_code == status, response.content[:500]
    return response.json()


@pytest.fixture
def vault(cast: Cast, upstream: Upstream, settings: Any) -> Iterator[Any]:
    """A project's own toolkit `vault` at the upstream, of the kinds of accounts that are asked for."""
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    upstream.reset()

    def make(*auth: dict[str, Any], test: str = "/echo/me") -> Cast:
        document = {
            "name": "Vault",
            "base_url": upstream.url,
            "auth": list(auth),
            "test": {"path": test},
            "tools": [TOOL],
        }
        put(cast.project, "vault", document, SYSTEM)
        succeeds(cast.api.post("integrations/configure", {"toolkit": "vault"}))
        return cast

    yield make
    upstream.reset()


def import_(api: Api, credentials: dict[str, Any], **more: Any) -> Any:
    body = {"toolkit": "vault", "userId": "u1", "credentials": credentials} | more
    return api.post("integrations/connections/import", body)


def look(api: Api, user_id: str | None = "u1") -> Any:
    """The headers with which the tool reaches the service."""
    body = {"toolName": "VAULT_LOOK", "userId": user_id}
    return succeeds(api.post("integrations/execute", body))["data"]["headers"]


def test_an_imported_key_is_asked_about_then_used(vault: Any, upstream: Upstream) -> None:
    cast = vault(KEY)
    row = succeeds(import_(cast.api, {"apiKey": "k-1"}, label="Work", metadata={"team": 7}), 201)
    assert (row["status"], row["app_user_id"], row["label"]) == ("active", "u1", "Work")
    assert row["metadata"] == {"team": 7}
    assert upstream.count("/echo/me") == 1
    assert look(cast.api)["x-key"] == "k-1"


def test_what_the_service_refuses_is_not_stored(vault: Any) -> None:
    cast = vault(KEY, test="/status/401")
    error = fails(import_(cast.api, {"apiKey": "bad"}), 400, "VALIDATION_INVALID_SCHEMA")
    assert "credentials" in error["details"]
    assert not Connection.objects.exists()
    assert not EndUser.objects.filter(external_id="u1").exists()


def test_unverified_it_is_stored_without_a_call(vault: Any, upstream: Upstream) -> None:
    cast = vault(KEY, test="/status/401")
    succeeds(import_(cast.api, {"apiKey": "k-1"}, verify=False), 201)
    assert upstream.requests() == []


def test_importing_again_renews_the_account_and_keeps_its_id(vault: Any) -> None:
    cast = vault(KEY)
    first = succeeds(import_(cast.api, {"apiKey": "k-1"}), 201)
    second = succeeds(import_(cast.api, {"apiKey": "k-2"}), 201)
    third = succeeds(import_(cast.api, {"apiKey": "k-3"}, allowMultiple=True), 201)
    assert first["id"] == second["id"] != third["id"]
    assert look(cast.api)["x-key"] == "k-2"


def test_a_shared_account_serves_calls_for_nobody(vault: Any) -> None:
    cast = vault(KEY)
    body = {"toolkit": "vault", "shared": True, "credentials": {"apiKey": "all"}}
    row = succeeds(cast.api.post("integrations/connections/import", body), 201)
    assert row["app_user_id"] is None
    again = succeeds(cast.api.post("integrations/connections/import", body | {"credentials": {"apiKey": "new"}}), 201)
    assert again["id"] == row["id"]
    answer = cast.api.post("integrations/execute", {"toolName": "VAULT_LOOK", "userId": "u1"})
    fails(answer, 400, "INTEGRATIONS_NOT_CONNECTED")


def test_shared_and_a_user_contradict_each_other(vault: Any) -> None:
    cast = vault(KEY)
    error = fails(import_(cast.api, {"apiKey": "k"}, shared=True), 400, "VALIDATION_INVALID_SCHEMA")
    assert "userId" in error["details"]


@pytest.mark.parametrize("value", ["true", 1, "yes", None], ids=["text", "number", "yes", "null"])
@pytest.mark.parametrize("route", ["connect", "connections/import"])
def test_what_is_nearly_true_never_makes_a_users_account_of_a_shared_one(vault: Any, route: str, value: Any) -> None:
    body = {"toolkit": "vault", "userId": "u1", "shared": value, "credentials": {"apiKey": "k"}, "verify": False}
    details = fails(vault(KEY).api.post(f"integrations/{route}", body), 400, "VALIDATION_INVALID_SCHEMA")["details"]
    assert list(details) == ["shared"]
    assert not Connection.objects.exists()


def test_a_shared_account_is_connected_over_the_api_by_an_admin_alone(vault: Any) -> None:
    cast = vault(KEY)
    body = {"toolkit": "vault", "shared": True}
    started = succeeds(cast.api.post("integrations/connect", body))
    assert started["connectionRequestId"].startswith("ca_")
    fails(cast.with_key("connect").post("integrations/connect", body), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    token = mint_user_token(cast.project, "u1", 600)[0]
    fails(Api(cast.project, token).post("integrations/connect", body), 403, "AUTH_INSUFFICIENT_PERMISSIONS")


@pytest.mark.parametrize(
    ("credentials", "place"),
    [
        pytest.param({}, "credentials.api_key", id="nothing"),
        pytest.param({"apiKey": 7}, "credentials.apiKey", id="a number"),
        pytest.param({"apiKey": "a\nb"}, "credentials.apiKey", id="two lines"),
        pytest.param({"apiKey": "k", "other": "x"}, "credentials.other", id="another member"),
        pytest.param({"apiKey": ""}, "credentials.api_key", id="empty"),
    ],
)
def test_credentials_that_do_not_fit_are_named(vault: Any, credentials: dict[str, Any], place: str) -> None:
    error = fails(import_(vault(KEY).api, credentials), 400, "VALIDATION_INVALID_SCHEMA")
    assert place in error["details"], error


def test_the_kind_follows_from_the_members(vault: Any) -> None:
    cast = vault(OAUTH, KEY, {"type": "basic"})
    for credentials, kind in (
        ({"username": "ada", "password": "pw"}, "basic"),
        ({"apiKey": "k"}, "api_key"),
        ({"accessToken": "at"}, "oauth2"),
    ):
        row = succeeds(import_(cast.api, credentials), 201)
        assert Connection.objects.get(pk=row["id"]).auth_type == kind


def test_an_unknown_kind_is_refused(vault: Any) -> None:
    error = fails(import_(vault(KEY).api, {"apiKey": "k"}, authScheme="magic"), 400, "VALIDATION_INVALID_SCHEMA")
    assert "authScheme" in error["details"]


def test_a_stale_access_token_is_refreshed_before_it_is_stored(vault: Any, upstream: Upstream) -> None:
    cast = vault(OAUTH | {"token_url": f"{upstream.url}/token/ok"})
    client = {"oauthCredentials": {"clientId": "c", "clientSecret": "s"}}
    succeeds(cast.api.post("integrations/configure", {"toolkit": "vault"} | client))
    past = (timezone.now() - timedelta(hours=1)).isoformat()
    row = succeeds(import_(cast.api, {"accessToken": "old", "refreshToken": "rt-0"}, expiresAt=past), 201)
    connection = Connection.objects.get(pk=row["id"])
    stored = connection.unseal("credentials")
    assert stored["access_token"] not in {"", "old"}
    assert connection.expires_at is not None
    assert connection.expires_at > timezone.now()


def test_a_stale_access_token_alone_is_refused(vault: Any) -> None:
    past = (timezone.now() - timedelta(hours=1)).isoformat()
    answer = import_(vault(OAUTH).api, {"accessToken": "old"}, expiresAt=past)
    assert "expired" in fails(answer, 400, "VALIDATION_INVALID_SCHEMA")["details"]["credentials"][0]


def test_a_refresh_token_alone_is_enough_without_verifying(vault: Any) -> None:
    row = succeeds(import_(vault(OAUTH).api, {"refreshToken": "rt"}, verify=False, scopes=["read"]), 201)
    connection = Connection.objects.get(pk=row["id"])
    assert connection.expires_at is not None
    assert connection.expires_at <= timezone.now()
    assert row["scopes"] == ["read"]


def test_an_import_needs_the_scope_admin(vault: Any) -> None:
    cast = vault(KEY)
    for api in (cast.with_key("connect", "execute"), Api(cast.project, mint_user_token(cast.project, "u1", 600)[0])):
        fails(import_(api, {"apiKey": "k"}), 403, "AUTH_INSUFFICIENT_PERMISSIONS")


def test_an_import_keeps_to_the_plan(vault: Any) -> None:
    cast = vault(KEY)
    Plan.objects.update(connections=1)
    succeeds(import_(cast.api, {"apiKey": "k"}), 201)
    fails(import_(cast.api, {"apiKey": "k"}, userId="u2"), 429, "INTEGRATIONS_QUOTA_EXCEEDED")
    succeeds(import_(cast.api, {"apiKey": "k-2"}), 201)


def test_an_import_waits_for_no_confirmation(vault: Any) -> None:
    cast = vault(KEY)
    cast.project.confirm_connections = True
    cast.project.save()
    assert succeeds(import_(cast.api, {"apiKey": "k"}), 201)["status"] == "active"


# -- The token -------------------------------------------------------------------------------------------------------
def test_a_token_is_read_with_the_scope_secrets_and_audited(shop: Shop) -> None:
    path = f"integrations/connections/{shop.connection.pk}/token"
    answer = succeeds(shop.cast.with_key("secrets").get(path))
    assert answer == {
        "accessToken": "at-1-secret",
        "expiresAt": shop.connection.expires_at.isoformat() if shop.connection.expires_at else None,
        "type": "oauth2",
    }
    event = AuditEvent.objects.get(action="connection.token_read")
    assert event.target == shop.connection.pk
    assert "at-1-secret" not in json.dumps(event.details)


@pytest.mark.parametrize("scope", ["admin", "connect", "execute", "runs"])
def test_no_other_scope_reads_a_token(shop: Shop, scope: str) -> None:
    path = f"integrations/connections/{shop.connection.pk}/token"
    fails(shop.cast.with_key(scope).get(path), 403, "AUTH_INSUFFICIENT_PERMISSIONS")


def test_a_member_who_may_look_reads_no_token(shop: Shop) -> None:
    path = f"integrations/connections/{shop.connection.pk}/token"
    login = shop.api.post("/api/auth/login", {"email": "bob@example.com", "password": "correct horse battery staple"})
    fails(Api(shop.cast.project, succeeds(login)["token"]).get(path), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    add_member(shop.cast.workspace, shop.cast.charlie, Role.DEVELOPER, SYSTEM)
    login = shop.api.post(
        "/api/auth/login", {"email": "charlie@example.com", "password": "correct horse battery staple"}
    )
    fails(Api(shop.cast.project, succeeds(login)["token"]).get(path), 403, "AUTH_INSUFFICIENT_PERMISSIONS")


def test_a_persons_own_token_does_not_read_tokens(shop: Shop) -> None:
    token = mint_user_token(shop.cast.project, "u1", 600)[0]
    path = f"integrations/connections/{shop.connection.pk}/token"
    fails(Api(shop.cast.project, token).get(path), 403, "AUTH_INSUFFICIENT_PERMISSIONS")


def test_fields_are_handed_out_where_there_is_no_single_token(vault: Any) -> None:
    cast = vault({"type": "basic"})
    row = succeeds(import_(cast.api, {"username": "ada", "password": "pw"}), 201)
    answer = succeeds(cast.api.get(f"integrations/connections/{row['id']}/token"))
    assert answer["accessToken"] is None
    assert answer["credentials"] == {"username": "ada", "password": "pw"}


# -- The integrator's own words --------------------------------------------------------------------------------------
def test_label_and_metadata_are_kept_as_they_are(shop: Shop) -> None:
    path = f"integrations/connections/{shop.connection.pk}"
    body = {"label": "Büro", "metadata": {"a": [1, None, {"b": "ö"}]}}
    row = succeeds(shop.api.patch(path, body))
    assert (row["label"], row["metadata"]) == ("Büro", body["metadata"])
    assert succeeds(shop.api.patch(path, {"label": "Other"}))["metadata"] == body["metadata"]
    assert succeeds(shop.api.get(path))["label"] == "Other"


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param("text", id="text"),
        pytest.param([1], id="list"),
        pytest.param({"a": "x" * 17000}, id="large"),
        pytest.param({"a": "\x00"}, id="nul"),
    ],
)
def test_metadata_that_is_none_is_refused(shop: Shop, metadata: Any) -> None:
    path = f"integrations/connections/{shop.connection.pk}"
    error = fails(shop.api.patch(path, {"metadata": metadata}), 400, "VALIDATION_INVALID_SCHEMA")
    assert "metadata" in error["details"]


def test_nobody_elses_connection_is_changed(shop: Shop) -> None:
    path = f"integrations/connections/{shop.connection.pk}"
    fails(shop.cast.foreign.patch(path, {"label": "mine"}), 404, "RESOURCE_NOT_FOUND")
    stranger = Api(shop.cast.project, mint_user_token(shop.cast.project, "u2", 600)[0])
    fails(stranger.patch(path, {"label": "mine"}), 404, "RESOURCE_NOT_FOUND")
    shop.connection.refresh_from_db()
    assert shop.connection.label == ""


@pytest.mark.parametrize("verify", [True, False], ids=["verified", "unverified"])
def test_a_user_name_that_would_end_early_is_never_stored(vault: Any, verify: bool) -> None:
    cast = vault({"type": "basic"})
    answer = import_(cast.api, {"username": "ada:x", "password": "p"}, verify=verify)
    assert list(fails(answer, 400, "VALIDATION_INVALID_SCHEMA")["details"]) == ["credentials.username"]


def test_a_secret_field_is_masked_whatever_its_name() -> None:
    fields = [{"name": "username", "title": "Pass phrase"}, {"name": "site", "title": "Site", "secret": False}]
    scheme = Custom.model_validate({"type": "custom", "fields": fields, "headers": {"X-Phrase": "={username}"}})
    found = access.secrets_of(scheme, {"username": "open-sesame", "site": "forty"})
    assert "open-sesame" in found
    assert "forty" not in found
