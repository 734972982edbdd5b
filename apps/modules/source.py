"""From the text of a definition to its data, with the line of everything in it. Pure: no Django.

YAML is read by the core schema of YAML 1.2 (chapter 10.3): ``on``, ``off``, ``yes``, ``no``, dates and ``12:30`` are texts,
``0o17`` and ``0x1f`` numbers. A text that begins with ``{`` and is JSON (RFC 8259) is read as JSON, for the numbers' and
escapes' sake. Both give a stream of events, and one builder makes data of it: bounded in depth and size, keys once each.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from json.decoder import scanstring  # type: ignore[attr-defined] # public in its docstring, missing in the stubs
from typing import Any

import yaml

from .definition import MAX_BYTES

MAX_DEPTH = 100  # of lists and objects in one another
# Characters and values once every alias stands for what it names: a "billion laughs" ends here.
MAX_EXPANDED = 2 * MAX_BYTES
MAX_DIGITS = 300  # of an integer: as many as a float of that size has
MOST_FAULTS = 200
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # no database of ours takes a NUL, no UTF-8 half of a surrogate pair

INTEGER = re.compile(r"[-+]?[0-9]+")
OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
STANDARD_TAG = "tag:yaml.org,2002:"
JSON_TOKEN = re.compile(r'[ \t\r\n,:]*([{}\[\]"]|[^ \t\r\n,:{}\[\]"]+)')

TOO_DEEP = f"Lists and objects stand in one another at most {MAX_DEPTH} deep."

Path = Iterable[str | int]


class SourceError(ValueError):
    """Why a text cannot be read, and in which line (from 1; None where that is not known)."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class Lines:
    """Where a value stands, and everything inside of it: by key, or by index."""

    line: int
    inner: dict[str | int, Lines] = field(default_factory=dict)

    def at(self, path: Path) -> int:
        """The line of what is at the path, or of the innermost thing around it."""
        found = self
        for part in path:
            if part not in found.inner:
                break
            found = found.inner[part]
        return found.line


@dataclass
class Document:
    """``faults`` are of the writing (a path, a line, a sentence); the data is complete even so, but for what they name."""

    data: Any
    lines: Lines
    faults: list[tuple[Path, int, str]]


@dataclass(frozen=True)
class _Event:
    """``kind`` is one of ``{ } [ ]``, ``value`` (a scalar), ``alias`` (``value`` names it)."""

    kind: str
    line: int
    value: Any = None
    text: str = ""  # of a scalar, as it would stand as a key
    anchor: str | None = None
    fault: str = ""


def read_document(source: str) -> Document:
    """Raises `SourceError` for what is too large, too deep, or cannot be read; single values that cannot be are faults."""
    _measure(source)
    builder = _Builder()
    is_json = source.lstrip("\ufeff \t\r\n").startswith("{") and _is_json(source)
    for event in _json_events(source) if is_json else _yaml_events(source):
        builder.take(event)
    return builder.finish()


def _measure(source: str) -> None:
    if len(source) > MAX_BYTES:
        raise SourceError("A definition is at most 1 MB.")
    bad = UNSTORABLE.search(source)
    if bad:
        line = source.count("\n", 0, bad.start()) + 1
        raise SourceError("There is a NUL character or half of a surrogate pair in the text.", line)
    if len(source.encode()) > MAX_BYTES:
        raise SourceError("A definition is at most 1 MB.")


# -- JSON ------------------------------------------------------------------------------------------------------------
def _is_json(source: str) -> bool:
    """Numbers are looked at later; `SourceError` for what Python would take and JSON does not."""
    try:
        json.loads(source.lstrip("\ufeff"), parse_int=len, parse_float=len, parse_constant=_refuse_constant)
    except RecursionError:
        raise SourceError(TOO_DEEP) from None
    except json.JSONDecodeError:
        return False  # YAML in braces, or neither
    return True


def _refuse_constant(name: str) -> Any:
    raise SourceError(f"{name} is no number of JSON.")


def _json_events(source: str) -> Iterator[_Event]:
    """Of a text that `_is_json`."""
    position, line, counted = source.find("{"), 1, 0
    while match := JSON_TOKEN.match(source, position):
        token, start = match[1], match.start(1)
        line, counted = line + source.count("\n", counted, start), start
        position = match.end()
        if token == '"':
            text, position = scanstring(source, position, True)
            yield _text(text, line)
        elif token in "{}[]":
            yield _Event(token, line)
        else:
            yield _plain(token, line)


# -- YAML ------------------------------------------------------------------------------------------------------------
def _yaml_events(source: str) -> Iterator[_Event]:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = 0
    try:
        for event in yaml.parse(source, Loader=loader):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise SourceError("There is a second document: one file holds one module.", _line(event))
            elif isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
                yield _of_yaml(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        last = source.rstrip().count("\n") + 1  # an end that comes too early is marked after it
        raise SourceError(_sentence(error, mark, source), min(mark.line + 1, last) if mark else None) from None
    except yaml.YAMLError as error:
        raise SourceError(_sentence(error, None, source), _line_of_reader(error, source)) from None


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _sentence(error: Any, mark: Any, source: str) -> str:
    if mark is not None and "".join(source.split("\n")[mark.line : mark.line + 1])[mark.column :].startswith("\t"):
        return "There is a tab where YAML wants blanks."
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    return f"This cannot be read: {problem}{f' ({context})' if context else ''}."


def _line_of_reader(error: Any, source: str) -> int | None:
    position = getattr(error, "position", None)
    return source.count("\n", 0, position) + 1 if isinstance(position, int) else None


def _of_yaml(event: Any) -> _Event:
    line = _line(event)
    if isinstance(event, yaml.AliasEvent):
        return _Event("alias", line, event.anchor)
    if isinstance(event, yaml.CollectionEndEvent):
        return _Event("}" if isinstance(event, yaml.MappingEndEvent) else "]", line)
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event, line)
    kind, tag = ("{", "map") if isinstance(event, yaml.MappingStartEvent) else ("[", "seq")
    fault = "" if event.tag in {None, "!", STANDARD_TAG + tag} else _strange(event.tag)
    return _Event(kind, line, anchor=event.anchor, fault=fault)


def _scalar(event: Any, line: int) -> _Event:
    is_plain, tag = event.implicit[0], event.tag
    if tag in {None, "!"} or tag == STANDARD_TAG + "str":
        found = _plain(event.value, line) if is_plain and tag is None else _text(event.value, line)
    else:
        found = _plain(event.value, line)
        names = {bool: "bool", int: "int", float: "float", type(None): "null"}
        if tag != STANDARD_TAG + names.get(type(found.value), ""):
            found = _text(event.value, line, _strange(tag))
    return found if event.anchor is None else _Event("value", line, found.value, found.text, event.anchor, found.fault)


def _strange(tag: str) -> str:
    return f"The tag {tag[:60]} means nothing here: leave it out."


def _text(text: str, line: int, fault: str = "") -> _Event:
    if UNSTORABLE.search(text):
        fault = "A NUL character or half of a surrogate pair cannot be kept."
        text = UNSTORABLE.sub("\ufffd", text)
    return _Event("value", line, text, text, fault=fault)


def _plain(text: str, line: int) -> _Event:
    """What a scalar without quotes means."""
    if text in CONSTANTS:
        return _Event("value", line, CONSTANTS[text], text)
    if NOT_FINITE.fullmatch(text):
        return _Event("value", line, 0, text, fault=f"{text} is no number of JSON.")
    try:
        if len(text) > MAX_DIGITS and (INTEGER.fullmatch(text) or OTHER_BASE.fullmatch(text)):
            raise ValueError
        if INTEGER.fullmatch(text):
            return _Event("value", line, int(text), text)
        if OTHER_BASE.fullmatch(text):
            return _Event("value", line, int(text, 0), text)
        if FLOAT.fullmatch(text):
            number = float(text)
            fault = "" if math.isfinite(number) else "This number is too large."
            return _Event("value", line, number if not fault else 0, text, fault=fault)
    except ValueError:
        return _Event("value", line, 0, "", fault="This number has too many digits.")
    return _text(text, line)


# -- Data ------------------------------------------------------------------------------------------------------------
@dataclass
class _Frame:
    """A list or object that is being read. ``key`` is that of the value to come; None where a key comes first."""

    value: Any
    lines: Lines
    size: int = 1
    height: int = 1  # of lists and objects in one another, itself included
    key: str | int | None = None
    key_line: int = 0
    anchor: str | None = None


class _Builder:
    def __init__(self) -> None:
        self.stack: list[_Frame] = []
        self.faults: list[tuple[Path, int, str]] = []
        self.anchors: dict[str, tuple[Any, int, int]] = {}
        self.root: tuple[Any, Lines] | None = None

    def take(self, event: _Event) -> None:
        if event.fault:
            self._fault(event.line, event.fault)
        if event.kind in "}]":
            self._close()
        elif self._wants_key():
            self._take_key(event)
        elif event.kind in "{[":
            self._open(event)
        elif event.kind == "alias":
            self._put_alias(event)
        else:
            size = 1 + len(event.text)
            if event.anchor is not None:
                self.anchors[event.anchor] = (event.value, size, 0)
            self._put(event.value, Lines(event.line), size, 0)

    def finish(self) -> Document:
        if self.root is None:
            raise SourceError("There is nothing here.", 1)
        return Document(*self.root, self.faults)

    def _wants_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].value, dict) and self.stack[-1].key is None

    def _take_key(self, event: _Event) -> None:
        frame = self.stack[-1]
        if event.kind in "{[":
            raise SourceError("A key is a text. An expression in a value, {{ … }}, stands in quotes.", event.line)
        if event.kind == "alias":
            raise SourceError("A key is written out, not an alias.", event.line)
        frame.key, frame.key_line = event.text, event.line
        frame.size += 1 + len(event.text)
        if event.text in frame.value:
            first = frame.lines.inner[event.text].line
            self._fault(event.line, f"{event.text[:60]} stands there twice, first in line {first}.")

    def _open(self, event: _Event) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise SourceError(TOO_DEEP, event.line)
        if event.anchor is not None:
            self.anchors.pop(event.anchor, None)
        is_list = event.kind == "["
        line = self.stack[-1].key_line if self.stack and not self._in_list() else event.line
        self.stack.append(_Frame([] if is_list else {}, Lines(line), key=0 if is_list else None, anchor=event.anchor))

    def _close(self) -> None:
        frame = self.stack.pop()
        if frame.anchor is not None:
            self.anchors[frame.anchor] = (frame.value, frame.size, frame.height)
        self._put(frame.value, frame.lines, frame.size, frame.height)

    def _put_alias(self, event: _Event) -> None:
        if event.value not in self.anchors:
            raise SourceError(f"The alias *{event.value[:60]} names nothing that ended before it.", event.line)
        value, size, height = self.anchors[event.value]
        if len(self.stack) + height > MAX_DEPTH:
            raise SourceError(TOO_DEEP, event.line)
        self._put(value, Lines(event.line), size, height)  # whatever is in it stands at the alias

    def _put(self, value: Any, lines: Lines, size: int, height: int) -> None:
        if not self.stack:
            self.root = (value, lines)
            return
        frame = self.stack[-1]
        frame.size += size
        frame.height = max(frame.height, height + 1)
        if frame.size > MAX_EXPANDED:
            raise SourceError("With its aliases written out, the definition is larger than 1 MB.", lines.line)
        assert frame.key is not None
        if isinstance(frame.value, list):
            frame.value.append(value)
            frame.lines.inner[frame.key] = lines
            frame.key = len(frame.value)
        else:
            frame.value.setdefault(frame.key, value)
            lines = Lines(frame.key_line, lines.inner)
            frame.lines.inner.setdefault(frame.key, lines)
            frame.key = None

    def _in_list(self) -> bool:
        return isinstance(self.stack[-1].value, list)

    def _fault(self, line: int, message: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            path = [frame.key for frame in self.stack if frame.key is not None]
            self.faults.append((path, line, message))
