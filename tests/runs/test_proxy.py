"""The proxy: what is sent on and what is passed back, whose account it is, what is refused, what the log says."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.signals import request_finished
from django.db import close_old_connections
from django.test import Client
from pytest_django import Settings

from apps.connections.models import Connection, Integration
from apps.lib import breaker, stream
from apps.lib.errors import InvalidInput
from apps.runs import proxy
from apps.runs.journal import journal
from apps.runs.models import Execution
from apps.toolkits.spec import Toolkit
from apps.workspaces.models import Plan
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import fails
from tests.cast import Api, Cast, connect, enable
from tests.peers.streaming import Streaming, pattern

TOKEN = "at-1-secret"


@pytest.fixture(scope="module")
def peer() -> Iterator[Streaming]:
    with Streaming() as running:
        yield running


class Shop:
    """Alice's project, the lab switched on at the streaming service, u1 connected."""

    def __init__(self, cast: Cast, peer: Streaming, integration: Integration) -> None:
        self.cast, self.peer, self.integration = cast, peer, integration
        self.connection = connect(integration)
        self.api = cast.api

    def call(self, path: str, method: str = "GET", body: Any = b"", api: Any = None, **headers: Any) -> Any:
        return (api or self.api).call(
            method, f"integrations/proxy/lab/{path}", body, **({"X-End-User": "u1"} | headers)
        )

    def seen(self, path: str, method: str = "GET", body: Any = b"", **headers: Any) -> Any:
        """What the service got."""
        answer = self.call(path, method, body, **headers)
        text = answer.getvalue()
        assert answer.status_code == 200, text
        return json.loads(text)

    def log(self) -> list[Execution]:
        journal.flush()
        return list(Execution.objects.order_by("created_at", "id"))


def leave(answer: Any) -> None:
    """As a caller who goes away; the test's own transaction stays."""
    request_finished.disconnect(close_old_connections)
    answer.close()
    request_finished.connect(close_old_connections)


@pytest.fixture
def shop(cast: Cast, lab: Toolkit, peer: Streaming, settings: Settings) -> Shop:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    breaker._circuits.clear()
    return Shop(cast, peer, enable(cast.project, "lab", peer.url))


# -- sent on ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_each_method_is_sent_on_with_the_users_credentials(shop: Shop, method: str) -> None:
    seen = shop.seen("hash/items", method)
    assert (seen["method"], seen["path"]) == (method, "/hash/items")
    assert seen["headers"]["authorization"] == f"Bearer {TOKEN}"


def test_without_a_path_the_base_url_itself_is_asked(shop: Shop) -> None:
    integration = shop.cast.project.integrations.get(toolkit="lab")
    integration.settings = {"base_url": f"{integration.settings['base_url']}/hash"}
    integration.save()
    assert shop.seen("?q=1", "GET")["path"] in {"/hash/", "/hash"}


def test_a_head_has_its_headers_and_no_body(shop: Shop) -> None:
    answer = shop.call("bytes?n=12345", "HEAD")
    assert (answer.status_code, answer["Content-Length"], answer.getvalue()) == (200, "12345", b"")


@pytest.mark.parametrize("size", [1, 1000, 300_000])
def test_a_body_is_sent_on_byte_for_byte(shop: Shop, size: int) -> None:
    data = b"".join(pattern(0, size))
    seen = shop.seen("hash", "PUT", data)
    assert (seen["size"], seen["sha256"]) == (size, hashlib.sha256(data).hexdigest())
    assert seen["headers"]["content-length"] == str(size)
    assert seen["headers"]["content-type"] == "application/json"


def test_end_to_end_headers_are_sent_on_and_no_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:pw@proxy.internal")  # granian puts the environment among the headers
    on = {
        "Accept": "text/csv",
        "Accept-Encoding": "br",
        "If-None-Match": '"a"',
        "Range": "bytes=0-1",
        "Idempotency-Key": "k-1",
        "X-GitHub-Api-Version": "2022-11-28",
        "User-Agent": "theirs/1",
        "Origin": "https://app.example",
    }
    off = {
        "X-API-Key": "jf_sk_other",
        "Cookie": "sessionid=1",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
        "Keep-Alive": "1",
        "TE": "trailers",
        "Trailer": "X-Sum",
        "Upgrade": "h2c",
        "Proxy-Authorization": "Basic eA==",
        "Proxy": "http://evil.example",
        "Expect": "100-continue",
        "X-Request-Id": "mine-1",
        "X-Connection-Id": shop.connection.pk,
        "X-Forwarded-For": "10.1.1.1",
        "X-Forwarded-Host": "inside",
        "Forwarded": "for=10.1.1.1",
        "Via": "1.1 inside",
        "X-Real-IP": "10.1.1.1",
    }
    headers = shop.seen("hash", **on, **off)["headers"]
    assert {name: headers.get(name.lower()) for name in on} == on
    assert not {name.lower() for name in off} & set(headers)
    assert "x-end-user" not in headers
    assert headers["host"] == shop.peer.url.removeprefix("http://")
    assert headers["authorization"] == f"Bearer {TOKEN}"


def test_what_the_environment_holds_is_no_header(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_X_SECRET_OF_THE_MACHINE", "secret")
    answer = shop.call("hash", **{"X-Secret-Of-The-Machine": "secret"})
    assert b"machine" not in answer.getvalue().lower()


def test_fixed_headers_of_the_toolkit_give_way_to_the_callers(
    shop: Shop, lab: Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(lab.headers, "X-Version", "1")
    monkeypatch.setitem(lab.headers, "Accept", "application/vnd.lab")
    assert shop.seen("hash")["headers"]["accept"] == "application/vnd.lab"
    headers = shop.seen("hash", Accept="text/plain")["headers"]
    assert (headers["accept"], headers["x-version"]) == ("text/plain", "1")


@pytest.mark.parametrize(
    ("sent", "arrived"),
    [
        ("hash/a%20b", "/hash/a%20b"),
        ("hash/%C3%BC/x", "/hash/%C3%BC/x"),
        ("hash/a:b@c!$&'()*+,;=-._~", "/hash/a:b@c!$&'()*+,;=-._~"),
        ("hash/100%25", "/hash/100%25"),
        ("hash/what%3F", "/hash/what%3F"),
        ("hash//twice/", "/hash//twice/"),
        ("hash/%23", "/hash/%23"),
        ("hash/a..b/...", "/hash/a..b/..."),
    ],
)
def test_the_path_arrives_as_it_was_sent(shop: Shop, sent: str, arrived: str) -> None:
    assert shop.seen(sent)["path"] == arrived


def test_a_header_spells_the_path_where_escapes_matter(shop: Shop) -> None:
    """Servers decode %2F before we see the path."""
    assert shop.seen("hash/group%2Fname")["path"] == "/hash/group/name"
    exact = shop.seen("hash/group/name/%7e", **{"X-Upstream-Path": "hash/group%2fname/%7e"})
    assert exact["path"] == "/hash/group%2fname/%7e"
    assert "x-upstream-path" not in exact["headers"]


@pytest.mark.parametrize("spelled", ["hash/other", "hash/a%2f..%2fb", "hash", "//evil.example/hash/a/b"])
def test_a_header_spells_no_other_path(shop: Shop, spelled: str) -> None:
    answer = shop.call("hash/a/b", **{"X-Upstream-Path": spelled})
    assert "X-Upstream-Path" in fails(answer, 400, "VALIDATION_INVALID_SCHEMA")["details"]


def test_the_query_arrives_as_it_was_sent(shop: Shop) -> None:
    query = "a=%2F&b&c=1+2&a=x%20y&q[]=1&e=ü'"
    assert shop.seen(f"hash?{query}")["query"] == query.replace("ü", "%C3%BC")


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "a/./b", "%2e%2e/x", "a/%2E%2e", "%252e%252e/x", "a%2f..%2fb", "..;/x", "..%3bv=1/x",
     "a%5Cb", "..%5cx", "%255c", "a%0dX:%201", "a%250d%250aX:%201", "a%09b", "%7f", "%25252525252525252e"],
)  # fmt: skip
def test_a_path_that_could_lead_elsewhere_is_refused(shop: Shop, path: str) -> None:
    before = len(shop.peer.state()["seen"])
    assert "path" in fails(shop.call(path), 400, "VALIDATION_INVALID_SCHEMA")["details"]
    assert len(shop.peer.state()["seen"]) == before + 1  # the question itself


@pytest.mark.parametrize("path", ["http://evil.example/", "//evil.example/", "@evil.example/", ":80@evil.example/"])
def test_a_whole_url_is_only_a_path(shop: Shop, path: str) -> None:
    assert shop.seen(path)["path"].endswith("evil.example/")


def test_a_path_stays_below_the_base_url(shop: Shop) -> None:
    enable(shop.cast.project, "lab", f"{shop.peer.url}/hash/v1")
    assert shop.seen("items")["path"] == "/hash/v1/items"


def test_an_escaped_path_is_checked_by_itself() -> None:
    with pytest.raises(InvalidInput):
        proxy.check_path("a/%2e%2e/b")
    proxy.check_path("a/b.c/..d/%7Euser")


# -- passed back -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [200, 201, 301, 307, 400, 403, 404, 409, 422, 429, 500, 503])
def test_status_and_headers_of_the_service_are_kept(shop: Shop, status: int) -> None:
    answer = shop.call(f"status/{status}")
    assert answer.status_code == status
    assert json.loads(answer.getvalue()) == {"status": status}
    assert answer["Retry-After"] == "7"
    if 300 <= status < 400:
        assert answer["Location"] == "https://elsewhere.example/file?sig=1"


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body(shop: Shop, status: int) -> None:
    answer = shop.call(f"status/{status}")
    assert (answer.status_code, answer.getvalue(), answer["ETag"]) == (status, b"", '"same"')
    assert "Content-Length" not in answer


def test_a_range_is_passed_on(shop: Shop) -> None:
    answer = shop.call("bytes?n=1000", Range="bytes=10-19")
    assert (answer.status_code, answer["Content-Range"]) == (206, "bytes 10-19/1000")
    assert answer.getvalue() == b"".join(pattern(10, 20))


def test_end_to_end_headers_are_passed_back_and_no_others(shop: Shop) -> None:
    answer = shop.call("headers", **{"X-Request-Id": "mine-1"})
    sent = [(name.lower(), value) for name, value in answer.items()]
    names = {name for name, _ in sent}
    assert [value[-11:] for name, value in sent if name == "link"] == [' rel="next"', ' rel="last"']
    kept = {
        "x-ratelimit-remaining": "41",
        "etag": 'W/"abc"',
        "cache-control": "private, max-age=60",
        "content-encoding": "identity",
        "content-type": "text/html; charset=utf-8",
        "last-modified": "Sun, 06 Nov 1994 08:49:37 GMT",
        "x-upstream-request-id": "theirs-1",
        "x-request-id": "mine-1",
        "x-name": "Grüße",
    }
    assert {name: value for name, value in sent if name in kept} == kept
    assert not names & {"connection", "keep-alive", "x-hop", "trailer", "upgrade", "proxy-authenticate", "set-cookie",
                        "strict-transport-security", "access-control-allow-origin", "transfer-encoding"}  # fmt: skip
    assert len([name for name, _ in sent]) == len(names) + 1  # nothing else twice
    leave(answer)


def test_a_page_of_the_service_cannot_run_as_ours(shop: Shop) -> None:
    answer = shop.call("headers")
    assert answer["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer.getvalue().startswith(b"<script>")


def test_a_header_with_a_credential_is_not_passed_back(shop: Shop) -> None:
    answer = shop.call("headers")
    assert "X-Echoed" not in dict(answer.items())
    assert TOKEN not in str(answer.items())
    leave(answer)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([("Content-Length", "3"), ("content-length", "3")], ["3"]),
        ([("Content-Length", "3"), ("Transfer-Encoding", "chunked")], []),
    ],
    ids=["twice", "with a coding"],
)
def test_one_length_or_none(given: list[tuple[str, str]], kept: list[str]) -> None:
    assert [value for _, value in proxy.passed_on(given, [])] == kept


def test_a_short_secret_takes_no_length_away() -> None:
    given = [("Content-Length", "12345678"), ("X-Count", "1234"), ("X-Key", "12345678"), ("Bad Name", "1")]
    assert list(proxy.passed_on(given, ["12345678", "1234"])) == given[:2]


# -- whose account ---------------------------------------------------------------------------------------------------
def test_a_users_token_needs_no_header_and_overrules_it(shop: Shop) -> None:
    connect(shop.integration, "u2", access_token="at-of-u2")
    jwt = Api(shop.cast.project, mint_user_token(shop.cast.project, "u2", 600)[0])
    answer = shop.call("hash", api=jwt, **{"X-End-User": "u1"})
    assert json.loads(answer.getvalue())["headers"]["authorization"] == "Bearer at-of-u2"


def test_a_connection_is_named_by_a_header(shop: Shop) -> None:
    second = connect(shop.integration, "u3", access_token="at-first")
    Connection.objects.filter(pk=second.pk).update(end_user=shop.connection.end_user, is_primary=False)
    headers = shop.seen("hash", **{"X-Connection-Id": second.pk})["headers"]
    assert headers["authorization"] == "Bearer at-first"
    foreign = connect(shop.integration, "u4")
    for other in (foreign.pk, "ca_none", "ca_\x01"):
        fails(shop.call("hash", **{"X-Connection-Id": other}), 400, "INTEGRATIONS_NOT_CONNECTED")


def test_a_call_for_nobody_uses_the_shared_connection(shop: Shop) -> None:
    answer = shop.api.get("integrations/proxy/lab/hash")
    fails(answer, 400, "INTEGRATIONS_NOT_CONNECTED")
    Connection.objects.filter(pk=shop.connection.pk).update(end_user=None)
    answer = shop.api.get("integrations/proxy/lab/hash")
    assert json.loads(answer.getvalue())["headers"]["authorization"] == f"Bearer {TOKEN}"


def test_refused_with_json_before_the_service_is_asked(shop: Shop) -> None:
    cast = shop.cast
    before = len(shop.peer.state()["seen"])
    fails(shop.call("hash", api=cast.with_key("connect")), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    fails(shop.call("hash", api=cast.with_key("execute", toolkits=["gmail"])), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    fails(shop.call("hash", api=cast.foreign), 404, "RESOURCE_NOT_FOUND")
    fails(shop.call("hash", api=Api(cast.project, "")), 401, "AUTH_REQUIRED")
    fails(shop.api.get("integrations/proxy/nothing/hash"), 404, "RESOURCE_NOT_FOUND")
    fails(shop.api.get("integrations/proxy/gmail/hash"), 400, "INTEGRATIONS_TOOLKIT_NOT_ENABLED")
    fails(shop.call("hash", **{"X-End-User": "nobody"}), 400, "INTEGRATIONS_NOT_CONNECTED")
    fails(shop.call("hash", "TRACE"), 405, "METHOD_NOT_ALLOWED")
    fails(shop.call("hash", "POST", b"x" * 100_000, **{"X-End-User": "nobody"}), 400, "INTEGRATIONS_NOT_CONNECTED")
    Connection.objects.filter(pk=shop.connection.pk).update(status=Connection.Status.EXPIRED)
    fails(shop.call("hash"), 401, "INTEGRATIONS_CONNECTION_EXPIRED")
    assert len(shop.peer.state()["seen"]) == before + 1


def test_other_methods_are_named(shop: Shop) -> None:
    answer = shop.call("hash", "TRACE")
    assert answer["Allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


def test_private_addresses_are_not_called(shop: Shop, settings: Settings) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = ""
    stream._idle_lines.clear()  # a connection that is open is not judged again
    fails(shop.call("hash"), 502, "INTEGRATIONS_EXECUTION_FAILED")


def test_the_plans_limits_count(shop: Shop) -> None:
    Plan.objects.update(calls_per_minute=2)
    assert [shop.call("hash").getvalue()[:1] for _ in range(2)] == [b"{", b"{"]
    fails(shop.call("hash"), 429, "QUOTA_RATE_LIMIT")


def test_calls_at_the_same_time_are_counted_to_the_end_of_the_answer(shop: Shop) -> None:
    Plan.objects.update(concurrent_calls=1)
    first = shop.call("bytes?n=5000000")
    assert shop.call("hash").status_code == 429
    leave(first)
    assert shop.seen("hash")["size"] == 0


# -- credentials that are refused ------------------------------------------------------------------------------------
@pytest.fixture
def token_endpoint(shop: Shop, upstream: Any) -> Any:
    upstream.reset()
    enable(shop.cast.project, "lab", shop.peer.url, overrides={"token_url": f"{upstream.url}/token/ok"})
    return upstream


@pytest.mark.parametrize("size", [0, 1000, 60_000])
def test_a_401_refreshes_once_and_sends_once_more(shop: Shop, token_endpoint: Any, size: int) -> None:
    data = b"".join(pattern(0, size))
    seen = shop.seen("bearer/access-1", "POST", data)
    assert (seen["size"], seen["sha256"]) == (size, hashlib.sha256(data).hexdigest())
    assert token_endpoint.count("/token/ok") == 1
    assert [row.tries for row in shop.log()] == [2]


def test_a_401_comes_through_where_the_body_is_gone(shop: Shop, token_endpoint: Any) -> None:
    answer = shop.call("bearer/access-1?late=1", "POST", b"x" * 20_000_000)
    assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")
    assert json.loads(answer.getvalue()) == {"error": "invalid_token"}
    assert token_endpoint.count("/token/ok") == 0


def test_a_401_after_the_refresh_comes_through(shop: Shop, token_endpoint: Any) -> None:
    answer = shop.call("bearer/never")
    assert (answer.status_code, json.loads(answer.getvalue())) == (401, {"error": "invalid_token"})
    assert token_endpoint.count("/token/ok") == 1


# -- the log ---------------------------------------------------------------------------------------------------------
def test_an_execution_is_logged_at_the_end(shop: Shop) -> None:
    answer = shop.call("hash/items?a=1&api_key=hidden&x=at-1-secret", "PUT", b"x" * 5000, **{"X-Request-Id": "req-9"})
    assert shop.log() == []
    answer.getvalue()
    leave(answer)
    (row,) = shop.log()
    assert (row.surface, row.toolkit, row.method, row.status, row.successful) == ("proxy", "lab", "PUT", 200, True)
    assert row.url == f"{shop.peer.url}/hash/items?a=1&api_key=********&x=********"
    assert (row.user_id, row.connection_id, row.request_id) == ("u1", shop.connection.pk, "req-9")
    assert row.response.startswith("(application/json, ")
    assert row.response.endswith("bytes; 5000 bytes sent)")


def test_an_error_of_the_service_is_a_failure_in_the_log(shop: Shop) -> None:
    shop.call("status/404").getvalue()
    (row,) = shop.log()
    assert (row.status, row.successful, row.error) == (404, False, "INTEGRATIONS_EXECUTION_FAILED")
    assert row.message == "Lab answered with status 404."


@pytest.mark.django_db(transaction=True)
def test_a_caller_who_leaves_is_logged_and_ends_the_transfer(shop: Shop) -> None:
    answer = shop.call("bytes?n=100000000")
    next(iter(answer))
    leave(answer)
    (row,) = shop.log()
    assert (row.successful, row.message) == (False, "The caller left before the end of the answer.")


def test_an_answer_that_breaks_off_is_logged(shop: Shop) -> None:
    assert shop.call("half").getvalue() == b"0123456789"
    (row,) = shop.log()
    assert (row.successful, row.message) == (False, "The provider could not be reached: its answer broke off.")


def test_what_is_refused_is_logged_once(shop: Shop) -> None:
    fails(shop.call("a/../b"), 400, "VALIDATION_INVALID_SCHEMA")
    assert [(row.error, row.status) for row in shop.log()] == [("VALIDATION_INVALID_SCHEMA", None)]


def test_a_body_that_breaks_off_is_not_completed(shop: Shop) -> None:
    """The service sees its connection end in the middle of the body."""
    left = shop.peer.state()["left"]
    whole = len(shop.peer.state()["whole"])
    answer = Client().generic(
        "PUT",
        f"/v1/{shop.cast.project.pk}/integrations/proxy/lab/hash",
        bytes(3_000_000),
        HTTP_AUTHORIZATION=f"Bearer {shop.cast.key}",
        HTTP_X_END_USER="u1",
        CONTENT_LENGTH="4000000",
    )
    assert answer.status_code == 400
    assert "broke off" in answer.getvalue().decode()
    deadline = time.monotonic() + 5
    while shop.peer.state()["left"] == left and time.monotonic() < deadline:
        time.sleep(0.05)
    assert shop.peer.state()["left"] == left + 1
    assert len(shop.peer.state()["whole"]) == whole


def test_a_call_with_a_fresh_token_costs_two_selects_and_no_write(shop: Shop, django_assert_num_queries: Any) -> None:
    Plan.objects.update(calls_per_minute=None, calls_per_day=None, concurrent_calls=None)
    shop.seen("hash")
    with django_assert_num_queries(2) as captured:
        answer = shop.call("hash", "PUT", b"x" * 100_000)
        answer.getvalue()
    assert all(query["sql"].startswith("SELECT") for query in captured.captured_queries)
