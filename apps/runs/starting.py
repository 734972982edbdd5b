"""Starting runs, cancelling them, retrying them: every change of a run that its carrier does not make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apps.modules.models import Module, ModuleVersion
from apps.workspaces.audit import Actor

from .models import Run


@dataclass(frozen=True)
class Options:
    """How a run is to be carried out: the Runs API's body but for its parameters."""

    maximum_attempts: int = 3
    request_timeout: int = 600  # seconds that an attempt may work
    save_trace: bool = True
    proxy: str | None = None


def start(
    module: Module,
    parameters: dict[str, Any],
    actor: Actor,
    surface: str,
    *,
    user_id: str | None = None,
    options: Options = Options(),
    version: ModuleVersion | None = None,
    parent: Run | None = None,
    parent_key: str = "",
) -> Run:
    """Makes a run of the module's published version (or of ``version``) and hints at it once it is committed.

    Parameters are checked and converted (`apps.modules.parameters.clean`): raises `InvalidInput` with every fault by API
    name, `NotFound` where the module is not published or its access is off.
    """
    raise NotImplementedError


def cancel(run: Run, actor: Actor) -> bool:
    """Ends a living run and those it started; takes effect at once, what is being performed ends without effect.

    Cancels its open tasks. False where it had ended.
    """
    raise NotImplementedError


def retry(run: Run, actor: Actor) -> bool:
    """One more attempt of a failed run, from the step that failed. False where there is nothing to retry."""
    raise NotImplementedError


def signal(run: Run, name: str, data: Any, actor: Actor) -> bool:
    """Sends an event to a living run: kept until a step waits for it. False where the run had ended."""
    raise NotImplementedError
