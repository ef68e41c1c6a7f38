from __future__ import annotations

from collections import Counter

import pytest

from gateway.proxy.balancer import Balancer
from gateway.proxy.errors import ConnectFailed, NoHealthyTarget, NoTarget, UpstreamBusy
from gateway.proxy.snapshot import EjectPolicy, ProbePolicy, TargetSpec, UpstreamSpec
from tests.proxy.gatewaying import target, upstream

A, B, C = (target(port, number=port) for port in (1, 2, 3))


def test_round_robin_is_smooth_and_weighted() -> None:
    balancer, up = Balancer(), upstream("up", target(1, weight=5), target(2, weight=1), target(3, weight=1))
    assert [balancer.pick(up).target.port for _ in range(7)] == [1, 1, 2, 1, 3, 1, 1]


def test_least_connections_counts_what_is_in_flight_by_weight() -> None:
    balancer, up = Balancer(), upstream("up", A, target(2, weight=200), balancing="least-connections")
    picks = []
    for _ in range(6):
        picked = balancer.pick(up).target
        balancer.state(up, picked).in_flight += 1
        picks.append(picked.port)
    assert Counter(picks) == {2: 4, 1: 2}


def test_a_tried_target_comes_again_only_when_no_other_is_left() -> None:
    balancer, up = Balancer(), upstream("up", A, B)
    assert balancer.pick(up, {A.address}).target == B
    assert balancer.pick(up, {A.address, B.address}).target in (A, B)


def test_weight_zero_is_drained() -> None:
    balancer = Balancer()
    assert {balancer.pick(upstream("up", A, target(2, weight=0))).target.port for _ in range(5)} == {1}
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


# --- health -----------------------------------------------------------------------------------------------------------

PROBE = ProbePolicy("tcp", "/", "", 2.5, 1.0, 2, 3, ((200, 399),), b"")


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def fail(balancer: Balancer, up: UpstreamSpec, of: TargetSpec, times: int = 5) -> None:
    for _ in range(times):
        balancer.state(up, of).answered(500, 0.1)


def picks(balancer: Balancer, up: UpstreamSpec, times: int = 12) -> Counter[int]:
    return Counter(balancer.pick(up).target.port for _ in range(times))


def test_a_target_that_fails_is_left_out_and_comes_back_by_one_request() -> None:
    clock = Clock()
    balancer, up = Balancer(clock), upstream("up", A, B, C)
    picks(balancer, up)
    fail(balancer, up, B)
    assert picks(balancer, up) == {1: 6, 3: 6}
    clock.now_s += 10
    assert picks(balancer, up)[2] == 1
    balancer.state(up, B).answered(200, 0.1)
    assert picks(balancer, up) == {1: 4, 2: 4, 3: 4}
    assert not balancer._groups["up"].wary


@pytest.mark.parametrize("status", [200, 301, 404, 429, 499, 501, 505])
def test_answers_that_are_no_failure_of_the_target(status: int) -> None:
    balancer, up = Balancer(), upstream("up", A, B)
    picks(balancer, up)
    for _ in range(20):
        balancer.state(up, A).answered(status, 0.1)
    assert picks(balancer, up) == {1: 6, 2: 6}


def test_a_connection_that_cannot_be_made_counts_and_our_own_limits_do_not() -> None:
    balancer, up = Balancer(), upstream("up", A, B)
    picks(balancer, up)
    for _ in range(5):
        balancer.state(up, A).broke(ConnectFailed(), with_body=False)
        balancer.state(up, B).broke(UpstreamBusy(), with_body=False)
    assert picks(balancer, up) == {2: 12}


def test_a_silent_target_gets_single_requests_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("gateway.proxy.balancer.perf_counter", clock)
    balancer, up = Balancer(), upstream("up", A, B)
    silent, other = balancer.state(up, A), balancer.state(up, B)

    def asked(times: int) -> Counter[int]:
        """B answers at once, A never."""
        ports: Counter[int] = Counter()
        for _ in range(times):
            state = balancer.pick(up)
            ports[state.target.port] += 1
            state.asked(clock.now_s)
            if state is other:
                state.heard(clock.now_s)
                state.in_flight -= 1
            clock.now_s += 0.001
        return ports

    for state in (silent, other):  # quick, until now
        state.asked(clock.now_s)
        state.heard(clock.now_s)
        state.answered(200, 0.001)
    assert asked(50)[1] == 25  # not long enough to say
    clock.now_s += 0.05
    assert asked(1000)[1] == 0
    clock.now_s += 5
    assert asked(1000)[1] == 1  # its next turn
    silent.heard(clock.now_s)
    assert asked(10)[1] == 5
    clock.now_s += 1
    assert picks(balancer, up) == {2: 12}
    other.asked(clock.now_s)
    clock.now_s += 0.1
    assert picks(balancer, up) == {1: 6, 2: 6}  # if all are silent, none is


def test_one_that_never_answered_has_a_second_and_one_that_is_left_may_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("gateway.proxy.balancer.perf_counter", clock)
    balancer, up = Balancer(), upstream("up", A, B)
    silent = balancer.state(up, A)
    silent.asked(clock.now_s)
    clock.now_s += 0.9
    assert picks(balancer, up)[1] == 6
    clock.now_s += 0.2
    assert picks(balancer, up)[1] == 0
    silent.gave_up()  # its client left
    assert picks(balancer, up)[1] == 6


def test_the_only_target_is_never_ejected() -> None:
    balancer, up = Balancer(), upstream("up", A, target(2, weight=0))
    picks(balancer, up)
    fail(balancer, up, A, 50)
    assert picks(balancer, up) == {1: 12}


def test_no_more_than_the_share_is_ejected_and_those_down_count() -> None:
    four = [target(port, number=port) for port in (1, 2, 3, 4)]
    balancer, up = Balancer(), upstream("up", *four)
    picks(balancer, up)
    balancer.mark(frozenset({("up", four[0].address)}))
    for one in four[1:]:
        fail(balancer, up, one, 20)
    assert set(picks(balancer, up)) == {3, 4}
    assert balancer.state(up, four[1]).standing.phase == "out"


def test_targets_that_are_down_get_nothing_until_they_are_up() -> None:
    balancer, up = Balancer(), upstream("up", A, B, C, probe=PROBE)
    balancer.mark(frozenset({("up", A.address), ("other", B.address)}))
    assert picks(balancer, up) == {2: 6, 3: 6}
    balancer.mark(frozenset())
    assert picks(balancer, up) == {1: 4, 2: 4, 3: 4}


def test_all_down_is_said_at_once_with_a_time_to_come_back() -> None:
    balancer, up = Balancer(), upstream("up", A, B, probe=PROBE)
    balancer.mark(frozenset({("up", A.address), ("up", B.address)}))
    for tried in ((), {A.address}):
        with pytest.raises(NoHealthyTarget) as caught:
            balancer.pick(up, tried)
        assert dict(caught.value.headers) == {b"retry-after": b"5"}


def test_ejected_ones_are_better_than_none() -> None:
    balancer, up = Balancer(), upstream("up", A, B)
    picks(balancer, up)
    fail(balancer, up, A)
    balancer.mark(frozenset({("up", B.address)}))
    assert picks(balancer, up) == {1: 12}


def test_who_comes_up_again_begins_anew() -> None:
    balancer, up = Balancer(), upstream("up", A, B)
    picks(balancer, up)
    fail(balancer, up, A)
    balancer.mark(frozenset({("up", A.address)}))
    balancer.mark(frozenset())
    assert picks(balancer, up) == {1: 6, 2: 6}


def test_a_reload_forgets_neither_ejection_nor_latency_nor_who_is_down() -> None:
    balancer, up = Balancer(), upstream("up", A, B, C)
    picks(balancer, up)
    fail(balancer, up, A)
    balancer.state(up, B).answered(200, 0.25)
    balancer.mark(frozenset({("up", C.address)}))
    later = upstream("up", target(1, weight=7), B, C, retries=9)
    balancer.retain([later])
    assert picks(balancer, later) == {2: 12}
    assert balancer.state(later, B).latency_s == 0.25
    assert picks(balancer, up) == {2: 12}  # a request that began before the reload


def test_ejection_switched_off_lets_all_back() -> None:
    balancer, up = Balancer(), upstream("up", A, B)
    picks(balancer, up)
    fail(balancer, up, A)
    assert picks(balancer, upstream("up", A, B, eject=EjectPolicy(after=0))) == {1: 6, 2: 6}


def test_a_drained_target_counts_for_nobody() -> None:
    balancer, up = Balancer(), upstream("up", A, B)
    picks(balancer, up)
    drained = upstream("up", target(1, weight=0), B)
    assert picks(balancer, drained) == {2: 12}
    fail(balancer, drained, A, 20)  # what was under way
    fail(balancer, drained, B, 20)
    assert picks(balancer, drained) == {2: 12}


def test_the_mean_of_good_answers_is_reported_and_failures_do_not_make_it_better() -> None:
    balancer, up = Balancer(), upstream("up", A, B)
    picks(balancer, up)
    state = balancer.state(up, A)
    state.answered(200, 0.1)
    state.answered(200, 0.2)
    state.answered(503, 0.001)
    state.in_flight = 3
    (report,) = [report for report in balancer.reports() if report.address == A.address]
    assert (report.latency_ms, report.in_flight, report.failures, report.ejected) == (110.0, 3, 1, False)
