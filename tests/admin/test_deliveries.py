"""The admin's pages of results on their way to sinks, and of where a project's results go."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.runs import deliveries, sinks
from apps.runs.models import Delivery, SinkSettings
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent
from tests.admin.conftest import Staff, text_of
from tests.admin.test_tenants import addresses_of

LIST = reverse("admin:runs_delivery_changelist")
SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]{44}")
SINK = {"type": "webhook", "url": "https://results.acme.example/in", "headers": {"X-Key": "a-header-s-secret"}}
S3 = {
    "type": "s3", "bucket": "acme", "accessKeyId": "AKIA1", "secretAccessKey": "a-bucket-s-secret", "region": "eu-west-1",
}  # fmt: skip


def make(staff: Staff, **more: Any) -> Delivery:
    now = timezone.now()
    given = {
        "project": staff.cast.project, "run_id": staff.run.pk, "api": "onboard", "kind": "webhook",
        "target": "https://results.acme.example/in", "host": "results.acme.example", "status": "dead",
        "body": json.dumps({"apiInfo": {"result": {"laptop": "<b>x</b>", "access_token": "a-result-s-secret"}}}),
        "tries": [
            {"at": now.isoformat(), "status": 503, "ms": 38, "error": None, "answer": "<b>come back later</b>"},
            {"at": now.isoformat(), "status": None, "ms": 10_000, "error": "It did not answer in time.", "answer": None},
        ],
        "try_count": 2, "ends_at": now + timedelta(hours=1), "created_at": now,
    }  # fmt: skip
    row = Delivery(**{**given, **more})
    row.seal("sink", SINK)
    row.save(force_insert=True)
    return row


@pytest.fixture
def delivery(staff: Staff) -> Delivery:
    return make(staff)


def page(row: Delivery) -> str:
    return reverse("admin:runs_delivery_change", args=[quote(row.pk)])


def redeliver(row: Delivery) -> str:
    return reverse("admin:runs_delivery_do", args=[quote(row.pk), "redeliver"])


def sink_page(project_id: str) -> str:
    return reverse("admin:runs_sinksettings_change", args=[quote(project_id)])


def sink_deed(project_id: str, name: str) -> str:
    return reverse("admin:runs_sinksettings_do", args=[quote(project_id), name])


# -- Deliveries ------------------------------------------------------------------------------------------------------
def test_a_delivery_shows_its_tries_its_run_and_its_body_without_secrets(staff: Staff, delivery: Delivery) -> None:
    shown = text_of(staff.alice.get(page(delivery)))
    for text in ("503", "38&nbsp;ms", "It did not answer in time.", "&lt;b&gt;come back later", "&lt;b&gt;x&lt;/b&gt;"):
        assert text in shown
    assert f"/admin/runs/run/{quote(staff.run.pk)}/change/" in shown
    for secret in ("a-header-s-secret", "a-result-s-secret", delivery.sink):
        assert secret not in shown


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"status__exact": "dead"}, True), ({"status__exact": "delivered"}, False), ({"kind__exact": "s3"}, False),
        ({"api__icontains": "board"}, True), ({"q": "nothing"}, False),
    ],
    ids=["status", "another status", "another kind", "module", "nothing"],
)  # fmt: skip
def test_deliveries_are_filtered_and_searched(
    staff: Staff, delivery: Delivery, query: dict[str, str], found: bool
) -> None:
    assert (page(delivery) in text_of(staff.alice.get(LIST, query))) == found
    assert page(delivery) in text_of(staff.alice.get(LIST, {"q": staff.run.pk}))
    assert page(delivery) in text_of(staff.alice.get(LIST, {"project": staff.cast.project.pk}))


def test_the_list_tells_the_last_answer_and_the_next_try_in_a_word(staff: Staff) -> None:
    make(staff, status="pending", next_try_at=timezone.now() + timedelta(seconds=90))
    shown = text_of(staff.alice.get(LIST))
    assert '<span title="It did not answer in time.">none</span>' in shown
    assert "in 1 minute" in shown


def test_a_dead_delivery_is_delivered_again(staff: Staff, delivery: Delivery) -> None:
    assert redeliver(delivery) in text_of(staff.alice.get(page(delivery)))
    assert "The result is sent again." in text_of(staff.alice.post(redeliver(delivery), follow=True))
    delivery.refresh_from_db()
    assert (delivery.status, delivery.try_count) == ("pending", 0)
    event = AuditEvent.objects.get(action="delivery.redelivered")
    assert (event.actor, event.target) == ("user:alice@example.com", delivery.pk)
    assert redeliver(delivery) not in text_of(staff.alice.get(page(delivery)))


def test_many_are_delivered_again_at_once_but_not_one_that_is_on_its_way(staff: Staff, delivery: Delivery) -> None:
    second = make(staff, status="delivered")
    under_way = make(staff, status="pending", next_try_at=timezone.now(), lease_until=timezone.now())
    chosen = {"_selected_action": [delivery.pk, second.pk, under_way.pk], "action": "redeliver_chosen"}
    shown = text_of(staff.alice.post(LIST, chosen, follow=True))
    assert "2 results are sent again." in shown
    assert "1 are on their way already." in shown
    fresh = Delivery.objects.filter(pk__in=[delivery.pk, second.pk])
    assert set(fresh.values_list("status", "try_count")) == {("pending", 0)}


def test_a_message_of_a_failed_job_run_names_no_run(staff: Staff) -> None:
    row = make(staff, run_id="", api="")
    for address in (LIST, page(row)):
        assert "failure of a job run" in text_of(staff.alice.get(address))


def test_a_viewer_reads_and_sends_nothing(staff: Staff, delivery: Delivery) -> None:
    assert page(delivery) in text_of(staff.bob.get(LIST))
    assert redeliver(delivery) not in text_of(staff.bob.get(page(delivery)))
    assert staff.bob.post(redeliver(delivery)).status_code == 403
    assert staff.alice.get(redeliver(delivery)).status_code == 405
    staff.bob.post(LIST, {"_selected_action": [delivery.pk], "action": "redeliver_chosen"})
    delivery.refresh_from_db()
    assert delivery.status == "dead"


def test_a_stranger_sees_and_sends_nothing(staff: Staff, delivery: Delivery) -> None:
    for address in addresses_of(delivery):
        assert staff.charlie.post(address, {"post": "yes"}).status_code in {403, 404}, address
        if "/do/" not in address:
            assert staff.charlie.get(address).status_code in {403, 404}, address
    staff.charlie.post(LIST, {"_selected_action": [delivery.pk], "action": "redeliver_chosen"})
    for address in (LIST, f"{LIST}?project={staff.cast.project.pk}"):
        assert "acme.example" not in text_of(staff.charlie.get(address))
    delivery.refresh_from_db()
    assert delivery.status == "dead"


def test_the_list_costs_the_same_however_long_it_is_and_counts_nothing(staff: Staff, delivery: Delivery) -> None:
    def queries() -> list[str]:
        with CaptureQueriesContext(connection) as captured:
            assert staff.alice.get(LIST).status_code == 200
        return [query["sql"] for query in captured]

    before = queries()
    for _ in range(5):
        make(staff)
    after = queries()
    assert len(after) == len(before)
    assert not [sql for sql in after if "COUNT(" in sql and "runs_delivery" in sql]
    assert not [sql for sql in after if '"runs_delivery"."body"' in sql]


# -- Where a project's results go ------------------------------------------------------------------------------------
def test_a_project_s_page_leads_to_its_sink_which_is_set_masked_and_taken_away(staff: Staff) -> None:
    project = staff.cast.project
    address = sink_page(project.pk)
    assert address in text_of(staff.alice.get(reverse("admin:workspaces_project_change", args=[quote(project.pk)])))
    assert staff.alice.get(address).status_code == 200
    assert not SinkSettings.objects.exists()  # a GET writes nothing
    assert staff.alice.post(address, {"default": json.dumps(S3)}).status_code == 302
    project.refresh_from_db()
    assert sinks.default_of(project) == S3
    shown = text_of(staff.alice.get(address))
    assert "a-bucket-s-secret" not in shown
    assert "********" in shown
    masked = json.dumps(S3 | {"secretAccessKey": "********", "prefix": "x/"})
    assert staff.alice.post(address, {"default": masked}).status_code == 302
    assert sinks.default_of(project) == S3 | {"prefix": "x/"}
    assert staff.alice.post(address, {"default": " "}).status_code == 302
    project.refresh_from_db()
    assert sinks.default_of(project) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "This is no JSON."),
        ("[" * 20_000, "This is no JSON."),
        ("[]", "Must be a JSON object."),
        ('{"type": "ftp"}', "Must be webhook or s3."),
        ('{"type": "webhook", "url": "https://10.0.0.1"}', "not public"),
        (json.dumps(S3 | {"secretAccessKey": "********"}), "give it anew"),
        ("\x00", "Null characters are not allowed"),
    ],
    ids=["no JSON", "too deep", "no object", "unknown type", "private", "a mask for nothing", "NUL"],
)
def test_a_sink_that_will_not_do_is_refused_at_its_field(staff: Staff, text: str, said: str) -> None:
    response = staff.alice.post(sink_page(staff.cast.project.pk), {"default": text})
    assert response.status_code == 200
    assert said in text_of(response)
    assert not SinkSettings.objects.exists()


def test_the_secret_is_shown_and_rotated_by_a_post_and_audited(staff: Staff) -> None:
    project = staff.cast.project
    first = staff.alice.post(sink_deed(project.pk, "show_secret"))
    assert "no-store" in first["Cache-Control"]
    (secret,) = set(SECRET.findall(text_of(first)))
    assert SinkSettings.objects.get().unseal("secret") == secret
    (rotated,) = set(SECRET.findall(text_of(staff.alice.post(sink_deed(project.pk, "rotate")))))
    assert rotated == deliveries.secret_of(project, SYSTEM)[0] != secret
    actions = AuditEvent.objects.filter(actor="user:alice@example.com").values_list("action", flat=True)
    assert {"webhook_secret.read", "webhook_secret.rotated"} <= set(actions)
    shown = text_of(staff.alice.get(sink_page(project.pk)))
    assert not SECRET.search(shown)
    assert "before the rotation signs too" in shown
    assert staff.alice.get(sink_deed(project.pk, "show_secret")).status_code == 405


def test_a_viewer_reads_where_results_go_and_no_secret(staff: Staff) -> None:
    project = staff.cast.project
    sinks.change_default(project, S3, SYSTEM)
    shown = text_of(staff.bob.get(sink_page(project.pk)))
    assert "a-bucket-s-secret" not in shown
    for name in ("show_secret", "rotate"):
        assert sink_deed(project.pk, name) not in shown
        assert staff.bob.post(sink_deed(project.pk, name)).status_code == 403
    assert staff.bob.post(sink_page(project.pk), {"default": ""}).status_code == 403
    assert sinks.default_of(project) == S3


def test_a_stranger_finds_no_sink_and_no_secret(staff: Staff) -> None:
    project = staff.cast.project
    sinks.change_default(project, SINK, SYSTEM)
    assert staff.charlie.get(sink_page(project.pk)).status_code == 404
    assert staff.charlie.post(sink_page(project.pk), {"default": ""}).status_code == 404
    for name in ("show_secret", "rotate"):
        assert staff.charlie.post(sink_deed(project.pk, name)).status_code == 404
    assert staff.charlie.get(sink_page("proj_\x00")).status_code == 404
    assert "results.acme.example" not in text_of(staff.charlie.get(reverse("admin:runs_sinksettings_changelist")))
    assert "results.acme.example" in text_of(staff.alice.get(reverse("admin:runs_sinksettings_changelist")))
    assert sinks.default_of(project) == SINK
