"""A toolkit that is switched off while somebody is connecting: new connections stop, existing ones work on."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from apps.connections import flows, integrations
from apps.connections.models import Connection
from apps.workspaces.audit import SYSTEM
from tests.cast import Cast, connect, enable
from tests.peers.upstream import Upstream


def test_a_flow_already_begun_ends_without_a_connection(cast: Cast, upstream: Upstream) -> None:
    enable(cast.project, "github", overrides={"token_url": f"{upstream.url}/token/ok"})
    started = flows.start_connect(cast.project, "u1", "github")
    state = parse_qs(urlsplit(started.url).query)["state"][0]
    integrations.disable(cast.project, "github", SYSTEM)
    upstream.reset()
    session = flows.take_session(state, "", cast.project.pk)
    with pytest.raises(flows.FlowError) as caught:
        flows.finish_oauth(session, "code", "", SYSTEM)
    assert caught.value.code == "connection_failed"
    assert not Connection.objects.exists()
    assert upstream.count("/token/ok") == 0


def test_an_existing_connection_is_still_found(cast: Cast) -> None:
    connection = connect(enable(cast.project, "github"))
    integrations.disable(cast.project, "github", SYSTEM)
    rows = cast.api.get("integrations/connections").json()["connections"]
    assert [row["id"] for row in rows] == [connection.pk]
    refused = cast.api.post("integrations/connect", {"toolkit": "github", "userId": "u1"})
    assert refused.json()["error"]["code"] == "INTEGRATIONS_TOOLKIT_NOT_ENABLED"
