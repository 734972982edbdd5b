"""An installation as it comes calls no private address: not for tools, not for tokens, not for keys."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.acceptance.journey import begin, callback_of, code_of, come_back, configure, execute, new_user, query_of
from tests.acceptance.test_oauth_flow import grant_sandbox
from tests.acceptance.tripwire import Tripwire
from tests.product import Product

pytestmark = pytest.mark.acceptance

# The same machine, spelled in every way that some parser takes for an address, and other places of no business of ours.
ADDRESSES = [
    "127.0.0.1",
    "127.1",
    "127.8.8.8",
    "localhost",
    "LOCALHOST.",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0.0.0.0",
    "169.254.169.254",
    "[fe80::1]",
    "10.0.0.1",
    "100.64.0.1",
]


@pytest.fixture(scope="module")
def careful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A product without JACKFIELD_EGRESS_ALLOW, its sandbox with a client of the project's own.

    The installation's own client would be refused before any address is judged: it goes nowhere that a project chose.
    """
    running = Product(tmp_path_factory.mktemp("careful"))
    try:
        running.start()
        secret = running.run(f"""
from allauth.idp.oidc.models import Client
from apps.connections import sandbox
client = Client.objects.get(pk=sandbox.CLIENT_ID)
client.set_redirect_uris(["{running.url}/v1/{running.facts["project_id"]}/integrations/callback"])
client.save()
print(sandbox.client_secret())
""").strip()
        configure(running, "sandbox", "jackfield-sandbox", secret)
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def user(careful: Product) -> str:
    """Somebody with an account of the sandbox, which lies at quickstart's own address: that works."""
    configure(careful, "sandbox")
    user = new_user()
    assert query_of(grant_sandbox(careful, user))["status"] == "connected"
    assert execute(careful, "SANDBOX_GET_ME", user).status_code == 200
    return user


@pytest.fixture
def wire() -> Iterator[Tripwire]:
    with Tripwire() as wire:
        yield wire


def refused_at_once(started: float) -> bool:
    return time.monotonic() - started < 3


@pytest.mark.parametrize("host", [*ADDRESSES, "machine's own name"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_tool_calls_no_private_address(careful: Product, user: str, wire: Tripwire, scheme: str, host: str) -> None:
    host = socket.gethostname() if host == "machine's own name" else host
    configure(careful, "sandbox", base_url=f"{scheme}://{host}:{wire.port}")
    started = time.monotonic()
    answer = execute(careful, "SANDBOX_GET_ME", user)
    assert code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")
    assert refused_at_once(started)
    assert not wire.tripped()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254"])
def test_a_code_goes_to_no_private_address(careful: Product, wire: Tripwire, scheme: str, host: str) -> None:
    configure(careful, "sandbox", token_url=f"{scheme}://{host}:{wire.port}/token")
    state = query_of(begin(careful, "sandbox", new_user())["authUrl"])["state"]
    started = time.monotonic()
    location = come_back(f"{callback_of(careful)}?state={state}&code=abc")
    assert query_of(location) == {"status": "error", "message": "connection_failed"}
    assert refused_at_once(started)
    assert not wire.tripped()
    configure(careful, "sandbox")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refresh_token_goes_to_no_private_address(careful: Product, user: str, wire: Tripwire, scheme: str) -> None:
    configure(careful, "sandbox", refresh_url=f"{scheme}://localhost:{wire.port}/token")
    held = f"""
from apps.connections.models import Connection
from django.utils import timezone
rows = Connection.objects.filter(end_user__external_id="{user}")
"""
    careful.run(held + "rows.update(expires_at=timezone.now(), refresh_not_before=None)")
    answer = execute(careful, "SANDBOX_GET_ME", user)
    assert code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")
    assert not wire.tripped()
    configure(careful, "sandbox")
    careful.run(held + "rows.update(refresh_not_before=None)")
    assert execute(careful, "SANDBOX_GET_ME", user).status_code == 200  # the very refresh, at its own address


def test_a_profile_is_read_from_no_private_address(careful: Product, wire: Tripwire) -> None:
    configure(careful, "sandbox", base_url=f"http://127.0.0.1:{wire.port}")
    location = grant_sandbox(careful, new_user())
    result = query_of(location)
    assert result["status"] == "connected"  # without a label
    assert not wire.tripped()
    row = careful.call("GET", f"integrations/connections/{result['connectionId']}").json()
    assert row["account"] is None
    configure(careful, "sandbox")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_token_is_revoked_at_no_private_address(careful: Product, wire: Tripwire, scheme: str) -> None:
    connection_id = query_of(grant_sandbox(careful, new_user()))["connectionId"]
    configure(careful, "sandbox", revocation_url=f"{scheme}://127.0.0.1:{wire.port}/revoke")
    assert careful.call("DELETE", f"integrations/connections/{connection_id}").status_code == 204
    assert not wire.tripped()
    configure(careful, "sandbox")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_keys_are_read_from_no_private_address(careful: Product, wire: Tripwire, host: str) -> None:
    issuer = f"https://issuer.example/{host}"
    careful.run(f"""
from apps.workspaces.models import JwtIssuer
JwtIssuer.objects.create(
    project_id={careful.facts["project_id"]!r}, method="JWKS", issuer={issuer!r}, audience="jackfield",
    jwks_url="http://{host}:{wire.port}/jwks.json",
)
""")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    claims = {"iss": issuer, "aud": "jackfield", "sub": "eve", "exp": int(time.time()) + 60}
    token = jwt.encode(claims, key, algorithm="RS256", headers={"kid": "one"})
    answer = requests.get(
        f"{careful.url}/v1/{careful.facts['project_id']}/integrations/connections",
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    )
    assert code_of(answer) == (401, "AUTH_INVALID_END_USER_JWT")
    assert not wire.tripped()


def test_an_address_that_is_none_is_refused_when_it_is_set(careful: Product) -> None:
    for url in (
        "http://[",
        "ftp://a.example",
        "http://user:pw@a.example",
        "http://a.example\\@b.example",
        "http://a b",
    ):
        body = {"toolkit": "sandbox", "settings": {"base_url": url}}
        answer = careful.call("POST", "integrations/configure", json=body)
        assert code_of(answer) == (400, "VALIDATION_INVALID_SCHEMA"), url
        assert list(answer.json()["error"]["details"]) == ["settings.base_url"]


def test_a_connection_without_tls_carries_no_secret_to_an_unnamed_host(careful: Product) -> None:
    """A public host that speaks http alone gets neither code nor client secret; nothing is even resolved."""
    configure(careful, "sandbox", token_url="http://plain.invalid/token")
    state = query_of(begin(careful, "sandbox", new_user())["authUrl"])["state"]
    location = come_back(f"{callback_of(careful)}?state={state}&code=abc")
    assert query_of(location) == {"status": "error", "message": "connection_failed"}
    assert "insecure_transport" in careful.log
    configure(careful, "sandbox")
