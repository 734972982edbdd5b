"""Every fault of a definition, all at once, each with its path and line."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema_rs
import pytest

from apps.lib import expressions
from apps.modules import actions, checks
from apps.modules.models import Module, ModuleVersion
from apps.workspaces.models import Project
from tests.cast import Cast, connect, enable

from .definitions import ONBOARD, definition, source

Step = dict[str, Any]


def faults_of(text: str, project: Project | None = None, **options: Any) -> list[tuple[str, str]]:
    return [(fault.path, fault.message) for fault in checks.check(text, project, **options)[1]]


def paths_of(*steps: Step, **more: Any) -> list[str]:
    return [path for path, _ in faults_of(source(*steps, **more))]


def only(*steps: Step, **more: Any) -> tuple[str, str]:
    """The one fault that there is."""
    [found] = faults_of(source(*steps, **more))
    return found


# -- The example -----------------------------------------------------------------------------------------------------
@pytest.fixture
def equipped(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that has all that the contract's example names."""
    enable(cast.project, "github")
    other = checks.read(
        "name: other-module\nstart_parameters: [{name: N, api_name: n, type: number}]\nsteps: [{id: a, set: {}}]"
    )[0]
    publish(cast.project, other)
    monkeypatch.setattr(actions, "names", lambda: ["company.actions.total"])
    return cast.project


def publish(project: Project, data: Any) -> Module:
    module = Module.objects.create(project=project, name=data["name"], source="", draft=data)
    module.published = ModuleVersion.objects.create(module=module, number=1, definition=data, source="")
    module.save()
    return module


def test_the_example_of_the_contract_is_without_faults_as_yaml_and_as_json(equipped: Project) -> None:
    for text in (ONBOARD, json.dumps(checks.read(ONBOARD)[0])):
        found, faults = checks.check(text, equipped)
        assert faults == []
        assert found is not None
        assert found.name == "onboard"


def test_the_example_misses_what_its_project_does_not_have(cast: Cast) -> None:
    assert faults_of(ONBOARD, cast.project) == [
        ("steps[1].tool", "The toolkit github is not enabled for this project."),
        ("steps[8].run", "There is no module other-module."),
        ("steps[9].code", "This installation has no action company.actions.total."),
    ]


# -- Reading ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00Z"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("0o17", 15),
        ("0x1F", 31),
        ("012", 12),
        ("-7", -7),
        ("+7", 7),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ('"5"', "5"),
        ("!!str 5", "5"),
        ("=", "="),
        ("<<", "<<"),
        ("'true'", "true"),
        ("0o8", "0o8"),
        ("!!int 5", 5),
    ],
    ids=repr,
)
def test_yaml_is_read_by_the_core_schema_of_1_2(written: str, value: Any) -> None:
    data, faults = checks.read(f"a: {written}\n")
    assert faults == []
    assert data == {"a": value}
    assert type(data["a"]) is type(value)


def test_a_key_is_the_text_that_is_written() -> None:
    assert checks.read("on: 1\n5: 2\ntrue: 3\nnull: 4\n")[0] == {"on": 1, "5": 2, "true": 3, "null": 4}


def test_json_is_read_as_json() -> None:
    text = '\ufeff {"a": "\\ud83d\\ude00\\/", "b": [1, 2.50, -0.1e2, 12345678901234567890], "c": {},\t"d": null}'
    assert checks.read(text) == ({"a": "😀/", "b": [1, 2.5, -10.0, 12345678901234567890], "c": {}, "d": None}, [])


def test_yaml_in_braces_is_yaml() -> None:
    assert checks.read("{name: x, steps: [],}") == ({"name": "x", "steps": []}, [])


def test_an_anchor_and_its_alias_are_read() -> None:
    assert checks.read("a: &x {b: [1]}\nc: *x\n") == ({"a": {"b": [1]}, "c": {"b": [1]}}, [])


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb:\n\tc: 1\n", 3, "tab"),
        ("a: [1,\nb: 2\n", 2, "cannot be read"),
        ("a: {{ start.x }}\n", 1, "in quotes"),
        ("? [a]\n: b\n", 1, "A key is a text"),
        ("a: 1\n---\nb: 2\n", 2, "second document"),
        ("a: &x [*x]\n", 1, "names nothing"),
        ("a: *x\n", 1, "names nothing"),
        ("a: 1\nb: \x00\n", 2, "NUL"),
        ("a: 1\nb: \ud800\n", 2, "surrogate"),
        ("a: \x01\n", 1, "control characters"),
        ("", 1, "nothing here"),
        ("# only a comment", 1, "nothing here"),
        ('{"a": NaN}', None, "NaN"),
        ('{"a": 1} x', 1, "cannot be read"),
        ("[" * 200, 1, "100 deep"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", 1, "100 deep"),
        ("a: " + "{a: " * 200, 1, "100 deep"),
        ("a: &a0 [1]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 150)), 100, "100 deep"),
    ],
    ids=[
        "tab",
        "bracket",
        "expression",
        "list-as-key",
        "documents",
        "itself",
        "alias",
        "nul",
        "surrogate",
        "control",
        "empty",
        "comment",
        "nan",
        "after-json",
        "deep",
        "deep-json",
        "deep-braces",
        "deep-aliases",
    ],
)
def test_what_cannot_be_read_is_one_fault_with_its_line(text: str, line: int | None, message: str) -> None:
    data, [fault] = checks.read(text)
    assert data is None
    assert message in fault.message
    assert (fault.path, fault.line) == ("", line)
    assert checks.check(text, None) == (None, [fault])


@pytest.mark.parametrize(
    ("text", "path", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "a", 3, "a stands there twice, first in line 1."),
        ('{"b": {"c": 1,\n"c": 2}}', "b.c", 2, "c stands there twice, first in line 1."),
        ('a: 1\nb: ["\\0"]\n', "b[0]", 2, "NUL"),
        ('{"a":\n"\\ud800"}', "a", 2, "surrogate"),
        ("a: 1\nb: .inf\n", "b", 2, "no number of JSON"),
        ('{"a": 1e999}', "a", 1, "too large"),
        ("a: " + "9" * 301, "a", 1, "too many digits"),
        ("a: 0x" + "f" * 5000, "a", 1, "too many digits"),
        ("a: !!python/object/apply:os.system [x]\n", "a", 1, "tag"),
        ("a: !secret x\n", "a", 1, "tag"),
        ("a: !!float x\n", "a", 1, "tag"),
    ],
    ids=["key", "key-in-json", "nul", "surrogate", "infinity", "float", "digits", "hex", "python", "tag", "wrong-tag"],
)
def test_a_value_that_cannot_be_is_a_fault_at_its_place(text: str, path: str, line: int, message: str) -> None:
    data, [fault] = checks.read(text)
    assert data is not None
    assert (fault.path, fault.line) == (path, line)
    assert message in fault.message


BOMBS = {
    "laughs": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "\n".join(f"a{n}: &a{n} [{','.join(['*a' + str(n - 1 or '')] * 10)}]" for n in range(1, 12)).replace(
        "*a,", "*a,"
    ),
    "long-text": f'a: &a "{"x" * 900_000}"\nb: [*a, *a, *a]\n',
    "ten-megabytes": "x" * 10_000_000,
    "wide": "é" * 600_000,
    "brackets": "[" * 1_000_000,
    "braces": "{a: " * 250_000,
    "dashes": "- " * 500_000,
    "questions": "? " * 500_000,
    "quotes": '"' * 1_000_000,
    "anchors": "&a " * 300_000,
    "json": '{"a":' * 200_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(name: str) -> None:
    begin = time.process_time()
    data, faults = checks.read(BOMBS[name])
    assert data is None
    assert len(faults) == 1
    assert time.process_time() - begin < 1


def test_a_definition_beyond_a_megabyte_is_not_looked_at() -> None:
    assert checks.read("a: " + "x" * 1_048_574)[1] == [checks.Fault("", "A definition is at most 1 MB.")]
    assert checks.read("a: " + "x" * 1_048_000)[1] == []


# -- The format ------------------------------------------------------------------------------------------------------
def test_every_fault_is_told_at_once_at_its_path_and_line() -> None:
    text = """\
name: Publish it
acces: off
start_parameters:
  - {name: A, type: choice}
steps:
  - id: one
    request:
      methd: GET
      url: https://x.example
    retry: {delay: 5 years}
  - id: one
    conditon: "{{ start.a }}"
  - id: three
    set: {a: "{{ steps.four.output }}"}
  - nonsense
hook: true
"""
    assert [(fault.line, fault.path, fault.message) for fault in checks.check(text, None)[1]] == [
        (1, "name", "Must be made of a-z, 0-9, _ and -, with / for folders."),
        (2, "acces", "There is no key acces here. Did you mean access?"),
        (4, "start_parameters[0].api_name", "api_name is missing."),
        (8, "steps[0].request.methd", "There is no key methd here. Did you mean method?"),
        (10, "steps[0].retry.delay", "A duration is like 30s, 5m, 2h, 1d, or a number of seconds."),
        (11, "steps[1].id", "There is another step one: an id stands once in the whole module."),
        (12, "steps[1].conditon", "There is no key conditon here. Did you mean condition?"),
        (14, "steps[2].set.a", "There is no step four."),
        (15, "steps[3]", "Must be an object."),
        (16, "hook", "Must be an object or false."),
    ]


@pytest.mark.parametrize(
    ("step", "path", "message"),
    [
        ({"set": {}, "title": 5}, "title", "Must be a text: put it in quotes."),
        ({"set": {}, "on_error": "contine"}, "on_error", "Must be fail or continue or an object."),
        ({"set": {}, "on_error": {"go": "x"}}, "on_error.go", "There is no key go here. Did you mean goto?"),
        ({"wait": {"evnt": "x"}}, "wait.evnt", "There is no key evnt here. Did you mean event?"),
        ({"wait": {"until": 5}}, "wait.until", "Must be a text: put it in quotes."),
        ({"wait": [1]}, "wait", "Must be an object, a text or a number."),
        ({"code": "a", "on_lost": "retri"}, "on_lost", "Must be retry, fail or continue. Did you mean retry?"),
        ({"for_each": [], "do": [{"id": "x", "set": {}}], "parallel": 99}, "parallel", "Must be at most 50."),
        ({"request": {"url": "https://x.example", "accept": ["404"]}}, "request.accept[0]", "Must be a whole number."),
        (
            {"request": {"url": "https://x.example", "json": 1, "body": "x"}},
            "request",
            "Give only one of json, form and body.",
        ),
        (
            {"form": {"title": "x", "fields": [{"name": "a", "label": "a", "options": [[]]}]}},
            "form.fields[0].options[0]",
            "Must be a text or a number.",
        ),
        ({"form": {"title": "x", "fields": [], "pages": []}}, "form.fields", "Must have at least 1 entries."),
        ({"id": "s-1", "set": {}}, "id", "Must be made of letters, digits and _, and begin with a letter."),
        ({"fail": {}}, "fail.message", "message is missing."),
        ({"tool": "x" * 300}, "tool", "Must have at most 200 characters."),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_is_not_of_the_format_is_told_in_words(step: Step, path: str, message: str) -> None:
    assert (f"steps[0].{path}", message) in faults_of(source(step))


@pytest.mark.parametrize("text", ["5", "[1]", '"x"', "~", "a"], ids=["number", "list", "text", "null", "word"])
def test_a_definition_is_an_object(text: str) -> None:
    assert faults_of(text) == [("", "A definition is an object: name, steps, and so on.")]


def test_no_more_faults_are_told_than_anybody_reads() -> None:
    found = checks.check(source(*[{"nonsense": 1} for _ in range(400)]), None)[1]
    assert len(found) == 201
    assert found[-1].message == "There are more faults: they are told once these are mended."


@pytest.mark.parametrize("last", ["publish", "unpublish", "check", "rollback", "rotate-key", "versions"])
def test_a_name_that_is_a_route_is_refused(last: str) -> None:
    assert only({"set": {}}, name=f"folder/{last}")[0] == "name"
    assert paths_of({"set": {}}, name=f"{last}/folder") == []


# -- Steps -----------------------------------------------------------------------------------------------------------
def test_a_step_does_exactly_one_thing() -> None:
    assert only({"set": {}, "wait": 1}) == ("steps[0]", "A step does one thing: set and wait are two.")
    assert only({"title": "?"})[1].startswith("What does the step do? It needs one of tool, request")
    assert faults_of(source({"set": None, "wait": 1, "tool": None})) == []


INNER = [{"id": "x", "set": {}}]


@pytest.mark.parametrize(
    ("step", "key"),
    [
        ({"set": {}, "do": INNER}, "do"),
        ({"set": {}, "then": INNER}, "then"),
        ({"wait": 1, "else": INNER}, "else"),
        ({"condition": True, "then": INNER, "cases": {"a": []}}, "cases"),
        ({"set": {}, "default": INNER}, "default"),
        ({"form": {"title": "x", "fields": [{"name": "a", "label": "a"}]}, "with": {"a": 1}}, "with"),
        ({"approve": {"title": "x"}, "retry": {}}, None),
        ({"approve": {"title": "x"}, "retry": {"delay": 1}}, "retry"),
        ({"wait": 1, "timeout": 5}, "timeout"),
        ({"request": {"url": "https://x.example"}, "connection": "shared"}, "connection"),
        ({"set": {}, "as": "a"}, "as"),
        ({"set": {}, "parallel": 2}, "parallel"),
        ({"fail": "x", "on_error": "continue"}, "on_error"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_key_of_another_kind_is_refused(step: Step, key: str | None) -> None:
    assert [path for path in paths_of(step) if path.count(".") == 1] == ([f"steps[0].{key}"] if key else [])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"condition": True}, "A condition needs steps"),
        ({"switch": "a"}, "A switch needs cases."),
        ({"for_each": [1]}, "for_each needs steps in do."),
        ({"for_each": "start.x", "do": INNER}, "Must be one expression"),
        ({"for_each": "a{{ start.number }}", "do": INNER}, "Must be one expression"),
        ({"for_each": 5, "do": INNER}, "Must be a list"),
        ({"condition": "start.number == 1", "then": INNER}, "Must be one expression"),
        ({"condition": "{{ start.number }} ", "then": INNER}, "Must be one expression"),
        ({"set": {}, "when": "yes"}, "Must be one expression"),
        ({"code": "a", "with": "x {{ start.name }}"}, "Must be one expression"),
        ({"switch": ["a"], "cases": {"a": INNER}}, "Must be a text, a number"),
        ({"tool": "X", "connection": "{{ start.name }}"}, "it cannot be calculated"),
        ({"wait": "soon"}, "A duration is"),
        ({"wait": -1}, "A duration is"),
        ({"wait": {"until": "tomorrow"}}, "Must be a date or a time"),
        ({"wait": {"event": "a/b"}}, "An event's name"),
        ({"request": {"url": "/people"}}, "Must be an absolute URL"),
        ({"request": {"url": "ftp://x.example"}}, "Must be an absolute URL"),
        ({"request": {"url": "https://x.example/a b"}}, "Must be an absolute URL"),
        ({"request": {"url": "https://x.example", "method": "GTE"}}, "Must be one of GET"),
        ({"request": {"url": "https://x.example", "headers": {"a b": "x"}}}, "no name of a header"),
        ({"request": {"url": "https://x.example", "headers": {"a": "x\r\nb: c"}}}, "no line breaks"),
        ({"request": {"url": "https://x.example", "accept": [1]}}, "from 100 to 599"),
        (
            {"approve": {"title": "x", "assignees": ["a@b.example", "A@b.example"], "quorum": 2}},
            "2 shall approve, and only 1 is asked",
        ),
        (
            {"approve": {"title": "x", "assignees": "a@b.example, c@b.example", "quorum": 3}},
            "3 shall approve, and only 2 are asked",
        ),
        ({"approve": {"title": "x", "assignees": ["buyers"]}}, "Must be an e-mail address, group:<name>"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_what_makes_no_sense_in_a_step_is_told(step: Step, message: str) -> None:
    assert any(message in found for _, found in faults_of(source(step))), faults_of(source(step))


@pytest.mark.parametrize(
    "step",
    [
        {"id": "getPeople", "request": {"url": "https://x.example", "accept": [200, 404]}},
        {"request": {"url": "HTTPS://x.example/{{ start.name }}"}, "timeout": "30"},
        {"approve": {"title": "x", "deadline": "2s", "on_deadline": "reject", "remind": "1d"}},
        {"approve": {"title": "x", "on_deadline": "reject"}},
        {"form": {"title": "x", "fields": [{"name": "laptopType", "label": "x"}], "on_deadline": "continue"}},
        {"wait": "1", "on_lost": "retry"},
        {"set": {}, "on_lost": "continue"},
        {"for_each": [1], "as": "lineItem", "do": [{"id": "i", "set": {"a": "{{ lineItem }}"}}]},
    ],
    ids=lambda step: json.dumps(step)[:60],
)
def test_what_means_no_harm_is_no_fault(step: Step) -> None:
    assert faults_of(source(step)) == []


def test_a_name_that_expressions_read_as_a_value_is_no_item(cast: Cast) -> None:
    path, message = only({"for_each": [1], "as": "True", "do": [{"id": "x", "set": {"a": 1}}]})
    assert path == "steps[0].as"
    assert "means something else" in message


@pytest.mark.parametrize(
    "step",
    [
        {"condition": True, "then": INNER},
        {"condition": "{{ start.number == 1 }}\n", "else": INNER},
        {"for_each": [1, 2], "do": INNER},
        {"set": {}, "when": False},
        {"wait": "{{ start.number }}s"},
        {"wait": 0},
        {"wait": {"until": "2026-01-31T08:00:00+01:00"}},
        {"wait": {"event": "{{ start.name }}", "timeout": "1d"}},
        {"request": {"url": "{{ start.name }}/x", "method": "get"}},
        {"approve": {"title": "x", "assignees": ["a@b.example", "group:buyers"], "quorum": 5}},
        {"approve": {"title": "x", "assignees": "{{ start.name }}", "quorum": 5}},
        {"switch": "{{ start.name }}", "cases": {"5": INNER}},
        {"switch": 5, "cases": {"5": INNER}},
    ],
    ids=lambda step: json.dumps(step)[:60],
)
def test_what_makes_sense_passes(step: Step) -> None:
    assert faults_of(source(step)) == []


def test_five_hundred_steps_are_the_most_inner_ones_included() -> None:
    inner = [{"id": f"i{number}", "set": {}} for number in range(300)]
    steps: list[Step] = [{"set": {}} for _ in range(199)]
    assert paths_of(*steps, {"condition": "{{ start.number == 1 }}", "then": inner}) == []
    assert only(*steps, {"set": {}}, {"condition": "{{ start.number == 1 }}", "then": inner}) == (
        "steps",
        "A module has at most 500 steps, inner ones included: these are 501.",
    )


def nested(depth: int) -> Step:
    step: Step = {"id": "innermost", "set": {}}
    for number in range(depth - 1):
        step = {"id": f"n{number}", "condition": "{{ start.number == 1 }}", "then": [step]}
    return step


def test_steps_stand_in_one_another_twenty_deep_at_most() -> None:
    assert paths_of(nested(20)) == []
    path, message = only(nested(21))
    assert path.count("then") == 20
    assert message == "Steps stand in one another at most 20 deep."
    assert any("20 deep" in found for _, found in faults_of(source(nested(45))))


# -- Start parameters and fields -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"type": "choice"}, "options"),
        ({"type": "choices"}, "options"),
        ({"options": ["a"]}, "options"),
        ({"type": "choice", "options": ["a", "a"]}, "options"),
        ({"type": "choice", "options": [1, "1"]}, "options"),
        ({"type": "choice", "options": ["a"], "default": "b"}, "default"),
        ({"type": "choices", "options": ["a"], "default": ["b"]}, "default"),
        ({"type": "number", "default": "many"}, "default"),
        ({"type": "number", "default": 5, "max": 4}, "default"),
        ({"type": "date", "default": "2026-02-30"}, "default"),
        ({"type": "date", "min": "soon"}, "min"),
        ({"type": "date", "min": 5}, "min"),
        ({"type": "number", "min": "5"}, "min"),
        ({"type": "number", "min": 5, "max": 4}, "max"),
        ({"type": "text", "min": 5}, "min"),
        ({"type": "text", "min_length": 5, "max_length": 4}, "max_length"),
        ({"type": "number", "pattern": "a"}, "pattern"),
        ({"type": "text", "pattern": "("}, "pattern"),
        ({"type": "text", "pattern": "(?=a)"}, "pattern"),
        ({"type": "email", "default": "x"}, "default"),
        ({"type": "text", "pattern": "[a-z]+", "default": "A"}, "default"),
        ({"type": "file", "default": {"filename": "a", "base64": ""}}, "default"),
        ({"type": "text", "default": "{{ now }}"}, "default"),
        ({"type": "text", "default": "@[X]"}, "default"),
        ({"type": "boolean", "default": "x"}, "default"),
        ({"type": "list", "default": {}}, "default"),
        ({"type": "object", "default": []}, "default"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_makes_no_sense_in_a_start_parameter_is_told(more: dict[str, Any], key: str) -> None:
    parameter = {"name": "X", "api_name": "x", "type": "text", **more}
    assert [path for path, _ in faults_of(source({"set": {}}, start_parameters=[parameter]))] == [
        f"start_parameters[0].{key}"
    ]


def test_start_parameters_have_names_of_their_own() -> None:
    twice = [
        {"name": "A", "api_name": "a", "type": "text"},
        {"name": "A ", "api_name": "b", "type": "text"},
        {"name": "B", "api_name": "a", "type": "text"},
    ]
    assert paths_of({"set": {}}, start_parameters=twice) == ["start_parameters[1].name", "start_parameters[2].api_name"]


def field(**more: Any) -> Step:
    return {"form": {"title": "x", "pages": [{"fields": [{"name": "a", "label": "A", **more}]}]}}


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"type": "choice"}, "options"),
        ({"type": "choice", "options": "a, b"}, "options"),
        ({"type": "checkbox", "default": "x"}, "default"),
        ({"type": "number", "default": "x"}, "default"),
        ({"min": 5}, "min"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_what_makes_no_sense_in_a_field_is_told(more: dict[str, Any], key: str) -> None:
    assert only(field(**more))[0] == f"steps[0].form.pages[0].fields[0].{key}"


@pytest.mark.parametrize(
    "more",
    [
        {"type": "choice", "options": "{{ start.name }}", "default": "a"},
        {"type": "number", "default": "{{ start.number }}"},
        {"type": "choice", "options": [1, 2], "default": 2},
        {"type": "choices", "options": ["a", "b"], "default": ["b"]},
        {"type": "checkbox", "default": True},
        {"type": "file", "max_length": 1000},
        {"type": "date", "min": "2026-01-01"},
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_field_may_be_like_this(more: dict[str, Any]) -> None:
    assert faults_of(source(field(**more))) == []


# -- References ------------------------------------------------------------------------------------------------------
def use(name: str, **more: Any) -> Step:
    return {"set": {"v": f"{{{{ {name} }}}}"}, **more}


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("start.nam", "There is no start parameter nam. Did you mean name?"),
        ("steps.s9.output", "There is no step s9."),
        ("steps.s1.output", "s1 refers to itself, before it has ended."),
        ("steps.s2.output", "s2 comes later."),
        ("steps['s2'].output", "s2 comes later."),
        ("s0.output", "There is no s0 here: only start, steps, run, now. Did you mean steps.s0.output?"),
        ("name", "There is no name here: only start, steps, run, now. Did you mean start.name?"),
        ("strat.name", "There is no strat here: only start, steps, run, now. Did you mean start?"),
        ("run.nam", "There is no member of run nam."),
        ("steps.s0.outputs", "A step has output, error, status, and no outputs. Did you mean output?"),
        ("steps.s0.laptop", "A step has output, error, status, and no laptop. Did you mean steps.s0.output.laptop?"),
        ("steps.s0.output.laptopp", "The output of s0 has no laptopp. Did you mean laptop?"),
        ("steps.s0.output['note'] + start.nam", "There is no start parameter nam. Did you mean name?"),
    ],
    ids=lambda value: value if "." in value and " " not in value else "",
)
def test_a_name_that_is_not_there_is_told(expression: str, message: str) -> None:
    form = {"form": {"title": "x", "fields": [{"name": "laptop", "label": "l"}, {"name": "note", "label": "n"}]}}
    assert only(form, use(expression), {"set": {}}) == ("steps[1].set.v", message)


@pytest.mark.parametrize(
    "expression",
    [
        "start.name",
        "start",
        "steps",
        "run.id",
        "run.attempt",
        "run.user",
        "now",
        "steps.s0.output.laptop",
        "steps.s0.error",
        "steps.s0.status",
        "steps.s0.output.items()",
        "steps.s0.output.get('x')",
        "start[steps.s0.output.laptop]",
        "steps.s0.output",
    ],
)
def test_a_name_that_is_there_passes(expression: str) -> None:
    form = {"form": {"title": "x", "fields": [{"name": "laptop", "label": "l"}]}}
    assert faults_of(source(form, use(expression), result=f"{{{{ {expression} }}}}")) == []


@pytest.mark.parametrize(
    ("step", "known", "unknown"),
    [
        ({"request": {"url": "https://x.example"}}, ["status", "headers", "body"], "data"),
        ({"approve": {"title": "x"}}, ["approved", "by", "reason"], "answer"),
        ({"set": {"a": 1, "b": 2}}, ["a", "b"], "c"),
        ({"condition": "{{ start.number == 1 }}", "then": INNER}, ["chosen"], "x"),
    ],
    ids=["request", "approve", "set", "condition"],
)
def test_the_members_of_an_output_are_known_beforehand(step: Step, known: list[str], unknown: str) -> None:
    assert faults_of(source(step, *[use(f"steps.s0.output.{name}") for name in known])) == []
    assert only(step, use(f"steps.s0.output.{unknown}"))[1].startswith(f"The output of s0 has no {unknown}.")


def branches(**inner: str) -> Step:
    return {
        "condition": "{{ start.number == 1 }}",
        "then": [{"id": "yes", **use(inner.get("then", "start.name"))}],
        "else": [{"id": "no", **use(inner.get("else_", "start.name"))}],
    }


def test_a_step_of_the_other_branch_has_never_ended() -> None:
    assert only(branches(else_="steps.yes.output"))[1].startswith("yes has never ended when this is reached")
    assert only(branches(then="steps.no.output"))[1] == "no comes later."


def test_a_step_of_another_case_has_never_ended() -> None:
    switch = {
        "switch": "{{ start.name }}",
        "cases": {"a": [{"id": "x", "set": {}}], "b": [{"id": "y", **use("steps.x.output")}]},
    }
    assert only(switch)[0] == "steps[0].cases.b[0].set.v"


def test_a_step_of_a_branch_may_have_ended_after_it() -> None:
    assert faults_of(source(branches(), use("steps.yes.output"), use("steps.no.output"))) == []


def test_a_step_has_not_ended_inside_of_itself() -> None:
    assert only(branches(then="steps.s0.output"))[1] == "s0 has not ended while the steps inside of it run."


def loop(*inner: Step, **more: Any) -> Step:
    return {"for_each": "{{ start.name }}", "do": list(inner), **more}


def test_a_step_inside_of_a_for_each_is_nobodys_outside() -> None:
    inside = loop({"id": "x", "set": {}}, {"id": "y", **use("steps.x.output")})
    assert only(inside, use("steps.x.output"))[1].startswith(
        "x runs inside of s0, once for each item: steps.s0.output lists"
    )
    assert faults_of(source(inside, use("steps.s0.output"))) == []
    assert only(inside, result="{{ steps.y.output }}")[0] == "result"


def test_the_item_is_known_inside_of_its_for_each_alone() -> None:
    assert faults_of(source(loop({"id": "x", **use("item.a")}), loop({"id": "y", **use("row")}, **{"as": "row"}))) == []
    assert (
        only(loop({"id": "x", **use("item.a")}, **{"as": "row"}))[1]
        == "There is no item here: only start, steps, run, now, row."
    )
    assert only(loop({"id": "x", "set": {}}), use("item"))[1] == "There is no item here: only start, steps, run, now."
    assert only({"for_each": "{{ item }}", "do": [{"id": "x", "set": {}}]})[0] == "steps[0].for_each"


@pytest.mark.parametrize("name", ["start", "steps", "now", "run", "in", "none"])
def test_an_item_is_not_called_what_means_something_else(name: str) -> None:
    assert only(loop({"id": "x", "set": {}}, **{"as": name}))[0] == "steps[0].as"


def test_an_inner_item_has_a_name_of_its_own() -> None:
    assert only(loop({"id": "x", **loop({"id": "y", "set": {}})})) == (
        "steps[0].do[0].as",
        "item is the item of s0 already: choose another name.",
    )


def test_expressions_are_read_wherever_they_may_stand() -> None:
    bad = "{{ start.nope }}"
    form = {
        "form": {
            "title": bad,
            "text": bad,
            "assignees": [bad],
            "fields": [{"name": "a", "label": bad, "help": bad, "default": bad}],
        }
    }
    request = {
        "request": {
            "url": f"https://x.example/{bad}",
            "headers": {"a": bad},
            "query": {"a": [bad]},
            "json": {"a": {"b": bad}},
        }
    }
    others: list[Step] = [
        {"set": {"a": bad}, "when": bad},
        {"code": "a", "with": {"a": bad}},
        {"switch": bad, "cases": {"a": INNER}},
        {"wait": {"event": bad}},
        {"fail": {"message": bad, "details": [bad]}},
    ]
    found = paths_of(
        form, request, *others, result={"a": [bad]}, end={"title": bad, "redirect": f"https://x.example/{bad}"}
    )
    assert sorted(found) == sorted(
        [
            "steps[0].form.title",
            "steps[0].form.text",
            "steps[0].form.assignees[0]",
            "steps[0].form.fields[0].label",
            "steps[0].form.fields[0].help",
            "steps[0].form.fields[0].default",
            "steps[1].request.url",
            "steps[1].request.headers.a",
            "steps[1].request.query.a[0]",
            "steps[1].request.json.a.b",
            "steps[2].set.a",
            "steps[2].when",
            "steps[3].with.a",
            "steps[4].switch",
            "steps[5].wait.event",
            "steps[6].fail.message",
            "steps[6].fail.details[0]",
            "result.a[0]",
            "end.title",
            "end.redirect",
        ]
    )


def test_an_expression_that_cannot_be_read_is_told_with_its_reason() -> None:
    text = "{{ 1 + }}"
    assert only({"set": {"a": text}}) == ("steps[0].set.a", f"{expressions.check(text)}.")
    assert only({"set": {"a": "{% for x in y %}{% endfor %}"}})[0] == "steps[0].set.a"


def test_a_mention_of_nobody_is_told() -> None:
    assert (
        only({"set": {"a": "@[Employee Nam]"}})[1]
        == "There is no start parameter named Employee Nam. Did you mean Employee Name?"
    )
    assert faults_of(source({"set": {"a": "@[Employee Name] {{ @[Number] }}"}})) == []


# -- Order -----------------------------------------------------------------------------------------------------------
NEVER = "This step is never reached: every way before it ends or leads past it."


def test_nothing_is_reached_after_a_fail() -> None:
    assert only({"fail": "x"}, {"set": {}}, {"set": {}}) == ("steps[1]", NEVER)
    assert faults_of(source({"fail": "x", "when": "{{ start.number == 1 }}"}, {"set": {}})) == []


def test_nothing_is_reached_after_branches_that_all_fail() -> None:
    both = {
        "condition": "{{ start.number == 1 }}",
        "then": [{"id": "x", "fail": "x"}],
        "else": [{"id": "y", "fail": "y"}],
    }
    assert only(both, {"set": {}}) == ("steps[1]", NEVER)
    assert faults_of(source({**both, "else": []}, {"set": {}})) == []
    switch = {
        "switch": "{{ start.name }}",
        "cases": {"a": [{"id": "x", "fail": "x"}]},
        "default": [{"id": "y", "fail": "x"}],
    }
    assert only(switch, {"set": {}}) == ("steps[1]", NEVER)
    assert faults_of(source({**switch, "default": []}, {"set": {}})) == []
    assert faults_of(source(loop({"id": "x", "fail": "x"}), {"set": {}})) == []


def test_the_branch_that_a_literal_never_takes_is_not_reached() -> None:
    assert only({"condition": True, "then": [{"id": "x", "set": {}}], "else": [{"id": "y", "set": {}}]}) == (
        "steps[0].else[0]",
        NEVER,
    )
    assert (
        only({"switch": "a", "cases": {"a": [{"id": "x", "set": {}}], "b": [{"id": "y", "set": {}}]}})[0]
        == "steps[0].cases.b[0]"
    )
    assert (
        only({"switch": "c", "cases": {"a": [{"id": "x", "set": {}}]}, "default": [{"id": "y", "set": {}}]})[0]
        == "steps[0].cases.a[0]"
    )
    assert faults_of(source({"condition": False, "then": [], "else": [{"id": "x", "fail": "x"}]})) == []
    assert only({"condition": True, "then": [{"id": "x", "fail": "x"}]}, {"set": {}}) == ("steps[1]", NEVER)


def request(target: str | None = None) -> Step:
    return {"request": {"url": "https://x.example"}, **({"on_error": {"goto": target}} if target else {})}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([request("s9")], "There is no step s9."),
        ([request("s0")], "A step cannot go to itself: use retry."),
        ([{"set": {}}, request("s0")], "s0 comes earlier: that would be a cycle. Use retry, or for_each."),
        (
            [request("x"), loop({"id": "x", "set": {}})],
            "x is not in the same for_each: an error cannot lead into one, or out of one.",
        ),
        (
            [loop({"id": "x", **request("s1")}), {"set": {}}],
            "s1 is not in the same for_each: an error cannot lead into one, or out of one.",
        ),
        ([{**branches(), "on_error": {"goto": "yes"}}], "yes is inside of this step."),
        (
            [
                {
                    "condition": "{{ start.number == 1 }}",
                    "then": [{"id": "a", **request("b")}],
                    "else": [{"id": "b", "set": {}}],
                }
            ],
            "b is in a branch that is not taken when this step runs.",
        ),
    ],
    ids=["unknown", "itself", "earlier", "into", "out", "inside", "other-branch"],
)
def test_an_error_leads_only_where_it_can(steps: list[Step], message: str) -> None:
    [found] = [found for path, found in faults_of(source(*steps)) if path.endswith("goto")]
    assert found == message


def test_an_error_may_lead_into_a_branch_to_come_and_stay_in_a_for_each() -> None:
    inner = loop({"id": "a", **request("c")}, {"id": "b", "set": {}}, {"id": "c", **use("steps.b.output")})
    assert faults_of(source(request("no"), branches(else_="steps.s0.error"), inner)) == []


def test_what_an_error_alone_leads_to_is_reached_and_knows_no_output_of_what_failed() -> None:
    steps: list[Step] = [request("rescue"), {"fail": "x"}, {"id": "rescue", **use("steps.s0.error.message")}]
    assert faults_of(source(*steps)) == []
    assert only(*steps[:2], {"id": "rescue", **use("steps.s0.output.body")})[1].startswith(
        "s0 has never ended when this is reached"
    )


def test_a_step_that_continues_after_its_error_has_ended() -> None:
    assert faults_of(source({**request(), "on_error": "continue"}, use("steps.s0.output"), use("steps.s0.error"))) == []


def test_the_result_is_calculated_where_the_run_ends() -> None:
    assert (
        faults_of(source(branches(), result={"a": "{{ steps.yes.output }}", "b": "{{ steps.s0.output.chosen }}"})) == []
    )
    assert only({"set": {}}, result="{{ steps.s1.output }}") == ("result", "There is no step s1.")


# -- Hook and end ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("hook", "path"),
    [
        ({"parameters": {"nam": "x", "name": "y"}}, "hook.parameters.nam"),
        ({"parameters": {"number": 1}}, "hook.parameters"),
        ({"parameters": {"name": "{{ start.name }}"}}, "hook.parameters.name"),
        ({"when": "{{ steps.s0.output }}"}, "hook.when"),
        ({"when": "body.x"}, "hook.when"),
        ({"timeout": "2m"}, "hook.timeout"),
        ({"user": "{{ user }}"}, "hook.user"),
        ({"verify": {"kind": "gitlab"}}, "hook.verify.kind"),
        ({"verify": {"kind": "secret", "header": "a b"}}, "hook.verify.header"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_what_makes_no_sense_in_a_hook_is_told(hook: dict[str, Any], path: str) -> None:
    assert [found for found, _ in faults_of(source({"set": {}}, hook=hook))] == [path]


def test_a_hook_may_be_like_this() -> None:
    hook = {
        "verify": {"kind": "github"},
        "parameters": {"name": "{{ body.name }}", "number": "{{ headers['x-n'] }}"},
        "user": "{{ query.u }}",
        "when": "{{ body.action == 'opened' }}",
        "answer": "result",
        "timeout": "1m",
    }
    assert faults_of(source({"set": {}}, hook=hook)) == []
    assert faults_of(source({"set": {}}, hook=False)) == []


def test_the_end_leads_to_an_absolute_url() -> None:
    assert only({"set": {}}, end={"redirect": "/thanks"}) == ("end.redirect", "Must be an absolute URL: https://…")
    assert faults_of(source({"set": {}}, end={"redirect": "https://x.example/{{ steps.s0.output }}"})) == []


def test_the_words_of_the_end_may_tell_the_result_and_nothing_else_does() -> None:
    assert faults_of(source({"set": {}}, end={"title": "{{ result.n }} done"}, result={"n": 1})) == []
    path, message = only({"set": {"v": "{{ result.n }}"}}, result={"n": 1})
    assert path == "steps[0].set.v"
    assert message.startswith("There is no result here")


# -- The project -----------------------------------------------------------------------------------------------------
def issue(**more: Any) -> Step:
    return {"tool": "GITHUB_CREATE_ISSUE", "with": {"repo": "acme/hr", "title": "x"}, **more}


def test_an_unknown_tool_is_told_with_the_nearest(cast: Cast) -> None:
    enable(cast.project, "github")
    steps = [
        issue(tool="GITHUB_CREATE_ISSU"),
        issue(tool="github.create_isue"),
        issue(tool="NOBODY_KNOWS"),
        issue(tool="github.create_issue"),
    ]
    assert faults_of(source(*steps), cast.project) == [
        ("steps[0].tool", "There is no tool GITHUB_CREATE_ISSU. Did you mean GITHUB_CREATE_ISSUE?"),
        ("steps[1].tool", "There is no tool github.create_isue. Did you mean GITHUB_CREATE_ISSUE?"),
        ("steps[2].tool", "There is no tool NOBODY_KNOWS."),
    ]


def test_a_toolkit_is_enabled_in_the_very_project(cast: Cast) -> None:
    enable(cast.foreign_project, "github")
    assert faults_of(source(issue()), cast.project) == [
        ("steps[0].tool", "The toolkit github is not enabled for this project.")
    ]
    integration = enable(cast.project, "github")
    assert faults_of(source(issue()), cast.project) == []
    integration.enabled = False
    integration.save()
    assert len(faults_of(source(issue()), cast.project)) == 1


@pytest.mark.parametrize(
    ("given", "path", "message"),
    [
        ({"repo": "acme/hr"}, "with.title", "title is missing."),
        (
            {"title": "x", "repo": "acme/hr", "titel": "x"},
            "with.titel",
            "The tool has no parameter titel. Did you mean title?",
        ),
        ({"title": "x", "repo": "acme/hr", "labels": "bug"}, "with.labels", "array"),
        ({"title": "x", "repo": "acme/hr", "labels": ["{{ start.name }}", 5]}, "with.labels[1]", "string"),
        ({"title": "x", "repo": "acme/hr", "labels": {"a": "{{ start.name }}"}}, "with.labels", "array"),
        (None, "with.title", "title is missing."),
    ],
    ids=["missing", "unknown", "type", "inner", "container", "nothing"],
)
def test_a_parameter_that_does_not_fit_its_tool_is_told(cast: Cast, given: Any, path: str, message: str) -> None:
    enable(cast.project, "github")
    found = [one for one in faults_of(source(issue(**{"with": given})), cast.project) if "repo" not in one[0]]
    assert [one[0] for one in found] == [f"steps[0].{path}"]
    assert message in found[0][1]


def test_an_expression_counts_as_any_value(cast: Cast) -> None:
    enable(cast.project, "github")
    given = {
        "title": "x",
        "repo": "acme/hr",
        "labels": "{{ start.name }}",
        "milestone": "{{ start.number }}",
        "assignees": ["{{ start.name }}"],
    }
    assert faults_of(source(issue(**{"with": given}), issue(**{"with": "{{ start.name }}"})), cast.project) == []


def test_a_named_connection_is_one_of_the_project_and_of_the_toolkit(cast: Cast) -> None:
    github, slack = enable(cast.project, "github"), enable(cast.project, "slack")
    own, other, foreign = connect(github), connect(slack), connect(enable(cast.foreign_project, "github"))
    steps = [issue(connection=name) for name in (own.pk, other.pk, foreign.pk, "ca_nobody", "user", "shared")]
    assert faults_of(source(*steps), cast.project) == [
        ("steps[1].connection", f"{other.pk} is a connection of slack, and not of github."),
        ("steps[2].connection", f"This project has no connection {foreign.pk}."),
        ("steps[3].connection", "This project has no connection ca_nobody."),
    ]


def other(*steps: Step, **more: Any) -> Any:
    return definition(*(steps or ({"set": {}},)), **{"name": "other", **more})


def test_a_module_that_is_run_is_one_of_the_project(cast: Cast) -> None:
    publish(cast.foreign_project, other())
    assert faults_of(source({"run": "other", "with": {"name": "x"}}), cast.project) == [
        ("steps[0].run", "There is no module other.")
    ]
    module = publish(cast.project, other())
    assert faults_of(source({"run": "other", "with": {"name": "x"}}), cast.project) == []
    assert only_of(cast, {"run": "othr"})[1] == "There is no module othr. Did you mean other?"
    module.deleted_at = module.created_at
    module.save()
    assert faults_of(source({"run": "other", "with": {"name": "x"}}), cast.project) == [
        ("steps[0].run", "There is no module other.")
    ]


def only_of(cast: Cast, *steps: Step, **options: Any) -> tuple[str, str]:
    [found] = faults_of(source(*steps), cast.project, **options)
    return found


def test_the_parameters_of_a_module_that_is_run_fit_it(cast: Cast) -> None:
    publish(cast.project, other())
    assert only_of(cast, {"run": "other"}) == ("steps[0].with.name", "other needs the start parameter name.")
    assert only_of(cast, {"run": "other", "with": {"name": "x", "nmber": 1}}) == (
        "steps[0].with.nmber",
        "other has no start parameter nmber. Did you mean number?",
    )
    assert only_of(cast, {"run": "other", "with": {"name": "x", "number": "many"}}) == (
        "steps[0].with.number",
        "Must be a number.",
    )
    given = {"name": "{{ start.name }}", "number": "{{ start.name }}"}
    assert (
        faults_of(source({"run": "other", "with": given}, {"run": "other", "with": "{{ start }}"}), cast.project) == []
    )


def test_a_module_beside_this_one_counts_as_there(cast: Cast) -> None:
    siblings = {"other": other()}
    assert faults_of(source({"run": "other", "with": {"name": "x"}}), cast.project, siblings=siblings) == []
    assert only_of(cast, {"run": "other"}, siblings=siblings)[0] == "steps[0].with.name"


def test_modules_that_run_one_another_are_a_cycle(cast: Cast) -> None:
    given = {"name": "x"}
    publish(cast.project, other({"run": "third", "with": given}))
    assert faults_of(source({"run": "other", "with": given}), cast.project) == []
    third = publish(cast.project, other(loop({"id": "x", "run": "module", "with": given}), name="third"))
    assert only_of(cast, {"run": "other", "with": given}) == (
        "steps[0].run",
        "This is a cycle: module runs other runs third runs module.",
    )
    assert only_of(cast, {"run": "module", "with": given}) == ("steps[0].run", "A module cannot run itself.")
    # Only what is published runs: a draft that does so no longer mends nothing.
    third.draft = other(name="third")
    third.save()
    assert len(faults_of(source({"run": "other", "with": given}), cast.project)) == 1


def test_a_cycle_of_others_does_not_keep_the_check_busy(cast: Cast) -> None:
    given = {"name": "x"}
    publish(cast.project, other({"run": "third", "with": given}))
    publish(cast.project, other({"run": "other", "with": given}, name="third"))
    assert faults_of(source({"run": "other", "with": given}), cast.project) == []


def test_code_is_what_the_installation_registers(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "names", lambda: ["company.actions.total"])
    assert faults_of(source({"code": "company.actions.total"}), cast.project) == []
    assert only_of(cast, {"code": "os.system"}) == ("steps[0].code", "This installation has no action os.system.")
    assert only_of(cast, {"code": "company.actions.totl"})[1].endswith("Did you mean company.actions.total?")


def test_what_only_the_project_knows_is_not_checked_without_one() -> None:
    assert faults_of(source({"tool": "NOBODY_KNOWS"}, {"run": "nothing"}, {"code": "no"})) == []


# -- Hostile and large -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "data",
    [
        {"name": 5, "steps": 5, "start_parameters": 5, "hook": 5, "end": 5, "result": 5},
        {"name": [], "steps": {"a": 1}, "start_parameters": {"a": 1}, "hook": [], "end": []},
        {
            "steps": [
                5,
                None,
                [],
                {},
                {"id": 5},
                {"id": {}, "set": 5},
                {"id": [], "then": 5, "cases": 5, "do": {}, "condition": {}},
            ]
        },
        {
            "steps": [
                {"id": "a", "tool": 5, "with": [1], "connection": 5},
                {"id": "b", "run": [], "with": 5},
                {"id": "c", "code": {}},
            ]
        },
        {
            "steps": [
                {"id": "a", "form": 5},
                {"id": "b", "form": {"fields": 5, "pages": [5, {"fields": [5, {"name": {}}]}]}},
            ]
        },
        {
            "steps": [
                {"id": "a", "approve": {"assignees": {}, "quorum": "x", "deadline": [], "remind": {}}},
                {"id": "b", "approve": []},
            ]
        },
        {
            "steps": [
                {"id": "a", "request": {"headers": [], "accept": 5, "url": [], "method": 5}},
                {"id": "b", "request": "x"},
            ]
        },
        {
            "steps": [
                {"id": "a", "for_each": {}, "as": 5, "do": [5]},
                {"id": "b", "switch": {}, "cases": {"x": 5, "y": [{"as": {}}]}},
            ]
        },
        {
            "steps": [
                {"id": "a", "wait": {"until": [], "event": {}}},
                {"id": "b", "wait": True},
                {"id": "c", "on_error": {"goto": []}},
            ]
        },
        {
            "start_parameters": [
                5,
                {"name": 5, "api_name": []},
                {"name": "x", "api_name": "x", "type": "number", "min": {}, "default": {}},
            ]
        },
        {"hook": {"parameters": 5, "when": [], "timeout": {}, "user": 5}, "end": {"redirect": 5}},
    ],
    ids=lambda data: json.dumps(data)[:50],
)
def test_whatever_is_written_becomes_faults_and_never_an_error(cast: Cast, data: dict[str, Any]) -> None:
    found, faults = checks.check(json.dumps(data), cast.project)
    assert found is None
    assert faults
    assert all(fault.message and fault.line == 1 for fault in faults)


def test_five_hundred_steps_are_checked_in_well_under_a_second(equipped: Project) -> None:
    lines = [
        "name: big",
        "start_parameters: [{name: N, api_name: n, type: number}]",
        "steps:",
        "  - {id: s0, set: {id: 1}}",
    ]
    for number in range(1, 500):
        before = f"steps.s{number - 1}.output"
        lines += [
            f"  - id: s{number}",
            "    tool: GITHUB_CREATE_ISSUE",
            f'    when: "{{{{ {before} != {number} }}}}"',
            "    with:",
            "      repo: acme/hr",
            f'      title: "{{{{ start.n }}}} {{{{ {before} }}}}"',
            "      labels: [bug]",
        ]
    begin = time.process_time()
    assert checks.check("\n".join(lines), equipped)[1] == []
    assert time.process_time() - begin < 1


def test_a_thousand_names_that_nobody_knows_are_told_within_seconds() -> None:
    long, near = "stepnumber" * 4, "stepnumbr" * 4
    steps = [
        {"id": f"{long}{number}", "set": {f"a{key}": f"{{{{ steps.{near}{number}x{key} }}}}" for key in range(3)}}
        for number in range(400)
    ]
    begin = time.process_time()
    faults = checks.check(source(*steps), None)[1]
    assert time.process_time() - begin < 8
    assert "Did you mean" in faults[0].message


STRANGE: list[Any] = [None, True, -1, "x", "{{ steps }}", "@[x]", [], [[]], {}, {"": {}}, 10**300]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def with_strange(data: Any, place: tuple[Any, ...], strange: Any) -> Any:
    if not place:
        return strange
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[place[0]] = with_strange(data[place[0]], place[1:], strange)
    return copy


@pytest.mark.parametrize("number", range(len(STRANGE)))
def test_whatever_stands_anywhere_in_the_example_is_checked_without_an_error(equipped: Project, number: int) -> None:
    """And what passes is of the published JSON Schema."""
    data = checks.read(ONBOARD)[0]
    schema = jsonschema_rs.Draft202012Validator(checks.json_schema())
    for place in places(data):
        changed = json.dumps(with_strange(data, place, STRANGE[number]))
        found, faults = checks.check(changed, equipped)
        assert (found is None) == bool(faults)
        assert faults or schema.is_valid(json.loads(changed))
        assert all(fault.line == 1 and fault.message.endswith((".", "?", "…")) for fault in faults), faults
