"""The pages of people whom runs ask something, in a real browser: with and without a script, in two tabs, by mail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.axe import Axe
from tests.browser.fitting import overflow
from tests.browser.people import browser_of_its_own, own_site, sign_in
from tests.connections.texts import source
from tests.product import Product

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("sessions")]

MODULE = """
title: Equip a colleague
description: Tells the office what a new colleague needs.
access: {access}
start_parameters:
  - {{name: Name, api_name: name, type: text, required: true, help: As it stands in the contract}}
  - {{name: First day, api_name: day, type: date}}
steps:
  - {{id: look, title: Look for the colleague, wait: 200ms}}
  - id: details
    title: What is needed
    form:
      title: "What does {{{{ start.name }}}} need?"
      text: The office orders it on the same day.
      pages:
        - title: Computer
          fields:
            - {{name: laptop, label: Which laptop?, type: choice, options: [13 inch, 15 inch], required: true}}
            - {{name: extras, label: Extras, type: choices, options: [Mouse, Bag, Dock], required: true}}
        - title: The rest
          text: Only what you know already.
          fields:
            - {{name: screens, label: How many screens?, type: number, min: 0, max: 3, default: 1}}
            - {{name: contract, label: Contract, type: file, help: A PDF}}
            - {{name: note, label: Note, type: long_text, default: "For {{{{ start.name }}}}"}}
            - {{name: agreed, label: The budget allows it, type: checkbox, required: true}}
  - id: ok
    title: Approval
    approve:
      title: "Buy a laptop of {{{{ steps.details.output.laptop }}}}?"
      assignees: {assignees}
      reason_on_reject: true
      deadline: 2d
  - {{id: pause, title: Order it, wait: 500ms}}
result: {{contract: "{{{{ steps.details.output.contract }}}}", ok: "{{{{ steps.ok.output }}}}"}}
end: {end}
"""


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Its mail goes to files."""
    home = tmp_path_factory.mktemp("sessions")
    running = Product(home, EMAIL_URL=f"filemail:///{home}/mail")
    try:
        running.start()
        yield running
    finally:
        running.close()


def publish(product: Product, *, access: str = "public", assignees: str = "[]", end: str = "null") -> str:
    """A module of its own; gives its public id."""
    name = f"equip-{uuid4().hex[:8]}"
    text = f"name: {name}\n" + MODULE.format(access=access, assignees=assignees, end=end)
    saved = product.call("PUT", f"modules/{name}", data=text.encode(), headers={"Content-Type": "application/yaml"})
    assert saved.status_code == 201, saved.text
    answer = product.call("POST", f"modules/{name}/publish", json={})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


@pytest.fixture
def context(chromium: Browser, product: Product) -> Iterator[BrowserContext]:
    with ExitStack() as stack:
        yield stack.enter_context(browser_of_its_own(chromium, product))


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def start(page: Page, module: str, name: str = "Ada") -> None:
    """Fills in the start page, and waits for the first question."""
    page.goto(f"/s/{module}")
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name=f"What does {name} need?")).to_be_visible(timeout=15000)


def fill_first(page: Page) -> None:
    page.get_by_label("13 inch").check()
    page.get_by_label("Bag").check()


def answer_form(page: Page) -> None:
    fill_first(page)
    page.get_by_role("button", name="Next").click()
    page.get_by_label("The budget allows it").check()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Thank you. Your answer was saved.")).to_be_visible()


def approval(page: Page) -> Any:
    return page.get_by_role("heading", name="Buy a laptop of 13 inch?")


def tasks(product: Product, **query: str) -> list[dict[str, Any]]:
    answer = product.call("GET", "tasks", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["tasks"])


def test_a_form_of_two_pages_is_filled_in_without_leaving_the_page(product: Product, page: Page) -> None:
    module = publish(product)
    start(page, module)
    loads: list[str] = []
    page.on("load", lambda loaded: loads.append(loaded.url))
    expect(page.get_by_text("Page 1 of 2")).to_be_visible()
    expect(page.get_by_label("How many screens?")).to_be_hidden()

    page.get_by_role("button", name="Next").click()  # the browser tells what is missing, and stays
    expect(page.get_by_label("How many screens?")).to_be_hidden()
    page.get_by_label("13 inch").check()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_label("How many screens?")).to_be_hidden()
    page.get_by_label("Bag").check()
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_label("Note")).to_have_value("For Ada")
    expect(page.get_by_text("Page 2 of 2")).to_be_visible()
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_label("13 inch")).to_be_checked()
    page.get_by_label("13 inch").press("Enter")  # goes on, sends nothing
    page.get_by_label("How many screens?").fill("7")
    page.get_by_label("The budget allows it").check()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_label("How many screens?")).to_be_focused()
    assert loads == []

    page.get_by_label("How many screens?").fill("2")
    page.get_by_label("Contract").set_input_files({"name": "c.pdf", "mimeType": "application/pdf", "buffer": b"%PDF"})
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Thank you. Your answer was saved.")).to_be_visible()
    expect(approval(page)).to_be_visible(timeout=15000)
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("heading", name="Done")).to_be_visible(timeout=15000)
    expect(page.get_by_text("Equip a colleague is complete.")).to_be_visible()


def test_of_two_tabs_the_first_decision_counts_and_the_second_sees_it(
    product: Product, page: Page, context: BrowserContext
) -> None:
    start(page, publish(product, end="null"))
    answer_form(page)
    expect(approval(page)).to_be_visible(timeout=15000)
    second = context.new_page()
    second.goto(page.url.partition("?")[0])
    expect(approval(second)).to_be_visible()

    page.get_by_role("button", name="Reject").click()  # without its reason
    expect(page.get_by_label("Reason")).to_be_focused()
    page.get_by_label("Reason").fill("Too dear")
    page.get_by_role("button", name="Reject").click()
    expect(page.get_by_role("heading", name="Done")).to_be_visible(timeout=15000)

    second.bring_to_front()
    second.evaluate("window.dispatchEvent(new Event('focus'))")
    expect(second.get_by_text("This was answered or changed in another window.")).to_be_visible()
    with second.expect_response(lambda response: response.request.method == "POST") as answered:
        second.get_by_role("button", name="Approve").click()
    assert answered.value.status == 409
    expect(second.get_by_text("This was rejected.")).to_be_visible()
    expect(second.get_by_text("Too dear")).to_be_visible()
    second.get_by_role("link", name="Go on").click()
    expect(second.get_by_role("heading", name="Done")).to_be_visible()


def test_what_is_saved_for_later_is_there_in_another_browser(product: Product, page: Page, chromium: Browser) -> None:
    start(page, publish(product))
    fill_first(page)
    page.get_by_role("button", name="Next").click()
    page.get_by_label("Note").fill("Half a note")
    page.get_by_label("Contract").set_input_files({"name": "c.pdf", "mimeType": "application/pdf", "buffer": b"%PDF"})
    page.get_by_role("button", name="Save and continue later").click()
    expect(page.get_by_text("Saved. Open this page again")).to_be_visible()
    with browser_of_its_own(chromium, product) as other:
        later = other.new_page()
        later.goto(page.url.partition("?")[0])
        expect(later.get_by_label("13 inch")).to_be_checked()
        later.get_by_role("button", name="Next").click()
        expect(later.get_by_label("Note")).to_have_value("Half a note")
        expect(later.get_by_text("Saved: c.pdf.")).to_be_visible()


def test_without_a_script_it_is_one_long_form(product: Product, chromium: Browser) -> None:
    module = publish(product)
    context = chromium.new_context(base_url=product.url, java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(f"/s/{module}")
        page.get_by_label("Name").fill("Ada")
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_label("Note")).to_be_visible(timeout=20000)  # the page asks again by itself
        fill_first(page)
        page.get_by_label("The budget allows it").check()
        page.get_by_role("button", name="Send").click()
        expect(approval(page)).to_be_visible(timeout=20000)
        page.get_by_role("button", name="Approve").click()
        expect(page.get_by_role("heading", name="Done")).to_be_visible(timeout=20000)
    finally:
        context.close()


def mails(product: Product) -> list[str]:
    folder = product.home / "mail"
    return [file.read_text(errors="replace") for file in sorted(folder.glob("*"))] if folder.exists() else []


def link_for(product: Product, page: Page, address: str) -> str:
    for _ in range(100):
        for text in mails(product):
            if f"To: {address}" in text:
                plain = text.replace("=\n", "").replace("=3D", "=")
                return re.search(r"https?://\S+/s/task/[\w:.-]+", plain)[0]  # type: ignore[index]
        page.wait_for_timeout(100)
    raise AssertionError(f"no mail to {address}:\n{product.log[-3000:]}")


def test_an_approver_decides_by_the_link_of_an_e_mail(product: Product, page: Page, chromium: Browser) -> None:
    address = f"boss-{uuid4().hex[:6]}@example.com"
    start(page, publish(product, assignees=f"[{address}]"))
    answer_form(page)
    expect(page.get_by_text("This question is for somebody else.")).to_be_visible(timeout=15000)
    expect(page.get_by_text(address)).to_have_count(0)
    link = link_for(product, page, address)
    with browser_of_its_own(chromium, product) as other:
        boss = other.new_page()
        boss.goto(link)
        expect(approval(boss)).to_be_visible()
        expect(boss.get_by_text(f"You answer as {address}.")).to_be_visible()
        boss.get_by_role("button", name="Approve").click()
        expect(boss.get_by_text("This was approved.")).to_be_visible()
    expect(page.get_by_role("heading", name="Done")).to_be_visible(timeout=15000)


def test_a_member_finds_what_waits_in_the_inbox(product: Product, page: Page) -> None:
    address = product.facts["admin_email"]
    module = publish(product, access="signed_in", assignees=f"[{address}]")
    page.goto(f"/s/{module}")
    sign_in(page, product)
    start(page, module, "Grace")
    answer_form(page)
    expect(approval(page)).to_be_visible(timeout=15000)
    page.goto("/inbox")
    page.get_by_role("link", name="Buy a laptop of 13 inch?").first.click()
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("This was approved.")).to_be_visible()
    page.get_by_role("link", name="To your inbox").click()
    expect(page.get_by_text("approved", exact=True).first).to_be_visible()


def test_the_end_leads_back_to_the_product_that_began(product: Product, page: Page) -> None:
    with own_site() as origin:
        assert product.call("PATCH", "settings", json={"allowedOrigins": [origin]}).status_code == 200
        start(page, publish(product, end=f"{{title: 'Thanks', redirect: '{origin}/settings'}}"))
        answer_form(page)
        page.get_by_role("button", name="Approve").click(timeout=15000)
        expect(page.get_by_role("heading", name="Thanks")).to_be_visible(timeout=15000)
        page.get_by_role("link", name="Continue").click()
        expect(page).to_have_url(f"{origin}/settings")


def test_every_page_can_be_used_by_everybody(product: Product, page: Page, axe: Axe) -> None:
    """By WCAG 2 A and AA, light and dark, on a phone."""
    page.set_viewport_size({"width": 375, "height": 700})
    module = publish(product)
    faults: dict[str, Any] = {}

    def look(name: str) -> None:
        faults[name] = axe.faults_in_both_schemes(page)
        assert not overflow(page), f"{name} is wider than a phone"

    page.goto(f"/s/{module}")
    look("start")
    start(page, module)
    look("form")
    page.get_by_role("button", name="Save and continue later").click()
    fill_first(page)
    page.get_by_role("button", name="Next").click()
    look("second page")
    page.get_by_label("The budget allows it").check()
    page.get_by_role("button", name="Send").click()
    expect(approval(page)).to_be_visible(timeout=15000)
    look("approval")
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("heading", name="Done")).to_be_visible(timeout=15000)
    look("end")
    page.goto("/inbox")
    sign_in(page, product)
    look("inbox")
    assert {name: found for name, found in faults.items() if found} == {}


LONG = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen"
WIDE = """
title: {long}
access: public
start_parameters: [{{name: {long}, api_name: n, type: choice, options: [{long}], required: true}}]
steps:
  - id: f
    title: {long}
    form:
      title: {long}
      submit: {long}
      fields:
        - {{name: a, label: {long}, type: checkbox}}
        - {{name: b, label: {long}, type: choices, options: [{long}]}}
        - {{name: c, label: {long}, type: file, help: {long}}}
  - {{id: ok, approve: {{title: {long}, text: {long}}}}}
"""


def test_words_longer_than_a_phone_is_wide_are_broken_and_buttons_are_not(product: Product, page: Page) -> None:
    name = f"wide-{uuid4().hex[:8]}"
    text = f"name: {name}\n{WIDE.format(long=LONG)}"
    product.call("PUT", f"modules/{name}", data=text.encode(), headers={"Content-Type": "application/yaml"})
    module = product.call("POST", f"modules/{name}/publish", json={}).json()["id"]
    page.set_viewport_size({"width": 320, "height": 640})

    page.goto(f"/s/{module}")
    page.get_by_role("radio").check()
    assert not overflow(page)
    page.get_by_role("button", name="Start").click()
    page.get_by_role("button", name="Save and continue later").click(timeout=15000)
    assert not overflow(page)
    page.get_by_role("button", name=LONG, exact=True).click()
    approve = page.get_by_role("button", name="Approve")
    expect(approve).to_be_visible(timeout=15000)
    assert not overflow(page)
    height = approve.evaluate("button => { button.textContent = 'Zustimmen'; return button.offsetHeight }")
    assert height < 60, "German's word, too, stands on one line"


LANGUAGES = {"de": "Starten", "fr": "Démarrer", "es": "Empezar", "pt": "Iniciar", "ja": "開始"}


@pytest.mark.parametrize(("language", "word"), LANGUAGES.items(), ids=LANGUAGES)
def test_pages_speak_six_languages(product: Product, chromium: Browser, language: str, word: str) -> None:
    module = publish(product)
    assert source(language)["Start"] == word
    context = chromium.new_context(base_url=product.url, locale=language, viewport={"width": 320, "height": 600})
    try:
        page = context.new_page()
        page.goto(f"/s/{module}")
        expect(page.get_by_role("button", name=word)).to_be_visible()
        assert not overflow(page)
    finally:
        context.close()
