"""Ending tasks of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

#: Longer than whatever a task tidies up takes.
AGAIN_S = 1.0


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels them and waits for their end, whatever it is.

    Who goes on is cancelled again: libraries may take a cancellation for something of their own, as redis-py does while
    it connects. A loop that nobody can end would hold a worker that is to stop until it is killed.
    """
    found = [*tasks]
    left = set(found)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    await asyncio.gather(*found, return_exceptions=True)  # looked at: nobody else will
