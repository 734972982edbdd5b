"""Every kind of credential that a person types: through the real page, to the place where the service reads it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client

from apps.connections.models import Connection, ConnectSession
from apps.runs.journal import journal
from apps.runs.models import Execution
from tests.cast import Cast, enable
from tests.connections.own_toolkits import Folder
from tests.peers.forms import forms
from tests.peers.upstream import Upstream

KEY = "sk-a/b+c=&é d"
RETURN = "https://shop.example/done"


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@dataclass(frozen=True)
class Kind:
    """An auth scheme, what a person types, and what the service must then find where. ``wrong``: what it must refuse."""

    name: str
    auth: dict[str, Any]
    typed: dict[str, str]
    wrong: dict[str, str]
    header: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)

    @property
    def secrets(self) -> list[str]:
        return [*(value for value in self.typed.values() if len(value) > 5), *self.header.values()]


KINDS = [
    Kind(
        "api key in a header with a prefix",
        {"type": "api_key", "placement": {"in": "header", "name": "X-Key", "prefix": "Key "}},
        {"api_key": "sk-good-key"},
        {"api_key": "sk-bad-key"},
        header={"X-Key": "Key sk-good-key"},
    ),
    Kind(
        "api key in the query",
        {"type": "api_key", "placement": {"in": "query", "name": "apikey"}},
        {"api_key": KEY},
        {"api_key": KEY + "x"},
        query={"apikey": KEY},
    ),
    Kind(
        "basic",
        {"type": "basic"},
        {"username": "ada", "password": "pass-word"},
        {"username": "ada", "password": "pass-ward"},
        header={"Authorization": basic("ada", "pass-word")},
    ),
    Kind(
        "basic with an empty password",
        {"type": "basic"},
        {"username": "sk-as-user-name", "password": ""},
        {"username": "sk-as-user-name", "password": "x"},
        header={"Authorization": basic("sk-as-user-name", "")},
    ),
    Kind(
        "basic in UTF-8 with a colon in the password",
        {"type": "basic"},
        {"username": "zoë", "password": "päss:wörd:日"},
        {"username": "zoë", "password": "päss"},
        header={"Authorization": basic("zoë", "päss:wörd:日")},
    ),
    Kind(
        "bearer",
        {"type": "bearer"},
        {"token": "pat-12345678"},
        {"token": "pat-0"},
        header={"Authorization": "Bearer pat-12345678"},
    ),
    Kind(
        "custom fields with templates",
        {
            "type": "custom",
            "fields": [
                {"name": "api_key", "title": "Key"},
                {"name": "app", "title": "App", "secret": False},
                {"name": "site", "title": "Site", "secret": False, "required": False, "default": "main"},
            ],
            "headers": {"Authorization": "Basic {api_key}:x|base64", "X-App": "{app}/{site}"},
            "query": {"signed": "{app}-{api_key}"},
        },
        {"api_key": "sk-custom-key", "app": "shop", "site": ""},
        {"api_key": "sk-other-key", "app": "shop", "site": ""},
        header={"Authorization": basic("sk-custom-key", "x"), "X-App": "shop/main"},
        query={"signed": "shop-sk-custom-key"},
    ),
]
BY_KIND = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def expecting(kind: Kind) -> str:
    """The route that answers only to what the kind must send."""
    place, wanted = ("header", kind.header) if kind.header else ("query", kind.query)
    name, value = next(iter(wanted.items()))
    return f"/expect/{place}/{name}/{base64.urlsafe_b64encode(value.encode()).decode()}"


@pytest.fixture
def folder(toolkit_folder: Folder) -> Folder:
    return toolkit_folder


def add_toolkit(folder: Folder, auth: dict[str, Any], test: str, **more: Any) -> None:
    toolkit: dict[str, Any] = {
        "slug": "kind",
        "name": "Kind",
        "base_url": "https://kind.example",
        "auth": [auth],
        "test": {"path": test},
        "tools": [{"slug": "get", "name": "Get", "description": "Echo.", "method": "GET", "path": "/echo/tool"}],
    }
    folder.put(toolkit | more)


def begin(cast: Cast, user: str = "u1") -> str:
    body = {"toolkit": "kind", "userId": user, "redirectUrl": RETURN}
    answer = cast.api.post("integrations/connect", body)
    assert answer.status_code == 200, answer.content
    return urlsplit(str(answer.json()["authUrl"])).path


@pytest.fixture
def ready(cast: Cast, upstream: Upstream) -> Cast:
    upstream.reset()
    cast.project.allowed_origins = ["https://shop.example"]
    cast.project.save()
    return cast


@BY_KIND
def test_a_person_connects_and_the_service_finds_the_credential_in_its_place(
    ready: Cast, folder: Folder, upstream: Upstream, kind: Kind
) -> None:
    add_toolkit(folder, kind.auth, expecting(kind))
    enable(ready.project, "kind", upstream.url)
    page, browser = begin(ready), Client()
    shown = forms(browser.get(page).content.decode())[0]
    assert set(kind.typed) <= set(shown.fields)
    left = browser.post(page, kind.typed)
    assert left.status_code == 302, left.content.decode()
    back = urlsplit(left["Location"])
    assert (back.netloc, parse_qs(back.query)["status"]) == ("shop.example", ["connected"])

    answer = ready.api.post("integrations/execute", {"toolName": "KIND_GET", "userId": "u1"})
    assert answer.status_code == 200, answer.content
    seen = upstream.requests("/echo/tool")[-1]
    assert {name: seen["headers"][name.lower()] for name in kind.header} == {
        name: value.encode().decode("latin-1") for name, value in kind.header.items()
    }
    assert {name: seen["query"][name] for name in kind.query} == {name: [value] for name, value in kind.query.items()}


@BY_KIND
def test_what_was_typed_is_in_no_table_and_no_log(ready: Cast, folder: Folder, upstream: Upstream, kind: Kind) -> None:
    add_toolkit(folder, kind.auth, expecting(kind))
    enable(ready.project, "kind", upstream.url)
    Client().post(begin(ready), kind.typed)
    ready.api.post("integrations/execute", {"toolName": "KIND_GET", "userId": "u1"})
    journal.flush()
    row = Execution.objects.get()
    connection = Connection.objects.get()
    kept = " ".join(str(value) for one in (row, connection) for value in vars(one).values())
    public = {"shop/main", "zoë"}
    for secret in {*kind.secrets} - public:
        assert secret not in kept


@BY_KIND
def test_a_wrong_credential_stores_nothing_and_may_be_corrected(
    ready: Cast, folder: Folder, upstream: Upstream, kind: Kind
) -> None:
    add_toolkit(folder, kind.auth, expecting(kind))
    enable(ready.project, "kind", upstream.url)
    page, browser = begin(ready), Client()
    refused = browser.post(page, kind.wrong)
    assert refused.status_code == 400
    text = refused.content.decode()
    assert "Kind does not accept what was entered (status 401)." in text
    assert not Connection.objects.exists()
    secrets = [value for name, value in kind.wrong.items() if len(value) > 5 and name not in {"username", "app"}]
    assert not [secret for secret in secrets if secret in text]  # a password input is never filled again
    assert browser.post(page, kind.typed).status_code == 302
    assert Connection.objects.get().status == Connection.Status.ACTIVE


@pytest.mark.parametrize("kind", [KINDS[1], KINDS[4]], ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("/status/503", "does not accept what was entered (status 503)"),
        ("/reset", "could not be asked: The provider"),
        ("/status/403", "does not accept what was entered (status 403)"),
    ],
    ids=["in trouble", "down", "forbidden"],
)
def test_a_service_that_cannot_be_asked_is_told_and_stores_nothing(
    ready: Cast, folder: Folder, upstream: Upstream, kind: Kind, test: str, words: str
) -> None:
    add_toolkit(folder, kind.auth, test, retry={"statuses": []})
    enable(ready.project, "kind", upstream.url)
    answer = Client().post(begin(ready), kind.typed)
    assert answer.status_code == 400
    assert words in answer.content.decode()
    assert not Connection.objects.exists()
    assert ConnectSession.objects.get().used_at is None


def test_a_colon_in_a_user_name_is_refused_before_the_service_is_asked(
    ready: Cast, folder: Folder, upstream: Upstream
) -> None:
    add_toolkit(folder, {"type": "basic"}, "/echo/test")
    enable(ready.project, "kind", upstream.url)
    answer = Client().post(begin(ready), {"username": "ada:x", "password": "secret"})
    assert (answer.status_code, "Must not have a colon" in answer.content.decode()) == (400, True)
    assert (upstream.count("/echo/test"), Connection.objects.count()) == (0, 0)


@pytest.mark.parametrize("value", ["a\x00b", "a\nX-Evil: 1", "a\rb", "\u202e", ""])
def test_what_no_header_can_carry_is_refused(ready: Cast, folder: Folder, upstream: Upstream, value: str) -> None:
    add_toolkit(folder, {"type": "bearer"}, "/echo/test")
    enable(ready.project, "kind", upstream.url)
    assert Client().post(begin(ready), {"token": value}).status_code == 400
    assert (upstream.count("/echo/test"), Connection.objects.count()) == (0, 0)


REGION = {
    "title": "Region",
    "source": "user",
    "pattern": "[a-z]{2}-[0-9]",
}


def test_a_variable_that_the_person_types_becomes_part_of_the_address(
    ready: Cast, folder: Folder, upstream: Upstream
) -> None:
    add_toolkit(
        folder, {"type": "bearer"}, "/me", base_url="https://{region}.kind.example", variables={"region": REGION}
    )
    enable(ready.project, "kind", f"{upstream.url}/echo/{{region}}")
    assert Client().post(begin(ready), {"token": "pat-1", "variable-region": "eu-1"}).status_code == 302
    assert upstream.count("/echo/eu-1/me") == 1
    assert ready.api.post("integrations/execute", {"toolName": "KIND_GET", "userId": "u1"}).status_code == 200
    assert upstream.count("/echo/eu-1/echo/tool") == 1


@pytest.mark.parametrize("region", ["eu-1.evil.example/#", "eu-1\n", "", "EU-1", "../eu-1"])
def test_a_variable_that_does_not_fit_sends_the_credential_nowhere(
    ready: Cast, folder: Folder, upstream: Upstream, region: str
) -> None:
    add_toolkit(
        folder, {"type": "bearer"}, "/me", base_url="https://{region}.kind.example", variables={"region": REGION}
    )
    enable(ready.project, "kind", f"{upstream.url}/echo/{{region}}")
    page, answer = begin(ready), None
    answer = Client().post(page, {"token": "pat-1", "variable-region": region})
    if region == "eu-1\n":  # the form takes the line break off
        assert answer.status_code == 302
        return
    assert answer.status_code == 400
    assert not upstream.requests()
    assert not Connection.objects.exists()
