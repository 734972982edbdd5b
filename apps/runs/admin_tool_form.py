"""A form made from a tool's JSON Schema, and its answers as the tool's parameters."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from apps.connections.admin_catalog import kind_of
from apps.lib.errors import InvalidInput
from apps.toolkits.spec import Tool

LONG_TEXTS = frozenset({"body", "text", "content", "description", "message", "html", "markdown"})
EMPTY = ("", "not sent")


class JsonField(forms.CharField):
    """A text that must be JSON, checked here so that a typing error is told at its field; ``lines``: or texts, one a line."""

    def __init__(self, *, lines: bool = False, **kwargs: Any) -> None:
        attrs = {"rows": 2, "class": "jf-mono", "spellcheck": "false"}
        super().__init__(strip=True, widget=UnfoldAdminTextareaWidget(attrs=attrs), **kwargs)
        self.lines = lines

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return ""
        try:
            return json.loads(text)
        except ValueError as error:
            if self.lines and text[0] != "[":
                return [line.strip() for line in text.splitlines() if line.strip()]
            raise forms.ValidationError(f"Not JSON: {error}.") from None


class ToolForm(forms.Form):
    """One input for each parameter: required ones first. What is left empty is not sent."""

    prefix = "p"

    def __init__(self, tool: Tool, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tool = tool
        required = set(tool.input_schema["required"])
        properties = tool.input_schema["properties"]
        for name in sorted(properties, key=lambda name: name not in required):
            self.fields[name] = field_for(name, properties[name], name in required)

    def params(self) -> dict[str, Any]:
        """The tool's parameters; those left empty are not among them."""
        found = {name: value for name, value in self.cleaned_data.items() if value is not None and value != ""}
        for name, schema in self.tool.input_schema["properties"].items():
            if name in found and type_of(schema) == "boolean":
                found[name] = found[name] == "true"
            elif name in found and "enum" in schema:
                found[name] = next(value for value in schema["enum"] if as_text(value) == found[name])
        return found

    def refuse(self, failure: InvalidInput) -> None:
        """Puts what the tool's schema said at the fields: the service names them ``params.<name>``."""
        for name, texts in (failure.details or {}).items():
            field = name.removeprefix("params.").partition(".")[0].partition("/")[0]
            if field in self.fields:
                self.add_error(field, texts)
            else:
                self.add_error(None, [f"{name}: {text}" for text in texts])


def type_of(schema: dict[str, Any]) -> str:
    """The one type by which a parameter is typed in, null aside; empty where that needs JSON.

    A text that may as well be a number is typed in as a text.
    """
    kind = schema.get("type", "")
    kinds = {kind} if isinstance(kind, str) else set(kind) - {"null"}
    if "string" in kinds and kinds <= {"string", "integer", "number"}:
        return "string"
    return kinds.pop() if len(kinds) == 1 else ""


def is_list_of_texts(schema: dict[str, Any]) -> bool:
    items = schema.get("items")
    return type_of(schema) == "array" and isinstance(items, dict) and type_of(items) == "string"


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def field_for(name: str, schema: dict[str, Any], required: bool) -> forms.Field:
    kind = type_of(schema)
    common: dict[str, Any] = {"label": name, "required": required, "help_text": help_for(schema)}
    if "enum" in schema:
        choices = [(as_text(value), as_text(value)) for value in schema["enum"]]
        return forms.ChoiceField(
            choices=choices if required else [EMPTY, *choices], widget=UnfoldAdminSelectWidget, **common
        )
    if kind == "boolean":
        choices = [("true", "true"), ("false", "false")]
        return forms.ChoiceField(choices=[EMPTY, *choices], widget=UnfoldAdminSelectWidget, **common)
    if kind == "integer":
        return forms.IntegerField(widget=UnfoldAdminIntegerFieldWidget, **common)
    if kind == "number":
        return forms.FloatField(widget=UnfoldAdminIntegerFieldWidget(attrs={"step": "any"}), **common)
    if kind == "string":
        long = name in LONG_TEXTS or schema.get("maxLength", 0) > 1000
        widget: Any = UnfoldAdminTextareaWidget(attrs={"rows": 4}) if long else UnfoldAdminTextInputWidget()
        return forms.CharField(strip=False, widget=widget, **common)
    return JsonField(lines=is_list_of_texts(schema), **common)


def help_for(schema: dict[str, Any]) -> str:
    limits = [
        f"{word} {schema[key]}" for key, word in (("minimum", "at least"), ("maximum", "at most")) if key in schema
    ]
    kind = "" if "enum" in schema else kind_of(schema)
    if is_list_of_texts(schema):
        kind = "texts, one a line"
    elif type_of(schema) not in {"string", "integer", "number", "boolean"} and "enum" not in schema:
        kind = f"JSON: {kind}"
    kind = ", ".join(part for part in [kind, str(schema.get("format", "")), *limits] if part)
    default = f"default {json.dumps(schema['default'])}" if "default" in schema else ""
    return " · ".join(part for part in [kind, str(schema.get("description", "")), default] if part)
