"""Regular expressions that others wrote."""

from __future__ import annotations

import pytest

from apps.lib import pattern


@pytest.mark.parametrize(
    ("expression", "text", "expected"),
    [
        ("[a-z]+", "abc", True),
        ("^[a-z]+$", "abc", True),
        ("[a-z]+", "abc\n", False),
        ("[a-z]+", "x abc", False),
        ("a|b", "ab", False),
        ("(a+)+", "a" * 5000, True),
        ("(a+)+", "a" * 5000 + "!", False),
    ],
    ids=["whole", "anchored", "line-break", "within", "alternatives", "greedy", "greedy-refused"],
)
def test_the_whole_text_is_held_against_the_pattern(expression: str, text: str, expected: bool) -> None:
    assert pattern.fault(expression) == ""
    assert pattern.fits(expression, text) is expected
