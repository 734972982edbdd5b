"""The proxy of the real product: large bodies in little memory, events at once, nobody held for ever, nobody else's account."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.acceptance.journey import code_of, connect_wayward, enable_wayward, new_user
from tests.peers.streaming import Streaming, pattern
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = pytest.mark.acceptance

MEGABYTE = 1024 * 1024
SIZE = 100 * MEGABYTE
MOST_GROWTH = 40 * MEGABYTE


class Proxy:
    """Calls of a connected user through a product to the streaming service."""

    def __init__(self, product: Product, peer: Streaming, user: str) -> None:
        self.product, self.peer, self.user = product, peer, user

    def url(self, path: str) -> str:
        return f"{self.product.url}/v1/{self.product.facts['project_id']}/integrations/proxy/wayward/{path}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.product.facts['api_key']}", "X-End-User": self.user}

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = self.headers | options.pop("headers", {})
        return requests.request(method, self.url(path), headers=headers, timeout=60, allow_redirects=False, **options)

    def raw(self, method: str, path: str, *lines: str) -> socket.socket:
        """A connection on which the head of a request has been sent, and no body."""
        connection = socket.create_connection(("127.0.0.1", self.product.port), timeout=60)
        target = self.url(path).removeprefix(self.product.url)
        heads = [
            f"{method} {target} HTTP/1.1",
            "Host: 127.0.0.1",
            *(f"{a}: {b}" for a, b in self.headers.items()),
            *lines,
        ]
        connection.sendall("\r\n".join([*heads, "", ""]).encode())
        return connection

    def executions(self) -> list[dict[str, Any]]:
        answer = self.product.call("GET", f"executions?surface=proxy&userId={self.user}")
        rows: list[dict[str, Any]] = answer.json()["executions"]
        return rows


@pytest.fixture(scope="module")
def peer() -> Iterator[Streaming]:
    with Streaming() as running:
        yield running


@pytest.fixture
def proxy(product: Product, upstream: Upstream, peer: Streaming) -> Proxy:
    enable_wayward(product, upstream)
    user = new_user()
    connect_wayward(product, user)
    enable_wayward(product, upstream, base_url=peer.url)
    return Proxy(product, peer, user)


def web_processes(product: Product) -> list[int]:
    return [pid for pid, command in product.processes().items() if "granian" in command]


def memory(pids: list[int], name: str) -> int:
    """Bytes; VmRSS now, VmHWM at most since `forget`."""
    lines = "".join(Path(f"/proc/{pid}/status").read_text() for pid in pids).splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@contextlib.contextmanager
def growth(product: Product) -> Iterator[Callable[[], int]]:
    """How many bytes the web processes grew at most, by the kernel's own high-water mark."""
    pids = web_processes(product)
    assert pids
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM starts anew (proc(5))
    before = memory(pids, "VmRSS")
    yield lambda: memory(pids, "VmHWM") - before


def digest_of(pieces: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


class File:
    """So many bytes of the pattern, of known length."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pieces = pattern(0, size)

    def __len__(self) -> int:
        return self.size

    def read(self, size: int) -> bytes:
        return next(self.pieces, b"")


def until(done: Callable[[], Any], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if done():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_download_needs_little_memory(proxy: Proxy, chunked: bool) -> None:
    proxy.call("GET", "bytes?n=1000000")  # what the first call needs is not what is measured
    with growth(proxy.product) as grown:
        answer = proxy.call("GET", f"bytes?n={SIZE}{'&chunked=1' if chunked else ''}", stream=True)
        assert digest_of(answer.iter_content(256 * 1024)) == digest_of(pattern(0, SIZE))
    assert answer.headers.get("Content-Length") == (None if chunked else str(SIZE))
    assert grown() < MOST_GROWTH


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_upload_needs_little_memory(proxy: Proxy, chunked: bool) -> None:
    proxy.call("PUT", "hash", data=bytes(1_000_000))
    with growth(proxy.product) as grown:
        answer = proxy.call("PUT", "hash", data=pattern(0, SIZE) if chunked else File(SIZE))
    seen = answer.json()
    assert (seen["size"], seen["sha256"]) == (SIZE, digest_of(pattern(0, SIZE)))
    assert ("content-length" in seen["headers"]) is not chunked
    assert grown() < MOST_GROWTH


def test_a_download_resumes_where_it_was(proxy: Proxy) -> None:
    answer = proxy.call("GET", f"bytes?n={SIZE}", headers={"Range": f"bytes={SIZE - 1000}-"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (206, f"bytes {SIZE - 1000}-{SIZE - 1}/{SIZE}")
    assert answer.content == b"".join(pattern(SIZE - 1000, SIZE))


def test_each_event_comes_before_the_next_is_sent(proxy: Proxy) -> None:
    answer = proxy.call("GET", "events?count=4&every=0.4", headers={"Accept": "text/event-stream"}, stream=True)
    assert answer.headers["Content-Type"] == "text/event-stream"
    lags = [time.time() - float(line[6:]) for line in answer.iter_lines(chunk_size=1) if line.startswith(b"data: ")]
    assert len(lags) == 4
    assert max(lags) < 0.3


def test_twenty_streams_of_events_keep_nobody_waiting(proxy: Proxy) -> None:
    with ThreadPoolExecutor(20) as pool:
        streams = [pool.submit(proxy.call, "GET", "events?count=4&every=0.7") for _ in range(20)]
        time.sleep(0.7)
        started = time.monotonic()
        assert proxy.call("GET", "hash").status_code == 200
        assert proxy.product.call("GET", "integrations/tools?toolkit=wayward").status_code == 200
        took = time.monotonic() - started
        assert not any(stream.done() for stream in streams)
        assert took < 1
        assert all(stream.result().text.count("data: ") == 4 for stream in streams)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_each_method_over_the_wire(proxy: Proxy, method: str) -> None:
    answer = proxy.call(method, "hash/a%20b?q=%2F&x", data=b"hello" if method != "GET" else None)
    seen = answer.json()
    assert (seen["method"], seen["path"], seen["query"]) == (method, "/hash/a%20b", "q=%2F&x")
    assert seen["size"] == (0 if method == "GET" else 5)


@pytest.mark.parametrize("path", ["status/204", "status/304"])
def test_answers_without_a_body_leave_the_connection_usable(proxy: Proxy, path: str) -> None:
    with requests.Session() as session:
        session.headers.update(proxy.headers)
        for _ in range(2):
            answer = session.get(proxy.url(path), timeout=10)
            assert (answer.content, answer.headers["ETag"]) == (b"", '"same"')
            head = session.head(proxy.url("bytes?n=777"), timeout=10)
            assert (head.content, head.headers["Content-Length"]) == (b"", "777")


def test_headers_over_the_wire(proxy: Proxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.product.port, timeout=10)
    connection.request("GET", proxy.url("headers").removeprefix(proxy.product.url), headers=proxy.headers)
    answer = connection.getresponse()
    assert [value[-10:] for value in answer.headers.get_all("Link") or []] == ['rel="next"', 'rel="last"']
    assert answer.headers.get_all("Server") == ["granian"]
    assert answer.headers["X-Name"].encode("latin-1").decode() == "Grüße"
    assert answer.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert {"Set-Cookie", "X-Hop", "X-Echoed"} & set(answer.headers) == set()
    assert [len(answer.headers.get_all(name) or []) for name in ("X-Request-Id", "Cache-Control", "ETag")] == [1, 1, 1]
    assert b"<script>" in answer.read()
    connection.close()


@pytest.mark.parametrize("path", ["a/%2e%2e/b", "%2e%2e%2fb", "..%5cb", "a/%252e%252e/b"])
def test_a_path_leads_nowhere_else(proxy: Proxy, path: str) -> None:
    connection = proxy.raw("GET", path)
    assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
    connection.close()


def test_an_early_refusal_reaches_a_caller_in_the_middle_of_the_upload(proxy: Proxy) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(60):
            yield bytes(64 * 1024)
            time.sleep(0.02)

    answer = proxy.call("PUT", "early?status=413", data=endless())
    assert (answer.status_code, answer.json()) == (413, {"error": "too large"})


def test_a_refusal_of_ours_reaches_a_caller_in_the_middle_of_the_upload(proxy: Proxy) -> None:
    answer = proxy.call("PUT", "hash", data=bytes(5_000_000), headers={"X-End-User": "nobody"})
    assert code_of(answer) == (400, "INTEGRATIONS_NOT_CONNECTED")


def test_a_caller_who_leaves_a_download_ends_it(proxy: Proxy) -> None:
    left = proxy.peer.state()["left"]
    answer = proxy.call("GET", "bytes?n=10000000000", stream=True)
    next(answer.iter_content(65536))
    answer.close()
    assert until(lambda: proxy.peer.state()["left"] == left + 1)
    assert until(lambda: proxy.executions())
    (row,) = proxy.executions()
    assert (row["successful"], row["message"]) == (False, "The caller left before the end of the answer.")


def test_a_caller_who_leaves_an_upload_completes_nothing(proxy: Proxy) -> None:
    whole = proxy.peer.state()["whole"]
    left = proxy.peer.state()["left"]
    connection = proxy.raw("PUT", "hash", "Content-Length: 10000000")
    connection.sendall(bytes(2_000_000))
    connection.close()
    assert until(lambda: proxy.peer.state()["left"] == left + 1)
    assert proxy.peer.state()["whole"] == whole


def test_an_answer_that_breaks_off_is_seen_to(proxy: Proxy) -> None:
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        _ = proxy.call("GET", "half").content


def test_the_execution_is_logged_with_its_bytes(proxy: Proxy) -> None:
    assert proxy.call("POST", "hash/items?token=hidden", data=bytes(100_000)).status_code == 200
    assert until(lambda: proxy.executions())
    (row,) = proxy.executions()
    assert (row["surface"], row["successful"], row["status"]) == ("proxy", True, 200)
    assert row["response"].endswith("bytes; 100000 bytes sent)")
    assert row["requestId"]
    assert "hidden" not in json.dumps(row)


def test_strangers_get_nothing(proxy: Proxy) -> None:
    bad = proxy.call("PUT", "hash", data=bytes(3_000_000), headers={"Authorization": "Bearer jf_sk_none"})
    assert code_of(bad) == (401, "AUTH_INVALID_API_KEY")
    other = proxy.url("hash").replace(proxy.product.facts["project_id"], "proj_other")
    assert code_of(requests.get(other, headers=proxy.headers, timeout=10)) == (404, "RESOURCE_NOT_FOUND")
    assert code_of(proxy.call("TRACE", "hash")) == (405, "METHOD_NOT_ALLOWED")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, peer: Streaming) -> Iterator[Proxy]:
    """A product that waits for 2 s where others wait for 60."""
    running = Product(
        tmp_path_factory.mktemp("impatient"), JACKFIELD_EGRESS_ALLOW="127.0.0.0/8", JACKFIELD_STREAM_IDLE_SECONDS="2"
    )
    try:
        running.start()
        enable_wayward(running, upstream)
        user = new_user()
        connect_wayward(running, user)
        enable_wayward(running, upstream, base_url=peer.url)
        yield Proxy(running, peer, user)
    finally:
        running.close()


def closed_after(connection: socket.socket) -> tuple[bytes, float]:
    """What came, and how long it took until the connection was closed."""
    started = time.monotonic()
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            found += piece
    connection.close()
    return found, time.monotonic() - started


@pytest.mark.parametrize("sent", [0, 1_000_000], ids=["nothing", "a part"])
@pytest.mark.parametrize("line", ["Content-Length: 5000000", "Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_an_upload_that_stalls_loses_its_connection(impatient: Proxy, line: str, sent: int) -> None:
    connection = impatient.raw("PUT", "hash", line)
    connection.sendall(bytes(sent) if "Length" in line or not sent else b"%x\r\n%b\r\n" % (sent, bytes(sent)))
    found, took = closed_after(connection)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"No byte of it came for 2 seconds." in found
    assert 1.5 < took < 8


def test_stalled_uploads_hold_no_thread(impatient: Proxy) -> None:
    """More than the server has threads."""
    stalled = [impatient.raw("PUT", "hash", "Content-Length: 5000000") for _ in range(80)]
    heads = [closed_after(connection)[0][:12] for connection in stalled]
    assert set(heads) <= {b"HTTP/1.1 400", b""}, heads  # a busy machine may close before its answer is out
    assert heads.count(b"HTTP/1.1 400") >= 64
    assert impatient.call("GET", "hash").status_code == 200
    pid = web_processes(impatient.product)[0]
    assert until(lambda: threads(pid, "upload") == 0)


def threads(pid: int, name: str) -> int:
    names = [(task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(one == name for one in names)


def test_a_stalled_upload_with_a_key_that_is_none_holds_nothing(impatient: Proxy) -> None:
    connection = impatient.raw("PUT", "hash", "Content-Length: 5000000", "X-End-User: x")
    connection.close()
    headers = {"Authorization": "Bearer jf_sk_none"}
    started = time.monotonic()
    assert impatient.call("PUT", "hash", data=bytes(100), headers=headers).status_code == 401
    assert time.monotonic() - started < 1


def test_a_reader_who_stalls_loses_the_connection(impatient: Proxy) -> None:
    left = impatient.peer.state()["left"]
    impatient.call("GET", "hash")  # the first call bounds what the server accepts from then on
    connection = impatient.raw("GET", "bytes?n=1000000000")
    assert until(lambda: impatient.peer.state()["left"] == left + 1, 30)
    found, _ = closed_after(connection)
    assert len(found) < 100 * MEGABYTE


def test_a_reader_who_is_slow_keeps_it(impatient: Proxy) -> None:
    """Longer than the time for which nothing may move."""
    connection = impatient.raw("GET", "bytes?n=20000000")
    started = time.monotonic()
    found = bytearray()
    while len(found) < 20_000_000 and (piece := connection.recv(200_000)):
        found += piece
        if time.monotonic() - started < 5:
            time.sleep(0.1)
    connection.close()
    assert time.monotonic() - started > 5
    assert found.endswith(b"".join(pattern(19_900_000, 20_000_000)))
