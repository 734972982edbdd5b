"""The base of every route of a project: finds out who calls, and for whom."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import unquote

from django.http import HttpRequest

from apps.lib.api import ApiView
from apps.lib.envelopes import SHORTCUT
from apps.workspaces.callers import Caller, identify, identify_by_credential
from apps.workspaces.models import Project
from apps.workspaces.signals import key_used

EXTENDED = "utf-8''"  # RFC 8187 section 3.2


def named_by_header(request: Any) -> str | None:
    """X-End-User; None where none was sent, an empty text where it cannot be read.

    WSGI hands headers over as Latin-1, user ids are UTF-8 (PEP 3333). granian hands over an empty text in place of what is not
    ASCII: such an id is written as RFC 8187 has it, ``UTF-8''J%C3%BCrgen``.
    """
    text = request.META.get("HTTP_X_END_USER")
    if text is None:
        return None
    if text[: len(EXTENDED)].lower() == EXTENDED:
        return _unescaped(text[len(EXTENDED) :])
    try:
        return str(text.encode("latin-1").decode("utf-8"))
    except UnicodeError:
        return str(text)


def _unescaped(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return ""


class ProjectView(ApiView):
    """A route below ``/v1/{appId}``. ``scopes`` names, for each method, the scopes of which one is needed."""

    scopes: ClassVar[dict[str, tuple[str, ...]]] = {}
    caller: Caller

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if request.method.lower() not in self.http_method_names or not hasattr(self, request.method.lower()):
            return  # DRF answers 405
        self.caller = self.find_caller(request._request)
        if self.caller.key is not None:
            key_used.send(sender=None, key_id=self.caller.key.pk)
        method = "GET" if request.method == "HEAD" else request.method
        needed = self.scopes.get(method)
        if needed:
            self.caller.require(*needed, reading=method == "GET")

    def find_caller(self, request: HttpRequest) -> Caller:
        return identify(request, self.kwargs["app_id"])

    @property
    def project(self) -> Project:
        return self.caller.project

    def user_id(self, named: object = None) -> str | None:
        """The end user that the call is for: of the token or key, else named by the body or X-End-User."""
        return self.caller.for_user(named, named_by_header(self.request))


class ShortcutView(ProjectView):
    """A route of the Shortcut API, whose path names no project: the key's, or the token's, it is."""

    envelope = SHORTCUT

    def find_caller(self, request: HttpRequest) -> Caller:
        return identify_by_credential(request)
