"""The node's watch over its targets: runs the probes, and puts together what they and the workers see.

A thread of the recorder process with a loop of its own, so that neither a slow database nor a backlog of usage rows
holds up a probe. What to probe it reads from the document the workers keep on disk: it works with PostgreSQL away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from pathlib import Path

from prometheus_client import Gauge

from gateway.proxy import metrics
from gateway.proxy.board import Board
from gateway.proxy.calls import Calls
from gateway.proxy.discovery import Discovered, Discovery
from gateway.proxy.fence import FENCE, Fence
from gateway.proxy.prober import Prober
from gateway.proxy.sightings import Sighting, sightings
from gateway.proxy.snapshot import UpstreamSpec
from routes.compile import upstreams_of
from routes.kept import kept, kept_path

logger = logging.getLogger(__name__)

TURN_S = 0.5
TIDY_S = 60.0
#: What an earlier recorder of this node knew is where this one begins, unless it is older.
KNOWN_S = 600.0


class Watcher(threading.Thread):
    """`sightings` and `discovered` are replaced whole; anybody may read them."""

    def __init__(self, data_dir: Path, fence: Fence = FENCE) -> None:
        super().__init__(name="watcher", daemon=True)
        self.sightings: list[Sighting] = []
        self.discovered: list[Discovered] = []
        self._data_dir = data_dir
        self._fence = fence
        self._board = Board(data_dir)
        self._upstreams: list[UpstreamSpec] = []
        self._stamp: tuple[int, int] | None = None  # of the document read last
        self._told: dict[tuple[str, str], bool] = {}
        self._ones: set[tuple[Gauge, tuple[str, ...]]] = set()  # what stands at 1
        self._tidy_at_s = 0.0
        self._stopping = threading.Event()

    def run(self) -> None:
        asyncio.run(self._run())

    def stop(self) -> None:
        self._stopping.set()
        if self.is_alive():
            self.join(5)

    async def _run(self) -> None:
        changed = asyncio.Event()
        prober = Prober(self._board.probes(KNOWN_S), changed.set, self._fence)
        calls = Calls(self._fence)
        discovery = Discovery(calls, self._fence, changed.set)
        discovery.recall(self._board.discovered())
        while not self._stopping.is_set():
            try:
                self._turn(prober, discovery)
            except Exception:  # protects the probes: a watcher that stopped would leave targets as they are
                logger.exception("watching the targets failed")
            changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TURN_S):
                    await changed.wait()
        await prober.aclose()
        await discovery.aclose()
        await calls.aclose()

    def _turn(self, prober: Prober, discovery: Discovery) -> None:
        if changed := self._changed():
            discovery.aim(self._upstreams)
        upstreams = [discovery.applied(upstream) for upstream in self._upstreams]
        if changed or upstreams != self._upstreams:
            self._upstreams = upstreams
            prober.aim(upstreams)
        self.discovered = list(discovery.shown())
        self._board.post_discovered(one for one in self.discovered if one.targets)
        self._board.post_probes(prober.probes)
        self.sightings = sightings(self._upstreams, self._board.reports(), prober.probes)
        self._measure()
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._tidy_at_s:
            self._board.tidy()
            self._tidy_at_s = now_s + TIDY_S

    def _changed(self) -> bool:
        """Reads the document, if there is another one. One that cannot be read leaves everything as it is."""
        try:
            found = kept_path(self._data_dir).stat()
            stamp = found.st_mtime_ns, found.st_ino
            if stamp == self._stamp:
                return False
            document, _, _ = kept(self._data_dir)
        except (OSError, ValueError, LookupError):
            return False
        self._stamp = stamp
        self._upstreams = list(upstreams_of(document).values())
        return True

    def _measure(self) -> None:
        now = {(one.upstream, one.address): one.state in ("up", "draining") for one in self.sightings}
        ones: set[tuple[Gauge, tuple[str, ...]]]
        ones = {(metrics.TARGET_STATE, (one.upstream, one.address, one.state)) for one in self.sightings}
        ones |= {(metrics.UPSTREAM_INFO, (upstream.name, upstream.balancing)) for upstream in self._upstreams}
        for gauge, labels in ones - self._ones:
            gauge.labels(*labels).set(1)
        for gauge, labels in self._ones - ones:
            gauge.labels(*labels).set(metrics.GONE)
        self._ones = ones
        for key, up in now.items():
            if self._told.get(key) is not up:
                metrics.TARGET_UP.labels(*key).set(float(up))
        for key in self._told.keys() - now.keys():
            metrics.TARGET_UP.labels(*key).set(metrics.GONE)
        self._told = now
