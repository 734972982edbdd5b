"""Connecting at a strict OAuth server, over HTTP: from the authorization URL to the revoked token."""

from __future__ import annotations

import time
from urllib.parse import urljoin

import pytest
import requests

from tests.acceptance.journey import (
    RETURN,
    begin,
    code_of,
    come_back,
    connect_strict,
    enable_strict,
    execute,
    new_user,
    query_of,
    status_of,
)
from tests.peers.forms import forms
from tests.peers.oidc import BASIC, POST, OAuthClient, OidcProvider
from tests.product import Product

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("client", [BASIC, POST], ids=lambda client: client.auth_method)
def test_a_person_connects_and_the_token_is_refreshed_unnoticed(
    product: Product, oidc_provider: OidcProvider, client: OAuthClient
) -> None:
    slug = enable_strict(product, oidc_provider, client)
    tool = f"{slug.replace('-', '').upper()}_GET_ME"
    oidc_provider.reset()
    oidc_provider.set_ttl(access=2)
    user = new_user()
    started = begin(product, slug, user)
    asked = query_of(started["authUrl"])
    assert (asked["code_challenge_method"], asked["response_type"]) == ("S256", "code")
    assert len(asked["state"]) >= 43
    assert status_of(product, started["connectionRequestId"]) == "pending"

    location = come_back(oidc_provider.approve(started["authUrl"]))
    assert location == f"{RETURN}?status=connected&toolkit={slug}&connectionId={started['connectionRequestId']}"
    row = product.call("GET", f"integrations/connections/{started['connectionRequestId']}").json()
    assert (row["status"], row["account"], row["app_user_id"]) == ("active", "alice@example.com", user)

    first = execute(product, tool, user)
    assert first.status_code == 200, first.text
    assert first.json()["data"]["sub"] == "alice"
    for _ in range(2):  # rotation: the second refresh needs the token that the first one brought
        time.sleep(2.1)
        again = execute(product, tool, user)
        assert again.status_code == 200, again.text
    counts = oidc_provider.counts()
    assert counts["success"] == {"authorization_code": 1, "refresh_token": 2}
    assert (counts["error"], counts["denied"]) == ({}, 0)


def test_connecting_again_keeps_the_id(product: Product, oidc_provider: OidcProvider) -> None:
    enable_strict(product, oidc_provider)
    user = new_user()
    first = connect_strict(product, oidc_provider, user)
    assert connect_strict(product, oidc_provider, user) == first
    rows = product.call("GET", f"integrations/connections?userId={user}").json()["connections"]
    assert [row["id"] for row in rows] == [first]


def test_a_second_account_has_an_id_of_its_own(product: Product, oidc_provider: OidcProvider) -> None:
    enable_strict(product, oidc_provider)
    user = new_user()
    first = connect_strict(product, oidc_provider, user)
    started = begin(product, "strict", user, allowMultiple=True)
    second = query_of(come_back(oidc_provider.approve(started["authUrl"], login="bob")))["connectionId"]
    assert second == started["connectionRequestId"] != first
    body = {"toolName": "STRICT_GET_ME", "userId": user, "connectionId": second}
    assert product.call("POST", "integrations/execute", json=body).json()["data"]["sub"] == "bob"
    assert execute(product, "STRICT_GET_ME", user).json()["data"]["sub"] == "alice"


def test_disconnecting_revokes_at_the_provider(product: Product, oidc_provider: OidcProvider) -> None:
    enable_strict(product, oidc_provider)
    oidc_provider.reset()
    oidc_provider.set_ttl(access=60)
    user = new_user()
    connection_id = connect_strict(product, oidc_provider, user)
    read = f"""
from apps.connections.models import Connection
held = Connection.objects.get(pk="{connection_id}").unseal("credentials")
print(held["access_token"], held["refresh_token"])
"""
    tokens = product.run(read).split()

    def active(token: str) -> bool:
        data = {"token": token}
        auth = (BASIC.client_id, BASIC.client_secret)
        return bool(requests.post(oidc_provider.introspection_url, data=data, auth=auth, timeout=10).json()["active"])

    assert [active(token) for token in tokens] == [True, True]
    assert product.call("DELETE", f"integrations/connections/{connection_id}").status_code == 204
    assert [active(token) for token in tokens] == [False, False]
    assert oidc_provider.counts()["revocation"] == 2
    assert status_of(product, connection_id) == "404"
    assert code_of(execute(product, "STRICT_GET_ME", user)) == (400, "INTEGRATIONS_NOT_CONNECTED")
    assert product.call("DELETE", f"integrations/connections/{connection_id}").status_code == 404


@pytest.mark.parametrize("fault", ["500", "lost"])
def test_disconnecting_works_while_revocation_does_not(
    product: Product, oidc_provider: OidcProvider, fault: str
) -> None:
    enable_strict(product, oidc_provider)
    oidc_provider.reset()
    connection_id = connect_strict(product, oidc_provider, new_user())
    oidc_provider.fault(fault, endpoint="revocation")  # type: ignore[arg-type] # a Fault, which parametrize hides
    assert product.call("DELETE", f"integrations/connections/{connection_id}").status_code == 204
    assert status_of(product, connection_id) == "404"
    oidc_provider.reset()


def test_turning_back_is_access_denied(product: Product, oidc_provider: OidcProvider) -> None:
    enable_strict(product, oidc_provider)
    started = begin(product, "strict", new_user())
    location = come_back(oidc_provider.deny(started["authUrl"]))
    assert location == f"{RETURN}?status=error&message=access_denied"
    assert status_of(product, started["connectionRequestId"]) == "inactive"


def test_a_wrong_client_secret_is_connection_failed(product: Product, oidc_provider: OidcProvider) -> None:
    wrong = OAuthClient(BASIC.client_id, "not-the-secret", BASIC.auth_method)
    enable_strict(product, oidc_provider, wrong)
    started = begin(product, "strict", new_user())
    location = come_back(oidc_provider.approve(started["authUrl"]))
    assert query_of(location) == {"status": "error", "message": "connection_failed"}
    enable_strict(product, oidc_provider)


def test_the_sandbox_is_a_provider_too(product: Product) -> None:
    """The second make of provider: allauth's, inside the product, with its own login and consent."""
    user = new_user()
    assert query_of(grant_sandbox(product, user))["status"] == "connected"
    assert execute(product, "SANDBOX_GET_ME", user).json()["data"]["email"] == product.facts["admin_email"]


def grant_sandbox(product: Product, user: str) -> str:
    """The whole flow at the sandbox, the admin being the person; where the browser ends."""
    started = begin(product, "sandbox", user)
    with requests.Session() as browser:
        page = browser.get(started["authUrl"], timeout=15)
        signed_in = {"login": product.facts["admin_email"], "password": product.facts["admin_password"]}
        consent = submit(browser, page, "password", signed_in)
        page = browser.get(consent.headers["Location"], timeout=15)
        callback = submit(browser, page, "action", {"action": "grant"})
    return come_back(callback.headers["Location"])


def submit(browser: requests.Session, page: requests.Response, field: str, values: dict[str, str]) -> requests.Response:
    """Sends the page's form that has this field; the answer, not followed."""
    form = next(one for one in forms(page.text) if field in one.fields)
    answer = browser.post(
        urljoin(page.url, form.action),
        data=form.fields | values,
        headers={"Referer": page.url},
        allow_redirects=False,
        timeout=15,
    )
    assert answer.is_redirect, answer.text[:500]
    answer.headers["Location"] = urljoin(page.url, answer.headers["Location"])
    return answer
