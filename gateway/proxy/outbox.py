"""Small writes that wait for the end of the loop's turn and then go out one after the other.

A write wakes whoever reads at the other end, and to wake a sleeper costs the writer more than the rest of the write.
Spread over a turn, nearly every write finds its reader asleep again; in a row only the first does.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Outbox:
    """For one loop. Whoever writes past it, or closes, calls `flush` first: what was posted is older."""

    __slots__ = ("_posted",)

    def __init__(self) -> None:
        self._posted: deque[tuple[asyncio.WriteTransport, bytes]] = deque()

    def post(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Written in the loop's next turn at the latest. What is posted to a transport that is closed then is dropped.

        There is no back-pressure until then, so: one thing at a time for each transport, and no large ones.
        """
        if not self._posted:
            asyncio.get_running_loop().call_soon(self.flush)
        self._posted.append((transport, data))

    def flush(self) -> None:
        posted = self._posted
        try:
            while posted:
                transport, data = posted.popleft()
                if not transport.is_closing():
                    transport.write(data)
        finally:
            if posted:  # a transport that fails does not take the others with it
                asyncio.get_running_loop().call_soon(self.flush)
