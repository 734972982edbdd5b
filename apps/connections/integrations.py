"""Switching toolkits on and off for a project."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone

from apps.lib import errors, http
from apps.lib.errors import InvalidInput
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Toolkit
from apps.workspaces.audit import Actor, record
from apps.workspaces.models import Project

from . import access
from .models import Connection, Integration
from .services import disconnect


def find_toolkit(slug: str, project: Project | None = None) -> Toolkit:
    """A toolkit of the catalog, or of the project's own. Raises `NotFound`."""
    toolkit = catalog(project).get(slug)
    if toolkit is None:
        raise errors.NotFound(f"The catalog has no toolkit {slug}.",
                              remediation="Search it: GET /v1/{appId}/integrations/available?search=…")  # fmt: skip
    return toolkit


def configure(
    project: Project,
    slug: str,
    actor: Actor,
    *,
    display_name: str | None = None,
    scopes: list[str] | None = None,
    client_id: str | None = None,
    client_secret: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> Integration:
    """Switches a toolkit on, or changes what is given of one that is on. None keeps; an empty list of scopes resets.

    Raises `NotFound` for a toolkit that the catalog does not have, `InvalidInput` for an override that it does not know.
    """
    toolkit = find_toolkit(slug, project)
    if overrides is not None:
        check_overrides(toolkit, overrides)
    with transaction.atomic():
        integration, made = Integration.objects.select_for_update().get_or_create(
            project=project, toolkit=slug, is_primary=True, defaults={"display_name": display_name or toolkit.name}
        )
        integration.enabled = True
        if display_name:
            integration.display_name = display_name
        if scopes is not None:
            integration.scopes = scopes
        if client_id is not None:
            integration.client_id = client_id
        if client_secret is not None:
            integration.seal("client_secret", client_secret)
        # What the Raw execute API was given beyond these settings is its callers' own.
        config = {"config": integration.settings["config"]} if "config" in integration.settings else {}
        moved = overrides is not None and overrides | config != integration.settings
        if overrides is not None:
            integration.settings = overrides | config
        check_client(integration)
        integration.save()
        record(
            actor,
            "integration.enabled" if made else "integration.changed",
            slug,
            project=project,
            scopes=scopes,
            client=client_id,
            new_client_password=client_secret is not None,
            # As texts: the log's redaction would take a token_url for a token.
            settings=[f"{name}: {value}" for name, value in (overrides or {}).items()] if moved else None,
        )
    return integration


def check_client(integration: Integration) -> None:
    """Raises `InvalidInput` where the platform's client would be used at an address that is the project's choice."""
    if integration.client_id or access.platform_client(integration.toolkit) is None or access.keeps_home(integration):
        return
    fault = "The installation's OAuth client goes to no other host: give the project's own client with these addresses."
    raise InvalidInput({"settings": [fault]})


def check_overrides(toolkit: Toolkit, overrides: dict[str, Any]) -> None:
    faults: dict[str, list[str]] = {}
    for name, value in overrides.items():
        if name == "variables":
            faults |= _variable_faults(toolkit, value)
        elif name in Integration.URL_SETTINGS:
            if not isinstance(value, str) or not http.is_plain_url(value):
                faults[f"settings.{name}"] = ["Must be an absolute http or https URL."]
        elif name != "issuer":
            faults[f"settings.{name}"] = ["Unknown setting."]
        elif not isinstance(value, str) or not value.isprintable():
            faults["settings.issuer"] = ["Must be a text."]
    if faults:
        raise InvalidInput(faults)


def _variable_faults(toolkit: Toolkit, given: Any) -> dict[str, list[str]]:
    if not isinstance(given, dict):
        return {"settings.variables": ["Must be an object."]}
    faults: dict[str, list[str]] = {}
    for name, value in given.items():
        variable = toolkit.variables.get(name)
        if variable is None or variable.source != "integration":
            faults[f"settings.variables.{name}"] = ["Not among this toolkit's variables."]
        elif not isinstance(value, str) or not variable.accepts(value):
            faults[f"settings.variables.{name}"] = ["Does not look right."]
    return faults


def disable(project: Project, slug: str, actor: Actor, *, revoke: bool = False) -> None:
    """Switches a toolkit off: no new connections. Existing ones keep working unless they are revoked."""
    won = (
        Integration.objects.primary()
        .filter(project=project, toolkit=slug, enabled=True)
        .update(enabled=False, updated_at=timezone.now())
    )
    if won:
        record(actor, "integration.disabled", slug, project=project, revoked_connections=revoke)
    if revoke:
        rows = Connection.objects.filter(project=project, toolkit=slug, integration__is_primary=True)
        for connection in rows.select_related("integration", "project"):
            disconnect(connection, actor)


def enabled_integration(project: Project, slug: str) -> Integration:
    """Raises `ToolkitNotEnabled`."""
    integration = Integration.objects.filter(project=project, toolkit=slug).primary().enabled().first()
    if integration is None:
        raise errors.ToolkitNotEnabled(f"The toolkit {slug} is not enabled for this project.")
    integration.project = project
    return integration
