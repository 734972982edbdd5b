"""A question's fields, and a module's start parameters, as a form of Django's: for its widgets and translated messages.

What counts is decided by `apps.modules.parameters`, in the service; a fault that only it finds is shown at its field.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile
from django.utils.formats import number_format
from django.utils.html import escape
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from apps.lib.pattern import fits
from apps.modules.definition import FormField, StartParameter

from ..human import MAX_FILE, Upload

PREFIX = "a"  # names of fields are free: without it one could be called like one of ours
RADIOS = 7  # options that are shown one under the other
ISO = "%Y-%m-%d"  # what browsers send for a date
TOO_MUCH = gettext_lazy("This is more than can be kept.")
EMPTY: tuple[Any, ...] = (None, "", [])
Field = FormField | StartParameter


class AnswersForm(forms.Form):
    """One input for each field. ``draft`` goes before the defaults; ``max_file`` in bytes."""

    def __init__(
        self,
        fields: list[FormField] | list[StartParameter],
        data: Any = None,
        files: Any = None,
        *,
        draft: dict[str, Any] | None = None,
        max_file: int = MAX_FILE,
    ) -> None:
        super().__init__(data, files, prefix=PREFIX)
        self.asked: dict[str, Field] = {name_of(field): field for field in fields}
        self.draft = draft or {}
        for name, field in self.asked.items():
            self.fields[name] = _field(field, self.draft.get(name), max_file)

    def given(self, *, empty: bool = True) -> dict[str, Any]:
        """What was filled in, by name; new files are not in it (`uploads`).

        ``empty``: with what was left empty, as an empty text, so that no default comes back that somebody has removed.
        """
        found = {name: self._given(name, field) for name, field in self.asked.items()}
        if not empty:
            return {name: value for name, value in found.items() if value not in EMPTY}
        return {name: "" if value in EMPTY else value for name, value in found.items()}

    def _given(self, name: str, field: Field) -> Any:
        raw = self[name].data
        if field.type == "file":
            return self.draft.get(name)
        if field.type in {"checkbox", "boolean"}:
            return bool(raw)
        if field.type == "number":
            return _number(raw)
        if field.type in {"choice", "choices"}:
            return _chosen(field, raw)
        if field.type in {"object", "list"}:
            return _json(field, raw)
        return raw.strip() if isinstance(raw, str) else raw

    def uploads(self) -> dict[str, Upload]:
        """The files that were sent, by name of their field."""
        found = {name: self.files.get(self.add_prefix(name)) for name in self.asked}
        return {name: _upload(file) for name, file in found.items() if file is not None}

    def add_faults(self, faults: Any) -> None:
        """What the service found, at the fields that it names; the rest at the top."""
        for name, messages in (faults or {}).items():
            for message in messages:
                self.add_error(name if name in self.fields else None, str(message))


def name_of(field: Field) -> str:
    return field.name if isinstance(field, FormField) else field.api_name


def inline(upload: Upload) -> dict[str, Any]:
    """A file as a start parameter."""
    return {
        "filename": upload.filename,
        "contentType": upload.content_type,
        "size": len(upload.content),
        "base64": base64.b64encode(upload.content).decode(),
    }


def _upload(file: UploadedFile[Any]) -> Upload:
    return Upload(file.name or "", file.content_type or "", file.read())


def _number(raw: Any) -> Any:
    text = str(raw or "").strip()
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        return text


def _chosen(field: Field, raw: Any) -> Any:
    """The options as the definition has them: a page sends numbers as texts."""
    known = {str(option): option for option in _options(field)}
    if isinstance(raw, list):
        return [known.get(one, one) for one in raw]
    return known.get(str(raw), raw) if raw else None


def _json(field: Field, raw: Any) -> Any:
    """Of an object its JSON; of a list its JSON, or its lines."""
    text = str(raw or "").strip()
    if field.type == "list" and text and not text.startswith("["):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return text


def _options(field: Field) -> list[str | float]:
    return field.options if isinstance(field.options, list) else []


# -- Fields ------------------------------------------------------------------------------------------------------------
def _field(field: Field, kept: Any, max_file: int) -> forms.Field:
    label = field.label if isinstance(field, FormField) else field.name
    flag = field.type in {"checkbox", "boolean"}
    made: forms.Field = MAKERS[field.type](field, max_file)
    made.required = field.required and field.type != "boolean" and not (field.type == "file" and kept)
    made.label = label if field.required or flag else _("%(field)s (optional)") % {"field": label}
    made.help_text = _help(field, kept)
    made.initial = _initial(field, kept)
    made.widget.is_required = made.required
    placeholder = field.placeholder if isinstance(field, FormField) else ""
    if placeholder and not flag:
        made.widget.attrs["placeholder"] = placeholder
    return made


def _help(field: Field, kept: Any) -> str:
    text = escape(field.help).replace("\n", "<br>")
    if field.type == "file" and isinstance(kept, dict):
        said = _("Saved: %(file)s. Choose another one to replace it.") % {"file": kept.get("filename", "")}
        return f"{text}<br>{escape(said)}" if text else escape(said)
    return text


def _initial(field: Field, kept: Any) -> Any:
    value = field.default if kept is None else kept
    if value is None or field.type == "file":
        return None
    if field.type in {"object", "list"} and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, indent=2)
    if field.type == "choices":
        return [str(one) for one in value] if isinstance(value, list) else [str(value)]
    if field.type in {"checkbox", "boolean"}:
        return value is True
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else str(value)


def _text(field: Field, max_file: int) -> forms.Field:
    made = forms.CharField(min_length=field.min_length, max_length=field.max_length)
    if field.pattern:
        pattern = field.pattern
        made.widget.attrs["pattern"] = pattern
        made.validators.append(lambda text: _must_fit(pattern, text))
    return made


def _must_fit(pattern: str, text: str) -> None:
    if not fits(pattern, text):
        raise ValidationError(_("This does not look right."))


def _long_text(field: Field, max_file: int) -> forms.Field:
    widget = forms.Textarea(attrs={"rows": 4})
    return forms.CharField(min_length=field.min_length, max_length=field.max_length, widget=widget)


def _number_field(field: Field, max_file: int) -> forms.Field:
    widget = forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"})
    return forms.FloatField(min_value=_float(field.min), max_value=_float(field.max), widget=widget)


def _float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else number


def _date(field: Field, max_file: int) -> forms.Field:
    limits = {name: str(value) for name, value in (("min", field.min), ("max", field.max)) if value is not None}
    widget = forms.DateInput(format=ISO, attrs={"type": "date", **limits})
    return forms.DateField(input_formats=[ISO], widget=widget)


def _email(field: Field, max_file: int) -> forms.Field:
    return forms.EmailField(
        max_length=field.max_length or 320, widget=forms.EmailInput(attrs={"autocomplete": "email"})
    )


def _choice(field: Field, max_file: int) -> forms.Field:
    options = [(str(option), str(option)) for option in _options(field)]
    if len(options) <= RADIOS:
        return forms.ChoiceField(choices=options, widget=forms.RadioSelect)
    return forms.ChoiceField(choices=[("", "—"), *options])


def _choices(field: Field, max_file: int) -> forms.Field:
    options = [(str(option), str(option)) for option in _options(field)]
    widget = forms.CheckboxSelectMultiple(attrs={"data-one-of": _("Choose at least one.")} if field.required else {})
    return forms.MultipleChoiceField(choices=options, widget=widget)


def _checkbox(field: Field, max_file: int) -> forms.Field:
    return forms.BooleanField()


def _file(field: Field, max_file: int) -> forms.Field:
    most = min(max_file, int(field.max_length)) if field.max_length else max_file
    widget = forms.FileInput(attrs={"data-most": most, "data-too-large": too_large(most)})
    return _FileField(most, widget=widget)


class _FileField(forms.FileField):
    def __init__(self, most: int, **kwargs: Any) -> None:
        super().__init__(allow_empty_file=True, **kwargs)
        self.most = most

    def clean(self, data: Any, initial: Any = None) -> Any:
        file = super().clean(data, initial)
        if file and file.size > self.most:
            raise ValidationError(too_large(self.most))
        return file


def too_large(most: int) -> str:
    unit, size = ("MB", most / 1024**2) if most >= 1024**2 else ("KB", most / 1024)
    return _("The file is larger than %(size)s.") % {"size": f"{number_format(round(size, 1))} {unit}"}


def _structure(field: Field, max_file: int) -> forms.Field:
    widget = forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "class": "mono"})
    return forms.CharField(widget=widget)


MAKERS = {
    "text": _text,
    "long_text": _long_text,
    "number": _number_field,
    "date": _date,
    "email": _email,
    "choice": _choice,
    "choices": _choices,
    "checkbox": _checkbox,
    "boolean": _checkbox,
    "file": _file,
    "object": _structure,
    "list": _structure,
}
