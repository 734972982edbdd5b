"""What no schema says of single parts of a definition: which keys belong together, which literals make sense. Pure: no Django.

It works on the data as it was read (with mentions resolved), beside the format's own faults: what is of a wrong type is
passed over here, the format has said so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from apps.lib import expressions, pattern

from .definition import (
    KINDS,
    MAX_STEPS,
    NAME_PATTERN,
    RESERVED_LAST_SEGMENTS,
    FormField,
    StartParameter,
    seconds_of,
)
from .format import Place, Report, did_you_mean
from .order import Written
from .parameters import Wrong, convert

# Whose keys these are, beside those that are everybody's.
PERFORMED = ("tool", "request", "code")
OWNERS: dict[str, tuple[str, ...]] = {
    "retry": (*PERFORMED, "run"),
    "timeout": PERFORMED,
    "connection": ("tool",),
    "with": ("tool", "run", "code"),
    "then": ("condition",),
    "else": ("condition",),
    "cases": ("switch",),
    "default": ("switch",),
    "as": ("for_each",),
    "parallel": ("for_each",),
    "do": ("for_each",),
    "on_error": tuple(kind for kind in KINDS if kind != "fail"),
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MOST_PARAMETERS = 100  # the format refuses more
LONGEST_API = 150  # characters of a module's name
LONGEST_HOOK = 60  # seconds that a hook's sender waits at most
HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2
EVENT_NAME = re.compile(r"[^/\x00-\x1f\x7f]{1,100}")
CONNECTION = re.compile(r"user|shared|ca_[A-Za-z0-9_-]+")
ONE_EXPRESSION = "Must be one expression, {{ … }}, without text around it"


def check_contents(data: dict[str, Any], steps: list[Written], report: Report) -> None:
    _check_name(data, report)
    _check_start_parameters(data, report)
    _check_ids(steps, report)
    for step in steps:
        _check_kind(step, report)
        _check_keys(step, report)
        _check_flow(step, report)
        check = CHECKS.get(step.kind)
        if check is not None:
            check(step.raw[step.kind], (*step.path, step.kind), report)
    _check_hook(data, report)
    _check_extended_payloads(data, report)
    _check_end(data, report)


# -- The whole -------------------------------------------------------------------------------------------------------
def _check_name(data: dict[str, Any], report: Report) -> None:
    name = data.get("name")
    if isinstance(name, str) and name.rpartition("/")[2] in RESERVED_LAST_SEGMENTS:
        report(("name",), f"The last part of a name is none of {', '.join(sorted(RESERVED_LAST_SEGMENTS))}.")


def _check_ids(steps: list[Written], report: Report) -> None:
    seen: set[str] = set()
    for step in steps:
        if step.id and step.id in seen:
            report((*step.path, "id"), f"There is another step {step.id}: an id stands once in the whole module.")
        seen.add(step.id)
    if len(steps) > MAX_STEPS:
        report(("steps",), f"A module has at most {MAX_STEPS} steps, inner ones included: these are {len(steps)}.")


def _check_hook(data: dict[str, Any], report: Report) -> None:
    hook = data.get("hook")
    if not isinstance(hook, dict):
        return
    _check_truth(hook.get("when"), ("hook", "when"), report)
    seconds = _seconds(hook.get("timeout"))
    if seconds is not None and seconds > LONGEST_HOOK:
        report(("hook", "timeout"), f"A hook's sender waits at most {LONGEST_HOOK} s.")
    mapped, parameters = hook.get("parameters"), list(_typed(data))
    if not isinstance(mapped, dict):
        return
    known = [parameter.api_name for parameter, _ in parameters]
    for name in mapped:
        if name not in known and len(known) == len(data.get("start_parameters") or []):
            report(("hook", "parameters", name), f"There is no start parameter {name[:60]}.{did_you_mean(name, known)}")
    for parameter, _ in parameters:
        if parameter.required and parameter.default is None and parameter.api_name not in mapped:
            report(("hook", "parameters"), f"The start parameter {parameter.api_name} is required, and not given here.")


def _check_extended_payloads(data: dict[str, Any], report: Report) -> None:
    given = data.get("extended_payloads")
    if isinstance(given, str):
        _report_single(given, ("extended_payloads",), report)
    for index, item in enumerate(given if isinstance(given, list) else []):
        path: Place = ("extended_payloads", index)
        api, parameters = (item.get("api"), item.get("parameters")) if isinstance(item, dict) else (None, None)
        if isinstance(api, str) and not expressions.has_expression(api) and not _is_module_name(api):
            report((*path, "api"), "Must be the name of a module.")
        if isinstance(parameters, str):
            _report_single(parameters, (*path, "parameters"), report)


def _is_module_name(text: str) -> bool:
    return len(text) <= LONGEST_API and re.fullmatch(NAME_PATTERN.rstrip("$"), text) is not None


def _check_end(data: dict[str, Any], report: Report) -> None:
    end = data.get("end")
    redirect = end.get("redirect") if isinstance(end, dict) else None
    if isinstance(redirect, str) and not _may_be_url(redirect):
        report(("end", "redirect"), "Must be an absolute URL: https://…")


# -- Start parameters and fields -------------------------------------------------------------------------------------
def _typed(data: dict[str, Any]) -> Iterator[tuple[StartParameter, Place]]:
    """Those start parameters that are of the format."""
    listed = data.get("start_parameters")
    for index, item in enumerate(listed[:MOST_PARAMETERS] if isinstance(listed, list) else []):
        try:
            yield StartParameter.model_validate(item), ("start_parameters", index)
        except ValidationError:
            continue


def _check_start_parameters(data: dict[str, Any], report: Report) -> None:
    seen: dict[str, set[str]] = {"name": set(), "api_name": set()}
    for parameter, path in _typed(data):
        for key, names in seen.items():
            value = getattr(parameter, key).strip()
            if value in names:
                report((*path, key), f"There is another start parameter whose {key} is {value[:60]}.")
            names.add(value)
        if expressions.has_expression(parameter.default) or (
            isinstance(parameter.default, str) and "@[" in parameter.default
        ):
            report(
                (*path, "default"),
                "The default of a start parameter is a value: there is nothing yet to calculate it from.",
            )
        else:
            _check_value(parameter, path, report)


def _check_value(parameter: StartParameter | FormField, path: Place, report: Report) -> None:
    """Options, limits and default of a start parameter or a field."""
    before = parameter.model_copy(update={"default": None})
    bad = list(_faults_of_limits(before))
    for key, message in bad:
        report((*path, key), message)
    if bad or parameter.default is None or expressions.has_expression([parameter.default, parameter.options]):
        return
    if parameter.type == "file":
        report((*path, "default"), "A file has no default.")
        return
    try:
        convert(parameter, parameter.default)
    except Wrong as error:
        report((*path, "default"), f"The default does not fit: {_lower(str(error))}")


def _faults_of_limits(parameter: StartParameter | FormField) -> Iterator[tuple[str, str]]:
    kind, options = parameter.type, parameter.options
    if kind in ("choice", "choices"):
        if not options:
            yield "options", f"A {kind} needs options."
        elif isinstance(options, str):
            yield from (("options", f"{message}.") for message in _single(options))
        elif len({str(option) for option in options}) < len(options):
            yield "options", "An option stands there twice."
    elif options is not None:
        yield "options", f"Options are for choice and choices, not for {kind}."
    for key, kinds in LIMITED.items():
        if getattr(parameter, key) is not None and kind not in kinds:
            yield key, f"{key} is for {', '.join(kinds)}, not for {kind}."
    yield from _faults_of_bounds(parameter)
    if parameter.pattern is not None and (fault := pattern.fault(parameter.pattern)):
        yield "pattern", fault


LIMITED = {
    "min": ("number", "date"),
    "max": ("number", "date"),
    "min_length": ("text", "long_text", "email", "list", "choices"),
    "max_length": ("text", "long_text", "email", "list", "choices", "file"),
    "pattern": ("text", "long_text", "email"),
}


def _faults_of_bounds(parameter: StartParameter | FormField) -> Iterator[tuple[str, str]]:
    if parameter.type in ("number", "date"):
        for key in ("min", "max"):
            bound = getattr(parameter, key)
            if bound is not None and not _is_bound(bound, parameter.type):
                yield key, "Must be a number." if parameter.type == "number" else "Must be a date: YYYY-MM-DD."
                return
        if parameter.min is not None and parameter.max is not None and parameter.min > parameter.max:  # type: ignore[operator]
            yield "max", "Is less than min: no value fits."
    least, most = parameter.min_length, parameter.max_length
    if least is not None and most is not None and least > most:
        yield "max_length", "Is less than min_length: no value fits."


def _is_bound(bound: Any, kind: str) -> bool:
    if kind == "number":
        return isinstance(bound, int | float)
    try:
        return isinstance(bound, str) and date.fromisoformat(bound).isoformat() == bound
    except ValueError:
        return False


# -- Any step --------------------------------------------------------------------------------------------------------
def _check_kind(step: Written, report: Report) -> None:
    kinds = step.kinds
    if len(kinds) > 1:
        report(step.path, f"A step does one thing: {' and '.join(kinds)} are two.")
    elif not kinds and not any(did_you_mean(key, KINDS) for key in step.raw):  # else the key's own fault says it
        report(step.path, f"What does the step do? It needs one of {', '.join(KINDS)}.")


def _check_keys(step: Written, report: Report) -> None:
    if len(step.kinds) != 1:
        return
    for key, owners in OWNERS.items():
        value = step.raw.get(key)
        is_given = value not in (None, [], {}) and (key, value) not in (
            ("connection", "user"),
            ("on_error", "fail"),
            ("parallel", 1),
        )
        if is_given and step.kind not in owners:
            whose = "fail, which ends the run" if key == "on_error" else f"{step.kind}: only to {', '.join(owners)}"
            report((*step.path, key), f"{key} does not belong to {whose}.")


def _check_flow(step: Written, report: Report) -> None:
    raw, path = step.raw, step.path
    _check_truth(raw.get("when"), (*path, "when"), report)
    if isinstance(raw.get("with"), str):
        _report_single(raw["with"], (*path, "with"), report)
    connection = raw.get("connection")
    if isinstance(connection, str) and not CONNECTION.fullmatch(connection):
        report((*path, "connection"), "Must be user, shared, or the id of a connection, ca_…: it cannot be calculated.")
    if step.kind == "condition" and not raw.get("then") and not raw.get("else"):
        report(path, "A condition needs steps in then, in else, or in both.")
    if step.kind == "switch" and not raw.get("cases"):
        report(path, "A switch needs cases.")
    if step.kind == "for_each" and not raw.get("do"):
        report(path, "for_each needs steps in do.")


def _check_truth(value: Any, path: Place, report: Report) -> None:
    if isinstance(value, str):
        for message in _single(value):
            report(path, f"{message}; or true, or false.")


def _report_single(value: str, path: Place, report: Report) -> None:
    for message in _single(value):
        report(path, f"{message}.")


def _single(text: str) -> Iterator[str]:
    """What is wrong with a text that must be one expression; nothing of one that cannot be read, which is told elsewhere."""
    is_one = expressions.has_expression(text) and (expressions.check(text) or expressions.is_one_expression(text))
    if not is_one:
        yield ONE_EXPRESSION


# -- Each kind -------------------------------------------------------------------------------------------------------
def _check_request(value: Any, path: Place, report: Report) -> None:
    if not isinstance(value, dict):
        return
    method, url, headers = value.get("method"), value.get("url"), value.get("headers")
    if isinstance(method, str) and not expressions.has_expression(method) and method.upper() not in METHODS:
        report((*path, "method"), f"Must be one of {', '.join(METHODS)}.{did_you_mean(method.upper(), METHODS)}")
    if isinstance(url, str) and not _may_be_url(url):
        report((*path, "url"), "Must be an absolute URL: https://…")
    for name, content in headers.items() if isinstance(headers, dict) else ():
        if not HEADER_NAME.fullmatch(name):
            report((*path, "headers", name), "This is no name of a header.")
        elif (
            isinstance(content, str)
            and re.search(r"[\x00-\x08\x0a-\x1f\x7f]", content)
            and not expressions.has_expression(content)
        ):
            report((*path, "headers", name), "A header's value has no line breaks and control characters.")
    accept = value.get("accept")
    for index, status in enumerate(accept if isinstance(accept, list) else []):
        if type(status) is int and not 100 <= status <= 599:
            report((*path, "accept", index), "A status is from 100 to 599.")


def _may_be_url(text: str) -> bool:
    if expressions.has_expression(text):
        return text.lower().startswith(("http://", "https://", "{{"))
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"[\s\x00-\x1f]", text)
    except ValueError:
        return False


def _check_form(value: Any, path: Place, report: Report) -> None:
    if not isinstance(value, dict):
        return
    _check_asked(value, path, report)
    pages = value.get("pages")
    places: list[tuple[Any, Place]] = [(value, path)]
    places += [(page, (*path, "pages", index)) for index, page in enumerate(pages if isinstance(pages, list) else [])]
    for page, place in places:
        fields = page.get("fields") if isinstance(page, dict) else None
        for index, item in enumerate(fields if isinstance(fields, list) else []):
            _check_field(item, (*place, "fields", index), report)


def _check_field(item: Any, path: Place, report: Report) -> None:
    try:
        _check_value(FormField.model_validate(item), path, report)
    except ValidationError:
        return


def _check_approve(value: Any, path: Place, report: Report) -> None:
    if not isinstance(value, dict):
        return
    _check_asked(value, path, report)
    people, quorum = _people(value.get("assignees")), value.get("quorum")
    is_known = bool(people) and not any(":" in person or expressions.has_expression(person) for person, _ in people)
    count = len({person.casefold() for person, _ in people})
    if is_known and type(quorum) is int and quorum > count:
        report((*path, "quorum"), f"{quorum} shall approve, and only {count} {'is' if count == 1 else 'are'} asked.")


def _check_asked(value: dict[str, Any], path: Place, report: Report) -> None:
    for person, place in _people(value.get("assignees")):
        if not (expressions.has_expression(person) or "@" in person or re.match(r"(?:group|user):.", person)):
            report((*path, "assignees", *place), "Must be an e-mail address, group:<name> or user:<end user's id>.")


def _people(assignees: Any) -> list[tuple[str, Place]]:
    """The assignees as they are written, each with its place among them. A text may list some with commas."""
    if isinstance(assignees, str):
        parts = [assignees] if expressions.has_expression(assignees) else assignees.split(",")
        return [(part.strip(), ()) for part in parts]
    listed = enumerate(assignees) if isinstance(assignees, list) else ()
    return [(item.strip(), (index,)) for index, item in listed if isinstance(item, str)]


def _check_condition(value: Any, path: Place, report: Report) -> None:
    _check_truth(value, path, report)


def _check_switch(value: Any, path: Place, report: Report) -> None:
    if isinstance(value, dict | list):
        report(path, "Must be a text, a number or an expression, whose value names one of the cases.")


def _check_for_each(value: Any, path: Place, report: Report) -> None:
    if isinstance(value, str):
        for message in _single(value):
            report(path, f"{message}; or a list.")
    elif not isinstance(value, list):
        report(path, "Must be a list, or an expression that gives one.")


def _check_wait(value: Any, path: Place, report: Report) -> None:
    if isinstance(value, dict):
        _check_wait_for(value, path, report)
    elif isinstance(value, str | int | float) and not isinstance(value, bool) and not expressions.has_expression(value):
        try:
            seconds_of(value)
        except ValueError as error:
            report(path, f"{str(error)[:1].upper()}{str(error)[1:]}.")


def _check_wait_for(value: dict[str, Any], path: Place, report: Report) -> None:
    until, event = value.get("until"), value.get("event")
    if isinstance(until, str) and not expressions.has_expression(until):
        try:
            datetime.fromisoformat(until.strip())
        except ValueError:
            report((*path, "until"), "Must be a date or a time, like 2026-01-31 or 2026-01-31T08:00:00Z.")
    if isinstance(event, str) and not expressions.has_expression(event) and not EVENT_NAME.fullmatch(event):
        report((*path, "event"), "An event's name has 1 to 100 characters, without /.")


CHECKS = {
    "request": _check_request,
    "form": _check_form,
    "approve": _check_approve,
    "condition": _check_condition,
    "switch": _check_switch,
    "for_each": _check_for_each,
    "wait": _check_wait,
}


def _seconds(value: Any) -> float | None:
    """A duration; None where there is none, or one that the format refuses."""
    try:
        return None if value is None else seconds_of(value)
    except ValueError:
        return None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
