"""API keys: made once, kept as a hash, ended at once."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from django.utils import timezone

from apps.lib.errors import InvalidApiKey, InvalidInput
from apps.runs.journal import journal
from apps.workspaces.audit import SYSTEM
from apps.workspaces.callers import find_key
from apps.workspaces.models import ApiKey, AuditEvent
from apps.workspaces.services import issue_key, revoke_key
from tests.api.shop import Shop
from tests.cast import Cast


def test_a_key_has_256_random_bits_behind_a_known_prefix(cast: Cast) -> None:
    secrets = {issue_key(cast.workspace, "k", SYSTEM)[1] for _ in range(50)}
    assert len(secrets) == 50
    for secret in secrets:
        assert secret.startswith("jf_sk_")
        assert len(secret.removeprefix("jf_sk_")) == 43  # 32 bytes in base64


def test_only_the_hash_is_kept(cast: Cast) -> None:
    key, secret = issue_key(cast.workspace, "k", SYSTEM)
    assert key.digest == hashlib.sha256(secret.encode()).hexdigest()
    row = ApiKey.objects.filter(pk=key.pk).values().get()
    assert secret not in str(row)
    assert key.prefix == secret[:12]
    event = AuditEvent.objects.get(action="key.issued", target=key.pk)
    assert secret not in str(event.details)


def test_reading_a_secret_is_never_among_a_keys_scopes_by_default(cast: Cast) -> None:
    assert issue_key(cast.workspace, "k", SYSTEM)[0].scopes == ["connect", "execute", "runs"]


def test_an_unknown_scope_is_named(cast: Cast) -> None:
    with pytest.raises(InvalidInput) as caught:
        issue_key(cast.workspace, "k", SYSTEM, scopes=["root"])
    assert list(caught.value.details) == ["scopes"]


def test_a_star_among_toolkits_is_every_toolkit(cast: Cast) -> None:
    assert issue_key(cast.workspace, "k", SYSTEM, toolkits=["*"])[0].toolkits == []


def test_a_key_is_found_until_it_is_revoked_or_expires(cast: Cast) -> None:
    key, secret = issue_key(cast.workspace, "k", SYSTEM, expires_at=timezone.now() + timedelta(minutes=1))
    assert find_key(secret).pk == key.pk
    assert revoke_key(key, SYSTEM) is True
    assert revoke_key(key, SYSTEM) is False
    with pytest.raises(InvalidApiKey):
        find_key(secret)
    old, expired = issue_key(cast.workspace, "k", SYSTEM, expires_at=timezone.now())
    with pytest.raises(InvalidApiKey):
        find_key(expired)
    assert list(ApiKey.objects.usable().filter(pk__in=[key.pk, old.pk])) == []
    assert AuditEvent.objects.filter(action="key.revoked", target=key.pk).count() == 1


@pytest.mark.parametrize("secret", ["", "\x00", "ä", "\udc80", "x" * 100_000])
def test_no_text_at_all_breaks_the_search(cast: Cast, secret: str) -> None:
    with pytest.raises(InvalidApiKey):
        find_key(secret)


def test_a_key_tells_when_it_was_last_used(shop: Shop) -> None:
    before = timezone.now()
    shop.api.post("integrations/execute", {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"})
    journal.flush()
    key = ApiKey.objects.get(digest=ApiKey.digest_of(shop.cast.key))
    assert key.last_used_at is not None
    assert key.last_used_at >= before


def test_a_key_that_only_reads_is_in_use_too(cast: Cast) -> None:
    cast.api.get("integrations/connections")
    journal.flush()
    assert ApiKey.objects.get(digest=ApiKey.digest_of(cast.key)).last_used_at is not None
