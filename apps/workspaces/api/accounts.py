"""Members sign in over the API: /api/auth/login, /refresh, /logout."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse

from apps.lib.api import ApiView, json_answer, no_content

from .. import sessions
from . import schema
from .serializers import LoginBody, RefreshBody


@schema.login
class LoginView(ApiView):
    def post(self, request: Any) -> HttpResponse:
        body = self.body(LoginBody)
        return _tokens("Signed in.", sessions.sign_in(request._request, body["email"], body["password"], body["code"]))


@schema.refresh
class RefreshView(ApiView):
    def post(self, request: Any) -> HttpResponse:
        token = self.body(RefreshBody)["refreshToken"]
        return _tokens("Token refreshed.", sessions.refresh(token, request._request))


@schema.logout
class LogoutView(ApiView):
    def post(self, request: Any) -> HttpResponse:
        sessions.sign_out(self.body(RefreshBody)["refreshToken"], request._request)
        return no_content()


def _tokens(message: str, signed_in: sessions.SignedIn) -> HttpResponse:
    user = signed_in.user
    memberships = user.memberships.select_related("workspace").order_by("workspace__name", "workspace")
    return json_answer(
        {
            "message": message,
            "token": signed_in.token,
            "refreshToken": signed_in.refresh_token,
            "expiresIn": signed_in.seconds,
            "user": {
                "id": str(user.pk),
                "email": user.email,
                "name": user.name,
                "workspaces": [
                    {"id": str(membership.workspace.pk), "name": membership.workspace.name, "role": membership.role}
                    for membership in memberships
                ],
            },
        }
    )
