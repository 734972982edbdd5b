"""The steps of an integrator and an end user, over HTTP: enable, connect, execute."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests

from tests.peers.oidc import BASIC, POST, OAuthClient, OidcProvider
from tests.peers.upstream import Upstream
from tests.product import Product

RETURN = "https://yourapp.com/done"


def new_user() -> str:
    return f"user-{uuid.uuid4().hex[:12]}"


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def configure(
    product: Product, slug: str, client_id: str = "", client_secret: str = "", **settings: Any
) -> dict[str, Any]:
    """Switches a toolkit on with these overrides and no others; without a client id the client stays what it was."""
    body: dict[str, Any] = {"toolkit": slug, "settings": settings}
    if client_id:
        body["oauthCredentials"] = {"clientId": client_id, "clientSecret": client_secret}
    answer = product.call("POST", "integrations/configure", json=body)
    assert answer.status_code == 200, answer.text
    row: dict[str, Any] = answer.json()
    return row


def enable_strict(product: Product, provider: OidcProvider, client: OAuthClient = BASIC) -> str:
    """Switches the toolkit of the strict provider on and registers the callback there; gives its slug."""
    slug = "strict-post" if client is POST else "strict"
    configure(
        product,
        slug,
        client.client_id,
        client.client_secret,
        base_url=provider.url,
        authorization_url=provider.authorization_url,
        token_url=provider.token_url,
        revocation_url=provider.revocation_url,
    )
    provider.allow(callback_of(product))
    return slug


def enable_wayward(product: Product, upstream: Upstream, token: str = "ok", **settings: Any) -> None:
    """Switches the misbehaving toolkit on, with the token endpoint's ``token`` variant."""
    addresses = {
        "base_url": upstream.url,
        "authorization_url": f"{upstream.url}/authorize",
        "token_url": f"{upstream.url}/token/{token}",
        "revocation_url": f"{upstream.url}/echo/revoke",
    }
    configure(product, "wayward", "wayward-client", "wayward-client-secret", **(addresses | settings))


def callback_of(product: Product) -> str:
    return f"{product.url}/v1/{product.facts['project_id']}/integrations/callback"


def begin(product: Product, slug: str, user: str, **body: Any) -> dict[str, Any]:
    """POST connect; ``{authUrl, connectionRequestId}``."""
    sent = {"toolkit": slug, "userId": user, "redirectUrl": RETURN} | body
    answer = product.call("POST", "integrations/connect", json=sent)
    assert answer.status_code == 200, answer.text
    started: dict[str, Any] = answer.json()
    return started


def come_back(callback: str, cookies: Any = None, patience: float = 15) -> str:
    """The browser at our callback; where it is sent from there."""
    answer = requests.get(callback, allow_redirects=False, timeout=patience, cookies=cookies)
    assert answer.status_code == 302, answer.text[:500]
    return answer.headers["Location"]


def walk(url: str, cookies: Any = None) -> str:
    """The provider's one redirect, at a provider that asks nobody: the callback's URL."""
    answer = requests.get(url, allow_redirects=False, timeout=10, cookies=cookies)
    assert answer.status_code == 302, answer.text[:500]
    return answer.headers["Location"]


def connect_strict(product: Product, provider: OidcProvider, user: str, slug: str = "strict", **body: Any) -> str:
    """The whole flow with a login and consent; the connection's id."""
    started = begin(product, slug, user, **body)
    result = query_of(come_back(provider.approve(started["authUrl"])))
    assert result == {"status": "connected", "toolkit": slug, "connectionId": started["connectionRequestId"]}
    return result["connectionId"]


def connect_wayward(product: Product, user: str) -> str:
    started = begin(product, "wayward", user)
    result = query_of(come_back(walk(started["authUrl"])))
    assert result["status"] == "connected", result
    return result["connectionId"]


def execute(product: Product, tool: str, user: str, *, site: str = "", **params: Any) -> requests.Response:
    body = {"toolName": tool, "params": params, "userId": user}
    return product.call("POST", "integrations/execute", site=site, json=body)


def status_of(product: Product, connection_id: str) -> str:
    answer = product.call("GET", f"integrations/connections/{connection_id}")
    return str(answer.json()["status"]) if answer.status_code == 200 else str(answer.status_code)


def code_of(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]
