"""The streaming client: bytes as they come, in constant memory, ended where nobody moves; nothing sent twice."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from apps.lib import stream
from apps.lib.errors import AddressRefused, RateLimited, TimedOut, Unreachable
from apps.lib.stream import MOST_BUFFERED, REPEATABLE, StreamOutgoing, Upload, UploadFailed, open_stream
from tests.lib.test_http import Breaking
from tests.peers.streaming import Streaming, pattern

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def peer() -> Iterator[Streaming]:
    with Streaming() as running:
        yield running


@pytest.fixture(autouse=True)
def loopback(settings: Settings) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"


class Source:
    """A caller's body: pieces, then the end; what is a number is waited for, what is an error is raised."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.rest = b""
        self.given = 0

    def read(self, size: int) -> bytes:
        while not self.rest:
            if not self.steps:
                return b""
            step = self.steps.pop(0)
            if isinstance(step, bytes):
                self.rest = step
            elif isinstance(step, (int, float)):
                time.sleep(step)
            elif isinstance(step, Exception):
                raise step
            else:
                step.wait(20)
        piece, self.rest = self.rest[:size], self.rest[size:]
        self.given += len(piece)
        return piece


class Endless:
    """Bytes without end, counted."""

    def __init__(self) -> None:
        self.given = 0

    def read(self, size: int) -> bytes:
        self.given += size
        return bytes(size)


def ask(peer: Streaming, path: str, method: str = "GET", body: Any = None, **options: Any) -> stream.Stream:
    return open_stream(StreamOutgoing(method, f"{peer.url}/{path}", body=body, **options))


def whole(found: stream.Stream) -> bytes:
    return b"".join(found.chunks())


def sent(found: stream.Stream) -> Any:
    return json.loads(whole(found))


# -- answers ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["bytes?n=3000000", "bytes?n=3000000&chunked=1"])
def test_an_answer_arrives_byte_for_byte(peer: Streaming, path: str) -> None:
    assert whole(ask(peer, path)) == b"".join(pattern(0, 3_000_000))


def test_status_and_headers_are_there_before_the_body(peer: Streaming) -> None:
    started = time.monotonic()
    found = ask(peer, "drip?count=3&every=0.3")
    assert (found.status, time.monotonic() - started < 0.25) == (200, True)
    assert ("Content-Length", "3") in found.headers
    assert whole(found) == b"..."


def test_repeated_headers_stay_repeated(peer: Streaming) -> None:
    found = ask(peer, "headers")
    assert [value[-10:] for name, value in found.headers if name == "Link"] == ['rel="next"', 'rel="last"']
    found.close()


def test_each_event_is_passed_on_as_it_comes(peer: Streaming) -> None:
    lags = [time.time() - float(piece.split(b"data: ")[1]) for piece in ask(peer, "events?count=4&every=0.2").chunks()]
    assert len(lags) == 4
    assert max(lags) < 0.15


def test_nothing_is_decoded_and_no_redirect_followed(peer: Streaming) -> None:
    found = ask(peer, "status/307", headers={"Accept-Encoding": "br"})
    assert (found.status, dict(found.headers)["Location"]) == (307, "https://elsewhere.example/file?sig=1")
    found.close()
    assert sent(ask(peer, "hash", headers={"Accept-Encoding": "br"}))["headers"]["accept-encoding"] == "br"
    assert "accept-encoding" not in sent(ask(peer, "hash"))["headers"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_each_method_without_a_body(peer: Streaming, method: str) -> None:
    body = whole(ask(peer, "hash", method))
    if method == "HEAD":
        assert body == b""
        return
    seen = json.loads(body)
    assert (seen["method"], seen["size"]) == (method, 0)
    assert "content-type" not in seen["headers"]
    assert seen["headers"].get("content-length") == ("0" if method in {"POST", "PUT", "PATCH"} else None)


@pytest.mark.parametrize("code", [204, 304])
def test_an_answer_without_a_body_ends_at_once(peer: Streaming, code: int) -> None:
    found = ask(peer, f"status/{code}")
    assert (found.status, whole(found)) == (code, b"")


def test_what_nobody_takes_is_not_read(peer: Streaming) -> None:
    tracemalloc.start()
    found = ask(peer, "bytes?n=1000000000")
    chunks = found.chunks()
    taken = len(next(chunks))
    time.sleep(0.3)
    taken += len(next(chunks))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.received - taken <= MOST_BUFFERED + MEGABYTE
    assert peak < 4 * MEGABYTE
    found.close()


def test_a_large_answer_needs_no_more_memory_than_a_small_one(peer: Streaming) -> None:
    tracemalloc.start()
    size = sum(map(len, ask(peer, "bytes?n=200000000").chunks()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (size, peak < 4 * MEGABYTE) == (200_000_000, True)


def test_leaving_ends_the_transfer(peer: Streaming) -> None:
    left = peer.state()["left"]
    chunks = ask(peer, "bytes?n=1000000000").chunks()
    next(chunks)
    chunks.close()  # type: ignore[attr-defined] # a generator
    deadline = time.monotonic() + 5
    while peer.state()["left"] == left and time.monotonic() < deadline:
        time.sleep(0.05)
    assert peer.state()["left"] == left + 1


@pytest.mark.parametrize("path", ["half", "half?chunked=1"])
def test_an_answer_that_breaks_off_is_no_whole_one(peer: Streaming, path: str) -> None:
    chunks = ask(peer, path).chunks()
    assert next(chunks) == b"0123456789"
    with pytest.raises(Unreachable):
        next(chunks)


# -- request bodies --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 1000, REPEATABLE, 5_000_000])
@pytest.mark.parametrize("known", [True, False], ids=["length", "chunked"])
def test_a_body_arrives_byte_for_byte(peer: Streaming, size: int, known: bool) -> None:
    data = b"".join(pattern(0, size))
    seen = sent(ask(peer, "hash", "PUT", Upload(io.BytesIO(data), size if known else None)))
    assert (seen["size"], seen["sha256"]) == (size, hashlib.sha256(data).hexdigest())
    assert seen["headers"].get("content-length") == (str(size) if known else None)
    assert "expect" not in seen["headers"]


def test_a_body_of_bytes_is_sent_too(peer: Streaming) -> None:
    seen = sent(ask(peer, "hash", "POST", b"a=b", headers={"Content-Type": "application/x-www-form-urlencoded"}))
    assert (seen["size"], seen["headers"]["content-length"]) == (3, "3")


def test_both_directions_flow_at_once(peer: Streaming) -> None:
    more = threading.Event()
    upload = Upload(Source(b"x" * stream.PIECE, more, b"y" * stream.PIECE), 2 * stream.PIECE)
    chunks = ask(peer, "duplex", "POST", upload).chunks()
    assert next(chunks)  # answered to the first half, before the second is there
    more.set()
    total = sum(int(number) for piece in chunks for number in piece.split())
    assert total <= 2 * stream.PIECE
    assert upload.received == 2 * stream.PIECE


def test_a_provider_that_does_not_read_stops_the_reading_of_the_body(peer: Streaming) -> None:
    source = Endless()
    started = time.monotonic()
    with pytest.raises(TimedOut):
        ask(peer, "swallow", "PUT", Upload(source, 10**10), idle=0.8)
    assert time.monotonic() - started < 5
    assert source.given < 32 * MEGABYTE  # the kernel's buffers, and ours


@pytest.mark.parametrize("status", [401, 413, 507])
def test_an_early_refusal_comes_through_while_the_body_is_still_on_its_way(peer: Streaming, status: int) -> None:
    upload = Upload(Endless(), 10**9)
    found = ask(peer, f"early?status={status}", "PUT", upload)
    assert found.status == status
    assert whole(found) == b'{"error": "too large"}'
    assert upload.received < 100 * MEGABYTE


def test_a_body_that_breaks_off_is_not_completed(peer: Streaming) -> None:
    with pytest.raises(UploadFailed, match="missing or wrong"):
        ask(peer, "hash", "PUT", Upload(Source(b"abc"), 10))
    with pytest.raises(UploadFailed):
        ask(peer, "hash", "PUT", Upload(Source(b"abc", OSError("gone")), None))


def test_a_body_that_stalls_ends(peer: Streaming) -> None:
    still = threading.Event()
    started = time.monotonic()
    with pytest.raises(UploadFailed) as failed:
        ask(peer, "hash", "PUT", Upload(Source(b"abc" * 10000, still), 100_000, patience=0.5))
    assert 0.4 < time.monotonic() - started < 3
    assert "No byte" in failed.value.details["body"][0]
    still.set()


def test_a_slow_body_that_flows_does_not_end(peer: Streaming) -> None:
    steps = [step for _ in range(5) for step in (0.3, b"x" * stream.PIECE)]
    assert (
        sent(ask(peer, "hash", "PUT", Upload(Source(*steps), 5 * stream.PIECE, patience=1), idle=1))["size"]
        == 5 * stream.PIECE
    )


@pytest.mark.parametrize("path", ["swallow", "quiet"])
def test_a_provider_that_stalls_ends(peer: Streaming, path: str) -> None:
    started = time.monotonic()
    with pytest.raises(TimedOut):
        whole(ask(peer, path, idle=0.5))
    assert 0.4 < time.monotonic() - started < 3


def test_a_slow_answer_that_flows_does_not_end(peer: Streaming) -> None:
    assert len(whole(ask(peer, "drip?count=5&every=0.4", idle=0.8))) == 5


def test_the_time_that_the_reader_takes_is_not_the_providers(peer: Streaming) -> None:
    chunks = ask(peer, "drip?count=3&every=0.2", idle=0.6).chunks()
    next(chunks)
    time.sleep(1)
    assert b"".join(chunks) == b".."


@pytest.mark.parametrize(("size", "can"), [(100, True), (REPEATABLE, True), (10 * REPEATABLE, False)])
def test_a_small_body_can_be_sent_once_more(peer: Streaming, size: int, can: bool) -> None:
    data = b"".join(pattern(0, size))
    upload = Upload(io.BytesIO(data), size)
    assert sent(ask(peer, "hash", "PUT", upload))["size"] == size
    assert (upload.can_rewind, upload.rewind()) == (can, can)
    if can:
        assert sent(ask(peer, "hash", "PUT", upload))["sha256"] == hashlib.sha256(data).hexdigest()


def test_no_more_uploads_are_read_than_there_are_places(peer: Streaming, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_places", threading.BoundedSemaphore(1))
    still = threading.Event()
    first = Upload(Source(still, b"x"), 1)
    first.start()
    with pytest.raises(RateLimited):
        ask(peer, "hash", "PUT", Upload(io.BytesIO(b"x"), 1))
    still.set()
    assert sent(ask(peer, "hash", "PUT", first))["size"] == 1


def test_draining_is_bounded_in_bytes_and_in_time() -> None:
    source = Endless()
    upload = Upload(source, None)
    upload.drain(most=MEGABYTE)
    upload.close()
    assert source.given <= 2 * MEGABYTE
    still = threading.Event()
    started = time.monotonic()
    Upload(Source(b"x", still), 100).drain(seconds=0.3)
    assert time.monotonic() - started < 1
    still.set()


def test_a_whole_body_has_a_limit() -> None:
    assert Upload(io.BytesIO(b"x" * 100), 100).whole(100, 1) == b"x" * 100
    with pytest.raises(UploadFailed):
        Upload(io.BytesIO(b"x" * 101), 101).whole(100, 1)


# -- what holds for every outbound request ---------------------------------------------------------------------------
def test_connections_are_used_again_also_from_another_thread() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def serve() -> None:
            connection = server.accept()[0]
            accepted.append(connection)
            for _ in range(3):
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        threading.Thread(target=serve, daemon=True).start()
        outgoing = StreamOutgoing("GET", f"http://127.0.0.1:{server.getsockname()[1]}/")
        assert whole(open_stream(outgoing)) == b"ok"
        found: list[bytes] = []
        other = threading.Thread(target=lambda: found.append(whole(open_stream(outgoing))))
        other.start()
        other.join(5)
        assert whole(open_stream(outgoing)) == b"ok"
        assert (found, len(accepted)) == ([b"ok"], 1)
        accepted[0].close()


def test_two_streams_of_one_thread_do_not_mix(peer: Streaming) -> None:
    first, second = ask(peer, "drip?count=3&every=0.1").chunks(), ask(peer, "bytes?n=100000").chunks()
    assert next(first) == b"."
    assert b"".join(second) == b"".join(pattern(0, 100_000))
    assert b"".join(first) == b".."


@pytest.mark.parametrize(("method", "body", "tries"), [("GET", None, 3), ("POST", b"x", 2), ("DELETE", None, 2)])
def test_only_what_is_safe_is_sent_again_on_a_broken_connection(method: str, body: bytes | None, tries: int) -> None:
    server = Breaking()
    outgoing = StreamOutgoing(method, server.url, body=body)
    assert whole(open_stream(outgoing)) == b"ok"
    if tries == 3:
        assert whole(open_stream(outgoing)) == b"ok"
    else:
        with pytest.raises(Unreachable, match="without an answer"):
            open_stream(outgoing)
    assert len(server.seen) == tries
    server.socket.close()


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://169.254.169.254/", "http://[::1]/", "http://localhost:1/"])
def test_private_addresses_are_refused(settings: Settings, url: str) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = ""
    with pytest.raises(AddressRefused):
        open_stream(StreamOutgoing("GET", url))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://a b/", "http://u:p@127.0.0.1/", "http://\ud800/"])
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        open_stream(StreamOutgoing("GET", url))


def test_headers_with_control_characters_are_not_sent(peer: Streaming) -> None:
    with pytest.raises(Unreachable, match="control characters"):
        ask(peer, "hash", headers={"X-A": "1\r\nX-B: 2"})


def test_nobody_listening_is_unreachable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="accepts no connection"):
            open_stream(StreamOutgoing("GET", f"http://127.0.0.1:{closed.getsockname()[1]}/"))


def test_the_path_is_sent_as_it_is(peer: Streaming) -> None:
    assert sent(ask(peer, "hash/a%2Fb/%7e/../x?q=%20+"))["path"] == "/hash/a%2Fb/%7e/../x"


def test_a_failed_stream_gives_its_line_back_clean(peer: Streaming) -> None:
    for _ in range(3):
        with pytest.raises(TimedOut):
            ask(peer, "swallow", idle=0.1)
        assert whole(ask(peer, "bytes?n=10")) == b"".join(pattern(0, 10))


def test_a_reader_who_stalls_is_cut_off_by_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream.bound_stalled_readers(server.getsockname()[1], 1.0)
        with socket.create_connection(server.getsockname()), server.accept()[0] as ours:
            started = time.monotonic()

            def fill() -> None:
                while time.monotonic() - started < 20:
                    ours.sendall(bytes(MEGABYTE))

            with pytest.raises(OSError):
                fill()
            assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://a", "/"),
        ("http://a?b=/c", "/?b=/c"),
        ("https://a:1/x/%7e//y?q=/#z", "/x/%7e//y?q=/"),
        ("http://a/", "/"),
    ],
)
def test_the_target_of_a_url(url: str, target: str) -> None:
    assert stream._target(url) == target


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", id="101"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="only 100"),
        pytest.param(b"", id="no head"),
        pytest.param(b"HTTP/1.1 099 Odd\r\nContent-Length: 5\r\n\r\n", id="099"),
    ],
)
def test_bytes_that_are_no_answer_end_the_stream_and_turn_no_wheels(head: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection = server.accept()[0]
            with connection:
                connection.recv(65536)
                connection.sendall(head + b"bytes of no answer")
                time.sleep(0.3)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        spent = time.thread_time()
        with pytest.raises(Unreachable):
            open_stream(StreamOutgoing("GET", f"http://127.0.0.1:{server.getsockname()[1]}/", idle=2.0))
        assert time.thread_time() - spent < 0.5
        thread.join(5)
