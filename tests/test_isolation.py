"""Every route of the URL map with every method under credentials that must see nothing: generated, so that none is forgotten."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from apps.connections.models import Connection, Integration
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import EndUser, WebhookDelivery, WebhookEndpoint
from apps.workspaces.services import create_project, issue_key
from apps.workspaces.tokens import mint_user_token
from apps.workspaces.webhooks import create_endpoint, send_test
from tests.api.shop import Shop, error_of
from tests.cast import EVERY_SCOPE

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
PUBLIC = {"v1/integrations/callback", "v1/<str:app_id>/integrations/callback"}
BLANK = re.compile(r"<(?:\w+:)?(\w+)>")
MARK = "marked-secret"  # stands in everything that is Alice's


def routes(prefix: str = "", resolver: URLResolver | None = None) -> Iterator[str]:
    for item in (resolver or get_resolver()).url_patterns:
        route = prefix + str(item.pattern)
        if isinstance(item, URLResolver):
            yield from routes(route, item)
        elif isinstance(item, URLPattern) and route.startswith("v1/<project:"):
            yield route


ROUTES = sorted(set(routes()) - PUBLIC)


@pytest.fixture
def marked(shop: Shop) -> Shop:
    """Alice's rows, each with the mark in it."""
    EndUser.objects.filter(external_id="u1").update(external_id=f"{MARK}-user")
    Connection.objects.update(account_label=MARK)
    Integration.objects.update(display_name=MARK)
    webhook, _ = create_endpoint(shop.cast.project, f"https://{MARK}.example", SYSTEM)
    send_test(webhook, SYSTEM)
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": MARK}, "userId": f"{MARK}-user"}
    assert shop.api.post("integrations/execute", body).status_code == 200
    shop.executions()
    return shop


def path_of(shop: Shop, route: str) -> str:
    """The route with Alice's own ids in its blanks."""
    values = {
        "app_id": shop.cast.project.pk,
        "toolkit": "lab",
        "connection_id": shop.connection.pk,
        "user_id": f"{MARK}-user",
        "execution_id": shop.executions()[0].pk,
        "path": "echo/items",
        "webhook_id": WebhookEndpoint.objects.get(project=shop.cast.project).pk,
        "delivery_id": WebhookDelivery.objects.get(project=shop.cast.project).pk,
    }
    names = BLANK.findall(route)
    assert set(names) <= set(values), f"{route} has a blank that this test does not know: give it a value of Alice's"
    return "/" + BLANK.sub(lambda match: values[match.group(1)], route)


def credentials(shop: Shop, who: str) -> dict[str, str]:
    cast = shop.cast
    second = create_project(cast.workspace, "Second", SYSTEM)
    keys: dict[str, Callable[[], str]] = {
        "another workspace's key": lambda: cast.foreign_key,
        "another workspace's own key": lambda: issue_key(cast.foreign_workspace, "w", SYSTEM, scopes=EVERY_SCOPE)[1],
        "another project's key": lambda: issue_key(cast.workspace, "p", SYSTEM, project=second, scopes=EVERY_SCOPE)[1],
        "another project's user": lambda: mint_user_token(second, f"{MARK}-user", 600)[0],
        "another workspace's user": lambda: mint_user_token(cast.foreign_project, f"{MARK}-user", 600)[0],
        "a key that is none": lambda: "jf_sk_nothing",
        "a token that is none": lambda: "a.b.c",
    }
    return {} if who == "nobody" else {"Authorization": f"Bearer {keys[who]()}"}


EXPECTED = {
    "another workspace's key": {404},
    "another workspace's own key": {404},
    "another project's key": {404},
    "another project's user": {401},
    "another workspace's user": {401},
    "a key that is none": {401},
    "a token that is none": {401},
    "nobody": {401},
}


def state() -> list[Any]:
    kinds = (Connection, Integration, EndUser, WebhookEndpoint, WebhookDelivery)
    return [list(model.objects.order_by("pk").values()) for model in kinds]


def test_the_url_map_has_routes_to_try() -> None:
    assert len(ROUTES) >= 14


@pytest.mark.parametrize("who", EXPECTED)
def test_who_is_a_stranger_gets_neither_data_nor_a_hint(marked: Shop, who: str) -> None:
    headers = credentials(marked, who)
    before = state()
    marked.upstream.reset()
    client = Client(raise_request_exception=True)
    body = json.dumps({"toolkit": "lab", "toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": f"{MARK}-user"})
    for route in ROUTES:
        for method in METHODS:
            answer = client.generic(
                method, path_of(marked, route), body, content_type="application/json", headers=headers
            )
            where = f"{method} {route} as {who}: {answer.status_code} {answer.content[:200]!r}"
            assert answer.status_code in EXPECTED[who] | {405}, where
            if answer.status_code == 405:
                assert answer["Allow"], where
                assert method not in answer["Allow"].split(", "), where
            assert MARK not in answer.content.decode(), where
            if method != "HEAD":
                error_of(answer)
    assert state() == before
    assert marked.upstream.requests() == []


def test_another_user_of_the_project_sees_nothing_of_the_first(marked: Shop) -> None:
    headers = {"Authorization": f"Bearer {mint_user_token(marked.cast.project, 'stranger', 600)[0]}"}
    before = state()[0]
    marked.upstream.reset()
    client = Client()
    body = json.dumps({"toolkit": "lab", "toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": f"{MARK}-user",
                       "connectionId": marked.connection.pk})  # fmt: skip
    for route in ROUTES:
        for method in METHODS:
            answer = client.generic(
                method, path_of(marked, route), body, content_type="application/json", headers=headers
            )
            where = f"{method} {route}: {answer.status_code} {answer.content[:200]!r}"
            assert answer.status_code in {200, 400, 403, 404, 405}, where
            assert MARK not in answer.content.decode(), where
    assert state()[0] == before
    assert marked.upstream.requests() == []


def test_a_foreign_project_answers_as_one_that_does_not_exist(marked: Shop) -> None:
    """To a key of another tenant, byte for byte but for the ids it sent itself."""
    headers = credentials(marked, "another workspace's key")
    for route in ROUTES:
        real = path_of(marked, route)
        fancied = real.replace(marked.cast.project.pk, "proj_doesnotexist")
        answers = [Client().get(path, headers=headers) for path in (real, fancied)]
        assert answers[0].status_code == answers[1].status_code
        assert answers[0].content == answers[1].content
