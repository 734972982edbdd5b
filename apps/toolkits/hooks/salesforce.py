"""What Salesforce's requests need that the toolkit file cannot say."""

from __future__ import annotations

from typing import Any


def next_page(params: dict[str, Any]) -> dict[str, Any]:
    """Answers name the next page by its whole path, of which the last segment is the locator."""
    return params | {"locator": params["locator"].rstrip("/").rpartition("/")[2]}


def name_objects(params: dict[str, Any]) -> dict[str, Any]:
    if "objects" not in params:
        return params
    return {"sobjects": [{"name": name} for name in params["objects"]]} | params


def name_types(params: dict[str, Any]) -> dict[str, Any]:
    """Each record of a collection says itself what it is."""
    kind = {"attributes": {"type": params["object"]}}
    return params | {"records": [record | kind for record in params["records"]]}


def write_text(params: dict[str, Any]) -> dict[str, Any]:
    return params | {"segments": [{"type": "Text", "text": params["text"]}, *params.get("segments", [])]}
