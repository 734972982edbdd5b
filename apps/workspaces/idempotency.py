"""Idempotency-Key: the same key and body within 24 hours get the first answer.

Answers are kept encrypted: one of connect holds a state, one of a tool whatever the provider said.
One INSERT before the call claims the key, whichever process is asked; the answer is stored once the provider was called or
the row made. Answers 400, 401, 403, 404 and 429 change nothing and are not stored; those of a provider, passed on with its
own status, are stored (`answered_by_provider`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.http import HttpResponse
from django.utils import timezone

from apps.lib.api import Envelope, as_failure
from apps.lib.db import release
from apps.lib.errors import AddressRefused, AuthSessionInUse, Conflict, InvalidInput, RefreshUnavailable, UnknownTool
from apps.lib.vault import VaultError, seal, unseal

from .models import IdempotencyRecord

KEPT = timedelta(hours=24)
PATIENCE = 30.0  # seconds that a second call waits for the first
LONGEST = timedelta(minutes=15)  # beyond what a call may take (600 s): a first request older than that has no process
NOT_STORED = frozenset({400, 401, 403, 404, 405, 413, 429, 500})
# 409, 422 and 502 as well, but nothing was sent: the same call may succeed as soon as the cause is gone.
NOT_SENT = (UnknownTool, RefreshUnavailable, AddressRefused, AuthSessionInUse)
KEPT_HEADERS = ("Content-Type", "Retry-After")


def idempotent(method: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """For the method of a `ProjectView`: honours the caller's Idempotency-Key."""

    @functools.wraps(method)
    def wrapper(view: Any, request: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        key = request.META.get("HTTP_IDEMPOTENCY_KEY")
        if key is None:
            return method(view, request, *args, **kwargs)
        if (
            not 1 <= len(key) <= 255 or not key.isprintable()
        ):  # granian hands over an empty text for one that is not ASCII
            raise InvalidInput({"Idempotency-Key": ["Must be 1 to 255 printable ASCII characters."]})
        caller = view.caller
        view.user_id()  # a header that cannot be read finds nobody's answer
        # Bound to the route and to whoever the call is for: another person's key is another key.
        place = [caller.project.pk, request.path, caller.quota_id, request.META.get("HTTP_X_END_USER", ""), key]
        body = hashlib.sha256(repr(sorted(_plain(request.data))).encode(errors="surrogatepass")).hexdigest()
        return once(place, body, lambda: method(view, request, *args, **kwargs), view.envelope)

    return wrapper


def once(place: list[str], body: str, call: Callable[[], HttpResponse], envelope: Envelope) -> HttpResponse:
    """The answer of ``call``, or the first one that was given at this place within 24 hours.

    ``body`` tells one request from another: with another one it is `Conflict`.
    """
    record_id = hashlib.sha256("\x00".join(place).encode(errors="surrogatepass")).hexdigest()
    return _claim_or_wait(record_id, body) or _first(record_id, call, envelope)


def answered_by_provider(response: HttpResponse, status: int) -> HttpResponse:
    """Marks a response that has the provider's own status: a repeated request must not reach the provider again.

    Unless it turned the request away at its door: after 401 and 429 nothing has happened there, and the same request may
    succeed once the account is connected anew, or the window has passed.
    """
    response._is_kept = status not in {401, 429}  # type: ignore[attr-defined]
    return response


def _plain(data: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, json.dumps(value, sort_keys=True)) for name, value in data.items()]


def _claim_or_wait(record_id: str, body: str) -> HttpResponse | None:
    """None where this call is the first; the stored answer where it is not. Raises `Conflict`."""
    deadline = time.monotonic() + PATIENCE
    while True:
        if _claim(record_id, body):
            return None
        record = IdempotencyRecord.objects.filter(pk=record_id).first()
        if record is None:  # the first call ended without an answer worth keeping
            continue
        if record.created_at < timezone.now() - KEPT:
            IdempotencyRecord.objects.filter(pk=record_id, created_at=record.created_at).delete()
            continue
        if record.body_digest != body:
            raise Conflict("This Idempotency-Key was used with another body.")
        if record.status is not None:
            return _answer(record)
        if record.created_at < timezone.now() - LONGEST:
            raise _outcome_unknown(record)
        if time.monotonic() >= deadline:
            raise Conflict(
                "The first request with this Idempotency-Key has not ended.",
                remediation="Wait, then repeat the request unchanged.",
                retry_after=5,
            )
        release()
        time.sleep(random.uniform(0.05, 0.15))  # noqa: S311 - jitter


def _outcome_unknown(record: IdempotencyRecord) -> Conflict:
    """The process that had the first request is gone. Whether its call came through cannot be known from here.

    So it is never carried out a second time under this key, until the key is forgotten.
    """
    wait = record.created_at + KEPT - timezone.now()
    return Conflict(
        "The first request with this Idempotency-Key was cut off; it may have been carried out or not.",
        remediation="Look at the service whether it was. If it was not, send the request with a new Idempotency-Key.",
        details={"startedAt": record.created_at.isoformat(timespec="seconds").replace("+00:00", "Z")},
        retry_after=max(1, int(wait.total_seconds())),
    )


def _claim(record_id: str, body: str) -> bool:
    try:
        with transaction.atomic():
            IdempotencyRecord.objects.create(id=record_id, body_digest=body)
    except IntegrityError:
        return False
    return True


def _first(record_id: str, call: Callable[[], HttpResponse], envelope: Envelope) -> HttpResponse:
    kept = True
    try:
        response = call()
    except Exception as error:
        response = envelope.render(as_failure(error))
        kept = not isinstance(error, NOT_SENT)
    except BaseException:
        IdempotencyRecord.objects.filter(pk=record_id).delete()
        raise
    kept = kept and getattr(response, "_is_kept", response.status_code not in NOT_STORED)
    if not kept:
        IdempotencyRecord.objects.filter(pk=record_id).delete()
    else:
        headers = {name: response[name] for name in KEPT_HEADERS if name in response}
        IdempotencyRecord.objects.filter(pk=record_id).update(
            status=response.status_code, answer=seal(response.content, _place(record_id)).encode(), headers=headers
        )
    return response


def _place(record_id: str) -> str:
    return f"workspaces_idempotencyrecord:{record_id}:answer"


def _answer(record: IdempotencyRecord) -> HttpResponse:
    try:
        answer = unseal(bytes(record.answer or b"").decode(), _place(record.pk))
    except VaultError:
        raise Conflict("The first answer to this Idempotency-Key can no longer be read.") from None
    response = HttpResponse(answer, status=record.status)
    for name, value in record.headers.items():
        response[name] = value
    response["Idempotency-Replayed"] = "true"
    return response


def forget_expired() -> int:
    """Deletes records after their 24 hours; gives how many."""
    return IdempotencyRecord.objects.filter(created_at__lt=timezone.now() - KEPT).delete()[0]
