"""What is the same on every surface, each in its own envelope: ids, bad requests, limits, repetitions, pages, credentials."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import requests
import yaml
from django.utils import timezone

from apps.modules.models import Module
from apps.runs.models import Run
from apps.runs.starting import start
from apps.toolkits.api.schema import DOCUMENT
from apps.toolkits.services import put
from apps.workspaces import quota
from apps.workspaces.audit import SYSTEM, Actor
from apps.workspaces.callers import Caller
from apps.workspaces.models import ApiKey, Plan, WebhookEndpoint
from apps.workspaces.services import issue_key, revoke_key
from apps.workspaces.tokens import mint_user_token
from apps.workspaces.webhooks import create_endpoint, send_test
from tests.api.automations import publish
from tests.api.shop import LAB, Shop, error_of
from tests.api.test_wire import script
from tests.cast import EVERY_SCOPE, Api, connect, enable
from tests.peers.upstream import Upstream
from tests.product import Product

# -- Surfaces --------------------------------------------------------------------------------------------------------
CODES = {  # kind: status; the code on the Integrations API (and the proxy), Shortcut API, Raw execute API, Runs API
    "bad": (400, "VALIDATION_INVALID_SCHEMA", "bad_request", "VALIDATION_ERROR", "bad-request"),
    "large": (413, "PAYLOAD_TOO_LARGE", "too_large", "PAYLOAD_TOO_LARGE", "payload-too-large"),
    "method": (405, "METHOD_NOT_ALLOWED", "method_not_allowed", "METHOD_NOT_ALLOWED", "method-not-allowed"),
    "missing": (404, "RESOURCE_NOT_FOUND", "not_found", "NOT_FOUND", "not-found"),
    "conflict": (409, "REQUEST_CONFLICT", "conflict", "CONFLICT", "conflict"),
    "minute": (429, "QUOTA_RATE_LIMIT", "rate_limited", "RATE_LIMITED", "too-many-requests"),
    "day": (429, "INTEGRATIONS_QUOTA_EXCEEDED", "daily_limit_reached", "RATE_LIMITED", "too-many-requests"),
    "nobody": (401, "AUTH_REQUIRED", "unauthorized", "UNAUTHORIZED", "unauthorized"),
    "no key": (401, "AUTH_INVALID_API_KEY", "unauthorized", "UNAUTHORIZED", "unauthorized"),
    "no user": (401, "AUTH_INVALID_END_USER_JWT", "unauthorized", "UNAUTHORIZED", "unauthorized"),
}
INTEGRATIONS, SHORTCUT, RAW, RUNS, SESSIONS = "integrations", "shortcut", "raw", "runs", "sessions"


def is_refused(answer: Any, envelope: str, kind: str) -> None:
    """Asserts status, envelope, code and headers of an error answer."""
    status, *codes = CODES[kind]
    assert answer.status_code == status, answer.content[:500]
    assert answer["Content-Type"] == "application/json"
    if envelope == SESSIONS:  # spells them as the Runs API does, in its own manner
        assert code_in(answer, envelope) == codes[-1].replace("-", "_")
    else:
        assert code_in(answer, envelope) == codes[[INTEGRATIONS, SHORTCUT, RAW, RUNS].index(envelope)]
    assert ("Retry-After" in answer) == (status == 429)
    assert ("WWW-Authenticate" in answer) == (status == 401)
    if status == 429:
        assert int(answer["Retry-After"]) >= 1


def code_in(answer: Any, envelope: str) -> str:
    """The code, of an envelope with exactly its members."""
    if envelope == INTEGRATIONS:
        return str(error_of(answer)["code"])
    body = answer.json()
    if envelope == SHORTCUT:
        assert set(body) - {"action_url"} == {"error", "message"}, body
        return str(body["error"])
    if envelope == RUNS:
        assert set(body) - {"details"} == {"code", "category", "message", "retirable", "correlationId"}, body
        assert body["correlationId"] == answer["X-Request-Id"]
        return str(body["code"])
    if envelope == SESSIONS:
        assert all(set(error) - {"source"} == {"status", "code", "title", "detail"} for error in body["errors"]), body
        assert {error["status"] for error in body["errors"]} == {str(answer.status_code)}
        (code,) = {error["code"] for error in body["errors"]}
        return str(code)
    assert set(body) == {"error", "code", "details", "timestamp", "path", "requestId"}, body
    assert body["requestId"] == answer["X-Request-Id"]
    assert not isinstance(body["details"], list)
    return str(body["code"])


@dataclass(frozen=True)
class Surface:
    """A way to have something called: ``asked`` gives path and body of a POST to a path of the service."""

    envelope: str
    asked: Callable[[str, str, str], tuple[str, Any]]  # project, integration, path at the service


SURFACES = {
    "integrations": Surface(
        INTEGRATIONS,
        lambda project, _, path: (
            f"/v1/{project}/integrations/execute",
            {"toolName": "LAB_ANSWER", "params": {"kind": path}},
        ),
    ),
    "shortcut": Surface(SHORTCUT, lambda project, _, path: ("/v1/lab/answer", {"params": {"kind": path}})),
    "raw": Surface(
        RAW,
        lambda project, integration, path: (
            f"/api/integrations/projects/{project}/integrations/{integration}/execute",
            {"endpoint": path, "method": "POST"},
        ),
    ),
    "proxy": Surface(
        INTEGRATIONS, lambda project, _, path: (f"/v1/{project}/integrations/proxy/lab/{path}", {"text": "x"})
    ),
}
U1 = {"X-End-User": "u1"}
every_surface = pytest.mark.parametrize("name", SURFACES)
every_buffered_surface = pytest.mark.parametrize("name", [name for name in SURFACES if name != "proxy"])


def call(shop: Shop, name: str, path: str = "echo/a", **headers: str) -> Any:
    return call_as(shop.api, shop, name, path, **headers)


def call_as(api: Api, shop: Shop, name: str, path: str = "echo/a", **headers: str) -> Any:
    url, body = SURFACES[name].asked(shop.cast.project.pk, shop.integration.pk, path)
    return api.post(url, body, **(U1 | headers))


# -- X-Request-Id ----------------------------------------------------------------------------------------------------
PATHS = {  # unknown ones
    "/v1/proj_x/nonsense": INTEGRATIONS, "/v1/nonsense": INTEGRATIONS, "/v1/a/b/c": INTEGRATIONS, "/api/x": INTEGRATIONS,
    "/v1/skills/a/b/c": SHORTCUT, "/v1/connect/a/b": SHORTCUT, "/api-keys/a/b": SHORTCUT, "/v1/GitHub/create_issue": SHORTCUT,
    "/api/integrations/nonsense": RAW, "/api/integrations/projects/proj_x/nonsense": RAW,
    "/api/v1/workspace/x": RUNS, "/123e4567-e89b-12d3-a456-426614174000/projects/x": RUNS, "/x/projects/y/run/start": RUNS,
    "/api/execution/x": SESSIONS, "/api/execution/x/y/z": SESSIONS, "/hooks/x/y": INTEGRATIONS,
}  # fmt: skip


@every_surface
def test_a_request_id_is_taken_over_and_stands_in_the_log(shop: Shop, name: str) -> None:
    answer = call(shop, name, **{"X-Request-Id": "mine-1"})
    assert (answer.status_code, answer["X-Request-Id"]) == (200, "mine-1")
    assert b"".join(answer)
    assert [row.request_id for row in shop.executions()] == ["mine-1"]


@every_surface
@pytest.mark.parametrize("given", ["", "a b", "x" * 129, 'a"b', "<script>"])
def test_what_is_no_request_id_is_replaced(shop: Shop, name: str, given: str) -> None:
    first, second = (call(shop, name, **{"X-Request-Id": given})["X-Request-Id"] for _ in range(2))
    assert first.startswith("req_")
    assert second.startswith("req_")
    assert first != second


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_path_is_404_with_the_request_id(shop: Shop, path: str) -> None:
    for method in ("GET", "POST"):
        answer = shop.api.call(method, path, {} if method == "POST" else None, **{"X-Request-Id": "mine-2"})
        is_refused(answer, PATHS[path], "missing")
        assert answer["X-Request-Id"] == "mine-2"


# -- Bad requests ----------------------------------------------------------------------------------------------------
WRITES = {  # what takes a body: method, path, envelope
    "execute": ("POST", "/v1/{project}/integrations/execute", INTEGRATIONS),
    "configure": ("POST", "/v1/{project}/integrations/configure", INTEGRATIONS),
    "connect": ("POST", "/v1/{project}/integrations/connect", INTEGRATIONS),
    "connect-sessions": ("POST", "/v1/{project}/integrations/connect-sessions", INTEGRATIONS),
    "import": ("POST", "/v1/{project}/integrations/connections/import", INTEGRATIONS),
    "connection": ("PATCH", "/v1/{project}/integrations/connections/{connection}", INTEGRATIONS),
    "toolkit": ("PUT", "/v1/{project}/toolkits/warehouse", INTEGRATIONS),
    "webhooks": ("POST", "/v1/{project}/webhooks", INTEGRATIONS),
    "webhook": ("PATCH", "/v1/{project}/webhooks/{webhook}", INTEGRATIONS),
    "settings": ("PATCH", "/v1/{project}/settings", INTEGRATIONS),
    "user-tokens": ("POST", "/v1/{project}/user-tokens", INTEGRATIONS),
    "shortcut execute": ("POST", "/v1/lab/create_item", SHORTCUT),
    "shortcut connect": ("POST", "/v1/connect", SHORTCUT),
    "api-keys": ("POST", "/api-keys", SHORTCUT),
    "raw create": ("POST", "/api/integrations/projects/{project}/integrations", RAW),
    "raw from-template": ("POST", "/api/integrations/projects/{project}/integrations/from-template", RAW),
    "raw import": ("POST", "/api/integrations/projects/{project}/integrations/import", RAW),
    "raw update": ("PATCH", "/api/integrations/projects/{project}/integrations/{integration}", RAW),
    "raw execute": ("POST", "/api/integrations/projects/{project}/integrations/{integration}/execute", RAW),
    "run event": ("POST", "/v1/{project}/runs/{run}/events/payment", INTEGRATIONS),
    "run start": ("POST", "/{workspace}/projects/Shop/run/start", RUNS),
    "run start of clients": ("POST", "/api/v1/workspace/{workspace}/projects/Shop/run/start", RUNS),
    "session start": ("POST", "/api/execution/{module}/sessions", SESSIONS),
    "raw test": ("POST", "/api/integrations/projects/{project}/integrations/{integration}/test", RAW),
}
BAD = {
    "no JSON": b"toolkit=github",
    "half": b'{"toolkit":',
    "a list": b"[]",
    "a list of objects": b'[{"params":{}}]',
    "a number": b"5",
    "null": b"null",
    "NaN": b'{"params": NaN}',
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "a NUL": b"{\x00}",
    "half a surrogate pair": b'{"name": "\\ud800"}',
    "half a surrogate pair as a name": b'{"\\udc00": 1}',
    "deep": b'{"params":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "an endless integer": b'{"params": ' + b"1" * 5000 + b"}",
}
writes = pytest.mark.parametrize("what", WRITES)


def send(shop: Shop, what: str, body: Any, method: str = "", **headers: str) -> Any:
    """One of `WRITES`; /api-keys takes a person's token."""
    known, path, _ = WRITES[what]
    webhook = WebhookEndpoint.objects.first() or create_endpoint(shop.cast.project, "https://a.example", SYSTEM)[0]
    module = Module.objects.first() or publish(shop.cast.project)
    run = Run.objects.first() or start(module, {}, SYSTEM, Run.Surface.RUNS, user_id="u1")
    url = path.format(
        project=shop.cast.project.pk, connection=shop.connection.pk, integration=shop.integration.pk, webhook=webhook.pk,
        workspace=shop.cast.workspace.pk, module=module.public_id, run=run.pk,
    )  # fmt: skip
    key = mint_user_token(shop.cast.project, "u1", 600)[0] if what == "api-keys" else shop.cast.key
    return Api(shop.cast.project, key).call(method or known, url, body, **(U1 | headers))


@writes
def test_a_body_that_is_no_json_object_is_400_everywhere(shop: Shop, what: str) -> None:
    for body in BAD.values():
        is_refused(send(shop, what, body), WRITES[what][2], "bad")
    assert shop.upstream.requests() == []


@writes
def test_two_megabytes_are_413_everywhere(shop: Shop, what: str) -> None:
    is_refused(send(shop, what, json.dumps({"name": "x" * 2_000_000})), WRITES[what][2], "large")


@writes
def test_a_wrong_method_is_405_everywhere(shop: Shop, what: str) -> None:
    wrong = "DELETE" if WRITES[what][1].endswith(("import", "connect", "execute")) else "TRACE"
    answer = send(shop, what, None, wrong)
    is_refused(answer, WRITES[what][2], "method")
    assert WRITES[what][0] in answer["Allow"].split(", ")


@pytest.mark.parametrize(
    "path", ["/v1/{}/executions?tool=%00", "/v1/skills?search=%00", "/api/integrations/templates?search=%00"]
)
def test_a_nul_in_a_query_is_400(shop: Shop, path: str) -> None:
    envelope = RAW if path.startswith("/api") else SHORTCUT if "skills" in path else INTEGRATIONS
    is_refused(shop.api.get(path.format(shop.cast.project.pk)), envelope, "bad")


@pytest.mark.parametrize(
    ("path", "envelope"),
    [
        ("/v1/{}/integrations/connections/%00", INTEGRATIONS),
        ("/v1/skills/%00", SHORTCUT),
        ("/v1/connect/%00", SHORTCUT),
        ("/api/integrations/projects/{}/integrations/%00", RAW),
    ],
)
def test_a_nul_in_a_path_is_404(shop: Shop, path: str, envelope: str) -> None:
    is_refused(shop.api.get(path.format(shop.cast.project.pk)), envelope, "missing")


# -- Limits ----------------------------------------------------------------------------------------------------------
def limit(shop: Shop, **limits: int) -> None:
    shop.cast.workspace.plan = Plan.objects.create(name="Small", **limits)
    shop.cast.workspace.save(update_fields=["plan"])
    shop.cast.project.workspace = shop.cast.workspace


@every_surface
@pytest.mark.parametrize(("option", "kind"), [("calls_per_minute", "minute"), ("calls_per_day", "day")])
def test_beyond_the_plans_calls_it_is_429(shop: Shop, name: str, option: str, kind: str) -> None:
    limit(shop, **{option: 1})
    assert b"".join(call(shop, name))  # read to its end: a stream's slot is free then
    is_refused(call(shop, name), SURFACES[name].envelope, kind)
    assert shop.upstream.count("/echo/a") == 1


@every_surface
def test_with_no_slot_free_it_is_429(shop: Shop, name: str) -> None:
    limit(shop, concurrent_calls=1)
    with quota.concurrent(Caller("member", shop.cast.project, frozenset(), Actor("user:x@example.com"))):
        is_refused(call(shop, name), SURFACES[name].envelope, "minute")
    assert shop.upstream.count("/echo/a") == 0
    assert call(shop, name).status_code == 200


@every_surface
def test_at_the_providers_wall_it_is_429_without_asking_the_provider(shop: Shop, name: str) -> None:
    wall = f"walled/{name}/1/600"
    first = call(shop, name, wall)
    assert (first.status_code, bool(first.getvalue())) == (200, True)
    is_refused(call(shop, name, wall), SURFACES[name].envelope, "minute")
    assert shop.upstream.count(f"/{wall}") == 1


# -- Idempotency-Key -------------------------------------------------------------------------------------------------
@every_buffered_surface
def test_a_repeated_request_gets_the_first_answer(shop: Shop, name: str) -> None:
    first, second = (call(shop, name, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.content == second.content
    assert ("Idempotency-Replayed" in first, second["Idempotency-Replayed"]) == (False, "true")
    is_refused(call(shop, name, "echo/b", **{"Idempotency-Key": "k"}), SURFACES[name].envelope, "conflict")
    assert (shop.upstream.count("/echo/a"), shop.upstream.count("/echo/b")) == (1, 0)


@every_buffered_surface
def test_what_the_provider_refused_is_not_asked_again(shop: Shop, name: str) -> None:
    first, second = (call(shop, name, "status/418", **{"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert shop.upstream.count("/status/418") == 1


@pytest.mark.parametrize(
    ("path", "body", "other", "envelope"),
    [
        ("/v1/{}/integrations/connect", {"toolkit": "lab"}, {"toolkit": "lab", "scopes": ["x"]}, INTEGRATIONS),
        ("/v1/{}/integrations/connect-sessions", {"toolkits": ["lab"]}, {}, INTEGRATIONS),
        ("/v1/connect", {"integration": "lab"}, {"integration": "lab", "redirect_url": ""}, SHORTCUT),
    ],
)
def test_a_flow_begins_once(shop: Shop, path: str, body: Any, other: Any, envelope: str) -> None:
    url = path.format(shop.cast.project.pk)
    first, second = (shop.api.post(url, body, **U1, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert first.status_code in {200, 201}, first.content
    assert (first.content, second["Idempotency-Replayed"]) == (second.content, "true")
    is_refused(shop.api.post(url, other, **U1, **{"Idempotency-Key": "k"}), envelope, "conflict")


# The executions stand in another process: what the upstream saw counts.
CONNECT = """
from apps.workspaces.models import Project
from tests.cast import connect, enable
integration = enable(Project.objects.get(pk=sys.argv[1]), "lab", sys.argv[2])
connect(integration)
print(integration.pk)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Product]:
    """The product as processes, the lab switched on."""
    toolkits = tmp_path_factory.mktemp("toolkits")
    (toolkits / "lab.yaml").write_text(yaml.safe_dump(yaml.safe_load(LAB)))
    product = Product(
        tmp_path_factory.mktemp("home"), JACKFIELD_EGRESS_ALLOW="127.0.0.0/8", JACKFIELD_TOOLKITS_DIR=str(toolkits)
    )
    try:
        product.start()
        product.facts["lab"] = script(product, CONNECT, product.facts["project_id"], upstream.url).strip()
        yield product
    finally:
        product.close()


@every_buffered_surface
def test_of_many_at_once_with_one_key_one_is_carried_out(running: Product, upstream: Upstream, name: str) -> None:
    upstream.reset()
    path, body = SURFACES[name].asked(running.facts["project_id"], running.facts["lab"], f"busy/{name}/1")
    headers = {"Authorization": f"Bearer {running.facts['api_key']}", "Idempotency-Key": f"race-{name}"} | U1

    def send(_: int) -> requests.Response:
        return requests.post(f"{running.url}{path}", json=body, headers=headers, timeout=60)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7
    assert upstream.count(f"/busy/{name}/1") == 1


# -- Pages -----------------------------------------------------------------------------------------------------------
LISTS = {  # path: member, what tells rows apart, envelope
    "/v1/{project}/integrations/connections": ("connections", "id", INTEGRATIONS),
    "/v1/{project}/integrations/config": ("integrations", "id", INTEGRATIONS),
    "/v1/{project}/integrations/available?search=google": ("integrations", "toolkit", INTEGRATIONS),
    "/v1/{project}/integrations/tools?toolkit=github": ("tools", "name", INTEGRATIONS),
    "/v1/{project}/executions": ("executions", "id", INTEGRATIONS),
    "/v1/{project}/end-users": ("endUsers", "id", INTEGRATIONS),
    "/v1/{project}/runs": ("runs", "id", INTEGRATIONS),
    "/v1/{project}/toolkits": ("toolkits", "id", INTEGRATIONS),
    "/v1/{project}/webhooks": ("webhooks", "id", INTEGRATIONS),
    "/v1/{project}/webhooks/{webhook}/deliveries": ("deliveries", "id", INTEGRATIONS),
    "/api/integrations/templates?search=google": ("templates", "_id", RAW),
    "/api/integrations/projects/{project}/integrations": ("integrations", "_id", RAW),
}
ROWS = 7
lists = pytest.mark.parametrize("path", LISTS)


@pytest.fixture
def full(shop: Shop) -> Shop:
    """At least seven rows in every list."""
    project = shop.cast.project
    for number in range(1, ROWS):
        connect(shop.integration, f"u{number + 1}")
        enable(project, ["sandbox", "github", "slack", "notion", "hubspot", "discord"][number - 1])
    webhooks = [create_endpoint(project, f"https://h{number}.example", SYSTEM)[0] for number in range(ROWS)]
    for number in range(ROWS):
        call(shop, "integrations")
        put(project, f"warehouse-{number}", DOCUMENT, SYSTEM)
        send_test(webhooks[0], SYSTEM)
        start(publish(project, f"module-{number}"), {}, SYSTEM, Run.Surface.RUNS)
    shop.executions()
    return shop


def page(shop: Shop, path: str, **query: Any) -> Any:
    webhook = WebhookEndpoint.objects.order_by("created_at").first()
    url = path.format(project=shop.cast.project.pk, webhook=webhook.pk if webhook else "none")
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return shop.api.get(f"{url}{'&' if '?' in url else '?'}{text}")


@lists
def test_all_pages_together_are_the_list(full: Shop, path: str) -> None:
    member, key, _ = LISTS[path]
    whole = [row[key] for row in page(full, path, limit=500).json()[member]]
    assert len(whole) >= ROWS
    assert len(set(whole)) == len(whole)
    for size in (1, 3, 500):
        assert walked(full, path, size) == whole


def walked(shop: Shop, path: str, size: int) -> list[str]:
    """The rows of all pages of this size."""
    member, key, _ = LISTS[path]
    rows: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        found = page(shop, path, limit=size, **({"cursor": cursor} if cursor else {})).json()
        rows += [row[key] for row in found[member]]
        cursor = found["nextCursor"]
        assert len(found[member]) == size or (cursor is None and len(found[member]) <= size)
    return rows


@lists
def test_a_row_added_in_between_moves_nothing(full: Shop, path: str) -> None:
    member, key, _ = LISTS[path]
    whole = [row[key] for row in page(full, path, limit=500).json()[member]]
    first = page(full, path, limit=3).json()
    connect(full.integration, "later")
    create_endpoint(full.cast.project, "https://later.example", SYSTEM)
    rest = page(full, path, limit=500, cursor=first["nextCursor"]).json()[member]
    assert [row[key] for row in [*first[member], *rest]][: len(whole)] == whole


@lists
def test_a_limit_out_of_bounds_is_400(shop: Shop, path: str) -> None:
    create_endpoint(shop.cast.project, "https://a.example", SYSTEM)
    for given in ("0", "-1", "501", "1.5", "x", "", "%D9%A3", "1e2", "9" * 20):
        is_refused(page(shop, path, limit=given), LISTS[path][2], "bad")


def encoded(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


CURSORS = {
    "no base64": "!!", "no JSON": "x", "empty": encoded([]), "an object": encoded({}), "numbers": encoded([1, 2]),
    "no time": encoded(["a", "b"]), "no zone": encoded(["2026-01-01T00:00:00", "b"]), "a NUL": encoded(["\x00"]),
    "three": encoded(["1", "2", "3"]), "negative": encoded(["-5"]), "huge": encoded(["9" * 30]), "deep": "W" * 4000,
    "not ASCII": "%C3%A9",
}  # fmt: skip


@lists
def test_what_is_no_cursor_is_400(shop: Shop, path: str) -> None:
    create_endpoint(shop.cast.project, "https://a.example", SYSTEM)
    for given in CURSORS.values():
        is_refused(page(shop, path, cursor=given), LISTS[path][2], "bad")


# -- Credentials -----------------------------------------------------------------------------------------------------
def with_headers(shop: Shop, name: str, **headers: str) -> Any:
    """The call with these credentials and no others."""
    return call_as(Api(shop.cast.project, ""), shop, name, **headers)


@every_surface
def test_a_key_is_taken_in_either_header(shop: Shop, name: str) -> None:
    key = shop.cast.key
    for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer  {key}"}, {"X-API-Key": key},
                    {"Authorization": "Basic eDp5", "X-API-Key": key}):  # fmt: skip
        assert with_headers(shop, name, **headers).status_code == 200


@every_surface
def test_without_credentials_it_is_401(shop: Shop, name: str) -> None:
    for headers in (
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {shop.cast.key}"},
    ):
        is_refused(with_headers(shop, name, **headers), SURFACES[name].envelope, "nobody")
    is_refused(with_headers(shop, name, Authorization="Bearer jf_sk_wrong"), SURFACES[name].envelope, "no key")
    is_refused(with_headers(shop, name, **{"X-API-Key": "é"}), SURFACES[name].envelope, "no key")
    assert shop.upstream.requests() == []


@every_surface
def test_of_a_token_and_a_key_the_token_decides(shop: Shop, name: str) -> None:
    good = {"X-API-Key": shop.cast.key}
    is_refused(with_headers(shop, name, Authorization="Bearer a.b.c", **good), SURFACES[name].envelope, "no user")
    connect(shop.integration, "u2", access_token="at-of-u2")
    token, _ = mint_user_token(shop.cast.project, "u2", 600)
    answer = with_headers(shop, name, Authorization=f"Bearer {token}", **good)
    assert (answer.status_code, bool(answer.getvalue())) == (200, True)
    assert shop.upstream.requests("/echo/a")[-1]["headers"]["authorization"] == "Bearer at-of-u2"


@every_surface
def test_an_expired_or_revoked_key_is_no_key(shop: Shop, name: str) -> None:
    key, secret = issue_key(shop.cast.workspace, "k", SYSTEM, project=shop.cast.project, scopes=EVERY_SCOPE)
    assert with_headers(shop, name, **{"X-API-Key": secret}).status_code == 200
    ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    is_refused(with_headers(shop, name, **{"X-API-Key": secret}), SURFACES[name].envelope, "no key")
    ApiKey.objects.filter(pk=key.pk).update(expires_at=None)
    assert with_headers(shop, name, **{"X-API-Key": secret}).status_code == 200
    assert revoke_key(key, SYSTEM)
    is_refused(with_headers(shop, name, **{"X-API-Key": secret}), SURFACES[name].envelope, "no key")
    assert shop.upstream.count("/echo/a") == 2
