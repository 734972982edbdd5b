"""Where a raw call goes: an endpoint that somebody typed, placed below a base URL and never beside it. Pure."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

LONGEST = 8000
MOST_FIELDS = 500  # of the query
MOST_ROUNDS = 5  # of unescaping; what is still escaped then is refused
# RFC 3986 section 3.3: what may stand in a path as it is, and escapes, which stay as they came (%2F is no slash).
PLAIN = "/:@!$&'()*+,;=-._~%"
CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
ABSOLUTE = re.compile(r"https?://", re.IGNORECASE)
DEFAULT_PORTS = {"http": 80, "https": 443}

Query = list[tuple[str, str]]


def locate(base: str, endpoint: str) -> tuple[str, Query]:
    """The URL and the query of an endpoint below ``base``, a URL without query.

    The endpoint is a path, with or without a slash at its front, or a whole URL that lies below the base; both may have a
    query. Blanks and what is not ASCII are escaped. Raises ValueError, its text for the caller.
    """
    if len(endpoint) > LONGEST:
        raise ValueError(f"Must be at most {LONGEST} characters.")
    if CONTROL.search(endpoint):
        raise ValueError("Must have neither control characters nor backslashes.")
    if "#" in endpoint:
        raise ValueError("Must not have a fragment (#).")
    path, _, query = endpoint.partition("?")
    path = _below(base, path) if ABSOLUTE.match(path) else _relative(path)
    check_path(path)
    url = base.rstrip("/") + quote(path, safe=PLAIN)
    if not _is_below(urlsplit(base), urlsplit(url)):
        raise ValueError("Does not lie below the base URL.")
    return url, _query(query)


def _relative(path: str) -> str:
    if path.startswith("//"):
        raise ValueError("Must not begin with two slashes.")
    if path.startswith("/") or not path:
        return path
    if SCHEME.match(path) or path.startswith((":", "@")):
        raise ValueError("Looks like an address of another kind: let a path begin with a slash.")
    return f"/{path}"


def _below(base: str, url: str) -> str:
    """The path of a whole URL, below the base."""
    try:
        parts, home = urlsplit(url), urlsplit(base)
        if "@" in parts.netloc or not _is_below(home, parts):
            raise ValueError
    except ValueError:
        raise ValueError("This URL does not lie below the integration's base URL.") from None
    path = parts.path[len(home.path.rstrip("/")) :]
    if path.startswith("//"):
        raise ValueError("Must not begin with two slashes.")
    return path


def _is_below(home: SplitResult, parts: SplitResult) -> bool:
    top = home.path.rstrip("/")
    return origin(home) == origin(parts) and (parts.path == top or parts.path.startswith(f"{top}/"))


def origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """Scheme, host and port. Raises ValueError for a port that is none."""
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)


def check_path(path: str) -> None:
    """Raises ValueError for a path that a server could read as one outside of the base.

    Dot segments (RFC 3986 section 5.2.4), also escaped once or several times, behind an escaped slash or backslash, or
    before the parameters of a segment (``..;x``), which some servers cut off.
    """
    if BROKEN_ESCAPE.search(path):
        raise ValueError("Has a % that escapes nothing: write %25.")
    for _ in range(MOST_ROUNDS):
        if CONTROL.search(path):
            raise ValueError("Must have neither control characters nor backslashes, escaped ones included.")
        if any(segment.partition(";")[0] in {".", ".."} for segment in path.split("/")):
            raise ValueError("Must not have '.' or '..' as a segment.")
        plain = unquote(path)
        if plain == path:
            return
        path = plain
    raise ValueError("Is escaped too many times over.")


def _query(text: str) -> Query:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise ValueError(f"Its query must be UTF-8, with at most {MOST_FIELDS} fields.") from None
