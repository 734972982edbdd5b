"""The page that teaches a first module does what it says."""

from __future__ import annotations

import re
import time
from typing import Any

from tests.product import ROOT, Product

PAGE = (ROOT / "docs" / "first-module.md").read_text(encoding="utf-8")
FIRST, FURTHER = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
YAML = {"Content-Type": "application/yaml"}


def data_of(command: str) -> str:
    """What the page's curl sends to a path that has this in it."""
    [found] = re.findall(rf"curl [^`]*?{command}[^`]*?-d '([^']*)'", PAGE)
    return str(found)


def until_asked(product: Product, run: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while not (rows := product.call("GET", f"tasks?runId={run}").json()["tasks"]):
        assert time.monotonic() < deadline, product.log[-3000:]
        time.sleep(0.1)
    return dict(rows[0])


def test_the_page_of_the_first_module_runs_as_printed(product: Product) -> None:
    saved = product.call("PUT", "modules/welcome", data=FIRST.encode(), headers=YAML)
    assert saved.status_code == 201, saved.text
    published = product.call("POST", "modules/welcome/publish", data=data_of("modules/welcome/publish")).json()
    assert published["version"] == 1
    own = {"Authorization": f"Bearer {published['api_key']}", "Content-Type": "application/json"}
    path = f"/api/execution/{published['id']}/sessions"
    started = product.call("POST", path, data=data_of("api/execution/"), headers=own)
    assert started.status_code == 201, started.text
    session = started.json()["data"]["sessionId"]
    [row] = [row for row in product.call("GET", "runs").json()["runs"] if row["sessionId"] == session]
    task = until_asked(product, row["id"])
    answered = product.call("POST", f"tasks/{task['id']}/answer", json={"answers": {"laptop": "13 inch"}})
    assert answered.status_code == 200, answered.text
    deadline = time.monotonic() + 20
    while (seen := product.call("GET", f"{path}/{session}?include=result", headers=own).json())["data"][
        "state"
    ] != "completed":
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    assert seen["data"]["result"] == {"summary": "Ada Lovelace gets a laptop of 13 inch."}


def test_the_step_that_the_page_adds_fits_in_front_of_the_last_one(product: Product) -> None:
    whole = FIRST.replace("  - id: summary\n", f"{FURTHER}  - id: summary\n")
    found = product.call("POST", "modules/welcome/check", data=whole.encode(), headers=YAML)
    assert found.json() == {"faults": []}
