"""Modules in the admin: written, checked, published, rolled back; their keys and hooks; groups of people."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from apps.modules import checks, services
from apps.modules.admin_templates import TEMPLATES
from apps.modules.models import Group, Module, ModuleKey
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent
from tests.admin.conftest import DEFINITION, Staff, text_of

KEY = re.compile(r'value="([A-Za-z0-9_-]{43})"')
FAULTY = DEFINITION.replace("form:", "fomr:")
FAULTY_LINE = 1 + FAULTY[: FAULTY.index("fomr:")].count("\n")


def address(name: str, module: Module, query: str = "") -> str:
    return reverse(f"admin:modules_module_{name}", args=[module.pk]) + query


def save(client: Client, module: Module, source: str, **more: Any) -> Any:
    return client.post(address("change", module), {"source": source.replace("\n", "\r\n"), **more})


def assist(client: Client, module: Module, source: str, **more: Any) -> Any:
    headers = {"Accept": "application/json"}
    return client.post(address("assist", module), {"source": source, **more}, headers=headers)


def rows(module: Module) -> Module:
    return Module.objects.select_related("published", "project").get(pk=module.pk)


# -- Making and listing ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("template", list(TEMPLATES))
def test_what_a_new_module_begins_with_passes_every_check(staff: Staff, template: str) -> None:
    assert checks.check(TEMPLATES[template].source.replace("NAME", "new"), staff.cast.project)[1] == []
    data = {"project": staff.cast.project.pk, "name": f"folder/{template}", "template": template}
    made = staff.dana.post(reverse("admin:modules_module_add"), data)
    module = Module.objects.get(name=f"folder/{template}")
    assert made["Location"] == address("change", module)
    assert module.source.startswith(f"name: folder/{template}\n")
    assert AuditEvent.objects.filter(action="module.created", actor="user:dana@example.com").exists()


def test_a_module_is_made_from_a_file_and_a_faulty_one_is_told_with_its_lines(staff: Staff) -> None:
    add = reverse("admin:modules_module_add")
    data: dict[str, Any] = {"project": staff.cast.project.pk, "name": "fresh", "template": "hello"}
    source = DEFINITION.replace("name: onboard\n", "")
    file = SimpleUploadedFile("fresh.yaml", source.encode(), "application/yaml")
    assert staff.alice.post(add, data | {"file": file}).status_code == 302
    assert "What is needed?" in Module.objects.get(name="fresh").source
    for content, said in (
        (FAULTY.replace("onboard", "faulty").encode(), f"Line {FAULTY_LINE}: "),
        (b"\xff\xfe", "no text in UTF-8"),
        (DEFINITION.encode(), "The path says faulty"),
    ):
        data |= {"name": "faulty", "file": SimpleUploadedFile("x.yaml", content)}
        assert said in text_of(staff.alice.post(add, data)).replace("&#x27;", "'")
    assert not Module.objects.filter(name="faulty").exists()


def test_a_name_that_is_taken_or_none_is_told_in_the_form(staff: Staff) -> None:
    add = reverse("admin:modules_module_add")
    data = {"project": staff.cast.project.pk, "template": "hello"}
    assert "has a module of this name" in text_of(staff.alice.post(add, data | {"name": "onboard"}))
    assert "A name is made of" in text_of(staff.alice.post(add, data | {"name": "No Name"}))
    assert "none of check" in text_of(staff.alice.post(add, data | {"name": "x/publish"}))


def test_a_module_is_not_made_in_another_workspace(staff: Staff) -> None:
    data = {"project": staff.cast.foreign_project.pk, "name": "planted", "template": "hello"}
    assert "Select a valid choice" in text_of(staff.alice.post(reverse("admin:modules_module_add"), data))
    assert staff.bob.post(reverse("admin:modules_module_add"), data).status_code == 403
    assert not Module.objects.filter(name="planted").exists()


def test_the_list_tells_state_version_access_and_runs_of_the_week(staff: Staff) -> None:
    listed = text_of(staff.bob.get(reverse("admin:modules_module_changelist")))
    for text in ("onboard", "Published", "Only accessible via an API key", "Onboard somebody at Acme"):
        assert text in listed
    assert re.search(r"field-week[^>]*>\s*1\s*<", listed)
    services.put_draft(staff.cast.project, "onboard", DEFINITION + "# changed\n", SYSTEM)
    changelist = reverse("admin:modules_module_changelist")
    assert "Changed since" in text_of(staff.bob.get(f"{changelist}?state=changed"))
    assert address("change", staff.module) not in text_of(staff.bob.get(f"{changelist}?state=draft"))
    assert address("change", staff.module) not in text_of(staff.bob.get(f"{changelist}?access=public"))


def test_the_list_costs_the_same_however_long_it_is(staff: Staff) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert staff.bob.get(reverse("admin:modules_module_changelist")).status_code == 200
        assert not any("draft" in query["sql"].split(" FROM ")[0].split(".") for query in captured)
        return len(captured)

    before = count()
    for number in range(10):
        services.put_draft(staff.cast.project, f"m{number}", DEFINITION.replace("onboard", f"m{number}", 1), SYSTEM)
    assert count() == before


# -- The editor ------------------------------------------------------------------------------------------------------
def test_the_editor_shows_the_text_its_rows_and_its_access(staff: Staff) -> None:
    shown = text_of(staff.dana.get(address("change", staff.module)))
    assert "name: onboard\ntitle: Onboard somebody at Acme" in shown
    assert 'value="Employee Name"' in shown
    assert 'value="api_key" form="module-form" checked' in shown
    assert "No faults" in shown
    for words in ("Public link", "Signed-in users", "Only accessible via an API key", "Off"):
        assert words in shown


def test_a_draft_is_saved_and_audited(staff: Staff) -> None:
    changed = DEFINITION.replace("Laptop", "Which laptop?")
    assert save(staff.dana, staff.module, changed)["Location"] == address("change", staff.module)
    assert rows(staff.module).source == changed  # with a file's line ends, not a form's
    assert AuditEvent.objects.filter(action="module.changed", actor="user:dana@example.com").exists()


@pytest.mark.parametrize(("then", "page"), [("publish", "/publish/"), ("test", "/admin/runs/run/test/?module=")])
def test_saving_may_lead_on(staff: Staff, then: str, page: str) -> None:
    assert page in save(staff.dana, staff.module, DEFINITION + "\n", next=then)["Location"]


def test_a_faulty_draft_is_not_saved_and_its_faults_stand_at_their_lines(staff: Staff) -> None:
    shown = text_of(save(staff.dana, staff.module, FAULTY))
    assert "the draft was not saved" in shown
    assert f'id="line-{FAULTY_LINE}" class="jf-fault"' in shown
    assert f'href="#line-{FAULTY_LINE}"' in shown
    assert "fomr:" in shown  # nothing that was typed is lost
    assert rows(staff.module).source == DEFINITION


@pytest.mark.parametrize(
    "source", ["", "name: [", "\x00", "- x", "<script>alert(1)</script>", "name: &x [*x]"],
    ids=["nothing", "broken", "nul", "list", "script", "circle"],
)  # fmt: skip
def test_whatever_is_sent_is_answered_with_faults(staff: Staff, source: str) -> None:
    shown = save(staff.dana, staff.module, source)
    assert shown.status_code == 200
    assert "the draft was not saved" in text_of(shown)
    assert "<script>alert" not in text_of(shown)
    assert assist(staff.dana, staff.module, source).json()["faults"]
    assert assist(staff.dana, staff.module, source, apply="access", access="off").json()["refusal"]


def test_who_comes_second_is_told_and_loses_nothing(staff: Staff) -> None:
    seen = rows(staff.module).draft_changed_at.isoformat()
    assert save(staff.alice, staff.module, DEFINITION + "# of Alice\n", seen=seen).status_code == 302
    shown = text_of(save(staff.dana, staff.module, DEFINITION + "# of Dana\n", seen=seen))
    assert "alice@example.com changed the draft meanwhile" in shown
    assert "# of Dana" in shown
    assert "# of Alice" in rows(staff.module).source
    again = re.search(r'name="seen" value="([^"]+)"', shown)
    assert again is not None
    save(staff.dana, staff.module, DEFINITION + "# of Dana\n", seen=again[1])
    assert "# of Dana" in rows(staff.module).source


def test_a_text_is_checked_without_being_saved(staff: Staff) -> None:
    answer = assist(staff.dana, staff.module, FAULTY).json()
    assert (answer["faults"][0]["line"], answer["source"]) == (FAULTY_LINE, FAULTY)
    assert assist(staff.dana, staff.module, DEFINITION).json()["faults"] == []
    assert rows(staff.module).source == DEFINITION


def test_rows_are_written_into_the_text(staff: Staff) -> None:
    data = {
        "apply": "parameters", "p-count": "2", "p-0-index": "0", "p-0-name": "Full name", "p-0-type": "text",
        "p-0-api_name": "employee_name", "p-1-name": "Start date", "p-1-type": "date", "p-1-required": "on",
    }  # fmt: skip
    answer = assist(staff.dana, staff.module, DEFINITION, **data).json()
    assert [(row["name"], row["api_name"], row["type"], row["required"]) for row in answer["rows"]] == [
        ("Full name", "employee_name", "text", False), ("Start date", "start_date", "date", True),
    ]  # fmt: skip
    assert answer["source"].split("steps:")[1] == DEFINITION.split("steps:")[1]
    assert answer["faults"] == []
    # The same without script: the editor again, nothing saved yet.
    shown = text_of(staff.dana.post(address("assist", staff.module), {"source": DEFINITION, **data}))
    assert "name: Full name" in shown
    assert rows(staff.module).source == DEFINITION


def test_access_is_written_into_the_text(staff: Staff) -> None:
    answer = assist(staff.dana, staff.module, DEFINITION, apply="access", access="public").json()
    assert answer["source"] == DEFINITION.replace("Acme\n", "Acme\naccess: public\n")
    assert answer["access"] == "public"
    refused = assist(staff.dana, staff.module, DEFINITION, apply="access", access="everybody").json()
    assert refused["source"] == DEFINITION


def test_a_viewer_reads_the_editor_and_changes_nothing(staff: Staff) -> None:
    shown = text_of(staff.bob.get(address("change", staff.module)))
    assert "readonly" in shown
    for words in ("Save draft", "Publish…", "Rotate the key", "Set the secret", "Delete"):
        assert words not in shown
    assert save(staff.bob, staff.module, FAULTY).status_code == 403
    for name in ("assist", "publish", "version", "hook"):
        assert staff.bob.post(address(name, staff.module), {"source": DEFINITION}).status_code == 403, name
    assert staff.bob.get(address("publish", staff.module)).status_code == 403
    assert staff.bob.get(address("version", staff.module)).status_code == 200
    assert staff.bob.get(address("export", staff.module)).status_code == 200


@pytest.mark.parametrize("name", ["change", "assist", "publish", "version", "export", "hook", "delete"])
def test_another_workspace_s_module_is_not_there(staff: Staff, name: str) -> None:
    assert staff.charlie.get(address(name, staff.module)).status_code == 404
    assert staff.charlie.post(address(name, staff.module), {"source": DEFINITION, "post": "yes"}).status_code == 404


# -- Publishing ------------------------------------------------------------------------------------------------------
def test_publishing_shows_the_difference_and_takes_a_note(staff: Staff) -> None:
    services.put_draft(staff.cast.project, "onboard", DEFINITION.replace("Laptop", "Computer"), SYSTEM)
    shown = text_of(staff.dana.get(address("publish", staff.module)))
    assert re.search(r'jf-diff-del">-.*Laptop', shown)
    assert re.search(r'jf-diff-add">\+.*Computer', shown)
    assert rows(staff.module).published.number == 1  # type: ignore[union-attr]
    done = staff.dana.post(address("publish", staff.module), {"note": "For the new ones"})
    assert done["Location"] == address("change", staff.module)  # the key was made before: none is shown
    version = rows(staff.module).published
    assert version is not None
    assert (version.number, version.note, version.created_by) == (2, "For the new ones", "user:dana@example.com")


def test_the_first_publishing_shows_the_key_once(staff: Staff) -> None:
    module = services.put_draft(staff.cast.project, "fresh", DEFINITION.replace("onboard", "fresh", 1), SYSTEM)[0]
    response = staff.dana.post(address("publish", module), {"note": ""})
    assert "no-store" in response["Cache-Control"]
    key = KEY.findall(text_of(response))
    assert len(set(key)) == 1
    assert ModuleKey.objects.get(module=module).digest == ModuleKey.digest_of(key[0])
    for name in ("change", "publish", "version", "history"):
        assert key[0] not in text_of(staff.dana.get(address(name, module), follow=True))


def test_a_draft_that_has_become_faulty_is_not_published(staff: Staff) -> None:
    Module.objects.filter(pk=staff.module.pk).update(source=FAULTY)
    shown = text_of(staff.dana.get(address("publish", staff.module)))
    assert f"Line {FAULTY_LINE}" in shown
    assert ">Publish</button>" not in shown
    assert "The definition has" in text_of(staff.dana.post(address("publish", staff.module)))
    assert rows(staff.module).published.number == 1  # type: ignore[union-attr]


def test_an_earlier_version_is_read_exported_and_published_again(staff: Staff) -> None:
    services.put_draft(staff.cast.project, "onboard", DEFINITION.replace("Laptop", "Computer"), SYSTEM)
    services.publish(services.find(staff.cast.project, "onboard"), SYSTEM)
    shown = text_of(staff.bob.get(address("version", staff.module, "?number=2")))
    assert "jf-diff-add" in shown
    assert "Laptop" in text_of(staff.bob.get(address("version", staff.module, "?number=1")))
    exported = staff.bob.get(address("export", staff.module, "?number=1"))
    assert (text_of(exported), exported["Content-Type"]) == (DEFINITION, "application/yaml; charset=utf-8")
    assert 'filename="onboard.yaml"' in exported["Content-Disposition"]
    assert staff.dana.post(address("version", staff.module, "?number=1")).status_code == 302
    assert rows(staff.module).published.number == 1  # type: ignore[union-attr]
    assert "Computer" in rows(staff.module).source


@pytest.mark.parametrize("number", ["99", "0", "x", "-1", "99999999999999999999", ""])
def test_a_version_that_is_not_there_changes_nothing(staff: Staff, number: str) -> None:
    query = f"?number={number}"
    assert staff.dana.get(address("version", staff.module, query)).status_code == 200
    assert "no version" in text_of(staff.dana.post(address("version", staff.module, query), follow=True))
    assert staff.dana.get(address("export", staff.module, query), follow=True).status_code == 200
    assert rows(staff.module).published.number == 1  # type: ignore[union-attr]


def act(client: Client, module: Module, name: str, **data: str) -> Any:
    return client.post(reverse("admin:modules_module_do", args=[module.pk, name]), data)


def test_a_module_is_unpublished_and_deleted(staff: Staff) -> None:
    act(staff.dana, staff.module, "unpublish")
    assert rows(staff.module).published is None
    assert staff.dana.post(address("delete", staff.module), {"post": "yes"}).status_code == 403
    assert staff.alice.post(address("delete", staff.module), {"post": "yes"}).status_code == 302
    assert rows(staff.module).deleted_at is not None
    assert staff.alice.get(address("change", staff.module)).status_code == 404
    # Its runs stay, and say whose they were.
    run = text_of(staff.alice.get(reverse("admin:runs_run_change", args=[staff.run.pk])))
    assert "Onboard somebody at Acme" in run
    assert address("change", staff.module) not in run


# -- Keys and hooks --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("overlap", "old"), [("0", False), ("86400", True), ("nonsense", False)])
def test_a_rotated_key_is_shown_once_and_the_old_one_ends(staff: Staff, overlap: str, old: bool) -> None:
    before = ModuleKey.objects.get(module=staff.module)
    response = act(staff.dana, staff.module, "rotate_key", overlap=overlap)
    assert "no-store" in response["Cache-Control"]
    key = KEY.findall(text_of(response))[0]
    assert ModuleKey.objects.usable().filter(digest=ModuleKey.digest_of(key)).exists()
    assert ModuleKey.objects.usable().filter(pk=before.pk).exists() is old
    assert key not in text_of(staff.dana.get(address("change", staff.module)))


def test_a_hook_s_secret_is_set_or_made_and_never_shown_again(staff: Staff) -> None:
    made = staff.dana.post(address("hook", staff.module), {"secret": ""})
    assert "no-store" in made["Cache-Control"]
    secret = KEY.findall(text_of(made))[0]
    assert rows(staff.module).unseal("hook_secret") == secret
    given = staff.dana.post(address("hook", staff.module), {"secret": "given by the sender"}, follow=True)
    assert rows(staff.module).unseal("hook_secret") == "given by the sender"
    assert "given by the sender" not in text_of(given)
    short = staff.dana.post(address("hook", staff.module), {"secret": "short"}, follow=True)
    assert "Some fields are missing or wrong" in text_of(short)
    assert rows(staff.module).unseal("hook_secret") == "given by the sender"


def test_a_hook_gets_another_address(staff: Staff) -> None:
    before = staff.module.hook_token
    assert f"/hooks/{before}" in text_of(staff.dana.get(address("change", staff.module)))
    act(staff.dana, staff.module, "rotate_hook")
    after = rows(staff.module).hook_token
    assert after != before
    assert f"/hooks/{after}" in text_of(staff.dana.get(address("change", staff.module)))


def test_the_pages_of_a_module_have_no_inline_script(staff: Staff) -> None:
    for name in ("change", "publish", "version"):
        shown = text_of(staff.dana.get(address(name, staff.module)))
        assert not re.findall(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)[^>]*>", shown), name
        assert not re.findall(r"\son\w+=", shown), name


# -- Groups ----------------------------------------------------------------------------------------------------------
def test_a_group_is_made_changed_and_deleted(staff: Staff) -> None:
    add = reverse("admin:modules_group_add")
    data = {"project": staff.cast.project.pk, "name": "lawyers", "members": "A@x.example\n\nb@x.example, a@x.example"}
    assert staff.dana.post(add, data).status_code == 302
    group = Group.objects.get(name="lawyers")
    assert group.members == ["a@x.example", "b@x.example"]
    change = reverse("admin:modules_group_change", args=[group.pk])
    assert staff.dana.post(change, {"name": "counsel", "members": "c@x.example"}).status_code == 302
    group.refresh_from_db()
    assert (group.name, group.members) == ("counsel", ["c@x.example"])
    delete = reverse("admin:modules_group_delete", args=[group.pk])
    assert staff.dana.post(delete, {"post": "yes"}).status_code == 403
    assert staff.alice.post(delete, {"post": "yes"}).status_code == 302
    actions = AuditEvent.objects.filter(target__in=["lawyers", "counsel"]).order_by("created_at")
    assert list(actions.values_list("action", flat=True)) == ["group.created", "group.changed", "group.deleted"]


@pytest.mark.parametrize(
    ("data", "said"),
    [({"name": "acme-buyers"}, "has a group of this name"), ({"name": " "}, "This field is required"),
     ({"name": "x", "members": "nobody"}, "nobody is no e-mail address")],
    ids=["taken", "empty", "no address"],
)  # fmt: skip
def test_a_faulty_group_is_told_in_the_form(staff: Staff, data: dict[str, str], said: str) -> None:
    form = {"project": staff.cast.project.pk, "members": "", **data}
    assert said in text_of(staff.dana.post(reverse("admin:modules_group_add"), form))
    assert Group.objects.count() == 1


def test_a_viewer_reads_groups_only(staff: Staff) -> None:
    change = reverse("admin:modules_group_change", args=[staff.group.pk])
    assert "it@acme.example" in text_of(staff.bob.get(change))
    assert staff.bob.post(change, {"name": "mine", "members": ""}).status_code == 403
    assert json.dumps(Group.objects.get(pk=staff.group.pk).members) == '["it@acme.example"]'
