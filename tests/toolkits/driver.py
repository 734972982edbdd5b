"""Runs one tool of the catalog as the product does, but without its database: for tests against real servers."""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path
from typing import Any

import requests

from apps.toolkits import hooks
from apps.toolkits.registry import CATALOG_DIR, read_file
from apps.toolkits.request import Request, build, build_call, check_parameters
from apps.toolkits.spec import Call, Tool, Toolkit


@lru_cache
def load(slug: str) -> Toolkit:
    toolkit, faults = read_file(CATALOG_DIR / f"{slug}.yaml")
    assert toolkit is not None, "\n".join(str(fault) for fault in faults)
    return toolkit


def variables_of(toolkit: Toolkit) -> dict[str, str]:
    """Something for every blank of the toolkit; the one that its base URL begins with is an origin."""
    found = {name: variable.default or "example" for name, variable in toolkit.variables.items()}
    starts = [name for name in found if (toolkit.base_url or "").startswith(f"{{{name}}}")]
    return {"jackfield_url": "http://127.0.0.1:8000"} | found | dict.fromkeys(starts, "https://example.com")


def make_request(toolkit: Toolkit, tool: Tool, params: dict[str, Any], base_url: str = "") -> Request:
    """The request of a call, without a credential. Raises `BadParameters`."""
    check_parameters(tool, params)
    placed = hooks.find(toolkit.slug, tool.hook)(dict(params)) if tool.hook else params
    return build(toolkit, tool, placed, variables_of(toolkit), base_url)


def build_tool(toolkit_slug: str, tool_slug: str, params: dict[str, Any], base_url: str = "") -> Request:
    toolkit = load(toolkit_slug)
    return make_request(toolkit, toolkit.tools_by_slug[tool_slug], params, base_url)


def run(toolkit_slug: str, tool_slug: str, params: dict[str, Any], base_url: str, token: str) -> tuple[int, Any]:
    """Sends one call with a bearer token; gives the status and the decoded answer."""
    toolkit = load(toolkit_slug)
    tool = toolkit.tools_by_slug[tool_slug]
    status, answer = send(make_request(toolkit, tool, params, base_url), token)
    if tool.answer_hook and status < 300:
        answer = hooks.find(toolkit.slug, tool.answer_hook)(answer)
    return status, answer


def send(request: Request, token: str) -> tuple[int, Any]:
    headers = request.headers | {"Authorization": f"Bearer {token}"}
    with requests.request(
        request.method, request.full_url, headers=headers, data=request.body, timeout=request.timeout
    ) as answer:
        return answer.status_code, decode(answer)


def decode(answer: requests.Response) -> Any:
    """JSON is decoded, anything else is bytes, and nothing is None."""
    if not answer.content:
        return None
    return answer.json() if "json" in answer.headers.get("Content-Type", "") else answer.content


class Service:
    """One toolkit at one server: ``service("create_issue", title=...)`` gives the answer of a call that succeeds."""

    def __init__(self, toolkit_slug: str, base_url: str, token: str, **always: Any) -> None:
        self.toolkit_slug = toolkit_slug
        self.base_url = base_url
        self.token = token
        self.always = always

    def answer(self, tool_slug: str, **params: Any) -> tuple[int, Any]:
        known = load(self.toolkit_slug).tools_by_slug[tool_slug].parameters
        always = {name: value for name, value in self.always.items() if name in known}
        return run(self.toolkit_slug, tool_slug, always | params, self.base_url, self.token)

    def call(self, call: Call) -> Any:
        """The answer of a fixed call: the profile or the test of the toolkit."""
        toolkit = load(self.toolkit_slug)
        status, answer = send(build_call(toolkit, call, variables_of(toolkit), self.base_url), self.token)
        assert status < 300, f"{call.path}: {status} {answer}"
        return answer

    def __call__(self, tool_slug: str, **params: Any) -> Any:
        status, answer = self.answer(tool_slug, **params)
        assert status < 300, f"{tool_slug}: {status} {answer}"
        return answer


def tools_named(source_file: str, callee: str) -> set[str]:
    """The tools that a test file calls: the first arguments of every ``callee("tool", ...)`` in its source."""
    tree = ast.parse(Path(source_file).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    return {
        str(call.args[0].value)
        for call in calls
        if ast.unparse(call.func).split(".")[0] == callee and isinstance(call.args[0], ast.Constant)
    }
