"""Webhooks of projects, and what became of each event on its way there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.core.exceptions import PermissionDenied
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.contrib.filters.admin import FieldTextFilter
from unfold.paginator import InfinitePaginator
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from apps.lib.errors import Failure

from . import webhooks
from .admin_base import (
    EDITORS,
    OwnFilter,
    PeriodFilter,
    ProjectFilter,
    ReadOnly,
    ScopedAdmin,
    display,
    preformatted,
    projects_of,
    row_action,
    show_failure,
)
from .audit import actor_of
from .models import Project, WebhookDelivery, WebhookEndpoint

EVENT_MEANINGS = {
    "connection.created": "An account was connected",
    "connection.refreshed_failed": "An account needs to be connected again; with the link for that",
    "connection.recovered": "An account that needed it was connected again",
    "connection.deleted": "An account was disconnected",
    "run.failed": "A run of a module failed",
    "job_run.failed": "A job run failed: one of its items or more",
}
STATES = {"Delivered": "success", "Pending": "info", "Waits for its next try": "warning", "Dead": "danger"}


def _number(status: str) -> Any:
    """How many deliveries of a webhook have the status: by a subquery, since most are delivered and must not be read."""
    rows = WebhookDelivery.objects.filter(endpoint=OuterRef("pk"), status=status).order_by().values("endpoint")
    return Coalesce(Subquery(rows.annotate(number=Count("pk")).values("number")), 0)


# -- Webhooks --------------------------------------------------------------------------------------------------------
class WebhookForm(forms.Form):
    """A webhook; ``project`` is asked for a new one only."""

    project = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    url = forms.CharField(
        label="URL",
        max_length=webhooks.MAX_URL,
        widget=UnfoldAdminTextInputWidget(attrs={"inputmode": "url", "placeholder": "https://"}),
        help_text="Where events are sent to by POST. Answer with a 2xx status within ten seconds.",
    )
    description = forms.CharField(max_length=200, required=False, widget=UnfoldAdminTextInputWidget)
    events = forms.MultipleChoiceField(
        choices=tuple(
            (name, f"{name}: {EVENT_MEANINGS[name]}" if name in EVENT_MEANINGS else name)
            for name in webhooks.EVENT_TYPES
        ),
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="None ticked: every event, and those of later versions too.",
    )
    enabled = forms.BooleanField(
        label="On", required=False, initial=True, widget=UnfoldBooleanWidget, help_text="Off: nothing is sent."
    )

    def __init__(self, *args: Any, projects: Iterable[Project] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if projects is None:
            del self.fields["project"]
            return
        self.projects = {project.pk: project for project in projects}
        self.fields["project"].choices = [(pk, str(project)) for pk, project in self.projects.items()]  # type: ignore[attr-defined]

    def values(self) -> dict[str, Any]:
        return {name: value for name, value in self.cleaned_data.items() if name != "project"}


@admin.register(WebhookEndpoint)
class WebhookAdmin(ScopedAdmin):
    intro = "Where a project's events are sent, signed by the Standard Webhooks scheme. A secret is shown once."
    list_display = ("url", "project", "state", "event_list", "waiting", "dead", "created_at")
    list_filter = (ProjectFilter, "enabled")
    search_fields = ("url", "description", "=id")
    ordering = ("-created_at",)
    row_actions = ("send_test", "switch_on", "switch_off", "rotate")

    def get_queryset(self, request: HttpRequest) -> QuerySet[WebhookEndpoint]:
        rows = super().get_queryset(request).select_related("project__workspace")
        status = WebhookDelivery.Status
        return rows.annotate(waiting_count=_number(status.PENDING), dead_count=_number(status.DEAD))  # type: ignore[no-any-return]

    @display(description="State", ordering="enabled", label={"On": "success", "Off": "warning"})
    def state(self, row: WebhookEndpoint) -> str:
        return "On" if row.enabled else "Off"

    @display(description="Events")
    def event_list(self, row: WebhookEndpoint) -> str:
        return ", ".join(row.events) or "every event"

    @display(description="Waiting", ordering="waiting_count")
    def waiting(self, row: Any) -> int:
        return int(row.waiting_count)

    @display(description="Dead", ordering="dead_count")
    def dead(self, row: Any) -> int:
        return int(row.dead_count)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        initial = {"project": request.GET.get("project", "")}
        form = WebhookForm(request.POST or None, projects=projects_of(request, self.add_roles), initial=initial)
        if request.method == "POST" and form.is_valid():
            project = form.projects[form.cleaned_data["project"]]
            try:
                endpoint, secret = webhooks.create_endpoint(project, actor=actor_of(request), **form.values())
            except Failure as failure:
                show_failure(form, failure)
            else:
                return self._once(request, endpoint, secret, "Webhook added")
        return self.page(request, "form", "Add a webhook", form=form, submit="Add the webhook", intro=self.intro)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        endpoint: WebhookEndpoint = self.own_object(request, object_id)
        editable = self.has_change_permission(request, endpoint)
        if request.method == "POST" and not editable:
            raise PermissionDenied
        initial = {name: getattr(endpoint, name) for name in ("url", "description", "events", "enabled")}
        form = WebhookForm(request.POST or None, initial=initial)
        if request.method == "POST" and form.is_valid():
            try:
                webhooks.change_endpoint(endpoint, form.values(), actor_of(request))
            except Failure as failure:
                show_failure(form, failure)
            else:
                messages.success(request, "The webhook is saved.")
                return self.response_post_save_change(request, endpoint)  # type: ignore[no-any-return]
        for field in form.fields.values() if not editable else ():
            field.disabled = True
        return self.page(request, "webhook", endpoint.url, form=form, **self._context(request, endpoint, editable))

    def _context(self, request: HttpRequest, endpoint: WebhookEndpoint, editable: bool) -> dict[str, Any]:
        until = endpoint.previous_secret_until
        return {
            "opts": self.opts,
            "endpoint": endpoint,
            "editable": editable,
            "deletable": self.has_delete_permission(request, endpoint),
            "both_until": until if until and until > timezone.now() else None,
            "row_actions_of": endpoint,
            "row_actions": [(name, getattr(self, name).deed) for name in self.offers(endpoint)] if editable else [],
            "deliveries_url": f"{reverse('admin:workspaces_webhookdelivery_changelist')}?endpoint={endpoint.pk}",
            "deliveries": [(row, state_of(row)) for row in endpoint.deliveries.order_by("-created_at")[:5]],
        }

    def _once(self, request: HttpRequest, endpoint: WebhookEndpoint, secret: str, title: str) -> HttpResponse:
        context = {"endpoint": endpoint, "secret": secret, "change_url": self.change_url(endpoint.pk)}
        return self.page_once(request, "webhook_secret", title, **context)

    def remove(self, request: HttpRequest, obj: WebhookEndpoint) -> None:
        webhooks.delete_endpoint(obj, actor_of(request))

    def offers(self, obj: WebhookEndpoint) -> list[str]:
        return ["send_test", "switch_off", "rotate"] if obj.enabled else ["switch_on", "rotate"]

    @row_action("Send a test event", icon="send")
    def send_test(self, request: HttpRequest, obj: WebhookEndpoint) -> None:
        webhooks.send_test(obj, actor_of(request))
        messages.success(request, "A test event is on its way; see how it ends in the deliveries below.")

    @row_action("Switch on", icon="power_settings_new")
    def switch_on(self, request: HttpRequest, obj: WebhookEndpoint) -> None:
        webhooks.change_endpoint(obj, {"enabled": True}, actor_of(request))
        messages.success(request, "The webhook is on.")

    @row_action("Switch off", icon="power_settings_new")
    def switch_off(self, request: HttpRequest, obj: WebhookEndpoint) -> None:
        webhooks.change_endpoint(obj, {"enabled": False}, actor_of(request))
        messages.success(request, "The webhook is off. What waits is sent when it is on again within three days.")

    @row_action("Rotate the secret", icon="key",
                confirm="Make a new secret? The one of now signs for 24 hours more, beside the new one.")  # fmt: skip
    def rotate(self, request: HttpRequest, obj: WebhookEndpoint) -> HttpResponse:
        secret = webhooks.rotate_secret(obj, actor_of(request))
        return self._once(request, obj, secret, "Secret rotated")


# -- Deliveries ------------------------------------------------------------------------------------------------------
class WebhookFilter(OwnFilter):
    title = "webhook"
    parameter_name = field = "endpoint"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        rows = WebhookEndpoint.objects.filter(project__in=projects_of(request)).order_by("url")
        return [(row.pk, row.url) for row in rows]


def state_of(row: WebhookDelivery) -> str:
    waits = row.status == WebhookDelivery.Status.PENDING and row.try_count
    return "Waits for its next try" if waits else WebhookDelivery.Status(row.status).label


@admin.register(WebhookDelivery)
class DeliveryAdmin(ReadOnly, ScopedAdmin):
    intro = (
        "Events on their way to webhooks. Each is tried for three days; then it is dead, and can be delivered again here. "
        "Delivered ones are kept for 30 days, dead ones for 90."
    )
    paginator = InfinitePaginator
    show_full_result_count = False
    has_history = False
    list_display = ("created_at", "event_type", "state", "last_answer", "try_count", "next_try", "webhook", "project")
    list_display_links = ("created_at", "event_type")
    list_filter = (
        ProjectFilter,
        WebhookFilter,
        "status",
        ("event_type", FieldTextFilter),
        ("created_at", PeriodFilter),
    )
    search_fields = ("=id", "=event_id")
    ordering = ("-created_at", "-id")
    fieldsets = (
        (None, {"fields": ("event_type", "state", "webhook", "project", "event_id", "created_at", "delivered_at")}),
        ("Tries", {"fields": ("next_try", "ends_at", "try_table")}),
        ("Event", {"fields": ("event_body",)}),
    )
    readonly_fields = (
        "event_type", "state", "webhook", "project", "event_id", "created_at", "delivered_at", "next_try", "ends_at",
        "try_table", "event_body",
    )  # fmt: skip
    row_actions = ("redeliver",)
    actions = ("redeliver_chosen",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[WebhookDelivery]:
        rows = super().get_queryset(request).select_related("endpoint", "project__workspace")
        match = request.resolver_match
        if match is not None and match.url_name == f"{self.stem}_changelist" and request.method == "GET":
            rows = rows.defer("body")
        return rows

    def has_redeliver_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, EDITORS, obj)

    @display(description="State", ordering="status", label=STATES)
    def state(self, row: WebhookDelivery) -> str:
        return state_of(row)

    @display(description="Last answer")
    def last_answer(self, row: WebhookDelivery) -> str:
        return said(row.tries[-1]) if row.tries else "–"

    @display(description="Next try", ordering="next_try_at")
    def next_try(self, row: WebhookDelivery) -> str:
        pending = row.status == WebhookDelivery.Status.PENDING and row.next_try_at is not None
        return f"{row.next_try_at:%Y-%m-%d %H:%M:%S}" if pending else "–"

    @display(description="Webhook")
    def webhook(self, row: WebhookDelivery) -> str:
        address = reverse("admin:workspaces_webhookendpoint_change", args=[quote(row.endpoint_id)])
        return format_html('<a class="jf-link jf-break" href="{}">{}</a>', address, row.endpoint.url)

    @display(description="Tries")
    def try_table(self, row: WebhookDelivery) -> Any:
        tries = [one | {"moment": moment_of(one["at"]), "said": said(one)} for one in row.tries]
        return render_to_string("admin/jackfield/webhook_tries.html", {"tries": tries})

    @display(description="Body")
    def event_body(self, row: WebhookDelivery) -> str:
        text = row.body
        with contextlib.suppress(ValueError):
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        return preformatted(text)

    @row_action("Deliver again", permission="redeliver", icon="replay")
    def redeliver(self, request: HttpRequest, obj: WebhookDelivery) -> None:
        webhooks.redeliver(obj, actor_of(request))
        messages.success(request, "The event is sent again.")

    @admin.action(description="Deliver again", permissions=["redeliver"])
    def redeliver_chosen(self, request: HttpRequest, queryset: QuerySet[WebhookDelivery]) -> None:
        count = 0
        for row in self.each_permitted(request, queryset, "redeliver"):
            try:
                webhooks.redeliver(row, actor_of(request))
                count += 1
            except Failure as failure:
                messages.error(request, f"{row}: {failure.text} {failure.advice}")
        messages.success(request, f"{count} events are sent again.")


def said(one: dict[str, Any]) -> str:
    """How a try ended, in a few words."""
    return " ".join(str(part) for part in (one.get("status"), one.get("error")) if part) or "no answer"


def moment_of(text: str) -> Any:
    return datetime.fromisoformat(text)
