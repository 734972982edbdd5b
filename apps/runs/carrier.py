"""Carrying a run: under a lease, from event to event, until it waits or ends."""

from __future__ import annotations


def carry(run_id: str) -> None:
    """Takes the lease of a run that is due, and works until it has nothing to do; else does nothing."""
    raise NotImplementedError


def sweep() -> int:
    """Hints at runs that are due and that nobody carries: fairly between workspaces. Gives how many."""
    raise NotImplementedError
