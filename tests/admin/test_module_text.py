"""Start parameters and access, shown as rows and choices and written back into the text."""

from __future__ import annotations

import json

import pytest

from apps.modules import admin_editor
from apps.modules.admin_editor import NotEditable, Row, data_of, rows_of, with_access, with_parameters

TEXT = """\
# What we do with new people
name: onboard
title: Onboard an employee   # shown

access: api_key  # programs only
start_parameters:
  # who it is
  - {name: Employee Name, api_name: employee_name, type: text, required: true}
  - name: Size
    api_name: size
    type: choice
    options: [S, M, L]   # as ordered
    default: M
  # when
  - {name: Start date, api_name: start_date, type: date}

# now the work
steps:
  - id: one
    set: {on: off, when: 2026-01-01}
"""


def rows(text: str = TEXT) -> list[Row]:
    return rows_of(data_of(text))


def test_the_rows_are_what_the_text_says() -> None:
    assert [(row.index, row.name, row.type, row.api_name, row.required) for row in rows()] == [
        (0, "Employee Name", "text", "employee_name", True),
        (1, "Size", "choice", "size", False),
        (2, "Start date", "date", "start_date", False),
    ]


def test_rows_that_did_not_change_leave_the_text_as_it_is() -> None:
    assert with_parameters(TEXT, rows()) == TEXT


def test_only_the_changed_item_is_written_anew_and_keeps_what_no_row_shows() -> None:
    size = Row(1, "T-shirt", "choice", "size", True)
    new = with_parameters(TEXT, [rows()[0], size, rows()[2]])
    old = TEXT.splitlines()
    assert new.splitlines()[:8] == old[:8]
    assert new.splitlines()[-7:] == old[-7:]
    assert data_of(new)["start_parameters"][1] == {
        "name": "T-shirt", "api_name": "size", "type": "choice", "required": True, "options": ["S", "M", "L"],
        "default": "M",
    }  # fmt: skip
    assert {"# who it is", "# when", "# now the work"} <= {line.strip() for line in new.splitlines()}


def test_a_row_is_added_removed_and_moved() -> None:
    added = with_parameters(TEXT, [*rows(), Row(None, "E-mail: work", "email", "email", False)])
    assert rows(added)[3] == Row(3, "E-mail: work", "email", "email", False)
    assert added.replace("  - {name: 'E-mail: work', api_name: email, type: email}\n", "") == TEXT
    removed = with_parameters(TEXT, rows()[1:])
    assert [row.api_name for row in rows(removed)] == ["size", "start_date"]
    assert "options: [S, M, L]   # as ordered" in removed
    moved = with_parameters(TEXT, [rows()[2], rows()[0], rows()[1]])
    assert [row.api_name for row in rows(moved)] == ["start_date", "employee_name", "size"]
    assert data_of(moved)["steps"] == data_of(TEXT)["steps"]


def test_the_last_row_takes_the_block_with_it_and_the_first_brings_it() -> None:
    none = with_parameters(TEXT, [])
    assert "start_parameters" not in none
    assert "# now the work" in none
    again = with_parameters(none, [Row(None, "Name", "text", "name", True)])
    assert data_of(again)["start_parameters"] == [
        {"name": "Name", "api_name": "name", "type": "text", "required": True}
    ]
    assert again.index("start_parameters") < again.index("steps:")


@pytest.mark.parametrize(
    "text",
    [
        "name: x\nstart_parameters: []\nsteps: []\n",
        "name: x\nstart_parameters:\nsteps: []\n",
        "name: x\nstart_parameters: [{name: A, api_name: a, type: text}]\nsteps: []\n",
        "name: x\nstart_parameters:\n- {name: A, api_name: a, type: text}\n- name: B\n  api_name: b\n  type: text\nsteps: []",
        "name: x\nsteps: []\nstart_parameters:\n    -   name: A\n        api_name: a\n        type: text",
        "steps: []",
        "start_parameters:\n  -\n    name: A\n    api_name: a\n    type: text\nname: x\n",
        'name: x\nstart_parameters:\n  - name: A\n    api_name: a\n    help: |\n      # of it\n\n      - more\nsteps: []\n',
        "\n  name: x\n  steps: []\n",
    ],
    ids=["empty list", "no value", "flow", "not indented", "at the end", "no name", "dash alone", "block text", "deep"],
)  # fmt: skip
def test_however_it_is_written_the_rest_stays(text: str) -> None:
    before = data_of(text)
    new = with_parameters(text, [*rows(text), Row(None, "New", "number", "new", False)])
    after = data_of(new)
    added = {"name": "New", "api_name": "new", "type": "number"}
    assert after.pop("start_parameters") == [*(before.pop("start_parameters", None) or []), added]
    assert after == before


def test_json_stays_json() -> None:
    text = '{"name": "x", "steps": [{"id": "a", "set": {"n": 1}}]}'
    new = with_parameters(text, [Row(None, "New", "number", "new", False)])
    assert json.loads(new)["start_parameters"] == [{"name": "New", "api_name": "new", "type": "number"}]
    assert json.loads(with_access(text, "public"))["access"] == "public"
    assert json.loads(with_access(with_access(text, "public"), "off"))["access"] == "off"


@pytest.mark.parametrize(
    "text",
    ["name: [", "- a\n", "", "{name: x, steps: [], start_parameters: []}"],
    ids=["broken", "list", "empty", "braces"],
)
def test_what_cannot_be_changed_is_left_with_a_reason(text: str) -> None:
    with pytest.raises(NotEditable):
        with_parameters(text, [Row(None, "New", "number", "new", False)])


def test_parameters_that_stand_elsewhere_are_left() -> None:
    text = "name: x\nhook: &p [{name: A, api_name: a, type: text}]\nstart_parameters: *p\nsteps: []\n"
    with pytest.raises(NotEditable):
        with_parameters(text, [Row(None, "New", "number", "new", False)])


@pytest.mark.parametrize("access", ["public", "signed_in", "api_key", "off"])
def test_access_is_written_in_its_line(access: str) -> None:
    new = with_access(TEXT, access)
    assert new == TEXT.replace("access: api_key", f"access: {access}")
    assert admin_editor.access_of(data_of(new)) == access


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: x\ntitle: >\n  Two\n  lines\nsteps: []\n",
            "name: x\ntitle: >\n  Two\n  lines\naccess: off\nsteps: []\n",
        ),
        ("name: x\naccess:\nsteps: []\n", "name: x\naccess: off\nsteps: []\n"),
        ("steps: []\n", "access: off\nsteps: []\n"),
        ("name: x", "name: x\naccess: off\n"),
        ('name: x\naccess: "public" # all\n', "name: x\naccess: off # all\n"),
    ],
    ids=["below the title", "empty", "first", "last", "quoted"],
)
def test_access_that_is_not_there_is_put_where_one_looks_for_it(text: str, expected: str) -> None:
    assert with_access(text, "off") == expected
