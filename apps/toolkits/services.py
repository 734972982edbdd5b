"""Toolkits of a project's own: put there, changed, taken away."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import yaml
from django.db import transaction
from django.db.models import F

from apps.lib import errors
from apps.lib.errors import InvalidInput
from apps.workspaces.audit import Actor, record
from apps.workspaces.models import Project

from .models import OwnToolkit
from .registry import catalog, parse, read_text
from .signals import toolkit_removed
from .spec import Toolkit, has_references

MOST = 200  # toolkits of its own that one project may have
LONGEST_TEXT = 500_000  # characters of one's description
MOST_TEXT = 2_000_000  # characters of all of a project's as JSON: each process reads them all after each change
LONGEST_PATTERN = 200  # characters of a regular expression


def put(project: Project, slug: str, document: dict[str, Any], actor: Actor) -> OwnToolkit:
    """Describes a toolkit of the project's own, anew or for the first time, in the schema of the catalog's files.

    Raises `InvalidInput` with every fault, `Conflict` for a slug of the installation's catalog.
    """
    if catalog().get(slug) is not None:
        raise errors.Conflict(
            f"The catalog has a toolkit {slug} already.", remediation="Choose a slug that the catalog does not have."
        )
    check(slug, document)
    with transaction.atomic():
        row, made = OwnToolkit.objects.select_for_update().get_or_create(
            project=project, slug=slug, defaults={"document": document}
        )
        if made and OwnToolkit.objects.filter(project=project).count() > MOST:
            raise InvalidInput({"slug": [f"A project may have {MOST} toolkits of its own."]})
        others = OwnToolkit.objects.filter(project=project).exclude(pk=row.pk).values_list("document", flat=True)
        if sum(len(json.dumps(one)) for one in [document, *others]) > MOST_TEXT:
            raise InvalidInput({"body": [f"All of a project's toolkits may have {MOST_TEXT:,} characters as JSON."]})
        if not made:
            row.document = document
            row.save(update_fields=["document", "updated_at"])
        _notice(project)
        record(actor, "toolkit.added" if made else "toolkit.changed", slug, project=project)
    return row


def remove(project: Project, slug: str, actor: Actor) -> bool:
    """Takes a toolkit of the project's own away; False where there is none. Its accounts can then no longer be used."""
    with transaction.atomic():
        if not OwnToolkit.objects.filter(project=project, slug=slug).delete()[0]:
            return False
        _notice(project)
        record(actor, "toolkit.removed", slug, project=project)
        toolkit_removed.send(sender=OwnToolkit, project=project, slug=slug, actor=actor)
    return True


def _notice(project: Project) -> None:
    """Lets every process see the change with its next look at the project's row."""
    Project.objects.filter(pk=project.pk).update(toolkits_version=F("toolkits_version") + 1)
    project.refresh_from_db(fields=["toolkits_version"])


def check(slug: str, document: dict[str, Any]) -> Toolkit:
    """What the document describes. Raises `InvalidInput` with every fault, each named by its place in the document."""
    if "\\u0000" in json.dumps(document).replace("\\\\", ""):
        raise InvalidInput({"body": ["Must not have NUL characters."]})
    if document.get("slug", slug) != slug:
        raise InvalidInput({"slug": [f"Must be {slug}, as the path says, or absent."]})
    toolkit, found = parse({**document, "slug": slug})
    faults: dict[str, list[str]] = defaultdict(list)
    for key, message in [*found, *(_not_for_rows(toolkit) if toolkit else ())]:
        faults[key or "body"].append(message)
    if faults or toolkit is None:
        raise InvalidInput(dict(faults))
    return toolkit


def read_document(text: str) -> dict[str, Any]:
    """A description written as YAML. Raises ValueError saying what is wrong with it.

    References within the text are refused: a few lines of them can stand for more than fits into memory.
    """
    document = read_text(text)
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
        raise ValueError("Must not have references (*name).")
    if not isinstance(document, dict):
        raise ValueError("Must be a mapping of keys.")
    try:
        json.dumps(document)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"Must be what JSON can say, dates in quotes: {error}.") from None
    return document


def _not_for_rows(toolkit: Toolkit) -> list[tuple[str, str]]:
    """What only the installation's files may say."""
    faults = [
        (f"tools.{tool.slug}.{name}", "Only toolkits of the installation's files have hooks.")
        for tool in toolkit.tools
        for name in ("hook", "answer_hook")
        if getattr(tool, name)
    ]
    if toolkit.curated is not None:
        faults.append(("curated", "Only toolkits of the installation's files are curated."))
    if toolkit.logo and not toolkit.logo.startswith("https://"):
        faults.append(("logo", "Must be an https URL."))
    links = {"docs_url": toolkit.docs_url, "app_registration_url": toolkit.app_registration_url}
    links |= {f"tools.{tool.slug}.docs_url": tool.docs_url for tool in toolkit.tools}
    faults += [
        (key, "Must be an http or https URL.")  # pages show it as a link
        for key, url in links.items()
        if url and not url.lower().startswith(("https://", "http://"))
    ]
    # Thirty definitions of which each names the next one twice are a billion to go through.
    faults += [
        (f"tools.{tool.slug}.parameters", "Only toolkits of the installation's files have references ($ref).")
        for tool in toolkit.tools
        if has_references(tool.input_schema)
    ]
    patterns = {f"variables.{name}": variable.pattern for name, variable in toolkit.variables.items()}
    for scheme in toolkit.auth:
        patterns |= {f"auth.{scheme.type}.{field.name}": field.pattern for field in getattr(scheme, "fields", ())}
    faults += [
        (f"{key}.pattern", f"Must have at most {LONGEST_PATTERN} characters.")
        for key, pattern in patterns.items()
        if pattern and len(pattern) > LONGEST_PATTERN
    ]
    return faults
