from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy import health
from gateway.proxy.errors import (
    BadRequest,
    ConnectFailed,
    GatewayError,
    NoTarget,
    UpstreamBroke,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.proxy.health import GOOD, Probed, Standing, probed
from gateway.proxy.snapshot import EjectPolicy, ProbePolicy

POLICY = EjectPolicy(after=3, base_s=10.0, max_s=60.0, max_share=0.5)
PROBE = ProbePolicy("http", "/", "", 1.0, 1.0, 2, 3, ((200, 399),), b"")


def failing(times: int, standing: Standing = GOOD, now_s: float = 100.0, policy: EjectPolicy = POLICY) -> Standing:
    for _ in range(times):
        standing = health.failed(standing, now_s, policy, may_eject=True)
    return standing


# --- traffic ----------------------------------------------------------------------------------------------------------


def test_so_many_failures_in_a_row_eject() -> None:
    assert failing(2).phase == "in"
    out = failing(3)
    assert (out.phase, out.until_s) == ("out", 110.0)
    assert not health.takes(out, 109.9)
    assert health.takes(out, 110.0)


def test_a_good_answer_between_them_starts_the_count_anew() -> None:
    assert failing(2, health.answered(failing(2), 100.0)).phase == "in"


def test_zero_never_ejects() -> None:
    assert failing(1000, policy=replace(POLICY, after=0)).phase == "in"


def test_a_target_that_may_not_go_goes_as_soon_as_it_may() -> None:
    standing = GOOD
    for _ in range(10):
        standing = health.failed(standing, 100.0, POLICY, may_eject=False)
    assert (standing.phase, standing.failures) == ("in", 10)
    assert health.failed(standing, 100.0, POLICY, may_eject=True).phase == "out"


def test_when_its_time_is_over_one_request_decides() -> None:
    trial = health.tried(failing(3), 110.0, POLICY)
    assert not health.takes(trial, 111.0)  # no second one beside it
    assert health.takes(trial, 120.0)  # nothing came of it: another one
    back = health.answered(trial, 112.0)
    assert (back.phase, back.failures) == ("in", 0)
    again = health.failed(trial, 112.0, POLICY, may_eject=True)
    assert (again.phase, again.until_s) == ("out", 132.0)


def test_each_ejection_is_twice_as_long_up_to_the_longest() -> None:
    standing, now_s, lasted = failing(3), 100.0, []
    for _ in range(40):
        lasted.append(standing.until_s - now_s)
        now_s = standing.until_s
        standing = health.failed(health.tried(standing, now_s, POLICY), now_s, POLICY, may_eject=True)
    assert lasted[:5] == [10.0, 20.0, 40.0, 60.0, 60.0]
    assert set(lasted[4:]) == {60.0}


@pytest.mark.parametrize(("good_s", "lasts_s"), [(59.0, 20.0), (61.0, 10.0)])
def test_a_good_time_as_long_as_the_longest_ejection_is_forgiven(good_s: float, lasts_s: float) -> None:
    back = health.answered(health.tried(failing(3), 110.0, POLICY), 110.0)
    out = failing(3, back, now_s=110.0 + good_s)
    assert out.until_s - (110.0 + good_s) == lasts_s


def test_answers_of_requests_sent_before_the_ejection_change_nothing() -> None:
    out = failing(3)
    assert health.answered(out, 101.0) is out
    assert failing(2, out, now_s=105.0) == replace(out, failures=5)


@pytest.mark.parametrize(
    ("targets", "share", "may_go"),
    [(1, 1.0, 0), (2, 0.0, 1), (2, 0.5, 1), (2, 1.0, 1), (3, 0.5, 1), (4, 0.5, 2), (10, 0.3, 3), (10, 1.0, 9)],
)
def test_one_target_may_always_go_but_never_the_last(targets: int, share: float, may_go: int) -> None:
    policy, gone = replace(POLICY, max_share=share), 0
    while health.may_eject(targets - 1, 0, gone, policy):
        gone += 1
    assert gone == may_go


@pytest.mark.parametrize(
    ("others", "down", "ejected", "may"),
    [(2, 1, 0, True), (2, 2, 0, False), (2, 1, 1, False), (9, 5, 0, True), (9, 5, 1, False), (9, 3, 1, True)],
)
def test_those_that_are_down_leave_less_to_eject(others: int, down: int, ejected: int, may: bool) -> None:
    assert health.may_eject(others, down, ejected, POLICY) is may


def timeout(phase: str) -> UpstreamTimeout:
    error = UpstreamTimeout()
    error.phase = phase
    return error


@pytest.mark.parametrize(
    ("error", "with_body", "blamed"),
    [
        (ConnectFailed(), True, True), (UpstreamBroke(), True, True), (timeout("connect"), True, True),
        (timeout("first_byte"), True, True), (timeout("total"), False, True),
        (timeout("total"), True, False),  # perhaps the client took that long to send it
        (UpstreamBusy(), False, False), (NoTarget(), False, False), (UpstreamError(), False, False),
    ],
)  # fmt: skip
def test_only_what_the_target_did_counts_against_it(error: UpstreamError, with_body: bool, blamed: bool) -> None:
    assert bool(health.blames(error, with_body)) is blamed


def test_errors_of_the_gateway_are_no_upstream_errors() -> None:
    assert not issubclass(BadRequest, UpstreamError)
    assert not issubclass(GatewayError, UpstreamError)


@given(st.lists(st.sampled_from(["fail", "answer", "try", "wait"]), max_size=60))
def test_whatever_happens_a_target_is_never_out_for_longer_than_the_longest(steps: list[str]) -> None:
    standing, now_s = GOOD, 100.0
    for step in steps:
        if step == "fail":
            standing = health.failed(standing, now_s, POLICY, may_eject=True)
        elif step == "answer":
            standing = health.answered(standing, now_s)
        elif step == "try" and standing.phase != "in" and health.takes(standing, now_s):
            standing = health.tried(standing, now_s, POLICY)
        else:
            now_s += 7
        assert standing.phase == "in" or standing.until_s - now_s <= POLICY.max_s
        assert standing.failures >= POLICY.after or standing.phase == "in"


# --- probes -----------------------------------------------------------------------------------------------------------


def probing(*faults: str, before: Probed | None = None) -> Probed:
    state = before or Probed()
    for second, fault in enumerate(faults, 1):
        state = probed(state, PROBE, fault=fault, at_s=float(second), took_ms=2.0)
    return state


def test_bad_probes_in_a_row_take_a_target_down() -> None:
    assert probing("x", "x").up
    assert probing("x", "x", "", "x", "x").up
    down = probing("x", "x", "x")
    assert (down.up, down.since_s, down.fault) == (False, 3.0, "x")


def test_good_probes_in_a_row_bring_it_back() -> None:
    down = probing("x", "x", "x")
    assert not probing("", before=down).up
    assert not probing("", "x", "", before=down).up
    assert probing("", "", before=down) == Probed(True, 2.0, 0, 2.0, "", 2.0)


def test_the_last_probe_is_told_also_when_it_changes_nothing() -> None:
    state = probing("", "Status 500.")
    assert (state.up, state.fault, state.at_s, state.streak) == (True, "Status 500.", 2.0, 1)


@given(st.lists(st.sampled_from(["", "x"]), max_size=60))
def test_a_target_changes_only_after_enough_probes_that_agree(faults: list[str]) -> None:
    states = [Probed()]
    for fault in faults:
        states.append(probing(fault, before=states[-1]))
    for number, (before, after) in enumerate(pairwise(states)):
        if before.up and not after.up:
            assert faults[number - 2 : number + 1] == ["x"] * 3
        if after.up and not before.up:
            assert faults[number - 1 : number + 1] == [""] * 2


@pytest.mark.parametrize(
    ("weight", "up", "ejected", "state"),
    [(100, True, False, "up"), (100, True, True, "ejected"), (100, False, True, "down"), (0, False, True, "draining")],
)
def test_states(weight: int, up: bool, ejected: bool, state: str) -> None:
    assert health.state_of(weight, up, ejected) == state
