"""A service that fails as it is told, and keeps books of every request: plain Python, a process of its own.

Each request names itself (``id``) and how it is to be answered (``fault``), so that a caller knows what must come back:

``500``       status 500                                 ``429``   status 429 with Retry-After: 1
``reset``     the connection is reset, each time         ``once``  the connection is reset, the first time
``cut``       the body breaks off half way               ``slow``  two seconds late          ``hang``  six seconds late

ANY /do                 JSON of the id; ANY /take: how many bytes the body had, too
GET /blob?size=         so many bytes
POST /token             a strict token endpoint: refresh tokens rotate, a used one ends its grant, every twentieth request
                        is answered with 500
GET /_books             JSON: requests by id, effects by id (requests whose credential was good), refreshes, faults of ours

Tokens are ``at.GRANT.NUMBER`` and ``rt.GRANT.NUMBER``; the number 0 is good from the start.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request

if __name__ != "__main__":
    from tests.peers.process import DIRECT, PortFilePeer

    class Ledger(PortFilePeer):
        """``lifetime``: seconds that its access tokens live."""

        def __init__(self, lifetime: int = 5) -> None:
            super().__init__()
            self.lifetime = lifetime

        def command(self) -> list[str]:
            return [sys.executable, __file__, str(self.port_file), str(self.lifetime)]

        def books(self) -> dict[str, Any]:
            with DIRECT.open(Request(self.url + "/_books"), timeout=60) as answer:
                found: dict[str, Any] = json.load(answer)
                return found


SLOW, HANG = 2.0, 6.0  # seconds
GRACE = 5.0  # seconds beyond its lifetime for which a token is taken: what a busy machine may need for a call
TOKEN_FAULT_EVERY = 20
PIECE = bytes(range(256)) * 256


class Books:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.serial: dict[str, int] = {}  # by grant: the number of its newest tokens
        self.issued: dict[str, float] = {}  # by access token
        self.ended: set[str] = set()
        self.refused: deque[tuple[str, str, float | None, int]] = deque(maxlen=50)  # request, token, its age, newest
        self.lifetime = 5

    def note(self, name: str, token: str) -> tuple[int, bool]:
        """How often it was asked by now, and whether its token is good."""
        now = time.monotonic()
        with self.lock:
            self.requests[name] += 1
            issued = self.issued.setdefault(token, now) if token.endswith(".0") else self.issued.get(token)
            good = issued is not None and now - issued <= self.lifetime + GRACE
            if good:
                self.effects[name] += 1
            else:
                self.tokens["refused"] += 1
                age = None if issued is None else round(now - issued, 1)
                self.refused.append((name, token, age, self.serial.get(token.split(".")[1] if "." in token else "", 0)))
            return self.requests[name], good

    def refresh(self, token: str) -> tuple[int, dict[str, Any]]:
        _, grant, number = token.split(".")
        with self.lock:
            self.tokens["asked"] += 1
            if self.tokens["asked"] % TOKEN_FAULT_EVERY == 0:
                self.tokens["failed"] += 1
                return 500, {"error": "server_error"}
            if int(number) != self.serial.get(grant, 0) or grant in self.ended:
                self.tokens["reused"] += 1
                self.ended.add(grant)
                return 400, {"error": "invalid_grant"}
            serial = self.serial[grant] = int(number) + 1
            self.tokens["granted"] += 1
            if serial > 4:  # the oldest goes; its number 0 stays known
                self.issued.pop(f"at.{grant}.{serial - 4}", None)
            self.issued[f"at.{grant}.{serial}"] = time.monotonic()
        names = {"access_token": f"at.{grant}.{serial}", "refresh_token": f"rt.{grant}.{serial}"}
        return 200, names | {"token_type": "Bearer", "expires_in": self.lifetime}


BOOKS = Books()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.size = 0
        self.body = b""
        self.read_body(keep=parts.path == "/token")
        if parts.path == "/_books":
            with BOOKS.lock:
                found: dict[str, Any] = {name: dict(getattr(BOOKS, name)) for name in ("requests", "effects", "tokens")}
                found["refused"] = list(BOOKS.refused)
            return self.answer(200, found)
        if parts.path == "/token":
            form = parse_qs(self.body.decode())
            return self.answer(*BOOKS.refresh(form["refresh_token"][0]))
        return self.serve(parts.path)

    do_GET = do_POST = do_PUT = handle_request

    def serve(self, path: str) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        seen, good = BOOKS.note(self.query["id"], token)
        if not good:
            return self.answer(401, {"error": "invalid_token"})
        fault = self.query.get("fault", "")
        if fault == "500":
            return self.answer(500, {"error": "broken"})
        if fault == "429":
            return self.answer(429, {"error": "slow down"}, ("Retry-After", "1"))
        if fault == "reset" or (fault == "once" and seen == 1):
            return self.reset()
        if fault in {"slow", "hang"}:
            time.sleep(SLOW if fault == "slow" else HANG)
        if path == "/blob":
            return self.send_blob(int(self.query["size"]), cut=fault == "cut")
        return self.answer(200, {"id": self.query["id"], "size": self.size}, cut=fault == "cut")

    def answer(self, status: int, value: Any, *headers: tuple[str, str], cut: bool = False) -> None:
        data = json.dumps(value).encode()
        self.head(status, "application/json", len(data), *headers)
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut

    def send_blob(self, size: int, *, cut: bool) -> None:
        self.head(200, "application/octet-stream", size)
        left = size // 2 if cut else size
        while left > 0:
            self.wfile.write(PIECE[:left])
            left -= len(PIECE)
        self.close_connection = self.close_connection or cut

    def head(self, status: int, kind: str, length: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(length)), *headers):
            self.send_header(name, value)
        self.end_headers()

    def reset(self) -> None:
        """Closing a socket that lingers for no time sends RST in place of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def read_body(self, *, keep: bool) -> None:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                self.size += len(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0 and (data := self.rfile.read(min(left, 65536))):
            left -= len(data)
            self.size += len(data)
            self.body += data if keep else b""

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the books are the log."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, ValueError)):  # a reset socket is no file any more
            super().handle_error(request, client_address)


def main() -> None:
    port_file = Path(sys.argv[1])
    BOOKS.lifetime = int(sys.argv[2])
    with Server(("127.0.0.1", 0), Handler) as server:
        part = port_file.with_suffix(".part")
        part.write_text(str(server.server_address[1]))
        part.rename(port_file)
        server.serve_forever()


if __name__ == "__main__":
    main()
