"""A schedule for people: a month with what fires on each of its days, and the next firings in words. Made for templates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from .schedules import DAYS, FIRST_YEAR, LAST_YEAR, MONTHS, Schedule

MOST_ON_A_DAY = 300  # counted; a schedule of many parts is counted less far
LEAST_COUNTED = 20
SHOWN_TIMES = 3  # of a day
DAY = timedelta(days=1)
MONTH = re.compile(r"([0-9]{4})-([0-9]{2})", re.ASCII)
STEPS = ((timedelta(minutes=1), "second"), (timedelta(hours=1), "minute"), (DAY, "hour"), (60 * DAY, "day"))


@dataclass(frozen=True)
class CalendarDay:
    """One day of the picture. ``count`` is told as ``300+`` where nobody counted on."""

    day: date
    label: str
    times: str
    count: str
    strength: int  # 0: nothing fires, to 4: all day long
    is_today: bool
    is_past: bool


@dataclass(frozen=True)
class Month:
    """A month as weeks from Monday to Sunday; None for days of its neighbours, which ``before`` and ``after`` name."""

    title: str
    weeks: list[list[CalendarDay | None]]
    before: str
    after: str
    zone: str

    @property
    def weekdays(self) -> list[tuple[str, str]]:
        """Short and long, from Monday on."""
        return [(name[:2], name) for name in (*DAYS[1:], DAYS[0])]


def month_of(schedule: Schedule, wanted: str, now: datetime) -> Month:
    """The month that ``wanted`` names (``2026-11``), in the schedule's time zone; this month where it names none."""
    today = now.astimezone(schedule.zone).date()
    first = _first_of(wanted) or today.replace(day=1)
    following = _following(first)
    days = [_day(schedule, first + number * DAY, today) for number in range((following - first).days)]
    cells: list[CalendarDay | None] = [None] * first.weekday() + [*days]
    cells += [None] * (-len(cells) % 7)
    before = (first - DAY).replace(day=1)
    return Month(
        title=f"{MONTHS[first.month - 1]} {first.year}",
        weeks=[cells[at : at + 7] for at in range(0, len(cells), 7)],
        before=f"{before:%Y-%m}" if before.year >= FIRST_YEAR else "",
        after=f"{following:%Y-%m}" if following.year <= LAST_YEAR else "",
        zone=schedule.zone.key,
    )


def _first_of(wanted: str) -> date | None:
    match = MONTH.fullmatch(wanted)
    if match is None or not (FIRST_YEAR <= int(match[1]) <= LAST_YEAR and 1 <= int(match[2]) <= 12):
        return None
    return date(int(match[1]), int(match[2]), 1)


def _following(first: date) -> date:
    return (first + 31 * DAY).replace(day=1)


def _day(schedule: Schedule, day: date, today: date) -> CalendarDay:
    parts = len(schedule.calendars) + len(schedule.intervals)
    most = max(LEAST_COUNTED, MOST_ON_A_DAY // max(parts, 1))
    found = list(islice(_on(schedule, day), most + 1))
    count = f"{most}+" if len(found) > most else str(len(found) or "")
    times = ", ".join(f"{_wall(one, schedule.zone)}" for one in found[:SHOWN_TIMES])
    return CalendarDay(
        day=day,
        label=_told(count, len(found)),
        times=f"{times}, …" if len(found) > SHOWN_TIMES else times,
        count=count,
        strength=sum(len(found) >= least for least in (1, 2, 13, 49)),
        is_today=day == today,
        is_past=day < today,
    )


def _on(schedule: Schedule, day: date) -> Iterator[datetime]:
    """The firings of a day that has this date where the schedule is."""
    begin, end = (datetime(one.year, one.month, one.day, tzinfo=schedule.zone) for one in (day, day + DAY))
    for firing in schedule.firings(begin.astimezone(UTC) - timedelta(milliseconds=1)):
        if firing >= end:
            return
        yield firing


def _told(count: str, number: int) -> str:
    return f"{count} firing{'' if number == 1 else 's'}" if count else ""


def _wall(moment: datetime, zone: ZoneInfo) -> str:
    """09:30, with seconds where there are some."""
    local = moment.astimezone(zone)
    return f"{local:%H:%M:%S}" if local.second else f"{local:%H:%M}"


def in_words(moment: datetime, zone: ZoneInfo, now: datetime) -> str:
    """Monday, 23 November 2026 at 09:30 (Europe/Berlin), in 3 hours."""
    local = moment.astimezone(zone)
    day = f"{DAYS[local.isoweekday() % 7]}, {local.day} {MONTHS[local.month - 1]} {local.year}"
    return f"{day} at {_wall(moment, zone)} ({zone.key}), {how_far(moment, now)}"


def how_far(moment: datetime, now: datetime) -> str:
    """in 3 hours; now."""
    left = moment - now
    if left < timedelta(seconds=1):
        return "now"
    unit = timedelta(seconds=1)
    for limit, name in STEPS:
        if left < limit:
            return _in(left // unit, name)
        unit = limit if limit <= DAY else unit
    months = left // (30 * DAY)
    return _in(months, "month") if months < 24 else _in(left // (365 * DAY), "year")


def _in(number: int, name: str) -> str:
    return f"in {number} {name}{'' if number == 1 else 's'}"
