"""`manage.py apply`, `export_module` and `import_module`: what they change, what they show, what they leave alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command

from apps.connections.integrations import configure
from apps.connections.models import Integration
from apps.modules import apply, services
from apps.modules.models import Group, Module, ModuleKey, ModuleVersion
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import ApiKey, AuditEvent, Plan, Project, User, Workspace
from apps.workspaces.services import create_project, issue_key
from tests.cast import Cast

MODULE = """\
title: Onboard
steps:
  - {id: hello, set: {text: hello}}
"""
FILE = """\
workspace: Acme
project: Shop
settings:
  colour: "#112233"
  allowed_origins: ["https://App.Example:443"]
  confirm_connections: true
plan:
  name: Team
  calls_per_day: 1000
  concurrent_runs: 5
integrations:
  - toolkit: github
    client_id: ${GITHUB_ID}
    client_secret: {from_env: GITHUB_SECRET}
    scopes: [repo]
  - toolkit: sandbox
groups:
  buyers: [Ada@Example.com, bob@example.com]
modules:
  - file: modules/onboard.yaml
    note: From git
  - definition:
      name: hr/leave
      access: public
      steps: [{id: a, set: {n: 1, on: yes}}]
  - definition: {name: later, steps: [{id: a, set: {n: 1}}]}
    publish: false
keys:
  - {name: backend, scopes: [execute, runs], toolkits: [github]}
"""
Run = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file above, its module, and its environment."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/onboard.yaml").write_text(MODULE)
    (tmp_path / "project.yaml").write_text(FILE)
    monkeypatch.setenv("GITHUB_ID", "id-1")
    monkeypatch.setenv("GITHUB_SECRET", "very-secret-1")
    return tmp_path


def ran(command: str, *arguments: Any, **options: Any) -> str:
    out, err = io.StringIO(), io.StringIO()
    call_command(command, *map(str, arguments), stdout=out, stderr=err, **options)
    return out.getvalue() + err.getvalue()


def applied(folder: Path, *options: str) -> str:
    return ran("apply", folder / "project.yaml", "--yes", *options)


def changed(folder: Path, old: str, new: str) -> None:
    """The file with another text in it."""
    file = folder / "project.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(CommandError) as error:
        act()
    return str(error.value)


def everything() -> list[Any]:
    """All that applying could change."""
    models = (Workspace, Project, Plan, User, Integration, Group, Module, ModuleVersion, ModuleKey, ApiKey, AuditEvent)
    return [list(model._default_manager.order_by("pk").values()) for model in models]


def test_a_whole_project_is_brought_about_and_a_second_time_changes_nothing(cast: Cast, folder: Path) -> None:
    told = applied(folder)
    project = Project.objects.get(pk=cast.project.pk)
    assert (project.colour, project.allowed_origins, project.confirm_connections) == (
        "#112233", ["https://app.example"], True,
    )  # fmt: skip
    plan = Workspace.objects.get(pk=cast.workspace.pk).plan
    assert (plan.name, plan.calls_per_day, plan.concurrent_runs, plan.keys) == ("Team", 1000, 5, None)
    github = Integration.objects.get(project=project, toolkit="github")
    assert (github.client_id, github.unseal("client_secret"), github.scopes) == ("id-1", "very-secret-1", ["repo"])
    assert Integration.objects.filter(project=project, toolkit="sandbox", enabled=True).exists()
    assert Group.objects.get(project=project, name="buyers").members == ["ada@example.com", "bob@example.com"]
    onboard, leave, later = (services.find(project, name) for name in ("onboard", "hr/leave", "later"))
    assert onboard.published is not None
    assert (onboard.published.number, onboard.published.note) == (1, "From git")
    assert leave.published is not None
    assert leave.published.definition["steps"][0]["set"] == {"n": 1, "on": "yes"}
    assert later.published is None
    key = ApiKey.objects.get(project=project, name="backend")
    assert (key.scopes, key.toolkits) == (["execute", "runs"], ["github"])
    (secret,) = [line.split()[2] for line in told.splitlines() if line.startswith("key backend ")]
    assert ApiKey.digest_of(secret) == key.digest
    (module_key,) = [line.split()[2] for line in told.splitlines() if line.startswith("module onboard ")]
    assert ModuleKey.digest_of(module_key) == onboard.keys.get().digest
    assert "very-secret-1" not in told
    assert "id-1" not in told

    before = everything()
    assert applied(folder).strip() == "Nothing to change."
    assert everything() == before


def test_only_what_differs_is_changed_and_shown(cast: Cast, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    applied(folder)
    changed(folder, "scopes: [repo]", "scopes: [repo, gist]")
    changed(folder, ", bob@example.com", ", eve@example.com")
    changed(folder, "calls_per_day: 1000", "calls_per_day: null")
    (folder / "modules/onboard.yaml").write_text(MODULE.replace("text: hello", "text: hi"))
    monkeypatch.setenv("GITHUB_SECRET", "very-secret-2")
    events = AuditEvent.objects.count()
    told = applied(folder).splitlines()
    assert told == [
        "~ plan Team: calls_per_day 1000 -> none",
        "~ integration github: client_secret; scopes repo -> repo, gist",
        "~ group buyers: +eve@example.com, -bob@example.com",
        "~ module onboard: draft, published as version 2",
        "Changed: 4.",
    ]
    assert AuditEvent.objects.count() == events + 5
    assert Integration.objects.get(toolkit="github").unseal("client_secret") == "very-secret-2"


def test_what_the_file_does_not_name_is_left_alone(cast: Cast, folder: Path) -> None:
    configure(cast.project, "slack", SYSTEM, client_id="theirs", client_secret="theirs")
    services.put_draft(cast.project, "other", MODULE, SYSTEM)
    services.set_group(cast.project, "others", ["a@example.com"], SYSTEM)
    applied(folder)
    (folder / "project.yaml").write_text("{workspace: Acme, project: Shop}")
    before = everything()
    assert applied(folder).strip() == "Nothing to change."
    assert everything() == before
    assert Integration.objects.get(toolkit="slack").enabled
    assert services.find(cast.project, "other")


def test_a_dry_run_shows_all_and_keeps_nothing(cast: Cast, folder: Path) -> None:
    before = everything()
    told = ran("apply", folder / "project.yaml", "--dry-run")
    assert "+ integration github: client_id; client_secret; scopes" in told
    assert "+ module onboard: draft, published as version 1, with a new key" in told
    assert "shown this once" not in told
    assert everything() == before


@pytest.mark.parametrize("answer", ["n", "", "no"], ids=["n", "nothing", "no"])
def test_it_asks_and_takes_no_for_no(cast: Cast, folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    before = everything()
    assert "Nothing was changed" in refused(lambda: ran("apply", folder / "project.yaml"))
    assert everything() == before


def test_it_asks_and_takes_yes_for_yes(cast: Cast, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    ran("apply", folder / "project.yaml")
    assert services.find_published(cast.project, "onboard")


def test_where_nobody_can_be_asked_nothing_is_changed(cast: Cast, folder: Path) -> None:
    before = everything()
    assert "--yes" in refused(lambda: ran("apply", folder / "project.yaml"))
    assert everything() == before


def test_what_was_changed_since_it_was_shown_is_not_applied(
    cast: Cast, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(question: str) -> str:
        services.put_draft(cast.project, "onboard", MODULE, SYSTEM)
        return "y"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", asked)
    assert "meanwhile" in refused(lambda: ran("apply", folder / "project.yaml"))
    assert not Integration.objects.filter(project=cast.project, toolkit="github").exists()


def test_every_fault_of_the_file_is_told_with_its_line(
    cast: Cast, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(folder, "client_id: ${GITHUB_ID}", "client_id: ${NOT_SET}")
    changed(folder, "client_secret: {from_env: GITHUB_SECRET}", "client_secret: written-down")
    changed(folder, "calls_per_day: 1000", "calls_per_day: -1")
    changed(folder, "publish: false", "published: false")
    before = everything()
    told = refused(lambda: applied(folder)).splitlines()
    file = folder / "project.yaml"
    assert told[0] == "4 faults; nothing was changed."
    assert f"{file}:13: integrations[0].client_id: The environment has no variable NOT_SET." in told
    assert any(line.startswith(f"{file}:14: integrations[0].client_secret: ") for line in told)
    assert any(line.startswith(f"{file}:9: plan.calls_per_day: ") for line in told)
    assert any(line.startswith(f"{file}:27: modules[2].published: ") for line in told)
    assert "written-down" not in "\n".join(told)
    assert everything() == before


def test_every_fault_of_what_it_describes_is_told_and_nothing_is_half_applied(cast: Cast, folder: Path) -> None:
    changed(folder, "toolkit: sandbox", "toolkit: no-such-toolkit")
    changed(folder, 'colour: "#112233"', "colour: red")
    changed(folder, "scopes: [execute, runs]", "scopes: [everything]")
    changed(folder, "bob@example.com", "nobody")
    (folder / "modules/onboard.yaml").write_text("steps:\n  - {id: a, sets: {n: 1}}\n")
    before = everything()
    told = refused(lambda: applied(folder))
    for part in ("no-such-toolkit", "colour", "everything", "'nobody' is no e-mail", "modules/onboard.yaml:2"):
        assert part in told
    assert everything() == before


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("a: [b", "project.yaml:1"),
        ("- a", "the file"),
        ("project: Shop", "workspace"),
        ("{workspace: Nobody's, project: Shop}", "owner"),
        ("{workspace: Acme, project: Shop, plan: Huge}", "no plan Huge"),
        ("{workspace: Acme, project: a/b}", "project"),
        ("{workspace: Acme, project: Shop, modules: [{file: no.yaml}]}", "no.yaml"),
        ("{workspace: Acme, project: Shop, modules: [{note: x}]}", "file or definition"),
        ("{workspace: Acme, project: Shop, keys: [{name: a}, {name: a}]}", "twice"),
        ("project: \"a\\0b\"", "NUL"),
    ],
    ids=["no-yaml", "list", "no-workspace", "no-owner", "no-plan", "slash", "no-file", "neither", "twice", "nul"],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_refused(cast: Cast, folder: Path, content: str, part: str) -> None:
    (folder / "project.yaml").write_text(content)
    before = everything()
    assert part in refused(lambda: applied(folder))
    assert everything() == before


def test_a_file_that_is_not_there_is_told(db: None, tmp_path: Path) -> None:
    assert "No such file" in refused(lambda: applied(tmp_path))


def test_a_workspace_with_an_owner_is_made_with_its_project(cast: Cast, folder: Path) -> None:
    (folder / "project.yaml").write_text("{workspace: New, owner: Nina@Example.com, project: First}")
    told = applied(folder)
    assert told.splitlines()[:3] == [
        "+ user nina@example.com",
        "+ workspace New, of nina@example.com",
        "+ project First",
    ]
    workspace = Workspace.objects.get(name="New")
    assert workspace.memberships.get().user.email == "nina@example.com"
    assert applied(folder).strip() == "Nothing to change."


def test_the_command_may_name_another_workspace(cast: Cast, folder: Path) -> None:
    create_project(cast.foreign_workspace, "Shop", SYSTEM)
    applied(folder, "--workspace", str(cast.foreign_workspace.pk))
    assert Integration.objects.filter(project__workspace=cast.foreign_workspace, toolkit="github").exists()
    assert not Integration.objects.filter(project=cast.project).exists()


def test_a_plan_that_others_have_too_says_so(cast: Cast, folder: Path) -> None:
    applied(folder)
    Workspace.objects.update(plan=Plan.objects.get(name="Team"))
    changed(folder, "calls_per_day: 1000", "calls_per_day: 2000")
    assert "~ plan Team (also of 1 other workspaces): calls_per_day 1000 -> 2000" in applied(folder)


def test_modules_that_start_one_another_may_stand_in_any_order(cast: Cast, folder: Path) -> None:
    outer = {"name": "a-outer", "steps": [{"id": "sub", "run": "z-inner"}]}
    inner = {"name": "z-inner", "steps": [{"id": "a", "set": {"n": 1}}]}
    file = {"workspace": "Acme", "project": "Shop", "modules": [{"definition": outer}, {"definition": inner}]}
    (folder / "project.yaml").write_text(yaml.safe_dump(file))
    applied(folder)
    assert services.find_published(cast.project, "a-outer")
    assert services.find_published(cast.project, "z-inner")


def test_an_expression_of_a_module_is_no_variable_of_the_environment(cast: Cast, folder: Path) -> None:
    (folder / "modules/onboard.yaml").write_text(MODULE.replace("text: hello", 'text: "${GITHUB_SECRET}"'))
    changed(folder, "n: 1, on: yes", 'n: "${GITHUB_SECRET}"')
    applied(folder)
    assert services.find(cast.project, "onboard").draft["steps"][0]["set"] == {"text": "${GITHUB_SECRET}"}
    assert services.find(cast.project, "hr/leave").draft["steps"][0]["set"] == {"n": "${GITHUB_SECRET}"}


def test_a_secret_may_come_from_a_file(cast: Cast, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "secret").write_text("from-a-file\n")
    monkeypatch.delenv("GITHUB_SECRET")
    monkeypatch.setenv("GITHUB_SECRET_FILE", str(folder / "secret"))
    applied(folder)
    assert Integration.objects.get(toolkit="github").unseal("client_secret") == "from-a-file"


def test_a_key_that_is_there_is_kept_and_a_difference_told(cast: Cast, folder: Path) -> None:
    kept = issue_key(cast.workspace, "backend", SYSTEM, project=cast.project, scopes=["admin"])[0]
    told = applied(folder)
    assert "The key backend permits something else" in told
    assert ApiKey.objects.get(project=cast.project, name="backend") == kept


def test_an_integration_is_switched_off_and_on(cast: Cast, folder: Path) -> None:
    applied(folder)
    changed(folder, "  - toolkit: sandbox", "  - toolkit: sandbox\n    enabled: false")
    assert "- integration sandbox: switched off" in applied(folder)
    changed(folder, "    enabled: false", "    enabled: true")
    assert "~ integration sandbox: switched on" in applied(folder)
    assert applied(folder).strip() == "Nothing to change."


def test_the_plan_that_is_shown_is_what_is_done(cast: Cast, folder: Path) -> None:
    wanted = apply.load(folder / "project.yaml")
    assert apply.plan(wanted).changes == apply.apply(wanted).changes
    assert apply.plan(wanted).changes == []


# -- Files of modules ------------------------------------------------------------------------------------------------
def test_modules_go_to_files_and_come_back_the_same(cast: Cast, tmp_path: Path) -> None:
    services.put_draft(cast.project, "onboard", f"# A comment\n{MODULE}", SYSTEM)
    services.put_draft(cast.project, "hr/leave", '{"steps": [{"id": "a", "set": {"t": "on", "o": "0o17"}}]}', SYSTEM)
    told = ran("export_module", project="Shop", workspace="Acme", to=tmp_path)
    assert "2 written, 0 unchanged." in told
    assert "# A comment" in (tmp_path / "onboard.yaml").read_text()
    assert (tmp_path / "hr/leave.yaml").read_text().splitlines()[:3] == ["name: hr/leave", "steps:", "- id: a"]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.yaml")) == [
        "hr/leave.yaml",
        "onboard.yaml",
    ]
    assert "0 written, 2 unchanged." in ran("export_module", project=cast.project.pk, to=tmp_path)
    assert "Nothing to change" not in ran("import_module", tmp_path, project=cast.foreign_project.pk)
    for name in ("onboard", "hr/leave"):
        theirs, ours = (services.find(project, name) for project in (cast.foreign_project, cast.project))
        assert theirs.draft == ours.draft
        assert theirs.published is None
    assert ran("import_module", tmp_path, project=cast.foreign_project.pk).strip() == "Nothing to change."


def test_importing_publishes_where_it_is_told_to(cast: Cast, tmp_path: Path) -> None:
    (tmp_path / "onboard.yaml").write_text(MODULE)
    assert "published as version 1" in ran("import_module", tmp_path, project="Shop", publish=True, check=True)
    assert not Module.objects.exists()
    ran("import_module", tmp_path / "onboard.yaml", project="Shop", publish=True, note="From git")
    version = services.find_published(cast.project, "onboard").published
    assert version is not None
    assert version.note == "From git"
    assert ran("import_module", tmp_path, project="Shop", publish=True).strip() == "Nothing to change."


def test_a_fault_of_a_definition_in_the_file_stands_at_its_line_there(cast: Cast, folder: Path) -> None:
    steps = "steps:\n        - {id: a, set: {}}\n        - {id: x, sets: 1}"
    changed(folder, "steps: [{id: a, set: {n: 1, on: yes}}]", steps)
    file = folder / "project.yaml"
    line = next(number for number, text in enumerate(file.read_text().splitlines(), 1) if "sets: 1" in text)
    told = refused(lambda: applied(folder)).splitlines()
    assert told[1].startswith(f"{file}:{line}: modules[")
    assert ".definition.steps[1].sets: There is no key sets here." in told[1]


def test_one_fault_keeps_every_module_out(cast: Cast, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(MODULE)
    (tmp_path / "bad.json").write_text('{\n"steps": [}')
    told = refused(lambda: ran("import_module", tmp_path, project="Shop"))
    assert "bad.json" in told
    (tmp_path / "bad.json").write_text('{"steps": [\n{"id": "a", "sets": 1}]}')
    told = refused(lambda: ran("import_module", tmp_path, project="Shop"))
    assert "bad.json:2" in told
    assert not Module.objects.exists()


@pytest.mark.parametrize(
    ("command", "options", "part"),
    [
        ("export_module", {"project": "Nothing"}, "no project"),
        ("export_module", {"project": "Shop", "workspace": "Globex"}, "no project"),
        ("export_module", {"project": "Shop", "names": ["nope"]}, "no module"),
        ("export_module", {"project": "Shop"}, "name one"),
        ("import_module", {"project": "Shop", "paths": [Path("/nowhere")]}, "no definition"),
    ],
    ids=["project", "workspace", "module", "several", "file"],
)
def test_what_is_not_there_is_told(cast: Cast, command: str, options: dict[str, Any], part: str) -> None:
    positional = options.pop("names", None) or options.pop("paths", [])
    assert part in refused(lambda: ran(command, *positional, **options))


def test_one_module_is_printed(cast: Cast) -> None:
    services.put_draft(cast.project, "onboard", MODULE, SYSTEM)
    assert ran("export_module", "onboard", project="Shop") == f"name: onboard\n{MODULE}"


def test_the_example_of_the_documentation_can_be_applied(
    cast: Cast, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/apply.md").read_text(encoding="utf-8")
    (folder / "project.yaml").write_text(page.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    monkeypatch.setenv("GITHUB_CLIENT_ID", "id-1")
    monkeypatch.setenv("GITHUB_CLIENT_SECRET", "very-secret-1")
    assert "+ key backend: execute, runs of github" in applied(folder)
    assert services.find(cast.project, "hello").published is None
    assert applied(folder).strip() == "Nothing to change."
