"""What is persisted of a run: its events, in order, and the errors that stand in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

# Of the run.
ATTEMPT = "attempt"  # {number}: an attempt begins; the first too
BACKOFF = "backoff"  # {until, error}: the attempt failed, another follows
COMPLETED = "completed"  # {result}
ERRORED = "errored"  # {error}
CANCELLED = "cancelled"  # {}
# Of a step; ``key`` says which.
SKIPPED = "skipped"  # {}: ``when`` was not true, or a goto led past it
STARTED = "started"  # {try, safe}: is being performed outside, or (request, tool, code) about to be
WAITING = "waiting"  # {for: task|event|timer|run|retry, until?, name?}
BRANCH = "branch"  # {chosen}: of condition and switch: then, else, case <value>, default, or ""
ITEMS = "items"  # {items}: of for_each
ENDED = "ended"  # {output}
FAILED = "failed"  # {error, then: fail|continue|<id of the goto>}
LOST = "lost"  # {then: retry|fail|continue}: its worker died in it


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

    ``type`` and ``code`` are the Runs API's (``execution`` / ``script-execution-exception``); ``kind`` is what a step's
    ``retry.on`` is matched with: network, timeout, a status as text ("503"), or "" for everything else. ``final``: no
    further attempt would help. ``details`` is JSON for the integrator.
    """

    message: str
    type: str = "execution"
    code: str = "script-execution-exception"
    kind: str = ""
    final: bool = False
    details: Any = None
    step: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "type": self.type, "code": self.code, "message": self.message, "kind": self.kind, "final": self.final,
            "details": self.details, "step": self.step,
        }  # fmt: skip

    @classmethod
    def of(cls, data: dict[str, Any]) -> StepError:
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


def timed_out(seconds: float) -> StepError:
    return StepError(f"The step did not end within {seconds:g} seconds.", code="script-timeout", kind="timeout")


LOST_WORKER = StepError(
    "The worker was lost in this step, which cannot safely be done again.",
    type="infrastructure",
    code="script-process-crashed",
    final=True,
)
