"""Google Sheets' requests, as Google's discovery document has them: no emulator serves Sheets."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from apps.toolkits.request import BadParameters, build_call
from tests.peers.emulate import EMAIL, Emulate
from tests.toolkits.driver import Service, build_tool, load
from tests.toolkits.google import connect

BASE = "https://sheets.googleapis.com/v4/spreadsheets"
BATCH = f"{BASE}/s1:batchUpdate"
ROWS = [["Name", "Age"], ["Ann", 30], [None, True]]


@pytest.fixture
def sheets(emulate: Emulate) -> Service:
    return connect(emulate, "google-sheets")


def faults_of(tool_slug: str, **params: Any) -> dict[str, list[str]]:
    with pytest.raises(BadParameters) as caught:
        build_tool("google-sheets", tool_slug, params)
    return caught.value.faults


TABLE: list[tuple[str, dict[str, Any], str, str, dict[str, list[str]], Any]] = [
    (
        "create_spreadsheet",
        {"title": "Plan", "locale": "en_US", "sheets": ["A", "B"]},
        "POST",
        BASE,
        {},
        {
            "properties": {"title": "Plan", "locale": "en_US"},
            "sheets": [{"properties": {"title": "A"}}, {"properties": {"title": "B"}}],
        },
    ),
    (
        "get_spreadsheet",
        {"spreadsheet_id": "s1", "ranges": ["A!A1", "B!B:B"], "include_grid_data": True},
        "GET",
        f"{BASE}/s1",
        {"ranges": ["A!A1", "B!B:B"], "includeGridData": ["true"]},
        None,
    ),
    (
        "read_values",
        {"spreadsheet_id": "s1", "range": "'My sheet/1'!A1:B", "value_render_option": "FORMULA"},
        "GET",
        f"{BASE}/s1/values/%27My%20sheet%2F1%27%21A1%3AB",
        {"valueRenderOption": ["FORMULA"]},
        None,
    ),
    (
        "read_ranges",
        {"spreadsheet_id": "s1", "ranges": ["A!A1", "B"], "major_dimension": "COLUMNS"},
        "GET",
        f"{BASE}/s1/values:batchGet",
        {"ranges": ["A!A1", "B"], "majorDimension": ["COLUMNS"]},
        None,
    ),
    (
        "write_values",
        {"spreadsheet_id": "s1", "range": "A1", "values": ROWS, "value_input_option": "USER_ENTERED"},
        "PUT",
        f"{BASE}/s1/values/A1",
        {"valueInputOption": ["USER_ENTERED"]},
        {"values": ROWS},
    ),
    (
        "write_ranges",
        {"spreadsheet_id": "s1", "value_input_option": "RAW", "data": [{"range": "A1", "values": [["x"]]}]},
        "POST",
        f"{BASE}/s1/values:batchUpdate",
        {},
        {"valueInputOption": "RAW", "data": [{"range": "A1", "values": [["x"]]}]},
    ),
    (
        "append_values",
        {
            "spreadsheet_id": "s1",
            "range": "Log!A:B",
            "values": ROWS,
            "value_input_option": "RAW",
            "insert_data_option": "INSERT_ROWS",
        },
        "POST",
        f"{BASE}/s1/values/Log%21A%3AB:append",
        {"valueInputOption": ["RAW"], "insertDataOption": ["INSERT_ROWS"]},
        {"values": ROWS},
    ),
    ("clear_values", {"spreadsheet_id": "s1", "range": "A1"}, "POST", f"{BASE}/s1/values/A1:clear", {}, None),
    (
        "clear_ranges",
        {"spreadsheet_id": "s1", "ranges": ["A1", "B2"]},
        "POST",
        f"{BASE}/s1/values:batchClear",
        {},
        {"ranges": ["A1", "B2"]},
    ),
    (
        "add_sheet",
        {"spreadsheet_id": "s1", "title": "New", "index": 0, "rows": 5, "columns": 2},
        "POST",
        BATCH,
        {},
        {
            "requests": [
                {
                    "addSheet": {
                        "properties": {
                            "title": "New",
                            "index": 0,
                            "gridProperties": {"rowCount": 5, "columnCount": 2},
                        }
                    }
                }
            ]
        },
    ),
    (
        "rename_sheet",
        {"spreadsheet_id": "s1", "sheet_id": 0, "title": "New"},
        "POST",
        BATCH,
        {},
        {"requests": [{"updateSheetProperties": {"properties": {"sheetId": 0, "title": "New"}, "fields": "title"}}]},
    ),
    (
        "delete_sheet",
        {"spreadsheet_id": "s1", "sheet_id": 7},
        "POST",
        BATCH,
        {},
        {"requests": [{"deleteSheet": {"sheetId": 7}}]},
    ),
    (
        "copy_sheet",
        {"spreadsheet_id": "s1", "sheet_id": 7, "destination_spreadsheet_id": "s2"},
        "POST",
        f"{BASE}/s1/sheets/7:copyTo",
        {},
        {"destinationSpreadsheetId": "s2"},
    ),
    (
        "insert_rows",
        {"spreadsheet_id": "s1", "sheet_id": 0, "start_index": 2, "count": 3},
        "POST",
        BATCH,
        {},
        {
            "requests": [
                {
                    "insertDimension": {
                        "range": {"sheetId": 0, "dimension": "ROWS", "startIndex": 2, "endIndex": 5},
                        "inheritFromBefore": False,
                    }
                }
            ]
        },
    ),
    (
        "delete_rows",
        {"spreadsheet_id": "s1", "sheet_id": 0, "start_index": 1, "dimension": "COLUMNS"},
        "POST",
        BATCH,
        {},
        {
            "requests": [
                {"deleteDimension": {"range": {"sheetId": 0, "dimension": "COLUMNS", "startIndex": 1, "endIndex": 2}}}
            ]
        },
    ),
    (
        "find_replace",
        {"spreadsheet_id": "s1", "find": "a", "replacement": "b", "match_case": True},
        "POST",
        BATCH,
        {},
        {"requests": [{"findReplace": {"find": "a", "replacement": "b", "matchCase": True, "allSheets": True}}]},
    ),
    (
        "batch_update",
        {"spreadsheet_id": "s1", "requests": [{"deleteSheet": {"sheetId": 7}}]},
        "POST",
        BATCH,
        {},
        {"requests": [{"deleteSheet": {"sheetId": 7}}]},
    ),
]


@pytest.mark.parametrize(
    ("tool_slug", "params", "method", "url", "query", "body"), TABLE, ids=[row[0] for row in TABLE]
)
def test_a_request_is_built_as_google_documents_it(
    tool_slug: str, params: dict[str, Any], method: str, url: str, query: dict[str, list[str]], body: Any
) -> None:
    request = build_tool("google-sheets", tool_slug, params)
    assert (request.method, request.url) == (method, url)
    assert parse_qs(urlsplit(request.full_url).query) == query
    assert (json.loads(request.body) if request.body else None) == body


def test_every_tool_has_its_request_checked_here() -> None:
    assert {row[0] for row in TABLE} | {"find_spreadsheets"} == set(load("google-sheets").tools_by_slug)


def test_spreadsheets_are_found_through_drive(sheets: Service) -> None:
    request = build_tool("google-sheets", "find_spreadsheets", {"name_contains": "Ann's"})
    query = parse_qs(urlsplit(request.full_url).query)
    assert request.url == "https://www.googleapis.com/drive/v3/files"
    assert query["q"] == [
        "mimeType = 'application/vnd.google-apps.spreadsheet' and trashed = false and name contains 'Ann\\'s'"
    ]
    drive = connect_drive(sheets)
    made = drive("create_google_file", name="Budget", mime_type="application/vnd.google-apps.spreadsheet")
    assert made["id"] in {one["id"] for one in sheets("find_spreadsheets")["files"]}


def connect_drive(sheets: Service) -> Service:
    return Service("google-drive", sheets.base_url, sheets.token)


def test_the_account_is_called_by_its_address(sheets: Service) -> None:
    toolkit = load("google-sheets")
    assert toolkit.profile is not None
    assert build_call(toolkit, toolkit.profile, {}).url == "https://www.googleapis.com/oauth2/v2/userinfo"
    assert (toolkit.profile.id, toolkit.profile.label) == ("/email", "/email")
    assert sheets.call(toolkit.profile)["email"] == EMAIL


def test_the_emulated_google_still_does_not_serve_sheets(sheets: Service) -> None:
    assert sheets.answer("create_spreadsheet", title="Plan")[0] == 404
    assert sheets.answer("read_values", spreadsheet_id="s1", range="A1")[0] == 404


def test_one_sheet_can_be_searched_alone_and_a_range_has_an_end() -> None:
    body = build_tool(
        "google-sheets", "find_replace", {"spreadsheet_id": "s", "find": "a", "replacement": "", "sheet_id": 0}
    ).body
    change = json.loads(body or b"")["requests"][0]["findReplace"]
    assert change == {"find": "a", "replacement": "", "sheetId": 0}


def test_cells_that_are_none_are_told() -> None:
    base = {"spreadsheet_id": "s1", "range": "A1", "value_input_option": "RAW"}
    assert set(faults_of("write_values", **base, values=["x"])) == {"values.0"}
    assert set(faults_of("write_values", **base, values=[[{"a": 1}]])) == {"values.0.0"}
    assert set(faults_of("write_values", spreadsheet_id="s1", values=[])) == {"range", "value_input_option", "values"}
    assert set(faults_of("read_values", spreadsheet_id="..", range="A1")) == {"spreadsheet_id"}
