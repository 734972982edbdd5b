"""Notion: plain text becomes rich text and blocks."""

from __future__ import annotations

from typing import Any

Params = dict[str, Any]
RUN_LENGTH = 2000  # characters of one rich text object: https://developers.notion.com/reference/request-limits


def rich_text(text: str) -> list[dict[str, Any]]:
    """Plain text as rich text objects, each within Notion's limit."""
    runs = [text[start : start + RUN_LENGTH] for start in range(0, len(text), RUN_LENGTH)]
    return [{"type": "text", "text": {"content": run}} for run in runs]


def paragraphs(text: str) -> list[dict[str, Any]]:
    """One paragraph block a line."""
    lines = text.split("\n")
    return [{"object": "block", "type": "paragraph", "paragraph": {"rich_text": rich_text(line)}} for line in lines]


def page(params: Params) -> Params:
    """``title`` goes into the property whose id is always ``title``, whatever a database calls it."""
    placed = dict(params)
    if "title" in placed:
        placed["properties"] = {"title": {"title": rich_text(placed.pop("title"))}} | placed.get("properties", {})
    return with_blocks(placed)


def with_blocks(params: Params) -> Params:
    """``text`` becomes paragraphs after the blocks that were given."""
    placed = dict(params)
    if "text" in placed:
        placed["children"] = [*placed.get("children", []), *paragraphs(placed.pop("text"))]
    return placed


def with_rich_text(params: Params) -> Params:
    """The parameters that Notion wants as rich text may be plain text."""
    names = ("title", "description", "rich_text")
    return params | {name: rich_text(params[name]) for name in names if isinstance(params.get(name), str)}


def search_options(params: Params) -> Params:
    """Notion filters and sorts by one thing only, and wants it named."""
    placed = dict(params)
    if "object" in placed:
        placed["object"] = {"property": "object", "value": placed["object"]}
    if "direction" in placed:
        placed["direction"] = {"timestamp": "last_edited_time", "direction": placed["direction"]}
    return placed
