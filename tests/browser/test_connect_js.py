"""The embedding script in a real browser: pages on allowed and other origins open the hosted page in a popup."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.browser.embedding import embedding_site, outcome, press, session_url
from tests.browser.people import browser_of_its_own, query_of, sign_in
from tests.peers.emulate import LOGIN, Emulate
from tests.peers.upstream import Upstream
from tests.product import ROOT, Product

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("connect_js")]
SCRIPT = ROOT / "static" / "connect.js"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    running = Product(
        tmp_path_factory.mktemp("connect-js"),
        JACKFIELD_EGRESS_ALLOW="127.0.0.0/8",
        JACKFIELD_TOOLKITS_DIR=str(Path(__file__).with_name("toolkits")),
    )
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture(scope="module")
def app(product: Product) -> Iterator[str]:
    """The origin that the project allows."""
    with embedding_site(product) as origin:
        assert product.call("PATCH", "settings", json={"allowedOrigins": [origin]}).status_code == 200
        yield origin


@pytest.fixture(scope="module")
def stranger(product: Product) -> Iterator[str]:
    """An origin that nobody allowed."""
    with embedding_site(product) as origin:
        yield origin


@pytest.fixture
def page(chromium: Browser, product: Product, app: str) -> Iterator[Page]:
    with ExitStack() as stack:
        page = stack.enter_context(browser_of_its_own(chromium, product)).new_page()
        page.goto(app)
        yield page


@pytest.fixture
def unwatched(chromium: Browser, product: Product) -> Iterator[Page]:
    """A page of whose faults the console may tell, as it does of messages and answers that browsers withhold."""
    context = chromium.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def guarded(product: Product, upstream: Upstream) -> None:
    body = {"toolkit": "guarded", "settings": {"base_url": upstream.url}}
    assert product.call("POST", "integrations/configure", json=body).status_code == 200


@pytest.fixture
def github(product: Product, emulate: Emulate) -> None:
    """GitHub at an emulated one, whose pages leave the popup tied to its opener."""
    service = emulate.github
    emulate.allow(f"{product.url}/v1/{product.facts['project_id']}/integrations/callback")
    urls = {"base_url": service.url, "authorization_url": service.authorization_url, "token_url": service.token_url}
    client = {"clientId": service.client_id, "clientSecret": service.client_secret}
    body = {"toolkit": "github", "oauthCredentials": client, "settings": urls}
    assert product.call("POST", "integrations/configure", json=body).status_code == 200


def connections(product: Product, user: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = product.call("GET", f"integrations/connections?userId={user}").json()["connections"]
    return rows


def new_user() -> str:
    return f"person-{uuid4().hex[:8]}"


def events(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate("window.events")
    return found


def heard(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate("window.heard")
    return found


# -- As a file ---------------------------------------------------------------------------------------------------------
def test_the_script_is_small_and_needs_nothing(product: Product) -> None:
    assert len(gzip.compress(SCRIPT.read_bytes(), 9)) < 5 * 1024
    assert not re.search(r"\bimport\b|require\(|eval\(|innerHTML|postMessage", SCRIPT.read_text(encoding="utf-8"))
    answer = requests.get(f"{product.url}/static/connect.js", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/javascript")
    assert "max-age=" in answer.headers["Cache-Control"]


def test_the_script_is_a_module_too(chromium: Browser, product: Product, stranger: str) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{stranger}/")
    page.evaluate("delete window.Jackfield")
    assert page.evaluate(
        "url => import(url).then(() => typeof Jackfield.connect)", f"{product.url}/static/connect.js"
    ) == ("function")
    context.close()


def test_no_page_of_ours_tells_just_anybody() -> None:
    for file in (ROOT / "static").rglob("*.js"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"""postMessage\([^;]*,\s*["'`]\*""", text), file


# -- On an allowed origin ----------------------------------------------------------------------------------------------
def test_an_oauth_account_is_connected_and_the_page_is_told(product: Product, page: Page, github: None) -> None:
    user = new_user()
    popup = press(page, session_url(product, user, toolkits=["github"]))
    popup.get_by_role("button", name="Connect GitHub").click()
    with popup.expect_event("close"):
        popup.get_by_role("button", name=LOGIN).first.click()
    [row] = connections(product, user)
    account = {"toolkit": "github", "connectionId": row["id"]}
    assert outcome(page) == {"status": "connected", **account, "accounts": [account]}
    assert events(page) == [{"success": account}, {"close": {"pending": False}}]
    told = heard(page)
    assert [entry["data"]["event"] for entry in told] == ["result", "done"]
    assert {entry["origin"] for entry in told} == {product.url}


def test_a_provider_that_cuts_the_popup_off_is_survived(product: Product, page: Page) -> None:
    """The sandbox's pages have Cross-Origin-Opener-Policy: same-origin; so the server is asked instead."""
    user = new_user()
    popup = press(page, session_url(product, user, toolkits=["sandbox"]))
    popup.get_by_role("button", name="Connect Sandbox").click()
    sign_in(popup, product)
    popup.get_by_role("button", name="Allow").click()
    result = outcome(page)
    [row] = connections(product, user)
    account = {"toolkit": "sandbox", "connectionId": row["id"]}
    assert result == {"status": "connected", **account, "accounts": [account]}
    assert events(page) == [{"close": {"pending": True}}, {"success": account}]
    assert heard(page) == []


def test_a_form_may_fail_and_then_connect(product: Product, page: Page, guarded: None) -> None:
    user = new_user()
    popup = press(page, session_url(product, user))
    popup.get_by_role("link", name="Connect Guarded").click()
    popup.get_by_label("Secret key").fill("a-wrong-key")
    popup.get_by_role("button", name="Connect").click()
    expect(popup.get_by_role("alert")).to_contain_text("does not accept")
    popup.get_by_label("Secret key").fill("the-right-key")
    popup.get_by_role("button", name="Connect").click()
    expect(popup.get_by_role("status").first).to_have_text("Your Guarded account is connected.")
    popup.reload()  # tells it again, which counts once
    with popup.expect_event("close"):
        popup.get_by_role("link", name="Done").click()
    result = outcome(page)
    assert (result["status"], result["toolkit"], len(result["accounts"])) == ("connected", "guarded", 1)
    assert [name for event in events(page) for name in event] == ["success", "close"]


def test_a_refusal_is_told_and_may_be_followed_by_another_try(product: Product, page: Page, github: None) -> None:
    popup = press(page, session_url(product, toolkits=["github"]))
    popup.get_by_role("button", name="Connect GitHub").click()
    expect(popup.get_by_role("button", name=LOGIN).first).to_be_visible()
    callback = f"{product.url}/v1/{product.facts['project_id']}/integrations/callback"
    popup.goto(f"{callback}?error=access_denied&state={query_of(popup.url)['state']}")  # as GitHub's Cancel does
    expect(popup.get_by_role("alert")).to_contain_text("GitHub was not connected. You did not allow access")
    page.wait_for_function("window.events.length === 1")
    assert events(page)[0]["error"] == {"code": "access_denied", "toolkit": "github", "message": "access_denied"}
    popup.get_by_role("button", name="Connect GitHub").click()
    popup.get_by_role("button", name=LOGIN).first.click()
    assert outcome(page)["status"] == "connected"


def test_a_closed_popup_is_told(product: Product, page: Page) -> None:
    popup = press(page, session_url(product))
    expect(popup.get_by_role("heading", name="Connect your accounts")).to_be_visible()
    popup.close()
    assert outcome(page) == {"status": "closed", "accounts": []}
    assert events(page) == [{"close": {"pending": False}}]


def test_the_url_may_be_fetched_after_the_click(product: Product, page: Page) -> None:
    url = session_url(product)
    page.evaluate("url => { window.target = () => new Promise((resolve) => setTimeout(() => resolve(url), 400)) }", url)
    with page.expect_popup() as popup:
        page.get_by_role("button", name="Connect").click()
    expect(popup.value.get_by_role("listitem").first).to_be_visible()
    popup.value.close()
    assert outcome(page)["status"] == "closed"


def test_a_url_that_cannot_be_had_closes_the_popup(page: Page) -> None:
    page.evaluate("() => { window.target = () => Promise.reject(new Error('back end down')) }")
    with page.expect_popup():
        page.get_by_role("button", name="Connect").click()
    assert outcome(page) == {"rejected": "back end down"}
    assert events(page)[0]["error"]["message"] == "back end down"


@pytest.mark.parametrize(
    "target", ["javascript:alert(1)", "not a url", "https://x.example/elsewhere", None, 5], ids=str
)
def test_what_is_no_url_of_a_session_opens_nothing(page: Page, target: Any) -> None:
    page.evaluate("target => { window.target = target }", target)
    page.get_by_role("button", name="Connect").click()
    assert outcome(page) == {"rejected": "bad_url"}
    assert events(page) == [{"error": {"code": "bad_url", "message": "bad_url"}}]
    assert len(page.context.pages) == 1


def test_a_blocked_popup_is_told(product: Product, page: Page) -> None:
    page.evaluate("window.open = () => null")
    page.evaluate("target => { window.target = target }", session_url(product))
    page.get_by_role("button", name="Connect").click()
    assert outcome(page) == {"rejected": "popup_blocked"}
    assert events(page) == [{"error": {"code": "popup_blocked", "message": "popup_blocked"}}]


def test_a_second_popup_ends_one_that_still_waits_for_its_url(product: Product, page: Page) -> None:
    page.evaluate("() => { window.target = () => new Promise(() => {}) }")
    with page.expect_popup() as waiting:
        page.get_by_role("button", name="Connect").click()
    first = waiting.value
    with first.expect_event("close"):
        second = press(page, session_url(product))
    expect(second.get_by_role("listitem").first).to_be_visible()


def test_a_second_popup_ends_the_first(product: Product, page: Page) -> None:
    first = press(page, session_url(product))
    with first.expect_event("close"):
        second = press(page, session_url(product))
    expect(second.get_by_role("listitem").first).to_be_visible()
    assert page.evaluate("window.events.length") == 1


def test_messages_of_others_are_not_believed(product: Product, page: Page, stranger: str) -> None:
    popup = press(page, session_url(product))
    expect(popup.get_by_role("listitem").first).to_be_visible()
    lie = {"id": "x", "status": "connected", "toolkit": "github", "connectionId": "ca_forged"}
    message = {"jackfield": "connect", "event": "result", "result": lie}
    page.evaluate("message => window.postMessage(message, location.origin)", message)
    frame = page.locator("#frame").element_handle().content_frame()
    assert frame is not None
    for origin in (stranger, product.url):  # another window of the right origin is not the popup either
        frame.goto(f"{origin}/static/connect.js")
        frame.evaluate("message => parent.postMessage(message, '*')", message)
    popup.goto(f"{stranger}/")  # the right window, of another origin
    popup.evaluate("message => opener.postMessage(message, '*')", message)
    page.wait_for_function("window.heard.length >= 4")
    assert events(page) == []


# -- On other origins --------------------------------------------------------------------------------------------------
def test_an_origin_that_is_not_allowed_is_told_nothing(
    product: Product, unwatched: Page, stranger: str, guarded: None
) -> None:
    user, page = new_user(), unwatched
    page.goto(stranger)
    popup = press(page, session_url(product, user, toolkits=["guarded"]))
    popup.get_by_role("link", name="Connect Guarded").click()
    popup.get_by_label("Secret key").fill("the-right-key")
    popup.get_by_role("button", name="Connect").click()
    expect(popup.get_by_text("Your Guarded account is connected.")).to_be_visible()
    popup.close()
    assert outcome(page) == {"status": "closed", "accounts": []}
    assert heard(page) == []
    assert len(connections(product, user)) == 1


def test_a_stranger_that_names_an_allowed_origin_is_told_nothing(
    product: Product, unwatched: Page, app: str, stranger: str, guarded: None
) -> None:
    page = unwatched
    page.goto(stranger)
    url = f"{session_url(product, toolkits=['guarded'])}?origin={app}"
    with page.expect_popup() as opened:
        page.evaluate("url => { window.open(url, '_blank', 'popup') }", url)
    popup = opened.value
    popup.get_by_role("link", name="Connect Guarded").click()
    popup.get_by_label("Secret key").fill("the-right-key")
    with page.context.expect_console_message(lambda message: "postMessage" in message.text) as complaint:
        popup.get_by_role("button", name="Connect").click()
    assert stranger in complaint.value.text  # the browser did not deliver it
    assert heard(page) == []


def test_a_page_of_ours_is_shown_in_no_frame(product: Product, page: Page) -> None:
    frame = page.locator("#frame").element_handle().content_frame()
    assert frame is not None
    page.evaluate("url => { document.getElementById('frame').src = url }", session_url(product))
    page.wait_for_timeout(500)
    assert "Connect your accounts" not in page.frames[-1].content()
