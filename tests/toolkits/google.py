"""Alice's access token at the emulated Google, by the OAuth flow that the toolkits describe."""

import base64
import hashlib
import secrets
from urllib.parse import parse_qs, urlencode, urlsplit

import requests

from apps.toolkits.spec import OAuth2
from tests.peers.emulate import DEFAULT_REDIRECTS, Emulate
from tests.toolkits.driver import Service, load


def connect(emulate: Emulate, slug: str) -> Service:
    """A Google toolkit as Alice has connected it: consent, code, PKCE, token."""
    google, scheme = emulate.google, load(slug).auth_by_type["oauth2"]
    assert isinstance(scheme, OAuth2)
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    asked = scheme.authorization_params | {
        "client_id": google.client_id,
        "redirect_uri": DEFAULT_REDIRECTS[0],
        "response_type": "code",
        "scope": scheme.scope_separator.join(scheme.scopes),
        "state": "s",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    returned = urlsplit(emulate.approve(f"{google.authorization_url}?{urlencode(asked)}"))
    form = {
        "grant_type": "authorization_code",
        "code": parse_qs(returned.query)["code"][0],
        "redirect_uri": DEFAULT_REDIRECTS[0],
        "client_id": google.client_id,
        "client_secret": google.client_secret,
        "code_verifier": verifier,
    }
    answer = requests.post(google.token_url, data=form, timeout=10).json()
    assert set(answer["scope"].split()) == set(scheme.scopes)
    return Service(slug, google.url, answer["access_token"])
