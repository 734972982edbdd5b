from __future__ import annotations

import base64

import pytest
from pytest_django import Settings

from apps.lib import vault
from apps.lib.vault import BadKeys, VaultError

OLD, NEW = (f"{name}:{base64.urlsafe_b64encode((name * 11)[:32].encode()).decode()}" for name in ("old", "new"))


@pytest.fixture(autouse=True)
def _keys(settings: Settings) -> None:
    settings.JACKFIELD_ENCRYPTION_KEYS = OLD


def test_what_is_sealed_opens_in_its_place_and_says_nothing() -> None:
    sealed = vault.seal(b"very secret", "table:row:field")
    assert vault.unseal(sealed, "table:row:field") == b"very secret"
    assert sealed.startswith("jf1:old:")
    assert b"secret" not in base64.urlsafe_b64decode(sealed.rpartition(":")[2])


def test_the_same_text_is_never_sealed_the_same_way() -> None:
    assert len({vault.seal(b"x", "place") for _ in range(50)}) == 50


@pytest.mark.parametrize("place", ["table:other:field", "table:row:other", "other:row:field", ""])
def test_a_copy_in_another_place_does_not_open(place: str) -> None:
    with pytest.raises(VaultError):
        vault.unseal(vault.seal(b"x", "table:row:field"), place)


def test_a_changed_ciphertext_does_not_open() -> None:
    sealed = vault.seal(b"very secret", "place")
    head, _, encoded = sealed.rpartition(":")
    body = bytearray(base64.urlsafe_b64decode(encoded))
    for index in range(len(body)):
        body[index] ^= 1
        with pytest.raises(VaultError):
            vault.unseal(f"{head}:{base64.urlsafe_b64encode(body).decode()}", "place")
        body[index] ^= 1


@pytest.mark.parametrize(
    "text", ["", "jf1", "jf1:old", "jf1:old:", "jf1:old:!!!", "jf1:old:AAAA", "jf2:old:AAAA", "plain text"]
)
def test_what_is_no_ciphertext_does_not_open(text: str) -> None:
    with pytest.raises(VaultError):
        vault.unseal(text, "place")


def test_keys_rotate_without_a_pause(settings: Settings) -> None:
    before = vault.seal(b"x", "place")
    settings.JACKFIELD_ENCRYPTION_KEYS = f"{NEW},{OLD}"
    after = vault.seal(b"y", "place")
    assert after.startswith("jf1:new:")
    assert (vault.unseal(before, "place"), vault.unseal(after, "place")) == (b"x", b"y")
    settings.JACKFIELD_ENCRYPTION_KEYS = NEW
    assert vault.unseal(after, "place") == b"y"
    with pytest.raises(VaultError, match="no key 'old'"):
        vault.unseal(before, "place")


SHORT = base64.b64encode(b"short").decode()


@pytest.mark.parametrize(
    "keys",
    ["", "   ", "a", "a:", ":AAAA", "a:not base64!", f"a:{SHORT}", f"{OLD},{OLD}", f"a b:{OLD[4:]}"],
)
def test_bad_keys_are_refused_without_being_shown(keys: str) -> None:
    with pytest.raises(BadKeys) as caught:
        vault.parse_keys(keys)
    assert OLD[4:] not in str(caught.value)
