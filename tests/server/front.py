"""The HTTP/1.1 front on a real socket, and a client that speaks in raw bytes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.server.http1 import Connection
from gateway.server.limits import Limits
from gateway.server.listener import Listener

DEADLINE_S = 10.0


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str:
        """All values of a field, joined."""
        return ", ".join(value for key, value in self.headers if key == name)

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, method: str = "GET") -> Answer:
        async with asyncio.timeout(DEADLINE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            headers = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines[1:-2])]
            answer = Answer(status, headers, b"")
            if method == "HEAD" or status in (100, 204, 304):
                return answer
            if answer["transfer-encoding"] == "chunked":
                while size := int(await self.reader.readuntil(b"\n"), 16):
                    answer.body += await self.reader.readexactly(size)
                    assert await self.reader.readexactly(2) == b"\r\n"
                assert await self.reader.readexactly(2) == b"\r\n"
            elif answer["content-length"]:
                answer.body = await self.reader.readexactly(int(answer["content-length"]))
            else:
                answer.body = await self.reader.read()
            return answer

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        await self.send(data)
        return await self.answer(method)

    async def rest(self) -> bytes:
        """What comes until the server closes. Raises ConnectionResetError if it aborts."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()

    def abort(self) -> None:
        self.writer.transport.abort()


@dataclass
class Front:
    listener: Listener
    address: Any
    refusals: list[tuple[int, str]] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    async def connect(self, **options: Any) -> Client:
        if isinstance(self.address, str):
            reader, writer = await asyncio.open_unix_connection(self.address)
        else:
            reader, writer = await asyncio.open_connection(*self.address, **options)
        self.clients.append(Client(reader, writer))
        return self.clients[-1]


class OneByteConnection(Connection):
    """As if each byte came in a packet of its own."""

    def data_received(self, data: bytes) -> None:
        for at in range(len(data)):
            super().data_received(data[at : at + 1])


@asynccontextmanager
async def front(app: Any, sock: socket.socket | None = None, ssl: Any = None, **limits: Any) -> AsyncIterator[Front]:
    sock = sock or socket.create_server(("127.0.0.1", 0))
    refusals: list[tuple[int, str]] = []
    listener = Listener(
        app,
        Limits(**{"sweep_s": 0.02, **limits}),
        on_refused=lambda status, code, client: refusals.append((status, code)),
        ssl_context=ssl,
    )
    await listener.start(*([], [sock]) if ssl else ([sock],))
    running = Front(listener, sock.getsockname(), refusals)
    try:
        yield running
    finally:
        for client in running.clients:
            client.abort()
        async with asyncio.timeout(DEADLINE_S):
            await listener.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def read_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left")
        body += message["body"]
        if not message["more_body"]:
            return body


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was given, as JSON."""
    body = await read_body(receive)
    seen = {key: scope[key] for key in ("method", "path", "http_version", "scheme", "root_path", "client", "server")}
    seen |= {key: scope[key].decode("latin-1") for key in ("raw_path", "query_string")}
    seen["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    seen["body"] = body.decode("latin-1")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})
