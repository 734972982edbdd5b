"""Events on their way to the integrator's webhooks, by the Standard Webhooks scheme (https://www.standardwebhooks.com).

A delivery is written in the transaction that changes what it tells of; Celery carries its id, which is a hint and may be lost.
The row is the truth: one conditional UPDATE claims it for the time of a lease, the outcome is written by another over exactly
that lease, and a sweeper takes what is due and nobody carries. So an event comes at least once, in no promised order.

``next_try_at`` says when a row is looked after next, whatever its status: a pending one is tried (or its lease is over), one
that is delivered or dead is forgotten.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import logging
import random
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from django.db import transaction
from django.db.models import Min
from django.utils import timezone
from standardwebhooks.webhooks import Webhook

from apps.lib import broker, egress, errors, http, ids
from apps.lib.db import release
from apps.lib.errors import Conflict, InvalidInput
from apps.lib.redact import clip, redact_json_text
from apps.lib.vault import VaultError

from .audit import SYSTEM, Actor, record
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
MAX_URL = 2000
SECRET_BYTES = 32  # the scheme permits 24 to 64
OVERLAP = timedelta(hours=24)  # for which the secret before a rotation signs, too

TIMEOUT = 10.0  # seconds for connecting, sending and the whole answer
MAX_ANSWER = 64 * 1024
LEASE = timedelta(seconds=20)  # beyond TIMEOUT, with room for slow writes and clocks apart
IN_FLIGHT = 4  # deliveries of one endpoint at the same time, over all workers
IN_FLIGHT_SLOW = 2  # the same, where one has been waiting for an answer for longer than SLOW
SLOW = timedelta(seconds=2)
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
KEPT_TRIES = 20
ANSWER_KEPT = 500  # characters
KEEP_DELIVERED, KEEP_DEAD = timedelta(days=30), timedelta(days=90)
SWEPT = 100  # endpoints a sweep
BATCH = 5000
GONE = 410

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
    secret = _new_secret()
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
    secret = _new_secret()
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


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def _known(events: Iterable[str]) -> list[str]:
    """The types in their own order, each once. Raises `InvalidInput`."""
    wanted = set(events)
    unknown = sorted(wanted - set(EVENT_TYPES))
    if unknown:
        named = ", ".join(name[:60] for name in unknown[:5])
        raise InvalidInput({"events": [f"Unknown: {named}. Known: {', '.join(EVENT_TYPES)}."]})
    return [name for name in EVENT_TYPES if name in wanted]


def _check_url(url: str) -> None:
    """Raises `InvalidInput`. Names are judged where they are called: what they resolve to may change at any time."""
    fault = ""
    if len(url) > MAX_URL or not url.isascii() or not http.is_plain_url(url):
        fault = f"Must be an absolute URL of at most {MAX_URL} ASCII characters, without user and password."
    elif urlsplit(url).scheme != "https" and not egress.is_named(url):
        fault = "Must be an https URL: without TLS anybody on the way reads the events."
    elif not _may_be_called(url):
        fault = "This address is not public: the operator would have to add it to JACKFIELD_EGRESS_ALLOW."
    if fault:
        raise InvalidInput({"url": [fault]})


def _may_be_called(url: str) -> bool:
    """False for an address that the outbound client refuses; also in the forms that only the C library reads (0x7f.1)."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if host == "localhost" or host.endswith(".localhost"):
        return egress.is_permitted("127.0.0.1", port, host=host)
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:
        try:
            address = socket.inet_ntoa(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return True
    return egress.is_permitted(address, port, host=host)


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
@dataclass(frozen=True)
class Outcome:
    """How one try ended. ``status`` is the receiver's, None where it gave none."""

    at: datetime
    seconds: float
    status: int | None = None
    error: str = ""
    answer: str = ""
    retry_after: int | None = None

    @property
    def good(self) -> bool:
        return self.status is not None and 200 <= self.status < 300 and not self.error

    @property
    def row(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(),
            "status": self.status,
            "ms": round(self.seconds * 1000),
            "error": self.error or None,
            "answer": self.answer or None,
        }


def deliver(delivery_id: str) -> str | None:
    """Makes one try, if the delivery is due and nobody else carries it; else does nothing.

    Gives the id of a delivery that waits until this endpoint has room for it, None where there is none.
    """
    row = _claim(delivery_id)
    if row is None:
        return None
    _finish(row, _try(row))
    return _next_of(row.endpoint_id)


def _claim(delivery_id: str) -> WebhookDelivery | None:
    """The delivery under a lease of ours. None where it is not due, its endpoint is off, or that has enough to do."""
    named = WebhookDelivery.objects.due(timezone.now()).filter(pk=delivery_id)
    endpoint_id = named.values_list("endpoint", flat=True).first()
    if endpoint_id is None:
        return None
    with transaction.atomic():
        # Who counts what is under way does so alone; events that refer to the endpoint go on (hence no_key).
        endpoints = WebhookEndpoint.objects.select_for_update(no_key=True)
        endpoint = endpoints.filter(pk=endpoint_id, enabled=True).first()
        now = timezone.now()  # after waiting for the others, whose leases would else lie beyond what is counted
        if endpoint is None or _room(endpoint.pk, now) < 1:
            return None
        rows = WebhookDelivery.objects.due(now).filter(pk=delivery_id)
        row = rows.first()
        until = now + LEASE
        if row is None or not rows.update(lease_until=until, next_try_at=until):
            return None
    row.endpoint, row.lease_until, row.next_try_at = endpoint, until, until
    return row


def _room(endpoint_id: str, now: datetime) -> int:
    """How many deliveries more the endpoint gets at the moment; fewer where it answers slowly, so that others get theirs."""
    near = now + 2 * LEASE  # a lease and the next look at its row end together; clocks of machines may lie apart
    carried = WebhookDelivery.objects.filter(
        endpoint=endpoint_id, status=Status.PENDING, lease_until__gt=now, next_try_at__gt=now, next_try_at__lte=near
    )
    leases = list(carried.values_list("lease_until", flat=True))
    is_slow = any(until is not None and until - LEASE < now - SLOW for until in leases)
    return (IN_FLIGHT_SLOW if is_slow else IN_FLIGHT) - len(leases)


def _try(row: WebhookDelivery) -> Outcome:
    """Sends the event once. Whatever goes wrong is in the outcome."""
    at = timezone.now()
    try:
        known = _secrets(row.endpoint, at)
    except VaultError as error:
        log.error("the secret of webhook %s does not open: %s", row.endpoint_id, error)
        return Outcome(at, 0, error="The webhook's secret could not be read: rotate it.")
    headers = signed(row.event_id, row.body, at, known)
    release()
    outgoing = http.Outgoing(
        "POST", row.endpoint.url, headers, row.body.encode(), timeout=TIMEOUT, max_bytes=MAX_ANSWER, follow=False
    )
    try:
        answer = http.send(outgoing)
    except errors.AnswerTooLarge as error:
        return _answered(at, getattr(error, "upstream_status", None), f"(more than {MAX_ANSWER} bytes)", None)
    except errors.Unreachable as error:
        return Outcome(at, _since(at), error=error.text.replace("provider", "receiver"))
    said = redact_json_text(answer.text[: 4 * ANSWER_KEPT], [*known, headers["webhook-signature"]])
    return _answered(at, answer.status, clip(said, ANSWER_KEPT), http.retry_after(answer))


def _answered(at: datetime, status: int | None, said: str, retry_after: int | None) -> Outcome:
    error = "A redirect, which is not followed." if status in http.REDIRECTS else ""
    return Outcome(at, _since(at), status=status, error=error, answer=said, retry_after=retry_after)


def _since(at: datetime) -> float:
    return (timezone.now() - at).total_seconds()


def _secrets(endpoint: WebhookEndpoint, now: datetime) -> list[str]:
    """Those that sign, the newest first. Raises `VaultError`."""
    fields = ["secret"]
    if endpoint.previous_secret_until is not None and endpoint.previous_secret_until > now:
        fields.append("previous_secret")
    return [str(endpoint.unseal(field)) for field in fields]


def signed(event_id: str, body: str, at: datetime, known: Iterable[str]) -> dict[str, str]:
    """The headers of the scheme: a signature by each secret, separated by blanks."""
    return {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(event_id, at, body) for secret in known),
    }


def _finish(row: WebhookDelivery, outcome: Outcome) -> None:
    """Writes how the try ended, over exactly the lease under which it was made."""
    now = timezone.now()
    changes: dict[str, Any] = {
        "tries": [*row.tries, outcome.row][-KEPT_TRIES:],
        "try_count": row.try_count + 1,
        "lease_until": None,
        **(_delivered(now) if outcome.good else _failed(row, outcome, now)),
    }
    mine = WebhookDelivery.objects.filter(pk=row.pk, status=Status.PENDING, lease_until=row.lease_until)
    with transaction.atomic():
        if outcome.status == GONE:
            _switch_off(row.endpoint)
        if not mine.update(**changes):
            log.warning("delivery %s was taken over or deleted during its try", row.pk)


def _delivered(now: datetime) -> dict[str, Any]:
    return {"status": Status.DELIVERED, "delivered_at": now, "next_try_at": now + KEEP_DELIVERED}


def _failed(row: WebhookDelivery, outcome: Outcome, now: datetime) -> dict[str, Any]:
    following = now + timedelta(seconds=wait_after(row.try_count, outcome.retry_after))
    if following >= row.ends_at or outcome.status == GONE:
        return {"status": Status.DEAD, "next_try_at": now + KEEP_DEAD}
    return {"next_try_at": following}


def wait_after(tries_before: int, retry_after: int | None = None) -> float:
    """Seconds until the next try, a fifth more or less; at least what the receiver asked for, up to six hours."""
    planned = WAITS[min(tries_before, len(WAITS) - 1)] * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
    return max(planned, min(retry_after or 0, LONGEST_RETRY_AFTER))


def _switch_off(endpoint: WebhookEndpoint) -> None:
    """The receiver says that it is gone for good (410), and should be asked no more: so the scheme advises."""
    won = WebhookEndpoint.objects.filter(pk=endpoint.pk, enabled=True).update(enabled=False, updated_at=timezone.now())
    if won:
        record(SYSTEM, "webhook.gone", endpoint.pk, project=endpoint.project, url=endpoint.url)


def _next_of(endpoint_id: str) -> str | None:
    due = WebhookDelivery.objects.due(timezone.now()).filter(endpoint=endpoint_id)
    return due.order_by("next_try_at").values_list("pk", flat=True).first()


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
    now = timezone.now()
    # What was read: who comes second finds another time there.
    rows = WebhookDelivery.objects.filter(pk=delivery.pk, status=delivery.status, next_try_at=delivery.next_try_at)
    if delivery.status == Status.PENDING:
        won = rows.filter(next_try_at__gt=now).exclude(lease_until__gt=now).update(next_try_at=now)
    else:
        won = rows.update(
            status=Status.PENDING, try_count=0, next_try_at=now, ends_at=now + LIFETIME, delivered_at=None
        )
    if won:
        record(actor, "webhook.redelivered", delivery.pk, project=delivery.project, webhook=delivery.endpoint_id)
        transaction.on_commit(partial(enqueue, [delivery.pk]))
    fresh = WebhookDelivery.objects.filter(pk=delivery.pk).first()
    if fresh is None:
        raise errors.NotFound
    fresh.endpoint, fresh.project = delivery.endpoint, delivery.project
    return fresh


# -- Looking after what lies there -----------------------------------------------------------------------------------
def sweep() -> int:
    """Hands what is due and nobody carries to the workers, as many for each endpoint as it has room for.

    The oldest first. Gives how many. Those past their time are dead from now on.
    """
    now = timezone.now()
    late = WebhookDelivery.objects.filter(status=Status.PENDING, next_try_at__lte=now, ends_at__lte=now)
    late.update(status=Status.DEAD, lease_until=None, next_try_at=now + KEEP_DEAD)
    due = WebhookDelivery.objects.due(now).filter(endpoint__enabled=True)
    waiting = due.values("endpoint").annotate(oldest=Min("next_try_at")).order_by("oldest")[:SWEPT]
    found: list[str] = []
    for endpoint_id in [row["endpoint"] for row in waiting]:
        room = max(0, _room(endpoint_id, now))
        rows = due.filter(endpoint=endpoint_id).order_by("next_try_at")
        found += rows.values_list("pk", flat=True)[:room]
    enqueue(found, expires=60)  # the next sweep names them anew: they must not pile up where no worker runs
    return len(found)


def forget_old() -> int:
    """Deletes what was delivered 30 days ago, or dead for 90; in batches, so that no statement holds the table for long."""
    over = WebhookDelivery.objects.filter(
        status__in=[Status.DELIVERED, Status.DEAD], next_try_at__lte=timezone.now()
    )  # fmt: skip
    total = 0
    while old := list(over.values_list("pk", flat=True)[:BATCH]):
        total += WebhookDelivery.objects.filter(pk__in=old).delete()[0]
    WebhookEndpoint.objects.filter(previous_secret_until__lte=timezone.now()).update(
        previous_secret="", previous_secret_until=None
    )
    return total
