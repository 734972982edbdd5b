"""The runner that is shipped for tests of modules: what docs/modules-testing.md shows is so."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from apps.runs.engine import StepError, run_in_memory

from .modules import module, request

PAGE = Path(__file__).resolve().parents[3] / "docs/modules-testing.md"


def test_the_example_of_the_docs_is_a_test_that_passes() -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, str(PAGE), "exec"), names)
    names["test_nobody_gets_a_laptop_by_waiting"]()


def test_every_argument_stands_in_the_docs() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert not [name for name in inspect.signature(run_in_memory).parameters if not re.search(rf"\b{name}\b", text)]


def test_a_step_without_a_function_is_told() -> None:
    with pytest.raises(LookupError, match=r"The step a needs a function for Perform\."):
        run_in_memory(module(request("a")))


def test_a_signal_comes_when_it_is_waited_for() -> None:
    step = {"id": "w", "wait": {"event": "paid"}}
    assert run_in_memory(module(step, result="{{ steps.w.output }}"), signals={"paid": 3}).result == 3
    assert run_in_memory(module(step)).status == "running"


def test_a_form_that_nobody_answers_goes_on_with_its_defaults_where_it_says_so() -> None:
    form = {
        "title": "?",
        "deadline": 60,
        "on_deadline": "continue",
        "fields": [{"name": "x", "label": "x", "default": "{{ start.n }}"}],
    }
    machine = run_in_memory(
        module({"id": "f", "form": form}, result="{{ steps.f.output }}"), {"n": 4}, answer=lambda question: None
    )
    assert machine.result == {"x": 4}


def test_a_dictionary_is_a_definition_too() -> None:
    given = {"name": "m", "steps": [{"id": "f", "fail": "enough"}]}
    machine = run_in_memory(given)
    assert isinstance(machine.error, StepError)
    assert machine.error.message == "enough"
