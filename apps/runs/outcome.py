"""How a run ended, in the words that the published clients know."""

from __future__ import annotations

from typing import Any

from .models import Run

# What the published clients' models know; they raise at anything else.
CODES = frozenset({
    "internal-server-error", "script-process-crashed", "unexpected", "script-execution-exception",
    "script-no-valid-output-received", "result-too-big-error", "script-timeout", "script-unexpected-error",
    "auth-check-failed", "all-attempts-failed", "check-attempts-failed", "create-attempts-failed",
    "post-create-check-attempts-failed", "api-attempts-failed", "onepassword-integration-error", "job-run-terminated",
})  # fmt: skip
CATEGORIES = frozenset({"infrastructure", "execution", "auth", "user", "billing"})
REASONS = frozenset({
    "auth-session-validate-dependency-failed", "terminated", "job-run-paused", "job-run-terminated",
    "failed-to-initialize-job-run", "api-access-disabled", "cancelled-user-action",
})  # fmt: skip


def error_of(run: Run) -> dict[str, Any]:
    """A failed run's error. A code of the module's own goes into the details."""
    error = run.error or {}
    code, details = error.get("code"), error.get("details")
    if code not in CODES:
        details = details if code is None else _with_code(details, code)
        code = "script-execution-exception"
    category = error.get("category")
    found: dict[str, Any] = {
        "message": str(error.get("message") or "The run failed."),
        "code": code,
        "category": category if category in CATEGORIES else "execution",
        "retirable": bool(error.get("retirable")),
    }
    if details is not None:
        found["details"] = details
    if run.request_id:
        found["correlation_id"] = run.request_id
    return found


def _with_code(details: Any, code: Any) -> dict[str, Any]:
    return {**details, "code": code} if isinstance(details, dict) else {"details": details, "code": code}


def reason_of(run: Run) -> dict[str, Any]:
    """Why a run was cancelled."""
    error = run.error or {}
    kind = error.get("type")
    return {
        "type": kind if kind in REASONS else "cancelled-user-action",
        "message": str(error.get("message") or "The run was cancelled."),
    }
