"""Keeping off the provider's own limits, connection by connection, so that its wall is not run into.

Most providers tell in every answer how many calls the account may still make and when the count begins anew. From that a
*window* is learnt: ``least``, the smallest number that was told, less the calls that are under way (any of which the
provider may not have counted yet), is what may still be sent. So many callers at once do not overrun it.

- Nothing left: no call goes out until the reset. The caller gets 429 with Retry-After at once; no thread waits.
- Less than a tenth of the limit left: calls are spaced evenly over the time to the reset; one that comes too early gets 429.
- A 429 of the provider (or a 403 with Retry-After, as GitHub answers) closes the gate for its Retry-After, at most an hour;
  without one for a second, doubled up to a minute while it goes on.
- When the time is over, one call goes ahead and learns anew; the others follow its answer.

Some providers count by *resource* (GitHub: core, search, graphql) and name it in the answer, by which time the call is
made. So it is remembered which resources each *route* (a tool, or whatever the caller names) was told, and a call is
refused only where all resources of its route are used up: search that is spent does not stop core, and a route of which
nothing is known goes through and learns. A 429 that names no resource closes its own route, and the whole account as soon as
a second route is closed in that way: providers such as Slack limit by method, others by account.

Which headers: those that the toolkit names; where it names none, the usual ones (X-RateLimit-*, X-Rate-Limit-*, and both
forms of the IETF draft, RateLimit-* and RateLimit). A reset is read by its size: seconds since 1970, milliseconds since 1970,
or seconds from now. One that is past, or more than a day away, is not believed, nor what came with it.

State is kept by process, in memory. Where the cache is Redis, processes share what is left of a window near its wall. Without
it each learns of the others by what the provider tells it, and several processes may together send a few calls too many, at
most those under way.
"""

from __future__ import annotations

import math
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

from apps.lib import shared
from apps.lib.errors import ProviderLimited
from apps.lib.http import seconds_of
from apps.toolkits.spec import Toolkit

NEAR = 0.1  # of the limit: from there on calls are spaced
SHARED_BELOW = 64  # calls left: from there on (or from NEAR) processes share the count
LONGEST_GATE = 3600.0  # seconds
LONGEST_WINDOW = 86_400.0
LONGEST_PAUSE = 60.0  # of the doubling after a 429 that names no time
UNKNOWN_WINDOW = 1.0  # seconds for which a count is believed that comes without a reset
SAME_WINDOW = 2.0  # seconds by which two tellings of one reset may differ
PROBE_PATIENCE = 30.0  # seconds after which a probe without an answer is followed by another
FORGOTTEN_AFTER = 600.0  # seconds without a call after which none can be under way: no call takes longer
MOST_CONNECTIONS, MOST_RESOURCES, MOST_ROUTES, MOST_NAME = 10_000, 64, 64, 64

clock = time.monotonic
wall_clock = time.time

# What left the window takes, and when the next may follow, shared. Gives 0 (go), or milliseconds to wait; -1: none left.
TAKE = shared.Command(
    """
    local time = redis.call('TIME')
    local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
    local left = math.min(tonumber(redis.call('HGET', KEYS[1], 'left') or ARGV[1]), tonumber(ARGV[1]))
    local following = tonumber(redis.call('HGET', KEYS[1], 'next') or '0')
    local answer = 0
    if left <= 0 then
        answer = -1
    elseif now < following then
        answer = following - now
    else
        if ARGV[3] == '1' then following = now + math.floor(ARGV[2] / left) end
        left = left - 1
    end
    redis.call('HSET', KEYS[1], 'left', left, 'next', following)
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return answer
    """
)


@dataclass(slots=True)
class _Window:
    """What a provider told of one resource. Times are of the monotonic clock; 0: none."""

    limit: int = 0
    least: int | None = None
    resets_at: float = 0.0
    told_reset: str = ""
    next_at: float = 0.0
    closed_until: float = 0.0
    strikes: int = 0
    refused: bool = False  # somebody, since the window began: then its end is probed
    probe_until: float = 0.0


@dataclass(slots=True)
class _Route:
    """Calls under way, and the named resources that answers told."""

    under_way: int = 0
    resources: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Account:
    """All that is known of one connection."""

    routes: dict[str, _Route] = field(default_factory=dict)
    windows: dict[str, _Window] = field(default_factory=dict)
    seen_at: float = 0.0

    def route(self, name: str) -> _Route:
        found = self.routes.get(name)
        if found is None:
            if len(self.routes) >= MOST_ROUTES:
                name = ""
            found = self.routes.setdefault(name, _Route())
        return found

    def window(self, name: str, now: float) -> _Window | None:
        """The window of this name, made where there is room for one more."""
        if name not in self.windows and len(self.windows) >= MOST_RESOURCES:
            over = [key for key, one in self.windows.items() if one.resets_at <= now and one.closed_until <= now]
            for key in over:
                del self.windows[key]
            if not over:
                return None
        return self.windows.setdefault(name, _Window())

    def under_way(self, resource: str) -> int:
        """Calls that may count against the resource: a named one is not concerned by routes known to use others."""
        total = 0
        for route in self.routes.values():
            if not resource or not route.resources or resource in route.resources:
                total += route.under_way
        return total


WHOLE = ""  # the resource of providers that name none
_accounts: dict[str, _Account] = {}
_lock = threading.Lock()


def _own(route: str) -> str:
    """The resource of a route whose 429 named none; a provider's names have no line break."""
    return f"\n{route}"


# -- Before a call ---------------------------------------------------------------------------------------------------
def before(connection_id: str, toolkit: Toolkit, route: str = "") -> None:
    """To be called before each request. Raises `ProviderLimited`, whose ``retry_after`` is in seconds, at least 1.

    Where it does not raise, exactly one of `learn` and `ended` is to follow, with the same route.
    """
    now = clock()
    with _lock:
        account = _accounts.get(connection_id) or _remember(connection_id)
        if now - account.seen_at > FORGOTTEN_AFTER:
            account.routes.clear()
        account.seen_at = now
        wait, near = _admit(account, route, now) if account.windows else (0.0, [])
        if wait <= 0:
            account.route(route).under_way += 1
    if wait <= 0 and near:
        wait = _ask_others(connection_id, near)
        if wait > 0:
            _turn_back(account, route, near)
    if wait > 0:
        raise ProviderLimited(
            f"{toolkit.name}'s own limit for this account is used up for now.", retry_after=max(1, math.ceil(wait))
        )


@dataclass(slots=True)
class _Near:
    """A window near its wall: what this process believes to be left, for so many seconds; spaced or not."""

    resource: str
    left: int
    seconds: float
    spaced: bool


def _admit(account: _Account, route: str, now: float) -> tuple[float, list[_Near]]:
    """Seconds to wait, 0 where the call may go, and then the windows near their wall, from which it is taken."""
    names = [name for name in (WHOLE, _own(route)) if name in account.windows]
    waits = [_wait(account, name, now) for name in names]
    known = account.routes.get(route)
    named = [name for name in known.resources if name in account.windows] if known else []
    if named:
        by_name = {name: _wait(account, name, now) for name in named}
        waits.append(min(by_name.values()))
        names += [name for name, wait in by_name.items() if wait <= 0]
    closed = [
        window.closed_until - now
        for name, window in account.windows.items()
        if name.startswith("\n") and window.closed_until > now
    ]
    if len(closed) > 1:
        waits.append(min(closed))
    longest = max(waits, default=0.0)
    if longest > 0:
        return longest, []
    return 0.0, [near for name in names if (near := _enter(account, name, now)) is not None]


def _wait(account: _Account, name: str, now: float) -> float:
    """Seconds until the window lets another call through."""
    window = account.windows[name]
    wait = 0.0
    if window.closed_until > now:
        wait = window.closed_until - now
    elif _to_be_probed(window, now):
        wait = min(1.0, window.probe_until - now)
    elif window.least is not None and window.resets_at > now:
        left = window.least - account.under_way(name)
        if left <= 0:
            wait = window.resets_at - now if window.least <= 0 else min(1.0, window.resets_at - now)
        elif left < NEAR * window.limit:
            wait = min(window.next_at, window.resets_at) - now
    if wait > 0:
        window.refused = True
    return wait


def _to_be_probed(window: _Window, now: float) -> bool:
    """Whether a time of refusals is over, and nothing was learnt since."""
    over = window.least is None or window.resets_at <= now
    return over and (window.closed_until > 0 or window.refused)


def _enter(account: _Account, name: str, now: float) -> _Near | None:
    """Takes the call from the window; the window itself where it is near its wall."""
    window = account.windows[name]
    if _to_be_probed(window, now):
        window.probe_until = now + PROBE_PATIENCE
        return None
    if window.least is None or window.resets_at <= now:
        return None
    left = window.least - account.under_way(name)
    rest = window.resets_at - now
    spaced = left < NEAR * window.limit
    if spaced:
        window.next_at = now + rest / left
    return _Near(name, left, rest, spaced) if spaced or left < SHARED_BELOW else None


def _ask_others(connection_id: str, near: list[_Near]) -> float:
    """What processes together have left: seconds to wait, 0 where the call may go or nobody can be asked."""
    for window in near:
        key = shared.key(f"pace:{connection_id}:{window.resource}")
        milliseconds = max(1, int(window.seconds * 1000))
        try:
            answer = int(TAKE([key], [window.left, milliseconds, int(window.spaced)]))
        except shared.Unavailable:
            return 0.0
        if answer:
            return window.seconds if answer < 0 else answer / 1000
    return 0.0


def _turn_back(account: _Account, route: str, near: list[_Near]) -> None:
    with _lock:
        _land(account, route)
        for one in near:
            if one.resource in account.windows:
                account.windows[one.resource].refused = True


def ended(connection_id: str, route: str = "") -> None:
    """The request had no answer, or was not sent."""
    account = _accounts.get(connection_id)
    if account is not None:
        with _lock:
            _land(account, route)


def _land(account: _Account, route: str) -> None:
    found = account.route(route)
    found.under_way = max(0, found.under_way - 1)


def _remember(connection_id: str) -> _Account:
    if len(_accounts) >= MOST_CONNECTIONS:  # the tenth that was quiet for longest goes
        quiet = sorted(_accounts, key=lambda one: _accounts[one].seen_at)
        for old in quiet[: MOST_CONNECTIONS // 10]:
            del _accounts[old]
    return _accounts.setdefault(connection_id, _Account())


# -- After an answer -------------------------------------------------------------------------------------------------
def learn(connection_id: str, toolkit: Toolkit, status: int, headers: list[tuple[str, str]], route: str = "") -> None:
    """Takes from an answer what it tells of the provider's limits."""
    rule = toolkit.rate_limit
    roles = _roles(rule.limit, rule.remaining, rule.reset, rule.retry_after)
    told = {roles[lower]: value for name, value in headers if (lower := name.lower()) in roles}
    limited = status == 429 or (status == 403 and "after" in told)
    now = clock()
    with _lock:
        account = _accounts.get(connection_id)
        if account is None:
            return
        _land(account, route)
        resource = None
        if told and (found := _read(told, rule.reset_format, now)) is not None:
            resource = _note(account, route, found, now)
        if limited:
            window = account.window(_own(route) if resource is None else resource, now)
            if window is not None:
                _close(window, told.get("after", ""), now)
        elif account.windows:
            _open(account, route, now)


def _note(account: _Account, route: str, found: _Told, now: float) -> str:
    """Keeps what was told; gives the name of its window."""
    if found.resource:
        known = account.route(route).resources
        if len(known) < MOST_RESOURCES:
            known.add(found.resource)
    window = account.window(found.resource, now)
    if window is None:
        return found.resource
    same = window.least is not None and window.resets_at > now
    if same and found.told_reset != window.told_reset:
        same = abs(found.resets_at - window.resets_at) <= SAME_WINDOW
    if same and window.least is not None:
        window.least = min(window.least, found.remaining)
    elif found.resets_at > now:
        window.least, window.resets_at, window.told_reset = found.remaining, found.resets_at, found.told_reset
        window.next_at = window.probe_until = 0.0
        window.refused = False
    window.limit = found.limit or max(window.limit, found.remaining)
    return found.resource


def _close(window: _Window, retry_after: str, now: float) -> None:
    """After a 429. Those of calls that were under way when the gate closed do not close it further."""
    seconds = seconds_of(retry_after)
    window.probe_until = 0.0
    if seconds is not None:
        window.closed_until = max(window.closed_until, now + min(max(1.0, float(seconds)), LONGEST_GATE))
    elif window.least is not None and window.least <= 0 and window.resets_at > now:
        window.closed_until = max(window.closed_until, window.resets_at)
    elif window.closed_until <= now:
        window.closed_until = now + min(LONGEST_PAUSE, 2.0 ** min(window.strikes, 10))
        window.strikes += 1


def _open(account: _Account, route: str, now: float) -> None:
    """After any other answer: what was closed for a time that is over is open again."""
    known = account.routes.get(route)
    for name in (WHOLE, _own(route), *(known.resources if known else ())):
        window = account.windows.get(name)
        if window is None or window.closed_until > now:
            continue
        window.closed_until, window.strikes, window.probe_until = 0.0, 0, 0.0
        if window.least is None or window.resets_at <= now:
            del account.windows[name]


# -- Reading headers -------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Told:
    """What the headers of one answer say; ``told_reset`` as it was written, so that the same need not be read again."""

    resource: str
    limit: int
    remaining: int
    resets_at: float
    told_reset: str


COMMON = {
    f"{prefix}-{word}": word
    for prefix in ("x-ratelimit", "x-rate-limit", "ratelimit")
    for word in ("limit", "remaining", "reset")
} | {"ratelimit": "draft", "ratelimit-policy": "policy"}
RESOURCES = {"x-ratelimit-resource": "resource", "x-ratelimit-bucket": "resource"}
NUMBER = re.compile(r"\s*\"?(-?\d{1,18}(?:\.\d{1,9})?)")
PAIR = re.compile(r"([a-z]+)=\"?(\d{1,18})")


@lru_cache(maxsize=4096)
def _roles(limit: str | None, remaining: str | None, reset: str | None, retry_after: str) -> dict[str, str]:
    """What each header is for, by its name in small letters."""
    named = {"limit": limit, "remaining": remaining, "reset": reset}
    own = {name.lower(): role for role, name in named.items() if name}
    return (own or COMMON) | RESOURCES | {retry_after.lower(): "after", "retry-after": "after", "date": "date"}


def _read(told: dict[str, str], reset_format: str, now: float) -> _Told | None:
    """None where the answer tells no number of calls that are left, or a reset that cannot be."""
    values = _draft(told["draft"], told.get("policy", "")) | told if "draft" in told else told
    remaining = _number(values.get("remaining", ""))
    if remaining is None:
        return None
    reset = values.get("reset", "").strip()
    seconds = _seconds_to(reset, reset_format, values.get("date", "")) if reset else UNKNOWN_WINDOW
    if seconds is None or not 0 < seconds <= LONGEST_WINDOW:
        return None
    limit = _number(values.get("limit", "")) or 0
    resource = " ".join(values["resource"][:MOST_NAME].split()) if "resource" in values else WHOLE
    return _Told(resource, max(0, int(limit)), max(0, int(remaining)), now + seconds, reset)


def _number(text: str) -> float | None:
    if text.isdecimal() and len(text) <= 18:  # nearly always
        return int(text)
    found = NUMBER.match(text)
    return float(found[1]) if found else None


def _seconds_to(reset: str, reset_format: str, date: str) -> float | None:
    """Seconds to a reset; a point of time is held against the provider's own Date, whose clock may differ from ours."""
    if reset_format == "iso" or (value := _number(reset)) is None:
        try:
            moment = datetime.fromisoformat(reset)
            return moment.timestamp() - _providers_now(date)
        except (ValueError, OverflowError):
            return None
    if value >= 1e11:  # milliseconds: as seconds it would be the year 5138
        return value / 1000 - _providers_now(date)
    if value >= 1e9:  # as a number of seconds from now it would be 31 years
        return value - _providers_now(date)
    return value


def _providers_now(date: str) -> float:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return wall_clock()


def _draft(text: str, policy: str) -> dict[str, str]:
    """draft-ietf-httpapi-ratelimit-headers: ``limit=100, remaining=50, reset=30``, or ``"default";r=50;t=30`` since -08.

    Of several policies the one of which least is left.
    """
    items = [(part.partition(";")[0].strip(), dict(PAIR.findall(part))) for part in text[:1000].split(",")]
    counted = [(int(values["r"]), name, values) for name, values in items if "r" in values]
    if not counted:
        return {key: value for _, values in items for key, value in values.items()}
    _, name, values = min(counted, key=lambda item: item[0])
    limits = {part.partition(";")[0].strip(): dict(PAIR.findall(part)) for part in policy[:1000].split(",")}
    found = {"remaining": values["r"], "limit": limits.get(name, {}).get("q", "")}
    return found | ({"reset": values["t"]} if "t" in values else {})
