"""When a job fires: intervals, calendars, jitter, in a time zone. Pure: no database, no clock of its own.

A schedule as the API takes it: ``{intervals?: [{every}], calendars?: [{second?, minute?, hour?, dayOfWeek?, dayOfMonth?,
month?, year?, comment?}], jitter?, timezone?}``. ``every`` and ``jitter`` are milliseconds, or ``'30s'``, ``'15m'``, ``'2h'``,
``'1d'``, ``'1w'``. A member of a calendar is a value, ``{start, end?, step?}``, a list of those, or ``'*'``; a range without
``end`` is just its ``start`` (as in Temporal's ScheduleRange, whose shape this is), a step needs an ``end``, and only days of
the week and months may go past their last one: FRIDAY to MONDAY.

Intervals count from the Unix epoch in elapsed time. Calendars are told in local time: which days of a year they mean is asked
of dateutil's rrule, and what instant a local time is of zoneinfo. Where clocks are put forward, a time that is left out fires
as long after the gap's begin as it lies inside (02:30 at 03:30); where they are put back, a time that comes twice fires the
first time, or both if the calendar means every hour. Whatever several parts of a schedule mean, an instant fires once.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from bisect import bisect_left
from calendar import isleap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import islice, product
from typing import Any
from zoneinfo import ZoneInfo

from dateutil.rrule import YEARLY, rrule

from apps.lib.errors import InvalidInput

FIRST_YEAR, LAST_YEAR = 1970, 2200
MOST = 100  # intervals, calendars, entries of a list, faults told
SHORTEST, LONGEST = 1_000, 520 * 604_800_000
LONGEST_JITTER = 86_400_000
LONGEST_COMMENT = 1_000

DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_DAY = date(1970, 1, 1).toordinal()
MILLISECOND = timedelta(milliseconds=1)
HOUR, DAY = 3_600, 86_400
END = (date(LAST_YEAR + 1, 1, 2).toordinal() - EPOCH_DAY) * DAY  # no firing later, in any zone
WINDOW = 3 * DAY  # looked at in one go
REACH = 26 * HOUR  # the furthest that a change of clocks moves a firing: Samoa left out a whole day
STRIDE = 3 * HOUR  # no zone changes its clocks twice in so short a time

UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
DURATION = re.compile(r"([0-9]{1,10})([smhdw])", re.ASCII)
# Of the names a system has, those of the IANA: neither "posix/…" nor "right/…" (which counts leap seconds).
ZONE = re.compile(r"[A-Z][A-Za-z0-9_+-]{1,31}(/[A-Za-z0-9_+-]{1,31}){0,2}", re.ASCII)


@dataclass(frozen=True)
class Field:
    """A member of a calendar: its bounds, the names of its values, whether a range may go past the last."""

    name: str
    low: int
    high: int
    default: tuple[int, ...]
    names: tuple[str, ...] = ()

    def every(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1))

    def expected(self) -> str:
        if self.names:
            return f"one of {', '.join(name.upper() for name in self.names)}"
        return f"a whole number from {self.low} to {self.high}"


def _whole(name: str, low: int, high: int, names: tuple[str, ...] = ()) -> Field:
    return Field(name, low, high, tuple(range(low, high + 1)), names)


FIELDS = (
    Field("second", 0, 59, (0,)),
    Field("minute", 0, 59, (0,)),
    Field("hour", 0, 23, (0,)),
    _whole("dayOfWeek", 0, 6, DAYS),
    _whole("dayOfMonth", 1, 31),
    _whole("month", 1, 12, MONTHS),
    _whole("year", FIRST_YEAR, LAST_YEAR),
)
EVERY = {field.name: field.every() for field in FIELDS}


# What a schedule is made of.


@dataclass(frozen=True)
class Calendar:
    """Values of each member, sorted. Times are numbers here: seconds since the epoch, of UTC or of the clocks on the wall."""

    second: tuple[int, ...]
    minute: tuple[int, ...]
    hour: tuple[int, ...]
    weekday: tuple[int, ...]  # 0 is Sunday
    day: tuple[int, ...]
    month: tuple[int, ...]
    year: tuple[int, ...]

    def firings(self, begin: int, zone: ZoneInfo) -> Iterator[int]:
        """Its instants from ``begin`` on, in order, each once. Looks only where the clocks on the wall may show one."""
        while begin < END and (wall := self.wall_from(begin - 2 * DAY)) is not None:
            begin = max(begin, wall - 15 * HOUR)  # no zone is further from UTC
            yield from self._between(begin, begin + WINDOW, zone)
            begin += WINDOW

    def _between(self, begin: int, end: int, zone: ZoneInfo) -> Iterator[int]:
        before: int | None = None
        for start, stop, offset in _stretches(zone, begin - REACH, end):
            former = offset if before is None else before
            before = offset
            if stop <= begin:
                continue
            yield from _once(heapq.merge(
                self._kept(max(begin, start), stop, offset, start + former),
                self._left_out(max(begin, start), min(end, start + offset - former), former),
            ))  # fmt: skip

    def _kept(self, begin: int, end: int, offset: int, shown_before: int) -> Iterator[int]:
        """Firings of a stretch without a change: what the clocks showed before the last change is not fired again."""
        wall = begin + offset if self.hour == EVERY["hour"] else max(begin + offset, shown_before)
        return (one - offset for one in self._walls(wall, end + offset))

    def _left_out(self, begin: int, end: int, former: int) -> Iterator[int]:
        """Firings of the wall's times that a change of clocks jumped over."""
        return (one - former for one in self._walls(begin + former, end + former))

    def _walls(self, begin: int, end: int) -> Iterator[int]:
        wall = self.wall_from(begin) if begin < end else None
        while wall is not None and wall < end:
            yield wall
            wall = self.wall_from(wall + 1)

    def wall_from(self, wall: int) -> int | None:
        """The first time on the wall that it means, this one or a later one."""
        day, second = divmod(wall, DAY)
        if (at := self._time_from(second)) is not None and self.day_from(day) == day:
            return day * DAY + at
        following = self.day_from(day + 1)
        return None if following is None else following * DAY + self._first_time

    @property
    def _first_time(self) -> int:
        return self.hour[0] * HOUR + self.minute[0] * 60 + self.second[0]

    def _time_from(self, second: int) -> int | None:
        """The first second of a day that it means, this one or a later one."""
        hour, rest = divmod(second, HOUR)
        minute, second = divmod(rest, 60)
        if hour in self.hour:
            if minute in self.minute and (at := _from(self.second, second)) is not None:
                return hour * HOUR + minute * 60 + at
            if (later := _from(self.minute, minute + 1)) is not None:
                return hour * HOUR + later * 60 + self.second[0]
        if (later := _from(self.hour, hour + 1)) is not None:
            return later * HOUR + self.minute[0] * 60 + self.second[0]
        return None

    def day_from(self, day: int) -> int | None:
        """The first day (counted from 1 January 1970) that it means, this one or a later one."""
        day = max(day, 0)
        ordinal = day + EPOCH_DAY
        if ordinal > date.max.toordinal():
            return None
        for year in self._years[bisect_left(self._years, date.fromordinal(ordinal).year) :]:
            first = date(year, 1, 1).toordinal() - EPOCH_DAY
            days = _days(isleap(year), (first + 3) % 7, self.month, self.day, self.weekday)
            if (found := _from(days, day - first)) is not None:
                return first + found
        return None

    @cached_property
    def _years(self) -> tuple[int, ...]:
        return _years(self.year, self.month, self.day, self.weekday)


@dataclass(frozen=True)
class Schedule:
    """A schedule that was checked: intervals in milliseconds, calendars, and the zone in which these are told."""

    jitter: timedelta
    intervals: tuple[int, ...]
    calendars: tuple[Calendar, ...]
    zone: ZoneInfo

    def next_after(self, after: datetime) -> datetime | None:
        """The first firing strictly after a moment (aware, UTC comes back), without jitter; None where there is none."""
        found = [first for source in self._sources(after) if (first := next(source, None)) is not None]
        return EPOCH + min(found) * MILLISECOND if found else None

    def firings(self, after: datetime) -> Iterator[datetime]:
        """All firings after a moment, in order, each once."""
        return (EPOCH + at * MILLISECOND for at in _once(heapq.merge(*self._sources(after))))

    def jittered(self, firing: datetime, seed: str) -> datetime:
        """When a firing really happens: up to ``jitter`` later, yet before the next; for the same seed the same."""
        if not self.jitter:
            return firing
        following = self.next_after(firing)
        room = self.jitter if following is None else min(self.jitter, following - firing - MILLISECOND)
        drawn = hashlib.sha256(f"{(firing - EPOCH) // MILLISECOND} {seed}".encode(errors="replace")).digest()
        return firing + int.from_bytes(drawn[:8], "big") % (room // MILLISECOND + 1) * MILLISECOND

    def in_words(self) -> list[str]:
        """Sentences for people, one for each interval and calendar, one for the jitter: Every 15 minutes. At 09:30 on Monday
        and Friday (Europe/Berlin)."""
        sentences = [_interval_in_words(every) for every in self.intervals]
        sentences += [f"{_calendar_in_words(calendar)} ({self.zone.key})." for calendar in self.calendars]
        if sentences and self.jitter:
            sentences.append(f"Each time up to {_length(self.jitter // MILLISECOND)} later, at random.")
        return sentences

    def _sources(self, after: datetime) -> Iterator[Iterator[int]]:
        """For each interval and calendar its instants after a moment, in milliseconds since the epoch."""
        moment = max((after - EPOCH) // MILLISECOND, -1)
        for every in self.intervals:
            yield iter(range((moment // every + 1) * every, END * 1_000, every))
        for calendar in self.calendars:
            yield (at * 1_000 for at in calendar.firings(moment // 1_000 + 1, self.zone) if at >= 0)


def next_firings(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    """At most ``count`` firings after a moment, without jitter, in order."""
    return list(islice(schedule.firings(after), count))


def _from(values: tuple[int, ...], least: int) -> int | None:
    at = bisect_left(values, least)
    return values[at] if at < len(values) else None


def _once(sorted_values: Iterable[int]) -> Iterator[int]:
    last = None
    for value in sorted_values:
        if value != last:
            yield value
        last = value


# A year is one of fourteen: its first weekday (0 is Monday), with a 29 February or without. 28 years in a row have them all.
_YEARS = {(isleap(year), date(year, 1, 1).weekday()): year for year in range(2000, 2028)}


@lru_cache(maxsize=512)
def _days(
    leap: bool, first: int, months: tuple[int, ...], days: tuple[int, ...], weekdays: tuple[int, ...]
) -> tuple[int, ...]:
    """The days that a calendar means in a year of that kind, counted from 1 January as 0."""
    begin = datetime(_YEARS[leap, first], 1, 1)
    rule = rrule(
        YEARLY,
        dtstart=begin,
        interval=9_999,  # this year only: where nothing fits, until would let it look through all years there are
        bymonth=months,
        bymonthday=days,
        byweekday=[(weekday - 1) % 7 for weekday in weekdays],
    )
    return tuple((found - begin).days for found in rule)


@lru_cache(maxsize=512)
def _years(
    years: tuple[int, ...], months: tuple[int, ...], days: tuple[int, ...], weekdays: tuple[int, ...]
) -> tuple[int, ...]:
    """Those of the years in which a calendar means any day."""
    return tuple(year for year in years if _days(isleap(year), date(year, 1, 1).weekday(), months, days, weekdays))


@lru_cache(maxsize=512)
def _stretches(zone: ZoneInfo, begin: int, end: int) -> tuple[tuple[int, int, int], ...]:
    """``(start, stop, offset)``: the time between two instants, cut where the zone changes its clocks. All in seconds."""
    found = []
    start, offset = begin, _offset(zone, begin)
    for probe in (*range(begin + STRIDE, end, STRIDE), end):
        if (other := _offset(zone, probe)) != offset:
            change = _change(zone, probe - STRIDE, probe, offset)
            found.append((start, change, offset))
            start, offset = change, other
    return (*found, (start, end, offset))


def _change(zone: ZoneInfo, low: int, high: int, offset: int) -> int:
    """The first instant whose offset is another one; at ``low`` it is not yet, at ``high`` it is."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(zone, middle) == offset else (low, middle)
    return high


def _offset(zone: ZoneInfo, instant: int) -> int:
    offset = datetime.fromtimestamp(instant, zone).utcoffset()
    assert offset is not None
    return offset.days * DAY + offset.seconds


# Checking what was given.


class Faults(dict[str, list[str]]):
    """Messages by place, of which the first hundred are kept."""

    def add(self, place: str, message: str) -> None:
        if len(self) < MOST or place in self:
            self.setdefault(place, []).append(message)

    def unknown(self, place: str, given: dict[Any, Any], known: Iterable[str]) -> None:
        names = set(known)
        for name in list(given)[: len(names) + MOST]:
            if name not in names:
                self.add(_at(place, str(name)[:50]), f"Unknown. Known: {', '.join(sorted(names))}.")


def clean(given: Any, place: str = "") -> Schedule:
    """A schedule as the API takes it, checked; None and absent are the same in it.

    Raises `InvalidInput` (`apps.lib.errors`) with every fault by its place: ``calendars.0.hour``, ``intervals.1.every``;
    ``place`` is what stands before these (``schedule``).
    """
    faults = Faults()
    if not isinstance(given, dict):
        raise InvalidInput({place or "schedule": ["Must be an object."]})
    faults.unknown(place, given, ("intervals", "calendars", "jitter", "timezone"))
    jitter = given.get("jitter")
    schedule = Schedule(
        timedelta(0) if jitter is None else _duration(jitter, _at(place, "jitter"), 0, LONGEST_JITTER, faults) * MILLISECOND,
        tuple(dict.fromkeys(_interval(one, at, faults) for at, one in _objects(given, "intervals", place, faults))),
        tuple(dict.fromkeys(_calendar(one, at, faults) for at, one in _objects(given, "calendars", place, faults))),
        _zone(given.get("timezone"), _at(place, "timezone"), faults),
    )  # fmt: skip
    if faults:
        raise InvalidInput(dict(faults))
    return schedule


def _at(place: str, name: str | int) -> str:
    return f"{place}.{name}" if place else str(name)


def _objects(given: dict[str, Any], name: str, place: str, faults: Faults) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list with their places."""
    where, values = _at(place, name), given.get(name)
    if values is None:
        return
    if not isinstance(values, list):
        faults.add(where, "Must be a list of objects.")
    elif len(values) > MOST:
        faults.add(where, f"Must have at most {MOST} entries.")
    else:
        for number, value in enumerate(values):
            if isinstance(value, dict):
                yield _at(where, number), value
            else:
                faults.add(_at(where, number), "Must be an object.")


def _interval(given: dict[str, Any], place: str, faults: Faults) -> int:
    faults.unknown(place, given, ("every",))
    return _duration(given.get("every"), _at(place, "every"), SHORTEST, LONGEST, faults)


def _duration(given: Any, place: str, least: int, most: int, faults: Faults) -> int:
    """Milliseconds, of a number of them or of a text such as ``'15m'``."""
    value = None
    if isinstance(given, int) and not isinstance(given, bool):
        value = given
    elif isinstance(given, str) and (match := DURATION.fullmatch(given)):
        value = int(match[1]) * UNITS[match[2]]
    if value is None:
        faults.add(place, "Must be a whole number of milliseconds, or a text such as '30s', '15m', '2h', '1d', '1w'.")
    elif not least <= value <= most:
        faults.add(place, f"Must be from {least} to {most} milliseconds ({_length(most)}).")
    else:
        return value
    return least


def _zone(given: Any, place: str, faults: Faults) -> ZoneInfo:
    if given is None:
        return ZoneInfo("UTC")
    if isinstance(given, str) and ZONE.fullmatch(given):
        try:
            return ZoneInfo(given)
        except (KeyError, ValueError, OSError):  # a folder of zones is an OSError
            pass
    faults.add(place, "Must be the name of a time zone, such as Europe/Berlin.")
    return ZoneInfo("UTC")


def _calendar(given: dict[str, Any], place: str, faults: Faults) -> Calendar:
    faults.unknown(place, given, (*(field.name for field in FIELDS), "comment"))
    comment = given.get("comment")
    if comment is not None and not (isinstance(comment, str) and len(comment) <= LONGEST_COMMENT):
        faults.add(_at(place, "comment"), f"Must be a text of at most {LONGEST_COMMENT} characters.")
    return Calendar(*(_values(field, given.get(field.name), _at(place, field.name), faults) for field in FIELDS))


def _values(field: Field, given: Any, place: str, faults: Faults) -> tuple[int, ...]:
    """All values that a member means, sorted; the default's where it is at fault."""
    if given is None:
        return field.default
    if given == "*":
        return EVERY[field.name]
    if not isinstance(given, list):
        return _entry(field, given, place, faults) or field.default
    if not 1 <= len(given) <= MOST:
        faults.add(place, f"Must have 1 to {MOST} entries.")
        return field.default
    entries = [_entry(field, one, _at(place, number), faults) for number, one in enumerate(given)]
    return tuple(sorted({value for entry in entries for value in entry})) or field.default


def _entry(field: Field, given: Any, place: str, faults: Faults) -> tuple[int, ...]:
    """The values of a value or a range; none where it is at fault."""
    if isinstance(given, dict):
        return _range(field, given, place, faults)
    value = _value(field, given)
    if value is None:
        faults.add(place, f"Must be {field.expected()}, or {{start, end, step}}, a list of those, or '*'.")
    return () if value is None else (value,)


def _value(field: Field, given: Any) -> int | None:
    if field.names:
        name = given.title() if isinstance(given, str) and len(given) <= 9 else ""
        return field.low + field.names.index(name) if name in field.names else None
    if isinstance(given, int) and not isinstance(given, bool) and field.low <= given <= field.high:
        return given
    return None


def _range(field: Field, given: dict[str, Any], place: str, faults: Faults) -> tuple[int, ...]:
    known = len(faults)
    faults.unknown(place, given, ("start", "end", "step"))
    start, end, step = given.get("start"), given.get("end"), given.get("step")
    first = _value(field, start)
    last = first if end is None else _value(field, end)
    size = field.high - field.low + 1
    if first is None:
        faults.add(_at(place, "start"), f"Must be {field.expected()}.")
    if last is None and end is not None:
        faults.add(_at(place, "end"), f"Must be {field.expected()}.")
    if step is not None and (not isinstance(step, int) or isinstance(step, bool) or not 1 <= step <= size):
        faults.add(_at(place, "step"), f"Must be a whole number from 1 to {size}.")
    if step is not None and end is None:
        faults.add(_at(place, "end"), "Must be given with a step.")
    if first is not None and last is not None and last < first and not field.names:
        faults.add(_at(place, "end"), "Must not be less than start.")
    if len(faults) > known or first is None or last is None:
        return ()
    length = (last - first) % size + 1
    return tuple(sorted(field.low + (first - field.low + one) % size for one in range(0, length, step or 1)))


# Telling people.


def _interval_in_words(every: int) -> str:
    words = _length(every)
    if words.startswith("1 ") and " " not in words[2:]:
        words = words[2:]
    counted = "" if 3_600_000 % every == 0 else ", counted from 1 January 1970, 00:00 (UTC)"
    return f"Every {words}{counted}."


def _length(milliseconds: int) -> str:
    """1 hour 30 minutes."""
    parts = []
    rest = milliseconds
    for name, unit in (("week", "w"), ("day", "d"), ("hour", "h"), ("minute", "m")):
        count, rest = divmod(rest, UNITS[unit])
        if count:
            parts.append(_counted(count, name))
    if rest or not parts:
        seconds = f"{rest / 1_000:g}" if rest < 60_000 else str(rest // 1_000)
        parts.append(f"{seconds} second{'' if seconds == '1' else 's'}")
    return " ".join(parts)


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def _calendar_in_words(calendar: Calendar) -> str:
    times, days = _times_in_words(calendar), _days_in_words(calendar)
    return times if "every" in times.lower() and days == "every day" else f"{times} {days}"


def _times_in_words(calendar: Calendar) -> str:
    """At 09:30; Every 15 minutes; Every 10 minutes from 09:00 to 17:50; At minute 5 and 20 of hour 9 to 17."""
    seconds, minutes, hours = calendar.second, calendar.minute, calendar.hour
    if len(hours) * len(minutes) * len(seconds) <= 6:
        return "At " + _and([_clock(time, seconds != (0,)) for time in product(hours, minutes, seconds)])
    if _is_row(hours) and hours != EVERY["hour"]:
        often = _often(seconds, minutes, EVERY["hour"])
        if len(minutes) == len(seconds) == 1 or often.startswith("Every"):
            often = "Every hour" if len(minutes) == len(seconds) == 1 else often
            first, last = ((hours[at], minutes[at], seconds[at]) for at in (0, -1))
            return f"{often} from {_clock(first, seconds != (0,))} to {_clock(last, seconds != (0,))}"
    return _often(seconds, minutes, hours)


def _often(seconds: tuple[int, ...], minutes: tuple[int, ...], hours: tuple[int, ...]) -> str:
    """Every 15 minutes; At second 5 of every minute; At minute 5 and 20 of hour 9 to 17."""
    members = [("second", seconds), ("minute", minutes), ("hour", hours)]
    while members[0][1] == (0,):
        members.pop(0)
    parts = [_part(name, values, number == 0) for number, (name, values) in enumerate(members)]
    while len(parts) > 1 and parts[-2].startswith("every") and parts[-1] in ("every minute", "every hour"):
        parts.pop()
    words = " of ".join(parts)
    return f"E{words[1:]}" if words.startswith("every") else f"At {words}"


def _part(name: str, values: tuple[int, ...], stepping: bool) -> str:
    """every hour; every 15 minutes; minute 5 and 20; hour 9 to 17."""
    every = EVERY[name]
    if values == every:
        return f"every {name}"
    step = len(every) // len(values)
    if stepping and len(values) > 1 and values == every[::step]:
        return f"every {step} {name}s"
    return f"{name} {_list([str(value) for value in values], values)}"


def _clock(time: tuple[int, int, int], with_seconds: bool) -> str:
    """09:30, or 09:30:15."""
    return ":".join(f"{part:02}" for part in (time if with_seconds else time[:2]))


def _days_in_words(calendar: Calendar) -> str:
    """every day; on Monday and Friday; on day 13 of the month if that is Friday in June of 2027."""
    parts = ["every day"]
    numbers = tuple(sorted((weekday - 1) % 7 for weekday in calendar.weekday))  # a week begins on Monday
    names = _list([DAYS[(number + 1) % 7] for number in numbers], numbers)
    if calendar.day != EVERY["dayOfMonth"]:
        some = "" if calendar.weekday == EVERY["dayOfWeek"] else f" if that is {names}"
        parts = [f"on day {_list([str(day) for day in calendar.day], calendar.day)} of the month{some}"]
    elif calendar.weekday != EVERY["dayOfWeek"]:
        parts = [f"on {names}"]
    if calendar.month != EVERY["month"]:
        parts.append(f"in {_list([MONTHS[month - 1] for month in calendar.month], calendar.month)}")
    if calendar.year != EVERY["year"]:
        parts.append(f"in {_list([str(year) for year in calendar.year], calendar.year)}")
    return " ".join(parts)


def _list(words: list[str], values: tuple[int, ...]) -> str:
    """Monday to Friday; 1, 15 and 20."""
    if _is_row(values):
        return f"{words[0]} to {words[-1]}"
    return _and(words)


def _is_row(values: tuple[int, ...]) -> bool:
    return len(values) > 2 and values == tuple(range(values[0], values[-1] + 1))


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
