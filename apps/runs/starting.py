"""Starting runs, cancelling them, retrying them: every change of a run that its carrier does not make."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from apps.lib import errors, http
from apps.lib.api import request_id
from apps.lib.errors import Conflict, InvalidInput
from apps.lib.partitions import UNKNOWN
from apps.modules import parameters as start_parameters
from apps.modules.definition import Definition
from apps.modules.models import Module, ModuleVersion
from apps.workspaces.audit import Actor, record
from apps.workspaces.retention import today

from . import endings, hints, history, human, run_auth, sinks
from .definitions import definition_of
from .engine import events
from .models import Run, RunEvent, RunSignal, poke

MAX_PARAMETERS = 1024 * 1024  # bytes as JSON
MAX_DEPTH = 20  # runs that start one another
MAX_ATTEMPTS = 100
MAX_SECONDS = 86_400  # that an attempt may work
MAX_SIGNALS = 1000  # of one run that no step has used yet
MAX_SIGNAL = 1024 * 1024  # bytes as JSON
MAX_NAME = 100
WHOLE = "parameters"  # the name of a fault of all of them


@dataclass(frozen=True)
class Options:
    """How a run is to be carried out: the Runs API's body but for its parameters."""

    maximum_attempts: int = 3
    request_timeout: int = 600  # seconds that an attempt may work
    save_trace: bool = True
    proxy: str | None = None
    sink: dict[str, Any] | None = None  # checked (`sinks.clean`); with none, the project's default
    auth_session: str = ""  # its id, found and taken (`run_auth`)
    auth_options: dict[str, Any] | None = None
    runtime_auth: dict[str, Any] | None = None
    job_run: str | None = None


# -- Starting --------------------------------------------------------------------------------------------------------
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
    hint: bool | None = None,
) -> Run:
    """Makes a run of the module's published version (or of ``version``) and hints at it once it is committed.

    ``hint`` says whether, where the caller knows; else it is hinted at if its workspace has room for one more.
    Parameters are checked and converted (`apps.modules.parameters.clean`): raises `InvalidInput` with every fault by API
    name, and those of ``options`` by the names of the Runs API; `NotFound` where the module is not published or its access is
    off, `BadRequest` where runs are nested too deeply or no auth session is named that the project asks for,
    `AuthSessionInUse` where another run has it to itself.
    """
    version_id = version.pk if version else _published(module)
    given = _cleaned(definition_of(version_id), parameters)
    _check_options(options)
    if parent is None and options.auth_options is None and run_auth.is_needed(module.project):
        options = replace(options, **run_auth.for_other_surfaces(module.project, user_id))
    now = timezone.now()
    run = Run(
        project_id=module.project_id,
        workspace_id=module.project.workspace_id,
        module=module,
        version_id=version_id,
        parent=parent,
        parent_key=parent_key,
        root_id=(parent.root_id or parent.pk) if parent else None,
        depth=_depth(parent),
        surface=surface,
        started_by=actor.name[:320],
        user_id=user_id or "",
        parameters=given,
        maximum_attempts=options.maximum_attempts,
        request_timeout=options.request_timeout,
        save_trace=options.save_trace,
        job_run_id=options.job_run,
        auth_session=options.auth_session,
        auth_options=options.auth_options,
        request_id=request_id(),
        created_at=now,
        wake_at=now,
    )
    if hint is None:
        hint = hints.has_room(run.workspace_id, now, begun=parent is not None)
    run.hinted_at = now if hint else None
    sink = options.sink or (sinks.default_of(module.project) if parent is None else None)
    for name, value in (("proxy", options.proxy), ("sink", sink), ("runtime_auth", options.runtime_auth)):
        if value:
            run.seal(name, value)
    if run.auth_session:
        with transaction.atomic():
            run_auth.take(run, module.project)
            run.save(force_insert=True)
    else:
        run.save(force_insert=True)
    hints.hint_new(run)
    return run


def _published(module: Module) -> str:
    if module.deleted_at is not None or module.published_id is None or module.access == Module.Access.OFF:
        raise errors.NotFound(f"There is no published module {module.name}.")
    return module.published_id


def _cleaned(definition: Definition, parameters: dict[str, Any]) -> dict[str, Any]:
    cleaned, faults = start_parameters.clean(definition, parameters)
    if faults:
        raise InvalidInput(faults)
    text, size = _as_json(cleaned)
    if size > MAX_PARAMETERS:
        raise InvalidInput({WHOLE: [f"They may have {MAX_PARAMETERS:,} bytes as JSON."]})
    if "\\u0000" in text and _has_nul(cleaned):  # PostgreSQL keeps none
        raise InvalidInput({WHOLE: ["A text has a NUL character."]})
    return cleaned


def _as_json(value: Any) -> tuple[str, int]:
    """As short as JSON can be, as senders write it, and its bytes in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text, len(text.encode(errors="surrogatepass"))


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_nul(item) for pair in value.items() for item in pair)
    if isinstance(value, list):
        return any(_has_nul(item) for item in value)
    return isinstance(value, str) and "\x00" in value


def _check_options(options: Options) -> None:
    faults = {}
    if not 1 <= options.maximum_attempts <= MAX_ATTEMPTS:
        faults["retry.maximumAttempts"] = [f"Must be between 1 and {MAX_ATTEMPTS}."]
    if not 1 <= options.request_timeout <= MAX_SECONDS:
        faults["requestTimeout"] = [f"Must be between 1 and {MAX_SECONDS} seconds."]
    wrong = http.check_proxy(options.proxy) if options.proxy else None
    if wrong:
        faults["proxy"] = [wrong]
    if faults:
        raise InvalidInput(faults)


def _depth(parent: Run | None) -> int:
    depth = parent.depth + 1 if parent else 0
    if depth > MAX_DEPTH:
        raise errors.BadRequest(f"Runs start one another more than {MAX_DEPTH} deep.")
    return depth


# -- Cancelling ------------------------------------------------------------------------------------------------------
def cancel(run: Run, actor: Actor, reason: dict[str, str] | None = None) -> bool:
    """Ends a living run and those it started; takes effect at once, what is being performed ends without effect.

    Cancels its open tasks. ``reason``, {type, message}, is told where the run's result is read. False where it had ended.
    """
    now = timezone.now()
    with transaction.atomic():
        won = _end_tree(run.pk, now, reason)
        if won:
            record(actor, "run.cancelled", run.pk, project=run.project, module=run.module.name)
    if won:
        # What a carrier had started before it could notice; in a transaction of its own, so that rows are always locked
        # from the bottom up, as a run that ends locks its own row and then the one above.
        cancel_children([run.pk])
    return won


def cancel_of_job(run_id: str, reason: dict[str, str]) -> bool:
    """The same for a run of a job run that has ended: neither logged nor told to it one by one, for there may be many."""
    now = timezone.now()
    with transaction.atomic():
        won = _end_tree(run_id, now, reason, tell_job=False)
    cancel_children([run_id])
    return won


def cancel_children(run_ids: list[str]) -> None:
    """Ends what runs that have ended left behind, until there is nothing."""
    now = timezone.now()
    while run_ids and (left := list(Run.objects.living().filter(parent__in=run_ids).values_list("pk", flat=True))):
        with transaction.atomic():
            for pk in left:
                _end_tree(pk, now)
        run_ids = left


def _end_tree(run_id: str, now: datetime, reason: dict[str, str] | None = None, *, tell_job: bool = True) -> bool:
    """Cancels the living runs of a tree, the lowest first. Whether the one at its top was among them."""
    levels = [[run_id]]
    while below := list(Run.objects.living().filter(parent__in=levels[-1]).values_list("pk", flat=True)):
        levels.append(below)
    won = [pk for level in reversed(levels) for pk in level if _end(pk, now, reason)]
    if won:
        human.cancel_all(won, now)
        # Of those in between the one above has ended, too, and nobody waits for them.
        top = Run.objects.filter(pk__in=won).exclude(parent__in=won)
        others = Run.objects.filter(pk__in=won, parent__in=won).exclude(auth_session="")
        for run in [*top, *others]:
            endings.ended(run, now, tell_job=tell_job)
    return run_id in won


def _end(run_id: str, now: datetime, reason: dict[str, str] | None) -> bool:
    living = Run.objects.living().filter(pk=run_id)
    ended: dict[str, Any] = {"status": Run.Status.CANCELLED, "ended_at": now, "wake_at": None, "runtime_auth": ""}
    if reason:
        ended["error"] = reason
    # Only the lease's holder writes events: whoever carries the run adds this one when it notices.
    if living.free(now).update(**(ended | endings.EMPTIED | {"events_count": F("events_count") + 1})):
        number = Run.objects.values_list("events_count", flat=True).get(pk=run_id) - 1
        RunEvent.objects.create(run_id=run_id, number=number, kind=events.CANCELLED, at=now)
        return True
    return bool(living.update(**ended))


# -- Trying again, and telling -----------------------------------------------------------------------------------------
def retry(run: Run, actor: Actor) -> bool:
    """One more attempt of a failed run, from the step that failed. False where there is nothing to retry.

    Nor is there where another run started it: that one has gone on without it, and starts one anew when it is retried; nor on
    the day on which the run goes, for its events may be gone already.
    """
    failed = Run.objects.filter(pk=run.pk, status=Run.Status.FATAL_ERRORED, parent=None)
    failed = failed.exclude(forget_on__gt=UNKNOWN, forget_on__lte=today())
    fresh = failed.select_related("project", "module").first()
    if fresh is None:
        return False
    now = timezone.now()
    machine = history.replay(fresh)
    if not machine.retry(now):
        return False
    added = machine.take_events()
    with transaction.atomic():
        mine = Run.objects.filter(pk=fresh.pk, status=Run.Status.FATAL_ERRORED, events_count=fresh.events_count)
        if not mine.update(
            **run_auth.take_again(fresh),
            status=Run.Status.RUNNING,
            attempt=machine.attempt,
            events_count=fresh.events_count + len(added),
            error=None,
            ended_at=None,
            worked_ms=0,
            wake_at=now,
            hinted_at=None,
            lease_token="",
            lease_until=None,
        ):
            return False
        history.append(fresh, added)
        record(actor, "run.retried", run.pk, project=fresh.project, module=fresh.module.name)
        hints.hint(run.pk)
    return True


def signal(run: Run, name: str, data: Any, actor: Actor) -> bool:
    """Sends an event to a living run: kept until a step waits for it. False where the run had ended.

    Raises `InvalidInput`; `Conflict` where too many wait already.
    """
    text, size = _as_json(data)
    if not 1 <= len(name) <= MAX_NAME or "\x00" in name:
        raise InvalidInput({"name": [f"Must be a text of 1 to {MAX_NAME} characters."]})
    if size > MAX_SIGNAL:
        raise InvalidInput({"data": [f"May have {MAX_SIGNAL:,} bytes as JSON."]})
    if "\\u0000" in text and _has_nul(data):
        raise InvalidInput({"data": ["A text has a NUL character."]})
    with transaction.atomic():
        # Pokes first: of a run that ends at this moment the row is locked, and then it no longer lives.
        if not poke(Run.objects.filter(pk=run.pk), timezone.now()):
            return False
        if RunSignal.objects.filter(run=run, used_by="").count() >= MAX_SIGNALS:
            raise Conflict(
                "Too many events wait for steps of this run.", remediation="Send events that a step waits for."
            )
        RunSignal.objects.create(run=run, name=name, data=data)
        hints.hint(run.pk)
    return True
