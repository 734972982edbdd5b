"""What may come to our callback that is no honest end of a flow, and where a flow may lead to."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from tests.acceptance.journey import (
    RETURN,
    begin,
    callback_of,
    come_back,
    enable_wayward,
    execute,
    new_user,
    query_of,
    status_of,
    walk,
)
from tests.peers.forms import forms
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = pytest.mark.acceptance


@pytest.fixture(autouse=True)
def _enabled(product: Product, upstream: Upstream) -> None:
    enable_wayward(product, upstream)
    upstream.reset()


def connect_link(product: Product, user: str, redirect_url: str = "") -> str:
    """A link to our own connect page, as a reconnect link or an admin gives it."""
    return product.run(f"""
from apps.connections.links import Link, make_link
print(make_link(Link({product.facts["project_id"]!r}, {user!r}, "wayward", {redirect_url!r})))
""")


def ends_on_our_page(location: str, message: str) -> None:
    """Nobody's return URL is trusted: our own page, which says why."""
    assert urlsplit(location).path == "/connect/result"
    assert query_of(location) == {"status": "error", "message": message}


def test_a_callback_works_once(product: Product, upstream: Upstream) -> None:
    user = new_user()
    callback = walk(begin(product, "wayward", user)["authUrl"])
    assert query_of(come_back(callback))["status"] == "connected"
    ends_on_our_page(come_back(callback), "invalid_state")
    assert upstream.count("/token/ok") == 1
    assert execute(product, "WAYWARD_GET", user, path="echo").status_code == 200


def test_of_many_callbacks_at_once_one_wins(product: Product, upstream: Upstream) -> None:
    callback = walk(begin(product, "wayward", new_user())["authUrl"])
    with ThreadPoolExecutor(8) as pool:
        ends = [query_of(location) for location in pool.map(come_back, [callback] * 8)]
    assert Counter(end.get("message", end["status"]) for end in ends) == {"connected": 1, "invalid_state": 7}
    assert upstream.count("/token/ok") == 1


def test_a_flow_of_our_page_ends_only_in_the_browser_where_it_began(product: Product, upstream: Upstream) -> None:
    user = new_user()
    link = connect_link(product, user, RETURN)
    with requests.Session() as browser, requests.Session() as other:
        for one in (browser, other):
            form = forms(one.get(link, timeout=10).text)[0]
            away = one.post(link, data=form.fields, headers={"Referer": link}, allow_redirects=False, timeout=10)
            if one is browser:
                callback = walk(away.headers["Location"])
        cookie = next(cookie for cookie in browser.cookies if cookie.name == "jf_connect")
        assert cookie.has_nonstandard_attr("HttpOnly")
        ends_on_our_page(come_back(callback), "invalid_state")  # no cookie at all
        ends_on_our_page(come_back(callback, cookies=other.cookies), "invalid_state")  # somebody else's
        assert upstream.count("/token/ok") == 0
        result = come_back(callback, cookies=browser.cookies)  # the strangers' tries have not spoilt it
    assert result.startswith(f"{RETURN}?status=connected&toolkit=wayward&connectionId=ca_")


def test_a_late_callback_is_refused(product: Product, upstream: Upstream) -> None:
    started = begin(product, "wayward", new_user())
    callback = walk(started["authUrl"])
    product.run(f"""
from datetime import timedelta
from apps.connections.models import ConnectSession
from django.utils import timezone
session = ConnectSession.objects.get(connection_id={started["connectionRequestId"]!r})
assert timedelta(minutes=29) < session.expires_at - timezone.now() <= timedelta(minutes=30)
ConnectSession.objects.filter(pk=session.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
""")
    ends_on_our_page(come_back(callback), "invalid_state")
    assert upstream.count("/token/ok") == 0
    assert status_of(product, started["connectionRequestId"]) == "inactive"


def test_another_projects_state_is_app_mismatch(product: Product, upstream: Upstream) -> None:
    callback = walk(begin(product, "wayward", new_user())["authUrl"])
    foreign = callback.replace(product.facts["project_id"], "proj_0123456789abcdef")
    assert come_back(foreign) == f"{RETURN}?status=error&message=app_mismatch"
    assert upstream.count("/token/ok") == 0
    assert query_of(come_back(callback))["status"] == "connected"


def test_the_person_said_no(product: Product, upstream: Upstream) -> None:
    started = begin(product, "wayward", new_user())
    callback = walk(started["authUrl"].replace("/authorize", "/authorize/deny"))
    assert come_back(callback) == f"{RETURN}?status=error&message=access_denied"
    ends_on_our_page(come_back(callback), "invalid_state")


@pytest.mark.parametrize("further", ["error=server_error", "error=temporarily_unavailable&code=x", "", "code="])
def test_without_a_code_it_is_connection_failed(product: Product, upstream: Upstream, further: str) -> None:
    state = query_of(begin(product, "wayward", new_user())["authUrl"])["state"]
    location = come_back(f"{callback_of(product)}?state={state}&{further}")
    assert query_of(location) == {"status": "error", "message": "connection_failed"}
    assert upstream.count("/token/ok") == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("code=abc", "missing_state"),
        ("", "missing_state"),
        ("error=access_denied", "missing_state"),
        ("state=&code=abc", "missing_state"),
        ("state=unknown&code=abc", "invalid_state"),
        ("state=%00&code=%00", "invalid_state"),
        ("state=%ff%fe%ed%a0%80&code=abc", "invalid_state"),
        ("state=a&state=b&code=abc&code=def", "invalid_state"),
        ("state[]=a&code[]=b", "missing_state"),
        (f"state={'x' * 6000}&code={'y' * 6000}", "invalid_state"),
        ("&&&===%%%&state=%zz", "invalid_state"),
    ],
)
@pytest.mark.parametrize("whose", ["project", "installation", "nobody", "zero"])
def test_garbage_ends_on_our_page(product: Product, whose: str, query: str, message: str) -> None:
    addresses = {
        "project": callback_of(product),
        "installation": f"{product.url}/v1/integrations/callback",
        "nobody": f"{product.url}/v1/proj_nobody/integrations/callback",
        "zero": f"{product.url}/v1/a%00b/integrations/callback",
    }
    location = come_back(f"{addresses[whose]}?{query}")
    ends_on_our_page(location, message)
    page = requests.get(f"{product.url}{location}", timeout=10)
    assert page.status_code == 400
    assert "text/html" in page.headers["Content-Type"]


def test_our_result_page_repeats_nothing_of_its_address(product: Product) -> None:
    marks = "<script>alert(1)</script>"
    query = dict.fromkeys(("status", "message", "toolkit", "project", "connectionId"), marks) | {"status": "error"}
    page = requests.get(f"{product.url}/connect/result", params=query, timeout=10)
    assert page.status_code == 400
    assert "alert(1)" not in page.text
    assert requests.get(f"{product.url}/connect/result?project=%00&toolkit=%00", timeout=10).status_code == 400


def test_an_answer_of_another_issuer_is_refused(product: Product, upstream: Upstream) -> None:
    """RFC 9207: a mix-up of providers shows in the iss parameter."""
    enable_wayward(product, upstream, issuer="https://issuer.example/")
    callback = walk(begin(product, "wayward", new_user())["authUrl"])
    location = come_back(f"{callback}&iss=https%3A%2F%2Fevil.example")
    assert query_of(location) == {"status": "error", "message": "connection_failed"}
    assert upstream.count("/token/ok") == 0
    callback = walk(begin(product, "wayward", new_user())["authUrl"])
    assert query_of(come_back(f"{callback}&iss=https%3A%2F%2Fissuer.example"))["status"] == "connected"


@pytest.mark.parametrize(
    ("redirect_url", "expected"),
    [
        ("https://yourapp.com/x?a=1&b=%20&flag&u=https://o.example/?q#part",
         "https://yourapp.com/x?a=1&b=%20&flag&u=https://o.example/?q&{result}#part"),
        ("https://yourapp.com/x?status=mine&stat%75s=too&keep=1#/route?x=1",
         "https://yourapp.com/x?keep=1&{result}#/route?x=1"),
        ("https://yourapp.com", "https://yourapp.com?{result}"),
        ("https://yourapp.com:443/", "https://yourapp.com:443/?{result}"),
        ("HTTPS://YourApp.com/x", "https://YourApp.com/x?{result}"),
        ("http://localhost:3000/settings?", "http://localhost:3000/settings?{result}"),
    ],
)  # fmt: skip
def test_the_return_urls_query_and_fragment_survive(product: Product, redirect_url: str, expected: str) -> None:
    started = begin(product, "wayward", new_user(), redirectUrl=redirect_url)
    result = f"status=connected&toolkit=wayward&connectionId={started['connectionRequestId']}"
    assert come_back(walk(started["authUrl"])) == expected.format(result=result)


@pytest.mark.parametrize(
    "redirect_url",
    [
        "//evil.example",
        "/done",
        "done",
        "https:/yourapp.com",
        "https:yourapp.com",
        "https://",
        "https://yourapp.com.evil.example",
        "https://yourapp.com@evil.example",
        "https://user:password@yourapp.com/",
        "https://evil.example#@yourapp.com/",
        "https://evil.example\\@yourapp.com/",
        "https://yourapp.com\\.evil.example/",
        "\\\\yourapp.com",
        "javascript:alert(1)//https://yourapp.com",
        "data:text/html,x",
        "https://yourapp.com:8443/",
        "https://yourapp.com:99999/",
        "https://yourapp.com:x/",
        "http://yourapp.com/",
        "http://localhost/",
        "http://localhost:3001/",
        "https://sub.yourapp.com/",
        "https://yourapp.com\u3002evil.example/",
        "https://yourapp.com\u2028/",
        "https://yourapp.com/\r\nX-Evil: 1",
        "https://yourapp .com/",
        "https://[::1",
        "https://yourapp.com/\x00",
        "ftp://yourapp.com/",
    ],
)
def test_a_return_url_elsewhere_is_refused(product: Product, redirect_url: str) -> None:
    body = {"toolkit": "wayward", "userId": new_user(), "redirectUrl": redirect_url}
    answer = product.call("POST", "integrations/connect", data=json.dumps(body))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "VALIDATION_INVALID_SCHEMA")
    assert list(error["details"]) == ["redirectUrl"]


@pytest.mark.parametrize(
    "token", ["no-access-token", "html", "empty", "500", "429", "reset", "big", "invalid-grant", "invalid-client",
              "ok-with-error", "ok-false"],
)  # fmt: skip
def test_a_token_endpoint_that_gives_no_token_is_connection_failed(
    product: Product, upstream: Upstream, token: str
) -> None:
    enable_wayward(product, upstream, token)
    started = begin(product, "wayward", new_user())
    location = come_back(walk(started["authUrl"]))
    assert location == f"{RETURN}?status=error&message=connection_failed"
    assert upstream.count(f"/token/{token}") == 1  # a code is good for one try
    assert status_of(product, started["connectionRequestId"]) == "inactive"


def test_a_token_endpoint_that_never_answers_is_waited_for_ten_seconds(product: Product, upstream: Upstream) -> None:
    enable_wayward(product, upstream, "hang")
    started = begin(product, "wayward", new_user())
    callback = walk(started["authUrl"])
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(come_back, callback, None, 12)
        assert status_of(product, started["connectionRequestId"]) == "pending"
        assert ending.result() == f"{RETURN}?status=error&message=connection_failed"
    assert status_of(product, started["connectionRequestId"]) == "inactive"


@pytest.mark.parametrize("token", ["no-expires-in", "no-refresh-token", "string-expires-in", "form"])
def test_odd_token_answers_are_understood(product: Product, upstream: Upstream, token: str) -> None:
    enable_wayward(product, upstream, token)
    user = new_user()
    assert query_of(come_back(walk(begin(product, "wayward", user)["authUrl"])))["status"] == "connected"
    answer = execute(product, "WAYWARD_GET", user, path="bearer/access-1")
    assert (answer.status_code, answer.json()["data"]) == (200, {"ok": True})
