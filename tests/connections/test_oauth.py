"""Token endpoints as they are: what is understood, what is refused, and what is for good."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from pytest_django import Settings

from apps.connections import oauth
from apps.connections.access import OAuthClient
from apps.connections.oauth import Token, TokenError
from apps.lib.errors import AnswerTooLarge, Unreachable
from apps.toolkits.spec import ClientCredentials, OAuth2
from tests.peers.upstream import Upstream

CLIENT = OAuthClient("the client", "s3cret:/+&%", own=True)


@pytest.fixture(autouse=True)
def up(upstream: Upstream, settings: Settings) -> Upstream:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    upstream.reset()
    return upstream


def scheme(up: Upstream, variant: str = "ok", **changes: Any) -> OAuth2:
    return OAuth2.model_validate(
        {
            "type": "oauth2",
            "authorization_url": f"{up.url}/authorize",
            "token_url": f"{up.url}/token/{variant}",
            "revocation_url": f"{up.url}/echo/revoke",
        }
        | changes
    )


def exchange(scheme: OAuth2) -> Token:
    return oauth.exchange(scheme, CLIENT, code="a-code", redirect_uri="https://us.example/callback", verifier="v" * 64)


def refresh(scheme: OAuth2) -> Token:
    return oauth.refresh(scheme, CLIENT, "old+refresh/token")


def sent(up: Upstream, path: str = "/token/ok") -> dict[str, str]:
    return dict(parse_qsl(up.requests(path)[-1]["body"], keep_blank_values=True))


def answering(status: int, body: bytes, content_type: str = "application/json") -> tuple[str, list[bytes]]:
    """A token endpoint that answers this, once, and what it was sent."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"] or 0)))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            if status in {302, 307}:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)

    def serve() -> None:
        with server:
            server.handle_request()

    Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/token", bodies


@pytest.mark.parametrize("ask", [exchange, refresh])
@pytest.mark.parametrize(
    ("variant", "refresh_token", "lifetime"),
    [
        ("ok", "refresh-1", 3600),
        ("form", "refresh-1", 3600),
        ("string-expires-in", "refresh-1", 3600),
        ("no-expires-in", "refresh-1", None),
        ("no-refresh-token", "", 3600),
    ],
)
def test_every_shape_of_token_is_understood(
    up: Upstream, ask: Callable[[OAuth2], Token], variant: str, refresh_token: str, lifetime: int | None
) -> None:
    token = ask(scheme(up, variant))
    assert (token.access_token, token.refresh_token, token.lifetime) == ("access-1", refresh_token, lifetime)
    assert token.scopes == ["read", "write"]


def test_a_toolkit_may_know_the_lifetime_that_the_provider_does_not_tell(up: Upstream) -> None:
    assert exchange(scheme(up, "no-expires-in", token={"default_lifetime": 7200})).lifetime == 7200
    assert exchange(scheme(up, "ok", token={"default_lifetime": 7200})).lifetime == 3600


@pytest.mark.parametrize("ask", [exchange, refresh])
@pytest.mark.parametrize(
    ("variant", "code", "dead"),
    [
        ("no-access-token", "invalid_answer", False),
        ("html", "invalid_answer", False),
        ("empty", "invalid_answer", False),
        ("500", "temporarily_unavailable", False),
        ("429", "temporarily_unavailable", False),
        ("invalid-client", "invalid_client", False),
        ("ok-with-error", "bad_verification_code", False),
        ("ok-false", "invalid_refresh_token", True),
        ("invalid-grant", "invalid_grant", True),
    ],
)
def test_an_answer_without_a_token_says_whether_the_grant_is_dead(
    up: Upstream, ask: Callable[[OAuth2], Token], variant: str, code: str, dead: bool
) -> None:
    with pytest.raises(TokenError) as caught:
        ask(scheme(up, variant))
    assert (caught.value.code, caught.value.dead) == (code, dead)
    assert caught.value.retry_after == (3600 if variant == "429" else None)
    assert up.count(f"/token/{variant}") == 1


@pytest.mark.parametrize(("variant", "error"), [("reset", Unreachable), ("big", AnswerTooLarge)])
def test_no_answer_is_asked_for_once(up: Upstream, variant: str, error: type[Exception]) -> None:
    refresh(scheme(up))  # so that the connection is a kept one
    with pytest.raises(error):
        refresh(scheme(up, variant))
    assert up.count(f"/token/{variant}") == 1


def test_a_provider_that_never_answers_is_waited_for_only_so_long(
    up: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert oauth.TOKEN_TIMEOUT == 10
    monkeypatch.setattr(oauth, "TOKEN_TIMEOUT", 0.3)
    started = time.monotonic()
    with pytest.raises(Unreachable):
        exchange(scheme(up, "hang"))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("body", "status", "code", "dead"),
    [
        (b'{"error": {"code": "invalid_grant", "message": "gone"}}', 400, "invalid_grant", True),
        (b'{"error": "invalid_grant"}', 401, "invalid_grant", True),
        (b'{"error": "invalid_grant"}', 503, "temporarily_unavailable", False),
        (b'{"ok": false}', 200, "unknown_error", False),
        (b'{"error": null, "access_token": ""}', 200, "invalid_answer", False),
        (b'{"access_token": 5}', 200, "invalid_answer", False),
        (b'{"access_token": null}', 200, "invalid_answer", False),
        (b'["access_token"]', 200, "invalid_answer", False),
        (b"null", 200, "invalid_answer", False),
        (b"\xff\xfe", 200, "invalid_answer", False),
        (b"[" * 50_000, 200, "invalid_answer", False),
        (b"error=bad_verification_code&error_description=old", 200, "bad_verification_code", False),
        (b'{"access_token": "x"}', 500, "temporarily_unavailable", False),
        (b'{"access_token": "x"}', 302, "invalid_answer", False),
        (b"", 307, "invalid_answer", False),
    ],
)
def test_odd_refusals_are_understood(up: Upstream, body: bytes, status: int, code: str, dead: bool) -> None:
    url, bodies = answering(status, body)
    with pytest.raises(TokenError) as caught:
        refresh(scheme(up, token_url=url))
    assert (caught.value.code, caught.value.dead) == (code, dead)
    assert len(bodies) == 1  # a redirect is not followed, the secrets in the body least of all


@pytest.mark.parametrize(
    ("value", "lifetime"),
    [(b"3600", 3600), (b'"3600"', 3600), (b"3599.7", 3599), (b"0", None), (b"-1", None), (b'"soon"', None), (b"null", None),
     (b"1e400", None), (b"[]", None), (b'"99999999999999999999"', None)],
)  # fmt: skip
def test_a_lifetime_is_a_number_of_seconds_or_none(up: Upstream, value: bytes, lifetime: int | None) -> None:
    url, _ = answering(200, b'{"access_token": "a", "expires_in": ' + value + b"}")
    assert exchange(scheme(up, token_url=url)).lifetime == lifetime


def test_a_token_may_stand_elsewhere_in_the_answer(up: Upstream) -> None:
    url, _ = answering(
        200,
        b'{"ok": true, "authed_user": {"access_token": "xoxp", "scope": "a,b", "refresh_token": "r", "expires_in": 9}}',
    )
    places = {name: f"/authed_user/{name}" for name in ("access_token", "refresh_token", "expires_in", "scope")}
    token = exchange(scheme(up, token_url=url, token=places))
    assert (token.access_token, token.refresh_token, token.lifetime, token.scopes) == ("xoxp", "r", 9, ["a", "b"])
    assert token.raw["ok"] is True


def test_the_client_authenticates_as_the_toolkit_says(up: Upstream) -> None:
    exchange(scheme(up, client_auth="client_secret_post"))
    assert sent(up) == {
        "grant_type": "authorization_code", "code": "a-code", "redirect_uri": "https://us.example/callback",
        "code_verifier": "v" * 64, "client_id": CLIENT.id, "client_secret": CLIENT.secret,
    }  # fmt: skip
    refresh(scheme(up, client_auth="client_secret_post"))
    assert sent(up) == {
        "grant_type": "refresh_token", "refresh_token": "old+refresh/token",
        "client_id": CLIENT.id, "client_secret": CLIENT.secret,
    }  # fmt: skip
    for ask in (exchange, refresh):
        ask(scheme(up, client_auth="none"))
        assert "client_secret" not in sent(up)
        assert sent(up)["client_id"] == CLIENT.id


def test_basic_authentication_is_form_encoded_first(up: Upstream) -> None:
    """RFC 6749 section 2.3.1."""
    for ask in (exchange, refresh):
        ask(scheme(up, client_auth="client_secret_basic"))
        kind, _, encoded = up.requests("/token/ok")[-1]["headers"]["authorization"].partition(" ")
        assert kind == "Basic"
        assert base64.b64decode(encoded) == b"the+client:s3cret%3A%2F%2B%26%25"
        assert not {"client_id", "client_secret"} & set(sent(up))


def test_extra_token_parameters_are_sent(up: Upstream) -> None:
    exchange(scheme(up, token_params={"audience": "api"}))
    assert sent(up)["audience"] == "api"


def test_the_authorization_url_has_all_it_needs(up: Upstream) -> None:
    made = scheme(up, scope_separator=",", authorization_params={"access_type": "offline"})
    url = oauth.authorization_url(
        made, CLIENT, redirect_uri="https://us.example/cb?x=1", state="st", scopes=["a", "b:c"], verifier="v" * 64
    )
    query = parse_qs(urlsplit(url).query)
    assert len(query.pop("code_challenge")[0]) == 43
    assert query == {
        "response_type": ["code"], "client_id": [CLIENT.id], "redirect_uri": ["https://us.example/cb?x=1"], "state": ["st"],
        "scope": ["a,b:c"], "access_type": ["offline"], "code_challenge_method": ["S256"],
    }  # fmt: skip


def test_the_challenge_is_the_one_of_the_standards_example(up: Upstream) -> None:
    """RFC 7636 appendix B."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    url = oauth.authorization_url(
        scheme(up), CLIENT, redirect_uri="https://a/", state="s", scopes=[], verifier=verifier
    )
    query = parse_qs(urlsplit(url).query)
    assert query["code_challenge"] == ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"]
    assert "scope" not in query


def test_a_provider_without_pkce_gets_none(up: Upstream) -> None:
    made = scheme(up, pkce=False)
    url = oauth.authorization_url(made, CLIENT, redirect_uri="https://a/", state="s", scopes=["x"], verifier="v" * 64)
    assert "code_challenge" not in url
    exchange(made)
    assert "code_verifier" not in sent(up)


def test_verifiers_are_long_and_never_the_same() -> None:
    verifiers = {oauth.new_verifier() for _ in range(100)}
    assert len(verifiers) == 100
    assert all(43 <= len(verifier) <= 128 for verifier in verifiers)


def test_secrets_go_without_tls_to_named_hosts_only(up: Upstream, settings: Settings) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = ""
    for ask in (exchange, refresh):
        with pytest.raises(TokenError, match="insecure_transport"):
            ask(scheme(up))
    assert not oauth.revoke(scheme(up), CLIENT, {"access_token": "a"})
    assert up.counts() == {}


def test_both_tokens_are_revoked_the_refresh_token_first(up: Upstream) -> None:
    assert oauth.revoke(scheme(up), CLIENT, {"access_token": "at", "refresh_token": "rt"})
    bodies = [dict(parse_qsl(request["body"])) for request in up.requests("/echo/revoke")]
    assert [(body["token"], body["token_type_hint"]) for body in bodies] == [
        ("rt", "refresh_token"),
        ("at", "access_token"),
    ]
    assert bodies[0]["client_secret"] == CLIENT.secret


@pytest.mark.parametrize("where", ["500", "reset", "status/400", "html/../status/503"])
def test_a_revocation_that_fails_is_told_and_raises_nothing(up: Upstream, where: str) -> None:
    assert not oauth.revoke(scheme(up, revocation_url=f"{up.url}/{where}"), CLIENT, {"access_token": "at"})


def test_a_machine_gets_a_token_of_its_own(up: Upstream) -> None:
    made = ClientCredentials(
        type="client_credentials", token_url=f"{up.url}/token/ok", client_auth="client_secret_post"
    )
    assert oauth.client_token(made, CLIENT, ["a", "b"]).access_token == "access-1"
    assert sent(up) == {
        "grant_type": "client_credentials", "scope": "a b", "client_id": CLIENT.id, "client_secret": CLIENT.secret
    }  # fmt: skip
