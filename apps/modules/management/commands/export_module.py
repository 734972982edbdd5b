"""Writes modules into files, for the company's git."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.lib.errors import NotFound
from apps.modules import bundle, services
from apps.modules.documents import as_yaml
from apps.modules.models import Module


class Command(BaseCommand):
    help = "Writes the drafts of modules into files named by them: hr/onboard into hr/onboard.yaml. Without --to, prints one."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help="Modules; none: every one.")
        parser.add_argument("--project", required=True, help="Its id or name.")
        parser.add_argument(
            "--workspace", default="", help="Its id or name, where several have a project of that name."
        )
        parser.add_argument("--to", type=Path, help="The folder.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            project = bundle.find_project(options["project"], options["workspace"])
            names = options["names"]
            rows = Module.objects.living().filter(project=project).order_by("name")
            modules = [services.find(project, name) for name in names] if names else list(rows)
        except (LookupError, NotFound) as error:
            raise CommandError(str(error)) from None
        if options["to"] is None:
            self._print(modules)
            return
        try:
            written = bundle.write_files(modules, options["to"])
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from None
        for file in written:
            self.stdout.write(str(file))
        self.stdout.write(f"{len(written)} written, {len(modules) - len(written)} unchanged.")

    def _print(self, modules: list[Module]) -> None:
        if len(modules) != 1:
            raise CommandError(f"{len(modules)} modules: name one, or give --to FOLDER.")
        self.stdout.write(as_yaml(modules[0].source), ending="")
