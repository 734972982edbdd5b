"""The project's setting that switches auth sessions on for one of its toolkits: over the API, in the admin, in `apply`."""

from __future__ import annotations

from typing import Any

from django import forms
from rest_framework import serializers
from unfold.widgets import UnfoldAdminSelectWidget

from apps.lib.api import StrictText
from apps.lib.errors import InvalidInput
from apps.toolkits.registry import catalog
from apps.workspaces.audit import Actor, record
from apps.workspaces.models import Project
from apps.workspaces.project_settings import Part

from . import auth_sessions
from .models import Integration


class _Body(serializers.Serializer[Any]):
    toolkit = StrictText(max_length=100)


def _read(project: Project) -> dict[str, str] | None:
    slug = auth_sessions.toolkit_of(project)
    return {"toolkit": slug} if slug else None


def _change(project: Project, value: dict[str, str] | None, actor: Actor) -> None:
    """Raises `InvalidInput` for a toolkit that the project has not enabled."""
    if value is not None:
        slug = value["toolkit"]
        enabled = Integration.objects.filter(project=project, toolkit=slug).primary().enabled()
        if catalog(project).get(slug) is None or not enabled.exists():
            raise InvalidInput(
                {f"{auth_sessions.SETTING}.toolkit": ["Must be the slug of an enabled toolkit of the project."]}
            )
    before = _read(project)
    if value is None:
        project.settings.pop(auth_sessions.SETTING, None)
    else:
        project.settings[auth_sessions.SETTING] = {"toolkit": value["toolkit"]}
    project.save(update_fields=["settings"])
    if before != _read(project):
        record(actor, "project.auth_sessions", project.pk, project=project, toolkit=auth_sessions.toolkit_of(project))


def choices(project: Project) -> list[tuple[str, str]]:
    """What an admin may choose among: the project's enabled toolkits."""
    rows = Integration.objects.filter(project=project).primary().enabled().order_by("toolkit")
    known = catalog(project)
    return [(row.toolkit, known.toolkits[row.toolkit].name) for row in rows if row.toolkit in known.toolkits]


class ToolkitField(forms.ChoiceField):
    """The setting as the admin shows it; its value is the API's."""

    def __init__(self, project: Project) -> None:
        super().__init__(
            label="Auth sessions",
            required=False,
            choices=[("", "Off"), *choices(project)],
            widget=UnfoldAdminSelectWidget,
            help_text="For one toolkit: then every run needs the account that it acts with.",
        )

    def prepare_value(self, value: Any) -> Any:
        return value["toolkit"] if isinstance(value, dict) else value

    def clean(self, value: Any) -> Any:
        slug = super().clean(value)
        return {"toolkit": slug} if slug else None

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(self.prepare_value(initial), data)


PART = Part(auth_sessions.SETTING, lambda: _Body(required=False, allow_null=True), _read, _change, ToolkitField)
