"""Every colour that a project may choose can be read on its pages."""

from __future__ import annotations

import re

import pytest

from apps.connections.colours import DARK, LIGHT, contrast, edge, readable_as, readable_on, stylesheet

COLOURS = [
    f"#{red}{green}{blue}" for red in ("00", "40", "9b", "ff") for green in ("00", "76", "ff") for blue in ("00", "c8")
]


def test_contrast_is_what_the_guidelines_say() -> None:
    """WCAG 2.2: white on black is 21 to 1; #767676 is the lightest grey that reads on white."""
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("colour", COLOURS)
def test_text_on_a_colour_and_text_in_it_can_be_read(colour: str) -> None:
    assert contrast(readable_on(colour), colour) >= 4.5
    for ground in (LIGHT, DARK):
        assert contrast(readable_as(colour, ground), ground) >= 4.5


def test_a_colour_that_can_be_read_is_left_as_it_is() -> None:
    assert readable_as("#0f4f4a", LIGHT) == "#0f4f4a"
    assert readable_as("#ffd400", DARK) == "#ffd400"
    assert readable_as("#ffd400", LIGHT) != "#ffd400"


def test_a_button_that_would_not_be_seen_has_a_border() -> None:
    assert edge("#ffffff", LIGHT) == "var(--field)"
    assert edge("#16181d", DARK) == "var(--field)"
    assert edge("#4f46e5", LIGHT) == edge("#4f46e5", DARK) == "transparent"


def test_the_stylesheet_is_for_both_schemes() -> None:
    assert re.fullmatch(
        r":root\{[^{}]+\}@media \(prefers-color-scheme:dark\)\{:root\{[^{}]+\}\}", stylesheet("#4f46e5")
    )
