"""Executing tools: what the surfaces that name a tool have in common."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, replace
from typing import Any

from apps.connections import access
from apps.connections.links import advice_on_scopes
from apps.connections.models import Connection
from apps.lib import errors, http
from apps.lib.api import MAX_DEPTH, is_deeper_than
from apps.lib.errors import InvalidInput
from apps.toolkits import hooks
from apps.toolkits.registry import catalog
from apps.toolkits.request import BadParameters, Request, build, check_parameters
from apps.toolkits.spec import Tool, Toolkit
from apps.workspaces.callers import Caller

from .calls import TEXT_TYPES, Call, find_connection, require_enabled, scheme_of
from .models import Execution


@dataclass(frozen=True)
class Outcome:
    """An answer of the provider: ``data`` decoded; ``raw_json`` its bytes where they are JSON and untouched.

    ``status`` is what the answer stands for: the provider's own, unless its toolkit knows of services that answer 200 to
    say no. ``provider_status`` is what it really answered. ``retry_after`` in seconds, where the provider named it.
    """

    status: int
    data: Any
    raw_json: bytes | None
    headers: list[tuple[str, str]]
    tool_name: str
    seconds: float = 0.0
    provider_status: int = 200
    retry_after: int | None = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


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
    with Call(caller, surface, name=tool_name[:200], user_id=user_id, params=params) as call:
        return carry_out(call, tool_name, params, connection_id)


def carry_out(call: Call, tool_name: str, params: dict[str, Any], connection_id: str | None = None) -> Outcome:
    """`execute`, within a call that somebody else ends."""
    found = catalog(call.caller.project).find_tool(tool_name)
    if found is None:
        raise errors.UnknownTool(f"There is no tool named {tool_name[:200]}.")
    outcome = run(call, *found, params, connection_id)
    if not outcome.is_success:
        lacking = call.connection if outcome.status == 403 else None
        raise refusal(found[0], outcome, advice_on_scopes(lacking, found[1]) if lacking else "")
    return _hooked(*found, outcome)


def run(call: Call, toolkit: Toolkit, tool: Tool, params: dict[str, Any], connection_id: str | None = None) -> Outcome:
    """The tool's answer, also where the provider refused. Raises a `Failure` where there is none."""
    caller = call.caller
    call.toolkit, call.name = toolkit.slug, toolkit.public_name(tool)
    caller.require_toolkit(toolkit.slug)
    connection = call.account(toolkit.slug) if call.account else None
    if connection is None:
        connection = find_connection(caller, toolkit.slug, call.user_id, connection_id)
    if connection is None:
        require_enabled(caller, toolkit.slug)
    try:
        check_parameters(tool, params)
        if connection is None:
            which = "such connection" if connection_id else "connected account"
            raise errors.NotConnected(f"The user has no {which} for {toolkit.slug}.")
        call.use(connection)
        scheme = scheme_of(connection, toolkit)
        request = _build(toolkit, tool, params, connection)
    except BadParameters as error:
        raise InvalidInput({f"params.{name}": messages for name, messages in error.faults.items()}) from None
    call.request = request
    call.admit()
    answer = call.send(toolkit, scheme, request)
    return _outcome(call, toolkit, tool, answer)


def _build(toolkit: Toolkit, tool: Tool, params: dict[str, Any], connection: Connection) -> Request:
    integration = connection.integration
    if tool.hook:
        params = hooks.find(toolkit.slug, tool.hook)(dict(params))
    values = access.variables(toolkit, integration, connection.variables)
    return build(toolkit, tool, params, values, access.base_override(integration))


def _outcome(call: Call, toolkit: Toolkit, tool: Tool, answer: http.Answer) -> Outcome:
    data, raw = decode(answer)
    status = call.status_of(toolkit, answer)
    wait = http.retry_after(answer, toolkit.rate_limit.retry_after)
    return Outcome(
        status, data, raw, answer.headers, toolkit.public_name(tool), answer.seconds, answer.status, retry_after=wait
    )


def _hooked(toolkit: Toolkit, tool: Tool, outcome: Outcome) -> Outcome:
    if not tool.answer_hook:
        return outcome
    return replace(outcome, data=hooks.find(toolkit.slug, tool.answer_hook)(outcome.data), raw_json=None)


def refusal(toolkit: Toolkit, outcome: Outcome, advice: str = "") -> errors.ProviderRefused:
    """The provider's error as one of ours."""
    return errors.ProviderRefused(
        f"{toolkit.name} answered with status {outcome.status}.",
        remediation=advice,
        details={"status": outcome.status, "body": outcome.data},
        retry_after=outcome.retry_after,
    )


def decode(answer: http.Answer) -> tuple[Any, bytes | None]:
    """The body as the caller gets it: JSON as it is (and its own bytes), text as text, anything else as base64.

    A body that only claims to be JSON is text. So is the decoded form, but not the bytes, of one that is nested beyond measure
    or has a number that Python's do not hold.
    """
    if not answer.body:
        return None, None
    kind = answer.content_type
    if "json" in kind or (not kind and answer.body[:1] in b"{["):
        try:
            data = json.loads(answer.body, parse_constant=_refuse_constant, parse_float=_finite)
        except (ValueError, RecursionError):
            return answer.text, _raw(answer) if _is_json(answer.body) else None
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


def _is_json(body: bytes) -> bool:
    """Whether this is JSON (RFC 8259), however long its numbers are."""
    try:
        json.loads(body, parse_constant=_refuse_constant, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:50]} has no place in a float")
    return number


def _raw(answer: http.Answer) -> bytes | None:
    """The bytes themselves where they can stand inside our own JSON: UTF-8 without a byte order mark.

    UTF-16 and UTF-32 have zero bytes, which JSON's own characters never are.
    """
    if answer.body[:3] == b"\xef\xbb\xbf" or b"\x00" in answer.body:
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
