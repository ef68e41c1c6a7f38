"""A worker that stands still for a moment (garbage collection, a large table) must not take Redis for away."""

from __future__ import annotations

import asyncio
import time
import uuid

from django.conf import settings

from gateway.proxy.batcher import Batcher
from gateway.proxy.limits import Limit

TIMEOUT_S = 0.1


async def test_time_in_which_the_loop_stood_still_is_not_held_against_redis() -> None:
    batcher = Batcher(settings.REDIS_URL, timeout_s=TIMEOUT_S)
    await batcher.start()
    try:
        assert batcher.available
        waiter = asyncio.ensure_future(
            batcher.check([(f"hg:rl:test:{uuid.uuid4().hex}", Limit("token-bucket", 5, 60.0))])
        )
        await asyncio.sleep(0)  # the call is sent: what follows it is our own fault
        await asyncio.sleep(0)
        time.sleep(3 * TIMEOUT_S)  # the hazard itself
        (state,) = await waiter
        assert state.remaining == 4
        assert batcher.available
    finally:
        await batcher.aclose()
