"""Takes modules from files: all of them, or none where one has a fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from apps.lib.errors import InvalidInput
from apps.modules import bundle
from apps.modules.bundle import Done, Item
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Project


class Command(BaseCommand):
    help = (
        "Puts modules from files: of a folder every .yaml, .yml and .json below it, named by its path there. "
        "All of them, or none where one has a fault."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
        parser.add_argument("--project", required=True, help="Its id or name.")
        parser.add_argument(
            "--workspace", default="", help="Its id or name, where several have a project of that name."
        )
        parser.add_argument("--publish", action="store_true", help="Publish what differs from what is published.")
        parser.add_argument("--note", default="", help="What the new versions say of themselves.")
        parser.add_argument("--check", action="store_true", help="Only tell what is wrong and what would change.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            project = bundle.find_project(options["project"], options["workspace"])
        except LookupError as error:
            raise CommandError(str(error)) from None
        done = self._put(project, self._items(options), check=options["check"])
        for line in done.changes:
            self.stdout.write(line)
        for name, secret in ({} if options["check"] else done.keys).items():
            self.stdout.write(f"{name}  {secret}  (shown this once)")
        if not done.changes:
            self.stdout.write("Nothing to change.")

    def _items(self, options: dict[str, Any]) -> list[Item]:
        items, faults = [], []
        for path in options["paths"]:
            files = bundle.files_below(path)
            if not files:
                faults.append(f"{path}: There is no definition.")
            for file in files:
                folder = path if path.is_dir() else None
                try:
                    items.append(bundle.item_of(file, folder, publish=options["publish"], note=options["note"]))
                except OSError as error:
                    faults.append(f"{file}: {error.strerror}")
                except InvalidInput as failure:
                    faults += [f"{file}: {fault['message']}" for fault in failure.details["faults"]]
        names = [item.name for item in items]
        faults += [f"{name}: Two files." for name in sorted({name for name in names if names.count(name) > 1})]
        if faults:
            raise CommandError("\n".join(["Nothing was changed.", *faults]))
        return items

    def _put(self, project: Project, items: list[Item], *, check: bool) -> Done:
        with transaction.atomic():
            done = bundle.put_all(project, items, SYSTEM)
            transaction.set_rollback(check or bool(done.faults))
        if done.faults:
            raise CommandError("\n".join(["Nothing was changed.", *done.faults]))
        return done
