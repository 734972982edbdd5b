"""The page of the encryption keys: how many values are under which, and the button that re-encrypts."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from apps.lib import vault
from apps.lib.errors import Conflict

from . import rotation
from .admin_base import is_superuser
from .audit import actor_of
from .models import AuditEvent


def keys_page(request: HttpRequest) -> HttpResponse:
    """For superusers; a POST has a worker re-encrypt everything."""
    if not is_superuser(request):
        raise PermissionDenied
    if request.method == "POST":
        return _start(request)
    state = rotation.state()
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Encryption keys",
        "state": state,
        "keys": [(key_id, state.by_key[key_id]) for key_id in vault.key_ids()],
        "lost": state.by_key[rotation.UNKNOWN],
        "total": state.by_key.total(),
        "done": state.by_key[state.first],
        "places": _places(state),
        "began": _began(),
    }
    return TemplateResponse(request, "admin/jackfield/keys.html", context)


def _start(request: HttpRequest) -> HttpResponse:
    try:
        rotation.start(actor_of(request))
        messages.success(request, "A worker re-encrypts now. Reload this page to see how far it is.")
    except Conflict as refusal:
        messages.info(request, refusal.text)
    return redirect("admin:encryption_keys")


def _places(state: rotation.State) -> list[tuple[str, int, int]]:
    """Name, values, and those of them that are not under the first key."""
    counts = sorted(state.by_place.items())
    return [(name, found.total(), found.total() - found[state.first]) for name, found in counts]


def _began() -> Any:
    """When the rotation that is under way was started; None where none is."""
    events = AuditEvent.objects.filter(action__in=["keys.rotation_started", "keys.rotated"]).order_by("-created_at")
    newest = events.first()
    return newest.created_at if newest is not None and newest.action == "keys.rotation_started" else None
