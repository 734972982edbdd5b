"""What a step is carried out with: its texts with every expression filled in, as JSON.

Everything here raises `apps.lib.expressions.ExpressionError` or `NotPlain`, which both fail the step for good: another try
would evaluate the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apps.modules.definition import SAFE_METHODS, Approve, Form, FormField, Page, Request, Step

from .commands import Facts
from .plain import NotPlain, shown, text_of

Fill = Callable[[Any], Any]


def of_step(step: Step, fill: Fill, facts: Facts) -> tuple[dict[str, Any], bool]:
    """The inputs of a request, a tool or code, and whether it may be done twice."""
    if step.request is not None:
        return _request(step.request, fill)
    if step.tool is not None:
        inputs = {"name": step.tool, "params": members(step.with_, fill), "connection": step.connection}
        return inputs, facts.is_safe(step.tool)
    return {"name": step.code, "params": members(step.with_, fill)}, False


def members(given: Any, fill: Fill) -> dict[str, Any]:
    """``with``: an object, or an expression of one."""
    found = fill(given)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise NotPlain(f"with: an object was expected, not {str(found)[:100]!r}.")
    return found


def _request(request: Request, fill: Fill) -> tuple[dict[str, Any], bool]:
    inputs: dict[str, Any] = {
        "method": text_of(fill(request.method)).upper(),
        "url": text_of(fill(request.url)),
        "headers": members(request.headers, fill),
        "query": members(request.query, fill),
        "accept": list(request.accept),
        "follow": request.follow,
    }
    if request.json_body is not None:
        inputs["json"] = fill(request.json_body)
    elif request.form is not None:
        inputs["form"] = members(request.form, fill)
    elif request.body is not None:
        inputs["body"] = text_of(fill(request.body))
    has_key = any(name.lower() == "idempotency-key" and value for name, value in inputs["headers"].items())
    return inputs, inputs["method"] in SAFE_METHODS or has_key


def of_form(form: Form, fill: Fill) -> dict[str, Any]:
    return {
        "title": shown(fill(form.title)),
        "text": shown(fill(form.text)),
        "pages": [_page(page, fill) for page in form.all_pages],
        "submit": form.submit,
        "email": form.email,
        "on_deadline": form.on_deadline,
    }


def _page(page: Page, fill: Fill) -> dict[str, Any]:
    return {
        "title": shown(fill(page.title)),
        "text": shown(fill(page.text)),
        "fields": [_field(field, fill) for field in page.fields],
    }


def _field(field: FormField, fill: Fill) -> dict[str, Any]:
    options = fill(field.options)
    if not (options is None or isinstance(options, list)):
        raise NotPlain(f"options of {field.name}: a list was expected, not {str(options)[:100]!r}.")
    return {
        **field.model_dump(mode="json"),
        "label": shown(fill(field.label)),
        "help": shown(fill(field.help)),
        "placeholder": shown(fill(field.placeholder)),
        "default": fill(field.default),
        "options": options,
    }


def of_approval(approve: Approve, fill: Fill) -> dict[str, Any]:
    return {
        "title": shown(fill(approve.title)),
        "text": shown(fill(approve.text)),
        "quorum": approve.quorum,
        "not_starter": approve.not_starter,
        "reason_on_reject": approve.reason_on_reject,
        "email": approve.email,
        "on_deadline": approve.on_deadline,
    }


def assignees(given: Any, fill: Fill) -> list[str]:
    """One list of texts, each once, of a text with commas, a list, or expressions of either.

    Raises `NotPlain` where somebody was meant and the expressions name nobody: what is for nobody is for everybody.
    """
    found: list[str] = []
    for item in _flat(fill(given)):
        found.extend(part.strip() for part in text_of(item).split(","))
    people = list(dict.fromkeys(filter(None, found)))
    if given and not people:
        raise NotPlain("assignees: the expressions name nobody.")
    return people


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [inner for item in value for inner in _flat(item)]
    return [value]
