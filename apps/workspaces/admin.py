"""Workspaces, projects, members, keys, token issuers, the audit log; plans, users and sign-on issuers of the installation."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from allauth.account.forms import default_token_generator
from allauth.account.utils import user_pk_to_url_str
from allauth.socialaccount.models import SocialApp
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.core.exceptions import PermissionDenied
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from unfold.contrib.filters.admin import FieldTextFilter
from unfold.paginator import InfinitePaginator
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminColorInputWidget,
    UnfoldAdminEmailInputWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldAdminURLInputWidget,
    UnfoldBooleanWidget,
)

from apps.lib.errors import Failure

from . import (
    accounts,
    admin_notifications,  # noqa: F401 - registers its pages
    admin_webhooks,  # noqa: F401 - registers its pages
    project_settings,
    quota,
    services,
)
from .admin_base import (
    EDITORS,
    MANAGERS,
    InstallationAdmin,
    PeriodFilter,
    ProjectFilter,
    ReadOnly,
    ScopedAdmin,
    WorkspaceFilter,
    display,
    is_superuser,
    preformatted,
    projects_of,
    roles_of,
    row_action,
    show_failure,
)
from .audit import actor_of, record
from .callers import grantable
from .models import ApiKey, AuditEvent, JwtIssuer, Membership, Plan, Project, Role, User, Workspace

SCOPE_MEANINGS = {
    "connect": "Connect, list and disconnect accounts of end users",
    "execute": "Call tools and the proxy with their accounts",
    "runs": "Start and follow runs of modules",
    "admin": "Configure integrations and read the logs",
    "secrets": "Read access tokens in plain (every reading is audited)",
}
ROLE_MEANINGS = (
    (Role.OWNER, "Owner: everything"),
    (Role.ADMIN, "Admin: everything"),
    (Role.DEVELOPER, "Developer: all but deleting, members and the workspace itself"),
    (Role.VIEWER, "Viewer: reads"),
)
LIFETIMES = (("", "Never"), ("7", "In 7 days"), ("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year"))


def mail_is_set_up() -> bool:
    return "console" not in settings.EMAIL_BACKEND and "dummy" not in settings.EMAIL_BACKEND


# -- Workspaces and their people -------------------------------------------------------------------------------------
@admin.register(Workspace)
class WorkspaceAdmin(ScopedAdmin):
    workspace_path = ""
    add_roles = change_roles = MANAGERS
    delete_roles = frozenset({Role.OWNER.value})
    intro = "A workspace is a tenant: its members see its projects, and nobody else does."
    list_display = ("name", "plan", "number_of_projects", "number_of_members", "own_role", "created_at")
    search_fields = ("name",)
    fields = ("name", "plan")
    change_form_outer_before_template = "admin/jackfield/workspace.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Workspace]:
        rows = super().get_queryset(request).select_related("plan")
        counts = {name: Count(name, distinct=True) for name in ("projects", "memberships")}
        held = Membership.objects.filter(workspace=OuterRef("pk"), user=_user(request)).values("role")[:1]
        return rows.annotate(held=Subquery(held), **{f"number_of_{name}": count for name, count in counts.items()})  # type: ignore[no-any-return]

    @display(description="Your role")
    def own_role(self, row: Any) -> str:
        return Role(row.held).label if row.held else "Superuser"

    @display(description="Projects", ordering="number_of_projects")
    def number_of_projects(self, row: Any) -> int:
        return int(row.number_of_projects)

    @display(description="Members", ordering="number_of_memberships")
    def number_of_members(self, row: Any) -> int:
        return int(row.number_of_memberships)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("name", "plan") if obj is not None else ("name",)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return () if is_superuser(request) else ("plan",)

    def create(self, request: HttpRequest, form: Any) -> Workspace:
        return services.create_workspace(form.cleaned_data["name"], _user(request), actor_of(request))

    def apply(self, request: HttpRequest, obj: Workspace, form: Any) -> None:
        services.change_workspace(obj, obj.name, obj.plan, actor_of(request))

    def remove(self, request: HttpRequest, obj: Workspace) -> None:
        services.delete_workspace(obj, actor_of(request))

    def facts(self, request: HttpRequest, obj: Workspace) -> dict[str, Any]:
        return {"facts": [("Id", str(obj.pk))], "usage": quota.usage(obj), "usage_of": obj.plan}


def _user(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


class InviteForm(forms.Form):
    """Whom to make a member."""

    workspace = forms.ModelChoiceField(Workspace.objects.none(), widget=UnfoldAdminSelectWidget, empty_label=None)
    email = forms.EmailField(label="E-mail", widget=UnfoldAdminEmailInputWidget)
    role = forms.ChoiceField(choices=ROLE_MEANINGS, initial=Role.DEVELOPER, widget=UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, workspaces: QuerySet[Workspace], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["workspace"].queryset = workspaces  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        known = Membership.objects.filter(workspace=data.get("workspace"), user__email__iexact=data.get("email", ""))
        if data.get("workspace") and known.exists():
            self.add_error("email", "Is a member already; change the role on their own page.")
        return data


@admin.register(Membership)
class MembershipAdmin(ScopedAdmin):
    workspace_path = "workspace"
    add_roles = change_roles = delete_roles = MANAGERS
    intro = "Who may use this admin, for which workspace, and in which role."
    list_display = ("person", "role_label", "workspace", "last_sign_in", "created_at")
    list_filter = (WorkspaceFilter, "role")
    search_fields = ("user__email", "user__name")
    fields = ("user", "workspace", "role")
    readonly_fields = ("user", "workspace")
    row_actions = ("invite_again",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Membership]:
        return super().get_queryset(request).select_related("user", "workspace")

    @display(description="Person", header=True, ordering="user__email")
    def person(self, row: Membership) -> tuple[str, str]:
        return row.user.name or row.user.email, row.user.email if row.user.name else ""

    @display(description="Role", ordering="role", label={"Owner": "success", "Admin": "info", "Developer": "primary"})
    def role_label(self, row: Membership) -> str:
        return Role(row.role).label

    @display(description="Last sign-in", ordering="user__last_login", empty_value="Never")
    def last_sign_in(self, row: Membership) -> Any:
        return row.user.last_login

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "role":
            kwargs["choices"] = ROLE_MEANINGS
        return super().formfield_for_choice_field(db_field, request, **kwargs)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        workspaces = Workspace.objects.of(request.user, *MANAGERS).order_by("name")
        initial = {"workspace": request.GET.get("workspace")}
        form = InviteForm(request.POST or None, workspaces=workspaces, initial=initial)
        if request.method == "POST" and form.is_valid():
            data = form.cleaned_data
            membership, made = services.invite_member(data["workspace"], data["email"], data["role"], actor_of(request))
            return self._invited(request, membership, made)
        text = "They get an e-mail with a link." if mail_is_set_up() else (
            "No e-mail server is set up (EMAIL_URL): you get a link to hand on."
        )  # fmt: skip
        return self.page(request, "form", "Invite a member", form=form, submit="Invite", intro=text)

    def _invited(self, request: HttpRequest, membership: Membership, made: bool) -> HttpResponse:
        mailed = made and mail_is_set_up()
        if mailed:
            accounts.send_invitation(request, membership.user, membership.workspace, _user(request).email)
        # Whoever has the link owns the account, in every workspace that invites it later: where mail goes out, only the
        # person gets it; where none does, a superuser hands it on.
        link = invitation_link(request, membership.user) if made and not mailed and is_superuser(request) else ""
        context = {"membership": membership, "link": link, "mailed": mailed, "made": made,
                   "sign_in": _absolute("account_login")}  # fmt: skip
        return self.page_once(request, "invited", "Member added", **context)

    def offers(self, obj: Membership) -> tuple[str, ...]:
        return self.row_actions if _waits_for_password(obj) else ()

    @row_action("New invitation link", icon="link")
    def invite_again(self, request: HttpRequest, obj: Membership) -> HttpResponse:
        if not _waits_for_password(obj):
            raise PermissionDenied
        record(actor_of(request), "member.invited_again", obj.user.email, workspace=obj.workspace)
        return self._invited(request, obj, made=True)

    def apply(self, request: HttpRequest, obj: Membership, form: Any) -> None:
        services.change_role(obj, form.cleaned_data["role"], actor_of(request))

    def remove(self, request: HttpRequest, obj: Membership) -> None:
        services.remove_member(obj, actor_of(request))


def _waits_for_password(membership: Membership) -> bool:
    """Whether a link to set the password may be shown to this workspace: nobody else's account is opened by it."""
    user = membership.user
    elsewhere = user.memberships.exclude(pk=membership.pk).exists()
    return not (user.has_usable_password() or user.last_login or user.is_superuser or elsewhere)


def invitation_link(request: HttpRequest, user: User) -> str:
    """The link on which a person sets their password; it works once, for some days (PASSWORD_RESET_TIMEOUT)."""
    key = f"{user_pk_to_url_str(user)}-{default_token_generator.make_token(user)}"
    return str(accounts.AccountAdapter(request).get_reset_password_from_key_url(key))


def _absolute(name: str) -> str:
    return f"{settings.JACKFIELD_URL}{reverse(name)}"


# -- Projects --------------------------------------------------------------------------------------------------------
PROJECT_FIELDS = ("workspace", "name", "logo_url", "colour", "allowed_origins", "confirm_connections")


class ProjectForm(forms.ModelForm):  # type: ignore[type-arg]
    """A project's settings, by the names of the model."""

    logo_url = forms.URLField(
        label="Logo",
        required=False,
        max_length=500,
        assume_scheme="https",
        widget=UnfoldAdminURLInputWidget,
        help_text="Address of an image; shown where end users connect accounts.",
    )
    allowed_origins = forms.CharField(
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="One a line, like https://app.example. Return URLs after connecting may lead only there.",
    )

    class Meta:
        model = Project
        fields = PROJECT_FIELDS
        widgets = {"colour": UnfoldAdminColorInputWidget(attrs={"type": "color"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "allowed_origins" in self.fields:
            self.initial["allowed_origins"] = "\n".join(self.instance.allowed_origins)
        for name, part in admin_parts().items():
            self.fields[name] = part.admin(self.instance)
            self.initial[name] = part.read(self.instance)

    def clean_allowed_origins(self) -> list[str]:
        lines = [line.strip() for line in self.cleaned_data["allowed_origins"].splitlines() if line.strip()]
        try:
            return sorted({services.clean_origin(line) for line in lines})
        except Failure as failure:
            raise forms.ValidationError([text for texts in failure.details.values() for text in texts]) from None


def admin_parts() -> dict[str, Any]:
    """Settings of other apps that the admin can set."""
    return {name: part for name, part in project_settings.parts().items() if part.admin is not None}


def shown_part(value: Any) -> str:
    """A setting of another app, for those who may only look."""
    return ", ".join(map(str, value.values())) if isinstance(value, dict) else str(value or "Off")


@admin.register(Project)
class ProjectAdmin(ScopedAdmin):
    workspace_path = "workspace"
    form = ProjectForm
    intro = "A project is one product of yours, with its own end users, integrations and keys."
    list_display = ("name", "id", "workspace", "number_of_integrations", "number_of_connections", "created_at")
    list_filter = (WorkspaceFilter,)
    search_fields = ("name", "id")
    fieldsets = (
        (None, {"fields": ("workspace", "name")}),
        ("What end users see", {"fields": ("logo_url", "colour")}),
        ("Connecting", {"fields": ("allowed_origins", "confirm_connections")}),
    )
    add_fieldsets = ((None, {"fields": ("workspace", "name")}),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        rows = super().get_queryset(request).select_related("workspace")
        return rows.annotate(  # type: ignore[no-any-return]
            number_of_integrations=Count("integrations", distinct=True),
            number_of_connections=Count("connections", distinct=True),
        )

    @display(description="Integrations", ordering="number_of_integrations")
    def number_of_integrations(self, row: Any) -> int:
        return int(row.number_of_integrations)

    @display(description="Connections", ordering="number_of_connections")
    def number_of_connections(self, row: Any) -> int:
        return int(row.number_of_connections)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("workspace",) if obj is not None else ()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        parts = tuple(admin_parts()) if obj is not None and self.has_change_permission(request, obj) else ()
        return [*super().get_fieldsets(request, obj), *([("Runs", {"fields": parts})] if parts else [])]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if obj is None:
            kwargs["fields"] = ("workspace", "name")
            kwargs["form"] = forms.ModelForm
        else:
            kwargs["fields"] = PROJECT_FIELDS  # those of other apps' settings are no model's
        return super().get_form(request, obj, change, **kwargs)

    def create(self, request: HttpRequest, form: Any) -> Project:
        data = form.cleaned_data
        return services.create_project(data["workspace"], data["name"], actor_of(request))

    def apply(self, request: HttpRequest, obj: Project, form: Any) -> None:
        names = {field: name for name, field in services.SETTINGS.items()}
        changes = {names[field]: form.cleaned_data[field] for field in form.changed_data if field in names}
        changes |= {field: form.cleaned_data[field] for field in form.changed_data if field in admin_parts()}
        services.change_settings(obj, changes, actor_of(request))

    def remove(self, request: HttpRequest, obj: Project) -> None:
        services.delete_project(obj, actor_of(request))

    def facts(self, request: HttpRequest, obj: Project) -> dict[str, Any]:
        facts = [("Project id (appId)", obj.pk), ("API base URL", f"{settings.JACKFIELD_URL}/v1/{obj.pk}")]
        if not self.has_change_permission(request, obj):
            facts += [(part.admin(obj).label, shown_part(part.read(obj))) for part in admin_parts().values()]
        return {
            "facts": facts,
            "links": [("Where results go", reverse("admin:runs_sinksettings_change", args=[quote(obj.pk)]), "send")],
        }


# -- Keys ------------------------------------------------------------------------------------------------------------
class KeyForm(forms.Form):
    """What a new key is for. Its place is a project (``p:<id>``) or a whole workspace (``w:<id>``)."""

    name = forms.CharField(
        max_length=100,
        widget=UnfoldAdminTextInputWidget,
        help_text="Where it is used: backend, staging, laptop of Ada.",
    )
    place = forms.ChoiceField(label="Valid for", widget=UnfoldAdminSelectWidget)
    scopes = forms.MultipleChoiceField(
        choices=tuple((name, f"{name}: {meaning}") for name, meaning in SCOPE_MEANINGS.items()),
        initial=["connect", "execute", "runs"],
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )
    toolkits = forms.MultipleChoiceField(
        required=False, widget=UnfoldAdminCheckboxSelectMultipleWidget, help_text="None ticked: every toolkit."
    )
    end_user = forms.CharField(
        label="Only for the end user",
        required=False,
        max_length=services.USER_ID_LENGTH,
        widget=UnfoldAdminTextInputWidget,
        help_text="Your own id of one end user, to whom the key is then bound; usually empty.",
    )
    expires = forms.ChoiceField(label="Expires", choices=LIFETIMES, required=False, widget=UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request
        self.projects = {f"p:{row.pk}": row for row in projects_of(request, EDITORS)}
        rows = Workspace.objects.of(request.user, *EDITORS).select_related("plan").order_by("name")
        self.workspaces = {f"w:{row.pk}": row for row in rows}
        several = len(self.workspaces) > 1
        choices = [(key, f"{row.name} ({row.workspace.name})" if several else row.name)
                   for key, row in self.projects.items()]  # fmt: skip
        choices += [(key, f"Every project of {row.name}") for key, row in self.workspaces.items()]
        self.fields["place"].choices = choices  # type: ignore[attr-defined]
        slugs = {slug for row in self.projects.values() for slug in row.integrations.values_list("toolkit", flat=True)}
        if slugs:
            self.fields["toolkits"].choices = [(slug, slug) for slug in sorted(slugs)]  # type: ignore[attr-defined]
        else:
            del self.fields["toolkits"]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        project = self.projects.get(data.get("place", ""))
        workspace = project.workspace if project else self.workspaces.get(data.get("place", ""))
        if data.get("end_user") and project is None:
            self.add_error("end_user", "A key for one end user needs a project.")
        if workspace is not None and not is_superuser(self.request):
            permitted = grantable(roles_of(self.request)[workspace.pk])
            beyond = sorted(set(data.get("scopes", [])) - permitted)
            if beyond:
                self.add_error("scopes", f"Your role does not permit: {', '.join(beyond)}.")
        return data | {"project": project, "workspace": workspace}


@admin.register(ApiKey)
class ApiKeyAdmin(ScopedAdmin):
    workspace_path = "workspace"
    delete_roles = frozenset()  # a key is revoked, and stays to be seen
    intro = "Keys with which your product calls the API. Only a hash is stored: a key is shown once, when it is issued."
    list_display = ("name", "start", "state", "valid_for", "scope_list", "last_used_at", "expires_at")
    list_filter = (WorkspaceFilter, ProjectFilter)
    search_fields = ("name", "prefix", "id")
    ordering = ("-created_at",)
    fields = (
        "name", "start", "state", "valid_for", "end_user", "scope_list", "toolkit_list", "expires_at", "last_used_at",
        "revoked_at", "created_by", "created_at",
    )  # fmt: skip
    readonly_fields = fields
    actions = ("revoke_chosen",)
    row_actions = ("revoke",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        rows = super().get_queryset(request)
        return rows.select_related("workspace", "project", "end_user", "created_by")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # what a key permits never changes

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, EDITORS, obj)

    @display(description="Key")
    def start(self, row: ApiKey) -> str:
        return f"{row.prefix}…"

    @display(description="State", label={"Valid": "success", "Revoked": "danger", "Expired": "warning"})
    def state(self, row: ApiKey) -> str:
        if row.revoked_at:
            return "Revoked"
        return "Valid" if row.is_usable() else "Expired"

    @display(description="Valid for")
    def valid_for(self, row: ApiKey) -> str:
        return row.project.name if row.project else f"Every project of {row.workspace.name}"

    @display(description="Scopes")
    def scope_list(self, row: ApiKey) -> str:
        return ", ".join(row.scopes) or "none"

    @display(description="Toolkits")
    def toolkit_list(self, row: ApiKey) -> str:
        return ", ".join(row.toolkits) or "every toolkit"

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        initial = {"place": f"p:{request.GET['project']}"} if "project" in request.GET else {}
        form = KeyForm(request.POST or None, request=request, initial=initial)
        if request.method == "POST" and form.is_valid():
            try:
                return self._issue(request, form.cleaned_data)
            except Failure as failure:
                show_failure(form, failure)
        return self.page(request, "form", "Issue an API key", form=form, submit="Issue the key", intro=self.intro)

    def _issue(self, request: HttpRequest, data: dict[str, Any]) -> HttpResponse:
        project = data["project"]
        user_id = data["end_user"]
        if user_id:
            services.clean_user_id(user_id, "end_user")
        key, secret = services.issue_key(
            data["workspace"],
            data["name"],
            actor_of(request),
            project=project,
            end_user=services.end_user(project, user_id) if user_id else None,
            scopes=data["scopes"],
            toolkits=data.get("toolkits"),
            expires_at=timezone.now() + timedelta(days=int(data["expires"])) if data["expires"] else None,
            created_by=_user(request),
        )
        example = project or key.workspace.projects.first()
        url = f"{settings.JACKFIELD_URL}/v1/{example.pk if example else '{appId}'}/integrations/config"
        context = {"key": key, "secret": secret, "url": url, "user_bound": bool(user_id)}
        return self.page_once(request, "key_issued", "API key issued", **context)

    def offers(self, obj: ApiKey) -> tuple[str, ...]:
        return () if obj.revoked_at else self.row_actions

    @row_action("Revoke", permission="revoke", icon="block", danger=True,
                confirm="Revoke this key? Every call with it fails from now on.")  # fmt: skip
    def revoke(self, request: HttpRequest, obj: ApiKey) -> None:
        if services.revoke_key(obj, actor_of(request)):
            messages.success(request, f"The key {obj.name} is revoked; calls with it are refused from now on.")
        else:
            messages.info(request, f"The key {obj.name} was revoked before.")

    @admin.action(description="Revoke the chosen keys", permissions=["revoke"])
    def revoke_chosen(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        rows = self.each_permitted(request, queryset, "revoke")
        count = sum(services.revoke_key(row, actor_of(request)) for row in rows)
        messages.success(request, f"{count} keys are revoked.")


# -- Token issuers ---------------------------------------------------------------------------------------------------
class IssuerForm(forms.ModelForm):  # type: ignore[type-arg]
    """A token issuer; its shared secret is written, never read back."""

    shared_secret = forms.CharField(
        required=False,
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        label="Shared secret (HS256)",
    )
    jwks_url = forms.URLField(
        label="JWKS URL", required=False, max_length=500, assume_scheme="https", widget=UnfoldAdminURLInputWidget
    )
    service_names = {"secret": "shared_secret"}

    class Meta:
        model = JwtIssuer
        fields = (
            "project", "issuer", "audience", "method", "public_key", "jwks_url", "user_claim", "role_claim", "leeway",
        )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kept = bool(self.instance.secret)
        self.fields["shared_secret"].help_text = (
            "Set. Leave empty to keep it." if kept else "Not set. At least 32 bytes, shared with who signs the tokens."
        )


@admin.register(JwtIssuer)
class JwtIssuerAdmin(ScopedAdmin):
    form = IssuerForm
    intro = "Who may sign tokens for a project's end users, so that your frontend can call the API as one of them."
    list_display = ("issuer", "project", "method", "audience", "user_claim", "created_at")
    list_filter = (ProjectFilter, "method")
    search_fields = ("issuer", "audience")
    fieldsets = (
        (None, {"fields": ("project", "issuer", "audience")}),
        ("Signature", {"fields": ("method", "shared_secret", "public_key", "jwks_url")}),
        ("Claims", {"fields": ("user_claim", "role_claim", "leeway")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[JwtIssuer]:
        return super().get_queryset(request).select_related("project__workspace")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("project", "issuer") if obj is not None else ()

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if self.has_change_permission(request, obj) or obj is None:
            return super().get_fieldsets(request, obj)
        shown = [name for _, options in self.fieldsets for name in options["fields"] if name != "shared_secret"]
        return ((None, {"fields": shown}),)

    def create(self, request: HttpRequest, form: Any) -> JwtIssuer:
        return self._set(request, form.cleaned_data["project"], form.cleaned_data["issuer"], form)

    def apply(self, request: HttpRequest, obj: JwtIssuer, form: Any) -> None:
        self._set(request, obj.project, obj.issuer, form)

    def _set(self, request: HttpRequest, project: Project, issuer: str, form: Any) -> JwtIssuer:
        names = ("method", "public_key", "jwks_url", "audience", "user_claim", "role_claim", "leeway")
        values = {name: form.cleaned_data[name] for name in names}
        secret = form.cleaned_data["shared_secret"]
        return services.set_issuer(project, actor_of(request), issuer=issuer, secret=secret, **values)

    def remove(self, request: HttpRequest, obj: JwtIssuer) -> None:
        services.remove_issuer(obj, actor_of(request))


# -- The audit log ---------------------------------------------------------------------------------------------------
@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnly, ScopedAdmin):
    workspace_path = "workspace"
    intro = "Who did what, on what, from where. Rows are only ever added."
    paginator = InfinitePaginator
    show_full_result_count = False
    has_history = False
    list_display = ("created_at", "actor", "action", "target", "project", "ip")
    list_display_links = ("created_at", "action")
    list_filter = (
        WorkspaceFilter,
        ProjectFilter,
        ("action", FieldTextFilter),
        ("actor", FieldTextFilter),
        ("created_at", PeriodFilter),
    )
    search_fields = ("actor", "action", "target", "=request_id")
    ordering = ("-created_at",)
    fields = ("created_at", "actor", "action", "target", "workspace", "project", "ip", "request_id", "pretty_details")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuditEvent]:
        return super().get_queryset(request).select_related("workspace", "project")

    @display(description="Details")
    def pretty_details(self, row: AuditEvent) -> Any:
        return preformatted(json.dumps(row.details, indent=2, ensure_ascii=False)) if row.details else "–"


# -- The installation ------------------------------------------------------------------------------------------------
@admin.register(Plan)
class PlanAdmin(InstallationAdmin):
    intro = "Limits of workspaces. An empty limit is none. What a workspace uses of them stands on its own page."
    list_display = (
        "name", "number_of_workspaces", "connections", "keys", "calls_per_minute", "calls_per_day", "concurrent_calls",
        "concurrent_runs", "retention_days", "audit_days",
    )  # fmt: skip
    search_fields = ("name",)
    fieldsets = (
        (None, {"fields": ("name",)}),
        ("Calls", {"fields": ("calls_per_minute", "calls_per_day", "concurrent_calls")}),
        ("Connections, keys and runs", {"fields": ("connections", "keys", "concurrent_runs")}),
        ("Logs", {"fields": ("retention_days", "audit_days")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Plan]:
        rows = super().get_queryset(request)
        return rows.annotate(number_of_workspaces=Count("workspaces"))  # type: ignore[no-any-return]

    @display(description="Workspaces", ordering="number_of_workspaces")
    def number_of_workspaces(self, row: Any) -> int:
        return int(row.number_of_workspaces)

    def create(self, request: HttpRequest, form: Any) -> Plan:
        return services.save_plan(form.instance, actor_of(request))

    def apply(self, request: HttpRequest, obj: Plan, form: Any) -> None:
        services.save_plan(obj, actor_of(request))

    def remove(self, request: HttpRequest, obj: Plan) -> None:
        services.delete_plan(obj, actor_of(request))


class UserForm(forms.Form):
    """A new person of the installation."""

    email = forms.EmailField(label="E-mail", widget=UnfoldAdminEmailInputWidget)
    name = forms.CharField(max_length=150, required=False, widget=UnfoldAdminTextInputWidget)
    superuser = forms.BooleanField(
        label="Superuser: sees and may do everything, in every workspace", required=False, widget=UnfoldBooleanWidget
    )


@admin.register(User)
class UserAdmin(InstallationAdmin):
    intro = "Everybody who can sign in here. To let somebody into a workspace, invite them under Members."
    list_display = ("email", "name", "is_active", "is_superuser", "last_login", "created_at")
    list_filter = ("is_active", "is_superuser")
    search_fields = ("email", "name")
    ordering = ("email",)
    fields = ("email", "name", "is_active", "is_staff", "is_superuser", "last_login", "created_at")
    readonly_fields = ("email", "last_login", "created_at")
    row_actions = ("password_link",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # a person is switched off, and stays in the logs

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = UserForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            data = form.cleaned_data
            try:
                user = services.add_user(data["email"], data["name"], actor_of(request), superuser=data["superuser"])
                return self._link(request, user)
            except Failure as failure:
                show_failure(form, failure)
        return self.page(request, "form", "Add a user", form=form, submit="Add", intro=self.intro)

    def _link(self, request: HttpRequest, user: User) -> HttpResponse:
        return self.page_once(request, "invited", "Password link", person=user, link=invitation_link(request, user))

    @row_action("Link to set a new password", icon="key")
    def password_link(self, request: HttpRequest, obj: User) -> HttpResponse:
        record(actor_of(request), "user.password_link", obj.email)
        return self._link(request, obj)

    def apply(self, request: HttpRequest, obj: User, form: Any) -> None:
        services.change_user(
            obj, actor_of(request), name=obj.name, active=obj.is_active, staff=obj.is_staff, superuser=obj.is_superuser
        )


class SocialAppForm(forms.ModelForm):  # type: ignore[type-arg]
    """A single sign-on issuer (OpenID Connect); its secret is written, never read back."""

    server_url = forms.URLField(
        label="Issuer URL",
        assume_scheme="https",
        widget=UnfoldAdminTextInputWidget,
        help_text="Below which /.well-known/openid-configuration is.",
    )
    secret = forms.CharField(
        required=False,
        strip=False,
        label="Client secret",
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
    )
    workspace = forms.CharField(
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Id or name of the workspace whose member everybody becomes who signs in; empty: only who was invited.",
    )
    role = forms.ChoiceField(choices=ROLE_MEANINGS, initial=Role.VIEWER, widget=UnfoldAdminSelectWidget)

    class Meta:
        model = SocialApp
        fields = ("name", "provider_id", "client_id")
        labels = {"provider_id": "Slug", "client_id": "Client id"}
        help_texts = {"provider_id": "Part of the callback URL; never change it later."}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        stored = self.instance.settings or {}
        for name in ("server_url", "workspace", "role"):
            if name in stored:
                self.initial[name] = stored[name]
        kept = bool(self.instance.secret or stored.get(accounts.SEALED_SECRET))
        self.fields["secret"].help_text = "Set. Leave empty to keep it." if kept else "Not set."
        self.fields["provider_id"].required = True


@admin.register(SocialApp)
class SocialAppAdmin(InstallationAdmin):
    form = SocialAppForm
    intro = "OpenID Connect issuers that sign people in here. One may also be set by JACKFIELD_OIDC_ISSUER."
    list_display = ("name", "provider_id", "client_id")
    fields = ("name", "provider_id", "server_url", "client_id", "secret", "workspace", "role")

    def create(self, request: HttpRequest, form: Any) -> Any:
        return self._save(request, form)

    def apply(self, request: HttpRequest, obj: Any, form: Any) -> None:
        self._save(request, form)

    def _save(self, request: HttpRequest, form: Any) -> Any:
        app, data = form.instance, form.cleaned_data
        app.provider = "openid_connect"
        app.settings = {**(app.settings or {}), **{name: data[name] for name in ("server_url", "workspace", "role")}}
        if data["secret"]:
            app.secret = data["secret"]
        app.save()
        record(actor_of(request), "sso.set", app.provider_id, issuer=data["server_url"])
        return app

    def remove(self, request: HttpRequest, obj: Any) -> None:
        record(actor_of(request), "sso.removed", obj.provider_id)
        obj.delete()

    def facts(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        url = f"{settings.JACKFIELD_URL}/accounts/oidc/{obj.provider_id}/login/callback/"
        return {"facts": [("Callback URL", url)]}
