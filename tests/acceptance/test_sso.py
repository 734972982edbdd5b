"""Single sign-on against a real OpenID Connect server: people, redirects and refusals as a browser sees them.

The environment's issuer makes its people members; the issuer that an admin added signs in only who was invited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from tests.peers.oidc import BASIC, POST, OidcProvider
from tests.product import Product
from tests.shell import ask

pytestmark = pytest.mark.acceptance

WORKSPACE = "Demo workspace"
PREPARE = f"""
from allauth.socialaccount.models import SocialApp
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import User, Workspace
from apps.workspaces.services import add_member
workspace = Workspace.objects.get(name={WORKSPACE!r})
add_member(workspace, User.objects.create_user("invited@example.com", "correct horse battery staple"), "developer", SYSTEM)
User.objects.create_user("gone@example.com", is_active=False, is_staff=True)
SocialApp(provider="openid_connect", provider_id="corp", name="Corp", client_id={POST.client_id!r},
          secret={POST.client_secret!r}, settings={{"server_url": "ISSUER"}}).save()
"""


class Sso:
    """A product with two issuers, both of them the peer."""

    def __init__(self, product: Product, provider: OidcProvider) -> None:
        self.product = product
        self.provider = provider

    def ask(self, code: str) -> str:
        return ask(self.product, code)

    def roles_of(self, email: str) -> str:
        return self.ask(
            "from apps.workspaces.models import Membership;"
            f"print([str(m.workspace) + ' ' + m.role for m in Membership.objects.filter(user__email={email!r})])"
        )

    def start(self, browser: requests.Session, issuer: str = "sso", path: str = "/admin/") -> str:
        """Presses the issuer's button on the sign-in page; the address of the issuer that it leads to."""
        page = browser.get(f"{self.product.url}/accounts/login/", params={"next": path}, timeout=10)
        found = re.search(rf'action="(/accounts/oidc/{issuer}/login/[^"]*)"', page.text)
        assert found, page.text
        answer = browser.post(
            self.product.url + found[1].replace("&amp;", "&"),
            data={"csrfmiddlewaretoken": browser.cookies["csrftoken"]},
            allow_redirects=False,
            timeout=10,
        )
        assert answer.status_code == 302, answer.text
        return answer.headers["Location"]

    def sign_in(self, browser: requests.Session, login: str, issuer: str = "sso") -> requests.Response:
        back = self.provider.approve(self.start(browser, issuer), login=login)
        return browser.get(back, timeout=10)


@pytest.fixture(scope="module")
def sso(oidc_provider: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sso]:
    product = Product(
        tmp_path_factory.mktemp("sso"),
        JACKFIELD_OIDC_ISSUER=oidc_provider.issuer,
        JACKFIELD_OIDC_CLIENT_ID=BASIC.client_id,
        JACKFIELD_OIDC_CLIENT_SECRET=BASIC.client_secret,
        JACKFIELD_OIDC_NAME="Example Corp",
        JACKFIELD_OIDC_WORKSPACE=WORKSPACE,
        JACKFIELD_OIDC_ROLE="developer",
    )
    try:
        product.start()
        for issuer in ("sso", "corp"):
            oidc_provider.allow(f"{product.url}/accounts/oidc/{issuer}/login/callback/")
        running = Sso(product, oidc_provider)
        running.ask(PREPARE.replace("ISSUER", oidc_provider.issuer))
        yield running
    finally:
        product.close()


@pytest.fixture
def browser() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def signed_in_as(browser: requests.Session, product: Product) -> str:
    """The e-mail address that the account's pages show; nothing for who is not signed in."""
    page = browser.get(f"{product.url}/accounts/2fa/", timeout=10)
    found = re.search(r"Signed in as (\S+?)<", page.text)
    return found[1] if found else ""


def test_the_request_to_the_issuer_carries_state_and_pkce(sso: Sso, browser: requests.Session) -> None:
    asked = parse_qs(urlsplit(sso.start(browser)).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert len(asked["state"][0]) >= 16
    assert set(asked["scope"][0].split()) == {"openid", "profile", "email"}
    assert asked["redirect_uri"] == [f"{sso.product.url}/accounts/oidc/sso/login/callback/"]


def test_somebody_new_becomes_a_member_where_the_environment_says_so(sso: Sso, browser: requests.Session) -> None:
    answer = sso.sign_in(browser, "newcomer")
    assert answer.url == f"{sso.product.url}/admin/"
    assert answer.status_code == 200
    assert signed_in_as(browser, sso.product) == "newcomer@example.com"
    assert sso.roles_of("newcomer@example.com") == f"['{WORKSPACE} developer']"


def test_the_same_person_comes_back_to_the_same_account(sso: Sso) -> None:
    for _ in range(2):
        with requests.Session() as browser:
            sso.sign_in(browser, "returning")
            assert signed_in_as(browser, sso.product) == "returning@example.com"
    count = "from apps.workspaces.models import User; print(User.objects.filter(email='returning@example.com').count())"
    assert sso.ask(count) == "1"


def test_who_was_invited_signs_in_by_verified_email_and_keeps_role_and_password(
    sso: Sso, browser: requests.Session
) -> None:
    answer = sso.sign_in(browser, "invited", issuer="corp")
    assert answer.url == f"{sso.product.url}/admin/"
    assert signed_in_as(browser, sso.product) == "invited@example.com"
    assert sso.roles_of("invited@example.com") == f"['{WORKSPACE} developer']"
    has = "from apps.workspaces.models import User; print(User.objects.get(email='invited@example.com').has_usable_password())"
    assert sso.ask(has) == "True"


def test_who_was_not_invited_is_told_so(sso: Sso, browser: requests.Session) -> None:
    answer = sso.sign_in(browser, "uninvited", issuer="corp")
    assert "By invitation only" in answer.text
    assert signed_in_as(browser, sso.product) == ""
    assert sso.roles_of("uninvited@example.com") == "[]"


def test_an_account_that_is_switched_off_stays_out(sso: Sso, browser: requests.Session) -> None:
    answer = sso.sign_in(browser, "gone")
    assert "This account is switched off" in answer.text
    assert signed_in_as(browser, sso.product) == ""


def test_who_turns_back_at_the_issuer_is_not_signed_in(sso: Sso, browser: requests.Session) -> None:
    back = sso.provider.deny(sso.start(browser))
    answer = browser.get(back, timeout=10)
    assert "You are not signed in" in answer.text
    assert signed_in_as(browser, sso.product) == ""


def test_a_callback_in_another_browser_signs_nobody_in(sso: Sso, browser: requests.Session) -> None:
    back = sso.provider.approve(sso.start(browser), login="newcomer")
    with requests.Session() as other:
        answer = other.get(back, timeout=10)
        assert answer.status_code in {200, 401, 403}
        assert "You are not signed in" in answer.text
        assert signed_in_as(other, sso.product) == ""


def test_a_callback_works_once(sso: Sso, browser: requests.Session) -> None:
    back = sso.provider.approve(sso.start(browser), login="newcomer")
    browser.get(back, timeout=10)
    browser.get(f"{sso.product.url}/accounts/logout/", timeout=10)
    browser.post(
        f"{sso.product.url}/accounts/logout/",
        data={"csrfmiddlewaretoken": browser.cookies["csrftoken"]},
        timeout=10,
    )
    answer = browser.get(back, timeout=10)
    assert "You are not signed in" in answer.text
    assert signed_in_as(browser, sso.product) == ""


@pytest.mark.parametrize("mode", ["500", "html"])
def test_an_issuer_that_is_broken_gives_our_page(sso: Sso, browser: requests.Session, mode: str) -> None:
    back = sso.provider.approve(sso.start(browser), login="newcomer")
    sso.provider.fault(mode)  # type: ignore[arg-type]
    try:
        answer = browser.get(back, timeout=20)
    finally:
        sso.provider.fault(None)
    assert "You are not signed in" in answer.text
    assert signed_in_as(browser, sso.product) == ""


def test_single_sign_on_does_not_pass_by_a_second_factor(sso: Sso, browser: requests.Session) -> None:
    sso.sign_in(browser, "careful")
    sso.ask(
        "from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret;"
        "from apps.workspaces.models import User;"
        "TOTP.activate(User.objects.get(email='careful@example.com'), generate_totp_secret())"
    )
    with requests.Session() as another:
        answer = sso.sign_in(another, "careful")
        assert "Second step" in answer.text
        assert signed_in_as(another, sso.product) == ""
