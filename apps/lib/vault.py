"""Encryption at rest: AES-256-GCM under a ring of keys.

A ciphertext names its key (``jf1:<key id>:<base64url of nonce and ciphertext>``) and is bound to its place by associated
data (table, row, field): copied to another row it does not open. The first key of ``JACKFIELD_ENCRYPTION_KEYS`` encrypts,
every key opens, so that keys rotate without a pause.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from functools import lru_cache
from typing import Any, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

NONCE_BYTES = 12  # NIST SP 800-38D section 8.2
KEY_BYTES = 32


class VaultError(Exception):
    """A ciphertext that does not open: unknown key, another place, or damaged."""


class BadKeys(ValueError):
    """Keys that are not ``id:base64 of 32 bytes``, comma-separated."""


def parse_keys(text: str) -> dict[str, bytes]:
    """``id:base64,id:base64`` → keys by id, the encrypting one first. Raises `BadKeys`."""
    keys: dict[str, bytes] = {}
    for part in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        key_id, separator, encoded = part.partition(":")
        try:
            key = base64.b64decode(encoded.strip(), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not separator or not key_id.isidentifier() or len(key) != KEY_BYTES:
            raise BadKeys(f"{key_id[:20] or 'a key'}: must be an identifier, a colon and the base64 of 32 bytes")
        if key_id in keys:
            raise BadKeys(f"{key_id}: stands there twice")
        keys[key_id] = key
    if not keys:
        raise BadKeys("no key is given")
    return keys


def new_key(key_id: str) -> str:
    return f"{key_id}:{base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"


@lru_cache(maxsize=4)
def _ring(text: str) -> dict[str, AESGCM]:
    return {key_id: AESGCM(key) for key_id, key in parse_keys(text).items()}


def ring() -> dict[str, AESGCM]:
    return _ring(settings.JACKFIELD_ENCRYPTION_KEYS)


def seal(plain: bytes, place: str) -> str:
    key_id, cipher = next(iter(ring().items()))
    nonce = secrets.token_bytes(NONCE_BYTES)
    body = nonce + cipher.encrypt(nonce, plain, place.encode())
    return f"jf1:{key_id}:{base64.urlsafe_b64encode(body).decode()}"


def unseal(sealed: str, place: str) -> bytes:
    """Raises `VaultError` where the ciphertext is not one of ours, of this place, under a key of the ring."""
    version, _, rest = sealed.partition(":")
    key_id, _, encoded = rest.partition(":")
    cipher = ring().get(key_id)
    if version != "jf1" or cipher is None:
        raise VaultError(f"no key {key_id[:20]!r} in JACKFIELD_ENCRYPTION_KEYS")
    try:
        body = base64.urlsafe_b64decode(encoded)
        return cipher.decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], place.encode())
    except (InvalidTag, ValueError) as error:
        raise VaultError("the ciphertext does not open in this place") from error


class Sealing:
    """For models with encrypted text fields, named in ``SEALED``: JSON in, JSON out, bound to table, row and field.

    The row's primary key must be set before sealing, and never changes.
    """

    SEALED: ClassVar[tuple[str, ...]] = ()

    def seal(self, field: str, value: Any) -> None:
        setattr(self, field, self.sealed(field, value))

    def sealed(self, field: str, value: Any) -> str:
        return seal(json.dumps(value).encode(), self._place(field))

    def unseal(self, field: str) -> Any:
        """The value of a sealed field; None where nothing is stored. Raises `VaultError`."""
        stored: str = getattr(self, field)
        return json.loads(unseal(stored, self._place(field))) if stored else None

    def _place(self, field: str) -> str:
        if field not in self.SEALED:
            raise ValueError(f"{field} is not a sealed field")
        return f"{self._meta.db_table}:{self.pk}:{field}"  # type: ignore[attr-defined] # of django's Model
