"""The `batch` phase: what finished requests leave, handed to a plugin in batches, beside the traffic.

    log hook → waiting (bounded) → batch_delay_s, or batch_max records → plugin.batch(records), one call at a time

A request pays for one record and one append, and a timer per batch; routes without such a plugin pay nothing. While a
plugin is busy, records wait; what is beyond MAX_WAITING, or was in a batch that failed, is dropped and counted. A
reload loses nothing: what waits for a setting of the configuration before is handed to that one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Protocol

from gateway.proxy.exchange import Exchange
from gateway.proxy.record import Record, record_of

MAX_WAITING = 10_000  # records of one setting in one worker; some 6 MB
CLOSE_S = 2.0
logger = logging.getLogger(__name__)


class Batching(Protocol):
    """Of a plugin."""

    name: ClassVar[str]
    batch_max: int
    batch_delay_s: float

    def batch(self, records: Sequence[Record]) -> Awaitable[None] | None: ...


class Batches:
    """One per worker. `dropped` is told of records that are lost: the plugin's name, and how many."""

    def __init__(self, dropped: Callable[[str, int], None] = lambda name, count: None) -> None:
        self._dropped = dropped
        self._busy: set[Collector] = set()

    def collector(self, plugin: Batching) -> Callable[[Exchange], None]:
        """A log hook."""
        return Collector(plugin, self._busy, self._dropped).log

    async def aclose(self) -> None:
        """Hands over what waits. What that takes longer for is lost."""
        tasks = [collector.hand_over() for collector in list(self._busy)]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


class Collector:
    def __init__(self, plugin: Batching, busy: set[Collector], dropped: Callable[[str, int], None]) -> None:
        self._plugin, self._busy, self._dropped = plugin, busy, dropped
        self._waiting: list[Record] = []
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def log(self, exchange: Exchange) -> None:
        waiting = self._waiting
        if len(waiting) >= MAX_WAITING:
            self._dropped(self._plugin.name, 1)
            return
        waiting.append(record_of(exchange))
        if self._task is not None:
            return
        if len(waiting) == 1:
            self._busy.add(self)
            self._timer = asyncio.get_running_loop().call_later(self._plugin.batch_delay_s, self.hand_over)
        if len(waiting) >= self._plugin.batch_max:
            self.hand_over()

    def hand_over(self) -> asyncio.Task[None]:
        """Now, or as soon as the plugin is free."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"batches of {self._plugin.name}")
        return self._task

    async def _run(self) -> None:
        size = self._plugin.batch_max
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:size], self._waiting[size:]
                await self._give(batch)
        finally:
            if self._waiting:
                self._dropped(self._plugin.name, len(self._waiting))
                self._waiting = []
            self._task = None
            self._busy.discard(self)

    async def _give(self, batch: list[Record]) -> None:
        given = False
        try:
            waiting = self._plugin.batch(batch)
            if waiting is not None:
                await waiting
            given, self._failing = True, False
        except Exception as error:  # protects the worker, and the batches after this one, from the plugin
            if not self._failing:
                logger.warning("%s lost %d records: %s: %s", self._plugin.name, len(batch), type(error).__name__, error)
            self._failing = True
        finally:
            if not given:
                self._dropped(self._plugin.name, len(batch))
