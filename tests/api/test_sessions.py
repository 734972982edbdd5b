"""The module sessions API: the page's own example, states, links, keys, faults."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from apps.modules.models import Module, ModuleKey
from apps.runs.models import Run
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Plan
from apps.workspaces.services import create_project, issue_key
from apps.workspaces.tokens import mint_user_token
from tests.api.automations import EMPLOYEE, EMPLOYEES, FAIL, carried, own_key, publish
from tests.cast import Api, Cast

ID = re.compile(r"[A-Za-z0-9_-]{22}")


@pytest.fixture
def module(cast: Cast) -> Module:
    return publish(cast.project, start_parameters=EMPLOYEES)


def path(module: Module, session_id: str = "") -> str:
    return f"/api/execution/{module.public_id}/sessions" + (f"/{session_id}" if session_id else "")


def own(module: Module) -> Api:
    return Api(module.project, own_key(module))


def errors_in(answer: Any, status: int, code: str) -> list[Any]:
    """The errors of an answer, each in the surface's form."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/json"
    found = answer.json()
    assert set(found) == {"errors"}
    for error in found["errors"]:
        assert set(error) - {"source"} == {"status", "code", "title", "detail"}
        assert (error["status"], error["code"]) == (str(status), code)
    return list(found["errors"])


def test_the_pages_own_example_runs_as_printed(module: Module, settings: Any) -> None:
    settings.JACKFIELD_URL = "https://app.bryter.test"
    api = own(module)
    assert len(api.key) == 43
    body = """{
      "data": {
        "startParameters": {
          "employee_name": "John Doe",
          "employee_email": "john.doe@example.com",
          "employment_start_date": "2021-09-09",
          "employee_reference_number": 1234
        }
      }
    }"""
    answer = api.post(path(module), body)
    assert answer.status_code == 201, answer.content
    session_id = answer.json()["data"]["sessionId"]
    assert ID.fullmatch(session_id)
    assert ID.fullmatch(module.public_id)
    links = {
        "self": f"/api/execution/{module.public_id}/sessions/{session_id}",
        "browser": f"https://app.bryter.test/s/{module.public_id}/sessions/{session_id}",
    }
    assert answer.json() == {"data": {"sessionId": session_id}, "links": links}
    assert api.get(links["self"]).json() == {"data": {"state": "created"}, "links": links}
    run = Run.objects.get(session_id=session_id)
    assert run.parameters["employee_reference_number"] == 1234
    assert (run.surface, run.user_id, run.started_by) == ("sessions", "", f"module-key:{api.key[:8]} onboard")
    carried(run.pk)
    assert api.get(links["self"]).json()["data"] == {"state": "completed"}


@pytest.mark.parametrize("body", [None, "{}", '{"data": {}}', '{"data": null}', '{"data": {"startParameters": {}}}'])
def test_the_body_is_optional(cast: Cast, body: Any) -> None:
    module = publish(cast.project)
    assert own(module).post(path(module), body).status_code == 201


STATES = {"created": "created", "running": "running", "waiting_for_input": "waiting_for_input", "completed": "completed",
          "fatal_errored": "fatal_errored", "cancelled": "fatal_errored"}  # fmt: skip


@pytest.mark.parametrize("status", STATES)
def test_a_state_is_told_in_the_pages_words(module: Module, status: str) -> None:
    api = own(module)
    session_id = api.post(path(module), {"data": {"startParameters": EMPLOYEE}}).json()["data"]["sessionId"]
    Run.objects.filter(session_id=session_id).update(status=status)
    assert api.get(path(module, session_id)).json()["data"] == {"state": STATES[status]}


def test_the_result_is_included_where_it_is_asked_for(module: Module) -> None:
    api = own(module)
    session_id = api.post(path(module), {"data": {"startParameters": EMPLOYEE}}).json()["data"]["sessionId"]
    asked = f"{path(module, session_id)}?include=result"
    assert api.get(asked).json()["data"] == {"state": "created", "result": None}
    carried(Run.objects.get(session_id=session_id).pk)
    assert api.get(asked).json()["data"] == {"state": "completed", "result": {"text": "Hello"}}
    (error,) = errors_in(api.get(f"{path(module, session_id)}?include=steps"), 400, "bad_request")
    assert error["source"] == {"parameter": "include"}


def test_a_failed_session_says_why(cast: Cast) -> None:
    module = publish(cast.project, **FAIL)
    api = own(module)
    session_id = api.post(path(module)).json()["data"]["sessionId"]
    carried(Run.objects.get(session_id=session_id).pk)
    data = api.get(f"{path(module, session_id)}?include=result").json()["data"]
    assert data["state"] == "fatal_errored"
    assert data["error"] == {"code": "script-execution-exception", "message": "Not today"}
    Run.objects.filter(session_id=session_id).update(status="cancelled", error=None)
    data = api.get(f"{path(module, session_id)}?include=result").json()["data"]
    assert (data["state"], data["error"]["code"]) == ("fatal_errored", "cancelled")


def test_every_fault_of_the_parameters_is_told_with_its_place(module: Module) -> None:
    given = {"employee_email": "nobody", "employment_start_date": "2021-02-30", "employee_reference_number": "x",
             "a/b~c": 1, "employee": "?"}  # fmt: skip
    found = errors_in(own(module).post(path(module), {"data": {"startParameters": given}}), 400, "bad_request")
    names = ("employee_name", "employee_email", "employment_start_date", "employee_reference_number", "a~1b~0c",
             "employee")  # fmt: skip
    assert {error["source"]["pointer"] for error in found} == {f"/data/startParameters/{name}" for name in names}
    assert all(error["detail"] for error in found)
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ('{"data": 5}', "/data"),
        ('{"data": {"startParameters": []}}', "/data/startParameters"),
        ('{"data": {"endUser": 5}}', "/data/endUser"),
        ('{"data": {"startParameters": {"employee_name": "a\\u0000b"}}}', "/data/startParameters/employee_name"),
        ("[]", ""),
        ("{", ""),
    ],
    ids=["data", "parameters", "user", "NUL", "list", "half"],
)
def test_a_body_of_another_form_is_told_with_its_place(module: Module, body: str, pointer: str) -> None:
    found = errors_in(own(module).post(path(module), body), 400, "bad_request")
    assert [error["source"] for error in found] == [{"pointer": pointer}]


def test_a_number_may_come_as_a_text(module: Module) -> None:
    given = EMPLOYEE | {"employee_reference_number": "1234"}
    assert own(module).post(path(module), {"data": {"startParameters": given}}).status_code == 201
    assert Run.objects.get().parameters["employee_reference_number"] == 1234


def test_a_revoked_or_expired_key_is_401_and_the_new_one_works(module: Module) -> None:
    first, second = own(module), own(module)
    body = {"data": {"startParameters": EMPLOYEE}}
    ModuleKey.objects.filter(prefix=first.key[:8]).update(revoked_at=timezone.now())
    answer = first.post(path(module), body)
    errors_in(answer, 401, "unauthorized")
    assert answer["WWW-Authenticate"] == "Bearer"
    assert second.post(path(module), body).status_code == 201
    ModuleKey.objects.filter(prefix=second.key[:8]).update(expires_at=timezone.now() - timedelta(seconds=1))
    errors_in(second.post(path(module), body), 401, "unauthorized")
    for key in ("", "x" * 43, "jf_sk_none", "a.b.c", "é" * 43):
        errors_in(Api(module.project, key).post(path(module), body), 401, "unauthorized")


def test_a_key_is_taken_in_either_header(module: Module) -> None:
    key = own_key(module)
    nobody = Api(module.project, "")
    assert nobody.post(path(module), {"data": {"startParameters": EMPLOYEE}}, **{"X-API-Key": key}).status_code == 201


def test_a_modules_key_opens_no_other_module_and_nothing_else(cast: Cast, module: Module) -> None:
    other = publish(cast.project, "other")
    session_id = own(other).post(path(other)).json()["data"]["sessionId"]
    api = own(module)
    for answer in (api.post(path(other)), api.get(path(other, session_id)), api.get(path(module, session_id))):
        errors_in(answer, 404, "not_found")
    root = f"/{cast.workspace.pk}/projects/Shop"
    assert api.post(f"{root}/run/start", {"api": "other", "parameters": {}}).status_code == 401
    assert api.get("runs").status_code == 401


def test_a_projects_key_with_the_scope_may_what_the_modules_may(cast: Cast, module: Module) -> None:
    body = {"data": {"startParameters": EMPLOYEE}}
    answer = cast.with_key("runs").post(path(module), body)
    assert answer.status_code == 201
    assert cast.with_key("runs").get(answer.json()["links"]["self"]).status_code == 200
    errors_in(cast.with_key("execute", "admin", "connect").post(path(module), body), 403, "forbidden")
    errors_in(cast.foreign.post(path(module), body), 404, "not_found")
    second = create_project(cast.workspace, "Second", SYSTEM)
    key = issue_key(cast.workspace, "p", SYSTEM, project=second, scopes=["runs"])[1]
    errors_in(Api(second, key).post(path(module), body), 404, "not_found")
    errors_in(Api(second, key).get(answer.json()["links"]["self"]), 404, "not_found")


@pytest.mark.parametrize("access", ["public", "signed_in", "off"])
def test_a_module_that_is_not_only_for_programs_is_403(cast: Cast, access: str) -> None:
    module = publish(cast.project, access=access)
    errors_in(own(module).post(path(module)), 403, "forbidden")


def test_an_unknown_unpublished_or_deleted_module_is_404(cast: Cast, module: Module) -> None:
    api = own(module)
    session_id = api.post(path(module), {"data": {"startParameters": EMPLOYEE}}).json()["data"]["sessionId"]
    unknown = "/api/execution/oITwNKIrRdS0A0TFVPP54g/sessions"
    for who in (api, cast.api):
        errors_in(who.post(unknown), 404, "not_found")
        errors_in(who.get(path(module, "C0jz_2J6RmOLoB8DyXPs9Q")), 404, "not_found")
    errors_in(Api(cast.project, "").post(unknown), 401, "unauthorized")
    Module.objects.update(published=None)
    errors_in(api.post(path(module)), 404, "not_found")
    assert api.get(path(module, session_id)).status_code == 200  # what was started goes on
    Module.objects.update(deleted_at=timezone.now())
    for answer in (api.post(path(module)), api.get(path(module, session_id)), cast.api.get(path(module, session_id))):
        errors_in(answer, 404, "not_found")


def test_an_end_user_sees_their_own_sessions_alone(cast: Cast, module: Module) -> None:
    body = {"data": {"startParameters": EMPLOYEE, "endUser": "u2"}}
    theirs = cast.api.post(path(module), body).json()["links"]["self"]
    assert Run.objects.get().user_id == "u2"
    user = Api(cast.project, mint_user_token(cast.project, "u1", 600)[0])
    errors_in(user.get(theirs), 404, "not_found")
    mine = user.post(path(module), body)  # what is named counts for nothing
    assert mine.status_code == 201
    assert user.get(mine.json()["links"]["self"]).status_code == 200
    assert Run.objects.exclude(user_id="u2").get().user_id == "u1"


def test_the_user_may_be_named_by_the_header(cast: Cast, module: Module) -> None:
    api, body = own(module), {"data": {"startParameters": EMPLOYEE}}
    assert api.post(path(module), body, **{"X-End-User": "u7", "X-Request-Id": "mine-1"}).status_code == 201
    run = Run.objects.get()
    assert (run.user_id, run.request_id) == ("u7", "mine-1")
    (error,) = errors_in(api.post(path(module), body, **{"X-End-User": ""}), 400, "bad_request")
    assert error["source"] == {"header": "X-End-User"}


def test_a_repeated_start_starts_once(module: Module) -> None:
    api, body = own(module), {"data": {"startParameters": EMPLOYEE}}
    first, second = (api.post(path(module), body, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, second.status_code, first.content) == (201, 201, second.content)
    assert second["Idempotency-Replayed"] == "true"
    other = {"data": {"startParameters": EMPLOYEE | {"employee_name": "Jane"}}}
    errors_in(api.post(path(module), other, **{"Idempotency-Key": "k"}), 409, "conflict")
    assert Run.objects.count() == 1


def test_what_the_plan_does_not_permit_is_429(cast: Cast, module: Module) -> None:
    cast.workspace.plan = Plan.objects.create(name="Small", calls_per_minute=1)
    cast.workspace.save(update_fields=["plan"])
    api, body = own(module), {"data": {"startParameters": EMPLOYEE}}
    assert api.post(path(module), body).status_code == 201
    answer = api.post(path(module), body)
    errors_in(answer, 429, "too_many_requests")
    assert int(answer["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("method", "url", "status", "code"),
    [
        ("DELETE", "/api/execution/x/sessions", 405, "method_not_allowed"),
        ("GET", "/api/execution/x/sessions", 405, "method_not_allowed"),
        ("POST", "/api/execution/x/sessions/y", 405, "method_not_allowed"),
        ("GET", "/api/execution/x", 404, "not_found"),
        ("GET", "/api/execution", 404, "not_found"),
        ("POST", "/api/execution/x/sessions/y/z", 404, "not_found"),
        ("GET", "/api/execution/x/sessions/%00", 404, "not_found"),
    ],
    ids=str,
)
def test_an_unknown_path_or_method_is_json(cast: Cast, method: str, url: str, status: int, code: str) -> None:
    answer = cast.api.call(method, url)
    errors_in(answer, status, code)
    assert ("Allow" in answer) == (status == 405)


def test_two_megabytes_are_413(module: Module) -> None:
    errors_in(own(module).post(path(module), {"x": "y" * 2_000_000}), 413, "payload_too_large")
