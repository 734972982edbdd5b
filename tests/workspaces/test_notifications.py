"""People are told of what fails: whom the rules name, as often as these say, each message once, whatever is down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from smtplib import SMTPDataError, SMTPRecipientsRefused
from typing import Any

import pytest
from django.core import mail as outbox
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.lib import broker
from apps.lib.errors import InvalidInput
from apps.workspaces import notifications, tasks, webhooks
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, Notice, NoticeMail, NotificationRule, Project, WebhookDelivery
from tests.cast import Cast
from tests.peers.process import free_port
from tests.workspaces.receiver import Receiver, receiving

FAILED = "run.failed"
DATA = {
    "title": "A run of onboard failed",
    "message": "The service said no.",
    "url": "https://jackfield.example/admin/1",
}


@pytest.fixture
def mailbox() -> list[Any]:
    outbox.outbox = []
    return outbox.outbox


@pytest.fixture
def hinted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is handed to the broker."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(broker, "hand", lambda task, ids, **options: found.extend((task, pk) for pk in ids))
    return found


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    with receiving() as running:
        yield running


def rule_of(project: Project, *emails: str, **more: Any) -> NotificationRule:
    more.setdefault("emails", list(emails) or ["ada@example.com"])
    return notifications.create_rule(project, SYSTEM, **more)


def fail(project: Project, subject: str = "r1", event: str = FAILED, **more: Any) -> None:
    notifications.notify(project, event, subject, DATA | more)


def tell(rule: NotificationRule) -> int:
    """Both workers' work; how many mails went out."""
    return sum(notifications.send(pk) for pk in notifications.bundle(rule.pk))


def pass_minutes(rule: NotificationRule, minutes: float) -> None:
    """As if so much time had passed since the rule's last message."""
    rule.refresh_from_db()
    assert rule.last_sent_at is not None
    NotificationRule.objects.filter(pk=rule.pk).update(last_sent_at=rule.last_sent_at - timedelta(minutes=minutes))


# -- Who is told -----------------------------------------------------------------------------------------------------
def test_each_address_of_a_rule_is_told_by_one_mail_that_links_to_what_failed(cast: Cast, mailbox: list[Any]) -> None:
    rule = rule_of(cast.project, "ada@example.com", " ben@example.com ", "ada@example.com")
    fail(cast.project)
    assert tell(rule) == 1
    (message,) = mailbox
    assert message.to == ["ada@example.com", "ben@example.com"]
    assert message.subject == "Shop: 1 failure · A run of onboard failed"
    html = message.alternatives[0][0]
    for text in (DATA["title"], DATA["message"], DATA["url"]):
        assert text in message.body
        assert text in html
    assert message.extra_headers["Auto-Submitted"] == "auto-generated"


@pytest.mark.parametrize(
    ("events", "told"), [([], 1), ([FAILED], 1), (["connection.failed"], 0)], ids=["all", "it", "another"]
)
def test_a_rule_is_told_only_of_the_events_it_wants(
    cast: Cast, mailbox: list[Any], events: list[str], told: int
) -> None:
    rule = rule_of(cast.project, events=events)
    fail(cast.project)
    assert tell(rule) == told


def test_other_projects_and_rules_that_are_off_note_nothing(cast: Cast) -> None:
    rule = rule_of(cast.project)
    fail(cast.foreign_project)
    notifications.change_rule(rule, SYSTEM, enabled=False)
    fail(cast.project)
    assert not Notice.objects.exists()


def test_where_there_is_no_rule_a_failure_costs_one_select(cast: Cast) -> None:
    with transaction.atomic(), CaptureQueriesContext(connection) as captured:
        fail(cast.project)
    assert [query["sql"].split()[0] for query in captured] == ["SELECT"]


def test_an_event_that_is_none_is_a_fault_of_ours(cast: Cast) -> None:
    with pytest.raises(ValueError, match=r"run\.flailed"):
        fail(cast.project, event="run.flailed")


@pytest.mark.django_db(transaction=True)
def test_a_failure_that_is_undone_is_told_to_nobody(cast: Cast, hinted: list[tuple[str, str]]) -> None:
    rule = rule_of(cast.project)
    with transaction.atomic():
        fail(cast.project)
        transaction.set_rollback(True)
    assert (Notice.objects.count(), hinted) == (0, [])
    with transaction.atomic():
        fail(cast.project)
        assert hinted == []
    assert hinted == [("workspaces.notify", rule.pk)]


# -- How often -------------------------------------------------------------------------------------------------------
def test_without_a_pause_each_failure_comes_by_itself(cast: Cast, mailbox: list[Any]) -> None:
    rule = rule_of(cast.project)
    for number in range(3):
        fail(cast.project, title=f"Run {number} failed")
    assert tell(rule) == 3
    assert [message.subject for message in mailbox] == [f"Shop: 1 failure · Run {number} failed" for number in range(3)]
    assert tell(rule) == 0


def test_with_a_pause_the_first_comes_at_once_and_the_others_together_after_it(
    cast: Cast, mailbox: list[Any], hinted: list[tuple[str, str]], django_capture_on_commit_callbacks: Any
) -> None:
    rule = rule_of(cast.project, every_minutes=15)
    with django_capture_on_commit_callbacks(execute=True):
        fail(cast.project, title="The first")
    assert hinted == [("workspaces.notify", rule.pk)]
    assert tell(rule) == 1
    hinted.clear()
    with django_capture_on_commit_callbacks(execute=True):
        for number in range(3):
            fail(cast.project, title=f"Run {number} failed")
    assert hinted == []  # nothing to do before its time
    assert (tell(rule), notifications.sweep()) == (0, 0)
    pass_minutes(rule, 15)
    assert notifications.sweep() == 1
    assert tell(rule) == 1
    assert mailbox[-1].subject == "Shop: 3 failures"
    assert all(f"Run {number} failed" in mailbox[-1].body for number in range(3))
    pass_minutes(rule, 60)
    assert (notifications.sweep(), tell(rule)) == (0, 0)


def test_a_flood_comes_as_one_mail_that_names_the_first_and_counts_the_others(cast: Cast, mailbox: list[Any]) -> None:
    rule = rule_of(cast.project)
    for number in range(notifications.MOST_ALONE + 10):
        fail(cast.project, title=f"Run {number} failed")
    assert tell(rule) == 1
    assert mailbox[0].subject == f"Shop: {notifications.MOST_ALONE + 10} failures"
    assert "Run 0 failed" in mailbox[0].body
    assert "And 10 more" in mailbox[0].body
    assert not Notice.objects.filter(sent_at=None).exists()


def test_a_flood_that_trickles_comes_by_itself_at_first_and_then_once_a_minute(
    cast: Cast, mailbox: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "MOST_ALONE", 5)
    rule = rule_of(cast.project)
    for number in range(20):
        fail(cast.project, title=f"Run {number} failed")
        tell(rule)
    assert len(mailbox) == 5
    assert notifications.sweep() == 1
    pass_minutes(rule, 1)
    assert tell(rule) == 1
    assert mailbox[-1].subject == "Shop: 15 failures"
    fail(cast.project)
    assert tell(rule) == 0
    pass_minutes(rule, 1)
    assert tell(rule) == 1


# -- Nothing lost, nothing twice -------------------------------------------------------------------------------------
def test_without_a_broker_the_sweeper_finds_rules_and_mails(
    cast: Cast, mailbox: list[Any], hinted: list[tuple[str, str]]
) -> None:
    rule = rule_of(cast.project)
    fail(cast.project)
    assert tasks.sweep_notices() == 1
    assert hinted == [("workspaces.notify", rule.pk)]
    tasks.notify(rule.pk)
    hinted.clear()
    assert tasks.sweep_notices() == 1
    ((task, pk),) = hinted
    assert (task, tasks.mail_notices(pk)) == ("workspaces.mail_notices", True)
    assert len(mailbox) == 1
    assert tasks.sweep_notices() == 0


def test_a_mail_whose_worker_was_killed_is_sent_by_another_once_its_claim_is_over(
    cast: Cast, mailbox: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = rule_of(cast.project)
    fail(cast.project)
    (pk,) = notifications.bundle(rule.pk)

    def die(mail: NoticeMail) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(notifications, "_try", die)
        with pytest.raises(KeyboardInterrupt):
            notifications.send(pk)
    assert (notifications.send(pk), notifications.sweep()) == (False, 0)
    later = timezone.now() + notifications.CLAIM
    monkeypatch.setattr(timezone, "now", lambda: later)
    assert notifications.sweep() == 1
    assert notifications.send(pk)
    assert len(mailbox) == 1


def test_a_second_worker_sends_nothing_while_the_first_does(
    cast: Cast, mailbox: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = rule_of(cast.project)
    fail(cast.project)
    (pk,) = notifications.bundle(rule.pk)
    trying = notifications._try

    def while_another_comes(mail: NoticeMail) -> Any:
        assert notifications.send(pk) is False
        assert notifications.bundle(rule.pk) == []
        return trying(mail)

    monkeypatch.setattr(notifications, "_try", while_another_comes)
    assert notifications.send(pk)
    assert notifications.send(pk) is False
    assert len(mailbox) == 1


@pytest.mark.django_db(transaction=True)
def test_many_workers_tell_of_each_failure_once_and_lock_each_other_out_of_nothing(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite's memory database locks its tables between threads")
    monkeypatch.setattr(notifications, "MOST_ALONE", 100)  # sixty are no flood here
    endpoint, _ = webhooks.create_endpoint(cast.project, "https://app.example/hook", SYSTEM, events=[FAILED])
    rule = rule_of(cast.project, webhook=endpoint)

    def work(number: int) -> None:
        try:
            for turn in range(10):
                with transaction.atomic():
                    webhooks.emit(cast.project, FAILED, {})
                    fail(cast.project, f"{number}-{turn}")
                notifications.bundle(rule.pk)
                if number == 0:
                    made = rule_of(cast.project, webhook=endpoint)
                    notifications.delete_rule(made, SYSTEM)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work, number) for number in range(6)]:
            future.result()
    notifications.bundle(rule.pk)
    told = [notice["subject"] for mail in NoticeMail.objects.filter(rule=rule) for notice in mail.data["notices"]]
    assert sorted(told) == sorted(f"{number}-{turn}" for number in range(6) for turn in range(10))


def test_a_mail_server_that_is_away_is_asked_again_ever_more_rarely_for_a_day(
    cast: Cast, mailbox: list[Any], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = rule_of(cast.project)
    fail(cast.project)
    (pk,) = notifications.bundle(rule.pk)
    working = settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    waits, now = [], timezone.now()
    while True:
        monkeypatch.setattr(timezone, "now", lambda moment=now: moment)
        assert notifications.send(pk) is False
        mail = NoticeMail.objects.get(pk=pk)
        if mail.status != "pending":
            break
        waits.append(mail.next_try_at - now)
        now = mail.next_try_at
    assert (mail.status, mail.error) == (
        "failed",
        "The mail server could not be reached or stopped: ConnectionRefusedError.",
    )
    assert waits[0] == timedelta(minutes=1)
    assert waits == sorted(waits)
    assert waits[-1] == timedelta(hours=1)
    assert timedelta(days=1) <= now - mail.created_at <= timedelta(days=1, hours=1)
    settings.EMAIL_BACKEND = working
    assert notifications.send(pk) is False
    assert mailbox == []


def test_a_mail_server_that_comes_back_gets_what_waited(
    cast: Cast, mailbox: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = rule_of(cast.project)
    fail(cast.project)
    (pk,) = notifications.bundle(rule.pk)
    with monkeypatch.context() as patched:
        patched.setattr(
            "django.core.mail.EmailMultiAlternatives.send", raising(SMTPDataError(451, b"greylisted hunter2"))
        )
        assert notifications.send(pk) is False
    mail = NoticeMail.objects.get(pk=pk)
    assert (mail.status, mail.error) == ("pending", "The mail server answered 451 (SMTPDataError).")
    assert notifications.send(pk) is False  # not before its time
    monkeypatch.setattr(timezone, "now", lambda: mail.next_try_at)
    assert notifications.send(pk)
    assert len(mailbox) == 1


@pytest.mark.parametrize(("code", "status"), [(550, "failed"), (450, "pending")], ids=["for good", "for now"])
def test_addresses_that_are_all_refused_are_asked_again_only_if_the_server_says_so(
    cast: Cast, monkeypatch: pytest.MonkeyPatch, code: int, status: str
) -> None:
    rule = rule_of(cast.project)
    fail(cast.project)
    (pk,) = notifications.bundle(rule.pk)
    refused = SMTPRecipientsRefused({"ada@example.com": (code, b"no")})
    monkeypatch.setattr("django.core.mail.EmailMultiAlternatives.send", raising(refused))
    assert notifications.send(pk) is False
    assert NoticeMail.objects.get(pk=pk).status == status


def raising(error: Exception) -> Callable[..., int]:
    def send(*given: Any, **options: Any) -> int:
        raise error

    return send


def test_what_was_told_a_month_ago_is_forgotten(cast: Cast) -> None:
    rule = rule_of(cast.project)
    fail(cast.project)
    tell(rule)
    assert notifications.forget_old() == 0
    long_ago = timezone.now() - timedelta(days=30, minutes=1)
    Notice.objects.update(created_at=long_ago)
    NoticeMail.objects.update(created_at=long_ago)
    assert notifications.forget_old() == 2
    assert NotificationRule.objects.filter(pk=rule.pk).exists()


# -- By webhook ------------------------------------------------------------------------------------------------------
def test_a_webhook_of_a_rule_gets_the_same_message_signed(cast: Cast, receiver: Receiver, mailbox: list[Any]) -> None:
    endpoint, secret = webhooks.create_endpoint(cast.project, receiver.url, SYSTEM, events=["connection.created"])
    receiver.secrets.append(secret)
    rule = rule_of(cast.project, emails=[], webhook=endpoint, every_minutes=15)
    for number in range(2):
        fail(cast.project, f"r{number}")
    assert notifications.bundle(rule.pk) == []
    webhooks.deliver(WebhookDelivery.objects.get().pk)
    (got,) = receiver.received
    assert got.event is not None
    assert got.event["type"] == "notification"
    data = got.event["data"]
    assert (data["ruleId"], data["project"], data["total"]) == (rule.pk, "Shop", 2)
    assert [notice["subject"] for notice in data["notices"]] == ["r0", "r1"]
    assert data["notices"][0] | {"at": ""} == {"event": FAILED, "subject": "r0", "at": "", **DATA}
    assert mailbox == []


def test_a_mail_server_that_is_away_delays_no_webhook(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint, _ = webhooks.create_endpoint(cast.project, "https://app.example/hook", SYSTEM)
    rule = rule_of(cast.project, webhook=endpoint)
    fail(cast.project)
    monkeypatch.setattr("django.core.mail.EmailMultiAlternatives.send", raising(OSError()))
    assert tell(rule) == 0
    assert WebhookDelivery.objects.get().event_type == "notification"
    assert NoticeMail.objects.get().status == "pending"


def test_a_rule_outlives_its_webhook(cast: Cast, mailbox: list[Any]) -> None:
    endpoint, _ = webhooks.create_endpoint(cast.project, "https://app.example/hook", SYSTEM)
    rule = rule_of(cast.project, webhook=endpoint)
    fail(cast.project)
    webhooks.delete_endpoint(endpoint, SYSTEM)
    assert tell(rule) == 1
    rule.refresh_from_db()
    assert rule.webhook_id is None


def test_a_webhook_that_is_off_is_told_nothing(cast: Cast) -> None:
    endpoint, _ = webhooks.create_endpoint(cast.project, "https://app.example/hook", SYSTEM, enabled=False)
    rule = rule_of(cast.project, emails=[], webhook=endpoint)
    fail(cast.project)
    assert notifications.bundle(rule.pk) == []
    assert not WebhookDelivery.objects.exists()
    assert not Notice.objects.filter(sent_at=None).exists()


def test_a_notification_that_dies_on_its_way_notifies_nobody(cast: Cast, receiver: Receiver) -> None:
    endpoint, _ = webhooks.create_endpoint(cast.project, receiver.url, SYSTEM)
    rule = rule_of(cast.project, emails=[], webhook=endpoint)
    fail(cast.project)
    notifications.bundle(rule.pk)
    receiver.answers = [410]
    webhooks.deliver(WebhookDelivery.objects.get().pk)
    assert WebhookDelivery.objects.get().status == "dead"
    assert not Notice.objects.filter(sent_at=None).exists()


# -- What stands in it -----------------------------------------------------------------------------------------------
def test_what_failed_can_write_no_header_and_no_html(cast: Cast, mailbox: list[Any]) -> None:
    Project.objects.filter(pk=cast.project.pk).update(name="Shop\r\nBcc: eve@example.com")
    cast.project.refresh_from_db()
    rule = rule_of(cast.project)
    fail(cast.project, title="Failed\r\nBcc: eve@example.com\u2028\x85", message="<script>alert(1)</script>")
    assert tell(rule) == 1
    (message,) = mailbox
    sent = message.message()
    assert message.recipients() == ["ada@example.com"]
    assert sent["Bcc"] is None
    assert "\n" not in message.subject
    html = message.alternatives[0][0]
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "<script>alert(1)</script>" in message.body


def test_characters_that_no_database_keeps_stop_no_notice(cast: Cast, mailbox: list[Any]) -> None:
    rule = rule_of(cast.project)
    fail(cast.project, title="a\x00b\ud800", message="\x00" * 3 + "x" * 5000)
    assert tell(rule) == 1
    assert "a\ufffdb?" in mailbox[0].subject
    assert len(mailbox[0].body) < 2000


# -- Rules -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"emails": ["nobody"]}, "emails"),
        ({"emails": ["ada@example.com\nBcc: eve@example.com"]}, "emails"),
        ({"emails": [f"a{number}@example.com" for number in range(21)]}, "emails"),
        ({"emails": []}, "emails"),
        ({"emails": ["ada@example.com"], "events": ["run.flailed"]}, "events"),
        ({"emails": ["ada@example.com"], "every_minutes": -1}, "every_minutes"),
        ({"emails": ["ada@example.com"], "every_minutes": 7 * 24 * 60 + 1}, "every_minutes"),
    ],
    ids=["no address", "a header", "too many", "nobody", "unknown event", "before", "too rare"],
)
def test_a_rule_that_cannot_be_is_refused_and_told_at_its_field(cast: Cast, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        notifications.create_rule(cast.project, SYSTEM, **given)
    assert set(refused.value.details) == {field}
    assert not NotificationRule.objects.exists()


def test_another_project_s_webhook_is_none_of_a_rule_s(cast: Cast) -> None:
    foreign, _ = webhooks.create_endpoint(cast.foreign_project, "https://app.example/hook", SYSTEM)
    with pytest.raises(InvalidInput) as refused:
        rule_of(cast.project, webhook=foreign)
    assert set(refused.value.details) == {"webhook"}


def test_rules_are_few_and_their_changes_are_in_the_audit_log(cast: Cast) -> None:
    rules = [rule_of(cast.project) for _ in range(notifications.MOST_RULES)]
    with pytest.raises(InvalidInput):
        rule_of(cast.project)
    pk = rules[0].pk
    notifications.change_rule(rules[0], SYSTEM, emails=["ben@example.com"])
    notifications.delete_rule(rules[0], SYSTEM)
    assert not NotificationRule.objects.filter(pk=pk).exists()
    told = AuditEvent.objects.filter(target=pk).values_list("action", flat=True)
    assert sorted(told) == ["notification.changed", "notification.created", "notification.deleted"]


def test_a_test_goes_out_at_once_and_changes_no_rule(cast: Cast, mailbox: list[Any]) -> None:
    endpoint, _ = webhooks.create_endpoint(cast.project, "https://app.example/hook", SYSTEM)
    rule = rule_of(cast.project, webhook=endpoint, every_minutes=15)
    notifications.send_test(rule, SYSTEM)
    assert notifications.send(NoticeMail.objects.get().pk)
    assert mailbox[0].subject == "Test · Shop: 1 failure · This is a test"
    assert WebhookDelivery.objects.get().event_type == "notification"
    rule.refresh_from_db()
    assert rule.last_sent_at is None
