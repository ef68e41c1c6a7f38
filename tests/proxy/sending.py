"""Short words for the transport's tests: specs, requests, whole answers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

import httpx

from gateway.proxy.pool import Timeouts
from gateway.proxy.snapshot import TargetSpec, UpstreamSpec
from gateway.proxy.transport import NO_BODY, TargetTransport
from tests.upstream import Upstream


def specs(host: str = "127.0.0.1", port: int = 0, **changes: object) -> tuple[TargetSpec, UpstreamSpec]:
    target = TargetSpec(1, host, port, 100)
    fields: dict[str, object] = {
        "id": 1, "name": "u", "protocol": "http", "balancing": "round-robin", "connect_timeout_s": 5.0,
        "first_byte_timeout_s": 5.0, "idle_timeout_s": 5.0, "total_timeout_s": 0.0, "retries": 0,
        "max_connections": 64, "targets": (target,),
    }  # fmt: skip
    return target, UpstreamSpec(**{**fields, **changes})  # type: ignore[arg-type]


def timeouts(**changes: float) -> Timeouts:
    return Timeouts(**{"connect_s": 5.0, "first_byte_s": 5.0, "idle_s": 5.0, "total_s": 0.0, "pool_s": 5.0, **changes})


@contextlib.asynccontextmanager
async def transport_to(
    upstream: Upstream | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    times: Timeouts | None = None,
    keep_alive_s: float = 60.0,
    max_waiting: int = 1000,
    **changes: object,
) -> AsyncIterator[TargetTransport]:
    target, spec = specs(host, port or (upstream.port if upstream else 0), **changes)
    transport = TargetTransport(target, spec, timeouts=times, keep_alive_s=keep_alive_s, max_waiting=max_waiting)
    try:
        yield transport
    finally:
        await transport.aclose()


class Body(httpx.AsyncByteStream):
    """A request body of these chunks; `sent` counts those taken."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks, self.sent = chunks, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            self.sent += 1
            yield chunk


def request(
    method: str = "GET",
    target: bytes = b"/",
    headers: Iterable[tuple[bytes, bytes]] = (),
    body: httpx.AsyncByteStream = NO_BODY,
) -> httpx.Request:
    pairs = [(b"host", b"upstream.test"), *headers]
    return httpx.Request(method, "http://upstream.test", headers=pairs, stream=body, extensions={"target": target})


def post(*chunks: bytes, method: str = "POST") -> httpx.Request:
    return request(method, headers=[(b"content-length", b"%d" % sum(map(len, chunks)))], body=Body(chunks))


async def read(response: httpx.Response) -> bytes:
    """The whole body, as a consumer reads it."""
    try:
        return b"".join([chunk async for chunk in response.stream])  # type: ignore[union-attr]
    finally:
        await response.aclose()


async def fetch(
    transport: TargetTransport, sent: httpx.Request | None = None, *, on_head: Callable[[], object] = lambda: None
) -> tuple[int, bytes]:
    response = await transport.handle_async_request(sent or request())
    on_head()
    return response.status_code, await read(response)


def counters(transport: TargetTransport) -> tuple[int, int, int, int]:
    pool = transport.pool
    return pool.open, pool.idle, pool.in_use, pool.waiting
