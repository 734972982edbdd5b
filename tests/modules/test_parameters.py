"""Start parameters and answers of forms: what is taken, what it becomes, and every fault of the rest."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from apps.modules.definition import Definition, FormField, StartParameter
from apps.modules.parameters import REQUIRED, Wrong, clean, clean_answers, convert

from .definitions import ONBOARD, definition


def module(*parameters: dict[str, Any]) -> Definition:
    named = [{"name": f"P{number}", "api_name": f"p{number}", **one} for number, one in enumerate(parameters)]
    return Definition.model_validate(definition({"set": {}}, start_parameters=named))


def parameter(kind: str, **more: Any) -> StartParameter:
    return StartParameter.model_validate({"name": "P", "api_name": "p", "type": kind, **more})


def field(kind: str, **more: Any) -> FormField:
    return FormField.model_validate({"name": "f", "label": "F", "type": kind, **more})


# -- Start parameters ------------------------------------------------------------------------------------------------
def test_the_parameters_of_the_contracts_example_are_taken() -> None:
    from apps.modules.checks import read

    given = {
        "employee_name": "Ada",
        "employment_start_date": "2026-01-31",
        "employee_reference_number": "17",
        "employee_email": "ada@example.com",
    }
    assert clean(Definition.model_validate(read(ONBOARD)[0]), given) == (
        {**given, "employee_reference_number": 17, "size": "M"},
        {},
    )


def test_every_fault_is_told_at_once() -> None:
    parameters = module(
        {"type": "text", "required": True}, {"type": "date"}, {"type": "number"}, {"type": "email", "required": True}
    )
    cleaned, faults = clean(parameters, {"p1": "2026-02-30", "p2": "many", "p3": "", "nope": 1})
    assert faults == {
        "nope": ["There is no parameter of this name."],
        "p0": [REQUIRED],
        "p1": ["There is no such day."],
        "p2": ["Must be a number."],
        "p3": [REQUIRED],
    }
    assert cleaned == dict.fromkeys(["p0", "p1", "p2", "p3"])


def test_what_is_absent_is_null_or_its_default() -> None:
    parameters = module(
        {"type": "text"}, {"type": "number", "default": 3}, {"type": "number", "default": "4", "required": True}
    )
    for given in ({}, {"p0": None, "p1": None, "p2": None}, {"p1": "", "p2": ""}):
        assert clean(parameters, given) == ({"p0": None, "p1": 3, "p2": 4}, {})


def test_an_empty_text_is_a_text_unless_one_is_required() -> None:
    assert clean(module({"type": "text", "default": "x"}), {"p0": ""}) == ({"p0": ""}, {})
    assert clean(module({"type": "text", "required": True}), {"p0": ""})[1] == {"p0": [REQUIRED]}


def test_a_required_list_has_entries() -> None:
    parameters = module({"type": "choices", "options": ["a"], "required": True}, {"type": "boolean", "required": True})
    assert clean(parameters, {"p0": [], "p1": False})[1] == {"p0": [REQUIRED]}


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        ("text", " a ", " a "),
        ("number", 1, 1),
        ("number", 1.5, 1.5),
        ("number", "17", 17),
        ("number", " -1.50 ", -1.5),
        ("number", "1e3", 1000.0),
        ("number", "007", 7),
        ("number", ".5", 0.5),
        ("number", 10**25, 10**25),
        ("date", "2024-02-29", "2024-02-29"),
        ("date", " 2026-01-31 ", "2026-01-31"),
        ("email", " Ada@Example.com ", "Ada@Example.com"),
        ("email", "a+b@x", "a+b@x"),
        ("boolean", True, True),
        ("boolean", "False", False),
        ("object", {"a": [1, None]}, {"a": [1, None]}),
        ("list", [1, {"b": 2}], [1, {"b": 2}]),
    ],
    ids=repr,
)
def test_a_value_becomes_what_its_type_says(kind: str, given: Any, value: Any) -> None:
    found = convert(parameter(kind), given)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("text", 5),
        ("text", True),
        ("text", ["a"]),
        ("text", "a\0b"),
        ("text", "\ud800"),
        ("number", True),
        ("number", "1_000"),
        ("number", "٣"),
        ("number", "1,5"),
        ("number", "nan"),
        ("number", float("nan")),
        ("number", float("inf")),
        ("number", "1e999"),
        ("number", "9" * 5000),
        ("number", "0x1f"),
        ("number", [1]),
        ("number", ""),
        ("date", "2026-02-30"),
        ("date", "20260131"),
        ("date", "2026-1-31"),
        ("date", "2026-01-31T00:00"),
        ("date", 20260131),
        ("date", "0000-01-01"),
        ("date", "2026-W05-6"),
        ("email", "ada"),
        ("email", "ada@"),
        ("email", "a b@x.example"),
        ("email", "a@x.example\nBcc: b@x.example"),
        ("email", 5),
        ("email", "a" * 250 + "@x.example"),
        ("email", "Ada <ada@example.com>"),
        ("boolean", 1),
        ("boolean", "yes"),
        ("boolean", "on"),
        ("object", []),
        ("object", "{}"),
        ("list", {}),
        ("list", "a"),
        ("object", {"a": "\0"}),
        ("object", {"\ud800": 1}),
        ("list", [float("inf")]),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_value_of_another_type_is_refused(kind: str, given: Any) -> None:
    with pytest.raises(Wrong):
        convert(parameter(kind), given)


def test_what_is_too_deep_is_refused() -> None:
    deep: Any = 1
    for _ in range(51):
        deep = [deep]
    assert convert(parameter("list"), deep[0]) == deep[0]
    with pytest.raises(Wrong, match="too deep"):
        convert(parameter("list"), deep)


def test_a_choice_is_one_of_the_options_and_keeps_its_type() -> None:
    sizes = parameter("choice", options=["S", "M", 42, 1.5])
    assert [convert(sizes, given) for given in ("S", 42, "42", "1.5")] == ["S", 42, 42, 1.5]
    for given in ("L", "s", "", 1, True, ["S"], None):
        with pytest.raises(Wrong, match="one of the options"):
            convert(sizes, given)
    with pytest.raises(Wrong, match="one of the options"):
        convert(parameter("choice", options=[1]), True)


def test_several_choices_are_each_once_and_one_needs_no_list() -> None:
    sizes = parameter("choices", options=["S", "M", 42], max_length=2)
    assert convert(sizes, ["M", "42", "M", 42]) == ["M", 42]
    assert convert(sizes, "S") == ["S"]
    for given in (["S", "L"], ["S", ["M"]], {"S": 1}):
        with pytest.raises(Wrong, match="one of the options"):
            convert(sizes, given)
    with pytest.raises(Wrong, match="at most 2 entries"):
        convert(sizes, ["S", "M", 42])


@pytest.mark.parametrize(
    ("kind", "limits", "good", "bad", "message"),
    [
        ("number", {"min": 1, "max": 3}, [1, 3, "2"], [0, 4, "3.5"], "Must be"),
        ("date", {"min": "2026-01-01", "max": "2026-12-31"}, ["2026-01-01"], ["2025-12-31", "2027-01-01"], "Must be"),
        ("text", {"min_length": 2, "max_length": 3}, ["ab", "äöü"], ["a", "abcd"], "characters"),
        ("text", {"pattern": "[A-Z]{2}"}, ["AB"], ["ABC", "AB\n", "xAB"], "form"),
        ("text", {"pattern": "(a+)+b"}, ["aab"], ["a" * 5000], "form"),
        ("email", {"pattern": ".*@example[.]com"}, ["a@example.com"], ["a@example.org"], "form"),
        ("list", {"min_length": 1, "max_length": 2}, [[1]], [[], [1, 2, 3]], "entries"),
    ],
    ids=["number", "date", "length", "pattern", "slow-pattern", "email", "list"],
)
def test_a_value_keeps_its_limits(
    kind: str, limits: dict[str, Any], good: list[Any], bad: list[Any], message: str
) -> None:
    for value in good:
        convert(parameter(kind, **limits), value)
    for value in bad:
        with pytest.raises(Wrong, match=message):
            convert(parameter(kind, **limits), value)


def test_every_limit_that_is_broken_is_told() -> None:
    with pytest.raises(Wrong, match=r"at least 3 characters\. Does not have the form"):
        convert(parameter("text", min_length=3, pattern="[0-9]+"), "a")


# -- Files -----------------------------------------------------------------------------------------------------------
def file(content: bytes = b"hello", **more: Any) -> dict[str, Any]:
    return {"filename": "a.txt", "contentType": "text/plain", "base64": base64.b64encode(content).decode(), **more}


def test_a_file_comes_with_its_content_and_gets_its_size() -> None:
    assert convert(parameter("file"), file()) == {**file(), "size": 5}
    assert convert(parameter("file"), {"filename": "a", "base64": ""}) == {
        "filename": "a",
        "contentType": "application/octet-stream",
        "size": 0,
        "base64": "",
    }
    assert convert(parameter("file"), file(size=99, more="x")) == {**file(), "size": 5}


@pytest.mark.parametrize(
    "given",
    [
        "a",
        [],
        {},
        {"base64": "YQ=="},
        file(base64="a"),
        file(base64="YQ==\n!"),
        file(base64=5),
        file(base64=None),
        file(filename=""),
        file(filename=5),
        file(filename="a" * 256),
        file(filename="a\0"),
        file(contentType="text"),
        file(contentType="text/plain\r\nX: y"),
        file(contentType=5),
        {"id": "file-of-another-run", "filename": "a", "contentType": "text/plain", "size": 5},
    ],
    ids=lambda given: json.dumps(given)[:50],
)
def test_what_is_no_file_is_refused(given: Any) -> None:
    with pytest.raises(Wrong):
        convert(parameter("file"), given)


def test_a_file_has_at_most_its_size() -> None:
    assert convert(parameter("file", max_length=5), file())["size"] == 5
    with pytest.raises(Wrong, match="at most 4 bytes"):
        convert(parameter("file", max_length=4), file())


def test_a_form_takes_the_reference_of_a_file_that_was_stored() -> None:
    stored = {"id": "abc", "filename": "a.txt", "contentType": "text/plain", "size": 5}
    assert clean_answers([field("file")], {"f": {**stored, "url": "x"}}) == ({"f": stored}, {})
    assert clean_answers([field("file", max_length=4)], {"f": stored})[1] == {"f": ["A file has at most 4 bytes."]}
    for broken in ({**stored, "size": "5"}, {**stored, "id": 5}, {"id": "abc"}, {**stored, "size": True}):
        assert "f" in clean_answers([field("file")], {"f": broken})[1]


# -- Answers ---------------------------------------------------------------------------------------------------------
def test_what_a_browser_sends_is_converted() -> None:
    given: dict[str, dict[str, Any]] = {
        "text": {},
        "note": {"type": "long_text"},
        "count": {"type": "number"},
        "day": {"type": "date"},
        "mail": {"type": "email"},
        "size": {"type": "choice", "options": [1, 2]},
        "tags": {"type": "choices", "options": ["a", "b"]},
        "sure": {"type": "checkbox"},
    }
    fields = [FormField.model_validate({"name": name, "label": name, **more}) for name, more in given.items()]
    sent = {
        "text": "x",
        "note": "a\r\nb",
        "count": "5",
        "day": "2026-01-31",
        "mail": "a@x.example",
        "size": "2",
        "tags": ["b"],
        "sure": "on",
    }
    assert clean_answers(fields, sent) == ({**sent, "note": "a\nb", "count": 5, "size": 2, "sure": True}, {})
    empty = dict.fromkeys([name for name in sent if name not in ("tags", "sure")], "")
    nothing: dict[str, Any] = {**dict.fromkeys(empty), "tags": [], "sure": False}
    assert clean_answers(fields, empty) == (nothing, {})
    assert clean_answers(fields, {}) == (nothing, {})


def test_a_required_field_is_answered() -> None:
    kinds: list[dict[str, Any]] = [
        {"type": "text"},
        {"type": "number"},
        {"type": "checkbox"},
        {"type": "choices", "options": ["a"]},
        {"type": "file"},
    ]
    for more in kinds:
        one = FormField.model_validate({"name": "f", "label": "F", "required": True, **more})
        for given in ({}, {"f": None}, {"f": ""}):
            assert clean_answers([one], given)[1] == {"f": [REQUIRED]}
    assert clean_answers([field("checkbox", required=True)], {"f": "false"})[1] == {"f": [REQUIRED]}
    assert clean_answers([field("checkbox", required=True)], {"f": True}) == ({"f": True}, {})


def test_a_field_that_was_not_sent_has_its_default_and_an_emptied_one_none() -> None:
    assert clean_answers([field("text", default="x")], {}) == ({"f": "x"}, {})
    assert clean_answers([field("text", default="x")], {"f": ""}) == ({"f": None}, {})


def test_a_box_without_a_tick_is_not_ticked_by_its_default() -> None:
    assert clean_answers([field("checkbox", default=True)], {}) == ({"f": False}, {})
    assert clean_answers([field("choices", options=["a"], default=["a"])], {}) == ({"f": []}, {})


def test_an_unknown_field_and_a_wrong_answer_are_told_beside_what_is_right() -> None:
    cleaned, faults = clean_answers([field("number"), FormField(name="g", label="G")], {"f": "x", "g": "y", "h": 1})
    assert cleaned == {"f": None, "g": "y"}
    assert faults == {"h": ["There is no field of this name."], "f": ["Must be a number."]}


def test_a_choice_whose_options_are_not_known_takes_nothing() -> None:
    assert clean_answers([field("choice", options="{{ start.x }}")], {"f": "{"})[1] == {
        "f": ["Must be one of the options."]
    }
