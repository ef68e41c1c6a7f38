"""The algorithms as numbers, and the Lua script as their equal."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence

import pytest
import redis.asyncio
from django.conf import settings
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from gateway.proxy.batcher import SCRIPT, script_arguments, states_of
from gateway.proxy.limits import BUCKETS, Algorithm, Limit, LimitState, LocalCounters

T0 = 1_790_000_000_000  # ms, on the edge of a minute's window
T0 -= T0 % 60_000
ALGORITHMS: tuple[Algorithm, ...] = ("fixed-window", "sliding-window", "token-bucket", "leaky-bucket")


def run(limit: Limit, times_ms: Sequence[int]) -> list[LimitState]:
    counters = LocalCounters()
    return [counters.check([("key", limit)], T0 + at)[0] for at in times_ms]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_exactly_the_limit_passes_and_the_rest_learns_when_to_come_back(algorithm: Algorithm) -> None:
    states = run(Limit(algorithm, 3, 60.0), [0] * 5)
    assert [state.allowed for state in states] == [True, True, True, False, False]
    assert [state.remaining for state in states] == [2, 1, 0, 0, 0]
    assert all(state.retry_after_s == 0 for state in states[:3])
    assert all(0 < state.retry_after_s <= state.reset_s <= 61 for state in states[3:])


def test_a_fixed_window_is_free_again_at_its_end_and_starts_on_the_clock() -> None:
    states = run(Limit("fixed-window", 1, 60.0), [59_000, 59_999, 60_000])
    assert [state.allowed for state in states] == [True, False, True]
    assert states[1].retry_after_s == 0.001


@pytest.mark.parametrize("algorithm", BUCKETS)
def test_a_bucket_allows_its_burst_then_an_even_rate(algorithm: Algorithm) -> None:
    limit = Limit(algorithm, 60, 60.0, burst=5)
    states = run(limit, [0, 0, 0, 0, 0, 0, 999, 1000, 1001])
    assert [state.allowed for state in states] == [True] * 5 + [False, False, True, False]
    assert states[5].retry_after_s == 1.0
    assert states[6].retry_after_s == 0.001
    assert states[0].reset_s == 1.0


def test_a_sliding_window_gives_room_back_a_slot_after_the_exact_moment_at_the_latest() -> None:
    limit = Limit("sliding-window", 1, 60.0)
    first, second = run(limit, [300, 30_000])
    assert (first.allowed, second.allowed) == (True, False)
    exact_ms = 300 + 60_000
    comes_back_ms = 30_000 + second.retry_after_s * 1000
    assert exact_ms <= comes_back_ms <= exact_ms + 1000


def test_a_client_that_was_refused_is_not_held_off_by_its_own_attempts() -> None:
    counters, limit = LocalCounters(), Limit("sliding-window", 2, 60.0)
    answers = [counters.check([("key", limit)], T0 + at)[0].allowed for at in (0, 0, *range(1000, 60_000, 500), 61_000)]
    assert answers == [True, True, *[False] * 118, True]


@given(
    steps=st.lists(st.integers(0, 700), max_size=200),
    limit=st.integers(1, 12),
    window_ms=st.sampled_from([10, 61, 1000, 1234, 5000]),
)
def test_a_sliding_window_never_admits_more_than_its_limit_in_any_window(
    steps: list[int], limit: int, window_ms: int
) -> None:
    counters, rule = LocalCounters(), Limit("sliding-window", limit, window_ms / 1000)
    admitted: deque[int] = deque()
    now_ms = T0
    for step in steps:
        now_ms += step
        if counters.check([("key", rule)], now_ms)[0].allowed:
            admitted.append(now_ms)
        while admitted and admitted[0] <= now_ms - window_ms:
            admitted.popleft()
        assert len(admitted) <= limit


@given(
    algorithm=st.sampled_from(ALGORITHMS),
    steps=st.lists(st.integers(0, 3000), min_size=1, max_size=50),
    limit=st.integers(1, 8),
    burst=st.integers(0, 8),
)
def test_retry_after_is_the_first_moment_with_room(
    algorithm: Algorithm, steps: list[int], limit: int, burst: int
) -> None:
    rule = Limit(algorithm, limit, 2.0, burst if algorithm in BUCKETS else 0)
    counters, now_ms = LocalCounters(), T0
    for step in steps:
        now_ms += step
        state = counters.check([("key", rule)], now_ms)[0]
        if not state.allowed:
            retry_ms = round(state.retry_after_s * 1000)
            assert not counters.check([("key", rule)], now_ms + retry_ms - 1)[0].allowed
            assert counters.check([("key", rule)], now_ms + retry_ms)[0].allowed
            now_ms += retry_ms


def test_one_refusal_takes_nothing_from_the_other_limits() -> None:
    counters = LocalCounters()
    wide, narrow = ("wide", Limit("sliding-window", 10, 60.0)), ("narrow", Limit("fixed-window", 1, 60.0))
    assert [state.remaining for state in counters.check([wide, narrow], T0)] == [9, 0]
    refused = counters.check([wide, narrow], T0)
    assert [(state.allowed, state.remaining) for state in refused] == [(True, 9), (False, 0)]
    assert counters.check([wide], T0)[0].remaining == 8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_edited_limit_keeps_what_was_counted(algorithm: Algorithm) -> None:
    counters = LocalCounters()
    for _ in range(4):
        counters.check([("key", Limit(algorithm, 5, 60.0))], T0)
    lowered = counters.check([("key", Limit(algorithm, 1, 60.0))], T0 + 1)[0]
    assert lowered.remaining == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_clock_that_goes_back_gives_no_room(algorithm: Algorithm) -> None:
    states = run(Limit(algorithm, 1, 60.0), [60_000, 59_000, 0])
    assert [state.allowed for state in states] == [True, False, False]


def test_a_larger_burst_is_there_at_once_in_a_leaky_bucket_and_fills_up_in_a_token_bucket() -> None:
    rooms = []
    for algorithm in BUCKETS:
        counters = LocalCounters()
        counters.check([("key", Limit(algorithm, 2, 60.0))], T0, 2)
        rooms.append(counters.check([("key", Limit(algorithm, 2, 60.0, burst=6))], T0)[0].allowed)
    assert dict(zip(BUCKETS, rooms, strict=True)) == {"token-bucket": False, "leaky-bucket": True}


def test_a_period_ends_when_it_says_and_is_told_by_its_key() -> None:
    counters = LocalCounters()
    states = [counters.check([("key", Limit("period", 3, left_s))], T0, 2)[0] for left_s in (5.0, 4.0)]
    assert states == [LimitState(True, 1, 5.0, 0.0), LimitState(False, 1, 4.0, 4.0)]


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "period"])
def test_what_costs_more_than_a_limit_holds_never_passes(algorithm: Algorithm) -> None:
    counters, limit = LocalCounters(), Limit(algorithm, 5, 60.0)
    assert not counters.check([("key", limit)], T0, 6)[0].allowed
    assert counters.check([("key", limit)], T0, 5)[0].allowed
    assert not counters.check([("key", limit)], T0 + 59_000, 6)[0].allowed


@pytest.mark.parametrize(
    ("limit", "exact"),
    [
        (Limit("token-bucket", 1_000_000, 31 * 86_400), True), (Limit("leaky-bucket", 280_000, 366 * 86_400), True),
        (Limit("leaky-bucket", 290_000, 366 * 86_400), False), (Limit("sliding-window", 1_000_000, 366 * 86_400), True),
    ],
)  # fmt: skip
def test_a_bucket_is_exact_as_long_as_doubles_are(limit: Limit, exact: bool) -> None:
    assert limit.exact == exact


def test_local_counters_forget_the_key_used_longest_ago() -> None:
    counters, limit = LocalCounters(max_keys=2), Limit("fixed-window", 1, 60.0)
    for key in ("a", "b", "a", "c"):
        counters.check([(key, limit)], T0)
    assert len(counters) == 2
    assert not counters.check([("a", limit)], T0)[0].allowed
    assert counters.check([("b", limit)], T0)[0].allowed


# --- the script -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(settings.REDIS_URL) as client:
        yield client


LIMITS = st.builds(
    Limit,
    algorithm=st.sampled_from([*ALGORITHMS, "period"]),
    limit=st.one_of(st.integers(1, 5), st.integers(1, 1_000_000)),
    window_s=st.sampled_from([0.007, 1.0, 1.234, 60.0, 86_400.0, 31 * 86_400.0, 366 * 86_400.0]),
    burst=st.one_of(st.just(0), st.integers(1, 6), st.integers(1, 1_000_000)),
).filter(lambda limit: limit.exact)
COSTS = st.one_of(st.just(1), st.integers(1, 7), st.integers(1, 1_000_000))
STEPS = st.one_of(st.integers(-50, 400), st.integers(0, 120_000), st.integers(0, 40 * 86_400_000))


@given(
    limits=st.lists(LIMITS, min_size=1, max_size=4),
    calls=st.lists(
        st.tuples(STEPS, st.lists(st.tuples(st.sets(st.integers(0, 3), min_size=1), COSTS), min_size=1, max_size=5)),
        max_size=12,
    ),
)
@profile(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_script_and_the_functions_give_equal_numbers(
    server: redis.asyncio.Redis, limits: list[Limit], calls: list[tuple[int, list[tuple[set[int], int]]]]
) -> None:
    """Batches of units over shared keys, with a clock that jumps both ways."""
    prefix, counters, now_ms = f"hg:rl:test:{uuid.uuid4().hex}:", LocalCounters(), T0
    for step, batch in calls:
        now_ms += step
        units = [[(f"{prefix}{i}", limits[i % len(limits)]) for i in sorted(unit)] for unit, _ in batch]
        costs = [exact_cost(unit, cost) for unit, (_, cost) in zip(units, batch, strict=True)]
        expected = [counters.check(unit, now_ms, cost) for unit, cost in zip(units, costs, strict=True)]
        reply = await server.eval(SCRIPT, *script_arguments(units, now_ms, costs))
        assert states_of(units, reply) == expected


def exact_cost(unit: list[tuple[str, Limit]], cost: int) -> int:
    """Lowered until the wait for it is a number that doubles hold. No bucket that is exact has room for more anyway."""
    return min([cost, *((2**53 - 1) // limit.window_ms for _, limit in unit if limit.algorithm in BUCKETS)])


async def test_the_script_leaves_no_key_for_ever(server: redis.asyncio.Redis) -> None:
    key = f"hg:rl:test:{uuid.uuid4().hex}"
    await server.eval(SCRIPT, *script_arguments([[(key, Limit("sliding-window", 5, 2.0))]]))
    assert 2000 <= await server.pttl(key) <= 3100


async def test_a_refused_request_writes_nothing(server: redis.asyncio.Redis) -> None:
    wide, narrow = (f"hg:rl:test:{uuid.uuid4().hex}" for _ in range(2))
    unit = [(wide, Limit("sliding-window", 5, 60.0)), (narrow, Limit("sliding-window", 1, 60.0))]
    await server.eval(SCRIPT, *script_arguments([unit]))
    before = await server.mget(wide, narrow)
    await server.eval(SCRIPT, *script_arguments([unit, unit]))
    assert await server.mget(wide, narrow) == before
