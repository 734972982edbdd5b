"""Outlook (Microsoft Graph): people, texts, files and times as Graph's objects."""

from __future__ import annotations

import base64
import re
from datetime import UTC, date, datetime, time
from typing import Any

from ..request import BadParameters
from .gmail import decode_base64, parse_addresses

Params = dict[str, Any]
Faults = dict[str, list[str]]

DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
PEOPLE = ("to", "cc", "bcc", "reply_to")
# Asked of every call by the toolkit's headers, so what sets Prefer anew must repeat it.
IMMUTABLE_IDS = 'IdType="ImmutableId"'


def place_message(params: Params) -> Params:
    """People, text and files of a message. Raises `BadParameters`."""
    placed, faults = dict(params), Faults()
    for name in PEOPLE:
        if name in placed:
            placed[name] = _recipients(name, placed[name], faults)
    if "html" in placed:
        placed["body"] = {"contentType": "html", "content": placed.pop("html")}
    elif "body" in placed:
        placed["body"] = {"contentType": "text", "content": placed["body"]}
    if "attachments" in placed:
        files = enumerate(placed["attachments"])
        placed["attachments"] = [_file(attachment, f"attachments.{number}", faults) for number, attachment in files]
    return _sound(placed, faults)


def place_answer(params: Params) -> Params:
    """An answer is a plain comment or a message with HTML: Graph takes one of them. Raises `BadParameters`."""
    if ("body" in params) == ("html" in params):
        raise BadParameters({"body": ["Give either body or html."]})
    placed = dict(params)
    if "html" in placed:
        placed["html"] = {"contentType": "html", "content": placed["html"]}
    return placed


def place_event(params: Params) -> Params:
    """Times, guests and text of an event. Raises `BadParameters`."""
    placed, faults = dict(params), Faults()
    zone = placed.pop("time_zone", None)
    days = []
    for name in ("start", "end"):
        if name in placed:
            days.append(bool(DATE.fullmatch(placed[name])))
            placed[name] = _moment(name, placed[name], zone, faults)
    if len(set(days)) > 1:
        faults.setdefault("end", []).append("start and end must both be dates, or both be times.")
    if days:
        placed["is_all_day"] = days[0]
    if "attendees" in placed:
        placed["attendees"] = [_guest(number, guest, faults) for number, guest in enumerate(placed["attendees"])]
    if "html" in placed:
        placed["body"] = {"contentType": "html", "content": placed.pop("html")}
    elif "body" in placed:
        placed["body"] = {"contentType": "text", "content": placed["body"]}
    return _calendar(_sound(placed, faults))


def place_schedule(params: Params) -> Params:
    """Raises `BadParameters`."""
    placed, faults = dict(params), Faults()
    zone = placed.pop("time_zone", None)
    for name in ("start", "end"):
        placed[name] = _moment(name, placed[name], zone, faults)
    return _sound(placed, faults)


def place_contact(params: Params) -> Params:
    placed = dict(params)
    if "email_addresses" in placed:
        placed["email_addresses"] = [{"address": one, "name": one} for one in placed["email_addresses"]]
    return placed


def place_list(params: Params) -> Params:
    """Of a list or of one item: where it is, what words to find, and how the answer shall be."""
    placed = _calendar(dict(params))
    if "folder_id" in placed:
        placed["folder_id"] = f"mailFolders/{placed['folder_id']}/messages"
    if "search" in placed:
        escaped = placed["search"].replace("\\", "\\\\").replace('"', '\\"')
        placed["search"] = f'"{escaped}"'
    if "time_zone" in placed:
        placed["time_zone"] = f'{IMMUTABLE_IDS}, outlook.timezone="{placed["time_zone"]}"'
    if "body_format" in placed:
        placed["body_format"] = f'{IMMUTABLE_IDS}, outlook.body-content-type="{placed["body_format"]}"'
    return placed


def _calendar(placed: Params) -> Params:
    if "calendar_id" in placed:
        placed["calendar_id"] = f"calendars/{placed['calendar_id']}"
    return placed


def _sound(placed: Params, faults: Faults) -> Params:
    found = {name: messages for name, messages in faults.items() if messages}
    if found:
        raise BadParameters(found)
    return placed


def _recipients(name: str, value: str | list[str], faults: Faults) -> list[Params]:
    addresses = parse_addresses(value, faults.setdefault(name, []))
    return [{"emailAddress": _person(address.addr_spec, address.display_name)} for address in addresses]


def _person(address: str, name: str) -> Params:
    return {"address": address, "name": name} if name else {"address": address}


def _guest(number: int, guest: str | dict[str, str], faults: Faults) -> Params:
    described = {"email": guest} if isinstance(guest, str) else guest
    addresses = parse_addresses(described["email"], faults.setdefault(f"attendees.{number}", []))
    if len(addresses) != 1:
        faults[f"attendees.{number}"] = ["Must be one e-mail address."]
        return {}
    person = _person(addresses[0].addr_spec, described.get("name", addresses[0].display_name))
    return {"emailAddress": person, "type": described.get("type", "required")}


def _file(attachment: dict[str, str], place: str, faults: Faults) -> Params:
    try:
        data = decode_base64(attachment["base64"]) if "base64" in attachment else attachment["text"].encode()
    except ValueError:
        faults[f"{place}.base64"] = ["Must be base64."]
        return {}
    return {
        "@odata.type": "#microsoft.graph.fileAttachment",
        "name": attachment["filename"],
        "contentType": attachment.get("content_type", "application/octet-stream"),
        "contentBytes": base64.b64encode(data).decode(),
    }


def _moment(name: str, text: str, zone: str | None, faults: Faults) -> Params:
    """Graph wants a time without offset and a zone beside it; an offset is turned into UTC, a day into its midnight."""
    try:
        if DATE.fullmatch(text):
            midnight = datetime.combine(date.fromisoformat(text), time())
            return {"dateTime": midnight.isoformat(), "timeZone": zone or "UTC"}
        parsed = datetime.fromisoformat(text)
        if parsed.tzinfo is not None:
            return {"dateTime": parsed.astimezone(UTC).replace(tzinfo=None).isoformat(), "timeZone": "UTC"}
    except (ValueError, OverflowError):
        faults.setdefault(name, []).append("Must be a date, 2030-01-10, or a time, 2030-01-10T09:00:00+01:00.")
        return {}
    if zone is None:
        faults.setdefault(name, []).append("A time needs an offset, such as +01:00 or Z, or time_zone beside it.")
    return {"dateTime": parsed.isoformat(), "timeZone": zone}
