"""Google Sheets: changes of a spreadsheet's structure, which all go through one call of many kinds."""

from __future__ import annotations

from typing import Any

from .google_drive import quote

Params = dict[str, Any]


def add_sheet(params: Params) -> Params:
    grid = {wire: params[name] for name, wire in (("rows", "rowCount"), ("columns", "columnCount")) if name in params}
    properties = {"title": params["title"]} | ({"index": params["index"]} if "index" in params else {})
    if grid:
        properties["gridProperties"] = grid
    return params | {"title": [{"addSheet": {"properties": properties}}]}


def rename_sheet(params: Params) -> Params:
    properties = {"sheetId": params["sheet_id"], "title": params["title"]}
    return params | {"title": [{"updateSheetProperties": {"properties": properties, "fields": "title"}}]}


def delete_sheet(params: Params) -> Params:
    return params | {"sheet_id": [{"deleteSheet": {"sheetId": params["sheet_id"]}}]}


def delete_rows(params: Params) -> Params:
    """Rows and columns are counted from 0 there, the end not included."""
    return params | {"sheet_id": [{"deleteDimension": {"range": _span(params)}}]}


def insert_rows(params: Params) -> Params:
    before = params.get("inherit_from_before", False)
    return params | {"sheet_id": [{"insertDimension": {"range": _span(params), "inheritFromBefore": before}}]}


def _span(params: Params) -> Params:
    start = params["start_index"]
    end = start + params.get("count", 1)
    dimension = params.get("dimension", "ROWS")
    return {"sheetId": params["sheet_id"], "dimension": dimension, "startIndex": start, "endIndex": end}


def find_replace(params: Params) -> Params:
    wire = {
        "match_case": "matchCase",
        "match_entire_cell": "matchEntireCell",
        "regular_expression": "searchByRegex",
        "include_formulas": "includeFormulas",
    }
    change = {"find": params["find"], "replacement": params["replacement"]}
    change |= {wire[name]: params[name] for name in wire if name in params}
    change |= {"sheetId": params["sheet_id"]} if "sheet_id" in params else {"allSheets": True}
    return params | {"find": [{"findReplace": change}]}


def create_spreadsheet(params: Params) -> Params:
    if "sheets" not in params:
        return params
    return params | {"sheets": [{"properties": {"title": title}} for title in params["sheets"]]}


def search(params: Params) -> Params:
    """Spreadsheets are found through Drive."""
    terms = ["mimeType = 'application/vnd.google-apps.spreadsheet'", "trashed = false"]
    if "name_contains" in params:
        terms.append(f"name contains {quote(params['name_contains'])}")
    return params | {"name_contains": " and ".join(terms)}
