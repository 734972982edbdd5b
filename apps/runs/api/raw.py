"""The Raw execute API: integrations with credentials of their own, and any endpoint of their services."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jwt
from django.http import HttpRequest, HttpResponse
from rest_framework import serializers

from apps.connections import raw as integrations
from apps.connections.models import Integration
from apps.lib import errors
from apps.lib.api import ApiView, StrictText, checked, json_answer, offset_page, page
from apps.lib.envelopes import RAW
from apps.lib.errors import Failure, InvalidInput
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Toolkit
from apps.workspaces import tokens
from apps.workspaces.api.base import ProjectView
from apps.workspaces.callers import Caller, credentials_of, find_key, identify, with_implied
from apps.workspaces.idempotency import answered_by_provider, idempotent
from apps.workspaces.models import JwtIssuer, Project
from apps.workspaces.signals import key_used

from .. import raw
from ..endpoint import LONGEST
from ..services import Outcome
from . import raw_schema as schema
from .serializers import JsonObject

READERS = ("execute", "admin", "connect")
MOST_ISSUERS = 5


# -- Bodies and rows -------------------------------------------------------------------------------------------------
class Name(StrictText):
    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=100, **options)


class CreateBody(serializers.Serializer[Any]):
    name = Name()
    provider = StrictText(max_length=100, help_text="A toolkit's slug, or custom.")
    config = JsonObject(help_text="baseUrl, auth, headers, and whatever you like to keep there.")
    credentials = JsonObject(required=False, allow_null=True, help_text="Make the integration's shared account.")


class TemplateBody(serializers.Serializer[Any]):
    templateId = StrictText(max_length=100, help_text="A toolkit's slug.")
    credentials = JsonObject()
    name = Name(required=False, allow_null=True, help_text="Absent: the toolkit's name.")


class ImportBody(serializers.Serializer[Any]):
    integrationData = JsonObject(help_text="What export gave: the whole answer, or its integration.")


class UpdateBody(serializers.Serializer[Any]):
    name = Name(required=False, allow_null=True)
    config = JsonObject(required=False, allow_null=True, help_text="Replaces the whole.")
    credentials = JsonObject(required=False, allow_null=True, help_text="Replace those of the shared account.")


class Method(StrictText):
    """One of the five, in any case."""

    def to_internal_value(self, data: Any) -> str:
        method = super().to_internal_value(data).upper()
        if method not in raw.METHODS:
            raise serializers.ValidationError(f"Must be one of {', '.join(raw.METHODS)}.")
        return method


class ExecuteBody(serializers.Serializer[Any]):
    endpoint = StrictText(max_length=LONGEST, trim_whitespace=False, help_text="A path, or a tool's slug.")
    method = Method(help_text="GET, POST, PUT, PATCH or DELETE, in any case.")
    params = JsonObject(required=False, allow_null=True, help_text="The query string; a list repeats its name.")
    # ``body`` is any JSON, which has no field: it is taken as it came.


class TestBody(serializers.Serializer[Any]):
    endpoint = StrictText(max_length=LONGEST, trim_whitespace=False, required=False, allow_null=True, allow_blank=True)
    method = Method(required=False, allow_null=True)
    params = JsonObject(required=False, allow_null=True)


def list_row(integration: Integration) -> dict[str, Any]:
    return {
        "_id": integration.pk,
        "name": str(integration),
        "provider": integration.toolkit,
        "status": "active" if integration.enabled else "inactive",
    }


def integration_row(integration: Integration) -> dict[str, Any]:
    return {
        **list_row(integration),
        "project": integration.project_id,
        "config": integrations.config_of(integration),
        "createdAt": integration.created_at.isoformat(),
    }


def template_row(toolkit: Toolkit) -> dict[str, Any]:
    return {
        "_id": toolkit.slug,
        "name": toolkit.name,
        "provider": toolkit.slug,
        "description": toolkit.description,
    }


def told(integration: Integration, status: int = 200) -> HttpResponse:
    return json_answer({"integration": integration_row(integration)}, status)


def answered(outcome: Outcome) -> HttpResponse:
    """The service's answer with its own status; its own bytes where they are JSON, so that no number loses a digit."""
    return answered_by_provider(_answered(outcome), outcome.provider_status)


def _answered(outcome: Outcome) -> HttpResponse:
    success = outcome.is_success
    if outcome.raw_json is None:
        return json_answer({"success": success, "data": {"status": outcome.provider_status, "response": outcome.data}})
    head = f'{{"success":{str(success).lower()},"data":{{"status":{outcome.provider_status},"response":'
    return HttpResponse(head.encode() + outcome.raw_json + b"}}", content_type="application/json")


# -- Views -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Reader:
    """Who reads the catalog, which belongs to no project; ``project`` where the key or token speaks of one."""

    project: Project | None = None
    toolkits: frozenset[str] = field(default_factory=frozenset)


def reader_of(request: HttpRequest) -> Reader:
    """Raises a class of `Unauthenticated`, `NotPermitted`."""
    token, secret = credentials_of(request)
    if not token:
        key = find_key(secret)
        if not with_implied(key.scopes) & set(READERS):
            raise errors.NotPermitted(f"This needs the scope {' or '.join(READERS)}.")
        key_used.send(sender=None, key_id=key.pk)
        return Reader(key.project, frozenset(key.toolkits))
    if tokens.is_member_token(token):
        tokens.verify_member_token(token)
        return Reader()
    failure: Failure = errors.InvalidUserToken()
    for project_id in _projects_named(token):
        try:
            caller = identify(request, project_id)
        except errors.Unauthenticated as error:
            failure = error
            continue
        caller.require(*READERS)
        return Reader(caller.project, caller.toolkits)
    raise failure


def _projects_named(token: str) -> list[str]:
    """Of an end user's JWT, unchecked: the project that it was minted for, or those that know its issuer."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError):
        return []
    kind, _, project_id = str(claims.get("aud", "")).partition(":")
    if kind == "jackfield" and project_id.isascii() and project_id.isprintable():
        return [project_id]
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or not issuer.isprintable():
        return []
    return list(JwtIssuer.objects.filter(issuer=issuer).values_list("project_id", flat=True)[:MOST_ISSUERS])


@schema.templates
class TemplatesView(ApiView):
    """GET templates: the catalog."""

    envelope = RAW

    def get(self, request: Any) -> HttpResponse:
        reader = reader_of(request._request)
        known = catalog(reader.project)
        text = request.GET.get("search", "").strip()
        found = known.search(text) if text else [known.toolkits[slug] for slug in sorted(known.toolkits)]
        if reader.toolkits:
            found = [toolkit for toolkit in found if toolkit.slug in reader.toolkits]
        rows, cursor = offset_page(found, request._request)
        return json_answer({"templates": [template_row(toolkit) for toolkit in rows], "nextCursor": cursor})


class RawView(ProjectView):
    """A route of a project, below ``/api/integrations/projects/{projectId}``."""

    envelope = RAW

    def find_caller(self, request: HttpRequest) -> Caller:
        return identify(request, self.kwargs["project_id"])

    def make(self, body: dict[str, Any]) -> HttpResponse:
        """201 with the integration that a checked `CreateBody` asks for."""
        self.caller.require_toolkit(body["provider"])
        wanted = integrations.Wanted(**body)
        return told(integrations.create(self.project, wanted, self.caller.actor), 201)


@schema.integrations
class IntegrationsView(RawView):
    """GET and POST integrations."""

    scopes = {"GET": READERS, "POST": ("admin",)}

    def get(self, request: Any, project_id: str) -> HttpResponse:
        rows = integrations.visible(self.caller).enabled()
        found, cursor = page(rows, request._request, newest_first=False)
        return json_answer({"integrations": [list_row(row) for row in found], "nextCursor": cursor})

    def post(self, request: Any, project_id: str) -> HttpResponse:
        return self.make(self.body(CreateBody))


@schema.from_template
class FromTemplateView(RawView):
    """POST integrations/from-template."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, project_id: str) -> HttpResponse:
        body = self.body(TemplateBody)
        toolkit = catalog(self.project).get(body["templateId"])
        if toolkit is None:
            raise InvalidInput({"templateId": ["Must be the _id of a template."]})
        return self.make(
            {
                "name": body.get("name") or toolkit.name,
                "provider": toolkit.slug,
                "config": {},
                "credentials": body["credentials"],
            }
        )


@schema.import_
class ImportView(RawView):
    """POST integrations/import: what export gave."""

    scopes = {"POST": ("admin",)}

    def post(self, request: Any, project_id: str) -> HttpResponse:
        data = self.body(ImportBody)["integrationData"]
        inner = data["integration"] if isinstance(data.get("integration"), dict) else data
        try:
            body = checked(CreateBody(data=inner))
        except InvalidInput as error:
            faults = error.details or {}
            raise InvalidInput({f"integrationData.{name}": said for name, said in faults.items()}) from None
        return self.make(body)


@schema.integration
class IntegrationView(RawView):
    """GET, PATCH and DELETE integrations/{id}."""

    scopes = {"GET": READERS, "PATCH": ("admin",), "DELETE": ("delete",)}

    def get(self, request: Any, project_id: str, integration_id: str) -> HttpResponse:
        return told(integrations.find(self.caller, integration_id))

    def patch(self, request: Any, project_id: str, integration_id: str) -> HttpResponse:
        integration = integrations.find(self.caller, integration_id)
        return told(integrations.update(integration, self.caller.actor, **self.body(UpdateBody)))

    def delete(self, request: Any, project_id: str, integration_id: str) -> HttpResponse:
        integration = integrations.find(self.caller, integration_id)
        integrations.remove(integration, self.caller.actor)
        return json_answer({"message": f"The integration {integration} is deleted, and its accounts are disconnected."})


@schema.execute
class ExecuteView(RawView):
    """POST integrations/{id}/execute."""

    scopes = {"POST": ("execute",)}

    @idempotent
    def post(self, request: Any, project_id: str, integration_id: str) -> HttpResponse:
        body = self.body(ExecuteBody)
        wanted = raw.Wanted(
            body["endpoint"], body["method"], body.get("params") or {}, request.data.get("body", raw.ABSENT)
        )
        integration = integrations.find(self.caller, integration_id)
        return answered(raw.execute(self.caller, integration, wanted, user_id=self.user_id()))


@schema.test
class TestView(RawView):
    """POST integrations/{id}/test."""

    scopes = {"POST": ("execute",)}

    def post(self, request: Any, project_id: str, integration_id: str) -> HttpResponse:
        body = self.body(TestBody)
        wanted = raw.Wanted(body.get("endpoint") or "", body.get("method") or "GET", body.get("params") or {})
        integration = integrations.find(self.caller, integration_id)
        return answered(raw.execute(self.caller, integration, wanted, user_id=self.user_id()))


@schema.export
class ExportView(RawView):
    """GET integrations/{id}/export: without credentials."""

    scopes = {"GET": ("admin",)}

    def get(self, request: Any, project_id: str, integration_id: str) -> HttpResponse:
        row = integration_row(integrations.find(self.caller, integration_id))
        return json_answer({"integration": {**row, "credentials": {}}})


@schema.usage
class UsageView(RawView):
    """GET integrations/{id}/usage."""

    scopes = {"GET": ("execute", "admin")}

    def get(self, request: Any, project_id: str, integration_id: str) -> HttpResponse:
        period = request.GET.get("period", "month")
        if period not in raw.PERIODS:
            raise InvalidInput({"period": [f"Must be one of {', '.join(raw.PERIODS)}."]})
        integration = integrations.find(self.caller, integration_id)
        return json_answer({"stats": raw.usage(self.caller, integration, period)})
