"""Every route of the URL map with every method under credentials that must see nothing: generated, so that none is forgotten."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from apps.connections.flows import digest
from apps.connections.links import Link, make_link
from apps.connections.models import AuthOperation, AuthSession, Connection, ConnectPage, Integration
from apps.modules.definition import Step
from apps.modules.models import Module
from apps.runs import jobs, sinks
from apps.runs.engine import Ask
from apps.runs.human import ask
from apps.runs.models import Delivery, HumanTask, Job, JobRun, Run, RunSignal, SinkSettings
from apps.runs.starting import start
from apps.toolkits.models import OwnToolkit
from apps.toolkits.services import put
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import ApiKey, EndUser, WebhookDelivery, WebhookEndpoint
from apps.workspaces.services import change_settings, create_project, issue_key
from apps.workspaces.tokens import mint_user_token
from apps.workspaces.webhooks import create_endpoint, send_test
from tests.api.automations import publish
from tests.api.shop import Shop, error_of
from tests.cast import EVERY_SCOPE, PASSWORD, Cast

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
BLANK = re.compile(r"<(?:\w+:)?(\w+)>")
VARIABLE = re.compile(r'"(timestamp|path|requestId|correlationId)":"[^"]*"')
MARK = "marked-secret"  # stands in everything that is Alice's
NOTE = [{"name": "Note", "api_name": "note", "type": "text"}]

# Routes that know no tenant: probes, documentation, sign-in (tests/workspaces/test_login.py), the sandbox's own service and
# its OpenID provider, the providers' way back (tests/acceptance/test_callback_faults.py), colours, and the libraries' pages.
NO_TENANT = re.compile(
    r"$|admin/|accounts/|identity/|sandbox/|\.well-known/|healthz|readyz|metrics|docs|openapi\.json|api/auth/"
    r"|v1/(<str:app_id>/)?integrations/callback|connect/(result|theme/)|me/leave|api/integrations/templates|static/"
    r"|modules\.schema\.json"
    r"|\^\(\?:api/v1/workspace/\)\?.*/web-tasks"  # that there are none: tests/api/test_jobs.py
)


def routes(prefix: str = "", resolver: URLResolver | None = None) -> Iterator[str]:
    for item in (resolver or get_resolver()).url_patterns:
        route = prefix + str(item.pattern)
        if isinstance(item, URLResolver):
            yield from routes(route, item)
        elif isinstance(item, URLPattern) and not NO_TENANT.match(route):
            yield route


EVERY = sorted(set(routes()))
# Where the path names the project, or a module of it; where the credential does; and pages, which know browsers. Hooks know no
# credentials but their token (tests/api/test_hooks.py), nor do files of results (tests/runs/test_job_results.py).
HOOKS = [route for route in EVERY if route.startswith(("hooks/", "v1/job-results/"))]
ROUTES = [route for route in EVERY if "<project:" in route or route.startswith(("<workspace:", "api/"))]
OWN = [
    route for route in EVERY
    if "<project:" not in route and route.startswith(("v1/", "api-keys")) and route not in HOOKS
]  # fmt: skip
# Whoever has the link of a session may look at it.
BY_LINK = [route for route in EVERY if route.startswith("s/<str:public_id>/sessions/")]
PAGES = [route for route in EVERY if route.startswith(("connect/", "me/", "s/", "inbox")) and route not in BY_LINK]


def test_no_route_is_left_out() -> None:
    assert sorted([*ROUTES, *OWN, *PAGES, *BY_LINK, *HOOKS]) == EVERY
    assert len(ROUTES) >= 57
    assert len(OWN) >= 9
    assert len(PAGES) >= 9


@pytest.fixture
def marked(shop: Shop) -> Shop:
    """Alice's rows, each with the mark in it."""
    EndUser.objects.filter(external_id="u1").update(external_id=f"{MARK}-user")
    Connection.objects.update(account_label=MARK)
    Integration.objects.update(display_name=MARK)
    webhook, _ = create_endpoint(shop.cast.project, f"https://{MARK}.example", SYSTEM)
    send_test(webhook, SYSTEM)
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": MARK}, "userId": f"{MARK}-user"}
    assert shop.api.post("integrations/execute", body).status_code == 200
    shop.executions()
    put(shop.cast.project, "warehouse", {"name": MARK, "auth": [{"type": "api_key"}]}, SYSTEM)
    user = EndUser.objects.get(external_id=f"{MARK}-user")
    issue_key(shop.cast.workspace, MARK, SYSTEM, project=shop.cast.project, end_user=user, scopes=["execute"])
    now = timezone.now()
    ConnectPage.objects.create(
        digest=digest("page-secret"),
        project=shop.cast.project,
        end_user=user,
        expires_at=now + timedelta(minutes=30),
        binding=digest("alices-browser"),
        opened_at=now,
    )
    module = publish(shop.cast.project, MARK, title=MARK, start_parameters=NOTE)
    Module.objects.filter(pk=module.pk).update(title=MARK)
    run = start(module, {"note": MARK}, SYSTEM, Run.Surface.RUNS, user_id=f"{MARK}-user")
    sent = {"type": "webhook", "url": f"https://{MARK}.example"}
    ended = Run.objects.get(pk=run.pk)
    ended.status = Run.Status.COMPLETED
    ended.seal("sink", sent)
    sinks.write_delivery(ended, now)
    sinks.change_default(shop.cast.project, sent, SYSTEM)
    step = Step.model_validate({"id": "ok", "approve": {"title": MARK}})
    job: dict[str, Any] = {
        "id": MARK,
        "payload": [{"apiName": MARK, "parameters": {"note": MARK}}],
        "configuration": {},
    }
    jobs.trigger(jobs.create(shop.cast.project, job, SYSTEM, f"{MARK}-user"), SYSTEM)
    ask(run, Ask("ok", step, {"title": MARK}, [f"{MARK}@example.com", f"user:{MARK}-user"], None, None), now)
    change_settings(shop.cast.project, {"authSessions": {"toolkit": "lab"}}, SYSTEM)
    session = {"project": shop.cast.project, "name": MARK}
    row = AuthSession.objects.create(**session, toolkit="lab", connection=shop.connection)
    AuthOperation.objects.create(**session, session=row, kind=AuthOperation.Kind.VALIDATE)
    return shop


def path_of(shop: Shop, route: str) -> str:
    """The route with Alice's own ids in its blanks."""
    run = Run.objects.get(user_id=f"{MARK}-user", job_run=None)
    values = {
        "workspace_id": str(shop.cast.workspace.pk),
        "project_name": shop.cast.project.name,
        "run_id": run.pk,
        "session_id": run.session_id,
        "published_module_id": run.module.public_id,
        "public_id": run.module.public_id,
        "task_id": run.tasks.get().pk,
        "auth_session_id": MARK,
        "operation_id": AuthOperation.objects.get(project=shop.cast.project).pk,
        "job_id": MARK,
        "job_run_id": JobRun.objects.get(project=shop.cast.project).pk,
        "event_name": "payment",
        "name": MARK,
        "n": "1",
        "app_id": shop.cast.project.pk,
        "toolkit": "lab",
        "connection_id": shop.connection.pk,
        "user_id": f"{MARK}-user",
        "execution_id": shop.executions()[0].pk,
        "path": "echo/items",
        "project_id": shop.cast.project.pk,
        "integration_id": shop.integration.pk,
        "slug": "warehouse",
        "integration": "lab",
        "endpoint": "get_item",
        "key_id": ApiKey.objects.get(name=MARK).pk,
        "page_id": ConnectPage.objects.get(end_user__external_id=f"{MARK}-user").pk,
        "secret": "page-secret",
        "token": make_link(Link(shop.cast.project.pk, "somebody", "lab"))[-20:],
        "webhook_id": WebhookEndpoint.objects.get(project=shop.cast.project).pk,
        "sink_delivery_id": Delivery.objects.get(project=shop.cast.project).pk,
        "delivery_id": WebhookDelivery.objects.get(project=shop.cast.project).pk,
    }
    names = BLANK.findall(route)
    assert set(names) <= set(values), f"{route} has a blank that this test does not know: give it a value of Alice's"
    return "/" + BLANK.sub(lambda match: values[match.group(1)], route)


def signed_in(cast: Cast) -> str:
    answer = cast.foreign.post("/api/auth/login", {"email": cast.charlie.email, "password": PASSWORD})
    return str(answer.json()["token"])


def credentials(shop: Shop, who: str) -> dict[str, str]:
    cast = shop.cast
    second = create_project(cast.workspace, "Second", SYSTEM)
    keys: dict[str, Callable[[], str]] = {
        "another workspace's key": lambda: cast.foreign_key,
        "another workspace's own key": lambda: issue_key(cast.foreign_workspace, "w", SYSTEM, scopes=EVERY_SCOPE)[1],
        "another project's key": lambda: issue_key(cast.workspace, "p", SYSTEM, project=second, scopes=EVERY_SCOPE)[1],
        "another project's user": lambda: mint_user_token(second, f"{MARK}-user", 600)[0],
        "another workspace's user": lambda: mint_user_token(cast.foreign_project, f"{MARK}-user", 600)[0],
        "a member of another workspace": lambda: signed_in(cast),
        "a key that is none": lambda: "jf_sk_nothing",
        "a token that is none": lambda: "a.b.c",
    }
    return {} if who == "nobody" else {"Authorization": f"Bearer {keys[who]()}"}


EXPECTED = {
    "another workspace's key": {404},
    "another workspace's own key": {404},
    "another project's key": {404},
    "another project's user": {401},
    "another workspace's user": {401},
    "a member of another workspace": {404},
    "a key that is none": {401},
    "a token that is none": {401},
    "nobody": {401},
}


def state(shop: Shop) -> list[Any]:
    """All that is Alice's."""
    project, user = {"project": shop.cast.project}, {"end_user__external_id": f"{MARK}-user"}
    rows: list[Any] = [model.objects.filter(**project) for model in (Integration, WebhookEndpoint, WebhookDelivery)]
    rows += [model.objects.filter(**project, **user) for model in (Connection, ApiKey, ConnectPage)]
    rows += [EndUser.objects.filter(**project, external_id=f"{MARK}-user"), OwnToolkit.objects.filter(**project)]
    rows += [
        Module.objects.filter(**project),
        Run.objects.filter(**project, user_id=f"{MARK}-user"),
        RunSignal.objects.all(),
        Delivery.objects.filter(**project),
        SinkSettings.objects.filter(**project),
        HumanTask.objects.filter(**project),
        Job.objects.filter(**project),
        JobRun.objects.filter(**project),
        AuthSession.objects.filter(**project),
        AuthOperation.objects.filter(**project),
    ]
    return [list(found.order_by("pk").values()) for found in rows]


def flat(answer: Any) -> None:
    """The errors of the Shortcut and the Raw execute API."""
    body = answer.json()
    assert isinstance(body.get("error"), str), body


def in_its_envelope(route: str, answer: Any) -> None:
    """Asserts that an error is in the form of the route's surface."""
    if route.startswith("api/integrations/"):
        flat(answer)
    elif route.startswith(("<workspace:", "api/v1/workspace/")):
        assert answer.json()["category"] == "user"
    elif route.startswith("api/execution/"):
        assert [error["status"] for error in answer.json()["errors"]] == [str(answer.status_code)]
    else:
        error_of(answer)


@pytest.mark.parametrize("who", EXPECTED)
def test_who_is_a_stranger_gets_neither_data_nor_a_hint(marked: Shop, who: str) -> None:
    headers = credentials(marked, who)
    before = state(marked)
    marked.upstream.reset()
    client = Client(raise_request_exception=True)
    body = json.dumps({"toolkit": "lab", "toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": f"{MARK}-user"})
    for route in ROUTES:
        for method in METHODS:
            answer = client.generic(
                method, path_of(marked, route), body, content_type="application/json", headers=headers
            )
            where = f"{method} {route} as {who}: {answer.status_code} {answer.content[:200]!r}"
            assert answer.status_code in EXPECTED[who] | {405}, where
            if answer.status_code == 405:
                assert answer["Allow"], where
                assert method not in answer["Allow"].split(", "), where
            assert MARK not in answer.content.decode(), where
            if method != "HEAD":
                in_its_envelope(route, answer)
    assert state(marked) == before
    assert marked.upstream.requests() == []


def test_another_user_of_the_project_sees_nothing_of_the_first(marked: Shop) -> None:
    headers = {"Authorization": f"Bearer {mint_user_token(marked.cast.project, 'stranger', 600)[0]}"}
    Integration.objects.update(display_name="Lab")  # every user of a project may know what it offers
    before = state(marked)
    marked.upstream.reset()
    client = Client()
    body = json.dumps({"toolkit": "lab", "toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": f"{MARK}-user",
                       "connectionId": marked.connection.pk})  # fmt: skip
    for route in ROUTES:
        for method in METHODS:
            answer = client.generic(
                method, path_of(marked, route), body, content_type="application/json", headers=headers
            )
            where = f"{method} {route}: {answer.status_code} {answer.content[:200]!r}"
            assert answer.status_code in {200, 201, 400, 403, 404, 405}, where
            assert MARK not in answer.content.decode(), where
    assert state(marked) == before
    assert marked.upstream.requests() == []


def test_a_foreign_project_answers_as_one_that_does_not_exist(marked: Shop) -> None:
    """To a key of another tenant, byte for byte but for the ids it sent itself."""
    headers = credentials(marked, "another workspace's key")
    for route in ROUTES:
        real = path_of(marked, route)
        fancied = real.replace(marked.cast.project.pk, "proj_doesnotexist").replace(
            "/projects/Shop/", "/projects/None/"
        )
        fancied = fancied.replace(Module.objects.get(name=MARK).public_id, "oITwNKIrRdS0A0TFVPP54g")
        answers = [Client().get(path, headers=headers) for path in (real, fancied)]
        assert answers[0].status_code == answers[1].status_code
        said = [VARIABLE.sub("", answer.content.decode()) for answer in answers]
        assert said[0] == said[1]


@pytest.mark.parametrize("who", EXPECTED)
def test_where_the_credential_names_the_project_a_stranger_is_at_home_alone(marked: Shop, who: str) -> None:
    headers = credentials(marked, who) | {"X-End-User": f"{MARK}-user"}
    before = state(marked)
    marked.upstream.reset()
    client = Client(raise_request_exception=True)
    body = json.dumps({"integration": "lab", "params": {"id": "1"}, "name": "mine", "userId": f"{MARK}-user"})
    for route in OWN:
        for method in METHODS:
            answer = client.generic(
                method, path_of(marked, route), body, content_type="application/json", headers=headers
            )
            where = f"{method} {route} as {who}: {answer.status_code} {answer.content[:200]!r}"
            if EXPECTED[who] == {401}:
                own = who in {"another project's user", "another workspace's user"}
                assert own or answer.status_code in {401, 405}, where
            assert answer.status_code < 500, where
            assert f'{MARK}"' not in answer.content.decode(), where
            assert marked.connection.pk not in answer.content.decode(), where
            if method != "HEAD" and answer.status_code >= 400:
                flat(answer)
    assert state(marked) == before
    assert marked.upstream.requests() == []


@pytest.mark.parametrize("cookie", ["", "another-browser"])
def test_pages_of_another_browser_show_nothing_and_change_nothing(marked: Shop, cookie: str) -> None:
    before = state(marked)
    marked.upstream.reset()
    client = Client(raise_request_exception=True)
    for name in ("jf_connect", "jf_page", "jf_me"):
        client.cookies[name] = cookie
    for route in PAGES:
        for method in METHODS:
            answer = client.generic(
                method, path_of(marked, route), b"a=b", content_type="application/x-www-form-urlencoded"
            )
            where = f"{method} {route}: {answer.status_code}"
            assert answer.status_code < 500, where
            assert MARK not in answer.content.decode(), where
    assert state(marked) == before
    assert marked.upstream.requests() == []
