"""A service that leads in a circle: it answers, so it is not down."""

from __future__ import annotations

from typing import Any

import pytest

from apps.lib import breaker
from apps.toolkits.services import put
from apps.workspaces.audit import SYSTEM
from tests.api.shop import fails
from tests.cast import Cast
from tests.peers.upstream import Upstream

pytestmark = pytest.mark.django_db


def tool(slug: str, path: str) -> dict[str, Any]:
    return {"slug": slug, "name": slug, "description": slug, "method": "GET", "path": path}


def test_redirects_in_a_circle_do_not_shut_the_host_off(cast: Cast, upstream: Upstream, settings: Any) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    upstream.reset()
    tools = [tool("circle", "/redirect") | {"fixed_query": {"to": "#here"}}, tool("look", "/echo/look")]
    document = {"name": "Maze", "base_url": upstream.url, "auth": [{"type": "api_key"}], "tools": tools}
    put(cast.project, "maze", document, SYSTEM)
    cast.api.post("integrations/configure", {"toolkit": "maze"})
    body = {"toolkit": "maze", "userId": "u1", "credentials": {"apiKey": "k"}, "verify": False}
    assert cast.api.post("integrations/connections/import", body).status_code == 201
    for _ in range(breaker.THRESHOLD + 1):
        answer = cast.api.post("integrations/execute", {"toolName": "MAZE_CIRCLE", "userId": "u1"})
        assert fails(answer, 502, "INTEGRATIONS_EXECUTION_FAILED")["message"] == "The provider redirects too often."
    answer = cast.api.post("integrations/execute", {"toolName": "MAZE_LOOK", "userId": "u1"})
    assert answer.status_code == 200, answer.content
    upstream.reset()
