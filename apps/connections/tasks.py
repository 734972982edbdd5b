"""Background work of connections."""

from celery import shared_task

from . import flows


@shared_task(name="connections.forget_expired")  # type: ignore[untyped-decorator] # celery has no types
def forget_expired() -> int:
    return flows.forget_expired()
