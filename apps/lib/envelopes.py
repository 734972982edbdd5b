"""How the Shortcut API, the Raw execute API, the Runs API and the sessions API spell errors.

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


class Runs(Envelope):
    """Flat: ``{code, category, message, retirable, details?, correlationId}``; spelled so by the API's published clients."""

    TABLE: tuple[Spelling, ...] = (
        (errors.BodyTooLarge, 413, "payload-too-large"),
        (errors.MethodNotAllowed, 405, "method-not-allowed"),
        (errors.BadRequest, 400, "bad-request"),
        (errors.Unauthenticated, 401, "unauthorized"),
        (errors.ConnectionExpired, 401, "unauthorized"),
        (errors.NotPermitted, 403, "forbidden"),
        (errors.NotFound, 404, "not-found"),
        (errors.UnknownTool, 404, "not-found"),
        (errors.AuthSessionInUse, 409, "auth-session-already-in-use"),
        (errors.Conflict, 409, "conflict"),
        (errors.QuotaExceeded, 429, "too-many-requests"),
        (errors.RateLimited, 429, "too-many-requests"),
        (errors.TimedOut, 504, "gateway-timeout"),
        (errors.ExecutionFailed, 502, "bad-gateway"),
        (Failure, 500, "internal-server-error"),
    )

    def status(self, failure: Failure) -> int:
        return spelled(failure, self.TABLE)[0]

    def body(self, failure: Failure) -> dict[str, Any]:
        status, code = spelled(failure, self.TABLE)
        body: dict[str, Any] = {
            "code": code,
            "category": "user" if status < 500 else "infrastructure",
            "message": failure.text,
            "retirable": status == 429 or status >= 500 or failure.retry_after is not None,
            "correlationId": request_id(),
        }
        if failure.details is not None:
            body["details"] = failure.details
        return body


class Sessions(Envelope):
    """``{errors: [{status, code, title, detail, source?}]}``, one for each fault, as JSON:API 1.1 has it (section Errors).

    A fault's name is a JSON pointer into the body, or names a header or a parameter of the query (`PARAMETERS`).
    """

    PARAMETERS = frozenset({"include", "query"})
    TABLE: tuple[Spelling, ...] = tuple(
        (cls, status, code.replace("-", "_")) for cls, status, code in Runs.TABLE
    )  # fmt: skip

    def status(self, failure: Failure) -> int:
        return spelled(failure, self.TABLE)[0]

    def body(self, failure: Failure) -> dict[str, Any]:
        status, code = spelled(failure, self.TABLE)
        head = {"status": str(status), "code": code, "title": failure.message}
        if isinstance(failure, errors.InvalidInput) and isinstance(failure.details, dict):
            faults = [
                {**head, "detail": text, "source": self._source(name)}
                for name, texts in failure.details.items()
                for text in texts
            ]
            if faults:
                return {"errors": faults}
        return {"errors": [{**head, "detail": failure.text}]}

    def _source(self, name: str) -> dict[str, str]:
        if name.startswith("/"):
            return {"pointer": name}
        if name == "body":
            return {"pointer": ""}
        return {"parameter" if name in self.PARAMETERS else "header": name}


SHORTCUT = Shortcut()
RAW = Raw()
RUNS = Runs()
SESSIONS = Sessions()
