"""The forms of an HTML page, so that a login or consent page can be driven over plain HTTP as a person would."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser

import requests


@dataclass
class Form:
    action: str = ""
    method: str = "get"
    fields: dict[str, str] = field(default_factory=dict)
    text: str = ""

    def mentions(self, words: str) -> bool:
        return words in self.text or words in self.fields.values()


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: list[str] = []
        self._open: Form | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        if tag == "a":
            self.links.append(attributes.get("href", ""))
        elif tag == "form":
            self._open = Form(attributes.get("action", ""), attributes.get("method", "get").lower())
            self.forms.append(self._open)
        elif self._open and tag in ("input", "button") and "name" in attributes:
            self._open.fields[attributes["name"]] = attributes.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open.text += data


def _parse(page: str) -> _Parser:
    parser = _Parser()
    parser.feed(page)
    parser.close()
    return parser


@contextmanager
def browsing(session: requests.Session | None = None) -> Iterator[requests.Session]:
    """The caller's session, left open, or one of our own, which asks no proxy of the environment."""
    if session is not None:
        yield session
        return
    with requests.Session() as own:
        own.trust_env = False
        yield own


def forms(page: str) -> list[Form]:
    return _parse(page).forms


def links(page: str) -> list[str]:
    return _parse(page).links
