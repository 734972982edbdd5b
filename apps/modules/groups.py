"""Groups of people who may answer for one another: every change of them."""

from __future__ import annotations

from collections.abc import Iterable

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction

from apps.lib.errors import InvalidInput
from apps.workspaces.audit import Actor, record
from apps.workspaces.models import Project

from .models import Group

MAX_MEMBERS = 500


def create(project: Project, name: str, members: Iterable[str], actor: Actor) -> Group:
    """Raises `InvalidInput` for a name that is taken or empty, and for what is no e-mail address."""
    return _store(Group(project=project), name, members, actor, "group.created")


def change(group: Group, name: str, members: Iterable[str], actor: Actor) -> Group:
    """As `create`. Questions that are open already follow the group: they name it, not its members."""
    return _store(group, name, members, actor, "group.changed")


def delete(group: Group, actor: Actor) -> None:
    with transaction.atomic():
        group.delete()
        record(actor, "group.deleted", group.name, project=group.project)


def _store(group: Group, name: str, members: Iterable[str], actor: Actor, action: str) -> Group:
    group.name, group.members = clean_name(name), clean_members(members)
    try:
        with transaction.atomic():
            group.save()
            record(actor, action, group.name, project=group.project, members=group.members)
    except IntegrityError:
        raise InvalidInput({"name": ["The project has a group of this name."]}) from None
    return group


def clean_name(name: str) -> str:
    """A name that ``group:<name>`` can say."""
    found = name.strip()
    if not 0 < len(found) <= 60 or not found.isprintable():
        raise InvalidInput({"name": ["Must be a text of 1 to 60 characters."]})
    return found


def clean_members(members: Iterable[str]) -> list[str]:
    """E-mail addresses in lower case, each once, in the order in which they are given."""
    found = list(dict.fromkeys(member.strip().lower() for member in members if member.strip()))
    faults = [f"{member[:100]} is no e-mail address." for member in found if not _is_email(member)]
    if len(found) > MAX_MEMBERS:
        faults.append(f"A group has at most {MAX_MEMBERS} members.")
    if faults:
        raise InvalidInput({"members": faults})
    return found


def _is_email(text: str) -> bool:
    try:
        validate_email(text)
    except ValidationError:
        return False
    return True
