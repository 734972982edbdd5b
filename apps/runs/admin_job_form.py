"""The form of a job in the admin: what the Runs API takes as one body, in JSON by its parts, checked by the same code."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.http import HttpRequest
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from apps.lib.api import checked, parse_json
from apps.lib.errors import Failure, InvalidInput
from apps.workspaces.admin_base import EDITORS, projects_of, show_failure
from apps.workspaces.models import Project

from .api.jobs import job_alone
from .api.jobs_serializers import LONGEST_ID, ChangeBody, CreateBody
from .models import Job

LONGEST_SHOWN = 300_000  # characters of a payload that a browser can be asked to hold
MORE = ("auth_session", "sink", "proxy", "notifications")
EXAMPLE_OF_PAYLOAD = [{"apiName": "module/name", "parameters": {}}]


class PartField(forms.CharField):
    """A part of the body, in JSON; None where it is left empty."""

    def __init__(self, rows: int, **kwargs: Any) -> None:
        attrs = {"rows": rows, "spellcheck": "false", "autocapitalize": "off", "autocomplete": "off"}
        super().__init__(widget=UnfoldAdminTextareaWidget(attrs=attrs), strip=True, **kwargs)

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            return parse_json(text.encode("utf-8", errors="replace"))
        except InvalidInput as error:
            fault = error.details["body"][0].replace("The body", "This")
            raise forms.ValidationError(fault) from None


class JobForm(forms.Form):
    """What both making and changing a job ask for."""

    payload = PartField(
        rows=10, help_text="A list of {apiName, parameters, requestTimeout?, retry?}: what each job run starts."
    )
    configuration = PartField(
        rows=4, help_text="{maxConcurrentRequests?, maxRuns?, requestTimeout?, retry?: {maximumAttempts?}, proxy?}."
    )
    schedule = PartField(
        rows=8, required=False,
        help_text='{intervals?: [{"every": "15m"}], calendars?: [{"hour": 9, "minute": 30, "dayOfWeek": "MONDAY"}], '
        'jitter?, timezone?: "Europe/Berlin"}. Empty: fires only by hand.',
    )  # fmt: skip
    more = PartField(
        rows=4, required=False,
        help_text="{sink?, auth_session?, notifications?, proxy?}, as the Runs API has them. What is ******** stays as it is.",
    )  # fmt: skip

    body_class: type[ChangeBody] = ChangeBody

    def body(self) -> dict[str, Any]:
        """The checked body. Raises `InvalidInput`."""
        given = {name: self.cleaned_data[name] for name in ("payload", "configuration", "schedule")}
        more = self.cleaned_data["more"]
        if more is not None and not (isinstance(more, dict) and set(more) <= set(MORE)):
            raise InvalidInput({"more": [f"Must be an object with no other members than {', '.join(MORE)}."]})
        return checked(self.body_class(data={**given, **(more or {}), **self.named()}))

    def named(self) -> dict[str, Any]:
        return {}

    def refuse(self, failure: Failure) -> None:
        """Puts each fault at the field of its part."""
        if isinstance(failure, InvalidInput) and isinstance(failure.details, dict):
            for place, texts in failure.details.items():
                self._mark(place, [str(text) for text in texts])
        else:
            show_failure(self, failure)

    def _mark(self, place: str, texts: list[str]) -> None:
        part, _, inner = place.partition(".")
        field = {"endUser": "user_id"}.get(part, "more" if part in MORE else part)
        shown = place if field == "more" and part != "more" else inner
        self.add_error(
            field if field in self.fields else None, [f"{shown}: {text}" if shown else text for text in texts]
        )


class NewJobForm(JobForm):
    project = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    id = forms.CharField(
        max_length=LONGEST_ID, strip=False,
        widget=UnfoldAdminTextInputWidget(attrs={"autocapitalize": "off", "spellcheck": "false", "autocomplete": "off"}),
        help_text="By which the API knows it. It stays.",
    )  # fmt: skip
    user_id = forms.CharField(
        label="End user", max_length=255, required=False, strip=False,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text="Whose accounts its runs use. Empty: the shared ones.",
    )  # fmt: skip
    field_order = ("project", "id", "user_id", "payload", "configuration", "schedule", "more")
    body_class = CreateBody

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.projects = {project.pk: project for project in projects_of(request, EDITORS)}
        self.fields["project"].choices = [(pk, str(project)) for pk, project in self.projects.items()]  # type: ignore[attr-defined]
        self.initial.setdefault("payload", pretty(EXAMPLE_OF_PAYLOAD))
        self.initial.setdefault("configuration", pretty({"maxConcurrentRequests": 10}))

    @property
    def place(self) -> Project:
        return self.projects[self.cleaned_data["project"]]

    def named(self) -> dict[str, Any]:
        return {"id": self.cleaned_data["id"], "endUser": self.cleaned_data["user_id"] or None}


class ChangeJobForm(JobForm):
    """Filled in with the job as the API reads it back, its secrets masked."""

    def __init__(self, *args: Any, job: Job, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.job = job
        whole = job_alone(job)
        self.initial = {name: pretty(whole.get(name)) for name in ("payload", "configuration", "schedule")}
        self.initial["more"] = pretty({name: whole[name] for name in MORE if whole.get(name) is not None} or None)
        self.is_too_long = len(self.initial["payload"]) > LONGEST_SHOWN
        if self.is_too_long:
            del self.fields["payload"]

    def clean(self) -> None:
        if self.is_too_long:
            self.cleaned_data["payload"] = self.job.payload


def pretty(value: Any) -> str:
    return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)
