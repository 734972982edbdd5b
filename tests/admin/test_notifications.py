"""The admin's pages of notification rules."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from apps.workspaces import notifications, webhooks
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, NoticeMail, NotificationRule, WebhookEndpoint
from tests.admin.conftest import Staff, text_of
from tests.admin.test_tenants import addresses_of

ADD = reverse("admin:workspaces_notificationrule_add")
LIST = reverse("admin:workspaces_notificationrule_changelist")
SENT: dict[str, Any] = {
    "events": ["run.failed", "job_run.failed"], "emails": "ops@acme.example\n\n ada@acme.example ", "webhook": "",
    "every_minutes": "60", "enabled": "on",
}  # fmt: skip


@pytest.fixture
def endpoint(staff: Staff) -> WebhookEndpoint:
    return webhooks.create_endpoint(staff.cast.project, "https://hooks.acme.example/jackfield", SYSTEM)[0]


@pytest.fixture
def rule(staff: Staff) -> NotificationRule:
    return notifications.create_rule(staff.cast.project, SYSTEM, emails=["ops@acme.example"], every_minutes=15)


def change(rule: NotificationRule) -> str:
    return reverse("admin:workspaces_notificationrule_change", args=[quote(rule.pk)])


def send_test(rule: NotificationRule) -> str:
    return reverse("admin:workspaces_notificationrule_do", args=[quote(rule.pk), "send_test"])


def delete(rule: NotificationRule) -> str:
    return reverse("admin:workspaces_notificationrule_delete", args=[quote(rule.pk)])


def test_a_rule_is_added_with_its_addresses_one_a_line(staff: Staff, endpoint: WebhookEndpoint) -> None:
    data = SENT | {"project": staff.cast.project.pk, "webhook": endpoint.pk}
    assert staff.alice.post(ADD, data).status_code == 302
    rule = NotificationRule.objects.get()
    assert (rule.project_id, rule.emails) == (staff.cast.project.pk, ["ops@acme.example", "ada@acme.example"])
    assert (rule.events, rule.webhook, rule.every_minutes) == (["run.failed", "job_run.failed"], endpoint, 60)
    assert AuditEvent.objects.filter(action="notification.created", actor="user:alice@example.com").exists()
    shown = text_of(staff.alice.get(LIST))
    for text in ("A run failed, A job run failed", "ops@acme.example", "hooks.acme.example", "At most every hour"):
        assert text in shown


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"emails": "nobody\nada@acme.example"}, "No address: nobody."),
        ({"emails": ""}, "Nobody would be told"),
        ({"emails": "a@b.example\x00"}, "Null characters are not allowed"),
        ({"webhook": "another"}, "Select a valid choice"),
        ({"every_minutes": "7"}, "Select a valid choice"),
        ({"events": ["run.flailed"]}, "Select a valid choice"),
    ],
    ids=["no address", "nobody", "NUL", "no webhook", "no choice", "no event"],
)
def test_what_will_not_do_is_refused_at_its_field(staff: Staff, given: dict[str, Any], said: str) -> None:
    response = staff.alice.post(ADD, SENT | {"project": staff.cast.project.pk} | given)
    assert response.status_code == 200
    assert said in text_of(response)
    assert not NotificationRule.objects.exists()


def test_a_webhook_of_another_project_is_refused(staff: Staff, rule: NotificationRule) -> None:
    foreign, _ = webhooks.create_endpoint(staff.cast.foreign_project, "https://rival.example/hook", SYSTEM)
    for address in (ADD, change(rule)):
        response = staff.alice.post(address, SENT | {"project": staff.cast.project.pk, "webhook": foreign.pk})
        assert "Select a valid choice" in text_of(response)
        assert "rival.example" not in text_of(response)
    assert not NotificationRule.objects.exclude(webhook=None).exists()


def test_a_rule_is_changed_and_deleted(staff: Staff, rule: NotificationRule) -> None:
    assert "ops@acme.example" in text_of(staff.alice.get(change(rule)))
    assert staff.alice.post(change(rule), SENT | {"every_minutes": "0", "enabled": ""}).status_code == 302
    rule.refresh_from_db()
    assert (rule.every_minutes, rule.enabled, len(rule.emails)) == (0, False, 2)
    assert "No address: x." in text_of(staff.alice.post(change(rule), SENT | {"emails": "x"}))
    staff.alice.post(delete(rule), {"post": "yes"})
    assert not NotificationRule.objects.exists()
    assert AuditEvent.objects.filter(action="notification.deleted", actor="user:alice@example.com").exists()


def test_a_rhythm_that_the_form_does_not_offer_is_kept(staff: Staff, rule: NotificationRule) -> None:
    notifications.change_rule(rule, SYSTEM, every_minutes=42)
    assert "At most every 42 minutes" in text_of(staff.alice.get(change(rule)))
    assert staff.alice.post(change(rule), SENT | {"every_minutes": "42"}).status_code == 302


def test_a_test_is_sent_and_seen_below(staff: Staff, rule: NotificationRule) -> None:
    shown = text_of(staff.alice.post(send_test(rule), follow=True))
    assert "A test is on its way" in shown
    mail = NoticeMail.objects.get()
    assert mail.data["test"] is True
    NoticeMail.objects.update(status="failed", error="The mail server refuses every address.")
    shown = text_of(staff.alice.get(change(rule)))
    assert "Given up" in shown
    assert "The mail server refuses every address." in shown


def test_a_page_tells_what_waits_and_what_was_sent(staff: Staff, rule: NotificationRule) -> None:
    for number in range(3):
        notifications.notify(staff.cast.project, "run.failed", f"r{number}", {"title": "A run of <b>onboard failed"})
        if not number:
            notifications.bundle(rule.pk)
    shown = text_of(staff.alice.get(change(rule)))
    assert "2 failures wait for the next." in shown
    assert "1 failure: A run of &lt;b&gt;onboard failed" in shown


def test_a_viewer_reads_and_changes_nothing(staff: Staff, rule: NotificationRule) -> None:
    shown = text_of(staff.bob.get(change(rule)))
    assert staff.bob.get(LIST).status_code == 200
    for part in (send_test(rule), delete(rule), ">Save<"):
        assert part not in shown
    assert staff.bob.get(ADD).status_code == 403
    for address in (change(rule), send_test(rule), delete(rule)):
        assert staff.bob.post(address, SENT | {"post": "yes"}).status_code == 403, address
    assert not NoticeMail.objects.exists()


def test_a_developer_does_all_but_delete(staff: Staff, rule: NotificationRule) -> None:
    assert staff.dana.post(send_test(rule)).status_code == 302
    assert staff.dana.post(change(rule), SENT).status_code == 302
    assert staff.dana.post(delete(rule), {"post": "yes"}).status_code == 403
    assert NotificationRule.objects.exists()


def test_a_stranger_sees_and_does_nothing(staff: Staff, rule: NotificationRule) -> None:
    before = list(NotificationRule.objects.values())
    for address in addresses_of(rule):
        assert staff.charlie.post(address, SENT | {"post": "yes"}).status_code in {403, 404}, address
        if "/do/" not in address:
            assert staff.charlie.get(address).status_code in {403, 404}, address
    for page in (LIST, ADD):
        shown = text_of(staff.charlie.get(page))
        assert "ops@acme.example" not in shown
        assert "Shop" not in shown
    planted = staff.charlie.post(ADD, SENT | {"project": staff.cast.project.pk})
    assert "Select a valid choice" in text_of(planted)
    assert list(NotificationRule.objects.values()) == before


def test_the_list_costs_the_same_however_long_it_is(staff: Staff, rule: NotificationRule) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert staff.alice.get(LIST).status_code == 200
        return len(captured)

    before = count()
    for _ in range(5):
        notifications.create_rule(staff.cast.project, SYSTEM, emails=["ops@acme.example"])
    assert count() == before
