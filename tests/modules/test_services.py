"""Drafts, versions, keys and hooks of modules."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from apps.lib.errors import Conflict, InvalidInput, NotFound
from apps.modules import services
from apps.modules.models import Module, ModuleKey, ModuleVersion
from apps.workspaces.audit import SYSTEM, Actor
from apps.workspaces.models import AuditEvent, Project
from tests.cast import Cast, make_cast

ADA = Actor("user:ada@example.com")
SOURCE = """\
# Onboarding, as HR wants it.
title: Onboard an employee
start_parameters:
  - {name: Employee Name, api_name: employee_name, type: text, required: true}
steps:
  - id: hello
    set: {text: "Hello {{ start.employee_name }}"}
result: "{{ steps.hello.output.text }}"
"""


def put(project: Project, source: str = SOURCE, name: str = "onboard") -> Module:
    return services.put_draft(project, name, source, ADA)[0]


def with_access(access: str, source: str = SOURCE) -> str:
    return f"access: {access}\n{source}"


def faults_of(refused: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = refused.value.details["faults"]
    assert found
    return found


def usable(module: Module) -> int:
    return module.keys.usable().count()


# -- Drafts ----------------------------------------------------------------------------------------------------------
def test_a_draft_is_kept_as_it_was_written_and_as_data_with_its_name(cast: Cast) -> None:
    module, made = services.put_draft(cast.project, "hr/onboard", SOURCE, ADA)
    assert made
    module.refresh_from_db()
    assert module.source == SOURCE.replace("title:", "name: hr/onboard\ntitle:", 1)
    assert (module.draft["name"], module.draft["title"]) == ("hr/onboard", "Onboard an employee")
    assert module.draft["steps"][0]["id"] == "hello"
    assert (module.title, module.access, module.published) == ("Onboard an employee", "api_key", None)
    assert module.draft_changed_by == ADA.name
    assert services.put_draft(cast.project, "hr/onboard", SOURCE + "# x\n", ADA)[1] is False
    assert [event.action for event in AuditEvent.objects.filter(target="hr/onboard").order_by("created_at")] == [
        "module.created",
        "module.changed",
    ]


def test_the_same_draft_again_changes_nothing(cast: Cast) -> None:
    module = put(cast.project)
    events = AuditEvent.objects.count()
    again = put(cast.project)
    assert again.draft_changed_at == Module.objects.get(pk=module.pk).draft_changed_at
    assert AuditEvent.objects.count() == events


@pytest.mark.parametrize(
    "source",
    [
        '{"steps": [{"id": "a", "set": {"n": 1}}]}',
        '\n  {\n"steps": [{"id": "a", "set": {"n": 1}}]}\n',
        "---\n# first\nsteps:\n- {id: a, set: {n: 1}}\n",
        "  steps:\n  - {id: a, set: {n: 1}}\n",
        "steps: [{id: a, set: {n: 1}}]",
        '"steps": [{id: a, set: {n: 1}}]',
    ],
    ids=["json", "json-on-lines", "yaml-with-a-mark", "yaml-indented", "one-line", "quoted"],
)
def test_a_definition_without_a_name_gets_the_paths(cast: Cast, source: str) -> None:
    module = put(cast.project, source, "a/b")
    assert module.draft == {"name": "a/b", "steps": [{"id": "a", "set": {"n": 1}}]}
    assert services.examine(cast.project, "a/b", module.source)[2] == []


@pytest.mark.parametrize("name", ["1", "007", "-", "--", "-x", "null", "true", "1e5", "0x1f", "y", "_", "2026-01-31"])
def test_a_name_that_yaml_reads_as_something_else_is_a_name_too(cast: Cast, name: str) -> None:
    assert put(cast.project, "steps: [{id: a, set: {n: 1}}]", name).draft["name"] == name


def test_a_name_that_differs_from_the_paths_is_a_fault_with_its_line(cast: Cast) -> None:
    with pytest.raises(InvalidInput) as refused:
        put(cast.project, "title: x\nname: other\n" + SOURCE.split("\n", 2)[2])
    assert [(fault["path"], fault["line"]) for fault in faults_of(refused)] == [("name", 2)]
    assert not Module.objects.exists()


def test_lines_of_faults_are_those_of_what_was_sent(cast: Cast) -> None:
    wrong = SOURCE.replace("id: hello", "id: [hello")
    with pytest.raises(InvalidInput) as refused:
        put(cast.project, wrong)
    with_name = services.examine(cast.project, "onboard", "name: onboard\n" + wrong)[2]
    assert [fault["line"] + 1 for fault in faults_of(refused)] == [fault.line for fault in with_name]


def test_a_fault_below_the_line_that_was_put_in_stands_at_its_own_line(cast: Cast) -> None:
    wrong = SOURCE.replace("    set:", "    sets:")
    found = services.examine(cast.project, "onboard", wrong)[2]
    named = services.examine(cast.project, "onboard", "name: onboard\n" + wrong)[2]
    assert found
    assert [fault.line for fault in found] == [fault.line - 1 for fault in named if fault.line]


@pytest.mark.parametrize(
    "name",
    ["publish", "a/versions", "a/rotate-key", "A", "a b", "", "/a", "a//b", "a/", "ü", "a\x00", "a\n", "x" * 151, "a/versions/3"],
    ids=["reserved", "versions", "rotate-key", "capital", "space", "empty", "slash-first", "two-slashes", "slash-last",
         "umlaut", "nul", "newline", "long", "a-version"],
)  # fmt: skip
def test_a_name_that_no_route_could_reach_is_refused(cast: Cast, name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        put(cast.project, SOURCE, name)
    assert faults_of(refused)[0]["path"] == "name"
    assert not Module.objects.exists()


def test_reserved_words_may_be_folders(cast: Cast) -> None:
    assert put(cast.project, SOURCE, "publish/versions/now").name == "publish/versions/now"


@pytest.mark.parametrize(
    "source",
    ['{"name": "onboard", "steps": [{"id": "a", "set": {"t": "x\\u0000"}}]}',
     '{"name": "onboard", "steps": [{"id": "a", "set": {"t": "\\ud800"}}]}',
     'name: onboard\nsteps: [{id: a, set: {"k\\0": x}}]',
     "name: onboard\ntitle: a\x00b\nsteps: [{id: a, set: {t: 1}}]"],
    ids=["nul-in-json", "half-of-a-pair", "nul-in-a-key", "raw-nul"],
)  # fmt: skip
def test_what_no_database_takes_is_a_fault(cast: Cast, source: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        put(cast.project, source)
    assert faults_of(refused)
    assert not Module.objects.exists()


# -- Publishing ------------------------------------------------------------------------------------------------------
def test_versions_are_numbered_and_never_change(cast: Cast) -> None:
    module = put(cast.project)
    first = services.publish(module, ADA, "first")
    second = services.publish(put(cast.project, SOURCE.replace("Hello", "Hi")), ADA)
    assert (first.version.number, second.version.number) == (1, 2)
    kept = ModuleVersion.objects.get(pk=first.version.pk)
    assert (kept.note, kept.created_by, "Hello" in kept.source, kept.definition) == (
        "first",
        ADA.name,
        True,
        first.version.definition,
    )
    assert services.find_published(cast.project, "onboard").published == second.version
    assert first.module.public_id == second.module.public_id
    assert len(first.module.public_id) == 22


def test_publishing_makes_a_key_only_where_there_is_none(cast: Cast) -> None:
    module = put(cast.project)
    first, second = services.publish(module, ADA), services.publish(module, ADA)
    assert first.key is not None
    assert len(first.key) == 43
    assert second.key is None
    assert module.keys.get().digest == ModuleKey.digest_of(first.key)
    assert first.key not in str(list(AuditEvent.objects.values()))
    public = put(cast.project, with_access("public"), "open")
    assert services.publish(public, ADA).key is None
    assert usable(public) == 0


def test_a_change_of_the_draft_shows_and_stays_unpublished(cast: Cast) -> None:
    module = services.publish(put(cast.project), ADA).module
    assert services.as_row(module)["state"] == "published"
    put(cast.project, with_access("off", SOURCE.replace("Hello", "Hi")))
    found = services.find(cast.project, "onboard")
    assert services.as_row(found)["state"] == "changed"
    assert found.access == "api_key"
    assert '-    set: {text: "Hello' in services.draft_diff(found)
    assert services.find_published(cast.project, "onboard").published == found.published
    assert [services.as_row(row)["state"] for row in services.listed(cast.project)] == ["changed"]


def test_the_diff_names_what_a_version_changed(cast: Cast) -> None:
    services.publish(put(cast.project), ADA)
    services.publish(put(cast.project, SOURCE.replace("Hello", "Hi")), ADA)
    module = services.find(cast.project, "onboard")
    assert services.diff(services.find_version(module, 1)) == ""
    lines = services.diff(services.find_version(module, 2)).splitlines()
    assert lines[:2] == ["--- version 1", "+++ version 2"]
    changed = [line for line in lines[2:] if line[0] in "+-"]
    assert [line[0] for line in changed] == ["-", "+"]


def test_the_diff_of_tens_of_thousands_of_lines_is_told_within_seconds(cast: Cast) -> None:
    head = "steps:\n- id: a\n  set:\n    k:\n"
    few, many = [f"    - {n}\n" for n in range(20_000)], [f"    - {n}\n    - z{n}\n" for n in range(20_000)]
    services.publish(put(cast.project, head + "".join(few)), ADA)
    module = put(cast.project, head + "".join(many))
    module = services.find(cast.project, module.name)
    begin = time.process_time()
    lines = services.draft_diff(module).splitlines()
    assert time.process_time() - begin < 5
    assert lines[:4] == ["--- version 1", "+++ draft", "@@ -7,19999 +7,39999 @@", "-    - 1"]
    assert lines[-1] == "+    - z19999"
    assert services.draft_diff(services.publish(module, ADA).module) == ""


def test_the_diff_of_json_is_that_of_its_yaml(cast: Cast) -> None:
    for n in (1, 2):
        services.publish(put(cast.project, f'{{"steps": [{{"id": "a", "set": {{"n": {n}}}}}]}}'), ADA)
    module = services.find(cast.project, "onboard")
    changed = [line for line in services.diff(services.find_version(module, 2)).splitlines()[2:] if line[0] in "+-"]
    assert [line.strip("+- ") for line in changed] == ["n: 1", "n: 2"]


def test_rolling_back_publishes_the_old_version_under_its_number(cast: Cast) -> None:
    module = put(cast.project, with_access("public"))
    services.publish(module, ADA)
    module = put(cast.project)
    services.publish(module, ADA)
    version = services.roll_back(module, 1, ADA)
    found = services.find(cast.project, "onboard")
    assert (version.number, found.published, found.access) == (1, version, "public")
    assert found.source == module.source
    assert services.publish(found, ADA).version.number == 3
    for missing in (4, 0, 2**40):
        with pytest.raises(NotFound):
            services.roll_back(module, missing, ADA)


def test_unpublishing_happens_once_and_keeps_keys(cast: Cast) -> None:
    module = services.publish(put(cast.project), ADA).module
    assert services.unpublish(module, ADA) is True
    assert services.unpublish(module, ADA) is False
    assert usable(module) == 1
    with pytest.raises(NotFound):
        services.find_published(cast.project, "onboard")
    assert services.publish(services.find(cast.project, "onboard"), ADA).key is None


def test_what_is_off_cannot_be_started(cast: Cast) -> None:
    services.publish(put(cast.project, with_access("off")), ADA)
    with pytest.raises(NotFound):
        services.find_published(cast.project, "onboard")


def test_finding_what_may_be_started_costs_one_select(cast: Cast) -> None:
    services.publish(put(cast.project), ADA)
    with CaptureQueriesContext(connection) as captured:
        found = services.find_published(cast.project, "onboard")
        assert found.published is not None
        assert found.published.definition["name"] == "onboard"
        assert found.project.workspace
    assert len(captured) == 1


def test_a_draft_that_was_changed_meanwhile_is_not_published_unseen(cast: Cast) -> None:
    seen = put(cast.project)
    put(cast.project, SOURCE.replace("Hello", "Hi"))
    with pytest.raises(Conflict):
        services.publish(seen, ADA)
    assert not ModuleVersion.objects.exists()


def test_a_draft_that_has_become_wrong_is_not_published(cast: Cast) -> None:
    module = put(cast.project)
    Module.objects.update(source="steps: []")
    module.refresh_from_db()
    with pytest.raises(InvalidInput) as refused:
        services.publish(module, ADA)
    assert faults_of(refused)
    assert not ModuleVersion.objects.exists()


def test_a_test_run_gets_the_draft_without_a_number(cast: Cast) -> None:
    module = put(cast.project)
    version = services.draft_version(module, ADA)
    assert version.number is None
    assert services.draft_version(module, ADA) == version
    assert services.publish(module, ADA).version.number == 1
    changed = put(cast.project, SOURCE.replace("Hello", "Hi"))
    assert services.draft_version(changed, ADA) != version
    assert [row.number for row in services.versions(module)] == [1]


# -- Keys and hooks --------------------------------------------------------------------------------------------------
def test_a_new_key_ends_the_old_ones_at_once_or_after_the_overlap(cast: Cast) -> None:
    module = services.publish(put(cast.project), ADA).module
    second = services.rotate_key(module, ADA, overlap_seconds=3600)
    assert usable(module) == 2
    third = services.rotate_key(module, ADA)
    assert list(module.keys.usable().values_list("digest", flat=True)) == [ModuleKey.digest_of(third)]
    assert second != third
    for wrong in (-1, services.LONGEST_OVERLAP + 1):
        with pytest.raises(InvalidInput):
            services.rotate_key(module, ADA, overlap_seconds=wrong)


def test_an_overlap_never_lengthens_the_life_of_a_key(cast: Cast) -> None:
    module = services.publish(put(cast.project), ADA).module
    services.rotate_key(module, ADA, overlap_seconds=10)
    ends = module.keys.order_by("created_at").first()
    assert ends is not None
    services.rotate_key(module, ADA, overlap_seconds=7200)
    assert module.keys.get(pk=ends.pk).expires_at == ends.expires_at


def test_the_hooks_secret_is_sealed_and_its_address_can_be_replaced(cast: Cast) -> None:
    module = put(cast.project)
    assert services.set_hook_secret(module, "whsec_of_the_provider", ADA) == "whsec_of_the_provider"
    stored = Module.objects.get(pk=module.pk)
    assert "of_the_provider" not in stored.hook_secret
    assert stored.unseal("hook_secret") == "whsec_of_the_provider"
    assert len(services.set_hook_secret(module, None, ADA)) == 43
    before = services.hook_url(stored)
    after = services.rotate_hook(module, ADA)
    assert after != before
    assert after.endswith(f"/hooks/{Module.objects.get(pk=module.pk).hook_token}")
    assert "of_the_provider" not in str(list(AuditEvent.objects.values()))
    for wrong in ("short", "new\nline of it", "x" * 501):
        with pytest.raises(InvalidInput):
            services.set_hook_secret(module, wrong, ADA)


@pytest.mark.parametrize(
    ("source", "on"),
    [(SOURCE, True), (SOURCE + "hook: false\n", False), (with_access("off"), False), (with_access("public"), True)],
    ids=["as-usual", "hook-false", "off", "public"],
)
def test_a_hook_is_on_unless_the_definition_says_otherwise(cast: Cast, source: str, on: bool) -> None:
    module = put(cast.project, source)
    assert (services.hook_url(module) is not None) is on
    assert (services.hook_url(services.publish(module, ADA).module) is not None) is on


@pytest.mark.parametrize("access", ["public", "signed_in", "api_key", "off"])
def test_only_what_people_may_start_has_a_page(cast: Cast, access: str) -> None:
    module = put(cast.project, with_access(access))
    assert services.browser_url(module) is None
    found = services.browser_url(services.publish(module, ADA).module)
    assert (found or "").endswith(f"/s/{module.public_id}") is (access in {"public", "signed_in"})


def test_deleting_ends_keys_and_hook_and_frees_the_name(cast: Cast) -> None:
    module = services.publish(put(cast.project), ADA).module
    services.set_hook_secret(module, None, ADA)
    token = module.hook_token
    services.delete(module, ADA)
    assert usable(module) == 0
    assert not Module.objects.filter(hook_token=token).exists()
    gone = Module.objects.get(pk=module.pk)
    assert (gone.published, gone.hook_secret, gone.versions.count()) == (None, "", 1)
    with pytest.raises(NotFound):
        services.find(cast.project, "onboard")
    for change in (services.delete, services.publish, services.unpublish, services.rotate_key, services.rotate_hook):
        with pytest.raises(NotFound):
            change(module, ADA)
    again = put(cast.project)
    assert again.pk != module.pk
    assert again.public_id != module.public_id
    assert services.publish(again, ADA).version.number == 1


def test_another_projects_module_of_the_same_name_is_another(cast: Cast) -> None:
    put(cast.project)
    with pytest.raises(NotFound):
        services.find(cast.foreign_project, "onboard")
    put(cast.foreign_project)
    services.delete(services.find(cast.foreign_project, "onboard"), SYSTEM)
    assert services.find(cast.project, "onboard")


# -- Several at once -------------------------------------------------------------------------------------------------
def at_once(many: int, act: Callable[[], Any]) -> list[Any]:
    """What so many threads get that do the same at the same moment: values, or the exceptions."""
    gate, found = threading.Barrier(many), []

    def one() -> None:
        try:
            gate.wait()
            found.append(act())
        except Exception as error:
            found.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=one) for _ in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


needs_postgres = pytest.mark.skipif(
    connection.vendor == "sqlite",
    reason="SQLite's memory database locks its tables between threads; tests/api/test_modules.py does it over HTTP",
)


@needs_postgres
@pytest.mark.django_db(transaction=True)
def test_two_who_publish_at_once_get_two_numbers_and_one_key() -> None:
    module = put(make_cast().project)
    found = at_once(6, lambda: services.publish(Module.objects.select_related("project").get(pk=module.pk), ADA))
    assert sorted(made.version.number for made in found) == [1, 2, 3, 4, 5, 6]
    assert len([made.key for made in found if made.key]) == 1
    assert usable(module) == 1
    assert services.find(module.project, "onboard").published.number == 6  # type: ignore[union-attr]


@needs_postgres
@pytest.mark.django_db(transaction=True)
def test_many_who_make_the_same_module_make_one() -> None:
    project = make_cast().project
    found = at_once(6, lambda: services.put_draft(project, "onboard", SOURCE, ADA))
    assert sorted(made for _, made in found) == [False] * 5 + [True]
    assert Module.objects.count() == 1
    assert AuditEvent.objects.filter(action="module.created").count() == 1


@needs_postgres
@pytest.mark.django_db(transaction=True)
def test_after_rotations_at_once_one_key_works() -> None:
    module = put(make_cast().project)
    found = at_once(5, lambda: services.rotate_key(Module.objects.select_related("project").get(pk=module.pk), ADA))
    assert module.keys.usable().get().digest in {ModuleKey.digest_of(secret) for secret in found}
