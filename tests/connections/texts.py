"""The texts of end users' pages, as templates and code have them, and the catalogs of their translations."""

from __future__ import annotations

import ast
import gettext
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.template import engines
from django.template.base import Node
from django.templatetags.i18n import BlockTranslateNode, TranslateNode

ROOT = Path(__file__).resolve().parent.parent.parent
LOCALE = ROOT / "locale"
PAGES = sorted(
    f"{folder}/{file.name}"
    for folder in ("connect", "people", "sessions")
    for file in ROOT.glob(f"templates/{folder}/*.html")
)
TEMPLATES = ["base.html", "403_csrf.html", *PAGES]
CODE = [
    *(f"connections/{name}.py" for name in ("forms", "grants", "hosted_views", "people", "upstream", "views")),
    *sorted(f"runs/pages/{file.name}" for file in ROOT.glob("apps/runs/pages/*.py")),
]
FUNCTIONS = {"_", "gettext", "gettext_lazy"}
PLACEHOLDER = re.compile(r"%\(\w+\)s|\{\w+\}|</?\w+>")
ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n)+)', re.MULTILINE)


def texts() -> set[str]:
    """Every msgid of end users' pages."""
    return {text for name in TEMPLATES for text in _of_template(name)} | {
        text for name in CODE for text in _of_code(name)
    }


def _of_template(name: str) -> Iterator[str]:
    engine: Any = engines["django"]
    for node in _nodes(engine.get_template(name).template.nodelist):
        if isinstance(node, TranslateNode):
            yield str(node.filter_expression.var.literal)
        elif isinstance(node, BlockTranslateNode):
            yield node.render_token_list(node.singular)[0]


def _nodes(nodes: Any) -> Iterator[Node]:
    """Every node of a template, those inside blocks and tags among them; not those of templates that it extends."""
    for node in nodes:
        yield node
        for name in (*node.child_nodelists, "nodelist_true", "nodelist_false"):
            yield from _nodes(getattr(node, name, None) or ())
        for _, inner in getattr(node, "conditions_nodelists", ()):
            yield from _nodes(inner)


def _of_code(name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / "apps" / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            yield ast.literal_eval(node.args[0])


def placeholders(text: str) -> list[str]:
    return sorted(PLACEHOLDER.findall(text))


def source(language: str) -> dict[str, str]:
    """The entries of a django.po, its header left out."""
    file = LOCALE / language / "LC_MESSAGES" / "django.po"
    found = {_text(msgid): _text(msgstr) for msgid, msgstr in ENTRY.findall(file.read_text(encoding="utf-8"))}
    found.pop("")
    return found


def _text(lines: str) -> str:
    return "".join(ast.literal_eval(line) for line in lines.splitlines())


def compiled(language: str) -> dict[str, str]:
    """The entries of a django.mo, its header left out."""
    with open(LOCALE / language / "LC_MESSAGES" / "django.mo", "rb") as file:
        catalog: dict[str, str] = dict(gettext.GNUTranslations(file)._catalog)  # type: ignore[attr-defined]
    catalog.pop("")
    return catalog
