"""Prints fresh keys for production."""

from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from apps.lib.ids import random_id
from apps.lib.vault import new_key


class Command(BaseCommand):
    help = "Prints a new JACKFIELD_SECRET_KEY and a new JACKFIELD_ENCRYPTION_KEYS. Nothing is stored."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"JACKFIELD_SECRET_KEY={random_id(64)}")
        self.stdout.write(f"JACKFIELD_ENCRYPTION_KEYS={new_key(f'k{timezone.now():%Y%m%d}')}")
