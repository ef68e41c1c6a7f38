from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from time import time
from typing import Any

import pytest

from gateway.proxy.errors import RedisUnavailable
from gateway.proxy.rollcall import MAX_AGE_S, RollCall, Sealed

SEALED = Sealed("secret")


class Published:
    """Redis as the batcher shows it: keeps what is published."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any] | None]] = []
        self.away = False

    def __call__(self, *words: Any) -> asyncio.Future[int]:
        if self.away:
            raise RedisUnavailable
        assert words[0] == "PUBLISH"
        self.messages.append((words[1], SEALED.read(words[2], time())))
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        done.set_result(1)
        return done


@pytest.fixture
def published() -> Published:
    return Published()


@pytest.fixture
def call(published: Published) -> RollCall:
    def fails(about: Mapping[str, Any]) -> Any:
        raise ZeroDivisionError

    answers = {"double": lambda about: about["number"] * 2, "fails": fails}
    return RollCall(published, node="n1", worker=3, secret="secret", answers=answers)


def question(ask: str = "double", **fields: Any) -> dict[str, Any]:
    return {"ask": ask, "about": {"number": 21}, "to": "hg:answers:1", **fields}


async def test_it_answers_to_whom_the_question_names(call: RollCall, published: Published) -> None:
    await call.hear(SEALED.write(question(), time()))
    ((to, told),) = published.messages
    assert told is not None
    assert (to, told["node"], told["worker"], told["said"]) == ("hg:answers:1", "n1", 3, 42)


async def test_another_node_passes(call: RollCall, published: Published) -> None:
    await call.hear(SEALED.write(question(node="n2"), time()))
    await call.hear(SEALED.write(question(node="n1"), time()))
    assert [told and told["said"] for _, told in published.messages] == [None, 42]


@pytest.mark.parametrize("said", [
    lambda: b"",
    lambda: b"x" * 32,
    lambda: json.dumps(question()).encode(),
    lambda: b"\0" * 32 + json.dumps(question(at=time())).encode(),
    lambda: Sealed("another").write(question(), time()),
    lambda: SEALED.write(question(), time() - MAX_AGE_S - 1),
    lambda: SEALED.write(question(), time() + MAX_AGE_S + 1),
    lambda: SEALED.write(question(), time())[:-1] + b" ",
    lambda: SEALED.write(question("unknown"), time()),
    lambda: SEALED.write({"x": 1}, time()),
])  # fmt: skip
async def test_what_is_not_signed_by_us_or_not_understood_gets_no_answer(
    call: RollCall, published: Published, said: Callable[[], bytes]
) -> None:
    await call.hear(said())
    assert not published.messages


async def test_an_answer_that_fails_or_cannot_be_sent_ends_nothing(call: RollCall, published: Published) -> None:
    await call.hear(SEALED.write(question("fails"), time()))
    published.away = True
    await call.hear(SEALED.write(question(), time()))
    published.away = False
    await call.hear(SEALED.write(question(), time()))
    assert len(published.messages) == 1


def test_installations_on_one_redis_do_not_hear_one_another() -> None:
    assert Sealed("another").channel != SEALED.channel == Sealed("secret").channel
