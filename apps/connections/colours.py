"""A project's colour on its pages: text on it, and text in it, that everybody can read (WCAG 2.2, 1.4.3)."""

from __future__ import annotations

Rgb = tuple[float, float, float]
BLACK, WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
# The grounds on which text in the colour stands, each the hardest of its scheme (static/css/pages.css).
LIGHT, DARK = "#e9ebef", "#262a33"
ENOUGH = 4.5


def _rgb(colour: str) -> Rgb:
    red, green, blue = (int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5))
    return red, green, blue


def _hex(colour: Rgb) -> str:
    return "#" + "".join(f"{round(part * 255):02x}" for part in colour)


def _luminance(colour: Rgb) -> float:
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """Of two colours like ``#4f46e5``: 1 to 21."""
    darker, lighter = sorted((_luminance(_rgb(first)), _luminance(_rgb(second))))
    return (lighter + 0.05) / (darker + 0.05)


def readable_on(colour: str) -> str:
    """Black or white, whichever stands out more."""
    return max("#000000", "#ffffff", key=lambda text: contrast(text, colour))


def readable_as(colour: str, ground: str) -> str:
    """The colour as text on a ground: no further towards black or white than reading it needs."""
    start = _rgb(colour)
    end = BLACK if _luminance(_rgb(ground)) > 0.179 else WHITE
    shades = (_hex(_mixed(start, end, step / 40)) for step in range(41))
    return next(shade for shade in shades if contrast(shade, ground) >= ENOUGH)


def _mixed(start: Rgb, end: Rgb, share: float) -> Rgb:
    red, green, blue = (a + (b - a) * share for a, b in zip(start, end, strict=True))
    return red, green, blue


def edge(colour: str, ground: str) -> str:
    """The border of what is filled with the colour: one that is seen where the colour itself is not."""
    return "transparent" if contrast(colour, ground) >= 1.5 else "var(--field)"


def stylesheet(colour: str) -> str:
    """A project's colour for both schemes."""
    light = f"--accent:{readable_as(colour, LIGHT)};--edge:{edge(colour, LIGHT)}"
    dark = f"--accent:{readable_as(colour, DARK)};--edge:{edge(colour, DARK)}"
    both = f"--brand:{colour};--on-brand:{readable_on(colour)}"
    return f":root{{{both};{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
