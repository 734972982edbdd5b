"""What other apps are told of, where the import direction forbids to call them."""

from django.dispatch import Signal

end_user_deleted = Signal()
"""Sent with ``project`` and ``user_id`` (the integrator's), for what names the user by that id.

Sent once the deletion is committed: a receiver may wait for other writers, who may wait for what that transaction holds.
"""

key_used = Signal()
"""Sent with ``key_id`` for every call with a key that was let in. Receivers must not touch the database: it is the hot path."""
