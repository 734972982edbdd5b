"""Background work of connections."""

from celery import shared_task

from . import auth_operations, flows, hosted, keepalive


@shared_task(name="connections.forget_expired")  # type: ignore[untyped-decorator] # celery has no types
def forget_expired() -> int:
    return flows.forget_expired() + hosted.forget_expired() + auth_operations.forget_old()


@shared_task(name="connections.keep_alive")  # type: ignore[untyped-decorator]
def keep_alive() -> int:
    """A beat of the proactive refresh: hands what is due to the workers; gives how many connections."""
    keepalive.plan()
    claimed = keepalive.claim()
    for ids in claimed:
        refresh_ahead.apply_async((ids,), expires=keepalive.CLAIM.total_seconds())
    return sum(map(len, claimed))


@shared_task(name="connections.refresh_ahead")  # type: ignore[untyped-decorator]
def refresh_ahead(ids: list[str]) -> None:
    keepalive.refresh_some(ids)


@shared_task(name="connections.carry_auth")  # type: ignore[untyped-decorator]
def carry_auth(operation_id: str) -> None:
    """Creates, updates or validates an auth session."""
    auth_operations.carry(operation_id)


@shared_task(name="connections.sweep_auth")  # type: ignore[untyped-decorator]
def sweep_auth() -> int:
    """Finds operations on auth sessions that nobody works on."""
    return auth_operations.sweep()
