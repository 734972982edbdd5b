"""Where a project's results go unless a run or a job says otherwise, and the secret that signs what webhooks are sent."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from unfold.widgets import UnfoldAdminTextareaWidget

from apps.lib.errors import Failure, InvalidInput
from apps.workspaces.admin_base import EDITORS, ProjectFilter, ReadOnly, ScopedAdmin, display, projects_of, row_action
from apps.workspaces.audit import actor_of
from apps.workspaces.models import Project

from . import deliveries, sinks
from .models import Delivery, SinkSettings

LONGEST = 50_000  # characters
EXAMPLE = '{"type": "webhook", "url": "https://app.example/results", "skipOnFail": false}'
SHOWN = 5  # deliveries
Status = Delivery.Status


class SinkForm(forms.Form):
    """A default sink as JSON, by the names of the Runs API."""

    default = forms.CharField(
        label="Default sink",
        required=False,
        max_length=LONGEST,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 10, "spellcheck": "false", "placeholder": EXAMPLE}),
        help_text="JSON as a run's sink over the API. Secrets read back as ********, and stay as they are where that stands. "
        "Empty: results go nowhere unless a run or its job says where.",
    )
    service_names = {"sink": "default"}

    def clean_default(self) -> Any:
        text = self.cleaned_data["default"].strip()
        if not text:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError("This is no JSON.") from error


@admin.register(SinkSettings)
class SinkSettingsAdmin(ReadOnly, ScopedAdmin):
    """One page for each project, whether or not it has a row; it is reached from the project's."""

    intro = "Projects with a sink of their own, or a secret that signs results. Each is set on its project's page."
    has_history = False
    list_display = ("project", "goes_to", "updated_at")
    list_filter = (ProjectFilter,)
    row_actions = ("show_secret", "rotate")

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).select_related("project__workspace")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> SinkSettings | None:
        """A project's, not yet written where nobody has set any."""
        project = projects_of(request).filter(pk=object_id.replace("\x00", "-")).first()
        if project is None:
            return None
        row = SinkSettings.objects.filter(pk=project.pk).first() or SinkSettings(project=project)
        row.project = project
        return row

    def has_set_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self._may(request, EDITORS, obj)

    @display(description="Default sink")
    def goes_to(self, row: SinkSettings) -> str:
        sink = sinks.default_of(row.project)
        return sinks.target_of(sink) if sink else "none"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        row: SinkSettings = self.own_object(request, object_id)
        editable = self.has_set_permission(request, row)
        if request.method == "POST" and not editable:
            raise PermissionDenied
        form = SinkForm(request.POST or None, initial={"default": _written(row.project)})
        if request.method == "POST" and form.is_valid() and self._set(request, row.project, form):
            messages.success(request, "The default sink is saved; runs that start from now on use it.")
            return redirect(self.change_url(row.project.pk))
        form.fields["default"].disabled = not editable
        return self.page(request, "sinks", f"Results of {row.project}", form=form, **self._context(row, editable))

    def _set(self, request: HttpRequest, project: Project, form: SinkForm) -> bool:
        try:
            sinks.change_default(project, form.cleaned_data["default"], actor_of(request))
        except InvalidInput as failure:
            said = [f"{name.removeprefix('sink.')}: {' '.join(texts)}" for name, texts in failure.details.items()]
            form.add_error("default", said)
        except Failure as failure:
            form.add_error(None, f"{failure.text} {failure.advice}")
        return form.is_valid()

    def _context(self, row: SinkSettings, editable: bool) -> dict[str, Any]:
        until = row.previous_secret_until
        newest = Delivery.objects.filter(project=row.project_id).defer("body", "sink").order_by("-created_at", "-id")
        return {
            "opts": self.opts,
            "project": row.project,
            "project_url": reverse("admin:workspaces_project_change", args=[quote(row.project_id)]),
            "editable": editable,
            "has_secret": bool(row.secret),
            "both_until": until if until and until > timezone.now() else None,
            "row_actions_of": row,
            "row_actions": [(name, getattr(self, name).deed) for name in self.row_actions] if editable else [],
            "deliveries": [(one, Status(one.status).label) for one in newest[:SHOWN]],
            "deliveries_url": f"{reverse('admin:runs_delivery_changelist')}?project={row.project_id}",
        }

    @row_action("Show the secret", permission="set", icon="visibility")
    def show_secret(self, request: HttpRequest, obj: SinkSettings) -> HttpResponse:
        secret, until = deliveries.secret_of(obj.project, actor_of(request))
        return self._shown(request, obj, secret, until, "Secret of results")

    @row_action("Rotate the secret", permission="set", icon="key",
                confirm="Make a new secret? The one of now signs for 24 hours more, beside the new one.")  # fmt: skip
    def rotate(self, request: HttpRequest, obj: SinkSettings) -> HttpResponse:
        secret, until = deliveries.rotate_secret(obj.project, actor_of(request))
        return self._shown(request, obj, secret, until, "Secret rotated")

    def _shown(self, request: HttpRequest, obj: SinkSettings, secret: str, until: Any, title: str) -> HttpResponse:
        context = {"project": obj.project, "secret": secret, "until": until, "change_url": self.change_url(obj.pk)}
        return self.page_once(request, "sink_secret", title, **context)


def _written(project: Project) -> str:
    sink = sinks.masked(sinks.default_of(project))
    return json.dumps(sink, indent=2, ensure_ascii=False) if sink else ""
