"""What everything that is delivered to integrators shares: which addresses may be named, how a message is signed,
and how many hints it takes."""

from __future__ import annotations

import base64
import ipaddress
import secrets
import socket
import threading
import time
from collections.abc import Hashable, Iterable
from datetime import datetime
from urllib.parse import urlsplit

from standardwebhooks.webhooks import Webhook

from apps.lib import egress, http

MAX_URL = 2000
SECRET_BYTES = 32  # the scheme permits 24 to 64


# -- Addresses -------------------------------------------------------------------------------------------------------
def url_fault(url: str) -> str:
    """What is wrong with a receiver's URL; an empty text where nothing is.

    Names are judged where they are called: what they resolve to may change at any time.
    """
    if len(url) > MAX_URL or not url.isascii() or not http.is_plain_url(url):
        return f"Must be an absolute URL of at most {MAX_URL} ASCII characters, without user and password."
    if urlsplit(url).scheme != "https" and not egress.is_named(url):
        return "Must be an https URL: without TLS anybody on the way reads what is sent."
    if not _may_be_called(url):
        return "This address is not public: the operator would have to add it to JACKFIELD_EGRESS_ALLOW."
    return ""


def _may_be_called(url: str) -> bool:
    """False for an address that the outbound client refuses; also in the forms that only the C library reads (0x7f.1)."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if host == "localhost" or host.endswith(".localhost"):
        return egress.is_permitted("127.0.0.1", port, host=host)
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:
        try:
            address = socket.inet_ntoa(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return True
    return egress.is_permitted(address, port, host=host)


# -- Signatures (https://www.standardwebhooks.com) --------------------------------------------------------------------
def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed(message_id: str, body: str, at: datetime, known: Iterable[str]) -> dict[str, str]:
    """The headers of the scheme: a signature by each secret, separated by blanks."""
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, at, body) for secret in known),
    }


# -- Hints -----------------------------------------------------------------------------------------------------------
class Trickle:
    """Lets so many things of one kind pass in a span of seconds, counted in this process."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._lock = threading.Lock()
        self._since = 0.0
        self._passed: dict[Hashable, int] = {}

    def allows(self, kind: Hashable) -> bool:
        with self._lock:
            now = time.monotonic()
            if now - self._since >= self._seconds:
                self._since, self._passed = now, {}
            passed = self._passed.get(kind, 0)
            self._passed[kind] = passed + 1
            return passed < self._most
