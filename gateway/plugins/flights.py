"""flights: one request to an upstream that several clients wait for, and a body that is read at the upstream's pace.

Who waits is told one of three things: the kept answer; ALONE, go to the upstream yourself (the answer is for nobody
else); AGAIN, look once more (whoever was on the way has left).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from gateway.plugins.level import Entry
from gateway.plugins.store import Lead
from gateway.proxy.errors import UpstreamBroke


class Told:
    """ALONE and AGAIN."""


ALONE, AGAIN = Told(), Told()


class Flight:
    """Among `flights` until it lands. `begun_s`: seconds since the epoch. `lead`: where the right to ask for all
    workers is ours."""

    __slots__ = ("_ended", "_flights", "_place", "begun_s", "lead")

    def __init__(self, flights: dict[Any, Flight], place: Any, begun_s: float) -> None:
        self.begun_s = begun_s
        self.lead = Lead()
        self._flights, self._place = flights, place
        self._ended: asyncio.Future[Entry | Told] = asyncio.get_running_loop().create_future()
        flights[place] = self

    def land(self, what: Entry | Told) -> None:
        """The first word counts."""
        if not self._ended.done():
            if self._flights.get(self._place) is self:  # a later one may have taken its place
                del self._flights[self._place]
            self._ended.set_result(what)
            if self.lead.end is not None:
                self.lead.end(what is ALONE)

    async def wait(self, seconds: float) -> Entry | Told:
        """ALONE after so long."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self._ended)
        except TimeoutError:
            return ALONE


class Fill:
    """A body on its way, read to its end by `run` while a client reads it by `read`: a slow client holds up nobody.

    More than `limit` bytes are not kept: then `run` ends, and the client reads the rest at its own pace. The fill owns
    the upstream's connection: `leave` is what the client's end means to it.
    """

    def __init__(self, source: AsyncIterator[bytes], release: Callable[[], Awaitable[None]] | None, limit: int) -> None:
        self._source, self._release, self._limit = source, release, limit
        self._chunks: list[bytes] = []
        self._size = 0
        self._over = self._whole = self._left = False
        self._running = True  # or about to
        self._error: Exception | None = None
        self._news: asyncio.Future[Any] | None = None

    async def run(self) -> bytes | None:
        """The whole body; None if it broke off or grew too large."""
        try:
            async for chunk in self._source:
                self._chunks.append(chunk)
                self._size += len(chunk)
                self._over = self._size > self._limit
                self._tell()
                if self._over:
                    return None
            self._whole = True
            return b"".join(self._chunks)
        except Exception as error:  # the reader raises it to the client; nobody waits for `run`
            self._error = error
            return None
        finally:
            self._running = False
            if not self._whole and not self._over and self._error is None:
                self._error = UpstreamBroke("The worker ends.")
            self._tell()
            if self._left or not self._over:
                await self._close()

    async def read(self) -> AsyncGenerator[bytes, None]:
        place = 0
        while True:
            while place < len(self._chunks):
                chunk = self._chunks[place]
                if self._over:
                    self._chunks[place] = b""
                place += 1
                yield chunk
            if self._error is not None:
                raise self._error
            if self._whole:
                return
            if self._over:
                async for chunk in self._source:
                    yield chunk
                return
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    async def leave(self) -> None:
        """The client has it all, or has left. What is being read is read to its end."""
        self._left = True
        if not self._running:
            await self._close()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def _close(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            await release()
