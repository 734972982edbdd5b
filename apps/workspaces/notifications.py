"""Telling people that something failed: by whose rule, and how often at most (`NotificationRule`)."""

from __future__ import annotations

from typing import Any

from .models import Project


def notify(project: Project, event: str, subject: str, data: dict[str, Any]) -> None:
    """Writes a notice for each rule that wants the event (`NotificationRule.Event`), in the caller's transaction.

    ``data``: {title, message, url, at}. Where nobody wants it this costs one SELECT. Owner N.
    """
