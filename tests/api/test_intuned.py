"""The published client (PyPI `intuned-client`) at the running product, its base URL changed and nothing else: sync and async."""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from intuned_client import runs
from intuned_client.async_client import AsyncIntunedClient
from intuned_client.client import IntunedClient
from intuned_client.exceptions import AuthenticationError, NotFoundError, ValidationError
from intuned_client.models import RunResultResponse, RunStartResponse

from tests.api.test_wire import script
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("intuned")]

# What another process knows of the project; the modules are written there, as an admin would over the API.
PUBLISH = """
from apps.workspaces.models import Project
from tests.api.automations import EMPLOYEES, EVENT, FAIL, publish
project = Project.objects.select_related("workspace").get(pk=sys.argv[1])
upstream = sys.argv[2]
publish(project, "hr/onboard", start_parameters=EMPLOYEES, steps=[
    {"id": "record", "request": {"method": "POST", "url": upstream + "/echo/people",
                                 "json": {"name": "{{ start.employee_name }}"}}},
], result={"status": "{{ steps.record.output.status }}", "name": "{{ steps.record.output.body.json.name }}"})
publish(project, "stop", **FAIL)
publish(project, "broken", steps=[{"id": "call", "request": {"url": upstream + "/500"}}])
publish(project, "wait", **EVENT)
hook = publish(project, "hooked", hook={"answer": "result", "timeout": 20})
print(project.workspace_id, hook.hook_token)
"""
EMPLOYEE = {"employee_name": "John Doe", "employment_start_date": "2021-09-09", "employee_reference_number": 1234}


@pytest.fixture(scope="module")
def place(product: Product, upstream: Upstream) -> dict[str, str]:
    """Where the client is pointed at."""
    project = product.facts["project_id"]
    known = script(product, PUBLISH, project, upstream.url).split()
    name = product.run(f"from apps.workspaces.models import Project; print(Project.objects.get(pk='{project}').name)")
    return {"workspace": known[0], "hook": known[1], "project": name, "url": f"{product.url}/api/v1/workspace"}


@pytest.fixture
def client(product: Product, place: dict[str, str]) -> Iterator[IntunedClient]:
    key = product.facts["api_key"]
    with IntunedClient(api_key=key, workspace_id=place["workspace"], base_url=place["url"], timeout=30) as found:
        yield found


def until(client: IntunedClient, project: str, run_id: str, *states: str) -> RunResultResponse:
    """The run once it is in one of the states."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        found = client.projects.runs.result(project_name=project, run_id=run_id)
        if found.status in states:
            return found
        time.sleep(0.1)
    raise AssertionError(f"still {found.status}")


def test_no_method_of_the_runs_client_is_left_out() -> None:
    for service in (runs.RunsService, runs.AsyncRunsService):
        own = {name for name, _ in inspect.getmembers(service, inspect.isfunction) if name[0] != "_"}
        assert own == {"start", "result"}


def test_a_run_is_started_and_its_result_read(client: IntunedClient, place: dict[str, str]) -> None:
    body: Any = {"parameters": EMPLOYEE, "api": "hr/onboard", "retry": {}, "saveTrace": True, "endUser": "u1"}
    started = client.projects.runs.start(project_name=place["project"], body=body)
    assert isinstance(started, RunStartResponse)
    assert (started.status, len(started.run_id)) == ("pending", 21)
    found = until(client, place["project"], started.run_id, "completed", "failed")
    assert (found.status, found.result, found.error) == ("completed", {"status": 200, "name": "John Doe"}, None)


def test_a_run_is_started_and_its_result_read_asynchronously(product: Product, place: dict[str, str]) -> None:
    async def go() -> RunResultResponse:
        client = AsyncIntunedClient(
            api_key=product.facts["api_key"], workspace_id=place["workspace"], base_url=place["url"], timeout=30
        )
        try:
            body: Any = {"parameters": EMPLOYEE, "api": "hr/onboard"}
            started = await client.projects.runs.start(project_name=place["project"], body=body)
            for _ in range(400):
                found = await client.projects.runs.result(project_name=place["project"], run_id=started.run_id)
                if found.status not in {"pending", "started"}:
                    break
                await asyncio.sleep(0.1)
            return found
        finally:
            await client.aclose()

    with ThreadPoolExecutor(1) as thread:  # this one may have a browser's event loop
        found = thread.submit(asyncio.run, go()).result()
    assert (found.status, found.result) == ("completed", {"status": 200, "name": "John Doe"})


def test_a_failure_is_read_by_the_client(client: IntunedClient, place: dict[str, str]) -> None:
    ends = {"stop": ("script-execution-exception", "execution"), "broken": ("script-execution-exception", "execution")}
    for name, (code, category) in ends.items():
        body: Any = {"parameters": {}, "api": name, "retry": {"maximumAttempts": 1}}
        started = client.projects.runs.start(project_name=place["project"], body=body)
        found = until(client, place["project"], started.run_id, "completed", "failed")
        assert found.error is not None
        assert (found.status, found.error.code, found.error.category) == ("failed", code, category)
        assert found.error.correlation_id


def test_a_cancelled_run_is_read_by_the_client(client: IntunedClient, product: Product, place: dict[str, str]) -> None:
    body: Any = {"parameters": {}, "api": "wait"}
    started = client.projects.runs.start(project_name=place["project"], body=body)
    until(client, place["project"], started.run_id, "started")
    url = f"/api/v1/workspace/{place['workspace']}/projects/{place['project']}/run/{started.run_id}"
    assert product.call("POST", f"{url}/cancel").status_code == 200
    found = until(client, place["project"], started.run_id, "canceled")
    assert found.reason is not None
    assert found.reason.type == "cancelled-user-action"
    assert product.call("GET", f"{url}/trace").json()["attempts"]


def test_an_event_reaches_a_run_that_waits(client: IntunedClient, product: Product, place: dict[str, str]) -> None:
    body: Any = {"parameters": {}, "api": "wait"}
    started = client.projects.runs.start(project_name=place["project"], body=body)
    assert product.call("POST", f"runs/{started.run_id}/events/payment", json={"paid": True}).status_code == 202
    assert until(client, place["project"], started.run_id, "completed").result == {"paid": True}


def test_a_refusal_is_read_by_the_client(product: Product, client: IntunedClient, place: dict[str, str]) -> None:
    body: Any = {"parameters": {"x": 1}, "api": "hr/onboard"}
    with pytest.raises(ValidationError) as bad:
        client.projects.runs.start(project_name=place["project"], body=body)
    assert (bad.value.status_code, bad.value.body["code"]) == (400, "bad-request")
    assert set(bad.value.body["details"]) == {"parameters.x", "parameters.employee_name"}
    with pytest.raises(NotFoundError) as missing:
        client.projects.runs.start(project_name=place["project"], body={"parameters": {}, "api": "none"})
    assert missing.value.body["code"] == "not-found"
    with pytest.raises(NotFoundError):
        client.projects.runs.result(project_name="No such project/..", run_id="x")
    with pytest.raises(NotFoundError):
        client.projects.runs.result(project_name=place["project"], run_id="a b/c")
    with IntunedClient(api_key="jf_sk_none", workspace_id=place["workspace"], base_url=place["url"]) as stranger:  # noqa: SIM117
        with pytest.raises(AuthenticationError) as unknown:
            stranger.projects.runs.result(project_name=place["project"], run_id="x")
    assert (unknown.value.status_code, unknown.value.body["code"]) == (401, "unauthorized")


def test_older_clients_get_the_200_that_they_take(product: Product, place: dict[str, str]) -> None:
    url = f"/{place['workspace']}/projects/{place['project']}/run/start"
    assert product.call("POST", url, json={"parameters": EMPLOYEE, "api": "hr/onboard"}).status_code == 200


@pytest.mark.parametrize("surface", ["start", "hook"])
def test_of_many_repetitions_at_once_one_starts(product: Product, place: dict[str, str], surface: str) -> None:
    name = uuid.uuid4().hex
    urls = {"start": f"/{place['workspace']}/projects/{place['project']}/run/start", "hook": f"/hooks/{place['hook']}"}
    headers = {"Authorization": f"Bearer {product.facts['api_key']}", "Idempotency-Key": name}

    def send(_: int) -> requests.Response:
        body = {"parameters": {}, "api": "stop"}
        return requests.post(product.url + urls[surface], json=body, headers=headers, timeout=60)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["runId"] for answer in answers}) == 1
    assert sum("Idempotency-Replayed" in answer.headers for answer in answers) == 7
    if surface == "hook":
        assert answers[0].json()["result"] == {"text": "Hello"}
