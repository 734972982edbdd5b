"""What runs does when something is deleted elsewhere."""

from __future__ import annotations

from typing import Any

from django.dispatch import receiver

from apps.workspaces.models import Project
from apps.workspaces.signals import end_user_deleted, key_used

from .journal import journal
from .models import Execution


@receiver(key_used)
def note_use(key_id: str, **kwargs: Any) -> None:
    journal.note_key(key_id)


@receiver(end_user_deleted)
def forget_executions(project: Project, user_id: str, **kwargs: Any) -> None:
    """A purged end user's executions go too: their requests and answers are that person's data."""
    journal.flush()
    Execution.objects.filter(project=project, user_id=user_id).delete()
