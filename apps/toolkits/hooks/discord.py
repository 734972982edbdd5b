"""Discord: reasons for the audit log, which travel in a header."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

Params = dict[str, Any]


def encode_reason(params: Params) -> Params:
    """A reason goes into a header, where Discord wants everything but ASCII percent-encoded."""
    return params | {"reason": quote(str(params["reason"]))} if "reason" in params else params
