"""The API of what runs ask people: who sees what, and whose answer counts."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from django.utils import timezone

from apps.modules.definition import Step
from apps.modules.models import Module, ModuleVersion
from apps.runs import human
from apps.runs.engine import Ask
from apps.runs.models import HumanTask, Run
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Role
from apps.workspaces.services import add_member, create_project, end_user
from apps.workspaces.tokens import mint_user_token
from tests.cast import PASSWORD, Api, Cast

FIELDS: list[dict[str, Any]] = [
    {"name": "laptop", "label": "Which?", "type": "choice", "options": ["13", "15"], "required": True},
    {"name": "scan", "label": "Scan", "type": "file"},
]


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.lib.broker.hand", lambda *given, **options: True)


@pytest.fixture
def module(cast: Cast) -> Module:
    module = Module.objects.create(project=cast.project, name="equip", source="")
    module.published = ModuleVersion.objects.create(module=module, number=1, definition={}, source="")
    module.save(update_fields=["published"])
    return module


def make_run(module: Module, **fields: Any) -> Run:
    given = {"surface": "runs", "status": Run.Status.WAITING_FOR_INPUT, "wake_at": None} | fields
    return Run.objects.create(
        project=module.project,
        workspace=module.project.workspace,
        module=module,
        version_id=str(module.published_id),
        **given,
    )


def ask(run: Run, *assignees: str, form: bool = False, **spec: Any) -> HumanTask:
    kind = {"form": {"title": "x", "fields": FIELDS}} if form else {"approve": {"title": "x"}}
    given = {"title": "Equipment", "pages": [{"fields": FIELDS}]} if form else {"title": "Buy?", "quorum": 1}
    command = Ask("ok", Step.model_validate({"id": "ok", **kind}), given | spec, list(assignees), None, None)
    return human.ask(run, command, timezone.now())


def user(cast: Cast, name: str = "u1") -> Api:
    return Api(cast.project, mint_user_token(cast.project, name, 600)[0])


def member(cast: Cast, email: str) -> Api:
    answer = cast.api.post("/api/auth/login", {"email": email, "password": PASSWORD}, Authorization="")
    return Api(cast.project, answer.json()["token"])


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [row["id"] for row in answer.json()["tasks"]]


# -- Listing -----------------------------------------------------------------------------------------------------------
def test_the_open_questions_are_listed_newest_first(cast: Cast, module: Module) -> None:
    first, second = ask(make_run(module)), ask(make_run(module), "ada@example.com")
    done = ask(make_run(module))
    human.decide(done, True, "", human.Person(""))
    assert ids(cast.api.get("tasks")) == [second.pk, first.pk]
    assert ids(cast.api.get("tasks?status=answered")) == [done.pk]
    assert len(ids(cast.api.get("tasks?status=all"))) == 3
    assert cast.api.get("tasks?status=none").status_code == 400


def test_the_questions_of_one_run_are_those_of_its_children_too(cast: Cast, module: Module) -> None:
    top = make_run(module)
    child = make_run(module, parent=top, root=top)
    mine, inner = ask(top), ask(child)
    ask(make_run(module))
    assert set(ids(cast.api.get(f"tasks?runId={top.pk}"))) == {mine.pk, inner.pk}
    assert set(ids(cast.api.get(f"tasks?runId={top.session_id}"))) == {mine.pk, inner.pk}
    assert ids(cast.api.get(f"tasks?runId={child.pk}")) == [inner.pk]


def test_a_row_says_what_is_asked_and_where(cast: Cast, module: Module, settings: Any) -> None:
    run = make_run(module)
    row = cast.api.get(f"tasks/{ask(run, form=True).pk}").json()
    assert row["kind"] == "form"
    assert row["pages"][0]["fields"][0]["options"] == ["13", "15"]
    assert row["links"]["browser"].startswith(
        f"{settings.JACKFIELD_URL}/s/{module.public_id}/sessions/{run.session_id}"
    )
    approval = cast.api.get(f"tasks/{ask(make_run(module), 'ada@example.com').pk}").json()
    assert (approval["quorum"], approval["approvals"], approval["votes"]) == (1, 0, 0)
    assert "pages" not in approval


def test_a_list_costs_the_same_however_long_it_is(
    cast: Cast, module: Module, django_assert_max_num_queries: Any
) -> None:
    for _ in range(20):
        ask(make_run(module))
    with django_assert_max_num_queries(6):
        assert len(ids(cast.api.get("tasks"))) == 20


# -- Who sees what -----------------------------------------------------------------------------------------------------
def test_a_user_sees_what_is_theirs_to_answer_and_nothing_else(cast: Cast, module: Module) -> None:
    assigned = ask(make_run(module, user_id="u2"), "user:u1", "ada@example.com")
    own = ask(make_run(module, user_id="u1"))
    hidden = [
        ask(make_run(module, user_id="u2")),
        ask(make_run(module, user_id="u1"), "ada@example.com"),
        ask(make_run(module), "user:U1"),
        ask(make_run(module), "user:u11"),
    ]
    api = user(cast)
    assert ids(api.get("tasks")) == [own.pk, assigned.pk]
    for task in hidden:
        assert api.get(f"tasks/{task.pk}").status_code == 404
        assert api.post(f"tasks/{task.pk}/answer", {"approved": True}).status_code == 404
    row = api.get(f"tasks/{assigned.pk}").json()
    assert (row["assignees"], row["links"]["browser"]) == (["user:u1"], None)
    assert api.get(f"tasks/{own.pk}").json()["links"]["browser"]


def test_a_user_does_not_see_what_only_others_may_approve(cast: Cast, module: Module) -> None:
    task = ask(make_run(module, user_id="u1"), not_starter=True)
    assert ids(user(cast).get("tasks")) == []
    assert user(cast).post(f"tasks/{task.pk}/answer", {"approved": True}).status_code == 403
    assert ids(cast.api.get("tasks")) == [task.pk]


def test_a_key_of_a_user_and_a_key_that_acts_for_them_see_the_same(cast: Cast, module: Module) -> None:
    task, other = ask(make_run(module), "user:u1"), ask(make_run(module), "user:u2")
    bound = cast.with_key("runs", end_user=end_user(cast.project, "u1"))
    assert ids(bound.get("tasks")) == [task.pk]
    assert ids(cast.api.get("tasks", X_End_User="u1")) == [task.pk]
    assert set(ids(cast.api.get("tasks"))) == {task.pk, other.pk}


def test_a_key_without_the_scope_sees_nothing(cast: Cast, module: Module) -> None:
    task = ask(make_run(module))
    for answer in (
        cast.with_key("execute").get("tasks"),
        cast.with_key("admin").get(f"tasks/{task.pk}"),
        cast.with_key("connect").post(f"tasks/{task.pk}/answer", {"approved": True}),
    ):
        assert answer.status_code == 403


def test_another_tenant_sees_nothing(cast: Cast, module: Module) -> None:
    task = ask(make_run(module))
    assert cast.foreign.get(f"tasks/{task.pk}").status_code == 404
    rival = Api(cast.foreign_project, cast.foreign_key)
    assert ids(rival.get("tasks")) == []
    assert rival.post(f"tasks/{task.pk}/answer", {"approved": True}).status_code == 404
    second = create_project(cast.workspace, "Second", SYSTEM)
    assert Api(second, mint_user_token(second, "u1", 600)[0]).get(f"tasks/{task.pk}").status_code == 404


# -- Answering ---------------------------------------------------------------------------------------------------------
def test_a_key_answers_a_form_in_its_user_s_name(cast: Cast, module: Module) -> None:
    task = ask(make_run(module), "user:u1", form=True)
    file = {"filename": "a.txt", "contentType": "text/plain", "base64": base64.b64encode(b"hello").decode()}
    answer = cast.api.post(f"tasks/{task.pk}/answer", {"answers": {"laptop": "15", "scan": file}, "userId": "u1"})
    assert answer.status_code == 200, answer.content
    row = answer.json()
    assert (row["status"], row["answeredBy"]) == ("answered", "u1")
    assert row["outcome"]["scan"] | {"id": ""} == {
        "id": "", "filename": "a.txt", "contentType": "text/plain", "size": 5
    }  # fmt: skip
    whole = cast.api.get(f"tasks/{task.pk}?include=files").json()
    assert whole["outcome"]["scan"]["base64"] == file["base64"]


def test_a_file_of_some_megabytes_is_taken(cast: Cast, module: Module) -> None:
    task = ask(make_run(module), form=True)
    file = {"filename": "a.bin", "base64": base64.b64encode(bytes(3 * 1024**2)).decode()}
    answer = cast.api.post(f"tasks/{task.pk}/answer", {"answers": {"laptop": "13", "scan": file}})
    assert answer.status_code == 200
    assert answer.json()["outcome"]["scan"]["size"] == 3 * 1024**2


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "answers"),
    "not one of the options": ({"answers": {"laptop": "14"}}, "laptop"),
    "an unknown field": ({"answers": {"laptop": "13", "x": 1}}, "x"),
    "no object": ({"answers": []}, "answers"),
    "no file": ({"answers": {"laptop": "13", "scan": "x"}}, "scan"),
    "broken base64": ({"answers": {"laptop": "13", "scan": {"filename": "a", "base64": "%"}}}, "scan"),
    "a NUL": ({"answers": {"laptop": "13\x00"}}, "laptop"),
    "approved as a text": ({"approved": "true"}, "approved"),
}


@pytest.mark.parametrize(("body", "field"), WRONG.values(), ids=WRONG)
def test_faults_are_named_by_field_and_the_question_stays_open(
    cast: Cast, module: Module, body: dict[str, Any], field: str
) -> None:
    task = ask(make_run(module), form=True)
    answer = cast.api.post(f"tasks/{task.pk}/answer", body)
    assert answer.status_code == 400
    assert field in answer.json()["error"]["details"]
    task.refresh_from_db()
    assert task.status == "open"


def test_a_member_approves_by_their_own_token(cast: Cast, module: Module) -> None:
    task = ask(make_run(module), "alice@example.com", reason_on_reject=True)
    alice = member(cast, "alice@example.com")
    assert "reason" in alice.post(f"tasks/{task.pk}/answer", {"approved": False}).json()["error"]["details"]
    row = alice.post(f"tasks/{task.pk}/answer", {"approved": False, "reason": "No"}).json()
    assert row["outcome"] == {"approved": False, "by": "alice@example.com", "reason": "No"}


def test_a_viewer_reads_and_does_not_answer(cast: Cast, module: Module) -> None:
    task = ask(make_run(module), "bob@example.com")
    bob = member(cast, "bob@example.com")
    assert ids(bob.get("tasks")) == [task.pk]
    assert bob.post(f"tasks/{task.pk}/answer", {"approved": True}).status_code == 403
    add_member(cast.workspace, cast.bob, Role.DEVELOPER, SYSTEM)
    assert member(cast, "bob@example.com").post(f"tasks/{task.pk}/answer", {"approved": True}).status_code == 200


def test_a_key_in_its_own_name_cannot_approve_for_people_who_are_named(cast: Cast, module: Module) -> None:
    task = ask(make_run(module), "ada@example.com")
    assert cast.api.post(f"tasks/{task.pk}/answer", {"approved": True}).status_code == 403
    assert cast.api.post(f"tasks/{task.pk}/answer", {"approved": True, "userId": "ada@example.com"}).status_code == 404


def test_the_second_answer_is_told_of_the_first(cast: Cast, module: Module) -> None:
    task = ask(make_run(module, user_id="u1"))
    assert user(cast).post(f"tasks/{task.pk}/answer", {"approved": True}).status_code == 200
    late = cast.api.post(f"tasks/{task.pk}/answer", {"approved": False})
    assert late.status_code == 409
    assert late.json()["error"]["details"] | {"endedAt": ""} == {
        "status": "answered", "answeredBy": "u1", "endedAt": ""
    }  # fmt: skip


def test_a_repeated_answer_with_its_key_gets_the_first_answer(cast: Cast, module: Module) -> None:
    task = ask(make_run(module))
    answers = [cast.api.post(f"tasks/{task.pk}/answer", {"approved": True}, Idempotency_Key="k1") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
