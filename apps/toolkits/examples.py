"""Example parameters of a tool, made from its schema: for documentation."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from .spec import Tool

FORMATS = {
    "email": "someone@example.com",
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "uri": "https://example.com",
    "uuid": "0b6c1f2e-3d4a-4b5c-8d6e-7f8091a2b3c4",
    "path": "docs/readme.md",
}
# For a pattern, the first that fits it.
TEXTS = (
    "text",
    "acme/webapp",
    "12345",
    FORMATS["uuid"],
    "#4f46e5",
    "4f46e5",
    "001000000000001",
    "projects/acme/topics/news",
    FORMATS["email"],
    FORMATS["uri"],
    FORMATS["date"],
    "text5",
    "TEXT",
)


def example_of(tool: Tool) -> dict[str, Any]:
    """Parameters that are needed, and those with an example in the toolkit's file."""
    needed = {name for name, parameter in tool.parameters.items() if parameter.required}
    if tool.any_of:
        needed |= set(tool.any_of[0])
    small = {name: _sample(parameter.json_schema) for name, parameter in tool.parameters.items() if name in needed}
    shown = {
        name: _sample(parameter.json_schema)
        for name, parameter in tool.parameters.items()
        if name in needed or "examples" in parameter.json_schema
    }
    return shown if tool.validator.is_valid(shown) else small


def _sample(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return "text"
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    for name in ("example", "const", "default"):
        if name in schema:
            return schema[name]
    for name in ("oneOf", "anyOf"):
        if schema.get(name) and "type" not in schema:
            return _sample(schema[name][0])
    kind = schema.get("type", "string")
    kind = next((one for one in kind if one != "null"), "null") if isinstance(kind, list) else kind
    return SAMPLES.get(str(kind), _text)(schema)


def _text(schema: dict[str, Any]) -> str:
    if schema.get("format") in FORMATS:
        return FORMATS[schema["format"]]
    if schema.get("contentEncoding") == "base64":
        return "SGVsbG8="
    wanted: dict[str, Any] = {name: schema[name] for name in ("pattern", "minLength", "maxLength") if name in schema}
    texts = (*TEXTS, "x" * int(schema.get("minLength", 1)))
    return next((text for text in texts if jsonschema_rs.is_valid(wanted, text)), "text")


def _number(schema: dict[str, Any]) -> Any:
    least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return min(max(1, least), schema.get("maximum", least if least > 1 else 1))


def _list(schema: dict[str, Any]) -> list[Any]:
    return [_sample(schema.get("items", {}))] * max(1, int(schema.get("minItems", 1)))


def _object(schema: dict[str, Any]) -> dict[str, Any]:
    members = schema.get("properties", {})
    wanted = schema.get("required") or list(members)[: int(schema.get("minProperties", 0))]
    found = {name: _sample(members.get(name, {})) for name in wanted}
    if len(found) < int(schema.get("minProperties", 0)):
        further = schema.get("additionalProperties")
        found["name"] = _sample(further if isinstance(further, dict) else {})
    return found


SAMPLES: dict[str, Any] = {
    "string": _text,
    "integer": _number,
    "number": _number,
    "boolean": lambda schema: True,
    "null": lambda schema: None,
    "array": _list,
    "object": _object,
}
