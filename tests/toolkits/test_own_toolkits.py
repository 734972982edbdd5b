"""Toolkits of a project's own: PUT, GET, DELETE /v1/{appId}/toolkits/{slug}."""

from __future__ import annotations

import copy
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection

from apps.connections import access
from apps.connections.models import Integration
from apps.toolkits import registry
from apps.toolkits.models import OwnToolkit
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Toolkit
from apps.workspaces.models import AuditEvent, Project
from tests.api.shop import fails
from tests.cast import Cast
from tests.peers.upstream import Upstream

pytestmark = pytest.mark.django_db

WAREHOUSE: dict[str, Any] = {
    "name": "Warehouse",
    "base_url": "https://warehouse.example/api",
    "auth": [{"type": "api_key", "placement": {"in": "header", "name": "X-Key"}}],
    "test": {"path": "/me"},
    "tools": [
        {
            "slug": "get_item",
            "name": "Get an item",
            "description": "Reads one item.",
            "method": "GET",
            "path": "/echo",
            "parameters": {"id": {"in": "query", "type": "string", "required": True}},
        }
    ],
}


def succeeds(response: Any, status: int = 200) -> Any:
    assert response.status_code == status, response.content[:500]
    return response.json()


def warehouse(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(WAREHOUSE) | changes


def test_a_toolkit_of_ones_own_is_found_configured_and_run(cast: Cast, upstream: Upstream, settings: Any) -> None:
    settings.JACKFIELD_EGRESS_ALLOW = "127.0.0.0/8"
    row = succeeds(cast.api.call("PUT", "toolkits/warehouse", warehouse(base_url=upstream.url)))
    assert row["slug"] == "warehouse"
    found = succeeds(cast.api.get("integrations/available?search=wareh"))["integrations"]
    assert [one["toolkit"] for one in found] == ["warehouse"]
    succeeds(cast.api.post("integrations/configure", {"toolkit": "warehouse"}))
    tools = succeeds(cast.api.get("integrations/tools"))["tools"]
    assert [tool["name"] for tool in tools] == ["WAREHOUSE_GET_ITEM"]
    body = {"toolkit": "warehouse", "userId": "u1", "credentials": {"apiKey": "k-123"}, "verify": False}
    succeeds(cast.api.post("integrations/connections/import", body), 201)
    call = {"toolName": "WAREHOUSE_GET_ITEM", "params": {"id": "7"}, "userId": "u1"}
    answer = succeeds(cast.api.post("integrations/execute", call))
    assert answer["data"]["headers"]["x-key"] == "k-123"


def test_a_change_is_seen_at_once(cast: Cast) -> None:
    succeeds(cast.api.call("PUT", "toolkits/warehouse", warehouse()))
    changed = warehouse(name="Depot")
    succeeds(cast.api.call("PUT", "toolkits/warehouse", changed))
    assert succeeds(cast.api.get("toolkits/warehouse"))["toolkit"] == changed
    (found,) = succeeds(cast.api.get("integrations/available?search=depot"))["integrations"]
    assert found["displayName"] == "Depot"
    assert Project.objects.get(pk=cast.project.pk).toolkits_version == 2
    actions = list(
        AuditEvent.objects.filter(target="warehouse").order_by("created_at").values_list("action", flat=True)
    )
    assert actions == ["toolkit.added", "toolkit.changed"]


def test_nobody_elses_project_has_it(cast: Cast) -> None:
    succeeds(cast.api.call("PUT", "toolkits/warehouse", warehouse()))
    other = cast.foreign.__class__(cast.foreign_project, cast.foreign_key)
    fails(other.get("toolkits/warehouse"), 404, "RESOURCE_NOT_FOUND")
    fails(other.post("integrations/configure", {"toolkit": "warehouse"}), 404, "RESOURCE_NOT_FOUND")
    assert succeeds(other.get("integrations/available?search=warehouse"))["integrations"] == []
    fails(cast.foreign.call("PUT", "toolkits/warehouse", warehouse()), 404, "RESOURCE_NOT_FOUND")


def test_one_that_is_deleted_is_off_and_gone(cast: Cast) -> None:
    succeeds(cast.api.call("PUT", "toolkits/warehouse", warehouse()))
    succeeds(cast.api.post("integrations/configure", {"toolkit": "warehouse"}))
    assert cast.api.delete("toolkits/warehouse").status_code == 204
    assert not Integration.objects.get(project=cast.project, toolkit="warehouse").enabled
    assert succeeds(cast.api.get("integrations/config"))["integrations"] == []
    fails(cast.api.delete("toolkits/warehouse"), 404, "RESOURCE_NOT_FOUND")
    fails(cast.api.get("toolkits/warehouse"), 404, "RESOURCE_NOT_FOUND")


def test_a_slug_of_the_catalog_is_taken(cast: Cast) -> None:
    fails(cast.api.call("PUT", "toolkits/github", warehouse()), 409, "REQUEST_CONFLICT")


def test_every_fault_is_named_by_its_place(cast: Cast) -> None:
    document = warehouse(curated=1, colour="red")
    document["tools"][0]["method"] = "STEAL"
    error = fails(cast.api.call("PUT", "toolkits/warehouse", document), 400, "VALIDATION_INVALID_SCHEMA")
    assert {"colour", "tools.0.method"} <= set(error["details"])
    assert not OwnToolkit.objects.exists()


@pytest.mark.parametrize(
    ("change", "place"),
    [
        pytest.param({"tools": [WAREHOUSE["tools"][0] | {"hook": "build"}]}, "tools.get_item.hook", id="hook"),
        pytest.param({"curated": 1}, "curated", id="curated"),
        pytest.param({"logo": "../../etc/passwd"}, "logo", id="logo"),
        pytest.param({"slug": "other"}, "slug", id="slug"),
        pytest.param(
            {"tools": [WAREHOUSE["tools"][0] | {"output": {"$ref": "file:///etc/passwd"}}]},
            "tools.get_item.output",
            id="ref",
        ),
    ],
)
def test_what_only_the_installations_files_may_say_is_refused(cast: Cast, change: dict[str, Any], place: str) -> None:
    error = fails(cast.api.call("PUT", "toolkits/warehouse", warehouse(**change)), 400, "VALIDATION_INVALID_SCHEMA")
    assert place in error["details"], error


def test_a_reserved_slug_is_refused(cast: Cast) -> None:
    fails(cast.api.call("PUT", "toolkits/skills", warehouse()), 400, "VALIDATION_INVALID_SCHEMA")
    fails(cast.api.call("PUT", "toolkits/Not%20A%20Slug", warehouse()), 400, "VALIDATION_INVALID_SCHEMA")


def test_the_installations_secret_goes_to_no_toolkit_of_a_projects_own(cast: Cast, settings: Any) -> None:
    settings.JACKFIELD_PLATFORM_CLIENTS = {"warehouse": "platform:secret"}
    scheme = {"type": "oauth2", "authorization_url": "https://evil.example/a", "token_url": "https://evil.example/t"}
    succeeds(cast.api.call("PUT", "toolkits/warehouse", warehouse(auth=[scheme])))
    succeeds(cast.api.post("integrations/configure", {"toolkit": "warehouse"}))
    body = {"toolkit": "warehouse", "userId": "u1"}
    fails(cast.api.post("integrations/connect", body), 400, "INTEGRATIONS_NOT_CONFIGURED")
    assert access.platform_client("warehouse") is None


def test_a_file_goes_before_a_row_of_its_slug(cast: Cast) -> None:
    OwnToolkit.objects.create(project=cast.project, slug="github", document=warehouse(slug="github"))
    Project.objects.filter(pk=cast.project.pk).update(toolkits_version=1)
    project = Project.objects.get(pk=cast.project.pk)
    github = catalog(project).get("github")
    assert github is not None
    assert github.name == "GitHub"


GREEDY = "(([a-z0-9]+)+)+!"


def test_no_pattern_of_a_project_can_hold_a_process_up(cast: Cast) -> None:
    document = warehouse(
        auth=[{"type": "api_key", "pattern": GREEDY}],
        variables={"host": {"title": "Host", "pattern": GREEDY}},
    )
    document["tools"][0]["parameters"]["id"]["pattern"] = GREEDY
    succeeds(cast.api.call("PUT", "toolkits/warehouse", document))
    succeeds(cast.api.post("integrations/configure", {"toolkit": "warehouse"}))
    long = "a" * 10_000
    body = {"toolkit": "warehouse", "userId": "u1", "verify": False}
    refused = cast.api.post("integrations/connections/import", body | {"credentials": {"apiKey": long}})
    assert fails(refused, 400, "VALIDATION_INVALID_SCHEMA")["details"] == {
        "credentials.api_key": ["Does not look right."]
    }
    refused = cast.api.post(
        "integrations/connections/import", body | {"credentials": {"apiKey": "a!"}, "variables": {"host": long[:500]}}
    )
    assert fails(refused, 400, "VALIDATION_INVALID_SCHEMA")["details"] == {"variables.host": ["Does not look right."]}
    call = {"toolName": "WAREHOUSE_GET_ITEM", "params": {"id": long}, "userId": "u1"}
    assert "id" in str(fails(cast.api.post("integrations/execute", call), 400, "VALIDATION_INVALID_SCHEMA")["details"])


@pytest.mark.parametrize("pattern", ["(", "a)|(?:b", r"(a)\1", "(?=a)", "a{1000}{1000}"], ids=range(5))
@pytest.mark.parametrize("place", ["auth.api_key.api_key", "variables.host", "tools.get_item.parameters"])
def test_a_pattern_that_cannot_be_used_is_a_fault_of_the_description(cast: Cast, pattern: str, place: str) -> None:
    document = warehouse(variables={"host": {"title": "Host", "pattern": "a"}})
    if place.startswith("auth"):
        document["auth"][0]["pattern"] = pattern
    elif place.startswith("variables"):
        document["variables"]["host"]["pattern"] = pattern
    else:
        document["tools"][0]["parameters"]["id"]["pattern"] = pattern
    details = fails(cast.api.call("PUT", "toolkits/warehouse", document), 400, "VALIDATION_INVALID_SCHEMA")["details"]
    assert [key.removesuffix(".pattern") for key in details] == [place]


def test_a_project_cannot_have_the_same_thing_checked_a_billion_times(cast: Cast) -> None:
    chain: dict[str, Any] = {f"d{at}": {"allOf": [{"$ref": f"#/properties/d{at + 1}"}] * 2} for at in range(30)}
    document = warehouse()
    document["tools"][0]["parameters"] = {
        name: {"in": "query", **schema} for name, schema in {**chain, "d30": {"type": "string"}}.items()
    }
    details = fails(cast.api.call("PUT", "toolkits/warehouse", document), 400, "VALIDATION_INVALID_SCHEMA")["details"]
    assert list(details) == ["tools.get_item.parameters"]


def test_links_of_a_project_lead_to_pages_and_nowhere_else(cast: Cast) -> None:
    document = warehouse(docs_url="javascript:alert(1)", app_registration_url="data:text/html,x")
    document["tools"][0]["docs_url"] = "javascript:alert(1)"
    details = fails(cast.api.call("PUT", "toolkits/warehouse", document), 400, "VALIDATION_INVALID_SCHEMA")["details"]
    assert sorted(details) == ["app_registration_url", "docs_url", "tools.get_item.docs_url"]


def test_a_projects_toolkits_are_bounded_together(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.toolkits.services.MOST_TEXT", 1500)
    succeeds(cast.api.call("PUT", "toolkits/warehouse", warehouse(description="x" * 700)))
    succeeds(cast.api.call("PUT", "toolkits/warehouse", warehouse(description="y" * 700)))
    details = fails(
        cast.api.call("PUT", "toolkits/depot", warehouse(description="x" * 700)), 400, "VALIDATION_INVALID_SCHEMA"
    )
    assert list(details["details"]) == ["body"]
    assert [row.slug for row in OwnToolkit.objects.all()] == ["warehouse"]


@pytest.mark.django_db(transaction=True)
def test_of_many_threads_one_reads_a_projects_toolkits(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeds(cast.api.call("PUT", "toolkits/warehouse", warehouse()))
    cast.project.refresh_from_db()
    read: list[Any] = []

    def parse(data: Any) -> Any:
        read.append(data)
        time.sleep(0.2)
        return Toolkit.model_validate(data), []

    monkeypatch.setattr(registry, "parse", parse)
    catalog()
    registry._of_project.cache_clear()

    def look() -> None:
        assert catalog(cast.project).get("warehouse") is not None
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(look) for _ in range(8)]:
            future.result()
    assert len(read) == 1


@pytest.mark.parametrize("name", ["scheme", "another", "csrfmiddlewaretoken"])
def test_a_credential_is_not_named_as_the_form_names_its_own(cast: Cast, name: str) -> None:
    scheme = {"type": "custom", "fields": [{"name": name, "title": "Word"}], "headers": {"X-Word": f"{{{name}}}"}}
    answer = cast.api.call("PUT", "toolkits/warehouse", warehouse(auth=[scheme]))
    details = fails(answer, 400, "VALIDATION_INVALID_SCHEMA")["details"]
    assert list(details) == [f"auth.custom.{name}"]
