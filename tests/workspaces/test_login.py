"""Members sign in over the API: password, second factor, refresh tokens, throttle."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import jwt
import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, generate_totp_secret, hotp_value
from django.contrib.auth.hashers import MD5PasswordHasher
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from apps.workspaces import sessions
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, MemberSession, Role, User
from apps.workspaces.services import add_member, remove_member
from tests.cast import PASSWORD, Api, Cast


def post(path: str, body: Any, **headers: str) -> HttpResponse:
    return Client().post(f"/api/auth/{path}", body, content_type="application/json", **headers)  # type: ignore[return-value, arg-type]


def login(email: str = "alice@example.com", password: str = PASSWORD, **further: str) -> HttpResponse:
    return post("login", {"email": email, "password": password, **further})


def answer(response: HttpResponse) -> Any:
    return response.json()  # type: ignore[attr-defined]


def tokens(response: HttpResponse) -> Any:
    assert response.status_code == 200, response.content
    return answer(response)


def code_now(secret: str, ahead: int = 0) -> str:
    return str(format_hotp_value(hotp_value(secret, int(time.time()) // 30 + ahead)))


def projects_of(cast: Cast, token: str) -> int:
    """The status of a member's own route with this token."""
    return Api(cast.project, token).get("settings").status_code


@pytest.fixture
def secret(cast: Cast) -> str:
    """Alice's authenticator app."""
    made = str(generate_totp_secret())
    TOTP.activate(cast.alice, made)
    return made


@pytest.mark.usefixtures("cast")
def test_a_member_gets_tokens_and_learns_the_workspaces(cast: Cast) -> None:
    body = tokens(login())
    assert set(body) == {"message", "token", "refreshToken", "expiresIn", "user"}
    assert body["expiresIn"] == 900
    assert body["user"] == {
        "id": str(cast.alice.pk),
        "email": "alice@example.com",
        "name": "Alice",
        "workspaces": [{"id": str(cast.workspace.pk), "name": "Acme", "role": "owner"}],
    }


@pytest.mark.usefixtures("cast")
def test_the_case_of_the_email_does_not_matter() -> None:
    assert login("ALICE@Example.com").status_code == 200


def test_the_token_opens_the_members_projects_and_no_others(cast: Cast) -> None:
    token = tokens(login())["token"]
    assert projects_of(cast, token) == 200
    assert Api(cast.foreign_project, token).get("settings").status_code == 404


@pytest.mark.usefixtures("cast")
@pytest.mark.parametrize(
    ("email", "password"),
    [("alice@example.com", "wrong"), ("nobody@example.com", PASSWORD), ("not an address", PASSWORD)],
)
def test_whoever_is_wrong_gets_the_same_answer(email: str, password: str) -> None:
    response = login(email, password)
    assert response.status_code == 401
    error = answer(response)["error"]
    assert error["code"] == "AUTH_INVALID_TOKEN"
    assert error["message"].startswith("The e-mail address or the password is wrong")
    assert "details" not in error


def test_an_unknown_address_costs_as_many_password_hashes_as_a_known_one(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = MD5PasswordHasher.encode

    def counted(self: MD5PasswordHasher, password: str, salt: str) -> str:
        hashed.append(password)
        return real(self, password, salt)

    monkeypatch.setattr(MD5PasswordHasher, "encode", counted)
    login("alice@example.com", "wrong")
    known = len(hashed)
    login("nobody@example.com", "wrong")
    assert known == len(hashed) - known == 1


@pytest.mark.parametrize("change", [{"is_active": False}, {"is_staff": False}])
def test_an_account_that_is_switched_off_cannot_sign_in(cast: Cast, change: dict[str, Any]) -> None:
    User.objects.filter(pk=cast.alice.pk).update(**change)
    assert login().status_code == 401


def test_an_account_without_a_password_cannot_sign_in(cast: Cast) -> None:
    add_member(cast.workspace, User.objects.create_user("invited@example.com"), Role.VIEWER, SYSTEM)
    for password in ("!", "x"):
        assert login("invited@example.com", password).status_code == 401


@pytest.mark.usefixtures("cast")
@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"email", "password"}),
        ({"email": "a@example.com"}, {"password"}),
        ({"email": "a@example.com", "password": ["x"]}, {"password"}),
        ({"email": "a@example.com", "password": "a\x00b"}, {"password"}),
        ({"email": "a@example.com", "password": "x" * 5000}, {"password"}),
    ],
)
def test_a_login_without_its_fields_names_them(body: Any, fields: set[str]) -> None:
    response = post("login", body)
    assert response.status_code == 400
    assert set(answer(response)["error"]["details"]) == fields


@pytest.mark.usefixtures("cast")
@pytest.mark.parametrize("path", ["login", "refresh", "logout"])
def test_only_post_is_allowed(path: str) -> None:
    response = Client().get(f"/api/auth/{path}")
    assert response.status_code == 405
    assert answer(response)["error"]["code"] == "METHOD_NOT_ALLOWED"  # type: ignore[arg-type]


# -- Second factor ---------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("secret")
def test_without_the_code_the_answer_says_that_one_is_needed() -> None:
    response = login()
    assert response.status_code == 401
    error = answer(response)["error"]
    assert error["details"] == {"mfa": True}
    assert "code" in error["message"]
    assert not MemberSession.objects.exists()


@pytest.mark.usefixtures("secret")
def test_that_a_code_is_needed_is_told_only_to_who_knows_the_password() -> None:
    assert "details" not in answer(login(password="wrong"))["error"]


def test_the_apps_code_signs_in_once(secret: str) -> None:
    code = code_now(secret)
    assert login(code=code).status_code == 200
    replayed = login(code=code)
    assert replayed.status_code == 401
    assert answer(replayed)["error"]["details"] == {"mfa": True}


@pytest.mark.usefixtures("secret")
@pytest.mark.parametrize("code", ["abc", "０００００００", "x" * 64])
def test_a_wrong_code_is_refused(code: str) -> None:
    response = login(code=code)
    assert response.status_code == 401
    assert answer(response)["error"]["details"] == {"mfa": True}


def test_an_old_code_is_refused(secret: str) -> None:
    assert login(code=code_now(secret, -3)).status_code == 401


@pytest.mark.usefixtures("secret")
def test_a_recovery_code_signs_in_once(cast: Cast) -> None:
    code = RecoveryCodes.activate(cast.alice).get_unused_codes()[0]
    assert login(code=code).status_code == 200
    assert login(code=code).status_code == 401


def test_the_secrets_of_second_factors_are_stored_sealed(cast: Cast, secret: str) -> None:
    RecoveryCodes.activate(cast.alice)
    stored = {authenticator.type: authenticator.data for authenticator in Authenticator.objects.all()}
    assert stored["totp"]["secret"].startswith("jf1:")
    assert stored["recovery_codes"]["seed"].startswith("jf1:")
    assert secret not in str(stored)


@pytest.mark.usefixtures("secret")
def test_guessing_codes_is_throttled() -> None:
    statuses = [login(code="000000").status_code for _ in range(7)]
    assert statuses[:5] == [401] * 5
    assert statuses[-1] == 429


# -- Throttle --------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("cast")
def test_guessing_a_password_is_throttled_with_the_time_to_wait() -> None:
    for _ in range(5):
        assert login(password="wrong").status_code == 401
    response = login(password="wrong")
    assert response.status_code == 429
    assert answer(response)["error"]["code"] == "QUOTA_RATE_LIMIT"
    assert 290 <= int(response["Retry-After"]) <= 301


@pytest.mark.usefixtures("cast")
def test_one_address_guessing_at_many_accounts_is_throttled() -> None:
    statuses = [login(f"user{number}@example.com").status_code for number in range(12)]
    assert statuses.count(401) == 10
    assert statuses[-1] == 429


@pytest.mark.usefixtures("cast")
def test_signing_in_rightly_is_not_throttled_by_its_own_doing() -> None:
    assert {login().status_code for _ in range(12)} == {200}


@pytest.mark.usefixtures("cast")
def test_a_forged_forwarded_header_does_not_escape_the_throttle() -> None:
    body = {"email": "alice@example.com", "password": "wrong"}
    statuses = [
        post("login", body | {"email": f"u{n}@example.com"}, HTTP_X_FORWARDED_FOR=f"10.0.0.{n}").status_code
        for n in range(12)
    ]
    assert statuses[-1] == 429


# -- Refresh and logout ----------------------------------------------------------------------------------------------
def test_a_refresh_gives_new_tokens(cast: Cast) -> None:
    first = tokens(login())
    second = tokens(post("refresh", {"refreshToken": first["refreshToken"]}))
    assert second["refreshToken"] != first["refreshToken"]
    assert second["user"]["email"] == "alice@example.com"
    assert projects_of(cast, second["token"]) == 200


def test_an_older_refresh_token_ends_the_session(cast: Cast) -> None:
    first = tokens(login())
    second = tokens(post("refresh", {"refreshToken": first["refreshToken"]}))
    third = tokens(post("refresh", {"refreshToken": second["refreshToken"]}))
    assert post("refresh", {"refreshToken": first["refreshToken"]}).status_code == 401
    assert post("refresh", {"refreshToken": third["refreshToken"]}).status_code == 401
    assert projects_of(cast, third["token"]) == 401
    assert AuditEvent.objects.filter(action="member.refresh_token_reused", workspace=cast.workspace).count() == 1


def test_a_made_up_refresh_token_ends_nothing(cast: Cast) -> None:
    body = tokens(login())
    session_id = MemberSession.objects.get().pk
    prefix, _, signature = body["refreshToken"].rpartition(".")
    for forged in (f"jf_rt_{session_id}.x.y", f"{prefix}x.{signature}", session_id, "jf_rt_", "...", "é"):
        response = post("refresh", {"refreshToken": forged})
        assert response.status_code == 401
        assert answer(response)["error"]["code"] == "AUTH_INVALID_TOKEN"
    assert projects_of(cast, body["token"]) == 200


@pytest.mark.usefixtures("cast")
def test_a_session_ends_after_thirty_days() -> None:
    body = tokens(login())
    MemberSession.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert post("refresh", {"refreshToken": body["refreshToken"]}).status_code == 401


def test_who_signs_out_is_signed_out_at_once(cast: Cast) -> None:
    body = tokens(login())
    response = post("logout", {"refreshToken": body["refreshToken"]})
    assert (response.status_code, response.content) == (204, b"")
    assert projects_of(cast, body["token"]) == 401
    assert post("refresh", {"refreshToken": body["refreshToken"]}).status_code == 401
    assert post("logout", {"refreshToken": body["refreshToken"]}).status_code == 204


def test_an_account_switched_off_ends_its_sessions(cast: Cast) -> None:
    body = tokens(login())
    User.objects.filter(pk=cast.alice.pk).update(is_active=False)
    assert projects_of(cast, body["token"]) == 401
    assert post("refresh", {"refreshToken": body["refreshToken"]}).status_code == 401


def test_a_new_password_ends_every_session(cast: Cast) -> None:
    body = tokens(login())
    client = Client()
    client.force_login(cast.alice)
    new = "a quite different passphrase"
    client.post("/accounts/password/change/", {"oldpassword": PASSWORD, "password1": new, "password2": new})
    assert projects_of(cast, body["token"]) == 401
    assert login(password=new).status_code == 200


def test_a_former_member_sees_nothing(cast: Cast) -> None:
    token = tokens(login("bob@example.com"))["token"]
    remove_member(cast.bob.memberships.get(), SYSTEM)
    assert projects_of(cast, token) == 404


@pytest.mark.usefixtures("cast")
def test_sessions_that_are_over_are_deleted_a_day_after() -> None:
    for days in (-2, -0.5, 5):
        tokens(login())
        newest = MemberSession.objects.latest("created_at")
        MemberSession.objects.filter(pk=newest.pk).update(expires_at=timezone.now() + timedelta(days=days))
    tokens(login())
    MemberSession.objects.filter(pk=MemberSession.objects.latest("created_at").pk).update(
        revoked_at=timezone.now() - timedelta(days=2)
    )
    assert sessions.forget_expired() == 2
    assert MemberSession.objects.count() == 2


# -- What the tokens are ---------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("cast")
def test_refresh_tokens_are_stored_hashed() -> None:
    body = tokens(login())
    row = MemberSession.objects.values().get()
    assert body["refreshToken"] not in str(row)
    assert len(row["refresh_digest"]) == 64


def test_a_members_token_of_another_installation_is_refused(cast: Cast) -> None:
    body = tokens(login())
    claims = jwt.decode(body["token"], options={"verify_signature": False})
    header = jwt.get_unverified_header(body["token"])
    forged = jwt.encode(claims, "another secret key of this length", algorithm="HS256", headers={"typ": header["typ"]})
    assert projects_of(cast, forged) == 401


def test_signing_in_and_out_is_audited(cast: Cast) -> None:
    body = tokens(login())
    post("logout", {"refreshToken": body["refreshToken"]})
    found = AuditEvent.objects.filter(workspace=cast.workspace, action__startswith="member.signed")
    assert sorted(event.action for event in found) == ["member.signed_in", "member.signed_out"]
    assert {(event.actor, event.ip) for event in found} == {("user:alice@example.com", "127.0.0.1")}
