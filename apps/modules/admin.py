"""Modules: the list, the editor, publishing, keys, versions; and groups of people who answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.core.exceptions import PermissionDenied
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.contrib.filters.admin import DropdownFilter
from unfold.widgets import (
    UnfoldAdminFileFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from apps.lib.errors import Failure, InvalidInput
from apps.workspaces.admin_base import (
    OwnFilter,
    ProjectFilter,
    ScopedAdmin,
    display,
    projects_of,
    row_action,
    show_failure,
)
from apps.workspaces.audit import actor_of

from . import admin_editor, groups, services
from .admin_templates import TEMPLATES
from .definition import MAX_BYTES
from .models import Group, Module, ModuleVersion

STATES = {"draft": "Draft", "published": "Published", "changed": "Changed since"}
OVERLAPS = {"0": "at once", "3600": "in an hour", "86400": "in a day", "604800": "in a week"}
SHOWN_VERSIONS = 20


# -- Forms -----------------------------------------------------------------------------------------------------------
class NewModuleForm(forms.Form):
    """A module from an example, or from a file that another project exported."""

    project = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    name = forms.CharField(
        max_length=services.LONGEST_NAME,
        widget=UnfoldAdminTextInputWidget(attrs={"autocapitalize": "off", "spellcheck": "false"}),
        help_text="Its name in the API: a-z, 0-9, _ and -, with / for folders. It stays.",
    )
    template = forms.ChoiceField(
        label="Begin with",
        choices=[(name, template.label) for name, template in TEMPLATES.items()],
        widget=UnfoldAdminSelectWidget,
    )
    file = forms.FileField(
        label="Or import a file",
        required=False,
        max_length=200,
        widget=UnfoldAdminFileFieldWidget,
        help_text="YAML or JSON, as an export or your repository has it.",
    )

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.projects = {project.pk: project for project in projects_of(request, ModuleAdmin.add_roles)}
        self.fields["project"].choices = [(pk, str(project)) for pk, project in self.projects.items()]  # type: ignore[attr-defined]

    def clean_file(self) -> str:
        given = self.cleaned_data["file"]
        if not given:
            return ""
        if given.size > MAX_BYTES:
            raise forms.ValidationError("A definition has at most 1 MB.")
        try:
            return str(given.read().decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise forms.ValidationError("This is no text in UTF-8.") from None

    def source(self) -> str:
        data = self.cleaned_data
        return data["file"] or TEMPLATES[data["template"]].source.replace("NAME", data["name"])

    def refuse(self, failure: Failure) -> None:
        faults = failure.details.get("faults", []) if isinstance(failure.details, dict) else []
        for fault in faults[:20]:
            field = "name" if fault["path"] == "name" else "file" if self.cleaned_data.get("file") else None
            self.add_error(field, f"Line {fault['line']}: {fault['message']}" if "line" in fault else fault["message"])
        if not faults:
            self.add_error(None, f"{failure.text} {failure.advice}")


class AccessFilter(OwnFilter):
    title = "access"
    parameter_name = field = "access"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return Module.Access.choices


class StateFilter(DropdownFilter):  # type: ignore[misc] # unfold has no types
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(STATES.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(state=self.value()) if self.value() in STATES else queryset


def runs_since(moment: Any) -> Any:
    """How many runs each module has had since then; by a subquery that the index of a module's runs answers."""
    own = Module.objects.filter(pk=OuterRef("pk")).order_by().values("pk")
    return Coalesce(Subquery(own.annotate(n=Count("runs", filter=Q(runs__created_at__gte=moment))).values("n")), 0)


# -- Modules ---------------------------------------------------------------------------------------------------------
@admin.register(Module)
class ModuleAdmin(ScopedAdmin):
    intro = "Automations that you write here, publish, and start over the API, by a hook, a link, or by hand."
    list_display = ("shown_name", "title", "project", "state", "version", "access_words", "week", "draft_changed_at")
    list_filter = (ProjectFilter, StateFilter, AccessFilter)
    search_fields = ("name", "title", "=public_id", "=id")
    ordering = ("name", "project")
    row_actions = ("unpublish", "rotate_key", "rotate_hook")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Module]:
        rows = super().get_queryset(request).filter(deleted_at=None).select_related("project__workspace", "published")
        match = request.resolver_match
        if match is not None and match.url_name == f"{self.stem}_changelist":
            rows = services.for_lists(rows)
            rows = rows.annotate(week_count=runs_since(timezone.now() - timedelta(days=7)))
        return rows

    @display(description="Name", ordering="name")
    def shown_name(self, row: Module) -> str:
        return row.name

    @display(description="State", ordering="published", label={
        "Published": "success", "Changed since": "warning", "Draft": "info",
    })  # fmt: skip
    def state(self, row: Module) -> str:
        return STATES[services.state_of(row)]

    @display(description="Version", ordering="published__number")
    def version(self, row: Module) -> str:
        return str(row.published.number) if row.published else "–"

    @display(description="Access", ordering="access")
    def access_words(self, row: Module) -> str:
        return Module.Access(row.access).label

    @display(description="Runs in 7 days", ordering="week_count")
    def week(self, row: Any) -> int:
        return int(row.week_count)

    def own_urls(self) -> list[URLPattern]:
        pages = {
            "assist": self.assist_view, "publish": self.publish_view, "version": self.version_view,
            "export": self.export_view, "hook": self.hook_view,
        }  # fmt: skip
        return [
            path(f"<path:object_id>/{name}/", self.admin_site.admin_view(view), name=f"{self.stem}_{name}")
            for name, view in pages.items()
        ]

    def address(self, name: str, module: Module) -> str:
        return reverse(f"admin:{self.stem}_{name}", args=[quote(module.pk)])

    def remove(self, request: HttpRequest, obj: Module) -> None:
        services.delete(obj, actor_of(request))

    # Making one.
    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        initial = {"project": request.GET.get("project", ""), "name": request.GET.get("name", "")}
        form = NewModuleForm(request.POST or None, request.FILES or None, request=request, initial=initial)
        if request.method == "POST" and form.is_valid():
            made = self._make(request, form)
            if made is not None:
                return redirect(self.change_url(made.pk))
        return self.page(request, "module_new", "New module", form=form, templates=TEMPLATES.values())

    def _make(self, request: HttpRequest, form: NewModuleForm) -> Module | None:
        project, name = form.projects[form.cleaned_data["project"]], form.cleaned_data["name"]
        if Module.objects.living().filter(project=project, name=name).exists():
            form.add_error("name", "The project has a module of this name.")
            return None
        try:
            return services.put_draft(project, name, lines_of(form.source()), actor_of(request))[0]
        except Failure as failure:
            form.refuse(failure)
            return None

    # The editor.
    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        module: Module = self.own_object(request, object_id)
        if request.method == "POST":
            if not self.has_change_permission(request, module):
                raise PermissionDenied
            return self._save(request, module)
        return self._editor(request, module, module.source)

    def _save(self, request: HttpRequest, module: Module) -> HttpResponse:
        source = lines_of(request.POST.get("source", ""))
        overtaken = request.POST.get("seen", "") not in {"", module.draft_changed_at.isoformat()}
        if overtaken and source != module.source:
            messages.warning(request, f"{who(module.draft_changed_by)} changed the draft meanwhile. Below is your text: "
                             "save again to put it in place of theirs.")  # fmt: skip
            return self._editor(request, module, source)
        try:
            services.put_draft(module.project, module.name, source, actor_of(request))
        except InvalidInput as failure:
            faults = failure.details.get("faults", []) if isinstance(failure.details, dict) else []
            return self._editor(request, module, source, faults, refused=True)
        except Failure as failure:
            messages.error(request, f"{failure.text} {failure.advice}")
            return self._editor(request, module, source)
        messages.success(request, "The draft is saved.")
        return redirect(self._after_saving(request.POST.get("next", ""), module))

    def _after_saving(self, wanted: str, module: Module) -> str:
        if wanted == "publish":
            return self.address("publish", module)
        if wanted == "test":
            return f"{reverse('admin:runs_run_test')}?{urlencode({'module': module.pk})}"
        return self.change_url(module.pk)

    def _editor(
        self,
        request: HttpRequest,
        module: Module,
        source: str,
        faults: list[Any] | None = None,
        *,
        refused: bool = False,
    ) -> HttpResponse:
        if faults is None:
            faults = [fault.as_json() for fault in services.examine(module.project, module.name, source)[2]]
        editable = self.has_change_permission(request, module)
        data = admin_editor.data_of(source)
        context = {
            "opts": self.opts,
            "original": module,
            "module": module,
            "source": source,
            "seen": module.draft_changed_at.isoformat(),
            "changed_by": who(module.draft_changed_by),
            "faults": faults,
            "refused": refused,
            "lines": gutter(source, faults),
            "line_count": source.count("\n") + 1,
            "editable": editable,
            "deletable": self.has_delete_permission(request, module),
            "rows": [row.as_json() for row in admin_editor.rows_of(data)],
            "types": list(admin_editor.TYPES.items()),
            "access": admin_editor.access_of(data),
            "accesses": Module.Access.choices,
            "urls": {name: self.address(name, module) for name in ("assist", "publish", "export", "hook", "version")},
            **self._panels(request, module),
        }
        return self.page(request, "module", str(module), **context)

    def _panels(self, request: HttpRequest, module: Module) -> dict[str, Any]:
        """What stands beside the editor."""
        runs = reverse("admin:runs_run_changelist")
        return {
            "state": services.state_of(module),
            "state_label": STATES[services.state_of(module)],
            "published_by": who(module.published.created_by) if module.published else "",
            "browser_url": services.browser_url(module),
            "sessions_url": f"{settings.JACKFIELD_URL}/api/execution/{module.public_id}/sessions",
            "keys": list(module.keys.usable().order_by("-created_at")[:5]),
            "hook_url": services.hook_url(module),
            "hook_verify": _hook_verify(module),
            "overlaps": OVERLAPS.items(),
            "versions": [
                (version, who(version.created_by))
                for version in services.versions(module)
                .defer("definition", "source")
                .order_by("-number")[:SHOWN_VERSIONS]
            ],
            "runs_url": f"{runs}?{urlencode({'module': module.pk})}",
            "test_url": f"{reverse('admin:runs_run_test')}?{urlencode({'module': module.pk})}",
        }

    def assist_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Looks at a text that is being written, after writing a row or a choice into it; stores nothing.

        JSON for the editor's script; the editor itself for a browser without script.
        """
        module: Module = self.own_object(request, object_id)
        if not self.has_change_permission(request, module):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        source, refusal = lines_of(request.POST.get("source", "")), ""
        try:
            source = assisted(source, request)
        except admin_editor.NotEditable as error:
            refusal = str(error)
        if request.headers.get("Accept") != "application/json":
            if refusal:
                messages.error(request, refusal)
            return self._editor(request, module, source)
        found = services.examine(module.project, module.name, source)[2]
        data = admin_editor.data_of(source)
        answer = {
            "source": source,
            "refusal": refusal,
            "faults": [fault.as_json() for fault in found],
            "rows": [row.as_json() for row in admin_editor.rows_of(data)] if data else None,
            "access": admin_editor.access_of(data) if data else None,
        }
        return JsonResponse(answer)

    # Publishing.
    def publish_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """GET shows what would change; POST publishes."""
        module: Module = self.own_object(request, object_id)
        if not self.has_change_permission(request, module):
            raise PermissionDenied
        if request.method == "POST":
            try:
                done = services.publish(module, actor_of(request), request.POST.get("note", ""))
            except Failure as failure:
                messages.error(request, told(failure))
            else:
                messages.success(request, f"Version {done.version.number} is published.")
                return (
                    self._key_once(request, done.module, done.key) if done.key else redirect(self.change_url(module.pk))
                )
        _, definition, faults = services.examine(module.project, module.name, module.source)
        context = {
            "opts": self.opts,
            "original": module,
            "module": module,
            "faults": [fault.as_json() for fault in faults],
            "definition": definition,
            "access_label": Module.Access(definition.access).label if definition else "",
            "makes_key": bool(definition and definition.access == "api_key" and not module.keys.usable().exists()),
            "state": services.state_of(module),
            "diff": marked(services.draft_diff(module)),
            "editor_url": self.change_url(module.pk),
        }
        return self.page(request, "module_publish", f"Publish {module}", **context)

    def _key_once(self, request: HttpRequest, module: Module, key: str) -> HttpResponse:
        context = {
            "module": module,
            "secret": key,
            "shown": "key",
            "sessions_url": f"{settings.JACKFIELD_URL}/api/execution/{module.public_id}/sessions",
            "change_url": self.change_url(module.pk),
        }
        return self.page_once(request, "module_once", f"Key of {module}", **context)

    def version_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """GET shows a version; POST publishes it again."""
        module: Module = self.own_object(request, object_id)
        number = request.GET.get("number", "")
        rows = services.versions(module)
        found = rows.filter(number=int(number)).first() if number.isdecimal() and len(number) < 10 else None
        if request.method == "POST":
            return self._roll_back(request, module, found)
        version = found or rows.order_by("-number").first()
        if version is not None:
            version.module = module
        context = {
            "opts": self.opts,
            "original": module,
            "module": module,
            "version": version,
            "made_by": who(version.created_by) if version else "",
            "diff": marked(services.diff(version)) if version else [],
            "editable": self.has_change_permission(request, module),
            "is_published": version is not None and version.pk == module.published_id,
            "numbers": rows.order_by("-number").values_list("number", flat=True)[:200],
            "editor_url": self.change_url(module.pk),
            "export_url": self.address("export", module),
        }
        return self.page(request, "module_version", f"Versions of {module}", **context)

    def _roll_back(self, request: HttpRequest, module: Module, version: ModuleVersion | None) -> HttpResponseBase:
        if not self.has_change_permission(request, module):
            raise PermissionDenied
        try:
            number = version.number if version else None
            services.roll_back(module, number or 0, actor_of(request))
            messages.success(request, f"Version {number} is published again. The draft stays as it is.")
        except Failure as failure:
            messages.error(request, told(failure))
        return redirect(self.change_url(module.pk))

    def export_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The draft, or the version of this number, as a file."""
        module: Module = self.own_object(request, object_id)
        if request.method not in {"GET", "HEAD"}:
            raise PermissionDenied
        number, source = request.GET.get("number", ""), module.source
        if number.isdecimal():
            try:
                source = services.find_version(module, int(number[:10])).source
            except Failure as failure:
                messages.error(request, told(failure))
                return redirect(self.change_url(module.pk))
        kind = "json" if source.lstrip().startswith("{") else "yaml"
        response = HttpResponse(source, content_type=f"application/{kind}; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="{module.name.replace("/", ".")}.{kind}"'
        return response

    @row_action(
        "Unpublish",
        icon="unpublished",
        confirm="Unpublish this module? Nothing new starts; runs that have begun go on.",
    )
    def unpublish(self, request: HttpRequest, obj: Module) -> None:
        services.unpublish(obj, actor_of(request))
        messages.success(request, "The module is no longer published.")

    # Keys and hooks.
    @row_action("New key", icon="key", confirm="Make a new key? The one of now ends as chosen.")
    def rotate_key(self, request: HttpRequest, obj: Module) -> HttpResponse:
        overlap = request.POST.get("overlap", "0")
        key = services.rotate_key(obj, actor_of(request), overlap_seconds=int(overlap) if overlap in OVERLAPS else 0)
        return self._key_once(request, obj, key)

    @row_action("New address", icon="autorenew", confirm="Give the hook another address? The one of now ends at once.")
    def rotate_hook(self, request: HttpRequest, obj: Module) -> None:
        services.rotate_hook(obj, actor_of(request))
        messages.success(request, "The hook has another address: give it to those who send.")

    def hook_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """POST sets what the hook's senders sign with; one that is made here is shown once."""
        module: Module = self.own_object(request, object_id)
        if not self.has_change_permission(request, module):
            raise PermissionDenied
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        given = request.POST.get("secret", "")
        try:
            secret = services.set_hook_secret(module, given or None, actor_of(request))
        except Failure as failure:
            messages.error(request, told(failure))
            return redirect(self.change_url(module.pk))
        messages.success(request, "The hook's secret is set.")
        if given:
            return redirect(self.change_url(module.pk))
        context = {"module": module, "secret": secret, "shown": "hook", "change_url": self.change_url(module.pk)}
        return self.page_once(request, "module_once", f"Hook secret of {module}", **context)


def _hook_verify(module: Module) -> str:
    """How the hook's senders are known, as the draft says: secret, github, stripe, slack; empty for not at all."""
    hook = module.draft.get("hook") if isinstance(module.draft, dict) else None
    verify = hook.get("verify") if isinstance(hook, dict) else None
    return str(verify.get("kind", "")) if isinstance(verify, dict) else ""


def assisted(source: str, request: HttpRequest) -> str:
    """The text with the rows or the access of a posted form written into it. Raises `NotEditable`."""
    wanted = request.POST.get("apply", "")
    if wanted == "parameters":
        return admin_editor.with_parameters(source, admin_editor.rows_from(request.POST))
    if wanted == "access" and request.POST.get("access") in Module.Access.values:
        return admin_editor.with_access(source, request.POST["access"])
    return source


def lines_of(text: str) -> str:
    """A text as a form sends it (RFC 7578: CRLF), with the line ends of a file."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def gutter(source: str, faults: list[Any]) -> list[tuple[int, str]]:
    """Each line's number, with what is wrong on it."""
    said: dict[int, list[str]] = {}
    for fault in faults:
        if fault.get("line"):
            said.setdefault(fault["line"], []).append(fault["message"])
    return [(number, " ".join(said.get(number, []))) for number in range(1, source.count("\n") + 2)]


def marked(diff: str) -> list[tuple[str, str]]:
    """The lines of a unified diff with what each is: add, del, at, or nothing."""
    kinds = {"+": "add", "-": "del", "@": "at"}
    return [
        ("head" if line.startswith(("+++", "---")) else kinds.get(line[:1], ""), line) for line in diff.splitlines()
    ]  # fmt: skip


def who(actor: str) -> str:
    """A name of the audit log as people read it: ``user:ada@example.com``, ``key:<id> <name>``."""
    kind, _, rest = actor.partition(":")
    if kind == "key":
        return f"the key {rest.partition(' ')[2] or rest}"
    return rest if kind == "user" else actor or "somebody"


def told(failure: Failure) -> str:
    faults = failure.details.get("faults") if isinstance(failure.details, dict) else None
    return f"{failure.text} {failure.advice if not faults else 'The editor shows where.'}"


# -- Groups ----------------------------------------------------------------------------------------------------------
class GroupForm(forms.Form):
    """A group; ``project`` is asked for a new one only."""

    project = forms.ChoiceField(widget=UnfoldAdminSelectWidget)
    name = forms.CharField(
        max_length=60,
        widget=UnfoldAdminTextInputWidget,
        help_text="A form or an approval names it among its assignees: group:buyers.",
    )
    members = forms.CharField(
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 8, "spellcheck": "false"}),
        help_text="E-mail addresses, one a line. Each of them gets the link and may answer.",
    )

    def __init__(self, *args: Any, projects: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if projects is None:
            del self.fields["project"]
            return
        self.projects = {project.pk: project for project in projects}
        self.fields["project"].choices = [(pk, str(project)) for pk, project in self.projects.items()]  # type: ignore[attr-defined]

    @property
    def given(self) -> tuple[str, list[str]]:
        return self.cleaned_data["name"], self.cleaned_data["members"].replace(",", "\n").splitlines()


@admin.register(Group)
class GroupAdmin(ScopedAdmin):
    intro = "People who may answer for one another: a form or an approval names the group, and one of them answers."
    list_display = ("name", "project", "member_count", "created_at")
    list_filter = (ProjectFilter,)
    search_fields = ("name",)
    ordering = ("name", "project")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        return super().get_queryset(request).select_related("project__workspace")

    @display(description="Members")
    def member_count(self, row: Group) -> int:
        return len(row.members)

    def remove(self, request: HttpRequest, obj: Group) -> None:
        groups.delete(obj, actor_of(request))

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = GroupForm(request.POST or None, projects=projects_of(request, self.add_roles))
        if request.method == "POST" and form.is_valid():
            try:
                groups.create(form.projects[form.cleaned_data["project"]], *form.given, actor_of(request))
            except Failure as failure:
                show_failure(form, failure)
            else:
                messages.success(request, "The group is made.")
                return redirect(self.changelist_url())
        return self.page(request, "form", "Make a group", form=form, submit="Make the group", intro=self.intro)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        group: Group = self.own_object(request, object_id)
        editable = self.has_change_permission(request, group)
        if request.method == "POST" and not editable:
            raise PermissionDenied
        form = GroupForm(request.POST or None, initial={"name": group.name, "members": "\n".join(group.members)})
        if request.method == "POST" and form.is_valid():
            try:
                groups.change(group, *form.given, actor_of(request))
            except Failure as failure:
                show_failure(form, failure)
            else:
                messages.success(request, "The group is saved.")
                return redirect(self.changelist_url())
        for field in form.fields.values() if not editable else ():
            field.disabled = True
        deletable = self.has_delete_permission(request, group)
        context = {"opts": self.opts, "group": group, "form": form, "editable": editable, "deletable": deletable}
        return self.page(request, "group", f"Group {group.name}", **context)
