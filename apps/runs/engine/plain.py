"""Values as JSON that every database keeps, and times in it."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from apps.modules.definition import seconds_of

LONGEST_MESSAGE = 10_000  # characters
COMPACT = (",", ":")


class NotPlain(ValueError):
    """A value that is no JSON, or an expression's value that does not fit where it stands."""


def plain(value: Any) -> tuple[Any, int]:
    """The value as it reads back from JSON, and its size in bytes. Raises `NotPlain`.

    PostgreSQL keeps neither NUL nor half a surrogate pair in JSON: both become U+FFFD.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_known, separators=COMPACT)
        if "\\u0000" in text or _has_surrogates(text):
            text = json.dumps(_clean(json.loads(text)), ensure_ascii=False, separators=COMPACT)
        return json.loads(text), len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise NotPlain(f"This is no JSON value: {error}") from error


def plain_or_text(value: Any) -> Any:
    """The same, of what must not get lost because of its form."""
    try:
        return plain(value)[0]
    except NotPlain:
        return clean_text(repr(value)[:LONGEST_MESSAGE])


def clean_text(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _known(value: Any) -> Any:
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {clean_text(name): _clean(item) for name, item in value.items()}
    return value


def text_of(value: Any) -> str:
    """A value as people write it: ``true``, ``1`` for 1.0, nothing for null. Raises `NotPlain` for lists and objects."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    if isinstance(value, (list, dict)):
        raise NotPlain("A text was expected here, not a list or an object.")
    return str(value)


def shown(value: Any) -> str:
    """The same for people's eyes: lists and objects as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else text_of(value)


def seconds(value: Any) -> float:
    """Of a duration that an expression gave. Raises `NotPlain`."""
    try:
        return seconds_of(value)
    except ValueError as error:
        raise NotPlain(f"{str(value)[:100]!r}: {error}.") from error


def moment(value: Any) -> datetime:
    """A time in UTC, of ISO 8601. A day is its first moment, and a time without zone is UTC. Raises `NotPlain`."""
    found = time_in(value)
    if found is None:
        raise NotPlain(f"{str(value)[:100]!r} is no date or time, like 2026-01-31T08:00:00Z.")
    return found


def time_in(value: Any) -> datetime | None:
    """The same of what stands in an event; None where there is none."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
