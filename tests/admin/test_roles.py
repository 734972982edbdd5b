"""What each role may do: viewers read, developers do all but delete, owners and admins everything."""

from __future__ import annotations

import pytest
from django.contrib.admin.utils import quote
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from apps.connections.models import Connection, Integration
from apps.workspaces.models import ApiKey, Membership, Project, Role, Workspace
from tests.admin.conftest import Staff, text_of
from tests.admin.test_tenants import addresses_of


def snapshot() -> list[object]:
    models: list[type[Model]] = [Workspace, Project, Membership, ApiKey, Integration, Connection]
    return [list(model._default_manager.order_by("pk").values()) for model in models]


def test_a_viewer_reads_every_page_and_changes_nothing(staff: Staff) -> None:
    before = snapshot()
    for row in staff.rows:
        change = next(address for address in addresses_of(row) if address.endswith("/change/"))
        assert staff.bob.get(change).status_code == 200, change
        for address in addresses_of(row):
            if address.endswith(("/history/", "/connected/")):
                continue
            data = {"post": "yes", "name": "Changed", "role": "owner", "display_name": "Changed", "user_id": "x"}
            assert staff.bob.post(address, data).status_code in {403, 404}, address
    assert snapshot() == before


def test_a_viewer_may_not_open_the_forms_that_make_things(staff: Staff) -> None:
    for model in ("workspaces_project", "workspaces_membership", "workspaces_apikey", "workspaces_jwtissuer"):
        address = reverse(f"admin:{model}_add")
        assert staff.bob.get(address).status_code == 403
        assert staff.bob.post(address, {}).status_code == 403
    assert staff.bob.get(reverse("admin:runs_execution_try")).status_code == 403


def test_a_viewer_sees_no_button_that_would_be_refused(staff: Staff) -> None:
    page = text_of(staff.bob.get(reverse("admin:connections_connection_change", args=[staff.connection.pk])))
    assert "Disconnect" not in page
    assert "Refresh now" not in page
    page = text_of(staff.bob.get(reverse("admin:connections_integration_change", args=[staff.integration.pk])))
    assert "Save" not in page
    assert "Connect a test account" not in page


def deletes(staff: Staff) -> list[str]:
    found = [address for row in staff.rows for address in addresses_of(row) if address.endswith("/delete/")]
    found.append(reverse("admin:connections_connection_do", args=[staff.connection.pk, "disconnect"]))
    found.append(reverse("admin:connections_integration_do", args=[staff.integration.pk, "disable_and_revoke"]))
    return found


def test_a_developer_deletes_nothing(staff: Staff) -> None:
    before = snapshot()
    for address in deletes(staff):
        assert staff.dana.post(address, {"post": "yes"}).status_code == 403, address
    chosen = {"_selected_action": [staff.connection.pk], "action": "disconnect_chosen"}
    staff.dana.post(reverse("admin:connections_connection_changelist"), chosen)
    assert snapshot() == before


def test_a_developer_changes_neither_members_nor_the_workspace(staff: Staff) -> None:
    before = snapshot()
    member = Membership.objects.get(user=staff.cast.bob, workspace=staff.cast.workspace)
    for name, row in (("membership", member), ("workspace", staff.cast.workspace)):
        address = reverse(f"admin:workspaces_{name}_change", args=[quote(row.pk)])
        assert staff.dana.post(address, {"role": "owner", "name": "Mine"}).status_code == 403
    for name in ("membership", "workspace"):
        assert staff.dana.post(reverse(f"admin:workspaces_{name}_add"), {}).status_code == 403
    assert snapshot() == before


def test_a_developer_configures_and_issues_keys_within_the_role(staff: Staff) -> None:
    address = f"{reverse('admin:connections_integration_add')}?toolkit=slack&project={staff.cast.project.pk}"
    assert staff.dana.post(address, {"display_name": "Slack"}).status_code == 302
    data = {"name": "k", "place": f"p:{staff.cast.project.pk}", "scopes": ["secrets"]}
    refused = staff.dana.post(reverse("admin:workspaces_apikey_add"), data)
    assert "Your role does not permit: secrets." in text_of(refused)
    # A key with admin could delete, which a developer may not.
    refused = staff.dana.post(reverse("admin:workspaces_apikey_add"), data | {"scopes": ["admin", "execute"]})
    assert "Your role does not permit: admin." in text_of(refused)
    issued = staff.dana.post(reverse("admin:workspaces_apikey_add"), data | {"scopes": ["execute"]})
    assert "jf_sk_" in text_of(issued)


def test_an_owner_deletes_a_project_only_when_no_account_is_connected(staff: Staff) -> None:
    address = reverse("admin:workspaces_project_delete", args=[staff.cast.project.pk])
    response = staff.alice.post(address, {"post": "yes"}, follow=True)
    assert "still connected" in text_of(response)
    Connection.objects.all().delete()
    assert staff.alice.post(address, {"post": "yes"}).status_code == 302
    assert not Project.objects.filter(pk=staff.cast.project.pk).exists()


def test_the_last_owner_can_neither_be_removed_nor_demoted(staff: Staff) -> None:
    owner = Membership.objects.get(user=staff.cast.alice, workspace=staff.cast.workspace)
    change = reverse("admin:workspaces_membership_change", args=[owner.pk])
    assert "A workspace needs an owner." in text_of(staff.alice.post(change, {"role": "viewer"}))
    delete = reverse("admin:workspaces_membership_delete", args=[owner.pk])
    assert "A workspace needs an owner." in text_of(staff.alice.post(delete, {"post": "yes"}, follow=True))
    owner.refresh_from_db()
    assert owner.role == Role.OWNER


@pytest.mark.parametrize("name", ["revoke", "nothing"])
def test_an_action_is_posted_never_gotten(staff: Staff, name: str) -> None:
    address = reverse("admin:workspaces_apikey_do", args=[staff.key.pk, name])
    assert staff.alice.get(address).status_code == 405
    staff.key.refresh_from_db()
    assert staff.key.revoked_at is None


def test_an_action_without_a_csrf_token_is_refused(staff: Staff) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(staff.cast.alice)
    for address in (
        reverse("admin:workspaces_apikey_do", args=[staff.key.pk, "revoke"]),
        reverse("admin:workspaces_apikey_add"),
        reverse("admin:workspaces_membership_add"),
        reverse("admin:runs_execution_try"),
        f"{reverse('admin:connections_integration_add')}?toolkit=slack&project={staff.cast.project.pk}",
    ):
        assert client.post(address, {}).status_code == 403, address


def test_logs_are_read_only_even_for_superusers(staff: Staff) -> None:
    for row in staff.rows:
        if row._meta.model_name not in {"execution", "auditevent"}:
            continue
        for address in addresses_of(row):
            if address.endswith(("/change/", "/delete/")):
                assert staff.ruth.post(address, {"post": "yes"}).status_code == 403, address
    assert staff.ruth.get(reverse("admin:runs_execution_add")).status_code == 403
