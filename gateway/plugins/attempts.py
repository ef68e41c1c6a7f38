"""Handing a batch on to a service that may be away: attempts with growing pauses, for a bounded time.

    await until_taken(attempt, clock, retry_for_s=60)

`attempt()` gives None (taken), or a sentence why it was in vain and another may do better; it raises NotTaken where
another would not. While it goes on, further records wait (`gateway.plugins.batches`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 15.0


class NotTaken(Exception):
    """A sentence for the log."""


async def until_taken(
    attempt: Callable[[], Awaitable[str | None]], clock: Callable[[], float], retry_for_s: float
) -> None:
    """Raises NotTaken with the last reason."""
    until_s, pause_s = clock() + retry_for_s, FIRST_RETRY_S
    while (reason := await attempt()) is not None:
        if clock() + pause_s > until_s:
            raise NotTaken(reason)
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - workers not all at once
        pause_s = min(pause_s * 2, LONGEST_RETRY_S)
