"""An upstream that dies anywhere in an answer: what the client gets never looks whole, and nothing is left of it."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.e2e.gateway import wait_until
from tests.hazards.conftest import Hardened
from tests.upstream import Wire, serving, until

CUTS = 100  # of each framing
BODY = random.Random(2).randbytes(60_000)
SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"".join(
    b"%x\r\n%b\r\n" % (len(BODY[at : at + 7000]), BODY[at : at + 7000]) for at in range(0, len(BODY), 7000)
)
ANSWERS = {"length": SIZED, "chunks": CHUNKED + b"0\r\n\r\n"}


async def receive(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body, and whether the client must take it for whole. Status 0: not even a head came."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, b"", False
    status, body = int(head[9:12]), b""
    try:
        if b"transfer-encoding: chunked" in head:
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        else:
            assert b"content-length: " in head, "an end of the connection would look like the end of the answer"
            body = await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
    except (asyncio.IncompleteReadError, ConnectionError):
        return status, body, False
    return status, body, True


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_cut_answer_never_looks_whole(hardened: Hardened, framing: str, end: str) -> None:
    answer, chance = ANSWERS[framing], random.Random(f"{framing} {end}")
    cuts = [0, 1, *(chance.randrange(len(answer)) for _ in range(CUTS // 2 - 4)), len(answer) - 1, len(answer)]

    async def die(wire: Wire) -> None:
        head = await wire.head()
        if head:
            await wire.send(answer[: cuts[int(head.split(b" ")[1].rpartition(b"/")[2])]])
            if end == "reset":
                await asyncio.sleep(0)
                wire.reset()

    async with serving(die, port=hardened.raw_port) as up:
        wholes = aborted = 0
        for number, cut in enumerate(cuts):
            reader, writer = await asyncio.open_connection("127.0.0.1", hardened.port)
            writer.write(b"GET /raw/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            status, body, whole = await asyncio.wait_for(receive(reader), 10)  # never left hanging
            if cut < len(answer):
                assert status == 502 or not whole, f"cut at {cut}"
                assert status in (0, 200, 502)
            elif end == "close":
                assert (status, body, whole) == (200, BODY, True)
            if status == 200:
                assert BODY.startswith(body)
            wholes += whole and status == 200
            aborted += status == 200 and not whole
            writer.close()
        assert wholes <= 1
        assert aborted > len(cuts) // 3  # the answer had begun; a reset may overtake it
        await until(lambda: not up.live)
        await asyncio.to_thread(wait_until, lambda: hardened.front()["connections"] <= 1)
        state = await asyncio.to_thread(hardened.gateway.get_json, "/status")
        assert (state["requests_in_flight"], state["front"]["connections"]) == (0, 1)  # the one that asked
        assert [target["in_flight"] for target in state["targets"]] == [0] * len(state["targets"])
