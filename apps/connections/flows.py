"""Connecting an account: from the connect session to the stored connection."""

from __future__ import annotations

import hashlib
import logging
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import unquote_plus, urlencode, urlsplit, urlunsplit

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from apps.lib import errors, ids
from apps.lib.db import release
from apps.lib.errors import Failure, InvalidInput
from apps.lib.pointer import resolve
from apps.toolkits.request import BadParameters
from apps.toolkits.spec import OAuth2, Toolkit
from apps.workspaces.audit import Actor, record
from apps.workspaces.models import EndUser, Project, Workspace
from apps.workspaces.services import clean_origin, end_user

from . import access, oauth
from .integrations import enabled_integration, find_toolkit
from .links import Link, make_link
from .models import Connection, ConnectSession, Integration
from .refresh import expiry, stored_token
from .upstream import Account, profile, verify_credentials

log = logging.getLogger(__name__)

SESSION_LIFETIME = timedelta(minutes=30)
FORM_SCHEMES = ("api_key", "bearer", "basic", "custom")


@dataclass(frozen=True)
class Started:
    """A flow that has begun: where the person goes, and the id that the connection will have."""

    url: str
    connection_id: str
    session: ConnectSession


def digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def callback_url(project: Project, client: access.OAuthClient) -> str:
    """The project's own address for its own client; the installation's one address for the platform's clients."""
    if client.own:
        return project_callback_url(project)
    return f"{settings.JACKFIELD_URL}/v1/integrations/callback"


def project_callback_url(project: Project) -> str:
    return f"{settings.JACKFIELD_URL}/v1/{project.pk}/integrations/callback"


def choose_scheme(toolkit: Toolkit, integration: Integration, wanted: str | None = None) -> Any:
    """The auth scheme to connect with: the one named, else the toolkit's first that can be connected.

    Raises `InvalidInput`, `NotConfigured`.
    """
    usable = [scheme for scheme in toolkit.auth if scheme.type in {"oauth2", *FORM_SCHEMES}]
    scheme = toolkit.auth_by_type.get(wanted) if wanted else (usable or toolkit.auth)[0]
    if scheme is None:
        raise InvalidInput({"authScheme": [f"This toolkit has: {', '.join(toolkit.auth_by_type)}."]})
    if scheme.type == "oauth2" and access.oauth_client(integration) is None:
        raise errors.NotConfigured
    if scheme.type not in {"oauth2", *FORM_SCHEMES}:
        raise errors.NotConfigured(
            f"Accounts of the kind {scheme.type} cannot be connected by this version.",
            remediation="Use a toolkit or auth scheme with OAuth 2, an API key, a token, or basic authentication.",
        )
    return scheme


def start_connect(
    project: Project,
    user_id: str,
    slug: str,
    *,
    redirect_url: str = "",
    allow_multiple: bool = False,
    scheme_type: str | None = None,
    binding: str = "",
) -> Started:
    """Begins a flow: a connect session, and the URL on which it goes on.

    ``binding`` is the hash of the browser's cookie where the flow starts on a page of ours.
    Raises `ToolkitNotEnabled`, `NotConfigured`, `InvalidInput`, `QuotaExceeded`.
    """
    integration = enabled_integration(project, slug)
    toolkit = find_toolkit(slug, project)
    scheme = choose_scheme(toolkit, integration, scheme_type)
    if redirect_url:
        check_redirect_url(project, redirect_url)
    user = end_user(project, user_id)
    existing = None if allow_multiple else _primary(integration, user)
    if existing is None:
        check_connection_limit(project)
    state = secrets.token_urlsafe(32)
    session = ConnectSession(
        state_digest=digest(state),
        project=project,
        integration=integration,
        end_user=user,
        connection_id=existing.pk if existing else _future_id(integration, user, allow_multiple),
        auth_type=scheme.type,
        redirect_url=redirect_url,
        callback_url="",
        binding=binding,
        allow_multiple=allow_multiple,
        expires_at=timezone.now() + SESSION_LIFETIME,
    )
    url = _provider_url(session, toolkit, scheme, state) if scheme.type == "oauth2" else _form_url(session)
    session.save(force_insert=True)
    return Started(url, session.connection_id, session)


def _primary(integration: Integration, user: EndUser) -> Connection | None:
    return Connection.objects.filter(integration=integration, end_user=user, is_primary=True).first()


def _future_id(integration: Integration, user: EndUser, allow_multiple: bool) -> str:
    """The id that the connection will have: one id for all flows that would make the same first connection."""
    if not allow_multiple:
        open_session = (
            ConnectSession.objects.filter(
                integration=integration,
                end_user=user,
                used_at=None,
                allow_multiple=False,
                expires_at__gt=timezone.now(),
            )
            .order_by("-created_at")
            .first()
        )
        if open_session is not None:
            return open_session.connection_id
    return ids.connection_id()


def _provider_url(session: ConnectSession, toolkit: Toolkit, scheme: OAuth2, state: str) -> str:
    integration = session.integration
    client = access.oauth_client(integration)
    if client is None:
        raise errors.NotConfigured
    values = access.variables(toolkit, integration, session.variables)
    try:
        scheme = access.filled(scheme, integration, values)
    except BadParameters as error:
        raise errors.NotConfigured(
            f"The toolkit's settings are incomplete: {error}.",
            remediation="Set the toolkit's variables for this project in the admin.",
        ) from None
    verifier = oauth.new_verifier()
    session.seal("verifier", verifier)
    session.callback_url = callback_url(session.project, client)
    session.scopes = integration.scopes or scheme.scopes
    return oauth.authorization_url(
        scheme, client, redirect_uri=session.callback_url, state=state, scopes=session.scopes, verifier=verifier
    )


def _form_url(session: ConnectSession) -> str:
    user_id = session.end_user.external_id if session.end_user else ""
    return make_link(Link(session.project.pk, user_id, session.integration.toolkit, session.redirect_url, session.pk))


def check_redirect_url(project: Project, url: str) -> None:
    """Raises `InvalidInput` unless the URL is absolute and on an origin that the project, or the installation, allows."""
    fault = InvalidInput({"redirectUrl": ["Must be an absolute URL on an origin that the project allows."]},
                         remediation="Add the origin to the project's allowed origins (PATCH /v1/{appId}/settings).")  # fmt: skip
    if len(url) > 2000 or not url.isprintable() or "\\" in url or any(char.isspace() for char in url):
        raise fault
    try:
        parts = urlsplit(url)
        origin = clean_origin(f"{parts.scheme}://{parts.netloc}")
    except (ValueError, InvalidInput):
        raise fault from None
    if origin not in {*project.allowed_origins, clean_origin(settings.JACKFIELD_URL)}:
        raise fault


def check_connection_limit(project: Project) -> None:
    """Raises `QuotaExceeded` where the plan permits no further connection. In a transaction, one asks at a time."""
    limit = project.workspace.plan.connections
    if limit is None:
        return
    if transaction.get_connection().in_atomic_block:
        Workspace.objects.select_for_update().get(pk=project.workspace_id)
    if Connection.objects.filter(project__workspace=project.workspace_id).count() >= limit:
        raise errors.PlanLimitReached(
            f"The plan's limit of {limit} connections is reached.",
            remediation="Disconnect accounts that are no longer used, or ask for a larger plan.",
        )


class FlowError(Exception):
    """A flow that ends without a connection; ``code`` is the message of the redirect."""

    def __init__(self, code: str, session: ConnectSession | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.session = session


def take_session(state: str, cookie: str, project_id: str | None) -> ConnectSession:
    """The session of a callback, used up by this very call. Raises `FlowError`.

    In this order: known, of this project, not used, not late, in the browser where it began; only then is it used up, so
    that somebody else's attempt cannot spoil it.
    """
    if not state:
        raise FlowError("missing_state")
    session = (
        ConnectSession.objects.filter(state_digest=digest(state))
        .select_related("project__workspace__plan", "integration", "end_user")
        .first()
    )
    now = timezone.now()
    if session is None or session.used_at is not None or session.expires_at <= now:
        raise FlowError("invalid_state")
    session.integration.project = session.project
    if session.binding and not secrets.compare_digest(session.binding, digest(cookie) if cookie else ""):
        raise FlowError("invalid_state")
    if project_id is not None and session.project.pk != project_id:
        raise FlowError("app_mismatch", session)
    use_up(session)
    return session


def use_up(session: ConnectSession) -> None:
    """Raises `FlowError` where somebody was faster."""
    if not ConnectSession.objects.filter(pk=session.pk, used_at=None).update(used_at=timezone.now()):
        raise FlowError("invalid_state")


def end_session(session: ConnectSession, outcome: str) -> None:
    ConnectSession.objects.filter(pk=session.pk).update(outcome=outcome, verifier="")


def cancel_flows(sessions: QuerySet[ConnectSession]) -> int:
    """Ends flows that nobody has finished, so that their links connect nothing any more; gives how many."""
    now = timezone.now()
    return sessions.filter(used_at=None, expires_at__gt=now).update(used_at=now, outcome="cancelled", verifier="")


def finish_oauth(session: ConnectSession, code: str, iss: str, actor: Actor) -> Connection:
    """The provider's code for a stored connection. Raises `FlowError`."""
    try:
        connection = _finish_oauth(session, code, iss, actor)
    except FlowError as error:
        end_session(session, error.code)
        raise
    except (oauth.TokenError, Failure, BadParameters, LookupError) as error:
        log.warning("connecting %s failed: %s", session.integration.toolkit, error)
        end_session(session, "connection_failed")
        raise FlowError("connection_failed", session) from error
    end_session(session, "connected")
    return connection


def _finish_oauth(session: ConnectSession, code: str, iss: str, actor: Actor) -> Connection:
    integration = session.integration
    toolkit = access.toolkit_of(integration)
    client = access.oauth_client(integration)
    raw_scheme = toolkit.auth_by_type.get("oauth2")
    if client is None or raw_scheme is None or not integration.enabled:
        raise LookupError("the toolkit was switched off, or its client was taken away meanwhile")
    values = access.variables(toolkit, integration, session.variables)
    scheme: OAuth2 = access.filled(raw_scheme, integration, values)
    if iss and scheme.issuer and iss.rstrip("/") != scheme.issuer.rstrip("/"):
        raise LookupError("the answer comes from another issuer (RFC 9207)")
    release()
    token = oauth.exchange(
        scheme, client, code=code, redirect_uri=session.callback_url, verifier=session.unseal("verifier") or ""
    )
    own = dict(session.variables)
    for name, variable in toolkit.variables.items():
        if variable.source == "token":
            found = resolve(token.raw, variable.pointer)
            if found is not None:
                own[name] = str(found)
                if not variable.accepts(own[name]):
                    raise LookupError(f"the token answer's {name} is not what the toolkit expects")
    credentials = stored_token(token) | {"refresh_token": token.refresh_token}
    account = profile(toolkit, integration, raw_scheme, credentials, own)
    scopes = token.scopes if token.scopes is not None else session.scopes
    return store_connection(
        session,
        credentials,
        account=account,
        scopes=scopes,
        expires_at=expiry(token, timezone.now()),
        own_variables=own,
        actor=actor,
    )


def finish_form(
    session: ConnectSession, toolkit: Toolkit, scheme: Any, values: dict[str, str], own: dict[str, str], actor: Actor
) -> Connection:
    """Stores credentials that a person typed, after the toolkit's test call accepted them. Raises `InvalidInput`."""
    if not session.integration.enabled:
        raise errors.ToolkitNotEnabled
    account = verify_credentials(toolkit, session.integration, scheme, values, own)
    use_up(session)
    connection = store_connection(
        session, dict(values), account=account, scopes=[], expires_at=None, own_variables=own, actor=actor
    )
    end_session(session, "connected")
    return connection


def store_connection(
    session: ConnectSession,
    credentials: dict[str, Any],
    *,
    account: Account,
    scopes: list[str],
    expires_at: Any,
    own_variables: dict[str, str],
    actor: Actor,
) -> Connection:
    """Writes what a finished flow brought: renews the connection it was started for, or makes it under the promised id."""
    project = session.project
    fields: dict[str, Any] = {
        "auth_type": session.auth_type,
        "status": Connection.Status.INACTIVE if project.confirm_connections else Connection.Status.ACTIVE,
        "expires_at": expires_at,
        "account_id": account.id,
        "account_label": account.label,
        "account_picture": account.picture,
        "scopes": scopes,
        "variables": own_variables,
        "connected_at": timezone.now(),
        "error": "",
        "lease_owner": "",
        "lease_until": None,
        "refresh_failures": 0,
        "refresh_not_before": None,
    }
    with transaction.atomic():
        user = session.end_user
        if user is not None and not EndUser.objects.select_for_update().filter(pk=user.pk).exists():
            raise FlowError("connection_failed", session)  # purged meanwhile
        existing = _renewed_by(session)
        connection = _insert(session, credentials, fields) if existing is None else None
        if connection is None:
            # Two flows of one person ended at the same moment: the later one renews what the earlier one made.
            existing = existing or _renewed_by(session)
            if existing is None:
                raise FlowError("connection_failed", session)
            connection = _renew(existing, credentials, fields)
        record(
            actor,
            "connection.renewed" if existing else "connection.created",
            connection.pk,
            project=project,
            toolkit=connection.toolkit,
            user=session.end_user.external_id if session.end_user else "",
            account=account.label,
            missing_scopes=sorted(set(session.scopes) - set(scopes)),
        )
    return connection


def _renewed_by(session: ConnectSession) -> Connection | None:
    """The connection that this flow renews: the promised one, or else the user's first."""
    rows = Connection.objects.select_for_update().filter(integration=session.integration, end_user=session.end_user)
    wanted = Q(pk=session.connection_id)
    if not session.allow_multiple:
        wanted |= Q(is_primary=True)
    found = list(rows.filter(wanted))
    return next((row for row in found if row.pk == session.connection_id), found[0] if found else None)


def _renew(connection: Connection, credentials: dict[str, Any], fields: dict[str, Any]) -> Connection:
    same_account = fields["account_id"] and fields["account_id"] == connection.account_id
    if same_account and credentials.get("refresh_token") == "":
        # Some providers give a refresh token at the first consent only; the account's own goes on being good.
        kept = connection.unseal("credentials") or {}
        credentials = credentials | {"refresh_token": kept.get("refresh_token", "")}
    for name, value in fields.items():
        setattr(connection, name, value)
    connection.version += 1
    connection.seal("credentials", credentials)
    connection.save()
    return connection


def _insert(session: ConnectSession, credentials: dict[str, Any], fields: dict[str, Any]) -> Connection | None:
    """The new row; None where somebody else has just made it."""
    connection = Connection(
        id=session.connection_id,
        project=session.project,
        integration=session.integration,
        end_user=session.end_user,
        toolkit=session.integration.toolkit,
        is_primary=not session.allow_multiple or _primary(session.integration, session.end_user) is None,  # type: ignore[arg-type] # every session of a flow has a user
        **fields,
    )
    connection.seal("credentials", credentials)
    check_connection_limit(session.project)  # many flows may have begun below the limit
    try:
        with transaction.atomic():
            connection.save(force_insert=True)
    except IntegrityError:
        return None
    return connection


def result_url(session: ConnectSession, **result: str) -> str:
    """The return URL with the result in its query: its own query and fragment survive, a colliding name is overwritten."""
    parts = urlsplit(session.redirect_url)
    kept = [part for part in parts.query.split("&") if part and unquote_plus(part.partition("=")[0]) not in result]
    return urlunsplit(parts._replace(query="&".join([*kept, urlencode(result)])))


def forget_expired() -> int:
    """Deletes connect sessions a day after their end; gives how many."""
    return ConnectSession.objects.filter(expires_at__lt=timezone.now() - timedelta(days=1)).delete()[0]
