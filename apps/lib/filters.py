"""What expressions may do with values: the tables of filters, tests and methods, and the work that one evaluation may do.

Pure: no Django. Every function is given the `Work` first and charges it before it touches anything, about one unit a
character and ten an item, so that no combination of them takes more than about a second or grows without bound. Values are
JSON, dates and times; nothing here changes what it is given. To add one: write the function, name it in its table, run
the tests, which tell the line that docs/expressions.md then needs.
"""

from __future__ import annotations

import base64 as base64_codec
import inspect
import json as json_codec
import math
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote_plus, urlencode
from zoneinfo import ZoneInfo

from . import pattern as patterns

MOST_WORK = 20_000_000  # units of one evaluation: measured, half a second and less
MOST_SECONDS = 0.7  # of this thread's processor time, should a unit ever cost more than it was measured to
MOST_DEPTH = 200  # of lists and objects in one another
MOST_BITS = 1024  # of a whole number that was calculated
MOST_PARTS = 200_000  # of a text that is split
LOOK_EVERY = 250_000  # units between two looks at the clock


class ExpressionError(ValueError):
    """An expression that cannot be compiled, or that failed with the values it was given. Its text holds no values."""


class Missing:
    """Stands for what is not there, until `default` or `is defined` asks; anything else fails, naming the path."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __bool__(self) -> bool:
        return False


class Work:
    """One evaluation: the names it sees, and how much it may still do."""

    __slots__ = ("_look", "_until", "left", "load_file", "names")

    def __init__(self, names: Mapping[str, Any], load_file: Callable[[str], bytes] | None = None) -> None:
        self.names = names
        self.load_file = load_file
        self.left = MOST_WORK
        self._look = MOST_WORK - LOOK_EVERY
        self._until = 0.0

    def charge(self, units: int) -> None:
        """Raises `ExpressionError` where the evaluation would do too much."""
        self.left -= units
        if self.left < self._look:
            if self.left < 0:
                raise ExpressionError("this is too much work, or grows too large")
            self._look = self.left - LOOK_EVERY
            self.look()

    def look(self) -> None:
        now = time.thread_time()
        if not self._until:
            self._until = now + MOST_SECONDS
        elif now > self._until:
            raise ExpressionError("this takes too long")


# -- What a value is ---------------------------------------------------------------------------------------------------
def kind(value: Any) -> str:
    """What a person calls it."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", dict: "an object"}
    kinds |= {list: "a list", tuple: "a list", date: "a date", datetime: "a time", Missing: "missing"}
    return kinds.get(type(value), "a value of an unknown kind")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(work: Work, value: Any, cost: int = 1) -> str:
    if isinstance(value, Missing):
        raise ExpressionError(f"{value.path} is not there")
    if isinstance(value, str):
        work.charge(len(value) * cost)
        return value
    if isinstance(value, (int, float, date)) and not isinstance(value, bool):
        return as_text(work, value)
    raise ExpressionError(f"a text is needed, not {kind(value)}")


def _number(value: Any) -> int | float:
    if isinstance(value, (int, float)):
        return value
    raise ExpressionError(f"a number is needed, not {kind(value)}")


def _whole(value: Any, most: int = 10**9) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and -most <= value <= most:
        return value
    raise ExpressionError(f"a whole number up to {most} is needed, not {kind(value)}")


def _items(work: Work, value: Any, cost: int = 10) -> list[Any]:
    """A list's items, charged for each and for every text among them."""
    if not isinstance(value, (list, tuple)):
        raise ExpressionError(f"a list is needed, not {kind(value)}")
    work.charge(len(value) * cost)
    work.charge(sum(len(item) for item in value if isinstance(item, str)))
    return list(value)


def _object(work: Work, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ExpressionError(f"an object is needed, not {kind(value)}")
    work.charge(len(value) * 10)
    return value


def bounded(value: Any) -> Any:
    """A calculated number, if it is one that JSON has and not too large."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ExpressionError("the number is too large")
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise ExpressionError("the result is not a number")
    return value


def plain(work: Work, value: Any, depth: int = 0) -> Any:
    """A copy made of JSON's kinds alone, dates and times as ISO 8601. Raises `ExpressionError`."""
    if value is None or isinstance(value, (bool, int)):
        return value
    work.charge(10)
    if isinstance(value, str):
        work.charge(len(value) // 8)
        return value
    if isinstance(value, float):
        return bounded(value)
    if depth > MOST_DEPTH:
        raise ExpressionError(f"lists and objects stand in one another more than {MOST_DEPTH} deep")
    if isinstance(value, (list, tuple)):
        work.charge(len(value) * 10)
        return [plain(work, item, depth + 1) for item in value]
    if isinstance(value, dict):
        work.charge(len(value) * 20)
        return {_key(key): plain(work, member, depth + 1) for key, member in value.items()}
    if isinstance(value, date):
        return _iso(value)
    if isinstance(value, Missing):
        raise ExpressionError(f"{value.path} is not there")
    raise ExpressionError(f"{type(value).__name__} is no value that JSON has")


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise ExpressionError("an object's keys are texts")
    return key


def as_text(work: Work, value: Any) -> str:
    """A value among text: null is empty; booleans, lists and objects are JSON; dates and times ISO 8601."""
    if isinstance(value, str):
        work.charge(len(value))
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if is_number(value):
        work.charge(100)
        return str(bounded(value))
    if isinstance(value, date):
        return _iso(value)
    return _dump(work, value)


def _dump(work: Work, value: Any, indent: int | None = None) -> str:
    text = json_codec.dumps(plain(work, value), ensure_ascii=False, allow_nan=False, indent=indent)
    work.charge(len(text))
    return text


def dig(work: Work, value: Any, path: Any, shown: str = "") -> Any:
    """What ``a.b.0`` leads to inside of a value, or `Missing`."""
    if isinstance(path, int) and not isinstance(path, bool):
        path = str(bounded(path))
    if not isinstance(path, str) or len(path) > 500:
        raise ExpressionError("a path is a text of up to 500 characters, as in 'address.city'")
    work.charge(10 + len(path))
    for name in path.split("."):
        value = attribute(value, name, shown or path)
    return value


def attribute(value: Any, name: str, path: str) -> Any:
    """``value.name``: an object's member of that key, a list's item of that number, a part of a date; or `Missing`."""
    if isinstance(value, dict):
        return value[name] if name in value else Missing(path)
    if isinstance(value, Missing):
        return value
    if isinstance(value, (list, tuple)):
        digits = name.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) < 10 and -len(value) <= int(name) < len(value):
            return value[int(name)]
    elif (isinstance(value, date) and name in DATE_PARTS) or (isinstance(value, datetime) and name in TIME_PARTS):
        return getattr(value, name)
    return Missing(path)


DATE_PARTS = frozenset({"year", "month", "day"})
TIME_PARTS = frozenset({"hour", "minute", "second"})


# -- Comparing ---------------------------------------------------------------------------------------------------------
def equal(work: Work, one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, str) and isinstance(other, str):
        work.charge(1 + min(len(one), len(other)) // 16)
        return one == other
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        work.charge(10 * len(one))
        return len(one) == len(other) and all(equal(work, a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        work.charge(10 * len(one))
        return one.keys() == other.keys() and all(equal(work, member, other[key]) for key, member in one.items())
    if isinstance(one, date) or isinstance(other, date):
        return _as_times(one, other, lambda a, b: bool(a == b))
    return type(one) is type(other) is type(None) or bool(
        isinstance(one, (int, float)) and isinstance(other, (int, float)) and one == other
    )


def _as_times(one: Any, other: Any, compare: Callable[[Any, Any], bool]) -> bool:
    try:
        return compare(_time(one), _time(other))
    except ExpressionError:
        return False


def less(work: Work, one: Any, other: Any) -> bool:
    """Whether one stands before the other: two numbers, two texts, or two times, one of which may be a text."""
    if isinstance(one, str) and isinstance(other, str):
        work.charge(1 + min(len(one), len(other)) // 16)
        return one < other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return one < other
    if isinstance(one, date) or isinstance(other, date):
        return _time(one) < _time(other)
    raise ExpressionError(f"{kind(one)} and {kind(other)} have no order")


def contains(work: Work, where: Any, what: Any) -> bool:
    """``what in where``: part of a text, an item of a list, a key of an object."""
    if isinstance(where, str):
        if not isinstance(what, str):
            raise ExpressionError(f"only a text is in a text, not {kind(what)}")
        work.charge(len(where) + len(what))
        return what in where
    if isinstance(where, dict):
        return isinstance(what, str) and what in where
    return any(equal(work, item, what) for item in _items(work, where))


def _order(work: Work, items: list[Any], keys: list[Any]) -> list[int]:
    """The numbers of the items in the order of their keys, which are all of one kind."""
    for key in keys:
        work.charge(50 + (len(key) if isinstance(key, str) else 0))
    kinds = {str if isinstance(key, str) else date if isinstance(key, date) else float for key in keys}
    if len(kinds) > 1 or any(not isinstance(key, (str, int, float, date)) for key in keys):
        raise ExpressionError("what is sorted must be all texts, all numbers, or all dates and times")
    comparable = [_time(key) for key in keys] if kinds == {date} else keys
    return sorted(range(len(items)), key=comparable.__getitem__)


def _by(work: Work, items: list[Any], name: str | None) -> list[Any]:
    """The items, or the members that ``name`` leads to in them. Raises `ExpressionError` where one has none."""
    if name is None:
        return items
    found = [dig(work, item, name, f"{name} of an item") for item in items]
    for value in found:
        if isinstance(value, Missing):
            raise ExpressionError(f"{value.path} is not there")
    return found


# -- JSON, base64, texts -----------------------------------------------------------------------------------------------
def json(work: Work, value: Any, indent: int | None = None) -> str:
    return _dump(work, value, None if indent is None else max(0, min(_whole(indent), 8)))


def from_json(work: Work, value: Any) -> Any:
    try:
        return json_codec.loads(_text(work, value, 5), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ExpressionError("the text is not JSON") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def base64(work: Work, value: Any) -> str:
    if isinstance(value, dict):
        if isinstance(value.get("base64"), str):
            return str(value["base64"])
        return _encoded(work, _file(work, value))
    return _encoded(work, _text(work, value).encode())


def _file(work: Work, value: dict[Any, Any]) -> bytes:
    number = value.get("id")
    if not isinstance(number, str) or work.load_file is None:
        raise ExpressionError("base64 takes a text or a file")
    try:
        return work.load_file(number)
    except (LookupError, ValueError, OSError):
        raise ExpressionError("the file is not there") from None


def _encoded(work: Work, data: bytes) -> str:
    work.charge(len(data) // 4)
    return base64_codec.b64encode(data).decode()


def from_base64(work: Work, value: Any) -> str:
    try:
        return base64_codec.b64decode(_text(work, value), validate=True).decode()
    except ValueError:
        raise ExpressionError("the text is not base64 of a text") from None


def upper(work: Work, value: Any) -> str:
    return _text(work, value, 2).upper()


def lower(work: Work, value: Any) -> str:
    return _text(work, value, 2).lower()


def capitalize(work: Work, value: Any) -> str:
    return _text(work, value, 2).capitalize()


def title(work: Work, value: Any) -> str:
    return re.sub(r"[^\s\-(){}\[\]<]+", lambda match: match[0].capitalize(), _text(work, value, 15))


def trim(work: Work, value: Any, characters: str | None = None) -> str:
    return _text(work, value).strip(characters if characters is None else _text(work, characters)[:100])


def lstrip(work: Work, value: Any, characters: str | None = None) -> str:
    return _text(work, value).lstrip(characters if characters is None else _text(work, characters)[:100])


def rstrip(work: Work, value: Any, characters: str | None = None) -> str:
    return _text(work, value).rstrip(characters if characters is None else _text(work, characters)[:100])


def replace(work: Work, value: Any, old: str, new: str, count: int = -1) -> str:
    text, old, new = _text(work, value, 2), _text(work, old), _text(work, new)
    times = text.count(old) if count < 0 else min(text.count(old), _whole(count))
    work.charge(times * (len(new) + 2))
    return text.replace(old, new, times)


def split(work: Work, value: Any, separator: str | None = None, most: int = -1) -> list[str]:
    text = _text(work, value)
    if separator is not None and not _text(work, separator):
        raise ExpressionError("a text is split at a text that is not empty")
    parts = text.split(separator, _whole(most) if 0 <= most < MOST_PARTS else MOST_PARTS)
    return _parts(work, parts)


def splitlines(work: Work, value: Any) -> list[str]:
    return _parts(work, _text(work, value, 3).splitlines())


def _parts(work: Work, parts: list[str]) -> list[str]:
    if len(parts) > MOST_PARTS:
        raise ExpressionError(f"a text is split into {MOST_PARTS} parts at most")
    work.charge(10 * len(parts))
    return parts


def join(work: Work, value: Any, separator: str = "", attribute: str | None = None) -> str:
    texts = [as_text(work, item) for item in _by(work, _items(work, value), attribute)]
    work.charge(len(_text(work, separator)) * len(texts))
    return separator.join(texts)


def truncate(work: Work, value: Any, length: int = 255, end: str = "…") -> str:
    text, end, length = _text(work, value), _text(work, end), _whole(length)
    return text if len(text) <= length else text[: max(0, length - len(end))] + end


def slugify(work: Work, value: Any) -> str:
    text = _text(work, value, 30)
    plain_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain_text).strip("-")


def url_encode(work: Work, value: Any) -> str:
    if isinstance(value, dict):
        pairs = [(key, as_text(work, member)) for key, member in _object(work, value).items()]
        work.charge(5 * sum(len(text) for pair in pairs for text in pair))
        return urlencode(pairs)
    return quote_plus(_text(work, value, 5), safe="")


def starts_with(work: Work, value: Any, start: str) -> bool:
    return _text(work, value, 0).startswith(_text(work, start))


def ends_with(work: Work, value: Any, end: str) -> bool:
    return _text(work, value, 0).endswith(_text(work, end))


def find_text(work: Work, value: Any, part: str) -> int:
    return _text(work, value).find(_text(work, part))


def _engine(work: Work, pattern: Any, text: str) -> Any:
    if not isinstance(pattern, str) or len(pattern) > 500:
        raise ExpressionError("a pattern is a text of up to 500 characters")
    work.look()
    engine = _pattern(pattern)
    if engine is None:
        raise ExpressionError(
            "a pattern is a regular expression, not too large, without look-arounds and back references"
        )
    work.charge(1000 + (len(text) + 1) * (8 + int(engine.programsize) // 2))
    return engine


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> Any:
    if patterns.fault(pattern):
        return None
    try:
        return patterns.engine(pattern)
    except ValueError:
        return None


def regex_match(work: Work, value: Any, pattern: str) -> bool:
    text = _text(work, value)
    return _engine(work, pattern, text).fullmatch(text) is not None


def regex_search(work: Work, value: Any, pattern: str) -> bool:
    text = _text(work, value)
    return _engine(work, pattern, text).search(text) is not None


def regex_replace(work: Work, value: Any, pattern: str, replacement: str = "") -> str:
    text, replacement = _text(work, value), _text(work, replacement)
    pieces: list[str] = []
    end = 0
    for match in _engine(work, pattern, text).finditer(text):
        work.charge(60 + len(replacement))
        work.look()  # to find that nothing longer matches may take the rest of the text, each time
        pieces += text[end : match.start()], replacement
        end = match.end()
    return "".join([*pieces, text[end:]])


# -- Lists and objects -------------------------------------------------------------------------------------------------
def default(work: Work, value: Any, other: Any = "", if_empty: bool = False) -> Any:
    return other if isinstance(value, Missing) or value is None or (if_empty and not value) else value


def lookup(work: Work, value: Any, path: str, default: Any = Missing) -> Any:
    found = dig(work, value, path)
    return default if isinstance(found, Missing) and default is not Missing else found


def find(work: Work, value: Any, key: str, wanted: Any) -> Any:
    for item in _items(work, value):
        if equal(work, dig(work, item, key), wanted):
            return item
    return Missing(f"an item whose {key} is the wanted one")


def length(work: Work, value: Any) -> int:
    if isinstance(value, (str, list, tuple, dict)):
        return len(value)
    raise ExpressionError(f"{kind(value)} has no length")


def first(work: Work, value: Any) -> Any:
    return _end(value, 0)


def last(work: Work, value: Any) -> Any:
    return _end(value, -1)


def _end(value: Any, number: int) -> Any:
    if not isinstance(value, (str, list, tuple)):
        raise ExpressionError(f"a list is needed, not {kind(value)}")
    return value[number] if value else Missing("an item of the empty list")


def to_list(work: Work, value: Any) -> list[Any]:
    if isinstance(value, str):
        work.charge(10 * len(value))
        return list(value)
    return list(_object(work, value)) if isinstance(value, dict) else _items(work, value)


def reverse(work: Work, value: Any) -> Any:
    return _text(work, value)[::-1] if isinstance(value, str) else _items(work, value)[::-1]


def sort(
    work: Work, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: str | None = None
) -> list[Any]:
    items = _items(work, value)
    keys = [key.lower() if isinstance(key, str) and not case_sensitive else key for key in _by(work, items, attribute)]
    order = _order(work, items, keys)
    return [items[number] for number in (reversed(order) if reverse else order)]


def unique(work: Work, value: Any, attribute: str | None = None) -> list[Any]:
    items = _items(work, value)
    seen: dict[Any, Any] = {}
    for item, key in zip(items, _by(work, items, attribute), strict=True):
        seen.setdefault(_identity(work, key), item)
    return list(seen.values())


def _identity(work: Work, value: Any) -> Any:
    if isinstance(value, str):
        work.charge(len(value))
        return value
    if value is None or isinstance(value, (bool, int, float)):
        return (type(value) is bool, value)
    return (json_codec.dumps(plain(work, value), sort_keys=True),)


def group_by(work: Work, value: Any, attribute: str) -> list[dict[str, Any]]:
    items = _items(work, value)
    groups: dict[Any, dict[str, Any]] = {}
    for item, key in zip(items, _by(work, items, attribute), strict=True):
        groups.setdefault(_identity(work, key), {"key": key, "items": []})["items"].append(item)
    return list(groups.values())


def map_items(
    work: Work, value: Any, name: str | None = None, *args: Any, attribute: str | None = None, default: Any = Missing
) -> list[Any]:
    items = _items(work, value)
    if name is not None:
        entry = named(FILTERS, name, "filter")
        found = [entry.function(work, item, *args) for item in _charged(work, items)]
    elif attribute is not None:
        found = [dig(work, item, attribute, f"{attribute} of an item") for item in items]
    else:
        raise ExpressionError("map needs a filter's name, or attribute='…'")
    for number, item in enumerate(found):
        if isinstance(item, Missing):
            if default is Missing:
                raise ExpressionError(f"{item.path} is not there")
            found[number] = default
    return found


def _charged(work: Work, items: list[Any]) -> Iterator[Any]:
    for item in items:
        work.charge(20)
        yield item


def _passes(work: Work, value: Any, test: str | None, args: tuple[Any, ...]) -> bool:
    if test is None:
        return bool(value)
    entry = named(TESTS, test, "test")
    if isinstance(value, Missing) and not entry.lenient:
        return False
    return bool(entry.function(work, value, *args))


def select(work: Work, value: Any, test: str | None = None, *args: Any) -> list[Any]:
    return [item for item in _charged(work, _items(work, value)) if _passes(work, item, test, args)]


def reject(work: Work, value: Any, test: str | None = None, *args: Any) -> list[Any]:
    return [item for item in _charged(work, _items(work, value)) if not _passes(work, item, test, args)]


def select_by(work: Work, value: Any, attribute: str, test: str | None = None, *args: Any) -> list[Any]:
    return [
        item for item in _charged(work, _items(work, value)) if _passes(work, dig(work, item, attribute), test, args)
    ]


def reject_by(work: Work, value: Any, attribute: str, test: str | None = None, *args: Any) -> list[Any]:
    return [
        item
        for item in _charged(work, _items(work, value))
        if not _passes(work, dig(work, item, attribute), test, args)
    ]


def total(work: Work, value: Any, attribute: str | None = None, start: int | float = 0) -> Any:
    numbers = [_number(item) for item in _by(work, _items(work, value), attribute)]
    return bounded(sum(numbers, _number(start)))


def smallest(work: Work, value: Any, attribute: str | None = None) -> Any:
    return _extreme(work, value, attribute, 0)


def largest(work: Work, value: Any, attribute: str | None = None) -> Any:
    return _extreme(work, value, attribute, -1)


def _extreme(work: Work, value: Any, attribute: str | None, number: int) -> Any:
    items = _items(work, value)
    order = _order(work, items, _by(work, items, attribute))
    return items[order[number]] if order else Missing("an item of the empty list")


def flatten(work: Work, value: Any) -> list[Any]:
    found: list[Any] = []
    for item in _items(work, value):
        found.extend(_items(work, item) if isinstance(item, (list, tuple)) else [item])
    return found


def keys(work: Work, value: Any) -> list[Any]:
    return list(_object(work, value))


def values(work: Work, value: Any) -> list[Any]:
    return list(_object(work, value).values())


def items(work: Work, value: Any) -> list[Any]:
    return [[key, member] for key, member in _object(work, value).items()]


def get(work: Work, value: Any, key: str, default: Any = None) -> Any:
    return _object(work, value).get(_key(key), default)


def merge(work: Work, value: Any, other: Any) -> dict[Any, Any]:
    return _object(work, value) | _object(work, other)


def count_of(work: Work, value: Any, what: Any) -> int:
    if isinstance(value, str):
        return _text(work, value).count(_text(work, what))
    return sum(equal(work, item, what) for item in _items(work, value))


# -- Numbers -----------------------------------------------------------------------------------------------------------
def to_int(work: Work, value: Any, default: Any = Missing) -> Any:
    try:
        if isinstance(value, str):
            text = _text(work, value).strip()
            return bounded(int(text) if "." not in text and "e" not in text.lower() else int(float(text)))
        return bounded(int(_number(value)))
    except (ValueError, OverflowError):
        return _or_default(default, "a whole number", value)


def to_float(work: Work, value: Any, default: Any = Missing) -> Any:
    try:
        return bounded(float(_text(work, value) if isinstance(value, str) else _number(value)))
    except (ValueError, OverflowError):
        return _or_default(default, "a number", value)


def to_bool(work: Work, value: Any, default: Any = Missing) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return bool(value)
    word = _text(work, value).strip().lower() if isinstance(value, str) else None
    if word in {"true", "yes", "on", "1"}:
        return True
    if word in {"false", "no", "off", "0", ""}:
        return False
    return _or_default(default, "true or false", value)


def _or_default(default: Any, wanted: str, value: Any) -> Any:
    if default is Missing:
        raise ExpressionError(f"{kind(value)} that is not {wanted}")
    return default


def absolute(work: Work, value: Any) -> Any:
    return abs(_number(value))


def rounded(work: Work, value: Any, precision: int = 0, method: str = "common") -> Any:
    ways = {"common": ROUND_HALF_UP, "ceil": ROUND_CEILING, "floor": ROUND_FLOOR}
    if method not in ways:
        raise ExpressionError("round takes common, ceil or floor")
    number, precision = bounded(_number(value)), _whole(precision, 300)
    if isinstance(number, int) and precision >= 0:
        return number
    if abs(number) >= 1e15:
        return number
    exact = Decimal(repr(number)).quantize(Decimal(1).scaleb(-min(precision, 12)), rounding=ways[method])
    return int(exact) if precision <= 0 else float(exact)


# -- Dates and times ---------------------------------------------------------------------------------------------------
DIRECTIVES = frozenset("YmdHMSyjbBaApIfzZ%GVuweFT")


def _moment(value: Any) -> date:
    """A date (without time) or a time (with zone, UTC where it names none) of what people and services write."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return value
    try:
        if is_number(value):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str) and len(value) <= 100:
            text = value.strip()
            return date.fromisoformat(text) if len(text) == 10 else _moment(_parsed(text))
    except (ValueError, OverflowError, OSError, TypeError):
        pass
    raise ExpressionError(f"{kind(value)} that is no date and no time")


def _parsed(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parsedate_to_datetime(text)  # RFC 5322, as HTTP and e-mail write it


def _time(value: Any) -> datetime:
    moment = _moment(value)
    return moment if isinstance(moment, datetime) else datetime(moment.year, moment.month, moment.day, tzinfo=UTC)


def _iso(value: date) -> str:
    return _moment(value).isoformat().replace("+00:00", "Z")


def to_time(work: Work, value: Any) -> datetime:
    return _time(value)


def date_text(work: Work, value: Any, format: str = "%Y-%m-%d") -> str:
    pattern, moment = _text(work, format), _moment(value)
    # strftime does not fill up years before 1000 everywhere
    own = {"%Y": f"{moment.year:04}", "%F": f"{moment.year:04}-%m-%d", "%T": "%H:%M:%S", "%e": str(moment.day)}
    found = re.findall(r"%.?|[^%]+", pattern)
    if len(pattern) > 200 or any(part[0] == "%" and part[1:] not in DIRECTIVES for part in found):
        raise ExpressionError("a date's format has up to 200 characters and a letter of strftime after each %")
    return moment.strftime("".join(own.get(part, part) for part in found))


def add(
    work: Work, value: Any, years: int = 0, months: int = 0, weeks: float = 0, days: float = 0, hours: float = 0,
    minutes: float = 0, seconds: float = 0,
) -> date:  # fmt: skip
    moment = _moment(value)
    if hours or minutes or seconds:
        moment = _time(moment)
    whole = moment.year * 12 + moment.month - 1 + _whole(years, 10_000) * 12 + _whole(months, 120_000)
    try:
        moment = moment.replace(year=whole // 12, month=whole % 12 + 1, day=min(moment.day, _days_in(whole)))
        return moment + timedelta(
            weeks=_number(weeks), days=_number(days), hours=_number(hours), minutes=_number(minutes),
            seconds=_number(seconds),
        )  # fmt: skip
    except (ValueError, OverflowError):
        raise ExpressionError("the date is beyond the years 1 to 9999") from None


def _days_in(whole: int) -> int:
    following = date(whole // 12, whole % 12 + 1, 28) + timedelta(days=4)
    return (following - timedelta(days=following.day)).day


def add_days(work: Work, value: Any, days: float) -> date:
    return add(work, value, days=days)


def iso(work: Work, value: Any) -> str:
    return _iso(_moment(value))


def in_zone(work: Work, value: Any, name: str) -> datetime:
    try:
        return _time(value).astimezone(ZoneInfo(_text(work, name)[:100]))
    except (LookupError, ValueError, OSError, OverflowError):
        raise ExpressionError("there is no such time zone: take a name as in 'Europe/Berlin'") from None


def timestamp(work: Work, value: Any) -> int:
    return int(_time(value).timestamp())


def days_between(work: Work, value: Any, other: Any) -> int:
    return (_time(other) - _time(value)).days


def weekday(work: Work, value: Any) -> int:
    return _moment(value).isoweekday()


# -- The tables --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Entry:
    """A filter, test or method. ``lenient``: it is also asked about what is missing."""

    function: Callable[..., Any]
    doc: str
    example: str = ""
    lenient: bool = False

    def check(self, name: str, count: int, names: list[str]) -> None:
        """Raises `ExpressionError` where it does not take so many arguments, or none of these names."""
        try:
            inspect.signature(self.function).bind(None, None, *[None] * count, **dict.fromkeys(names))
        except TypeError:
            raise ExpressionError(f"{name} is given arguments that it does not take; {self.usage(name)}") from None

    def usage(self, name: str) -> str:
        takes = [str(taken.replace(annotation=inspect.Parameter.empty)) for taken in self._parameters()]
        takes = [text.partition("=")[0] + "?" if "=" in text else text for text in takes]
        return f"{name}({', '.join(takes)})" if takes else name

    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.function).parameters.values())[2:]


FILTERS: dict[str, Entry] = {
    "abs": Entry(absolute, "A number without its sign.", "-3|abs"),
    "add": Entry(add, "A date or time so much later: years, months, weeks, days, hours, minutes, seconds.",
                 "'2026-01-31' | add(months=1)"),
    "add_days": Entry(add_days, "A date or time so many days later.", "'2026-12-30' | add_days(3)"),
    "base64": Entry(base64, "Base64 of a file, or of a text in UTF-8.", "'Jack' | base64"),
    "bool": Entry(to_bool, "true or false of a number, or of true, yes, on, 1, false, no, off, 0.", "'yes' | bool"),
    "capitalize": Entry(capitalize, "The first letter large, the others small.", "'jACK' | capitalize"),
    "count": Entry(length, "The same as length.", "[1, 2] | count"),
    "d": Entry(default, "The same as default.", "none | d(1)", lenient=True),
    "date": Entry(date_text, "A date or time as text; the format is strftime's.", "'2026-01-31' | date('%d.%m.%Y')"),
    "datetime": Entry(to_time, "A time of an ISO 8601 or e-mail text, or of seconds since 1970.", "0 | datetime"),
    "days_until": Entry(days_between, "Whole days from this date or time to another.",
                        "'2026-01-01' | days_until('2026-02-01')"),
    "default": Entry(default, "Another value where this one is missing or null; with true, also where it is empty.",
                     "'' | default('-', true)", lenient=True),
    "find": Entry(find, "The first object of a list whose member has this value.",
                  "[{'id': 1}, {'id': 2}] | find('id', 2)"),
    "first": Entry(first, "The first item.", "[1, 2] | first"),
    "flatten": Entry(flatten, "A list of lists as one list.", "[[1], [2, 3]] | flatten"),
    "float": Entry(to_float, "A number of a text; with a default, that for what is no number.", "'1.5' | float"),
    "from_base64": Entry(from_base64, "The text of base64.", "'SmFjaw==' | from_base64"),
    "from_json": Entry(from_json, "The value of JSON text.", "'[1, 2]' | from_json"),
    "groupby": Entry(group_by, "Objects {key, items} of what has the same member.",
                     "[{'a': 1}, {'a': 1}] | groupby('a')"),
    "int": Entry(to_int, "A whole number of a text or number; with a default, that for what is none.", "'12' | int"),
    "iso": Entry(iso, "A date or time as ISO 8601 text.", "0 | iso"),
    "items": Entry(items, "An object's members as a list of [key, value].", "{'a': 1} | items"),
    "join": Entry(join, "The items as one text, with a text between.", "['a', 'b'] | join(', ')"),
    "json": Entry(json, "JSON text of a value; indent for people.", "{'a': [1, none]} | json"),
    "keys": Entry(keys, "An object's keys.", "{'a': 1} | keys"),
    "last": Entry(last, "The last item.", "[1, 2] | last"),
    "length": Entry(length, "How many items, members or characters.", "'Jack' | length"),
    "list": Entry(to_list, "A list of an object's keys, or of a text's characters.", "'abc' | list"),
    "lookup": Entry(lookup, "What a path leads to, else the default.", "{'a': [5]} | lookup('a.0', 0)"),
    "lower": Entry(lower, "In small letters.", "'Jack' | lower"),
    "map": Entry(map_items, "Each item through a filter, or one member of each.", "['a', 'b'] | map('upper')"),
    "max": Entry(largest, "The largest.", "[1, 3, 2] | max"),
    "merge": Entry(merge, "One object of two; the second's members win.", "{'a': 1} | merge({'b': 2})"),
    "min": Entry(smallest, "The smallest.", "[2, 1, 3] | min"),
    "regex_match": Entry(regex_match, "Whether the whole text matches a pattern.", "'a1' | regex_match('[a-z][0-9]')"),
    "regex_replace": Entry(regex_replace, "Every match of a pattern replaced by a plain text.",
                           "'a1b2' | regex_replace('[0-9]', '-')"),
    "regex_search": Entry(regex_search, "Whether a pattern matches anywhere.", "'a1' | regex_search('[0-9]')"),
    "reject": Entry(reject, "The items that do not pass a test.", "[1, 2, 3] | reject('odd')"),
    "rejectattr": Entry(reject_by, "The items whose member does not pass a test.",
                        "[{'a': 1}, {'a': 2}] | rejectattr('a', 'equalto', 1)"),
    "replace": Entry(replace, "A text with one part replaced by another.", "'Jack' | replace('J', 'H')"),
    "reverse": Entry(reverse, "From the last to the first.", "[1, 2] | reverse"),
    "round": Entry(rounded, "A number rounded: common, ceil or floor; whole without a precision.", "2.345 | round(2)"),
    "select": Entry(select, "The items that pass a test.", "[1, 2, 3] | select('odd')"),
    "selectattr": Entry(select_by, "The items whose member passes a test.",
                        "[{'a': 1}, {'a': 2}] | selectattr('a', 'gt', 1)"),
    "slugify": Entry(slugify, "Small letters, digits and hyphens alone.", "'Crème brûlée!' | slugify"),
    "sort": Entry(sort, "Sorted; texts as if in small letters unless case_sensitive.", "[3, 1, 2] | sort"),
    "split": Entry(split, "A text's parts between separators, or its words.", "'a,b' | split(',')"),
    "string": Entry(as_text, "As it would stand among text.", "1.5 | string"),
    "sum": Entry(total, "The sum of numbers.", "[1, 2] | sum"),
    "timestamp": Entry(timestamp, "Seconds since 1970.", "'1970-01-02' | timestamp"),
    "timezone": Entry(in_zone, "A time as the clocks show it there.", "0 | timezone('Europe/Berlin') | iso"),
    "title": Entry(title, "Each word's first letter large.", "'jack field' | title"),
    "tojson": Entry(json, "The same as json.", "[1] | tojson"),
    "trim": Entry(trim, "Without blanks, or the given characters, at both ends.", "' Jack ' | trim"),
    "truncate": Entry(truncate, "At most so many characters, the end included.", "'Jackfield' | truncate(5)"),
    "unique": Entry(unique, "The items without those that are there already.", "[1, 1, 2] | unique"),
    "upper": Entry(upper, "In capitals.", "'Jack' | upper"),
    "urlencode": Entry(url_encode, "A text for a URL, or an object as a query.", "{'q': 'a b'} | urlencode"),
    "values": Entry(values, "An object's values.", "{'a': 1} | values"),
    "weekday": Entry(weekday, "1 for Monday to 7 for Sunday.", "'2026-01-01' | weekday"),
}  # fmt: skip


def _defined(work: Work, value: Any) -> bool:
    return not isinstance(value, Missing)


def _undefined(work: Work, value: Any) -> bool:
    return isinstance(value, Missing)


def _is(*kinds: type) -> Callable[[Work, Any], bool]:
    return lambda work, value: isinstance(value, kinds)


def _numeric(work: Work, value: Any) -> bool:
    return is_number(value)


def _integral(work: Work, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _odd(work: Work, value: Any) -> bool:
    return _whole(value, 10**300) % 2 == 1


def _even(work: Work, value: Any) -> bool:
    return _whole(value, 10**300) % 2 == 0


def _divisible(work: Work, value: Any, by: int) -> bool:
    return _whole(value, 10**300) % _whole(by) == 0


def _empty(work: Work, value: Any) -> bool:
    return isinstance(value, Missing) or value is None or (isinstance(value, (str, list, tuple, dict)) and not value)


def _not_equal(work: Work, value: Any, other: Any) -> bool:
    return not equal(work, value, other)


def _greater(work: Work, value: Any, other: Any) -> bool:
    return less(work, other, value)


def _at_most(work: Work, value: Any, other: Any) -> bool:
    return not less(work, other, value)


def _at_least(work: Work, value: Any, other: Any) -> bool:
    return not less(work, value, other)


def _in(work: Work, value: Any, where: Any) -> bool:
    return contains(work, where, value)


def _small(work: Work, value: Any) -> bool:
    return _text(work, value).islower()


def _large(work: Work, value: Any) -> bool:
    return _text(work, value).isupper()


TESTS: dict[str, Entry] = {
    "boolean": Entry(_is(bool), "Is true or false."),
    "contains": Entry(contains, "A list has the item, a text the part, an object the key."),
    "defined": Entry(_defined, "Is there.", lenient=True),
    "divisibleby": Entry(_divisible, "A whole number without rest by another."),
    "empty": Entry(_empty, "Is missing, null, or an empty text, list or object.", lenient=True),
    "equalto": Entry(equal, "Is equal."),
    "even": Entry(_even, "A whole number divisible by two."),
    "false": Entry(lambda work, value: value is False, "Is false."),
    "float": Entry(_is(float), "A number with a fraction."),
    "ge": Entry(_at_least, "Is greater or equal."),
    "gt": Entry(_greater, "Is greater."),
    "in": Entry(_in, "Is in a list, text or object."),
    "integer": Entry(_integral, "A whole number."),
    "iterable": Entry(_is(list, tuple, dict, str), "A list, object or text."),
    "le": Entry(_at_most, "Is less or equal."),
    "lower": Entry(_small, "A text in small letters."),
    "lt": Entry(less, "Is less."),
    "mapping": Entry(_is(dict), "An object."),
    "match": Entry(regex_match, "The whole text matches a pattern."),
    "ne": Entry(_not_equal, "Is not equal."),
    "none": Entry(lambda work, value: value is None, "Is null."),
    "number": Entry(_numeric, "A number."),
    "odd": Entry(_odd, "A whole number not divisible by two."),
    "search": Entry(regex_search, "A pattern matches anywhere."),
    "sequence": Entry(_is(list, tuple), "A list."),
    "string": Entry(_is(str), "A text."),
    "true": Entry(lambda work, value: value is True, "Is true."),
    "undefined": Entry(_undefined, "Is missing.", lenient=True),
    "upper": Entry(_large, "A text in capitals."),
}  # fmt: skip
TESTS |= {
    "==": TESTS["equalto"], "eq": TESTS["equalto"], "!=": TESTS["ne"], "<": TESTS["lt"], "lessthan": TESTS["lt"],
    "<=": TESTS["le"], ">": TESTS["gt"], "greaterthan": TESTS["gt"], ">=": TESTS["ge"],
}  # fmt: skip

METHODS: dict[type, dict[str, Entry]] = {
    str: {
        "capitalize": FILTERS["capitalize"], "count": Entry(count_of, ""), "endswith": Entry(ends_with, ""),
        "find": Entry(find_text, ""), "lower": FILTERS["lower"], "lstrip": Entry(lstrip, ""),
        "replace": FILTERS["replace"], "rstrip": Entry(rstrip, ""), "split": FILTERS["split"],
        "splitlines": Entry(splitlines, ""), "startswith": Entry(starts_with, ""), "strip": FILTERS["trim"],
        "title": FILTERS["title"], "upper": FILTERS["upper"],
    },
    dict: {"get": Entry(get, ""), "items": FILTERS["items"], "keys": FILTERS["keys"], "values": FILTERS["values"]},
    list: {"count": Entry(count_of, "")},
    date: {
        "date": Entry(lambda work, value: date(value.year, value.month, value.day), ""),
        "isoformat": FILTERS["iso"], "isoweekday": FILTERS["weekday"], "strftime": FILTERS["date"],
        "timestamp": FILTERS["timestamp"],
    },
}  # fmt: skip
METHOD_NAMES = frozenset(name for methods in METHODS.values() for name in methods)


def named(table: Mapping[str, Entry], name: Any, what: str) -> Entry:
    """Raises `ExpressionError`."""
    entry = table.get(name) if isinstance(name, str) else None
    if entry is None:
        raise ExpressionError(f"there is no {what} {name[:50]!r}" if isinstance(name, str) else f"a {what} has a name")
    return entry


def method_of(value: Any, name: str) -> Entry | None:
    """The method of that name that a value of this kind has."""
    for owner, methods in METHODS.items():
        if isinstance(value, (list, tuple) if owner is list else owner):
            return methods.get(name)
    return None
