"""Parsed definitions of modules' versions, kept in memory: a version never changes."""

from __future__ import annotations

from functools import lru_cache

from apps.modules.definition import Definition
from apps.modules.models import ModuleVersion


@lru_cache(maxsize=64)
def definition_of(version_id: str) -> Definition:
    """One SELECT the first time. Raises `ModuleVersion.DoesNotExist`; pydantic's ValidationError for one of an old format."""
    stored = ModuleVersion.objects.values_list("definition", flat=True).get(pk=version_id)
    return Definition.model_validate(stored)
