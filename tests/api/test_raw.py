"""The Raw execute API: integrations, their credentials, and calls of any endpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import LazySettings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.connections import raw as raw_integrations
from apps.connections.models import Connection, Integration
from apps.runs.models import Execution
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, Plan, Role
from apps.workspaces.services import add_member, issue_key
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import Shop
from tests.cast import PASSWORD, Api, connect

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

KEY = "k-1234567890"


@dataclass
class Desk:
    """The Raw execute API of Alice's project, called with one key or token."""

    shop: Shop
    key: str = ""

    def __post_init__(self) -> None:
        self.api = Api(self.shop.cast.project, self.key or self.shop.cast.key)
        self.root = f"/api/integrations/projects/{self.shop.cast.project.pk}/integrations"

    def call(self, method: str, tail: str, body: Any = None, **headers: str) -> Answer:
        return self.api.call(method, self.root + tail, body, **headers)

    def custom(self, config: dict[str, Any] | None = None, **more: Any) -> str:
        """A custom integration at the echoing upstream; its id."""
        base = {"baseUrl": f"{self.shop.upstream.url}/echo"}
        body = {"name": "Own", "provider": "custom", "config": base | (config or {})} | more
        answer = self.call("POST", "", body)
        assert answer.status_code == 201, answer.content
        return str(answer.json()["integration"]["_id"])

    def execute(self, integration: str, endpoint: str, method: str = "GET", headers: Any = None, **more: Any) -> Answer:
        body = {"endpoint": endpoint, "method": method} | more
        return self.call("POST", f"/{integration}/execute", body, **(headers or {}))

    def echoed(self, integration: str, endpoint: str = "/x", method: str = "GET", **more: Any) -> dict[str, Any]:
        """What the upstream saw of a call that went well."""
        answer = self.execute(integration, endpoint, method, **more)
        assert answer.status_code == 200, answer.content
        found = answer.json()
        assert found["success"] is True
        assert found["data"]["status"] == 200
        return dict(found["data"]["response"])


@pytest.fixture
def desk(shop: Shop) -> Desk:
    return Desk(shop)


def refused(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Asserts status, code, and an envelope that the published client can read; gives it."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error", "code", "details", "timestamp", "path", "requestId"}
    assert body["code"] == code
    assert body["details"] is None or isinstance(body["details"], (str, dict))
    assert body["requestId"] == answer["X-Request-Id"]
    return dict(body)


# -- Making ----------------------------------------------------------------------------------------------------------
def test_an_integration_is_made_read_listed_and_deleted(desk: Desk) -> None:
    config = {
        "baseUrl": f"{desk.shop.upstream.url}/echo",
        "auth": {"type": "header", "name": "X-Key"},
        "team": ["a", 1],
    }
    body = {"name": "Billing", "provider": "custom", "config": config, "credentials": {"apiKey": KEY}}
    made = desk.call("POST", "", body)
    assert made.status_code == 201
    row = made.json()["integration"]
    assert row == {
        "_id": row["_id"],
        "name": "Billing",
        "provider": "custom",
        "project": desk.shop.cast.project.pk,
        "status": "active",
        "config": config,
        "createdAt": row["createdAt"],
    }
    assert desk.call("GET", f"/{row['_id']}").json() == {"integration": row}
    listed = desk.call("GET", "").json()
    assert {"_id": row["_id"], "name": "Billing", "provider": "custom", "status": "active"} in listed["integrations"]
    assert listed["nextCursor"] is None
    gone = desk.call("DELETE", f"/{row['_id']}")
    assert gone.status_code == 200
    assert set(gone.json()) == {"message"}
    refused(desk.call("GET", f"/{row['_id']}"), 404, "NOT_FOUND")
    refused(desk.call("DELETE", f"/{row['_id']}"), 404, "NOT_FOUND")
    assert not Connection.objects.filter(toolkit="custom").exists()


def test_the_list_is_paged_and_shows_what_was_enabled_elsewhere(desk: Desk) -> None:
    ids = [desk.custom() for _ in range(2)]
    first = desk.call("GET", "?limit=2").json()
    second = desk.call("GET", f"?limit=2&cursor={first['nextCursor']}").json()
    found = [row["_id"] for row in first["integrations"] + second["integrations"]]
    assert found == [desk.shop.integration.pk, *ids]
    assert second["nextCursor"] is None


def test_the_first_of_a_toolkit_serves_connect_and_tools_and_a_second_does_not(desk: Desk, lab: Any) -> None:
    desk.call("DELETE", f"/{desk.shop.integration.pk}")
    config = {"baseUrl": desk.shop.upstream.url}
    body = {"name": "Lab", "provider": "lab", "config": config, "credentials": {"accessToken": "at-shared"}}
    first, second = (desk.call("POST", "", body).json()["integration"]["_id"] for _ in range(2))
    assert list(Integration.objects.primary().filter(toolkit="lab").values_list("pk", flat=True)) == [first]
    assert Integration.objects.get(pk=second).is_primary is False
    assert [desk.echoed(one, "/echo")["headers"]["authorization"] for one in (first, second)] == [
        "Bearer at-shared"
    ] * 2
    tool = {"toolName": "LAB_GET_ITEM", "params": {"id": 1}, "userId": "u9"}
    assert desk.api.post("integrations/execute", tool).status_code == 400  # the user has none; shared is nobody's


def test_one_that_was_switched_off_is_switched_on_again(desk: Desk) -> None:
    desk.api.delete("integrations/configure/lab")
    assert desk.call("GET", "").json()["integrations"] == []
    assert desk.call("GET", f"/{desk.shop.integration.pk}").json()["integration"]["status"] == "inactive"
    made = desk.call("POST", "", {"name": "Again", "provider": "lab", "config": {"baseUrl": desk.shop.upstream.url}})
    assert made.json()["integration"]["_id"] == desk.shop.integration.pk
    assert Connection.objects.filter(pk=desk.shop.connection.pk).exists()
    assert Integration.objects.get().client_id == "client"


BAD_BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": None}, "name"),
    "blank name": ({"name": " "}, "name"),
    "long name": ({"name": "x" * 101}, "name"),
    "a number as name": ({"name": 5}, "name"),
    "NUL in the name": ({"name": "a\x00b"}, "name"),
    "unknown provider": ({"provider": "no-such-thing"}, "provider"),
    "a list as provider": ({"provider": ["custom"]}, "provider"),
    "a list as config": ({"config": []}, "config"),
    "no base URL": ({"config": {}}, "config.baseUrl"),
    "a number as base URL": ({"config": {"baseUrl": 5}}, "config.baseUrl"),
    "a relative base URL": ({"config": {"baseUrl": "/x"}}, "config.baseUrl"),
    "another scheme": ({"config": {"baseUrl": "ftp://api.example"}}, "config.baseUrl"),
    "a user in the base URL": ({"config": {"baseUrl": "https://a:b@api.example"}}, "config.baseUrl"),
    "a query in the base URL": ({"config": {"baseUrl": "https://api.example/?x=1"}}, "config.baseUrl"),
    "a fragment in the base URL": ({"config": {"baseUrl": "https://api.example/#"}}, "config.baseUrl"),
    "braces in the base URL": ({"config": {"baseUrl": "https://{x}.example"}}, "config.baseUrl"),
    "a line break in the base URL": ({"config": {"baseUrl": "https://api.example/\r\n"}}, "config.baseUrl"),
    "metadata address": ({"config": {"baseUrl": "http://169.254.169.254/latest"}}, "config.baseUrl"),
    "private address": ({"config": {"baseUrl": "https://10.0.0.1"}}, "config.baseUrl"),
    "IPv6 loopback": ({"config": {"baseUrl": "http://[::1]:80"}}, "config.baseUrl"),
    "mapped address": ({"config": {"baseUrl": "http://[::ffff:10.0.0.1]"}}, "config.baseUrl"),
    "hexadecimal address": ({"config": {"baseUrl": "http://0xa.0.0.1"}}, "config.baseUrl"),
    "decimal address": ({"config": {"baseUrl": "http://167772161"}}, "config.baseUrl"),
    "NUL in config": ({"config": {"note": "a\x00b"}}, "config"),
    "too much config": ({"config": {"note": "x" * 70_000}}, "config"),
    "auth is no object": ({"config": {"auth": "bearer"}}, "config.auth"),
    "unknown auth": ({"config": {"auth": {"type": "magic"}}}, "config.auth.type"),
    "auth of a list": ({"config": {"auth": {"type": ["bearer"]}}}, "config.auth.type"),
    "header without a name": ({"config": {"auth": {"type": "header"}}}, "config.auth.name"),
    "query without a name": ({"config": {"auth": {"type": "query", "name": ""}}}, "config.auth.name"),
    "credential as Host": ({"config": {"auth": {"type": "header", "name": "Host"}}}, "config.auth.name"),
    "line break in the name": ({"config": {"auth": {"type": "header", "name": "X\r\nY"}}}, "config.auth.name"),
    "line break in the prefix": ({"config": {"auth": {"type": "bearer", "prefix": "a\r\n"}}}, "config.auth.prefix"),
    "a name for basic": ({"config": {"auth": {"type": "basic", "name": "X"}}}, "config.auth.name"),
    "headers are a list": ({"config": {"headers": ["X: 1"]}}, "config.headers"),
    "a header twice": ({"config": {"headers": {"X-A": "1", "x-a": "2"}}}, "config.headers"),
    "line break in a header": ({"config": {"headers": {"X-A": "1\r\nX-B: 2"}}}, "config.headers.X-A"),
    "a number as header": ({"config": {"headers": {"X-A": 1}}}, "config.headers.X-A"),
    "hop by hop": ({"config": {"headers": {"Transfer-Encoding": "chunked"}}}, "config.headers.Transfer-Encoding"),
    "a secret header in the open": ({"config": {"headers": {"Authorization": "x"}}}, "config.headers.Authorization"),
    "an address it has no use for": ({"config": {"tokenUrl": "https://api.example"}}, "config.tokenUrl"),
    "credentials are a list": ({"credentials": [KEY]}, "credentials"),
    "a number as credential": ({"credentials": {"apiKey": 5}}, "credentials.apiKey"),
    "line break in a credential": ({"credentials": {"apiKey": "a\nb"}}, "credentials.apiKey"),
    "a credential unknown": ({"credentials": {"apiKey": KEY, "colour": "red"}}, "credentials.colour"),
    "half of basic": (
        {"config": {"auth": {"type": "basic"}}, "credentials": {"apiKey": KEY}},
        "credentials.username",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BODIES)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_made(desk: Desk, case: str) -> None:
    change, place = BAD_BODIES[case]
    body: dict[str, Any] = {"name": "Own", "provider": "custom", "config": {}, "credentials": {"apiKey": KEY}} | change
    if (
        place.startswith(("config.", "credentials"))
        and "baseUrl" not in change.get("config", {})
        and case != "no base URL"
    ):
        body["config"] = {"baseUrl": desk.shop.upstream.url, **(change.get("config") or {})}
    before = Integration.objects.count(), Connection.objects.count()
    said = refused(desk.call("POST", "", body), 400, "VALIDATION_ERROR")
    assert place in said["details"], said
    assert KEY not in json.dumps(said)
    assert (Integration.objects.count(), Connection.objects.count()) == before


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff", b'{"name": "\\ud800"}', b"[" * 200], ids=range(6))
def test_a_body_that_is_no_object_is_refused(desk: Desk, body: bytes) -> None:
    for tail in ("", "/from-template", "/import", f"/{desk.shop.integration.pk}/execute"):
        refused(desk.call("POST", tail, body), 400, "VALIDATION_ERROR")


def test_a_body_that_is_too_large_is_refused(desk: Desk) -> None:
    body = {"name": "x", "provider": "custom", "config": {"note": "x" * 1024 * 1024}}
    refused(desk.call("POST", "", body), 413, "PAYLOAD_TOO_LARGE")


def test_a_forbidden_address_is_refused_at_save_and_again_at_each_call(desk: Desk, settings: LazySettings) -> None:
    port = desk.shop.upstream.port
    integration = desk.custom({"baseUrl": f"http://localhost:{port}/echo"})  # a host to which no connection is open
    settings.JACKFIELD_EGRESS_ALLOW = ""
    for host in ("127.0.0.1", "localhost"):
        body = {"name": "x", "provider": "custom", "config": {"baseUrl": f"http://{host}:{port}"}}
        assert "config.baseUrl" in refused(desk.call("POST", "", body), 400, "VALIDATION_ERROR")["details"]
        answer = desk.call("PATCH", f"/{integration}", {"config": body["config"]})
        refused(answer, 400, "VALIDATION_ERROR")
    desk.shop.upstream.reset()
    refused(desk.execute(integration, "/x"), 502, "UPSTREAM_UNREACHABLE")
    assert desk.shop.upstream.requests() == []


def test_a_catalog_toolkits_own_address_may_be_replaced_but_not_by_a_forbidden_one(desk: Desk) -> None:
    body = {"name": "x", "provider": "lab", "config": {"baseUrl": "http://10.1.2.3"}}
    assert "config.baseUrl" in refused(desk.call("POST", "", body), 400, "VALIDATION_ERROR")["details"]
    body["config"] = {"variables": {"none": "x"}}
    assert "config.variables.none" in refused(desk.call("POST", "", body), 400, "VALIDATION_ERROR")["details"]


def test_the_installations_own_oauth_client_goes_to_no_other_host(desk: Desk, settings: LazySettings) -> None:
    settings.JACKFIELD_PLATFORM_CLIENTS = {"lab": "platform:secret"}
    settings.JACKFIELD_EGRESS_ALLOW = f"127.0.0.1:{desk.shop.upstream.port}"
    body = {"name": "x", "provider": "lab", "config": {"tokenUrl": "https://evil.example/token"}}
    assert "config" in refused(desk.call("POST", "", body), 400, "VALIDATION_ERROR")["details"]
    body["credentials"] = {"clientId": "own", "clientSecret": "own-secret"}
    made = desk.call("POST", "", body)
    assert made.status_code == 201
    row = Integration.objects.get(pk=made.json()["integration"]["_id"])
    assert (row.client_id, row.unseal("client_secret")) == ("own", "own-secret")
    assert "own" not in str(made.json()["integration"]["config"])


# -- Credentials -----------------------------------------------------------------------------------------------------
WAYS: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "a key as bearer token": ({}, {"apiKey": KEY}, f"Bearer {KEY}"),
    "a token": ({"auth": {"type": "bearer"}}, {"token": KEY}, f"Bearer {KEY}"),
    "another prefix": ({"auth": {"type": "bearer", "prefix": "Token "}}, {"api_key": KEY}, f"Token {KEY}"),
    "a header": ({"auth": {"type": "header", "name": "X-Key"}}, {"apiKey": KEY}, KEY),
    "the query": ({"auth": {"type": "query", "name": "key"}}, {"apiKey": KEY}, KEY),
    "a user name": ({}, {"username": "ada", "password": "pw-123456"}, "Basic YWRhOnB3LTEyMzQ1Ng=="),
    "basic": ({"auth": {"type": "basic"}}, {"username": "ada", "password": "pw-123456"}, "Basic YWRhOnB3LTEyMzQ1Ng=="),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_credential_is_sent_as_the_configuration_says_and_never_given_back(desk: Desk, way: str) -> None:
    config, credentials, sent = WAYS[way]
    integration = desk.custom(config, credentials=credentials)
    seen = desk.echoed(integration)
    places = [seen["headers"].get("authorization"), seen["headers"].get("x-key"), *seen["query"].get("key", [])]
    assert [place for place in places if place] == [sent]
    secret = credentials.get("password") or KEY
    for tail in ("", f"/{integration}", f"/{integration}/export"):
        assert secret not in desk.call("GET", tail).content.decode()
    stored = Connection.objects.get(integration=integration)
    assert secret not in stored.credentials
    assert secret not in json.dumps(list(AuditEvent.objects.values("details", "target")), default=str)
    assert all(secret not in f"{row.url} {row.request} {row.response}" for row in desk.shop.executions())


def test_a_custom_service_without_credentials_is_called_without_any(desk: Desk) -> None:
    integration = desk.custom()
    assert "authorization" not in desk.echoed(integration)["headers"]
    row = desk.shop.executions()[-1]
    assert (row.connection_id, row.integration_id, row.toolkit, row.successful) == ("", integration, "custom", True)


def test_one_that_says_how_credentials_are_sent_is_not_called_without_them(desk: Desk) -> None:
    integration = desk.custom({"auth": {"type": "bearer"}})
    said = refused(desk.execute(integration, "/x"), 400, "VALIDATION_ERROR")
    assert "credentials" in said["error"]
    assert desk.shop.upstream.count("/echo/x") == 0


def test_new_credentials_replace_the_old_and_empty_ones_keep_them(desk: Desk) -> None:
    integration = desk.custom(credentials={"apiKey": "first-key"})
    for credentials, expected in (({"token": "second-key"}, "second-key"), ({}, "second-key"), (None, "second-key")):
        assert desk.call("PATCH", f"/{integration}", {"credentials": credentials}).status_code == 200
        assert desk.echoed(integration)["headers"]["authorization"] == f"Bearer {expected}"
    assert Connection.objects.filter(integration=integration).count() == 1


def test_a_change_of_name_or_configuration_leaves_the_rest(desk: Desk) -> None:
    integration = desk.custom({"team": "a"}, credentials={"apiKey": KEY})
    renamed = desk.call("PATCH", f"/{integration}", {"name": "New"}).json()["integration"]
    assert (renamed["name"], renamed["config"]["team"]) == ("New", "a")
    config = {"baseUrl": f"{desk.shop.upstream.url}/echo/v2", "auth": {"type": "header", "name": "X-Key"}}
    changed = desk.call("PATCH", f"/{integration}", {"config": config}).json()["integration"]
    assert changed["config"] == config
    seen = desk.echoed(integration)
    assert (seen["path"], seen["headers"]["x-key"]) == ("/echo/v2/x", KEY)
    said = desk.call("PATCH", f"/{integration}", {"config": config | {"auth": {"type": "basic"}}})
    assert "credentials" in refused(said, 400, "VALIDATION_ERROR")["details"]
    assert desk.call("GET", f"/{integration}").json()["integration"]["config"] == config


@pytest.mark.parametrize(
    "body", [{"name": ""}, {"config": {}}, {"config": []}, {"credentials": "x"}, {"name": 1}], ids=str
)
def test_a_bad_change_changes_nothing(desk: Desk, body: dict[str, Any]) -> None:
    integration = desk.custom(credentials={"apiKey": KEY})
    before = Integration.objects.filter(pk=integration).values().get()
    refused(desk.call("PATCH", f"/{integration}", {"name": "New"} | body), 400, "VALIDATION_ERROR")
    assert Integration.objects.filter(pk=integration).values().get() == before


def test_a_refused_credential_leaves_the_new_name_unwritten_too(desk: Desk) -> None:
    integration = desk.custom()
    body = {"name": "New", "credentials": {"colour": "red"}}
    refused(desk.call("PATCH", f"/{integration}", body), 400, "VALIDATION_ERROR")
    assert Integration.objects.get(pk=integration).display_name == "Own"


def test_the_plans_limit_of_connections_holds_and_leaves_no_integration(desk: Desk) -> None:
    Plan.objects.filter(workspaces=desk.shop.cast.workspace).update(connections=1)
    base = {"baseUrl": desk.shop.upstream.url}
    body = {"name": "x", "provider": "custom", "config": base, "credentials": {"apiKey": KEY}}
    refused(desk.call("POST", "", body), 429, "RATE_LIMITED")
    assert Integration.objects.filter(toolkit="custom").count() == 0
    desk.custom()


def test_the_credentials_are_active_also_where_people_must_be_confirmed(desk: Desk) -> None:
    desk.api.patch("settings", {"confirmConnections": True})
    desk.echoed(desk.custom(credentials={"apiKey": KEY}))


# -- Templates, import and export ------------------------------------------------------------------------------------
def test_the_catalog_is_listed_and_searched(desk: Desk) -> None:
    found = desk.api.get("/api/integrations/templates?search=github").json()
    assert {"_id": "github", "name": "GitHub", "provider": "github"}.items() <= found["templates"][0].items()
    first = desk.api.get("/api/integrations/templates?limit=2").json()
    second = desk.api.get(f"/api/integrations/templates?limit=2&cursor={first['nextCursor']}").json()
    assert len({row["_id"] for row in first["templates"] + second["templates"]}) == 4
    refused(desk.api.get("/api/integrations/templates?limit=x"), 400, "VALIDATION_ERROR")


def test_an_integration_is_made_of_a_template(desk: Desk) -> None:
    body = {"templateId": "github", "credentials": {"token": "ghp-123456"}}
    made = desk.call("POST", "/from-template", body)
    assert made.status_code == 201
    assert made.json()["integration"]["name"] == "GitHub"
    named = desk.call("POST", "/from-template", body | {"name": "Second"}).json()["integration"]
    assert (named["name"], named["provider"], named["config"]) == ("Second", "github", {})
    for change in ({"templateId": "custom"}, {"templateId": None}, {"credentials": None}):
        refused(desk.call("POST", "/from-template", body | change), 400, "VALIDATION_ERROR")


def test_what_was_exported_is_imported_without_its_credentials(desk: Desk) -> None:
    integration = desk.custom({"auth": {"type": "bearer"}, "team": 1}, credentials={"apiKey": KEY})
    exported = desk.call("GET", f"/{integration}/export").json()
    assert exported["integration"]["credentials"] == {}
    for data in (exported, exported["integration"]):
        made = desk.call("POST", "/import", {"integrationData": data})
        assert made.status_code == 201, made.content
        row = made.json()["integration"]
        assert row["_id"] != integration
        assert {name: row[name] for name in ("name", "provider", "config")} == {
            name: exported["integration"][name] for name in ("name", "provider", "config")
        }
        refused(desk.execute(row["_id"], "/x"), 400, "VALIDATION_ERROR")
    said = refused(desk.call("POST", "/import", {"integrationData": {"name": "x"}}), 400, "VALIDATION_ERROR")
    assert "integrationData.provider" in said["details"]


def test_an_integration_configured_elsewhere_is_exported_whole_and_imported(desk: Desk) -> None:
    exported = desk.call("GET", f"/{desk.shop.integration.pk}/export").json()
    assert exported["integration"]["config"] == {"baseUrl": desk.shop.upstream.url}
    assert "client-secret" not in json.dumps(exported)
    assert desk.call("POST", "/import", {"integrationData": exported}).status_code == 201


def test_the_two_surfaces_keep_each_others_settings(desk: Desk) -> None:
    config = {"baseUrl": desk.shop.upstream.url, "team": "a"}
    pk = desk.shop.integration.pk
    assert desk.call("PATCH", f"/{pk}", {"config": config}).status_code == 200
    moved = {"toolkit": "lab", "settings": {"base_url": f"{desk.shop.upstream.url}/echo"}}
    assert desk.api.post("integrations/configure", moved).status_code == 200
    assert desk.call("GET", f"/{pk}").json()["integration"]["config"] == {
        "baseUrl": f"{desk.shop.upstream.url}/echo",
        "team": "a",
    }


# -- Calling ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["GET", "post", "Put", "PATCH", "delete"])
def test_each_method_is_sent_in_any_case(desk: Desk, method: str) -> None:
    seen = desk.echoed(desk.custom(), "items/7", method)
    assert (seen["method"], seen["path"]) == (method.upper(), "/echo/items/7")


@pytest.mark.parametrize("method", ["HEAD", "TRACE", "", "sensor hack", 5, None], ids=str)
def test_another_method_is_refused(desk: Desk, method: Any) -> None:
    said = refused(desk.execute(desk.custom(), "/x", method), 400, "VALIDATION_ERROR")
    assert "method" in said["details"]


def test_params_are_the_query_and_join_that_of_the_endpoint(desk: Desk) -> None:
    params = {"list": ["a", 2, True], "yes": True, "none": None, "text": "ü & =", "inner": {"a": [1]}, "n": 1.5}
    query = desk.echoed(desk.custom(), "/x?first=1&list=z", params=params)["query"]
    assert query == {
        "first": ["1"],
        "list": ["z", "a", "2", "true"],
        "yes": ["true"],
        "text": ["ü & ="],
        "inner": ['{"a":[1]}'],
        "n": ["1.5"],
    }


@pytest.mark.parametrize("params", ["driver reboot", [1], 5, True], ids=str)
def test_params_of_another_kind_are_refused(desk: Desk, params: Any) -> None:
    refused(desk.execute(desk.custom(), "/x", params=params), 400, "VALIDATION_ERROR")


BODIES: dict[str, Any] = {
    "an object": {"a": [1, {"b": "ü"}]}, "empty": {}, "a list": [1, 2], "a text": "card program", "a number": 7, "null": None,
    "false": False,
}  # fmt: skip


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_may_be_any_json(desk: Desk, kind: str) -> None:
    seen = desk.echoed(desk.custom(), "/x", "POST", body=BODIES[kind])
    assert json.loads(seen["body"]) == BODIES[kind]
    assert seen["headers"]["content-type"] == "application/json"


def test_without_a_body_none_is_sent(desk: Desk) -> None:
    integration = desk.custom()
    for seen in (desk.echoed(integration, "/x", "POST"), desk.echoed(integration, "/x", "GET", body={})):
        assert seen["body"] == ""
        assert "content-type" not in seen["headers"]
    assert desk.echoed(integration, "/x", "GET", body={"query": 1})["json"] == {"query": 1}


def test_headers_of_the_configuration_are_sent_and_name_another_kind_of_body(desk: Desk) -> None:
    form = desk.custom({"headers": {"content-type": "application/x-www-form-urlencoded", "X-App": "{not} a blank"}})
    seen = desk.echoed(form, "/x", "POST", body={"a": [1, 2], "b": "ü"})
    assert seen["body"] == "a=1&a=2&b=%C3%BC"
    assert seen["headers"]["x-app"] == "{not} a blank"
    text = desk.custom({"headers": {"Content-Type": "text/csv"}})
    assert desk.echoed(text, "/x", "PUT", body="a;b")["body"] == "a;b"


@pytest.mark.parametrize("status", [201, 400, 404, 422, 503])
def test_the_services_status_is_passed_on_and_decides_success(desk: Desk, status: int) -> None:
    integration = desk.custom({"baseUrl": desk.shop.upstream.url})
    answer = desk.execute(integration, f"/status/{status}", "POST", body={"a": 1})
    assert answer.status_code == 200
    assert answer.json() == {"success": status < 300, "data": {"status": status, "response": {"status": status}}}
    row = desk.shop.executions()[-1]
    assert (row.status, row.successful, row.surface) == (status, status < 300, "raw")


@pytest.mark.parametrize(
    ("path", "response"),
    [
        ("/text", str),
        ("/html", str),
        ("/empty", type(None)),
        ("/no-content", type(None)),
        ("/binary", dict),
        ("/list", list),
    ],
)
def test_an_answer_of_any_kind_is_given(desk: Desk, path: str, response: type) -> None:
    found = desk.execute(desk.custom({"baseUrl": desk.shop.upstream.url}), path).json()
    assert found["success"] is True
    assert isinstance(found["data"]["response"], response)


def test_a_service_that_does_not_answer_is_told_apart(desk: Desk, settings: LazySettings) -> None:
    dead = desk.custom({"baseUrl": "http://127.0.0.1:9"})
    refused(desk.execute(dead, "/x", "POST"), 502, "UPSTREAM_UNREACHABLE")
    tool = desk.execute(desk.shop.integration.pk, "hang", headers={"X-End-User": "u1"})
    refused(tool, 504, "UPSTREAM_TIMEOUT")


def test_a_tool_runs_by_its_slug_or_public_name_with_both_kinds_of_parameters(desk: Desk) -> None:
    user = {"X-End-User": "u1"}
    for name in ("create_item", "LAB_CREATE_ITEM", "lab_create_item"):
        seen = desk.echoed(desk.shop.integration.pk, name, params={"title": "a"}, body={"count": 2}, headers=user)
        assert (seen["method"], seen["path"], seen["json"]) == ("POST", "/echo/items", {"title": "a", "count": 2})
    assert desk.shop.executions()[-1].tool == "LAB_CREATE_ITEM"
    said = refused(
        desk.execute(desk.shop.integration.pk, "create_item", body={}, headers=user), 400, "VALIDATION_ERROR"
    )
    assert "title" in said["details"]
    refused(desk.execute(desk.shop.integration.pk, "create_item", body=[1], headers=user), 400, "VALIDATION_ERROR")
    path = desk.execute(desk.shop.integration.pk, "/create_item", headers=user).json()
    assert path["data"]["status"] == 404


@pytest.mark.parametrize(
    "endpoint", ["/../admin", "//evil.example", "http://evil.example/x", "/%2e%2e/x", "\\x", "", 5, None], ids=str
)
def test_an_endpoint_that_leads_elsewhere_is_refused_before_anything_is_sent(desk: Desk, endpoint: Any) -> None:
    integration = desk.custom(credentials={"apiKey": KEY})
    said = refused(desk.execute(integration, endpoint), 400, "VALIDATION_ERROR")
    assert "endpoint" in said["details"]
    assert desk.shop.upstream.requests() == []


def test_a_redirect_to_another_host_does_not_take_the_credential_along(desk: Desk) -> None:
    integration = desk.custom(
        {"baseUrl": desk.shop.upstream.url, "auth": {"type": "header", "name": "X-Key"}}, credentials={"apiKey": KEY}
    )
    elsewhere = f"http://localhost:{desk.shop.upstream.port}/echo/stolen"
    desk.execute(integration, "/redirect", params={"to": elsewhere})
    assert all("x-key" not in seen["headers"] for seen in desk.shop.upstream.requests("/echo/stolen"))


# -- Whose account ---------------------------------------------------------------------------------------------------
def sent_token(desk: Desk, integration: str, **headers: str) -> str:
    return str(desk.echoed(integration, "/echo", headers=headers)["headers"]["authorization"])


@pytest.fixture
def second(desk: Desk) -> str:
    """A further integration of the lab at the same service, with a shared account."""
    body = {"name": "x", "provider": "lab", "config": {"baseUrl": desk.shop.upstream.url}}
    made = desk.call("POST", "", body | {"credentials": {"token": "at-shared"}})
    return str(made.json()["integration"]["_id"])


def test_the_users_own_account_goes_before_the_shared_one(desk: Desk, second: str) -> None:
    assert sent_token(desk, second) == "Bearer at-shared"
    assert sent_token(desk, second, **{"X-End-User": "u1"}) == "Bearer at-1-secret"  # of the primary integration
    assert sent_token(desk, second, **{"X-End-User": "u2"}) == "Bearer at-shared"
    connect(Integration.objects.get(pk=second), "u1", access_token="at-here")
    assert sent_token(desk, second, **{"X-End-User": "u1"}) == "Bearer at-here"


def test_a_users_token_is_not_sent_to_another_host_than_it_was_connected_for(desk: Desk, second: str) -> None:
    elsewhere = {"baseUrl": f"http://localhost:{desk.shop.upstream.port}"}
    assert desk.call("PATCH", f"/{second}", {"config": elsewhere}).status_code == 200
    assert sent_token(desk, second, **{"X-End-User": "u1"}) == "Bearer at-shared"


def test_a_users_jwt_calls_as_that_user_whomever_a_header_names(desk: Desk, second: str) -> None:
    token = mint_user_token(desk.shop.cast.project, "u2", 600)[0]
    theirs = Desk(desk.shop, token)
    assert sent_token(theirs, second, **{"X-End-User": "u1"}) == "Bearer at-shared"
    assert desk.shop.executions()[-1].user_id == "u2"


def test_an_account_that_cannot_be_used_is_not_passed_over(desk: Desk, second: str) -> None:
    rows = Connection.objects.filter(pk=desk.shop.connection.pk)
    rows.update(status=Connection.Status.EXPIRED)
    said = refused(desk.execute(second, "/echo", headers={"X-End-User": "u1"}), 401, "UNAUTHORIZED")
    assert "reconnectUrl" in said["details"]
    rows.update(status=Connection.Status.INACTIVE)
    refused(desk.execute(second, "/echo", headers={"X-End-User": "u1"}), 400, "VALIDATION_ERROR")


def test_nobody_without_a_shared_account_is_told_so(desk: Desk) -> None:
    refused(desk.execute(desk.shop.integration.pk, "/echo"), 400, "VALIDATION_ERROR")
    refused(desk.execute(desk.shop.integration.pk, "/echo", headers={"X-End-User": "u2"}), 400, "VALIDATION_ERROR")


def test_a_shared_account_that_has_ended_is_told_without_a_link_that_leads_elsewhere(desk: Desk, second: str) -> None:
    Connection.objects.filter(integration=second).update(expires_at=timezone.now() - timedelta(seconds=5))
    said = refused(desk.execute(second, "/echo"), 401, "UNAUTHORIZED")
    assert "PATCH" in said["details"]
    body = {"credentials": {"accessToken": "at-new", "expiresIn": 3600}}
    assert desk.call("PATCH", f"/{second}", body).status_code == 200
    assert sent_token(desk, second) == "Bearer at-new"


def test_a_call_on_the_hot_path_reads_three_rows_and_writes_none(desk: Desk, second: str) -> None:
    for user in ({}, {"X-End-User": "u1"}):
        integration = second if not user else desk.shop.integration.pk
        desk.execute(integration, "/echo", headers=user)  # whatever is made once a process is made
        with CaptureQueriesContext(connection) as queries:
            assert desk.execute(integration, "/echo", headers=user).status_code == 200
        assert [query["sql"][:6] for query in queries] == ["SELECT"] * 3


def test_of_two_that_are_made_first_at_the_same_time_one_is_a_further_one(desk: Desk) -> None:
    desk.call("DELETE", f"/{desk.shop.integration.pk}")
    project = desk.shop.cast.project
    rows = [raw_integrations._row_for(project, "lab") for _ in range(2)]
    for row in rows:
        raw_integrations._insert(row)
    assert [row.is_primary for row in rows] == [True, False]
    assert Integration.objects.filter(project=project).count() == 2


def test_one_whose_toolkit_has_gone_is_renamed_and_deleted_and_not_called(desk: Desk) -> None:
    pk = desk.shop.integration.pk
    Integration.objects.filter(pk=pk).update(toolkit="gone")
    Connection.objects.update(toolkit="gone")
    assert desk.call("PATCH", f"/{pk}", {"name": "New"}).status_code == 200
    for answer in (
        desk.call("PATCH", f"/{pk}", {"config": {}}),
        desk.call("PATCH", f"/{pk}", {"credentials": {"token": KEY}}),
        desk.execute(pk, "/x", headers={"X-End-User": "u1"}),
    ):
        refused(answer, 400, "VALIDATION_ERROR")
    assert desk.call("DELETE", f"/{pk}").status_code == 200


# -- Who may ---------------------------------------------------------------------------------------------------------
ROUTES = [
    ("GET", ""), ("POST", ""), ("POST", "/from-template"), ("POST", "/import"), ("GET", "/{id}"), ("PATCH", "/{id}"),
    ("DELETE", "/{id}"), ("POST", "/{id}/execute"), ("POST", "/{id}/test"), ("GET", "/{id}/export"), ("GET", "/{id}/usage"),
]  # fmt: skip
ADMIN = {("POST", ""), ("POST", "/from-template"), ("POST", "/import"), ("PATCH", "/{id}"), ("DELETE", "/{id}"),
         ("GET", "/{id}/export")}  # fmt: skip
EXECUTE = {("POST", "/{id}/execute"), ("POST", "/{id}/test")}


def may(api: Desk, integration: str) -> set[tuple[str, str]]:
    """The routes that do not answer 403."""
    found = set()
    for method, tail in ROUTES:
        answer = api.call(method, tail.replace("{id}", integration), {})
        if answer.status_code == 403:
            refused(answer, 403, "FORBIDDEN")
        else:
            found.add((method, tail))
    return found


def test_scopes_decide_what_a_key_may(desk: Desk) -> None:
    integration = desk.custom()
    every = set(ROUTES)

    def with_scopes(*scopes: str) -> set[tuple[str, str]]:
        return may(Desk(desk.shop, desk.shop.cast.with_key(*scopes).key), integration)

    assert with_scopes("execute") == every - ADMIN
    assert with_scopes("connect") == {("GET", ""), ("GET", "/{id}")}
    assert with_scopes("runs") == set()
    assert with_scopes("admin") == every - EXECUTE


def test_an_end_user_never_administers(desk: Desk) -> None:
    token = mint_user_token(desk.shop.cast.project, "u1", 600)[0]
    assert may(Desk(desk.shop, token), desk.custom()) == set(ROUTES) - ADMIN


def test_a_member_may_what_their_role_permits(desk: Desk) -> None:
    cast = desk.shop.cast
    reading = {route for route in ROUTES if route[0] == "GET"}
    add_member(cast.workspace, cast.charlie, Role.DEVELOPER, SYSTEM)
    for person, expected in (
        (cast.bob, reading),
        (cast.charlie, set(ROUTES) - {("DELETE", "/{id}")}),
        (cast.alice, set(ROUTES)),
    ):
        token = desk.api.post("/api/auth/login", {"email": person.email, "password": PASSWORD}).json()["token"]
        assert may(Desk(desk.shop, token), desk.custom()) == expected, person


def test_a_key_of_certain_toolkits_sees_and_makes_no_others(desk: Desk) -> None:
    own = desk.custom()
    limited = Desk(desk.shop, desk.shop.cast.with_key("admin", "execute", toolkits=["lab", "github"]).key)
    assert [row["provider"] for row in limited.call("GET", "").json()["integrations"]] == ["lab"]
    for method, tail in ROUTES[4:]:
        refused(limited.call(method, tail.replace("{id}", own), {"endpoint": "/x", "method": "GET"}), 404, "NOT_FOUND")
    base = {"name": "x", "config": {"baseUrl": desk.shop.upstream.url}}
    refused(limited.call("POST", "", base | {"provider": "custom"}), 403, "FORBIDDEN")
    refused(limited.call("POST", "/import", {"integrationData": base | {"provider": "slack"}}), 403, "FORBIDDEN")
    found = limited.api.get("/api/integrations/templates").json()["templates"]
    assert {row["_id"] for row in found} == {"lab", "github"}


def test_the_catalog_is_read_with_any_kind_of_credential(desk: Desk) -> None:
    cast = desk.shop.cast
    member = desk.api.post("/api/auth/login", {"email": cast.bob.email, "password": PASSWORD}).json()["token"]
    good = [
        cast.key,
        issue_key(cast.workspace, "w", SYSTEM, scopes=["connect"])[1],
        mint_user_token(cast.project, "u1", 600)[0],
        member,
    ]
    for credential in good:
        answer = Api(cast.project, credential).get("/api/integrations/templates?search=gmail")
        assert [row["_id"] for row in answer.json()["templates"]] == ["gmail"]
    for credential in ("", "jf_sk_none", "a.b.c", f"{good[2][:-3]}abc"):
        refused(Api(cast.project, credential).get("/api/integrations/templates"), 401, "UNAUTHORIZED")
    refused(cast.with_key("runs").get("/api/integrations/templates"), 403, "FORBIDDEN")


def test_strangers_get_neither_data_nor_a_hint(desk: Desk) -> None:
    cast = desk.shop.cast
    integration = desk.custom(credentials={"apiKey": KEY})
    before = list(Integration.objects.order_by("pk").values())
    strangers = {
        cast.foreign_key: 404,
        issue_key(cast.foreign_workspace, "w", SYSTEM, scopes=["admin", "execute"])[1]: 404,
        mint_user_token(cast.foreign_project, "u1", 600)[0]: 401,
        "jf_sk_none": 401,
        "a.b.c": 401,
    }
    for credential, status in strangers.items():
        for method, tail in ROUTES:
            answer = Desk(desk.shop, credential).call(method, tail.replace("{id}", integration), {})
            refused(answer, status, {404: "NOT_FOUND", 401: "UNAUTHORIZED"}[status])
    for method, tail in ROUTES:
        refused(Api(cast.project, "").call(method, desk.root + tail.replace("{id}", integration)), 401, "UNAUTHORIZED")
    assert list(Integration.objects.order_by("pk").values()) == before
    # One project's key at its own project with another's integration.
    foreign = f"/api/integrations/projects/{cast.foreign_project.pk}/integrations/{integration}"
    for method, tail in ROUTES[4:]:
        answer = Api(cast.foreign_project, cast.foreign_key).call(
            method, foreign + tail.removeprefix("/{id}"), {"endpoint": "/x", "method": "GET"}
        )
        refused(answer, 404, "NOT_FOUND")
    assert desk.shop.upstream.requests() == []


@pytest.mark.parametrize("wrong", ["nothing", "%F0%9F%92%A5", "%27%20OR%201=1", "x" * 300], ids=range(4))
def test_an_id_that_is_none_is_not_found(desk: Desk, wrong: str) -> None:
    for method, tail in ROUTES[4:]:
        refused(desk.call(method, tail.replace("{id}", wrong), {"endpoint": "/x", "method": "GET"}), 404, "NOT_FOUND")


def test_unknown_paths_and_methods_are_answered_in_the_same_envelope(desk: Desk) -> None:
    refused(desk.api.get("/api/integrations/nothing"), 404, "NOT_FOUND")
    refused(desk.call("PUT", ""), 405, "METHOD_NOT_ALLOWED")
    refused(desk.call("GET", f"/{desk.shop.integration.pk}/execute"), 405, "METHOD_NOT_ALLOWED")


# -- One engine ------------------------------------------------------------------------------------------------------
def test_a_key_is_taken_in_either_header(desk: Desk) -> None:
    integration = desk.custom()
    nobody = Desk(desk.shop)
    nobody.api.key = ""
    headers = {"X-API-Key": desk.shop.cast.key}
    assert nobody.execute(integration, "/x", headers=headers).status_code == 200


def test_an_idempotency_key_calls_the_service_once(desk: Desk) -> None:
    integration = desk.custom()
    first, again = (
        desk.execute(integration, "/x", "POST", headers={"Idempotency-Key": "k1"}, body=1) for _ in range(2)
    )
    assert first.content == again.content
    assert again["Idempotency-Replayed"] == "true"
    assert desk.shop.upstream.count("/echo/x") == 1
    refused(desk.execute(integration, "/x", "POST", headers={"Idempotency-Key": "k1"}, body=2), 409, "CONFLICT")


def test_the_plans_limits_hold(desk: Desk) -> None:
    integration = desk.custom()
    Plan.objects.filter(workspaces=desk.shop.cast.workspace).update(calls_per_minute=1)
    assert desk.execute(integration, "/x").status_code == 200
    answer = desk.execute(integration, "/x")
    refused(answer, 429, "RATE_LIMITED")
    assert int(answer["Retry-After"]) >= 1


def test_a_refused_token_is_refreshed_once_and_the_call_repeated(desk: Desk) -> None:
    upstream = desk.shop.upstream
    config = {"baseUrl": upstream.url, "tokenUrl": f"{upstream.url}/token/ok"}
    credentials = {"accessToken": "stale", "refreshToken": "rt-1", "clientId": "c", "clientSecret": "secret-of-c"}
    body = {"name": "x", "provider": "lab", "config": config, "credentials": credentials}
    integration = desk.call("POST", "", body).json()["integration"]["_id"]
    assert desk.execute(integration, "/bearer/access-1").json()["data"]["status"] == 200
    assert upstream.count("/token/ok") == 1


def test_every_end_is_logged_without_secrets(desk: Desk) -> None:
    config = {"baseUrl": desk.shop.upstream.url, "auth": {"type": "query", "name": "key"}}
    integration = desk.custom(config, credentials={"apiKey": KEY})
    desk.execute(
        integration, f"/status/201?api_key=other-secret&echo={KEY}", "POST", body={"password": "pw-123456", "note": KEY}
    )
    desk.execute(integration, "/../x")
    good, bad = desk.shop.executions()
    assert (good.surface, good.toolkit, good.tool, good.method) == ("raw", "custom", "POST /status/201", "POST")
    assert (good.integration_id, good.caller.startswith("key:")) == (integration, True)
    assert (bad.successful, bad.error) == (False, "VALIDATION_INVALID_SCHEMA")
    for row in (good, bad):
        text = json.dumps([row.url, row.request, row.response, row.message])
        assert not any(secret in text for secret in (KEY, "other-secret", "pw-123456"))


# -- Trying and counting ---------------------------------------------------------------------------------------------
def test_an_integration_is_tried(desk: Desk) -> None:
    integration = desk.custom()
    tried = desk.call("POST", f"/{integration}/test").json()
    assert (tried["success"], tried["data"]["response"]["path"]) == (True, "/echo")
    named = desk.call("POST", f"/{integration}/test", {"endpoint": "/x", "method": "post", "params": {"a": 1}}).json()
    assert named["data"]["response"]["query"] == {"a": ["1"]}
    assert named["data"]["response"]["method"] == "POST"
    without = desk.call("POST", f"/{desk.shop.integration.pk}/test", None, **{"X-End-User": "u1"})
    assert "endpoint" in refused(without, 400, "VALIDATION_ERROR")["details"]


def test_calls_are_counted_by_period(desk: Desk) -> None:
    integration = desk.custom({"baseUrl": desk.shop.upstream.url})
    desk.execute(integration, "/echo")
    desk.execute(integration, "/status/500", "POST")
    desk.execute(integration, "/../x")
    stats = desk.call("GET", f"/{integration}/usage").json()["stats"]
    assert stats == {"totalCalls": 3, "successCalls": 1, "failedCalls": 2}
    rows = Execution.objects.filter(integration_id=integration)
    for days, expected in ((2, (0, 3, 3)), (10, (0, 0, 3)), (40, (0, 0, 0))):
        rows.update(created_at=timezone.now() - timedelta(days=days))
        found = [
            desk.call("GET", f"/{integration}/usage?period={period}").json()["stats"]["totalCalls"]
            for period in ("day", "week", "month")
        ]
        assert tuple(found) == expected
    refused(desk.call("GET", f"/{integration}/usage?period=year"), 400, "VALIDATION_ERROR")


def test_an_end_user_counts_their_own_calls(desk: Desk) -> None:
    integration = desk.custom()
    desk.execute(integration, "/x")
    theirs = Desk(desk.shop, mint_user_token(desk.shop.cast.project, "u5", 600)[0])
    theirs.execute(integration, "/x")
    assert theirs.call("GET", f"/{integration}/usage").json()["stats"]["totalCalls"] == 1
    assert desk.call("GET", f"/{integration}/usage").json()["stats"]["totalCalls"] == 2
