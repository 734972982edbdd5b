"""What a finished flow brings, before it is stored: by an authorization code, by a verifier, by what a person typed.

Every function asks the service and stores nothing. No call here is made inside a transaction.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

from apps.lib import errors
from apps.lib.db import release
from apps.lib.errors import InvalidInput
from apps.lib.redact import redact_text
from apps.toolkits.request import BadParameters
from apps.toolkits.spec import Basic, ClientCredentials, OAuth1, OAuth2, Toolkit

from . import access, oauth, oauth1
from .models import ConnectSession, Integration
from .refresh import expiry, stored_token
from .upstream import Account, NotAsked, profile, verify_credentials

# What providers call a person in an OAuth 1.0a token answer, for those without a profile call.
NAMES = ("screen_name", "username", "fullname", "user_name", "user_id", "user_nsid", "edam_userId")


@dataclass(frozen=True)
class Grant:
    """Credentials that the service has accepted, and what is known of them."""

    credentials: dict[str, Any]
    account: Account = field(default_factory=Account)
    scopes: list[str] = field(default_factory=list)
    expires_at: datetime | None = None
    variables: dict[str, str] = field(default_factory=dict)


def by_code(session: ConnectSession, code: str, iss: str) -> Grant:
    """OAuth 2's code. Raises `TokenError`, `Unreachable`, `BadParameters`, LookupError."""
    integration = session.integration
    toolkit, raw_scheme, client = _of_session(session)
    values = access.variables(toolkit, integration, session.variables)
    scheme: OAuth2 = access.filled(raw_scheme, integration, values)
    if iss and scheme.issuer and iss.rstrip("/") != scheme.issuer.rstrip("/"):
        raise LookupError("the answer comes from another issuer (RFC 9207)")
    release()
    token = oauth.exchange(
        scheme, client, code=code, redirect_uri=session.callback_url, verifier=session.unseal("verifier") or ""
    )
    own = session.variables | access.token_variables(toolkit, token.raw)
    credentials = stored_token(token) | {"refresh_token": token.refresh_token}
    return Grant(
        credentials,
        profile(toolkit, integration, raw_scheme, credentials, own),
        token.scopes if token.scopes is not None else session.scopes,
        expiry(token, timezone.now()),
        own,
    )


def by_verifier(session: ConnectSession, request_token: str, verifier: str) -> Grant:
    """OAuth 1.0a's verifier. Raises `TokenError`, `Unreachable`, `BadParameters`, LookupError."""
    integration = session.integration
    toolkit, raw_scheme, client = _of_session(session)
    temporary: dict[str, str] = session.unseal("verifier") or {}
    if not secrets.compare_digest(temporary.get("oauth_token", "").encode(), request_token.encode()):
        raise LookupError("the answer is for another request token")
    scheme: OAuth1 = access.filled(raw_scheme, integration, access.variables(toolkit, integration, session.variables))
    release()
    credentials, answer = oauth1.access_token(scheme, client, temporary, verifier)
    own = session.variables | access.token_variables(toolkit, answer)
    account = profile(toolkit, integration, raw_scheme, access.with_client(credentials, client), own)
    if not account.label:
        named = next((answer[name] for name in NAMES if answer.get(name)), "")
        account = Account(account.id or named[:255], named[:255], account.picture)
    return Grant(credentials, account, variables=own)


def _of_session(session: ConnectSession) -> tuple[Toolkit, Any, access.OAuthClient]:
    """Raises LookupError where something that the flow began with is gone."""
    toolkit = access.toolkit_of(session.integration)
    client = access.oauth_client(session.integration)
    scheme = toolkit.auth_by_type.get(session.auth_type)
    if client is None or scheme is None or not session.integration.enabled:
        raise LookupError("the toolkit was switched off, or its client was taken away meanwhile")
    return toolkit, scheme, client


def by_form(
    toolkit: Toolkit,
    integration: Integration,
    scheme: Any,
    values: dict[str, str],
    own: dict[str, str],
    scopes: list[str] | None = None,
) -> Grant:
    """What was typed (or imported), accepted by the toolkit's test call; of client credentials, their first token.

    ``scopes`` are asked for in place of the integration's and the toolkit's own.
    Raises `InvalidInput` with the service's words, `NotConfigured` for client credentials without a client.
    """
    if isinstance(scheme, ClientCredentials):
        return _by_client(toolkit, integration, scheme, values, own, scopes or integration.scopes or scheme.scopes)
    if isinstance(scheme, Basic) and ":" in values.get("username", ""):
        raise InvalidInput({"username": [_("Must not have a colon (RFC 7617).")]})
    account = verify_credentials(toolkit, integration, scheme, values, own)
    return Grant(dict(values), account, variables=own)


def _by_client(
    toolkit: Toolkit,
    integration: Integration,
    scheme: ClientCredentials,
    values: dict[str, str],
    own: dict[str, str],
    scopes: list[str],
) -> Grant:
    client = access.client_for(integration, values, scheme.type)
    if client is None:
        raise errors.NotConfigured
    try:
        filled = access.filled(scheme, integration, access.variables(toolkit, integration, own))
        release()
        token = oauth.client_token(filled, client, scopes)
        own = own | access.token_variables(toolkit, token.raw)
    except BadParameters as error:
        raise InvalidInput(error.faults) from None
    except errors.Unreachable as error:
        raise NotAsked(
            {
                "credentials": [
                    _("%(toolkit)s could not be asked: %(reason)s") % {"toolkit": toolkit.name, "reason": error.text}
                ]
            }
        ) from None
    except (oauth.TokenError, LookupError) as error:
        said = redact_text(str(error), [client.secret] if len(client.secret) > 3 else [])
        fault = NotAsked if getattr(error, "code", "") == "temporarily_unavailable" else InvalidInput
        raise fault(
            {"credentials": [_("%(toolkit)s gives no token: %(reason)s") % {"toolkit": toolkit.name, "reason": said}]}
        ) from None
    credentials = stored_token(token)
    if client.personal:
        credentials |= {"client_id": client.id, "client_secret": client.secret}
    account = verify_credentials(toolkit, integration, scheme, credentials, own)
    granted = token.scopes if token.scopes is not None else scopes
    return Grant(credentials, account, granted, expiry(token, timezone.now()), own)
