"""Trying a tool from the admin: choose, fill in, look at the answer."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest

from apps.connections import access
from apps.connections.admin import masked, name_of
from apps.connections.models import Connection, Integration
from apps.lib.api import as_failure
from apps.lib.errors import Failure, InvalidInput
from apps.lib.redact import redact, redact_text, secret_values
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Tool, Toolkit
from apps.workspaces.admin_base import EDITORS, own_project, projects_of, roles_of
from apps.workspaces.audit import actor_of
from apps.workspaces.callers import ROLE_SCOPES, Caller
from apps.workspaces.models import Project, Role

from . import services
from .admin_tool_form import ToolForm
from .models import Execution

SHOWN_CHARACTERS = 200_000


@dataclass
class Choice:
    """What was chosen so far, and what may be chosen next."""

    projects: list[Project]
    project: Project | None = None
    toolkits: list[tuple[str, str]] | None = None
    toolkit: Toolkit | None = None
    tool: Tool | None = None
    connections: list[tuple[Connection, str]] | None = None
    connection: Connection | None = None


def choose(request: HttpRequest) -> Choice:
    """Reads the choice from the query. Raises Http404, or PermissionDenied, for what is not the person's to use."""
    choice = Choice(list(projects_of(request, EDITORS)))
    wanted = request.GET.get("project") or (choice.projects[0].pk if len(choice.projects) == 1 else "")
    if not wanted:
        return choice
    choice.project = own_project(request, wanted, EDITORS)
    slugs = Integration.objects.primary().enabled().filter(project=choice.project).values_list("toolkit", flat=True)
    choice.toolkits = sorted(((slug, name_of(slug)) for slug in slugs), key=lambda pair: pair[1])
    slug = request.GET.get("toolkit") or (choice.toolkits[0][0] if len(choice.toolkits) == 1 else "")
    if slug not in dict(choice.toolkits):
        return choice
    choice.toolkit = catalog(choice.project).get(slug)
    if choice.toolkit is None:
        raise Http404
    choice.tool = choice.toolkit.tools_by_slug.get(request.GET.get("tool", ""))
    _choose_connection(request, choice, choice.project, choice.toolkit)
    return choice


def _choose_connection(request: HttpRequest, choice: Choice, project: Project, toolkit: Toolkit) -> None:
    rows = list(
        Connection.objects.filter(project=project, toolkit=toolkit.slug, integration__is_primary=True)
        .select_related("end_user", "integration")
        .order_by("status", "-connected_at")[:200]  # active ones come first
    )
    choice.connections = [(row, described(row)) for row in rows]
    wanted = request.GET.get("connection", "")
    choice.connection = next((row for row in rows if row.pk == wanted), rows[0] if rows and not wanted else None)


def described(connection: Connection) -> str:
    user = connection.end_user.external_id if connection.end_user else "shared"
    state = "" if connection.status == Connection.Status.ACTIVE else f" ({connection.get_status_display()})"
    return f"{user} · {masked(connection.account_label) or connection.pk}{state}"


@dataclass(frozen=True)
class Answer:
    """How a call ended, made to be shown."""

    good: bool
    status: int
    milliseconds: int
    text: str
    code: str = ""
    message: str = ""
    advice: str = ""


def call(request: HttpRequest, choice: Choice, form: ToolForm) -> Answer | None:
    """Calls the tool as this member; None where the form has to be mended first."""
    if choice.project is None or choice.toolkit is None or choice.tool is None or not form.is_valid():
        return None
    connection = choice.connection
    started = time.monotonic()
    try:
        outcome = services.execute(
            caller_of(request, choice.project),
            choice.toolkit.public_name(choice.tool),
            form.params(),
            user_id=connection.end_user.external_id if connection and connection.end_user else None,
            connection_id=connection.pk if connection else None,
            surface=Execution.Surface.ADMIN,
        )
    except InvalidInput as failure:
        form.refuse(failure)
        return None
    except Exception as error:
        return _failed(as_failure(error), int((time.monotonic() - started) * 1000), secrets_of(connection))
    milliseconds = int((time.monotonic() - started) * 1000)
    return Answer(True, outcome.status, milliseconds, pretty(outcome.data, secrets_of(connection)))


def secrets_of(connection: Connection | None) -> list[str]:
    """What must not be shown even where the provider sends it back; as it is after the call, which may refresh."""
    if connection is None:
        return []
    before = connection.unseal("credentials") or {}
    connection.refresh_from_db()
    now = connection.unseal("credentials") or {}
    try:
        scheme = access.scheme_for(connection, access.toolkit_of(connection.integration))
    except LookupError:
        return [*secret_values(before), *secret_values(now)]
    return [*access.secrets_of(scheme, before), *access.secrets_of(scheme, now)]


def _failed(failure: Failure, milliseconds: int, secrets: list[str]) -> Answer:
    details = failure.details if isinstance(failure.details, dict) else {}
    said = details.get("body", failure.details)
    status = details.get("status", failure.status)
    text = pretty(said, secrets) if said is not None else ""
    message = redact_text(failure.text, secrets)
    return Answer(False, status, milliseconds, text, failure.code, message, redact_text(failure.advice, secrets))


def caller_of(request: HttpRequest, project: Project) -> Caller:
    user: Any = request.user
    role = Role.OWNER if user.is_superuser else Role(roles_of(request)[project.workspace_id])
    if role.value not in EDITORS:
        raise PermissionDenied
    return Caller(kind="member", project=project, scopes=ROLE_SCOPES[role], actor=actor_of(request), role=role)


def pretty(data: Any, secrets: list[str]) -> str:
    """A value to be read, without the secrets that are in it."""
    data = redact(data, secrets)
    text = data if isinstance(data, str) else json.dumps(data, indent=2, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}\n… ({len(text)} characters)"
