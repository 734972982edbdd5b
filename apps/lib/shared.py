"""Small facts that all processes share, where the cache is Redis: a client of our own, with short time-outs.

Django's cache client waits for ever by default and tries several times. What is counted here is on the path of every call,
so that a Redis that is gone or stalls must cost one of them a second at most, and then nobody for a while: each user of
this module has another way to go on.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import redis
from django.conf import settings
from django.core.cache import cache
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.exceptions import RedisError
from redis.retry import Retry

log = logging.getLogger(__name__)

TIMEOUT = 1.0  # seconds for connecting, and for an answer
PAUSE = 1.0  # seconds for which a Redis that failed is left alone

clock = time.monotonic

_lock = threading.Lock()
_clients: dict[str, redis.Redis] = {}
_down_until: dict[str, float] = {}


class Unavailable(Exception):
    """There is no Redis, or it does not answer for now."""


def is_configured() -> bool:
    return "redis" in settings.CACHES["default"]["BACKEND"].lower()


def key(name: str) -> str:
    """The name as it is in Redis: with the cache's prefix, by which installations may share a server."""
    return str(cache.make_key(name))


class Command:
    """A Lua script: one round trip, and nothing else runs in between. Its keys must lie on one node."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._script: Script | None = None

    def __call__(self, keys: Sequence[str], arguments: Sequence[str | int | float]) -> Any:
        """The script's result. Raises `Unavailable`."""
        place = _place()
        _heed_pause(place)
        client = _client(place)
        try:
            if self._script is None:
                self._script = Script(client, self.text)
            found = self._script(keys=keys, args=arguments, client=client)
        except RedisError as error:
            _down_until[place] = clock() + PAUSE
            log.warning("Redis does not answer, going on without it for %.0f s: %s", PAUSE, error)
            raise Unavailable from None
        if place in _down_until:
            _down_until.pop(place, None)
        return found


def _heed_pause(place: str) -> None:
    """After a failure, one call at a time tries again. Raises `Unavailable` for the others."""
    if place in _down_until:
        now = clock()
        with _lock:
            if _down_until.get(place, 0.0) > now:
                raise Unavailable
            _down_until[place] = now + PAUSE + TIMEOUT


def _place() -> str:
    if not is_configured():
        raise Unavailable
    location = settings.CACHES["default"]["LOCATION"]
    return str(location if isinstance(location, str) else location[0])


def _client(place: str) -> redis.Redis:
    found = _clients.get(place)
    if found is None:
        with _lock:
            found = _clients.setdefault(place, _connect(place))
    return found


def _connect(place: str) -> redis.Redis:
    given = settings.CACHES["default"].get("OPTIONS", {})
    options = {name: value for name, value in given.items() if name.islower()}  # django-redis has others, in capitals
    for name in ("serializer", "pool_class", "parser_class"):  # those of Django itself
        options.pop(name, None)
    times: dict[str, Any] = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
    # One more try, at once: a connection that was kept may have been closed since.
    pool = redis.ConnectionPool.from_url(re.split("[;,]", place)[0], retry=Retry(NoBackoff(), 1), **(times | options))
    return redis.Redis(connection_pool=pool)
