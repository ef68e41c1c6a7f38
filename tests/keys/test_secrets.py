from __future__ import annotations

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys import secrets


def test_a_key_has_prefix_random_part_and_checksum() -> None:
    secret = secrets.generate()
    assert secret.text.startswith("hg_live_")
    assert len(secret.text) == len("hg_live_") + 32 + 6
    assert secret.text.startswith(secret.prefix)
    assert len(secret.prefix) == len("hg_live_") + 5
    assert secret.digest == hashlib.sha256(secret.text.encode()).digest()


def test_what_is_not_shown_holds_160_bits() -> None:
    assert (secrets.RANDOM_CHARS - secrets.SHOWN_CHARS) * math.log2(len(set(secrets.ALPHABET))) >= 160


def test_keys_differ() -> None:
    assert len({secrets.generate().text for _ in range(1000)}) == 1000


def test_the_environment_is_part_of_the_key() -> None:
    secret = secrets.generate("test")
    assert secret.text.startswith("hg_test_")
    assert secrets.checksum_ok(secret.text)
    assert not secrets.checksum_ok(secret.text.replace("hg_test_", "hg_live_"))


@pytest.mark.parametrize("environment", ["", "Live", "a_b", "elevenchars"])
def test_an_environment_is_lower_case_letters(environment: str) -> None:
    with pytest.raises(ValueError, match="letters"):
        secrets.generate(environment)


@given(st.integers(0, 37), st.sampled_from(secrets.ALPHABET))
def test_the_checksum_finds_every_single_wrong_character(index: int, replacement: str) -> None:
    text = secrets.generate().text
    place = len("hg_live_") + index
    mistyped = text[:place] + replacement + text[place + 1 :]
    assert secrets.checksum_ok(mistyped) == (mistyped == text)


@pytest.mark.parametrize("text", ["", "hg_live_", "sk_live_abc", "hg_live_" + "a" * 38, "hg_live_" + "é" * 38])
def test_other_text_has_no_right_checksum(text: str) -> None:
    assert not secrets.checksum_ok(text)


def test_a_trailing_newline_is_a_typo() -> None:
    assert not secrets.checksum_ok(secrets.generate().text + "\n")


def test_the_repr_shows_the_prefix_only() -> None:
    secret = secrets.generate()
    assert secret.text not in repr(secret)
    assert secret.prefix in repr(secret)


def test_a_token_is_told_from_a_key_by_its_head() -> None:
    token = secrets.generate_token()
    assert token.text.startswith(secrets.TOKEN_HEAD)
    assert len(token.prefix) == len(secrets.TOKEN_HEAD) + secrets.SHOWN_CHARS
    assert secrets.checksum_ok(token.text)
    assert not secrets.checksum_ok(token.text.replace("hgt_", "hg_live_"))
