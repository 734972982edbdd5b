"""What the pages share: who looks, what is refused, files that people send, and one question with its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.csrf import csrf_exempt, csrf_protect

from apps.lib.api import client_ip
from apps.lib.errors import Conflict, InvalidInput, NotPermitted
from apps.workspaces.callers import role_in
from apps.workspaces.models import Project

from .. import human
from ..assignees import Person, is_assigned, people_of, quorum_of, refusal, voter_of
from ..models import HumanTask
from .forms import TOO_MUCH, AnswersForm

MAX_REQUEST = 64 * 1024 * 1024  # bytes of one form with all its files
REFUSALS = {
    "not_assigned": gettext_lazy("This question is for somebody else."),
    "unknown": gettext_lazy("This question is answered only by somebody who is known here."),
    "starter": gettext_lazy("You started this, so somebody else has to approve it."),
}


# -- Who looks ---------------------------------------------------------------------------------------------------------
def person_of(request: HttpRequest) -> Person:
    """The person signed in, or somebody of whom only the link is known."""
    user = request.user
    return Person(user.email, email=user.email) if user.is_authenticated else Person("")


def is_member(request: HttpRequest, project: Project) -> bool:
    user = request.user
    return user.is_authenticated and user.is_active and role_in(user, project.workspace_id) is not None


def to_login(request: HttpRequest) -> HttpResponse:
    return redirect_to_login(request.get_full_path())


def gone(request: HttpRequest, project: Project | None = None, status: int = 404) -> HttpResponse:
    """One page for whatever is not there, or not for whoever asks: it tells nothing of which it is."""
    return quiet(render(request, "sessions/gone.html", {"project": project}, status=status))


def quiet(response: HttpResponse) -> HttpResponse:
    """Django's log of a 4xx would hold the address, and the address is the permission."""
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def to(address: str) -> HttpResponse:
    """Where a browser goes after a POST (RFC 9110 section 15.4.4): reloading repeats nothing."""
    response = HttpResponseRedirect(address)
    response.status_code = 303
    return response


def with_files(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """For pages whose forms may hold files: what is too large is refused before anything of it is read."""
    protected = csrf_protect(view)

    @csrf_exempt  # the check reads the whole body: it comes after the look at its size
    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        length = request.META.get("CONTENT_LENGTH") or "0"
        if not length.isdigit() or int(length) > MAX_REQUEST:
            return quiet(render(request, "sessions/too_large.html", status=413))
        return protected(request, *args, **kwargs)

    return wrapper


def is_too_often(request: HttpRequest, what: str, most: int) -> bool:
    """Whether this address has done that more than so many times within a minute."""
    key = f"pages:{what}:{client_ip(request)}:{timezone.now():%H%M}"
    cache.add(key, 0, 90)
    try:
        return int(cache.incr(key)) > most
    except ValueError:  # forgotten in between
        return False


# -- One question ------------------------------------------------------------------------------------------------------
@dataclass
class Shown:
    """One question as a template needs it: open and for this person, or why not, or how it ended."""

    task: HumanTask
    person: Person
    form: AnswersForm | None = None
    fault: str = ""
    reason: str = ""
    saved: bool = False
    status: int = 200
    named: list[str] = field(default_factory=list)  # the assignees, for those who may know

    @property
    def is_open(self) -> bool:
        return self.task.status == HumanTask.Status.OPEN and not self.is_late

    @property
    def is_late(self) -> bool:
        return self.task.deadline is not None and self.task.deadline <= timezone.now()

    @property
    def is_form(self) -> bool:
        return self.task.kind == HumanTask.Kind.FORM

    @property
    def refusal(self) -> str:
        why = refusal(self.task, self.person)
        return str(REFUSALS[why]) if why else ""

    @property
    def title(self) -> str:
        """What is asked; of what is for somebody else only that."""
        told = self.named or is_assigned(self.task, self.person)
        return self.task.title if told else str(REFUSALS["not_assigned"])

    @property
    def sections(self) -> list[dict[str, Any]]:
        """A form's pages with their inputs."""
        form = self.form or AnswersForm(human.fields_of(self.task), draft=self.task.draft)
        return [page | {"fields": [form[field.name] for field in page["fields"]]} for page in human.pages_of(self.task)]

    @property
    def faults(self) -> list[str]:
        return [str(fault) for fault in self.form.non_field_errors()] if self.form else []

    @property
    def my_vote(self) -> bool | None:
        """What this person has said to an approval; None: nothing yet, or nobody knows who this is."""
        if self.is_form or not self.person.is_known:
            return None
        voter = voter_of(self.task, self.person)
        return self.task.votes.filter(voter=voter).values_list("approved", flat=True).first()

    @property
    def quorum(self) -> int:
        return 1 if self.is_form else quorum_of(self.task)

    @property
    def approvals(self) -> int:
        return self.task.votes.filter(approved=True).count()

    @property
    def rows(self) -> list[tuple[str, str]]:
        """What was answered: (question, answer)."""
        if not self.is_form or not isinstance(self.task.outcome, dict):
            return []
        outcome = self.task.outcome
        return [(one.label, _shown(outcome.get(one.name))) for one in human.fields_of(self.task)]


def _shown(value: Any) -> str:
    if value is None or value == "" or value == []:
        return "–"
    if isinstance(value, bool):
        return _("Yes") if value else _("No")
    if isinstance(value, list):
        return ", ".join(_shown(one) for one in value)
    if isinstance(value, dict):
        return str(value.get("filename", ""))
    return str(value)


def knows(request: HttpRequest, task: HumanTask) -> list[str]:
    """The assignees by name, where the person signed in is a member of the workspace; else none."""
    return sorted(people_of(task)) if task.assignees and is_member(request, task.project) else []


def take(request: HttpRequest, task: HumanTask, person: Person) -> Shown | None:
    """What a POST says to a question. None: it was done; else what the page is to show instead."""
    action = request.POST.get("action", "")
    shown = Shown(task, person)
    try:
        if task.kind == HumanTask.Kind.FORM:
            return _take_answers(request, shown, save=action == "save")
        shown.reason = request.POST.get("reason", "")[: human.MAX_REASON + 1]
        if action not in {"approve", "reject"}:
            raise InvalidInput({"action": [_("Choose one of the two.")]})
        human.decide(task, action == "approve", shown.reason, person)
        return None
    except InvalidInput as error:
        shown.status, shown.fault = 400, _fault_of(error)
        if shown.form is not None:
            shown.form.add_faults(error.details)
    except (Conflict, NotPermitted) as error:
        shown.status = error.status
    shown.task = HumanTask.objects.select_related("project", "run").get(pk=task.pk)
    return shown


def _take_answers(request: HttpRequest, shown: Shown, *, save: bool) -> Shown | None:
    form = AnswersForm(human.fields_of(shown.task), request.POST, request.FILES, draft=shown.task.draft)
    shown.form = form
    if save:
        human.save_draft(shown.task, form.given(), shown.person, files=_of_fitting_size(form))
        return None
    why = refusal(shown.task, shown.person)
    if not why and shown.is_open and not form.is_valid():
        shown.status = 400
        return shown
    human.answer(shown.task, form.given(), shown.person, files=form.uploads())
    return None


def _of_fitting_size(form: AnswersForm) -> dict[str, human.Upload]:
    """A draft keeps what fits; what is too large is told when the answers are sent."""
    form.is_valid()
    return {name: file for name, file in form.uploads().items() if name not in form.errors}


def _fault_of(error: InvalidInput) -> str:
    """Of an approval: the reason that is missing; else what is wrong with it."""
    details = error.details if isinstance(error.details, dict) else {}
    if "reason" in details:
        return _("Please say why you reject it.") if "needs" in str(details) else str(TOO_MUCH)
    return " ".join(str(text) for texts in details.values() for text in texts)
