"""Brings every stored secret under the first encryption key, while everything runs."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.lib.errors import Conflict
from apps.workspaces import rotation
from apps.workspaces.audit import SYSTEM, record
from apps.workspaces.rotation import UNKNOWN, Batch, Place, State


class Command(BaseCommand):
    help = (
        "Encrypts every stored secret anew under the first key of JACKFIELD_ENCRYPTION_KEYS, while calls go on. "
        "It may be broken off and repeated. Exit status 1 where values are left."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        only = parser.add_mutually_exclusive_group()
        only.add_argument("--check", action="store_true", help="Only tell how many values are under which key.")
        only.add_argument(
            "--new", action="store_true", help="First put a new key into the data folder's file (quickstart's keys)."
        )
        only.add_argument(
            "--remove-old",
            action="store_true",
            help="Take the keys that are no longer needed out of the data folder's file.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["remove_old"]:
                removed = rotation.remove_old_keys()
                self.stdout.write(f"Removed: {', '.join(removed) or 'nothing'}.")
                return
            if options["new"]:
                self.stdout.write(f"Added the key {rotation.add_key()}.")
                rotation.wait_for_processes()
        except Conflict as refusal:
            raise CommandError(f"{refusal.text} {refusal.advice}") from None
        if not options["check"]:
            self._reseal()
        self._conclude(rotation.state())

    def _reseal(self) -> None:
        before = rotation.state()
        if not before.remaining:
            return
        record(SYSTEM, "keys.rotation_started", before.first, values=before.remaining)
        total: dict[str, int] = {}

        def tell(place: Place, batch: Batch) -> None:
            total[place.name] = total.get(place.name, 0) + batch.resealed
            if batch.resealed:
                self.stdout.write(f"{place.name}: {total[place.name]} re-encrypted")
                self.stdout.flush()
            for pk, reason in batch.lost:
                self.stderr.write(f"{place.name}, row {pk}: {reason}")

        lost = rotation.reseal_all(tell)
        rotation.finished()
        if lost:
            self.stderr.write(f"{lost} values do not open: put their key back, or have those accounts connected again.")

    def _conclude(self, state: State) -> None:
        for name, counts in sorted(state.by_place.items()):
            shares = ", ".join(f"{_named(key_id)}: {count}" for key_id, count in sorted(counts.items()))
            self.stdout.write(f"{name}  {shares}")
        if state.removable:
            self.stdout.write(f"Needed by nothing any more: {', '.join(state.removable)}.")
        if state.remaining:
            raise CommandError(
                f"{state.remaining} values are not under the first key, {state.first}. "
                "Run manage.py rotate_keys; where that leaves some, a running process still encrypts with another key, "
                "or they do not open."
            )
        self.stdout.write(f"Every value is under the first key, {state.first}.")


def _named(key_id: str) -> str:
    return "no key of the ring" if key_id == UNKNOWN else key_id
