"""Whoever is of another workspace sees nothing, on any address that the admin has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django.urls.resolvers import URLPattern, URLResolver

from apps.connections.models import Connection
from apps.workspaces.admin_base import OwnAdmin
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import ApiKey, Project, User
from apps.workspaces.services import add_member
from tests.admin.conftest import Staff, text_of

OWN_NAMES = (
    "Acme", "Shop", "alice@example.com", "alices-user", "octocat", "https://alice.example", "Iv1.alice", "onboard",
    "acme-buyers", "it@acme.example", "acme-mornings",
)  # fmt: skip
NO_PAGES = {"app_list", "logout", "login", "jsi18n", "password_change", "password_change_done", "autocomplete"}


def patterns() -> Iterator[URLPattern]:
    """Every address of the admin."""
    site = admin.site.urls[0]
    for pattern in site:
        if isinstance(pattern, URLResolver):
            yield from (inner for inner in pattern.url_patterns if isinstance(inner, URLPattern))
        else:
            yield pattern


def pages() -> list[str]:
    """Names of those that take no argument."""
    return [
        pattern.name for pattern in patterns()
        if pattern.name and not pattern.pattern.converters and pattern.name not in NO_PAGES
    ]  # fmt: skip


def addresses_of(row: Model) -> list[str]:
    """Every address that the admin has for one row."""
    meta = row._meta
    stem = f"{meta.app_label}_{meta.model_name}"
    found = []
    for pattern in patterns():
        name = pattern.name or ""
        if not name.startswith(f"{stem}_") or "object_id" not in pattern.pattern.converters:
            continue
        if "name" in pattern.pattern.converters:
            actions = admin.site._registry[type(row)].row_actions  # type: ignore[attr-defined]
            found += [reverse(f"admin:{name}", args=[quote(row.pk), action]) for action in actions]
        else:
            found.append(reverse(f"admin:{name}", args=[quote(row.pk)]))
    return found


def test_every_kind_of_row_has_addresses(staff: Staff) -> None:
    for row in staff.rows:
        assert any(address.endswith("/change/") for address in addresses_of(row)), row
        assert any(address.endswith("/delete/") for address in addresses_of(row)), row


def test_a_stranger_gets_404_for_every_row_of_another_workspace(staff: Staff) -> None:
    for row in staff.rows:
        for address in addresses_of(row):
            posted = staff.charlie.post(address, {"post": "yes", "user_id": "x"})
            assert posted.status_code in {403, 404}, address
            if "/do/" not in address:
                assert staff.charlie.get(address).status_code in {403, 404}, address
        assert type(row)._default_manager.filter(pk=row.pk).exists()


def test_a_stranger_s_lists_and_pages_name_nothing_of_another_workspace(staff: Staff) -> None:
    assert len(pages()) > 25
    for page in pages():
        response = staff.charlie.get(reverse(f"admin:{page}"), {"s": "acme"}, follow=True)
        assert response.status_code in {200, 403}, page
        for name in OWN_NAMES:
            assert name not in text_of(response), (page, name)


def test_the_owner_does_see_them_there(staff: Staff) -> None:
    for row in staff.rows:
        stem = f"{row._meta.app_label}_{row._meta.model_name}"
        listed = text_of(staff.alice.get(reverse(f"admin:{stem}_changelist")))
        assert reverse(f"admin:{stem}_change", args=[quote(row.pk)]) in listed, row
        assert staff.alice.get(reverse(f"admin:{stem}_change", args=[quote(row.pk)])).status_code == 200, row


def test_who_is_not_staff_and_who_is_not_signed_in_get_no_page(staff: Staff, client: Client) -> None:
    User.objects.filter(pk=staff.cast.charlie.pk).update(is_staff=False)
    for page in pages():
        address = reverse(f"admin:{page}")
        assert client.get(address).status_code == 302, address
        assert staff.charlie.get(address, follow=True).status_code == 403, address


@pytest.mark.parametrize(
    ("model", "field"),
    [("workspaces_project", "workspace"), ("workspaces_jwtissuer", "project")],
)
def test_a_posted_foreign_key_of_another_workspace_is_refused(staff: Staff, model: str, field: str) -> None:
    foreign = {"workspace": staff.cast.foreign_workspace.pk, "project": staff.cast.foreign_project.pk}[field]
    data = {field: foreign, "name": "Mine now", "issuer": "https://evil.example", "method": "HS256", "user_claim": "sub",
            "leeway": 30, "shared_secret": "x" * 40}  # fmt: skip
    before = (Project.objects.count(), staff.cast.foreign_project.jwt_issuers.count())
    response = staff.alice.post(reverse(f"admin:{model}_add"), data)
    assert response.status_code == 200
    assert "Select a valid choice" in text_of(response)
    assert (Project.objects.count(), staff.cast.foreign_project.jwt_issuers.count()) == before


def test_a_viewer_there_and_owner_here_cannot_add_there(staff: Staff) -> None:
    """Being allowed to add in one workspace gives no right in another that one may see."""
    add_member(staff.cast.workspace, staff.cast.charlie, "viewer", SYSTEM)
    data = {"workspace": staff.cast.workspace.pk, "name": "Planted"}
    assert "Select a valid choice" in text_of(staff.charlie.post(reverse("admin:workspaces_project_add"), data))
    key = {"name": "k", "place": f"p:{staff.cast.project.pk}", "scopes": ["connect"]}
    assert "Select a valid choice" in text_of(staff.charlie.post(reverse("admin:workspaces_apikey_add"), key))
    enabling = f"{reverse('admin:connections_integration_add')}?toolkit=slack&project={staff.cast.project.pk}"
    assert staff.charlie.post(enabling, {"display_name": "Slack"}).status_code == 403
    assert not Project.objects.filter(name="Planted").exists()


def test_a_key_cannot_be_issued_for_another_workspace(staff: Staff) -> None:
    foreign = staff.cast.foreign_project
    for place in (f"p:{foreign.pk}", f"w:{foreign.workspace_id}"):
        response = staff.alice.post(
            reverse("admin:workspaces_apikey_add"), {"name": "k", "place": place, "scopes": ["admin"]}
        )
        assert "Select a valid choice" in text_of(response)
    assert ApiKey.objects.filter(workspace=foreign.workspace_id).count() == 1


def test_a_list_action_touches_no_row_of_another_workspace(staff: Staff) -> None:
    chosen = {"_selected_action": [staff.connection.pk], "action": "disconnect_chosen"}
    staff.charlie.post(reverse("admin:connections_connection_changelist"), chosen)
    assert Connection.objects.filter(pk=staff.connection.pk).exists()
    chosen = {"_selected_action": [staff.key.pk], "action": "revoke_chosen"}
    staff.charlie.post(reverse("admin:workspaces_apikey_changelist"), chosen)
    staff.key.refresh_from_db()
    assert staff.key.revoked_at is None


def test_filters_offer_and_find_only_what_is_one_s_own(staff: Staff) -> None:
    for model in ("runs_execution", "connections_connection", "workspaces_apikey", "workspaces_auditevent"):
        address = f"{reverse(f'admin:{model}_changelist')}?project={staff.cast.project.pk}"
        assert "octocat" not in text_of(staff.charlie.get(address))
        assert "Shop" not in text_of(staff.charlie.get(address))


@pytest.mark.parametrize("query", ["project", "tool"])
def test_the_page_to_try_tools_knows_no_foreign_project(staff: Staff, query: str) -> None:
    address = f"{reverse('admin:runs_execution_try')}?project={staff.cast.project.pk}&toolkit=github&tool=get_user"
    assert staff.charlie.get(address).status_code == 404
    assert staff.charlie.post(address, {"p-username": "octocat"}).status_code == 404


def test_only_superusers_see_what_is_the_installation_s(staff: Staff) -> None:
    for name in ("workspaces_plan", "workspaces_user", "socialaccount_socialapp"):
        for page in ("changelist", "add"):
            assert staff.alice.get(reverse(f"admin:{name}_{page}")).status_code == 403
            assert staff.ruth.get(reverse(f"admin:{name}_{page}")).status_code == 200
        assert reverse(f"admin:{name}_changelist") not in text_of(staff.alice.get("/admin/"))
        assert reverse(f"admin:{name}_changelist") in text_of(staff.ruth.get("/admin/"))


def test_no_admin_of_another_package_is_served(staff: Staff) -> None:
    assert all(isinstance(model_admin, OwnAdmin) for model_admin in admin.site._registry.values())
    assert staff.ruth.get("/admin/allauth_idp_oidc/client/").status_code == 404
