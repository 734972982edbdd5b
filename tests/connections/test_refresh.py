"""Who refreshes and whose token counts, with the other callers put in between on purpose."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.connections import oauth, refresh
from apps.connections.models import Connection, Integration
from apps.connections.oauth import Token, TokenError
from apps.connections.refresh import fresh_credentials
from apps.lib.errors import ConnectionExpired, NotConnected, RefreshUnavailable, TimedOut
from apps.workspaces.models import AuditEvent
from tests.cast import Cast, connect, enable

pytestmark = pytest.mark.usefixtures("own_toolkits")
STALE = -1.0


@pytest.fixture
def integration(cast: Cast) -> Integration:
    return enable(cast.project, "wayward")


class Provider:
    """Stands in for the token endpoint: gives tokens at-2, at-3, …; ``meanwhile`` runs while it is being asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.meanwhile: Callable[[], Any] | None = None
        self.error: Exception | None = None
        self.answer: dict[str, Any] = {}

    def __call__(self, scheme: Any, client: Any, refresh_token: str) -> Token:
        self.asked.append(refresh_token)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        if self.error is not None:
            raise self.error
        number = len(self.asked) + 1
        fields: dict[str, Any] = {
            "access_token": f"at-{number}",
            "refresh_token": f"rt-{number}",
            "lifetime": 3600,
        } | self.answer
        return Token(**fields)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    provider = Provider()
    monkeypatch.setattr(oauth, "refresh", provider)
    return provider


def again(connection: Connection) -> Connection:
    """The same row as another process holds it."""
    return Connection.objects.select_related("integration__project", "project").get(pk=connection.pk)


def held(connection: Connection) -> dict[str, Any]:
    found: dict[str, Any] = again(connection).unseal("credentials")
    return found


def renew(connection: Connection, **credentials: Any) -> None:
    """The person reconnects, elsewhere, just now."""
    other = again(connection)
    other.seal("credentials", {"access_token": "at-new", "refresh_token": "rt-new", "lifetime": 3600} | credentials)
    other.version += 1
    other.expires_at = timezone.now() + timedelta(hours=1)
    other.status, other.lease_owner, other.lease_until = Connection.Status.ACTIVE, "", None
    other.save()


def test_a_fresh_token_is_used_as_it_is(integration: Integration, provider: Provider) -> None:
    assert fresh_credentials(connect(integration))["access_token"] == "at-1-secret"
    assert fresh_credentials(connect(integration, "u2", seconds=None))["access_token"] == "at-1-secret"
    assert provider.asked == []


def test_a_stale_token_is_refreshed_and_stored(integration: Integration, provider: Provider) -> None:
    connection = connect(integration, seconds=STALE)
    assert fresh_credentials(connection)["access_token"] == "at-2"
    row = again(connection)
    assert row.unseal("credentials") == {"access_token": "at-2", "refresh_token": "rt-2", "lifetime": 3600}
    assert (row.version, row.lease_owner, row.lease_until, connection.version) == (2, "", None, 2)
    assert row.expires_at is not None
    assert timedelta(minutes=59) < row.expires_at - timezone.now() <= timedelta(hours=1)
    assert AuditEvent.objects.filter(action="connection.refreshed", target=connection.pk).count() == 1


def test_without_a_new_refresh_token_the_old_one_stays(integration: Integration, provider: Provider) -> None:
    provider.answer = {"refresh_token": ""}
    connection = connect(integration, seconds=STALE)
    fresh_credentials(connection)
    assert held(connection)["refresh_token"] == "rt-1-secret"


@pytest.mark.parametrize(
    ("lifetime", "left", "stale"),
    [
        (3600, 61, False),
        (3600, 59, True),
        (100, 11, False),
        (100, 9, True),
        (5, 0.7, False),
        (5, 0.3, True),
        (None, 61, False),
    ],
)
def test_the_margin_is_a_tenth_of_the_lifetime_and_at_most_a_minute(
    integration: Integration, lifetime: int | None, left: float, stale: bool
) -> None:
    connection = connect(integration, seconds=left, lifetime=lifetime)
    assert refresh.is_stale(connection, {"lifetime": lifetime}, timezone.now()) is stale


def test_a_late_holder_does_not_overwrite_a_newer_token(integration: Integration, provider: Provider) -> None:
    connection = connect(integration, seconds=STALE)
    provider.meanwhile = lambda: renew(connection)
    assert fresh_credentials(again(connection))["access_token"] == "at-new"
    assert held(connection)["refresh_token"] == "rt-new"
    assert again(connection).version == 2


def test_a_late_refusal_does_not_end_a_renewed_connection(integration: Integration, provider: Provider) -> None:
    connection = connect(integration, seconds=STALE)
    provider.meanwhile, provider.error = lambda: renew(connection), TokenError("invalid_grant", dead=True)
    assert fresh_credentials(again(connection))["access_token"] == "at-new"
    assert again(connection).status == Connection.Status.ACTIVE


@pytest.mark.parametrize("error", [TokenError("temporarily_unavailable"), TimedOut()])
def test_a_late_failure_does_not_put_a_renewed_connection_off(
    integration: Integration, provider: Provider, error: Exception
) -> None:
    connection = connect(integration, seconds=STALE)
    provider.meanwhile, provider.error = lambda: renew(connection), error
    assert fresh_credentials(again(connection))["access_token"] == "at-new"
    assert again(connection).refresh_not_before is None


def test_who_was_disconnected_meanwhile_is_not_connected(integration: Integration, provider: Provider) -> None:
    connection = connect(integration, seconds=STALE)
    provider.meanwhile = lambda: Connection.objects.filter(pk=connection.pk).delete()
    with pytest.raises(NotConnected):
        fresh_credentials(again(connection))
    with pytest.raises(NotConnected):
        fresh_credentials(connection)
    assert len(provider.asked) == 1


def test_a_second_caller_takes_what_the_first_one_brought(
    integration: Integration, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second caller finds the lease taken, waits, and finds the new token."""
    connection = connect(integration, seconds=STALE)
    first, second = again(connection), again(connection)
    seen: list[str] = []
    waited: list[float] = []

    def first_is_done(seconds: float) -> None:
        waited.append(seconds)
        refresh._store(first, held(first), Token("at-first", "rt-first", 3600))

    assert refresh._take_lease(first, "owner-1", timezone.now())
    monkeypatch.setattr(time, "sleep", first_is_done)
    seen.append(fresh_credentials(second)["access_token"])
    assert seen == ["at-first"]
    assert len(waited) == 1
    assert provider.asked == []


def test_a_lease_is_taken_once_and_again_only_after_its_time(integration: Integration) -> None:
    connection = connect(integration, seconds=STALE)
    now = timezone.now()
    assert refresh._take_lease(again(connection), "one", now)
    assert not refresh._take_lease(again(connection), "two", now)
    assert refresh._take_lease(again(connection), "two", now + refresh.LEASE + timedelta(seconds=1))


def test_a_row_read_too_early_gives_no_lease(integration: Integration, provider: Provider) -> None:
    """Read before somebody else's refresh ended the connection or put it off, neither of which changes its version."""
    ended, put_off = connect(integration, seconds=STALE), connect(integration, "u2", seconds=STALE)
    read_early = [again(ended), again(put_off)]
    provider.error = TokenError("invalid_grant", dead=True)
    with pytest.raises(ConnectionExpired):
        fresh_credentials(ended)
    provider.error = TokenError("temporarily_unavailable")
    with pytest.raises(RefreshUnavailable):
        fresh_credentials(put_off)
    assert [refresh._take_lease(row, "late", timezone.now()) for row in read_early] == [False, False]


def test_the_lease_of_a_killed_process_runs_out_before_callers_lose_patience() -> None:
    assert timedelta(seconds=oauth.TOKEN_TIMEOUT) < refresh.LEASE < timedelta(seconds=refresh.PATIENCE)


def test_the_holder_of_an_expired_lease_writes_nothing(integration: Integration, provider: Provider) -> None:
    connection = connect(integration, seconds=STALE)

    def others_take_over() -> None:
        Connection.objects.filter(pk=connection.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
        assert fresh_credentials(again(connection))["access_token"] == "at-3"

    provider.meanwhile = others_take_over
    assert fresh_credentials(again(connection))["access_token"] == "at-3"
    assert held(connection)["access_token"] == "at-3"
    assert again(connection).version == 2


@pytest.mark.parametrize("refused_first", [False, True])
def test_an_answer_that_is_written_late_is_not_lost(
    integration: Integration, provider: Provider, refused_first: bool
) -> None:
    """The provider rotates: who took the expired lease asks with a token that is dead, and must not end the connection."""
    connection = connect(integration, seconds=STALE)
    other = again(connection)

    def other_is_refused() -> None:
        assert not refresh._end(other, "invalid_grant", owner="other") or refused_first

    def lease_runs_out() -> None:
        Connection.objects.filter(pk=connection.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
        assert refresh._take_lease(other, "other", timezone.now())
        if refused_first:
            other_is_refused()

    provider.meanwhile = lease_runs_out
    assert fresh_credentials(again(connection))["access_token"] == "at-2"
    if not refused_first:
        other_is_refused()
    assert held(connection)["refresh_token"] == "rt-2"
    assert again(connection).status == Connection.Status.ACTIVE


def test_a_dead_grant_needs_the_person_and_says_where(integration: Integration, provider: Provider) -> None:
    provider.error = TokenError("invalid_grant", dead=True)
    connection = connect(integration, seconds=STALE)
    for _ in range(3):
        with pytest.raises(ConnectionExpired) as caught:
            fresh_credentials(again(connection))
    assert len(provider.asked) == 1
    assert caught.value.details["connectionId"] == connection.pk
    assert caught.value.details["reconnectUrl"] in caught.value.advice
    assert again(connection).status == Connection.Status.EXPIRED


def test_a_provider_that_is_down_is_left_alone_for_a_while(integration: Integration, provider: Provider) -> None:
    provider.error = TokenError("temporarily_unavailable", retry_after=30)
    connection = connect(integration, seconds=STALE)
    for _ in range(3):
        with pytest.raises(RefreshUnavailable) as caught:
            fresh_credentials(again(connection))
    assert len(provider.asked) == 1
    assert 25 <= (caught.value.retry_after or 0) <= 31
    row = again(connection)
    assert (row.status, row.refresh_failures, row.lease_owner) == (Connection.Status.ACTIVE, 1, "")
    Connection.objects.filter(pk=row.pk).update(refresh_not_before=timezone.now())
    provider.error = None
    assert fresh_credentials(again(connection))["access_token"] == "at-3"
    assert again(connection).refresh_failures == 0


def test_the_pause_grows_to_a_minute_at_most(integration: Integration, provider: Provider) -> None:
    provider.error = TimedOut()
    connection = connect(integration, seconds=STALE)
    pauses = []
    for _ in range(12):
        Connection.objects.filter(pk=connection.pk).update(refresh_not_before=None)
        with pytest.raises(RefreshUnavailable):
            fresh_credentials(again(connection))
        until = again(connection).refresh_not_before
        assert until is not None
        pauses.append((until - timezone.now()).total_seconds())
    assert 0.5 < pauses[0] <= 2
    assert 25 < pauses[-1] <= 60


def test_the_old_token_serves_on_while_it_is_valid(integration: Integration, provider: Provider) -> None:
    provider.error = TokenError("temporarily_unavailable")
    connection = connect(integration, seconds=30)
    assert fresh_credentials(again(connection))["access_token"] == "at-1-secret"
    assert fresh_credentials(again(connection))["access_token"] == "at-1-secret"
    assert len(provider.asked) == 1


def test_nobody_waits_while_the_old_token_is_valid(
    integration: Integration, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect(integration, seconds=30)
    assert refresh._take_lease(again(connection), "somebody", timezone.now())
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    assert fresh_credentials(again(connection))["access_token"] == "at-1-secret"
    assert provider.asked == []


def test_a_refused_version_is_refreshed_and_a_newer_one_is_taken(integration: Integration, provider: Provider) -> None:
    connection = connect(integration)
    slow_caller = again(connection)
    assert fresh_credentials(again(connection), failed_version=1)["access_token"] == "at-2"
    assert fresh_credentials(slow_caller, failed_version=1)["access_token"] == "at-2"
    assert provider.asked == ["rt-1-secret"]


def test_a_refused_token_does_not_serve_on_while_the_provider_is_down(
    integration: Integration, provider: Provider
) -> None:
    provider.error = TokenError("temporarily_unavailable")
    with pytest.raises(RefreshUnavailable):
        fresh_credentials(connect(integration), failed_version=1)


def test_an_expired_token_without_refresh_token_needs_the_person(integration: Integration, provider: Provider) -> None:
    connection = connect(integration, seconds=STALE, refresh_token="")
    with pytest.raises(ConnectionExpired):
        fresh_credentials(connection)
    assert again(connection).status == Connection.Status.EXPIRED
    nearly = connect(integration, "u2", seconds=5, refresh_token="")
    assert fresh_credentials(nearly)["access_token"] == "at-1-secret"
    assert provider.asked == []


def test_a_toolkit_that_is_gone_is_no_dead_grant(integration: Integration, provider: Provider) -> None:
    connection = connect(integration, seconds=STALE)
    Integration.objects.filter(pk=integration.pk).update(client_id="")
    with pytest.raises(RefreshUnavailable):
        fresh_credentials(again(connection))
    assert again(connection).status == Connection.Status.ACTIVE
    assert provider.asked == []
