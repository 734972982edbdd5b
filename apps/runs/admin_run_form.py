"""The form of a module's start parameters, with which the admin starts a run by hand."""

from __future__ import annotations

import base64
import json
from typing import Any

from django import forms
from pydantic import ValidationError
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminFileFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from apps.lib.errors import InvalidInput
from apps.modules.definition import Definition, StartParameter
from apps.modules.models import Module

from .admin_tool_form import EMPTY, JsonField
from .starting import Options

PREFIX = "p:"  # start parameters' names may be those of the form's own fields
MAX_FILE = 700_000  # bytes: base64 makes 4/3 of them, and parameters have at most 1 MB
INPUTS = {"date": {"type": "date"}, "email": {"type": "email"}, "number": {"inputmode": "decimal"}, "text": {}}


class StartForm(forms.Form):
    """One input for each start parameter of the draft. What is left empty is not sent, so that its default counts."""

    user_id = forms.CharField(
        label="End user",
        max_length=255,
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
        help_text="Whose accounts its tools use. Empty: the shared ones.",
    )
    maximum_attempts = forms.IntegerField(
        label="Attempts", min_value=1, max_value=100, initial=1, widget=UnfoldAdminIntegerFieldWidget
    )
    save_trace = forms.BooleanField(
        label="Keep requests, answers and outputs in the trace",
        required=False,
        initial=True,
        widget=UnfoldBooleanWidget,
    )

    def __init__(self, module: Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            self.definition: Definition | None = Definition.model_validate(module.draft)
        except ValidationError:
            self.definition = None
        own = dict(self.fields)
        self.fields.clear()
        for parameter in self.definition.start_parameters if self.definition else ():
            self.fields[PREFIX + parameter.api_name] = field_of(parameter)
        self.fields.update(own)

    def clean(self) -> None:
        if self.definition is None:
            raise forms.ValidationError("The draft has a format of the past: open the editor, mend it and save it.")

    @property
    def own_fields(self) -> list[Any]:
        return [self[name] for name in self.fields if not name.startswith(PREFIX)]

    @property
    def parameter_fields(self) -> list[Any]:
        return [self[name] for name in self.fields if name.startswith(PREFIX)]

    @staticmethod
    def initial_of(parameters: dict[str, Any], user_id: str) -> dict[str, Any]:
        """What to fill in so that another run is started with the same, files apart."""
        found: dict[str, Any] = {"user_id": user_id}
        for name, value in parameters.items():
            if isinstance(value, bool):
                found[PREFIX + name] = str(value).lower()
            elif isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(x, str) for x in value)):
                found[PREFIX + name] = json.dumps(value, ensure_ascii=False)
            else:
                found[PREFIX + name] = value
        return found

    def parameters(self) -> dict[str, Any]:
        """By API name, as the API would be given them: `apps.modules.parameters` checks and converts them."""
        found = {}
        for parameter in self.definition.start_parameters if self.definition else ():
            value = self.cleaned_data.get(PREFIX + parameter.api_name)
            if value in (None, "", [], {}):
                continue
            if parameter.type == "boolean":
                value = value == "true"
            elif parameter.type == "choice":
                value = _option(parameter, value)
            elif parameter.type == "choices":
                value = [_option(parameter, one) for one in value]
            elif parameter.type == "file":
                value = file_value(value)
            found[parameter.api_name] = value
        return found

    def options(self) -> Options:
        return Options(
            maximum_attempts=self.cleaned_data["maximum_attempts"], save_trace=self.cleaned_data["save_trace"]
        )

    def refuse(self, failure: InvalidInput) -> None:
        """Puts what was said of a parameter at its field."""
        for name, texts in (failure.details or {}).items():
            field = PREFIX + name if PREFIX + name in self.fields else None
            self.add_error(field, texts if field else [f"{name}: {text}" for text in texts])


def field_of(parameter: StartParameter) -> forms.Field:
    required = parameter.required and parameter.default is None
    common: dict[str, Any] = {"label": parameter.name, "required": required, "help_text": _help(parameter)}
    options = [(str(option), str(option)) for option in parameter.options or ()]
    if parameter.type == "boolean":
        choices = [("true", "Yes"), ("false", "No")]
        return forms.ChoiceField(choices=[EMPTY, *choices], widget=UnfoldAdminSelectWidget, **common)
    if parameter.type == "choice":
        return forms.ChoiceField(
            choices=options if required else [EMPTY, *options], widget=UnfoldAdminSelectWidget, **common
        )
    if parameter.type == "choices":
        return forms.MultipleChoiceField(choices=options, widget=UnfoldAdminCheckboxSelectMultipleWidget, **common)
    if parameter.type == "file":
        return forms.FileField(widget=UnfoldAdminFileFieldWidget, **common)
    if parameter.type in {"object", "list"}:
        return JsonField(lines=parameter.type == "list", **common)
    if parameter.type == "text" and (parameter.max_length or 0) > 500:
        return forms.CharField(strip=False, widget=UnfoldAdminTextareaWidget(attrs={"rows": 4}), **common)
    return forms.CharField(
        strip=False, widget=UnfoldAdminTextInputWidget(attrs=dict(INPUTS.get(parameter.type, {}))), **common
    )


def _help(parameter: StartParameter) -> str:
    default = f"default {json.dumps(parameter.default, ensure_ascii=False)}" if parameter.default is not None else ""
    return " · ".join(part for part in (parameter.api_name, parameter.type, parameter.help, default) if part)


def _option(parameter: StartParameter, text: str) -> Any:
    """The option as the definition has it: a number is a number."""
    return next((option for option in parameter.options or () if str(option) == text), text)


def file_value(given: Any) -> dict[str, Any]:
    content = given.read(MAX_FILE + 1)
    return {
        "filename": given.name,
        "contentType": given.content_type or "application/octet-stream",
        "size": len(content),
        "base64": base64.b64encode(content).decode(),
    }
