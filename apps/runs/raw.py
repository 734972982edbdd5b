"""The Raw execute API: any endpoint of an integration's service, called with the right account."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from apps.connections import access, custom
from apps.connections.models import Connection, Integration
from apps.lib import errors, http
from apps.lib.errors import InvalidInput
from apps.lib.redact import MASK, is_secret_name
from apps.toolkits import hooks
from apps.toolkits.request import (
    BadParameters,
    Request,
    base_url,
    build,
    build_call,
    check_parameters,
    fill,
    pairs,
)
from apps.toolkits.spec import Tool, Toolkit
from apps.workspaces.callers import Caller

from . import endpoint as endpoints
from .calls import Call, scheme_of, with_project
from .journal import journal
from .models import Execution
from .services import Outcome, decode, refusal

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
SAFE_TO_REPEAT = frozenset({"GET", "PUT", "DELETE"})  # RFC 9110 section 9.2.2
BODILESS = frozenset({"GET", "DELETE"})
PERIODS = {"day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=30)}
ABSENT: Any = object()
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Wanted:
    """A call as it was asked for. ``body`` is any JSON, `ABSENT` where there is none; ``method`` one of `METHODS`.

    An empty ``endpoint`` stands for the toolkit's own test call.
    """

    endpoint: str
    method: str = "GET"
    params: dict[str, Any] = field(default_factory=dict)
    body: Any = ABSENT

    def logged(self) -> dict[str, Any]:
        kept: dict[str, Any] = {"endpoint": quiet(self.endpoint), "method": self.method, "params": self.params}
        return kept if self.body is ABSENT else {**kept, "body": self.body}


@dataclass(frozen=True)
class Account:
    """With whose credential the call is made: ``connection`` may stand for nobody's (`custom.NOBODY`)."""

    connection: Connection
    scheme: Any


# -- Calling ---------------------------------------------------------------------------------------------------------
def execute(caller: Caller, integration: Integration, wanted: Wanted, *, user_id: str | None) -> Outcome:
    """The service's answer, whatever its status.

    Checked in this order: toolkit, account, endpoint, quota; then the call. Every end is logged, with secrets removed.
    Raises a `Failure` where there is no answer.
    """
    name = f"{wanted.method} {wanted.endpoint.partition('?')[0] or '(test)'}"
    with Call(caller, Execution.Surface.RAW, name=name[:200], user_id=user_id, params=wanted.logged()) as call:
        call.toolkit, call.integration_id = integration.toolkit, integration.pk
        toolkit = _toolkit(integration)
        account = find_account(caller, integration, toolkit, user_id)
        call.use(account.connection)
        call.integration_id = integration.pk
        try:
            return _send(call, toolkit, integration, account, wanted)
        except errors.ConnectionExpired:
            if account.connection.end_user_id is None and not integration.is_primary:
                # No page leads to this account.
                text = "The service no longer accepts the integration's credentials."
                raise errors.ConnectionExpired(text, remediation="Give it new ones by PATCH.") from None
            raise
        finally:
            if account.scheme is custom.NOBODY:
                call.connection = None


def _send(call: Call, toolkit: Toolkit, integration: Integration, account: Account, wanted: Wanted) -> Outcome:
    tool = find_tool(toolkit, wanted.endpoint)
    if tool is not None:
        call.name = toolkit.public_name(tool)
    try:
        request = _request(toolkit, tool, integration, account.connection.variables, wanted)
    except BadParameters as error:
        raise InvalidInput(error.faults) from None
    call.request = request
    call.admit()
    answer = call.send(toolkit, account.scheme, request)
    outcome = _outcome(call, toolkit, answer)
    if not outcome.is_success:
        call.error = refusal(toolkit, outcome)
    elif tool is not None and tool.answer_hook:
        return replace(outcome, data=hooks.find(toolkit.slug, tool.answer_hook)(outcome.data), raw_json=None)
    return outcome


def _outcome(call: Call, toolkit: Toolkit, answer: http.Answer) -> Outcome:
    data, raw = decode(answer)
    status = call.status_of(toolkit, answer)
    return Outcome(status, data, raw, answer.headers, call.name, answer.seconds, answer.status)


def _toolkit(integration: Integration) -> Toolkit:
    try:
        return access.toolkit_of(integration)
    except LookupError as error:
        raise errors.NotConfigured(
            f"This integration cannot be called: {error}.", remediation="Correct its config, or delete it."
        ) from None


# -- Whose account ---------------------------------------------------------------------------------------------------
def find_account(caller: Caller, integration: Integration, toolkit: Toolkit, user_id: str | None) -> Account:
    """The user's own account at the integration, or at the toolkit's primary one; else the integration's shared one.

    Raises `NotConnected` where there is none, and a credential is needed.
    """
    connection = _own(integration, user_id) if user_id is not None else None
    if connection is None and user_id is not None:
        connection = _of_primary(integration, toolkit, user_id)
    if connection is None:
        connection = _accounts(integration=integration, end_user=None, is_primary=True).first()
    if connection is not None:
        with_project(connection, caller)
        return Account(connection, scheme_of(connection, toolkit))
    if not custom.is_open(integration):
        raise errors.NotConnected(
            "The integration has no credentials of its own."
            if user_id is None
            else "The user has no connected account here, and the integration has no credentials of its own.",
            remediation="Give the integration credentials by PATCH, or let the user connect an account.",
        )
    nobody = Connection(id=integration.pk, project=caller.project, integration=integration, toolkit=custom.SLUG)
    return Account(nobody, custom.NOBODY)


def _accounts(**filters: Any) -> QuerySet[Connection]:
    return Connection.objects.filter(**filters).select_related("integration").order_by("-is_primary", "-connected_at")


def _own(integration: Integration, user_id: str) -> Connection | None:
    return _accounts(integration=integration, end_user__external_id=user_id).first()


def _of_primary(integration: Integration, toolkit: Toolkit, user_id: str) -> Connection | None:
    """The user's account at the primary integration, where its credential would go to no other host than there."""
    if integration.is_primary or integration.toolkit == custom.SLUG:
        return None
    rows = _accounts(
        project=integration.project_id,
        toolkit=integration.toolkit,
        integration__is_primary=True,
        end_user__external_id=user_id,
    )
    found = rows.first()
    if found is None:
        return None
    found.integration.project = integration.project
    homes = [_home(toolkit, one, found.variables) for one in (integration, found.integration)]
    return found if homes[0] is not None and homes[0] == homes[1] else None


def _home(toolkit: Toolkit, integration: Integration, own: dict[str, str]) -> tuple[str, str | None, int | None] | None:
    try:
        return endpoints.origin(urlsplit(_base(toolkit, integration, own)))
    except (BadParameters, ValueError):
        return None


def _base(toolkit: Toolkit, integration: Integration, own: dict[str, str]) -> str:
    return base_url(toolkit, access.variables(toolkit, integration, own), access.base_override(integration))


# -- The request -----------------------------------------------------------------------------------------------------
def find_tool(toolkit: Toolkit, endpoint: str) -> Tool | None:
    """The tool that an endpoint names, by its slug or its public name; a slash makes any endpoint a path."""
    prefix, _, slug = endpoint.partition("_")
    return toolkit.tools_by_slug.get(endpoint) or (
        toolkit.tools_by_slug.get(slug.lower()) if prefix.upper() == toolkit.prefix else None
    )


def _request(
    toolkit: Toolkit, tool: Tool | None, integration: Integration, own: dict[str, str], wanted: Wanted
) -> Request:
    """Raises `BadParameters`, `InvalidInput`."""
    values = access.variables(toolkit, integration, own)
    if tool is not None:
        return _of_tool(toolkit, tool, integration, values, wanted)
    test = toolkit.test or toolkit.profile
    if not wanted.endpoint and test is not None:
        return build_call(toolkit, test, values, access.base_override(integration))
    if not wanted.endpoint and integration.toolkit != custom.SLUG:
        raise InvalidInput({"endpoint": [f"{toolkit.name} has no call to test with: name an endpoint."]})
    base = base_url(toolkit, values, access.base_override(integration))
    if not base:
        raise InvalidInput({"endpoint": [f"{toolkit.name} has no base URL: give one in config.baseUrl."]})
    try:
        url, query = endpoints.locate(base, wanted.endpoint)
    except ValueError as error:
        raise InvalidInput({"endpoint": [str(error)]}) from None
    headers = {name: fill(value, values) for name, value in toolkit.headers.items()}
    request = Request(
        method=wanted.method,
        url=url,
        query=query + [pair for name, value in wanted.params.items() for pair in pairs(name, "repeat", value)],
        idempotent=wanted.method in SAFE_TO_REPEAT,
        timeout=float(toolkit.timeout),
        retry_statuses=frozenset(toolkit.retry.statuses),
    )
    for name, value in (headers | integration.settings.get("config", {}).get("headers", {})).items():
        request = request.with_header(name, value)
    return _with_body(request, wanted.body)


def _of_tool(toolkit: Toolkit, tool: Tool, integration: Integration, values: dict[str, str], wanted: Wanted) -> Request:
    """The tool's request: ``params`` and the members of ``body`` are its parameters."""
    body = {} if wanted.body is ABSENT or wanted.body is None else wanted.body
    if not isinstance(body, dict):
        raise InvalidInput({"body": ["Must be an object: its members are the tool's parameters."]})
    params = {**wanted.params, **body}
    check_parameters(tool, params)
    if tool.hook:
        params = hooks.find(toolkit.slug, tool.hook)(params)
    return build(toolkit, tool, params, values, access.base_override(integration))


def _with_body(request: Request, body: Any) -> Request:
    """JSON, unless the headers name another type: then a text goes as it is, and an object as a form."""
    if body is ABSENT or (request.method in BODILESS and body in (None, {})):
        return request
    kind = next((value for name, value in request.headers.items() if name.lower() == "content-type"), "")
    plain = bool(kind) and "json" not in kind.lower()
    if plain and isinstance(body, str):
        return replace(request, body=body.encode())
    if plain and isinstance(body, dict) and kind.lower().startswith(FORM):
        fields = [pair for name, value in body.items() for pair in pairs(name, "repeat", value)]
        return replace(request, body=urlencode(fields).encode())
    if plain or not kind:
        request = request.with_header("Content-Type", "application/json")
    return replace(request, body=json.dumps(body, ensure_ascii=False).encode())


def quiet(endpoint: str) -> str:
    """The endpoint as the log keeps it: without the values of a query's secrets."""
    path, mark, query = endpoint.partition("?")
    fields = [field.partition("=") for field in query.split("&")] if mark else []
    shown = [f"{name}{sign}{MASK if sign and is_secret_name(name) else value}" for name, sign, value in fields]
    return path + mark + "&".join(shown)


# -- Usage -----------------------------------------------------------------------------------------------------------
def usage(caller: Caller, integration: Integration, period: str) -> dict[str, int]:
    """Calls through an integration, on every surface, within the last 24 hours, 7 days or 30 days.

    An end user sees their own. What the log's retention has taken away is not counted.
    """
    journal.flush()  # what this process has answered is counted at once
    since = timezone.now() - PERIODS[period]
    rows = Execution.objects.filter(integration_id=integration.pk, project=caller.project, created_at__gte=since)
    if caller.user_id is not None:
        rows = rows.filter(user_id=caller.user_id)
    counts = rows.aggregate(total=Count("id"), good=Count("id", filter=Q(successful=True)))
    return {
        "totalCalls": counts["total"],
        "successCalls": counts["good"],
        "failedCalls": counts["total"] - counts["good"],
    }
