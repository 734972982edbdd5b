"""A module written in the admin in a real browser: a fault at its line, @, rows, publishing, the key once, a test run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Error, Locator, Page, expect

from tests.browser.axe import Axe
from tests.browser.fitting import overflow
from tests.product import Product

pytestmark = pytest.mark.browser

TITLE = "steps.greeting.output.text"
WIDTHS = ((390, 844), (1400, 900))


@pytest.fixture
def context(chromium: Browser, product: Product) -> Iterator[BrowserContext]:
    """The quickstart's admin, signed in. What the console complains of fails the test."""
    context = chromium.new_context(base_url=product.url, viewport={"width": 1400, "height": 900})
    complaints: list[str] = []

    def listen(page: Page) -> None:
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))

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


@pytest.fixture
def editor(page: Page) -> Locator:
    """The text of a new module that says hello."""
    page.goto("/admin/modules/module/add/")
    page.locator("[name=name]").fill(f"hello-{uuid4().hex[:8]}")
    page.get_by_role("button", name="Make it, and open the editor").click()
    text = page.get_by_role("textbox", name="Definition")
    expect(text).to_have_value(re.compile("title: Say hello"))
    return text


def select(text: Locator, words: str) -> None:
    """Marks words in the text, as somebody would with the mouse."""
    text.evaluate(
        "(area, words) => { const at = area.value.indexOf(words); area.focus(); area.setSelectionRange(at, at + words.length); }",
        words,
    )


def fits(page: Page) -> bool:
    return overflow(page) <= 1


def test_a_module_is_written_mended_published_and_tried(page: Page, editor: Locator) -> None:
    address = page.url
    status = page.locator("#editor-status")
    expect(status).to_contain_text("No faults")

    select(editor, "set:")
    page.keyboard.type("sett:")
    expect(status).to_contain_text("fault")
    line = editor.input_value().split("sett:")[0].count("\n") + 1
    expect(page.locator(f"#line-{line}")).to_have_class("jf-fault")
    status.get_by_role("link", name=f"Line {line}").first.click()
    marked = editor.evaluate("area => area.value.slice(area.selectionStart, area.selectionEnd)")
    assert marked == editor.input_value().split("\n")[line - 1]

    # It cannot be saved so, and nothing is lost.
    page.get_by_role("button", name="Save draft").click()
    expect(status).to_contain_text("the draft was not saved")
    expect(editor).to_have_value(re.compile("sett:"))
    select(editor, "sett:")
    page.keyboard.type("set:")
    expect(status).to_contain_text("No faults")
    expect(page.locator(".jf-gutter .jf-fault")).to_have_count(0)

    page.get_by_role("button", name="Save and publish").click()
    page.get_by_label("Note").fill("The first")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.get_by_text("This key is shown now and never again.")).to_be_visible()
    key = page.locator("#secret").input_value()
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", key)
    page.get_by_role("link", name="I have copied it").click()
    expect(page.get_by_text("Version 1 is published", exact=False).last).to_be_visible()
    with pytest.raises(Error, match="ERR_CACHE_MISS"):  # the browser has kept nothing of it
        page.go_back()

    page = page.context.new_page()
    page.goto(address)
    page.get_by_role("link", name="Test run").click()
    page.get_by_role("textbox", name="Name").first.fill("Ada")
    page.get_by_role("button", name="Start the run").click()
    # The page looks for itself until the run has ended.
    expect(page.get_by_text("Completed", exact=True)).to_be_visible(timeout=20_000)
    fall = page.get_by_role("group", name="Waterfall of the run")
    row = fall.locator("summary").filter(has_text="greeting")
    row.click()
    expect(fall.get_by_label("Output of greeting")).to_contain_text("Hello, Ada!")
    expect(page.get_by_label("Result")).to_contain_text("Hello, Ada!")


def test_an_at_sign_completes_a_start_parameter_by_its_name(page: Page, editor: Locator) -> None:
    options = page.get_by_role("listbox", name="Start parameters").get_by_role("option")
    select(editor, "title: Say hello")
    page.keyboard.type("title: Greet @na")
    expect(options).to_have_count(1)
    page.keyboard.press("Enter")
    expect(editor).to_have_value(re.compile(r"title: Greet \{\{ start\.name \}\}\n"))

    # At the beginning of a value YAML needs quotes, in braces all of it; inside of quotes none are added.
    select(editor, '{greeting: "{{ steps.greeting.output.text }}"}')
    page.keyboard.type("{greeting: Dear @")
    page.keyboard.press("Tab")
    page.keyboard.type(", who: @name")
    page.keyboard.press("Enter")
    page.keyboard.type("}")
    expect(editor).to_have_value(
        re.compile(r'\{greeting: "Dear \{\{ start\.name \}\}", who: "\{\{ start\.name \}\}"\}')
    )
    expect(page.locator("#editor-status")).to_contain_text("No faults")

    page.keyboard.type(" # a@b")  # an address is none
    expect(options).to_have_count(0)
    page.keyboard.type(" @na")
    expect(options).to_have_count(1)
    page.keyboard.press("Escape")
    expect(options).to_have_count(0)


def test_start_parameters_and_access_are_changed_as_rows_and_choices(page: Page, editor: Locator) -> None:
    rows = page.locator(".jf-parameters tbody tr")
    expect(rows).to_have_count(2)
    rows.nth(1).get_by_label("Name", exact=True).fill("Start date")
    rows.nth(1).get_by_label("Name", exact=True).press("Tab")
    expect(rows).to_have_count(3)
    rows.nth(1).get_by_label("Type").select_option("date")
    expect(editor).to_have_value(re.compile(r"- \{name: Start date, api_name: start_date, type: date\}"))
    rows.nth(1).get_by_label("Required").check()
    expect(editor).to_have_value(re.compile(r"type: date, required: true\}"))
    page.get_by_role("button", name="Remove Start date").click()
    expect(rows).to_have_count(2)
    expect(editor).not_to_have_value(re.compile("start_date"))
    page.get_by_label("Public link").check()
    expect(editor).to_have_value(re.compile(r"\naccess: public\n"))
    # And the other way: what is written is what is chosen.
    select(editor, "access: public")
    page.keyboard.type("access: signed_in")
    expect(page.get_by_label("Signed-in users")).to_be_checked()
    page.get_by_role("button", name="Save draft").click()
    expect(page.get_by_text("The draft is saved.")).to_be_visible()
    expect(page.get_by_label("Signed-in users")).to_be_checked()


@pytest.mark.parametrize("width", [1024, 1200, 1280, 1400])
def test_the_rows_of_start_parameters_show_all_of_themselves(page: Page, editor: Locator, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    table = page.locator("[data-rows] .jf-scroll")
    expect(page.get_by_role("button", name="Remove Name")).to_be_visible()
    assert table.evaluate("box => box.scrollWidth - box.clientWidth") <= 0


def test_the_keys_of_an_editor_work_and_nobody_is_caught_in_it(page: Page, editor: Locator) -> None:
    select(editor, "steps:")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.keyboard.type("- id: first")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("set: {n: 1}")
    expect(editor).to_have_value(re.compile(r"steps:\n  - id: first\n    set: \{n: 1\}\n"))
    expect(page.locator("#editor-status")).to_contain_text("No faults")
    page.keyboard.press("Shift+Tab")
    expect(editor).to_have_value(re.compile(r"\n  set: \{n: 1\}\n"))
    page.keyboard.press("Control+z")
    expect(editor).to_have_value(re.compile(r"\n    set: \{n: 1\}\n"))
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    expect(editor).not_to_be_focused()
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    page.once("dialog", stay)
    page.get_by_role("link", name="Overview").click()
    for _ in range(100):
        if asked:
            break
        page.wait_for_timeout(100)
    assert asked == ["beforeunload"]
    editor.press("Control+s")
    expect(page.get_by_text("The draft is saved.")).to_be_visible()


def test_a_text_up_to_the_limit_is_saved_and_one_beyond_it_is_told(page: Page, editor: Locator) -> None:
    line = f"# {'ありがとう' * 120}\n"
    long = editor.input_value() + line * 500  # 0.9 MB, of which a form's other encoding would make 2.7 MB
    editor.fill(long)
    page.get_by_role("button", name="Save draft").click()
    expect(page.get_by_text("The draft is saved.")).to_be_visible(timeout=20000)
    editor.fill(long + line * 400)
    page.get_by_role("button", name="Save draft").click()
    expect(page.locator("#editor-status")).to_contain_text("A definition has at most 1 MB.")
    assert editor.input_value() == long + line * 400


def test_the_editor_works_where_its_script_does_not_come(context: BrowserContext, editor: Locator) -> None:
    page = context.new_page()
    page.route("**/module-editor*.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    page.goto(editor.page.url)
    text = page.get_by_role("textbox", name="Definition")
    text.fill(text.input_value().replace("set:", "sett:"))
    page.get_by_role("button", name="Save draft").click()
    expect(page.locator(".jf-gutter .jf-fault").first).to_be_visible()
    text.fill(text.input_value().replace("sett:", "set:"))
    page.locator('[name="p-1-name"]').fill("Start date")
    page.get_by_role("button", name="Write them into the text").click()
    expect(text).to_have_value(re.compile("api_name: start_date"))
    page.get_by_label("Off").check()
    page.get_by_role("button", name="Write it into the text").click()
    expect(text).to_have_value(re.compile("\naccess: off\n"))
    page.get_by_role("button", name="Save draft").click()
    expect(page.get_by_text("The draft is saved.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_of_modules_and_runs_fits_and_can_be_used_by_everybody(
    page: Page, editor: Locator, product: Product, axe: Axe, scheme: str
) -> None:
    module = page.url.split("/")[-3]
    run = product.run(
        "from apps.modules import services; from apps.modules.models import Module; from apps.runs import starting\n"
        "from apps.workspaces.audit import SYSTEM\n"
        f"module = Module.objects.select_related('project__workspace').get(pk='{module}')\n"
        "version = services.draft_version(module, SYSTEM)\n"
        "print(starting.start(module, {'name': 'Ada'}, SYSTEM, 'admin', version=version).pk)"
    ).splitlines()[-1]
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    own = (
        f"modules/module/{module}/change/", f"modules/module/{module}/publish/", f"modules/module/{module}/version/",
        "modules/module/add/", "modules/module/", f"runs/run/test/?module={module}", "runs/run/", "runs/humantask/",
        "modules/group/", "modules/group/add/", f"runs/run/{run.replace('_', '_5F')}/change/",
    )  # fmt: skip
    for path in own:
        page.goto(f"/admin/{path}")
        for width, height in WIDTHS:
            page.set_viewport_size({"width": width, "height": height})
            assert fits(page), (path, width)
    # Of the theme's own frame others are the judges.
    expect(page.get_by_text("Completed", exact=True)).to_be_visible(timeout=20_000)
    for path in (own[0], own[1], own[-1]):
        page.goto(f"/admin/{path}")
        for details in page.locator("#content details").all():
            details.locator("summary").first.click()
        found = [fault for fault in axe.faults(page) if "jf-" in fault or "#source" in fault]
        assert not found, (path, found)
