"""The least that a proxy in Python on uvloop can cost: bytes go from one socket to the other, and nobody reads them.

    python -m benchmarks.relay PORT UPSTREAM_PORT

A client has an upstream connection of its own. There is no HTTP here, no pool, no limit, no error that is told.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """`other` writes what this one receives; what comes before it is there is kept for it."""

    transport: asyncio.Transport

    def __init__(self, other: Side | None = None) -> None:
        self.other, self.early = other, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early += data
        else:
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()


async def relay(port: int, upstream_port: int) -> None:
    loop, connecting = asyncio.get_running_loop(), set[asyncio.Task[None]]()

    class Client(Side):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            task = loop.create_task(self.connect())
            connecting.add(task)
            task.add_done_callback(connecting.discard)

        async def connect(self) -> None:
            _, upstream = await loop.create_connection(lambda: Side(self), "127.0.0.1", upstream_port)
            upstream.transport.write(self.early)
            self.other = upstream

    server = await loop.create_server(Client, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(relay(int(sys.argv[1]), int(sys.argv[2])))
