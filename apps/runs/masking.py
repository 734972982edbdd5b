"""How what is secret in a job is read back, and how what is sent back as it was read keeps its secret.

A mask is taken for the secret only where it stands with what the secret was given for: a proxy's password with its user and
host, a webhook's headers with its URL. Else whoever may change a job could have its secrets sent to a place of their own.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from apps.lib.errors import InvalidInput
from apps.lib.redact import MASK

from . import sinks

Faults = dict[str, list[str]]


def masked_proxy(url: str | None) -> str | None:
    """A proxy's URL, its password ``********``."""
    user, password, rest = _parts(url or "")
    return url if not url or password is None else f"{urlsplit(url).scheme}://{user}:{MASK}@{rest}"


def unmasked_proxy(given: str, stored: str | None) -> str | None:
    """The URL, its masked password as it was stored; None where none is stored for this user at this host."""
    if _parts(given)[1] != MASK:
        return given
    return stored if stored and masked_proxy(stored) == given else None


def _parts(url: str) -> tuple[str, str | None, str]:
    """User, password (None: no password) and the rest of a checked proxy's URL."""
    before, _, rest = urlsplit(url).netloc.rpartition("@")
    user, colon, password = before.partition(":")
    return user, password if colon else None, rest


def masked_notifications(stored: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    return None if stored is None else [sinks.masked(one) or {} for one in stored]


def unmasked_notifications(
    given: list[dict[str, Any]], stored: list[dict[str, Any]] | None
) -> tuple[list[dict[str, Any]], Faults]:
    """Each with the headers of the one that was stored for the same URL, and the faults by ``notifications.0.headers``."""
    found = [sinks.unmasked(one, _meant(given, place, stored or [])) for place, one in enumerate(given)]
    faults = {f"notifications.{place}.headers": [sinks.ANEW] for place, one in enumerate(found) if _has_mask(one)}
    return found, faults


def _meant(given: list[dict[str, Any]], place: int, stored: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Which of the stored ones is sent back there. Of several with one URL each has its place; None where some are missing."""
    url = given[place]["url"]
    alike = [one for one in stored if one["url"] == url]
    if all(one == alike[0] for one in alike):
        return alike[0] if alike else None
    places = [number for number, one in enumerate(given) if one["url"] == url]
    return alike[places.index(place)] if len(places) == len(alike) else None


def _has_mask(webhook: dict[str, Any]) -> bool:
    return MASK in (webhook.get("headers") or {}).values()


def unmasked(body: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """A job's checked body with the secrets that it names by the mask.

    ``stored`` has what the job has: ``sink``, ``notifications``, ``proxy`` and ``configuration_proxy``; nothing of a job that
    is being made. Raises `InvalidInput` for a mask that stands for nothing.
    """
    whole, faults = dict(body), Faults()
    if body.get("sink"):
        try:
            whole["sink"] = sinks.accepted(body["sink"], stored.get("sink"))
        except InvalidInput as error:
            faults |= sinks.named(error)
    if body.get("notifications"):
        whole["notifications"], wrong = unmasked_notifications(body["notifications"], stored.get("notifications"))
        faults |= wrong
    configuration = body.get("configuration") or {}
    for name, given, old in (
        ("proxy", body.get("proxy"), stored.get("proxy")),
        ("configuration.proxy", configuration.get("proxy"), stored.get("configuration_proxy")),
    ):
        if not given:
            continue
        url = unmasked_proxy(given, old)
        if url is None:
            faults[name] = [sinks.ANEW]
        elif name == "proxy":
            whole["proxy"] = url
        else:
            whole["configuration"] = {**configuration, "proxy": url}
    if faults:
        raise InvalidInput(faults)
    return whole
