"""The language of end users' pages: the browser's. The API, the admin and the accounts' pages are English."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils import translation
from django.utils.cache import patch_vary_headers
from django.utils.translation.trans_real import parse_accept_lang_header
from django.views import csrf

LANGUAGES = ("en", "de", "fr", "es", "pt", "ja")
MOST = 1000  # characters of a header that are read
PAGES = ("/connect/", "/me/", "/s/", "/inbox")  # where end users are


def preferred(header: str) -> str:
    """The best of our languages for an Accept-Language header (RFC 9110, 12.5.4); English where none fits.

    What is malformed is passed over: it must not spoil the rest, as it would in Django's reading of the whole.
    """
    parts = header[:MOST].split(",")
    found = [pair for part in parts for pair in parse_accept_lang_header(part.strip())]
    for code, weight in sorted(found, key=lambda pair: -pair[1]):
        language = code.partition("-")[0]
        if weight > 0 and language in LANGUAGES:
            return language
    return "en"


def localized(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """For a page of end users: rendered in the browser's language, and marked so for caches and readers."""

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        language = preferred(request.headers.get("Accept-Language", ""))
        with translation.override(language):
            response = view(request, *args, **kwargs)
        response.headers.setdefault("Content-Language", language)
        patch_vary_headers(response, ["Accept-Language"])
        return response

    return wrapper


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Django's page of a refused form; on end users' pages in their language."""
    view: Callable[..., HttpResponse] = csrf.csrf_failure
    return (localized(view) if request.path.startswith(PAGES) else view)(request, reason=reason)
