"""What is done to connections that are there: confirming, testing, disconnecting them."""

from __future__ import annotations

import logging

from django.db import transaction

from apps.lib import http
from apps.lib.db import release
from apps.lib.errors import Failure
from apps.lib.vault import VaultError
from apps.toolkits.request import BadParameters
from apps.toolkits.spec import OAuth2
from apps.workspaces.audit import Actor, record
from apps.workspaces.models import EndUser, Project
from apps.workspaces.signals import end_user_deleted

from . import access, events, oauth
from .models import AuthSession, Connection
from .refresh import fresh_credentials
from .upstream import call_fixed, failed_by_rule

log = logging.getLogger(__name__)


def confirm(connection: Connection, actor: Actor) -> Connection:
    """Makes a connection that waits for the integrator's word active."""
    won = Connection.objects.filter(pk=connection.pk, status=Connection.Status.INACTIVE).update(
        status=Connection.Status.ACTIVE
    )
    if won:
        record(actor, "connection.confirmed", connection.pk, project=connection.project)
    connection.refresh_from_db()
    return connection


def disconnect(connection: Connection, actor: Actor) -> bool:
    """Deletes the connection, and revokes it at the provider where it can; whether the provider confirmed it."""
    revoked = _revoke_at_provider(connection)
    with transaction.atomic():
        record(actor, "connection.deleted", connection.pk, project=connection.project, toolkit=connection.toolkit,
               account=connection.account_label, revoked_at_provider=revoked)  # fmt: skip
        if Connection.objects.filter(pk=connection.pk).delete()[0]:
            events.tell(connection, "deleted")
    return revoked


def _revoke_at_provider(connection: Connection) -> bool:
    integration = connection.integration
    try:
        client = access.oauth_client(integration)
        toolkit = access.toolkit_of(integration)
        scheme = access.scheme_for(connection, toolkit)
        if not isinstance(scheme, OAuth2) or client is None:
            return False
        values = access.variables(toolkit, integration, connection.variables)
        credentials = connection.unseal("credentials") or {}
        release()
        return oauth.revoke(access.filled(scheme, integration, values), client, credentials)
    except (LookupError, BadParameters, Failure, VaultError) as error:  # it is to go even where its key is lost
        log.warning("could not revoke %s: %s", connection.pk, error)
        return False


def test_connection(connection: Connection) -> tuple[bool, str]:
    """Whether the provider accepts the connection now, and a sentence about it."""
    integration = connection.integration
    try:
        toolkit = access.toolkit_of(integration)
        scheme = access.scheme_for(connection, toolkit)
        if toolkit.test is None and toolkit.profile is None:
            return True, f"{toolkit.name} has no call to test with."
        credentials = fresh_credentials(connection)
        answer = call_fixed(toolkit, integration, scheme, credentials, connection.variables, use_test=True)
        status = failed_by_rule(toolkit, answer, http.json_or_none(answer)) or answer.status
    except Failure as error:
        return False, error.text
    except (LookupError, BadParameters) as error:
        return False, str(error)
    if status < 300:
        return True, f"{toolkit.name} accepts the connection."
    return False, f"{toolkit.name} answered with status {status}."


def purge_end_user(project: Project, user_id: str, actor: Actor) -> bool:
    """Disconnects and deletes all that is an end user's; False where there is no such user."""
    user = EndUser.objects.filter(project=project, external_id=user_id).first()
    if user is None:
        return False
    for connection in Connection.objects.filter(end_user=user).select_related("integration", "project"):
        disconnect(connection, actor)
    with transaction.atomic():
        AuthSession.objects.filter(project=project, name=user_id).delete()  # with credentials of operations under way
        user.delete()
        record(actor, "end_user.deleted", user_id, project=project)
    end_user_deleted.send(sender=EndUser, project=project, user_id=user_id)
    return True
