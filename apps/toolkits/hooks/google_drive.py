"""Google Drive: a file's description and content go up in one request, and searches are quoted."""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
from typing import Any

from ..request import BadParameters

Params = dict[str, Any]

MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9.+-]*/[a-z0-9][a-z0-9.+-]*(; ?charset=[\w.-]+)?", re.IGNORECASE)
DESCRIBED = {"name": "name", "parents": "parents", "description": "description", "convert_to": "mimeType"}


def upload(params: Params) -> Params:
    """A ``multipart/related`` body (RFC 2387): a file's description as JSON, then its bytes. Raises `BadParameters`."""
    kind = _media_type(params)
    data = _data(params)
    described = {wire: params[name] for name, wire in DESCRIBED.items() if name in params}
    boundary = secrets.token_hex(16)
    lines = [
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(described)}\r\n",
        f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n",
    ]
    body = "".join(lines).encode() + data + f"\r\n--{boundary}--\r\n".encode()
    rest = {name: value for name, value in params.items() if name not in DESCRIBED and name != "text"}
    return rest | {
        "base64": base64.b64encode(body).decode(),
        "content_type": f"multipart/related; boundary={boundary}",
    }


def replace_content(params: Params) -> Params:
    """Raises `BadParameters`."""
    kind, data = _media_type(params), _data(params)
    rest = {name: value for name, value in params.items() if name != "text"}
    return rest | {"base64": base64.b64encode(data).decode(), "content_type": kind}


def _media_type(params: Params) -> str:
    kind = params.get("content_type", "text/plain; charset=UTF-8" if "text" in params else "application/octet-stream")
    if not MEDIA_TYPE.fullmatch(kind):
        raise BadParameters({"content_type": ["Must be a media type such as image/png."]})
    return str(kind)


def _data(params: Params) -> bytes:
    if ("text" in params) == ("base64" in params):
        raise BadParameters({"base64": ["Give either text or base64."]})
    if "text" in params:
        return str(params["text"]).encode()
    try:
        return base64.b64decode(str(params["base64"]), validate=True)
    except binascii.Error:
        raise BadParameters({"base64": ["Must be base64."]}) from None


def search(params: Params) -> Params:
    """One search expression of what was asked for, its values quoted: ``'x' in parents and trashed = false``."""
    terms = [f"({params['query']})"] if params.get("query") else []
    if "name_contains" in params:
        terms.append(f"name contains {quote(params['name_contains'])}")
    if "full_text" in params:
        terms.append(f"fullText contains {quote(params['full_text'])}")
    if "folder_id" in params:
        terms.append(f"{quote(params['folder_id'])} in parents")
    if "mime_type" in params:
        terms.append(f"mimeType = {quote(params['mime_type'])}")
    if not params.get("include_trashed", False):
        terms.append("trashed = false")
    return params | {"query": " and ".join(terms)}


def quote(text: str) -> str:
    """A string of Drive's search language: backslash before backslash and apostrophe."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
