from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from gateway.proxy.balancer import Balancer
from gateway.proxy.choosing import quickest
from gateway.proxy.errors import ConnectFailed
from tests.proxy.gatewaying import target, upstream

A, B, C = (target(port, number=port) for port in (1, 2, 3))


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("weights", [(5, 1, 1), (1, 1, 1), (3, 2, 1), (100, 50, 25), (7, 0, 3)])
def test_round_robin_is_exact_over_a_turn_and_never_far_from_its_share(weights: tuple[int, ...]) -> None:
    balancer = Balancer()
    up = upstream("up", *(target(port, weight=weight) for port, weight in enumerate(weights, 1)))
    total, picks = sum(weights), Counter[int]()
    for turn in range(1, 3 * total + 1):
        picks[balancer.pick(up).target.port] += 1
        for port, weight in enumerate(weights, 1):
            assert abs(picks[port] - turn * weight / total) < len(weights) - 1
    assert all(picks[port] == 3 * weight for port, weight in enumerate(weights, 1))


def test_the_heaviest_is_never_asked_in_a_long_run() -> None:
    balancer, up = Balancer(), upstream("up", target(1, weight=2), target(2, weight=1), target(3, weight=1))
    ports = [balancer.pick(up).target.port for _ in range(40)]
    assert sum(one == other for one, other in pairwise(ports)) <= len(ports) // 4


def test_weights_edited_live_count_at_once() -> None:
    balancer = Balancer()
    before = upstream("up", target(1, weight=65535), target(2, weight=60000))
    for _ in range(7):
        balancer.pick(before)
    after = upstream("up", target(1, weight=1), target(2, weight=1))
    assert Counter(balancer.pick(after).target.port for _ in range(10)) == {1: 5, 2: 5}


def test_one_request_at_a_time_does_not_always_meet_the_same_target() -> None:
    balancer, up = Balancer(), upstream("up", A, B, C, balancing="least-connections")
    assert Counter(balancer.pick(up).target.port for _ in range(9)) == {1: 3, 2: 3, 3: 3}


# --- ewma -------------------------------------------------------------------------------------------------------------


def run(balancer: Balancer, latencies: dict[int, float], times: int = 300, **fields: object) -> Counter[int]:
    up = upstream("up", A, B, C, balancing="ewma", **fields)
    picks: Counter[int] = Counter()
    for _ in range(times):
        state = balancer.pick(up)
        picks[state.target.port] += 1
        state.answered(200, latencies[state.target.port])
    return picks


def test_the_slow_one_gets_little_and_the_quick_ones_the_rest() -> None:
    picks = run(Balancer(Clock()), {1: 0.01, 2: 0.01, 3: 0.2})
    assert picks[3] < 20
    assert min(picks[1], picks[2]) > 50


def test_what_is_in_flight_counts() -> None:
    balancer, up = Balancer(Clock()), upstream("up", A, B, balancing="ewma")
    for one in (A, B):
        balancer.pick(up)
        balancer.state(up, one).answered(200, 0.01)
    balancer.state(up, A).in_flight = 20
    assert {balancer.pick(up).target.port for _ in range(20)} == {2}


def test_a_slow_one_is_asked_again_when_its_latency_is_old() -> None:
    clock = Clock()
    balancer = Balancer(clock)
    run(balancer, {1: 0.01, 2: 0.01, 3: 2.0})
    clock.now_s += 200
    assert run(balancer, {1: 0.01, 2: 0.01, 3: 0.009})[3] > 20


def test_quick_failures_attract_nobody() -> None:
    balancer, up = Balancer(Clock()), upstream("up", A, B, balancing="ewma")
    picks: Counter[int] = Counter()
    for _ in range(4):  # fewer than eject it
        balancer.pick(up)
        balancer.state(up, A).broke(ConnectFailed(), with_body=False)
        balancer.state(up, B).answered(200, 0.01)
    for _ in range(50):
        picks[balancer.pick(up).target.port] += 1
    assert picks == {2: 50}


def test_a_newcomer_begins_with_the_mean_of_the_others() -> None:
    balancer, clock = Balancer(clock := Clock()), clock
    run(balancer, {1: 0.1, 2: 0.3, 3: 0.1})
    new = target(4, number=4)
    up = upstream("up", A, B, C, new, balancing="ewma")
    balancer.pick(up)
    costs = [balancer.state(up, one).cost(clock()) for one in (A, B, C)]
    assert balancer.state(up, new).cost(clock()) == pytest.approx(sum(costs) / 3)


def test_two_different_ones_are_compared() -> None:
    balancer, up = Balancer(Clock()), upstream("up", A, B, C, balancing="ewma")
    balancer.pick(up)
    states = [balancer.state(up, one) for one in (A, B, C)]
    for state, latency_s in zip(states, (0.3, 0.2, 0.1), strict=True):
        state.answered(200, latency_s)
    chance = Random(1)
    chosen = Counter(quickest(states, 1000.0, chance.random).target.port for _ in range(600))
    assert chosen.keys() == {2, 3}  # never the worst of all
    assert 150 < chosen[2] < 250  # of three pairs one leaves the best out


# --- slow start -------------------------------------------------------------------------------------------------------


def test_who_comes_up_gets_more_and_more_until_its_full_share() -> None:
    clock = Clock()
    balancer, up = Balancer(clock), upstream("up", A, B, slow_start_s=10.0)
    balancer.pick(up)
    key = ("up", A.address)
    balancer.mark(frozenset({key}))
    balancer.mark(frozenset())
    shares = []
    for _ in range(6):
        shares.append(Counter(balancer.pick(up).target.port for _ in range(110))[1])
        clock.now_s += 2.5
    assert 8 <= shares[0] <= 12
    assert shares[0] < shares[1] < shares[2] < shares[3]
    assert shares[4:] == [55, 55]
    assert not balancer._groups["up"].wary


@pytest.mark.parametrize("others", ["down", "none"])
def test_nobody_starts_slowly_who_is_alone(others: str) -> None:
    balancer = Balancer(Clock())
    up = upstream("up", A, B, slow_start_s=10.0)
    assert Counter(balancer.pick(up).target.port for _ in range(10)) == {1: 5, 2: 5}  # all are new
    both = frozenset({("up", A.address), ("up", B.address)})
    balancer.mark(both)
    balancer.mark(both - {("up", A.address)})
    assert {balancer.pick(up).target.port for _ in range(5)} == {1}
    if others == "none":
        balancer.mark(frozenset())
        assert Counter(balancer.pick(up).target.port for _ in range(11))[2] == 1


def test_a_new_and_a_restored_target_start_slowly() -> None:
    clock = Clock()
    balancer = Balancer(clock)
    balancer.pick(upstream("up", A, target(2, weight=0), slow_start_s=10.0))
    up = upstream("up", A, B, C, slow_start_s=10.0)
    counts = Counter(balancer.pick(up).target.port for _ in range(120))
    assert counts[1] == 100
    clock.now_s += 10
    assert Counter(balancer.pick(up).target.port for _ in range(30)) == {1: 10, 2: 10, 3: 10}
