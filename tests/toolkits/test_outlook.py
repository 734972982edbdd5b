"""Outlook's requests, as Microsoft Graph documents them; the emulated Microsoft serves no more than the person."""

import base64
import json
from typing import Any

import pytest

from apps.toolkits.request import BadParameters, build, build_call
from apps.toolkits.spec import OAuth2
from tests.peers.emulate import EMAIL, Emulate
from tests.toolkits.driver import Service, build_tool, load

SERVED = {"get_profile"}
BASE = "https://graph.microsoft.com/v1.0/me"
IDS = 'IdType="ImmutableId"'


@pytest.fixture
def outlook(emulate: Emulate) -> Service:
    """It takes any bearer token for that of the first person."""
    return Service("outlook", emulate.microsoft.url, "some-token")


def body_of(tool_slug: str, **params: Any) -> Any:
    body = build_tool("outlook", tool_slug, params).body
    assert body is not None
    return json.loads(body)


def faults_of(tool_slug: str, **params: Any) -> dict[str, list[str]]:
    with pytest.raises(BadParameters) as caught:
        build_tool("outlook", tool_slug, params)
    return caught.value.faults


def person(address: str, name: str = "") -> dict[str, Any]:
    return {"emailAddress": {"address": address} | ({"name": name} if name else {})}


# The account


def test_the_connected_person_is_known_by_id_and_name(outlook: Service) -> None:
    toolkit = load("outlook")
    assert toolkit.profile is not None
    assert build_call(toolkit, toolkit.profile, {}).full_url == BASE
    answer = outlook.call(toolkit.profile)
    assert (toolkit.profile.id, toolkit.profile.label) == ("/id", "/userPrincipalName")
    assert answer["userPrincipalName"] == EMAIL
    assert outlook("get_profile")["id"] == answer["id"]


def test_an_admin_may_keep_it_to_one_directory() -> None:
    toolkit = load("outlook")
    scheme = toolkit.auth_by_type["oauth2"]
    assert isinstance(scheme, OAuth2)
    assert scheme.authorization_url.replace("{tenant}", "common") == (
        "https://login.microsoftonline.com/common/oauth2/v2.0/authorize"
    )
    tenant = toolkit.variables["tenant"]
    assert (tenant.source, tenant.default) == ("integration", "common")
    assert "offline_access" in scheme.scopes


@pytest.mark.parametrize("tool_slug", ["list_messages", "list_calendars", "list_contacts", "list_mail_folders"])
def test_the_emulated_microsoft_still_serves_neither_mail_nor_calendar_nor_contacts(
    outlook: Service, tool_slug: str
) -> None:
    assert outlook.answer(tool_slug)[0] == 404


# Mail


def test_a_message_is_sent_as_graphs_object() -> None:
    request = build_tool(
        "outlook",
        "send_email",
        {
            "to": "Bob <bob@example.com>, ann@example.com",
            "cc": ["eve@example.com"],
            "bcc": "max@example.com",
            "reply_to": "desk@example.com",
            "subject": "Hi",
            "body": "Hello",
            "importance": "high",
            "attachments": [{"filename": "a.bin", "content_type": "image/png", "base64": "AP-_"}],
            "save_to_sent_items": False,
        },
    )
    assert (request.method, request.full_url) == ("POST", f"{BASE}/sendMail")
    assert json.loads(request.body or b"") == {
        "message": {
            "toRecipients": [person("bob@example.com", "Bob"), person("ann@example.com")],
            "ccRecipients": [person("eve@example.com")],
            "bccRecipients": [person("max@example.com")],
            "replyTo": [person("desk@example.com")],
            "subject": "Hi",
            "body": {"contentType": "text", "content": "Hello"},
            "importance": "high",
            "attachments": [
                {
                    "@odata.type": "#microsoft.graph.fileAttachment",
                    "name": "a.bin",
                    "contentType": "image/png",
                    "contentBytes": base64.b64encode(b"\x00\xff\xbf").decode(),
                }
            ],
        },
        "saveToSentItems": False,
    }
    assert request.headers["Prefer"] == IDS


def test_html_takes_the_place_of_plain_text() -> None:
    message = body_of("send_email", to="x@y.com", subject="Hi", body="Hello", html="<b>Hello</b>")["message"]
    assert message["body"] == {"contentType": "html", "content": "<b>Hello</b>"}
    assert set(message) == {"toRecipients", "subject", "body"}
    assert body_of("create_draft", html="<i>x</i>") == {"body": {"contentType": "html", "content": "<i>x</i>"}}


def test_every_bad_address_and_file_is_told() -> None:
    found = faults_of(
        "send_email",
        to=["x@y.com", "nobody"],
        cc="a@b.com\r\nx: y",
        subject="Hi",
        attachments=[{"filename": "a", "base64": "%"}],
    )
    assert set(found) == {"to", "cc", "attachments.0.base64"}


def test_an_answer_is_a_comment_or_html_of_its_own() -> None:
    assert body_of("reply_to_email", message_id="m", body="Yes") == {"comment": "Yes"}
    html = {"message": {"body": {"contentType": "html", "content": "<b>Yes</b>"}}}
    assert body_of("reply_all_to_email", message_id="m", html="<b>Yes</b>") == html
    assert set(faults_of("reply_to_email", message_id="m")) == {"body"}
    assert set(faults_of("reply_to_email", message_id="m", body="a", html="b")) == {"body"}


def test_messages_are_listed_of_all_folders_or_of_one() -> None:
    assert build_tool("outlook", "list_messages", {}).full_url == f"{BASE}/messages"
    request = build_tool(
        "outlook",
        "list_messages",
        {
            "folder_id": "inbox",
            "filter": "isRead eq false",
            "select": ["id", "subject"],
            "top": 5,
            "body_format": "text",
        },
    )
    assert request.url == f"{BASE}/mailFolders/inbox/messages"
    assert request.query == [("$filter", "isRead eq false"), ("$select", "id,subject"), ("$top", "5")]
    assert request.headers["Prefer"] == f'{IDS}, outlook.body-content-type="text"'
    assert request.idempotent


@pytest.mark.parametrize("folder_id", ["inbox/messages/m1", "..", "a/../../users", "/"])
def test_a_folder_is_one_segment_of_the_path(folder_id: str) -> None:
    assert set(faults_of("list_messages", folder_id=folder_id)) == {"folder_id"}


def test_a_search_is_quoted_whole() -> None:
    request = build_tool("outlook", "list_messages", {"search": 'subject:"line 4" \\'})
    assert request.query == [("$search", '"subject:\\"line 4\\" \\\\"')]


# Calendar


def test_an_event_is_made_as_graphs_object() -> None:
    request = build_tool(
        "outlook",
        "create_event",
        {
            "subject": "Call",
            "start": "2031-03-04T10:00:00+01:00",
            "end": "2031-03-04T11:00:00",
            "time_zone": "Europe/Paris",
            "body": "Agenda",
            "location": "Hall",
            "attendees": ["bob@example.com", {"email": "ann@example.com", "name": "Ann", "type": "optional"}],
            "online_meeting": True,
            "reminder_minutes": 10,
        },
    )
    assert (request.method, request.full_url) == ("POST", f"{BASE}/calendar/events")
    assert json.loads(request.body or b"") == {
        "subject": "Call",
        "start": {"dateTime": "2031-03-04T09:00:00", "timeZone": "UTC"},
        "end": {"dateTime": "2031-03-04T11:00:00", "timeZone": "Europe/Paris"},
        "isAllDay": False,
        "body": {"contentType": "text", "content": "Agenda"},
        "location": {"displayName": "Hall"},
        "attendees": [
            person("bob@example.com") | {"type": "required"},
            person("ann@example.com", "Ann") | {"type": "optional"},
        ],
        "isOnlineMeeting": True,
        "reminderMinutesBeforeStart": 10,
    }


def test_whole_days_are_midnights() -> None:
    body = body_of("create_event", calendar_id="c1", subject="Fair", start="2031-05-01", end="2031-05-03")
    assert body == {
        "subject": "Fair",
        "start": {"dateTime": "2031-05-01T00:00:00", "timeZone": "UTC"},
        "end": {"dateTime": "2031-05-03T00:00:00", "timeZone": "UTC"},
        "isAllDay": True,
    }


def test_a_change_sends_only_what_was_given() -> None:
    assert body_of("update_event", event_id="e", location="Hall") == {"location": {"displayName": "Hall"}}
    times = body_of("update_event", event_id="e", start="2031-05-01T10:00:00Z")
    assert times == {"start": {"dateTime": "2031-05-01T10:00:00", "timeZone": "UTC"}, "isAllDay": False}


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"start": "noon", "end": "2031-05-01T11:00:00Z"}, "start"),
        ({"start": "2031-05-01T10:00:00", "end": "2031-05-01T11:00:00Z"}, "start"),
        ({"start": "2031-05-01", "end": "2031-05-01T11:00:00Z"}, "end"),
        ({"start": "2031-05-01", "end": "2031-05-02", "attendees": ["nobody"]}, "attendees.0"),
        ({"start": "2031-05-01", "end": "2031-05-02", "attendees": ["a@b.com, c@d.com"]}, "attendees.0"),
    ],
)
def test_what_is_wrong_with_an_event_is_told(params: dict[str, Any], field: str) -> None:
    assert set(faults_of("create_event", subject="x", **params)) == {field}


def test_events_are_listed_in_the_zone_that_was_asked_for() -> None:
    span = {"start": "2031-03-04T00:00:00Z", "end": "2031-03-05T00:00:00Z"}
    request = build_tool("outlook", "list_events", span | {"calendar_id": "c1", "time_zone": "Europe/Paris"})
    assert request.url == f"{BASE}/calendars/c1/calendarView"
    assert request.query == [("startDateTime", span["start"]), ("endDateTime", span["end"])]
    assert request.headers["Prefer"] == f'{IDS}, outlook.timezone="Europe/Paris"'
    assert build_tool("outlook", "list_events", span).headers["Prefer"] == IDS
    assert set(faults_of("list_events", **span, time_zone='x", IdType="y')) == {"time_zone"}


def test_busy_times_are_asked_for_with_times_and_zones() -> None:
    params = {"addresses": ["a@b.com"], "start": "2031-03-04T10:00:00", "end": "2031-03-04T18:00:00+00:00"}
    assert body_of("find_busy_times", **params, time_zone="Europe/Paris", interval_minutes=60) == {
        "schedules": ["a@b.com"],
        "startTime": {"dateTime": "2031-03-04T10:00:00", "timeZone": "Europe/Paris"},
        "endTime": {"dateTime": "2031-03-04T18:00:00", "timeZone": "UTC"},
        "availabilityViewInterval": 60,
    }
    assert set(faults_of("find_busy_times", **params)) == {"start"}


# Each remaining tool once

TABLE: list[tuple[str, dict[str, Any], str, str, Any]] = [
    (
        "forward_email",
        {"message_id": "m/1", "to": "a@b.com", "comment": "See"},
        "POST",
        "/messages/m%2F1/forward",
        {"toRecipients": [person("a@b.com")], "comment": "See"},
    ),
    ("get_message", {"message_id": "m"}, "GET", "/messages/m", None),
    (
        "update_message",
        {"message_id": "m", "is_read": True, "flag_status": "flagged", "categories": ["Red"]},
        "PATCH",
        "/messages/m",
        {"isRead": True, "flag": {"flagStatus": "flagged"}, "categories": ["Red"]},
    ),
    (
        "move_message",
        {"message_id": "m", "destination_id": "archive"},
        "POST",
        "/messages/m/move",
        {"destinationId": "archive"},
    ),
    ("copy_message", {"message_id": "m", "destination_id": "f"}, "POST", "/messages/m/copy", {"destinationId": "f"}),
    ("delete_message", {"message_id": "m"}, "DELETE", "/messages/m", None),
    (
        "create_draft",
        {"to": "a@b.com", "subject": "Hi"},
        "POST",
        "/messages",
        {"toRecipients": [person("a@b.com")], "subject": "Hi"},
    ),
    (
        "update_draft",
        {"message_id": "m", "body": "New"},
        "PATCH",
        "/messages/m",
        {"body": {"contentType": "text", "content": "New"}},
    ),
    ("send_draft", {"message_id": "m"}, "POST", "/messages/m/send", None),
    ("list_mail_folders", {"include_hidden": True}, "GET", "/mailFolders?includeHiddenFolders=true", None),
    ("create_mail_folder", {"display_name": "Bills"}, "POST", "/mailFolders", {"displayName": "Bills"}),
    (
        "list_attachments",
        {"message_id": "m"},
        "GET",
        "/messages/m/attachments?%24select=id%2Cname%2CcontentType%2Csize%2CisInline",
        None,
    ),
    ("get_attachment", {"message_id": "m", "attachment_id": "a"}, "GET", "/messages/m/attachments/a", None),
    ("get_event", {"event_id": "e", "select": ["subject"]}, "GET", "/events/e?%24select=subject", None),
    ("delete_event", {"event_id": "e"}, "DELETE", "/events/e", None),
    ("cancel_event", {"event_id": "e", "comment": "Ill"}, "POST", "/events/e/cancel", {"comment": "Ill"}),
    ("accept_event", {"event_id": "e"}, "POST", "/events/e/accept", {}),
    (
        "tentatively_accept_event",
        {"event_id": "e", "send_response": False},
        "POST",
        "/events/e/tentativelyAccept",
        {"sendResponse": False},
    ),
    ("decline_event", {"event_id": "e", "comment": "No"}, "POST", "/events/e/decline", {"comment": "No"}),
    ("list_calendars", {"top": 3}, "GET", "/calendars?%24top=3", None),
    ("list_contacts", {"order_by": "displayName"}, "GET", "/contacts?%24orderby=displayName", None),
    ("get_contact", {"contact_id": "c"}, "GET", "/contacts/c", None),
    (
        "create_contact",
        {"given_name": "Ann", "surname": "Lee", "email_addresses": ["a@b.com"], "mobile_phone": "1"},
        "POST",
        "/contacts",
        {
            "givenName": "Ann",
            "surname": "Lee",
            "emailAddresses": [{"address": "a@b.com", "name": "a@b.com"}],
            "mobilePhone": "1",
        },
    ),
    ("update_contact", {"contact_id": "c", "job_title": "Boss"}, "PATCH", "/contacts/c", {"jobTitle": "Boss"}),
    ("delete_contact", {"contact_id": "c"}, "DELETE", "/contacts/c", None),
]
CHECKED_ABOVE = {
    "send_email",
    "reply_to_email",
    "reply_all_to_email",
    "list_messages",
    "create_event",
    "update_event",
    "list_events",
    "find_busy_times",
}


@pytest.mark.parametrize(("tool_slug", "params", "method", "url", "body"), TABLE, ids=[row[0] for row in TABLE])
def test_a_request_is_built_as_graph_documents_it(
    tool_slug: str, params: dict[str, Any], method: str, url: str, body: Any
) -> None:
    request = build_tool("outlook", tool_slug, params)
    assert (request.method, request.full_url) == (method, BASE + url)
    assert (json.loads(request.body) if request.body else None) == body


def test_every_tool_has_its_request_checked_here() -> None:
    assert {row[0] for row in TABLE} | CHECKED_ABOVE | SERVED == set(load("outlook").tools_by_slug)


def test_another_cloud_of_microsofts_is_a_base_url_away() -> None:
    toolkit = load("outlook")
    tool = toolkit.tools_by_slug["list_calendars"]
    request = build(toolkit, tool, {}, {}, "https://graph.microsoft.us")
    assert request.url == "https://graph.microsoft.us/v1.0/me/calendars"
