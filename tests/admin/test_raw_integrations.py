"""Integrations of the Raw execute API in the admin: listed, shown, changed, switched off, deleted."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import reverse

from apps.connections import raw
from apps.connections.integrations import configure
from apps.connections.models import Connection, Integration
from apps.workspaces.audit import SYSTEM
from tests.admin.conftest import Staff, text_of

SECRET = "k-1234567890"


@pytest.fixture
def own(staff: Staff) -> Integration:
    config = {"baseUrl": "https://billing.example/v2", "auth": {"type": "header", "name": "X-Key"}, "team": "a"}
    return raw.create(staff.cast.project, raw.Wanted("Billing", "custom", config, {"apiKey": SECRET}), SYSTEM)


@pytest.fixture
def further(staff: Staff) -> Integration:
    wanted = raw.Wanted("Second GitHub", "github", {}, {"token": SECRET})
    return raw.create(staff.cast.project, wanted, SYSTEM)


def change(row: Integration) -> str:
    return reverse("admin:connections_integration_change", args=[row.pk])


def do(row: Integration, name: str) -> str:
    return reverse("admin:connections_integration_do", args=[row.pk, name])


def typed(**changes: Any) -> dict[str, Any]:
    return {"display_name": "Billing", "config": '{"baseUrl": "https://billing.example/v2"}'} | changes


def test_they_are_listed_and_shown_without_their_credentials(
    staff: Staff, own: Integration, further: Integration
) -> None:
    listed = text_of(staff.alice.get(reverse("admin:connections_integration_changelist")))
    for row in (own, further):
        assert change(row) in listed
        page = staff.alice.get(change(row))
        assert page.status_code == 200
        assert f"/integrations/{row.pk}/execute" in text_of(page)
        assert SECRET not in text_of(page)
        assert staff.bob.get(change(row)).status_code == 200
        assert staff.charlie.get(change(row)).status_code == 404
    shared = Connection.objects.get(integration=own)
    assert staff.alice.get(reverse("admin:connections_connection_change", args=[shared.pk])).status_code == 200
    assert staff.alice.get(reverse("admin:connections_connection_changelist")).status_code == 200


def test_name_configuration_and_credential_are_changed(staff: Staff, own: Integration) -> None:
    config = '{"baseUrl": "https://eu.billing.example", "team": "b"}'
    answer = staff.alice.post(
        change(own), typed(display_name="Billing EU", config=config, credential_api_key="new-key")
    )
    assert answer.status_code == 302
    own.refresh_from_db()
    assert (str(own), raw.config_of(own)) == ("Billing EU", {"baseUrl": "https://eu.billing.example", "team": "b"})
    assert Connection.objects.get(integration=own).unseal("credentials") == {"api_key": "new-key"}


def test_an_empty_credential_is_kept(staff: Staff, own: Integration) -> None:
    assert staff.alice.post(change(own), typed(credential_api_key="")).status_code == 302
    assert Connection.objects.get(integration=own).unseal("credentials") == {"api_key": SECRET}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"a": NaN}', "not JSON"),
        ('{"baseUrl": "http://169.254.169.254"}', "baseUrl: This address may not be called"),
        ("{}", "baseUrl: This field is required."),
        ('{"baseUrl": "https://a.example", "note": "\\u0000"}', "NUL"),
    ],
    ids=range(6),
)
def test_a_faulty_configuration_is_told_at_its_field(staff: Staff, own: Integration, config: str, said: str) -> None:
    answer = staff.alice.post(change(own), typed(config=config))
    assert answer.status_code == 200
    assert said in text_of(answer)
    own.refresh_from_db()
    assert raw.config_of(own)["team"] == "a"


def test_who_only_looks_changes_nothing(staff: Staff, own: Integration) -> None:
    assert staff.bob.post(change(own), typed()).status_code == 403
    for name in ("disable", "enable", "remove_further"):
        assert staff.bob.post(do(own, name)).status_code == 403
    assert staff.dana.post(do(own, "remove_further")).status_code == 403
    assert Integration.objects.filter(pk=own.pk, enabled=True).exists()


def test_switching_one_off_and_on_leaves_the_toolkits_first_alone(staff: Staff, further: Integration) -> None:
    for name, enabled in (("disable", False), ("enable", True)):
        assert staff.alice.post(do(further, name)).status_code == 302
        further.refresh_from_db()
        assert further.enabled is enabled
        assert Integration.objects.get(pk=staff.integration.pk).enabled is True


def test_one_is_deleted_with_its_accounts_and_the_toolkits_first_cannot_be(staff: Staff, further: Integration) -> None:
    assert staff.alice.post(do(further, "remove_further")).status_code == 302
    assert not Integration.objects.filter(pk=further.pk).exists()
    assert not Connection.objects.filter(toolkit="github", end_user=None).exists()
    staff.alice.post(do(staff.integration, "remove_further"))
    assert Integration.objects.filter(pk=staff.integration.pk).exists()
    assert Connection.objects.filter(pk=staff.connection.pk).exists()


@pytest.mark.parametrize("name", ["connect_test", "disable_and_revoke"])
def test_what_is_for_the_first_is_not_done_to_a_further_one(staff: Staff, further: Integration, name: str) -> None:
    staff.alice.post(do(further, name), {"user_id": "x"})
    assert Integration.objects.filter(pk=further.pk, enabled=True).exists()
    assert Connection.objects.filter(integration=further).exists()
    assert Integration.objects.get(pk=staff.integration.pk).enabled is True


def test_the_form_of_the_first_keeps_what_the_api_was_given(staff: Staff) -> None:
    row = staff.integration
    raw.update(row, SYSTEM, config={"team": "a"})
    page = staff.alice.get(change(row))
    assert page.status_code == 200
    fields = {"display_name": "GitHub", "client_id": "Iv1.alice", "base_url": "https://ghe.example/api/v3"}
    assert staff.alice.post(change(row), fields).status_code == 302
    row.refresh_from_db()
    assert raw.config_of(row) == {"team": "a", "baseUrl": "https://ghe.example/api/v3"}
    configure(row.project, "github", SYSTEM, overrides={})
    row.refresh_from_db()
    assert raw.config_of(row) == {"team": "a"}
