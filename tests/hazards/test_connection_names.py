"""What `Connection` may not take out of a request: the framing of its body (RFC 9110 §7.6.1)."""

from __future__ import annotations

import pytest

from tests.proxy.gatewaying import Bench, route, table, target, upstream
from tests.upstream import OK, Wire, serving


async def test_a_body_is_not_lost_when_connection_names_its_length() -> None:
    bodies: list[bytes] = []

    async def read(wire: Wire) -> None:
        if b"content-length: 5\r\n" in await wire.head():
            bodies.append(await wire.body(5))
        await wire.send(OK)

    async with serving(read) as up, Bench(table([route("r", "/*")], [upstream("up", target(up.port))])) as bench:
        headers = [(b"connection", b"close, content-length, host"), (b"content-length", b"5")]
        exchange, _ = await bench.get("/", method="POST", headers=headers, body=[b"hello"], length=5)
    assert (exchange.status, bodies, exchange.bytes_in) == (200, [b"hello"], 5)


@pytest.mark.parametrize("name", [b"transfer_encoding", b"transfer.encoding", b"content_length"])
async def test_names_that_an_upstream_could_take_for_the_framing_do_not_pass(name: bytes) -> None:
    async with serving(answer) as up, Bench(table([route("r", "/*")], [upstream("up", target(up.port))])) as bench:
        await bench.get("/", headers=[(name, b"7")])
    assert name not in up.heads[0]


async def answer(wire: Wire) -> None:
    await wire.head()
    await wire.send(OK)
