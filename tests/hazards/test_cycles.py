"""A request that ends badly leaves nothing for the garbage collector, which comes seldom: connections have buffers, and
what is under way when a configuration is swapped in is never looked at again.
"""

from __future__ import annotations

import asyncio
import gc
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvloop

from gateway import asgi
from gateway.runtime import Runtime
from keys import services as keys
from routes import portable, services
from tests.hazards.targets import refusing, target
from tests.server.front import front, until
from tests.soak.kinds import FAULTS, Ask, Client, answered, behave, well
from tests.upstream import Wire
from tests.worker import worker_here

CONFIGURATION = """
format: 1
upstreams:
- {{name: up, targets: [{{host: 127.0.0.1, port: {port}}}], first_byte_timeout_ms: 100, eject_after: 0}}
- {{name: twice, targets: [{{host: 127.0.0.1, port: {port}}}], retries: 1, retry_statuses: [500], eject_after: 0}}
- {{name: refusing, targets: [{{host: 127.0.0.1, port: {closed}}}], eject_after: 0}}
routes:
- {{name: all, paths: [/*], upstreams: [{{name: up}}]}}
- {{name: twice, paths: ["/twice/*"], strip_path: true, upstreams: [{{name: twice}}]}}
- {{name: refused, paths: [/refused], upstreams: [{{name: refusing}}]}}
plugins:
- {{name: key-auth}}
- {{name: rate-limiting, config: {{hour: 1000000}}}}
- {{name: response-transformer, config: {{set: {{headers: ["X-Seen:yes"]}}}}}}
"""
TIMES = 3

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture"),
]


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy()


async def misbehaves(wire: Wire) -> None:
    """As in the soak, and worse."""
    head = b""

    async def first() -> bytes:
        nonlocal head
        said, head = head, b""
        return said or await Wire.head(wire)

    while head := await Wire.head(wire):
        path = head.split(b" ", 2)[1]
        if path.startswith(b"/garbage"):
            await wire.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!")
        elif path.startswith(b"/chunks"):
            await wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
        elif path.startswith(b"/reset"):
            wire.reset()
            return
        else:
            wire.head = first  # type: ignore[method-assign]
            await behave(wire)
            return


@pytest.fixture
def key(transactional_db: None) -> Iterator[str]:
    with target(misbehaves) as port, refusing() as closed:
        text = CONFIGURATION.format(port=port, closed=closed)
        services.replace(portable.from_yaml(text), author="test", source="import")
        yield keys.key_create(keys.consumer_create("anna"))[1]


@pytest.fixture
async def worker(key: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    async with worker_here(monkeypatch) as worker:
        yield worker


async def leaves_while_waiting(client: Client) -> str:
    async with client.connection() as (_, writer):
        writer.write(client.request("/hang"))
        await asyncio.sleep(0.05)  # the gateway waits for the upstream
        writer.transport.abort()
    return ""


async def leaves_in_a_body(client: Client) -> str:
    async with client.connection() as (_, writer):
        head = (
            client.request("/ok").replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 100000\r\n\r\n")
        )
        writer.write(head + b"x" * 20_000)
        await asyncio.sleep(0.05)
        writer.transport.abort()
    return ""


async def is_malformed(client: Client) -> str:
    async with client.connection() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        return "" if (await reader.readline()).startswith(b"HTTP/1.1 400") else "no 400"


KINDS: dict[str, Ask] = {
    "goes well": well,
    **FAULTS,
    "client leaves while waiting": leaves_while_waiting,
    "client leaves in a body": leaves_in_a_body,
    "client is malformed": is_malformed,
    "upstream says garbage": answered("/garbage", 502),
    "upstream breaks its chunks": answered("/chunks", 502),
    "upstream resets": answered("/reset", 502),
    "upstream resets twice": answered("/twice/reset", 502),
    "upstream says 500 twice": answered("/twice/error", 500),
}


def is_ours(one: Any) -> bool:
    if isinstance(one, types.FrameType):
        return "/gateway/" in one.f_code.co_filename
    return type(one).__module__.startswith("gateway.")


@pytest.mark.parametrize("kind", KINDS)
async def test_it_leaves_nothing_for_the_collector(kind: str, key: str, worker: Runtime) -> None:
    async with front(asgi.application) as server:
        client = Client(server.address[1], key)
        assert await KINDS[kind](client) == ""  # whatever comes with the first of its kind
        await until(lambda: not worker.pipeline.in_flight)
        gc.collect()
        gc.disable()
        try:
            for _ in range(TIMES):
                assert await KINDS[kind](client) == ""
            await until(lambda: not worker.pipeline.in_flight)
            await asyncio.sleep(0)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            found = sorted({_named(one) for one in gc.garbage if is_ours(one)})
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        await client.close()
    assert found == []


def _named(one: Any) -> str:
    return one.f_code.co_qualname if isinstance(one, types.FrameType) else type(one).__qualname__
