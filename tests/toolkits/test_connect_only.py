"""Services that can be connected before they have tools: what keeps a credential from going to the wrong place."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from apps.toolkits.registry import CATALOG_DIR, read_file
from apps.toolkits.request import build_call
from apps.toolkits.spec import PLACEHOLDER, ApiKey, Basic, Bearer, Custom, OAuth2, Toolkit, Variable

CATEGORIES = {
    "accounting",
    "ai",
    "analytics",
    "banking",
    "cms",
    "communication",
    "crm",
    "databases",
    "design",
    "developer-tools",
    "documents",
    "e-commerce",
    "email",
    "events",
    "fitness",
    "forms",
    "google",
    "hr",
    "infrastructure",
    "marketing",
    "media",
    "microsoft",
    "monitoring",
    "payments",
    "productivity",
    "project-management",
    "recruiting",
    "reference",
    "scheduling",
    "search",
    "security",
    "signatures",
    "social",
    "spreadsheets",
    "storage",
    "support",
    "time-tracking",
}
SMUGGLED = [
    "evil.example/",
    "evil.example/x.",
    "a@evil.example",
    "a:b@evil.example",
    "evil.example:8080",
    "evil.example#",
    "evil.example?x=",
    "evil.example\\",
    "a b",
    "a\nb",
    "acme\n",
    "a\r\nX-Header: b",
    "%2e%2e",
    "..",
    ".",
    "",
    "-",
    "{host}",
    "a/../b",
    "[::1]",
]
NO_CALL = {"evernote", "perplexity", "snowflake"}  # nothing to ask that is free and harmless


def connect_only() -> list[Toolkit]:
    toolkits = [toolkit for toolkit, _ in map(read_file, sorted(CATALOG_DIR.glob("*.yaml"))) if toolkit is not None]
    return [toolkit for toolkit in toolkits if not toolkit.tools]


TOOLKITS = connect_only()
VARIABLES = [
    pytest.param(variable, id=f"{toolkit.slug}-{name}")
    for toolkit in TOOLKITS
    for name, variable in toolkit.variables.items()
]
each_toolkit = pytest.mark.parametrize("toolkit", TOOLKITS, ids=[toolkit.slug for toolkit in TOOLKITS])


def urls(toolkit: Toolkit) -> Iterator[str]:
    yield toolkit.base_url or ""
    for scheme in toolkit.auth:
        yield from (value for key, value in scheme.__dict__.items() if key.endswith("_url") and value)


def filled(toolkit: Toolkit, text: str) -> str:
    values = {name: variable.default or "example" for name, variable in toolkit.variables.items()}
    if text.startswith("{"):
        return PLACEHOLDER.sub("https://example.com", text, count=1)
    return PLACEHOLDER.sub(lambda match: values[match.group(1)], text)


def test_at_least_110_services_can_be_connected_without_tools() -> None:
    assert len(TOOLKITS) >= 110


def test_every_kind_of_credential_is_among_them() -> None:
    kinds = {scheme.type for toolkit in TOOLKITS for scheme in toolkit.auth}
    assert kinds == {"oauth2", "client_credentials", "oauth1", "api_key", "bearer", "basic", "custom"}
    keys = [scheme.placement for toolkit in TOOLKITS for scheme in toolkit.auth if isinstance(scheme, ApiKey)]
    assert {placement.into for placement in keys} == {"header", "query"}
    assert any(placement.prefix for placement in keys)


@each_toolkit
def test_a_service_says_what_it_is(toolkit: Toolkit) -> None:
    assert 15 <= len(toolkit.description) <= 200
    assert toolkit.description.endswith(".")
    assert toolkit.categories
    assert set(toolkit.categories) <= CATEGORIES
    assert toolkit.docs_url is not None
    assert toolkit.docs_url.startswith("https://")


@each_toolkit
def test_every_url_is_https_on_a_host_of_its_own(toolkit: Toolkit) -> None:
    for url in urls(toolkit):
        parts = urlsplit(filled(toolkit, url))
        assert parts.scheme == "https", url
        assert parts.hostname, url
        assert "." in parts.hostname or "{" in url, url
        assert parts.username is None, url
        assert parts.port is None, url
        assert parts.fragment == "", url


@each_toolkit
def test_who_registers_a_client_is_told_where(toolkit: Toolkit) -> None:
    if toolkit.needs_client:
        assert toolkit.app_registration_url is not None
        assert toolkit.app_registration_url.startswith("https://")


@each_toolkit
def test_a_typed_credential_is_tried_before_it_is_saved(toolkit: Toolkit) -> None:
    if any(isinstance(scheme, ApiKey | Bearer | Basic | Custom) for scheme in toolkit.auth):
        assert toolkit.test or toolkit.profile or toolkit.slug in NO_CALL


@each_toolkit
def test_its_calls_stay_on_its_own_hosts(toolkit: Toolkit) -> None:
    home = urlsplit(filled(toolkit, toolkit.base_url or "")).hostname
    values = {name: variable.default or "example" for name, variable in toolkit.variables.items()}
    if (toolkit.base_url or "").startswith("{"):
        values |= {"api_domain": "https://example.com"}
    for call in (toolkit.profile, toolkit.test):
        if call is not None:
            request = build_call(toolkit, call, values)
            assert urlsplit(request.url).hostname in {home, *toolkit.hosts}
            assert "?" not in request.url


@each_toolkit
def test_hosts_are_named_only_if_a_call_goes_there(toolkit: Toolkit) -> None:
    paths = [call.path for call in (toolkit.profile, toolkit.test) if call is not None]
    named = {urlsplit(path).hostname for path in paths if path.startswith("https://")}
    assert set(toolkit.hosts) == named


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_blank_takes_its_default_and_no_other_host(variable: Variable) -> None:
    assert variable.pattern is not None
    assert variable.pattern.startswith("^")
    assert variable.pattern.endswith("$")
    if variable.default is not None:
        assert re.fullmatch(variable.pattern, variable.default)
    for text in SMUGGLED:
        assert not re.fullmatch(variable.pattern, text), text


@each_toolkit
def test_a_blank_that_people_type_stands_where_it_cannot_name_the_host(toolkit: Toolkit) -> None:
    """Unless its pattern lets only the service's own domains through, or the service is one that people host."""
    hosted = {"woocommerce"}
    for name, variable in toolkit.variables.items():
        if variable.source == "user" and toolkit.slug not in hosted:
            for url in urls(toolkit):
                if f"//{{{name}}}" in url and not re.search(rf"//\{{{name}\}}\.[a-z0-9.-]*[a-z]", url):
                    assert variable.pattern is not None
                    assert not re.fullmatch(variable.pattern, "evil.example"), url
                    assert not re.fullmatch(variable.pattern, "evil-example.com"), url


@each_toolkit
def test_a_token_answer_cannot_name_a_foreign_host(toolkit: Toolkit) -> None:
    for variable in toolkit.variables.values():
        if variable.source == "token":
            assert variable.pattern is not None
            for host in ("evil.example", "https://evil.example", "https://zoho.evil.example", "evilwrike.com"):
                assert not re.fullmatch(variable.pattern, host)


@each_toolkit
def test_a_refresh_token_is_asked_for_where_the_provider_has_a_scope_for_it(toolkit: Toolkit) -> None:
    offline = {"offline_access", "offline.access", "offline", "refresh_token"}
    for scheme in toolkit.auth:
        if isinstance(scheme, OAuth2):
            named = offline & (set(scheme.available_scopes) | set(scheme.scopes))
            assert named <= set(scheme.scopes)
            if "login.microsoftonline.com" in scheme.token_url:
                assert "offline_access" in scheme.scopes
            if "googleapis.com" in scheme.token_url:
                assert scheme.authorization_params["access_type"] == "offline"


@pytest.mark.parametrize(
    ("slug", "token_url", "client_auth", "separator", "params"),
    [
        (
            "dropbox",
            "https://api.dropboxapi.com/oauth2/token",
            "client_secret_post",
            " ",
            {"token_access_type": "offline"},
        ),
        ("reddit", "https://www.reddit.com/api/v1/access_token", "client_secret_basic", " ", {"duration": "permanent"}),
        ("x", "https://api.x.com/2/oauth2/token", "client_secret_basic", " ", {}),
        ("linear", "https://api.linear.app/oauth/token", "client_secret_post", ",", {"prompt": "consent"}),
        ("zoom", "https://zoom.us/oauth/token", "client_secret_basic", " ", {}),
        ("quickbooks", "https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer", "client_secret_basic", " ", {}),
        (
            "jira",
            "https://auth.atlassian.com/oauth/token",
            "client_secret_post",
            " ",
            {"audience": "api.atlassian.com", "prompt": "consent"},
        ),
        ("strava", "https://www.strava.com/oauth/token", "client_secret_post", ",", {"approval_prompt": "auto"}),
    ],
)
def test_what_providers_want_beyond_the_standard(
    slug: str, token_url: str, client_auth: str, separator: str, params: dict[str, str]
) -> None:
    scheme = next(toolkit for toolkit in TOOLKITS if toolkit.slug == slug).auth_by_type["oauth2"]
    assert scheme.token_url == token_url
    assert scheme.client_auth == client_auth
    assert scheme.scope_separator == separator
    assert scheme.authorization_params == params
    assert scheme.pkce


def test_pkce_is_off_only_where_a_provider_refuses_it() -> None:
    off = {
        toolkit.slug
        for toolkit in TOOLKITS
        for scheme in toolkit.auth
        if isinstance(scheme, OAuth2) and not scheme.pkce
    }
    assert off == {"linkedin", "square", "surveymonkey", "typeform"}
