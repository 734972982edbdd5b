"""What is persisted of a run: its events, in order, and the errors that stand in them.

``data`` is JSON. Times in it are texts of ISO 8601 with their zone; ``error`` is `StepError.as_json`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

# Of the run.
ATTEMPT = "attempt"  # {number}: an attempt begins; the first too
BACKOFF = "backoff"  # {until, error}: the attempt failed, another follows
COMPLETED = "completed"  # {result, extended?: [{api, parameters}]}
ERRORED = "errored"  # {error}
CANCELLED = "cancelled"  # {}
# Of a step; ``key`` says which.
SKIPPED = "skipped"  # {}: ``when`` was not true, or a goto led past it
STARTED = "started"  # {try, safe}: is being performed outside, or (request, tool, code) about to be
WAITING = "waiting"  # {for: task|event|timer|run|retry, try, until?, name?, error? of the try before a retry}
BRANCH = "branch"  # {chosen}: of condition and switch: then, else, case <value>, default, or ""
ITEMS = "items"  # {items}: of for_each
ENDED = "ended"  # {output}
FAILED = (
    "failed"  # {error, then: fail|continue|goto|attempt, goto?: its id}; attempt: fails whole, whatever on_error says
)
LOST = "lost"  # {then: retry|fail|continue}: its worker died in it

# What the published clients of the Runs API know; another makes their models raise.
CODES = frozenset({
    "script-execution-exception", "script-timeout", "script-process-crashed", "result-too-big-error",
    "internal-server-error", "auth-check-failed", "check-attempts-failed", "create-attempts-failed",
})  # fmt: skip


@dataclass(frozen=True)
class Event:
    """One thing that happened. ``data`` is JSON, and all that a replay needs; ``trace`` is for people alone."""

    kind: str
    at: datetime
    key: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    trace: Any = None


@dataclass(frozen=True)
class StepError:
    """Why a step, an attempt or a run failed.

    ``type`` and ``code`` are the Runs API's (``execution`` / ``script-execution-exception``), of a step ``fail`` the code is
    its author's; ``kind`` is what a step's ``retry.on`` is matched with: network, timeout, a status as text ("503"), or ""
    for everything else. ``final``: no further attempt would help. ``details`` is JSON for the integrator. ``step`` is the key
    of the step where it began.
    ``pause``: seconds that whoever was called asks to be left alone (Retry-After); no event keeps it.
    """

    message: str
    type: str = "execution"
    code: str = "script-execution-exception"
    kind: str = ""
    final: bool = False
    details: Any = None
    step: str = ""
    pause: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "type": self.type, "code": self.code, "message": self.message, "kind": self.kind, "final": self.final,
            "details": self.details, "step": self.step,
        }  # fmt: skip

    @classmethod
    def of(cls, data: Any) -> StepError:
        """Of `as_json`; of anything else an error that says nothing."""
        known = data if isinstance(data, dict) else {}
        return cls(**{"message": "", **{name: known[name] for name in cls.__dataclass_fields__ if name in known}})


def timed_out(seconds: float) -> StepError:
    return StepError(f"The step did not end within {seconds:g} seconds.", code="script-timeout", kind="timeout")


LOST_WORKER = StepError(
    "The worker was lost in this step, which cannot safely be done again.",
    type="infrastructure",
    code="script-process-crashed",
    final=True,
)
