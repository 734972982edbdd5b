"""Fresh credentials for a call: exactly one refresh, however many callers and processes.

A stale token is refreshed under a lease on its row: one conditional UPDATE on (version, lease) decides who calls the
provider; the result is written by another over exactly that version. No transaction is open during the call. Who does not
get the lease polls the row. On both databases alike.
"""

from __future__ import annotations

import logging
import random
import time
from datetime import datetime, timedelta
from typing import Any, Literal

from django.db import transaction
from django.utils import timezone

from apps.lib.db import release
from apps.lib.errors import ConnectionExpired, NotConnected, RefreshUnavailable, Unreachable
from apps.lib.ids import row_id
from apps.lib.redact import redact_text, secret_values
from apps.toolkits.request import BadParameters
from apps.toolkits.spec import ClientCredentials, OAuth2
from apps.workspaces.audit import SYSTEM, record

from . import access, events, oauth
from .due import is_refreshable as is_refreshable
from .due import next_due
from .models import Connection

log = logging.getLogger(__name__)

LONGEST_MARGIN = 60.0  # seconds before expiry from which a token counts as stale
LEASE = timedelta(seconds=20)  # beyond the 10 s a token call may take, with room for slow writes and clocks apart
PATIENCE = 22.0  # seconds that a caller waits for somebody else's refresh; longer than the lease of one who was killed
FIRST_BACKOFF, LONGEST_BACKOFF = 2.0, 60.0


def margin(credentials: dict[str, Any]) -> timedelta:
    """A tenth of the lifetime, at most a minute: a token of five seconds must not be stale from birth."""
    lifetime = float(credentials.get("lifetime") or 3600)
    return timedelta(seconds=min(LONGEST_MARGIN, lifetime / 10))


def is_stale(connection: Connection, credentials: dict[str, Any], now: datetime) -> bool:
    return connection.expires_at is not None and connection.expires_at - margin(credentials) <= now


def fresh_credentials(connection: Connection, *, failed_version: int | None = None) -> dict[str, Any]:
    """The connection's credentials, refreshed if they are stale.

    ``failed_version`` is the version that the provider just refused: that one is refreshed whatever its age, a newer one is
    taken as it is. The given object is brought up to date.
    Raises `ConnectionExpired` where the person must reconnect, `RefreshUnavailable` where the provider cannot for now.
    """
    credentials: dict[str, Any] = access.completed(connection, connection.unseal("credentials") or {})
    if connection.status == Connection.Status.EXPIRED:
        raise expired(connection)
    if failed_version is None and not is_stale(connection, credentials, timezone.now()):
        return credentials
    if not is_refreshable(connection, credentials):
        if failed_version is None and connection.expires_at is not None and connection.expires_at <= timezone.now():
            _end(connection, "the access token expired and there is no refresh token")
            raise expired(connection)
        return credentials
    return _refreshed(connection, failed_version)


def refresh_ahead(connection: Connection, credentials: dict[str, Any]) -> Literal["refreshed", "failed", "busy"]:
    """Refreshes a token that may still be good, under the lease that callers take; nobody waits for it.

    ``connection`` as it was just read: where anybody has refreshed that version meanwhile, or is at it, or its pause after
    a failure is not over, it is ``busy``. Raises `ConnectionExpired`, `NotConnected`.
    """
    version, owner = connection.version, row_id()
    if not _take_lease(connection, owner, timezone.now()):
        return "busy"
    try:
        _refresh_with_lease(connection, credentials, owner, None)
    except RefreshUnavailable:
        return "failed"
    return "failed" if connection.version == version else "refreshed"


def _refreshed(connection: Connection, failed_version: int | None) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while True:
        credentials = _read_again(connection)
        now = timezone.now()
        if connection.status == Connection.Status.EXPIRED:
            raise expired(connection)
        wanted = connection.version == failed_version or is_stale(connection, credentials, now)
        if not wanted:
            return credentials
        if connection.refresh_not_before and connection.refresh_not_before > now:
            return _make_do(connection, credentials, failed_version)
        owner = row_id()
        if _take_lease(connection, owner, now):
            return _refresh_with_lease(connection, credentials, owner, failed_version)
        if _is_still_good(connection, failed_version) or time.monotonic() >= deadline:
            return _make_do(connection, credentials, failed_version)
        release()
        time.sleep(random.uniform(0.03, 0.12))  # noqa: S311 - jitter


def _read_again(connection: Connection) -> dict[str, Any]:
    """The row as it is by now. Raises `NotConnected` where it was disconnected meanwhile."""
    try:
        connection.refresh_from_db()
    except Connection.DoesNotExist:
        raise NotConnected("The account was disconnected meanwhile.") from None
    credentials: dict[str, Any] = connection.unseal("credentials") or {}
    return credentials


def _take_lease(connection: Connection, owner: str, now: datetime) -> bool:
    """Also of a row that was read before somebody else ended or put off its refresh: that leaves the version as it is."""
    rows = Connection.objects.filter(pk=connection.pk, version=connection.version).free_to_refresh(now)
    rows = rows.exclude(status=Connection.Status.EXPIRED).exclude(refresh_not_before__gt=now)
    return bool(rows.update(lease_owner=owner, lease_until=now + LEASE))


def _make_do(connection: Connection, credentials: dict[str, Any], failed_version: int | None) -> dict[str, Any]:
    """The old token while it is still good; else the provider's trouble is the caller's."""
    if _is_still_good(connection, failed_version):
        return credentials
    wait = connection.refresh_not_before - timezone.now() if connection.refresh_not_before else timedelta(seconds=1)
    raise RefreshUnavailable(retry_after=max(1, int(wait.total_seconds()) + 1))


def _is_still_good(connection: Connection, failed_version: int | None) -> bool:
    """Whether the old token may serve on: stale, but neither expired nor the one that the provider just refused."""
    in_time = connection.expires_at is None or connection.expires_at > timezone.now()
    return in_time and connection.version != failed_version


def _refresh_with_lease(
    connection: Connection, credentials: dict[str, Any], owner: str, failed_version: int | None
) -> dict[str, Any]:
    try:
        token = _call_provider(connection, credentials)
    except oauth.TokenError as error:
        if error.dead:
            if _end(connection, f"the provider refused the refresh: {error.code}", owner=owner):
                raise expired(connection) from None
            return _take_what_is_there(connection)
        said = redact_text(str(error), secret_values(credentials))  # some providers repeat the token that they refuse
        won = _back_off(connection, owner, said, error.retry_after)
    except (Unreachable, BadParameters) as error:
        won = _back_off(connection, owner, str(error), None)
    else:
        return _store(connection, credentials, token)
    return _make_do(connection, credentials, failed_version) if won else _take_what_is_there(connection)


def _take_what_is_there(connection: Connection) -> dict[str, Any]:
    """After somebody else wrote a newer version: theirs counts."""
    _read_again(connection)
    return fresh_credentials(connection)


def _call_provider(connection: Connection, credentials: dict[str, Any]) -> oauth.Token:
    integration = connection.integration
    client = access.client_for(integration, credentials, connection.auth_type)
    if client is None:
        raise oauth.TokenError("no_client", "The integration has no OAuth client.")
    try:
        toolkit = access.toolkit_of(integration)
        values = access.variables(toolkit, integration, connection.variables)
        scheme = access.filled(access.scheme_for(connection, toolkit), integration, values)
    except LookupError as error:
        raise oauth.TokenError("no_scheme", str(error)) from None
    release()
    if isinstance(scheme, ClientCredentials):
        return oauth.client_token(scheme, client, connection.asked_scopes or integration.scopes or scheme.scopes)
    if isinstance(scheme, OAuth2):
        return oauth.refresh(scheme, client, str(credentials["refresh_token"]))
    raise oauth.TokenError("no_scheme", f"{scheme.type} has nothing to refresh")


def _store(connection: Connection, old: dict[str, Any], token: oauth.Token) -> dict[str, Any]:
    """Writes over exactly the version that was refreshed; where a newer one stands, that is taken.

    Also without the lease, which ran out where writing took long: the provider may have ended the old refresh token, and
    this answer is all there is. Who took the lease meanwhile, and was refused for that, finds a newer version, or is undone.
    """
    now = timezone.now()
    credentials = old | stored_token(token) | {"refresh_token": token.refresh_token or old.get("refresh_token", "")}
    connection.expires_at, connection.refreshed_at = expiry(token, now), now
    changes: dict[str, Any] = {
        "credentials": connection.sealed("credentials", credentials),
        "version": connection.version + 1,
        "expires_at": connection.expires_at,
        "refreshed_at": now,
        "refresh_due_at": next_due(connection, credentials, now),
        "lease_owner": "",
        "lease_until": None,
        "refresh_failures": 0,
        "refresh_not_before": None,
        "error": "",
    }
    if token.scopes is not None:
        changes["scopes"] = token.scopes
    if token.raw:
        changes["variables"] = access.moved(connection, token.raw)
    rows = Connection.objects.filter(pk=connection.pk, version=connection.version)
    with transaction.atomic():
        won = rows.exclude(status=Connection.Status.EXPIRED).update(**changes)
        recovered = 0 if won else rows.update(**changes, status=Connection.Status.ACTIVE)
        if won or recovered:
            for name, value in changes.items():
                setattr(connection, name, value)
            record(SYSTEM, "connection.refreshed", connection.pk, project=connection.project)
        if recovered:
            connection.status = Connection.Status.ACTIVE
            events.tell(connection, "recovered")
    if not (won or recovered):
        log.warning("connection %s was written by somebody else during its refresh", connection.pk)
        return _take_what_is_there(connection)
    return credentials


def stored_token(token: oauth.Token) -> dict[str, Any]:
    return {"access_token": token.access_token, "lifetime": token.lifetime}


def expiry(token: oauth.Token, now: datetime) -> datetime | None:
    return now + timedelta(seconds=token.lifetime) if token.lifetime else None


def _end(connection: Connection, reason: str, *, owner: str | None = None) -> bool:
    """Marks the connection as one that only the person can mend; False where a newer version stands there by now."""
    rows = Connection.objects.filter(pk=connection.pk, version=connection.version)
    if owner is not None:
        rows = rows.filter(lease_owner=owner)
    with transaction.atomic():
        won = rows.exclude(status=Connection.Status.EXPIRED).update(
            status=Connection.Status.EXPIRED,
            error=reason[:300],
            lease_owner="",
            lease_until=None,
            refresh_not_before=None,
            refresh_due_at=None,
        )
        if won:
            connection.status, connection.error = Connection.Status.EXPIRED, reason[:300]
            record(SYSTEM, "connection.expired", connection.pk, project=connection.project, reason=reason)
            events.tell_refreshed_failed(connection, reason)
    return bool(won)


def _back_off(connection: Connection, owner: str, reason: str, retry_after: int | None) -> bool:
    """Notes when to try again; False where a newer version stands there by now."""
    failures = min(connection.refresh_failures + 1, 1000)
    seconds = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(failures - 1, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
    wait = max(seconds, min(float(retry_after or 0), LONGEST_BACKOFF))
    connection.refresh_not_before = timezone.now() + timedelta(seconds=wait)
    rows = Connection.objects.filter(pk=connection.pk, version=connection.version, lease_owner=owner)
    won = rows.update(
        lease_owner="",
        lease_until=None,
        refresh_failures=failures,
        refresh_not_before=connection.refresh_not_before,
        error=f"refresh failed for now: {reason}"[:300],
    )
    return bool(won)


def expired(connection: Connection) -> ConnectionExpired:
    """The error with the link on which the person mends it."""
    from .links import reconnect_link

    link = reconnect_link(connection)
    return ConnectionExpired(
        remediation=f"Send the user to {link} to connect the account again.",
        details={"connectionId": connection.pk, "reconnectUrl": link},
        action_url=link,
    )
