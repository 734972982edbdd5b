"""Who calls, and what they may: keys, end users' tokens, members' tokens, on every route."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import jwt
import pytest
from django.test import Client
from django.utils import timezone

from apps.connections.models import Connection
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import ApiKey, AuditEvent, EndUser, Role, User
from apps.workspaces.services import add_member, end_user, issue_key, revoke_key
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import Shop, fails
from tests.cast import PASSWORD, Api, Cast, connect, enable

ADMIN_ROUTES = [
    ("GET", "integrations/available"),
    ("GET", "integrations/config"),
    ("POST", "integrations/configure"),
    ("DELETE", "integrations/configure/github"),
    ("GET", "settings"),
    ("PATCH", "settings"),
    ("GET", "end-users"),
    ("DELETE", "end-users/u1"),
    ("GET", "executions"),
    ("GET", "executions/x"),
]


def user_api(cast: Cast, user_id: str = "u1", seconds: int = 600) -> Api:
    return Api(cast.project, mint_user_token(cast.project, user_id, seconds)[0])


def member_api(cast: Cast, email: str) -> Api:
    answer = Client().post("/api/auth/login", {"email": email, "password": PASSWORD}, content_type="application/json")
    assert answer.status_code == 200, answer.content
    return Api(cast.project, answer.json()["token"])


# -- headers ---------------------------------------------------------------------------------------------------------
def test_a_key_is_taken_from_either_header(cast: Cast) -> None:
    client, path = Client(), f"/v1/{cast.project.pk}/settings"
    assert client.get(path, headers={"Authorization": f"Bearer {cast.key}"}).status_code == 200
    assert client.get(path, headers={"Authorization": f"bearer   {cast.key}"}).status_code == 200
    assert client.get(path, headers={"X-API-Key": cast.key}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": ""}, {"Authorization": "Bearer "}, {"Authorization": "Basic YTpi"}, {"X-API-Key": " "}],
)
def test_without_a_credential_it_is_auth_required(cast: Cast, headers: dict[str, str]) -> None:
    answer = Client().get(f"/v1/{cast.project.pk}/settings", headers=headers)
    fails(answer, 401, "AUTH_REQUIRED")
    assert answer["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("key", ["wrong", "jf_sk_wrong", "a.b", "a.b.c.d", "ä", "x" * 5000])
def test_what_is_no_key_is_refused(cast: Cast, key: str) -> None:
    for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
        fails(Client().get(f"/v1/{cast.project.pk}/settings", headers=headers), 401, "AUTH_INVALID_API_KEY")


def test_with_a_token_and_a_key_the_token_decides(shop: Shop) -> None:
    token = mint_user_token(shop.cast.project, "u1", 600)[0]
    path = f"/v1/{shop.cast.project.pk}/"
    both = {"Authorization": f"Bearer {token}", "X-API-Key": shop.cast.key}
    connect(shop.integration, "u2")
    rows = Client().get(f"{path}integrations/connections", headers=both).json()["connections"]
    assert [row["app_user_id"] for row in rows] == ["u1"]
    fails(Client().get(f"{path}settings", headers=both), 403, "AUTH_INSUFFICIENT_PERMISSIONS")


@pytest.mark.parametrize("token", ["a.b.c", "..", "eyJhbGciOiJub25lIn0.e30.", "ä.ö.ü", "eyJhbGciOiJIUzI1NiJ9.e30.AAAA"])
def test_a_bad_token_is_not_made_good_by_a_key(cast: Cast, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}", "X-API-Key": cast.key}
    fails(Client().get(f"/v1/{cast.project.pk}/settings", headers=headers), 401, "AUTH_INVALID_END_USER_JWT")


# -- keys ------------------------------------------------------------------------------------------------------------
def test_a_revoked_key_is_refused_at_once(cast: Cast) -> None:
    assert cast.api.get("settings").status_code == 200
    revoke_key(ApiKey.objects.get(digest=ApiKey.digest_of(cast.key)), SYSTEM)
    fails(cast.api.get("settings"), 401, "AUTH_INVALID_API_KEY")


def test_a_key_ends_at_its_expiry(cast: Cast) -> None:
    api = cast.with_key("admin", expires_at=timezone.now() + timedelta(hours=1))
    assert api.get("settings").status_code == 200
    ApiKey.objects.update(expires_at=timezone.now())
    fails(api.get("settings"), 401, "AUTH_INVALID_API_KEY")


@pytest.mark.parametrize(("method", "path"), ADMIN_ROUTES)
def test_admin_routes_need_the_scope_admin(cast: Cast, method: str, path: str) -> None:
    for api in (cast.with_key("connect", "execute", "runs", "secrets"), user_api(cast)):
        fails(api.call(method, path, {"toolkit": "github"}), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    body = {} if method == "PATCH" else {"toolkit": "github"}
    status = cast.with_key("admin").call(method, path, body).status_code
    assert status in ({404} if path == "executions/x" else {200, 204})


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("connect", "POST", "integrations/connect"),
        ("connect", "DELETE", "integrations/connections/ca_1"),
        ("connect", "POST", "integrations/connections/ca_1/confirm"),
        ("connect", "POST", "user-tokens"),
        ("execute", "POST", "integrations/execute"),
    ],
)
def test_other_routes_need_their_scope(cast: Cast, scope: str, method: str, path: str) -> None:
    others = [name for name in ("admin", "connect", "execute", "runs", "secrets") if name != scope]
    fails(cast.with_key(*others).call(method, path, {}), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    assert cast.with_key(scope).call(method, path, {}).status_code in {400, 404}


def test_head_needs_what_get_needs(cast: Cast) -> None:
    assert user_api(cast).call("HEAD", "settings").status_code == 403
    assert cast.api.call("HEAD", "settings").status_code == 200


def test_a_key_of_some_toolkits_uses_only_those(shop: Shop) -> None:
    slack = enable(shop.cast.project, "slack")
    other = connect(slack, "u1")
    api = shop.cast.with_key("connect", "execute", toolkits=["lab"])
    body = {"toolName": "SLACK_SEND_MESSAGE", "params": {}, "userId": "u1"}
    fails(api.post("integrations/execute", body), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    fails(api.post("integrations/connect", {"toolkit": "slack", "userId": "u1"}), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    fails(api.get(f"integrations/connections/{other.pk}"), 404, "RESOURCE_NOT_FOUND")
    fails(api.delete(f"integrations/connections/{other.pk}"), 404, "RESOURCE_NOT_FOUND")
    assert [row["toolkit_slug"] for row in api.get("integrations/connections").json()["connections"]] == ["lab"]
    names = [row["name"] for row in api.get("integrations/tools").json()["tools"]]
    assert all(name.startswith("LAB_") for name in names)
    call = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"}
    assert api.post("integrations/execute", call).status_code == 200


def test_a_key_bound_to_a_user_is_that_user(shop: Shop) -> None:
    connect(shop.integration, "u2", access_token="at-of-u2")
    bound = shop.cast.with_key("connect", "execute", end_user=EndUser.objects.get(external_id="u1"))
    call = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u2"}
    for body in (call, call | {"userId": 5}, {name: value for name, value in call.items() if name != "userId"}):
        answer = bound.post("integrations/execute", body, **{"X-End-User": "u2"})
        assert answer.json()["data"]["headers"]["authorization"] == "Bearer at-1-secret"
    rows = bound.get("integrations/connections?userId=u2").json()["connections"]
    assert [row["app_user_id"] for row in rows] == ["u1"]
    fails(bound.post("user-tokens", {"userId": "u2"}), 403, "AUTH_INSUFFICIENT_PERMISSIONS")


def test_a_workspaces_key_works_at_each_of_its_projects_only(cast: Cast) -> None:
    secret = issue_key(cast.workspace, "ws", SYSTEM, scopes=["admin"])[1]
    assert Api(cast.project, secret).get("settings").json()["id"] == cast.project.pk
    fails(Api(cast.foreign_project, secret).get("settings"), 404, "RESOURCE_NOT_FOUND")


# -- end users -------------------------------------------------------------------------------------------------------
def test_a_minted_token_lets_its_user_list_connect_and_execute(shop: Shop) -> None:
    answer = shop.api.post("user-tokens", {"userId": "u1", "ttl": 60})
    assert answer.status_code == 201
    assert set(answer.json()) == {"token", "expiresAt"}
    api = Api(shop.cast.project, answer.json()["token"])
    assert [row["app_user_id"] for row in api.get("integrations/connections").json()["connections"]] == ["u1"]
    assert api.post("integrations/connect", {"toolkit": "lab"}).json()["connectionRequestId"] == shop.connection.pk
    assert api.post("integrations/execute", {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}}).status_code == 200
    assert api.get("integrations/tools").json()["tools"]
    assert AuditEvent.objects.filter(action="user_token.minted", target="u1").exists()


def test_the_body_cannot_make_somebody_else_of_a_user(shop: Shop) -> None:
    connect(shop.integration, "u2", access_token="at-of-u2")
    api = user_api(shop.cast)
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u2"}
    for named in (body, body | {"userId": 7}):
        data = api.post("integrations/execute", named, **{"X-End-User": "u2"}).json()["data"]
        assert data["headers"]["authorization"] == "Bearer at-1-secret"
    api.post("integrations/connect", {"toolkit": "lab", "userId": "u2"})
    assert EndUser.objects.count() == 2


def test_a_user_touches_only_their_own_connections(shop: Shop) -> None:
    other = connect(shop.integration, "u2")
    api = user_api(shop.cast)
    path = f"integrations/connections/{other.pk}"
    fails(api.get(path), 404, "RESOURCE_NOT_FOUND")
    fails(api.delete(path), 404, "RESOURCE_NOT_FOUND")
    fails(api.post(f"{path}/confirm"), 404, "RESOURCE_NOT_FOUND")
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "connectionId": other.pk}
    fails(api.post("integrations/execute", body), 400, "INTEGRATIONS_NOT_CONNECTED")
    pending = shop.api.post("integrations/connect", {"toolkit": "lab", "userId": "u3"}).json()["connectionRequestId"]
    fails(api.get(f"integrations/connections/{pending}"), 404, "RESOURCE_NOT_FOUND")
    assert Connection.objects.filter(pk=other.pk).exists()
    assert api.delete(f"integrations/connections/{shop.connection.pk}").status_code == 204


def test_an_expired_user_token_says_so(cast: Cast) -> None:
    api = user_api(cast, seconds=-1)
    fails(api.get("integrations/connections"), 401, "AUTH_END_USER_JWT_EXPIRED")


def test_a_token_of_another_project_is_none(cast: Cast) -> None:
    token = mint_user_token(cast.foreign_project, "u1", 600)[0]
    for project_id in (cast.project.pk, "proj_unknown"):
        answer = Client().get(
            f"/v1/{project_id}/integrations/connections", headers={"Authorization": f"Bearer {token}"}
        )
        fails(answer, 401, "AUTH_INVALID_END_USER_JWT")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"userId"}),
        ({"userId": ""}, {"userId"}),
        ({"userId": 5}, {"userId"}),
        ({"userId": "x" * 256}, {"userId"}),
        ({"userId": "a\u0000"}, {"userId"}),
        ({"userId": "u", "ttl": 0}, {"ttl"}),
        ({"userId": "u", "ttl": 86_401}, {"ttl"}),
        ({"userId": "u", "ttl": "soon"}, {"ttl"}),
        ({"userId": "u", "ttl": 10**400}, {"ttl"}),
        ({"userId": None, "ttl": None}, {"userId", "ttl"}),
    ],
)
def test_user_tokens_name_every_fault(cast: Cast, body: dict[str, Any], fields: set[str]) -> None:
    assert set(fails(cast.api.post("user-tokens", body), 400, "VALIDATION_INVALID_SCHEMA")["details"]) == fields


# -- members ---------------------------------------------------------------------------------------------------------
READS = ["integrations/available", "integrations/config", "integrations/connections", "integrations/tools", "settings",
         "end-users", "executions"]  # fmt: skip


def test_a_viewer_reads_and_changes_nothing(shop: Shop) -> None:
    api = member_api(shop.cast, "bob@example.com")
    for path in READS:
        assert api.get(path).status_code == 200, path
    for method, path in [
        ("POST", "integrations/configure"),
        ("DELETE", "integrations/configure/lab"),
        ("POST", "integrations/connect"),
        ("POST", "integrations/execute"),
        ("DELETE", f"integrations/connections/{shop.connection.pk}"),
        ("POST", f"integrations/connections/{shop.connection.pk}/confirm"),
        ("PATCH", "settings"),
        ("DELETE", "end-users/u1"),
        ("POST", "user-tokens"),
    ]:
        fails(api.call(method, path, {"toolkit": "lab", "userId": "u1"}), 403, "AUTH_INSUFFICIENT_PERMISSIONS")


def test_a_developer_does_all_but_delete(shop: Shop) -> None:
    dora = User.objects.create_user("dora@example.com", PASSWORD)
    add_member(shop.cast.workspace, dora, Role.DEVELOPER, SYSTEM)
    api = member_api(shop.cast, "dora@example.com")
    assert api.post("integrations/configure", {"toolkit": "lab"}).status_code == 200
    assert api.patch("settings", {"colour": "#000000"}).status_code == 200
    assert api.post("integrations/connect", {"toolkit": "lab", "userId": "u1"}).status_code == 200
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"}
    assert api.post("integrations/execute", body).status_code == 200
    for path in ("integrations/configure/lab", f"integrations/connections/{shop.connection.pk}", "end-users/u1"):
        fails(api.delete(path), 403, "AUTH_INSUFFICIENT_PERMISSIONS")


@pytest.mark.parametrize("role", [Role.OWNER, Role.ADMIN])
def test_owners_and_admins_do_all(shop: Shop, role: Role) -> None:
    erin = User.objects.create_user("erin@example.com", PASSWORD)
    add_member(shop.cast.workspace, erin, role, SYSTEM)
    api = member_api(shop.cast, "erin@example.com")
    assert api.delete(f"integrations/connections/{shop.connection.pk}").status_code == 204
    assert api.delete("end-users/u1").status_code == 204
    assert api.delete("integrations/configure/lab").status_code == 204


def test_a_member_of_another_workspace_finds_nothing(cast: Cast) -> None:
    api = member_api(cast, "charlie@example.com")
    fails(api.get("settings"), 404, "RESOURCE_NOT_FOUND")
    fails(Api(cast.project, api.key + "x").get("settings"), 401, "AUTH_INVALID_TOKEN")


def test_a_members_token_that_expired_is_no_token(cast: Cast, settings: Any) -> None:
    token = member_api(cast, "alice@example.com").key
    from apps.workspaces.tokens import _key

    claims = jwt.decode(token, options={"verify_signature": False})
    claims["exp"] = 1
    old = jwt.encode(claims, _key("member"), algorithm="HS256", headers={"typ": "jf-member+jwt"})
    fails(Api(cast.project, old).get("settings"), 401, "AUTH_INVALID_TOKEN")


# -- settings --------------------------------------------------------------------------------------------------------
def test_settings_are_read_and_changed_in_part(cast: Cast) -> None:
    row = cast.api.get("settings").json()
    assert {"id", "name", "logo", "colour", "allowedOrigins", "confirmConnections"} <= set(row)
    changed = cast.api.patch(
        "settings", {"name": "Store", "allowedOrigins": ["https://App.example:443/", "http://localhost:3000"]}
    )
    assert changed.status_code == 200
    assert changed.json() == row | {"name": "Store", "allowedOrigins": ["http://localhost:3000", "https://app.example"]}
    assert cast.api.get("settings").json() == changed.json()
    assert cast.api.patch("settings", {}).json() == changed.json()


def test_settings_name_every_fault(cast: Cast) -> None:
    body = {
        "name": "a/b",
        "logo": "http://x.example/l.png",
        "colour": "red",
        "allowedOrigins": ["*", "https://ok.example", "https://x.example/path"],
        "confirmConnections": "maybe",
    }
    details: Any = fails(cast.api.patch("settings", body), 400, "VALIDATION_INVALID_SCHEMA")["details"]
    assert set(details) == set(body)
    assert len(details["allowedOrigins"]) == 2
    unknown = fails(cast.api.patch("settings", {"nmae": "x"}), 400, "VALIDATION_INVALID_SCHEMA")
    assert set(unknown["details"]) == {"nmae"}


@pytest.mark.parametrize("name", ["", " ", "a\u0000", "a\nb", 5, None, "x" * 101])
def test_a_projects_name_is_one_line_of_text(cast: Cast, name: Any) -> None:
    assert set(fails(cast.api.patch("settings", {"name": name}), 400, "VALIDATION_INVALID_SCHEMA")["details"]) == {
        "name"
    }


def test_two_projects_of_a_workspace_cannot_share_a_name(cast: Cast) -> None:
    from apps.workspaces.services import create_project

    create_project(cast.workspace, "Second", SYSTEM)
    fails(cast.api.patch("settings", {"name": "Second"}), 409, "REQUEST_CONFLICT")


# -- executions ------------------------------------------------------------------------------------------------------
def test_executions_are_listed_newest_first_filtered_and_paged(shop: Shop) -> None:
    end_user(shop.cast.project, "u2")
    for number in range(3):
        body = {"toolName": "LAB_GET_ITEM", "params": {"id": str(number)}, "userId": "u1"}
        shop.api.post("integrations/execute", body, **{"X-Request-Id": f"mine-{number}"})
    shop.api.post("integrations/execute", {"toolName": "NONE", "userId": "u2"})
    page = shop.api.get("executions").json()
    assert set(page) == {"executions", "nextCursor"}
    assert [row["requestId"] for row in page["executions"][1:]] == ["mine-2", "mine-1", "mine-0"]
    first = page["executions"][-1]
    assert {"id", "toolkit", "tool", "successful", "userId", "connectionId", "createdAt", "durationMs"} <= set(first)
    assert (first["toolkit"], first["tool"], first["successful"], first["status"]) == ("lab", "LAB_GET_ITEM", True, 200)
    assert shop.api.get(f"executions/{first['id']}").json() == first
    assert page["executions"][0]["error"] == "INTEGRATIONS_EXECUTION_FAILED"

    def count(query: str) -> int:
        return len(shop.api.get(f"executions?{query}").json()["executions"])

    assert [count(query) for query in ("successful=true", "successful=false", "userId=u1", "toolkit=lab")] == [
        3,
        1,
        3,
        3,
    ]
    assert [count(query) for query in ("requestId=mine-1", "tool=LAB_GET_ITEM", "connectionId=x", "limit=2")] == [
        1,
        3,
        0,
        2,
    ]
    middle = first["createdAt"].replace("+", "%2B")
    assert [count(f"until={middle}"), count(f"since={middle}")] == [0, 4]
    cursor = shop.api.get("executions?limit=3").json()["nextCursor"]
    assert [row["requestId"] for row in shop.api.get(f"executions?cursor={cursor}").json()["executions"]] == ["mine-0"]
    fails(shop.api.get("executions/none"), 404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize("query", ["since=yesterday", "until=2026-01-01", "since=2026-01-01T00:00:00", "successful=1",
                                   "since=0001-01-01T00:00:00%2B23:59", "limit=x", "cursor=W10", "cursor=WyJ4IiwgInkiXQ",
                                   "cursor=WyIyMDI2LTAxLTAxVDAwOjAwOjAwIiwgInkiXQ", "cursor=%C3%A4"])  # fmt: skip
def test_a_wrong_filter_is_named(cast: Cast, query: str) -> None:
    error = fails(cast.api.get(f"executions?{query}"), 400, "VALIDATION_INVALID_SCHEMA")
    assert list(error["details"]) == [query.partition("=")[0]]


def test_a_minted_token_permits_no_more_than_the_key_that_minted_it(shop: Shop) -> None:
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}}

    def minted(*scopes: str, **options: Any) -> Api:
        answer = shop.cast.with_key(*scopes, **options).post("user-tokens", {"userId": "u1"})
        return Api(shop.cast.project, answer.json()["token"])

    whole = minted("connect", "execute", "admin")
    assert whole.post("integrations/execute", body).status_code == 200
    fails(whole.get("settings"), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    fails(minted("connect").post("integrations/execute", body), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    limited = minted("connect", "execute", toolkits=["github"])
    fails(limited.post("integrations/execute", body), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    assert limited.get("integrations/connections").json()["connections"] == []


def test_a_key_configures_only_its_toolkits(shop: Shop) -> None:
    api = shop.cast.with_key("admin", toolkits=["github"])
    body = {"toolkit": "lab", "settings": {"base_url": "https://thief.example"}}
    fails(api.post("integrations/configure", body), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    fails(api.delete("integrations/configure/lab?connections=revoke"), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    assert api.get("integrations/config").json()["integrations"] == []
    assert api.post("integrations/configure", {"toolkit": "github"}).status_code == 200
    assert [row["toolkit_slug"] for row in api.get("integrations/config").json()["integrations"]] == ["github"]
