"""Who calls where the path names no project's id: by the project's name, and by a published module."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpRequest

from apps.lib import errors
from apps.lib.api import client_ip
from apps.modules.models import Module, ModuleKey
from apps.workspaces.audit import Actor
from apps.workspaces.callers import Caller, credentials_of, identify
from apps.workspaces.models import Project

MODULE_KEY_LENGTH = 43


def identify_by_name(request: HttpRequest, workspace_id: str, project_name: str) -> Caller:
    """The caller of a route that names a workspace's UUID and its project's name.

    Raises a class of `Unauthenticated`; `NotFound` for a project that is not the caller's.
    """
    credentials_of(request)  # 401 before anything is looked for
    found = Project.objects.filter(workspace=UUID(workspace_id), name=project_name).values_list("pk", flat=True).first()
    return identify(request, found or "")


def identify_for_module(request: HttpRequest, public_id: str) -> tuple[Caller, Module]:
    """The caller of a published module's route, and the module: its own key, or whoever its project knows.

    Raises a class of `Unauthenticated`; `NotFound` for a module that is deleted, unknown, or not the caller's.
    """
    jwt, key = credentials_of(request)
    rows = Module.objects.living().select_related("published", "project__workspace__plan")
    module = rows.filter(public_id=public_id).first()
    own = None if jwt else find_module_key(key)
    if own is None:
        caller = identify(request, module.project_id if module else "")
    elif module is None or own.module_id != module.pk:
        raise errors.NotFound
    else:
        caller = _as_caller(own, module, request)
    if module is None:
        raise errors.NotFound
    module.project = caller.project
    return caller, module


def find_module_key(secret: str) -> ModuleKey | None:
    """The usable module's key of this secret."""
    if len(secret) != MODULE_KEY_LENGTH:
        return None
    return ModuleKey.objects.usable().filter(digest=ModuleKey.digest_of(secret)).first()


def _as_caller(key: ModuleKey, module: Module, request: HttpRequest) -> Caller:
    actor = Actor(f"module-key:{key.prefix} {module.name}", client_ip(request))
    return Caller(kind="module_key", project=module.project, scopes=frozenset({"runs"}), actor=actor)
