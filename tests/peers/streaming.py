"""A service that streams, and one that breaks off: plain Python, a process of its own.

/bytes?n=&chunked=1     n bytes of a known pattern; a Range is answered with 206; HEAD says its length
/hash                   reads the body as it comes; JSON of its size, sha256, method, path, query and headers
/events?count=&every=   server-sent events, each with the time at which it was sent
/duplex                 answers each piece of the body with its size, at once
/early?status=413       answers without reading the body, and closes
/swallow                reads nothing and answers nothing
/drip?every=&count=     one byte at a time
/half?chunked=1         breaks off in the middle of its body
/quiet                  a head, a byte, and then nothing more
/headers                many headers, good and bad, an HTML page that greets with a script
/status/CODE            that status; 3xx with a Location
/bearer/TOKEN           /hash to that bearer token only, else 401 without reading the body (?late=1: having read it)
/_state                 JSON: how many streams the client left in the middle, what was asked, which bodies came whole
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request

if __name__ != "__main__":
    from tests.peers.process import DIRECT, PortFilePeer

    class Streaming(PortFilePeer):
        def command(self) -> list[str]:
            return [sys.executable, __file__, str(self.port_file)]

        def state(self) -> dict[str, Any]:
            with DIRECT.open(Request(self.url + "/_state"), timeout=10) as answer:
                found: dict[str, Any] = json.load(answer)
                return found


PATTERN = bytes(range(256)) * 256  # 64 KiB
STATE: dict[str, Any] = {"left": 0, "seen": [], "whole": []}


def pattern(start: int, end: int) -> Iterator[bytes]:
    """Bytes ``start`` to ``end`` (excluded) of the pattern without end."""
    while start < end:
        offset = start % len(PATTERN)
        piece = PATTERN[offset : offset + end - start]
        yield piece
        start += len(piece)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.words = parts.path.strip("/").split("/")
        STATE["seen"].append(f"{self.command} {self.path}")
        name = self.words[0].lstrip("_")
        try:
            getattr(self, f"on_{name}", self.on_hash)()
        except ConnectionError:
            STATE["left"] += 1
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = handle_request

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def number(self, name: str, default: float) -> float:
        return float(self.query.get(name, default))

    def head(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0 and (data := self.rfile.read1(min(left, 65536))):
            left -= len(data)
            yield data
        if left:
            raise ConnectionError

    def answer(self, status: int, value: Any, *headers: tuple[str, str]) -> None:
        data = json.dumps(value).encode()
        self.head(status, ("Content-Type", "application/json"), ("Content-Length", str(len(data))), *headers)
        if self.command != "HEAD":
            self.wfile.write(data)

    def on_state(self) -> None:
        self.answer(200, STATE)

    def on_bytes(self) -> None:
        size = int(self.number("n", 1000))
        start, end, status = 0, size, 200
        extra = [("Accept-Ranges", "bytes"), ("ETag", '"pattern"')]
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, status = int(first), int(last or size - 1) + 1, 206
            extra.append(("Content-Range", f"bytes {start}-{end - 1}/{size}"))
        chunked = "chunked" in self.query
        length = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(end - start))
        self.head(status, ("Content-Type", "application/octet-stream"), length, *extra)
        if self.command == "HEAD":
            return
        for data in pattern(start, end):
            self.piece(data) if chunked else self.wfile.write(data)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def on_hash(self) -> None:
        digest, size = hashlib.sha256(), 0
        for data in self.body():
            digest.update(data)
            size += len(data)
        STATE["whole"].append(size)
        headers = {name.lower(): value for name, value in self.headers.items()}
        parts = urlsplit(self.path)
        seen = {"method": self.command, "path": parts.path, "query": parts.query, "headers": headers}
        self.answer(200, {"size": size, "sha256": digest.hexdigest(), **seen})

    def on_events(self) -> None:
        self.head(200, ("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"))
        for number in range(int(self.number("count", 3))):
            if number:
                time.sleep(self.number("every", 0.3))
            self.piece(f"id: {number}\ndata: {time.time()}\n\n".encode())
        self.wfile.write(b"0\r\n\r\n")

    def on_duplex(self) -> None:
        self.head(200, ("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked"))
        for data in self.body():
            self.piece(b"%d\n" % len(data))
        self.wfile.write(b"0\r\n\r\n")

    def on_early(self) -> None:
        self.close_connection = True
        self.answer(int(self.number("status", 413)), {"error": "too large"}, ("Connection", "close"))
        self.linger()

    def linger(self) -> None:
        """Closes as servers do that want their answer read: a reset for bytes unread would overtake it."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1)
        with contextlib.suppress(OSError):
            while self.connection.recv(1 << 20):
                pass

    def on_swallow(self) -> None:
        time.sleep(self.number("seconds", 600))
        self.close_connection = True

    def on_drip(self) -> None:
        count = int(self.number("count", 5))
        self.head(200, ("Content-Type", "text/plain"), ("Content-Length", str(count)))
        for _ in range(count):
            time.sleep(self.number("every", 0.2))
            self.wfile.write(b".")

    def on_half(self) -> None:
        chunked = "chunked" in self.query
        self.head(200, ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "1000"))
        self.piece(b"0123456789") if chunked else self.wfile.write(b"0123456789")
        self.close_connection = True

    def on_quiet(self) -> None:
        self.head(200, ("Content-Length", "1000"))
        self.wfile.write(b"0")
        time.sleep(self.number("seconds", 600))
        self.close_connection = True

    def on_headers(self) -> None:
        page = b"<script>document.title = 'ran'</script>"
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.head(
            200,
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(page))),
            ("Connection", "keep-alive, X-Hop"),
            ("Keep-Alive", "timeout=5"),
            ("X-Hop", "1"),
            ("Trailer", "X-Sum"),
            ("Upgrade", "websocket"),
            ("Proxy-Authenticate", "Basic"),
            ("Set-Cookie", "session=theirs"),
            ("X-Echoed", f"you are {token}"),
            ("X-RateLimit-Remaining", "41"),
            ("Link", '<https://api.example/items?page=2>; rel="next"'),
            ("Link", '<https://api.example/items?page=9>; rel="last"'),
            ("ETag", 'W/"abc"'),
            ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("Cache-Control", "private, max-age=60"),
            ("Content-Security-Policy", "script-src 'unsafe-inline'"),
            ("Strict-Transport-Security", "max-age=1"),
            ("Access-Control-Allow-Origin", "*"),
            ("Content-Encoding", "identity"),
            ("X-Request-Id", "theirs-1"),
            ("X-Name", "Gr\xc3\xbc\xc3\x9fe"),  # UTF-8, as http.server writes Latin-1
        )
        self.wfile.write(page)

    def on_status(self) -> None:
        code = int(self.words[1])
        extra = [("Location", "https://elsewhere.example/file?sig=1")] if 300 <= code < 400 else []
        if code in {204, 304}:
            self.head(code, ("ETag", '"same"'))
        else:
            self.answer(code, {"status": code}, *extra, ("Retry-After", "7"))

    def on_bearer(self) -> None:
        if self.headers.get("Authorization") == f"Bearer {self.words[1]}":
            return self.on_hash()
        if "late" in self.query:
            for _ in self.body():
                pass
        self.answer(401, {"error": "invalid_token"}, ("WWW-Authenticate", "Bearer"), ("Connection", "close"))
        self.close_connection = True
        return self.linger()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    port_file = Path(sys.argv[1])
    with Server(("127.0.0.1", 0), Handler) as server:
        part = port_file.with_suffix(".part")
        part.write_text(str(server.server_address[1]))
        part.rename(port_file)
        server.serve_forever()


if __name__ == "__main__":
    main()
