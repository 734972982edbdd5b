"""What every page of the admin shares: whose rows a person sees, what their role permits, and how a change is made.

Staff see only rows of workspaces they are members of; superusers see all. Owners and admins may do everything there,
developers all but delete, viewers only read. Every change is one call of a service, which writes the audit log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ClassVar, TypeVar

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.cache import add_never_cache_headers
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import DropdownFilter, RangeDateTimeFilter
from unfold.decorators import display as unfold_display
from unfold.sites import UnfoldAdminSite

from apps.lib.errors import Failure, NotFound, NotPermitted

from .models import Project, Role, Workspace

READERS = frozenset(Role.values)
EDITORS = frozenset({Role.OWNER.value, Role.ADMIN.value, Role.DEVELOPER.value})
MANAGERS = frozenset({Role.OWNER.value, Role.ADMIN.value})

# Alpine, with which the theme is made, compiles expressions from attributes and sets styles.
CSP_OF_THEME = {"script-src": ["'unsafe-eval'"], "style-src": ["'unsafe-inline'"]}


class Site(UnfoldAdminSite):  # type: ignore[misc] # unfold has no types
    """The admin. It takes only admins of ours: those that other packages bring show secrets and know no workspaces."""

    site_title = site_header = "Jackfield"
    index_title = "Overview"
    enable_nav_sidebar = True

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        if isinstance(admin_class, type) and issubclass(admin_class, OwnAdmin):
            super().register(model_or_iterable, admin_class, **options)

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        inner = super().admin_view(view, cacheable)

        @wraps(inner)
        def with_policy(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            response: Any = inner(request, *args, **kwargs)
            response._csp_update = CSP_OF_THEME
            return response  # type: ignore[no-any-return]

        return with_policy

    def get_urls(self) -> list[Any]:
        from .admin_keys import keys_page  # needs what cannot be imported as early as this

        return [path("encryption-keys/", self.admin_view(keys_page), name="encryption_keys"), *super().get_urls()]

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """People sign in on one page only, where single sign-on and second factors are."""
        if request.user.is_authenticated and not self.has_permission(request):
            raise PermissionDenied
        return redirect_to_login(request.GET.get("next") or reverse("admin:index"), settings.LOGIN_URL)

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return redirect("account_change_password")


# -- Roles -----------------------------------------------------------------------------------------------------------
def roles_of(request: HttpRequest) -> dict[Any, str]:
    """The person's role by workspace id, read once a request; of no use for a superuser, who has every right."""
    found: dict[Any, str] | None = getattr(request, "_jackfield_roles", None)
    if found is None:
        user: Any = request.user
        found = dict(user.memberships.values_list("workspace_id", "role")) if user.is_authenticated else {}
        request._jackfield_roles = found  # type: ignore[attr-defined]
    return found


def may(request: HttpRequest, roles: Iterable[str], workspace_id: Any = None) -> bool:
    """Whether the person has one of the roles in the workspace; in any workspace, where none is named."""
    user: Any = request.user
    if not (user.is_active and user.is_staff):
        return False
    if user.is_superuser:
        return True
    held = roles_of(request)
    if workspace_id is None:
        return bool(set(held.values()) & set(roles))
    return held.get(workspace_id) in set(roles)


def projects_of(request: HttpRequest, roles: Iterable[str] = READERS) -> QuerySet[Project]:
    """Projects of the workspaces in which the person has one of the roles."""
    workspaces = Workspace.objects.of(request.user, *roles)
    return Project.objects.filter(workspace__in=workspaces).select_related("workspace").order_by("name")


def own_project(request: HttpRequest, project_id: str, roles: Iterable[str]) -> Project:
    """Raises Http404 for a project that is not theirs to see, PermissionDenied where the role does not suffice."""
    project = projects_of(request).filter(pk=project_id).first()
    if project is None:
        raise Http404
    if not may(request, roles, project.workspace_id):
        raise PermissionDenied
    return project


def is_superuser(request: HttpRequest) -> bool:
    return bool(request.user.is_superuser)


def is_member(request: HttpRequest) -> bool:
    return may(request, READERS)


def is_editor(request: HttpRequest) -> bool:
    return may(request, EDITORS)


# -- Actions on one row ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Deed:
    """How an action of one row is shown and what it needs."""

    label: str
    permission: str
    icon: str
    confirm: str
    danger: bool


Action = TypeVar("Action", bound=Callable[..., HttpResponseBase | None])
Function = TypeVar("Function", bound=Callable[..., Any])


def display(**options: Any) -> Callable[[Function], Function]:
    """unfold's decorator for a column, with a type."""
    marked: Callable[[Function], Function] = unfold_display(**options)
    return marked


def row_action(
    label: str, *, permission: str = "change", icon: str = "", confirm: str = "", danger: bool = False
) -> Callable[[Action], Action]:
    """Marks a method ``(request, obj) -> response | None`` as an action of one row: a button that posts a form."""

    def mark(method: Action) -> Action:
        method.deed = Deed(label, permission, icon, confirm, danger)  # type: ignore[attr-defined]
        return method

    return mark


# -- Admins ----------------------------------------------------------------------------------------------------------
class OwnAdmin(ModelAdmin):  # type: ignore[misc] # unfold has no types
    """The base of every admin of ours."""

    row_actions: ClassVar[tuple[str, ...]] = ()
    has_history: ClassVar[bool] = True
    intro: ClassVar[str] = ""
    list_per_page = 50
    list_filter_submit = True
    list_filter_sheet = False
    compressed_fields = True
    show_facets = admin.ShowFacets.NEVER
    list_before_template = "admin/jackfield/list_intro.html"
    change_form_outer_before_template = "admin/jackfield/row_actions.html"

    # What a form does. Both are services' work.
    def create(self, request: HttpRequest, form: Any) -> Model:
        raise PermissionDenied

    def apply(self, request: HttpRequest, obj: Any, form: Any) -> None:
        raise PermissionDenied

    def remove(self, request: HttpRequest, obj: Any) -> None:
        raise PermissionDenied

    def choosable(self, request: HttpRequest, roles: Iterable[str]) -> QuerySet[Any]:
        """Rows that may be chosen in a form of somebody with one of the roles."""
        rows: QuerySet[Any] = self.model._default_manager.all()
        return rows if request.user.is_superuser else rows.none()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            self.apply(request, obj, form)
            return
        obj.pk = self.create(request, form).pk
        obj._state.adding = False

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Names what is deleted, not what goes with it: that may be a log of millions, and the service decides."""
        rows = list(objs)
        return [str(row) for row in rows], {self.opts.verbose_name_plural: len(rows)}, set(), []

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.remove(request, obj)

    # The audit log is the only log.
    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> None: ...

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None: ...

    def log_deletions(self, request: HttpRequest, queryset: Any) -> None: ...

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        obj = self.own_object(request, object_id)
        return redirect(f"{reverse('admin:workspaces_auditevent_changelist')}?q={obj.pk}")

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        found: dict[str, Any] = super().get_actions(request)
        found.pop("delete_selected", None)  # goes past the services
        return found

    def _get_obj_does_not_exist_redirect(self, request: HttpRequest, opts: Any, object_id: str) -> HttpResponse:
        raise Http404

    def own_object(self, request: HttpRequest, object_id: str) -> Any:
        """Raises Http404 for a row that is not there for this person."""
        obj = self.get_object(request, unquote(object_id))
        if obj is None or not self.has_view_permission(request, obj):
            raise Http404
        return obj

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        related = self.admin_site._registry.get(db_field.related_model)
        rows = related.choosable(request, self.add_roles) if isinstance(related, OwnAdmin) else None
        kwargs["queryset"] = db_field.related_model._default_manager.none() if rows is None else rows
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        for option in ("can_add_related", "can_change_related", "can_delete_related", "can_view_related"):
            if field is not None and hasattr(field.widget, option):
                setattr(field.widget, option, False)
        return field

    add_roles: ClassVar[frozenset[str]] = EDITORS

    # A service that says no shows the form again, with the reason.
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except Failure as failure:
            request._jackfield_refusal = failure  # type: ignore[attr-defined]
            return super().changeform_view(request, *args, **kwargs)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        refusal: Failure | None = getattr(request, "_jackfield_refusal", None)
        return form if refusal is None else refusing(form, refusal)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        try:
            return super().delete_view(request, object_id, extra_context)
        except Failure as failure:
            messages.error(request, f"{failure.text} {failure.advice}")
            return redirect(self.change_url(object_id))

    # Actions of one row.
    def get_urls(self) -> list[URLPattern]:
        act = path("<path:object_id>/do/<slug:name>/", self.admin_site.admin_view(self.act), name=f"{self.stem}_do")
        return [*self.own_urls(), act, *super().get_urls()]

    def own_urls(self) -> list[URLPattern]:
        return []

    @property
    def stem(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}"

    def change_url(self, pk: object) -> str:
        return reverse(f"admin:{self.stem}_change", args=[quote(str(pk))])

    def changelist_url(self) -> str:
        return reverse(f"admin:{self.stem}_changelist")

    def act(self, request: HttpRequest, object_id: str, name: str) -> HttpResponseBase:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if name not in self.row_actions:
            raise Http404
        obj = self.own_object(request, object_id)
        method = getattr(self, name)
        if not self.permits(request, method.deed.permission, obj):
            raise PermissionDenied
        try:
            answer: HttpResponseBase | None = method(request, obj)
        except Failure as failure:
            messages.error(request, f"{failure.text} {failure.advice}")
            answer = None
        if answer is not None:
            return answer
        gone = self.get_object(request, unquote(object_id)) is None
        return redirect(self.changelist_url() if gone else self.change_url(obj.pk))

    def permits(self, request: HttpRequest, permission: str, obj: Any = None) -> bool:
        return bool(getattr(self, f"has_{permission}_permission")(request, obj))

    def offers(self, obj: Any) -> Iterable[str]:
        """Names of the actions that make sense for this row as it stands."""
        return self.row_actions

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        obj = self.own_object(request, object_id)
        shown = [
            (name, getattr(self, name).deed)
            for name in self.offers(obj)
            if self.permits(request, getattr(self, name).deed.permission, obj)
        ]
        context = {
            "row_actions": shown,
            "row_actions_of": obj,
            "show_history": self.has_history,
            "show_save_and_add_another": False,
            **self.facts(request, obj),
            **(extra_context or {}),
        }
        return super().change_view(request, object_id, form_url, context)

    def facts(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """Further context of the page of one row."""
        return {}

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        return super().changelist_view(request, {"intro": self.intro, **(extra_context or {})})

    # Pages of our own.
    def page(self, request: HttpRequest, template: str, title: str, **context: Any) -> TemplateResponse:
        request.current_app = self.admin_site.name
        whole = {**self.admin_site.each_context(request), "title": title, **context}
        return TemplateResponse(request, f"admin/jackfield/{template}.html", whole)

    def page_once(self, request: HttpRequest, template: str, title: str, **context: Any) -> TemplateResponse:
        """A page with something that is shown once: kept by no cache, neither of the browser nor on the way."""
        response = self.page(request, template, title, **context)
        add_never_cache_headers(response)
        return response


def refusing(form: Any, refusal: Failure) -> Any:
    """A form class that never validates and says why; each fault at its field, where the form has one of that name."""
    if isinstance(refusal, NotPermitted):
        raise PermissionDenied
    if isinstance(refusal, NotFound):
        raise Http404

    class Refusing(form):  # type: ignore[misc] # a form made by Django
        def _post_clean(self) -> None:
            super()._post_clean()
            show_failure(self, refusal)

    return Refusing


def show_failure(form: forms.BaseForm, failure: Failure) -> None:
    """Puts what a service said onto the form, whose ``service_names`` tells the fields that it calls otherwise."""
    faults = failure.details if isinstance(failure.details, dict) else {}
    placed = False
    for name, texts in faults.items():
        if isinstance(texts, list):
            own = getattr(form, "service_names", {}).get(name, name)
            field = own if own in form.fields else None
            form.add_error(field, [str(text) if field else f"{name}: {text}" for text in texts])
            placed = True
    if not placed:
        form.add_error(None, f"{failure.text} {failure.advice}")


class ScopedAdmin(OwnAdmin):
    """An admin of rows that belong to a workspace, which ``workspace_path`` leads to."""

    workspace_path: ClassVar[str] = "project__workspace"
    view_roles: ClassVar[frozenset[str]] = READERS
    add_roles: ClassVar[frozenset[str]] = EDITORS
    change_roles: ClassVar[frozenset[str]] = EDITORS
    delete_roles: ClassVar[frozenset[str]] = MANAGERS

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        return self._within(rows, request, READERS)

    def choosable(self, request: HttpRequest, roles: Iterable[str]) -> QuerySet[Any]:
        return self._within(self.model._default_manager.all(), request, roles)

    def _within(self, rows: QuerySet[Any], request: HttpRequest, roles: Iterable[str]) -> QuerySet[Any]:
        if request.user.is_superuser:
            return rows
        own = [workspace for workspace, role in roles_of(request).items() if role in set(roles)]
        return rows.filter(**{f"{self.workspace_path or 'pk'}__in": own})

    def workspace_id_of(self, obj: Any) -> Any:
        *steps, last = (self.workspace_path or "pk").split("__")
        for step in steps:
            obj = getattr(obj, step)
        return obj.pk if last == "pk" else getattr(obj, f"{last}_id")

    def _may(self, request: HttpRequest, roles: Iterable[str], obj: Any) -> bool:
        return may(request, roles) if obj is None else may(request, roles, self.workspace_id_of(obj))

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may(request, self.view_roles)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.view_roles, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return may(request, self.add_roles)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, self.change_roles, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(self.delete_roles) and self._may(request, self.delete_roles, obj)

    def each_permitted(self, request: HttpRequest, rows: QuerySet[Any], permission: str = "change") -> list[Any]:
        """The chosen rows of a list action. Raises PermissionDenied if the role does not suffice for one of them."""
        found = list(rows)
        if not all(self.permits(request, permission, row) for row in found):
            raise PermissionDenied
        return found


class InstallationAdmin(OwnAdmin):
    """An admin of rows that belong to the whole installation: superusers only."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return may(request, ()) and is_superuser(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_module_permission(request)

    has_change_permission = has_delete_permission = has_view_permission

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.has_module_permission(request)


class ReadOnly:
    """For rows that only the product itself writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def preformatted(text: str) -> str:
    return format_html('<pre class="jf-pre">{}</pre>', text)


# -- Filters ---------------------------------------------------------------------------------------------------------
class OwnFilter(DropdownFilter):  # type: ignore[misc] # unfold has no types
    """A filter that offers only what is the person's own; Django's for foreign keys offers every row."""

    field: ClassVar[str]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset.filter(**{self.field: value}) if value else queryset


class ProjectFilter(OwnFilter):
    title = "project"
    parameter_name = field = "project"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(project.pk, project.name) for project in projects_of(request)]


class PeriodFilter(RangeDateTimeFilter):  # type: ignore[misc] # unfold has no types
    """From and to, in UTC; a day without a time is meant from its beginning, or to its end."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        for end, lookup, default in (("from", "gte", "00:00:00"), ("to", "lte", "23:59:59.999999")):
            day = self.used_parameters.get(f"{self.parameter_name}_{end}_0")
            hour = self.used_parameters.get(f"{self.parameter_name}_{end}_1") or default
            moment = read_moment(f"{day}T{hour}") if day else None
            if moment is not None:
                queryset = queryset.filter(**{f"{self.parameter_name}__{lookup}": moment})
        return queryset


def read_moment(text: str) -> datetime | None:
    """None for what is no date and time."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return None


class WorkspaceFilter(OwnFilter):
    title = "workspace"
    parameter_name = field = "workspace"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(str(row.pk), row.name) for row in Workspace.objects.of(request.user).order_by("name")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        known = {key for key, _ in self.lookup_choices}
        return super().queryset(request, queryset) if not self.value() or self.value() in known else queryset.none()
