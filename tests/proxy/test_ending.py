from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.proxy.ending import DETAIL, Ending, may_end
from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import Pairs
from tests.proxy.gatewaying import request

EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([EVENTS], True),
        ([(b"content-type", b"Text/Event-Stream")], True),
        ([], False),
        ([(b"content-type", b"application/json")], False),
        ([EVENTS, (b"content-encoding", b"gzip")], False),  # cut short it could not be read
        ([EVENTS, (b"content-length", b"100")], False),
    ],
)
def test_which_may_end_early(fields: Pairs, expected: bool) -> None:
    assert may_end(fields) is expected


class Source:
    """Two chunks, then silence."""

    def __init__(self) -> None:
        self.silent = asyncio.Event()
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"
        self.silent.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def exchange() -> Exchange:
    return request("/events")


async def test_told_while_nothing_comes_it_is_over(source: Source, exchange: Exchange) -> None:
    ending = Ending(exchange, aiter(source))
    reading = asyncio.create_task(_all(ending))
    await source.silent.wait()
    ending.end()
    ending.end()
    async with asyncio.timeout(5):
        assert await reading == [b"one", b"two"]
    assert source.cancelled
    assert exchange.detail == DETAIL
    assert await _all(ending) == []


async def test_told_while_nobody_waits_it_is_over_with_the_next_look(source: Source, exchange: Exchange) -> None:
    ending = Ending(exchange, aiter(source))
    assert await anext(ending) == b"one"
    ending.end()
    assert await _all(ending) == []


async def test_a_client_that_leaves_is_still_seen_to_leave(source: Source, exchange: Exchange) -> None:
    ending = Ending(exchange, aiter(source))
    reading = asyncio.create_task(_all(ending))
    await source.silent.wait()
    ending.end()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_one_that_ends_by_itself_is_as_it_was(exchange: Exchange) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"all"

    assert await _all(Ending(exchange, chunks())) == [b"all"]
    assert exchange.detail == ""


async def _all(chunks: AsyncIterator[bytes]) -> list[bytes]:
    return [chunk async for chunk in chunks]
