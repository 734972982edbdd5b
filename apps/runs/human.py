"""The questions that runs ask people: made, answered, reminded of, ended. Every change of a human task.

One answer counts: the conditional UPDATE that ends an open task says whose. Whoever carries the run reads how its questions
ended by `ended_of` and `result_of`; every end pokes the run.

How an approval is decided: it is approved when ``quorum`` people have approved. It is rejected as soon as the quorum can no
longer be reached by the assignees who have not answered yet; where nobody is assigned, one rejection decides.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.lib.errors import Conflict, InvalidInput, NotPermitted
from apps.lib.ids import row_id
from apps.modules.definition import FormField
from apps.modules.parameters import clean_answers, is_storable
from apps.workspaces.audit import record

from . import hints, mail
from .assignees import GROUP, REFUSALS, USER, people_of, quorum_of, refusal, voter_of, who_could_still
from .assignees import Person as Person
from .engine import Ask, StepError
from .models import HumanTask, Run, RunFile, TaskVote, poke

MAX_REASON = 5000  # characters
MAX_FILE = 10 * 1024 * 1024  # bytes, where the field names no smaller limit
MAX_DRAFT = 1024 * 1024  # bytes of answers saved so far, files not counted
DRAFT_FILES = 20  # files that one question keeps for later
LATE = "Nobody answered before the deadline."
TOO_FEW = "Fewer people are asked than have to approve."


@dataclass(frozen=True)
class Upload:
    """A file as it was sent."""

    filename: str
    content_type: str
    content: bytes


# -- Asking ------------------------------------------------------------------------------------------------------------
def ask(run: Run, command: Ask, now: datetime) -> HumanTask:
    """Makes the open task of a step, in the caller's transaction; its e-mails go out once that is committed.

    Called again for the same step (another attempt, a worker taken over) it gives the open task that is there.
    """
    kind = HumanTask.Kind.FORM if command.step.kind == "form" else HumanTask.Kind.APPROVE
    spec = json.loads(json.dumps({**command.spec, "remind": command.remind_seconds}, cls=DjangoJSONEncoder))
    mailed = spec.get("email", True) and any(not name.startswith(USER) for name in command.assignees)
    task, made = HumanTask.objects.get_or_create(
        run=run,
        key=command.key,
        status=HumanTask.Status.OPEN,
        defaults={
            "project_id": run.project_id,
            "root_id": run.root_id or run.pk,
            "kind": kind,
            "title": str(spec.get("title") or "")[:500],
            "spec": spec,
            "assignees": _distinct(command.assignees),
            "deadline": command.deadline,
            "remind_at": now if mailed else None,
            "created_at": now,
        },
    )
    if made and mailed:
        transaction.on_commit(lambda: mail.enqueue([task.pk]))
    return task


def _distinct(assignees: Iterable[Any]) -> list[str]:
    """As they were written, but addresses in lower case, each once."""
    found = [str(one).strip() for one in assignees]
    return list(dict.fromkeys(one if one.startswith((GROUP, USER)) else one.lower() for one in found if one))


def ended_of(run: Run, keys: Iterable[str]) -> dict[str, HumanTask]:
    """Of the steps that wait for an answer those whose question has ended, by key: the last one asked counts."""
    rows = HumanTask.objects.filter(run=run, key__in=list(keys)).order_by("created_at")
    last = {task.key: task for task in rows}
    over = (HumanTask.Status.ANSWERED, HumanTask.Status.EXPIRED)
    return {key: task for key, task in last.items() if task.status in over}


def result_of(task: HumanTask) -> dict[str, Any] | StepError:
    """What an ended question gives its step: its output; an error where the deadline passed and that is a failure."""
    return task.outcome if task.outcome is not None else StepError(LATE, kind="timeout", final=True)


# -- Whether an answer counts ------------------------------------------------------------------------------------------
def _check(task: HumanTask, person: Person, now: datetime) -> None:
    """Raises `NotPermitted` or `Conflict`, in this order: who may not answer does not learn who did."""
    why = refusal(task, person)
    if why:
        raise NotPermitted(REFUSALS[why], remediation="Let one of the people answer whom it is for.")
    if task.status == HumanTask.Status.OPEN and task.deadline is not None and task.deadline <= now:
        expire(task, now)
    if task.status != HumanTask.Status.OPEN:
        raise over(task)


def over(task: HumanTask) -> Conflict:
    """What an answer is told that comes after the end."""
    texts = {
        HumanTask.Status.ANSWERED: "This question was already answered.",
        HumanTask.Status.EXPIRED: "The deadline of this question is over.",
    }
    details = {
        "status": task.status,
        "answeredBy": task.answered_by or None,
        "endedAt": task.ended_at.isoformat() if task.ended_at else None,
    }
    text = texts.get(HumanTask.Status(task.status), "This question is no longer asked.")
    return Conflict(text, remediation="Nothing is left to do: what was answered first counts.", details=details)


# -- Forms -------------------------------------------------------------------------------------------------------------
def pages_of(task: HumanTask) -> list[dict[str, Any]]:
    """A form's pages as ``{title, text, fields: [FormField]}``."""
    given = task.spec.get("pages") or [{"fields": task.spec.get("fields") or []}]
    return [
        {
            "title": str(page.get("title") or ""),
            "text": str(page.get("text") or ""),
            "fields": [_field(field) for field in page["fields"]],
        }
        for page in given
    ]


def fields_of(task: HumanTask) -> list[FormField]:
    return [field for page in pages_of(task) for field in page["fields"]]


def _field(data: dict[str, Any]) -> FormField:
    """A field whose expressions are filled in: what they gave may be of any type, texts are texts here."""
    known = {name: value for name, value in data.items() if name in FormField.model_fields and value is not None}
    for name in ("label", "help", "placeholder"):
        if name in known:
            known[name] = str(known[name])
    options = known.get("options")
    if options is not None:
        listed = options if isinstance(options, list) else [options]
        known["options"] = [one if type(one) in (int, float) else str(one) for one in listed] or None
    return FormField.model_validate(known)


def answer(
    task: HumanTask, answers: dict[str, Any], person: Person, *, files: dict[str, Any] | None = None
) -> HumanTask:
    """Answers a form; the first answer counts. Pokes the run. ``files``: `Upload` by field name.

    Raises `InvalidInput` by field, `Conflict` for a task that is no longer open, `NotPermitted` for one who may not answer.
    """
    now = timezone.now()
    task = _fresh(task)
    _check(task, person, now)
    if task.kind != HumanTask.Kind.FORM:
        raise InvalidInput({"answers": ["This question is a decision: send approved, true or false."]})
    rows = _files(task, {**_inline(task, answers), **(files or {})})
    given = _with_files(task, answers, rows)
    cleaned, faults = clean_answers(fields_of(task), given)
    if faults:
        raise InvalidInput(faults)
    kept = {value["id"] for value in cleaned.values() if _is_file(value)}

    def store() -> None:
        RunFile.objects.bulk_create([row for row in rows.values() if row.pk in kept])
        _forget_files(task, kept)
        record(person.actor, "task.answered", task.pk, project=task.project, title=task.title, run=task.run_id)

    return _end(task, HumanTask.Status.ANSWERED, cleaned, person, now, also=store)


def save_draft(
    task: HumanTask, answers: dict[str, Any], person: Person, *, files: dict[str, Any] | None = None
) -> bool:
    """Keeps what was filled in so far, unchecked, for whoever goes on with it. False where the question has ended.

    Raises `NotPermitted`; `InvalidInput` for what is too much to keep.
    """
    now = timezone.now()
    task = _fresh(task)
    _check(task, person, now)
    rows = _files(task, {**_inline(task, answers), **(files or {})})
    names = {field.name for field in fields_of(task)}
    draft = {name: value for name, value in _with_files(task, answers, rows).items() if name in names}
    if not is_storable(draft) or len(json.dumps(draft)) > MAX_DRAFT:
        raise InvalidInput({"answers": ["This cannot be kept for later."]})
    kept = {value["id"] for value in draft.values() if _is_file(value)}
    if len(kept) > DRAFT_FILES:
        raise InvalidInput({"answers": ["These are more files than are kept for later."]})
    with transaction.atomic():
        if not HumanTask.objects.filter(pk=task.pk, status=HumanTask.Status.OPEN).update(draft=draft):
            return False
        RunFile.objects.bulk_create([row for row in rows.values() if row.pk in kept])
        _forget_files(task, kept)
    return True


def _inline(task: HumanTask, answers: dict[str, Any]) -> dict[str, Upload]:
    """Files that stand in the answers themselves, as programs send them. What is malformed stays there, to be told."""
    found = {}
    for field in fields_of(task):
        value = answers.get(field.name)
        if field.type != "file" or not isinstance(value, dict) or not is_storable(value):
            continue
        name, kind, text = value.get("filename"), value.get("contentType") or "", value.get("base64")
        with suppress(binascii.Error, ValueError):
            if name and isinstance(name, str) and isinstance(kind, str) and isinstance(text, str):
                found[field.name] = Upload(name, kind, base64.b64decode(text, validate=True))
    return found


def _files(task: HumanTask, files: dict[str, Upload]) -> dict[str, RunFile]:
    """Uploads as rows that are not stored yet. Raises `InvalidInput`."""
    wanted = {field.name: field for field in fields_of(task) if field.type == "file"}
    faults = {name: ["No file is asked for here."] for name in files if name not in wanted}
    for name, file in files.items():
        most = min(MAX_FILE, int(wanted[name].max_length or MAX_FILE)) if name in wanted else 0
        if name in wanted and len(file.content) > most:
            faults[name] = [f"The file is larger than {most:,} bytes."]
    if faults:
        raise InvalidInput(faults)
    return {
        name: RunFile(
            pk=row_id(),
            project_id=task.project_id,
            run_id=task.run_id,
            name=(file.filename or "file")[-255:],
            content_type=(file.content_type or "application/octet-stream")[:150],
            size=len(file.content),
            content=file.content,
        )
        for name, file in files.items()
    }


def _with_files(task: HumanTask, answers: dict[str, Any], rows: dict[str, RunFile]) -> dict[str, Any]:
    """The answers with each file as ``{id, filename, contentType, size}``: a new one, or the one that the draft keeps.

    An id that somebody names by themselves is no file of theirs. Raises `InvalidInput`.
    """
    given = dict(answers)
    for field in fields_of(task):
        if field.type != "file":
            continue
        sent, kept = given.pop(field.name, None), task.draft.get(field.name)
        if field.name in rows:
            given[field.name] = file_value(rows[field.name])
        elif _is_file(sent) and _is_file(kept) and sent["id"] == kept["id"]:
            given[field.name] = kept
        elif sent not in (None, ""):
            raise InvalidInput({field.name: ["Must be a file: {filename, contentType, base64}."]})
    return given


def file_value(row: RunFile) -> dict[str, Any]:
    """What answers and expressions hold of an uploaded file."""
    return {"id": row.pk, "filename": row.name, "contentType": row.content_type, "size": row.size}


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str)


def _forget_files(task: HumanTask, kept: set[str]) -> None:
    """Deletes what a draft kept and nobody needs any more."""
    gone = {value["id"] for value in task.draft.values() if _is_file(value)} - kept
    if gone:
        RunFile.objects.filter(run=task.run_id, pk__in=gone).delete()


# -- Approvals ---------------------------------------------------------------------------------------------------------
def decide(task: HumanTask, approved: bool, reason: str, person: Person) -> HumanTask:
    """One person's yes or no to an approval; ends the task when the quorum is reached or can no longer be. Raises as `answer`."""
    now = timezone.now()
    task = _fresh(task)
    _check(task, person, now)
    if task.kind != HumanTask.Kind.APPROVE:
        raise InvalidInput({"approved": ["This question is a form: send answers."]})
    reason = _checked_reason(task, approved, reason)
    with transaction.atomic():
        # One votes at a time: two who count at once would each see only their own vote.
        locked = HumanTask.objects.select_for_update().get(pk=task.pk)
        if locked.status != HumanTask.Status.OPEN:
            raise over(locked)
        _vote(locked, approved, reason, person)
        action = "task.approved" if approved else "task.rejected"
        record(person.actor, action, task.pk, project=task.project, title=task.title, run=task.run_id)
        verdict = _verdict(locked)
        if verdict is None:
            return locked
        return _end(locked, HumanTask.Status.ANSWERED, _decision(locked, verdict, person), person, now)


def _checked_reason(task: HumanTask, approved: bool, reason: str) -> str:
    reason = reason.strip()
    if "\x00" in reason or len(reason) > MAX_REASON:
        raise InvalidInput({"reason": [f"Must be a text of at most {MAX_REASON} characters, without NUL."]})
    if not approved and not reason and task.spec.get("reason_on_reject"):
        raise InvalidInput({"reason": ["A rejection needs a reason."]})
    return reason


def _vote(task: HumanTask, approved: bool, reason: str, person: Person) -> None:
    try:
        with transaction.atomic():
            TaskVote.objects.create(task=task, voter=voter_of(task, person)[:320], approved=approved, reason=reason)
    except IntegrityError:
        raise Conflict("You have already answered this question.", remediation="Nothing is left to do.") from None


def _verdict(task: HumanTask) -> bool | None:
    """True, False, or None while it is open. Only the votes of those who are assigned now count."""
    votes = dict(task.votes.values_list("voter", "approved"))
    if task.assignees:
        assigned = people_of(task)
        votes = {voter: said for voter, said in votes.items() if voter in assigned}
    yes, quorum = sum(votes.values()), quorum_of(task)
    if yes >= quorum:
        return True
    if not task.assignees:
        return None if yes == len(votes) else False
    return None if yes + len(who_could_still(task)) >= quorum else False


def _decision(task: HumanTask, approved: bool, person: Person) -> dict[str, Any]:
    """What the step's output becomes: by whom, and their reasons, where more than one decided."""
    deciding = task.votes.filter(approved=approved).order_by("pk")
    if not deciding:  # all have approved who could, and they are too few
        return {"approved": approved, "by": "", "reason": TOO_FEW}
    by = person.name if len(deciding) == 1 else ", ".join(vote.voter for vote in deciding)
    return {"approved": approved, "by": by, "reason": "\n".join(vote.reason for vote in deciding if vote.reason)}


# -- Ending ------------------------------------------------------------------------------------------------------------
def _fresh(task: HumanTask) -> HumanTask:
    return HumanTask.objects.select_related("project", "run").get(pk=task.pk)


def _end(
    task: HumanTask,
    status: str,
    outcome: dict[str, Any] | None,
    person: Person,
    now: datetime,
    *,
    also: Callable[[], None] = lambda: None,
) -> HumanTask:
    """Ends an open task and pokes its run; ``also`` happens in the same transaction. Raises `Conflict` for who came second."""
    with transaction.atomic():
        won = _close(task, status, now, outcome=outcome, answered_by=person.name[:320])
        if won:
            also()
            _wake(task, now)
    fresh = _fresh(task)
    if not won:
        raise over(fresh)
    return fresh


def _close(task: HumanTask, status: str, now: datetime, **fields: Any) -> bool:
    living = HumanTask.objects.filter(pk=task.pk, status=HumanTask.Status.OPEN)
    return bool(living.update(status=status, ended_at=now, draft={}, remind_at=None, **fields))


def _wake(task: HumanTask, now: datetime) -> None:
    run_id = task.run_id
    poke(Run.objects.filter(pk=run_id), now)
    transaction.on_commit(lambda: hints.hint(run_id))


def expire(task: HumanTask, now: datetime) -> bool:
    """Ends an open task past its deadline with its default outcome. False where somebody answered first.

    ``task`` shows afterwards how it ended.
    """
    won = False
    if task.deadline is not None and task.deadline <= now:
        with transaction.atomic():
            won = _close(task, HumanTask.Status.EXPIRED, now, outcome=_outcome_of_deadline(task))
            if won:
                _forget_files(task, set())
                _wake(task, now)
    task.refresh_from_db()
    return won


def _outcome_of_deadline(task: HumanTask) -> dict[str, Any] | None:
    """The output that the step then has; None: it fails."""
    wanted = task.spec.get("on_deadline") or ("fail" if task.kind == HumanTask.Kind.FORM else "reject")
    if wanted == "fail":
        return None
    if task.kind == HumanTask.Kind.APPROVE:
        return {"approved": wanted == "approve", "by": "", "reason": LATE}
    return _defaults(task)


def _defaults(task: HumanTask) -> dict[str, Any]:
    """A form's defaults as answers; null where there is none, or where an expression gave what does not fit."""
    fields = fields_of(task)
    given = {field.name: field.default for field in fields if field.default is not None}
    cleaned, faults = clean_answers(fields, given)
    return {field.name: None if field.name in faults else cleaned.get(field.name) for field in fields}


def cancel_all(run_ids: list[str], now: datetime) -> int:
    """Ends the open tasks of runs that have ended."""
    living = HumanTask.objects.filter(run__in=run_ids, status=HumanTask.Status.OPEN)
    return living.update(status=HumanTask.Status.CANCELLED, ended_at=now, draft={}, remind_at=None)


def remind_due(now: datetime) -> int:
    """Sends the reminders that are due, and what could not be sent at first; gives how many.

    ``remind_at`` of an open task is when its next e-mail is due: the row is the truth, the broker may lose the hint.
    """
    due = HumanTask.objects.filter(status=HumanTask.Status.OPEN, remind_at__lte=now).order_by("remind_at")
    found = list(due.values_list("pk", flat=True)[: mail.BATCH])
    mail.enqueue(found)
    return len(found)
