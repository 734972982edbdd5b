"""The pages of people whom runs ask something, over HTTP, without a script: what they show, take and refuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from apps.modules.definition import Step
from apps.modules.models import Group, Module, ModuleVersion
from apps.runs import human, mail
from apps.runs.engine import Ask
from apps.runs.models import HumanTask, Run, RunEvent, RunFile
from tests.cast import PASSWORD, Cast

FIELDS: list[dict[str, Any]] = [
    {"name": "laptop", "label": "Which laptop?", "type": "choice", "options": ["13 inch", "15 inch"], "required": True},
    {"name": "screens", "label": "Screens", "type": "number", "min": 0, "max": 3, "default": 1},
    {"name": "note", "label": "Note", "type": "long_text", "default": "For Ada"},
    {"name": "extras", "label": "Extras", "type": "choices", "options": ["mouse", "bag"]},
    {"name": "agreed", "label": "I agree", "type": "checkbox"},
    {"name": "scan", "label": "Contract", "type": "file"},
]
DEFINITION: dict[str, Any] = {
    "name": "equip",
    "title": "Equip a colleague",
    "access": "public",
    "start_parameters": [
        {"name": "Name", "api_name": "name", "type": "text", "required": True},
        {"name": "Number", "api_name": "number", "type": "number", "min": 1},
        {"name": "Tags", "api_name": "tags", "type": "list"},
        {"name": "Photo", "api_name": "photo", "type": "file"},
    ],
    "steps": [
        {"id": "look", "title": "Look around", "set": {"n": 1}},
        {"id": "details", "form": {"title": "Equipment", "fields": FIELDS}},
        {"id": "ok", "title": "Approval", "approve": {"title": "Buy?"}},
        {"id": "stop", "fail": {"message": "Not approved"}, "when": False},
    ],
}


@pytest.fixture(autouse=True)
def _no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.lib.broker.hand", lambda *given, **options: True)


def publish(cast: Cast, **changes: Any) -> Module:
    definition = DEFINITION | changes
    module = Module.objects.create(
        project=cast.project, name="equip", title=definition["title"], access=definition["access"], source=""
    )
    version = ModuleVersion.objects.create(module=module, number=1, definition=definition, source="")
    module.published = version
    module.save(update_fields=["published"])
    return module


def make_run(module: Module, **fields: Any) -> Run:
    given = {"surface": "sessions", "status": Run.Status.WAITING_FOR_INPUT, "wake_at": None} | fields
    return Run.objects.create(
        project=module.project,
        workspace=module.project.workspace,
        module=module,
        version_id=str(module.published_id),
        **given,
    )


def ask(run: Run, *assignees: str, form: bool = False, key: str = "ok", **spec: Any) -> HumanTask:
    kind = {"form": {"title": "x", "fields": FIELDS}} if form else {"approve": {"title": "x"}}
    given = {"title": "Equipment", "pages": [{"fields": FIELDS}]} if form else {"title": "Buy?"}
    deadline = spec.pop("deadline", None)
    command = Ask(key, Step.model_validate({"id": "ok", **kind}), given | spec, list(assignees), deadline, None)
    return human.ask(run, command, timezone.now())


def address(run: Run) -> str:
    return f"/s/{run.module.public_id}/sessions/{run.session_id}"


def text_of(response: Any) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


@pytest.fixture
def browser(db: None) -> Client:
    return Client()


def signed_in(user: Any) -> Client:
    client = Client()
    assert client.login(email=user.email, password=PASSWORD)
    return client


# -- Starting ----------------------------------------------------------------------------------------------------------
def test_the_public_link_starts_a_run_and_leads_to_its_page(cast: Cast, browser: Client) -> None:
    module = publish(cast)
    page = browser.get(f"/s/{module.public_id}")
    assert page.status_code == 200
    assert "Equip a colleague" in text_of(page)
    photo = SimpleUploadedFile("a.png", b"png", "image/png")
    answer = browser.post(
        f"/s/{module.public_id}", {"a-name": "Ada", "a-number": "7", "a-tags": "x\ny", "a-photo": photo}
    )
    run = Run.objects.get()
    assert (answer.status_code, answer["Location"]) == (303, address(run))
    assert run.surface == "form"
    assert run.parameters == {
        "name": "Ada",
        "number": 7,
        "tags": ["x", "y"],
        "photo": {"filename": "a.png", "contentType": "image/png", "size": 3, "base64": "cG5n"},
    }
    assert "In progress" in text_of(browser.get(answer["Location"]))


def test_faults_stand_at_their_fields_and_nothing_is_started(cast: Cast, browser: Client) -> None:
    module = publish(cast)
    answer = browser.post(f"/s/{module.public_id}", {"a-number": "0", "a-tags": "[1"})
    assert answer.status_code == 400
    form = answer.context["form"]
    assert {"name", "number"} <= set(form.errors)
    assert not Run.objects.exists()


def test_what_only_the_service_finds_stands_at_its_field_too(cast: Cast, browser: Client) -> None:
    answer = browser.post(f"/s/{publish(cast).public_id}", {"a-name": "Ada", "a-tags": "[1"})
    assert answer.status_code == 400
    assert list(answer.context["form"].errors) == ["tags"]


NOT_OPEN: dict[str, dict[str, Any]] = {"only by key": {"access": "api_key"}, "off": {"access": "off"}}


@pytest.mark.parametrize("changes", NOT_OPEN.values(), ids=NOT_OPEN)
def test_a_module_that_is_not_open_looks_like_none(cast: Cast, browser: Client, changes: dict[str, Any]) -> None:
    module = publish(cast, **changes)
    nothing = browser.get("/s/AAAAAAAAAAAAAAAAAAAAAA")
    for response in (browser.get(f"/s/{module.public_id}"), browser.post(f"/s/{module.public_id}", {"a-name": "x"})):
        assert response.status_code == 404
        assert response.content == nothing.content
    assert not Run.objects.exists()


def test_unpublished_and_deleted_modules_are_not_there(cast: Cast, browser: Client) -> None:
    module = publish(cast)
    Module.objects.update(deleted_at=timezone.now())
    assert browser.get(f"/s/{module.public_id}").status_code == 404
    Module.objects.update(deleted_at=None, published=None)
    assert browser.get(f"/s/{module.public_id}").status_code == 404


def test_a_module_for_signed_in_users_wants_a_member_of_its_workspace(cast: Cast, browser: Client) -> None:
    module = publish(cast, access="signed_in")
    link = f"/s/{module.public_id}"
    assert browser.get(link)["Location"] == f"/accounts/login/?next={link}"
    assert signed_in(cast.charlie).get(link).status_code == 404
    bob = signed_in(cast.bob)
    page = bob.post(link, {"a-name": "Ada"})
    run = Run.objects.get()
    assert run.started_by == "user:bob@example.com"
    assert bob.get(page["Location"]).status_code == 200
    assert browser.get(page["Location"])["Location"].startswith("/accounts/login/")
    assert signed_in(cast.charlie).get(page["Location"]).status_code == 404


def test_one_address_cannot_start_without_end(cast: Cast, browser: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.runs.pages.start.MOST", 2)
    link = f"/s/{publish(cast).public_id}"
    assert [browser.post(link, {"a-name": "Ada"}).status_code for _ in range(3)] == [303, 303, 429]


def test_a_form_from_elsewhere_starts_nothing(cast: Cast) -> None:
    module = publish(cast)
    answer = Client(enforce_csrf_checks=True).post(f"/s/{module.public_id}", {"a-name": "Ada"})
    assert answer.status_code == 403
    assert not Run.objects.exists()


def test_what_is_too_large_is_refused_before_it_is_read(cast: Cast, browser: Client) -> None:
    module = publish(cast)
    answer = browser.post(f"/s/{module.public_id}", {"a-name": "Ada"}, CONTENT_LENGTH=str(10**9))
    assert answer.status_code == 413


def test_a_text_beyond_all_measure_is_refused(cast: Cast, browser: Client) -> None:
    assert browser.post(f"/s/{publish(cast).public_id}", {"a-name": "x" * 3 * 1024**2}).status_code == 400
    assert not Run.objects.exists()


NOWHERE = [
    "/s/%00",
    "/s/%F0%9F%98%80",
    "/s/task/%00",
    "/s/task/a:b:c",
    "/s/x/sessions/%00",
    "/s/x/sessions/y/state",
    "/s/%25",
]


@pytest.mark.parametrize("path", NOWHERE)
def test_addresses_that_nobody_made_lead_nowhere(browser: Client, path: str) -> None:
    for method in (browser.get, browser.head, browser.post):
        assert method(path).status_code in {404, 405}


# -- Sessions ----------------------------------------------------------------------------------------------------------
def test_a_session_of_another_module_is_not_there(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast))
    assert browser.get(address(run)).status_code == 200
    assert browser.get(f"/s/AAAAAAAAAAAAAAAAAAAAAA/sessions/{run.session_id}").status_code == 404
    assert browser.get(f"/s/AAAAAAAAAAAAAAAAAAAAAA/sessions/{run.session_id}/state").status_code == 404
    assert browser.get(f"/s/{run.module.public_id}/sessions/%00").status_code == 404


def test_a_session_of_a_module_by_key_opens_by_its_link(cast: Cast, browser: Client) -> None:
    assert browser.get(address(make_run(publish(cast, access="api_key")))).status_code == 200


def test_a_form_is_answered_with_everything_that_a_browser_sends(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast))
    task = ask(run, form=True)
    page = browser.get(address(run))
    assert b'value="For Ada"' not in page.content
    assert "For Ada" in text_of(page)
    answer = browser.post(
        address(run),
        {
            "task": task.pk,
            "action": "answer",
            "a-laptop": "15 inch",
            "a-screens": "2",
            "a-note": "",
            "a-extras": ["mouse", "bag"],
            "a-agreed": "on",
            "a-scan": SimpleUploadedFile("c.pdf", b"%PDF", "application/pdf"),
        },
    )
    assert (answer.status_code, answer["Location"]) == (303, f"{address(run)}?done={task.pk}")
    task.refresh_from_db()
    file = RunFile.objects.get()
    assert task.outcome == {
        "laptop": "15 inch",
        "screens": 2,
        "note": None,
        "extras": ["mouse", "bag"],
        "agreed": True,
        "scan": {"id": file.pk, "filename": "c.pdf", "contentType": "application/pdf", "size": 4},
    }
    assert "Your answer was saved" in text_of(browser.get(answer["Location"]))


def test_a_wrong_answer_comes_back_with_what_was_filled_in(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast))
    task = ask(run, form=True)
    answer = browser.post(address(run), {"task": task.pk, "action": "answer", "a-screens": "9", "a-note": "Mine"})
    assert answer.status_code == 400
    assert set(answer.context["shown"].form.errors) == {"laptop", "screens"}
    assert ">Mine</textarea>" in answer.content.decode().replace("\n", "")
    task.refresh_from_db()
    assert task.status == "open"


def test_looking_changes_nothing(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast))
    task = ask(run, "ada@example.com", deadline=timezone.now() - timedelta(seconds=1))
    link = mail.link_of(task, "ada@example.com").split("//")[1].partition("/")[2]
    tables = (HumanTask, Run, RunEvent, RunFile)
    before = [list(model.objects.values()) for model in tables]
    for path in (address(run), f"{address(run)}/state", f"/{link}", f"{address(run)}?task={task.pk}&action=approve"):
        for method in (browser.get, browser.head):
            assert method(path).status_code == 200
    assert [list(model.objects.values()) for model in tables] == before


def test_the_second_answer_sees_the_first(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast))
    task = ask(run)
    given = {"task": task.pk, "action": "approve"}
    assert browser.post(address(run), given).status_code == 303
    late = browser.post(address(run), given | {"action": "reject"})
    assert late.status_code == 409
    assert "This was approved." in text_of(late)
    assert "somebody with the link" in text_of(late)
    assert "This was approved." in text_of(browser.get(f"{address(run)}?task={task.pk}"))


def test_a_rejection_without_its_reason_is_asked_for_it(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast))
    task = ask(run, reason_on_reject=True)
    answer = browser.post(address(run), {"task": task.pk, "action": "reject"})
    assert answer.status_code == 400
    assert "Please say why you reject it." in text_of(answer)
    assert browser.post(address(run), {"task": task.pk, "action": "reject", "reason": "Too dear"}).status_code == 303
    assert "Too dear" in text_of(browser.get(f"{address(run)}?task={task.pk}"))


def test_an_answer_after_the_deadline_says_what_counts(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast))
    task = ask(run, deadline=timezone.now() + timedelta(seconds=60))
    HumanTask.objects.update(deadline=timezone.now() - timedelta(seconds=1))
    late = browser.post(address(run), {"task": task.pk, "action": "approve"})
    assert late.status_code == 409
    assert "It counts as rejected." in text_of(late)


def test_a_question_of_another_session_is_not_answered(cast: Cast, browser: Client) -> None:
    module = publish(cast)
    task, other = ask(make_run(module)), make_run(module)
    assert browser.post(address(other), {"task": task.pk, "action": "approve"}).status_code == 404
    assert browser.get(f"{address(other)}?task={task.pk}").status_code == 200
    task.refresh_from_db()
    assert task.status == "open"


def test_the_questions_of_a_child_stand_on_the_page_of_the_run_at_the_top(cast: Cast, browser: Client) -> None:
    module = publish(cast)
    top = make_run(module)
    child = make_run(module, parent=top, root=top)
    ask(child, title="Of the child")
    ask(top, title="Of the top", key="later")
    assert "Of the child" in text_of(browser.get(address(top)))
    page = text_of(browser.get(address(child)))
    assert "Of the child" in page
    assert "Of the top" not in page


def test_a_stranger_learns_neither_whom_it_waits_for_nor_what_it_is(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast))
    task = ask(run, "bob@example.com", title="Salary of Eve")
    refused = browser.post(address(run), {"task": task.pk, "action": "approve"})
    assert refused.status_code == 403
    for answer in (browser.get(address(run)), browser.get(f"{address(run)}?task={task.pk}"), refused):
        page = answer.content.decode()
        assert "This question is for somebody else." in page
        assert "bob@" not in page
        assert "Salary" not in page
    human.decide(task, True, "", human.Person("bob@example.com", email="bob@example.com"))
    page = text_of(browser.get(f"{address(run)}?task={task.pk}"))
    assert "bob@" not in page
    assert "Salary" not in page
    assert "It has been dealt with." in page


def test_who_is_assigned_answers_on_the_session_page_when_signed_in(cast: Cast) -> None:
    run = make_run(publish(cast))
    task = ask(run, "bob@example.com")
    page = signed_in(cast.bob).post(address(run), {"task": task.pk, "action": "approve"})
    assert page.status_code == 303
    task.refresh_from_db()
    assert task.answered_by == "bob@example.com"


def test_a_member_sees_whom_it_waits_for(cast: Cast) -> None:
    run = make_run(publish(cast))
    ask(run, "bob@example.com")
    assert "bob@example.com" in text_of(signed_in(cast.alice).get(address(run)))
    assert "bob@example.com" not in text_of(signed_in(cast.charlie).get(address(run)))


def test_saved_answers_are_there_again_in_another_browser(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast))
    task = ask(run, form=True)
    scan = SimpleUploadedFile("c.pdf", b"%PDF", "application/pdf")
    saved = browser.post(
        address(run), {"task": task.pk, "action": "save", "a-note": "Half", "a-extras": ["bag"], "a-scan": scan}
    )
    assert saved["Location"] == f"{address(run)}?saved={task.pk}"
    other = Client()
    page = other.get(address(run)).content.decode()
    assert "Half</textarea>" in page
    assert "Saved: c.pdf." in page
    assert re.search(r'value="bag"[^>]*checked', page)
    assert other.post(address(run), {"task": task.pk, "action": "answer", "a-laptop": "13 inch"}).status_code == 303
    task.refresh_from_db()
    assert task.outcome is not None
    assert task.outcome["scan"]["filename"] == "c.pdf"


def test_a_title_is_text_and_no_markup(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast))
    fields = [{"name": "n", "label": "<b>l</b>", "help": "<script>h</script>", "type": "choice", "options": ["<i>"]}]
    ask(run, form=True, title="<script>t</script>", text="<img src=x>", pages=[{"title": "<u>", "fields": fields}])
    page = browser.get(address(run)).content.decode()
    for markup in ("<b>l", "<script>h", "<script>t", "<img src=x", "<u>", "<i>"):
        assert markup not in page


def test_a_look_at_a_question_costs_few_queries(
    cast: Cast, browser: Client, django_assert_max_num_queries: Any
) -> None:
    run = make_run(publish(cast))
    ask(run, form=True)
    browser.get(f"{address(run)}/state")  # the definition is read once
    with django_assert_max_num_queries(4):
        browser.get(f"{address(run)}/state")
    with django_assert_max_num_queries(4):
        browser.get(address(run))


# -- Progress and end --------------------------------------------------------------------------------------------------
def test_progress_is_told_in_the_words_of_the_steps(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast), status=Run.Status.RUNNING)
    now = timezone.now()
    for number, (kind, key) in enumerate([("ended", "look"), ("started", "details")]):
        RunEvent.objects.create(run=run, number=number, kind=kind, key=key, at=now)
    state = browser.get(f"{address(run)}/state").json()
    assert [(line["title"], line["state"]) for line in state["lines"]] == [
        ("Look around", "done"),
        ("Equipment", "doing"),
        ("Approval", "coming"),
    ]
    assert 'http-equiv="refresh"' in browser.get(address(run)).content.decode()


def test_the_view_changes_when_there_is_something_else_to_show(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast))
    states = [browser.get(f"{address(run)}/state").json()]
    task = ask(run)
    states.append(browser.get(f"{address(run)}/state").json())
    human.decide(task, True, "", human.Person(""))
    Run.objects.update(status=Run.Status.COMPLETED)
    states.append(browser.get(f"{address(run)}/state").json())
    assert len({state["view"] for state in states}) == 3
    assert [state["open"] for state in states] == [[], [task.pk], []]
    assert [state["over"] for state in states] == [False, False, True]


def test_the_end_has_words_of_its_own_where_there_are_none(cast: Cast, browser: Client) -> None:
    page = text_of(browser.get(address(make_run(publish(cast), status=Run.Status.COMPLETED))))
    assert "Done" in page
    assert "Equip a colleague is complete." in page


def test_the_end_is_told_in_the_words_of_the_module(cast: Cast, browser: Client) -> None:
    end = {"title": "Thanks, {{ start.name }}", "text": "Result {{ result.n }} {{ start.unknown }}"}
    module = publish(cast, end=end)
    run = make_run(module, status=Run.Status.COMPLETED, parameters={"name": "Ada"}, result={"n": 7})
    page = text_of(browser.get(address(run)))
    assert "Thanks, Ada" in page
    assert "{{" not in page


REDIRECTS = {"allowed": ("https://app.example/done?x=1", True), "foreign": ("https://evil.example/", False),
             "a script": ("javascript:alert(1)", False)}  # fmt: skip


@pytest.mark.parametrize(("url", "goes"), REDIRECTS.values(), ids=REDIRECTS)
def test_the_end_leads_only_to_origins_that_the_project_allows(
    cast: Cast, browser: Client, url: str, goes: bool
) -> None:
    cast.project.allowed_origins = ["https://app.example"]
    cast.project.save()
    run = make_run(publish(cast, end={"redirect": url}), status=Run.Status.COMPLETED)
    answer = browser.get(address(run))
    assert (answer.status_code == 303) is goes
    assert answer.get("Location", "") == (url if goes else "")


def test_a_failure_is_told_with_a_reference_and_without_its_insides(cast: Cast, browser: Client) -> None:
    error = {"step": "look", "message": "HTTP 500 of https://internal.example"}
    run = make_run(publish(cast), status=Run.Status.FATAL_ERRORED, error=error)
    page = text_of(browser.get(address(run)))
    assert "This did not work" in page
    assert run.pk in page
    assert "internal" not in page


def test_what_the_author_wrote_for_a_failure_is_told(cast: Cast, browser: Client) -> None:
    error = {"step": "stop", "message": "Not approved"}
    run = make_run(publish(cast), status=Run.Status.FATAL_ERRORED, error=error)
    assert "Not approved" in text_of(browser.get(address(run)))


def test_a_cancelled_run_says_so(cast: Cast, browser: Client) -> None:
    run = make_run(publish(cast), status=Run.Status.CANCELLED)
    assert "was stopped before it was complete" in text_of(browser.get(address(run)))


# -- One person's question ---------------------------------------------------------------------------------------------
def link_to(task: HumanTask, email: str) -> str:
    return "/s/task/" + mail.link_of(task, email).split("/s/task/")[1]


def test_the_link_of_an_e_mail_answers_as_its_person(cast: Cast, browser: Client) -> None:
    task = ask(make_run(publish(cast)), "ada@example.com", title="Buy a laptop?")
    link = link_to(task, "ada@example.com")
    assert "Buy a laptop?" in text_of(browser.get(link))
    done = browser.post(link, {"action": "approve"})
    assert done.status_code == 303
    page = text_of(browser.get(done["Location"]))
    assert "This was approved." in page
    assert "ada@example.com" in page
    assert browser.post(link, {"action": "reject"}).status_code == 409
    task.refresh_from_db()
    assert task.outcome == {"approved": True, "by": "ada@example.com", "reason": ""}


@pytest.mark.parametrize("method", ["OPTIONS", "POST"], ids=["method", "csrf"])
def test_a_refused_link_is_not_written_to_the_log(cast: Cast, caplog: pytest.LogCaptureFixture, method: str) -> None:
    run = make_run(publish(cast))
    for link in (link_to(ask(run, "ada@example.com"), "ada@example.com"), address(run)):
        assert Client(enforce_csrf_checks=True).generic(method, link).status_code in {403, 405}
        assert link not in caplog.text
    assert "/s/…" in caplog.text


def test_a_link_serves_only_whom_the_question_is_still_for(cast: Cast, browser: Client) -> None:
    group = Group.objects.create(project=cast.project, name="b", members=["ada@example.com"])
    task = ask(make_run(publish(cast)), "group:b")
    link = link_to(task, "ada@example.com")
    assert browser.get(link).status_code == 200
    group.members = []
    group.save()
    assert browser.get(link).status_code == 404
    assert browser.get(link[:-2] + "xx").status_code == 404


def test_a_vote_of_several_says_what_it_waits_for(cast: Cast, browser: Client) -> None:
    task = ask(make_run(publish(cast)), "ada@example.com", "ben@example.com", quorum=2)
    link = link_to(task, "ada@example.com")
    browser.post(link, {"action": "approve"})
    page = text_of(browser.get(link))
    assert "You have approved this." in page
    assert "1 of 2" in page
    assert browser.post(link, {"action": "approve"}).status_code == 409


# -- Inbox -------------------------------------------------------------------------------------------------------------
def test_the_inbox_shows_what_waits_for_the_person_and_nothing_else(cast: Cast, browser: Client) -> None:
    module = publish(cast)
    Group.objects.create(project=cast.project, name="käufer", members=["Bob@example.com"])
    Group.objects.create(project=cast.foreign_project, name="b", members=["bob@example.com"])
    ask(make_run(module), "bob@example.com", title="By address")
    ask(make_run(module), "group:käufer", title="By group")
    ask(make_run(module), "alice@example.com", title="Of somebody else")
    ask(make_run(module), "group:b", title="By a group of another project")
    ask(make_run(module), title="Of nobody")
    done = ask(make_run(module), "bob@example.com", title="Done already")
    human.decide(done, True, "", human.Person("bob@example.com", email="bob@example.com"))
    assert browser.get("/inbox")["Location"] == "/accounts/login/?next=/inbox"
    page = signed_in(cast.bob).get("/inbox")
    assert [shown.task.title for shown in page.context["waiting"]] == ["By address", "By group"]
    assert [shown.task.title for shown in page.context["recent"]] == ["Done already"]
    assert signed_in(cast.charlie).get("/inbox").context["waiting"] == []


def test_the_inbox_shows_nothing_that_somebody_of_the_same_name_answered_elsewhere(cast: Cast) -> None:
    name = cast.charlie.email  # an end user of another tenant may be called by any name
    task = ask(make_run(publish(cast)), f"user:{name}", title="Of another tenant")
    human.decide(task, True, "", human.Person(name, user_id=name))
    assert signed_in(cast.charlie).get("/inbox").context["recent"] == []


def test_a_question_is_answered_out_of_the_inbox(cast: Cast, browser: Client) -> None:
    task = ask(make_run(publish(cast)), "bob@example.com")
    link = f"/inbox/{task.pk}"
    assert browser.get(link).status_code == 302
    assert signed_in(cast.charlie).get(link).status_code == 404
    assert signed_in(cast.charlie).post(link, {"action": "approve"}).status_code == 404
    bob = signed_in(cast.bob)
    assert bob.post(link, {"action": "reject", "reason": "No"}).status_code == 303
    assert "This was rejected." in text_of(bob.get(link))


def test_a_question_for_whoever_has_the_link_is_not_reached_by_its_id(cast: Cast) -> None:
    task = ask(make_run(publish(cast)))
    assert signed_in(cast.bob).get(f"/inbox/{task.pk}").status_code == 404


PAGES: dict[str, Callable[[Run, HumanTask], str]] = {
    "start": lambda run, task: f"/s/{run.module.public_id}",
    "session": lambda run, task: address(run),
    "link": lambda run, task: link_to(task, "ada@example.com"),
    "nothing": lambda run, task: "/s/nothing",
}


@pytest.mark.parametrize("path", PAGES.values(), ids=PAGES)
def test_pages_speak_the_browsers_language(cast: Cast, browser: Client, path: Callable[..., str]) -> None:
    run = make_run(publish(cast))
    task = ask(run, "ada@example.com")
    page = browser.get(path(run, task), HTTP_ACCEPT_LANGUAGE="de-CH")
    assert page["Content-Language"] == "de"
    assert '<html lang="de"' in page.content.decode()
