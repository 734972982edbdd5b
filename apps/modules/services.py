"""Every change of modules: drafts, publishing, rolling back, keys. Each writes its audit event in the same transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apps.workspaces.audit import Actor
from apps.workspaces.models import Project

from .models import Module, ModuleVersion


@dataclass(frozen=True)
class Published:
    """What publishing made; ``key`` only where the module's key was made by it: it is shown once."""

    module: Module
    version: ModuleVersion
    key: str | None = None


def put_draft(project: Project, name: str, source: str, actor: Actor) -> tuple[Module, bool]:
    """Replaces a module's draft, or makes the module; True where it was made. ``source`` is YAML or JSON.

    Raises `InvalidInput` whose details are ``{"faults": [{path, line?, message}]}``: then nothing is stored.
    """
    raise NotImplementedError


def publish(module: Module, actor: Actor, note: str = "") -> Published:
    """Makes a numbered version of the draft and publishes it. Raises `InvalidInput` as `put_draft` does."""
    raise NotImplementedError


def unpublish(module: Module, actor: Actor) -> bool:
    raise NotImplementedError


def roll_back(module: Module, number: int, actor: Actor) -> ModuleVersion:
    """Publishes an earlier version again, under its own number; the draft stays. Raises `NotFound`."""
    raise NotImplementedError


def rotate_key(module: Module, actor: Actor, *, overlap_seconds: int = 0) -> str:
    """A new key of the module's own, shown once; the old ones end at once, or after the overlap."""
    raise NotImplementedError


def set_hook_secret(module: Module, secret: str | None, actor: Actor) -> str:
    """What the senders of its hook sign with: given by the provider, or made here. Gives it."""
    raise NotImplementedError


def rotate_hook(module: Module, actor: Actor) -> str:
    """Gives the hook another token: the old address ends at once. Gives the new URL."""
    raise NotImplementedError


def delete(module: Module, actor: Actor) -> None:
    """Takes the module away; its runs stay until their retention ends."""
    raise NotImplementedError


def find(project: Project, name: str) -> Module:
    """Raises `NotFound`."""
    raise NotImplementedError


def find_published(project: Project, name: str) -> Module:
    """A module that runs may be started of, its published version joined. Raises `NotFound`."""
    raise NotImplementedError


def draft_version(module: Module, actor: Actor) -> ModuleVersion:
    """The draft as a version without a number, for a test run."""
    raise NotImplementedError


def as_row(module: Module) -> dict[str, Any]:
    raise NotImplementedError
