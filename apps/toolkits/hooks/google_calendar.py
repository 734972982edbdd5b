"""Google Calendar: times, guests and video calls from plain parameters."""

from __future__ import annotations

import re
import secrets
from datetime import date, datetime
from typing import Any

from ..request import BadParameters

Params = dict[str, Any]

DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def place_event(params: Params) -> Params:
    """``start`` and ``end`` become the objects that Calendar wants, guests too. Raises `BadParameters`."""
    placed = dict(params)
    zone = placed.pop("time_zone", None)
    faults: dict[str, list[str]] = {}
    for name in ("start", "end"):
        if name in placed:
            try:
                placed[name] = moment(placed[name], zone)
            except ValueError as error:
                faults[name] = [str(error)]
    if not faults and len({"date" in placed[name] for name in ("start", "end") if name in placed}) > 1:
        faults["end"] = ["start and end must both be dates, or both be times."]
    if faults:
        raise BadParameters(faults)
    if "attendees" in placed:
        placed["attendees"] = [{"email": guest} if isinstance(guest, str) else guest for guest in placed["attendees"]]
    if placed.pop("add_video_call", False):
        request = {"requestId": secrets.token_hex(16), "conferenceSolutionKey": {"type": "hangoutsMeet"}}
        placed["add_video_call"] = {"createRequest": request}
    if "reminders" in placed:
        overrides = [{"method": "popup", **reminder} for reminder in placed["reminders"]]
        placed["reminders"] = {"useDefault": False, "overrides": overrides}
    return placed


def place_change(params: Params) -> Params:
    """As `place_event`; a day that becomes a time, or the other way round, must lose what it was."""
    placed = place_event(params)
    for name in ("start", "end"):
        if name in placed:
            placed[name] |= {"dateTime" if "date" in placed[name] else "date": None}
    return placed


def moment(text: str, zone: str | None) -> Params:
    """A day (``2030-01-10``) or a time (``2030-01-10T09:00:00+01:00``, or without offset in a named zone)."""
    if DATE.fullmatch(text):
        return {"date": date.fromisoformat(text).isoformat()}
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("Must be a date, 2030-01-10, or a time, 2030-01-10T09:00:00+01:00.") from None
    if parsed.tzinfo is None and zone is None:
        raise ValueError("A time needs an offset, such as +01:00 or Z, or time_zone beside it.")
    return {"dateTime": parsed.isoformat()} | ({"timeZone": zone} if zone else {})


def place_calendars(params: Params) -> Params:
    """Calendars are asked about as objects with an id each."""
    return params | {"calendar_ids": [{"id": name} for name in params.get("calendar_ids") or ["primary"]]}
