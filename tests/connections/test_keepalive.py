"""The proactive refresh: who is due when, what one beat does, and whom it leaves alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.connections import due, keepalive, oauth, refresh, tasks
from apps.connections.models import Connection, Integration
from apps.connections.oauth import Token, TokenError
from apps.lib import breaker
from apps.lib.errors import TimedOut
from apps.workspaces.models import AuditEvent
from tests.cast import Cast, connect, enable
from tests.connections.test_refresh import Provider, again, held, provider, renew

__all__ = ["provider"]
pytestmark = pytest.mark.usefixtures("own_toolkits")
HOUR = 3600
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _no_circuits() -> Iterator[None]:
    breaker._circuits.clear()
    yield
    breaker._circuits.clear()


@pytest.fixture
def integration(cast: Cast) -> Integration:
    return enable(cast.project, "wayward")


def overdue(integration: Integration, user: str = "u1", seconds: float = 200, **changes: Any) -> Connection:
    """A connection whose token expires in so many seconds, found due."""
    made = connect(integration, user, seconds=seconds)
    Connection.objects.filter(pk=made.pk).update(refresh_due_at=timezone.now() - timedelta(seconds=5), **changes)
    return made


def dies_of_disuse(monkeypatch: pytest.MonkeyPatch, life: timedelta | None) -> None:
    monkeypatch.setattr(due, "disuse", lambda connection: life)


def beat() -> Counter[str]:
    """What one beat's tasks do, one after the other."""
    keepalive.plan()
    return sum((keepalive.refresh_some(ids) for ids in keepalive.claim()), Counter())


# -- When -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("lifetime", "earliest", "latest"),
    [(300, 180, 120), (600, 360, 240), (3600, 1080, 360), (86_400, 25_920, 8640)],
)
def test_a_token_is_due_in_a_window_before_its_expiry(
    integration: Integration, lifetime: int, earliest: int, latest: int
) -> None:
    connection = connect(integration, seconds=lifetime, lifetime=lifetime)
    moments = [
        due.next_due(connection, {"refresh_token": "r", "lifetime": lifetime}, timezone.now()) for _ in range(300)
    ]
    assert connection.expires_at is not None
    before = [(connection.expires_at - moment).total_seconds() for moment in moments]
    assert latest <= min(before) < max(before) <= earliest
    assert max(before) - min(before) > 0.9 * (earliest - latest)
    assert latest > refresh.margin({"lifetime": lifetime}).total_seconds()  # before the callers see it as stale


def test_a_token_of_which_only_the_expiry_is_known_is_due_before_it(integration: Integration) -> None:
    connection = connect(integration, seconds=HOUR, lifetime=None)
    moment = due.next_due(connection, {"refresh_token": "r"}, timezone.now())
    assert connection.expires_at is not None
    assert timedelta(minutes=6) <= connection.expires_at - moment <= timedelta(minutes=18)


@pytest.mark.parametrize("lifetime", [1, 60, 299, None])
def test_a_token_that_lives_for_minutes_or_for_ever_is_left_to_its_callers(
    integration: Integration, lifetime: int | None
) -> None:
    connection = connect(integration, seconds=lifetime, lifetime=lifetime)
    now = timezone.now()
    assert due.next_due(connection, {"refresh_token": "r", "lifetime": lifetime}, now) == now + due.LOOK_AGAIN


def test_a_refresh_token_is_due_between_half_and_four_fifths_of_its_life(
    integration: Integration, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies_of_disuse(monkeypatch, 20 * DAY)
    connection = connect(integration, seconds=None, lifetime=None)
    now = connection.connected_at
    moments = [(due.next_due(connection, {"refresh_token": "r"}, now) - now) / DAY for _ in range(300)]
    assert 10 <= min(moments) < 11
    assert 15 < max(moments) <= 16
    connection.refreshed_at = now + 5 * DAY
    assert due.next_due(connection, {"refresh_token": "r"}, now) >= now + 15 * DAY


def test_the_life_of_a_refresh_token_is_the_toolkits(cast: Cast) -> None:
    connection = connect(enable(cast.project, "gmail"))
    assert due.disuse(connection) == 180 * DAY  # six months without use
    connection.integration.toolkit = "gone"
    assert due.disuse(connection) is None


def test_what_cannot_be_refreshed_is_never_due(integration: Integration) -> None:
    connection = connect(integration, refresh_token="")
    keepalive.plan()
    assert again(connection).refresh_due_at == due.NEVER
    Connection.objects.filter(pk=connection.pk).update(auth_type="api_key", refresh_due_at=None)
    keepalive.plan()
    assert again(connection).refresh_due_at == due.NEVER


def test_a_thousand_connections_made_at_once_are_due_spread_over_minutes(cast: Cast) -> None:
    integration = enable(cast.project, "wayward")
    first = connect(integration)
    now = timezone.now()
    rows = []
    for number in range(1000):
        row = Connection(
            id=f"ca_{number}", project=cast.project, integration=integration, toolkit="wayward", auth_type="oauth2",
            end_user=first.end_user, is_primary=False, expires_at=now + timedelta(hours=1),
        )  # fmt: skip
        row.seal("credentials", {"access_token": "a", "refresh_token": "r", "lifetime": HOUR})
        rows.append(row)
    Connection.objects.bulk_create(rows)
    assert keepalive.plan() == keepalive.PLANNED_AT_ONCE
    keepalive.plan()
    moments = Connection.objects.values_list("refresh_due_at", flat=True)
    minutes = Counter(int((moment - now).total_seconds() // 60) for moment in moments if moment is not None)
    assert sum(minutes.values()) == 1001
    assert set(minutes) == set(range(42, 54))  # from 3,600 - 1,080 to 3,600 - 360 seconds
    assert max(minutes.values()) < 1.6 * 1000 / 12
    # And no beat of half a minute finds more than its share of the window's twenty-four.
    beats = Counter(int((moment - now).total_seconds() // 30) for moment in moments if moment is not None)
    assert max(beats.values()) < 2 * 1000 / 24


# -- A beat -----------------------------------------------------------------------------------------------------------
def test_a_due_token_is_refreshed_before_any_caller_needs_it(integration: Integration, provider: Provider) -> None:
    connection = overdue(integration)
    assert beat() == {"refreshed": 1}
    row = again(connection)
    assert held(connection)["access_token"] == "at-2"
    assert (row.version, row.lease_owner, row.refresh_failures) == (2, "", 0)
    assert row.refresh_due_at is not None
    assert row.expires_at is not None
    assert timedelta(minutes=6) <= row.expires_at - row.refresh_due_at <= timedelta(minutes=18)
    assert beat() == {}
    assert provider.asked == ["rt-1-secret"]


def test_who_was_refreshed_by_a_caller_meanwhile_is_not_asked_for_again(
    integration: Integration, provider: Provider
) -> None:
    connection = overdue(integration)
    chunks = keepalive.claim()
    refresh.fresh_credentials(again(connection), failed_version=1)
    assert keepalive.refresh_some(chunks[0]) == {"not due": 1}
    assert len(provider.asked) == 1


def test_two_workers_with_the_same_connection_make_one_refresh(integration: Integration, provider: Provider) -> None:
    connection = overdue(integration)
    provider.meanwhile = lambda: keepalive.refresh_some([connection.pk])
    assert keepalive.refresh_some([connection.pk]) == {"refreshed": 1}
    assert keepalive.refresh_some([connection.pk]) == {"not due": 1}
    assert len(provider.asked) == 1
    row = again(connection)
    assert row.refresh_due_at is not None
    assert row.refresh_due_at > timezone.now() + timedelta(minutes=30)


def test_who_was_refreshed_between_the_look_and_the_lease_is_not_refreshed_again(
    integration: Integration, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = overdue(integration)
    before = breaker.before

    def a_caller_is_faster(key: str) -> None:
        refresh.fresh_credentials(again(connection), failed_version=1)
        before(key)

    monkeypatch.setattr(breaker, "before", a_caller_is_faster)
    assert beat() == {"busy": 1}
    assert len(provider.asked) == 1
    row = again(connection)
    assert (row.version, row.lease_owner) == (2, "")
    assert row.refresh_due_at is not None
    assert row.refresh_due_at > timezone.now() + timedelta(minutes=30)


def test_who_is_being_refreshed_is_left_to_that(integration: Integration, provider: Provider) -> None:
    connection = overdue(integration)
    assert refresh._take_lease(again(connection), "a caller", timezone.now())
    assert beat() == {"busy": 1}
    assert again(connection).lease_owner == "a caller"
    assert provider.asked == []


def test_a_claim_lasts_until_a_killed_worker_is_given_up(integration: Integration) -> None:
    connection = overdue(integration)
    now = timezone.now()
    assert keepalive.claim(now) == [[connection.pk]]
    assert keepalive.claim(now) == []
    assert keepalive.claim(now + keepalive.CLAIM + timedelta(seconds=1)) == [[connection.pk]]


def test_callers_are_served_by_the_old_token_while_it_is_refreshed_ahead(
    integration: Integration, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = overdue(integration)
    seen: list[str] = []
    provider.meanwhile = lambda: seen.append(refresh.fresh_credentials(again(connection))["access_token"])
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    beat()
    assert seen == ["at-1-secret"]


def test_who_was_not_used_lately_is_not_kept_fresh(integration: Integration, provider: Provider) -> None:
    connection = overdue(integration, connected_at=timezone.now() - 40 * DAY, last_used_at=timezone.now() - 8 * DAY)
    assert beat() == {"not due": 1}
    row = again(connection)
    assert row.refresh_due_at is not None
    assert row.refresh_due_at > timezone.now() + 29 * DAY
    assert provider.asked == []
    used = overdue(integration, "u2", connected_at=timezone.now() - 40 * DAY, last_used_at=timezone.now() - 6 * DAY)
    assert beat() == {"refreshed": 1}
    assert again(used).version == 2


def test_a_refresh_token_is_kept_alive_without_any_use(
    integration: Integration, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies_of_disuse(monkeypatch, 20 * DAY)
    long_ago = timezone.now() - 12 * DAY
    connection = overdue(integration, seconds=-11 * 86_400, connected_at=long_ago, refreshed_at=long_ago)
    assert beat() == {"refreshed": 1}
    row = again(connection)
    assert row.refresh_due_at is not None
    # Refreshed anew, its token is due in an hour; then nobody has used it, and only the refresh token counts.
    Connection.objects.filter(pk=row.pk).update(refresh_due_at=timezone.now())
    assert beat() == {"not due": 1}
    row = again(connection)
    assert row.refresh_due_at is not None
    assert 9.9 * DAY < row.refresh_due_at - timezone.now() < 16.1 * DAY
    assert len(provider.asked) == 1


def test_a_provider_that_is_down_is_tried_again_later_and_later(integration: Integration, provider: Provider) -> None:
    connection = overdue(integration)
    provider.error = TokenError("temporarily_unavailable")
    waits = []
    for _ in range(4):
        Connection.objects.filter(pk=connection.pk).update(refresh_due_at=timezone.now(), refresh_not_before=None)
        assert beat() == {"failed for now": 1}
        row = again(connection)
        assert row.refresh_due_at is not None
        waits.append((row.refresh_due_at - timezone.now()).total_seconds())
    assert row.status == Connection.Status.ACTIVE
    assert row.refresh_failures == 4
    assert 59 < waits[0] < 91
    assert 479 < waits[3] < 721
    provider.error = None
    Connection.objects.filter(pk=connection.pk).update(refresh_due_at=timezone.now(), refresh_not_before=None)
    assert beat() == {"refreshed": 1}


def test_a_provider_that_does_not_answer_is_left_alone_and_the_others_go_on(
    cast: Cast, integration: Integration, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = enable(cast.project, "strict")
    for number in range(30):
        overdue(integration, f"a{number}")
        overdue(other, f"b{number}")
    asked: Counter[str] = Counter()

    def ask(scheme: Any, client: Any, refresh_token: str) -> Token:
        asked[scheme.token_url] += 1
        if "wayward" in scheme.token_url:
            raise TimedOut
        return Token("at-2", "rt-2", HOUR)

    monkeypatch.setattr(oauth, "refresh", ask)
    monkeypatch.setattr(keepalive, "SLOW", 0.0)  # as if each had taken the whole time-out
    outcomes = beat()
    assert outcomes == {
        "refreshed": 30,
        "failed for now": breaker.THRESHOLD,
        "provider is down": 30 - breaker.THRESHOLD,
    }
    assert sorted(asked.values()) == [breaker.THRESHOLD, 30]
    assert beat() == {}  # none of them at once again
    assert not Connection.objects.filter(status=Connection.Status.EXPIRED).exists()


def test_a_dead_grant_needs_the_person_and_is_never_asked_for_again(
    integration: Integration, provider: Provider
) -> None:
    connection = overdue(integration)
    provider.error = TokenError("invalid_grant", dead=True)
    assert beat() == {"needs the person": 1}
    row = again(connection)
    assert (row.status, row.refresh_due_at) == (Connection.Status.EXPIRED, None)
    assert AuditEvent.objects.filter(action="connection.expired", target=connection.pk).count() == 1
    Connection.objects.filter(pk=connection.pk).update(refresh_due_at=timezone.now())
    assert beat() == {}
    assert keepalive.refresh_some([connection.pk]) == {"gone": 1}
    assert len(provider.asked) == 1


def test_a_reconnected_account_is_planned_anew(integration: Integration, provider: Provider) -> None:
    connection = overdue(integration)
    provider.error = TokenError("invalid_grant", dead=True)
    beat()
    renew(connection)
    assert beat() == {}
    row = again(connection)
    assert row.refresh_due_at is not None
    assert row.refresh_due_at > timezone.now() + timedelta(minutes=30)


def test_who_was_disconnected_meanwhile_is_gone(integration: Integration, provider: Provider) -> None:
    connection = overdue(integration)
    chunks = keepalive.claim()
    Connection.objects.filter(pk=connection.pk).delete()
    assert keepalive.refresh_some(chunks[0]) == {"gone": 1}


def test_accounts_of_a_toolkit_that_is_switched_off_do_not_die_since_they_go_on_working(
    integration: Integration, provider: Provider
) -> None:
    connection = overdue(integration)
    Integration.objects.filter(pk=integration.pk).update(enabled=False)
    assert beat() == {"refreshed": 1}
    assert again(connection).version == connection.version + 1


def test_credentials_that_do_not_open_stop_nobody_else(
    integration: Integration, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    lost, unplanned = overdue(integration), connect(integration, "u2")
    good = overdue(integration, "u3")
    Connection.objects.filter(pk__in=[lost.pk, unplanned.pk]).update(credentials="jf1:lost:AAAA")
    assert beat() == {"does not open": 1, "refreshed": 1}
    assert again(good).version == 2
    assert lost.pk in caplog.text
    assert "AAAA" not in caplog.text


# -- Many -------------------------------------------------------------------------------------------------------------
def many_overdue(integration: Integration, count: int, since: datetime) -> None:
    first = connect(integration, f"first-{integration.toolkit}")
    rows = [
        Connection(
            id=f"ca_{integration.toolkit}_{number}", project=integration.project, integration=integration,
            toolkit=integration.toolkit, auth_type="oauth2", end_user=first.end_user, is_primary=False,
            credentials=first.credentials, refresh_due_at=since + timedelta(seconds=number / 1000),
        )
        for number in range(count)
    ]  # fmt: skip
    Connection.objects.bulk_create(rows)


def test_after_a_long_standstill_a_beat_does_as_much_as_always(integration: Integration) -> None:
    now = timezone.now()
    many_overdue(integration, 1000, now - 2 * DAY)
    chunks = keepalive.claim(now)
    assert sum(map(len, chunks)) == keepalive.MOST
    assert max(map(len, chunks)) == keepalive.CHUNK
    assert len({pk for ids in chunks for pk in ids}) == keepalive.MOST
    assert sum(map(len, keepalive.claim(now))) == 1000 - keepalive.MOST


def test_toolkits_share_a_beat_and_a_large_one_does_not_crowd_out_a_small_one(
    cast: Cast, integration: Integration, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    many_overdue(integration, 300, now - 2 * DAY)
    many_overdue(enable(cast.project, "strict"), 100, now - DAY)
    many_overdue(enable(cast.project, "strict-post"), 10, now - timedelta(minutes=1))
    monkeypatch.setattr(keepalive, "MOST", 150)
    chunks = keepalive.claim(now)
    toolkits = Counter(pk.split("_")[1] for ids in chunks for pk in ids)
    assert toolkits == {"strict-post": 10, "strict": 70, "wayward": 70}
    assert {ids[0].split("_")[1] for ids in chunks[:3]} == set(toolkits)  # they take turns


def test_a_task_that_takes_too_long_gives_the_rest_back(
    integration: Integration, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        overdue(integration, f"u{number}")
    monkeypatch.setattr(keepalive, "BUDGET", -1.0)
    assert beat() == {"given back": 3}
    assert provider.asked == []
    waits = [row.refresh_due_at - timezone.now() for row in Connection.objects.all() if row.refresh_due_at]
    assert len(waits) == 3
    assert max(waits) <= timedelta(seconds=30)


def test_the_beat_hands_lists_of_ids_to_the_workers(
    integration: Integration, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = overdue(integration)
    sent: list[Any] = []
    monkeypatch.setattr(tasks.refresh_ahead, "apply_async", lambda arguments, **options: sent.append(arguments))
    assert tasks.keep_alive() == 1
    assert sent == [([connection.pk],)]
    tasks.refresh_ahead(*sent[0])
    assert again(connection).version == 2
