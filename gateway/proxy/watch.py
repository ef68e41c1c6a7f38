"""A worker's side of the board: tells what its traffic shows of the targets, and hears what the node's probes say.

Twice a second, in a thread: a disk that hangs holds that thread and nothing else. Probes that are not renewed stop
counting, so a node without a recorder falls back to what each worker sees.
"""

from __future__ import annotations

import asyncio

from gateway.proxy.balancer import Balancer
from gateway.proxy.board import STALE_S, Board
from gateway.proxy.health import Probed
from gateway.proxy.sightings import Key, Report, Sighting, sightings
from gateway.proxy.snapshot import UpstreamSpec

TURN_S = 0.5


class Watch:
    def __init__(self, balancer: Balancer, board: Board, worker: int) -> None:
        self._balancer = balancer
        self._board = board
        self._worker = worker
        self._probes: dict[Key, Probed] = {}
        self._turn: asyncio.Future[dict[Key, Probed]] | None = None

    async def run(self) -> None:
        while True:
            await self.turn()
            await asyncio.sleep(TURN_S)

    async def turn(self) -> None:
        """Marks in the balancer who is down."""
        if self._turn is None:
            reports = list(self._balancer.reports())
            self._turn = asyncio.ensure_future(asyncio.to_thread(self._exchange, reports))
        done, _ = await asyncio.wait([self._turn], timeout=STALE_S)
        self._probes = self._turn.result() if done else {}
        if done:
            self._turn = None
        self._balancer.mark(frozenset(key for key, probed in self._probes.items() if not probed.up))

    def _exchange(self, reports: list[Report]) -> dict[Key, Probed]:
        self._board.post_reports(self._worker, reports)
        return self._board.probes()

    def sightings(self, upstreams: list[UpstreamSpec]) -> list[Sighting]:
        """As this worker alone sees them."""
        return sightings(upstreams, self._balancer.reports(), self._probes)
