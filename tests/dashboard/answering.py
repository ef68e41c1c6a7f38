"""A worker as the roll call knows it: real Redis, a loop of its own, sockets that only remember what they heard."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis.asyncio
from django.conf import settings
from django.utils import timezone

from gateway.proxy.batcher import Batcher
from gateway.proxy.exchange import Exchange
from gateway.proxy.guard import Guards
from gateway.proxy.rollcall import RollCall
from gateway.proxy.roster import OpenSocket, Roster
from gateway.proxy.tracing import Traces
from routes.models import WorkerReport
from tests.proxy.gatewaying import Bench


class Answering(threading.Thread):
    """`ended`: (request id, code, reason, by) of those that were told to close."""

    def __init__(self, node: str, worker: int) -> None:
        super().__init__(daemon=True)
        self.node, self.worker = node, worker
        self.roster, self.guards = Roster(), Guards()
        self.bench = Bench(None)
        self.traces = Traces(self.bench.pipeline)
        self.ended: list[tuple[str, int, str, str]] = []
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()

    def open(self, exchange: Exchange, opened_s: float = 0.0) -> OpenSocket:
        entry = self.roster.enter(exchange, lambda *told: self._close(exchange, told))
        entry.opened_s = opened_s or entry.opened_s
        return entry

    def get(self, path: str) -> None:
        """A request, in the worker's loop, to its end."""
        asyncio.run_coroutine_threadsafe(self.bench.get(path), self.loop).result(5)

    def _close(self, exchange: Exchange, told: tuple[int, str, str]) -> None:
        self.ended.append((exchange.id, *told))
        self.roster.leave(exchange)

    def run(self) -> None:
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._task.cancel)
        self.join(5)

    async def _serve(self) -> None:
        self._task: Any = asyncio.current_task()
        batcher = Batcher(settings.REDIS_URL, timeout_s=1.0)
        await batcher.start()
        answers = {
            "websockets": self.roster.told,
            "close": self.roster.closed,
            "guards": lambda about: [*self.guards.shown()],
            "trace": self.traces.begin,
            "traces": self.traces.told,
        }
        call = RollCall(
            batcher.command, node=self.node, worker=self.worker, secret=settings.SECRET_KEY, answers=answers
        )
        try:
            async with redis.asyncio.from_url(settings.REDIS_URL) as client, client.pubsub() as channel:
                await channel.subscribe(call.channel)
                async for message in channel.listen():
                    if message["type"] == "subscribe":
                        self.ready.set()
                    else:
                        await call.hear(message["data"])
        except asyncio.CancelledError:
            self.traces.end()
            await batcher.aclose()


@contextmanager
def worker(node: str = "n1", number: int = 1) -> Iterator[Answering]:
    """That reports, too."""
    reported(node, number)
    thread = Answering(node, number)
    thread.start()
    assert thread.ready.wait(5)
    try:
        yield thread
    finally:
        thread.stop()


def reported(node: str, number: int) -> None:
    now = timezone.now()
    WorkerReport.objects.create(node=node, worker=number, pid=1, role="all", applied_at=now, seen_at=now)
