"""An upstream that remembers every request as it understood it, in a thread of its own; and a raw client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Seen:
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __getitem__(self, name: str) -> str:
        return ", ".join(value for key, value in self.headers if key == name)


@dataclass
class Origin:
    """`broken` holds what was no request to it: nothing that a gateway sends may be."""

    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    broken: list[bytes] = field(default_factory=list)
    says: bytes = b""  # further fields of its answers, each with its line's end
    takes_s: float = 0.0  # for an answer

    def take(self) -> list[Seen]:
        seen, self.seen = self.seen, []
        return seen

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await self._request(reader)
                self.seen.append(request)
                await asyncio.sleep(self.takes_s)
                head = b"HTTP/1.1 200 OK\r\n" + self.says + b"content-length: 2\r\n\r\n"
                writer.write(head + b"ok" * (request.method != "HEAD"))
                await writer.drain()
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self.broken.append(error.partial)
        except (ValueError, asyncio.LimitOverrunError) as error:
            self.broken.append(repr(error).encode())
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader) -> Seen:
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1")
        line, *lines = head.split("\r\n")
        method, target, version = line.split(" ")
        pairs = [(name, value) for name, _, value in (text.partition(": ") for text in lines)]
        if version != "HTTP/1.1" or any(
            not name or not name.islower() or set(" \t\n") & set(name) for name, _ in pairs
        ):
            raise ValueError(head)
        lengths = [value for name, value in pairs if name == "content-length"]
        codings = [value for name, value in pairs if name == "transfer-encoding"]
        if len(lengths) + len(codings) > 1:
            raise ValueError(head)
        try:
            body = await self._body(reader, lengths, codings)
        except asyncio.IncompleteReadError as error:
            raise ConnectionError("cut in the middle of a body, which is no request") from error
        return Seen(method, target, tuple(pairs), body)

    async def _body(self, reader: asyncio.StreamReader, lengths: list[str], codings: list[str]) -> bytes:
        if lengths:
            return await reader.readexactly(int(lengths[0]))
        body = b""
        if codings:
            while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
                body += await reader.readexactly(size)
                if await reader.readexactly(2) != b"\r\n":
                    raise ValueError("a chunk")
            if await reader.readexactly(2) != b"\r\n":
                raise ValueError("trailers")
        return body


@contextlib.contextmanager
def origin() -> Iterator[Origin]:
    loop, served = asyncio.new_event_loop(), Origin()
    server = loop.run_until_complete(asyncio.start_server(served.serve, "127.0.0.1", 0))
    served.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:

        async def stop() -> None:
            server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.wait_closed()
            await asyncio.sleep(0)  # transports are closed in the loop's next turn
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


@dataclass
class Reply:
    status: int
    head: bytes
    body: bytes


class RawClient:
    """Blocking, one connection; answers framed by length or chunks."""

    def __init__(self, port: int, timeout_s: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.rest = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *reason: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # refused while we sent: the answer says why
            self.socket.sendall(data)

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return False
        self.rest += data
        return bool(data)

    def reply(self, method: str = "GET") -> Reply | None:
        """The next answer; None if the connection ends before one."""
        while b"\r\n\r\n" not in self.rest:
            if not self._more():
                return None
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        status = int(head[9:12])
        lowered = head.lower()
        if method == "HEAD" or status < 200 or status in (204, 304):
            return Reply(status, head, b"")
        if b"transfer-encoding: chunked" in lowered:
            return Reply(status, head, self._chunks())
        length = int(lowered.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return Reply(status, head, self._exactly(length))

    def ended(self) -> bool:
        """Whether the other side closes, without another byte."""
        return not self.rest and not self._more()

    def _exactly(self, size: int) -> bytes:
        while len(self.rest) < size:
            assert self._more(), "the answer was cut"
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def _chunks(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self.rest:
                assert self._more(), "the answer was cut"
            line, _, self.rest = self.rest.partition(b"\r\n")
            body += self._exactly(int(line, 16))
            assert self._exactly(2) == b"\r\n"
            if line == b"0":
                return body
