"""OAuth 2 client credentials: whose client it is, when a new token is got, and who may act as the application."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from apps.connections import access, grants
from apps.connections.integrations import find_toolkit
from apps.connections.models import Connection, Integration
from apps.connections.refresh import fresh_credentials
from apps.lib.errors import ConnectionExpired, InvalidInput, NotConfigured, RefreshUnavailable
from tests.cast import Cast, enable
from tests.connections.own_toolkits import Folder
from tests.peers.forms import forms
from tests.peers.upstream import Upstream

ROBOT: dict[str, Any] = {
    "slug": "robot",
    "name": "Robot",
    "base_url": "https://robot.example",
    "auth": [{"type": "client_credentials", "token_url": "https://robot.example/token", "scopes": ["read"]}],
    "test": {"path": "/echo/test"},
    "tools": [
        {"slug": "get", "name": "Get", "description": "Echo.", "method": "GET", "path": "/echo/tool"},
        {
            "slug": "second",
            "name": "Second",
            "description": "Wants the 2nd.",
            "method": "GET",
            "path": "/bearer/access-2",
        },
        {"slug": "never", "name": "Never", "description": "Wants another.", "method": "GET", "path": "/bearer/other"},
    ],
}
OAUTH2 = {
    "type": "oauth2",
    "authorization_url": "https://robot.example/authorize",
    "token_url": "https://robot.example/token",
}


@pytest.fixture
def folder(toolkit_folder: Folder, upstream: Upstream) -> Folder:
    upstream.reset()
    describe(toolkit_folder)
    return toolkit_folder


def describe(folder: Folder, **changes: Any) -> None:
    folder.put(ROBOT | changes)


def switch_on(cast: Cast, upstream: Upstream, token: str = "ok", **options: Any) -> Integration:
    overrides = {"token_url": f"{upstream.url}/token/{token}"}
    return enable(cast.project, "robot", upstream.url, overrides=overrides, **options)


def page_of(cast: Cast, **body: Any) -> str:
    answer = cast.api.post("integrations/connect", {"toolkit": "robot", "userId": "u1"} | body)
    assert answer.status_code == 200, answer.content
    return urlsplit(str(answer.json()["authUrl"])).path


def inputs(page: str) -> set[str]:
    return set(forms(Client().get(page).content.decode())[0].fields) & {"client_id", "client_secret"}


def run(cast: Cast, tool: str) -> Any:
    return cast.api.post("integrations/execute", {"toolName": f"ROBOT_{tool}", "userId": "u1"})


def sent_client(upstream: Upstream, path: str = "/token/ok") -> str:
    return str(upstream.requests(path)[-1]["headers"]["authorization"])


def basic(pair: str) -> str:
    return "Basic " + b64encode(pair.encode()).decode()


def test_with_the_projects_client_a_button_is_enough(cast: Cast, folder: Folder, upstream: Upstream) -> None:
    switch_on(cast, upstream)
    page = page_of(cast)
    assert inputs(page) == set()
    assert Client().post(page).status_code == 302
    asked = parse_qs(upstream.requests("/token/ok")[-1]["body"])
    assert (asked["grant_type"], asked["scope"]) == (["client_credentials"], ["read"])
    assert sent_client(upstream) == basic("client:client-secret")
    connection = Connection.objects.get()
    assert (connection.status, connection.scopes, connection.asked_scopes) == ("active", ["read", "write"], ["read"])
    assert connection.expires_at is not None
    assert set(connection.unseal("credentials")) == {"access_token", "lifetime"}
    assert run(cast, "GET").json()["data"]["headers"]["authorization"] == "Bearer access-1"


def test_without_a_client_of_the_project_the_person_types_one_and_it_is_kept(
    cast: Cast, folder: Folder, upstream: Upstream
) -> None:
    integration = switch_on(cast, upstream, client_id="")
    page = page_of(cast)
    assert inputs(page) == {"client_id", "client_secret"}
    assert Client().post(page, {"client_id": "mine"}).status_code == 400
    assert Client().post(page, {"client_id": "mine", "client_secret": "my-secret"}).status_code == 302
    assert sent_client(upstream) == basic("mine:my-secret")

    integration.client_id = "another"  # one that the project gets later does not take its place
    integration.save()
    connection = Connection.objects.select_related("integration", "project").get()
    Connection.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    connection.refresh_from_db()
    assert fresh_credentials(connection)["access_token"] == "access-2"
    assert sent_client(upstream) == basic("mine:my-secret")
    assert "my-secret" in access.secrets_of(ROBOT, connection.unseal("credentials"))


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("invalid-client", "Robot gives no token: invalid_client"),
        ("500", "Robot gives no token: temporarily_unavailable"),
        ("reset", "Robot could not be asked: The provider"),
        ("no-access-token", "Robot gives no token: invalid_answer"),
    ],
)
def test_where_no_token_comes_nothing_is_stored(
    cast: Cast, folder: Folder, upstream: Upstream, token: str, words: str
) -> None:
    switch_on(cast, upstream, token)
    answer = Client().post(page_of(cast))
    assert answer.status_code == 400
    assert words in answer.content.decode()
    assert "client-secret" not in answer.content.decode()
    assert not Connection.objects.exists()


def test_a_token_that_the_service_refuses_is_not_stored(cast: Cast, folder: Folder, upstream: Upstream) -> None:
    describe(folder, test={"path": "/bearer/other"})
    switch_on(cast, upstream)
    answer = Client().post(page_of(cast))
    assert (answer.status_code, "status 401" in answer.content.decode()) == (400, True)
    assert not Connection.objects.exists()


def test_a_401_brings_one_new_token_and_one_retry(cast: Cast, folder: Folder, upstream: Upstream) -> None:
    switch_on(cast, upstream)
    Client().post(page_of(cast))
    assert run(cast, "SECOND").status_code == 200
    assert (upstream.count("/token/ok"), upstream.count("/bearer/access-2")) == (2, 2)
    assert run(cast, "NEVER").status_code == 422
    assert (upstream.count("/token/ok"), upstream.count("/bearer/other")) == (3, 2)


@pytest.mark.parametrize("personal", [True, False], ids=["the connection's own", "the integration's"])
def test_a_client_that_is_refused_ends_only_the_connection_that_it_came_with(
    cast: Cast, folder: Folder, upstream: Upstream, personal: bool
) -> None:
    """An integration's client can be put right by an admin, and all its connections go on then."""
    integration = switch_on(cast, upstream, client_id="" if personal else "client")
    typed = {"client_id": "mine", "client_secret": "my-secret"} if personal else {}
    Client().post(page_of(cast), typed)
    integration.settings |= {"token_url": f"{upstream.url}/token/invalid-client"}
    integration.save()
    Connection.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    connection = Connection.objects.select_related("integration", "project").get()
    with pytest.raises(ConnectionExpired if personal else RefreshUnavailable):
        fresh_credentials(connection)
    assert Connection.objects.get().status == ("expired" if personal else "active")


def test_where_people_sign_in_themselves_nobody_gets_the_applications_own_account(
    cast: Cast, folder: Folder, upstream: Upstream
) -> None:
    describe(folder, auth=[OAUTH2, *ROBOT["auth"]])
    switch_on(cast, upstream)
    page = page_of(cast, authScheme="client_credentials")
    assert inputs(page) == {"client_id", "client_secret"}  # a client of the person's own, or none
    assert Client().post(page).status_code == 400
    assert not upstream.requests()


def test_the_installations_client_is_no_account_for_its_projects(
    cast: Cast, folder: Folder, upstream: Upstream, settings: Settings
) -> None:
    settings.JACKFIELD_PLATFORM_CLIENTS = {"robot": "platform:platform-secret"}
    integration = enable(cast.project, "robot", client_id="")
    assert access.oauth_client(integration) is not None
    assert access.client_for(integration, {}, "client_credentials") is None
    assert inputs(page_of(cast)) == {"client_id", "client_secret"}
    toolkit = find_toolkit("robot", cast.project)
    with pytest.raises(NotConfigured):
        grants.by_form(toolkit, integration, toolkit.auth[0], {}, {})


# -- What comes with the token -----------------------------------------------------------------------------------------
def with_place(pattern: str) -> dict[str, Any]:
    """The service's address is told by the token's answer (here by its refresh token, which is another each time)."""
    variable = {"title": "Place", "source": "token", "pointer": "/refresh_token", "pattern": pattern}
    return {
        "variables": {"place": variable},
        "base_url": "https://robot.example/{place}",
        "test": {"path": "/test"},
        "tools": [{"slug": "get", "name": "Get", "description": "Echo.", "method": "GET", "path": "/tool"}],
    }


def connect_with_place(cast: Cast, folder: Folder, upstream: Upstream, pattern: str) -> Any:
    describe(folder, **with_place(pattern))
    overrides = {"token_url": f"{upstream.url}/token/ok"}
    enable(cast.project, "robot", f"{upstream.url}/echo/{{place}}", overrides=overrides)
    return Client().post(page_of(cast))


def test_a_variable_of_the_token_answer_is_read_at_connecting_and_at_each_new_token(
    cast: Cast, folder: Folder, upstream: Upstream
) -> None:
    assert connect_with_place(cast, folder, upstream, "refresh-[0-9]+").status_code == 302
    assert upstream.count("/echo/refresh-1/test") == 1
    Connection.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    connection = Connection.objects.select_related("integration", "project").get()
    fresh_credentials(connection)
    assert connection.variables == Connection.objects.get().variables == {"place": "refresh-2"}
    assert run(cast, "GET").json()["data"]["path"] == "/echo/refresh-2/tool"


def test_a_variable_that_does_not_fit_connects_nothing(cast: Cast, folder: Folder, upstream: Upstream) -> None:
    answer = connect_with_place(cast, folder, upstream, "[a-z]+")
    assert (answer.status_code, Connection.objects.count()) == (400, 0)
    assert "place is not what the toolkit expects" in answer.content.decode()
    assert not [request for request in upstream.requests() if request["path"].startswith("/echo")]


def test_a_variable_that_no_longer_fits_leaves_the_old_one_and_keeps_the_token(
    cast: Cast, folder: Folder, upstream: Upstream
) -> None:
    connect_with_place(cast, folder, upstream, "refresh-1")
    Connection.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    connection = Connection.objects.select_related("integration", "project").get()
    assert fresh_credentials(connection)["access_token"] == "access-2"
    assert Connection.objects.get().variables == {"place": "refresh-1"}


def test_faults_of_a_form_are_told_to_an_import_too(cast: Cast, folder: Folder, upstream: Upstream) -> None:
    integration = switch_on(cast, upstream, "invalid-client")
    toolkit = find_toolkit("robot", cast.project)
    values = {"client_id": "mine", "client_secret": "my-secret"}
    with pytest.raises(InvalidInput) as caught:
        grants.by_form(toolkit, integration, toolkit.auth[0], values, {})
    assert "invalid_client" in caught.value.details["credentials"][0]
