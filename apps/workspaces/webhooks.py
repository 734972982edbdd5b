"""Events on their way to the integrator's webhooks, by the Standard Webhooks scheme (https://www.standardwebhooks.com).

How they are carried is said in `apps.workspaces.delivering`. ``next_try_at`` of a delivery that has ended says when it is
forgotten.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from apps.lib import broker, errors, http, ids
from apps.lib.errors import Conflict, InvalidInput
from apps.lib.vault import VaultError

from .audit import SYSTEM, Actor, record
from .delivering import (
    DEAD,
    DELIVERED,
    GONE,
    MAX_ANSWER,
    Courier,
    Outcome,
    Receiver,
    new_secret,
    sent,
    signed,
    url_fault,
)
from .delivering import MAX_URL as MAX_URL  # forms and descriptions name it as the webhooks' own
from .models import Project, WebhookDelivery, WebhookEndpoint

log = logging.getLogger(__name__)

EVENT_TYPES: tuple[str, ...] = (
    "connection.created",
    "connection.refreshed_failed",
    "connection.recovered",
    "connection.deleted",
    "run.failed",
    "job_run.failed",
)
# Go to the one endpoint they are meant for, whatever types that one wants.
TEST_EVENT = "webhook.test"
NOTIFICATION = "notification"  # what a rule tells of (`apps.workspaces.notifications`)

MOST_ENDPOINTS = 20  # of a project
OVERLAP = timedelta(hours=24)  # for which the secret before a rotation signs, too

TIMEOUT = 10.0  # seconds for connecting, sending and the whole answer
LEASE = timedelta(seconds=20)  # beyond TIMEOUT, with room for slow writes and clocks apart
WAITS = (
    5,
    30,
    120,
    600,
    1800,
    7200,
    21_600,
    43_200,
    86_400,
)  # seconds after each failed try; the last one again and again
LONGEST_RETRY_AFTER = 21_600  # seconds
LIFETIME = timedelta(days=3)
KEEP_DELIVERED, KEEP_DEAD = timedelta(days=30), timedelta(days=90)

Status = WebhookDelivery.Status


# -- Endpoints -------------------------------------------------------------------------------------------------------
def find_endpoint(project: Project, endpoint_id: str) -> WebhookEndpoint:
    """Raises `NotFound`."""
    endpoint = WebhookEndpoint.objects.filter(project=project, pk=endpoint_id).first()
    if endpoint is None:
        raise errors.NotFound
    endpoint.project = project
    return endpoint


def create_endpoint(
    project: Project,
    url: str,
    actor: Actor,
    *,
    events: Iterable[str] = (),
    description: str = "",
    enabled: bool = True,
) -> tuple[WebhookEndpoint, str]:
    """Gives the endpoint and its secret, which is shown this once. Raises `InvalidInput`."""
    endpoint = WebhookEndpoint(
        project=project, url=url, events=_known(events), description=description, enabled=enabled
    )
    _check_url(url)
    secret = new_secret()
    endpoint.seal("secret", secret)
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)  # one counts at a time
        if WebhookEndpoint.objects.filter(project=project).count() >= MOST_ENDPOINTS:
            raise InvalidInput({"url": [f"A project has at most {MOST_ENDPOINTS} webhooks: delete one first."]})
        endpoint.save(force_insert=True)
        record(actor, "webhook.created", endpoint.pk, project=project, url=url, events=endpoint.events)
    return endpoint, secret


def change_endpoint(endpoint: WebhookEndpoint, changes: dict[str, Any], actor: Actor) -> WebhookEndpoint:
    """Sets what is given of url, events, description and enabled. Raises `InvalidInput`, `NotFound`."""
    if "events" in changes:
        changes = changes | {"events": _known(changes["events"])}
    if "url" in changes:
        _check_url(changes["url"])
    for name, value in changes.items():
        setattr(endpoint, name, value)
    with transaction.atomic():
        if not WebhookEndpoint.objects.filter(pk=endpoint.pk).update(**changes, updated_at=timezone.now()):
            raise errors.NotFound
        told = {name: changes[name] for name in ("url", "events", "enabled") if name in changes}
        record(actor, "webhook.changed", endpoint.pk, project=endpoint.project, **told)
    endpoint.refresh_from_db()
    return endpoint


def rotate_secret(endpoint: WebhookEndpoint, actor: Actor) -> str:
    """Gives the new secret, which is shown this once; the one before signs for 24 hours more.

    Raises `Conflict` where somebody else rotated it at the same moment: of two new secrets one would be lost.
    """
    secret = new_secret()
    changes = {
        "secret": endpoint.sealed("secret", secret),
        "previous_secret": endpoint.sealed("previous_secret", endpoint.unseal("secret")),
        "previous_secret_until": timezone.now() + OVERLAP,
        "updated_at": timezone.now(),
    }
    with transaction.atomic():
        if not WebhookEndpoint.objects.filter(pk=endpoint.pk, secret=endpoint.secret).update(**changes):
            raise Conflict("The secret was rotated by somebody else.", remediation="Read the webhook, and try again.")
        record(actor, "webhook.rotated", endpoint.pk, project=endpoint.project)
    endpoint.refresh_from_db()
    return secret


@transaction.atomic
def delete_endpoint(endpoint: WebhookEndpoint, actor: Actor) -> None:
    """With its deliveries, those that wait included."""
    # Before its deliveries, as those who write and claim them do.
    WebhookEndpoint.objects.select_for_update().filter(pk=endpoint.pk).first()
    record(actor, "webhook.deleted", endpoint.pk, project=endpoint.project, url=endpoint.url)
    endpoint.delete()


def _known(events: Iterable[str]) -> list[str]:
    """The types in their own order, each once. Raises `InvalidInput`."""
    wanted = set(events)
    unknown = sorted(wanted - set(EVENT_TYPES))
    if unknown:
        named = ", ".join(name[:60] for name in unknown[:5])
        raise InvalidInput({"events": [f"Unknown: {named}. Known: {', '.join(EVENT_TYPES)}."]})
    return [name for name in EVENT_TYPES if name in wanted]


def _check_url(url: str) -> None:
    """Raises `InvalidInput`."""
    fault = url_fault(url)
    if fault:
        raise InvalidInput({"url": [fault]})


# -- Events ----------------------------------------------------------------------------------------------------------
def emit(project: Project, event_type: str, data: dict[str, Any] | Callable[[], dict[str, Any]]) -> None:
    """Tells every endpoint of the project that wants it. To be called in the transaction that changes what is told of.

    ``data`` is JSON for the integrator, or what makes it where somebody wants it; else this costs one SELECT.
    Raises ValueError for a type that is none.
    """
    if event_type not in EVENT_TYPES:
        raise ValueError(f"{event_type} is not among EVENT_TYPES")
    with transaction.atomic(savepoint=False):
        # Held until the change is committed: a webhook deleted in between would make the whole change fail.
        rows = WebhookEndpoint.objects.select_for_update(no_key=True).filter(project=project, enabled=True)
        wanting = [
            pk for pk, events in rows.order_by("pk").values_list("pk", "events") if not events or event_type in events
        ]
        if wanting:
            _write(project, wanting, event_type, data() if callable(data) else data)


def send_test(endpoint: WebhookEndpoint, actor: Actor) -> WebhookDelivery:
    """Sends an event that means nothing. Raises `Conflict` where the endpoint is off."""
    _check_enabled(endpoint)
    with transaction.atomic():
        record(actor, "webhook.tested", endpoint.pk, project=endpoint.project)
        data = {"webhookId": endpoint.pk, "message": "This is a test. There is nothing to do."}
        return _write(endpoint.project, [endpoint.pk], TEST_EVENT, data)[0]


def tell(project: Project, endpoint: WebhookEndpoint, event_type: str, data: dict[str, Any]) -> WebhookDelivery:
    """Tells this endpoint of the project alone; to be called in a transaction that holds the endpoint's row."""
    return _write(project, [endpoint.pk], event_type, data)[0]


def _check_enabled(endpoint: WebhookEndpoint) -> None:
    if not endpoint.enabled:
        raise Conflict("The webhook is off.", remediation="Switch it on first.")


def _write(project: Project, endpoints: list[str], event_type: str, data: dict[str, Any]) -> list[WebhookDelivery]:
    now = timezone.now()
    event = {"type": event_type, "timestamp": now.isoformat(), "data": data}
    body = json.dumps(event, separators=(",", ":"), default=str)
    event_id = f"msg_{ids.row_id()}"
    deliveries = [
        WebhookDelivery(
            project_id=project.pk,
            endpoint_id=pk,
            event_id=event_id,
            event_type=event_type,
            body=body,
            next_try_at=now,
            ends_at=now + LIFETIME,
            created_at=now,
        )
        for pk in endpoints
    ]
    WebhookDelivery.objects.bulk_create(deliveries)
    transaction.on_commit(partial(enqueue, [row.pk for row in deliveries]))
    return deliveries


def enqueue(delivery_ids: Iterable[str], *, expires: float | None = None) -> None:
    """Hands ids to the workers. Without a broker the deliveries wait for the sweeper, and nobody waits for the broker."""
    broker.hand("workspaces.deliver", delivery_ids, queue="deliveries", expires=expires)


# -- Delivering ------------------------------------------------------------------------------------------------------
class _Courier(Courier[WebhookDelivery]):
    """Endpoints are what is locked: events that refer to one go on meanwhile (hence no_key)."""

    model = WebhookDelivery
    receiver = ("endpoint_id",)
    lease = LEASE
    lifetime = LIFETIME
    kept = {DELIVERED: KEEP_DELIVERED, DEAD: KEEP_DEAD}

    def hold(self, receiver: Receiver) -> WebhookEndpoint | None:
        endpoints = WebhookEndpoint.objects.select_for_update(no_key=True)
        return endpoints.filter(pk=receiver["endpoint_id"], enabled=True).first()

    def begun(self, row: WebhookDelivery, held: WebhookEndpoint, now: datetime) -> dict[str, Any]:
        row.endpoint = held
        return {}

    def attempt(self, row: WebhookDelivery) -> Outcome:
        at = timezone.now()
        try:
            known = _secrets(row.endpoint, at)
        except VaultError as error:
            log.error("the secret of webhook %s does not open: %s", row.endpoint_id, error)
            return Outcome(at, 0, error="The webhook's secret could not be read: rotate it.")
        headers = signed(row.event_id, row.body, at, known)
        outgoing = http.Outgoing(
            "POST", row.endpoint.url, headers, row.body.encode(), timeout=TIMEOUT, max_bytes=MAX_ANSWER, follow=False
        )
        return sent(outgoing, at, [*known, headers["webhook-signature"]])

    def following(self, row: WebhookDelivery, outcome: Outcome, now: datetime) -> datetime | None:
        following = now + timedelta(seconds=wait_after(row.try_count, outcome.retry_after))
        return None if following >= row.ends_at or outcome.status == GONE else following

    def on_outcome(self, row: WebhookDelivery, outcome: Outcome) -> None:
        if outcome.status == GONE:
            _switch_off(row.endpoint)

    def enqueue(self, delivery_ids: Iterable[str], *, expires: float | None = None) -> None:
        enqueue(delivery_ids, expires=expires)

    def sendable(self, rows: QuerySet[WebhookDelivery]) -> QuerySet[WebhookDelivery]:
        return rows.filter(endpoint__enabled=True)


_courier = _Courier()
deliver, sweep = _courier.deliver, _courier.sweep


def _secrets(endpoint: WebhookEndpoint, now: datetime) -> list[str]:
    """Those that sign, the newest first. Raises `VaultError`."""
    fields = ["secret"]
    if endpoint.previous_secret_until is not None and endpoint.previous_secret_until > now:
        fields.append("previous_secret")
    return [str(endpoint.unseal(field)) for field in fields]


def wait_after(tries_before: int, retry_after: int | None = None) -> float:
    """Seconds until the next try, a fifth more or less; at least what the receiver asked for, up to six hours."""
    planned = WAITS[min(tries_before, len(WAITS) - 1)] * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
    return max(planned, min(retry_after or 0, LONGEST_RETRY_AFTER))


def _switch_off(endpoint: WebhookEndpoint) -> None:
    """The receiver says that it is gone for good (410), and should be asked no more: so the scheme advises."""
    won = WebhookEndpoint.objects.filter(pk=endpoint.pk, enabled=True).update(enabled=False, updated_at=timezone.now())
    if won:
        record(SYSTEM, "webhook.gone", endpoint.pk, project=endpoint.project, url=endpoint.url)


# -- Delivering again ------------------------------------------------------------------------------------------------
def find_delivery(project: Project, delivery_id: str, endpoint_id: str | None = None) -> WebhookDelivery:
    """Raises `NotFound`."""
    rows = WebhookDelivery.objects.filter(project=project, pk=delivery_id).select_related("endpoint")
    if endpoint_id is not None:
        rows = rows.filter(endpoint=endpoint_id)
    delivery = rows.first()
    if delivery is None:
        raise errors.NotFound
    delivery.project = delivery.endpoint.project = project
    return delivery


@transaction.atomic
def redeliver(delivery: WebhookDelivery, actor: Actor) -> WebhookDelivery:
    """Sends it now, with the same id, and for three days more where it was delivered or dead.

    Of several who ask at the same time one wins; one that is under way is left alone. Gives the row as it is then.
    Raises `Conflict` where the endpoint is off, `NotFound` where it was deleted meanwhile.
    """
    _check_enabled(delivery.endpoint)
    won = _courier.again(delivery, timezone.now())
    if won:
        record(actor, "webhook.redelivered", delivery.pk, project=delivery.project, webhook=delivery.endpoint_id)
        transaction.on_commit(partial(enqueue, [delivery.pk]))
    fresh = WebhookDelivery.objects.filter(pk=delivery.pk).first()
    if fresh is None:
        raise errors.NotFound
    fresh.endpoint, fresh.project = delivery.endpoint, delivery.project
    return fresh


# -- Looking after what lies there -----------------------------------------------------------------------------------
def forget_old() -> int:
    """Empties secrets that no longer sign. Deliveries go as logs do (`retention`)."""
    over = WebhookEndpoint.objects.filter(previous_secret_until__lte=timezone.now())
    return over.update(previous_secret="", previous_secret_until=None)
