"""What is posted goes out in order, in the loop's next turn, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from gateway.proxy.outbox import Outbox


class Line:
    """A transport and the other end of its socket."""

    def __init__(self, transport: asyncio.Transport, end: socket.socket) -> None:
        self.transport, self.end = transport, end

    def received(self) -> bytes:
        try:
            return self.end.recv(65_536)
        except BlockingIOError:
            return b""


@pytest.fixture
async def lines() -> AsyncIterator[list[Line]]:
    made: list[Line] = []
    for _ in range(3):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        transport, _protocol = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        made.append(Line(transport, theirs))
    yield made
    for line in made:
        line.transport.abort()
        line.end.close()
    await asyncio.sleep(0)


async def turn() -> None:
    """What was due when this was called is done when it returns."""
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(done.set_result, None)
    await done


async def test_what_is_posted_waits_for_the_next_turn_and_keeps_its_order(lines: list[Line]) -> None:
    outbox = Outbox()
    for text in (b"a", b"b"):
        for line in lines:
            outbox.post(line.transport, text)
    assert [line.received() for line in lines] == [b"", b"", b""]
    await turn()
    assert [line.received() for line in lines] == [b"ab", b"ab", b"ab"]
    outbox.post(lines[0].transport, b"c")
    await turn()
    assert lines[0].received() == b"c"


async def test_who_flushes_may_write_and_close_behind_it(lines: list[Line]) -> None:
    outbox = Outbox()
    outbox.post(lines[0].transport, b"first ")
    outbox.flush()
    lines[0].transport.write(b"second")
    assert lines[0].received() == b"first second"
    outbox.post(lines[1].transport, b"for nobody")
    outbox.post(lines[2].transport, b"for somebody")
    lines[1].transport.abort()
    await turn()
    assert lines[2].received() == b"for somebody"
    assert lines[1].received() == b""


class Failing(asyncio.Transport):
    def is_closing(self) -> bool:
        return False

    def write(self, data: object) -> None:
        raise RuntimeError("a transport that fails")


async def test_a_transport_that_fails_does_not_take_the_others_with_it(lines: list[Line]) -> None:
    outbox = Outbox()
    outbox.post(lines[0].transport, b"before")
    outbox.post(Failing(), b"lost")
    outbox.post(lines[1].transport, b"behind")
    with pytest.raises(RuntimeError, match="that fails"):
        outbox.flush()
    assert lines[0].received() == b"before"
    await turn()
    assert lines[1].received() == b"behind"
