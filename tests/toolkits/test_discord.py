"""Discord's tools, against what Discord documents: https://discord.com/developers/docs/reference."""

import json
from typing import Any

import pytest

from apps.toolkits.request import BadParameters
from apps.toolkits.spec import ApiKey, OAuth2
from tests.toolkits.driver import build_tool, load

API = "https://discord.com/api/v10"
CHANNEL = {"channel_id": "41771983423143937"}
MESSAGE = CHANNEL | {"message_id": "334385199974967042"}
GUILD = {"guild_id": "197038439483310086"}
IN_CHANNEL = "/channels/41771983423143937"
AT_MESSAGE = f"{IN_CHANNEL}/messages/334385199974967042"
IN_GUILD = "/guilds/197038439483310086"
CALLS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "get_current_user": ({}, "GET /users/@me", None),
    "list_my_guilds": ({"limit": 10, "with_counts": True}, "GET /users/@me/guilds?limit=10&with_counts=true", None),
    "get_my_guild_member": (GUILD, f"GET /users/@me{IN_GUILD}/member", None),
    "list_my_connections": ({}, "GET /users/@me/connections", None),
    "get_current_authorization": ({}, "GET /oauth2/@me", None),
    "get_role_connection": ({"application_id": "5"}, "GET /users/@me/applications/5/role-connection", None),
    "update_role_connection": (
        {"application_id": "5", "platform_name": "Exchange", "metadata": {"calls": "3"}},
        "PUT /users/@me/applications/5/role-connection",
        {"platform_name": "Exchange", "metadata": {"calls": "3"}},
    ),
    "get_invite": ({"code": "a/b"}, "GET /invites/a%2Fb", None),
    "send_message": (
        CHANNEL | {"content": "Hello", "reply_to": "7", "allowed_mentions": {"parse": []}},
        f"POST {IN_CHANNEL}/messages",
        {"content": "Hello", "message_reference": {"message_id": "7"}, "allowed_mentions": {"parse": []}},
    ),
    "list_messages": (CHANNEL | {"before": "7", "limit": 100}, f"GET {IN_CHANNEL}/messages?before=7&limit=100", None),
    "get_message": (MESSAGE, f"GET {AT_MESSAGE}", None),
    "edit_message": (MESSAGE | {"content": None}, f"PATCH {AT_MESSAGE}", {"content": None}),
    "delete_message": (MESSAGE, f"DELETE {AT_MESSAGE}", None),
    "add_reaction": (MESSAGE | {"emoji": "👍"}, f"PUT {AT_MESSAGE}/reactions/%F0%9F%91%8D/@me", None),
    "remove_reaction": (MESSAGE | {"emoji": "patch:12"}, f"DELETE {AT_MESSAGE}/reactions/patch%3A12/@me", None),
    "pin_message": (MESSAGE, f"PUT {IN_CHANNEL}/messages/pins/334385199974967042", None),
    "create_direct_message": ({"recipient_id": "9"}, "POST /users/@me/channels", {"recipient_id": "9"}),
    "create_thread": (MESSAGE | {"name": "Line 1"}, f"POST {AT_MESSAGE}/threads", {"name": "Line 1"}),
    "get_guild": (GUILD | {"with_counts": False}, f"GET {IN_GUILD}?with_counts=false", None),
    "list_guild_channels": (GUILD, f"GET {IN_GUILD}/channels", None),
    "get_channel": (CHANNEL, f"GET {IN_CHANNEL}", None),
    "create_channel": (GUILD | {"name": "lines", "type": 0}, f"POST {IN_GUILD}/channels", {"name": "lines", "type": 0}),
    "update_channel": (CHANNEL | {"topic": "Cables"}, f"PATCH {IN_CHANNEL}", {"topic": "Cables"}),
    "delete_channel": (CHANNEL, f"DELETE {IN_CHANNEL}", None),
    "list_guild_members": (GUILD | {"limit": 1000, "after": "0"}, f"GET {IN_GUILD}/members?limit=1000&after=0", None),
    "search_guild_members": (GUILD | {"query": "al"}, f"GET {IN_GUILD}/members/search?query=al", None),
    "get_guild_member": (GUILD | {"user_id": "9"}, f"GET {IN_GUILD}/members/9", None),
    "list_guild_roles": (GUILD, f"GET {IN_GUILD}/roles", None),
    "add_member_role": (GUILD | {"user_id": "9", "role_id": "4"}, f"PUT {IN_GUILD}/members/9/roles/4", None),
    "remove_member_role": (GUILD | {"user_id": "9", "role_id": "4"}, f"DELETE {IN_GUILD}/members/9/roles/4", None),
    "create_invite": (CHANNEL | {"max_age": 0}, f"POST {IN_CHANNEL}/invites", {"max_age": 0}),
}


@pytest.mark.parametrize("tool_slug", load("discord").tools_by_slug)
def test_a_tool_builds_the_documented_request(tool_slug: str) -> None:
    params, line, body = CALLS[tool_slug]
    request = build_tool("discord", tool_slug, params)
    assert f"{request.method} {request.full_url}" == line.replace(" /", f" {API}/", 1)
    assert (json.loads(request.body) if request.body else None) == body
    assert request.headers == {"User-Agent": "DiscordBot (http://127.0.0.1:8000, 1)"} | (
        {"Content-Type": "application/json"} if body is not None else {}
    )


def test_the_reason_for_the_audit_log_travels_encoded_in_a_header() -> None:
    request = build_tool("discord", "delete_channel", CHANNEL | {"reason": "Größe\r\nX: y"})
    assert request.headers["X-Audit-Log-Reason"] == "Gr%C3%B6%C3%9Fe%0D%0AX%3A%20y"
    assert request.body is None


def test_an_id_is_digits_only() -> None:
    with pytest.raises(BadParameters) as caught:
        build_tool("discord", "get_channel", {"channel_id": "../users/@me"})
    assert list(caught.value.faults) == ["channel_id"]


def test_a_message_needs_something_to_say_and_has_a_limit() -> None:
    with pytest.raises(BadParameters):
        build_tool("discord", "send_message", CHANNEL)
    with pytest.raises(BadParameters):
        build_tool("discord", "send_message", CHANNEL | {"content": "x" * 2001})


def test_a_person_signs_in_and_a_bot_has_a_token() -> None:
    schemes = load("discord").auth_by_type
    person, bot = schemes["oauth2"], schemes["api_key"]
    assert isinstance(person, OAuth2)
    assert (person.pkce, person.scopes) == (True, ["identify", "guilds"])
    assert person.revocation_url == "https://discord.com/api/oauth2/token/revoke"
    assert isinstance(bot, ApiKey)
    assert (bot.placement.into, bot.placement.name, bot.placement.prefix) == ("header", "Authorization", "Bot ")


def test_tools_that_need_a_bot_say_so() -> None:
    for tool in load("discord").tools:
        needs_bot = tool.path.startswith(("/channels/", "/guilds/")) or tool.slug == "create_direct_message"
        assert ("Needs a bot" in tool.description) == needs_bot, tool.slug
