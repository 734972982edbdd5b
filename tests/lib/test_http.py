"""The outbound client against servers that misbehave; what it must never do is send twice what is not safe to repeat."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest
import requests
from pytest_django import Settings

from apps.lib import http
from apps.lib.errors import AddressRefused, AnswerTooLarge, TimedOut, Unreachable
from apps.lib.http import Answer, Outgoing, send
from tests.peers.upstream import Upstream

RETRY = frozenset({429, 502, 503, 504})


@pytest.fixture(autouse=True)
def up(upstream: Upstream, settings: Settings) -> Upstream:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    upstream.reset()
    return upstream


class Breaking:
    """A server that keeps connections open, answers the first request of each and drops the connection at the next."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            with connection:
                for number in range(2):
                    asked = connection.recv(65536)
                    if not asked:
                        break
                    self.seen.append(asked.split()[0])
                    if number == 0:
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def breaking() -> Iterator[Breaking]:
    server = Breaking()
    yield server
    server.socket.close()


def test_a_post_that_breaks_on_a_kept_connection_is_not_sent_again(breaking: Breaking) -> None:
    """libcurl would, by itself: the provider may have done it already."""
    assert send(Outgoing("POST", breaking.url, body=b"first")).text == "ok"
    with pytest.raises(Unreachable, match="without an answer"):
        send(Outgoing("POST", breaking.url, body=b"second"))
    assert breaking.seen == [b"POST", b"POST"]


def test_a_safe_request_that_breaks_on_a_kept_connection_is_sent_again(breaking: Breaking) -> None:
    send(Outgoing("GET", breaking.url, safe=True))
    assert send(Outgoing("GET", breaking.url, safe=True)).status == 200
    assert len(breaking.seen) == 3


def test_a_connection_is_used_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def serve() -> None:
            connection = server.accept()[0]
            accepted.append(connection)
            for _ in range(3):
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert [send(Outgoing("POST", url, body=b"x")).status for _ in range(3)] == [200, 200, 200]
        assert len(accepted) == 1
        accepted[0].close()


def test_headers_and_body_arrive_as_given(up: Upstream) -> None:
    answer = send(Outgoing("PATCH", f"{up.url}/echo", {"X-Note": "Grüße", "X-Empty": ""}, body="ü".encode()))
    seen = http.json_of(answer)
    assert (seen["method"], seen["body"]) == ("PATCH", "ü")
    assert seen["headers"]["x-empty"] == ""
    assert "content-type" not in seen["headers"]
    assert "expect" not in seen["headers"]
    assert seen["headers"]["user-agent"].startswith("Jackfield/")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
def test_a_request_without_a_body_has_none(up: Upstream, method: str) -> None:
    seen = http.json_of(send(Outgoing(method, f"{up.url}/echo")))
    assert (seen["method"], seen["body_size"]) == (method, 0)


def test_a_head_has_no_body(up: Upstream) -> None:
    answer = send(Outgoing("HEAD", f"{up.url}/big"))
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "a\x7f"])
def test_a_header_with_control_characters_is_not_sent(up: Upstream, value: str) -> None:
    with pytest.raises(Unreachable, match="control characters"):
        send(Outgoing("GET", f"{up.url}/echo", {"Authorization": f"Bearer {value}"}))
    assert up.counts() == {}


@pytest.mark.parametrize(
    "url",
    [
        "", "/echo", "echo", "ftp://127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1/", "http://", "http:///x", "http://[",
        "http://[::1", "http://127.0.0.1:99999/", "http://127.0.0.1:x/", "http://127.0.0.1:0/", "http://user:pw@127.0.0.1/",
        "http://user@127.0.0.1/", "http://127.0.0.1\\@a.example/", "http://127.0.0.1/a b", "http://127.0.0.1/\r\nX: 1",
        "http://127.0.0.1/\x00", "http://\ud800/", "http://127.0.0.%31/", "http://[fe80::1%25eth0]/",
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        send(Outgoing("GET", url))


def test_the_environments_proxy_is_not_asked(up: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert send(Outgoing("GET", f"{up.url}/echo")).status == 200


def test_an_address_is_refused_on_a_kept_connection_of_another_thread_too(up: Upstream, settings: Settings) -> None:
    send(Outgoing("GET", f"{up.url}/echo"))
    settings.JACKFIELD_EGRESS_ALLOW = ""
    refused: list[BaseException] = []

    def call() -> None:
        try:
            send(Outgoing("GET", f"{up.url}/echo"))
        except AddressRefused as error:
            refused.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert len(refused) == 1


@pytest.mark.parametrize(("safe", "tries"), [(True, 3), (False, 1)])
@pytest.mark.parametrize("path", ["status/503", "reset"])
def test_only_what_is_safe_is_tried_again(up: Upstream, path: str, safe: bool, tries: int) -> None:
    outgoing = Outgoing("POST", f"{up.url}/{path}", body=b"x", safe=safe, retry_statuses=RETRY)
    if path == "reset":
        with pytest.raises(Unreachable):
            send(outgoing)
    else:
        assert send(outgoing).tries == tries
    assert up.count(f"/{path}") == tries


def test_what_never_left_the_house_is_tried_again_whatever_it_is() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        started = time.monotonic()
        with pytest.raises(Unreachable, match="accepts no connection"):
            send(Outgoing("POST", f"http://127.0.0.1:{closed.getsockname()[1]}/", body=b"x"))
    assert time.monotonic() - started > 0.25  # two pauses lie between three tries


def test_a_retry_after_of_two_seconds_is_waited_for_and_a_longer_one_is_not(up: Upstream) -> None:
    started = time.monotonic()
    assert send(Outgoing("GET", f"{up.url}/status/429?retry-after=3", safe=True, retry_statuses=RETRY)).tries == 1
    assert time.monotonic() - started < 1
    answer = send(Outgoing("GET", f"{up.url}/rate-limited-once/http", safe=True, retry_statuses=RETRY))
    assert (answer.status, answer.tries) == (200, 2)


def test_no_try_begins_that_could_not_end_in_time(up: Upstream) -> None:
    started = time.monotonic()
    url = f"{up.url}/status/429?retry-after=1"
    answer = send(Outgoing("GET", url, safe=True, retry_statuses=RETRY, timeout=0.8))
    assert (answer.status, answer.tries) == (429, 1)
    assert time.monotonic() - started < 0.8


@pytest.mark.parametrize("path", ["hang", "slow?seconds=5"])
def test_everything_ends_within_the_time(up: Upstream, path: str) -> None:
    started = time.monotonic()
    with pytest.raises(TimedOut):
        send(Outgoing("GET", f"{up.url}/{path}", safe=True, timeout=0.5))
    assert time.monotonic() - started < 1
    assert sum(up.counts().values()) == 1


@pytest.mark.parametrize("path", ["big", "bomb?megabytes=200"])
def test_too_much_is_cut_off(up: Upstream, path: str) -> None:
    with pytest.raises(AnswerTooLarge):
        send(Outgoing("GET", f"{up.url}/{path}"))


def test_what_just_fits_is_taken(up: Upstream) -> None:
    assert len(send(Outgoing("GET", f"{up.url}/big?bytes=5000", max_bytes=5000)).body) == 5000
    with pytest.raises(AnswerTooLarge):
        send(Outgoing("GET", f"{up.url}/big?bytes=5001", max_bytes=5000))


@pytest.mark.parametrize(
    ("method", "status", "where", "followed"),
    [
        ("GET", 302, "/echo", True),
        ("HEAD", 301, "/echo", True),
        ("POST", 302, "/echo", False),
        ("POST", 303, "/echo", False),
        ("POST", 307, "/echo", True),
        ("POST", 308, "http://localhost:{port}/echo", False),
        ("POST", 303, "app://done", False),
        ("POST", 307, "http://user:word@localhost:{port}/echo", False),
        ("GET", 300, "/echo", False),
    ],
)
def test_redirects_are_followed_where_nothing_is_given_away(
    up: Upstream, method: str, status: int, where: str, followed: bool
) -> None:
    target = where.format(port=up.port)
    answer = send(
        Outgoing(method, f"{up.url}/redirect?status={status}&to={target}", body=b"x" if method == "POST" else None)
    )
    assert answer.status == (200 if followed else status)
    assert up.count("/echo") == int(followed)


def test_a_credential_in_the_url_follows_no_redirect(up: Upstream) -> None:
    answer = send(Outgoing("GET", f"{up.url}/redirect?to=/echo&key=secret", secret_in_url=True))
    assert answer.status == 302
    assert up.count("/echo") == 0


def test_named_headers_stay_behind_at_another_origin(up: Upstream) -> None:
    headers = {"X-Api-Key": "k", "Authorization": "a", "Cookie": "c", "X-Other": "o"}
    sensitive = frozenset({"x-api-key", "authorization", "cookie"})
    url = f"{up.url}/redirect?to=http://localhost:{up.port}/echo"
    seen = http.json_of(send(Outgoing("GET", url, headers, sensitive=sensitive)))["headers"]
    assert seen["x-other"] == "o"
    assert not {"x-api-key", "authorization", "cookie"} & set(seen)


def test_a_location_with_blanks_and_umlauts_is_followed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = []

        def serve() -> None:
            for answer in (
                b"HTTP/1.1 302 Found\r\nLocation: /a b/\xc3\xbc?q=1#part\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            ):
                with server.accept()[0] as connection:
                    asked.append(connection.recv(65536).split(b" ")[1])
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert send(Outgoing("GET", f"http://127.0.0.1:{server.getsockname()[1]}/")).status == 200
        thread.join(5)
    assert asked == [b"/", b"/a%20b/%C3%BC?q=1"]


def test_an_answer_that_is_not_http_is_no_fault_of_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example ready\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.raises(Unreachable) as caught:
            send(Outgoing("POST", f"http://127.0.0.1:{server.getsockname()[1]}/", body=b"x"))
        thread.join(5)
    assert not isinstance(caught.value, AddressRefused)  # after which the same Idempotency-Key would send once more


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5),
        (" 7 ", 7),
        ("1.9", 1),
        ("-3", 0),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("9" * 30, 10**9),
    ],
)
def test_a_retry_after_in_seconds(value: str, seconds: int | None) -> None:
    assert http.seconds_of(value) == seconds


def test_a_retry_after_as_a_date() -> None:
    assert http.seconds_of(formatdate(time.time() + 60, usegmt=True)) in range(58, 63)
    assert http.seconds_of(formatdate(time.time() - 60, usegmt=True)) == 0


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain; charset=iso-8859-1", b"\xfc", "ü"),
        ('text/plain; charset="utf-8"', "ü".encode(), "ü"),
        ("text/plain", "ü".encode(), "ü"),
        ("text/plain; charset=no-such", "ü".encode(), "ü"),
        ("text/plain; charset=idna", b"\xc3\xbc\xff", "ü\ufffd"),
        ("text/plain", b"\xff", "\ufffd"),
    ],
)
def test_text_is_decoded_by_its_charset(content_type: str, body: bytes, text: str) -> None:
    assert Answer(200, [("Content-Type", content_type)], body, "").text == text


def test_nesting_without_end_is_no_json() -> None:
    with pytest.raises(ValueError):
        http.json_of(Answer(200, [], b"[" * 200_000, ""))


@pytest.mark.parametrize("method", [requests.Session.get, requests.Session.post])
def test_requests_speaks_through_it(up: Upstream, method: Callable[..., requests.Response]) -> None:
    session = http.mount(requests.Session())
    seen = method(session, f"{up.url}/echo", params={"a": "b"}).json()
    assert seen["query"] == {"a": ["b"]}
    assert method(session, f"{up.url}/redirect").status_code == 302
    with pytest.raises(AddressRefused):
        method(session, "http://10.0.0.1/")
