"""What the API's description says of the questions that runs ask people."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.api import StrictText
from apps.lib.openapi import END_USER, IDEMPOTENCY_KEY, operation, paged, query

from ..models import HumanTask
from .schema import AnyJson, JsonSchema
from .serializers import JsonObject

TAG = "Tasks"
NOTE = (
    "Needs the scope `runs`. An end user's token or key sees what is assigned to `user:<id>`, and of that user's own runs \
what is for anybody; with `X-End-User` a project's key sees the same."
)


class StrictBoolean(serializers.BooleanField):
    """A JSON boolean: Django REST framework would take "no" for one."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class AnswerBody(serializers.Serializer[Any]):
    answers = JsonObject(
        required=False,
        help_text="To a form: answers by field name. A file is {filename, contentType, base64}, of at most 10 MiB.",
    )
    approved = StrictBoolean(required=False, help_text="To an approval.")
    reason = StrictText(
        required=False, allow_blank=True, max_length=5000, help_text="Needed for a rejection where the task says so."
    )
    userId = StrictText(
        required=False, max_length=255, help_text="Who answers, of a key that is not bound to a user; as X-End-User."
    )


class TaskField(serializers.Serializer[Any]):
    name = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment] # a field; the metaclass takes it out of the class
    type = serializers.CharField(help_text="text, long_text, number, date, email, choice, choices, checkbox or file.")
    required = serializers.BooleanField()  # type: ignore[assignment] # a field
    default = AnyJson(required=False)
    options = serializers.ListField(child=AnyJson(), required=False, allow_null=True)
    help = serializers.CharField(required=False, allow_blank=True)
    placeholder = serializers.CharField(required=False, allow_blank=True)
    min = AnyJson(required=False)
    max = AnyJson(required=False)
    min_length = serializers.IntegerField(required=False, allow_null=True)
    max_length = serializers.IntegerField(required=False, allow_null=True)
    pattern = serializers.CharField(required=False, allow_null=True)


class TaskPage(serializers.Serializer[Any]):
    title = serializers.CharField(required=False, allow_blank=True)
    text = serializers.CharField(required=False, allow_blank=True)
    fields = TaskField(many=True)  # type: ignore[assignment] # a field; the metaclass takes it out of the class


class TaskLinks(serializers.Serializer[Any]):
    browser = serializers.URLField(allow_null=True, help_text="The session's page; null for a run of another user.")


class TaskRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    kind = serializers.ChoiceField(HumanTask.Kind.choices)
    status = serializers.ChoiceField(HumanTask.Status.choices)
    runId = serializers.CharField()
    step = serializers.CharField(help_text="The step; inside of a for_each with its place: each[3]/ok.")
    title = serializers.CharField(allow_blank=True)
    text = serializers.CharField(required=False, allow_blank=True)
    pages = TaskPage(many=True, required=False, help_text="Of a form.")
    submit = serializers.CharField(required=False, allow_blank=True, help_text="Text of a form's last button.")
    reasonOnReject = serializers.BooleanField(required=False)
    notStarter = serializers.BooleanField(required=False, help_text="Whoever started the run may not approve.")
    onDeadline = serializers.CharField(required=False, help_text="What counts once the deadline has passed.")
    assignees = serializers.ListField(
        child=serializers.CharField(), help_text="Empty: whoever has the link. An end user sees only themselves."
    )
    quorum = serializers.IntegerField(required=False, help_text="Of an approval: how many people must approve.")
    approvals = serializers.IntegerField(required=False)
    votes = serializers.IntegerField(required=False)
    deadline = serializers.DateTimeField(allow_null=True)
    createdAt = serializers.DateTimeField()
    endedAt = serializers.DateTimeField(allow_null=True)
    answeredBy = serializers.CharField(allow_null=True)
    outcome = JsonSchema(allow_null=True, help_text="The step's output: a form's answers; {approved, by, reason}.")
    links = TaskLinks()


class TaskList(serializers.Serializer[Any]):
    tasks = TaskRow(many=True)
    nextCursor = serializers.CharField(allow_null=True)


TASK: dict[str, Any] = {
    "id": "q8Zr3dT1xYb6Lw0VnKc5Ha",
    "kind": "approve",
    "status": "open",
    "runId": "V1StGXR8_Z5jdHi6B-myT",
    "step": "ok",
    "title": "Buy a laptop of 15 inch?",
    "text": "",
    "reasonOnReject": True,
    "notStarter": False,
    "onDeadline": "reject",
    "assignees": ["it@example.com", "group:buyers"],
    "deadline": "2026-02-02T12:00:00+00:00",
    "createdAt": "2026-01-31T12:00:00+00:00",
    "endedAt": None,
    "answeredBy": None,
    "outcome": None,
    "links": {
        "browser": "https://jackfield.example/s/oITwNKIrRdS0A0TFVPP54g/sessions/C0jz_2J6RmOLoB8DyXPs9Q"
        "?task=q8Zr3dT1xYb6Lw0VnKc5Ha"
    },
    "quorum": 1,
    "approvals": 0,
    "votes": 0,
}
FORM: dict[str, Any] = {
    **{name: TASK[name] for name in ("id", "runId", "createdAt", "links", "text", "deadline")},
    "kind": "form",
    "status": "answered",
    "step": "details",
    "title": "Equipment",
    "pages": [
        {
            "title": "",
            "text": "",
            "fields": [
                {"name": "laptop", "label": "Which laptop?", "type": "choice", "required": True,
                 "options": ["13 inch", "15 inch"], "default": None}
            ],
        }
    ],
    "submit": "",
    "onDeadline": "fail",
    "assignees": [],
    "endedAt": "2026-01-31T12:05:00+00:00",
    "answeredBy": "u1",
    "outcome": {"laptop": "15 inch"},
}  # fmt: skip

tasks = extend_schema_view(
    get=operation(
        "listTasks",
        "List the questions that runs ask people, newest first",
        description=NOTE,
        tag=TAG,
        answer=TaskList,
        example={"tasks": [TASK], "nextCursor": None},
        parameters=[
            query("status", "`open` unless another is named.", choices=[*HumanTask.Status.values, "all"]),
            query("runId", "Only of this run and those that it started; the run's id or its session's."),
            END_USER,
            *paged(),
        ],
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
task = extend_schema_view(
    get=operation(
        "getTask",
        "One question",
        description=NOTE,
        tag=TAG,
        answer=TaskRow,
        example=TASK,
        parameters=[
            query("include", "`files`: the outcome's files with their content as base64.", choices=["files"]),
            END_USER,
        ],
        fails=[errors.NotPermitted],
    )
)
answer = extend_schema_view(
    post=operation(
        "answerTask",
        "Answer a question",
        description="Needs the scope `runs`. The first answer counts: a later one, "
        "and one after the deadline, gets 409 with what counts in `details`. 403 for who is not asked. The body has up to 16 "
        "MiB.",
        tag=TAG,
        body=AnswerBody,
        sent={"answers": {"laptop": "15 inch"}, "userId": "u1"},
        answer=TaskRow,
        example=FORM,
        parameters=[IDEMPOTENCY_KEY, END_USER],
        fails=[errors.InvalidInput, errors.NotPermitted, errors.Conflict],
    )
)
