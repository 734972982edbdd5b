"""JSON Web Tokens: of members (made by login), of end users (minted by a key, or signed by a project's issuers)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt
from django.conf import settings
from django.utils import timezone

from apps.lib import errors
from apps.lib.ids import random_id

from .models import Project, User

MEMBER_TYPE = "jf-member+jwt"
USER_TYPE = "jf-user+jwt"
MEMBER_LIFETIME = timedelta(minutes=15)


@dataclass(frozen=True)
class UserClaims:
    """Whom an end user's token speaks for; ``role`` only where the project's issuer maps one."""

    user_id: str
    role: str = ""


def _key(purpose: str) -> bytes:
    """A signing key of its own for each purpose, so that one kind of token never passes for another."""
    return hmac.digest(settings.SECRET_KEY.encode(), f"jackfield.{purpose}".encode(), hashlib.sha256)


def is_member_token(token: str) -> bool:
    """Whether the token says of itself (unchecked) that it is a member's."""
    try:
        return bool(jwt.get_unverified_header(token).get("typ") == MEMBER_TYPE)
    except jwt.InvalidTokenError:
        return False


def mint_member_token(user: User, session_id: str) -> tuple[str, int]:
    """A member's access token and its seconds to live."""
    now = timezone.now()
    claims = {
        "iss": settings.JACKFIELD_URL,
        "aud": "jackfield:members",
        "sub": str(user.pk),
        "sid": session_id,
        "iat": now,
        "exp": now + MEMBER_LIFETIME,
    }
    token = jwt.encode(claims, _key("member"), algorithm="HS256", headers={"typ": MEMBER_TYPE})
    return token, int(MEMBER_LIFETIME.total_seconds())


def mint_user_token(project: Project, user_id: str, seconds: int) -> tuple[str, datetime]:
    """A token with which one end user of one project calls; lives at most as long as asked."""
    now = datetime.now(UTC).replace(microsecond=0)
    expires_at = now + timedelta(seconds=seconds)
    claims = {
        "iss": settings.JACKFIELD_URL,
        "aud": f"jackfield:{project.pk}",
        "sub": user_id,
        "iat": now,
        "exp": expires_at,
        "jti": random_id(16),
    }
    return jwt.encode(claims, _key("user"), algorithm="HS256", headers={"typ": USER_TYPE}), expires_at


def verify_user_token(project: Project, token: str) -> UserClaims:
    """Raises `InvalidUserToken`, `UserTokenExpired`."""
    try:
        claims = jwt.decode(
            token,
            _key("user"),
            algorithms=["HS256"],
            audience=f"jackfield:{project.pk}",
            issuer=settings.JACKFIELD_URL,
            options={"require": ["exp", "sub"]},
        )
    except jwt.ExpiredSignatureError:
        raise errors.UserTokenExpired from None
    except jwt.InvalidTokenError:
        raise errors.InvalidUserToken from None
    return UserClaims(claims["sub"])


def verify_member_token(token: str) -> User:
    """Raises `InvalidMemberToken`."""
    try:
        claims = jwt.decode(
            token,
            _key("member"),
            algorithms=["HS256"],
            audience="jackfield:members",
            issuer=settings.JACKFIELD_URL,
            options={"require": ["exp", "sub", "sid"]},
        )
    except jwt.InvalidTokenError:
        raise errors.InvalidMemberToken from None
    user = User.objects.filter(pk=claims["sub"], is_active=True, api_sessions__pk=claims["sid"]).first()
    if user is None:
        raise errors.InvalidMemberToken
    return user
