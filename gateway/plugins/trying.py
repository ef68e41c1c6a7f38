"""For tests of plugins: one of them by itself, and requests for it, without a gateway around.

    stamp = plugin(Path("stamp.py"), text="hello")
    exchange = request("GET", "/users/7", headers={"X-Who": "anna"})
    await access(stamp, exchange)

The Exchange is the real one. What a plugin would ask of the runtime (limits, credentials, calls) is not there.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.plugins.base import Plugin, Resources
from gateway.plugins.registry import Registry, module_of, plugins_in
from gateway.proxy.exchange import Answer, Consumer, Exchange
from gateway.proxy.snapshot import RouteSpec


def plugin(file: Path, *, wall_s: float | None = None, **config: Any) -> Plugin:
    """The one plugin of a file, with this config. `wall_s` stands for the clock (seconds since the epoch).

    Raises ConfigProblems for a config that would be refused, and whatever the file raises.
    """
    [kind] = plugins_in(module_of(file))
    nothing: Any = None
    wall = time.time if wall_s is None else lambda: wall_s
    resources = Resources(limiter=nothing, credentials=nothing, caller=nothing, clock=time.monotonic, wall=wall)
    return kind(Registry([kind]).validate(kind.name, config), resources)


def request(
    method: str = "GET",
    path: str = "/",
    headers: Mapping[str, str] | None = None,
    *,
    client_ip: str = "192.0.2.7",
    consumer: Consumer | None = None,
) -> Exchange:
    """As the pipeline hands it to access hooks."""
    path, _, query = path.partition("?")
    pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    exchange = Exchange(
        method=method, raw_path=path.encode(), query=query.encode(), headers=pairs, scheme="http", peer_ip=client_ip,
        port=80, started_s=time.perf_counter(), wall_s=time.time(),
    )  # fmt: skip
    exchange.id, exchange.path, exchange.host, exchange.consumer = "a-request", path, "api.test", consumer
    exchange.route = RouteSpec(1, "a-route", (), (), frozenset(), (), (), ())
    return exchange


async def access(one: Plugin, exchange: Exchange) -> Answer | None:
    """Its access hook, sync or async. Raises Reject where it refuses the request."""
    result = one.access(exchange)
    return result if result is None or isinstance(result, Answer) else await result


async def response(
    one: Plugin, exchange: Exchange, status: int = 200, headers: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The fields of an answer after its response hook."""
    exchange.status = status
    exchange.response_headers = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    waiting = one.response(exchange)
    if waiting is not None:
        await waiting
    return {name.decode(): value.decode("latin-1") for name, value in exchange.response_headers}
