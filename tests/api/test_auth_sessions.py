"""The Runs API's auth sessions at both prefixes: bodies, answers, who sees what, and runs that need one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.connections.auth_operations import carry as carry_operation
from apps.connections.models import AuthOperation, AuthSession, Connection
from apps.runs.models import Run
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, IdempotencyRecord, Role, User
from apps.workspaces.services import add_member, end_user, issue_key
from apps.workspaces.tokens import mint_user_token
from tests.api.automations import carried as carry_run
from tests.api.automations import publish
from tests.api.test_credentials import member_api
from tests.cast import PASSWORD, Api, connect
from tests.connections.vaults import BAD, GOOD, OTHER, Vault

pytestmark = pytest.mark.django_db
PREFIXES = {"plain": "", "clients": "/api/v1/workspace"}
each_prefix = pytest.mark.parametrize("prefix", PREFIXES)


def root(vault: Vault, prefix: str = "plain") -> str:
    return f"{PREFIXES[prefix]}/{vault.cast.workspace.pk}/projects/{vault.cast.project.name}"


def succeeds(answer: Any, status: int = 200) -> Any:
    assert answer.status_code == status, answer.content[:500]
    return answer.json()


def refused(answer: Any, status: int, code: str) -> Any:
    assert answer.status_code == status, answer.content[:500]
    body = answer.json()
    assert (body["code"], body["category"]) == (code, "user")
    return body.get("details")


def create(vault: Vault, key: str = GOOD, api: Api | None = None, prefix: str = "plain", **more: Any) -> Any:
    body = {"parameters": {"api_key": key}, "createAttempts": 3, "checkAttempts": 3, **more}
    return (api or vault.api).post(f"{root(vault, prefix)}/auth-sessions/create", body)


def result(vault: Vault, path: str, prefix: str = "plain") -> Any:
    return succeeds(vault.api.get(f"{root(vault, prefix)}/auth-sessions/{path}/result"))


# -- The journey -----------------------------------------------------------------------------------------------------
@each_prefix
def test_a_session_from_its_creation_to_its_end(vault: Vault, prefix: str) -> None:
    url = f"{root(vault, prefix)}/auth-sessions"
    assert succeeds(vault.api.get(url)) == []
    begun = succeeds(create(vault, id="u 1", prefix=prefix), 201)
    operation = begun["operationId"]
    assert (begun["status"], len(operation)) == ("started", 21)
    assert result(vault, f"create/{operation}", prefix) == {"status": "pending"}
    assert succeeds(vault.api.get(f"{url}/u%201")) == {"id": "u 1", "type": "CREDENTIALS", "status": "PENDING"}
    AuthOperation.objects.update(status="in_progress")
    assert result(vault, f"create/{operation}", prefix) == {"status": "in_progress", "runId": operation}
    carry_operation(operation)
    assert result(vault, f"create/{operation}", prefix) == {"status": "done", "authSessionId": "u 1"}
    row = {"id": "u 1", "type": "CREDENTIALS", "status": "READY"}
    assert succeeds(vault.api.get(url)) == [row]

    begun = succeeds(vault.api.post(f"{url}/u%201/validate/start", {}), 201)
    assert begun["status"] == "pending"
    carry_operation(begun["operationId"])
    done = {"status": "done", "authSessionId": "u 1"}
    assert result(vault, f"u%201/validate/{begun['operationId']}", prefix) == done

    vault.put(test=f"/bearer/{OTHER}")
    begun = succeeds(vault.api.post(f"{url}/u%201/update", {"parameters": {"api_key": OTHER}}), 201)
    carry_operation(begun["operationId"])
    assert result(vault, f"u%201/update/{begun['operationId']}", prefix) == done

    gone = vault.api.delete(f"{url}/u%201")
    assert (gone.status_code, gone.content) == (204, b"")
    refused(vault.api.get(f"{url}/u%201"), 404, "not-found")
    refused(vault.api.delete(f"{url}/u%201"), 404, "not-found")
    assert result(vault, f"create/{operation}", prefix)["status"] == "done"


def test_what_the_service_refuses_is_told_by_the_result(vault: Vault) -> None:
    operation = succeeds(create(vault, BAD, id="u1"), 201)["operationId"]
    carry_operation(operation)
    found = result(vault, f"create/{operation}")
    assert (found["status"], found["error"]["code"], found["error"]["category"]) == (
        "failed", "create-attempts-failed", "auth",
    )  # fmt: skip
    assert found["message"] == found["error"]["message"]
    assert BAD not in json.dumps(found)


def test_an_operation_whose_session_was_deleted_is_cancelled(vault: Vault) -> None:
    operation = succeeds(create(vault, id="u1"), 201)["operationId"]
    assert vault.api.delete(f"{root(vault)}/auth-sessions/u1").status_code == 204
    found = result(vault, f"create/{operation}")
    assert (found["status"], found["reason"]["type"]) == ("canceled", "cancelled-user-action")


# -- What is refused -------------------------------------------------------------------------------------------------
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no parameters": ({"parameters": None}, "parameters"),
    "parameters that are a list": ({"parameters": []}, "parameters"),
    "a missing field": ({"parameters": {}}, "parameters.api_key"),
    "a field that is unknown": ({"parameters": {"api_key": GOOD, "nonsense": 1}}, "parameters.nonsense"),
    "an id with a slash": ({"id": "a/b"}, "id"),
    "an id that is a number": ({"id": 7}, "id"),
    "an id with NUL": ({"id": "a\x00b"}, "id"),
    "an empty id": ({"id": ""}, "id"),
    "no attempts": ({"createAttempts": 0}, "createAttempts"),
    "too many attempts": ({"checkAttempts": 1000}, "checkAttempts"),
    "a proxy that is none": ({"proxy": "nonsense"}, "proxy"),
}


@pytest.mark.parametrize(("wrong", "field"), WRONG.values(), ids=WRONG)
def test_a_body_that_does_not_fit_is_refused_and_nothing_is_made(
    vault: Vault, wrong: dict[str, Any], field: str
) -> None:
    assert list(refused(create(vault, **({"id": "u1"} | wrong)), 400, "bad-request")) == [field]
    assert not AuthOperation.objects.exists()
    assert not AuthSession.objects.exists()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"parameters": {"api_key": "\xff"}}', b"\x00"], ids=str)
def test_bodies_that_are_no_object_get_our_own_envelope(vault: Vault, body: bytes) -> None:
    vault.ready()
    for path in ("create", "u1/update", "u1/validate/start"):
        answer = vault.api.call("POST", f"{root(vault)}/auth-sessions/{path}", body)
        if path.endswith("start") and not body:
            succeeds(answer, 201)
        else:
            refused(answer, 400, "bad-request")


def test_an_id_that_is_taken_is_a_conflict(vault: Vault) -> None:
    vault.ready("u1")
    refused(create(vault, id="u1"), 409, "conflict")


def test_without_the_setting_nothing_is_made(vault: Vault) -> None:
    vault.switch(None)
    refused(create(vault, id="u1"), 400, "bad-request")
    refused(vault.api.post(f"{root(vault)}/auth-sessions/u1/update", {"parameters": {}}), 404, "not-found")
    assert succeeds(vault.api.get(f"{root(vault)}/auth-sessions")) == []


def test_an_operation_is_found_by_its_own_kind_and_session_alone(vault: Vault) -> None:
    vault.ready("u1")
    vault.ready("u2")
    operation = vault.validate("u1")
    url = f"{root(vault)}/auth-sessions"
    assert result(vault, f"u1/validate/{operation.pk}") == {"status": "pending"}
    for path in (f"u2/validate/{operation.pk}", f"u1/update/{operation.pk}", f"create/{operation.pk}", "create/nothing",
                 "create/a%00b", f"u1%00/validate/{operation.pk}"):  # fmt: skip
        refused(vault.api.get(f"{url}/{path}/result"), 404, "not-found")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_no_session_is_called_create(vault: Vault, method: str) -> None:
    refused(vault.api.call(method, f"{root(vault)}/auth-sessions/create"), 405, "method-not-allowed")


def test_a_repetition_makes_one_session(vault: Vault) -> None:
    body = {"parameters": {"api_key": GOOD}}
    url = f"{root(vault)}/auth-sessions/create"
    answers = [vault.api.post(url, body, **{"Idempotency-Key": "once"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert AuthOperation.objects.count() == 1
    assert GOOD not in str(list(IdempotencyRecord.objects.values()))


# -- Who -------------------------------------------------------------------------------------------------------------
def test_the_scope_runs_is_needed(vault: Vault) -> None:
    vault.ready("u1")
    url = f"{root(vault)}/auth-sessions"
    poor = vault.cast.with_key("execute", "connect")
    refused(poor.get(url), 403, "forbidden")
    refused(create(vault, api=poor), 403, "forbidden")
    refused(poor.delete(f"{url}/u1"), 403, "forbidden")
    rich = vault.cast.with_key("runs")
    assert len(succeeds(rich.get(url))) == 1
    limited = vault.cast.with_key("runs", toolkits=["github"])
    refused(create(vault, api=limited), 403, "forbidden")


def test_a_developer_does_all_but_delete(vault: Vault) -> None:
    vault.ready("u1")
    dora = User.objects.create_user("dora@example.com", PASSWORD)
    add_member(vault.cast.workspace, dora, Role.DEVELOPER, SYSTEM)
    developer = member_api(vault.cast, dora.email)
    url = f"{root(vault)}/auth-sessions"
    succeeds(create(vault, api=developer, id="u2"), 201)
    refused(developer.delete(f"{url}/u1"), 403, "forbidden")
    assert {row["id"] for row in succeeds(vault.api.get(url))} == {"u1", "u2"}


@pytest.mark.parametrize("who", ["token", "key"])
def test_an_end_user_sees_and_makes_only_their_own(vault: Vault, who: str) -> None:
    vault.ready("u1")
    project = vault.cast.project
    shared = connect(project.integrations.get(toolkit="vault"), "u7")
    Connection.objects.filter(pk=shared.pk).update(end_user=None)
    publish(project, "look", steps=[{"id": "look", "tool": "VAULT_LOOK"}])
    secret = mint_user_token(project, "u2", 600)[0] if who == "token" else issue_key(
        vault.cast.workspace, "u2", SYSTEM, project=project, end_user=end_user(project, "u2"), scopes=["runs"]
    )[1]  # fmt: skip
    theirs = Api(project, secret)
    url = f"{root(vault)}/auth-sessions"
    assert succeeds(theirs.get(url)) == []
    run = {"parameters": {}, "api": "look", "authSession": {"id": shared.pk}}
    refused(theirs.post(f"{root(vault)}/run/start", run), 404, "not-found")
    refused(theirs.get(f"{url}/{shared.pk}"), 404, "not-found")
    refused(theirs.get(f"{url}/u1"), 404, "not-found")
    refused(theirs.delete(f"{url}/u1"), 404, "not-found")
    refused(theirs.post(f"{url}/u1/validate/start", {}), 404, "not-found")
    refused(create(vault, api=theirs, id="u3"), 403, "forbidden")
    carry_operation(succeeds(create(vault, api=theirs), 201)["operationId"])
    assert succeeds(theirs.get(url)) == [{"id": "u2", "type": "CREDENTIALS", "status": "READY"}]


# -- Runs ------------------------------------------------------------------------------------------------------------
def start(vault: Vault, **body: Any) -> Any:
    return vault.api.post(f"{root(vault)}/run/start", {"parameters": {}, "api": "look", **body})


@pytest.fixture
def module(vault: Vault) -> Any:
    steps = [{"id": "look", "tool": "VAULT_LOOK"}]
    return publish(vault.cast.project, "look", steps=steps, result="{{ steps.look.output.headers.authorization }}")


def test_every_run_of_such_a_project_needs_a_session(vault: Vault, module: Any) -> None:
    vault.ready("u1")
    assert list(refused(start(vault), 400, "bad-request")) == ["authSession"]
    refused(start(vault, authSession={"id": "u2"}), 404, "not-found")
    assert not Run.objects.exists()
    run = carry_run(succeeds(start(vault, authSession={"id": "u1"}))["runId"])
    assert (run.status, run.result) == ("completed", f"Bearer {GOOD}")


def test_runtime_input_is_checked_field_by_field(vault: Vault, module: Any) -> None:
    details = refused(start(vault, authSession={"runtimeInput": {"a": 1}}), 400, "bad-request")
    assert set(details) == {"authSession.runtimeInput.a", "authSession.runtimeInput.api_key"}
    run = carry_run(
        succeeds(start(vault, authSession={"runtimeInput": {"api_key": GOOD}, "autoRecreate": True}))["runId"]
    )
    assert (run.status, run.result, run.runtime_auth) == ("completed", f"Bearer {GOOD}", "")
    assert succeeds(vault.api.get(f"{root(vault)}/auth-sessions")) == []


def test_a_session_in_exclusive_use_is_a_conflict_of_its_own(vault: Vault, module: Any) -> None:
    vault.put(sessions="exclusive")
    vault.ready("u1")
    first = succeeds(start(vault, authSession={"id": "u1"}))["runId"]
    refused(start(vault, authSession={"id": "u1"}), 409, "auth-session-already-in-use")
    refused(vault.api.delete(f"{root(vault)}/auth-sessions/u1"), 409, "auth-session-already-in-use")
    carry_run(first)
    succeeds(start(vault, authSession={"id": "u1"}))


def test_a_refusal_for_its_use_is_not_what_a_repetition_is_answered_with(vault: Vault, module: Any) -> None:
    vault.put(sessions="exclusive")
    vault.ready("u1")
    first = succeeds(start(vault, authSession={"id": "u1"}))["runId"]
    body = {"parameters": {}, "api": "look", "authSession": {"id": "u1"}}
    for status in (409, 409, 200):
        if status == 200:
            carry_run(first)
        answer = vault.api.post(f"{root(vault)}/run/start", body, **{"Idempotency-Key": "again"})
        assert answer.status_code == status


def test_an_account_that_does_not_work_fails_the_run_with_its_code(vault: Vault, module: Any) -> None:
    vault.ready("u1")
    vault.put(test=f"/bearer/{OTHER}")
    run_id = succeeds(start(vault, authSession={"id": "u1", "autoRecreate": False}))["runId"]
    carry_run(run_id)
    found = succeeds(vault.api.get(f"{root(vault)}/run/{run_id}/result"))
    assert (found["status"], found["error"]["category"], found["error"]["code"]) == (
        "failed",
        "auth",
        "auth-check-failed",
    )
    assert succeeds(vault.api.get(f"{root(vault)}/run/{run_id}/trace"))["status"]


def test_hooks_and_sessions_of_such_a_project_say_why_they_start_nothing(vault: Vault) -> None:
    hooked = publish(vault.cast.project, "hooked", hook={})
    hooked.refresh_from_db()
    answer = vault.api.post(f"/hooks/{hooked.hook_token}", {})
    assert answer.status_code == 400
    assert "auth session" in answer.content.decode()
    answer = vault.api.post(f"/api/execution/{hooked.public_id}/sessions", {"data": {"endUser": "u1"}})
    assert answer.status_code == 400
    assert "auth session" in answer.content.decode()
    vault.ready("u1")
    assert vault.api.post(f"/api/execution/{hooked.public_id}/sessions", {"data": {"endUser": "u1"}}).status_code == 201
    assert not Run.objects.exclude(auth_session="u1").exists()


def test_the_audit_log_tells_who_did_what_and_no_credentials(vault: Vault) -> None:
    carry_operation(succeeds(create(vault, id="u1"), 201)["operationId"])
    vault.api.post(f"{root(vault)}/auth-sessions/u1/update", {"parameters": {"api_key": OTHER}})
    vault.api.post(f"{root(vault)}/auth-sessions/u1/validate/start", {})
    vault.api.delete(f"{root(vault)}/auth-sessions/u1")
    told = set(AuditEvent.objects.filter(action__startswith="auth_session.").values_list("action", flat=True))
    assert told == {f"auth_session.{name}" for name in ("create", "update", "validate", "deleted")}
    assert GOOD not in str(list(AuditEvent.objects.values()))
    assert not Connection.objects.exists()
