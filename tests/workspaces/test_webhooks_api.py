"""The routes of webhooks: what they take, what they answer, who may call them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.workspaces import webhooks
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, Role, WebhookDelivery, WebhookEndpoint
from apps.workspaces.services import add_member, create_project, issue_key
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import error_of, fails
from tests.cast import EVERY_SCOPE, PASSWORD, Api, Cast

URL = "https://app.example/hook"
ROW = {"id", "url", "description", "events", "enabled", "previousSecretUntil", "createdAt", "updatedAt"}


def made(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.post("webhooks", {"url": URL} | body)
    assert answer.status_code == 201, answer.content
    row: dict[str, Any] = json.loads(answer.content)
    return row


def delivery_of(cast: Cast, webhook_id: str) -> WebhookDelivery:
    return webhooks.send_test(webhooks.find_endpoint(cast.project, webhook_id), SYSTEM)


def test_a_webhook_is_made_and_its_secret_shown_once(cast: Cast) -> None:
    row = made(cast.api, events=["connection.deleted", "connection.created"], description="Production")
    assert set(row) == ROW | {"secret"}
    assert row["events"] == ["connection.created", "connection.deleted"]
    assert row["enabled"] is True
    assert row["secret"].startswith("whsec_")
    for path in ("webhooks", f"webhooks/{row['id']}"):
        text = cast.api.get(path).content.decode()
        assert row["id"] in text
        assert "whsec_" not in text
        assert '"secret"' not in text
    one = json.loads(cast.api.get(f"webhooks/{row['id']}").content)
    assert set(one) == ROW
    assert json.loads(cast.api.get("webhooks").content) == {"webhooks": [one], "nextCursor": None}


def test_lists_are_paged_newest_first(cast: Cast) -> None:
    ids = [made(cast.api)["id"] for _ in range(3)]
    first = json.loads(cast.api.get("webhooks?limit=2").content)
    rest = json.loads(cast.api.get(f"webhooks?limit=2&cursor={first['nextCursor']}").content)
    assert [row["id"] for row in first["webhooks"] + rest["webhooks"]] == ids[::-1]
    assert rest["nextCursor"] is None
    deliveries = [delivery_of(cast, ids[0]).pk for _ in range(3)]
    first = json.loads(cast.api.get(f"webhooks/{ids[0]}/deliveries?limit=2").content)
    rest = json.loads(cast.api.get(f"webhooks/{ids[0]}/deliveries?limit=2&cursor={first['nextCursor']}").content)
    assert [row["id"] for row in first["deliveries"] + rest["deliveries"]] == deliveries[::-1]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": 5}, "url"),
        ({"url": "http://app.example"}, "url"),
        ({"url": "https://10.0.0.1"}, "url"),
        ({"url": f"{URL}\x00"}, "url"),
        ({"url": URL, "events": ["connection.exploded"]}, "events"),
        ({"url": URL, "events": "connection.created"}, "events"),
        ({"url": URL, "events": [None]}, "events.0"),
        ({"url": URL, "description": "x" * 201}, "description"),
        ({"url": URL, "description": "a\u0007b"}, "description"),
        ({"url": URL, "enabled": "perhaps"}, "enabled"),
        ({"url": URL, "secret": "whsec_mine"}, "secret"),
    ],
    ids=[
        "nothing",
        "no text",
        "no TLS",
        "private",
        "NUL",
        "type",
        "no list",
        "null",
        "long",
        "control",
        "no bool",
        "unknown",
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_kept(cast: Cast, body: dict[str, Any], field: str) -> None:
    answer = cast.api.post("webhooks", body)
    fails(answer, 400, "VALIDATION_INVALID_SCHEMA")
    assert field in error_of(answer)["details"]
    assert not WebhookEndpoint.objects.exists()
    row = made(cast.api)
    if body:
        assert cast.api.patch(f"webhooks/{row['id']}", body).status_code == 400
        after = json.loads(cast.api.get(f"webhooks/{row['id']}").content)
        assert after == {name: row[name] for name in ROW}


def test_a_webhook_is_changed_by_what_is_given(cast: Cast) -> None:
    row = made(cast.api, description="Old")
    answer = cast.api.patch(f"webhooks/{row['id']}", {"enabled": False, "events": ["connection.created"]})
    assert answer.status_code == 200
    changed = json.loads(answer.content)
    assert (changed["enabled"], changed["events"], changed["description"]) == (False, ["connection.created"], "Old")
    assert cast.api.patch(f"webhooks/{row['id']}", {}).status_code == 200


def test_rotation_shows_the_new_secret_and_until_when_both_sign(cast: Cast) -> None:
    row = made(cast.api)
    rotated = json.loads(cast.api.post(f"webhooks/{row['id']}/rotate").content)
    assert rotated["secret"] != row["secret"]
    assert rotated["previousSecretUntil"] is not None
    assert "whsec_" not in cast.api.get(f"webhooks/{row['id']}").content.decode()


def test_a_deleted_webhook_takes_its_deliveries_along(cast: Cast) -> None:
    row = made(cast.api)
    delivery_of(cast, row["id"])
    answer = cast.api.delete(f"webhooks/{row['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert not WebhookDelivery.objects.exists()
    fails(cast.api.delete(f"webhooks/{row['id']}"), 404, "RESOURCE_NOT_FOUND")


def test_deliveries_are_filtered_by_status(cast: Cast) -> None:
    row = made(cast.api)
    pending, dead = delivery_of(cast, row["id"]), delivery_of(cast, row["id"])
    WebhookDelivery.objects.filter(pk=dead.pk).update(status="dead")
    for status, expected in (("pending", [pending.pk]), ("dead", [dead.pk]), ("delivered", [])):
        found = json.loads(cast.api.get(f"webhooks/{row['id']}/deliveries?status={status}").content)["deliveries"]
        assert [one["id"] for one in found] == expected
    fails(cast.api.get(f"webhooks/{row['id']}/deliveries?status=lost"), 400, "VALIDATION_INVALID_SCHEMA")
    shown = json.loads(cast.api.get(f"webhooks/{row['id']}/deliveries?status=dead").content)["deliveries"][0]
    assert shown["nextTryAt"] is None
    assert json.loads(shown["body"])["type"] == shown["type"] == "webhook.test"
    assert shown["messageId"].startswith("msg_")


@pytest.mark.parametrize(
    "path", ["webhooks/{webhook}/deliveries/{delivery}/redeliver", "webhooks/deliveries/{delivery}/redeliver"]
)
def test_a_delivery_is_sent_again_by_either_path(cast: Cast, path: str) -> None:
    row = made(cast.api)
    delivery = delivery_of(cast, row["id"])
    WebhookDelivery.objects.filter(pk=delivery.pk).update(status="dead")
    answer = cast.api.post(path.format(webhook=row["id"], delivery=delivery.pk))
    assert answer.status_code == 202
    shown = json.loads(answer.content)
    assert (shown["status"], shown["messageId"], shown["id"]) == ("pending", delivery.event_id, delivery.pk)
    other = made(cast.api)["id"]
    fails(cast.api.post(f"webhooks/{other}/deliveries/{delivery.pk}/redeliver"), 404, "RESOURCE_NOT_FOUND")
    cast.api.patch(f"webhooks/{row['id']}", {"enabled": False})
    fails(cast.api.post(path.format(webhook=row["id"], delivery=delivery.pk)), 409, "REQUEST_CONFLICT")


def test_other_tenants_projects_and_scopes_get_nothing(cast: Cast) -> None:
    row = made(cast.api)
    delivery = delivery_of(cast, row["id"]).pk
    second = create_project(cast.workspace, "Second", SYSTEM)
    elsewhere = Api(second, issue_key(cast.workspace, "p", SYSTEM, project=second, scopes=EVERY_SCOPE)[1])
    calls = [("GET", "webhooks/{}"), ("PATCH", "webhooks/{}"), ("DELETE", "webhooks/{}"), ("POST", "webhooks/{}/rotate"),
             ("GET", "webhooks/{}/deliveries"), ("POST", "webhooks/{}/deliveries/" + delivery + "/redeliver"),
             ("POST", "webhooks/deliveries/" + delivery + "/redeliver")]  # fmt: skip
    user = Api(cast.project, mint_user_token(cast.project, "u1", 600)[0])
    for method, path in calls:
        for api in (elsewhere, Api(cast.foreign_project, cast.foreign_key), cast.foreign):
            assert api.call(method, path.format(row["id"]), {}).status_code == 404, (method, path)
        for api in (cast.with_key("connect", "execute", "runs", "secrets"), user):
            assert api.call(method, path.format(row["id"]), {}).status_code == 403, (method, path)
    assert json.loads(elsewhere.get("webhooks").content)["webhooks"] == []
    assert cast.api.get(f"webhooks/{row['id']}").status_code == 200


def test_a_viewer_reads_and_a_developer_does_all_but_delete(cast: Cast) -> None:
    row = made(cast.api)

    def member() -> Api:
        body = {"email": "bob@example.com", "password": PASSWORD}
        return Api(cast.project, json.loads(cast.api.post("/api/auth/login", body).content)["token"])

    assert member().get("webhooks").status_code == 200
    assert member().post("webhooks", {"url": URL}).status_code == 403
    assert member().post(f"webhooks/{row['id']}/rotate").status_code == 403
    add_member(cast.workspace, cast.bob, Role.DEVELOPER, SYSTEM)
    assert member().post(f"webhooks/{row['id']}/rotate").status_code == 200
    assert member().delete(f"webhooks/{row['id']}").status_code == 403


def test_a_list_costs_the_same_however_long_it_is(cast: Cast) -> None:
    row = made(cast.api)

    def count(path: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert cast.api.get(path).status_code == 200
        return len([query for query in captured if query["sql"].startswith("SELECT")])

    paths = ("webhooks", f"webhooks/{row['id']}/deliveries")
    before = [count(path) for path in paths]
    for _ in range(5):
        made(cast.api)
        delivery_of(cast, row["id"])
    assert [count(path) for path in paths] == before == [2, 3]


def test_changes_are_audited_with_who_made_them(cast: Cast) -> None:
    row = made(cast.api)
    cast.api.delete(f"webhooks/{row['id']}")
    events = AuditEvent.objects.filter(target=row["id"]).order_by("created_at")
    assert [event.action for event in events] == ["webhook.created", "webhook.deleted"]
    assert all(event.actor.startswith("key:") for event in events)
