"""When a worker has served its share: it asks its supervisor for a successor, and serves on until that is ready.

A leak, ours or a plugin's, then costs a restart now and then instead of the node. Off unless a setting says otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.environment import Environment
from gateway.server.child import RECYCLE

logger = logging.getLogger("gateway.server")

LOOK_S = 1.0
AGAIN_S = 60.0  # after asking: its successor may have failed
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Share:
    """0: no such limit."""

    requests: int = 0
    mb: int = 0

    @classmethod
    def of(cls, settings: Environment, uniform: Callable[[float, float], float] = random.uniform) -> Share:
        """Requests are spread by a tenth: workers that started together must not all come due together."""
        return cls(round(settings.recycle_requests * uniform(1 - JITTER, 1 + JITTER)), settings.recycle_mb)

    def used_up(self, requests: int, mb: float) -> str:
        """Why it is, or ""."""
        if self.requests and requests >= self.requests:
            return f"it served {requests} requests"
        if self.mb and mb > self.mb:
            return f"it holds {mb:.0f} MB"
        return ""


async def ask_for_recycling(share: Share, served: Callable[[], int], told_fd: int) -> None:
    """Looks once a second, for as long as the worker runs."""
    while True:
        await asyncio.sleep(LOOK_S)
        if why := share.used_up(served(), resident_mb()):
            logger.info("asking for a successor: %s", why)
            os.write(told_fd, RECYCLE)
            await asyncio.sleep(AGAIN_S)


def resident_mb() -> float:
    """Resident memory of this process; its peak where there is no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
