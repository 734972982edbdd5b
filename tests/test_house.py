"""The shape of the house: which app may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

APPS = Path(__file__).resolve().parent.parent / "apps"
ORDER = ["lib", "workspaces", "toolkits", "connections", "modules", "runs"]


def imports(file: Path) -> Iterator[str]:
    """Absolute names of what a file imports, at its top or inside a function."""
    package = ["apps", *file.relative_to(APPS).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("app", ORDER)
def test_imports_point_one_way(app: str) -> None:
    allowed = {*ORDER[: ORDER.index(app) + 1]}
    found = {
        f"{file.relative_to(APPS)} imports {name}"
        for file in (APPS / app).rglob("*.py")
        for name in imports(file)
        if name.startswith("apps.") and name.split(".")[1] not in allowed
    }
    assert not found


def test_every_app_stands_in_the_order() -> None:
    assert {folder.name for folder in APPS.iterdir() if (folder / "apps.py").exists()} == set(ORDER)


def test_the_guard_sees_relative_and_inner_imports() -> None:
    found = set(imports(APPS / "connections" / "refresh.py"))
    assert "apps.connections.models.Connection" in found
    assert "apps.connections.links.reconnect_link" in found
