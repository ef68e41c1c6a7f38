"""A whole pipeline in the test's own loop: real table, real transport, plugins given as classes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from gateway.plugins.base import Plugin, PluginConfig, Resources
from gateway.plugins.registry import Registry
from gateway.proxy.balancer import Balancer
from gateway.proxy.downstream import Downstream
from gateway.proxy.exchange import Exchange
from gateway.proxy.forward import Forwarder
from gateway.proxy.pipeline import Pipeline
from gateway.proxy.snapshot import PluginSpec, RouteSpec, Snapshot, TargetSpec, UpstreamSpec, WeightedUpstream
from gateway.proxy.table import RoutingTable
from gateway.proxy.transport import Transports

NOTHING: Any = None  # plugins of these tests need no limiter and no credentials


class NoConfig(PluginConfig):
    """Nothing to configure."""


def target(port: int, *, number: int = 1, weight: int = 100, host: str = "127.0.0.1") -> TargetSpec:
    return TargetSpec(id=number, host=host, port=port, weight=weight)


def upstream(name: str, *targets: TargetSpec, **changes: Any) -> UpstreamSpec:
    fields: dict[str, Any] = {
        "id": 1, "name": name, "protocol": "http", "balancing": "round-robin", "connect_timeout_s": 1.0,
        "first_byte_timeout_s": 2.0, "idle_timeout_s": 2.0, "total_timeout_s": 0.0, "retries": 1, "max_connections": 50,
        "targets": targets,
    }  # fmt: skip
    return UpstreamSpec(**(fields | changes))


def route(name: str, *paths: str, to: Sequence[tuple[str, int]] = (("up", 100),), **changes: Any) -> RouteSpec:
    fields: dict[str, Any] = {
        "id": 1, "name": name, "hosts": (), "paths": paths, "methods": frozenset(), "headers": (), "query": (),
        "upstreams": tuple(WeightedUpstream(*link) for link in to),
    }  # fmt: skip
    return RouteSpec(**(fields | changes))


def setting(plugin: type[Plugin], scope: str = "global", *, number: int = 1, **places: Any) -> PluginSpec:
    fields = {"route": "", "upstream": "", "consumer_id": 0, "config": NoConfig()} | places
    return PluginSpec(id=number, name=plugin.name, scope=scope, **fields)  # type: ignore[arg-type]


def table(
    routes: Sequence[RouteSpec],
    upstreams: Sequence[UpstreamSpec],
    plugins: Sequence[type[Plugin]] = (),
    settings: Sequence[PluginSpec] = (),
) -> RoutingTable:
    snapshot = Snapshot(7, "digest", {u.name: u for u in upstreams}, tuple(routes), tuple(settings))
    return RoutingTable(snapshot, Registry(plugins), Resources(NOTHING, NOTHING, NOTHING, time.monotonic, time.time))


class Bench:
    """`async with Bench(table) as bench: exchange, body = await bench.get("/x")`; `records` are finished exchanges."""

    def __init__(self, routing: RoutingTable | None, *, trusted: Sequence[Any] = (), max_body_bytes: int = 0) -> None:
        self.records: list[Exchange] = []
        self.forwarder = Forwarder(Transports(), Balancer(), max_body_bytes)
        self.pipeline = Pipeline(self.forwarder, Downstream(trusted), self.records.append)
        self.pipeline.table = routing

    async def __aenter__(self) -> Bench:
        return self

    async def __aexit__(self, *reason: object) -> None:
        await self.forwarder.transports.aclose()

    async def get(self, target: str, **fields: Any) -> tuple[Exchange, bytes]:
        """Run one exchange to its end, as the handler does."""
        exchange = request(target, **fields)
        await self.pipeline.handle(exchange)
        body = exchange.answer_body
        received = body if isinstance(body, bytes) else b"".join([chunk async for chunk in body])
        exchange.bytes_out = len(received)
        await self.pipeline.finish(exchange, "ok")
        return exchange, received


def request(
    target: str,
    *,
    method: str = "GET",
    headers: Sequence[tuple[bytes, bytes]] = (),
    host: bytes = b"api.test",
    peer: str = "192.0.2.1",
    body: Sequence[bytes] | None = None,
    length: int | None = None,
) -> Exchange:
    raw, _, query = target.encode().partition(b"?")
    exchange = Exchange(
        method=method, raw_path=raw, query=query, headers=[(b"host", host), *headers], scheme="http", peer_ip=peer,
        port=8080, started_s=time.perf_counter(), wall_s=time.time(),
        body=None if body is None else _stream(body),
    )  # fmt: skip
    exchange.content_length = length
    return exchange


async def _stream(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
