"""Regular expressions that others wrote, held against what people type: in time linear to the text, whatever they are.

Python's own engine tries every way to match: ``(a+)+b`` against forty letters stops a process for hours. Here there are no
look-arounds and no back references, which nothing linear can have. The syntax is JSON Schema's (ECMA 262) in what remains.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema_rs
import re2

LARGEST = 256 * 1024  # bytes of a compiled expression: a few letters may stand for a very large one

# For the ``pattern`` of any schema that is not our own.
LINEAR = jsonschema_rs.RegexOptions()


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    options = jsonschema_rs.RegexOptions(size_limit=LARGEST, dfa_size_limit=LARGEST)
    return jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=options)


def fits(pattern: str, text: str) -> bool:
    """Whether the whole of the text matches a pattern without `fault`."""
    return bool(_compiled(f"^(?:{pattern})$").is_valid(text))


def fault(pattern: str) -> str:
    """What is wrong with a pattern; an empty text for nothing."""
    for form in (pattern, f"^(?:{pattern})$"):  # alone as well: "a)|(?:b" would be well-formed between the brackets
        try:
            _compiled(form)
        except (jsonschema_rs.ValidationError, ValueError):
            return "Must be a regular expression, not too large, without look-arounds and back references."
    return ""


@lru_cache(maxsize=256)
def engine(pattern: str) -> Any:
    """A pattern without `fault` as RE2's, which also finds where it matches; the time of one search is at most linear to
    the text times ``programsize``. Raises ValueError for the few that RE2 has not.
    """
    options = re2.Options()
    options.max_mem = LARGEST
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        raise ValueError("RE2 does not have this pattern") from None
