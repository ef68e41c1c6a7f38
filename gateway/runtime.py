"""Runtime: what one worker is made of. Loads the live configuration, compiles it aside, swaps it in, keeps it fresh.

The truth is the number of the live ConfigVersion in PostgreSQL, asked for every second; a Redis message only makes the
question come sooner. Credential changes travel the same way. With PostgreSQL down the last good document on disk
serves; with both away the worker keeps what it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from time import monotonic, perf_counter, time
from typing import Any

import redis.asyncio
from django.conf import settings

from gateway.database import Database, DatabaseUnavailable
from gateway.environment import Environment
from gateway.plugins.base import Resources
from gateway.plugins.batches import Batches
from gateway.plugins.registry import Registry, files_of
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
from gateway.proxy.snapshot import Snapshot, TargetSpec
from gateway.proxy.table import RoutingTable
from gateway.proxy.tracing import Traces
from gateway.proxy.transport import Transports
from gateway.proxy.watch import Watch
from keys import lookup
from keys.nudge import CONFIG_CHANNEL, CREDENTIALS_CHANNEL
from routes import selectors
from routes.compile import compile as compile_document
from routes.kept import keep, kept, kept_path

logger = logging.getLogger("gateway.runtime")

POLL_S = 1.0
HEARTBEAT_S = 10.0
#: How long a configuration waits for the first targets of upstreams that have to find theirs.
DISCOVERY_S = 1.0


class Runtime:
    def __init__(self, environment: Environment, redis_url: str, worker: int) -> None:
        self.environment = environment
        self.worker = worker
        self.started = False
        self.draining = False
        self.served = 0  # requests that ended
        self.digest = ""
        self.error = ""  # why the newest configuration is not served, if so
        self._plugin_files = files_of(environment.plugin_dir)
        self._candidate: Registry | None = None  # changed plugins that do not fit the version that is served
        self.registry, problems = Registry.load_sound(environment.plugins, environment.plugin_dir, late=True)
        self._unsound, self._misfit = problems, ""  # why what stands in files of plugins is not what runs, if so
        if problems:
            logger.error("plugins that cannot be used: %s", self.plugin_error)
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
        self.discovery = Discovery(self.calls, environment.fence, self._retarget)
        self.journal = Journal(
            spool_dir(environment.data_dir),
            str(worker),
            node=environment.node,
            max_bytes=environment.usage_spool_max_mb << 20,
            on_batch=self._fold,
        )
        self.access_log = _access_log(environment)
        self.pipeline = Pipeline(self.forwarder, Downstream(environment.trusted_proxies), self.journal.append)
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
        self._refused: tuple[int, str] | None = None  # a version that could not be built: it will not be tried again
        self._unkept: tuple[Mapping[str, Any], int, str] | None = None  # the newest document that is not on disk yet
        self._keeper: asyncio.Task[None] | None = None
        self._cursor: Moment | None = None  # how far the feed of credential changes was read
        self._nudged = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._reported_s = 0.0
        self._apply_ms = 0.0
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
                self.discovery.recall(await asyncio.wait_for(asyncio.to_thread(self.board.discovered), DISCOVERY_S))
            try:
                await self._refresh()
            except DatabaseUnavailable as error:
                logger.warning("PostgreSQL is not available (%s): starting from the last good configuration", error)
            if self.pipeline.table is None:
                await self._load_from_disk()
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._poll()), loop.create_task(self._listen())]
            if self.environment.role != "admin":
                with contextlib.suppress(TimeoutError):
                    await self.watch.begin()
                self._tasks += [loop.create_task(self.live.run()), loop.create_task(self.watch.run())]
            self.started = True

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.discovery.aclose()
        if self._keeper is not None:
            await asyncio.wait([self._keeper], timeout=2.0)
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
                await asyncio.wait_for(self._nudged.wait(), POLL_S)
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
        if self.environment.plugin_dir is not None:
            await self._reload_plugins(self.environment.plugin_dir)
        table = self.pipeline.table
        live = (number, digest)
        if live != self._refused and (table is None or live != (table.version, self.digest)):
            await self._apply(number, digest)
        if monotonic() - self._reported_s > HEARTBEAT_S:
            await self._report()

    async def _apply(self, number: int, digest: str) -> None:
        if digest == self.digest and self.pipeline.table is not None:
            self.pipeline.table.version, self.error = number, ""  # the same document again: nothing to build
            metrics.config_version(number)
        else:
            document = await self.database.run(selectors.document_of, number) if number else EMPTY_DOCUMENT
            if not await self._build(document, number, digest):
                return
            self._keep(document, number, digest)
        await self._report()

    async def _reload_plugins(self, directory: Path) -> None:
        """Load what has changed, and compile the same version with it. What fails leaves in place what runs."""
        files = await asyncio.to_thread(files_of, directory)
        if files == self._plugin_files:
            return
        paths, table = self.environment.plugins, self.pipeline.table
        load = partial(Registry.load_sound, paths, directory, self.registry, late=True)
        registry, problems = await asyncio.to_thread(load)
        document = None
        if table is not None and table.version:
            document = await self.database.run(selectors.document_of, table.version)
        self._plugin_files, self._candidate, self._refused = files, registry, None
        if document is not None and table is not None:
            error = await self._try(document, table.version, self.digest, registry)
            self._misfit = "" if error is None else str(error)
        else:
            self.registry, self._candidate, self._misfit = registry, None, ""
        self._unsound = problems
        if self.plugin_error:
            logger.error("changed plugins cannot be used, what runs goes on: %s", self.plugin_error)
        else:
            logger.info("plugins loaded anew: %s", ", ".join(file for file, _, _ in files) or "none")
        await self._report()

    async def _try(self, document: Mapping[str, Any], number: int, digest: str, registry: Registry) -> Exception | None:
        """Compile beside the traffic, then swap by one assignment. What does not compile leaves everything as it is."""
        try:
            table = await asyncio.to_thread(self._table, document, number, digest, registry)
        except Exception as error:  # protects the traffic: a broken plugin or document must not end what works
            logger.debug("version %s does not compile", number, exc_info=True)
            return error
        await self._swap(table, digest)
        self.registry = registry
        if registry is self._candidate:
            self._candidate, self._misfit = None, ""
        return None

    async def _build(self, document: Mapping[str, Any], number: int, digest: str) -> bool:
        """With plugins that were changed, if there are some that do not fit the version before; else as they run."""
        begun = perf_counter()
        errors = []
        for registry in filter(None, (self._candidate, self.registry)):
            error = await self._try(document, number, digest, registry)
            if error is None:
                break
            errors.append(error)
        else:
            text = "configuration version %s cannot be served; still serving the one before"
            logger.error(text, number, exc_info=errors[0])
            self.error, self._refused = f"version {number}: {errors[0]}", (number, digest)
            await self._report()
            return False
        self.error = ""
        self._apply_ms = (perf_counter() - begun) * 1000
        table = self.pipeline.table
        assert table is not None
        logger.info("serving configuration version %s (%d routes)", number, len(table.snapshot.routes))
        return True

    def _table(self, document: Mapping[str, Any], number: int, digest: str, registry: Registry) -> RoutingTable:
        snapshot = Snapshot(number, digest)
        if document:
            references = self.environment.references
            snapshot = compile_document(document, registry, version=number, references=references, resolve=True)
        return RoutingTable(snapshot, registry, self.resources)

    async def _swap(self, table: RoutingTable, digest: str) -> None:
        if self.environment.role != "admin":
            self.discovery.aim(table.snapshot.upstreams.values())
            await self.discovery.settle(DISCOVERY_S)
            table.retarget(self.discovery.applied)
        self.pipeline.table, self.digest = table, digest
        self._retain(table)
        metrics.config_version(table.version)
        # A table lives long and holds no cycles: walks of the collector through it would only stop the loop.
        gc.collect(1)
        gc.freeze()

    def _retarget(self) -> None:
        """Discovery found other targets: requests from now on go to those, connections to the others are closed."""
        table = self.pipeline.table
        if table is not None:
            table.retarget(self.discovery.applied)
            self._retain(table)

    def _retain(self, table: RoutingTable) -> None:
        upstreams = list(table.snapshot.upstreams.values())
        self.forwarder.retain(upstreams)
        self.shadows.retain(upstreams)

    def _keep(self, document: Mapping[str, Any], number: int, digest: str) -> None:
        """In a thread, for a disk may hang; then only the newest document waits for it."""
        self._unkept = document, number, digest
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep_newest(), name="keeper")

    async def _keep_newest(self) -> None:
        while self._unkept is not None:
            newest, self._unkept = self._unkept, None
            await asyncio.to_thread(self._keep_on_disk, *newest)

    def _keep_on_disk(self, document: Mapping[str, Any], number: int, digest: str) -> None:
        try:
            keep(self.environment.data_dir, document, number, digest)
        except OSError as error:
            path = kept_path(self.environment.data_dir)
            logger.warning("the configuration could not be kept in %s: %s", path, error)

    async def _load_from_disk(self) -> None:
        path = kept_path(self.environment.data_dir)
        try:
            document, number, digest = kept(self.environment.data_dir)
            await self._swap(self._table(document, number, digest, self.registry), digest)
        except FileNotFoundError:
            logger.error("no configuration: none can be had from PostgreSQL, and %s does not exist yet", path)
        except Exception as error:  # whatever the file or a plugin does: the worker starts, and goes on looking
            logger.error("the configuration kept in %s cannot be used: %r", path, error)

    async def _report(self) -> None:
        table = self.pipeline.table
        with contextlib.suppress(DatabaseUnavailable):
            await self.database.run(
                selectors.report_applied,
                node=self.environment.node,
                worker=self.worker,
                pid=os.getpid(),
                role=self.environment.role,
                number=table.version if table else 0,
                apply_ms=self._apply_ms,
                error=self.error or self.plugin_error,
            )
            self._reported_s = monotonic()

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

    @property
    def plugin_error(self) -> str:
        return " ".join(filter(None, (*self._unsound, self._misfit)))

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
            "config_digest": self.digest,
            "config_error": self.error,
            "plugin_error": self.plugin_error,
            "routes": len(table.snapshot.routes) if table else 0,
            "upstreams": len(table.snapshot.upstreams) if table else 0,
            "plugins": list(self.registry.names),
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


EMPTY_DOCUMENT: dict[str, Any] = {}


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
