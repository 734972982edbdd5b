"""The measure for runs: a bare Celery task that makes the three calls, with the product's own client, and says when it ended."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery
from django.conf import settings

settings.configure(SECRET_KEY="bench", INSTALLED_APPS=[], JACKFIELD_EGRESS_ALLOW="127.0.0.0/8")

from apps.lib import http  # noqa: E402 - reads the settings

BROKER = os.environ["BENCH_BROKER"]
UPSTREAM = os.environ["BENCH_UPSTREAM"]
DONE = "bench:done"  # a list of "<id> <seconds since the epoch>"

app = Celery("bare", broker=BROKER)
app.conf.update(task_ignore_result=True, task_acks_late=True, worker_prefetch_multiplier=1, task_default_queue="bare")
store = redis.Redis.from_url(BROKER)


@app.task(name="bare.three")  # type: ignore[untyped-decorator] # celery has no types
def three(run_id: str) -> None:
    for number in range(3):
        http.json_of(http.send(http.Outgoing(method="GET", url=f"{UPSTREAM}/{number}", safe=True)))
    store.rpush(DONE, f"{run_id} {time.time()}")
