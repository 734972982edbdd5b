"""Background work of workspaces."""

from celery import shared_task
from django.core.management import call_command

from . import idempotency, notifications, quota, rotation, sessions, webhooks


@shared_task(name="workspaces.forget_expired")  # type: ignore[untyped-decorator] # celery has no types
def forget_expired() -> int:
    call_command("clearsessions")
    leftovers = (
        idempotency.forget_expired, quota.forget_expired, sessions.forget_expired, webhooks.forget_old,
        notifications.forget_old,
    )  # fmt: skip
    return sum(forget() for forget in leftovers)


@shared_task(name="workspaces.deliver")  # type: ignore[untyped-decorator]
def deliver(delivery_id: str) -> None:
    """One try; then another delivery of the endpoint gets its turn, behind those of other endpoints."""
    following = webhooks.deliver(delivery_id)
    if following is not None:
        webhooks.enqueue([following])


@shared_task(name="workspaces.sweep_deliveries")  # type: ignore[untyped-decorator]
def sweep_deliveries() -> int:
    return webhooks.sweep()


@shared_task(name="workspaces.notify")  # type: ignore[untyped-decorator]
def notify(rule_id: str) -> None:
    """Puts a rule's notices into messages."""
    notifications.bundle(rule_id)


@shared_task(name="workspaces.mail_notices")  # type: ignore[untyped-decorator]
def mail_notices(mail_id: str) -> bool:
    """One try to send one mail."""
    return notifications.send(mail_id)


@shared_task(name="workspaces.sweep_notices")  # type: ignore[untyped-decorator]
def sweep_notices() -> int:
    return notifications.sweep()


@shared_task(name="workspaces.reseal")  # type: ignore[untyped-decorator]
def reseal(place: str = "", after: str | None = None) -> None:
    """One batch of a key rotation, and the next one's task: other work gets its turn in between."""
    following = rotation.reseal_step(place, after)
    if following is None:
        rotation.finished()
    else:
        reseal.delay(*following)
