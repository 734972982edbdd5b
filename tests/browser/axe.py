"""Pages checked by axe-core against WCAG 2 A and AA. The package comes from npm, into the tests' cache."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Error, Page

from tests.peers.node import install

PACKAGE = "axe-core@4.14.1"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
RUN = """async (rules) => (await axe.run({runOnly: rules})).violations.flatMap(
    violation => violation.nodes.map(node => `${violation.id}: ${node.target} ${node.failureSummary}`))"""


class Axe:
    """Finds what people with a disability could not use on a page."""

    def __init__(self) -> None:
        """Raises `PeerUnavailable` where the package cannot be had."""
        folder = install("axe", [PACKAGE])
        self.source = (folder / "axe-core" / "axe.min.js").read_text(encoding="utf-8")

    def faults(self, page: Page) -> list[str]:
        """Every violation: its rule, its element, what is wrong. Of the page as it is now, in its colour scheme.

        A page that gives way to the next one meanwhile (a click does not wait for where it leads) is judged there.
        """
        for patience in (2, 1, 0):
            try:
                page.wait_for_load_state()
                page.evaluate(self.source)
                found: list[str] = page.evaluate(RUN, RULES)
                return found
            except Error:
                if not patience:
                    raise
        raise AssertionError("unreachable")

    def faults_in_both_schemes(self, page: Page) -> dict[str, list[str]]:
        """Only the schemes with faults."""
        found = {}
        schemes: tuple[Any, ...] = ("light", "dark")
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found[scheme] = self.faults(page)
        return {scheme: faults for scheme, faults in found.items() if faults}
