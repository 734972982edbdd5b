"""Runs with an auth session: checked before the first attempt, renewed, refused; whose account their tools use; exclusive use."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.utils import timezone

from apps.connections.models import AuthSession, Connection
from apps.lib import errors, http
from apps.lib.errors import BadRequest, InvalidInput
from apps.runs import carrier, run_auth, starting
from apps.runs.journal import journal
from apps.runs.models import Execution, Run, RunEvent
from apps.runs.starting import Options
from apps.runs.trace import trace_of
from tests.cast import connect, enable
from tests.connections.vaults import BAD, GOOD, OTHER, Vault
from tests.runs.lab import ACTOR, carry, fresh, publish, start

pytestmark = pytest.mark.django_db
LOOK = [{"id": "look", "tool": "VAULT_LOOK"}]
HEADERS = "{{ steps.look.output.headers.authorization }}"
CHECK = f"/bearer/{GOOD}"


def begin(vault: Vault, session: dict[str, Any] | None, user: str | None = None, **more: Any) -> Run:
    """A run of a module that looks, started as the Runs API does."""
    module = publish(
        vault.cast.project, more.pop("steps", LOOK), more.pop("name", "look"), result=more.pop("result", HEADERS)
    )
    user, fields = run_auth.options_for(vault.cast.project, user, session)
    return start(module, user_id=user, options=Options(**fields, **more))


def options_of(run: Run) -> dict[str, Any]:
    assert run.auth_options is not None
    return dict(run.auth_options)


def failed(run: Run) -> tuple[str, str, bool]:
    assert run.status == "fatal_errored", (run.status, run.result)
    assert run.error is not None
    return run.error["category"], run.error["code"], run.error["retirable"]


# -- Which one -------------------------------------------------------------------------------------------------------
def test_the_tools_of_a_run_act_with_exactly_its_session(vault: Vault) -> None:
    vault.ready("u1")
    connect(vault.cast.project.integrations.get(toolkit="vault"), "u2")
    run = carry(begin(vault, {"id": "u1"}, "u2"))
    assert (run.status, run.result, run.user_id) == ("completed", f"Bearer {GOOD}", "u2")
    assert (run.auth_session, options_of(run)["connection"]) == ("u1", vault.account().pk)


def test_its_owner_is_the_end_user_of_a_run_that_names_none(vault: Vault) -> None:
    vault.ready("u1")
    assert begin(vault, {"id": "u1"}).user_id == "u1"


def test_a_step_that_names_a_connection_uses_that_one(vault: Vault) -> None:
    vault.ready("u1")
    vault.ready("u2")
    other = vault.account("u2")
    steps = [{"id": "look", "tool": "VAULT_LOOK", "connection": other.pk}]
    run = carry(begin(vault, {"id": "u1"}, steps=steps))
    assert run.status == "completed"
    journal.flush()
    assert Execution.objects.get(surface="run").connection_id == other.pk


def test_other_toolkits_are_called_with_the_run_s_user_s_accounts(lab: Any, vault: Vault) -> None:
    vault.ready("u1")
    connect(enable(vault.cast.project, "lab", vault.upstream.url), "u1")
    steps = [{"id": "look", "tool": "LAB_GET_ITEM", "with": {"id": "7"}}]
    assert carry(begin(vault, {"id": "u1"}, steps=steps)).result == "Bearer at-1-secret"


def test_without_a_session_a_run_of_such_a_project_is_refused(vault: Vault) -> None:
    with pytest.raises(InvalidInput) as refused:
        begin(vault, None)
    assert list(refused.value.details) == ["authSession"]
    with pytest.raises(errors.AuthSessionNotFound):
        begin(vault, {"id": "nobody"})
    assert not Run.objects.exists()


def test_a_project_without_auth_sessions_takes_a_connections_user_as_ever(vault: Vault) -> None:
    vault.ready("u1")
    own = vault.account()
    vault.switch(None)
    run = begin(vault, {"id": own.pk})
    assert (run.user_id, run.auth_session, run.auth_options) == ("u1", "", None)
    assert begin(vault, None).user_id == ""
    with pytest.raises(InvalidInput):
        begin(vault, {"id": "u1"})
    with pytest.raises(InvalidInput):
        begin(vault, {"runtimeInput": {"api_key": GOOD}})


@pytest.mark.parametrize(
    "wrong",
    [{"checkAttempts": 0}, {"checkAttempts": True}, {"createAttempts": 1.5}, {"createAttempts": 1000},
     {"autoRecreate": "yes"}, {"requestTimeout": -1}, {"proxy": "nonsense"}, {"proxy": 7}, {"id": 7}, {"id": "a\x00"},
     {"id": "\ud800"}, {"id": ""}, {"id": None}],
    ids=lambda value: json.dumps(value),
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_name(vault: Vault, wrong: dict[str, Any]) -> None:
    vault.ready("u1")
    with pytest.raises(InvalidInput) as refused:
        begin(vault, {"id": "u1"} | wrong)
    assert list(refused.value.details) == [f"authSession.{next(iter(wrong))}"]
    assert not Run.objects.exists()


def test_a_session_that_nobody_has_connected_yet_starts_no_run(vault: Vault) -> None:
    vault.create("u1")
    with pytest.raises(InvalidInput) as refused:
        begin(vault, {"id": "u1"})
    assert "not ready" in refused.value.details["authSession.id"][0]


# -- Other surfaces --------------------------------------------------------------------------------------------------
def test_a_run_of_another_surface_uses_its_users_only_session(vault: Vault) -> None:
    vault.ready("u1")
    module = publish(vault.cast.project, LOOK, result=HEADERS)
    run = carry(start(module, user_id="u1", surface=Run.Surface.HOOK))
    assert (run.status, run.auth_session) == ("completed", "u1")


def test_a_run_of_another_surface_without_one_or_with_a_choice_is_refused(vault: Vault) -> None:
    vault.ready("u1")
    second = connect(vault.cast.project.integrations.get(toolkit="vault"), "u9")
    Connection.objects.filter(pk=second.pk).update(end_user=vault.account().end_user, is_primary=False)
    module = publish(vault.cast.project, LOOK)
    for user, said in (("u1", "a choice"), ("u2", "none"), (None, "none")):
        with pytest.raises(BadRequest, match=said):
            start(module, user_id=user, surface=Run.Surface.HOOK)
    assert not Run.objects.exists()


# -- The check -------------------------------------------------------------------------------------------------------
def test_the_account_is_checked_once_before_the_first_attempt(vault: Vault) -> None:
    vault.ready("u1")
    vault.upstream.reset()
    steps = [*LOOK, {"id": "wait", "wait": {"event": "go"}}]
    run = begin(vault, {"id": "u1"}, steps=steps)
    assert (carry(run).status, vault.upstream.count(CHECK)) == ("running", 1)
    starting.signal(fresh(run), "go", {}, ACTOR)
    done = carry(run)
    assert (done.status, vault.upstream.count(CHECK)) == ("completed", 1)
    assert options_of(done)["checked"]


def test_a_worker_that_dies_after_the_check_makes_nobody_check_again(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.ready("u1")
    vault.upstream.reset()
    run = begin(vault, {"id": "u1"})

    class Died(BaseException):
        pass

    def die(name: str) -> None:
        if name == "before persisting":
            raise Died

    monkeypatch.setattr(carrier, "checkpoint", die)
    with pytest.raises(Died):
        carrier.carry(run.pk)
    monkeypatch.undo()
    Run.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert (carry(run).status, vault.upstream.count(CHECK)) == ("completed", 1)


def test_an_account_that_the_service_refuses_is_no_run(vault: Vault) -> None:
    vault.ready("u1")
    vault.put(test=f"/bearer/{OTHER}")
    run = carry(begin(vault, {"id": "u1", "autoRecreate": False}))
    assert failed(run) == ("auth", "auth-check-failed", False)
    assert vault.upstream.count("/echo/look") == 0
    assert failed(carry(begin(vault, {"id": "u1"}))) == ("auth", "create-attempts-failed", False)


def test_a_service_that_cannot_be_asked_is_asked_as_often_as_said(vault: Vault) -> None:
    vault.ready("u1")
    vault.put(test="/500")
    vault.upstream.reset()
    assert failed(carry(begin(vault, {"id": "u1", "checkAttempts": 1}))) == ("auth", "check-attempts-failed", True)
    once = vault.upstream.count("/500")
    vault.upstream.reset()
    carry(begin(vault, {"id": "u1", "checkAttempts": 3}))
    assert vault.upstream.count("/500") == 3 * once


def test_a_token_that_the_service_refuses_is_renewed_before_the_run(vault: Vault) -> None:
    scheme = {
        "type": "oauth2",
        "authorization_url": "https://vault.example/authorize",
        "token_url": vault.upstream.url + "/token/ok",
        "scopes": ["read"],
    }
    vault.put(scheme, test="/bearer/access-1")
    own = connect(enable(vault.cast.project, "vault", vault.upstream.url), "u1")
    run = carry(begin(vault, {"id": own.pk}))
    assert (run.status, run.result) == ("completed", "Bearer access-1")
    assert vault.upstream.count("/token/ok") == 1


def test_an_expired_account_fails_the_run_with_the_link_to_mend_it(vault: Vault) -> None:
    own = connect(vault.cast.project.integrations.get(toolkit="vault"), "u1")
    scheme = {
        "type": "oauth2",
        "authorization_url": "https://v.example/a",
        "token_url": "https://v.example/t",
        "scopes": [],
    }
    vault.put(scheme)
    Connection.objects.update(status="expired")
    run = carry(begin(vault, {"id": own.pk, "autoRecreate": False}))
    assert failed(run) == ("auth", "auth-check-failed", False)
    assert "/connect/" in (run.error or {})["details"]["actionUrl"]


def test_a_toolkit_without_a_test_call_passes(vault: Vault) -> None:
    vault.ready("u1")
    vault.put(test="")
    assert carry(begin(vault, {"id": "u1"})).status == "completed"


def test_an_account_that_is_gone_by_then_fails_the_run(vault: Vault) -> None:
    vault.ready("u1")
    run = begin(vault, {"id": "u1"})
    vault.account().delete()
    assert failed(carry(run)) == ("auth", "auth-check-failed", False)


def test_a_run_that_failed_so_can_be_retried_once_the_account_works(vault: Vault) -> None:
    vault.ready("u1")
    vault.put(test=f"/bearer/{OTHER}")
    run = carry(begin(vault, {"id": "u1", "autoRecreate": False}))
    assert failed(run)[1] == "auth-check-failed"
    vault.put()
    assert starting.retry(run, ACTOR)
    assert carry(run).status == "completed"
    assert trace_of(run)["attempts"]


def test_the_time_of_the_check_is_worked_and_bounded(vault: Vault) -> None:
    vault.ready("u1")
    vault.put(test="/hang")
    run = carry(begin(vault, {"id": "u1"}, request_timeout=1))
    assert failed(run)[:2] == ("execution", "script-timeout")
    assert 900 <= run.worked_ms <= 5000


def test_a_run_that_is_cancelled_during_its_check_goes_no_further(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.ready("u1")
    vault.put(test="/500")
    run = begin(vault, {"id": "u1"})
    real = http.send

    def send(outgoing: Any) -> Any:
        starting.cancel(fresh(run), ACTOR)
        return real(outgoing)

    monkeypatch.setattr(http, "send", send)
    vault.upstream.reset()
    assert carry(run).status == "cancelled"
    assert vault.upstream.count("/500") <= 3  # one try


def test_the_check_is_made_outside_of_transactions_and_through_the_proxy_it_names(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.ready("u1")
    depth, seen = len(database.savepoint_ids), []
    real = http.send

    def send(outgoing: Any) -> Any:
        seen.append((len(database.savepoint_ids), http.bounds().proxy is not None))
        return real(outgoing)

    monkeypatch.setattr(http, "send", send)
    run = carry(begin(vault, {"id": "u1", "proxy": "http://user:proxy-pass-1@127.0.0.1:9", "checkAttempts": 1}))
    assert failed(run) == ("auth", "check-attempts-failed", True)
    assert seen == [(depth, True)]
    assert "proxy-pass-1" not in str(Run.objects.values()) + str(RunEvent.objects.values())


def test_a_run_that_another_one_starts_acts_with_the_same_account_and_is_not_checked(vault: Vault) -> None:
    vault.ready("u1")
    publish(vault.cast.project, LOOK, "inner", result=HEADERS)
    steps = [{"id": "look", "run": "inner"}]
    vault.upstream.reset()
    run = carry(begin(vault, {"id": "u1"}, steps=steps, name="outer", result="{{ steps.look.output }}"))
    child = Run.objects.get(parent=run)
    assert child.auth_session == "u1"
    carry(child)
    assert (carry(run).result, vault.upstream.count(CHECK)) == (f"Bearer {GOOD}", 1)


# -- Credentials that come with the run ------------------------------------------------------------------------------
def test_runtime_input_is_used_and_nowhere_kept(vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    run = begin(
        vault,
        {"runtimeInput": {"api_key": GOOD}},
        "u1",
        result="{{ steps.look.output.headers.authorization | length }}",
    )
    assert GOOD not in Run.objects.get(pk=run.pk).runtime_auth
    done = carry(run)
    assert (done.status, done.result) == ("completed", len(f"Bearer {GOOD}"))
    assert (done.runtime_auth, done.auth_session) == ("", "")
    assert not Connection.objects.exists()
    assert not AuthSession.objects.exists()
    journal.flush()
    kept = [*Execution.objects.values(), *RunEvent.objects.values("trace"), *Run.objects.values()]
    assert GOOD not in str(kept).replace(CHECK, "")
    assert GOOD not in str(trace_of(done))
    assert GOOD not in caplog.text.replace(CHECK, "")


def test_runtime_input_that_the_service_refuses_fails_the_run(vault: Vault) -> None:
    run = carry(begin(vault, {"runtimeInput": {"api_key": BAD}}))
    assert failed(run) == ("auth", "create-attempts-failed", False)
    assert run.runtime_auth == ""
    with pytest.raises(errors.Conflict):
        starting.retry(run, ACTOR)


def test_a_cancelled_run_keeps_no_credentials(vault: Vault) -> None:
    run = begin(vault, {"runtimeInput": {"api_key": GOOD}})
    starting.cancel(fresh(run), ACTOR)
    assert fresh(run).runtime_auth == ""


@pytest.mark.parametrize(
    ("given", "field"), [({}, "api_key"), ({"api_key": 1}, "api_key"), ({"api_key": GOOD, "b": ""}, "b"), ("x", ""), ([], "")]
)  # fmt: skip
def test_runtime_input_is_checked_for_form_at_once(vault: Vault, given: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        begin(vault, {"runtimeInput": given})
    assert list(refused.value.details) == [f"authSession.runtimeInput.{field}".rstrip(".")]


def test_runtime_client_credentials_get_a_token_and_another_when_it_has_aged(vault: Vault) -> None:
    scheme = {"type": "client_credentials", "token_url": vault.upstream.url + "/token/short"}
    vault.put(scheme, test="/echo/me")
    given = {"client_id": "robot", "client_secret": "robot-secret"}
    run = carry(begin(vault, {"runtimeInput": given}))
    assert (run.status, run.result) == ("completed", "Bearer access-2")
    assert vault.upstream.count("/token/short") == 2


def test_a_child_uses_the_credentials_that_came_with_its_parent(vault: Vault) -> None:
    publish(vault.cast.project, LOOK, "inner", result=HEADERS)
    steps = [{"id": "look", "run": "inner"}]
    run = carry(
        begin(vault, {"runtimeInput": {"api_key": GOOD}}, steps=steps, name="outer", result="{{ steps.look.output }}")
    )
    carry(Run.objects.get(parent=run))
    assert carry(run).result == f"Bearer {GOOD}"
    assert set(Run.objects.values_list("runtime_auth", flat=True)) == {""}


# -- One run at a time -----------------------------------------------------------------------------------------------
def test_an_exclusive_session_is_one_runs_until_that_has_ended(vault: Vault) -> None:
    vault.put(sessions="exclusive")
    vault.ready("u1")
    first = begin(vault, {"id": "u1"})
    assert AuthSession.objects.get().held_by == first.pk
    with pytest.raises(errors.AuthSessionInUse):
        begin(vault, {"id": "u1"})
    assert Run.objects.count() == 1
    assert carry(first).status == "completed"
    second = begin(vault, {"id": "u1"})
    starting.cancel(fresh(second), ACTOR)
    assert AuthSession.objects.get().held_by == ""


def test_a_shared_session_is_everybodys(vault: Vault) -> None:
    vault.ready("u1")
    assert {begin(vault, {"id": "u1"}).status for _ in range(3)} == {"created"}
    assert AuthSession.objects.get().held_by == ""


def test_a_child_goes_on_with_the_session_that_its_parent_has_to_itself(vault: Vault) -> None:
    vault.put(sessions="exclusive")
    vault.ready("u1")
    publish(vault.cast.project, LOOK, "inner", result=HEADERS)
    steps = [{"id": "look", "run": "inner"}]
    run = carry(begin(vault, {"id": "u1"}, steps=steps, name="outer", result="{{ steps.look.output }}"))
    carry(Run.objects.get(parent=run))
    assert AuthSession.objects.get().held_by == run.pk
    assert carry(run).status == "completed"
    assert AuthSession.objects.get().held_by == ""


def test_a_retried_run_takes_its_session_again(vault: Vault) -> None:
    vault.put(test=f"/bearer/{GOOD}", sessions="exclusive")
    vault.ready("u1")
    vault.put(test=f"/bearer/{OTHER}", sessions="exclusive")
    run = carry(begin(vault, {"id": "u1", "autoRecreate": False}))
    assert failed(run)[1] == "auth-check-failed"
    other = begin(vault, {"id": "u1"})
    with pytest.raises(errors.AuthSessionInUse):
        starting.retry(run, ACTOR)
    assert fresh(run).status == "fatal_errored"
    starting.cancel(fresh(other), ACTOR)
    assert starting.retry(run, ACTOR)
    assert AuthSession.objects.get().held_by == run.pk


def test_the_sweeper_frees_a_session_whose_holder_has_ended_or_never_was(vault: Vault) -> None:
    vault.put(sessions="exclusive")
    vault.ready("u1")
    living = begin(vault, {"id": "u1"})
    long_ago = timezone.now() - timedelta(minutes=5)
    AuthSession.objects.update(held_at=long_ago)
    assert run_auth.sweep() == 0
    Run.objects.filter(pk=living.pk).update(status="completed")
    assert run_auth.sweep() == 1
    AuthSession.objects.update(held_by="no-such-run", held_at=timezone.now())
    assert run_auth.sweep() == 0  # it may not be committed yet
    AuthSession.objects.update(held_at=long_ago)
    assert run_auth.sweep() == 1
    assert AuthSession.objects.get().held_by == ""
