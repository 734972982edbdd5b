"""The admin's pages of webhooks and deliveries."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from django.contrib.admin.utils import quote
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.workspaces import webhooks
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, WebhookDelivery, WebhookEndpoint
from tests.admin.conftest import Staff, text_of
from tests.admin.test_tenants import addresses_of

URL = "https://hooks.acme.example/jackfield"
SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]{44}")
ADD = reverse("admin:workspaces_webhookendpoint_add")
LIST = reverse("admin:workspaces_webhookendpoint_changelist")
DELIVERIES = reverse("admin:workspaces_webhookdelivery_changelist")


@dataclass
class Hooked:
    """Alice's webhook, and one delivery that is dead after two tries."""

    staff: Staff
    endpoint: WebhookEndpoint
    secret: str
    delivery: WebhookDelivery

    def do(self, name: str) -> str:
        return reverse("admin:workspaces_webhookendpoint_do", args=[quote(self.endpoint.pk), name])

    @property
    def change(self) -> str:
        return reverse("admin:workspaces_webhookendpoint_change", args=[quote(self.endpoint.pk)])

    @property
    def delivery_page(self) -> str:
        return reverse("admin:workspaces_webhookdelivery_change", args=[quote(self.delivery.pk)])

    @property
    def redeliver(self) -> str:
        return reverse("admin:workspaces_webhookdelivery_do", args=[quote(self.delivery.pk), "redeliver"])


@pytest.fixture
def hooked(staff: Staff) -> Hooked:
    endpoint, secret = webhooks.create_endpoint(staff.cast.project, URL, SYSTEM, events=["connection.created"])
    delivery = webhooks.send_test(endpoint, SYSTEM)
    delivery.status = WebhookDelivery.Status.DEAD
    at = timezone.now().isoformat()
    delivery.tries = [
        {"at": at, "status": 503, "ms": 38, "error": None, "answer": "<b>come back later</b>"},
        {"at": at, "status": None, "ms": 10_000, "error": "The receiver did not answer in time.", "answer": None},
    ]
    delivery.try_count = 2
    delivery.save()
    return Hooked(staff, endpoint, secret, delivery)


def test_a_webhook_is_added_and_its_secret_shown_once(staff: Staff) -> None:
    data = {"project": staff.cast.project.pk, "url": URL, "events": ["connection.created"], "enabled": "on"}
    response = staff.alice.post(ADD, data)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    secrets = set(SECRET.findall(text_of(response)))
    assert len(secrets) == 1
    endpoint = WebhookEndpoint.objects.get()
    assert endpoint.unseal("secret") == secrets.pop()
    assert (endpoint.url, endpoint.events, endpoint.enabled) == (URL, ["connection.created"], True)
    assert AuditEvent.objects.filter(action="webhook.created", actor="user:alice@example.com").exists()
    for address in (LIST, *(one for one in addresses_of(endpoint) if "/do/" not in one)):
        assert not SECRET.search(text_of(staff.alice.get(address, follow=True))), address


@pytest.mark.parametrize(
    ("url", "said"), [("http://acme.example", "https URL"), ("https://10.0.0.1", "not public"), ("", "required")],
    ids=["no TLS", "private", "nothing"],
)  # fmt: skip
def test_an_address_that_will_not_do_is_refused_at_its_field(staff: Staff, url: str, said: str) -> None:
    response = staff.alice.post(ADD, {"project": staff.cast.project.pk, "url": url})
    assert response.status_code == 200
    assert said in text_of(response)
    assert not WebhookEndpoint.objects.exists()


def test_a_webhook_is_changed_switched_and_deleted(hooked: Hooked) -> None:
    alice = hooked.staff.alice
    assert alice.post(hooked.change, {"url": f"{URL}/2", "description": "New", "enabled": "on"}).status_code == 302
    hooked.endpoint.refresh_from_db()
    assert (hooked.endpoint.url, hooked.endpoint.events, hooked.endpoint.description) == (f"{URL}/2", [], "New")
    assert "https URL" in text_of(alice.post(hooked.change, {"url": "http://acme.example"}))
    for name, enabled in (("switch_off", False), ("switch_on", True)):
        alice.post(hooked.do(name))
        hooked.endpoint.refresh_from_db()
        assert hooked.endpoint.enabled == enabled
    alice.post(reverse("admin:workspaces_webhookendpoint_delete", args=[quote(hooked.endpoint.pk)]), {"post": "yes"})
    assert not WebhookEndpoint.objects.exists()
    assert AuditEvent.objects.filter(action="webhook.deleted", actor="user:alice@example.com").exists()


def test_a_rotated_secret_is_shown_once(hooked: Hooked) -> None:
    response = hooked.staff.alice.post(hooked.do("rotate"))
    assert "no-store" in response["Cache-Control"]
    (secret,) = set(SECRET.findall(text_of(response)))
    hooked.endpoint.refresh_from_db()
    assert hooked.endpoint.unseal("secret") == secret
    assert hooked.endpoint.unseal("previous_secret") == hooked.secret
    shown = text_of(hooked.staff.alice.get(hooked.change))
    assert "before the rotation signs too" in shown
    assert not SECRET.search(shown)


def test_a_test_event_is_sent_and_seen_below(hooked: Hooked) -> None:
    shown = text_of(hooked.staff.alice.post(hooked.do("send_test"), follow=True))
    assert "on its way" in shown
    assert hooked.endpoint.deliveries.filter(status="pending", event_type="webhook.test").count() == 1
    assert shown.count("webhook.test</a>") == 2


def test_a_delivery_shows_its_tries_and_its_event(hooked: Hooked) -> None:
    shown = text_of(hooked.staff.alice.get(hooked.delivery_page))
    for text in (
        "503",
        "38&nbsp;ms",
        "The receiver did not answer in time.",
        "&lt;b&gt;come back later",
        "There is nothing to do",
    ):
        assert text in shown
    assert "<b>come back later" not in shown


def test_a_dead_delivery_is_found_and_delivered_again(hooked: Hooked) -> None:
    alice = hooked.staff.alice
    assert hooked.delivery_page in text_of(alice.get(DELIVERIES, {"status__exact": "dead"}))
    assert hooked.delivery_page not in text_of(alice.get(DELIVERIES, {"status__exact": "delivered"}))
    alice.post(hooked.redeliver)
    hooked.delivery.refresh_from_db()
    assert (hooked.delivery.status, hooked.delivery.try_count) == ("pending", 0)
    assert AuditEvent.objects.filter(action="webhook.redelivered", actor="user:alice@example.com").exists()


def test_many_are_delivered_again_at_once_but_not_to_one_that_is_off(hooked: Hooked) -> None:
    second = webhooks.send_test(hooked.endpoint, SYSTEM)
    other, _ = webhooks.create_endpoint(hooked.staff.cast.project, f"{URL}/other", SYSTEM)
    third = webhooks.send_test(other, SYSTEM)
    WebhookDelivery.objects.update(status="dead")
    webhooks.change_endpoint(other, {"enabled": False}, SYSTEM)
    chosen = {"_selected_action": [hooked.delivery.pk, second.pk, third.pk], "action": "redeliver_chosen"}
    shown = text_of(hooked.staff.alice.post(DELIVERIES, chosen, follow=True))
    assert "2 events are sent again" in shown
    assert "The webhook is off" in shown
    assert set(WebhookDelivery.objects.filter(status="pending").values_list("pk", flat=True)) == {
        hooked.delivery.pk,
        second.pk,
    }


def test_a_viewer_reads_and_changes_nothing(hooked: Hooked) -> None:
    bob = hooked.staff.bob
    for page in (LIST, DELIVERIES, hooked.change, hooked.delivery_page):
        assert bob.get(page).status_code == 200
    shown = text_of(bob.get(hooked.change)) + text_of(bob.get(hooked.delivery_page))
    for label in ("Rotate the secret", "Send a test event", "Deliver again", ">Save<"):
        assert label not in shown
    assert bob.get(ADD).status_code == 403
    for address in (hooked.change, hooked.redeliver, *(hooked.do(n) for n in ("rotate", "send_test", "switch_off"))):
        assert bob.post(address, {"url": URL}).status_code == 403, address
    bob.post(DELIVERIES, {"_selected_action": [hooked.delivery.pk], "action": "redeliver_chosen"})
    hooked.delivery.refresh_from_db()
    assert hooked.delivery.status == "dead"


def test_a_developer_does_all_but_delete(hooked: Hooked) -> None:
    dana = hooked.staff.dana
    assert SECRET.search(text_of(dana.post(hooked.do("rotate"))))
    delete = reverse("admin:workspaces_webhookendpoint_delete", args=[quote(hooked.endpoint.pk)])
    assert dana.post(delete, {"post": "yes"}).status_code == 403
    assert delete not in text_of(dana.get(hooked.change))
    assert WebhookEndpoint.objects.exists()


def test_a_stranger_sees_and_does_nothing(hooked: Hooked) -> None:
    charlie = hooked.staff.charlie
    before = list(WebhookEndpoint.objects.values()) + list(WebhookDelivery.objects.values())
    for row in (hooked.endpoint, hooked.delivery):
        for address in addresses_of(row):
            assert charlie.post(address, {"post": "yes", "url": URL}).status_code in {403, 404}, address
            if "/do/" not in address:
                assert charlie.get(address).status_code in {403, 404}, address
    charlie.post(DELIVERIES, {"_selected_action": [hooked.delivery.pk], "action": "redeliver_chosen"})
    for page in (LIST, DELIVERIES, f"{DELIVERIES}?endpoint={hooked.endpoint.pk}", ADD):
        shown = text_of(charlie.get(page))
        assert "hooks.acme.example" not in shown
        assert "Shop" not in shown
    planted = charlie.post(ADD, {"project": hooked.staff.cast.project.pk, "url": "https://evil.example"})
    assert "Select a valid choice" in text_of(planted)
    assert list(WebhookEndpoint.objects.values()) + list(WebhookDelivery.objects.values()) == before


def test_the_lists_cost_the_same_however_long_they_are(hooked: Hooked) -> None:
    def count(page: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert hooked.staff.alice.get(page).status_code == 200
        return len(captured)

    before = [count(page) for page in (LIST, DELIVERIES)]
    for number in range(5):
        more, _ = webhooks.create_endpoint(hooked.staff.cast.project, f"{URL}/{number}", SYSTEM)
        webhooks.send_test(more, SYSTEM)
    assert [count(page) for page in (LIST, DELIVERIES)] == before
