"""Jobs in a real browser: made by the form, looked at in the calendar, fired, and followed until the last item has ended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from uuid import uuid4

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.browser.axe import Axe
from tests.browser.fitting import overflow
from tests.browser.people import browser_of_its_own, sign_in
from tests.product import Product

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("module-journey")]

MODULE = """
name: jobs/greet
title: Greet, late
start_parameters:
  - {name: Name, api_name: name, type: text, required: true}
steps:
  - {id: pause, wait: 2s}
  - id: choose
    condition: "{{ start.name == 'Nobody' }}"
    then: [{id: stop, fail: {message: There is nobody to greet}}]
result: "Hello {{ start.name }}"
"""
WEEKDAYS = {"hour": 9, "minute": 30, "dayOfWeek": {"start": "MONDAY", "end": "FRIDAY"}}
SCHEDULE = {"calendars": [WEEKDAYS], "timezone": "Europe/Berlin"}
SIZES = ((390, 844), (1400, 900))


@pytest.fixture
def module(product: Product) -> str:
    headers = {"Content-Type": "application/yaml"}
    saved = product.call("PUT", "modules/jobs/greet", data=MODULE.encode(), headers=headers)
    assert saved.status_code in {200, 201}, saved.text
    assert product.call("POST", "modules/jobs/greet/publish", json={}).status_code == 200
    return "jobs/greet"


@pytest.fixture
def page(chromium: Browser, product: Product) -> Iterator[Page]:
    with browser_of_its_own(chromium, product) as context:
        page = context.new_page()
        page.goto("/admin/")
        sign_in(page, product)
        expect(page).to_have_title(re.compile("Overview"))
        yield page


def looks_right(page: Page, axe: Axe) -> None:
    assert axe.faults_in_both_schemes(page) == {}
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        assert overflow(page) <= 1, (page.url, width)


def make(page: Page, module: str, name: str, *names: str) -> None:
    payload = [{"apiName": module, "parameters": {"name": one}} for one in names]
    page.goto("/admin/runs/job/add/")
    page.get_by_label("Id").fill(name)
    page.get_by_label("Payload").fill(json.dumps(payload))
    page.get_by_label("Configuration").fill('{"maxConcurrentRequests": 2, "retry": {"maximumAttempts": 1}}')
    page.get_by_label("Schedule").fill(json.dumps(SCHEDULE))


def test_a_job_is_made_looked_at_fired_and_followed_to_its_end(page: Page, module: str, axe: Axe) -> None:
    name = f"greetings-{uuid4().hex[:8]}"
    make(page, module, name, "Ada", "Nobody", "Grace")
    page.get_by_label("Schedule").fill('{"calendars": [{"hour": 25}]}')
    page.get_by_role("button", name="Make the job").click()
    expect(page.get_by_text("calendars.0.hour: Must be a whole number from 0 to 23", exact=False)).to_be_visible()
    looks_right(page, axe)
    page.get_by_label("Schedule").fill(json.dumps(SCHEDULE))
    page.get_by_role("button", name="Make the job").click()

    expect(page.get_by_text("At 09:30 on Monday to Friday (Europe/Berlin).")).to_be_visible()
    firings = page.get_by_role("region", name="Next firings").get_by_role("listitem")
    expect(firings).to_have_count(10)
    expect(firings.first).to_have_text(re.compile(r"^\w+day, \d+ \w+ 20\d\d at 09:30 \(Europe/Berlin\), in "))
    looks_right(page, axe)
    calendar = page.get_by_role("region", name="Calendar")
    shown = calendar.get_by_role("heading").inner_text()
    calendar.get_by_role("link", name="The month after").click()
    expect(calendar.get_by_role("heading")).not_to_have_text(shown)
    expect(calendar.get_by_role("cell", name=re.compile("1 firing: 09:30")).nth(18)).to_be_visible()
    calendar.get_by_role("link", name="Today").click()
    expect(calendar.get_by_role("heading")).to_have_text(shown)

    page.get_by_role("button", name="Fire now").click()
    bar = page.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuemax", "3")
    expect(bar).to_have_attribute("aria-valuetext", "3 of 3 ended, 1 failed", timeout=30_000)
    expect(page.get_by_role("status")).to_have_text("Failed")
    failed = page.get_by_role("region", name="Failed items")
    failed.get_by_text("There is nobody to greet").click()
    looks_right(page, axe)

    link = page.get_by_role("link", name="Results as JSON Lines").get_attribute("href")
    assert link is not None
    redirect = page.context.request.get(link, max_redirects=0)
    origin = re.match(r"https?://[^/]+", page.url)
    assert origin is not None
    lines = requests.get(f"{origin[0]}{redirect.headers['location']}", timeout=10).text.splitlines()
    assert [json.loads(line)["result"]["status"] for line in lines] == ["completed", "failed", "completed"]

    failed.get_by_role("link", name="The run").click()
    expect(page.get_by_text("Item of job run")).to_be_visible()


def test_a_job_run_that_is_terminated_stops_where_it_is_looked_at(page: Page, module: str, axe: Axe) -> None:
    name = f"long-{uuid4().hex[:8]}"
    make(page, module, name, *(f"Person {number}" for number in range(40)))
    page.get_by_role("button", name="Make the job").click()
    page.get_by_role("button", name="Fire now").click()
    expect(page.get_by_role("status")).to_have_text("Under way")
    expect(page.get_by_role("progressbar")).not_to_have_attribute("aria-valuenow", "0", timeout=30_000)
    page.get_by_role("button", name="Terminate").focus()
    before = page.get_by_role("progressbar").get_attribute("aria-valuenow")
    expect(page.get_by_role("progressbar")).not_to_have_attribute("aria-valuenow", str(before), timeout=30_000)
    expect(page.get_by_role("button", name="Terminate")).to_be_focused()  # the page was told anew meanwhile
    page.once("dialog", lambda dialog: dialog.accept())
    page.keyboard.press("Enter")
    expect(page.get_by_text("The job run is terminated.")).to_be_visible()
    expect(page.get_by_role("status").get_by_text("Terminated")).to_be_visible()
    expect(page.get_by_role("button", name="Terminate")).to_have_count(0)
    page.get_by_role("link", name="All items").click()
    expect(page.locator(".jf-item")).to_have_count(40)
    looks_right(page, axe)
