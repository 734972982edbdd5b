"""Telling people that something failed: by whose rule, and how often at most (`NotificationRule`).

A failure writes a notice for each rule that wants it, in the transaction of the failure. When a rule's time has come its
notices are put into messages, in one transaction: a row for the e-mail, a delivery for the webhook. From then on each message
is its own: a mail server that is away delays no webhook, and a try again says what the first would have said. Celery carries
ids only; the rows are the truth, and a sweeper finds what nobody carries. Nothing is sent while a transaction is open.

Whoever fails to tell (a delivery that is dead, a mail that is given up) tells nobody of that: it would go on for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from smtplib import SMTPException, SMTPRecipientsRefused, SMTPResponseException
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.validators import validate_email
from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.template.loader import render_to_string
from django.utils import timezone

from apps.lib import broker, errors
from apps.lib.db import release
from apps.lib.errors import InvalidInput
from apps.lib.redact import clip

from . import webhooks
from .audit import Actor, record
from .models import Notice, NoticeMail, NotificationRule, Project, WebhookEndpoint

log = logging.getLogger(__name__)

EVENTS: tuple[str, ...] = tuple(NotificationRule.Event.values)
MOST_RULES = 20  # of a project
MOST_ADDRESSES = 20  # of a rule
LONGEST_EVERY = 7 * 24 * 60  # minutes

LISTED = 50  # notices that a message names; of the others it tells the number
MOST_ALONE = 50  # beyond so many at once, or in a FLOOD, they come together, though each was to come by itself
FLOOD = timedelta(minutes=1)
TITLE, MESSAGE = 200, 500  # characters

TIMEOUT = 15  # seconds that a mail server may take for one answer
CLAIM = timedelta(minutes=10)  # for which one worker sends a mail: an answer for each address, and some more
LIFETIME = timedelta(days=1)  # of a mail that cannot be sent
SOONEST, RAREST = timedelta(minutes=1), timedelta(hours=1)  # between two tries
KEEP = timedelta(days=30)
SWEPT = 200
BATCH = 5000
EXPIRES = 30.0  # seconds after which the sweeper has handed the same id again

PERMANENT = range(500, 600)  # RFC 5321 section 4.2.1: the same command must not be sent again

Status = NoticeMail.Status


# -- Rules -----------------------------------------------------------------------------------------------------------
def create_rule(project: Project, actor: Actor, **given: Any) -> NotificationRule:
    """``given``: events, emails, webhook, every_minutes, enabled. Raises `InvalidInput`."""
    rule = NotificationRule(project=project, **_checked(project, given))
    _check_told(rule)
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)  # one counts at a time
        if NotificationRule.objects.filter(project=project).count() >= MOST_RULES:
            raise InvalidInput({"project": [f"A project has at most {MOST_RULES} rules: delete one first."]})
        rule.save(force_insert=True)
        record(actor, "notification.created", rule.pk, project=project, **_told(rule))
    return rule


def change_rule(rule: NotificationRule, actor: Actor, **given: Any) -> None:
    """Sets what is given of events, emails, webhook, every_minutes, enabled. Raises `InvalidInput`, `NotFound`."""
    changes = _checked(rule.project, given)
    for name, value in changes.items():
        setattr(rule, name, value)
    _check_told(rule)
    with transaction.atomic():
        if not NotificationRule.objects.filter(pk=rule.pk).update(**changes):
            raise errors.NotFound
        record(actor, "notification.changed", rule.pk, project=rule.project, **_told(rule))


@transaction.atomic
def delete_rule(rule: NotificationRule, actor: Actor) -> None:
    """With what it was still to tell."""
    NotificationRule.objects.select_for_update().filter(pk=rule.pk).first()  # so that no notice comes in between
    record(actor, "notification.deleted", rule.pk, project=rule.project)
    rule.delete()


def _told(rule: NotificationRule) -> dict[str, Any]:
    return {
        "events": rule.events, "emails": rule.emails, "webhook": rule.webhook_id, "every_minutes": rule.every_minutes,
        "enabled": rule.enabled,
    }  # fmt: skip


def _checked(project: Project, given: dict[str, Any]) -> dict[str, Any]:
    """Raises `InvalidInput`."""
    faults: dict[str, list[str]] = {}
    changes = dict(given)
    if unknown := sorted(set(given.get("events") or ()) - set(EVENTS)):
        faults["events"] = [f"Unknown: {', '.join(name[:60] for name in unknown[:5])}. Known: {', '.join(EVENTS)}."]
    elif "events" in given:
        changes["events"] = [name for name in EVENTS if name in given["events"]]
    if "emails" in given:
        changes["emails"] = addresses = list(dict.fromkeys(one.strip() for one in given["emails"] if one.strip()))
        if bad := [one for one in addresses if not _is_address(one)]:
            faults["emails"] = [f"No address: {', '.join(one[:100] for one in bad[:5])}."]
        elif len(addresses) > MOST_ADDRESSES:
            faults["emails"] = [f"At most {MOST_ADDRESSES} addresses."]
    if not 0 <= given.get("every_minutes", 0) <= LONGEST_EVERY:
        faults["every_minutes"] = [f"From 0 to {LONGEST_EVERY} minutes."]
    webhook = given.get("webhook")
    if webhook is not None and webhook.project_id != project.pk:
        faults["webhook"] = ["No webhook of this project."]
    if faults:
        raise InvalidInput(faults)
    return changes


def _check_told(rule: NotificationRule) -> None:
    if rule.enabled and not rule.emails and rule.webhook_id is None:
        raise InvalidInput({"emails": ["Nobody would be told: name an address or choose a webhook."]})


def _is_address(text: str) -> bool:
    try:
        validate_email(text)
    except ValidationError:
        return False
    return text.isprintable()


# -- Noting ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Listeners:
    """Who listens to a project at all: any rule, any webhook."""

    rules: bool
    webhooks: bool


def listeners(project_id: str) -> Listeners:
    """By one SELECT, for those who would else ask for each."""
    rules = Exists(NotificationRule.objects.filter(project=OuterRef("pk"), enabled=True))
    endpoints = Exists(WebhookEndpoint.objects.filter(project=OuterRef("pk"), enabled=True))
    found = Project.objects.filter(pk=project_id).values_list(rules, endpoints).first()
    return Listeners(*found) if found else Listeners(False, False)


def notify(project: Project, event: str, subject: str, data: dict[str, Any] | Callable[[], dict[str, Any]]) -> None:
    """Writes a notice for each rule that wants the event (`NotificationRule.Event`), in the caller's transaction.

    ``subject`` is the id of what failed. ``data``: {title, message, url, at}, without secrets, or what makes it where somebody
    wants it; else this costs one SELECT. Raises ValueError for an event that is none.
    """
    if event not in EVENTS:
        raise ValueError(f"{event} is no event that rules know")
    with transaction.atomic(savepoint=False):
        # Held until the change is committed: a rule deleted in between would make the whole change fail.
        rows = NotificationRule.objects.select_for_update(no_key=True).filter(project=project, enabled=True)
        rules = [rule for rule in rows.order_by("pk") if not rule.events or event in rule.events]
        if not rules:
            return
        now = timezone.now()
        shown = _shown(data() if callable(data) else data, now)
        Notice.objects.bulk_create(
            Notice(rule=rule, event=event, subject=subject[:320], data=shown, created_at=now) for rule in rules
        )
        # The others are found by the sweeper when their time comes.
        if due := [rule.pk for rule in rules if is_due(rule, now)]:
            transaction.on_commit(partial(broker.hand, "workspaces.notify", due, queue="maintenance", expires=EXPIRES))


def _shown(data: dict[str, Any], now: datetime) -> dict[str, str]:
    """Short, and of characters that a database keeps."""
    at = data.get("at") or now
    return {
        "title": one_line(clip(str(data.get("title") or ""), TITLE)),
        "message": clip(str(data.get("message") or ""), MESSAGE),
        "url": str(data.get("url") or ""),
        "at": at.isoformat() if isinstance(at, datetime) else str(at),
    }


def is_due(rule: NotificationRule, now: datetime) -> bool:
    """Whether the rule may send a message: enough time has passed since the last."""
    return rule.last_sent_at is None or now >= rule.last_sent_at + timedelta(minutes=rule.every_minutes)


# -- Putting notices into messages -----------------------------------------------------------------------------------
def bundle(rule_id: str) -> list[str]:
    """Puts a rule's notices into messages, if its time has come. Gives the ids of the mails to be sent.

    Who else does the same at that moment waits, and finds none left.
    """
    found = NotificationRule.objects.filter(pk=rule_id, enabled=True).first()
    if found is None:
        return []
    with transaction.atomic():
        endpoint = _endpoint_of(found)
        rows = NotificationRule.objects.select_for_update(no_key=True, of=("self",)).select_related("project")
        rule = rows.filter(pk=rule_id, enabled=True, webhook=found.webhook_id).first()
        now = timezone.now()
        if rule is None or not is_due(rule, now) or _is_flooded(rule, now):
            return []
        mails = [_put(rule, endpoint, data, now) for data in _messages(rule, now)]
        found_ids = [mail.pk for mail in mails if mail is not None]
        transaction.on_commit(partial(enqueue, found_ids))
    return found_ids


def _is_flooded(rule: NotificationRule, now: datetime) -> bool:
    """Whether so many failures were told of by themselves in the last minute that further ones wait until it is over."""
    if rule.every_minutes or rule.last_sent_at is None or now >= rule.last_sent_at + FLOOD:
        return False
    told = rule.notices.filter(sent_at__isnull=False).order_by("-pk").values_list("sent_at", flat=True)
    return any(at is not None and at > now - FLOOD for at in told[MOST_ALONE - 1 : MOST_ALONE])


def _endpoint_of(rule: NotificationRule) -> WebhookEndpoint | None:
    """Locked before the rule, as those do who delete it; None where there is none, or it is off."""
    if rule.webhook_id is None:
        return None
    rows = WebhookEndpoint.objects.select_for_update(no_key=True)
    return rows.filter(pk=rule.webhook_id, enabled=True).first()


def _messages(rule: NotificationRule, now: datetime) -> list[dict[str, Any]]:
    """What the messages say; their notices are sent from now on. No new ones come while the rule is locked."""
    waiting = rule.notices.filter(sent_at=None)
    rows = [_row(notice) for notice in waiting.order_by("created_at", "pk")[: max(LISTED, MOST_ALONE)]]
    total = waiting.update(sent_at=now)
    if not total:
        return []
    NotificationRule.objects.filter(pk=rule.pk).update(last_sent_at=now)
    if rule.every_minutes == 0 and total <= MOST_ALONE:
        return [{"total": 1, "notices": [row]} for row in rows]
    return [{"total": total, "notices": rows[:LISTED]}]


def _row(notice: Notice) -> dict[str, Any]:
    return {"event": notice.event, "subject": notice.subject, **notice.data}


def _put(
    rule: NotificationRule, endpoint: WebhookEndpoint | None, data: dict[str, Any], now: datetime
) -> NoticeMail | None:
    """A message's rows; gives the mail's, None where the rule has no addresses."""
    if endpoint is not None:
        told = {"ruleId": rule.pk, "project": rule.project.name, **data}
        webhooks.tell(rule.project, endpoint, webhooks.NOTIFICATION, told)
    if not rule.emails:
        return None
    return NoticeMail.objects.create(rule=rule, addresses=rule.emails, data=data, next_try_at=now, created_at=now)


def send_test(rule: NotificationRule, actor: Actor) -> None:
    """Sends a message that means nothing, by the ways that the rule names."""
    now = timezone.now()
    notice = {
        "event": "test", "subject": rule.pk, "title": "This is a test", "message": "There is nothing to do.",
        "url": "", "at": now.isoformat(),
    }  # fmt: skip
    with transaction.atomic():
        record(actor, "notification.tested", rule.pk, project=rule.project)
        mail = _put(rule, _endpoint_of(rule), {"total": 1, "notices": [notice], "test": True}, now)
        if mail is not None:
            transaction.on_commit(partial(enqueue, [mail.pk]))


# -- Sending mails ---------------------------------------------------------------------------------------------------
def enqueue(mail_ids: Iterable[str]) -> None:
    """Hands the ids to the workers. Without a broker they wait for the sweeper."""
    broker.hand("workspaces.mail_notices", mail_ids, queue="maintenance", expires=EXPIRES)


def send(mail_id: str) -> bool:
    """Makes one try to send a mail, if it is due and nobody else does; gives whether it went out."""
    mail = _claim(mail_id)
    if mail is None:
        return False
    error = _try(mail)
    now = timezone.now()
    if not error:
        changes: dict[str, Any] = {"status": Status.SENT, "ended_at": now, "error": ""}
    elif error.permanent or now >= mail.created_at + LIFETIME:
        log.warning("the mail %s of notices is given up: %s", mail.pk, error.text)
        changes = {"status": Status.FAILED, "ended_at": now, "error": error.text}
    else:
        log.warning("the mail %s of notices waits: %s", mail.pk, error.text)
        changes = {"next_try_at": now + pause(mail, now), "error": error.text}
    # Over exactly the claim under which it was tried.
    NoticeMail.objects.filter(pk=mail.pk, status=Status.PENDING, next_try_at=mail.next_try_at).update(**changes)
    return error is None


def _claim(mail_id: str) -> NoticeMail | None:
    now = timezone.now()
    rows = due_mails(now).filter(pk=mail_id)
    mail = rows.select_related("rule__project").first()
    if mail is None or not rows.update(next_try_at=now + CLAIM, try_count=F("try_count") + 1):
        return None
    mail.next_try_at = now + CLAIM
    return mail


def due_mails(now: datetime) -> QuerySet[NoticeMail]:
    return NoticeMail.objects.filter(status=Status.PENDING, next_try_at__lte=now)


def pause(mail: NoticeMail, now: datetime) -> timedelta:
    """Until the next try: the longer it has failed, the rarer; a minute to an hour."""
    return min(max((now - mail.created_at) / 4, SOONEST), RAREST)


@dataclass(frozen=True)
class MailFault:
    """Why a mail did not go out, without words of the server's: they may repeat what they were sent."""

    text: str
    permanent: bool = False


def _try(mail: NoticeMail) -> MailFault | None:
    """One transaction with the mail server for all addresses, so that none of them gets it twice for another's sake."""
    message = message_of(mail)
    release()
    try:
        message.connection = get_connection(timeout=TIMEOUT)
        message.send()
    except SMTPRecipientsRefused as error:
        codes = {code for code, _ in error.recipients.values()}
        return MailFault("The mail server refuses every address.", permanent=all(code in PERMANENT for code in codes))
    except SMTPResponseException as error:
        return MailFault(f"The mail server answered {error.smtp_code} ({type(error).__name__}).")
    except (OSError, SMTPException) as error:
        return MailFault(f"The mail server could not be reached or stopped: {type(error).__name__}.")
    except ValueError as error:  # what no header takes; it would be the same the next time
        return MailFault(f"The mail cannot be written: {type(error).__name__}.", permanent=True)
    return None


def message_of(mail: NoticeMail) -> EmailMultiAlternatives:
    """The e-mail as text and as HTML; each try of one says the same, under the same Message-ID (RFC 5322 section 3.6.4)."""
    words = {
        "project": mail.rule.project,
        "notices": [notice | {"moment": datetime.fromisoformat(notice["at"])} for notice in mail.data["notices"]],
        "total": mail.data["total"],
        "more": mail.data["total"] - len(mail.data["notices"]),
        "test": mail.data.get("test", False),
        "every": mail.rule.every_minutes,
        "admin": f"{settings.JACKFIELD_URL}/admin/",
    }
    message_id = f"<notice-{mail.pk}@{urlsplit(settings.JACKFIELD_URL).hostname}>"
    message = EmailMultiAlternatives(
        one_line(render_to_string("notifications/subject.txt", words)),
        render_to_string("notifications/mail.txt", words),
        to=mail.addresses,
        headers={"Message-ID": message_id, "Auto-Submitted": "auto-generated"},
    )
    message.attach_alternative(render_to_string("notifications/mail.html", words), "text/html")
    return message


def one_line(text: str) -> str:
    """Without line ends, which no header may hold."""
    return " ".join(text.split())[:TITLE]


# -- Looking after what lies there -----------------------------------------------------------------------------------
def sweep() -> int:
    """Hands rules whose time has come, and mails that are due, to the workers. Gives how many."""
    now = timezone.now()
    waiting = Exists(Notice.objects.filter(rule=OuterRef("pk"), sent_at=None))
    rules = [rule.pk for rule in NotificationRule.objects.filter(waiting, enabled=True) if is_due(rule, now)]
    mails = list(due_mails(now).order_by("next_try_at").values_list("pk", flat=True)[:SWEPT])
    broker.hand("workspaces.notify", rules, queue="maintenance", expires=EXPIRES)
    enqueue(mails)
    return len(rules) + len(mails)


def forget_old() -> int:
    """Deletes notices and mails of more than 30 days ago; in batches, so that no statement holds a table for long."""
    limit = timezone.now() - KEEP
    total = 0
    # The oldest have the lowest numbers: no index of times is needed to find them.
    oldest = Notice.objects.order_by("pk").values_list("pk", "created_at")
    while old := [pk for pk, at in oldest[:BATCH] if at < limit]:
        total += Notice.objects.filter(pk__in=old).delete()[0]
    mails = NoticeMail.objects.filter(created_at__lt=limit)
    while ended := list(mails.values_list("pk", flat=True)[:BATCH]):
        total += NoticeMail.objects.filter(pk__in=ended).delete()[0]
    return total
