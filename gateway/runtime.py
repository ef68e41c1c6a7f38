"""Runtime: what one worker is made of. It keeps itself fresh: `loading` has how a configuration becomes what is served.

The truth is the number of the live ConfigVersion in PostgreSQL, asked for every second; a Redis message only makes the
question come sooner. Credential changes travel the same way. With PostgreSQL down the last good document on disk
serves; with both away the worker keeps what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from time import monotonic, time
from typing import Any

import redis.asyncio
from django.conf import settings

from gateway.database import Database, DatabaseUnavailable
from gateway.environment import Environment
from gateway.loading import DISCOVERY_S, Loader
from gateway.plugins.base import Resources
from gateway.plugins.batches import Batches
from gateway.plugins.store import Store
from gateway.proxy import metrics
from gateway.proxy.accesslog import AccessLog
from gateway.proxy.balancer import Balancer
from gateway.proxy.batcher import Batcher
from gateway.proxy.board import Board
from gateway.proxy.calls import Calls
from gateway.proxy.credentials import Credentials
from gateway.proxy.discovery import Discovered, Discovery
from gateway.proxy.downstream import Downstream
from gateway.proxy.errors import RedisUnavailable
from gateway.proxy.forward import Forwarder
from gateway.proxy.found import Changes, Found, Moment, Question
from gateway.proxy.journal import Journal
from gateway.proxy.live import Live
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.record import Record
from gateway.proxy.rollcall import RollCall
from gateway.proxy.roster import Roster
from gateway.proxy.segments import spool_dir
from gateway.proxy.shadows import Shadows
from gateway.proxy.sightings import Sighting
from gateway.proxy.snapshot import TargetSpec
from gateway.proxy.tasks import ended
from gateway.proxy.tracing import Traces
from gateway.proxy.transport import Transports
from gateway.proxy.watch import Watch
from keys import lookup
from keys.nudge import CONFIG_CHANNEL, CREDENTIALS_CHANNEL
from routes import selectors

logger = logging.getLogger("gateway.runtime")

POLL_S = 1.0


class Runtime:
    def __init__(self, environment: Environment, redis_url: str, worker: int) -> None:
        self.environment = environment
        self.worker = worker
        self.started = False
        self.draining = False
        self.served = 0  # requests that ended
        self.database = Database()
        self.batcher = Batcher(redis_url, timeout_s=environment.redis_timeout_ms / 1000)
        self.credentials = Credentials(self.batcher.command, self._fetch, secret=settings.SECRET_KEY)
        self.calls = Calls(environment.fence)
        self.shadows = Shadows(environment.fence)
        self.store = Store(  # over a connection of its own: counters never wait behind bodies
            Batcher(redis_url, timeout_s=environment.redis_timeout_ms / 1000),
            secret=settings.SECRET_KEY,
            max_bytes=environment.cache_worker_mb << 20,
        )
        self.resources = Resources(
            limiter=self.batcher,
            credentials=self.credentials,
            caller=self.calls,
            clock=monotonic,
            wall=time,
            shadow=self.shadows,
            store=self.store,
            batches=Batches(lambda name, count: metrics.PLUGIN_DROPPED.labels(name).inc(count)),
            fence=environment.fence,
            node=environment.node,
            log_dir=environment.log_dir or environment.data_dir / "logs",
        )
        balancer = Balancer(secret=settings.SECRET_KEY.encode())
        self.forwarder = Forwarder(Transports(environment.fence), balancer, environment.max_body_bytes)
        self.board = Board(environment.data_dir)
        self.watch = Watch(self.forwarder.balancer, self.board, worker)
        self.discovery = Discovery(self.calls, environment.fence, lambda: self.loader.retarget())
        self.journal = Journal(
            spool_dir(environment.data_dir),
            str(worker),
            node=environment.node,
            max_bytes=environment.usage_spool_max_mb << 20,
            on_batch=self._fold,
        )
        self.access_log = _access_log(environment)
        self.pipeline = Pipeline(self.forwarder, Downstream(environment.trusted_proxies), self.journal.append)
        self.loader = Loader(
            environment, worker, self.database, self.resources, self.pipeline, self.forwarder, self.shadows,
            self.discovery,
        )  # fmt: skip
        self.live = Live(self.batcher.command, source=f"{environment.node}/{worker}", version=self._version)
        self.roster = Roster()
        traces = Traces(self.pipeline)
        self.roll_call = RollCall(
            self.batcher.command,
            node=environment.node,
            worker=worker,
            secret=settings.SECRET_KEY,
            answers={
                "websockets": self.roster.told,
                "close": self.roster.closed,
                "guards": lambda about: [*self.forwarder.guards.shown()],
                "trace": traces.begin,
                "traces": traces.told,
            },
        )
        self.front: Callable[[], dict[str, Any]] = dict  # our own server tells of its connections and limits
        self._redis_url = redis_url
        self._started_s = time()
        self._cursor: Moment | None = None  # how far the feed of credential changes was read
        self._nudged = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._rechecks: set[asyncio.Task[None]] = set()  # of open WebSockets
        self._starting: asyncio.Lock = asyncio.Lock()

    # --- life cycle -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load a configuration and begin to keep it fresh. Returns without one, too: then `ready` says no."""
        async with self._starting:
            if self.started:
                return
            await self.batcher.start()
            await self.journal.start()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DISCOVERY_S):
                    self.discovery.recall(await asyncio.to_thread(self.board.discovered))
            try:
                await self._refresh()
            except DatabaseUnavailable as error:
                logger.warning("PostgreSQL is not available (%s): starting from the last good configuration", error)
            if self.pipeline.table is None:
                await self.loader.load_from_disk()
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._poll()), loop.create_task(self._listen())]
            if self.environment.role != "admin":
                with contextlib.suppress(TimeoutError):
                    await self.watch.begin()
                self._tasks += [loop.create_task(self.live.run()), loop.create_task(self.watch.run())]
            self.started = True

    async def stop(self) -> None:
        await ended((*self._tasks, *self._rechecks))
        await self.discovery.aclose()
        await self.loader.aclose()
        await self.journal.aclose()
        await self.resources.batches.aclose()
        await self.resources.kept.aclose()
        if self.access_log is not None:
            await asyncio.to_thread(self.access_log.close)
        await self.forwarder.transports.aclose()
        await self.shadows.aclose()
        await self.store.aclose()
        await self.calls.aclose()
        await self.batcher.aclose()
        self.database.close()
        self.started = False

    def begin_drain(self) -> None:
        self.draining = True

    # --- configuration ----------------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._nudged.wait()
            self._nudged.clear()
            with contextlib.suppress(RedisUnavailable):  # so that `degraded` is true without traffic, too
                await self.batcher.command("PING")
            await self.store.poll()
            for part, away_s in self._away().items():
                metrics.PART_UP.labels(part).set(away_s is None)
            try:
                await self._refresh()
            except DatabaseUnavailable:
                continue  # `degraded` on /ready says so; the next turn asks again
            except (
                Exception
            ):  # protects the poll: a worker that stops looking would serve an old configuration for ever
                logger.exception("refreshing the configuration failed")

    async def _refresh(self) -> None:
        number, digest, (self._cursor, changes) = await self.database.run(_look, self._cursor)
        self.credentials.apply_changes(changes)
        if len(self.roster) and (changes.digests or changes.consumers or changes.everything):
            task = asyncio.create_task(self.roster.recheck(changes, self.credentials.find), name="recheck")
            self._rechecks.add(task)
            task.add_done_callback(self._rechecks.discard)
        await self.loader.follow(number, digest)

    # --- nudges and credentials -------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Wake the poll at each message, answer each question. Lost messages, Redis outages and restarts cost up to
        POLL_S; a lost question one answer."""
        channels = [CONFIG_CHANNEL, CREDENTIALS_CHANNEL, self.store.channel]
        if self.environment.role != "admin":
            channels.append(self.roll_call.channel)
        while True:
            try:
                async with (
                    redis.asyncio.from_url(self._redis_url, socket_connect_timeout=1) as client,
                    client.pubsub(ignore_subscribe_messages=True) as channel,
                ):
                    await channel.subscribe(*channels)
                    async for message in channel.listen():
                        if message["channel"] == self.roll_call.channel.encode():
                            await self.roll_call.hear(message["data"])
                        elif message["channel"] == self.store.channel.encode():
                            self.store.hear(message["data"])
                        else:
                            self._nudged.set()
            except (redis.RedisError, OSError):
                await asyncio.sleep(POLL_S)

    async def _fetch(self, question: Question) -> Found:
        return await self.database.run(lookup.find, question)

    # --- what others may know ---------------------------------------------------------------------------------------

    def _fold(self, records: Sequence[Record]) -> None:
        self.served += len(records)
        metrics.fold(records)
        if self.access_log is not None:
            self.access_log.fold(records)
        self.live.fold(records)

    def _version(self) -> int | None:
        return self.pipeline.table.version if self.pipeline.table else None

    def _away(self) -> dict[str, float | None]:
        """Of each part behind us: for how many seconds it has been failing, None if it works."""
        since = {"postgres": self.database.degraded_since, "redis": self.batcher.degraded_since}
        return {part: None if at_s is None else round(monotonic() - at_s, 1) for part, at_s in since.items()}

    def readiness(self) -> dict[str, Any]:
        degraded = [part for part, away_s in self._away().items() if away_s is not None]
        if self.pipeline.table is None or self.draining:
            reason = "draining" if self.draining else "no configuration loaded"
            return {"status": "unready", "reason": reason, "degraded": degraded}
        return {"status": "degraded" if degraded else "ready", "degraded": degraded}

    def status(self) -> dict[str, Any]:
        table = self.pipeline.table
        return {
            **self.readiness(),
            "node": self.environment.node,
            "worker": self.worker,
            "pid": os.getpid(),
            "role": self.environment.role,
            "uptime_s": round(time() - self._started_s, 1),
            "away_s": self._away(),
            "usage_dropping": self.journal.complaint,
            "config_version": self._version(),
            "config_digest": self.loader.digest,
            "config_error": self.loader.error,
            "plugin_error": self.loader.plugin_error,
            "routes": len(table.snapshot.routes) if table else 0,
            "upstreams": len(table.snapshot.upstreams) if table else 0,
            "plugins": list(self.loader.registry.names),
            "requests_in_flight": self.pipeline.in_flight,
            "front": self.front(),
            "upstreams_guarded": [*self.forwarder.guards.shown()],
            "discovery": [_told(one) for one in self.discovery.shown()],
            "targets": [_shown(one) for one in self.watch.sightings(list(table.snapshot.upstreams.values()))]
            if table
            else [],
        }


def _access_log(environment: Environment) -> AccessLog | None:
    if not environment.access_log:
        return None
    path = None if environment.access_log == "stdout" else Path(environment.access_log)
    return AccessLog(
        path,
        environment.access_log_format,
        node=environment.node,
        max_bytes=environment.access_log_max_mb << 20,
        keep=environment.access_log_keep,
    )


def _shown(sighting: Sighting) -> dict[str, Any]:
    """Of one worker, so without what only a node can say."""
    return {name: value for name, value in asdict(sighting).items() if name != "ejected_by"}


def _told(discovered: Discovered) -> dict[str, Any]:
    at_s = discovered.refreshed_s
    shown = {name: value for name, value in asdict(discovered).items() if name not in ("targets", "refreshed_s")}
    addresses = [TargetSpec(0, *target).address for target in discovered.targets]
    return {**shown, "refreshed_s_ago": round(time() - at_s, 1) if at_s else None, "targets": addresses}


def _look(cursor: Moment | None) -> tuple[int, str, tuple[Moment, Changes]]:
    """Everything a turn of the poll asks for, in one trip to a thread."""
    number, digest = selectors.live_version()
    return number, digest, lookup.changes_since(cursor)


@cache
def current() -> Runtime:
    """This process's runtime, made at the first call and started by whoever runs the process."""
    environment: Environment = settings.ENVIRONMENT
    return Runtime(environment, settings.REDIS_URL, int(os.environ.get("GATEWAY_WORKER", "0")))
