"""OAuth 2 through requests-oauthlib: authorization URL, code exchange, refresh, revocation.

Sources: RFC 6749, RFC 7636 (PKCE), RFC 7009 (revocation), RFC 9207 (iss). No call here is made inside a transaction.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote_plus, urlsplit

import requests
from oauthlib.oauth2 import BackendApplicationClient, OAuth2Error, WebApplicationClient
from requests.auth import HTTPBasicAuth
from requests_oauthlib import OAuth2Session

from apps.lib import egress, http
from apps.lib.errors import Unreachable
from apps.lib.pointer import resolve
from apps.lib.redact import clip
from apps.toolkits.spec import ClientCredentials, OAuth2, TokenAnswer

if TYPE_CHECKING:
    from .access import OAuthClient

log = logging.getLogger(__name__)

# oauthlib judges by the URL's scheme alone; `check_scheme` knows which hosts may be reached without TLS. The second one
# stops it from raising where a provider grants other scopes than were asked: that is compared by us, and no error.
os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"
os.environ["OAUTHLIB_RELAX_TOKEN_SCOPE"] = "1"

TOKEN_TIMEOUT = 10.0
# What providers call a grant that will never work again; the first is the standard's (RFC 6749 section 5.2).
DEAD_GRANT = frozenset({"invalid_grant", "bad_refresh_token", "invalid_refresh_token", "token_revoked", "token_expired",
                        "expired_token", "account_inactive"})  # fmt: skip

DEAD_CLIENT = frozenset({"invalid_client", "unauthorized_client"})


class TokenError(Exception):
    """A token endpoint that gave no token. ``dead``: the grant is gone for good, the person must connect again."""

    def __init__(self, code: str, description: str = "", *, dead: bool = False, retry_after: int | None = None) -> None:
        super().__init__(clip(f"{code}: {description}" if description else code, 400))
        self.code = clip(code, 100)  # both are stored
        self.dead = dead
        self.retry_after = retry_after


@dataclass(frozen=True)
class Token:
    """A token answer, in our words. ``lifetime`` in seconds; None where the provider does not say."""

    access_token: str
    refresh_token: str = ""
    lifetime: int | None = None
    scopes: list[str] | None = None
    raw: dict[str, Any] = field(default_factory=dict)


def new_verifier() -> str:
    return str(WebApplicationClient("").create_code_verifier(64))


def authorization_url(
    scheme: OAuth2, client: OAuthClient, *, redirect_uri: str, state: str, scopes: list[str], verifier: str
) -> str:
    """Where the browser goes. PKCE is S256 wherever the toolkit does not say that the provider cannot."""
    extra: dict[str, str] = dict(scheme.authorization_params)
    scope = scheme.scope_separator.join(scopes) or None
    if scope and scheme.scope_parameter != "scope":
        extra[scheme.scope_parameter], scope = scope, None
    if scheme.pkce:
        challenge = WebApplicationClient(client.id).create_code_challenge(verifier, "S256")
        extra |= {"code_challenge": challenge, "code_challenge_method": "S256"}
    session = OAuth2Session(client.id, redirect_uri=redirect_uri, scope=scope)
    url, _ = session.authorization_url(scheme.authorization_url, state=state, **extra)
    return str(url)


def exchange(scheme: OAuth2, client: OAuthClient, *, code: str, redirect_uri: str, verifier: str) -> Token:
    """The code for a token. Raises `TokenError`, `Unreachable`."""
    further: dict[str, Any] = {"code_verifier": verifier} if scheme.pkce else {}
    further |= scheme.token_params
    reader = _Reader(scheme.token, scheme.scope_separator)
    session = _session(WebApplicationClient(client.id), reader, "access_token_response")
    session.redirect_uri = redirect_uri
    return reader.read(
        lambda: session.fetch_token(
            check_scheme(scheme.token_url),
            code=code,
            timeout=TOKEN_TIMEOUT,
            headers=ACCEPT,
            **_client_auth(scheme.client_auth, client),
            **further,
        )
    )


def refresh(scheme: OAuth2, client: OAuthClient, refresh_token: str) -> Token:
    """A refresh token for a new token. Raises `TokenError`, `Unreachable`."""
    reader = _Reader(scheme.token, scheme.scope_separator)
    session = _session(WebApplicationClient(client.id), reader, "refresh_token_response")
    arguments = _client_auth(scheme.client_auth, client)
    if arguments.pop("include_client_id", False):
        arguments["client_id"] = client.id
    return reader.read(
        lambda: session.refresh_token(
            check_scheme(scheme.refresh_url or scheme.token_url),
            refresh_token=refresh_token,
            timeout=TOKEN_TIMEOUT,
            headers=ACCEPT,
            **arguments,
        )
    )


def client_token(scheme: ClientCredentials, client: OAuthClient, scopes: list[str]) -> Token:
    """A token of the application itself. Raises `TokenError`, `Unreachable`.

    Of a client that came with one connection, a refusal is for good: whoever typed it must do so again. One of the
    integration's can be put right by an admin, and then serves all connections as they are.
    """
    try:
        return _client_token(scheme, client, scopes)
    except TokenError as error:
        error.dead = error.dead or (client.personal and error.code in DEAD_CLIENT)
        raise


def _client_token(scheme: ClientCredentials, client: OAuthClient, scopes: list[str]) -> Token:
    reader = _Reader(scheme.token, scheme.scope_separator)
    session = _session(BackendApplicationClient(client.id), reader, "access_token_response")
    further: dict[str, Any] = {"scope": scheme.scope_separator.join(scopes)} if scopes else {}
    further |= scheme.token_params
    return reader.read(
        lambda: session.fetch_token(
            check_scheme(scheme.token_url),
            timeout=TOKEN_TIMEOUT,
            headers=ACCEPT,
            **_client_auth(scheme.client_auth, client),
            **further,
        )
    )


def revoke(scheme: OAuth2, client: OAuthClient, credentials: dict[str, Any]) -> bool:
    """Ends the grant at the provider (RFC 7009), where it can; whether it said yes. Never raises for the provider's sake."""
    if not scheme.revocation_url:
        return False
    done = False
    # The refresh token first: with it the whole grant goes (RFC 7009 section 2.1).
    for hint in ("refresh_token", "access_token"):
        token = credentials.get(hint)
        if not token:
            continue
        session = http.mount(requests.Session(), timeout=TOKEN_TIMEOUT)
        body = {"token": token, "token_type_hint": hint}
        auth = None
        if scheme.client_auth == "client_secret_basic":
            auth = _basic(client)
        else:
            body |= {"client_id": client.id} | ({"client_secret": client.secret} if client.secret else {})
        try:
            answer = session.post(check_scheme(scheme.revocation_url), data=body, auth=auth, headers=ACCEPT)
        except (Unreachable, TokenError, requests.RequestException) as error:
            log.warning("revocation failed: %s", error)
            continue
        done = 200 <= answer.status_code < 300 or done
    return done


ACCEPT = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}


def check_scheme(url: str) -> str:
    """Secrets go by https only, or to hosts that the operator has named. Raises `TokenError`."""
    if urlsplit(url).scheme != "https" and not egress.is_named(url):
        raise TokenError("insecure_transport", "The provider's address is not https.")
    return url


def _session(client: Any, reader: _Reader, hook: Any) -> OAuth2Session:
    session = OAuth2Session(client=client)
    http.mount(session, timeout=TOKEN_TIMEOUT)
    session.register_compliance_hook(hook, reader.normalise)
    return session


def _client_auth(method: str, client: OAuthClient) -> dict[str, Any]:
    if method == "client_secret_basic":
        return {"auth": _basic(client)}
    if method == "client_secret_post":
        return {"include_client_id": True, "client_secret": client.secret}
    return {"include_client_id": True}


def _basic(client: OAuthClient) -> HTTPBasicAuth:
    """Both parts form-encoded first (RFC 6749 section 2.3.1)."""
    return HTTPBasicAuth(quote_plus(client.id), quote_plus(client.secret))


class _Reader:
    """Turns whatever a token endpoint answers into the standard's form before oauthlib reads it, and into a `Token`."""

    def __init__(self, places: TokenAnswer, separator: str) -> None:
        self.places = places
        self.separator = places.scope_separator or separator
        self.token: Token | None = None

    def read(self, call: Any) -> Token:
        try:
            call()
        except (OAuth2Error, Warning) as error:
            raise TokenError(getattr(error, "error", "") or "invalid_answer", str(error)[:300]) from None
        except requests.RequestException as error:  # an address that requests does not take for one
            raise TokenError("invalid_request", str(error)[:300]) from None
        if self.token is None:
            raise TokenError("invalid_answer", "The provider's answer was not understood.")
        return self.token

    def normalise(self, response: requests.Response) -> requests.Response:
        payload = _payload(response)
        error = _error_of(payload, response)
        if error is not None:
            raise error
        access_token = resolve(payload, self.places.access_token)
        if not 200 <= response.status_code < 300 or not isinstance(access_token, str) or not access_token:
            raise _unusable(response)
        self.token = Token(
            access_token=access_token,
            refresh_token=_text(resolve(payload, self.places.refresh_token)),
            lifetime=_seconds(resolve(payload, self.places.expires_in)) or self.places.default_lifetime,
            scopes=self._scopes(resolve(payload, self.places.scope)),
            raw=payload,
        )
        response._content = json.dumps({"access_token": access_token, "token_type": "Bearer"}).encode()
        response.status_code = 200
        return response

    def _scopes(self, value: Any) -> list[str] | None:
        if isinstance(value, list):
            return [clip(str(item), 500) for item in value]
        if not isinstance(value, str):
            return None
        # Some providers ask with one separator and answer with another.
        return [clip(part, 500) for part in value.replace(",", " ").split() if part]


def _payload(response: requests.Response) -> dict[str, Any]:
    """A token answer is JSON (RFC 6749 section 5.1); some providers send a form instead."""
    text = response.text
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        payload = dict(parse_qsl(text)) if "=" in text and "<" not in text else None
    return payload if isinstance(payload, dict) else {}


def _error_of(payload: dict[str, Any], response: requests.Response) -> TokenError | None:
    error = payload.get("error")
    if error is None and payload.get("ok") is not False:
        return None
    if isinstance(error, dict):  # {"error": {"code": …, "message": …}}
        payload = {"error_description": error.get("message", "")} | payload
        error = error.get("code") or error.get("type")
    code = str(error or "unknown_error")[:100]
    if _is_temporary(response):
        return TokenError("temporarily_unavailable", code, retry_after=_retry_after(response))
    return TokenError(code, str(payload.get("error_description", ""))[:300], dead=code in DEAD_GRANT)


def _unusable(response: requests.Response) -> TokenError:
    if _is_temporary(response):
        said = f"The provider answered {response.status_code}."
        return TokenError("temporarily_unavailable", said, retry_after=_retry_after(response))
    return TokenError("invalid_answer", f"The provider answered {response.status_code} without a token.")


def _is_temporary(response: requests.Response) -> bool:
    return response.status_code == 429 or response.status_code >= 500


def _retry_after(response: requests.Response) -> int | None:
    return http.seconds_of(response.headers.get("Retry-After", ""))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _seconds(value: Any) -> int | None:
    """A lifetime as number or numeric text; None for what is no lifetime."""
    try:
        seconds = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < 10**10 else None
