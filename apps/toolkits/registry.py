"""The catalog in memory: every toolkit of the shipped folder and of ``JACKFIELD_TOOLKITS_DIR``, and a project's own.

Loaded once a process, at first use; a project's own toolkits once for each version that the project's row tells. Each file
stands alone; a file of a further folder replaces a shipped one of the same slug.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from django.conf import settings
from pydantic import ValidationError

from apps.workspaces.models import Project

from .models import OwnToolkit
from .spec import Tool, Toolkit

CATALOG_DIR = Path(__file__).parent / "catalog"
_loading = threading.Lock()
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class FileFault:
    """One thing wrong with one file of the catalog."""

    file: Path
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.file.name}: {self.key}: {self.message}" if self.key else f"{self.file.name}: {self.message}"


class _UniqueKeyLoader(_Loader):  # type: ignore[misc] # the C loader is Any without its stubs
    """YAML 1.1 permits a key to be given twice; a toolkit file does not."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key} stands there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def folders() -> list[Path]:
    return [CATALOG_DIR, *(Path(folder) for folder in settings.JACKFIELD_TOOLKITS_DIR)]


def files() -> Iterator[Path]:
    for folder in folders():
        yield from sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def read_file(path: Path) -> tuple[Toolkit | None, list[FileFault]]:
    """Parses one file; gives the toolkit, or every fault that was found in it."""
    try:
        data = read_text(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        return None, [FileFault(path, "", str(error))]
    toolkit, faults = parse(data)
    found = [FileFault(path, key, message) for key, message in faults]
    if toolkit is not None and toolkit.slug != path.stem:
        found.append(FileFault(path, "slug", f"{toolkit.slug} is not the name of the file"))
    return (None if found else toolkit), found


def read_text(text: str) -> Any:
    """The data of a YAML text. Raises ValueError saying what is wrong, and where."""
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - derives from the safe one
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def parse(data: Any) -> tuple[Toolkit | None, list[tuple[str, str]]]:
    """Parses what a file, or a row of the same schema, says; gives the toolkit, or every fault as (key, message)."""
    try:
        return Toolkit.model_validate(data), []
    except ValidationError as error:
        faults: list[tuple[str, str]] = []
        for item in error.errors(include_url=False, include_context=False):
            key = ".".join(str(part) for part in item["loc"])
            message = item["msg"].removeprefix("Value error, ")
            for line in message.splitlines():
                own_key, separator, rest = line.partition(": ")
                faults.append((own_key, rest) if not key and separator else (key, line))
        return None, faults


class Catalog:
    """Toolkits by slug and tools by public name."""

    def __init__(self, toolkits: dict[str, Toolkit]) -> None:
        self.toolkits = toolkits
        self.tools: dict[str, tuple[Toolkit, Tool]] = {}
        for toolkit in toolkits.values():
            for tool in toolkit.tools:
                self.tools[toolkit.public_name(tool)] = (toolkit, tool)
                self.tools[f"{toolkit.slug}.{tool.slug}"] = (toolkit, tool)

    def get(self, slug: str) -> Toolkit | None:
        return self.toolkits.get(slug)

    def find_tool(self, name: str) -> tuple[Toolkit, Tool] | None:
        """A tool by its public name (``GMAIL_SEND_EMAIL``, any case) or as ``gmail.send_email``."""
        return self.tools.get(name) or self.tools.get(name.upper())

    def curated(self) -> list[Toolkit]:
        ranked = [(toolkit.curated, toolkit) for toolkit in self.toolkits.values() if toolkit.curated is not None]
        return [toolkit for _, toolkit in sorted(ranked, key=lambda pair: pair[0])]

    def search(self, text: str) -> list[Toolkit]:
        """Toolkits whose slug or name has the text in it, in any case; best match first."""
        wanted = text.strip().casefold()
        ranked = []
        for toolkit in self.toolkits.values():
            slug, name = toolkit.slug, toolkit.name.casefold()
            if wanted in slug or wanted in name:
                exact = wanted in {slug, name}
                starts = slug.startswith(wanted) or name.startswith(wanted)
                ranked.append((not exact, not starts, toolkit.curated or 1_000, name, toolkit))
        return [row[-1] for row in sorted(ranked, key=lambda row: row[:-1])]


def catalog(project: Project | None = None) -> Catalog:
    """The catalog of this process, with the toolkits of the project's own where it has any.

    A faulty file is left out; ``manage.py check`` says what is wrong with it.
    """
    if project is None or not project.toolkits_version:
        return _shipped()
    with _loading_of(project.pk):  # of a project's threads one loads; other projects do not wait for it
        return _of_project(project.pk, project.toolkits_version)


@lru_cache(maxsize=1024)
def _loading_of(project_id: str) -> threading.Lock:
    return threading.Lock()


@lru_cache(maxsize=64)
def _of_project(project_id: str, version: int) -> Catalog:
    """What the files say goes before: a row cannot take the place of a file that came with an update."""
    own: dict[str, Toolkit] = {}
    for row in OwnToolkit.objects.filter(project=project_id):
        toolkit, _ = parse({**row.document, "slug": row.slug})
        if toolkit is not None:
            own[toolkit.slug] = toolkit
    return Catalog(dict(sorted((own | _shipped().toolkits).items())))


def _shipped() -> Catalog:
    if _load.cache_info().currsize:
        return _load()
    with _loading:  # else every thread of a young process would load it
        return _load()


@lru_cache(maxsize=1)
def _load() -> Catalog:
    found: dict[str, Toolkit] = {}
    for path in files():
        toolkit, _ = read_file(path)
        if toolkit is not None:
            found[toolkit.slug] = toolkit
    return Catalog(dict(sorted(found.items())))


def reload() -> None:
    _load.cache_clear()
    _of_project.cache_clear()
