from __future__ import annotations

from pathlib import Path

from gateway.proxy.balancer import Balancer
from gateway.proxy.board import Board
from gateway.proxy.health import Probed
from gateway.proxy.watch import Watch
from tests.proxy.gatewaying import target, upstream

A, B = (target(port, number=port) for port in (1, 2))
UP = upstream("up", A, B)
KEY = ("up", A.address)


async def test_a_turn_tells_and_hears(tmp_path: Path) -> None:
    balancer, board = Balancer(), Board(tmp_path)
    watch = Watch(balancer, Board(tmp_path), 3)
    balancer.pick(UP)
    balancer.state(UP, B).answered(200, 0.05)
    board.post_probes({KEY: Probed(up=False, fault="Status 500."), ("up", B.address): Probed()})
    await watch.turn()
    assert {balancer.pick(UP).target for _ in range(5)} == {B}
    assert [report.latency_ms for report in board.reports() if report.address == B.address] == [50.0]
    seen = {one.address: (one.state, one.probe and one.probe.fault) for one in watch.sightings([UP])}
    assert seen == {A.address: ("down", "Status 500."), B.address: ("up", "")}


async def test_without_a_recorder_nothing_is_down(tmp_path: Path) -> None:
    balancer, board = Balancer(), Board(tmp_path)
    watch = Watch(balancer, board, 1)
    board.post_probes({KEY: Probed(up=False)})
    await watch.turn()
    (board.directory / "probes.json").unlink()
    await watch.turn()
    assert {balancer.pick(UP).target for _ in range(5)} == {A, B}
