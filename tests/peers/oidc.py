"""A strict OAuth 2 and OpenID Connect server (npm `oidc-provider`), configured in `js/oidc.mjs`.

PKCE is required, no clock tolerance, access tokens live 5 s, refresh tokens rotate and a reused one kills its grant.
Its login page takes any name and password; its consent page asks once a login session.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin

import requests

from tests.peers.emulate import DEFAULT_REDIRECTS
from tests.peers.forms import Form, browsing, forms, links
from tests.peers.node import Node, find_node
from tests.peers.process import PeerError, PortFilePeer

PROGRAM = Path(__file__).parent / "js" / "oidc.mjs"
LONGEST_JOURNEY = 12
Fault = Literal["500", "html", "429", "slow", "lost"]
Endpoint = Literal["token", "revocation", "introspection", "api"]


@dataclass(frozen=True)
class OAuthClient:
    """`auth_method` is how it authenticates at the token endpoint: client_secret_basic, client_secret_post or none."""

    client_id: str
    client_secret: str
    auth_method: str
    grant_types: tuple[str, ...] = ("authorization_code", "refresh_token")

    def metadata(self, redirect_uris: list[str]) -> dict[str, Any]:
        interactive = "authorization_code" in self.grant_types
        secret = {"client_secret": self.client_secret} if self.client_secret else {}
        return {
            "client_id": self.client_id,
            **secret,
            "client_name": self.client_id,
            "token_endpoint_auth_method": self.auth_method,
            "grant_types": list(self.grant_types),
            "response_types": ["code"] if interactive else [],
            "redirect_uris": redirect_uris if interactive else [],
        }


BASIC = OAuthClient("basic-client", "basic-secret", "client_secret_basic")
POST = OAuthClient("post-client", "post-secret", "client_secret_post")
PUBLIC = OAuthClient("public-client", "", "none")
MACHINE = OAuthClient("machine-client", "machine-secret", "client_secret_basic", ("client_credentials",))
CLIENTS = (BASIC, POST, PUBLIC, MACHINE)


class OidcProvider(PortFilePeer):
    def __init__(
        self, redirect_uris: list[str] | None = None, access_token_ttl: int = 5, refresh_token_ttl: int = 86400
    ) -> None:
        super().__init__()
        self.redirect_uris = list(redirect_uris or DEFAULT_REDIRECTS)
        self.access_token_ttl = access_token_ttl
        self.refresh_token_ttl = refresh_token_ttl
        self._node: Node | None = None

    @property
    def issuer(self) -> str:
        return self.url

    @property
    def authorization_url(self) -> str:
        return self.url + "/auth"

    @property
    def token_url(self) -> str:
        return self.url + "/token"

    @property
    def revocation_url(self) -> str:
        return self.url + "/token/revocation"

    @property
    def introspection_url(self) -> str:
        return self.url + "/token/introspection"

    @property
    def userinfo_url(self) -> str:
        return self.url + "/me"

    @property
    def api_url(self) -> str:
        """Asks for a valid bearer token; answers `sub`, `scope`, `client_id` and the counts, or 401."""
        return self.url + "/api/me"

    def allow(self, redirect_uri: str) -> None:
        """Register one more redirect URI with every client, at once and without losing anything."""
        if redirect_uri in self.redirect_uris:
            return
        self.redirect_uris.append(redirect_uri)
        for client in CLIENTS:
            self.register(client.metadata(self.redirect_uris))

    def register(self, metadata: dict[str, Any]) -> None:
        """Add or replace a client, described by OpenID Connect's client metadata."""
        self._side("POST", "/_clients", metadata)

    def counts(self) -> dict[str, Any]:
        """What was asked since the last `reset`.

        `token`: requests by grant type; `success`: tokens issued by grant type; `error`: refusals by OAuth error code;
        `revocation`, `introspection`, `authorization`: requests; `api`: requests, of which `denied` got 401.
        """
        return self._side("GET", "/_counts")

    def fault(self, mode: Fault | None, endpoint: Endpoint = "token", times: int = 0, seconds: float = 3) -> None:
        """Break an endpoint until `fault(None)`, or for a number of `times`.

        `lost` does what was asked and drops the connection instead of answering; `slow` answers after `seconds`.
        """
        self._side("POST", "/_fault", {endpoint: mode, "times": times, "seconds": seconds})

    def set_ttl(self, access: int | None = None, refresh: int | None = None) -> None:
        """Lifetimes in seconds of tokens issued from now on."""
        wanted = {"accessTokenTtl": access, "refreshTokenTtl": refresh}
        self._side("POST", "/_settings", {key: value for key, value in wanted.items() if value is not None})

    def reset(self) -> None:
        """Zero the counts, heal every fault, back to the lifetimes it started with. Tokens and logins stay."""
        self._side("POST", "/_reset", {})
        self.set_ttl(self.access_token_ttl, self.refresh_token_ttl)

    def approve(self, authorize_url: str, session: requests.Session | None = None, login: str = "alice") -> str:
        """Log in and consent; the callback URL, not followed. The session, where given, stays logged in."""

        def fill(page: requests.Response) -> requests.Response:
            form = _form(page)
            if "login" in form.fields:
                form.fields |= {"login": login, "password": "any"}
            return _submit(own, page, form)

        with browsing(session) as own:
            return self._walk(own, authorize_url, fill)

    def deny(self, authorize_url: str, session: requests.Session | None = None) -> str:
        """Turn back at the first page; the callback URL with `error=access_denied`, not followed."""

        def turn_back(page: requests.Response) -> requests.Response:
            abort = next((link for link in links(page.text) if link.endswith("/abort")), None)
            if abort is None:
                raise PeerError(f"nothing to turn back with on {page.url}: {page.text[:500]}")
            return own.get(urljoin(page.url, abort), allow_redirects=False, timeout=10)

        with browsing(session) as own:
            return self._walk(own, authorize_url, turn_back)

    def prepare(self) -> None:
        self._node = self._node or find_node()

    def command(self) -> list[str]:
        return [str(self._found_node().binary), str(PROGRAM)]

    def environment(self) -> dict[str, str]:
        options = {
            "modules": str(self._found_node().modules),
            "portFile": str(self.port_file),
            "clients": [client.metadata(self.redirect_uris) for client in CLIENTS],
            "accessTokenTtl": self.access_token_ttl,
            "refreshTokenTtl": self.refresh_token_ttl,
        }
        return {**os.environ, "JACKFIELD_OIDC": json.dumps(options)}

    def _found_node(self) -> Node:
        if self._node is None:
            raise PeerError("prepare() comes first")
        return self._node

    def _side(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        with browsing() as session:
            answer = session.request(method, self.url + path, json=body, timeout=10)
            answer.raise_for_status()
            result: dict[str, Any] = answer.json()
            return result

    def _walk(
        self, session: requests.Session, start: str, act: Callable[[requests.Response], requests.Response]
    ) -> str:
        """Follow redirects within the provider, acting on each page, until one leads out of it."""
        answer = session.get(start, allow_redirects=False, timeout=10)
        for _ in range(LONGEST_JOURNEY):
            if not answer.is_redirect:
                answer = act(answer)
                continue
            target = urljoin(answer.url, answer.headers["location"])
            if not target.startswith(self.url + "/"):
                return target
            answer = session.get(target, allow_redirects=False, timeout=10)
        raise PeerError(f"{start} led nowhere in {LONGEST_JOURNEY} steps")


def _form(page: requests.Response) -> Form:
    found = forms(page.text)
    if page.status_code != 200 or not found:
        raise PeerError(f"{page.url} answered {page.status_code} without a form: {page.text[:500]}")
    return found[0]


def _submit(session: requests.Session, page: requests.Response, form: Form) -> requests.Response:
    return session.post(urljoin(page.url, form.action), data=form.fields, allow_redirects=False, timeout=10)
