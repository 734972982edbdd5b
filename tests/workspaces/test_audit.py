"""The audit log: every change of configuration, by whom, from where, without secrets."""

from __future__ import annotations

from typing import Any

import pytest

from apps.lib.redact import MASK
from apps.workspaces.audit import SYSTEM, Actor, record
from apps.workspaces.models import ApiKey, AuditEvent
from tests.api.shop import Shop
from tests.cast import Cast


def newest() -> AuditEvent:
    return AuditEvent.objects.latest("created_at")


@pytest.mark.parametrize(
    ("method", "path", "body", "action", "target"),
    [
        ("POST", "integrations/configure", {"toolkit": "github"}, "integration.enabled", "github"),
        ("POST", "integrations/configure", {"toolkit": "lab"}, "integration.changed", "lab"),
        ("DELETE", "integrations/configure/lab", None, "integration.disabled", "lab"),
        ("PATCH", "settings", {"colour": "#123456"}, "project.changed", None),
        ("POST", "user-tokens", {"userId": "u7"}, "user_token.minted", "u7"),
        ("DELETE", "end-users/u1", None, "end_user.deleted", "u1"),
    ],
)
def test_every_change_over_the_api_is_recorded(
    shop: Shop, method: str, path: str, body: Any, action: str, target: str | None
) -> None:
    answer = shop.api.call(method, path, body, **{"X-Request-Id": "asked-1"})
    assert answer.status_code < 300
    event = AuditEvent.objects.filter(action=action).latest("created_at")
    key = ApiKey.objects.get(digest=ApiKey.digest_of(shop.cast.key))
    assert event.actor == f"key:{key.pk} {key.name}"
    assert event.target == (target or shop.cast.project.pk)
    assert (event.ip, event.request_id) == ("127.0.0.1", "asked-1")
    assert (event.workspace, event.project) == (shop.cast.workspace, shop.cast.project)


def test_ending_and_confirming_a_connection_is_recorded(shop: Shop) -> None:
    shop.connection.status = "inactive"
    shop.connection.save()
    shop.api.post(f"integrations/connections/{shop.connection.pk}/confirm")
    assert (newest().action, newest().target) == ("connection.confirmed", shop.connection.pk)
    shop.api.delete(f"integrations/connections/{shop.connection.pk}")
    assert (newest().action, newest().target) == ("connection.deleted", shop.connection.pk)


def test_reading_and_refused_calls_are_not_recorded(shop: Shop) -> None:
    before = AuditEvent.objects.count()
    shop.api.get("integrations/connections")
    shop.api.post("integrations/configure", {"toolkit": "no-such"})
    shop.api.patch("settings", {"colour": "red"})
    shop.cast.foreign.post("integrations/configure", {"toolkit": "github"})
    shop.cast.with_key("connect")
    shop.api.delete("integrations/connections/ca_none")
    assert AuditEvent.objects.exclude(action="key.issued").count() == before - AuditEvent.objects.filter(
        action="key.issued").count() + 1  # fmt: skip


def test_no_secret_stands_in_the_log(shop: Shop) -> None:
    client = {"clientId": "public-id", "clientSecret": "very-hidden-1"}
    shop.api.post("integrations/configure", {"toolkit": "github", "oauthCredentials": client})
    shop.api.post("user-tokens", {"userId": "u1"})
    text = str(list(AuditEvent.objects.values()))
    assert "very-hidden-1" not in text
    assert "public-id" in text
    assert shop.cast.key not in text
    assert "eyJ" not in text


def test_details_with_a_secrets_name_are_masked(cast: Cast) -> None:
    record(SYSTEM, "thing.done", "x", project=cast.project, password="hunter2", nested={"api_key": "hunter2"})
    assert newest().details == {"password": MASK, "nested": {"api_key": MASK}}


def test_long_texts_are_cut_to_their_columns(cast: Cast) -> None:
    record(Actor("a" * 500, "::1"), "thing.done", "t" * 500, project=cast.project)
    assert (len(newest().actor), len(newest().target)) == (320, 320)


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [(0, "9.9.9.9", "127.0.0.1"), (1, "9.9.9.9", "9.9.9.9"), (1, "6.6.6.6, 9.9.9.9", "9.9.9.9"),
     (2, "6.6.6.6, 9.9.9.9, 10.0.0.1", "9.9.9.9"), (2, "9.9.9.9", "127.0.0.1"), (1, "", "127.0.0.1")],
)  # fmt: skip
def test_the_callers_address_is_believed_only_behind_named_proxies(
    cast: Cast, settings: Any, proxies: int, forwarded: str, expected: str
) -> None:
    settings.JACKFIELD_TRUSTED_PROXIES = proxies
    cast.api.post("user-tokens", {"userId": "u"}, **{"X-Forwarded-For": forwarded})
    assert newest().ip == expected


def test_the_log_of_a_deleted_project_stays_with_the_workspace(cast: Cast) -> None:
    cast.api.patch("settings", {"colour": "#123456"})
    cast.project.delete()
    event = AuditEvent.objects.get(action="project.changed")
    assert (event.project, event.workspace) == (None, cast.workspace)
