"""A module from the API to its result: a tool, a condition, a form, an approval, a for_each and a wait, in a real browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.people import browser_of_its_own, sign_in
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("module-journey")]

MODULE = """
name: onboarding/equip
title: Equip a colleague
start_parameters:
  - {{name: Employee Name, api_name: employee_name, type: text, required: true}}
  - {{name: E-mail, api_name: employee_email, type: email}}
  - {{name: Start date, api_name: employment_start_date, type: date}}
  - {{name: Number, api_name: employee_reference_number, type: number}}
steps:
  - id: note
    title: Write a note
    tool: SANDBOX_CREATE_NOTE
    with: {{text: "Equip {{{{ start.employee_name }}}}", tags: [onboarding]}}
  - id: details
    title: Ask for the equipment
    form:
      title: "What does @[Employee Name] need?"
      pages:
        - title: Computer
          fields:
            - {{name: laptop, label: Which laptop?, type: choice, options: [13 inch, 15 inch], required: true}}
        - title: The rest
          fields:
            - {{name: screens, label: How many screens?, type: number, min: 0, max: 3, default: 1}}
            - {{name: note, label: Note, type: long_text, default: "For {{{{ start.employee_name }}}}"}}
  - id: ok
    title: Approval
    approve: {{title: "Buy a laptop of {{{{ steps.details.output.laptop }}}}?", reason_on_reject: true}}
  - id: branch
    condition: "{{{{ steps.ok.output.approved }}}}"
    then: [{{id: words, set: {{text: approved}}}}]
    else: [{{id: stop, fail: {{message: Not approved}}}}]
  - id: pause
    wait: 1s
  - id: order
    for_each: [keyboard, mouse, screen]
    as: thing
    parallel: 2
    do:
      - id: buy
        request: {{method: POST, url: "{shop}/echo/{{{{ thing }}}}", json: {{for: "{{{{ start.employee_email }}}}"}}}}
      - {{id: bought, set: {{thing: "{{{{ thing }}}}", status: "{{{{ steps.buy.output.status }}}}"}}}}
result:
  note: "{{{{ steps.note.output.id }}}}"
  laptop: "{{{{ steps.details.output.laptop }}}}"
  screens: "{{{{ steps.details.output.screens }}}}"
  ordered: "{{{{ steps.order.output }}}}"
"""
EMPLOYEE = {
    "employee_name": "John Doe",
    "employee_email": "john.doe@example.com",
    "employment_start_date": "2021-09-09",
    "employee_reference_number": 1234,
}


@pytest.fixture
def module(product: Product, upstream: Upstream) -> dict[str, Any]:
    source = MODULE.format(shop=upstream.url).encode()
    headers = {"Content-Type": "application/yaml"}
    saved = product.call("PUT", "modules/onboarding/equip", data=source, headers=headers)
    assert saved.status_code in {200, 201}, saved.text
    answer = product.call("POST", "modules/onboarding/equip/publish", json={"note": "For the test"})
    assert answer.status_code == 200, answer.text
    published: dict[str, Any] = answer.json()
    if "api_key" not in published:
        published |= product.call("POST", "modules/onboarding/equip/rotate-key", json={}).json()
    return published


@pytest.fixture
def page(chromium: Browser, product: Product) -> Iterator[Page]:
    with browser_of_its_own(chromium, product) as context:
        yield context.new_page()


def connect_demo_user(product: Product, page: Page) -> None:
    user = product.facts["end_user_id"]
    answer = product.call("POST", "integrations/connect", json={"toolkit": "sandbox", "userId": user})
    if answer.status_code == 200:
        page.goto(answer.json()["authUrl"])
        sign_in(page, product)
        page.get_by_role("button", name="Allow").click()
        expect(page.get_by_role("heading", name="Connected", exact=True)).to_be_visible()


def state(product: Product, module: dict[str, Any], session: str, query: str = "") -> dict[str, Any]:
    path = f"/api/execution/{module['id']}/sessions/{session}{query}"
    answer = product.call("GET", path, headers={"Authorization": f"Bearer {module['api_key']}"})
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["data"])


def until(product: Product, module: dict[str, Any], session: str, wanted: str, patience: float = 20) -> None:
    deadline = time.monotonic() + patience
    while (found := state(product, module, session)["state"]) != wanted:
        assert time.monotonic() < deadline, f"{found}, not {wanted}:\n{product.log[-3000:]}"
        time.sleep(0.1)


def test_a_module_runs_from_the_api_through_a_browser_to_its_result(
    product: Product, module: dict[str, Any], page: Page, upstream: Upstream
) -> None:
    connect_demo_user(product, page)
    started = product.call(
        "POST",
        f"/api/execution/{module['id']}/sessions",
        json={"data": {"startParameters": EMPLOYEE, "endUser": product.facts["end_user_id"]}},
        headers={"Authorization": f"Bearer {module['api_key']}"},
    )
    assert started.status_code == 201, started.text
    session, links = started.json()["data"]["sessionId"], started.json()["links"]
    assert links["self"] == f"/api/execution/{module['id']}/sessions/{session}"
    assert links["browser"] == f"{product.url}/s/{module['id']}/sessions/{session}"
    until(product, module, session, "waiting_for_input")

    page.goto(links["browser"])
    expect(page.get_by_text("What does John Doe need?")).to_be_visible()
    page.get_by_label("13 inch").check() if page.get_by_role("radio").count() else page.get_by_label(
        "Which laptop?"
    ).select_option("13 inch")
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_label("Note")).to_have_value("For John Doe")
    page.get_by_label("How many screens?").fill("2")
    page.get_by_role("button", name="Send").click()

    expect(page.get_by_text("Buy a laptop of 13 inch?")).to_be_visible(timeout=15000)
    page.get_by_role("button", name="Approve").click()
    until(product, module, session, "completed")
    expect(page.get_by_text("Done", exact=False).first).to_be_visible(timeout=15000)

    result = state(product, module, session, "?include=result")["result"]
    assert isinstance(result.pop("note"), int)
    assert result == {
        "laptop": "13 inch",
        "screens": 2,
        "ordered": [{"thing": thing, "status": 200} for thing in ("keyboard", "mouse", "screen")],
    }
    assert {upstream.count(f"/echo/{thing}") for thing in ("keyboard", "mouse", "screen")} == {1}


def test_a_start_without_the_required_parameter_names_it(product: Product, module: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {module['api_key']}"}
    answer = product.call("POST", f"/api/execution/{module['id']}/sessions", headers=headers)
    assert answer.status_code == 400
    [fault] = answer.json()["errors"]
    assert "employee_name" in str(fault)
