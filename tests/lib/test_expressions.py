"""Expressions: what they give, what they cannot reach, and that none takes long or grows large."""

from __future__ import annotations

import base64
import copy
import json
import re
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2.nativetypes import NativeEnvironment

from apps.lib import expressions, filters
from apps.lib.expressions import (
    ExpressionError,
    check,
    fill,
    has_expression,
    is_one_expression,
    is_true,
    names_in,
    render,
    resolve_mentions,
    unknown_mentions,
)

NAMES: dict[str, Any] = {
    "start": {
        "email": "ada@example.com", "name": "Ada Lovelace", "size": "M", "count": 3, "list": "[1,2]", "none": None,
        "file": {"filename": "a.txt", "contentType": "text/plain", "size": 2, "base64": "aGk="},
        "upload": {"id": "file_1", "filename": "b.txt", "contentType": "text/plain", "size": 3},
        "date": "2026-01-31", "empty": "", "yes": True,
    },
    "steps": {
        "issue": {"output": {"number": 7, "items": [{"id": 1, "state": "open"}, {"id": 2, "state": "shut"}],
                             "values": [3, 1, 2], "keys": {"a": 1}, "get": "got", "__typename": "Issue"}},
        "tags": {"output": ["b", "a", "b"]},
    },
    "run": {"id": "r1", "attempt": 1, "user": None},
    "now": datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC),
    "device": {"sku": "x 1", "address": {"city": "Köln"}},
}  # fmt: skip


def value(expression: str, **names: Any) -> Any:
    return fill(f"{{{{ {expression} }}}}", NAMES | names)


# -- Types -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ 1 }}", 1),
        ("{{ 1.0 }}", 1.0),
        ("{{ true }}", True),
        ("{{ none }}", None),
        ("{{ start.list }}", "[1,2]"),
        ("{{ '1' }}", "1"),
        ("{{ 'none' }}", "none"),
        ("{{ steps.tags.output }}", ["b", "a", "b"]),
        ("{{ start.yes }}", True),
        ("{{ (1, 2) }}", [1, 2]),
        ("{{ start.count }}\n", 3),
        ("n: {{ start.count }}", "n: 3"),
        ("{{ start.count }}{{ start.count }}", "33"),
        ("{{ start.count }} ", "3 "),
        ("<{{ start.none }}>", "<>"),
        ("<{{ start.yes }}>", "<true>"),
        ("<{{ steps.tags.output }}>", '<["b", "a", "b"]>'),
        ("<{{ {'ä': none} }}>", '<{"ä": null}>'),
        ("at {{ now }}", "at 2026-02-03T04:05:06Z"),
        ("{{ now }}", "2026-02-03T04:05:06Z"),
        ("no expression at all", "no expression at all"),
        ("{% raw %}{{ as it is }}{% endraw %}", "{{ as it is }}"),
        ("a{# a remark #}b", "ab"),
        ("{{ '{{' }}", "{{"),
        ("line\n{{ start.count }}\n", "line\n3\n"),
    ],
)
def test_a_single_expression_keeps_its_type_and_text_around_it_makes_text(text: str, expected: Any) -> None:
    found = fill(text, NAMES)
    assert found == expected
    assert type(found) is type(expected)


def test_lists_and_objects_are_filled_all_the_way_down_and_keys_are_left() -> None:
    given = {"a": ["{{ start.count }}", {"{{ b }}": "x{{ start.size }}"}], "n": 5, "none": None}
    assert fill(given, NAMES) == {"a": [3, {"{{ b }}": "xM"}], "n": 5, "none": None}


def test_what_comes_out_shares_nothing_with_what_went_in() -> None:
    found = value("steps.issue.output")
    found["items"][0]["id"] = 99
    assert NAMES["steps"]["issue"]["output"]["items"][0]["id"] == 1


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("steps.issue.output.items[1].id", 2),
        ("steps.issue.output['items'][-1]['id']", 2),
        ("steps.issue.output.items.0.id", 1),
        ("steps.issue.output.values", [3, 1, 2]),
        ("steps.issue.output.keys", {"a": 1}),
        ("steps.issue.output.get", "got"),
        ("steps.issue.output.__typename", "Issue"),
        ("device.address.items()", [["city", "Köln"]]),
        ("device.get('colour', 'red')", "red"),
        ("start.name.split(' ')[0].upper()", "ADA"),
        ("start.name[:3]", "Ada"),
        ("1 + 2 * 3 - 4 / 2", 5.0),
        ("7 // 2 + 7 % 2 + 2 ** 10", 1028),
        ("'a' + 'b'", "ab"),
        ("start.count ~ '/' ~ true ~ [1] ~ start.none", "3/true[1]"),
        ("[1] + [2]", [1, 2]),
        ("-start.count", -3),
        ("1 < 2 <= 2 and not 3 == 4", True),
        ("'x' in device.sku and 9 not in steps.issue.output.values", True),
        ("start.none or 'other'", "other"),
        ("'big' if start.count > 2 else 'small'", "big"),
        ("start.date < now", True),
        ("now.year", 2026),
        ("{'a': [start.count]}", {"a": [3]}),
        ("start.name | upper | replace('A', 'E')", "EDE LOVELECE"),
    ],
)
def test_data_is_found_before_methods_and_operators_are_jinjas(expression: str, expected: Any) -> None:
    assert value(expression) == expected


# -- What is not there -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("nobody", "nobody"),
        ("start.nobody", "start.nobody"),
        ("steps.gone.output.number", "steps.gone"),
        ("steps.issue.output.items[5].id", "steps.issue.output.items.5"),
        ("start.none.more", "start.none.more"),
        ("start['gone']", "start.gone"),
        ("start.name.upper", "start.name.upper"),
        ("device.gone | upper", "device.gone"),
        ("[1, device.gone]", "device.gone"),
        ("device.gone + 1", "device.gone"),
        ("device.gone == 1", "device.gone"),
        ("device.gone or 1", "device.gone"),
        ("not device.gone", "device.gone"),
        ("steps.tags.output | map(attribute='id')", "id of an item"),
        ("[] | first", "empty list"),
    ],
)
def test_what_is_missing_is_an_error_that_names_it(expression: str, named: str) -> None:
    with pytest.raises(ExpressionError, match=re.escape(f": {named}") if "list" not in named else named):
        value(expression)
    with pytest.raises(ExpressionError, match=re.escape(named)):
        fill(f"text {{{{ {expression} }}}}", NAMES)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("start.gone is defined", False),
        ("start.gone.further.on is undefined", True),
        ("gone is not defined", True),
        ("start.email is defined", True),
        ("start.none is defined", True),
        ("start.gone | default('d')", "d"),
        ("start.none.city | default('d')", "d"),
        ("start.none | default('d')", "d"),
        ("start.gone | default(start.also_gone) | default('e')", "e"),
        ("start.email | default(start.gone)", "ada@example.com"),
        ("start.empty | default('d')", ""),
        ("start.empty | default('d', true)", "d"),
        ("[] | first | default(0)", 0),
        ("device | lookup('address.zip', 'none')", "none"),
        ("device | lookup('address.zip') | default(1)", 1),
        ("steps.issue.output.items | find('state', 'gone') | default('no')", "no"),
        ("start.gone is empty", True),
        ("start.email if start.email is defined else start.gone", "ada@example.com"),
    ],
)
def test_default_and_defined_may_be_asked_about_what_is_missing(expression: str, expected: Any) -> None:
    assert value(expression) == expected


def test_an_error_tells_no_values() -> None:
    with pytest.raises(ExpressionError) as caught:
        value("secret | int", secret="hunter2")
    assert "hunter2" not in str(caught.value)
    assert "{{ secret | int }}" in str(caught.value)


# -- Conditions, checks, names -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (True, True),
        (False, False),
        ("{{ start.count == 3 }}", True),
        ("{{ start.empty }}", False),
        ("{{ steps.tags.output }}\n", True),
        ("{{ start.none }}", False),
    ],
)
def test_a_condition_is_a_boolean_or_one_expression(condition: Any, expected: bool) -> None:
    assert is_true(condition, NAMES) is expected


@pytest.mark.parametrize("condition", ["{{ start.count }} == 4", "start.count == 4", "", None, 1, "{{ start.gone }}"])
def test_a_condition_that_would_always_be_true_is_an_error(condition: Any) -> None:
    with pytest.raises(ExpressionError):
        is_true(condition, NAMES)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{{ a.b | upper }} and {{ c }}", None),
        ("plain", None),
        ("{{ a | nothing }}", "nothing"),
        ("{{ a is nothing }}", "nothing"),
        ("{{ a | map('nothing') }}", "nothing"),
        ("{{ a | selectattr('b', 'nothing') }}", "nothing"),
        ("{{ a.nothing() }}", "nothing"),
        ("{{ a | upper(1) }}", "arguments"),
        ("{{ a | replace('b') }}", "arguments"),
        ("{{ a | add(fortnights=1) }}", "arguments"),
        ("{{ a", "end of"),
        ("{{ }}", "expression"),
        ("{% if a %}b{% endif %}", "statements"),
        ("{% set a = 1 %}", "statements"),
        ("{{ f(1) }}", "no functions"),
        ("{{ a.upper(*b) }}", "one by one"),
        ("{{ '\\N{nothing}' }}", "unknown"),
        ("{{ " + "1" * 5000 + " }}", "literal"),
    ],
)
def test_a_text_is_checked_without_being_evaluated(text: str, wrong: str | None) -> None:
    found = check(text)
    assert found is None if wrong is None else found is not None and wrong in found


def test_the_names_of_a_text_are_its_longest_paths() -> None:
    text = "{{ steps.issue.output.number }} {{ start.email | default(start.size) }} {{ a.b['c'][0].d }} {{ a[e.f].g }}"
    assert names_in(text) == {
        ("steps", "issue", "output", "number"), ("start", "email"), ("start", "size"), ("a", "b", "c", "0", "d"),
        ("a",), ("e", "f"),
    }  # fmt: skip
    assert names_in("{{ x.y.get('z', w) }}{{ x is defined }}") == {("x", "y"), ("w",), ("x",)}
    assert names_in("none at all") == set()


def test_expressions_are_recognised() -> None:
    assert has_expression({"a": [1, {"b": "x {{ y }}"}]})
    assert not has_expression({"a": [1, {"b": "x { y }"}]})
    assert is_one_expression("{{ a }}\n")
    assert not is_one_expression("{{ a }} b")
    assert render("{{ start.count }}", NAMES) == "3"


def test_mentions_become_expressions_and_unknown_ones_are_reported() -> None:
    names = {"Employee Name": "employee_name", "Größe": "size"}
    text = "Hi @[Employee Name], {{ @[Größe] | lower }}"
    assert resolve_mentions(text, names) == "Hi {{ start.employee_name }}, {{ start.size | lower }}"
    assert resolve_mentions("nobody@example.com [x]", names) == "nobody@example.com [x]"
    assert resolve_mentions("{{ 1 }} @[Größe] {{ @[Größe]", names) == "{{ 1 }} {{ start.size }} {{ {{ start.size }}"
    assert unknown_mentions("@[A] @[B] @[A] @[Größe]", names) == ["A", "B"]
    with pytest.raises(ExpressionError, match="A, B"):
        resolve_mentions("@[A] @[B]", names)


def test_mentions_among_brackets_that_are_never_closed_are_resolved_in_linear_time() -> None:
    begin = time.process_time()
    resolve_mentions("@[A] {{" * 100_000, {"A": "a"})
    assert time.process_time() - begin < 5


# -- Filters -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("start.file | base64", "aGk="),
        ("'ä' | base64 | from_base64", "ä"),
        ("{'a': [1, none, true]} | json | from_json", {"a": [1, None, True]}),
        ("'[1,2]' | from_json", [1, 2]),
        ("start.date | add_days(1)", "2026-02-01"),
        ("start.date | add(months=1)", "2026-02-28"),
        ("'2024-02-29' | add(years=1)", "2025-02-28"),
        ("start.date | add(hours=25)", "2026-02-01T01:00:00Z"),
        ("now | timezone('America/New_York') | date('%d.%m.%Y %H:%M')", "02.02.2026 23:05"),
        ("'0999-01-02' | date('100%%Y %%%Y %F %T')", "100%Y %0999 0999-01-02 00:00:00"),
        ("'2026-07-01T12:00:00+02:00' | datetime", "2026-07-01T12:00:00+02:00"),
        ("'Tue, 03 Feb 2026 04:05:06 GMT' | datetime == now", True),
        ("1770091506 | date('%Y-%m-%d %H:%M:%S')", "2026-02-03 04:05:06"),
        ("'2026-01-01' | days_until(now)", 33),
        ("start.date | date('%A, %e %B 100%%')", "Saturday, 31 January 100%"),
        ("now.date()", "2026-02-03"),
        ("steps.issue.output.items | map(attribute='id') | list", [1, 2]),
        ("steps.issue.output.items | map(attribute='gone', default=0)", [0, 0]),
        ("steps.issue.output.items | selectattr('state', 'equalto', 'open') | map(attribute='id') | first", 1),
        ("steps.issue.output.items | rejectattr('state', 'equalto', 'open') | length", 1),
        ("steps.issue.output.items | selectattr('gone') | list", []),
        ("steps.issue.output.items | sum(attribute='id')", 3),
        ("steps.issue.output.items | sort(attribute='id', reverse=true) | map(attribute='id') | join('-')", "2-1"),
        ("steps.issue.output.items | join(', ', attribute='state')", "open, shut"),
        ("steps.issue.output.items | find('state', 'shut') | lookup('id')", 2),
        ("steps.tags.output | unique | sort", ["a", "b"]),
        ("steps.tags.output | map('upper') | join", "BAB"),
        ("[1, true, '1', 1.0] | unique", [1, True, "1"]),
        ("[3, 1, 2] | sort | last + ([3, 1] | min)", 4),
        ("['b', 'A', 'c'] | sort", ["A", "b", "c"]),
        ("[1, 2, 3, 4] | select('odd') | list", [1, 3]),
        ("[0, 1, none, ''] | select", [1]),
        ("'1e3' | int", 1000),
        ("'x' | int(0)", 0),
        ("'x' | float(none)", None),
        ("'off' | bool", False),
        ("2.5 | round", 3),
        ("1234.567 | round(-2)", 1200),
        ("1.21 | round(1, 'ceil')", 1.3),
        ("'jean-luc o\\'neil' | title", "Jean-Luc O'neil"),
        ("{'a b': 'c&d'} | urlencode", "a+b=c%26d"),
        ("'a/b' | urlencode", "a%2Fb"),
        ("'2026-10' | regex_match('[0-9]{4}-[0-9]{2}')", True),
        ("'tel. 0123 456' | regex_replace('[^0-9]+', '')", "0123456"),
        ("'abc' | regex_replace('x*', '-')", "-a-b-c-"),
        ("'abc' | regex_replace('(b)', '\\\\1')", "a\\1c"),
        ("start.email is match('[^@]+@example[.]com')", True),
        ("steps.tags.output is contains('a')", True),
        ("start.count is number and start.count is not string and start.count is odd", True),
        ("4 is divisibleby 2 and 'a' in 'cat' and 3 is in [3]", True),
        ("device is mapping and steps.tags.output is sequence and start.none is none", True),
        ("'abc' | reverse + ('abc' | truncate(2))", "cbaa…"),
        ("[[1], [2, 3], 4] | flatten", [1, 2, 3, 4]),
    ],
)
def test_filters_and_tests_give_what_their_names_say(expression: str, expected: Any) -> None:
    found = value(expression)
    assert found == expected
    assert type(found) is type(expected)


def test_an_uploaded_file_is_loaded_when_its_base64_is_asked_for() -> None:
    stored = {"file_1": b"\x00\xff!"}
    found = fill("{{ start.upload | base64 }}", NAMES, load_file=stored.__getitem__)
    assert base64.b64decode(found) == b"\x00\xff!"
    with pytest.raises(ExpressionError, match="not there"):
        fill("{{ start.upload | base64 }}", NAMES, load_file=dict[str, bytes]().__getitem__)
    with pytest.raises(ExpressionError):
        fill("{{ start.upload | base64 }}", NAMES)


@pytest.mark.parametrize("name", sorted(filters.FILTERS))
def test_every_filter_has_a_line_and_an_example_that_works(name: str) -> None:
    entry = filters.FILTERS[name]
    assert entry.doc.endswith(".")
    assert name in entry.example
    fill(f"{{{{ {entry.example} }}}}", {})


def test_the_docs_list_every_filter_test_and_method_and_their_examples_are_true() -> None:
    page = (Path(__file__).parents[2] / "docs/expressions.md").read_text(encoding="utf-8")
    for name, entry in filters.FILTERS.items():
        result = json.dumps(fill(f"{{{{ {entry.example} }}}}", {}), ensure_ascii=False)
        usage = entry.usage(name).replace("|", "\\|")
        assert f"| `{usage}` | {entry.doc} | `{entry.example.replace('|', chr(92) + '|')}` | `{result}` |" in page
    for name, entry in filters.TESTS.items():
        assert f"| `{entry.usage(name)}` | {entry.doc} |" in page
    for name in filters.METHOD_NAMES:
        assert f"`{name}`" in page


# -- Jinja's own opinion -------------------------------------------------------------------------------------------------
SAME = [
    "1 + 2 * 3 ** 2",
    "2 ** 3 ** 2",
    "-2 ** 2",
    "7 // -2",
    "-7 % 3",
    "1 < 2 < 3",
    "1 < 3 < 2",
    "not 1 == 2 or false",
    "1 if 0 else 2",
    "a and b",
    "a or b",
    "x.y.z",
    "x['y']['z']",
    "x.l[1:]",
    "x.l[::-1]",
    "x.l[-1]",
    "'a' in 'abc'",
    "3 not in x.l",
    "'%s' is string",
    "x.l | join('-')",
    "x.l | map('string') | list",
    "x.l | select('odd') | list",
    "x.l | reject('odd') | list",
    "x.l | sum",
    "x.l | max",
    "x.l | sort(reverse=true)",
    "x.l | first + x.l | last",
    "'a b' | title",
    "'abc' | replace('b', 'x')",
    "x.o | map(attribute='k') | list",
    "x.o | selectattr('k', 'gt', 1) | list",
    "x.o | sum(attribute='k')",
    "' a ' | trim",
    "'Ab' | lower + 'Ab' | upper",
    "'abc' | length",
    "{'a': 1}.get('b', 2)",
    "'a,b'.split(',')",
    "1 is odd",
    "2 is even",
    "none is none",
    "x is mapping",
    "x.l is sequence",
    "5 is divisibleby 5",
    "'a' is in 'abc'",
    "(1, 2, 3) | list",
    "x.l | unique | list",
    "'a' 'b'",
    "gone | default(3)",
    "gone is defined",
    "1.5e3",
    "[1, 2][0] if true else 3",
    "x.l | length > 2 and x.l[0] == 1",
    "+1",
    "1 - -1",
]


@pytest.mark.parametrize("expression", SAME)
def test_an_expression_means_what_it_means_in_jinja(expression: str) -> None:
    names = {"a": 0, "b": 5, "x": {"y": {"z": "deep"}, "l": [1, 2, 3, 3], "o": [{"k": 1}, {"k": 2}]}}
    assert fill(f"{{{{ {expression} }}}}", names) == NativeEnvironment().compile_expression(expression)(**names)


# -- Attacks -----------------------------------------------------------------------------------------------------------
ESCAPES = [
    "''.__class__",
    "''.__class__.__mro__[1].__subclasses__()",
    "start.__class__",
    "start.name.__class__",
    "().__class__.__bases__",
    "''['__class__']",
    "start | attr('__class__')",
    "[start] | map(attribute='__class__') | list",
    "start.name | lookup('__class__')",
    "start | lookup('__class__.__init__')",
    "start.items.__func__",
    "start.get.__self__",
    "now.__class__",
    "now.__reduce__()",
    "now.strftime.__globals__",
    "cycler.__init__.__globals__.os",
    "joiner.__init__",
    "namespace.__init__",
    "lipsum.__globals__",
    "lipsum(5)",
    "cycler('a')",
    "joiner(',')",
    "namespace(a=1)",
    "dict(a=1)",
    "range(10)",
    "range(999999999) | list",
    "self",
    "self.__init__",
    "self._TemplateReference__context",
    "super()",
    "caller()",
    "loop",
    "loop.index",
    "varargs",
    "kwargs",
    "_",
    "request",
    "config",
    "settings",
    "url_for.__globals__",
    "get_flashed_messages",
    "g",
    "__builtins__",
    "__import__('os')",
    "'{0.__class__}'.format(start)",
    "'{}'.format(1)",
    "'{a}'.format_map(start)",
    "'%s' % start",
    "'%99999999d' % 1",
    "'%s' | format(1)",
    "'{0}' | format(start)",
    "'a'.ljust(10**9)",
    "'a'.rjust(10**9)",
    "'a'.center(10**9)",
    "'1'.zfill(10**9)",
    "'a' | center(10**9)",
    "'a' | indent(10**9)",
    "'\\t'.expandtabs(10**9)",
    "'a' | wordwrap(1)",
    "'a'.join(['b'])",
    "'a'.translate({97: 'b'})",
    "'a'.encode()",
    "'a'.maketrans('a', 'b')",
    "'a' | pprint",
    "'a' | xmlattr",
    "'a' | safe",
    "'a' | escape | attr('x')",
    "['a'] * 10**9",
    "'a' * 10**9",
    "10**9 * 'a'",
    "[0] * 3",
    "start * 2",
    "10 ** (10 ** 9)",
    "(10 ** 300) ** 300",
    "1e308 * 10",
    "(-8) ** 0.5",
    "1 / 0",
    "1 // 0",
    "1 % 0",
    "0 ** -1",
    "2.0 ** (10 ** 4)",
    "start.list.append(1)",
    "steps.tags.output.append('x')",
    "steps.tags.output.pop()",
    "steps.tags.output.clear()",
    "steps.tags.output.sort()",
    "steps.tags.output.extend([1])",
    "steps.tags.output.insert(0, 1)",
    "steps.tags.output.reverse()",
    "start.update({'a': 1})",
    "start.pop('email')",
    "start.popitem()",
    "start.setdefault('a', 1)",
    "start.clear()",
    "start.__setitem__('a', 1)",
    "now.replace(year=1)",
    "'a' | map('attr', '__class__')",
    "['a'] | map('attr', '__class__') | list",
    "['a'] | map('map', 'attr', 'x')",
    "[1] | batch(10**9)",
    "'a' | select('nothing')",
    "[1] | select(1)",
    "[1] | map(1)",
    "[1] | map()",
    "'1' * 4400 | int",
    "start | sort",
    "[1, 'a'] | sort",
    "[[1], [2]] | sort",
    "{1: 2}",
    "{none: 1}",
    "start[start]",
    "start[[1]]",
    "'abc'[true]",
    "'abc'[::0]",
    "'abc'['a':'b']",
    "'a' < 1",
    "none < 1",
    "'a' + 1",
    "start + start",
    "none + 1",
    "-'a'",
    "+'a'",
    "'x' in 5",
    "5 in 'x'",
    "now - now",
    "now + 1",
    "now * 2",
    "0 | datetime | add(days=10**12)",
    "0 | datetime | add(years=9000)",
    "'x' | date('%Y')",
    "now | date('%999999999Y')",
    "now | date('%-d')",
    "now | date('%')",
    "now | date('%s')",
    "10**20 | datetime",
    "'../../etc/passwd' | timezone('x')",
    "now | timezone('../../etc/passwd')",
    "now | timezone('/etc/passwd')",
    "'a' | regex_match('(')",
    "'a' | regex_match('(?=a)')",
    "'a' | regex_match('(a{1000}){1000}')",
    "'a' | regex_replace('\\\\1', '')",
    "'a' | split('')",
    "'abc' | from_json",
    "'NaN' | from_json",
    "'Infinity' | from_json",
    "'[' | from_json",
    "'1e999' | from_json",
    "'inf' | float",
    "'nan' | float",
    "'!!' | from_base64",
    "'/w==' | from_base64",
    "'\\ud800' | urlencode",
    "'\\ud800' | base64",
    "{'id': 'x'} | base64",
    "{'id': 5} | base64",
    "[1] | base64",
    "none | length",
    "5 | length",
    "5 | first",
    "start | round",
    "'x' | round(9**99)",
    "1.5 | round(1, 'nothing')",
    "start | json(indent=10**9, work=1)",
    "'a' | upper(value='b')",
    "'a' | upper(work=1)",
    "start.name.upper(1)",
    "start.name.split(sep=1)",
    "start.get()",
    "start.get(1)",
    "start.get({})",
    "start()",
    "start.email()",
    "'a'()",
    "(1)()",
    "start.items(1)",
    "[1, 2] | join(5.5, 'x')",
    "['a'] | join('', attribute='b')",
    "[none] | sum",
    "['a'] | sum",
    "[1] | sum(start='a')",
    "start | sum",
]


@pytest.mark.parametrize("number", range(len(ESCAPES)))
def test_an_attack_ends_in_an_error_and_changes_nothing(number: int) -> None:
    names = copy.deepcopy(NAMES)
    names["start"].pop("yes")
    before = copy.deepcopy(names)
    started = time.thread_time()
    with pytest.raises(ExpressionError):
        fill(f"{{{{ {ESCAPES[number]} }}}}", names)
    assert time.thread_time() - started < 1
    assert names == before


STATEMENTS = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% set x = start %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends 'x' %}",
    "{% macro f() %}{% endmacro %}",
    "{% call f() %}{% endcall %}",
    "{% filter upper %}x{% endfilter %}",
    "{% if true %}x{% endif %}",
    "{% with a = 1 %}{% endwith %}",
    "{% do x.append(1) %}",
    "{% block x %}{% endblock %}",
    "{% autoescape true %}{% endautoescape %}",
    "{%",
    "{{",
    "{# x",
    "{{ 1 }",
    "{{ 1 }} {%",
    "{{ {{ 1 }} }}",
    "{{ 1; 2 }}",
    "{{ a = 1 }}",
    "{{ a := 1 }}",
    "{{ lambda: 1 }}",
    "{{ `a` }}",
    "{{ a.b! }}",
]


@pytest.mark.parametrize("number", range(len(STATEMENTS)))
def test_statements_and_broken_texts_are_faults(number: int) -> None:
    assert check(STATEMENTS[number])
    with pytest.raises(ExpressionError):
        fill(STATEMENTS[number], NAMES)


BIG = "ab " * 700_000
WORDS = [f"word {number}" for number in range(150_000)]
OBJECTS = [{"k": str(number), "v": [number]} for number in range(60_000)]
DEEP: Any = []
for _ in range(900):
    DEEP = [DEEP]
COSTLY = [
    "big | upper | lower | title | capitalize",
    "big | split | join(big)",
    "big | split | map('upper') | join(' ') | split | sort | unique | join",
    "big | replace('a', big)",
    "big | replace('', big)",
    "big | replace('ab ', '') | length",
    "big | list | sort",
    "big | title",
    "words | sort | reverse | unique | map('upper') | map('lower') | map('title') | join",
    "words | map('replace', 'w', big) | join",
    "words | map('default', big, true) | join",
    "words | map('map', 'upper')",
    "[big, big, big] | map('split') | map('sort') | map('join') | join",
    "words | select('in', words) | list",
    "words | select('equalto', big) | list",
    "words | select('in', big) | list",
    "objects | select('in', objects) | list",
    "objects | unique | sort(attribute='k') | map(attribute='v') | flatten | sum",
    "objects | json | from_json | json | from_json | json",
    "objects == (objects | json | from_json)",
    "objects | map('json') | map('from_json') | map('json') | join",
    "words | map('regex_replace', '[a-z]', big) | join",
    "big | regex_match('(a|b| )*')",
    "big | regex_match('([ab ]?){300}c')",
    "big | regex_replace('a.*c|a', '')",
    "big | regex_replace('', '-')",
    "big | regex_search('[ab]*a[ab ]{200}c')",
    "big | slugify",
    "big | urlencode",
    "words | map('regex_match', '(x+x+)+y') | list",
    "big | base64 | from_base64 | base64",
    "big[::2] + big[::3] + big[::-1]",
    "big | reverse == big",
    "(words | map('default', big) | list) + (words | map('default', big) | list) | sort",
    "deep | json",
    "deep",
    "deep == deep2",
    "[deep, deep] | flatten",
    "words | groupby('length')",
    "objects | groupby('k') | map(attribute='items') | list",
    "words | map('slugify') | map('base64') | map('urlencode') | join(',')",
    "objects | map('merge', objects[0]) | list | json",
    "words | map('date') | list",
    "words | map('int', 0) | sum",
    "big | trim(big) | length",
    "big is search(big)",
    "words | map('split', 'o') | map('join', big) | list",
    "big in big + 'x'",
    "big | splitlines | length",
    "big.count('a') + big.find('x')",
    "words | join | from_json",
    "('[' * 3) | json",
    "words | map('truncate', 3) | unique | length",
    "objects | find('k', 'gone') | default(1)",
    "objects | selectattr('v', 'contains', 5) | selectattr('k', 'match', '[0-9]+') | list",
    "[words] | map('sort') | map('reverse') | map('sort') | list",
    "[objects, objects, objects, objects, objects, objects, objects, objects] | json",
    "words | map('timezone', 'Europe/Berlin') | list",
]


@pytest.mark.parametrize("number", range(len(COSTLY)))
def test_nothing_takes_much_longer_than_a_second_or_grows_large(number: int) -> None:
    deep2: Any = []
    for _ in range(900):
        deep2 = [deep2]
    names = {"big": BIG, "words": WORDS, "objects": OBJECTS, "deep": DEEP, "deep2": deep2}
    started = time.thread_time()
    try:
        found: Any = fill(f"{{{{ {COSTLY[number]} }}}}", names)
    except ExpressionError:
        found = None
    took = time.thread_time() - started
    assert took < 1.2, f"{took:.2f} s"
    assert len(json.dumps(found)) < 2 * filters.MOST_WORK


def test_a_text_that_grows_by_repetition_is_bounded_as_a_whole() -> None:
    with pytest.raises(ExpressionError, match="too much"):
        fill(["{{ a }}{{ a }}{{ a }}"] * 1000, {"a": "x" * 100_000})
    with pytest.raises(ExpressionError, match="too much"):
        fill("{{ [" + ", ".join(["a"] * 300) + "] }}", {"a": ["x"] * 100_000})


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "[" * 500_000,
        "{{ " + "-" * 10_000 + "1 }}",
        "{{ " + "not " * 10_000 + "1 }}",
        "{{ " + "1 + " * 10_000 + "1 }}",
        "{{ a" + ".b" * 10_000 + " }}",
        "{{ a" + "|upper" * 10_000 + " }}",
        "{{ [" + "1, " * 400 + "] }}",
        "{{ " + "1" * 10_000 + " }}",
        "{{ " + "1_" * 200_000 + " }}",
        "{{ '" + "\\" * 300_001 + " }}",
        "{{ '" + "a" * 900_000 + " }}",
        "{{" * 200_000,
        "{{ 1 }}" * 30_000,
        "{#" * 200_000,
        "{% raw " * 100_000,
        "{% raw" + " " * 900_000,
        "{{ 1 }}" + "x" * 3_000_000,
        "{{ {" + "'a': " * 2000 + "1" + "}" * 10,
        "{{ " + "a if b else " * 5000 + "c }}",
        "{{ \x00 }}",
        "{{ \ud800 }}",
    ],
    ids=range(22),
)
def test_a_text_made_to_be_slow_to_read_is_refused_soon(text: str) -> None:
    started = time.thread_time()
    assert check(text)
    assert time.thread_time() - started < 1


def test_values_that_json_has_not_do_not_come_out() -> None:
    for bad in (object(), b"bytes", {1: 2}, {"a": {1, 2}}, float("nan"), [float("inf")], print):
        with pytest.raises(ExpressionError):
            fill("{{ bad }}", {"bad": bad})
    assert fill("{{ good }}", {"good": (date(2026, 1, 2), 1)}) == ["2026-01-02", 1]


def test_an_object_of_python_is_not_entered() -> None:
    class Holder:
        secret = "s"

        def reveal(self) -> str:
            return self.secret

    for expression in (
        "h.secret",
        "h.reveal()",
        "h['secret']",
        "[h] | map(attribute='secret')",
        "h | lookup('secret')",
    ):
        with pytest.raises(ExpressionError):
            value(expression, h=Holder())


def test_compiled_expressions_are_kept() -> None:
    text = "{{ start.count + 40001 }}"
    assert expressions._compiled(text) is expressions._compiled(text)


# -- Whatever is written -------------------------------------------------------------------------------------------------
WORD = st.sampled_from(
    ["start", "steps", "now", "big", "words", "start.name", "start.list", "steps.issue.output.items", "1", "0", "-1", "10", "'a'",
     "''", "true", "none", "[]", "{}", "[1, 2]", "{'a': 1}", "gone", "deep", "9**99", "1e300", "__class__", "'%s'"]
)  # fmt: skip
FILTER_NAMES = st.sampled_from(sorted(filters.FILTERS))
TEST_NAMES = st.sampled_from(sorted(name for name in filters.TESTS if name.isalpha()))
NAME_TEXT = st.sampled_from([f"'{name}'" for name in (*filters.FILTERS, *filters.TESTS)])


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    args = st.lists(inner | NAME_TEXT, max_size=3).map(", ".join)
    return st.one_of(
        st.tuples(
            inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "==", "<", "in", "and", "or", "~"]), inner
        ).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(inner, FILTER_NAMES, args).map(lambda parts: f"({parts[0]} | {parts[1]}({parts[2]}))"),
        st.tuples(inner, TEST_NAMES, args).map(lambda parts: f"({parts[0]} is {parts[1]}({parts[2]}))"),
        st.tuples(inner, st.sampled_from(sorted(filters.METHOD_NAMES)), args).map(
            lambda parts: f"({parts[0]}).{parts[1]}({parts[2]})"
        ),
        st.tuples(inner, inner).map(lambda parts: f"({parts[0]})[{parts[1]}]"),
        st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} if {parts[1]} else {parts[2]})"),
        st.lists(inner, max_size=4).map(lambda parts: f"[{', '.join(parts)}]"),
    )


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.recursive(WORD, grown, max_leaves=12))
def test_any_expression_gives_json_or_an_expression_error_soon_and_changes_nothing(expression: str) -> None:
    names = NAMES | {"big": "ab " * 5000, "words": [f"w{number}" for number in range(500)], "deep": [[[[[["x"]]]]]]}
    before = copy.deepcopy(names)
    started = time.thread_time()
    try:
        found = fill(f"{{{{ {expression} }}}}", names)
    except ExpressionError:
        pass
    else:
        json.dumps(found, allow_nan=False)
    assert time.thread_time() - started < 1.2
    assert names == before


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("{}%#| .()[]'\"+-*/~=<>abstring01,:\\\n\r\x00é"), max_size=60))
def test_any_text_is_either_fine_or_a_fault(text: str) -> None:
    fault = check(text)
    try:
        fill(text, NAMES)
    except ExpressionError:
        return
    assert fault is None
