from __future__ import annotations

from collections import Counter

import pytest

from gateway.proxy.balancer import Balancer
from gateway.proxy.errors import NoTarget
from tests.proxy.gatewaying import target, upstream

A, B, C = (target(port, number=port) for port in (1, 2, 3))


def test_round_robin_is_smooth_and_weighted() -> None:
    balancer, up = Balancer(), upstream("up", target(1, weight=5), target(2, weight=1), target(3, weight=1))
    assert [balancer.pick(up).port for _ in range(7)] == [1, 1, 2, 1, 3, 1, 1]


def test_least_connections_counts_what_is_in_flight_by_weight() -> None:
    balancer, up = Balancer(), upstream("up", A, target(2, weight=200), balancing="least-connections")
    picks = []
    for _ in range(6):
        picked = balancer.pick(up)
        balancer.state(up, picked).in_flight += 1
        picks.append(picked.port)
    assert Counter(picks) == {2: 4, 1: 2}


def test_a_tried_target_comes_again_only_when_no_other_is_left() -> None:
    balancer, up = Balancer(), upstream("up", A, B)
    assert balancer.pick(up, {A.address}) == B
    assert balancer.pick(up, {A.address, B.address}) in (A, B)


def test_weight_zero_is_drained() -> None:
    balancer = Balancer()
    assert {balancer.pick(upstream("up", A, target(2, weight=0))).port for _ in range(5)} == {1}
    with pytest.raises(NoTarget):
        balancer.pick(upstream("up", target(1, weight=0)))
    with pytest.raises(NoTarget):
        balancer.pick(upstream("up"))


def test_state_outlives_a_reload_until_nothing_is_in_flight() -> None:
    balancer, up = Balancer(), upstream("up", A, B)
    balancer.state(up, A).in_flight = 1
    balancer.retain([upstream("up", C)])
    assert balancer.state(up, A).in_flight == 1
    balancer.state(up, A).in_flight = 0
    balancer.retain([upstream("up", C)])
    assert not balancer._states
