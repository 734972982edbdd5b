"""Connecting an account: from the connect session to the stored connection."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Sequence
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
from apps.toolkits.request import BadParameters
from apps.toolkits.spec import OAuth1, OAuth2, Toolkit
from apps.workspaces.audit import Actor, record
from apps.workspaces.models import EndUser, Project, Workspace
from apps.workspaces.services import clean_origin, end_user

from . import access, events, grants, oauth, oauth1
from .grants import Grant
from .integrations import enabled_integration, find_toolkit
from .links import Link, make_link
from .models import Connection, ConnectPage, ConnectSession, Integration
from .upstream import Account

log = logging.getLogger(__name__)

SESSION_LIFETIME = timedelta(minutes=30)
INACTIVE = Connection.Status.INACTIVE
FORM_SCHEMES = ("api_key", "bearer", "basic", "custom", "client_credentials")
PROVIDER_SCHEMES = ("oauth2", "oauth1")  # the person allows it on the provider's own page
SCOPED_SCHEMES = ("oauth2", "client_credentials")
SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,500}")  # RFC 6749 section 3.3


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
    """The auth scheme to connect with: the one named, else the toolkit's first.

    OAuth 1.0a comes first only where there is a client for it: its toolkits have personal tokens as well.
    Raises `InvalidInput`, `NotConfigured`.
    """
    has_client = access.oauth_client(integration) is not None
    ready = [scheme for scheme in toolkit.auth if scheme.type != "oauth1" or has_client]
    scheme = toolkit.auth_by_type.get(wanted) if wanted else (ready or toolkit.auth)[0]
    if scheme is None:
        raise InvalidInput({"authScheme": [f"This toolkit has: {', '.join(toolkit.auth_by_type)}."]})
    if scheme.type in PROVIDER_SCHEMES and not has_client:
        raise errors.NotConfigured
    return access.scheme_of_form(scheme, toolkit, integration)


def scopes_to_ask(toolkit: Toolkit, integration: Integration, scheme: Any, further: Sequence[str]) -> list[str]:
    """The project's scopes, else the toolkit's own, and what is to be asked for beyond them. Raises `InvalidInput`."""
    if scheme.type not in SCOPED_SCHEMES:
        if further:
            raise InvalidInput({"scopes": [f"Accounts of the kind {scheme.type} have no scopes."]})
        return []
    usual = list(integration.scopes or scheme.scopes)
    listed = getattr(scheme, "available_scopes", {})
    known = {*usual, *scheme.scopes, *listed, *(scope for tool in toolkit.tools for scope in tool.scopes)}
    for scope in further:
        if not SCOPE.fullmatch(scope) or scheme.scope_separator in scope:
            raise InvalidInput({"scopes": ["Each must be one scope: printable characters without a blank."]})
        if listed and scope not in known:
            raise InvalidInput({"scopes": [f"Not among this toolkit's scopes: {scope}."]})
    return list(dict.fromkeys([*usual, *further]))


def start_connect(
    project: Project,
    user_id: str,
    slug: str,
    *,
    redirect_url: str = "",
    allow_multiple: bool = False,
    scheme_type: str | None = None,
    binding: str = "",
    scopes: Sequence[str] = (),
    page: ConnectPage | None = None,
    renew: Connection | None = None,
) -> Started:
    """Begins a flow: a connect session, and the URL on which it goes on. Without a user it is for the shared account.

    ``binding`` is the hash of the browser's cookie where the flow starts on a page of ours; ``scopes`` are asked for beyond
    the usual ones; ``page`` is the hosted page to come back to; ``renew`` the account to be connected again, where it is not
    the person's first. OAuth 1.0a asks the provider for a request token here.
    Raises `ToolkitNotEnabled`, `NotConfigured`, `InvalidInput`, `QuotaExceeded`, `Unreachable`.
    """
    integration = enabled_integration(project, slug)
    toolkit = find_toolkit(slug, project)
    scheme = choose_scheme(toolkit, integration, scheme_type)
    asked = scopes_to_ask(toolkit, integration, scheme, scopes)
    if redirect_url:
        check_redirect_url(project, redirect_url)
    user = end_user(project, user_id) if user_id else None
    allow_multiple = allow_multiple or (renew is not None and not renew.is_primary)
    existing = renew or (None if allow_multiple else _primary(integration, user))
    if existing is None:
        check_connection_limit(project)
    state = secrets.token_urlsafe(32)
    session = ConnectSession(
        state_digest=digest(state),
        project=project,
        integration=integration,
        page=page,
        end_user=user,
        connection_id=existing.pk if existing else _future_id(integration, user, allow_multiple),
        auth_type=scheme.type,
        redirect_url=redirect_url,
        callback_url="",
        binding=binding,
        allow_multiple=allow_multiple,
        scopes=asked,
        expires_at=timezone.now() + SESSION_LIFETIME,
    )
    url = _provider_url(session, toolkit, scheme, state) if scheme.type in PROVIDER_SCHEMES else _form_url(session)
    try:
        with transaction.atomic():
            session.save(force_insert=True)
    except IntegrityError:
        if scheme.type != "oauth1":
            raise
        raise errors.Unreachable(f"{toolkit.name} gave out the same request token twice.") from None
    return Started(url, session.connection_id, session)


def _primary(integration: Integration, user: EndUser | None) -> Connection | None:
    return Connection.objects.filter(integration=integration, end_user=user, is_primary=True).first()


def _future_id(integration: Integration, user: EndUser | None, allow_multiple: bool) -> str:
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


def _provider_url(session: ConnectSession, toolkit: Toolkit, scheme: OAuth2 | OAuth1, state: str) -> str:
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
    session.callback_url = callback_url(session.project, client)
    if isinstance(scheme, OAuth1):
        return _authorize_request_token(session, toolkit, scheme, client, state)
    verifier = oauth.new_verifier()
    session.seal("verifier", verifier)
    return oauth.authorization_url(
        scheme, client, redirect_uri=session.callback_url, state=state, scopes=session.scopes, verifier=verifier
    )


def _authorize_request_token(
    session: ConnectSession, toolkit: Toolkit, scheme: OAuth1, client: access.OAuthClient, state: str
) -> str:
    """Gets a request token, which the session is found by as well: some providers do not give our state back."""
    release()
    try:
        temporary = oauth1.request_token(scheme, client, f"{session.callback_url}?{urlencode({'state': state})}")
    except oauth.TokenError as error:
        raise errors.NotConfigured(
            f"{toolkit.name} gives no request token: {error}",
            remediation=f"Check the consumer key and secret, and that this callback is registered: {session.callback_url}",
        ) from None
    session.pk = id_of_request_token(temporary["oauth_token"])
    session.seal("verifier", temporary)  # after the id, which it is bound to
    return oauth1.authorization_url(scheme, temporary["oauth_token"])


def id_of_request_token(token: str) -> str:
    """The id of the connect session that an OAuth 1.0a request token was got for."""
    return digest(f"oauth1 {token}")[:40]


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


def take_session(state: str, cookie: str, project_id: str | None, *, request_token: str = "") -> ConnectSession:
    """The session of a callback, used up by this very call. Raises `FlowError`.

    It is named by its state; where an OAuth 1.0a provider gave back no state, by the request token.

    In this order: known, of this project, not used, not late, in the browser where it began; only then is it used up, so
    that somebody else's attempt cannot spoil it.
    """
    if not state and not request_token:
        raise FlowError("missing_state")
    named = Q(state_digest=digest(state)) if state else Q(pk=id_of_request_token(request_token), auth_type="oauth1")
    session = (
        ConnectSession.objects.filter(named)
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
    return _finish(session, lambda: grants.by_code(session, code, iss), actor)


def finish_oauth1(session: ConnectSession, request_token: str, verifier: str, actor: Actor) -> Connection:
    """The provider's verifier for a stored connection. Raises `FlowError`."""
    return _finish(session, lambda: grants.by_verifier(session, request_token, verifier), actor)


def _finish(session: ConnectSession, ask: Callable[[], Grant], actor: Actor) -> Connection:
    try:
        connection = _store(session, ask(), actor)
    except FlowError as error:
        end_session(session, error.code)
        raise
    except (oauth.TokenError, Failure, BadParameters, LookupError) as error:
        log.warning("connecting %s failed: %s", session.integration.toolkit, error)
        end_session(session, "connection_failed")
        raise FlowError("connection_failed", session) from error
    end_session(session, "connected")
    return connection


def finish_form(
    session: ConnectSession, toolkit: Toolkit, scheme: Any, values: dict[str, str], own: dict[str, str], actor: Actor
) -> Connection:
    """Stores credentials that a person typed, after the toolkit's test call accepted them. Raises `InvalidInput`."""
    if not session.integration.enabled:
        raise errors.ToolkitNotEnabled
    grant = grants.by_form(toolkit, session.integration, scheme, values, own, session.scopes)
    use_up(session)
    connection = _store(session, grant, actor)
    end_session(session, "connected")
    return connection


def _store(session: ConnectSession, grant: Grant, actor: Actor) -> Connection:
    return store_connection(
        session,
        grant.credentials,
        account=grant.account,
        scopes=grant.scopes,
        expires_at=grant.expires_at,
        own_variables=grant.variables,
        actor=actor,
    )


def store_connection(
    session: ConnectSession,
    credentials: dict[str, Any],
    *,
    account: Account,
    scopes: list[str],
    expires_at: Any,
    own_variables: dict[str, str],
    actor: Actor,
    needs_confirmation: bool = True,
) -> Connection:
    """Writes what a finished flow brought: renews the connection it was started for, or makes it under the promised id."""
    project = session.project
    fields: dict[str, Any] = {
        "auth_type": session.auth_type,
        "status": INACTIVE if needs_confirmation and project.confirm_connections else Connection.Status.ACTIVE,
        "expires_at": expires_at,
        "account_id": account.id,
        "account_label": account.label,
        "account_picture": account.picture,
        "scopes": scopes,
        "asked_scopes": session.scopes,
        "variables": own_variables,
        "connected_at": timezone.now(),
        "error": "",
        "lease_owner": "",
        "lease_until": None,
        "refresh_failures": 0,
        "refresh_not_before": None,
        "refresh_due_at": None,  # planned by the background work
    }
    with transaction.atomic():
        user = session.end_user
        if user is not None and not EndUser.objects.select_for_update().filter(pk=user.pk).exists():
            raise FlowError("connection_failed", session)  # purged meanwhile
        existing = _renewed_by(session)
        event = "created"
        connection = _insert(session, credentials, fields) if existing is None else None
        if connection is None:
            # Two flows of one person ended at the same moment: the later one renews what the earlier one made.
            existing = existing or _renewed_by(session)
            if existing is None:
                raise FlowError("connection_failed", session)
            event = "recovered" if existing.status == Connection.Status.EXPIRED else ""
            connection = _renew(existing, credentials, fields)
        if event:
            events.tell(connection, event)
        record(
            actor,
            "connection.renewed" if existing else "connection.created",
            connection.pk,
            project=project,
            toolkit=connection.toolkit,
            user=session.end_user.external_id if session.end_user else "",
            account=account.label,
            missing_scopes=access.missing_scopes(session.scopes, scopes),
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
        is_primary=not session.allow_multiple or _primary(session.integration, session.end_user) is None,
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
    return with_result(session.redirect_url, **result)


def with_result(url: str, **result: str) -> str:
    parts = urlsplit(url)
    kept = [part for part in parts.query.split("&") if part and unquote_plus(part.partition("=")[0]) not in result]
    return urlunsplit(parts._replace(query="&".join([*kept, urlencode(result)])))


def forget_expired() -> int:
    """Deletes connect sessions a day after their end; gives how many."""
    return ConnectSession.objects.filter(expires_at__lt=timezone.now() - timedelta(days=1)).delete()[0]
