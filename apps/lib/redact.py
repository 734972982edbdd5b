"""Takes secrets out of what is kept or shown: by the name of a member and by the value itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

MASK = "********"
SECRET_NAME = re.compile(
    r"(authorization|cookie|password|passwd|secret|token|api[-_]?key|apikey|private[-_]?key|credential|signature|"
    r"client[-_]?assertion|code[-_]?verifier|x-api-key|session[-_]?id)",
    re.IGNORECASE,
)
NOT_SECRET = re.compile(
    r"(next_?page_?token|page_?token|sync_?token|tokens?_?(count|used|type)|max_?tokens)", re.IGNORECASE
)
JSON_MEMBER = re.compile(r'("([^"\\]{1,100})"\s*:\s*)"(?:[^"\\]|\\.)*(?:"|$)')
MIN_VALUE = 4  # shorter values would mask half a text


def redact(value: Any, secrets: Iterable[str] = ()) -> Any:
    """A copy of JSON-like data without secrets: members with a secret's name, and any of ``secrets`` inside a text."""
    return _redact(value, [secret for secret in secrets if len(secret) >= MIN_VALUE])


def _redact(value: Any, values: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            redact_text(str(key), values): MASK if is_secret_name(str(key)) and member else _redact(member, values)
            for key, member in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_redact(item, values) for item in value]
    if isinstance(value, str):
        return redact_text(value, values)
    return value


def is_secret_name(name: str) -> bool:
    return bool(SECRET_NAME.search(name)) and not NOT_SECRET.search(name)


def redact_json_text(text: str, secrets: Iterable[str] = ()) -> str:
    """As `redact`, for JSON that is cut off, or too large or deep to be read."""
    values = sorted((secret for secret in secrets if len(secret) >= MIN_VALUE), key=len, reverse=True)
    masked = JSON_MEMBER.sub(lambda match: f'{match[1]}"{MASK}"' if is_secret_name(match[2]) else match[0], text)
    return redact_text(masked, values)


def redact_text(text: str, values: Iterable[str]) -> str:
    """The longest first: one secret may begin another."""
    for secret in sorted((value for value in values if value in text), key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def secret_values(credentials: Any) -> list[str]:
    """Every text inside stored credentials, to be masked wherever it turns up."""
    if isinstance(credentials, dict):
        return [text for member in credentials.values() for text in secret_values(member)]
    if isinstance(credentials, list):
        return [text for member in credentials for text in secret_values(member)]
    return [credentials] if isinstance(credentials, str) and len(credentials) >= MIN_VALUE else []


def clip(value: Any, limit: int) -> str:
    """JSON text of a value, at most ``limit`` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text.replace("\x00", "\ufffd")  # PostgreSQL's text takes no NUL
    text = text.encode("utf-8", errors="replace").decode()  # and no database half of a surrogate pair
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
