"""What README and docs say is so: links, paths, variables, commands, containers."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery.bin.celery import celery as celery_command
from django.core.management import get_commands
from django.urls import Resolver404, resolve
from granian.cli import cli as granian_command

from apps.lib.errors import Failure
from apps.lib.pages import _tree
from apps.toolkits import registry

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")),
         *sorted((ROOT / "docs").rglob("*.md"))]  # fmt: skip
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CURL_PATH = re.compile(r'(?:\$URL|http://127\.0\.0\.1:8000)(/[^\s"\'`?]*)')
VARIABLE = re.compile(r"\b(?:JACKFIELD_[A-Z0-9_]+|DATABASE_URL|CELERY_BROKER_URL|CACHE_URL|EMAIL_URL)\b")
READ = re.compile(
    r'(?:environ\.get|environment\.secret|environment\.listed|secret|listed|env\.\w+)\(\s*"([A-Z][A-Z0-9_]+)"'
)
SECRET = re.compile(r'environment\.secret\(\s*"([A-Z][A-Z0-9_]+)"')
CLIENT = "JACKFIELD_CLIENT_"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """The anchors that the headings of a page have, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(path)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def settings_variables() -> set[str]:
    return set(READ.findall(text_of(ROOT / "config/settings.py"))) - {"NAME"}


def secret_variables() -> set[str]:
    return set(SECRET.findall(text_of(ROOT / "config/settings.py")))


def table_of_variables() -> dict[str, bool]:
    """The README's table: variable → whether it is marked as a secret."""
    section = text_of(README).split("### Environment variables", 1)[1].split("\n### ", 1)[0]
    return {name: bool(star) for name, star in re.findall(r"^\| `([A-Z_<>]+)`( \*)? \|", section, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_and_picture_of_a_page_is_there(page: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        if not path.is_file() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in LINK.findall(text_of(page)):
            path = (page.parent / target.partition("#")[0]).resolve()
            if path.suffix == ".md" and path.is_file():
                waiting.append(path)
    assert {named(page) for page in PAGES} - {named(page) for page in reached} <= {"CHANGELOG.md"}


def curl_paths() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for _, block in FENCE.findall(text_of(page)):
            if "curl" in block:
                for path in CURL_PATH.findall(block):
                    yield named(page), path.replace("$APP", "proj_x")


def test_every_path_that_curl_calls_is_a_route() -> None:
    found = list(curl_paths())
    assert len(found) > 30
    unknown = []
    for page, path in found:
        try:
            resolve(path)
        except Resolver404:
            unknown.append(f"{page}: {path}")
    assert unknown == []


def test_the_readme_lists_exactly_the_variables_that_settings_read() -> None:
    listed = {name.replace("<TOOLKIT>", "") for name in table_of_variables()}
    assert listed == settings_variables() | {CLIENT}


def test_the_readme_marks_exactly_the_variables_that_may_come_from_a_file() -> None:
    marked = {name for name, is_secret in table_of_variables().items() if is_secret}
    assert marked == secret_variables() | {f"{CLIENT}<TOOLKIT>"}


def test_every_variable_that_a_page_names_is_read_by_settings() -> None:
    known = settings_variables()
    known |= {f"{name}_FILE" for name in secret_variables()}
    unknown = {
        f"{named(page)}: {name}"
        for page in PAGES
        for name in VARIABLE.findall(text_of(page))
        if name not in known and not name.startswith(CLIENT)
    }
    assert unknown == set()


def test_every_manage_command_that_is_named_exists() -> None:
    commands = set(get_commands())
    texts = [
        *(text_of(page) for page in PAGES),
        text_of(ROOT / "compose.yaml").replace(", ", " "),
        text_of(ROOT / "Dockerfile"),
    ]
    used = {name for text in texts for name in re.findall(r"manage\.py ([a-z_]+)", text)}
    assert {"quickstart", "migrate", "new_keys"} <= used
    assert used <= commands


def test_the_run_and_test_lines_stand_in_the_readme() -> None:
    text = text_of(README)
    assert "\n```\npip install -e . && python manage.py quickstart\n```\n" in text
    assert "\n```\npython tests/run.py\n```\n" in text


def production_lines() -> dict[str, list[str]]:
    lines = [line for _, block in FENCE.findall(text_of(README)) for line in block.splitlines()]
    return {words[0]: words for line in lines if (words := line.split()) and words[0] in {"granian", "celery"}}


def test_the_production_programs_come_with_the_install() -> None:
    assert set(production_lines()) == {"granian", "celery"}
    options = {option for parameter in granian_command.params for option in parameter.opts}
    assert {word for word in production_lines()["granian"] if word.startswith("--")} <= options
    assert {"worker", "beat"} <= set(celery_command.commands)


def test_the_workers_serve_the_same_queues_wherever_they_are_started() -> None:
    texts = [text_of(README), text_of(ROOT / "docs/operations.md"), text_of(ROOT / "compose.yaml"),
             text_of(ROOT / "apps/runs/management/commands/quickstart.py")]  # fmt: skip
    queues = {
        frozenset(found.split(","))
        for text in texts
        for found in re.findall(r"\b\w+(?:,\w+)*,refresh\b|\brefresh,\w+(?:,\w+)*", text)
    }
    assert queues == {frozenset({"maintenance", "runs", "steps", "refresh"})}
    assert all(re.search(r"""--queues["']?,? ["']?deliveries\b""", text) for text in texts)


def test_the_errors_page_lists_every_code_with_its_statuses() -> None:
    listed = {
        (code, int(status))
        for code, status in re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", text_of(ROOT / "docs/errors.md"), re.M)
    }
    assert listed == {(cls.code, cls.status) for cls in _tree(Failure)} | {(Failure.code, Failure.status)}


def test_the_example_of_the_toolkit_format_has_no_fault() -> None:
    examples = [block for language, block in FENCE.findall(text_of(ROOT / "docs/toolkits.md")) if language == "yaml"]
    assert len(examples) == 1
    toolkit, faults = registry.parse(yaml.safe_load(examples[0]))
    assert faults == []
    assert toolkit is not None
    assert [toolkit.public_name(tool) for tool in toolkit.tools] == ["ACME_LIST_TASKS", "ACME_CREATE_TASK"]


@pytest.mark.parametrize("slug", ["github", "gmail", "google-calendar", "slack"])
def test_a_registration_page_names_every_scope_that_is_asked_for(slug: str) -> None:
    page = text_of(ROOT / f"docs/toolkits/{slug}.md")
    toolkit = registry.catalog().get(slug)
    assert toolkit is not None
    assert [scope for scope in toolkit.auth_by_type["oauth2"].scopes if scope not in page] == []


def test_every_picture_is_small_and_used() -> None:
    texts = [text_of(page) for page in PAGES]
    pictures = sorted((ROOT / "docs/images").iterdir())
    assert len(pictures) >= 6
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name
        assert any(f"images/{picture.name}" in text for text in texts), picture.name


# -- Containers ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text_of(ROOT / "compose.yaml"))
    return found


def test_compose_has_every_process_and_runs_migrations_first(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"web", "worker", "deliveries", "beat", "migrate", "database", "redis"}
    for name in ("web", "worker", "deliveries", "beat"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert services["migrate"]["restart"] == "no"


def test_compose_sets_only_variables_that_settings_read(compose: dict[str, Any]) -> None:
    known = settings_variables() | {f"{name}_FILE" for name in secret_variables()}
    for name in ("web", "worker", "deliveries", "beat", "migrate"):
        assert set(compose["services"][name]["environment"]) <= known


def test_compose_gives_production_all_that_it_needs(compose: dict[str, Any]) -> None:
    given = {name.removesuffix("_FILE") for name in compose["services"]["web"]["environment"]}
    assert given >= {"DATABASE_URL", "CELERY_BROKER_URL", "CACHE_URL", "JACKFIELD_SECRET_KEY", "JACKFIELD_ENCRYPTION_KEYS",
                     "JACKFIELD_URL", "JACKFIELD_ALLOWED_HOSTS"}  # fmt: skip


def test_compose_keeps_every_secret_in_a_file_that_the_operations_page_makes(compose: dict[str, Any]) -> None:
    page = text_of(ROOT / "docs/operations.md")
    for name, secret in compose["secrets"].items():
        assert secret["file"] == f"./secrets/{name}"
        assert f"> secrets/{name}" in page
    used = {name for service in compose["services"].values() for name in service.get("secrets", [])}
    assert used == set(compose["secrets"])
    for service in compose["services"].values():
        for variable, value in service.get("environment", {}).items():
            if variable.endswith("_FILE"):
                assert value.removeprefix("/run/secrets/") in service["secrets"]
    assert "secrets" in text_of(ROOT / ".dockerignore").splitlines()


def dockerfile() -> list[tuple[str, str]]:
    text = text_of(ROOT / "Dockerfile").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_copies_what_is_there_and_runs_as_nobody_special() -> None:
    steps = dockerfile()
    for word, rest in steps:
        if word == "COPY":
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    assert [rest for word, rest in steps if word == "USER"] == ["10001"]
    assert any(word == "HEALTHCHECK" and "/healthz" in rest for word, rest in steps)
    assert any(word == "RUN" and "--constraint constraints.txt" in rest for word, rest in steps)
    variables = {name for word, rest in steps if word == "ENV" for name in VARIABLE.findall(rest)}
    assert variables <= settings_variables()


def test_constraints_pin_every_dependency_and_name_no_place() -> None:
    lines = text_of(ROOT / "constraints.txt").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.\-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ;]", one)[0]).lower() for one in wanted}
    assert names - pinned == set()
