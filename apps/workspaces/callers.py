"""Who calls: from the headers of an API request to a `Caller`, in one SELECT for a project's key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from django.http import HttpRequest

from apps.lib import errors
from apps.lib.api import client_ip
from apps.lib.db import Prepared

from . import tokens
from .audit import Actor
from .models import SCOPES, ApiKey, Membership, Plan, Project, Role, User, Workspace
from .services import clean_user_id

# What deletes is a scope of its own, which keys have with the one they need for the rest; a developer has neither.
IMPLIED = {"admin": frozenset({"delete"}), "connect": frozenset({"disconnect"})}
UNREADABLE = "Is empty or not ASCII: write an id with other characters as UTF-8''J%C3%BCrgen (RFC 8187)."
ALL = frozenset({*SCOPES, "delete", "disconnect"})
ROLE_SCOPES = {
    Role.OWNER: ALL,
    Role.ADMIN: ALL,
    Role.DEVELOPER: frozenset(set(SCOPES) - {"secrets"}),
    Role.VIEWER: frozenset[str](),
}


@dataclass(frozen=True)
class Caller:
    """Who calls a project's API, and what they may.

    ``user_id`` is set where the key or token is bound to one end user: then nothing else may be named.
    """

    kind: str  # key | end_user | member | run
    project: Project
    scopes: frozenset[str]
    actor: Actor
    user_id: str | None = None
    key: ApiKey | None = None
    toolkits: frozenset[str] = field(default_factory=frozenset)
    role: str = ""

    @property
    def workspace(self) -> Workspace:
        return self.project.workspace

    @property
    def plan(self) -> Plan:
        return self.project.workspace.plan

    @property
    def quota_id(self) -> str:
        """What the limit of calls a minute is counted by."""
        if self.kind == "run":  # those of a project count together
            return "run"
        return f"key:{self.key.pk}" if self.key else f"{self.kind}:{self.user_id or self.actor.name}"

    def may(self, scope: str) -> bool:
        return scope in self.scopes

    def require(self, *scopes: str, reading: bool = False) -> None:
        """Raises `NotPermitted` without one of the scopes; a viewer may read."""
        if self.kind == "member" and reading:
            return
        if not any(scope in self.scopes for scope in scopes):
            needed = " or ".join(scopes)
            raise errors.NotPermitted(
                f"This needs the scope {needed}.", remediation=f"Use a key with the scope {needed}."
            )

    def require_deleting(self) -> None:
        """Raises `NotPermitted` for a developer, where keys need no scope of its own to delete."""
        if self.kind == "member" and "delete" not in self.scopes:
            raise errors.NotPermitted(
                "Developers may not delete.", remediation="Ask an owner or admin of the workspace."
            )

    def may_use(self, toolkit: str) -> bool:
        return not self.toolkits or toolkit in self.toolkits

    def require_toolkit(self, toolkit: str) -> None:
        if not self.may_use(toolkit):
            raise errors.NotPermitted(
                f"This key may not use the toolkit {toolkit}.", remediation="Use a key that names this toolkit."
            )

    def for_user(self, named: object = None, header: str | None = None) -> str | None:
        """The end user that the call is for: bound to the caller, else the body or the header. None: nobody.

        Raises `InvalidInput`, also for an empty header: a person whom we cannot read is not nobody.
        """
        if self.user_id is not None:
            return self.user_id
        if header == "":
            raise errors.InvalidInput({"X-End-User": [UNREADABLE]})
        if named is not None:
            return clean_user_id(named)
        return clean_user_id(header, "X-End-User") if header is not None else None


def credentials_of(request: HttpRequest) -> tuple[str, str]:
    """(JWT, key) as sent; a Bearer value of three dot-separated parts is a JWT, anything else a key.

    Raises `AuthRequired` where neither was sent.
    """
    scheme, _, value = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    bearer = value.strip() if scheme.lower() == "bearer" else ""
    key = request.META.get("HTTP_X_API_KEY", "").strip()
    if bearer.count(".") == 2:
        return bearer, key
    if bearer or key:
        return "", bearer or key
    raise errors.AuthRequired


def identify(request: HttpRequest, project_id: str) -> Caller:
    """The caller of a project's route.

    Raises a class of `Unauthenticated`; `NotFound` for a project that is not the caller's.
    """
    jwt, key = credentials_of(request)
    if jwt:
        # With both a JWT and a key the JWT decides, and a bad one is not made good by the key.
        if tokens.is_member_token(jwt):
            return _member(jwt, project_id, request)
        return _end_user(jwt, project_id, request)
    return _key(key, project_id, request)


def identify_by_credential(request: HttpRequest) -> Caller:
    """The caller of a route whose path names no project: that of the key, or of the end user's token.

    Raises a class of `Unauthenticated`, also for a member's token; `BadRequest` for a key that leaves the project open.
    """
    jwt, key = credentials_of(request)
    if not jwt:
        found = find_key(key)
        return _caller_of(found, found.project or _only_project(found), request)
    if tokens.is_member_token(jwt):
        raise errors.InvalidUserToken("This route takes an API key or an end user's token, not a member's.")
    return _end_user(jwt, tokens.project_of(jwt), request)


def _only_project(key: ApiKey) -> Project:
    found = list(Project.objects.filter(workspace=key.workspace_id)[:2])
    if len(found) != 1:
        raise errors.BadRequest(
            "This key is of a workspace with more than one project, or none, and this route names no project.",
            remediation="Use the key of a project, or of an end user.",
        )
    return found[0]


def _key(secret: str, project_id: str, request: HttpRequest) -> Caller:
    key = find_key(secret)
    project = key.project
    if project is None:
        project = Project.objects.filter(pk=project_id, workspace=key.workspace_id).first()
    if project is None or project.pk != project_id:
        raise errors.NotFound
    return _caller_of(key, project, request)


def _caller_of(key: ApiKey, project: Project, request: HttpRequest) -> Caller:
    project.workspace = key.workspace
    return Caller(
        kind="key",
        project=project,
        scopes=with_implied(key.scopes),
        actor=Actor(f"key:{key.pk} {key.name}", client_ip(request)),
        user_id=key.end_user.external_id if key.end_user else None,
        key=key,
        toolkits=frozenset(key.toolkits),
    )


def with_implied(scopes: Iterable[str]) -> frozenset[str]:
    return frozenset(scopes).union(*(IMPLIED.get(scope, frozenset()) for scope in scopes))


KEY = Prepared(
    lambda digest: ApiKey.objects.filter(digest=digest).select_related("workspace__plan", "project", "end_user"), 1
)


def grantable(role: str) -> frozenset[str]:
    """Scopes that somebody of this role may give to a key: none that implies what the role bars, as admin implies delete."""
    own = ROLE_SCOPES[Role(role)]
    return own if "delete" in own else own - {"admin"}


def find_key(secret: str) -> ApiKey:
    """The usable key, its workspace, plan, project and user joined. Raises `InvalidApiKey`."""
    key = KEY.first(ApiKey.digest_of(secret))
    if key is None or key.digest != ApiKey.digest_of(secret) or not key.is_usable():
        raise errors.InvalidApiKey
    return key


def _end_user(jwt: str, project_id: str, request: HttpRequest) -> Caller:
    project = Project.objects.filter(pk=project_id).select_related("workspace__plan").first()
    if project is None:
        raise errors.InvalidUserToken
    claims = tokens.verify_user_token(project, jwt)
    return Caller(
        kind="end_user",
        project=project,
        scopes=with_implied(claims.scopes),
        actor=Actor(f"end-user:{claims.user_id}", client_ip(request)),
        user_id=claims.user_id,
        toolkits=claims.toolkits,
        role=claims.role,
    )


def _member(jwt: str, project_id: str, request: HttpRequest) -> Caller:
    user = tokens.verify_member_token(jwt)
    project = Project.objects.filter(pk=project_id).select_related("workspace__plan").first()
    role = role_in(user, project.workspace_id) if project else None
    if project is None or role is None:
        raise errors.NotFound
    return Caller(
        kind="member",
        project=project,
        scopes=ROLE_SCOPES[Role(role)],
        actor=Actor(f"user:{user.email}", client_ip(request)),
        role=role,
    )


def role_in(user: User, workspace_id: UUID) -> str | None:
    """The person's role in a workspace; an installation's superuser is an owner everywhere."""
    if user.is_superuser:
        return Role.OWNER
    return Membership.objects.filter(user=user, workspace=workspace_id).values_list("role", flat=True).first()
