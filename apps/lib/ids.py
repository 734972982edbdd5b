"""Identifiers: random, URL-safe, prefixed where the API shows them."""

from __future__ import annotations

import secrets
import string

ALPHABET = string.ascii_letters + string.digits


def random_id(length: int) -> str:
    """Random letters and digits; 22 of them carry 131 bits."""
    number = secrets.randbelow(len(ALPHABET) ** length)
    letters = []
    for _ in range(length):
        number, index = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[index])
    return "".join(letters)


def _prefixed(prefix: str, length: int) -> str:
    """With a letter first: Django's admin takes ``_3D`` in an address for an escaped ``=``."""
    return f"{prefix}_{secrets.choice(string.ascii_letters)}{random_id(length - 1)}"


def project_id() -> str:
    return _prefixed("proj", 16)


def connection_id() -> str:
    return _prefixed("ca", 22)


def integration_id() -> str:
    return random_id(16)


def row_id() -> str:
    return random_id(22)


URL_SAFE = string.ascii_letters + string.digits + "_-"


def run_id() -> str:
    """A nanoid of 21 characters: 126 random bits."""
    return "".join(secrets.choice(URL_SAFE) for _ in range(21))


def token_22() -> str:
    """22 characters of base64url: 128 random bits."""
    return secrets.token_urlsafe(16)


def token_43() -> str:
    """43 characters of base64url: 256 random bits."""
    return secrets.token_urlsafe(32)
