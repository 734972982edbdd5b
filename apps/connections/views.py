"""What people's browsers see: the page on which connecting starts, the provider's way back, the result."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_safe

from apps.lib import errors
from apps.lib.api import client_ip
from apps.lib.language import localized
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Toolkit
from apps.workspaces.audit import Actor
from apps.workspaces.models import Project

from . import colours, flows, forms, hosted, integrations
from .flows import FORM_SCHEMES, PROVIDER_SCHEMES, FlowError
from .links import BadLink, Link, read_link
from .models import ConnectSession, Integration

Begin = Callable[..., flows.Started]
COOKIE = "jf_connect"
COOKIE_AGE = int(flows.SESSION_LIFETIME.total_seconds())
DENIALS = {"access_denied", "user_denied", "user_cancelled_login", "user_refused", "permission_denied"}
REASONS = {
    "access_denied": gettext_lazy(
        "You did not allow access, so nothing was connected. You can go back and start again."
    ),
    "connection_failed": gettext_lazy("The service did not accept the connection. Please try again."),
    "app_mismatch": gettext_lazy("This link belongs to another application."),
    "invalid_state": gettext_lazy(
        "This attempt is too old, was already used, or was begun in another browser. Please start again."
    ),
    "missing_state": gettext_lazy(
        "The service sent no information about which attempt this belongs to. Please start again."
    ),
    "bad_link": gettext_lazy("This link is not valid any more. Please ask for a new one."),
}


def in_popup(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """For each page and redirect on the way of a popup: the usual same-origin policy would cut its tie to its opener."""

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        response["Cross-Origin-Opener-Policy"] = "unsafe-none"
        return response

    return wrapper


def reason_of(code: str) -> str:
    return str(REASONS.get(code, REASONS["connection_failed"]))


@never_cache
@in_popup
@require_GET
def callback(request: HttpRequest, app_id: str | None = None) -> HttpResponse:
    """The provider's answer: always a redirect, to the integrator's page or to our own result page."""
    given, cookie = request.GET, request.COOKIES.get(COOKIE, "")
    request_token = given.get("oauth_token") or given.get("denied", "")  # OAuth 1.0a
    try:
        session = flows.take_session(given.get("state", ""), cookie, app_id, request_token=request_token)
        answer = given.get("oauth_verifier" if session.auth_type == "oauth1" else "code")
        if not answer or any(name in given for name in ("error", "denied", "oauth_problem")):
            code = "access_denied" if _is_denial(given) else "connection_failed"
            flows.end_session(session, code)
            raise FlowError(code, session)
        user = session.end_user.external_id if session.end_user else ""
        actor = Actor(f"end-user:{user}", client_ip(request))
        if session.auth_type == "oauth1":
            connection = flows.finish_oauth1(session, request_token, answer, actor)
        else:
            connection = flows.finish_oauth(session, answer, given.get("iss", ""), actor)
    except FlowError as error:
        return _leave(error.session, status="error", message=error.code)
    return _leave(session, status="connected", toolkit=connection.toolkit, connectionId=connection.pk)


def _is_denial(given: QueryDict) -> bool:
    """Whether the person said no, in OAuth 2's word or in one of those that OAuth 1.0a's providers use."""
    return "denied" in given or bool(DENIALS & {given.get("error"), given.get("oauth_problem")})


def _leave(session: ConnectSession | None, **result: str) -> HttpResponse:
    if session is not None and session.page_id:
        return redirect(f"/connect/page/{session.page_id}?{urlencode({'done': session.pk})}")
    if session is not None and session.redirect_url:
        return redirect(flows.result_url(session, **result))
    if session is not None:
        result |= {"project": session.project.pk}
    return redirect(f"/connect/result?{urlencode(result)}")


class _Redirect(HttpResponseRedirect):
    allowed_schemes = ["http", "https"]


def redirect(url: str) -> HttpResponse:
    response = _Redirect(url)
    response["Referrer-Policy"] = "no-referrer"
    return response


@never_cache
@localized
@in_popup
@require_safe
def result(request: HttpRequest) -> HttpResponse:
    """How it ended, for flows without a page of the integrator to return to. Says only what the URL's known words say."""
    project = Project.objects.filter(pk=request.GET.get("project", "")[:40].replace("\x00", "")).first()
    if request.GET.get("status") == "connected":
        toolkit = catalog(project).get(request.GET.get("toolkit", ""))
        context = {"project": project, "toolkit": toolkit, "connected": True}
        return render(request, "connect/result.html", context)
    reason = reason_of(request.GET.get("message", ""))
    return render(request, "connect/result.html", {"project": project, "reason": reason}, status=400)


@never_cache
@localized
@in_popup
@require_http_methods(["GET", "HEAD", "POST"])  # checkers of links ask by HEAD
def start(request: HttpRequest, token: str) -> HttpResponse:
    """The page of a connect link. Looking at it changes nothing; its button begins."""
    response = _page_of_link(request, token)
    response._has_been_logged = True  # type: ignore[attr-defined] # Django's log of a 4xx would hold the link
    return response


def _page_of_link(request: HttpRequest, token: str) -> HttpResponse:
    try:
        link = read_link(token)
    except BadLink:
        return refuse(request, "bad_link")
    project = Project.objects.select_related("workspace__plan").filter(pk=link.project_id).first()
    toolkit = catalog(project).get(link.toolkit)
    if project is None or toolkit is None:
        return refuse(request, "bad_link")
    context: dict[str, Any] = {"project": project, "toolkit": toolkit}
    try:
        if link.session_id:
            return _form_of_session(request, link, context)
        return _start(request, link, context)
    except FlowError as error:
        return _leave(error.session, status="error", message=error.code)
    except errors.Failure as error:
        fault = fault_of(error, project, toolkit)
        return render(request, "connect/start.html", context | {"fault": fault}, status=error.status)


def refuse(request: HttpRequest, reason: str, project: Project | None = None) -> HttpResponse:
    return render(request, "connect/result.html", {"reason": REASONS[reason], "project": project}, status=400)


def fault_of(error: errors.Failure, project: Project, toolkit: Toolkit) -> str:
    """Why an account cannot be connected, in words for the person who wanted to."""
    names = {"toolkit": toolkit.name, "project": project.name}
    if isinstance(error, (errors.ToolkitNotEnabled, errors.NotConfigured)):
        return _("%(toolkit)s accounts cannot be connected here at the moment. Please tell %(project)s.") % names
    if isinstance(error, errors.QuotaExceeded):
        return _("%(project)s cannot take any further accounts at the moment. Please tell %(project)s.") % names
    if isinstance(error, errors.InvalidInput):  # of an address that somebody changed by hand
        return _("This does not look right.")
    if isinstance(error, errors.Unreachable):
        return _("%(toolkit)s cannot be reached at the moment. Please try again later.") % names
    return error.text


def _start(request: HttpRequest, link: Link, context: dict[str, Any]) -> HttpResponse:
    project, toolkit = context["project"], context["toolkit"]

    def begin(scheme_type: str, binding: str) -> flows.Started:
        # Whoever follows a link for more scopes may still choose a way to connect that has none.
        scopes = link.scopes if scheme_type in flows.SCOPED_SCHEMES else []
        return flows.start_connect(
            project,
            link.user_id,
            toolkit.slug,
            redirect_url=link.redirect_url,
            scheme_type=scheme_type,
            binding=binding,
            scopes=scopes,
        )

    return attempt(request, integrations.enabled_integration(project, toolkit.slug), context, begin)


def attempt(
    request: HttpRequest, integration: Integration, context: dict[str, Any], begin: Begin, usual: str | None = None
) -> HttpResponse:
    """The page on which connecting begins, and its button: ``begin`` makes the flow, ``usual`` is the scheme to prefer.

    ``context`` has the project and the toolkit. Raises `FlowError` and what `flows.start_connect` raises.
    """
    toolkit = context["toolkit"]
    wanted = request.POST.get("scheme") or request.GET.get("scheme") or usual
    scheme = flows.choose_scheme(toolkit, integration, wanted)
    form = None
    if scheme.type in FORM_SCHEMES:
        form = forms.CredentialsForm(toolkit, scheme, request.POST if request.method == "POST" else None)
    context |= {"scheme": scheme, "form": form, "choices": _other_ways(toolkit, integration, scheme)}
    if request.method != "POST":
        return render(request, "connect/start.html", context)
    if form is not None and not form.is_valid():
        return render(request, "connect/start.html", context, status=400)
    cookie = cookie_of(request)
    started = begin(scheme_type=scheme.type, binding=flows.digest(cookie))
    if form is not None:
        started.session.integration.project = context["project"]
        return _finish_form(request, started.session, form, context)
    response = redirect(started.url)
    keep_cookie(response, cookie)
    return response


def cookie_of(request: HttpRequest) -> str:
    """The browser's cookie, or what is to become it."""
    return request.COOKIES.get(COOKIE) or secrets.token_urlsafe(32)


def keep_cookie(response: HttpResponse, cookie: str) -> None:
    response.set_cookie(COOKIE, cookie, max_age=COOKIE_AGE, httponly=True, samesite="Lax", secure=settings.HTTPS)


def _other_ways(toolkit: Toolkit, integration: Integration, chosen: Any) -> list[tuple[str, str]]:
    """(type, what its link says) of the schemes by which the person may connect instead."""
    return [(one.type, _way(toolkit, one)) for one in hosted.ways(toolkit, integration) if one.type != chosen.type]


def _way(toolkit: Toolkit, scheme: Any) -> str:
    if scheme.type == "client_credentials":
        return _("Use a client id and secret")
    if scheme.type in PROVIDER_SCHEMES:
        return _("Sign in at %(toolkit)s") % {"toolkit": toolkit.name}
    if scheme.type == "basic":
        return _("Use %(first)s and %(second)s") % {"first": scheme.username_title, "second": scheme.password_title}
    if not getattr(scheme, "title", ""):
        return _("Use other credentials")
    return _("Use %(credential)s") % {"credential": scheme.title}


def _form_of_session(request: HttpRequest, link: Link, context: dict[str, Any]) -> HttpResponse:
    """The form of a flow that an integrator started (POST connect) at a toolkit without OAuth."""
    rows = ConnectSession.objects.select_related("project__workspace__plan", "integration", "end_user")
    session = rows.filter(pk=link.session_id, used_at=None, expires_at__gt=timezone.now()).first()
    if session is None:
        raise FlowError("invalid_state")
    session.integration.project = session.project
    toolkit = context["toolkit"]
    scheme = flows.choose_scheme(toolkit, session.integration, session.auth_type)
    form = forms.CredentialsForm(toolkit, scheme, request.POST if request.method == "POST" else None)
    context |= {"scheme": scheme, "form": form}
    if request.method != "POST":
        return render(request, "connect/start.html", context)
    if not form.is_valid():
        return render(request, "connect/start.html", context, status=400)
    return _finish_form(request, session, form, context)


def _finish_form(
    request: HttpRequest, session: ConnectSession, form: forms.CredentialsForm, context: dict[str, Any]
) -> HttpResponse:
    user = session.end_user.external_id if session.end_user else ""
    actor = Actor(f"end-user:{user}", client_ip(request))
    try:
        connection = flows.finish_form(
            session, context["toolkit"], context["scheme"], form.credentials(), form.variables(), actor
        )
    except errors.InvalidInput as error:
        form.add_faults(error.details or {})
        return render(request, "connect/start.html", context, status=400)
    return _leave(session, status="connected", toolkit=connection.toolkit, connectionId=connection.pk)


@require_GET
def theme(request: HttpRequest, project_id: str) -> HttpResponse:
    """A project's colour as a stylesheet: the strict policy permits no inline style."""
    project = get_object_or_404(Project, pk=project_id)
    response = HttpResponse(colours.stylesheet(project.colour), content_type="text/css")
    response["Cache-Control"] = "public, max-age=300"
    return response
