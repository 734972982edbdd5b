"""A trace as a picture: rows of steps with bars on one axis of time, made for a template.

Waits of days beside calls of milliseconds would leave nothing to see: a stretch in which nothing was performed and that is
long beside the rest is drawn short, and says how long it was.
"""

from __future__ import annotations

import contextlib
import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

MAX_ROWS = 500
MAX_SHOWN = 4000  # characters of one value
MAX_SHOWN_OF_ALL = 1_000_000
LONG_GAP = 0.3  # of the time in which something was performed
SHORT_GAP = 0.12
LEAST_GAP = 0.25  # seconds: shorter ones are drawn as they are
ICONS = {
    "tool": "build", "request": "public", "form": "edit_note", "approve": "how_to_reg", "condition": "alt_route",
    "switch": "call_split", "for_each": "repeat", "set": "data_object", "wait": "schedule", "run": "account_tree",
    "code": "code", "fail": "block",
}  # fmt: skip
WAITS = {
    "task": "Waited for an answer", "event": "Waited for the event", "timer": "Waited", "run": "Waited for another run",
    "retry": "Waited before the next try",
}  # fmt: skip
STATUS = {
    "running": ("Running", "info"), "waiting": ("Waits", "warn"), "completed": ("Completed", "good"),
    "failed": ("Failed", "bad"), "skipped": ("Skipped", ""), "stopped": ("Stopped", ""), "continued": ("Goes on", ""),
    "cancelled": ("Cancelled", ""),
}  # fmt: skip


@dataclass
class Bar:
    """A piece of a row, in percent of the axis."""

    left: float
    width: float
    kind: str
    title: str


@dataclass
class Row:
    """One execution of a step, or the head of an attempt."""

    key: str
    title: str
    kind: str
    depth: int
    status: str
    label: str
    took: str
    bars: list[Bar] = field(default_factory=list)
    step: dict[str, Any] = field(default_factory=dict)
    parts: list[tuple[str, str]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def icon(self) -> str:
        return ICONS.get(self.kind, "play_arrow")

    @property
    def badge(self) -> str:
        return STATUS.get(self.status, ("", ""))[1]

    @property
    def indent(self) -> float:
        return min(self.depth, 8) * 0.9


@dataclass
class Picture:
    """All that the template draws."""

    attempts: list[tuple[dict[str, Any], Row, list[Row]]]
    ticks: list[tuple[float, str]]
    gaps: list[Bar]
    notes: list[str]


def picture_of(trace: dict[str, Any], now: datetime) -> Picture:
    """The picture of a trace (`apps.runs.trace`); what is still going on ends at ``now``."""
    axis = Axis(trace, now)
    painter = _Painter(axis, now)
    attempts = [(attempt, painter.attempt(attempt), painter.rows(attempt)) for attempt in trace["attempts"]]
    notes = list(trace["notes"])
    if painter.left_out:
        notes.append(f"The first {MAX_ROWS} steps are drawn; the trace as JSON has more.")
    return Picture(attempts, axis.ticks(), axis.gaps(), notes)


# -- Time ------------------------------------------------------------------------------------------------------------
def moment(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) and text else None


def words(ms: float | None) -> str:
    """A duration to be read: 320 ms, 4.2 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    if ms is None:
        return ""
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            whole, rest = divmod(round(seconds), size)
            return f"{whole} {unit} {rest // part} {smaller}" if rest // part else f"{whole} {unit}"
    return f"{seconds:.0f} s"


def every_step(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for step in steps:
        yield step
        yield from every_step(step["children"])


def waits_of(step: dict[str, Any], now: datetime) -> list[tuple[datetime, datetime]]:
    """When a step waited."""
    found = [(moment(wait["since"]), moment(wait["endedAt"]) or now) for wait in step.get("waitedFor", ())]
    return [(begin, max(begin, end)) for begin, end in found if begin is not None]


def work_of(step: dict[str, Any], now: datetime) -> list[tuple[datetime, datetime]]:
    """When it did not: the rest of its time."""
    begin = moment(step["startedAt"])
    if begin is None:
        return []
    end = max(begin, moment(step["endedAt"]) or now)
    found, at = [], begin
    for wait_begin, wait_end in waits_of(step, now):
        if wait_begin > at:
            found.append((at, wait_begin))
        at = max(at, wait_end)
    return [*found, (at, end)] if end > at or not (found or step.get("waitedFor")) else found


class Axis:
    """Time as percent of the picture's width, long idle stretches drawn short."""

    def __init__(self, trace: dict[str, Any], now: datetime) -> None:
        self.begin, self.end = _span(trace, now)
        busy = sorted(
            piece
            for attempt in trace["attempts"] for step in every_step(attempt["steps"]) if not step["children"]
            for piece in work_of(step, now)
        )  # fmt: skip
        if busy:  # a clock may have jumped
            self.begin, self.end = min(self.begin, busy[0][0]), max([self.end, *(end for _, end in busy)])
        self.points, self.short = self._points(busy)

    def _points(
        self, busy: list[tuple[datetime, datetime]]
    ) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        """(seconds from the beginning, place) at which the pace changes, and the stretches that are drawn short."""
        whole = (self.end - self.begin).total_seconds()
        idle = [(left, right) for left, right in self._idle(busy) if right - left > LEAST_GAP]
        rest = max(whole - sum(right - left for left, right in idle), 0.05)
        short = [(left, right) for left, right in idle if right - left > LONG_GAP * rest]
        points, at, place = [(0.0, 0.0)], 0.0, 0.0
        for left, right in short:
            place += left - at
            points.append((left, place))
            place += SHORT_GAP * rest
            points.append((right, place))
            at = right
        points.append((whole, place + whole - at))
        return points, short

    def _idle(self, busy: list[tuple[datetime, datetime]]) -> Iterator[tuple[float, float]]:
        at = self.begin
        for begin, end in busy:
            if begin > at:
                yield self._seconds(at), self._seconds(begin)
            at = max(at, end)
        if self.end > at:
            yield self._seconds(at), self._seconds(self.end)

    def _seconds(self, when: datetime) -> float:
        return (when - self.begin).total_seconds()

    def place(self, when: datetime) -> float:
        return self._place(self._seconds(when))

    def _place(self, seconds: float) -> float:
        seconds = min(max(seconds, 0.0), self.points[-1][0])
        index = min(bisect_right([point[0] for point in self.points], seconds), len(self.points) - 1)
        (left, low), (right, high) = self.points[index - 1], self.points[index]
        share = (seconds - left) / (right - left) if right > left else 1.0
        return round(100 * (low + share * (high - low)) / (self.points[-1][1] or 1), 3)

    def gaps(self) -> list[Bar]:
        return [
            Bar(
                self._place(left), round(self._place(right) - self._place(left), 3), "gap", words((right - left) * 1000)
            )
            for left, right in self.short
        ]

    def ticks(self) -> list[tuple[float, str]]:
        """The beginning, the end, and round times between that stand apart from what is drawn short."""
        whole = self.points[-1][0]
        if self.short:
            edges = [0.0, *(edge for gap in self.short for edge in gap), whole]
            found = [(self._place(edge), words(edge * 1000) if edge else "0") for edge in edges]
        else:
            found = [(25.0 * part, words(whole * 250 * part) if part else "0") for part in range(5)]
        kept: list[tuple[float, str]] = []
        for left, label in found:
            if not kept or (left - kept[-1][0] >= 12 and label != kept[-1][1]):
                kept.append((left, label))
        return kept


def _span(trace: dict[str, Any], now: datetime) -> tuple[datetime, datetime]:
    attempts = trace["attempts"]
    begin = moment(attempts[0]["startedAt"]) if attempts else moment(trace["createdAt"])
    end = moment(trace["endedAt"]) or now
    begin = begin or now
    return begin, max(end, begin + timedelta(milliseconds=1))


# -- Rows ------------------------------------------------------------------------------------------------------------
class _Painter:
    def __init__(self, axis: Axis, now: datetime) -> None:
        self.axis, self.now = axis, now
        self.count = 0
        self.left_out = False
        self.room = MAX_SHOWN_OF_ALL

    def attempt(self, attempt: dict[str, Any]) -> Row:
        label, _ = STATUS.get(attempt["status"], (attempt["status"], ""))
        row = Row(f"attempt-{attempt['number']}", f"Attempt {attempt['number']}", "", 0, attempt["status"], label,
                  words(attempt["ms"]))  # fmt: skip
        error = attempt.get("error")
        row.error = str(error.get("message", "")) if isinstance(error, dict) else ""
        return row

    def rows(self, attempt: dict[str, Any]) -> list[Row]:
        return list(self._rows(attempt["steps"], 0))

    def _rows(self, steps: list[dict[str, Any]], depth: int) -> Iterator[Row]:
        for step in steps:
            if self.count >= MAX_ROWS:
                self.left_out = True
                return
            self.count += 1
            yield self._row(step, depth)
            yield from self._rows(step["children"], depth + 1)

    def _row(self, step: dict[str, Any], depth: int) -> Row:
        label, _ = STATUS.get(step["status"], (step["status"], ""))
        title = step["title"]
        if "iteration" in step:
            title = f"{title} [{step['iteration']}]"
        row = Row(step["key"], title, step["kind"], depth, step["status"], label, words(step["ms"]), step=step)
        row.bars = self._bars(step)
        row.facts = facts_of(step)
        row.parts = [(name.capitalize(), self._shown(step[name])) for name in ("inputs", "output") if name in step]
        row.waits = [self._wait(wait) for wait in step.get("waitedFor", ())]
        row.calls = [self._call(call) for call in step["calls"] if isinstance(call, dict)]
        error = step.get("error")
        if isinstance(error, dict):
            row.error = str(error.get("message", ""))
            if error.get("details") is not None:
                row.parts.append(("Details of the error", self._shown(error["details"])))
        return row

    def _bars(self, step: dict[str, Any]) -> list[Bar]:
        kind = {"failed": "bad", "stopped": "stopped"}.get(step["status"], "work")
        if step["children"]:
            kind = "block"
        work = [self._bar(kind, *piece) for piece in work_of(step, self.now) if step["status"] != "skipped"]
        waits = [self._bar("wait", *piece) for piece in waits_of(step, self.now)]
        calls = [self._call_bar(call) for call in step["calls"] if isinstance(call, dict)]
        return [*work, *waits, *(bar for bar in calls if bar)]

    def _bar(self, kind: str, begin: datetime, end: datetime, title: str = "") -> Bar:
        left = self.axis.place(begin)
        width = round(self.axis.place(end) - left, 3)
        return Bar(min(left, 99.7), max(width, 0.3), kind, title or words((end - begin).total_seconds() * 1000))

    def _call_bar(self, call: dict[str, Any]) -> Bar | None:
        begin = moment(call.get("at"))
        ms = call.get("ms") or 0
        if begin is None:
            return None
        title = f"{call.get('method', '')} {call.get('url', '')}: {words(ms)}"
        return self._bar("call", begin, begin + timedelta(milliseconds=ms), title)

    def _wait(self, wait: dict[str, Any]) -> str:
        begin, end = moment(wait["since"]), moment(wait["endedAt"])
        took = words(((end or self.now) - begin).total_seconds() * 1000) if begin else ""
        text = WAITS.get(wait["what"], "Waited")
        text += f" {wait['name']}" if wait.get("name") else ""
        text += f" for {took}" if wait["what"] in {"timer", "retry"} else f": {took}"
        text += "" if end else " so far"
        if wait.get("answeredBy"):
            text += f", answered by {wait['answeredBy']}"
        until = moment(wait.get("until"))
        return f"{text}, until {until:%Y-%m-%d %H:%M:%S} at the latest" if until and not end else text

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        request, response = call.get("request") or {}, call.get("response") or {}
        status = response.get("status")
        return {
            "line": f"{call.get('method', '')} {call.get('url', '')}".strip(),
            "name": call.get("tool") or "",
            "status": status,
            "good": not call.get("error") and (not isinstance(status, int) or status < 400),
            "took": words(call.get("ms")),
            "tries": call.get("tries") or 1,
            "error": _error_text(call.get("error")),
            "parts": [
                (title, self._shown(part[name]))
                for title, part, name in (
                    ("Request headers", request, "headers"), ("Request body", request, "body"),
                    ("Answer headers", response, "headers"), ("Answer body", response, "body"),
                )
                if part.get(name)
            ],
        }  # fmt: skip

    def _shown(self, value: Any) -> str:
        text = _pretty(value)
        if self.room <= 0:
            return "Left out of this page; the trace as JSON has it."
        if len(text) > MAX_SHOWN:
            text = f"{text[:MAX_SHOWN]}\n… ({len(text):,} characters; the trace as JSON has more)"
        self.room -= len(text)
        return text


def facts_of(step: dict[str, Any]) -> list[str]:
    """What else there is to say of a step, in a few words each."""
    found = []
    if step.get("tries", 1) > 1:
        found.append(f"{step['tries']} tries")
    if step.get("lost"):
        found.append(f"its worker was lost {step['lost']} times" if step["lost"] > 1 else "its worker was lost")
    if "chosen" in step:
        found.append(f"chose {step['chosen'] or 'nothing'}")
    if step.get("then") in {"continue", "goto"}:
        found.append("went on" if step["then"] == "continue" else f"went to {step.get('goto')}")
    if "items" in step:
        found.append(f"{step['items']} items")
    return found


def _error_text(error: Any) -> str:
    if isinstance(error, dict):
        return str(error.get("message") or error.get("code") or "")
    return str(error) if error else ""


def _pretty(value: Any) -> str:
    """A value to be read: JSON with line breaks, a text that is JSON too."""
    if isinstance(value, str):
        if value[:1] not in {"{", "["}:
            return value
        with contextlib.suppress(ValueError):
            return _pretty_json(json.loads(value))
        return value
    return _pretty_json(value)


def _pretty_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
