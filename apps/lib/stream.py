"""The outbound client's streaming half: request and answer flow through in constant memory, as they come.

One thread drives libcurl's multi interface from inside the answer's iterator: what the caller does not take is not read
from the provider. Only a request body has a thread of its own, because a WSGI server's ``read`` blocks. Addresses, headers
and errors are judged as in `apps.lib.http`. Redirects are answered, not followed; nothing is decoded.

There is no bound on the time of a stream that flows. One in which no byte moves ends: after ``idle`` seconds with `TimedOut`
where the provider stalls, after the upload's ``patience`` with `UploadFailed` where the caller does. Time and proxy of
`apps.lib.http.bounded` hold for a stream that is opened inside of it, to its end.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import pycurl

from .errors import AddressRefused, Failure, InvalidInput, RateLimited, TimedOut, Unreachable
from .http import (
    CONNECT_TIMEOUT,
    MAX_HEADERS,
    Exchange,
    bounds,
    check_answer,
    check_target,
    check_url,
    failure_of,
    guard,
    header_lines,
)  # fmt: skip

IDLE = 60.0  # seconds without a byte either way
MOST_BUFFERED = 256 * 1024  # bytes, for each direction
PIECE = 16 * 1024  # granian's read(n) waits for n bytes: a caller must bring so many in the idle time
REPEATABLE = 64 * 1024  # bytes of a request body that are kept, so that it can be sent once more
MOST_UPLOADS = 256  # a process, those included whose callers have stalled and not yet gone
MOST_DRAINED = 8 * 1024 * 1024
DRAIN_SECONDS = 2.0
MOST_LINES = 64  # kept open when idle
TICK = 0.5  # seconds between two looks at the clock


class UploadFailed(InvalidInput):
    """The request body broke off, or stalled; what was sent on of it was not completed."""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


_places = threading.BoundedSemaphore(MOST_UPLOADS)


class Upload:
    """A request body on its way: a thread reads ``source`` ahead, at most `MOST_BUFFERED` bytes.

    ``length`` is None for one of unknown length; ``patience`` are the seconds for which its caller may stall.
    """

    def __init__(self, source: Readable, length: int | None, patience: float = IDLE) -> None:
        self.length = length
        self.patience = patience
        self.received = 0
        self.moved_at = time.monotonic()
        self.wake: Callable[[], None] = lambda: None
        self._source = source
        self._ahead: deque[bytes] = deque()
        self._kept: list[bytes] | None = []
        self._waiting = 0
        self._taken = 0
        self._ended = self._closed = self._started = False
        self._broken = ""
        self._change = threading.Condition()

    @property
    def is_flowing(self) -> bool:
        """Whether more is expected of the caller."""
        return self._started and not self._ended

    @property
    def starves(self) -> bool:
        """Whether the caller owes the next byte."""
        return self.is_flowing and not self._waiting

    def start(self) -> None:
        """Raises `RateLimited` where too many are under way."""
        if self._started:
            return
        if not _places.acquire(blocking=False):
            raise RateLimited("Too many uploads are under way.", retry_after=5)
        self._started = True
        self.moved_at = time.monotonic()
        threading.Thread(target=self._pump, name="upload", daemon=True).start()

    def read(self, size: int) -> bytes | None:
        """At most so many bytes; None where none are there yet, empty at the end. Raises `UploadFailed`."""
        with self._change:
            if not self._ahead:
                if self._broken:
                    raise UploadFailed({"body": [self._broken]})
                return b"" if self._ended else None
            piece = self._ahead.popleft()
            if len(piece) > size:
                self._ahead.appendleft(piece[size:])
                piece = piece[:size]
            self._waiting -= len(piece)
            self._taken += len(piece)
            if self._kept is not None:
                self._kept = [*self._kept, piece] if self._taken <= REPEATABLE else None
            self._change.notify_all()
            return piece

    def rewind(self) -> bool:
        """Puts back what was read, to be read again; False where it is no longer there."""
        with self._change:
            if self._kept is None or self._broken:
                return False
            self._ahead.extendleft(reversed(self._kept))
            self._waiting += sum(len(piece) for piece in self._kept)
            self._kept, self._taken = [], 0
            return True

    @property
    def can_rewind(self) -> bool:
        return self._kept is not None and not self._broken

    def whole(self, most: int, seconds: float) -> bytes:
        """All of it, where something must be known of the whole. Raises `UploadFailed`, also beyond ``most`` bytes."""
        self.start()
        pieces: list[bytes] = []
        deadline = time.monotonic() + seconds
        while piece := self._next(deadline):
            pieces.append(piece)
            if sum(map(len, pieces)) > most:
                raise UploadFailed({"body": [f"Must not be larger than {most} bytes with this Content-Type."]})
        return b"".join(pieces)

    def drain(self, most: int = MOST_DRAINED, seconds: float = DRAIN_SECONDS) -> None:
        """Reads on and forgets, within bounds, so that the caller comes to read our answer and not a reset."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(UploadFailed, RateLimited):
            self.start()
            while most > 0 and (piece := self._next(deadline)):
                most -= len(piece)

    def close(self) -> None:
        """Ends the thread as soon as its read returns."""
        with self._change:
            self._closed = True
            self._ahead.clear()
            self._change.notify_all()

    def _next(self, deadline: float) -> bytes:
        while True:
            piece = self.read(PIECE)
            if piece is not None:
                return piece
            with self._change:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise UploadFailed({"body": ["The request stalled."]})
                if not self._ahead and not self._ended:
                    self._change.wait(left)

    def _pump(self) -> None:
        broken = ""
        try:
            while not self._closed and (self.length is None or self.received < self.length):
                piece = self._source.read(PIECE if self.length is None else min(PIECE, self.length - self.received))
                if not piece:
                    broken = "The request broke off." if self.length is not None else ""
                    break
                self._put(piece)
        except Exception:  # whatever a server's stream raises
            broken = "The request broke off."
        finally:
            _places.release()
            with self._change:
                self._ended, self._broken = True, broken
                self._change.notify_all()
            self.wake()

    def _put(self, piece: bytes) -> None:
        with self._change:
            while self._waiting >= MOST_BUFFERED and not self._closed:
                self._change.wait()
            self.received += len(piece)
            self.moved_at = time.monotonic()
            if self._closed:
                return
            self._ahead.append(piece)
            self._waiting += len(piece)
            self._change.notify_all()
        self.wake()


@dataclass
class StreamOutgoing:
    """One request to be streamed. ``idle``: seconds without a byte either way after which it ends."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: Upload | bytes | None = None
    connect_timeout: float = CONNECT_TIMEOUT
    idle: float = IDLE

    @property
    def is_safe(self) -> bool:
        return self.body is None and self.method in {"GET", "HEAD", "OPTIONS"}


def open_stream(outgoing: StreamOutgoing) -> Stream:
    """Sends, and returns as soon as the answer's status and headers are there; its body is then read from the stream.

    To be closed. Only a safe request is sent again, where a connection that had been kept open breaks. Raises
    `Unreachable` or a class below it, `UploadFailed`, `RateLimited`.
    """
    check_url(outgoing.url)
    if isinstance(outgoing.body, Upload):
        outgoing.body.start()
    try:
        return Stream(outgoing)
    except Unreachable as error:
        error.tries = 1
        if not (outgoing.is_safe and getattr(error, "was_kept", False)):
            raise
    try:
        stream = Stream(outgoing)
    except Unreachable as error:
        error.tries = 2
        raise
    stream.tries = 2
    return stream


class _Head(Exchange):
    """The callbacks of one streamed request up to the end of the answer's head."""

    is_complete = False

    def on_header(self, line: bytes) -> int | None:
        if self.is_complete:
            return None  # a trailer
        super().on_header(line)
        if self.header_size > MAX_HEADERS:
            return -1
        status = self.status()
        self.is_complete = not line.strip() and status is not None and status >= 200
        return None


class Stream:
    """An answer on its way: ``status`` and ``headers`` (repeated ones repeated), then `chunks`.

    ``seconds`` is the time to its head, ``tries`` how often the service was asked; ``sent`` and ``received`` count the
    bodies' bytes.
    """

    def __init__(self, outgoing: StreamOutgoing) -> None:
        self.tries = 1
        self.sent = self.received = 0
        self._outgoing = outgoing
        self._bounds = bounds()
        self._head = _Head(outgoing.url, self._bounds.proxy)
        self._ready: deque[bytes] = deque()
        self._waiting = 0
        self._holds_sending = self._holds_receiving = self._done = False
        self._failure: Exception | None = None
        self._rest = memoryview(outgoing.body) if isinstance(outgoing.body, bytes) else memoryview(b"")
        started = self._moved_at = time.monotonic()
        if self._bounds.proxy is not None:
            check_target(outgoing.url, self._patience(outgoing.connect_timeout))
        self._line: _Line | None = _take_line() if self._bounds.proxy is None else _Line()
        try:
            self._begin(self._line)
            while not (self._head.is_complete or self._done):
                self._turn()
            if self._failure is not None and not self._head.is_complete:
                raise self._failure
            check_answer(self._head, self._head.status() or 0)
        except BaseException as error:
            self._leave(reusable=isinstance(error, Failure))
            raise
        self.status = self._head.status() or 0
        self.headers = list(self._head.headers())
        self.seconds = time.monotonic() - started

    def chunks(self) -> Iterator[bytes]:
        """The body, as it comes. Raises as `open_stream` does, where it breaks off."""
        try:
            while True:
                if self._ready:
                    pieces = list(self._ready)
                    self._ready.clear()
                    self._waiting = 0
                    yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
                    self._moved_at = time.monotonic()  # how long the reader took is not the provider's
                elif self._done:
                    break
                else:
                    self._turn()
            if self._failure is not None:
                raise self._failure
        finally:
            self.close()

    def close(self) -> None:
        """Ends the transfer where it is; without effect once it has ended."""
        self._leave(reusable=True)

    def _leave(self, *, reusable: bool) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.end(reusable=reusable and self._bounds.proxy is None)  # nobody else's tunnel
        if isinstance(self._outgoing.body, Upload):
            self._outgoing.body.wake = lambda: None

    # -- Driving libcurl ---------------------------------------------------------------------------------------------
    def _begin(self, line: _Line) -> None:
        outgoing, curl = self._outgoing, line.curl
        lines = header_lines(outgoing.headers)
        try:
            patience = self._patience(outgoing.connect_timeout)
            guard(curl, self._head, outgoing.url, safe=outgoing.is_safe, connect_timeout=patience)
            self._set_body(curl, lines)
            curl.setopt(pycurl.HTTPHEADER, [text.encode() for text in lines])
        except UnicodeError:
            raise AddressRefused("The address is not a valid URL.") from None
        curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)  # HTTP/2 buffers megabytes for a paused stream
        # As it was given: libcurl would write %7e as %7E, and resolve dots.
        curl.setopt(pycurl.REQUEST_TARGET, self._target())
        curl.setopt(pycurl.BUFFERSIZE, 64 * 1024)
        curl.setopt(pycurl.TCP_KEEPALIVE, 1)
        curl.setopt(pycurl.WRITEFUNCTION, self._receive)
        line.begin()

    def _target(self) -> str:
        """What the request line names: all of the URL where a proxy is to read it (RFC 9112 section 3.2.2)."""
        url = self._outgoing.url
        parts = urlsplit(url)
        before = f"{parts.scheme}://{parts.netloc}" if self._bounds.proxy is not None and parts.scheme == "http" else ""
        return before + _target(url)

    def _patience(self, seconds: float) -> float:
        """So many seconds, or what `bounded` leaves of them. Raises `TimedOut` where that is nothing."""
        remaining = self._bounds.remaining
        if remaining is not None and remaining <= 0:
            raise TimedOut
        return seconds if remaining is None else min(seconds, remaining)

    def _set_body(self, curl: Any, lines: list[str]) -> None:
        body, method = self._outgoing.body, self._outgoing.method
        if method == "HEAD":
            curl.setopt(pycurl.NOBODY, 1)
        elif body is not None:
            length = len(body) if isinstance(body, bytes) else body.length
            curl.setopt(pycurl.UPLOAD, 1)
            curl.setopt(pycurl.CUSTOMREQUEST, method)
            curl.setopt(pycurl.READFUNCTION, self._send)
            if length is None:
                lines.append("Transfer-Encoding: chunked")
            else:
                curl.setopt(pycurl.INFILESIZE_LARGE, length)
        elif method in {"POST", "PUT", "PATCH"}:
            curl.setopt(pycurl.POST, 1)
            curl.setopt(pycurl.POSTFIELDS, b"")  # says Content-Length: 0
            curl.setopt(pycurl.CUSTOMREQUEST, method)
        elif method != "GET":
            curl.setopt(pycurl.CUSTOMREQUEST, method)
        if isinstance(body, Upload) and self._line is not None:
            body.wake = self._line.wake

    def _turn(self) -> None:
        """Waits for something to happen, at most a second, and lets libcurl act on it."""
        line = self._line
        if line is None:
            self._done = True
            return
        if self._holds_receiving and not self._waiting:
            self._holds_receiving = False
            self._resume(line)
        if self._holds_sending and self._has_more():
            self._holds_sending = False
            self._resume(line)
        self._look(line)  # libcurl may have come to the end by what was done above, or when it began
        if not (self._done or self._ready):
            line.turn(TICK)
            self._look(line)
        if not self._done:
            self._check_idle()

    def _look(self, line: _Line) -> None:
        for code, detail in line.ended():
            self._done = True
            if code and self._failure is None:
                self._head.connect_code = int(line.curl.getinfo(pycurl.HTTP_CONNECTCODE))
                self._failure = failure_of(self._head, code, detail)

    def _has_more(self) -> bool:
        body = self._outgoing.body
        return isinstance(body, Upload) and not body.starves

    def _resume(self, line: _Line) -> None:
        flags = pycurl.PAUSE_RECV if self._holds_receiving else 0
        line.curl.pause(flags | (pycurl.PAUSE_SEND if self._holds_sending else 0))
        line.kick()

    def _check_idle(self) -> None:
        body = self._outgoing.body
        latest = max(self._moved_at, body.moved_at) if isinstance(body, Upload) else self._moved_at
        still = time.monotonic() - latest
        if isinstance(body, Upload) and body.starves and not self._head.is_complete:
            if still >= body.patience:
                self._done = True
                self._failure = UploadFailed({"body": [f"No byte of it came for {body.patience:.0f} seconds."]})
        elif self._is_late() or (still >= self._outgoing.idle and not self._ready):
            self._done = True
            self._failure = TimedOut()

    def _is_late(self) -> bool:
        remaining = self._bounds.remaining
        return remaining is not None and remaining <= 0

    # -- libcurl's callbacks: an exception in one would be printed and lost ---------------------------------------------
    def _send(self, size: int) -> bytes | int:
        piece: bytes | None
        if isinstance(self._outgoing.body, Upload):
            try:
                piece = self._outgoing.body.read(size)
            except UploadFailed as error:
                self._failure = error
                return int(pycurl.READFUNC_ABORT)
        else:
            piece, self._rest = bytes(self._rest[:size]), self._rest[size:]
        if piece is None:
            self._holds_sending = True
            return int(pycurl.READFUNC_PAUSE)
        self.sent += len(piece)
        self._moved_at = time.monotonic()
        return piece

    def _receive(self, piece: bytes) -> int:
        if not self._head.is_complete:  # bytes after a 101, which nobody asked for
            self._failure = Unreachable("The provider's answer is no HTTP answer to the request.")
            return 0  # anything but the piece's length ends the transfer
        if self._waiting >= MOST_BUFFERED:
            self._holds_receiving = True
            return int(pycurl.WRITEFUNC_PAUSE)
        self._ready.append(piece)
        self._waiting += len(piece)
        self.received += len(piece)
        self._moved_at = time.monotonic()
        return len(piece)


def _target(url: str) -> str:
    """Path and query, as they stand in the URL."""
    start = url.find("/", url.index("//") + 2)
    mark = url.find("?")
    if start < 0 or 0 <= mark < start:
        return f"/{url[mark:]}" if mark >= 0 else "/"
    return url[start:].partition("#")[0]


class _Line:
    """A multi handle with one easy handle, and what is watched for them. Its connections stay open for the next request."""

    def __init__(self) -> None:
        self.curl = pycurl.Curl()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._due: float | None = None
        self._poll = select.poll()
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self._poll.register(self._bell, select.POLLIN)
        self._pid = os.getpid()

    def begin(self) -> None:
        self._multi.add_handle(self.curl)
        self.kick()

    def end(self, *, reusable: bool) -> None:
        with contextlib.suppress(pycurl.error):  # it was never added
            self._multi.remove_handle(self.curl)
        self.curl.reset()
        if reusable:
            _give_back(self)
        else:
            self.close()

    def wake(self) -> None:
        """From any thread: ends the wait in `turn`."""
        with contextlib.suppress(OSError):  # full: it rings already; closed: nobody waits
            self._rope.send(b"!")

    def kick(self) -> None:
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def turn(self, seconds: float) -> None:
        """Waits for sockets, libcurl's timer or `wake`, at most so long, and lets libcurl act."""
        if self._due is not None:
            seconds = min(seconds, max(0.0, self._due - time.monotonic()))
        for number, event in self._poll.poll(seconds * 1000):
            if number == self._bell.fileno():
                with contextlib.suppress(BlockingIOError):
                    self._bell.recv(4096)
            else:
                self._multi.socket_action(number, _mask(event))
        if self._due is not None and time.monotonic() >= self._due:
            self._due = None
            self.kick()

    def ended(self) -> Iterator[tuple[int, str]]:
        """(curl's error or 0, its sentence) of the transfer, once it is over."""
        _, succeeded, failed = self._multi.info_read()
        yield from ((0, "") for _ in succeeded)
        yield from ((int(code), str(detail)) for _, code, detail in failed)

    def close(self) -> None:
        self.curl.close()
        self._multi.close()
        self._silence()

    def _silence(self) -> None:
        self._bell.close()
        self._rope.close()

    __del__ = _silence

    def is_ours(self) -> bool:
        """False after a fork: the connections are the parent's."""
        return self._pid == os.getpid()

    def _watch(self, event: int, number: int, multi: Any, data: Any) -> None:
        if event == pycurl.POLL_REMOVE:
            with contextlib.suppress(KeyError):
                self._poll.unregister(number)
            return
        wanted = select.POLLIN if event in {pycurl.POLL_IN, pycurl.POLL_INOUT} else 0
        wanted |= select.POLLOUT if event in {pycurl.POLL_OUT, pycurl.POLL_INOUT} else 0
        self._poll.register(number, wanted)

    def _set_timer(self, milliseconds: int) -> None:
        self._due = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


def _mask(event: int) -> int:
    mask = pycurl.CSELECT_IN if event & (select.POLLIN | select.POLLHUP) else 0
    mask |= pycurl.CSELECT_OUT if event & select.POLLOUT else 0
    return int(mask | (pycurl.CSELECT_ERR if event & (select.POLLERR | select.POLLNVAL) else 0))


_idle_lines: list[_Line] = []
_lock = threading.Lock()


def _take_line() -> _Line:
    with _lock:
        while _idle_lines:
            line = _idle_lines.pop()
            if line.is_ours():
                return line
    return _Line()


def _give_back(line: _Line) -> None:
    with _lock:
        if len(_idle_lines) < MOST_LINES:
            _idle_lines.append(line)
            return
    line.close()


# -- A reader who stalls ---------------------------------------------------------------------------------------------
_bounded: set[tuple[int, int]] = set()


def bound_stalled_readers(port: int, seconds: float = IDLE) -> None:
    """Lets the kernel end connections to our own ``port`` whose other side takes no byte for so long; Linux only.

    A server thread that writes to a client who does not read waits in the server, where no time-out of ours reaches it.
    TCP_USER_TIMEOUT (RFC 5482; tcp(7)) on the listening socket is inherited by what it accepts. Once a process.
    """
    if not port or (os.getpid(), port) in _bounded or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    _bounded.add((os.getpid(), port))
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError, ValueError):
                _bound(int(name), port, seconds)


def _bound(number: int, port: int, seconds: float) -> None:
    with socket.socket(fileno=os.dup(number)) as one:  # OSError for what is no socket
        if one.family in {socket.AF_INET, socket.AF_INET6} and one.getsockname()[1] == port:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
