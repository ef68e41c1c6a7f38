"""A worker's side of the board: tells what its traffic shows of the targets, and hears what the node's probes say and
which targets the other workers have ejected. In between, `hearsay` tells of each failure at once.

Twice a second, in a thread: a disk that hangs holds that thread and nothing else. Probes that are not renewed stop
counting, so a node without a recorder falls back to what the workers see.
"""

from __future__ import annotations

import asyncio

from gateway.proxy.balancer import Balancer
from gateway.proxy.board import STALE_S, Board
from gateway.proxy.health import Probed, Standing
from gateway.proxy.hearsay import Hearsay
from gateway.proxy.sightings import Key, Report, Sighting, sightings
from gateway.proxy.snapshot import UpstreamSpec

TURN_S = 0.5
#: A disk that does not answer so long must not hold up a worker's start.
BEGIN_S = 1.0

_Heard = tuple[dict[Key, Probed], list[tuple[Key, Standing]]]


class Watch:
    def __init__(self, balancer: Balancer, board: Board, worker: int) -> None:
        self._balancer = balancer
        self._board = board
        self._worker = worker
        self._probes: dict[Key, Probed] = {}
        self._turn: asyncio.Future[_Heard] | None = None
        self._hearsay = Hearsay(balancer, board.directory, worker)

    async def run(self) -> None:
        self._hearsay.open()
        try:
            while True:
                await self.turn()
                await asyncio.sleep(TURN_S)
        finally:
            self._hearsay.close()

    async def begin(self) -> None:
        """Before the first request: what the node knows of its targets, also of workers that this one replaces."""
        async with asyncio.timeout(BEGIN_S):
            found = await asyncio.to_thread(self._read)
        self._hear(found)

    async def turn(self) -> None:
        """Marks in the balancer who is down, and who is ejected."""
        self._hearsay.look()
        if self._turn is None:
            reports, standings = list(self._balancer.reports()), list(self._balancer.standings())
            self._turn = asyncio.ensure_future(asyncio.to_thread(self._exchange, reports, standings))
        done, _ = await asyncio.wait([self._turn], timeout=STALE_S)
        heard = self._turn.result() if done else ({}, [])
        if done:
            self._turn = None
        self._hear(heard)

    def _hear(self, heard: _Heard) -> None:
        self._probes, standings = heard
        self._balancer.mark(frozenset(key for key, probed in self._probes.items() if not probed.up))
        self._balancer.learn(standings)

    def _exchange(self, reports: list[Report], standings: list[tuple[Key, Standing]]) -> _Heard:
        self._board.post_reports(self._worker, reports)
        self._board.post_standings(self._worker, standings)
        return self._read()

    def _read(self) -> _Heard:
        return self._board.probes(), self._board.standings()

    def sightings(self, upstreams: list[UpstreamSpec]) -> list[Sighting]:
        """As this worker alone sees them."""
        return sightings(upstreams, self._balancer.reports(), self._probes)
