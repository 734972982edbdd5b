"""What every test may use: the cast, and the real servers of tests/peers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.cache import cache

from apps.runs.journal import journal
from tests.cast import Cast, make_cast

pytest_plugins = ["tests.peers.fixtures", "tests.product", "tests.api.shop"]


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


@pytest.fixture
def cast(db: None) -> Cast:
    """Alice owns a workspace, Bob is a viewer of it, Charlie owns another and must see nothing of the first."""
    return make_cast()
