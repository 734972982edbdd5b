"""The admin in a real browser: from the catalog to the answer of a tool, and a key that works until it is revoked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from uuid import uuid4

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.fitting import overflow
from tests.product import Product

pytestmark = pytest.mark.browser

PAGES = (
    "", "connections/integration/catalog/", "connections/integration/catalog/?view=list",
    "connections/integration/catalog/github/", "connections/integration/", "connections/connection/",
    "runs/execution/try/", "runs/execution/", "runs/job/", "runs/jobrun/", "workspaces/auditevent/", "workspaces/workspace/",
    "workspaces/project/", "workspaces/membership/", "workspaces/membership/add/", "workspaces/apikey/",
    "workspaces/apikey/add/", "workspaces/jwtissuer/add/", "workspaces/plan/", "workspaces/user/",
    "socialaccount/socialapp/add/", "workspaces/webhookendpoint/", "workspaces/webhookendpoint/add/",
    "workspaces/webhookdelivery/", "workspaces/notificationrule/", "workspaces/notificationrule/add/",
    "connections/authsession/", "runs/delivery/", "runs/sinksettings/",
)  # fmt: skip


@pytest.fixture
def context(chromium: Browser, product: Product) -> Iterator[BrowserContext]:
    """A browser in which the quickstart's admin is signed in. What its console complains of fails the test."""
    context = chromium.new_context(base_url=product.url)
    complaints: list[str] = []

    def listen(page: Page) -> None:
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if is_outside(request.url) else None)

    def is_outside(url: str) -> bool:
        return not url.startswith((product.url, "data:"))

    context.on("page", listen)
    page = context.new_page()
    page.goto("/admin/")
    page.get_by_label("Email").fill(product.facts["admin_email"])
    page.get_by_label("Password").fill(product.facts["admin_password"])
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page).to_have_title(re.compile("Overview"))
    page.close()
    yield context
    context.close()
    assert not complaints


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def test_an_admin_finds_a_toolkit_connects_an_account_and_calls_a_tool(
    context: BrowserContext, page: Page, product: Product
) -> None:
    page.goto("/admin/")
    page.get_by_role("link", name="Open the catalog").click()
    page.get_by_role("searchbox", name="Search toolkits").fill("sandbox")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("main").or_(page.locator("#content")).get_by_role("link", name="Sandbox").click()
    page.get_by_text("SANDBOX_CREATE_NOTE").click()
    expect(page.get_by_role("cell", name="What the note says.")).to_be_visible()
    page.get_by_role("link", name="Configure").first.click()

    user = f"admin-test-{uuid4().hex[:8]}"
    page.get_by_label("End user id").fill(user)
    with context.expect_page() as opened:
        page.get_by_role("button", name="Connect a test account").click()
    tab = opened.value
    tab.get_by_role("button", name="Continue to Sandbox").click()
    tab.get_by_role("button", name="Allow").click()
    expect(tab.get_by_text("Connected.")).to_be_visible()
    tab.get_by_role("button", name="Test it").click()
    expect(tab.get_by_text("Sandbox accepts the connection.", exact=False)).to_be_visible()
    tab.get_by_role("link", name="Try a tool with it").click()

    tab.get_by_label("Tool", exact=True).select_option("create_note")
    expect(tab.get_by_role("heading", name="Create a note")).to_be_visible()
    tab.get_by_label("text").fill("Printer on fire")
    tab.get_by_label("tags").fill("urgent\noffice")
    tab.get_by_role("button", name="Call it").click()
    answer = tab.get_by_role("region", name="Answer")
    expect(answer).to_contain_text("OK")
    expect(answer.locator("pre")).to_contain_text('"text": "Printer on fire"')
    expect(answer.locator("pre")).to_contain_text('"urgent"')

    logged = tab.get_by_role("link", name="SANDBOX_CREATE_NOTE")
    for _ in range(20):  # the log is written in batches, a little late
        tab.goto(f"/admin/runs/execution/?q={user}")
        if logged.count():
            break
        tab.wait_for_timeout(250)
    logged.click()
    expect(tab.get_by_text('"text": "Printer on fire"').first).to_be_visible()


def test_a_key_is_shown_once_works_and_is_revoked(page: Page, product: Product) -> None:
    name = f"browser {uuid4().hex[:8]}"
    page.goto("/admin/workspaces/apikey/add/")
    page.get_by_label("Name").fill(name)
    page.get_by_label("admin: Configure integrations and read the logs").check()
    page.get_by_role("button", name="Issue the key").click()
    expect(page.get_by_text("This key is shown now and never again.")).to_be_visible()
    secret = page.get_by_label(name).input_value()
    address = f"{product.url}/v1/{product.facts['project_id']}/integrations/config"
    headers = {"Authorization": f"Bearer {secret}"}
    assert requests.get(address, headers=headers, timeout=10).status_code == 200

    page.get_by_role("link", name="I have copied it").click()
    page.evaluate("setTimeout(() => history.back(), 0)")
    page.wait_for_timeout(500)
    assert secret not in page.content()

    page.goto(f"/admin/workspaces/apikey/?q={name}")
    page.get_by_role("link", name=name).click()
    assert secret not in page.content()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("calls with it are refused from now on")).to_be_visible()
    assert requests.get(address, headers=headers, timeout=10).status_code == 401


def test_a_dismissed_question_changes_nothing(page: Page, product: Product) -> None:
    page.goto(f"/admin/workspaces/apikey/?q={product.facts['api_key'][:12]}")
    page.locator("#result_list tbody").get_by_role("link").first.click()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("Valid", exact=True)).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_phone_and_a_desktop(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    for path in PAGES:
        page.goto(f"/admin/{path}")
        for width, height in ((390, 844), (1400, 900)):
            page.set_viewport_size({"width": width, "height": height})
            assert overflow(page) <= 1, (path, width)
