"""Rotation of the encryption key: everything that is sealed moves, nothing that is written meanwhile is lost."""

from __future__ import annotations

import ast
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from allauth.socialaccount.models import SocialApp
from django.apps import apps
from django.core.management import CommandError, call_command
from django.test import Client
from pytest_django import Settings

from apps.connections.models import Connection, ConnectSession
from apps.lib import vault
from apps.lib.errors import Conflict
from apps.lib.vault import Sealing, new_key
from apps.workspaces import accounts, rotation, tasks
from apps.workspaces.audit import SYSTEM
from apps.workspaces.models import AuditEvent, IdempotencyRecord, JwtIssuer, User, WebhookEndpoint
from tests.cast import Cast, connect, enable

OLD, NEW = new_key("old"), new_key("new")
APPS = Path(__file__).resolve().parent.parent.parent / "apps"


@pytest.fixture
def keys(settings: Settings) -> Settings:
    settings.JACKFIELD_ENCRYPTION_KEYS = OLD
    return settings


@pytest.fixture
def account(keys: Settings, cast: Cast) -> Connection:
    """A connection under the old key, which is the second one by now."""
    made = connect(enable(cast.project, "gmail"))
    for number in range(5):
        connect(made.integration, f"more-{number}")
    keys.JACKFIELD_ENCRYPTION_KEYS = f"{NEW},{OLD}"
    return made


OLD_VALUES = 7  # six connections and the integration's client secret


def rotate(*options: str) -> str:
    out = StringIO()
    call_command("rotate_keys", *options, stdout=out, stderr=out)
    return out.getvalue()


def stored(row: Any, column: str) -> str:
    value = type(row)._default_manager.values_list(column, flat=True).get(pk=row.pk)
    return bytes(value).decode() if isinstance(value, (bytes, memoryview)) else value


def one_of_each(cast: Cast) -> list[tuple[Any, str, str]]:
    """A row of every place, with the column and what is in it."""
    integration = enable(cast.project, "gmail", client_secret="gmail-secret")
    connection = connect(integration)
    made: list[tuple[Any, str, Any]] = [
        (integration, "client_secret", "gmail-secret"),
        (connection, "credentials", connection.unseal("credentials")),
    ]
    plain: list[tuple[Any, str]] = [
        (JwtIssuer(project=cast.project, method="HS256", issuer="me"), "secret"),
        (WebhookEndpoint(project=cast.project, url="https://a.example", secret="", previous_secret=""), "secret"),
        (
            ConnectSession(
                state_digest="d", project=cast.project, integration=integration, connection_id="ca_1",
                auth_type="oauth2", expires_at=connection.created_at,
            ),
            "verifier",
        ),
    ]  # fmt: skip
    for row, column in plain:
        row.seal(column, f"{column} of {row._meta.db_table}")
        row.save()
        made.append((row, column, f"{column} of {row._meta.db_table}"))
    return made


def test_every_sealed_value_moves_to_the_first_key_and_stays_what_it_is(keys: Settings, cast: Cast) -> None:
    made = one_of_each(cast)
    answer = IdempotencyRecord.objects.create(id="r1", body_digest="", status=200)
    answer.answer = vault.seal(b"the answer", "workspaces_idempotencyrecord:r1:answer").encode()
    answer.save()
    secret = generate_totp_secret()
    totp, codes = TOTP.activate(cast.alice, secret), RecoveryCodes.activate(cast.alice)
    expected = codes.get_unused_codes()
    issuer = SocialApp(provider="openid_connect", provider_id="corp", name="Corp", client_id="c", secret="sso-secret")
    issuer.save()

    keys.JACKFIELD_ENCRYPTION_KEYS = f"{NEW},{OLD}"
    with pytest.raises(CommandError, match=r"\d+ values are not under the first key, new"):
        rotate("--check")
    said = rotate()
    assert "Every value is under the first key, new." in said
    assert "Needed by nothing any more: old." in said
    keys.JACKFIELD_ENCRYPTION_KEYS = NEW
    assert "Every value" in rotate("--check")
    for row, column, value in made:
        assert type(row).objects.get(pk=row.pk).unseal(column) == value
        assert stored(row, column).startswith("jf1:new:")
    assert vault.unseal(stored(answer, "answer"), "workspaces_idempotencyrecord:r1:answer") == b"the answer"
    totp.instance.refresh_from_db()
    codes.instance.refresh_from_db()
    assert accounts.MfaAdapter().decrypt(totp.instance.data["secret"]) == secret
    assert RecoveryCodes(codes.instance).get_unused_codes() == expected
    assert accounts.SingleSignOnAdapter().list_apps(None)[0].secret == "sso-secret"


def test_every_sealed_field_of_every_model_is_among_the_places() -> None:
    names = {place.name for place in rotation.places()}
    fields = {
        f"{model._meta.db_table}.{column}"
        for model in apps.get_models()
        if issubclass(model, Sealing)
        for column in model.SEALED
    }
    assert fields
    assert fields <= names


# Whoever seals apart from a model's SEALED adds its place to `rotation.places`, and then its file to these.
SEALING_BY_HAND = {
    "lib/vault.py",
    "workspaces/accounts.py",
    "workspaces/admin_keys.py",
    "workspaces/idempotency.py",
    "workspaces/rotation.py",
}


def test_nothing_is_sealed_that_rotation_does_not_know() -> None:
    found = set()
    for file in APPS.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("vault"):
                named = {alias.name for alias in node.names}
                if named & {"seal", "unseal", "reseal"}:
                    found.add(str(file.relative_to(APPS)))
            if isinstance(node, ast.ImportFrom) and "vault" in {alias.name for alias in node.names}:
                found.add(str(file.relative_to(APPS)))
    assert found <= SEALING_BY_HAND


def test_the_version_and_the_lease_of_a_refresh_under_way_stay(account: Connection) -> None:
    Connection.objects.filter(pk=account.pk).update(lease_owner="somebody", version=7)
    before: dict[str, Any] = dict(Connection.objects.filter(pk=account.pk).values().get())
    rotate()
    after: dict[str, Any] = dict(Connection.objects.filter(pk=account.pk).values().get())
    assert {name for name in after if after[name] != before[name]} == {"credentials"}


def test_a_newer_token_is_never_overwritten_by_an_older_one(
    account: Connection, keys: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh stores its answer, by a process that still encrypts under the old key, between reading and writing."""
    reseal = vault.reseal
    written: list[str] = []

    def refreshed_meanwhile(sealed: str, place: str) -> str:
        if not written:
            keys.JACKFIELD_ENCRYPTION_KEYS = OLD
            written.append(account.sealed("credentials", {"access_token": "newer"}))
            keys.JACKFIELD_ENCRYPTION_KEYS = f"{NEW},{OLD}"
            Connection.objects.filter(pk=account.pk).update(credentials=written[0], version=2)
        return reseal(sealed, place)

    monkeypatch.setattr(vault, "reseal", refreshed_meanwhile)
    rotate()
    again = Connection.objects.get(pk=account.pk)
    assert (again.unseal("credentials"), again.version) == ({"access_token": "newer"}, 2)
    assert again.credentials.startswith("jf1:new:")


def test_a_row_that_is_deleted_meanwhile_is_no_fault(account: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    reseal = vault.reseal

    def deleted_meanwhile(sealed: str, place: str) -> str:
        Connection.objects.filter(pk=account.pk).delete()
        return reseal(sealed, place)

    monkeypatch.setattr(vault, "reseal", deleted_meanwhile)
    assert "Every value" in rotate()


def test_a_rotation_that_was_broken_off_goes_on_where_it_stopped(
    account: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    reseal = vault.reseal
    opened: list[str] = []

    def opens(sealed: str, place: str) -> str:
        opened.append(place)
        return reseal(sealed, place)

    def breaks_off(sealed: str, place: str) -> str:
        if len(opened) == 4:
            raise KeyboardInterrupt
        return opens(sealed, place)

    assert rotation.state().remaining == OLD_VALUES
    with monkeypatch.context() as patched:
        patched.setattr(vault, "reseal", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            rotate()
    assert rotation.state().remaining == OLD_VALUES - 4
    first = set(opened)
    opened[:] = []
    monkeypatch.setattr(vault, "reseal", opens)
    rotate()
    assert rotation.state().remaining == 0
    assert len(opened) == OLD_VALUES - 4
    assert not first & set(opened)


def test_what_does_not_open_is_named_and_the_rest_goes_on(account: Connection, cast: Cast) -> None:
    second = connect(account.integration, "u2")
    Connection.objects.filter(pk=second.pk).update(credentials="jf1:lost:AAAA")
    out = StringIO()
    with pytest.raises(CommandError, match="1 values are not under the first key"):
        call_command("rotate_keys", stdout=out, stderr=out)
    said = out.getvalue()
    assert f"connections_connection.credentials, row {second.pk}: no key 'lost'" in said
    assert "AAAA" not in said
    assert stored(account, "credentials").startswith("jf1:new:")
    assert "no key of the ring: 1" in said


def test_key_ids_that_differ_in_case_alone_are_two(keys: Settings, cast: Cast) -> None:
    keys.JACKFIELD_ENCRYPTION_KEYS = lower = new_key("k_1")
    made = connect(enable(cast.project, "gmail"))
    keys.JACKFIELD_ENCRYPTION_KEYS = f"{new_key('K_1')},{lower}"
    assert rotation.state().remaining > 0
    rotate()
    assert stored(made, "credentials").startswith("jf1:K_1:")
    keys.JACKFIELD_ENCRYPTION_KEYS = f"{new_key('kx1')},{keys.JACKFIELD_ENCRYPTION_KEYS}"
    assert rotation.state().remaining > 0


def test_the_second_time_nothing_is_written(account: Connection) -> None:
    rotate()
    before = stored(account, "credentials")
    events = AuditEvent.objects.filter(action__startswith="keys.").count()
    rotate()
    assert stored(account, "credentials") == before
    assert AuditEvent.objects.filter(action__startswith="keys.").count() == events == 2


def test_a_recovery_code_that_is_used_meanwhile_stays_used(
    keys: Settings, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = RecoveryCodes.activate(cast.alice)
    used = codes.get_unused_codes()[0]
    keys.JACKFIELD_ENCRYPTION_KEYS = f"{NEW},{OLD}"
    assert RecoveryCodes(codes.instance).validate_code(used)
    rotate()
    codes.instance.refresh_from_db()
    assert used not in RecoveryCodes(codes.instance).get_unused_codes()


def test_the_worker_does_it_batch_by_batch(account: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "BATCH", 2)
    sent: list[tuple[Any, ...]] = [()]
    monkeypatch.setattr(tasks.reseal, "delay", lambda *arguments: sent.append(arguments))
    for arguments in sent:
        tasks.reseal(*arguments)
    assert len(sent) > len(rotation.places())
    assert rotation.state().remaining == 0
    assert AuditEvent.objects.get(action="keys.rotated").details["left"] == 0


def test_starting_what_is_done_is_refused(keys: Settings, cast: Cast) -> None:
    with pytest.raises(Conflict):
        rotation.start(SYSTEM)


# -- The admin's page --------------------------------------------------------------------------------------------------
@pytest.fixture
def ruth(cast: Cast) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ruth@example.com", "a long enough password"))
    return client


def test_the_page_tells_what_is_left_and_has_a_worker_do_it(
    account: Connection, ruth: Client, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    sent: list[tuple[Any, ...]] = []
    monkeypatch.setattr(tasks.reseal, "delay", lambda *arguments: sent.append(arguments))
    page = ruth.get("/admin/encryption-keys/").content.decode()
    assert f"Re-encrypt {OLD_VALUES} values" in page
    assert "still needed" in page
    assert "connections_connection.credentials" in page
    with django_capture_on_commit_callbacks(execute=True):
        assert ruth.post("/admin/encryption-keys/").status_code == 302
    assert sent == [()]
    event = AuditEvent.objects.get(action="keys.rotation_started")
    assert (event.actor, event.details) == ("user:ruth@example.com", {"values": OLD_VALUES})
    assert f"0 of {OLD_VALUES}" in ruth.get("/admin/encryption-keys/").content.decode()
    for arguments in sent:
        tasks.reseal(*arguments)
    page = ruth.get("/admin/encryption-keys/").content.decode()
    assert "Every value is under the first key" in page
    assert "can be removed" in page
    assert "Re-encrypt" not in page
    ruth.post("/admin/encryption-keys/")
    assert AuditEvent.objects.filter(action="keys.rotation_started").count() == 1


@pytest.mark.parametrize("method", ["get", "post"])
def test_the_page_is_for_superusers_alone(account: Connection, cast: Cast, method: str) -> None:
    cast.alice.is_staff = True
    cast.alice.save()
    client = Client()
    assert getattr(client, method)("/admin/encryption-keys/").status_code == 302
    client.force_login(cast.alice)
    assert getattr(client, method)("/admin/encryption-keys/").status_code == 403
    assert not AuditEvent.objects.filter(action__startswith="keys.").exists()


# -- The data folder's file ------------------------------------------------------------------------------------------
@pytest.fixture
def file(settings: Settings, tmp_path: Path) -> Path:
    path = tmp_path / "encryption_keys"
    path.write_text(new_key("dev1"))
    settings.JACKFIELD_HOME = tmp_path
    settings.JACKFIELD_ENCRYPTION_KEYS_PATH = str(path)
    return path


def test_a_new_key_is_added_used_and_the_old_one_removed(
    file: Path, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vault, "LOOK_AGAIN", 0.0)
    made = connect(enable(cast.project, "gmail"))
    said = rotate("--new")
    assert "Added the key dev2." in said
    assert stored(made, "credentials").startswith("jf1:dev2:")
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(vault.parse_keys(file.read_text())) == ["dev2", "dev1"]
    assert "Removed: dev1." in rotate("--remove-old")
    assert list(vault.parse_keys(file.read_text())) == ["dev2"]
    assert Connection.objects.get(pk=made.pk).unseal("credentials")["access_token"] == "at-1-secret"
    assert set(AuditEvent.objects.values_list("action", flat=True)) >= {"keys.added", "keys.removed", "keys.rotated"}
    assert "Removed: nothing." in rotate("--remove-old")


def test_a_key_that_is_still_needed_is_not_removed(file: Path, cast: Cast) -> None:
    connect(enable(cast.project, "gmail"))
    rotation.add_key()
    with pytest.raises(CommandError, match="dev1: values are still under it"):
        rotate("--remove-old")
    assert list(vault.parse_keys(file.read_text())) == ["dev2", "dev1"]


def test_keys_of_the_environment_are_not_touched(keys: Settings, cast: Cast) -> None:
    with pytest.raises(CommandError, match=r"operations\.md"):
        rotate("--new")
    with pytest.raises(CommandError, match=r"operations\.md"):
        rotate("--remove-old")


def test_a_running_process_learns_of_a_new_key_at_once_where_it_meets_it(file: Path, settings: Settings) -> None:
    assert vault.key_ids() == ["dev1"]
    file.write_text(f"{NEW},{file.read_text()}")
    settings.JACKFIELD_ENCRYPTION_KEYS_PATH = ""
    settings.JACKFIELD_ENCRYPTION_KEYS = NEW
    elsewhere = vault.seal(b"x", "place")
    settings.JACKFIELD_ENCRYPTION_KEYS_PATH = str(file)
    assert vault.unseal(elsewhere, "place") == b"x"
    assert vault.key_ids() == ["new", "dev1"]


def test_a_file_that_is_broken_leaves_the_ring_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vault, "LOOK_AGAIN", 0.0)
    assert vault.key_ids() == ["dev1"]
    good = file.read_text()
    for broken in ("", "dev1:short", "\x00"):
        file.write_text(broken)
        assert vault.key_ids() == ["dev1"]
    file.unlink()
    assert vault.key_ids() == ["dev1"]
    assert "stays as it is" in caplog.text
    assert good not in caplog.text
    file.write_text(f"{NEW},{good}")
    assert vault.key_ids() == ["new", "dev1"]


def test_counting_is_one_query_a_place(account: Connection, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(len(rotation.places())):
        rotation.state()
