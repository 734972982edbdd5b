"""Skills, their documentation and files, and connecting, over the Shortcut API."""

from __future__ import annotations

import json
import shlex
from datetime import timedelta
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.utils import timezone

from apps.connections import flows
from apps.connections.models import Connection, ConnectSession, Integration
from apps.toolkits.examples import example_of
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Tool, Toolkit
from apps.workspaces.models import Plan
from apps.workspaces.services import end_user
from tests.api.shop import Shop
from tests.api.test_shortcut import personal, refused
from tests.cast import Api, connect, enable


# -- Skills ----------------------------------------------------------------------------------------------------------
def test_skills_are_the_enabled_toolkits_that_the_key_may_use(shop: Shop) -> None:
    enable(shop.cast.project, "slack")
    enable(shop.cast.project, "gmail")
    Integration.objects.filter(toolkit="gmail").update(enabled=False)
    rows = personal(shop).get("/v1/skills").json()["integrations"]
    assert [(row["slug"], row["name"], row["connected"]) for row in rows] == [
        ("lab", "Lab", True),
        ("slack", "Slack", False),
    ]
    assert rows[0]["endpoints"][:3] == ["get_item", "get_part", "get_file"]
    assert all(set(row) == {"slug", "name", "connected", "endpoints"} for row in rows)
    limited = personal(shop, toolkits=["slack"]).get("/v1/skills").json()["integrations"]
    assert [row["slug"] for row in limited] == ["slack"]


def test_for_nobody_and_with_an_expired_account_nothing_is_connected(shop: Shop) -> None:
    def connected(api: Api, **headers: str) -> bool:
        (row,) = api.get("/v1/skills", **headers).json()["integrations"]
        return bool(row["connected"])

    api = shop.cast.with_key("execute")
    assert connected(api) is False
    assert connected(api, **{"X-End-User": "u1"}) is True
    assert connected(api, **{"X-End-User": "u2"}) is False
    Connection.objects.update(status=Connection.Status.EXPIRED)
    assert connected(api, **{"X-End-User": "u1"}) is False


def test_a_skill_names_its_endpoints(shop: Shop) -> None:
    body = personal(shop).get("/v1/skills/lab").json()
    assert set(body) == {"slug", "name", "auth", "endpoints"}
    assert (body["slug"], body["name"], body["auth"]) == ("lab", "Lab", "oauth2")
    assert body["endpoints"][0] == {"name": "get_item", "method": "GET", "description": "Reads an item."}


def test_what_is_not_enabled_is_documented_too(shop: Shop) -> None:
    body = shop.cast.with_key("execute").get("/v1/skills/github/create_issue").json()
    assert set(body) == {"name", "method", "description", "parameters", "example_request", "scopes", "errors"}
    assert (body["name"], body["method"], body["scopes"]) == ("create_issue", "POST", ["repo"])
    assert body["parameters"]["required"] == ["repo", "title"]
    sent = body["example_request"]
    assert sent["url"] == f"{settings.JACKFIELD_URL}/v1/github/create_issue"
    assert sent["body"]["params"] == {"repo": "acme/webapp", "title": "Bug report", "labels": ["bug", "priority"]}
    told = {(row["status"], row["error"]) for row in body["errors"]}
    assert {
        (400, "bad_request"),
        (401, "unauthorized"),
        (401, "token_expired"),
        (403, "integration_not_connected"),
        (403, "scope_not_allowed"),
        (404, "not_found"),
        (429, "daily_limit_reached"),
        (429, "rate_limited"),
        (502, "upstream_unreachable"),
        (504, "upstream_timeout"),
        (409, "conflict"),
        (413, "too_large"),
    } == told


def test_what_is_not_there_and_what_the_key_may_not_use(shop: Shop) -> None:
    for path in ("/v1/skills/none", "/v1/skills/lab/none", "/v1/none/download"):
        refused(personal(shop).get(path), 404, "not_found")
    limited = personal(shop, toolkits=["github"])
    for path in ("/v1/skills/lab", "/v1/skills/lab/get_item", "/v1/skills/none", "/v1/lab/download"):
        refused(limited.get(path), 403, "scope_not_allowed")
    for path in ("/v1/skills", "/v1/skills/lab", "/v1/lab/download"):
        refused(shop.cast.with_key("runs").get(path), 403, "scope_not_allowed")
        refused(Api(shop.cast.project, "").get(path), 401, "unauthorized")


TOOLS = [(toolkit, tool) for toolkit in catalog().toolkits.values() for tool in toolkit.tools]


def test_every_tools_example_fits_its_own_schema() -> None:
    assert len(TOOLS) > 400
    bad = [f"{toolkit.slug}.{tool.slug}" for toolkit, tool in TOOLS if not tool.validator.is_valid(example_of(tool))]
    assert bad == []


# -- Files for coding agents -----------------------------------------------------------------------------------------
def downloaded(shop: Shop, slug: str) -> dict[str, str]:
    body = personal(shop).get(f"/v1/{slug}/download").json()
    assert set(body) == {"slug", "files"}
    assert body["slug"] == slug
    assert all(set(file) == {"file_path", "content"} for file in body["files"])
    return {file["file_path"]: file["content"] for file in body["files"]}


def test_the_skill_file_has_a_front_matter_and_links_every_page(shop: Shop) -> None:
    files = downloaded(shop, "github")
    _, front, text = files["SKILL.md"].split("---\n", 2)
    matter = yaml.safe_load(front)
    assert set(matter) == {"name", "description"}
    assert matter["name"] == "github"
    assert "GitHub" in matter["description"]
    assert len(matter["description"]) <= 1024
    pages = {f"endpoints/{tool.slug}.md" for tool in catalog().toolkits["github"].tools}
    assert set(files) == {"SKILL.md", *pages}
    assert all(f"]({page})" in text for page in pages)
    assert "JF_API_KEY" in text
    assert "`integration_not_connected`" in text


@pytest.mark.parametrize("slug", ["github", "gmail", "slack", "sandbox", "stripe"])
def test_every_files_front_matter_is_yaml_and_every_curl_is_a_call(shop: Shop, slug: str) -> None:
    files = downloaded(shop, slug)
    assert yaml.safe_load(files["SKILL.md"].split("---\n")[1])["name"] == slug
    for tool in catalog().toolkits[slug].tools:
        page = files[f"endpoints/{tool.slug}.md"]
        words = shlex.split(page.split("```sh\n")[1].split("```")[0])
        assert words[:4] == ["curl", "-X", "POST", f"{settings.JACKFIELD_URL}/v1/{slug}/{tool.slug}"]
        sent = json.loads(words[words.index("-d") + 1])
        assert tool.validator.is_valid(sent["params"])
        assert json.loads(page.rsplit("```json\n", 1)[1].split("```")[0]) == tool.input_schema


def test_an_endpoint_named_download_is_called_by_post(
    shop: Shop, lab: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = lab.tools_by_slug["create_item"].model_copy(update={"slug": "download"})
    monkeypatch.setitem(lab.__dict__, "tools_by_slug", lab.tools_by_slug | {"download": named})
    answer = personal(shop).post("/v1/lab/download", {"params": {"title": "x"}})
    assert answer.json()["data"]["json"] == {"title": "x"}
    assert "SKILL.md" in downloaded(shop, "lab")


def test_no_shipped_toolkit_hides_behind_the_download_route() -> None:
    assert isinstance(TOOLS[0][1], Tool)
    assert [toolkit.slug for toolkit, tool in TOOLS if tool.slug == "download"] == []


# -- Connecting ------------------------------------------------------------------------------------------------------
def begin(api: Api, **body: Any) -> Any:
    return api.post("/v1/connect", {"integration": "lab"} | body)


def state(api: Api, connection_id: str, **headers: str) -> Any:
    return api.get(f"/v1/connect/{connection_id}", **headers).json()


def test_connect_gives_the_providers_page_and_an_id_to_ask_for(shop: Shop) -> None:
    api = personal(shop, "u2")
    body = begin(api).json()
    assert set(body) == {"oauth_url", "connection_id"}
    assert body["oauth_url"].startswith("https://lab.example/authorize?")
    assert state(api, body["connection_id"]) == {"status": "pending", "integration": "lab"}
    ConnectSession.objects.update(used_at=timezone.now())  # the callback is at work
    assert state(api, body["connection_id"])["status"] == "pending"
    connection = connect(shop.integration, "u2")
    Connection.objects.filter(pk=connection.pk).update(id=body["connection_id"])
    assert state(api, body["connection_id"]) == {"status": "connected", "integration": "lab"}


def test_a_flow_that_failed_or_was_left_is_an_error(shop: Shop) -> None:
    api = personal(shop, "u2")
    first = begin(api).json()["connection_id"]
    session = ConnectSession.objects.get()
    flows.use_up(session)
    flows.end_session(session, "access_denied")
    assert state(api, first)["status"] == "error"
    second = begin(api).json()["connection_id"]
    ConnectSession.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert state(api, second)["status"] == "error"


def test_an_account_that_needs_reconnecting_is_pending_while_a_flow_is_open(shop: Shop) -> None:
    Connection.objects.update(status=Connection.Status.EXPIRED)
    api = personal(shop)
    assert state(api, shop.connection.pk)["status"] == "error"
    assert begin(api).json()["connection_id"] == shop.connection.pk
    assert state(api, shop.connection.pk)["status"] == "pending"


def test_an_account_that_waits_for_confirmation_is_pending_and_a_deleted_one_is_gone(shop: Shop) -> None:
    api = personal(shop)
    Connection.objects.update(status=Connection.Status.INACTIVE)
    assert state(api, shop.connection.pk)["status"] == "pending"
    Connection.objects.all().delete()
    refused(api.get(f"/v1/connect/{shop.connection.pk}"), 404, "not_found")


def test_a_flow_is_its_own_users_alone(shop: Shop) -> None:
    connection_id = begin(personal(shop, "u2")).json()["connection_id"]
    for api in (personal(shop, "u3"), personal(shop, "u2", toolkits=["github"])):
        refused(api.get(f"/v1/connect/{connection_id}"), 404, "not_found")
    key = shop.cast.with_key("connect")
    assert state(key, connection_id, **{"X-End-User": "u2"})["status"] == "pending"
    refused(key.get(f"/v1/connect/{connection_id}", **{"X-End-User": "u3"}), 404, "not_found")
    refused(key.get(f"/v1/connect/{connection_id}"), 400, "bad_request")
    refused(shop.cast.foreign.get(f"/v1/connect/{connection_id}", **{"X-End-User": "u2"}), 404, "not_found")


def test_connect_refuses_as_the_table_says(shop: Shop) -> None:
    api = personal(shop, "u2")
    refused(begin(api, integration="none"), 404, "not_found")
    refused(begin(personal(shop, toolkits=["github"])), 403, "scope_not_allowed")
    body = refused(begin(api, integration="github"), 403, "integration_not_connected")
    assert "/admin/" in body["action_url"]
    refused(begin(api, integration=7), 400, "bad_request")
    message = refused(begin(api, redirect_url="https://evil.example"), 400, "bad_request")["message"]
    assert "redirect_url" in message
    refused(begin(shop.cast.with_key("connect")), 400, "bad_request")
    shop.cast.workspace.plan = Plan.objects.create(name="one", connections=1)
    shop.cast.workspace.save()
    refused(begin(api), 403, "plan_limit_reached")
    assert begin(personal(shop)).status_code == 200  # to connect again takes no more room


def test_connect_honours_an_idempotency_key(shop: Shop) -> None:
    api = personal(shop, "u2")
    answers = [api.post("/v1/connect", {"integration": "lab"}, **{"Idempotency-Key": "k"}) for _ in range(2)]
    assert answers[0].content == answers[1].content
    assert ConnectSession.objects.count() == 1


def test_a_form_of_credentials_is_a_page_of_ours(shop: Shop) -> None:
    enable(shop.cast.project, "sendgrid")
    url = begin(personal(shop, "u2"), integration="sendgrid").json()["oauth_url"]
    assert url.startswith(f"{settings.JACKFIELD_URL}/connect/")


def test_a_user_may_be_named_that_nobody_knows_yet(shop: Shop) -> None:
    key = shop.cast.with_key("connect", "execute")
    assert key.post("/v1/connect", {"integration": "lab"}, **{"X-End-User": "new"}).status_code == 200
    assert end_user(shop.cast.project, "new").pk
