"""Accounts that somebody else connected: importing credentials, and handing an access token out.

A company that moves here brings its users' tokens along; a shared account is imported for nobody.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from apps.lib import errors, ids, pattern
from apps.lib.db import release
from apps.lib.errors import InvalidInput
from apps.lib.redact import redact_text, secret_values
from apps.toolkits.request import BadParameters
from apps.toolkits.spec import ClientCredentials, OAuth1, OAuth2, Toolkit
from apps.workspaces.audit import Actor, record
from apps.workspaces.models import Project
from apps.workspaces.services import end_user

from . import access, flows, grants, oauth
from .grants import Grant
from .integrations import enabled_integration, find_toolkit
from .models import Connection, ConnectSession, Integration
from .refresh import expiry, fresh_credentials, stored_token
from .upstream import Account, profile, verify_credentials

log = logging.getLogger(__name__)

# (member that must be there, members that may be), in our own spelling; camelCase is taken for it.
OAUTH_MEMBERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "oauth2": (("access_token|refresh_token",), ("access_token", "refresh_token")),
    "oauth1": (("oauth_token", "oauth_token_secret"), ()),
    "client_credentials": ((), ("client_id", "client_secret", "access_token")),
}
LONGEST_CREDENTIAL = 16_000
HUMP = re.compile(r"(?<=[a-z0-9])([A-Z])")


@dataclass(frozen=True)
class Import:
    """What is to be imported. ``user_id`` None: the integration's shared account."""

    toolkit: str
    user_id: str | None
    credentials: dict[str, Any]
    expires_at: datetime | None = None
    scopes: list[str] | None = None
    variables: dict[str, str] | None = None
    auth_scheme: str | None = None
    verify: bool = True
    allow_multiple: bool = False
    label: str | None = None
    metadata: dict[str, Any] | None = None


def import_connection(project: Project, wanted: Import, actor: Actor) -> Connection:
    """Stores credentials that were got elsewhere, once the toolkit's test call has accepted them (``verify``).

    The user's account there is renewed and keeps its id; ``allow_multiple`` adds another. An access token that is stale, or
    that the service refuses, is refreshed first where there is a refresh token.
    Raises `ToolkitNotEnabled`, `InvalidInput`, `PlanLimitReached`; nothing is stored then.
    """
    integration = enabled_integration(project, wanted.toolkit)
    toolkit = find_toolkit(wanted.toolkit, project)
    scheme, credentials = read_credentials(toolkit, integration, wanted.auth_scheme, wanted.credentials)
    check_variables(toolkit, wanted.variables or {}, required=wanted.verify)
    session = _session(project, integration, wanted, scheme.type)
    if (session.end_user is None and wanted.user_id is not None) or _existing(session) is None:
        flows.check_connection_limit(project)
    release()
    grant = proven(toolkit, integration, scheme, credentials, wanted)
    if session.end_user is None and wanted.user_id is not None:
        session.end_user = end_user(project, wanted.user_id)
    connection = flows.store_connection(
        session,
        grant.credentials,
        account=grant.account,
        scopes=grant.scopes,
        expires_at=grant.expires_at,
        own_variables=grant.variables,
        actor=actor,
        needs_confirmation=False,
    )
    if wanted.label is not None or wanted.metadata is not None:
        change(connection, actor, label=wanted.label, metadata=wanted.metadata)
    return connection


def _session(project: Project, integration: Integration, wanted: Import, auth_type: str) -> ConnectSession:
    """What a flow would have led to; it is never stored. The end user is made only with the account."""
    user = None
    if wanted.user_id is not None:
        user = project.end_users.filter(external_id=wanted.user_id).first()
    return ConnectSession(
        project=project,
        integration=integration,
        end_user=user,
        connection_id=ids.connection_id(),
        auth_type=auth_type,
        scopes=wanted.scopes or [],
        allow_multiple=wanted.allow_multiple,
    )


def _existing(session: ConnectSession) -> Connection | None:
    if session.allow_multiple:
        return None
    rows = Connection.objects.filter(integration=session.integration, end_user=session.end_user, is_primary=True)
    return rows.first()


# -- Reading what was sent -------------------------------------------------------------------------------------------
def read_credentials(
    toolkit: Toolkit, integration: Integration, wanted: str | None, given: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The scheme that the credentials are for, and they themselves in our own spelling.

    Without a scheme's name it is the toolkit's first that the members fit. Raises `InvalidInput`.
    """
    if wanted is not None and wanted not in toolkit.auth_by_type:
        raise InvalidInput({"authScheme": [f"This toolkit has: {', '.join(toolkit.auth_by_type)}."]})
    texts = _texts(given)
    found: dict[str, list[str]] = {}
    for scheme in toolkit.auth:
        if wanted is not None and scheme.type != wanted:
            continue
        faults, values = _fit(scheme, integration, texts)
        if not faults:
            return scheme, values
        found = found or faults
    raise InvalidInput(found or {"credentials": ["This toolkit takes none."]})


def _texts(given: dict[str, Any]) -> dict[str, str]:
    faults: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    for name, value in given.items():
        # Header and signature are made of these: one line, as the forms of people take it.
        if not isinstance(value, str) or not value.isprintable() or len(value) > LONGEST_CREDENTIAL:
            faults[f"credentials.{name}"] = ["Must be a text of one line."]
        else:
            texts[HUMP.sub(r"_\1", name).lower()] = value
    if faults:
        raise InvalidInput(faults)
    return texts


def _fit(scheme: Any, integration: Integration, texts: dict[str, str]) -> tuple[dict[str, list[str]], dict[str, str]]:
    required, optional = _members(scheme, integration)
    if scheme.type == "bearer" and "token" not in texts and "access_token" in texts:
        texts = {**texts, "token": texts["access_token"]}
        del texts["access_token"]
    faults = {
        f"credentials.{name.partition('|')[0]}": ["This field is required."]
        for name in required
        if not any(texts.get(one) for one in name.split("|"))
    }
    known = {one for name in required for one in name.split("|")} | set(optional)
    faults |= {f"credentials.{name}": ["Unknown for this kind of account."] for name in texts if name not in known}
    for field in getattr(scheme, "fields", ()):
        if field.pattern and texts.get(field.name) and not pattern.fits(field.pattern, texts[field.name]):
            faults[f"credentials.{field.name}"] = ["Does not look right."]
    if scheme.type == "basic" and ":" in texts.get("username", ""):
        faults["credentials.username"] = ["Must not have a colon (RFC 7617)."]
    return faults, {name: value for name, value in texts.items() if name in known}


def _members(scheme: Any, integration: Integration) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if scheme.type == "client_credentials" and access.oauth_client(integration) is None:
        return ("client_id", "client_secret"), ("access_token",)
    if scheme.type in OAUTH_MEMBERS:
        return OAUTH_MEMBERS[scheme.type]
    required = tuple(field.name for field in scheme.fields if field.required and field.default is None)
    return required, tuple(field.name for field in scheme.fields)


def check_variables(toolkit: Toolkit, given: dict[str, str], *, required: bool) -> None:
    """The toolkit's blanks that are a person's own. Raises `InvalidInput`."""
    faults: dict[str, list[str]] = {}
    for name, value in given.items():
        variable = toolkit.variables.get(name)
        if variable is None or variable.source == "integration":
            faults[f"variables.{name}"] = ["Not among this toolkit's variables."]
        elif not isinstance(value, str) or not variable.accepts(value):
            faults[f"variables.{name}"] = ["Does not look right."]
    for name, variable in toolkit.variables.items():
        if variable.source == "user" and variable.default is None and required and name not in given:
            faults[f"variables.{name}"] = ["This field is required."]
    if faults:
        raise InvalidInput(faults)


# -- Proving them ----------------------------------------------------------------------------------------------------
def proven(
    toolkit: Toolkit, integration: Integration, scheme: Any, credentials: dict[str, Any], wanted: Import
) -> Grant:
    """What the service says of the credentials. Raises `InvalidInput` where it does not accept them, `NotConfigured`."""
    own = dict(wanted.variables or {})
    scopes = wanted.scopes or []
    if isinstance(scheme, OAuth2):
        return _proven_oauth2(toolkit, integration, scheme, credentials, wanted)
    if not wanted.verify:
        kept = {"access_token": ""} | credentials if isinstance(scheme, ClientCredentials) else credentials
        return Grant(kept, Account(), scopes, wanted.expires_at, own)
    if isinstance(scheme, OAuth1):
        client = access.oauth_client(integration)
        if client is None:
            raise errors.NotConfigured
        complete = access.with_client(credentials, client)
        return Grant(credentials, verify_credentials(toolkit, integration, scheme, complete, own), variables=own)
    return grants.by_form(toolkit, integration, scheme, credentials, own, scopes)


def _proven_oauth2(
    toolkit: Toolkit, integration: Integration, scheme: OAuth2, credentials: dict[str, Any], wanted: Import
) -> Grant:
    """Once a provider has rotated the refresh token only the new one is good: that the refresh worked is proof enough."""
    now = timezone.now()
    grant = _unproven_oauth2(credentials, wanted, now)
    if not wanted.verify:
        return grant
    is_stale = grant.expires_at is not None and grant.expires_at <= now
    if is_stale and not credentials.get("refresh_token"):
        raise InvalidInput({"credentials": ["The access token has expired, and there is no refresh token."]})
    if not is_stale:
        try:
            account = verify_credentials(toolkit, integration, scheme, grant.credentials, grant.variables)
            return replace(grant, account=account)
        except InvalidInput:
            if not credentials.get("refresh_token"):
                raise
    fresh = _refreshed(toolkit, integration, scheme, grant)
    return replace(fresh, account=profile(toolkit, integration, scheme, fresh.credentials, fresh.variables))


def _unproven_oauth2(credentials: dict[str, Any], wanted: Import, now: datetime) -> Grant:
    """Without an access token the account counts as stale, so that its first use refreshes it."""
    expires_at = wanted.expires_at
    stored: dict[str, Any] = {"access_token": "", "refresh_token": ""} | credentials
    if not stored["access_token"]:
        expires_at = now - timedelta(seconds=1)
    if expires_at is not None:
        stored["lifetime"] = max(60, int((expires_at - now).total_seconds()))
    return Grant(stored, Account(), wanted.scopes or [], expires_at, dict(wanted.variables or {}))


def _refreshed(toolkit: Toolkit, integration: Integration, scheme: OAuth2, grant: Grant) -> Grant:
    client = access.oauth_client(integration)
    if client is None:
        raise errors.NotConfigured
    try:
        values = access.variables(toolkit, integration, grant.variables)
        token = oauth.refresh(access.filled(scheme, integration, values), client, grant.credentials["refresh_token"])
        own = grant.variables | access.token_variables(toolkit, token.raw)
    except (oauth.TokenError, LookupError) as error:
        said = redact_text(str(error), secret_values(grant.credentials))
        raise InvalidInput({"credentials": [f"{toolkit.name} does not refresh the access token: {said}"]}) from None
    except errors.Unreachable as error:
        raise InvalidInput({"credentials": [f"{toolkit.name} could not be asked: {error.text}"]}) from None
    except BadParameters as error:
        raise InvalidInput(error.faults) from None
    credentials = stored_token(token) | {"refresh_token": token.refresh_token or grant.credentials["refresh_token"]}
    scopes = token.scopes if token.scopes is not None else grant.scopes
    return Grant(credentials, Account(), scopes, expiry(token, timezone.now()), own)


# -- Changing, and handing out ---------------------------------------------------------------------------------------
def change(
    connection: Connection, actor: Actor, *, label: str | None = None, metadata: dict[str, Any] | None = None
) -> Connection:
    """Sets the integrator's own words about a connection; None keeps."""
    changes: dict[str, Any] = {}
    if label is not None:
        changes["label"] = label
    if metadata is not None:
        changes["metadata"] = metadata
    if changes:
        Connection.objects.filter(pk=connection.pk).update(**changes, updated_at=timezone.now())
        record(actor, "connection.changed", connection.pk, project=connection.project, changed=sorted(changes))
        connection.refresh_from_db(fields=[*changes, "updated_at"])
    return connection


def hand_out(connection: Connection, actor: Actor) -> dict[str, Any]:
    """The credential itself, fresh: ``{accessToken, expiresAt, type}``, with ``credentials`` where it is no single token.

    Audited. Raises `ConnectionExpired`, `RefreshUnavailable`, `NotConnected`.
    """
    if connection.status == Connection.Status.INACTIVE:
        raise errors.NotConnected("The connection waits for confirmation.")
    credentials = fresh_credentials(connection)
    record(actor, "connection.token_read", connection.pk, project=connection.project, toolkit=connection.toolkit)
    members = {"api_key": "api_key", "bearer": "token", "oauth1": "oauth_token"}
    token = credentials.get(members.get(connection.auth_type, "access_token"))
    answer: dict[str, Any] = {
        "accessToken": token,
        "expiresAt": connection.expires_at.isoformat() if connection.expires_at else None,
        "type": connection.auth_type,
    }
    if connection.auth_type == "oauth1":
        answer["tokenSecret"] = credentials.get("oauth_token_secret")
    elif connection.auth_type in {"basic", "custom"}:
        answer["credentials"] = credentials
    return answer
