"""Auth sessions: connections by the names of the Runs API, for a project that has switched them on for one of its toolkits.

A session that was made over that API has a row (`AuthSession`) with its id, and a connection of the end user of the same id.
Every other connection of the toolkit is an auth session by its own id. What is checked and renewed here is asked of the
service with no transaction open; operations on sessions are `apps.connections.auth_operations`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone, translation

from apps.lib import errors, http
from apps.lib.db import release as release_database
from apps.lib.errors import Failure, InvalidInput
from apps.toolkits.registry import catalog
from apps.toolkits.request import BadParameters
from apps.toolkits.spec import Toolkit
from apps.workspaces.audit import SYSTEM, Actor, record
from apps.workspaces.models import Project
from apps.workspaces.services import USER_ID_LENGTH

from . import access, flows, grants
from .forms import VARIABLE, CredentialsForm
from .integrations import enabled_integration, find_toolkit
from .links import Link, make_link, reconnect_link
from .models import AuthOperation, AuthSession, Connection, ConnectSession, Integration
from .refresh import fresh_credentials, is_refreshable
from .services import disconnect
from .upstream import NotAsked, call_fixed, failed_by_rule

SETTING = "authSessions"
LISTED = 10_000  # that one answer has at most: the API knows no pages here
ATTEMPTS, MOST_ATTEMPTS = 3, 20
MOST_FAULTS = 100  # that one answer tells of
LONGEST_TRY = 40.0  # seconds that one try may take
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0  # seconds between two tries
PASSING_STATUSES = frozenset({408, 425, 429})
RESERVED = frozenset({"create", ".", ".."})
EXCLUSIVE = "exclusive"
DELETING = "delete"  # holds a session that is being deleted; no run's id
T = TypeVar("T")


# -- The setting -----------------------------------------------------------------------------------------------------
def toolkit_of(project: Project) -> str | None:
    """The slug of the toolkit for which the project has switched auth sessions on; None where it has not."""
    found = project.settings.get(SETTING)
    return str(found["toolkit"]) if isinstance(found, dict) and found.get("toolkit") else None


def required_toolkit(project: Project) -> str:
    """Raises `BadRequest` where auth sessions are off."""
    slug = toolkit_of(project)
    if slug is None:
        raise errors.BadRequest(
            "Auth sessions are not switched on for this project.",
            remediation="Switch them on for one of its toolkits: PATCH /v1/{appId}/settings {authSessions: {toolkit}}.",
        )
    return slug


def is_exclusive(project: Project, slug: str) -> bool:
    """Whether one run at a time has an auth session of the toolkit to itself, as that one says."""
    toolkit = catalog(project).get(slug)
    return toolkit is not None and toolkit.sessions == EXCLUSIVE


# -- Finding ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Session:
    """An auth session: its row, its connection, or both."""

    name: str
    row: AuthSession | None
    connection: Connection | None
    being_made: bool = False

    @property
    def type(self) -> str:
        if self.connection is None:
            return "CREDENTIALS" if self.being_made else "RECORDER"
        return "RECORDER" if self.connection.auth_type in flows.PROVIDER_SCHEMES else "CREDENTIALS"

    @property
    def status(self) -> str:
        if self.connection is None or self.connection.status == Connection.Status.INACTIVE:
            return "PENDING"
        refused = self.row.refused_at if self.row is not None else None
        is_refused = refused is not None and refused > self.connection.connected_at
        return "EXPIRED" if is_refused or self.connection.status == Connection.Status.EXPIRED else "READY"

    @property
    def user_id(self) -> str | None:
        """Whose account it is; None for the integration's shared one."""
        if self.connection is None:
            return self.name
        return self.connection.end_user.external_id if self.connection.end_user else None


OPEN = (AuthOperation.Status.PENDING, AuthOperation.Status.IN_PROGRESS)


def sessions(project: Project, user_id: str | None = None) -> list[Session]:
    """The project's auth sessions, the newest first; with ``user_id`` those of that end user alone."""
    slug = toolkit_of(project)
    if slug is None:
        return []
    rows = _rows(project, slug).order_by("-created_at", "-id")
    others = _others(project, slug).order_by("-created_at", "-id")
    if user_id is not None:
        rows = rows.filter(Q(connection__end_user__external_id=user_id) | Q(connection=None, name=user_id))
        others = others.filter(end_user__external_id=user_id)
    found = [_session(row) for row in rows[:LISTED]]
    # A person has connected it meanwhile, whom the start of its creation sent there: `find` notes that.
    waiting = {session.name for session in found if session.connection is None and not session.being_made}
    for connection in others.defer("credentials")[:LISTED]:
        owner = connection.end_user.external_id if connection.end_user else None
        if owner in waiting and connection.is_primary:
            found = [replace(one, connection=connection) if one.name == owner else one for one in found]
        else:
            found.append(Session(connection.pk, None, connection))
    return found[:LISTED]


def _rows(project: Project, slug: str) -> Any:
    making = AuthOperation.objects.filter(kind=AuthOperation.Kind.CREATE, status__in=OPEN)
    rows = AuthSession.objects.filter(project=project, toolkit=slug)
    return rows.select_related("connection__end_user", "connection__integration").annotate(
        being_made=Exists(making.filter(session=OuterRef("pk")))
    )


def _others(project: Project, slug: str) -> Any:
    rows = Connection.objects.filter(project=project, toolkit=slug, integration__is_primary=True, auth_session=None)
    return rows.select_related("end_user", "integration")


def _session(row: Any) -> Session:
    return Session(row.name, row, row.connection, row.being_made)


def of_user(project: Project, user_id: str | None) -> list[Session]:
    """The sessions that an end user's run may use (None: the shared ones): those with an account."""
    slug = toolkit_of(project)
    if slug is None:
        return []
    rows = Connection.objects.filter(project=project, toolkit=slug, integration__is_primary=True)
    rows = rows.filter(end_user__external_id=user_id) if user_id is not None else rows.filter(end_user=None)
    found = rows.select_related("end_user", "integration", "auth_session").defer("credentials")[:2]
    return [Session(_name_of(project, row), None, row) for row in found]


def _name_of(project: Project, connection: Connection) -> str:
    """A connection whose session waited for it becomes that one's, by whichever id it is found first."""
    try:
        return connection.auth_session.name
    except AuthSession.DoesNotExist:
        pass
    if connection.end_user is not None and connection.is_primary:
        waiting = _rows(project, connection.toolkit).filter(connection=None, being_made=False)
        row = waiting.filter(name=connection.end_user.external_id).first()
        if row is not None:
            _adopt(row, connection)
            return str(row.name)
    return connection.pk


def find(project: Project, name: str, user_id: str | None = None) -> Session:
    """An auth session by its id: its name, or its connection's id.

    ``user_id`` is the end user to whom the caller is tied: neither others' nor shared ones are theirs. Raises
    `AuthSessionNotFound`.
    """
    slug = toolkit_of(project)
    session = _found(project, slug, name) if slug and name.isprintable() else None
    if session is None or (user_id is not None and session.user_id != user_id):
        raise errors.AuthSessionNotFound
    connection = session.connection
    if connection is not None:
        connection.project = connection.integration.project = project
    return session


def _found(project: Project, slug: str, name: str) -> Session | None:
    row = _rows(project, slug).filter(name=name).first()
    if row is None:
        connection = _connections(project, slug).filter(pk=name).first()
        return None if connection is None else Session(_name_of(project, connection), None, connection)
    if row.connection is None and not row.being_made:
        return _adopted(project, slug, row)
    return _session(row)


def _connections(project: Project, slug: str) -> Any:
    rows = Connection.objects.filter(project=project, toolkit=slug, integration__is_primary=True)
    return rows.select_related("end_user", "integration", "auth_session")


def _adopted(project: Project, slug: str, row: Any) -> Session:
    """A session whose account a person has connected since: from now on it is this one's."""
    connection = _others(project, slug).filter(end_user__external_id=row.name, is_primary=True).first()
    if connection is None:
        return _session(row)
    _adopt(row, connection)
    return Session(row.name, row, connection)


def _adopt(row: AuthSession, connection: Connection) -> None:
    try:
        with transaction.atomic():
            AuthSession.objects.filter(pk=row.pk, connection=None).update(connection=connection)
    except IntegrityError:
        pass  # by somebody else, at this very moment


def clean_name(value: str, place: str = "id") -> str:
    """An id for a new session. Raises `InvalidInput`."""
    fault = ""
    if not 1 <= len(value) <= USER_ID_LENGTH or not value.isprintable() or "/" in value:
        fault = f"Must be a text of 1 to {USER_ID_LENGTH} printable characters without a slash."
    elif value in RESERVED or value.startswith("ca_"):
        fault = "This id is reserved."
    if fault:
        raise InvalidInput({place: [fault]})
    return value


def connect_url(row: AuthSession) -> str:
    """The page on which a person connects the session's account; signed, for a day. Its relations are read."""
    if row.connection is not None:
        return reconnect_link(row.connection)
    return make_link(Link(row.project_id, row.name, row.toolkit))


# -- Deleting --------------------------------------------------------------------------------------------------------
def delete(project: Project, session: Session, actor: Actor) -> None:
    """Disconnects the account, and cancels what is under way with it. Raises `AuthSessionInUse` while a run has it to itself."""
    row = session.row or AuthSession.objects.filter(connection=session.connection).first()
    if row is not None:
        free = AuthSession.objects.filter(pk=row.pk, held_by="")
        if not free.update(held_by=DELETING, held_at=timezone.now()):  # no run takes it while the service is asked
            raise errors.AuthSessionInUse
        cancel_operations(row)
    if session.connection is not None:
        disconnect(session.connection, actor)
    with transaction.atomic():
        record(actor, "auth_session.deleted", session.name[:200], project=project)
        if row is not None:
            AuthSession.objects.filter(pk=row.pk).delete()


def cancel_operations(row: AuthSession) -> None:
    """Those under way end here, and all outlive the session, so that whoever follows them learns how they ended."""
    operations = AuthOperation.objects.filter(session=row)
    operations.filter(status__in=OPEN).update(
        status=AuthOperation.Status.CANCELED, ended_at=timezone.now(), inputs="", lease_until=None
    )
    operations.update(session=None)


# -- One run at a time -----------------------------------------------------------------------------------------------
def hold(project: Project, slug: str, name: str, connection_id: str, holder: str, now: datetime) -> None:
    """Gives an auth session to a run alone; to be called in the transaction that makes the run.

    Raises `AuthSessionInUse`, `AuthSessionNotFound`.
    """
    rows = AuthSession.objects.filter(project=project, toolkit=slug, name=name)
    if rows.filter(held_by__in=("", holder)).update(held_by=holder, held_at=now):
        return
    if rows.exists():
        raise errors.AuthSessionInUse
    # A connection that was made elsewhere: its row begins with its first holder. The database asks for it at the commit only.
    if not Connection.objects.select_for_update(no_key=True).filter(pk=connection_id).exists():
        raise errors.AuthSessionNotFound
    try:
        with transaction.atomic():
            AuthSession.objects.create(
                project=project,
                name=name,
                toolkit=slug,
                connection_id=connection_id,
                held_by=holder,
                held_at=now,
            )
    except IntegrityError:
        raise errors.AuthSessionInUse from None


def release(project_id: str, name: str, holder: str) -> None:
    """Lets go of an auth session that a run (``holder``) had to itself; nothing where it had not."""
    AuthSession.objects.filter(project=project_id, name=name, held_by=holder).update(held_by="", held_at=None)


# -- Fields ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Fields:
    """What was sent for the toolkit's form. ``type`` is the auth scheme's, "" where only a person can connect an account."""

    type: str
    values: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def is_recorder(self) -> bool:
        return not self.type


def read_fields(project: Project, given: dict[str, Any], place: str, preferred: str = "") -> Fields:
    """Checks for form what was sent for the toolkit that the project's auth sessions are of; nothing is asked of the service.

    The first scheme whose fields fit is taken, ``preferred`` before all. Raises `InvalidInput` with every fault by its field
    (``parameters.api_key``), `ToolkitNotEnabled`, `NotConfigured`.
    """
    slug = required_toolkit(project)
    integration = enabled_integration(project, slug)
    toolkit = find_toolkit(slug, project)
    schemes = [scheme for scheme in toolkit.auth if scheme.type in flows.FORM_SCHEMES]
    schemes.sort(key=lambda scheme: scheme.type != preferred)
    first: dict[str, list[str]] = {}
    for raw in schemes:
        fields, faults = _filled(toolkit, access.scheme_of_form(raw, toolkit, integration), given)
        if not faults:
            return fields
        first = first or faults
    if not schemes or (not given and toolkit.auth[0].type in flows.PROVIDER_SCHEMES):
        flows.choose_scheme(toolkit, integration)
        return Fields("")
    raise InvalidInput({f"{place}.{name}": said for name, said in first.items()})


def _filled(toolkit: Toolkit, scheme: Any, given: dict[str, Any]) -> tuple[Fields, dict[str, list[str]]]:
    names = {one.name for one in scheme.fields}
    own = {name for name, variable in toolkit.variables.items() if variable.source == "user"}
    data: dict[str, str] = {}
    faults: dict[str, list[str]] = {}
    for name, value in given.items():
        target = name if name in names else VARIABLE + name if name in own else ""
        if len(faults) >= MOST_FAULTS:
            break
        if not target:
            faults[_shown(name)] = ["Unknown for this kind of account."]
        elif not isinstance(value, str):
            faults[name] = ["Must be a text."]
        else:
            data[target] = value
    form = CredentialsForm(toolkit, scheme, data)
    with translation.override("en"):
        for target, said in form.errors.items():
            faults.setdefault(target.removeprefix(VARIABLE), [str(text) for text in said])
    if scheme.type == "basic" and ":" in data.get("username", ""):
        faults["username"] = ["Must not have a colon (RFC 7617)."]
    if faults:
        return Fields(""), faults
    return Fields(scheme.type, form.credentials(), form.variables()), {}


def _shown(name: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in name[:100])


# -- Asking the service ----------------------------------------------------------------------------------------------
class AuthFailed(Exception):
    """An account that cannot be used, in the words of the Runs API: ``code`` is one of its clients' literals."""

    def __init__(
        self, code: str, message: str, *, retirable: bool = False, details: Any = None, category: str = "auth"
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.retirable, self.details = code, message, retirable, details
        self.category = category

    def as_error(self) -> dict[str, Any]:
        found = {"message": self.message, "code": self.code, "category": self.category, "retirable": self.retirable}
        return found if self.details is None else {**found, "details": self.details}


class Passing(Exception):
    """What another try may not meet: the network, a server's own fault, a limit. ``pause`` is what the service asked for."""

    def __init__(self, text: str, pause: float = 0.0) -> None:
        super().__init__(text)
        self.pause = pause


def _always() -> None:
    pass


@dataclass
class Patience:
    """How often a service is asked, for how long in all (seconds), and through which proxy.

    ``alive`` is called before each try: it may raise to end them.
    """

    check_attempts: int = ATTEMPTS
    create_attempts: int = ATTEMPTS
    auto_recreate: bool = True
    seconds: float = 600.0
    proxy: str | None = None
    alive: Callable[[], None] = _always
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self.until = time.monotonic() + self.seconds

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def tries(self, attempts: int, do: Callable[[], T], code: str) -> T:
        """What ``do`` gives, tried again where it raises `Passing`. Raises `AuthFailed` with ``code`` after the last try."""
        said = "There was no time left to ask the service."
        pause = FIRST_PAUSE
        for number in range(attempts):
            self.alive()
            if self.left <= 0:
                break
            try:
                with http.bounded(min(self.left, LONGEST_TRY), self.proxy):
                    return do()
            except Passing as error:
                said = str(error)
                wait = max(pause * random.uniform(0.5, 1.0), min(error.pause, LONGEST_PAUSE))  # noqa: S311 - jitter
            if number + 1 < attempts:
                release_database()
                self.sleep(max(0.0, min(wait, self.left)))
                pause = min(pause * 2, LONGEST_PAUSE)
        raise AuthFailed(code, said, retirable=True)


def ensure(connection: Connection, patience: Patience) -> None:
    """The account works by the end: checked, and where the service refuses it renewed and checked again.

    Raises `AuthFailed`. A session that the service refuses for good is EXPIRED until it takes it again.
    """
    try:
        _ensure(connection, patience)
    except AuthFailed as failed:
        if failed.category == "auth" and not failed.retirable:
            AuthSession.objects.filter(connection=connection.pk).update(refused_at=timezone.now())
        raise
    AuthSession.objects.filter(connection=connection.pk, refused_at__isnull=False).update(refused_at=None)


def _ensure(connection: Connection, patience: Patience) -> None:
    try:
        check(connection, patience)
    except AuthFailed as refused:
        if refused.code != "auth-check-failed" or not patience.auto_recreate or _waits(connection):
            raise
        renew(connection, patience)
        check(connection, patience)


def _waits(connection: Connection) -> bool:
    return connection.status == Connection.Status.INACTIVE


def check(connection: Connection, patience: Patience) -> None:
    """By the toolkit's test call; passes where it has none.

    Raises `AuthFailed`: auth-check-failed where the service refuses the account, or it is known not to work;
    check-attempts-failed where the service could not be asked in all the tries.
    """
    if _waits(connection):
        raise AuthFailed("auth-check-failed", "The connection waits for confirmation.")
    patience.tries(patience.check_attempts, lambda: check_once(connection), "check-attempts-failed")


def check_once(connection: Connection) -> None:
    """Raises `AuthFailed`, `Passing`."""
    integration = connection.integration
    try:
        toolkit = access.toolkit_of(integration)
        scheme = access.scheme_for(connection, toolkit)
        credentials = fresh_credentials(connection)
        if toolkit.test is None and toolkit.profile is None:
            return
        answer = call_fixed(toolkit, integration, scheme, credentials, connection.variables, use_test=True)
    except errors.Unreachable as error:
        raise Passing(error.text, error.retry_after or 0.0) from None
    except Failure as error:
        raise _refused("auth-check-failed", error) from None
    except (LookupError, BadParameters) as error:
        raise AuthFailed("auth-check-failed", f"The account must be connected anew: {error}.") from None
    status = failed_by_rule(toolkit, answer, http.json_or_none(answer)) or answer.status
    if status >= 500 or status in PASSING_STATUSES:
        raise Passing(f"{toolkit.name} answered with status {status}.", http.retry_after(answer) or 0.0)
    if status >= 300:
        raise AuthFailed("auth-check-failed", f"{toolkit.name} answered with status {status}.")


def _refused(code: str, error: Failure) -> AuthFailed:
    told: dict[str, Any] = {"code": error.code, "remediation": error.advice}
    if error.action_url:
        told["actionUrl"] = error.action_url
    return AuthFailed(code, error.text, details=told)


def renew(connection: Connection, patience: Patience) -> None:
    """A forced refresh; of credentials that were entered, a new grant from the fields that are stored.

    Raises `AuthFailed`, create-attempts-failed.
    """
    if connection.auth_type in flows.PROVIDER_SCHEMES:
        patience.tries(patience.create_attempts, lambda: _refresh(connection), "create-attempts-failed")
        return
    grant = patience.tries(patience.create_attempts, lambda: _again(connection), "create-attempts-failed")
    if connection.status != Connection.Status.ACTIVE or connection.auth_type == "client_credentials":
        replace_credentials(connection, grant, connection.auth_type)


def _refresh(connection: Connection) -> None:
    try:
        credentials = connection.unseal("credentials") or {}
        if connection.status != Connection.Status.EXPIRED and not is_refreshable(connection, credentials):
            raise AuthFailed("create-attempts-failed", "The account can only be connected again by its person.",
                             details=_reconnect(connection))  # fmt: skip
        fresh_credentials(connection, failed_version=connection.version)
    except errors.Unreachable as error:
        raise Passing(error.text, error.retry_after or 0.0) from None
    except Failure as error:
        raise _refused("create-attempts-failed", error) from None


def _reconnect(connection: Connection) -> dict[str, str]:
    return {"actionUrl": reconnect_link(connection)}


def _again(connection: Connection) -> grants.Grant:
    try:
        toolkit = access.toolkit_of(connection.integration)
        raw = access.scheme_for(connection, toolkit)
        stored = connection.unseal("credentials") or {}
    except LookupError as error:
        raise AuthFailed("create-attempts-failed", f"The account must be connected anew: {error}.") from None
    values = {one.name: str(stored[one.name]) for one in getattr(raw, "fields", ()) if stored.get(one.name)}
    return granted(connection.integration, Fields(connection.auth_type, values, dict(connection.variables)))


def granted(integration: Integration, fields: Fields) -> grants.Grant:
    """What the service gives for the fields. Raises `Passing`; `AuthFailed`, create-attempts-failed, with its words."""
    try:
        toolkit = access.toolkit_of(integration)
        scheme = toolkit.auth_by_type[fields.type]
        return grants.by_form(toolkit, integration, scheme, fields.values, fields.variables)
    except NotAsked as error:
        raise Passing(_words(error)) from None
    except errors.Unreachable as error:
        raise Passing(error.text, error.retry_after or 0.0) from None
    except InvalidInput as error:
        raise AuthFailed("create-attempts-failed", _words(error)) from None
    except Failure as error:
        raise _refused("create-attempts-failed", error) from None
    except LookupError as error:
        raise AuthFailed("create-attempts-failed", f"The account must be connected anew: {error}.") from None


def _words(error: InvalidInput) -> str:
    said = [text for texts in (error.details or {}).values() for text in texts]
    return " ".join(said) or error.text


def transient(integration: Integration, auth_type: str, grant: grants.Grant) -> Connection:
    """A connection that is never stored: for what is not to be kept, or not kept yet. Its token does not age here."""
    connection = Connection(
        project=integration.project,
        integration=integration,
        toolkit=integration.toolkit,
        auth_type=auth_type,
        variables=grant.variables,
        scopes=grant.scopes,
    )
    connection.seal("credentials", grant.credentials)
    return connection


def replace_credentials(
    connection: Connection, grant: grants.Grant, auth_type: str, actor: Actor = SYSTEM
) -> Connection:
    """Stores what a renewal brought over the same connection. Raises `AuthFailed` where it is gone."""
    flow = ConnectSession(
        project=connection.project,
        integration=connection.integration,
        end_user=connection.end_user,
        connection_id=connection.pk,
        auth_type=auth_type,
        scopes=connection.asked_scopes,
        allow_multiple=True,
    )
    with transaction.atomic():
        if not Connection.objects.select_for_update().filter(pk=connection.pk).exists():
            raise AuthFailed("create-attempts-failed", "The account was disconnected meanwhile.")
        stored = store(flow, grant, actor)
    connection.refresh_from_db()
    return stored


def store(flow: ConnectSession, grant: grants.Grant, actor: Actor) -> Connection:
    """Raises `AuthFailed`."""
    try:
        return flows.store_connection(
            flow,
            grant.credentials,
            account=grant.account,
            scopes=grant.scopes,
            expires_at=grant.expires_at,
            own_variables=grant.variables,
            actor=actor,
            needs_confirmation=False,
        )
    except flows.FlowError as error:
        raise AuthFailed("create-attempts-failed", f"The account could not be stored: {error.code}.") from None
    except errors.QuotaExceeded as error:
        raise AuthFailed("create-attempts-failed", error.text, category="billing") from None
