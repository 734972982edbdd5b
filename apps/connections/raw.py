"""Integrations as the Raw execute API makes them: a toolkit's, or a service of their own (`custom`), with one shared account.

What a caller calls ``config`` is kept in ``settings``: the addresses and variables that the product itself knows in their
own places, so that admin and Integrations API see the same, everything else as it came.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.lib import egress, errors, http, ids
from apps.lib.db import release
from apps.lib.errors import InvalidInput
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Toolkit
from apps.workspaces.audit import Actor, record
from apps.workspaces.callers import Caller
from apps.workspaces.models import Project

from . import access, custom, flows, imports, integrations
from .models import Connection, ConnectSession, Integration, IntegrationQuerySet
from .services import disconnect
from .upstream import Account

MAX_CONFIG = 64 * 1024
MAX_CREDENTIALS = 32  # members
# Members of ``config`` that the product itself knows, and their names in ``settings``.
KNOWN = {
    "baseUrl": "base_url",
    "authorizationUrl": "authorization_url",
    "tokenUrl": "token_url",
    "refreshUrl": "refresh_url",
    "revocationUrl": "revocation_url",
    "requestTokenUrl": "request_token_url",
    "issuer": "issuer",
    "variables": "variables",
}
SHOWN = {name: member for member, name in KNOWN.items()}
# What a scheme calls the one secret that people call key or token.
SECRET_OF = {"api_key": "api_key", "bearer": "token", "oauth2": "access_token"}


@dataclass(frozen=True)
class Wanted:
    """An integration as it was asked for; ``credentials`` None or empty: without a shared account."""

    name: str
    provider: str
    config: dict[str, Any]
    credentials: dict[str, Any] | None = None


@dataclass(frozen=True)
class Given:
    """Credentials read: the OAuth client's id, and what makes the shared account; none where ``auth_type`` is empty."""

    client_id: str | None = None
    auth_type: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None


# -- Finding and showing ---------------------------------------------------------------------------------------------
def visible(caller: Caller) -> IntegrationQuerySet:
    """The project's integrations, as far as the caller's key or token goes."""
    rows = Integration.objects.filter(project=caller.project)
    return rows.filter(toolkit__in=caller.toolkits) if caller.toolkits else rows


def find(caller: Caller, integration_id: str) -> Integration:
    """Raises `NotFound`."""
    integration = visible(caller).filter(pk=integration_id).first()
    if integration is None:
        raise errors.NotFound("There is no such integration in this project.")
    integration.project = caller.project
    return integration


def config_of(integration: Integration) -> dict[str, Any]:
    """The configuration as it was given, with the addresses as they are by now."""
    settings = integration.settings
    known = {member: settings[name] for name, member in SHOWN.items() if name in settings}
    return {**settings.get("config", {}), **known}


# -- Changing --------------------------------------------------------------------------------------------------------
def create(project: Project, wanted: Wanted, actor: Actor) -> Integration:
    """Makes an integration, and the shared account that its credentials are.

    It becomes the primary one of its toolkit, which connect and tools use, where the project has none switched on; one of
    ``custom`` never does. Names need not be unique; the service is not asked.
    Raises `InvalidInput`, `PlanLimitReached`; nothing is stored then.
    """
    integration = _row_for(project, wanted.provider)
    integration.display_name = wanted.name
    integration.settings = read_config(project, wanted.provider, wanted.config)
    given = _prepare(integration, wanted.credentials)
    with transaction.atomic():
        _insert(integration)
        _store_shared(integration, given, actor)
        _record(integration, "integration.enabled", actor, client=given.client_id)
    return integration


def update(
    integration: Integration,
    actor: Actor,
    *,
    name: str | None = None,
    config: dict[str, Any] | None = None,
    credentials: dict[str, Any] | None = None,
) -> Integration:
    """Changes what is given; ``config`` as a whole. Empty credentials keep those that are there.

    Raises `InvalidInput`, `NotFound` where it was deleted meanwhile; nothing is stored then.
    """
    project = integration.project
    settings = None if config is None else read_config(project, integration.toolkit, config)
    with transaction.atomic():
        row = Integration.objects.select_for_update().filter(pk=integration.pk).first()
        if row is None:
            raise errors.NotFound
        row.project = project
        row.display_name = row.display_name if name is None else name
        row.settings = row.settings if settings is None else settings
        given = _prepare(row, credentials)
        if settings is not None and not given.auth_type:
            _check_stored_account(row)
        row.save(update_fields=["display_name", "settings", "client_id", "client_secret", "updated_at"])
        _store_shared(row, given, actor)
        _record(row, "integration.changed", actor, client=given.client_id)
    return row


def switch(integration: Integration, on: bool, actor: Actor) -> None:
    """Lists one or leaves it out; its accounts go on working either way."""
    rows = Integration.objects.filter(pk=integration.pk, enabled=not on)
    if rows.update(enabled=on, updated_at=timezone.now()):
        _record(integration, "integration.enabled" if on else "integration.disabled", actor)


def remove(integration: Integration, actor: Actor) -> None:
    """Disconnects its accounts, at the provider too where that can be, and deletes it. Raises `NotFound` for the second."""
    # Nobody connects anew meanwhile; where this breaks off, deleting it once more goes on from here.
    Integration.objects.filter(pk=integration.pk).update(enabled=False, updated_at=timezone.now())
    for connection in integration.connections.select_related("integration", "project", "end_user"):
        disconnect(connection, actor)
    with transaction.atomic():
        _, counts = Integration.objects.filter(pk=integration.pk).delete()
        if not counts.get(Integration._meta.label):
            raise errors.NotFound
        _record(integration, "integration.deleted", actor)


def _row_for(project: Project, provider: str) -> Integration:
    """A new row; the toolkit's primary one where that is switched off. Raises `InvalidInput`."""
    if provider == custom.SLUG:
        return Integration(project=project, toolkit=provider, is_primary=False)
    if catalog(project).get(provider) is None:
        fault = "Must be the slug of a toolkit of the catalog, or custom."
        raise InvalidInput({"provider": [fault]}, remediation="Search it: GET /api/integrations/templates?search=…")
    primary = Integration.objects.primary().filter(project=project, toolkit=provider).first()
    if primary is None or primary.enabled:
        return Integration(project=project, toolkit=provider, is_primary=primary is None)
    primary.project = project
    return primary


def _insert(integration: Integration) -> None:
    """Writes the new row, or switches the old one on; a further one where somebody else has just made the first."""
    if not integration._state.adding:
        if not Integration.objects.filter(pk=integration.pk, enabled=False).update(enabled=True):
            raise errors.Conflict("Somebody else has just switched this toolkit on. Send the request again.")
        integration.enabled = True
        integration.save()
        return
    try:
        with transaction.atomic():
            integration.save(force_insert=True)
    except IntegrityError:
        integration.is_primary = False
        integration.save(force_insert=True)


def _record(integration: Integration, action: str, actor: Actor, **details: Any) -> None:
    project = integration.project
    record(actor, action, integration.toolkit, project=project, integration=integration.pk, **details)


# -- Configuration ---------------------------------------------------------------------------------------------------
def read_config(project: Project, slug: str, config: dict[str, Any]) -> dict[str, Any]:
    """``config`` as `Integration.settings` keeps it. Raises `InvalidInput`."""
    toolkit = catalog(project).get(slug)
    if toolkit is None and slug != custom.SLUG:
        raise InvalidInput({"config": ["The catalog no longer has this toolkit."]})
    known = {KNOWN[member]: value for member, value in config.items() if member in KNOWN}
    rest = {member: value for member, value in config.items() if member not in KNOWN}
    faults = _size_faults(config)
    if "headers" in rest:
        faults |= custom.header_faults(rest["headers"])
    faults |= _custom_faults(known, rest) if toolkit is None else _override_faults(toolkit, known)
    if "config.baseUrl" not in faults and "base_url" in known:
        fault = base_url_fault(known["base_url"])
        faults |= {"config.baseUrl": [fault]} if fault else {}
    if faults:
        raise InvalidInput(faults)
    return known | ({"config": rest} if rest else {})


def _size_faults(config: dict[str, Any]) -> dict[str, list[str]]:
    text = json.dumps(config)
    if len(text) > MAX_CONFIG:
        return {"config": [f"Must be at most {MAX_CONFIG} bytes of JSON."]}
    if "\\u0000" in text:  # PostgreSQL's JSON takes none
        return {"config": ["Must not have NUL characters."]}
    return {}


def _custom_faults(known: dict[str, Any], rest: dict[str, Any]) -> dict[str, list[str]]:
    faults = {f"config.{SHOWN[name]}": ["Unknown for a custom service."] for name in known.keys() - {"base_url"}}
    if "base_url" not in known:
        faults["config.baseUrl"] = ["This field is required."]
    return faults | (custom.auth_faults(rest["auth"]) if "auth" in rest else {})


def _override_faults(toolkit: Toolkit, known: dict[str, Any]) -> dict[str, list[str]]:
    try:
        integrations.check_overrides(toolkit, known)
    except InvalidInput as error:
        found = error.details or {}
        return {_in_config(name): messages for name, messages in found.items()}
    return {}


def _in_config(place: str) -> str:
    """``settings.base_url`` → ``config.baseUrl``."""
    head, _, tail = place.removeprefix("settings.").partition(".")
    return f"config.{SHOWN.get(head, head)}{f'.{tail}' if tail else ''}"


def base_url_fault(url: Any) -> str:
    """What is wrong with a base URL; an empty text for nothing. May ask the name servers.

    A name that does not resolve (yet) is no fault: every call judges the address anew.
    """
    if not isinstance(url, str) or len(url) > 2000 or not http.is_plain_url(url) or not url.isascii():
        return "Must be an absolute http or https URL of at most 2000 characters, without user and password."
    parts = urlsplit(url)
    if parts.query or parts.fragment or "?" in url or "#" in url:
        return "Must have neither a query nor a fragment."
    if "{" in url or "}" in url:
        return "Must not have braces."
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    release()
    if not all(egress.is_permitted(address, port, host=host) for address in _addresses(host, port)):
        return "This address may not be called: the operator would have to add it to JACKFIELD_EGRESS_ALLOW."
    return ""


def _addresses(host: str, port: int) -> set[str]:
    """Every address of a host, also in the forms that only the C library reads (0x7f.1)."""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 section 6.3
        return {"127.0.0.1"}
    try:
        found = socket.getaddrinfo(host.rstrip("."), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {str(entry[4][0]) for entry in found}


# -- Credentials -----------------------------------------------------------------------------------------------------
def _prepare(integration: Integration, credentials: dict[str, Any] | None) -> Given:
    """Reads the credentials, and puts the OAuth client among them into the row; nothing is written. Raises `InvalidInput`."""
    given = _read(integration, credentials) if credentials else Given()
    try:
        integrations.check_client(integration)
    except InvalidInput as error:
        raise InvalidInput({"config": (error.details or {})["settings"]}) from None
    return given


def _read(integration: Integration, credentials: dict[str, Any]) -> Given:
    try:
        toolkit = access.toolkit_of(integration)
    except LookupError:
        raise InvalidInput({"credentials": ["The catalog no longer has this toolkit."]}) from None
    if len(credentials) > MAX_CREDENTIALS:
        raise InvalidInput({"credentials": [f"Must have at most {MAX_CREDENTIALS} members."]})
    texts = {imports.HUMP.sub(r"_\1", name).lower(): value for name, value in credentials.items()}
    expires_at = _expiry(texts)
    client = _take_client(integration, toolkit, texts)
    own = {
        name: texts.pop(name)
        for name, blank in toolkit.variables.items()
        if blank.source != "integration" and name in texts
    }
    if not texts and not _is_client_alone(toolkit, client):
        return client
    try:
        imports.check_variables(toolkit, own, required=True)
        scheme, values = imports.read_credentials(toolkit, integration, None, _aliased(toolkit, texts))
    except InvalidInput as error:
        raise InvalidInput({_in_credentials(name): said for name, said in (error.details or {}).items()}) from None
    return _settled(client, scheme.type, values, own, expires_at)


def _take_client(integration: Integration, toolkit: Toolkit, texts: dict[str, Any]) -> Given:
    """The OAuth client, taken out of the credentials and put into the row."""
    if not toolkit.needs_client or "client_id" not in texts:
        return Given()
    client_id, secret = texts.pop("client_id"), texts.pop("client_secret", "")
    for name, value, longest in (("clientId", client_id, 500), ("clientSecret", secret, 4000)):
        if not isinstance(value, str) or not value.isprintable() or len(value) > longest:
            raise InvalidInput({f"credentials.{name}": ["Must be a text of one line."]})
    integration.client_id = client_id
    integration.seal("client_secret", secret)
    return Given(client_id=client_id)


def _is_client_alone(toolkit: Toolkit, client: Given) -> bool:
    """Whether a client is all that an account needs (RFC 6749 section 4.4); with OAuth's other grants a person is to come."""
    kinds = toolkit.auth_by_type
    return client.client_id is not None and "client_credentials" in kinds and "oauth2" not in kinds


def _aliased(toolkit: Toolkit, texts: dict[str, Any]) -> dict[str, Any]:
    """A key may be called token, and a token key: the one secret there is gets the name that the toolkit has for it."""
    given = [name for name in SECRET_OF.values() if name in texts]
    wanted = [SECRET_OF[kind] for kind in SECRET_OF if kind in toolkit.auth_by_type]
    wanted += [one.name for scheme in toolkit.auth for one in getattr(scheme, "fields", ()) if scheme.type == "custom"]
    if len(given) != 1 or not wanted or given[0] in wanted:
        return texts
    return {wanted[0] if name == given[0] else name: value for name, value in texts.items()}


def _expiry(texts: dict[str, Any]) -> datetime | None:
    """When the access token ends, by ``expiresIn`` in seconds; taken out of the credentials."""
    seconds = texts.pop("expires_in", None)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 10**9:
        raise InvalidInput({"credentials.expiresIn": ["Must be a number of seconds."]})
    return timezone.now() + timedelta(seconds=seconds)


def _in_credentials(place: str) -> str:
    """``credentials.api_key`` → ``credentials.apiKey``; a variable of the toolkit is given among the credentials, too."""
    head, *rest = place.rpartition(".")[2].split("_")
    return "credentials" if place == "credentials" else f"credentials.{head}{''.join(part.title() for part in rest)}"


def _settled(
    client: Given, kind: str, values: dict[str, Any], own: dict[str, str], expires_at: datetime | None
) -> Given:
    if kind in {"oauth2", "client_credentials"} and not values.get("access_token"):
        values = {**values, "access_token": ""}
        expires_at = timezone.now() - timedelta(seconds=1)  # the first call gets one
    if expires_at is not None:
        values = {**values, "lifetime": max(60, int((expires_at - timezone.now()).total_seconds()))}
    return Given(client.client_id, kind, values, own, expires_at)


def _store_shared(integration: Integration, given: Given, actor: Actor) -> None:
    """Makes or renews the account of nobody in particular. Raises `PlanLimitReached`, `Conflict`."""
    if not given.auth_type:
        return
    session = ConnectSession(  # what a flow would have led to; it is never stored
        project=integration.project,
        integration=integration,
        end_user=None,
        connection_id=ids.connection_id(),
        auth_type=given.auth_type,
    )
    try:
        flows.store_connection(
            session,
            given.values,
            account=Account(),
            scopes=[],
            expires_at=given.expires_at,
            own_variables=given.variables,
            actor=actor,
            needs_confirmation=False,
        )
    except flows.FlowError:
        raise errors.Conflict("Somebody else has just changed this integration's credentials.") from None


def _check_stored_account(integration: Integration) -> None:
    """Raises `InvalidInput` where the stored credentials cannot be sent in the way that the configuration now says."""
    kinds = Connection.objects.filter(integration=integration, end_user=None).values_list("auth_type", flat=True)
    if integration.toolkit == custom.SLUG and set(kinds) - set(custom.toolkit_of(integration).auth_by_type):
        raise InvalidInput({"credentials": ["This way of sending them needs other credentials: give them, too."]})
