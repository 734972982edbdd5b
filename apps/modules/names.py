"""What expressions of a definition name: start parameters, steps that have ended by then, what ``as`` calls. Pure: no Django."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apps.lib import expressions

from .format import Place, Report, did_you_mean, texts
from .order import Order, Reached, Written

ROOTS = ("start", "steps", "run", "now")
OF_RUN = ("id", "attempt", "user")
OF_STEP = ("output", "error", "status")
OF_HOOK = ("body", "headers", "query")
WORDS = frozenset({"true", "false", "none", "null", "and", "or", "not", "in", "is", "if", "else"})  # of expressions
# What of a step may hold expressions. ``with`` has its own place in each kind.
KEYS = ("when", "request", "form", "approve", "condition", "switch", "for_each", "set", "wait", "fail", "with")
# Where one value is wanted that is no text: an expression with nothing around it.
OUTPUTS = {"request": ("status", "headers", "body"), "approve": ("approved", "by", "reason"),
           "condition": ("chosen",), "switch": ("chosen",)}  # fmt: skip


class Names:
    """Checks every expression of a definition's data (with mentions resolved, `with_mentions`)."""

    def __init__(self, data: dict[str, Any], order: Order, report: Report) -> None:
        self.data = data
        self.order = order
        self.report = report
        parameters = data.get("start_parameters")
        listed = parameters if isinstance(parameters, list) else []
        self.start = [item.get("api_name") for item in listed if isinstance(item, dict)]
        self.displayed = [
            item["name"].strip() for item in listed if isinstance(item, dict) and isinstance(item.get("name"), str)
        ]

    def check(self) -> None:
        for step in self.order.steps:
            self._check_step(step)
        self._check_outside("result", self.order.end)
        self._check_outside("extended_payloads", self.order.end)
        self._check_outside("end", self.order.end)
        self._check_hook()

    def _check_step(self, step: Written) -> None:
        state = self.order.before[step.index]
        loops = {item_name(loop): loop for loop in step.loops}
        for key in KEYS:
            if key in step.raw:
                for path, text in texts(step.raw[key], (*step.path, key)):
                    for names in self._names_of(path, text):
                        self._check_path(names, path, step, state, loops)
        if step.kind == "for_each":
            self._check_item_name(step, loops)

    def _check_outside(self, key: str, state: Reached) -> None:
        for path, text in texts(self.data.get(key), (key,)):
            for names in self._names_of(path, text):
                if not (key != "result" and names[0] == "result"):  # what comes after it may tell the result
                    self._check_path(names, path, None, state, {})

    def _check_hook(self) -> None:
        hook = self.data.get("hook")
        for key in ("parameters", "user", "when") if isinstance(hook, dict) else ():
            for path, text in texts(hook.get(key), ("hook", key)):  # type: ignore[union-attr] # is a dict here
                for names in self._names_of(path, text):
                    if names[0] not in OF_HOOK:
                        self.report(path, f"There is no {names[0]} in a hook: only {', '.join(OF_HOOK)}.")

    def _names_of(self, path: Place, text: str) -> Iterator[tuple[str, ...]]:
        """The paths of names of a text, once its expressions can be read; mentions of nobody are reported too."""
        if "@[" in text:
            for name in expressions.unknown_mentions(text, dict.fromkeys(self.displayed, "")):
                self.report(path, f"There is no start parameter named {name}.{did_you_mean(name, self.displayed)}")
                return
        if not expressions.has_expression(text):
            return
        fault = expressions.check(text)
        if fault is not None:
            self.report(path, f"{fault}.")
            return
        yield from sorted(expressions.names_in(text))

    # -- One path ----------------------------------------------------------------------------------------------------
    def _check_path(
        self, names: tuple[str, ...], path: Place, step: Written | None, state: Reached, loops: dict[str, Written]
    ) -> None:
        root, rest = names[0], names[1:]
        if root in loops:
            return
        if root == "start":
            self._known(rest, [name for name in self.start if isinstance(name, str)], "start parameter", path)
        elif root == "run":
            self._known(rest, OF_RUN, "member of run", path)
        elif root == "steps":
            if rest:
                self._check_reference(rest, path, step, state)
        elif root != "now":
            known = [*ROOTS, *loops]
            hint = did_you_mean(root, known)
            if not hint and root in self.order.by_id:
                hint = f" Did you mean steps.{root}.output?"
            elif not hint and root in self.start:
                hint = f" Did you mean start.{root}?"
            self.report(path, f"There is no {root[:60]} here: only {', '.join(known)}.{hint}")

    def _known(self, rest: tuple[str, ...], known: Any, what: str, path: Place) -> None:
        if rest and rest[0] not in known:
            self.report(path, f"There is no {what} {rest[0][:60]}.{did_you_mean(rest[0], known)}")

    def _check_reference(self, rest: tuple[str, ...], path: Place, step: Written | None, state: Reached) -> None:
        target = self.order.by_id.get(rest[0])
        if target is None:
            self.report(path, f"There is no step {rest[0][:60]}.{did_you_mean(rest[0], self.order.by_id)}")
            return
        why = self._why_not(target, step, state, rest[1] if len(rest) > 1 else "")
        if why:
            self.report(path, why)
        elif len(rest) > 1 and rest[1] not in OF_STEP:
            hint = did_you_mean(rest[1], OF_STEP) or f" Did you mean steps.{target.id}.output.{rest[1][:60]}?"
            self.report(path, f"A step has {', '.join(OF_STEP)}, and no {rest[1][:60]}.{hint}")
        elif len(rest) > 2 and rest[1] == "output":
            known = fields_of(target)
            if known is not None and rest[2] not in known:
                near = did_you_mean(rest[2], known)
                self.report(path, f"The output of {target.id} has no {rest[2][:60]}.{near}")

    def _why_not(self, target: Written, step: Written | None, state: Reached, member: str) -> str:
        """Why a step cannot be referred to here; an empty text where it can be."""
        name = target.id
        if target is step:
            return f"{name} refers to itself, before it has ended."
        if step is not None and target in step.outer:
            return f"{name} has not ended while the steps inside of it run."
        outside = [loop for loop in target.loops if step is None or loop not in step.loops]
        if outside:
            loop = outside[-1].id
            return (
                f"{name} runs inside of {loop}, once for each item: steps.{loop}.output lists what its last step gave."
            )
        if state is None:
            return ""
        bit = 1 << target.index
        if state.ended & bit or (member in ("error", "status") and state.begun & bit):
            return ""
        if step is not None and target.index > step.index:
            return f"{name} comes later."
        return (
            f"{name} has never ended when this is reached: it is in another branch, fails first, or is never reached."
        )

    def _check_item_name(self, step: Written, loops: dict[str, Written]) -> None:
        name, path = item_name(step), (*step.path, "as")
        if name in ROOTS or name.lower() in WORDS:
            self.report(path, f"{name} means something else in expressions: choose another name.")
        elif name in loops:
            self.report(path, f"{name} is the item of {loops[name].id} already: choose another name.")


def item_name(step: Written) -> str:
    given = step.raw.get("as")
    return given if isinstance(given, str) else "item"


def fields_of(step: Written) -> list[str] | None:
    """The members that the output of a step has; None where that is not known beforehand."""
    kind, raw = step.kind, step.raw
    if kind in OUTPUTS:
        return list(OUTPUTS[kind])
    if kind == "set" and isinstance(raw["set"], dict):
        return list(raw["set"])
    if kind == "form" and isinstance(raw["form"], dict):
        return [name for name in _field_names(raw["form"]) if isinstance(name, str)]
    return None


def _field_names(form: dict[str, Any]) -> Iterator[Any]:
    pages = form.get("pages")
    for page in [form, *(pages if isinstance(pages, list) else [])]:
        fields = page.get("fields") if isinstance(page, dict) else None
        for field in fields if isinstance(fields, list) else []:
            if isinstance(field, dict):
                yield field.get("name")
