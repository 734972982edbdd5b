"""``POST /hooks/{token}``: starts the module that the token belongs to. No key: the token, and the sender's signature."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

from django.http import HttpRequest, HttpResponse

from apps.lib import errors
from apps.lib.api import ApiView, client_ip, json_answer, read_body
from apps.lib.db import release
from apps.modules.definition import Hook
from apps.modules.models import Module
from apps.workspaces.audit import Actor
from apps.workspaces.callers import Caller
from apps.workspaces.idempotency import answered_by_provider, once

from .. import hooks
from ..hooks import Delivery
from ..models import Run
from ..outcome import error_of, reason_of
from ..starting import WHOLE
from . import hooks_schema as schema
from .starts import start

FIRST_PAUSE, LONGEST_PAUSE = 0.03, 0.5  # seconds between two looks at a run
ENDED = frozenset(set(Run.Status) - set(Run.LIVING))
MOST_WAITING = 16  # requests of a process, each of which holds a thread; those beyond are answered at once
_places = threading.BoundedSemaphore(MOST_WAITING)


@schema.hook
class HookView(ApiView):
    """POST hooks/{token}."""

    def post(self, request: Any, hook_token: str) -> HttpResponse:
        delivery = delivery_of(request._request, self.max_body)  # read first, so that the sender reads our answer
        module, hook = hooks.find(hook_token)
        hooks.verify(module, hook, delivery)
        challenge = hooks.challenge_of(hook, delivery)
        if challenge is not None:
            return json_answer({"challenge": challenge})
        if not hooks.is_wanted(hook, delivery):
            return json_answer({"status": "ignored"}, 202)
        caller = caller_of(module, request._request)
        name = hooks.delivery_id(hook, delivery)
        if name is None:
            return carry_out(caller, module, hook, delivery)
        # Not bound to the body: a sender may add to it how often it has tried.
        place = [module.project_id, "hook", module.pk, name]
        return once(place, "", lambda: carry_out(caller, module, hook, delivery), self.envelope)


def delivery_of(request: HttpRequest, limit: int) -> Delivery:
    headers = {name.lower(): value for name, value in request.headers.items()}
    query: dict[str, Any] = {
        name: values[0] if len(values) == 1 else values for name, values in request.GET.lists() if values
    }
    return Delivery(read_body(request, limit), headers, query)


def caller_of(module: Module, request: HttpRequest) -> Caller:
    """Whom the start is counted for, and who stands in the log."""
    actor = Actor(f"hook:{module.name}", client_ip(request))
    return Caller(kind="hook", project=module.project, scopes=frozenset({"runs"}), actor=actor)


def carry_out(caller: Caller, module: Module, hook: Hook, delivery: Delivery) -> HttpResponse:
    run = start(caller, module, hooks.parameters_of(module, hook, delivery), Run.Surface.HOOK, place=lambda name: name or WHOLE,
                user_id=hooks.user_of(hook, delivery))  # fmt: skip
    if hook.answer == "result" and _places.acquire(blocking=False):
        try:
            run = wait_for(run, min(hook.timeout, hooks.LONGEST_WAIT))
        finally:
            _places.release()
    return answer(run)


def wait_for(run: Run, seconds: float) -> Run:
    """The run once it has ended, or as it is when the time is up. Holds no connection of the database meanwhile."""
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE
    while True:
        status = Run.objects.filter(pk=run.pk).values_list("status", flat=True).first()
        if status is None or status in ENDED or time.monotonic() >= deadline:
            return Run.objects.filter(pk=run.pk).first() or run
        release()
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())) * random.uniform(0.8, 1.0))  # noqa: S311 - jitter
        pause = min(pause * 1.5, LONGEST_PAUSE)


def answer(run: Run) -> HttpResponse:
    head = {"runId": run.pk, "sessionId": run.session_id, "status": run.status}
    if run.status == Run.Status.COMPLETED:
        return json_answer({**head, "result": run.result})
    if run.status in ENDED:
        return _failed(run, head)
    return json_answer(head, 202)


def _failed(run: Run, head: dict[str, Any]) -> HttpResponse:
    """500, and kept: the sender may ask again, and the run does not start again."""
    error = reason_of(run) if run.status == Run.Status.CANCELLED else error_of(run)
    failure = errors.ExecutionFailed(
        f"The run {'was cancelled' if run.status == Run.Status.CANCELLED else 'failed'}: {error['message']}",
        remediation="See the run's trace.",
        details={**head, "error": error},
    )
    response = HookView.envelope.render(failure)
    response.status_code = 500
    return answered_by_provider(response, 500)
