"""An OAuth 1.0a provider: Authlib's server on Flask, a process of its own. Signatures are checked, replayed nonces refused.

/oauth/request_token, /oauth/authorize, /oauth/access_token     the three steps; the last also tells screen_name and shard
/api/me, /api/…         JSON of whose token it is, path, args, form, json; 401 to a bad signature or a nonce seen before
/api/redirect?to=       302 to any URL

Faults, until `reset`: ``status`` (of /oauth/…), ``unconfirmed`` (OAuth 1.0 without the a), ``forgetful`` (drops the
callback's query), ``flaky`` (a status that /api/… answers after checking the signature), ``shard`` (in the token answer),
``revoke`` (tokens). A list is used up one by one.
"""

import json
import sys
from pathlib import Path
from typing import Any, Literal
from urllib.request import Request

import requests

from tests.peers.forms import browsing
from tests.peers.process import DIRECT, PeerError, PortFilePeer

PROGRAM = Path(__file__).with_name("oauth1_server.py")
CONSUMER_KEY, CONSUMER_SECRET = "consumer-key", "consumer secret/&+%"


class OAuth1Provider(PortFilePeer):
    def command(self) -> list[str]:
        return [sys.executable, str(PROGRAM), str(self.port_file)]

    @property
    def addresses(self) -> dict[str, str]:
        """As the settings of an integration."""
        return {
            "base_url": self.url,
            "request_token_url": f"{self.url}/oauth/request_token",
            "authorization_url": f"{self.url}/oauth/authorize",
            "token_url": f"{self.url}/oauth/access_token",
        }

    def approve(self, authorize_url: str, login: str = "alice") -> str:
        """The callback's URL, not followed."""
        return self._answer(authorize_url, "allow", login)

    def deny(self, authorize_url: str, how: Literal["deny", "error"] = "deny") -> str:
        """The callback's URL with ``denied`` (as most write it), or with ``error`` and no token (Authlib's own way)."""
        return self._answer(authorize_url, how, "")

    def fault(self, **faults: Any) -> None:
        self._memory("POST", faults)

    def count(self, path: str) -> int:
        return int(self._memory("GET")["counts"].get(path, 0))

    def errors(self) -> dict[str, int]:
        """Refusals of /api/… by their code."""
        errors: dict[str, int] = self._memory("GET")["errors"]
        return errors

    def reset(self) -> None:
        """Heal every fault, zero the counts. Tokens stay."""
        self._memory("DELETE")

    def _answer(self, url: str, answer: str, login: str) -> str:
        with browsing() as session:
            page = session.get(url, timeout=10)
            if page.status_code != 200:
                raise PeerError(f"{url} answered {page.status_code}: {page.text[:500]}")
            data = {"login": login, "answer": answer}
            back: requests.Response = session.post(url, data=data, allow_redirects=False, timeout=10)
            return back.headers["Location"]

    def _memory(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        asked = Request(self.url + "/_memory", data=data, method=method, headers={"Content-Type": "application/json"})
        with DIRECT.open(asked, timeout=10) as answer:
            memory: dict[str, Any] = json.load(answer)
            return memory
