"""One subprocess on loopback: started, waited for, stopped by its own pid, never outliving the tests."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

HOST = "127.0.0.1"
LAUNCH = Path(__file__).with_name("launch.py")
LOG_TAIL = 3000
DIRECT = build_opener(ProxyHandler({}))


class PeerError(RuntimeError):
    """A peer did not start, or did not do what a test asked of it."""


class PeerUnavailable(PeerError):
    """This machine cannot have the peer: what it runs on is not there and could not be installed."""


def package_folder(name: str) -> Path:
    """Where a package's files are, found without importing it: these wheels do things on import."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise PeerUnavailable(f"the package {name} is not installed")
    return Path(spec.origin).resolve().parent


def free_port() -> int:
    """A port nobody holds now. Another process may take it before the peer does, so `Peer.start` tries again."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def answers_http(url: str) -> bool:
    """Whether anything is answered over HTTP, be it an error; the environment's proxies are left out."""
    try:
        DIRECT.open(url, timeout=5).close()
    except HTTPError as error:
        error.close()
        return True
    except (URLError, OSError):
        return False
    return True


class Peer:
    """A server in a subprocess. Subclasses say what to run (`command`) and when it is up (`ready`).

    The kernel ends the subprocess when the thread that started it ends, so start peers from a thread that lives as
    long as they must. It is in a session of its own: Ctrl-C reaches the tests, which then stop it.
    """

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    start_timeout: ClassVar[float] = 30.0
    stop_timeout: ClassVar[float] = 5.0
    attempts: ClassVar[int] = 3

    user: str | None = None
    folder: Path

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def pid(self) -> int:
        return self._running().pid

    def prepare(self) -> None:
        """Choose ports and write what the server reads, in `self.folder`. Called before every attempt to start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def ready(self) -> bool:
        raise NotImplementedError

    def start(self) -> Self:
        for attempt in range(1, self.attempts + 1):
            try:
                return self._start_once()
            except PeerUnavailable:
                raise
            except PeerError:
                if attempt == self.attempts:
                    raise
        raise AssertionError("unreachable")

    def stop(self) -> None:
        if self._process is not None:
            self._end(self._process)
            self._process = None
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """The end of what the server printed."""
        path = self.folder / "log"
        return path.read_text(errors="replace")[-LOG_TAIL:] if path.exists() else ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_once(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="jackfield-peer-"))
        try:
            self.prepare()
            self._process = self._spawn()
            self._wait(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def _spawn(self) -> subprocess.Popen[bytes]:
        launcher = [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid()), str(int(self.stop_signal))]
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                [*launcher, self.user or "-", *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environment(),
                start_new_session=True,
            )

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.start_timeout
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise PeerError(f"{self.name} ended with {process.returncode} while starting:\n{self.log()}")
            if self.ready():
                return
            time.sleep(0.03)
        raise PeerError(f"{self.name} did not answer within {self.start_timeout:.0f} s:\n{self.log()}")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.send_signal(self.stop_signal)
        try:
            process.wait(self.stop_timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise PeerError(f"{self.name} is not running")
        return self._process


class PortFilePeer(Peer):
    """A server of our own, which binds port 0 and writes the port it got to a file: no race for a port."""

    def __init__(self) -> None:
        super().__init__()
        self.port = 0

    @property
    def port_file(self) -> Path:
        return self.folder / "port"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ready(self) -> bool:
        if not self.port_file.exists():
            return False
        self.port = int(self.port_file.read_text() or 0)
        return self.port > 0
