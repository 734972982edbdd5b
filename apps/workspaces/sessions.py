"""Members signed in over the API: by e-mail, password and code; a refresh token, replaced at every use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

from allauth.account.adapter import get_adapter
from allauth.core import context
from allauth.core.internal import ratelimit
from allauth.mfa.base.forms import BaseAuthenticateForm
from allauth.mfa.models import Authenticator
from allauth.mfa.utils import is_mfa_enabled
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone

from apps.lib.api import client_ip
from apps.lib.errors import InvalidMemberToken, RateLimited
from apps.lib.ids import row_id

from . import tokens
from .audit import Actor, record
from .models import MemberSession, User

SESSION_LIFETIME = timedelta(days=30)
WRONG = "The e-mail address or the password is wrong, or this account may not sign in here."
SECOND_FACTORS = [Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN]
TOO_MANY = {"too_many_login_attempts", "rate_limited"}


@dataclass(frozen=True)
class SignedIn:
    """A session's current tokens. ``seconds`` is the access token's time to live."""

    user: User
    token: str
    refresh_token: str
    seconds: int


def sign_in(request: HttpRequest, email: str, password: str, code: str = "") -> SignedIn:
    """Starts a session. Throttled as the sign-in page is, and by the same counters.

    Raises `InvalidMemberToken`, with ``{"mfa": true}`` in details where only the code is missing or wrong, and
    `RateLimited`.
    """
    with context.request_context(request):
        user = _check_password(request, email, password)
        if is_mfa_enabled(user, SECOND_FACTORS):
            _check_code(request, user, code)
    return _start(user, request)


def _check_password(request: HttpRequest, email: str, password: str) -> User:
    adapter = get_adapter(request)
    try:
        user = adapter.authenticate(request, email=email, password=password)
    except ValidationError as error:
        raise _throttled(request, error, adapter._get_login_attempts_cache_key(request, email=email)) from None
    if user is None or not user.is_active or not user.is_staff:
        raise InvalidMemberToken(WRONG)
    return user  # type: ignore[no-any-return] # allauth has no types


def _check_code(request: HttpRequest, user: User, code: str) -> None:
    """A code of the authenticator app, once, or a recovery code, once."""
    if not code:
        raise InvalidMemberToken(
            "This account needs a code of its authenticator app, or a recovery code.",
            remediation="Send the code as well: {email, password, code}.",
            details={"mfa": True},
        )
    form = BaseAuthenticateForm({"code": code}, user=user)
    if form.is_valid():
        form.authenticator.record_usage()
        return
    fault = form.errors.as_data()["code"][0]
    if fault.code in TOO_MANY:
        raise _throttled(request, fault, f"mfa-auth-user-{user.pk}")
    raise InvalidMemberToken("This code is not valid, or was used before.", details={"mfa": True})


def _throttled(request: HttpRequest, error: ValidationError, key: str) -> RateLimited:
    """Too many failed tries, with the seconds until the first of them no longer counts."""
    waits = [1.0]
    for rate in ratelimit.get_rates(app="allauth.account", action="login_failed"):
        tries = cache.get(
            ratelimit.get_cache_key(request, app="allauth.account", action="login_failed", rate=rate, key=key), []
        )
        if len(tries) >= rate.amount:
            waits.append(tries[-1] + rate.duration - time.time())
    return RateLimited(
        "Too many failed tries to sign in.", retry_after=int(max(waits)) + 1, remediation=RateLimited.remediation
    )


@transaction.atomic
def _start(user: User, request: HttpRequest) -> SignedIn:
    session_id = row_id()
    refresh_token = tokens.mint_refresh_token(session_id)
    MemberSession.objects.create(
        id=session_id,
        user=user,
        refresh_digest=tokens.digest_of(refresh_token),
        expires_at=timezone.now() + SESSION_LIFETIME,
    )
    _audit(user, "member.signed_in", client_ip(request))
    return SignedIn(user, *_access(user, session_id, refresh_token))


def _access(user: User, session_id: str, refresh_token: str) -> tuple[str, str, int]:
    token, seconds = tokens.mint_member_token(user, session_id)
    return token, refresh_token, seconds


def refresh(refresh_token: str, request: HttpRequest) -> SignedIn:
    """New tokens for the newest refresh token. An older one was copied by somebody: it ends the session.

    Raises `InvalidMemberToken`.
    """
    session_id = tokens.session_of(refresh_token)
    if session_id is None:
        raise InvalidMemberToken("This refresh token is not valid.")
    successor = tokens.mint_refresh_token(session_id)
    won = (
        MemberSession.objects.usable()
        .filter(pk=session_id, refresh_digest=tokens.digest_of(refresh_token), user__is_active=True)
        .update(refresh_digest=tokens.digest_of(successor))
    )
    if not won:
        _revoke(session_id, "member.refresh_token_reused", request)
        raise InvalidMemberToken("This refresh token is not valid, or was used before.")
    user = User.objects.get(api_sessions=session_id)
    return SignedIn(user, *_access(user, session_id, successor))


def sign_out(refresh_token: str, request: HttpRequest) -> None:
    """Ends the session; nothing to say where it has ended, or the token is none of ours."""
    session_id = tokens.session_of(refresh_token)
    if session_id is not None:
        _revoke(session_id, "member.signed_out", request)


@transaction.atomic
def _revoke(session_id: str, action: str, request: HttpRequest) -> None:
    won = MemberSession.objects.usable().filter(pk=session_id).update(revoked_at=timezone.now())
    if won:
        _audit(User.objects.get(api_sessions=session_id), action, client_ip(request))


def revoke_all(user: User) -> int:
    """Ends every API session of a person: a new password, or an account switched off, ends what the old one began."""
    return MemberSession.objects.usable().filter(user=user).update(revoked_at=timezone.now())


def forget_expired() -> int:
    """Deletes sessions that are over, a day after; gives their number."""
    over = timezone.now() - timedelta(days=1)
    return MemberSession.objects.filter(Q(expires_at__lt=over) | Q(revoked_at__lt=over)).delete()[0]


def _audit(user: User, action: str, ip: str) -> None:
    for membership in user.memberships.select_related("workspace"):
        record(Actor(f"user:{user.email}", ip), action, user.email, workspace=membership.workspace, by="API")
