"""What connections does when something is taken away elsewhere."""

from __future__ import annotations

from typing import Any

from django.dispatch import receiver

from apps.toolkits.signals import toolkit_removed
from apps.workspaces.audit import Actor
from apps.workspaces.models import Project


@receiver(toolkit_removed)
def switch_off(project: Project, slug: str, actor: Actor, **kwargs: Any) -> None:
    """A toolkit that is no longer described is no longer on."""
    from .integrations import disable

    disable(project, slug, actor)
