"""Database connections."""

from __future__ import annotations

from django.db import connection


def release() -> None:
    """Gives a pooled connection back before something slow (an outbound call, a wait) is done without it.

    Kept inside a transaction, and where there is no pool: opening a connection anew would cost more than keeping it.
    """
    pooled = bool(connection.settings_dict.get("OPTIONS", {}).get("pool"))
    if pooled and connection.connection is not None and not connection.in_atomic_block:
        connection.close()
