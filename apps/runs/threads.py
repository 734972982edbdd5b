"""Steps that are performed at the same time: threads of one run, each of which hands in how its step ended."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from django.db import connection

from .engine import Perform

MOST = 20  # threads of one run

# A step's command and the seconds it may take in; (output or StepError, trace) out. Never raises.
Performing = Callable[[Perform, float], tuple[Any, Any]]


class Threads:
    """Performs steps beside one another. Only the carrier's thread calls its methods.

    A thread whose step has run out of time goes on until its step ends, and nobody listens: Python cannot end it. It is a
    daemon, so that it holds up no stop of the process.
    """

    def __init__(self, perform: Performing) -> None:
        self.performing = perform
        self._waiting: deque[tuple[Perform, float]] = deque()
        self._deadlines: dict[tuple[str, int], tuple[Perform, float]] = {}
        self._results: queue.SimpleQueue[tuple[Perform, Any, Any]] = queue.SimpleQueue()

    @property
    def busy(self) -> bool:
        return bool(self._deadlines or self._waiting)

    def start(self, command: Perform, seconds: float) -> None:
        self._waiting.append((command, seconds))
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._deadlines) < MOST:
            command, seconds = self._waiting.popleft()
            self._deadlines[command.key, command.number] = command, time.monotonic() + seconds
            run = contextvars.copy_context().run
            name = f"step {command.key}"[:60]
            threading.Thread(target=run, args=(self._run, command, seconds), name=name, daemon=True).start()

    def _run(self, command: Perform, seconds: float) -> None:
        try:
            outcome, trace = self.performing(command, seconds)
        finally:
            connection.close()
        self._results.put((command, outcome, trace))

    def take(self, seconds: float) -> list[tuple[Perform, Any, Any]]:
        """Those that have ended; waits for the first for so long."""
        found = []
        try:
            found.append(self._results.get(timeout=max(0.0, seconds)))
            while True:
                found.append(self._results.get_nowait())
        except queue.Empty:
            pass
        ended = [one for one in found if self._deadlines.pop((one[0].key, one[0].number), None)]
        self._fill()
        return ended

    def late(self, grace: float) -> list[Perform]:
        """Takes out, and gives, those whose time has been over for so many seconds."""
        now = time.monotonic() - grace
        late = [command for command, deadline in self._deadlines.values() if deadline <= now]
        for command in late:
            del self._deadlines[command.key, command.number]
        self._fill()
        return late

    def next_deadline(self) -> float:
        """Seconds until the time of one of them is over."""
        return min((deadline for _, deadline in self._deadlines.values()), default=0.0) - time.monotonic()
