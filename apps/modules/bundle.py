"""Many modules at once, whole or not at all: from files, into files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from django.db import transaction

from apps.lib.errors import Failure, InvalidInput
from apps.workspaces.audit import Actor
from apps.workspaces.models import Project, Workspace

from . import checks, services
from .documents import as_yaml, text_of
from .models import Module

SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Item:
    """One module to be put: ``where`` names its file to people.

    ``inside`` is the path in that file of a definition that stands in it, and ``line_of`` gives the lines there.
    """

    name: str
    source: str
    where: str
    publish: bool = True
    note: str = ""
    inside: str = ""
    line_of: Callable[[str], int] | None = None


@dataclass
class Done:
    """What was changed: sentences, and the keys that were made by it."""

    changes: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def put_all(project: Project, items: list[Item], actor: Actor) -> Done:
    """Puts and publishes what differs. To be called in a transaction that is rolled back where there are faults.

    A module may start another one of the same bundle: what is refused is tried again once others are there.
    """
    done, waiting = Done(), items
    while waiting:
        refused: list[tuple[Item, list[str]]] = []
        for item in waiting:
            try:
                with transaction.atomic():
                    _put(project, item, actor, done)
            except Failure as failure:
                refused.append((item, list(_sentences(item, failure))))
        if len(refused) == len(waiting):
            done.faults += [sentence for _, sentences in refused for sentence in sentences]
            break
        waiting = [item for item, _ in refused]
    return done


def _put(project: Project, item: Item, actor: Actor, done: Done) -> None:
    before = Module.objects.living().filter(project=project, name=item.name).first()
    draft = before.source if before else None
    module, made = services.put_draft(project, item.name, item.source, actor)
    told = []
    if made or draft != module.source:
        told.append("draft")
    if item.publish and (module.published is None or module.published.source != module.source):
        published = services.publish(module, actor, item.note)
        told.append(f"published as version {published.version.number}")
        if published.key:
            done.keys[f"module {item.name}"] = published.key
            told.append("with a new key")
    if told:
        done.changes.append(f"{'+' if made else '~'} module {item.name}: {', '.join(told)}")


def _sentences(item: Item, failure: Failure) -> Iterator[str]:
    """A refusal in words: each fault with file and line."""
    details = failure.details if isinstance(failure, InvalidInput) and isinstance(failure.details, dict) else {}
    faults = details.get("faults")
    if not isinstance(faults, list):
        yield f"{item.where}: {failure.text}"
        return
    for fault in faults:
        number = item.line_of(fault["path"]) if item.line_of else fault.get("line")
        line = f":{number}" if number else ""
        path = ".".join(filter(None, [item.inside, fault["path"]]))
        yield f"{item.where}{line}: {f'{path}: ' if path else ''}{fault['message']}"


# -- Files -----------------------------------------------------------------------------------------------------------
def files_below(path: Path) -> list[Path]:
    """The file itself, or every definition in the folder tree, in the order of their names."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in SUFFIXES)


def read_file(file: Path) -> str:
    """A definition's text. Raises `InvalidInput` with faults, OSError."""
    return text_of(file.read_bytes(), must_be_json=file.suffix.lower() == ".json")


def item_of(file: Path, folder: Path | None, *, publish: bool, note: str) -> Item:
    """A file as a module. In a folder its path there is its name; a single file says its name, or is named by it.

    Raises `InvalidInput`, OSError.
    """
    source = read_file(file)
    in_folder = file.relative_to(folder).with_suffix("").as_posix() if folder is not None else ""
    name = in_folder or name_in(source) or file.stem
    return Item(name, source, str(file), publish, note)


def name_in(source: str) -> str:
    """The name that a definition says; empty where it says none."""
    data, _ = checks.read(source)
    return str(data.get("name") or "") if isinstance(data, dict) else ""


def write_files(modules: Iterable[Module], folder: Path) -> list[Path]:
    """Each draft into a file named by the module below the folder; files that say the same are left alone. Gives those
    that were written. Raises OSError."""
    written = []
    for module in modules:
        file = folder / f"{module.name}.yaml"
        text = as_yaml(module.source)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            written.append(file)
    return written


# -- Projects --------------------------------------------------------------------------------------------------------
def find_workspace(named: str) -> list[Workspace]:
    """Those of this id, or of this name."""
    try:
        rows = Workspace.objects.filter(pk=UUID(named))
    except ValueError:
        rows = Workspace.objects.filter(name=named)
    return list(rows.select_related("plan"))


def find_project(named: str, workspace: str = "") -> Project:
    """By id, or by its name where that is one project's alone. Raises LookupError with a sentence."""
    rows = Project.objects.select_related("workspace__plan")
    if workspace:
        rows = rows.filter(workspace__in=find_workspace(workspace))
    found = list(rows.filter(pk=named)) or list(rows.filter(name=named))
    if len(found) == 1:
        return found[0]
    if found:
        raise LookupError(f"{len(found)} projects are named {named}: give its id, or --workspace.")
    raise LookupError(f"There is no project {named}" + (f" in the workspace {workspace}." if workspace else "."))
