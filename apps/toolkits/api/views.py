"""Toolkits of a project's own."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse

from apps.lib import errors
from apps.lib.api import json_answer, no_content, page
from apps.workspaces.api.base import ProjectView

from .. import services
from ..models import OwnToolkit
from . import schema


def row_of(toolkit: OwnToolkit) -> dict[str, Any]:
    return {
        "id": toolkit.pk,
        "slug": toolkit.slug,
        "toolkit": toolkit.document,
        "createdAt": toolkit.created_at.isoformat(),
        "updatedAt": toolkit.updated_at.isoformat(),
    }


@schema.toolkits
class OwnToolkitsView(ProjectView):
    """GET toolkits: those of the project's own."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str) -> HttpResponse:
        rows = OwnToolkit.objects.filter(project=self.project)
        if self.caller.toolkits:
            rows = rows.filter(slug__in=self.caller.toolkits)
        found, cursor = page(rows, request._request)
        return json_answer({"toolkits": [row_of(row) for row in found], "nextCursor": cursor})


@schema.toolkit
class OwnToolkitView(ProjectView):
    """PUT, GET, DELETE toolkits/{slug}."""

    scopes = {"GET": ("admin",), "PUT": ("admin",), "DELETE": ("delete",)}

    def get(self, request: Any, app_id: str, slug: str) -> HttpResponse:
        self.caller.require_toolkit(slug)
        row = OwnToolkit.objects.filter(project=self.project, slug=slug).first()
        if row is None:
            raise errors.NotFound(f"The project has no toolkit {slug} of its own.")
        return json_answer(row_of(row))

    def put(self, request: Any, app_id: str, slug: str) -> HttpResponse:
        self.caller.require_toolkit(slug)
        row = services.put(self.project, slug, request.data, self.caller.actor)
        return json_answer(row_of(row))

    def delete(self, request: Any, app_id: str, slug: str) -> HttpResponse:
        self.caller.require_toolkit(slug)
        if not services.remove(self.project, slug, self.caller.actor):
            raise errors.NotFound(f"The project has no toolkit {slug} of its own.")
        return no_content()
