"""Reads settings from the environment: ``NAME``, or for secrets the file that ``NAME_FILE`` names."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

DEVELOPMENT_MARK = "dev"  # begins every key that quickstart makes; production refuses them


def secret(name: str, default: str = "") -> str:
    """The variable, or the content of the file that ``NAME_FILE`` names. Raises OSError where that cannot be read."""
    path = secret_path(name)
    if path:
        return Path(path).read_text(encoding="utf-8").strip()
    return os.environ.get(name, default).strip()


def secret_path(name: str) -> str:
    """The file that the secret is read from; empty where it stands in the variable."""
    return os.environ.get(f"{name}_FILE", "")


def listed(name: str) -> list[str]:
    return [part.strip() for part in os.environ.get(name, "").split(",") if part.strip()]


def kept_in_file(path: Path, make: Callable[[], str]) -> str:
    """The file's content; made at first use, readable by its owner alone, whole or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename, never replaces the file of a process that was faster
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text(encoding="utf-8").strip()


def new_secret_key() -> str:
    return f"{DEVELOPMENT_MARK}-{secrets.token_urlsafe(48)}"


def new_encryption_keys() -> str:
    return f"{DEVELOPMENT_MARK}1:{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}"


def new_rsa_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
