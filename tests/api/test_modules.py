"""The routes of modules: what they take, what they answer, who may call them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema_rs
import pytest
import yaml
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from apps.modules.models import Module, ModuleKey
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, Role
from apps.workspaces.services import add_member, create_project, issue_key
from apps.workspaces.tokens import mint_user_token
from tests.api.shop import fails
from tests.cast import EVERY_SCOPE, PASSWORD, Api, Cast, enable
from tests.product import Product

DEFINITION: dict[str, Any] = {
    "title": "Onboard an employee",
    "start_parameters": [{"name": "Employee Name", "api_name": "employee_name", "type": "text", "required": True}],
    "steps": [{"id": "hello", "set": {"text": "Hello {{ start.employee_name }}"}}],
    "result": "{{ steps.hello.output.text }}",
}
YAML = "# Ours\n" + yaml.safe_dump(DEFINITION, sort_keys=False)
ROW = {"id", "name", "title", "access", "state", "version", "published_id", "published_at", "published_by",
       "draft_changed_at", "draft_changed_by", "browser_url", "created_at", "updated_at"}  # fmt: skip
WHOLE = ROW | {"definition", "source", "diff", "hook_url", "hook_secret_set", "keys"}


def put(api: Api, body: Any = DEFINITION, name: str = "onboard", content_type: str = "application/json") -> Any:
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return api.client.generic(
        "PUT",
        f"/v1/{api.project.pk}/modules/{name}",
        data,
        content_type=content_type,
        headers={"Authorization": f"Bearer {api.key}"},
    )


def made(api: Api, body: Any = DEFINITION, name: str = "onboard") -> dict[str, Any]:
    answer = put(api, body, name)
    assert answer.status_code in {200, 201}, answer.content
    row: dict[str, Any] = answer.json()
    return row


def published(api: Api, body: Any = DEFINITION, name: str = "onboard") -> dict[str, Any]:
    made(api, body, name)
    answer = api.post(f"modules/{name}/publish", {})
    assert answer.status_code == 200, answer.content
    row: dict[str, Any] = answer.json()
    return row


def faults_in(answer: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = fails(answer, 400, "VALIDATION_INVALID_SCHEMA")["details"]["faults"]
    assert found
    assert all({"path", "message"} <= set(fault) <= {"path", "message", "line"} for fault in found)
    return found


# -- Drafts ----------------------------------------------------------------------------------------------------------
def test_a_draft_is_made_with_201_and_replaced_with_200(cast: Cast) -> None:
    first = put(cast.api)
    assert first.status_code == 201
    row = first.json()
    assert set(row) == WHOLE
    assert (row["name"], row["state"], row["version"], row["published_id"]) == ("onboard", "draft", None, None)
    assert row["definition"] == {"name": "onboard", **DEFINITION}
    assert row["hook_url"].startswith("http")
    second = put(cast.api, DEFINITION | {"name": "onboard", "title": "New"})
    assert second.status_code == 200
    assert (second.json()["title"], second.json()["id"]) == ("New", row["id"])


@pytest.mark.parametrize(
    "content_type",
    ["application/yaml", "text/yaml", "application/x-yaml", "application/yaml; charset=utf-8",
     "application/x-www-form-urlencoded", ""],
    ids=["application", "text", "x-yaml", "charset", "curl", "none"],
)  # fmt: skip
def test_yaml_is_taken_and_given_back_as_it_was_written(cast: Cast, content_type: str) -> None:
    assert put(cast.api, YAML, content_type=content_type).status_code == 201
    expected = YAML.replace("title:", "name: onboard\ntitle:", 1)
    for answer in (
        cast.api.get("modules/onboard?format=yaml"),
        cast.api.get("modules/onboard", Accept="application/yaml"),
    ):
        assert answer["Content-Type"] == "application/yaml; charset=utf-8"
        assert answer.content.decode() == expected
    assert cast.api.get("modules/onboard").json()["definition"] == {"name": "onboard", **DEFINITION}


def test_what_was_exported_can_be_put_and_changes_nothing(cast: Cast) -> None:
    made(cast.api, {"steps": [{"id": "a", "set": {"on": "off", "n": 1.5, "t": "0o17", "d": "2026-01-31"}}]})
    file = cast.api.get("modules/onboard?format=yaml").content
    before = cast.api.get("modules/onboard").json()["definition"]
    assert put(cast.api, file, content_type="application/yaml").status_code == 200
    assert cast.api.get("modules/onboard").json()["definition"] == before
    events = AuditEvent.objects.count()
    assert put(cast.api, file, content_type="application/yaml").status_code == 200
    assert AuditEvent.objects.count() == events


def test_a_format_that_is_none_is_refused(cast: Cast) -> None:
    made(cast.api)
    fails(cast.api.get("modules/onboard?format=xml"), 400, "VALIDATION_INVALID_SCHEMA")


def test_a_definition_with_faults_is_refused_whole_with_lines(cast: Cast) -> None:
    wrong = YAML.replace("steps:", "step:")
    faults = faults_in(put(cast.api, wrong, content_type="application/yaml"))
    assert {fault.get("line") for fault in faults} != {None}
    assert not Module.objects.exists()
    made(cast.api)
    before = list(Module.objects.values())
    faults_in(put(cast.api, wrong, content_type="application/yaml"))
    assert list(Module.objects.values()) == before


@pytest.mark.parametrize(
    ("body", "content_type", "line"),
    [
        ('{\n"steps": [\n}', "application/json", 3),
        ("steps:\n  - {id: a, set: {n: 1}}\n", "application/json", 1),
        ("steps:\n  - [a\nb: c\n", "application/yaml", None),
        ("\tsteps: []", "application/yaml", 1),
        (b"steps:\n\n- \xff\xfe", "application/yaml", 3),
        (b'{"a": "\xff"}', "application/json", 1),
        ("", "application/json", None),
        ("", "application/yaml", None),
        ("[]", "application/json", None),
        ("null", "application/json", None),
        ("12", "application/yaml", None),
        ('{"steps": [{"id": "a", "set": {"t": "\\u0000"}}]}', "application/json", None),
        ('{"steps": [{"id": "a", "set": {"t": "\\ud800"}}]}', "application/json", None),
        ('{"steps": [{"id": "a", "set": {"t": NaN}}]}', "application/json", None),
        ("[" * 100_000, "application/json", None),
        ('{"a":' * 50_000, "application/json", None),
        ("- " * 50_000, "application/yaml", None),
        ("a: &a [x, x]\nb: &b [*a, *a]\n" * 3, "application/yaml", None),
        ("!!python/object/apply:os.system [id]", "application/yaml", None),
    ],
    ids=["broken-json", "yaml-as-json", "broken-yaml", "tab", "bytes", "bytes-in-json", "empty-json", "empty-yaml",
         "list", "null", "number", "nul", "surrogate", "nan", "deep-list", "deep-object", "deep-yaml", "twice",
         "python"],
)  # fmt: skip
def test_what_is_no_definition_gives_faults(cast: Cast, body: Any, content_type: str, line: int | None) -> None:
    answer = put(cast.api, body, content_type=content_type)
    faults = faults_in(answer)
    assert line is None or faults[0]["line"] == line
    assert not Module.objects.exists()
    checked = cast.api.client.generic(
        "POST", f"/v1/{cast.project.pk}/modules/onboard/check", body, content_type=content_type,
        headers={"Authorization": f"Bearer {cast.key}"},
    )  # fmt: skip
    assert checked.status_code == 200, checked.content
    assert checked.json() == {"faults": faults}


def test_a_laugh_of_a_billion_is_no_definition(cast: Cast) -> None:
    lines = ["a0: &a0 [ha]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    faults_in(put(cast.api, "\n".join(lines), content_type="application/yaml"))


@pytest.mark.parametrize("route", ["", "/check"], ids=["put", "check"])
@pytest.mark.parametrize("content_type", ["application/json", "application/yaml"], ids=["json", "yaml"])
def test_ten_megabytes_are_too_large_and_two_are_told_as_a_fault(cast: Cast, route: str, content_type: str) -> None:
    def sent(body: str) -> Any:
        method = "POST" if route else "PUT"
        path = f"/v1/{cast.project.pk}/modules/onboard{route}"
        headers = {"Authorization": f"Bearer {cast.key}"}
        return cast.api.client.generic(method, path, body, content_type=content_type, headers=headers)

    body = json.dumps(DEFINITION | {"description": "x" * 10_000_000})
    fails(sent(body), 413, "PAYLOAD_TOO_LARGE")
    answer = sent(json.dumps(DEFINITION | {"description": "x" * 1_500_000}))
    assert answer.status_code == (200 if route else 400)
    assert "1 MB" in answer.content.decode()
    assert not Module.objects.exists()


def test_the_name_in_the_body_is_the_paths(cast: Cast) -> None:
    assert put(cast.api, DEFINITION | {"name": "onboard"}).status_code == 201
    (fault,) = faults_in(put(cast.api, DEFINITION | {"name": "other"}))
    assert fault["path"] == "name"


@pytest.mark.parametrize(
    "name", ["publish", "a/check", "Upper", "a%20b", "a//b", "a/", "x" * 151, "%C3%BC", "a%2F..%2Fb", "versions/3"]
)
def test_a_name_that_is_none_is_a_fault(cast: Cast, name: str) -> None:
    answer = put(cast.api, DEFINITION, name)
    if answer.status_code != 405:  # the path of another route
        assert faults_in(answer)[0]["path"] == "name"
    assert not Module.objects.exists()


def test_a_nul_in_the_path_is_no_module(cast: Cast) -> None:
    fails(put(cast.api, DEFINITION, "a%00b"), 404, "RESOURCE_NOT_FOUND")
    fails(cast.api.get("modules/a%00b"), 404, "RESOURCE_NOT_FOUND")


def test_names_may_have_folders_whatever_they_are_called(cast: Cast) -> None:
    name = "hr/publish/onboard"
    assert published(cast.api, DEFINITION, name)["name"] == name
    assert cast.api.get(f"modules/{name}").json()["name"] == name
    assert cast.api.get(f"modules/{name}/versions/1").json()["version"] == 1
    assert cast.api.get("modules/hr%2Fpublish%2Fonboard").json()["name"] == name
    assert cast.api.post(f"modules/{name}/unpublish").status_code == 200
    assert cast.api.delete(f"modules/{name}").status_code == 204


def test_checking_stores_nothing(cast: Cast) -> None:
    answer = cast.api.post("modules/onboard/check", DEFINITION)
    assert (answer.status_code, answer.json()) == (200, {"faults": []})
    assert cast.api.post("modules/onboard/check", DEFINITION | {"name": "x"}).json()["faults"][0]["path"] == "name"
    assert cast.api.post("modules/publish/check", DEFINITION).json()["faults"][0]["path"] == "name"
    assert not Module.objects.exists()
    assert not AuditEvent.objects.filter(action__startswith="module").exists()


# -- Publishing ------------------------------------------------------------------------------------------------------
def test_publishing_answers_with_the_modules_id_and_its_key_once(cast: Cast) -> None:
    first = published(cast.api)
    assert set(first) == {"id", "name", "version", "published_at", "access", "api_key"}
    assert (len(first["id"]), len(first["api_key"]), first["version"], first["access"]) == (22, 43, 1, "api_key")
    second = published(cast.api, DEFINITION | {"title": "Two"})
    assert set(second) == set(first) - {"api_key"}
    assert (second["id"], second["version"]) == (first["id"], 2)
    for path in ("modules", "modules/onboard", "modules/onboard/versions", "modules/onboard/versions/1"):
        assert first["api_key"] not in cast.api.get(path).content.decode()
    row = cast.api.get("modules/onboard").json()
    assert (row["state"], row["version"], row["published_id"]) == ("published", 2, first["id"])
    assert row["keys"][0]["prefix"] == first["api_key"][:8]


def test_versions_tell_who_when_why_and_what(cast: Cast) -> None:
    published(cast.api)
    made(cast.api, DEFINITION | {"title": "Two"})
    assert "+title: Two" in cast.api.get("modules/onboard").json()["diff"]
    cast.api.post("modules/onboard/publish", {"note": "  Another title "})
    found = cast.api.get("modules/onboard/versions").json()
    assert [(row["version"], row["note"], row["published"]) for row in found["versions"]] == [
        (2, "Another title", True),
        (1, "", False),
    ]
    assert found["versions"][0]["created_by"].startswith("key:")
    assert found["nextCursor"] is None
    one = cast.api.get("modules/onboard/versions/2").json()
    assert one["definition"]["title"] == "Two"
    assert "-title: Onboard an employee\n+title: Two" in one["diff"]
    assert cast.api.get("modules/onboard/versions/1").json()["diff"] == ""
    file = cast.api.get("modules/onboard/versions/1?format=yaml").content
    assert yaml.safe_load(file)["title"] == DEFINITION["title"]
    for missing in ("3", "0", "99999999999999999999"):
        fails(cast.api.get(f"modules/onboard/versions/{missing}"), 404, "RESOURCE_NOT_FOUND")
    fails(cast.api.get("modules/onboard/versions/x"), 404, "RESOURCE_NOT_FOUND")


def test_rolling_back_and_unpublishing(cast: Cast) -> None:
    published(cast.api)
    published(cast.api, DEFINITION | {"title": "Two"})
    back = cast.api.post("modules/onboard/rollback", {"version": 1})
    assert back.status_code == 200
    assert back.json()["version"] == 1
    row = cast.api.get("modules/onboard").json()
    assert (row["version"], row["state"], row["title"]) == (1, "changed", DEFINITION["title"])
    fails(cast.api.post("modules/onboard/rollback", {"version": 9}), 404, "RESOURCE_NOT_FOUND")
    for wrong in ({}, {"version": "1"}, {"version": True}, {"version": 0}, {"version": 2**31}, {"version": 1, "x": 1}):
        fails(cast.api.post("modules/onboard/rollback", wrong), 400, "VALIDATION_INVALID_SCHEMA")
    for _ in range(2):
        off = cast.api.post("modules/onboard/unpublish")
        assert off.status_code == 200
        assert (off.json()["state"], off.json()["version"]) == ("draft", None)


@pytest.mark.parametrize(
    "body",
    [{"note": 5}, {"note": "x" * 501}, {"note": "a\x00b"}, {"notes": "x"}, "[]", "{", '{"note": "\\ud800"}'],
    ids=["number", "long", "nul", "unknown", "list", "broken", "surrogate"],
)
def test_a_wrong_note_publishes_nothing(cast: Cast, body: Any) -> None:
    made(cast.api)
    fails(cast.api.post("modules/onboard/publish", body), 400, "VALIDATION_INVALID_SCHEMA")
    assert cast.api.get("modules/onboard").json()["version"] is None


def test_a_draft_whose_toolkit_was_switched_off_is_not_published(cast: Cast) -> None:
    enable(cast.project, "github", "https://api.github.com")
    step = {"id": "issue", "tool": "GITHUB_GET_USER", "with": {"username": "octocat"}}
    made(cast.api, {"steps": [step]})
    cast.api.delete("integrations/configure/github")
    faults_in(cast.api.post("modules/onboard/publish"))
    assert cast.api.get("modules/onboard").json()["version"] is None


def test_deleting_ends_the_key_and_the_hook(cast: Cast) -> None:
    key = published(cast.api)["api_key"]
    assert cast.api.delete("modules/onboard").status_code == 204
    assert not ModuleKey.objects.usable().filter(digest=ModuleKey.digest_of(key)).exists()
    fails(cast.api.get("modules/onboard"), 404, "RESOURCE_NOT_FOUND")
    fails(cast.api.delete("modules/onboard"), 404, "RESOURCE_NOT_FOUND")
    assert cast.api.get("modules").json()["modules"] == []
    assert put(cast.api).status_code == 201


# -- Keys and hooks --------------------------------------------------------------------------------------------------
def test_the_key_the_hooks_address_and_its_secret_are_replaced(cast: Cast) -> None:
    old = published(cast.api)["api_key"]
    answer = cast.api.post("modules/onboard/rotate-key", {"overlapSeconds": 60})
    assert set(answer.json()) == {"api_key"}
    assert ModuleKey.objects.usable().count() == 2
    assert cast.api.post("modules/onboard/rotate-key").json()["api_key"] not in {old, answer.json()["api_key"]}
    assert ModuleKey.objects.usable().count() == 1
    before = cast.api.get("modules/onboard").json()
    hook = cast.api.post("modules/onboard/rotate-key", {"of": "hook"}).json()
    assert set(hook) == {"hook_url"}
    after = cast.api.get("modules/onboard").json()
    assert before["hook_url"] != after["hook_url"] == hook["hook_url"]
    assert after["hook_secret_set"] is False
    theirs = {"of": "hook_secret", "secret": "whsec_of_the_provider"}
    assert cast.api.post("modules/onboard/rotate-key", theirs).json() == {"hook_secret": "whsec_of_the_provider"}
    assert len(cast.api.post("modules/onboard/rotate-key", {"of": "hook_secret"}).json()["hook_secret"]) == 43
    assert cast.api.get("modules/onboard").json()["hook_secret_set"] is True
    assert "whsec_of_the_provider" not in cast.api.get("modules/onboard").content.decode()


@pytest.mark.parametrize(
    "body",
    [{"of": "all"}, {"overlapSeconds": -1}, {"overlapSeconds": "5"}, {"overlapSeconds": 1e99}, {"secret": "long enough"},
     {"of": "hook", "overlapSeconds": 5}, {"of": "hook_secret", "secret": "short"}, {"x": 1},
     {"of": "hook_secret", "secret": "a\nlong one"}],
    ids=["of", "negative", "text", "huge", "secret-of-a-key", "overlap-of-a-hook", "short", "unknown", "newline"],
)  # fmt: skip
def test_a_wrong_rotation_changes_nothing(cast: Cast, body: Any) -> None:
    published(cast.api)
    before = [list(model.objects.values()) for model in (Module, ModuleKey)]
    fails(cast.api.post("modules/onboard/rotate-key", body), 400, "VALIDATION_INVALID_SCHEMA")
    assert [list(model.objects.values()) for model in (Module, ModuleKey)] == before


@pytest.mark.parametrize("access", ["public", "signed_in", "api_key", "off"])
def test_a_module_tells_where_people_start_it(cast: Cast, access: str, settings: Any) -> None:
    published(cast.api, DEFINITION | {"access": access})
    row = cast.api.get("modules/onboard").json()
    page = f"{settings.JACKFIELD_URL}/s/{row['id']}" if access in {"public", "signed_in"} else None
    assert row["browser_url"] == page
    assert (row["hook_url"] is None) is (access == "off")


# -- Lists -----------------------------------------------------------------------------------------------------------
def test_lists_are_paged_newest_first_and_cost_one_query_however_long(cast: Cast) -> None:
    for name in ("a", "b", "c"):
        published(cast.api, DEFINITION, name)
    made(cast.api, DEFINITION | {"title": "x"}, "b")
    first = cast.api.get("modules?limit=2").json()
    rest = cast.api.get(f"modules?limit=2&cursor={first['nextCursor']}").json()
    rows = first["modules"] + rest["modules"]
    assert [(row["name"], row["state"]) for row in rows] == [("c", "published"), ("b", "changed"), ("a", "published")]
    assert set(rows[0]) == ROW
    assert rest["nextCursor"] is None
    with CaptureQueriesContext(connection) as captured:
        cast.api.get("modules")
    assert len([query for query in captured if '"modules_module"' in query["sql"]]) == 1
    for _ in range(2):
        cast.api.post("modules/a/publish")
    first = cast.api.get("modules/a/versions?limit=2").json()
    rest = cast.api.get(f"modules/a/versions?limit=2&cursor={first['nextCursor']}").json()
    assert [row["version"] for row in first["versions"] + rest["versions"]] == [3, 2, 1]


# -- Who may ---------------------------------------------------------------------------------------------------------
CALLS = [
    ("GET", "modules", None),
    ("PUT", "modules/onboard", DEFINITION),
    ("GET", "modules/onboard", None),
    ("POST", "modules/onboard/check", DEFINITION),
    ("POST", "modules/onboard/publish", {}),
    ("POST", "modules/onboard/unpublish", {}),
    ("POST", "modules/onboard/rollback", {"version": 1}),
    ("POST", "modules/onboard/rotate-key", {}),
    ("POST", "modules/onboard/rotate-key", {"of": "hook_secret"}),
    ("GET", "modules/onboard/versions", None),
    ("GET", "modules/onboard/versions/1", None),
    ("DELETE", "modules/onboard", None),
]


def state() -> list[Any]:
    return [list(model._default_manager.order_by("pk").values()) for model in (Module, ModuleKey)]


def member(cast: Cast, role: str) -> Api:
    add_member(cast.workspace, cast.bob, role, SYSTEM)
    answer = cast.api.post("/api/auth/login", {"email": cast.bob.email, "password": PASSWORD})
    return Api(cast.project, answer.json()["token"])


def test_another_tenant_gets_404_for_everything(cast: Cast) -> None:
    published(cast.api)
    before = state()
    other = create_project(cast.workspace, "Other", SYSTEM)
    own = Api(cast.project, issue_key(cast.workspace, "other", SYSTEM, project=other, scopes=EVERY_SCOPE)[1])
    for method, path, body in CALLS:
        for api in (cast.foreign, own):
            fails(api.call(method, path, body), 404, "RESOURCE_NOT_FOUND")
    assert state() == before
    for method, path, body in CALLS:  # a module of the same name, in their own project
        assert Api(cast.foreign_project, cast.foreign_key).call(method, path, body).status_code < 300, (method, path)
    assert [row for row in state()[0] if row["project_id"] == cast.project.pk] == before[0]


def test_keys_without_admin_and_end_users_get_403(cast: Cast) -> None:
    published(cast.api)
    before = state()
    key = cast.with_key("connect", "execute", "runs", "secrets")
    person = Api(cast.project, mint_user_token(cast.project, "u1", 600)[0])
    for method, path, body in CALLS:
        for api in (key, person):
            fails(api.call(method, path, body), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    assert state() == before


def test_a_viewer_reads_but_learns_no_address_that_starts_it(cast: Cast) -> None:
    published(cast.api)
    before, api = state(), member(cast, Role.VIEWER)
    for method, path, body in CALLS:
        answer = api.call(method, path, body)
        assert answer.status_code == (200 if method == "GET" else 403), (method, path, answer.content)
        assert Module.objects.get().hook_token not in answer.content.decode()
    assert state() == before


def test_a_developer_does_all_but_delete(cast: Cast) -> None:
    made(cast.api)
    api = member(cast, Role.DEVELOPER)
    for method, path, body in CALLS:
        expected = {403} if method == "DELETE" else {200}
        assert api.call(method, path, body).status_code in expected, (method, path)


def test_a_key_for_some_toolkits_puts_no_others_into_a_module(cast: Cast) -> None:
    enable(cast.project, "github", "https://api.github.com")
    step = {"id": "user", "tool": "GITHUB_GET_USER", "with": {"username": "octocat"}}
    inner = {"id": "if", "condition": True, "then": [step]}
    slack = cast.with_key("admin", toolkits=["slack"])
    for steps in ([step], [inner]):
        fails(put(slack, {"steps": steps}), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    assert not Module.objects.exists()
    assert put(cast.with_key("admin", toolkits=["github"]), {"steps": [step]}).status_code == 201
    fails(slack.post("modules/onboard/publish"), 403, "AUTH_INSUFFICIENT_PERMISSIONS")
    cast.api.post("modules/onboard/publish")
    fails(slack.post("modules/onboard/rollback", {"version": 1}), 403, "AUTH_INSUFFICIENT_PERMISSIONS")


def test_wrong_methods_and_unknown_paths_are_json(cast: Cast) -> None:
    made(cast.api)
    for method, path in (("POST", "modules"), ("PATCH", "modules/onboard"), ("GET", "modules/onboard/publish")):
        fails(cast.api.call(method, path, {}), 405, "METHOD_NOT_ALLOWED")
    fails(cast.api.get("modules/unknown"), 404, "RESOURCE_NOT_FOUND")
    fails(cast.api.post("modules/unknown/publish"), 404, "RESOURCE_NOT_FOUND")


# -- The schema ------------------------------------------------------------------------------------------------------
def test_the_schema_of_definitions_is_served_and_true(cast: Cast) -> None:
    answer = Client().get("/modules.schema.json")
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")
    validator = jsonschema_rs.validator_for(answer.json())
    assert validator.is_valid({"name": "onboard", **DEFINITION})
    assert not validator.is_valid({"name": "onboard", **DEFINITION, "steps": []})
    assert not validator.is_valid({"name": "onboard", **DEFINITION, "unknown": 1})


# -- The product -----------------------------------------------------------------------------------------------------
def test_publishing_over_http_at_once_gives_each_a_number_of_its_own(product: Product) -> None:
    project, key = product.facts["project_id"], product.facts["api_key"]
    headers = {"Authorization": f"Bearer {key}"}
    base = f"/v1/{project}/modules/at-once"
    file = YAML.encode()
    typed = headers | {"Content-Type": "application/yaml"}

    def publish(_: int) -> Any:
        return product.call("POST", f"{base}/publish", headers=headers, json={})

    with ThreadPoolExecutor(8) as pool:
        put_answers = list(pool.map(lambda _: product.call("PUT", base, headers=typed, data=file), range(8)))
        answers = list(pool.map(publish, range(8)))
    assert sorted(answer.status_code for answer in put_answers) == [200] * 7 + [201]
    assert [answer.status_code for answer in answers] == [200] * 8
    assert sorted(answer.json()["version"] for answer in answers) == list(range(1, 9))
    assert len([answer for answer in answers if "api_key" in answer.json()]) == 1
    exported = product.call("GET", f"{base}?format=yaml", headers=headers)
    assert exported.text == YAML.replace("title:", "name: at-once\ntitle:", 1)
    assert product.call("DELETE", base, headers=headers).status_code == 204
