"""What holds for every toolkit of the catalog, so that a new file gets its tests for free."""

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs
import pytest

from apps.toolkits import hooks
from apps.toolkits.registry import CATALOG_DIR, Catalog, read_file
from apps.toolkits.request import build_call
from apps.toolkits.spec import OAuth2, Tool, Toolkit
from tests.toolkits.driver import load, make_request, variables_of

CURATED = [
    "gmail",
    "google-calendar",
    "slack",
    "google-sheets",
    "notion",
    "github",
    "hubspot",
    "outlook",
    "google-drive",
    "discord",
]
# What some hooks ask for beyond their schemas.
BY_NAME: dict[str, list[Any]] = {
    "to": ["alice@example.com", ["alice@example.com"]],
    "from": ["alice@example.com"],
    "in_reply_to": ["<message@example.com>"],
    "start": ["2030-01-10T09:00:00Z"],
    "end": ["2030-01-10T09:30:00Z"],
    "topic_name": ["projects/exchange/topics/mail"],
}
EITHER_OR = {
    "GOOGLEDRIVE_UPLOAD_FILE": {"text": "Hello"},
    "GOOGLEDRIVE_REPLACE_FILE_CONTENT": {"text": "Hello"},
    "OUTLOOK_REPLY_TO_EMAIL": {"body": "Hello"},
    "OUTLOOK_REPLY_ALL_TO_EMAIL": {"body": "Hello"},
}
FILES = sorted(CATALOG_DIR.glob("*.yaml"))
CANDIDATES: list[Any] = [
    "example",
    "1",
    "example@example.com",
    "https://example.com/x",
    "2030-01-31T08:00:00Z",
    "2030-01-31",
    "98ad959b-2b6a-4774-80ee-00246fb0ea9b",
    "A1",
    "aZ0123456789aZ0",
    "08:00",
    "Europe/Berlin",
    "ZXhhbXBsZQ==",
    1,
    True,
    1.5,
    {},
    {"example": "example"},
    ["example"],
    [1],
    ["example@example.com"],
    [{}],
    [["example"]],
    [],
]


# A faulty file fails its own test below, and must not keep the others from being tested.
TOOLKITS = [toolkit for toolkit, _ in map(read_file, FILES) if toolkit is not None]
TOOLS = [pytest.param(toolkit, tool, id=toolkit.public_name(tool)) for toolkit in TOOLKITS for tool in toolkit.tools]


def example(schema: dict[str, Any], name: str = "") -> Any:
    """A value that fits: the file's own example, or the first that its schema lets through."""
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    for value in [
        *schema.get("examples", []),
        *schema.get("enum", []),
        *BY_NAME.get(name, []),
        *built(schema),
        *CANDIDATES,
    ]:
        if validator.is_valid(value):
            return value
    raise AssertionError(f"give an example, since none can be guessed from {schema}")


def built(schema: dict[str, Any]) -> Iterator[Any]:
    """Values made from what a schema says of its parts."""
    yield from (schema[key] for key in ("const", "default", "minimum") if key in schema)
    members = schema.get("properties", {})
    if members:
        yield {name: example(members[name]) for name in schema.get("required", []) if name in members}
        yield {name: example(part) for name, part in members.items()}
    if isinstance(schema.get("items"), dict):
        yield [example(schema["items"])] * schema.get("minItems", 1)
    for part in [*schema.get("anyOf", []), *schema.get("oneOf", [])]:
        yield from built(part)


@pytest.mark.parametrize("path", FILES, ids=attrgetter("stem"))
def test_every_file_loads_without_fault(path: Path) -> None:
    _, faults = read_file(path)
    assert [str(fault) for fault in faults] == []


def test_the_curated_ten_come_in_the_contracts_order() -> None:
    catalog = Catalog({toolkit.slug: toolkit for toolkit in TOOLKITS})
    assert [toolkit.slug for toolkit in catalog.curated()] == CURATED
    assert [load(slug).curated for slug in CURATED] == list(range(1, 11))


@pytest.mark.parametrize("slug", CURATED)
def test_a_curated_toolkit_is_complete(slug: str) -> None:
    toolkit = load(slug)
    assert len(toolkit.tools) >= (16 if slug in {"gmail", "google-calendar", "slack", "github"} else 8)
    assert toolkit.description
    assert toolkit.categories
    assert toolkit.docs_url
    assert toolkit.app_registration_url
    assert toolkit.profile
    assert isinstance(toolkit.auth[0], OAuth2)


@pytest.mark.parametrize("toolkit", TOOLKITS, ids=attrgetter("slug"))
def test_the_scopes_asked_for_are_explained(toolkit: Toolkit) -> None:
    for scheme in toolkit.auth:
        if isinstance(scheme, OAuth2) and scheme.available_scopes:
            assert set(scheme.scopes) <= set(scheme.available_scopes)


@pytest.mark.parametrize("toolkit", TOOLKITS, ids=attrgetter("slug"))
def test_fixed_calls_build(toolkit: Toolkit) -> None:
    for call in (toolkit.profile, toolkit.test):
        if call is not None:
            assert urlsplit(build_call(toolkit, call, variables_of(toolkit)).url).netloc


@pytest.mark.parametrize(("toolkit", "tool"), TOOLS)
def test_every_tool_and_parameter_is_described(toolkit: Toolkit, tool: Tool) -> None:
    assert tool.name
    assert len(tool.description) >= 15
    assert tool.description != tool.name
    named = {name for name, parameter in tool.parameters.items() if "description" in parameter.json_schema}
    obvious = {"type", "location", "company", "name", "email"}  # words that say it themselves
    assert set(tool.parameters) - named <= obvious


@pytest.mark.parametrize(("toolkit", "tool"), TOOLS)
def test_the_examples_of_a_tool_fit_their_schemas(toolkit: Toolkit, tool: Tool) -> None:
    for name, parameter in tool.parameters.items():
        validator = jsonschema_rs.Draft202012Validator(parameter.json_schema, validate_formats=True)
        for value in parameter.json_schema.get("examples", []):
            assert validator.is_valid(value), f"{name}: {value}"


@pytest.mark.parametrize(("toolkit", "tool"), TOOLS)
def test_parameters_made_from_a_tools_schema_build_its_request(toolkit: Toolkit, tool: Tool) -> None:
    required = {name for name, parameter in tool.parameters.items() if parameter.required}
    for names in tool.any_of or [[]]:
        params = {name: example(tool.parameters[name].json_schema, name) for name in required | set(names)}
        params |= EITHER_OR.get(toolkit.public_name(tool), {})
        request = make_request(toolkit, tool, params)
        assert request.method == tool.method
        assert urlsplit(request.full_url).scheme in {"http", "https"}
        assert "{" not in urlsplit(request.full_url).path


@pytest.mark.parametrize("toolkit", TOOLKITS, ids=attrgetter("slug"))
def test_every_hook_is_there(toolkit: Toolkit) -> None:
    assert hooks.faults(toolkit) == []
