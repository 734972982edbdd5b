"""Gmail: messages composed from plain parameters, and read as text instead of trees of encoded parts.

A message goes out as RFC 5322 text in base64url, which the tools place from their ``body`` parameter. Python's email
package builds it from values that were checked first: that of Python 3.11.7 lets a line break through which hides in an
encoded word.
"""

from __future__ import annotations

import base64
import binascii
import re
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

from ..request import BadParameters

Params = dict[str, Any]
Faults = dict[str, list[str]]

POLICY = SMTP.clone(cte_type="7bit")
CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
MESSAGE_ID = re.compile(r"<[\x21-\x3b\x3d\x3f-\x7e]+>")
MEDIA_TYPE = re.compile(r"(?!multipart/|message/)[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*", re.IGNORECASE)
NO_CONTROL = "Must not have line breaks or other control characters."
ADDRESS_FIELDS = {"from": "From", "to": "To", "cc": "Cc", "bcc": "Bcc", "reply_to": "Reply-To"}


def compose(params: Params) -> Params:
    """``to``, ``subject``, ``body`` and so on become one message, in ``body``. Raises `BadParameters`."""
    faults: Faults = {}
    message = EmailMessage(POLICY)
    for name, header in ADDRESS_FIELDS.items():
        if params.get(name):
            addresses = parse_addresses(params[name], faults.setdefault(name, []))
            if not faults[name]:
                message[header] = addresses
    _set_subject(message, str(params.get("subject", "")), faults)
    _set_thread(message, params, faults)
    _set_content(message, params, faults)
    faults = {name: messages for name, messages in faults.items() if messages}
    if faults:
        raise BadParameters(faults)
    return params | {"body": base64.urlsafe_b64encode(message.as_bytes()).decode()}


def compose_reply(params: Params) -> Params:
    """Gmail keeps an answer in its thread only if the subject stays the same, but for a leading ``Re:``."""
    subject = str(params["subject"])
    return compose(params | {"subject": subject if subject[:3].lower() == "re:" else f"Re: {subject}"})


def parse_addresses(value: str | list[str], faults: list[str]) -> list[Address]:
    """The mailboxes of ``Ann <a@b.com>, c@d.com``, or of a list of such texts; what is wrong is added to ``faults``."""
    found: list[Address] = []
    for text in value if isinstance(value, list) else [value]:
        if CONTROL.search(text):
            faults.append(NO_CONTROL)
            continue
        addresses = _parse(text)
        if addresses is None:
            faults.append(f"{text[:100]!r} is not an e-mail address, nor several with commas between them.")
        else:
            found += addresses
    return found


def _parse(text: str) -> list[Address] | None:
    try:
        header: Any = POLICY.header_factory("To", text)
        if header.defects or not header.addresses:
            return None
        return [_ascii(address) for address in header.addresses]
    except (ValueError, IndexError, UnicodeError):  # IndexError: the parser's own, for "a@"
        return None


def _ascii(address: Address) -> Address:
    """The address with its domain in ASCII (RFC 5890), which every mail server takes."""
    if not address.username or not address.domain or CONTROL.search(address.display_name):
        raise ValueError
    address.username.encode("ascii")
    domain = address.domain.encode("idna").decode("ascii")
    return Address(address.display_name, address.username, domain)


def _set_subject(message: EmailMessage, subject: str, faults: Faults) -> None:
    if CONTROL.search(subject):
        faults["subject"] = [NO_CONTROL]
        return
    message["Subject"] = subject
    if CONTROL.search(str(message["Subject"])):  # encoded words in it are decoded by then
        faults["subject"] = [NO_CONTROL]


def _set_thread(message: EmailMessage, params: Params, faults: Faults) -> None:
    """``In-Reply-To`` and ``References`` (RFC 5322 section 3.6.4)."""
    answered = params.get("in_reply_to")
    earlier = str(params.get("references", "")).split()
    for name, ids in (("in_reply_to", [answered] if answered else []), ("references", earlier)):
        if not all(MESSAGE_ID.fullmatch(one) for one in ids):
            faults[name] = ["Must be the Message-ID header of a message, in angle brackets."]
    if "in_reply_to" in faults or "references" in faults or not answered:
        return
    message["In-Reply-To"] = answered
    message["References"] = " ".join(dict.fromkeys([*earlier, answered]))


def _set_content(message: EmailMessage, params: Params, faults: Faults) -> None:
    text, html = params.get("body"), params.get("html")
    if text is not None or html is None:
        message.set_content(str(text or ""))
        if html is not None:
            message.add_alternative(str(html), subtype="html")
    else:
        message.set_content(str(html), subtype="html")
    for number, attachment in enumerate(params.get("attachments", [])):
        _attach(message, attachment, f"attachments.{number}", faults)


def _attach(message: EmailMessage, attachment: dict[str, str], place: str, faults: Faults) -> None:
    kind = attachment.get("content_type", "application/octet-stream")
    name = attachment["filename"]
    if not MEDIA_TYPE.fullmatch(kind):
        faults[f"{place}.content_type"] = ["Must be a media type such as image/png; not multipart, not message."]
    if CONTROL.search(name):
        faults[f"{place}.filename"] = [NO_CONTROL]
    try:
        data = decode_base64(attachment["base64"]) if "base64" in attachment else attachment["text"].encode()
    except ValueError:
        faults[f"{place}.base64"] = ["Must be base64."]
    if not any(key.startswith(f"{place}.") for key in faults):
        main, _, sub = kind.partition("/")
        message.add_attachment(data, maintype=main, subtype=sub, filename=name)


def decode_base64(text: str) -> bytes:
    """Base64 in either alphabet, padded or not: Gmail's own attachments can be sent on. Raises ValueError."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def read_message(answer: Any) -> Any:
    """Adds to a message what people look for in it: ``headers``, ``text``, ``html`` and ``attachments``."""
    if not isinstance(answer, dict) or not isinstance(answer.get("payload"), dict):
        return answer
    payload = answer["payload"]
    headers = {str(header.get("name", "")).lower(): header.get("value", "") for header in payload.get("headers", [])}
    parts = list(_leaves(payload))
    files = [part for part in parts if part.get("filename") or part.get("body", {}).get("attachmentId")]
    texts = [part for part in parts if part not in files]
    return answer | {
        "headers": headers,
        "text": _text(texts, "text/plain"),
        "html": _text(texts, "text/html"),
        "attachments": [_describe(part) for part in files],
    }


def read_draft(answer: Any) -> Any:
    if isinstance(answer, dict) and "message" in answer:
        return answer | {"message": read_message(answer["message"])}
    return answer


def read_thread(answer: Any) -> Any:
    if isinstance(answer, dict) and isinstance(answer.get("messages"), list):
        return answer | {"messages": [read_message(message) for message in answer["messages"]]}
    return answer


def _leaves(part: Params) -> list[Params]:
    inner = part.get("parts") or []
    return [leaf for child in inner for leaf in _leaves(child)] if inner else [part]


def _text(parts: list[Params], kind: str) -> str | None:
    found = [_decode(part) for part in parts if part.get("mimeType") == kind and part.get("body", {}).get("data")]
    return "\n".join(found) if found else None


def _decode(part: Params) -> str:
    """Gmail gives UTF-8 whatever the part's charset says; where it did not, the charset decides."""
    data = decode_base64(part["body"]["data"])
    try:
        return data.decode()
    except UnicodeDecodeError:
        named = re.search(r'charset="?([\w.:-]+)', _header(part, "content-type"), re.IGNORECASE)
        try:
            return data.decode(named.group(1) if named else "latin-1", errors="replace")
        except (LookupError, ValueError):
            return data.decode("latin-1")


def _header(part: Params, name: str) -> str:
    values = [header.get("value", "") for header in part.get("headers", []) if header.get("name", "").lower() == name]
    return str(values[0]) if values else ""


def _describe(part: Params) -> Params:
    body = part.get("body", {})
    return {
        "filename": part.get("filename", ""),
        "content_type": part.get("mimeType", ""),
        "size": body.get("size", 0),
        "attachment_id": body.get("attachmentId"),
    }
