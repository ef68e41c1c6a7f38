"""Live: the seconds of all workers, merged into one frame a second for the browsers that look.

One subscription and one ticker for a process, however many look; both end with the last of them. A frame is what the
messages that came since the one before add up to: workers send on whole seconds, the ticker turns half a second later.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Iterable, Mapping
from time import time
from typing import Any

import redis.asyncio

from gateway.proxy.histogram import merge, percentile
from gateway.proxy.live import CHANNEL, WATCH, WATCH_ROWS
from gateway.proxy.tasks import ended

logger = logging.getLogger(__name__)

#: How long workers go on after the last word of a watcher, which it says with every frame.
WATCH_S = 5
#: Frames that wait for one browser. It gets no more than that late: then it is dropped.
QUEUE_MAX = 8
RETRY_S = 1.0

Message = Mapping[str, Any]
Queue = asyncio.Queue[dict[str, Any] | None]  # None: you were too slow


def frame_of(messages: Iterable[Message], t: int, connected: bool = True) -> dict[str, Any]:
    """Of one second. `connected` false: Redis is away, so nothing is known. `version` is the oldest one served."""
    messages = list(messages)
    by_class: dict[str, int] = {}
    for message in messages:
        for status_class, requests in message["by_class"].items():
            by_class[status_class] = by_class.get(status_class, 0) + requests
    bins = merge([(int(bin_), count) for bin_, count in message["bins"].items()] for message in messages)
    p50, p95, p99 = (percentile(bins, share) for share in (0.5, 0.95, 0.99))
    return {
        "t": t,
        "connected": connected,
        "rps": sum(message["requests"] for message in messages),
        "by_class": by_class,
        "p50": _round(p50),
        "p95": _round(p95),
        "p99": _round(p99),
        "rejected": sum(message["limited"] for message in messages),
        "version": min((message["version"] for message in messages if message["version"] is not None), default=None),
        "workers": len({message["source"] for message in messages}),
        "rows": sorted((row for message in messages for row in message["rows"]), key=lambda row: row["at"]),
    }


class Feed:
    """Whoever looks gets a queue of frames. Everything of one event loop."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._watchers: dict[Queue, bool] = {}  # → whether it wants rows
        self._messages: list[Message] = []
        self._connected = False
        self._task: asyncio.Task[None] | None = None

    def join(self) -> Queue:
        queue: Queue = asyncio.Queue(QUEUE_MAX + 1)
        self._watchers[queue] = False
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="live feed")
        return queue

    def want_rows(self, queue: Queue, wanted: bool) -> None:
        if queue in self._watchers:
            self._watchers[queue] = wanted

    def leave(self, queue: Queue) -> None:
        self._watchers.pop(queue, None)
        if not self._watchers and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        async with redis.asyncio.from_url(
            self._redis_url, socket_connect_timeout=1, socket_timeout=1, retry=None
        ) as client:
            listening = asyncio.get_running_loop().create_task(self._listen())
            try:
                while True:
                    await self._keep_watching(client)
                    await asyncio.sleep(1 - (time() + 0.5) % 1)
                    self._tell()
            finally:
                await ended([listening])

    async def _keep_watching(self, client: Any) -> None:
        try:
            async with client.pipeline(transaction=False) as together:
                together.set(WATCH, 1, ex=WATCH_S)
                if any(self._watchers.values()):
                    together.set(WATCH_ROWS, 1, ex=WATCH_S)
                await together.execute()
        except (redis.RedisError, OSError):
            self._connected = False

    async def _listen(self) -> None:
        while True:
            try:
                async with (
                    redis.asyncio.from_url(self._redis_url, socket_connect_timeout=1) as client,
                    client.pubsub(ignore_subscribe_messages=True) as channel,
                ):
                    await channel.subscribe(CHANNEL)
                    self._connected = True
                    async for message in channel.listen():
                        self._take(message["data"])
            except (redis.RedisError, OSError):
                self._connected = False
                await asyncio.sleep(RETRY_S)

    def _take(self, data: bytes) -> None:
        with contextlib.suppress(ValueError):
            self._messages.append(json.loads(data))

    def _tell(self) -> None:
        messages, self._messages = self._messages, []
        frame = frame_of(messages, int(time()), self._connected)
        bare = {name: value for name, value in frame.items() if name != "rows"}
        for queue, with_rows in list(self._watchers.items()):
            if queue.qsize() < QUEUE_MAX:
                queue.put_nowait(frame if with_rows else bare)
            else:
                queue.put_nowait(None)
                del self._watchers[queue]


def _round(value_ms: float | None) -> float | None:
    return None if value_ms is None else float(f"{value_ms:.3g}")
