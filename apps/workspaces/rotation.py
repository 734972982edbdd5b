"""Rotation of the encryption key, while everything runs: each stored value is opened and sealed anew under the first key.

A value is written only over the very ciphertext that was read (compare-and-swap), so that what a caller or a refresh stores
meanwhile is never overwritten by something older; whoever writes seals under the first key anyway. Nothing else of a row
changes, its version in particular: a refresh under way stores its answer by that.

Only values that are not yet under the first key are looked at, so that a rotation which was broken off goes on where it
stopped, and one that is done finds nothing.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialApp
from django.apps import apps
from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Substr

from apps.lib import vault
from apps.lib.errors import Conflict
from apps.lib.vault import Sealing, VaultError

from . import accounts
from .audit import SYSTEM, Actor, record
from .models import IdempotencyRecord

log = logging.getLogger(__name__)

BATCH = 200  # values between two looks at the progress
TRIES = 5  # at one value that others write at the same time; who comes last seals under the newest key anyway
UNKNOWN = "?"  # stands for the key's id where a value is no ciphertext of ours, or under a key that is not in the ring


@dataclass
class Batch:
    """What one batch did. ``after`` is where the next one begins; None where there is none."""

    resealed: int = 0
    lost: list[tuple[str, str]] = field(default_factory=list)  # row id, reason: values that do not open
    after: Any = None


class Place:
    """A place where sealed values are kept. ``name`` is ``table.column``."""

    name: str

    def count(self) -> Counter[str]:
        """Values by the id of their key; `UNKNOWN` for those that no key of the ring opens."""
        raise NotImplementedError

    def reseal(self, after: Any = None) -> Batch:
        """Brings the next values beyond the row ``after`` under the first key."""
        raise NotImplementedError


class Column(Place):
    """A column of text or bytes with one value a row, bound to table, row and column."""

    def __init__(self, model: type[models.Model], column: str) -> None:
        self.model, self.column = model, column
        self.binary = isinstance(model._meta.get_field(column), models.BinaryField)
        self.name = f"{model._meta.db_table}.{column}"

    def count(self) -> Counter[str]:
        ids = vault.key_ids()
        counts = {f"k{at}": models.Count("pk", filter=self._under(key_id)) for at, key_id in enumerate(ids)}
        found = self._kept().aggregate(every=models.Count("pk"), **counts)
        known = Counter({key_id: found[f"k{at}"] for at, key_id in enumerate(ids)})
        return +(known + Counter({UNKNOWN: found["every"] - known.total()}))

    def reseal(self, after: Any = None) -> Batch:
        rows = self._kept().exclude(self._under(vault.key_ids()[0])).order_by("pk")
        rows = rows if after is None else rows.filter(pk__gt=after)
        pks = list(rows.values_list("pk", flat=True)[:BATCH])  # without the values, which may be megabytes each
        done = Batch(after=pks[-1] if len(pks) == BATCH else None)
        for pk in pks:
            try:
                done.resealed += self._reseal_one(pk)
            except VaultError as error:
                done.lost.append((str(pk), str(error)))
        return done

    def _reseal_one(self, pk: Any) -> bool:
        """False where somebody else has written the value, or deleted the row. Raises `VaultError`."""
        rows = self.model._default_manager.filter(pk=pk)
        first = vault.prefix(vault.key_ids()[0])
        for _ in range(TRIES):
            value = rows.values_list(self.column, flat=True).first()
            if not value or self._text(value).startswith(first):
                return False
            sealed = vault.reseal(self._text(value), vault.place(self.model._meta.db_table, pk, self.column))
            if rows.filter(**{self.column: value}).update(**{self.column: self._stored(sealed)}):
                return True
        return False

    def _kept(self) -> Any:
        """Rows with a value. Compared is its beginning, not by LIKE: on SQLite that takes k1 and K1 for the same."""
        rows = self.model._default_manager.exclude(**{self.column: self._stored("")}).exclude(**{self.column: None})
        output = models.BinaryField() if self.binary else models.TextField()
        lengths = {len(vault.prefix(key_id)) for key_id in vault.key_ids()}
        return rows.annotate(**{f"head{size}": Substr(self.column, 1, size, output_field=output) for size in lengths})

    def _under(self, key_id: str) -> models.Q:
        start = vault.prefix(key_id)
        return models.Q(**{f"head{len(start)}": self._stored(start)})

    def _text(self, value: Any) -> str:
        return bytes(value).decode(errors="replace") if self.binary else str(value)

    def _stored(self, text: str) -> str | bytes:
        return text.encode() if self.binary else text


class Members(Place):
    """Members of a JSON column, in small tables that allauth owns and writes as a whole: each row is locked to be changed."""

    def __init__(
        self, model: type[models.Model], column: str, names: tuple[str, ...], bound: Callable[[Any], str]
    ) -> None:
        self.model, self.column, self.names, self.bound = model, column, names, bound
        self.name = f"{model._meta.db_table}.{column}"

    def _values(self, data: Any) -> Iterator[tuple[str, str]]:
        for name in self.names:
            if isinstance(data, dict) and isinstance(data.get(name), str) and data[name]:
                yield name, data[name]

    def count(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for data in self.model._default_manager.values_list(self.column, flat=True).iterator():
            found.update(key_of(value) for _, value in self._values(data))
        return found

    def reseal(self, after: Any = None) -> Batch:
        rows = self.model._default_manager.order_by("pk")
        rows = rows if after is None else rows.filter(pk__gt=after)
        pks = list(rows.values_list("pk", flat=True)[:BATCH])
        done = Batch(after=pks[-1] if len(pks) == BATCH else None)
        for pk in pks:
            try:
                done.resealed += self._reseal_row(pk)
            except VaultError as error:
                done.lost.append((str(pk), str(error)))
        return done

    def _reseal_row(self, pk: Any) -> int:
        first = vault.key_ids()[0]
        with transaction.atomic():
            row = self.model._default_manager.select_for_update().filter(pk=pk).first()
            data: dict[str, Any] = getattr(row, self.column, None) or {}
            old = [(name, value) for name, value in self._values(data) if key_of(value) != first]
            if row is None or not old:
                return 0
            changed = {name: vault.reseal(value, self.bound(row)) for name, value in old}
            self.model._default_manager.filter(pk=pk).update(**{self.column: {**data, **changed}})
        return len(old)


def key_of(sealed: str) -> str:
    """The id of a ciphertext's key, where the ring has it; else `UNKNOWN`."""
    return next((key_id for key_id in vault.key_ids() if sealed.startswith(vault.prefix(key_id))), UNKNOWN)


def places() -> list[Place]:
    """Everywhere that the vault is used: each sealed field of each model, and what is sealed apart from those."""
    columns = [
        Column(model, column)
        for model in apps.get_models()
        if issubclass(model, Sealing) and not model._meta.proxy
        for column in model.SEALED
    ]
    return [
        *columns,
        Column(IdempotencyRecord, "answer"),
        Members(Authenticator, "data", ("secret", "seed"), lambda row: accounts.MFA_PLACE),
        Members(SocialApp, "settings", (accounts.SEALED_SECRET,), accounts.app_place),
    ]


@dataclass(frozen=True)
class State:
    """How many values are under which key; ``by_place`` by ``table.column``."""

    first: str
    by_place: dict[str, Counter[str]]

    @property
    def by_key(self) -> Counter[str]:
        return sum(self.by_place.values(), Counter())

    @property
    def remaining(self) -> int:
        """Values that are not under the first key."""
        return self.by_key.total() - self.by_key[self.first]

    @property
    def needed(self) -> list[str]:
        """Keys of the ring, but the first, that stored values are still under."""
        return [key_id for key_id in vault.key_ids()[1:] if self.by_key[key_id]]

    @property
    def removable(self) -> list[str]:
        """Keys of the ring that no stored value needs any more."""
        return [key_id for key_id in vault.key_ids()[1:] if not self.by_key[key_id]]


def state() -> State:
    found = {place.name: place.count() for place in places()}
    return State(vault.key_ids()[0], {name: counts for name, counts in found.items() if counts})


def reseal_all(tell: Callable[[Place, Batch], None] = lambda place, batch: None) -> int:
    """Brings every value under the first key; gives how many could not be opened. ``tell`` hears of each batch."""
    lost = 0
    for place in places():
        after = None
        while True:
            batch = place.reseal(after)
            lost += len(batch.lost)
            tell(place, batch)
            if batch.after is None:
                break
            after = batch.after
    return lost


def reseal_step(name: str = "", after: Any = None) -> tuple[str, Any] | None:
    """One batch of the place of that name (empty: the first); gives name and row where the next one begins, None at the end."""
    every = places()
    at = next((index for index, place in enumerate(every) if place.name == name), 0)
    batch = every[at].reseal(after)
    for pk, reason in batch.lost:
        log.error("%s of row %s cannot be re-encrypted: %s", every[at].name, pk, reason)
    if batch.after is not None:
        return every[at].name, str(batch.after)
    return (every[at + 1].name, None) if at + 1 < len(every) else None


def start(actor: Actor) -> None:
    """Has a worker re-encrypt everything, batch by batch. Raises `Conflict` where nothing is left to do."""
    from .tasks import reseal

    before = state()
    if not before.remaining:
        raise Conflict("Every value is under the first key already.", remediation="Nothing is left to do.")
    record(actor, "keys.rotation_started", before.first, values=before.remaining)
    transaction.on_commit(lambda: reseal.delay())


def finished() -> None:
    """Notes the end of a rotation in the audit log, with what is left."""
    after = state()
    record(SYSTEM, "keys.rotated", after.first, values=after.by_key[after.first], left=after.remaining)
    log.info("re-encrypted under %s: %d values, %d left", after.first, after.by_key[after.first], after.remaining)


# -- Keys of the data folder's file ----------------------------------------------------------------------------------
def add_key(actor: Actor = SYSTEM) -> str:
    """Puts a new key before the others into the keys' file; gives its id. Raises `Conflict` where no file of ours has them.

    Every process on that file learns of it within seconds. Until then one goes on encrypting under the old key, and opens
    what is under the new one, since it looks at the file when it meets a key that it does not know.
    """
    path = _own_file()
    text = path.read_text(encoding="utf-8").strip()
    key_id = _next_id(vault.parse_keys(text))
    _write(path, f"{vault.new_key(key_id)},{text}")
    vault.ring(at_once=True)
    record(actor, "keys.added", key_id)
    return key_id


def wait_for_processes() -> None:
    """Until every process that runs on the keys' file has looked at it again, and has ended the writing it was at."""
    time.sleep(2 * vault.LOOK_AGAIN)


def remove_old_keys(actor: Actor = SYSTEM) -> list[str]:
    """Takes every key but the first out of the keys' file; gives their ids. Raises `Conflict` while a value needs one."""
    path = _own_file()
    vault.ring(at_once=True)
    found = state()
    if found.needed:
        raise Conflict(
            f"{', '.join(found.needed)}: values are still under it.", remediation="Run manage.py rotate_keys."
        )
    first, *old = [part for part in re.split(r"[,\n]", path.read_text(encoding="utf-8")) if part.strip()]
    _write(path, first.strip())
    vault.ring(at_once=True)
    removed = [part.strip().partition(":")[0] for part in old]
    record(actor, "keys.removed", found.first, removed=removed)
    return removed


def _own_file() -> Path:
    own = Path(settings.JACKFIELD_HOME) / "encryption_keys"
    if settings.PRODUCTION or str(own) != settings.JACKFIELD_ENCRYPTION_KEYS_PATH:
        raise Conflict(
            "The encryption keys are not in the data folder's own file.",
            remediation="Change JACKFIELD_ENCRYPTION_KEYS where it is set: docs/operations.md says in which order.",
        )
    return own


def _next_id(keys: Iterable[str]) -> str:
    """dev1, dev2, …: beyond every number that is taken."""
    numbers = [int(match[1]) for match in (re.search(r"(\d+)$", key_id) for key_id in keys) if match]
    return f"dev{max(numbers, default=0) + 1}"


def _write(path: Path, text: str) -> None:
    """Whole or not at all, readable by its owner alone."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
