"""POST execute and GET tools: success, the order of checks, what becomes of every answer, and where parameters end up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.utils import timezone

from apps.connections.models import Connection
from apps.toolkits.registry import catalog
from apps.toolkits.spec import Toolkit
from apps.workspaces.models import Plan
from tests.api.shop import Shop, fails
from tests.cast import Cast, connect, enable


def call(shop: Shop, tool: str, **params: Any) -> Any:
    return shop.api.post("integrations/execute", {"toolName": tool, "params": params, "userId": "u1"})


def seen(shop: Shop, tool: str, **params: Any) -> dict[str, Any]:
    """What the service got."""
    answer = call(shop, tool, **params)
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert body["successful"] is True
    data: dict[str, Any] = body["data"]
    return data


def faults(answer: Any) -> dict[str, list[str]]:
    details: Any = fails(answer, 400, "VALIDATION_INVALID_SCHEMA")["details"]
    return dict(details)


# -- success ---------------------------------------------------------------------------------------------------------
def test_execute_runs_the_tool_with_the_users_credentials(shop: Shop) -> None:
    answer = call(shop, "LAB_CREATE_ITEM", title="Hello")
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"successful", "data"}
    assert body["successful"] is True
    request = body["data"]
    assert (request["method"], request["path"], request["json"]) == ("POST", "/echo/items", {"title": "Hello"})
    assert request["headers"]["authorization"] == "Bearer at-1-secret"


@pytest.mark.parametrize("name", ["LAB_GET_ITEM", "lab.get_item", "lab_get_item"])
def test_a_tool_has_two_names(shop: Shop, name: str) -> None:
    assert seen(shop, name, id="7")["path"] == "/echo/items/7"


def test_each_user_has_their_own_credentials(shop: Shop) -> None:
    connect(shop.integration, "u2", access_token="at-of-u2")
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u2"}
    assert shop.api.post("integrations/execute", body).json()["data"]["headers"]["authorization"] == "Bearer at-of-u2"


def test_connection_id_chooses_among_a_users_accounts(shop: Shop) -> None:
    second = Connection.objects.get(pk=shop.connection.pk)
    second.pk, second.is_primary = "ca_second", False
    second.seal("credentials", {"access_token": "at-second"})
    second.save(force_insert=True)
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1"}
    for connection_id, token in ((None, "at-1-secret"), ("ca_second", "at-second")):
        chosen = body if connection_id is None else body | {"connectionId": connection_id}
        data = shop.api.post("integrations/execute", chosen).json()["data"]
        assert data["headers"]["authorization"] == f"Bearer {token}"


def test_a_user_never_gets_the_shared_account(shop: Shop) -> None:
    Connection.objects.update(end_user=None)
    fails(call(shop, "LAB_GET_ITEM", id="1"), 400, "INTEGRATIONS_NOT_CONNECTED")
    body = {"toolName": "LAB_GET_ITEM", "params": {"id": "1"}, "userId": "u1", "connectionId": shop.connection.pk}
    fails(shop.api.post("integrations/execute", body), 400, "INTEGRATIONS_NOT_CONNECTED")
    assert shop.upstream.count("/echo/items/1") == 0


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("list", list),
        ("text", str),
        ("html", str),
        ("broken-json", str),
        ("binary", dict),
        ("empty", type(None)),
        ("no-content", type(None)),
    ],
)
def test_whatever_kind_of_answer_comes_is_data(shop: Shop, kind: str, data: type) -> None:
    body = call(shop, "LAB_ANSWER", kind=kind).json()
    assert body["successful"] is True
    assert isinstance(body["data"], data)


# -- order -----------------------------------------------------------------------------------------------------------
def test_checked_are_body_tool_enabled_parameters_connection_quota_and_then_it_is_called(shop: Shop) -> None:
    plan = Plan.objects.create(name="Nothing", calls_per_minute=0)
    shop.cast.workspace.plan = plan
    shop.cast.workspace.save()
    shop.api.delete("integrations/configure/lab")
    api, path = shop.api, "integrations/execute"
    body: dict[str, Any] = {"toolName": "NO_SUCH", "params": [], "userId": "u9", "connectionId": "ca_wrong"}
    fails(api.post(path, body), 400, "VALIDATION_INVALID_SCHEMA")
    body["params"] = {"title": 5}
    error = fails(api.post(path, body), 422, "INTEGRATIONS_EXECUTION_FAILED")
    assert error["remediation"] == (
        "Check the tool name and parameters. Ensure the user has a connected account."  # the seed's words
    )
    body["toolName"] = "LAB_CREATE_ITEM"
    fails(api.post(path, body), 400, "INTEGRATIONS_TOOLKIT_NOT_ENABLED")
    api.post("integrations/configure", {"toolkit": "lab"})
    assert set(faults(api.post(path, body))) == {"params.title"}
    body["params"] = {"title": "x"}
    fails(api.post(path, body), 400, "INTEGRATIONS_NOT_CONNECTED")
    body |= {"userId": "u1"}
    fails(api.post(path, body), 400, "INTEGRATIONS_NOT_CONNECTED")
    del body["connectionId"]
    fails(api.post(path, body), 429, "QUOTA_RATE_LIMIT")
    assert shop.upstream.count("/echo/items") == 0
    plan.calls_per_minute = None
    plan.save()
    assert api.post(path, body).status_code == 200
    assert shop.upstream.count("/echo/items") == 1


def test_every_fault_of_the_body_is_named(shop: Shop) -> None:
    body = {"toolName": 5, "params": "x", "userId": 7, "connectionId": ["ca"]}
    assert set(faults(shop.api.post("integrations/execute", body))) == {"toolName", "params", "userId", "connectionId"}
    assert set(faults(shop.api.post("integrations/execute", {}))) == {"toolName", "userId"}


def test_every_fault_of_the_parameters_is_named(shop: Shop) -> None:
    found = faults(call(shop, "LAB_CREATE_ITEM", count="many", data=5, extra=1, other=2))
    assert set(found) == {"params.title", "params.count", "params.data", "params.extra", "params.other"}
    assert found["params.title"] == ["This field is required."]
    assert found["params.extra"] == ["Unknown parameter."]


# -- the provider's failures -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 418, 422, 429, 500, 503])
def test_the_providers_refusals_are_422_with_its_status_and_body(shop: Shop, status: int) -> None:
    Connection.objects.update(credentials=shop.connection.sealed("credentials", {"access_token": "at"}))
    error = fails(call(shop, "LAB_ANSWER", kind=f"status/{status}"), 422, "INTEGRATIONS_EXECUTION_FAILED")
    assert error["details"] == {"status": status, "body": {"status": status}}


def test_the_providers_retry_after_is_passed_on_not_waited_for(shop: Shop) -> None:
    started = timezone.now()
    answer = call(shop, "LAB_ANSWER", kind="status/429", after="3600")
    assert (answer.status_code, answer["Retry-After"]) == (422, "3600")
    assert (timezone.now() - started).total_seconds() < 2


@pytest.mark.parametrize(
    ("tool", "params"), [("LAB_HANG", {}), ("LAB_ANSWER", {"kind": "reset"}), ("LAB_ANSWER", {"kind": "big"})]
)
def test_without_a_whole_answer_it_is_502(shop: Shop, tool: str, params: dict[str, Any]) -> None:
    fails(call(shop, tool, **params), 502, "INTEGRATIONS_EXECUTION_FAILED")


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "[::ffff:10.0.0.1]", "0xA000001", "167772161"])
def test_a_private_address_is_not_called(shop: Shop, host: str) -> None:
    enable(shop.cast.project, "lab", f"http://{host}")
    error = fails(call(shop, "LAB_GET_ITEM", id="1"), 502, "INTEGRATIONS_EXECUTION_FAILED")
    assert error["message"] == "This address may not be called from here."


def test_a_connection_that_is_over_is_401_with_the_link(shop: Shop) -> None:
    Connection.objects.update(status="expired")
    error = fails(call(shop, "LAB_GET_ITEM", id="1"), 401, "INTEGRATIONS_CONNECTION_EXPIRED")
    details: Any = error["details"]
    assert details["connectionId"] == shop.connection.pk
    assert details["reconnectUrl"] in str(error["remediation"])


def test_an_account_of_a_kind_that_the_toolkit_lost_must_be_connected_anew(shop: Shop) -> None:
    Connection.objects.update(auth_type="basic")
    fails(call(shop, "LAB_GET_ITEM", id="1"), 400, "INTEGRATIONS_NOT_CONNECTED")


# -- parameters stay in their places ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "value",
    ["a/../../admin", "../x", "..;/x", "%2e%2e%2f", "a%2Fb", "a?b=c", "a#b", "a b", "a\r\nX-Evil: 1", "ä🙂", "a;b", "a\\..\\b",
     "@evil.example", "//evil.example", "...", "a\u0000b"],
)  # fmt: skip
def test_a_path_parameter_stays_one_segment(shop: Shop, value: str) -> None:
    for tool, before, after in (("LAB_GET_ITEM", "/echo/items/", ""), ("LAB_GET_PART", "/echo/items/", "/part")):
        request = seen(shop, tool, id=value)
        segment = request["path"].removeprefix(before).removesuffix(after)
        assert "/" not in segment
        assert segment == quoted(value)
        assert request["query"] == {}
        assert "x-evil" not in request["headers"]


def quoted(value: str) -> str:
    from urllib.parse import quote

    return quote(value, safe="")


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_a_path_parameter_is_not_empty_and_no_dots(shop: Shop, value: str) -> None:
    assert set(faults(call(shop, "LAB_GET_ITEM", id=value))) == {"params.id"}
    assert shop.upstream.requests() == []


@pytest.mark.parametrize("value", ["../x", "a/../b", "a//b", "/a", "a/", "a/./b", ".."])
def test_a_path_of_several_segments_cannot_climb(shop: Shop, value: str) -> None:
    assert set(faults(call(shop, "LAB_GET_FILE", path=value))) == {"params.path"}


def test_a_path_of_several_segments_keeps_its_slashes_only(shop: Shop) -> None:
    assert seen(shop, "LAB_GET_FILE", path="a/b c/d?e#f%2F..")["path"] == "/echo/files/a/b%20c/d%3Fe%23f%252F.."


@pytest.mark.parametrize("value", ["a&admin=1", "a#b", "a=b", "a+b c", "%26x=1", "a\r\nHost: evil", "ä🙂", "?x=1", ""])
def test_a_query_parameter_adds_no_other(shop: Shop, value: str) -> None:
    request = seen(shop, "LAB_GET_ITEM", id="1", q=value, tags=[value, "second"])
    assert request["query"] == {"q": [value], "tags": [value, "second"]}
    assert request["path"] == "/echo/items/1"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nX-Evil: 1", "a\rb", "a\u0000b", "a\u007fb"])
def test_a_header_value_takes_no_control_characters(shop: Shop, value: str) -> None:
    assert set(faults(call(shop, "LAB_GET_ITEM", id="1", note=value))) == {"params.note"}
    assert shop.upstream.requests() == []


def test_a_header_value_of_printable_text_arrives(shop: Shop) -> None:
    request = seen(shop, "LAB_GET_ITEM", id="1", note="X-Evil: 1; a, b")
    assert request["headers"]["x-note"] == "X-Evil: 1; a, b"
    assert "x-evil" not in request["headers"]


@pytest.mark.parametrize(
    "value", ['", "admin": true, "x": "', "\\", "\u0000", "\u2028</script>", "🙂", "\r\n\r\nGET / HTTP/1.1"]
)
def test_a_body_parameter_stays_one_text(shop: Shop, value: str) -> None:
    request = seen(shop, "LAB_CREATE_ITEM", title=value, data={value: [value]})
    assert request["json"] == {"title": value, "inner": {"data": {value: [value]}}}


@pytest.mark.parametrize("value", ["a&admin=1", "a=b", "a\r\n\r\nb", "%26", "🙂", "+"])
def test_a_form_parameter_adds_no_other(shop: Shop, value: str) -> None:
    from urllib.parse import parse_qs

    request = seen(shop, "LAB_SUBMIT", name=value)
    assert request["headers"]["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(request["body"], keep_blank_values=True) == {"name": [value]}


def test_a_multipart_file_cannot_open_a_part_of_its_own(shop: Shop) -> None:
    from email.parser import BytesParser

    evil = 'x"\r\nContent-Disposition: form-data; name="admin'
    file = {"filename": evil, "text": "--boundary\r\n\r\nx", "content_type": "text/plain"}
    request = seen(shop, "LAB_UPLOAD", title="a\r\n--b", file=file)
    head = f"Content-Type: {request['headers']['content-type']}\r\n\r\n".encode()
    parts: Any = BytesParser().parsebytes(head + request["body"].encode()).get_payload()
    assert [part.get_param("name", header="content-disposition") for part in parts] == ["title", "file"]
    found = call(shop, "LAB_UPLOAD", file=file | {"content_type": "text/plain\r\nX: y"})
    fails(found, 400, "VALIDATION_INVALID_SCHEMA")


def test_numbers_keep_every_digit_on_the_way_back(shop: Shop) -> None:
    number = 12345678901234567890123
    answer = call(shop, "LAB_CREATE_ITEM", title="x", data=[number, 1.10])
    assert str(number).encode() in answer.content


def test_a_service_that_nests_beyond_measure_breaks_nothing(shop: Shop) -> None:
    deep: Any = []
    for _ in range(60):
        deep = [deep]
    assert seen(shop, "LAB_CREATE_ITEM", title="x", data=deep)["json"]["inner"]["data"] == deep
    assert shop.executions()[-1].successful


# -- tools -----------------------------------------------------------------------------------------------------------
def test_tools_are_those_of_the_enabled_toolkits(shop: Shop) -> None:
    body = shop.api.get("integrations/tools").json()
    names = {row["name"] for row in body["tools"]}
    known = "GET_ITEM GET_PART GET_FILE CREATE_ITEM SUBMIT UPLOAD ANSWER HANG SLOW"
    assert names == {f"LAB_{name}" for name in known.split()}
    for row in body["tools"]:
        assert set(row) == {"name", "description", "parameters"}
        assert row["parameters"]["type"] == "object"
        assert isinstance(row["parameters"]["properties"], dict)
        assert isinstance(row["description"], str)


def test_tools_of_any_toolkit_of_the_catalog_are_listed_by_name(cast: Cast) -> None:
    assert cast.api.get("integrations/tools").json()["tools"] == []
    names = {row["name"] for row in cast.api.get("integrations/tools?toolkit=gmail").json()["tools"]}
    assert "GMAIL_SEND_EMAIL" in names
    assert all(name.startswith("GMAIL_") for name in names)
    calendar = cast.api.get("integrations/tools?toolkit=google-calendar").json()["tools"]
    assert "GOOGLECALENDAR_LIST_EVENTS" in {row["name"] for row in calendar}
    fails(cast.api.get("integrations/tools?toolkit=no-such"), 404, "RESOURCE_NOT_FOUND")


def test_tools_are_searched_by_words(cast: Cast) -> None:
    found = cast.api.get("integrations/tools?toolkit=gmail&search=SEND+email").json()["tools"]
    assert "GMAIL_SEND_EMAIL" in {row["name"] for row in found}
    assert cast.api.get("integrations/tools?toolkit=gmail&search=zzz").json()["tools"] == []


@pytest.mark.parametrize(
    ("form", "members", "schema_at"),
    [
        ("openai", {"type", "function"}, ("function", "parameters")),
        ("anthropic", {"name", "description", "input_schema"}, ("input_schema",)),
        ("mcp", {"name", "title", "description", "inputSchema", "annotations"}, ("inputSchema",)),
    ],
)
def test_tools_come_in_the_formats_of_others(
    shop: Shop, form: str, members: set[str], schema_at: tuple[str, ...]
) -> None:
    for row in shop.api.get(f"integrations/tools?format={form}").json()["tools"]:
        assert set(row) == members
        schema: Any = row
        for step in schema_at:
            schema = schema[step]
        assert schema["type"] == "object"
    openai = shop.api.get("integrations/tools?format=openai").json()["tools"][0]
    assert openai["type"] == "function"
    assert set(openai["function"]) == {"name", "description", "parameters"}


def test_an_unknown_format_is_named(shop: Shop) -> None:
    error = fails(shop.api.get("integrations/tools?format=xml"), 400, "VALIDATION_INVALID_SCHEMA")
    assert list(error["details"]) == ["format"]


def test_the_seeds_example_of_execute_is_valid_as_printed(cast: Cast) -> None:
    enable(cast.project, "gmail")
    body = json.loads(
        '{ "toolName": "GMAIL_SEND_EMAIL", "params": { "to": "x@y.com", "subject": "Hi", "body": "Hello" }, "userId": "uuid"}'
    )
    fails(cast.api.post("integrations/execute", body), 400, "INTEGRATIONS_NOT_CONNECTED")  # all before it is right


def test_a_403_names_the_scopes_that_the_user_did_not_grant(shop: Shop, lab: Toolkit) -> None:
    tool = lab.tools_by_slug["answer"].model_copy(update={"scopes": ["read", "delete"]})
    known = catalog().tools
    known["LAB_ANSWER"] = known["lab.answer"] = (lab, tool)
    Connection.objects.update(scopes=["read"])
    answer = shop.api.post(
        "integrations/execute", {"toolName": "LAB_ANSWER", "params": {"kind": "status/403"}, "userId": "u1"}
    )
    error = fails(answer, 422, "INTEGRATIONS_EXECUTION_FAILED")
    assert error["details"]["status"] == 403
    assert "needs delete" in error["remediation"]
    assert "/connect/" in error["remediation"]
