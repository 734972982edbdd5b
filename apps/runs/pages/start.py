"""The page that starts a published module: by its public link, or for members who are signed in."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from apps.lib.errors import Failure, InvalidInput
from apps.lib.language import localized
from apps.modules.definition import Definition
from apps.modules.models import Module
from apps.workspaces.audit import actor_of

from .. import starting
from ..definitions import definition_of
from ..models import Run
from .common import gone, is_member, is_too_often, quiet, to, to_login, with_files
from .forms import AnswersForm, inline

MAX_FILE = 700 * 1024  # bytes: a start parameter's file stands in the run's row as base64
MOST = 30  # starts a minute from one address


@never_cache
@localized
@require_http_methods(["GET", "HEAD", "POST"])
@with_files
def start(request: HttpRequest, public_id: str) -> HttpResponse:
    """The start parameters as a form; sending it starts a run and leads to its session's page."""
    module = _find(public_id)
    if module is None or module.access not in {Module.Access.PUBLIC, Module.Access.SIGNED_IN}:
        return gone(request)
    if module.access == Module.Access.SIGNED_IN:
        if not request.user.is_authenticated:
            return to_login(request)
        if not is_member(request, module.project):
            return gone(request)
    assert module.published_id is not None
    return _form(request, module, definition_of(module.published_id))


def _find(public_id: str) -> Module | None:
    if not public_id.isascii() or "\x00" in public_id:
        return None
    rows = Module.objects.published().select_related("project__workspace__plan")
    return rows.filter(public_id=public_id).first()


def _form(request: HttpRequest, module: Module, definition: Definition) -> HttpResponse:
    asked = definition.start_parameters
    if request.method != "POST":
        return _show(request, module, definition, AnswersForm(asked, max_file=MAX_FILE))
    if is_too_often(request, f"start:{module.pk}", MOST):
        return quiet(render(request, "429.html", status=429))
    form = AnswersForm(asked, request.POST, request.FILES, max_file=MAX_FILE)
    if not form.is_valid():
        return _show(request, module, definition, form, 400)
    given = form.given(empty=False) | {name: inline(file) for name, file in form.uploads().items()}
    try:
        run = starting.start(module, given, actor_of(request), Run.Surface.FORM)
    except InvalidInput as error:
        form.add_faults(error.details)
        return _show(request, module, definition, form, 400)
    except Failure as error:
        form.add_error(None, _("This cannot be started at the moment. Please try again later."))
        return _show(request, module, definition, form, error.status)
    return to(f"/s/{module.public_id}/sessions/{run.session_id}")


def _show(
    request: HttpRequest, module: Module, definition: Definition, form: AnswersForm, status: int = 200
) -> HttpResponse:
    context = {"project": module.project, "definition": definition, "form": form, "files": _has_files(definition)}
    return quiet(render(request, "sessions/start.html", context, status=status))


def _has_files(definition: Definition) -> bool:
    return any(parameter.type == "file" for parameter in definition.start_parameters)
