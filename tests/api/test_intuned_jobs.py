"""The published client's jobs and job runs (PyPI `intuned-client`) at the running product: every method, sync and async."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from intuned_client import jobs, jobs_runs, models
from intuned_client.async_client import AsyncIntunedClient
from intuned_client.client import IntunedClient
from intuned_client.exceptions import AuthenticationError, NotFoundError, ValidationError

from tests.api.test_wire import script
from tests.product import Product

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("intuned")]

# What another process knows of the project; the modules are written there, as an admin would over the API.
PUBLISH = """
from apps.workspaces.models import Project
from tests.api.automations import EVENT, FAIL, publish
project = Project.objects.select_related("workspace").get(pk=sys.argv[1])
number = [{"name": "Number", "api_name": "number", "type": "number"}]
publish(project, "jobs/double", start_parameters=number,
        steps=[{"id": "double", "set": {"is": "{{ start.number * 2 }}"}}], result="{{ steps.double.output.is }}")
publish(project, "jobs/stop", **FAIL)
publish(project, "jobs/wait", **EVENT)
print(project.workspace_id, project.name)
"""
MASK = "********"
FEW: Any = {"payload": [{"apiName": "jobs/double", "parameters": {"number": 21}}], "configuration": {"retry": {}}}
# A member of everything that the client's models know.
WHOLE: Any = {
    "payload": [
        {"apiName": "jobs/double", "parameters": {"number": 1}, "requestTimeout": 30, "retry": {"maximumAttempts": 2}}
    ],
    "configuration": {"retry": {"maximumAttempts": 2}, "maxConcurrentRequests": 5, "requestTimeout": 60, "maxRuns": 9,
                      "proxy": "http://user:secret-1@proxy.example:8080"},
    "schedule": {
        "intervals": [{"every": "30d"}, {"every": 86_400_000}],
        "calendars": [
            {"second": 0, "minute": {"start": 0, "end": 30, "step": 10}, "hour": [8, {"start": 12, "end": 13}],
             "dayOfWeek": ["MONDAY", {"start": "WEDNESDAY", "end": "FRIDAY"}], "dayOfMonth": "*",
             "month": {"start": "MARCH", "end": "SEPTEMBER", "step": 2}, "year": {"start": 2090, "end": 2099},
             "comment": "Far away"},
        ],
        "jitter": "5m",
    },
    "sink": {"type": "s3", "bucket": "results", "accessKeyId": "AKIA", "secretAccessKey": "secret-2", "region": "eu-west-1",
             "prefix": "a/", "skipOnFail": True, "apisToSend": ["jobs/double"], "endpoint": "https://s3.example",
             "forcePathStyle": True},
    "proxy": "http://user:secret-3@proxy.example:8080",
    "notifications": [{"type": "webhook", "url": "https://app.example/alarm", "headers": {"X-Token": "secret-4"}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def place(product: Product) -> dict[str, str]:
    """Where the client is pointed at."""
    workspace, project = script(product, PUBLISH, product.facts["project_id"]).strip().split(maxsplit=1)
    return {"workspace": workspace, "project": project, "url": f"{product.url}/api/v1/workspace"}


@pytest.fixture
def client(product: Product, place: dict[str, str]) -> Iterator[IntunedClient]:
    key = product.facts["api_key"]
    with IntunedClient(api_key=key, workspace_id=place["workspace"], base_url=place["url"], timeout=60) as found:
        yield found


Call = Callable[..., Any]


class Sync:
    """`client.projects.jobs` and `.jobs.runs`, the project named."""

    def __init__(self, client: IntunedClient, project: str) -> None:
        self.client, self.project = client, project

    def __call__(self, method: str, **arguments: Any) -> Any:
        service: Any = self.client.projects.jobs
        for name in method.split("."):
            service = getattr(service, name)
        return service(project_name=self.project, **arguments)


class Async:
    """The same with the asynchronous client, each call in an event loop of its own."""

    def __init__(self, key: str, place: dict[str, str]) -> None:
        self.key, self.place = key, place

    def __call__(self, method: str, **arguments: Any) -> Any:
        async def go() -> Any:
            workspace, url = self.place["workspace"], self.place["url"]
            client = AsyncIntunedClient(api_key=self.key, workspace_id=workspace, base_url=url, timeout=60)
            try:
                service: Any = client.projects.jobs
                for name in method.split("."):
                    service = getattr(service, name)
                found: Awaitable[Any] = service(project_name=self.place["project"], **arguments)
                return await found
            finally:
                await client.aclose()

        with ThreadPoolExecutor(1) as thread:  # this one may have a browser's event loop
            return thread.submit(asyncio.run, go()).result()


@pytest.fixture(params=["sync", "async"])
def call(request: Any, client: IntunedClient, product: Product, place: dict[str, str]) -> Call:
    return Sync(client, place["project"]) if request.param == "sync" else Async(product.facts["api_key"], place)


@pytest.fixture
def name(request: Any) -> str:
    """A job's id of this test alone."""
    return f"job {abs(hash(request.node.name)):x}-{time.time_ns():x}"


def ended(call: Call, job_id: str, job_run_id: str) -> Any:
    """The job run once it has ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = call("runs.get", job_id=job_id, job_run_id=job_run_id)
        if found.job_run.status not in {"PENDING", "PAUSING", "PAUSED"}:
            return found
        time.sleep(0.2)
    raise AssertionError(f"still {found.job_run.status}")


def test_no_method_of_the_jobs_client_is_left_out() -> None:
    every = {"create", "delete", "get", "list", "pause", "resume", "trigger", "update"}
    services: dict[Any, set[str]] = {
        jobs.JobsService: every, jobs.AsyncJobsService: every,
        jobs_runs.JobsRunsService: {"get", "list", "terminate"}, jobs_runs.AsyncJobsRunsService: {"get", "list", "terminate"},
    }  # fmt: skip
    for service, known in services.items():
        own = {name for name, _ in inspect.getmembers(service, inspect.isfunction) if name[0] != "_"}
        assert own == known


def test_a_job_is_made_read_changed_and_deleted(call: Call, name: str) -> None:
    made = call("create", body={"id": name, **FEW})
    assert isinstance(made, models.JobsCreateResponse)
    assert (made.id, made.message) == (name, "created")
    alone = call("get", job_id=name)
    assert isinstance(alone, models.JobsGetResponse)
    assert (alone.id, alone.state, alone.next_run_time, alone.last_run_time) == (name, "ACTIVE", None, None)
    assert alone.payload is not None
    assert alone.payload[0].parameters == {"number": 21}
    assert alone.payload[0].request_timeout == 600  # which the client sends where nothing is said
    changed = call("update", job_id=name, body=WHOLE)
    assert (changed.id, changed.message) == (name, "updated job successfully")
    assert call("get", job_id=name).next_run_time
    assert call("delete", job_id=name) is None
    with pytest.raises(NotFoundError):
        call("get", job_id=name)


def test_everything_that_the_client_can_say_of_a_job_it_reads_back(call: Call, name: str) -> None:
    sent = {"id": name, **WHOLE, "endUser": "u1", "schedule": {**WHOLE["schedule"], "timezone": "Europe/Berlin"}}
    call("create", body=sent)
    alone = call("get", job_id=name)
    [row] = [job for job in call("list") if job.id == name]
    for found in (alone, row):
        shown = json.loads(found.model_dump_json(by_alias=True, exclude_none=True))
        assert "secret-" not in json.dumps(shown)
        assert shown["payload"] == WHOLE["payload"]
        assert shown["schedule"] == sent["schedule"]
        assert shown["sink"] == WHOLE["sink"] | {"secretAccessKey": MASK}
        assert shown["configuration"] == WHOLE["configuration"] | {"proxy": f"http://user:{MASK}@proxy.example:8080"}
        assert shown["notifications"] == [{**WHOLE["notifications"][0], "headers": {"X-Token": MASK}}]
    assert isinstance(alone.sink, models.generated.JobsGetResponseSinkS3SinkConfiguration)
    assert isinstance(row.sink, models.generated.JobsListResponseValueItemSinkS3SinkConfiguration)
    assert alone.proxy == f"http://user:{MASK}@proxy.example:8080" == row.proxy.url
    assert (row.source, row.project_id) == ("API", alone.project_id)
    # What was read may be sent back: as the client has it, its defaults and extra members included.
    again = alone.model_dump(by_alias=True, exclude_none=True)
    assert call("update", job_id=name, body=again).message == "updated job successfully"
    call("delete", job_id=name)


def test_a_job_is_paused_and_resumed(call: Call, name: str) -> None:
    call("create", body={"id": name, **FEW, "schedule": {"intervals": [{"every": "30d"}]}})
    assert isinstance(call("pause", job_id=name), models.JobsPauseResponse)
    [row] = [job for job in call("list") if job.id == name]
    assert (row.state, row.reason.type, row.next_run_time) == ("PAUSED", "paused", None)
    with pytest.raises(ValidationError) as refused:
        call("trigger", job_id=name)
    assert (refused.value.status_code, refused.value.body["code"]) == (409, "conflict")
    assert isinstance(call("resume", job_id=name), models.JobsResumeResponse)
    assert (call("get", job_id=name).state, bool(call("get", job_id=name).next_run_time)) == ("ACTIVE", True)
    call("delete", job_id=name)


def test_a_triggered_job_runs_all_its_items_and_its_results_are_read_by_the_link(call: Call, name: str) -> None:
    payload: list[Any] = [{"apiName": "jobs/double", "parameters": {"number": number}} for number in range(6)]
    payload.append({"apiName": "jobs/stop", "parameters": {}, "retry": {"maximumAttempts": 1}})
    call("create", body={"id": name, "payload": payload, "configuration": {"maxConcurrentRequests": 2}})
    fired = call("trigger", job_id=name)
    assert isinstance(fired, models.JobsTriggerResponse)
    found = ended(call, name, fired.job_run_id)
    assert isinstance(found, models.JobsRunsGetResponse)
    row = found.job_run
    assert (row.status, row.type, row.payloads, row.successful_runs, row.failed_runs) == ("FAILURE", "MANUAL", 7, 6, 1)
    assert row.job_configuration_snapshot.configuration.max_concurrent_requests == 2
    assert row.end_time is not None
    assert row.start_time < row.end_time
    assert found.results is not None
    assert found.results.format == "jsonl"
    lines = [json.loads(line) for line in requests.get(found.results.signed_url, timeout=30).iter_lines()]
    assert [line["parameters"].get("number") for line in lines] == [0, 1, 2, 3, 4, 5, None]
    assert [line["result"].get("result") for line in lines] == [0, 2, 4, 6, 8, 10, None]
    assert [line["result"]["statusCode"] for line in lines] == [200] * 6 + [500]
    page = call("runs.list", job_id=name, page_size="10", page_number="1", sort_by="start_time,desc/status,asc")
    assert isinstance(page, models.JobsRunsListResponse)
    assert (page.total_count, [one.id for one in page.job_runs]) == (1, [fired.job_run_id])
    assert call("get", job_id=name).last_run_time
    call("delete", job_id=name)


def test_a_job_run_is_terminated(call: Call, name: str) -> None:
    payload = [{"apiName": "jobs/wait", "parameters": {}}] * 2
    call("create", body={"id": name, "payload": payload, "configuration": {}})
    job_run_id = call("trigger", job_id=name).job_run_id
    assert isinstance(call("runs.terminate", job_id=name, job_run_id=job_run_id), models.JobsRunsTerminateResponse)
    found = ended(call, name, job_run_id).job_run
    assert (found.status, found.reason.type) == ("TERMINATED", "terminated")
    call("delete", job_id=name)


def test_a_scheduled_job_fires_by_itself(call: Call, name: str) -> None:
    call("create", body={"id": name, **FEW, "schedule": {"intervals": [{"every": "1s"}]}})
    deadline = time.monotonic() + 60
    while not (page := call("runs.list", job_id=name)).job_runs and time.monotonic() < deadline:
        time.sleep(0.5)
    assert page.job_runs
    assert {one.type for one in page.job_runs} == {"SCHEDULED"}
    call("delete", job_id=name)


def test_refusals_are_read_by_the_client(call: Call, name: str, product: Product, place: dict[str, str]) -> None:
    wrong = {"id": name, **FEW, "payload": [*FEW["payload"], {"apiName": "jobs/none", "parameters": {}}]}
    with pytest.raises(ValidationError) as bad:
        call("create", body=wrong)
    assert (bad.value.status_code, list(bad.value.body["details"])) == (400, ["payload.1.apiName"])
    call("create", body={"id": name, **FEW})
    with pytest.raises(ValidationError) as taken:
        call("create", body={"id": name, **FEW})
    assert (taken.value.status_code, taken.value.body["code"]) == (409, "conflict")
    for method in ("get", "delete", "pause", "resume", "trigger", "runs.list"):
        with pytest.raises(NotFoundError):
            call(method, job_id="no such/..")
    for method in ("runs.get", "runs.terminate"):
        with pytest.raises(NotFoundError):
            call(method, job_id=name, job_run_id="no such")
    with pytest.raises(ValidationError) as page:
        call("runs.list", job_id=name, page_size="none")
    assert list(page.value.body["details"]) == ["pageSize"]
    stranger = Async("jf_sk_none", place)
    with pytest.raises(AuthenticationError):
        stranger("list")
    call("delete", job_id=name)


@pytest.mark.filterwarnings("ignore:Accessing the 'model_fields':DeprecationWarning")  # the client's own
def test_web_tasks_are_not_found(client: IntunedClient, product: Product, place: dict[str, str]) -> None:
    body: Any = {"task": "Book a table", "startUrl": "https://example.com", "parameters": {"for": 2}}
    with pytest.raises(NotFoundError) as none:
        client.web_tasks.start(body=body)
    assert none.value.body["code"] == "not-found"
    with pytest.raises(NotFoundError):
        client.web_tasks.result(web_task_id="any")

    async def go() -> None:
        other = AsyncIntunedClient(
            api_key=product.facts["api_key"], workspace_id=place["workspace"], base_url=place["url"], timeout=30
        )
        try:
            with pytest.raises(NotFoundError):
                await other.web_tasks.result(web_task_id="any")
            with pytest.raises(NotFoundError):
                await other.web_tasks.start(body=body)
        finally:
            await other.aclose()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, go()).result()


def test_sixteen_megabytes_go_over_the_wire_and_more_are_refused_so_that_the_caller_reads_it(
    client: IntunedClient, place: dict[str, str], name: str
) -> None:
    call = Sync(client, place["project"])
    items = [{"apiName": "jobs/stop", "parameters": {"text": "x" * 1_000_000}} for _ in range(17)]
    call("create", body={"id": name, "payload": items[:16], "configuration": {}})
    payload = call("get", job_id=name).payload
    assert [len(item.parameters["text"]) for item in payload] == [1_000_000] * 16
    assert [len(job.payload) for job in call("list") if job.id == name] == [16]
    with pytest.raises(ValidationError) as large:
        call("update", job_id=name, body={"payload": items, "configuration": {}})
    assert (large.value.status_code, large.value.body["code"]) == (413, "payload-too-large")
    call("delete", job_id=name)
