"""When the background work looks after a connection next: before its token expires, and before its refresh token dies of disuse.

``Connection.refresh_due_at`` holds it; null where nobody has planned yet (`apps.connections.keepalive` does), or where the
person must reconnect. Moments are drawn at random within a window, so that connections which were made or refreshed at the
same moment are not due at the same moment.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from . import access
from .models import Connection

USUAL = 3600.0  # seconds that a token is taken to live of which only the expiry is known: an imported one
SHORTEST = 300.0  # seconds; a token that lives shorter is left to its callers
LEAST_LEAD = 300.0  # seconds before its expiry at which a token is refreshed at the latest
LEAD, LONGEST_LEAD = 0.1, 0.4  # of its lifetime
WINDOW = 0.2  # of its lifetime, before that
DISUSE = (0.5, 0.8)  # of the time in which a refresh token dies unused
USED_LATELY = timedelta(days=7)  # who was not used for so long is refreshed for the refresh token's sake alone
LOOK_AGAIN = timedelta(days=30)
NEVER = datetime(9999, 1, 1, tzinfo=UTC)


def is_refreshable(connection: Connection, credentials: dict[str, Any]) -> bool:
    if connection._state.adding:  # one that is nowhere stored (`auth_sessions.transient`)
        return False
    return connection.auth_type == "client_credentials" or bool(
        connection.auth_type == "oauth2" and credentials.get("refresh_token")
    )


def next_due(connection: Connection, credentials: dict[str, Any], now: datetime, *, used: bool = True) -> datetime:
    """For a connection as it stands with these credentials; ``used`` is whether anybody needs its token kept fresh."""
    if not is_refreshable(connection, credentials):
        return NEVER
    moments = [now + LOOK_AGAIN]
    window = _window(connection, credentials)
    if window is not None and used:
        moments.append(_between(*window))
    life = disuse(connection)
    if life is not None:
        since = _last_refresh(connection)
        moments.append(_between(since + DISUSE[0] * life, since + DISUSE[1] * life))
    return min(moments)


def is_due(connection: Connection, credentials: dict[str, Any], now: datetime) -> bool:
    """Whether one of the windows has begun; a refresh, whosever, ends both."""
    if not is_refreshable(connection, credentials):
        return False
    window = _window(connection, credentials)
    if window is not None and window[0] <= now and was_used_lately(connection, now):
        return True
    life = disuse(connection)
    return life is not None and _last_refresh(connection) + DISUSE[0] * life <= now


def was_used_lately(connection: Connection, now: datetime) -> bool:
    return max(connection.last_used_at or connection.connected_at, connection.connected_at) > now - USED_LATELY


def disuse(connection: Connection) -> timedelta | None:
    """The time after which the refresh token dies where it is not used; None where the toolkit tells none."""
    try:
        scheme = access.toolkit_of(connection.integration).auth_by_type.get(connection.auth_type)
    except LookupError:
        return None
    seconds = getattr(scheme, "refresh_token_lifetime", None)
    return timedelta(seconds=seconds) if seconds else None


def _window(connection: Connection, credentials: dict[str, Any]) -> tuple[datetime, datetime] | None:
    lifetime = float(credentials.get("lifetime") or USUAL)
    if connection.expires_at is None or lifetime < SHORTEST:
        return None
    lead = min(max(LEAST_LEAD, LEAD * lifetime), LONGEST_LEAD * lifetime)
    latest = connection.expires_at - timedelta(seconds=lead)
    return latest - timedelta(seconds=WINDOW * lifetime), latest


def _last_refresh(connection: Connection) -> datetime:
    return max(connection.refreshed_at or connection.connected_at, connection.connected_at)


def _between(earliest: datetime, latest: datetime) -> datetime:
    return earliest + (latest - earliest) * random.random()  # noqa: S311 - jitter
