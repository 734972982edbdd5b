"""Toolkit files of a test's own: written into a folder, read as the product reads them, beside the shipped ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_django import Settings

from apps.toolkits import registry
from apps.toolkits.registry import Catalog, catalog


@cache
def _shipped() -> Catalog:
    """Read once: there are hundreds of files."""
    return catalog()


class Folder:
    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.monkeypatch = monkeypatch

    def put(self, toolkit: dict[str, Any]) -> None:
        """Writes the file; the toolkit is in the catalog, in place of an earlier one of its slug."""
        file = self.path / f"{toolkit['slug']}.yaml"
        file.write_text(yaml.safe_dump(toolkit))
        read, faults = registry.read_file(file)
        assert read is not None, faults
        found = Catalog(_shipped().toolkits | {read.slug: read})
        self.monkeypatch.setattr(registry, "_load", cache(lambda: found))


@pytest.fixture
def toolkit_folder(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """An empty folder of toolkits; loopback may be called."""
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    _shipped()
    return Folder(tmp_path, monkeypatch)
