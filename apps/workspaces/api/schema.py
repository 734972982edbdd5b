"""What the API's description says of signing in, user tokens and settings."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.openapi import operation

from .. import project_settings
from ..models import Role
from .serializers import LoginBody, RefreshBody, SettingsBody, UserTokenBody


class MemberWorkspace(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    name = serializers.CharField()
    role = serializers.ChoiceField(Role.choices)


class Member(serializers.Serializer[Any]):
    id = serializers.CharField()
    email = serializers.EmailField()
    name = serializers.CharField(allow_blank=True)
    workspaces = MemberWorkspace(many=True)


class SignedIn(serializers.Serializer[Any]):
    message = serializers.CharField()
    token = serializers.CharField(help_text="Send it as Authorization: Bearer.")
    refreshToken = serializers.CharField(help_text="Good for one refresh, within 30 days.")
    expiresIn = serializers.IntegerField(help_text="Seconds that the token lives.")
    user = Member()


class UserToken(serializers.Serializer[Any]):
    token = serializers.CharField()
    expiresAt = serializers.DateTimeField()


class ProjectSettings(serializers.Serializer[Any]):
    id = serializers.CharField()
    name = serializers.CharField()
    logo = serializers.CharField(allow_blank=True, help_text="An https URL, or empty.")
    colour = serializers.CharField(help_text="Like #4f46e5.")
    allowedOrigins = serializers.ListField(
        child=serializers.CharField(), help_text="Origins that return URLs may lead to; your own address always may."
    )
    confirmConnections = serializers.BooleanField(
        help_text="New connections stay inactive until you confirm them."
    )  # fmt: skip
    retention = serializers.IntegerField(
        allow_null=True, help_text="Days for which executions are kept; null: as the installation does."
    )

    def get_fields(self) -> dict[str, Any]:
        return super().get_fields() | {name: part.field() for name, part in project_settings.parts().items()}


SIGNED_IN = {
    "message": "Signed in.",
    "token": "eyJhbGciOiJIUzI1NiIsInR5cCI6ImpmLW1lbWJlcitqd3QifQ.…",
    "refreshToken": "jf_rt_…",
    "expiresIn": 900,
    "user": {
        "id": "1",
        "email": "alice@example.com",
        "name": "Alice",
        "workspaces": [{"id": "0b7f7e6e-53a1-4c7f-9e0a-3f6b1d2c4a55", "name": "Acme", "role": "owner"}],
    },
}
SETTINGS = {
    "id": "proj_4t8yq2",
    "name": "Shop",
    "logo": "https://yourapp.com/logo.svg",
    "colour": "#4f46e5",
    "allowedOrigins": ["https://yourapp.com"],
    "confirmConnections": False,
    "retention": None,
}

login = extend_schema_view(
    post=operation(
        "login",
        "Sign in as a member",
        description="`code` is a code of the authenticator app, or a recovery code; needed where the member has a second "
        'factor: without it the answer is 401 with `details: {"mfa": true}`.',
        tag="Members",
        body=LoginBody,
        sent={"email": "alice@example.com", "password": "…", "code": "123456"},
        answer=SignedIn,
        example=SIGNED_IN,
        fails=[errors.InvalidInput, errors.InvalidMemberToken, errors.RateLimited],
        public=True,
    )
)
refresh = extend_schema_view(
    post=operation(
        "refreshToken",
        "Get new tokens for a refresh token",
        description="A refresh token works once. Sending an older one ends the session: somebody copied it.",
        tag="Members",
        body=RefreshBody,
        sent={"refreshToken": "jf_rt_…"},
        answer=SignedIn,
        example=SIGNED_IN | {"message": "Token refreshed."},
        fails=[errors.InvalidInput, errors.InvalidMemberToken],
        public=True,
    )
)
logout = extend_schema_view(
    post=operation(
        "logout",
        "End a member's session",
        tag="Members",
        body=RefreshBody,
        sent={"refreshToken": "jf_rt_…"},
        status=204,
        fails=[errors.InvalidInput],
        public=True,
    )
)
user_tokens = extend_schema_view(
    post=operation(
        "mintUserToken",
        "Mint a token with which one end user calls",
        description="Needs the scope `connect`. `ttl` is in seconds: 1 to 86400, 3600 unless given.",
        tag="End users",
        body=UserTokenBody,
        sent={"userId": "user-42", "ttl": 3600},
        answer=UserToken,
        example={
            "token": "eyJhbGciOiJIUzI1NiIsInR5cCI6ImpmLXVzZXIrand0In0.…",
            "expiresAt": "2026-01-31T13:00:00+00:00",
        },
        status=201,
        fails=[errors.InvalidInput, errors.NotPermitted],
    )
)
settings = extend_schema_view(
    get=operation(
        "getSettings",
        "Read the project's settings",
        description="Needs the scope `admin`.",
        tag="Project",
        answer=ProjectSettings,
        example=SETTINGS,
        fails=[errors.NotPermitted],
    ),
    patch=operation(
        "changeSettings",
        "Change the project's settings",
        description="Needs the scope `admin`. What is absent stays as it is.",
        tag="Project",
        body=SettingsBody,
        sent={"allowedOrigins": ["https://yourapp.com"]},
        answer=ProjectSettings,
        example=SETTINGS,
        fails=[errors.InvalidInput, errors.NotPermitted, errors.Conflict],
    ),
)
