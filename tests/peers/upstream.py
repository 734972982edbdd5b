"""A third-party API, and a token endpoint, that answer in every wrong way; plain Python, a process of its own.

/echo, /echo/…          JSON of what it got: method, path, query, headers, body, json
/html /empty /no-content /text /binary /list /broken-json    what the name says, status 200 (204)
/500 /status/CODE       that status (?retry-after= becomes the header)
/rate-limited           429, Retry-After 3600          /rate-limited-once/KEY   429, Retry-After 1, then 200
/busy/NAME/SECONDS      answers late, remembers the most at once (`peak`)
/walled/NAME/LIMIT/SECONDS       200 with X-RateLimit-* headers, 429 beyond so many calls in so many seconds (`wall`)
/hang                   never answers                  /slow?seconds=           answers late
/big?bytes=             20 MB of JSON                  /bomb?megabytes=         2 MB of gzip that hold 2 GB of zeros
/redirect?to=&status=   302 to any URL                 /reset                   connection reset
/bearer/TOKEN           200 to that bearer token only, else 401
/expect/header/NAME/B64, /expect/query/NAME/B64    echoes to that header or parameter only (value in base64), else 401
/authorize, /authorize/deny      back to redirect_uri with a code and the state, or with access_denied
/token/VARIANT          ok short no-expires-in no-refresh-token no-access-token string-expires-in form html empty 500
                        429 hang reset big invalid-grant invalid-client ok-with-error ok-false; tokens are access-N, refresh-N
"""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request

from tests.peers.process import DIRECT, PortFilePeer

PROGRAM = Path(__file__).with_name("upstream_server.py")


class Upstream(PortFilePeer):
    def command(self) -> list[str]:
        return [sys.executable, str(PROGRAM), str(self.port_file)]

    def counts(self) -> dict[str, int]:
        """Requests by path, query excluded."""
        counts: dict[str, int] = self._memory("GET")["counts"]
        return counts

    def count(self, path: str) -> int:
        return self.counts().get(path, 0)

    def requests(self, path: str | None = None) -> list[dict[str, Any]]:
        """The last 500 requests, oldest first: method, path, query, headers (lower case), body, body_size."""
        seen: list[dict[str, Any]] = self._memory("GET")["requests"]
        return [request for request in seen if path in (None, request["path"])]

    def peak(self, name: str) -> int:
        """The most requests of /busy/NAME that were under way at the same time."""
        return int(self._memory("GET")["peaks"].get(name, 0))

    def wall(self, name: str) -> dict[str, float]:
        """Of /walled/NAME: how many were served and refused, and in how many windows."""
        found: dict[str, float] = self._memory("GET")["walls"][name]
        return found

    def reset(self) -> None:
        """Forget what was asked; counters that answers depend on start anew."""
        self._memory("DELETE")

    def _memory(self, method: str) -> dict[str, Any]:
        with DIRECT.open(Request(self.url + "/_requests", method=method), timeout=10) as answer:
            memory: dict[str, Any] = json.load(answer)
            return memory
