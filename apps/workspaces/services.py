"""Every change to people, tenants, projects and keys. Each writes its audit event in the same transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.lib.egress import is_named
from apps.lib.errors import Conflict, InvalidInput, PlanLimitReached

from . import project_settings
from .audit import Actor, record
from .models import SCOPES, ApiKey, EndUser, JwtIssuer, Membership, Plan, Project, Role, User, Workspace
from .signing_keys import MIN_SECRET_BYTES, read_pem

DEFAULT_PLAN = "Unlimited"
USER_ID_LENGTH = 255


def default_plan() -> Plan:
    return Plan.objects.get_or_create(name=DEFAULT_PLAN)[0]


@transaction.atomic
def create_workspace(name: str, owner: User, actor: Actor) -> Workspace:
    workspace = Workspace.objects.create(name=name, plan=default_plan())
    add_member(workspace, owner, Role.OWNER, actor)
    record(actor, "workspace.created", workspace.pk, workspace=workspace, name=name)
    return workspace


@transaction.atomic
def add_member(workspace: Workspace, user: User, role: str, actor: Actor) -> Membership:
    """Makes the person a member, or gives a member another role. Members may use the admin, for their workspaces."""
    membership, _ = Membership.objects.update_or_create(workspace=workspace, user=user, defaults={"role": role})
    if not user.is_staff:
        User.objects.filter(pk=user.pk).update(is_staff=True)
        user.is_staff = True
    record(actor, "member.set", user.email, workspace=workspace, role=role)
    return membership


@transaction.atomic
def invite_member(workspace: Workspace, email: str, role: str, actor: Actor) -> tuple[Membership, bool]:
    """Adds a member by e-mail; the second value tells whether an account without a password was made for them."""
    user = User.objects.filter(email__iexact=email).first()
    made = user is None
    if user is None:
        user = User.objects.create_user(email)
    return add_member(workspace, user, role, actor), made


@transaction.atomic
def remove_member(membership: Membership, actor: Actor) -> None:
    """Raises `Conflict` for the last owner."""
    owners = Membership.objects.filter(workspace=membership.workspace_id, role=Role.OWNER).exclude(pk=membership.pk)
    if membership.role == Role.OWNER and not owners.exists():
        raise Conflict("A workspace needs an owner.", remediation="Make somebody else an owner first.")
    record(actor, "member.removed", membership.user.email, workspace=membership.workspace)
    membership.delete()


@transaction.atomic
def create_project(workspace: Workspace, name: str, actor: Actor) -> Project:
    """Raises `Conflict` where the workspace has a project of this name."""
    try:
        with transaction.atomic():
            project = Project.objects.create(workspace=workspace, name=name)
    except IntegrityError:
        raise Conflict(f"The workspace already has a project named {name}.") from None
    record(actor, "project.created", project.pk, project=project, name=name)
    return project


SETTINGS = {
    "name": "name",
    "logo": "logo_url",
    "colour": "colour",
    "allowedOrigins": "allowed_origins",
    "confirmConnections": "confirm_connections",
}


@transaction.atomic
def change_settings(project: Project, changes: dict[str, Any], actor: Actor) -> Project:
    """Sets what is given, by the API's names. Raises `Conflict` for a name already taken."""
    parts = project_settings.parts()
    fields = {SETTINGS[name]: value for name, value in changes.items() if name in SETTINGS}
    further = {name: value for name, value in changes.items() if name not in SETTINGS and name not in parts}
    if "allowed_origins" in fields:
        fields["allowed_origins"] = sorted({clean_origin(origin) for origin in fields["allowed_origins"]})
    for field, value in fields.items():
        setattr(project, field, value)
    stored = Project.objects.select_for_update(no_key=True).values_list("settings", flat=True).get(pk=project.pk)
    project.settings = stored | further  # what was changed since the project was read stays
    try:
        with transaction.atomic():
            project.save(update_fields=[*fields, "settings"])
    except IntegrityError:
        raise Conflict("The workspace already has a project of this name.") from None
    for name, part in parts.items():
        if name in changes:
            part.change(project, changes[name], actor)
    record(actor, "project.changed", project.pk, project=project, changed=sorted(changes))
    return project


def clean_origin(text: str) -> str:
    """``https://App.Example:443/`` → ``https://app.example``. Raises `InvalidInput`."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        raise InvalidInput({"allowedOrigins": [f"{text[:200]!r} is not an origin."]}) from None
    bad = parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None
    if bad or parts.path not in {"", "/"} or parts.query or parts.fragment or "*" in text:
        raise InvalidInput({"allowedOrigins": [f"{text[:200]!r} is not an origin, like https://app.example."]})
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    default = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if port in {None, default} else f":{port}")


@transaction.atomic
def issue_key(
    workspace: Workspace,
    name: str,
    actor: Actor,
    *,
    project: Project | None = None,
    end_user: EndUser | None = None,
    scopes: list[str] | None = None,
    toolkits: list[str] | None = None,
    expires_at: datetime | None = None,
    created_by: User | None = None,
) -> tuple[ApiKey, str]:
    """Makes a key; gives its row and the key itself, which is not kept. Raises `InvalidInput`, `QuotaExceeded`."""
    chosen = ["connect", "execute", "runs"] if scopes is None else scopes
    unknown = sorted(set(chosen) - set(SCOPES))
    if unknown:
        raise InvalidInput({"scopes": [f"Unknown: {', '.join(unknown)}. Known: {', '.join(SCOPES)}."]})
    check_key_limit(workspace)
    secret = ApiKey.new_secret()
    key = ApiKey.objects.create(
        workspace=workspace,
        project=project,
        end_user=end_user,
        name=name,
        prefix=secret[:12],
        digest=ApiKey.digest_of(secret),
        scopes=sorted(set(chosen)),
        toolkits=sorted(set(toolkits or []) - {"*"}),
        expires_at=expires_at,
        created_by=created_by,
    )
    record(actor, "key.issued", key.pk, project=project, workspace=workspace, name=name, permits=key.scopes)
    return key, secret


def check_key_limit(workspace: Workspace) -> None:
    """Raises `QuotaExceeded` where the plan permits no further key. To be called in the transaction that makes it."""
    limit = workspace.plan.keys
    if limit is None:
        return
    Workspace.objects.select_for_update().get(pk=workspace.pk)  # one asks at a time
    if workspace.api_keys.usable().count() >= limit:
        raise PlanLimitReached(f"The plan's limit of {limit} API keys is reached.",
                            remediation="Revoke a key that is no longer used, or ask for a larger plan.")  # fmt: skip


@transaction.atomic
def revoke_key(key: ApiKey, actor: Actor) -> bool:
    """Ends a key at once, in every process; False where it was revoked already."""
    won = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now())
    if won:
        record(actor, "key.revoked", key.pk, project=key.project, workspace=key.workspace, name=key.name)
    return bool(won)


def end_user(project: Project, user_id: str) -> EndUser:
    """The end user of this id, made where there is none."""
    return EndUser.objects.get_or_create(project=project, external_id=user_id)[0]


def clean_user_id(value: object, field: str = "userId") -> str:
    """A user id as text. Raises `InvalidInput` for what is not a string of 1 to 255 characters."""
    if not isinstance(value, str) or not 1 <= len(value) <= USER_ID_LENGTH:
        raise InvalidInput({field: [f"Must be a text of 1 to {USER_ID_LENGTH} characters."]})
    if "\x00" in value or not value.isprintable():
        raise InvalidInput({field: ["Must not have control characters."]})
    return value


ISSUER_LEEWAY = 300  # seconds; more would make exp meaningless


@transaction.atomic
def set_issuer(
    project: Project,
    actor: Actor,
    *,
    issuer: str,
    method: str,
    secret: str = "",
    public_key: str = "",
    jwks_url: str = "",
    audience: str = "",
    user_claim: str = "sub",
    role_claim: str = "",
    leeway: int = 30,
) -> JwtIssuer:
    """Says who may sign tokens for the project's end users; replaces the issuer of the same name.

    An empty secret keeps the one that is stored. Raises `InvalidInput` with every fault.
    """
    row = JwtIssuer.objects.filter(project=project, issuer=issuer).first() or JwtIssuer(project=project, issuer=issuer)
    had_secret = row.method == JwtIssuer.Method.HS256 and bool(row.secret)
    row.method, row.audience, row.user_claim = method, audience, user_claim
    row.role_claim, row.leeway = role_claim, leeway
    row.public_key = public_key if method in {"RS256", "ES256", "EdDSA"} else ""
    row.jwks_url = jwks_url if method == JwtIssuer.Method.JWKS else ""
    faults = _issuer_faults(row, secret, had_secret)
    if faults:
        raise InvalidInput(faults)
    if method != JwtIssuer.Method.HS256:
        row.secret = ""
    elif secret:
        row.seal("secret", secret)
    row.save()
    record(actor, "issuer.set", issuer, project=project, method=method, audience=audience)
    return row


def _issuer_faults(row: JwtIssuer, secret: str, had_secret: bool) -> dict[str, list[str]]:
    try:
        row.clean_fields(exclude=["project", "secret"])
        faults: dict[str, list[str]] = {}
    except ValidationError as error:
        faults = {field: [str(text) for text in texts] for field, texts in error.message_dict.items()}
    if not row.issuer.isprintable() or row.issuer == settings.JACKFIELD_URL:
        faults["issuer"] = ["Must be the iss of the tokens, and not this installation's own URL."]
    if row.leeway > ISSUER_LEEWAY:
        faults["leeway"] = [f"At most {ISSUER_LEEWAY} seconds."]
    if row.method == JwtIssuer.Method.HS256:
        if (secret or not had_secret) and len(secret.encode()) < MIN_SECRET_BYTES:
            faults["secret"] = [f"At least {MIN_SECRET_BYTES} bytes."]
    elif row.method == JwtIssuer.Method.JWKS:
        if not (row.jwks_url.startswith("https://") or (row.jwks_url and is_named(row.jwks_url))):
            faults["jwks_url"] = ["Must be an https URL: keys that come without TLS can be anybody's."]
    elif row.method in JwtIssuer.Method.values:
        try:
            read_pem(row.public_key, row.method)
        except ValueError as error:
            faults["public_key"] = [str(error)]
    return faults


@transaction.atomic
def remove_issuer(issuer: JwtIssuer, actor: Actor) -> None:
    """Its tokens are refused from now on."""
    record(actor, "issuer.removed", issuer.issuer, project=issuer.project)
    issuer.delete()


# -- Changes that only the admin makes -------------------------------------------------------------------------------
def _keep_an_owner(membership: Membership) -> None:
    """Raises `Conflict` where the workspace has no other owner than this one."""
    owners = Membership.objects.filter(workspace=membership.workspace_id, role=Role.OWNER)
    if owners.filter(pk=membership.pk).exists() and not owners.exclude(pk=membership.pk).exists():
        raise Conflict("A workspace needs an owner.", remediation="Make somebody else an owner first.")


@transaction.atomic
def change_role(membership: Membership, role: str, actor: Actor) -> None:
    """Raises `Conflict` for the last owner."""
    if role != Role.OWNER:
        _keep_an_owner(membership)
    Membership.objects.filter(pk=membership.pk).update(role=role)
    record(actor, "member.set", membership.user.email, workspace=membership.workspace, role=role)


@transaction.atomic
def change_workspace(workspace: Workspace, name: str, plan: Plan, actor: Actor) -> None:
    Workspace.objects.filter(pk=workspace.pk).update(name=name, plan=plan)
    record(actor, "workspace.changed", workspace.pk, workspace=workspace, name=name, plan=plan.name)


@transaction.atomic
def delete_workspace(workspace: Workspace, actor: Actor) -> None:
    """Deletes an empty workspace with its audit log. Raises `Conflict` where it has projects."""
    if workspace.projects.exists():
        raise Conflict("The workspace still has projects.", remediation="Delete its projects first.")
    record(actor, "workspace.deleted", workspace.pk, name=workspace.name)
    workspace.delete()


@transaction.atomic
def delete_project(project: Project, actor: Actor) -> None:
    """Deletes a project with its keys, integrations and logs.

    Raises `Conflict` where accounts are connected: only disconnecting revokes them at their providers.
    """
    connected = project.connections.count()
    if connected:
        raise Conflict(f"{connected} accounts are still connected.", remediation="Disconnect them first.")
    record(actor, "project.deleted", project.pk, workspace=project.workspace, name=project.name)
    project.delete()


@transaction.atomic
def save_plan(plan: Plan, actor: Actor) -> Plan:
    plan.save()
    record(actor, "plan.set", plan.name)
    return plan


@transaction.atomic
def delete_plan(plan: Plan, actor: Actor) -> None:
    """Raises `Conflict` where a workspace has it."""
    if plan.workspaces.exists():
        raise Conflict("Workspaces have this plan.", remediation="Give them another plan first.")
    record(actor, "plan.deleted", plan.name)
    plan.delete()


@transaction.atomic
def add_user(email: str, name: str, actor: Actor, *, superuser: bool = False) -> User:
    """A person who may use the admin; they set their password by a link. Raises `Conflict` for an address taken."""
    if User.objects.filter(email__iexact=email).exists():
        raise Conflict("There is a user with this e-mail address.", remediation="Change that user.")
    user = User.objects.create_user(email, name=name, is_staff=True, is_superuser=superuser)
    record(actor, "user.created", user.email, superuser=superuser)
    return user


@transaction.atomic
def change_user(user: User, actor: Actor, *, name: str, active: bool, staff: bool, superuser: bool) -> None:
    """Raises `Conflict` where no active superuser would be left."""
    others = User.objects.filter(is_superuser=True, is_active=True).exclude(pk=user.pk)
    if not (superuser and active) and not others.exists():
        raise Conflict("An installation needs a superuser.", remediation="Make somebody else one first.")
    User.objects.filter(pk=user.pk).update(name=name, is_active=active, is_staff=staff, is_superuser=superuser)
    record(actor, "user.changed", user.email, active=active, staff=staff, superuser=superuser)
