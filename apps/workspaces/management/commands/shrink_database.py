"""Gives the disk back that a SQLite database no longer needs, and lets it do so by itself from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connection

from apps.lib import vacuum


class Command(BaseCommand):
    help = (
        "Writes the SQLite file anew, without what was deleted. Needed once for a database of before Jackfield gave its disk "
        "back by itself; needs as much disk again meanwhile, and nobody can write until it is done."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        if connection.vendor != "sqlite":
            raise CommandError("This is for SQLite. PostgreSQL gives the disk back by itself.")
        path = Path(connection.settings_dict["NAME"])
        before = path.stat().st_size
        try:
            vacuum.convert()
        except OperationalError as error:
            raise CommandError(f"The database is in use: {error}. Stop Jackfield first.") from None
        self.stdout.write(f"{path}: {before:,} bytes became {path.stat().st_size:,}.")
