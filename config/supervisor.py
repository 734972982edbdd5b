"""Keeps a few child processes running, and stops them all: what quickstart is, once everything is prepared."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

GRACE = 2.0  # seconds between asking a child to stop and killing it; Ctrl-C ends everything within five
RESTART_PAUSE = 1.0
TICK = 0.1


@dataclass
class Child:
    """A command that is to run for as long as the supervisor does."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    restart_at: float = 0.0
    starts: list[float] = field(default_factory=list)

    def start(self) -> None:
        # A session of its own: Ctrl-C in a terminal reaches the supervisor alone, which then stops its children in order.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "config.child", *self.command], start_new_session=True, stdin=subprocess.DEVNULL
        )
        self.starts.append(time.monotonic())

    def signal(self, number: int) -> None:
        """To its whole group: a process that its own parent left behind hears it too, even after the parent's end."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


class Supervisor:
    """Starts children, starts again those that end, and ends them all on SIGINT, SIGTERM or SIGHUP."""

    def __init__(self, children: list[Child], say: Callable[[str], None]) -> None:
        self.children = children
        self.say = say
        self.stopping = False

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def run(self, when_started: Callable[[], bool]) -> int:
        """Runs until asked to stop. ``when_started`` is called until it says that all is up. Gives the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)
        for child in self.children:
            child.start()
        announced = False
        try:
            while not self.stopping:
                announced = announced or when_started()
                self._restart_ended()
                time.sleep(TICK)
        finally:
            self._stop()
        return 0

    def _restart_ended(self) -> None:
        now = time.monotonic()
        for child in self.children:
            if child.process is None or child.process.poll() is None:
                continue
            if not child.restart_at:
                self.say(f"{child.name} ended (status {child.process.returncode}); it is started again.")
                recent = sum(1 for start in child.starts if start > now - 60)
                child.restart_at = now + RESTART_PAUSE * min(recent, 30)
                child.signal(signal.SIGTERM)  # a killed web server's worker would serve on, outside of all control
            elif now >= child.restart_at:
                child.restart_at = 0.0
                child.signal(signal.SIGKILL)
                child.start()

    def _stop(self) -> None:
        for child in self.children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(
            child.process is not None and child.process.poll() is None for child in self.children
        ):
            time.sleep(0.05)
        for child in self.children:
            child.signal(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()
