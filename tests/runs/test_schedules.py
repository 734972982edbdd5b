"""When jobs fire: against a walk over every minute or second that there is, and by examples written out by hand."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.lib.errors import InvalidInput
from apps.runs.schedules import DAYS, EVERY, FIELDS, MONTHS, Field, Schedule, clean, next_firings

SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
WEEK = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
# Moments (UTC) about which something is unusual there.
PLACES: dict[str, tuple[str, ...]] = {
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00", "2028-02-29T00:00"),
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "Australia/Lord_Howe": ("2026-04-04T15:00", "2026-10-03T15:30"),  # half an hour
    "Pacific/Apia": ("2011-12-30T10:00", "2012-03-31T14:00"),  # 30 December 2011 was left out
    "Africa/Casablanca": ("2026-02-15T02:00", "2026-03-22T02:00"),  # back for Ramadan only
    "America/Sao_Paulo": ("2018-11-04T03:00", "2018-02-18T02:00"),  # at midnight
    "Antarctica/Troll": ("2026-03-29T01:00", "2026-10-25T01:00"),  # two hours
    "Africa/Monrovia": ("1972-01-07T00:44",),  # forty-four minutes and a half
    "Asia/Kathmandu": ("1985-12-31T18:30",),  # fifteen minutes
    "UTC": ("2026-12-31T23:00", "2028-02-28T23:00", "2100-02-28T23:00", "2026-04-30T22:00"),
}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def told(schedule: dict[str, Any], after: str, count: int) -> list[str]:
    return [f"{one:%Y-%m-%d %H:%M:%S}" for one in next_firings(clean(schedule), at(after), count)]


def faults(given: Any, place: str = "") -> dict[str, list[str]]:
    with pytest.raises(InvalidInput) as caught:
        clean(given, place)
    found: dict[str, list[str]] = caught.value.details
    return found


# The walk: what a calendar means is asked of each time there is on the wall.


def meant(field: Field, wanted: Any, value: int) -> bool:
    """Whether a member means a value, told from the words of the documentation."""
    if wanted is None:
        return value in field.default
    if wanted == "*":
        return True
    if isinstance(wanted, list):
        return any(meant(field, one, value) for one in wanted)
    names = [name.upper() for name in field.names]

    def number(given: Any) -> int:
        return field.low + names.index(given) if names else int(given)

    if not isinstance(wanted, dict):
        return bool(value == number(wanted))
    one, end = number(wanted["start"]), number(wanted.get("end", wanted["start"]))
    while True:
        if one == value:
            return True
        for _ in range(wanted.get("step", 1)):
            if one == end:
                return False
            one = field.low if one == field.high else one + 1


def means(calendar: dict[str, Any], wall: datetime) -> bool:
    values = (wall.second, wall.minute, wall.hour, wall.isoweekday() % 7, wall.day, wall.month, wall.year)
    return all(meant(field, calendar.get(field.name), one) for field, one in zip(FIELDS, values, strict=True))


def walked(calendar: dict[str, Any], zone: str, begin: datetime, end: datetime, step: timedelta) -> list[datetime]:
    """Every firing after ``begin`` up to ``end``."""
    hourly = all(meant(FIELDS[2], calendar.get("hour"), hour) for hour in range(24))
    wall = (begin - 2 * DAY if zone == "Pacific/Apia" else begin - 15 * timedelta(hours=1)).replace(tzinfo=None)
    stop = end.replace(tzinfo=None) + 15 * timedelta(hours=1)
    found = set()
    while wall < stop:
        if means(calendar, wall):
            first, second = (wall.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1))
            found.add(first.astimezone(UTC))
            if hourly and first.utcoffset() > second.utcoffset():  # type: ignore[operator]
                found.add(second.astimezone(UTC))
        wall += step
    return sorted(one for one in found if begin < one <= end)


def members(field: Field) -> st.SearchStrategy[Any]:
    """Values, ranges with steps and without, lists of those, '*'."""
    numbers = st.integers(field.low, field.high)

    def name(value: int) -> Any:
        return field.names[value - field.low].upper() if field.names else value

    ranges = st.tuples(numbers, numbers, st.integers(1, field.high - field.low + 1)).map(
        lambda three: {
            "start": name(three[0] if field.names else min(three[:2])),
            "end": name(three[1] if field.names else max(three[:2])),
            "step": three[2],
        }
    )
    plain = numbers.map(lambda one: {"start": name(one)})
    one: st.SearchStrategy[Any] = st.one_of(numbers.map(name), ranges, plain)
    return st.one_of(st.just("*"), one, st.lists(one, min_size=1, max_size=4))


def calendars(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    known = {field.name: field for field in FIELDS}
    return st.fixed_dictionaries({}, optional={name: members(known[name]) for name in names})


# Hours in which clocks are changed, so that most examples have to do with it.
NIGHT = st.lists(st.integers(0, 4), min_size=1, max_size=5) | st.just("*")
nights = st.fixed_dictionaries(
    {"hour": NIGHT, "minute": st.lists(st.integers(0, 59), min_size=1, max_size=4) | st.just("*")}
)
moments = st.sampled_from([(zone, moment) for zone, ones in PLACES.items() for moment in ones])


@settings(max_examples=100, deadline=None)
@given(calendar=calendars("minute", "hour", "dayOfWeek", "dayOfMonth"), where=moments, shift=st.integers(-720, 720))
def test_a_calendar_fires_when_a_walk_over_all_minutes_says(
    calendar: dict[str, Any], where: tuple[str, str], shift: int
) -> None:
    zone, moment = where
    begin = at(moment) + shift * MINUTE - 12 * timedelta(hours=1)
    schedule = clean({"calendars": [calendar], "timezone": zone})
    expected = walked(calendar, zone, begin, begin + 2 * DAY, MINUTE)
    found = next_firings(schedule, begin, len(expected) + 1)
    assert found[: len(expected)] == expected
    assert all(one > begin + 2 * DAY for one in found[len(expected) :])


@settings(max_examples=300, deadline=None)
@given(calendar=nights, where=moments, shift=st.integers(-240, 240))
def test_a_calendar_of_the_night_fires_when_a_walk_over_all_minutes_says(
    calendar: dict[str, Any], where: tuple[str, str], shift: int
) -> None:
    zone, moment = where
    begin = at(moment) + shift * MINUTE
    end = begin + timedelta(hours=5)
    expected = walked(calendar, zone, begin, end, MINUTE)
    found = next_firings(clean({"calendars": [calendar], "timezone": zone}), begin, len(expected) + 1)
    assert found[: len(expected)] == expected
    assert all(one > end for one in found[len(expected) :])


@settings(max_examples=30, deadline=None)
@given(calendar=calendars("second", "minute", "hour"), where=moments, shift=st.integers(-3_600, 3_600))
def test_a_calendar_fires_when_a_walk_over_all_seconds_says(
    calendar: dict[str, Any], where: tuple[str, str], shift: int
) -> None:
    zone, moment = where
    begin = at(moment) + shift * SECOND
    schedule = clean({"calendars": [calendar], "timezone": zone})
    expected = walked(calendar, zone, begin, begin + timedelta(minutes=20), SECOND)
    found = next_firings(schedule, begin, len(expected) + 1)
    assert found[: len(expected)] == expected
    assert all(one > begin + timedelta(minutes=20) for one in found[len(expected) :])


@settings(max_examples=60, deadline=None)
@given(
    calendar=calendars("dayOfWeek", "dayOfMonth", "month", "year"),
    begin=st.datetimes(datetime(1970, 1, 1), datetime(2201, 1, 1)),
)
def test_a_calendar_of_days_fires_when_a_walk_over_all_days_says(calendar: dict[str, Any], begin: datetime) -> None:
    day, expected = begin.date() + DAY, None
    while expected is None and day <= date(2200, 12, 31):
        if means(calendar, datetime(day.year, day.month, day.day)):
            expected = datetime(day.year, day.month, day.day, tzinfo=UTC)
        day += DAY
    assert clean({"calendars": [calendar]}).next_after(begin.replace(tzinfo=UTC)) == expected


@settings(max_examples=100, deadline=None)
@given(
    every=st.lists(st.integers(1_000, 10_000_000), max_size=3),
    several=st.lists(calendars("minute", "hour"), max_size=3),
    where=moments,
)
def test_a_schedule_of_several_parts_fires_once_for_each_instant_that_any_of_them_means(
    every: list[int], several: list[dict[str, Any]], where: tuple[str, str]
) -> None:
    zone, moment = where
    begin = at(moment)
    parts: list[dict[str, Any]] = [{"intervals": [{"every": one}]} for one in every]
    parts += [{"calendars": [one], "timezone": zone} for one in several]
    expected = sorted({one for part in parts for one in next_firings(clean(part), begin, 20)})[:20]
    schedule = clean({"intervals": [{"every": one} for one in every], "calendars": several, "timezone": zone})
    assert next_firings(schedule, begin, 20) == expected
    assert schedule.next_after(begin) == (expected[0] if expected else None)


# By hand: https://www.timeanddate.com/time/change/germany/berlin (2026: 29 March, 25 October).


@pytest.mark.parametrize(
    ("calendar", "after", "expected"),
    [
        pytest.param(
            {"hour": 2, "minute": 30}, "2026-03-28T12:00", ["2026-03-29 01:30:00", "2026-03-30 00:30:00"],
            id="left out: as long after the gap's begin",
        ),
        pytest.param(
            {"hour": [2, 3], "minute": 30}, "2026-03-28T12:00", ["2026-03-29 01:30:00", "2026-03-30 00:30:00"],
            id="left out and its neighbour: once",
        ),
        pytest.param(
            {"hour": "*"}, "2026-03-28T23:30",
            ["2026-03-29 00:00:00", "2026-03-29 01:00:00", "2026-03-29 02:00:00"],
            id="every hour of a short day",
        ),
        pytest.param(
            {"hour": 2, "minute": 30}, "2026-10-24T12:00", ["2026-10-25 00:30:00", "2026-10-26 01:30:00"],
            id="twice: the first time",
        ),
        pytest.param(
            {"hour": {"start": 0, "end": 23}, "minute": 30}, "2026-10-24T23:45",
            ["2026-10-25 00:30:00", "2026-10-25 01:30:00", "2026-10-25 02:30:00"],
            id="every hour of a long day",
        ),
        pytest.param(
            {"hour": {"start": 1, "end": 3}}, "2026-10-24T12:00",
            ["2026-10-24 23:00:00", "2026-10-25 00:00:00", "2026-10-25 02:00:00"],
            id="some hours of a long day",
        ),
    ],
)  # fmt: skip
def test_a_change_of_clocks_moves_a_firing_and_doubles_none(
    calendar: dict[str, Any], after: str, expected: list[str]
) -> None:
    assert told({"calendars": [calendar], "timezone": "Europe/Berlin"}, after, len(expected)) == expected


def test_the_firing_between_two_of_the_same_hour_is_found_from_within_either() -> None:
    twice = clean({"calendars": [{"hour": 2, "minute": 30}], "timezone": "Europe/Berlin"})
    assert twice.next_after(at("2026-10-25T00:29:59")) == at("2026-10-25T00:30")
    assert twice.next_after(at("2026-10-25T00:30")) == at("2026-10-26T01:30")
    assert twice.next_after(at("2026-10-25T01:29")) == at("2026-10-26T01:30")


def test_the_day_that_samoa_left_out_fires_with_the_next() -> None:
    assert told({"calendars": [{"hour": 9}], "timezone": "Pacific/Apia"}, "2011-12-28T22:00", 3) == [
        "2011-12-29 19:00:00", "2011-12-30 19:00:00", "2011-12-31 19:00:00",
    ]  # fmt: skip


def test_the_thirty_first_and_leap_days_are_those_days_only() -> None:
    assert told({"calendars": [{"dayOfMonth": 31}]}, "2026-01-31T00:00", 3) == [
        "2026-03-31 00:00:00", "2026-05-31 00:00:00", "2026-07-31 00:00:00",
    ]  # fmt: skip
    leap = {"dayOfMonth": 29, "month": "FEBRUARY", "hour": 12}
    assert told({"calendars": [leap]}, "2026-01-01T00:00", 2) == ["2028-02-29 12:00:00", "2032-02-29 12:00:00"]
    assert told({"calendars": [leap]}, "2097-01-01T00:00", 1) == ["2104-02-29 12:00:00"]  # 2100 has none


def test_a_range_of_weekdays_or_months_goes_past_the_last() -> None:
    weekend = {"dayOfWeek": {"start": "FRIDAY", "end": "MONDAY"}}
    assert told({"calendars": [weekend]}, "2026-11-22T12:00", 3) == [  # a Sunday
        "2026-11-23 00:00:00", "2026-11-27 00:00:00", "2026-11-28 00:00:00",
    ]  # fmt: skip
    winter = {"dayOfMonth": 1, "month": {"start": "NOVEMBER", "end": "FEBRUARY", "step": 2}}
    assert told({"calendars": [winter]}, "2026-10-01T00:00", 3) == [
        "2026-11-01 00:00:00", "2027-01-01 00:00:00", "2027-11-01 00:00:00",
    ]  # fmt: skip


def test_a_range_without_an_end_is_its_start() -> None:
    assert clean({"calendars": [{"hour": {"start": 5}}]}).calendars[0].hour == (5,)


def test_names_are_taken_in_any_case_and_none_as_absent() -> None:
    given = {"dayOfWeek": "friday", "month": ["June", "JULY"], "hour": None, "comment": "whenever"}
    calendar = clean({"calendars": [given], "intervals": None, "jitter": None, "timezone": None}).calendars[0]
    assert (calendar.weekday, calendar.month, calendar.hour) == ((5,), (6, 7), (0,))


def test_intervals_count_from_the_epoch_and_not_from_the_asking() -> None:
    assert told({"intervals": [{"every": "15m"}]}, "2026-11-22T10:07:30", 2) == [
        "2026-11-22 10:15:00", "2026-11-22 10:30:00",
    ]  # fmt: skip
    assert told({"intervals": [{"every": "1w"}]}, "2026-11-22T10:07:30", 1) == ["2026-11-26 00:00:00"]  # a Thursday
    half = clean({"intervals": [{"every": 1_500}]}).next_after(at("1970-01-01T00:00:01"))
    assert half == at("1970-01-01T00:00:01.500")


def test_an_interval_is_not_moved_by_a_change_of_clocks() -> None:
    told_there = told({"intervals": [{"every": "12h"}], "timezone": "Europe/Berlin"}, "2026-03-28T13:00", 2)
    assert told_there == ["2026-03-29 00:00:00", "2026-03-29 12:00:00"]


def test_the_firing_itself_is_not_after_itself() -> None:
    schedule = clean({"calendars": [{"hour": 9}], "intervals": [{"every": "1h"}]})
    assert schedule.next_after(at("2026-11-22T09:00")) == at("2026-11-22T10:00")
    assert schedule.next_after(at("2026-11-22T08:59:59.999999")) == at("2026-11-22T09:00")


@pytest.mark.parametrize("text", ["", "nothing"])
def test_a_schedule_of_nothing_never_fires(text: str) -> None:
    given: dict[str, Any] = {} if not text else {"intervals": [], "calendars": []}
    assert clean(given).next_after(at("2026-01-01")) is None
    assert clean(given).in_words() == []


@pytest.mark.parametrize(
    "calendar",
    [
        pytest.param({"dayOfMonth": 30, "month": "FEBRUARY"}, id="30 February"),
        pytest.param({"year": 2025}, id="a year that is over"),
        pytest.param({"dayOfMonth": 29, "month": "FEBRUARY", "year": [2027, 2029]}, id="29 February of common years"),
        pytest.param(
            {"dayOfMonth": 29, "month": "FEBRUARY", "year": {"start": 2027, "end": 2199, "step": 2}}, id="of many"
        ),
    ],
)
def test_a_calendar_that_never_fires_again_says_so_soon(calendar: dict[str, Any]) -> None:
    began = time.process_time()
    assert clean({"calendars": [calendar]}).next_after(at("2026-01-01")) is None
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize(
    ("calendar", "expected"),
    [
        pytest.param(
            {"dayOfMonth": 29, "month": "FEBRUARY", "dayOfWeek": "MONDAY"}, "2044-02-29 00:00:00", id="a leap Monday"
        ),
        pytest.param({"second": "*", "minute": "*", "hour": "*"}, "2026-01-01 00:00:01", id="every second"),
        pytest.param({"second": 59, "minute": 59, "hour": 23, "year": 2200}, "2200-01-01 23:59:59", id="the last year"),
    ],
)
def test_a_firing_is_found_soon_however_far_it_is(calendar: dict[str, Any], expected: str) -> None:
    began = time.process_time()
    assert told({"calendars": [calendar], "timezone": "UTC"}, "2026-01-01T00:00", 1) == [expected]
    assert time.process_time() - began < 0.1


def test_a_hundred_calendars_that_hardly_ever_fire_are_cheap() -> None:
    rare = [
        {"month": "FEBRUARY", "dayOfMonth": 29, "dayOfWeek": DAYS[one % 7].upper(), "hour": one % 24,
         "year": {"start": 1970 + one % 4, "end": 2199, "step": 4}}
        for one in range(100)
    ]  # fmt: skip
    began = time.process_time()
    schedule = clean({"calendars": rare, "timezone": "Africa/Casablanca"})
    assert len(next_firings(schedule, at("2026-01-01"), 50)) == 50
    assert time.process_time() - began < 2


def test_a_hundred_calendars_that_never_fire_are_cheap() -> None:
    never = [
        {"month": "FEBRUARY", "dayOfMonth": 30, "hour": one % 24, "year": {"start": 1970, "end": 2200 - one}}
        for one in range(100)
    ]
    began = time.process_time()
    schedule = clean({"calendars": never})
    assert all(schedule.next_after(at("2026-01-01") + one * DAY) is None for one in range(20))
    assert time.process_time() - began < 2


def test_what_is_given_twice_is_there_once() -> None:
    schedule = clean({"intervals": [{"every": "1h"}, {"every": "60m"}], "calendars": [{"hour": 1}, {"hour": [1]}]})
    assert (len(schedule.intervals), len(schedule.calendars)) == (1, 1)
    assert len(schedule.in_words()) == 2


def test_after_the_last_year_and_before_the_first_there_is_no_firing() -> None:
    always = clean({"intervals": [{"every": "1h"}], "calendars": [{"hour": "*"}], "timezone": "Asia/Tokyo"})
    assert always.next_after(at("2300-01-01")) is None
    assert always.next_after(datetime.max.replace(tzinfo=UTC)) is None
    assert always.next_after(at("0001-01-01")) == at("1970-01-01")


# Jitter


def jittering(jitter: Any, every: str = "1h") -> Schedule:
    return clean({"intervals": [{"every": every}], "jitter": jitter})


@settings(deadline=None)
@given(st.integers(1, 3_599_999), st.text(), st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)))
def test_jitter_is_the_same_for_the_same_firing_and_within_its_bounds(jitter: int, seed: str, near: datetime) -> None:
    schedule = jittering(jitter)
    firing = schedule.next_after(near.replace(tzinfo=UTC))
    assert firing is not None
    really = schedule.jittered(firing, seed)
    assert firing <= really <= firing + timedelta(milliseconds=jitter)
    assert really == jittering(jitter).jittered(firing, seed)


def test_jitter_spreads_jobs_and_firings() -> None:
    schedule = jittering("30m")
    firings = next_firings(schedule, at("2026-01-01"), 50)
    assert len({schedule.jittered(one, "a") - one for one in firings}) > 40
    assert len({schedule.jittered(firings[0], f"job {one}") for one in range(50)}) > 40


def test_jitter_never_takes_a_firing_past_the_next() -> None:
    schedule = jittering("1d", every="1m")
    for firing in next_firings(schedule, at("2026-01-01"), 50):
        assert firing <= schedule.jittered(firing, "a") < firing + MINUTE


def test_without_jitter_a_firing_is_on_time() -> None:
    assert jittering(None).jittered(at("2026-01-01"), "a") == at("2026-01-01")


# What is refused


@pytest.mark.parametrize(
    "every", [999, 0, -1, True, 1.5, "", "5", "1y", "-5m", "1.5h", " 5m", "٣m", "5m\n", None, [], 10**400]
)
def test_an_interval_that_is_none_is_refused_by_its_place(every: Any) -> None:
    assert list(faults({"intervals": [{"every": "5m"}, {"every": every}]})) == ["intervals.1.every"]


@pytest.mark.parametrize("text", ["1000s", "15m", "2h", "1d", "1w"])
def test_an_interval_may_be_told_by_its_unit(text: str) -> None:
    units = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
    assert clean({"intervals": [{"every": text}]}).intervals == (int(text[:-1]) * units[text[-1]],)


@pytest.mark.parametrize(
    ("calendar", "place"),
    [
        pytest.param({"hour": 24}, "hour", id="an hour too many"),
        pytest.param({"minute": -1}, "minute", id="less than nothing"),
        pytest.param({"second": "5"}, "second", id="a text"),
        pytest.param({"second": True}, "second", id="a truth"),
        pytest.param({"year": 10**400}, "year", id="a huge number"),
        pytest.param({"year": 1969}, "year", id="before the epoch"),
        pytest.param({"dayOfMonth": 0}, "dayOfMonth", id="day 0"),
        pytest.param({"dayOfWeek": 1}, "dayOfWeek", id="a weekday by number"),
        pytest.param({"dayOfWeek": "FUNDAY"}, "dayOfWeek", id="no weekday"),
        pytest.param({"month": "X" * 100_000}, "month", id="a long name"),
        pytest.param({"hour": []}, "hour", id="an empty list"),
        pytest.param({"hour": [1] * 5_000}, "hour", id="a long list"),
        pytest.param({"hour": [1, "*"]}, "hour.1", id="a star in a list"),
        pytest.param({"hour": [1, [2]]}, "hour.1", id="a list in a list"),
        pytest.param({"hour": {"start": 5, "end": 3}}, "hour.end", id="an end before the start"),
        pytest.param({"hour": {"end": 3}}, "hour.start", id="no start"),
        pytest.param({"hour": {"start": 0, "end": 23, "step": 0}}, "hour.step", id="a step of nothing"),
        pytest.param({"hour": {"start": 0, "end": 23, "step": 10**400}}, "hour.step", id="a huge step"),
        pytest.param({"hour": {"start": 0, "step": 2}}, "hour.end", id="a step without an end"),
        pytest.param({"hour": {"start": 0, "until": 2}}, "hour.until", id="an unknown member of a range"),
        pytest.param({"hours": 5}, "hours", id="an unknown member"),
        pytest.param({"comment": 5}, "comment", id="a comment that is none"),
        pytest.param({"comment": "x" * 5_000}, "comment", id="a long comment"),
    ],
)
def test_a_calendar_that_is_none_is_refused_by_its_place(calendar: dict[str, Any], place: str) -> None:
    assert list(faults({"calendars": [{"hour": 5}, calendar]}, "schedule")) == [f"schedule.calendars.1.{place}"]


@pytest.mark.parametrize(
    "zone", ["Mars/Base", "Europe", "../../etc/passwd", "/etc/localtime", "posix/UTC", "right/UTC", "localtime", "A\0B",
             "Europe/\ud800", "", 5, "X" * 100_000, "zone.tab"],
)  # fmt: skip
def test_a_time_zone_that_is_none_is_refused(zone: Any) -> None:
    assert list(faults({"timezone": zone})) == ["timezone"]


@pytest.mark.parametrize("given", [None, [], "5m", 5, True])
def test_what_is_no_object_is_refused(given: Any) -> None:
    assert faults(given) == {"schedule": ["Must be an object."]}


def test_every_fault_is_told_at_once() -> None:
    given = {
        "intervals": [{"every": 5}, 7], "calendars": [{"hour": 99, "minute": 99}], "jitter": "2d", "timezone": "Mars",
        "cron": "* * * * *",
    }  # fmt: skip
    assert set(faults(given)) == {
        "intervals.0.every", "intervals.1", "calendars.0.hour", "calendars.0.minute", "jitter", "timezone", "cron",
    }  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"calendars": [{}] * 1_000}, id="a thousand calendars"),
        pytest.param({"intervals": [{"every": "1s"}] * 1_000}, id="a thousand intervals"),
        pytest.param({"calendars": [{"hour": [99] * 100, "minute": [99] * 100} for _ in range(100)]}, id="faults"),
        pytest.param({str(one): one for one in range(100_000)}, id="unknown members"),
    ],
)
def test_a_schedule_made_to_hurt_is_refused_soon_and_briefly(given: dict[str, Any]) -> None:
    began = time.process_time()
    assert len(faults(given)) <= 100
    assert time.process_time() - began < 0.5


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["*", "MONDAY", "5m"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["intervals", "calendars", "every", "start", "end", "step", *EVERY]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_comes_is_a_schedule_or_is_refused(given: Any) -> None:
    try:
        schedule = clean(given)
    except InvalidInput:
        return
    next_firings(schedule, at("2026-01-01"), 2)
    assert all(sentence.endswith(".") for sentence in schedule.in_words())


# In words


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({"intervals": [{"every": "15m"}]}, "Every 15 minutes."),
        ({"intervals": [{"every": "1h"}]}, "Every hour."),
        ({"intervals": [{"every": 90_500}]}, "Every 1 minute 30.5 seconds, counted from 1 January 1970, 00:00 (UTC)."),
        ({"intervals": [{"every": "2d"}]}, "Every 2 days, counted from 1 January 1970, 00:00 (UTC)."),
        ({"calendars": [{"hour": 9, "minute": 30}]}, "At 09:30 every day (UTC)."),
        ({"calendars": [{"hour": 9, "second": 5}]}, "At 09:00:05 every day (UTC)."),
        ({"calendars": [{"hour": "*"}]}, "Every hour (UTC)."),
        ({"calendars": [{"hour": "*", "minute": [10, 20]}]}, "At minute 10 and 20 of every hour (UTC)."),
        ({"calendars": [{"hour": {"start": 0, "end": 23, "step": 2}}]}, "Every 2 hours (UTC)."),
        ({"calendars": [{"hour": "*", "minute": "*", "second": "*"}]}, "Every second (UTC)."),
        ({"calendars": [{"hour": "*", "minute": "*", "second": 15}]}, "At second 15 of every minute (UTC)."),
        (
            {"calendars": [{"hour": 9, "dayOfWeek": ["FRIDAY", "MONDAY"]}], "timezone": "Europe/Berlin"},
            "At 09:00 on Monday and Friday (Europe/Berlin).",
        ),
        (
            {"calendars": [{"hour": {"start": 9, "end": 17}, "minute": {"start": 0, "end": 50, "step": 10},
                            "dayOfWeek": {"start": "MONDAY", "end": "FRIDAY"}}]},
            "Every 10 minutes from 09:00 to 17:50 on Monday to Friday (UTC).",
        ),
        ({"calendars": [{"hour": {"start": 8, "end": 18}}]}, "Every hour from 08:00 to 18:00 (UTC)."),
        (
            {"calendars": [{"hour": {"start": 8, "end": 18}, "minute": 30, "second": 5}]},
            "Every hour from 08:30:05 to 18:30:05 (UTC).",
        ),
        (
            {"calendars": [{"hour": {"start": 8, "end": 18}, "minute": "*", "second": "*"}]},
            "Every second from 08:00:00 to 18:59:59 (UTC).",
        ),
        (
            {"calendars": [{"hour": {"start": 8, "end": 18}, "minute": [5, 20]}]},
            "At minute 5 and 20 of hour 8 to 18 every day (UTC).",
        ),
        (
            {"calendars": [{"dayOfMonth": 13, "dayOfWeek": "FRIDAY", "month": ["JUNE", "AUGUST"], "year": 2027}]},
            "At 00:00 on day 13 of the month if that is Friday in June and August in 2027 (UTC).",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_schedule_is_told_in_words(schedule: dict[str, Any], words: str) -> None:
    assert clean(schedule).in_words() == [words]


def test_jitter_is_told_in_words() -> None:
    assert jittering("90s").in_words() == ["Every hour.", "Each time up to 1 minute 30 seconds later, at random."]


def test_the_names_of_days_and_months_are_those_of_the_published_client() -> None:
    assert sorted(name.upper() for name in DAYS) == sorted(WEEK)
    assert [datetime(2026, one + 1, 1).strftime("%B") for one in range(12)] == list(MONTHS)
