"""What the API's description says of modules."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema_field, extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.openapi import operation, paged

from ..models import Module
from ..services import LONGEST_NOTE, LONGEST_OVERLAP, LONGEST_SECRET

ADMIN = "Needs the scope `admin`."


@extend_schema_field({"type": "object", "additionalProperties": {}})
class Document(serializers.JSONField):
    """A definition as it was written; `/modules.schema.json` is its schema."""


class ModuleRow(serializers.Serializer[Any]):
    id = serializers.CharField(help_text="22 characters, the same for every version: sessions are started by it.")
    name = serializers.CharField(help_text="The `api` of the Runs API.")
    title = serializers.CharField(allow_blank=True)
    access = serializers.ChoiceField(Module.Access.choices)
    state = serializers.ChoiceField(
        ["draft", "published", "changed"],
        help_text="draft: not published; changed: the draft is another than the published version.",
    )
    version = serializers.IntegerField(allow_null=True, help_text="The published one's number.")
    published_id = serializers.CharField(allow_null=True, help_text="`id`, or null while it is not published.")
    published_at = serializers.DateTimeField(allow_null=True, help_text="When the published version was made.")
    published_by = serializers.CharField(allow_null=True)
    draft_changed_at = serializers.DateTimeField()
    draft_changed_by = serializers.CharField(allow_blank=True)
    browser_url = serializers.CharField(allow_null=True, help_text="Where people start it, if its access is for them.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()


class ModuleKeyRow(serializers.Serializer[Any]):
    prefix = serializers.CharField()
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)


class ModuleWhole(ModuleRow):
    definition = Document(help_text="The draft as data.")
    source = serializers.CharField(help_text="The draft as it was written.")  # type: ignore[assignment] # the name is also a member of fields
    diff = serializers.CharField(
        allow_blank=True, help_text="What the draft changes of the published version, as a unified diff."
    )
    hook_url = serializers.CharField(
        allow_null=True, help_text="A POST there starts it. Null where it has no hook, or you may only read."
    )
    hook_secret_set = serializers.BooleanField()
    keys = ModuleKeyRow(many=True, help_text="The module's own keys that work.")


class ModuleList(serializers.Serializer[Any]):
    modules = ModuleRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


class ModuleFault(serializers.Serializer[Any]):
    path = serializers.CharField(allow_blank=True, help_text="Like `steps[2].with.repo`.")
    line = serializers.IntegerField(required=False, help_text="Counted from 1.")
    message = serializers.CharField()


class ModuleFaults(serializers.Serializer[Any]):
    faults = ModuleFault(many=True)


class PublishModule(serializers.Serializer[Any]):
    note = serializers.CharField(required=False, allow_blank=True, max_length=LONGEST_NOTE)


class RollbackModule(serializers.Serializer[Any]):
    version = serializers.IntegerField(min_value=1, max_value=2**31 - 1)


class RotateModule(serializers.Serializer[Any]):
    of = serializers.ChoiceField(["key", "hook", "hook_secret"], required=False, help_text="`key` unless given.")
    overlapSeconds = serializers.IntegerField(
        required=False, min_value=0, max_value=LONGEST_OVERLAP, help_text="Of a key: how long the old ones work on."
    )
    secret = serializers.CharField(
        required=False,
        min_length=8,
        max_length=LONGEST_SECRET,
        help_text="Of a hook's secret: the provider's own; made for you where it is absent.",
    )


class ModulePublished(serializers.Serializer[Any]):
    id = serializers.CharField()
    name = serializers.CharField()
    version = serializers.IntegerField()
    published_at = serializers.DateTimeField()
    access = serializers.ChoiceField(Module.Access.choices)
    api_key = serializers.CharField(
        required=False, help_text="The module's own key, where this call made it: 43 characters, shown this once."
    )


class ModuleRotated(serializers.Serializer[Any]):
    """One of the three, by `of`; each is shown this once."""

    api_key = serializers.CharField(required=False)
    hook_url = serializers.CharField(required=False)
    hook_secret = serializers.CharField(required=False)


class ModuleVersionRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    version = serializers.IntegerField()
    note = serializers.CharField(allow_blank=True)
    created_by = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()
    published = serializers.BooleanField(help_text="Whether it is the one that is published.")


class ModuleVersionWhole(ModuleVersionRow):
    definition = Document()
    source = serializers.CharField()  # type: ignore[assignment] # the name is also a member of fields
    diff = serializers.CharField(allow_blank=True, help_text="To the version before, as a unified diff of the YAML.")


class ModuleVersions(serializers.Serializer[Any]):
    versions = ModuleVersionRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


AT = "2026-01-31T12:00:00+00:00"
WHO = "key:Zq3v7TnR9cXkLw2mB8sYdF deploy"
DEFINITION = {
    "name": "onboard",
    "title": "Onboard an employee",
    "access": "api_key",
    "start_parameters": [{"name": "Employee Name", "api_name": "employee_name", "type": "text", "required": True}],
    "steps": [
        {
            "id": "record",
            "request": {
                "method": "POST",
                "url": "https://hr.example/people",
                "json": {"name": "{{ start.employee_name }}"},
            },
        }
    ],
    "result": {"status": "{{ steps.record.output.status }}"},
}
ROW = {
    "id": "k3J9vQ0yT5u1Zx8WnR2bLg",
    "name": "onboard",
    "title": "Onboard an employee",
    "access": "api_key",
    "state": "published",
    "version": 3,
    "published_id": "k3J9vQ0yT5u1Zx8WnR2bLg",
    "published_at": AT,
    "published_by": WHO,
    "draft_changed_at": AT,
    "draft_changed_by": WHO,
    "browser_url": None,
    "created_at": AT,
    "updated_at": AT,
}
WHOLE = ROW | {
    "definition": DEFINITION,
    "source": "name: onboard\ntitle: Onboard an employee\n…",
    "diff": "",
    "hook_url": "https://jackfield.example/hooks/3q2-7wEo…",
    "hook_secret_set": False,
    "keys": [{"prefix": "Vx81hQ2d", "created_at": AT, "expires_at": None}],
}
DRAFT = {"state": "draft", "version": None, "published_id": None, "published_at": None, "published_by": None}
VERSION = {
    "id": "Hk5p1QzW8uJtVb4nC6xGaM",
    "version": 3,
    "note": "Asks for the size",
    "created_by": WHO,
    "created_at": AT,
    "published": True,
}
PUBLISHED = {
    "id": "k3J9vQ0yT5u1Zx8WnR2bLg",
    "name": "onboard",
    "version": 3,
    "published_at": AT,
    "access": "api_key",
}
BODY = {"application/json": {"type": "object", "additionalProperties": {}}}
FORMS = (
    "The body is the definition: JSON, or YAML with the Content-Type `application/yaml`; at most 1 MB. Its `name` may be "
    "absent, else it is the path's."
)
FAULTS = (
    "A definition with faults is refused as a whole, nothing is stored: `details.faults` names each as "
    "`{path, line?, message}`."
)

MADE = OpenApiResponse(
    ModuleWhole,
    description="The module was made.",
    examples=[OpenApiExample("Made", value=WHOLE | DRAFT | {"keys": []}, response_only=True, status_codes=["201"])],
)

modules = extend_schema_view(
    get=operation(
        "listModules",
        "List the project's modules, newest first",
        description=ADMIN,
        tag="Modules",
        answer=ModuleList,
        example={"modules": [ROW], "nextCursor": None},
        parameters=paged(),
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
module = extend_schema_view(
    put=operation(
        "putModule",
        "Replace a module's draft, or make the module",
        description=f"{ADMIN} {FORMS} {FAULTS} 201 the first time, 200 after. What is published stays as it is until you "
        "publish the draft.",
        tag="Modules",
        body=BODY,
        sent=DEFINITION,
        answer=ModuleWhole,
        example=WHOLE | {"state": "changed"},
        fails=[errors.InvalidInput, errors.NotPermitted],
        answers={201: MADE},
    ),
    get=operation(
        "getModule",
        "Read a module with its draft",
        description=f"{ADMIN} `?format=yaml`, or `Accept: application/yaml`, gives the file to put into git; PUT takes it.",
        tag="Modules",
        answer=ModuleWhole,
        example=WHOLE,
        fails=[errors.InvalidInput, errors.NotPermitted],
    ),
    delete=operation(
        "deleteModule",
        "Delete a module",
        description=f"{ADMIN} Its keys and its hook end at once; its runs stay until their retention ends.",
        tag="Modules",
        status=204,
        fails=[errors.NotPermitted],
    ),
)
check = extend_schema_view(
    post=operation(
        "checkModule",
        "Check a definition; nothing is stored",
        description=f"{ADMIN} {FORMS} The module need not exist.",
        tag="Modules",
        body=BODY,
        sent=DEFINITION,
        answer=ModuleFaults,
        example={"faults": [{"path": "steps[0].tool", "line": 7, "message": "There is no tool GITHUB_CREATE_ISUE."}]},
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
publish = extend_schema_view(
    post=operation(
        "publishModule",
        "Publish the draft as a new version",
        description=f"{ADMIN} {FAULTS}",
        tag="Modules",
        body=PublishModule,
        sent={"note": "Asks for the size"},
        answer=ModulePublished,
        example=PUBLISHED | {"api_key": "3q2-7wEoVx81hQ2d…"},
        fails=[errors.InvalidInput, errors.NotPermitted, errors.Conflict],
    )
)
unpublish = extend_schema_view(
    post=operation(
        "unpublishModule",
        "Have nothing new started of a module",
        description=f"{ADMIN} Runs that have begun go on; its versions and keys stay.",
        tag="Modules",
        answer=ModuleRow,
        example=ROW | DRAFT,
        fails=[errors.NotPermitted],
    )
)
rollback = extend_schema_view(
    post=operation(
        "rollbackModule",
        "Publish an earlier version again",
        description=f"{ADMIN} It keeps its number; the draft stays as it is.",
        tag="Modules",
        body=RollbackModule,
        sent={"version": 2},
        answer=ModulePublished,
        example=PUBLISHED | {"version": 2},
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
rotate_key = extend_schema_view(
    post=operation(
        "rotateModuleKey",
        "Replace a module's key, its hook's address, or its hook's secret",
        description=f"{ADMIN} The old keys end at once, or after `overlapSeconds`; an old address ends at once.",
        tag="Modules",
        body=RotateModule,
        sent={"overlapSeconds": 3600},
        answer=ModuleRotated,
        example={"api_key": "3q2-7wEoVx81hQ2d…"},
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
versions = extend_schema_view(
    get=operation(
        "listModuleVersions",
        "List a module's published versions, newest first",
        description=ADMIN,
        tag="Modules",
        answer=ModuleVersions,
        example={"versions": [VERSION], "nextCursor": None},
        parameters=paged(),
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
version = extend_schema_view(
    get=operation(
        "getModuleVersion",
        "Read one version",
        description=f"{ADMIN} `?format=yaml` gives its file.",
        tag="Modules",
        answer=ModuleVersionWhole,
        example=VERSION
        | {"definition": DEFINITION, "source": "name: onboard\n…", "diff": "--- version 2\n+++ version 3\n…"},
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
