"""Start parameters and answers of forms: what people and programs send, checked and converted. Pure: no Django."""

from __future__ import annotations

from typing import Any

from .definition import Definition, FormField


def clean(definition: Definition, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The start parameters by API name, defaults filled in, and the faults by API name."""
    raise NotImplementedError


def clean_answers(fields: list[FormField], given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """A form's answers by field name, and the faults by field name."""
    raise NotImplementedError
