"""The toolkit file: the only description of its format.

One YAML file describes one third-party service. These models parse it, check it, and publish its JSON Schema
(``manage.py toolkit_schema``); nothing else in the project knows the format.

A value in braces, ``{subdomain}``, is filled in at call time. Three kinds of text may hold them: URLs and default headers
(from ``variables``, see `Variable`), a tool's ``path`` (from its ``in: path`` parameters and from variables), and the
``headers``/``query`` templates of credentials (from the fields a person typed).

A *pointer* is a JSON Pointer (RFC 6901): ``/user/id``, ``/items/0``; the empty string is the whole document.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import jsonschema_rs
from pydantic import BaseModel, ConfigDict, Field, model_validator

from apps.lib import pattern as expressions

RESERVED_SLUGS = frozenset({"skills", "connect", "integrations", "modules", "runs", "webhooks", "settings", "end-users",
                            "user-tokens", "executions", "tasks", "toolkits", "hooks", "webhook-secret", "deliveries", "custom",
                            "job-results"})  # fmt: skip
FORMS_OWN = frozenset({"scheme", "another", "csrfmiddlewaretoken"})  # further inputs of the connect page
PLACEHOLDER = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)\}")

Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=100)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]
Url = Annotated[str, Field(pattern=r"^(https?://|\{)\S+$")]
Pointer = Annotated[str, Field(pattern=r"^(/.*)?$")]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
Json = Any


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, ignored_types=(cached_property,))


class Variable(Strict):
    """A blank in the toolkit's URLs or headers, and who fills it in.

    ``user``: the person types it when connecting (their subdomain). ``integration``: an admin sets it for the project (the
    host of a self-hosted instance). ``token``: it comes with the token answer, at ``pointer`` (Salesforce's
    ``instance_url``). A ``pattern`` is required of what people type: it keeps a credential from being sent elsewhere.
    """

    title: str
    description: str = ""
    source: Literal["user", "integration", "token"] = "user"
    default: str | None = None
    pattern: str | None = None
    pointer: Pointer | None = None

    def accepts(self, value: str) -> bool:
        """Whether a value fits: the whole of it, one printable line (``$`` alone would let a last line break pass)."""
        return value.isprintable() and (self.pattern is None or expressions.fits(self.pattern, value))


class CredentialField(Strict):
    """One input of the form on which a person enters credentials."""

    name: Name
    title: str
    description: str = ""
    secret: bool = True
    required: bool = True
    pattern: str | None = None
    default: str | None = None


class Placement(Strict):
    """Where a credential goes in a request: into a header or the query, as ``prefix`` + value."""

    into: Literal["header", "query"] = Field(default="header", alias="in")
    name: str = "Authorization"
    prefix: str = ""


BEARER = Placement(into="header", name="Authorization", prefix="Bearer ")


class TokenAnswer(Strict):
    """Where things sit in the answer of a token endpoint (RFC 6749 section 5.1 unless said otherwise)."""

    access_token: Pointer = "/access_token"
    refresh_token: Pointer = "/refresh_token"
    expires_in: Pointer = "/expires_in"
    scope: Pointer = "/scope"
    scope_separator: str | None = None
    default_lifetime: int | None = Field(default=None, description="Seconds; for providers that send no expires_in.")


class OAuth2(Strict):
    """Authorization code grant (RFC 6749 section 4.1) with PKCE S256 (RFC 7636) unless the provider cannot."""

    type: Literal["oauth2"]
    authorization_url: Url
    token_url: Url
    refresh_url: Url | None = None
    revocation_url: Url | None = Field(default=None, description="RFC 7009")
    issuer: str | None = Field(default=None, description="Compared with the iss parameter of the callback (RFC 9207).")
    scopes: list[str] = Field(default=[], description="Asked for by default.")
    available_scopes: dict[str, str] = Field(default={}, description="scope: what it permits")
    scope_separator: str = " "
    scope_parameter: str = "scope"
    pkce: bool = True
    client_auth: Literal["client_secret_post", "client_secret_basic", "none"] = "client_secret_post"
    authorization_params: dict[str, str] = {}
    token_params: dict[str, str] = {}
    token: TokenAnswer = TokenAnswer()
    placement: Placement = BEARER
    refresh_token_lifetime: int | None = Field(default=None, description="Seconds without use after which it dies.")


class ClientCredentials(Strict):
    """Client credentials grant (RFC 6749 section 4.4): the application's own account, no person."""

    type: Literal["client_credentials"]
    token_url: Url
    scopes: list[str] = []
    scope_separator: str = " "
    client_auth: Literal["client_secret_post", "client_secret_basic"] = "client_secret_basic"
    token_params: dict[str, str] = {}
    token: TokenAnswer = TokenAnswer()
    placement: Placement = BEARER

    @property
    def fields(self) -> list[CredentialField]:
        """What a person types where the integration has no client."""
        return [
            CredentialField(name="client_id", title="Client id", secret=False),
            CredentialField(name="client_secret", title="Client secret"),
        ]


class OAuth1(Strict):
    """OAuth 1.0a (RFC 5849)."""

    type: Literal["oauth1"]
    request_token_url: Url
    authorization_url: Url
    token_url: Url
    signature_method: Literal["HMAC-SHA1", "HMAC-SHA256", "PLAINTEXT"] = "HMAC-SHA1"


class ApiKey(Strict):
    """One secret that the person copies from the service."""

    type: Literal["api_key"]
    title: str = "API key"
    description: str = ""
    pattern: str | None = None
    placement: Placement = Placement(into="header", name="X-API-Key")

    @property
    def fields(self) -> list[CredentialField]:
        return [CredentialField(name="api_key", title=self.title, description=self.description, pattern=self.pattern)]


class Bearer(Strict):
    """A long-lived access token that the person copies from the service."""

    type: Literal["bearer"]
    title: str = "Access token"
    description: str = ""
    pattern: str | None = None
    placement: Placement = BEARER

    @property
    def fields(self) -> list[CredentialField]:
        return [CredentialField(name="token", title=self.title, description=self.description, pattern=self.pattern)]


class Basic(Strict):
    """HTTP Basic authentication (RFC 7617)."""

    type: Literal["basic"]
    username_title: str = "User name"
    password_title: str = "Password"
    description: str = ""

    @property
    def fields(self) -> list[CredentialField]:
        return [
            CredentialField(name="username", title=self.username_title, secret=False, description=self.description),
            CredentialField(name="password", title=self.password_title, required=False),
        ]


class Custom(Strict):
    """Several fields, put into headers and query parameters by templates: ``{api_key}:x`` (``|base64`` encodes the whole)."""

    type: Literal["custom"]
    fields: list[CredentialField] = Field(min_length=1)
    headers: dict[str, str] = {}
    query: dict[str, str] = {}


Auth = Annotated[
    OAuth2 | ClientCredentials | OAuth1 | ApiKey | Bearer | Basic | Custom,
    Field(discriminator="type"),
]


class Call(Strict):
    """A fixed request; ``path`` is below the base URL, or an absolute URL on a host the toolkit names in ``hosts``."""

    method: Method = "GET"
    path: str
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    json_body: Json = Field(default=None, alias="json")


class Profile(Call):
    """The call that tells whose account was connected."""

    id: Pointer
    label: Pointer
    picture: Pointer | None = None


class Failure(Strict):
    """For services that answer 200 to say no: the answer failed when ``pointer`` has the value ``equals``.

    The code at ``code`` then decides: in ``unauthorized`` it counts as a 401 (one refresh, one retry), in ``rate_limited``
    as a 429, else as a 400.
    """

    pointer: Pointer
    equals: Json
    code: Pointer | None = None
    unauthorized: list[str] = []
    rate_limited: list[str] = []


class RateLimit(Strict):
    """Names of the answer's headers that tell how much may still be called."""

    limit: str | None = None
    remaining: str | None = None
    reset: str | None = None
    reset_format: Literal["epoch", "seconds", "iso"] = "epoch"
    retry_after: str = "Retry-After"


class Retry(Strict):
    """Which answers are worth another try of a call that is safe to repeat."""

    statuses: list[int] = [429, 502, 503, 504]


class Pagination(Strict):
    """How this service's lists go on: ``parameter`` of the next request takes the value found at ``next``."""

    type: Literal["cursor", "page", "offset", "link"]
    parameter: str | None = None
    next: Pointer | None = None
    size_parameter: str | None = None


class Parameter(BaseModel):
    """One parameter of a tool: JSON Schema (draft 2020-12) and its place in the request.

    in: ``path``, ``query``, ``header``; ``body`` (a member of a JSON object), ``form`` (urlencoded), ``multipart``, ``raw``
    (the whole body, as bytes: text, or base64 with ``contentEncoding: base64``), ``none`` (only for the tool's hook).
    as: the name on the wire where it is not the parameter's own. For ``body`` it may be a pointer into the JSON body
    (``/start/dateTime``), and ``""`` makes the value the whole body.
    style: how a list is written into the query or a form: ``repeat`` (a=1&a=2), ``brackets`` (a[]=1), ``comma``, ``json``.
    A ``default`` of a path parameter fills the path where the parameter is absent; elsewhere it only tells the vendor's own.
    A header parameter ``Content-Type`` names the type of a ``raw`` body.
    """

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True, ignored_types=(cached_property,))
    OWN: ClassVar[frozenset[str]] = frozenset({"in", "as", "style", "required"})

    into: Literal["path", "query", "header", "body", "form", "multipart", "raw", "none"] = Field(alias="in")
    wire_name: str | None = Field(default=None, alias="as")
    style: Literal["repeat", "brackets", "comma", "json"] = "repeat"
    required: bool = False

    @cached_property
    def json_schema(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


class Tool(Strict):
    """One action of a toolkit.

    ``idempotent`` says whether doing it twice is the same as doing it once; absent, it follows from the method (RFC 9110
    section 9.2.2). Only idempotent tools are ever retried.
    """

    slug: Name
    name: str
    description: str
    method: Method
    path: str
    parameters: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.\-]*$")], Parameter] = {}
    fixed_query: dict[str, str] = {}
    fixed_headers: dict[str, str] = {}
    fixed_body: dict[str, Json] = {}
    any_of: list[list[str]] = Field(default=[], description="Sets of parameters, at least one of which must be given.")
    output: dict[str, Any] = {}
    scopes: list[str] = []
    deprecated: bool | str = False
    idempotent: bool | None = None
    hook: Name | None = Field(default=None, description="A function of hooks/<slug>.py: parameters in, parameters out.")
    answer_hook: Name | None = Field(default=None, description="A function of hooks/<slug>.py: answer in, answer out.")
    timeout: int | None = Field(default=None, ge=1, le=600)
    docs_url: str | None = None

    @property
    def is_idempotent(self) -> bool:
        return self.method in {"GET", "HEAD", "PUT", "DELETE"} if self.idempotent is None else self.idempotent

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: parameter.json_schema for name, parameter in self.parameters.items()},
            "required": [name for name, parameter in self.parameters.items() if parameter.required],
            "additionalProperties": False,
        }
        if self.any_of:
            schema["anyOf"] = [{"required": names} for names in self.any_of]
        return schema

    @cached_property
    def validator(self) -> Any:
        return jsonschema_rs.Draft202012Validator(
            self.input_schema, validate_formats=True, pattern_options=expressions.LINEAR
        )


class Toolkit(Strict):
    """A third-party service."""

    slug: Slug
    name: str = Field(max_length=100)
    description: str = ""
    categories: list[Slug] = []
    docs_url: str | None = None
    app_registration_url: str | None = Field(default=None, description="Where an OAuth client is registered.")
    logo: str | None = Field(default=None, description="A file of static/toolkits/, or an https URL.")
    curated: int | None = Field(default=None, description="Rank among the curated toolkits.")
    base_url: Url | None = None
    hosts: list[str] = Field(default=[], description="Further hosts that absolute paths of this file may name.")
    variables: dict[Name, Variable] = {}
    headers: dict[str, str] = {}
    auth: list[Auth] = Field(min_length=1, description="The first is offered first.")
    profile: Profile | None = None
    test: Call | None = Field(
        default=None, description="Proves that a credential works; absent, the profile call does."
    )
    failure: Failure | None = None
    rate_limit: RateLimit = RateLimit()
    retry: Retry = Retry()
    pagination: Pagination | None = None
    timeout: int = Field(default=30, ge=1, le=600)
    sessions: Literal["exclusive", "shared"] = Field(
        default="shared", description="Whether one run at a time has an auth session of the Runs API to itself."
    )
    tools: list[Tool] = []

    @property
    def prefix(self) -> str:
        """The first part of its tools' public names: ``google-calendar`` → ``GOOGLECALENDAR``."""
        return self.slug.replace("-", "").upper()

    @cached_property
    def tools_by_slug(self) -> dict[str, Tool]:
        return {tool.slug: tool for tool in self.tools}

    @cached_property
    def auth_by_type(self) -> dict[str, Any]:
        return {scheme.type: scheme for scheme in self.auth}

    @property
    def needs_client(self) -> bool:
        return any(scheme.type in {"oauth2", "oauth1", "client_credentials"} for scheme in self.auth)

    def public_name(self, tool: Tool) -> str:
        return f"{self.prefix}_{tool.slug.upper()}"

    @model_validator(mode="after")
    def _is_consistent(self) -> Toolkit:
        faults = list(find_faults(self))
        if faults:
            raise ValueError("\n".join(faults))
        return self


def find_faults(toolkit: Toolkit) -> list[str]:
    """What the models cannot say by themselves: every fault as ``key: what is wrong``."""
    faults: list[str] = []
    if toolkit.slug in RESERVED_SLUGS:
        faults.append(f"slug: {toolkit.slug} is reserved")
    for key in ("slug", "type"):
        seen: set[str] = set()
        for item in toolkit.tools if key == "slug" else toolkit.auth:
            value = str(getattr(item, key))
            if value in seen:
                faults.append(f"{'tools' if key == 'slug' else 'auth'}: {value} stands there twice")
            seen.add(value)
    if toolkit.tools and toolkit.base_url is None:
        faults.append("base_url: a toolkit with tools needs one")
    faults += _placeholder_faults(toolkit)
    faults += _variable_faults(toolkit)
    for tool in toolkit.tools:
        faults += [f"tools.{tool.slug}.{fault}" for fault in _tool_faults(toolkit, tool)]
    return faults


BUILT_IN_VARIABLES = frozenset({"jackfield_url"})


def _placeholder_faults(toolkit: Toolkit) -> list[str]:
    known = set(toolkit.variables) | BUILT_IN_VARIABLES
    texts: dict[str, str] = {"base_url": toolkit.base_url or ""}
    texts |= {f"headers.{name}": value for name, value in toolkit.headers.items()}
    for call_key in ("profile", "test"):
        call: Call | None = getattr(toolkit, call_key)
        if call is not None:
            texts[f"{call_key}.path"] = call.path
    for scheme in toolkit.auth:
        for key, value in scheme.__dict__.items():
            if key.endswith("_url") and isinstance(value, str):
                texts[f"auth.{scheme.type}.{key}"] = value
    faults = [
        f"{key}: {{{name}}} is not among variables"
        for key, text in texts.items()
        for name in PLACEHOLDER.findall(text)
        if name not in known
    ]
    for scheme in toolkit.auth:
        if isinstance(scheme, Custom):
            fields = {field.name for field in scheme.fields}
            for template in [*scheme.headers.values(), *scheme.query.values()]:
                faults += [
                    f"auth.custom: {{{name}}} is not among fields"
                    for name in PLACEHOLDER.findall(template)
                    if name not in fields
                ]
    return faults


def _variable_faults(toolkit: Toolkit) -> list[str]:
    faults = []
    for name, variable in toolkit.variables.items():
        if variable.source == "user" and variable.pattern is None:
            faults.append(f"variables.{name}: what a person types needs a pattern")
        if variable.source == "token" and variable.pointer is None:
            faults.append(f"variables.{name}: a variable of the token answer needs a pointer")
        if variable.pattern is not None and (fault := expressions.fault(variable.pattern)):
            faults.append(f"variables.{name}.pattern: {fault}")
    for scheme in toolkit.auth:
        for field in getattr(scheme, "fields", ()):
            if field.name in FORMS_OWN:
                faults.append(f"auth.{scheme.type}.{field.name}: the name is taken by the form itself")
            if field.pattern is not None and (fault := expressions.fault(field.pattern)):
                faults.append(f"auth.{scheme.type}.{field.name}.pattern: {fault}")
    return faults


def _tool_faults(toolkit: Toolkit, tool: Tool) -> list[str]:
    faults = []
    in_path = {name for name, parameter in tool.parameters.items() if parameter.into == "path"}
    wire = {tool.parameters[name].wire_name or name for name in in_path}
    used = set(PLACEHOLDER.findall(tool.path))
    faults += [
        f"path: {{{name}}} has no parameter" for name in used - wire - set(toolkit.variables) - BUILT_IN_VARIABLES
    ]
    faults += [f"parameters: {name} is in the path, which does not name it" for name in wire - used]
    places = {parameter.into for parameter in tool.parameters.values()} & {"body", "form", "multipart", "raw"}
    if len(places) > 1:
        faults.append(f"parameters: one request cannot have {' and '.join(sorted(places))}")
    if tool.method in {"GET", "HEAD"} and places:
        faults.append(f"parameters: a {tool.method} request has no body")
    for names in tool.any_of:
        faults += [f"any_of: no parameter {name}" for name in names if name not in tool.parameters]
    for key, schema in (("parameters", tool.input_schema), ("output", tool.output)):
        faults += [f"{key}: {fault}" for fault in schema_faults(schema)]
    return faults


def schema_faults(schema: Any) -> list[str]:
    """Faults of a JSON Schema that is to be trusted with other people's input.

    A ``$ref`` that is not local is refused: the validator would fetch it (http) or open it (file).
    """
    faults = [f"$ref {ref} is not local" for ref in _refs(schema) if not ref.startswith("#")]
    if faults:
        return faults
    try:
        jsonschema_rs.Draft202012Validator(schema, pattern_options=expressions.LINEAR)
    except (jsonschema_rs.ValidationError, ValueError) as error:
        faults.append(str(error).splitlines()[0])
    return faults


def has_references(schema: Any) -> bool:
    return bool(_refs(schema))


def _refs(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [
            value
            for key, value in schema.items()
            if key in {"$ref", "$dynamicRef", "$recursiveRef"} and isinstance(value, str)
        ]
        return own + [ref for value in schema.values() for ref in _refs(value)]
    if isinstance(schema, list):
        return [ref for value in schema for ref in _refs(value)]
    return []
