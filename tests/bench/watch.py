"""What processes hold, read from /proc: memory, threads, files, sockets; sampled while something runs, and judged."""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

TCP_STATES = {"01": "established", "08": "close_wait"}  # include/net/tcp_states.h
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True)
class Held:
    """Of one process, or of several together. ``memory`` in MB (resident), the others counted."""

    memory: float = 0.0
    threads: int = 0
    files: int = 0
    established: int = 0
    close_wait: int = 0

    def __add__(self, other: Held) -> Held:
        return Held(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def held(pid: int, states: dict[str, str]) -> Held:
    """Raises OSError where the process is gone. ``states`` as from `tcp_states`."""
    folder = Path(f"/proc/{pid}")
    memory = int((folder / "statm").read_text().split()[1]) * PAGE_MB
    names: list[str] = []
    for entry in os.scandir(folder / "fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            names.append(os.readlink(entry.path))
    sockets = Counter(states.get(name.removeprefix("socket:[").rstrip("]"), "") for name in names if "socket:" in name)
    threads = sum(1 for _ in os.scandir(folder / "task"))
    return Held(memory, threads, len(names), sockets["established"], sockets["close_wait"])


def tcp_states() -> dict[str, str]:
    """The state of every TCP socket of this machine, by its inode."""
    found: dict[str, str] = {}
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] in TCP_STATES:
                    found[fields[9]] = TCP_STATES[fields[3]]
    return found


@dataclass
class Series:
    """Samples of one process over time; ``at`` in seconds."""

    at: list[float] = field(default_factory=list)
    samples: list[Held] = field(default_factory=list)

    def quarters(self, name: str) -> tuple[float, float]:
        """The median of the first quarter and that of the last."""
        values = [float(getattr(sample, name)) for sample in self.samples]
        size = max(1, len(values) // 4)
        return statistics.median(values[:size]), statistics.median(values[-size:])

    def tenths(self, name: str) -> list[float]:
        """The median of each tenth of the time."""
        values = [float(getattr(sample, name)) for sample in self.samples]
        size = max(1, len(values) // 10)
        return [statistics.median(values[start : start + size]) for start in range(0, len(values) - size + 1, size)]

    def slope(self, name: str) -> float:
        """Growth in a minute, by least squares over the second half, when what grows at first has grown."""
        half = len(self.at) // 2
        if len(self.at) - half < 3:
            return 0.0
        values = [float(getattr(sample, name)) for sample in self.samples[half:]]
        return statistics.linear_regression(self.at[half:], values).slope * 60

    def peak(self, name: str) -> float:
        return max(float(getattr(sample, name)) for sample in self.samples)


class Watch:
    """Samples processes every ``seconds`` for the time of the block. ``also`` gives one more number a sample."""

    def __init__(self, pids: list[int], seconds: float, also: Callable[[], int] | None = None) -> None:
        self.pids, self.seconds, self.also = pids, seconds, also
        self.series = {pid: Series() for pid in pids}
        self.others: list[int] = []
        self.gone: set[int] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.sample()
            if self._stopping.wait(self.seconds):
                return

    def sample(self) -> None:
        states, now = tcp_states(), time.monotonic()
        for pid, series in self.series.items():
            try:
                found = held(pid, states)
            except OSError:
                self.gone.add(pid)
                continue
            series.at.append(now)
            series.samples.append(found)
        if self.also is not None:
            self.others.append(self.also())


def now(pids: list[int]) -> Held:
    """What they hold together."""
    states = tcp_states()
    return sum((held(pid, states) for pid in pids), Held())
