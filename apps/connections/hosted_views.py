"""The hosted connect page in the browser. Every change is a POST; a GET shows what there is."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.cache import patch_vary_headers
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_safe

from apps.lib import errors
from apps.lib.api import client_ip
from apps.lib.language import localized
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Toolkit
from apps.workspaces.audit import Actor

from . import flows, hosted, integrations, services
from .flows import FlowError
from .models import Connection, ConnectPage
from .views import COOKIE, attempt, cookie_of, fault_of, in_popup, keep_cookie, reason_of, redirect, refuse

OPENER = "jf_opener"  # the origin that opened the popup; checked against the page's list whenever it is read


# -- The link ----------------------------------------------------------------------------------------------------------
@never_cache
@localized
@in_popup
@require_http_methods(["GET", "HEAD", "POST"])  # checkers of links ask by HEAD
def open_link(request: HttpRequest, secret: str) -> HttpResponse:
    """The link that an integrator was given: its button, not its sight, opens the page."""
    response = _open(request, secret)
    response._has_been_logged = True  # type: ignore[attr-defined] # Django's log of a 4xx would hold the link
    return response


def _open(request: HttpRequest, secret: str) -> HttpResponse:
    page, cookie = hosted.find_by_secret(secret), cookie_of(request)
    if page is None or (page.binding and not hosted.is_bound_to(page, cookie)):
        return refuse(request, "bad_link", page.project if page else None)
    if request.method != "POST" and not page.binding:
        context = {"project": page.project, "origin": request.GET.get("origin", "")}
        return render(request, "connect/open.html", context)
    if not hosted.claim(page, cookie):
        return refuse(request, "bad_link", page.project)
    response = redirect(f"/connect/page/{page.pk}")
    keep_cookie(response, cookie)
    _keep_opener(response, page, request.POST.get("origin") or request.GET.get("origin", ""))
    return response


def _keep_opener(response: HttpResponse, page: ConnectPage, origin: str) -> None:
    if hosted.opener_of(page, origin):
        response.set_cookie(
            OPENER,
            origin,
            max_age=int(hosted.LIFETIME.total_seconds()),
            path=f"/connect/page/{page.pk}",
            httponly=True,
            samesite="Lax",
            secure=settings.HTTPS,
        )


@never_cache
@require_GET
def outcome(request: HttpRequest, secret: str) -> HttpResponse:
    """How the link's flows ended: for the script of an allowed origin, which a provider may have cut off from its popup."""
    page, origin = hosted.find_by_secret(secret), request.headers.get("Origin", "")
    response = JsonResponse(hosted.outcome(page) if page else {"error": "bad_link"}, status=200 if page else 404)
    if page is not None and hosted.opener_of(page, origin):
        response["Access-Control-Allow-Origin"] = origin
    patch_vary_headers(response, ["Origin"])
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


# -- The page ----------------------------------------------------------------------------------------------------------
@never_cache
@localized
@in_popup
@require_safe
def page(request: HttpRequest, page_id: str) -> HttpResponse:
    """The person's accounts, and what else can be connected."""
    found = hosted.find_opened(page_id, request.COOKIES.get(COOKIE, ""))
    if found is None:
        return refuse(request, "bad_link")
    result = _result(found, request)
    if not hosted.is_open(found):
        return _closed(request, found, result)
    return _show(request, found, result=result, gone=_gone(found, request))


def _result(page: ConnectPage, request: HttpRequest) -> dict[str, Any] | None:
    """What the page says of the flow that has just ended; None where the address names none of this page's."""
    session = hosted.find_result(page, request.GET.get("done", ""))
    if session is None:
        return None
    told = {"id": session.pk, **hosted.result(session)}
    toolkit = catalog(page.project).get(told["toolkit"])
    name = toolkit.name if toolkit else told["toolkit"]
    if told["status"] == "connected":
        connection = hosted.find_connection(page, session.connection_id)
        waiting = connection is not None and connection.status == Connection.Status.INACTIVE
        return {"told": told, "ok": True, "text": _connected(name, page, waiting=waiting)}
    text = _("%(toolkit)s was not connected.") % {"toolkit": name}
    return {"told": told, "ok": False, "text": f"{text} {reason_of(told['message'])}"}


def _connected(name: str, page: ConnectPage, *, waiting: bool) -> str:
    if waiting:
        names = {"toolkit": name, "project": page.project.name}
        return _("Your %(toolkit)s account is connected and waits for confirmation by %(project)s.") % names
    return _("Your %(toolkit)s account is connected.") % {"toolkit": name}


def _gone(page: ConnectPage, request: HttpRequest) -> str:
    toolkit = catalog(page.project).get(request.GET.get("disconnected", ""))
    return _("Your %(toolkit)s account is disconnected.") % {"toolkit": toolkit.name} if toolkit else ""


def _closed(request: HttpRequest, page: ConnectPage, result: dict[str, Any] | None) -> HttpResponse:
    """A flow may end when its page's time is over: then how it ended is all there is to see."""
    if result is None:
        return refuse(request, "bad_link", page.project)
    context = _common(request, page) | {"connected": result["ok"], "reason": result["text"], "result": result}
    return render(request, "connect/result.html", context)


def _common(request: HttpRequest, page: ConnectPage) -> dict[str, Any]:
    return {
        "project": page.project,
        "page": page,
        "opener": hosted.opener_of(page, request.COOKIES.get(OPENER, "")),
        "done_url": hosted.done_url(page),
    }


def _show(request: HttpRequest, page: ConnectPage, status: int = 200, **more: Any) -> HttpResponse:
    every = hosted.offers(page)
    words = request.GET.get("q", "").strip()[:100]
    shown = [offer for offer in every if _matches(offer.toolkit, words)]
    context = _common(request, page) | {"offers": shown, "searchable": len(every) > 6, "words": words, **more}
    return render(request, "connect/hosted.html", context, status=status)


def _matches(toolkit: Toolkit, words: str) -> bool:
    hay = f"{toolkit.name} {toolkit.slug}".casefold()
    return all(word in hay for word in words.casefold().split())


# -- What its buttons do -----------------------------------------------------------------------------------------------
def _opened(request: HttpRequest, page_id: str) -> ConnectPage | None:
    """The page of this browser, while it is open."""
    found = hosted.find_opened(page_id, request.COOKIES.get(COOKIE, ""))
    return found if found is not None and hosted.is_open(found) else None


@never_cache
@localized
@in_popup
@require_http_methods(["GET", "HEAD", "POST"])
def connect(request: HttpRequest, page_id: str, slug: str) -> HttpResponse:
    """Begins with a toolkit: POST goes to the provider, GET shows the form or the ways there are."""
    page = _opened(request, page_id)
    toolkit = catalog(page.project).get(slug) if page else None
    if page is None or toolkit is None or not hosted.allows(page, slug):
        return refuse(request, "bad_link", page.project if page else None)
    another = bool(request.POST.get("another") or request.GET.get("another"))
    return _attempt(request, page, toolkit, allow_multiple=another)


@never_cache
@localized
@in_popup
@require_http_methods(["GET", "HEAD", "POST"])
def reconnect(request: HttpRequest, page_id: str, connection_id: str) -> HttpResponse:
    """Connects an account again, which keeps its id and settings; also to allow more than was allowed."""
    page = _opened(request, page_id)
    connection = hosted.find_connection(page, connection_id) if page else None
    toolkit = catalog(page.project).get(connection.toolkit) if page and connection else None
    if page is None or toolkit is None:
        return refuse(request, "bad_link", page.project if page else None)
    return _attempt(request, page, toolkit, renew=connection)


def _attempt(
    request: HttpRequest,
    page: ConnectPage,
    toolkit: Toolkit,
    *,
    allow_multiple: bool = False,
    renew: Connection | None = None,
) -> HttpResponse:
    context = _common(request, page) | {"toolkit": toolkit, "another": allow_multiple, "renew": renew}
    begin = partial(
        flows.start_connect,
        page.project,
        page.end_user.external_id,
        toolkit.slug,
        allow_multiple=allow_multiple,
        page=page,
        renew=renew,
    )
    try:
        integration = integrations.enabled_integration(page.project, toolkit.slug)
        usual = renew.auth_type if renew and renew.auth_type in toolkit.auth_by_type else None
        return attempt(request, integration, context, begin, usual)
    except FlowError as error:
        return _show(request, page, 400, fault=reason_of(error.code))
    except errors.Failure as error:
        return _show(request, page, error.status, fault=fault_of(error, page.project, toolkit))


@never_cache
@localized
@in_popup
@require_http_methods(["GET", "HEAD", "POST"])
def disconnect(request: HttpRequest, page_id: str, connection_id: str) -> HttpResponse:
    """Asks, then disconnects."""
    page = _opened(request, page_id)
    if page is None:
        return refuse(request, "bad_link")
    connection = hosted.find_connection(page, connection_id)
    if connection is None:  # a second click
        return redirect(f"/connect/page/{page.pk}")
    toolkit = catalog(page.project).get(connection.toolkit)
    if request.method != "POST":
        context = _common(request, page) | {"connection": connection, "toolkit": toolkit}
        return render(request, "connect/disconnect.html", context)
    actor = Actor(f"end-user:{page.end_user.external_id}", client_ip(request))
    services.disconnect(connection, actor)
    return redirect(f"/connect/page/{page.pk}?disconnected={connection.toolkit}")
