"""Settings: production refuses to start on what is missing or was made for development, and says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks

from apps.lib.vault import new_key

ROOT = Path(__file__).resolve().parent.parent
GOOD = {
    "DATABASE_URL": "postgres://jackfield:x@127.0.0.1:1/jackfield",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
    "CACHE_URL": "redis://127.0.0.1:1/1",
    "JACKFIELD_URL": "https://jackfield.example",
    "JACKFIELD_ALLOWED_HOSTS": "jackfield.example",
    "JACKFIELD_SECRET_KEY": "k3JpQz7w" * 8,
    "JACKFIELD_ENCRYPTION_KEYS": new_key("k1"),
}


def start(tmp_path: Path, arguments: list[str], **environment: str | None) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("JACKFIELD_", "DJANGO_", "DATABASE_", "CELERY_", "CACHE_"))}  # fmt: skip
    given = {name: value for name, value in (GOOD | environment).items() if value is not None}
    variables = kept | {"JACKFIELD_HOME": str(tmp_path)} | given
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=60
    )


def check(tmp_path: Path, *extra: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    return start(tmp_path, ["manage.py", "check", *extra], **environment)


def test_proper_production_settings_are_clean_even_for_deploy(tmp_path: Path) -> None:
    done = check(tmp_path, "--deploy", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr
    assert "no issues (0 silenced)" in done.stdout


FAULTS: dict[str, dict[str, str | None]] = {
    "jackfield.E001": {"JACKFIELD_ENCRYPTION_KEYS": None},
    "jackfield.E002": {"JACKFIELD_ENCRYPTION_KEYS": new_key("dev1")},
    "jackfield.E003": {"JACKFIELD_EGRESS_ALLOW": "10.0.0.0/8,http://x"},
    "jackfield.E004": {"JACKFIELD_URL": "jackfield.example"},
    "jackfield.E005": {"JACKFIELD_SECRET_KEY": None},
    "jackfield.E006": {"JACKFIELD_ALLOWED_HOSTS": None},
    "jackfield.E007": {"CELERY_BROKER_URL": None},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_production_process_refuses_to_start(tmp_path: Path, fault: str) -> None:
    """Exactly as granian starts it: by importing the WSGI application."""
    done = start(tmp_path, ["-c", "import config.wsgi"], **FAULTS[fault])
    assert done.returncode == 78, done.stdout + done.stderr
    assert fault in done.stderr
    assert "HINT" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_fault_is_told_at_once_by_check(tmp_path: Path) -> None:
    done = check(
        tmp_path,
        JACKFIELD_ENCRYPTION_KEYS=None,
        JACKFIELD_SECRET_KEY="dev-" + "x" * 60,
        JACKFIELD_ALLOWED_HOSTS=None,
        CELERY_BROKER_URL=None,
        JACKFIELD_EGRESS_ALLOW="http://x",
        JACKFIELD_URL="x",
    )
    assert done.returncode != 0
    for fault in ("E001", "E003", "E004", "E005", "E006", "E007"):
        assert f"jackfield.{fault}" in done.stderr
    assert done.stderr.count("HINT") >= 6


@pytest.mark.parametrize("key", ["short", "dev-" + "x" * 60, "django-insecure-" + "x" * 60, "", " "])
def test_a_secret_key_of_development_or_too_short_is_none(tmp_path: Path, key: str) -> None:
    done = start(tmp_path, ["-c", "import config.wsgi"], JACKFIELD_SECRET_KEY=key)
    assert (done.returncode, "jackfield.E005" in done.stderr) == (78, True)


def test_proper_settings_start(tmp_path: Path) -> None:
    done = start(tmp_path, ["-c", "import config.wsgi; print('up')"])
    assert (done.returncode, done.stdout.strip()) == (0, "up"), done.stderr


@pytest.mark.parametrize("command", [["worker", "--pool", "solo"], ["beat"]])
def test_worker_and_scheduler_refuse_to_start_too(tmp_path: Path, command: list[str]) -> None:
    done = start(tmp_path, ["-m", "celery", "-A", "config", *command], JACKFIELD_ENCRYPTION_KEYS=new_key("dev1"))
    assert done.returncode == 78
    assert "jackfield.E002" in done.stderr


def test_less_than_that_is_a_warning(tmp_path: Path) -> None:
    done = check(tmp_path, CACHE_URL=None, JACKFIELD_URL="http://jackfield.example")
    assert done.returncode == 0
    assert "jackfield.W001" in done.stderr
    assert "jackfield.W002" in done.stderr


@pytest.mark.parametrize(
    "name", ["JACKFIELD_SECRET_KEY", "JACKFIELD_ENCRYPTION_KEYS", "DATABASE_URL", "CELERY_BROKER_URL", "CACHE_URL"]
)
def test_a_secret_may_stand_in_a_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text(GOOD[name] + "\n")
    changes: dict[str, Any] = {name: None, f"{name}_FILE": str(file)}
    done = start(
        tmp_path,
        ["-c", "import config.wsgi; from django.conf import settings; print(settings.DATABASES['default']['ENGINE'])"],
        **changes,
    )
    assert done.returncode == 0, done.stderr
    assert "postgresql" in done.stdout


def test_in_development_nothing_need_be_given(tmp_path: Path) -> None:
    nothing: dict[str, Any] = dict.fromkeys(GOOD)
    done = check(tmp_path, **nothing)
    assert done.returncode == 0, done.stderr
    for name in ("secret_key", "encryption_keys"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert not run_checks(tags=["jackfield"])
