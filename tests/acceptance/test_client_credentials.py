"""Client credentials at a strict OAuth server, over HTTP: the page, the calls, a new token whenever one has expired."""

from __future__ import annotations

import time

import pytest
import requests

from tests.acceptance.journey import begin, code_of, configure, execute, new_user, query_of, status_of
from tests.peers.forms import forms
from tests.peers.oidc import MACHINE, OidcProvider
from tests.product import Product

pytestmark = pytest.mark.acceptance


def enable(product: Product, provider: OidcProvider, secret: str = MACHINE.client_secret) -> None:
    configure(product, "machine", MACHINE.client_id, secret, base_url=provider.url, token_url=provider.token_url)


def press(url: str, **typed: str) -> requests.Response:
    """The page's form filled in and sent; the answer, not followed."""
    with requests.Session() as browser:
        form = forms(browser.get(url, timeout=10).text)[0]
        data = form.fields | typed
        return browser.post(url, data=data, headers={"Referer": url}, allow_redirects=False, timeout=20)


def test_one_button_connects_and_tokens_are_renewed_unnoticed(product: Product, oidc_provider: OidcProvider) -> None:
    enable(product, oidc_provider)
    oidc_provider.reset()
    oidc_provider.set_ttl(access=2)
    user = new_user()
    started = begin(product, "machine", user)
    left = press(started["authUrl"])
    assert left.status_code == 302, left.text
    assert query_of(left.headers["Location"])["connectionId"] == started["connectionRequestId"]
    for _ in range(2):
        answer = execute(product, "MACHINE_GET_ME", user)
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"]["client_id"] == MACHINE.client_id
        time.sleep(2.1)
    assert execute(product, "MACHINE_GET_ME", user).status_code == 200
    counts = oidc_provider.counts()
    assert counts["success"] == {"client_credentials": 3}
    assert (counts["error"], counts["denied"]) == ({}, 0)
    oidc_provider.reset()


def test_a_wrong_secret_is_told_and_connects_nothing(product: Product, oidc_provider: OidcProvider) -> None:
    enable(product, oidc_provider, "not-the-secret")
    started = begin(product, "machine", new_user())
    refused = press(started["authUrl"])
    assert (refused.status_code, "Machine gives no token: invalid_client" in refused.text) == (400, True)
    assert "not-the-secret" not in refused.text
    assert status_of(product, started["connectionRequestId"]) == "pending"
    enable(product, oidc_provider)  # an admin puts it right; the same link goes on
    assert press(started["authUrl"]).status_code == 302


def test_a_provider_that_is_down_keeps_the_connection(product: Product, oidc_provider: OidcProvider) -> None:
    enable(product, oidc_provider)
    oidc_provider.reset()
    oidc_provider.set_ttl(access=1)
    user = new_user()
    started = begin(product, "machine", user)
    assert press(started["authUrl"]).status_code == 302
    oidc_provider.fault("500")
    time.sleep(1.1)
    assert code_of(execute(product, "MACHINE_GET_ME", user)) == (502, "INTEGRATIONS_EXECUTION_FAILED")
    assert status_of(product, started["connectionRequestId"]) == "active"
    oidc_provider.reset()
