"""What runs does when something is deleted elsewhere."""

from __future__ import annotations

from typing import Any

from django.dispatch import receiver

from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Project
from apps.workspaces.signals import end_user_deleted, key_used

from . import retention, starting
from .journal import journal
from .models import Execution, Run


@receiver(key_used)
def note_use(key_id: str, **kwargs: Any) -> None:
    journal.note_key(key_id)


@receiver(end_user_deleted)
def forget_what_was_done(project: Project, user_id: str, **kwargs: Any) -> None:
    """A purged end user's runs and executions go too, with the results on their way: all of that is the person's data."""
    runs = Run.objects.filter(project=project, user_id=user_id, parent=None)
    for run in runs.living().select_related("project", "module"):
        starting.cancel(run, SYSTEM)
    retention.forget(runs)
    journal.flush()
    Execution.objects.filter(project=project, user_id=user_id).delete()
