"""What a call at a toolkit needs beyond its parameters: the filled-in scheme, the variables, the credential in its place."""

from __future__ import annotations

import base64
import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

from django.conf import settings

from apps.lib.egress import is_named
from apps.lib.pointer import resolve
from apps.lib.redact import secret_values
from apps.toolkits.registry import catalog
from apps.toolkits.request import BadParameters, Request, fill
from apps.toolkits.spec import (
    ApiKey,
    Auth,
    Basic,
    Bearer,
    ClientCredentials,
    CredentialField,
    Custom,
    OAuth1,
    OAuth2,
    Placement,
    Tool,
    Toolkit,
)

from . import custom, oauth1, sandbox
from .models import Connection, Integration

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OAuthClient:
    """An OAuth client; ``own`` where it is the project's, not the platform's.

    ``personal`` where it came with one connection's credentials (client credentials), and is nobody else's.
    """

    id: str
    secret: str
    own: bool
    personal: bool = False


def toolkit_of(integration: Integration) -> Toolkit:
    """Raises LookupError where the catalog no longer has it."""
    if integration.toolkit == custom.SLUG:
        return custom.toolkit_of(integration)
    toolkit = catalog(integration.project).get(integration.toolkit)
    if toolkit is None:
        raise LookupError(f"the catalog has no toolkit {integration.toolkit}")
    return toolkit


def platform_client(slug: str) -> OAuthClient | None:
    """The installation's own client of a toolkit: of the environment, or the sandbox's.

    Only of one that the installation's files describe: a project could describe the slug, and have the secret sent to itself.
    """
    if catalog().get(slug) is None:
        return None
    client_id, separator, secret = settings.JACKFIELD_PLATFORM_CLIENTS.get(slug, "").partition(":")
    if separator and client_id:
        return OAuthClient(client_id, secret, own=False)
    if slug == sandbox.SLUG and settings.JACKFIELD_SANDBOX:
        return OAuthClient(sandbox.CLIENT_ID, sandbox.client_secret(), own=False)
    return None


def oauth_client(integration: Integration) -> OAuthClient | None:
    if integration.client_id:
        return OAuthClient(integration.client_id, integration.unseal("client_secret") or "", own=True)
    return platform_client(integration.toolkit) if keeps_home(integration) else None


def client_for(integration: Integration, credentials: dict[str, Any], auth_type: str) -> OAuthClient | None:
    """The client of the credentials' own, where they have one; else the integration's.

    Client credentials never use the platform's: every project would act as the installation's own account.
    """
    if credentials.get("client_id"):
        secret = str(credentials.get("client_secret", ""))
        return OAuthClient(str(credentials["client_id"]), secret, own=True, personal=True)
    client = oauth_client(integration)
    return None if client and auth_type == "client_credentials" and not client.own else client


def completed(connection: Connection, credentials: dict[str, Any]) -> dict[str, Any]:
    """Stored credentials with what a call needs beyond them: a signature (OAuth 1.0a) also needs the client's secret."""
    if connection.auth_type != "oauth1":
        return credentials
    client = oauth_client(connection.integration)
    return credentials if client is None else with_client(credentials, client)


def with_client(credentials: dict[str, Any], client: OAuthClient) -> dict[str, Any]:
    return credentials | {"client_id": client.id, "client_secret": client.secret}


SECRET_URLS = ("token_url", "refresh_url", "revocation_url", "request_token_url")
ANYWHERE = "elsewhere.invalid"  # a variable that may be this may be any host


def keeps_home(integration: Integration) -> bool:
    """Whether a client's secret would go only where the toolkit's file says, or to hosts that the operator has named.

    The platform's client goes nowhere else: a project could have its secret sent to itself.
    """
    toolkit = catalog(integration.project).get(integration.toolkit)
    values = variables(toolkit, integration) if toolkit else {}
    home = dict(values)
    for name, variable in toolkit.variables.items() if toolkit else ():
        if variable.accepts(ANYWHERE):
            home.pop(name, None)
            home |= {} if variable.default is None else {name: variable.default}
    for scheme in toolkit.auth if toolkit else ():
        own = [url for url in (getattr(scheme, name, None) for name in SECRET_URLS) if url]
        if getattr(scheme, "signature_method", "") == "PLAINTEXT" and integration.settings.get("base_url"):
            return False  # it sends the client's secret along with every call
        homes = {_origin(url, home) for url in own} - {None}
        chosen = [integration.settings[name] for name in SECRET_URLS if own and integration.settings.get(name)]
        if any(_origin(url, values) is None for url in chosen):
            return False
        for url in [*own, *chosen]:
            origin = _origin(url, values)
            if origin is not None and origin not in homes and not is_named(origin):
                return False
    return toolkit is not None


def _origin(url: str, values: dict[str, str]) -> str | None:
    """None where a blank has no value (yet)."""
    try:
        parts = urlsplit(fill(url, values))
    except BadParameters:
        return None
    return f"{parts.scheme}://{parts.netloc}".lower()


def variables(toolkit: Toolkit, integration: Integration, own: dict[str, str] | None = None) -> dict[str, str]:
    """Values of the toolkit's blanks: its defaults, the project's, the connection's own."""
    values = {name: variable.default for name, variable in toolkit.variables.items() if variable.default is not None}
    given = integration.settings.get("variables", {})
    values |= {name: str(value) for name, value in given.items() if name in toolkit.variables}
    return values | {"jackfield_url": settings.JACKFIELD_URL} | (own or {})


def base_override(integration: Integration) -> str:
    return str(integration.settings.get("base_url", ""))


def filled(scheme: Any, integration: Integration, values: dict[str, str]) -> Any:
    """The scheme with the project's own URLs, and every blank of its URLs filled in."""
    changes: dict[str, Any] = {}
    for name, value in scheme.__dict__.items():
        if name.endswith("_url"):
            url = integration.settings.get(name) or value
            changes[name] = fill(url, values) if url else url
    if "issuer" in scheme.__dict__:
        # An overridden provider has another name, too.
        changes["issuer"] = integration.settings.get(
            "issuer", None if integration.settings.get("authorization_url") else scheme.issuer
        )
    return scheme.model_copy(update=changes)


def scheme_for(connection: Connection, toolkit: Toolkit) -> Auth:
    """Raises LookupError where the toolkit no longer has the way in which this account was connected."""
    found: Auth | None = toolkit.auth_by_type.get(connection.auth_type)
    if found is None:
        raise LookupError(f"{toolkit.slug} has no auth scheme {connection.auth_type}")
    return found


def token_variables(toolkit: Toolkit, answer: dict[str, Any]) -> dict[str, str]:
    """The toolkit's variables that come with a token's answer. Raises LookupError for one that the toolkit does not expect."""
    found: dict[str, str] = {}
    for name, variable in toolkit.variables.items():
        value = resolve(answer, variable.pointer) if variable.source == "token" else None
        if value is None:
            continue
        found[name] = str(value)
        if not variable.accepts(found[name]):
            raise LookupError(f"the token answer's {name} is not what the toolkit expects")
    return found


def moved(connection: Connection, answer: dict[str, Any]) -> dict[str, str]:
    """A connection's variables after a refresh: what its answer brings, and what was there where that cannot be used."""
    try:
        brought = token_variables(toolkit_of(connection.integration), answer)
    except LookupError as error:
        log.warning("refresh of %s: %s", connection.pk, error)
        brought = {}
    return {**connection.variables, **brought}


def authorize(request: Request, scheme: Any, credentials: dict[str, Any]) -> Request:
    """Puts the credential into its place; of a scheme that signs, the request gets what signs it at each sending.

    For OAuth 1.0a ``credentials`` must be `completed`, as `fresh_credentials` gives them.
    """
    if isinstance(scheme, OAuth1):
        return replace(request, sign=partial(oauth1.sign, scheme, credentials))
    if isinstance(scheme, (OAuth2, ClientCredentials)):
        return _place(request, scheme.placement, str(credentials.get("access_token", "")))
    if isinstance(scheme, ApiKey):
        return _place(request, scheme.placement, str(credentials.get("api_key", "")))
    if isinstance(scheme, Bearer):
        return _place(request, scheme.placement, str(credentials.get("token", "")))
    if isinstance(scheme, Basic):
        return request.with_header("Authorization", f"Basic {basic(credentials)}")
    if isinstance(scheme, Custom):
        return _custom(request, scheme, credentials)
    raise LookupError(f"calls with {scheme.type} credentials are not supported")


def _place(request: Request, placement: Placement, value: str) -> Request:
    text = f"{placement.prefix}{value}"
    if placement.into == "query":
        return request.with_query(placement.name, text)
    return request.with_header(placement.name, text)


def scheme_of_form(scheme: Any, toolkit: Toolkit, integration: Integration) -> Any:
    """The scheme as a form shows it: with the project's client, client credentials leave nothing to be typed.

    Only at toolkits that offer them first. Where people sign in with accounts of their own, nobody gets the application's
    own account by choosing another way to connect.
    """
    is_first = isinstance(scheme, ClientCredentials) and toolkit.auth[0].type == scheme.type
    if is_first and client_for(integration, {}, scheme.type) is not None:
        return _KnownClient.model_construct(**scheme.__dict__)
    return scheme


class _KnownClient(ClientCredentials):
    @property
    def fields(self) -> list[CredentialField]:
        return []


def basic(credentials: dict[str, Any]) -> str:
    pair = f"{credentials.get('username', '')}:{credentials.get('password', '')}"
    return base64.b64encode(pair.encode()).decode()


def _custom(request: Request, scheme: Custom, credentials: dict[str, Any]) -> Request:
    values = {field.name: str(credentials.get(field.name, field.default or "")) for field in scheme.fields}
    for name, template in scheme.headers.items():
        request = request.with_header(name, custom_value(template, values))
    for name, template in scheme.query.items():
        request = request.with_query(name, custom_value(template, values))
    return request


def custom_value(template: str, values: dict[str, str]) -> str:
    """``Basic {api_key}:x|base64``: what stands after the last blank and before ``|base64`` is encoded together."""
    text, separator, _ = template.rpartition("|base64")
    if not separator:
        return fill(template, values)
    head, space, tail = text.rpartition(" ")
    return head + space + base64.b64encode(fill(tail, values).encode()).decode()


def carries_secret_in_url(scheme: Any) -> bool:
    placement = getattr(scheme, "placement", None)
    return (placement is not None and placement.into == "query") or bool(getattr(scheme, "query", None))


def sensitive_headers(scheme: Any) -> frozenset[str]:
    """Names of the headers that carry the credential, for redirects to leave out."""
    names = {"authorization", "cookie"}
    placement = getattr(scheme, "placement", None)
    if placement is not None and placement.into == "header":
        names.add(placement.name.lower())
    if isinstance(scheme, Custom):
        names |= {name.lower() for name in scheme.headers}
    return frozenset(names)


def secrets_of(scheme: Any, credentials: dict[str, Any]) -> list[str]:
    """Every text to be masked wherever it turns up."""
    found = secret_values({key: value for key, value in credentials.items() if key not in PLAIN_MEMBERS})
    if isinstance(scheme, Basic):
        found.append(basic(credentials))
    if isinstance(scheme, Custom):
        values = {field.name: str(credentials.get(field.name, field.default or "")) for field in scheme.fields}
        found += [custom_value(template, values) for template in [*scheme.headers.values(), *scheme.query.values()]]
        found += secret_values([values[field.name] for field in scheme.fields if field.secret])  # whatever its name
        public = {values[field.name] for field in scheme.fields if not field.secret}
        found = [text for text in found if text not in public]
    # As they stand in a URL, should they turn up in one.
    escaped = {form for text in found for form in (quote(text), quote(text, safe=""), quote_plus(text))}
    return [*found, *(escaped - set(found))]


PLAIN_MEMBERS = frozenset({"token_type", "scope", "lifetime", "username", "client_id"})


# -- Scopes ------------------------------------------------------------------------------------------------------------
def missing_scopes(asked: list[str], granted: list[str]) -> list[str]:
    """What was asked for and not granted, in the order of asking.

    Some providers write a granted scope out as a URL that ends in its name; none tells `offline_access` back.
    """
    endings = tuple(granted)

    def is_granted(scope: str) -> bool:
        return scope == "offline_access" or any(
            one == scope or one.endswith(("/" + scope, "." + scope)) for one in endings
        )

    return [scope for scope in asked if not is_granted(scope)]


def scopes_for(connection: Connection, tool: Tool) -> list[str]:
    """The scopes that a tool names and the connection was not granted; none where nothing is known of either."""
    if connection.auth_type != "oauth2" or not connection.scopes:
        return []
    return missing_scopes(tool.scopes, connection.scopes)
