"""The upstream that misbehaves, as a program of its own (see `upstream.py` for what each route does)."""

import json
import math
import socket
import struct
import sys
import threading
import time
import zlib
from base64 import urlsafe_b64decode
from collections import Counter, deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

HANG_SECONDS = 600
BIG = 20_000_000
BOMB_MEGABYTES = 2048
MEGABYTE = 1024**2
REMEMBERED = 500


class Memory:
    """What was asked, for the test to read."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self.lock:
            self.counts: Counter[str] = Counter()
            self.requests: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
            self.busy: Counter[str] = Counter()
            self.peaks: dict[str, int] = {}
            self.walls: dict[str, dict[str, float]] = {}

    def note(self, request: dict[str, Any]) -> int:
        with self.lock:
            self.counts[request["path"]] += 1
            self.requests.append(request)
            return self.counts[request["path"]]

    def dump(self) -> dict[str, Any]:
        with self.lock:
            found = {"counts": dict(self.counts), "requests": list(self.requests)}
            return found | {"peaks": dict(self.peaks), "walls": {name: dict(wall) for name, wall in self.walls.items()}}


MEMORY = Memory()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet
    server_version = "Upstream"
    sys_version = ""

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        self.route = parts.path
        self.query = parse_qs(parts.query, keep_blank_values=True)
        self.body = self._read_body()
        if self.route == "/_requests":
            return self._side()
        self.seen = MEMORY.note(self._request())
        return self._answer()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = handle_request

    def send(self, status: int, content_type: str | None, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        if content_type is not None:
            self.send_header("Content-Type", content_type)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self.send(status, "application/json", json.dumps(value).encode(), headers)

    def option(self, name: str, default: str) -> str:
        return self.query.get(name, [default])[0]

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: MEMORY is the log."""

    def _answer(self) -> None:
        first = self.route.split("/")[1]
        route = ROUTES.get(first)
        if route is None:
            return self.send_json(404, {"error": "no such route"})
        return route(self)

    def _request(self) -> dict[str, Any]:
        return {
            "method": self.command,
            "path": self.route,
            "query": self.query,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": self.body[:100_000].decode(errors="replace"),
            "body_size": len(self.body),
        }

    def _side(self) -> None:
        if self.command == "DELETE":
            MEMORY.clear()
        self.send_json(200, MEMORY.dump())

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()


def echo(request: Handler) -> None:
    seen = request._request()
    try:
        seen["json"] = json.loads(request.body)
    except ValueError:
        seen["json"] = None
    request.send_json(200, seen)


def html(request: Handler) -> None:
    request.send(200, "text/html; charset=utf-8", b"<!doctype html><title>Hello</title><p>Not what you wanted.")


def empty(request: Handler) -> None:
    request.send(200, None, b"")


def no_content(request: Handler) -> None:
    request.send(204, None, b"")


def status(request: Handler) -> None:
    """/status/418 answers 418; `retry-after` in the query becomes the header."""
    code = int(request.route.rsplit("/", 1)[1])
    after = request.option("retry-after", "")
    request.send_json(code, {"status": code}, {"Retry-After": after} if after else None)


def server_error(request: Handler) -> None:
    request.send(500, "text/plain", b"broken")


def rate_limited(request: Handler) -> None:
    request.send_json(429, {"error": "rate limited"}, {"Retry-After": "3600"})


def rate_limited_once(request: Handler) -> None:
    """Each path below counts for itself, so parallel tests append a key of their own."""
    if request.seen == 1:
        return request.send_json(429, {"error": "rate limited"}, {"Retry-After": "1"})
    return request.send_json(200, {"attempt": request.seen})


def hang(request: Handler) -> None:
    threading.Event().wait(HANG_SECONDS)
    request.close_connection = True


def slow(request: Handler) -> None:
    seconds = float(request.option("seconds", "1"))
    threading.Event().wait(seconds)
    request.send_json(200, {"seconds": seconds})


def busy(request: Handler) -> None:
    """/busy/NAME/SECONDS answers late; how many were under way at the same time is remembered by name."""
    _, _, name, seconds = request.route.split("/")
    with MEMORY.lock:
        MEMORY.busy[name] += 1
        MEMORY.peaks[name] = max(MEMORY.peaks.get(name, 0), MEMORY.busy[name])
    threading.Event().wait(float(seconds))
    with MEMORY.lock:
        MEMORY.busy[name] -= 1
    request.send_json(200, {"name": name})


def walled(request: Handler) -> None:
    """/walled/NAME/LIMIT/SECONDS permits so many calls in so many seconds, and says in each answer how many are left."""
    _, _, name, limit, seconds = request.route.split("/")
    now = time.monotonic()
    with MEMORY.lock:
        wall = MEMORY.walls.setdefault(name, {"begun": now, "used": 0, "served": 0, "refused": 0, "windows": 1})
        if now >= wall["begun"] + float(seconds):
            wall |= {"begun": now, "used": 0, "windows": wall["windows"] + 1}
        refused = wall["used"] >= int(limit)
        wall["refused" if refused else "served"] += 1
        wall["used"] += not refused
        rest = str(max(1, math.ceil(wall["begun"] + float(seconds) - now)))
        left = str(int(limit) - int(wall["used"]))
    told = {"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": left, "X-RateLimit-Reset": rest}
    request.send_json(429 if refused else 200, {"left": left}, told | ({"Retry-After": rest} if refused else {}))


def big(request: Handler) -> None:
    size = int(request.option("bytes", str(BIG)))
    frame = b'{"data": ""}'
    request.send(200, "application/json", frame[:-2] + b"x" * (size - len(frame)) + frame[-2:])


def bomb_parts(megabytes: int) -> Iterator[bytes]:
    """A valid gzip file of zeros: one block, compressed once and repeated, which a full flush makes self-contained."""
    block = bytes(MEGABYTE)
    head = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = head.compress(block) + head.flush(zlib.Z_FULL_FLUSH)
    yield b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    checksum = 0
    for _ in range(megabytes):
        checksum = zlib.crc32(block, checksum)
        yield part
    tail = zlib.compressobj(9, zlib.DEFLATED, -15)
    yield tail.flush() + struct.pack("<II", checksum, megabytes * MEGABYTE % 2**32)


def bomb(request: Handler) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Encoding", "gzip")
    request.send_header("Connection", "close")
    request.end_headers()
    request.close_connection = True
    for part in bomb_parts(int(request.option("megabytes", str(BOMB_MEGABYTES)))):
        request.wfile.write(part)


def redirect(request: Handler) -> None:
    request.send(int(request.option("status", "302")), None, b"", {"Location": request.option("to", "/echo")})


def text(request: Handler) -> None:
    request.send(200, "text/plain; charset=utf-8", "Grüße vom Amt".encode())


def binary(request: Handler) -> None:
    disposition = {"Content-Disposition": 'attachment; filename="blob.bin"'}
    request.send(200, "application/octet-stream", bytes(range(256)), disposition)


def array(request: Handler) -> None:
    request.send_json(200, [1, 2, {"three": 3}])


def broken_json(request: Handler) -> None:
    request.send(200, "application/json", b'{"half": ')


def reset(request: Handler) -> None:
    """Closing a socket that lingers for no time sends RST in place of FIN."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()


def bearer(request: Handler) -> None:
    """/bearer/TOKEN wants exactly that token."""
    if request.headers.get("Authorization") != "Bearer " + request.route.rsplit("/", 1)[1]:
        return request.send_json(401, {"error": "invalid_token"}, {"WWW-Authenticate": "Bearer"})
    return request.send_json(200, {"ok": True})


def expect(request: Handler) -> None:
    """/expect/header/NAME/VALUE or /expect/query/NAME/VALUE, the value in URL-safe base64: 401 without exactly that."""
    place, name, wanted = request.route.split("/")[2:5]
    found = request.headers.get(name) if place == "header" else request.query.get(name, [None])[0]
    if found != urlsafe_b64decode(wanted).decode():
        return request.send_json(401, {"error": "not what was expected"})
    return echo(request)


def authorize(request: Handler) -> None:
    """An authorization endpoint that asks nobody; /authorize/deny says no."""
    wanted = {"error": "access_denied"} if request.route.endswith("/deny") else {"code": f"code-{request.seen}"}
    if "state" in request.query:
        wanted["state"] = request.option("state", "")
    target = request.option("redirect_uri", "")
    request.send(302, None, b"", {"Location": f"{target}{'&' if '?' in target else '?'}{urlencode(wanted)}"})


def token(request: Handler) -> None:
    variant = request.route.rsplit("/", 1)[1]
    fresh: dict[str, Any] = {
        "access_token": f"access-{request.seen}",
        "token_type": "Bearer",
        "expires_in": 3600,
        "refresh_token": f"refresh-{request.seen}",
        "scope": "read write",
    }
    answers: dict[str, Callable[[], None]] = {
        "ok": lambda: request.send_json(200, fresh),
        "short": lambda: request.send_json(200, fresh | {"expires_in": 1}),
        "no-expires-in": lambda: request.send_json(200, _without(fresh, "expires_in")),
        "no-refresh-token": lambda: request.send_json(200, _without(fresh, "refresh_token")),
        "no-access-token": lambda: request.send_json(200, _without(fresh, "access_token")),
        "string-expires-in": lambda: request.send_json(200, fresh | {"expires_in": "3600"}),
        "form": lambda: request.send(200, "application/x-www-form-urlencoded", urlencode(fresh).encode()),
        "html": lambda: html(request),
        "empty": lambda: empty(request),
        "500": lambda: server_error(request),
        "429": lambda: rate_limited(request),
        "hang": lambda: hang(request),
        "reset": lambda: reset(request),
        "big": lambda: big(request),
        "invalid-grant": lambda: request.send_json(400, {"error": "invalid_grant", "error_description": "revoked"}),
        "invalid-client": lambda: request.send_json(401, {"error": "invalid_client"}),
        "ok-false": lambda: request.send_json(200, {"ok": False, "error": "invalid_refresh_token"}),
        "ok-with-error": lambda: request.send_json(200, {"error": "bad_verification_code"}),
    }
    answer = answers.get(variant)
    if answer is None:
        return request.send_json(404, {"error": "no such variant"})
    return answer()


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


ROUTES: dict[str, Callable[[Handler], None]] = {
    "echo": echo,
    "html": html,
    "empty": empty,
    "no-content": no_content,
    "status": status,
    "500": server_error,
    "rate-limited": rate_limited,
    "rate-limited-once": rate_limited_once,
    "hang": hang,
    "slow": slow,
    "busy": busy,
    "walled": walled,
    "big": big,
    "bomb": bomb,
    "redirect": redirect,
    "text": text,
    "binary": binary,
    "list": array,
    "broken-json": broken_json,
    "reset": reset,
    "bearer": bearer,
    "expect": expect,
    "authorize": authorize,
    "token": token,
}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what the tests are about; anything else is printed."""
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
