"""Finished exchanges, as the pipeline leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from time import time
from typing import Any
from uuid import uuid4

from gateway.proxy.exchange import Consumer, Credential, Exchange
from gateway.proxy.snapshot import RouteSpec, TargetSpec, UpstreamSpec

ORDERS = UpstreamSpec(
    id=7, name="orders", protocol="http", balancing="round-robin", connect_timeout_s=1, first_byte_timeout_s=1,
    idle_timeout_s=1, total_timeout_s=0, retries=1, max_connections=10,
    targets=(TargetSpec(1, "127.0.0.1", 9000, 1),),
)  # fmt: skip
ANN = Consumer(id=5, username="ann")


def route(id_: int = 3, name: str = "orders") -> RouteSpec:
    return RouteSpec(
        id=id_, name=name, hosts=(), paths=("/orders/*",), methods=frozenset(), headers=(), query=(), upstreams=()
    )


ORDERS_ROUTE = route()


def finished(
    *, duration_ms: float = 12.0, upstream_ms: float | None = 10.0, at_s: float | None = None, key_id: int | None = 11,
    route: RouteSpec | None = ORDERS_ROUTE, **attributes: Any,
) -> Exchange:  # fmt: skip
    """One that took `duration_ms`; its upstream was asked half a millisecond after the start and took `upstream_ms`."""
    exchange = Exchange(
        method="GET", raw_path=b"/orders/1", query=b"apikey=secret", headers=[], scheme="http", peer_ip="192.0.2.1",
        port=80, started_s=100.0, wall_s=time() if at_s is None else at_s,
    )  # fmt: skip
    exchange.id = uuid4().hex
    exchange.host, exchange.path, exchange.route = "api.example.com", "/orders/1", route
    exchange.status, exchange.outcome, exchange.tries = 200, "ok", 1
    exchange.finished_s = 100.0 + duration_ms / 1000
    if upstream_ms is not None:
        exchange.upstream, exchange.target = ORDERS, "127.0.0.1:9000"
        exchange.sent_s = 100.0005
        exchange.upstream_head_s = exchange.sent_s + upstream_ms / 1000
    if key_id is not None:
        exchange.consumer, exchange.credential = ANN, Credential("key", key_id, "hg_live_abc", ANN)
    for name, value in attributes.items():
        setattr(exchange, name, value)
    return exchange


def ids(exchanges: Sequence[Exchange]) -> set[str]:
    return {exchange.id for exchange in exchanges}
