"""The catalog, the toolkits enabled for projects, and the accounts connected there."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse

from apps.lib.errors import Failure, NotFound
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Toolkit
from apps.workspaces.admin_base import (
    EDITORS,
    MANAGERS,
    OwnFilter,
    ProjectFilter,
    ReadOnly,
    ScopedAdmin,
    display,
    may,
    own_project,
    projects_of,
    row_action,
)
from apps.workspaces.audit import actor_of, record
from apps.workspaces.models import Project

from . import (
    access,
    admin_auth_sessions,  # noqa: F401 - registers its pages
    admin_catalog,
    admin_links,
    flows,
    integrations,
    raw,
    refresh,
    services,
)
from .admin_forms import IntegrationForm, TestConnectForm, has_secret
from .admin_raw import RawIntegrationForm
from .links import Link, make_link
from .models import Connection, Integration

STATES = {"Active": "success", "Waits for confirmation": "warning", "Needs reconnect": "danger"}


class ToolkitFilter(OwnFilter):
    title = "toolkit"
    parameter_name = field = "toolkit"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        slugs = (
            Integration.objects.filter(project__in=projects_of(request)).values_list("toolkit", flat=True).distinct()
        )
        return [(slug, name_of(slug)) for slug in sorted(slugs)]


def name_of(slug: str) -> str:
    toolkit = catalog().get(slug)
    return toolkit.name if toolkit else slug


def masked(label: str) -> str:
    """Enough of an account's name to know it by: ``ada@example.com`` → ``a•••@example.com``."""
    name, at, host = label.partition("@")
    return f"{name[:1] if at else name[:2]}•••{at}{host}" if label else ""


# -- Integrations ----------------------------------------------------------------------------------------------------
@admin.register(Integration)
class IntegrationAdmin(ScopedAdmin):
    intro = "Toolkits that are switched on for a project."
    list_display = ("name", "project", "state", "client", "number_of_connections", "updated_at")
    list_filter = (ProjectFilter, ToolkitFilter, "enabled")
    search_fields = ("toolkit", "display_name")
    ordering = ("project__name", "toolkit")
    delete_roles = frozenset()  # a toolkit is switched off; what is connected keeps working
    row_actions = ("connect_test", "disable", "enable", "disable_and_revoke", "remove_further")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Integration]:
        rows = super().get_queryset(request).select_related("project__workspace")
        return rows.annotate(number_of_connections=Count("connections"))  # type: ignore[no-any-return]

    def has_disconnect_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, MANAGERS, obj)

    @display(description="Toolkit", header=True, ordering="toolkit")
    def name(self, row: Integration) -> tuple[str, str]:
        return str(row), row.toolkit

    @display(description="State", ordering="enabled", label={"On": "success", "Off": "warning"})
    def state(self, row: Integration) -> str:
        return "On" if row.enabled else "Off"

    @display(description="OAuth client")
    def client(self, row: Integration) -> str:
        return client_words(row)

    @display(description="Connections", ordering="number_of_connections")
    def number_of_connections(self, row: Any) -> int:
        return int(row.number_of_connections)

    def own_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("catalog/", wrap(self.catalog_view), name=f"{self.stem}_catalog"),
            path("catalog/<slug:slug>/", wrap(self.toolkit_view), name=f"{self.stem}_toolkit"),
            path("<str:object_id>/connected/", wrap(self.connected_view), name=f"{self.stem}_connected"),
        ]

    # The catalog.
    def catalog_view(self, request: HttpRequest) -> HttpResponse:
        self._require_view(request)
        return self.page(request, "catalog", "Toolkits", **admin_catalog.list_context(request))

    def toolkit_view(self, request: HttpRequest, slug: str) -> HttpResponse:
        self._require_view(request)
        toolkit = admin_catalog.toolkit_or_404(request, slug)
        return self.page(request, "toolkit", toolkit.name, **admin_catalog.detail_context(request, toolkit))

    def _require_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    # Enabling and changing.
    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        if "toolkit" not in request.GET:
            return redirect("admin:connections_integration_catalog")
        toolkit = admin_catalog.toolkit_or_404(request, request.GET["toolkit"])
        wanted = request.GET.get("project")
        if wanted is None:
            return redirect("admin:connections_integration_toolkit", toolkit.slug)
        project = own_project(request, wanted, self.add_roles)
        toolkit = catalog(project).get(toolkit.slug) or toolkit
        existing = Integration.objects.primary().filter(project=project, toolkit=toolkit.slug).first()
        if existing is not None:
            return redirect(self.change_url(existing.pk))
        return self._form(request, project, toolkit, None)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        integration: Integration = self.own_object(request, object_id)
        if not integration.is_primary:
            return self._further(request, integration)
        toolkit = catalog(integration.project).get(integration.toolkit)
        if toolkit is None:
            messages.error(request, f"The catalog no longer has the toolkit {integration.toolkit}.")
            return redirect(self.changelist_url())
        return self._form(request, integration.project, toolkit, integration)

    def _form(
        self, request: HttpRequest, project: Project, toolkit: Toolkit, integration: Integration | None
    ) -> HttpResponse:
        editable = self.has_change_permission(request, integration) if integration else True
        if request.method == "POST" and not editable:
            raise PermissionDenied
        form = IntegrationForm(toolkit, integration, request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                saved = integrations.configure(project, toolkit.slug, actor_of(request), **form.values())
            except Failure as failure:
                form.refuse(failure)
            else:
                messages.success(
                    request, f"{saved} is on for {project.name}." if not integration else f"{saved} is saved."
                )
                return redirect(self.change_url(saved.pk))
        if not editable:
            for field in form.fields.values():
                field.disabled = True
        context = self._form_context(request, project, toolkit, integration)
        title = f"{integration or toolkit.name} · {project.name}"
        return self.page(request, "integration", title, form=form, editable=editable, **context)

    def _further(self, request: HttpRequest, integration: Integration) -> HttpResponse:
        """The page of an integration that was made over the Raw execute API."""
        editable = self.has_change_permission(request, integration)
        if request.method == "POST" and not editable:
            raise PermissionDenied
        form = RawIntegrationForm(integration, toolkit_or_none(integration), request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                saved = raw.update(integration, actor_of(request), **form.values())
            except Failure as failure:
                form.refuse(failure)
            else:
                messages.success(request, f"{saved} is saved.")
                return redirect(self.change_url(saved.pk))
        for field in form.fields.values() if not editable else ():
            field.disabled = True
        root = f"{settings.JACKFIELD_URL}/api/integrations/projects/{integration.project_id}/integrations"
        context = {
            "integration": integration,
            "toolkit_name": name_of(integration.toolkit),
            "execute_url": f"{root}/{integration.pk}/execute",
            "may_revoke": self.has_disconnect_permission(request, integration),
            "connections": integration.connections.select_related("end_user").order_by("-connected_at")[:20],
        }
        title = f"{integration} · {integration.project.name}"
        return self.page(request, "raw_integration", title, form=form, editable=editable, **context)

    def _form_context(
        self, request: HttpRequest, project: Project, toolkit: Toolkit, integration: Integration | None
    ) -> dict[str, Any]:
        return {
            "project": project,
            "toolkit": toolkit,
            "card": admin_catalog.card(toolkit),
            "integration": integration,
            "client": client_words(integration) if integration else "",
            "callback_url": flows.project_callback_url(project) if toolkit.needs_client else "",
            "uses_oauth": toolkit.auth[0].type in {"oauth2", "oauth1"},
            "connectable": any(
                scheme.type in {*flows.PROVIDER_SCHEMES, *flows.FORM_SCHEMES} for scheme in toolkit.auth
            ),
            "ready": integration is not None and integration.enabled and is_ready(toolkit, integration),
            "test_form": TestConnectForm(),
            "may_revoke": integration is not None and self.has_disconnect_permission(request, integration),
            "connections": integration.connections.select_related("end_user").order_by("-connected_at")[:5]
            if integration
            else [],
        }

    # Actions.
    @row_action("Connect a test account", icon="cable")
    def connect_test(self, request: HttpRequest, obj: Integration) -> HttpResponse:
        """Opens the page on which an end user would connect; it comes back to `connected_view`."""
        form = TestConnectForm(request.POST)
        if not obj.is_primary:
            raise NotFound
        if not form.is_valid():
            messages.error(request, "Give the id of an end user to connect an account for.")
            return redirect(self.change_url(obj.pk))
        back = settings.JACKFIELD_URL + reverse("admin:connections_integration_connected", args=[obj.pk])
        record(actor_of(request), "connection.test_started", obj.toolkit, project=obj.project)
        link = make_link(Link(obj.project_id, form.cleaned_data["user_id"], obj.toolkit, back, test=True))
        return HttpResponseRedirect(link)

    @row_action("Switch off", icon="power_settings_new")
    def disable(self, request: HttpRequest, obj: Integration) -> None:
        if obj.is_primary:
            integrations.disable(obj.project, obj.toolkit, actor_of(request))
        else:
            raw.switch(obj, False, actor_of(request))
        messages.success(request, f"{obj} is off. Connected accounts keep working.")

    @row_action("Switch on", icon="power_settings_new")
    def enable(self, request: HttpRequest, obj: Integration) -> None:
        if obj.is_primary:
            integrations.configure(obj.project, obj.toolkit, actor_of(request))
        else:
            raw.switch(obj, True, actor_of(request))
        messages.success(request, f"{obj} is on.")

    @row_action("Switch off and disconnect all", permission="disconnect", icon="link_off", danger=True)
    def disable_and_revoke(self, request: HttpRequest, obj: Integration) -> None:
        if not obj.is_primary:
            raise NotFound
        integrations.disable(obj.project, obj.toolkit, actor_of(request), revoke=True)
        messages.success(request, f"{obj} is off and every account is disconnected.")

    @row_action("Delete and disconnect all", permission="disconnect", icon="delete", danger=True)
    def remove_further(self, request: HttpRequest, obj: Integration) -> HttpResponse:
        if obj.is_primary:
            raise NotFound
        raw.remove(obj, actor_of(request))
        messages.success(request, f"{obj} is deleted, and its accounts are disconnected.")
        return redirect(self.changelist_url())

    def connected_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """How connecting a test account ended."""
        integration: Integration = self.own_object(request, object_id)
        rows = integration.connections.select_related("end_user")
        connection = rows.filter(pk=request.GET.get("connectionId", "")[:40].replace("\x00", "")).first()
        reason = (
            "" if connection else FLOW_REASONS.get(request.GET.get("message", ""), FLOW_REASONS["connection_failed"])
        )
        context = {
            "integration": integration,
            "connection": connection,
            "account": masked(connection.account_label) if connection else "",
            "missing": access.missing_scopes(connection.asked_scopes, connection.scopes) if connection else [],
            "reason": reason,
            "callback_url": flows.project_callback_url(integration.project),
        }
        return self.page(request, "connected", f"{integration} · test", **context)


FLOW_REASONS = {
    "access_denied": "Access was not allowed on the provider's page.",
    "connection_failed": "The provider did not accept the connection. Check client id, client secret and that the "
    "callback URL below is registered there, character by character.",
    "invalid_state": "The attempt is too old, was already used, or was begun in another browser.",
}


def is_ready(toolkit: Toolkit, integration: Integration) -> bool:
    """Whether an account can be connected: there is an OAuth client where one is needed."""
    return toolkit.auth[0].type in flows.FORM_SCHEMES or access.oauth_client(integration) is not None


def toolkit_or_none(integration: Integration) -> Toolkit | None:
    try:
        return access.toolkit_of(integration)
    except LookupError:
        return None


def client_words(integration: Integration) -> str:
    """In a word whose OAuth client is used."""
    toolkit = catalog(integration.project).get(integration.toolkit)
    if toolkit is None or not toolkit.needs_client:
        return "not needed"
    if integration.client_id:
        return "own" if has_secret(integration) else "own, without a secret"
    return "the installation's" if access.platform_client(integration.toolkit) else "missing"


# -- Connections -----------------------------------------------------------------------------------------------------
@admin.register(Connection)
class ConnectionAdmin(ReadOnly, ScopedAdmin):
    intro = "Accounts that end users connected. Their credentials are encrypted and never shown here."
    list_display = ("account", "toolkit_name", "end_user", "project", "state", "expires_at", "last_used_at")
    list_filter = (ProjectFilter, ToolkitFilter, "status")
    search_fields = ("=id", "end_user__external_id", "account_label", "account_id", "label")
    ordering = ("-created_at",)
    fieldsets = (
        (None, {"fields": ("account_name", "toolkit_name", "state", "problem", "end_user", "project", "label")}),
        ("Credential", {"fields": ("auth_type", "scope_list", "missing_scopes", "expires_at", "refreshed_at")}),
        ("Times", {"fields": ("connected_at", "last_used_at")}),
    )
    readonly_fields = (
        "account_name", "toolkit_name", "state", "problem", "end_user", "project", "label", "auth_type", "scope_list",
        "missing_scopes", "expires_at", "refreshed_at", "connected_at", "last_used_at",
    )  # fmt: skip
    row_actions = ("refresh_now", "test", "confirm", "disconnect")
    actions = ("refresh_chosen", "test_chosen", "disconnect_chosen")
    list_before_template = "admin/jackfield/connections_intro.html"

    def own_urls(self) -> list[URLPattern]:
        return [path("link/", self.admin_site.admin_view(self.link_view), name="connections_connection_link")]

    def link_view(self, request: HttpRequest) -> HttpResponse:
        return admin_links.link_view(self, request)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        link_url = reverse("admin:connections_connection_link") if may(request, EDITORS) else ""
        return super().changelist_view(request, {"link_url": link_url, **(extra_context or {})})

    def get_queryset(self, request: HttpRequest) -> QuerySet[Connection]:
        rows = (
            super().get_queryset(request).defer("credentials")
            if request.method == "GET"
            else super().get_queryset(request)
        )
        return rows.select_related("project__workspace", "integration", "end_user")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Connection | None:
        """With a masked label where it is only to be shown, since headings are made of it too."""
        found: Connection | None = super().get_object(request, object_id, from_field)
        if found is not None and request.method == "GET":
            found.account_label = masked(found.account_label)
        return found

    def has_use_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, EDITORS, obj)

    def has_disconnect_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, MANAGERS, obj)

    @display(description="Account", ordering="account_label", header=True)
    def account(self, row: Connection) -> tuple[str, str]:
        return masked(row.account_label) or "(no name)", row.pk

    @display(description="Account")
    def account_name(self, row: Connection) -> str:
        return masked(row.account_label) or "(no name)"

    @display(description="Toolkit", ordering="toolkit")
    def toolkit_name(self, row: Connection) -> str:
        return name_of(row.toolkit)

    @display(description="Status", ordering="status", label=STATES)
    def state(self, row: Connection) -> str:
        return Connection.Status(row.status).label

    @display(description="Problem")
    def problem(self, row: Connection) -> str:
        return row.error or "none"

    @display(description="Scopes granted")
    def scope_list(self, row: Connection) -> str:
        return ", ".join(row.scopes) or "not told"

    @display(description="Asked for, but not granted")
    def missing_scopes(self, row: Connection) -> str:
        return ", ".join(access.missing_scopes(row.asked_scopes, row.scopes)) or "–" if row.scopes else "–"

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        obj = self.own_object(request, object_id)
        title = f"{name_of(obj.toolkit)}: {masked(obj.account_label) or obj.pk}"
        return super().change_view(request, object_id, form_url, {"title": title, "subtitle": None})

    def facts(self, request: HttpRequest, obj: Connection) -> dict[str, Any]:
        tool = (
            f"{reverse('admin:runs_execution_try')}?project={obj.project_id}&toolkit={obj.toolkit}&connection={obj.pk}"
        )
        calls = f"{reverse('admin:runs_execution_changelist')}?q={obj.pk}"
        links = [("Executions with it", calls, "list")]
        usable = obj.integration.is_primary and obj.status == Connection.Status.ACTIVE
        if usable and self.has_use_permission(request, obj):
            links.insert(0, ("Try a tool with it", tool, "play_arrow"))
        return {"facts": [("Connection id", obj.pk)], "links": links}

    def offers(self, obj: Connection) -> list[str]:
        left_out = {"confirm"} if obj.status != Connection.Status.INACTIVE else set()
        if obj.auth_type not in {"oauth2", "client_credentials"}:
            left_out.add("refresh_now")
        return [name for name in self.row_actions if name not in left_out]

    @row_action("Refresh now", permission="use", icon="refresh")
    def refresh_now(self, request: HttpRequest, obj: Connection) -> None:
        told(request, *refreshed(obj))

    @row_action("Test", permission="use", icon="network_check")
    def test(self, request: HttpRequest, obj: Connection) -> None:
        told(request, *tested(request, obj))

    @row_action("Confirm", permission="use", icon="check")
    def confirm(self, request: HttpRequest, obj: Connection) -> None:
        services.confirm(obj, actor_of(request))
        messages.success(request, "The connection is active.")

    @row_action("Disconnect", permission="disconnect", icon="link_off", danger=True,
                confirm="Disconnect this account? It is revoked at the provider where possible, and deleted here.")  # fmt: skip
    def disconnect(self, request: HttpRequest, obj: Connection) -> HttpResponseBase | None:
        told(request, True, disconnected(request, obj))
        return redirect(self.changelist_url())

    @admin.action(description="Refresh now", permissions=["use"])
    def refresh_chosen(self, request: HttpRequest, queryset: QuerySet[Connection]) -> None:
        for row in self.each_permitted(request, queryset, "use"):
            told(request, *refreshed(row))

    @admin.action(description="Test", permissions=["use"])
    def test_chosen(self, request: HttpRequest, queryset: QuerySet[Connection]) -> None:
        for row in self.each_permitted(request, queryset, "use"):
            told(request, *tested(request, row))

    @admin.action(description="Disconnect and revoke", permissions=["disconnect"])
    def disconnect_chosen(self, request: HttpRequest, queryset: QuerySet[Connection]) -> None:
        for row in self.each_permitted(request, queryset, "disconnect"):
            told(request, True, disconnected(request, row))


def told(request: HttpRequest, good: bool, text: str) -> None:
    (messages.success if good else messages.error)(request, text)


def called(connection: Connection) -> str:
    return f"{name_of(connection.toolkit)} account {masked(connection.account_label) or connection.pk}"


def refreshed(connection: Connection) -> tuple[bool, str]:
    """Gets a new token whatever the age of the old one."""
    before = connection.version
    try:
        refresh.fresh_credentials(connection, failed_version=before)
    except Failure as failure:
        return False, f"{called(connection)}: {failure.text}"
    if connection.version == before:
        return False, f"{called(connection)}: it has no refresh token, so there is nothing to refresh."
    return True, f"{called(connection)}: refreshed."


def tested(request: HttpRequest, connection: Connection) -> tuple[bool, str]:
    record(actor_of(request), "connection.tested", connection.pk, project=connection.project)
    good, sentence = services.test_connection(connection)
    return good, f"{called(connection)}: {sentence}"


def disconnected(request: HttpRequest, connection: Connection) -> str:
    revoked = services.disconnect(connection, actor_of(request))
    return f"{called(connection)}: disconnected" + (" and revoked at the provider." if revoked else ".")
