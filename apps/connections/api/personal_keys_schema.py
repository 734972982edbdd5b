"""What the API's description says of personal keys."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_view
from rest_framework import serializers

from apps.lib import errors
from apps.lib.api import StrictText
from apps.lib.envelopes import SHORTCUT
from apps.lib.openapi import header, operation

TAG = "Personal keys"
LONGEST = 10 * 365 * 24 * 3600  # seconds


class KeyBody(serializers.Serializer[Any]):
    name = StrictText(max_length=100)
    scopes = serializers.ListField(
        child=StrictText(max_length=100),
        required=False,
        max_length=500,
        help_text='Slugs of the integrations that it may use; absent, empty or ["*"]: all that the caller may.',
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True, help_text="Absent: it does not expire.")
    expires_in = serializers.IntegerField(
        required=False, allow_null=True, min_value=60, max_value=LONGEST, help_text="Seconds, in place of expires_at."
    )


class KeyRow(serializers.Serializer[Any]):
    id = serializers.CharField()
    name = serializers.CharField()
    key_prefix = serializers.CharField(help_text="Its first characters, by which it is known again.")
    scopes = serializers.ListField(child=serializers.CharField(), help_text='Slugs of integrations, or ["*"].')
    last_used_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


class Created(serializers.Serializer[Any]):
    api_key = KeyRow()
    full_key = serializers.CharField(help_text="Shown this once.")


class PageLink(serializers.Serializer[Any]):
    url = serializers.CharField(help_text="Send the person's browser there. Opens once.")
    expires_at = serializers.DateTimeField()


ROW = {
    "id": "0198c2f4",
    "name": "laptop",
    "key_prefix": "jf_sk_a1b2c3",
    "scopes": ["github"],
    "last_used_at": None,
    "expires_at": None,
    "revoked_at": None,
    "created_at": "2026-01-31T12:00:00+00:00",
}
FAILS = [errors.BadRequest, errors.InvalidInput, errors.NotPermitted]
WHO = "With the end user's token (JWT), or in the browser with the session of their own page."


def described(name: str, summary: str, **options: Any) -> Any:
    options.setdefault("fails", FAILS)
    return operation(name, summary, tag=TAG, envelope=SHORTCUT, **options)


keys = extend_schema_view(
    get=described(
        "listApiKeys",
        "List one's own API keys",
        description=f"{WHO} Newest first, revoked ones too.",
        answer=KeyRow(many=True),
        example=ROW,  # drf-spectacular makes the list of it
    ),
    post=described(
        "createApiKey",
        "Make an API key of one's own",
        description=f"{WHO} It permits `execute` and `connect` as its owner, and no more than the token does.",
        body=KeyBody,
        sent={"name": "laptop", "scopes": ["github"], "expires_in": 7776000},
        answer=Created,
        example={"api_key": ROW, "full_key": "jf_sk_…"},
        status=201,
        fails=[*FAILS, errors.PlanLimitReached, errors.BodyTooLarge],
    ),
)
key = extend_schema_view(
    delete=described("revokeApiKey", "Revoke an API key of one's own", description=WHO, status=204)
)
links = extend_schema_view(
    post=described(
        "linkApiKeysPage",
        "Make a link to the page on which a person manages their API keys",
        description="Needs the scope `connect`: with a project's key and `X-End-User`, or with the end user's token. The link "
        "is good for ten minutes and one browser; what is done there is limited to what the caller may.",
        parameters=[header("X-End-User", "The end user, with a key that is bound to nobody.")],
        answer=PageLink,
        example={"url": "https://jackfield.example/me/enter/…", "expires_at": "2026-01-31T12:10:00+00:00"},
        status=201,
    )
)
