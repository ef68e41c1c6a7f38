from __future__ import annotations

import pytest

from gateway.plugins.base import Refusal
from gateway.proxy.exchange import Consumer, Credential
from gateway.proxy.found import Found, Moment, Seal

DIGEST = bytes(range(32))
WHO = Consumer(7, "Anna Müller", "A-1", frozenset({"staff", "beta"}))
ANSWERS = [Credential("key", 3, "hg_live_abcde", WHO, frozenset({"read"})), Refusal("key_revoked")]


def found(answer: Credential | Refusal = ANSWERS[0]) -> Found:
    return Found(answer, 7, 1e9, Moment.parse("90:100:90,95"))


@pytest.mark.parametrize(
    ("later", "earlier", "includes"),
    [
        ("100:100:", "100:100:", True),
        ("101:101:", "100:100:", True),
        ("100:100:", "101:101:", False),
        ("90:100:90", "90:100:90", True),  # running at both moments: seen at neither
        ("90:100:90", "100:100:", False),  # 90 was seen at the second moment only
        ("90:110:90,105", "90:100:90,95", True),  # 105 had not begun then
        ("90:110:90,95", "90:100:90", False),
        ("100:100:", "90:100:90", True),
    ],
)
def test_a_moment_includes_another_if_it_sees_all_of_it(later: str, earlier: str, includes: bool) -> None:
    assert Moment.parse(later).includes(Moment.parse(earlier)) is includes


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_sealed_comes_back(answer: Credential | Refusal) -> None:
    seal = Seal("secret", max_age_s=300)
    assert seal.read(DIGEST, seal.write(DIGEST, found(answer), 1000.0), 1299.0) == found(answer)


def test_an_old_entry_is_not_taken() -> None:
    seal = Seal("secret", max_age_s=300)
    assert seal.read(DIGEST, seal.write(DIGEST, found(), 1000.0), 1301.0) is None


def test_an_entry_of_another_key_is_not_taken() -> None:
    seal = Seal("secret", max_age_s=300)
    assert seal.read(bytes(32), seal.write(DIGEST, found(), 1000.0), 1000.0) is None


def test_an_entry_of_a_name_is_of_that_name_only() -> None:
    seal = Seal("secret", max_age_s=300)
    sealed = seal.write("username:anna", found(), 1000.0)
    assert seal.read("username:anna", sealed, 1000.0) == found()
    for other in ("username:annA", "custom_id:anna", b"username:anna", DIGEST):
        assert seal.read(other, sealed, 1000.0) is None


@pytest.mark.parametrize("index", [0, 31, 32, 40, -1])
def test_an_entry_somebody_changed_is_not_taken(index: int) -> None:
    seal = Seal("secret", max_age_s=300)
    sealed = bytearray(seal.write(DIGEST, found(), 1000.0))
    sealed[index] ^= 1
    assert seal.read(DIGEST, bytes(sealed), 1000.0) is None


@pytest.mark.parametrize("sealed", [b"", b"x", bytes(32), bytes(64), b"[1]"])
def test_what_is_no_entry_is_not_taken(sealed: bytes) -> None:
    assert Seal("secret", max_age_s=300).read(DIGEST, sealed, 1000.0) is None


def test_an_entry_of_another_installation_is_not_taken() -> None:
    sealed = Seal("other", max_age_s=300).write(DIGEST, found(), 1000.0)
    assert Seal("secret", max_age_s=300).read(DIGEST, sealed, 1000.0) is None


def test_there_is_no_seal_without_a_secret() -> None:
    with pytest.raises(ValueError, match="SECRET_KEY"):
        Seal("", max_age_s=300)
