"""Calls at a toolkit's service: sending a request with its credential, the toolkit's own test and profile calls."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from apps.lib import errors, http
from apps.lib.db import release
from apps.lib.errors import Failure, InvalidInput
from apps.lib.pointer import resolve
from apps.lib.redact import clip
from apps.toolkits.request import BadParameters, Request, build_call
from apps.toolkits.spec import Toolkit

from . import access
from .models import Integration

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Account:
    """Whose account it is, as the provider tells it."""

    id: str = ""
    label: str = ""
    picture: str = ""


class NotAsked(InvalidInput):
    """The service could not be asked, or had a fault of its own: another try may go well."""


def profile(
    toolkit: Toolkit, integration: Integration, scheme: Any, credentials: dict[str, Any], own: dict[str, str]
) -> Account:
    """The account behind fresh credentials. An account without a label is better than none: faults are only logged."""
    if toolkit.profile is None:
        return Account()
    try:
        answer = call_fixed(toolkit, integration, scheme, credentials, own, use_test=False)
    except (Failure, BadParameters) as error:
        log.warning("profile call of %s failed: %s", toolkit.slug, error)
        return Account()
    return _account(toolkit, answer)


def _account(toolkit: Toolkit, answer: http.Answer) -> Account:
    profile = toolkit.profile
    if profile is None or answer.status >= 400:
        return Account()
    try:
        data = http.json_of(answer)
    except ValueError:
        return Account()
    parts = [resolve(data, pointer) for pointer in (profile.id, profile.label, profile.picture)]
    texts = ["" if part is None or isinstance(part, (dict, list)) else clip(str(part), 2000) for part in parts]
    return Account(texts[0][:255], (texts[1] or texts[0])[:255], texts[2][:1000])


def call_fixed(
    toolkit: Toolkit,
    integration: Integration,
    scheme: Any,
    credentials: dict[str, Any],
    own: dict[str, str],
    *,
    use_test: bool,
) -> http.Answer:
    """The toolkit's test call or its profile call with these credentials. Raises `Unreachable`, `BadParameters`."""
    call = (toolkit.test or toolkit.profile) if use_test else toolkit.profile
    if call is None:
        raise BadParameters({"toolkit": ["It has no such call."]})
    values = access.variables(toolkit, integration, own)
    request = build_call(toolkit, call, values, access.base_override(integration))
    return send(access.authorize(request, scheme, credentials), scheme)


def send(request: Request, scheme: Any) -> http.Answer:
    release()
    return http.send(
        http.Outgoing(
            method=request.method,
            url=request.full_url,
            headers=request.headers,
            body=request.body,
            timeout=request.timeout,
            safe=request.idempotent,
            retry_statuses=request.retry_statuses,
            sensitive=access.sensitive_headers(scheme),
            secret_in_url=access.carries_secret_in_url(scheme),
            sign=request.sign,
        )
    )


def failed_by_rule(toolkit: Toolkit, answer: http.Answer, data: Any) -> int | None:
    """The status that an answer stands for by the toolkit's failure rule; None where it did not fail."""
    rule = toolkit.failure
    if rule is None or answer.status >= 400 or resolve(data, rule.pointer) != rule.equals:
        return None
    code = str(resolve(data, rule.code) or "")
    if code in rule.unauthorized:
        return 401
    return 429 if code in rule.rate_limited else 400


def verify_credentials(
    toolkit: Toolkit, integration: Integration, scheme: Any, credentials: dict[str, Any], own: dict[str, str]
) -> Account:
    """Raises `InvalidInput` where the service does not accept them, `NotAsked` where it cannot be asked. Nothing is stored."""
    if toolkit.test is None and toolkit.profile is None:
        return Account()
    try:
        answer = call_fixed(toolkit, integration, scheme, credentials, own, use_test=True)
        data = http.json_or_none(answer)
    except errors.Unreachable as error:
        raise NotAsked(
            {
                "credentials": [
                    _("%(toolkit)s could not be asked: %(reason)s") % {"toolkit": toolkit.name, "reason": error.text}
                ]
            }
        ) from None
    except BadParameters as error:
        raise InvalidInput(error.faults) from None
    status = failed_by_rule(toolkit, answer, data) or answer.status
    if status >= 300:
        fault = NotAsked if status >= 500 or status in {408, 425, 429} else InvalidInput
        raise fault(
            {
                "credentials": [
                    _("%(toolkit)s does not accept what was entered (status %(status)s).")
                    % {"toolkit": toolkit.name, "status": status}
                ]
            }
        )
    if toolkit.profile is not None and toolkit.test is not None:
        return profile(toolkit, integration, scheme, credentials, own)
    return _account(toolkit, answer)
