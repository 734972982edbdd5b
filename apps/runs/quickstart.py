"""What quickstart provides: an admin, a demo workspace and project, a key, an end user, the sandbox switched on."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from allauth.account.models import EmailAddress
from django.db import transaction

from apps.connections import sandbox
from apps.connections.integrations import configure
from apps.connections.models import Integration
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import SCOPES, ApiKey, Project, User, Workspace
from apps.workspaces.services import change_settings, create_project, create_workspace, end_user, issue_key, revoke_key

ADMIN_EMAIL = "admin@jackfield.test"
PROJECT_NAME = "Demo"
END_USER = "demo-user"
KEY_NAME = "quickstart"
RETURN_ORIGINS = ["https://yourapp.com", "http://localhost:3000"]  # those of the documentation's examples


def provide(file: Path, url: str) -> dict[str, Any]:
    """Makes what is not there yet, keeps what is; writes and gives the facts that quickstart prints."""
    known = _read(file)
    with transaction.atomic():
        admin, password = _admin(known)
        workspace = Workspace.objects.filter(pk=known["workspace_id"]).first() if "workspace_id" in known else None
        workspace = workspace or Workspace.objects.order_by("created_at").first()
        workspace = workspace or create_workspace("Demo workspace", admin, SYSTEM)
        project = Project.objects.filter(pk=known.get("project_id", ""), workspace=workspace).first()
        project = project or Project.objects.filter(workspace=workspace).order_by("created_at").first()
        project = project or _project(workspace)
        user = end_user(project, known.get("end_user_id", END_USER))
        api_key = _key(project, known.get("api_key", ""))
        if not Integration.objects.filter(project=project, toolkit=sandbox.SLUG).exists():
            configure(project, sandbox.SLUG, SYSTEM)
        sandbox.provide_client()
    facts = {
        "url": url,
        "admin_email": admin.email,
        "admin_password": password,
        "workspace_id": str(workspace.pk),
        "project_id": project.pk,
        "project_name": project.name,
        "api_key": api_key,
        "end_user_id": user.external_id,
    }
    write_json(file, facts)
    return facts


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _admin(known: dict[str, Any]) -> tuple[User, str]:
    """The admin and the password to show: what was written down, unless the admin has none or it is lost."""
    email = str(known.get("admin_email", ADMIN_EMAIL))
    admin = User.objects.filter(email=email).first()
    password = str(known.get("admin_password", ""))
    if admin is None or not password:
        password = secrets.token_urlsafe(15)
    if admin is None:
        admin = User.objects.create_superuser(email, password, name="Admin")
    elif not known.get("admin_password"):
        admin.set_password(password)
        admin.save(update_fields=["password"])
    EmailAddress.objects.get_or_create(user=admin, email=email, defaults={"primary": True, "verified": True})
    return admin, password


def _project(workspace: Workspace) -> Project:
    project = create_project(workspace, PROJECT_NAME, SYSTEM)
    return change_settings(project, {"allowedOrigins": RETURN_ORIGINS}, SYSTEM)


def _key(project: Project, known: str) -> str:
    """The key that was written down, if it still works; else a new one in its place."""
    rows = ApiKey.objects.filter(project=project, name=KEY_NAME).usable()
    if known and rows.filter(digest=ApiKey.digest_of(known)).exists():
        return known
    for lost in rows:
        revoke_key(lost, SYSTEM)
    scopes = [scope for scope in SCOPES if scope != "secrets"]
    return issue_key(project.workspace, KEY_NAME, SYSTEM, project=project, scopes=scopes)[1]


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Whole or not at all, readable by its owner alone."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(data, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
