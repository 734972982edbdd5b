"""Google Drive's tools against the emulated Drive, and the requests of those that it does not serve."""

import base64
import json
import re
import uuid
from email import message_from_bytes, policy
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from apps.toolkits.hooks.google_drive import quote
from apps.toolkits.request import BadParameters
from tests.peers.emulate import EMAIL, Emulate
from tests.toolkits.driver import Service, build_tool, load, tools_named
from tests.toolkits.google import connect

NOT_SERVED = {
    "copy_file",
    "create_comment",
    "delete_file",
    "empty_trash",
    "export_file",
    "get_about",
    "get_start_page_token",
    "list_changes",
    "list_comments",
    "list_permissions",
    "list_shared_drives",
    "replace_file_content",
    "share_file",
    "unshare_file",
    "update_permission",
}
# It answers these, but changes no file's place in the trash.
NOT_DONE = {"restore_file", "trash_file"}
BASE = "https://www.googleapis.com"
FOLDER = "application/vnd.google-apps.folder"
EXAMPLES: dict[str, dict[str, Any]] = {
    "copy_file": {"file_id": "f1"},
    "create_comment": {"file_id": "f1", "content": "Good"},
    "delete_file": {"file_id": "f1"},
    "export_file": {"file_id": "f1", "mime_type": "text/csv"},
    "list_changes": {"page_token": "7"},
    "list_comments": {"file_id": "f1"},
    "list_permissions": {"file_id": "f1"},
    "replace_file_content": {"file_id": "f1", "text": "x"},
    "share_file": {"file_id": "f1", "role": "reader", "type": "anyone"},
    "unshare_file": {"file_id": "f1", "permission_id": "p1"},
    "update_permission": {"file_id": "f1", "permission_id": "p1", "role": "writer"},
}


@pytest.fixture
def drive(emulate: Emulate) -> Service:
    return connect(emulate, "google-drive")


@pytest.fixture
def folder(drive: Service) -> str:
    """The id of a folder that no other test uses."""
    return str(drive("create_folder", name=f"Folder {uuid.uuid4().hex}", parents=["root"])["id"])


def query_of(**params: Any) -> str:
    return parse_qs(urlsplit(build_tool("google-drive", "list_files", params).full_url).query)["q"][0]


def faults_of(tool_slug: str, **params: Any) -> dict[str, list[str]]:
    with pytest.raises(BadParameters) as caught:
        build_tool("google-drive", tool_slug, params)
    return caught.value.faults


# Against the emulated Drive


def test_the_account_is_called_by_its_address_and_the_test_call_works(drive: Service) -> None:
    toolkit = load("google-drive")
    assert toolkit.profile is not None
    assert toolkit.test is not None
    assert (toolkit.profile.id, toolkit.profile.label) == ("/email", "/email")
    assert drive.call(toolkit.profile)["email"] == EMAIL
    assert len(drive.call(toolkit.test)["files"]) == 1


def test_bytes_go_up_and_come_down_as_they_were(drive: Service, folder: str) -> None:
    data = bytes(range(256)) * 20 + b"\r\n--boundary--\r\n"
    made = drive(
        "upload_file",
        name="Ünï.png",
        base64=base64.b64encode(data).decode(),
        content_type="image/png",
        parents=[folder],
    )
    assert (made["mimeType"], made["size"], made["parents"]) == ("image/png", str(len(data)), [folder])
    assert drive("download_file", file_id=made["id"]) == data


def test_a_text_goes_up_as_text(drive: Service, folder: str) -> None:
    made = drive("upload_file", name="note.txt", text="Grüße\n", parents=[folder])
    assert (made["name"], made["mimeType"]) == ("note.txt", "text/plain")
    assert drive("download_file", file_id=made["id"]) == "Grüße\n".encode()
    assert drive("get_file", file_id=made["id"])["size"] == "8"


def test_files_are_found_by_folder_and_type_page_by_page(drive: Service, folder: str) -> None:
    ids = {drive("upload_file", name=f"{number}.txt", text="x", parents=[folder])["id"] for number in range(3)}
    inner = drive("create_folder", name="Inner", parents=[folder])
    assert inner["mimeType"] == FOLDER
    paging = load("google-drive").pagination
    assert paging is not None
    assert (paging.parameter, paging.next) == ("pageToken", "/nextPageToken")
    found = {"folder_id": folder, "mime_type": "text/plain", "order_by": "name"}
    first = drive("list_files", **found, page_size=2)
    second = drive("list_files", **found, page_size=2, page_token=first["nextPageToken"])
    assert {one["id"] for one in first["files"] + second["files"]} == ids
    assert [one["id"] for one in drive("list_files", folder_id=folder, mime_type=FOLDER)["files"]] == [inner["id"]]


def test_a_file_is_renamed_and_moved(drive: Service, folder: str) -> None:
    made = drive("create_google_file", name="Plan", mime_type="application/vnd.google-apps.document", parents=["root"])
    assert made["mimeType"] == "application/vnd.google-apps.document"
    assert drive("update_file", file_id=made["id"], name="Plan B")["name"] == "Plan B"
    drive("move_file", file_id=made["id"], to_folder_id=folder, from_folder_id="root")
    assert drive("get_file", file_id=made["id"])["parents"] == [folder]


def test_the_emulated_drive_still_takes_the_trash_for_nothing(drive: Service, folder: str) -> None:
    made = drive("upload_file", name="old.txt", text="x", parents=[folder])
    assert "trashed" not in drive("trash_file", file_id=made["id"])
    assert "trashed" not in drive("restore_file", file_id=made["id"])


@pytest.mark.parametrize("tool_slug", sorted(NOT_SERVED))
def test_the_emulated_drive_still_does_not_serve_it(drive: Service, tool_slug: str) -> None:
    assert drive.answer(tool_slug, **EXAMPLES.get(tool_slug, {}))[0] in (404, 405)


def test_every_other_tool_is_called_against_the_emulated_drive() -> None:
    assert tools_named(__file__, "drive") == set(load("google-drive").tools_by_slug) - NOT_SERVED
    assert tools_named(__file__, "drive") >= NOT_DONE


# Uploads and searches


def test_an_upload_is_one_multipart_body_of_description_and_content() -> None:
    params = {"name": "a\r\n--x", "text": "Hi", "parents": ["p1"], "convert_to": "application/vnd.google-apps.document"}
    request = build_tool("google-drive", "upload_file", params)
    assert (request.method, urlsplit(request.full_url).path) == ("POST", "/upload/drive/v3/files")
    assert dict(request.query)["uploadType"] == "multipart"
    kind = request.headers["Content-Type"]
    assert re.fullmatch(r"multipart/related; boundary=[0-9a-f]{32}", kind)
    parsed = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + (request.body or b""), policy=policy.default)
    description, content = parsed.iter_parts()
    described = description.get_payload(decode=True)
    assert isinstance(described, bytes)
    assert json.loads(described) == {
        "name": "a\r\n--x",
        "parents": ["p1"],
        "mimeType": "application/vnd.google-apps.document",
    }
    assert (content.get_content_type(), content.get_payload(decode=True)) == ("text/plain", b"Hi")
    assert build_tool("google-drive", "upload_file", params).headers["Content-Type"] != kind


def test_new_content_goes_up_by_itself() -> None:
    params = {"file_id": "f1", "base64": base64.b64encode(b"\x00\x01").decode(), "content_type": "image/png"}
    request = build_tool("google-drive", "replace_file_content", params)
    assert (request.method, request.url) == ("PATCH", f"{BASE}/upload/drive/v3/files/f1")
    assert dict(request.query)["uploadType"] == "media"
    assert (request.headers["Content-Type"], request.body) == ("image/png", b"\x00\x01")
    plain = build_tool("google-drive", "replace_file_content", {"file_id": "f1", "text": ""})
    assert (plain.headers["Content-Type"], plain.body) == ("text/plain; charset=UTF-8", b"")


@pytest.mark.parametrize("tool_slug", ["upload_file", "replace_file_content"])
@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "base64"),
        ({"text": "a", "base64": "YQ=="}, "base64"),
        ({"base64": "%%%"}, "base64"),
        ({"text": "a", "content_type": "text/plain\r\nX-Evil: 1"}, "content_type"),
        ({"text": "a", "content_type": "text"}, "content_type"),
    ],
)
def test_content_that_cannot_go_up_is_told(tool_slug: str, params: dict[str, Any], field: str) -> None:
    own = {"name": "a"} if tool_slug == "upload_file" else {"file_id": "f1"}
    assert set(faults_of(tool_slug, **own, **params)) == {field}


def test_a_search_joins_what_was_asked_for_and_leaves_the_trash_out() -> None:
    assert query_of() == "trashed = false"
    asked = {"folder_id": "p1", "name_contains": "it's", "full_text": "a\\b", "mime_type": "text/csv"}
    assert query_of(**asked, query="starred = true or sharedWithMe = true") == (
        "(starred = true or sharedWithMe = true) and name contains 'it\\'s' and fullText contains 'a\\\\b' "
        "and 'p1' in parents and mimeType = 'text/csv' and trashed = false"
    )
    assert "trashed" not in query_of(name_contains="x", include_trashed=True)


@pytest.mark.parametrize("text", ["x' or name contains '", "\\' or trashed = true or name = '", "\\"])
def test_no_value_gets_out_of_its_quotes(text: str) -> None:
    quoted = quote(text)
    assert re.fullmatch(r"'(?:[^'\\]|\\['\\])*'", quoted)
    assert re.sub(r"\\(['\\])", r"\1", quoted[1:-1]) == text


# What is not served there, as Google's discovery document has it


@pytest.mark.parametrize(
    ("tool_slug", "params", "method", "path", "query", "body"),
    [
        (
            "copy_file",
            {"file_id": "f1", "name": "B"},
            "POST",
            "/files/f1/copy",
            {"supportsAllDrives": "true"},
            {"name": "B"},
        ),
        ("create_comment", {"file_id": "f1", "content": "Good"}, "POST", "/files/f1/comments", {}, {"content": "Good"}),
        ("delete_file", {"file_id": "f/1"}, "DELETE", "/files/f%2F1", {"supportsAllDrives": "true"}, None),
        ("empty_trash", {"drive_id": "d1"}, "DELETE", "/files/trash", {"driveId": "d1"}, None),
        (
            "export_file",
            {"file_id": "f1", "mime_type": "text/csv"},
            "GET",
            "/files/f1/export",
            {"mimeType": "text/csv"},
            None,
        ),
        ("get_about", {}, "GET", "/about", {"fields": "user,storageQuota,maxUploadSize"}, None),
        ("get_start_page_token", {}, "GET", "/changes/startPageToken", {"supportsAllDrives": "true"}, None),
        ("list_changes", {"page_token": "7"}, "GET", "/changes", {"pageToken": "7", "supportsAllDrives": "true"}, None),
        ("list_comments", {"file_id": "f1", "page_size": 5}, "GET", "/files/f1/comments", {"pageSize": "5"}, None),
        ("list_permissions", {"file_id": "f1"}, "GET", "/files/f1/permissions", {"supportsAllDrives": "true"}, None),
        ("list_shared_drives", {"query": "name = 'a'"}, "GET", "/drives", {"q": "name = 'a'"}, None),
        (
            "share_file",
            {
                "file_id": "f1",
                "role": "writer",
                "type": "user",
                "email_address": "a@b.com",
                "send_notification_email": False,
            },
            "POST",
            "/files/f1/permissions",
            {"sendNotificationEmail": "false", "supportsAllDrives": "true"},
            {"role": "writer", "type": "user", "emailAddress": "a@b.com"},
        ),
        (
            "unshare_file",
            {"file_id": "f1", "permission_id": "p1"},
            "DELETE",
            "/files/f1/permissions/p1",
            {"supportsAllDrives": "true"},
            None,
        ),
        (
            "update_permission",
            {"file_id": "f1", "permission_id": "p1", "role": "owner", "transfer_ownership": True},
            "PATCH",
            "/files/f1/permissions/p1",
            {"transferOwnership": "true"},
            {"role": "owner"},
        ),
        ("trash_file", {"file_id": "f1"}, "PATCH", "/files/f1", {"supportsAllDrives": "true"}, {"trashed": True}),
        ("restore_file", {"file_id": "f1"}, "PATCH", "/files/f1", {"supportsAllDrives": "true"}, {"trashed": False}),
    ],
)
def test_what_is_not_served_is_built_as_google_documents_it(
    tool_slug: str, params: dict[str, Any], method: str, path: str, query: dict[str, str], body: Any
) -> None:
    request = build_tool("google-drive", tool_slug, params)
    assert (request.method, request.url) == (method, f"{BASE}/drive/v3{path}")
    assert dict(request.query).items() >= query.items()
    assert (json.loads(request.body) if request.body else None) == body


def members(schema: dict[str, Any]) -> set[str]:
    own = schema.get("properties", {})
    inner = [members(one) for one in [*own.values(), schema.get("items", {})]] if schema else []
    return set(own).union(*inner)


PARTLY = ["list_files", "get_file", "list_permissions", "list_comments", "share_file", "get_about"]


@pytest.mark.parametrize("tool_slug", PARTLY)
def test_drive_is_asked_for_every_member_that_the_file_promises(tool_slug: str) -> None:
    tool = load("google-drive").tools_by_slug[tool_slug]
    asked = set(re.findall(r"\w+", tool.fixed_query["fields"]))
    whole = {"displayName", "emailAddress", "limit", "usage"} if tool_slug == "get_about" else set()
    assert members(tool.output) - asked == whole
