"""The published client (PyPI `mudbase`) at the product, its host changed and nothing else: every method, key and JWTs."""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import mudbase
import pytest
from mudbase.exceptions import BadRequestException, ForbiddenException, NotFoundException, UnauthorizedException

from tests.peers.emulate import GITHUB_TOKEN, LOGIN, Emulate
from tests.peers.upstream import Upstream
from tests.product import Product

pytestmark = pytest.mark.acceptance
METHODS = {
    "create_from_template", "create_integration", "delete_integration", "execute_integration", "export_integration",
    "get_integration", "get_integrations", "get_templates", "get_usage_stats", "import_integration", "test_integration",
    "update_integration",
}  # fmt: skip
KEY = "k-1234567890"


class Client:
    """The published client with one credential, which it sends as a bearer token."""

    def __init__(self, product: Product, credential: str) -> None:
        self.project = product.facts["project_id"]
        self.api: Any = mudbase.IntegrationsApi(  # its models are Optional throughout, which only gets in the way here
            mudbase.ApiClient(mudbase.Configuration(host=product.url, access_token=credential))
        )

    def make(self, **fields: Any) -> dict[str, Any]:
        body = {"name": f"Own {uuid.uuid4().hex[:6]}", "provider": "custom", "config": {}} | fields
        request = mudbase.CreateIntegrationRequest.from_dict(body)
        return dict(self.api.create_integration(self.project, request).integration)

    def execute(self, integration: str, endpoint: str, method: str = "GET", **more: Any) -> Any:
        request = mudbase.ExecuteIntegrationRequest(endpoint=endpoint, method=method, **more)
        return self.api.execute_integration(self.project, integration, request)


def read_by_client(caught: pytest.ExceptionInfo[Any]) -> Any:
    """The error as the client's own model has it."""
    assert isinstance(caught.value.data, mudbase.Error)
    return caught.value.data


def member_token(product: Product) -> str:
    login = {"email": product.facts["admin_email"], "password": product.facts["admin_password"]}
    return str(product.call("POST", "/api/auth/login", json=login).json()["token"])


def user_token(product: Product, user: str = "mudbase-user") -> str:
    return str(product.call("POST", "user-tokens", json={"userId": user}).json()["token"])


CREDENTIALS: dict[str, Callable[[Product], str]] = {
    "key": lambda product: str(product.facts["api_key"]),
    "jwt": member_token,
}


@pytest.fixture(params=CREDENTIALS)
def client(product: Product, request: pytest.FixtureRequest) -> Client:
    return Client(product, CREDENTIALS[request.param](product))


@pytest.fixture
def own(client: Client, upstream: Upstream) -> Iterator[dict[str, Any]]:
    """A custom integration at the echoing upstream."""
    upstream.reset()
    made = client.make(config={"baseUrl": f"{upstream.url}/echo"}, credentials={"apiKey": KEY})
    yield made
    client.api.delete_integration(client.project, made["_id"])


def test_no_method_of_the_client_is_left_out() -> None:
    own = {name for name, _ in inspect.getmembers(mudbase.IntegrationsApi, inspect.isfunction) if name[0] != "_"}
    plain = {re.sub(r"_(with_http_info|without_preload_content)$", "", name) for name in own}
    assert plain == METHODS
    source = inspect.getsource(inspect.getmodule(test_no_method_of_the_client_is_left_out))  # type: ignore[arg-type]
    assert [name for name in METHODS if f".{name}(" not in source] == []


def test_an_integration_is_made_read_changed_and_deleted(client: Client, upstream: Upstream) -> None:
    config = {"baseUrl": f"{upstream.url}/echo", "auth": {"type": "header", "name": "X-Key"}, "team": {"a": [1]}}
    made = client.make(name="Billing", config=config, credentials={"apiKey": KEY})
    assert (made["name"], made["provider"], made["project"], made["status"], made["config"]) == (
        "Billing", "custom", client.project, "active", config,
    )  # fmt: skip
    read = client.api.get_integration(client.project, made["_id"]).integration
    assert (read.id, read.name, read.config, read.status) == (made["_id"], "Billing", config, "active")
    assert read.created_at is not None
    listed = client.api.get_integrations(client.project).integrations or []
    assert (made["_id"], "custom") in [(row.id, row.provider) for row in listed]
    change = mudbase.UpdateIntegrationRequest(name="Billing EU", credentials={"apiKey": "another-key"})
    changed = client.api.update_integration(client.project, made["_id"], change).integration
    assert (changed["name"], changed["config"]) == ("Billing EU", config)
    sent = client.execute(made["_id"], "x").data["response"]["headers"]["x-key"]
    assert sent == "another-key"
    assert client.api.delete_integration(client.project, made["_id"]).message
    with pytest.raises(NotFoundException) as caught:
        client.api.get_integration(client.project, made["_id"])
    assert read_by_client(caught).code == "NOT_FOUND"


def test_any_endpoint_is_called(client: Client, own: dict[str, Any]) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        done = client.execute(own["_id"], "/items/7?a=1", method, params={"b": [1, 2]}, body={"title": "ü"})
        assert done.success is True
        assert done.data["status"] == 200
        seen = done.data["response"]
        assert (seen["method"], seen["path"], seen["query"]) == (method, "/echo/items/7", {"a": ["1"], "b": ["1", "2"]})
        assert seen["headers"]["authorization"] == f"Bearer {KEY}"
        assert seen["json"] == {"title": "ü"}


def test_the_documents_own_example_is_carried_out(client: Client, own: dict[str, Any]) -> None:
    done = client.execute(own["_id"], "interface parse", "PUT", params={}, body={})
    assert (done.success, done.data["status"], done.data["response"]["path"]) == (True, 200, "/echo/interface%20parse")


def test_the_services_errors_are_answers(client: Client, upstream: Upstream) -> None:
    made = client.make(config={"baseUrl": upstream.url})
    for status in (404, 500):
        done = client.execute(made["_id"], f"/status/{status}", "POST")
        assert (done.success, done.data) == (False, {"status": status, "response": {"status": status}})
    assert client.execute(made["_id"], "/text").data["response"]
    stats = client.api.get_usage_stats(client.project, made["_id"], period="day").stats
    assert (stats.total_calls, stats.success_calls, stats.failed_calls) == (3, 1, 2)
    whole = client.api.get_usage_stats(client.project, made["_id"]).stats
    assert whole.total_calls == 3
    client.api.delete_integration(client.project, made["_id"])


def test_an_integration_is_tried(client: Client, own: dict[str, Any]) -> None:
    tried = client.api.test_integration(client.project, own["_id"], mudbase.TestIntegrationRequest())
    assert (tried.success, tried.data["status"]) == (True, 200)
    request = mudbase.TestIntegrationRequest(endpoint="/x", method="GET", params={"a": 1})
    tried = client.api.test_integration(client.project, own["_id"], test_integration_request=request)
    assert tried.data["response"]["query"] == {"a": ["1"]}


def test_what_was_exported_is_imported(client: Client, own: dict[str, Any]) -> None:
    exported = client.api.export_integration(client.project, own["_id"]).integration
    assert exported["credentials"] == {}
    request = mudbase.ImportIntegrationRequest(integration_data=exported)
    imported = client.api.import_integration(client.project, request).integration
    assert (imported["name"], imported["config"]) == (own["name"], own["config"])
    assert imported["_id"] != own["_id"]
    client.api.delete_integration(client.project, imported["_id"])


def test_a_service_of_the_catalog_is_made_of_its_template_and_called(client: Client, emulate: Emulate) -> None:
    found = client.api.get_templates().templates or []
    assert len(found) == 50
    assert all(row.id and row.name and row.provider for row in found)
    request = mudbase.CreateFromTemplateRequest(template_id="github", credentials={"token": GITHUB_TOKEN}, name="Code")
    made = client.api.create_from_template(client.project, request).integration
    assert (made["name"], made["provider"]) == ("Code", "github")
    here = mudbase.UpdateIntegrationRequest(config={"baseUrl": emulate.github.url})
    client.api.update_integration(client.project, made["_id"], here)
    tried = client.api.test_integration(client.project, made["_id"], mudbase.TestIntegrationRequest())
    assert (tried.success, tried.data["response"]["login"]) == (True, LOGIN)
    name = f"raw-{uuid.uuid4().hex[:8]}"
    repo = client.execute(made["_id"], "/user/repos", "POST", body={"name": name, "auto_init": True})
    assert (repo.success, repo.data["status"]) == (True, 201)
    read = client.execute(made["_id"], f"{emulate.github.url}/repos/{LOGIN}/{name}")
    assert read.data["response"]["full_name"] == f"{LOGIN}/{name}"
    by_tool = client.execute(made["_id"], "get_repository", params={"repo": f"{LOGIN}/{name}"})
    assert by_tool.data["response"]["id"] == read.data["response"]["id"]
    assert client.execute(made["_id"], f"/repos/{LOGIN}/{name}", "DELETE").data == {"status": 204, "response": None}
    missing = client.execute(made["_id"], f"/repos/{LOGIN}/{name}")
    assert (missing.success, missing.data["status"]) == (False, 404)
    client.api.delete_integration(client.project, made["_id"])


def test_an_end_user_calls_and_does_not_administer(product: Product, upstream: Upstream) -> None:
    admin = Client(product, product.facts["api_key"])
    made = admin.make(config={"baseUrl": f"{upstream.url}/echo"}, credentials={"apiKey": KEY})
    user = Client(product, user_token(product))
    assert user.execute(made["_id"], "/x").success is True
    assert user.api.get_integration(user.project, made["_id"]).integration is not None
    assert user.api.get_templates().templates
    with pytest.raises(ForbiddenException):
        user.make(config={"baseUrl": upstream.url})
    with pytest.raises(ForbiddenException):
        user.api.delete_integration(user.project, made["_id"])
    admin.api.delete_integration(admin.project, made["_id"])


@pytest.mark.parametrize("endpoint", ["//evil.example/x", "http://evil.example/x", "/../x", "/%2e%2e/x"])
def test_a_fault_is_read_by_the_client(client: Client, own: dict[str, Any], endpoint: str) -> None:
    with pytest.raises(BadRequestException) as caught:
        client.execute(own["_id"], endpoint)
    error = read_by_client(caught)
    assert (error.code, error.path) == (
        "VALIDATION_ERROR", f"/api/integrations/projects/{client.project}/integrations/{own['_id']}/execute",
    )  # fmt: skip
    assert error.request_id
    assert error.timestamp is not None
    assert list(error.details.actual_instance) == ["endpoint"]


def test_a_forbidden_address_is_a_fault_that_the_client_reads(client: Client) -> None:
    with pytest.raises(BadRequestException) as caught:
        client.make(config={"baseUrl": "http://169.254.169.254/latest"})
    assert "config.baseUrl" in read_by_client(caught).details.actual_instance


@pytest.mark.parametrize("credential", ["jf_sk_none", "a.b.c"])
def test_a_wrong_credential_is_told_to_the_client(product: Product, credential: str) -> None:
    stranger = Client(product, credential)
    for call in (stranger.api.get_templates, lambda: stranger.api.get_integrations(stranger.project)):
        with pytest.raises(UnauthorizedException) as caught:
            call()
        assert read_by_client(caught).code == "UNAUTHORIZED"
        assert isinstance(read_by_client(caught).details.actual_instance, str)
