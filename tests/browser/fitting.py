"""Whether a page fits its window, judged once the page is there: a click's new page has no document for a moment."""

from __future__ import annotations

from playwright.sync_api import Page

WIDTH = "document.readyState === 'complete' && {width: document.documentElement.scrollWidth, window: innerWidth}"


def width_of(page: Page) -> int:
    """Pixels that the page is wide, whatever of it the window shows."""
    return int(page.wait_for_function(WIDTH).evaluate("found => found.width"))


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    found = page.wait_for_function(WIDTH)
    return int(found.evaluate("found => Math.max(0, found.width - found.window)"))
