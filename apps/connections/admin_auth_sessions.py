"""Auth sessions that were made or used over the Runs API: their state, which run has one to itself, what was done with them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from unfold.contrib.filters.admin import FieldTextFilter

from apps.workspaces.admin_base import (
    EDITORS,
    MANAGERS,
    OwnFilter,
    ProjectFilter,
    ReadOnly,
    ScopedAdmin,
    display,
    row_action,
)
from apps.workspaces.audit import actor_of, record

from . import auth_operations, auth_sessions
from .models import AuthOperation, AuthSession, Connection

STATES = {"READY": "success", "PENDING": "warning", "EXPIRED": "danger"}
SHOWN = 20  # operations on the page of one
OPTIONS = {"checkAttempts": auth_sessions.ATTEMPTS, "createAttempts": 1, "autoRecreate": False}  # of a check by hand
PENDING = Q(connection=None) | Q(connection__status=Connection.Status.INACTIVE)
# The state of `auth_sessions.Session`, as a rule.
EXPIRED = Q(connection__status=Connection.Status.EXPIRED) | Q(refused_at__gt=F("connection__connected_at"))


class StateFilter(OwnFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in STATES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        rules = {"PENDING": PENDING, "EXPIRED": EXPIRED, "READY": ~PENDING & ~EXPIRED}
        rule = rules.get(self.value() or "")
        return queryset if rule is None else queryset.filter(rule)


@admin.register(AuthSession)
class AuthSessionAdmin(ReadOnly, ScopedAdmin):
    intro = (
        "Accounts under the ids by which the Runs API knows them. The toolkit's other connections are auth sessions too, by "
        "their own ids: they are listed here once a run has one to itself, or somebody validates it."
    )
    list_display = ("name", "toolkit", "kind", "state", "holder", "connection_link", "project", "created_at")
    list_filter = (ProjectFilter, StateFilter, ("name", FieldTextFilter))
    search_fields = ("=name", "=connection__id", "=held_by")
    ordering = ("-created_at",)
    fieldsets = (
        (None, {"fields": ("name", "toolkit", "kind", "state", "problem", "connection_link", "project", "created_at")}),
        ("In use", {"fields": ("holder", "held_at")}),
        ("Operations", {"fields": ("operation_table",)}),
    )
    readonly_fields = (
        "name", "toolkit", "kind", "state", "problem", "connection_link", "project", "created_at", "holder", "held_at",
        "operation_table",
    )  # fmt: skip
    row_actions = ("validate", "let_go")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AuthSession]:
        rows = super().get_queryset(request)
        making = AuthOperation.objects.filter(
            session=OuterRef("pk"), kind=AuthOperation.Kind.CREATE, status__in=auth_sessions.OPEN
        )
        rows = rows.select_related("project__workspace", "connection__end_user", "connection__integration")
        return rows.defer("connection__credentials").annotate(being_made=Exists(making))  # type: ignore[no-any-return]

    def has_use_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, EDITORS, obj)

    def has_let_go_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, MANAGERS, obj)

    @display(description="Type")
    def kind(self, row: AuthSession) -> str:
        return session_of(row).type

    @display(description="State", label=STATES)
    def state(self, row: AuthSession) -> str:
        return session_of(row).status

    @display(description="Problem")
    def problem(self, row: AuthSession) -> str:
        return (row.connection.error if row.connection else "") or "none"

    @display(description="Connection")
    def connection_link(self, row: AuthSession) -> str:
        if row.connection_id is None:
            return "none yet"
        return _link("connections_connection", row.connection_id)

    @display(description="In use by the run")
    def holder(self, row: AuthSession) -> str:
        return _link("runs_run", row.held_by) if row.held_by else "–"

    @display(description="Newest operations")
    def operation_table(self, row: AuthSession) -> Any:
        found = row.operations.order_by("-created_at")[:SHOWN]
        shown = [
            (one, AuthOperation.Kind(one.kind).label, AuthOperation.Status(one.status).label, one.error or {})
            for one in found.defer("inputs")
        ]
        return render_to_string("admin/jackfield/auth_operations.html", {"operations": shown})

    def offers(self, obj: AuthSession) -> list[str]:
        validate = ["validate"] if auth_sessions.toolkit_of(obj.project) == obj.toolkit else []
        return [*validate, *(["let_go"] if obj.held_by else [])]

    @row_action("Validate now", permission="use", icon="network_check")
    def validate(self, request: HttpRequest, obj: AuthSession) -> None:
        session = auth_sessions.find(obj.project, obj.name)
        auth_operations.start_validate(obj.project, session, OPTIONS, None, actor_of(request))
        messages.success(request, "The account is being checked; see below how that ends.")

    @row_action("Let go", permission="let_go", icon="lock_open", danger=True,
                confirm="Let go of it? If its run still lives, another one may use the account beside it.")  # fmt: skip
    def let_go(self, request: HttpRequest, obj: AuthSession) -> None:
        auth_sessions.release(obj.project_id, obj.name, obj.held_by)
        record(actor_of(request), "auth_session.released", obj.name[:200], project=obj.project, run=obj.held_by)
        messages.success(request, "The auth session is free again.")


def session_of(row: Any) -> auth_sessions.Session:
    """The session as the API shows it."""
    return auth_sessions.Session(row.name, row, row.connection, row.being_made)


def _link(page: str, pk: str) -> str:
    return format_html('<a class="jf-link" href="{}">{}</a>', reverse(f"admin:{page}_change", args=[quote(pk)]), pk)
