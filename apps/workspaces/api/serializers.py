"""Bodies of the platform's own routes."""

from __future__ import annotations

import re
from typing import Any

from rest_framework import serializers

from apps.lib.api import StrictText
from apps.lib.errors import InvalidInput

from .. import project_settings
from ..models import Project
from ..services import clean_origin


class LoginBody(serializers.Serializer[Any]):
    email = serializers.CharField(max_length=254)
    password = serializers.CharField(max_length=1024, trim_whitespace=False)
    code = serializers.CharField(max_length=64, required=False, allow_blank=True, default="")


class RefreshBody(serializers.Serializer[Any]):
    refreshToken = serializers.CharField(max_length=512)


class UserTokenBody(serializers.Serializer[Any]):
    userId = StrictText(max_length=255, trim_whitespace=False)
    ttl = serializers.IntegerField(required=False, default=3600, min_value=1, max_value=86_400)


class SettingsBody(serializers.Serializer[Any]):
    name = StrictText(required=False, max_length=100)
    logo = serializers.URLField(required=False, allow_blank=True, max_length=500)
    colour = serializers.RegexField(re.compile(r"^#[0-9a-fA-F]{6}$"), required=False)
    allowedOrigins = serializers.ListField(child=StrictText(max_length=500), required=False, max_length=100)
    confirmConnections = serializers.BooleanField(required=False)
    retention = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=3650)

    def get_fields(self) -> dict[str, Any]:
        return super().get_fields() | {name: part.field() for name, part in project_settings.parts().items()}

    def validate_name(self, value: str) -> str:
        if "/" in value or not value.isprintable():
            raise serializers.ValidationError("Must have no slash and no control characters.")
        return value

    def validate_allowedOrigins(self, value: list[str]) -> list[str]:
        faults = [message for origin in value for message in _origin_faults(origin)]
        if faults:
            raise serializers.ValidationError(faults)
        return value

    def validate_logo(self, value: str) -> str:
        if value and not value.startswith("https://"):
            raise serializers.ValidationError("Must be an https URL.")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(self.initial_data) - set(self.fields))
        if unknown:
            raise serializers.ValidationError({name: ["Unknown setting."] for name in unknown})
        return attrs


def _origin_faults(origin: str) -> list[str]:
    try:
        clean_origin(origin)
    except InvalidInput as error:
        return list(error.details["allowedOrigins"])
    return []


def settings_row(project: Project) -> dict[str, Any]:
    return {
        "id": project.pk,
        "name": project.name,
        "logo": project.logo_url,
        "colour": project.colour,
        "allowedOrigins": project.allowed_origins,
        "confirmConnections": project.confirm_connections,
        "retention": project.settings.get("retention"),
        **{name: part.read(project) for name, part in project_settings.parts().items()},
    }
