"""The pool when things go wrong: races, limits, time limits, cancelled requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
import uvloop

from gateway.proxy.errors import GatewayError, UpstreamBroke, UpstreamBusy, UpstreamTimeout
from tests.proxy.sending import Body, counters, fetch, post, read, request, timeouts, transport_to
from tests.upstream import OK, Wire, answering, once, serving, until

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

LARGE = b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n" + b"x" * 100_000


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return request.param()


async def silent(wire: Wire) -> None:
    await wire.head()
    await wire.left()


# --- the keep-alive race


async def test_no_get_fails_when_the_upstream_closes_after_each_answer() -> None:
    async with serving(once(OK)) as upstream, transport_to(upstream) as transport:
        for turn in range(500):
            assert await fetch(transport) == (200, b"ok")
            for _ in range(turn % 4):  # meet the close at every moment of its arrival
                await asyncio.sleep(0)
        await until(lambda: counters(transport) == (0, 0, 0, 0))


async def test_no_post_fails_when_the_upstream_closes_after_each_answer_and_says_so() -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    async with serving(once(closing)) as upstream, transport_to(upstream) as transport:
        for _ in range(200):
            assert await fetch(transport, request("POST")) == (200, b"ok")


async def test_a_post_fails_only_where_it_may_have_been_processed() -> None:
    async with serving(once(OK)) as upstream, transport_to(upstream) as transport:
        failed = unsafe = 0
        for turn in range(200):
            try:
                assert await fetch(transport, post(b"a")) == (200, b"ok")
            except UpstreamBroke as error:
                failed += 1
                unsafe += not error.safe_to_retry
            for _ in range(turn % 4):
                await asyncio.sleep(0)
        assert len(upstream.heads) == 200 - failed  # none was processed twice, none failed before it was sent
        assert failed == unsafe < 200


def dying_second() -> tuple[list[str], object]:
    """Answers a connection's first request; reads the second and closes without a word."""
    seen: list[str] = []

    async def script(wire: Wire) -> None:
        seen.append((await wire.head()).split()[0].decode())
        await wire.send(OK)
        if second := await wire.head():
            seen.append(second.split()[0].decode())

    return seen, script


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
async def test_an_idempotent_request_is_sent_once_more(method: str) -> None:
    seen, script = dying_second()
    async with serving(script) as upstream, transport_to(upstream) as transport:  # type: ignore[arg-type]
        await fetch(transport)
        status, _ = await fetch(transport, request(method))
        assert status == 200
        assert seen == ["GET", method, method]
        assert upstream.connections == 2


@pytest.mark.parametrize("sent", [request("POST"), request("PATCH"), post(b"a", method="PUT")], ids=["1", "2", "3"])
async def test_any_other_request_is_not(sent: httpx.Request) -> None:
    seen, script = dying_second()
    async with serving(script) as upstream, transport_to(upstream) as transport:  # type: ignore[arg-type]
        await fetch(transport)
        with pytest.raises(UpstreamBroke) as caught:
            await fetch(transport, sent)
        assert not caught.value.safe_to_retry
        assert seen == ["GET", sent.method]


async def test_a_request_is_sent_once_more_only_once() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        if wire.upstream.connections == 1:
            await wire.send(OK)
            await wire.head()

    async with serving(script) as upstream, transport_to(upstream) as transport:
        await fetch(transport)
        with pytest.raises(UpstreamBroke) as caught:
            await fetch(transport)
        assert caught.value.safe_to_retry
        assert upstream.connections == 2


async def test_the_second_attempt_finds_a_place_in_a_full_pool() -> None:
    seen, script = dying_second()
    async with serving(script) as upstream, transport_to(upstream, max_connections=2) as transport:  # type: ignore[arg-type]
        await asyncio.gather(fetch(transport), fetch(transport))
        assert counters(transport) == (2, 2, 0, 0)
        assert await fetch(transport) == (200, b"ok")
        assert len(seen) == 4


# --- keep-alive limits


async def test_an_idle_connection_is_closed_in_time() -> None:
    async with serving(answering(OK)) as upstream, transport_to(upstream, keep_alive_s=0.05) as transport:
        await fetch(transport)
        assert counters(transport) == (1, 1, 0, 0)
        await until(lambda: upstream.live == 0)
        assert counters(transport) == (0, 0, 0, 0)


async def test_the_upstreams_keep_alive_promise_shortens_it() -> None:
    answer = OK.replace(b"\r\n\r\n", b"\r\nkeep-alive: timeout=1, max=9\r\n\r\n")
    async with serving(answering(answer)) as upstream, transport_to(upstream) as transport:
        await fetch(transport)
        (connection,) = transport.pool._idle
        assert connection.deadline_s - connection.loop.time() <= 0.5


# --- the limit and the line


class Gate:
    """A script that answers when it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def __call__(self, wire: Wire) -> None:
        while await wire.head():
            await self.opened.wait()
            await wire.send(OK)


async def test_requests_beyond_the_limit_wait_their_turn() -> None:
    gate = Gate()
    async with serving(gate) as upstream, transport_to(upstream, max_connections=1) as transport:
        fetching = [asyncio.create_task(fetch(transport, request(target=b"/%d" % turn))) for turn in range(10)]
        await until(lambda: counters(transport) == (1, 0, 1, 9))
        gate.opened.set()
        assert await asyncio.gather(*fetching) == [(200, b"ok")] * 10
        assert counters(transport) == (1, 1, 0, 0)
        assert [head.split()[1] for head in upstream.heads] == [b"/%d" % turn for turn in range(10)]


async def test_who_waits_gets_the_place_of_a_closed_connection() -> None:
    async with serving(once(OK)) as upstream, transport_to(upstream, max_connections=1) as transport:
        assert await asyncio.gather(*[fetch(transport) for _ in range(20)]) == [(200, b"ok")] * 20
        assert upstream.connections == 20
        await until(lambda: counters(transport) == (0, 0, 0, 0))


class Stalling(httpx.AsyncByteStream):
    """A body whose client sends a little, and then for long nothing."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"some"
        await asyncio.Event().wait()


@pytest.mark.parametrize("slow", ["answer", "body"])
async def test_a_slow_client_does_not_keep_others_from_a_place(slow: str) -> None:
    """Its connection stands still; it is opened anyway beside it, what nobody would wait for."""

    async def script(wire: Wire) -> None:
        while head := await wire.head():
            await wire.send(
                LARGE * 10 if b"/slow" in head and slow == "answer" else OK if b"/slow" not in head else b""
            )
            if b"/slow" in head:
                await wire.left()

    async with serving(script) as upstream, transport_to(upstream, max_connections=2) as transport:
        if slow == "answer":
            answers = [await transport.handle_async_request(request(target=b"/slow")) for _ in range(2)]
        else:
            stalled = httpx.Request("POST", "http://u", headers=[("transfer-encoding", "chunked")], stream=Stalling())
            stalled.extensions["target"] = b"/slow"
            sending = [asyncio.create_task(transport.handle_async_request(stalled)) for _ in range(2)]
        await until(lambda: upstream.live == 2)
        assert await asyncio.gather(*(fetch(transport) for _ in range(3))) == [(200, b"ok")] * 3
        if slow == "answer":
            for answer in answers:
                await answer.aclose()
        else:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
        await until(lambda: transport.pool.in_use == 0)


async def test_a_full_line_is_busy_at_once() -> None:
    gate = Gate()
    async with serving(gate) as upstream, transport_to(upstream, max_connections=1, max_waiting=2) as transport:
        fetching = [asyncio.create_task(fetch(transport)) for _ in range(3)]
        await until(lambda: transport.pool.waiting == 2)
        with pytest.raises(UpstreamBusy) as caught:
            await fetch(transport, post(b"a"))
        assert caught.value.safe_to_retry
        gate.opened.set()
        assert await asyncio.gather(*fetching) == [(200, b"ok")] * 3


async def test_waiting_has_its_own_limit() -> None:
    async with (
        serving(silent) as upstream,
        transport_to(upstream, max_connections=1, times=timeouts(pool_s=0.05)) as transport,
    ):
        first = asyncio.create_task(fetch(transport))
        await until(lambda: upstream.heads)
        with pytest.raises(UpstreamBusy):
            await fetch(transport)
        assert counters(transport) == (1, 0, 1, 0)
        first.cancel()
        await asyncio.wait([first])
        assert counters(transport) == (0, 0, 0, 0)


async def test_who_waits_in_vain_for_a_connection_passes_the_place_on() -> None:
    """Opening fails for the first in line; the next one must not wait for ever."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with transport_to(port=taken.getsockname()[1], max_connections=1) as transport:
            results = await asyncio.gather(*[fetch(transport) for _ in range(10)], return_exceptions=True)
            assert all(isinstance(result, GatewayError) and not isinstance(result, UpstreamBusy) for result in results)
            assert counters(transport) == (0, 0, 0, 0)


# --- time limits


@pytest.fixture
def full_backlog() -> socket.socket:
    """An address where connecting neither succeeds nor fails."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener  # type: ignore[misc]


async def test_connect_limit(full_backlog: socket.socket) -> None:
    async with transport_to(port=full_backlog.getsockname()[1], times=timeouts(connect_s=0.1)) as transport:
        with pytest.raises(UpstreamTimeout) as caught:
            await fetch(transport, post(b"a"))
        assert (caught.value.phase, caught.value.safe_to_retry) == ("connect", True)
        assert counters(transport) == (0, 0, 0, 0)


async def stalling_head(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\ncontent-")
    await wire.left()


async def stalling_body(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
    await wire.left()


async def trickling_body(wire: Wire) -> None:
    await wire.head()
    await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await wire.send(b"x")
        await asyncio.sleep(0.01)


async def unreading(wire: Wire) -> None:
    await wire.head()
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("script", "limits", "sent", "phase"),
    [
        (silent, {"first_byte_s": 0.05}, request(), "first_byte"),
        (stalling_head, {"first_byte_s": 0.05}, request(), "first_byte"),
        (silent, {"first_byte_s": 0.05}, post(b"a"), "first_byte"),
        (stalling_body, {"idle_s": 0.05}, request(), "idle"),
        (silent, {"total_s": 0.05}, request(), "total"),
        (trickling_body, {"total_s": 0.1, "idle_s": 0.5}, request(), "total"),
        (unreading, {"idle_s": 0.05}, post(*[b"x" * 65536] * 300), "send"),
        (unreading, {"total_s": 0.1}, post(*[b"x" * 65536] * 300), "total"),
    ],
)
async def test_each_phase_has_its_limit(
    script: object, limits: dict[str, float], sent: httpx.Request, phase: str
) -> None:
    async with serving(script) as upstream, transport_to(upstream, times=timeouts(**limits)) as transport:  # type: ignore[arg-type]
        async with asyncio.timeout(3):
            with pytest.raises(UpstreamTimeout) as caught:
                await fetch(transport, sent)
        assert caught.value.phase == phase
        assert counters(transport) == (0, 0, 0, 0)
        await until(lambda: upstream.live == 0 or script is unreading)


async def test_a_trickling_answer_is_not_idle() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(20):
            await wire.send(b"x")
            await asyncio.sleep(0.02)

    async with serving(script) as upstream, transport_to(upstream, times=timeouts(idle_s=0.2)) as transport:
        assert await fetch(transport) == (200, b"x" * 20)


async def test_a_slow_consumer_is_not_an_idle_upstream() -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n")
        await wire.send(b"x" * 2_000_000)
        await wire.left()

    async with serving(script) as upstream, transport_to(upstream, times=timeouts(idle_s=0.1)) as transport:
        response = await transport.handle_async_request(request())
        await until(lambda: next(iter(transport.pool._connections))._reading_paused)
        loop = asyncio.get_running_loop()
        waited = loop.create_future()
        loop.call_later(0.3, waited.set_result, None)
        await waited
        assert len(await read(response)) == 2_000_000


async def test_a_slow_client_is_not_an_idle_upstream() -> None:
    class Slow(httpx.AsyncByteStream):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            for _ in range(6):
                await asyncio.sleep(0.05)
                yield b"x"

    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.body(6)
        await wire.send(OK)
        await wire.left()

    limits = timeouts(idle_s=0.1, first_byte_s=0.1)
    async with serving(script) as upstream, transport_to(upstream, times=limits) as transport:
        sent = request("POST", headers=[(b"content-length", b"6")], body=Slow())
        assert await fetch(transport, sent) == (200, b"ok")


# --- cancelled and closed early


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelled_while_connecting(full_backlog: socket.socket) -> None:
    async with transport_to(port=full_backlog.getsockname()[1]) as transport:
        task = asyncio.create_task(fetch(transport))
        await until(lambda: transport.pool.open == 1)
        await cancelled(task)  # type: ignore[arg-type]
        assert counters(transport) == (0, 0, 0, 0)


async def test_cancelled_while_waiting_for_a_connection() -> None:
    gate = Gate()
    async with serving(gate) as upstream, transport_to(upstream, max_connections=1) as transport:
        first, second, third = [asyncio.create_task(fetch(transport)) for _ in range(3)]
        await until(lambda: transport.pool.waiting == 2)
        await cancelled(second)  # type: ignore[arg-type]
        assert counters(transport) == (1, 0, 1, 1)
        gate.opened.set()
        assert await asyncio.gather(first, third) == [(200, b"ok")] * 2
        assert counters(transport) == (1, 1, 0, 0)


async def test_cancelled_in_the_moment_of_being_served() -> None:
    async with serving(answering(OK)) as upstream, transport_to(upstream, max_connections=1) as transport:
        await fetch(transport)
        connection = transport.pool.take_idle()
        assert connection is not None
        waiting = asyncio.create_task(fetch(transport))
        await until(lambda: transport.pool.waiting == 1)
        transport.pool.released(connection)
        await cancelled(waiting)  # type: ignore[arg-type]
        assert counters(transport) == (1, 1, 0, 0)


async def test_cancelled_when_the_answer_is_there_and_the_connection_serves_the_next() -> None:
    """The next in line has the connection already when the first learns that it was cancelled."""

    async def script(wire: Wire) -> None:
        while head := await wire.head():
            if b"POST" in head:
                await wire.body(1)
            await go.wait()
            await wire.send(OK)

    class Cancelling(httpx.AsyncByteStream):
        async def __aiter__(self):  # type: ignore[no-untyped-def]
            first.cancel()
            yield b"a"

    go = asyncio.Event()
    async with serving(script) as upstream, transport_to(upstream, max_connections=1) as transport:
        first = asyncio.create_task(fetch(transport))
        await until(lambda: upstream.heads)
        sent = request("POST", headers=[(b"content-length", b"1")], body=Cancelling())
        second = asyncio.create_task(fetch(transport, sent))
        await until(lambda: transport.pool.waiting == 1)
        go.set()
        async with asyncio.timeout(3):
            assert await second == (200, b"ok")
        await asyncio.wait([first])
        assert counters(transport) == (1, 1, 0, 0)
        assert upstream.connections == 1


@pytest.mark.parametrize(("script", "sent"), [(silent, request()), (stalling_head, request()), (silent, post(b"a"))])
async def test_cancelled_while_waiting_for_the_head(script: object, sent: httpx.Request) -> None:
    async with serving(script) as upstream, transport_to(upstream) as transport:  # type: ignore[arg-type]
        task = asyncio.create_task(fetch(transport, sent))
        await until(lambda: upstream.heads)
        await cancelled(task)  # type: ignore[arg-type]
        assert counters(transport) == (0, 0, 0, 0)
        await until(lambda: upstream.live == 0)


async def test_cancelled_while_sending_the_body() -> None:
    body = Body([b"x" * 65536] * 300)
    async with serving(unreading) as upstream, transport_to(upstream) as transport:
        sent = request("POST", headers=[(b"content-length", b"%d" % (65536 * 300))], body=body)
        task = asyncio.create_task(fetch(transport, sent))
        await until(lambda: body.sent)
        await cancelled(task)  # type: ignore[arg-type]
        assert body.sent < 300
        assert counters(transport) == (0, 0, 0, 0)


async def test_cancelled_while_reading_the_body() -> None:
    async with serving(stalling_body) as upstream, transport_to(upstream) as transport:
        response = await transport.handle_async_request(request())
        stream = response.stream
        assert await anext(stream) == b"abc"  # type: ignore[arg-type]
        task = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await cancelled(task)  # type: ignore[arg-type]
        assert counters(transport) == (0, 0, 0, 0)
        with pytest.raises(UpstreamBroke):
            await anext(stream)  # type: ignore[arg-type]


@pytest.mark.parametrize("unread", [False, True])
async def test_closed_early_the_connection_is_closed_too(unread: bool) -> None:
    async def script(wire: Wire) -> None:
        await wire.head()
        await wire.send(LARGE)
        await wire.left()

    async with serving(script) as upstream, transport_to(upstream) as transport:
        response = await transport.handle_async_request(request())
        if not unread:
            await anext(response.stream)  # type: ignore[arg-type]
        await response.aclose()
        await response.aclose()
        assert counters(transport) == (0, 0, 0, 0)
        await until(lambda: upstream.live == 0)
