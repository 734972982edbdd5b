"""What people are asked: one answer counts, whose it may be, when it is too late, and the e-mails about it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.core import mail as outbox
from django.db import connection, transaction
from django.utils import timezone

from apps.lib.errors import Conflict, InvalidInput, NotPermitted
from apps.modules.definition import Step
from apps.modules.models import Group, Module, ModuleVersion
from apps.runs import human, mail
from apps.runs.engine import Ask, StepError
from apps.runs.human import Person, Upload
from apps.runs.models import HumanTask, Run, RunFile
from apps.workspaces.models import AuditEvent
from tests.cast import Cast
from tests.peers.process import free_port

ADA = Person("ada@example.com", email="ada@example.com")
BEN = Person("ben@example.com", email="ben@example.com")
CLEO = Person("cleo@example.com", email="Cleo@Example.com")
U1 = Person("u1", user_id="u1")
NOBODY = Person("")

FORM: dict[str, Any] = {
    "title": "Equipment",
    "pages": [
        {
            "fields": [
                {"name": "laptop", "label": "Which?", "type": "choice", "options": ["13", "15"], "required": True}
            ]
        },
        {"fields": [{"name": "note", "label": "Note", "type": "long_text", "default": "none"}]},
    ],
}
FILE_FORM: dict[str, Any] = {"title": "Contract", "fields": [{"name": "scan", "label": "Scan", "type": "file"}]}
LAPTOP = {"laptop": "13"}


@pytest.fixture(autouse=True)
def hinted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that were hinted at, instead of a broker."""
    found: list[str] = []
    monkeypatch.setattr("apps.runs.hints.hint", found.append)
    monkeypatch.setattr(mail, "enqueue", lambda ids: found.extend(f"mail {pk}" for pk in ids))
    return found


def make_run(cast: Cast, **fields: Any) -> Run:
    module, _ = Module.objects.get_or_create(project=cast.project, name="onboard", defaults={"source": ""})
    version, _ = ModuleVersion.objects.get_or_create(module=module, number=1, defaults={"definition": {}, "source": ""})
    given = {"surface": "runs", "status": Run.Status.WAITING_FOR_INPUT, "wake_at": None} | fields
    return Run.objects.create(project=cast.project, workspace=cast.workspace, module=module, version=version, **given)


def ask(run: Run, kind: str = "approve", *assignees: str, after: float | None = None, **spec: Any) -> HumanTask:
    spec = {"title": "Buy it?"} | spec if kind == "approve" else (spec or FORM)
    body = {"title": "x"} | ({"fields": FORM["pages"][0]["fields"]} if kind == "form" else {})
    step = Step.model_validate({"id": "ok", kind: body})
    now = timezone.now()
    deadline = now + timedelta(seconds=after) if after is not None else None
    command = Ask("ok", step, {**spec}, list(assignees), deadline, spec.pop("remind", None))
    with transaction.atomic():
        return human.ask(run, command, now)


def outcome(task: HumanTask) -> dict[str, Any]:
    assert task.outcome is not None
    return dict(task.outcome)


def fresh(task: HumanTask) -> HumanTask:
    return HumanTask.objects.get(pk=task.pk)


# -- Asking ------------------------------------------------------------------------------------------------------------
def test_a_question_that_is_open_is_not_asked_twice(cast: Cast) -> None:
    run = make_run(cast)
    assert ask(run).pk == ask(run).pk


def test_an_ended_question_may_be_asked_again_and_the_last_one_counts(cast: Cast) -> None:
    run = make_run(cast)
    human.decide(ask(run), False, "", NOBODY)
    again = ask(run)
    assert human.ended_of(run, ["ok"]) == {}
    human.decide(again, True, "", NOBODY)
    ended = human.ended_of(run, ["ok", "other"])
    assert human.result_of(ended["ok"]) == {"approved": True, "by": "", "reason": ""}


def test_a_question_belongs_to_the_page_of_the_run_at_the_top(cast: Cast) -> None:
    top = make_run(cast)
    assert ask(make_run(cast, root=top, parent=top)).root_id == top.pk
    assert ask(top).root_id == top.pk


# -- Forms -------------------------------------------------------------------------------------------------------------
def test_the_first_answer_counts_and_wakes_the_run(
    cast: Cast, hinted: list[str], django_capture_on_commit_callbacks: Any
) -> None:
    run = make_run(cast)
    task = ask(run, "form")
    with django_capture_on_commit_callbacks(execute=True):
        done = human.answer(task, LAPTOP, ADA)
    assert (done.status, done.outcome) == ("answered", {"laptop": "13", "note": "none"})
    assert (done.answered_by, hinted) == ("ada@example.com", [run.pk])
    run.refresh_from_db()
    assert run.pokes == 1
    assert run.wake_at is not None
    with pytest.raises(Conflict) as late:
        human.answer(task, {"laptop": "15"}, BEN)
    assert late.value.details["answeredBy"] == "ada@example.com"
    assert outcome(fresh(task))["laptop"] == "13"
    assert AuditEvent.objects.get(action="task.answered").actor == "user:ada@example.com"


def test_faults_are_told_by_field_and_nothing_is_kept(cast: Cast) -> None:
    task = ask(make_run(cast), "form")
    with pytest.raises(InvalidInput) as wrong:
        human.answer(task, {"laptop": "14"}, NOBODY)
    assert list(wrong.value.details) == ["laptop"]
    assert fresh(task).status == "open"


def test_a_nul_character_is_told_and_not_stored(cast: Cast) -> None:
    task = ask(make_run(cast), "form")
    with pytest.raises(InvalidInput) as wrong:
        human.answer(task, LAPTOP | {"note": "a\x00b"}, NOBODY)
    assert list(wrong.value.details) == ["note"]


def test_a_decision_is_no_answer_of_a_form_nor_the_other_way_round(cast: Cast) -> None:
    run = make_run(cast)
    with pytest.raises(InvalidInput):
        human.answer(ask(run), {}, NOBODY)
    HumanTask.objects.all().delete()
    with pytest.raises(InvalidInput):
        human.decide(ask(run, "form"), True, "", NOBODY)


def test_a_form_whose_options_an_expression_gave_as_one_number_can_be_answered(cast: Cast) -> None:
    task = ask(make_run(cast), "form", title="t", fields=[{"name": "n", "label": 7, "type": "choice", "options": "a"}])
    assert human.fields_of(task)[0].label == "7"
    assert human.answer(task, {"n": "a"}, NOBODY).outcome == {"n": "a"}


# -- Files -------------------------------------------------------------------------------------------------------------
def test_an_uploaded_file_is_a_row_and_the_answer_names_it(cast: Cast) -> None:
    task = ask(make_run(cast), "form", **FILE_FORM)
    done = human.answer(task, {}, NOBODY, files={"scan": Upload("a.pdf", "application/pdf", b"%PDF")})
    row = RunFile.objects.get()
    assert done.outcome == {"scan": {"id": row.pk, "filename": "a.pdf", "contentType": "application/pdf", "size": 4}}
    assert bytes(row.content) == b"%PDF"


def test_nobody_names_a_file_by_its_id_that_is_not_in_the_draft(cast: Cast) -> None:
    run = make_run(cast)
    foreign = RunFile.objects.create(
        project=cast.project, run=run, name="x", content_type="text/plain", size=1, content=b"x"
    )
    task = ask(run, "form", **FILE_FORM)
    with pytest.raises(InvalidInput):
        human.answer(task, {"scan": human.file_value(foreign)}, NOBODY)


def test_a_file_that_is_too_large_is_told(cast: Cast) -> None:
    task = ask(make_run(cast), "form", title="t", fields=[FILE_FORM["fields"][0] | {"max_length": 3}])
    with pytest.raises(InvalidInput) as wrong:
        human.answer(task, {}, NOBODY, files={"scan": Upload("a", "", b"1234")})
    assert "scan" in wrong.value.details
    assert not RunFile.objects.exists()


# -- Drafts ------------------------------------------------------------------------------------------------------------
def test_a_draft_keeps_what_does_not_fit_yet_and_its_file_becomes_the_answer(cast: Cast) -> None:
    fields = [FORM["pages"][0]["fields"][0], FILE_FORM["fields"][0]]
    task = ask(make_run(cast), "form", title="t", fields=fields)
    file = Upload("a.txt", "text/plain", b"a")
    assert human.save_draft(task, {"laptop": "", "unknown": "x"}, NOBODY, files={"scan": file})
    draft = fresh(task).draft
    assert set(draft) == {"laptop", "scan"}
    assert draft["laptop"] == ""
    done = human.answer(task, {"laptop": "15", "scan": draft["scan"]}, NOBODY)
    assert outcome(done)["scan"] == draft["scan"]
    assert done.draft == {}
    assert RunFile.objects.count() == 1


def test_a_replaced_file_of_a_draft_is_deleted(cast: Cast) -> None:
    task = ask(make_run(cast), "form", **FILE_FORM)
    human.save_draft(task, {}, NOBODY, files={"scan": Upload("a", "", b"a")})
    human.save_draft(task, {}, NOBODY, files={"scan": Upload("b", "", b"b")})
    assert [row.name for row in RunFile.objects.all()] == ["b"]
    human.answer(task, {}, NOBODY)
    assert not RunFile.objects.exists()


def test_a_draft_has_an_end(cast: Cast) -> None:
    task = ask(make_run(cast), "form")
    with pytest.raises(InvalidInput):
        human.save_draft(task, {"note": "x" * human.MAX_DRAFT}, NOBODY)
    human.answer(task, LAPTOP, NOBODY)
    with pytest.raises(Conflict):
        human.save_draft(task, {"note": "late"}, NOBODY)
    assert fresh(task).draft == {}


# -- Who may answer ----------------------------------------------------------------------------------------------------
ASSIGNED = {
    "an address in another case": (["CLEO@example.com"], CLEO),
    "a member of a group": (["group:buyers"], BEN),
    "an end user": (["user:u1"], U1),
}


@pytest.mark.parametrize(("assignees", "person"), ASSIGNED.values(), ids=ASSIGNED)
def test_who_is_assigned_may_answer(cast: Cast, assignees: list[str], person: Person) -> None:
    Group.objects.create(project=cast.project, name="buyers", members=["Ben@example.com"])
    assert human.decide(ask(make_run(cast), "approve", *assignees), True, "", person).status == "answered"


STRANGERS = {
    "another person": ADA,
    "nobody": NOBODY,
    "an end user of the same name": Person("u", user_id="ben@example.com"),
}


@pytest.mark.parametrize("person", STRANGERS.values(), ids=STRANGERS)
def test_who_is_not_assigned_may_neither_answer_nor_learn_who_did(cast: Cast, person: Person) -> None:
    task = ask(make_run(cast), "approve", "ben@example.com")
    human.decide(task, True, "", BEN)
    with pytest.raises(NotPermitted):
        human.decide(task, True, "", person)


def test_a_group_of_another_project_is_none(cast: Cast) -> None:
    Group.objects.create(project=cast.foreign_project, name="buyers", members=["ben@example.com"])
    with pytest.raises(NotPermitted):
        human.decide(ask(make_run(cast), "approve", "group:buyers"), True, "", BEN)


STARTS = {
    "by their account": ({"started_by": "user:Ada@example.com"}, ADA),
    "as an end user": ({"started_by": "end-user:u1"}, U1),
    "as the run's end user": ({"started_by": "key:k all", "user_id": "u1"}, U1),
    "as an end user named by address": ({"user_id": "ada@example.com"}, ADA),
}


@pytest.mark.parametrize(("fields", "person"), STARTS.values(), ids=STARTS)
def test_the_starter_may_not_approve_where_that_is_barred(cast: Cast, fields: dict[str, str], person: Person) -> None:
    task = ask(make_run(cast, **fields), not_starter=True)
    with pytest.raises(NotPermitted):
        human.decide(task, True, "", person)
    assert human.decide(task, True, "", BEN).status == "answered"


def test_the_starter_of_the_run_at_the_top_is_the_starter_of_its_children(cast: Cast) -> None:
    top = make_run(cast, started_by="user:ada@example.com")
    with pytest.raises(NotPermitted):
        human.decide(ask(make_run(cast, root=top, parent=top), not_starter=True), True, "", ADA)


def test_nobody_knows_whether_a_stranger_is_the_starter(cast: Cast) -> None:
    with pytest.raises(NotPermitted):
        human.decide(ask(make_run(cast), not_starter=True), True, "", NOBODY)


# -- Quorum ------------------------------------------------------------------------------------------------------------
def test_a_quorum_needs_so_many_people(cast: Cast) -> None:
    task = ask(make_run(cast), "approve", "ada@example.com", "ben@example.com", "cleo@example.com", quorum=2)
    assert human.decide(task, True, "", ADA).status == "open"
    with pytest.raises(Conflict):
        human.decide(task, True, "", ADA)
    assert human.decide(task, True, "", BEN).outcome == {
        "approved": True, "by": "ada@example.com, ben@example.com", "reason": ""
    }  # fmt: skip


def test_a_rejection_decides_once_the_quorum_cannot_be_reached(cast: Cast) -> None:
    task = ask(make_run(cast), "approve", "ada@example.com", "ben@example.com", "cleo@example.com", quorum=2)
    assert human.decide(task, False, "no", ADA).status == "open"
    assert human.decide(task, False, "never", BEN).outcome == {
        "approved": False, "by": "ada@example.com, ben@example.com", "reason": "no\nnever"
    }  # fmt: skip


def test_the_starter_does_not_count_among_those_who_could_still_approve(cast: Cast) -> None:
    run = make_run(cast, started_by="user:ada@example.com")
    task = ask(run, "approve", "ada@example.com", "ben@example.com", "cleo@example.com", quorum=2, not_starter=True)
    assert outcome(human.decide(task, False, "", BEN))["approved"] is False


def test_a_quorum_that_the_assignees_cannot_make_up_is_not_waited_for(cast: Cast) -> None:
    run = make_run(cast, started_by="user:ada@example.com")
    task = ask(run, "approve", "ada@example.com", "ben@example.com", quorum=2, not_starter=True)
    assert human.decide(task, True, "fine", BEN).outcome == {"approved": False, "by": "", "reason": human.TOO_FEW}


def test_with_nobody_assigned_one_rejection_decides(cast: Cast) -> None:
    task = ask(make_run(cast), quorum=2)
    assert human.decide(task, True, "", ADA).status == "open"
    assert outcome(human.decide(task, False, "", BEN))["approved"] is False


def test_votes_of_strangers_cannot_be_told_apart_and_do_not_count(cast: Cast) -> None:
    with pytest.raises(NotPermitted):
        human.decide(ask(make_run(cast), quorum=2), True, "", NOBODY)


def test_a_vote_of_who_left_the_group_does_not_count(cast: Cast) -> None:
    group = Group.objects.create(project=cast.project, name="b", members=["ada@example.com", "ben@example.com"])
    task = ask(make_run(cast), "approve", "group:b", quorum=2)
    human.decide(task, True, "", ADA)
    group.members = ["ben@example.com", "cleo@example.com"]
    group.save()
    assert human.decide(task, True, "", BEN).status == "open"
    assert human.decide(task, True, "", CLEO).status == "answered"


def test_a_rejection_needs_a_reason_where_one_is_asked_for(cast: Cast) -> None:
    task = ask(make_run(cast), reason_on_reject=True)
    with pytest.raises(InvalidInput) as wrong:
        human.decide(task, False, "  ", NOBODY)
    assert "reason" in wrong.value.details
    assert outcome(human.decide(task, False, "Too dear", NOBODY))["reason"] == "Too dear"


@pytest.fixture
def in_threads(transactional_db: None) -> Callable[[list[Callable[[], Any]]], list[Any]]:
    """Runs functions at the same time; what they raise is their result."""
    if connection.vendor == "sqlite":
        pytest.skip("SQLite's memory database locks its tables between threads")

    def run(functions: list[Callable[[], Any]]) -> list[Any]:
        results: list[Any] = [None] * len(functions)
        barrier = threading.Barrier(len(functions))

        def one(index: int) -> None:
            barrier.wait()
            try:
                results[index] = functions[index]()
            except Exception as error:
                results[index] = error
            finally:
                connection.close()

        threads = [threading.Thread(target=one, args=(index,)) for index in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    return run


def test_of_answers_at_the_same_moment_one_counts(in_threads: Any, cast: Cast) -> None:
    task = ask(make_run(cast), "form")
    people = [Person(f"p{index}", user_id=f"p{index}") for index in range(6)]
    results = in_threads([partial(human.answer, task, LAPTOP, person) for person in people])
    won = [result for result in results if isinstance(result, HumanTask)]
    assert len(won) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 5
    assert fresh(task).answered_by == won[0].answered_by


def test_the_last_two_votes_of_a_quorum_at_the_same_moment_decide(in_threads: Any, cast: Cast) -> None:
    for _ in range(5):
        task = ask(make_run(cast), "approve", "ada@example.com", "ben@example.com", quorum=2)
        in_threads([partial(human.decide, task, True, "", person) for person in (ADA, BEN)])
        assert fresh(task).status == "answered"


# -- Deadlines ---------------------------------------------------------------------------------------------------------
OUTCOMES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "an approval rejects": ("approve", {}, {"approved": False, "by": "", "reason": human.LATE}),
    "an approval approves": ("approve", {"on_deadline": "approve"}, {"approved": True, "by": "", "reason": human.LATE}),
    "an approval fails": ("approve", {"on_deadline": "fail"}, None),
    "a form fails": ("form", FORM, None),
    "a form continues": ("form", FORM | {"on_deadline": "continue"}, {"laptop": None, "note": "none"}),
}


@pytest.mark.parametrize(("kind", "spec", "outcome"), OUTCOMES.values(), ids=OUTCOMES)
def test_past_its_deadline_a_question_has_its_default_outcome(
    cast: Cast, kind: str, spec: dict[str, Any], outcome: Any
) -> None:
    task = ask(make_run(cast), kind, after=-1, **spec)
    assert human.expire(task, timezone.now())
    assert (task.status, task.outcome) == ("expired", outcome)
    result = human.result_of(human.ended_of(task.run, ["ok"])["ok"])
    assert isinstance(result, StepError) and result.final if outcome is None else result == outcome
    assert not human.expire(task, timezone.now())


def test_a_question_before_its_deadline_does_not_expire(cast: Cast) -> None:
    task = ask(make_run(cast), after=60)
    assert not human.expire(task, timezone.now())
    assert fresh(task).status == "open"


def test_an_answer_past_the_deadline_is_refused_even_if_nobody_has_looked_yet(cast: Cast) -> None:
    task = ask(make_run(cast), after=-1)
    with pytest.raises(Conflict) as late:
        human.decide(task, True, "", NOBODY)
    assert late.value.details["status"] == "expired"
    assert outcome(fresh(task))["approved"] is False


def test_an_answer_that_came_first_is_not_overwritten_by_the_deadline(cast: Cast) -> None:
    task = ask(make_run(cast), after=60)
    human.decide(task, True, "", NOBODY)
    assert not human.expire(task, timezone.now() + timedelta(hours=1))
    assert outcome(task)["approved"] is True


def test_the_questions_of_an_ended_run_are_cancelled(cast: Cast) -> None:
    run, other = make_run(cast), make_run(cast)
    task, kept = ask(run), ask(other)
    assert human.cancel_all([run.pk], timezone.now()) == 1
    assert (fresh(task).status, fresh(kept).status) == ("cancelled", "open")
    with pytest.raises(Conflict):
        human.decide(task, True, "", NOBODY)
    assert human.ended_of(run, ["ok"]) == {}


# -- E-mail ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def mailbox() -> list[Any]:
    outbox.outbox = []
    return outbox.outbox


def test_assignees_get_each_their_own_link(cast: Cast, mailbox: list[Any]) -> None:
    Group.objects.create(project=cast.project, name="buyers", members=["ben@example.com"])
    task = ask(make_run(cast), "approve", "Ada@example.com", "group:buyers", "user:u1", title="Buy\nit?")
    assert mail.send(task.pk) == 2
    assert sorted(message.to[0] for message in mailbox) == ["ada@example.com", "ben@example.com"]
    assert mailbox[0].subject == "Buy it? · Shop"
    for message in mailbox:
        token = message.body.split("/s/task/")[1].split()[0]
        assert mail.read_link(token) == mail.TaskLink(task.pk, message.to[0])
    assert fresh(task).remind_at is None
    assert mail.send(task.pk) == 0


def test_a_changed_link_is_none(cast: Cast) -> None:
    token = mail.link_of(ask(make_run(cast), "approve", "ada@example.com"), "ada@example.com").split("/s/task/")[1]
    assert mail.read_link(token[:-1] + ("A" if token[-1] != "A" else "B")) is None
    assert mail.read_link("x" * 5000) is None


def test_e_mail_is_sent_only_once_the_question_is_committed(
    cast: Cast, hinted: list[str], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        task = ask(make_run(cast), "approve", "ada@example.com")
        assert hinted == []
    assert hinted == [f"mail {task.pk}"]


def test_nobody_is_written_to_where_that_is_off_or_nobody_has_an_address(cast: Cast) -> None:
    run = make_run(cast)
    assert ask(run, "approve", "ada@example.com", email=False).remind_at is None
    HumanTask.objects.all().delete()
    assert ask(run, "approve", "user:u1").remind_at is None


def test_reminders_come_again_and_again_to_those_who_have_not_answered(
    cast: Cast, mailbox: list[Any], monkeypatch: pytest.MonkeyPatch, hinted: list[str]
) -> None:
    task = ask(make_run(cast), "approve", "ada@example.com", "ben@example.com", quorum=2, remind=3600.0)
    mail.send(task.pk)
    human.decide(task, True, "", ADA)
    assert human.remind_due(timezone.now()) == 0
    later = timezone.now() + timedelta(hours=1, seconds=1)
    monkeypatch.setattr(timezone, "now", lambda: later)
    assert human.remind_due(later) == 1
    assert hinted[-1] == f"mail {task.pk}"
    assert mail.send(task.pk) == 1
    assert mailbox[-1].to == ["ben@example.com"]
    assert mailbox[-1].subject.startswith("Reminder: ")
    assert fresh(task).remind_at == task.created_at + timedelta(hours=2)


def test_a_mail_server_that_is_down_loses_nothing(
    cast: Cast, mailbox: list[Any], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ask(make_run(cast), "approve", "ada@example.com")
    working = settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    assert mail.send(task.pk) == 0
    due = fresh(task).remind_at
    assert due is not None
    assert due > timezone.now()
    assert fresh(task).status == "open"
    settings.EMAIL_BACKEND = working
    monkeypatch.setattr(timezone, "now", lambda: due)
    assert mail.send(task.pk) == 1
    assert len(mailbox) == 1


def test_two_workers_send_an_e_mail_once(cast: Cast, mailbox: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    task = ask(make_run(cast), "approve", "ada@example.com")
    sending = mail._send_all

    def while_another_comes(*given: Any) -> int:
        assert mail.send(task.pk) == 0
        return sending(*given)

    monkeypatch.setattr(mail, "_send_all", while_another_comes)
    assert mail.send(task.pk) == 1
    assert len(mailbox) == 1


def test_no_e_mail_is_sent_about_what_has_ended(cast: Cast, mailbox: list[Any]) -> None:
    task = ask(make_run(cast), "approve", "ada@example.com", remind=3600.0)
    human.decide(task, True, "", ADA)
    assert human.remind_due(timezone.now() + timedelta(days=1)) == 0
    assert mail.send(task.pk) == 0
    assert mailbox == []
