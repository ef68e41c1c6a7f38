"""What comes back from an upstream: the answer as its consumer sees it.

An UpstreamAnswer outlives its use of the connection: a small one is complete when its head is seen, and the connection
is back in the pool before the consumer looks. Chunks wait in a list and `async for` takes all that wait as one; there
is a future only while there is nothing to take.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from .errors import UpstreamBroke, UpstreamError
from .headers import Pairs


class Source(Protocol):
    """The connection, as far as an answer knows it."""

    loop: asyncio.AbstractEventLoop

    def fail(self, error: UpstreamError) -> None: ...
    def resume_reading(self) -> None: ...
    async def write(self, data: bytes) -> None: ...


class AnswerStream(Protocol):
    """The body of an answer, whichever transport it comes by. Always to be closed.

    `failure`: why it broke off, if it did; not that it was closed before its end.
    """

    @property
    def failure(self) -> UpstreamError | None: ...

    def whole(self) -> bytes | None: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


class UpstreamAnswer:
    """One answer as it arrives: `status` and `headers` once the head is seen, then chunks by `async for`.

    A body that breaks off ends in UpstreamBroke or UpstreamTimeout, never in a normal end.
    """

    status = 0  # 0: no head yet
    unread_bytes = 0
    touched = False  # a byte has come
    complete = False
    error: UpstreamError | None = None
    connection: Source | None = None  # until complete or failed
    hints: Callable[[list[bytes]], None] | None = None  # takes the `Link` values of a 103
    _waiter: asyncio.Future[None] | None = None
    headers: Pairs

    def __init__(self, method: str, request_pairs: Pairs, total_deadline_s: float) -> None:
        self.to_head, self.total_deadline_s = method == "HEAD", total_deadline_s
        self._request_pairs = request_pairs
        self.chunks: list[bytes] = []

    def may_upgrade(self) -> bool:
        return any(name.lower() == b"upgrade" for name, _ in self._request_pairs)

    def whole(self) -> bytes | None:
        """The body, if all of it is here already: spares the consumer of a small answer the iteration."""
        return self._take() if self.complete else None

    @property
    def failure(self) -> UpstreamError | None:
        return None if isinstance(self.error, _Closed) else self.error

    def __aiter__(self) -> UpstreamAnswer:
        return self

    async def __anext__(self) -> bytes:
        while not self.chunks:
            if self.complete:
                raise StopAsyncIteration
            if self.error is not None:
                raise self.error.again()
            await self.wait()
        return self._take()

    async def aclose(self) -> None:
        """Closed before its end, an answer takes its connection with it: the rest is never read."""
        self.abort()

    def abort(self) -> None:
        if self.connection is not None:
            self.connection.fail(_Closed("The answer was closed before its end."))
            self.chunks.clear()

    async def wait(self) -> None:
        """Until something changed. A consumer cancelled here leaves a closed connection behind."""
        loop = self.connection.loop if self.connection is not None else asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        try:
            await waiter
        except BaseException:
            self.abort()
            raise
        finally:
            self._waiter = None

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> bytes:
        data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks.clear()
        self.unread_bytes = 0
        if self.connection is not None:
            self.connection.resume_reading()
        return data


class _Closed(UpstreamBroke):
    """By ourselves."""


class Tunnel:
    """What is left of an exchange after 101: bytes both ways, under httpx's name `network_stream`."""

    def __init__(self, answer: UpstreamAnswer, connection: Source) -> None:
        self._answer, self._connection = answer, connection

    async def read(self) -> bytes:
        """What has come; b"" at the end. Raises UpstreamBroke."""
        return await anext(self._answer, b"")

    async def write(self, data: bytes) -> None:
        await self._connection.write(data)

    async def aclose(self) -> None:
        self._answer.abort()
