"""The pages of accounts: who gets in, what they refuse, and that they keep to the strict policy."""

from __future__ import annotations

import re
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.idp.oidc.models import Client as OidcClient
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from allauth.socialaccount.models import SocialApp
from django.core import mail
from django.test import Client, RequestFactory

from apps.workspaces import accounts
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import Role, User
from apps.workspaces.services import invite_member
from tests.cast import PASSWORD, Cast
from tests.workspaces.test_login import code_now

INLINE = re.compile(r"<style|\sstyle=|\son[a-z]+=|javascript:", re.IGNORECASE)
SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)", re.IGNORECASE)


def sign_in(client: Client, email: str = "alice@example.com", password: str = PASSWORD) -> Any:
    return client.post("/accounts/login/", {"login": email, "password": password})


@pytest.fixture
def alice(cast: Cast) -> Client:
    """Alice's browser: signed in, and asked for her password lately."""
    client = Client()
    sign_in(client)
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    return client


@pytest.fixture
def shop(db: None) -> OidcClient:
    """An application that uses the sandbox's provider."""
    client = OidcClient(id="shop", name="Demo <shop>")
    client.set_scopes(["openid", "profile", "email", "offline_access"])
    client.set_grant_types(["authorization_code"])
    client.set_response_types(["code"])
    client.set_redirect_uris(["https://shop.example/callback"])
    client.save()
    return client


AUTHORIZE = (
    "/identity/o/authorize?client_id=shop&response_type=code&redirect_uri=https://shop.example/callback"
    "&scope=openid+email+offline_access&state=s1"
)
ANYBODYS = ["login/", "password/reset/", "password/reset/done/", "password/reset/key/1-x/", "signup/", "inactive/"]
OWN = [
    "2fa/",
    "2fa/totp/activate/",
    "2fa/webauthn/",
    "2fa/webauthn/add/",
    "password/change/",
    "3rdparty/",
    "reauthenticate/",
    "logout/",
]


def check_page(response: Any) -> None:
    text = response.content.decode()
    policy = response["Content-Security-Policy"]
    assert "script-src 'self';" in f"{policy};"
    assert "style-src 'self';" in f"{policy};"
    assert not INLINE.search(text), INLINE.search(text)
    assert not SCRIPT.search(text)
    assert '<html lang="en" dir="ltr">' in text
    assert text.count("<h1>") == 1
    assert re.search(r"<title>[^<]+</title>", text)
    assert "viewport" in text
    for label in re.findall(r'<label[^>]* for="([^"]*)"', text):
        assert f'id="{label}"' in text


@pytest.mark.django_db
@pytest.mark.parametrize("path", ANYBODYS)
def test_pages_for_anybody_keep_to_the_policy(path: str) -> None:
    response = Client().get(f"/accounts/{path}")
    assert response.status_code == 200
    check_page(response)


@pytest.mark.parametrize("path", OWN)
def test_pages_of_an_account_keep_to_the_policy(alice: Client, path: str) -> None:
    response = alice.get(f"/accounts/{path}")
    assert response.status_code == 200
    check_page(response)


@pytest.mark.usefixtures("cast")
@pytest.mark.parametrize("path", [path for path in OWN if path not in {"logout/"}])
def test_pages_of_an_account_ask_a_stranger_to_sign_in(path: str) -> None:
    response = Client().get(f"/accounts/{path}")
    assert response.status_code == 302
    assert response["Location"].startswith("/accounts/login/")


def test_an_unknown_page_is_ours(db: None) -> None:
    response = Client().get("/accounts/nothing/")
    assert response.status_code == 404
    check_page(response)


# -- Signing in ------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("cast")
def test_a_member_signs_in_to_the_admin() -> None:
    client = Client()
    response = sign_in(client)
    assert (response.status_code, response["Location"]) == (302, "/admin/")


@pytest.mark.usefixtures("cast")
@pytest.mark.parametrize("path", ["/admin/", "/admin/login/?next=/admin/"])
def test_the_admin_has_no_login_form_of_its_own(path: str) -> None:
    response = Client().get(path, follow=True)
    assert response.redirect_chain[-1][0].startswith("/accounts/login/?next=")
    assert b"Sign in with a passkey" in response.content


@pytest.mark.usefixtures("cast")
def test_a_login_posted_to_the_admins_form_signs_nobody_in() -> None:
    client = Client()
    client.post("/admin/login/", {"username": "alice@example.com", "password": PASSWORD, "next": "/admin/"})
    assert "_auth_user_id" not in client.session


def test_a_second_factor_is_asked_for_before_the_admin_opens(cast: Cast) -> None:
    secret = generate_totp_secret()
    TOTP.activate(cast.alice, secret)
    client = Client()
    response = sign_in(client)
    assert response["Location"].startswith("/accounts/2fa/authenticate/")
    assert client.get("/admin/").status_code == 302
    page = client.get("/accounts/2fa/authenticate/")
    check_page(page)
    wrong = client.post("/accounts/2fa/authenticate/", {"code": "nonsense"})
    assert b"Incorrect code" in wrong.content
    right = client.post("/accounts/2fa/authenticate/", {"code": code_now(secret)})
    assert right["Location"] == "/admin/"


@pytest.mark.usefixtures("cast")
def test_a_next_address_elsewhere_is_not_followed() -> None:
    response = Client().post(
        "/accounts/login/", {"login": "alice@example.com", "password": PASSWORD, "next": "https://evil.example/"}
    )
    assert response["Location"] == "/admin/"


def test_somebody_who_is_no_member_may_not_use_the_admin(db: None) -> None:
    User.objects.create_user("stranger@example.com", PASSWORD)
    client = Client()
    sign_in(client, "stranger@example.com")
    response = client.get("/admin/login/")
    assert response.status_code == 403
    check_page(response)


@pytest.mark.usefixtures("cast")
def test_guessing_on_the_page_is_throttled() -> None:
    client = Client()
    texts = [sign_in(client, password="wrong").content.decode() for _ in range(7)]
    assert "Too many failed login attempts" not in texts[0]
    assert "Too many failed login attempts" in texts[-1]
    assert sign_in(client).status_code == 200


@pytest.mark.usefixtures("cast")
def test_nobody_signs_up() -> None:
    response = Client().post(
        "/accounts/signup/", {"email": "new@example.com", "password1": PASSWORD, "password2": PASSWORD}
    )
    assert b"By invitation only" in response.content
    assert not User.objects.filter(email="new@example.com").exists()


def test_a_get_signs_nobody_out(alice: Client) -> None:
    alice.get("/accounts/logout/")
    assert "_auth_user_id" in alice.session
    assert alice.post("/accounts/logout/")["Location"] == "/accounts/login/"
    assert "_auth_user_id" not in alice.session


# -- Passwords and invitations ---------------------------------------------------------------------------------------
def link_in(message: Any) -> str:
    found = re.search(r"https?://[^/\s]+(/accounts/\S+)", str(message.body))
    assert found, message.body
    return found[1]


def choose_password(link: str, password: str) -> Any:
    client = Client()
    form = client.get(link, follow=True)
    check_page(form)
    return client.post(form.request["PATH_INFO"], {"password1": password, "password2": password}, follow=True)


@pytest.mark.usefixtures("cast")
def test_a_forgotten_password_is_replaced_by_a_link_that_works_once() -> None:
    Client().post("/accounts/password/reset/", {"email": "Alice@example.com"})
    link = link_in(mail.outbox[0])
    assert b"Your password is saved" in choose_password(link, "a quite different passphrase").content
    assert sign_in(Client(), password="a quite different passphrase").status_code == 302
    assert b"no longer works" in Client().get(link, follow=True).content


@pytest.mark.usefixtures("cast")
def test_a_reset_does_not_tell_who_has_an_account() -> None:
    known = Client().post("/accounts/password/reset/", {"email": "alice@example.com"}, follow=True)
    unknown = Client().post("/accounts/password/reset/", {"email": "nobody@example.com"}, follow=True)
    assert known.content == unknown.content
    assert [message.to for message in mail.outbox] == [["alice@example.com"]]


@pytest.mark.usefixtures("cast")
def test_a_reset_does_not_pass_by_the_second_factor(cast: Cast) -> None:
    TOTP.activate(cast.alice, generate_totp_secret())
    Client().post("/accounts/password/reset/", {"email": "alice@example.com"})
    new = "a quite different passphrase"
    choose_password(link_in(mail.outbox[0]), new)
    assert sign_in(Client(), password=new)["Location"].startswith("/accounts/2fa/authenticate/")


def test_who_is_invited_chooses_a_password_and_signs_in(cast: Cast) -> None:
    membership, made = invite_member(cast.workspace, "new@example.com", Role.DEVELOPER, SYSTEM)
    assert made
    request = RequestFactory().get("/")
    accounts.send_invitation(request, membership.user, cast.workspace, "Alice")
    message = mail.outbox[0]
    assert message.to == ["new@example.com"]
    assert "Acme" in message.subject
    assert "Alice has invited you" in str(message.body)
    choose_password(link_in(message), "a quite different passphrase")
    assert sign_in(Client(), "new@example.com", "a quite different passphrase")["Location"] == "/admin/"


def test_an_account_has_one_address_and_it_follows_the_account(cast: Cast) -> None:
    cast.alice.email = "alice@new.example"
    cast.alice.save()
    rows = EmailAddress.objects.filter(user=cast.alice)
    assert [(row.email, row.verified, row.primary) for row in rows] == [("alice@new.example", True, True)]


def test_nobody_changes_their_own_address(alice: Client, cast: Cast) -> None:
    alice.post("/accounts/email/", {"email": "evil@example.com", "action_add": ""})
    assert not EmailAddress.objects.filter(email="evil@example.com").exists()


def test_switching_the_authenticator_app_on_asks_for_the_password_again(cast: Cast) -> None:
    client = Client()
    sign_in(client)
    response = client.get("/accounts/2fa/totp/activate/")
    assert response["Location"].startswith("/accounts/reauthenticate/")


def test_the_authenticator_app_is_switched_on_by_its_code(alice: Client, cast: Cast) -> None:
    page = alice.get("/accounts/2fa/totp/activate/").content.decode()
    assert 'src="data:image/svg+xml;base64,' in page
    secret = re.search(r"<code>([A-Z2-7]{32})</code>", page)
    assert secret
    assert b"Incorrect code" in alice.post("/accounts/2fa/totp/activate/", {"code": "000000"}).content
    response = alice.post("/accounts/2fa/totp/activate/", {"code": code_now(secret[1])}, follow=True)
    assert b"10 of 10 are unused" in response.content
    check_page(response)
    for path in ("2fa/totp/deactivate/", "2fa/recovery-codes/generate/", "2fa/recovery-codes/"):
        check_page(alice.get(f"/accounts/{path}"))


# -- The sandbox's consent page --------------------------------------------------------------------------------------
@pytest.mark.usefixtures("shop")
def test_the_consent_page_says_who_wants_what(alice: Client) -> None:
    response = alice.get(AUTHORIZE)
    check_page(response)
    text = response.content.decode()
    assert "Demo &lt;shop&gt; wants to:" in text
    assert "See your e-mail address" in text
    assert "Stay connected until you disconnect it" in text
    assert re.search(r"<button[^>]*>Allow</button>", text)
    assert re.search(r"<button[^>]*>Cancel</button>", text)
    assert "alice@example.com" in text


def consent(client: Client, action: str) -> str:
    page = client.get(AUTHORIZE).content.decode()
    request = re.search(r'name="request" value="([^"]+)"', page)
    assert request
    data = {"request": request[1], "scopes": ["openid", "email"], "action": action}
    return str(client.post("/identity/o/authorize", data)["Location"])


@pytest.mark.usefixtures("shop")
def test_allow_gives_a_code_and_cancel_an_error(alice: Client) -> None:
    assert re.match(r"https://shop\.example/callback\?code=\w+&state=s1", consent(alice, "grant"))
    assert consent(alice, "cancel") == "https://shop.example/callback?error=access_denied&state=s1"


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    "change", [("client_id=shop", "client_id=other"), ("shop.example/callback", "evil.example/callback")]
)
def test_a_wrong_client_or_return_address_is_told_here_and_not_there(alice: Client, change: tuple[str, str]) -> None:
    response = alice.get(AUTHORIZE.replace(*change))
    assert "Location" not in response
    check_page(response)
    assert b"This does not work" in response.content


# -- Issuers of single sign-on that an admin made --------------------------------------------------------------------
@pytest.fixture
def issuer(db: None) -> SocialApp:
    app = SocialApp(provider="openid_connect", provider_id="corp", name="Corp", client_id="c", secret="client-secret-1")
    app.settings = {"server_url": "https://login.corp.example"}
    app.save()
    return app


@pytest.mark.usefixtures("issuer")
def test_the_sign_in_page_offers_the_issuers() -> None:
    response = Client().get("/accounts/login/")
    check_page(response)
    assert "Continue with Corp" in response.content.decode()
    assert 'action="/accounts/oidc/corp/login/?process=login"' in response.content.decode()


def test_an_issuers_client_secret_is_stored_sealed(issuer: SocialApp) -> None:
    row = SocialApp.objects.values().get(pk=issuer.pk)
    assert "client-secret-1" not in str(row)
    assert accounts.SingleSignOnAdapter().list_apps(None)[0].secret == "client-secret-1"


def test_saving_an_issuer_without_a_secret_keeps_it(issuer: SocialApp) -> None:
    again = SocialApp.objects.get(pk=issuer.pk)
    again.name = "Corporation"
    again.save()
    assert accounts.SingleSignOnAdapter().list_apps(None)[0].secret == "client-secret-1"


def test_a_secret_that_no_longer_opens_leaves_the_sign_in_page_open(
    issuer: SocialApp, caplog: pytest.LogCaptureFixture
) -> None:
    SocialApp.objects.filter(pk=issuer.pk).update(provider_id="moved")
    assert Client().get("/accounts/login/").status_code == 200
    assert "must be entered again" in caplog.text


class FakeLogin:
    """What allauth hands over after a sign-on, as far as our adapter looks."""

    def __init__(self, email: str, verified: Any, app: SocialApp) -> None:
        self.email_addresses = [EmailAddress(email=email, verified=verified, primary=True)]
        self.provider = type("Provider", (), {"app": app})()


@pytest.mark.usefixtures("cast")
@pytest.mark.parametrize(
    ("verified", "linked"), [(True, True), ("true", True), (False, False), ("false", False), (None, False), (1, False)]
)
def test_only_a_verified_address_links_to_an_account(issuer: SocialApp, verified: Any, linked: bool) -> None:
    login = FakeLogin("alice@example.com", verified, issuer)
    found = accounts.SingleSignOnAdapter().authenticate_by_email(login)
    assert (found is not None) == linked


@pytest.mark.parametrize(
    ("verified", "workspace", "role", "opened"),
    [
        (True, "Acme", "viewer", True),
        (True, "", "viewer", False),
        (True, "No such", "viewer", False),
        (True, "Acme", "emperor", False),
        (False, "Acme", "viewer", False),
    ],
)
def test_new_people_come_in_only_where_a_workspace_is_named(
    cast: Cast, issuer: SocialApp, verified: bool, workspace: str, role: str, opened: bool
) -> None:
    issuer.settings |= {"workspace": workspace, "role": role}
    login = FakeLogin("new@example.com", verified, issuer)
    assert accounts.SingleSignOnAdapter().is_open_for_signup(RequestFactory().get("/"), login) == opened


def test_an_issuers_workspace_may_be_named_by_its_id(cast: Cast, issuer: SocialApp) -> None:
    issuer.settings |= {"workspace": str(cast.workspace.pk), "role": "viewer"}
    assert accounts.membership_of(issuer) == (cast.workspace, "viewer")


def test_an_issuer_that_cannot_be_reached_gives_our_page(issuer: SocialApp) -> None:
    issuer.settings |= {"server_url": "http://127.0.0.1:9"}
    issuer.save()
    response = Client(raise_request_exception=False).post("/accounts/oidc/corp/login/")
    check_page(response)
    assert b"You are not signed in" in response.content
