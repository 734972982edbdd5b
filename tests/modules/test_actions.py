"""The installation's own Python: found by entry points, and by nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.modules import actions


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package as pip leaves it behind: a module, and its metadata beside it."""
    (tmp_path / "company_actions.py").write_text("def total(items):\n    return sum(items)\n\nNUMBER = 5\n")
    info = tmp_path / "company-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: company\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[jackfield.actions]\ncompany.actions.total = company_actions:total\n"
        "company.actions.number = company_actions:NUMBER\ncompany.actions.lost = company_actions:lost\n"
        "[console_scripts]\nother = company_actions:total\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    actions.reload()
    yield
    actions.reload()
    sys.modules.pop("company_actions", None)


@pytest.mark.usefixtures("installed")
def test_an_action_is_found_by_the_name_that_its_package_registers() -> None:
    assert {"company.actions.lost", "company.actions.number", "company.actions.total"} <= set(actions.names())
    total = actions.find("company.actions.total")
    assert total is not None
    assert total(items=[1, 2]) == 3


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["os.system", "company_actions.total", "company_actions:total", "other", ""])
def test_what_is_not_registered_is_not_found(name: str) -> None:
    assert actions.find(name) is None


@pytest.mark.usefixtures("installed")
def test_knowing_the_names_imports_nothing() -> None:
    assert "company.actions.total" in actions.names()
    assert "company_actions" not in sys.modules


@pytest.mark.usefixtures("installed")
def test_what_is_registered_and_cannot_be_called_says_so() -> None:
    with pytest.raises(TypeError, match=r"company.actions.number of jackfield.actions is not callable"):
        actions.find("company.actions.number")
    with pytest.raises(AttributeError):
        actions.find("company.actions.lost")


def test_a_final_error_carries_its_details() -> None:
    error = actions.FinalError("No such account.", {"account": 5})
    assert (str(error), error.details) == ("No such account.", {"account": 5})
