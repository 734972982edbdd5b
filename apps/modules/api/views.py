"""The management of modules over the API: thin over `apps.modules.services`."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe
from rest_framework import serializers

from apps.lib.api import StrictText, json_answer, no_content, page, read_body
from apps.lib.errors import InvalidInput
from apps.toolkits.registry import catalog
from apps.workspaces.api.base import ProjectView

from .. import documents, services
from ..definition import Definition
from ..models import Module, ModuleVersion
from . import schema

MAX_BODY = 2 * 1024 * 1024
YAML = "application/yaml"
YAML_TYPES = frozenset({YAML, "application/x-yaml", "text/yaml", "text/x-yaml"})


class KnownOnly(serializers.Serializer[Any]):
    """A body in which what is not known is a fault."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(self.initial_data) - set(self.fields))
        if unknown:
            raise serializers.ValidationError({name: ["Unknown field."] for name in unknown})
        return attrs


class StrictInteger(serializers.IntegerField):
    """A number that must come as a JSON number."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("invalid")
        return int(super().to_internal_value(data))


class PublishBody(KnownOnly):
    note = StrictText(required=False, allow_blank=True, default="", max_length=services.LONGEST_NOTE)


class RollbackBody(KnownOnly):
    version = StrictInteger(min_value=1, max_value=2**31 - 1)


class RotateBody(KnownOnly):
    of = serializers.ChoiceField(["key", "hook", "hook_secret"], required=False, default="key")
    overlapSeconds = StrictInteger(required=False, min_value=0, max_value=services.LONGEST_OVERLAP)
    secret = StrictText(required=False, max_length=services.LONGEST_SECRET, trim_whitespace=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        for name, of in (("overlapSeconds", "key"), ("secret", "hook_secret")):
            if name in attrs and attrs["of"] != of:
                raise serializers.ValidationError({name: [f"Goes with of: {of} alone."]})
        return super().validate(attrs)


def version_row(version: ModuleVersion, module: Module) -> dict[str, Any]:
    return {
        "id": version.pk,
        "version": version.number,
        "note": version.note,
        "created_by": version.created_by,
        "created_at": version.created_at.isoformat(),
        "published": version.pk == module.published_id,
    }


class OfModule(ProjectView):
    """A route below ``modules/{name}``."""

    max_body = MAX_BODY

    def module(self) -> Module:
        return services.find(self.project, self.kwargs["name"])

    def source(self) -> str:
        """The body: YAML, or JSON where the Content-Type says so. Raises `InvalidInput` with faults."""
        request = self.request._request
        must_be_json = (request.content_type or "").lower() == "application/json"
        return documents.text_of(read_body(request, self.max_body), must_be_json=must_be_json)

    def require_toolkits(self, data: Any) -> None:
        """Raises `NotPermitted` where a key that may use some toolkits alone would call another's tools by a module."""
        if not self.caller.toolkits:
            return
        known = catalog(self.project)
        for step in Definition.model_validate(data).by_id.values():
            found = known.find_tool(step.tool) if step.tool else None
            if found is not None:
                self.caller.require_toolkit(found[0].slug)

    def whole(self, module: Module) -> dict[str, Any]:
        """A module with all that is written of it; its hook's address, which starts it, for those who may change it."""
        hook = services.hook_url(module) if self.caller.may("admin") else None
        return services.as_row(module) | {
            "definition": module.draft,
            "source": module.source,
            "diff": services.draft_diff(module),
            "hook_url": hook,
            "hook_secret_set": bool(module.hook_secret),
            "keys": [
                {
                    "prefix": key.prefix,
                    "created_at": key.created_at.isoformat(),
                    "expires_at": key.expires_at.isoformat() if key.expires_at else None,
                }
                for key in module.keys.usable().order_by("created_at")
            ],
        }


@schema.modules
class ModulesView(ProjectView):
    """GET modules: newest first."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str) -> HttpResponse:
        found, cursor = page(services.listed(self.project), request._request)
        return json_answer({"modules": [services.as_row(row) for row in found], "nextCursor": cursor})


@schema.module
class ModuleView(OfModule):
    """PUT, GET and DELETE modules/{name}."""

    scopes = {"GET": ("admin",), "PUT": ("admin",), "DELETE": ("delete",)}

    def get(self, request: Any, app_id: str, name: str) -> HttpResponse:
        module = self.module()
        if wants_yaml(request._request):
            text = documents.as_yaml(module.source)
            return HttpResponse(text, content_type=f"{YAML}; charset=utf-8")
        return json_answer(self.whole(module))

    def put(self, request: Any, app_id: str, name: str) -> HttpResponse:
        source = self.source()
        if self.caller.toolkits:
            _, definition, _ = services.examine(self.project, name, source)
            if definition is not None:
                self.require_toolkits(definition)
        module, made = services.put_draft(self.project, name, source, self.caller.actor)
        return json_answer(self.whole(module), 201 if made else 200)

    def delete(self, request: Any, app_id: str, name: str) -> HttpResponse:
        services.delete(self.module(), self.caller.actor)
        return no_content()


def wants_yaml(request: HttpRequest) -> bool:
    """By ``?format=yaml``, or by an Accept header that names YAML. Raises `InvalidInput` for another format."""
    asked = request.GET.get("format")
    if asked is not None and asked not in {"yaml", "json"}:
        raise InvalidInput({"format": ["Must be yaml or json."]})
    accepted = {part.partition(";")[0].strip().lower() for part in request.headers.get("Accept", "").split(",")}
    return asked == "yaml" or (asked is None and bool(accepted & YAML_TYPES))


@schema.check
class CheckView(OfModule):
    """POST modules/{name}/check: the faults of a definition; stores nothing."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, app_id: str, name: str) -> HttpResponse:
        try:
            faults = services.examine(self.project, name, self.source())[2]
        except InvalidInput as failure:
            if not isinstance(failure.details, dict) or "faults" not in failure.details:
                raise
            return json_answer(failure.details)
        return json_answer({"faults": [fault.as_json() for fault in faults]})


def published_answer(module: Module, version: ModuleVersion) -> dict[str, Any]:
    return {
        "id": module.public_id,
        "name": module.name,
        "version": version.number,
        "published_at": version.created_at.isoformat(),
        "access": module.access,
    }


@schema.publish
class PublishView(OfModule):
    """POST modules/{name}/publish."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, app_id: str, name: str) -> HttpResponse:
        note = self.body(PublishBody)["note"]
        module = self.module()
        self.require_toolkits(module.draft)
        made = services.publish(module, self.caller.actor, note)
        key = {"api_key": made.key} if made.key else {}
        return json_answer(published_answer(made.module, made.version) | key)


@schema.unpublish
class UnpublishView(OfModule):
    """POST modules/{name}/unpublish."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, app_id: str, name: str) -> HttpResponse:
        services.unpublish(self.module(), self.caller.actor)
        return json_answer(services.as_row(self.module()))


@schema.rollback
class RollbackView(OfModule):
    """POST modules/{name}/rollback."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, app_id: str, name: str) -> HttpResponse:
        number = self.body(RollbackBody)["version"]
        module = self.module()
        self.require_toolkits(services.find_version(module, number).definition)
        version = services.roll_back(module, number, self.caller.actor)
        return json_answer(published_answer(self.module(), version))


@schema.rotate_key
class RotateKeyView(OfModule):
    """POST modules/{name}/rotate-key: of the module's own key, its hook's address, or what its hook's senders sign with."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, app_id: str, name: str) -> HttpResponse:
        body, module, actor = self.body(RotateBody), self.module(), self.caller.actor
        if body["of"] == "hook":
            return json_answer({"hook_url": services.rotate_hook(module, actor)})
        if body["of"] == "hook_secret":
            return json_answer({"hook_secret": services.set_hook_secret(module, body.get("secret"), actor)})
        key = services.rotate_key(module, actor, overlap_seconds=body.get("overlapSeconds", 0))
        return json_answer({"api_key": key})


@schema.versions
class VersionsView(OfModule):
    """GET modules/{name}/versions: newest first."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str, name: str) -> HttpResponse:
        module = self.module()
        found, cursor = page(services.versions(module).defer("definition", "source"), request._request)
        return json_answer({"versions": [version_row(row, module) for row in found], "nextCursor": cursor})


@schema.version
class VersionView(OfModule):
    """GET modules/{name}/versions/{n}."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, app_id: str, name: str, n: int) -> HttpResponse:
        module = self.module()
        version = services.find_version(module, n)
        if wants_yaml(request._request):
            text = documents.as_yaml(version.source)
            return HttpResponse(text, content_type=f"{YAML}; charset=utf-8")
        row = version_row(version, module)
        return json_answer(
            row | {"definition": version.definition, "source": version.source, "diff": services.diff(version)}
        )


@require_safe
def definition_schema(request: HttpRequest) -> HttpResponse:
    """The JSON Schema of definitions: the same for everybody."""
    return JsonResponse(documents.json_schema(settings.JACKFIELD_URL))
