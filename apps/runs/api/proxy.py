"""ANY /v1/{appId}/integrations/proxy/{toolkit}/{path}: a plain WSGI-near view, for REST framework reads bodies whole."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, StreamingHttpResponse
from django.http.response import HttpResponseBase

from apps.lib.api import INTEGRATIONS, as_failure
from apps.lib.errors import Failure, InvalidInput
from apps.lib.stream import Upload, UploadFailed, bound_stalled_readers
from apps.workspaces.api.base import named_by_header
from apps.workspaces.callers import Caller, identify
from apps.workspaces.signals import key_used

from .. import proxy
from ..proxy import Asked, Forwarded

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SEGMENTS = 6  # before the path that is sent on: "", v1, the project, integrations, proxy, the toolkit
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # granian would break on one
FLUSHED = 0.05  # seconds until the server has surely written what it was given


def forward(request: HttpRequest, app_id: str, toolkit: str, path: str) -> HttpResponseBase:
    """Any method. Errors of ours are JSON in the envelope; whatever the service answers is passed on as it is."""
    if request.method not in METHODS:
        return HttpResponseNotAllowed(METHODS)
    caller = identify(request, app_id)  # for nobody in particular no body is read, and no thread kept
    if caller.key is not None:
        key_used.send(sender=None, key_id=caller.key.pk)
    body = upload_of(request)
    try:
        return _forward(request, caller, toolkit, body)
    except Exception as error:
        return refusal(as_failure(error), body)


def refusal(error: Failure, body: Upload | None) -> HttpResponseBase:
    """An error of ours. The body is drained, so that its caller comes to read it; one that stalls loses the connection."""
    answer = INTEGRATIONS.render(error)
    if body is None:
        return answer
    if not isinstance(error, UploadFailed):
        body.drain()
    body.close()
    return CutOff(answer) if body.is_flowing else answer


def _forward(request: HttpRequest, caller: Caller, toolkit: str, body: Upload | None) -> HttpResponseBase:
    caller.require("execute")
    meta = request.META
    bound_stalled_readers(int(meta.get("SERVER_PORT") or 0), settings.JACKFIELD_STREAM_IDLE_SECONDS)
    asked = Asked(
        method=str(request.method),
        path=proxy.escaped(*sent_path(meta)),
        query=text_of(meta.get("QUERY_STRING", "")),
        headers=headers_of(meta),
        body=body,
    )
    user_id, connection_id = _for_whom(request, caller)
    forwarded = proxy.forward(caller, toolkit, asked, user_id=user_id, connection_id=connection_id)
    try:
        return Streamed(forwarded)
    except BaseException:
        forwarded.close()
        raise


def _for_whom(request: HttpRequest, caller: Caller) -> tuple[str | None, str | None]:
    connection_id = request.META.get("HTTP_X_CONNECTION_ID")
    # Empty: granian hands that over for one that is not ASCII.
    if connection_id is not None and ("\x00" in connection_id or not 1 <= len(connection_id) <= 255):
        raise InvalidInput({"X-Connection-Id": ["Is no id of a connection."]})
    return caller.for_user(None, named_by_header(request)), connection_id


def upload_of(request: HttpRequest) -> Upload | None:
    """The body, not yet read; None where there is none.

    A length that is no number cannot come: the server refuses it.
    """
    meta = request.META
    declared = meta.get("CONTENT_LENGTH") or ""
    length = int(declared) if declared.isascii() and declared.isdigit() else None
    if "chunked" in meta.get("HTTP_TRANSFER_ENCODING", "").lower():
        length = None
    elif not length:
        return None
    return Upload(meta["wsgi.input"], length, patience=settings.JACKFIELD_STREAM_IDLE_SECONDS)


def sent_path(meta: dict[str, Any]) -> tuple[bytes, str]:
    """The decoded path behind the toolkit's slug, and how it was escaped where that is known.

    Some servers also give what was sent, as RAW_URI or REQUEST_URI; granian does not.
    """
    whole = meta["PATH_INFO"].encode()  # Django has made a text of it
    path = whole.split(b"/", SEGMENTS)[SEGMENTS]
    if spelled := str(meta.get("HTTP_X_UPSTREAM_PATH", "")):
        return path, spelled.removeprefix("/")
    raw = str(meta.get("RAW_URI") or meta.get("REQUEST_URI") or "").partition("?")[0]
    return path, raw.split("/", SEGMENTS)[SEGMENTS] if unquote_to_bytes(raw) == whole else ""


def headers_of(meta: dict[str, Any]) -> list[tuple[str, str]]:
    """The request's headers. granian puts the process's environment among them: a variable HTTP_PROXY is no header."""
    found = [
        (name.removeprefix("HTTP_").replace("_", "-").title(), str(value))
        for name, value in meta.items()
        if name.startswith("HTTP_") and name not in os.environ
    ]
    kind = meta.get("CONTENT_TYPE")
    return [*found, ("Content-Type", str(kind))] if kind else found


class Streamed(StreamingHttpResponse):
    """A service's answer: its headers as they came, repeated ones repeated, and what keeps its pages from running as ours."""

    def __init__(self, forwarded: Forwarded) -> None:
        self.passed_on: list[tuple[str, str]] = []
        super().__init__(forwarded, status=forwarded.status)
        del self.headers["Content-Type"]
        for name, value in forwarded.headers:
            if name.lower() == "content-length" and forwarded.status == 204:  # RFC 9110 section 8.6
                continue
            self.passed_on.append((name, CONTROL.sub("", text_of(value))))
            if value.isascii() and value.isprintable():  # for middleware to see
                self.headers[name] = value
        self.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
        self.headers["X-Content-Type-Options"] = "nosniff"

    def items(self) -> Any:
        """What the WSGI handler sends."""
        theirs = {name.lower() for name, _ in self.passed_on}
        ours = [(name, value) for name, value in self.headers.items() if name.lower() not in theirs]
        return [*ours, *self.passed_on]


def text_of(value: str) -> str:
    """What Latin-1 stands for where its bytes are UTF-8: PEP 3333 has the first, granian reads and writes the second."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


class CutOff(StreamingHttpResponse):
    """An answer after which the connection ends, because its caller's body has stalled and a thread still waits for it.

    Nothing in WSGI ends a connection; announcing one byte more than is sent does.
    """

    def __init__(self, answer: HttpResponse) -> None:
        super().__init__(self._content(answer.content), status=answer.status_code)
        for name, value in answer.items():
            self.headers[name] = value
        self.headers["Content-Length"] = str(len(answer.content) + 1)
        self.headers["Connection"] = "close"

    @staticmethod
    def _content(content: bytes) -> Iterator[bytes]:
        yield content
        time.sleep(FLUSHED)
