"""Which paths are API, and the short way through Django for them.

Nothing under these prefixes uses sessions, cookies, messages or templates: their requests skip that middleware, and
whatever goes wrong outside of a view (an unknown path, a bad host) is answered in the surface's own envelope.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse, HttpResponseNotFound
from django.http.response import HttpResponseBase
from django.urls import Resolver404, resolve

from . import errors
from .api import INTEGRATIONS, Envelope, as_failure
from .envelopes import RAW, RUNS, SESSIONS, SHORTCUT

# The first whose pattern the path begins with. A project's id has an underscore, which a toolkit's slug never has.
ENVELOPES: tuple[tuple[re.Pattern[str], Envelope], ...] = (
    (re.compile(r"/v1/(skills|connect)/|/v1/(?!integrations/)[^/_]+/[^/]+/$|/api-keys/"), SHORTCUT),
    (re.compile(r"/api/integrations/"), RAW),
    (re.compile(r"/api/v1/workspace/"), RUNS),
    (re.compile(r"/api/execution/"), SESSIONS),
    (re.compile(r"/v1/|/api/|/sandbox/|/hooks/"), INTEGRATIONS),
    # Last, for it begins with an id; people's pages have no such path.
    (re.compile(r"/(?!admin/|accounts/|static/|s/|connect/|me/)[^/]+/projects/"), RUNS),
)
# Probes come by address, whatever hosts the installation answers to.
PROBES = frozenset({"/healthz", "/readyz"})
# The provider's way back answers a browser: it may need the cookie, and shows pages.
PAGE = re.compile(r"/v1/([^/]+/)?integrations/callback")


class ApiMiddleware:
    """Answers API requests without the middleware of pages."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path_info in PROBES:
            return resolve(request.path_info).func(request)  # type: ignore[no-any-return]
        envelope = envelope_for(request.path_info)
        if envelope is None:
            return self.get_response(request) if "\x00" not in request.path_info else HttpResponseNotFound()
        if request.method in {"GET", "HEAD"} and PAGE.fullmatch(request.path_info):
            return self.get_response(request)
        return answer(request, envelope)


def envelope_for(path: str) -> Envelope | None:
    """The envelope of the surface that a path belongs to; None outside the API."""
    return next((envelope for begin, envelope in ENVELOPES if begin.match(f"{path.rstrip('/')}/")), None)


def answer(request: HttpRequest, envelope: Envelope) -> HttpResponseBase:
    response = _answer(request, envelope)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")
    if isinstance(response, HttpResponse) and response.status_code != 204:  # RFC 9110 section 8.6: none with a 204
        response.headers.setdefault("Content-Length", str(len(response.content)))
    return response


def _answer(request: HttpRequest, envelope: Envelope) -> HttpResponseBase:
    try:
        request.get_host()
        if "\x00" in request.path_info:  # PostgreSQL's text takes none
            raise errors.NotFound
        match = resolve(request.path_info)
        request.resolver_match = match
        response: HttpResponseBase = match.func(request, *match.args, **match.kwargs)
        if hasattr(response, "render") and callable(response.render):
            response = response.render()
    except Resolver404:
        return envelope.render(errors.NotFound("There is no such path."))
    except DisallowedHost:
        return envelope.render(errors.InvalidInput({"host": ["This installation does not answer to that host."]}))
    except Exception as error:
        return envelope.render(as_failure(error))
    if response.status_code == 405 and not response.get("Content-Type", "").startswith("application/json"):
        refusal = envelope.render(errors.MethodNotAllowed())
        refusal["Allow"] = response["Allow"]
        return refusal
    return response
