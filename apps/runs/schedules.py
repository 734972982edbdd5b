"""When a job fires: intervals, calendars, jitter, in a time zone. Pure: no database, no clock of its own. Owner C.

A schedule as the API takes it: ``{intervals?: [{every}], calendars?: [{second?, minute?, hour?, dayOfWeek?, dayOfMonth?,
month?, year?, comment?}], jitter?, timezone?}``. ``every`` and ``jitter`` are milliseconds, or ``'30s'``, ``'15m'``, ``'1d'``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """A schedule that was checked. (The owner adds what it is made of.)"""

    jitter: timedelta

    def next_after(self, after: datetime) -> datetime | None:
        """The first firing strictly after a moment (aware, UTC comes back), without jitter; None where there is none."""
        raise NotImplementedError

    def firings(self, after: datetime) -> Iterator[datetime]:
        """All firings after a moment, in order, each once."""
        raise NotImplementedError

    def jittered(self, firing: datetime, seed: str) -> datetime:
        """When a firing really happens: between it and ``jitter`` later; for the same seed the same."""
        raise NotImplementedError

    def in_words(self) -> list[str]:
        """Sentences for people, one for each interval and calendar: Every 15 minutes. At 09:30 on Monday and Friday."""
        raise NotImplementedError


def clean(given: Any) -> Schedule:
    """Raises `InvalidInput` (`apps.lib.errors`) with every fault by its place: ``calendars.0.hour``, ``intervals.1.every``."""
    raise NotImplementedError
