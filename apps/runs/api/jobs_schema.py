"""What the API's description says of jobs and job runs, once for each prefix of the Runs API."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.envelopes import RUNS
from apps.lib.openapi import END_USER, IDEMPOTENCY_KEY, operation, query

from ..models import Job, JobRun
from ..starting import MAX_ATTEMPTS, MAX_SECONDS
from .jobs_serializers import LONGEST_API, LONGEST_ID, MAX_CONCURRENT, MAX_ITEMS, MAX_NOTIFICATIONS
from .runs_schema import TAG, Retry
from .schema import AnyJson, JsonSchema

HEADERS: dict[str, Any] = {"type": ["object", "null"], "additionalProperties": {"type": "string"}}
DURATION: dict[str, Any] = {"type": ["integer", "string"], "description": "Milliseconds, or like 30s, 15m, 2h, 1d."}
PARTS: dict[str, Any] = {
    "second": "0 to 59", "minute": "0 to 59", "hour": "0 to 23", "dayOfWeek": "SUNDAY to SATURDAY", "dayOfMonth": "1 to 31",
    "month": "JANUARY to DECEMBER", "year": "like 2027",
}  # fmt: skip
SCHEDULE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "intervals": {
            "type": ["array", "null"],
            "items": {"type": "object", "properties": {"every": DURATION}, "required": ["every"]},
        },
        "calendars": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "properties": {
                    name: {"description": f"{values}; a value, {{start, end?, step?}}, a list of these, or *."}
                    for name, values in PARTS.items()
                }
                | {"comment": {"type": ["string", "null"]}},
            },
        },
        "jitter": DURATION | {"type": ["integer", "string", "null"]},
        "timezone": {"type": ["string", "null"], "description": "Like Europe/Berlin; absent: UTC."},
    },
}
FILTERS: dict[str, Any] = {
    "skipOnFail": {"type": ["boolean", "null"], "description": "Failed runs are not sent."},
    "apisToSend": {"type": ["array", "null"], "items": {"type": "string"}, "description": "Of these modules alone."},
}
SINK: dict[str, Any] = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"type": {"const": "webhook"}, "url": {"type": "string"}, "headers": HEADERS, **FILTERS},
            "required": ["type", "url"],
        },
        {
            "type": "object",
            "properties": {
                "type": {"const": "s3"},
                **{name: {"type": "string"} for name in ("bucket", "accessKeyId", "secretAccessKey", "region")},
                **{name: {"type": ["string", "null"]} for name in ("prefix", "endpoint")},
                "forcePathStyle": {"type": ["boolean", "null"]},
                **FILTERS,
            },
            "required": ["type", "bucket", "accessKeyId", "secretAccessKey", "region"],
        },
    ]
}
NOTIFICATION: dict[str, Any] = {
    "type": "object",
    "properties": {"type": {"const": "webhook"}, "url": {"type": "string"}, "headers": HEADERS},
    "required": ["type", "url"],
}


@extend_schema_field(SCHEDULE | {"type": ["object", "null"]})
class Schedule(serializers.JSONField):
    """When a job fires."""


@extend_schema_field({"anyOf": [*SINK["anyOf"], {"type": "null"}]})
class Sink(serializers.JSONField):
    """Where results go."""


@extend_schema_field({"type": ["array", "null"], "items": NOTIFICATION, "maxItems": MAX_NOTIFICATIONS})
class Notifications(serializers.JSONField):
    """Who is told of a failed job run."""


class Item(serializers.Serializer[Any]):
    apiName = serializers.CharField(max_length=LONGEST_API, help_text="Name of a published module.")
    parameters = JsonSchema(help_text="Start parameters by their API names; up to 1 MB.")
    requestTimeout = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=MAX_SECONDS, help_text="Absent: the configuration's."
    )
    retry = Retry(required=False, allow_null=True)


class Configuration(serializers.Serializer[Any]):
    retry = Retry(required=False, allow_null=True)
    maxConcurrentRequests = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=MAX_CONCURRENT,
        help_text="So many runs of a job run at a time. Absent: 10.",
    )  # fmt: skip
    requestTimeout = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=MAX_SECONDS, help_text="Seconds. Absent: 600."
    )
    maxRuns = serializers.IntegerField(
        required=False,
        allow_null=True,
        min_value=1,
        max_value=MAX_ITEMS,
        help_text="So many items of a job run at most.",
    )
    proxy = serializers.CharField(required=False, allow_null=True, max_length=2000)


class JobAuthSession(serializers.Serializer[Any]):
    id = serializers.CharField(max_length=255)
    checkAttempts = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=MAX_ATTEMPTS)
    createAttempts = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=MAX_ATTEMPTS)
    saveTrace = serializers.BooleanField(required=False, allow_null=True)


class JobChange(serializers.Serializer[Any]):
    payload = serializers.ListField(child=Item(), max_length=MAX_ITEMS)
    configuration = Configuration()
    schedule = Schedule(required=False)
    sink = Sink(required=False)
    proxy = serializers.CharField(required=False, allow_null=True, max_length=2000)
    auth_session = JobAuthSession(required=False, allow_null=True)
    notifications = Notifications(required=False)


class JobCreate(JobChange):
    id = serializers.CharField(max_length=LONGEST_ID, help_text="Your own; without `/`.")
    endUser = serializers.CharField(
        required=False, allow_null=True, max_length=255, help_text="Your own id of the person that its runs are for."
    )


class JobReason(serializers.Serializer[Any]):
    type = serializers.ChoiceField(["paused", "terminated"])
    message = serializers.CharField()
    timestamp = serializers.CharField(required=False)


class JobHead(serializers.Serializer[Any]):
    id = serializers.CharField()
    configuration = Configuration()
    payload = serializers.ListField(child=Item())
    sink = Sink(help_text="Secrets are `********`.")
    schedule = Schedule(required=False)
    next_run_time = serializers.DateTimeField(allow_null=True)
    last_run_time = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()
    auth_session = JobAuthSession(allow_null=True)
    notifications = Notifications(help_text="Header values are `********`.")
    state = serializers.ChoiceField(Job.State.values)
    reason = JobReason(allow_null=True, help_text="Of a paused job.")
    endUser = serializers.CharField(allow_null=True)


class JobAlone(JobHead):
    projectId = serializers.CharField()
    proxy = serializers.CharField(allow_null=True, help_text="Its password is `********`.")


class Proxy(serializers.Serializer[Any]):
    version = serializers.ChoiceField(["v1"])
    url = serializers.CharField()


class JobRow(JobHead):
    workspace_id = serializers.CharField()
    project_id = serializers.CharField()
    proxy = Proxy(allow_null=True)
    schedule_id = serializers.CharField(allow_null=True)
    source = serializers.ChoiceField(["API"])  # type: ignore[assignment] # a field; the metaclass takes it out of the class


class JobCreated(serializers.Serializer[Any]):
    id = serializers.CharField()
    message = serializers.ChoiceField(["created"])


class JobChanged(serializers.Serializer[Any]):
    id = serializers.CharField()
    message = serializers.ChoiceField(["updated job successfully"])


class JobPaused(serializers.Serializer[Any]):
    message = serializers.ChoiceField(["Paused"])


class JobResumed(serializers.Serializer[Any]):
    message = serializers.ChoiceField(["Resumed"])


class JobTriggered(serializers.Serializer[Any]):
    jobRunId = serializers.CharField(min_length=21, max_length=21)
    message = serializers.CharField()


class JobRunError(serializers.Serializer[Any]):
    message = serializers.CharField()
    code = serializers.ChoiceField(["internal-server-error", "insufficient-resource-credits"])
    category = serializers.ChoiceField(["billing", "infrastructure"])
    retirable = serializers.BooleanField()
    details = AnyJson(required=False)


class JobRunReason(serializers.Serializer[Any]):
    type = serializers.CharField(help_text="Like `another-job-run-active`, `terminated`.")
    message = serializers.CharField()
    details = AnyJson(required=False)


class Snapshot(serializers.Serializer[Any]):
    configuration = Configuration()
    sink = Sink()
    auth_session = JobAuthSession(allow_null=True)
    proxy = Proxy(allow_null=True)
    notifications = Notifications()


class JobRunRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    start_time = serializers.DateTimeField()
    end_time = serializers.DateTimeField(allow_null=True)
    workspace_id = serializers.CharField()
    project_id = serializers.CharField()
    job_id = serializers.CharField()
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    type = serializers.ChoiceField(JobRun.Type.values)
    status = serializers.ChoiceField(JobRun.Status.values)
    payloads = serializers.IntegerField(help_text="Items.")
    successful_runs = serializers.IntegerField()
    failed_runs = serializers.IntegerField()
    error = JobRunError(allow_null=True)
    reason = JobRunReason(allow_null=True)
    job_configuration_snapshot = Snapshot(help_text="The job as it was when it fired.")


class JobRunPage(serializers.Serializer[Any]):
    jobRuns = JobRunRow(many=True)
    totalCount = serializers.IntegerField()


class Results(serializers.Serializer[Any]):
    signed_url = serializers.CharField(help_text="Needs no key.")
    signed_url_expiration = serializers.CharField()
    size = serializers.IntegerField(required=False)
    key = serializers.CharField()
    format = serializers.ChoiceField(["jsonl"])


class JobRunAlone(serializers.Serializer[Any]):
    jobRun = JobRunRow()
    results = Results(required=False, help_text="Of one that has ended.")


class Terminated(serializers.Serializer[Any]):
    message = serializers.CharField()


# -- Examples --------------------------------------------------------------------------------------------------------
CHANGE: dict[str, Any] = {
    "payload": [{"apiName": "onboard", "parameters": {"employee_name": "John Doe"}}],
    "configuration": {"maxConcurrentRequests": 5, "retry": {"maximumAttempts": 3}},
    "schedule": {"calendars": [{"hour": 9, "minute": 30, "dayOfWeek": "MONDAY"}], "timezone": "Europe/Berlin"},
    "sink": {"type": "webhook", "url": "https://yourapp.com/results", "headers": {"X-Token": "12345"}},
}
CREATE: dict[str, Any] = {"id": "onboarding", **CHANGE}
HEAD: dict[str, Any] = {
    "id": "onboarding",
    "configuration": {"maxConcurrentRequests": 5, "retry": {"maximumAttempts": 3}},
    "payload": CHANGE["payload"],
    "sink": {**CHANGE["sink"], "headers": {"X-Token": "********"}},
    "schedule": CHANGE["schedule"],
    "next_run_time": "2026-02-02T08:30:00+00:00",
    "last_run_time": None,
    "created_at": "2026-01-31T12:00:00+00:00",
    "auth_session": None,
    "notifications": None,
    "state": "ACTIVE",
    "reason": None,
    "endUser": None,
}
PROJECT, WORKSPACE = "proj_sVi2zSZW38w4", "123e4567-e89b-12d3-a456-426614174000"
ALONE = {**HEAD, "projectId": PROJECT, "proxy": "http://user:********@proxy.example:8080"}
ROW = {**HEAD, "workspace_id": WORKSPACE, "project_id": PROJECT, "proxy": None, "schedule_id": None, "source": "API"}
JOB_RUN: dict[str, Any] = {
    "id": "V1StGXR8_Z5jdHi6B-myT",
    "start_time": "2026-02-02T08:30:00+00:00",
    "end_time": "2026-02-02T08:31:12+00:00",
    "workspace_id": WORKSPACE,
    "project_id": PROJECT,
    "job_id": "onboarding",
    "created_at": "2026-02-02T08:30:00+00:00",
    "updated_at": "2026-02-02T08:31:12+00:00",
    "type": "SCHEDULED",
    "status": "SUCCESS",
    "payloads": 1,
    "successful_runs": 1,
    "failed_runs": 0,
    "error": None,
    "reason": None,
    "job_configuration_snapshot": {
        "configuration": HEAD["configuration"],
        "sink": HEAD["sink"],
        "auth_session": None,
        "proxy": None,
        "notifications": None,
    },
}
RESULTS = {
    "signed_url": "https://jackfield.example/v1/job-results/…",
    "signed_url_expiration": "2026-02-02T09:31:12+00:00",
    "key": "V1StGXR8_Z5jdHi6B-myT.jsonl",
    "format": "jsonl",
}
FAILS = [errors.NotPermitted]


# -- Operations ------------------------------------------------------------------------------------------------------
def _described(name: str, client: str, summary: str, description: str, **more: Any) -> Any:
    return operation(
        name + client,
        summary,
        description=f"Needs the scope `runs`. {description}",
        tag=TAG,
        envelope=RUNS,
        **({"fails": FAILS} | more),
    )


def _jobs(client: str) -> Any:
    return extend_schema_view(
        get=_described(
            "listJobs", client, "List jobs", "All of them, newest first.", answer=JobRow(many=True), example=ROW
        ),
        post=_described(
            "createJob",
            client,
            "Create a job",
            f"A payload of up to {MAX_ITEMS:,} items, a body of up to 16 MiB. Members that are not known are passed over.",
            body=JobCreate,
            sent=CREATE,
            answer=JobCreated,
            example={"id": "onboarding", "message": "created"},
            status=201,
            parameters=[END_USER],
            fails=[*FAILS, errors.Conflict, errors.RateLimited],
        ),
    )


def _job(client: str) -> Any:
    return extend_schema_view(
        get=_described("getJob", client, "Read a job", "Secrets are masked.", answer=JobAlone, example=ALONE),
        put=_described(
            "updateJob",
            client,
            "Replace a job",
            "All but its id, its state and its end user. What is sent back masked stays as it is.",
            body=JobChange,
            sent=CHANGE,
            answer=JobChanged,
            example={"id": "onboarding", "message": "updated job successfully"},
            fails=[*FAILS, errors.InvalidInput, errors.RateLimited],
        ),
        delete=_described(
            "deleteJob", client, "Delete a job", "What of it is under way is terminated; its runs stay.", status=204
        ),
    )


def _pause(client: str) -> Any:
    return extend_schema_view(
        post=_described(
            "pauseJob",
            client,
            "Pause a job",
            "It fires no more; of a job run under way the running items finish, and none is started.",
            answer=JobPaused,
            example={"message": "Paused"},
        )
    )


def _resume(client: str) -> Any:
    return extend_schema_view(
        post=_described(
            "resumeJob",
            client,
            "Resume a job",
            "What would have fired meanwhile does not.",
            answer=JobResumed,
            example={"message": "Resumed"},
        )
    )


def _trigger(client: str) -> Any:
    return extend_schema_view(
        post=_described(
            "triggerJob",
            client,
            "Fire a job now",
            "Whether or not another of its job runs is under way; a paused one is 409.",
            answer=JobTriggered,
            example={"jobRunId": JOB_RUN["id"], "message": "Triggered"},
            parameters=[IDEMPOTENCY_KEY],
            fails=[*FAILS, errors.Conflict, errors.RateLimited, errors.QuotaExceeded],
        )
    )


def _job_runs(client: str) -> Any:
    return extend_schema_view(
        get=_described(
            "listJobRuns",
            client,
            "List a job's runs",
            "Newest first unless sorted otherwise.",
            answer=JobRunPage,
            example={"jobRuns": [JOB_RUN], "totalCount": 1},
            parameters=[
                query("pageSize", "Absent: 50.", kind={"type": "integer", "minimum": 1, "maximum": 500}),
                query(
                    "pageNumber",
                    "The first is 1; 0 is as good.",
                    kind={"type": "integer", "minimum": 0, "maximum": 1000000},
                ),
                query("sortBy", "Like `start_time,desc/status,asc`, or `-startTime`."),
            ],
        )
    )


def _job_run(client: str) -> Any:
    return extend_schema_view(
        get=_described(
            "getJobRun",
            client,
            "Read a job run",
            "Of one that has ended with a link to its results, one line of JSON for each item.",
            answer=JobRunAlone,
            example={"jobRun": JOB_RUN, "results": RESULTS},
        )
    )


def _terminate(client: str) -> Any:
    return extend_schema_view(
        post=_described(
            "terminateJobRun",
            client,
            "Terminate a job run",
            "Its runs are cancelled, and no more are started. Of one that has ended nothing changes.",
            answer=Terminated,
            example={"message": "Terminated"},
        )
    )


CLIENT = "OfClient"
jobs, client_jobs = _jobs(""), _jobs(CLIENT)
job, client_job = _job(""), _job(CLIENT)
pause, client_pause = _pause(""), _pause(CLIENT)
resume, client_resume = _resume(""), _resume(CLIENT)
trigger, client_trigger = _trigger(""), _trigger(CLIENT)
job_runs, client_job_runs = _job_runs(""), _job_runs(CLIENT)
job_run, client_job_run = _job_run(""), _job_run(CLIENT)
terminate, client_terminate = _terminate(""), _terminate(CLIENT)
