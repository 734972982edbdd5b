"""Notion's tools, against what Notion documents: https://developers.notion.com/reference."""

import json
from typing import Any

import pytest

from apps.toolkits.hooks.notion import rich_text
from apps.toolkits.request import BadParameters
from apps.toolkits.spec import OAuth2
from tests.toolkits.driver import build_tool, load

API = "https://api.notion.com/v1"
ID = "98ad959b-2b6a-4774-80ee-00246fb0ea9b"
OTHER = "98ad959b2b6a477480ee00246fb0ea9c"
HELLO = [{"type": "text", "text": {"content": "Hello"}}]
PARAGRAPH = {"object": "block", "type": "paragraph", "paragraph": {"rich_text": HELLO}}
CALLS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "search": (
        {"query": "Roadmap", "object": "page", "direction": "ascending", "page_size": 5},
        "POST /search",
        {
            "query": "Roadmap",
            "filter": {"property": "object", "value": "page"},
            "sort": {"timestamp": "last_edited_time", "direction": "ascending"},
            "page_size": 5,
        },
    ),
    "create_page": (
        {"data_source_id": ID, "title": "Hello", "text": "Hello", "properties": {"Done": {"checkbox": True}}},
        "POST /pages",
        {
            "parent": {"data_source_id": ID},
            "properties": {"title": {"title": HELLO}, "Done": {"checkbox": True}},
            "children": [PARAGRAPH],
        },
    ),
    "get_page": (
        {"page_id": ID, "filter_properties": ["a", "b"]},
        f"GET /pages/{ID}?filter_properties=a&filter_properties=b",
        None,
    ),
    "update_page": ({"page_id": ID, "in_trash": True}, f"PATCH /pages/{ID}", {"in_trash": True}),
    "move_page": ({"page_id": ID, "parent_page_id": OTHER}, f"POST /pages/{ID}/move", {"parent": {"page_id": OTHER}}),
    "get_page_property": ({"page_id": ID, "property_id": "%3A"}, f"GET /pages/{ID}/properties/%253A", None),
    "get_page_markdown": ({"page_id": ID}, f"GET /pages/{ID}/markdown", None),
    "get_database": ({"database_id": ID}, f"GET /databases/{ID}", None),
    "create_database": (
        {"parent_page_id": ID, "title": "Hello", "properties": {"Name": {"title": {}}}},
        "POST /databases",
        {
            "parent": {"type": "page_id", "page_id": ID},
            "title": HELLO,
            "initial_data_source": {"properties": {"Name": {"title": {}}}},
        },
    ),
    "get_data_source": ({"data_source_id": ID}, f"GET /data_sources/{ID}", None),
    "query_data_source": (
        {
            "data_source_id": ID,
            "filter": {"property": "Done", "checkbox": {"equals": True}},
            "sorts": [{"property": "Name", "direction": "ascending"}],
            "filter_properties": ["a"],
            "start_cursor": "c",
        },
        f"POST /data_sources/{ID}/query?filter_properties=a",
        {
            "filter": {"property": "Done", "checkbox": {"equals": True}},
            "sorts": [{"property": "Name", "direction": "ascending"}],
            "start_cursor": "c",
        },
    ),
    "update_data_source": ({"data_source_id": ID, "title": "Hello"}, f"PATCH /data_sources/{ID}", {"title": HELLO}),
    "list_block_children": ({"block_id": ID, "page_size": 50}, f"GET /blocks/{ID}/children?page_size=50", None),
    "append_block_children": (
        {"block_id": ID, "children": [{"divider": {}}], "text": "Hello"},
        f"PATCH /blocks/{ID}/children",
        {"children": [{"divider": {}}, PARAGRAPH]},
    ),
    "get_block": ({"block_id": ID}, f"GET /blocks/{ID}", None),
    "update_block": (
        {"block_id": ID, "block": {"paragraph": {"rich_text": HELLO}}},
        f"PATCH /blocks/{ID}",
        {"paragraph": {"rich_text": HELLO}},
    ),
    "delete_block": ({"block_id": ID}, f"DELETE /blocks/{ID}", None),
    "list_comments": ({"block_id": ID}, f"GET /comments?block_id={ID}", None),
    "create_comment": (
        {"page_id": ID, "rich_text": "Hello"},
        "POST /comments",
        {"parent": {"page_id": ID}, "rich_text": HELLO},
    ),
    "list_users": ({"start_cursor": "c"}, "GET /users?start_cursor=c", None),
    "get_user": ({"user_id": ID}, f"GET /users/{ID}", None),
    "get_current_user": ({}, "GET /users/me", None),
}


@pytest.mark.parametrize("tool_slug", load("notion").tools_by_slug)
def test_a_tool_builds_the_documented_request(tool_slug: str) -> None:
    params, line, body = CALLS[tool_slug]
    request = build_tool("notion", tool_slug, params)
    assert f"{request.method} {request.full_url}" == line.replace(" /", f" {API}/", 1)
    assert (json.loads(request.body) if request.body else None) == body
    assert request.headers == {"Notion-Version": "2025-09-03"} | (
        {"Content-Type": "application/json"} if body is not None else {}
    )


def test_a_search_without_words_lists_everything() -> None:
    assert build_tool("notion", "search", {}).body == b"{}"


def test_text_becomes_a_paragraph_a_line() -> None:
    request = build_tool("notion", "create_page", {"parent_page_id": ID, "text": "One\n\nTwo"})
    children = json.loads(request.body or b"")["children"]
    texts = ["".join(run["text"]["content"] for run in child["paragraph"]["rich_text"]) for child in children]
    assert texts == ["One", "", "Two"]


def test_long_text_is_split_at_notions_limit() -> None:
    runs = rich_text("x" * 4001)
    assert [len(run["text"]["content"]) for run in runs] == [2000, 2000, 1]


def test_rich_text_is_passed_on_as_it_is() -> None:
    rich = [{"type": "text", "text": {"content": "Bold"}, "annotations": {"bold": True}}]
    request = build_tool("notion", "create_comment", {"discussion_id": ID, "rich_text": rich})
    assert json.loads(request.body or b"") == {"discussion_id": ID, "rich_text": rich}


def test_a_page_needs_a_place() -> None:
    with pytest.raises(BadParameters):
        build_tool("notion", "create_page", {"title": "Hello"})


def test_an_id_cannot_lead_elsewhere() -> None:
    with pytest.raises(BadParameters):
        build_tool("notion", "get_page", {"page_id": "../users/me"})


def test_people_pick_what_the_integration_sees_and_there_are_no_scopes() -> None:
    toolkit = load("notion")
    scheme = toolkit.auth_by_type["oauth2"]
    assert isinstance(scheme, OAuth2)
    assert (scheme.client_auth, scheme.scopes, scheme.authorization_params) == (
        "client_secret_basic",
        [],
        {"owner": "user"},
    )
    assert toolkit.profile is not None
    assert (toolkit.profile.path, toolkit.profile.label) == ("/users/me", "/bot/workspace_name")
