"""JSON Web Tokens: of members (made by login), of end users (minted by a key, or signed by a project's issuers)."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from django.conf import settings
from django.utils import timezone

from apps.lib import errors
from apps.lib.ids import random_id

from .models import JwtIssuer, MemberSession, Project, User
from .services import clean_user_id
from .signing_keys import PublicKey, key_sets, read_pem

log = logging.getLogger(__name__)

MEMBER_TYPE = "jf-member+jwt"
USER_TYPE = "jf-user+jwt"
USER_SCOPES = frozenset({"connect", "execute", "runs"})
MEMBER_LIFETIME = timedelta(minutes=15)
REFRESH_PREFIX = "jf_rt_"
LATEST = 2**53  # beyond it, and for infinity, a JSON number is no time (RFC 8259 section 6)


@dataclass(frozen=True)
class UserClaims:
    """Whom an end user's token speaks for; ``role`` only where the project's issuer maps one."""

    user_id: str
    role: str = ""
    scopes: frozenset[str] = USER_SCOPES
    toolkits: frozenset[str] = frozenset()  # none: every toolkit


def _key(purpose: str) -> bytes:
    """A signing key of its own for each purpose, so that one kind of token never passes for another."""
    return hmac.digest(settings.SECRET_KEY.encode(), f"jackfield.{purpose}".encode(), hashlib.sha256)


def is_member_token(token: str) -> bool:
    """Whether the token says of itself (unchecked) that it is a member's."""
    try:
        return bool(jwt.get_unverified_header(token).get("typ") == MEMBER_TYPE)
    except (jwt.InvalidTokenError, ValueError):
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


def mint_user_token(
    project: Project,
    user_id: str,
    seconds: int,
    *,
    scopes: Iterable[str] = USER_SCOPES,
    toolkits: Iterable[str] = (),
) -> tuple[str, datetime]:
    """A token with which one end user of one project calls; permits no more than the key permits that mints it."""
    now = datetime.now(UTC).replace(microsecond=0)
    expires_at = now + timedelta(seconds=seconds)
    claims = {
        "iss": settings.JACKFIELD_URL,
        "aud": f"jackfield:{project.pk}",
        "sub": user_id,
        "iat": now,
        "exp": expires_at,
        "jti": random_id(16),
        "scopes": sorted(USER_SCOPES & set(scopes)),
        "toolkits": sorted(toolkits),
    }
    return jwt.encode(claims, _key("user"), algorithm="HS256", headers={"typ": USER_TYPE}), expires_at


def verify_user_token(project: Project, token: str) -> UserClaims:
    """The end user that a token speaks for: minted by us, or signed by one of the project's issuers.

    Raises `InvalidUserToken`, `UserTokenExpired`.
    """
    try:
        unverified = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError):
        raise errors.InvalidUserToken from None
    header, claims = unverified["header"], unverified["payload"]
    if header.get("typ") == USER_TYPE:
        return _minted(project, token)
    issuer = _issuer_named(project, claims.get("iss"))
    if issuer is None:
        raise errors.InvalidUserToken("No issuer of the project has the iss of this user token.")
    return _signed(issuer, token, header)


def project_of(token: str) -> str:
    """The id of the project that a user's token is for, where no path says it: unchecked, `verify_user_token` comes next.

    A token that we minted names it in ``aud``. One of an issuer names only the issuer, which must be that of one project
    alone. Raises `InvalidUserToken`.
    """
    try:
        unverified = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError):
        raise errors.InvalidUserToken from None
    is_minted = unverified["header"].get("typ") == USER_TYPE
    name = unverified["payload"].get("aud" if is_minted else "iss")
    if not isinstance(name, str) or not name.isprintable():  # a database takes neither NUL nor a lone surrogate
        raise errors.InvalidUserToken
    if is_minted:
        return name.removeprefix("jackfield:")
    found = list(JwtIssuer.objects.filter(issuer=name).values_list("project_id", flat=True)[:2])
    if len(found) != 1:
        raise errors.InvalidUserToken(
            "No project, or more than one, has the iss of this user token.",
            remediation="Use a token of POST /v1/{appId}/user-tokens: it names its project.",
        )
    return str(found[0])


def _issuer_named(project: Project, name: object) -> JwtIssuer | None:
    if not isinstance(name, str) or not name.isprintable():  # a database takes neither NUL nor a lone surrogate
        return None
    return JwtIssuer.objects.filter(project=project, issuer=name).first()


def _minted(project: Project, token: str) -> UserClaims:
    claims = _checked(token, _key("user"), "HS256", issuer=settings.JACKFIELD_URL, audience=f"jackfield:{project.pk}")
    scopes = frozenset(claims.get("scopes", USER_SCOPES))
    return UserClaims(_user_id(claims, "sub"), scopes=scopes, toolkits=frozenset(claims.get("toolkits", ())))


def _signed(issuer: JwtIssuer, token: str, header: dict[str, Any]) -> UserClaims:
    # The issuer's method decides the algorithm, never the token (RFC 8725 section 3.1): a public key is never taken
    # for a shared secret. A key set holds keys of several kinds, each good for its own algorithm alone.
    algorithm = str(header.get("alg")) if issuer.method == JwtIssuer.Method.JWKS else issuer.method
    key = _verification_key(issuer, algorithm, header.get("kid"))
    if key is None:
        raise errors.InvalidUserToken
    claims = _checked(
        token, key, algorithm, issuer=issuer.issuer, audience=issuer.audience or None, leeway=issuer.leeway
    )
    return UserClaims(_user_id(claims, issuer.user_claim), _role(claims, issuer.role_claim))


def _verification_key(issuer: JwtIssuer, algorithm: str, kid: Any) -> bytes | PublicKey | None:
    if issuer.method == JwtIssuer.Method.HS256:
        return str(issuer.unseal("secret") or "").encode() or None
    if issuer.method == JwtIssuer.Method.JWKS:
        return key_sets.find(issuer.jwks_url, kid, algorithm)
    try:
        return read_pem(issuer.public_key, issuer.method)
    except ValueError:
        log.warning("the public key of issuer %s does not fit its method", issuer.pk)
        return None


def _checked(
    token: str, key: Any, algorithm: str, *, issuer: str, audience: str | None, leeway: float = 0
) -> dict[str, Any]:
    """The claims of a token that is right in every point; whether it has expired is asked last."""
    options: Any = {
        "require": ["exp", "iss"],
        "verify_exp": False,
        "verify_aud": audience is not None,
        "verify_sub": False,
        "verify_jti": False,
        "enforce_minimum_key_length": True,
    }
    try:
        claims = jwt.decode(
            token, key, algorithms=[algorithm], issuer=issuer, audience=audience, leeway=leeway, options=options
        )
    except (jwt.PyJWTError, TypeError, NotImplementedError):
        raise errors.InvalidUserToken from None
    expires_at = claims["exp"]
    if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)) or not expires_at < LATEST:
        raise errors.InvalidUserToken("This user token's exp is not a time in seconds.")
    if expires_at <= time.time() - leeway:
        raise errors.UserTokenExpired
    return claims


def _user_id(claims: dict[str, Any], claim: str) -> str:
    try:
        return clean_user_id(claims.get(claim))
    except errors.InvalidInput:
        raise errors.InvalidUserToken(f"This user token's claim {claim} is not a user id.") from None


def _role(claims: dict[str, Any], claim: str) -> str:
    role = claims.get(claim) if claim else None
    return role if isinstance(role, str) else ""


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
    session = MemberSession.objects.usable().filter(pk=claims["sid"], user=claims["sub"]).select_related("user").first()
    if session is None or not session.user.is_active:
        raise errors.InvalidMemberToken
    return session.user


def mint_refresh_token(session_id: str) -> str:
    """A refresh token: 256 random bits under a signature, so that one long replaced is still known as ours."""
    body = f"{session_id}.{secrets.token_urlsafe(32)}"
    return f"{REFRESH_PREFIX}{body}.{_signature(body)}"


def session_of(refresh_token: str) -> str | None:
    """The id of the session that a refresh token was made for; None for one that we did not make."""
    body, _, signature = refresh_token.removeprefix(REFRESH_PREFIX).rpartition(".")
    genuine = hmac.compare_digest(signature.encode(), _signature(body).encode())
    return body.partition(".")[0] if body and genuine else None


def digest_of(refresh_token: str) -> str:
    return hashlib.sha256(refresh_token.encode()).hexdigest()


def _signature(text: str) -> str:
    return hmac.new(_key("refresh"), text.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()
