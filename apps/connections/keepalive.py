"""Refreshes in the background, spread over time: tokens near their expiry, and refresh tokens that die of disuse.

It is the callers' refresh (`apps.connections.refresh`) under the same lease; only nobody waits for it. Each beat claims
connections that are due, the same share for each toolkit, by moving their ``refresh_due_at`` on: what a killed worker held is
due again when that has passed. After a long standstill as many are refreshed a beat as always. A provider that does not
answer holds no worker for long: after some failures in a row its connections are put off without being tried.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count
from django.utils import timezone

from apps.lib import breaker
from apps.lib.errors import CircuitOpen, ConnectionExpired, NotConnected
from apps.lib.vault import VaultError

from . import due, refresh
from .models import Connection, ConnectionQuerySet

log = logging.getLogger(__name__)

MOST = 600  # connections a beat, over all toolkits
CHUNK = 20  # connections a task
CLAIM = timedelta(seconds=120)  # until a claimed connection that nothing was heard of is due again
BUDGET = 60.0  # seconds that a task works; the rest is given back
PLANNED_AT_ONCE = 1000
SLOW = 2.0  # seconds; a failure that took longer counts towards leaving the provider alone
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0  # seconds until the next try after a failure


def plan(now: datetime | None = None) -> int:
    """Says for new connections, and for those of before there was this work, when they are due; gives how many."""
    now = now or timezone.now()
    rows = Connection.objects.filter(refresh_due_at=None).exclude(status=Connection.Status.EXPIRED)
    planned = 0
    for connection in rows.select_related("integration__project")[:PLANNED_AT_ONCE]:
        used = due.was_used_lately(connection, now)
        try:
            moment = due.next_due(connection, connection.unseal("credentials") or {}, now, used=used)
        except VaultError:  # its key is lost; whoever calls is told so
            moment = now + due.LOOK_AGAIN
        same = Connection.objects.filter(pk=connection.pk, version=connection.version, refresh_due_at=None)
        planned += same.update(refresh_due_at=moment)
    return planned


def claim(now: datetime | None = None) -> list[list[str]]:
    """Ids of connections that are due, a list a task; the toolkits take turns, and share what one beat may do."""
    now = now or timezone.now()
    rows = Connection.objects.filter(refresh_due_at__lte=now).exclude(status=Connection.Status.EXPIRED)
    counts = rows.order_by().values_list("toolkit").annotate(count=Count("pk")).order_by("count")
    queues: list[list[list[str]]] = []
    left = MOST
    for position, (toolkit, count) in enumerate(counts):
        share = min(count, max(1, left // (len(counts) - position)))
        if left <= 0:
            break
        left -= share
        queues.append(_chunks(_claim_some(rows.filter(toolkit=toolkit), share, now)))
    return [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]


def _claim_some(rows: ConnectionQuerySet, share: int, now: datetime) -> list[str]:
    """Two beats at once may both claim a row; the lease, and a second look at the row, keep it to one refresh."""
    ids = list(rows.order_by("refresh_due_at").values_list("pk", flat=True)[:share])
    Connection.objects.filter(pk__in=ids, refresh_due_at__lte=now).update(refresh_due_at=now + CLAIM)
    return ids


def _chunks(ids: list[str]) -> list[list[str]]:
    return [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]


def refresh_some(ids: list[str]) -> Counter[str]:
    """Refreshes those that still need it; gives how many ended how."""
    deadline = time.monotonic() + BUDGET
    outcomes: Counter[str] = Counter()
    for number, connection_id in enumerate(ids):
        if time.monotonic() >= deadline:
            _give_back(ids[number:])
            outcomes["given back"] += len(ids) - number
            break
        outcomes[_look_after(connection_id)] += 1
    log.info("looked after %d connections: %s", len(ids), dict(outcomes))
    return outcomes


def _give_back(ids: list[str]) -> None:
    Connection.objects.filter(pk__in=ids).update(refresh_due_at=timezone.now() + timedelta(seconds=30))


def _look_after(connection_id: str) -> str:
    """One connection; a word for how it ended."""
    rows = Connection.objects.select_related("integration__project", "project")
    connection = rows.filter(pk=connection_id).exclude(status=Connection.Status.EXPIRED).first()
    now = timezone.now()
    if connection is None:
        return "gone"
    try:
        credentials: dict[str, Any] = connection.unseal("credentials") or {}
    except VaultError as error:
        log.error("connection %s does not open: %s", connection.pk, error)
        return _put_off(connection, now + due.LOOK_AGAIN, "does not open")
    if not due.is_due(connection, credentials, now):
        used = due.was_used_lately(connection, now)
        return _put_off(connection, due.next_due(connection, credentials, now, used=used), "not due")
    return _refresh(connection, credentials, now)


def _refresh(connection: Connection, credentials: dict[str, Any], now: datetime) -> str:
    key = _provider_of(connection)
    try:
        breaker.before(key)
    except CircuitOpen as error:
        return _put_off(connection, _later(now, error.retry_after or 1), "provider is down")
    started = time.monotonic()
    try:
        outcome = refresh.refresh_ahead(connection, credentials)
    except (ConnectionExpired, NotConnected) as error:
        breaker.succeeded(key)
        return "gone" if isinstance(error, NotConnected) else "needs the person"
    except BaseException:
        breaker.abandoned(key)
        raise
    if outcome == "busy":
        breaker.abandoned(key)
        return _put_off(connection, now + CLAIM, outcome)
    if outcome == "failed" and time.monotonic() - started >= SLOW:
        breaker.failed(key)
    else:
        breaker.succeeded(key)
    if outcome == "refreshed":
        return outcome
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(connection.refresh_failures, 10))
    return _put_off(connection, _later(now, pause), "failed for now")


def _put_off(connection: Connection, moment: datetime, outcome: str) -> str:
    """Unless somebody else has refreshed or renewed it meanwhile, and so planned anew."""
    Connection.objects.filter(pk=connection.pk, version=connection.version).update(refresh_due_at=moment)
    return outcome


def _later(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds * random.uniform(1.0, 1.5))  # noqa: S311 - jitter


def _provider_of(connection: Connection) -> str:
    """Who is asked: a toolkit has one provider, but where the project's settings may lead to another."""
    own = connection.integration_id if connection.integration.settings else ""
    return f"keepalive {connection.toolkit} {own}"
