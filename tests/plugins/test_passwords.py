from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.plugins import passwords
from gateway.plugins.passwords import NOBODY, Passwords, fits, hashed
from gateway.proxy.errors import CredentialsUnavailable

WORD = "correct horse"


@pytest.fixture(scope="module")
def stored() -> str:
    return hashed(WORD)


class Counting:
    """`fits`, and how often it was asked; holds while `gate` is shut."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, stored: str, password: bytes) -> bool:
        self.calls += 1
        assert self.gate.wait(10)
        return fits(stored, password)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(passwords, "fits", counting)
    return counting


def test_a_hash_fits_its_password_only(stored: str) -> None:
    assert fits(stored, WORD.encode())
    assert not fits(stored, b"Correct horse")
    assert WORD not in stored
    assert hashed(WORD) != stored  # salted


def test_letters_written_in_two_ways_are_one() -> None:
    assert fits(hashed("cafe\u0301-au-lait"), passwords.normal("caf\u00e9-au-lait").encode())


def test_nothing_fits_a_user_who_does_not_exist_and_it_costs_the_same(stored: str) -> None:
    assert not fits(NOBODY, b"")
    assert NOBODY.split("$")[:4] == stored.split("$")[:4]


async def test_what_was_right_is_remembered_for_some_minutes(clock, stored: str, counting: Counting) -> None:
    held = Passwords(clock)
    waiting = held.check(stored, WORD.encode())
    assert not isinstance(waiting, bool)
    assert await waiting
    clock.now_s += passwords.REMEMBERED_S - 1
    assert held.check(stored, WORD.encode()) is True
    assert counting.calls == 1
    clock.now_s += 2
    again = held.check(stored, WORD.encode())
    assert not isinstance(again, bool)
    assert await again
    assert counting.calls == 2


async def test_what_was_wrong_is_not_remembered(stored: str, counting: Counting) -> None:
    held = Passwords()
    for _ in range(2):
        assert await held.check(stored, b"wrong") is False  # type: ignore[misc]
    assert counting.calls == 2


async def test_neither_text_nor_a_plain_digest_is_kept(stored: str) -> None:
    held, other = Passwords(), Passwords()
    for one in (held, other):
        assert await one.check(stored, WORD.encode())  # type: ignore[misc]
    assert held._verified.keys() != other._verified.keys()
    assert all(len(digest) == 32 for digest in held._verified)


async def test_the_same_question_of_many_at_once_is_answered_once(stored: str, counting: Counting) -> None:
    held = Passwords()
    answers = [held.check(stored, WORD.encode()) for _ in range(50)]
    assert all(await asyncio.gather(*answers))  # type: ignore[arg-type]
    assert counting.calls == 1


async def test_a_flood_of_guesses_is_refused_and_leaves_who_is_known_alone(stored: str, counting: Counting) -> None:
    held = Passwords()
    assert await held.check(stored, WORD.encode())  # type: ignore[misc]
    counting.gate.clear()
    guesses = [asyncio.ensure_future(held.check(NOBODY, b"%d" % i)) for i in range(passwords.MAX_WAITING + 1)]  # type: ignore[arg-type]
    refused, _ = await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
    assert [type(guess.exception()) for guess in refused] == [CredentialsUnavailable]
    assert held.check(stored, WORD.encode()) is True
    assert counting.calls <= 1 + passwords.MAX_AT_ONCE
    counting.gate.set()
    assert not any(await asyncio.gather(*(guess for guess in guesses if guess not in refused)))
