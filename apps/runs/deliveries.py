"""Results of runs on their way to their sinks (`apps.runs.sinks`): sent, tried again, delivered again.

How they are carried is said in `apps.workspaces.delivering`. Who receives is a host of a project's; besides, one project has
at most so many deliveries under way, so that a thousand slow hosts of one do not hold all workers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from apps.lib import broker, errors, http
from apps.lib.errors import Conflict
from apps.lib.vault import VaultError
from apps.workspaces.audit import Actor, record
from apps.workspaces.delivering import (
    DEAD,
    DELIVERED,
    MAX_ANSWER,
    Courier,
    Outcome,
    Receiver,
    new_secret,
    sent,
    signed,
)
from apps.workspaces.models import Project

from . import s3, sinks
from .models import Delivery, SinkSettings

log = logging.getLogger(__name__)

TIMEOUT = 20.0  # seconds for connecting, sending and the whole answer
FIRST_WAIT, LONGEST_WAIT = 10, 120  # seconds after a failed try, doubling
TIME = {Delivery.Kind.WEBHOOK: timedelta(hours=1), Delivery.Kind.S3: timedelta(minutes=10)}  # from the first try on
OVERLAP = timedelta(hours=24)  # for which the secret before a rotation signs, too
MOST_AT_ONCE = 10_000  # that one call delivers again
HINTED_AT_ONCE = 8  # of them; the sweeper finds the rest

# What a caller's header may not say: it is the scheme's, the body's or the connection's.
RESERVED = frozenset({
    "host", "content-length", "content-encoding", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade",
    "expect", "accept-encoding", "proxy-connection", "proxy-authorization",
})  # fmt: skip


# -- The secret that signs -------------------------------------------------------------------------------------------
def secret_of(project: Project, actor: Actor) -> tuple[str, datetime | None]:
    """The secret that signs what webhook sinks are sent, made where there is none; and until when the one before signs, too.

    That it was read is in the audit log.
    """
    row = _settings_of(project.pk)
    with transaction.atomic():
        record(actor, "webhook_secret.read", project.pk, project=project)
    return str(row.unseal("secret")), _overlap(row, timezone.now())


def rotate_secret(project: Project, actor: Actor) -> tuple[str, datetime]:
    """Gives the new one; the one before signs for 24 hours more. Raises `Conflict` where somebody else did so just now."""
    row = _settings_of(project.pk)
    secret, until = new_secret(), timezone.now() + OVERLAP
    changes = {
        "secret": row.sealed("secret", secret),
        "previous_secret": row.sealed("previous_secret", row.unseal("secret")),
        "previous_secret_until": until,
        "updated_at": timezone.now(),
    }
    with transaction.atomic():
        if not SinkSettings.objects.filter(pk=row.pk, secret=row.secret).update(**changes):
            raise Conflict("The secret was rotated by somebody else.", remediation="Read it, and try again.")
        record(actor, "webhook_secret.rotated", project.pk, project=project)
    return secret, until


def _settings_of(project_id: str) -> SinkSettings:
    """With a secret. Of several who find none the first one's counts."""
    row = SinkSettings.objects.filter(pk=project_id).first()
    if row is not None and row.secret:
        return row
    row, _ = SinkSettings.objects.get_or_create(project_id=project_id)
    made = row.sealed("secret", new_secret())
    SinkSettings.objects.filter(pk=project_id, secret="").update(secret=made, updated_at=timezone.now())
    return SinkSettings.objects.get(pk=project_id)


def _overlap(row: SinkSettings, now: datetime) -> datetime | None:
    until = row.previous_secret_until
    return until if until is not None and until > now else None


def _signing(row: SinkSettings, now: datetime) -> list[str]:
    """Those that sign, the newest first. Raises `VaultError`."""
    fields = ["secret", "previous_secret"] if _overlap(row, now) else ["secret"]
    return [str(row.unseal(field)) for field in fields]


# -- Delivering ------------------------------------------------------------------------------------------------------
class _Courier(Courier[Delivery]):
    """The project's row is what is locked while its deliveries are counted: what refers to it goes on (hence no_key)."""

    model = Delivery
    receiver = ("project_id", "host")
    lease = timedelta(seconds=40)
    lifetime = sinks.UNTIL_TRIED
    of_project: ClassVar[int] = 8  # under way at the same time, over all workers
    kept_free: ClassVar[int] = 2  # of them, for receivers that have none and are not slow
    kept_tries = 100  # an hour has 33

    def hold(self, receiver: Receiver) -> Any:
        return Project.objects.select_for_update(no_key=True).filter(pk=receiver["project_id"]).values("pk").first()

    def room_beside(self, receiver: Receiver, carried: list[dict[str, Any]], now: datetime) -> int:
        served = self._leases(receiver, carried) or self.is_slow(receiver, carried, now)
        most = self.of_project - (self.kept_free if served else 0)
        return min(super().room_beside(receiver, carried, now), most - len(carried))

    def begun(self, row: Delivery, held: Any, now: datetime) -> dict[str, Any]:
        return {} if row.try_count else {"ends_at": now + TIME[Delivery.Kind(row.kind)]}

    def attempt(self, row: Delivery) -> Outcome:
        at = timezone.now()
        try:
            sink = row.unseal("sink")
            return _post(row, sink, at) if sink["type"] == "webhook" else _put(row, sink, at)
        except VaultError as error:
            log.error("the secrets of delivery %s do not open: %s", row.pk, error)
            return Outcome(at, 0, error="The sink's secrets could not be read: its encryption key is missing.")

    def following(self, row: Delivery, outcome: Outcome, now: datetime) -> datetime | None:
        wait = max(wait_after(row.try_count), min(outcome.retry_after or 0, LONGEST_WAIT))
        following = now + timedelta(seconds=wait)
        return following if following < row.ends_at else None

    def enqueue(self, delivery_ids: Iterable[str], *, expires: float | None = None) -> None:
        enqueue(delivery_ids, expires=expires)


def enqueue(delivery_ids: Iterable[str], *, expires: float | None = None) -> None:
    """Hands ids to the workers. Without a broker the deliveries wait for the sweeper, and nobody waits for the broker."""
    broker.hand(sinks.TASK, delivery_ids, queue="deliveries", expires=expires or sinks.HINT_SECONDS)


_courier = _Courier()
deliver, sweep = _courier.deliver, _courier.sweep


def wait_after(tries_before: int) -> int:
    """Seconds until the next try."""
    return int(min(FIRST_WAIT * 2 ** min(tries_before, 10), LONGEST_WAIT))


def _post(row: Delivery, sink: sinks.Sink, at: datetime) -> Outcome:
    known = _signing(_settings_of(row.project_id), at)
    ours = signed(f"msg_{row.pk}", row.body, at, known)
    headers = _without_reserved(sink.get("headers", {}))
    named = {name.lower() for name in headers}
    outgoing = http.Outgoing(
        "POST",
        sink["url"],
        {**{name: value for name, value in ours.items() if name.lower() not in named}, **headers},
        row.body.encode(),
        timeout=TIMEOUT,
        max_bytes=MAX_ANSWER,
        follow=False,
    )
    return sent(outgoing, at, [*known, ours["webhook-signature"], *_secrets_of(sink["url"], headers)])


def _secrets_of(url: str, headers: dict[str, str]) -> list[str]:
    """What a receiver may repeat of a caller's own: headers, also without ``Bearer``, and what stands in the query."""
    query = urlsplit(url).query
    words = [value.rpartition(" ")[2] for value in headers.values()]
    return [*headers.values(), *words, *([query] if query else []), *(value for _, value in parse_qsl(query))]


def _without_reserved(headers: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if name.lower() not in RESERVED and not name.lower().replace("_", "-").startswith("webhook-")
    }


def _put(row: Delivery, sink: sinks.Sink, at: datetime) -> Outcome:
    from botocore.exceptions import BotoCoreError

    key = row.target.removeprefix(f"s3://{sink['bucket']}/")
    try:
        outgoing = s3.put_object(sink, key, row.body.encode(), timeout=TIMEOUT, max_bytes=MAX_ANSWER)
    except BotoCoreError as error:
        return Outcome(at, 0, error=f"No request can be made of the sink: {str(error)[:200]}")
    return sent(outgoing, at, [sink["secretAccessKey"], sink["accessKeyId"], outgoing.headers["Authorization"]])


# -- Delivering again ------------------------------------------------------------------------------------------------
def find(project: Project, delivery_id: str) -> Delivery:
    """Raises `NotFound`."""
    row = Delivery.objects.filter(project=project, pk=delivery_id).first()
    if row is None:
        raise errors.NotFound("There is no such delivery.")
    row.project = project
    return row


@transaction.atomic
def redeliver(delivery: Delivery, actor: Actor) -> Delivery:
    """Sends it now, with the same id, and for its whole time more where it was delivered or dead.

    Of several who ask at the same time one wins; one that is under way is left alone. Gives the row as it is then. Raises
    `NotFound` where it was deleted meanwhile.
    """
    if _courier.again(delivery, timezone.now()):
        record(actor, "delivery.redelivered", delivery.pk, project=delivery.project, run=delivery.run_id)
        transaction.on_commit(partial(enqueue, [delivery.pk]))
    return find(delivery.project, delivery.pk)


def redeliver_all(
    project: Project,
    actor: Actor,
    *,
    status: str | None = None,
    run_id: str | None = None,
    job_run_id: str | None = None,
    ids: list[str] | None = None,
) -> int:
    """Sends again what has ended and fits: the dead, unless ``status`` or ``ids`` say otherwise; the oldest 10,000 at most.

    Gives how many. Nothing is sent twice where two ask at the same time.
    """
    wanted = [status] if status else [DEAD] if ids is None else [DEAD, DELIVERED]
    rows = Delivery.objects.filter(project=project, status__in=wanted)
    for name, value in (("run_id", run_id), ("job_run_id", job_run_id), ("pk__in", ids)):
        rows = rows if value is None else rows.filter(**{name: value})
    chosen = list(rows.order_by("created_at", "pk").values_list("pk", flat=True)[:MOST_AT_ONCE])
    with transaction.atomic():
        count = _courier.all_again(chosen, wanted, timezone.now())
        if count:
            named = {"status": status, "run": run_id, "jobRun": job_run_id}
            told: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
            record(actor, "deliveries.redelivered", project.pk, project=project, count=count, **told)
            transaction.on_commit(partial(enqueue, chosen[:HINTED_AT_ONCE]))
    return count


def forget_secrets() -> int:
    """Those of before a rotation whose time is over. Gives how many."""
    over = SinkSettings.objects.filter(previous_secret_until__lte=timezone.now())
    return over.update(previous_secret="", previous_secret_until=None)


def of_project(project: Project) -> QuerySet[Delivery]:
    """Deliveries without their sinks."""
    return Delivery.objects.filter(project=project).defer("sink")
