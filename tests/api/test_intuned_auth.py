"""The published client's auth sessions (PyPI `intuned-client`) at the running product: every method, sync and async."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from intuned_client import auth_sessions, auth_sessions_create, auth_sessions_update, auth_sessions_validate, models
from intuned_client.async_client import AsyncIntunedClient
from intuned_client.client import IntunedClient
from intuned_client.exceptions import NotFoundError, ValidationError

from tests.api.test_wire import script
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("intuned")]

GOOD, BAD = "a-key-that-is-good", "a-key-that-is-wrong"
# A project of its own: where auth sessions are on, every run needs one.
MAKE = """
from apps.connections.integrations import configure
from apps.toolkits.services import put
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import SCOPES, Workspace
from apps.workspaces.services import change_settings, create_project, issue_key
from tests.api.automations import publish
from apps.workspaces.models import Project
upstream, good = sys.argv[2:4]
workspace = Project.objects.get(pk=sys.argv[1]).workspace
project = create_project(workspace, "Auth sessions", SYSTEM)
key = {"type": "api_key", "placement": {"in": "header", "name": "Authorization", "prefix": "Bearer "}}
tool = {"slug": "look", "name": "Look", "description": "Looks.", "method": "GET", "path": "/echo/look"}
document = {"name": "Vault", "base_url": upstream, "auth": [key], "tools": [tool], "test": {"path": "/bearer/" + good}}
put(project, "vault", document, SYSTEM)
put(project, "alone", {**document, "name": "Alone", "sessions": "exclusive"}, SYSTEM)
oauth = {"type": "oauth2", "authorization_url": upstream + "/authorize", "token_url": upstream + "/token/ok"}
put(project, "person", {**document, "name": "Person", "auth": [oauth]}, SYSTEM)
for slug in ("vault", "alone", "person"):
    configure(project, slug, SYSTEM, client_id="client", client_secret="client-secret")
change_settings(project, {"authSessions": {"toolkit": "vault"}}, SYSTEM)
for slug in ("vault", "alone"):
    steps = [{"id": "look", "tool": slug.upper() + "_LOOK"}]
    publish(project, "look-" + slug, steps=steps, result="{{ steps.look.output.headers.authorization }}")
publish(project, "wait", steps=[{"id": "go", "wait": {"event": "go"}}])
print(workspace.pk, project.pk, issue_key(workspace, "auth", SYSTEM, project=project, scopes=list(SCOPES))[1])
"""


class Place:
    """Where the client is pointed at."""

    def __init__(self, product: Product, upstream: Upstream) -> None:
        self.product = product
        known = script(product, MAKE, product.facts["project_id"], upstream.url, GOOD).split()
        self.workspace, self.project_id, self.key = known
        self.name = "Auth sessions"
        self.options: dict[str, Any] = {
            "api_key": self.key,
            "workspace_id": self.workspace,
            "base_url": f"{product.url}/api/v1/workspace",
            "timeout": 30,
        }

    def switch(self, toolkit: str) -> None:
        """Over the API, as an integrator does."""
        answer = self.product.call(
            "PATCH",
            f"/v1/{self.project_id}/settings",
            json={"authSessions": {"toolkit": toolkit}},
            headers={"Authorization": f"Bearer {self.key}"},
        )
        assert answer.json()["authSessions"] == {"toolkit": toolkit}


@pytest.fixture(scope="module")
def place(product: Product, upstream: Upstream) -> Place:
    return Place(product, upstream)


@pytest.fixture
def vault(place: Place) -> Place:
    place.switch("vault")
    return place


@pytest.fixture
def client(vault: Place) -> Iterator[IntunedClient]:
    with IntunedClient(**vault.options) as found:
        yield found


def until(read: Callable[[], Any], *states: str) -> Any:
    """What is read once it is in one of the states."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = read()
        if found.status in states:
            return found
        time.sleep(0.1)
    raise AssertionError(f"still {found.status}")


def created(client: IntunedClient, place: Place, key: str = GOOD, **body: Any) -> Any:
    """The result of a creation."""
    service = client.projects.auth_sessions.create
    given: Any = {"parameters": {"api_key": key}, **body}
    begun = service.start(project_name=place.name, body=given)
    assert isinstance(begun, models.AuthSessionsCreateStartResponse)
    assert begun.status == "started"
    return until(
        lambda: service.result(project_name=place.name, operation_id=begun.operation_id), "done", "failed", "canceled"
    )


def ended(client: IntunedClient, place: Place, run_id: str) -> Any:
    return until(
        lambda: client.projects.runs.result(project_name=place.name, run_id=run_id), "completed", "failed", "canceled"
    )


def test_no_method_of_the_clients_auth_sessions_is_left_out() -> None:
    expected = {
        auth_sessions.AuthSessionsService: {"list", "get", "delete"},
        auth_sessions.AsyncAuthSessionsService: {"list", "get", "delete"},
        auth_sessions_create.AuthSessionsCreateService: {"start", "result"},
        auth_sessions_create.AsyncAuthSessionsCreateService: {"start", "result"},
        auth_sessions_update.AuthSessionsUpdateService: {"start", "result"},
        auth_sessions_update.AsyncAuthSessionsUpdateService: {"start", "result"},
        auth_sessions_validate.AuthSessionsValidateService: {"start", "result"},
        auth_sessions_validate.AsyncAuthSessionsValidateService: {"start", "result"},
    }
    for service, methods in expected.items():
        assert {name for name, _ in inspect.getmembers(service, inspect.isfunction) if name[0] != "_"} == methods


def test_a_session_is_created_listed_read_validated_updated_and_deleted(client: IntunedClient, vault: Place) -> None:
    sessions, name = client.projects.auth_sessions, "jane doe/..".replace("/", "-")
    done = created(client, vault, id=name)
    assert isinstance(done, models.AuthSessionsCreateResultResponseValueDone)
    assert done.auth_session_id == name
    listed = sessions.list(project_name=vault.name)
    assert next(one for one in listed if one.id == name).status == "READY"
    found = sessions.get(project_name=vault.name, auth_session_id=name)
    assert (found.id, found.type, found.status) == (name, "CREDENTIALS", "READY")

    recreate: Any = {"autoRecreate": True}
    begun = sessions.validate.start(project_name=vault.name, auth_session_id=name, body=recreate)
    assert begun.status == "pending"
    valid = until(
        lambda: sessions.validate.result(
            project_name=vault.name, auth_session_id=name, operation_id=begun.operation_id
        ),
        "done", "failed", "canceled",
    )  # fmt: skip
    assert isinstance(valid, models.AuthSessionsValidateResultResponseValueDone)

    change: Any = {"parameters": {"api_key": BAD}, "createAttempts": 1}
    renewed = sessions.update.start(project_name=vault.name, auth_session_id=name, body=change)
    assert renewed.status == "started"
    wrong = until(
        lambda: sessions.update.result(
            project_name=vault.name, auth_session_id=name, operation_id=renewed.operation_id
        ),
        "done", "failed", "canceled",
    )  # fmt: skip
    assert isinstance(wrong, models.AuthSessionsUpdateResultResponseValueFailed)
    assert (wrong.error.category, wrong.error.code) == ("auth", "create-attempts-failed")
    assert sessions.get(project_name=vault.name, auth_session_id=name).status == "READY"

    sessions.delete(project_name=vault.name, auth_session_id=name)
    with pytest.raises(NotFoundError):
        sessions.get(project_name=vault.name, auth_session_id=name)


def test_the_same_asynchronously(vault: Place) -> None:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[AsyncIntunedClient]:
        client = AsyncIntunedClient(**vault.options)
        try:
            yield client
        finally:
            await client.aclose()

    async def over(read: Callable[[], Awaitable[Any]]) -> Any:
        for _ in range(600):
            found = await read()
            if found.status in {"done", "failed", "canceled", "completed"}:
                return found
            await asyncio.sleep(0.1)
        raise AssertionError(f"still {found.status}")

    async def go() -> list[str]:
        told, at = [], {"project_name": vault.name}
        async with opened() as client:
            sessions = client.projects.auth_sessions
            begun = await sessions.create.start(**at, body={"id": "async", "parameters": {"api_key": GOOD}})
            made = await over(lambda: sessions.create.result(**at, operation_id=begun.operation_id))
            told.append(made.status)
            one = {**at, "auth_session_id": "async"}
            update = await sessions.update.start(**one, body={"parameters": {"api_key": GOOD}})
            told.append((await over(lambda: sessions.update.result(**one, operation_id=update.operation_id))).status)
            check = await sessions.validate.start(**one, body={})
            told.append((await over(lambda: sessions.validate.result(**one, operation_id=check.operation_id))).status)
            body: Any = {"api": "look-vault", "parameters": {}, "authSession": {"id": "async"}}
            run = await client.projects.runs.start(**at, body=body)
            told.append((await over(lambda: client.projects.runs.result(**at, run_id=run.run_id))).status)
            told.append((await sessions.get(**one)).status)
            told.append(str("async" in {row.id for row in await sessions.list(**at)}))
            await sessions.delete(**one)
        return told

    with ThreadPoolExecutor(1) as thread:  # this one may have a browser's event loop
        told = thread.submit(asyncio.run, go()).result()
    assert told == ["done", "done", "done", "completed", "READY", "True"]


def test_what_is_wrong_is_told_at_once_or_by_the_result(client: IntunedClient, vault: Place) -> None:
    create = client.projects.auth_sessions.create
    with pytest.raises(ValidationError) as missing:
        create.start(project_name=vault.name, body={"parameters": {}})
    assert (missing.value.status_code, list(missing.value.body["details"])) == (400, ["parameters.api_key"])
    failed = created(client, vault, BAD, createAttempts=1)
    assert isinstance(failed, models.AuthSessionsCreateResultResponseValueFailed)
    assert (failed.error.category, failed.error.code) == ("auth", "create-attempts-failed")
    with pytest.raises(NotFoundError):
        create.result(project_name=vault.name, operation_id="no such/..")


def test_a_deleted_sessions_operation_is_read_as_cancelled(client: IntunedClient, vault: Place) -> None:
    paused = [pid for pid, command in vault.product.processes().items() if "celery" in command]
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    try:
        create = client.projects.auth_sessions.create
        begun = create.start(project_name=vault.name, body={"id": "short-lived", "parameters": {"api_key": GOOD}})
        waiting = create.result(project_name=vault.name, operation_id=begun.operation_id)
        assert isinstance(waiting, models.AuthSessionsCreateResultResponseValuePending)
        client.projects.auth_sessions.delete(project_name=vault.name, auth_session_id="short-lived")
        found = create.result(project_name=vault.name, operation_id=begun.operation_id)
    finally:
        for pid in paused:
            os.kill(pid, signal.SIGCONT)
    assert isinstance(found, models.AuthSessionsCreateResultResponseValueCanceled)
    assert found.reason.type == "cancelled-user-action"


def test_runs_act_with_a_session_or_with_what_they_are_given(client: IntunedClient, vault: Place) -> None:
    created(client, vault, id="runner")
    start = client.projects.runs.start
    body: dict[str, Any] = {"api": "look-vault", "parameters": {}}
    with pytest.raises(ValidationError) as without:
        start(project_name=vault.name, body=body)  # type: ignore[arg-type]
    assert list(without.value.body["details"]) == ["authSession"]
    with pytest.raises(NotFoundError):
        start(project_name=vault.name, body=body | {"authSession": {"id": "nobody"}})  # type: ignore[arg-type]
    for session in ({"id": "runner", "checkAttempts": 1}, {"runtimeInput": {"api_key": GOOD}}):
        run = start(project_name=vault.name, body=body | {"authSession": session})  # type: ignore[arg-type]
        found = ended(client, vault, run.run_id)
        assert (found.status, found.result) == ("completed", f"Bearer {GOOD}")
    given = {"runtimeInput": {"api_key": BAD}, "createAttempts": 1}
    run = start(project_name=vault.name, body=body | {"authSession": given})  # type: ignore[arg-type]
    failed = ended(client, vault, run.run_id)
    assert (failed.error.category, failed.error.code) == ("auth", "create-attempts-failed")
    assert BAD not in failed.model_dump_json()
    assert BAD not in vault.product.log
    assert [
        row.type for row in client.projects.auth_sessions.list(project_name=vault.name) if row.type == "RUNTIME"
    ] == []


def test_an_exclusive_session_is_one_runs_at_a_time(place: Place) -> None:
    place.switch("alone")
    with IntunedClient(**place.options) as client:
        created(client, place, id="only-one")
        session = {"authSession": {"id": "only-one"}}
        body: Any = {"api": "wait", "parameters": {}, **session}
        first = client.projects.runs.start(project_name=place.name, body=body)
        with pytest.raises(ValidationError) as used:
            client.projects.runs.start(project_name=place.name, body=body)
        assert (used.value.status_code, used.value.body["code"]) == (409, "auth-session-already-in-use")
        headers = {"Authorization": f"Bearer {place.key}"}
        path = f"/v1/{place.project_id}/runs/{first.run_id}/events/go"
        assert place.product.call("POST", path, json={}, headers=headers).status_code == 202
        assert ended(client, place, first.run_id).status == "completed"
        body = {"api": "look-alone", "parameters": {}, **session}
        again = client.projects.runs.start(project_name=place.name, body=body)
        assert ended(client, place, again.run_id).status == "completed"


def test_of_many_runs_that_want_an_exclusive_session_at_once_one_gets_it(place: Place) -> None:
    place.switch("alone")
    with IntunedClient(**place.options) as client:
        created(client, place, id="wanted")
        body: Any = {"api": "wait", "parameters": {}, "authSession": {"id": "wanted"}}

        def begin(_: int) -> str:
            try:
                return str(client.projects.runs.start(project_name=place.name, body=body).run_id)
            except ValidationError as used:
                return str(used.body["code"])

        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(begin, range(16)))
        assert told.count("auth-session-already-in-use") == 15
        run_id = next(text for text in told if text != "auth-session-already-in-use")
        url = f"/api/v1/workspace/{place.workspace}/projects/{place.name}/run/{run_id}/cancel"
        assert place.product.call("POST", url, headers={"Authorization": f"Bearer {place.key}"}).status_code == 200
        client.projects.auth_sessions.delete(project_name=place.name, auth_session_id="wanted")


def test_an_account_that_a_person_connects_is_asked_for_by_a_link(place: Place) -> None:
    place.switch("person")
    with IntunedClient(**place.options) as client:
        create = client.projects.auth_sessions.create
        begun = create.start(project_name=place.name, body={"id": "by-hand", "parameters": {}})
        failed = until(
            lambda: create.result(project_name=place.name, operation_id=begun.operation_id),
            "done",
            "failed",
            "canceled",
        )
        link = failed.error.details["connectUrl"]
        assert link in failed.message
        page = place.product.call("GET", link.removeprefix(place.product.url), headers={})
        assert page.status_code == 200
        assert "Person" in page.text
        found = client.projects.auth_sessions.get(project_name=place.name, auth_session_id="by-hand")
        assert (found.type, found.status) == ("RECORDER", "PENDING")


def test_an_operation_survives_a_killed_worker(client: IntunedClient, vault: Place) -> None:
    """What a worker took along is taken up again; here before it was begun, for the broker's message is lost with it."""
    create = client.projects.auth_sessions.create
    paused = [pid for pid, command in vault.product.processes().items() if "celery" in command]
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    begun = create.start(project_name=vault.name, body={"id": "survivor", "parameters": {"api_key": GOOD}})
    for pid in paused:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    done = until(
        lambda: create.result(project_name=vault.name, operation_id=begun.operation_id), "done", "failed", "canceled"
    )
    assert done.status == "done"
