"""Background work of workspaces."""

from celery import shared_task
from django.core.management import call_command

from . import idempotency, quota, sessions


@shared_task(name="workspaces.forget_expired")  # type: ignore[untyped-decorator] # celery has no types
def forget_expired() -> int:
    call_command("clearsessions")
    return idempotency.forget_expired() + quota.forget_expired() + sessions.forget_expired()
