"""What the editor does with a definition's text: shows parts of it as rows and choices, and writes those back into it.

Only the part that was changed is written anew; comments and layout of the rest stay. What was written is read again and
compared: a text that cannot be changed in this way (anchors, a mapping in braces that is no JSON) is left as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import yaml

from . import checks
from .definition import ParameterType
from .models import Module

TYPES: dict[str, str] = {
    "text": "Text", "date": "Date", "number": "Number", "email": "Email Address", "boolean": "Yes or no",
    "choice": "Choice", "choices": "Multiple choice", "file": "File", "object": "Object", "list": "List",
}  # fmt: skip
assert set(TYPES) == set(get_args(ParameterType))
BEFORE_ACCESS = ("description", "title", "name")
BEFORE_PARAMETERS = ("access", *BEFORE_ACCESS)
MAX_ROWS = 100


class NotEditable(ValueError):
    """This text is to be changed by hand. Says why."""


@dataclass(frozen=True)
class Row:
    """A start parameter as a row. ``index``: its place in the text, None for a new one."""

    index: int | None
    name: str
    type: str
    api_name: str
    required: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "index": self.index, "name": self.name, "type": self.type, "api_name": self.api_name,
            "required": self.required,
        }  # fmt: skip


# -- Reading ---------------------------------------------------------------------------------------------------------
def data_of(source: str) -> dict[str, Any]:
    """The text as data; empty where it cannot be read."""
    data, faults = checks.read(source)
    return data if isinstance(data, dict) and not faults else {}


def rows_of(data: Mapping[str, Any]) -> list[Row]:
    """The start parameters of a definition, however incomplete."""
    found = data.get("start_parameters")
    return [
        Row(index, text_of(item, "name"), text_of(item, "type") or "text", text_of(item, "api_name"),
            item.get("required") is True)
        for index, item in enumerate(found if isinstance(found, list) else [])
        if isinstance(item, dict)
    ][:MAX_ROWS]  # fmt: skip


def text_of(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    return "" if value is None else str(value)


def access_of(data: Mapping[str, Any]) -> str:
    found = data.get("access", Module.Access.API_KEY.value)
    return found if found in Module.Access.values else ""


def rows_from(post: Mapping[str, str]) -> list[Row]:
    """The rows of a posted form; one without any name is none."""
    found = []
    count = post.get("p-count", "")
    for number in range(min(int(count), MAX_ROWS + 1) if re.fullmatch(r"\d{1,4}", count) else 0):
        name, api_name, index = (post.get(f"p-{number}-{part}", "").strip() for part in ("name", "api_name", "index"))
        kind = post.get(f"p-{number}-type", "text")
        if name or api_name:
            found.append(
                Row(int(index) if re.fullmatch(r"\d{1,4}", index) else None, name or api_name,
                    kind if kind in TYPES else "text", api_name or api_name_for(name), f"p-{number}-required" in post)
            )  # fmt: skip
    return found


def api_name_for(name: str) -> str:
    """``Employee Name`` → ``employee_name``."""
    found = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:60]
    return found if found[:1].isalpha() else f"p_{found}".strip("_")


# -- Writing ---------------------------------------------------------------------------------------------------------
def with_access(source: str, access: str) -> str:
    """The text with another ``access``. Raises `NotEditable`."""
    data, root = _parsed(source)
    node = _values(root).get("access")
    if node is not None:
        begin, end = node.start_mark.index, node.end_mark.index
        quoted = f'"{access}"' if root.flow_style else access
        new = source[:begin] + (quoted if begin < end else f" {quoted}") + source[end:]
    elif root.flow_style:
        at = root.start_mark.index + 1
        new = f'{source[:at]}"access": "{access}", {source[at:].lstrip()}'
    else:
        new = _with_lines(source, root, BEFORE_ACCESS, [f"access: {access}"])
    return _compared(new, {**data, "access": access})


def with_parameters(source: str, rows: list[Row]) -> str:
    """The text with these start parameters: members that a row does not show stay. Raises `NotEditable`."""
    data, root = _parsed(source)
    old = data.get("start_parameters")
    old = old if isinstance(old, list) else []
    wanted = [_item(row, old) for row in rows]
    expected = {**data, "start_parameters": wanted} if wanted else _without(data, "start_parameters")
    if expected == data:
        return source
    if root.flow_style:
        return _compared(_as_json(source, expected), expected)
    return _compared(_with_block(source, root, old, rows, wanted), expected)


def _item(row: Row, old: list[Any]) -> dict[str, Any]:
    known = row.index is not None and row.index < len(old) and isinstance(old[row.index], dict)
    base: dict[str, Any] = dict(old[row.index]) if known and row.index is not None else {}
    shown = {"name": row.name, "api_name": row.api_name, "type": row.type}
    # What the text leaves out stays out until somebody says something else.
    unsaid = {name for name, value in shown.items() if known and name not in base and value in {"", "text"}}
    found = {**base, **{name: value for name, value in shown.items() if name not in unsaid}}
    if row.required:
        found["required"] = True
    elif found.get("required") is not False:
        found.pop("required", None)
    return found


def _with_block(source: str, root: Any, old: list[Any], rows: list[Row], wanted: list[dict[str, Any]]) -> str:
    """The text with its block of start parameters written anew, but for the items that stay as they are."""
    indent = " " * root.start_mark.column
    node = _values(root).get("start_parameters")
    if node is None:
        lines = ["start_parameters:", *(f"{indent}  - {_flow(item)}" for item in wanted)]
        return _with_lines(source, root, BEFORE_PARAMETERS, lines)
    begin = _line_start(source, _key(root, "start_parameters").start_mark.index)
    head, chunks = f"{indent}start_parameters:\n", []
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:  # a comment behind the key stays
        head = source[begin : source.index("\n", begin) + 1]
        chunks = _chunks(source, node, begin + len(head))
    dash = re.search(r"^ *(?=-)", chunks[0], re.MULTILINE) if chunks else None
    before = dash[0] if dash else f"{indent}  "
    block = ""
    for row, item in zip(rows, wanted, strict=True):
        kept = row.index is not None and row.index < len(chunks) and old[row.index] == item
        block += chunks[row.index] if kept and row.index is not None else f"{before}- {_flow(item)}\n"
    return source[:begin] + (head + block if block else "") + source[_end_of(source, node) :]


def _chunks(source: str, node: Any, top: int) -> list[str]:
    """The lines of each item of a block sequence, with the comments above it; the first item's begin at ``top``."""
    starts = []
    for item in node.value:
        match = re.search(r"-\s*$", source[: item.start_mark.index])
        if match is None:
            raise NotEditable("Its start parameters are written in a way that only you can change: do so in the text.")
        starts.append(_line_start(source, match.start()))
    ends = [
        _trimmed(source, begin, end) for begin, end in zip(starts, [*starts[1:], _end_of(source, node)], strict=True)
    ]
    tops = [top, *ends[:-1]]
    found = [source[top:end] for top, end in zip(tops, ends, strict=True)]
    return [chunk if chunk.endswith("\n") else f"{chunk}\n" for chunk in found]


def _end_of(source: str, node: Any) -> int:
    """Where the lines of a value end; what follows are blank lines, comments, or the next key."""
    begin, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return _trimmed(source, _line_start(source, begin), end)
    if source[begin:end].endswith("\n"):  # a block of text ends with its line
        return int(end)
    after = source.find("\n", end)
    return len(source) if after < 0 else after + 1


def _trimmed(source: str, begin: int, end: int) -> int:
    """The end of a run of lines without the blank ones and comments at its end."""
    lines = source[begin:end].splitlines(keepends=True)
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    return begin + sum(map(len, lines))


def _with_lines(source: str, root: Any, after: tuple[str, ...], lines: list[str]) -> str:
    """The text with further lines below the first of these keys that is there, or at its beginning."""
    indent = " " * root.start_mark.column
    values = _values(root)
    node = next((values[name] for name in after if name in values), None)
    at = _line_start(source, root.start_mark.index) if node is None else _end_of(source, node)
    before = source[:at]
    if before and not before.endswith("\n"):
        before += "\n"
    return before + "".join(f"{line if line.startswith(' ') else indent + line}\n" for line in lines) + source[at:]


def _flow(item: dict[str, Any]) -> str:
    text = yaml.safe_dump(item, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.strip()


def _as_json(source: str, data: dict[str, Any]) -> str:
    try:
        json.loads(source)
    except ValueError:
        raise NotEditable("It is written in braces, and is no JSON: change it in the text.") from None
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _parsed(source: str) -> tuple[dict[str, Any], Any]:
    """The text as data, and as YAML's tree with the places of its parts."""
    data, faults = checks.read(source)
    if faults or not isinstance(data, dict):
        raise NotEditable("The text cannot be read: mend it first.")
    try:
        root = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        root = None
    if not isinstance(root, yaml.MappingNode):
        raise NotEditable("The text cannot be changed here: do it by hand.")
    return data, root


def _values(root: Any) -> dict[str, Any]:
    return {key.value: value for key, value in root.value if isinstance(key, yaml.ScalarNode)}


def _key(root: Any, name: str) -> Any:
    return next(key for key, _ in root.value if key.value == name)


def _without(data: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != name}


def _line_start(source: str, at: int) -> int:
    return source.rfind("\n", 0, at) + 1


def _compared(source: str, expected: dict[str, Any]) -> str:
    data, faults = checks.read(source)
    if faults or data != expected:
        raise NotEditable("The text is written in a way that cannot be changed here: do it by hand.")
    return source
