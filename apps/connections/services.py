"""Switching toolkits on and off, connecting, confirming and disconnecting accounts."""

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

from apps.lib import errors, http, ids
from apps.lib.db import release
from apps.lib.errors import Failure, InvalidInput
from apps.lib.pointer import resolve
from apps.lib.redact import clip
from apps.lib.vault import VaultError
from apps.toolkits.registry import catalog
from apps.toolkits.request import BadParameters, Request, build_call
from apps.toolkits.spec import OAuth2, Toolkit
from apps.workspaces.audit import Actor, record
from apps.workspaces.models import EndUser, Project, Workspace
from apps.workspaces.services import clean_origin, end_user
from apps.workspaces.signals import end_user_deleted

from . import access, oauth
from .links import Link, make_link
from .models import Connection, ConnectSession, Integration
from .refresh import expiry, stored_token

log = logging.getLogger(__name__)

SESSION_LIFETIME = timedelta(minutes=30)
FORM_SCHEMES = ("api_key", "bearer", "basic", "custom")


# -- Integrations ----------------------------------------------------------------------------------------------------
def find_toolkit(slug: str) -> Toolkit:
    """Raises `NotFound`."""
    toolkit = catalog().get(slug)
    if toolkit is None:
        raise errors.NotFound(f"The catalog has no toolkit {slug}.",
                              remediation="Search it: GET /v1/{appId}/integrations/available?search=…")  # fmt: skip
    return toolkit


def configure(
    project: Project,
    slug: str,
    actor: Actor,
    *,
    display_name: str | None = None,
    scopes: list[str] | None = None,
    client_id: str | None = None,
    client_secret: str | None = None,
    overrides: dict[str, Any] | None = None,
) -> Integration:
    """Switches a toolkit on, or changes what is given of one that is on. None keeps; an empty list of scopes resets.

    Raises `NotFound` for a toolkit that the catalog does not have, `InvalidInput` for an override that it does not know.
    """
    toolkit = find_toolkit(slug)
    if overrides is not None:
        _check_overrides(toolkit, overrides)
    with transaction.atomic():
        integration, made = Integration.objects.select_for_update().get_or_create(
            project=project, toolkit=slug, defaults={"display_name": display_name or toolkit.name}
        )
        integration.enabled = True
        if display_name:
            integration.display_name = display_name
        if scopes is not None:
            integration.scopes = scopes
        if client_id is not None:
            integration.client_id = client_id
        if client_secret is not None:
            integration.seal("client_secret", client_secret)
        moved = overrides is not None and overrides != integration.settings
        if overrides is not None:
            integration.settings = overrides
        _check_client(integration)
        integration.save()
        record(
            actor,
            "integration.enabled" if made else "integration.changed",
            slug,
            project=project,
            scopes=scopes,
            client=client_id,
            new_client_password=client_secret is not None,
            # As texts: the log's redaction would take a token_url for a token.
            settings=[f"{name}: {value}" for name, value in integration.settings.items()] if moved else None,
        )
    return integration


def _check_client(integration: Integration) -> None:
    """Raises `InvalidInput` where the platform's client would be used at an address that is the project's choice."""
    if integration.client_id or access.platform_client(integration.toolkit) is None or access.keeps_home(integration):
        return
    fault = "The installation's OAuth client goes to no other host: give the project's own client with these addresses."
    raise InvalidInput({"settings": [fault]})


def _check_overrides(toolkit: Toolkit, overrides: dict[str, Any]) -> None:
    faults: dict[str, list[str]] = {}
    for name, value in overrides.items():
        if name == "variables":
            faults |= _variable_faults(toolkit, value)
        elif name in Integration.URL_SETTINGS:
            if not isinstance(value, str) or not http.is_plain_url(value):
                faults[f"settings.{name}"] = ["Must be an absolute http or https URL."]
        elif name != "issuer":
            faults[f"settings.{name}"] = ["Unknown setting."]
        elif not isinstance(value, str) or not value.isprintable():
            faults["settings.issuer"] = ["Must be a text."]
    if faults:
        raise InvalidInput(faults)


def _variable_faults(toolkit: Toolkit, given: Any) -> dict[str, list[str]]:
    if not isinstance(given, dict):
        return {"settings.variables": ["Must be an object."]}
    faults: dict[str, list[str]] = {}
    for name, value in given.items():
        variable = toolkit.variables.get(name)
        if variable is None or variable.source != "integration":
            faults[f"settings.variables.{name}"] = ["Not among this toolkit's variables."]
        elif not isinstance(value, str) or not variable.accepts(value):
            faults[f"settings.variables.{name}"] = ["Does not look right."]
    return faults


def disable(project: Project, slug: str, actor: Actor, *, revoke: bool = False) -> None:
    """Switches a toolkit off: no new connections. Existing ones keep working unless they are revoked."""
    won = Integration.objects.filter(project=project, toolkit=slug, enabled=True).update(
        enabled=False, updated_at=timezone.now()
    )
    if won:
        record(actor, "integration.disabled", slug, project=project, revoked_connections=revoke)
    if revoke:
        for connection in Connection.objects.filter(project=project, toolkit=slug).select_related("integration"):
            disconnect(connection, actor)


def enabled_integration(project: Project, slug: str) -> Integration:
    """Raises `ToolkitNotEnabled`."""
    integration = Integration.objects.filter(project=project, toolkit=slug).enabled().first()
    if integration is None:
        raise errors.ToolkitNotEnabled(f"The toolkit {slug} is not enabled for this project.")
    integration.project = project
    return integration


# -- Connecting ------------------------------------------------------------------------------------------------------
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
    toolkit = find_toolkit(slug)
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
        raise errors.QuotaExceeded(
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
    account = _profile(toolkit, integration, raw_scheme, credentials, own)
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


@dataclass(frozen=True)
class Account:
    """Whose account it is, as the provider tells it."""

    id: str = ""
    label: str = ""
    picture: str = ""


def _profile(
    toolkit: Toolkit, integration: Integration, scheme: Any, credentials: dict[str, Any], own: dict[str, str]
) -> Account:
    """The account behind fresh credentials. An account without a label is better than none: faults are only logged."""
    if toolkit.profile is None:
        return Account()
    try:
        answer = call_fixed(toolkit, integration, scheme, credentials, own, use_test=False)
    except (Failure, BadParameters) as error:
        log.warning("profile call of %s failed: %s", toolkit.slug, error)
        return Account()
    return _account(toolkit, answer)


def _account(toolkit: Toolkit, answer: http.Answer) -> Account:
    profile = toolkit.profile
    if profile is None or answer.status >= 400:
        return Account()
    try:
        data = http.json_of(answer)
    except ValueError:
        return Account()
    parts = [resolve(data, pointer) for pointer in (profile.id, profile.label, profile.picture)]
    texts = ["" if part is None or isinstance(part, (dict, list)) else clip(str(part), 2000) for part in parts]
    return Account(texts[0][:255], (texts[1] or texts[0])[:255], texts[2][:1000])


def call_fixed(
    toolkit: Toolkit,
    integration: Integration,
    scheme: Any,
    credentials: dict[str, Any],
    own: dict[str, str],
    *,
    use_test: bool,
) -> http.Answer:
    """The toolkit's test call or its profile call with these credentials. Raises `Unreachable`, `BadParameters`."""
    call = (toolkit.test or toolkit.profile) if use_test else toolkit.profile
    if call is None:
        raise BadParameters({"toolkit": ["It has no such call."]})
    values = access.variables(toolkit, integration, own)
    request = build_call(toolkit, call, values, access.base_override(integration))
    return send(access.authorize(request, scheme, credentials), scheme)


def send(request: Request, scheme: Any) -> http.Answer:
    release()
    return http.send(
        http.Outgoing(
            method=request.method,
            url=request.full_url,
            headers=request.headers,
            body=request.body,
            timeout=request.timeout,
            safe=request.idempotent,
            retry_statuses=request.retry_statuses,
            sensitive=access.sensitive_headers(scheme),
            secret_in_url=access.carries_secret_in_url(scheme),
        )
    )


def failed_by_rule(toolkit: Toolkit, answer: http.Answer, data: Any) -> int | None:
    """The status that an answer stands for by the toolkit's failure rule; None where it did not fail."""
    rule = toolkit.failure
    if rule is None or answer.status >= 400 or resolve(data, rule.pointer) != rule.equals:
        return None
    code = str(resolve(data, rule.code) or "")
    if code in rule.unauthorized:
        return 401
    return 429 if code in rule.rate_limited else 400


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


def verify_credentials(
    toolkit: Toolkit, integration: Integration, scheme: Any, credentials: dict[str, Any], own: dict[str, str]
) -> Account:
    """Raises `InvalidInput` where the service does not accept them or cannot be asked. Nothing is stored."""
    if toolkit.test is None and toolkit.profile is None:
        return Account()
    try:
        answer = call_fixed(toolkit, integration, scheme, credentials, own, use_test=True)
        data = http.json_or_none(answer)
    except errors.Unreachable as error:
        raise InvalidInput({"credentials": [f"{toolkit.name} could not be asked: {error.text}"]}) from None
    except BadParameters as error:
        raise InvalidInput(error.faults) from None
    status = failed_by_rule(toolkit, answer, data) or answer.status
    if status >= 300:
        raise InvalidInput({"credentials": [f"{toolkit.name} does not accept what was entered (status {status})."]})
    if toolkit.profile is not None and toolkit.test is not None:
        return _profile(toolkit, integration, scheme, credentials, own)
    return _account(toolkit, answer)


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


# -- Connections -----------------------------------------------------------------------------------------------------
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
        Connection.objects.filter(pk=connection.pk).delete()
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
    from .refresh import fresh_credentials

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
        user.delete()
        record(actor, "end_user.deleted", user_id, project=project)
    end_user_deleted.send(sender=EndUser, project=project, user_id=user_id)
    return True


def forget_expired() -> int:
    """Deletes connect sessions a day after their end; gives how many."""
    return ConnectSession.objects.filter(expires_at__lt=timezone.now() - timedelta(days=1)).delete()[0]
