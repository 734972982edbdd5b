"""A person looks after their API keys in a real browser: from the link to a key that works, and to its end."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.browser.axe import Axe
from tests.browser.fitting import overflow
from tests.browser.people import browser_of_its_own
from tests.product import Product

pytestmark = pytest.mark.browser

Opens = Callable[[], Page]


@pytest.fixture
def somebody(chromium: Browser, product: Product) -> Iterator[Opens]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(browser_of_its_own(chromium, product)).new_page()


@pytest.fixture(scope="module", autouse=True)
def services(product: Product) -> None:
    for slug in ("github", "slack", "gmail"):
        body = {"toolkit": slug, "oauthCredentials": {"clientId": "a", "clientSecret": "b"}}
        assert product.call("POST", "integrations/configure", json=body).status_code == 200


def link_for(product: Product, user: str) -> str:
    answer = product.call("POST", "/api-keys/links", json={}, headers={"X-End-User": user})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["url"])


def new_user() -> str:
    return f"person-{uuid.uuid4().hex[:8]}"


def keep(page: Page, name: str) -> None:
    """A picture for whoever wants to look at it."""
    folder = os.environ.get("JACKFIELD_TEST_PICTURES")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def skills(product: Product, key: str) -> requests.Response:
    return requests.get(f"{product.url}/v1/skills", headers={"Authorization": f"Bearer {key}"}, timeout=10)


def test_a_person_makes_a_key_copies_it_and_revokes_it(product: Product, somebody: Opens, axe: Axe) -> None:
    page = somebody()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(link_for(product, new_user()))
    assert axe.faults_in_both_schemes(page) == {}
    keep(page, "keys-enter")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", name="Your API keys")).to_be_visible()
    expect(page.get_by_text("You have no key yet.")).to_be_visible()
    assert axe.faults_in_both_schemes(page) == {}

    page.get_by_label("Name").fill("Laptop")
    page.get_by_label("GitHub").check()
    expect(page.get_by_label("Only those chosen here")).to_be_checked()
    page.get_by_label("It ends").select_option(label="After 30 days")
    keep(page, "keys-form")
    page.get_by_role("button", name="Make the key").click()

    shown = page.get_by_label("The key “Laptop”")
    key = shown.input_value()
    assert re.fullmatch(r"jf_sk_[\w-]{43}", key)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == key
    assert axe.faults_in_both_schemes(page) == {}
    keep(page, "keys-made")
    answer = skills(product, key)
    assert [row["slug"] for row in answer.json()["integrations"]] == ["github"]

    page.get_by_role("link", name="Done").click()
    expect(page.get_by_role("heading", name="Laptop")).to_be_visible()
    expect(page.get_by_text(f"{key[:12]}…")).to_be_visible()
    assert key not in page.content()
    page.locator("summary", has_text="Revoke").click()
    keep(page, "keys-revoke")
    assert axe.faults_in_both_schemes(page) == {}
    page.get_by_role("button", name="Revoke it now").click()
    expect(page.get_by_role("status")).to_have_text("The key “Laptop” is revoked.")
    assert skills(product, key).status_code == 401
    page.get_by_text("Ended keys: 1").click()
    expect(page.get_by_text(re.compile("^revoked "))).to_be_visible()
    keep(page, "keys-ended")
    assert axe.faults_in_both_schemes(page) == {}

    page.get_by_role("button", name="Leave").click()
    expect(page.get_by_role("heading", name="You have left")).to_be_visible()
    assert page.request.get("/me/keys").status == 401


def test_the_page_works_by_keyboard_alone_and_without_a_script(product: Product, chromium: Browser) -> None:
    context = chromium.new_context(base_url=product.url, java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(link_for(product, new_user()))
        press(page, "Continue")
        tab_to(page, "name")
        page.keyboard.type("Script")
        page.keyboard.press("Enter")
        assert page.get_by_label("The key “Script”").input_value().startswith("jf_sk_")
        expect(page.get_by_role("button", name="Copy")).to_be_hidden()
        press(page, "Done")
        expect(page.get_by_role("heading", name="Script")).to_be_visible()
    finally:
        context.close()


def press(page: Page, name: str) -> None:
    target = page.get_by_role("button", name=name).or_(page.get_by_role("link", name=name))
    target.focus()
    page.keyboard.press("Enter")


def tab_to(page: Page, name: str) -> None:
    """Steps through the page until the field has the focus."""
    field = page.locator(f'input[name="{name}"]')
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.locator(":focus").count() and field.evaluate("node => node === document.activeElement"):
            return
    raise AssertionError(f"{name} was not reached")


def test_the_page_fits_a_phone(product: Product, somebody: Opens) -> None:
    page = somebody()
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(link_for(product, f"{new_user()}-{'long' * 40}"))
    assert overflow(page) == 0
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Name").fill("A name that is rather long for a key, " + "x" * 60)
    page.get_by_role("button", name="Make the key").click()
    assert overflow(page) == 0
    keep(page, "keys-phone-made")
    page.get_by_role("link", name="Done").click()
    page.locator("summary", has_text="Revoke").click()
    page.emulate_media(color_scheme="dark")
    keep(page, "keys-phone-dark")
    assert overflow(page) == 0


def test_a_form_that_is_wrong_says_so_at_its_field(product: Product, somebody: Opens, axe: Axe) -> None:
    page = somebody()
    page.goto(link_for(product, new_user()))
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Only those chosen here").check()
    page.get_by_role("button", name="Make the key").click()
    expect(page.get_by_text("This field is required.")).to_be_visible()
    expect(page.get_by_text("Choose at least one service.")).to_be_visible()
    assert page.get_by_label("Name").get_attribute("aria-invalid") == "true"
    keep(page, "keys-faults")
    assert axe.faults_in_both_schemes(page) == {}


def test_an_old_link_says_what_to_do(product: Product, somebody: Opens, axe: Axe) -> None:
    url = link_for(product, new_user())
    first = somebody()
    first.goto(url)
    first.get_by_role("button", name="Continue").click()
    second = somebody()
    second.goto(url)
    expect(second.get_by_text("This link is too old, or was already used.")).to_be_visible()
    assert axe.faults_in_both_schemes(second) == {}
    keep(second, "keys-old-link")
