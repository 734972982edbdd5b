"""OAuth 1.0a (RFC 5849) through requests-oauthlib and oauthlib: request token, access token, a signature for each sending.

No call here is made inside a transaction. Calls are signed in the Authorization header (section 3.5.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import requests
from oauthlib.oauth1 import Client
from requests_oauthlib import OAuth1Session
from requests_oauthlib.oauth1_session import TokenMissing, TokenRequestDenied

from apps.lib import http
from apps.lib.errors import Unreachable
from apps.lib.redact import clip, redact_text
from apps.toolkits.spec import OAuth1

from .oauth import TOKEN_TIMEOUT, TokenError, check_scheme

if TYPE_CHECKING:
    from .access import OAuthClient

FORM = "application/x-www-form-urlencoded"
LONGEST_TOKEN = 2000  # characters of a token or its secret that are taken


def request_token(scheme: OAuth1, client: OAuthClient, callback: str) -> dict[str, str]:
    """Temporary credentials for one flow (section 2.1): ``{oauth_token, oauth_token_secret}``.

    Raises `TokenError` where the provider refuses the client or the callback, `Unreachable` where it does not answer.
    """
    session = _session(scheme, client, callback_uri=callback)
    answer = _fetch(client, lambda: session.fetch_request_token(check_scheme(scheme.request_token_url)))
    if answer.get("oauth_callback_confirmed", "").lower() != "true":
        # Without it anybody could finish a flow that somebody else began (the session fixation that 1.0a mends).
        raise TokenError("callback_not_confirmed", "The provider does not speak OAuth 1.0a.")
    return _pair(answer)


def authorization_url(scheme: OAuth1, token: str) -> str:
    """Where the browser goes (section 2.2); the URL's own query is kept."""
    parts = urlsplit(scheme.authorization_url)
    query = [part for part in (parts.query, urlencode({"oauth_token": token})) if part]
    return parts._replace(query="&".join(query)).geturl()


def access_token(
    scheme: OAuth1, client: OAuthClient, temporary: dict[str, str], verifier: str
) -> tuple[dict[str, str], dict[str, str]]:
    """The verifier for token credentials (section 2.3): ``{oauth_token, oauth_token_secret}``, and the whole answer.

    Raises `TokenError`, `Unreachable`.
    """
    session = _session(
        scheme,
        client,
        resource_owner_key=temporary["oauth_token"],
        resource_owner_secret=temporary["oauth_token_secret"],
        verifier=verifier,
    )
    answer = _fetch(client, lambda: session.fetch_access_token(check_scheme(scheme.token_url)))
    return _pair(answer), answer


def sign(
    scheme: OAuth1, credentials: dict[str, Any], method: str, url: str, headers: dict[str, str], body: bytes | None
) -> dict[str, str]:
    """The headers that sign one sending: a fresh nonce and timestamp each time.

    ``credentials`` are the stored ones with the client's (`access.completed`). Parameters of the query and of a form body
    are part of what is signed (section 3.4.1.3); other bodies are not.
    """
    client = Client(
        str(credentials.get("client_id", "")),
        client_secret=str(credentials.get("client_secret", "")),
        resource_owner_key=str(credentials.get("oauth_token", "")),
        resource_owner_secret=str(credentials.get("oauth_token_secret", "")),
        signature_method=scheme.signature_method,
    )
    parts = urlsplit(url)
    form = _form_of(method, headers, body)
    # oauthlib refuses characters that browsers and servers let pass: it signs a copy that means the same.
    copy = parts._replace(query=_canonical(parts.query), fragment="").geturl()
    kind = {} if form is None else {"Content-Type": FORM}
    signed = client.sign(copy, method, form, kind)[1]  # type: ignore[arg-type] # it takes any method
    return {"Authorization": str(signed["Authorization"])}


def signs_body(headers: dict[str, str]) -> bool:
    """Whether a request with these headers can be signed only once its body is known."""
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    return kind.partition(";")[0].strip().lower() == FORM


def _form_of(method: str, headers: dict[str, str], body: bytes | None) -> str | None:
    if not body or method.upper() in {"GET", "HEAD"} or not signs_body(headers):
        return None
    return _canonical(body.decode(errors="replace"))


def _canonical(text: str) -> str:
    return urlencode(parse_qsl(text, keep_blank_values=True), quote_via=quote)


def _session(scheme: OAuth1, client: OAuthClient, **options: Any) -> OAuth1Session:
    session = OAuth1Session(client.id, client_secret=client.secret, signature_method=scheme.signature_method, **options)
    http.mount(session, timeout=TOKEN_TIMEOUT)
    session.hooks["response"].append(_normalise)
    return session


def _normalise(response: requests.Response, *args: Any, **options: Any) -> None:
    """A token answer in the strict encoding that oauthlib wants: providers leave blanks and accents in people's names."""
    if response.status_code < 400:
        response._content = _canonical(response.text.strip()).encode()


def _fetch(client: OAuthClient, call: Any) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in call().items()}
    except TokenRequestDenied as error:
        raise _refused(client, error.response) from None
    except (TokenMissing, ValueError) as error:  # requests' errors of an odd address are ValueErrors
        raise TokenError("invalid_answer", _said(client, str(error))) from None
    except requests.RequestException as error:
        raise TokenError("invalid_request", _said(client, str(error))) from None


def _refused(client: OAuthClient, response: requests.Response) -> Exception:
    if response.status_code == 429 or response.status_code >= 500:
        return Unreachable(f"The provider answered {response.status_code}.")
    words = dict(parse_qsl(response.text)) if "<" not in response.text else {}
    # `oauth_problem` is the Problem Reporting extension's word; others answer with a sentence.
    problem = words.get("oauth_problem") or words.get("error") or ""
    said = words.get("error_description") or (" ".join(response.text.split()) if not problem else "")
    return TokenError(problem or f"status_{response.status_code}", _said(client, said))


def _said(client: OAuthClient, text: str) -> str:
    return redact_text(clip(text, 300), [client.secret] if len(client.secret) > 3 else [])


def _pair(answer: dict[str, str]) -> dict[str, str]:
    """Raises `TokenError`. An empty token secret is good: Evernote gives none."""
    pair = {name: answer.get(name, "") for name in ("oauth_token", "oauth_token_secret")}
    if not pair["oauth_token"] or max(map(len, pair.values())) > LONGEST_TOKEN:
        raise TokenError("invalid_answer", "The provider's answer has no token that can be used.")
    return pair
