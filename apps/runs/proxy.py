"""The proxy: any request to a toolkit's service with a connected account, streamed both ways.

The same engine as every call (`apps.runs.calls`): account, gates, fresh credentials, log. What differs is that bodies are
not held in memory, and that the log is written when the answer's last byte has gone, or its reader.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from django.conf import settings

from apps.connections import access, oauth1
from apps.connections.integrations import find_toolkit
from apps.connections.models import Connection
from apps.lib import errors, http
from apps.lib.api import request_id, request_id_var
from apps.lib.db import release
from apps.lib.errors import Failure, InvalidInput
from apps.lib.redact import MASK, is_secret_name
from apps.lib.stream import REPEATABLE, Stream, StreamOutgoing, Upload, open_stream
from apps.toolkits.request import HEADER_NAME, BadParameters, Request, base_url, fill
from apps.toolkits.spec import Toolkit
from apps.workspaces.callers import Caller

from .calls import Call, find_connection, require_enabled, scheme_of
from .models import Execution

log = logging.getLogger(__name__)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# RFC 9110 section 7.6.1, and what RFC 9112 has the connection's two ends agree upon.
HOP_BY_HOP = _names(
    "connection keep-alive proxy-authenticate proxy-authentication-info proxy-authorization proxy-connection te trailer "
    "transfer-encoding upgrade http2-settings"
)
# Ours to set; our caller's credentials and cookies; what names machines of the caller's.
NOT_SENT_ON = HOP_BY_HOP | _names(
    "host content-length expect authorization x-api-key x-end-user x-connection-id x-request-id x-upstream-path cookie "
    "forwarded via x-real-ip proxy"
)
# What an answer says of its own origin would be said of ours; the server is ours.
NOT_PASSED_ON = HOP_BY_HOP | _names(
    "set-cookie set-cookie2 server alt-svc strict-transport-security public-key-pins clear-site-data "
    "content-security-policy content-security-policy-report-only x-frame-options x-content-type-options nel report-to "
    "reporting-endpoints service-worker-allowed access-control-allow-origin access-control-allow-credentials "
    "access-control-allow-methods access-control-allow-headers access-control-expose-headers access-control-max-age "
    "refresh origin-trial"
)
# Never dropped for looking like a secret.
PLAIN_HEADERS = frozenset({"content-length", "content-type", "content-range", "content-encoding", "date"})
SHORTEST_MASKED = 8
FLUSHED = 0.05  # seconds until the server has surely written what it was given
# What may stand in a path as it is (RFC 3986 section 3.3); of a query only what would end it or be read in two ways is escaped.
PATH_SAFE = "/:@!$&'()*+,;=-._~"
QUERY_SAFE = "".join(char for char in http.PRINTABLE if char not in '#\\"<>')
MEMBER = re.compile(r"(?<=[?&])([^=&#]*)=([^&#]*)")
NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
MOST_DECODINGS = 5


@dataclass
class Asked:
    """What a caller asks of a service. ``path`` is escaped, without a leading slash; ``headers`` are all that came."""

    method: str
    path: str
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: Upload | None = None


def forward(
    caller: Caller, slug: str, asked: Asked, *, user_id: str | None, connection_id: str | None = None
) -> Forwarded:
    """Sends the request on; the answer's head is there, its body still to come.

    Checked in this order: toolkit, enabled, path, connection, quota. Raises a `Failure` for whatever is not the service's
    own answer; also logged.
    """
    params = {"method": asked.method, "path": asked.path}
    call = Call(caller, Execution.Surface.PROXY, name="proxy", user_id=user_id, params=params)
    try:
        return _forward(call, slug, asked, connection_id)
    except BaseException as error:
        call.end(error if isinstance(error, Failure) else errors.Internal(), response="")
        raise


def _forward(call: Call, slug: str, asked: Asked, connection_id: str | None) -> Forwarded:
    toolkit = find_toolkit(slug, call.caller.project)
    call.toolkit = toolkit.slug
    call.caller.require_toolkit(toolkit.slug)
    connection = find_connection(call.caller, toolkit.slug, call.user_id, connection_id)
    if connection is None:
        require_enabled(call.caller, toolkit.slug)
    check_path(asked.path)
    if connection is None:
        which = "such connection" if connection_id else "connected account"
        raise errors.NotConnected(f"The user has no {which} for {toolkit.slug}.")
    call.use(connection)
    scheme = scheme_of(connection, toolkit)
    request = _request(toolkit, connection, asked)
    call.request = replace(request, url=masked(request.url))
    call.admit()
    return _Sending(call, toolkit, scheme, request, asked.body).answer()


# -- The request -----------------------------------------------------------------------------------------------------
def check_path(path: str) -> None:
    """Raises `InvalidInput` for a path that could lead out of the base URL, however often somebody decodes it."""
    text = path
    for _ in range(MOST_DECODINGS):
        decoded = unquote(text, errors="replace")
        if decoded == text:
            break
        text = decoded
    else:
        raise InvalidInput({"path": ["Is escaped too many times over."]})
    if any(ord(char) < 0x20 or char in "\x7f\\" for char in text):
        raise InvalidInput({"path": ["Must not have control characters or backslashes."]})
    # Some servers cut what stands behind a semicolon before they resolve dots.
    if any(part.partition(";")[0].strip() in {".", ".."} for part in text.split("/")):
        raise InvalidInput({"path": ["Must not have '.' or '..' segments."]})


def escaped(path: bytes, spelled: str = "") -> str:
    """A path that the server has decoded, escaped again; ``spelled`` says how it is to be escaped, where that matters.

    Servers decode %2F to a slash before we see it. Raises `InvalidInput` where ``spelled`` is not the same path.
    """
    if not spelled:
        return quote(path, safe=PATH_SAFE)
    spelled = NO_ESCAPE.sub("%25", quote(spelled, safe=PATH_SAFE + "%"))
    if unquote_to_bytes(spelled) != path:
        raise InvalidInput({"X-Upstream-Path": ["Must be the path of the URL, escaped as it is to be sent."]})
    return spelled


def _request(toolkit: Toolkit, connection: Connection, asked: Asked) -> Request:
    """Raises `InvalidInput`."""
    integration = connection.integration
    values = access.variables(toolkit, integration, connection.variables)
    try:
        base = base_url(toolkit, values, access.base_override(integration))
        headers = {name: fill(value, values) for name, value in toolkit.headers.items()}
    except BadParameters as error:
        raise InvalidInput(error.faults) from None
    if not base:
        raise InvalidInput({"toolkit": ["It has no base URL; only its tools can be called."]})
    url = f"{base}/{asked.path}"
    if asked.query:
        url += f"{'&' if '?' in url else '?'}{quote(asked.query, safe=QUERY_SAFE)}"
    home, target = urlsplit(base), urlsplit(url)
    if (home.scheme, home.netloc) != (target.scheme, target.netloc):
        raise InvalidInput({"path": ["Must stay below the toolkit's base URL."]})
    request = Request(asked.method, url, headers=headers, timeout=float(toolkit.timeout))
    for name, value in sent_on(asked.headers):
        request = request.with_header(name, value)
    return request


def sent_on(headers: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The end-to-end headers of a request, without what concerns our caller and us alone."""
    named = _named_by_connection(headers)
    for name, value in headers:
        lower = name.lower()
        if lower not in NOT_SENT_ON and lower not in named and not lower.startswith("x-forwarded-"):
            yield name, value


def passed_on(headers: list[tuple[str, str]], secrets: list[str]) -> Iterator[tuple[str, str]]:
    """The end-to-end headers of an answer, without what concerns the service's own origin, and without secrets."""
    named = _named_by_connection(headers)
    has_coding = any(name.lower() == "transfer-encoding" for name, _ in headers)
    lengths = 0
    for name, value in headers:
        lower = name.lower()
        if lower in NOT_PASSED_ON or lower in named or not HEADER_NAME.match(name):
            continue
        if lower == "content-length":
            lengths += 1
            if has_coding or lengths > 1:  # RFC 9112 section 6.3: the coding decides
                continue
        if lower not in PLAIN_HEADERS and any(secret in value for secret in secrets if len(secret) >= SHORTEST_MASKED):
            continue
        yield ("X-Upstream-Request-Id" if lower == "x-request-id" else name), value


def _named_by_connection(headers: list[tuple[str, str]]) -> set[str]:
    values = [value for name, value in headers if name.lower() == "connection"]
    return {option.strip().lower() for value in values for option in value.split(",")}


def masked(url: str) -> str:
    """For the log: values of the query are masked where their names say that they are secret."""
    return MEMBER.sub(lambda match: f"{match[1]}={MASK}" if is_secret_name(unquote(match[1])) else match[0], url)


# -- The call --------------------------------------------------------------------------------------------------------
class _Sending:
    """A request and its tries."""

    def __init__(self, call: Call, toolkit: Toolkit, scheme: Any, request: Request, body: Upload | None) -> None:
        self.call = call
        self.toolkit = toolkit
        self.scheme = scheme
        self.request = request
        self.body = body
        self.stream: Stream | None = None

    def answer(self) -> Forwarded:
        try:
            stream = self.call.authorized(self.toolkit, self.scheme, self._try, self._is_refused)
        except BaseException:
            if self.stream is not None:
                self.stream.close()
            raise
        if not 200 <= stream.status <= 599:
            stream.close()
            raise errors.Unreachable(f"The provider answered with status {stream.status}, which is none.")
        self.call.answer = http.Answer(stream.status, stream.headers, b"", "", stream.seconds)
        return Forwarded(self.call, self.toolkit, stream, self.body)

    def _try(self, credentials: dict[str, Any]) -> Stream:
        if self.stream is not None:
            self.stream.close()
            if self.body is not None:
                self.body.rewind()
        request = access.authorize(self.request, self.scheme, credentials)
        outgoing = self._outgoing(request)
        release()
        self.call.before(self.toolkit, request.url)
        try:
            self.stream = open_stream(outgoing)
        except BaseException as error:
            self.call.unanswered(request.url, error)
            raise
        self.call.answered(self.toolkit, request.url, self.stream.status, self.stream.headers, self.stream.tries)
        return self.stream

    def _outgoing(self, request: Request) -> StreamOutgoing:
        body: Upload | bytes | None = self.body
        headers = request.headers
        if request.sign is not None:
            known = None
            if self.body is not None and oauth1.signs_body(headers):
                body = known = self.body.whole(REPEATABLE, _idle())
            headers = headers | request.sign(request.method, request.full_url, headers, known)
        return StreamOutgoing(request.method, request.full_url, headers, body, idle=max(_idle(), request.timeout))

    def _is_refused(self, stream: Stream) -> bool:
        return stream.status == 401 and (self.body is None or self.body.can_rewind)


def _idle() -> float:
    return float(settings.JACKFIELD_STREAM_IDLE_SECONDS)


class Forwarded:
    """A service's answer: ``status``, ``headers``, and an iterator of its body, to be closed."""

    def __init__(self, call: Call, toolkit: Toolkit, stream: Stream, body: Upload | None) -> None:
        self.status = stream.status
        self.headers = list(passed_on(stream.headers, call.secrets))
        self._call = call
        self._toolkit = toolkit
        self._stream = stream
        self._body = body
        self._chunks = stream.chunks()
        self._request_id = request_id()
        self._ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        """An answer that breaks off ends here too: its head has gone, and whoever counts Content-Length notices."""
        try:
            return next(self._chunks)
        except StopIteration:
            self._end(None)
            raise
        except Failure as error:
            self._end(error)
            time.sleep(FLUSHED)  # else the server may end the connection before it has written the head
            raise StopIteration from None

    def close(self) -> None:
        """The reader has gone, or has all of it."""
        self._end(errors.ExecutionFailed("The caller left before the end of the answer."))

    def _end(self, error: Failure | None) -> None:
        if self._ended:
            return
        self._ended = True
        self._stream.close()
        if self._body is not None:
            if error is None and self._body.is_flowing:
                self._body.drain()
            self._body.close()
        if error is None and self.status >= 400:
            error = errors.ProviderRefused(f"{self._toolkit.name} answered with status {self.status}.")
        token = request_id_var.set(self._request_id)
        try:
            self._call.end(error, response=self._summary())
        finally:
            request_id_var.reset(token)

    def _summary(self) -> str:
        kinds = [value for name, value in self.headers if name.lower() == "content-type"]
        kind = kinds[0].partition(";")[0].strip() if kinds else "no type"
        sent = f"; {self._stream.sent} bytes sent" if self._body is not None else ""
        return f"({kind[:100]}, {self._stream.received} bytes{sent})"
