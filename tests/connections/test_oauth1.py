"""OAuth 1.0a against Authlib's server: what is signed, what is refused, and that no signature goes out twice."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from pytest_django import Settings

from apps.connections import access, oauth1
from apps.connections.access import OAuthClient
from apps.connections.oauth import TokenError
from apps.connections.upstream import send
from apps.lib.errors import Unreachable
from apps.lib.http import Answer
from apps.toolkits.registry import catalog
from apps.toolkits.request import Request
from apps.toolkits.spec import OAuth1
from tests.peers.oauth1 import CONSUMER_KEY, CONSUMER_SECRET, OAuth1Provider
from tests.peers.upstream import Upstream

CLIENT = OAuthClient(CONSUMER_KEY, CONSUMER_SECRET, own=True)
CALLBACK = "https://us.example/v1/proj_x/integrations/callback?state=a-state"
METHODS = ["HMAC-SHA1", "HMAC-SHA256", "PLAINTEXT"]


@pytest.fixture(autouse=True)
def provider(oauth1_provider: OAuth1Provider, settings: Settings) -> OAuth1Provider:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    oauth1_provider.reset()
    return oauth1_provider


def scheme(provider: OAuth1Provider, method: str = "HMAC-SHA1", **changes: str) -> OAuth1:
    urls = {name: url for name, url in provider.addresses.items() if name != "base_url"}
    return OAuth1.model_validate({"type": "oauth1", "signature_method": method} | urls | changes)


def connected(provider: OAuth1Provider, used: OAuth1, login: str = "alice") -> dict[str, Any]:
    """The whole dance; credentials as a call has them."""
    temporary = oauth1.request_token(used, CLIENT, CALLBACK)
    back = provider.approve(oauth1.authorization_url(used, temporary["oauth_token"]), login)
    answer = dict(parse_qsl(urlsplit(back).query))
    assert answer["state"] == "a-state"
    assert answer["oauth_token"] == temporary["oauth_token"]
    credentials, _ = oauth1.access_token(used, CLIENT, temporary, answer["oauth_verifier"])
    return access.with_client(credentials, CLIENT)


def call(provider: OAuth1Provider, used: OAuth1, credentials: dict[str, Any], **request: Any) -> Answer:
    given = {"method": "GET", "url": f"{provider.url}/api/me"} | request
    return send(access.authorize(Request(**given), used, credentials), used)


@pytest.mark.parametrize("method", METHODS)
def test_every_signature_method_connects_and_calls(provider: OAuth1Provider, method: str) -> None:
    used = scheme(provider, method)
    credentials = connected(provider, used)
    answer = call(provider, used, credentials)
    assert (answer.status, json.loads(answer.body)["user"]) == (200, "alice"), answer.text


ODD = "a b+c&d=é/~*'()[]%25日"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({"query": [("q", ODD), ("q", "2"), ("empty", "")]}, id="query"),
        pytest.param({"url": "/api/a%20b/c?x=[1]'&y=%C3%A9+z&flag"}, id="query of the url as browsers write it"),
        pytest.param(
            {
                "method": "POST",
                "body": b"text=a+b%26%3D%C3%A9%2B&b5=%3D%253D&n=1",
                "headers": {"content-type": "application/x-www-form-urlencoded; charset=utf-8"},
            },
            id="form body",
        ),
        pytest.param(
            {
                "method": "POST",
                "query": [("page", "1")],
                "body": b'{"text": "a=b&c"}',
                "headers": {"Content-Type": "application/json"},
            },
            id="json body",
        ),
        pytest.param({"method": "POST", "body": b""}, id="no body"),
        pytest.param({"method": "DELETE", "url": "/api/x?id=1"}, id="delete"),
    ],
)
def test_what_is_signed_is_what_the_server_reads(
    provider: OAuth1Provider, method: str, request_: dict[str, Any]
) -> None:
    used = scheme(provider, method)
    given = request_ | {"url": provider.url + request_.get("url", "/api/me")}
    answer = call(provider, used, connected(provider, used), **given)
    assert answer.status == 200, answer.text


def test_a_changed_form_body_breaks_the_signature(provider: OAuth1Provider) -> None:
    """That the body is signed at all: a server that did not check would pass every test above."""
    used = scheme(provider)
    request = Request("POST", f"{provider.url}/api/me", headers={"Content-Type": oauth1.FORM}, body=b"amount=1")
    signed = access.authorize(request, used, connected(provider, used))
    assert signed.sign is not None
    headers = signed.sign("POST", request.url, request.headers, b"amount=1")
    forged = Request("POST", request.url, headers=request.headers | headers, body=b"amount=1000")
    assert send(forged, used).status == 401


def test_each_try_is_signed_anew(provider: OAuth1Provider) -> None:
    used = scheme(provider)
    credentials = connected(provider, used)
    provider.fault(flaky=[503, 503])
    answer = call(provider, used, credentials, idempotent=True, retry_statuses=frozenset({503}))
    assert (answer.status, answer.tries) == (200, 3), answer.text
    assert provider.errors() == {"flaky": 2}  # and no invalid_nonce


def test_a_redirect_within_the_service_is_signed_anew(provider: OAuth1Provider) -> None:
    used = scheme(provider)
    answer = call(provider, used, connected(provider, used), url=f"{provider.url}/api/redirect?to=/api/there?x=1")
    assert (answer.status, json.loads(answer.body)["path"]) == (200, "/api/there"), answer.text


def test_a_redirect_elsewhere_carries_no_signature(provider: OAuth1Provider, upstream: Upstream) -> None:
    upstream.reset()
    used = scheme(provider)
    target = f"{upstream.url}/redirect?to={provider.url}/api/me"
    answer = call(provider, used, connected(provider, used), url=f"{provider.url}/api/redirect?to={target}")
    assert answer.status >= 400  # it came back to the service, unsigned
    assert "authorization" not in upstream.requests("/redirect")[-1]["headers"]


def test_a_provider_that_does_not_confirm_the_callback_is_refused(provider: OAuth1Provider) -> None:
    provider.fault(unconfirmed=True)
    with pytest.raises(TokenError) as caught:
        oauth1.request_token(scheme(provider), CLIENT, CALLBACK)
    assert caught.value.code == "callback_not_confirmed"


@pytest.mark.parametrize(
    "client",
    [OAuthClient("nobody", CONSUMER_SECRET, own=True), OAuthClient(CONSUMER_KEY, "wrong-secret", own=True)],
    ids=["unknown key", "wrong secret"],
)
def test_a_wrong_client_is_told_in_the_providers_words(provider: OAuth1Provider, client: OAuthClient) -> None:
    with pytest.raises(TokenError) as caught:
        oauth1.request_token(scheme(provider), client, CALLBACK)
    assert caught.value.code in {"invalid_client", "invalid_signature"}
    assert client.secret not in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_provider_in_trouble_is_unreachable(provider: OAuth1Provider, status: int) -> None:
    provider.fault(status=status)
    with pytest.raises(Unreachable):
        oauth1.request_token(scheme(provider), CLIENT, CALLBACK)


@pytest.mark.parametrize("path", ["/html", "/empty", "/list", "/no-content", "/echo"])
def test_what_is_no_token_is_refused(provider: OAuth1Provider, upstream: Upstream, path: str) -> None:
    with pytest.raises(TokenError):
        oauth1.request_token(scheme(provider, request_token_url=upstream.url + path), CLIENT, CALLBACK)


def test_a_wrong_verifier_brings_no_token(provider: OAuth1Provider) -> None:
    used = scheme(provider)
    temporary = oauth1.request_token(used, CLIENT, CALLBACK)
    provider.approve(oauth1.authorization_url(used, temporary["oauth_token"]))
    with pytest.raises(TokenError):
        oauth1.access_token(used, CLIENT, temporary, "guessed")


def test_names_of_people_are_read_however_they_are_written(provider: OAuth1Provider) -> None:
    used = scheme(provider)
    temporary = oauth1.request_token(used, CLIENT, CALLBACK)
    back = provider.approve(oauth1.authorization_url(used, temporary["oauth_token"]), "Zoë B. (x)")
    verifier = dict(parse_qsl(urlsplit(back).query))["oauth_verifier"]
    credentials, answer = oauth1.access_token(used, CLIENT, temporary, verifier)
    assert set(credentials) == {"oauth_token", "oauth_token_secret"}
    assert (answer["screen_name"], answer["shard"]) == ("Zoë B. (x)", "s1")


def test_secrets_go_without_tls_only_where_the_operator_says_so(provider: OAuth1Provider, settings: Settings) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = ""
    with pytest.raises(TokenError, match="https"):
        oauth1.request_token(scheme(provider), CLIENT, CALLBACK)


def test_the_secrets_are_masked_wherever_they_turn_up(provider: OAuth1Provider) -> None:
    credentials = access.with_client({"oauth_token": "a-token", "oauth_token_secret": "b-secret"}, CLIENT)
    secrets = access.secrets_of(scheme(provider, "PLAINTEXT"), credentials)
    assert {"a-token", "b-secret", CONSUMER_SECRET} <= set(secrets)
    assert CONSUMER_KEY not in secrets
    sent = oauth1.sign(scheme(provider, "PLAINTEXT"), credentials, "GET", "https://x.example/", {}, None)
    assert any(secret in sent["Authorization"] for secret in secrets)


def test_a_signing_request_shows_no_credentials(provider: OAuth1Provider) -> None:
    credentials = access.with_client({"oauth_token": "a-token", "oauth_token_secret": "b-secret"}, CLIENT)
    assert "b-secret" not in repr(access.authorize(Request("GET", "https://x.example"), scheme(provider), credentials))


def test_every_toolkit_of_the_catalog_keeps_its_authorization_urls_own_query() -> None:
    schemes = [one for toolkit in catalog().toolkits.values() for one in toolkit.auth if isinstance(one, OAuth1)]
    assert len(schemes) >= 5
    for one in schemes:
        query = dict(parse_qsl(urlsplit(oauth1.authorization_url(one, "t&1")).query))
        assert query == dict(parse_qsl(urlsplit(one.authorization_url).query)) | {"oauth_token": "t&1"}
