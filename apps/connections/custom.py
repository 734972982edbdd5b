"""The toolkit ``custom``: a service that an integration describes itself (Raw execute API).

Its ``settings`` hold ``base_url``, and in ``config`` how the credential is sent (``auth``) and fixed ``headers``::

    {"base_url": "https://api.example/v2", "config": {"auth": {"type": "header", "name": "X-Key"}, "headers": {"X-App": "1"}}}

Without ``auth`` the credentials decide: a key or token goes as a bearer token (RFC 6750), a user name as Basic (RFC 7617).
"""

from __future__ import annotations

import re
from typing import Any

from apps.toolkits.request import HEADER_FORBIDDEN, HEADER_NAME
from apps.toolkits.spec import BEARER, ApiKey, Auth, Basic, Custom, Placement, Toolkit

from .models import Integration

SLUG = "custom"
# A key or token is stored alike for all three, so that it can be sent in another way without being given anew.
TOKEN_KINDS = ("bearer", "header", "query")
AUTH_KINDS = (*TOKEN_KINDS, "basic")
MOST_HEADERS = 50
LONGEST_NAME, LONGEST_VALUE = 100, 4000
# Hop by hop (RFC 9110 section 7.6.1), or what the outbound client itself says of the request.
NOT_OURS = re.compile(
    r"connection|keep-alive|te|trailer|transfer-encoding|upgrade|proxy-.*|host|content-length|content-encoding|expect",
    re.IGNORECASE,
)
# Settings are neither encrypted nor hidden.
CREDENTIAL_HEADERS = frozenset({"authorization", "cookie"})
# Stands for an account that there is none of: it puts nothing into a request.
NOBODY: Custom = Custom.model_construct(type="custom", fields=[], headers={}, query={})


def toolkit_of(integration: Integration) -> Toolkit:
    """What the integration's own settings say, as a toolkit without tools. Raises LookupError where they say nothing."""
    base_url = integration.settings.get("base_url")
    if not isinstance(base_url, str) or not base_url:
        raise LookupError("the integration has no base URL")
    config = integration.settings.get("config", {})
    # Not validated: its slug is reserved, and what it is made of was checked when it was saved.
    return Toolkit.model_construct(
        slug=SLUG, name=str(integration), base_url=base_url, auth=schemes(config.get("auth"))
    )


def schemes(auth: Any) -> list[Auth]:
    """The ways in which a credential may be sent, by what ``config.auth`` says."""
    if not isinstance(auth, dict):
        return [ApiKey(type="api_key", placement=BEARER), Basic(type="basic")]
    if auth.get("type") == "basic":
        return [Basic(type="basic")]
    if auth.get("type") == "bearer":
        standard = BEARER
    else:
        standard = Placement(into="query" if auth.get("type") == "query" else "header", name="X-API-Key")
    given = {name: auth[name] for name in ("name", "prefix") if name in auth}
    return [ApiKey(type="api_key", placement=standard.model_copy(update=given))]


def is_open(integration: Integration) -> bool:
    """Whether it is to be called without a credential where it has none: nothing says how one would be sent."""
    return integration.toolkit == SLUG and "auth" not in integration.settings.get("config", {})


# -- Checking --------------------------------------------------------------------------------------------------------
def auth_faults(auth: Any) -> dict[str, list[str]]:
    """What is wrong with ``config.auth``."""
    if not isinstance(auth, dict):
        return {"config.auth": ["Must be an object."]}
    faults: dict[str, list[str]] = {}
    kind = str(auth.get("type"))
    if kind not in AUTH_KINDS:
        faults["config.auth.type"] = [f"Must be one of {', '.join(AUTH_KINDS)}."]
    for member in auth.keys() - {"type", *(() if kind == "basic" else ("name", "prefix"))}:
        faults[f"config.auth.{member}"] = ["Unknown here."]
    if "name" in auth or kind in {"header", "query"}:
        fault = _query_name_fault(auth.get("name")) if kind == "query" else name_fault(auth.get("name"))
        faults |= {"config.auth.name": [fault]} if fault else {}
    fault = value_fault(auth.get("prefix", ""), LONGEST_NAME)
    return faults | ({"config.auth.prefix": [fault]} if fault else {})


def header_faults(headers: Any) -> dict[str, list[str]]:
    """What is wrong with ``config.headers``."""
    if not isinstance(headers, dict) or len(headers) > MOST_HEADERS:
        return {"config.headers": [f"Must be an object of at most {MOST_HEADERS} headers."]}
    if len({name.lower() for name in headers}) < len(headers):
        return {"config.headers": ["A header stands there twice."]}
    faults: dict[str, list[str]] = {}
    for name, value in headers.items():
        fault = name_fault(name) or value_fault(value, LONGEST_VALUE)
        if name.lower() in CREDENTIAL_HEADERS:
            fault = "Give it as a credential: what stands here is neither encrypted nor hidden."
        if fault:
            faults[f"config.headers.{name[:LONGEST_NAME]}"] = [fault]
    return faults


def name_fault(name: Any) -> str:
    """What is wrong with the name of a header; an empty text for nothing."""
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not HEADER_NAME.fullmatch(name):
        return "Must be the name of a header (RFC 9110 section 5.1)."
    return "This header cannot be set." if NOT_OURS.fullmatch(name) else ""


def value_fault(value: Any, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or HEADER_FORBIDDEN.search(value):
        return f"Must be a text of at most {longest} characters without control characters."
    return ""


def _query_name_fault(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        return f"Must be the name of a query parameter, at most {LONGEST_NAME} characters."
    return ""
