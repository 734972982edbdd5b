"""A whole project as one YAML file (docs/apply.md): what it would change, and changing only that.

There is one way through it. Everything is done in one transaction by the services that everybody uses, which note what they
changed; to show what would change, that transaction is rolled back. So the plan is what really happens, faults are found
before anything is kept, and nothing is half-applied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db import transaction
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from apps.connections.integrations import configure, disable
from apps.connections.models import Integration
from apps.lib.api import checked
from apps.lib.errors import Failure, InvalidInput
from apps.workspaces import services as workspaces
from apps.workspaces.api.serializers import SettingsBody, settings_row
from apps.workspaces.audit import SYSTEM, Actor
from apps.workspaces.models import ApiKey, Plan, Project, User, Workspace

from . import bundle, services
from .bundle import Item
from .documents import dump
from .format import parts_of
from .models import Group
from .source import Document, SourceError, read_document

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
LIMITS = ("connections", "keys", "calls_per_minute", "calls_per_day", "concurrent_calls", "concurrent_runs",
          "retention_days", "audit_days")  # fmt: skip
SETTINGS = {"logo": "logo", "colour": "colour", "allowed_origins": "allowedOrigins",
            "confirm_connections": "confirmConnections", "retention": "retention"}  # fmt: skip
LATE = {"auth_sessions"}  # settings that name what the file switches on first


class Faults(Exception):
    """Everything that is wrong with the file, as sentences."""

    def __init__(self, sentences: list[str]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences


# -- The file --------------------------------------------------------------------------------------------------------
class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Limit = int | None


class PlanPart(Part):
    """A plan by its name, which alone may stand there; limits that are given are set, ``null`` lifts one."""

    name: str = Field(min_length=1, max_length=60)
    connections: Limit = Field(default=None, ge=0, le=2**31 - 1)
    keys: Limit = Field(default=None, ge=0, le=2**31 - 1)
    calls_per_minute: Limit = Field(default=None, ge=0, le=2**31 - 1)
    calls_per_day: Limit = Field(default=None, ge=0, le=2**31 - 1)
    concurrent_calls: Limit = Field(default=None, ge=0, le=2**31 - 1)
    concurrent_runs: Limit = Field(default=None, ge=0, le=2**31 - 1)
    retention_days: Limit = Field(default=None, ge=1, le=3650)
    audit_days: Limit = Field(default=None, ge=1, le=3650)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data


class AuthSessionsPart(Part):
    toolkit: str = Field(min_length=1, max_length=100)


class SettingsPart(Part):
    logo: str | None = None
    colour: str | None = None
    allowed_origins: list[str] | None = None
    confirm_connections: bool | None = None
    retention: int | None = None
    auth_sessions: AuthSessionsPart | None = None


class IntegrationPart(Part):
    toolkit: str = Field(min_length=1, max_length=100)
    enabled: bool = True
    display_name: str | None = Field(default=None, max_length=100)
    client_id: str | None = None
    client_secret: str | None = None
    scopes: list[str] | None = None
    overrides: dict[str, Any] | None = None


class ModulePart(Part):
    """A module: by its ``file``, or its ``definition`` itself."""

    name: str | None = None
    file: str | None = None
    definition: dict[str, Any] | None = None
    publish: bool = True
    note: str = Field(default="", max_length=services.LONGEST_NOTE)


class KeyPart(Part):
    name: str = Field(min_length=1, max_length=100)
    scopes: list[str] | None = None
    toolkits: list[str] = []


class ProjectFile(Part):
    """One project. What is absent is left alone."""

    workspace: str | None = Field(default=None, min_length=1, max_length=100)
    owner: str | None = Field(default=None, description="Who owns the workspace, where it has to be made.")
    project: str = Field(min_length=1, max_length=100, pattern=r"^[^/\x00-\x1f]+$")
    settings: SettingsPart | None = None
    plan: PlanPart | None = None
    integrations: list[IntegrationPart] = []
    groups: dict[str, list[str]] = {}
    modules: list[ModulePart] = []
    keys: list[KeyPart] = []


@dataclass(frozen=True)
class Wanted:
    """A file that was read: its parts, and the folder that paths in it are relative to."""

    file: ProjectFile
    shown: str
    items: list[Item]


def load(path: Path) -> Wanted:
    """Reads the file, the files it names and the environment. Raises `Faults` with all that is wrong."""
    try:
        document = read_document(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise Faults([f"{path}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise Faults([f"{path}: This is not UTF-8."]) from None
    except SourceError as error:
        raise Faults([f"{path}:{error.line}: {error}" if error.line else f"{path}: {error}"]) from None
    faults = [f"{path}:{line}: {message}" for _, line, message in document.faults]
    faults += _literal_secrets(path, document)
    data = _filled(document.data, (), path, document, faults)
    try:
        file = ProjectFile.model_validate(data)
    except ValidationError as error:
        raise Faults(faults + list(_sentences(path, document, error))) from None
    items = [item for index, part in enumerate(file.modules) for item in _item(path, index, part, document, faults)]
    faults += _twice(path, file, items)
    if faults:
        raise Faults(faults)
    return Wanted(file, str(path), items)


def _sentences(path: Path, document: Document, error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        place = fault["loc"]
        yield f"{path}:{document.lines.at(place)}: {_dotted(place)}: {fault['msg']}"


def _dotted(place: Any) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.lstrip(".") or "the file"


def _literal_secrets(path: Path, document: Document) -> Iterator[str]:
    """A secret that stands in the file stands in git next."""
    parts = document.data.get("integrations") if isinstance(document.data, dict) else None
    for index, part in enumerate(parts if isinstance(parts, list) else []):
        secret = part.get("client_secret") if isinstance(part, dict) else None
        if isinstance(secret, str) and not REFERENCE.fullmatch(secret):
            line = document.lines.at(["integrations", index, "client_secret"])
            yield f"{path}:{line}: integrations[{index}].client_secret: Name a variable of the environment, ${{NAME}}."


FILLED = frozenset({"integrations", "settings"})  # elsewhere, and in definitions above all, ${NAME} is a text


def _filled(value: Any, place: tuple[Any, ...], path: Path, document: Document, faults: list[str]) -> Any:
    """The data with the environment's values in it; what is not set is a fault."""
    if place and place[0] not in FILLED:
        return value
    if isinstance(value, dict) and set(value) == {"from_env"} and isinstance(value["from_env"], str):
        value = f"${{{value['from_env']}}}"
    if isinstance(value, dict):
        return {name: _filled(inner, (*place, name), path, document, faults) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, (*place, index), path, document, faults) for index, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in sorted(set(REFERENCE.findall(value))):
        if _variable(name) is None:
            at = document.lines.at(place)
            faults.append(f"{path}:{at}: {_dotted(place)}: The environment has no variable {name}.")
    return REFERENCE.sub(lambda match: _variable(match[1]) or "", value)


def _variable(name: str) -> str | None:
    """As everywhere here, ``NAME_FILE`` may name a file that holds the value."""
    file = os.environ.get(f"{name}_FILE")
    if name not in os.environ and file:
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
    return os.environ.get(name)


def _item(path: Path, index: int, part: ModulePart, document: Document, faults: list[str]) -> Iterator[Item]:
    """What is to be put of one entry of ``modules``."""

    def line_of(inner: str) -> int:
        return document.lines.at(["modules", index, "definition", *parts_of(inner)])

    place = f"{path}: modules[{index}]"
    if (part.file is None) == (part.definition is None):
        faults.append(f"{place}: Give either file or definition.")
        return
    if part.definition is not None:
        source = dump(part.definition)
    else:
        file = path.parent / str(part.file)
        try:
            source = bundle.read_file(file)
        except OSError as error:
            faults.append(f"{place}: {file}: {error.strerror}")
            return
        except InvalidInput as failure:
            faults.extend(f"{file}: {fault['message']}" for fault in failure.details["faults"])
            return
    name = part.name or bundle.name_in(source) or (Path(part.file).stem if part.file else "")
    if not name:
        faults.append(f"{place}: The definition has no name.")
        return
    if part.file is not None:
        yield Item(name, source, str(file), part.publish, part.note)
    else:
        yield Item(name, source, str(path), part.publish, part.note, f"modules[{index}].definition", line_of)


def _twice(path: Path, file: ProjectFile, items: list[Item]) -> Iterator[str]:
    named = {
        "integrations": [part.toolkit for part in file.integrations],
        "modules": [item.name for item in items],
        "keys": [part.name for part in file.keys],
    }
    for section, names in named.items():
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{path}: {section}: {name} stands there twice."


# -- Applying --------------------------------------------------------------------------------------------------------
@dataclass
class Outcome:
    """What was, or would be, changed. ``keys``: what is shown this once, by what it opens."""

    changes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def plan(wanted: Wanted, workspace: str = "") -> Outcome:
    """What applying would change; keeps nothing. Raises `Faults`."""
    with transaction.atomic():
        outcome = _apply(wanted, workspace)
        transaction.set_rollback(True)
    return outcome


class Moved(Exception):
    """Somebody changed the project since it was looked at."""


def apply(wanted: Wanted, workspace: str = "", expected: list[str] | None = None) -> Outcome:
    """Changes what differs, all of it or nothing.

    Raises `Faults`; `Moved` where that would be something else than ``expected``, the changes that were agreed to.
    """
    with transaction.atomic():
        outcome = _apply(wanted, workspace)
        if expected is not None and outcome.changes != expected:
            raise Moved
    return outcome


def _apply(wanted: Wanted, named: str) -> Outcome:
    outcome, file, actor = Outcome(), wanted.file, SYSTEM
    workspace = _workspace(wanted, named, outcome, actor)
    _set_plan(workspace, file.plan, wanted, outcome, actor)
    project = _project(workspace, file.project, outcome, actor)
    if file.settings is not None:
        with _collecting(outcome, f"{wanted.shown}: settings"):
            _settings(project, file.settings, outcome, actor)
    for part in file.integrations:
        with _collecting(outcome, f"{wanted.shown}: integration {part.toolkit}"):
            _integration(project, part, outcome, actor)
    if file.settings is not None and LATE & file.settings.model_fields_set:
        with _collecting(outcome, f"{wanted.shown}: settings"):
            _change(project, {"authSessions": file.settings.model_dump(include=LATE)["auth_sessions"]}, outcome, actor)
    for name, members in file.groups.items():
        with _collecting(outcome, f"{wanted.shown}: group {name[:60]}"):
            _group(project, name, members, outcome, actor)
    done = bundle.put_all(project, wanted.items, actor)
    outcome.changes += done.changes
    outcome.keys |= done.keys
    outcome.faults += done.faults
    for key in file.keys:
        with _collecting(outcome, f"{wanted.shown}: key {key.name}"):
            _key(project, key, outcome, actor)
    if outcome.faults:
        raise Faults(outcome.faults)
    return outcome


@contextmanager
def _collecting(outcome: Outcome, place: str) -> Iterator[None]:
    """A refusal becomes faults, and what was changed before it is undone."""
    try:
        with transaction.atomic():
            yield
    except Failure as failure:
        details = failure.details if isinstance(failure.details, dict) else {}
        sentences = [f"{place}: {name}: {text}" for name, texts in details.items() for text in texts]
        outcome.faults += sentences or [f"{place}: {failure.text}"]


def _workspace(wanted: Wanted, named: str, outcome: Outcome, actor: Actor) -> Workspace:
    name = named or wanted.file.workspace or ""
    if not name:
        raise Faults([f"{wanted.shown}: workspace: Name it here, or by --workspace."])
    found = bundle.find_workspace(name)
    if len(found) > 1:
        raise Faults([f"{wanted.shown}: workspace: {len(found)} are named {name}: give its id by --workspace."])
    if found:
        return found[0]
    if not wanted.file.owner:
        raise Faults([f"{wanted.shown}: workspace: There is no {name}. With owner: (an e-mail address) it is made."])
    faults = services.group_faults("owner", [wanted.file.owner])
    if faults:
        raise Faults([f"{wanted.shown}: owner: {text}" for texts in faults.values() for text in texts])
    owner = User.objects.filter(email__iexact=wanted.file.owner).first()
    if owner is None:
        owner = workspaces.add_user(wanted.file.owner, "", actor)
        outcome.changes.append(f"+ user {owner.email}")
    outcome.changes.append(f"+ workspace {name}, of {owner.email}")
    return workspaces.create_workspace(name, owner, actor)


def _set_plan(workspace: Workspace, part: PlanPart | None, wanted: Wanted, outcome: Outcome, actor: Actor) -> None:
    if part is None:
        return
    name = part.name
    limits = {limit: getattr(part, limit) for limit in LIMITS if limit in part.model_fields_set}
    found = Plan.objects.filter(name=name).first()
    if found is None and not limits:
        raise Faults([f"{wanted.shown}: plan: There is no plan {name}. With limits it is made."])
    row = found or Plan(name=name)
    changed = {limit: value for limit, value in limits.items() if getattr(row, limit) != value}
    if found is None or changed:
        told = [f"{limit} {_limit(getattr(row, limit))} -> {_limit(value)}" for limit, value in changed.items()]
        others = row.workspaces.exclude(pk=workspace.pk).count() if found else 0
        shared = f" (also of {others} other workspaces)" if others else ""
        outcome.changes.append(f"{'~' if found else '+'} plan {name}{shared}: {', '.join(told) or 'no limits'}")
        for limit, value in changed.items():
            setattr(row, limit, value)
        workspaces.save_plan(row, actor)
    if workspace.plan_id != row.pk:
        outcome.changes.append(f"~ workspace {workspace.name}: plan {workspace.plan.name} -> {name}")
        workspaces.change_workspace(workspace, workspace.name, row, actor)
    workspace.plan = row


def _limit(value: int | None) -> str:
    return "none" if value is None else str(value)


def _project(workspace: Workspace, name: str, outcome: Outcome, actor: Actor) -> Project:
    project = Project.objects.filter(workspace=workspace, name=name).first()
    if project is None:
        outcome.changes.append(f"+ project {name}")
        project = workspaces.create_project(workspace, name, actor)
    project.workspace = workspace
    return project


def _settings(project: Project, part: SettingsPart, outcome: Outcome, actor: Actor) -> None:
    given = {SETTINGS[name]: getattr(part, name) for name in part.model_fields_set - LATE}
    given = {name: value for name, value in given.items() if value is not None or name == "retention"}
    _change(project, given, outcome, actor)


def _change(project: Project, given: dict[str, Any], outcome: Outcome, actor: Actor) -> None:
    clean = checked(SettingsBody(data=given))
    if "allowedOrigins" in clean:
        clean["allowedOrigins"] = sorted({workspaces.clean_origin(origin) for origin in clean["allowedOrigins"]})
    now = settings_row(project)
    changed = {name: value for name, value in clean.items() if now[name] != value}
    if changed:
        told = [f"{name} {_shown(now[name])} -> {_shown(value)}" for name, value in changed.items()]
        outcome.changes.append(f"~ settings: {'; '.join(told)}")
        workspaces.change_settings(project, changed, actor)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(str(item) for item in value.values())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return str(value) if value not in {"", None} else "none"


SHOWN = frozenset({"display_name", "scopes"})  # the rest may come from the environment, which is not for terminals


def _integration(project: Project, part: IntegrationPart, outcome: Outcome, actor: Actor) -> None:
    row = Integration.objects.primary().filter(project=project, toolkit=part.toolkit).first()
    if not part.enabled:
        if row is not None and row.enabled:
            outcome.changes.append(f"- integration {part.toolkit}: switched off")
            disable(project, part.toolkit, actor)
        return
    given = part.model_dump(include={"display_name", "client_id", "client_secret", "scopes", "overrides"})
    changed = {name: value for name, value in given.items() if value is not None and value != _current(row, name)}
    if row is not None and row.enabled and not changed:
        return
    told = [f"{name} {_shown(_current(row, name))} -> {_shown(value)}" if row and name in SHOWN else name
            for name, value in changed.items()]  # fmt: skip
    if row is not None and not row.enabled:
        told.insert(0, "switched on")
    outcome.changes.append(
        f"{'~' if row else '+'} integration {part.toolkit}" + (f": {'; '.join(told)}" if told else "")
    )
    configure(project, part.toolkit, actor, **changed)


def _current(row: Integration | None, name: str) -> Any:
    """What is stored of one of an integration's parts."""
    if row is None:
        return None
    if name == "client_secret":
        return row.unseal("client_secret")
    if name == "overrides":
        return {key: value for key, value in row.settings.items() if key != "config"}
    return getattr(row, name)


def _group(project: Project, name: str, members: list[str], outcome: Outcome, actor: Actor) -> None:
    row = Group.objects.filter(project=project, name=name).first()
    before = set(row.members) if row else set()
    after = set(services.set_group(project, name, members, actor).members)
    told = [f"+{member}" for member in sorted(after - before)] + [f"-{member}" for member in sorted(before - after)]
    if row is None or told:
        outcome.changes.append(f"{'~' if row else '+'} group {name}: {', '.join(told) or 'without members'}")


def _key(project: Project, part: KeyPart, outcome: Outcome, actor: Actor) -> None:
    row = ApiKey.objects.filter(project=project, end_user=None, name=part.name).usable().first()
    if row is None:
        key, secret = workspaces.issue_key(
            project.workspace, part.name, actor, project=project, scopes=part.scopes, toolkits=part.toolkits
        )
        of = f" of {', '.join(key.toolkits)}" if key.toolkits else ""
        outcome.changes.append(f"+ key {part.name}: {', '.join(key.scopes)}{of}")
        outcome.keys[f"key {part.name}"] = secret
        return
    other = part.scopes is not None and sorted(set(part.scopes)) != row.scopes
    if other or sorted(set(part.toolkits) - {"*"}) != row.toolkits:
        outcome.notes.append(
            f"The key {part.name} permits something else than the file says: revoke it to have it made anew."
        )
