"""How allauth treats our people: members are invited, sign in by e-mail, and keep their second factors in the vault.

A person has one e-mail address, the account's; an admin wrote it, and only an admin changes it. So it counts as
verified, which is what lets a single sign-on issuer vouch for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.forms import default_token_generator
from allauth.account.models import EmailAddress
from allauth.account.signals import password_changed, password_reset, password_set
from allauth.account.utils import user_pk_to_url_str
from allauth.core import context
from allauth.idp.oidc.adapter import DefaultOIDCAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialApp
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models.signals import post_save, pre_save
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from requests import RequestException

from apps.lib import vault
from apps.lib.api import client_ip

from . import services, sessions
from .audit import Actor
from .models import Membership, Role, User, Workspace

log = logging.getLogger(__name__)

MFA_PLACE = "mfa_authenticator:data"  # allauth names no row where it encrypts
SEALED_SECRET = "sealed_secret"


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc] # allauth has no types
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_client_ip(self, request: HttpRequest) -> Any:
        return client_ip(request)

    def get_reset_password_from_key_url(self, key: str) -> str:
        """The link that is mailed: at this installation's own address, whatever host the request named."""
        uid, _, token = key.partition("-")
        return str(settings.JACKFIELD_URL) + reverse("account_reset_password_from_key", args=[uid, token])


class MfaAdapter(DefaultMFAAdapter):  # type: ignore[misc] # allauth has no types
    """Keeps the secrets of second factors encrypted."""

    def encrypt(self, text: str) -> str:
        return vault.seal(text.encode(), MFA_PLACE)

    def decrypt(self, encrypted_text: str) -> str:
        return vault.unseal(encrypted_text, MFA_PLACE).decode()

    def generate_authenticator_name(self, user: Any, type: Any) -> str:
        count = Authenticator.objects.filter(user=user, type=type).count()
        return f"Passkey {count + 1}" if count else "Passkey"


class SandboxAdapter(DefaultOIDCAdapter):  # type: ignore[misc] # allauth has no types
    """The sandbox's OpenID Connect provider: what its consent page calls each scope."""

    scope_display = {
        "openid": "Know which account you have here",
        "profile": "See your name",
        "email": "See your e-mail address",
        "offline_access": "Stay connected until you disconnect it",
    }


class SingleSignOnAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc] # allauth has no types
    """Single sign-on by OpenID Connect, from an issuer that the environment or an admin named, and so trusts.

    It signs in whom it signed in before, and who has the e-mail address that it says is verified. New people come in
    only where the issuer's settings name a ``workspace`` (and a ``role``) that they become members of.
    """

    def list_apps(self, *args: Any, **kwargs: Any) -> list[SocialApp]:
        apps: list[SocialApp] = super().list_apps(*args, **kwargs)
        for app in apps:
            if SEALED_SECRET in app.settings:
                app.secret = _open_secret(app)
        return apps

    def can_authenticate_by_email(self, login: Any, email: str) -> bool:
        return True

    def authenticate_by_email(self, sociallogin: Any) -> Any:
        for address in sociallogin.email_addresses:
            # Some issuers send the claim as text, and the text "false" is true to Python.
            address.verified = address.verified is True or str(address.verified).lower() == "true"
        return super().authenticate_by_email(sociallogin)

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        verified = any(address.verified for address in sociallogin.email_addresses)
        return verified and membership_of(sociallogin.provider.app) is not None

    def is_auto_signup_allowed(self, request: HttpRequest, sociallogin: Any) -> bool:
        return True

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        if sociallogin.is_existing:
            _join(sociallogin.user, sociallogin.provider.app, request)

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> User:
        draft = sociallogin.user
        email = next(address.email for address in sociallogin.email_addresses if address.verified)
        claimed = sociallogin.account.get_provider_account().get_user_data() or {}
        user = User.objects.create_user(email, name=str(claimed.get("name") or draft.name or "")[:150])
        _join(user, sociallogin.provider.app, request)
        sociallogin.user = user
        sociallogin.save(request, connect=True)
        return user


def unless_broken(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """A sign-on view that shows its error page where the issuer is down or answers what is no OpenID Connect."""

    @wraps(view)
    def guarded(request: HttpRequest, provider_id: str) -> HttpResponse:
        try:
            return view(request, provider_id)
        except (RequestException, LookupError, TypeError, ValueError):
            log.warning("the sign-on issuer %s cannot be used", provider_id, exc_info=True)
            return render(request, "socialaccount/authentication_error.html", status=502)

    return guarded


def membership_of(app: SocialApp) -> tuple[Workspace, str] | None:
    """The workspace and role that an issuer's people get; None where they get none."""
    wanted = str(app.settings.get("workspace") or "")
    role = str(app.settings.get("role") or Role.VIEWER)
    if not wanted or role not in Role.values:
        return None
    try:
        workspace = Workspace.objects.filter(pk=wanted).first()
    except ValidationError:  # not an id: a name
        workspace = Workspace.objects.filter(name=wanted).order_by("created_at").first()
    return (workspace, role) if workspace else None


def _join(user: User, app: SocialApp, request: HttpRequest) -> None:
    """Makes a member of who is none yet; a role that an admin gave stays."""
    given = membership_of(app)
    if given and not Membership.objects.filter(workspace=given[0], user=user).exists():
        services.add_member(given[0], user, given[1], Actor(f"sso:{app.provider_id}", client_ip(request)))


def send_invitation(request: HttpRequest, user: User, workspace: Workspace, invited_by: str) -> None:
    """Writes to a new member: where to choose a password, by the link that resets one."""
    key = f"{user_pk_to_url_str(user)}-{default_token_generator.make_token(user)}"
    with context.request_context(request):
        adapter = AccountAdapter(request)
        link = adapter.get_reset_password_from_key_url(key)
        words = {"user": user, "workspace": workspace, "invited_by": invited_by, "link": link}
        adapter.send_mail("account/email/invitation", user.email, words)


@receiver(pre_save, sender=SocialApp, dispatch_uid="workspaces.keep_app_secret")
def keep_app_secret(sender: Any, instance: SocialApp, **kwargs: Any) -> None:
    """Moves a client secret out of its plain column; an empty one leaves the kept secret as it is."""
    if instance.secret:
        sealed = vault.seal(instance.secret.encode(), app_place(instance))
        instance.settings = {**instance.settings, SEALED_SECRET: sealed}
        instance.secret = ""


def _open_secret(app: SocialApp) -> str:
    try:
        return vault.unseal(app.settings[SEALED_SECRET], app_place(app)).decode()
    except vault.VaultError as error:  # the sign-in page must still open for everybody else
        log.error("the client secret of sign-on issuer %s must be entered again: %s", app.provider_id, error)
        return ""


def app_place(app: SocialApp) -> str:
    return f"socialaccount_socialapp:{app.provider_id}:secret"


@receiver(post_save, sender=User, dispatch_uid="workspaces.keep_email_address")
def keep_email_address(
    sender: Any, instance: User, raw: bool = False, update_fields: Any = None, **kwargs: Any
) -> None:
    """Keeps allauth's table of e-mail addresses at what the account says."""
    if raw or (update_fields is not None and "email" not in update_fields):
        return
    email = instance.email.lower()
    EmailAddress.objects.filter(user=instance).exclude(email=email).delete()
    EmailAddress.objects.update_or_create(user=instance, email=email, defaults={"verified": True, "primary": True})


@receiver((password_changed, password_reset, password_set), dispatch_uid="workspaces.end_api_sessions")
def end_api_sessions(sender: Any, user: User, **kwargs: Any) -> None:
    sessions.revoke_all(user)
