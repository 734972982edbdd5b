"""How the Shortcut API and the Raw execute API spell errors.

The Integrations API's envelope, which the platform's own routes share, stands in `apps.lib.api`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from . import errors
from .api import Envelope, request_id, request_path_var
from .errors import Failure

Spelling = tuple[type[Failure], int, str]


def spelled(failure: Failure, table: tuple[Spelling, ...]) -> tuple[int, str]:
    """(HTTP status, code): the first row of which the failure is one; the table ends with `Failure`."""
    return next((status, code) for cls, status, code in table if isinstance(failure, cls))


class Shortcut(Envelope):
    """Flat: ``{error, message, action_url?}``."""

    TABLE: tuple[Spelling, ...] = (
        (errors.BodyTooLarge, 413, "too_large"),
        (errors.MethodNotAllowed, 405, "method_not_allowed"),
        (errors.ToolkitNotEnabled, 403, "integration_not_connected"),
        (errors.NotConfigured, 403, "integration_not_connected"),
        (errors.NotConnected, 403, "integration_not_connected"),
        (errors.BadRequest, 400, "bad_request"),
        (errors.ConnectionExpired, 401, "token_expired"),
        (errors.Unauthenticated, 401, "unauthorized"),
        (errors.NotPermitted, 403, "scope_not_allowed"),
        (errors.PlanLimitReached, 403, "plan_limit_reached"),
        (errors.QuotaExceeded, 429, "daily_limit_reached"),
        (errors.RateLimited, 429, "rate_limited"),
        (errors.UnknownTool, 404, "not_found"),
        (errors.NotFound, 404, "not_found"),
        (errors.Conflict, 409, "conflict"),
        (errors.TimedOut, 504, "upstream_timeout"),
        (errors.ExecutionFailed, 502, "upstream_unreachable"),
        (Failure, 500, "internal_error"),
    )

    def status(self, failure: Failure) -> int:
        return spelled(failure, self.TABLE)[0]

    def body(self, failure: Failure) -> dict[str, Any]:
        message = failure.text
        if isinstance(failure, errors.InvalidInput) and isinstance(failure.details, dict):
            faults = "; ".join(f"{name}: {' '.join(said)}" for name, said in failure.details.items())
            message = f"{message} {faults}"
        body: dict[str, Any] = {"error": spelled(failure, self.TABLE)[1], "message": message}
        if failure.action_url:
            body["action_url"] = failure.action_url
        return body


class Raw(Envelope):
    """Flat: ``{error, code, details, timestamp, path, requestId}``; details is never a list, which its client cannot read."""

    TABLE: tuple[Spelling, ...] = (
        (errors.BodyTooLarge, 413, "PAYLOAD_TOO_LARGE"),
        (errors.MethodNotAllowed, 405, "METHOD_NOT_ALLOWED"),
        (errors.BadRequest, 400, "VALIDATION_ERROR"),
        (errors.Unauthenticated, 401, "UNAUTHORIZED"),
        (errors.ConnectionExpired, 401, "UNAUTHORIZED"),
        (errors.NotPermitted, 403, "FORBIDDEN"),
        (errors.NotFound, 404, "NOT_FOUND"),
        (errors.UnknownTool, 404, "NOT_FOUND"),
        (errors.Conflict, 409, "CONFLICT"),
        (errors.QuotaExceeded, 429, "RATE_LIMITED"),
        (errors.RateLimited, 429, "RATE_LIMITED"),
        (errors.TimedOut, 504, "UPSTREAM_TIMEOUT"),
        (errors.ExecutionFailed, 502, "UPSTREAM_UNREACHABLE"),
        (Failure, 500, "INTERNAL_ERROR"),
    )

    def status(self, failure: Failure) -> int:
        return spelled(failure, self.TABLE)[0]

    def body(self, failure: Failure) -> dict[str, Any]:
        details = failure.details
        return {
            "error": failure.text,
            "code": spelled(failure, self.TABLE)[1],
            "details": details if isinstance(details, (dict, str)) else failure.advice,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "path": request_path_var.get(),
            "requestId": request_id(),
        }


SHORTCUT = Shortcut()
RAW = Raw()
