"""Brings a project into the state that one YAML file describes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.modules import apply
from apps.modules.apply import Faults, Moved, Outcome


class Command(BaseCommand):
    help = (
        "Brings a project into the state that a YAML file describes (docs/apply.md): shows what it will change, asks, and "
        "changes only that. What the file does not name is left alone. It may be repeated."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--yes", action="store_true", help="Do not ask.")
        parser.add_argument("--dry-run", action="store_true", help="Only show what would change.")
        parser.add_argument("--workspace", default="", help="Its id or name, in place of the file's.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self._run(options)
        except Faults as faults:
            many = f"{len(faults.sentences)} faults" if len(faults.sentences) > 1 else "One fault"
            raise CommandError("\n".join([f"{many}; nothing was changed.", *faults.sentences])) from None
        except Moved:
            raise CommandError("Somebody changed the project meanwhile; nothing was changed. Run it again.") from None

    def _run(self, options: dict[str, Any]) -> None:
        wanted = apply.load(options["file"])
        planned = apply.plan(wanted, options["workspace"])
        self._show(planned)
        if not planned.changes or options["dry_run"]:
            return
        if not options["yes"] and not self._agreed():
            raise CommandError("Nothing was changed.")
        done = apply.apply(wanted, options["workspace"], expected=planned.changes)
        for name, secret in done.keys.items():
            self.stdout.write(f"{name}  {secret}  (shown this once)")
        self.stdout.write(f"Changed: {len(done.changes)}.")

    def _show(self, planned: Outcome) -> None:
        for line in planned.changes:
            self.stdout.write(line)
        for note in planned.notes:
            self.stderr.write(note)
        if not planned.changes:
            self.stdout.write("Nothing to change.")

    def _agreed(self) -> bool:
        if not sys.stdin.isatty():
            raise CommandError("Nobody to ask here: give --yes. Nothing was changed.")
        return input("Change this? [y/N] ").strip().lower() in {"y", "yes"}
