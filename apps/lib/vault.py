"""Encryption at rest: AES-256-GCM under a ring of keys.

A ciphertext names its key (``jf1:<key id>:<base64url of nonce and ciphertext>``) and is bound to its place by associated
data (table, row, field): copied to another row it does not open. The first key of ``JACKFIELD_ENCRYPTION_KEYS`` encrypts,
every key opens, so that keys rotate without a pause.

Keys that lie in a file (``JACKFIELD_ENCRYPTION_KEYS_FILE``, or the data folder's own) are read again when the file
changes, so that a running process learns of a new key: within seconds, and at once where it meets a ciphertext under it.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import secrets
import time
from functools import lru_cache
from typing import Any, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

log = logging.getLogger(__name__)

NONCE_BYTES = 12  # NIST SP 800-38D section 8.2
KEY_BYTES = 32
VERSION = "jf1"
LOOK_AGAIN = 2.0  # seconds after which the keys' file is looked at again


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
            # What has no id in front may be the key itself: it is not repeated.
            named = key_id[:20] if separator and key_id.isidentifier() else "a key"
            raise BadKeys(f"{named}: must be an identifier, a colon and the base64 of 32 bytes")
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


class _KeyFile:
    """The ring of a file, read again when the file is another one; a file that cannot be used leaves the ring as it was."""

    def __init__(self) -> None:
        self._path = ""
        self._seen: object = None
        self._look_at = 0.0
        self._keys: dict[str, AESGCM] = {}

    def ring(self, path: str, *, at_once: bool = False) -> dict[str, AESGCM]:
        now = time.monotonic()
        if at_once or now >= self._look_at or path != self._path:
            self._look_at = now + LOOK_AGAIN
            self._read(path)
        return self._keys

    def _read(self, path: str) -> None:
        try:
            status = os.stat(path)
            found = (path, status.st_ino, status.st_mtime_ns, status.st_size)
            if found == self._seen:
                return
            with open(path, encoding="utf-8") as file:
                keys = _ring(file.read())
        except (OSError, ValueError) as error:
            if path != self._path:
                raise
            log.error("the file of the encryption keys cannot be used, so the ring stays as it is: %s", error)
            return
        self._path, self._seen, self._keys = path, found, keys


_file = _KeyFile()


def ring(*, at_once: bool = False) -> dict[str, AESGCM]:
    """The keys by id, the encrypting one first; ``at_once`` looks at their file now. Raises `BadKeys`."""
    path = settings.JACKFIELD_ENCRYPTION_KEYS_PATH
    return _file.ring(str(path), at_once=at_once) if path else _ring(settings.JACKFIELD_ENCRYPTION_KEYS)


def key_ids() -> list[str]:
    """Ids of the ring's keys, the encrypting one first."""
    return list(ring())


def prefix(key_id: str) -> str:
    """How every ciphertext under a key begins."""
    return f"{VERSION}:{key_id}:"


def place(table: str, pk: object, field: str) -> str:
    """The associated data of a sealed field."""
    return f"{table}:{pk}:{field}"


def seal(plain: bytes, place: str) -> str:
    key_id, cipher = next(iter(ring().items()))
    nonce = secrets.token_bytes(NONCE_BYTES)
    body = nonce + cipher.encrypt(nonce, plain, place.encode())
    return f"{prefix(key_id)}{base64.urlsafe_b64encode(body).decode()}"


def unseal(sealed: str, place: str) -> bytes:
    """Raises `VaultError` where the ciphertext is not one of ours, of this place, under a key of the ring."""
    version, _, rest = sealed.partition(":")
    key_id, _, encoded = rest.partition(":")
    cipher = ring().get(key_id) or ring(at_once=True).get(key_id)
    if version != VERSION or cipher is None:
        raise VaultError(f"no key {key_id[:20]!r} in JACKFIELD_ENCRYPTION_KEYS")
    try:
        body = base64.urlsafe_b64decode(encoded)
        return cipher.decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], place.encode())
    except (InvalidTag, ValueError) as error:
        raise VaultError("the ciphertext does not open in this place") from error


def reseal(sealed: str, place: str) -> str:
    """The same under the first key. Raises `VaultError`."""
    return seal(unseal(sealed, place), place)


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
        return place(self._meta.db_table, self.pk, field)  # type: ignore[attr-defined] # of django's Model
