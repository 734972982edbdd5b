"""What other apps are told of, where the import direction forbids to call them."""

from django.dispatch import Signal

toolkit_removed = Signal()
"""Sent with ``project``, ``slug`` and ``actor``, in the transaction that takes a project's own toolkit away."""
