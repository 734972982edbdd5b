"""The whole Runs API in one go, as an integrator would: credentials, a scheduled job, sinks, results, all by the published
client, with a real S3 and a real receiver at the other end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest
import requests
from intuned_client.client import IntunedClient
from standardwebhooks.webhooks import Webhook

from tests.peers.moto import Moto
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("jobs journey")]

TOOLKITS = Path(__file__).parent.parent / "browser" / "toolkits"
BUCKET = "results"
MODULE = """
name: shop/order
start_parameters:
  - {{name: Number, api_name: number, type: number, required: true}}
steps:
  - {{id: look, tool: GUARDED_ECHO, with: {{}}}}
  - {{id: order, request: {{url: "{upstream}/busy/orders/0.3"}}}}
  - {{id: odd, condition: "{{{{ start.number == 3 }}}}", then: [{{id: stop, fail: {{message: Three is too many}}}}], else: []}}
result: {{number: "{{{{ start.number }}}}", status: "{{{{ steps.order.output.status }}}}"}}
"""
T = TypeVar("T")


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    home = tmp_path_factory.mktemp("jobs")
    running = Product(home, JACKFIELD_EGRESS_ALLOW="127.0.0.0/8", JACKFIELD_TOOLKITS_DIR=str(TOOLKITS))
    try:
        yield running.start()
    finally:
        running.close()


def until(ask: Callable[[], T], good: Callable[[T], bool], patience: float = 40) -> T:
    deadline = time.monotonic() + patience
    while not good(found := ask()):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


@pytest.fixture
def settled(product: Product, upstream: Upstream) -> dict[str, Any]:
    """A project with the toolkit on, auth sessions for it, and the module published; where the client is pointed at."""
    body = {"toolkit": "guarded", "settings": {"base_url": upstream.url}}
    assert product.call("POST", "integrations/configure", json=body).status_code == 200
    told = product.call("PATCH", "settings", json={"authSessions": {"toolkit": "guarded"}})
    assert told.status_code == 200, told.text
    yaml = {"Content-Type": "application/yaml"}
    module = MODULE.format(upstream=upstream.url).encode()
    saved = product.call("PUT", "modules/shop/order", data=module, headers=yaml)
    assert saved.status_code in {200, 201}, saved.text
    assert product.call("POST", "modules/shop/order/publish", json={}).status_code == 200
    project = product.facts["project_id"]
    code = f"from apps.workspaces.models import Project; p = Project.objects.get(pk='{project}'); print(p.workspace_id, p.name)"
    workspace, name = product.run(code).strip().split(maxsplit=1)
    return {"workspace": workspace, "name": name, "url": f"{product.url}/api/v1/workspace"}


def test_a_job_runs_its_items_with_an_auth_session_and_hands_their_results_to_s3_and_to_whoever_asks(
    product: Product, settled: dict[str, Any], upstream: Upstream, moto: Moto
) -> None:
    s3 = boto3.client(
        "s3", endpoint_url=moto.url, region_name="us-east-1", aws_access_key_id="me", aws_secret_access_key="secret"
    )
    s3.create_bucket(Bucket=BUCKET)
    name = settled["name"]
    key = product.facts["api_key"]
    with IntunedClient(api_key=key, workspace_id=settled["workspace"], base_url=settled["url"], timeout=30) as client:
        sessions, jobs = client.projects.auth_sessions, client.projects.jobs
        wanted: Any = {"id": "robot", "parameters": {"api_key": "the-right-key"}}
        started = sessions.create.start(project_name=name, body=wanted)
        done: Any = until(
            lambda: sessions.create.result(project_name=name, operation_id=started.operation_id),
            lambda found: found.status not in {"pending", "in_progress"},
        )
        assert (done.status, getattr(done, "auth_session_id", None)) == ("done", "robot"), done
        seen = sessions.get(project_name=name, auth_session_id="robot")
        assert (seen.type, seen.status) == ("CREDENTIALS", "READY")

        job: Any = {
            "id": "orders",
            "payload": [{"apiName": "shop/order", "parameters": {"number": number}} for number in range(1, 9)],
            "configuration": {"maxConcurrentRequests": 2, "retry": {"maximumAttempts": 1}},
            "auth_session": {"id": "robot"},
            "sink": {
                "type": "s3", "bucket": BUCKET, "accessKeyId": "me", "secretAccessKey": "secret",
                "region": "us-east-1", "endpoint": moto.url, "forcePathStyle": True, "prefix": "daily/",
            },
            "schedule": {"calendars": [{"hour": 9, "minute": 30}], "timezone": "Europe/Berlin"},
        }  # fmt: skip
        assert jobs.create(project_name=name, body=job).id == "orders"
        known = jobs.get(project_name=name, job_id="orders")
        assert known.next_run_time is not None
        assert known.model_dump(by_alias=True)["sink"]["secretAccessKey"] == "********"
        fired = jobs.trigger(project_name=name, job_id="orders")
        ended = until(
            lambda: jobs.runs.get(project_name=name, job_id="orders", job_run_id=fired.job_run_id),
            lambda found: found.job_run.end_time is not None,
        )
    run = ended.job_run
    assert (run.status, run.payloads, run.successful_runs, run.failed_runs) == ("FAILURE", 8, 7, 1)
    assert upstream.peak("orders") == 2
    assert ended.results is not None
    lines = [json.loads(line) for line in requests.get(ended.results.signed_url, timeout=10).text.splitlines()]
    assert [line["parameters"]["number"] for line in lines] == list(range(1, 9))
    assert [line["result"]["status"] for line in lines] == ["completed"] * 2 + ["failed"] + ["completed"] * 5

    def kept() -> list[str]:
        return [row["Key"] for row in s3.list_objects_v2(Bucket=BUCKET, Prefix="daily/").get("Contents", [])]

    keys = until(kept, lambda found: len(found) == 8)
    assert sorted(keys) == sorted(f"daily/{name}/shop/order/{line['runId']}.json" for line in lines)
    bodies = [json.loads(s3.get_object(Bucket=BUCKET, Key=each)["Body"].read()) for each in keys]
    assert all(body["projectJob"] == {"id": "orders"} for body in bodies)
    assert {body["projectJobRun"]["id"] for body in bodies} == {fired.job_run_id}
    assert {body["authSession"]["id"] for body in bodies} == {"robot"}


def test_a_run_hands_its_result_to_a_webhook_that_can_tell_who_sent_it(
    product: Product, settled: dict[str, Any], upstream: Upstream
) -> None:
    upstream.reset()
    with IntunedClient(
        api_key=product.facts["api_key"], workspace_id=settled["workspace"], base_url=settled["url"], timeout=30
    ) as client:
        body: Any = {
            "api": "shop/order",
            "parameters": {"number": 1},
            "authSession": {"runtimeInput": {"api_key": "the-right-key"}},
            "sink": {"type": "webhook", "url": f"{upstream.url}/echo/results", "headers": {"x-mine": "1"}},
        }
        started = client.projects.runs.start(project_name=settled["name"], body=body)
    [sent] = until(lambda: upstream.requests("/echo/results"), bool)
    secret = product.call("GET", "webhook-secret").json()["secret"]
    told = Webhook(secret).verify(sent["body"], {name: sent["headers"][name] for name in sent["headers"]})
    assert sent["headers"]["x-mine"] == "1"
    assert told["apiInfo"] == {
        "name": "shop/order",
        "parameters": {"number": 1},
        "runId": started.run_id,
        "result": {"status": "completed", "result": {"number": 1, "status": 200}, "statusCode": 200},
    }
    rows = product.call("GET", f"deliveries?runId={started.run_id}").json()["deliveries"]
    assert [(row["status"], len(row["tries"])) for row in rows] == [("delivered", 1)]
    assert "the-right-key" not in product.log
