"""The Shortcut API's calls: a toolkit's tool by its two slugs, and every refusal with the page on which it can be mended."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.urls import reverse

from apps.connections.links import Link, make_link
from apps.connections.models import Connection
from apps.lib import errors
from apps.lib.errors import Failure, InvalidInput
from apps.toolkits.registry import catalog
from apps.toolkits.request import BadParameters, check_parameters
from apps.toolkits.spec import Tool, Toolkit
from apps.workspaces.callers import Caller

from .calls import Call
from .models import Execution
from .services import Outcome, refusal, run

SURFACE = Execution.Surface.SHORTCUT
NO_USER = {"X-End-User": ["Name the end user with a key that is bound to nobody."]}


def find_toolkit(caller: Caller, slug: str) -> Toolkit:
    """Raises `NotPermitted` for what the key may not use, there or not; `NotFound`."""
    caller.require_toolkit(slug)
    toolkit = catalog(caller.project).get(slug)
    if toolkit is None:
        raise errors.NotFound(f"There is no integration {slug[:100]}.")
    return toolkit


def find_tool(toolkit: Toolkit, endpoint: str) -> Tool:
    """Raises `NotFound`."""
    tool = toolkit.tools_by_slug.get(endpoint)
    if tool is None:
        raise errors.NotFound(f"{toolkit.name} has no endpoint {endpoint[:100]}.")
    return tool


def find(caller: Caller, slug: str, endpoint: str) -> tuple[Toolkit, Tool]:
    """What a call names; a refusal is logged as the call's end. Raises `NotPermitted`, `NotFound`."""
    try:
        toolkit = find_toolkit(caller, slug)
        return toolkit, find_tool(toolkit, endpoint)
    except Failure as error:
        Call(caller, SURFACE, name=f"{slug}.{endpoint}", user_id=caller.user_id).end(error)
        raise


def require_user(user_id: str | None) -> str:
    """Raises `InvalidInput` where nobody is named."""
    if user_id is None:
        raise InvalidInput(NO_USER)
    return user_id


def execute(caller: Caller, toolkit: Toolkit, tool: Tool, params: dict[str, Any], user_id: str | None) -> Outcome:
    """The service's answer, also where it refused.

    Checked in this order: parameters, connection, quota; then the call. Every end is logged. Raises a `Failure`, with the
    page on which a person can mend it.
    """
    with Call(caller, SURFACE, name=toolkit.public_name(tool), user_id=user_id, params=params) as call:
        call.toolkit = toolkit.slug
        _check(tool, params, user_id)
        try:
            outcome = run(call, toolkit, tool, params)
        except (errors.ToolkitNotEnabled, errors.NotConfigured, errors.NotConnected) as error:
            raise mendable(error, caller, toolkit.slug, user_id, call.connection) from None
        if not outcome.is_success:
            call.error = refusal(toolkit, outcome)
        return outcome


def _check(tool: Tool, params: dict[str, Any], user_id: str | None) -> None:
    """Raises `InvalidInput` with every fault."""
    faults = NO_USER.copy() if user_id is None else {}
    try:
        check_parameters(tool, params)
    except BadParameters as error:
        faults |= {f"params.{name}": messages for name, messages in error.faults.items()}
    if faults:
        raise InvalidInput(faults)


def mendable(
    error: Failure, caller: Caller, slug: str, user_id: str | None, connection: Connection | None = None
) -> Failure:
    """The same error with its page: the admin's for what an admin must do, the person's connect page for the rest."""
    if isinstance(error, (errors.ToolkitNotEnabled, errors.NotConfigured)):
        page = reverse("admin:connections_integration_add")
        error.action_url = f"{settings.JACKFIELD_URL}{page}?toolkit={slug}&project={caller.project.pk}"
    elif connection is not None and connection.status == Connection.Status.INACTIVE:
        page = reverse("admin:connections_connection_change", args=[connection.pk])
        error.action_url = f"{settings.JACKFIELD_URL}{page}"
    elif user_id is not None:
        error.action_url = make_link(Link(caller.project.pk, user_id, slug))
    return error
