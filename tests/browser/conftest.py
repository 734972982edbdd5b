"""What the browser tests share."""

from __future__ import annotations

import pytest

from tests.browser.axe import Axe
from tests.peers.fixtures import cannot_have
from tests.peers.process import PeerUnavailable


@pytest.fixture(scope="session")
def axe() -> Axe:
    try:
        return Axe()
    except PeerUnavailable as error:
        cannot_have("axe-core", str(error))
