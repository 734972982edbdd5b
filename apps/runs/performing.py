"""Performing a step outside: a tool, a plain HTTP request, a function of the installation. Never inside of a transaction.

Whatever goes wrong is a `StepError`; what was sent and answered is the step's trace, without secrets.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from django.utils import timezone

from apps.connections.models import Connection
from apps.lib import errors, http
from apps.lib.db import release
from apps.lib.errors import Failure
from apps.lib.redact import MASK, clip, is_secret_name, redact, redact_json_text, redact_text, secret_values
from apps.modules import actions
from apps.modules.definition import SAFE_METHODS
from apps.toolkits.request import HEADER_NAME, Request
from apps.workspaces.audit import Actor
from apps.workspaces.callers import Caller

from . import run_auth, services
from .calls import LOGGED_CHARACTERS, Call, logged_answer
from .engine import Perform, StepError
from .engine.plain import NotPlain, plain, text_of
from .models import Execution, Run

log = logging.getLogger(__name__)

DEFAULT_SECONDS = 30.0  # of a request whose step names no time
LONGEST_PAUSE = 5.0  # seconds that a call waits in place where a limit of its plan is reached
METHODS = SAFE_METHODS | {"POST", "PATCH"}
# What the two ends of a connection agree upon (RFC 9110 section 7.6.1, RFC 9112), and what the URL says.
NOT_A_STEPS = frozenset({
    "connection", "content-length", "expect", "host", "keep-alive", "proxy-authorization", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
# Errors that another attempt may not have.
PASSING = (errors.Unreachable, errors.RateLimited, errors.QuotaExceeded, errors.Internal)
LASTING = (errors.AddressRefused, errors.AnswerTooLarge)


class _Trace:
    """The calls of one step. ``secrets`` are masked wherever they turn up."""

    def __init__(self, run: Run, command: Perform) -> None:
        self.secrets = [*secrets_in(command.inputs), *secrets_in(run.parameters), *run_auth.secrets_of(run)]
        self.calls: list[dict[str, Any]] = []

    def add(self, call: Call, at: datetime, started: float, error: Failure | None) -> None:
        if call.request is None and error is None:
            return
        secrets = [*self.secrets, *call.secrets]
        found: dict[str, Any] = {"at": at.isoformat(), "ms": int((time.monotonic() - started) * 1000)}
        if call.toolkit:
            found |= {"toolkit": call.toolkit, "tool": call.name}
            found |= {"connection": call.connection.pk} if call.connection else {}
        if call.request is not None:
            found |= {"method": call.request.method, "url": masked_url(call.request.full_url, secrets)}
            found |= {"request": _sent(call.request, secrets), "tries": call.tries}
        if call.answer is not None:
            found["response"] = _answered(call.answer, secrets)
        if error is not None:
            found["error"] = {"code": error.code, "message": redact_text(error.text, secrets)}
        self.calls.append(found)


def perform(run: Run, command: Perform, seconds: float = 600.0) -> tuple[Any, Any]:
    """The step's output, or a `StepError`; and its trace. Everything it sends ends within ``seconds``. Never raises."""
    trace = _Trace(run, command)
    try:
        proxy = run.unseal("proxy")
        trace.secrets += _passwords(proxy)
        with http.bounded(seconds, proxy):
            outcome = _admitted(run, command, trace, time.monotonic() + seconds)
    except Failure as error:
        outcome = error_of(error, trace.secrets)
    except Exception:
        log.exception("step %s of run %s stumbled", command.key, run.pk)
        outcome = error_of(errors.Internal(), [])
    return outcome, {"calls": trace.calls}


def _admitted(run: Run, command: Perform, trace: _Trace, give_up: float) -> Any:
    """Waits a moment, again and again, where a limit of the plan, or the provider's own, is reached: nothing was sent then."""
    while True:
        try:
            return KINDS[command.step.kind](run, command, trace)
        except errors.RateLimited as limited:
            pause = limited.retry_after or 1
            if pause > LONGEST_PAUSE or time.monotonic() + pause > give_up:
                raise
            release()
            time.sleep(pause)


def shown(value: Any, run: Run) -> Any:
    """What a step is performed with, for people: secrets of its own are left out, and those that the run was given."""
    secrets = [*secrets_in(value), *secrets_in(run.parameters), *run_auth.secrets_of(run)]
    if isinstance(value, dict) and isinstance(value.get("url"), str):
        value = {**value, "url": masked_url(value["url"], secrets)}
    return redact(value, secrets)


# -- Tools -----------------------------------------------------------------------------------------------------------
def caller_of(run: Run) -> Caller:
    """Whose name a run's calls go under; its quota is its project's runs'."""
    return Caller("run", run.project, frozenset({"execute"}), Actor(f"run:{run.pk}"))


def _tool(run: Run, command: Perform, trace: _Trace) -> Any:
    inputs = command.inputs
    user_id, connection_id = _whose(run, str(inputs.get("connection") or "user"))
    at, started = timezone.now(), time.monotonic()
    error: Failure | None = None
    call = Call(caller_of(run), Execution.Surface.RUN, name=inputs["name"], user_id=user_id, params=inputs["params"])
    call.secrets = trace.secrets
    if connection_id is None and inputs.get("connection") in {None, "user"}:
        call.account = run_auth.account_of(run)
    try:
        with call:
            return services.carry_out(call, inputs["name"], inputs["params"], connection_id).data
    except Failure as failure:
        error = failure
        raise
    finally:
        trace.add(call, at, started, error)


def _whose(run: Run, named: str) -> tuple[str | None, str | None]:
    """The end user and the connection that a tool is called with. Raises `NotConnected`."""
    if named == "shared":
        return None, None
    if named == "user":
        return run.user_id or None, None
    connection = Connection.objects.filter(project=run.project_id, pk=named).select_related("end_user").first()
    if connection is None:
        raise errors.NotConnected(f"The project has no connection {named[:60]}.")
    return connection.end_user.external_id if connection.end_user else None, connection.pk


# -- Requests --------------------------------------------------------------------------------------------------------
def _request(run: Run, command: Perform, trace: _Trace) -> Any:
    request = _built(command)
    call = Call(caller_of(run), Execution.Surface.RUN, name="request", user_id=run.user_id or None)
    call.params, call.secrets = shown(command.inputs, run), trace.secrets
    at, started = timezone.now(), time.monotonic()
    error: Failure | None = None
    try:
        with call:
            call.request = replace(request, url=masked_url(request.full_url, trace.secrets), query=[])
            call.admit()
            answer = call.answer = _send(call, command, request)
            output = _output(answer)
            if answer.status < 400 or answer.status in command.inputs["accept"]:
                return output
            raise errors.ProviderRefused(
                f"{request.method} {masked_url(request.url, trace.secrets)[:300]} answered with status {answer.status}.",
                details={"status": answer.status, "body": output["body"]},
                retry_after=http.retry_after(answer),
            )
    except Failure as failure:
        error = failure
        raise
    finally:
        trace.add(call, at, started, error)


def _send(call: Call, command: Perform, request: Request) -> http.Answer:
    release()
    outgoing = http.Outgoing(
        request.method,
        request.full_url,
        request.headers,
        request.body,
        timeout=request.timeout,
        follow=bool(command.inputs["follow"]),
        safe=request.idempotent,
        sensitive=frozenset(
            {"authorization", "cookie"} | {name.lower() for name in request.headers if is_secret_name(name)}
        ),
    )
    try:
        answer = http.send(outgoing)
    except errors.Unreachable as error:
        call.tries = error.tries
        raise
    call.tries = answer.tries
    return answer


def _built(command: Perform) -> Request:
    """Raises `BadRequest` for what is no request."""
    inputs = command.inputs
    method = inputs["method"]
    if method not in METHODS:
        raise errors.BadRequest(f"{method[:20]} is not among the methods {', '.join(sorted(METHODS))}.")
    try:
        headers = _headers(inputs["headers"])
        body, kind = _body(inputs)
        url, query = _address(inputs["url"], inputs["query"])
    except NotPlain as error:
        raise errors.BadRequest(str(error)) from None
    if kind and not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = kind
    seconds = command.timeout or DEFAULT_SECONDS
    return Request(method, url, query, headers, body, idempotent=command.safe, timeout=seconds)


def _address(url: str, query: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """The URL as it was written, and what the step adds to its query. What no URL may have in it is escaped."""
    try:
        parts = urlsplit(quote(url.strip(), safe="".join(chr(code) for code in range(0x21, 0x7F))))
    except ValueError:
        raise errors.BadRequest("The address is not a valid URL.") from None
    added = [(name, text_of(item)) for name, value in query.items() for item in _listed(value) if item is not None]
    return urlunsplit(parts._replace(fragment="")), added


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _headers(given: dict[str, Any]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in given.items():
        text = text_of(value)
        if not HEADER_NAME.match(name) or name.lower() in NOT_A_STEPS:
            raise errors.BadRequest(f"A step cannot set the header {name[:60]!r}.")
        if http.BAD_IN_HEADER.search(text):
            raise errors.BadRequest(f"The header {name} has control characters.")
        if value is not None:
            headers[name] = text
    return headers


def _body(inputs: dict[str, Any]) -> tuple[bytes | None, str]:
    if "json" in inputs:
        return json.dumps(inputs["json"], ensure_ascii=False).encode(), "application/json"
    if "form" in inputs:
        fields = inputs["form"].items()
        pairs = [(name, text_of(item)) for name, value in fields for item in _listed(value) if item is not None]
        return urlencode(pairs).encode(), "application/x-www-form-urlencoded"
    if "body" in inputs:
        return inputs["body"].encode(), "text/plain; charset=utf-8"
    return None, ""


def _output(answer: http.Answer) -> dict[str, Any]:
    headers: dict[str, str] = {}
    for name, value in answer.headers:
        lower = name.lower()
        headers[lower] = f"{headers[lower]}, {value}" if lower in headers else value
    return {"status": answer.status, "headers": headers, "body": services.decode(answer)[0]}


# -- Code ------------------------------------------------------------------------------------------------------------
def _code(run: Run, command: Perform, trace: _Trace) -> Any:
    name = command.inputs["name"]
    release()
    try:
        action = actions.find(name)
        if action is None:
            return StepError(f"This installation has no action {name}.", final=True)
        return plain(action(**command.inputs["params"]))[0]
    except actions.FinalError as error:
        return StepError(str(error), final=True, details=error.details)
    except NotPlain as error:
        return StepError(f"{name} gave what is no JSON: {error}", final=True)
    except Failure:
        raise
    except Exception as error:
        log.warning("the code %s of run %s failed", name, run.pk, exc_info=True)
        return StepError(redact_text(f"{type(error).__name__}: {error}"[:1000], trace.secrets))


KINDS: dict[str, Callable[[Run, Perform, _Trace], Any]] = {"tool": _tool, "request": _request, "code": _code}


# -- Errors ----------------------------------------------------------------------------------------------------------
def error_of(error: Failure, secrets: list[str]) -> StepError:
    """A failure as the step's error: final where another attempt would come to the same."""
    details = {"code": error.code, "remediation": error.advice, "actionUrl": error.action_url or None}
    details |= error.details if isinstance(error.details, dict) else {"details": error.details}
    told = redact({name: _short(value) for name, value in details.items() if value is not None}, secrets)
    message = redact_text(error.text, secrets)
    if isinstance(error, errors.ProviderRefused):
        status = int(details.get("status") or 0)
        return StepError(
            message,
            kind=str(status),
            final=400 <= status < 500 and status not in (408, 429),
            details=told,
            pause=error.retry_after or 0.0,
        )
    if isinstance(error, errors.TimedOut):
        return StepError(message, code="script-timeout", kind="timeout", details=told)
    if isinstance(error, errors.Internal):
        return StepError(message, type="infrastructure", code="internal-server-error")
    if isinstance(error, errors.ConnectionExpired):
        return StepError(message, type="auth", code="auth-check-failed", final=True, details=told)
    passing = isinstance(error, PASSING) and not isinstance(error, LASTING)
    kind = "network" if isinstance(error, errors.Unreachable) else str(error.status)
    return StepError(message, kind=kind, final=not passing, details=told, pause=error.retry_after or 0.0)


def _short(value: Any) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return value if len(text) <= LOGGED_CHARACTERS else clip(text, LOGGED_CHARACTERS)


# -- What people see of a call -----------------------------------------------------------------------------------------
def secrets_in(value: Any) -> list[str]:
    """Texts that stand under a secret's name."""
    if isinstance(value, dict):
        named = [text for name, member in value.items() if is_secret_name(str(name)) for text in secret_values(member)]
        named += _in_url(value.get("url"))
        words = [text.partition(" ")[2] for text in named]  # of "Bearer abc" the second stands alone, too
        return [*named, *filter(None, words), *(text for member in value.values() for text in secrets_in(member))]
    if isinstance(value, list):
        return [text for item in value for text in secrets_in(item)]
    return []


def _in_url(url: Any) -> list[str]:
    """The password of a URL, and what stands in its query under a secret's name."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
    except ValueError:
        return []
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    return [*filter(None, [parts.password]), *(value for name, value in pairs if value and is_secret_name(name))]


def _passwords(proxy: str | None) -> list[str]:
    parts = urlsplit(proxy or "")
    return [part for part in (proxy, parts.password) if part]


def masked_url(url: str, secrets: list[str]) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return clip(redact_text(url, secrets), 2000)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = parts.query
    if any(is_secret_name(name) for name, _ in pairs):
        masked = [(name, MASK if is_secret_name(name) else value) for name, value in pairs]
        query = urlencode(masked, safe="*", quote_via=quote)
    return clip(redact_text(urlunsplit(parts._replace(query=query)), secrets), 2000)


def _sent(request: Request, secrets: list[str]) -> dict[str, Any]:
    body = (request.body or b"")[: 4 * LOGGED_CHARACTERS].decode(errors="replace")
    return {
        "headers": redact(dict(request.headers), secrets),
        "body": clip(redact_json_text(body, secrets), LOGGED_CHARACTERS) or None,
    }


def _answered(answer: http.Answer, secrets: list[str]) -> dict[str, Any]:
    headers = _output(http.Answer(answer.status, answer.headers, b"", answer.url))["headers"]
    return {
        "status": answer.status,
        "headers": redact(headers, secrets),
        "body": logged_answer(answer, secrets) or None,
    }
