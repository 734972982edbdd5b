"""System checks of the settings, with ids and hints; a production process refuses to start on an error of these."""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register, run_checks
from django.core.exceptions import ImproperlyConfigured

from apps.lib.egress import parse_allowance
from apps.lib.vault import BadKeys, parse_keys
from config.environment import DEVELOPMENT_MARK

SECRET_LENGTH = 50


@register("jackfield")
def check_settings(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    return [*_keys(), *_addresses(), *(_production() if settings.PRODUCTION else [])]


def _keys() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    try:
        keys = parse_keys(settings.JACKFIELD_ENCRYPTION_KEYS)
    except BadKeys as error:
        hint = "JACKFIELD_ENCRYPTION_KEYS, or the file of JACKFIELD_ENCRYPTION_KEYS_FILE: id:base64 of 32 bytes, commas between."
        return [Error(f"The encryption keys are not usable: {error}.", hint=hint, id="jackfield.E001")]
    if settings.PRODUCTION and any(key_id.startswith(DEVELOPMENT_MARK) for key_id in keys):
        found.append(
            Error(
                "An encryption key was made for development.",
                hint="Make one whose id does not begin with 'dev': manage.py new_keys.",
                id="jackfield.E002",
            )
        )
    return found


def _addresses() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    try:
        parse_allowance(settings.JACKFIELD_EGRESS_ALLOW)
    except ValueError as error:
        hint = "Comma-separated networks (10.0.0.0/8), addresses with a port (127.0.0.1:8000), or hosts."
        found.append(Error(f"JACKFIELD_EGRESS_ALLOW: {error}.", hint=hint, id="jackfield.E003"))
    if not settings.JACKFIELD_URL.startswith(("http://", "https://")):
        found.append(Error("JACKFIELD_URL is not a URL.", hint="Like https://jackfield.example.", id="jackfield.E004"))
    return found


def _production() -> list[CheckMessage]:
    found: list[CheckMessage] = []
    try:
        key = settings.SECRET_KEY
    except ImproperlyConfigured:  # Django's own answer to an empty one, without our hint
        key = ""
    if not key or key.startswith((DEVELOPMENT_MARK, "django-insecure")) or len(key) < SECRET_LENGTH:
        found.append(
            Error(
                "JACKFIELD_SECRET_KEY is missing, too short, or made for development.",
                hint=f"At least {SECRET_LENGTH} random characters: manage.py new_keys.",
                id="jackfield.E005",
            )
        )
    if not settings.ALLOWED_HOSTS:
        hint = "The host names under which this installation is reached, comma-separated."
        found.append(Error("JACKFIELD_ALLOWED_HOSTS is missing.", hint=hint, id="jackfield.E006"))
    if settings.CELERY_BROKER_URL.startswith(("filesystem:", "memory:")):
        hint = "redis://… or amqp://…; the folder broker serves one machine and loses what a killed worker held."
        found.append(Error("CELERY_BROKER_URL is missing.", hint=hint, id="jackfield.E007"))
    if not settings.CACHE_URL:
        hint = "redis://… counts limits in memory; without it they are counted in the database."
        found.append(Warning("CACHE_URL is missing.", hint=hint, id="jackfield.W001"))
    if not settings.HTTPS:
        hint = "Credentials pass through this server: serve it by https and say so in JACKFIELD_URL."
        found.append(Warning("JACKFIELD_URL is not https.", hint=hint, id="jackfield.W002"))
    return found


def refuse_to_start_on_errors() -> None:
    """Ends the process where a setting makes it unsafe or useless to serve; says each reason on standard error."""
    if not settings.PRODUCTION:
        return
    faults = [message for message in run_checks(tags=["jackfield"]) if message.is_serious()]
    if faults:
        for fault in faults:
            print(fault, file=sys.stderr)  # noqa: T201 - logging may not stand yet
        raise SystemExit(78)  # sysexits.h: EX_CONFIG
