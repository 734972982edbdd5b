"""The Runs API's auth sessions: listed, read, deleted; created, updated and validated by operations whose result is read later.

Served at both of its prefixes. What is done stands in `apps.connections.auth_sessions` and `apps.connections.auth_operations`.
"""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from rest_framework import serializers

from apps.connections import auth_operations
from apps.connections import auth_sessions as service
from apps.connections.auth_sessions import ATTEMPTS, MOST_ATTEMPTS, Session
from apps.connections.models import AuthOperation
from apps.lib import errors
from apps.lib.api import StrictText, json_answer, no_content
from apps.workspaces.idempotency import idempotent
from apps.workspaces.quota import take_call

from . import auth_sessions_schema as schema
from .runs import LONGEST_URL, ProxyUrl, RunsView, StrictBoolean, StrictInteger
from .serializers import JsonObject

LONGEST_OPERATION = 3600  # seconds
CANCELED = {"type": "cancelled-user-action", "message": "The auth session was deleted."}


# -- Bodies ----------------------------------------------------------------------------------------------------------
class AttemptsBody(serializers.Serializer[Any]):
    """Members that are not known are passed over: published clients send on what they are given."""

    createAttempts = StrictInteger(min_value=1, max_value=MOST_ATTEMPTS, required=False, allow_null=True)
    checkAttempts = StrictInteger(min_value=1, max_value=MOST_ATTEMPTS, required=False, allow_null=True)
    proxy = ProxyUrl(max_length=LONGEST_URL, required=False, allow_null=True)


class UpdateBody(AttemptsBody):
    parameters = JsonObject()
    saveTrace = StrictBoolean(required=False, allow_null=True)


class CreateBody(UpdateBody):
    id = StrictText(max_length=255, trim_whitespace=False, required=False, allow_null=True)


class ValidateBody(AttemptsBody):
    autoRecreate = StrictBoolean(required=False, allow_null=True)
    requestTimeout = StrictInteger(min_value=1, max_value=LONGEST_OPERATION, required=False, allow_null=True)


def options_of(body: dict[str, Any]) -> dict[str, Any]:
    """Null is as good as absent."""
    defaults = {"createAttempts": ATTEMPTS, "checkAttempts": ATTEMPTS, "autoRecreate": True, "requestTimeout": 600}
    return {name: default if body.get(name) is None else body[name] for name, default in defaults.items()}


# -- Answers ---------------------------------------------------------------------------------------------------------
def session_row(session: Session) -> dict[str, str]:
    return {"id": session.name, "type": session.type, "status": session.status}


def result_of(operation: AuthOperation) -> dict[str, Any]:
    """How an operation stands, in the words that the published clients know."""
    found: dict[str, Any] = {"status": operation.status}
    if operation.status == AuthOperation.Status.IN_PROGRESS:
        found["runId"] = operation.pk
    elif operation.status == AuthOperation.Status.DONE:
        found["authSessionId"] = operation.name
    elif operation.status == AuthOperation.Status.FAILED:
        error = auth_operations.error_of(operation)
        found |= {"message": error["message"], "error": error}
    elif operation.status == AuthOperation.Status.CANCELED:
        found |= {"message": CANCELED["message"], "reason": CANCELED}
    return found


# -- Views -----------------------------------------------------------------------------------------------------------
class AuthView(RunsView):
    def find(self, name: str) -> Session:
        """Raises `AuthSessionNotFound`, also for a session of another user."""
        return service.find(self.project, name, self.caller.user_id)

    def admit(self) -> None:
        """What changes an account counts as a call, and needs a key that is not limited to other toolkits."""
        self.caller.require_toolkit(service.required_toolkit(self.project))
        take_call(self.caller)

    def told(self, kind: AuthOperation.Kind, operation_id: str, name: str | None = None) -> HttpResponse:
        found = auth_operations.find_operation(self.project, kind, operation_id, name, self.caller.user_id)
        return json_answer(result_of(found))


@schema.sessions
class SessionsView(AuthView):
    """GET auth-sessions."""

    def get(self, request: Any, workspace_id: str, project_name: str) -> HttpResponse:
        return json_answer([session_row(found) for found in service.sessions(self.project, self.caller.user_id)])


@schema.session
class SessionView(AuthView):
    """GET, DELETE auth-sessions/{id}."""

    scopes = {"GET": ("runs",), "DELETE": ("runs",)}

    def get(self, request: Any, workspace_id: str, project_name: str, auth_session_id: str) -> HttpResponse:
        return json_answer(session_row(self.find(auth_session_id)))

    def delete(self, request: Any, workspace_id: str, project_name: str, auth_session_id: str) -> HttpResponse:
        session = self.find(auth_session_id)
        self.caller.require_deleting()
        service.delete(self.project, session, self.caller.actor)
        return no_content()


@schema.create
class CreateView(AuthView):
    """POST auth-sessions/create."""

    @idempotent
    def post(self, request: Any, workspace_id: str, project_name: str) -> HttpResponse:
        body = self.body(CreateBody)
        self.admit()
        operation = auth_operations.start_create(
            self.project,
            self._name(body.get("id")),
            body["parameters"],
            options_of(body),
            body.get("proxy"),
            self.caller.actor,
        )
        return json_answer({"status": "started", "operationId": operation.pk}, 201)

    def _name(self, given: str | None) -> str | None:
        """Who calls as an end user connects that one's account. Raises `NotPermitted`."""
        bound = self.caller.user_id
        if bound is not None and given not in {None, bound}:
            raise errors.NotPermitted("An end user's auth session has the end user's id.")
        return given if bound is None else bound


@schema.create_result
class CreateResultView(AuthView):
    """GET auth-sessions/create/{operationId}/result."""

    def get(self, request: Any, workspace_id: str, project_name: str, operation_id: str) -> HttpResponse:
        return self.told(AuthOperation.Kind.CREATE, operation_id)


@schema.update
class UpdateView(AuthView):
    """POST auth-sessions/{id}/update."""

    @idempotent
    def post(self, request: Any, workspace_id: str, project_name: str, auth_session_id: str) -> HttpResponse:
        session = self.find(auth_session_id)
        body = self.body(UpdateBody)
        self.admit()
        operation = auth_operations.start_update(
            self.project, session, body["parameters"], options_of(body), body.get("proxy"), self.caller.actor
        )
        return json_answer({"status": "started", "operationId": operation.pk}, 201)


@schema.update_result
class UpdateResultView(AuthView):
    """GET auth-sessions/{id}/update/{operationId}/result."""

    def get(
        self, request: Any, workspace_id: str, project_name: str, operation_id: str, auth_session_id: str | None = None
    ) -> HttpResponse:
        return self.told(AuthOperation.Kind.UPDATE, operation_id, auth_session_id)


@schema.validate
class ValidateView(AuthView):
    """POST auth-sessions/{id}/validate/start."""

    @idempotent
    def post(self, request: Any, workspace_id: str, project_name: str, auth_session_id: str) -> HttpResponse:
        session = self.find(auth_session_id)
        body = self.body(ValidateBody)
        self.admit()
        operation = auth_operations.start_validate(
            self.project, session, options_of(body), body.get("proxy"), self.caller.actor
        )
        return json_answer({"status": "pending", "operationId": operation.pk}, 201)


@schema.validate_result
class ValidateResultView(AuthView):
    """GET auth-sessions/{id}/validate/{operationId}/result."""

    def get(
        self, request: Any, workspace_id: str, project_name: str, operation_id: str, auth_session_id: str | None = None
    ) -> HttpResponse:
        return self.told(AuthOperation.Kind.VALIDATE, operation_id, auth_session_id)


@schema.update_by_operation
class UpdateByOperationView(UpdateResultView):
    """GET auth-sessions/update/{operationId}/result: an operation's id says enough."""


@schema.validate_by_operation
class ValidateByOperationView(ValidateResultView):
    """GET auth-sessions/validate/{operationId}/result."""


# At the published clients' prefix: the same, described once more.
@schema.client_sessions
class ClientSessionsView(SessionsView):
    pass


@schema.client_session
class ClientSessionView(SessionView):
    pass


@schema.client_create
class ClientCreateView(CreateView):
    pass


@schema.client_create_result
class ClientCreateResultView(CreateResultView):
    pass


@schema.client_update
class ClientUpdateView(UpdateView):
    pass


@schema.client_update_result
class ClientUpdateResultView(UpdateResultView):
    pass


@schema.client_validate
class ClientValidateView(ValidateView):
    pass


@schema.client_validate_result
class ClientValidateResultView(ValidateResultView):
    pass


@schema.client_update_by_operation
class ClientUpdateByOperationView(UpdateByOperationView):
    pass


@schema.client_validate_by_operation
class ClientValidateByOperationView(ValidateByOperationView):
    pass
