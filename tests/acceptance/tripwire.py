"""A listener that must not be reached."""

from __future__ import annotations

import socket


class Tripwire:
    """Listens on every address of the machine and notices who comes."""

    def __enter__(self) -> Tripwire:
        self.socket = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.socket.setblocking(False)
        self.port: int = self.socket.getsockname()[1]
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def tripped(self) -> bool:
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True
