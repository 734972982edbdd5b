"""The page on which an end user looks after their own API keys. It works without a script.

It opens by a link that an integrator asks for (``POST /api-keys/links``). Looking at the link changes nothing, since previews
and mail scanners look at links too; its button begins the session.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from apps.lib import errors
from apps.lib.api import client_ip
from apps.lib.language import localized
from apps.toolkits.registry import catalog
from apps.workspaces import personal_keys
from apps.workspaces.callers import Caller
from apps.workspaces.models import ApiKey
from apps.workspaces.personal_keys import BadLink

from .api.personal_keys import COOKIE, COOKIE_AGE
from .models import Integration

View = Callable[..., HttpResponse]
DAYS = {"30": 30, "90": 90, "365": 365, "": 0}


class KeyForm(forms.Form):
    """A new key: its name, what it may use, how long."""

    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=100,
        help_text=gettext_lazy("Where you will use it, like “laptop”."),
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    reach = forms.ChoiceField(
        label=gettext_lazy("It may use"),
        choices=[("all", gettext_lazy("All services")), ("some", gettext_lazy("Only those chosen here:"))],
        initial="all",
        widget=forms.RadioSelect,
    )
    toolkits = forms.MultipleChoiceField(
        label=gettext_lazy("Services"), required=False, widget=forms.CheckboxSelectMultiple
    )
    days = forms.ChoiceField(
        label=gettext_lazy("It ends"),
        required=False,
        choices=[
            ("30", gettext_lazy("After 30 days")),
            ("90", gettext_lazy("After 90 days")),
            ("365", gettext_lazy("After a year")),
            ("", gettext_lazy("Never")),
        ],
        initial="90",
    )

    def __init__(self, choices: list[tuple[str, str]], data: Any = None) -> None:
        super().__init__(data)
        self.fields["toolkits"].choices = choices  # type: ignore[attr-defined] # a MultipleChoiceField
        if not choices:
            del self.fields["reach"], self.fields["toolkits"]

    def clean(self) -> None:
        values = self.cleaned_data
        if values.get("reach") == "some" and not values.get("toolkits") and "toolkits" not in self.errors:
            self.add_error("toolkits", _("Choose at least one service."))

    @property
    def chosen(self) -> list[str]:
        """None for all."""
        return list(self.cleaned_data["toolkits"]) if self.cleaned_data.get("reach") == "some" else []

    @property
    def expires_at(self) -> Any:
        days = DAYS[self.cleaned_data["days"]]
        return timezone.now() + timedelta(days=days) if days else None


def _page(request: HttpRequest, name: str, status: int = 200, **context: Any) -> HttpResponse:
    return render(request, f"people/{name}.html", context, status=status)


def _signed_in(view: View) -> View:
    @functools.wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        person = personal_keys.person_of(request.COOKIES.get(COOKIE, ""), client_ip(request))
        if person is None:
            return _page(request, "left", 401)
        return view(request, person, *args, **kwargs)

    return wrapper


@never_cache
@localized
@require_http_methods(["GET", "HEAD", "POST"])
def enter(request: HttpRequest, token: str) -> HttpResponse:
    """The link. Its button uses it up and begins the session."""
    response = _enter(request, token)
    response._has_been_logged = True  # type: ignore[attr-defined] # Django's log of a 4xx would hold the link
    return response


def _enter(request: HttpRequest, token: str) -> HttpResponse:
    try:
        if request.method != "POST":
            person = personal_keys.read_link(token, client_ip(request))
            return _page(request, "enter", project=person.project, user_id=person.user_id)
        person, cookie = personal_keys.take_link(token, client_ip(request))
    except BadLink:
        return _page(request, "left", 400, is_bad_link=True)
    response = redirect("me_keys")
    response.set_cookie(COOKIE, cookie, max_age=COOKIE_AGE, httponly=True, samesite="Lax", secure=settings.HTTPS)
    return response


@never_cache
@localized
@require_http_methods(["GET", "HEAD", "POST"])
@_signed_in
def keys(request: HttpRequest, person: Caller) -> HttpResponse:
    """GET: the person's keys and the form of a new one. POST: makes it, and shows it this once."""
    choices = _choices(person)
    if request.method != "POST":
        return _list(request, person, KeyForm(choices))
    form = KeyForm(choices, request.POST)
    if not form.is_valid():
        return _list(request, person, form, 400)
    try:
        key, secret = personal_keys.create(person, form.cleaned_data["name"], form.chosen, form.expires_at)
    except errors.Failure as error:
        form.add_error(None, _fault_of(error, person))
        return _list(request, person, form, 400)
    return _page(request, "made", project=person.project, user_id=person.user_id, key=key, secret=secret)


def _fault_of(error: errors.Failure, person: Caller) -> str:
    """Why there is no further key, in words for the person who wanted it."""
    if isinstance(error, errors.PlanLimitReached):
        return _(
            "No further key can be made at the moment. Revoke one that you no longer use, or tell %(project)s."
        ) % {"project": person.project.name}
    return error.text


def _list(request: HttpRequest, person: Caller, form: KeyForm, status: int = 200) -> HttpResponse:
    names = {slug: toolkit.name for slug, toolkit in catalog(person.project).toolkits.items()}
    rows = [_row(key, names) for key in personal_keys.newest(person)]
    return _page(
        request, "keys", status, project=person.project, user_id=person.user_id, form=form,
        living=[row for row in rows if row["is_usable"]], ended=[row for row in rows if not row["is_usable"]],
    )  # fmt: skip


def _row(key: ApiKey, names: dict[str, str]) -> dict[str, Any]:
    return {"key": key, "is_usable": key.is_usable(), "services": [names.get(slug, slug) for slug in key.toolkits]}


def _choices(person: Caller) -> list[tuple[str, str]]:
    """The project's services that the person may use."""
    enabled = Integration.objects.filter(project=person.project).primary().enabled().values_list("toolkit", flat=True)
    known = catalog(person.project)
    found = [known.get(slug) for slug in enabled if person.may_use(slug)]
    return sorted(((one.slug, one.name) for one in found if one is not None), key=lambda pair: pair[1].casefold())


@never_cache
@localized
@require_POST
@_signed_in
def revoke(request: HttpRequest, person: Caller, key_id: str) -> HttpResponse:
    """Ends one key at once."""
    try:
        key = personal_keys.revoke(person, key_id)
    except errors.NotFound:
        return redirect("me_keys")
    messages.success(request, _("The key “%(name)s” is revoked.") % {"name": key.name})
    return redirect("me_keys")


@never_cache
@localized
@require_POST
def leave(request: HttpRequest) -> HttpResponse:
    """Ends the session, for whoever holds a copy of its cookie too."""
    personal_keys.end_session(request.COOKIES.get(COOKIE, ""))
    response = _page(request, "left", is_done=True)
    response.delete_cookie(COOKIE, samesite="Lax")
    return response
