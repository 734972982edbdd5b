"""The keys that sign end users' tokens: PEM, and sets of them behind a URL (JWKS, RFC 7517), cached per process."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from apps.lib.api import parse_json
from apps.lib.errors import Failure
from apps.lib.http import Outgoing, send

log = logging.getLogger(__name__)

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

MIN_RSA_BITS = 2048  # RFC 7518 section 3.3
MIN_SECRET_BYTES = 32  # RFC 7518 section 3.2
FRESH = 600.0  # seconds that a fetched set is used without asking again
STALE = 3600.0  # seconds that it is still used while its URL does not answer
PAUSE = 10.0  # seconds between two fetches of one URL, however many tokens name an unknown key
MAX_SETS = 256
MAX_KEYS = 100
MAX_BYTES = 256 * 1024
FETCH_TIMEOUT = 5.0


def read_pem(text: str, algorithm: str) -> PublicKey:
    """A PEM public key that fits the algorithm (RS256, ES256, EdDSA). Raises ValueError saying what is wrong."""
    try:
        key = load_pem_public_key(text.strip().encode())
    except Exception as error:  # cryptography raises many kinds
        raise ValueError("This is not a public key in PEM (-----BEGIN PUBLIC KEY-----).") from error
    if not fits(key, algorithm):
        raise ValueError(f"This key does not fit {algorithm}.")
    return key  # type: ignore[return-value] # `fits` has narrowed it


def fits(key: Any, algorithm: str) -> bool:
    if algorithm == "RS256":
        return isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS
    if algorithm == "ES256":
        return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    return algorithm == "EdDSA" and isinstance(key, ed25519.Ed25519PublicKey)


@dataclass(frozen=True)
class SetKey:
    """One usable key of a set; ``kid`` is empty where the set gives none."""

    kid: str
    algorithm: str
    key: PublicKey


def read_set(document: Any) -> list[SetKey]:
    """The usable keys of a JWKS document; encryption keys, symmetric, private, weak and unknown ones are left out.

    Raises ValueError for what is not a set of keys.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a set of keys")
    found = (_read_entry(entry) for entry in entries[:MAX_KEYS] if isinstance(entry, dict))
    return [key for key in found if key is not None]


def _read_entry(entry: dict[str, Any]) -> SetKey | None:
    algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}.get(str(entry.get("kty")))
    private = "d" in entry
    if algorithm is None or private or entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        key = jwt.PyJWK(entry, algorithm).key
    except jwt.PyJWTError:
        return None
    kid = entry.get("kid", "")
    return SetKey(kid if isinstance(kid, str) else "", algorithm, key) if fits(key, algorithm) else None


@dataclass
class _CachedSet:
    """What one URL gave; the lock lets one thread fetch."""

    keys: list[SetKey] = field(default_factory=list)
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, kid: str | None, algorithm: str) -> SetKey | None:
        suiting = [key for key in self.keys if key.algorithm == algorithm]
        if kid is None:  # without a name, only where there is no choice
            return suiting[0] if len(suiting) == 1 else None
        return next((key for key in suiting if key.kid == kid), None)


class KeySets:
    """Key sets by URL, the least recently used forgotten first."""

    def __init__(self) -> None:
        self._sets: OrderedDict[str, _CachedSet] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, url: str, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key of this name and kind; None where the set has none, or cannot be had.

        A set is asked for again after 10 minutes, and at once, though at most every 10 seconds, when a token names a
        key that it lacks: that is how a rotated key is picked up.
        """
        entry = self._entry(url)
        age = time.monotonic() - entry.fetched_at
        found = entry.find(kid, algorithm)
        if found is None or age > FRESH:
            self._refresh(entry, url, have=found is not None)
            found = entry.find(kid, algorithm)
            age = time.monotonic() - entry.fetched_at
        return found.key if found is not None and age <= STALE else None

    def clear(self) -> None:
        with self._lock:
            self._sets.clear()

    def _entry(self, url: str) -> _CachedSet:
        with self._lock:
            entry = self._sets.setdefault(url, _CachedSet())
            self._sets.move_to_end(url)
            while len(self._sets) > MAX_SETS:
                self._sets.popitem(last=False)
            return entry

    def _refresh(self, entry: _CachedSet, url: str, have: bool) -> None:
        # A thread that has a key does not wait for the one that fetches.
        if not entry.lock.acquire(blocking=not have):
            return
        try:
            if time.monotonic() - entry.tried_at < PAUSE:
                return
            entry.tried_at = time.monotonic()
            keys = _fetch(url)
            if keys is not None:
                entry.keys, entry.fetched_at = keys, time.monotonic()
        finally:
            entry.lock.release()


def _fetch(url: str) -> list[SetKey] | None:
    try:
        answer = send(Outgoing("GET", url, {"Accept": "application/json"}, timeout=FETCH_TIMEOUT, max_bytes=MAX_BYTES))
        if answer.status != 200:
            raise ValueError(f"it answered {answer.status}")
        return read_set(parse_json(answer.body))
    except (Failure, ValueError) as error:
        log.warning("the key set at %s cannot be used: %s", url, error)
        return None


key_sets = KeySets()
