"""``manage.py check``: every file of the catalog, all faults at once, each with its file and key."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, register

from . import hooks, registry


@register("jackfield")
def check_catalog(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    for folder in registry.folders():
        if not folder.is_dir():
            found.append(Error(f"{folder}: there is no such folder", id="toolkits.E001",
                               hint="JACKFIELD_TOOLKITS_DIR names folders of toolkit files."))  # fmt: skip
    for path in registry.files():
        toolkit, faults = registry.read_file(path)
        found += [
            Error(str(fault), id="toolkits.E002", hint="See docs/toolkits.md for the format.") for fault in faults
        ]
        if toolkit is not None:
            found += [Error(f"{path.name}: {fault}", id="toolkits.E003", hint="A hook is a function of hooks/<slug>.py.")
                      for fault in hooks.faults(toolkit)]  # fmt: skip
    return found
