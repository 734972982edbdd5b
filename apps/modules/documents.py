"""Definitions as documents: what a request or a file brings, and what is written into a file."""

from __future__ import annotations

import json
from typing import Any

import yaml

from apps.lib.errors import InvalidInput

from . import checks
from .checks import Fault
from .source import FLOAT, INTEGER, NOT_FINITE, OTHER_BASE

SCHEMA_PATH = "/modules.schema.json"


def refusal(faults: list[Fault]) -> InvalidInput:
    found = [fault.as_json() for fault in faults] or [{"path": "", "message": "This is no definition of a module."}]
    many = f"{len(found)} faults" if len(found) > 1 else "a fault"
    failure = InvalidInput(
        message=f"The definition has {many}.",
        remediation="Correct what details.faults names, each with its path and line, and send it again.",
    )
    failure.details = {"faults": found}
    return failure


def text_of(raw: bytes, *, must_be_json: bool = False) -> str:
    """A definition's bytes as text; ``must_be_json`` where the sender says that it is JSON.

    Raises `InvalidInput` with a fault and its line.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused("This is not UTF-8.", raw.count(b"\n", 0, error.start) + 1) from None
    if must_be_json and text.strip():
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            raise _refused(f"This is not JSON: {error.msg}.", error.lineno) from None
        except (ValueError, RecursionError):
            raise _refused("This is not JSON that can be read.", None) from None
    return text


def _refused(message: str, line: int | None) -> InvalidInput:
    return refusal([Fault("", message, line)])


def as_yaml(source: str) -> str:
    """A definition for a file: as it was written, or what was written as JSON as YAML, where that means the same.

    Not from the data of the database: PostgreSQL keeps no order of its members.
    """
    if not is_json(source):
        return source if source.endswith("\n") else source + "\n"
    return dump(checks.read(source)[0])


class _Dumper(yaml.SafeDumper):
    """Writes for a reader of YAML 1.2: PyYAML writes for one of YAML 1.1, which takes ``0o17`` for a text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    is_number = any(form.fullmatch(text) for form in (INTEGER, OTHER_BASE, FLOAT, NOT_FINITE))
    style = "'" if is_number else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(data: Any) -> str:
    """Data as YAML; as JSON, which is YAML too, where it would not be read as the same."""
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    again, faults = checks.read(text)
    return text if not faults and again == data else json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def is_json(source: str) -> bool:
    if not source.lstrip().startswith("{"):
        return False
    try:
        json.loads(source)
    except (ValueError, RecursionError):
        return False
    return True


def json_schema(base_url: str) -> dict[str, Any]:
    """The JSON Schema of definitions with its address, by which editors complete and check them."""
    return {**checks.json_schema(), "$id": f"{base_url}{SCHEMA_PATH}"}
