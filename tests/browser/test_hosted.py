"""The hosted connect page in a real browser: for everybody, with and without a script, in every language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from apps.lib.language import LANGUAGES
from tests.browser.axe import Axe
from tests.browser.embedding import session_url
from tests.browser.fitting import width_of
from tests.browser.people import browser_of_its_own, own_site, query_of, sign_in
from tests.connections.texts import source
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("hosted")]
TOOLKITS = ("gmail", "slack", "github", "linear", "google-calendar", "notion")


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Eight toolkits are on: the sandbox, a form's, services with a client and such without."""
    running = Product(
        tmp_path_factory.mktemp("hosted"),
        JACKFIELD_EGRESS_ALLOW="127.0.0.0/8",
        JACKFIELD_TOOLKITS_DIR=str(Path(__file__).with_name("toolkits")),
        JACKFIELD_CLIENT_GMAIL="google-client:google-secret",
        JACKFIELD_CLIENT_SLACK="slack-client:slack-secret",
    )
    try:
        running.start()
        for toolkit in TOOLKITS:
            assert running.call("POST", "integrations/configure", json={"toolkit": toolkit}).status_code == 200
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def site(product: Product) -> Iterator[str]:
    with own_site() as origin:
        assert product.call("PATCH", "settings", json={"allowedOrigins": [origin]}).status_code == 200
        yield f"{origin}/settings?tab=accounts"


@pytest.fixture(autouse=True)
def guarded(product: Product, upstream: Upstream) -> None:
    body = {"toolkit": "guarded", "settings": {"base_url": upstream.url}}
    assert product.call("POST", "integrations/configure", json=body).status_code == 200


@pytest.fixture
def person(chromium: Browser, product: Product) -> Iterator[Page]:
    with ExitStack() as stack:
        yield stack.enter_context(browser_of_its_own(chromium, product)).new_page()


def new_user() -> str:
    return f"person-{uuid4().hex[:8]}"


def visit(page: Page, url: str, button: str = "Continue") -> None:
    """Follows the link, as out of a mail."""
    page.goto(url)
    page.get_by_role("button", name=button).click()
    expect(page).to_have_url(re.compile("/connect/page/"))


ACCOUNTS = """
from apps.connections.models import Connection, Integration
from apps.workspaces.models import EndUser, Project
project = Project.objects.get(pk={project!r})
user = EndUser.objects.get_or_create(project=project, external_id={user!r})[0]
for slug, label, status, scopes, primary in {rows!r}:
    row = Connection(project=project, integration=Integration.objects.get(project=project, toolkit=slug), end_user=user,
                     toolkit=slug, auth_type="oauth2", status=status, account_label=label, scopes=scopes, is_primary=primary)
    row.seal("credentials", {{"access_token": "x"}})
    row.save()
"""
ROWS: list[tuple[Any, ...]] = [
    ("gmail", "ann.bergmann.with.a.rather.long.address@subsidiary.example.com", "active", ["openid"], True),
    ("github", "annb", "expired", [], True),
    ("github", "build-bot", "active", [], False),
    ("sandbox", "ann@example.com", "inactive", [], True),
]


PICTURES = """
Connection.objects.filter(end_user=user).update(account_picture="https://pictures.invalid/annb.png")
"""


@pytest.fixture(scope="module")
def full(product: Product) -> str:
    """A user with an account in every state."""
    user = new_user()
    product.run(ACCOUNTS.format(project=product.facts["project_id"], user=user, rows=ROWS))
    return user


# -- The journey -------------------------------------------------------------------------------------------------------
def test_a_person_connects_two_services_and_goes_back(product: Product, site: str, person: Page) -> None:
    user = new_user()
    visit(person, session_url(product, user, redirectUrl=site))
    person.get_by_role("button", name="Connect Sandbox").click()
    sign_in(person, product)
    person.get_by_role("button", name="Allow").click()
    expect(person.get_by_text("Your Sandbox account is connected.")).to_be_focused()
    expect(person.get_by_text(product.facts["admin_email"])).to_be_visible()

    person.get_by_role("link", name="Connect Guarded").click()
    person.get_by_label("Secret key").fill("the-right-key")
    person.get_by_role("button", name="Connect").click()
    expect(person.get_by_text("Your Guarded account is connected.")).to_be_focused()

    person.get_by_role("link", name="Done").click()
    expect(person.get_by_role("heading", name="Welcome back")).to_be_visible()
    rows = product.call("GET", f"integrations/connections?userId={user}").json()["connections"]
    by_toolkit = {row["toolkit_slug"]: row["id"] for row in rows}
    assert set(by_toolkit) == {"sandbox", "guarded"}
    came_with = {"status": "connected", "toolkit": "guarded", "connectionId": by_toolkit["guarded"]}
    assert query_of(person.url) == {"tab": "accounts"} | came_with


def test_everything_can_be_done_with_the_keyboard(product: Product, person: Page) -> None:
    def press_on(name: str) -> None:
        """Tabs to what has this name, and presses it."""
        for _ in range(60):
            person.keyboard.press("Tab")
            said = person.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent.trim()")
            if said == name:
                outline = person.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none", name
                person.keyboard.press("Enter")
                return
        raise AssertionError(f"no way to {name} by Tab")

    person.goto(session_url(product, toolkits=["guarded", "sandbox"]))
    press_on("Continue")
    expect(person.get_by_role("heading", name="Connect your accounts")).to_be_visible()
    press_on("Connect Guarded")
    person.get_by_label("Secret key").focus()
    person.keyboard.type("the-right-key")
    person.keyboard.press("Enter")
    expect(person.get_by_text("Your Guarded account is connected.")).to_be_focused()
    press_on("Disconnect Guarded")
    expect(person.get_by_role("heading", name="Disconnect your Guarded account?")).to_be_visible()
    press_on("Disconnect")
    expect(person.get_by_text("Your Guarded account is disconnected.")).to_be_focused()
    expect(person.get_by_role("link", name="Connect Guarded")).to_be_visible()


def test_the_page_works_without_a_script(chromium: Browser, product: Product) -> None:
    context = chromium.new_context(base_url=product.url, java_script_enabled=False)
    page = context.new_page()
    visit(page, session_url(product))
    page.get_by_label("Search services").fill("guar")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", level=2)).to_have_text(["Guarded"])
    page.get_by_role("link", name="Connect Guarded").click()
    page.get_by_label("Secret key").fill("the-right-key")
    page.get_by_role("button", name="Connect").click()
    expect(page.get_by_role("status").first).to_have_text("Your Guarded account is connected.")
    context.close()


def test_the_search_filters_while_one_types(product: Product, person: Page) -> None:
    visit(person, session_url(product))
    expect(person.get_by_role("heading", level=2)).to_have_count(8)
    expect(person.get_by_role("button", name="Search")).to_be_hidden()
    person.get_by_label("Search services").press_sequentially("SLA")
    expect(person.get_by_role("heading", level=2)).to_have_text(["Slack"])
    expect(person.locator("#count")).to_have_text("Services found: 1")
    person.get_by_label("Search services").press_sequentially("zz")
    expect(person.get_by_text("No service has this name.")).to_be_visible()


def test_a_link_of_a_mail_waits_for_its_button_and_one_on_a_page_does_not(
    product: Product, site: str, person: Page
) -> None:
    person.goto(session_url(product))
    person.wait_for_timeout(500)
    expect(person.get_by_role("button", name="Continue")).to_be_visible()  # scanners that run scripts see no more
    person.goto(site)
    url = session_url(product)
    person.evaluate("url => { location.href = url }", url)
    expect(person.get_by_role("heading", level=2)).to_have_count(8)


# -- For everybody -----------------------------------------------------------------------------------------------------
def check(axe: Axe, page: Page) -> None:
    assert axe.faults_in_both_schemes(page) == {}, page.url
    for width in (320, 640):  # a phone, and a desktop at 200 %
        page.set_viewport_size({"width": width, "height": 560})
        assert width_of(page) <= width, page.url
    page.set_viewport_size({"width": 1280, "height": 720})


def test_the_pages_are_for_everybody(product: Product, person: Page, axe: Axe, full: str) -> None:
    person.goto(session_url(product, full))
    check(axe, person)
    person.get_by_role("button", name="Continue").click()
    expect(person.get_by_text("Some permissions are missing")).to_be_visible()
    expect(person.get_by_text("Must be connected again")).to_be_visible()
    expect(person.get_by_text("Waits for confirmation by Demo")).to_be_visible()
    check(axe, person)
    person.get_by_text("Missing permissions", exact=True).click()
    check(axe, person)
    person.get_by_role("link", name="Disconnect build-bot").click()
    check(axe, person)
    person.get_by_role("link", name="Keep it connected").click()
    person.get_by_role("link", name="Connect Guarded").click()
    check(axe, person)
    person.get_by_role("button", name="Connect").click()
    expect(person.get_by_label("Secret key")).to_have_attribute("aria-invalid", "true")
    check(axe, person)
    person.get_by_label("Secret key").fill("the-right-key")
    person.get_by_role("button", name="Connect").click()
    expect(person.get_by_role("status").first).to_contain_text("is connected")
    check(axe, person)
    person.goto("/connect/open/none")
    check(axe, person)


def test_on_a_phone_nothing_lies_over_a_button_and_done_is_seen_at_once(
    product: Product, site: str, person: Page, axe: Axe, full: str
) -> None:
    person.set_viewport_size({"width": 390, "height": 844})
    visit(person, session_url(product, full, redirectUrl=site))
    expect(person.get_by_role("link", name="Done")).to_be_in_viewport()
    for down in range(0, 1600, 200):
        person.evaluate("down => scrollTo(0, down)", down)
        assert axe.faults(person) == []


def test_a_second_click_while_a_service_is_asked_sends_nothing(product: Product, person: Page) -> None:
    user = new_user()
    sent: list[Route] = []
    visit(person, session_url(product, user))
    person.goto(f"{person.url}/connect/guarded?another=1")
    person.get_by_label("Secret key").fill("the-right-key")
    person.route("**/connect/guarded*", lambda route: sent.append(route))  # held back
    person.get_by_role("button", name="Connect").evaluate(
        "button => { for (const time of [0, 300]) setTimeout(() => button.click(), time) }"
    )
    person.wait_for_timeout(900)
    assert len(sent) == 1
    sent[0].continue_()
    expect(person.get_by_text("Your Guarded account is connected.")).to_be_focused()
    rows = product.call("GET", f"integrations/connections?userId={user}").json()["connections"]
    assert [row["toolkit_slug"] for row in rows] == ["guarded"]


def test_a_picture_that_cannot_be_had_leaves_no_torn_page(product: Product, person: Page) -> None:
    user = new_user()
    rows: list[tuple[Any, ...]] = [("github", "annb", "active", [], True)]
    product.run(ACCOUNTS.format(project=product.facts["project_id"], user=user, rows=rows) + PICTURES)
    visit(person, session_url(product, user))
    person.get_by_text("annb").scroll_into_view_if_needed()
    expect(person.locator(".account img")).to_have_count(0)
    expect(person.get_by_text("annb")).to_be_visible()


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_every_language_fits_its_page(chromium: Browser, product: Product, axe: Axe, full: str, language: str) -> None:
    texts = source(language)
    context = chromium.new_context(base_url=product.url, locale=language)
    page = context.new_page()
    visit(page, session_url(product, full), texts["Continue"])
    expect(page.get_by_role("heading", level=1)).to_have_text(texts["Connect your accounts"])
    expect(page.locator("html")).to_have_attribute("lang", language)
    check(axe, page)
    left = page.evaluate(
        "known => [...document.querySelectorAll('main :is(a, button, label, .state, h1)')]"
        ".map(element => element.textContent.trim()).filter(text => known.includes(text))",
        [text for text, said in texts.items() if text != said],
    )
    assert left == []
    context.close()


def test_a_script_from_right_to_left_fits_the_page(product: Product, person: Page, axe: Axe, full: str) -> None:
    visit(person, session_url(product, full))
    person.evaluate("document.documentElement.dir = 'rtl'")
    check(axe, person)
    name, button = (
        person.locator(".offer-head", has_text="Slack").locator(place).bounding_box() for place in ("h2", ".button")
    )
    assert name is not None
    assert button is not None
    assert button["x"] < name["x"]


@pytest.mark.parametrize("colour", ["#ffd400", "#767676", "#0a0a0a", "#ffffff"])
def test_a_projects_colour_leaves_the_page_readable(
    product: Product, person: Page, axe: Axe, full: str, colour: str
) -> None:
    assert product.call("PATCH", "settings", json={"colour": colour}).status_code == 200
    visit(person, session_url(product, full))
    check(axe, person)
