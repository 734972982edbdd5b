"""What every test may use: the cast, and the real servers of tests/peers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.cache import cache
from django.db import connection
from pytest_django import DjangoDbBlocker

from apps.runs.journal import journal
from tests.cast import Cast, make_cast

pytest_plugins = [
    "tests.peers.fixtures",
    "tests.product",
    "tests.api.shop",
    "tests.connections.own_toolkits",
    "tests.connections.vaults",
]


@pytest.fixture(autouse=True)
def _nothing_left_over() -> Iterator[None]:
    """Process-wide memory starts empty: the cache with its rate limits, the leases of limits, the execution log."""
    from apps.workspaces import quota

    cache.clear()
    quota._leases.clear()
    yield
    with journal._lock:
        journal._rows.clear()
        journal._connections.clear()
        journal._keys.clear()


@pytest.fixture(scope="session", autouse=True)
def _no_session_left_behind(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """PostgreSQL drops no database that a thread of some test still holds a connection to; those are ended first."""
    yield
    with django_db_blocker.unblock():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        connection.close()


@pytest.fixture
def cast(db: None) -> Cast:
    """Alice owns a workspace, Bob is a viewer of it, Charlie owns another and must see nothing of the first."""
    return make_cast()
