"""Google Calendar's tools against the emulated Calendar, and the requests of those that it does not serve."""

import json
import uuid
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from apps.toolkits.request import BadParameters
from tests.peers.emulate import EMAIL, Emulate
from tests.toolkits.driver import Service, build_tool, load, tools_named
from tests.toolkits.google import connect

NOT_SERVED = {
    "create_calendar",
    "delete_calendar",
    "get_calendar",
    "get_colors",
    "get_event",
    "list_calendar_access",
    "list_event_instances",
    "list_settings",
    "move_event",
    "quick_add_event",
    "share_calendar",
    "subscribe_to_calendar",
    "unshare_calendar",
    "unsubscribe_from_calendar",
    "update_calendar",
    "update_event",
}
BASE = "https://www.googleapis.com/calendar/v3"
EXAMPLES: dict[str, dict[str, Any]] = {
    "create_calendar": {"summary": "Team"},
    "delete_calendar": {"calendar_id": "c1"},
    "get_event": {"event_id": "e1"},
    "list_event_instances": {"event_id": "e1"},
    "move_event": {"event_id": "e1", "destination": "c2"},
    "quick_add_event": {"text": "Lunch tomorrow"},
    "share_calendar": {"role": "reader", "scope_type": "default"},
    "subscribe_to_calendar": {"calendar_id": "c1"},
    "unshare_calendar": {"rule_id": "user:a@b.com"},
    "unsubscribe_from_calendar": {"calendar_id": "c1"},
    "update_event": {"event_id": "e1", "summary": "x"},
}


@pytest.fixture
def calendar(emulate: Emulate) -> Service:
    return connect(emulate, "google-calendar")


def body_of(tool_slug: str, **params: Any) -> Any:
    body = build_tool("google-calendar", tool_slug, params).body
    assert body is not None
    return json.loads(body)


def faults_of(tool_slug: str, **params: Any) -> dict[str, list[str]]:
    with pytest.raises(BadParameters) as caught:
        build_tool("google-calendar", tool_slug, params)
    return caught.value.faults


# Against the emulated Calendar


def test_the_account_is_called_by_its_address_and_the_test_call_works(calendar: Service) -> None:
    toolkit = load("google-calendar")
    assert toolkit.profile is not None
    assert toolkit.test is not None
    assert (toolkit.profile.id, toolkit.profile.label) == ("/email", "/email")
    assert calendar.call(toolkit.profile)["email"] == EMAIL
    assert calendar.call(toolkit.test)["items"][0]["primary"] is True


def test_an_event_is_made_listed_found_busy_and_deleted(calendar: Service) -> None:
    title = f"Rehearsal {uuid.uuid4().hex}"
    made = calendar(
        "create_event",
        summary=title,
        start="2031-03-04T10:00:00+01:00",
        end="2031-03-04T11:30:00+01:00",
        location="Hall",
        description="Bring cables",
        attendees=["bob@example.com", {"email": "ann@example.com", "displayName": "Ann"}],
        send_updates="none",
    )
    assert (made["summary"], made["location"], made["description"]) == (title, "Hall", "Bring cables")
    assert made["start"]["dateTime"] == "2031-03-04T10:00:00+01:00"
    assert [(one["email"], one.get("displayName")) for one in made["attendees"]] == [
        ("bob@example.com", None),
        ("ann@example.com", "Ann"),
    ]
    span = {"time_min": "2031-03-04T00:00:00Z", "time_max": "2031-03-05T00:00:00Z"}
    listed = calendar("list_events", **span, query=title, single_events=True, order_by="startTime")
    assert [one["id"] for one in listed["items"]] == [made["id"]]
    assert calendar("list_events", time_min="2031-03-05T00:00:00Z", query=title)["items"] == []
    busy = calendar("find_busy_times", **span)["calendars"]["primary"]["busy"]
    assert {"start": made["start"]["dateTime"], "end": made["end"]["dateTime"]} in busy
    assert calendar("delete_event", event_id=made["id"]) is None
    assert calendar("list_events", query=title)["items"] == []
    assert calendar.answer("delete_event", event_id=made["id"])[0] == 404


def test_whole_days_have_dates(calendar: Service) -> None:
    made = calendar("create_event", summary="Fair", start="2031-05-01", end="2031-05-03")
    assert (made["start"]["date"], made["end"]["date"]) == ("2031-05-01", "2031-05-03")
    calendar("delete_event", event_id=made["id"])


def test_the_calendars_are_listed_and_named_by_their_id(calendar: Service) -> None:
    (primary,) = [one for one in calendar("list_calendars")["items"] if one.get("primary")]
    made = calendar("create_event", calendar_id=primary["id"], summary="Call", start="2031-06-01", end="2031-06-02")
    assert calendar("delete_event", calendar_id="primary", event_id=made["id"]) is None
    assert calendar.answer("list_events", calendar_id="nobody@example.com")[0] == 404


def test_pages_follow_each_other_as_the_file_says(calendar: Service) -> None:
    word = uuid.uuid4().hex
    ids = {calendar("create_event", summary=word, start="2031-07-01", end="2031-07-02")["id"] for _ in range(3)}
    paging = load("google-calendar").pagination
    assert paging is not None
    assert (paging.parameter, paging.next) == ("pageToken", "/nextPageToken")
    first = calendar("list_events", query=word, max_results=2)
    second = calendar("list_events", query=word, max_results=2, page_token=first["nextPageToken"])
    assert {one["id"] for one in first["items"] + second["items"]} == ids


@pytest.mark.parametrize("tool_slug", sorted(NOT_SERVED))
def test_the_emulated_calendar_still_does_not_serve_it(calendar: Service, tool_slug: str) -> None:
    assert calendar.answer(tool_slug, **EXAMPLES.get(tool_slug, {}))[0] in (404, 405)


def test_every_other_tool_is_called_against_the_emulated_calendar() -> None:
    assert tools_named(__file__, "calendar") == set(load("google-calendar").tools_by_slug) - NOT_SERVED


# Times, guests, calls


def test_a_time_without_offset_takes_the_named_zone() -> None:
    times = {"start": "2031-03-04T10:00:00", "end": "2031-03-04T11:00"}
    body = body_of("create_event", summary="x", **times, time_zone="Europe/Paris")
    assert body["start"] == {"dateTime": "2031-03-04T10:00:00", "timeZone": "Europe/Paris"}
    assert body["end"] == {"dateTime": "2031-03-04T11:00:00", "timeZone": "Europe/Paris"}
    found = faults_of("create_event", summary="x", **times)
    assert set(found) == {"start", "end"}
    assert "time_zone" in found["start"][0]


@pytest.mark.parametrize("text", ["tomorrow", "2031-02-30", "2031-02-30T10:00:00Z", "10:00", ""])
def test_what_is_no_time_is_told(text: str) -> None:
    found = faults_of("create_event", summary="x", start=text, end="2031-03-04T11:00:00Z")
    assert set(found) == {"start"}


def test_a_day_and_a_time_do_not_go_together() -> None:
    found = faults_of("create_event", summary="x", start="2031-03-04", end="2031-03-04T11:00:00Z")
    assert found == {"end": ["start and end must both be dates, or both be times."]}


def test_a_video_call_is_asked_for_once_with_an_id_of_its_own() -> None:
    params = {"summary": "x", "start": "2031-03-04", "end": "2031-03-05", "add_video_call": True}
    request = build_tool("google-calendar", "create_event", params)
    assert request.query == [("conferenceDataVersion", "1")]
    calls = [body_of("create_event", **params)["conferenceData"]["createRequest"] for _ in range(2)]
    assert calls[0]["conferenceSolutionKey"] == {"type": "hangoutsMeet"}
    assert calls[0]["requestId"] != calls[1]["requestId"]
    assert "conferenceData" not in body_of("create_event", **params | {"add_video_call": False})


def test_reminders_replace_the_calendars_own() -> None:
    base = {"summary": "x", "start": "2031-03-04", "end": "2031-03-05"}
    body = body_of("create_event", **base, reminders=[{"minutes": 10}, {"minutes": 60, "method": "email"}])
    overrides = [{"method": "popup", "minutes": 10}, {"method": "email", "minutes": 60}]
    assert body["reminders"] == {"useDefault": False, "overrides": overrides}
    assert body_of("create_event", **base, reminders=[])["reminders"] == {"useDefault": False, "overrides": []}


def test_a_change_sends_only_what_was_given_and_clears_what_the_time_was_before() -> None:
    request = build_tool("google-calendar", "update_event", {"event_id": "e/1", "start": "2031-03-04"})
    assert (request.method, request.url) == ("PATCH", f"{BASE}/calendars/primary/events/e%2F1")
    assert json.loads(request.body or b"") == {"start": {"date": "2031-03-04", "dateTime": None}}
    body = body_of("update_event", event_id="e", end="2031-03-04T10:00:00Z", attendees=["a@b.com"], location="Hall")
    assert body == {
        "end": {"dateTime": "2031-03-04T10:00:00+00:00", "date": None},
        "attendees": [{"email": "a@b.com"}],
        "location": "Hall",
    }


def test_the_guests_of_an_event_as_read_can_be_written_back() -> None:
    guest = {"email": "a@b.com", "responseStatus": "accepted", "self": True, "organizer": True}
    assert body_of("update_event", event_id="e", attendees=[guest])["attendees"] == [guest]
    assert set(faults_of("update_event", event_id="e", attendees=[{"name": "Ann"}])) == {
        "attendees.0.email",
        "attendees.0.name",
    }


# What is not served there, as Google's discovery document has it


@pytest.mark.parametrize(
    ("tool_slug", "params", "method", "url", "body"),
    [
        (
            "create_calendar",
            {"summary": "Team", "time_zone": "Europe/Paris"},
            "POST",
            "/calendars",
            {"summary": "Team", "timeZone": "Europe/Paris"},
        ),
        ("delete_calendar", {"calendar_id": "c@group"}, "DELETE", "/calendars/c%40group", None),
        ("get_calendar", {}, "GET", "/calendars/primary", None),
        ("get_colors", {}, "GET", "/colors", None),
        (
            "get_event",
            {"event_id": "e1", "time_zone": "Europe/Paris"},
            "GET",
            "/calendars/primary/events/e1?timeZone=Europe%2FParis",
            None,
        ),
        ("list_calendar_access", {"max_results": 5}, "GET", "/calendars/primary/acl?maxResults=5", None),
        (
            "list_event_instances",
            {"event_id": "e1", "show_deleted": True},
            "GET",
            "/calendars/primary/events/e1/instances?showDeleted=true",
            None,
        ),
        ("list_settings", {}, "GET", "/users/me/settings", None),
        (
            "move_event",
            {"event_id": "e1", "destination": "c2", "send_updates": "all"},
            "POST",
            "/calendars/primary/events/e1/move?destination=c2&sendUpdates=all",
            None,
        ),
        (
            "quick_add_event",
            {"text": "Lunch & more"},
            "POST",
            "/calendars/primary/events/quickAdd?text=Lunch%20%26%20more",
            None,
        ),
        (
            "share_calendar",
            {"role": "reader", "scope_type": "user", "scope_value": "a@b.com", "send_notifications": False},
            "POST",
            "/calendars/primary/acl?sendNotifications=false",
            {"role": "reader", "scope": {"type": "user", "value": "a@b.com"}},
        ),
        (
            "subscribe_to_calendar",
            {"calendar_id": "c1", "selected": True},
            "POST",
            "/users/me/calendarList",
            {"id": "c1", "selected": True},
        ),
        ("unshare_calendar", {"rule_id": "user:a@b.com"}, "DELETE", "/calendars/primary/acl/user%3Aa%40b.com", None),
        ("unsubscribe_from_calendar", {"calendar_id": "c1"}, "DELETE", "/users/me/calendarList/c1", None),
        ("update_calendar", {"summary": "Mine"}, "PATCH", "/calendars/primary", {"summary": "Mine"}),
    ],
)
def test_what_is_not_served_is_built_as_google_documents_it(
    tool_slug: str, params: dict[str, Any], method: str, url: str, body: Any
) -> None:
    request = build_tool("google-calendar", tool_slug, params)
    assert (request.method, request.full_url) == (method, BASE + url)
    assert (json.loads(request.body) if request.body else None) == body


def test_busy_times_are_asked_of_the_persons_own_calendar_or_of_those_named() -> None:
    span = {"time_min": "2031-03-04T00:00:00Z", "time_max": "2031-03-05T00:00:00Z"}
    assert body_of("find_busy_times", **span)["items"] == [{"id": "primary"}]
    assert body_of("find_busy_times", **span, calendar_ids=["a@b.com", "c"])["items"] == [
        {"id": "a@b.com"},
        {"id": "c"},
    ]
    assert set(faults_of("find_busy_times", time_min="noon", time_max="2031-03-05T00:00:00Z")) == {"time_min"}


def test_lists_are_repeated_in_the_query_as_google_wants_them() -> None:
    request = build_tool(
        "google-calendar", "list_events", {"event_types": ["default", "focusTime"], "show_deleted": True}
    )
    assert parse_qs(urlsplit(request.full_url).query) == {
        "eventTypes": ["default", "focusTime"],
        "showDeleted": ["true"],
    }
