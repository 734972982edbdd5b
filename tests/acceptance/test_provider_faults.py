"""What callers get of a provider that misbehaves, and what the execution log keeps of it."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests

from tests.acceptance.journey import (
    begin,
    code_of,
    come_back,
    configure,
    connect_wayward,
    enable_wayward,
    execute,
    new_user,
    query_of,
)
from tests.acceptance.tripwire import Tripwire
from tests.peers.forms import forms
from tests.peers.oidc import POST, OidcProvider
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = pytest.mark.acceptance


@pytest.fixture
def user(product: Product, upstream: Upstream) -> str:
    """Somebody with an account at the wayward provider."""
    enable_wayward(product, upstream)
    user = new_user()
    connect_wayward(product, user)
    upstream.reset()
    return user


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Upstream]:
    """Another origin."""
    with Upstream() as other:
        yield other


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("html", "<!doctype html><title>Hello</title><p>Not what you wanted."),
        ("empty", None),
        ("no-content", None),
        ("text", "Grüße vom Amt"),
        ("list", [1, 2, {"three": 3}]),
        ("broken-json", '{"half": '),
        (
            "binary",
            {
                "contentType": "application/octet-stream",
                "size": 256,
                "filename": "blob.bin",
                "base64": base64.b64encode(bytes(range(256))).decode(),
            },
        ),
    ],
)
def test_whatever_comes_with_200_is_handed_on(product: Product, user: str, path: str, data: Any) -> None:
    answer = execute(product, "WAYWARD_GET", user, path=path)
    assert (answer.status_code, answer.json()) == (200, {"successful": True, "data": data})


@pytest.mark.parametrize("status", [400, 403, 404, 409, 418, 500, 503])
def test_the_providers_error_is_the_callers_to_read(product: Product, user: str, status: int) -> None:
    answer = execute(product, "WAYWARD_POST", user, path=f"status/{status}")
    assert code_of(answer) == (422, "INTEGRATIONS_EXECUTION_FAILED")
    assert answer.json()["error"]["details"] == {"status": status, "body": {"status": status}}


def test_an_error_without_json_is_handed_on_as_text(product: Product, user: str) -> None:
    answer = execute(product, "WAYWARD_GET", user, path="500")
    assert answer.json()["error"]["details"] == {"status": 500, "body": "broken"}


def test_a_long_retry_after_is_answered_at_once(product: Product, upstream: Upstream, user: str) -> None:
    started = time.monotonic()
    answer = execute(product, "WAYWARD_GET", user, path="rate-limited")
    assert time.monotonic() - started < 1.5
    assert code_of(answer) == (422, "INTEGRATIONS_EXECUTION_FAILED")
    assert answer.headers["Retry-After"] == "3600"
    assert answer.json()["error"]["details"]["status"] == 429
    assert upstream.count("/rate-limited") == 1


@pytest.mark.parametrize("tool", ["WAYWARD_GET", "WAYWARD_POST_AGAIN"])
def test_a_short_retry_after_is_waited_for_where_repeating_is_safe(
    product: Product, upstream: Upstream, user: str, tool: str
) -> None:
    path = f"rate-limited-once/{user}"
    started = time.monotonic()
    answer = execute(product, tool, user, path=path)
    assert (answer.status_code, answer.json()["data"]) == (200, {"attempt": 2})
    assert 1 <= time.monotonic() - started < 3
    assert upstream.count(f"/{path}") == 2


def test_what_is_not_safe_to_repeat_is_not_repeated(product: Product, upstream: Upstream, user: str) -> None:
    path = f"rate-limited-once/{user}"
    answer = execute(product, "WAYWARD_POST", user, path=path)
    assert code_of(answer) == (422, "INTEGRATIONS_EXECUTION_FAILED")
    assert answer.headers["Retry-After"] == "1"
    assert upstream.count(f"/{path}") == 1


def test_a_provider_that_stays_down_is_asked_three_times(product: Product, upstream: Upstream, user: str) -> None:
    answer = execute(product, "WAYWARD_GET", user, path="status/503")
    assert code_of(answer) == (422, "INTEGRATIONS_EXECUTION_FAILED")
    assert upstream.count("/status/503") == 3
    assert answer.json()["error"]["details"]["status"] == 503


def test_a_provider_that_never_answers_is_a_502_in_time(product: Product, user: str) -> None:
    started = time.monotonic()
    answer = execute(product, "WAYWARD_GET_SOON", user, path="hang")
    assert code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")
    assert 1.9 < time.monotonic() - started < 3


@pytest.mark.parametrize(("tool", "tries"), [("WAYWARD_GET", 3), ("WAYWARD_POST", 1)])
def test_a_broken_connection_is_a_502(product: Product, upstream: Upstream, user: str, tool: str, tries: int) -> None:
    execute(product, tool, user, path="echo")  # so that a kept connection breaks, not only a new one
    answer = execute(product, tool, user, path="reset")
    assert code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")
    if tool == "WAYWARD_POST":
        assert upstream.count("/reset") == tries
    else:
        assert upstream.count("/reset") >= tries


def test_a_provider_that_is_not_there_is_a_502(product: Product, upstream: Upstream, user: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        enable_wayward(product, upstream, base_url=f"http://127.0.0.1:{closed.getsockname()[1]}")
        answer = execute(product, "WAYWARD_POST", user, path="echo")
    assert code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")
    enable_wayward(product, upstream, base_url="http://nowhere.invalid")
    assert code_of(execute(product, "WAYWARD_POST", user, path="echo"))[0] == 502


def test_nine_megabytes_are_handed_on_and_twenty_are_not(product: Product, user: str) -> None:
    answer = execute(product, "WAYWARD_GET", user, path="big", bytes=9_000_000)
    assert answer.status_code == 200
    assert len(answer.json()["data"]["data"]) == 9_000_000 - len('{"data": ""}')
    answer = execute(product, "WAYWARD_GET", user, path="big")
    assert code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")
    assert "proxy" in answer.json()["error"]["remediation"]


def test_a_bomb_does_not_fill_the_memory(product: Product, user: str) -> None:
    web = [pid for pid, command in product.processes().items() if "granian" in command]
    before = {pid: peak_memory(pid, reset=True) for pid in web}
    started = time.monotonic()
    answer = execute(product, "WAYWARD_GET", user, path="bomb")
    seconds = time.monotonic() - started
    grown = max(peak_memory(pid) - resident for pid, resident in before.items())
    print(f"bomb of 2 GB: refused after {seconds:.2f} s, {grown / 2**20:.0f} MiB more memory at the peak")
    assert code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")
    assert grown < 64 * 2**20
    assert seconds < 5


def peak_memory(pid: int, *, reset: bool = False) -> int:
    """Bytes resident at most since the last reset; with ``reset``, now."""
    if reset:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS" if reset else "VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data", "http://10.0.0.1/", "http://[::1]:{port}/", "http://0.0.0.0:{port}/"]
)  # fmt: skip
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_to_a_private_address_reaches_nothing(product: Product, user: str, target: str, status: int) -> None:
    with Tripwire() as wire:
        started = time.monotonic()
        answer = execute(product, "WAYWARD_GET", user, path="redirect", to=target.format(port=wire.port), status=status)
        assert code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")
        assert time.monotonic() - started < 2
        assert not wire.tripped()


def test_the_tripwire_trips() -> None:
    with Tripwire() as wire:
        assert not wire.tripped()
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, wire.port)).close()
            assert wire.tripped()


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "http://[bad", "http://127.0.0.1:99999/", "ftp://127.0.0.1/", "//"]
)
def test_a_redirect_to_nowhere_is_a_502(product: Product, user: str, target: str) -> None:
    answer = execute(product, "WAYWARD_GET", user, path="redirect", to=target)
    assert code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")


def test_a_credential_follows_a_redirect_within_its_origin_only(
    product: Product, upstream: Upstream, elsewhere: Upstream, user: str
) -> None:
    elsewhere.reset()
    here = execute(product, "WAYWARD_GET", user, path="redirect", to="/echo/here").json()["data"]
    assert here["headers"]["authorization"].startswith("Bearer access-")
    there = execute(product, "WAYWARD_GET", user, path="redirect", to=f"{elsewhere.url}/echo/there").json()["data"]
    assert "authorization" not in there["headers"]
    back = f"{elsewhere.url}/redirect?to={upstream.url}/echo/back"
    assert (
        "authorization" not in execute(product, "WAYWARD_GET", user, path="redirect", to=back).json()["data"]["headers"]
    )


def test_a_redirected_post_is_not_sent_elsewhere(
    product: Product, upstream: Upstream, elsewhere: Upstream, user: str
) -> None:
    elsewhere.reset()
    answer = execute(product, "WAYWARD_POST", user, path="redirect", text="for you alone")
    assert code_of(answer) == (422, "INTEGRATIONS_EXECUTION_FAILED")
    assert answer.json()["error"]["details"]["status"] == 302
    assert upstream.count("/echo") == 0


def test_redirects_in_a_circle_end(product: Product, upstream: Upstream, user: str) -> None:
    answer = execute(product, "WAYWARD_GET", user, path="redirect", to="/redirect?to=/redirect%3Fto=/redirect")
    assert answer.status_code == 200 or code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")
    answer = execute(product, "WAYWARD_GET", user, path="redirect", to="?to=?")
    assert code_of(answer) == (502, "INTEGRATIONS_EXECUTION_FAILED")
    assert upstream.count("/redirect") < 40


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"path": "echo", "X-Note": "a\r\nX-Evil: 1"}, "params.X-Note"),
        ({"path": "echo", "X-Note": "a\x00b"}, "params.X-Note"),
        ({"path": "../../etc/passwd"}, "params.path"),
        ({"path": "echo/../secret"}, "params.path"),
        ({"path": ""}, "params.path"),
        ({"path": 5}, "params.path"),
        ({}, "params.path"),
        ({"path": "echo", "unknown": 1}, "params.unknown"),
    ],
)
def test_bad_parameters_never_leave_the_house(
    product: Product, upstream: Upstream, user: str, params: dict[str, Any], field: str
) -> None:
    answer = execute(product, "WAYWARD_GET", user, **params)
    assert code_of(answer) == (400, "VALIDATION_INVALID_SCHEMA")
    assert list(answer.json()["error"]["details"]) == [field]
    assert upstream.counts() == {}


def test_parameters_are_escaped_into_their_places(product: Product, upstream: Upstream, user: str) -> None:
    seen = execute(product, "WAYWARD_GET", user, path="echo/a b?c=d#e%2f..", to="x&status=9", **{"X-Note": "Grüße"})
    assert seen.status_code == 200, seen.text
    data = seen.json()["data"]
    assert data["path"] == "/echo/a%20b%3Fc%3Dd%23e%252f.."
    assert data["query"] == {"to": ["x&status=9"]}
    assert data["headers"]["x-note"].encode("latin-1").decode() == "Grüße"


# -- What is kept ----------------------------------------------------------------------------------------------------
API_KEY = "wayward-api-key/with+odd=characters&more"

EVERYTHING_STORED = """
import json
from django.apps import apps
from apps.connections.models import Connection, Integration
def texts(value):
    if isinstance(value, dict):
        return [text for member in value.values() for text in texts(member)]
    return [value] if isinstance(value, str) else []
secrets = [text for row in Connection.objects.all() for text in texts(row.unseal("credentials"))]
secrets += [text for row in Integration.objects.all() for text in [row.unseal("client_secret")] if text]
tables = {
    model._meta.label: repr(list(model._default_manager.values()))
    for model in apps.get_models() if model._meta.app_label in {"connections", "runs", "workspaces", "toolkits"}
}
print(json.dumps({"secrets": secrets, "tables": tables}))
"""


def test_nothing_secret_is_kept_in_the_clear(
    product: Product, upstream: Upstream, oidc_provider: OidcProvider, user: str
) -> None:
    """After calls whose answers repeat everything that was sent, and after every flow before this test."""
    connect_by_key(product, user_with_key := new_user())
    seen = execute(product, "WAYWARD_POST", user_with_key, path="echo/key", text=f"my key is {API_KEY}")
    assert seen.json()["data"]["headers"]["x-secret-key"] == API_KEY  # the caller gets the answer as it is

    user_with_token = new_user()
    token = connect_with_real_tokens(product, upstream, oidc_provider, user_with_token)
    seen = execute(product, "WAYWARD_GET", user_with_token, path="echo/token", to=f"{token} once more")
    assert seen.json()["data"]["headers"]["authorization"] == f"Bearer {token}"
    for path in ("text", "status/500", "reset", f"echo/{token}"):
        execute(product, "WAYWARD_GET", user_with_token, path=path, to=token)
    execute(product, "WAYWARD_GET", user_with_key, path=f"echo/{API_KEY}", to=API_KEY)

    logged = product.call("GET", f"executions?userId={user_with_token}").json()["executions"]
    assert len(logged) == 5
    assert any("********" in row["response"] for row in logged)
    assert any("********" in row["request"] for row in logged)

    stored = json.loads(product.run(EVERYTHING_STORED))
    secrets = {text for text in stored["secrets"] if len(text) > 10}  # access-1 and the like are words of the paths
    assert {API_KEY, token, POST.client_secret} <= secrets
    secrets |= {product.facts["api_key"], product.facts["admin_password"]}
    secrets |= {quote(text, safe="") for text in secrets} | {quote(text) for text in secrets}
    for name, rows in stored["tables"].items():
        assert not [secret for secret in secrets if secret in rows], name
    files = [*product.home.glob("jackfield.sqlite3*"), product.home / "output.log"]
    for file in files:
        content = file.read_bytes()
        hidden = (
            secrets if file.suffix != ".log" else secrets - {product.facts["api_key"], product.facts["admin_password"]}
        )
        assert not [secret for secret in hidden if secret.encode() in content], file.name


def connect_by_key(product: Product, user: str) -> None:
    started = begin(product, "wayward", user, authScheme="api_key")
    with requests.Session() as browser:
        form = forms(browser.get(started["authUrl"], timeout=10).text)[0]
        form.fields["api_key"] = API_KEY
        done = browser.post(
            started["authUrl"],
            data=form.fields,
            headers={"Referer": started["authUrl"]},
            allow_redirects=False,
            timeout=10,
        )
    assert query_of(done.headers["Location"])["status"] == "connected"


def connect_with_real_tokens(product: Product, upstream: Upstream, provider: OidcProvider, user: str) -> str:
    """Connects the wayward API by the strict provider's OAuth, whose tokens are long and random; the access token."""
    settings = {
        "base_url": upstream.url,
        "authorization_url": provider.authorization_url,
        "token_url": provider.token_url,
        "revocation_url": provider.revocation_url,
    }
    configure(product, "wayward", POST.client_id, POST.client_secret, **settings)
    scopes = {"toolkit": "wayward", "scopes": ["openid", "offline_access"]}
    assert product.call("POST", "integrations/configure", json=scopes).status_code == 200
    provider.allow(f"{product.url}/v1/{product.facts['project_id']}/integrations/callback")
    provider.reset()
    provider.set_ttl(access=60)
    started = begin(product, "wayward", user)
    done = query_of(come_back(provider.approve(f"{started['authUrl']}&prompt=consent")))
    assert done["status"] == "connected"
    assert product.call("POST", "integrations/configure", json=scopes | {"scopes": []}).status_code == 200
    return str(upstream.requests("/echo/profile")[-1]["headers"]["authorization"]).removeprefix("Bearer ")


def test_the_callers_key_never_reaches_the_provider(product: Product, upstream: Upstream, user: str) -> None:
    execute(product, "WAYWARD_GET", user, path="echo")
    sent = json.dumps(upstream.requests("/echo"))
    assert product.facts["api_key"] not in sent
    assert urlsplit(product.url).netloc not in sent
