"""The emulated services (npm `emulate`): stateful GitHub, Google, Slack and Microsoft with their OAuth pages.

GitHub, Google (Gmail, Calendar, Drive) and Slack serve their APIs; of Microsoft only sign-in and `/v1.0/me`. Not
served: Gmail's profile, and most of Slack's methods by GET. It accepts bearer tokens it never issued, so it proves
nothing about revocation, and checks no PKCE verifier at GitHub and Slack. `oidc.py` is the strict one.
"""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import requests

from tests.peers.forms import Form, browsing, forms
from tests.peers.node import Node, find_node
from tests.peers.process import HOST, Peer, PeerError, answers_http, free_port

SERVICES = ("github", "google", "slack", "microsoft")
CALLBACK = "/v1/integrations/callback"
DEFAULT_REDIRECTS = [f"http://{host}{CALLBACK}" for host in ("testserver", "127.0.0.1:8000", "localhost:8000")]
GITHUB_TOKEN = "emulated-github-token"
LOGIN = "alice"
EMAIL = "alice@example.com"
SLACK_SCOPES = [
    "chat:write",
    "channels:read",
    "channels:history",
    "channels:join",
    "channels:manage",
    "channels:write",
    "groups:read",
    "groups:history",
    "groups:write",
    "im:read",
    "im:history",
    "im:write",
    "mpim:read",
    "mpim:history",
    "mpim:write",
    "users:read",
    "users:read.email",
    "users.profile:read",
    "users.profile:write",
    "users:write",
    "files:read",
    "files:write",
    "pins:read",
    "pins:write",
    "bookmarks:read",
    "bookmarks:write",
    "reactions:read",
    "reactions:write",
    "team:read",
]
PATHS = {
    "github": ("/login/oauth/authorize", "/login/oauth/access_token"),
    "google": ("/o/oauth2/v2/auth", "/oauth2/token"),
    "slack": ("/oauth/v2/authorize", "/api/oauth.v2.access"),
    "microsoft": ("/oauth2/v2.0/authorize", "/oauth2/v2.0/token"),
}


@dataclass(frozen=True)
class Service:
    """One emulated service: where it is, and the OAuth client that is registered there for us."""

    name: str
    url: str
    client_id: str
    client_secret: str
    account: str

    @property
    def authorization_url(self) -> str:
        return self.url + PATHS[self.name][0]

    @property
    def token_url(self) -> str:
        return self.url + PATHS[self.name][1]


class Emulate(Peer):
    """`redirect_uris` is where its OAuth clients may send people back to; ports of them count."""

    def __init__(self, redirect_uris: list[str] | None = None) -> None:
        super().__init__()
        self.redirect_uris = list(redirect_uris or DEFAULT_REDIRECTS)
        self._node: Node | None = None
        self._ports: dict[str, int] = {}
        self._ports_proven = False

    @property
    def github(self) -> Service:
        return self.service("github")

    @property
    def google(self) -> Service:
        return self.service("google")

    @property
    def slack(self) -> Service:
        return self.service("slack")

    @property
    def microsoft(self) -> Service:
        return self.service("microsoft")

    def service(self, name: str) -> Service:
        account = LOGIN if name in ("github", "slack") else EMAIL
        return Service(name, f"http://{HOST}:{self._ports[name]}", f"{name}-client", f"{name}-secret", account)

    def allow(self, redirect_uri: str) -> None:
        """Register one more redirect URI. A new one restarts the services: same addresses, seeded state, no tokens."""
        if redirect_uri not in self.redirect_uris:
            self.redirect_uris.append(redirect_uri)
            self.reset()

    def reset(self) -> None:
        """Back to the seeded state, at the same addresses; tokens issued before are unknown then."""
        self.stop()
        self.start()

    def approve(self, authorize_url: str, session: requests.Session | None = None, account: str | None = None) -> str:
        """Pick an account on the page behind `authorize_url`; the callback URL, not followed."""
        with browsing(session) as own:
            page = own.get(authorize_url, timeout=10)
            if page.status_code != 200:
                raise PeerError(f"{authorize_url} answered {page.status_code}: {page.text[:500]}")
            form = _choose(forms(page.text), account)
            answer = own.post(urljoin(page.url, form.action), data=form.fields, allow_redirects=False, timeout=10)
        if "location" not in answer.headers:
            raise PeerError(f"the user picker answered {answer.status_code}: {answer.text[:500]}")
        return answer.headers["location"]

    def prepare(self) -> None:
        self._node = self._node or find_node()
        if not self._ports_proven:  # a restart keeps its addresses; a first attempt that failed takes others
            self._ports = {name: free_port() for name in SERVICES}
        (self.folder / "seed.json").write_text(json.dumps(self._seed()))

    def command(self) -> list[str]:
        if self._node is None:
            raise PeerError("prepare() comes first")
        program = self._node.modules / "emulate" / "dist" / "index.js"
        seed = str(self.folder / "seed.json")
        return [str(self._node.binary), str(program), "start", "--host", HOST, "--seed", seed]

    def ready(self) -> bool:
        if not all(answers_http(self.service(name).url) for name in SERVICES):
            return False
        self._seed_issues()
        self._ports_proven = True
        return True

    def _seed(self) -> dict[str, Any]:
        parts = {"github": _github(), "google": _google(), "slack": _slack(), "microsoft": _microsoft()}
        for name, part in parts.items():
            service = self.service(name)
            clients = "oauth_clients" if name in ("google", "microsoft") else "oauth_apps"
            extra = {"scopes": SLACK_SCOPES, "bot_name": "jackfield"} if name == "slack" else {}
            client = {"client_id": service.client_id, "client_secret": service.client_secret, "name": "Jackfield"}
            part |= {"port": self._ports[name], "baseUrl": service.url}
            part[clients] = [{**client, "redirect_uris": self.redirect_uris, **extra}]
        return {"tokens": {GITHUB_TOKEN: {"login": LOGIN, "scopes": ["repo", "user"]}}, **parts}

    def _seed_issues(self) -> None:
        """Issues have no place in the seed file, so they are made as a person would."""
        headers = {"Authorization": f"Bearer {GITHUB_TOKEN}"}
        url = f"{self.github.url}/repos/{LOGIN}/switchboard/issues"
        with browsing() as session:
            for title in ("The lamp flickers", "The cable is too short"):
                made = session.post(url, json={"title": title, "body": "Seeded."}, headers=headers, timeout=10)
                if made.status_code != 201:
                    raise PeerError(f"seeding issues: {made.status_code} {made.text[:300]}")


def _choose(choices: list[Form], account: str | None) -> Form:
    wanted = [form for form in choices if (form.mentions(account) if account else _is_ours(form))]
    if not wanted:
        raise PeerError(f"no account {account or LOGIN} to pick among {[form.text.split() for form in choices]}")
    return wanted[0]


def _is_ours(form: Form) -> bool:
    return form.mentions(LOGIN) or form.mentions(EMAIL)


def _github() -> dict[str, Any]:
    repository = {"owner": LOGIN, "auto_init": True, "language": "Python"}
    return {
        "users": [
            {"login": LOGIN, "name": "Alice Adams", "email": EMAIL},
            {"login": "bob", "name": "Bob Brown", "email": "bob@example.com"},
        ],
        "orgs": [{"login": "acme", "name": "Acme", "members": [{"login": LOGIN, "role": "admin"}]}],
        "repos": [
            {**repository, "name": "switchboard", "description": "Patch cords and jacks", "topics": ["telephony"]},
            {**repository, "name": "ledger", "private": True},
        ],
    }


def _google() -> dict[str, Any]:
    """Ids begin with alice_, since one that the services' own examples have already is passed over in silence."""
    mine = {"user_email": EMAIL}
    day = "2030-01-10T"
    return {
        "users": [{"email": EMAIL, "name": "Alice Adams"}, {"email": "bob@example.com", "name": "Bob Brown"}],
        "labels": [{**mine, "id": "Label_ops", "name": "Ops"}],
        "messages": [
            {
                **mine,
                "id": "alice_welcome",
                "from": "bob@example.com",
                "to": EMAIL,
                "subject": "Welcome to the exchange",
                "body_text": "The first line is connected.",
                "label_ids": ["INBOX", "UNREAD"],
            },
            {
                **mine,
                "id": "alice_invoice",
                "from": "billing@example.com",
                "to": EMAIL,
                "subject": "Invoice 42",
                "body_text": "Thank you.",
                "label_ids": ["INBOX", "Label_ops"],
            },
        ],
        "calendars": [{**mine, "id": "primary", "summary": EMAIL, "primary": True, "time_zone": "UTC"}],
        "calendar_events": [
            {
                **mine,
                "id": "alice_kickoff",
                "calendar_id": "primary",
                "summary": "Kickoff",
                "start_date_time": f"{day}09:00:00.000Z",
                "end_date_time": f"{day}09:30:00.000Z",
            }
        ],
        "drive_items": [
            {**mine, "id": "alice_docs", "name": "Docs", "mime_type": "application/vnd.google-apps.folder"},
            {
                **mine,
                "id": "alice_readme",
                "name": "readme.txt",
                "mime_type": "text/plain",
                "parent_ids": ["alice_docs"],
                "data": "Hello from Drive.",
            },
        ],
    }


def _slack() -> dict[str, Any]:
    return {
        "team": {"name": "Acme", "domain": "acme"},
        "users": [
            {"name": LOGIN, "real_name": "Alice Adams", "email": EMAIL, "is_admin": True},
            {"name": "bob", "real_name": "Bob Brown", "email": "bob@example.com"},
        ],
        "channels": [
            {"name": "general", "topic": "General"},
            {"name": "random", "topic": "Anything"},
            {"name": "operations", "topic": "Lines and cables"},
        ],
        "strict_scopes": False,
    }


def _microsoft() -> dict[str, Any]:
    return {"users": [{"email": EMAIL, "name": "Alice Adams"}]}
