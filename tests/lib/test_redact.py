from __future__ import annotations

import json

import pytest

from apps.lib.redact import MASK, clip, redact, redact_text, secret_values


@pytest.mark.parametrize(
    "name", ["password", "Authorization", "X-Api-Key", "apiKey", "client_secret", "refreshToken", "Set-Cookie", "private_key",
             "access_token", "code_verifier", "sessionId"],
)  # fmt: skip
def test_a_member_with_a_secrets_name_is_masked(name: str) -> None:
    assert redact({"a": [{name: "value"}]}) == {"a": [{name: MASK}]}


@pytest.mark.parametrize("name", ["nextPageToken", "page_token", "syncToken", "max_tokens", "tokens_used", "title"])
def test_a_member_that_is_no_secret_stays(name: str) -> None:
    assert redact({name: "value"}) == {name: "value"}


def test_a_secret_is_masked_wherever_it_turns_up() -> None:
    data = {"note": "see tok-12345 there", "tok-12345": 1, "deep": [["tok-12345", 5, None, True]]}
    assert "tok-12345" not in json.dumps(redact(data, ["tok-12345"]))
    assert redact(data, ["tok-12345"])["deep"] == [[MASK, 5, None, True]]


def test_the_given_data_stays_as_it_is() -> None:
    data = {"password": "x", "list": ["tok-12345"]}
    redact(data, ["tok-12345"])
    assert data == {"password": "x", "list": ["tok-12345"]}


def test_a_secret_that_begins_another_leaves_no_rest() -> None:
    assert redact_text("abcdefgh", ["abcd", "abcdefgh"]) == MASK
    assert redact("abcdefgh", ["abcd", "abcdefgh"]) == MASK


def test_a_very_short_secret_does_not_mask_half_of_everything() -> None:
    assert redact({"note": "a banana"}, ["a", ""]) == {"note": "a banana"}


def test_every_text_of_stored_credentials_is_a_secret() -> None:
    stored = {"access_token": "at-12345", "lifetime": 3600, "extra": {"list": ["deep-secret"]}, "empty": ""}
    assert sorted(secret_values(stored)) == ["at-12345", "deep-secret"]


def test_a_long_text_is_cut_and_says_so() -> None:
    assert clip("x" * 100, 10).startswith("x" * 10 + "…")
    assert clip({"a": 1}, 100) == '{"a": 1}'
    assert "\x00" not in clip("a\x00b", 10)
