"""Personal keys: of one end user, made, listed and revoked by that person.

Whoever may act here is a `Caller` of the kind ``end_user``: by the person's token, or by the session of the page on which
they look after their keys. That session begins with a link that an integrator asks for: dated, good for ten minutes and for
one browser. It is a signed cookie; it ends after four hours, when the person leaves, and with the end user.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core import signing
from django.core.cache import cache
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from apps.lib import errors
from apps.lib.ids import random_id

from . import services
from .audit import Actor, record
from .callers import Caller, with_implied
from .models import ApiKey, EndUser

PERMITS = frozenset({"connect", "execute"})
KEYS_A_PERSON = 50  # that are usable: a token that leaked must not fill the plan
LISTED = 500
LINK_SECONDS = 600
SESSION_SECONDS = 4 * 3600
LINK_SALT = "jackfield.key-link"
SESSION_SALT = "jackfield.key-session"


# -- The keys --------------------------------------------------------------------------------------------------------
def require_person(caller: Caller) -> None:
    """Raises `NotPermitted` for a key: one that could make others would outlive its own revocation."""
    if caller.kind != "end_user":
        raise errors.NotPermitted("API keys are managed with the end user's token, or on their own page.")


def keys_of(caller: Caller) -> QuerySet[ApiKey]:
    """The person's own, revoked ones too."""
    return ApiKey.objects.filter(project=caller.project, end_user__external_id=caller.user_id)


def newest(caller: Caller) -> list[ApiKey]:
    return list(keys_of(caller).order_by("-created_at", "-pk")[:LISTED])


@transaction.atomic
def create(caller: Caller, name: str, toolkits: list[str], expires_at: datetime | None) -> tuple[ApiKey, str]:
    """A key that permits no more than the caller may; an empty list: every toolkit of the caller's.

    Gives the row and the key, which is not kept. Raises `NotPermitted`, `PlanLimitReached`.
    """
    scopes = sorted(PERMITS & caller.scopes)
    if not scopes:
        raise errors.NotPermitted("This token permits nothing that a key could.")
    for slug in toolkits:
        caller.require_toolkit(slug)
    user = services.end_user(caller.project, caller.user_id or "")
    EndUser.objects.select_for_update().get(pk=user.pk)  # one asks at a time
    if keys_of(caller).usable().count() >= KEYS_A_PERSON:  # type: ignore[attr-defined] # the manager's QuerySet
        raise errors.PlanLimitReached(
            f"At most {KEYS_A_PERSON} keys of your own may be in use.", remediation="Revoke one that is no longer used."
        )
    return services.issue_key(
        caller.workspace,
        name,
        caller.actor,
        project=caller.project,
        end_user=user,
        scopes=scopes,
        toolkits=toolkits or sorted(caller.toolkits),
        expires_at=expires_at,
    )


def revoke(caller: Caller, key_id: str) -> ApiKey:
    """Ends a key of the person's; one that was revoked stays so. Raises `NotFound`."""
    key = keys_of(caller).select_related("project", "workspace").filter(pk=key_id).first()
    if key is None:
        raise errors.NotFound
    services.revoke_key(key, caller.actor)
    return key


# -- The page's session ----------------------------------------------------------------------------------------------
class BadLink(Exception):
    """Not a link of ours, too old, or already used."""


@dataclass(frozen=True)
class PageLink:
    url: str
    expires_at: datetime


def make_link(caller: Caller, user_id: str) -> PageLink:
    """A link to the page of one end user's keys; with no more rights there than the caller has.

    Raises `NotPermitted` for a person's own key: it makes no further ones, on no way.
    """
    if caller.kind == "key" and caller.user_id is not None:
        raise errors.NotPermitted("A user's own key makes no further keys.")
    user = services.end_user(caller.project, user_id)
    data = [caller.project.pk, user.pk, sorted(PERMITS & caller.scopes), sorted(caller.toolkits), random_id(20)]
    record(caller.actor, "key_link.made", user_id, project=caller.project)
    token = signing.dumps(data, salt=LINK_SALT, compress=True)
    return PageLink(f"{settings.JACKFIELD_URL}/me/enter/{token}", timezone.now() + timedelta(seconds=LINK_SECONDS))


def read_link(token: str, ip: str) -> Caller:
    """Whose link it is; changes nothing. Raises `BadLink`."""
    data = _loads(token, LINK_SALT, LINK_SECONDS)
    if data is None or cache.get(_used(data)) is not None:
        raise BadLink
    person = _person(data, ip)
    if person is None:
        raise BadLink
    return person


def take_link(token: str, ip: str) -> tuple[Caller, str]:
    """Uses a link up; gives who it is for, and the session's cookie. Raises `BadLink`."""
    person = read_link(token, ip)
    data = _loads(token, LINK_SALT, LINK_SECONDS)
    if data is None or not cache.add(_used(data), 1, 2 * LINK_SECONDS):
        raise BadLink
    return person, signing.dumps(data, salt=SESSION_SALT, compress=True)


def person_of(cookie: str, ip: str) -> Caller | None:
    """Whose session a cookie is; None where it is none, or is over."""
    data = _loads(cookie, SESSION_SALT, SESSION_SECONDS)
    if data is None or cache.get(_over(data)) is not None:
        return None
    return _person(data, ip)


def end_session(cookie: str) -> None:
    """Ends the session of a cookie, wherever a copy of it lies."""
    data = _loads(cookie, SESSION_SALT, SESSION_SECONDS)
    if data is not None:
        cache.set(_over(data), 1, SESSION_SECONDS)


def _used(data: list[Any]) -> str:
    return f"jackfield.key-link.{data[-1]}"


def _over(data: list[Any]) -> str:
    return f"jackfield.key-session-over.{data[-1]}"


def _loads(text: str, salt: str, seconds: int) -> list[Any] | None:
    try:
        data = signing.loads(text, salt=salt, max_age=seconds)
    except (signing.BadSignature, ValueError):
        return None
    return data if isinstance(data, list) and len(data) == 5 else None


def _person(data: list[Any], ip: str) -> Caller | None:
    project_id, user_pk, scopes, toolkits, _ = data
    rows = EndUser.objects.select_related("project__workspace__plan")
    user = rows.filter(pk=user_pk, project=project_id).first()  # a purged person's link and session are over
    if user is None:
        return None
    return Caller(
        kind="end_user",
        project=user.project,
        scopes=with_implied(scopes),
        actor=Actor(f"end-user:{user.external_id}", ip),
        user_id=user.external_id,
        toolkits=frozenset(toolkits),
    )
