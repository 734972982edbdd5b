"""A forward proxy: plain requests by their whole URL (RFC 9112 section 3.2.2) and tunnels by CONNECT (RFC 9110 9.3.6).

It resolves nothing itself: ``routes`` says where a host and port lead, so that a test can use names that are nobody's.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit


class ForwardProxy:
    """``seen`` are the request lines, ``heads`` the whole heads; with ``user`` it asks for that user and password."""

    def __init__(
        self,
        routes: Mapping[tuple[str, int], int] | None = None,
        *,
        user: str = "",
        password: str = "",
        answer: bytes = b"",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.seen: list[str] = []
        self.heads: list[str] = []
        self.connections = 0
        self._routes = dict(routes or {})
        self._wanted = base64.b64encode(f"{user}:{password}".encode()).decode() if user else ""
        self._answer = answer
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._socket.accept()[0]
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                while self._one(connection):
                    pass

    def _one(self, connection: socket.socket) -> bool:
        """Whether another request may follow on this connection."""
        data = _head(connection)
        if not data:
            return False
        head = data.partition(b"\r\n\r\n")[0].decode("latin-1")
        self.heads.append(head)
        line = head.partition("\r\n")[0]
        self.seen.append(line)
        if self._answer:
            connection.sendall(self._answer)
            return False
        if self._wanted and f"proxy-authorization: basic {self._wanted}".lower() not in head.lower():
            connection.sendall(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        method, target, _ = line.split(" ")
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            with socket.create_connection(("127.0.0.1", self._routes.get((host, int(port)), int(port)))) as upstream:
                connection.sendall(b"HTTP/1.1 200 Connection established\r\nX-Of: the-proxy\r\n\r\n")
                _join(connection, upstream)
            return False
        parts = urlsplit(target)
        port_number = parts.port or 80
        to = self._routes.get((parts.hostname or "", port_number), port_number)
        with socket.create_connection(("127.0.0.1", to)) as upstream:
            path = target[len(f"{parts.scheme}://{parts.netloc}") :] or "/"
            kept = [header for header in head.split("\r\n")[1:] if not header.lower().startswith("proxy-")]
            rest = data.partition(b"\r\n\r\n")[2]
            whole = "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close"])
            upstream.sendall(f"{whole}\r\n\r\n".encode("latin-1") + rest)
            threading.Thread(target=_carry, args=(connection, upstream), daemon=True).start()
            answer = _head(upstream).partition(b"\r\n")
            connection.sendall(answer[0] + b"\r\nConnection: close\r\n" + answer[2])
            _carry(upstream, connection)
        return False


def _head(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    return data


def _join(one: socket.socket, other: socket.socket) -> None:
    """Carries bytes both ways until one side ends."""
    thread = threading.Thread(target=_carry, args=(one, other), daemon=True)
    thread.start()
    _carry(other, one)


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
