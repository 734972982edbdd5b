"""What a job's body may say. The checked body is what `apps.runs.jobs` takes, without members that are null or not known:

``{id?, payload: [{apiName, parameters, requestTimeout?, retry?: {maximumAttempts?}}], configuration: {retry?:
{maximumAttempts?}, maxConcurrentRequests?: int, requestTimeout?, maxRuns?, proxy?}, schedule?, sink?, proxy?, auth_session?:
{id, checkAttempts?, createAttempts?, saveTrace?}, notifications?: [{type: "webhook", url, headers?}], endUser?}``
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rest_framework import serializers

from apps.lib.api import StrictText
from apps.lib.errors import InvalidInput
from apps.workspaces.services import USER_ID_LENGTH

from .. import schedules, sinks
from ..starting import MAX_ATTEMPTS, MAX_PARAMETERS, MAX_SECONDS
from .runs import LONGEST_URL, ProxyUrl, RetryBody, StrictBoolean, StrictInteger
from .starts import NUL, has_nul

MAX_BODY = 16 * 1024 * 1024
MAX_ITEMS = 10_000  # of a payload, and of a job run
MAX_CONCURRENT = 1000
LONGEST_ID = 200
LONGEST_API = 150
MAX_NOTIFICATIONS = 20
MOST_FAULTS = 50  # that one answer names

BAD_ID = 'Must be printable, without "/" and without spaces at its ends, and not "." or "..".'
NOT_AN_OBJECT = "Must be a JSON object."
REQUIRED = "This field is required."


def without_nulls(given: dict[str, Any]) -> dict[str, Any]:
    """Null is as good as absent; so are members that hold nothing but such."""
    return {name: value for name, value in given.items() if value is not None}


# -- The payload: ten thousand items in one body, so no serializer for each -------------------------------------------
def clean_payload(given: Any) -> list[dict[str, Any]]:
    """Raises `ValidationError` with the first fifty faulty items by their numbers."""
    if not isinstance(given, list):
        raise serializers.ValidationError("Must be a list of {apiName, parameters}.")
    if len(given) > MAX_ITEMS:
        raise serializers.ValidationError(f"Must have at most {MAX_ITEMS:,} items; there are {len(given):,}.")
    items: list[dict[str, Any]] = []
    faults: dict[int, Any] = {}
    for number, item in enumerate(given):
        cleaned, wrong = _item(item)
        items.append(cleaned)
        if wrong:
            faults[number] = wrong
        if len(faults) == MOST_FAULTS:
            break
    if faults:
        raise serializers.ValidationError(faults)  # type: ignore[arg-type] # numbers for names: `flatten` writes them
    return items


def _item(item: Any) -> tuple[dict[str, Any], Any]:
    """A payload's item as it is stored, and its faults."""
    if not isinstance(item, dict):
        return {}, [NOT_AN_OBJECT]
    api, parameters, retry = item.get("apiName"), item.get("parameters"), item.get("retry")
    seconds = item.get("requestTimeout")
    attempts = retry.get("maximumAttempts") if isinstance(retry, dict) else None
    faults: dict[str, Any] = {}
    if not isinstance(api, str) or not 1 <= len(api) <= LONGEST_API or "\x00" in api:
        faults["apiName"] = [REQUIRED if api is None else f"Must be a module's name of 1 to {LONGEST_API} characters."]
    wrong = _parameters_fault(parameters)
    if wrong:
        faults["parameters"] = [wrong]
    if not _is_within(seconds, MAX_SECONDS):
        faults["requestTimeout"] = [f"Must be an integer from 1 to {MAX_SECONDS}."]
    if not isinstance(retry, (dict, type(None))):
        faults["retry"] = [NOT_AN_OBJECT]
    if not _is_within(attempts, MAX_ATTEMPTS):
        faults["retry"] = {"maximumAttempts": [f"Must be an integer from 1 to {MAX_ATTEMPTS}."]}
    kept: dict[str, Any] = {"apiName": api, "parameters": parameters, "requestTimeout": seconds}
    if retry is not None:
        kept["retry"] = {} if attempts is None else {"maximumAttempts": attempts}
    return without_nulls(kept), faults


def _is_within(number: Any, most: int) -> bool:
    return number is None or (isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= most)


def _parameters_fault(parameters: Any) -> str:
    if not isinstance(parameters, dict):
        return REQUIRED if parameters is None else NOT_AN_OBJECT
    text = json.dumps(parameters, ensure_ascii=False, separators=(",", ":"))
    # No character has more than four bytes.
    if len(text) * 4 > MAX_PARAMETERS and len(text.encode(errors="surrogatepass")) > MAX_PARAMETERS:
        return f"They may have {MAX_PARAMETERS:,} bytes as JSON."
    return NUL if "\\u0000" in text and has_nul(parameters) else ""


class Payload(serializers.Field[Any, Any, Any, Any]):
    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        return clean_payload(data)


# -- The rest --------------------------------------------------------------------------------------------------------
class JobId(StrictText):
    """The path of the job's routes has to be able to name it."""

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if "/" in text or not text.isprintable() or text != text.strip() or text in {".", ".."}:
            raise serializers.ValidationError(BAD_ID)
        return text


class WholeNumber(serializers.Field[int, Any, int, Any]):
    """An integer, also as ``5.0``: the published clients' models make a float of it."""

    def __init__(self, most: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.most = most

    def to_internal_value(self, data: Any) -> int:
        whole = isinstance(data, int) and not isinstance(data, bool)
        if not (whole or (isinstance(data, float) and data.is_integer())) or not 1 <= data <= self.most:
            raise serializers.ValidationError(f"Must be a whole number from 1 to {self.most:,}.")
        return int(data)


class Checked(serializers.Field[Any, Any, Any, Any]):
    """A member that another part of the product knows how to check: its faults stand below the member's name."""

    def __init__(self, clean: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clean = clean

    def to_internal_value(self, data: Any) -> Any:
        if has_nul(data):
            raise serializers.ValidationError(NUL)
        try:
            return self.clean(data)
        except InvalidInput as error:
            # `flatten` joins the names again. What is wrong with the whole stands below its own name.
            raise serializers.ValidationError(error.details.get(self.field_name, error.details)) from None


def clean_schedule(given: Any) -> dict[str, Any]:
    """The schedule as it came, but for what is null. Raises `InvalidInput`."""
    schedules.clean(given)
    found = without_nulls(given)
    if "calendars" in found:
        found["calendars"] = [without_nulls(row) for row in found["calendars"]]
    return found


def clean_notifications(given: Any) -> list[dict[str, Any]]:
    """Webhooks, as a sink's. Raises `InvalidInput` by place."""
    if not isinstance(given, list) or len(given) > MAX_NOTIFICATIONS:
        raise InvalidInput(
            {"notifications": [f"Must be a list of at most {MAX_NOTIFICATIONS} of {{type, url, headers?}}."]}
        )
    found, faults = [], {}
    for number, one in enumerate(given):
        if not isinstance(one, dict):
            faults[str(number)] = [NOT_AN_OBJECT]
        elif one.get("type") != "webhook":
            faults[f"{number}.type"] = ["Must be webhook."]
        else:
            try:
                webhook = sinks.clean({name: one.get(name) for name in ("type", "url", "headers")})
                found.append({name: webhook[name] for name in ("type", "url", "headers") if webhook.get(name)})
            except InvalidInput as error:
                faults |= {f"{number}.{name}": texts for name, texts in (error.details or {}).items()}
    if faults:
        raise InvalidInput(faults)
    return found


class JobProxy(ProxyUrl):
    """A proxy's URL, also as lists spell it: ``{version, url}``."""

    def to_internal_value(self, data: Any) -> str:
        return super().to_internal_value(data.get("url") if isinstance(data, dict) else data)


class ConfigurationBody(serializers.Serializer[Any]):
    retry = RetryBody(required=False, allow_null=True)
    maxConcurrentRequests = WholeNumber(MAX_CONCURRENT, required=False, allow_null=True)
    requestTimeout = StrictInteger(min_value=1, max_value=MAX_SECONDS, required=False, allow_null=True)
    maxRuns = WholeNumber(MAX_ITEMS, required=False, allow_null=True)
    proxy = ProxyUrl(max_length=LONGEST_URL, required=False, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        found = without_nulls(attrs)
        return {**found, "retry": without_nulls(found["retry"])} if "retry" in found else found


class AuthSessionBody(serializers.Serializer[Any]):
    id = StrictText(max_length=255, trim_whitespace=False)
    checkAttempts = StrictInteger(min_value=1, max_value=MAX_ATTEMPTS, required=False, allow_null=True)
    createAttempts = StrictInteger(min_value=1, max_value=MAX_ATTEMPTS, required=False, allow_null=True)
    saveTrace = StrictBoolean(required=False, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return without_nulls(attrs)


class ChangeBody(serializers.Serializer[Any]):
    """PUT: everything but the id. Members that are not known are passed over: published clients send on what they are given."""

    payload = Payload()
    configuration = ConfigurationBody()
    schedule = Checked(clean_schedule, required=False, allow_null=True)
    sink = Checked(sinks.clean, required=False, allow_null=True)
    proxy = JobProxy(max_length=LONGEST_URL, required=False, allow_null=True)
    auth_session = AuthSessionBody(required=False, allow_null=True)
    notifications = Checked(clean_notifications, required=False, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return without_nulls(attrs)


class CreateBody(ChangeBody):
    """POST."""

    id = JobId(max_length=LONGEST_ID, trim_whitespace=False)
    endUser = StrictText(max_length=USER_ID_LENGTH, trim_whitespace=False, required=False, allow_null=True)
