"""Jobs fired on time: by a thread of each worker process, for nothing else.

As a task among the others a look at what is due would wait until a thread is free: through a minute in which steps of a minute
keep all of them, nothing would fire. However many threads look, a time is fired for once (`jobs.fire_due`).
"""

from __future__ import annotations

import logging
import threading

from django.db import Error, connection
from django.utils import timezone

from apps.lib.db import release

from . import jobs

log = logging.getLogger(__name__)

LOOK = 0.5  # seconds between two looks
LOOK_AGAIN = 1.0  # seconds after one that failed

_stopping = threading.Event()


def begin() -> None:
    """Starts the thread; once a process."""
    threading.Thread(target=_run, name="firing", daemon=True).start()


def stop() -> None:
    """For the end of the process."""
    _stopping.set()


def _run() -> None:
    pause = LOOK
    while not _stopping.wait(pause):
        try:
            pause = look()
        except Exception:  # whatever it is, this thread lives on
            log.exception("jobs cannot be fired for now")
            pause = LOOK_AGAIN


def look() -> float:
    """Fires what is due. Gives the seconds until the next look."""
    try:
        jobs.fire_due(timezone.now())
        release()
        return LOOK
    except Error as error:
        log.warning("jobs cannot be fired for now: %s", error)
        pool = getattr(connection, "pool", None)
        connection.close()
        if pool is not None:
            pool.check()  # a restart of the database ended those that lie in the pool, too
        return LOOK_AGAIN
