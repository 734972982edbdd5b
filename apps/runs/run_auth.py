"""Runs with an auth session: which one a run has, the check before its first attempt, and the account its tools use.

Credentials that came with the start (``runtimeInput``) are never a connection: they are sealed on the run, used from there,
and emptied at its end.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from apps.connections import auth_sessions
from apps.connections.auth_sessions import ATTEMPTS, MOST_ATTEMPTS, Session
from apps.connections.models import Connection
from apps.lib import http
from apps.lib.errors import BadRequest, InvalidInput
from apps.workspaces.models import Project

SECONDS = 600  # that the check may take where nothing else is said
LONGEST = 86_400
SWEPT_AFTER = timedelta(seconds=30)  # that a session is held by what may not be committed yet
SWEPT = 500  # sessions at a time
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
        raise InvalidInput({place: ["Accounts of this toolkit are connected by a person: name an auth session by its id."]})
    slug = auth_sessions.toolkit_of(project)
    sealed = {"toolkit": slug, "type": fields.type, "credentials": fields.values, "variables": fields.variables}
    return {
        "auth_options": {"toolkit": slug, "runtime": True, **options},
        "runtime_auth": sealed | ({"proxy": proxy} if proxy else {}),
    }
