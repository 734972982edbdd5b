"""A tool as others want to be told of it: our own list, OpenAI's and Anthropic's function calling, MCP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .spec import Tool, Toolkit

Row = dict[str, Any]


def plain(toolkit: Toolkit, tool: Tool) -> Row:
    return {"name": toolkit.public_name(tool), "description": tool.description, "parameters": tool.input_schema}


def openai(toolkit: Toolkit, tool: Tool) -> Row:
    """https://platform.openai.com/docs/guides/function-calling"""
    return {"type": "function", "function": plain(toolkit, tool)}


def anthropic(toolkit: Toolkit, tool: Tool) -> Row:
    """https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/overview"""
    return {
        "name": toolkit.public_name(tool),
        "description": tool.description,
        "input_schema": tool.input_schema,
    }


def mcp(toolkit: Toolkit, tool: Tool) -> Row:
    """https://modelcontextprotocol.io/specification (tools/list)"""
    row: Row = {
        "name": toolkit.public_name(tool),
        "title": tool.name,
        "description": tool.description,
        "inputSchema": tool.input_schema,
        "annotations": {
            "readOnlyHint": tool.method in {"GET", "HEAD"},
            "destructiveHint": tool.method == "DELETE",
            "idempotentHint": tool.is_idempotent,
            "openWorldHint": True,
        },
    }
    return row


FORMATS: dict[str, Callable[[Toolkit, Tool], Row]] = {"": plain, "openai": openai, "anthropic": anthropic, "mcp": mcp}
