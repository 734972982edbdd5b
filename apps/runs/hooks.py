"""Hooks: requests of other services that start a module. Who sent them, what they say, which of them are repetitions.

How senders sign: GitHub, docs.github.com "Validating webhook deliveries"; Stripe, docs.stripe.com "Verify webhook signatures
manually"; Slack, api.slack.com "Verifying requests from Slack".
"""

from __future__ import annotations

import hashlib
import hmac
import time
from base64 import b64encode
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs

from apps.lib import errors, expressions
from apps.lib.api import parse_json
from apps.lib.errors import InvalidInput
from apps.lib.expressions import ExpressionError
from apps.modules.definition import Hook, Verify
from apps.modules.models import Module
from apps.workspaces.services import clean_user_id

TOLERANCE = 300  # seconds that a signature's time may be off: Stripe's libraries' default, and what Slack advises
LONGEST_WAIT = 60.0  # seconds for the result
LONGEST_ID = 255
MOST_FIELDS = 1000
FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Delivery:
    """One request to a hook, as it came. Names of headers in lower case."""

    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def body(self) -> Any:
        """JSON, the fields of a form, a text, or ``{base64}`` of what is no text. Raises `InvalidInput`."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json" or kind.endswith("+json"):
            return parse_json(self.content) if self.content.strip() else {}
        if kind == FORM:
            return read_form(self.content)
        if kind in {"", "text/plain"} and self.content.lstrip()[:1] in {b"{", b"["}:  # as many senders do
            try:
                return parse_json(self.content)
            except InvalidInput:
                pass
        try:
            return self.content.decode()
        except UnicodeDecodeError:
            return {"base64": b64encode(self.content).decode()}

    @property
    def names(self) -> dict[str, Any]:
        """What the hook's expressions see."""
        return {"body": self.body, "headers": self.headers, "query": self.query}


def read_form(content: bytes) -> dict[str, Any]:
    """Fields by name, those that come more than once as lists. Raises `InvalidInput`."""
    try:
        found = parse_qs(content.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise InvalidInput({"body": ["The body is no form in UTF-8."]}) from None
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def find(token: str) -> tuple[Module, Hook]:
    """The published module that a token starts, with its project, workspace and plan. Raises `NotFound`."""
    rows = Module.objects.published().exclude(access=Module.Access.OFF)
    module = rows.select_related("published", "project__workspace__plan").filter(hook_token=token).first()
    given = module.published.definition.get("hook") if module and module.published else False
    if module is None or given is False:
        raise errors.NotFound
    return module, Hook.model_validate(given or {})


# -- Who sent it -----------------------------------------------------------------------------------------------------
def verify(module: Module, hook: Hook, delivery: Delivery) -> None:
    """Raises `Unauthenticated` for a request that is not of the sender that the module names."""
    if hook.verify is None:
        return
    secret = module.unseal("hook_secret") if module.hook_secret else None
    if not secret or not _is_signed(hook.verify, str(secret).encode(), delivery):
        raise errors.Unauthenticated(
            "The request is not signed by the hook's secret.",
            remediation="Give the sender the secret of the module's hook; a signature's time must be of the last five minutes.",
        )


def _is_signed(rule: Verify, secret: bytes, delivery: Delivery) -> bool:
    headers = delivery.headers
    if rule.kind == "secret":
        return _same(headers.get(rule.header.lower(), "").encode("latin-1", "replace"), secret)
    if rule.kind == "github":
        return _same(_bytes(headers, "x-hub-signature-256"), b"sha256=" + _hmac(secret, delivery.content))
    if rule.kind == "slack":
        at = headers.get("x-slack-request-timestamp", "")
        signed = b"v0:" + at.encode("ascii", "replace") + b":" + delivery.content
        return _is_recent(at) and _same(_bytes(headers, "x-slack-signature"), b"v0=" + _hmac(secret, signed))
    return _is_signed_by_stripe(secret, delivery)


def _is_signed_by_stripe(secret: bytes, delivery: Delivery) -> bool:
    """``t=…,v1=…,v1=…``: any of the signatures, for a secret that is being rotated."""
    parts = [part.strip().partition("=") for part in delivery.headers.get("stripe-signature", "").split(",")]
    at = next((value for name, _, value in parts if name == "t"), "")
    expected = _hmac(secret, at.encode("ascii", "replace") + b"." + delivery.content)
    given = [value.encode("ascii", "replace") for name, _, value in parts if name == "v1"]
    return _is_recent(at) and any(_same(value, expected) for value in given)


def _bytes(headers: dict[str, str], name: str) -> bytes:
    return headers.get(name, "").encode("ascii", "replace")


def _hmac(secret: bytes, content: bytes) -> bytes:
    return hmac.new(secret, content, hashlib.sha256).hexdigest().encode()


def _same(one: bytes, other: bytes) -> bool:
    return hmac.compare_digest(one, other)


def _is_recent(at: str) -> bool:
    return at.isascii() and at.isdigit() and len(at) < 12 and abs(time.time() - int(at)) <= TOLERANCE


# -- What it says ----------------------------------------------------------------------------------------------------
def challenge_of(hook: Hook, delivery: Delivery) -> str | None:
    """What Slack wants to hear back when an address is entered there: api.slack.com/events/url_verification."""
    if hook.verify is None or hook.verify.kind != "slack" or not isinstance(delivery.body, dict):
        return None
    challenge = delivery.body.get("challenge")
    return challenge if delivery.body.get("type") == "url_verification" and isinstance(challenge, str) else None


def is_wanted(hook: Hook, delivery: Delivery) -> bool:
    """Whether the hook's ``when`` is true. Raises `InvalidInput` where it cannot be told."""
    if hook.when is None:
        return True
    try:
        return expressions.is_true(hook.when, delivery.names)
    except ExpressionError as error:
        raise InvalidInput({"hook.when": [str(error)]}) from None


def parameters_of(module: Module, hook: Hook, delivery: Delivery) -> dict[str, Any]:
    """The start parameters: mapped as the hook says, else the body's members of their names. Raises `InvalidInput`."""
    if hook.parameters is not None:
        found = _filled(hook.parameters, delivery, "hook.parameters")
        return dict(found)
    if module.published is None or not isinstance(delivery.body, dict):
        return {}
    known = [row.get("api_name") for row in module.published.definition.get("start_parameters") or []]
    return {name: delivery.body[name] for name in known if name in delivery.body}


def user_of(hook: Hook, delivery: Delivery) -> str | None:
    """The run's end user; None where the hook names none, or nobody. Raises `InvalidInput`."""
    if hook.user is None:
        return None
    found = _filled(hook.user, delivery, "hook.user")
    if found is None or found == "":
        return None
    return clean_user_id(str(found) if isinstance(found, int) else found, "hook.user")


def _filled(value: Any, delivery: Delivery, place: str) -> Any:
    try:
        return expressions.fill(value, delivery.names)
    except ExpressionError as error:
        raise InvalidInput({place: [str(error)]}) from None


def delivery_id(hook: Hook, delivery: Delivery) -> str | None:
    """What the sender calls this delivery, the same each time it is sent; None where it has no name.

    Of a signed body its own id: headers are not signed by Stripe and Slack.
    """
    kind = hook.verify.kind if hook.verify else ""
    if kind in {"stripe", "slack"}:
        found = delivery.body.get("id" if kind == "stripe" else "event_id") if isinstance(delivery.body, dict) else None
    else:
        names = ("idempotency-key", "x-github-delivery", "webhook-id")
        found = next((delivery.headers[name] for name in names if delivery.headers.get(name)), None)
    return found if isinstance(found, str) and 1 <= len(found) <= LONGEST_ID else None
