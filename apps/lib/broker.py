"""Handing ids to Celery's workers: a hint that may be lost, for which nobody waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from celery import current_app

log = logging.getLogger(__name__)

PAUSE = 5.0  # seconds for which a broker that failed is left alone

_none_until = 0.0


def hand(
    task: str, ids: Iterable[str], *, queue: str, expires: float | None = None, countdown: float | None = None
) -> bool:
    """Sends one message an id. False where the broker takes none: then whoever sweeps the rows finds them.

    ``expires`` in seconds: a message that no worker took by then is thrown away. ``countdown`` in seconds: not before then.
    """
    global _none_until
    if time.monotonic() < _none_until:
        return False
    try:
        with current_app.producer_pool.acquire(block=True) as producer:
            # Left to itself Celery would try for six seconds, in a thread that has somebody to answer.
            producer.connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            for pk in ids:
                current_app.send_task(
                    task, (pk,), queue=queue, producer=producer, retry=False, expires=expires, countdown=countdown
                )
    except Exception as error:  # each broker's library has errors of its own
        _none_until = time.monotonic() + PAUSE
        log.warning("the broker takes nothing; what there is to do waits for the sweeper: %s", error)
        return False
    return True
