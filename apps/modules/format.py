"""What a definition's data lacks to be of the format: pydantic's errors as sentences, each with the path of its place.

Pure: no Django. The models of `apps.modules.definition` say what the format is; here it is only said in words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from itertools import islice
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from .definition import NAME_PATTERN, Definition

Place = tuple[str | int, ...]
Path = Iterable[str | int]
Loc = tuple[int | str, ...]
Models = list[type[BaseModel]]

MOST_FOUND = 1000  # faults that are looked for: whoever wrote more mends these first
MOST_COMPARED = 20_000  # names that one check compares with what was written, for its hints: about half a second
_left_to_compare: ContextVar[int | None] = ContextVar("left_to_compare", default=None)

PATTERNS = {
    NAME_PATTERN: "Must be made of a-z, 0-9, _ and -, with / for folders.",
    r"^[A-Za-z][A-Za-z0-9_]*$": "Must be made of letters, digits and _, and begin with a letter.",
}
# How an error of a type, or of a branch of a union, names what it wanted.
WANTED = {
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
BOUNDS = {
    "string_too_long": "Must have at most {max_length} characters.",
    "string_too_short": "Must have at least {min_length} characters.",
    "too_long": "Must have at most {max_length} entries.",
    "too_short": "Must have at least {min_length} entries.",
    "greater_than_equal": "Must be at least {ge}.",
    "less_than_equal": "Must be at most {le}.",
}


def find_faults(data: Any) -> tuple[Definition | None, list[tuple[Place, str]]]:
    """The definition, or where its data is not of the format, and why."""
    try:
        return Definition.model_validate(data, by_alias=True, by_name=False), []
    except ValidationError as error:
        errors = [(item["loc"], item) for item in error.errors(include_url=False)]
        return None, list(islice(_explain(errors, data, (), [Definition]), MOST_FOUND))
    except RecursionError:
        return None, [((), "Steps stand too deep in one another.")]


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """`` Did you mean <the nearest>?``, or nothing."""
    names = list(known)
    left = _left_to_compare.get()
    if not isinstance(word, str) or len(word) > 100 or (left is not None and left < len(names)):
        return ""
    if left is not None:
        _left_to_compare.set(left - len(names))
    near = get_close_matches(word, names, 1, 0.6)
    return f" Did you mean {near[0]}?" if near else ""


@contextmanager
def bounded_hints() -> Iterator[None]:
    """Inside of it `did_you_mean` gives nothing any more once it has compared `MOST_COMPARED` names."""
    token = _left_to_compare.set(MOST_COMPARED)
    try:
        yield
    finally:
        _left_to_compare.reset(token)


def keys_of(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


# -- From pydantic's errors to faults --------------------------------------------------------------------------------
Errors = list[tuple[Loc, Any]]


def _explain(errors: Errors, value: Any, path: Place, models: Models) -> Iterator[tuple[Place, str]]:
    """``errors`` have their location relative to the value at the path; ``models`` are what it may be."""
    branches: dict[str, Errors] = {}
    inner: dict[int | str, Errors] = {}
    for loc, error in errors:
        if not loc:
            yield path, _sentence(error, path, models)
        elif _is_in(value, loc[0]):
            inner.setdefault(loc[0], []).append((loc[1:], error))
        elif error["type"] == "missing" and len(loc) == 1:
            yield (*path, loc[0]), f"{loc[0]} is missing."
        else:  # pydantic names the branch of a union
            branches.setdefault(str(loc[0]), []).append((loc[1:], error))
    for key, found in inner.items():
        unknown = [item for item in found if item[1]["type"] == "extra_forbidden" and not item[0]]
        if unknown:
            yield (*path, key), f"There is no key {str(key)[:60]} here.{_near_key(key, models)}"
        else:
            yield from _explain(found, value[key], (*path, key), _inside(models, key))
    if branches:
        yield from _of_union(branches, value, path, models)


def _is_in(value: Any, key: int | str) -> bool:
    if isinstance(value, dict):
        return key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)


def _of_union(branches: dict[str, Errors], value: Any, path: Place, models: Models) -> Iterator[tuple[Place, str]]:
    """The errors of the branch that was meant, or what all of them wanted."""
    named = {model.__name__: model for model in models}
    if isinstance(value, dict) and (meant := [name for name in branches if name in named]):
        best = min(meant, key=lambda name: _distance(value, keys_of(named[name])))
        yield from _explain(branches[best], value, path, [named[best]])
        return
    deeper = [
        errors for errors in branches.values() if any(loc or error["type"] not in WANTED for loc, error in errors)
    ]
    deeper = [errors for errors in deeper if not _is_literal(errors)]
    if deeper:
        yield from _explain(deeper[0], value, path, models)
        return
    wanted = [_wanted(error) for errors in branches.values() for _, error in errors]
    if "a number" in wanted:
        wanted = [item for item in wanted if item != "a whole number"]
    yield path, f"Must be {_or(dict.fromkeys(wanted))}."


def _distance(value: dict[str, Any], known: list[str]) -> int:
    """How far the keys of an object are from those of a model: an unknown one that resembles a known one is nearer."""
    unknown = [key for key in value if key not in known]
    return 2 * len(unknown) - sum(bool(did_you_mean(key, known)) for key in unknown) - (len(value) - len(unknown))


def _is_literal(errors: Errors) -> bool:
    return all(error["type"] == "literal_error" for _, error in errors)


def _wanted(error: Any) -> str:
    if error["type"] == "literal_error":
        return _or(_choices(error))
    return WANTED.get(error["type"], "something else")


def _choices(error: Any) -> list[str]:
    found = re.findall(r"'([^']*)'", error["ctx"]["expected"])
    return found or [str(error["ctx"]["expected"]).lower()]


def _or(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _sentence(error: Any, path: Place, models: Models) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error":
        return f"Must be {_or(_choices(error))}.{did_you_mean(error['input'], _choices(error))}"
    if kind in WANTED:
        quotes = isinstance(error["input"], bool | int | float) and kind == "string_type"
        return f"Must be {WANTED[kind]}{': put it in quotes' if quotes else ''}."
    if kind in BOUNDS:
        return BOUNDS[kind].format(**context)
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"Must match {context['pattern']}.")
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{message[:1].upper()}{message[1:]}{'' if message.endswith('.') else '.'}"


def _near_key(key: Any, models: Models) -> str:
    return did_you_mean(key, [name for model in models for name in keys_of(model)])


def _inside(models: Models, key: int | str) -> Models:
    """The models of what is under a key: of the field of that name, or the same for an entry of a list."""
    for model in models:
        for name, field in model.model_fields.items():
            if key == (field.alias or name):
                return _models_of(field.annotation)
    return models


def _models_of(annotation: Any) -> Models:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_of(part)]


# -- Paths -----------------------------------------------------------------------------------------------------------
def written(path: Iterable[str | int]) -> str:
    """A path as people read it: ``steps[2].with.repo``."""
    return "".join(_part(part) for part in path).removeprefix(".")


def _part(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if re.fullmatch(r"[\w/$-]{1,100}", part) else f"[{part[:100]!r}]"


def parts_of(path: str) -> list[str | int]:
    """What `written` made the path of, as far as that can be told."""
    found = re.findall(r"\[(\d+)\]|\['([^']*)'\]|([^.\[\]]+)", path)
    return [int(index) if index else key or name for index, key, name in found]


def texts(value: Any, path: Place = ()) -> Iterator[tuple[Place, str]]:
    """Every text inside of a value (not the keys), with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from texts(item, (*path, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(item, (*path, key))


Report = Callable[[Place, str], None]
