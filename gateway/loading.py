"""The configuration that a worker serves: compiled beside the traffic, swapped in by one assignment, kept on disk.

What cannot be built leaves in place what is served, and says why: a document, or the files of plugins, which are loaded
anew when they change and compiled with the version that is live.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

from gateway.database import Database, DatabaseUnavailable
from gateway.environment import Environment
from gateway.plugins.base import Resources
from gateway.plugins.registry import Registry, files_of
from gateway.proxy import metrics
from gateway.proxy.discovery import Discovery
from gateway.proxy.forward import Forwarder
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.shadows import Shadows
from gateway.proxy.snapshot import Snapshot
from gateway.proxy.table import RoutingTable
from routes import selectors
from routes.compile import compile as compile_document
from routes.kept import keep, kept, kept_path

logger = logging.getLogger("gateway.runtime")

HEARTBEAT_S = 10.0
#: How long a configuration waits for the first targets of upstreams that have to find theirs.
DISCOVERY_S = 1.0
EMPTY_DOCUMENT: dict[str, Any] = {}


class Loader:
    """One per worker. `error`: why the newest configuration is not served, if so."""

    def __init__(
        self, environment: Environment, worker: int, database: Database, resources: Resources, pipeline: Pipeline,
        forwarder: Forwarder, shadows: Shadows, discovery: Discovery,
    ) -> None:  # fmt: skip
        self._environment, self._worker, self._database, self._resources = environment, worker, database, resources
        self._pipeline, self._forwarder, self._shadows, self._discovery = pipeline, forwarder, shadows, discovery
        self.digest = ""
        self.error = ""
        self._plugin_files = files_of(environment.plugin_dir)
        self._candidate: Registry | None = None  # changed plugins that do not fit the version that is served
        self.registry, problems = Registry.load_sound(environment.plugins, environment.plugin_dir, late=True)
        self._unsound, self._misfit = problems, ""  # why what stands in files of plugins is not what runs, if so
        if problems:
            logger.error("plugins that cannot be used: %s", self.plugin_error)
        self._refused: tuple[int, str] | None = None  # a version that could not be built: it will not be tried again
        self._unkept: tuple[Mapping[str, Any], int, str] | None = None  # the newest document that is not on disk yet
        self._keeper: asyncio.Task[None] | None = None
        self._reported_s = 0.0
        self._apply_ms = 0.0

    @property
    def plugin_error(self) -> str:
        return " ".join(filter(None, (*self._unsound, self._misfit)))

    async def follow(self, number: int, digest: str) -> None:
        """This version is live. Raises DatabaseUnavailable."""
        if self._environment.plugin_dir is not None:
            await self._reload_plugins(self._environment.plugin_dir)
        table = self._pipeline.table
        live = (number, digest)
        if live != self._refused and (table is None or live != (table.version, self.digest)):
            await self._apply(number, digest)
        if monotonic() - self._reported_s > HEARTBEAT_S:
            await self._report()

    async def aclose(self) -> None:
        """What is to be kept on disk has two seconds more."""
        if self._keeper is not None:
            await asyncio.wait([self._keeper], timeout=2.0)

    async def _apply(self, number: int, digest: str) -> None:
        if digest == self.digest and self._pipeline.table is not None:
            self._pipeline.table.version, self.error = number, ""  # the same document again: nothing to build
            metrics.config_version(number)
        else:
            document = await self._database.run(selectors.document_of, number) if number else EMPTY_DOCUMENT
            if not await self._build(document, number, digest):
                return
            self._keep(document, number, digest)
        await self._report()

    async def _reload_plugins(self, directory: Path) -> None:
        """Load what has changed, and compile the same version with it. What fails leaves in place what runs."""
        files = await asyncio.to_thread(files_of, directory)
        if files == self._plugin_files:
            return
        paths, table = self._environment.plugins, self._pipeline.table
        load = partial(Registry.load_sound, paths, directory, self.registry, late=True)
        registry, problems = await asyncio.to_thread(load)
        document = None
        if table is not None and table.version:
            document = await self._database.run(selectors.document_of, table.version)
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
        """Compile beside the traffic, then swap by one assignment. What does not compile leaves everything as it is.

        A table lives long and holds no cycles: looks of the collector at it would only stop the loop, so there is none
        until it is frozen. What is garbage by then would stay for ever, and goes before.
        """
        gc.collect()
        gc.disable()
        try:
            try:
                table = await asyncio.to_thread(self.table, document, number, digest, registry)
            except Exception as error:  # protects the traffic: a broken plugin or document must not end what works
                logger.debug("version %s does not compile", number, exc_info=True)
                return error
            await self.swap(table, digest)
        finally:
            gc.enable()
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
        table = self._pipeline.table
        assert table is not None
        logger.info("serving configuration version %s (%d routes)", number, len(table.snapshot.routes))
        return True

    def table(self, document: Mapping[str, Any], number: int, digest: str, registry: Registry) -> RoutingTable:
        snapshot = Snapshot(number, digest)
        if document:
            references = self._environment.references
            snapshot = compile_document(document, registry, version=number, references=references, resolve=True)
        return RoutingTable(snapshot, registry, self._resources)

    async def swap(self, table: RoutingTable, digest: str) -> None:
        if self._environment.role != "admin":
            self._discovery.aim(table.snapshot.upstreams.values())
            await self._discovery.settle(DISCOVERY_S)
            table.retarget(self._discovery.applied)
        self._pipeline.table, self.digest = table, digest
        self._retain(table)
        metrics.config_version(table.version)
        gc.freeze()

    def retarget(self) -> None:
        """Discovery found other targets: requests from now on go to those, connections to the others are closed."""
        table = self._pipeline.table
        if table is not None:
            table.retarget(self._discovery.applied)
            self._retain(table)

    def _retain(self, table: RoutingTable) -> None:
        upstreams = list(table.snapshot.upstreams.values())
        self._forwarder.retain(upstreams)
        self._shadows.retain(upstreams)

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
            keep(self._environment.data_dir, document, number, digest)
        except OSError as error:
            path = kept_path(self._environment.data_dir)
            logger.warning("the configuration could not be kept in %s: %s", path, error)

    async def load_from_disk(self) -> None:
        path = kept_path(self._environment.data_dir)
        try:
            document, number, digest = kept(self._environment.data_dir)
            await self.swap(self.table(document, number, digest, self.registry), digest)
        except FileNotFoundError:
            logger.error("no configuration: none can be had from PostgreSQL, and %s does not exist yet", path)
        except Exception as error:  # whatever the file or a plugin does: the worker starts, and goes on looking
            logger.error("the configuration kept in %s cannot be used: %r", path, error)

    async def _report(self) -> None:
        table = self._pipeline.table
        with contextlib.suppress(DatabaseUnavailable):
            await self._database.run(
                selectors.report_applied,
                node=self._environment.node,
                worker=self._worker,
                pid=os.getpid(),
                role=self._environment.role,
                number=table.version if table else 0,
                apply_ms=self._apply_ms,
                error=self.error or self.plugin_error,
            )
            self._reported_s = monotonic()
