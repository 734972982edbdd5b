"""What schemathesis makes up from the API's description, valid and not, is answered as the description says.

Checked are the answers alone: no fault of ours (5xx), and a status, media type, body and headers that are described. Cases are
drawn from a fixed seed, and each is rolled back. Nothing but the tests' own upstream can be called.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from django.core.cache import cache
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as bounds
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, checks
from schemathesis.core.result import Ok

from apps.connections.models import AuthOperation, AuthSession
from apps.lib import egress, openapi
from apps.modules.definition import Step
from apps.modules.services import publish, put_draft
from apps.runs import job_results, jobs, sinks
from apps.runs.engine import Ask
from apps.runs.human import ask
from apps.runs.models import Delivery, Run
from apps.runs.starting import start
from apps.toolkits.api.schema import DOCUMENT
from apps.toolkits.services import put
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import EndUser
from apps.workspaces.services import change_settings, issue_key
from apps.workspaces.tokens import mint_user_token
from apps.workspaces.webhooks import create_endpoint, send_test
from config.wsgi import application
from tests.api.automations import EVENT
from tests.api.shop import Shop
from tests.cast import connect, enable

SEED = 20260131
EXAMPLES = {"a key": 15, "an end user": 6, "nobody": 2}  # of valid requests, and as many of invalid ones
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
OF_RESULTS = "token of results"
KINDS = ("create", "update", "validate")
UNBOUND = {"readJobResults"}  # takes any text: nothing breaks its description
OF_PERSONS = {"listApiKeys", "createApiKey", "revokeApiKey"}
OF_MEMBERS = {"login", "refreshToken"}  # nothing made up is a password
JOB: dict[str, Any] = {"payload": [{"apiName": "onboard", "parameters": {}}], "configuration": {}}
EVERYTHING = tuple(ipaddress.ip_network(text) for text in ("0.0.0.0/0", "::/0"))

SCHEMA = schemathesis.openapi.from_dict(json.loads(openapi.document()))
SCHEMA.app = application
OPERATIONS = {
    operation.definition.raw["operationId"]: operation
    for operation in (found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok))
}


@dataclass(frozen=True)
class There:
    """What is there to be called: by the names of path parameters and of members of bodies."""

    ids: dict[str, str]
    members: dict[str, Any]
    credentials: dict[str, str]


@contextmanager
def one_connection() -> Iterator[None]:
    """A request's end closes no connection of the database: the test's transaction is on it (as Django's own client does)."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in (request_started, request_finished):
            signal.connect(close_old_connections)


@pytest.fixture
def there(shop: Shop, settings: Any, monkeypatch: pytest.MonkeyPatch) -> There:
    settings.JACKFIELD_EGRESS_ALLOW = shop.upstream.url.removeprefix("http://")
    monkeypatch.setattr(egress, "FORBIDDEN", EVERYTHING)
    project, workspace = shop.cast.project, shop.cast.workspace
    sandbox = enable(project, "sandbox", f"{shop.upstream.url}/echo")
    connection = connect(sandbox)
    webhook, _ = create_endpoint(project, "https://yourapp.example", SYSTEM)
    put(project, "warehouse", DOCUMENT, SYSTEM)
    person = EndUser.objects.get(external_id="u1")
    own = issue_key(workspace, "own", SYSTEM, project=project, end_user=person, scopes=["execute"])[0]
    shop.api.post("integrations/execute", {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"})
    module = publish(put_draft(project, "onboard", json.dumps(EVENT), SYSTEM)[0], SYSTEM).module
    module.project = project
    run = start(module, {}, SYSTEM, Run.Surface.RUNS, user_id="u1")
    job = jobs.create(project, JOB | {"id": "nightly"}, SYSTEM, "u1")
    done = jobs.trigger(jobs.create(project, JOB | {"id": "done", "payload": []}, SYSTEM), SYSTEM)
    form = {"title": "Note", "fields": [{"name": "note", "label": "Note"}]}
    asked = Ask("note", Step.model_validate({"id": "note", "form": form}), form, [], None, None)
    ended = Run(pk=run.pk, project=project, workspace=workspace, module=module, status=Run.Status.COMPLETED)
    ended.seal("sink", {"type": "webhook", "url": "https://yourapp.example"})
    sinks.write_delivery(ended, run.created_at)
    named = {"project": project, "name": "robot"}
    session = AuthSession.objects.create(**named, toolkit="lab", connection=shop.connection)
    operations = {
        kind: AuthOperation.objects.create(**named, session=session, kind=kind, status="done").pk for kind in KINDS
    }
    ids = {
        **operations, "authSessionId": session.name,
        OF_RESULTS: job_results.token_of(done.pk),
        "sinkDeliveryId": Delivery.objects.get(run_id=run.pk).pk,
        "workspaceId": str(workspace.pk), "projectName": project.name, "runId": run.pk, "sessionId": run.session_id,
        "publishedModuleId": module.public_id, "token": module.hook_token, "eventName": "payment", "name": module.name, "n": "1",
        "appId": project.pk, "projectId": project.pk, "integrationId": sandbox.pk, "connectionId": connection.pk,
        "executionId": shop.executions()[0].pk, "webhookId": webhook.pk, "deliveryId": send_test(webhook, SYSTEM).pk,
        "userId": "u1", "integration": "sandbox", "endpoint": "list_notes", "id": own.pk, "toolkit": "sandbox",
        "jobId": job.name, "jobRunId": jobs.trigger(job, SYSTEM).pk, "slug": "warehouse",
        "taskId": ask(run, asked, run.created_at).pk,
    }  # fmt: skip
    members = {"toolkit": "sandbox", "integration": "sandbox", "toolName": "SANDBOX_LIST_NOTES", "userId": "u1",
               "params": {}, "credentials": {"accessToken": "a", "refreshToken": "b"}, "connectionId": connection.pk,
               "templateId": "sandbox", "provider": "sandbox", "endpoint": "/items", "email": shop.cast.alice.email,
               "api": module.name, "parameters": {}, "startParameters": {},
               "name": module.name, "version": 1, "of": "key", "steps": EVENT["steps"],
               **JOB, **dict.fromkeys(("schedule", "sink", "proxy", "auth_session", "notifications", "endUser")),
               "start_parameters": [], "result": None, "hook": None, "end": None, "answers": {},
               "extended_payloads": None}  # fmt: skip
    credentials = {"a key": shop.cast.key, "an end user": mint_user_token(project, "u1", 600)[0], "nobody": ""}
    return There(ids, members, credentials)


def at_home(there: There, case: Case[Any], who: str, known: int) -> None:
    """Mostly names what is there, so that more than the 404 is seen; ``known`` is drawn: 0 leaves the case as it came."""
    given = case.path_parameters or {}
    # What stands first in a path chooses the surface, which is another's where it has not the form of its own.
    case.path_parameters = given | {name: f"proj_{given[name]}" for name in ("appId", "projectId") if name in given}
    if "integration" in given:
        case.path_parameters |= {"integration": str(given["integration"]).replace("_", "-")}
    if known:
        kind = next((kind for kind in KINDS if f"/{kind}/" in case.operation.path), None)
        there = There(there.ids | ({"operationId": there.ids[kind]} if kind else {}), there.members, there.credentials)
        ids = there.ids | ({"token": there.ids[OF_RESULTS]} if case.operation.path.startswith(job_results.PATH) else {})
        case.path_parameters = {name: ids.get(name, value) for name, value in given.items()}
        if isinstance(case.body, dict):
            case.body |= {name: value for name, value in there.members.items() if name in case.body and known > 1}
            if known > 1 and case.operation.definition.raw["operationId"] == "putModule":  # what is made up has faults
                case.body = {"steps": EVENT["steps"]}
    headers = {
        name: value for name, value in (case.headers or {}).items() if name not in {"Authorization", "X-API-Key"}
    }
    if there.credentials[who]:
        headers["Authorization"] = f"Bearer {there.credentials[who]}"
    if known > 1:  # for a person who has an account; these two must fit the account and the path
        headers = {name: headers[name] for name in headers if name not in {"X-Connection-Id", "X-Upstream-Path"}}
        headers["X-End-User"] = "u1"
    case.headers.clear()
    case.headers.update(headers)


def call(there: There, case: Case[Any], who: str, known: int) -> int:
    """Calls and checks, and takes back what it did; gives the status."""
    cache.clear()
    at_home(there, case, who, known)
    with one_connection(), transaction.atomic():
        answer = case.call()
        transaction.set_rollback(True)
    case.validate_response(answer, checks=CHECKS)
    return answer.status_code


@pytest.mark.parametrize("who", EXAMPLES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_whatever_is_sent_is_answered_as_described(there: There, shop: Shop, name: str, who: str) -> None:
    statuses: set[int] = set()
    if "AuthSession" in name:  # every other start of a run would need one
        change_settings(shop.cast.project, {"authSessions": {"toolkit": "lab"}}, SYSTEM)

    def hold(mode: GenerationMode) -> None:
        @seed(SEED)
        @bounds(max_examples=EXAMPLES[who], deadline=None, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(case=OPERATIONS[name].as_strategy(generation_mode=mode), known=st.integers(0, 3))
        def holds(case: Case[Any], known: int) -> None:
            statuses.add(call(there, case, who, known))

        holds()

    hold(GenerationMode.POSITIVE)
    parameters = any(True for _ in OPERATIONS[name].iter_parameters())
    if OPERATIONS[name].body or (parameters and name not in UNBOUND):
        hold(GenerationMode.NEGATIVE)
    if who == "nobody" and OPERATIONS[name].definition.raw["security"]:
        assert min(statuses) >= 400
    if who == ("an end user" if name in OF_PERSONS else "a key") and name not in OF_MEMBERS:
        assert min(statuses) < 400, "no case came through"
