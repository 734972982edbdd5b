"""The only outbound client: libcurl, one handle a thread and proxy, with its connections kept open.

Addresses are judged where the socket is opened (`apps.lib.egress`), so that DNS cannot change between check and connect.
Every outside failure is mapped to `apps.lib.errors` here and nowhere else.

`bounded` holds for all calls made inside of it: until when they must end, and through which HTTP proxy they go. The socket
is then the proxy's, so it is the proxy's address that is judged there; the target's name is resolved and judged before.
"""

from __future__ import annotations

import contextvars
import http.client
import io
import ipaddress
import json
import logging
import random
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import certifi
import pycurl
import requests
from requests.adapters import BaseAdapter

from . import egress
from .errors import AddressRefused, AnswerTooLarge, ProxyFailed, TimedOut, Unreachable

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
TOTAL_TIMEOUT = 30.0
MAX_ANSWER = 10 * 1024 * 1024
MAX_HEADERS = 256 * 1024
MAX_REDIRECTS = 5
MAX_RETRIES = 2
LONGEST_WAIT = 2.0  # seconds of Retry-After that are waited for; a longer one is answered
REDIRECTS = frozenset({301, 302, 303, 307, 308})
USER_AGENT = "Jackfield/0.1"
MOST_HANDLES = 8  # of one thread: one without a proxy, the others for as many proxies
LONGEST_PROXY = 2048  # characters of a proxy's URL
SUPPRESS_CONNECT_HEADERS = 265  # CURLOPT_SUPPRESS_CONNECT_HEADERS, which pycurl has no name for

# No byte of the request left us in these cases, so that any method may be tried again.
NEVER_SENT = frozenset({pycurl.E_COULDNT_CONNECT, pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY})
# Seconds that a connection may have been idle to carry what must not be sent twice: many servers close after five.
LONGEST_IDLE = 4
# No control characters but the tab in a header (RFC 9110 section 5.5); none, no blank and no backslash in a URL, which
# parsers disagree about.
BAD_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F))
BAD_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy. Its credentials are shown nowhere, and handed to libcurl apart from its address."""

    scheme: str
    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True)
class Bounds:
    """What holds for every call inside of `bounded`. ``deadline`` is of the monotonic clock."""

    deadline: float | None = None
    proxy: Proxy | None = None

    @property
    def remaining(self) -> float | None:
        return None if self.deadline is None else self.deadline - time.monotonic()


_bounds: contextvars.ContextVar[Bounds] = contextvars.ContextVar("outbound", default=Bounds())  # noqa: B039 - frozen


@contextmanager
def bounded(seconds: float | None = None, proxy: str | None = None) -> Iterator[None]:
    """Every outbound call inside ends within ``seconds`` of now (`TimedOut` beyond) and goes through ``proxy``.

    One inside of another can only shorten the time; its own proxy takes the place of the outer one. It holds for this
    thread (for this context); a thread begun inside needs its own, or ``contextvars.copy_context().run``. Raises
    `AddressRefused` for what is no proxy's URL.
    """
    outer = _bounds.get()
    deadlines = [outer.deadline, None if seconds is None else time.monotonic() + seconds]
    deadline = min((moment for moment in deadlines if moment is not None), default=None)
    token = _bounds.set(Bounds(deadline, _proxy(proxy) if proxy else outer.proxy))
    try:
        yield
    finally:
        _bounds.reset(token)


def bounds() -> Bounds:
    """What holds here."""
    return _bounds.get()


def check_proxy(url: str) -> str | None:
    """What is wrong with a proxy's URL, without a word of it; None where nothing is. Its name is not resolved here."""
    try:
        proxy = _proxy(url)
    except AddressRefused as error:
        return error.text
    try:
        ipaddress.ip_address(proxy.host)
    except ValueError:
        return None
    return None if egress.is_permitted(proxy.host, proxy.port, host=proxy.host) else PROXY_REFUSED


PROXY_REFUSED = "The proxy's address may not be called from here."
NOT_A_PROXY = "The proxy must be a URL as in http://user:password@host:port, with http or https."


def _proxy(url: str) -> Proxy:
    """Raises `AddressRefused`, which does not repeat the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        user, password = (unquote(text or "", errors="strict") for text in (parts.username, parts.password))
        url.encode(), user.encode(), password.encode()  # half of a surrogate pair is no text that can be sent
        plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        whole = parts.path in {"", "/"} and not parts.query and not parts.fragment and is_plain_url(plain)
        if not whole or len(url) > LONGEST_PROXY or BAD_IN_URL.search(url) or BAD_IN_HEADER.search(user + password):
            raise ValueError
        return Proxy(parts.scheme, parts.hostname or "", port, user, password)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise AddressRefused(NOT_A_PROXY, remediation="Correct the proxy.") from None


# Method, URL, headers and body in; the headers that sign exactly this one sending out.
Signer = Callable[[str, str, dict[str, str], bytes | None], dict[str, str]]


@dataclass(frozen=True)
class Answer:
    """What came back. ``seconds`` is the time of the last try, ``tries`` how many there were."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    url: str
    seconds: float = 0.0
    tries: int = 1

    def header(self, name: str, default: str = "") -> str:
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), default)

    @property
    def content_type(self) -> str:
        return self.header("content-type").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str:
        for part in self.header("content-type").split(";")[1:]:
            key, _, value = part.strip().partition("=")
            if key.lower() == "charset":
                return value.strip("\"' ") or "utf-8"
        return "utf-8"

    @property
    def text(self) -> str:
        try:
            return self.body.decode(self.charset, errors="replace")
        except (LookupError, ValueError):  # some of Python's codecs, such as idna, cannot replace
            return self.body.decode("utf-8", errors="replace")


def json_of(answer: Answer) -> Any:
    """The answer's body as JSON. Raises ValueError."""
    try:
        return json.loads(answer.body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_or_none(answer: Answer) -> Any:
    try:
        return json_of(answer)
    except ValueError:
        return None


@dataclass
class Outgoing:
    """One outbound request. ``sensitive`` names the headers that must not follow a redirect to another origin."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout: float = TOTAL_TIMEOUT
    connect_timeout: float = CONNECT_TIMEOUT
    max_bytes: int = MAX_ANSWER
    follow: bool = True
    safe: bool = False
    retry_statuses: frozenset[int] = frozenset()
    sensitive: frozenset[str] = frozenset({"authorization", "cookie"})
    # Where a credential stands in the query, a redirect elsewhere may carry it on: then no redirect is followed.
    secret_in_url: bool = False
    # Asked before every sending, repeats and redirects to the same origin included: no signature goes out twice.
    sign: Signer | None = field(default=None, repr=False)  # it holds the credentials


def send(outgoing: Outgoing) -> Answer:
    """Sends, follows redirects of GET and HEAD, and tries again what is safe to repeat.

    ``safe`` requests are repeated after a network error or one of ``retry_statuses``, at most twice, waiting for a
    Retry-After of up to two seconds; others only where no byte was sent. Everything ends within ``timeout`` seconds, and
    within those that `bounded` leaves. Raises `Unreachable` or a class below it.
    """
    deadline = _deadline(outgoing.timeout)
    for attempt in range(MAX_RETRIES + 1):
        last = attempt == MAX_RETRIES
        try:
            answer = _follow(outgoing, deadline)
        except Unreachable as error:
            error.tries = attempt + 1
            if isinstance(error, (TimedOut, AnswerTooLarge, AddressRefused)):
                raise
            never_sent = getattr(error, "curl_code", None) in NEVER_SENT
            pause = 0.0 if getattr(error, "was_kept", False) else _backoff(attempt)
            if last or not (outgoing.safe or never_sent) or not _wait(pause, deadline):
                raise
            continue
        if last or not outgoing.safe or answer.status not in outgoing.retry_statuses:
            return _counted(answer, attempt)
        named = retry_after(answer)
        wait = _backoff(attempt) if named is None else float(named)
        if wait > LONGEST_WAIT or not _wait(wait, deadline):
            return _counted(answer, attempt)
    raise AssertionError("the loop returns or raises")


def _deadline(seconds: float) -> float:
    deadline, bound = time.monotonic() + seconds, _bounds.get().deadline
    return deadline if bound is None else min(deadline, bound)


def _counted(answer: Answer, attempt: int) -> Answer:
    return Answer(answer.status, answer.headers, answer.body, answer.url, answer.seconds, attempt + 1)


def _backoff(attempt: int) -> float:
    return float(0.2 * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret


def _wait(seconds: float, deadline: float) -> bool:
    if time.monotonic() + seconds >= deadline:
        return False
    time.sleep(seconds)
    return True


def retry_after(answer: Answer, header: str = "Retry-After") -> int | None:
    """Seconds of a Retry-After (RFC 9110 section 10.2.3: a number, or a date); None where there is none."""
    return seconds_of(answer.header(header))


def seconds_of(value: str) -> int | None:
    """What a Retry-After says, in seconds from now."""
    value = value.strip()
    if not value:
        return None
    try:
        return max(0, min(int(float(value)), 10**9))
    except (ValueError, OverflowError):
        pass
    try:
        return max(0, int(parsedate_to_datetime(value).timestamp() - time.time()) + 1)
    except (ValueError, TypeError, OverflowError):
        return None


def _follow(outgoing: Outgoing, deadline: float) -> Answer:
    url, headers, method, body = outgoing.url, outgoing.headers, outgoing.method, outgoing.body
    sign = outgoing.sign
    for _ in range(MAX_REDIRECTS + 1):
        signed = headers | sign(method, url, headers, body) if sign else headers
        answer = _perform(outgoing, method, url, signed, body, deadline)
        location = answer.header("location")
        if not outgoing.follow or answer.status not in REDIRECTS or not location or outgoing.secret_in_url:
            return answer
        if method not in {"GET", "HEAD"} and not (answer.status in {307, 308} and _leads_home(url, location)):
            return answer  # also where it leads to no address at all: what was asked for has been done
        target = _target(url, location)
        same = _origin(target) == _origin(url)
        if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
            raise AddressRefused("The provider redirects from https to http.")
        if not same:
            headers = {name: value for name, value in headers.items() if name.lower() not in outgoing.sensitive}
            sign = None
        url = target
    # It answers, and would answer the same again: no reason to repeat the call, or to leave the host alone.
    raise AddressRefused("The provider redirects too often.", remediation="Check the address that was called.")


def _target(url: str, location: str) -> str:
    """Where a Location leads; blanks and bytes beyond ASCII are escaped as browsers do it. Raises `AddressRefused`."""
    try:
        target = urljoin(url, quote(location.encode("latin-1"), safe=PRINTABLE))
        check_url(target)
    except (ValueError, AddressRefused):
        raise AddressRefused("The provider redirects to an address that may not be called.") from None
    return target


def _leads_home(url: str, location: str) -> bool:
    try:
        return _origin(_target(url, location)) == _origin(url)
    except AddressRefused:
        return False


def check_url(url: str) -> None:
    """Raises `AddressRefused`."""
    if not is_plain_url(url):
        raise AddressRefused("The address is not a valid http or https URL.")


def is_plain_url(url: str) -> bool:
    """Whether this is an absolute http or https URL that no two parsers can read differently; no user and password."""
    try:
        parts = urlsplit(url)
        # An escape in a host: libcurl decodes it, name servers are not asked so, and a zone of an IPv6 address is nobody's.
        whole = bool(parts.hostname) and "%" not in parts.netloc and parts.username is None and parts.port != 0
    except ValueError:
        return False
    return whole and parts.scheme in {"http", "https"} and not BAD_IN_URL.search(url)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


class _Handles(threading.local):
    """This thread's curl handles: reset between requests, which keeps their open connections.

    One for each proxy, its user and password included: a tunnel that one has opened is nothing for another.
    """

    def __init__(self) -> None:
        self.direct = pycurl.Curl()
        self._proxied: OrderedDict[Proxy, Any] = OrderedDict()

    def of(self, proxy: Proxy | None) -> Any:
        if proxy is None:
            return self.direct
        found = self._proxied.pop(proxy, None) or pycurl.Curl()
        self._proxied[proxy] = found
        if len(self._proxied) >= MOST_HANDLES:
            self._proxied.popitem(last=False)[1].close()
        return found


_handles = _Handles()


def check_target(url: str, seconds: float) -> None:
    """Resolves and judges the target of a call through a proxy, whose socket we never see.

    The name's addresses are ours to judge as they are now; what the proxy makes of the name is the proxy's. Raises
    `AddressRefused` where one of them may not be called, `Unreachable`, `TimedOut`.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
    named, name = egress.allowance().hosts, host.lower().rstrip(".")
    if (name, None) in named or (name, port) in named:  # the operator allows it, whatever its address
        return
    found = _resolved(host, port, seconds)
    if not found:
        raise _failed_name()
    if not all(egress.is_permitted(ip, port, host=host) for ip in found):
        raise AddressRefused


def _failed_name() -> Unreachable:
    error = Unreachable("The provider could not be reached: its name does not resolve.")
    error.curl_code = pycurl.E_COULDNT_RESOLVE_HOST  # type: ignore[attr-defined] # nothing was sent
    return error


def _resolved(host: str, port: int, seconds: float) -> list[str]:
    """A name's addresses. In a thread of its own, since the system's resolver knows no time-out of ours."""
    found: list[str] = []

    def resolve() -> None:
        with suppress(OSError, UnicodeError):
            found.extend(str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    thread = threading.Thread(target=resolve, name="resolve", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if thread.is_alive():
        raise TimedOut
    return found


class _Opened(socket.socket):
    """A socket for libcurl, which works on a duplicate of it: this one is closed as soon as nobody holds it."""

    def __del__(self) -> None:
        self.close()


class Exchange:
    """The callbacks that every request has, streamed or not: where it may go, that it goes once, the answer's head."""

    too_large = False
    connect_code = 0  # of the proxy's answer to CONNECT

    def __init__(self, url: str, proxy: Proxy | None = None) -> None:
        self.host = proxy.host if proxy else urlsplit(url).hostname or ""  # whose socket it will be
        self.proxy = proxy
        self.header_size = 0
        self.header_lines: list[bytes] = []
        self.refused = ""
        self.sent = 0

    def open_socket(self, purpose: int, address: Any) -> Any:
        family, kind, protocol, target = address
        ip, port = (target[0], target[1]) if isinstance(target, tuple) else (str(target), 0)
        if not egress.is_permitted(ip, port, host=self.host):
            self.refused = ip
            return pycurl.SOCKET_BAD
        opened = _Opened(family, kind, protocol)
        if kind == socket.SOCK_STREAM:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened

    def send_once(self, *addresses: Any) -> int:
        """Keeps libcurl from sending again, unasked, what broke off on a connection that it had kept open."""
        self.sent += 1
        return int(pycurl.PREREQFUNC_OK if self.sent == 1 else pycurl.PREREQFUNC_ABORT)

    def on_header(self, line: bytes) -> int | None:
        if line.startswith(b"HTTP/"):
            self.header_lines.clear()  # an informational answer (1xx) came first
        self.header_size += len(line)
        if self.header_size <= MAX_HEADERS:
            self.header_lines.append(line)
        return None

    def status(self) -> int | None:
        """Of the status line, as far as it came."""
        words = self.header_lines[0].split() if self.header_lines else []
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else None

    def headers(self) -> Iterator[tuple[str, str]]:
        for line in self.header_lines[1:]:
            name, separator, value = line.decode("latin-1").partition(":")
            if separator:
                yield name.strip(), value.strip()


class _Exchange(Exchange):
    """The callbacks of a request whose answer is kept whole."""

    def __init__(self, url: str, max_bytes: int, proxy: Proxy | None) -> None:
        super().__init__(url, proxy)
        self.max_bytes = max_bytes
        self.body = io.BytesIO()
        self.size = 0

    def on_body(self, chunk: bytes) -> int:
        self.size += len(chunk)
        if self.size > self.max_bytes:
            self.too_large = True
            return 0  # anything but the chunk's length stops the transfer
        self.body.write(chunk)
        return len(chunk)


def _perform(
    outgoing: Outgoing, method: str, url: str, headers: dict[str, str], body: bytes | None, deadline: float
) -> Answer:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimedOut
    check_url(url)
    proxy = _bounds.get().proxy
    started = time.monotonic()
    if proxy is not None:
        check_target(url, min(outgoing.connect_timeout, remaining))
        remaining = max(0.001, deadline - time.monotonic())
    exchange = _Exchange(url, outgoing.max_bytes, proxy)
    curl = _handles.of(proxy)
    curl.reset()
    try:
        _prepare(curl, exchange, outgoing, method, url, headers, body, remaining)
        curl.perform()
    except UnicodeError:
        raise AddressRefused("The address is not a valid URL.") from None
    except pycurl.error as error:
        exchange.connect_code = int(curl.getinfo(pycurl.HTTP_CONNECTCODE))
        raise failure_of(exchange, int(error.args[0]), str(error.args[1] if len(error.args) > 1 else "")) from None
    status = int(curl.getinfo(pycurl.RESPONSE_CODE))
    check_answer(exchange, status)
    return Answer(status, list(exchange.headers()), exchange.body.getvalue(), url, time.monotonic() - started)


def _prepare(
    curl: Any,
    exchange: _Exchange,
    outgoing: Outgoing,
    method: str,
    url: str,
    headers: dict[str, str],
    body: bytes | None,
    remaining: float,
) -> None:
    lines = header_lines(headers)
    guard(curl, exchange, url, safe=outgoing.safe, connect_timeout=min(outgoing.connect_timeout, remaining))
    curl.setopt(pycurl.TIMEOUT_MS, int(remaining * 1000) or 1)
    curl.setopt(pycurl.ACCEPT_ENCODING, "gzip, deflate")
    curl.setopt(pycurl.WRITEFUNCTION, exchange.on_body)
    if method != "HEAD":  # what a HEAD announces does not come
        curl.setopt(pycurl.MAXFILESIZE, outgoing.max_bytes)
    if method == "HEAD":
        curl.setopt(pycurl.NOBODY, 1)
    elif body is not None or method in {"POST", "PUT", "PATCH"}:
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.POSTFIELDS, body or b"")
        curl.setopt(pycurl.CUSTOMREQUEST, method)
    elif method != "GET":
        curl.setopt(pycurl.CUSTOMREQUEST, method)
    curl.setopt(pycurl.HTTPHEADER, [line.encode() for line in lines])


def check_answer(exchange: Exchange, status: int) -> None:
    """Raises `ProxyFailed` for the answer that only a proxy gives (RFC 9110 section 15.5.8)."""
    if exchange.proxy is not None and status == 407:
        raise ProxyFailed("The proxy refuses its user and password.")


def header_lines(headers: dict[str, str]) -> list[str]:
    """Headers as libcurl takes them, its own additions replaced. Raises `AddressRefused` for control characters in one."""
    lines = [f"{name}: {value}" if value else f"{name};" for name, value in headers.items()]
    names = {name.lower() for name in headers}
    if "user-agent" not in names:
        lines.append(f"User-Agent: {USER_AGENT}")
    if "accept" not in names:
        lines.append("Accept: */*")
    if "content-type" not in names:
        lines.append("Content-Type:")  # libcurl would call a body a form
    lines.append("Expect:")  # no wait for 100-continue
    if any(BAD_IN_HEADER.search(line) for line in lines):
        raise AddressRefused("A header of the request has control characters.", remediation="Correct the header.")
    return lines


def guard(curl: Any, exchange: Exchange, url: str, *, safe: bool, connect_timeout: float) -> None:
    """What holds for every request: addresses judged, nothing sent twice, http alone, no proxy but the one of `bounded`."""
    curl.setopt(pycurl.URL, url.encode())
    curl.setopt(pycurl.OPENSOCKETFUNCTION, exchange.open_socket)
    curl.setopt(pycurl.PREREQFUNCTION, exchange.send_once)
    if not safe:
        curl.setopt(pycurl.MAXAGE_CONN, LONGEST_IDLE)
    curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    _set_proxy(curl, exchange.proxy)
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.CAINFO, certifi.where())
    curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(connect_timeout * 1000) or 1)
    curl.setopt(pycurl.HEADERFUNCTION, exchange.on_header)


def _set_proxy(curl: Any, proxy: Proxy | None) -> None:
    curl.setopt(pycurl.PROXY, proxy.address if proxy else "")  # libcurl would read http_proxy, past the address check
    if proxy is None:
        return
    curl.setopt(pycurl.NOPROXY, "")
    curl.setopt(pycurl.PROXY_CAINFO, certifi.where())
    curl.setopt(pycurl.HEADEROPT, pycurl.HEADER_SEPARATE)  # the target's headers are none of CONNECT's
    curl.setopt(SUPPRESS_CONNECT_HEADERS, 1)
    if proxy.user or proxy.password:
        curl.setopt(pycurl.PROXYAUTH, pycurl.HTTPAUTH_BASIC)
        curl.setopt(pycurl.PROXYUSERNAME, proxy.user.encode())
        curl.setopt(pycurl.PROXYPASSWORD, proxy.password.encode())


def failure_of(exchange: Exchange, code: int, detail: str) -> Unreachable:
    """libcurl's error as one of ours: every outside failure is mapped here."""
    found: Unreachable
    if exchange.refused:
        found = AddressRefused(PROXY_REFUSED if exchange.proxy else "")
    elif exchange.too_large or code == pycurl.E_FILESIZE_EXCEEDED:
        found = AnswerTooLarge()
        found.upstream_status = exchange.status()  # type: ignore[attr-defined] # what webhooks decide by
    elif exchange.sent > 1:
        found = Unreachable("The provider closed the connection without an answer.")
    elif code == pycurl.E_OPERATION_TIMEDOUT:
        found = TimedOut()
    elif exchange.proxy is not None and (fault := _fault_of_proxy(exchange, code)):
        found = ProxyFailed(fault)
    elif code == pycurl.E_UNSUPPORTED_PROTOCOL and exchange.sent:
        found = Unreachable("The provider could not be reached: its answer is not HTTP.")
    elif code in {pycurl.E_URL_MALFORMAT, pycurl.E_UNSUPPORTED_PROTOCOL}:
        found = AddressRefused("The address is not a valid URL.")
    else:
        found = Unreachable(f"The provider could not be reached: {_sentence(code, detail)}")
    found.curl_code = code  # type: ignore[attr-defined] # both are read by `send` alone
    found.was_kept = exchange.sent > 1  # type: ignore[attr-defined]
    return found


def _fault_of_proxy(exchange: Exchange, code: int) -> str:
    """What the proxy did wrong, before anything came to the target; an empty text where it was not the proxy."""
    if exchange.connect_code == 407:
        return "The proxy refuses its user and password."
    if exchange.connect_code >= 300:
        return f"The proxy does not connect to the provider: it answers {exchange.connect_code}."
    if code == pycurl.E_COULDNT_RESOLVE_PROXY:
        return "The proxy's name does not resolve."
    if not exchange.sent:
        return (
            "The proxy accepts no connection."
            if code == pycurl.E_COULDNT_CONNECT
            else "The proxy does not answer as one."
        )
    return ""


def _sentence(code: int, detail: str) -> str:
    known = {
        pycurl.E_COULDNT_RESOLVE_HOST: "its name does not resolve.",
        pycurl.E_COULDNT_CONNECT: "it accepts no connection.",
        pycurl.E_GOT_NOTHING: "it closed the connection without an answer.",
        pycurl.E_RECV_ERROR: "the connection broke.",
        pycurl.E_SEND_ERROR: "the connection broke.",
        pycurl.E_SEND_FAIL_REWIND: "it closed the connection without an answer.",
        pycurl.E_PARTIAL_FILE: "its answer broke off.",
        pycurl.E_PEER_FAILED_VERIFICATION: "its certificate is not valid.",
    }
    return known.get(code) or f"{detail[:200] or 'network error'} (curl {code})."


class CurlAdapter(BaseAdapter):
    """Lets requests (and with it requests-oauthlib) speak through this client."""

    def __init__(self, *, timeout: float = 10.0, max_bytes: int = 1024 * 1024) -> None:
        super().__init__()
        self.timeout = timeout
        self.max_bytes = max_bytes

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        body = request.body
        answer = send(
            Outgoing(
                method=request.method or "GET",
                url=request.url or "",
                headers={
                    str(name): _text(value) for name, value in request.headers.items() if name != "Content-Length"
                },
                body=body.encode() if isinstance(body, str) else body,
                timeout=self.timeout,
                max_bytes=self.max_bytes,
                follow=False,
            )
        )
        response = requests.Response()
        response.status_code = answer.status
        response.reason = http.client.responses.get(answer.status, "")
        response.url = answer.url
        response.request = request
        response.headers.update(dict(answer.headers))
        response._content, response.encoding = answer.text.encode(), "utf-8"  # `text` knows every charset's faults
        return response

    def close(self) -> None:
        """Nothing to close: connections belong to the thread's handle."""


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def mount(session: requests.Session, *, timeout: float = 10.0) -> requests.Session:
    """Sends all of a requests session through this client, environment and redirects ignored."""
    adapter = CurlAdapter(timeout=timeout)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.trust_env = False
    # requests would carry a body with its secrets to wherever a 307 points.
    session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
    return session
