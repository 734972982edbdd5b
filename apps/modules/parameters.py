"""Start parameters and answers of forms: what people and programs send, checked and converted. Pure: no Django.

Both are told every fault at once. What is absent becomes null, so that an expression that asks for it finds it.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any

from apps.lib import pattern

from .definition import Definition, FormField, Limits, StartParameter
from .source import UNSTORABLE

Faults = dict[str, list[str]]

REQUIRED = "This field is required."
LONGEST_EMAIL = 254  # RFC 5321 section 4.5.3.1.3, less the angle brackets
LONGEST_NAME = 255  # of a file
MAX_FILE = 10 * 1024 * 1024  # bytes, where a file has no limit of its own
MAX_DEPTH = 50  # of lists and objects in one another
NUMBER = re.compile(r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,3})?")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# https://html.spec.whatwg.org/multipage/input.html#valid-e-mail-address: what browsers hold it to
EMAIL = re.compile(
    r"[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
)
CONTENT_TYPE = re.compile(r"[!#$&^_.+a-zA-Z0-9-]{1,80}/[!#$&^_.+a-zA-Z0-9-]{1,80}(?: *;[ -~]{0,200})?")


class Wrong(ValueError):
    """What is wrong with one value."""


def clean(definition: Definition, given: dict[str, Any]) -> tuple[dict[str, Any], Faults]:
    """The start parameters by API name, defaults filled in, and the faults by API name.

    Every parameter is in the first, those with a fault as null.
    """
    faults = _unknown(
        given, [parameter.api_name for parameter in definition.start_parameters], "There is no parameter of this name."
    )
    cleaned: dict[str, Any] = {}
    for parameter in definition.start_parameters:
        name = parameter.api_name
        value = given.get(name)
        if is_nothing(parameter, value):
            value = parameter.default
        cleaned[name] = _cleaned(parameter, value, name, faults)
    return cleaned, faults


def clean_answers(fields: list[FormField], given: dict[str, Any]) -> tuple[dict[str, Any], Faults]:
    """A form's answers by field name, and the faults by field name. Every field is in the first, those with a fault as null.

    A field that was not sent has its default; a checkbox and a multiple choice then have nothing chosen, since a browser
    sends nothing of them. A sent empty text is no answer. An uploaded file is the reference that its keeper made of it, ``{id,
    filename, contentType, size}``: whether that file is the answerer's to give is for the caller to check.
    """
    faults = _unknown(given, [field.name for field in fields], "There is no field of this name.")
    cleaned: dict[str, Any] = {}
    for field in fields:
        value = given.get(field.name)
        if field.name not in given and field.type not in ("checkbox", "choices"):
            value = field.default
        if field.type == "checkbox" and value in (None, ""):
            value = False
        cleaned[field.name] = _cleaned(field, value, field.name, faults)
    return cleaned, faults


def is_nothing(parameter: Limits, value: Any) -> bool:
    """Whether a value says that there is none: null, and of what is no text an empty one (browsers send it)."""
    return value is None or (value == "" and getattr(parameter, "type", "") != "text")


def convert(parameter: StartParameter | FormField, value: Any) -> Any:
    """A value of a parameter's type, within its limits. Raises `Wrong`, whose text says everything."""
    if parameter.type == "file":
        is_reference = isinstance(parameter, FormField) and isinstance(value, dict) and "base64" not in value
        return _reference(value, parameter) if is_reference else _file(value, parameter)
    if not is_storable(value):
        raise Wrong(
            "Holds a NUL character, half of a surrogate pair, a number that JSON does not have, or is too deep."
        )
    converted = CONVERTERS[parameter.type](parameter, value)
    _check_limits(parameter, converted)
    return converted


def _unknown(given: dict[str, Any], known: Iterable[str], message: str) -> Faults:
    names = set(known)
    return {str(name)[:100]: [message] for name in given if name not in names}


def _cleaned(parameter: StartParameter | FormField, value: Any, name: str, faults: Faults) -> Any:
    is_answer = isinstance(parameter, FormField)
    if value is None or (value == "" and (is_answer or parameter.required)) or is_nothing(parameter, value):
        if parameter.required:
            faults[name] = [REQUIRED]
        return [] if is_answer and parameter.type == "choices" and not parameter.required else None
    try:
        converted = convert(parameter, value)
    except Wrong as error:
        faults[name] = [str(error)]
        return None
    if parameter.required and (converted == [] or (parameter.type == "checkbox" and converted is False)):
        faults[name] = [REQUIRED]
    return converted


# -- Types -----------------------------------------------------------------------------------------------------------
def _text(parameter: Limits, value: Any) -> str:
    if not isinstance(value, str):
        raise Wrong("Must be a text.")
    return value


def _long_text(parameter: Limits, value: Any) -> str:
    return _text(parameter, value).replace("\r\n", "\n")  # browsers send both


def _number(parameter: Limits, value: Any) -> int | float:
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        value = value.strip()
        value = int(value) if re.fullmatch(r"[-+]?[0-9]+", value) else float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Wrong("Must be a number.")
    return value


def _date(parameter: Limits, value: Any) -> str:
    try:
        if isinstance(value, str) and DATE.fullmatch(value.strip()):
            return date.fromisoformat(value.strip()).isoformat()
    except ValueError:
        raise Wrong("There is no such day.") from None
    raise Wrong("Must be a date: YYYY-MM-DD.")


def _email(parameter: Limits, value: Any) -> str:
    found = value.strip() if isinstance(value, str) else ""
    if len(found) > LONGEST_EMAIL or not EMAIL.fullmatch(found):
        raise Wrong("Must be an e-mail address.")
    return found


def _boolean(parameter: Limits, value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise Wrong("Must be true or false.")
    return value


def _checkbox(parameter: Limits, value: Any) -> bool:
    """``on`` is what a browser sends of a box without a value (HTML, 4.10.5.1.15)."""
    known = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
    found = known.get(value.lower()) if isinstance(value, str) else value
    return _boolean(parameter, found)


def _choice(parameter: Limits, value: Any) -> Any:
    """One of the options, a number also as the text that a browser sends of it."""
    options = parameter.options if isinstance(parameter.options, list) else []
    if not isinstance(value, bool):
        for option in options:
            if option == value or (isinstance(value, str) and str(option) == value):
                return option
    raise Wrong("Must be one of the options.")


def _choices(parameter: Limits, value: Any) -> list[Any]:
    listed = value if isinstance(value, list) else [value]
    chosen = [_choice(parameter, item) for item in listed]
    return [item for number, item in enumerate(chosen) if item not in chosen[:number]]


def _object(parameter: Limits, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Wrong("Must be an object.")
    return value


def _list(parameter: Limits, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Wrong("Must be a list.")
    return value


CONVERTERS: dict[str, Callable[[Limits, Any], Any]] = {
    "text": _text, "long_text": _long_text, "number": _number, "date": _date, "email": _email, "boolean": _boolean,
    "checkbox": _checkbox, "choice": _choice, "choices": _choices, "object": _object, "list": _list,
}  # fmt: skip


# -- Files -----------------------------------------------------------------------------------------------------------
NO_FILE = "Must be a file: {filename, contentType, base64}."


def _file(value: Any, parameter: Limits) -> dict[str, Any]:
    """``{filename, contentType?, base64}``, its size added."""
    if not isinstance(value, dict) or not isinstance(value.get("filename"), str):
        raise Wrong(NO_FILE)
    if not value["filename"] or len(value["filename"]) > LONGEST_NAME or UNSTORABLE.search(value["filename"]):
        raise Wrong(f"A file's name has 1 to {LONGEST_NAME} characters.")
    kind = value.get("contentType") or "application/octet-stream"
    if not isinstance(kind, str) or not CONTENT_TYPE.fullmatch(kind):
        raise Wrong("contentType must be like text/plain.")
    size = _size_of(value.get("base64"))
    _check_size(size, parameter)
    return {"filename": value["filename"], "contentType": kind, "size": size, "base64": value["base64"]}


def _reference(value: dict[str, Any], parameter: Limits) -> dict[str, Any]:
    """``{id, filename, contentType, size}`` of a file that its keeper has stored."""
    size = value.get("size")
    texts = [value.get(key) for key in ("id", "filename", "contentType")]
    if isinstance(size, bool) or not isinstance(size, int) or not all(isinstance(text, str) for text in texts):
        raise Wrong(NO_FILE)
    _check_size(size, parameter)
    return {"id": texts[0], "filename": texts[1], "contentType": texts[2], "size": size}


def _check_size(size: int, parameter: Limits) -> None:
    most = MAX_FILE if parameter.max_length is None else parameter.max_length
    if size > most:
        raise Wrong(f"A file has at most {most} bytes.")


def _size_of(text: Any) -> int:
    try:
        if isinstance(text, str):
            return len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        pass
    raise Wrong("base64 must be the file's content in base64 (RFC 4648 section 4).")


# -- Limits ----------------------------------------------------------------------------------------------------------
def _check_limits(parameter: Limits, value: Any) -> None:
    """Raises `Wrong` that names every limit that a converted value does not keep."""
    found: list[str] = []
    if isinstance(value, int | float) and not isinstance(value, bool):
        found += _bounds(parameter, value, int | float)
    elif isinstance(value, str | list):
        if getattr(parameter, "type", "") == "date":
            found += _bounds(parameter, value, str)
        found += _lengths(parameter, value)
        if isinstance(value, str) and parameter.pattern is not None and not pattern.fits(parameter.pattern, value):
            found.append("Does not have the form that is asked for.")
    if found:
        raise Wrong(" ".join(found))


def _bounds(parameter: Limits, value: Any, kind: Any) -> list[str]:
    found = []
    if isinstance(parameter.min, kind) and value < parameter.min:
        found.append(f"Must be {parameter.min} or {'later' if kind is str else 'more'}.")
    if isinstance(parameter.max, kind) and value > parameter.max:
        found.append(f"Must be {parameter.max} or {'earlier' if kind is str else 'less'}.")
    return found


def _lengths(parameter: Limits, value: str | list[Any]) -> list[str]:
    unit = "entries" if isinstance(value, list) else "characters"
    found = []
    if parameter.min_length is not None and len(value) < parameter.min_length:
        found.append(f"Must have at least {parameter.min_length} {unit}.")
    if parameter.max_length is not None and len(value) > parameter.max_length:
        found.append(f"Must have at most {parameter.max_length} {unit}.")
    return found


def is_storable(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether a value is JSON that every database keeps: no NUL, no half of a surrogate pair, no NaN, not too deep."""
    if isinstance(value, str):
        return not UNSTORABLE.search(value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return depth > 0 and all(is_storable(item, depth - 1) for item in value)
    if isinstance(value, dict):
        members = value.items()
        return depth > 0 and all(
            isinstance(key, str) and is_storable(key) and is_storable(item, depth - 1) for key, item in members
        )
    return value is None or isinstance(value, bool | int)
