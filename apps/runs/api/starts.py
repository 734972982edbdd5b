"""What every surface does to start a run: counts the call, refuses what cannot be stored, names faults by their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apps.lib import errors
from apps.lib.errors import InvalidInput
from apps.modules.models import Module
from apps.workspaces.callers import Caller
from apps.workspaces.quota import take_call

from .. import starting
from ..models import Run
from ..starting import WHOLE, Options

NUL = "Must not have NUL characters."  # PostgreSQL's JSON takes none


def start(
    caller: Caller,
    module: Module,
    parameters: dict[str, Any],
    surface: str,
    *,
    place: Callable[[str], str],
    user_id: str | None = None,
    options: Options | None = None,
) -> Run:
    """A new run of the module's published version.

    ``place`` gives the name of a start parameter's fault in the surface's own spelling, of "" that of all of them. Raises
    `InvalidInput`, `NotFound`, and what `take_call` does.
    """
    take_call(caller)
    faults = {place(name): [NUL] for name, value in parameters.items() if has_nul([name, value])}
    if faults:
        raise InvalidInput(faults)
    try:
        return starting.start(module, parameters, caller.actor, surface, user_id=user_id, options=options or Options())
    except InvalidInput as error:
        if not isinstance(error.details, dict):
            raise
        error.details = {
            place("" if name == WHOLE and name not in parameters else name): said
            for name, said in error.details.items()
        }
        raise


def has_nul(value: Any) -> bool:
    """Whether a NUL stands in any text of a JSON value, names of members included; without recursion."""
    layer = [value]
    while layer:
        inner: list[Any] = []
        for item in layer:
            if isinstance(item, str):
                if "\x00" in item:
                    return True
            elif isinstance(item, dict):
                inner += [*item, *item.values()]
            elif isinstance(item, list):
                inner += item
        layer = inner
    return False


def visible(caller: Caller) -> Any:
    """Runs that a caller may see: the project's; bound to an end user only theirs."""
    rows = Run.objects.filter(project=caller.project)
    return rows if caller.user_id is None else rows.filter(user_id=caller.user_id)


def find_run(caller: Caller, run_id: str) -> Run:
    """Raises `NotFound`, also for a run of another user."""
    run = visible(caller).filter(pk=run_id).defer("parameters").first()
    if run is None:
        raise errors.NotFound("There is no such run.")
    return run  # type: ignore[no-any-return]
