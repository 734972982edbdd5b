"""Scopes: what is asked for, what was granted of it, and how more is asked for."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from django.test import Client

from apps.connections import access, flows
from apps.connections.links import Link, advice_on_scopes, make_link, read_link
from apps.connections.models import Connection, Integration
from apps.lib.errors import InvalidInput
from apps.toolkits.spec import Tool
from tests.api.shop import Shop, fails
from tests.cast import enable
from tests.connections.own_toolkits import Folder

TOOL = Tool.model_validate(
    {"slug": "x", "name": "X", "description": "X.", "method": "GET", "path": "/x", "scopes": ["write", "admin"]}
)


def start(shop: Shop, **body: Any) -> Any:
    return shop.api.post("integrations/connect", {"toolkit": "lab", "userId": "u2"} | body)


def asked_by(response: Any) -> list[str]:
    return parse_qs(urlsplit(str(response.json()["authUrl"])).query)["scope"][0].split()


def at_upstream(shop: Shop) -> Integration:
    shop.integration.settings |= {
        "authorization_url": f"{shop.upstream.url}/authorize",
        "token_url": f"{shop.upstream.url}/token/ok",
    }
    shop.integration.save()
    return shop.integration


def test_further_scopes_are_asked_for_beyond_the_usual_ones(shop: Shop) -> None:
    assert asked_by(start(shop)) == ["read", "write"]
    assert asked_by(start(shop, scopes=["admin", "read", "https://x.example/scope.all"])) == [
        "read", "write", "admin", "https://x.example/scope.all",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "scopes",
    [["two words"], ["a\\b"], ['a"b'], [""], ["é"], ["a\x00b"], "read", [1], [["a"]], ["a"] * 101, ["a" * 501]],
    ids=lambda value: ascii(value)[:20],
)
def test_what_is_no_scope_is_refused(shop: Shop, scopes: Any) -> None:
    error = fails(start(shop, scopes=scopes), 400, "VALIDATION_INVALID_SCHEMA")
    assert any(name.startswith("scopes") for name in error["details"])


def test_a_toolkit_that_lists_its_scopes_takes_no_others(shop: Shop, lab: Any) -> None:
    scheme = lab.auth[0].model_copy(update={"available_scopes": {"admin": "Everything"}})
    assert flows.scopes_to_ask(lab, shop.integration, scheme, ["admin"]) == ["read", "write", "admin"]
    with pytest.raises(InvalidInput):
        flows.scopes_to_ask(lab, shop.integration, scheme, ["other"])


def test_the_row_tells_what_was_asked_for_and_not_granted(shop: Shop) -> None:
    at_upstream(shop)
    started = start(shop, scopes=["admin"])
    back = walk(started)
    assert Client().get(back).status_code == 302
    row = shop.api.get(f"integrations/connections/{started.json()['connectionRequestId']}").json()
    assert (row["status"], row["scopes"], row["missing_scopes"]) == ("active", ["read", "write"], ["admin"])


def walk(started: Any) -> str:
    """Through the provider that asks nobody, to our callback's path."""
    answer = requests.get(started.json()["authUrl"], allow_redirects=False, timeout=10)
    parts = urlsplit(answer.headers["Location"])
    return f"{parts.path}?{parts.query}"


@pytest.mark.parametrize(
    ("asked", "granted", "missing"),
    [
        (["read", "write"], ["write", "read"], []),
        (["read", "admin"], ["read"], ["admin"]),
        (["email", "openid"], ["openid", "https://www.googleapis.com/auth/userinfo.email"], []),
        (["Mail.Read", "offline_access"], ["https://graph.microsoft.com/Mail.Read"], []),
        (["Mail.Read"], ["Mail.ReadBasic", "SomeMail.Read2"], ["Mail.Read"]),
        ([], ["read"], []),
    ],
    ids=["another order", "less", "Google's names", "Microsoft's names", "names that resemble", "nothing asked"],
)
def test_a_scope_counts_as_granted_however_it_is_written(
    asked: list[str], granted: list[str], missing: list[str]
) -> None:
    assert access.missing_scopes(asked, granted) == missing


def test_a_refusal_can_name_the_scopes_that_a_tool_lacks_and_where_to_grant_them(shop: Shop) -> None:
    connection = Connection.objects.select_related("end_user", "integration").get(pk=shop.connection.pk)
    connection.scopes = ["read", "write"]
    advice = advice_on_scopes(connection, TOOL)
    assert advice.startswith("The tool needs admin, which the user has not granted.")
    link = next(word for word in advice.split() if "/connect/" in word)
    assert read_link(link.rsplit("/", 1)[1]).scopes == ["admin"]

    at_upstream(shop)
    away = Client().post(urlsplit(link).path)
    assert parse_qs(urlsplit(away["Location"]).query)["scope"] == ["read write admin"]


def test_nothing_is_advised_where_nothing_is_known_or_lacking(shop: Shop) -> None:
    connection = Connection.objects.select_related("end_user", "integration").get(pk=shop.connection.pk)
    assert advice_on_scopes(connection, TOOL) == ""  # the provider never told what it granted
    connection.scopes = ["read", "write", "admin"]
    assert advice_on_scopes(connection, TOOL) == ""


def test_scopes_of_an_account_that_has_none_are_an_error_of_the_call_and_no_matter_of_a_link(
    shop: Shop, toolkit_folder: Folder
) -> None:
    toolkit_folder.put(
        {
            "slug": "two-ways",
            "name": "Two ways",
            "base_url": "https://two.example",
            "auth": [
                {"type": "oauth2", "authorization_url": "https://two.example/a", "token_url": "https://two.example/t"},
                {"type": "bearer"},
            ],
        }
    )
    project = shop.cast.project
    enable(project, "two-ways", shop.upstream.url)
    body = {"toolkit": "two-ways", "userId": "u1", "scopes": ["admin"], "authScheme": "bearer"}
    assert "scopes" in fails(shop.api.post("integrations/connect", body), 400, "VALIDATION_INVALID_SCHEMA")["details"]
    page = urlsplit(make_link(Link(project.pk, "u1", "two-ways", scopes=["admin"]))).path
    assert Client().post(page, {"scheme": "bearer", "token": "pat-1"}).status_code == 302
    away = Client().post(page, {"scheme": "oauth2"})
    assert parse_qs(urlsplit(away["Location"]).query)["scope"] == ["admin"]
