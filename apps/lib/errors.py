"""Everything that can go wrong in a call, as one tree.

A class is a code, an HTTP status and a sentence; each API surface renders it in its own envelope (`apps.lib.api`), in one
place. What failed outside is mapped once, in `apps.lib.http`.

::

    Failure
    ├── BadRequest
    │   ├── InvalidInput            what was sent does not fit
    │   ├── ToolkitNotEnabled
    │   ├── NotConfigured           no OAuth client
    │   ├── NotConnected            this user has no account there
    │   ├── BodyTooLarge
    │   └── MethodNotAllowed
    ├── Unauthenticated
    │   ├── AuthRequired            nothing was sent
    │   ├── InvalidApiKey
    │   ├── InvalidUserToken        an end user's JWT
    │   ├── UserTokenExpired
    │   └── InvalidMemberToken      a member's JWT, e-mail or password
    ├── ConnectionExpired           the person must reconnect
    ├── NotPermitted
    ├── NotFound
    │   └── AuthSessionNotFound
    ├── Conflict
    │   └── AuthSessionInUse        another run has it to itself
    ├── QuotaExceeded               the plan's calls a day
    │   └── PlanLimitReached        the plan's connections, or its keys
    ├── RateLimited                 our calls a minute
    │   └── ProviderLimited         the provider's own limit: not asked, it would refuse
    ├── ExecutionFailed
    │   ├── UnknownTool
    │   ├── ProviderRefused         the provider answered with an error
    │   └── Unreachable             no answer from the provider
    │       ├── TimedOut
    │       ├── AnswerTooLarge
    │       ├── AddressRefused      a private address
    │       ├── ProxyFailed         the proxy that the caller named
    │       ├── RefreshUnavailable  the token could not be refreshed for now
    │       └── CircuitOpen         its host has not answered for a while: not asked
    └── Internal
"""

from __future__ import annotations

from typing import Any, ClassVar


class Failure(Exception):
    """A call that cannot be answered as asked.

    ``details`` is JSON for the caller; ``retry_after`` (seconds) becomes the Retry-After header; ``action_url`` is the page
    on which a person can mend it.
    """

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    message: ClassVar[str] = "Something went wrong on our side."
    remediation: ClassVar[str] = "Try again; if it stays, give the request id to the people who run this installation."

    def __init__(
        self,
        message: str = "",
        *,
        remediation: str = "",
        details: Any = None,
        retry_after: int | None = None,
        action_url: str = "",
    ) -> None:
        self.text = message or self.message
        self.advice = remediation or self.remediation
        self.details = details
        self.retry_after = retry_after
        self.action_url = action_url
        super().__init__(self.text)


class BadRequest(Failure):
    """The call cannot be understood or cannot be carried out as things stand."""

    code = "VALIDATION_INVALID_SCHEMA"
    status = 400
    message = "The request is not valid."
    remediation = "Correct the request and send it again."


class InvalidInput(BadRequest):
    """What was sent does not fit; ``details`` is ``{field: [messages]}``, every fault."""

    message = "Some fields are missing or wrong."
    remediation = "Correct the fields named in details and send the request again."

    def __init__(self, faults: dict[str, list[str]] | None = None, message: str = "", **kwargs: Any) -> None:
        super().__init__(message, details=faults, **kwargs)


class ToolkitNotEnabled(BadRequest):
    """The project has not switched this toolkit on."""

    code = "INTEGRATIONS_TOOLKIT_NOT_ENABLED"
    message = "This toolkit is not enabled for the project."
    remediation = "Enable it: POST /v1/{appId}/integrations/configure, or in the admin."


class NotConfigured(BadRequest):
    """The toolkit is on, but there is no OAuth client to connect with."""

    code = "INTEGRATIONS_NOT_CONFIGURED"
    message = "This toolkit has no OAuth client, neither the project's own nor the platform's."
    remediation = "Give oauthCredentials to POST /v1/{appId}/integrations/configure, or enter them in the admin."


class NotConnected(BadRequest):
    """The user of the call has no account connected at this toolkit."""

    code = "INTEGRATIONS_NOT_CONNECTED"
    message = "The user has no connected account for this toolkit."
    remediation = "Send the user to the authUrl that POST /v1/{appId}/integrations/connect gives."


class BodyTooLarge(BadRequest):
    """The body is larger than this route takes."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413
    message = "The request body is too large."
    remediation = "Send less in one request."


class MethodNotAllowed(BadRequest):
    """The path exists, not with this method."""

    code = "METHOD_NOT_ALLOWED"
    status = 405
    message = "This method is not allowed here."
    remediation = "See the Allow header for the methods of this path."


class Unauthenticated(Failure):
    """Who calls is not known."""

    status = 401
    code = "AUTH_REQUIRED"
    message = "Authentication is required."
    remediation = "Send an API key or a token: Authorization: Bearer …, or X-API-Key."


class AuthRequired(Unauthenticated):
    """Nothing was sent."""


class InvalidApiKey(Unauthenticated):
    """No such key, or revoked, or expired."""

    code = "AUTH_INVALID_API_KEY"
    message = "This API key is not valid."
    remediation = "Use a key that is neither revoked nor expired; an admin can issue one."


class InvalidUserToken(Unauthenticated):
    """An end user's JWT that is malformed, or whose signature, issuer or audience is wrong."""

    code = "AUTH_INVALID_END_USER_JWT"
    message = "This user token is not valid."
    remediation = "Check signature, issuer, audience and user claim against the project's token issuers."


class UserTokenExpired(Unauthenticated):
    """An end user's JWT that is past its expiry."""

    code = "AUTH_END_USER_JWT_EXPIRED"
    message = "This user token has expired."
    remediation = "Get a new token for the user."


class InvalidMemberToken(Unauthenticated):
    """A member's token, or e-mail and password, that is not (or no longer) valid."""

    code = "AUTH_INVALID_TOKEN"
    message = "This token is not valid."
    remediation = "Sign in again: POST /api/auth/login."


class ConnectionExpired(Failure):
    """The provider no longer accepts the connection; only the person can mend it."""

    code = "INTEGRATIONS_CONNECTION_EXPIRED"
    status = 401
    message = "The connected account must be connected again."
    remediation = "Send the user to connect the account again."


class NotPermitted(Failure):
    """The caller is known and may not do this."""

    code = "AUTH_INSUFFICIENT_PERMISSIONS"
    status = 403
    message = "This key or token does not permit this."
    remediation = "Use a key with the scope that the route needs."


class NotFound(Failure):
    """It does not exist, or not for this caller."""

    code = "RESOURCE_NOT_FOUND"
    status = 404
    message = "There is no such resource."
    remediation = "Check the path and the ids in it."


class AuthSessionNotFound(NotFound):
    """The project has no auth session of this id."""

    message = "There is no such auth session."
    remediation = "See GET auth-sessions for the project's auth sessions, or create one."


class Conflict(Failure):
    """It contradicts what is there: an Idempotency-Key used for something else, a name already taken."""

    code = "REQUEST_CONFLICT"
    status = 409
    message = "The request conflicts with an earlier one."
    remediation = "Use a new Idempotency-Key for a new request, or repeat the first one unchanged."


class AuthSessionInUse(Conflict):
    """The toolkit lets one run at a time use an auth session, and another run has this one."""

    code = "AUTH_SESSION_ALREADY_IN_USE"
    message = "Another run has this auth session to itself."
    remediation = "Start the run again once the other one has ended, or with another auth session."


class QuotaExceeded(Failure):
    """The plan's calls a day are used up."""

    code = "INTEGRATIONS_QUOTA_EXCEEDED"
    status = 429
    message = "The plan's limit is reached."
    remediation = "Wait until the limit starts anew, or ask for a larger plan."


class PlanLimitReached(QuotaExceeded):
    """The plan permits no further connection, or no further key."""

    remediation = "Remove what is no longer used, or ask for a larger plan."


class RateLimited(Failure):
    """The plan's calls a minute are used up."""

    code = "QUOTA_RATE_LIMIT"
    status = 429
    message = "Too many calls in this minute."
    remediation = "Wait for the seconds that Retry-After names."


class ProviderLimited(RateLimited):
    """The provider's own limit of this account is (nearly) used up: it is not asked before its window starts anew."""

    message = "The provider's own limit for this account is used up for now."


class ExecutionFailed(Failure):
    """The tool was not carried out."""

    code = "INTEGRATIONS_EXECUTION_FAILED"
    status = 422
    message = "The tool could not be executed."
    remediation = "Check the tool name and parameters. Ensure the user has a connected account."


class UnknownTool(ExecutionFailed):
    """No toolkit of the catalog has a tool of this name."""

    message = "There is no tool of this name."


class ProviderRefused(ExecutionFailed):
    """The provider answered with an error; ``details`` holds its status and body."""

    message = "The provider answered with an error."
    remediation = "See details.status and details.body for what the provider said."


class Unreachable(ExecutionFailed):
    """No answer came from the provider. ``tries``: how often it was asked, where that is known."""

    tries = 0
    status = 502
    message = "The provider could not be reached."
    remediation = "Try again later. Ensure that the provider's address is right."


class TimedOut(Unreachable):
    """The provider did not answer in time."""

    message = "The provider did not answer in time."


class AnswerTooLarge(Unreachable):
    """The provider's answer is larger than is buffered."""

    message = "The provider's answer is larger than 10 MiB."
    remediation = "Ask for less at once, or use the proxy route, which streams."


class AddressRefused(Unreachable):
    """The address is private, loopback, link-local or otherwise not for us to call."""

    message = "This address may not be called from here."
    remediation = "Use a public address, or let the operator add the network to JACKFIELD_EGRESS_ALLOW."


class ProxyFailed(Unreachable):
    """The proxy that the caller named does not do its work; what is behind it was not asked."""

    message = "The proxy could not be used."
    remediation = "Check the proxy's address, user and password, and that it lets this host be called."


class RefreshUnavailable(Unreachable):
    """The token is stale and the provider cannot refresh it for now."""

    message = "The access token could not be refreshed for now."
    remediation = "Try again later; the connection is kept."


class CircuitOpen(Unreachable):
    """The provider's host has failed again and again: it is not asked until it has had time to recover."""

    message = "The provider has not been reachable for a while, so it was not asked."
    remediation = "Try again after the seconds that Retry-After names."


class Internal(Failure):
    """A fault of ours."""
