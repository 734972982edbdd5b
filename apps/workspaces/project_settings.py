"""Settings of a project that other apps bring: what GET and PATCH settings, the admin and `apply` know them by.

The import direction forbids this app to call them, so that they register here, from their ``ready``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django import forms
from rest_framework import serializers

from .audit import Actor
from .models import Project


@dataclass(frozen=True)
class Part:
    """One setting.

    ``field`` makes what checks its form; ``read`` gives it as the API shows it, secrets masked; ``change`` stores it, within
    a transaction, and may raise `InvalidInput` by its name. What it sets in ``project.settings`` it saves itself.
    ``admin`` makes the field of the admin's form, whose values are those of ``change``, and whose initial one is the value
    of ``read``; without it the setting has no place there.
    """

    name: str
    field: Callable[[], serializers.Field[Any, Any, Any, Any]]
    read: Callable[[Project], Any]
    change: Callable[[Project, Any, Actor], None]
    admin: Callable[[Project], forms.Field] | None = None


_parts: dict[str, Part] = {}


def register(part: Part) -> None:
    _parts[part.name] = part


def parts() -> dict[str, Part]:
    return dict(_parts)
