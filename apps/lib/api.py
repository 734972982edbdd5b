"""What every API surface shares: bodies, envelopes, paging, request ids.

A surface is an `Envelope`: the one place where a `Failure` becomes its answer. A view is an `ApiView` with an envelope.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import math
import re
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation, ValidationError
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase
from django.utils.dateparse import parse_datetime
from rest_framework import exceptions as drf
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.serializers import CharField, Serializer
from rest_framework.views import APIView

from . import errors
from .errors import Failure
from .ids import random_id

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024
MAX_DRAIN = 8 * 1024 * 1024
CHUNK = 64 * 1024
MAX_LIMIT = 500
DEFAULT_LIMIT = 50
MAX_DEPTH = 100  # levels of a JSON body; what walks through it later would run out of stack beyond
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

request_id_var: ContextVar[str] = ContextVar("request_id", default="")
request_path_var: ContextVar[str] = ContextVar("request_path", default="")


def request_id() -> str:
    """The id of the request under way, or an empty text outside of one."""
    return request_id_var.get()


class RequestIdMiddleware:
    """Takes the caller's X-Request-Id where it is sane, else makes one; echoes it on the answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.META.get("HTTP_X_REQUEST_ID", "")
        token = request_id_var.set(given if REQUEST_ID.fullmatch(given) else f"req_{random_id(20)}")
        path = request_path_var.set(request.path)
        try:
            response = self.get_response(request)
            response["X-Request-Id"] = request_id_var.get()
            return response
        finally:
            request_id_var.reset(token)
            request_path_var.reset(path)


class Envelope:
    """How one surface spells an error. This one is the Integrations API's, and the platform's own routes'."""

    def body(self, failure: Failure) -> dict[str, Any]:
        error: dict[str, Any] = {
            "code": failure.code,
            "message": failure.text,
            "remediation": failure.advice,
            "documentation_url": f"{settings.JACKFIELD_URL}/docs/errors#{failure.code}",
        }
        if failure.details is not None:
            error["details"] = failure.details
        return {"error": error}

    def status(self, failure: Failure) -> int:
        return failure.status

    def render(self, failure: Failure) -> HttpResponse:
        response = json_answer(self.body(failure), self.status(failure))
        if failure.retry_after is not None or response.status_code == 429:
            response["Retry-After"] = str(max(1, failure.retry_after or 1))
        if isinstance(failure, errors.Unauthenticated):
            response["WWW-Authenticate"] = "Bearer"  # RFC 9110 section 15.5.2
        return response


INTEGRATIONS = Envelope()


def json_answer(data: Any, status: int = 200) -> HttpResponse:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=str)
    # A lone surrogate may come with an upstream's text; it has no UTF-8 form.
    return HttpResponse(text.encode("utf-8", errors="replace"), status=status, content_type="application/json")


def no_content() -> HttpResponse:
    """204, with no Content-Type of content that is not there."""
    response = HttpResponse(status=204)
    del response["Content-Type"]
    return response


def read_body(request: HttpRequest, limit: int) -> bytes:
    """The whole body, also of a chunked request, which Django itself reads as empty.

    Raises `BodyTooLarge`, having drained what is left up to 8 MiB so that the caller reads our answer and not a reset.
    """
    stream = request.META.get("wsgi.input")
    if stream is None:
        return request.body
    declared = request.META.get("CONTENT_LENGTH") or ""
    length = int(declared) if declared.isdigit() else None
    if length is None and "chunked" not in request.META.get("HTTP_TRANSFER_ENCODING", "").lower():
        return b""
    if length is not None and length > limit:
        _drain(stream, min(length, MAX_DRAIN))
        raise errors.BodyTooLarge(f"The request body is larger than {limit} bytes.")
    chunks: list[bytes] = []
    size = 0
    while length is None or size < length:
        try:
            chunk = stream.read(CHUNK if length is None else min(CHUNK, length - size))
        except OSError:
            raise errors.InvalidInput({"body": ["The request broke off."]}) from None
        if not chunk:
            break
        size += len(chunk)
        if size > limit:
            _drain(stream, MAX_DRAIN)
            raise errors.BodyTooLarge(f"The request body is larger than {limit} bytes.")
        chunks.append(chunk)
    return b"".join(chunks)


def _drain(stream: Any, most: int) -> None:
    while most > 0:
        try:
            chunk = stream.read(min(CHUNK, most))
        except OSError:
            return
        if not chunk:
            return
        most -= len(chunk)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def parse_json(body: bytes) -> Any:
    """JSON as RFC 8259 has it: UTF-8, no NaN; of what it leaves open, no infinite number and no half of a surrogate pair.

    Raises `InvalidInput`, also beyond 100 levels.
    """
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError:
        raise errors.InvalidInput({"body": ["The body is not UTF-8."]}) from None
    except RecursionError:
        raise errors.InvalidInput({"body": [TOO_DEEP]}) from None
    except ValueError as error:
        raise errors.InvalidInput({"body": [f"The body is not JSON: {str(error)[:200]}"]}) from None
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and is_deeper_than(data, MAX_DEPTH):
        raise errors.InvalidInput({"body": [TOO_DEEP]})
    if SURROGATE.search(body) and _has_lone_surrogate(data):
        raise errors.InvalidInput({"body": ["A text has half of a surrogate pair, which has no UTF-8."]})
    return data


TOO_DEEP = f"The body is nested deeper than {MAX_DEPTH} levels."
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def is_deeper_than(data: Any, levels: int) -> bool:
    """Whether lists and objects are nested deeper than so many levels; without recursion."""
    layer = [data]
    for _ in range(levels):
        layer = [
            inner
            for item in layer
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, (dict, list))
        ]
        if not layer:
            return False
    return True


def _has_lone_surrogate(data: Any) -> bool:
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


class ApiRequest(Request):
    """A DRF request whose data is the body as a JSON object, whatever the Content-Type says."""

    max_body = MAX_BODY

    def _load_data_and_files(self) -> None:
        raw = read_body(self._request, self.max_body)
        data = parse_json(raw) if raw.strip() else {}
        if not isinstance(data, dict):
            raise errors.InvalidInput({"body": ["The body must be a JSON object."]})
        self._data = self._full_data = data
        self._files: Any = {}


class OnlyJson(BaseContentNegotiation):
    """Everything is answered as JSON, whatever is asked for."""

    def select_parser(self, request: Any, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


class ApiView(APIView):
    """The base of every API view: JSON in, JSON out, every failure in the surface's envelope."""

    envelope: ClassVar[Envelope] = INTEGRATIONS
    max_body: ClassVar[int] = MAX_BODY
    authentication_classes: Any = ()
    permission_classes: Any = ()
    throttle_classes: Any = ()
    renderer_classes: Any = (JSONRenderer,)
    http_method_names = ["get", "head", "post", "put", "patch", "delete"]
    content_negotiation_class: Any = OnlyJson

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> ApiRequest:
        wrapped = ApiRequest(request, parser_context=self.get_parser_context(request))
        wrapped.max_body = self.max_body
        return wrapped

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """Called before the method: a place for subclasses to find out who calls."""
        request.accepted_renderer, request.accepted_media_type = self.renderer_classes[0](), "application/json"
        if "%00" in request.META.get("QUERY_STRING", ""):  # PostgreSQL's text takes none
            raise errors.InvalidInput({"query": ["Must not have NUL characters."]})

    def handle_exception(self, exc: Exception) -> HttpResponse:  # type: ignore[override] # not DRF's Response: rendered at once
        return self.envelope.render(as_failure(exc))

    def body(self, serializer_class: type[Serializer[Any]], **kwargs: Any) -> dict[str, Any]:
        """The checked body. Raises `InvalidInput` with every fault."""
        return checked(serializer_class(data=self.request.data, **kwargs))

    def parameters(self, serializer_class: type[Serializer[Any]]) -> dict[str, Any]:
        """The checked query string; the last of a repeated parameter counts."""
        return checked(serializer_class(data=self.request._request.GET.dict()))


class StrictText(CharField):
    """A text that must come as a JSON string: DRF would take a number for one."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return str(super().to_internal_value(data))


def checked(serializer: Serializer[Any]) -> dict[str, Any]:
    if not serializer.is_valid():
        raise errors.InvalidInput(flatten(serializer.errors))
    return dict(serializer.validated_data)


def flatten(faults: Any, place: str = "") -> dict[str, list[str]]:
    """DRF's nested faults as ``{"field.inner": [messages]}``."""
    if isinstance(faults, dict):
        found: dict[str, list[str]] = {}
        for name, inner in faults.items():
            inner_place = "body" if name == "non_field_errors" else str(name)
            found |= flatten(inner, f"{place}.{inner_place}" if place else inner_place)
        return found
    if isinstance(faults, list) and any(isinstance(item, (dict, list)) for item in faults):
        found = {}
        for index, item in enumerate(faults):
            found |= flatten(item, f"{place}.{index}")
        return found
    return {place: [str(item) for item in faults]} if faults else {}


def as_failure(error: BaseException) -> Failure:
    """Any exception as one of ours; what is not foreseen is logged and becomes `Internal`, without its text."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, drf.MethodNotAllowed):
        return errors.MethodNotAllowed(str(error.detail))
    if isinstance(error, (drf.NotFound, Http404)):
        return errors.NotFound()
    if isinstance(error, drf.ValidationError):
        return errors.InvalidInput(flatten(error.detail))
    if isinstance(error, (drf.PermissionDenied, PermissionDenied)):
        return errors.NotPermitted()
    if isinstance(error, RequestDataTooBig):
        return errors.BodyTooLarge()
    if isinstance(error, (drf.ParseError, SuspiciousOperation, UnreadablePostError)):
        return errors.InvalidInput({"body": ["The request is malformed."]})
    log.error("unforeseen error", exc_info=error)
    return errors.Internal()


def read_page(request: HttpRequest) -> tuple[int, str]:
    """``limit`` and ``cursor`` of a list. Raises `InvalidInput`."""
    text = request.GET.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_LIMIT):
        raise errors.InvalidInput({"limit": [f"Must be a number from 1 to {MAX_LIMIT}."]})
    return int(text), request.GET.get("cursor", "")


def page(queryset: QuerySet[Any], request: HttpRequest, *, newest_first: bool = True) -> tuple[list[Any], str | None]:
    """One page by ``created_at`` and id, uncounted: steady while rows are added. Gives rows and the next cursor."""
    limit, cursor = read_page(request)
    sign, compare = ("-", "lt") if newest_first else ("", "gt")
    if cursor:
        at, text = _decode_cursor(cursor)
        try:
            pk = queryset.model._meta.pk.to_python(text)
        except ValidationError:
            raise errors.InvalidInput({"cursor": ["Not a cursor that a list gave."]}) from None
        queryset = queryset.filter(
            Q(**{f"created_at__{compare}": at}) | Q(created_at=at, **{f"pk__{compare}": pk})
        )  # fmt: skip
    rows = list(queryset.order_by(f"{sign}created_at", f"{sign}pk")[: limit + 1])
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], _encode_cursor(last.created_at.isoformat(), str(last.pk))


def offset_page(items: list[Any], request: HttpRequest, default: int = DEFAULT_LIMIT) -> tuple[list[Any], str | None]:
    """One page of a list in memory."""
    limit, cursor = read_page(request)
    if "limit" not in request.GET:
        limit = default
    start = _decode_offset(cursor) if cursor else 0
    following = start + limit
    return items[start:following], (_encode_cursor(str(following)) if following < len(items) else None)


def _encode_cursor(*parts: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _cursor_parts(cursor: str, count: int) -> list[str]:
    parts: Any
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        parts = None
    found = [part for part in parts if isinstance(part, str) and part.isprintable()] if isinstance(parts, list) else []
    if len(found) != count or found != parts:
        raise errors.InvalidInput({"cursor": ["Not a cursor that a list gave."]})
    return found


def _decode_cursor(cursor: str) -> tuple[Any, str]:
    text, pk = _cursor_parts(cursor, 2)
    at = read_time(text)
    if at is None:
        raise errors.InvalidInput({"cursor": ["Not a cursor that a list gave."]})
    return at, pk


def read_time(text: str) -> datetime | None:
    """A time with its zone, in UTC; None for anything else."""
    try:
        found = parse_datetime(text)
        return found.astimezone(UTC) if found is not None and found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _decode_offset(cursor: str) -> int:
    (text,) = _cursor_parts(cursor, 1)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise errors.InvalidInput({"cursor": ["Not a cursor that a list gave."]})
    return int(text)


def client_ip(request: HttpRequest) -> str:
    """The caller's address; X-Forwarded-For counts only behind the number of proxies the operator has named."""
    hops = settings.JACKFIELD_TRUSTED_PROXIES
    forwarded = [part.strip() for part in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if part.strip()]
    if hops and len(forwarded) >= hops:
        return str(forwarded[-hops][:64])
    return str(request.META.get("REMOTE_ADDR", ""))[:64]
