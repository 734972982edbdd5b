"""The Runs API at both of its prefixes: starting, following, cancelling, traces, faults; and a project's log of runs."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.utils import timezone
from intuned_client.models import RunResultResponse
from intuned_client.models.generated import RunResultResponseError, RunResultResponseReason

from apps.modules.models import Module
from apps.runs import outcome
from apps.runs.api import runs as api_of_runs
from apps.runs.models import Run, RunSignal
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import ApiKey, Plan, Project, Role
from apps.workspaces.services import add_member, create_project, end_user, issue_key
from apps.workspaces.tokens import mint_user_token
from tests.api.automations import EMPLOYEE, EMPLOYEES, EVENT, FAIL, carried, publish
from tests.api.shop import Shop, error_of
from tests.cast import PASSWORD, Api, Cast, connect, enable

PREFIXES = {"plain": ("", 200), "clients": ("/api/v1/workspace", 201)}
NANOID = re.compile(r"[A-Za-z0-9_-]{21}")
each_prefix = pytest.mark.parametrize("prefix", PREFIXES)


def root(cast: Cast, prefix: str = "plain", project: str = "Shop") -> str:
    return f"{PREFIXES[prefix][0]}/{cast.workspace.pk}/projects/{quote(project, safe='')}"


def start(api: Api, cast: Cast, name: str = "onboard", prefix: str = "plain", **body: Any) -> Any:
    headers = body.pop("headers", {})
    return api.post(f"{root(cast, prefix)}/run/start", {"api": name, "parameters": {}} | body, **headers)


def started(cast: Cast, name: str = "onboard", api: Api | None = None, **body: Any) -> str:
    answer = start(api or cast.api, cast, name, **body)
    assert answer.status_code == 200, answer.content
    return str(answer.json()["runId"])


def result(cast: Cast, run_id: str, api: Api | None = None, prefix: str = "plain") -> Any:
    answer = (api or cast.api).get(f"{root(cast, prefix)}/run/{run_id}/result")
    assert answer.status_code == 200, answer.content
    RunResultResponse.model_validate(answer.json())
    return answer.json()


def refused(answer: Any, status: int, code: str) -> Any:
    """The body of an error in the surface's form; gives its details."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/json"
    body = answer.json()
    assert set(body) - {"details"} == {"code", "category", "message", "retirable", "correlationId"}, body
    assert (body["code"], body["category"]) == (code, "user")
    assert body["correlationId"] == answer["X-Request-Id"]
    assert body["retirable"] is (status == 429)
    return body.get("details")


# -- Starting --------------------------------------------------------------------------------------------------------
@each_prefix
def test_the_pages_own_example_runs_as_printed(cast: Cast, prefix: str) -> None:
    publish(
        cast.project,
        "my-awesome-api",
        start_parameters=[
            {"name": "One", "api_name": "param1", "type": "text"},
            {"name": "Two", "api_name": "param2", "type": "number"},
            {"name": "Three", "api_name": "param3", "type": "boolean"},
        ],
    )
    body = (
        """{"parameters": {"param1": "value1", "param2": 42, "param3": true}, "retry": {}, "api": "my-awesome-api"}"""
    )
    answer = Api(cast.project, "").post(f"{root(cast, prefix)}/run/start", body, **{"X-API-Key": cast.key})
    assert answer.status_code == PREFIXES[prefix][1]
    run_id = answer.json()["runId"]
    assert NANOID.fullmatch(run_id)
    assert answer.json() == {"runId": run_id, "status": "pending"}
    run = Run.objects.get(pk=run_id)
    assert run.parameters == {"param1": "value1", "param2": 42, "param3": True}
    assert (run.maximum_attempts, run.request_timeout, run.save_trace, run.proxy) == (3, 600, True, "")
    assert result(cast, run_id, prefix=prefix) == {"runId": run_id, "status": "pending"}
    carried(run_id)
    assert result(cast, run_id, prefix=prefix) == {"runId": run_id, "status": "completed", "result": {"text": "Hello"}}


def test_everything_that_a_body_may_say_is_kept(cast: Cast, settings: Any) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    publish(cast.project, "hr/onboard", start_parameters=EMPLOYEES)
    run_id = started(
        cast, "hr/onboard", parameters=EMPLOYEE, proxy="http://username:password@127.0.0.1:3128", saveTrace=False,
        requestTimeout=30, retry={"maximumAttempts": 7}, endUser="u9", notKnown={"a": 1}, sink=None,
        headers={"X-Request-Id": "mine-1"},
    )  # fmt: skip
    run = Run.objects.select_related("module").get(pk=run_id)
    assert (run.maximum_attempts, run.request_timeout, run.save_trace) == (7, 30, False)
    assert (run.user_id, run.request_id, run.surface) == ("u9", "mine-1", "runs")
    assert "password" not in run.proxy
    assert run.unseal("proxy") == "http://username:password@127.0.0.1:3128"
    assert run.started_by.startswith("key:")


def test_null_is_as_good_as_absent(cast: Cast) -> None:
    publish(cast.project)
    names = ("proxy", "saveTrace", "requestTimeout", "retry", "authSession", "sink", "endUser")
    nothing: dict[str, Any] = dict.fromkeys(names)
    run = Run.objects.get(pk=started(cast, **nothing))
    assert (run.maximum_attempts, run.request_timeout, run.save_trace) == (3, 600, True)
    assert started(cast, retry={"maximumAttempts": None})


BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "no api": ({"parameters": {}}, "api"),
    "no parameters": ({"api": "onboard"}, "parameters"),
    "a list of parameters": ({"api": "onboard", "parameters": []}, "parameters"),
    "a number as api": ({"api": 5, "parameters": {}}, "api"),
    "no URL": ({"proxy": "somewhere"}, "proxy"),
    "another scheme": ({"proxy": "file:///etc/passwd"}, "proxy"),
    "a port out of range": ({"proxy": "http://p.example:99999"}, "proxy"),
    "a line break": ({"proxy": "http://p.example/\r\nX: y"}, "proxy"),
    "a private proxy": ({"proxy": "http://10.0.0.1:3128"}, "proxy"),
    "no seconds": ({"requestTimeout": 0}, "requestTimeout"),
    "too many seconds": ({"requestTimeout": 86401}, "requestTimeout"),
    "half a second": ({"requestTimeout": 0.5}, "requestTimeout"),
    "seconds as text": ({"requestTimeout": "600"}, "requestTimeout"),
    "no attempts": ({"retry": {"maximumAttempts": 0}}, "retry.maximumAttempts"),
    "true attempts": ({"retry": {"maximumAttempts": True}}, "retry.maximumAttempts"),
    "retry as number": ({"retry": 3}, "retry.body"),
    "trace as text": ({"saveTrace": "yes"}, "saveTrace"),
    "a sink without an address": ({"sink": {"type": "webhook"}}, "sink.url"),
    "an empty auth session": ({"authSession": {}}, "authSession.id"),
    "an unknown auth session": ({"authSession": {"id": "ca_none"}}, "authSession.id"),
    "runtime input": ({"authSession": {"runtimeInput": {"user": "x"}}}, "authSession.runtimeInput"),
    "a user that is none": ({"endUser": 5}, "endUser"),
    "a user with a control character": ({"endUser": "a\x07b"}, "endUser"),
    "a NUL": ({"parameters": {"x": ["a\x00b"]}}, "parameters.x"),
    "an unknown parameter": ({"parameters": {"x": 1}}, "parameters.x"),
}


@pytest.mark.parametrize("what", BODIES)
def test_what_does_not_fit_is_400_with_its_place(cast: Cast, what: str) -> None:
    publish(cast.project)
    given, place = BODIES[what]
    body = given if "api" in given or what == "no api" else {"api": "onboard", "parameters": {}} | given
    details = refused(cast.api.post(f"{root(cast)}/run/start", body), 400, "bad-request")
    assert list(details) == [place]
    assert details[place]
    assert not Run.objects.exists()


def test_every_fault_of_the_parameters_is_told(cast: Cast) -> None:
    publish(cast.project, start_parameters=EMPLOYEES)
    given = {"employee_email": "nobody", "employment_start_date": "soon", "more": 1}
    details = refused(start(cast.api, cast, parameters=given), 400, "bad-request")
    assert set(details) == {f"parameters.{name}" for name in ("employee_name", *given)}


def test_an_unknown_unpublished_switched_off_or_deleted_module_is_404(cast: Cast) -> None:
    module = publish(cast.project)
    for name in ("none", "onboard/x", "Onboard"):
        refused(start(cast.api, cast, name), 404, "not-found")
    for change in ({"access": "off"}, {"access": "public", "published": None}):
        Module.objects.filter(pk=module.pk).update(**change)
        refused(start(cast.api, cast), 404, "not-found")
    publish(cast.project, "gone")
    Module.objects.filter(name="gone").update(deleted_at=timezone.now())
    refused(start(cast.api, cast, "gone"), 404, "not-found")


@pytest.mark.parametrize("access", ["public", "signed_in", "api_key"])
def test_any_other_access_may_be_started(cast: Cast, access: str) -> None:
    publish(cast.project, access=access)
    assert started(cast)


@each_prefix
@pytest.mark.parametrize("name", ["My shop", "Łódź", "a.b", "50% off", "x?y#z", "a+b&c", "..."])
def test_a_projects_name_may_be_any(cast: Cast, prefix: str, name: str) -> None:
    Project.objects.filter(pk=cast.project.pk).update(name=name)
    publish(cast.project)
    answer = cast.api.post(f"{root(cast, prefix, name)}/run/start", {"api": "onboard", "parameters": {}})
    assert answer.status_code == PREFIXES[prefix][1], answer.content


def test_a_workspaces_id_may_be_written_in_capitals(cast: Cast) -> None:
    publish(cast.project)
    url = f"/{str(cast.workspace.pk).upper()}/projects/Shop/run/start"
    assert cast.api.post(url, {"api": "onboard", "parameters": {}}).status_code == 200


def test_a_repeated_start_starts_once(cast: Cast) -> None:
    publish(cast.project)
    first, second = (start(cast.api, cast, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.content, second["Idempotency-Replayed"]) == (second.content, "true")
    refused(start(cast.api, cast, endUser="x", headers={"Idempotency-Key": "k"}), 409, "conflict")
    assert Run.objects.count() == 1


def test_what_the_plan_does_not_permit_is_429(cast: Cast) -> None:
    publish(cast.project)
    for option in ("calls_per_minute", "calls_per_day"):
        cast.workspace.plan = Plan.objects.create(name=option, **{option: 1})
        cast.workspace.save(update_fields=["plan"])
        api = cast.with_key("runs")
        start(api, cast)
        answer = start(api, cast)
        refused(answer, 429, "too-many-requests")
        assert int(answer["Retry-After"]) >= 1


# -- Auth sessions, users --------------------------------------------------------------------------------------------
def test_an_auth_sessions_owner_is_the_runs_user_where_no_other_is_named(shop: Shop) -> None:
    cast = shop.cast
    publish(cast.project)
    session = {"id": shop.connection.pk, "autoRecreate": True, "checkAttempts": 3, "createAttempts": 3}
    run_id = started(cast, authSession=session)
    assert Run.objects.get(pk=run_id).user_id == "u1"
    assert Run.objects.get(pk=started(cast, authSession=session, endUser="u2")).user_id == "u2"
    foreign = connect(enable(cast.foreign_project, "sandbox"), "u1")
    details = refused(start(cast.api, cast, authSession={"id": foreign.pk}), 400, "bad-request")
    assert list(details) == ["authSession.id"]
    other = Api(cast.project, mint_user_token(cast.project, "u3", 600)[0])
    refused(start(other, cast, authSession=session), 400, "bad-request")


def bound(cast: Cast, who: str, user: str) -> Api:
    if who == "token":
        return Api(cast.project, mint_user_token(cast.project, user, 600)[0])
    secret = issue_key(cast.workspace, user, SYSTEM, project=cast.project, end_user=end_user(cast.project, user),
                       scopes=["runs"])[1]  # fmt: skip
    return Api(cast.project, secret)


@pytest.mark.parametrize("who", ["token", "key"])
def test_who_is_bound_to_a_user_starts_and_sees_that_users_runs(cast: Cast, who: str) -> None:
    publish(cast.project)
    mine, theirs = bound(cast, who, "u1"), bound(cast, who, "u2")
    run_id = started(cast, api=mine, endUser="u2", headers={"X-End-User": "u2"})
    assert Run.objects.get(pk=run_id).user_id == "u1"
    url = f"{root(cast)}/run/{run_id}"
    for answer in (theirs.get(f"{url}/result"), theirs.get(f"{url}/trace"), theirs.post(f"{url}/cancel"),
                   theirs.get(f"{root(cast)}/run/none/result")):  # fmt: skip
        refused(answer, 404, "not-found")
    refused(mine.get(f"{root(cast)}/run/{started(cast)}/result"), 404, "not-found")  # nobody's
    assert Run.objects.get(pk=run_id).status == "created"
    assert mine.get(f"{url}/trace").status_code == 200
    assert mine.post(f"{url}/cancel").json()["status"] == "canceled"


def member(cast: Cast, user: Any) -> Api:
    answer = cast.api.post("/api/auth/login", {"email": user.email, "password": PASSWORD})
    return Api(cast.project, answer.json()["token"])


def test_a_member_may_what_their_role_may(cast: Cast) -> None:
    publish(cast.project)
    run_id = started(cast, api=member(cast, cast.alice))
    viewer = member(cast, cast.bob)
    assert result(cast, run_id, viewer)["status"] == "pending"
    refused(start(viewer, cast), 403, "forbidden")
    refused(viewer.post(f"{root(cast)}/run/{run_id}/cancel"), 403, "forbidden")
    refused(member(cast, cast.charlie).get(f"{root(cast)}/run/{run_id}/result"), 404, "not-found")
    add_member(cast.foreign_workspace, cast.bob, Role.OWNER, SYSTEM)
    refused(start(viewer, cast), 403, "forbidden")


# -- Who may ---------------------------------------------------------------------------------------------------------
def test_a_key_needs_the_scope(cast: Cast) -> None:
    publish(cast.project)
    run_id = started(cast, api=cast.with_key("runs"))
    api = cast.with_key("admin", "connect", "execute", "secrets")
    for answer in (start(api, cast), api.get(f"{root(cast)}/run/{run_id}/result"),
                   api.get(f"{root(cast)}/run/{run_id}/trace"), api.post(f"{root(cast)}/run/{run_id}/cancel")):  # fmt: skip
        refused(answer, 403, "forbidden")


def test_a_workspaces_key_calls_each_of_its_projects(cast: Cast) -> None:
    second = create_project(cast.workspace, "Second", SYSTEM)
    publish(second)
    key = issue_key(cast.workspace, "w", SYSTEM, scopes=["runs"])[1]
    answer = Api(second, key).post(f"{root(cast, project='Second')}/run/start", {"api": "onboard", "parameters": {}})
    assert answer.status_code == 200
    run_id = answer.json()["runId"]
    refused(cast.api.get(f"{root(cast, project='Second')}/run/{run_id}/result"), 404, "not-found")
    refused(cast.api.get(f"{root(cast)}/run/{run_id}/result"), 404, "not-found")


def test_strangers_and_unknown_projects_are_404_and_nobody_is_401(cast: Cast) -> None:
    publish(cast.project)
    run_id = started(cast)
    unknown = "/123e4567-e89b-12d3-a456-426614174000/projects/Shop"
    paths = [f"{root(cast)}/run/{run_id}/result", f"{root(cast, project='None')}/run/{run_id}/result",
             f"{unknown}/run/{run_id}/result", f"/{cast.workspace.pk}/projects/Rival/run/{run_id}/result"]  # fmt: skip
    for path in paths:
        refused(cast.foreign.get(path), 404, "not-found")
        refused(Api(cast.project, "").get(path), 401, "unauthorized")
        refused(Api(cast.project, "jf_sk_none").get(path), 401, "unauthorized")
        refused(Api(cast.project, "a.b.c").get(path), 401, "unauthorized")
    for path in paths[1:]:
        refused(cast.api.get(path), 404, "not-found")
    ApiKey.objects.update(revoked_at=timezone.now())
    refused(cast.api.get(paths[0]), 401, "unauthorized")


# -- Following -------------------------------------------------------------------------------------------------------
STATES = {"created": "pending", "running": "started", "waiting_for_input": "started", "completed": "completed",
          "fatal_errored": "failed", "cancelled": "canceled"}  # fmt: skip


@pytest.mark.parametrize("status", STATES)
def test_a_state_is_told_in_the_clients_words(cast: Cast, status: str) -> None:
    publish(cast.project)
    run_id = started(cast)
    Run.objects.filter(pk=run_id).update(status=status)
    found = result(cast, run_id)
    assert found["status"] == STATES[status]
    assert ("error" in found, "reason" in found, "result" in found) == (
        status == "fatal_errored", status == "cancelled", status == "completed",
    )  # fmt: skip


def test_a_failed_run_says_why(cast: Cast) -> None:
    publish(cast.project, **FAIL)
    run_id = started(cast, headers={"X-Request-Id": "mine-2"})
    carried(run_id)
    found = result(cast, run_id)
    error = found["error"]
    assert (found["status"], found["message"], error["message"]) == ("failed", "Not today", "Not today")
    assert (error["code"], error["category"]) == ("script-execution-exception", "execution")
    assert (error["retirable"], error["correlation_id"]) == (False, "mine-2")


@pytest.mark.parametrize(
    "error", [None, {}, {"code": "own-code", "category": "weather", "message": None, "details": {"a": 1}, "retirable": None},
              {"type": "own", "code": 5}, {"code": "script-timeout", "category": "execution", "message": "Late"}],
    ids=["null", "empty", "own words", "numbers", "known"],
)  # fmt: skip
@pytest.mark.parametrize("status", ["fatal_errored", "cancelled"])
def test_no_word_is_sent_that_the_client_does_not_know(cast: Cast, error: Any, status: str) -> None:
    publish(cast.project)
    run_id = started(cast)
    Run.objects.filter(pk=run_id).update(status=status, error=error)
    result(cast, run_id)


def test_the_words_are_those_of_the_clients_models() -> None:
    error, reason = RunResultResponseError.model_fields, RunResultResponseReason.model_fields
    assert set(words(error["code"].annotation)) == outcome.CODES
    assert set(words(error["category"].annotation)) == outcome.CATEGORIES
    assert set(words(reason["type"].annotation)) == outcome.REASONS
    assert set(words(RunResultResponse.model_fields["status"].annotation)) == set(api_of_runs.STATES.values())


def words(annotation: Any) -> list[str]:
    """The literals of a field, of one that may be absent too."""
    found = [inner for inner in annotation.__args__ if inner is not type(None)]
    return [str(word) for word in (found if isinstance(found[0], str) else found[0].__args__)]


def test_a_run_is_cancelled_once_and_an_ended_one_stays_as_it_is(cast: Cast) -> None:
    publish(cast.project, **EVENT)
    run_id = started(cast)
    carried(run_id)
    assert result(cast, run_id)["status"] == "started"
    url = f"{root(cast)}/run/{run_id}/cancel"
    for _ in range(2):
        answer = cast.api.post(url)
        assert answer.status_code == 200
        assert answer.json() == result(cast, run_id)
        assert (answer.json()["status"], answer.json()["reason"]["type"]) == ("canceled", "cancelled-user-action")
    publish(cast.project, "short")
    done = started(cast, "short")
    carried(done)
    answer = cast.api.post(f"{root(cast)}/run/{done}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")


def test_a_trace_tells_every_step(cast: Cast) -> None:
    publish(cast.project)
    run_id = started(cast)
    url = f"{root(cast)}/run/{run_id}/trace"
    assert cast.api.get(url).status_code == 200
    carried(run_id)
    trace = cast.api.get(url).json()
    (step,) = trace["attempts"][0]["steps"]
    assert (step["id"], step["kind"], step["status"], step["output"]) == (
        "greet",
        "set",
        "completed",
        {"text": "Hello"},
    )


# -- Envelope --------------------------------------------------------------------------------------------------------
WORKSPACE = "123e4567-e89b-12d3-a456-426614174000"
UNKNOWN = {
    f"/{WORKSPACE}/projects/Shop/run": 404,
    f"/{WORKSPACE}/projects/Shop/nonsense": 404,
    f"/{WORKSPACE}/projects/Shop": 404,
    f"/{WORKSPACE}/projects/Shop/run/start/": 404,
    f"/{WORKSPACE}/projects/a%2Fb/run/start": 404,
    f"/{WORKSPACE}/projects/%00/run/start": 404,
    "/no-uuid/projects/Shop/run/start": 404,
    "/api/v1/workspace": 404,
    f"/api/v1/workspace/{WORKSPACE}": 404,
    "/api/v1/workspace/no-uuid/projects/Shop/run/start": 404,
    f"/{WORKSPACE}/projects/Shop/run/start": 405,
    f"/api/v1/workspace/{WORKSPACE}/projects/Shop/run/x/cancel": 405,
}


@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_path_or_method_is_json(cast: Cast, path: str) -> None:
    answer = cast.api.get(path)
    refused(answer, UNKNOWN[path], "not-found" if UNKNOWN[path] == 404 else "method-not-allowed")
    assert ("Allow" in answer) == (UNKNOWN[path] == 405)


# -- The log of runs, and events -------------------------------------------------------------------------------------
def test_the_projects_runs_are_listed_and_filtered(cast: Cast) -> None:
    publish(cast.project, start_parameters=EMPLOYEES)
    publish(cast.project, "stop", **FAIL)
    first = started(cast, parameters=EMPLOYEE, endUser="u1")
    second = started(cast, "stop")
    carried(second)
    api = cast.with_key("admin")
    rows = api.get("runs").json()
    assert ([row["id"] for row in rows["runs"]], rows["nextCursor"]) == ([second, first], None)
    row = rows["runs"][0]
    assert (row["module"], row["version"], row["status"], row["surface"]) == ("stop", 1, "fatal_errored", "runs")
    assert row["error"]["code"] == "script-execution-exception"
    now = timezone.now()
    wanted = {
        "status=created": [first], "status=fatal_errored": [second], "module=onboard": [first], "userId=u1": [first],
        "userId=u2": [], "module=none": [], f"since={quote((now + timedelta(hours=1)).isoformat())}": [],
        f"until={quote((now - timedelta(hours=1)).isoformat())}": [],
        f"since={quote((now - timedelta(hours=1)).isoformat())}": [second, first],
    }  # fmt: skip
    for query, ids in wanted.items():
        assert [found["id"] for found in api.get(f"runs?{query}").json()["runs"]] == ids, query
    for query in ("status=none", "since=yesterday", "until=2026", "limit=0", "module=%00"):
        assert error_of(api.get(f"runs?{query}"))["code"] == "VALIDATION_INVALID_SCHEMA"
    assert cast.with_key("runs").get("runs").status_code == 403
    assert member(cast, cast.bob).get("runs").status_code == 200


def test_one_run_is_read_by_either_of_its_ids(cast: Cast) -> None:
    publish(cast.project, start_parameters=[{"name": "Token", "api_name": "token", "type": "text"}])
    run = Run.objects.get(pk=started(cast, parameters={"token": "tok-12345"}))
    for known in (run.pk, run.session_id):
        found = cast.api.get(f"runs/{known}").json()
        assert (found["id"], found["sessionId"], found["parameters"]) == (run.pk, run.session_id, {"token": "********"})
        assert cast.api.get(found["links"]["self"]).json() == found
        assert cast.api.get(found["links"]["session"]).json()["data"] == {"state": "created"}
    assert cast.api.get("runs/none").status_code == 404
    assert cast.foreign.get(f"runs/{run.pk}").status_code == 404


def test_an_event_ends_what_waits_for_it(cast: Cast) -> None:
    publish(cast.project, **EVENT)
    run_id = started(cast)
    carried(run_id)
    api = cast.with_key("runs")
    answer = api.post(f"runs/{run_id}/events/payment", {"paid": True})
    assert (answer.status_code, answer.json()) == (202, {"runId": run_id, "name": "payment"})
    carried(run_id)
    assert result(cast, run_id)["result"] == {"paid": True}
    late = api.post(f"runs/{run_id}/events/payment", {})
    assert (late.status_code, error_of(late)["code"]) == (409, "REQUEST_CONFLICT")


def test_an_event_is_refused_where_it_does_not_fit(cast: Cast) -> None:
    publish(cast.project, **EVENT)
    run_id = started(cast)
    api = cast.with_key("runs")
    for body in ("[]", "{", "5", '{"a": "\\u0000"}'):
        assert api.post(f"runs/{run_id}/events/payment", body).status_code == 400
    assert api.post(f"runs/{run_id}/events/{'x' * 101}", {}).status_code == 400
    assert api.post("runs/none/events/payment", {}).status_code == 404
    assert api.get(f"runs/{run_id}/events/payment").status_code == 405
    assert cast.foreign.post(f"runs/{run_id}/events/payment", {}).status_code == 404
    assert cast.with_key("admin").post(f"runs/{run_id}/events/payment", {}).status_code == 403
    assert bound(cast, "token", "u2").post(f"runs/{run_id}/events/payment", {}).status_code == 404
    assert not RunSignal.objects.exists()
    for _ in range(2):
        api.post(f"runs/{run_id}/events/payment", None, **{"Idempotency-Key": "k"})
    assert RunSignal.objects.get().data == {}
