"""Slack's tools against the emulated Slack, with the bot token of a real installation."""

import json
import time
import uuid
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests

from apps.toolkits.request import BadParameters
from tests.peers.emulate import EMAIL, LOGIN, SLACK_SCOPES, Emulate
from tests.toolkits.driver import Service, build_tool, load, tools_named

NOT_SERVED = {"add_reminder", "list_emoji", "list_user_groups", "search_messages"}


@pytest.fixture(scope="module")
def slack(emulate: Emulate) -> Service:
    """Slack as the bot sees it, whom Alice has installed."""
    redirect_uri = emulate.redirect_uris[0]
    query = {"client_id": emulate.slack.client_id, "redirect_uri": redirect_uri, "scope": ",".join(SLACK_SCOPES)}
    callback = emulate.approve(f"{emulate.slack.authorization_url}?{urlencode(query)}")
    exchange = {
        "code": parse_qs(urlsplit(callback).query)["code"][0],
        "client_id": emulate.slack.client_id,
        "client_secret": emulate.slack.client_secret,
        "redirect_uri": redirect_uri,
    }
    with requests.post(emulate.slack.token_url, data=exchange, timeout=10) as answer:
        token = answer.json()
    assert token["ok"] is True, token
    assert token["token_type"] == "bot"
    return Service("slack", f"{emulate.slack.url}/api", token["access_token"])


@pytest.fixture
def channel(slack: Service) -> str:
    made = ok(slack("create_channel", name=f"lines-{uuid.uuid4().hex[:10]}"))
    return str(made["channel"]["id"])


def ok(answer: Any) -> Any:
    assert answer["ok"] is True, answer
    return answer


def user_id(slack: Service, email: str) -> str:
    return str(ok(slack("find_user_by_email", email=email))["user"]["id"])


# Messages


def test_a_message_is_sent_changed_linked_and_deleted(slack: Service, channel: str) -> None:
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "*Hello*"}}]
    sent = ok(slack("send_message", channel=channel, text="Hello, Grüße", blocks=blocks))
    [first] = ok(slack("list_messages", channel=channel, limit=1))["messages"]
    assert (first["ts"], first["text"], first["blocks"]) == (sent["ts"], "Hello, Grüße", blocks)
    ok(slack("update_message", channel=channel, ts=sent["ts"], text="Goodbye"))
    assert ok(slack("list_messages", channel=channel, limit=1))["messages"][0]["text"] == "Goodbye"
    link = ok(slack("get_permalink", channel=channel, message_ts=sent["ts"]))["permalink"]
    assert channel in link
    ok(slack("delete_message", channel=channel, ts=sent["ts"]))
    assert sent["ts"] not in [one["ts"] for one in ok(slack("list_messages", channel=channel))["messages"]]


def test_a_thread_is_answered_and_read(slack: Service, channel: str) -> None:
    root = ok(slack("send_message", channel=channel, text="Question"))["ts"]
    ok(slack("send_message", channel=channel, text="Answer", thread_ts=root))
    thread = ok(slack("list_thread_messages", channel=channel, ts=root))["messages"]
    assert [one["text"] for one in thread] == ["Question", "Answer"]


def test_what_one_person_sees_is_not_kept(slack: Service, channel: str) -> None:
    alice = user_id(slack, EMAIL)
    ok(slack("invite_to_channel", channel=channel, users=[alice]))
    assert ok(slack("send_ephemeral_message", channel=channel, user=alice, text="Psst"))["message_ts"]
    assert "Psst" not in [one["text"] for one in ok(slack("list_messages", channel=channel))["messages"]]


def test_the_me_command_is_said(slack: Service, channel: str) -> None:
    ok(slack("send_me_message", channel=channel, text="waves"))
    assert ok(slack("list_messages", channel=channel, limit=1))["messages"][0]["text"] == "waves"


def test_a_message_is_scheduled_and_taken_back(slack: Service, channel: str) -> None:
    planned = ok(slack("schedule_message", channel=channel, text="Later", post_at=int(time.time()) + 3600))
    waiting = ok(slack("list_scheduled_messages", channel=channel))["scheduled_messages"]
    assert [one["id"] for one in waiting] == [planned["scheduled_message_id"]]
    ok(slack("delete_scheduled_message", channel=channel, scheduled_message_id=planned["scheduled_message_id"]))
    assert ok(slack("list_scheduled_messages", channel=channel))["scheduled_messages"] == []


# Conversations


def test_a_channel_is_named_described_archived_and_brought_back(slack: Service, channel: str) -> None:
    name = f"renamed-{uuid.uuid4().hex[:10]}"
    assert ok(slack("rename_channel", channel=channel, name=name))["channel"]["name"] == name
    ok(slack("set_channel_topic", channel=channel, topic="Lines & cables"))
    ok(slack("set_channel_purpose", channel=channel, purpose="Everything"))
    got = ok(slack("get_conversation", channel=channel, include_num_members=True))["channel"]
    assert (got["topic"]["value"], got["purpose"]["value"]) == ("Lines & cables", "Everything")
    ok(slack("archive_channel", channel=channel))
    listed = ok(
        slack("list_conversations", types=["public_channel", "private_channel"], exclude_archived=True, limit=1000)
    )
    assert channel not in [one["id"] for one in listed["channels"]]
    ok(slack("unarchive_channel", channel=channel))
    assert ok(slack("get_conversation", channel=channel))["channel"]["is_archived"] is False


def test_people_come_to_a_channel_and_go(slack: Service, channel: str) -> None:
    alice, bob = user_id(slack, EMAIL), user_id(slack, "bob@example.com")
    ok(slack("invite_to_channel", channel=channel, users=[alice, bob]))
    assert {alice, bob} <= set(ok(slack("list_conversation_members", channel=channel))["members"])
    ok(slack("remove_from_channel", channel=channel, user=bob))
    assert bob not in ok(slack("list_conversation_members", channel=channel))["members"]


def test_the_app_leaves_a_channel_and_joins_again(slack: Service, channel: str) -> None:
    me = ok(slack("test_auth"))["user_id"]
    ok(slack("invite_to_channel", channel=channel, users=[user_id(slack, EMAIL)]))  # the last one cannot leave
    ok(slack("leave_channel", channel=channel))
    assert me not in ok(slack("list_conversation_members", channel=channel))["members"]
    ok(slack("join_channel", channel=channel))
    assert me in ok(slack("list_conversation_members", channel=channel))["members"]


def test_a_direct_message_is_opened_used_and_closed(slack: Service) -> None:
    opened = ok(slack("open_conversation", users=[user_id(slack, "bob@example.com")], return_im=True))["channel"]["id"]
    ts = ok(slack("send_message", channel=opened, text="Hello, Bob"))["ts"]
    ok(slack("mark_conversation_read", channel=opened, ts=ts))
    assert ok(slack("list_messages", channel=opened, limit=1))["messages"][0]["text"] == "Hello, Bob"
    ok(slack("close_conversation", channel=opened))


def test_a_list_goes_on_where_its_cursor_says(slack: Service, channel: str) -> None:
    first = ok(slack("list_conversations", limit=2))
    second = ok(slack("list_conversations", limit=2, cursor=first["response_metadata"]["next_cursor"]))
    assert len(first["channels"]) == 2
    assert {one["id"] for one in first["channels"]} & {one["id"] for one in second["channels"]} == set()


# People


def test_people_are_listed_and_found(slack: Service) -> None:
    alice = user_id(slack, EMAIL)
    assert alice in [one["id"] for one in ok(slack("list_users"))["members"]]
    assert ok(slack("get_user", user=alice))["user"]["name"] == LOGIN
    assert ok(slack("get_user_profile", user=alice))["profile"]["email"] == EMAIL
    assert ok(slack("get_presence", user=alice))["presence"] in {"active", "away"}


def test_ones_own_status_and_presence_are_set(slack: Service) -> None:
    changed = ok(slack("update_user_profile", profile={"status_text": "Patching", "status_emoji": ":cable:"}))
    assert changed["profile"]["status_text"] == "Patching"
    assert ok(slack("get_user_profile"))["profile"]["status_emoji"] == ":cable:"
    ok(slack("set_presence", presence="away"))
    assert ok(slack("get_presence"))["presence"] == "away"
    ok(slack("set_presence", presence="auto"))


# Reactions, pins and bookmarks


def test_a_reaction_is_added_and_removed(slack: Service, channel: str) -> None:
    ts = ok(slack("send_message", channel=channel, text="Good?"))["ts"]
    ok(slack("add_reaction", channel=channel, timestamp=ts, name="thumbsup"))
    assert [
        one["name"] for one in ok(slack("get_reactions", channel=channel, timestamp=ts))["message"]["reactions"]
    ] == ["thumbsup"]
    ok(slack("remove_reaction", channel=channel, timestamp=ts, name="thumbsup"))
    assert not ok(slack("get_reactions", channel=channel, timestamp=ts, full=True))["message"].get("reactions")


def test_a_message_is_pinned_and_unpinned(slack: Service, channel: str) -> None:
    ts = ok(slack("send_message", channel=channel, text="Keep"))["ts"]
    ok(slack("pin_message", channel=channel, timestamp=ts))
    assert [one["message"]["ts"] for one in ok(slack("list_pins", channel=channel))["items"]] == [ts]
    ok(slack("unpin_message", channel=channel, timestamp=ts))
    assert ok(slack("list_pins", channel=channel))["items"] == []


def test_a_bookmark_is_added_edited_and_removed(slack: Service, channel: str) -> None:
    made = ok(slack("add_bookmark", channel_id=channel, title="Docs", type="link", link="https://example.com"))[
        "bookmark"
    ]
    ok(slack("edit_bookmark", channel_id=channel, bookmark_id=made["id"], title="Manual"))
    assert [one["title"] for one in ok(slack("list_bookmarks", channel_id=channel))["bookmarks"]] == ["Manual"]
    ok(slack("remove_bookmark", channel_id=channel, bookmark_id=made["id"]))
    assert ok(slack("list_bookmarks", channel_id=channel))["bookmarks"] == []


# Files, workspace and home


def test_a_file_is_uploaded_shared_and_deleted(slack: Service, channel: str) -> None:
    content = b"The first line is connected.\n"
    begun = ok(slack("get_upload_url", filename="report.txt", length=len(content)))
    with requests.post(begun["upload_url"], data=content, timeout=10) as uploaded:
        assert uploaded.status_code == 200
    files = [{"id": begun["file_id"], "title": "Report"}]
    ok(slack("complete_upload", files=files, channel_id=channel, initial_comment="Here"))
    assert ok(slack("get_file", file=begun["file_id"]))["file"]["title"] == "Report"
    assert begun["file_id"] in [one["id"] for one in ok(slack("list_files", channel=channel))["files"]]
    ok(slack("delete_file", file=begun["file_id"]))
    assert slack("get_file", file=begun["file_id"])["ok"] is False


def test_the_workspace_and_the_bot_are_told(slack: Service) -> None:
    who = ok(slack("test_auth"))
    assert (who["team"], ok(slack("get_team"))["team"]["name"]) == ("Acme", "Acme")
    bot = ok(slack("get_bot", bot=who["bot_id"]))["bot"]
    assert bot["name"] == "jackfield"


def test_the_home_of_a_person_is_published(slack: Service) -> None:
    view = {"type": "home", "blocks": [{"type": "divider"}]}
    published = ok(slack("publish_home_view", user_id=user_id(slack, EMAIL), view=view))["view"]
    assert (published["type"], published["blocks"]) == ("home", view["blocks"])


def test_the_profile_call_tells_the_workspace(slack: Service) -> None:
    profile = load("slack").profile
    assert profile is not None
    assert ok(slack.call(profile))[profile.label.strip("/")] == "Acme"


# No, in an answer of 200


def test_a_refusal_is_told_by_the_failure_rule(emulate: Emulate, slack: Service) -> None:
    rule = load("slack").failure
    assert rule is not None
    assert (rule.pointer, rule.equals, rule.code) == ("/ok", False, "/error")
    status, answer = slack.answer("list_messages", channel="C0NOWHERE")
    assert (status, answer["ok"], answer["error"]) == (200, False, "channel_not_found")
    assert answer["error"] not in rule.unauthorized + rule.rate_limited
    with requests.post(f"{emulate.slack.url}/api/auth.test", timeout=10) as unauthorized:
        assert unauthorized.json()["error"] in rule.unauthorized


# How parameters are written


def test_structured_messages_are_json_and_everything_else_is_a_form() -> None:
    sent = build_tool("slack", "send_message", {"channel": "C1", "text": "Hi", "blocks": [{"type": "divider"}]})
    assert (sent.method, sent.full_url) == ("POST", "https://slack.com/api/chat.postMessage")
    assert sent.headers == {"Content-Type": "application/json"}
    assert json.loads(sent.body or b"") == {"channel": "C1", "text": "Hi", "blocks": [{"type": "divider"}]}
    invited = build_tool("slack", "invite_to_channel", {"channel": "C1", "users": ["U1", "U2"], "force": True})
    assert invited.headers == {"Content-Type": "application/x-www-form-urlencoded"}
    assert invited.body == b"channel=C1&users=U1%2CU2&force=true"


def test_reading_by_post_may_be_repeated_and_sending_may_not() -> None:
    assert build_tool("slack", "list_messages", {"channel": "C1"}).idempotent is True
    assert build_tool("slack", "send_message", {"channel": "C1", "text": "Hi"}).idempotent is False


def test_a_message_needs_something_to_say() -> None:
    with pytest.raises(BadParameters):
        build_tool("slack", "send_message", {"channel": "C1"})


# What the emulated Slack lacks


def test_every_tool_is_run_here_or_listed_as_not_served() -> None:
    served = tools_named(__file__, "slack")
    assert served & NOT_SERVED == set()
    assert served | NOT_SERVED == set(load("slack").tools_by_slug)


@pytest.mark.parametrize(
    ("tool_slug", "params", "method", "body"),
    [
        ("add_reminder", {"text": "Call", "time": "in 5 minutes"}, "reminders.add", b"text=Call&time=in+5+minutes"),
        ("list_emoji", {}, "emoji.list", None),
        ("list_user_groups", {"include_users": True}, "usergroups.list", b"include_users=true"),
        (
            "search_messages",
            {"query": "in:#general lamp", "count": 5},
            "search.messages",
            b"query=in%3A%23general+lamp&count=5",
        ),
    ],
)
def test_the_emulated_slack_does_not_serve(
    slack: Service, tool_slug: str, params: dict[str, Any], method: str, body: bytes | None
) -> None:
    request = build_tool("slack", tool_slug, params)
    assert (request.method, request.full_url, request.body) == ("POST", f"https://slack.com/api/{method}", body)
    status, answer = slack.answer(tool_slug, **params)
    assert (status, answer.get("ok", False)) != (200, True)
    assert status == 404 or answer["error"] == "unknown_method"
