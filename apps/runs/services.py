"""Executing tools: the one engine under every surface."""

from __future__ import annotations

import base64
import json
import logging
import math
import time
from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone

from apps.connections import access
from apps.connections.models import Connection, Integration
from apps.connections.refresh import fresh_credentials, is_refreshable
from apps.connections.upstream import failed_by_rule, send
from apps.lib import errors, http
from apps.lib.api import MAX_DEPTH, is_deeper_than, request_id
from apps.lib.db import Prepared
from apps.lib.errors import Failure, InvalidInput
from apps.lib.redact import clip, redact, redact_json_text, redact_text
from apps.toolkits import hooks
from apps.toolkits.registry import catalog
from apps.toolkits.request import BadParameters, Request, build, check_parameters
from apps.toolkits.spec import Tool, Toolkit
from apps.workspaces.callers import Caller
from apps.workspaces.quota import take_call

from .journal import journal
from .models import Execution

log = logging.getLogger(__name__)

LOGGED_CHARACTERS = 20_000
TEXT_TYPES = (
    "text/",
    "application/xml",
    "application/javascript",
    "application/x-www-form-urlencoded",
    "image/svg+xml",
)


@dataclass(frozen=True)
class Outcome:
    """An answer of the provider: ``data`` decoded; ``raw_json`` its bytes where they are JSON and untouched."""

    status: int
    data: Any
    raw_json: bytes | None
    headers: list[tuple[str, str]]
    tool_name: str
    seconds: float = 0.0


@dataclass
class _Trace:
    """What the log will say of one execution."""

    caller: Caller
    surface: str
    tool_name: str
    user_id: str = ""
    toolkit: str = ""
    connection_id: str = ""
    params: Any = None
    request: Request | None = None
    answer: http.Answer | None = None
    secrets: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)


def execute(
    caller: Caller,
    tool_name: str,
    params: dict[str, Any],
    *,
    user_id: str | None,
    connection_id: str | None = None,
    surface: str = Execution.Surface.INTEGRATIONS,
) -> Outcome:
    """Runs a tool with the right person's credentials.

    Checked in this order: tool, enabled, parameters, connection, quota; then the call. Every end is logged, with secrets
    removed. Raises a `Failure`; `ProviderRefused` for the provider's own errors.
    """
    trace = _Trace(caller, surface, tool_name[:200], user_id or "", params=params)
    try:
        outcome = _execute(trace, caller, tool_name, params, user_id, connection_id)
    except Failure as error:
        _log(trace, error)
        raise
    except Exception:
        _log(trace, errors.Internal())
        raise
    _log(trace, None)
    return outcome


def _execute(
    trace: _Trace,
    caller: Caller,
    tool_name: str,
    params: dict[str, Any],
    user_id: str | None,
    connection_id: str | None,
) -> Outcome:
    found = catalog().find_tool(tool_name)
    if found is None:
        raise errors.UnknownTool(f"There is no tool named {tool_name[:200]}.")
    toolkit, tool = found
    trace.toolkit, trace.tool_name = toolkit.slug, toolkit.public_name(tool)
    caller.require_toolkit(toolkit.slug)
    connection = _find_connection(caller, toolkit, user_id, connection_id)
    try:
        check_parameters(tool, params)
        if connection is None:
            which = "such connection" if connection_id else "connected account"
            raise errors.NotConnected(f"The user has no {which} for {toolkit.slug}.")
        trace.connection_id = connection.pk
        _check_usable(connection)
        scheme = _scheme(connection, toolkit)
        request = _build(toolkit, tool, params, connection)
    except BadParameters as error:
        raise InvalidInput({f"params.{name}": messages for name, messages in error.faults.items()}) from None
    trace.request = request
    take_call(caller)
    answer = _call(trace, toolkit, connection, scheme, request)
    return _outcome(toolkit, tool, answer)


def _find_connection(
    caller: Caller, toolkit: Toolkit, user_id: str | None, connection_id: str | None
) -> Connection | None:
    """The connection that the call uses, with its integration joined: one SELECT where there is one.

    A call for nobody uses the integration's shared connection; a call for a user only that user's. A toolkit that was
    switched off goes on working for accounts that are connected. Raises `ToolkitNotEnabled`.
    """
    if user_id is None:
        shared = Connection.objects.filter(project=caller.project, toolkit=toolkit.slug, end_user=None)
        shared = shared.filter(pk=connection_id) if connection_id else shared.filter(is_primary=True)
        connection = shared.select_related("integration").first()
    elif connection_id:
        connection = NAMED.first(caller.project.pk, toolkit.slug, user_id, connection_id)
    else:
        connection = USERS_OWN.first(caller.project.pk, toolkit.slug, user_id)
    if connection is not None:
        connection.project = caller.project
        connection.integration.project = caller.project
        return connection
    if not Integration.objects.filter(project=caller.project, toolkit=toolkit.slug).enabled().exists():
        raise errors.ToolkitNotEnabled(f"The toolkit {toolkit.slug} is not enabled for this project.")
    return None


def _own(project_id: str, slug: str, user_id: str) -> QuerySet[Connection]:
    rows = Connection.objects.filter(project_id=project_id, toolkit=slug, end_user__external_id=user_id)
    return rows.select_related("integration").order_by("-is_primary", "-connected_at")


USERS_OWN = Prepared(_own, 3)
NAMED = Prepared(lambda project_id, slug, user_id, pk: _own(project_id, slug, user_id).filter(pk=pk), 4)


def _check_usable(connection: Connection) -> None:
    if connection.status == Connection.Status.INACTIVE:
        raise errors.NotConnected(
            "The connection waits for confirmation.",
            remediation=f"Confirm it: POST /v1/{{appId}}/integrations/connections/{connection.pk}/confirm.",
        )


def _scheme(connection: Connection, toolkit: Toolkit) -> Any:
    try:
        return access.scheme_for(connection, toolkit)
    except LookupError as error:  # the toolkit's file was changed since
        raise errors.NotConnected(f"The account must be connected anew: {error}.") from None


def _build(toolkit: Toolkit, tool: Tool, params: dict[str, Any], connection: Connection) -> Request:
    integration = connection.integration
    if tool.hook:
        params = hooks.find(toolkit.slug, tool.hook)(dict(params))
    values = access.variables(toolkit, integration, connection.variables)
    return build(toolkit, tool, params, values, access.base_override(integration))


def _call(trace: _Trace, toolkit: Toolkit, connection: Connection, scheme: Any, request: Request) -> http.Answer:
    """Calls with fresh credentials. A 401 forces one refresh of exactly the token that failed, then one retry."""
    credentials = fresh_credentials(connection)
    trace.secrets = access.secrets_of(scheme, credentials)
    version = connection.version
    trace.answer = answer = send(access.authorize(request, scheme, credentials), scheme)
    if _status(toolkit, answer) != 401 or not is_refreshable(connection, credentials):
        return answer
    credentials = fresh_credentials(connection, failed_version=version)
    trace.secrets += access.secrets_of(scheme, credentials)
    trace.answer = answer = send(access.authorize(request, scheme, credentials), scheme)
    return answer


def _status(toolkit: Toolkit, answer: http.Answer) -> int:
    """The answer's status; for services that answer 200 to say no, the one that their file's failure rule gives."""
    if toolkit.failure is None or answer.status >= 400:
        return answer.status
    return failed_by_rule(toolkit, answer, http.json_or_none(answer)) or answer.status


def _outcome(toolkit: Toolkit, tool: Tool, answer: http.Answer) -> Outcome:
    data, raw = decode(answer)
    status = _status(toolkit, answer)
    name = toolkit.public_name(tool)
    if not 200 <= status < 300:
        wait = http.retry_after(answer, toolkit.rate_limit.retry_after)
        raise errors.ProviderRefused(
            f"{toolkit.name} answered with status {status}.", details={"status": status, "body": data}, retry_after=wait
        )
    if tool.answer_hook:
        data, raw = hooks.find(toolkit.slug, tool.answer_hook)(data), None
    return Outcome(status, data, raw, answer.headers, name, answer.seconds)


def decode(answer: http.Answer) -> tuple[Any, bytes | None]:
    """The body as the caller gets it: JSON as it is (and its own bytes), text as text, anything else as base64.

    A body that only claims to be JSON, or is nested beyond measure, is text.
    """
    if not answer.body:
        return None, None
    kind = answer.content_type
    if "json" in kind or (not kind and answer.body[:1] in b"{["):
        try:
            data = json.loads(answer.body, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError):
            return answer.text, None
        return (answer.text if is_deeper_than(data, MAX_DEPTH) else data), _raw(answer)
    if kind.startswith(TEXT_TYPES) or kind.endswith("+xml") or not kind:
        return answer.text, None
    binary = {
        "contentType": kind,
        "size": len(answer.body),
        "filename": _filename(answer),
        "base64": base64.b64encode(answer.body).decode(),
    }
    return binary, None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:50]} has no place in a float")
    return number


def _raw(answer: http.Answer) -> bytes | None:
    """The bytes themselves where they can stand inside our own JSON: UTF-8 without a byte order mark."""
    if answer.body[:3] == b"\xef\xbb\xbf":
        return None
    try:
        answer.body.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return answer.body


def _filename(answer: http.Answer) -> str | None:
    from email.message import Message

    message = Message()
    message["content-disposition"] = answer.header("content-disposition")
    try:
        name = message.get_filename()
    except (LookupError, ValueError):  # a charset that Python cannot read names in
        return None
    return name if isinstance(name, str) and name else None


# -- The log ---------------------------------------------------------------------------------------------------------
def _log(trace: _Trace, error: Failure | None) -> None:
    now = timezone.now()
    request, answer = trace.request, trace.answer
    row = Execution(
        project=trace.caller.project,
        surface=trace.surface,
        caller=trace.caller.actor.name[:320],
        user_id=trace.user_id.replace("\x00", "")[:255],
        connection_id=trace.connection_id,
        toolkit=trace.toolkit,
        tool=trace.tool_name.replace("\x00", "")[:200],
        successful=error is None,
        status=answer.status if answer else None,
        error=error.code if error else "",
        message=clip(redact_text(error.text, trace.secrets), 450) if error else "",
        method=request.method if request else "",
        url=clip(redact_text(request.url, trace.secrets), 1900) if request else "",
        request=clip(redact(trace.params, trace.secrets), LOGGED_CHARACTERS),
        response=_logged_answer(answer, trace.secrets) if answer else "",
        duration_ms=int((time.monotonic() - trace.started) * 1000),
        upstream_ms=int(answer.seconds * 1000) if answer else 0,
        tries=answer.tries if answer else 0,
        request_id=request_id(),
        created_at=now,
    )
    journal.add(row)


def _logged_answer(answer: http.Answer, secrets: list[str]) -> str:
    kind = answer.content_type
    if "json" in kind and len(answer.body) <= 4 * LOGGED_CHARACTERS:
        data = http.json_or_none(answer)
        if data is not None and not is_deeper_than(data, MAX_DEPTH):
            return clip(redact(data, secrets), LOGGED_CHARACTERS)
    if kind and not (kind.startswith(TEXT_TYPES) or "json" in kind or kind.endswith("+xml")):
        return f"({kind}, {len(answer.body)} bytes)"
    return clip(redact_json_text(answer.text[: 4 * LOGGED_CHARACTERS], secrets), LOGGED_CHARACTERS)
