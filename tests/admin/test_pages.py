"""What an admin does in the browser, page by page."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from allauth.socialaccount.models import SocialApp
from django.contrib.sessions.models import Session
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from apps.connections.links import read_link
from apps.connections.models import Connection, Integration
from apps.runs.models import Execution
from apps.workspaces.models import ApiKey, AuditEvent, JwtIssuer, Membership, Plan, Project, User, Workspace
from tests.admin.conftest import SECRETS, Staff, text_of
from tests.admin.test_tenants import addresses_of, pages
from tests.cast import connect, enable
from tests.peers.upstream import Upstream

KEY = re.compile(r"jf_sk_[A-Za-z0-9_-]{43}")


def audited(action: str) -> bool:
    return AuditEvent.objects.filter(action=action, actor="user:alice@example.com").exists()


# -- Keys ------------------------------------------------------------------------------------------------------------
def issue(staff: Staff, **changes: object) -> str:
    data = {"name": "Backend", "place": f"p:{staff.cast.project.pk}", "scopes": ["execute"], "expires": "30"} | changes
    response = staff.alice.post(reverse("admin:workspaces_apikey_add"), data)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    return text_of(response)


def test_a_key_is_shown_once_and_works(staff: Staff) -> None:
    shown = issue(staff)
    secret = set(KEY.findall(shown))
    assert len(secret) == 1
    key = ApiKey.objects.get(name="Backend")
    assert key.digest == ApiKey.digest_of(secret.pop())
    assert key.scopes == ["execute"]
    assert key.expires_at is not None
    assert timedelta(days=29) < key.expires_at - timezone.now() < timedelta(days=31)
    assert key.created_by == staff.cast.alice
    assert audited("key.issued")


def test_a_key_is_nowhere_after_it_was_shown(staff: Staff) -> None:
    secret = KEY.findall(issue(staff))[0]
    key = ApiKey.objects.get(name="Backend")
    assert secret not in text_of(staff.alice.get(reverse("admin:workspaces_apikey_changelist")))
    for address in addresses_of(key):
        shown = text_of(staff.alice.get(address, follow=True))
        assert secret not in shown
        assert key.digest not in shown
    assert not any(secret in json.dumps(session.get_decoded()) for session in Session.objects.all())
    assert not any(secret in cookie.value for cookie in staff.alice.cookies.values())


def test_a_key_may_be_for_one_end_user_and_chosen_toolkits(staff: Staff) -> None:
    issue(staff, end_user="u-17", toolkits=["github"])
    key = ApiKey.objects.select_related("end_user").get(name="Backend")
    assert key.end_user is not None
    assert key.end_user.external_id == "u-17"
    assert key.toolkits == ["github"]


def test_a_key_for_an_end_user_needs_a_project(staff: Staff) -> None:
    assert "needs a project" in issue(staff, place=f"w:{staff.cast.workspace.pk}", end_user="u-17")


def test_the_plan_s_limit_of_keys_is_told_in_the_form(staff: Staff) -> None:
    plan = Plan.objects.create(name="Small", keys=1)
    Workspace.objects.filter(pk=staff.cast.workspace.pk).update(plan=plan)
    assert "limit of 1 API keys" in issue(staff)
    assert not ApiKey.objects.filter(name="Backend").exists()


def test_a_revoked_key_is_refused_at_once(staff: Staff) -> None:
    assert staff.cast.api.get("integrations/config").status_code == 200
    staff.alice.post(reverse("admin:workspaces_apikey_do", args=[staff.key.pk, "revoke"]))
    assert staff.cast.api.get("integrations/config").status_code == 401
    assert audited("key.revoked")


# -- People ----------------------------------------------------------------------------------------------------------
def test_a_new_member_gets_a_link_by_e_mail_and_sets_a_password(staff: Staff, client: Client) -> None:
    data = {"workspace": staff.cast.workspace.pk, "email": "eve@example.com", "role": "viewer"}
    page = text_of(staff.alice.post(reverse("admin:workspaces_membership_add"), data))
    assert "password/reset/key" not in page  # whoever has the link owns the account, so only the person gets it
    assert len(mail.outbox) == 1
    assert mail.outbox[0].to == ["eve@example.com"]
    link = re.search(r"(http\S+/accounts/password/reset/key/\S+)", str(mail.outbox[0].body))
    assert link is not None
    form = client.get(link[1], follow=True)
    assert form.status_code == 200
    password = "correct horse battery staple"
    client.post(form.redirect_chain[-1][0], {"password1": password, "password2": password})
    assert User.objects.get(email="eve@example.com").check_password(password)
    assert client.get(link[1], follow=True).context["token_fail"]


def test_without_mail_only_a_superuser_is_shown_the_link(staff: Staff, settings: Settings) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
    data = {"workspace": staff.cast.workspace.pk, "role": "viewer"}
    page = text_of(staff.alice.post(reverse("admin:workspaces_membership_add"), data | {"email": "eve@example.com"}))
    assert "password/reset/key" not in page
    assert "Ask its administrator" in page
    User.objects.filter(pk=staff.cast.alice.pk).update(is_superuser=True)
    page = text_of(staff.alice.post(reverse("admin:workspaces_membership_add"), data | {"email": "finn@example.com"}))
    assert "password/reset/key" in page


def test_who_has_an_account_gets_no_link_that_would_open_it(staff: Staff) -> None:
    data = {"workspace": staff.cast.workspace.pk, "email": "Charlie@example.com", "role": "developer"}
    page = text_of(staff.alice.post(reverse("admin:workspaces_membership_add"), data))
    assert "password/reset/key" not in page
    membership = Membership.objects.get(workspace=staff.cast.workspace, user=staff.cast.charlie)
    again = reverse("admin:workspaces_membership_do", args=[membership.pk, "invite_again"])
    assert staff.alice.post(again).status_code == 403


def test_a_link_is_not_given_again_for_who_was_invited_elsewhere_too(staff: Staff) -> None:
    data = {"email": "eve@example.com", "role": "viewer"}
    staff.charlie.post(
        reverse("admin:workspaces_membership_add"), data | {"workspace": staff.cast.foreign_workspace.pk}
    )
    staff.alice.post(reverse("admin:workspaces_membership_add"), data | {"workspace": staff.cast.workspace.pk})
    membership = Membership.objects.get(workspace=staff.cast.workspace, user__email="eve@example.com")
    again = reverse("admin:workspaces_membership_do", args=[membership.pk, "invite_again"])
    assert staff.alice.post(again).status_code == 403


def test_inviting_a_member_again_does_not_change_the_role(staff: Staff) -> None:
    data = {"workspace": staff.cast.workspace.pk, "email": "alice@example.com", "role": "viewer"}
    assert "Is a member already" in text_of(staff.alice.post(reverse("admin:workspaces_membership_add"), data))


def test_a_role_is_changed_and_a_member_removed(staff: Staff) -> None:
    membership = Membership.objects.get(user=staff.cast.bob, workspace=staff.cast.workspace)
    staff.alice.post(reverse("admin:workspaces_membership_change", args=[membership.pk]), {"role": "developer"})
    membership.refresh_from_db()
    assert membership.role == "developer"
    staff.alice.post(reverse("admin:workspaces_membership_delete", args=[membership.pk]), {"post": "yes"})
    assert not Membership.objects.filter(pk=membership.pk).exists()
    assert audited("member.set")
    assert audited("member.removed")
    assert "Shop" not in text_of(staff.bob.get("/admin/workspaces/project/"))


# -- Workspaces and projects -----------------------------------------------------------------------------------------
def test_an_owner_makes_a_workspace_and_a_project_in_it(staff: Staff) -> None:
    staff.alice.post(reverse("admin:workspaces_workspace_add"), {"name": "Second"})
    workspace = Workspace.objects.get(name="Second")
    assert Membership.objects.get(workspace=workspace).user == staff.cast.alice
    staff.alice.post(reverse("admin:workspaces_project_add"), {"workspace": workspace.pk, "name": "App"})
    assert Project.objects.get(workspace=workspace).name == "App"
    assert audited("workspace.created")
    assert audited("project.created")


def test_a_project_s_settings_are_cleaned_and_audited(staff: Staff) -> None:
    address = reverse("admin:workspaces_project_change", args=[staff.cast.project.pk])
    data = {"name": "Shop", "colour": "#112233", "allowed_origins": "https://App.Example:443/\nhttps://b.example"}
    assert staff.alice.post(address, data).status_code == 302
    project = Project.objects.get(pk=staff.cast.project.pk)
    assert (project.colour, project.allowed_origins) == ("#112233", ["https://app.example", "https://b.example"])
    assert AuditEvent.objects.get(action="project.changed").details["changed"] == ["allowedOrigins", "colour"]
    refused = text_of(staff.alice.post(address, data | {"allowed_origins": "https://*.example"}))
    assert "is not an origin" in refused


def test_a_taken_project_name_is_told_in_the_form(staff: Staff) -> None:
    data = {"workspace": staff.cast.workspace.pk, "name": "Shop"}
    response = staff.alice.post(reverse("admin:workspaces_project_add"), data)
    assert response.status_code == 200
    assert "already" in text_of(response)
    assert Project.objects.filter(name="Shop").count() == 1


def test_an_owner_cannot_give_the_workspace_another_plan(staff: Staff) -> None:
    plan = Plan.objects.create(name="Huge")
    address = reverse("admin:workspaces_workspace_change", args=[staff.cast.workspace.pk])
    staff.alice.post(address, {"name": "Acme", "plan": plan.pk})
    assert Workspace.objects.get(pk=staff.cast.workspace.pk).plan.name != "Huge"
    staff.ruth.post(address, {"name": "Acme", "plan": plan.pk})
    assert Workspace.objects.get(pk=staff.cast.workspace.pk).plan.name == "Huge"


def test_a_token_issuer_keeps_its_secret_when_the_field_stays_empty(staff: Staff) -> None:
    address = reverse("admin:workspaces_jwtissuer_change", args=[staff.issuer.pk])
    data = {"method": "HS256", "user_claim": "email", "leeway": 30}
    assert staff.alice.post(address, data).status_code == 302
    issuer = JwtIssuer.objects.get(pk=staff.issuer.pk)
    assert issuer.unseal("secret") == SECRETS[3]
    assert issuer.user_claim == "email"
    assert "At least 32 bytes" in text_of(staff.alice.post(address, data | {"shared_secret": "short"}))


# -- Toolkits and integrations ---------------------------------------------------------------------------------------
def test_the_catalog_shows_curated_toolkits_first_and_is_searched(staff: Staff) -> None:
    names = re.findall(r'jf-card-name">([^<]+)<', text_of(staff.bob.get("/admin/connections/integration/catalog/")))
    assert names[:3] == ["Gmail", "Google Calendar", "Slack"]
    found = text_of(staff.bob.get("/admin/connections/integration/catalog/?q=issues+code&view=list"))
    assert "GitHub" in found
    assert "Gmail" not in found
    assert "No toolkit fits" in text_of(staff.bob.get("/admin/connections/integration/catalog/?q=no-such-thing"))


def test_a_toolkit_s_page_shows_its_tools_with_their_schemas(staff: Staff) -> None:
    shown = text_of(staff.bob.get(reverse("admin:connections_integration_toolkit", args=["github"])))
    assert "GITHUB_CREATE_ISSUE" in shown
    assert "&quot;additionalProperties&quot;: false" in shown
    assert "read:org" in shown
    assert staff.bob.get(reverse("admin:connections_integration_toolkit", args=["nothing"])).status_code == 404


def enabling(staff: Staff, slug: str) -> str:
    return f"{reverse('admin:connections_integration_add')}?toolkit={slug}&project={staff.cast.project.pk}"


def test_enabling_stores_client_scopes_and_addresses_and_shows_no_secret(staff: Staff) -> None:
    shown = text_of(staff.alice.get(enabling(staff, "slack")))
    assert f"/v1/{staff.cast.project.pk}/integrations/callback" in shown
    data = {
        "display_name": "Our Slack", "client_id": "111.222", "client_secret": "slack-secret-value",
        "scopes": ["chat:write"], "more_scopes": "x:read  y:read", "base_url": "https://slack.test.example/api",
    }  # fmt: skip
    response = staff.alice.post(enabling(staff, "slack"), data, follow=True)
    integration = Integration.objects.get(toolkit="slack")
    assert integration.display_name == "Our Slack"
    assert integration.scopes == ["chat:write", "x:read", "y:read"]
    assert integration.settings == {"base_url": "https://slack.test.example/api"}
    assert integration.unseal("client_secret") == "slack-secret-value"
    assert "slack-secret-value" not in text_of(response)
    assert "Set. Leave empty to keep it." in text_of(response)
    assert audited("integration.enabled")


def change(staff: Staff, **data: object) -> Integration:
    address = reverse("admin:connections_integration_change", args=[staff.integration.pk])
    assert staff.alice.post(address, {"display_name": "GitHub", "client_id": "Iv1.alice"} | data).status_code == 302
    return Integration.objects.get(pk=staff.integration.pk)


def test_an_empty_secret_keeps_the_stored_one_of_the_same_client_only(staff: Staff) -> None:
    assert change(staff, display_name="Hub").unseal("client_secret") == SECRETS[0]
    assert change(staff, client_id="another").unseal("client_secret") == ""


def test_the_toolkit_s_own_scopes_are_stored_as_none(staff: Staff) -> None:
    assert change(staff, scopes=["repo"]).scopes == ["repo"]
    assert change(staff, scopes=["repo", "read:user", "user:email", "read:org"]).scopes == []


def test_a_bad_address_is_told_at_its_field(staff: Staff) -> None:
    address = reverse("admin:connections_integration_change", args=[staff.integration.pk])
    data = {"display_name": "GitHub", "client_id": "Iv1.alice", "base_url": "ftp://files.example"}
    assert "Must be an absolute http or https URL." in text_of(staff.alice.post(address, data))


def test_the_test_button_leads_to_the_page_where_an_end_user_would_connect(staff: Staff) -> None:
    address = reverse("admin:connections_integration_do", args=[staff.integration.pk, "connect_test"])
    response = staff.dana.post(address, {"user_id": "probe"})
    assert response.status_code == 302
    link = read_link(response["Location"].rpartition("/connect/")[2])
    assert (link.project_id, link.user_id, link.toolkit) == (staff.cast.project.pk, "probe", "github")
    start = staff.dana.get(response["Location"])
    assert start.status_code == 200
    back = staff.dana.get(f"{link.redirect_url}?status=connected&connectionId={staff.connection.pk}")
    assert "Connected." in text_of(back)
    assert "o•••@acme.example" in text_of(back)
    refused = text_of(staff.dana.get(f"{link.redirect_url}?status=error&message=access_denied"))
    assert "Access was not allowed" in refused


def test_a_toolkit_is_switched_off_and_on(staff: Staff) -> None:
    for name, state in (("disable", False), ("enable", True)):
        staff.dana.post(reverse("admin:connections_integration_do", args=[staff.integration.pk, name]))
        assert Integration.objects.get(pk=staff.integration.pk).enabled is state
    assert Integration.objects.get(pk=staff.integration.pk).unseal("client_secret") == SECRETS[0]


# -- Connections -----------------------------------------------------------------------------------------------------
def test_an_account_is_shown_masked(staff: Staff) -> None:
    for address in (
        reverse("admin:connections_connection_changelist"),
        reverse("admin:connections_connection_change", args=[staff.connection.pk]),
        f"{reverse('admin:runs_execution_try')}?project={staff.cast.project.pk}&toolkit=github",
    ):
        shown = text_of(staff.alice.get(address))
        assert "o•••@acme.example" in shown
        assert "octocat@acme.example" not in shown


@pytest.fixture
def reachable(staff: Staff, upstream: Upstream, settings: Any) -> Connection:
    """A connection of which the provider is a server of the test's."""
    upstream.reset()
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.1"
    urls = dict.fromkeys(("token_url", "revocation_url"), f"{upstream.url}/echo")
    integration = enable(staff.cast.project, "github", f"{upstream.url}/echo", overrides=urls)
    Connection.objects.all().delete()
    return connect(integration, "alices-user")


def test_a_connection_is_tested_and_disconnected(staff: Staff, reachable: Connection) -> None:
    test = reverse("admin:connections_connection_do", args=[reachable.pk, "test"])
    assert "accepts the connection" in text_of(staff.dana.post(test, follow=True))
    disconnect = reverse("admin:connections_connection_do", args=[reachable.pk, "disconnect"])
    assert "disconnected" in text_of(staff.alice.post(disconnect, follow=True))
    assert not Connection.objects.filter(pk=reachable.pk).exists()
    assert audited("connection.deleted")


def test_chosen_connections_are_disconnected(staff: Staff, reachable: Connection) -> None:
    chosen = {"_selected_action": [reachable.pk], "action": "disconnect_chosen"}
    response = staff.alice.post(reverse("admin:connections_connection_changelist"), chosen, follow=True)
    assert "disconnected" in text_of(response)
    assert not Connection.objects.filter(pk=reachable.pk).exists()


def test_refreshing_tells_why_it_could_not(staff: Staff, reachable: Connection) -> None:
    refresh = reverse("admin:connections_connection_do", args=[reachable.pk, "refresh_now"])
    assert "could not be refreshed" in text_of(staff.dana.post(refresh, follow=True))
    reachable.refresh_from_db()
    assert reachable.status == "active"


# -- Trying a tool ---------------------------------------------------------------------------------------------------
def trying(staff: Staff, tool: str) -> str:
    return f"{reverse('admin:runs_execution_try')}?project={staff.cast.project.pk}&toolkit=github&tool={tool}"


def test_a_tool_is_called_with_a_user_s_connection_and_its_answer_shown(staff: Staff, reachable: Connection) -> None:
    data = {"p-repo": "acme/desk", "p-title": "Printer on fire", "p-labels": "bug\nurgent"}
    shown = text_of(staff.dana.post(trying(staff, "create_issue"), data))
    assert "status 200" in shown
    assert "Printer on fire" in shown
    assert "at-1-secret" not in shown


def test_what_the_schema_refuses_is_told_at_the_field(staff: Staff, reachable: Connection) -> None:
    shown = text_of(staff.dana.post(trying(staff, "create_issue"), {"p-title": "x"}))
    assert "This field is required." in shown
    shown = text_of(staff.dana.post(trying(staff, "list_issues"), {"p-repo": "a/b", "p-per_page": "100000"}))
    assert "errorlist" in shown or "Please correct what is marked below." in shown


def test_a_call_without_a_connected_account_says_so(staff: Staff) -> None:
    Connection.objects.all().delete()
    shown = text_of(staff.dana.post(trying(staff, "get_authenticated_user"), {}))
    assert "INTEGRATIONS_NOT_CONNECTED" in shown


# -- Logs and the overview -------------------------------------------------------------------------------------------
def test_an_execution_s_request_and_response_are_pretty(staff: Staff) -> None:
    shown = text_of(staff.bob.get(reverse("admin:runs_execution_change", args=[staff.execution.pk])))
    assert "{\n  &quot;login&quot;: &quot;octocat&quot;\n}" in shown


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("successful__exact=1", True), ("successful__exact=0", False), ("toolkit=github", True),
        ("toolkit=gmail", False), ("tool__icontains=get_user", True), ("user_id__icontains=nobody", False),
        ("created_at_from_0=2020-01-01&created_at_from_1=00:00", True),
        ("created_at_to_0=2020-01-01&created_at_to_1=00:00", False),
        ("created_at_to_0=2020-01-01", False),
        ("created_at_from_0=no-date", True), ("q=alices-user", True), ("q=nobody", False),
    ],
)  # fmt: skip
def test_executions_are_filtered_and_searched(staff: Staff, query: str, expected: bool) -> None:
    shown = text_of(staff.bob.get(f"{reverse('admin:runs_execution_changelist')}?{query}"))
    assert (staff.execution.pk in shown) is expected


@pytest.mark.parametrize("model", ["runs_execution", "workspaces_auditevent"])
def test_a_big_table_is_never_counted(staff: Staff, model: str) -> None:
    with CaptureQueriesContext(connection) as queries:
        staff.alice.get(reverse(f"admin:{model}_changelist"))
    assert not [query["sql"] for query in queries if "COUNT(" in query["sql"] and model in query["sql"]]


def test_the_overview_counts_connections_and_calls_of_the_day(staff: Staff) -> None:
    Execution.objects.create(
        project=staff.cast.project, surface="integrations", toolkit="github", tool="GITHUB_GET_USER", successful=False,
        created_at=timezone.now() - timedelta(hours=3),
    )  # fmt: skip
    Execution.objects.create(
        project=staff.cast.foreign_project, surface="integrations", toolkit="github", tool="X", successful=False
    )
    response = staff.alice.get(reverse("admin:index"))
    assert (response.context["calls"], response.context["failures"]) == (2, 1)
    assert [state["count"] for state in response.context["states"]] == [1, 0, 0]
    assert [step.done for step in response.context["steps"]] == [True, True, True, True]
    assert [step.done for step in staff.charlie.get(reverse("admin:index")).context["steps"]][:3] == [False] * 3


# -- Secrets, policy -------------------------------------------------------------------------------------------------
def test_no_page_shows_a_secret(staff: Staff) -> None:
    staff.ruth.post(
        reverse("admin:socialaccount_socialapp_add"),
        {"name": "Login", "provider_id": "sso", "server_url": "https://login.example", "client_id": "c",
         "secret": "the-secret-of-single-sign-on", "role": "viewer"},
    )  # fmt: skip
    app = SocialApp.objects.get(provider_id="sso")
    secrets = [*SECRETS, "the-secret-of-single-sign-on", staff.cast.key, staff.key.digest]
    secrets += [staff.connection.credentials, staff.integration.client_secret]
    addresses = [reverse(f"admin:{page}") for page in pages()]
    addresses += [address for row in [*staff.rows, app] for address in addresses_of(row) if "/do/" not in address]
    for address in addresses:
        shown = text_of(staff.ruth.get(address, follow=True))
        assert not [secret for secret in secrets if secret in shown], address
        assert "sealed_secret" not in shown


def test_only_the_admin_has_the_policy_that_its_theme_needs(staff: Staff, client: Client) -> None:
    policy = staff.alice.get(reverse("admin:index"))["Content-Security-Policy"]
    assert "script-src 'self' 'unsafe-eval'" in policy
    assert "style-src 'self' 'unsafe-inline'" in policy
    elsewhere = client.get(reverse("account_login"))["Content-Security-Policy"]
    assert "unsafe" not in elsewhere


def test_no_page_has_inline_script(staff: Staff) -> None:
    addresses = [reverse(f"admin:{page}") for page in pages()]
    addresses += [address for row in staff.rows for address in addresses_of(row) if address.endswith("/change/")]
    for address in addresses:
        shown = text_of(staff.ruth.get(address, follow=True))
        assert not re.findall(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)[^>]*>\s*\S", shown), address
        assert not re.findall(r"<[^>]+\son(click|change|submit|load|input)=", shown), address
        assert not re.findall(
            r'(?:src|href)="(?:https?:)?//(?!127\.0\.0\.1|testserver)[^"]+\.(?:js|css|woff2?)"', shown
        )


def test_the_history_of_a_row_is_the_audit_log(staff: Staff) -> None:
    address = reverse("admin:workspaces_project_history", args=[staff.cast.project.pk])
    assert "project.created" in text_of(staff.alice.get(address, follow=True))
