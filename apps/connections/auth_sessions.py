"""Auth sessions: connections by the names of the Runs API, for a project that has switched them on for one of its toolkits."""

from __future__ import annotations


def release(project_id: str, name: str, holder: str) -> None:
    """Lets go of an auth session that a run (``holder``) had to itself; nothing where it had not. Owner A."""
