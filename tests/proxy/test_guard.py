from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import REGISTRY

from gateway.proxy.errors import CircuitOpen, UpstreamBusy
from gateway.proxy.guard import Breaker, Budget, Ceiling, Guards
from gateway.proxy.snapshot import BreakerPolicy, CarePolicy
from tests.proxy.gatewaying import target, upstream

POLICY = BreakerPolicy(error_share=0.5, slow_s=1.0, slow_share=0.5, min_requests=10, window_s=10.0, open_s=5.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("guarded", POLICY, clock)


def run(breaker: Breaker, *failed: bool, took_s: float = 0.1) -> None:
    for one in failed:
        breaker.settle(breaker.admit(), one, took_s)


def gauge() -> float | None:
    return REGISTRY.get_sample_value("hydragate_upstream_circuit_open", {"upstream": "guarded"})


def test_it_opens_when_the_share_is_reached_and_not_before_there_is_enough_to_judge(breaker: Breaker) -> None:
    run(breaker, *[True] * 9)
    assert (breaker.phase, gauge()) == ("closed", 0)
    run(breaker, True)
    assert (breaker.phase, gauge()) == ("open", 1)
    with pytest.raises(CircuitOpen) as caught:
        breaker.admit()
    assert list(caught.value.headers) == [(b"retry-after", b"5")]


def test_below_the_share_it_stays_closed(breaker: Breaker) -> None:
    run(breaker, *[False, False, False, True] * 50)
    assert breaker.phase == "closed"


def test_slow_answers_open_it_too(breaker: Breaker) -> None:
    run(breaker, *[False] * 9, took_s=1.0)
    assert breaker.phase == "closed"
    run(breaker, False, took_s=1.0)
    assert breaker.phase == "open"


def test_the_window_moves_on(breaker: Breaker, clock: Clock) -> None:
    run(breaker, *[True] * 9)
    clock.now_s += 10.1
    run(breaker, *[False] * 5, *[True] * 4)
    assert breaker.phase == "closed"


def test_half_open_lets_exactly_one_through(breaker: Breaker, clock: Clock) -> None:
    run(breaker, *[True] * 10)
    clock.now_s += 5.0
    assert breaker.admit() is True
    for _ in range(20):
        with pytest.raises(CircuitOpen):
            breaker.admit()
    breaker.settle(True, False, 0.1)
    assert (breaker.phase, gauge()) == ("closed", 0)
    assert breaker.admit() is False


@pytest.mark.parametrize(("failed", "took_s"), [(True, 0.1), (False, 1.0)])
def test_a_trial_that_fails_or_is_slow_opens_it_again(
    breaker: Breaker, clock: Clock, failed: bool, took_s: float
) -> None:
    run(breaker, *[True] * 10)
    clock.now_s += 5.0
    breaker.settle(breaker.admit(), failed, took_s)
    assert breaker.phase == "open"
    clock.now_s += 4.9
    with pytest.raises(CircuitOpen):
        breaker.admit()


def test_a_trial_that_tells_nothing_leaves_its_place_to_the_next(breaker: Breaker, clock: Clock) -> None:
    run(breaker, *[True] * 10)
    clock.now_s += 5.0
    breaker.abandon(breaker.admit())
    assert breaker.admit() is True


def test_answers_to_requests_from_before_change_nothing(breaker: Breaker, clock: Clock) -> None:
    early = [breaker.admit() for _ in range(5)]
    run(breaker, *[True] * 10)
    clock.now_s += 5.0
    trial = breaker.admit()
    for one in early:
        breaker.settle(one, False, 0.1)
    assert breaker.phase == "half-open"
    breaker.settle(trial, True, 0.1)
    assert breaker.phase == "open"


# --- the ceiling


def ceiling(most: int, queue: int = 0, timeout_s: float = 0.05) -> Ceiling:
    made = Ceiling()
    made.set(most, queue, timeout_s)
    return made


def test_a_request_from_before_it_opened_does_not_open_it_again(breaker: Breaker, clock: Clock) -> None:
    hanging = [breaker.admit() for _ in range(20)]
    run(breaker, *[True] * 10)
    clock.now_s += POLICY.open_s
    run(breaker, False)
    assert breaker.phase == "closed"
    clock.now_s += 1
    for trial in hanging:
        breaker.settle(trial, True, POLICY.open_s + 1)
    assert breaker.phase == "closed"


async def test_so_many_and_no_more() -> None:
    subject = ceiling(2)
    await subject.enter()
    await subject.enter()
    with pytest.raises(UpstreamBusy) as caught:
        await subject.enter()
    assert list(caught.value.headers) == [(b"retry-after", b"1")]
    subject.leave()
    await subject.enter()
    assert subject.inside == 2


async def test_who_waits_comes_first_in_turn() -> None:
    subject, order = ceiling(1, queue=2, timeout_s=5), []

    async def one(name: str) -> None:
        await subject.enter()
        order.append(name)

    await subject.enter()
    tasks = [asyncio.create_task(one(name)) for name in "ab"]
    await asyncio.sleep(0)
    with pytest.raises(UpstreamBusy):
        await subject.enter()  # the queue is full
    subject.leave()
    await tasks[0]
    assert (order, subject.inside, subject.waiting) == (["a"], 1, 1)
    subject.leave()
    await tasks[1]
    assert order == ["a", "b"]


async def test_waiting_has_an_end_and_who_leaves_loses_no_place() -> None:
    subject = ceiling(1, queue=5)
    await subject.enter()
    with pytest.raises(UpstreamBusy):
        await subject.enter()
    longer = ceiling(1, queue=5, timeout_s=60)
    await longer.enter()
    with pytest.raises(UpstreamBusy):  # the request's own time is over before
        await longer.enter(asyncio.get_running_loop().time() + 0.01)
    gone = asyncio.create_task(subject.enter())
    await asyncio.sleep(0)
    subject.leave()  # its turn comes in the same moment in which it leaves
    gone.cancel()
    await asyncio.wait([gone])
    assert (subject.inside, subject.waiting) == (0, 0)


async def test_who_gives_up_in_the_moment_another_leaves_is_cancelled_and_nothing_else() -> None:
    ceiling = Ceiling()
    ceiling.set(1, 1, 5.0)
    await ceiling.enter()
    waiting = asyncio.create_task(ceiling.enter())
    await asyncio.sleep(0)
    waiting.cancel()
    ceiling.leave()  # before the task has heard of it
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (ceiling.inside, ceiling.waiting) == (0, 0)


async def test_a_ceiling_that_is_lifted_lets_them_all_in() -> None:
    subject = ceiling(1, queue=5, timeout_s=5)
    await subject.enter()
    waiting = [asyncio.create_task(subject.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    subject.set(0, 0, 1.0)
    await asyncio.gather(*waiting)
    assert subject.inside == 4


# --- the budget


def test_attempts_are_a_share_of_the_requests(clock: Clock) -> None:
    budget = Budget(clock)
    budget.set(0.25, 1.0)
    assert sum(budget.take() for _ in range(100)) == 10  # what a quiet time has saved
    for _ in range(40):
        budget.request()
    assert sum(budget.take() for _ in range(100)) == 10
    clock.now_s += 3
    assert sum(budget.take() for _ in range(100)) == 3
    clock.now_s += 10_000
    assert sum(budget.take() for _ in range(100)) == 35  # nothing is saved for ever


# --- through configurations


def guarded(**care: Any) -> Any:
    return upstream("guarded", target(1), care=CarePolicy(**care))


def test_a_new_configuration_forgets_nothing_and_a_removed_one_everything(clock: Clock) -> None:
    guards, up = Guards(clock), guarded(breaker=POLICY)
    breaker = guards.of(up, up.care).breaker
    assert breaker is not None
    run(breaker, *[True] * 10)
    again = guarded(breaker=POLICY, max_concurrency=7)
    guards.retain([again])
    guard = guards.of(again, again.care)
    assert (guard.breaker, guard.ceiling.most) == (breaker, 7)
    assert [one["circuit"] for one in guards.shown()] == ["open"]
    guards.retain([upstream("guarded", target(1))])
    assert (list(guards.shown()), gauge()) == ([], 0)
