"""Connecting and calling by OAuth 1.0a, at Authlib's server, which checks each signature and refuses a nonce seen before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import requests

from tests.acceptance.journey import (
    RETURN,
    begin,
    callback_of,
    code_of,
    come_back,
    configure,
    execute,
    new_user,
    query_of,
    status_of,
)
from tests.peers.forms import forms
from tests.peers.oauth1 import CONSUMER_KEY, CONSUMER_SECRET, OAuth1Provider
from tests.product import Product

pytestmark = pytest.mark.acceptance


@pytest.fixture(autouse=True)
def _enabled(product: Product, oauth1_provider: OAuth1Provider) -> None:
    oauth1_provider.reset()
    configure(product, "signed", CONSUMER_KEY, CONSUMER_SECRET, **oauth1_provider.addresses)


def connect(product: Product, provider: OAuth1Provider, user: str, login: str = "alice") -> str:
    started = begin(product, "signed", user)
    location = come_back(provider.approve(started["authUrl"], login))
    assert location == f"{RETURN}?status=connected&toolkit=signed&connectionId={started['connectionRequestId']}"
    return str(started["connectionRequestId"])


def with_query(url: str, **changes: str | None) -> str:
    parts = urlsplit(url)
    query = {name: value for name, value in (dict(parse_qsl(parts.query)) | changes).items() if value is not None}
    return parts._replace(query=urlencode(query)).geturl()


def row_of(product: Product, connection_id: str) -> dict[str, object]:
    return dict(product.call("GET", f"integrations/connections/{connection_id}").json())


def sessions_of(product: Product, user: str) -> int:
    read = f"""
from apps.connections.models import ConnectSession
print(ConnectSession.objects.filter(end_user__external_id={user!r}).count())
"""
    return int(product.run(read))


def test_a_person_connects_and_every_kind_of_call_is_signed(product: Product, oauth1_provider: OAuth1Provider) -> None:
    user = new_user()
    connection_id = connect(product, oauth1_provider, user, "Zoë B.")
    row = row_of(product, connection_id)
    assert (row["status"], row["account"]) == ("active", "Zoë B.")

    answer = execute(product, "SIGNED_GET", user, q="a b&c=é/+*'()~", tags=["x y", "z"])
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert (data["user"], data["path"]) == ("Zoë B.", "/api/s1/items")  # the shard came with the token
    assert data["args"] == {"q": ["a b&c=é/+*'()~"], "tags": ["x y", "z"]}
    answer = execute(product, "SIGNED_SUBMIT", user, status="Hello Ladies + Gentlemen, a signed OAuth request!")
    assert answer.json()["data"]["form"] == {"status": ["Hello Ladies + Gentlemen, a signed OAuth request!"]}
    answer = execute(product, "SIGNED_CREATE", user, title="é&=")
    assert answer.json()["data"]["json"] == {"title": "é&="}


def test_calls_at_once_and_repeated_calls_never_share_a_nonce(
    product: Product, oauth1_provider: OAuth1Provider
) -> None:
    user = new_user()
    connect(product, oauth1_provider, user)
    oauth1_provider.fault(flaky=[503, 502])
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: execute(product, "SIGNED_GET", user, q=str(number)), range(48)))
    assert {answer.status_code for answer in answers} == {200}
    assert oauth1_provider.errors() == {"flaky": 2}


def test_a_provider_that_forgets_our_state_is_known_by_its_request_token(
    product: Product, oauth1_provider: OAuth1Provider
) -> None:
    oauth1_provider.fault(forgetful=True)
    user = new_user()
    callback = oauth1_provider.approve(begin(product, "signed", user)["authUrl"])
    assert "state" not in query_of(callback)
    assert query_of(come_back(callback))["status"] == "connected"
    assert query_of(come_back(callback)) == {"status": "error", "message": "invalid_state"}  # once


@pytest.mark.parametrize("forgetful", [False, True], ids=["with state", "without state"])
def test_turning_back_is_access_denied(product: Product, oauth1_provider: OAuth1Provider, forgetful: bool) -> None:
    oauth1_provider.fault(forgetful=forgetful)
    started = begin(product, "signed", new_user())
    assert come_back(oauth1_provider.deny(started["authUrl"])) == f"{RETURN}?status=error&message=access_denied"
    assert status_of(product, started["connectionRequestId"]) == "inactive"


def test_an_error_without_the_token_is_known_by_our_state(product: Product, oauth1_provider: OAuth1Provider) -> None:
    started = begin(product, "signed", new_user())
    location = come_back(oauth1_provider.deny(started["authUrl"], how="error"))
    assert query_of(location) == {"status": "error", "message": "access_denied"}


def test_an_answer_for_another_request_token_connects_nothing(
    product: Product, oauth1_provider: OAuth1Provider
) -> None:
    """Somebody's own approved flow under another person's state (session fixation)."""
    victim, attacker = new_user(), new_user()
    started = begin(product, "signed", victim)
    stolen = query_of(oauth1_provider.approve(begin(product, "signed", attacker)["authUrl"], "mallory"))
    honest = oauth1_provider.approve(started["authUrl"])
    mixed = with_query(honest, oauth_token=stolen["oauth_token"], oauth_verifier=stolen["oauth_verifier"])
    assert query_of(come_back(mixed))["message"] == "connection_failed"
    assert status_of(product, started["connectionRequestId"]) == "inactive"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"oauth_verifier": "guessed"}, "connection_failed"),
        ({"oauth_verifier": None}, "connection_failed"),
        ({"oauth_token": None}, "connection_failed"),
        ({"oauth_verifier": None, "code": "x"}, "connection_failed"),
        ({"state": "unknown"}, "invalid_state"),
        ({"state": None, "oauth_token": "unknown"}, "invalid_state"),
        ({"state": None, "oauth_token": None}, "missing_state"),
        ({"state": None, "oauth_token": "\x00\ud7ff" * 3000}, "invalid_state"),
    ],
    ids=["wrong verifier", "no verifier", "no token", "code in place of verifier", "unknown state", "unknown token",
         "neither", "a token of bytes"],
)  # fmt: skip
def test_what_is_no_honest_end_of_the_flow_connects_nothing(
    product: Product, oauth1_provider: OAuth1Provider, changes: dict[str, str | None], message: str
) -> None:
    started = begin(product, "signed", new_user())
    location = come_back(with_query(oauth1_provider.approve(started["authUrl"]), **changes))
    assert query_of(location)["message"] == message
    assert product.call("GET", f"integrations/connections/{started['connectionRequestId']}").json()["status"] in {
        "inactive",  # this attempt is used up
        "pending",  # somebody else's could not spoil it
    }


def test_a_flow_of_our_page_ends_only_in_the_browser_where_it_began(
    product: Product, oauth1_provider: OAuth1Provider
) -> None:
    link = product.run(f"""
from apps.connections.links import Link, make_link
print(make_link(Link({product.facts["project_id"]!r}, {new_user()!r}, "signed")))
""")
    with requests.Session() as browser:
        form = forms(browser.get(link, timeout=10).text)[0]
        away = browser.post(link, data=form.fields, headers={"Referer": link}, allow_redirects=False, timeout=10)
        callback = oauth1_provider.approve(away.headers["Location"])
        for url in (callback, with_query(callback, state=None)):
            assert query_of(come_back(url))["message"] == "invalid_state"  # another browser
        assert query_of(come_back(callback, browser.cookies))["status"] == "connected"


def test_a_wrong_consumer_key_is_told_and_leaves_nothing(product: Product, oauth1_provider: OAuth1Provider) -> None:
    configure(product, "signed", CONSUMER_KEY, "not-the-secret", **oauth1_provider.addresses)
    user = new_user()
    answer = product.call("POST", "integrations/connect", json={"toolkit": "signed", "userId": user})
    assert code_of(answer) == (400, "INTEGRATIONS_NOT_CONFIGURED")
    error = answer.json()["error"]
    assert "invalid_signature" in error["message"]
    assert callback_of(product) in error["remediation"]
    assert "not-the-secret" not in answer.text
    assert sessions_of(product, user) == 0


def test_a_provider_that_does_not_answer_is_502_and_leaves_nothing(
    product: Product, oauth1_provider: OAuth1Provider
) -> None:
    oauth1_provider.fault(status=503)
    user = new_user()
    answer = product.call("POST", "integrations/connect", json={"toolkit": "signed", "userId": user})
    assert code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")
    assert sessions_of(product, user) == 0


def test_a_provider_without_the_a_of_1_0a_is_refused(product: Product, oauth1_provider: OAuth1Provider) -> None:
    oauth1_provider.fault(unconfirmed=True)
    answer = product.call("POST", "integrations/connect", json={"toolkit": "signed", "userId": new_user()})
    assert code_of(answer) == (400, "INTEGRATIONS_NOT_CONFIGURED")


def test_a_variable_of_the_token_answer_that_does_not_fit_connects_nothing(
    product: Product, oauth1_provider: OAuth1Provider
) -> None:
    oauth1_provider.fault(shard="evil.example/")
    started = begin(product, "signed", new_user())
    assert query_of(come_back(oauth1_provider.approve(started["authUrl"])))["message"] == "connection_failed"


def test_connecting_again_keeps_the_id_and_a_withdrawn_token_is_the_providers_refusal(
    product: Product, oauth1_provider: OAuth1Provider
) -> None:
    user = new_user()
    first = connect(product, oauth1_provider, user)
    read = f"""
from apps.connections.models import Connection
print(Connection.objects.get(pk="{first}").unseal("credentials")["oauth_token"])
"""
    oauth1_provider.fault(revoke=[product.run(read)])
    refused = execute(product, "SIGNED_GET", user)
    assert code_of(refused) == (422, "INTEGRATIONS_EXECUTION_FAILED")
    assert refused.json()["error"]["details"]["status"] == 401
    assert connect(product, oauth1_provider, user) == first
    assert execute(product, "SIGNED_GET", user).status_code == 200


def test_secrets_are_in_no_log_and_no_answer(product: Product, oauth1_provider: OAuth1Provider) -> None:
    user = new_user()
    connection_id = connect(product, oauth1_provider, user)
    execute(product, "SIGNED_SUBMIT", user, status="x")
    read = f"""
from apps.connections.models import Connection
held = Connection.objects.get(pk="{connection_id}").unseal("credentials")
print(held["oauth_token"], held["oauth_token_secret"])
"""
    secrets = [*product.run(read).split(), CONSUMER_SECRET]
    shown = product.log + product.call("GET", f"integrations/connections/{connection_id}").text
    assert not [secret for secret in secrets if secret in shown]
