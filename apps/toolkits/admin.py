"""The admin's pages of toolkits that a project described for itself."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import yaml
from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from unfold.widgets import UnfoldAdminTextareaWidget

from apps.lib.errors import InvalidInput
from apps.workspaces.admin_base import ProjectFilter, ScopedAdmin, display, preformatted, row_action
from apps.workspaces.audit import actor_of

from . import services
from .models import OwnToolkit

EXAMPLE = """\
name: Warehouse
base_url: https://warehouse.example/api
auth:
  - type: api_key
    placement: {in: header, name: X-Key}
test: {path: /me}
tools:
  - slug: get_item
    name: Get an item
    description: Reads one item.
    method: GET
    path: /items/{id}
    parameters:
      id: {in: path, type: string, required: true}
"""


class OwnToolkitForm(forms.ModelForm):  # type: ignore[type-arg]
    """A toolkit as the text of its file would be."""

    text = forms.CharField(
        label="Description (YAML)",
        help_text="As a file of the catalog; the slug above counts.",
        max_length=services.LONGEST_TEXT,
        strip=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 32, "spellcheck": "false", "class": "jf-code"}),
    )

    class Meta:
        model = OwnToolkit
        fields = ("project", "slug")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        document = self.instance.document if self.instance.pk and not self.instance._state.adding else None
        shown = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110) if document else EXAMPLE
        self.fields["text"].initial = shown

    def clean_text(self) -> str:
        text = str(self.cleaned_data["text"])
        try:
            document = services.read_document(text)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None
        self.cleaned_data["document"] = document
        return text

    def clean(self) -> Any:
        """Every fault at once, each with its place."""
        slug = self.cleaned_data.get("slug") or self.instance.slug
        document = self.cleaned_data.get("document")
        if document is not None and slug:
            try:
                services.check(slug, document)
            except InvalidInput as error:
                for place, messages in (error.details or {}).items():
                    for message in messages:
                        self.add_error(
                            "slug" if place == "slug" and "slug" in self.fields else "text", f"{place}: {message}"
                        )
        return self.cleaned_data


@admin.register(OwnToolkit)
class OwnToolkitAdmin(ScopedAdmin):
    form = OwnToolkitForm
    intro = "Services that the catalog does not have, described by a project for itself."
    list_display = ("slug", "name", "project", "tools", "updated_at")
    list_filter = (ProjectFilter,)
    search_fields = ("slug",)
    fields = ("project", "slug", "text")

    def get_queryset(self, request: HttpRequest) -> QuerySet[OwnToolkit]:
        return super().get_queryset(request).select_related("project__workspace")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("project", "slug", "shown") if obj is not None else ()

    @display(description="Description")
    def shown(self, row: OwnToolkit) -> Any:
        return preformatted(yaml.safe_dump(row.document, sort_keys=False, allow_unicode=True, width=110))

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields if obj is None or self.has_change_permission(request, obj) else ("project", "slug", "shown")

    row_actions = ("enable",)

    @row_action("Enable", icon="extension")
    def enable(self, request: HttpRequest, obj: OwnToolkit) -> HttpResponse:
        """Leads to the form on which it is switched on for its project."""
        query = urlencode({"toolkit": obj.slug, "project": obj.project_id})
        return redirect(f"{reverse('admin:connections_integration_add')}?{query}")

    @display(description="Name")
    def name(self, row: OwnToolkit) -> str:
        return str(row.document.get("name", ""))

    @display(description="Tools")
    def tools(self, row: OwnToolkit) -> int:
        return len(row.document.get("tools", []))

    def create(self, request: HttpRequest, form: Any) -> OwnToolkit:
        project, slug = form.cleaned_data["project"], form.cleaned_data["slug"]
        return services.put(project, slug, form.cleaned_data["document"], actor_of(request))

    def apply(self, request: HttpRequest, obj: OwnToolkit, form: Any) -> None:
        services.put(obj.project, obj.slug, form.cleaned_data["document"], actor_of(request))

    def remove(self, request: HttpRequest, obj: OwnToolkit) -> None:
        services.remove(obj.project, obj.slug, actor_of(request))
