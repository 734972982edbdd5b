"""The installation's own OAuth client, whose secret no project may have sent anywhere but to the toolkit's provider."""

from __future__ import annotations

from typing import Any

import pytest

from apps.connections import access
from apps.connections.models import Integration
from apps.workspaces.models import AuditEvent
from tests.api.shop import fails
from tests.cast import Cast, enable

ELSEWHERE = "https://thief.example/token"


@pytest.fixture(autouse=True)
def _clients(settings: Any) -> None:
    slugs = ("github", "gitlab", "mastodon", "outlook", "salesforce")
    settings.JACKFIELD_PLATFORM_CLIENTS = dict.fromkeys(slugs, "id:platform-secret")


@pytest.mark.parametrize(
    ("slug", "overrides"),
    [
        *(("github", {name: ELSEWHERE}) for name in access.SECRET_URLS),
        ("gitlab", {"variables": {"host": "thief.example"}}),
        ("mastodon", {"variables": {"host": "thief.example"}}),
        ("outlook", {"token_url": "https://{tenant}.thief.example/token"}),
        ("salesforce", {"token_url": "https://thief.example/{instance_url}"}),
    ],
)
def test_a_project_cannot_have_it_sent_elsewhere(cast: Cast, slug: str, overrides: dict[str, Any]) -> None:
    api = cast.with_key("admin", "connect")
    body = {"toolkit": slug, "settings": overrides}
    refused = fails(api.post("integrations/configure", body), 400, "VALIDATION_INVALID_SCHEMA")
    assert list(refused["details"]) == ["settings"]
    row = Integration.objects.create(project=cast.project, toolkit=slug, settings=overrides)  # from before the rule
    assert access.oauth_client(row) is None
    own = body | {"oauthCredentials": {"clientId": "own", "clientSecret": "own-secret"}}
    assert api.post("integrations/configure", own).status_code == 200
    row.refresh_from_db()
    client = access.oauth_client(row)
    assert client is not None
    assert client.secret == "own-secret"


def test_where_a_project_has_its_calls_go_is_audited(cast: Cast) -> None:
    for url in ("https://a.example/token", "https://b.example/token"):
        enable(cast.project, "github", overrides={"token_url": url})
    enable(cast.project, "github", overrides={"token_url": "https://b.example/token"})
    events = AuditEvent.objects.filter(target="github").order_by("created_at", "id")
    assert [event.details["settings"] for event in events] == [
        ["token_url: https://a.example/token"],
        ["token_url: https://b.example/token"],
        None,
    ]


@pytest.mark.parametrize(
    ("slug", "overrides"),
    [
        ("github", {}),
        ("github", {"base_url": "https://api.github.com/v3"}),
        ("github", {"token_url": "https://github.com/another/path"}),
        ("github", {"token_url": "http://127.0.0.1:9/token"}),  # which the operator has named
        ("gitlab", {"variables": {"host": "gitlab.com"}}),
        ("outlook", {"variables": {"tenant": "contoso.example"}}),
        ("salesforce", {"variables": {"login_host": "test.salesforce.com"}}),
    ],
)
def test_it_serves_where_the_provider_stays_the_same(
    cast: Cast, settings: Any, slug: str, overrides: dict[str, Any]
) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.1"
    assert cast.api.post("integrations/configure", {"toolkit": slug, "settings": overrides}).status_code == 200
    client = access.oauth_client(Integration.objects.get(toolkit=slug))
    assert client is not None
    assert (client.secret, client.own) == ("platform-secret", False)
