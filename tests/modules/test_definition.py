"""The format of definitions: what the models take, what their JSON Schema says, and that the engine can read them alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from django.core.management import call_command
from pydantic import BaseModel, ValidationError

from apps.modules import checks
from apps.modules import definition as definition_module
from apps.modules.definition import Definition, seconds_of, walk, with_mentions
from apps.modules.format import keys_of

from .definitions import ONBOARD, definition

ROOT = Path(__file__).resolve().parent.parent.parent


def schema_says(data: Any) -> bool:
    return jsonschema_rs.Draft202012Validator(checks.json_schema()).is_valid(data)


def test_the_example_of_the_contract_parses_as_printed_and_the_same_as_json() -> None:
    data, faults = checks.read(ONBOARD)
    assert faults == []
    assert checks.read(json.dumps(data)) == (data, [])
    assert Definition.model_validate(data).by_id.keys() >= {"record", "stop", "order", "calc"}
    assert schema_says(data)


def test_a_definition_that_was_written_out_reads_back_the_same() -> None:
    first = Definition.model_validate(checks.read(ONBOARD)[0])
    forms: list[dict[str, Any]] = [{}, {"exclude_defaults": True}, {"exclude_unset": True}]
    for form in forms:
        written = first.model_dump(mode="json", by_alias=True, **form)
        assert Definition.model_validate(json.loads(json.dumps(written))).model_dump() == first.model_dump()


@pytest.mark.parametrize("module", ["definition", "parameters", "source", "format", "order", "names", "contents"])
def test_the_format_can_be_read_without_django(module: str) -> None:
    code = f"import sys, apps.modules.{module}; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_steps_are_walked_in_the_order_in_which_they_are_written() -> None:
    steps = Definition.model_validate(checks.read(ONBOARD)[0]).steps
    ids = [step.id for step in walk(steps)]
    assert ids == [
        "record",
        "issue",
        "details",
        "ok",
        "branch",
        "note",
        "stop",
        "kind",
        "small",
        "middle",
        "large",
        "each",
        "order",
        "pause",
        "sub",
        "calc",
    ]
    assert [step.kind for step in steps][:5] == ["request", "tool", "form", "approve", "condition"]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("1w", 604800),
        (7, 7),
        ("7", 7),
        ("1.5 h", 5400),
        (0, 0),
    ],
)
def test_a_duration_is_read(written: Any, seconds: float) -> None:
    assert seconds_of(written) == seconds


@pytest.mark.parametrize(
    "written", ["5 years", "", "-1s", -1, True, None, "400d", "1e3s", "٣s", [], "9" * 50 + "s"], ids=repr
)
def test_what_is_no_duration_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match="a duration is"):
        seconds_of(written)


@pytest.mark.parametrize(
    "step",
    [
        {"set": {}, "required": "x"},
        {"when": 1, "set": {}},
        {"parallel": "5", "for_each": []},
        {"request": {"url": "https://x.example", "follow": "yes"}},
        {"request": {"url": "https://x.example", "accept": ["404"]}},
        {"form": {"title": "x"}},
        {"form": {"title": "x", "fields": []}},
        {"wait": True},
        {"wait": {"until": "x", "event": "y"}},
        {"request": {"url": "https://x.example", "json": {}, "body": "x"}},
        {"set": {}, "retry": {"on": ["sometimes"]}},
        {"id": "_under", "set": {}},
        {"set": {}, "on_error": "goto"},
        {"run": "A b"},
        {"form": {"title": "x", "fields": [{"name": "a", "label": "a"}, {"name": "a", "label": "b"}]}},
    ],
    ids=lambda step: json.dumps(step)[:60],
)
def test_what_is_not_of_the_format_is_refused(step: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Definition.model_validate({"name": "m", "steps": [{"id": "s", **step}]})


@pytest.mark.parametrize(
    "step",
    [
        {"set": {}, "fail": "no"},
        {},
        {"tool": 5},
        {"with_": {}, "code": "a"},
        {"parallel": "5", "for_each": []},
        {"set": {}, "onError": "fail"},
        {"form": {"title": "x", "fields": [{"name": "a", "label": 5}]}},
        {"wait": True},
        {"set": {}, "parallel": 51},
    ],
    ids=lambda step: json.dumps(step)[:60],
)
def test_the_json_schema_refuses_what_the_models_and_checks_refuse(step: dict[str, Any]) -> None:
    data = definition(step)
    assert not schema_says(data)
    assert checks.check(json.dumps(data), None)[1]


def test_a_value_is_never_made_into_another_type() -> None:
    """A text ``yes`` is no boolean, a number no text: YAML 1.2, the JSON Schema and the models agree."""
    data = checks.read(
        "name: m\nsteps: [{id: s, set: {}}]\nstart_parameters: [{name: A, api_name: a, type: text, required: yes}]"
    )[0]
    assert data["start_parameters"][0]["required"] == "yes"
    assert not schema_says(data)
    with pytest.raises(ValidationError, match="valid boolean"):
        Definition.model_validate(data)


def test_the_message_alone_may_stand_for_a_fail() -> None:
    data = definition({"fail": "Nothing to do."})
    found = Definition.model_validate(data).steps[0].fail
    assert found is not None
    assert found.message == "Nothing to do."
    assert schema_says(data)


def test_the_item_of_a_for_each_has_a_name_where_none_is_given() -> None:
    plain, named = (
        {"for_each": [1], "do": [{"id": "x", "set": {}}]},
        {"for_each": [1], "as": "row", "do": [{"id": "y", "set": {}}]},
    )
    steps = Definition.model_validate(definition(plain, named)).steps
    assert [step.item_name for step in steps] == ["item", "row"]


def test_a_mention_is_read_as_the_expression_it_means() -> None:
    step = {"form": {"title": "For @[Employee Name]", "fields": [{"name": "a", "label": "{{ @[Number] + 1 }}"}]}}
    read = Definition.model_validate(definition(step, result={"of": ["@[ Number ]"]}))
    assert read.steps[0].form is not None
    assert read.steps[0].form.title == "For {{ start.name }}"
    assert read.steps[0].form.all_pages[0].fields[0].label == "{{ start.number + 1 }}"
    assert read.result == {"of": ["{{ start.number }}"]}
    assert read.start_parameters[0].name == "Employee Name"


def test_a_mention_of_nobody_stays_as_it_stands() -> None:
    data = definition({"set": {"a": "@[Nobody] and @[Number]"}})
    assert with_mentions(data)["steps"] == data["steps"]


def test_the_json_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("module_schema")
    printed = json.loads(capsys.readouterr().out)
    assert printed == checks.json_schema()
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(printed)


# -- The documentation -----------------------------------------------------------------------------------------------
def yaml_blocks() -> dict[str, str]:
    """Every example of the reference; steps alone as a definition of them."""
    text = (ROOT / "docs/modules.md").read_text(encoding="utf-8")
    found = {}
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)):
        parameters = "[{name: Name, api_name: name, type: text}, {name: N, api_name: number, type: number}]"
        head = f"name: example\nstart_parameters: {parameters}\n"
        found[f"block-{number}"] = f"{head}steps:\n{block}" if block.startswith("- ") else block
    return found


@pytest.mark.parametrize("name", yaml_blocks())
def test_every_example_of_the_reference_is_without_faults(name: str) -> None:
    text = yaml_blocks()[name]
    assert checks.check(text, None)[1] == []
    assert schema_says(checks.read(text)[0])


def test_the_reference_names_every_key_of_the_format() -> None:
    text = (ROOT / "docs/modules.md").read_text(encoding="utf-8")
    models = [
        value for value in vars(definition_module).values() if isinstance(value, type) and issubclass(value, BaseModel)
    ]
    keys = {key for model in models for key in keys_of(model)}
    assert sorted(key for key in keys if not re.search(rf"`(?:[^`]*[{{\[ ,])?{key}\b", text)) == []
