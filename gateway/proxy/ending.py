"""Server-sent events end when the worker does: in order, so that the client comes back to another worker at once.

Such an answer has no end of its own, and would hold a drain until its limit, to be cut off then. What is told to end is
over for everybody behind it as if the upstream had ended it: body hooks finish theirs, the client sees a whole answer.
An event of which only a part was sent is dropped by the client, which asks for what came after the last whole one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gateway.proxy.exchange import Exchange
from gateway.proxy.headers import Pairs, get

DETAIL = "The gateway ended the stream of events, for its worker was to end."


def may_end(pairs: Pairs) -> bool:
    """Of an answer's fields: events in plain text, without a length that would have to be kept."""
    kind = get(pairs, b"content-type")
    return (
        kind is not None
        and kind.lower().startswith(b"text/event-stream")
        and get(pairs, b"content-encoding") is None
        and get(pairs, b"content-length") is None
    )


class Ending:
    """The chunks of `source` until its end, or until `end` is called."""

    def __init__(self, exchange: Exchange, source: AsyncIterator[bytes]) -> None:
        self._exchange, self._source = exchange, source
        self._over = False
        self._waiting: asyncio.Task[None] | None = None

    def __aiter__(self) -> Ending:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        self._waiting = task = asyncio.current_task()
        assert task is not None
        try:
            return await anext(self._source)
        except asyncio.CancelledError:
            if self._over and task.uncancel() == 0:
                raise StopAsyncIteration from None
            raise  # the client has left, too
        finally:
            self._waiting = None

    def end(self) -> None:
        """Once or more often, from within the loop."""
        if self._over:
            return
        self._over = True
        self._exchange.detail = self._exchange.detail or DETAIL
        if self._waiting is not None:
            self._waiting.cancel()
