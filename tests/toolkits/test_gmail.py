"""Gmail's tools against the emulated Gmail, and the messages that they compose."""

import base64
import json
import uuid
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from apps.toolkits.hooks.gmail import read_draft, read_message, read_thread
from apps.toolkits.request import BadParameters, Request, build_call
from tests.peers.emulate import EMAIL, Emulate
from tests.toolkits.driver import Service, build_tool, load, tools_named
from tests.toolkits.google import connect

NOT_SERVED = {"get_profile", "get_vacation_responder", "set_vacation_responder"}


@pytest.fixture
def gmail(emulate: Emulate) -> Service:
    return connect(emulate, "gmail")


@pytest.fixture
def subject() -> str:
    """A subject that no other test's messages have."""
    return f"Lines {uuid.uuid4().hex}"


@pytest.fixture
def received(gmail: Service, subject: str) -> str:
    """The id of an unread message from Bob in Alice's inbox."""
    params = {"to": EMAIL, "subject": subject, "body": "Hello Alice", "label_ids": ["INBOX", "UNREAD"]}
    return str(gmail("import_message", **{"from": "Bob <bob@example.com>"}, **params)["id"])


def composed(request: Request) -> EmailMessage:
    """The RFC 5322 message in a request, parsed by the same package's strict policy."""
    assert request.body is not None
    body = json.loads(request.body)
    raw = base64.urlsafe_b64decode(body["message"]["raw"] if "message" in body else body["raw"])
    message = message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def faults_of(tool_slug: str, **params: Any) -> dict[str, list[str]]:
    with pytest.raises(BadParameters) as caught:
        build_tool("gmail", tool_slug, params)
    return caught.value.faults


# Composing


def test_the_seeds_example_becomes_a_plain_text_message() -> None:
    request = build_tool("gmail", "send_email", {"to": "x@y.com", "subject": "Hi", "body": "Hello"})
    message = composed(request)
    assert (request.method, request.full_url) == (
        "POST",
        "https://gmail.googleapis.com/gmail/v1/users/me/messages/send",
    )
    assert set(json.loads(request.body or b"")) == {"raw"}
    assert (message["To"], message["Subject"]) == ("x@y.com", "Hi")
    assert (message.get_content_type(), message.get_content()) == ("text/plain", "Hello\r\n")
    assert not request.idempotent


def test_every_part_of_a_message_arrives_where_it_belongs() -> None:
    message = composed(
        build_tool(
            "gmail",
            "send_email",
            {
                "from": "Alice <alice@example.com>",
                "to": ["Zoë Ölund <zoe@example.com>", '"Doe, John" <john@example.com>'],
                "cc": "ann@example.com, ben@example.com",
                "bcc": ["eve@example.com"],
                "reply_to": "desk@example.com",
                "subject": "Grüße " * 20,
                "body": "Schöne Grüße",
                "html": "<p>Schöne Grüße</p>",
                "attachments": [
                    {"filename": "añb.bin", "base64": base64.b64encode(b"\x00\xff\xfe").decode()},
                    {"filename": "note.txt", "content_type": "text/csv", "text": "a;b"},
                ],
            },
        )
    )
    assert [address.addr_spec for address in message["To"].addresses] == ["zoe@example.com", "john@example.com"]
    assert [address.display_name for address in message["To"].addresses] == ["Zoë Ölund", "Doe, John"]
    assert (message["Cc"], message["Bcc"]) == ("ann@example.com, ben@example.com", "eve@example.com")
    assert (message["From"], message["Reply-To"]) == ("Alice <alice@example.com>", "desk@example.com")
    assert message["Subject"].strip() == ("Grüße " * 20).strip()
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert (text.get_content(), html.get_content()) == ("Schöne Grüße\r\n", "<p>Schöne Grüße</p>\r\n")
    files = [(part.get_filename(), part.get_content_type()) for part in message.iter_attachments()]
    assert files == [("añb.bin", "application/octet-stream"), ("note.txt", "text/csv")]
    first = next(iter(message.iter_attachments()))
    assert first.get_payload(decode=True) == b"\x00\xff\xfe"


def test_html_alone_is_sent_alone() -> None:
    message = composed(build_tool("gmail", "send_email", {"to": "x@y.com", "html": "<b>Hi</b>"}))
    assert (message.get_content_type(), message.get_content()) == ("text/html", "<b>Hi</b>\r\n")


def test_the_message_is_seven_bit_text_with_network_line_ends() -> None:
    params = {"to": "x@y.com", "subject": "Ü", "body": "日本\nÜ", "html": "<p>Ü</p>"}
    request = build_tool("gmail", "send_email", params)
    raw = base64.urlsafe_b64decode(json.loads(request.body or b"")["raw"])
    assert raw.isascii()
    assert raw.count(b"\n") == raw.count(b"\r\n")


def test_a_reply_names_its_thread_and_the_message_it_answers() -> None:
    params = {
        "thread_id": "t1",
        "in_reply_to": "<b@x.org>",
        "references": "<a@x.org>  <b@x.org>",
        "to": "bob@example.com",
        "subject": "Lines",
        "body": "Yes",
    }
    request = build_tool("gmail", "reply_to_email", params)
    message = composed(request)
    assert json.loads(request.body or b"")["threadId"] == "t1"
    assert (message["In-Reply-To"], message["References"]) == ("<b@x.org>", "<a@x.org> <b@x.org>")
    assert message["Subject"] == "Re: Lines"
    again = composed(build_tool("gmail", "reply_to_email", params | {"subject": "RE: Lines"}))
    assert again["Subject"] == "RE: Lines"


def test_a_draft_needs_nothing_and_wraps_its_message() -> None:
    request = build_tool("gmail", "create_draft", {"subject": "Later", "thread_id": "t9"})
    assert json.loads(request.body or b"")["message"]["threadId"] == "t9"
    assert composed(request)["Subject"] == "Later"
    assert composed(build_tool("gmail", "create_draft", {})).get_content() == "\r\n"


@pytest.mark.parametrize("break_", ["\r\n", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\x00"])
@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to", "from", "subject"])
def test_no_line_break_gets_into_a_header(field: str, break_: str) -> None:
    params: dict[str, Any] = {"to": "x@y.com", "subject": "Hi", "body": "Hello"}
    bad = f"a@b.com{break_}Bcc: evil@example.com"
    assert set(faults_of("send_email", **params | {field: bad})) == {field}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject", "=?utf-8?q?a=0d=0aBcc:_evil@example.com?= hi"),
        ("subject", "=?utf-8?b?YQ0KQmNjOiBldmlsQGV4YW1wbGUuY29t?="),
        ("to", "=?utf-8?q?a=0d=0aBcc:_evil@example.com?= <a@b.com>"),
        ("to", '"a\\\r\nBcc: evil@example.com" <a@b.com>'),
        ("to", ["x@y.com", "a@b.com\r\nBcc: evil@example.com"]),
        ("in_reply_to", "<a@b.com>\r\nBcc: evil@example.com"),
        ("in_reply_to", "<a@b.com>\n"),
        ("references", "<a@b.com>\r\nBcc: <evil@example.com>"),
        ("attachments.0.filename", "a\r\nBcc: evil@example.com"),
        ("attachments.0.content_type", "text/plain\r\nBcc: evil@example.com"),
        ("attachments.0.content_type", "multipart/mixed"),
    ],
)
def test_no_line_break_hides_in_an_encoded_word_a_quote_or_an_attachment(field: str, value: Any) -> None:
    params: dict[str, Any] = {"to": "x@y.com", "subject": "Hi", "body": "Hello"}
    if field.startswith("attachments"):
        params["attachments"] = [{"filename": "a", "text": "b"} | {field.rpartition(".")[2]: value}]
    else:
        params[field] = value
    assert set(faults_of("send_email", **params)) == {field}


def test_line_breaks_in_the_body_are_text() -> None:
    body = "Hello\r\n\r\nBcc: evil@example.com\n.\n"
    message = composed(build_tool("gmail", "send_email", {"to": "x@y.com", "subject": "Hi", "body": body}))
    assert set(message.keys()) == {"To", "Subject", "Content-Type", "Content-Transfer-Encoding", "MIME-Version"}
    assert message.get_content() == "Hello\r\n\r\nBcc: evil@example.com\r\n.\r\n"


NO_ADDRESSES = ["bob", "a@", "@b.com", "a@b@c", "a b@c.com", "a@b.com; c@d.com", "A <a@b.com> B", "<>", ","]
NO_ADDRESSES += ["ü@x.de", "a@b..com"]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_address_is_told(address: str) -> None:
    assert "is not an e-mail address" in faults_of("send_email", to=address, body="Hi")["to"][0]


def test_a_domain_in_another_script_goes_out_in_ascii() -> None:
    message = composed(build_tool("gmail", "send_email", {"to": "Bob <bob@münchen.de>", "body": "Hi"}))
    assert message["To"].addresses[0].addr_spec == "bob@xn--mnchen-3ya.de"


def test_every_fault_is_told_at_once() -> None:
    found = faults_of(
        "send_email",
        to="nobody",
        subject="a\nb",
        in_reply_to="b@x.org",
        attachments=[{"filename": "a", "base64": "%%"}, {"filename": "b\n", "text": ""}],
    )
    assert set(found) == {"to", "subject", "in_reply_to", "attachments.0.base64", "attachments.1.filename"}


def test_the_schema_names_what_is_missing_or_unknown() -> None:
    assert set(faults_of("send_email", body="Hi", colour="red")) == {"to", "colour"}
    assert set(faults_of("send_email", to=[], body="Hi")) == {"to"}
    assert set(faults_of("send_email", to="x@y.com", attachments=[{"filename": "a"}])) == {"attachments.0"}


# Reading


def test_a_messages_parts_are_read_whatever_their_nesting_and_charset() -> None:
    def part(kind: str, data: bytes, charset: str = "utf-8") -> dict[str, Any]:
        headers = [{"name": "Content-Type", "value": f"{kind}; charset={charset}"}]
        encoded = base64.urlsafe_b64encode(data).decode().rstrip("=")
        return {"mimeType": kind, "headers": headers, "body": {"data": encoded}}

    alternative = {
        "mimeType": "multipart/alternative",
        "parts": [part("text/plain", "Grüße".encode("latin-1"), "iso-8859-1"), part("text/html", "<p>Ü</p>".encode())],
    }
    file = {"mimeType": "image/png", "filename": "a.png", "body": {"attachmentId": "A1", "size": 7}}
    note = part("text/plain", b"attached") | {"filename": "note.txt"}
    answer = {
        "id": "m1",
        "payload": {
            "mimeType": "multipart/mixed",
            "headers": [{"name": "Subject", "value": "Hi"}, {"name": "Message-ID", "value": "<1@x>"}],
            "parts": [alternative, file, note],
        },
    }
    read = read_message(answer)
    assert (read["text"], read["html"]) == ("Grüße", "<p>Ü</p>")
    assert read["headers"] == {"subject": "Hi", "message-id": "<1@x>"}
    assert read["attachments"] == [
        {"filename": "a.png", "content_type": "image/png", "size": 7, "attachment_id": "A1"},
        {"filename": "note.txt", "content_type": "text/plain", "size": 0, "attachment_id": None},
    ]
    assert read["payload"] == answer["payload"]
    assert read_thread({"id": "t", "messages": [answer]})["messages"] == [read]
    assert read_draft({"id": "d", "message": answer})["message"] == read


@pytest.mark.parametrize("charset", ["no-such-charset", "latin-1", "undefined"])
def test_a_text_in_a_charset_that_nobody_knows_is_read_all_the_same(charset: str) -> None:
    data = base64.urlsafe_b64encode("Grüße".encode("latin-1")).decode()
    headers = [{"name": "Content-Type", "value": f'text/plain; charset="{charset}"'}]
    answer = {"payload": {"mimeType": "text/plain", "headers": headers, "body": {"data": data}}}
    assert read_message(answer)["text"] == "Grüße"


@pytest.mark.parametrize("answer", [None, b"", {"id": "m1"}, {"error": {"code": 404}}])
def test_an_answer_without_a_message_stays_as_it_is(answer: Any) -> None:
    assert read_message(answer) == answer
    assert read_thread(answer) == answer
    assert read_draft(answer) == answer


# Against the emulated Gmail


def test_the_account_is_called_by_its_address_and_the_test_call_works(gmail: Service) -> None:
    toolkit = load("gmail")
    assert toolkit.profile is not None
    assert toolkit.test is not None
    assert build_call(toolkit, toolkit.profile, {}).url == "https://www.googleapis.com/oauth2/v2/userinfo"
    assert (toolkit.profile.id, toolkit.profile.label) == ("/email", "/email")
    assert gmail.call(toolkit.profile)["email"] == EMAIL
    assert "INBOX" in {label["id"] for label in gmail.call(toolkit.test)["labels"]}


def test_a_message_is_sent_found_and_read_back(gmail: Service, subject: str) -> None:
    sent = gmail(
        "send_email",
        to="Bob <bob@example.com>",
        cc="ann@example.com",
        subject=subject,
        body="Über\nlines",
        html="<p>Über</p>",
    )
    assert sent["labelIds"] == ["SENT"]
    found = gmail("list_messages", query=f"subject:{subject.split()[1]}", label_ids=["SENT"], max_results=5)
    assert [message["id"] for message in found["messages"]] == [sent["id"]]
    read = gmail("get_message", message_id=sent["id"])
    assert (read["text"].strip(), read["html"].strip()) == ("Über\nlines", "<p>Über</p>")
    assert (read["headers"]["to"], read["headers"]["cc"]) == ("Bob <bob@example.com>", "ann@example.com")
    assert (read["headers"]["subject"], read["headers"]["from"]) == (subject, EMAIL)
    part = gmail("get_message", message_id=sent["id"], format="metadata", metadata_headers=["Subject"])
    assert part["headers"] == {"subject": subject}


def test_the_seeds_example_is_sent(gmail: Service) -> None:
    sent = gmail("send_email", to="x@y.com", subject="Hi", body="Hello")
    read = gmail("get_message", message_id=sent["id"])
    assert (read["headers"]["to"], read["headers"]["subject"], read["text"]) == ("x@y.com", "Hi", "Hello")


def test_an_attachment_goes_out_and_comes_back_byte_by_byte(gmail: Service, subject: str) -> None:
    data = bytes(range(256)) * 20
    files = [{"filename": "all.bin", "content_type": "image/png", "base64": base64.b64encode(data).decode()}]
    sent = gmail("send_email", to="bob@example.com", subject=subject, body="See", attachments=files)
    (file,) = gmail("get_message", message_id=sent["id"])["attachments"]
    assert (file["filename"], file["content_type"], file["size"]) == ("all.bin", "image/png", len(data))
    got = gmail("get_attachment", message_id=sent["id"], attachment_id=file["attachment_id"])
    again = gmail("send_email", to="bob@example.com", body="On", attachments=[{"filename": "b", "base64": got["data"]}])
    (copy,) = gmail("get_message", message_id=again["id"])["attachments"]
    assert copy["size"] == len(data)
    forwarded = gmail("get_attachment", message_id=again["id"], attachment_id=copy["attachment_id"])
    assert base64.urlsafe_b64decode(forwarded["data"] + "==") == data


def test_an_answer_joins_the_conversation(gmail: Service, received: str, subject: str) -> None:
    first = gmail("get_message", message_id=received)
    answered = gmail(
        "reply_to_email",
        thread_id=first["threadId"],
        in_reply_to=first["headers"]["message-id"],
        to="bob@example.com",
        subject=subject,
        body="Hello Bob",
    )
    thread = gmail("get_thread", thread_id=first["threadId"])
    assert {message["id"] for message in thread["messages"]} == {received, answered["id"]}
    answer = next(message for message in thread["messages"] if message["id"] == answered["id"])
    assert (answer["text"], answer["headers"]["subject"]) == ("Hello Bob", f"Re: {subject}")
    assert answer["headers"]["in-reply-to"] == first["headers"]["message-id"]
    assert first["threadId"] in {one["id"] for one in gmail("list_threads", query=subject)["threads"]}


def test_labels_are_made_renamed_put_on_and_deleted(gmail: Service, received: str) -> None:
    name = f"Label {uuid.uuid4().hex[:8]}"
    label = gmail("create_label", name=name, background_color="#16a765", text_color="#ffffff")
    assert (label["name"], label["color"]) == (name, {"backgroundColor": "#16a765", "textColor": "#ffffff"})
    assert gmail("update_label", label_id=label["id"], name=f"{name} b")["name"] == f"{name} b"
    changed = gmail("modify_message", message_id=received, add_label_ids=[label["id"]], remove_label_ids=["UNREAD"])
    assert set(changed["labelIds"]) == {"INBOX", label["id"]}
    assert gmail("get_label", label_id=label["id"])["messagesTotal"] == 1
    assert label["id"] in {one["id"] for one in gmail("list_labels")["labels"]}
    gmail("delete_label", label_id=label["id"])
    assert set(gmail("get_message", message_id=received)["labelIds"]) == {"INBOX"}
    assert gmail.answer("get_label", label_id=label["id"])[0] == 404


def test_many_messages_are_changed_and_deleted_at_once(gmail: Service, subject: str) -> None:
    ids = [gmail("send_email", to="bob@example.com", subject=subject, body=text)["id"] for text in ("a", "b")]
    assert gmail("batch_modify_messages", ids=ids, add_label_ids=["STARRED"]) is None
    assert {"SENT", "STARRED"} == set(gmail("get_message", message_id=ids[1])["labelIds"])
    assert gmail("batch_delete_messages", ids=ids) is None
    assert [gmail.answer("get_message", message_id=one)[0] for one in ids] == [404, 404]


def test_a_message_goes_to_the_trash_and_back_and_is_deleted(gmail: Service, received: str, subject: str) -> None:
    assert "TRASH" in gmail("trash_message", message_id=received)["labelIds"]
    assert gmail("list_messages", query=subject)["messages"] == []
    found = gmail("list_messages", query=subject, include_spam_trash=True)["messages"]
    assert [one["id"] for one in found] == [received]
    assert "TRASH" not in gmail("untrash_message", message_id=received)["labelIds"]
    assert gmail("delete_message", message_id=received) is None
    assert gmail.answer("get_message", message_id=received)[0] == 404


def test_a_conversation_is_changed_trashed_and_deleted_as_a_whole(gmail: Service, received: str) -> None:
    thread_id = gmail("get_message", message_id=received)["threadId"]
    changed = gmail("modify_thread", thread_id=thread_id, add_label_ids=["STARRED"], remove_label_ids=["INBOX"])
    assert set(changed["messages"][0]["labelIds"]) == {"UNREAD", "STARRED"}
    assert "TRASH" in gmail("trash_thread", thread_id=thread_id)["messages"][0]["labelIds"]
    assert "TRASH" not in gmail("untrash_thread", thread_id=thread_id)["messages"][0]["labelIds"]
    assert gmail("delete_thread", thread_id=thread_id) is None
    assert gmail.answer("get_thread", thread_id=thread_id)[0] == 404


def test_a_draft_is_written_rewritten_and_sent(gmail: Service, subject: str) -> None:
    draft = gmail("create_draft", to="bob@example.com", subject=subject, body="First")
    assert draft["id"] in {one["id"] for one in gmail("list_drafts")["drafts"]}
    gmail("update_draft", draft_id=draft["id"], to="ann@example.com", subject=subject, body="Second")
    read = gmail("get_draft", draft_id=draft["id"])["message"]
    assert (read["text"], read["headers"]["to"], read["labelIds"]) == ("Second", "ann@example.com", ["DRAFT"])
    sent = gmail("send_draft", draft_id=draft["id"])
    assert sent["labelIds"] == ["SENT"]
    assert gmail.answer("get_draft", draft_id=draft["id"])[0] == 404


def test_a_draft_is_deleted(gmail: Service, subject: str) -> None:
    draft = gmail("create_draft", subject=subject)
    assert gmail("delete_draft", draft_id=draft["id"]) is None
    assert draft["id"] not in {one["id"] for one in gmail("list_drafts")["drafts"]}


def test_changes_are_told_from_a_point_on(gmail: Service, received: str) -> None:
    before = gmail("get_message", message_id=received)["historyId"]
    gmail("modify_message", message_id=received, add_label_ids=["STARRED"])
    history = gmail("list_history", start_history_id=before, history_types=["labelAdded"])
    (change,) = [one for record in history["history"] for one in record.get("labelsAdded", [])]
    assert (change["message"]["id"], change["labelIds"]) == (received, ["STARRED"])


def test_the_mailbox_is_watched_and_no_more(gmail: Service) -> None:
    watched = gmail("watch_mailbox", topic_name="projects/acme/topics/mail", label_ids=["INBOX"])
    assert int(watched["expiration"]) > 0
    assert gmail("stop_watching") in (None, {})


def test_a_filter_works_on_what_arrives_until_it_is_deleted(gmail: Service) -> None:
    sender = f"{uuid.uuid4().hex}@example.com"
    made = gmail("create_filter", **{"from": sender}, add_label_ids=["STARRED"])
    assert made["criteria"]["from"] == sender
    assert made["id"] in {one["id"] for one in gmail("list_filters")["filter"]}
    assert "STARRED" in gmail("import_message", **{"from": sender}, to=EMAIL, body="x")["labelIds"]
    gmail("delete_filter", filter_id=made["id"])
    assert made["id"] not in {one["id"] for one in gmail("list_filters")["filter"]}


def test_senders_and_forwarding_addresses_are_listed(gmail: Service) -> None:
    assert [(one["sendAsEmail"], one["isDefault"]) for one in gmail("list_send_as")["sendAs"]] == [(EMAIL, True)]
    assert gmail("list_forwarding_addresses")["forwardingAddresses"] == []


def test_pages_follow_each_other_as_the_file_says(gmail: Service, subject: str) -> None:
    ids = {gmail("send_email", to="bob@example.com", subject=subject, body=text)["id"] for text in ("a", "b", "c")}
    paging = load("gmail").pagination
    assert paging is not None
    assert (paging.parameter, paging.next) == ("pageToken", "/nextPageToken")
    first = gmail("list_messages", query=subject, max_results=2)
    second = gmail("list_messages", query=subject, max_results=2, page_token=first["nextPageToken"])
    assert {one["id"] for one in first["messages"] + second["messages"]} == ids
    assert "nextPageToken" not in second


# What is not served there


@pytest.mark.parametrize("tool_slug", sorted(NOT_SERVED))
def test_the_emulated_gmail_still_does_not_serve_it(gmail: Service, tool_slug: str) -> None:
    params = {"enabled": True} if tool_slug.startswith("set") else {}
    assert gmail.answer(tool_slug, **params)[0] in (404, 405)


def test_every_other_tool_is_called_against_the_emulated_gmail() -> None:
    assert tools_named(__file__, "gmail") == set(load("gmail").tools_by_slug) - NOT_SERVED


def test_what_is_not_served_is_built_as_gmail_documents_it() -> None:
    assert build_tool("gmail", "get_profile", {}).full_url == "https://gmail.googleapis.com/gmail/v1/users/me/profile"
    reply = {"enabled": True, "subject": "Away", "text": "Back on Monday", "start_time": "1893456000000"}
    request = build_tool("gmail", "set_vacation_responder", reply | {"restrict_to_contacts": True})
    assert (request.method, urlsplit(request.full_url).path) == ("PUT", "/gmail/v1/users/me/settings/vacation")
    assert json.loads(request.body or b"") == {
        "enableAutoReply": True,
        "responseSubject": "Away",
        "responseBodyPlainText": "Back on Monday",
        "startTime": "1893456000000",
        "restrictToContacts": True,
    }
    assert build_tool("gmail", "get_vacation_responder", {}).url == request.url


def test_lists_are_repeated_in_the_query_as_google_wants_them() -> None:
    request = build_tool("gmail", "list_messages", {"label_ids": ["INBOX", "UNREAD"], "include_spam_trash": True})
    assert parse_qs(urlsplit(request.full_url).query) == {"labelIds": ["INBOX", "UNREAD"], "includeSpamTrash": ["true"]}
