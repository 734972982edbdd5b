"""What everything that is delivered to integrators shares: which addresses may be named, how a message is signed, and how a
delivery is carried, whatever its table is.

A delivery is written in the transaction that changes what it tells of; Celery carries its id, which is a hint and may be lost.
The row is the truth: one conditional UPDATE claims it for the time of a lease, the outcome is written by another over exactly
that lease, and a sweeper takes what is due and nobody carries. So a message comes at least once, in no promised order.

``next_try_at`` says when a row is looked after next: a pending one is tried, or its lease is over.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import random
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import urlsplit

from django.db import models, transaction
from django.db.models import Min, QuerySet
from django.utils import timezone
from standardwebhooks.webhooks import Webhook

from apps.lib import egress, errors, http
from apps.lib.db import release
from apps.lib.redact import clip, redact_json_text

log = logging.getLogger(__name__)

MAX_URL = 2000
SECRET_BYTES = 32  # the scheme permits 24 to 64
MAX_ANSWER = 64 * 1024
ANSWER_KEPT = 500  # characters
BATCH = 500
MOST_REMEMBERED = 10_000  # receivers that were slow
GONE = 410
PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"  # as every table of deliveries has them

Row = TypeVar("Row", bound=models.Model)
Receiver = Mapping[str, Any]  # the columns that name who receives it, and their values


# -- Addresses -------------------------------------------------------------------------------------------------------
def url_fault(url: str) -> str:
    """What is wrong with a receiver's URL; an empty text where nothing is.

    Names are judged where they are called: what they resolve to may change at any time.
    """
    if len(url) > MAX_URL or not url.isascii() or not http.is_plain_url(url):
        return f"Must be an absolute URL of at most {MAX_URL} ASCII characters, without user and password."
    if urlsplit(url).scheme != "https" and not egress.is_named(url):
        return "Must be an https URL: without TLS anybody on the way reads what is sent."
    if not _may_be_called(url):
        return "This address is not public: the operator would have to add it to JACKFIELD_EGRESS_ALLOW."
    return ""


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


# -- Signatures (https://www.standardwebhooks.com) --------------------------------------------------------------------
def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed(message_id: str, body: str, at: datetime, known: Iterable[str]) -> dict[str, str]:
    """The headers of the scheme: a signature by each secret, separated by blanks."""
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, at, body) for secret in known),
    }


# -- Hints -----------------------------------------------------------------------------------------------------------
class Trickle:
    """Lets so many things of one kind pass in a span of seconds, counted in this process."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._lock = threading.Lock()
        self._since = 0.0
        self._passed: dict[Hashable, int] = {}

    def allows(self, kind: Hashable) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._since >= self._seconds:
                self._since, self._passed = now, {}
            passed = self._passed.get(kind, 0)
            self._passed[kind] = passed + 1
            return passed < self._most


# -- One try ---------------------------------------------------------------------------------------------------------
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


def sent(outgoing: http.Outgoing, at: datetime, known: Iterable[str] = ()) -> Outcome:
    """Sends once, begun ``at``; whatever goes wrong is in the outcome. ``known`` secrets are not kept of the answer."""
    release()
    try:
        answer = http.send(outgoing)
    except errors.AnswerTooLarge as error:
        status = getattr(error, "upstream_status", None)
        return _answered(at, status, f"(more than {outgoing.max_bytes} bytes)", None)
    except errors.Unreachable as error:
        return Outcome(at, _since(at), error=error.text.replace("provider", "receiver"))
    said = redact_json_text(answer.text[: 4 * ANSWER_KEPT], known)
    return _answered(at, answer.status, clip(said, ANSWER_KEPT), http.retry_after(answer))


def _answered(at: datetime, status: int | None, said: str, retry_after: int | None) -> Outcome:
    error = "A redirect, which is not followed." if status in http.REDIRECTS else ""
    return Outcome(at, _since(at), status=status, error=error, answer=said, retry_after=retry_after)


def _since(at: datetime) -> float:
    return (timezone.now() - at).total_seconds()


# -- Carrying --------------------------------------------------------------------------------------------------------
class Courier(ABC, Generic[Row]):
    """Carries the deliveries of one table, which has the columns ``status``, ``tries``, ``try_count``, ``next_try_at``,
    ``lease_until``, ``ends_at`` and ``delivered_at``, and a QuerySet that knows ``due``.

    What is under way is counted by receiver, so that a slow one holds up no other.
    """

    model: ClassVar[type[models.Model]]
    receiver: ClassVar[tuple[str, ...]]
    lease: ClassVar[timedelta]  # beyond the time of a try, with room for slow writes and clocks apart
    lifetime: ClassVar[timedelta]  # of a delivery that is made, or made again
    kept: ClassVar[Mapping[str, timedelta]] = {}  # by status: when ``next_try_at`` of an ended one is
    in_flight: ClassVar[int] = 4  # to one receiver at the same time, over all workers
    in_flight_slow: ClassVar[int] = 2  # the same, where one has been waiting for an answer for longer than ``slow``
    slow: ClassVar[timedelta] = timedelta(seconds=2)
    slow_for: ClassVar[timedelta] = timedelta(
        minutes=1
    )  # that a slow answer is remembered, by the process that waited for it
    swept: ClassVar[int] = 100  # a sweep, of those whom the first column of ``receiver`` names, and receivers of each
    kept_tries: ClassVar[int] = 20

    def __init__(self) -> None:
        self._slow: dict[tuple[Any, ...], datetime] = {}

    # -- What each table says
    @abstractmethod
    def hold(self, receiver: Receiver) -> Any:
        """Locks what stands for the receiver, so that who counts does so alone. None where nothing may be sent to it."""

    @abstractmethod
    def attempt(self, row: Row) -> Outcome:
        """Sends it once. Whatever goes wrong is in the outcome."""

    @abstractmethod
    def following(self, row: Row, outcome: Outcome, now: datetime) -> datetime | None:
        """When it is tried next after a try that failed; None: it is dead."""

    @abstractmethod
    def enqueue(self, delivery_ids: Iterable[str], *, expires: float | None = None) -> None:
        """Hands ids to the workers. Without a broker the deliveries wait for the sweeper, and nobody waits for the broker."""

    def begun(self, row: Row, held: Any, now: datetime) -> dict[str, Any]:
        """What is set with the lease. ``held`` is what `hold` gave."""
        return {}

    def on_outcome(self, row: Row, outcome: Outcome) -> None:
        """Called in the transaction that writes the outcome, before it does."""

    def sendable(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        """Of rows that are due those whose receivers want them now."""
        return rows

    # -- What all have in common
    @property
    def rows(self) -> QuerySet[Any]:
        return self.model._default_manager.all()

    def due(self, now: datetime) -> QuerySet[Any]:
        found: QuerySet[Any] = self.rows.due(now)  # type: ignore[attr-defined] # of each table's QuerySet
        return found

    def deliver(self, delivery_id: str) -> str | None:
        """Makes one try, if the delivery is due and nobody else carries it; else does nothing.

        Gives the id of a delivery that waits until this receiver has room for it, None where there is none.
        """
        row = self.claim(delivery_id)
        if row is None:
            return None
        self.finish(row, self.attempt(row))
        return self.next_of(row)

    def claim(self, delivery_id: str) -> Row | None:
        """The delivery under a lease of ours. None where it is not due, or its receiver has enough to do."""
        receiver = self.due(timezone.now()).filter(pk=delivery_id).values(*self.receiver).first()
        if receiver is None:
            return None
        with transaction.atomic():
            held = self.hold(receiver)
            now = timezone.now()  # after waiting for the others, whose leases would else lie beyond what is counted
            if held is None or self.room(receiver, now) < 1:
                return None
            rows = self.due(now).filter(pk=delivery_id)
            row: Row | None = rows.first()
            if row is None:
                return None
            until = now + self.lease
            changes = {"lease_until": until, "next_try_at": until, **self.begun(row, held, now)}
            if not rows.update(**changes):
                return None
        for name, value in changes.items():
            setattr(row, name, value)
        return row

    def room(self, receiver: Receiver, now: datetime) -> int:
        """How many deliveries more it gets at the moment; fewer where it answers slowly, so that others get theirs."""
        owner = self.receiver[0]
        carried = self.carried(now).filter(**{owner: receiver[owner]})
        return self.room_beside(receiver, list(carried.values(*self.receiver, "lease_until")), now)

    def room_beside(self, receiver: Receiver, carried: list[dict[str, Any]], now: datetime) -> int:
        """The same, beside what is under way to it and to others of its owner."""
        most = self.in_flight_slow if self.is_slow(receiver, carried, now) else self.in_flight
        return most - len(self._leases(receiver, carried))

    def is_slow(self, receiver: Receiver, carried: list[dict[str, Any]], now: datetime) -> bool:
        """That it was is remembered: else all that begin together would end together, and then as many begin again."""
        known = self._slow.get(tuple(receiver[name] for name in self.receiver))
        begun = (until - self.lease for until in self._leases(receiver, carried))
        return (known is not None and known > now) or any(at < now - self.slow for at in begun)

    def _leases(self, receiver: Receiver, carried: list[dict[str, Any]]) -> list[datetime]:
        return [one["lease_until"] for one in carried if all(one[name] == receiver[name] for name in self.receiver)]

    def carried(self, now: datetime) -> QuerySet[Any]:
        """What is under way."""
        near = (
            now + 2 * self.lease
        )  # a lease and the next look at its row end together; clocks of machines may lie apart
        return self.rows.filter(status=PENDING, lease_until__gt=now, next_try_at__gt=now, next_try_at__lte=near)

    def finish(self, row: Row, outcome: Outcome) -> None:
        """Writes how the try ended, over exactly the lease under which it was made."""
        now = timezone.now()
        self._remember(row, outcome, now)
        made: Any = row
        changes: dict[str, Any] = {
            "tries": [*made.tries, outcome.row][-self.kept_tries :],
            "try_count": made.try_count + 1,
            "lease_until": None,
            **(self._delivered(now) if outcome.good else self._failed(row, outcome, now)),
        }
        mine = self.rows.filter(pk=row.pk, status=PENDING, lease_until=made.lease_until)
        with transaction.atomic():
            self.on_outcome(row, outcome)
            if not mine.update(**changes):
                log.warning("delivery %s was taken over or deleted during its try", row.pk)

    def _remember(self, row: Row, outcome: Outcome, now: datetime) -> None:
        receiver = tuple(getattr(row, name) for name in self.receiver)
        if outcome.seconds <= self.slow.total_seconds():
            self._slow.pop(receiver, None)
            return
        if len(self._slow) >= MOST_REMEMBERED:
            self._slow.clear()
        self._slow[receiver] = now + self.slow_for

    def _delivered(self, now: datetime) -> dict[str, Any]:
        return {**self._ended(DELIVERED, now), "delivered_at": now}

    def _failed(self, row: Row, outcome: Outcome, now: datetime) -> dict[str, Any]:
        following = self.following(row, outcome, now)
        return self._ended(DEAD, now) if following is None else {"next_try_at": following}

    def _ended(self, status: str, now: datetime) -> dict[str, Any]:
        return {"status": status, "next_try_at": now + self.kept[status] if status in self.kept else None}

    def next_of(self, row: Row) -> str | None:
        """One of the oldest that wait for the same receiver: not the same one for all who ask at this moment."""
        waiting = self.due(timezone.now()).filter(**{name: getattr(row, name) for name in self.receiver})
        found = list(waiting.order_by("next_try_at").values_list("pk", flat=True)[: self.in_flight])
        return random.choice(found) if found else None  # noqa: S311 - no secret

    def again(self, row: Row, now: datetime) -> bool:
        """Sends it now, and for its whole time more where it has ended.

        Of several who ask at the same time one wins; one that is under way is left alone. Whether this one did.
        """
        read: Any = row
        # What was read: who comes second finds other times there.
        rows = self.rows.filter(
            pk=row.pk, status=read.status, next_try_at=read.next_try_at, ends_at=read.ends_at, try_count=read.try_count
        )
        if read.status == PENDING:
            return bool(rows.filter(next_try_at__gt=now).exclude(lease_until__gt=now).update(next_try_at=now))
        return bool(rows.update(**self.anew(now)))

    def all_again(self, chosen: list[str], statuses: list[str], now: datetime) -> int:
        """The same for many that have ended; in batches that each database takes as parameters. Gives how many."""
        batches = (chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH))
        return sum(self.rows.filter(pk__in=some, status__in=statuses).update(**self.anew(now)) for some in batches)

    def anew(self, now: datetime) -> dict[str, Any]:
        """What makes an ended delivery one that waits."""
        return {
            "status": PENDING, "try_count": 0, "next_try_at": now, "ends_at": now + self.lifetime, "delivered_at": None
        }  # fmt: skip

    def sweep(self) -> int:
        """Hands what is due and nobody carries to the workers, as many for each receiver as it has room for.

        Those first who have waited longest; who has no room is passed over. Gives how many. What is past its time is dead
        from now on.
        """
        now = timezone.now()
        late = self.rows.filter(status=PENDING, next_try_at__lte=now, ends_at__lte=now)
        late.update(lease_until=None, **self._ended(DEAD, now))
        due, owner = self.sendable(self.due(now)), self.receiver[0]
        carried = list(self.carried(now).values(*self.receiver, "lease_until"))
        found: list[str] = []
        served = 0
        for pk, _ in due.values_list(owner).annotate(oldest=Min("next_try_at")).order_by("oldest"):
            some = self._share(due.filter(**{owner: pk}), [one for one in carried if one[owner] == pk], now)
            found += some
            served += bool(some)
            if served == self.swept:
                break
        self.enqueue(found, expires=60)  # the next sweep names them anew: they must not pile up where no worker runs
        return len(found)

    def _share(self, due: QuerySet[Any], carried: list[dict[str, Any]], now: datetime) -> list[str]:
        """What one owner gets in a sweep: nobody who has thousands of receivers keeps others from theirs."""
        found: list[str] = []
        for group in due.values(*self.receiver).annotate(oldest=Min("next_try_at")).order_by("oldest")[: self.swept]:
            receiver = {name: group[name] for name in self.receiver}
            room = max(0, self.room_beside(receiver, carried, now))
            some = list(due.filter(**receiver).order_by("next_try_at").values_list("pk", flat=True)[:room])
            found += some
            carried = [*carried, *({**receiver, "lease_until": now + self.lease} for _ in some)]
        return found
