"""Definitions on their way into files and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.modules import checks
from apps.modules.documents import as_yaml, dump

TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(TEXTS, VALUES, max_size=3))
def test_what_is_written_is_read_as_the_same(data: dict[str, Any]) -> None:
    assert checks.read(dump(data)) == (data, [])
    assert checks.read(as_yaml(json.dumps(data))) == (data, [])


@pytest.mark.parametrize("text", ["on", "0o17", "1e3", "+1", ".inf", "2026-01-31", "~", "null", "12:30", "1_000", "="])
def test_a_text_that_looks_like_something_else_stays_a_text_in_yaml(text: str) -> None:
    written = dump({"a": text})
    assert written.startswith("a:")
    assert checks.read(written) == ({"a": text}, [])


def test_long_texts_stand_on_lines_of_their_own() -> None:
    assert dump({"a": "one\ntwo\n"}) == "a: |\n  one\n  two\n"


def test_what_was_written_as_yaml_stays_as_it_was_written() -> None:
    assert as_yaml("# ours\na:   1") == "# ours\na:   1\n"


def test_members_keep_their_order() -> None:
    assert as_yaml('{"b": 1, "a": 2}') == "b: 1\na: 2\n"
