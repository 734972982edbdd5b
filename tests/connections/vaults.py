"""A project with auth sessions at a toolkit of its own, whose service is the upstream peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from apps.connections import auth_operations, auth_sessions
from apps.connections.auth_sessions import Session
from apps.connections.models import AuthOperation, Connection
from apps.lib import broker
from apps.toolkits.services import put
from apps.workspaces.audit import SYSTEM, Actor
from apps.workspaces.services import change_settings
from tests.cast import Api, Cast
from tests.peers.upstream import Upstream

ACTOR = Actor("key:test")
GOOD, OTHER, BAD = "key-that-is-good", "key-that-is-also-good", "key-that-is-wrong"
KEY = {"type": "api_key", "placement": {"in": "header", "name": "Authorization", "prefix": "Bearer "}}
OPTIONS = {"createAttempts": 3, "checkAttempts": 3, "autoRecreate": True, "requestTimeout": 600}
TOOL = {
    "slug": "look",
    "name": "Look",
    "description": "Looks.",
    "method": "GET",
    "path": "/echo/look",
    "parameters": {"q": {"in": "query", "type": "string"}},
}


@dataclass
class Vault:
    """The toolkit `vault` is switched on for Alice's project, and so are auth sessions of it."""

    cast: Cast
    upstream: Upstream

    @property
    def api(self) -> Api:
        return self.cast.api

    def put(self, *auth: dict[str, Any], test: str = f"/bearer/{GOOD}", **more: Any) -> None:
        """Describes the toolkit anew: its service takes the good key, or whatever ``test`` is a path of."""
        document: dict[str, Any] = {
            "name": "Vault",
            "base_url": self.upstream.url,
            "auth": list(auth) or [KEY],
            "tools": [TOOL],
            **({"test": {"path": test}} if test else {}),
            **more,
        }
        put(self.cast.project, "vault", document, SYSTEM)

    def switch(self, toolkit: str | None) -> None:
        change_settings(self.cast.project, {"authSessions": {"toolkit": toolkit} if toolkit else None}, SYSTEM)

    def create(self, name: str | None = "u1", key: str = GOOD, **options: Any) -> AuthOperation:
        """Begun, not carried."""
        given = OPTIONS | options
        proxy = given.pop("proxy", None)
        return auth_operations.start_create(self.cast.project, name, {"api_key": key}, given, proxy, ACTOR)

    def session(self, name: str = "u1") -> Session:
        return auth_sessions.find(self.cast.project, name)

    def account(self, name: str = "u1") -> Connection:
        """The session's connection."""
        found = self.session(name).connection
        assert found is not None
        return found

    def ready(self, name: str = "u1", key: str = GOOD) -> Session:
        """A session that was created."""
        assert carried(self.create(name, key)).status == "done"
        return self.session(name)

    def update(self, name: str = "u1", key: str = OTHER, **options: Any) -> AuthOperation:
        given = OPTIONS | options
        return auth_operations.start_update(self.cast.project, self.session(name), {"api_key": key}, given, None, ACTOR)

    def validate(self, name: str = "u1", **options: Any) -> AuthOperation:
        return auth_operations.start_validate(self.cast.project, self.session(name), OPTIONS | options, None, ACTOR)


def carried(operation: AuthOperation) -> AuthOperation:
    """The operation after a worker's turn."""
    auth_operations.carry(operation.pk)
    return AuthOperation.objects.select_related("project").get(pk=operation.pk)


def told(operation: AuthOperation) -> tuple[str, str, bool]:
    """Category, code, and whether another try may help, of an operation that failed."""
    assert operation.status == "failed", operation.status
    error = auth_operations.error_of(operation)
    return error["category"], error["code"], error["retirable"]


@pytest.fixture
def vault(cast: Cast, upstream: Upstream, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Vault:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    upstream.reset()
    monkeypatch.setattr(auth_sessions, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(auth_sessions, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(broker, "hand", lambda *args, **kwargs: True)
    made = Vault(cast, upstream)
    made.put()
    assert cast.api.post("integrations/configure", {"toolkit": "vault"}).status_code == 200
    made.switch("vault")
    return made
