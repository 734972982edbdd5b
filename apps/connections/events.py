"""What integrators' webhooks are told of connections."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.admin.utils import quote
from django.urls import reverse

from apps.workspaces.models import NotificationRule
from apps.workspaces.notifications import notify
from apps.workspaces.webhooks import emit

from .models import Connection


def tell(connection: Connection, what: str, **more: Any) -> None:
    """``what`` happened to the connection: created, recovered or deleted. To be called in the transaction that does it."""
    emit(connection.project, f"connection.{what}", lambda: _row(connection) | more)


def tell_refreshed_failed(connection: Connection, reason: str) -> None:
    """Only the person can mend it: by the link, where it is a person's."""
    from .links import reconnect_link  # which knows of refreshing, by way of what tools need

    def data() -> dict[str, Any]:
        link = reconnect_link(connection) if connection.end_user_id else None
        return _row(connection) | {"reason": reason, "reconnectUrl": link}

    emit(connection.project, "connection.refreshed_failed", data)
    notify(
        connection.project, NotificationRule.Event.CONNECTION_FAILED, connection.pk, lambda: _notice(connection, reason)
    )


def _notice(connection: Connection, reason: str) -> dict[str, Any]:
    """For the project's own people, who can send the person a link, or see what is wrong."""
    whose = f" of {connection.end_user}" if connection.end_user else ""
    address = reverse("admin:connections_connection_change", args=[quote(connection.pk)])
    return {
        "title": f"{connection.toolkit}: the account{whose} needs to be connected again",
        "message": reason,
        "url": f"{settings.JACKFIELD_URL}{address}",
    }


def _row(connection: Connection) -> dict[str, Any]:
    """As GET connections/{id} gives it."""
    from .api.serializers import connection_row

    return connection_row(connection)
