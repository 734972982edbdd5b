"""The sandbox: a toolkit whose provider is this installation itself.

Its OAuth server is allauth's OpenID Connect provider, with real login, consent, PKCE, refresh and rotation; its API is a
few notes (`apps.connections.sandbox_api`). A newcomer without any registered OAuth app does the whole journey with it.
"""

from __future__ import annotations

import hashlib
import hmac

from django.conf import settings

SLUG = "sandbox"
CLIENT_ID = "jackfield-sandbox"
SCOPES = ["openid", "profile", "email", "offline_access"]


def client_secret() -> str:
    """Derived from the installation's secret key, so that nothing needs to be stored or copied."""
    return hmac.new(settings.SECRET_KEY.encode(), b"jackfield.sandbox-client", hashlib.sha256).hexdigest()


def callback_urls() -> list[str]:
    return [f"{settings.JACKFIELD_URL}/v1/integrations/callback"]


def provide_client() -> None:
    """Registers the client at our own identity provider, or brings it up to date with the installation's address."""
    from allauth.idp.oidc.models import Client

    client, _ = Client.objects.get_or_create(
        id=CLIENT_ID, defaults={"name": "Jackfield sandbox", "secret": "", "type": Client.Type.CONFIDENTIAL}
    )
    client.name = "Jackfield sandbox"
    client.set_secret(client_secret())
    client.set_scopes(SCOPES)
    client.set_grant_types([Client.GrantType.AUTHORIZATION_CODE, Client.GrantType.REFRESH_TOKEN])
    client.set_response_types(["code"])
    client.set_redirect_uris(callback_urls())
    client.save()
