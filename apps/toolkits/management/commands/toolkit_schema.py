"""Prints the JSON Schema of a toolkit file."""

import json
from typing import Any

from django.core.management.base import BaseCommand

from apps.toolkits.spec import Toolkit


class Command(BaseCommand):
    help = "Prints the JSON Schema of a toolkit file, for editors and other tools."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Toolkit.model_json_schema(by_alias=True)
        self.stdout.write(json.dumps(schema, indent=2))
