"""The whole journey in a real browser: an admin switches a service on, a person connects an account, a tool is called."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.browser.axe import Axe
from tests.browser.fitting import width_of
from tests.browser.people import browser_of_its_own, own_site, query_of, sign_in
from tests.peers.emulate import EMAIL, GITHUB_TOKEN, LOGIN, Emulate, Service
from tests.peers.fixtures import cannot_have
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("journey")]

TOOLKITS = Path(__file__).with_name("toolkits")
CURL = re.compile(r"^curl (?:.*\\\n)*.*$", re.MULTILINE)
ONLOOKER = {"Authorization": "Bearer onlooker"}  # the emulated services take any token, for their first person
Opens = Callable[[], Page]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A fresh quickstart, with the toolkits of this folder beside the catalog."""
    running = Product(
        tmp_path_factory.mktemp("journey"),
        JACKFIELD_EGRESS_ALLOW="127.0.0.0/8",
        JACKFIELD_TOOLKITS_DIR=str(TOOLKITS),
        JACKFIELD_CLIENT_GMAIL="google-client:google-secret",
    )
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture(scope="module")
def site(product: Product) -> Iterator[str]:
    """The integrator's page that people come back to; its origin is allowed over the API."""
    with own_site() as origin:
        allowed = ["https://yourapp.com", origin]
        answer = product.call("PATCH", "settings", json={"allowedOrigins": allowed})
        assert answer.status_code == 200, answer.text
        yield f"{origin}/settings?tab=accounts#services"


@pytest.fixture
def somebody(chromium: Browser, product: Product) -> Iterator[Opens]:
    """Each call gives a page in a browser of its own."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(browser_of_its_own(chromium, product)).new_page()


@pytest.fixture
def admin(somebody: Opens, product: Product) -> Page:
    """A page in the admin's browser."""
    page = somebody()
    page.goto("/admin/")
    sign_in(page, product)
    expect(page).to_have_title(re.compile("Overview"))
    return page


def new_user() -> str:
    return f"person-{uuid4().hex[:8]}"


def connect_url(product: Product, toolkit: str, user: str, **body: Any) -> str:
    """POST integrations/connect: where the person is sent."""
    answer = product.call("POST", "integrations/connect", json={"toolkit": toolkit, "userId": user, **body})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["authUrl"])


def execute(product: Product, tool: str, user: str, **params: Any) -> Any:
    """POST integrations/execute: the data of the answer."""
    answer = product.call("POST", "integrations/execute", json={"toolName": tool, "params": params, "userId": user})
    assert answer.status_code == 200, answer.text
    assert answer.json()["successful"] is True
    return answer.json()["data"]


def accounts(product: Product, user: str) -> list[tuple[str, str, str]]:
    """(toolkit, status, account) of what a person has connected."""
    rows = product.call("GET", f"integrations/connections?userId={user}").json()["connections"]
    return [(row["toolkit_slug"], row["status"], row["account"]) for row in rows]


class Links:
    """Links to our own connect page, each for a person of its own, as reconnecting and the admin give them out."""

    TOOLKITS = ("sandbox", "guarded", "notion")

    def __init__(self, product: Product) -> None:
        people = [(toolkit, new_user()) for toolkit in self.TOOLKITS for _ in range(5)]
        lines = product.run(
            "from apps.connections.links import Link, make_link\n"
            f"for toolkit, user in {people!r}:\n"
            f"    print(make_link(Link({product.facts['project_id']!r}, user, toolkit)))"
        ).splitlines()
        self._left = [(toolkit, link, user) for (toolkit, user), link in zip(people, lines, strict=True)]

    def take(self, toolkit: str) -> tuple[str, str]:
        """(link, user) that no other test has."""
        found = next(row for row in self._left if row[0] == toolkit)
        self._left.remove(found)
        return found[1:]


@pytest.fixture(scope="module")
def links(product: Product) -> Links:
    return Links(product)


# -- The sandbox: what a newcomer sees first ---------------------------------------------------------------------------
def test_a_newcomer_connects_by_the_lines_that_quickstart_prints(product: Product, somebody: Opens) -> None:
    if shutil.which("curl") is None:
        cannot_have("curl", "not on the PATH")
    to_connect, to_execute = CURL.findall(product.log)

    early = pasted(to_execute)
    assert early["error"]["code"] == "INTEGRATIONS_NOT_CONNECTED"

    person = somebody()
    person.goto(pasted(to_connect)["authUrl"])
    sign_in(person, product)
    person.get_by_role("button", name="Allow").click()
    expect(person.get_by_role("heading", name="Connected", exact=True)).to_be_visible()
    expect(person.get_by_role("status")).to_have_text("Your Sandbox account is connected.")

    answer = pasted(to_execute)
    assert answer["successful"] is True
    assert answer["data"]["text"] == "Hello from Jackfield"
    user = product.facts["end_user_id"]
    assert accounts(product, user) == [("sandbox", "active", product.facts["admin_email"])]


def pasted(command: str) -> Any:
    """What a shell prints for a pasted line, as JSON."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=40, check=True)
    return json.loads(done.stdout)


def test_a_person_comes_back_to_the_integrators_page(product: Product, site: str, somebody: Opens) -> None:
    user, person = new_user(), somebody()
    person.goto(connect_url(product, "sandbox", user, redirectUrl=site))
    sign_in(person, product)
    person.get_by_role("button", name="Allow").click()
    expect(person.get_by_role("heading", name="Welcome back")).to_be_visible()
    [row] = product.call("GET", f"integrations/connections?userId={user}").json()["connections"]
    arrived = {"tab": "accounts", "status": "connected", "toolkit": "sandbox", "connectionId": row["id"]}
    assert query_of(person.url) == arrived
    assert person.url.startswith(site.partition("#")[0])
    assert person.url.endswith("#services")
    note = execute(product, "SANDBOX_CREATE_NOTE", user, text="From the browser")
    assert execute(product, "SANDBOX_GET_NOTE", user, id=note["id"])["text"] == "From the browser"


def test_a_person_who_says_no_comes_back_with_access_denied(product: Product, site: str, somebody: Opens) -> None:
    user, person = new_user(), somebody()
    person.goto(connect_url(product, "sandbox", user, redirectUrl=site))
    sign_in(person, product)
    person.get_by_role("button", name="Cancel").click()
    expect(person.get_by_role("heading", name="Welcome back")).to_be_visible()
    assert query_of(person.url) == {"tab": "accounts", "status": "error", "message": "access_denied"}
    assert accounts(product, user) == []


def test_an_admin_connects_an_account_to_see_that_it_works(product: Product, admin: Page) -> None:
    user = new_user()
    admin.goto("/admin/connections/integration/catalog/sandbox/")
    admin.get_by_role("link", name="Configure").first.click()
    admin.get_by_label("End user id").fill(user)
    with admin.context.expect_page() as opened:
        admin.get_by_role("button", name="Connect a test account").click()
    tab = opened.value
    tab.get_by_role("button", name="Continue to Sandbox").click()
    tab.get_by_role("button", name="Allow").click()
    expect(tab.get_by_text("Connected.")).to_be_visible()
    assert execute(product, "SANDBOX_GET_ME", user)["email"] == product.facts["admin_email"]


def test_a_flow_of_our_page_ends_only_in_the_browser_where_it_began(
    product: Product, somebody: Opens, links: Links
) -> None:
    person, thief = somebody(), somebody()
    link, user = links.take("sandbox")
    person.goto(link)
    expect(person.get_by_text("Demo asks to use your Sandbox account on your behalf.")).to_be_visible()
    person.get_by_role("button", name="Continue to Sandbox").click()
    expect(person.get_by_role("heading", name="Sign in")).to_be_visible()

    thief.goto(person.url)
    sign_in(thief, product)
    thief.get_by_role("button", name="Allow").click()
    expect(thief.get_by_role("heading", name="Not connected")).to_be_visible()
    expect(thief.get_by_role("alert")).to_contain_text("begun in another browser")
    assert query_of(thief.url) == {"status": "error", "message": "invalid_state"}
    assert accounts(product, user) == []

    sign_in(person, product)
    person.get_by_role("button", name="Allow").click()
    expect(person.get_by_role("heading", name="Connected", exact=True)).to_be_visible()
    expect(person.locator("header")).to_contain_text("Demo")
    assert accounts(product, user) == [("sandbox", "active", product.facts["admin_email"])]


def test_a_spoilt_link_and_a_toolkit_that_is_off_are_explained(somebody: Opens, links: Links) -> None:
    person = somebody()
    link, _ = links.take("notion")
    person.goto(link)
    expect(person.get_by_role("alert")).to_have_text(
        "Notion accounts cannot be connected here at the moment. Please tell Demo."
    )
    person.goto(link[:-3])
    expect(person.get_by_role("alert")).to_have_text("This link is not valid any more. Please ask for a new one.")


# -- Services with an OAuth client of one's own, at the emulated ones --------------------------------------------------
def addresses_of(service: Service) -> dict[str, str]:
    """What an admin of a self-hosted instance enters as its addresses."""
    base = f"{service.url}/api" if service.name == "slack" else service.url
    found = {"Base URL": base, "Authorization URL": service.authorization_url, "Token URL": service.token_url}
    if service.name == "google":
        found["Revocation URL"] = f"{service.url}/oauth2/revoke"
    return found


def switch_on(admin: Page, product: Product, emulate: Emulate, toolkit: str, service: Service) -> None:
    """The admin's form, filled in as for a self-hosted instance; its callback URL is registered at the service."""
    admin.goto(f"/admin/connections/integration/catalog/{toolkit}/")
    admin.get_by_role("link", name=re.compile("^(Enable|Configure)")).first.click()
    callback = admin.locator("code").filter(has_text="/integrations/callback").first.inner_text()
    emulate.allow(callback.strip())
    admin.get_by_label("OAuth client id").fill(service.client_id)
    admin.get_by_label("OAuth client secret").fill(service.client_secret)
    addresses = admin.get_by_text("Other addresses")
    if not admin.get_by_label("Base URL").is_visible():
        addresses.click()
    for label, url in addresses_of(service).items():
        admin.get_by_label(label, exact=True).fill(url)
    admin.get_by_role("button", name=re.compile("^(Enable for Demo|Save)")).click()
    expect(admin.get_by_role("button", name="Connect a test account")).to_be_visible()
    assert service.client_secret not in admin.content()


def connect(product: Product, site: str, person: Page, toolkit: str, account: str, user: str) -> None:
    """The person at the service's own pages, and back at the integrator's."""
    person.goto(connect_url(product, toolkit, user, redirectUrl=site))
    assert not person.url.startswith(product.url)
    person.get_by_role("button", name=account).first.click()
    expect(person.get_by_role("heading", name="Welcome back")).to_be_visible()
    result = query_of(person.url)
    assert (result["status"], result["toolkit"]) == ("connected", toolkit)


def test_github_from_the_admins_form_to_an_issue(
    product: Product, site: str, emulate: Emulate, admin: Page, somebody: Opens
) -> None:
    switch_on(admin, product, emulate, "github", emulate.github)
    user = new_user()
    connect(product, site, somebody(), "github", LOGIN, user)
    assert accounts(product, user) == [("github", "active", LOGIN)]
    title = f"Bug report {uuid4().hex[:8]}"
    issue = {"repo": f"{LOGIN}/switchboard", "title": title, "body": "It rings twice.", "labels": ["bug"]}
    made = execute(product, "GITHUB_CREATE_ISSUE", user, **issue)
    seen = requests.get(
        f"{emulate.github.url}/repos/{LOGIN}/switchboard/issues/{made['number']}",
        headers={"Authorization": f"Bearer {GITHUB_TOKEN}"},
        timeout=10,
    ).json()
    assert (seen["title"], seen["body"], seen["user"]["login"]) == (title, "It rings twice.", LOGIN)
    assert [label["name"] for label in seen["labels"]] == ["bug"]
    admin.goto(f"/admin/connections/connection/?q={user}")
    expect(admin.locator("#result_list")).to_contain_text("al•••")  # masked


def test_gmail_from_the_admins_form_to_a_message(
    product: Product, site: str, emulate: Emulate, admin: Page, somebody: Opens
) -> None:
    switch_on(admin, product, emulate, "gmail", emulate.google)
    user = new_user()
    connect(product, site, somebody(), "gmail", EMAIL, user)
    assert accounts(product, user) == [("gmail", "active", EMAIL)]
    sent = execute(product, "GMAIL_SEND_EMAIL", user, to="x@y.com", subject="Hi", body="Hello")
    listed = execute(product, "GMAIL_LIST_MESSAGES", user)["messages"]
    assert sent["id"] in [message["id"] for message in listed]
    seen = requests.get(
        f"{emulate.google.url}/gmail/v1/users/{EMAIL}/messages/{sent['id']}",
        headers=ONLOOKER,
        timeout=10,
    ).json()
    headers = {header["name"].lower(): header["value"] for header in seen["payload"]["headers"]}
    assert (headers["to"], headers["subject"], seen["snippet"]) == ("x@y.com", "Hi", "Hello")


def test_google_calendar_from_the_admins_form_to_an_event(
    product: Product, site: str, emulate: Emulate, admin: Page, somebody: Opens
) -> None:
    switch_on(admin, product, emulate, "google-calendar", emulate.google)
    user = new_user()
    connect(product, site, somebody(), "google-calendar", EMAIL, user)
    assert accounts(product, user) == [("google-calendar", "active", EMAIL)]
    when = {"start": "2030-02-01T10:00:00Z", "end": "2030-02-01T10:30:00Z"}
    made = execute(product, "GOOGLECALENDAR_CREATE_EVENT", user, summary="Test the line", **when)
    listed = execute(product, "GOOGLECALENDAR_LIST_EVENTS", user, time_min="2030-02-01T00:00:00Z")["items"]
    assert [(event["id"], event["summary"]) for event in listed] == [(made["id"], "Test the line")]


def test_slack_from_the_admins_form_to_a_message(
    product: Product, site: str, emulate: Emulate, admin: Page, somebody: Opens
) -> None:
    switch_on(admin, product, emulate, "slack", emulate.slack)
    user = new_user()
    connect(product, site, somebody(), "slack", LOGIN, user)
    assert accounts(product, user) == [("slack", "active", "Acme")]
    channels = execute(product, "SLACK_LIST_CONVERSATIONS", user)["channels"]
    [channel] = [row["id"] for row in channels if row["name"] == "operations"]
    sent = execute(product, "SLACK_SEND_MESSAGE", user, channel=channel, text="Line 7 is connected")
    latest = execute(product, "SLACK_LIST_MESSAGES", user, channel=channel, limit=1)["messages"]
    assert [(message["ts"], message["text"]) for message in latest] == [(sent["ts"], "Line 7 is connected")]


# -- The Integrations API as its document prints it --------------------------------------------------------------------
class Integrator:
    """Another project of the installation, with a key of its own, called as the document says."""

    def __init__(self, product: Product) -> None:
        made = product.run(
            "from apps.workspaces.audit import SYSTEM;"
            "from apps.workspaces.models import Workspace;"
            "from apps.workspaces.services import change_settings, create_project, issue_key;"
            f"project = create_project(Workspace.objects.first(), 'As printed {uuid4().hex[:8]}', SYSTEM);"
            "change_settings(project, {'allowedOrigins': ['https://yourapp.com']}, SYSTEM);"
            "scopes = ['admin', 'connect', 'execute'];"
            "key = issue_key(project.workspace, 'as printed', SYSTEM, project=project, scopes=scopes)[1];"
            "print(project.pk, key)"
        )
        self.project, key = made.split()
        self.url = f"{product.url}/v1/{self.project}/integrations"
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}/{path}", headers=self.headers, timeout=20)

    def post(self, path: str, body: str) -> requests.Response:
        return requests.post(f"{self.url}/{path}", headers=self.headers, data=body, timeout=40)


CONFIGURE = """{ "toolkit": "gmail", "displayName": "Gmail", "scopes": []}"""
CONNECT = """{ "toolkit": "gmail", "redirectUrl": "https://yourapp.com/settings", "userId": "uuid"}"""
EXECUTE = """
{ "toolName": "GMAIL_SEND_EMAIL", "params": { "to": "x@y.com", "subject": "Hi", "body": "Hello" }, "userId": "uuid"}"""
REMEDIATION = "Check the tool name and parameters. Ensure the user has a connected account."


def test_the_documents_examples_run_as_printed(product: Product, emulate: Emulate, somebody: Opens) -> None:
    integrator = Integrator(product)
    found = integrator.get("available?search=salesforce").json()["integrations"]
    printed = {"toolkit": "salesforce", "displayName": "Salesforce", "curated": False}
    assert len(found) == 1
    assert {name: found[0][name] for name in printed} == printed

    refused = integrator.post("connect", CONNECT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "INTEGRATIONS_TOOLKIT_NOT_ENABLED")
    row = integrator.post("configure", CONFIGURE)
    assert (row.status_code, row.json()["toolkit_slug"], row.json()["enabled"]) == (200, "gmail", True)
    started = integrator.post("connect", CONNECT)
    assert started.status_code == 200
    assert set(started.json()) == {"authUrl", "connectionRequestId"}
    assert started.json()["authUrl"].startswith("https://accounts.google.com/")
    assert started.json()["connectionRequestId"].startswith("ca_")

    google = emulate.google
    emulate.allow(f"{product.url}/v1/integrations/callback")
    addresses = {
        "base_url": google.url,
        "authorization_url": google.authorization_url,
        "token_url": google.token_url,
    }
    moved = integrator.post("configure", json.dumps({"toolkit": "gmail", "settings": addresses}))
    assert moved.status_code == 200, moved.text
    person = somebody()
    person.route("https://yourapp.com/**", lambda route: route.fulfill(body="<h1>Your settings</h1>"))
    again = integrator.post("connect", CONNECT).json()
    person.goto(again["authUrl"])
    person.get_by_role("button", name=EMAIL).first.click()
    expect(person.get_by_role("heading", name="Your settings")).to_be_visible()
    connection = again["connectionRequestId"]
    assert person.url == f"https://yourapp.com/settings?status=connected&toolkit=gmail&connectionId={connection}"

    answer = integrator.post("execute", EXECUTE)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"successful", "data"}
    assert answer.json()["successful"] is True
    mailbox = requests.get(f"{google.url}/gmail/v1/users/me/messages", headers=ONLOOKER, timeout=10).json()
    assert answer.json()["data"]["id"] in [message["id"] for message in mailbox["messages"]]

    soft = integrator.post("execute", EXECUTE.replace("SEND_EMAIL", "SEND_FAX"))
    assert soft.status_code == 422
    assert {"code": "INTEGRATIONS_EXECUTION_FAILED", "remediation": REMEDIATION}.items() <= soft.json()["error"].items()
    nowhere = addresses | {"base_url": "http://127.0.0.1:1"}
    integrator.post("configure", json.dumps({"toolkit": "gmail", "settings": nowhere}))
    network = integrator.post("execute", EXECUTE)
    assert (network.status_code, network.json()["error"]["code"]) == (502, "INTEGRATIONS_EXECUTION_FAILED")


# -- Credentials that a person types -----------------------------------------------------------------------------------
def enable_guarded(product: Product, upstream: Upstream) -> None:
    body = {"toolkit": "guarded", "settings": {"base_url": upstream.url}}
    answer = product.call("POST", "integrations/configure", json=body)
    assert answer.status_code == 200, answer.text


def test_a_wrong_key_is_refused_and_the_right_one_connects(
    product: Product, site: str, upstream: Upstream, somebody: Opens
) -> None:
    enable_guarded(product, upstream)
    user, person = new_user(), somebody()
    form = connect_url(product, "guarded", user, redirectUrl=site)
    assert form.startswith(f"{product.url}/connect/")
    person.goto(form)
    person.get_by_label("Secret key").fill("a-wrong-key-93")
    person.get_by_role("button", name="Connect").click()
    expect(person.get_by_role("alert")).to_have_text("Guarded does not accept what was entered (status 401).")
    assert accounts(product, user) == []
    assert "a-wrong-key-93" not in person.content()

    person.get_by_label("Secret key").fill("the-right-key")
    person.get_by_role("button", name="Connect").click()
    expect(person.get_by_role("heading", name="Welcome back")).to_be_visible()
    assert query_of(person.url)["status"] == "connected"
    assert [row[:2] for row in accounts(product, user)] == [("guarded", "active")]
    assert execute(product, "GUARDED_ECHO", user)["path"] == "/echo/eu"
    assert upstream.requests("/echo/eu")[-1]["headers"]["authorization"] == "Bearer the-right-key"
    person.goto(form)
    expect(person.get_by_role("alert")).to_contain_text("was already used")
    assert form.rpartition("/")[2] not in product.log
    assert "-key" not in product.log.partition("quickstart.json")[2]


def test_every_fault_of_a_form_is_named_at_its_field(
    product: Product, upstream: Upstream, somebody: Opens, links: Links
) -> None:
    enable_guarded(product, upstream)
    person = somebody()
    person.goto(links.take("guarded")[0])
    expect(person.get_by_label("Secret key")).to_have_accessible_description(
        "You find it in the menu <your name>, Keys."
    )
    person.get_by_label("Region").fill("Europe")
    person.get_by_role("button", name="Connect").click()
    expect(person.get_by_label("Region")).to_have_accessible_description(re.compile("This does not look right."))
    expect(person.get_by_label("Secret key")).to_have_accessible_description(re.compile("This field is required."))
    person.get_by_role("link", name="Use User name and Password").click()
    person.get_by_label("User name").fill("ann")
    person.get_by_role("button", name="Connect").click()
    expect(person.get_by_role("alert")).to_contain_text("does not accept")
    expect(person.get_by_label("User name")).to_have_value("ann")
    expect(person.get_by_role("link", name="Use Secret key")).to_be_visible()


# -- For everybody -----------------------------------------------------------------------------------------------------
def check(axe: Axe, page: Page) -> None:
    assert axe.faults_in_both_schemes(page) == {}, page.url
    page.set_viewport_size({"width": 320, "height": 640})
    assert width_of(page) <= 320
    page.set_viewport_size({"width": 1280, "height": 720})


def test_the_pages_of_a_connection_are_for_everybody(
    product: Product, upstream: Upstream, somebody: Opens, links: Links, axe: Axe
) -> None:
    enable_guarded(product, upstream)
    person = somebody()
    person.goto(links.take("sandbox")[0])
    check(axe, person)
    person.get_by_role("button", name="Continue to Sandbox").click()
    check(axe, person)
    sign_in(person, product)
    check(axe, person)
    person.get_by_role("button", name="Allow").click()
    expect(person.get_by_role("heading", name="Connected", exact=True)).to_be_visible()
    check(axe, person)
    person.goto(f"/connect/result?status=error&message=access_denied&project={product.facts['project_id']}")
    check(axe, person)
    person.goto(links.take("guarded")[0])
    check(axe, person)
    person.get_by_label("Region").fill("Europe")
    person.get_by_role("button", name="Connect").click()
    expect(person.get_by_label("Region")).to_have_attribute("aria-invalid", "true")
    check(axe, person)
    person.get_by_label("Region").fill("eu")
    person.get_by_label("Secret key").fill("wrong")
    person.get_by_role("button", name="Connect").click()
    expect(person.get_by_role("alert")).to_be_visible()
    check(axe, person)


@pytest.mark.parametrize("colour", ["#ffd400", "#767676", "#0a0a0a"])
def test_a_projects_colour_leaves_its_pages_readable(
    product: Product, upstream: Upstream, somebody: Opens, links: Links, axe: Axe, colour: str
) -> None:
    enable_guarded(product, upstream)
    assert product.call("PATCH", "settings", json={"colour": colour}).status_code == 200
    person = somebody()
    person.goto(links.take("guarded")[0])
    shown = person.get_by_role("button", name="Connect").evaluate("button => getComputedStyle(button).backgroundColor")
    assert [int(part) for part in re.findall(r"\d+", shown)] == list(bytes.fromhex(colour[1:]))
    check(axe, person)
