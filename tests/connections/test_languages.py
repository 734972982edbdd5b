"""The languages of end users' pages: chosen by the browser, translated whole, compiled from what stands in the sources."""

from __future__ import annotations

import re

import pytest
from django.template import engines
from django.test import Client
from django.utils import translation

from apps.connections.links import Link, make_link
from apps.lib.language import LANGUAGES, preferred
from tests.api.shop import Shop
from tests.connections.texts import ROOT, compiled, placeholders, source, texts

TRANSLATED = [language for language in LANGUAGES if language != "en"]


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "de"),
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("pt-BR", "pt"),
        ("PT-pt", "pt"),
        ("ja-JP,en;q=0.5", "ja"),
        ("nl,fr;q=0.3,es;q=0.7", "es"),
        ("nl;q=1, zh;q=0.9", "en"),
        ("de;q=0,fr;q=0.1", "fr"),
        ("*", "en"),
        ("en;q=0.1,de;q=0.2", "de"),
        ("../../etc,\x00,de;q=abc", "en"),
        ("de" * 5000, "en"),
        ("pt-BR,pt;q=.9", "pt"),
        ("de_DE,,fr;q=2, ja ;q=0.4", "ja"),
    ],
    ids=range(15),
)
def test_the_browser_says_which_language_it_is(header: str, language: str) -> None:
    assert preferred(header) == language


def test_there_are_texts_to_translate() -> None:
    found = texts()
    assert {"Connect your accounts", "This does not look right.", "Skip to the content", "Make the key"} <= found
    assert len(found) > 60


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_text_is_translated_and_no_other(language: str) -> None:
    catalog = source(language)
    assert set(catalog) == texts()
    assert all(catalog.values())


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_the_placeholders_of_its_text(language: str) -> None:
    assert {text for text, said in source(language).items() if placeholders(text) != placeholders(said)} == set()


@pytest.mark.parametrize("language", TRANSLATED)
def test_what_is_compiled_is_what_stands_in_the_source(language: str) -> None:
    """After a change: msgfmt -o django.mo django.po"""
    assert compiled(language) == source(language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_is_in_the_browsers_language_and_says_so(shop: Shop, language: str) -> None:
    path = "/connect/" + make_link(Link(shop.cast.project.pk, "u2", "lab")).rpartition("/")[2]
    answer = Client().get(path, headers={"Accept-Language": f"{language},en;q=0.5"})
    assert answer.status_code == 200
    assert answer["Content-Language"] == language
    assert "Accept-Language" in answer["Vary"]
    assert f'<html lang="{language}" dir="ltr">' in answer.content.decode()
    with translation.override(language):
        assert translation.gettext("Skip to the content") in answer.content.decode()
    assert translation.get_language() == "en"


@pytest.mark.parametrize("language", TRANSLATED)
def test_reasons_are_in_the_browsers_language(db: None, language: str) -> None:
    answer = Client().get("/connect/result?message=access_denied", headers={"Accept-Language": language})
    reason = "You did not allow access, so nothing was connected. You can go back and start again."
    assert source(language)[reason] in answer.content.decode()


def test_a_language_that_runs_from_the_right_turns_the_page() -> None:
    template = engines["django"].get_template("connect/result.html")
    with translation.override("ar"):
        assert '<html lang="ar" dir="rtl">' in template.render({"reason": "x"})


def test_the_styles_name_no_left_and_no_right() -> None:
    sided = re.compile(
        r"(?<![\w-])(?:(?:margin|padding|border)-(?:left|right)|left|right)\s*:|text-align:\s*(?:left|right)"
    )
    for name in ("pages", "people"):
        assert sided.findall((ROOT / f"static/css/{name}.css").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", ["/accounts/login/", "/admin/login/", "/docs/errors"])
def test_other_pages_stay_english(db: None, path: str) -> None:
    answer = Client().get(path, headers={"Accept-Language": "de"}, follow=True)
    assert answer["Content-Language"] == "en"
    assert b'lang="en' in answer.content


def test_the_api_stays_english(shop: Shop) -> None:
    body = {"toolkit": "nothing", "userId": "u1"}
    assert b"not enabled" in shop.api.post("integrations/connect", body, **{"Accept-Language": "de"}).content
