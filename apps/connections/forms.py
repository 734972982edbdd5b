"""The form on which a person enters credentials, made from the toolkit's auth scheme."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.html import escape
from django.utils.translation import gettext as _

from apps.lib.pattern import fits
from apps.toolkits.spec import Toolkit

VARIABLE = "variable-"


class CredentialsForm(forms.Form):
    """One input for each field of the scheme, and for each variable of the toolkit that the person knows."""

    def __init__(self, toolkit: Toolkit, scheme: Any, data: Any = None) -> None:
        super().__init__(data)
        for name, variable in toolkit.variables.items():
            if variable.source == "user":
                self.fields[VARIABLE + name] = _field(variable, secret=False)
        for field in scheme.fields:
            self.fields[field.name] = _field(field, secret=field.secret)

    def credentials(self) -> dict[str, str]:
        return {name: value for name, value in self._values() if not name.startswith(VARIABLE)}

    def variables(self) -> dict[str, str]:
        return {name.removeprefix(VARIABLE): value for name, value in self._values() if name.startswith(VARIABLE)}

    def _values(self) -> list[tuple[str, str]]:
        """What was typed; where nothing was, the field's default (a password input is never prefilled with it)."""
        return [(name, value or self.fields[name].initial or "") for name, value in self.cleaned_data.items()]

    def add_faults(self, faults: dict[str, list[str]]) -> None:
        for name, messages in faults.items():
            for message in messages:
                self.add_error(name if name in self.fields else None, message)


def _field(spec: Any, *, secret: bool) -> forms.CharField:
    """A text input; what it takes is one line of printable characters, as headers need."""
    attributes = {"autocomplete": "off", "spellcheck": "false"}
    widget = forms.PasswordInput(attrs=attributes, render_value=False) if secret else forms.TextInput(attrs=attributes)
    required = getattr(spec, "required", True) and spec.default is None
    field = forms.CharField(
        label=spec.title if required else _("%(field)s (optional)") % {"field": spec.title},
        help_text=escape(spec.description),  # pages print it as HTML
        required=required,
        initial=spec.default,
        max_length=8000,
        widget=widget,
    )
    if spec.pattern:
        field.validators.append(matches(spec.pattern))
    field.validators.append(_is_one_line)
    return field


def matches(pattern: str) -> Any:
    """A validator of form fields: the whole of what was typed fits."""

    def check(value: str) -> None:
        if not fits(pattern, value):
            raise forms.ValidationError(_("This does not look right."))

    return check


def _is_one_line(value: str) -> None:
    if not value.isprintable():
        raise forms.ValidationError(_("Must be one line without control characters."))
