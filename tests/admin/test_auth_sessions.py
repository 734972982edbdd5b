"""The admin's pages of auth sessions."""

from __future__ import annotations

import pytest
from django.contrib.admin.utils import quote
from django.db import connection as database
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.connections.models import AuthOperation, AuthSession, Connection
from apps.workspaces.models import AuditEvent, Project
from tests.admin.conftest import SECRETS, Staff, text_of
from tests.admin.test_tenants import addresses_of
from tests.cast import connect

LIST = reverse("admin:connections_authsession_changelist")
NAME = "acme-account"


@pytest.fixture
def session(staff: Staff) -> AuthSession:
    """Alice's, of an account at GitHub, which a run has to itself."""
    Project.objects.filter(pk=staff.cast.project.pk).update(settings={"authSessions": {"toolkit": "github"}})
    row = AuthSession.objects.create(
        project=staff.cast.project, name=NAME, toolkit="github", connection=staff.connection,
        held_by=staff.run.pk, held_at=timezone.now(),
    )  # fmt: skip
    operation = AuthOperation(
        project=staff.cast.project, session=row, name=NAME, kind="update", status="failed", ended_at=timezone.now(),
        error={"message": "The service <b>refuses</b> them.", "code": "create-attempts-failed"},
    )  # fmt: skip
    operation.seal("inputs", {"values": {"password": "a-password-sent-in"}})
    operation.save()
    return row


def page(row: AuthSession) -> str:
    return reverse("admin:connections_authsession_change", args=[quote(row.pk)])


def do(row: AuthSession, name: str) -> str:
    return reverse("admin:connections_authsession_do", args=[quote(row.pk), name])


def test_a_session_is_shown_with_state_holder_connection_and_operations(staff: Staff, session: AuthSession) -> None:
    shown = text_of(staff.alice.get(page(session)))
    for text in (NAME, "RECORDER", "READY", staff.run.pk, staff.connection.pk, "Update", "Failed", "&lt;b&gt;refuses"):
        assert text in shown
    for secret in (*SECRETS, "a-password-sent-in"):
        assert secret not in shown
    assert f"/admin/runs/run/{quote(staff.run.pk)}/change/" in shown


@pytest.mark.parametrize(
    ("status", "state"), [("active", "READY"), ("inactive", "PENDING"), ("expired", "EXPIRED")], ids=str
)
def test_sessions_are_found_by_their_state(staff: Staff, session: AuthSession, status: str, state: str) -> None:
    Connection.objects.filter(pk=staff.connection.pk).update(status=status)
    for wanted in ("READY", "PENDING", "EXPIRED"):
        assert (page(session) in text_of(staff.alice.get(LIST, {"state": wanted}))) == (wanted == state)
    assert state in text_of(staff.alice.get(page(session)))


def test_a_session_that_its_service_refused_is_found_as_expired(staff: Staff, session: AuthSession) -> None:
    AuthSession.objects.update(refused_at=timezone.now())
    assert page(session) in text_of(staff.alice.get(LIST, {"state": "EXPIRED"}))
    assert page(session) not in text_of(staff.alice.get(LIST, {"state": "READY"}))
    assert "EXPIRED" in text_of(staff.alice.get(page(session)))


def test_a_session_without_a_connection_is_pending(staff: Staff, session: AuthSession) -> None:
    AuthSession.objects.update(connection=None)
    assert page(session) in text_of(staff.alice.get(LIST, {"state": "PENDING"}))
    assert page(session) not in text_of(staff.alice.get(LIST, {"state": "READY"}))
    assert "none yet" in text_of(staff.alice.get(page(session)))


def test_an_account_is_checked_by_hand(staff: Staff, session: AuthSession) -> None:
    shown = text_of(staff.alice.post(do(session, "validate"), follow=True))
    assert "The account is being checked" in shown
    operation = AuthOperation.objects.get(kind="validate")
    assert (operation.session, operation.status, operation.started_by) == (session, "pending", "user:alice@example.com")
    assert "Validate" in shown


def test_where_auth_sessions_are_off_nothing_is_checked(staff: Staff, session: AuthSession) -> None:
    Project.objects.filter(pk=staff.cast.project.pk).update(settings={})
    assert do(session, "validate") not in text_of(staff.alice.get(page(session)))
    shown = text_of(staff.alice.post(do(session, "validate"), follow=True))
    assert "being checked" not in shown
    assert not AuthOperation.objects.filter(kind="validate").exists()


def test_a_stuck_hold_is_let_go_and_audited(staff: Staff, session: AuthSession) -> None:
    assert do(session, "let_go") in text_of(staff.alice.get(page(session)))
    assert "free again" in text_of(staff.alice.post(do(session, "let_go"), follow=True))
    session.refresh_from_db()
    assert (session.held_by, session.held_at) == ("", None)
    event = AuditEvent.objects.get(action="auth_session.released")
    assert (event.actor, event.target, event.details) == ("user:alice@example.com", NAME, {"run": staff.run.pk})
    assert do(session, "let_go") not in text_of(staff.alice.get(page(session)))


def test_a_hold_that_passed_on_meanwhile_is_not_let_go(
    staff: Staff, session: AuthSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apps.connections import auth_sessions

    release = auth_sessions.release

    def after_another(*given: str) -> None:
        AuthSession.objects.update(held_by="another-run")
        release(*given)

    monkeypatch.setattr(auth_sessions, "release", after_another)
    staff.alice.post(do(session, "let_go"))
    session.refresh_from_db()
    assert session.held_by == "another-run"


def test_a_viewer_only_reads_and_a_developer_checks(staff: Staff, session: AuthSession) -> None:
    shown = text_of(staff.bob.get(page(session)))
    for name in ("validate", "let_go"):
        assert do(session, name) not in shown
        assert staff.bob.post(do(session, name)).status_code == 403
        assert staff.bob.get(do(session, name)).status_code == 405
    assert staff.dana.post(do(session, "let_go")).status_code == 403
    assert staff.dana.post(do(session, "validate")).status_code == 302
    session.refresh_from_db()
    assert session.held_by == staff.run.pk


def test_a_stranger_sees_and_does_nothing(staff: Staff, session: AuthSession) -> None:
    for address in addresses_of(session):
        assert staff.charlie.post(address, {"post": "yes"}).status_code in {403, 404}, address
        if "/do/" not in address:
            assert staff.charlie.get(address).status_code in {403, 404}, address
    assert NAME not in text_of(staff.charlie.get(LIST))
    session.refresh_from_db()
    assert session.held_by == staff.run.pk
    assert not AuthOperation.objects.filter(kind="validate").exists()


def test_the_list_costs_the_same_however_long_it_is(staff: Staff, session: AuthSession) -> None:
    def count() -> int:
        with CaptureQueriesContext(database) as captured:
            assert staff.alice.get(LIST).status_code == 200
        return len(captured)

    before = count()
    for number in range(5):
        account = connect(staff.integration, f"user-{number}")
        AuthSession.objects.create(project=staff.cast.project, name=f"s{number}", toolkit="github", connection=account)
    assert count() == before
