"""From a tool and its parameters to one HTTP request: pure, and with every value escaped into its place."""

from __future__ import annotations

import base64
import binascii
import copy
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from apps.lib.http import Signer

from .spec import PLACEHOLDER, Call, Parameter, Tool, Toolkit

HEADER_NAME = re.compile(r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$")
HEADER_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 section 5.5: no control characters but the tab


class BadParameters(Exception):
    """Parameters that do not fit; ``faults`` is ``{field: [messages]}``, every one of them."""

    def __init__(self, faults: dict[str, list[str]]) -> None:
        super().__init__("; ".join(f"{name}: {', '.join(messages)}" for name, messages in faults.items()))
        self.faults = faults


@dataclass(frozen=True)
class Request:
    """A request that has not been sent: no credential in it yet."""

    method: str
    url: str
    query: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    idempotent: bool = False
    timeout: float = 30.0
    retry_statuses: frozenset[int] = frozenset()
    # Gives the headers that sign one sending (OAuth 1.0a).
    sign: Signer | None = field(default=None, repr=False)  # it holds the credentials

    @property
    def full_url(self) -> str:
        if not self.query:
            return self.url
        return f"{self.url}{'&' if '?' in self.url else '?'}{urlencode(self.query, quote_via=quote)}"

    def with_header(self, name: str, value: str) -> Request:
        kept = {key: old for key, old in self.headers.items() if key.lower() != name.lower()}
        return replace(self, headers=kept | {name: value})

    def with_query(self, name: str, value: str) -> Request:
        return replace(self, query=[*self.query, (name, value)])


def check_parameters(tool: Tool, params: dict[str, Any]) -> None:
    """Raises `BadParameters` naming every fault that the tool's schema finds."""
    if tool.validator.is_valid(params):
        return
    faults: dict[str, list[str]] = {}
    for error in tool.validator.iter_errors(params):
        place = ".".join(str(part) for part in error.instance_path)
        for name, message in _explain(error, place):
            messages = faults.setdefault(name, [])
            if message not in messages:
                messages.append(message)
    raise BadParameters(faults)


def _explain(error: Any, place: str) -> Iterable[tuple[str, str]]:
    """Names a missing or unexpected member itself, where JSON Schema names the object around it."""
    kind = type(error.kind).__name__
    if kind.endswith("Required"):
        name = str(error.kind.property)
        yield f"{place}.{name}" if place else name, "This field is required."
    elif kind.endswith("AdditionalProperties"):
        for name in error.kind.unexpected:
            yield f"{place}.{name}" if place else str(name), "Unknown parameter."
    else:
        yield place or "params", error.message if len(error.message) <= 300 else f"{error.message[:300]}…"


def base_url(toolkit: Toolkit, variables: dict[str, str], override: str = "") -> str:
    return fill(override or toolkit.base_url or "", variables).rstrip("/")


def fill(template: str, values: dict[str, str]) -> str:
    """Fills ``{name}`` blanks as they are; a blank without a value raises `BadParameters`."""

    def value_of(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in values:
            raise BadParameters({name: ["This value is not set."]})
        return values[name]

    return PLACEHOLDER.sub(value_of, template)


def build(
    toolkit: Toolkit, tool: Tool, params: dict[str, Any], variables: dict[str, str], base_override: str = ""
) -> Request:
    """Puts checked parameters into their places.

    Raises `BadParameters` for what a schema cannot say: a path segment of dots, a header value with control characters.
    """
    writer = _Writer(tool, variables)
    for name, parameter in tool.parameters.items():
        if name in params:
            writer.put(name, parameter, params[name])
        elif parameter.into == "path" and "default" in parameter.json_schema:
            writer.put(name, parameter, parameter.json_schema["default"])
    writer.finish()
    path = writer.path()
    headers = {name: fill(value, variables) for name, value in toolkit.headers.items()}
    headers |= tool.fixed_headers | writer.headers
    if writer.content_type and not any(name.lower() == "content-type" for name in writer.headers):
        headers = {name: value for name, value in headers.items() if name.lower() != "content-type"}
        headers["Content-Type"] = writer.content_type
    return Request(
        method=tool.method,
        url=absolute(toolkit, path, variables, base_override),
        query=[*tool.fixed_query.items(), *writer.query],
        headers=headers,
        body=writer.body,
        idempotent=tool.is_idempotent,
        timeout=float(tool.timeout or toolkit.timeout),
        retry_statuses=frozenset(toolkit.retry.statuses),
    )


def build_call(toolkit: Toolkit, call: Call, variables: dict[str, str], base_override: str = "") -> Request:
    """The request of a fixed call: the profile or the test of a toolkit."""
    headers = {name: fill(value, variables) for name, value in (toolkit.headers | call.headers).items()}
    body = None
    if call.json_body is not None:
        body = json.dumps(call.json_body).encode()
        headers["Content-Type"] = "application/json"
    return Request(
        method=call.method,
        url=absolute(toolkit, fill(call.path, variables), variables, base_override),
        query=list(call.query.items()),
        headers=headers,
        body=body,
        idempotent=call.method in {"GET", "HEAD"},
        timeout=float(min(toolkit.timeout, 30)),
        retry_statuses=frozenset(toolkit.retry.statuses),
    )


def absolute(toolkit: Toolkit, path: str, variables: dict[str, str], base_override: str = "") -> str:
    """The URL of a path: below the base URL, or as it stands where the toolkit's file gave it whole.

    With the base URL overridden for a project, a whole URL's origin is replaced by the override's: the tests of a toolkit
    of several hosts, and its emulators, live at one.
    """
    if not path.startswith(("http://", "https://")):
        return f"{base_url(toolkit, variables, base_override)}/{path.lstrip('/')}"
    if base_override:
        override = urlsplit(fill(base_override, variables))
        parts = urlsplit(path)
        return parts._replace(scheme=override.scheme, netloc=override.netloc).geturl()
    return path


class _Writer:
    def __init__(self, tool: Tool, variables: dict[str, str]) -> None:
        self.tool = tool
        self.variables = variables
        self.segments: dict[str, str] = {}
        self.query: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}
        self.form: list[tuple[str, str]] = []
        self.parts: list[tuple[str, Any]] = []
        self.json: Any = json.loads(json.dumps(tool.fixed_body)) if tool.fixed_body else None
        self.raw: bytes | None = None
        self.body: bytes | None = None
        self.content_type = ""
        self.faults: dict[str, list[str]] = {}

    def put(self, name: str, parameter: Parameter, value: Any) -> None:
        wire = parameter.wire_name if parameter.wire_name is not None else name
        try:
            getattr(self, f"_put_{parameter.into}")(wire, parameter, value)
        except ValueError as error:
            self.faults.setdefault(name, []).append(str(error))

    def _put_none(self, wire: str, parameter: Parameter, value: Any) -> None:
        """A parameter that only the tool's hook reads."""

    def _put_path(self, wire: str, parameter: Parameter, value: Any) -> None:
        text = scalar(value)
        if text in {"", ".", ".."}:
            raise ValueError("Must not be empty, '.' or '..'.")
        # In the middle of a path, one parameter is one segment; `format: path` marks those that may hold slashes.
        slashes = "/" if parameter.json_schema.get("format") == "path" else ""
        if slashes and any(part in {"", ".", ".."} for part in text.split("/")):
            raise ValueError("Must not have empty, '.' or '..' segments.")
        self.segments[wire] = quote(text, safe=slashes)

    def _put_query(self, wire: str, parameter: Parameter, value: Any) -> None:
        self.query += pairs(wire, parameter.style, value)

    def _put_header(self, wire: str, parameter: Parameter, value: Any) -> None:
        text = scalar(value) if not isinstance(value, list) else ", ".join(scalar(item) for item in value)
        if HEADER_FORBIDDEN.search(text):
            raise ValueError("Must not have control characters.")
        self.headers[wire] = text

    def _put_body(self, wire: str, parameter: Parameter, value: Any) -> None:
        value = copy.deepcopy(value)  # further parameters may be put inside it, and the caller's must stay as they are
        if wire == "":
            self.json = value
            return
        if self.json is None:
            self.json = {}
        steps = wire[1:].split("/") if wire.startswith("/") else [wire]
        target = self.json
        for step in steps[:-1]:
            target = target.setdefault(step, {})
        target[steps[-1]] = value

    def _put_form(self, wire: str, parameter: Parameter, value: Any) -> None:
        self.form += pairs(wire, parameter.style, value)

    def _put_multipart(self, wire: str, parameter: Parameter, value: Any) -> None:
        self.parts += [(wire, item) for item in (value if isinstance(value, list) else [value])]

    def _put_raw(self, wire: str, parameter: Parameter, value: Any) -> None:
        self.raw = content(value, parameter.json_schema.get("contentEncoding") == "base64")
        self.content_type = str(parameter.json_schema.get("contentMediaType", "application/octet-stream"))

    def finish(self) -> None:
        if self.raw is not None:
            self.body = self.raw
        elif self.parts:
            try:
                self.body, self.content_type = multipart(self.parts)
            except ValueError as error:
                self.faults.setdefault("params", []).append(str(error))
        elif self.form:
            self.body, self.content_type = urlencode(self.form).encode(), "application/x-www-form-urlencoded"
        elif self.json is not None:
            self.body, self.content_type = json.dumps(self.json, ensure_ascii=False).encode(), "application/json"
        elif self.tool.method in {"POST", "PUT", "PATCH"} and self._sends_json():
            self.body, self.content_type = b"{}", "application/json"
        if self.faults:
            raise BadParameters(self.faults)

    def _sends_json(self) -> bool:
        return any(parameter.into == "body" for parameter in self.tool.parameters.values())

    def path(self) -> str:
        return fill(self.tool.path, self.variables | self.segments)


def scalar(value: Any) -> str:
    """A value as text on the wire: booleans as JSON writes them, objects and lists as JSON."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return str(value)


def pairs(name: str, style: str, value: Any) -> list[tuple[str, str]]:
    if value is None:
        return []
    if not isinstance(value, list):
        return [(name, scalar(value))]
    if style == "comma":
        return [(name, ",".join(scalar(item) for item in value))]
    if style == "json":
        return [(name, scalar(value))]
    return [(f"{name}[]" if style == "brackets" else name, scalar(item)) for item in value]


def content(value: Any, is_base64: bool) -> bytes:
    if not is_base64:
        return scalar(value).encode()
    try:
        return base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("Must be base64.") from None


def multipart(parts: list[tuple[str, Any]]) -> tuple[bytes, str]:
    """A ``multipart/form-data`` body (RFC 7578); a file is ``{filename, content_type?, base64 or text}``."""
    boundary = secrets.token_hex(16)
    chunks: list[bytes] = []
    for name, value in parts:
        disposition = f'form-data; name="{_quoted(name)}"'
        headers = ""
        if isinstance(value, dict) and "filename" in value and ("base64" in value or "text" in value):
            disposition += f'; filename="{_quoted(str(value["filename"]))}"'
            kind = str(value.get("content_type", "application/octet-stream"))
            if HEADER_FORBIDDEN.search(kind):
                raise ValueError("content_type must not have control characters.")
            headers = f"\r\nContent-Type: {kind}"
            data = content(value.get("base64", value.get("text")), "base64" in value)
        else:
            data = scalar(value).encode()
        chunks += [f"--{boundary}\r\nContent-Disposition: {disposition}{headers}\r\n\r\n".encode(), data, b"\r\n"]
    chunks.append(f"--{boundary}--\r\n".encode())
    return b"".join(chunks), f"multipart/form-data; boundary={boundary}"


def _quoted(text: str) -> str:
    """A file or field name as HTML's multipart encoding writes it."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
