"""Accounts in a real browser: passkeys by Chromium's virtual authenticator, under the strict policy."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.fitting import width_of
from tests.product import Product
from tests.shell import ask

pytestmark = pytest.mark.browser

PASSWORD = "correct horse battery staple"
KEY = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


@pytest.fixture
def member(product: Product) -> str:
    """A member of their own for each test: what is changed here would lock others out."""
    email = f"{uuid4().hex[:12]}@example.com"
    ask(
        product,
        "from apps.workspaces.audit import SYSTEM;"
        "from apps.workspaces.models import User, Workspace;"
        "from apps.workspaces.services import add_member;"
        f"add_member(Workspace.objects.first(), User.objects.create_user({email!r}, {PASSWORD!r}), 'viewer', SYSTEM)",
    )
    return email


@pytest.fixture
def page(chromium: Browser, product: Product) -> Iterator[Page]:
    """A page with an authenticator, at a name: passkeys belong to names, not to addresses. Complaints fail the test."""
    context = chromium.new_context(base_url=product.url.replace("127.0.0.1", "localhost"))
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    devtools = context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": KEY})
    yield page
    context.close()
    assert not [text for text in complaints if "/admin" not in text]


def sign_in(page: Page, email: str) -> None:
    page.goto("/accounts/login/?next=/accounts/2fa/")
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def sign_out(page: Page) -> None:
    page.goto("/accounts/logout/")
    page.get_by_role("main").get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def add_key(page: Page, *, alone: bool) -> None:
    page.goto("/accounts/2fa/webauthn/add/")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    page.get_by_label("Sign in with it alone, without the password").set_checked(alone)
    page.get_by_role("button", name="Add").click()
    expect(page.get_by_role("heading", name="Recovery codes")).to_be_visible()
    expect(page.get_by_label("Unused codes").get_by_role("listitem")).to_have_count(10)


def test_a_passkey_signs_in_without_a_password(page: Page, member: str) -> None:
    sign_in(page, member)
    add_key(page, alone=True)
    sign_out(page)
    page.goto("/accounts/login/?next=/accounts/2fa/")
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.get_by_role("heading", name="Sign-in security")).to_be_visible()
    expect(page.get_by_text(f"Signed in as {member}", exact=True)).to_be_visible()


def test_a_security_key_is_the_second_step(page: Page, member: str) -> None:
    sign_in(page, member)
    add_key(page, alone=False)
    sign_out(page)
    sign_in(page, member)
    expect(page.get_by_role("heading", name="Second step")).to_be_visible()
    page.get_by_role("button", name="Use a passkey or security key").click()
    expect(page.get_by_text(f"Signed in as {member}", exact=True)).to_be_visible()


def test_a_recovery_code_is_the_second_step_where_the_key_is_lost(page: Page, member: str) -> None:
    sign_in(page, member)
    add_key(page, alone=False)
    code = page.get_by_label("Unused codes").get_by_role("listitem").first.inner_text()
    sign_out(page)
    sign_in(page, member)
    page.get_by_label("Code").fill(code)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_text("9 unused")).to_be_visible()


def test_a_passkey_is_renamed_and_removed(page: Page, member: str) -> None:
    sign_in(page, member)
    add_key(page, alone=True)
    page.goto("/accounts/2fa/webauthn/")
    page.get_by_role("link", name="Rename Passkey").click()
    page.get_by_label("Name").fill("Blue key")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("link", name="Remove Blue key").click()
    page.get_by_role("button", name="Remove").click()
    page.goto("/accounts/2fa/webauthn/")
    expect(page.get_by_text("You have none yet.")).to_be_visible()


def test_at_an_address_the_page_says_why_no_passkey_works(page: Page, product: Product) -> None:
    page.goto(f"{product.url}/accounts/login/")
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.get_by_role("alert")).to_contain_text("open it as localhost")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("path", ["/accounts/login/", "/accounts/password/reset/", "/accounts/2fa/", "/nothing"])
def test_no_page_scrolls_sideways(chromium: Browser, product: Product, path: str, width: int, scheme: str) -> None:
    context = chromium.new_context(
        base_url=product.url,
        viewport={"width": width, "height": 700},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = context.new_page()
    page.goto(path)
    assert width_of(page) <= width
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).borderRadius") == "16px"
    context.close()
