"""The API's description: whole, valid, and true of what the routes really answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jsonschema_rs
import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.validation import validate_schema
from playwright.sync_api import Browser, Page, expect

from apps.connections import auth_operations
from apps.connections.models import AuthOperation
from apps.lib import openapi
from apps.runs import starting
from apps.runs.models import Run
from apps.toolkits.api.schema import DOCUMENT
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Project, WebhookEndpoint
from apps.workspaces.tokens import mint_user_token
from apps.workspaces.webhooks import send_test
from tests.api.automations import EVENT, FAIL, carried, publish
from tests.cast import PASSWORD, Api, Cast, connect, enable
from tests.connections.vaults import BAD, GOOD, Vault
from tests.peers.upstream import Upstream
from tests.product import Product

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

Document = dict[str, Any]
PREFIXES = ("v1/", "api/", "api-keys", "hooks/", "<workspace:")
PATH_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


@pytest.fixture(scope="module")
def document() -> Document:
    with GENERATOR_STATS.silence():
        openapi._document.cache_clear()
        found: Document = json.loads(openapi.document())
    return found


def operations(document: Document) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            yield path, method, described


def routes(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every API path of the URL map, with its methods."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern) and path.startswith(PREFIXES):
            view = getattr(pattern.callback, "view_class", None) or getattr(pattern.callback, "cls", None)
            known = {"get", "post", "put", "patch", "delete"}
            yield "/" + path, {name for name in known if hasattr(view, name)} if view else {"get"}


def shown(path: str) -> str:
    """A path of the URL map as the description spells it."""
    return openapi._renamed(PATH_PARAMETER.sub(r"{\1}", path))


def test_the_description_is_valid_openapi_3_1(document: Document) -> None:
    assert document["openapi"].startswith("3.1")
    validate_schema(document)


def test_making_the_description_leaves_nothing_to_guess() -> None:
    openapi._document.cache_clear()
    GENERATOR_STATS.reset()
    openapi.document()
    assert not GENERATOR_STATS._warn_cache
    assert not GENERATOR_STATS._error_cache


def test_every_route_of_the_api_is_described_with_its_methods(document: Document) -> None:
    missing = [
        f"{method} {path}"
        for path, methods in routes()
        for method in methods
        if method not in document["paths"].get(shown(path), {})
    ]
    assert missing == []


def test_every_described_path_is_a_route(document: Document) -> None:
    known = {shown(path) for path, _ in routes()} | {"/healthz", "/readyz"}
    assert set(document["paths"]) == known


def test_operation_ids_and_tags_are_declared_once(document: Document) -> None:
    ids = [described["operationId"] for _, _, described in operations(document)]
    assert len(ids) == len(set(ids))
    declared = {tag["name"] for tag in document["tags"]}
    assert {tag for _, _, described in operations(document) for tag in described["tags"]} == declared


def test_routes_of_a_project_name_their_security_and_their_errors(document: Document) -> None:
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}
    for path, method, described in operations(document):
        if path.startswith("/v1/") and not path.endswith("/callback") and "/job-results/" not in path:
            assert described["security"] == [{"bearer": []}, {"apiKey": []}], f"{method} {path}"
            assert {"401", "404"} <= set(described["responses"]), f"{method} {path}"


def test_every_example_fits_its_schema(document: Document) -> None:
    checked = 0
    for path, method, described in operations(document):
        contents = [(described["requestBody"], "request")] if "requestBody" in described else []
        contents += [(answer, status) for status, answer in described["responses"].items()]
        for content, place in contents:
            media = content.get("content", {}).get("application/json", {})
            for name, example in media.get("examples", {}).items():
                faults = faults_of(document, media["schema"], example["value"])
                assert faults == [], f"{method} {path} {place} {name}"
                checked += 1
    assert checked > 100


def test_every_body_answer_and_error_has_an_example(document: Document) -> None:
    """One of each error code that a status may have, in the surface's own form."""
    missing: list[str] = []
    for path, method, described in operations(document):
        name = f"{method.upper()} {path}"
        if "requestBody" in described and "/proxy/" not in path:
            (media,) = {json.dumps(one["examples"]) for one in described["requestBody"]["content"].values()}
            missing += [] if json.loads(media) else [f"{name}: body"]
        for status, answer in described["responses"].items():
            (media_type,) = answer.get("content") or {"": {}}
            if not media_type or status == "default":
                continue
            examples = answer["content"][media_type].get("examples", {})
            told = set(re.findall(r"^- `([\w-]+)`", answer.get("description", ""), re.MULTILINE))
            shown = {code_of(one["value"]) for one in examples.values()} if int(status) >= 400 else set()
            if not examples or (status[0] == "4" and not told) or not told <= shown:
                missing.append(f"{name}: {status} {sorted(told - shown)}")
    assert missing == []


def code_of(body: Any) -> str:
    """The error code of an answer in any surface's envelope; empty for what is no error."""
    if "errors" in body:  # of the sessions API
        return str(body["errors"][0]["code"])
    error = body.get("error", "")
    return str(error["code"] if isinstance(error, dict) else body.get("code") or error)


SHAPES = {"raw": "RawError", "shortcut": "ShortcutError", "integrations": "Error", "runs": "RunsError",
          "sessions": "SessionErrors"}  # fmt: skip


def surface_of(path: str) -> str:
    if path.startswith("/api/integrations"):
        return "raw"
    if path.startswith(("/api/v1/workspace", "/{workspaceId}/")):
        return "runs"
    if path.startswith("/api/execution"):
        return "sessions"
    first = path.removeprefix("/v1/").partition("/")[0]
    return "shortcut" if first in {"skills", "connect", "{integration}"} or "/api-keys" in path else "integrations"


def test_every_error_is_described_in_its_surfaces_envelope(document: Document) -> None:
    seen = set()
    for path, method, described in operations(document):
        for status, answer in described["responses"].items():
            if status[0] != "4" or "content" not in answer:
                continue
            (media,) = answer["content"].values()
            named = re.findall(r"schemas/(\w+)", json.dumps(media["schema"]))
            shapes = {"ShortcutRefusal"} if named == ["ShortcutRefusal"] else {SHAPES[surface_of(path)]}
            assert set(named) == shapes, f"{method} {path} {status}"
            seen |= shapes
    assert seen == {*SHAPES.values(), "ShortcutRefusal"}


def test_every_answer_names_its_headers(document: Document) -> None:
    for path, method, described in operations(document):
        takes_key = "Idempotency-Key" in [parameter["name"] for parameter in described.get("parameters", [])]
        for status, answer in described["responses"].items():
            expected = {"X-Request-Id"} | ({"Retry-After"} if status == "429" else set())
            expected |= {"Idempotency-Replayed"} if takes_key else set()
            assert expected <= set(answer["headers"]), f"{method} {path} {status}"


def faults_of(document: Document, schema: Any, value: Any) -> list[str]:
    """What is wrong with a value; members that the schema does not name are wrong too."""
    whole = {"$ref": "#/wanted", "wanted": strict(schema), "components": strict(document["components"])}
    validator = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
    return [f"{list(error.instance_path)}: {error.message}" for error in validator.iter_errors(value)]


def strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items() if name != "examples"}
    if "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


class Checked(Api):
    """A client that holds every answer against the description."""

    def __init__(self, api: Api, document: Document) -> None:
        super().__init__(api.project, api.key)
        self.document = document
        self.seen: set[str] = set()

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        answer = super().call(method, path, body, **headers)
        described = self._described(method, path)
        content = b"".join(answer) if answer.streaming else answer.content
        found = described["responses"].get(str(answer.status_code)) or described["responses"].get("default")
        assert found, f"{method} {path}: {answer.status_code} {content!r}"
        for name in set(found["headers"]) - {"Idempotency-Replayed"}:
            assert name in answer, f"{method} {path}: no {name}"
        if "content" not in found:
            assert content == b""
        elif method != "HEAD":
            (media,) = found["content"].values()
            assert faults_of(self.document, media["schema"], json.loads(content)) == [], f"{method} {path}"
        self.seen.add(described["operationId"])
        return answer

    def _described(self, method: str, path: str) -> Any:
        url = (path if path.startswith("/") else f"/v1/{self.project.pk}/{path}").partition("?")[0]
        for known in sorted(self.document["paths"], key=lambda one: one.count("{")):
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(known).replace(r"\{path\}", ".+"))
            if re.fullmatch(pattern, url) and method.lower() in self.document["paths"][known]:
                return self.document["paths"][known][method.lower()]
        raise AssertionError(f"{url} is not described")


@pytest.fixture
def api(cast: Cast, document: Document) -> Checked:
    return Checked(cast.api, document)


def test_the_answers_of_every_route_are_as_described(
    api: Checked, cast: Cast, upstream: Upstream, settings: Any, document: Document
) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    echoing = enable(cast.project, "sandbox", f"{upstream.url}/echo")
    connection = connect(echoing, "u1")
    connect(enable(cast.project, "github", f"{upstream.url}/status/404"), "u1")

    api.get("integrations/available")
    api.get("integrations/available?search=sales&limit=1")
    api.get("integrations/available?limit=none")
    api.post("integrations/configure", {"toolkit": "slack", "oauthCredentials": {"clientId": "1", "clientSecret": "2"}})
    api.post("integrations/configure", {"toolkit": "no-such-toolkit"})
    api.post("integrations/configure", {})
    api.post("integrations/configure", {"toolkit": "x" * 2_000_000})
    api.get("integrations/config?limit=1")
    api.delete("integrations/configure/slack")
    api.patch("settings", {"allowedOrigins": ["https://yourapp.com"], "colour": "#112233"})
    api.patch("settings", {"unknown": 1})
    api.get("settings")
    started = api.post(
        "integrations/connect", {"toolkit": "sandbox", "userId": "u2", "redirectUrl": "https://yourapp.com/settings"}
    )
    api.post("integrations/connect", {"toolkit": "slack", "userId": "u2"})
    api.post("integrations/connect-sessions", {"userId": "u2", "toolkits": ["sandbox"]})
    api.post("integrations/connect-sessions", {"userId": "u2", "toolkits": ["slack"]})
    api.get("integrations/connections")
    api.get(f"integrations/connections/{connection.pk}")
    api.get(f"integrations/connections/{json.loads(started.content)['connectionRequestId']}")
    api.get("integrations/connections/ca_unknown")
    api.post(f"integrations/connections/{connection.pk}/confirm")
    api.get("integrations/tools?limit=2")
    api.get("integrations/tools?toolkit=gmail&format=openai&limit=2")
    note = {"toolName": "SANDBOX_CREATE_NOTE", "params": {"text": "Hello"}, "userId": "u1"}
    assert api.post("integrations/execute", note).status_code == 200
    assert api.post("integrations/execute", note | {"params": {}}).status_code == 400
    assert api.post("integrations/execute", note | {"toolName": "NO_SUCH_TOOL"}).status_code == 422
    lookup = {"toolName": "GITHUB_GET_USER", "params": {"username": "404"}, "userId": "u1"}
    refused = api.post("integrations/execute", lookup)
    assert (refused.status_code, refused.json()["error"]["details"]["status"]) == (422, 404)
    executions = json.loads(api.get("executions").content)["executions"]
    assert [row["successful"] for row in executions] == [False, False, False, True]
    api.get("executions?since=yesterday")
    api.get(f"executions/{executions[0]['id']}")
    api.post("user-tokens", {"userId": "u1"})
    api.get("end-users")
    api.delete("end-users/u2")
    api.seen |= seen_of_shortcuts(api, connection.pk)
    seen_of_raw(api, upstream)
    seen_of_connecting(api, connection.pk)
    seen_of_runs(api, cast)
    seen_of_tasks(api, cast)
    seen_of_jobs(api, cast)
    seen_of_auth_sessions(api, cast, upstream)
    api.call("PUT", "toolkits/warehouse", DOCUMENT)
    api.call("PUT", "toolkits/warehouse", {"name": 5})
    api.get("toolkits/warehouse")
    api.get("toolkits?limit=1")
    api.delete("toolkits/warehouse")
    api.delete("toolkits/warehouse")
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = api.call(method, "integrations/proxy/sandbox/notes/1", {}, **{"X-End-User": "u1"})
        assert answer.status_code == 200
    assert api.get("integrations/proxy/github/404", **{"X-End-User": "u1"}).status_code == 404
    assert api.get("integrations/proxy/slack/api/auth.test", **{"X-End-User": "u1"}).status_code == 400
    webhook = json.loads(api.post("webhooks", {"url": "https://yourapp.com/hook"}).content)["id"]
    api.post("webhooks", {"url": "https://10.0.0.1"})
    api.get("webhooks?limit=1")
    api.get(f"webhooks/{webhook}")
    api.patch(f"webhooks/{webhook}", {"events": ["connection.created"], "description": "Ours"})
    api.post(f"webhooks/{webhook}/rotate")
    delivery = send_test(WebhookEndpoint.objects.get(pk=webhook), SYSTEM).pk
    api.get(f"webhooks/{webhook}/deliveries?status=pending")
    api.post(f"webhooks/{webhook}/deliveries/{delivery}/redeliver")
    api.post(f"webhooks/deliveries/{delivery}/redeliver")
    api.delete(f"webhooks/{webhook}")
    api.delete(f"integrations/connections/{connection.pk}")
    seen_of_modules(api)
    seen_of_sinks(api, cast)
    signed_in = json.loads(api.post("/api/auth/login", {"email": cast.alice.email, "password": PASSWORD}).content)
    api.post("/api/auth/login", {"email": cast.alice.email, "password": "wrong"})
    again = api.post("/api/auth/refresh", {"refreshToken": signed_in["refreshToken"]})
    api.post("/api/auth/logout", {"refreshToken": json.loads(again.content)["refreshToken"]})
    api.get("/healthz")

    described = {operation["operationId"] for _, _, operation in operations(document)}
    untried = described - api.seen
    # No broker here; the callback redirects.
    assert untried == {"readyz", "callback", "projectCallback"}


def seen_of_sinks(api: Checked, cast: Cast) -> None:
    """Tries the setting, a run's sink, its delivery, and the secret."""
    for sink in (
        {"type": "webhook", "url": "https://yourapp.com/results", "headers": {"X-Team": "a"}},
        {"type": "s3", "bucket": "abc", "accessKeyId": "a", "secretAccessKey": "b", "region": "eu-central-1"},
    ):
        assert api.patch("settings", {"sink": sink}).status_code == 200
        assert api.get("settings").json()["sink"]["type"] == sink["type"]
    assert api.patch("settings", {"sink": {"type": "ftp"}}).status_code == 400
    module = publish(Project.objects.get(pk=cast.project.pk), "sinks/greet")
    run = carried(starting.start(module, {}, SYSTEM, Run.Surface.RUNS).pk)
    assert api.patch("settings", {"sink": None}).json()["sink"] is None
    (row,) = api.get(f"deliveries?runId={run.pk}").json()["deliveries"]
    api.get("deliveries?status=none")
    assert api.get(f"deliveries/{row['id']}").json()["body"]["apiInfo"]["runId"] == run.pk
    api.post(f"deliveries/{row['id']}/redeliver")
    for body, status in (({"ids": [row["id"]]}, 202), ({"status": "none"}, 400)):
        assert api.post("deliveries/redeliver", body).status_code == status
    api.get("webhook-secret")
    assert api.post("webhook-secret/rotate").json()["previousUntil"]


def seen_of_modules(api: Checked) -> None:
    """Tries the routes of modules, drafts and versions."""
    hello = {"steps": [{"id": "hello", "set": {"text": "hello"}}]}
    assert api.call("PUT", "modules/hello", hello).status_code == 201
    assert api.call("PUT", "modules/hello", hello).status_code == 200
    assert api.call("PUT", "modules/hello", {}).status_code == 400
    api.post("modules/hello/check", {})
    assert "api_key" in api.post("modules/hello/publish", {"note": "First"}).json()
    api.post("modules/hello/rollback", {"version": 1})
    api.post("modules/hello/rollback", {"version": 2})
    for of in ("key", "hook", "hook_secret"):
        assert api.post("modules/hello/rotate-key", {"of": of}).status_code == 200
    api.get("modules?limit=1")
    api.get("modules/hello")
    api.get("modules/hello/versions")
    api.get("modules/hello/versions/1")
    api.post("modules/hello/unpublish")
    api.delete("modules/hello")


def seen_of_connecting(api: Checked, connection_id: str) -> None:
    """Tries the routes of importing, tokens, the hosted page and the integrator's own words."""
    imported = {"toolkit": "sandbox", "userId": "u3", "credentials": {"accessToken": "a", "refreshToken": "b"}}
    assert api.post("integrations/connections/import", imported | {"verify": False}).status_code == 201
    api.post("integrations/connections/import", imported | {"credentials": {}})
    api.post("integrations/connections/import", imported | {"toolkit": "notion"})
    api.post("integrations/connections/import", {})
    assert api.get(f"integrations/connections/{connection_id}/token").json()["type"] == "oauth2"
    api.get("integrations/connections/ca_unknown/token")
    api.patch(f"integrations/connections/{connection_id}", {"label": "Work", "metadata": {"team": ["sales", 1, None]}})
    api.patch(f"integrations/connections/{connection_id}", {"metadata": 5})
    api.post("integrations/connect-sessions", {"userId": "u1", "toolkits": ["sandbox"]}, **{"Idempotency-Key": "k"})
    api.post("integrations/connect-sessions", {"userId": "u1"}, **{"Idempotency-Key": "k"})
    api.post("integrations/connect-sessions", {"userId": "u1", "redirectUrl": "https://evil.example"})
    foreign = Checked(Api(api.project, mint_user_token(api.project, "u9", 600)[0]), api.document)
    assert foreign.get(f"integrations/connections/{connection_id}").status_code == 404
    assert foreign.get("integrations/config").status_code == 403


def seen_of_shortcuts(api: Checked, connection_id: str) -> set[str]:
    """Tries every route of the Shortcut API, with the project's key and as the user u1."""
    u1 = {"X-End-User": "u1"}
    params = {"params": {"text": "Hello"}}
    assert api.post("/v1/sandbox/create_note", params, **u1).status_code == 200
    assert api.post("/v1/sandbox/create_note", {"params": {}}).status_code == 400
    assert api.post("/v1/sandbox/none", params, **u1).status_code == 404
    theirs = api.post("/v1/github/get_user", {"params": {"username": "404"}}, **u1)
    assert theirs.json() == {"status": 404, "error": {"status": 404}}
    api.get("/v1/skills", **u1)
    api.get("/v1/skills/github")
    api.get("/v1/skills/github/create_issue")
    api.get("/v1/skills/none")
    api.get("/v1/sandbox/download")
    api.post("/v1/connect", {"integration": "sandbox"}, **u1)
    api.post("/v1/connect", {"integration": "slack"}, **u1)
    api.get(f"/v1/connect/{connection_id}", **u1)
    api.post("/api-keys/links", {}, **u1)
    own = Checked(Api(api.project, mint_user_token(api.project, "u1", 600)[0]), api.document)
    made = own.post("/api-keys", {"name": "laptop", "expires_in": 3600}).json()["api_key"]
    own.post("/api-keys", {})
    own.get("/api-keys")
    own.delete(f"/api-keys/{made['id']}")
    return own.seen


def seen_of_raw(api: Checked, upstream: Upstream) -> None:
    """Tries every route of the Raw execute API."""
    root = f"/api/integrations/projects/{api.project.pk}/integrations"
    api.get("/api/integrations/templates?search=git&limit=2")
    api.get("/api/integrations/templates?limit=none")
    body = {"name": "Own", "provider": "custom", "config": {"baseUrl": f"{upstream.url}/echo", "team": [1]}}
    assert api.post(root, {}).status_code == 400
    made = api.post(root, body | {"credentials": {"apiKey": "k-1234567890"}})
    own = f"{root}/{made.json()['integration']['_id']}"
    template = api.post(f"{root}/from-template", {"templateId": "github", "credentials": {"token": "t-12345"}})
    assert template.status_code == 201
    api.post(f"{root}/from-template", {"templateId": "none", "credentials": {}})
    api.get(f"{root}?limit=1")
    api.get(own)
    api.get(f"{root}/none")
    api.patch(own, {"name": "New"})
    assert api.post(f"{own}/execute", {"endpoint": "/x", "method": "PUT", "body": [1]}).status_code == 200
    assert api.post(f"{own}/execute", {"endpoint": "//x", "method": "sensor hack"}).status_code == 400
    assert api.post(f"{own}/test").status_code == 200
    exported = api.get(f"{own}/export").json()
    assert api.post(f"{root}/import", {"integrationData": exported}).status_code == 201
    api.post(f"{root}/import", {})
    api.get(f"{own}/usage?period=day")
    api.get(f"{own}/usage?period=year")
    api.delete(own)


def seen_of_runs(api: Checked, cast: Cast) -> None:
    """Tries every route of the Runs API, the sessions API, hooks, and the log of runs."""
    module = publish(cast.project, "greet", hook={"answer": "result", "timeout": 0})
    publish(cast.project, "wait", **EVENT)
    publish(cast.project, "stop", **FAIL)
    ended = []
    for prefix, status in (("", 200), ("/api/v1/workspace", 201)):
        root = f"{prefix}/{cast.workspace.pk}/projects/Shop/run"
        waiting = api.post(f"{root}/start", {"api": "wait", "parameters": {}, "retry": {}, "proxy": None})
        assert waiting.status_code == status
        api.post(f"{root}/start", {"api": "wait"})
        api.post(f"{root}/start", {"api": "none", "parameters": {}})
        for name in ("greet", "stop"):
            ended.append(api.post(f"{root}/start", {"api": name, "parameters": {}}).json()["runId"])
            api.get(f"{root}/{ended[-1]}/result")
            carried(ended[-1])
            api.get(f"{root}/{ended[-1]}/result")
            api.get(f"{root}/{ended[-1]}/trace")
        api.get(f"{root}/none/result")
        api.get(f"{root}/none/trace")
        api.post(f"runs/{waiting.json()['runId']}/events/payment", {"paid": True})
        assert api.post(f"{root}/{waiting.json()['runId']}/cancel").json()["status"] == "canceled"
        api.post(f"runs/{waiting.json()['runId']}/events/payment", {})
    url = f"/api/execution/{module.public_id}/sessions"
    started = api.post(url, {"data": {"startParameters": {}}}, **{"Idempotency-Key": "k"})
    api.post(url, {"data": {"startParameters": {"x": 1}}})
    api.post("/api/execution/none/sessions")
    for include in ("", "?include=result", "?include=steps"):
        api.get(started.json()["links"]["self"] + include)
    for run_id in ended:
        api.get(f"runs/{run_id}")
    api.get("runs?limit=2&status=fatal_errored")
    api.get("runs?since=yesterday")
    assert api.post(f"/hooks/{module.hook_token}", {"x": 1}, **{"Idempotency-Key": "k"}).status_code == 202
    api.post("/hooks/none", {})


def seen_of_jobs(api: Checked, cast: Cast) -> None:
    """Tries every route of jobs at both prefixes."""
    publish(cast.project, "nightly")
    body = {"payload": [{"apiName": "nightly", "parameters": {"a": [1, None]}, "retry": {}}], "configuration": {"maxRuns": 5},
            "sink": {"type": "webhook", "url": "https://yourapp.com/results", "headers": {"X-Token": "12345"}},
            "schedule": {"calendars": [{"hour": [9, {"start": 12, "end": 17}], "dayOfWeek": "MONDAY"}], "jitter": "1m"},
            "proxy": "http://user:password@proxy.example.com:8080", "endUser": "u1",
            "notifications": [{"type": "webhook", "url": "https://yourapp.com/alarm"}]}  # fmt: skip
    for number, prefix in enumerate(("", "/api/v1/workspace")):
        root = f"{prefix}/{cast.workspace.pk}/projects/Shop/jobs"
        own = f"{root}/job-{number}"
        assert api.post(root, {"id": f"job-{number}"} | body).status_code == 201
        assert api.post(root, {"id": f"job-{number}"} | body).status_code == 409
        api.post(root, {})
        assert api.get(root).status_code == api.get(own).status_code == 200
        assert api.call("PUT", own, body | {"sink": None, "proxy": None}).status_code == 200
        api.call("PUT", own, {})
        assert api.post(f"{own}/pause").status_code == 200
        api.get(root)
        assert api.post(f"{own}/trigger").status_code == 409
        assert api.post(f"{own}/resume").status_code == 200
        fired = api.post(f"{own}/trigger", **{"Idempotency-Key": f"t{number}"}).json()["jobRunId"]
        assert api.get(f"{own}/runs?sortBy=status,asc&pageSize=1").json()["totalCount"] == 1
        api.get(f"{own}/runs?pageSize=none")
        api.get(f"{own}/runs/{fired}")
        assert api.post(f"{own}/runs/{fired}/terminate").status_code == 200
        results = api.get(f"{own}/runs/{fired}").json()["results"]
        api.get(urlsplit(results["signed_url"]).path)
        assert api.delete(own).status_code == 204
        for path in ("", "/runs", f"/runs/{fired}"):
            assert api.get(own + path).status_code == 404


def seen_of_auth_sessions(api: Checked, cast: Cast, upstream: Upstream) -> None:
    """Tries every route of auth sessions at both prefixes."""
    Vault(cast, upstream).put()
    assert api.post("integrations/configure", {"toolkit": "vault"}).status_code == 200
    assert api.patch("settings", {"authSessions": {"toolkit": "vault"}}).status_code == 200
    api.get("settings")
    for number, prefix in enumerate(("", "/api/v1/workspace")):
        root = f"{prefix}/{cast.workspace.pk}/projects/Shop/auth-sessions"
        own, given = f"{root}/robot-{number}", {"parameters": {"api_key": GOOD}}
        body = {"id": f"robot-{number}"} | given

        def ended(answer: Any, place: str, root: str = root) -> Any:
            assert answer.status_code == 201, answer.content
            operation, path = answer.json()["operationId"], f"{place}/{answer.json()['operationId']}/result"
            assert api.get(path).json()["status"] == "pending"
            AuthOperation.objects.filter(pk=operation).update(status="in_progress")
            assert api.get(path).json()["status"] == "in_progress"
            auth_operations.carry(operation)
            for kind in ("update", "validate"):  # the id says enough
                assert api.get(f"{root}/{kind}/{operation}/result").status_code == (200 if kind in place else 404)
            return api.get(path).json()["status"]

        wrong = {"parameters": {"api_key": BAD}, "createAttempts": 1}
        assert ended(api.post(f"{root}/create", wrong), f"{root}/create") == "failed"
        assert ended(api.post(f"{root}/create", body), f"{root}/create") == "done"
        assert api.post(f"{root}/create", body).status_code == 409
        assert api.post(f"{root}/create", {"parameters": {}}).status_code == 400
        assert ended(api.post(f"{own}/update", given), f"{own}/update") == "done"
        api.post(f"{own}/update", {})
        assert ended(api.post(f"{own}/validate/start", {}), f"{own}/validate") == "done"
        assert api.get(root).status_code == api.get(own).status_code == 200
        assert api.get(f"{own}/update/unknown/result").status_code == 404
        assert api.delete(own).status_code == 204
        assert api.get(own).status_code == 404
    assert api.patch("settings", {"authSessions": None}).status_code == 200


FIELD = {"name": "laptop", "label": "Which?", "type": "choice", "options": ["13", 15], "required": True}
ASKED = {"steps": [{"id": "details", "form": {"title": "Equipment", "fields": [FIELD]}},
                   {"id": "ok", "approve": {"title": "Buy?", "assignees": ["user:u1"], "deadline": "1d"}}]}  # fmt: skip


def seen_of_tasks(api: Checked, cast: Cast) -> None:
    """Tries the routes of people's questions with a form and an approval."""
    publish(cast.project, "ask", **ASKED)
    root = f"/{cast.workspace.pk}/projects/Shop/run/start"
    run_id = api.post(root, {"api": "ask", "parameters": {}}).json()["runId"]
    for body in ({"answers": {"laptop": "15"}}, {"approved": True, "userId": "u1"}):
        carried(run_id)
        [task] = api.get(f"tasks?runId={run_id}").json()["tasks"]
        api.post(f"tasks/{task['id']}/answer", {})
        assert api.post(f"tasks/{task['id']}/answer", body).status_code == 200
        assert api.post(f"tasks/{task['id']}/answer", body).status_code == 409
        api.get(f"tasks/{task['id']}?include=files")
    api.get("tasks?status=all&limit=1")
    api.get("tasks?status=none")
    api.get("tasks/none")


@pytest.mark.parametrize("credentials", ["", "jf_sk_wrong", "a.b.c"])
def test_a_refusal_is_as_described(cast: Cast, document: Document, credentials: str) -> None:
    api = Checked(Api(cast.project, credentials), document)
    assert api.get("settings").status_code == 401


def test_a_missing_scope_and_a_foreign_project_are_as_described(cast: Cast, document: Document) -> None:
    assert Checked(cast.with_key("connect"), document).get("settings").status_code == 403
    assert Checked(cast.foreign, document).get("settings").status_code == 404


def test_the_page_has_no_inline_script_or_style_and_no_outside_host(client: Client) -> None:
    answer = client.get("/docs")
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "unsafe" not in answer["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son\w+=", page)
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources
    assert all(source.startswith("/") and not source.startswith("//") for source in sources)


def test_the_description_is_public_json(client: Client) -> None:
    answer = client.get("/openapi.json")
    assert answer["Content-Type"] == "application/json"
    assert answer.json()["info"]["title"] == "Jackfield"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_routes_of_every_surface_are_tried_on_the_page_under_the_strict_policy(
    product: Product, chromium: Browser, scheme: Any
) -> None:
    context = chromium.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    try:
        page = context.new_page()
        complaints: list[str] = []
        hosts: set[str] = set()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(f"{product.url}/docs")
        page.locator("button.authorize").first.click()
        page.locator(".auth-container input").first.fill(product.facts["api_key"])
        page.locator(".auth-btn-wrapper button.authorize").first.click()
        page.locator(".btn-done").first.click()
        background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (background == "rgb(28, 32, 34)") == (scheme == "dark")
        expect(page.locator(".opblock-tag a")).to_have_count(len(openapi.TAGS))
        tags = [text.partition("\n")[0] for text in page.locator(".opblock-tag a").all_inner_texts()]
        assert tags == list(openapi.TAGS)
        project = product.facts["project_id"]
        assert project in tried(page, "Project-getSettings", appId=project)
        assert '"name": "create_note"' in tried(
            page, "Shortcut_API-getSkillEndpoint", integration="sandbox", endpoint="create_note"
        )
        assert '"provider": "sandbox"' in tried(page, "Raw_execute-rawIntegrations", projectId=project)
        assert hosts - {""} == {urlsplit(product.url).netloc}
        assert complaints == []
    finally:
        context.close()


def tried(page: Page, operation: str, **parameters: str) -> str:
    """The answer, a success, of an operation that is carried out on the page."""
    block = page.locator(f"#operations-{operation}")
    if not block.is_visible():
        page.locator(f"#operations-tag-{operation.partition('-')[0]}").click()
    block.locator(".opblock-summary-control").click()
    for name, value in parameters.items():
        block.locator(f'tr[data-param-name="{name}"] input').fill(value)
    block.locator("button.execute").click()
    answer = block.locator(".live-responses-table tr.response")
    answer.wait_for()
    assert answer.locator(".response-col_status").inner_text().startswith("200")
    return answer.inner_text()
