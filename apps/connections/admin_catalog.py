"""The catalog in the admin: cards or a list, search, and a page for each toolkit."""

from __future__ import annotations

import json
from typing import Any

from django.core.paginator import Paginator
from django.http import Http404, HttpRequest
from django.templatetags.static import static

from apps.toolkits.models import OwnToolkit
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Tool, Toolkit
from apps.workspaces.admin_base import EDITORS, may, projects_of

from .models import Integration

A_PAGE = 60
AUTH_NAMES = {
    "oauth2": "OAuth 2",
    "oauth1": "OAuth 1",
    "client_credentials": "Client credentials",
    "api_key": "API key",
    "bearer": "Token",
    "basic": "User name and password",
    "custom": "Own fields",
}


def logo_of(toolkit: Toolkit) -> str:
    """The address of the logo; empty where there is none."""
    logo = toolkit.logo or ""
    return logo if logo.startswith("https://") or not logo else static(f"toolkits/{logo}")


def card(toolkit: Toolkit) -> dict[str, Any]:
    return {
        "slug": toolkit.slug,
        "name": toolkit.name,
        "description": toolkit.description,
        "logo": logo_of(toolkit),
        "initials": "".join(word[0] for word in toolkit.name.split()[:2]).upper(),
        "categories": [name.replace("-", " ") for name in toolkit.categories],
        "auth": [AUTH_NAMES[scheme.type] for scheme in toolkit.auth],
        "tools": len(toolkit.tools),
        "curated": toolkit.curated is not None,
    }


def matches(toolkit: Toolkit, text: str, category: str, auth: str) -> bool:
    """Whether every word of the text is somewhere in name, slug, description or categories, and the choices fit."""
    hay = " ".join([toolkit.slug, toolkit.name, toolkit.description, *toolkit.categories]).casefold()
    return (
        all(word in hay for word in text.casefold().split())
        and (not category or category in toolkit.categories)
        and (not auth or auth in toolkit.auth_by_type)
    )


def found(request: HttpRequest) -> list[Toolkit]:
    """What is asked for: best match of the name first, then curated ones, then by name."""
    text = request.GET.get("q", "").strip()
    best = {toolkit.slug: rank for rank, toolkit in enumerate(catalog().search(text))} if text else {}
    rows = [
        toolkit
        for toolkit in catalog().toolkits.values()
        if matches(toolkit, text, request.GET.get("category", ""), request.GET.get("auth", ""))
    ]
    return sorted(rows, key=lambda row: (best.get(row.slug, 10_000), row.curated or 1_000, row.name.casefold()))


def list_context(request: HttpRequest) -> dict[str, Any]:
    toolkits = catalog().toolkits.values()
    page = Paginator(found(request), A_PAGE).get_page(request.GET.get("p"))
    query = request.GET.copy()
    query.pop("p", None)
    return {
        "cards": [card(toolkit) for toolkit in page.object_list],
        "page": page,
        "query": query.urlencode(),
        "as_list": request.GET.get("view") == "list",
        "categories": sorted({name for toolkit in toolkits for name in toolkit.categories}),
        "auth_names": [
            (kind, AUTH_NAMES[kind]) for kind in AUTH_NAMES if any(kind in t.auth_by_type for t in toolkits)
        ],
        "enabled": set(
            Integration.objects.enabled().filter(project__in=projects_of(request)).values_list("toolkit", flat=True)
        ),
        "project": request.GET.get("project", ""),
    }


def toolkit_or_404(request: HttpRequest, slug: str) -> Toolkit:
    """A toolkit of the catalog, or of a project of this person's."""
    own = OwnToolkit.objects.filter(slug=slug, project__in=projects_of(request)).select_related("project").first()
    toolkit = catalog(own.project if own else None).get(slug)
    if toolkit is None:
        raise Http404
    return toolkit


def detail_context(request: HttpRequest, toolkit: Toolkit) -> dict[str, Any]:
    integrations = {
        row.project_id: row
        for row in Integration.objects.primary().filter(toolkit=toolkit.slug, project__in=projects_of(request))
    }
    places = [
        (project, integrations.get(project.pk), may(request, EDITORS, project.workspace_id))
        for project in projects_of(request)
        if catalog(project).get(toolkit.slug) is not None
    ]
    return {
        "card": card(toolkit),
        "toolkit": toolkit,
        "schemes": [(AUTH_NAMES[scheme.type], scheme) for scheme in toolkit.auth],
        "scopes": scopes_of(toolkit),
        "tools": [tool_row(toolkit, tool) for tool in toolkit.tools],
        "places": places,
    }


def scopes_of(toolkit: Toolkit) -> list[tuple[str, str, bool]]:
    """(scope, what it permits, asked for by default) of a toolkit with OAuth 2."""
    scheme = toolkit.auth_by_type.get("oauth2") or toolkit.auth_by_type.get("client_credentials")
    if scheme is None:
        return []
    meanings: dict[str, str] = dict.fromkeys(scheme.scopes, "") | dict(getattr(scheme, "available_scopes", {}))
    return [(scope, meaning, scope in scheme.scopes) for scope, meaning in meanings.items()]


def tool_row(toolkit: Toolkit, tool: Tool) -> dict[str, Any]:
    required = set(tool.input_schema["required"])
    parameters = [
        (name, kind_of(schema), name in required, str(schema.get("description", "")))
        for name, schema in tool.input_schema["properties"].items()
    ]
    return {
        "tool": tool,
        "public_name": toolkit.public_name(tool),
        "parameters": sorted(parameters, key=lambda row: not row[2]),
        "input": json.dumps(tool.input_schema, indent=2, ensure_ascii=False),
        "output": json.dumps(tool.output, indent=2, ensure_ascii=False) if tool.output else "",
    }


def kind_of(schema: dict[str, Any]) -> str:
    """A parameter's type in a word or two."""
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"][:6]) + (" | …" if len(schema["enum"]) > 6 else "")
    kind = schema.get("type", "any")
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    item = schema.get("items", {}).get("type") if isinstance(schema.get("items"), dict) else None
    return f"{text} of {item}" if text == "array" and isinstance(item, str) else text
