"""A toolkit whose service is the echoing upstream, switched on and connected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from apps.connections.models import Connection, Integration
from apps.runs.journal import journal
from apps.runs.models import Execution
from apps.toolkits.registry import catalog, parse
from apps.toolkits.spec import Toolkit
from tests.cast import Api, Cast, connect, enable
from tests.peers.upstream import Upstream

LAB = """
slug: lab
name: Lab
base_url: https://lab.example
auth:
  - type: oauth2
    authorization_url: https://lab.example/authorize
    token_url: https://lab.example/token
    scopes: [read, write]
tools:
  - slug: get_item
    name: Get an item
    description: Reads an item.
    method: GET
    path: /echo/items/{id}
    parameters:
      id: {in: path, type: [string, integer], required: true}
      q: {in: query, type: [string, number, boolean]}
      tags: {in: query, type: array, items: {type: string}}
      note: {in: header, as: X-Note, type: string}
  - slug: get_part
    name: Get a part
    description: Reads what lies below an item.
    method: GET
    path: /echo/items/{id}/part
    parameters:
      id: {in: path, type: string, required: true}
  - slug: get_file
    name: Get a file
    description: Reads a file.
    method: GET
    path: /echo/files/{path}
    parameters:
      path: {in: path, type: string, format: path, required: true}
  - slug: create_item
    name: Create an item
    description: Writes an item.
    method: POST
    path: /echo/items
    parameters:
      title: {in: body, type: string, required: true, maxLength: 1000}
      count: {in: body, type: integer}
      data: {in: body, as: /inner/data, type: [object, array]}
  - slug: submit
    name: Submit
    description: Sends a form.
    method: POST
    path: /echo/form
    parameters:
      name: {in: form, type: string}
  - slug: upload
    name: Upload
    description: Sends a file.
    method: POST
    path: /echo/upload
    parameters:
      title: {in: multipart, type: string}
      file: {in: multipart, type: object}
  - slug: answer
    name: Answer
    description: Answers in the way that is asked for.
    method: POST
    path: /{kind}
    parameters:
      kind: {in: path, type: string, format: path, required: true}
      after: {in: query, as: retry-after, type: string}
  - slug: hang
    name: Hang
    description: Never answers.
    method: GET
    path: /hang
    timeout: 1
  - slug: slow
    name: Slow
    description: Answers late.
    method: POST
    path: /slow
    parameters:
      seconds: {in: query, type: number}
"""


@pytest.fixture(scope="session")
def lab_toolkit() -> Toolkit:
    toolkit, faults = parse(yaml.safe_load(LAB))
    assert toolkit is not None, faults
    return toolkit


@pytest.fixture
def lab(lab_toolkit: Toolkit) -> Iterator[Toolkit]:
    """The lab is in the catalog."""
    known = catalog()
    names = {
        name: (lab_toolkit, tool)
        for tool in lab_toolkit.tools
        for name in (lab_toolkit.public_name(tool), f"lab.{tool.slug}")
    }
    known.toolkits["lab"] = lab_toolkit
    known.tools.update(names)
    yield lab_toolkit
    del known.toolkits["lab"]
    for name in names:
        del known.tools[name]


@dataclass
class Shop:
    """Alice's project with the lab switched on at the upstream, and the user u1 connected."""

    cast: Cast
    integration: Integration
    connection: Connection
    upstream: Upstream

    @property
    def api(self) -> Api:
        return self.cast.api

    def executions(self) -> list[Execution]:
        journal.flush()
        return list(Execution.objects.order_by("created_at", "id"))


@pytest.fixture
def shop(cast: Cast, lab: Toolkit, upstream: Upstream, settings: Any) -> Shop:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    upstream.reset()
    integration = enable(cast.project, "lab", upstream.url)
    return Shop(cast, integration, connect(integration), upstream)


def error_of(response: Any) -> dict[str, Any]:
    """The error of an answer whose envelope has exactly the members that the contract names."""
    body = response.json()
    assert set(body) == {"error"}, body
    error = body["error"]
    assert {"code", "message", "remediation", "documentation_url"} <= set(error) <= {
        "code", "message", "remediation", "documentation_url", "details",
    }, error  # fmt: skip
    assert all(isinstance(error[name], str) and error[name] for name in set(error) - {"details"})
    assert error["documentation_url"].endswith(f"/docs/errors#{error['code']}")
    return dict(error)


def fails(response: Any, status: int, code: str) -> dict[str, Any]:
    """Asserts status and code; gives the error."""
    assert response.status_code == status, response.content[:500]
    assert response["Content-Type"] == "application/json"
    error = error_of(response)
    assert error["code"] == code, error
    if status == 429:
        assert int(response["Retry-After"]) >= 1
    return error
