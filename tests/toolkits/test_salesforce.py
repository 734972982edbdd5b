"""Salesforce's tools, against what Salesforce documents: https://developer.salesforce.com/docs/atlas.en-us.api_rest.meta/."""

import json
import re
from typing import Any

import pytest

from apps.toolkits import hooks
from apps.toolkits.request import BadParameters, Request, build, build_call, check_parameters, fill
from tests.toolkits.driver import load

SERVER = "https://acme.my.salesforce.com"
VARIABLES = {"instance_url": SERVER, "api_version": "v62.0", "login_host": "login.salesforce.com"}
ID = "001D000000IqhSLIAZ"
CALLS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "query": (
        {"q": "SELECT Id FROM Account WHERE Name = 'A & B'"},
        "GET /services/data/v62.0/query?q=SELECT%20Id%20FROM%20Account%20WHERE%20Name%20%3D%20%27A%20%26%20B%27",
        None,
    ),
    "query_more": (
        {"locator": "/services/data/v62.0/query/01gD0000002HU6KIAW-2000"},
        "GET /services/data/v62.0/query/01gD0000002HU6KIAW-2000",
        None,
    ),
    "search": ({"q": "FIND {Acme}"}, "GET /services/data/v62.0/search?q=FIND%20%7BAcme%7D", None),
    "search_text": (
        {"text": "Acme", "objects": ["Account", "Contact"], "fields": ["Id", "Name"], "where": "NAME", "limit": 10},
        "POST /services/data/v62.0/parameterizedSearch",
        {
            "q": "Acme",
            "fields": ["Id", "Name"],
            "in": "NAME",
            "overallLimit": 10,
            "sobjects": [{"name": "Account"}, {"name": "Contact"}],
        },
    ),
    "list_objects": ({}, "GET /services/data/v62.0/sobjects", None),
    "describe_object": ({"object": "Invoice__c"}, "GET /services/data/v62.0/sobjects/Invoice__c/describe", None),
    "get_record": (
        {"object": "Account", "record_id": ID, "fields": ["Name", "Owner.Name"]},
        f"GET /services/data/v62.0/sobjects/Account/{ID}?fields=Name%2COwner.Name",
        None,
    ),
    "get_record_by_external_id": (
        {"object": "Account", "field": "Ext__c", "value": "a/b 1"},
        "GET /services/data/v62.0/sobjects/Account/Ext__c/a%2Fb%201",
        None,
    ),
    "create_record": (
        {"object": "Account", "values": {"Name": "Acme", "NumberOfEmployees": 5}},
        "POST /services/data/v62.0/sobjects/Account",
        {"Name": "Acme", "NumberOfEmployees": 5},
    ),
    "create_records": (
        {"object": "Account", "records": [{"Name": "A"}, {"Name": "B"}], "all_or_none": True},
        "POST /services/data/v62.0/composite/sobjects",
        {
            "allOrNone": True,
            "records": [
                {"attributes": {"type": "Account"}, "Name": "A"},
                {"attributes": {"type": "Account"}, "Name": "B"},
            ],
        },
    ),
    "update_record": (
        {"object": "Account", "record_id": ID, "values": {"Phone": None}},
        f"PATCH /services/data/v62.0/sobjects/Account/{ID}",
        {"Phone": None},
    ),
    "upsert_record": (
        {"object": "Account", "field": "Ext__c", "value": "11999", "values": {"Name": "Acme"}},
        "PATCH /services/data/v62.0/sobjects/Account/Ext__c/11999",
        {"Name": "Acme"},
    ),
    "delete_record": (
        {"object": "Account", "record_id": ID},
        f"DELETE /services/data/v62.0/sobjects/Account/{ID}",
        None,
    ),
    "create_lead": (
        {
            "last_name": "Doe",
            "company": "Acme",
            "email": "jane@example.com",
            "source": "Web",
            "values": {"Rating": "Hot"},
        },
        "POST /services/data/v62.0/sobjects/Lead",
        {"Rating": "Hot", "LastName": "Doe", "Company": "Acme", "Email": "jane@example.com", "LeadSource": "Web"},
    ),
    "create_contact": (
        {"last_name": "Doe", "first_name": "Jane", "account_id": ID},
        "POST /services/data/v62.0/sobjects/Contact",
        {"LastName": "Doe", "FirstName": "Jane", "AccountId": ID},
    ),
    "create_account": (
        {"name": "Acme", "website": "https://acme.example"},
        "POST /services/data/v62.0/sobjects/Account",
        {"Name": "Acme", "Website": "https://acme.example"},
    ),
    "create_opportunity": (
        {"name": "Big one", "stage": "Prospecting", "close_date": "2030-12-31", "amount": 1500.5},
        "POST /services/data/v62.0/sobjects/Opportunity",
        {"Name": "Big one", "StageName": "Prospecting", "CloseDate": "2030-12-31", "Amount": 1500.5},
    ),
    "create_case": (
        {"subject": "Cannot log in", "contact_id": ID, "priority": "High", "origin": "Web"},
        "POST /services/data/v62.0/sobjects/Case",
        {"Subject": "Cannot log in", "ContactId": ID, "Priority": "High", "Origin": "Web"},
    ),
    "create_task": (
        {"subject": "Call", "due_date": "2030-01-31", "who_id": ID, "what_id": ID},
        "POST /services/data/v62.0/sobjects/Task",
        {"Subject": "Call", "ActivityDate": "2030-01-31", "WhoId": ID, "WhatId": ID},
    ),
    "post_to_feed": (
        {"subject_id": "me", "text": "Hello", "segments": [{"type": "Mention", "id": "005D00000016Qxp"}]},
        "POST /services/data/v62.0/chatter/feed-elements",
        {
            "feedElementType": "FeedItem",
            "subjectId": "me",
            "body": {
                "messageSegments": [{"type": "Text", "text": "Hello"}, {"type": "Mention", "id": "005D00000016Qxp"}]
            },
        },
    ),
    "list_recent_records": ({"limit": 5}, "GET /services/data/v62.0/recent?limit=5", None),
    "list_reports": ({}, "GET /services/data/v62.0/analytics/reports", None),
    "run_report": (
        {"report_id": "00OD0000001ZbNHMA0", "include_details": True},
        "GET /services/data/v62.0/analytics/reports/00OD0000001ZbNHMA0?includeDetails=true",
        None,
    ),
    "get_limits": ({}, "GET /services/data/v62.0/limits", None),
    "get_current_user": ({}, "GET /services/oauth2/userinfo", None),
}


def request_of(slug: str, params: dict[str, Any]) -> Request:
    toolkit = load("salesforce")
    tool = toolkit.tools_by_slug[slug]
    check_parameters(tool, params)
    placed = hooks.find("salesforce", tool.hook)(dict(params)) if tool.hook else params
    return build(toolkit, tool, placed, VARIABLES)


@pytest.mark.parametrize("slug", CALLS)
def test_a_call_becomes_the_request_that_salesforce_documents(slug: str) -> None:
    params, line, body = CALLS[slug]
    method, _, target = line.partition(" ")
    request = request_of(slug, params)
    assert (request.method, request.full_url) == (method, SERVER + target)
    if body is None:
        assert request.body is None
    else:
        assert request.headers["Content-Type"] == "application/json"
        assert json.loads(request.body or b"") == body


def test_every_tool_is_among_the_calls() -> None:
    assert set(CALLS) == set(load("salesforce").tools_by_slug)


@pytest.mark.parametrize(
    ("slug", "params"),
    [
        ("get_record", {"object": "Account/../User", "record_id": ID}),
        ("get_record", {"object": "Account", "record_id": "../describe"}),
        ("describe_object", {"object": ".."}),
        ("query_more", {"locator": "/services/data/v62.0/.."}),
        ("create_records", {"object": "Account", "records": [{}] * 201}),
        ("create_opportunity", {"name": "A", "stage": "B", "close_date": "tomorrow"}),
        ("update_record", {"object": "Account", "record_id": ID, "values": {}}),
    ],
)
def test_what_salesforce_would_not_take_is_not_sent(slug: str, params: dict[str, Any]) -> None:
    with pytest.raises(BadParameters):
        request_of(slug, params)


def test_the_values_given_are_not_changed_by_building_a_request() -> None:
    params = {"name": "Acme", "values": {"Rating": "Hot"}}
    request_of("create_account", params)
    assert params == {"name": "Acme", "values": {"Rating": "Hot"}}


def test_a_record_cannot_say_that_it_is_of_another_kind() -> None:
    request = request_of(
        "create_records", {"object": "Account", "records": [{"attributes": {"type": "User"}, "Name": "A"}]}
    )
    assert json.loads(request.body or b"")["records"] == [{"attributes": {"type": "Account"}, "Name": "A"}]


def test_the_server_comes_from_the_token_answer() -> None:
    variable = load("salesforce").variables["instance_url"]
    assert (variable.source, variable.pointer) == ("token", "/instance_url")


@pytest.mark.parametrize(
    ("url", "is_salesforce"),
    [
        (SERVER, True),
        ("https://acme--dev.sandbox.my.salesforce.com", True),
        ("https://na139.salesforce.com", True),
        ("https://acme.my.salesforce.mil", True),
        ("http://acme.my.salesforce.com", False),
        ("https://salesforce.com.evil.example", False),
        ("https://evilsalesforce.com", False),
        ("https://evil.example/acme.my.salesforce.com", False),
        ("https://evil.example#.salesforce.com", False),
        ("https://user@acme.my.salesforce.com", False),
        ("https://acme.my.salesforce.com/x", False),
        ("https://acme.my.salesforce.com\n", False),
    ],
)
def test_a_token_is_sent_to_salesforce_only(url: str, is_salesforce: bool) -> None:
    pattern = load("salesforce").variables["instance_url"].pattern
    assert pattern is not None
    assert bool(re.fullmatch(pattern, url)) is is_salesforce


@pytest.mark.parametrize(
    ("host", "is_salesforce"),
    [
        ("login.salesforce.com", True),
        ("test.salesforce.com", True),
        ("acme.my.site.com", True),
        ("evil.example", False),
        ("evil.example/.salesforce.com", False),
        ("login.salesforce.com:444", False),
    ],
)
def test_people_sign_in_at_salesforce_only(host: str, is_salesforce: bool) -> None:
    pattern = load("salesforce").variables["login_host"].pattern
    assert pattern is not None
    assert bool(re.fullmatch(pattern, host)) is is_salesforce


def test_connecting_goes_to_the_login_host_of_the_project() -> None:
    toolkit = load("salesforce")
    scheme = toolkit.auth_by_type["oauth2"]
    assert toolkit.variables["login_host"].default == "login.salesforce.com"
    for url, path in [
        (scheme.authorization_url, "authorize"),
        (scheme.token_url, "token"),
        (scheme.revocation_url, "revoke"),
    ]:
        assert (
            fill(url, VARIABLES | {"login_host": "test.salesforce.com"})
            == f"https://test.salesforce.com/services/oauth2/{path}"
        )
    assert scheme.pkce
    assert {"api", "refresh_token"} <= set(scheme.scopes)
    assert scheme.token.default_lifetime == 7200
    assert toolkit.profile is not None
    assert build_call(toolkit, toolkit.profile, VARIABLES).full_url == f"{SERVER}/services/oauth2/userinfo"
