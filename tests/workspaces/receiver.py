"""An integrator's receiver of webhooks on loopback: checks signatures with the scheme's own library, and misbehaves on demand."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


@dataclass
class Received:
    """One request: ``event`` is None where no secret that the receiver knows signed it."""

    id: str
    headers: dict[str, str]
    body: bytes
    event: dict[str, Any] | None
    at: float = field(default_factory=time.monotonic)

    def signed_by(self, secret: str) -> bool:
        try:
            Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


class Receiver:
    """``answers`` are given one after the other, then 200: a status, or (status, headers, body).

    ``slow`` is how long each answer takes, ``closes`` breaks each off in its middle.
    """

    def __init__(self) -> None:
        self.secrets: list[str] = []
        self.answers: list[Any] = []
        self.slow = 0.0
        self.closes = False
        self.received: list[Received] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._answer(self)

            do_GET = do_PUT = do_POST

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.received]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self.received.append(Received(headers.get("webhook-id", ""), headers, body, self._event(body, headers)))
            answer = self.answers.pop(0) if self.answers else 200
        try:
            time.sleep(self.slow)
        finally:
            with self._lock:
                self._now -= 1
        with suppress(OSError):  # whoever asked may have gone
            self._send(handler, *(answer if isinstance(answer, tuple) else (answer, {}, b"ok")))

    def _event(self, body: bytes, headers: dict[str, str]) -> dict[str, Any] | None:
        for secret in self.secrets:
            try:
                event: dict[str, Any] = Webhook(secret).verify(body, headers)
            except WebhookVerificationError:
                continue
            return event
        return None

    def _send(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if "Connection" not in headers:
            handler.send_header("Content-Length", str(len(body) + (100 if self.closes else 0)))
        handler.end_headers()
        handler.wfile.write(body)
        if self.closes:
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
