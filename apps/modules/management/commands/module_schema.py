"""Prints the JSON Schema of a module's definition."""

import json
from typing import Any

from django.core.management.base import BaseCommand

from apps.modules.checks import json_schema


class Command(BaseCommand):
    help = "Prints the JSON Schema of a module's definition, for editors and other tools."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(json.dumps(json_schema(), indent=2))
