"""What plugins keep open beside the traffic: connections, helper processes. One of each key in a worker.

    async with resources.kept.use(("kafka-log", config), lambda: Producer(config)) as producer: ...

It is made when it is first used, outlives a reload (a setting with the same config finds it again), and is ended when
nobody has used it for `idle_s`, or with the worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

IDLE_S = 60.0
logger = logging.getLogger(__name__)


class Lasting(Protocol):
    async def aclose(self) -> None:
        """Bounded in time. Called once, after the last use."""
        ...


T = TypeVar("T", bound=Lasting)


class _Entry:
    def __init__(self, thing: Lasting) -> None:
        self.thing, self.users = thing, 0
        self.timer: asyncio.TimerHandle | None = None


class Kept:
    """One per worker."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._entries: dict[Hashable, _Entry] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def use(self, key: Hashable, make: Callable[[], T]) -> AsyncIterator[T]:
        """`make` is called where there is none; it starts nothing."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(make())
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        entry.users += 1
        try:
            thing: Any = entry.thing
            yield thing
        finally:
            entry.users -= 1
            if not entry.users and self._entries.get(key) is entry:
                entry.timer = asyncio.get_running_loop().call_later(self._idle_s, self._end, key)

    async def aclose(self) -> None:
        for key in list(self._entries):
            self._end(key)
        await asyncio.gather(*self._closing)

    def _end(self, key: Hashable) -> None:
        entry = self._entries.pop(key)
        if entry.timer is not None:
            entry.timer.cancel()
        task = asyncio.get_running_loop().create_task(self._close(entry.thing))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, thing: Lasting) -> None:
        try:
            await thing.aclose()
        except Exception as error:  # protects the worker's end from what a plugin keeps
            logger.warning("%s did not end well: %s: %s", type(thing).__name__, type(error).__name__, error)
