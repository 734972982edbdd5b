"""Every change of modules: drafts, publishing, rolling back, keys. Each writes its audit event in the same transaction.

Changes of one module wait for one another: each takes the module's row first (on SQLite the whole database), so that numbers
of versions have no gaps and no twins. What was read before that is compared again: whoever comes second is told.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import Case, CharField, F, Max, Q, QuerySet, Value, When
from django.utils import timezone

from apps.lib import errors, ids
from apps.lib.errors import Conflict, InvalidInput
from apps.workspaces.audit import Actor, record
from apps.workspaces.models import Project

from . import checks
from .checks import Fault
from .definition import NAME_PATTERN, RESERVED_LAST_SEGMENTS, Definition
from .documents import as_yaml, refusal
from .models import Group, Module, ModuleKey, ModuleVersion
from .source import UNSTORABLE

LONGEST_NAME = 150
LONGEST_NOTE = 500
MOST_COMPARED = 5_000 * 5_000  # pairs of lines: at worst a few seconds
LONGEST_GROUP_NAME = 60
MOST_MEMBERS = 1000
LONGEST_OVERLAP = 30 * 86_400  # seconds
LONGEST_SECRET = 500  # characters


@dataclass(frozen=True)
class Published:
    """What publishing made; ``key`` only where the module's key was made by it: it is shown once."""

    module: Module
    version: ModuleVersion
    key: str | None = None


# -- Drafts ----------------------------------------------------------------------------------------------------------
def put_draft(project: Project, name: str, source: str, actor: Actor) -> tuple[Module, bool]:
    """Replaces a module's draft, or makes the module; True where it was made. ``source`` is YAML or JSON.

    A source without a name gets this one. The same source again changes nothing. Raises `InvalidInput` whose details are
    ``{"faults": [{path, line?, message}]}``: then nothing is stored.
    """
    source, definition, faults = examine(project, name, source)
    if definition is None or faults:
        raise refusal(faults)
    data = checks.read(source)[0]
    try:
        with transaction.atomic():
            return _store_draft(project, name, source, definition, data, actor)
    except IntegrityError:  # somebody else made the module in between
        with transaction.atomic():
            return _store_draft(project, name, source, definition, data, actor)


def _store_draft(
    project: Project, name: str, source: str, definition: Definition, data: Any, actor: Actor
) -> tuple[Module, bool]:
    module = Module.objects.living().select_for_update(of=("self",)).filter(project=project, name=name).first()
    made = module is None
    if module is None:
        module = Module(project=project, name=name)
    elif module.source == source:
        module.project = project
        return module, False
    module.project = project
    module.source, module.draft = source, data
    module.draft_changed_at, module.draft_changed_by = timezone.now(), actor.name[:320]
    if module.published_id is None:
        module.title, module.access = definition.title, definition.access
    module.save(force_insert=made, update_fields=None if made else DRAFT_FIELDS)
    record(actor, "module.created" if made else "module.changed", name, project=project)
    return module, made


DRAFT_FIELDS = ["source", "draft", "draft_changed_at", "draft_changed_by", "title", "access", "updated_at"]


def examine(project: Project, name: str, source: str) -> tuple[str, Definition | None, list[Fault]]:
    """The source with its name in it, the definition, and every fault. Stores nothing."""
    fault = name_fault(name)
    if fault:
        return source, None, [Fault("name", fault)]
    named, line = with_name(source, name)
    definition, faults = checks.check(named, project)
    if line is not None:
        faults = [_above(fault, line) for fault in faults]
    if definition is not None and definition.name != name:
        faults = [*faults, Fault("name", f"The path says {name}: leave it out, or say the same.", _line_of_name(named))]
    return named, definition, faults


def name_fault(name: str) -> str:
    """What is wrong with a module's name; an empty text for nothing."""
    if len(name) > LONGEST_NAME or not re.fullmatch(NAME_PATTERN[1:-1], name):
        return f"A name is made of a-z, 0-9, _ and -, with / for folders, at most {LONGEST_NAME} characters."
    last = name.rpartition("/")[2]
    if last in RESERVED_LAST_SEGMENTS:
        return f"A name's last part is none of {', '.join(sorted(RESERVED_LAST_SEGMENTS))}."
    if re.search(r"(^|/)versions/\d+$", name):
        return "A name does not end in versions/ and a number."
    return ""


def with_name(source: str, name: str) -> tuple[str, int | None]:
    """The source with a name in it, and the number of the line that was put in for it; unchanged where there is one.

    A line of its own before the first one of a YAML mapping, as deep as that; in JSON no line of its own.
    """
    data, faults = checks.read(source)
    if faults or not isinstance(data, dict) or "name" in data:
        return source, None
    lines = source.splitlines(keepends=True)
    at = next((index for index, line in enumerate(lines) if not re.match(r"\s*(#|$)|%|---", line)), 0)
    first = lines[at] if lines else ""
    if first.lstrip().startswith("{"):
        begin, brace, rest = first.partition("{")
        comma = ", " if data else ""
        lines[at], put = f'{begin}{brace}"name": "{name}"{comma}{rest.lstrip() if data else rest}', None
    else:
        indent = first[: len(first) - len(first.lstrip(" "))]
        is_text = checks.read(f"name: {name}") == ({"name": name}, [])  # and no number, null or mark of a list
        lines.insert(at, f"{indent}name: {name}\n" if is_text else f'{indent}name: "{name}"\n')
        put = at + 1
    found = "".join(lines)
    again, faults = checks.read(found)
    return (found, put) if not faults and again == {"name": name, **data} else (source, None)


def _above(fault: Fault, line: int) -> Fault:
    """The fault at its line of what was sent, without the line that was put in."""
    if fault.line is None or fault.line < line:
        return fault
    return Fault(fault.path, fault.message, max(1, fault.line - 1))


def _line_of_name(source: str) -> int | None:
    lines = source.splitlines()
    found = (at for at, line in enumerate(lines, 1) if re.match(r"""\s*[{]?\s*["']?name["']?\s*:""", line))
    return next(found, None)


# -- Publishing ------------------------------------------------------------------------------------------------------
def publish(module: Module, actor: Actor, note: str = "") -> Published:
    """Makes a numbered version of the draft and publishes it.

    It is checked once more, for the project may have changed. Raises `InvalidInput` as `put_draft` does, `Conflict` where
    somebody changed the draft meanwhile.
    """
    note = clean_note(note)
    _, definition, faults = examine(module.project, module.name, module.source)
    if definition is None or faults:
        raise refusal(faults)
    with transaction.atomic():
        row = _held(module)
        if row.source != module.source:
            raise Conflict("The draft was changed meanwhile.", remediation="Read it, and publish it again.")
        number = (row.versions.aggregate(last=Max("number"))["last"] or 0) + 1
        version = ModuleVersion.objects.create(
            module=row, number=number, definition=row.draft, source=row.source, note=note, created_by=actor.name[:320]
        )
        _set_published(row, version, definition)
        key = None
        if row.access == Module.Access.API_KEY and not row.keys.usable().exists():
            key = _new_key(row, actor)
        record(
            actor, "module.published", row.name, project=module.project, version=number, note=note, with_key=bool(key)
        )
    return Published(row, version, key)


def clean_note(note: object) -> str:
    """A version's note. Raises `InvalidInput`."""
    if not isinstance(note, str) or len(note) > LONGEST_NOTE or UNSTORABLE.search(note):
        raise InvalidInput({"note": [f"Must be a text of at most {LONGEST_NOTE} characters."]})
    return note.strip()


def _held(module: Module) -> Module:
    """The module as it is now, its row held until the transaction ends. Raises `NotFound` where it was deleted."""
    row = Module.objects.living().select_for_update(of=("self",)).filter(pk=module.pk).first()
    if row is None:
        raise errors.NotFound(f"There is no module {module.name}.")
    row.project = module.project
    return row


def _set_published(row: Module, version: ModuleVersion, definition: Definition) -> None:
    row.published, row.title, row.access = version, definition.title, definition.access
    row.save(update_fields=["published", "title", "access", "updated_at"])


def unpublish(module: Module, actor: Actor) -> bool:
    """Nothing new starts; runs that have begun go on. False where it was not published."""
    with transaction.atomic():
        row = _held(module)
        if row.published_id is None:
            return False
        row.published = None
        row.title, row.access = _title_and_access(row.draft)
        row.save(update_fields=["published", "title", "access", "updated_at"])
        record(actor, "module.unpublished", row.name, project=module.project)
    return True


def _title_and_access(data: Any) -> tuple[str, str]:
    definition = Definition.model_validate(data)
    return definition.title, definition.access


def roll_back(module: Module, number: int, actor: Actor) -> ModuleVersion:
    """Publishes an earlier version again, under its own number; the draft stays. Raises `NotFound`."""
    version = find_version(module, number)
    with transaction.atomic():
        row = _held(module)
        if row.published_id != version.pk:
            _set_published(row, version, Definition.model_validate(version.definition))
            record(actor, "module.rolled_back", row.name, project=module.project, version=number)
    return version


def versions(module: Module) -> QuerySet[ModuleVersion]:
    """Those that were published."""
    return ModuleVersion.objects.filter(module=module, number__isnull=False)


def find_version(module: Module, number: int) -> ModuleVersion:
    """Raises `NotFound`."""
    version = versions(module).filter(number=number).first() if number < 2**31 else None
    if version is None:
        raise errors.NotFound(f"The module {module.name} has no version {number}.")
    version.module = module
    return version


def diff(version: ModuleVersion) -> str:
    """What the version changed of the one before it, as a unified diff of their YAML; empty for the first."""
    if version.number is None:
        return ""
    before = versions(version.module).filter(number__lt=version.number).order_by("-number").first()
    return difference(before, version.source, f"version {version.number}") if before else ""


def draft_diff(module: Module) -> str:
    """What the draft would change of the published version; empty where there is none."""
    return difference(module.published, module.source, "draft") if module.published else ""


def difference(before: ModuleVersion, source: str, name: str) -> str:
    """Of both as YAML: what is sent as JSON may stand on one line."""
    old, new = as_yaml(before.source).splitlines(), as_yaml(source).splitlines()
    if len(old) * len(new) > MOST_COMPARED and old != new:
        return "\n".join([f"--- version {before.number}", f"+++ {name}", *_replaced(old, new)])
    return "\n".join(difflib.unified_diff(old, new, f"version {before.number}", name, lineterm=""))


def _replaced(old: list[str], new: list[str]) -> Iterator[str]:
    """A unified diff in one hunk, from the first line that differs to the last: `difflib` takes the square of the lines."""
    shorter = min(len(old), len(new))
    first = next((n for n in range(shorter) if old[n] != new[n]), shorter)
    last = next((n for n in range(shorter - first) if old[-1 - n] != new[-1 - n]), shorter - first)
    gone, come = old[first : len(old) - last], new[first : len(new) - last]
    yield f"@@ -{first + 1},{len(gone)} +{first + 1},{len(come)} @@"
    yield from (f"-{line}" for line in gone)
    yield from (f"+{line}" for line in come)


def draft_version(module: Module, actor: Actor) -> ModuleVersion:
    """The draft as a version without a number, for a test run; the last one where it is the same still."""
    last = ModuleVersion.objects.filter(module=module, number=None).order_by("-created_at").first()
    if last is not None and last.source == module.source:
        last.module = module
        return last
    return ModuleVersion.objects.create(
        module=module, definition=module.draft, source=module.source, created_by=actor.name[:320]
    )


# -- Keys and hooks --------------------------------------------------------------------------------------------------
def rotate_key(module: Module, actor: Actor, *, overlap_seconds: int = 0) -> str:
    """A new key of the module's own, shown once; the old ones end at once, or after the overlap. Raises `InvalidInput`."""
    if not 0 <= overlap_seconds <= LONGEST_OVERLAP:
        raise InvalidInput({"overlapSeconds": [f"Must be a number of seconds from 0 to {LONGEST_OVERLAP}."]})
    now = timezone.now()
    with transaction.atomic():
        row = _held(module)
        if overlap_seconds:
            until = now + timedelta(seconds=overlap_seconds)
            row.keys.usable().filter(Q(expires_at=None) | Q(expires_at__gt=until)).update(expires_at=until)
        else:
            row.keys.usable().update(revoked_at=now)
        secret = _new_key(row, actor)
        record(actor, "module.key_rotated", row.name, project=module.project, overlap_seconds=overlap_seconds)
    return secret


def _new_key(module: Module, actor: Actor) -> str:
    secret = ModuleKey.new_secret()
    ModuleKey.objects.create(
        module=module, prefix=secret[:8], digest=ModuleKey.digest_of(secret), created_by=actor.name[:320]
    )
    return secret


def set_hook_secret(module: Module, secret: str | None, actor: Actor) -> str:
    """What the senders of its hook sign with: given by the provider, or made here. Gives it. Raises `InvalidInput`."""
    chosen = ids.token_43() if secret is None else secret
    if not 8 <= len(chosen) <= LONGEST_SECRET or not chosen.isprintable():
        raise InvalidInput(
            {"secret": [f"Must be a text of 8 to {LONGEST_SECRET} characters without control characters."]}
        )
    with transaction.atomic():
        row = _held(module)
        row.seal("hook_secret", chosen)
        row.save(update_fields=["hook_secret", "updated_at"])
        record(actor, "module.hook_secret_set", row.name, project=module.project)
    module.hook_secret = row.hook_secret
    return chosen


def rotate_hook(module: Module, actor: Actor) -> str:
    """Gives the hook another token: the old address ends at once. Gives the new URL."""
    with transaction.atomic():
        row = _held(module)
        row.hook_token = ids.token_43()
        row.save(update_fields=["hook_token", "updated_at"])
        record(actor, "module.hook_rotated", row.name, project=module.project)
    module.hook_token = row.hook_token
    return hook_address(row)


def hook_address(module: Module) -> str:
    return f"{settings.JACKFIELD_URL}/hooks/{module.hook_token}"


def hook_url(module: Module) -> str | None:
    """Where a POST starts it; None where the published version (else the draft) says ``hook: false`` or ``access: off``."""
    data = module.published.definition if module.published else module.draft
    off = module.access == Module.Access.OFF or (isinstance(data, dict) and data.get("hook") is False)
    return None if off else hook_address(module)


def browser_url(module: Module) -> str | None:
    """The page on which a person starts it; None where it is not published, or for programs alone."""
    by_hand = module.access in {Module.Access.PUBLIC, Module.Access.SIGNED_IN}
    return f"{settings.JACKFIELD_URL}/s/{module.public_id}" if by_hand and module.published_id else None


def delete(module: Module, actor: Actor) -> None:
    """Takes the module away; its runs stay until their retention ends. Raises `NotFound` where somebody else did."""
    now = timezone.now()
    with transaction.atomic():
        row = _held(module)
        row.keys.filter(revoked_at=None).update(revoked_at=now)
        row.deleted_at, row.published, row.hook_secret, row.hook_token = now, None, "", ids.token_43()
        row.save(update_fields=["deleted_at", "published", "hook_secret", "hook_token", "updated_at"])
        record(actor, "module.deleted", row.name, project=module.project)


# -- Reading ---------------------------------------------------------------------------------------------------------
def find(project: Project, name: str) -> Module:
    """Its published version joined. Raises `NotFound`."""
    module = Module.objects.living().select_related("published").filter(project=project, name=name).first()
    if module is None:
        raise errors.NotFound(f"There is no module {name[:LONGEST_NAME]}.")
    module.project = project
    return module


def find_published(project: Project, name: str) -> Module:
    """A module that runs may be started of, its published version joined, in one SELECT. Raises `NotFound`."""
    rows = Module.objects.published().exclude(access=Module.Access.OFF).select_related("published")
    module = rows.filter(project=project, name=name).first()
    if module is None:
        raise errors.NotFound(f"There is no published module {name[:LONGEST_NAME]}.")
    module.project = project
    return module


def listed(project: Project) -> QuerySet[Module]:
    """The project's modules for a list."""
    return for_lists(Module.objects.living().filter(project=project))


def for_lists(rows: QuerySet[Module]) -> QuerySet[Module]:
    """What may be large stays in the database; ``state`` as `as_row` shows it."""
    changed = ~Q(source=F("published__source"))
    state = Case(
        When(published=None, then=Value("draft")),
        When(changed, then=Value("changed")),
        default=Value("published"),
        output_field=CharField(),
    )
    rows = rows.select_related("published").annotate(state=state)
    return rows.defer("source", "draft", "published__source", "published__definition", "published__note")


def state_of(module: Module) -> str:
    """draft (not published), published, or changed (the draft differs from what is published)."""
    if "state" in module.__dict__:
        return str(module.__dict__["state"])
    if module.published is None:
        return "draft"
    return "published" if module.published.source == module.source else "changed"


def as_row(module: Module) -> dict[str, Any]:
    """A module as the API lists it."""
    version = module.published
    return {
        "id": module.public_id,
        "name": module.name,
        "title": module.title,
        "access": module.access,
        "state": state_of(module),
        "version": version.number if version else None,
        "published_id": module.public_id if version else None,
        "published_at": version.created_at.isoformat() if version else None,
        "published_by": version.created_by if version else None,
        "draft_changed_at": module.draft_changed_at.isoformat(),
        "draft_changed_by": module.draft_changed_by,
        "browser_url": browser_url(module),
        "created_at": module.created_at.isoformat(),
        "updated_at": module.updated_at.isoformat(),
    }


# -- Groups ----------------------------------------------------------------------------------------------------------
def set_group(project: Project, name: str, members: list[str], actor: Actor) -> Group:
    """Says who is in a group, which is made where there is none. Raises `InvalidInput`."""
    faults = group_faults(name, members)
    if faults:
        raise InvalidInput(faults)
    clean = sorted({member.strip().lower() for member in members})
    with transaction.atomic():
        group, made = Group.objects.select_for_update(of=("self",)).get_or_create(
            project=project, name=name, defaults={"members": clean}
        )
        if made or group.members != clean:
            group.members = clean
            group.save(update_fields=["members"])
            record(actor, "group.set", name, project=project, members=len(clean))
    return group


def group_faults(name: str, members: list[str]) -> dict[str, list[str]]:
    faults: dict[str, list[str]] = {}
    if not 1 <= len(name) <= LONGEST_GROUP_NAME or not name.isprintable() or name != name.strip():
        faults["name"] = [f"Must be a text of 1 to {LONGEST_GROUP_NAME} characters, without blanks around it."]
    if len(members) > MOST_MEMBERS:
        faults["members"] = [f"At most {MOST_MEMBERS}."]
    for member in members:
        try:
            validate_email(member.strip())
        except ValidationError:
            faults["members"] = [*faults.get("members", []), f"{member[:100]!r} is no e-mail address."]
    return faults


def remove_group(group: Group, actor: Actor) -> None:
    """Nobody may answer as its member any more."""
    with transaction.atomic():
        if Group.objects.filter(pk=group.pk).delete()[0]:
            record(actor, "group.removed", group.name, project=group.project)
