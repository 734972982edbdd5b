"""GitHub: repositories named as ``owner/name``, branches as references, and files as text."""

from __future__ import annotations

import base64
from typing import Any

from ..request import BadParameters

Params = dict[str, Any]


def split_repo(params: Params) -> Params:
    """``repo: acme/webapp`` becomes owner and name; a separate ``owner`` may be given instead."""
    owner, slash, name = str(params["repo"]).rpartition("/")
    given = params.get("owner", "")
    if slash and given and given.casefold() != owner.casefold():
        raise BadParameters({"owner": [f"repo names the owner {owner}, owner says {given}. Give one of them."]})
    if not (owner or given):
        raise BadParameters({"repo": ["Name the owner too: owner/name, or the owner in the parameter owner."]})
    return params | {"owner": owner or given, "repo": name}


def write_file(params: Params) -> Params:
    """GitHub takes a file's content as base64 only."""
    placed = locate_file(params)
    if "text" in placed:
        placed["content"] = base64.b64encode(str(placed.pop("text")).encode()).decode()
    return placed


def locate_file(params: Params) -> Params:
    """A path is relative to the repository's root, also when it begins with a slash."""
    placed = split_repo(params)
    if "path" in placed:
        placed["path"] = str(placed["path"]).strip("/")
    return placed


def branch_reference(params: Params) -> Params:
    """A branch is made as the reference ``refs/heads/<name>``."""
    placed = split_repo(params)
    placed["branch"] = f"refs/heads/{placed['branch'].removeprefix('refs/heads/')}"
    return placed


def compare_range(params: Params) -> Params:
    """The two ends of a comparison are one path segment: ``base...head``."""
    placed = split_repo(params)
    placed["base"] = f"{placed['base']}...{placed['head']}"
    return placed


def webhook_settings(params: Params) -> Params:
    """GitHub writes the switch of certificate checks as ``"0"`` or ``"1"``."""
    placed = split_repo(params)
    if "insecure_ssl" in placed:
        placed["insecure_ssl"] = "1" if placed["insecure_ssl"] else "0"
    return placed
