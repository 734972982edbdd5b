"""The audit log: who did what, on what, from where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest

from apps.lib.api import client_ip, request_id
from apps.lib.redact import redact

from .models import AuditEvent, Project, Workspace


@dataclass(frozen=True)
class Actor:
    """Who acts: ``user:ada@example.com``, ``key:<id> <name>``, ``end-user:<id>``, or ``system``."""

    name: str
    ip: str = ""


SYSTEM = Actor("system")


def actor_of(request: HttpRequest) -> Actor:
    """The person signed in to a page of ours."""
    return Actor(f"user:{request.user.email}" if request.user.is_authenticated else "anonymous", client_ip(request))


def record(
    actor: Actor,
    action: str,
    target: object = "",
    *,
    project: Project | None = None,
    workspace: Workspace | None = None,
    **details: Any,
) -> None:
    """Adds a row. ``action`` is ``thing.verb``; details are kept without secrets."""
    AuditEvent.objects.create(
        workspace_id=workspace.pk if workspace else project.workspace_id if project else None,
        project=project,
        actor=actor.name[:320],
        action=action,
        target=str(target)[:320],
        ip=actor.ip,
        request_id=request_id(),
        details=redact(details),
    )
