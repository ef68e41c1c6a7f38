"""One connection to Redis as the batcher uses it: commands go out in one write, their replies come back in order.

redis-py makes the connection (address, TLS, password, database). It packs commands in Python and reads each reply in an
await of its own, which costs more than all else in a batch; here hiredis does both, where the bytes are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import DataError, InvalidResponse, ResponseError

_UNFINISHED = object()


class RedisLine(asyncio.Protocol):
    """`answered` gets the replies to one `send`: bytes, integers, lists, None, or a ResponseError in a reply's place.
    `lost` is told why there will be none; after that, and before `open`, there is nothing to send over."""

    def __init__(self, url: str, answered: Callable[[list[Any]], None], lost: Callable[[BaseException], None]) -> None:
        """Raises ValueError if the URL cannot be read."""
        self._connection = _connection(url)
        self._answered, self._lost = answered, lost
        self._transport: asyncio.Transport | None = None
        self._reader: Any = None
        self._replies: list[Any] = []
        self._left = 0

    async def open(self) -> None:
        """Raises OSError and RedisError."""
        await self.aclose()
        await self._connection.connect()  # type: ignore[no-untyped-call]
        writer: asyncio.StreamWriter = self._connection._writer  # type: ignore[assignment]  # there is no other way
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=_UNFINISHED
        )
        self._left = 0
        self._transport = cast(asyncio.Transport, writer.transport)
        self._transport.set_protocol(self)
        if self._transport.is_closing():  # nobody would tell us
            self.close()
            raise RedisGone("The connection was closed at once.")

    def send(self, packed: Sequence[bytes]) -> None:
        """Commands, each with one reply. Not before the last ones are answered."""
        assert self._transport is not None
        self._replies, self._left = [], len(packed)
        self._transport.write(packed[0] if len(packed) == 1 else b"".join(packed))

    def close(self) -> None:
        """At once: a late reply would answer the wrong call. `lost` is not called."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    async def aclose(self) -> None:
        self.close()
        await self._connection.disconnect(nowait=True)

    # --- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            self._reader.feed(data)
            while self._left:
                reply = self._reader.gets()
                if reply is _UNFINISHED:
                    return
                self._replies.append(reply)
                self._left -= 1
        except InvalidResponse as error:
            self._end(error)
            return
        if self._reader.has_data():
            self._end(InvalidResponse("More replies than commands."))
        else:
            self._answered(self._replies)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or RedisGone("Redis has closed the connection."))

    def _end(self, error: BaseException) -> None:
        if self._transport is not None:
            self.close()
            self._lost(error)


def pack(*args: bytes | str | int) -> bytes:
    """One command. Raises redis.DataError for an argument of another type."""
    try:
        packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub means a tuple of one
    except TypeError as error:
        raise DataError(str(error)) from error
    return packed


def _connection(url: str) -> AbstractConnection:
    """One bare connection of redis-py: no pool, no retries, no health checks.

    Its own timeouts are off because every use stands under one of ours; its defaults would wait 20 s.
    """
    options: dict[str, Any] = {**parse_url(url)}
    connection_class = options.pop("connection_class", Connection)
    options |= {"socket_timeout": None, "socket_connect_timeout": None, "retry": Retry(NoBackoff(), 0)}
    connection: AbstractConnection = connection_class(**options, health_check_interval=0, protocol=2)
    return connection
