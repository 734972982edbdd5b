"""POST /v1/{integration}/{endpoint}: what is passed on, the order of checks, every refusal of the table."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from apps.connections.models import Connection, Integration
from apps.lib.envelopes import SHORTCUT
from apps.lib.http import Answer
from apps.runs import services
from apps.runs.api.shortcut import _passed_on
from apps.runs.models import Execution
from apps.runs.services import Outcome
from apps.toolkits.spec import Failure, Toolkit
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Plan
from apps.workspaces.services import create_project, end_user, issue_key, revoke_key, set_issuer
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import Shop
from tests.cast import PASSWORD, Api, connect

ISSUER_SECRET = "0123456789abcdef0123456789abcdef"


def personal(shop: Shop, user_id: str = "u1", **options: Any) -> Api:
    """The API with a key of the user's own."""
    user = end_user(shop.cast.project, user_id)
    return shop.cast.with_key(*options.pop("scopes", ("execute", "connect")), end_user=user, **options)


def call(
    shop: Shop, endpoint: str, api: Api | None = None, headers: dict[str, str] | None = None, **params: Any
) -> Any:
    return (api or personal(shop)).post(f"/v1/lab/{endpoint}", {"params": params}, **(headers or {}))


def begin_flow(shop: Shop, user_id: str) -> Any:
    return personal(shop, user_id).post("/v1/connect", {"integration": "lab"})


def refused(answer: Any, status: int, code: str) -> dict[str, Any]:
    """Asserts that the answer is exactly the flat envelope; gives it."""
    assert answer.status_code == status, answer.content[:500]
    assert answer["Content-Type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert set(body) - {"action_url"} == {"error", "message"}, body
    assert body["error"] == code, body
    assert body["message"]
    assert answer["X-Request-Id"]
    if status == 429:
        assert int(answer["Retry-After"]) >= 1
    return body


# -- What is passed on -----------------------------------------------------------------------------------------------
def test_a_personal_key_calls_with_its_owners_account(shop: Shop) -> None:
    answer = call(shop, "create_item", title="Hello")
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"status", "data"}
    assert body["status"] == 200
    assert (body["data"]["json"], body["data"]["headers"]["authorization"]) == (
        {"title": "Hello"},
        "Bearer at-1-secret",
    )


def test_json_is_passed_on_byte_for_byte(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b'{ "n": 1.10000000000000000001,\n "big": 123456789012345678901234567890, "n": 2 }'
    monkeypatch.setattr(services, "_raw", lambda answer: raw)
    assert call(shop, "create_item", title="x").content == b'{"status":200,"data":' + raw + b"}"


@pytest.mark.parametrize(
    ("body", "passed"),
    [
        (b'{"n": 1E400}', b'{"n": 1E400}'),
        (b'{"n": ' + b"9" * 5000 + b"}", b'{"n": ' + b"9" * 5000 + b"}"),
        ('{"n": 1}'.encode("utf-16-le"), b'{"n": 1}'),
        ('{"n": 1}'.encode("utf-32-be"), b'{"n": 1}'),
        (b'{"n": NaN}', b'"{\\"n\\": NaN}"'),
    ],
    ids=["infinite", "5000 digits", "utf-16", "utf-32", "nan"],
)
def test_what_is_passed_on_is_always_json(body: bytes, passed: bytes) -> None:
    data, raw = services.decode(Answer(200, [("Content-Type", "application/json")], body, ""))
    answer = _passed_on(Outcome(200, data, raw, [], "LAB_X"))
    assert answer.content == b'{"status":200,"data":' + passed + b"}"


@pytest.mark.parametrize(
    ("kind", "status", "data"),
    [
        ("text", 200, "Grüße vom Amt"),
        ("html", 200, "<!doctype html><title>Hello</title><p>Not what you wanted."),
        ("list", 200, [1, 2, {"three": 3}]),
        ("empty", 200, None),
        ("no-content", 204, None),
        ("broken-json", 200, '{"half": '),
        ("status/201", 201, {"status": 201}),
        ("status/206", 206, {"status": 206}),
    ],
)
def test_a_success_is_200_with_the_services_own_status(shop: Shop, kind: str, status: int, data: Any) -> None:
    answer = call(shop, "answer", kind=kind)
    assert answer.status_code == 200
    assert answer.json() == {"status": status, "data": data}


@pytest.mark.parametrize("status", [300, 400, 401, 403, 404, 405, 409, 413, 418, 422, 429, 451, 500, 501, 503, 599])
def test_a_refusal_of_the_service_keeps_its_status_and_body(shop: Shop, status: int) -> None:
    without_refresh(shop)
    answer = call(shop, "answer", kind=f"status/{status}")
    assert answer.status_code == status
    assert answer.json() == {"status": status, "error": {"status": status}}
    assert "WWW-Authenticate" not in answer
    assert ("Retry-After" in answer) == (status == 429)
    (row,) = shop.executions()
    assert (row.surface, row.successful, row.status) == (Execution.Surface.SHORTCUT, False, status)


def test_the_services_retry_after_is_passed_on(shop: Shop) -> None:
    answer = call(shop, "answer", kind="status/503", after="17")
    assert (answer.status_code, answer["Retry-After"]) == (503, "17")


@pytest.mark.parametrize(("status", "shown", "length"), [(304, 304, 0), (999, 502, 27)])
def test_what_http_cannot_pass_on_stays_readable(status: int, shown: int, length: int) -> None:
    answer = _passed_on(Outcome(status, None, None, [], "LAB_X", provider_status=status))
    assert (answer.status_code, len(answer.content)) == (shown, length)


def test_an_endpoint_without_parameters_needs_no_body(shop: Shop) -> None:
    for body in (b"", b"{}", b'{"params": {}}'):
        assert personal(shop).post("/v1/lab/slow", body.decode()).json() == {"status": 200, "data": {"seconds": 1.0}}


def test_a_service_that_says_no_with_200_is_passed_on_as_it_is(shop: Shop, failing: Toolkit) -> None:
    answer = call(shop, "create_item", title="other")
    assert answer.status_code == 200
    assert answer.json()["data"]["json"] == {"title": "other"}
    (row,) = shop.executions()
    assert row.successful is False


def test_a_refused_token_said_with_200_is_refreshed_once(shop: Shop, failing: Toolkit) -> None:
    with_refresh(shop, "ok")
    answer = call(shop, "create_item", title="expired")
    assert answer.status_code == 200
    assert shop.upstream.count("/echo/items") == 2
    assert answer.json()["data"]["headers"]["authorization"] == "Bearer access-1"


@pytest.fixture
def failing(lab: Toolkit, monkeypatch: pytest.MonkeyPatch) -> Toolkit:
    """The lab says no with 200: every POST is a refusal, and one with the title "expired" refuses the token."""
    rule = Failure(pointer="/method", equals="POST", code="/json/title", unauthorized=["expired"])
    monkeypatch.setitem(lab.__dict__, "failure", rule)
    return lab


# -- Refresh ---------------------------------------------------------------------------------------------------------
def with_refresh(shop: Shop, variant: str) -> None:
    """The provider's token endpoint answers in this way."""
    settings = shop.integration.settings | {"token_url": f"{shop.upstream.url}/token/{variant}"}
    Integration.objects.filter(pk=shop.integration.pk).update(settings=settings)


def without_refresh(shop: Shop) -> None:
    """The provider gave no refresh token."""
    shop.connection.seal("credentials", {"access_token": "at-1-secret"})
    shop.connection.save()


def test_a_401_forces_one_refresh_and_one_retry(shop: Shop) -> None:
    with_refresh(shop, "ok")
    assert call(shop, "answer", kind="bearer/access-1").json() == {"status": 200, "data": {"ok": True}}
    assert shop.upstream.count("/bearer/access-1") == 2


def test_a_401_after_the_retry_is_passed_on(shop: Shop) -> None:
    with_refresh(shop, "ok")
    answer = call(shop, "answer", kind="status/401")
    assert (answer.status_code, answer.json()) == (401, {"status": 401, "error": {"status": 401}})
    assert (shop.upstream.count("/status/401"), shop.upstream.count("/token/ok")) == (2, 1)


def test_a_401_with_nothing_to_refresh_is_passed_on(shop: Shop) -> None:
    without_refresh(shop)
    answer = call(shop, "answer", kind="status/401")
    assert (answer.status_code, answer.json()) == (401, {"status": 401, "error": {"status": 401}})
    assert shop.upstream.count("/status/401") == 1


def test_a_refresh_that_fails_for_good_is_token_expired_with_the_link(shop: Shop) -> None:
    with_refresh(shop, "invalid-grant")
    first = refused(call(shop, "answer", kind="status/401"), 401, "token_expired")
    again = refused(call(shop, "answer", kind="status/401"), 401, "token_expired")
    for body in (first, again):
        assert body["action_url"].startswith(f"{settings.JACKFIELD_URL}/connect/")
        page = Client().get(urlsplit(body["action_url"]).path)
        assert (page.status_code, b"Lab" in page.content) == (200, True)
    assert shop.upstream.count("/status/401") == 1


def test_a_refresh_that_cannot_be_for_now_is_upstream_unreachable(shop: Shop) -> None:
    with_refresh(shop, "500")
    Connection.objects.update(expires_at=timezone.now() - timedelta(hours=1))
    refused(call(shop, "create_item", title="x"), 502, "upstream_unreachable")
    assert shop.upstream.count("/echo/items") == 0


# -- The order of checks ---------------------------------------------------------------------------------------------
def test_checks_come_in_the_documented_order(shop: Shop) -> None:
    """Each call mends the fault that was told before, and no other."""
    plan = Plan.objects.create(name="small", calls_per_day=0)
    shop.cast.workspace.plan = plan
    shop.cast.workspace.save()
    Connection.objects.all().delete()
    limited, whole = personal(shop, toolkits=["github"]), personal(shop)
    bad: dict[str, Any] = {"params": {"count": "many"}}
    good = {"params": {"title": "x"}}

    refused(Api(shop.cast.project, "jf_sk_wrong").post("/v1/lab/none", bad), 401, "unauthorized")
    refused(limited.post("/v1/lab/none", bad), 403, "scope_not_allowed")
    refused(limited.post("/v1/nowhere/none", bad), 403, "scope_not_allowed")  # there or not
    refused(whole.post("/v1/nowhere/none", bad), 404, "not_found")
    refused(whole.post("/v1/lab/none", "{"), 404, "not_found")
    refused(whole.post("/v1/lab/create_item", "{"), 400, "bad_request")
    refused(whole.post("/v1/lab/create_item", bad), 400, "bad_request")
    refused(whole.post("/v1/lab/create_item", good), 403, "integration_not_connected")
    connect(shop.integration)
    refused(whole.post("/v1/lab/create_item", good), 429, "daily_limit_reached")
    Plan.objects.update(calls_per_day=1)
    assert whole.post("/v1/lab/create_item", good).status_code == 200
    body = refused(whole.post("/v1/lab/create_item", good), 429, "daily_limit_reached")
    assert "1 calls a day" in body["message"]


def test_parameters_are_checked_before_whether_the_toolkit_is_enabled(shop: Shop) -> None:
    api = personal(shop)
    refused(api.post("/v1/github/create_issue", {"params": {"title": "x"}}), 400, "bad_request")
    refused(
        api.post("/v1/github/create_issue", {"params": {"repo": "a/b", "title": "x"}}), 403, "integration_not_connected"
    )


def test_every_fault_of_the_parameters_is_told(shop: Shop) -> None:
    message = refused(call(shop, "create_item", count="many", colour="red"), 400, "bad_request")["message"]
    assert all(name in message for name in ("params.title", "params.count", "params.colour"))


def test_every_end_is_logged(shop: Shop) -> None:
    call(shop, "create_item", title="x")
    call(shop, "create_item")
    call(shop, "none")
    call(shop, "create_item", personal(shop, "u9"), title="x")
    rows = [(row.surface, row.toolkit, row.tool, row.user_id, row.successful) for row in shop.executions()]
    assert rows == [
        ("shortcut", "lab", "LAB_CREATE_ITEM", "u1", True),
        ("shortcut", "lab", "LAB_CREATE_ITEM", "u1", False),
        ("shortcut", "", "lab.none", "u1", False),
        ("shortcut", "lab", "LAB_CREATE_ITEM", "u9", False),
    ]


# -- Refusals --------------------------------------------------------------------------------------------------------
def test_a_toolkit_that_is_not_enabled_leads_to_the_admin(shop: Shop) -> None:
    answer = personal(shop).post("/v1/github/get_authenticated_user", {})
    url = refused(answer, 403, "integration_not_connected")["action_url"]
    client = Client()
    client.force_login(shop.cast.alice)
    page = client.get(url.removeprefix(settings.JACKFIELD_URL))
    assert page.status_code == 200
    assert b"GitHub" in page.content


def test_an_account_that_is_missing_leads_to_the_persons_connect_page(shop: Shop) -> None:
    body = refused(call(shop, "create_item", personal(shop, "u9"), title="x"), 403, "integration_not_connected")
    page = Client().get(urlsplit(body["action_url"]).path)
    assert (page.status_code, b"Connect your Lab account" in page.content) == (200, True)


def test_a_connection_that_waits_for_confirmation_is_not_used(shop: Shop) -> None:
    Connection.objects.update(status=Connection.Status.INACTIVE)
    body = refused(call(shop, "create_item", title="x"), 403, "integration_not_connected")
    assert body["action_url"].endswith(f"/admin/connections/connection/{shop.connection.pk}/change/")
    assert shop.upstream.requests() == []


def revoked(shop: Shop) -> Api:
    key, secret = issue_key(shop.cast.workspace, "old", SYSTEM, project=shop.cast.project)
    revoke_key(key, SYSTEM)
    return Api(shop.cast.project, secret)


CALLERS: dict[str, Callable[[Shop], Api]] = {
    "no key": lambda shop: Api(shop.cast.project, ""),
    "an unknown key": lambda shop: Api(shop.cast.project, "jf_sk_nothing"),
    "a revoked key": revoked,
    "an expired key": lambda shop: personal(shop, expires_at=timezone.now() - timedelta(seconds=1)),
    "a token that is none": lambda shop: Api(shop.cast.project, "a.b.c"),
    "a token that has expired": lambda shop: Api(shop.cast.project, mint_user_token(shop.cast.project, "u1", -5)[0]),
}


@pytest.mark.parametrize("who", CALLERS)
def test_who_is_not_known_is_unauthorized(shop: Shop, who: str) -> None:
    answer = call(shop, "create_item", CALLERS[who](shop), title="x")
    refused(answer, 401, "unauthorized")
    assert answer["WWW-Authenticate"] == "Bearer"


def test_a_members_token_is_unauthorized(shop: Shop) -> None:
    signed_in = shop.api.post("/api/auth/login", {"email": shop.cast.alice.email, "password": PASSWORD}).json()
    refused(call(shop, "create_item", Api(shop.cast.project, signed_in["token"]), title="x"), 401, "unauthorized")


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{",
        '"x"',
        '{"params": []}',
        '{"params": "x"}',
        '{"params": {"title": NaN}}',
        '{"params": {"title": "\\ud800"}}',
    ],
)
def test_a_body_that_is_none_is_a_bad_request(shop: Shop, body: str) -> None:
    refused(personal(shop).post("/v1/lab/create_item", body), 400, "bad_request")


def test_a_body_that_is_too_large(shop: Shop) -> None:
    refused(
        personal(shop).post("/v1/lab/create_item", json.dumps({"params": {"title": "x" * 2**20}})), 413, "too_large"
    )


@pytest.mark.parametrize("path", ["/v1/skills/a/b/c", "/v1/connect/a/b", "/v1/skills/", "/api-keys/a/b", "/v1/x/y\x00"])
def test_an_unknown_path_is_told_in_this_envelope(shop: Shop, path: str) -> None:
    refused(personal(shop).get(path), 404, "not_found")


@pytest.mark.parametrize("slug", ["no_such_integration", "GitHub", "größe", "app_abc"])
def test_what_cannot_be_a_slug_is_an_unknown_integration(shop: Shop, slug: str) -> None:
    refused(personal(shop).post(f"/v1/{slug}/create_item", {"params": {}}), 404, "not_found")
    refused(Api(shop.cast.project, "jf_sk_nothing").post(f"/v1/{slug}/create_item", {}), 401, "unauthorized")


def test_a_projects_unknown_path_is_told_in_the_projects_envelope(shop: Shop) -> None:
    answer = personal(shop).post(f"/v1/{shop.cast.project.pk}/nothing", {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize("path", ["/v1/skills", "/v1/connect", "/api-keys", "/v1/lab/create_item", "/v1/lab/download"])
def test_an_unknown_method_is_told_in_this_envelope(shop: Shop, path: str) -> None:
    answer = personal(shop).call("PATCH", path)
    refused(answer, 405, "method_not_allowed")
    assert answer["Allow"]


def test_no_answer_and_a_late_answer(shop: Shop) -> None:
    refused(call(shop, "answer", kind="reset"), 502, "upstream_unreachable")
    refused(call(shop, "hang"), 504, "upstream_timeout")


def test_the_minutes_limit(shop: Shop) -> None:
    shop.cast.workspace.plan = Plan.objects.create(name="slow", calls_per_minute=1)
    shop.cast.workspace.save()
    api = personal(shop)
    answers = [call(shop, "create_item", api, title="x") for _ in range(3)]
    limited = [answer for answer in answers if answer.status_code == 429]
    assert limited  # a minute may end in between
    refused(limited[0], 429, "rate_limited")


def test_a_missing_scope_is_scope_not_allowed(shop: Shop) -> None:
    refused(call(shop, "create_item", personal(shop, scopes=("connect",)), title="x"), 403, "scope_not_allowed")
    refused(personal(shop, scopes=("execute",)).post("/v1/connect", {"integration": "lab"}), 403, "scope_not_allowed")


def test_the_envelope_spells_every_error_of_the_tree() -> None:
    from apps.lib import errors

    def tree(cls: type[errors.Failure]) -> list[type[errors.Failure]]:
        return [cls, *(inner for sub in cls.__subclasses__() for inner in tree(sub))]

    spelled = {cls: (SHORTCUT.status(cls()), SHORTCUT.body(cls())["error"]) for cls in tree(errors.Failure)}
    assert spelled[errors.ConnectionExpired] == (401, "token_expired")
    assert spelled[errors.PlanLimitReached] == (403, "plan_limit_reached")
    assert spelled[errors.ProviderLimited] == (429, "rate_limited")
    assert {cls for cls, (_, code) in spelled.items() if code == "internal_error"} == {errors.Failure, errors.Internal}


# -- For whom --------------------------------------------------------------------------------------------------------
def test_a_projects_key_names_the_user_by_header(shop: Shop) -> None:
    api = shop.cast.with_key("execute", "connect")
    assert call(shop, "create_item", api, {"X-End-User": "u1"}, title="x").status_code == 200
    body = refused(call(shop, "create_item", api, title="x"), 400, "bad_request")
    assert "X-End-User" in body["message"]
    refused(call(shop, "create_item", api, {"X-End-User": "u9"}, title="x"), 403, "integration_not_connected")


def test_a_personal_key_stays_its_owners(shop: Shop) -> None:
    refused(call(shop, "create_item", personal(shop, "u9"), {"X-End-User": "u1"}, title="x"), 403,
            "integration_not_connected")  # fmt: skip


def test_a_users_token_that_we_minted_names_its_project(shop: Shop) -> None:
    api = Api(shop.cast.project, mint_user_token(shop.cast.project, "u1", 600)[0])
    assert call(shop, "create_item", api, title="x").status_code == 200


def test_an_issuers_token_is_taken_where_one_project_alone_has_the_issuer(shop: Shop) -> None:
    options: dict[str, Any] = {"issuer": "https://id.yourapp.com", "method": "HS256", "secret": ISSUER_SECRET}
    set_issuer(shop.cast.project, SYSTEM, **options)
    claims = {"iss": "https://id.yourapp.com", "sub": "u1", "exp": timezone.now() + timedelta(minutes=5)}
    api = Api(shop.cast.project, jwt.encode(claims, ISSUER_SECRET, algorithm="HS256"))
    assert call(shop, "create_item", api, title="x").status_code == 200
    set_issuer(shop.cast.foreign_project, SYSTEM, **options)
    refused(call(shop, "create_item", api, title="x"), 401, "unauthorized")


@pytest.mark.parametrize("name", ["iss", "aud"])
@pytest.mark.parametrize("value", [None, 7, ["x"], "", "a\x00b", "\ud800", "jackfield:proj_none"])
def test_a_forged_token_is_no_token(shop: Shop, name: str, value: Any) -> None:
    header = {"typ": "jf-user+jwt"} if name == "aud" else {}
    parts = [{"alg": "HS256"} | header, {name: value, "sub": "u1"}]
    token = ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".AAAA"
    refused(call(shop, "create_item", Api(shop.cast.project, token), title="x"), 401, "unauthorized")


def test_a_workspaces_key_is_for_its_only_project(shop: Shop) -> None:
    api = Api(shop.cast.project, issue_key(shop.cast.workspace, "w", SYSTEM, scopes=["execute"])[1])
    assert call(shop, "create_item", api, {"X-End-User": "u1"}, title="x").status_code == 200
    create_project(shop.cast.workspace, "Second", SYSTEM)
    body = refused(call(shop, "create_item", api, {"X-End-User": "u1"}, title="x"), 400, "bad_request")
    assert "project" in body["message"]


def test_another_tenants_key_uses_nothing_of_ours(shop: Shop) -> None:
    body = refused(call(shop, "create_item", shop.cast.foreign, {"X-End-User": "u1"}, title="x"), 403,
                   "integration_not_connected")  # fmt: skip
    assert shop.cast.project.pk not in body["action_url"]
    assert shop.upstream.requests() == []


# -- Idempotency-Key -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("status", "times"), [(200, 1), (403, 1), (404, 1), (500, 1), (400, 1), (401, 2)])
def test_what_the_service_answered_is_kept_unless_it_turned_the_call_away(shop: Shop, status: int, times: int) -> None:
    without_refresh(shop)
    api = personal(shop)
    answers = [call(shop, "answer", api, {"Idempotency-Key": "k"}, kind=f"status/{status}") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [status, status]
    assert answers[0].content == answers[1].content
    assert ("Idempotency-Replayed" in answers[1]) == (times == 1)
    assert shop.upstream.count(f"/status/{status}") == times


def test_a_429_of_the_service_is_not_kept(shop: Shop) -> None:
    api = personal(shop)
    first, second = (
        call(shop, "answer", api, {"Idempotency-Key": "k"}, kind="status/429", after="60") for _ in range(2)
    )
    assert (first.status_code, first.json(), first["Retry-After"]) == (
        429,
        {"status": 429, "error": {"status": 429}},
        "60",
    )
    refused(second, 429, "rate_limited")  # until then the service is not asked
    assert shop.upstream.count("/status/429") == 1


def test_our_own_refusals_are_not_kept(shop: Shop) -> None:
    api = personal(shop)
    Connection.objects.update(status=Connection.Status.INACTIVE)
    refused(call(shop, "create_item", api, {"Idempotency-Key": "k"}, title="x"), 403, "integration_not_connected")
    Connection.objects.update(status=Connection.Status.ACTIVE)
    assert call(shop, "create_item", api, {"Idempotency-Key": "k"}, title="x").status_code == 200
    refused(call(shop, "create_item", api, {"Idempotency-Key": "k"}, title="y"), 409, "conflict")
