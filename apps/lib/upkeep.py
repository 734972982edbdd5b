"""What a process does every few seconds for what it holds on behalf of all, and once more when it ends cleanly.

One daemon thread a process, started with the first thing that is held. Not in tests: they call the functions themselves.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable
from multiprocessing.util import Finalize

from django.conf import settings
from django.db import close_old_connections, connection

log = logging.getLogger(__name__)

SECONDS = 5.0

_lock = threading.Lock()
_regular: list[Callable[[], None]] = []
_final: list[Callable[[], None]] = []
_ending = threading.Event()
_thread: threading.Thread | None = None
_at_end_registered = False


def register(regular: Callable[[], None], final: Callable[[], None]) -> None:
    """``regular`` is called every five seconds, ``final`` at the end of the process."""
    _regular.append(regular)
    _final.append(final)


def start() -> None:
    """Sees to it that the thread runs; cheap where it does."""
    global _thread, _at_end_registered
    if settings.TESTING or (_thread is not None and _thread.is_alive()):
        return
    with _lock:
        if _ending.is_set() or (_thread is not None and _thread.is_alive()):
            return
        _thread = threading.Thread(target=_run, name="upkeep", daemon=True)
        _thread.start()
        if not _at_end_registered:
            _at_end_registered = True
            # granian's workers are multiprocessing children, which end without atexit.
            Finalize(None, stop, exitpriority=2)
            atexit.register(stop)


def _run() -> None:
    while not _ending.wait(SECONDS):
        _call(_regular)
        close_old_connections()


def _call(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        try:
            function()
        except Exception:
            log.exception("%s stumbled", function.__qualname__)


def stop() -> None:
    """Gives back what is held; for the end of the process."""
    if _ending.is_set():
        return
    _ending.set()
    thread = _thread
    if thread is not None and thread is not threading.current_thread():
        thread.join(timeout=2)
    _call(_final)
    connection.close()
