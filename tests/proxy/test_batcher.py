"""The batcher against a real Valkey: exact across workers, one call per turn, quick to give up and to come back."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.asyncio
import uvloop
from django.conf import settings

from gateway.embedded import programs
from gateway.proxy import batcher as module
from gateway.proxy import tasks
from gateway.proxy.batcher import Batcher
from gateway.proxy.errors import RedisUnavailable
from gateway.proxy.limits import Algorithm, Limit
from tests.proxy.authority import Authority
from tests.running import Stopwatch

ALGORITHMS: tuple[Algorithm, ...] = ("fixed-window", "sliding-window", "token-bucket", "leaky-bucket", "period")
GENEROUS_S = 2.0  # for tests that are not about the deadline: a busy machine must not fail them


pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


@asynccontextmanager
async def started(url: str = "", timeout_s: float = GENEROUS_S) -> AsyncIterator[Batcher]:
    batcher = Batcher(url or settings.REDIS_URL, timeout_s=timeout_s)
    await batcher.start()
    try:
        yield batcher
    finally:
        await batcher.aclose()


@pytest.fixture
async def batcher() -> AsyncIterator[Batcher]:
    async with started() as batcher:
        yield batcher


@pytest.fixture
async def server() -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(settings.REDIS_URL) as client:
        yield client


@pytest.fixture
def key() -> str:
    return f"hg:rl:test:{uuid.uuid4().hex}"


async def until(condition: Callable[[], bool], within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true in time"
        await asyncio.sleep(0.01)


# --- exact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_of_200_concurrent_checks_exactly_50_pass(algorithm: Algorithm, workers: int, key: str) -> None:
    unit = [(key, Limit(algorithm, 50, 3600.0))]
    batchers = [Batcher(settings.REDIS_URL, timeout_s=GENEROUS_S) for _ in range(workers)]
    try:
        await asyncio.gather(*(batcher.start() for batcher in batchers))
        answers = await asyncio.gather(*(batchers[i % workers].check(unit) for i in range(200)))
    finally:
        await asyncio.gather(*(batcher.aclose() for batcher in batchers))
    assert sum(state.allowed for (state,) in answers) == 50
    assert sorted(state.remaining for (state,) in answers) == [0] * 150 + list(range(50))


async def test_costs_of_one_batch_are_each_requests_own(batcher: Batcher, key: str) -> None:
    unit = [(key, Limit("leaky-bucket", 10, 3600.0))]
    answers = await asyncio.gather(*(batcher.check(unit, cost) for cost in (4, 1, 6, 5, 1)))
    assert [state.allowed for (state,) in answers] == [True, True, False, True, False]
    assert [state.remaining for (state,) in answers] == [6, 5, 5, 0, 0]


async def test_states_come_in_the_order_asked(batcher: Batcher, key: str) -> None:
    unit = [(f"{key}:{limit}", Limit("sliding-window", limit, 60.0)) for limit in (3, 1, 2)]
    first, second = await asyncio.gather(batcher.check(unit), batcher.check(unit))
    assert [state.remaining for state in first] == [2, 0, 1]
    assert [(state.allowed, state.remaining) for state in second] == [(True, 2), (False, 0), (True, 1)]


async def test_a_script_flush_in_between_is_not_noticed(
    batcher: Batcher, server: redis.asyncio.Redis, key: str
) -> None:
    unit = [(key, Limit("fixed-window", 100, 3600.0))]
    remaining = []
    for _ in range(3):
        await server.script_flush()
        states, pong = await asyncio.gather(batcher.check(unit), batcher.command("PING"))
        remaining.append(states[0].remaining)
        assert pong == b"PONG"
    assert remaining == [99, 98, 97]


# --- one call ---------------------------------------------------------------------------------------------------------


async def test_everything_of_one_turn_is_one_script_call(
    batcher: Batcher, server: redis.asyncio.Redis, key: str
) -> None:
    async def script_calls() -> int:
        return int((await server.info("commandstats")).get("cmdstat_evalsha", {}).get("calls", 0))

    before = await script_calls()
    checks = [batcher.check([(f"{key}:{i}", Limit("token-bucket", 5, 60.0))]) for i in range(100)]
    await asyncio.gather(*checks)
    assert await script_calls() == before + 1


async def test_a_batch_is_bounded_and_the_rest_follows(batcher: Batcher, key: str) -> None:
    unit = [(key, Limit("fixed-window", 10_000, 3600.0))]
    answers = await asyncio.gather(*(batcher.check(unit) for _ in range(module.MAX_BATCH * 3)))
    assert min(state.remaining for (state,) in answers) == 10_000 - module.MAX_BATCH * 3


async def test_a_full_queue_refuses_at_once(batcher: Batcher) -> None:
    calls = [batcher.command("PING") for _ in range(module.MAX_QUEUED)]
    with pytest.raises(RedisUnavailable):
        batcher.command("PING")
    assert set(await asyncio.gather(*calls)) == {b"PONG"}
    assert batcher.available


async def test_commands_give_the_reply_of_redis(batcher: Batcher, key: str) -> None:
    replies = await asyncio.gather(
        batcher.command("SETEX", key, 60, b"\x00\xff"), batcher.command("GET", key), batcher.command("DEL", key)
    )
    assert replies == [b"OK", b"\x00\xff", 1]
    assert await batcher.command("GET", key) is None


async def test_an_error_reply_fails_its_own_command_only(batcher: Batcher, key: str) -> None:
    wrong = batcher.command("INCR", key, "too", "many")
    unit = [(key, Limit("fixed-window", 5, 60.0))]
    states, pong = await asyncio.gather(batcher.check(unit), batcher.command("PING"))
    assert states[0].allowed
    assert pong == b"PONG"
    with pytest.raises(RedisUnavailable):
        await wrong
    assert batcher.available


async def test_a_command_that_cannot_be_sent_is_its_callers_mistake_alone(batcher: Batcher, key: str) -> None:
    good = batcher.command("PING")
    with pytest.raises(redis.asyncio.DataError):
        batcher.command("SET", key, None)  # type: ignore[arg-type]
    assert await good == b"PONG"


async def test_a_key_of_any_text_is_counted(batcher: Batcher, key: str) -> None:
    unit = [(f"{key}:\udcff\x00é", Limit("fixed-window", 5, 3600.0))]
    assert [(await batcher.check(unit))[0].remaining for _ in range(2)] == [4, 3]


async def test_a_cancelled_waiter_does_not_break_its_batch(batcher: Batcher, key: str) -> None:
    unit = [(key, Limit("fixed-window", 10, 3600.0))]
    checks = [asyncio.ensure_future(batcher.check(unit)) for _ in range(3)]
    checks[1].cancel()
    answers = await asyncio.gather(*checks, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    assert [answers[0][0].allowed, answers[2][0].allowed] == [True, True]
    assert (await batcher.check(unit))[0].remaining == 6


async def test_local_counters_need_no_redis(key: str) -> None:
    batcher = Batcher("redis://127.0.0.1:1/0")
    unit = [(key, Limit("sliding-window", 2, 60.0))]
    assert [batcher.check_local(unit)[0].allowed for _ in range(3)] == [True, True, False]


# --- Redis goes away --------------------------------------------------------------------------------------------------


class PrivateServer:
    """A Valkey of the test's own that may be stopped, killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.socket = directory, directory / "valkey.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}?db=0"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [programs.valkey(), "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", self.directory],
            stdout=subprocess.DEVNULL,
        )
        deadline_s = time.monotonic() + 10
        while not self.socket.exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        self.socket.unlink(missing_ok=True)


@pytest.fixture
def private() -> Iterator[PrivateServer]:
    with tempfile.TemporaryDirectory(prefix="hg-") as directory:
        server = PrivateServer(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.kill()


async def test_a_hung_server_costs_one_deadline_then_nothing_and_comes_back(private: PrivateServer, key: str) -> None:
    unit = [(key, Limit("fixed-window", 100, 3600.0))]
    async with started(private.url, timeout_s=0.05) as batcher:
        assert (await batcher.check(unit))[0].remaining == 99
        private.send(signal.SIGSTOP)
        watch = Stopwatch()
        answers = await asyncio.gather(*(batcher.check(unit) for _ in range(20)), return_exceptions=True)
        waited_s = watch.s
        assert {type(answer) for answer in answers} == {RedisUnavailable}
        assert waited_s < 0.15
        assert not batcher.available
        assert batcher.degraded_since is not None

        watch = Stopwatch()
        for _ in range(100):
            with pytest.raises(RedisUnavailable):
                batcher.check(unit)
        assert watch.s < 0.05

        private.send(signal.SIGCONT)
        await until(lambda: batcher.available, within_s=2.5)
        assert batcher.degraded_since is None
        # The batch that timed out may have been counted when the server woke: nothing else may.
        assert 78 <= (await batcher.check(unit))[0].remaining <= 98


async def test_a_killed_server_is_noticed_and_a_new_one_taken(private: PrivateServer, key: str) -> None:
    unit = [(key, Limit("fixed-window", 5, 60.0))]
    async with started(private.url, timeout_s=0.2) as batcher:
        assert (await batcher.check(unit))[0].remaining == 4
        private.kill()
        with pytest.raises(RedisUnavailable):
            await batcher.check(unit)
        private.start()
        await until(lambda: batcher.available, within_s=3)
        assert (await batcher.check(unit))[0].remaining == 4


async def test_a_server_that_cannot_write_counts_as_away(private: PrivateServer, key: str) -> None:
    unit = [(key, Limit("fixed-window", 5, 60.0))]
    async with started(private.url, timeout_s=0.5) as batcher, redis.asyncio.Redis.from_url(private.url) as server:
        await server.replicaof("127.0.0.1", "1")
        with pytest.raises(RedisUnavailable):
            await batcher.check(unit)
        assert not batcher.available
        await server.replicaof("NO", "ONE")
        await until(lambda: batcher.available, within_s=3)


@asynccontextmanager
async def relayed(
    server: PrivateServer, authority: Authority | None = None
) -> AsyncIterator[tuple[str, list[asyncio.StreamWriter]]]:
    """A URL that leads to the server byte by byte, with TLS if there is an authority, and the ways back to whoever has
    connected there."""
    clients: list[asyncio.StreamWriter] = []
    ended = asyncio.Event()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece: int) -> None:
        while data := await reader.read(piece):
            writer.write(data)
            await asyncio.sleep(0)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(writer)
        replies, commands = await asyncio.open_unix_connection(str(server.socket))
        ways = [
            asyncio.ensure_future(carry(reader, commands, 65_536)),
            asyncio.ensure_future(carry(replies, writer, 1)),
        ]
        await asyncio.wait([*ways, over], return_when=asyncio.FIRST_COMPLETED)
        await tasks.ended(ways)
        for end in (commands, writer):
            end.close()
            await asyncio.gather(end.wait_closed(), return_exceptions=True)

    over = asyncio.ensure_future(ended.wait())
    tls = None
    certificates = server.directory / "authority.pem"
    if authority is not None:
        tls = authority.server(server.directory)
        certificates.write_text(authority.certificate)
    listening = await asyncio.start_server(relay, "127.0.0.1", ssl=tls)
    async with listening:
        place = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
        try:
            yield f"rediss://{place}?ssl_ca_certs={certificates}" if tls else f"redis://{place}", clients
        finally:
            ended.set()
            await until(lambda: all(client.transport.is_closing() for client in clients), within_s=2)


@pytest.mark.parametrize("tls", [False, True])
async def test_replies_that_come_in_pieces_are_put_together(private: PrivateServer, key: str, tls: bool) -> None:
    async with relayed(private, Authority() if tls else None) as (url, _), started(url) as batcher:
        unit = [(key, Limit("sliding-window", 100, 60.0))]
        text = b"x" * 300
        *checks, stored, read = await asyncio.gather(
            *(batcher.check(unit) for _ in range(20)), batcher.command("SET", key + "t", text),
            batcher.command("GET", key + "t"),
        )  # fmt: skip
        assert [states[0].remaining for states in checks] == list(range(99, 79, -1))
        assert (stored, read) == (b"OK", text)


@pytest.mark.parametrize("said", [b"+MORE\r\n", b"no redis speaks so\r\n", b"$-7\r\n"])
async def test_who_says_what_nobody_asked_for_is_not_believed_any_more(
    private: PrivateServer, key: str, said: bytes
) -> None:
    unit = [(key, Limit("sliding-window", 5, 60.0))]
    async with relayed(private) as (url, clients), started(url) as batcher:
        assert (await batcher.check(unit))[0].remaining == 4
        clients[-1].write(said)
        await until(lambda: not batcher.available, within_s=2)
        await until(lambda: batcher.available, within_s=3)  # over another connection
        assert (await batcher.check(unit))[0].remaining == 3
        assert len(clients) == 2


async def test_starting_without_redis_is_degraded_not_broken() -> None:
    async with started("redis://127.0.0.1:1/0", timeout_s=0.1) as batcher:
        assert not batcher.available
        with pytest.raises(RedisUnavailable):
            batcher.command("PING")


async def test_closing_fails_what_still_waits(private: PrivateServer, key: str) -> None:
    async with started(private.url) as batcher:
        private.send(signal.SIGSTOP)
        waiting = batcher.check([(key, Limit("fixed-window", 5, 60.0))])
        queued = batcher.command("PING")
        await batcher.aclose()
        for call in (waiting, queued):
            with pytest.raises(RedisUnavailable):
                await call
        private.send(signal.SIGCONT)
