"""Every route of the Shortcut API, with every method, for callers who must see and change nothing of Alice's project."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLResolver, get_resolver

from apps.connections.models import Connection, ConnectSession, Integration
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import ApiKey, EndUser
from apps.workspaces.services import create_project, end_user, issue_key
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import Shop
from tests.api.test_shortcut import begin_flow, refused
from tests.cast import EVERY_SCOPE

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
MARK = "marked-secret"
OURS = ("v1/skills", "v1/connect", "v1/<toolkit:", "api-keys")


def routes(prefix: str = "", resolver: URLResolver | None = None) -> Iterator[str]:
    for item in (resolver or get_resolver()).url_patterns:
        route = prefix + str(item.pattern)
        if isinstance(item, URLResolver):
            yield from routes(route, item)
        elif route.startswith(OURS):
            yield f"/{route}"


ROUTES = sorted(routes())


@pytest.fixture
def marked(shop: Shop) -> Shop:
    """Alice's rows, each with the mark in it."""
    EndUser.objects.filter(external_id="u1").update(external_id=f"{MARK}-user")
    Connection.objects.update(account_label=MARK)
    Integration.objects.update(display_name=MARK)
    user = end_user(shop.cast.project, f"{MARK}-user")
    issue_key(shop.cast.workspace, MARK, SYSTEM, project=shop.cast.project, end_user=user)
    begin_flow(shop, f"{MARK}-user")
    return shop


def paths(shop: Shop) -> list[str]:
    blanks = {
        "<toolkit:integration>": "lab",
        "<str:integration>": "lab",
        "<str:endpoint>": "create_item",
        "<str:connection_id>": shop.connection.pk,
        "<str:key_id>": ApiKey.objects.get(name=MARK).pk,
    }
    found = ROUTES
    for blank, value in blanks.items():
        found = [path.replace(blank, value) for path in found]
    assert not [path for path in found if "<" in path], "a blank that this test does not know"
    return found


STRANGERS: dict[str, Callable[[Shop], str]] = {
    "another workspace's key": lambda shop: shop.cast.foreign_key,
    "another project's key": lambda shop: issue_key(
        shop.cast.workspace,
        "p",
        SYSTEM,
        project=create_project(shop.cast.workspace, "Second", SYSTEM),
        scopes=EVERY_SCOPE,
    )[1],
    "another workspace's user": lambda shop: mint_user_token(shop.cast.foreign_project, f"{MARK}-user", 600)[0],
    "another user": lambda shop: mint_user_token(shop.cast.project, "stranger", 600)[0],
    "another user's key": lambda shop: issue_key(
        shop.cast.workspace, "s", SYSTEM, project=shop.cast.project, end_user=end_user(shop.cast.project, "stranger")
    )[1],
    "a key that is none": lambda shop: "jf_sk_nothing",
    "nobody": lambda shop: "",
}


def state(shop: Shop) -> list[Any]:
    """All rows of Alice's user."""
    mine = {"project": shop.cast.project, "end_user__external_id": f"{MARK}-user"}
    rows = [
        list(model.objects.filter(**mine).order_by("pk").values()) for model in (Connection, ConnectSession, ApiKey)
    ]
    return [*rows, list(Integration.objects.order_by("pk").values())]


def test_there_are_routes_to_try() -> None:
    assert len(ROUTES) == 10


@pytest.mark.parametrize("who", STRANGERS)
def test_who_is_a_stranger_gets_neither_data_nor_an_effect(marked: Shop, who: str) -> None:
    secret = STRANGERS[who](marked)
    headers = {"X-End-User": f"{MARK}-user"} | ({"Authorization": f"Bearer {secret}"} if secret else {})
    before = state(marked)
    marked.upstream.reset()
    body = json.dumps({"params": {"title": "x"}, "integration": "lab", "name": "x"})
    for path in paths(marked):
        for method in METHODS:
            answer = Client().generic(method, path, body, content_type="application/json", headers=headers)
            where = f"{method} {path} as {who}: {answer.status_code} {answer.content[:200]!r}"
            assert answer.status_code < 500, where
            assert MARK not in answer.content.decode(), where
            if who in {"a key that is none", "nobody"}:
                assert answer.status_code in {401, 405}, where
            if answer.status_code >= 400 and method != "HEAD":
                refused(answer, answer.status_code, answer.json()["error"])
    assert state(marked) == before
    assert marked.upstream.requests() == []
