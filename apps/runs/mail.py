"""E-mail to the people whom a question waits for: a link that is theirs alone, and reminders.

``remind_at`` of an open task is when its next e-mail is due: at once for who has just been assigned. The row is the truth: a
broker that loses the hint, a worker that dies and a mail server that is down each only delay it. Nothing is sent, and no
mail server is asked, while a transaction is open.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from smtplib import SMTPException, SMTPRecipientsRefused

from django.conf import settings
from django.core import signing
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.validators import validate_email
from django.template.loader import render_to_string
from django.utils import timezone

from apps.lib import broker

from .assignees import people_of, who_could_still
from .models import HumanTask

log = logging.getLogger(__name__)

SALT = "jackfield.task-link"
BATCH = 500
MOST = 200  # addresses that one question writes to
TIMEOUT = 15  # seconds that a mail server may take to answer
CLAIM = timedelta(minutes=5)  # for which one worker sends, and no other
EXPIRES = 30.0  # seconds after which the sweeper has handed the same id again
SHORTEST = 60.0  # seconds between two reminders


# -- Links -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TaskLink:
    """What the link of an e-mail says: this question, as this person."""

    task_id: str
    email: str


def link_of(task: HumanTask, email: str) -> str:
    """The address of the one-person page."""
    token = signing.dumps([task.pk, email.lower()], salt=SALT)
    return f"{settings.JACKFIELD_URL}/s/task/{token}"


def read_link(token: str) -> TaskLink | None:
    """None where it is none of ours. Whether it still serves is for `assignees.refusal` and the task's status to say."""
    try:
        return TaskLink(*signing.loads(token[:2000], salt=SALT))
    except (signing.BadSignature, TypeError, ValueError):
        return None


# -- Sending -----------------------------------------------------------------------------------------------------------
def enqueue(task_ids: Iterable[str]) -> None:
    """Hands the ids to the workers. Without a broker they wait for the sweeper."""
    broker.hand("runs.mail", task_ids, queue="maintenance", expires=EXPIRES)


def send(task_id: str) -> int:
    """Sends the e-mails about a task that are due now; gives how many went out. Another worker sends them: 0."""
    now = timezone.now()
    task = HumanTask.objects.select_related("project", "run").filter(pk=task_id).first()
    if task is None or task.remind_at is None or task.remind_at > now:
        return 0
    if task.deadline is not None and task.deadline <= now:
        return 0
    if not _move(task, now + CLAIM):
        return 0
    addresses = addresses_of(task)
    try:
        sent = _send_all(task, addresses)
    except (OSError, SMTPException) as error:
        log.warning("e-mails about the task %s wait, the mail server fails: %s", task.pk, type(error).__name__)
        _move(task, timezone.now() + _pause(task, now))
        return 0
    _move(task, next_reminder(task, timezone.now()))
    return sent


def _move(task: HumanTask, until: datetime | None) -> bool:
    """Sets when the next e-mail is due; False where another worker did, or the question has ended."""
    rows = HumanTask.objects.filter(pk=task.pk, status=HumanTask.Status.OPEN, remind_at=task.remind_at)
    won = bool(rows.update(remind_at=until))
    task.remind_at = until
    return won


def _pause(task: HumanTask, now: datetime) -> timedelta:
    """Until a failed sending is tried again: the longer it has failed, the rarer; a minute to an hour."""
    return min(max((now - task.created_at) / 4, timedelta(minutes=1)), timedelta(hours=1))


def next_reminder(task: HumanTask, now: datetime) -> datetime | None:
    """When the next e-mail about an open question is due, counted from its beginning; None: never again."""
    if not task.spec.get("remind"):
        return None
    every = max(SHORTEST, float(task.spec["remind"]))
    passed = (now - task.created_at).total_seconds()
    return task.created_at + timedelta(seconds=(int(passed // every) + 1) * every)


def addresses_of(task: HumanTask) -> list[str]:
    """Of the assignees who may still answer."""
    found = who_could_still(task) if task.kind == HumanTask.Kind.APPROVE else people_of(task)
    return sorted(one for one in found if _is_address(one))[:MOST]


def _is_address(text: str) -> bool:
    try:
        validate_email(text)
    except ValidationError:
        return False
    return True


def _send_all(task: HumanTask, addresses: list[str]) -> int:
    """Raises OSError or SMTPException where the server is down; an address that it refuses keeps nobody else waiting."""
    if not addresses:
        return 0
    sent = 0
    with get_connection(timeout=TIMEOUT) as connection:
        for address in addresses:
            message = message_for(task, address)
            message.connection = connection
            try:
                sent += message.send()
            except SMTPRecipientsRefused:
                log.warning("an address of the task %s is refused by the mail server", task.pk)
    return sent


def message_for(task: HumanTask, address: str) -> EmailMultiAlternatives:
    """The e-mail as text and as HTML."""
    words = {
        "task": task,
        "title": _one_line(task.title),
        "text": str(task.spec.get("text") or ""),
        "project": task.project,
        "link": link_of(task, address),
        "again": bool(task.spec.get("remind")) and timezone.now() >= _first_reminder(task),
        "inbox": f"{settings.JACKFIELD_URL}/inbox",
        "decision": task.kind == HumanTask.Kind.APPROVE,
    }
    subject = _one_line(render_to_string("sessions/email/task_subject.txt", words))
    message = EmailMultiAlternatives(subject, render_to_string("sessions/email/task.txt", words), to=[address])
    message.attach_alternative(render_to_string("sessions/email/task.html", words), "text/html")
    return message


def _first_reminder(task: HumanTask) -> datetime:
    return task.created_at + timedelta(seconds=max(SHORTEST, float(task.spec["remind"])))


def _one_line(text: str) -> str:
    """Without line ends, which no header may hold."""
    return " ".join(text.split())[:200]
