"""One call of a person's account at a service: what every surface that executes has in common.

A surface finds the connection, builds a `Request` and hands both to a `Call`, which asks the gates in their order (the
plan's quota, its calls at the same time, the provider's own limits, whether its host answers), puts fresh credentials into
the request, sends it, and writes the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from django.db.models import QuerySet
from django.utils import timezone

from apps.connections import access, pace
from apps.connections.models import Connection, Integration
from apps.connections.refresh import fresh_credentials, is_refreshable
from apps.connections.upstream import failed_by_rule, send
from apps.lib import breaker, errors, http
from apps.lib.api import MAX_DEPTH, is_deeper_than, request_id
from apps.lib.db import Prepared
from apps.lib.errors import Failure
from apps.lib.redact import clip, redact, redact_json_text, redact_text
from apps.toolkits.request import Request
from apps.toolkits.spec import Toolkit
from apps.workspaces import quota
from apps.workspaces.callers import Caller

from .journal import journal
from .models import Execution

log = logging.getLogger(__name__)
Answered = TypeVar("Answered")

LOGGED_CHARACTERS = 20_000
TEXT_TYPES = (
    "text/",
    "application/xml",
    "application/javascript",
    "application/x-www-form-urlencoded",
    "image/svg+xml",
)
# Answers of the network, not of the service: they count against its host.
UNANSWERED = (
    errors.AddressRefused, errors.AnswerTooLarge, errors.CircuitOpen, errors.ProxyFailed, errors.RefreshUnavailable,
)  # fmt: skip


# -- Whose account ---------------------------------------------------------------------------------------------------
def _own(project_id: str, slug: str, user_id: str) -> QuerySet[Connection]:
    rows = Connection.objects.filter(
        project_id=project_id, toolkit=slug, end_user__external_id=user_id, integration__is_primary=True
    )
    return rows.select_related("integration").order_by("-is_primary", "-connected_at")


USERS_OWN = Prepared(_own, 3)
NAMED = Prepared(lambda project_id, slug, user_id, pk: _own(project_id, slug, user_id).filter(pk=pk), 4)


def find_connection(
    caller: Caller, slug: str, user_id: str | None, connection_id: str | None = None
) -> Connection | None:
    """The connection that a call uses, with its integration joined: one SELECT. None where there is none.

    A call for nobody uses the integration's shared connection; a call for a user only that user's. A toolkit that was
    switched off goes on working for accounts that are connected.
    """
    if user_id is None:
        shared = Connection.objects.filter(
            project=caller.project, toolkit=slug, end_user=None, integration__is_primary=True
        )
        shared = shared.filter(pk=connection_id) if connection_id else shared.filter(is_primary=True)
        connection = shared.select_related("integration").first()
    elif connection_id:
        connection = NAMED.first(caller.project.pk, slug, user_id, connection_id)
    else:
        connection = USERS_OWN.first(caller.project.pk, slug, user_id)
    return with_project(connection, caller)


def with_project(connection: Connection | None, caller: Caller) -> Connection | None:
    """The caller's project set where it would else be read again."""
    if connection is not None:
        connection.project = caller.project
        connection.integration.project = caller.project
    return connection


def require_enabled(caller: Caller, slug: str) -> None:
    """Raises `ToolkitNotEnabled`."""
    if not Integration.objects.filter(project=caller.project, toolkit=slug).primary().enabled().exists():
        raise errors.ToolkitNotEnabled(f"The toolkit {slug} is not enabled for this project.")


def check_usable(connection: Connection) -> None:
    """Raises `NotConnected` for one that waits for the integrator's word."""
    if connection.status == Connection.Status.INACTIVE:
        raise errors.NotConnected(
            "The connection waits for confirmation.",
            remediation=f"Confirm it: POST /v1/{{appId}}/integrations/connections/{connection.pk}/confirm.",
        )


def scheme_of(connection: Connection, toolkit: Toolkit) -> Any:
    """Raises `NotConnected` where the toolkit's file no longer has the scheme."""
    try:
        return access.scheme_for(connection, toolkit)
    except LookupError as error:
        raise errors.NotConnected(f"The account must be connected anew: {error}.") from None


# -- The call --------------------------------------------------------------------------------------------------------
class Call:
    """A call under way. As a context manager it ends, and is logged, at the end of the block, whatever happened there.

    Where the answer is still flowing by then (`apps.runs.proxy`), ``end`` is called instead. ``params`` is what the log
    keeps as the request.
    """

    def __init__(
        self, caller: Caller, surface: str, *, name: str, user_id: str | None = None, params: Any = None
    ) -> None:
        self.caller = caller
        self.surface = surface
        self.name = name
        self.user_id = user_id
        self.params = params
        self.toolkit = ""
        self.connection: Connection | None = None
        # Gives the account to be used at a toolkit; None where that is looked for by the user.
        self.account: Callable[[str], Connection | None] | None = None
        self.integration_id = ""
        self.request: Request | None = None
        self.answer: http.Answer | None = None
        self.status: int | None = None
        self.tries = 0
        self.error: Failure | None = None
        self.secrets: list[str] = []
        self._slot: Any = None
        self._ended = False
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.end()
        else:
            self.end(error if isinstance(error, Failure) else errors.Internal())

    def use(self, connection: Connection) -> None:
        """Raises `NotConnected` where the account may not be used."""
        self.connection = connection
        self.integration_id = connection.integration_id
        check_usable(connection)

    def admit(self) -> None:
        """Asks the plan. Raises `RateLimited`, `QuotaExceeded`."""
        self._slot = quota.take_slot(self.caller)  # first: a call that finds no slot is not counted
        quota.take_call(self.caller)

    def send(self, toolkit: Toolkit, scheme: Any, request: Request) -> http.Answer:
        """Sends with fresh credentials. A 401 forces one refresh of exactly the token that failed, then one retry.

        Raises `ConnectionExpired`, `RefreshUnavailable`, `ProviderLimited`, `Unreachable`.
        """
        self.request = request
        self.answer = answer = self.authorized(
            toolkit,
            scheme,
            lambda credentials: self._send(toolkit, scheme, request, credentials),
            lambda answer: self.status_of(toolkit, answer) == 401,
        )
        return answer

    def authorized(
        self,
        toolkit: Toolkit,
        scheme: Any,
        attempt: Callable[[dict[str, Any]], Answered],
        is_refused: Callable[[Answered], bool],
    ) -> Answered:
        """Makes the attempt with fresh credentials; once more, with newer ones, where the first were refused."""
        connection = self.connection
        assert connection is not None, "use() comes first"
        credentials = fresh_credentials(connection)
        self.secrets = [*self.secrets, *access.secrets_of(scheme, credentials)]
        version = connection.version
        answer = attempt(credentials)
        if not is_refused(answer) or not is_refreshable(connection, credentials):
            return answer
        credentials = fresh_credentials(connection, failed_version=version)
        self.secrets += access.secrets_of(scheme, credentials)
        return attempt(credentials)

    def _send(self, toolkit: Toolkit, scheme: Any, request: Request, credentials: dict[str, Any]) -> http.Answer:
        self.before(toolkit, request.url)
        try:
            answer = send(access.authorize(request, scheme, credentials), scheme)
        except BaseException as error:
            self.unanswered(request.url, error)
            raise
        self.answered(toolkit, request.url, self.status_of(toolkit, answer), answer.headers, answer.tries)
        return answer

    # What a call of another kind (a stream) asks before and tells after each request.
    def before(self, toolkit: Toolkit, url: str) -> None:
        """Raises `ProviderLimited` before the provider's own wall, `CircuitOpen` while its host does not answer."""
        assert self.connection is not None
        pace.before(self.connection.pk, toolkit, self.name)
        try:
            breaker.before(self._host(url))
        except errors.CircuitOpen:
            pace.ended(self.connection.pk, self.name)
            raise

    def answered(self, toolkit: Toolkit, url: str, status: int, headers: list[tuple[str, str]], tries: int) -> None:
        assert self.connection is not None
        self.tries += tries
        breaker.succeeded(self._host(url))
        pace.learn(self.connection.pk, toolkit, status, headers, self.name)

    def unanswered(self, url: str, error: BaseException) -> None:
        """A network's failure counts against the host; a failure of ours only ends the probe that this may have been."""
        assert self.connection is not None
        self.tries += getattr(error, "tries", 0)
        pace.ended(self.connection.pk, self.name)
        if isinstance(error, errors.Unreachable) and not isinstance(error, UNANSWERED):
            breaker.failed(self._host(url))
        else:
            breaker.abandoned(self._host(url))

    def _host(self, url: str) -> str:
        """Of one tenant: none can close a host for another."""
        parts = urlsplit(url)
        return f"{self.caller.project.pk} {parts.scheme}://{parts.netloc}"

    @staticmethod
    def status_of(toolkit: Toolkit, answer: http.Answer) -> int:
        """The answer's status; for services that answer 200 to say no, the one that their file's failure rule gives."""
        if toolkit.failure is None or answer.status >= 400:
            return answer.status
        return failed_by_rule(toolkit, answer, http.json_or_none(answer)) or answer.status

    # -- The log -----------------------------------------------------------------------------------------------------
    def end(self, error: Failure | None = None, *, response: str | None = None) -> None:
        """Writes the log and gives back what the call held. Only the first end counts.

        ``response`` is logged in place of the answer's body.
        """
        if self._ended:
            return
        self._ended = True
        if self._slot is not None:
            self._slot.release()
        error = error or self.error
        request, answer = self.request, self.answer
        status = self.status if self.status is not None else answer.status if answer else None
        if response is None:
            response = logged_answer(answer, self.secrets) if answer else ""
        row = Execution(
            project=self.caller.project,
            surface=self.surface,
            caller=self.caller.actor.name[:320],
            user_id=(self.user_id or "").replace("\x00", "")[:255],
            connection_id=self.connection.pk if self.connection else "",
            integration_id=self.integration_id,
            toolkit=self.toolkit,
            tool=self.name.replace("\x00", "")[:200],
            successful=error is None,
            status=status,
            error=error.code if error else "",
            message=clip(redact_text(error.text, self.secrets), 450) if error else "",
            method=request.method if request else "",
            url=clip(redact_text(request.url, self.secrets), 1900) if request else "",
            request=clip(redact(self.params, self.secrets), LOGGED_CHARACTERS),
            response=response,
            duration_ms=int((time.monotonic() - self._started) * 1000),
            upstream_ms=int(answer.seconds * 1000) if answer else 0,
            tries=self.tries,
            request_id=request_id(),
            created_at=timezone.now(),
        )
        journal.add(row)


def logged_answer(answer: http.Answer, secrets: list[str]) -> str:
    kind = answer.content_type
    if "json" in kind and len(answer.body) <= 4 * LOGGED_CHARACTERS:
        data = http.json_or_none(answer)
        if data is not None and not is_deeper_than(data, MAX_DEPTH):
            return clip(redact(data, secrets), LOGGED_CHARACTERS)
    if kind and not (kind.startswith(TEXT_TYPES) or "json" in kind or kind.endswith("+xml")):
        return f"({kind}, {len(answer.body)} bytes)"
    return clip(redact_json_text(answer.text[: 4 * LOGGED_CHARACTERS], secrets), LOGGED_CHARACTERS)
