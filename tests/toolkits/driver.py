"""Runs one tool of the catalog as the product does, but without its database: for tests against real servers."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import requests

from apps.toolkits.registry import CATALOG_DIR, read_file
from apps.toolkits.request import Request, build, check_parameters
from apps.toolkits.spec import Tool, Toolkit

VARIABLES = {"jackfield_url": "http://127.0.0.1:8000"}


@lru_cache
def load(slug: str) -> Toolkit:
    toolkit, faults = read_file(CATALOG_DIR / f"{slug}.yaml")
    assert toolkit is not None, "\n".join(str(fault) for fault in faults)
    return toolkit


def hook(toolkit: Toolkit, name: str) -> Callable[[Any], Any]:
    module = importlib.import_module(f"apps.toolkits.hooks.{toolkit.slug.replace('-', '_')}")
    function: Callable[[Any], Any] = getattr(module, name)
    return function


def make_request(toolkit: Toolkit, tool: Tool, params: dict[str, Any], base_url: str = "") -> Request:
    """The request of a call, without a credential. Raises `BadParameters`."""
    check_parameters(tool, params)
    placed = hook(toolkit, tool.hook)(dict(params)) if tool.hook else params
    variables = {name: variable.default or "example" for name, variable in toolkit.variables.items()}
    return build(toolkit, tool, placed, VARIABLES | variables, base_url)


def build_tool(toolkit_slug: str, tool_slug: str, params: dict[str, Any], base_url: str = "") -> Request:
    toolkit = load(toolkit_slug)
    return make_request(toolkit, toolkit.tools_by_slug[tool_slug], params, base_url)


def run(toolkit_slug: str, tool_slug: str, params: dict[str, Any], base_url: str, token: str) -> tuple[int, Any]:
    """Sends one call with a bearer token; gives the status and the decoded answer."""
    toolkit = load(toolkit_slug)
    tool = toolkit.tools_by_slug[tool_slug]
    request = make_request(toolkit, tool, params, base_url).with_header("Authorization", f"Bearer {token}")
    with requests.Session() as session:
        answer = session.request(
            request.method, request.full_url, headers=request.headers, data=request.body, timeout=request.timeout
        )
    decoded = decode(answer)
    return answer.status_code, hook(toolkit, tool.answer_hook)(decoded) if tool.answer_hook else decoded


def decode(answer: requests.Response) -> Any:
    if not answer.content:
        return None
    if "json" in answer.headers.get("Content-Type", ""):
        return answer.json()
    return answer.content


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
