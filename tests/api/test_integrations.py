"""The Integrations API's toolkits and connections against contracts/integrations.md: every success and every fault."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.utils import timezone

from apps.connections.flows import digest
from apps.connections.models import Connection, ConnectSession, Integration
from apps.lib import errors
from apps.toolkits.spec import Toolkit
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import EndUser, Plan, Project
from apps.workspaces.services import change_settings, end_user
from tests.api.shop import Shop, fails
from tests.cast import Api, Cast, connect, enable

CURATED = [
    "gmail", "google-calendar", "slack", "google-sheets", "notion", "github", "hubspot", "outlook", "google-drive",
    "discord",
]  # fmt: skip
CONNECTION = {"id", "app_user_id", "toolkit_slug", "status", "account", "connected_at", "last_used_at",
              "account_picture", "scopes", "missing_scopes", "label", "metadata"}  # fmt: skip
INTEGRATION = {"id", "app_id", "toolkit_slug", "display_name", "enabled", "scopes", "created_at", "updated_at"}


def limit(cast: Cast, **limits: int) -> None:
    plan = Plan.objects.create(name="Small", **limits)
    cast.workspace.plan = plan
    cast.workspace.save(update_fields=["plan"])


def is_time(text: object) -> bool:
    return isinstance(text, str) and datetime.fromisoformat(text).tzinfo is not None


# -- available -------------------------------------------------------------------------------------------------------
def test_available_lists_the_curated_ten_in_order(cast: Cast) -> None:
    answer = cast.api.get("integrations/available")
    assert answer.status_code == 200
    rows = answer.json()["integrations"]
    assert [row["toolkit"] for row in rows] == CURATED
    for row in rows:
        assert set(row) == {"toolkit", "displayName", "curated", "authSchemes", "requiresOwnCredentials"}
        assert row["curated"] is True
        assert isinstance(row["displayName"], str)
        assert isinstance(row["requiresOwnCredentials"], bool)
        assert row["authSchemes"]
        assert all(isinstance(scheme, str) for scheme in row["authSchemes"])


def test_the_seeds_search_finds_salesforce(cast: Cast) -> None:
    rows = cast.api.get("integrations/available?search=salesforce").json()["integrations"]
    first = rows[0]
    assert (first["toolkit"], first["displayName"], first["curated"]) == ("salesforce", "Salesforce", False)


def test_search_is_case_insensitive_and_puts_the_best_match_first(cast: Cast) -> None:
    for text in ("GitHub", "github", "GITHUB", "%20GitHub%20"):
        assert cast.api.get(f"integrations/available?search={text}").json()["integrations"][0]["toolkit"] == "github"
    found = [row["toolkit"] for row in cast.api.get("integrations/available?search=git").json()["integrations"]]
    assert found[0] == "github"  # begins with it, and curated
    assert "gitlab" in found
    by_name = cast.api.get("integrations/available?search=google+calendar").json()["integrations"]
    assert by_name[0]["toolkit"] == "google-calendar"


def test_search_goes_over_the_whole_catalog_twenty_a_page(cast: Cast) -> None:
    seen: list[str] = []
    cursor = ""
    while True:
        page = cast.api.get(f"integrations/available?search=e&cursor={cursor}").json()
        seen += [row["toolkit"] for row in page["integrations"]]
        if page["nextCursor"] is None:
            break
        assert len(page["integrations"]) == 20
        cursor = page["nextCursor"]
    assert len(seen) > 100
    assert len(seen) == len(set(seen))


def test_a_search_that_finds_nothing_is_an_empty_list(cast: Cast) -> None:
    answer = cast.api.get("integrations/available?search=no-such-thing")
    assert answer.json() == {"integrations": [], "nextCursor": None}


def test_a_cursor_whose_id_is_no_number_is_named(cast: Cast) -> None:
    cursor = base64.urlsafe_b64encode(b'["2026-01-01T00:00:00+00:00","x"]').decode()
    fails(cast.api.get(f"end-users?cursor={cursor}"), 400, "VALIDATION_INVALID_SCHEMA")


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=ten", "limit=-1", "limit=%D9%A1", "cursor=nonsense"])
def test_a_wrong_limit_or_cursor_is_named(cast: Cast, query: str) -> None:
    error = fails(cast.api.get(f"integrations/available?search=a&{query}"), 400, "VALIDATION_INVALID_SCHEMA")
    assert list(error["details"]) == [query.partition("=")[0]]


# -- configure, config -----------------------------------------------------------------------------------------------
def test_the_seeds_configure_enables_gmail(cast: Cast) -> None:
    answer = cast.api.post("integrations/configure", {"toolkit": "gmail", "displayName": "Gmail", "scopes": []})
    assert answer.status_code == 200
    row = answer.json()
    assert set(row) == INTEGRATION
    assert row["app_id"] == cast.project.pk
    assert (row["toolkit_slug"], row["display_name"], row["enabled"], row["scopes"]) == ("gmail", "Gmail", True, [])
    assert is_time(row["created_at"])
    assert is_time(row["updated_at"])
    assert cast.api.get("integrations/config").json() == {
        "app_id": cast.project.pk,
        "integrations": [row],
        "nextCursor": None,
    }


def test_configuring_again_applies_what_is_new_and_keeps_the_rest(cast: Cast) -> None:
    first = cast.api.post(
        "integrations/configure",
        {
            "toolkit": "github",
            "displayName": "Code",
            "scopes": ["repo"],
            "oauthCredentials": {"clientId": "id-1", "clientSecret": "secret-1"},
        },
    ).json()
    second = cast.api.post("integrations/configure", {"toolkit": "github"}).json()
    assert second | {"updated_at": ""} == first | {"updated_at": ""}
    assert cast.api.post("integrations/configure", {"toolkit": "github", "scopes": []}).json()["scopes"] == []
    cast.api.post("integrations/configure", {"toolkit": "github", "oauthCredentials": {"clientId": "id-2"}})
    kept = Integration.objects.get(pk=first["id"])
    assert (kept.client_id, kept.unseal("client_secret"), kept.display_name) == ("id-2", "secret-1", "Code")


def test_no_answer_shows_the_clients_secret(cast: Cast) -> None:
    body = {"toolkit": "github", "oauthCredentials": {"clientId": "id-1", "clientSecret": "very-secret-1"}}
    assert b"very-secret-1" not in cast.api.post("integrations/configure", body).content
    assert b"very-secret-1" not in cast.api.get("integrations/config").content


def test_config_lists_what_is_enabled_oldest_first_in_pages(cast: Cast) -> None:
    for slug in ("slack", "github", "gmail", "notion"):
        enable(cast.project, slug)
    cast.api.delete("integrations/configure/github")
    rows = cast.api.get("integrations/config").json()["integrations"]
    assert [row["toolkit_slug"] for row in rows] == ["slack", "gmail", "notion"]
    page = cast.api.get("integrations/config?limit=2").json()
    assert [row["toolkit_slug"] for row in page["integrations"]] == ["slack", "gmail"]
    rest = cast.api.get(f"integrations/config?limit=2&cursor={page['nextCursor']}").json()
    assert ([row["toolkit_slug"] for row in rest["integrations"]], rest["nextCursor"]) == (["notion"], None)


def test_configure_names_every_fault_at_once(cast: Cast) -> None:
    body = {"toolkit": 5, "displayName": "x" * 101, "scopes": "repo", "oauthCredentials": {"clientSecret": 1}}
    details = fails(cast.api.post("integrations/configure", body), 400, "VALIDATION_INVALID_SCHEMA")["details"]
    assert set(details) == {
        "toolkit", "displayName", "scopes", "oauthCredentials.clientId", "oauthCredentials.clientSecret",
    }  # fmt: skip
    assert all(isinstance(messages, list) and messages for messages in details.values())


@pytest.mark.parametrize("toolkit", ["", "x" * 101, None, 7, ["gmail"], "gm\u0000ail"])
def test_a_toolkit_is_a_text_of_1_to_100_characters(cast: Cast, toolkit: object) -> None:
    error = fails(cast.api.post("integrations/configure", {"toolkit": toolkit}), 400, "VALIDATION_INVALID_SCHEMA")
    assert list(error["details"]) == ["toolkit"]


def test_an_unknown_toolkit_cannot_be_configured(cast: Cast) -> None:
    fails(cast.api.post("integrations/configure", {"toolkit": "no-such"}), 404, "RESOURCE_NOT_FOUND")


def test_disabling_is_204_also_where_it_was_never_enabled(cast: Cast) -> None:
    for slug in ("github", "never-heard-of"):
        answer = cast.api.delete(f"integrations/configure/{slug}")
        assert (answer.status_code, answer.content) == (204, b"")


def test_disabling_stops_new_connections_and_keeps_existing_ones_working(shop: Shop) -> None:
    assert shop.api.delete("integrations/configure/lab").status_code == 204
    body = {"toolkit": "lab", "userId": "u2"}
    fails(shop.api.post("integrations/connect", body), 400, "INTEGRATIONS_TOOLKIT_NOT_ENABLED")
    call = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"}
    assert shop.api.post("integrations/execute", call).status_code == 200
    fails(shop.api.post("integrations/execute", call | {"userId": "u2"}), 400, "INTEGRATIONS_TOOLKIT_NOT_ENABLED")


def test_disabling_with_revoke_ends_the_connections(shop: Shop) -> None:
    error = fails(shop.api.delete("integrations/configure/lab?connections=no"), 400, "VALIDATION_INVALID_SCHEMA")
    assert list(error["details"]) == ["connections"]
    assert Connection.objects.exists()
    assert shop.api.delete("integrations/configure/lab?connections=revoke").status_code == 204
    assert not Connection.objects.exists()


# -- connect ---------------------------------------------------------------------------------------------------------
def test_connect_gives_the_providers_own_url_and_the_future_id(cast: Cast) -> None:
    enable(cast.project, "github", client_id="abc")
    answer = cast.api.post("integrations/connect", {"toolkit": "github", "userId": "u1"})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"authUrl", "connectionRequestId"}
    assert body["connectionRequestId"].startswith("ca_")
    url = urlsplit(body["authUrl"])
    query = parse_qs(url.query)
    assert (url.scheme, url.netloc, query["client_id"]) == ("https", "github.com", ["abc"])
    assert query["code_challenge_method"] == ["S256"]
    assert query["redirect_uri"][0].endswith(f"/v1/{cast.project.pk}/integrations/callback")
    session = ConnectSession.objects.get()
    assert session.state_digest == digest(query["state"][0])
    assert session.connection_id == body["connectionRequestId"]
    assert timedelta(minutes=29) < session.expires_at - timezone.now() <= timedelta(minutes=30)


def test_connect_gives_our_form_for_a_toolkit_without_oauth(cast: Cast) -> None:
    enable(cast.project, "openai")
    body = cast.api.post("integrations/connect", {"toolkit": "openai", "userId": "u1"}).json()
    assert "/connect/" in body["authUrl"]
    page = Client().get(urlsplit(body["authUrl"]).path)
    assert page.status_code == 200
    assert b"<form" in page.content


def test_reconnecting_promises_the_id_that_the_connection_has(shop: Shop) -> None:
    body = {"toolkit": "lab", "userId": "u1"}
    assert shop.api.post("integrations/connect", body).json()["connectionRequestId"] == shop.connection.pk
    other = shop.api.post("integrations/connect", body | {"allowMultiple": True}).json()["connectionRequestId"]
    assert other.startswith("ca_")
    assert other != shop.connection.pk


def test_connect_checks_body_then_enabled_then_configured_then_return_url(cast: Cast) -> None:
    api = cast.api
    body: dict[str, object] = {"toolkit": "github", "redirectUrl": "https://evil.example/", "userId": 5}
    fails(api.post("integrations/connect", body), 400, "VALIDATION_INVALID_SCHEMA")
    body["userId"] = "u1"
    fails(api.post("integrations/connect", body), 400, "INTEGRATIONS_TOOLKIT_NOT_ENABLED")
    enable(cast.project, "github", client_id="", client_secret="")
    fails(api.post("integrations/connect", body), 400, "INTEGRATIONS_NOT_CONFIGURED")
    enable(cast.project, "github")
    error = fails(api.post("integrations/connect", body), 400, "VALIDATION_INVALID_SCHEMA")
    assert list(error["details"]) == ["redirectUrl"]
    assert not EndUser.objects.filter(project=cast.project).exists()
    body["redirectUrl"] = "http://127.0.0.1:8000/own"  # the installation's own origin always is allowed
    assert api.post("integrations/connect", body).status_code == 200


def test_connect_without_a_user_names_user_id_among_all_faults(cast: Cast) -> None:
    error = fails(cast.api.post("integrations/connect", {"redirectUrl": 1}), 400, "VALIDATION_INVALID_SCHEMA")
    assert set(error["details"]) == {"toolkit", "redirectUrl", "userId"}


@pytest.mark.parametrize("user", ["", 5, None, True, [], {}, "x" * 256, "a\u0000b", "a\nb", "\ud800"])
def test_a_user_id_is_a_printable_text_of_1_to_255_characters(cast: Cast, user: object) -> None:
    enable(cast.project, "github")
    body = {"toolkit": "github", "userId": user}
    error = fails(cast.api.post("integrations/connect", body), 400, "VALIDATION_INVALID_SCHEMA")
    assert list(error["details"]) in (["userId"], ["body"])


@pytest.mark.parametrize("user", ["x" * 255, "a/b/../c", "Jörg 🙂", " spaces ", "..", "%2e", "ca_1", "null"])
def test_any_other_text_is_a_user_id_and_is_kept_as_it_is(cast: Cast, user: str) -> None:
    enable(cast.project, "github")
    assert cast.api.post("integrations/connect", {"toolkit": "github", "userId": user}).status_code == 200
    assert EndUser.objects.get(project=cast.project).external_id == user


def test_the_user_may_be_named_by_a_header_in_utf8(cast: Cast) -> None:
    enable(cast.project, "github")
    name = "Jörg".encode().decode("latin-1")  # as WSGI hands it over
    answer = cast.api.post("integrations/connect", {"toolkit": "github"}, **{"X-End-User": name})
    assert answer.status_code == 200
    assert EndUser.objects.get(project=cast.project).external_id == "Jörg"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://yourapp.com/settings", True),
        ("https://yourapp.com:443/x?y=1#z", True),
        ("HTTPS://YourApp.com/", True),
        ("https://yourapp.com.evil.example/", False),
        ("https://yourapp.com@evil.example/", False),
        ("https://evil.example\\@yourapp.com/", False),
        ("http://yourapp.com/", False),
        ("https://yourapp.com:8443/", False),
        ("//yourapp.com/", False),
        ("/settings", False),
        ("javascript:alert(1)", False),
        ("https://yourapp.com/\r\nX: y", False),
        ("https://[", False),
    ],
)
def test_a_return_url_lies_on_an_allowed_origin(cast: Cast, url: str, allowed: bool) -> None:
    change_settings(cast.project, {"allowedOrigins": ["https://yourapp.com"]}, SYSTEM)
    enable(cast.project, "github")
    answer = cast.api.post("integrations/connect", {"toolkit": "github", "userId": "u", "redirectUrl": url})
    if allowed:
        assert answer.status_code == 200
    else:
        assert list(fails(answer, 400, "VALIDATION_INVALID_SCHEMA")["details"]) == ["redirectUrl"]


def test_the_plans_connections_are_a_quota(shop: Shop) -> None:
    limit(shop.cast, connections=1)
    body = {"toolkit": "lab", "userId": "u2"}
    fails(shop.api.post("integrations/connect", body), 429, "INTEGRATIONS_QUOTA_EXCEEDED")
    assert shop.api.post("integrations/connect", body | {"userId": "u1"}).status_code == 200  # renews the one there is


# -- connections -----------------------------------------------------------------------------------------------------
def test_a_key_sees_all_connections_newest_first_filtered_and_paged(shop: Shop) -> None:
    slack = enable(shop.cast.project, "slack")
    second = connect(shop.integration, "u2")
    third = connect(slack, "u2")
    rows = shop.api.get("integrations/connections").json()["connections"]
    assert [row["id"] for row in rows] == [third.pk, second.pk, shop.connection.pk]
    assert all(set(row) == CONNECTION for row in rows)
    row = rows[-1]
    assert (row["app_user_id"], row["toolkit_slug"], row["status"]) == ("u1", "lab", "active")
    assert is_time(row["connected_at"])
    assert row["last_used_at"] is None

    def ids(query: str) -> list[str]:
        return [row["id"] for row in shop.api.get(f"integrations/connections?{query}").json()["connections"]]

    assert ids("userId=u2") == [third.pk, second.pk]
    assert ids("toolkit=lab") == [second.pk, shop.connection.pk]
    assert ids("toolkit=lab&userId=u2") == [second.pk]
    assert ids("userId=nobody") == []
    page = shop.api.get("integrations/connections?limit=2").json()
    assert [row["id"] for row in page["connections"]] == [third.pk, second.pk]
    assert ids(f"limit=2&cursor={page['nextCursor']}") == [shop.connection.pk]


def test_a_connection_tells_its_status_and_last_use(shop: Shop) -> None:
    shop.api.post("integrations/execute", {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"})
    shop.executions()
    row = shop.api.get(f"integrations/connections/{shop.connection.pk}").json()
    assert set(row) == CONNECTION
    assert is_time(row["last_used_at"])
    for status in ("inactive", "expired", "active"):
        Connection.objects.update(status=status)
        assert shop.api.get(f"integrations/connections/{shop.connection.pk}").json()["status"] == status


def test_a_connection_is_pending_until_the_person_has_finished(shop: Shop) -> None:
    pending = shop.api.post("integrations/connect", {"toolkit": "lab", "userId": "u9"}).json()["connectionRequestId"]
    row = shop.api.get(f"integrations/connections/{pending}").json()
    assert set(row) == CONNECTION
    assert (row["status"], row["app_user_id"], row["toolkit_slug"]) == ("pending", "u9", "lab")
    assert pending not in [row["id"] for row in shop.api.get("integrations/connections").json()["connections"]]
    ConnectSession.objects.update(expires_at=timezone.now())
    assert shop.api.get(f"integrations/connections/{pending}").json()["status"] == "inactive"


def test_confirming_makes_an_inactive_connection_active(shop: Shop) -> None:
    Connection.objects.update(status="inactive")
    call = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"}
    fails(shop.api.post("integrations/execute", call), 400, "INTEGRATIONS_NOT_CONNECTED")
    answer = shop.api.post(f"integrations/connections/{shop.connection.pk}/confirm")
    assert (answer.status_code, set(answer.json()), answer.json()["status"]) == (200, CONNECTION, "active")
    assert shop.api.post("integrations/execute", call).status_code == 200
    fails(shop.api.post("integrations/connections/ca_none/confirm"), 404, "RESOURCE_NOT_FOUND")


def test_disconnecting_is_204_and_then_404(shop: Shop) -> None:
    path = f"integrations/connections/{shop.connection.pk}"
    answer = shop.api.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    fails(shop.api.delete(path), 404, "RESOURCE_NOT_FOUND")
    fails(shop.api.get(path), 404, "RESOURCE_NOT_FOUND")


# -- end users -------------------------------------------------------------------------------------------------------
def test_end_users_are_listed_and_purged_with_all_that_is_theirs(shop: Shop) -> None:
    end_user(shop.cast.project, "a/b ö")
    shop.api.post("integrations/execute", {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"})
    assert len(shop.executions()) == 1
    body = shop.api.get("end-users").json()
    assert set(body) == {"endUsers", "nextCursor"}
    assert [row["id"] for row in body["endUsers"]] == ["a/b ö", "u1"]
    assert shop.api.delete("end-users/u1").status_code == 204
    assert shop.api.delete("end-users/a%2Fb%20%C3%B6").status_code == 204
    assert shop.api.delete("end-users/nobody").status_code == 204
    assert not EndUser.objects.filter(project=shop.cast.project).exists()
    assert not Connection.objects.exists()
    assert not shop.executions()


# -- the seed's table ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("code", "statuses"),
    [
        ("INTEGRATIONS_NOT_CONFIGURED", {400}),
        ("INTEGRATIONS_TOOLKIT_NOT_ENABLED", {400}),
        ("INTEGRATIONS_NOT_CONNECTED", {400}),
        ("INTEGRATIONS_CONNECTION_EXPIRED", {401}),
        ("INTEGRATIONS_EXECUTION_FAILED", {422, 502}),
        ("INTEGRATIONS_QUOTA_EXCEEDED", {429}),
        ("VALIDATION_INVALID_SCHEMA", {400}),
        ("AUTH_REQUIRED", {401}),
        ("AUTH_INVALID_API_KEY", {401}),
        ("AUTH_INVALID_END_USER_JWT", {401}),
        ("AUTH_END_USER_JWT_EXPIRED", {401}),
        ("AUTH_INVALID_TOKEN", {401}),
        ("AUTH_INSUFFICIENT_PERMISSIONS", {403}),
        ("RESOURCE_NOT_FOUND", {404}),
        ("QUOTA_RATE_LIMIT", {429}),
        ("REQUEST_CONFLICT", {409}),
        ("PAYLOAD_TOO_LARGE", {413}),
        ("METHOD_NOT_ALLOWED", {405}),
        ("INTERNAL_ERROR", {500}),
    ],
)
def test_every_code_has_its_status_and_a_place_on_the_documentation_page(code: str, statuses: set[int]) -> None:
    def below(base: type[errors.Failure]) -> list[type[errors.Failure]]:
        return [base, *(found for child in base.__subclasses__() for found in below(child))]

    assert {cls.status for cls in below(errors.Failure) if cls.code == code} == statuses
    page = Client().get("/docs/errors")
    assert page.status_code == 200
    assert f'id="{code}"' in page.content.decode()


def test_a_project_of_the_same_workspace_keeps_its_own(shop: Shop) -> None:
    other = Project.objects.create(workspace=shop.cast.workspace, name="Second")
    fails(Api(other, shop.cast.key).get("integrations/connections"), 404, "RESOURCE_NOT_FOUND")


def test_a_toolkit_that_left_the_catalog_disturbs_no_list(cast: Cast, lab: Toolkit) -> None:
    Integration.objects.create(project=cast.project, toolkit="gone", display_name="Gone")
    assert cast.api.get("integrations/config").json()["integrations"][0]["toolkit_slug"] == "gone"
    assert cast.api.get("integrations/tools").json()["tools"] == []
