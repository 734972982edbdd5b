"""Runs with an auth session: which one a run has, the check before its first attempt, and the account its tools use.

Credentials that came with the start (``runtimeInput``) are never a connection: they are sealed on the run, used from there,
and emptied at its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.db.models import Exists, OuterRef
from django.utils import timezone

from apps.connections import auth_sessions
from apps.connections.auth_sessions import ATTEMPTS, MOST_ATTEMPTS, AuthFailed, Patience, Session
from apps.connections.grants import Grant
from apps.connections.integrations import enabled_integration
from apps.connections.models import AuthSession, Connection
from apps.lib import errors, http
from apps.lib.errors import BadRequest, InvalidInput
from apps.lib.redact import secret_values
from apps.workspaces.models import Project

from . import leases
from .engine import StepError
from .models import JobRun, Run

SECONDS = 600  # that the check may take where nothing else is said
LONGEST = 86_400
SWEPT_AFTER = timedelta(seconds=30)  # that a session is held by what may not be committed yet
STALE = timedelta(seconds=30)  # before its end from which a token that came with a run is got anew
REQUIRED = "Every run of this project needs one: {id} of an auth session, or runtimeInput."
OFF = "Auth sessions are not switched on for this project."


# -- Choosing --------------------------------------------------------------------------------------------------------
def options_for(
    project: Project,
    user_id: str | None,
    auth_session: dict[str, Any] | None,
    *,
    bound: str | None = None,
    place: str = "authSession",
) -> tuple[str | None, dict[str, Any]]:
    """What a start's (a job's) ``authSession`` comes to: the run's end user, and members of `starting.Options`.

    ``user_id`` is whom the call names, if anybody: else the session's owner is the run's end user. ``bound`` is the end user
    to whom the caller's key or token is tied. Raises `InvalidInput` by the names of the Runs API (``place`` is where the
    object stands), `AuthSessionNotFound`. Whether another run has an exclusive session to itself is told by
    `starting.start`, which takes it: it raises `AuthSessionInUse`.
    """
    slug = auth_sessions.toolkit_of(project)
    if auth_session is None:
        if slug is not None:
            raise InvalidInput({place: [REQUIRED]})
        return user_id, {}
    if slug is None:
        owner = _owner(project, auth_session, bound, place)
        return (owner if user_id is None else user_id), {}
    options = _options(auth_session, place)
    proxy = _proxy(auth_session, place)
    if auth_session.get("runtimeInput") is not None:
        return user_id, _runtime(project, auth_session["runtimeInput"], options, proxy, f"{place}.runtimeInput")
    session = _session(project, auth_session, bound, place)
    found = of_session(session, options)
    if proxy:
        found["runtime_auth"] = {"proxy": proxy}
    return (session.user_id if user_id is None else user_id), found


def of_session(session: Session, options: dict[str, Any]) -> dict[str, Any]:
    """Members of `starting.Options` for an auth session that was found."""
    assert session.connection is not None
    about = {"id": session.name, "toolkit": session.connection.toolkit, "connection": session.connection.pk}
    return {"auth_session": session.name, "auth_options": {**about, **options}}


def for_other_surfaces(project: Project, user_id: str | None) -> dict[str, Any]:
    """The same for a run that nobody could name a session for (a form, a hook, the admin): the end user's only one.

    Raises `BadRequest` where there is none, or a choice.
    """
    found = auth_sessions.of_user(project, user_id)
    if len(found) == 1:
        return of_session(found[0], _options({}, ""))
    whom = f"the end user {user_id}" if user_id is not None else "no end user"
    raise BadRequest(
        f"Every run of this project needs an auth session, and for {whom} there is {'a choice' if found else 'none'}.",
        remediation="Start the run for an end user who has exactly one auth session, or over the Runs API with authSession.",
    )


def _owner(project: Project, given: dict[str, Any], bound: str | None, place: str) -> str | None:
    """Without auth sessions, a connection's owner: the end user whose account it is; None where it is shared."""
    if given.get("runtimeInput") is not None:
        raise InvalidInput({f"{place}.runtimeInput": [OFF]})
    name = _id(given, place)
    row = Connection.objects.filter(project=project, pk=name).select_related("end_user").first()
    owner = row.end_user.external_id if row and row.end_user else None
    if row is None or (owner is not None and bound not in {None, owner}):
        raise InvalidInput({f"{place}.id": ["There is no such connection."]})
    return owner


def _id(given: dict[str, Any], place: str) -> str:
    name = given.get("id")
    if not isinstance(name, str) or not 1 <= len(name) <= 255 or not name.isprintable():
        raise InvalidInput({f"{place}.id": ["Must be the id of an auth session, or of a connection: ca_…"]})
    return name


def _session(project: Project, given: dict[str, Any], bound: str | None, place: str) -> Session:
    session = auth_sessions.find(project, _id(given, place), bound)
    if session.connection is None:
        raise InvalidInput({f"{place}.id": ["This auth session is not ready: its account is not connected yet."]})
    return session


def _options(given: dict[str, Any], place: str) -> dict[str, Any]:
    """How the session is to be checked; null is as good as absent."""
    faults: dict[str, list[str]] = {}
    found: dict[str, Any] = {}
    for name, default, most in (
        ("checkAttempts", ATTEMPTS, MOST_ATTEMPTS),
        ("createAttempts", ATTEMPTS, MOST_ATTEMPTS),
        ("requestTimeout", SECONDS, LONGEST),
    ):
        value = given.get(name)
        found[name] = default if value is None else value
        if not isinstance(found[name], int) or isinstance(found[name], bool) or not 1 <= found[name] <= most:
            faults[f"{place}.{name}"] = [f"Must be a whole number between 1 and {most}."]
    recreate = given.get("autoRecreate")
    found["autoRecreate"] = True if recreate is None else recreate
    if not isinstance(found["autoRecreate"], bool):
        faults[f"{place}.autoRecreate"] = ["Must be true or false."]
    if faults:
        raise InvalidInput(faults)
    return found


def _proxy(given: dict[str, Any], place: str) -> str | None:
    proxy = given.get("proxy")
    if proxy is None:
        return None
    wrong = http.check_proxy(proxy) if isinstance(proxy, str) else "Must be a URL."
    if wrong:
        raise InvalidInput({f"{place}.proxy": [wrong]})
    return str(proxy)


def _runtime(project: Project, given: Any, options: dict[str, Any], proxy: str | None, place: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InvalidInput({place: ["Must be a JSON object."]})
    fields = auth_sessions.read_fields(project, given, place)
    if fields.is_recorder:
        raise InvalidInput(
            {place: ["Accounts of this toolkit are connected by a person: name an auth session by its id."]}
        )
    slug = auth_sessions.toolkit_of(project)
    sealed = {"toolkit": slug, "type": fields.type, "credentials": fields.values, "variables": fields.variables}
    return {
        "auth_options": {"toolkit": slug, "runtime": True, **options},
        "runtime_auth": sealed | ({"proxy": proxy} if proxy else {}),
    }


# -- At the start ----------------------------------------------------------------------------------------------------
def is_needed(project: Project) -> bool:
    return auth_sessions.toolkit_of(project) is not None


def inherited(parent: Run) -> dict[str, Any]:
    """Members of `starting.Options` for a run that another one starts: it acts with the same account, already checked."""
    runtime = parent.unseal("runtime_auth") if parent.runtime_auth else None
    return {"auth_session": parent.auth_session, "auth_options": parent.auth_options, "runtime_auth": runtime}


def take(run: Run, project: Project) -> None:
    """Has an exclusive session for the run alone; in the transaction that makes it. Raises `AuthSessionInUse`."""
    if not run.auth_session or run.parent_id is not None:
        return
    options = run.auth_options or {}
    slug = str(options["toolkit"])
    if auth_sessions.is_exclusive(project, slug):
        auth_sessions.hold(project, slug, run.auth_session, str(options["connection"]), run.pk, timezone.now())


def require_free(project: Project, found: dict[str, Any]) -> None:
    """Tells before a start is counted what `take` would. ``found`` is of `options_for`. Raises `AuthSessionInUse`."""
    name, slug = found.get("auth_session"), (found.get("auth_options") or {}).get("toolkit", "")
    if not name or not auth_sessions.is_exclusive(project, slug):
        return
    if AuthSession.objects.filter(project=project, toolkit=slug, name=name).exclude(held_by="").exists():
        raise errors.AuthSessionInUse


def take_again(run: Run) -> dict[str, Any]:
    """For one more attempt of a run that had ended: takes its session anew, and has it checked anew.

    Gives what is to be changed of the row. Raises `AuthSessionInUse`; `Conflict` where the credentials came with the run:
    they were emptied at its end.
    """
    if not run.auth_options:
        return {}
    if run.auth_options.get("runtime"):
        raise errors.Conflict(
            "The credentials that came with this run were emptied at its end.",
            remediation="Start it anew with authSession.runtimeInput.",
        )
    take(run, run.project)
    return {"auth_options": {name: value for name, value in run.auth_options.items() if name != "checked"}}


def sweep() -> int:
    """Frees exclusive sessions whose run (or job run) has ended, or never was. Gives how many."""
    living = Run.objects.living().filter(pk=OuterRef("held_by"))
    jobs = JobRun.objects.filter(pk=OuterRef("held_by"), status__in=JobRun.LIVING)
    held = AuthSession.objects.filter(held_at__lt=timezone.now() - SWEPT_AFTER)
    return held.filter(~Exists(living), ~Exists(jobs)).update(held_by="", held_at=None)


# -- Before the first attempt ----------------------------------------------------------------------------------------
def is_due(run: Run) -> bool:
    """Whether the run's auth session is still to be checked."""
    return bool(run.auth_options) and not (run.auth_options or {}).get("checked")


def check(run: Run, seconds: float, alive: Callable[[], None]) -> StepError | None:
    """Checks the run's account within ``seconds``, and renews it where that fails; None where it works.

    ``alive`` is called before each try of asking the service, and may raise. Once an account works the run says so, so that
    whoever takes the run up after a crash does not check again; that write raises what `alive` does where the lease is lost.
    """
    options = run.auth_options or {}
    sealed: dict[str, Any] = (run.unseal("runtime_auth") or {}) if run.runtime_auth else {}
    patience = Patience(
        check_attempts=options["checkAttempts"],
        create_attempts=options["createAttempts"],
        auto_recreate=options["autoRecreate"],
        seconds=min(seconds, options["requestTimeout"]),
        proxy=sealed.get("proxy") or run.unseal("proxy"),
        alive=alive,
    )
    changes: dict[str, Any] = {}
    try:
        if options.get("runtime"):
            sealed |= _created(run, sealed, patience)
            changes["runtime_auth"] = run.sealed("runtime_auth", sealed)
        else:
            auth_sessions.ensure(_stored(run), patience)
    except AuthFailed as failed:
        return _as_step_error(failed)
    except errors.Failure as failure:
        return StepError(failure.text, type="auth", code="auth-check-failed", final=True)
    changes["auth_options"] = {**options, "checked": timezone.now().isoformat()}
    if not leases.mine(run).update(**changes):
        alive()
    for name, value in changes.items():
        setattr(run, name, value)
    return None


def _as_step_error(failed: AuthFailed) -> StepError:
    return StepError(failed.message, type="auth", code=failed.code, final=not failed.retirable, details=failed.details)


def _stored(run: Run) -> Connection:
    """The connection of the run's auth session. Raises `AuthSessionNotFound` where it is gone."""
    options = run.auth_options or {}
    rows = Connection.objects.filter(project=run.project_id, pk=options.get("connection"))
    connection = rows.select_related("integration", "end_user").first()
    if connection is None:
        raise errors.AuthSessionNotFound(f"The auth session {run.auth_session} is gone.")
    connection.project = connection.integration.project = run.project
    return connection


# -- Credentials that came with the run ------------------------------------------------------------------------------
def _created(run: Run, sealed: dict[str, Any], patience: Patience) -> dict[str, Any]:
    """What the service gives for them. Raises `AuthFailed`, `ToolkitNotEnabled`."""
    integration = enabled_integration(run.project, sealed["toolkit"])
    fields = auth_sessions.Fields(sealed["type"], sealed["credentials"], sealed["variables"])
    grant = patience.tries(
        patience.create_attempts, lambda: auth_sessions.granted(integration, fields), "create-attempts-failed"
    )
    ends = grant.expires_at.isoformat() if grant.expires_at else None
    return {"granted": grant.credentials, "granted_variables": grant.variables, "ends": ends}


def _transient(run: Run) -> Connection:
    """An account that is nowhere stored, for one step of the run. A token that has aged is got anew."""
    sealed: dict[str, Any] = run.unseal("runtime_auth") or {}
    if "granted" not in sealed:
        raise errors.NotConnected("The credentials that came with this run are gone.")
    if sealed["ends"] and datetime.fromisoformat(sealed["ends"]) <= timezone.now() + STALE:
        sealed |= _renewed(run, sealed)
    integration = enabled_integration(run.project, sealed["toolkit"])
    grant = Grant(sealed["granted"], variables=sealed["granted_variables"])
    return auth_sessions.transient(integration, sealed["type"], grant)


def _renewed(run: Run, sealed: dict[str, Any]) -> dict[str, Any]:
    """For this step alone: the next one renews for itself, which costs one call and no lock."""
    left = http.bounds().deadline
    seconds = 40.0 if left is None else max(0.1, left - time.monotonic())
    try:
        return _created(run, sealed, Patience(create_attempts=1, seconds=seconds))
    except AuthFailed as failed:
        raise errors.ConnectionExpired(failed.message) from None


# -- While it runs ---------------------------------------------------------------------------------------------------
def account_of(run: Run) -> Callable[[str], Connection | None] | None:
    """For a run with an auth session: what gives the account that a toolkit's tools use; None for other toolkits.

    What it gives raises `NotConnected` where the account is gone.
    """
    options = run.auth_options
    if not options:
        return None

    def account(slug: str) -> Connection | None:
        if slug != options["toolkit"]:
            return None
        if options.get("runtime"):
            return _transient(run)
        try:
            return _stored(run)
        except errors.AuthSessionNotFound as error:
            raise errors.NotConnected(error.text) from None

    return account


def secrets_of(run: Run) -> list[str]:
    """Texts of the credentials that came with the run, to be masked wherever they turn up."""
    if not run.runtime_auth:
        return []
    sealed: dict[str, Any] = run.unseal("runtime_auth") or {}
    given = [sealed.get("credentials"), sealed.get("granted")]
    proxy = sealed.get("proxy")
    parts = [proxy, urlsplit(proxy).password] if proxy else []
    return [*secret_values(given), *(part for part in parts if part)]
