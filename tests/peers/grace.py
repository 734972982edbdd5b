"""A token endpoint that rotates refresh tokens, loses answers on demand, and forgives a used token or not.

Real providers do both: some end the grant when an old refresh token comes back (RFC 9700 section 4.14.2), some take it for
a while, since answers do get lost.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs


class GraceProvider:
    """``with GraceProvider() as provider``: its ``token_url`` serves in threads of this process.

    ``lose`` is how many answers of refreshes get lost after the work was done; ``lenient`` whether the refresh token before
    the last still works; ``hold``, where set, is waited for before a refresh is answered.
    """

    def __init__(self) -> None:
        self.lenient, self.lifetime, self.lose = True, 3600, 0
        self.hold: threading.Event | None = None
        self.worked = threading.Event()  # a refresh's work is done, its answer not sent
        self.asked: list[str] = []  # refresh tokens, as they came
        self.number = 0
        self.is_dead = False
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True

    def __enter__(self) -> GraceProvider:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.hold is not None:
            self.hold.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def token_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/token"

    def _handler(provider: GraceProvider) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                status, answer, is_lost = provider._work({key: value[0] for key, value in parse_qs(body).items()})
                if is_lost:
                    self.close_connection = True
                    return
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        return Handler

    def _work(self, asked: dict[str, str]) -> tuple[int, dict[str, Any], bool]:
        is_refresh = asked.get("grant_type") == "refresh_token"
        with self.lock:
            if is_refresh:
                self.asked.append(asked["refresh_token"])
                if not self._takes(asked["refresh_token"]):
                    self.is_dead = True
                    return 400, {"error": "invalid_grant"}, False
            self.number += 1
            answer = {"access_token": f"access-{self.number}", "refresh_token": f"refresh-{self.number}",
                      "token_type": "Bearer", "expires_in": self.lifetime}  # fmt: skip
            is_lost = is_refresh and self.lose > 0
            self.lose -= is_lost
        if is_refresh and self.hold is not None:
            self.worked.set()
            self.hold.wait(90)
        return 200, answer, is_lost

    def _takes(self, refresh_token: str) -> bool:
        if self.is_dead:
            return False
        return refresh_token == f"refresh-{self.number}" or (self.lenient and refresh_token.startswith("refresh-"))
