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


def project_id() -> str:
    return f"proj_{random_id(16)}"


def connection_id() -> str:
    return f"ca_{random_id(22)}"


def integration_id() -> str:
    return random_id(16)


def row_id() -> str:
    return random_id(22)
