"""The admin's page that makes a link to the hosted connect page, for a person to be sent it by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from apps.lib.errors import Failure, InvalidInput
from apps.workspaces.admin_base import EDITORS, OwnAdmin, projects_of, show_failure
from apps.workspaces.audit import actor_of, record
from apps.workspaces.models import Project
from apps.workspaces.services import clean_user_id

from . import hosted

INTRO = "A page on which one end user connects, reconnects and disconnects accounts at the project's toolkits."


class LinkForm(forms.Form):
    """For whom the link is."""

    project = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    user_id = forms.CharField(
        label="End user id",
        max_length=255,
        strip=False,
        help_text="The person's id in your product.",
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )

    def __init__(self, *args: Any, projects: Iterable[Project], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.projects = {project.pk: project for project in projects}
        self.fields["project"].choices = [(pk, str(project)) for pk, project in self.projects.items()]  # type: ignore[attr-defined]

    def clean_user_id(self) -> str:
        try:
            return clean_user_id(self.cleaned_data["user_id"])
        except InvalidInput as error:
            raise forms.ValidationError([text for texts in (error.details or {}).values() for text in texts]) from None


def link_view(admin: OwnAdmin, request: HttpRequest) -> HttpResponse:
    """Asks for whom; then shows the link, once."""
    projects = list(projects_of(request, EDITORS).select_related("workspace__plan"))
    if not projects:
        raise PermissionDenied
    initial = {"project": request.GET.get("project", ""), "user_id": request.GET.get("user", "")}
    form = LinkForm(request.POST or None, projects=projects, initial=initial)
    if request.method == "POST" and form.is_valid():
        project, user_id = form.projects[form.cleaned_data["project"]], form.cleaned_data["user_id"]
        try:
            page, url = hosted.make_page(project, user_id)
        except Failure as failure:
            show_failure(form, failure)
        else:
            record(actor_of(request), "connect_link.made", page.pk, project=project, user=user_id)
            context = {"url": url, "page": page, "user_id": user_id, "project": project, "back": admin.changelist_url()}
            return admin.page_once(request, "connect_link", "Connect link", **context)
    return admin.page(request, "form", "Make a connect link", form=form, submit="Make the link", intro=INTRO)
