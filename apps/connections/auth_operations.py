"""Creating, updating and validating auth sessions: begun over the API, done by a worker, the result read later.

The row is the truth: committed before it is hinted at, worked on under a lease, taken up by the sweeper where a worker died.
It ends together with what it stores, in one transaction whose UPDATE says whether the lease still held: an operation that was
cancelled, or that somebody else took up, stores nothing. No transaction is open while the service is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from apps.lib import broker, errors, ids
from apps.lib.errors import Failure
from apps.workspaces.audit import Actor, record
from apps.workspaces.models import Project
from apps.workspaces.services import end_user

from . import flows
from .auth_sessions import (
    OPEN,
    AuthFailed,
    Fields,
    Patience,
    Session,
    check_once,
    clean_name,
    connect_url,
    ensure,
    granted,
    read_fields,
    replace_credentials,
    required_toolkit,
    store,
    transient,
)
from .grants import Grant
from .integrations import enabled_integration
from .models import AuthOperation, AuthSession, Connection, ConnectSession, Integration

log = logging.getLogger(__name__)

TASK = "connections.carry_auth"
QUEUE = "steps"
LEASE = timedelta(seconds=60)  # longer than one try may take (`auth_sessions.LONGEST_TRY`); renewed before each
HINTED = timedelta(seconds=10)  # after which a hint that nobody took up counts as lost
MOST_CLAIMS = 5  # workers that one operation may wear out
SWEPT = 200
KEPT = timedelta(days=7)
SECONDS = 600.0  # that an operation may take, all its tries together
INTERNAL = {
    "message": "Something went wrong on our side.",
    "code": "internal-server-error",
    "category": "infrastructure",
    "retirable": True,
}
BY_PERSON = "A person connects this account. Send them to {url}"

Options = dict[str, Any]


class Lost(Exception):
    """The operation was cancelled, or somebody else works on it."""


# -- Starting --------------------------------------------------------------------------------------------------------
def start_create(
    project: Project, name: str | None, parameters: dict[str, Any], options: Options, proxy: str | None, actor: Actor
) -> AuthOperation:
    """Begins a new session; without a name it gets one.

    Raises `InvalidInput` with the faults of the id and of the fields, `Conflict` for an id that is taken, `PlanLimitReached`.
    """
    slug = required_toolkit(project)
    chosen = ids.run_id() if name is None else clean_name(name)
    fields = read_fields(project, parameters, "parameters")
    flows.check_connection_limit(project)
    with transaction.atomic():
        row = _new_row(project, slug, chosen)
        return _begin(AuthOperation.Kind.CREATE, project, chosen, row, fields, options, proxy, actor)


def _new_row(project: Project, slug: str, name: str) -> AuthSession:
    """The session's row; one without an account, whose creation has ended, is gone on with. Raises `Conflict`."""
    taken = errors.Conflict(f"There is an auth session {name} already.", remediation="Update it, or choose another id.")
    owned = Connection.objects.filter(project=project, toolkit=slug, end_user__external_id=name)
    if owned.filter(integration__is_primary=True).exists():
        raise taken
    try:
        with transaction.atomic():
            return AuthSession.objects.create(project=project, name=name, toolkit=slug)
    except IntegrityError:
        pass
    row = AuthSession.objects.select_for_update().filter(project=project, toolkit=slug, name=name).first()
    if row is None or row.connection_id is not None or _is_open(row):
        raise taken
    return row


def _is_open(row: AuthSession) -> bool:
    return AuthOperation.objects.filter(session=row, status__in=OPEN).exclude(kind=AuthOperation.Kind.VALIDATE).exists()


def start_update(
    project: Project,
    session: Session,
    parameters: dict[str, Any],
    options: Options,
    proxy: str | None,
    actor: Actor,
) -> AuthOperation:
    """Begins to put new credentials into a session.

    Raises `InvalidInput`, `Conflict` while it is being made or updated, `AuthSessionInUse` while a run has it to itself.
    """
    preferred = session.connection.auth_type if session.connection else ""
    by_person = preferred in flows.PROVIDER_SCHEMES
    fields = Fields("") if by_person else read_fields(project, parameters, "parameters", preferred)
    with transaction.atomic():
        row = AuthSession.objects.select_for_update().get(pk=_row_of(project, session).pk)
        if _is_open(row):
            raise errors.Conflict(f"The auth session {session.name} is being made or updated.",
                                  remediation="Wait until that operation has ended.")  # fmt: skip
        if row.held_by:
            raise errors.AuthSessionInUse
        return _begin(AuthOperation.Kind.UPDATE, project, session.name, row, fields, options, proxy, actor)


def start_validate(
    project: Project, session: Session, options: Options, proxy: str | None, actor: Actor
) -> AuthOperation:
    with transaction.atomic():
        row = _row_of(project, session)
        return _begin(AuthOperation.Kind.VALIDATE, project, session.name, row, None, options, proxy, actor)


def _row_of(project: Project, session: Session) -> AuthSession:
    """The session's row, made where its connection was made elsewhere."""
    if session.row is not None:
        return session.row
    slug, made = required_toolkit(project), {"connection": session.connection}
    return AuthSession.objects.get_or_create(project=project, toolkit=slug, name=session.name, defaults=made)[0]


def _begin(
    kind: AuthOperation.Kind,
    project: Project,
    name: str,
    row: AuthSession,
    fields: Fields | None,
    options: Options,
    proxy: str | None,
    actor: Actor,
) -> AuthOperation:
    operation = AuthOperation(
        project=project, session=row, name=name, kind=kind, options=options, started_by=actor.name[:320]
    )
    inputs: dict[str, Any] = {"proxy": proxy} if proxy else {}
    if fields is not None:
        inputs |= {"type": fields.type, "values": fields.values, "variables": fields.variables}
    if inputs:
        operation.seal("inputs", inputs)
    operation.save(force_insert=True)
    record(actor, f"auth_session.{kind.value}", name[:200], project=project, toolkit=row.toolkit)
    _hint(operation.pk)
    return operation


def _hint(operation_id: str) -> None:
    transaction.on_commit(partial(broker.hand, TASK, [operation_id], queue=QUEUE))


# -- Reading ---------------------------------------------------------------------------------------------------------
def find_operation(
    project: Project, kind: str, operation_id: str, name: str | None = None, user_id: str | None = None
) -> AuthOperation:
    """Raises `NotFound`; with a name also where the operation is another session's."""
    rows = AuthOperation.objects.filter(project=project, kind=kind, pk=operation_id)
    if name is not None:
        rows = rows.filter(name=name)
    usable = operation_id.isprintable() and (name is None or name.isprintable())
    found = rows.select_related("session__connection__end_user").first() if usable else None
    if found is None or (user_id is not None and _owner_of(found) != user_id):
        raise errors.NotFound("There is no such operation.")
    found.project = project
    return found


def _owner_of(operation: AuthOperation) -> str | None:
    connection = operation.session.connection if operation.session else None
    if connection is None:
        return operation.name
    return connection.end_user.external_id if connection.end_user else None


def error_of(operation: AuthOperation) -> dict[str, Any]:
    """A failed operation's error. The link to connect by is made as it is asked for: no copy of it is kept."""
    error = dict(operation.error or INTERNAL)
    if error.pop("byPerson", False) and operation.session is not None:
        url = connect_url(operation.session)
        error |= {"message": BY_PERSON.format(url=url), "details": {"connectUrl": url}}
    return error


# -- Working ---------------------------------------------------------------------------------------------------------
def carry(operation_id: str) -> None:
    """Does what an operation is for, unless it has ended or somebody is at it. Never raises for what fails outside."""
    work = _claim(operation_id)
    if work is None:
        return
    try:
        DO[AuthOperation.Kind(work.operation.kind)](work)
    except Lost:
        log.info("auth operation %s was cancelled, or is somebody else's", operation_id)
    except AuthFailed as failed:
        work.fail(failed.as_error())
    except Failure as failure:
        kind = work.operation.kind
        code = "auth-check-failed" if kind == AuthOperation.Kind.VALIDATE else "create-attempts-failed"
        work.fail({"message": failure.text, "code": code, "category": "auth", "retirable": False})
    except Exception:
        log.exception("auth operation %s stumbled", operation_id)
        work.fail(INTERNAL)


class _Work:
    """An operation under a lease: the very moment at which it runs out is its token."""

    def __init__(self, operation: AuthOperation, lease_until: datetime) -> None:
        self.operation = operation
        self.project = operation.project
        self.actor = Actor(operation.started_by)
        self.lease_until = lease_until
        self.inputs: dict[str, Any] = (operation.unseal("inputs") or {}) if operation.inputs else {}
        options = operation.options
        self.patience = Patience(
            check_attempts=options["checkAttempts"],
            create_attempts=options["createAttempts"],
            auto_recreate=options.get("autoRecreate", False),
            seconds=options.get("requestTimeout", SECONDS),
            proxy=self.inputs.get("proxy"),
            alive=self.renew,
        )

    @property
    def mine(self) -> Any:
        status = AuthOperation.Status.IN_PROGRESS
        return AuthOperation.objects.filter(pk=self.operation.pk, status=status, lease_until=self.lease_until)

    @property
    def fields(self) -> Fields:
        return Fields(self.inputs["type"], self.inputs["values"], self.inputs["variables"])

    def integration(self) -> Integration:
        """Raises `Lost` where the session is gone, `ToolkitNotEnabled`."""
        if self.operation.session is None:
            raise Lost
        return enabled_integration(self.project, self.operation.session.toolkit)

    def connection(self) -> Connection | None:
        """The session's, whatever the project's setting says meanwhile. Raises `Lost` where the session is gone."""
        rows = AuthSession.objects.select_related("connection__integration", "connection__end_user")
        row = rows.filter(pk=self.operation.session_id).first()
        if row is None:
            raise Lost
        if row.connection is not None:
            row.connection.project = row.connection.integration.project = self.project
        return row.connection

    def renew(self) -> None:
        """Raises `Lost`."""
        later = timezone.now() + LEASE
        if not self.mine.update(lease_until=later):
            raise Lost
        self.lease_until = later

    def end(self, status: AuthOperation.Status, error: dict[str, Any] | None = None) -> None:
        """To be called in the transaction that stores what the operation brought. Raises `Lost`."""
        now = timezone.now()
        if not self.mine.update(status=status, error=error, inputs="", lease_until=None, ended_at=now):
            raise Lost

    def fail(self, error: dict[str, Any]) -> None:
        """A session that was to be made is gone, so that its id is free; one that waits for its person stays."""
        try:
            with transaction.atomic():
                self.end(AuthOperation.Status.FAILED, error)
                if self.operation.kind == AuthOperation.Kind.CREATE and not error.get("byPerson"):
                    AuthOperation.objects.filter(session=self.operation.session_id).update(session=None)
                    AuthSession.objects.filter(pk=self.operation.session_id, connection=None).delete()
        except Lost:
            log.info("auth operation %s was cancelled, or is somebody else's", self.operation.pk)

    def done(self) -> None:
        self.end(AuthOperation.Status.DONE)


def _free(now: datetime) -> Q:
    return Q(lease_until=None) | Q(lease_until__lt=now) | Q(lease_until__gt=now + 2 * LEASE)


def _claim(operation_id: str) -> _Work | None:
    now = timezone.now()
    rows = AuthOperation.objects.filter(pk=operation_id, status__in=OPEN).filter(_free(now))
    operation = rows.select_related("project__workspace__plan", "session").first()
    if operation is None:
        return None
    until = now + LEASE
    claims = int(operation.options.get("claims", 0)) + 1
    options = {**operation.options, "claims": claims}
    same = rows.filter(lease_until=operation.lease_until)
    if not same.update(status=AuthOperation.Status.IN_PROGRESS, lease_until=until, options=options):
        return None
    work = _Work(operation, until)
    if claims > MOST_CLAIMS:
        log.error("auth operation %s is given up: workers die of it", operation_id)
        work.fail(INTERNAL)
        return None
    return work


class _ByPerson(AuthFailed):
    """Only a person can connect this account."""

    def __init__(self) -> None:
        super().__init__("create-attempts-failed", "A person connects this account.")

    def as_error(self) -> dict[str, Any]:
        return {**super().as_error(), "byPerson": True}


def _create(work: _Work) -> None:
    _make(work, _proven(work))


def _update(work: _Work) -> None:
    grant = _proven(work)
    connection = work.connection()
    if connection is None:
        _make(work, grant)
        return
    with transaction.atomic():
        work.done()
        replace_credentials(connection, grant, work.fields.type, work.actor)


def _proven(work: _Work) -> Grant:
    """What the service gives for the fields, checked once more. Raises `AuthFailed`."""
    fields, patience = work.fields, work.patience
    if fields.is_recorder:
        raise _ByPerson
    integration = work.integration()
    grant = patience.tries(patience.create_attempts, lambda: granted(integration, fields), "create-attempts-failed")
    made = transient(integration, fields.type, grant)
    after = "post-create-check-attempts-failed"
    try:
        patience.tries(patience.check_attempts, lambda: check_once(made), after)
    except AuthFailed as failed:
        raise AuthFailed(after, failed.message, retirable=failed.retirable, details=failed.details) from None
    return grant


def _make(work: _Work, grant: Grant) -> None:
    """Stores the account, of the end user whose id is the session's. Raises `AuthFailed`."""
    flow = ConnectSession(
        project=work.project,
        integration=work.integration(),
        connection_id=ids.connection_id(),
        auth_type=work.fields.type,
        scopes=[],
    )
    with transaction.atomic():
        work.done()
        flow.end_user = end_user(work.project, work.operation.name)
        if Connection.objects.filter(integration=flow.integration, end_user=flow.end_user).exists():
            raise AuthFailed("create-attempts-failed", "An account was connected under this id meanwhile.")
        connection = store(flow, grant, work.actor)
        AuthSession.objects.filter(pk=work.operation.session_id).update(connection=connection)


def _validate(work: _Work) -> None:
    connection = work.connection()
    if connection is None:
        raise _ByPerson
    ensure(connection, work.patience)
    work.done()


DO: dict[AuthOperation.Kind, Callable[[_Work], None]] = {
    AuthOperation.Kind.CREATE: _create,
    AuthOperation.Kind.UPDATE: _update,
    AuthOperation.Kind.VALIDATE: _validate,
}


# -- Upkeep ----------------------------------------------------------------------------------------------------------
def sweep() -> int:
    """Hints at operations that nobody works on: their hint was lost, or their worker died. Gives how many."""
    now = timezone.now()
    left = AuthOperation.objects.filter(status__in=OPEN, created_at__lt=now - HINTED).filter(_free(now))
    found = list(left.order_by("created_at").values_list("pk", flat=True)[:SWEPT])
    if found:
        broker.hand(TASK, found, queue=QUEUE, expires=30.0)
    return len(found)


def forget_old() -> int:
    """Deletes operations a week after they began; gives how many."""
    rows = AuthOperation.objects.filter(created_at__lt=timezone.now() - KEPT).exclude(status__in=OPEN)
    return rows.delete()[0]
