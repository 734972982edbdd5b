"""The admin's page that makes a link to the hosted connect page."""

from __future__ import annotations

import re

from django.urls import reverse

from apps.connections.models import ConnectPage
from apps.workspaces.models import AuditEvent
from tests.admin.conftest import Staff

LINK = reverse("admin:connections_connection_link")
LIST = reverse("admin:connections_connection_changelist")
URL = re.compile(r'value="(http[^"]+/connect/open/[\w-]{43})"')


def test_an_editor_makes_a_link_that_is_shown_once(staff: Staff) -> None:
    alice = staff.alice
    assert LINK in alice.get(LIST).content.decode()
    answer = alice.post(LINK, {"project": staff.cast.project.pk, "user_id": "ann"})
    assert answer.status_code == 200
    [url] = URL.findall(answer.content.decode())
    assert "no-store" in answer["Cache-Control"]
    page = ConnectPage.objects.get()
    assert (page.end_user.external_id, page.toolkits) == ("ann", [])
    event = AuditEvent.objects.get(action="connect_link.made")
    assert (event.actor, event.target) == ("user:alice@example.com", page.pk)
    assert url.rpartition("/")[2] not in str(event.details)


def test_who_may_not_edit_makes_no_link(staff: Staff) -> None:
    bob, charlie = staff.bob, staff.charlie
    assert LINK not in bob.get(LIST).content.decode()
    assert bob.post(LINK, {"project": staff.cast.project.pk, "user_id": "ann"}).status_code == 403
    foreign = charlie.post(LINK, {"project": staff.cast.project.pk, "user_id": "ann"})
    assert not URL.findall(foreign.content.decode())
    assert not ConnectPage.objects.exists()


def test_a_user_id_that_is_none_is_refused(staff: Staff) -> None:
    alice = staff.alice
    for user_id in ("", "a\x00b", "a\nb", "x" * 256):
        alice.post(LINK, {"project": staff.cast.project.pk, "user_id": user_id})
    assert not ConnectPage.objects.exists()
