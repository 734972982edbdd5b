"""The peers do what their fixtures promise: without this, a green acceptance test may only mean a tame server."""

import base64
import gzip
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import psycopg
import pytest
import requests
from playwright.sync_api import Browser

from tests.peers.emulate import DEFAULT_REDIRECTS, EMAIL, GITHUB_TOKEN, Emulate, Service
from tests.peers.fixtures import cannot_have
from tests.peers.node import find_node
from tests.peers.oidc import BASIC, MACHINE, POST, PUBLIC, OAuthClient, OidcProvider
from tests.peers.postgres import Postgres
from tests.peers.process import PeerError
from tests.peers.upstream import Upstream
from tests.peers.valkey import Valkey

REDIRECT = DEFAULT_REDIRECTS[0]
VERIFIER = "a-verifier-that-is-long-enough-for-the-standard-0123456789"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def web() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def oidc(oidc_provider: OidcProvider) -> OidcProvider:
    oidc_provider.reset()
    return oidc_provider


@pytest.fixture
def up(upstream: Upstream) -> Upstream:
    upstream.reset()
    return upstream


def query_of(url: str) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}


# --- emulate -----------------------------------------------------------------------------------------------------


def emulated_token(web: requests.Session, emulate: Emulate, service: Service, scope: str) -> dict[str, Any]:
    asked = {"client_id": service.client_id, "redirect_uri": REDIRECT, "scope": scope, "state": "s1"}
    callback = emulate.approve(f"{service.authorization_url}?{urlencode({**asked, 'response_type': 'code'})}")
    assert callback.startswith(REDIRECT)
    assert query_of(callback)["state"] == "s1"
    form = {
        "grant_type": "authorization_code",
        "code": query_of(callback)["code"],
        "redirect_uri": REDIRECT,
        "client_id": service.client_id,
        "client_secret": service.client_secret,
    }
    answer = web.post(service.token_url, data=form, headers={"Accept": "application/json"}, timeout=10)
    assert answer.status_code == 200, answer.text
    token: dict[str, Any] = answer.json()
    return token


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_github_is_connected_and_serves_the_seeded_issues(web: requests.Session, emulate: Emulate) -> None:
    token = emulated_token(web, emulate, emulate.github, "repo user")["access_token"]
    user = web.get(f"{emulate.github.url}/user", headers=bearer(token), timeout=10).json()
    issues = web.get(f"{emulate.github.url}/repos/alice/switchboard/issues", headers=bearer(token), timeout=10).json()
    assert user["login"] == "alice"
    assert {issue["title"] for issue in issues} == {"The lamp flickers", "The cable is too short"}


def test_google_is_connected_and_serves_mail_calendar_and_drive(web: requests.Session, emulate: Emulate) -> None:
    emulate.reset()  # other tests write to the same one
    token = emulated_token(web, emulate, emulate.google, "openid email")
    assert token["refresh_token"]

    def get(path: str) -> Any:
        return web.get(emulate.google.url + path, headers=bearer(token["access_token"]), timeout=10).json()

    assert get("/oauth2/v2/userinfo")["email"] == EMAIL
    assert {message["id"] for message in get("/gmail/v1/users/me/messages")["messages"]} == {
        "alice_welcome",
        "alice_invoice",
    }
    assert [event["summary"] for event in get("/calendar/v3/calendars/primary/events")["items"]] == ["Kickoff"]
    assert {file["name"] for file in get("/drive/v3/files")["files"]} >= {"Docs", "readme.txt"}


def test_slack_is_connected_and_lists_the_seeded_channels(web: requests.Session, emulate: Emulate) -> None:
    token = emulated_token(web, emulate, emulate.slack, "channels:read,chat:write")["access_token"]
    url = f"{emulate.slack.url}/api/conversations.list"
    answer = web.post(url, headers=bearer(token), timeout=10).json()
    assert answer["ok"]
    assert {channel["name"] for channel in answer["channels"]} >= {"general", "random", "operations"}


def test_microsoft_is_connected(web: requests.Session, emulate: Emulate) -> None:
    token = emulated_token(web, emulate, emulate.microsoft, "openid email offline_access User.Read")
    me = web.get(f"{emulate.microsoft.url}/v1.0/me", headers=bearer(token["access_token"]), timeout=10).json()
    assert me["mail"] == EMAIL


def test_another_account_can_be_picked(web: requests.Session, emulate: Emulate) -> None:
    asked = urlencode({"client_id": emulate.github.client_id, "redirect_uri": REDIRECT, "state": "s"})
    assert "code=" in emulate.approve(f"{emulate.github.authorization_url}?{asked}", account="bob")
    with pytest.raises(PeerError, match="no account nobody"):
        emulate.approve(f"{emulate.github.authorization_url}?{asked}", account="nobody")


def test_a_redirect_uri_counts_only_once_it_is_allowed(web: requests.Session, emulate: Emulate) -> None:
    elsewhere = "http://127.0.0.1:54321/elsewhere"
    asked = urlencode({"client_id": emulate.google.client_id, "redirect_uri": elsewhere, "state": "s"})
    with pytest.raises(PeerError, match="answered 400"):
        emulate.approve(f"{emulate.google.authorization_url}?{asked}")
    address = emulate.google.url
    emulate.allow(elsewhere)
    assert emulate.google.url == address
    assert emulate.approve(f"{emulate.google.authorization_url}?{asked}").startswith(elsewhere)
    repositories = web.get(f"{emulate.github.url}/user/repos", headers=bearer(GITHUB_TOKEN), timeout=10).json()
    assert {repository["name"] for repository in repositories} >= {"switchboard", "ledger"}


# --- oidc-provider -----------------------------------------------------------------------------------------------


def authorization(oidc: OidcProvider, client: OAuthClient = BASIC, **changes: str | None) -> str:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
    asked = {
        "client_id": client.client_id,
        "response_type": "code",
        "redirect_uri": REDIRECT,
        "scope": "openid email api:read",
        "state": "s1",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        **changes,
    }
    return f"{oidc.authorization_url}?{urlencode({key: value for key, value in asked.items() if value is not None})}"


def ask_token(web: requests.Session, oidc: OidcProvider, client: OAuthClient, **form: str) -> requests.Response:
    auth = None
    if client.auth_method == "client_secret_basic":
        auth = (client.client_id, client.client_secret)
    else:
        form["client_id"] = client.client_id
        if client.client_secret:
            form["client_secret"] = client.client_secret
    return web.post(oidc.token_url, data=form, auth=auth, timeout=10)


def exchange(
    web: requests.Session, oidc: OidcProvider, callback: str, client: OAuthClient = BASIC, verifier: str = VERIFIER
) -> requests.Response:
    code = query_of(callback)["code"]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": verifier}
    return ask_token(web, oidc, client, **form)


def connect(web: requests.Session, oidc: OidcProvider, client: OAuthClient = BASIC) -> dict[str, Any]:
    answer = exchange(web, oidc, oidc.approve(authorization(oidc, client)), client)
    assert answer.status_code == 200, answer.text
    token: dict[str, Any] = answer.json()
    return token


def refresh(web: requests.Session, oidc: OidcProvider, token: str) -> requests.Response:
    return ask_token(web, oidc, BASIC, grant_type="refresh_token", refresh_token=token)


def me(web: requests.Session, oidc: OidcProvider, token: str) -> requests.Response:
    return web.get(oidc.api_url, headers=bearer(token), timeout=10)


@pytest.mark.parametrize("client", [BASIC, POST, PUBLIC], ids=lambda client: client.auth_method)
def test_login_and_consent_lead_to_a_token_that_the_api_takes(
    web: requests.Session, oidc: OidcProvider, client: OAuthClient
) -> None:
    token = connect(web, oidc, client)
    answer = me(web, oidc, token["access_token"])
    assert answer.status_code == 200
    assert answer.json()["sub"] == "alice"
    assert token["expires_in"] == 5
    assert token["refresh_token"]
    assert oidc.counts()["success"] == {"authorization_code": 1}


def test_turning_back_is_access_denied(oidc: OidcProvider) -> None:
    callback = oidc.deny(authorization(oidc))
    assert query_of(callback) | {"error_description": "", "iss": ""} == {
        "error": "access_denied",
        "error_description": "",
        "iss": "",
        "state": "s1",
    }


def test_pkce_is_required_and_checked(web: requests.Session, oidc: OidcProvider) -> None:
    without = oidc.approve(authorization(oidc, code_challenge=None, code_challenge_method=None))
    assert query_of(without)["error"] == "invalid_request"
    wrong = exchange(web, oidc, oidc.approve(authorization(oidc)), verifier="x" * 50)
    assert wrong.json()["error"] == "invalid_grant"


def test_access_tokens_expire_on_the_second(web: requests.Session, oidc: OidcProvider) -> None:
    oidc.set_ttl(access=3)  # whole seconds: a token of one may be born nearly dead
    token = connect(web, oidc)["access_token"]
    assert me(web, oidc, token).status_code == 200
    time.sleep(4)
    assert me(web, oidc, token).status_code == 401
    assert oidc.counts()["denied"] == 1


def test_a_refresh_token_rotates_and_its_reuse_kills_the_grant(web: requests.Session, oidc: OidcProvider) -> None:
    first = connect(web, oidc)["refresh_token"]
    second = refresh(web, oidc, first).json()
    assert second["refresh_token"] != first
    assert refresh(web, oidc, first).json()["error"] == "invalid_grant"
    assert refresh(web, oidc, second["refresh_token"]).json()["error"] == "invalid_grant"
    assert me(web, oidc, second["access_token"]).status_code == 401
    assert oidc.counts()["token"] == {"authorization_code": 1, "refresh_token": 3}
    assert oidc.counts()["error"] == {"invalid_grant": 2}


def test_revocation_ends_the_grant(web: requests.Session, oidc: OidcProvider) -> None:
    token = connect(web, oidc)
    auth = (BASIC.client_id, BASIC.client_secret)
    done = web.post(oidc.revocation_url, data={"token": token["refresh_token"]}, auth=auth, timeout=10)
    assert done.status_code == 200
    assert refresh(web, oidc, token["refresh_token"]).json()["error"] == "invalid_grant"
    assert me(web, oidc, token["access_token"]).status_code == 401
    assert oidc.counts()["revocation"] == 1


def test_introspection_and_userinfo_know_the_token(web: requests.Session, oidc: OidcProvider) -> None:
    token = connect(web, oidc)["access_token"]
    auth = (BASIC.client_id, BASIC.client_secret)
    assert web.post(oidc.introspection_url, data={"token": token}, auth=auth, timeout=10).json()["active"] is True
    assert web.get(oidc.userinfo_url, headers=bearer(token), timeout=10).json()["email"] == EMAIL


def test_a_machine_gets_a_token_by_client_credentials(web: requests.Session, oidc: OidcProvider) -> None:
    token = ask_token(web, oidc, MACHINE, grant_type="client_credentials", scope="api:read").json()
    assert "refresh_token" not in token
    assert me(web, oidc, token["access_token"]).json()["sub"] == MACHINE.client_id


def test_the_token_endpoint_breaks_on_demand(web: requests.Session, oidc: OidcProvider) -> None:
    token = connect(web, oidc)["refresh_token"]
    oidc.fault("500")
    assert refresh(web, oidc, token).status_code == 500
    oidc.fault("html")
    assert refresh(web, oidc, token).headers["content-type"] == "text/html"
    oidc.fault("slow", seconds=0.5)
    started = time.monotonic()
    token = refresh(web, oidc, token).json()["refresh_token"]
    assert time.monotonic() - started >= 0.5
    oidc.fault("500", times=1)
    assert [refresh(web, oidc, token).status_code for _ in range(2)] == [500, 200]
    assert oidc.counts()["token"]["refresh_token"] == 5


def test_a_lost_answer_leaves_the_old_refresh_token_used(web: requests.Session, oidc: OidcProvider) -> None:
    token = connect(web, oidc)["refresh_token"]
    oidc.fault("lost", times=1)
    with pytest.raises(requests.ConnectionError):
        refresh(web, oidc, token)
    assert refresh(web, oidc, token).json()["error"] == "invalid_grant"


def test_the_api_breaks_on_demand(web: requests.Session, oidc: OidcProvider) -> None:
    token = connect(web, oidc)["access_token"]
    oidc.fault("429", "api", times=1)
    assert [me(web, oidc, token).status_code for _ in range(2)] == [429, 200]


def test_a_new_redirect_uri_is_allowed_at_once(oidc: OidcProvider) -> None:
    elsewhere = "http://127.0.0.1:54322/elsewhere"
    with pytest.raises(PeerError, match="answered 400"):
        oidc.approve(authorization(oidc, redirect_uri=elsewhere))
    oidc.allow(elsewhere)
    assert oidc.approve(authorization(oidc, redirect_uri=elsewhere)).startswith(elsewhere)


@pytest.mark.browser
def test_a_person_logs_in_and_consents_in_chromium(chromium: Browser, oidc: OidcProvider, up: Upstream) -> None:
    landing = f"{up.url}/text"
    oidc.allow(landing)
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(authorization(oidc, redirect_uri=landing), wait_until="domcontentloaded")
        page.fill("input[name=login]", "alice")
        page.fill("input[name=password]", "any")
        page.click("button[type=submit]")
        page.wait_for_selector("input[name=prompt][value=consent]", state="attached")
        page.click("button[type=submit]")
        page.wait_for_url(f"{landing}**")
        assert query_of(page.url)["code"]


@pytest.mark.browser
def test_a_person_picks_an_account_in_chromium(chromium: Browser, emulate: Emulate, up: Upstream) -> None:
    landing = f"{up.url}/text"
    emulate.allow(landing)
    asked = urlencode({"client_id": emulate.github.client_id, "redirect_uri": landing, "state": "s1"})
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"{emulate.github.authorization_url}?{asked}", wait_until="domcontentloaded")
        page.locator("form", has_text="alice").locator("button").click()
        page.wait_for_url(f"{landing}**")
        assert query_of(page.url)["state"] == "s1"


# --- upstream ----------------------------------------------------------------------------------------------------


def test_echo_tells_what_it_got_and_the_peer_remembers_it(web: requests.Session, up: Upstream) -> None:
    answer = web.post(f"{up.url}/echo/x?a=1&a=2", json={"k": "v"}, headers={"X-One": "1"}, timeout=10).json()
    assert (answer["method"], answer["path"], answer["query"]) == ("POST", "/echo/x", {"a": ["1", "2"]})
    assert answer["json"] == {"k": "v"}
    assert answer["headers"]["x-one"] == "1"
    assert up.count("/echo/x") == 1
    assert up.requests("/echo/x")[0]["body"] == '{"k": "v"}'
    up.reset()
    assert up.counts() == {}


def test_echo_reads_chunked_bodies(web: requests.Session, up: Upstream) -> None:
    assert web.post(f"{up.url}/echo", data=iter([b"ab", b"cd"]), timeout=10).json()["body"] == "abcd"


@pytest.mark.parametrize(
    ("path", "status", "content_type", "body"),
    [
        ("html", 200, "text/html; charset=utf-8", b"<!doctype"),
        ("empty", 200, None, b""),
        ("no-content", 204, None, b""),
        ("text", 200, "text/plain; charset=utf-8", "Grüße".encode()),
        ("binary", 200, "application/octet-stream", bytes(range(256))),
        ("list", 200, "application/json", b"[1, 2"),
        ("broken-json", 200, "application/json", b'{"half": '),
        ("500", 500, "text/plain", b"broken"),
        ("status/418", 418, "application/json", b'{"status": 418}'),
    ],
)
def test_fixed_answers(
    web: requests.Session, up: Upstream, path: str, status: int, content_type: str | None, body: bytes
) -> None:
    answer = web.get(f"{up.url}/{path}", timeout=10)
    assert (answer.status_code, answer.headers.get("content-type")) == (status, content_type)
    assert answer.content.startswith(body)


def test_rate_limits_for_an_hour_and_once(web: requests.Session, up: Upstream) -> None:
    hour = web.get(f"{up.url}/rate-limited", timeout=10)
    assert (hour.status_code, hour.headers["retry-after"]) == (429, "3600")
    first, second = (web.get(f"{up.url}/rate-limited-once/a", timeout=10) for _ in range(2))
    assert (first.status_code, first.headers["retry-after"], second.status_code) == (429, "1", 200)


def test_hangs_while_others_are_served(web: requests.Session, up: Upstream) -> None:
    with pytest.raises(requests.ReadTimeout):
        web.get(f"{up.url}/hang", timeout=0.5)
    assert web.get(f"{up.url}/echo", timeout=10).status_code == 200


def test_big_is_20_megabytes_of_json(web: requests.Session, up: Upstream) -> None:
    answer = web.get(f"{up.url}/big", timeout=30)
    assert len(answer.content) == 20_000_000
    assert set(answer.json()) == {"data"}


def packed_bomb(web: requests.Session, up: Upstream, megabytes: int | None = None) -> bytes:
    with web.get(f"{up.url}/bomb", params={"megabytes": megabytes}, stream=True, timeout=30) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        packed: bytes = answer.raw.read(decode_content=False)
        return packed


def test_the_bomb_is_small_on_the_wire_and_announces_2_gigabytes(web: requests.Session, up: Upstream) -> None:
    packed = packed_bomb(web, up)
    assert len(packed) < 3_000_000
    assert int.from_bytes(packed[-4:], "little") == 2 * 1024**3


def test_the_bomb_is_valid_gzip(web: requests.Session, up: Upstream) -> None:
    assert gzip.decompress(packed_bomb(web, up, 32)) == bytes(32 * 1024**2)


def test_redirects_where_it_is_told(web: requests.Session, up: Upstream) -> None:
    target = "http://10.0.0.1/secret"
    answer = web.get(f"{up.url}/redirect", params={"to": target}, allow_redirects=False, timeout=10)
    assert (answer.status_code, answer.headers["location"]) == (302, target)


def test_resets_the_connection(web: requests.Session, up: Upstream) -> None:
    with pytest.raises(requests.ConnectionError, match="reset"):
        web.get(f"{up.url}/reset", timeout=10)


def test_wants_its_bearer_token(web: requests.Session, up: Upstream) -> None:
    codes = [
        web.get(f"{up.url}/bearer/good", headers=bearer(token), timeout=10).status_code for token in ("good", "bad")
    ]
    assert codes == [200, 401]


def test_authorizes_without_asking_and_denies(web: requests.Session, up: Upstream) -> None:
    asked = {"redirect_uri": f"{REDIRECT}?kept=1", "state": "s1"}
    yes, no = (
        web.get(up.url + path, params=asked, allow_redirects=False, timeout=10).headers["location"]
        for path in ("/authorize", "/authorize/deny")
    )
    assert query_of(yes) == {"kept": "1", "code": "code-1", "state": "s1"}
    assert query_of(no) == {"kept": "1", "error": "access_denied", "state": "s1"}


def test_token_answers_come_in_every_shape(web: requests.Session, up: Upstream) -> None:
    def ask(variant: str) -> requests.Response:
        return web.post(f"{up.url}/token/{variant}", data={"grant_type": "refresh_token"}, timeout=10)

    assert ask("ok").json()["access_token"] == "access-1"
    assert ask("ok").json()["access_token"] == "access-2"
    assert "expires_in" not in ask("no-expires-in").json()
    assert "refresh_token" not in ask("no-refresh-token").json()
    assert ask("string-expires-in").json()["expires_in"] == "3600"
    assert parse_qs(ask("form").text)["access_token"] == ["access-1"]
    assert ask("html").text.startswith("<!doctype")
    assert ask("500").status_code == 500
    assert (ask("invalid-grant").status_code, ask("invalid-grant").json()["error"]) == (400, "invalid_grant")
    with pytest.raises(requests.ReadTimeout):
        web.post(f"{up.url}/token/hang", timeout=0.3)
    assert up.count("/token/ok") == 2


def test_serves_many_at_once(up: Upstream) -> None:
    def ask(_: int) -> float:
        seconds: float = requests.get(f"{up.url}/slow?seconds=0.5", timeout=10).json()["seconds"]
        return seconds

    started = time.monotonic()
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(32))) == [0.5] * 32
    assert time.monotonic() - started < 5


# --- PostgreSQL, Valkey, processes -------------------------------------------------------------------------------


def test_postgres_is_real_and_its_owner_makes_databases(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        row = connection.execute("SELECT version(), lower('ÄÖ'), current_setting('fsync')").fetchone()
        assert row is not None
        assert row[0].startswith("PostgreSQL 18")
        assert row[1:] == ("äö", "off")
        connection.execute("CREATE DATABASE test_other")
        connection.execute("DROP DATABASE test_other")


def test_postgres_serves_as_a_program_until_its_input_closes() -> None:
    command = [sys.executable, "-m", "tests.peers.postgres"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as helper:
        assert helper.stdout is not None
        assert helper.stdin is not None
        url = helper.stdout.readline().strip()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        helper.stdin.close()
        assert helper.wait(15) == 0
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=2)


def test_valkey_answers_on_tcp_and_on_its_socket(valkey: Valkey) -> None:
    redis = pytest.importorskip("redis")
    with redis.Redis.from_url(valkey.url) as tcp, redis.Redis.from_url(valkey.socket_url) as unix:
        tcp.set("line", "open")
        assert unix.get("line") == b"open"


def test_a_stopped_peer_is_gone_with_its_folder() -> None:
    with Upstream() as peer:
        pid, folder = peer.pid, peer.folder
        os.kill(pid, 0)
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_a_peer_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = "from tests.peers.upstream import Upstream; print(Upstream().start().pid, flush=True); input()"
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}  # whoever is killed cannot tidy up
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    """A zombie that nobody has collected yet is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_peer_that_cannot_be_had_skips_loudly_but_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="NO CHROMIUM ON THIS MACHINE"):
        cannot_have("Chromium", "because")


def test_node_is_found_once_installed(emulate: Emulate) -> None:
    node = find_node()
    version = subprocess.run([node.binary, "--version"], capture_output=True, text=True, check=True).stdout
    assert int(version[1:].split(".")[0]) >= 24
    assert emulate.pid
