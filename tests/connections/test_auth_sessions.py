"""Auth sessions: what they are, how their operations end, what a lost worker, a deletion and a second one in a hurry leave."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.utils import quote
from django.db import connection as database
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.connections import auth_operations, auth_sessions, links, services
from apps.connections.models import AuthOperation, AuthSession, Connection
from apps.lib import broker, errors, http
from apps.lib.errors import Conflict, InvalidInput
from apps.modules import apply
from apps.toolkits.services import put
from apps.workspaces.models import AuditEvent, EndUser, Plan, Project
from apps.workspaces.services import change_settings
from tests.cast import connect, enable
from tests.connections.vaults import ACTOR, BAD, GOOD, KEY, OPTIONS, OTHER, Vault, carried, told

pytestmark = pytest.mark.django_db
OAUTH = {
    "type": "oauth2",
    "authorization_url": "https://vault.example/authorize",
    "token_url": "https://vault.example/token",
    "scopes": ["read"],
}


# -- The setting -----------------------------------------------------------------------------------------------------
def test_auth_sessions_are_switched_on_for_a_toolkit_that_is_enabled(vault: Vault) -> None:
    assert vault.api.get("settings").json()["authSessions"] == {"toolkit": "vault"}
    wrongs: list[Any] = [
        {"toolkit": "github"},
        {"toolkit": "no-such"},
        {"toolkit": "a\x00b"},
        {"toolkit": 1},
        {},
        [],
        "vault",
    ]
    for wrong in wrongs:
        answer = vault.api.patch("settings", {"authSessions": wrong})
        assert answer.status_code == 400, wrong
        assert next(iter(answer.json()["error"]["details"])).startswith("authSessions"), wrong
    assert vault.api.get("settings").json()["authSessions"] == {"toolkit": "vault"}
    assert vault.api.patch("settings", {"authSessions": None}).status_code == 200
    assert vault.api.get("settings").json()["authSessions"] is None
    event = AuditEvent.objects.filter(action="project.auth_sessions").latest("created_at")
    assert event.details == {"toolkit": None}


def test_without_the_setting_there_are_none(vault: Vault) -> None:
    vault.ready()
    vault.switch(None)
    assert auth_sessions.sessions(vault.cast.project) == []
    with pytest.raises(errors.AuthSessionNotFound):
        vault.session()
    with pytest.raises(errors.BadRequest, match="not switched on"):
        vault.create("u2")


def test_who_changes_another_setting_leaves_them_as_they_were_set_meanwhile(vault: Vault) -> None:
    vault.switch(None)
    early = Project.objects.get(pk=vault.cast.project.pk)
    vault.switch("vault")
    change_settings(early, {"colour": "#123456", "retention": 30}, ACTOR)
    assert auth_sessions.toolkit_of(Project.objects.get(pk=early.pk)) == "vault"


def test_each_toolkit_has_sessions_of_its_own(vault: Vault) -> None:
    vault.put()
    first = vault.ready().connection
    put_toolkit(vault, "other")
    vault.switch("other")
    assert auth_sessions.sessions(vault.cast.project) == []
    second = vault.ready().connection
    assert first is not None
    assert second is not None
    assert (first.toolkit, second.toolkit) == ("vault", "other")
    auth_sessions.delete(vault.cast.project, vault.session(), ACTOR)
    vault.switch("vault")
    assert vault.account().pk == first.pk


def test_an_operation_works_on_its_own_session_whatever_is_switched_on_meanwhile(vault: Vault) -> None:
    vault.ready()
    put_toolkit(vault, "other")
    vault.switch("other")
    vault.ready()
    vault.switch("vault")
    update = vault.update(key=GOOD)
    before = vault.account().version
    vault.switch("other")
    other = vault.account()
    assert carried(update).status == "done"
    assert vault.account().version == other.version
    vault.switch("vault")
    assert vault.account().version > before


def put_toolkit(vault: Vault, slug: str) -> None:
    tool = {"slug": "see", "name": "See", "description": "Sees.", "method": "GET", "path": "/echo/see"}
    document = {"name": "Other", "base_url": vault.upstream.url, "auth": [KEY], "tools": [tool],
                "test": {"path": f"/bearer/{GOOD}"}}  # fmt: skip
    put(vault.cast.project, slug, document, ACTOR)
    assert vault.api.post("integrations/configure", {"toolkit": slug}).status_code == 200


# -- What they are ---------------------------------------------------------------------------------------------------
def test_a_session_is_created_from_fields_that_the_service_accepts(vault: Vault) -> None:
    operation = vault.create()
    assert (vault.session().status, vault.session().type) == ("PENDING", "CREDENTIALS")
    assert carried(operation).status == "done"
    session = vault.session()
    assert (session.status, session.type, session.name) == ("READY", "CREDENTIALS", "u1")
    assert session.connection is not None
    assert session.connection.unseal("credentials") == {"api_key": GOOD}
    assert (session.user_id, session.connection.status) == ("u1", "active")
    assert vault.upstream.count(f"/bearer/{GOOD}") == 2  # created, and checked


def test_every_connection_of_the_toolkit_is_a_session_by_its_own_id(vault: Vault) -> None:
    vault.ready("named")
    integration = vault.cast.project.integrations.get(toolkit="vault")
    own = connect(integration, "u7")
    shared = Connection(project=vault.cast.project, integration=integration, toolkit="vault", auth_type="api_key")
    shared.seal("credentials", {"api_key": GOOD})
    shared.save()
    connect(enable(vault.cast.project, "github"), "u7")
    found = {session.name: (session.type, session.status, session.user_id) for session in
             auth_sessions.sessions(vault.cast.project)}  # fmt: skip
    assert found == {
        "named": ("CREDENTIALS", "READY", "named"),
        own.pk: ("RECORDER", "READY", "u7"),
        shared.pk: ("CREDENTIALS", "READY", None),
    }
    mine = [session.name for session in auth_sessions.sessions(vault.cast.project, "u7")]
    assert mine == [own.pk]
    by_id = vault.session("named").connection
    assert by_id is not None
    assert vault.session(by_id.pk).name == "named"


@pytest.mark.parametrize(
    ("status", "shown"), [("active", "READY"), ("inactive", "PENDING"), ("expired", "EXPIRED")], ids=str
)
def test_the_status_is_the_connections(vault: Vault, status: str, shown: str) -> None:
    vault.ready()
    Connection.objects.update(status=status)
    assert vault.session().status == shown
    assert [session.status for session in auth_sessions.sessions(vault.cast.project)] == [shown]


def test_an_end_users_caller_finds_only_that_ones(vault: Vault) -> None:
    vault.ready("u1")
    assert auth_sessions.find(vault.cast.project, "u1", "u1").name == "u1"
    with pytest.raises(errors.AuthSessionNotFound):
        auth_sessions.find(vault.cast.project, "u1", "u2")


def test_a_listing_asks_two_questions_however_many_there_are(vault: Vault, django_assert_num_queries: Any) -> None:
    integration = vault.cast.project.integrations.get(toolkit="vault")
    for number in range(4):
        connect(integration, f"v{number}")
        AuthSession.objects.create(project=vault.cast.project, name=f"s{number}", toolkit="vault")
    with django_assert_num_queries(2):
        found = [(one.name, one.type, one.status, one.user_id) for one in auth_sessions.sessions(vault.cast.project)]
    assert len(found) == 8


# -- Ids and fields --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["", "a/b", "create", ".", "..", "ca_abc", "a\x00b", "a\nb", "\ud800", "x" * 256],
    ids=["empty", "slash", "create", "dot", "dots", "a connection's", "NUL", "line", "surrogate", "long"],
)  # fmt: skip
def test_an_id_that_no_path_could_name_is_refused(vault: Vault, name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        vault.create(name)
    assert list(refused.value.details) == ["id"]
    assert not AuthSession.objects.exists()


def test_without_an_id_a_session_gets_one(vault: Vault) -> None:
    operation = carried(vault.create(None))
    assert (operation.status, len(operation.name)) == ("done", 21)
    assert vault.session(operation.name).status == "READY"


def test_an_id_that_is_taken_is_refused_and_free_again_after_a_failure(vault: Vault) -> None:
    first = vault.create("u1", BAD)
    with pytest.raises(Conflict):
        vault.create("u1")
    carried(first)
    assert not AuthSession.objects.exists()
    vault.ready("u1")
    with pytest.raises(Conflict):
        vault.create("u1")
    integration = vault.cast.project.integrations.get(toolkit="vault")
    connect(integration, "u2")
    with pytest.raises(Conflict):  # it would put other credentials into that person's account
        vault.create("u2")


@pytest.mark.parametrize(
    ("given", "field"),
    [({}, "api_key"), ({"api_key": ""}, "api_key"), ({"api_key": 7}, "api_key"), ({"api_key": "a\nb"}, "api_key"),
     ({"api_key": "a\x00"}, "api_key"), ({"api_key": GOOD, "more": "x"}, "more"), ({"api_key": "x" * 9000}, "api_key")],
    ids=["missing", "empty", "a number", "two lines", "NUL", "unknown", "long"],
)  # fmt: skip
def test_fields_that_do_not_fit_are_refused_at_once(vault: Vault, given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        auth_operations.start_create(vault.cast.project, "u1", given, OPTIONS, None, ACTOR)
    assert list(refused.value.details) == [f"parameters.{field}"]
    assert not AuthOperation.objects.exists()
    assert vault.upstream.requests() == []


def test_of_very_many_faults_some_are_told(vault: Vault) -> None:
    given = {f"field{number}": "x" for number in range(50_000)}
    with pytest.raises(InvalidInput) as refused:
        auth_operations.start_create(vault.cast.project, "u1", given, OPTIONS, None, ACTOR)
    assert len(refused.value.details) <= 101


def test_variables_of_the_person_are_fields_too(vault: Vault) -> None:
    vault.put(variables={"team": {"source": "user", "title": "Team", "pattern": "[a-z]+"}}, test="/echo/{team}")
    with pytest.raises(InvalidInput) as refused:
        auth_operations.start_create(vault.cast.project, "u1", {"api_key": GOOD, "team": "A B"}, OPTIONS, None, ACTOR)
    assert list(refused.value.details) == ["parameters.team"]
    given = {"api_key": GOOD, "team": "blue"}
    assert carried(auth_operations.start_create(vault.cast.project, "u1", given, OPTIONS, None, ACTOR)).status == "done"
    found = vault.session().connection
    assert found is not None
    assert found.variables == {"team": "blue"}
    assert vault.upstream.count("/echo/blue") == 2


def test_the_plans_limit_of_connections_holds(vault: Vault) -> None:
    plan = vault.cast.workspace.plan
    Plan.objects.filter(pk=plan.pk).update(connections=1)
    project = Project.objects.select_related("workspace__plan").get(pk=vault.cast.project.pk)
    first, second = vault.create("u1"), vault.create("u2")
    assert carried(first).status == "done"
    assert told(carried(second)) == ("billing", "create-attempts-failed", False)
    vault.cast.project.workspace = project.workspace
    with pytest.raises(errors.PlanLimitReached):
        vault.create("u3")


# -- How operations end ----------------------------------------------------------------------------------------------
def test_credentials_that_the_service_refuses_are_asked_for_once(vault: Vault) -> None:
    operation = carried(vault.create("u1", BAD))
    assert told(operation) == ("auth", "create-attempts-failed", False)
    assert "401" in auth_operations.error_of(operation)["message"]
    assert vault.upstream.count(f"/bearer/{GOOD}") == 1
    assert not Connection.objects.exists()
    assert not EndUser.objects.exists()


def test_a_fault_that_may_pass_is_tried_again_as_often_as_asked(vault: Vault) -> None:
    vault.put(test="/500")
    assert told(carried(vault.create("u1", createAttempts=2))) == ("auth", "create-attempts-failed", True)
    once = vault.upstream.count("/500")
    vault.upstream.reset()
    carried(vault.create("u1", createAttempts=4))
    assert vault.upstream.count("/500") == 2 * once


def test_a_check_after_creating_that_fails_is_called_so(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    real = auth_sessions.granted

    def granted(*given: Any) -> Any:
        grant = real(*given)
        vault.put(test="/500")
        given[0].project = Project.objects.get(pk=vault.cast.project.pk)  # as it is by now
        return grant

    monkeypatch.setattr(auth_operations, "granted", granted)
    assert told(carried(vault.create("u1"))) == ("auth", "post-create-check-attempts-failed", True)
    assert not Connection.objects.exists()
    assert not AuthSession.objects.exists()


def test_new_credentials_take_the_place_of_the_old_once_they_are_accepted(vault: Vault) -> None:
    before = vault.ready().connection
    assert before is not None
    operation = carried(vault.update(key=BAD))
    assert told(operation) == ("auth", "create-attempts-failed", False)
    kept = vault.session().connection
    assert kept is not None
    assert (kept.unseal("credentials"), kept.status) == ({"api_key": GOOD}, "active")
    vault.put(test=f"/bearer/{OTHER}")
    assert carried(vault.update()).status == "done"
    after = vault.session().connection
    assert after is not None
    assert (after.pk, after.unseal("credentials")) == (before.pk, {"api_key": OTHER})


def test_of_two_updates_at_once_the_second_is_refused(vault: Vault) -> None:
    vault.ready()
    vault.update()
    with pytest.raises(Conflict):
        vault.update()


def test_a_session_that_works_is_validated(vault: Vault) -> None:
    vault.ready()
    assert carried(vault.validate()).status == "done"


def test_why_a_session_is_not_valid_is_told_apart(vault: Vault) -> None:
    vault.ready()
    vault.put(test=f"/bearer/{OTHER}")
    assert told(carried(vault.validate(autoRecreate=False))) == ("auth", "auth-check-failed", False)
    assert told(carried(vault.validate(autoRecreate=True))) == ("auth", "create-attempts-failed", False)
    vault.put(test="/500")
    assert told(carried(vault.validate())) == ("auth", "check-attempts-failed", True)
    vault.put(test="")
    assert carried(vault.validate()).status == "done"


def test_a_session_waits_for_confirmation_until_it_is_given(vault: Vault) -> None:
    vault.ready()
    Connection.objects.update(status=Connection.Status.INACTIVE)
    operation = carried(vault.validate())
    assert told(operation) == ("auth", "auth-check-failed", False)
    assert "confirmation" in auth_operations.error_of(operation)["message"]


def test_an_access_token_that_the_service_refuses_is_refreshed_by_force(vault: Vault) -> None:
    vault.put({**OAUTH, "token_url": vault.upstream.url + "/token/ok"}, test="/bearer/access-1")
    integration = enable(vault.cast.project, "vault", vault.upstream.url)
    own = connect(integration, "u1")
    assert told(carried(vault.validate(own.pk, autoRecreate=False))) == ("auth", "auth-check-failed", False)
    assert vault.upstream.count("/token/ok") == 0
    assert carried(vault.validate(own.pk)).status == "done"
    own.refresh_from_db()
    assert (own.unseal("credentials")["access_token"], own.version) == ("access-1", 2)


def test_what_only_its_person_can_mend_fails_with_the_link(vault: Vault) -> None:
    vault.put(OAUTH)
    integration = enable(vault.cast.project, "vault", vault.upstream.url)
    own = connect(integration, "u1")
    Connection.objects.filter(pk=own.pk).update(status=Connection.Status.EXPIRED)
    operation = carried(vault.validate(own.pk))
    assert told(operation) == ("auth", "create-attempts-failed", False)
    assert "/connect/" in auth_operations.error_of(operation)["details"]["actionUrl"]


def test_client_credentials_that_have_ended_are_granted_anew_from_the_stored_fields(vault: Vault) -> None:
    scheme = {"type": "client_credentials", "token_url": vault.upstream.url + "/token/ok"}
    vault.put(scheme, test="/bearer/access-3")
    given = {"client_id": "robot", "client_secret": "robot-secret"}
    vault.put(scheme, test="/bearer/access-1")
    assert carried(auth_operations.start_create(vault.cast.project, "u1", given, OPTIONS, None, ACTOR)).status == "done"
    Connection.objects.update(status=Connection.Status.EXPIRED)
    vault.put(scheme, test="/bearer/access-2")
    assert carried(vault.validate()).status == "done"
    session = vault.session()
    assert session.connection is not None
    assert session.status == "READY"
    assert session.connection.unseal("credentials")["access_token"] == "access-2"


# -- By a person -----------------------------------------------------------------------------------------------------
def test_a_session_by_oauth_fails_with_the_link_and_is_there_once_the_person_has_connected(vault: Vault) -> None:
    vault.put(OAUTH)
    enable(vault.cast.project, "vault", vault.upstream.url)
    start = auth_operations.start_create
    operation = carried(start(vault.cast.project, "u1", {}, OPTIONS, None, ACTOR))
    assert told(operation) == ("auth", "create-attempts-failed", False)
    error = auth_operations.error_of(operation)
    assert error["details"]["connectUrl"] in error["message"]
    assert "/connect/" in error["message"]
    assert "/connect/" not in json.dumps(AuthOperation.objects.values_list("error", flat=True)[0])
    assert (vault.session().type, vault.session().status) == ("RECORDER", "PENDING")
    assert carried(start(vault.cast.project, "u1", {}, OPTIONS, None, ACTOR)).status == "failed"  # a fresh link
    own = connect(vault.cast.project.integrations.get(toolkit="vault"), "u1")
    listed = [(one.name, one.status) for one in auth_sessions.sessions(vault.cast.project)]
    assert listed == [("u1", "READY")]
    found = vault.session()
    assert found.connection is not None
    assert (found.connection.pk, found.status) == (own.pk, "READY")
    assert AuthSession.objects.get().connection_id == own.pk


@pytest.mark.parametrize("first", ["name", "connection", "run"])
def test_an_account_that_a_session_waits_for_is_that_ones_by_whatever_it_is_found_first(
    vault: Vault, first: str
) -> None:
    vault.put(OAUTH)
    enable(vault.cast.project, "vault", vault.upstream.url)
    carried(auth_operations.start_create(vault.cast.project, "u1", {}, OPTIONS, None, ACTOR))
    own = connect(vault.cast.project.integrations.get(toolkit="vault"), "u1")
    if first == "run":
        assert [session.name for session in auth_sessions.of_user(vault.cast.project, "u1")] == ["u1"]
    else:
        assert vault.session("u1" if first == "name" else own.pk).name == "u1"
    assert AuthSession.objects.get().connection_id == own.pk
    assert [session.name for session in auth_sessions.sessions(vault.cast.project)] == ["u1"]


def test_the_link_of_a_session_that_was_connected_elsewhere_is_its_owners(vault: Vault) -> None:
    vault.put(OAUTH)
    enable(vault.cast.project, "vault", vault.upstream.url)
    own = connect(vault.cast.project.integrations.get(toolkit="vault"), "u7")
    operation = carried(vault.update(own.pk))
    assert link_of(operation).user_id == "u7"
    vault.switch(None)
    assert link_of(operation).toolkit == "vault"
    auth_sessions.cancel_operations(AuthSession.objects.get())
    gone = AuthOperation.objects.get(pk=operation.pk)
    assert "details" not in auth_operations.error_of(gone)


def link_of(operation: AuthOperation) -> links.Link:
    fresh = auth_operations.find_operation(operation.project, operation.kind, operation.pk)
    return links.read_link(auth_operations.error_of(fresh)["details"]["connectUrl"].rsplit("/", 1)[1])


def test_a_toolkit_without_a_client_is_no_way_to_connect(vault: Vault) -> None:
    vault.put(OAUTH)
    with pytest.raises(errors.NotConfigured):
        auth_operations.start_create(vault.cast.project, "u1", {}, OPTIONS, None, ACTOR)
    assert not AuthSession.objects.exists()


def test_a_toolkit_of_both_ways_takes_the_fields_that_it_is_given(vault: Vault) -> None:
    vault.put(OAUTH, KEY)
    enable(vault.cast.project, "vault", vault.upstream.url)
    assert vault.ready().type == "CREDENTIALS"


# -- Workers that die, and those in a hurry --------------------------------------------------------------------------
def test_an_operation_of_a_worker_that_died_is_taken_up_when_its_lease_has_run_out(vault: Vault) -> None:
    operation = vault.create()
    soon = timezone.now() + timedelta(seconds=30)
    AuthOperation.objects.update(
        status="in_progress", lease_until=soon, created_at=timezone.now() - timedelta(minutes=1)
    )
    assert carried(operation).status == "in_progress"
    assert auth_operations.sweep() == 0
    AuthOperation.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert auth_operations.sweep() == 1
    assert carried(operation).status == "done"
    assert auth_operations.sweep() == 0


def test_an_operation_that_workers_die_of_is_given_up(vault: Vault) -> None:
    operation = vault.create()
    AuthOperation.objects.update(options={**OPTIONS, "claims": auth_operations.MOST_CLAIMS})
    assert told(carried(operation)) == ("infrastructure", "internal-server-error", True)
    assert vault.upstream.requests() == []
    assert not AuthSession.objects.exists()


def test_a_late_worker_stores_nothing_over_the_one_that_took_over(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = vault.create()
    real = auth_sessions.granted

    def slow(*given: Any) -> Any:
        grant = real(*given)
        AuthOperation.objects.update(lease_until=timezone.now() + timedelta(seconds=50))  # somebody else's by now
        return grant

    monkeypatch.setattr(auth_operations, "granted", slow)
    assert carried(operation).status == "in_progress"
    assert not Connection.objects.exists()


def test_deleting_a_session_cancels_what_is_under_way(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = vault.create()
    real = auth_sessions.granted

    def meanwhile(*given: Any) -> Any:
        auth_sessions.delete(vault.cast.project, vault.session(), ACTOR)
        return real(*given)

    monkeypatch.setattr(auth_operations, "granted", meanwhile)
    assert carried(operation).status == "canceled"
    assert not Connection.objects.exists()
    assert not AuthSession.objects.exists()
    assert AuthOperation.objects.get().inputs == ""


def test_deleting_a_session_disconnects_its_account(vault: Vault) -> None:
    session = vault.ready()
    auth_sessions.delete(vault.cast.project, session, ACTOR)
    assert not Connection.objects.exists()
    assert not AuthSession.objects.exists()
    assert AuditEvent.objects.filter(action="auth_session.deleted", target="u1").exists()
    with pytest.raises(errors.AuthSessionNotFound):
        vault.session()


def test_a_person_who_is_deleted_leaves_no_session_and_no_operation(vault: Vault) -> None:
    vault.ready()
    update = vault.update()
    assert services.purge_end_user(vault.cast.project, "u1", ACTOR)
    assert not AuthSession.objects.exists()
    assert not AuthOperation.objects.filter(pk=update.pk).exists()
    auth_operations.carry(update.pk)
    assert not Connection.objects.exists()


def test_an_account_that_is_disconnected_elsewhere_takes_its_session_along(vault: Vault) -> None:
    session = vault.ready()
    assert session.connection is not None
    services.disconnect(session.connection, ACTOR)
    assert auth_sessions.sessions(vault.cast.project) == []


def test_the_service_is_asked_outside_of_transactions(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    depth, real = len(database.savepoint_ids), http.send
    seen: list[int] = []

    def send(outgoing: Any) -> Any:
        seen.append(len(database.savepoint_ids))
        return real(outgoing)

    monkeypatch.setattr(http, "send", send)
    vault.ready()
    carried(vault.update())
    carried(vault.validate())
    assert len(seen) >= 4
    assert set(seen) == {depth}


def test_the_row_is_committed_before_it_is_hinted_at(
    vault: Vault, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    handed: list[Any] = []

    def hand(task: str, ids: list[str], **more: Any) -> bool:
        handed.append((task, list(ids)))
        return True

    monkeypatch.setattr(broker, "hand", hand)
    with django_capture_on_commit_callbacks(execute=True), transaction.atomic():
        operation = vault.create()
        assert handed == []
    assert handed == [("connections.carry_auth", [operation.pk])]


def test_operations_are_forgotten_after_a_week(vault: Vault) -> None:
    vault.ready()
    vault.update()  # still open
    AuthOperation.objects.update(created_at=timezone.now() - timedelta(days=8))
    assert auth_operations.forget_old() == 1
    assert AuthOperation.objects.get().kind == "update"


# -- One run at a time -----------------------------------------------------------------------------------------------
def test_of_two_holders_one_has_a_session_until_it_lets_go(vault: Vault) -> None:
    session = vault.ready()
    assert session.connection is not None
    project, now = vault.cast.project, timezone.now()

    def hold(holder: str, name: str = "u1") -> None:
        assert session.connection is not None
        auth_sessions.hold(project, "vault", name, session.connection.pk, holder, now)

    hold("run-1")
    hold("run-1")
    with pytest.raises(errors.AuthSessionInUse):
        hold("run-2")
    auth_sessions.release(project.pk, "u1", "run-2")
    with pytest.raises(errors.AuthSessionInUse):
        hold("run-2")
    with pytest.raises(errors.AuthSessionInUse):
        auth_sessions.delete(project, vault.session(), ACTOR)
    auth_sessions.release(project.pk, "u1", "run-1")
    hold("run-2")


def test_new_credentials_wait_until_a_run_lets_go_of_an_exclusive_session(vault: Vault) -> None:
    account = vault.ready().connection
    assert account is not None
    auth_sessions.hold(vault.cast.project, "vault", "u1", account.pk, "run-1", timezone.now())
    with pytest.raises(errors.AuthSessionInUse):
        vault.update()
    auth_sessions.release(vault.cast.project.pk, "u1", "run-1")
    assert carried(vault.update(key=GOOD)).status == "done"


def test_no_run_takes_a_session_that_is_being_deleted(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    account = vault.ready().connection
    assert account is not None
    told = []

    def meanwhile(*given: Any) -> bool:
        with pytest.raises(errors.AuthSessionInUse):
            auth_sessions.hold(vault.cast.project, "vault", "u1", account.pk, "run-1", timezone.now())
        told.append(given)
        return services.disconnect(*given)

    monkeypatch.setattr(auth_sessions, "disconnect", meanwhile)
    auth_sessions.delete(vault.cast.project, vault.session(), ACTOR)
    assert len(told) == 1


def test_what_is_disconnected_meanwhile_is_held_by_nobody(vault: Vault) -> None:
    own = connect(vault.cast.project.integrations.get(toolkit="vault"), "u7")
    services.disconnect(own, ACTOR)
    with pytest.raises(errors.AuthSessionNotFound):
        auth_sessions.hold(vault.cast.project, "vault", own.pk, own.pk, "run-1", timezone.now())


def test_a_connection_that_was_made_elsewhere_is_held_by_its_own_id(vault: Vault) -> None:
    own = connect(vault.cast.project.integrations.get(toolkit="vault"), "u7")
    auth_sessions.hold(vault.cast.project, "vault", own.pk, own.pk, "run-1", timezone.now())
    with pytest.raises(errors.AuthSessionInUse):
        auth_sessions.hold(vault.cast.project, "vault", own.pk, own.pk, "run-2", timezone.now())
    assert [session.name for session in auth_sessions.sessions(vault.cast.project)] == [own.pk]


# -- Secrets ---------------------------------------------------------------------------------------------------------
def test_nothing_secret_is_kept_told_or_logged(vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    operation = vault.create("u1", BAD, proxy=None)
    assert BAD not in operation.inputs
    failed = carried(operation)
    assert failed.inputs == ""
    vault.ready()
    rows: list[Any] = [*AuthOperation.objects.values(), *AuthSession.objects.values(), *AuditEvent.objects.values()]
    rows += [auth_operations.error_of(failed)]
    for secret in (GOOD, BAD):
        assert secret not in caplog.text.replace(f"/bearer/{GOOD}", "")
        assert secret not in str(rows)


# -- Set elsewhere ---------------------------------------------------------------------------------------------------
def test_a_project_file_sets_them_for_a_toolkit_that_it_switches_on(vault: Vault, tmp_path: Path) -> None:
    vault.switch(None)
    cast, file = vault.cast, tmp_path / "project.yaml"
    head = {"workspace": str(cast.workspace.pk), "project": cast.project.name}
    github = [{"toolkit": "github"}]
    file.write_text(json.dumps({**head, "settings": {"auth_sessions": {"toolkit": "github"}}}))
    with pytest.raises(apply.Faults, match=r"authSessions\.toolkit"):
        apply.apply(apply.load(file))
    file.write_text(json.dumps({**head, "settings": {"auth_sessions": {"toolkit": "github"}}, "integrations": github}))
    assert "~ settings: authSessions none -> github" in apply.apply(apply.load(file)).changes
    assert vault.api.get("settings").json()["authSessions"] == {"toolkit": "github"}
    assert apply.apply(apply.load(file)).changes == []
    file.write_text(json.dumps({**head, "settings": {"auth_sessions": None}}))
    assert apply.apply(apply.load(file)).changes == ["~ settings: authSessions github -> none"]


def test_an_admin_sets_them_on_the_projects_page(vault: Vault) -> None:
    client, project = Client(), vault.cast.project
    client.force_login(vault.cast.alice)
    url = reverse("admin:workspaces_project_change", args=[quote(project.pk)])
    shown = client.get(url).content.decode()
    assert 'name="authSessions"' in shown
    assert '<option value="vault" selected' in shown
    given = {"name": project.name, "logo_url": "", "colour": "#112233", "allowed_origins": "", "authSessions": ""}
    assert client.post(url, given).status_code == 302
    fresh = Project.objects.get(pk=project.pk)
    assert (auth_sessions.toolkit_of(fresh), fresh.colour) == (None, "#112233")
    assert client.post(url, {**given, "authSessions": "vault"}).status_code == 302
    assert auth_sessions.toolkit_of(Project.objects.get(pk=project.pk)) == "vault"
    refused = client.post(url, {**given, "authSessions": "github"})
    assert refused.status_code == 200
    assert auth_sessions.toolkit_of(Project.objects.get(pk=project.pk)) == "vault"


def test_who_may_only_look_sees_what_is_set(vault: Vault) -> None:
    client = Client()
    client.force_login(vault.cast.bob)
    answer = client.get(reverse("admin:workspaces_project_change", args=[quote(vault.cast.project.pk)]))
    assert answer.status_code == 200
    assert 'name="authSessions"' not in answer.content.decode()
    assert "vault" in answer.content.decode().lower()


def test_a_session_that_its_service_refuses_has_expired_until_it_is_taken_again(vault: Vault) -> None:
    vault.ready()
    vault.put(test=f"/bearer/{OTHER}")
    assert carried(vault.validate()).status == "failed"
    assert vault.session().status == "EXPIRED"
    vault.put()
    assert carried(vault.validate()).status == "done"
    assert vault.session().status == "READY"


def test_new_credentials_make_a_refused_session_ready(vault: Vault) -> None:
    vault.ready()
    vault.put(test=f"/bearer/{OTHER}")
    assert carried(vault.validate()).status == "failed"
    assert carried(vault.update()).status == "done"
    assert vault.session().status == "READY"


def test_a_service_that_cannot_be_asked_leaves_a_session_ready(vault: Vault) -> None:
    vault.ready()
    vault.put(test="/500")
    assert carried(vault.validate()).status == "failed"
    assert vault.session().status == "READY"
