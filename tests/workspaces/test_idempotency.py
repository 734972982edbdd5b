"""Idempotency-Key on execute and connect: the first answer, once, to its own caller."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.connections.models import Connection, ConnectSession
from apps.workspaces import idempotency
from apps.workspaces.models import IdempotencyRecord, Plan
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import Shop, fails
from tests.cast import Api, connect, enable

BODY = {"toolName": "LAB_CREATE_ITEM", "params": {"title": "x"}, "userId": "u1"}


def send(shop: Shop, body: dict[str, Any] = BODY, key: str = "k1", api: Api | None = None, **headers: str) -> Any:
    return (api or shop.api).post("integrations/execute", body, **{"Idempotency-Key": key}, **headers)


def calls(shop: Shop) -> int:
    return shop.upstream.count("/echo/items")


def test_the_same_key_and_body_get_the_first_answer(shop: Shop) -> None:
    first, second = send(shop), send(shop)
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert second["Idempotency-Replayed"] == "true"
    assert second["Content-Type"] == "application/json"
    assert "Idempotency-Replayed" not in first
    assert calls(shop) == 1


def test_the_order_of_members_makes_no_other_body(shop: Shop) -> None:
    send(shop)
    assert send(shop, dict(reversed(BODY.items()))).status_code == 200
    assert calls(shop) == 1


def test_without_a_key_and_with_another_key_it_is_done_again(shop: Shop) -> None:
    send(shop)
    send(shop, key="k2")
    shop.api.post("integrations/execute", BODY)
    assert calls(shop) == 3


def test_another_body_is_a_conflict(shop: Shop) -> None:
    send(shop)
    fails(send(shop, BODY | {"params": {"title": "y"}}), 409, "REQUEST_CONFLICT")
    assert calls(shop) == 1


def test_after_24_hours_the_key_is_new(shop: Shop) -> None:
    send(shop)
    IdempotencyRecord.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    assert send(shop, BODY | {"params": {"title": "y"}}).status_code == 200
    assert calls(shop) == 2
    IdempotencyRecord.objects.update(created_at=timezone.now() - timedelta(hours=25))
    assert idempotency.forget_expired() == 1


@pytest.mark.parametrize("key", ["x" * 256, "a\tb", "\x7f"])
def test_a_key_is_at_most_255_printable_characters(shop: Shop, key: str) -> None:
    error = fails(send(shop, key=key), 400, "VALIDATION_INVALID_SCHEMA")
    assert list(error["details"]) == ["Idempotency-Key"]
    assert send(shop, key="x" * 255).status_code == 200


def test_the_key_is_bound_to_who_calls_and_for_whom(shop: Shop) -> None:
    connect(shop.integration, "u2")
    other_key = shop.cast.with_key("execute")
    user = Api(shop.cast.project, mint_user_token(shop.cast.project, "u1", 600)[0])
    body = {name: value for name, value in BODY.items() if name != "userId"}
    for number, (api, given, headers) in enumerate(
        [
            (shop.api, BODY, {}),
            (other_key, BODY, {}),
            (user, BODY, {}),
            (shop.api, body, {"X-End-User": "u1"}),
            (shop.api, body, {"X-End-User": "u2"}),
        ],
        start=1,
    ):
        assert "Idempotency-Replayed" not in send(shop, given, api=api, **headers)
        assert calls(shop) == number


def test_the_key_is_bound_to_the_route(shop: Shop) -> None:
    send(shop)
    assert (
        shop.api.post(
            "integrations/connect", {"toolkit": "lab", "userId": "u1"}, **{"Idempotency-Key": "k1"}
        ).status_code
        == 200
    )


def test_refusals_are_not_kept(shop: Shop) -> None:
    api = shop.cast.with_key("connect")
    fails(send(shop, BODY | {"params": {}}), 400, "VALIDATION_INVALID_SCHEMA")
    fails(send(shop, api=api), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    fails(send(shop, api=Api(shop.cast.project, "wrong")), 401, "AUTH_INVALID_API_KEY")
    fails(send(shop, BODY | {"userId": "u9"}), 400, "INTEGRATIONS_NOT_CONNECTED")
    Connection.objects.update(status="expired")
    fails(send(shop), 401, "INTEGRATIONS_CONNECTION_EXPIRED")
    Connection.objects.update(status="active")
    shop.cast.workspace.plan = plan = Plan.objects.create(name="None", calls_per_minute=0)
    shop.cast.workspace.save()
    fails(send(shop), 429, "QUOTA_RATE_LIMIT")
    plan.calls_per_minute = None
    plan.save()
    assert not IdempotencyRecord.objects.exists()
    assert send(shop).status_code == 200


def test_an_unknown_tool_and_an_address_not_called_are_not_kept(shop: Shop) -> None:
    fails(send(shop, BODY | {"toolName": "NONE"}), 422, "INTEGRATIONS_EXECUTION_FAILED")
    enable(shop.cast.project, "lab", "http://10.0.0.1")
    fails(send(shop), 502, "INTEGRATIONS_EXECUTION_FAILED")
    enable(shop.cast.project, "lab", shop.upstream.url)
    assert send(shop).status_code == 200


@pytest.mark.parametrize(
    ("kind", "status"), [("status/400", 422), ("status/429", 422), ("status/500", 422), ("reset", 502)]
)
def test_what_the_provider_answered_is_kept(shop: Shop, kind: str, status: int) -> None:
    body = {"toolName": "LAB_ANSWER", "params": {"kind": kind, "after": "77"}, "userId": "u1"}
    first = send(shop, body)
    asked = shop.upstream.count(f"/{kind}")
    second = send(shop, body)
    assert (first.status_code, second.status_code) == (status, status)
    assert first.content == second.content
    assert first.get("Retry-After") == second.get("Retry-After")
    assert shop.upstream.count(f"/{kind}") == asked


def test_a_fault_of_ours_is_not_kept(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from apps.workspaces import quota

    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(quota, "take_call", broken)
        fails(send(shop), 500, "INTERNAL_ERROR")
    assert send(shop).status_code == 200


def test_while_the_first_runs_the_second_waits_then_gives_up_with_retry_after(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "PATIENCE", 0.3)
    send(shop)
    IdempotencyRecord.objects.update(status=None)
    answer = send(shop)
    fails(answer, 409, "REQUEST_CONFLICT")
    assert int(answer["Retry-After"]) >= 1
    assert calls(shop) == 1


def test_a_first_request_whose_process_is_gone_is_said_to_be_unknown_and_never_repeated(shop: Shop) -> None:
    send(shop)
    cut_off = timezone.now() - idempotency.LONGEST - timedelta(seconds=1)
    IdempotencyRecord.objects.update(status=None, answer=None, created_at=cut_off)
    answer = send(shop)
    error = fails(answer, 409, "REQUEST_CONFLICT")
    assert "cut off" in error["message"]
    assert "new Idempotency-Key" in error["remediation"]
    assert 23 * 3600 < int(answer["Retry-After"]) < 24 * 3600
    assert calls(shop) == 1
    assert send(shop, key="k2").status_code == 200


def test_connect_gives_the_same_flow_again(shop: Shop) -> None:
    answers = [
        shop.api.post("integrations/connect", {"toolkit": "lab", "userId": "u5"}, **{"Idempotency-Key": "c"})
        for _ in range(2)
    ]
    assert answers[0].content == answers[1].content
    assert ConnectSession.objects.count() == 1
    other = shop.api.post("integrations/connect", {"toolkit": "lab", "userId": "u6"}, **{"Idempotency-Key": "c"})
    fails(other, 409, "REQUEST_CONFLICT")


def test_what_is_kept_of_an_answer_is_encrypted(shop: Shop) -> None:
    asked = {"toolkit": "lab", "userId": "u1"}
    first = shop.api.post("integrations/connect", asked, **{"Idempotency-Key": "k"})
    state = first.json()["authUrl"].partition("state=")[2].partition("&")[0]
    kept = IdempotencyRecord.objects.get()
    assert len(state) > 20
    assert state.encode() not in bytes(kept.answer or b"")
    assert shop.api.post("integrations/connect", asked, **{"Idempotency-Key": "k"}).content == first.content
    kept.answer = b"jf1:lost:AAAA"
    kept.save()
    fails(shop.api.post("integrations/connect", asked, **{"Idempotency-Key": "k"}), 409, "REQUEST_CONFLICT")
