"""People, tenants and keys for tests, and a client that calls the API as one of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.test import Client
from django.utils import timezone

from apps.connections.integrations import configure
from apps.connections.models import Connection, Integration
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import SCOPES, Project, Role, User, Workspace
from apps.workspaces.services import add_member, create_project, create_workspace, end_user, issue_key

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Answer

PASSWORD = "correct horse battery staple"
EVERY_SCOPE = list(SCOPES)


class Api:
    """Calls one project's API with one key or token. ``.get("integrations/tools")`` gives the response."""

    def __init__(self, project: Project, key: str) -> None:
        self.project = project
        self.key = key
        self.client = Client()

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        given: dict[str, Any] = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
        if self.key:
            given.setdefault("HTTP_AUTHORIZATION", f"Bearer {self.key}")
        data = body if isinstance(body, (bytes, str)) else b"" if body is None else json.dumps(body)
        url = path if path.startswith("/") else f"/v1/{self.project.pk}/{path}"
        return self.client.generic(method, url, data, content_type="application/json", **given)

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("POST", path, body, **headers)

    def patch(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("PATCH", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Answer:
        return self.call("DELETE", path, **headers)


@dataclass
class Cast:
    """Two tenants. ``api`` calls as Alice's project key with every scope; ``foreign`` as Charlie's."""

    alice: User
    bob: User
    charlie: User
    workspace: Workspace
    project: Project
    key: str
    foreign_workspace: Workspace
    foreign_project: Project
    foreign_key: str

    @property
    def api(self) -> Api:
        return Api(self.project, self.key)

    @property
    def foreign(self) -> Api:
        """Charlie's key at Alice's project."""
        return Api(self.project, self.foreign_key)

    def with_key(self, *scopes: str, **options: Any) -> Api:
        """A client with a fresh key of these scopes."""
        secret = issue_key(self.workspace, "test", SYSTEM, project=self.project, scopes=list(scopes), **options)[1]
        return Api(self.project, secret)


def make_cast() -> Cast:
    alice = User.objects.create_user("alice@example.com", PASSWORD, name="Alice")
    bob = User.objects.create_user("bob@example.com", PASSWORD, name="Bob")
    charlie = User.objects.create_user("charlie@example.com", PASSWORD, name="Charlie")
    workspace = create_workspace("Acme", alice, SYSTEM)
    add_member(workspace, bob, Role.VIEWER, SYSTEM)
    other = create_workspace("Globex", charlie, SYSTEM)
    project = create_project(workspace, "Shop", SYSTEM)
    foreign = create_project(other, "Rival", SYSTEM)
    return Cast(
        alice=alice,
        bob=bob,
        charlie=charlie,
        workspace=workspace,
        project=project,
        key=issue_key(workspace, "all", SYSTEM, project=project, scopes=EVERY_SCOPE)[1],
        foreign_workspace=other,
        foreign_project=foreign,
        foreign_key=issue_key(other, "all", SYSTEM, project=foreign, scopes=EVERY_SCOPE)[1],
    )


def enable(project: Project, slug: str, base_url: str = "", **options: Any) -> Integration:
    """Switches a toolkit on, with an OAuth client, at a base URL of the test's."""
    overrides = {"base_url": base_url} if base_url else {}
    overrides |= options.pop("overrides", {})
    options = {"client_id": "client", "client_secret": "client-secret"} | options
    return configure(project, slug, SYSTEM, overrides=overrides, **options)


def connect(
    integration: Integration, user_id: str = "u1", *, seconds: float | None = 3600, **credentials: Any
) -> Connection:
    """A stored OAuth connection whose token lives for so many seconds (None: for ever)."""
    tokens = {"access_token": "at-1-secret", "refresh_token": "rt-1-secret", "lifetime": 3600} | credentials
    connection = Connection(
        project=integration.project,
        integration=integration,
        toolkit=integration.toolkit,
        auth_type="oauth2",
        end_user=end_user(integration.project, user_id),
        expires_at=None if seconds is None else timezone.now() + timedelta(seconds=seconds),
    )
    connection.seal("credentials", tokens)
    connection.save()
    return connection
