"""``/api-keys`` of the Shortcut API: an end user's own keys."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from rest_framework.authentication import CSRFCheck

from apps.lib import errors
from apps.lib.api import client_ip, json_answer, no_content
from apps.lib.errors import InvalidInput
from apps.toolkits.registry import catalog
from apps.workspaces import personal_keys
from apps.workspaces.api.base import ShortcutView
from apps.workspaces.callers import Caller
from apps.workspaces.models import ApiKey, Project
from apps.workspaces.personal_keys import SESSION_SECONDS

from . import personal_keys_schema as schema

COOKIE = "jf_person"
COOKIE_AGE = SESSION_SECONDS


class PersonalView(ShortcutView):
    """A route for an end user: with their token, or in the browser with the session of their page."""

    def find_caller(self, request: HttpRequest) -> Caller:
        if "HTTP_AUTHORIZATION" in request.META or "HTTP_X_API_KEY" in request.META:
            caller = super().find_caller(request)
            personal_keys.require_person(caller)
            return caller
        caller_of_session = personal_keys.person_of(request.COOKIES.get(COOKIE, ""), client_ip(request))
        if caller_of_session is None:
            raise errors.AuthRequired
        if request.method not in {"GET", "HEAD"}:
            _check_csrf(request)
        return caller_of_session


def _no_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def _check_csrf(request: HttpRequest) -> None:
    """The browser sends the cookie whoever asks it to: what changes something must also send the page's token.

    Raises `NotPermitted`.
    """
    check = CSRFCheck(_no_view)
    check.process_request(request)
    reason = check.process_view(request, _no_view, (), {})
    if reason:
        raise errors.NotPermitted(
            f"{reason}", remediation="Send the page's CSRF token in the header X-CSRFToken, or an end user's token."
        )


@schema.keys
class KeysView(PersonalView):
    """GET and POST api-keys."""

    scopes = {"GET": ("execute", "connect"), "POST": ("execute", "connect")}

    def get(self, request: Any) -> HttpResponse:
        return json_answer([row_of(key) for key in personal_keys.newest(self.caller)])

    def post(self, request: Any) -> HttpResponse:
        body = self.body(schema.KeyBody)
        toolkits = chosen_toolkits(self.project, body.get("scopes") or [])
        key, secret = personal_keys.create(self.caller, body["name"], toolkits, _expiry(body))
        return json_answer({"api_key": row_of(key), "full_key": secret}, 201)


@schema.key
class KeyView(PersonalView):
    """DELETE api-keys/{id}."""

    scopes = {"DELETE": ("execute", "connect")}

    def delete(self, request: Any, key_id: str) -> HttpResponse:
        personal_keys.revoke(self.caller, key_id)
        return no_content()


@schema.links
class LinksView(ShortcutView):
    """POST api-keys/links: where a person looks after their keys."""

    scopes = {"POST": ("connect",)}

    def post(self, request: Any) -> HttpResponse:
        user_id = self.user_id()
        if user_id is None:
            raise InvalidInput({"X-End-User": ["Name the end user with a key that is bound to nobody."]})
        link = personal_keys.make_link(self.caller, user_id)
        return json_answer({"url": link.url, "expires_at": link.expires_at.isoformat()}, 201)


def row_of(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.pk,
        "name": key.name,
        "key_prefix": key.prefix,
        "scopes": key.toolkits or ["*"],
        "last_used_at": _text(key.last_used_at),
        "expires_at": _text(key.expires_at),
        "revoked_at": _text(key.revoked_at),
        "created_at": _text(key.created_at),
    }


def _text(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def chosen_toolkits(project: Project, slugs: list[str]) -> list[str]:
    """The slugs; none for all (``*``). Raises `InvalidInput` for what is no toolkit of the catalog."""
    if "*" in slugs:
        return []
    unknown = sorted(set(slugs) - set(catalog(project).toolkits))
    if unknown:
        raise InvalidInput({"scopes": [f"Not in the catalog: {', '.join(unknown)[:300]}."]})
    return sorted(set(slugs))


def _expiry(body: dict[str, Any]) -> datetime | None:
    """Raises `InvalidInput` for both at once, and for what is over."""
    at, seconds = body.get("expires_at"), body.get("expires_in")
    if at is not None and seconds is not None:
        raise InvalidInput({"expires_in": ["Give expires_at or expires_in, not both."]})
    if seconds is not None:
        return timezone.now() + timedelta(seconds=seconds)
    if at is not None and at <= timezone.now():
        raise InvalidInput({"expires_at": ["Must lie in the future."]})
    return at if isinstance(at, datetime) else None
