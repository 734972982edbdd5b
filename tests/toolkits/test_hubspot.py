"""HubSpot's tools, against what HubSpot documents: https://developers.hubspot.com/docs/api-reference/overview."""

import json
from datetime import datetime
from typing import Any

import pytest

from apps.toolkits.request import BadParameters, build_call
from tests.toolkits.driver import build_tool, load

API = "https://api.hubapi.com"
ACTIVE = {"propertyName": "lifecyclestage", "operator": "EQ", "value": "customer"}
RECENT = {"propertyName": "createdate", "operator": "GTE", "value": "2030-01-01"}
CALLS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "list_contacts": (
        {
            "limit": 100,
            "after": "33",
            "properties": ["email", "firstname"],
            "associations": ["companies"],
            "archived": False,
        },
        "GET /crm/v3/objects/contacts"
        "?limit=100&after=33&properties=email%2Cfirstname&associations=companies&archived=false",
        None,
    ),
    "get_contact": (
        {"contact_id": "jane+1@example.com", "id_property": "email", "properties": ["phone"]},
        "GET /crm/v3/objects/contacts/jane%2B1%40example.com?idProperty=email&properties=phone",
        None,
    ),
    "search_contacts": (
        {
            "query": "jane",
            "filters": [ACTIVE],
            "sorts": [{"propertyName": "createdate", "direction": "DESCENDING"}],
            "properties": ["email"],
            "limit": 200,
            "after": "200",
        },
        "POST /crm/v3/objects/contacts/search",
        {
            "query": "jane",
            "filterGroups": [{"filters": [ACTIVE]}],
            "sorts": [{"propertyName": "createdate", "direction": "DESCENDING"}],
            "properties": ["email"],
            "limit": 200,
            "after": "200",
        },
    ),
    "create_contact": (
        {
            "email": "jane@example.com",
            "first_name": "Jane",
            "last_name": "Doe",
            "job_title": "CEO",
            "owner_id": "7",
            "lifecycle_stage": "lead",
            "properties": {"favourite_food": "soup"},
            "associations": [
                {"to": {"id": "9"}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 279}]}
            ],
        },
        "POST /crm/v3/objects/contacts",
        {
            "properties": {
                "favourite_food": "soup",
                "email": "jane@example.com",
                "firstname": "Jane",
                "lastname": "Doe",
                "jobtitle": "CEO",
                "hubspot_owner_id": "7",
                "lifecyclestage": "lead",
            },
            "associations": [
                {"to": {"id": "9"}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 279}]}
            ],
        },
    ),
    "update_contact": (
        {"contact_id": "1", "phone": ""},
        "PATCH /crm/v3/objects/contacts/1",
        {"properties": {"phone": ""}},
    ),
    "archive_contact": ({"contact_id": "1"}, "DELETE /crm/v3/objects/contacts/1", None),
    "list_companies": ({"limit": 1}, "GET /crm/v3/objects/companies?limit=1", None),
    "get_company": ({"company_id": "2"}, "GET /crm/v3/objects/companies/2", None),
    "search_companies": (
        {"filter_groups": [{"filters": [ACTIVE]}, {"filters": [RECENT]}]},
        "POST /crm/v3/objects/companies/search",
        {"filterGroups": [{"filters": [ACTIVE]}, {"filters": [RECENT]}]},
    ),
    "create_company": (
        {
            "name": "Acme",
            "domain": "acme.example",
            "industry": "COMPUTER_SOFTWARE",
            "city": "Berlin",
            "country": "Germany",
        },
        "POST /crm/v3/objects/companies",
        {
            "properties": {
                "name": "Acme",
                "domain": "acme.example",
                "industry": "COMPUTER_SOFTWARE",
                "city": "Berlin",
                "country": "Germany",
            }
        },
    ),
    "update_company": (
        {"company_id": "2", "properties": {"website": "https://acme.example"}},
        "PATCH /crm/v3/objects/companies/2",
        {"properties": {"website": "https://acme.example"}},
    ),
    "list_deals": ({}, "GET /crm/v3/objects/deals", None),
    "get_deal": (
        {"deal_id": "3", "associations": ["contacts", "companies"]},
        "GET /crm/v3/objects/deals/3?associations=contacts%2Ccompanies",
        None,
    ),
    "search_deals": ({}, "POST /crm/v3/objects/deals/search", {}),
    "create_deal": (
        {
            "name": "Big one",
            "stage": "appointmentscheduled",
            "pipeline": "default",
            "amount": "1500.50",
            "close_date": "2030-12-07T16:50:06.678Z",
        },
        "POST /crm/v3/objects/deals",
        {
            "properties": {
                "dealname": "Big one",
                "dealstage": "appointmentscheduled",
                "pipeline": "default",
                "amount": "1500.50",
                "closedate": "2030-12-07T16:50:06.678Z",
            }
        },
    ),
    "update_deal": (
        {"deal_id": "3", "stage": "closedwon"},
        "PATCH /crm/v3/objects/deals/3",
        {"properties": {"dealstage": "closedwon"}},
    ),
    "get_ticket": ({"ticket_id": "4"}, "GET /crm/v3/objects/tickets/4", None),
    "search_tickets": ({"query": "login"}, "POST /crm/v3/objects/tickets/search", {"query": "login"}),
    "create_ticket": (
        {"subject": "Cannot log in", "stage": "1", "pipeline": "0", "content": "Since Monday.", "priority": "HIGH"},
        "POST /crm/v3/objects/tickets",
        {
            "properties": {
                "subject": "Cannot log in",
                "hs_pipeline_stage": "1",
                "hs_pipeline": "0",
                "content": "Since Monday.",
                "hs_ticket_priority": "HIGH",
            }
        },
    ),
    "update_ticket": (
        {"ticket_id": "4", "stage": "4"},
        "PATCH /crm/v3/objects/tickets/4",
        {"properties": {"hs_pipeline_stage": "4"}},
    ),
    "create_note": (
        {"body": "Met.", "timestamp": "2030-01-01T10:00:00Z", "contact_ids": ["1", "5"], "deal_ids": ["3"]},
        "POST /crm/v3/objects/notes",
        {
            "properties": {"hs_note_body": "Met.", "hs_timestamp": "2030-01-01T10:00:00Z"},
            "associations": [
                {"to": {"id": "1"}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 202}]},
                {"to": {"id": "5"}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 202}]},
                {"to": {"id": "3"}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 214}]},
            ],
        },
    ),
    "create_task": (
        {
            "subject": "Call back",
            "due": "2030-01-01T10:00:00Z",
            "priority": "HIGH",
            "type": "CALL",
            "company_ids": ["2"],
            "ticket_ids": ["4"],
        },
        "POST /crm/v3/objects/tasks",
        {
            "properties": {
                "hs_task_subject": "Call back",
                "hs_timestamp": "2030-01-01T10:00:00Z",
                "hs_task_priority": "HIGH",
                "hs_task_type": "CALL",
                "hs_task_status": "NOT_STARTED",
            },
            "associations": [
                {"to": {"id": "2"}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 192}]},
                {"to": {"id": "4"}, "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 230}]},
            ],
        },
    ),
    "search_records": (
        {"object_type": "2-456", "filters": [RECENT]},
        "POST /crm/v3/objects/2-456/search",
        {"filterGroups": [{"filters": [RECENT]}]},
    ),
    "link_records": (
        {"from_object_type": "contacts", "from_id": "1", "to_object_type": "companies", "to_id": "2"},
        "PUT /crm/v4/objects/contacts/1/associations/default/companies/2",
        None,
    ),
    "list_linked_records": (
        {"object_type": "contacts", "object_id": "1", "to_object_type": "deals", "limit": 500},
        "GET /crm/v4/objects/contacts/1/associations/deals?limit=500",
        None,
    ),
    "list_owners": ({"email": "bob@example.com"}, "GET /crm/v3/owners/?email=bob%40example.com", None),
    "list_pipelines": ({"object_type": "deals"}, "GET /crm/v3/pipelines/deals", None),
    "list_properties": ({"object_type": "contacts"}, "GET /crm/v3/properties/contacts", None),
}


@pytest.mark.parametrize("slug", CALLS)
def test_a_call_becomes_the_request_that_hubspot_documents(slug: str) -> None:
    params, line, body = CALLS[slug]
    method, _, target = line.partition(" ")
    request = build_tool("hubspot", slug, params)
    assert (request.method, request.full_url) == (method, API + target)
    if body is None:
        assert request.body is None
    else:
        assert request.headers["Content-Type"] == "application/json"
        assert json.loads(request.body or b"") == body


def test_every_tool_is_among_the_calls() -> None:
    assert set(CALLS) == set(load("hubspot").tools_by_slug)


def test_conditions_given_beside_groups_join_each_group() -> None:
    params = {"filters": [RECENT], "filter_groups": [{"filters": [ACTIVE]}, {"filters": []}]}
    with pytest.raises(BadParameters):  # an empty group
        build_tool("hubspot", "search_contacts", params)
    params["filter_groups"] = [{"filters": [ACTIVE]}, {"filters": [RECENT]}]
    body = json.loads(build_tool("hubspot", "search_contacts", params).body or b"")
    assert body == {"filterGroups": [{"filters": [ACTIVE, RECENT]}, {"filters": [RECENT, RECENT]}]}


@pytest.mark.parametrize("params", [{}, {"phone": "1"}, {"unknown": "x"}])
def test_a_contact_needs_a_name_or_an_address(params: dict[str, Any]) -> None:
    with pytest.raises(BadParameters):
        build_tool("hubspot", "create_contact", params)


@pytest.mark.parametrize(("slug", "needed"), [("create_note", {"body": "Met."}), ("create_task", {"subject": "Call"})])
def test_what_has_no_time_is_put_at_now(slug: str, needed: dict[str, str]) -> None:
    body = json.loads(build_tool("hubspot", slug, needed).body or b"")
    stamp = datetime.fromisoformat(body["properties"]["hs_timestamp"])
    assert abs((datetime.now(stamp.tzinfo) - stamp).total_seconds()) < 60
    assert "associations" not in body


def test_the_record_given_is_not_changed_by_building_its_request() -> None:
    params = {"email": "jane@example.com", "properties": {"city": "Berlin"}}
    build_tool("hubspot", "create_contact", params)
    assert params == {"email": "jane@example.com", "properties": {"city": "Berlin"}}


def test_an_id_cannot_reach_another_path() -> None:
    request = build_tool("hubspot", "archive_contact", {"contact_id": "1/../../owners"})
    assert request.url == f"{API}/crm/v3/objects/contacts/1%2F..%2F..%2Fowners"
    with pytest.raises(BadParameters):
        build_tool("hubspot", "archive_contact", {"contact_id": ".."})


def test_only_what_may_be_done_twice_is_retried() -> None:
    tools = load("hubspot").tools_by_slug
    assert {slug for slug, tool in tools.items() if not tool.is_idempotent} == {
        "create_contact", "create_company", "create_deal", "create_ticket", "create_note", "create_task",
    }  # fmt: skip


def test_connecting_uses_the_endpoints_that_stay() -> None:
    toolkit = load("hubspot")
    scheme = toolkit.auth_by_type["oauth2"]
    assert scheme.token_url == "https://api.hubapi.com/oauth/2026-03/token"
    assert scheme.revocation_url == "https://api.hubapi.com/oauth/2026-03/token/revoke"
    assert scheme.client_auth == "client_secret_post"
    assert "oauth" in scheme.scopes
    assert toolkit.profile is not None
    assert build_call(toolkit, toolkit.profile, {}).full_url == f"{API}/account-info/v3/details"
