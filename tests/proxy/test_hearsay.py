from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gateway.proxy.balancer import Balancer
from gateway.proxy.board import Board
from gateway.proxy.errors import UpstreamBroke, UpstreamTimeout
from gateway.proxy.hearsay import Hearsay
from gateway.proxy.snapshot import EjectPolicy, UpstreamSpec
from gateway.proxy.watch import Watch
from tests.proxy.gatewaying import target, upstream

A, B, C = (target(port, number=port) for port in (1, 2, 3))
UP = upstream("up", A, B, C)
KEY = ("up", A.address)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)


class Node:
    """Some workers, which have all had a request."""

    def __init__(self, directory: Path, workers: int, up: UpstreamSpec = UP) -> None:
        self.clock = Clock()
        self.balancers = [Balancer(self.clock) for _ in range(workers)]
        self.all = [Hearsay(balancer, directory, number) for number, balancer in enumerate(self.balancers)]
        self.states = []
        for balancer in self.balancers:
            balancer.pick(up)
            self.states.append(balancer.state(up, A))

    async def __aenter__(self) -> Node:
        for one in self.all:
            one.open()
        for one in self.all:
            one.look()
        return self

    async def __aexit__(self, *reason: object) -> None:
        for one in self.all:
            one.close()

    def phases(self) -> set[str]:
        return {state.standing.phase for state in self.states}


async def test_workers_count_failures_together(tmp_path: Path) -> None:
    async with Node(tmp_path, 4) as node:
        for number in range(4):
            node.states[number].answered(500, 0.1)
        await until(lambda: all(state.standing.failures == 4 for state in node.states))
        assert node.phases() == {"in"}
        node.states[0].answered(500, 0.1)
        await until(lambda: node.phases() == {"out"})
        assert {state.standing.fault for state in node.states} == {"status 500"}
        assert {state.standing.until_s for state in node.states} == {1010.0}
        for balancer in node.balancers:
            assert {balancer.pick(UP).target for _ in range(6)} == {B, C}


async def test_a_good_answer_anywhere_starts_the_count_anew(tmp_path: Path) -> None:
    async with Node(tmp_path, 2) as node:
        for _ in range(4):
            node.states[0].answered(500, 0.1)
        await until(lambda: node.states[1].standing.failures == 4)
        node.states[1].answered(200, 0.1)
        await until(lambda: node.states[0].standing.failures == 0)


async def test_one_request_of_the_whole_node_tries_and_all_take_it_back(tmp_path: Path) -> None:
    async with Node(tmp_path, 3) as node:
        for _ in range(5):
            node.states[0].answered(500, 0.1)
        await until(lambda: node.phases() == {"out"})
        node.clock.now_s += 10
        tried = []
        for balancer in node.balancers:
            tried += [balancer.pick(UP).target for _ in range(6)]
            await until(lambda: node.phases() == {"trial"})
        assert Counter(tried)[A] == 1
        node.clock.now_s += 1
        node.states[0].answered(200, 0.1)
        await until(lambda: node.phases() == {"in"})


async def test_a_worker_without_traffic_knows_when_its_first_request_comes(tmp_path: Path) -> None:
    async with Node(tmp_path, 1) as node:
        newcomer = Balancer(node.clock)
        hearsay = Hearsay(newcomer, tmp_path, 9)
        hearsay.open()
        node.all[0].look()
        for _ in range(5):
            node.states[0].answered(500, 0.1)
        await until(lambda: KEY in newcomer._heard and newcomer._heard[KEY].phase == "out")
        assert {newcomer.pick(UP).target for _ in range(6)} == {B, C}
        hearsay.close()


async def test_pipes_of_workers_that_are_gone_are_removed(tmp_path: Path) -> None:
    async with Node(tmp_path, 2) as node:
        path = tmp_path / "worker-7-1.fifo"
        os.mkfifo(path)
        node.all[0].look()
        assert not path.exists()
        node.all[1].close()
        node.states[0].answered(500, 0.1)  # nobody reads: that is no error
        assert node.all[0]._peers == {}


async def test_nonsense_in_the_pipe_harms_nobody(tmp_path: Path) -> None:
    async with Node(tmp_path, 2) as node:
        with open(next(tmp_path.glob("worker-1-*.fifo")), "wb") as pipe:
            pipe.write(b'what\n[]\n["up"]\n{"a":1}\n["up","x","y"]\n')
        node.states[0].answered(500, 0.1)
        await until(lambda: node.states[1].standing.failures == 1)


async def test_a_new_worker_learns_from_the_board(tmp_path: Path) -> None:
    old, new = Balancer(), Balancer()
    old.pick(UP)
    for _ in range(5):
        old.state(UP, A).answered(500, 0.1)
    await Watch(old, Board(tmp_path), 1).turn()
    await Watch(new, Board(tmp_path), 1).begin()
    assert {new.pick(UP).target for _ in range(6)} == {B, C}
    assert new.state(UP, A).standing == old.state(UP, A).standing


async def test_the_later_word_stands(tmp_path: Path) -> None:
    clock = Clock()
    one, other = Balancer(clock), Balancer(clock)
    for balancer in (one, other):
        balancer.pick(UP)
    for _ in range(5):
        one.state(UP, A).answered(500, 0.1)
    was = list(one.standings())
    other.learn(was)
    clock.now_s += 10
    picked = [other.pick(UP) for _ in range(3)]
    next(state for state in picked if state.target == A).answered(200, 0.1)
    other.learn(was)  # the board is a moment behind
    assert other.state(UP, A).standing.phase == "in"
    one.learn(other.standings())
    assert one.state(UP, A).standing.phase == "in"


# --- what counts ------------------------------------------------------------------------------------------------------


def test_bodies_that_break_off_count_though_each_head_is_good() -> None:
    balancer = Balancer(Clock())
    balancer.pick(UP)
    state = balancer.state(UP, A)
    for _ in range(5):
        state.answered(200, 0.01)
        state.ended(UpstreamBroke())
    assert (state.standing.phase, state.standing.fault) == ("out", "its answer broke off")


def test_a_whole_answer_makes_up_for_broken_ones_and_being_left_is_no_failure() -> None:
    balancer = Balancer(Clock())
    balancer.pick(UP)
    state = balancer.state(UP, A)
    for _ in range(4):
        state.ended(UpstreamBroke())
    state.answered(200, 0.01)
    assert state.standing.failures == 4
    state.ended(None)
    assert state.standing.failures == 0
    total = UpstreamTimeout()
    total.phase = "total"
    for _ in range(9):
        state.ended(total)  # the client may have read that slowly
    assert state.standing.failures == 0


def test_only_what_is_chosen_counts() -> None:
    policy = EjectPolicy(on=frozenset({"status"}), statuses=frozenset({429}))
    balancer, up = Balancer(Clock()), upstream("up", A, B, C, eject=policy)
    balancer.pick(up)
    state = balancer.state(up, A)
    for _ in range(9):
        state.broke(UpstreamBroke(), with_body=False)
        state.answered(500, 0.1)
    assert state.standing.failures == 0
    for _ in range(5):
        state.answered(429, 0.1)
    assert state.standing.phase == "out"


def test_a_suspect_gets_no_more_at_once_than_it_has_failures_left() -> None:
    balancer = Balancer(Clock())
    balancer.pick(UP)
    state = balancer.state(UP, A)
    for _ in range(2):
        state.answered(500, 0.1)
    for _ in range(60):
        balancer.pick(UP).in_flight += 1
    assert state.in_flight == 3
