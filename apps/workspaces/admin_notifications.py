"""Rules by which people are told of what fails, with the last messages of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldBooleanWidget,
)

from apps.lib.errors import Failure

from . import notifications
from .admin_base import ProjectFilter, ScopedAdmin, display, projects_of, row_action, show_failure
from .audit import actor_of
from .models import Notice, NoticeMail, NotificationRule, Project, WebhookEndpoint

FREQUENCIES = (
    (0, "At once, each failure by itself"),
    (5, "At most every 5 minutes"),
    (15, "At most every 15 minutes"),
    (60, "At most every hour"),
    (240, "At most every 4 hours"),
    (1440, "At most once a day"),
)
SHOWN = 10  # messages on a rule's page


class RuleForm(forms.Form):
    """A rule; ``project`` is asked for a new one only."""

    project = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    events = forms.MultipleChoiceField(
        label="Of what",
        choices=NotificationRule.Event.choices,
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="None ticked: of all, and of what later versions add.",
    )
    emails = forms.CharField(
        label="E-mail to",
        required=False,
        max_length=notifications.MOST_ADDRESSES * 330,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3, "placeholder": "ada@example.com", "inputmode": "email"}),
        help_text=f"One address a line, at most {notifications.MOST_ADDRESSES}. They see each other.",
    )
    webhook = forms.ChoiceField(
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text='Gets the same as an event of the type "notification", signed, whatever types it wants else.',
    )
    every_minutes = forms.TypedChoiceField(
        label="How often",
        choices=FREQUENCIES,
        initial=15,
        coerce=int,
        widget=UnfoldAdminSelectWidget,
        help_text="The first failure is told at once; what fails until the next message comes together in that.",
    )
    enabled = forms.BooleanField(
        label="On", required=False, initial=True, widget=UnfoldBooleanWidget, help_text="Off: nothing is noted or sent."
    )

    def __init__(
        self, *args: Any, webhooks: Iterable[WebhookEndpoint], projects: Iterable[Project] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.webhooks = {webhook.pk: webhook for webhook in webhooks}
        named = projects is not None
        self._offer("webhook", [("", "None"), *((pk, _named(row, named)) for pk, row in self.webhooks.items())])
        if (every := self.initial.get("every_minutes")) is not None and every not in dict(FREQUENCIES):
            self._offer("every_minutes", [*FREQUENCIES, (every, f"At most every {every} minutes")])
        if projects is None:
            del self.fields["project"]
            return
        self.projects = {project.pk: project for project in projects}
        self._offer("project", [(pk, str(project)) for pk, project in self.projects.items()])

    def _offer(self, field: str, choices: list[tuple[Any, str]]) -> None:
        self.fields[field].choices = choices  # type: ignore[attr-defined]

    def clean_emails(self) -> list[str]:
        lines: list[str] = self.cleaned_data["emails"].splitlines()
        return lines

    def clean_webhook(self) -> WebhookEndpoint | None:
        return self.webhooks.get(self.cleaned_data["webhook"])

    def values(self) -> dict[str, Any]:
        return {name: value for name, value in self.cleaned_data.items() if name != "project"}


def _named(row: WebhookEndpoint, with_project: bool) -> str:
    return f"{row.url} ({row.project.name})" if with_project else row.url


@admin.register(NotificationRule)
class RuleAdmin(ScopedAdmin):
    intro = "Who is told when a run, a job run or a connection fails, by e-mail or webhook, and how often at most."
    list_display = ("events_told", "project", "state", "people", "how_often", "waiting", "last_sent_at")
    list_filter = (ProjectFilter, "enabled")
    ordering = ("-created_at",)
    row_actions = ("send_test",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[NotificationRule]:
        rows = super().get_queryset(request).select_related("project__workspace", "webhook")
        # By a subquery, since most notices were sent and must not be read.
        unsent = Notice.objects.filter(rule=OuterRef("pk"), sent_at=None).order_by().values("rule")
        waiting = Coalesce(Subquery(unsent.annotate(number=Count("pk")).values("number")), 0)
        return rows.annotate(waiting_count=waiting)  # type: ignore[no-any-return]

    @display(description="Of what")
    def events_told(self, row: NotificationRule) -> str:
        return str(row)

    @display(description="State", ordering="enabled", label={"On": "success", "Off": "warning"})
    def state(self, row: NotificationRule) -> str:
        return "On" if row.enabled else "Off"

    @display(description="Told")
    def people(self, row: NotificationRule) -> str:
        return ", ".join([*row.emails, *([row.webhook.url] if row.webhook else [])]) or "nobody"

    @display(description="How often", ordering="every_minutes")
    def how_often(self, row: NotificationRule) -> str:
        return dict(FREQUENCIES).get(row.every_minutes, f"At most every {row.every_minutes} minutes")

    @display(description="Waiting", ordering="waiting_count")
    def waiting(self, row: Any) -> int:
        return int(row.waiting_count)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        projects = list(projects_of(request, self.add_roles))
        endpoints = WebhookEndpoint.objects.filter(project__in=projects).select_related("project").order_by("url")
        initial = {"project": request.GET.get("project", ""), "emails": getattr(request.user, "email", "")}
        form = RuleForm(request.POST or None, projects=projects, webhooks=endpoints, initial=initial)
        if request.method == "POST" and form.is_valid():
            project = form.projects[form.cleaned_data["project"]]
            try:
                rule = notifications.create_rule(project, actor_of(request), **form.values())
            except Failure as failure:
                show_failure(form, failure)
            else:
                messages.success(request, "The rule is added. Send a test to see whether its messages arrive.")
                return self.response_post_save_add(request, rule)  # type: ignore[no-any-return]
        return self.page(request, "form", "Add a rule", form=form, submit="Add the rule", intro=self.intro)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        rule: NotificationRule = self.own_object(request, object_id)
        editable = self.has_change_permission(request, rule)
        if request.method == "POST" and not editable:
            raise PermissionDenied
        form = self._form_of(request, rule)
        if request.method == "POST" and form.is_valid():
            try:
                notifications.change_rule(rule, actor_of(request), **form.values())
            except Failure as failure:
                show_failure(form, failure)
            else:
                messages.success(request, "The rule is saved.")
                return self.response_post_save_change(request, rule)  # type: ignore[no-any-return]
        for field in form.fields.values() if not editable else ():
            field.disabled = True
        return self.page(request, "notification_rule", str(rule), form=form, **self._context(request, rule, editable))

    def _form_of(self, request: HttpRequest, rule: NotificationRule) -> RuleForm:
        initial = {
            "events": rule.events, "emails": "\n".join(rule.emails), "webhook": rule.webhook_id or "",
            "every_minutes": rule.every_minutes, "enabled": rule.enabled,
        }  # fmt: skip
        endpoints = WebhookEndpoint.objects.filter(project=rule.project_id).order_by("url")
        return RuleForm(request.POST or None, webhooks=endpoints, initial=initial)

    def _context(self, request: HttpRequest, rule: Any, editable: bool) -> dict[str, Any]:
        deliveries = ""
        if rule.webhook_id:
            page = reverse("admin:workspaces_webhookdelivery_changelist")
            deliveries = f"{page}?endpoint={rule.webhook_id}"
        return {
            "opts": self.opts,
            "rule": rule,
            "editable": editable,
            "deletable": self.has_delete_permission(request, rule),
            "row_actions_of": rule,
            "row_actions": [(name, getattr(self, name).deed) for name in self.row_actions] if editable else [],
            "mails": [
                (mail, NoticeMail.Status(mail.status).label) for mail in rule.mails.order_by("-created_at")[:SHOWN]
            ],
            "waiting": rule.waiting_count,
            "deliveries_url": deliveries,
        }

    def remove(self, request: HttpRequest, obj: NotificationRule) -> None:
        notifications.delete_rule(obj, actor_of(request))

    @row_action("Send a test", icon="send")
    def send_test(self, request: HttpRequest, obj: NotificationRule) -> None:
        notifications.send_test(obj, actor_of(request))
        messages.success(request, "A test is on its way; see below how it ends.")
