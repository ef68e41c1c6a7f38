"""The recorder of a node: ships segments as they become ready, and keeps the tables.

A loop of one thread. When PostgreSQL is away, segments wait on disk and it tries again, at most 2 s apart. Beside it
runs the watcher, which probes the targets; what it sees is told here. And the keeper of quotas, who puts back what
Redis lost.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime

from django.db import Error, connection

from dashboard.partitions import claims_prune, partitions_keep, rollups_prune
from dashboard.reconcile import Keeper
from dashboard.shipping import ship
from dashboard.spool import Spool
from dashboard.watcher import Watcher
from gateway.proxy import metrics
from keys.services import changes_prune
from routes import health

logger = logging.getLogger(__name__)

#: Between two looks at the spool. A row is 0.6 s old when its segment is ready; shipping many at once is far cheaper
#: than shipping each as it comes, for rollup rows are then updated once for all of them.
LOOK_S = 0.5
RETRY_MIN_S, RETRY_MAX_S = 0.1, 2.0
ADOPT_S = 1.0
REPORT_S = 2.0
UPKEEP_S, UPKEEP_AGAIN_S = 600.0, 10.0


class Recorder:
    def __init__(
        self, spool: Spool, node: str, retention_days: int, watcher: Watcher | None = None, keeper: Keeper | None = None
    ) -> None:
        self._spool, self._node, self._retention_days = spool, node, retention_days
        self._watcher, self._keeper = watcher, keeper
        self._told: list[str] = []  # the states of targets that were reported last
        self._adopt_at_s = self._upkeep_at_s = self._report_at_s = 0.0
        self._retry_s = 0.0  # 0: PostgreSQL answered last time

    def run(self, stop: threading.Event) -> None:
        """Until `stop`; then ships once more: the workers have just closed their segments. Raises AlreadyRunning."""
        with self._spool.taken():
            for beside in (self._watcher, self._keeper):
                if beside is not None:
                    beside.start()
            more = False
            while not stop.wait(0 if more else self._retry_s or LOOK_S):
                more = self._turn()
            self._adopt_at_s = 0.0
            self._turn()
            connection.close()
            for beside in (self._watcher, self._keeper):
                if beside is not None:
                    beside.stop()

    def _turn(self) -> bool:
        """Whether there is more to ship at once."""
        now_s = time.monotonic()
        if now_s >= self._adopt_at_s:
            self._spool.adopt()
            metrics.USAGE_SPOOL_BYTES.set(self._spool.bytes())
            metrics.USAGE_BAD_FILES.set(self._spool.bad_files())
            self._adopt_at_s = now_s + ADOPT_S
        if now_s >= self._upkeep_at_s:
            self._upkeep_at_s = now_s + (UPKEEP_S if self._upkeep() else UPKEEP_AGAIN_S)
        try:
            shipped = ship(self._spool, self._node)
        except (Error, OSError) as error:
            self._failed(error)
            return False
        self._worked()
        self._report(now_s)
        return shipped.more

    def _report(self, now_s: float) -> None:
        """What the targets do: at once when one changes its state, else every few seconds."""
        if self._watcher is None:
            return
        sightings = self._watcher.sightings
        discovered = self._watcher.discovered
        states = [f"{one.upstream} {one.address} {one.state}" for one in sightings]
        states += [f"{one.upstream} {one.state}" for one in discovered]
        if states != self._told or now_s >= self._report_at_s:
            try:
                health.report(self._node, sightings, discovered)
            except Error:  # shipping says what is wrong with PostgreSQL
                connection.close()
                return
            self._told, self._report_at_s = states, now_s + REPORT_S

    def _upkeep(self) -> bool:
        """Whether all of it was done. Never in the way of shipping: without a partition, rows go to the default one."""
        now = datetime.now(UTC)
        try:
            partitions_keep(now.date(), self._retention_days)
            rollups_prune(now, self._retention_days)
            claims_prune(now, self._node, [segment.id for segment in self._spool.ready()], self._retention_days)
            changes_prune()
        except Error as error:
            logger.warning("upkeep of usage tables comes later: %s", str(error).strip())
            return False
        return True

    def _failed(self, error: Error | OSError) -> None:
        if not self._retry_s:
            logger.error("usage rows cannot be shipped and wait on disk: %s", str(error).strip())
        self._retry_s = min(RETRY_MAX_S, (self._retry_s or RETRY_MIN_S) * 2)
        connection.close()

    def _worked(self) -> None:
        if self._retry_s:
            logger.info("usage rows are shipped again")
        self._retry_s = 0.0
